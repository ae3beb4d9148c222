//! Whether `uv.lock` still answers `pyproject.toml`: what the project asks for now, held against what `uv.lock` says it
//! was resolved for (`package.metadata`). Needs no network and no uv.
//!
//! uv shortens markers by `requires-python`, so requirements are compared by what they ask for in concrete
//! environments and not by their text. Where in doubt (dynamic dependencies, an extra of the project's own, an origin
//! other than an index) nothing is said: `uv lock --check` knows the rest.

use super::closure::{MarkerEnv, env_of};
use super::init::declared::{group, normal};
use super::pep508;
use super::stale::toml_value;
use pep440_rs::{Operator, Version, VersionSpecifiers};
use pep508_rs::{ExtraName, MarkerTree, PackageName, Requirement, VersionOrUrl};
use serde_json::{Map, Value};
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use url::Url;

/// What to do about it.
pub const HINT: &str = "run `uv lock`, and commit uv.lock with pyproject.toml";

/// The sentence for what [`outdated`] found.
#[must_use]
pub fn older(what: &str) -> String {
    format!("uv.lock is older than pyproject.toml, which {what}")
}

/// One requirement, as either file has it.
#[derive(Debug, Clone)]
struct Asked {
    name: PackageName,
    extras: BTreeSet<ExtraName>,
    /// Operators and versions. Empty for what does not come from an index.
    specifiers: BTreeSet<(Operator, Version)>,
    marker: MarkerTree,
    /// From git, a URL or a folder.
    elsewhere: bool,
}

/// What is compared: the requirement without its marker.
type Plain<'a> = (&'a PackageName, &'a BTreeSet<ExtraName>, Option<&'a BTreeSet<(Operator, Version)>>);

/// What `pyproject.toml` asks for and `uv.lock` was not resolved for, or the other way round, in words; `None` where
/// nothing speaks against `uv.lock`, also where one of the two can't be read (others say that).
#[must_use]
pub fn outdated(uv_lock: &str, pyproject: &[u8]) -> Option<String> {
    let lock = toml_value("uv.lock", head_and_root(uv_lock).as_bytes()).ok()?;
    let project = toml_value("pyproject.toml", pyproject).ok()?;
    let own = name_of(project.pointer("/project/name")?.as_str()?)?;
    let root = root(&lock)?;
    if name_of(root.get("name")?.as_str()?)? != own {
        return None;
    }
    if let Some(what) = other_python(&lock, &project) {
        return Some(what);
    }
    let environments = LazyCell::new(|| environments(&project));
    let metadata = root.get("metadata");
    if metadata.is_none() && ["dependencies", "dev-dependencies"].iter().any(|key| root.get(*key).is_some()) {
        // Written by a uv that did not record it.
        return None;
    }
    let locked = |key: &str| metadata.and_then(|metadata| metadata.get(key));
    let elsewhere = named_elsewhere(&project);
    let (asked, certain) = project_requirements(&project, &own)?;
    if certain != Certain::Nothing {
        let resolved = entries(locked("requires-dist"))?;
        let mut extras: Vec<Option<ExtraName>> = vec![None];
        if certain == Certain::All {
            extras.extend(optional(&project).keys().map(|name| ExtraName::from_str(name).ok()));
        }
        for extra in extras {
            let active: Vec<ExtraName> = extra.into_iter().collect();
            let place = active.first().map(|extra| format!(" (extra {extra})")).unwrap_or_default();
            if let Some(what) = difference(&asked, &resolved, &environments, &active, &elsewhere) {
                return Some(format!("{what}{place}"));
            }
        }
    }
    let empty = Map::new();
    let resolved_groups = locked("requires-dev").and_then(Value::as_object).unwrap_or(&empty);
    for (name, asked) in groups(&project)? {
        let resolved = entries(resolved_groups.iter().find(|(group, _)| normal(group) == name).map(|(_, list)| list))?;
        if let Some(what) = difference(&asked, &resolved, &environments, &[], &elsewhere) {
            return Some(format!("{what} (group {name})"));
        }
    }
    None
}

fn name_of(text: &str) -> Option<PackageName> {
    PackageName::from_str(text).ok()
}

/// Of `uv.lock` its head and the project's own package: a warm check should not read thousands of others for it.
fn head_and_root(uv_lock: &str) -> String {
    const TABLE: &str = "[[package]]\n";
    let mut parts = uv_lock.split(TABLE);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts.filter(|part| part.lines().any(|line| line.starts_with("source = {") && line.contains("\".\""))) {
        kept.push_str(TABLE);
        kept.push_str(part);
    }
    kept
}

