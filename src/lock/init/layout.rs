//! How a project is laid out: its Python, its packages, its tests, and whether it is built.

use super::ProjectFiles;
use super::declared::Declared;
use pep440_rs::{Version, VersionSpecifiers};
use serde_json::Value;
use std::collections::BTreeSet;
use std::str::FromStr;

/// The Python where a project names none and this machine has none that fits.
const FALLBACK_PYTHON: &str = "3.11";

/// The Python of the lock: what `.python-version` says, else the newest of this machine that the project accepts, else
/// the oldest that it accepts.
pub(super) fn python(files: &ProjectFiles, declared: &Declared, pythons: &[String], notes: &mut Vec<String>) -> String {
    let short = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
    let pinned =
        files.text(".python-version").and_then(|text| text.lines().map(str::trim).find(|line| !line.is_empty()));
    if let Some(version) =
        pinned.filter(|text| Version::from_str(text).is_ok_and(|version| matches!(version.release(), [3, _, ..])))
    {
        let version = version.split('.').take(3).collect::<Vec<_>>().join(".");
        notes.push(format!("Python {version} from .python-version"));
        return version;
    }
    let required = declared.requires_python.as_deref().and_then(|range| VersionSpecifiers::from_str(range).ok());
    let mut classifiers: Vec<String> = declared
        .table("project.classifiers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str()?.strip_prefix("Programming Language :: Python :: 3."))
        .map(|minor| format!("3.{minor}"))
        .collect();
    if classifiers.is_empty() {
        // Not said there: then what tox runs the tests with.
        classifiers = pythons_of_tox(declared);
    }
    let accepted = |version: &Version| {
        let minor = format!("3.{}", version.release().get(1).copied().unwrap_or_default());
        required.as_ref().is_none_or(|range| range.contains(version))
            && (classifiers.is_empty() || classifiers.contains(&minor))
    };
    let mut here: Vec<Version> = pythons.iter().filter_map(|text| Version::from_str(text).ok()).collect();
    here.retain(|version| version.release().first() == Some(&3) && !version.any_prerelease() && accepted(version));
    if let Some(newest) = here.iter().max() {
        let version = short(&newest.to_string());
        let range = declared.requires_python.as_ref().map(|range| format!(" ({range})")).unwrap_or_default();
        notes.push(format!("Python {version}: the newest on this machine that the project accepts{range}"));
        return version;
    }
    let oldest = (6..20)
        .map(|minor| format!("3.{minor}"))
        .find(|text| Version::from_str(text).is_ok_and(|version| accepted(&version)));
    let version =
        oldest.filter(|_| required.is_some() || !classifiers.is_empty()).unwrap_or_else(|| FALLBACK_PYTHON.to_owned());
    notes.push(format!("Python {version}: no Python of this machine fits; `ft` says how to get it"));
    version
}

/// The Pythons of tox's list of environments: `py3{9,10}`, `py311`, `py3.12`, `3.13`.
fn pythons_of_tox(declared: &Declared) -> Vec<String> {
    let ini = declared.tox_ini.get("tox").and_then(|tox| tox.get("envlist").or_else(|| tox.get("env_list")));
    let table = declared.table("tool.tox.env_list").and_then(Value::as_array).into_iter().flatten();
    let mut found = Vec::new();
    let mut add = |digits: &str| {
        let digits = digits.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        found.extend(
            digits.parse::<u8>().ok().filter(|minor| (6..50).contains(minor)).map(|minor| format!("3.{minor}")),
        );
    };
    for text in ini.into_iter().flatten().map(String::as_str).chain(table.filter_map(Value::as_str)) {
        if let Some(minor) = text.strip_prefix("3.") {
            add(minor);
        }
        for (at, start) in text.match_indices("py3") {
            if text[..at].ends_with(|c: char| c.is_ascii_alphanumeric()) {
                continue;
            }
            let rest = text[at + start.len()..].trim_start_matches('.');
            match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                Some((list, _)) => list.split(',').for_each(|minor| add(minor.trim())),
                None => add(rest),
            }
        }
    }
    found
}

/// Whether a wheel can be built from the tree.
pub(super) fn is_built(declared: &Declared) -> bool {
    let virtual_project = declared.table("tool.uv.package") == Some(&Value::Bool(false))
        || declared.table("tool.poetry.package-mode") == Some(&Value::Bool(false));
    !declared.build.is_empty() && !virtual_project
}

