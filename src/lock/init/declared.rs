//! What a project says it depends on: pyproject.toml, setup.cfg, setup.py, requirements files, tox.ini, and the hooks of
//! `.pre-commit-config.yaml`. Reads text; runs nothing, so that of setup.py only plain lists are seen.

use super::ProjectFiles;
use crate::lock::ini::{self, Section};
use crate::lock::pep508;
use crate::lock::stale::{HashError, toml_value};
use indexmap::IndexMap;
use pep508_rs::PackageName;
use serde_json::Value;
use std::collections::BTreeSet;
use std::str::FromStr;

/// Everything that is declared, as requirement texts.
#[derive(Debug, Clone, Default)]
pub(super) struct Declared {
    pub(super) name: Option<String>,
    pub(super) requires_python: Option<String>,
    pub(super) project: Vec<String>,
    /// Normalised names.
    pub(super) extras: IndexMap<String, Vec<String>>,
    /// Normalised names, included groups expanded.
    pub(super) groups: IndexMap<String, Vec<String>>,
    pub(super) build: Vec<String>,
    /// Requirements files by path.
    pub(super) files: IndexMap<String, Vec<String>>,
    /// The files that a requirements file, or tox.ini, reads with it.
    pub(super) includes: IndexMap<String, BTreeSet<String>>,
    pub(super) tox: Vec<String>,
    pub(super) tox_extras: Vec<String>,
    pub(super) tox_groups: Vec<String>,
    pub(super) hooks: Vec<Hook>,
    pub(super) pyproject: Value,
    pub(super) setup_cfg: std::collections::BTreeMap<String, Section>,
    pub(super) tox_ini: std::collections::BTreeMap<String, Section>,
    /// What could not be read, in words.
    pub(super) warnings: Vec<String>,
}

/// A hook of `.pre-commit-config.yaml`.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    pub(super) id: String,
    /// The tag without its `v`, where it is a version.
    pub(super) version: Option<String>,
    pub(super) dependencies: Vec<String>,
}

impl Declared {
    /// Reads every file of a project that may declare something.
    pub(super) fn read(files: &ProjectFiles) -> Result<Declared, HashError> {
        let mut declared = Declared::default();
        if let Some(text) = files.text("pyproject.toml") {
            declared.pyproject = toml_value("pyproject.toml", text.as_bytes())?;
            declared.read_pyproject();
        }
        if let Some(text) = files.text("setup.cfg") {
            declared.setup_cfg = ini::sections(text);
            declared.read_setup_cfg();
        }
        if let Some(text) = files.text("setup.py") {
            declared.read_setup_py(text);
        }
        if let Some(text) = files.text("tox.ini") {
            declared.tox_ini = ini::sections(text);
        }
        for path in files.requirements_files() {
            let (mut lines, mut seen) = (Vec::new(), BTreeSet::new());
            declared.read_requirements(files, &path, &mut lines, &mut seen);
            seen.remove(&path);
            declared.includes.insert(path.clone(), seen);
            declared.files.insert(path, lines);
        }
        declared.read_tox(files);
        if let Some(text) = files.text(".pre-commit-config.yaml") {
            declared.read_hooks(text);
        }
        Ok(declared)
    }

    /// Whether any of these requirements is the distribution.
    pub(super) fn holds(requirements: &[String], package: &str) -> bool {
        let wanted = PackageName::from_str(package).ok();
        requirements.iter().any(|text| name_of(text) == wanted)
    }

    /// Whether the distribution is declared anywhere.
    pub(super) fn declares(&self, package: &str) -> bool {
        let lists = [&self.project, &self.tox].into_iter();
        let lists = lists.chain(self.extras.values()).chain(self.groups.values()).chain(self.files.values());
        lists.into_iter().any(|list| Declared::holds(list, package))
    }