/// The package that stands at the root of the repository.
fn root(lock: &Value) -> Option<&Value> {
    let packages = lock.get("package")?.as_array()?;
    let at_root = |package: &&Value| {
        let source = package.get("source");
        ["editable", "virtual", "directory"]
            .iter()
            .any(|kind| source.and_then(|source| source.get(*kind)).and_then(Value::as_str) == Some("."))
    };
    packages.iter().find(at_root)
}

/// The range of Pythons. That of a workspace is made of all its members, and groups may narrow it: then nothing is said.
fn other_python(lock: &Value, project: &Value) -> Option<String> {
    let members = lock.pointer("/manifest/members").and_then(Value::as_array).map_or(0, Vec::len);
    if members > 1 || project.pointer("/tool/uv/dependency-groups").is_some() {
        return None;
    }
    let text = project.pointer("/project/requires-python")?.as_str()?;
    let asked = VersionSpecifiers::from_str(text).ok()?;
    let resolved = VersionSpecifiers::from_str(lock.get("requires-python")?.as_str()?).ok()?;
    let differs = versions().any(|version| asked.contains(&version) != resolved.contains(&version));
    differs.then(|| format!("asks for Python {text}"))
}

fn versions() -> impl Iterator<Item = Version> {
    (6..20).flat_map(|minor| [0, 1, 9, 99].map(|patch| Version::new([3, minor, patch])))
}

/// Every Python and system that the project may be meant for.
fn environments(project: &Value) -> Vec<MarkerEnv> {
    let accepted = project.pointer("/project/requires-python").and_then(Value::as_str);
    let accepted = accepted.and_then(|text| VersionSpecifiers::from_str(text).ok());
    let systems = [
        ("posix", "Linux", "linux", "x86_64"),
        ("posix", "Linux", "linux", "aarch64"),
        ("posix", "Darwin", "darwin", "arm64"),
        ("nt", "Windows", "win32", "AMD64"),
    ];
    let pythons = versions().filter(|version| accepted.as_ref().is_none_or(|range| range.contains(version)));
    pythons
        .flat_map(|python| {
            systems.map(|(os, system, platform, machine)| env_of(&python.to_string(), os, system, platform, machine))
        })
        .flatten()
        .collect()
}

fn optional(project: &Value) -> Map<String, Value> {
    project.pointer("/project/optional-dependencies").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// How much of the project's own requirements can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certain {
    All,
    /// Extras that stand for other extras of the project are written in more than one way.
    WithoutExtras,
    /// They are computed when the project is built.
    Nothing,
}

fn project_requirements(project: &Value, own: &PackageName) -> Option<(Vec<Asked>, Certain)> {
    let dynamic = project.pointer("/project/dynamic").and_then(Value::as_array).into_iter().flatten();
    let computed =
        dynamic.filter_map(Value::as_str).any(|name| matches!(name, "dependencies" | "optional-dependencies"));
    if computed {
        return Some((Vec::new(), Certain::Nothing));
    }
    let mut asked = texts(project.pointer("/project/dependencies"))?;
    let mut certain = Certain::All;
    for (extra, list) in optional(project) {
        let name = ExtraName::from_str(&extra).ok()?;
        for mut requirement in texts(Some(&list))? {
            if requirement.name == *own {
                certain = Certain::WithoutExtras;
            }
            requirement.marker.and(MarkerTree::from_str(&format!("extra == '{name}'")).ok()?);
            asked.push(requirement);
        }
    }
    Some((asked, certain))
}

/// The groups by normalised name, the groups that they include taken in.
fn groups(project: &Value) -> Option<BTreeMap<String, Vec<Asked>>> {
    let mut found = BTreeMap::new();
    let groups = project.get("dependency-groups").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in groups.keys() {
        found.insert(normal(name), read(&group(&groups, name, &mut BTreeSet::new()))?);
    }
    if let Some(old) = texts(project.pointer("/tool/uv/dev-dependencies")).filter(|list| !list.is_empty()) {
        found.entry("dev".to_owned()).or_default().extend(old);
    }
    Some(found)
}

/// The requirements of a list of texts; `None` where one can't be read. An absent list has none.
fn texts(list: Option<&Value>) -> Option<Vec<Asked>> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    read(&list.map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?)
}

fn read(texts: &[String]) -> Option<Vec<Asked>> {
    texts.iter().map(|text| pep508::requirement(text).ok().map(asked)).collect()
}

fn asked(requirement: Requirement<Url>) -> Asked {
    let (specifiers, elsewhere) = match &requirement.version_or_url {
        None => (BTreeSet::new(), false),
        Some(VersionOrUrl::VersionSpecifier(specifiers)) => (plain(specifiers), false),
        Some(VersionOrUrl::Url(_)) => (BTreeSet::new(), true),
    };
    let extras = requirement.extras.into_iter().collect();
    Asked { name: requirement.name, extras, specifiers, marker: requirement.marker, elsewhere }
}