/// What the built wheel should make importable, found as the backends find it: what is configured, else `src/`, else the
/// package or module at the root, one of the project's name first.
pub(super) fn import_names(files: &ProjectFiles, declared: &Declared) -> Vec<String> {
    let configured = configured_names(declared);
    if !configured.is_empty() {
        return configured;
    }
    let project = declared.name.as_deref().map(|name| name.replace(['-', '.'], "_").to_ascii_lowercase());
    for root in ["src/", ""] {
        let mut found: BTreeSet<&str> = BTreeSet::new();
        for path in files.tracked.iter().filter_map(|path| path.strip_prefix(root)) {
            let name = match path.split_once('/') {
                Some((name, "__init__.py")) => name,
                None if path.ends_with(".py") => path.trim_end_matches(".py"),
                _ => continue,
            };
            let is_other = !root.is_empty() || !NO_PACKAGES.contains(&name) && !name.starts_with("test");
            let is_module = !path.contains('/');
            let own = project.as_deref() == Some(name.to_ascii_lowercase().as_str());
            if is_name(name) && is_other && (!is_module || own || !root.is_empty()) {
                found.insert(name);
            }
        }
        let own = found.iter().find(|name| project.as_deref() == Some(name.to_ascii_lowercase().as_str()));
        match own {
            Some(own) if root.is_empty() => return vec![(*own).to_owned()],
            _ if !found.is_empty() => return found.into_iter().map(str::to_owned).collect(),
            _ => {}
        }
    }
    Vec::new()
}

/// Folders at the root that hold Python and are no part of a wheel.
const NO_PACKAGES: [&str; 13] = [
    "benchmarks",
    "build",
    "ci",
    "conftest",
    "doc",
    "docs",
    "examples",
    "noxfile",
    "scripts",
    "setup",
    "tasks",
    "tools",
    "utils",
];

fn configured_names(declared: &Declared) -> Vec<String> {
    let strings = |path: &str| -> Vec<String> {
        let list = declared.table(path).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let top = |names: Vec<String>| -> Vec<String> {
        let mut seen = BTreeSet::new();
        let first = names.into_iter().map(|name| name.split(['.', '/']).next().unwrap_or_default().to_owned());
        first.filter(|name| is_name(name) && seen.insert(name.clone())).collect()
    };
    if let Some(name) = declared.table("tool.flit.module.name").and_then(Value::as_str) {
        return vec![name.to_owned()];
    }
    let hatch = strings("tool.hatch.build.targets.wheel.packages");
    if !hatch.is_empty() {
        return top(hatch.iter().map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()).collect());
    }
    let mut setuptools = strings("tool.setuptools.packages");
    setuptools.extend(strings("tool.setuptools.py-modules"));
    if let Some(options) = declared.setup_cfg.get("options") {
        for key in ["packages", "py_modules"] {
            let lines = options.get(key).into_iter().flatten().filter(|line| !line.contains("find"));
            setuptools.extend(lines.cloned());
        }
    }
    top(setuptools)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c == '_' || c.is_alphanumeric())
}

/// Where the code of these packages stands.
pub(super) fn code_paths(files: &ProjectFiles, imports: &[String]) -> Vec<String> {
    let place = |name: &String| {
        let candidates = [format!("src/{name}"), name.clone(), format!("src/{name}.py"), format!("{name}.py")];
        candidates.into_iter().find(|path| {
            files.tracked.iter().any(|tracked| tracked == path || tracked.starts_with(&format!("{path}/")))
        })
    };
    imports.iter().filter_map(place).collect()
}

/// Folders of tests: the first path component above a test file.
pub(super) fn test_paths(files: &ProjectFiles) -> Vec<String> {
    let is_test = |path: &&String| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.ends_with(".py") && (name.starts_with("test_") || name.ends_with("_test.py"))
    };
    let mut found = BTreeSet::new();
    for path in files.tracked.iter().filter(is_test) {
        let parts: Vec<&str> = path.split('/').collect();
        let upto = parts.iter().position(|part| part.starts_with("test")).map_or(1, |at| at + 1);
        found.insert(parts[..upto.min(parts.len())].join("/"));
    }
    found.into_iter().collect()
}