    pub(super) fn table(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.pyproject, |value, part| value.get(part))
    }

    fn read_pyproject(&mut self) {
        let strings = |value: Option<&Value>| texts(value);
        self.name =
            self.table("project.name").or(self.table("tool.poetry.name")).and_then(Value::as_str).map(str::to_owned);
        self.requires_python = self.table("project.requires-python").and_then(Value::as_str).map(str::to_owned);
        self.project = strings(self.table("project.dependencies"));
        if let Some(Value::Object(extras)) = self.table("project.optional-dependencies") {
            self.extras = extras.iter().map(|(name, list)| (normal(name), texts(Some(list)))).collect();
        }
        if let Some(Value::Object(groups)) = self.table("dependency-groups") {
            self.groups = groups.keys().map(|name| (normal(name), group(groups, name, &mut BTreeSet::new()))).collect();
        }
        let uv_dev = strings(self.table("tool.uv.dev-dependencies"));
        if !uv_dev.is_empty() {
            self.groups.entry("dev".to_owned()).or_default().extend(uv_dev);
        }
        self.read_poetry();
        let backend =
            self.table("build-system.build-backend").and_then(Value::as_str).unwrap_or("setuptools").to_owned();
        self.build = strings(self.table("build-system.requires"));
        // What these backends ask for on top when they build (PEP 517, 660): it must be locked too.
        if backend.starts_with("hatchling") {
            self.build.push("editables".to_owned());
        } else if backend.starts_with("setuptools") && !self.build.is_empty() {
            self.build.push("wheel".to_owned());
        }
    }

    fn read_poetry(&mut self) {
        let requirements = |table: Option<&Value>| -> Vec<String> {
            let table = table.and_then(Value::as_object).into_iter().flatten();
            table.filter(|(name, _)| *name != "python").filter_map(|(name, wanted)| poetry(name, wanted)).collect()
        };
        if self.requires_python.is_none() {
            let python = self.table("tool.poetry.dependencies.python").and_then(Value::as_str);
            self.requires_python = python.map(poetry_range);
        }
        self.project.extend(requirements(self.table("tool.poetry.dependencies")));
        let mut found = vec![("dev".to_owned(), requirements(self.table("tool.poetry.dev-dependencies")))];
        for (name, group) in self.table("tool.poetry.group").and_then(Value::as_object).into_iter().flatten() {
            found.push((normal(name), requirements(group.get("dependencies"))));
        }
        for (name, list) in found.into_iter().filter(|(_, list)| !list.is_empty()) {
            self.groups.entry(name).or_default().extend(list);
        }
    }

    fn read_setup_cfg(&mut self) {
        let one = |section: &str, key: &str| self.setup_cfg.get(section)?.get(key)?.first().cloned();
        self.name = self.name.take().or_else(|| one("metadata", "name"));
        self.requires_python = self.requires_python.take().or_else(|| one("options", "python_requires"));
        if let Some(lines) = self.setup_cfg.get("options").and_then(|options| options.get("install_requires")) {
            self.project.extend(lines.iter().flat_map(|line| split_requirements(line)));
        }
        for (name, lines) in self.setup_cfg.get("options.extras_require").into_iter().flatten() {
            let list = lines.iter().flat_map(|line| split_requirements(line)).collect();
            self.extras.insert(normal(name), list);
        }
        self.setuptools_by_default();
    }

    fn read_setup_py(&mut self, text: &str) {
        self.setuptools_by_default();
        if !self.project.is_empty() {
            return;
        }
        if let Some((_, rest)) = text.split_once("install_requires") {
            let list = rest.trim_start().strip_prefix('=').map(str::trim_start).and_then(|rest| rest.strip_prefix('['));
            match list.and_then(|list| list.split_once(']')) {
                Some((list, _)) => self.project = quoted(list),
                None => self
                    .warnings
                    .push("setup.py: `install_requires` is no plain list; its dependencies are not seen".into()),
            }
        }
    }

    /// PEP 518: without a `build-system` table the backend is setuptools.
    fn setuptools_by_default(&mut self) {
        if self.build.is_empty() && self.table("build-system").is_none() {
            self.build = vec!["setuptools".to_owned(), "wheel".to_owned()];
        }
    }

    fn read_requirements(
        &mut self,
        files: &ProjectFiles,
        path: &str,
        to: &mut Vec<String>,
        seen: &mut BTreeSet<String>,
    ) {
        let Some(text) = files.text(path).filter(|_| seen.insert(path.to_owned())) else { return };
        for line in text.replace("\\\n", " ").lines() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let included = line.strip_prefix("-r").or_else(|| line.strip_prefix("--requirement"));
            if let Some(included) = included {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let included = included.trim_start_matches(['=', ' ']);
                let joined = if folder.is_empty() { included.to_owned() } else { format!("{folder}/{included}") };
                self.read_requirements(files, &joined, to, seen);
            } else if let Some(extras) = line.trim_start_matches("-e").trim_start().strip_prefix(".[") {
                // The project itself with extras.
                to.extend(self.name.as_ref().map(|name| format!("{name}[{extras}")));
            } else if !line.starts_with('-') && !line.starts_with('.') {
                let requirement = line.split(" --").next().unwrap_or_default().trim();
                match pep508::requirement(requirement) {
                    Ok(_) => to.push(requirement.to_owned()),
                    Err(reason) => {
                        let warning = format!("{path}: {requirement}: {reason}; it is left out");
                        if !self.warnings.contains(&warning) {
                            self.warnings.push(warning);
                        }
                    }
                }
            }
        }
    }

    /// The default environment of tox: what it installs is what the tests need.
    fn read_tox(&mut self, files: &ProjectFiles) {
        let lines =
            |key: &str| self.tox_ini.get("testenv").and_then(|testenv| testenv.get(key)).cloned().unwrap_or_default();
        let words =
            |key: &str| lines(key).iter().flat_map(|line| line.split(',').map(normal).collect::<Vec<_>>()).collect();
        self.tox_extras = words("extras");
        self.tox_groups = words("dependency_groups");
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for line in lines("deps") {
            let line = line.replace("{toxinidir}/", "");
            // `min: name` holds for the environments of that factor only; `py` is the factor of all plain Pythons.
            let line = match line.split_once(": ") {
                Some(("py", rest)) => rest.trim(),
                Some(_) => continue,
                None => line.trim(),
            };
            if let Some(path) = line.strip_prefix("-r") {
                self.read_requirements(files, path.trim_start_matches(['=', ' ']), &mut found, &mut seen);
            } else if pep508::requirement(line).is_ok() {
                found.push(line.to_owned());
            }
        }
        self.includes.insert("tox.ini".to_owned(), seen);
        self.tox = found;
    }

    fn read_hooks(&mut self, text: &str) {
        let document: Value = match serde_yaml_ng::from_str(text) {
            Ok(document) => document,
            Err(error) => {
                return self.warnings.push(format!(".pre-commit-config.yaml: {error}; its hooks are not seen"));
            }
        };
        for repo in document.get("repos").and_then(Value::as_array).into_iter().flatten() {
            let from = repo.get("repo").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
            let version = repo.get("rev").and_then(Value::as_str).map(|rev| rev.trim_start_matches('v'));
            let version = version.filter(|rev| pep440_rs::Version::from_str(rev).is_ok());
            for hook in repo.get("hooks").and_then(Value::as_array).into_iter().flatten() {
                let id = hook.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
                // A repository of many hooks has a version of its own; one that mirrors a tool has the tool's.
                let mirrors = id.split('-').next().is_some_and(|tool| from.contains(tool));
                self.hooks.push(Hook {
                    id,
                    version: version.filter(|_| mirrors).map(str::to_owned),
                    dependencies: texts(hook.get("additional_dependencies")),
                });
            }
        }
    }
}