fn plain(specifiers: &VersionSpecifiers) -> BTreeSet<(Operator, Version)> {
    specifiers.iter().map(|one| (*one.operator(), one.version().clone())).collect()
}

/// The requirements as `uv.lock` records them; `None` where one can't be read.
fn entries(list: Option<&Value>) -> Option<Vec<Asked>> {
    let entry = |entry: &Value| -> Option<Asked> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let extras = entry.get("extras").and_then(Value::as_array).into_iter().flatten();
        Some(Asked {
            name: name_of(text("name")?)?,
            extras: extras.map(|extra| ExtraName::from_str(extra.as_str()?).ok()).collect::<Option<_>>()?,
            specifiers: text("specifier")
                .map_or(Some(BTreeSet::new()), |text| Some(plain(&VersionSpecifiers::from_str(text).ok()?)))?,
            marker: text("marker").map_or(Some(MarkerTree::TRUE), |text| MarkerTree::from_str(text).ok())?,
            elsewhere: ["git", "url", "path", "directory", "editable", "virtual"]
                .iter()
                .any(|key| entry.get(*key).is_some()),
        })
    };
    list.and_then(Value::as_array).into_iter().flatten().map(entry).collect()
}

/// Distributions that `tool.uv.sources` takes from somewhere else than an index.
fn named_elsewhere(project: &Value) -> BTreeSet<PackageName> {
    let sources = project.pointer("/tool/uv/sources").and_then(Value::as_object).into_iter().flatten();
    sources.filter_map(|(name, _)| name_of(name)).collect()
}

/// The first requirement that only one side has in some environment.
fn difference<'a>(
    asked: &'a [Asked],
    resolved: &'a [Asked],
    environments: &LazyCell<Vec<MarkerEnv>, impl FnOnce() -> Vec<MarkerEnv>>,
    extras: &[ExtraName],
    elsewhere: &BTreeSet<PackageName>,
) -> Option<String> {
    let no_version: BTreeSet<&PackageName> =
        asked.iter().chain(resolved).filter(|one| one.elsewhere).map(|one| &one.name).chain(elsewhere).collect();
    let plain = |one: &'a Asked| -> Plain<'a> {
        (&one.name, &one.extras, (!no_version.contains(&one.name)).then_some(&one.specifiers))
    };
    // Most often both are written alike, and no environment has to be asked.
    let written = |list: &'a [Asked]| list.iter().map(|one| (plain(one), &one.marker)).collect::<BTreeSet<_>>();
    if written(asked) == written(resolved) {
        return None;
    }
    let active = |list: &'a [Asked], environment: &MarkerEnv| -> BTreeSet<Plain<'a>> {
        list.iter().filter(|one| one.marker.evaluate(environment, extras)).map(plain).collect()
    };
    environments.iter().find_map(|environment| {
        let now = active(asked, environment);
        let then = active(resolved, environment);
        let new = now.difference(&then).next().map(|new| format!("asks for {}", shown(new)));
        new.or_else(|| then.difference(&now).next().map(|old| format!("no longer asks for {}", shown(old))))
    })
}