/// The normalised name of what a requirement asks for.
pub(super) fn name_of(requirement: &str) -> Option<PackageName> {
    pep508::requirement(requirement).ok().map(|requirement| requirement.name)
}

/// A name of a group or extra as PEP 685 and 735 compare them.
pub(in crate::lock) fn normal(name: &str) -> String {
    PackageName::from_str(name.trim()).map_or_else(|_| name.trim().to_owned(), |name| name.to_string())
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A group as a flat list, the groups that it includes taken in. `open` holds the names on the way.
pub(in crate::lock) fn group(
    groups: &serde_json::Map<String, Value>,
    name: &str,
    open: &mut BTreeSet<String>,
) -> Vec<String> {
    if !open.insert(normal(name)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let list = groups.iter().find(|(other, _)| normal(other) == normal(name)).and_then(|(_, list)| list.as_array());
    for entry in list.into_iter().flatten() {
        match (entry.as_str(), entry.get("include-group").and_then(Value::as_str)) {
            (Some(requirement), _) => found.push(requirement.to_owned()),
            (None, Some(included)) => found.extend(group(groups, included, open)),
            (None, None) => {}
        }
    }
    found
}

/// A dependency of Poetry's own table as PEP 508.
fn poetry(name: &str, wanted: &Value) -> Option<String> {
    let (version, extras, marker) = match wanted {
        Value::String(version) => (version.as_str(), Vec::new(), None),
        Value::Object(table) => {
            if table.get("optional") == Some(&Value::Bool(true)) {
                return None;
            }
            let marker = table.get("markers").and_then(Value::as_str);
            (table.get("version").and_then(Value::as_str)?, texts(table.get("extras")), marker)
        }
        _ => return None,
    };
    let extras = if extras.is_empty() { String::new() } else { format!("[{}]", extras.join(",")) };
    let marker = marker.map(|marker| format!(" ; {marker}")).unwrap_or_default();
    Some(format!("{name}{extras}{}{marker}", poetry_range(version)))
}

/// `^1.2`, `~1.2` and a bare version of Poetry as PEP 440.
fn poetry_range(range: &str) -> String {
    let of = |part: &str| -> String {
        let part = part.trim();
        let next = |version: &str, at: usize| {
            let mut numbers: Vec<u64> = version.split('.').map_while(|number| number.parse().ok()).collect();
            numbers.truncate(at + 1);
            if let Some(last) = numbers.last_mut() {
                *last += 1;
            }
            numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
        };
        if let Some(version) = part.strip_prefix('^') {
            let numbers: Vec<&str> = version.split('.').collect();
            let first = numbers.iter().position(|number| *number != "0").unwrap_or(numbers.len() - 1);
            format!(">={version},<{}", next(version, first))
        } else if let Some(version) = part.strip_prefix('~').filter(|version| !version.starts_with('=')) {
            format!(">={version},<{}", next(version, 1.min(version.matches('.').count())))
        } else if part == "*" {
            String::new()
        } else if part.starts_with(|c: char| c.is_ascii_digit()) {
            format!("=={part}")
        } else {
            part.to_owned()
        }
    };
    range.split(',').map(of).collect::<Vec<_>>().join(",")
}

fn split_requirements(line: &str) -> Vec<String> {
    // setup.cfg separates by lines, or by `;` in one line; a marker's `;` has a space before it or a name after it.
    if pep508::requirement(line).is_ok() {
        return vec![line.to_owned()];
    }
    line.split(';').map(str::trim).filter(|text| pep508::requirement(text).is_ok()).map(str::to_owned).collect()
}

fn quoted(list: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = list;
    while let Some(start) = rest.find(['"', '\'']) {
        let quote = &rest[start..=start];
        let Some((text, after)) = rest[start + 1..].split_once(quote) else { break };
        if pep508::requirement(text).is_ok() {
            found.push(text.to_owned());
        }
        rest = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_poetry_become_pep_440() {
        for (poetry, pep440) in [
            ("^1.2.3", ">=1.2.3,<2"),
            ("^0.2.3", ">=0.2.3,<0.3"),
            ("^0.0.3", ">=0.0.3,<0.0.4"),
            ("^3.8", ">=3.8,<4"),
            ("~1.2", ">=1.2,<1.3"),
            ("~1", ">=1,<2"),
            ("~=1.2", "~=1.2"),
            ("1.2", "==1.2"),
            ("*", ""),
            (">=1,<2", ">=1,<2"),
        ] {
            assert_eq!(poetry_range(poetry), pep440, "{poetry}");
        }
    }

    #[test]
    fn a_plain_list_of_setup_py_is_seen() {
        assert_eq!(quoted("\n  \"a>=1; python_version<'3.9'\",\n 'b', # c\n"), ["a>=1; python_version<'3.9'", "b"]);
    }

    #[test]
    fn groups_that_include_each_other_end() {
        let groups =
            serde_json::json!({"Dev_A": ["x", {"include-group": "b"}], "b": ["y", {"include-group": "dev-a"}]});
        assert_eq!(group(groups.as_object().unwrap(), "dev-a", &mut BTreeSet::new()), ["x", "y"]);
    }
}