fn shown((name, extras, specifiers): &Plain<'_>) -> String {
    let extras: Vec<&str> = extras.iter().map(AsRef::as_ref).collect();
    let extras = if extras.is_empty() { String::new() } else { format!("[{}]", extras.join(",")) };
    let specifiers = specifiers.iter().copied().flatten();
    let specifiers: Vec<String> = specifiers
        .map(|(operator, version)| {
            let star = matches!(operator, Operator::EqualStar | Operator::NotEqualStar);
            format!("{operator}{version}{}", if star { ".*" } else { "" })
        })
        .collect();
    format!("{name}{extras}{}", specifiers.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROJECT: &str = r#"
[project]
name = "App"
requires-python = ">=3.9"
dependencies = ["Click >=8, <9", "tomli; python_version < '3.11'", "lib"]
[project.optional-dependencies]
fast = ["orjson==3.*"]
[dependency-groups]
dev = [{include-group = "test"}, "ruff"]
test = ["pytest~=8.3", "app[fast]"]
[tool.uv.sources]
lib = { git = "https://example.org/lib" }
"#;

    const LOCK: &str = r#"
version = 1
requires-python = ">=3.9"
[[package]]
name = "app"
version = "1"
source = { editable = "." }
[package.metadata]
requires-dist = [
    { name = "click", specifier = ">=8,<9" },
    { name = "lib", git = "https://example.org/lib" },
    { name = "orjson", marker = "extra == 'fast'", specifier = "==3.*" },
    { name = "tomli", marker = "python_full_version < '3.11'" },
]
provides-extras = ["fast"]
[package.metadata.requires-dev]
dev = [{ name = "app", extras = ["fast"] }, { name = "pytest", specifier = "~=8.3" }, { name = "ruff" }]
test = [{ name = "app", extras = ["fast"] }, { name = "pytest", specifier = "~=8.3" }]
"#;

    fn with(from: &str, to: &str) -> Option<String> {
        assert!(PROJECT.contains(from), "{from}");
        outdated(LOCK, PROJECT.replace(from, to).as_bytes())
    }

    #[test]
    fn a_lock_that_answers_the_project_is_fresh_however_the_project_is_written() {
        assert_eq!(outdated(LOCK, PROJECT.as_bytes()), None);
        assert_eq!(with("Click >=8, <9", "click<9.0,>=8.0"), None);
        assert_eq!(with("python_version < '3.11'", "python_version <= '3.10' and python_version > '3.0'"), None);
        assert_eq!(with("\"Click >=8, <9\", \"tomli", "\"CLICK<9,>=8\", \"Tomli"), None);
        assert_eq!(with("name = \"App\"", "name = \"App\"\nversion = \"2\"\ndescription = \"x\""), None);
    }

    #[test]
    fn a_requirement_that_changed_is_named() {
        assert_eq!(with("<9", "<10").as_deref(), Some("asks for click<10,>=8"));
        assert_eq!(with("\"lib\"", "\"lib\", \"rich\"").as_deref(), Some("asks for rich"));
        assert_eq!(with(", \"lib\"", "").as_deref(), Some("no longer asks for lib"));
        assert_eq!(with("'3.11'", "'3.12'").as_deref(), Some("asks for tomli"));
        assert_eq!(with("==3.*", "==3").as_deref(), Some("asks for orjson==3 (extra fast)"));
        assert_eq!(with("==3.*", "==4.*").as_deref(), Some("asks for orjson==4.* (extra fast)"));
        assert_eq!(with("~=8.3", "~=8.4").as_deref(), Some("asks for pytest~=8.4 (group dev)"));
        assert_eq!(with("app[fast]", "app").as_deref(), Some("asks for app (group dev)"));
        assert_eq!(with(">=3.9", ">=3.10").as_deref(), Some("asks for Python >=3.10"));
        assert_eq!(
            with("[tool.uv.sources]", "docs = [\"sphinx\"]\n[tool.uv.sources]").as_deref(),
            Some("asks for sphinx (group docs)")
        );
    }

    #[test]
    fn where_in_doubt_nothing_is_said() {
        assert_eq!(with("name = \"App\"", "name = \"other\""), None);
        assert_eq!(with("dependencies = [\"Click", "dynamic = [\"dependencies\"]\nx = [\"Click"), None);
        assert_eq!(with("orjson==3.*\"", "orjson==4.*\"]\nall = [\"app[fast]\""), None, "extras of extras");
        assert_eq!(with("lib = { git", "pytest = { path = 'x' }\nlib = { git"), None);
        assert_eq!(outdated("version = 1", PROJECT.as_bytes()), None);
        assert_eq!(outdated(LOCK, b"[project"), None);
        let without = LOCK.split("[package.metadata]").next().unwrap();
        let old = format!("{without}dependencies = [{{ name = 'click' }}]\n");
        assert_eq!(outdated(&old, PROJECT.as_bytes()), None, "a uv that recorded no metadata");
    }

    #[test]
    fn a_real_lock_of_a_workspace_is_fresh() {
        let project = "[project]\nname='app'\nrequires-python='>=3.8'\ndependencies=['click','colorama; sys_platform==\"win32\"','core','requests[socks]']\n[project.optional-dependencies]\nold=['idna==3.4']\nnew=['idna==3.7']\nempty=[]\n[dependency-groups]\ndev=['app[new]','pytest','typing-extensions']\ntypes=['typing-extensions']\nnone=[]\n[tool.uv.sources]\ncore={workspace=true}";
        let lock = include_str!("fixtures/workspace.uv.lock");
        assert_eq!(outdated(lock, project.as_bytes()), None);
        assert_eq!(
            outdated(lock, project.replace("==3.7", "==3.8").as_bytes()).as_deref(),
            Some("asks for idna==3.8 (extra new)")
        );
    }

    proptest! {
        #[test]
        fn no_texts_make_the_comparison_panic(lock in "\\PC{0,60}", at in 0..LOCK.len(), cut in 0..PROJECT.len(), text in "[a-z\\[\\]{}=:.,'\"\n -]{0,10}") {
            let _ = outdated(&lock, PROJECT.as_bytes());
            let _ = outdated(&format!("{}{text}{}", &LOCK[..at], &LOCK[at..]), PROJECT.as_bytes());
            let _ = outdated(LOCK, format!("{}{text}{}", &PROJECT[..cut], &PROJECT[cut..]).as_bytes());
        }
    }
}
