//! What `ft init` finds out about a project, and the lock that it writes from that. Pure: the caller reads the files and
//! writes the result; nothing is asked, run or resolved.

pub(in crate::lock) mod declared;
mod layout;
mod tools;
mod workflow;

pub use workflow::{Uncovered, uncovered};

use super::closure::{Closure, ClosureError};
use super::collection::MANIFEST_PATH;
use super::edit;
use super::raw::{RawCollection, RawEnvironment, RawLock, RawNetwork, RawRunner, RawThresholds};
use super::stale::HashError;
use super::{Environment, Lock, OnAdded, Project};
use declared::{Declared, name_of};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where `ft lock` writes the closure of a project without `uv.lock`, and what `uv.lock` does not hold.
pub const REQUIREMENTS_PATH: &str = "ci/parity.requirements.txt";

/// A project as `ft init` sees it.
#[derive(Debug, Clone, Default)]
pub struct ProjectFiles {
    /// Every path that git tracks, relative to the repository.
    pub tracked: Vec<String>,
    /// The text of those that [`ProjectFiles::wanted`] names.
    pub texts: BTreeMap<String, String>,
}

impl ProjectFiles {
    /// Which of the tracked files the caller should read: small texts at the root, requirements files, workflows.
    #[must_use]
    pub fn wanted(tracked: &[String]) -> Vec<String> {
        const ROOT: [&str; 19] = [
            ".bandit",
            ".coveragerc",
            ".flake8",
            ".isort.cfg",
            ".mypy.ini",
            ".pre-commit-config.yaml",
            ".pylintrc",
            ".python-version",
            ".pytest.ini",
            ".ruff.toml",
            "mypy.ini",
            "pylintrc",
            "pyproject.toml",
            "pytest.ini",
            "ruff.toml",
            "setup.cfg",
            "setup.py",
            "tox.ini",
            "uv.lock",
        ];
        let wanted = |path: &&String| {
            ROOT.contains(&path.as_str())
                || is_requirements(path)
                || (path.starts_with(".github/workflows/") && (path.ends_with(".yml") || path.ends_with(".yaml")))
        };
        tracked.iter().filter(wanted).cloned().collect()
    }

    /// The text of a file.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    fn requirements_files(&self) -> Vec<String> {
        self.texts.keys().filter(|path| is_requirements(path)).cloned().collect()
    }
}

fn is_requirements(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let by_name = folder.is_empty() && name.contains("requirements");
    path != REQUIREMENTS_PATH
        && (name.ends_with(".txt") || name.ends_with(".in"))
        && (by_name || folder == "requirements")
}

/// A lock, and why it is as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Init {
    /// The text of a version 2 lock.
    pub lock: String,
    /// One sentence for each choice: `pytest 8.4.2 from uv.lock`.
    pub notes: Vec<String>,
    /// What could not be read, in words.
    pub warnings: Vec<String>,
    /// What CI runs and the lock does not.
    pub uncovered: Vec<Uncovered>,
}

/// Why a project can't be looked into.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InitError {
    /// A configuration file that can't be read.
    #[error(transparent)]
    File(#[from] HashError),
    /// `uv.lock` can't be read.
    #[error(transparent)]
    Closure(#[from] ClosureError),
}

/// Looks into a project and decides what its lock says. `pythons` are the full versions of the interpreters of this
/// machine, `version` is that of this `ft`.
///
/// # Errors
/// Where a file that decides something can't be read.
pub fn init(files: &ProjectFiles, pythons: &[String], version: &str) -> Result<Init, InitError> {
    let declared = Declared::read(files)?;
    let mut notes = Vec::new();
    let mut warnings = declared.warnings.clone();

    let python = layout::python(files, &declared, pythons, &mut notes);
    let imports = layout::import_names(files, &declared);
    let found = tools::find(files, &declared, &imports, &mut notes);
    let build = layout::is_built(&declared) && declared.name.is_some();
    if build {
        notes.push(format!("build and import gates: a wheel is built with {}", declared.build.join(", ")));
    }

    let packages: Vec<&str> = found.steps.iter().map(|step| step.package.as_str()).collect();
    let environment = environment(files, &declared, &packages, build, &mut notes, &mut warnings);
    let closure = match closure_of(files, &environment) {
        Ok(closure) => closure,
        Err(error) => {
            warnings.push(format!("{error}; {}", error.hint()));
            None
        }
    };
    for step in &found.steps {
        let locked = closure.as_ref().and_then(|closure| closure.version_of(&step.package));
        notes.push(match (locked, &step.raw.version) {
            (Some(version), _) => format!("{}: {} {version} from uv.lock; {}", step.name, step.package, step.why),
            (None, Some(version)) => format!("{}: {} {version}; {}", step.name, step.package, step.why),
            (None, None) => format!("{}: {} as resolved by `ft lock`; {}", step.name, step.package, step.why),
        });
    }

    let has_tests = found.steps.iter().any(|step| step.package == "pytest");
    let in_closure = |package: &str| closure.as_ref().is_some_and(|closure| !closure.versions_of(package).is_empty());
    let raw = RawLock {
        version: Some(2),
        runner: Some(RawRunner { version: Some(runner_range(version)) }),
        python: Some(python),
        environment: Some(environment),
        build: Some(build),
        import_names: build.then_some(imports),
        plugins: (!found.plugins.is_empty()).then_some(found.plugins),
        thresholds: Some(RawThresholds {
            coverage_min: found.coverage_min,
            bandit_severity_max: found.bandit_severity_max,
            allow_flaky: Some(false),
            max_warnings: None,
        }),
        pytest_collection: has_tests.then(|| RawCollection {
            manifest: Some(MANIFEST_PATH.to_owned()),
            on_added: Some(OnAdded::Update),
            ..RawCollection::default()
        }),
        config_hashes: Some(found.configs.into_iter().map(|key| (key, super::PENDING.to_owned())).collect()),
        network_policy: Some(RawNetwork { forbid_network: Some(true), ..RawNetwork::default() }),
        tools: Some(
            found
                .steps
                .into_iter()
                .map(|mut step| {
                    // Where uv.lock holds the tool it decides, so that a bump touches no second file.
                    step.raw.version = step.raw.version.filter(|_| !in_closure(&step.package));
                    (step.name, step.raw)
                })
                .collect(),
        ),
        ..RawLock::default()
    };
    let lock = write(&raw);
    let uncovered = match Lock::parse(lock.as_bytes()) {
        Ok((lock, _)) => workflow::uncovered(files, &lock, &mut warnings),
        Err(error) => {
            warnings.push(format!("the lock needs a hand: {error}"));
            Vec::new()
        }
    };
    Ok(Init { lock, notes, warnings, uncovered })
}

/// The project's own distribution name, normalised as PEP 503 says; `None` where it has none or can't be read.
#[must_use]
pub fn project_name(files: &ProjectFiles) -> Option<String> {
    Declared::read(files).ok()?.name.as_deref().map(declared::normal)
}

/// A raw lock as text: fields that are absent are left out.
#[must_use]
pub fn write(raw: &RawLock) -> String {
    fn without_null(value: Value) -> Value {
        match value {
            Value::Object(members) => {
                let there = members.into_iter().filter(|(_, value)| !value.is_null());
                Value::Object(there.map(|(name, value)| (name, without_null(value))).collect())
            }
            Value::Array(values) => values.into_iter().map(without_null).collect(),
            plain => plain,
        }
    }
    edit::pretty(&without_null(serde_json::to_value(raw).expect("a raw lock has string keys and finite numbers")))
}

/// `0.3.1` -> `>=0.3.1,<0.4`; from 1.0 on the next major version ends the range.
fn runner_range(version: &str) -> String {
    let mut numbers = version.split(['.', '-', '+']).map_while(|number| number.parse::<u64>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(0), Some(minor)) => format!(">={version},<0.{}", minor + 1),
        (Some(major), _) => format!(">={version},<{}", major + 1),
        _ => format!("=={version}"),
    }
}

/// Where the closure comes from, and which groups, extras and files belong to it.
fn environment(
    files: &ProjectFiles,
    declared: &Declared,
    packages: &[&str],
    build: bool,
    notes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> RawEnvironment {
    const TESTS: [&str; 4] = ["test", "tests", "testing", "dev"];
    let holds_tool = |list: &[String]| packages.iter().any(|package| Declared::holds(list, package));
    let chosen = |lists: &indexmap::IndexMap<String, Vec<String>>, asked: &[String]| -> Vec<String> {
        let wanted = |(name, list): &(&String, &Vec<String>)| holds_tool(list) || asked.contains(name);
        lists.iter().filter(wanted).map(|(name, _)| name.clone()).collect()
    };
    let named = |lists: &indexmap::IndexMap<String, Vec<String>>| -> Vec<String> {
        lists.keys().filter(|name| TESTS.contains(&name.as_str())).cloned().collect()
    };
    let mut groups = chosen(&declared.groups, &declared.tox_groups);
    let mut extras = chosen(&declared.extras, &declared.tox_extras);
    if groups.is_empty() && extras.is_empty() {
        (groups, extras) = (named(&declared.groups), named(&declared.extras));
    }
    // An extra is for users; where a group of the same name exists, that one is for the tests.
    extras.retain(|extra| !groups.contains(extra));

    let uv_lock = files.texts.contains_key("uv.lock");
    let mut sources = Vec::new();
    for path in ["pyproject.toml", "setup.cfg", "setup.py"] {
        if files.texts.contains_key(path)
            && (!uv_lock || path == "pyproject.toml")
            && (path != "setup.cfg" || declared.setup_cfg.keys().any(|name| name.starts_with("options")))
        {
            sources.push(path.to_owned());
        }
    }
    if !uv_lock {
        let in_groups = |package: &str| {
            let lists = groups.iter().filter_map(|name| declared.groups.get(name));
            let mut lists = lists.chain(extras.iter().filter_map(|name| declared.extras.get(name)));
            Declared::holds(&declared.tox, package) || lists.any(|list| Declared::holds(list, package))
        };
        let mut chosen: BTreeSet<&str> = BTreeSet::new();
        for package in packages.iter().filter(|package| !in_groups(package)) {
            chosen.extend(requirements_file(declared, package));
        }
        if declared.project.is_empty() && declared.files.contains_key("requirements.txt") {
            chosen.insert("requirements.txt");
        }
        sources.extend(chosen.into_iter().map(str::to_owned));
        if !declared.tox.is_empty() {
            sources.push("tox.ini".to_owned());
        }
        let included: Vec<String> =
            sources.iter().filter_map(|path| declared.includes.get(path)).flatten().cloned().collect();
        for path in included {
            if !sources.contains(&path) {
                sources.push(path);
            }
        }
    }
    if declared.hooks.iter().any(|hook| hook.id == "mypy" && !hook.dependencies.is_empty())
        && packages.contains(&"mypy")
    {
        sources.push(".pre-commit-config.yaml".to_owned());
    }
    for (what, names) in [("dependency groups", &groups), ("extras", &extras)] {
        if !names.is_empty() {
            notes.push(format!("{what} in the environment: {}", names.join(", ")));
        }
    }
    let mut raw = RawEnvironment {
        from: Some(if uv_lock { "uv.lock".to_owned() } else { REQUIREMENTS_PATH.to_owned() }),
        groups: (!groups.is_empty()).then_some(groups),
        extras: (!extras.is_empty()).then_some(extras),
        extra: uv_lock.then(|| REQUIREMENTS_PATH.to_owned()),
        sources: Some(sources),
        sources_sha256: Some(super::PENDING.to_owned()),
        project: Some(if build { Project::Editable } else { Project::None }),
        sdists: None,
    };
    if uv_lock {
        match closure_of(files, &raw) {
            Ok(_) => notes.push("the closure is that of uv.lock".to_owned()),
            // A group that uv.lock does not know yet: the file is older than pyproject.toml.
            Err(error) => warnings.push(format!("{error}; run `uv lock`")),
        }
    } else {
        notes.push(format!("no uv.lock: `ft lock` resolves the closure into {REQUIREMENTS_PATH}"));
        raw.extra = None;
    }
    raw
}

/// The requirements file that is for a tool: of those that hold it one whose name speaks of it, else the shortest. What
/// `pip-compile` made of an `.in` file counts before that, and a name that ends with a Python's number does not count.
fn requirements_file<'d>(declared: &'d Declared, package: &str) -> Option<&'d str> {
    let words: &[&str] = match package {
        "pytest" => &["test"],
        "mypy" => &["typ", "mypy"],
        _ => &["lint", "style", "check"],
    };
    let holding = declared.files.iter().filter(|(path, list)| {
        let stem = path.rsplit_once('.').map_or(path.as_str(), |(stem, _)| stem);
        let compiled = path.ends_with(".in") && declared.files.contains_key(&format!("{stem}.txt"));
        let of_one_python = stem.ends_with(|c: char| c.is_ascii_digit());
        Declared::holds(list, package) && !compiled && !of_one_python
    });
    let best = holding.min_by_key(|(path, list)| (!words.iter().any(|word| path.contains(word)), list.len()));
    best.map(|(path, _)| path.as_str())
}

fn closure_of(files: &ProjectFiles, environment: &RawEnvironment) -> Result<Option<Closure>, ClosureError> {
    let from = environment.from.as_deref().unwrap_or_default();
    let Some(text) = files.text(from).filter(|_| from.ends_with("uv.lock")) else { return Ok(None) };
    let names = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    Closure::from_uv_lock(text, &names(&environment.groups), &names(&environment.extras), None).map(Some)
}

/// The requirements that `ft lock` resolves for a lock: what the project declares in the lock's sources, build
/// requirements, tools and plugins; without what `uv.lock` holds where that is the closure. Sorted, each once.
///
/// # Errors
/// Where a source can't be read.
pub fn requirements(lock: &Lock, environment: &Environment, files: &ProjectFiles) -> Result<Vec<String>, InitError> {
    let mut seen = files.clone();
    seen.texts.retain(|path, _| environment.sources.contains(path) || path == environment.from.as_str());
    // Files that a requirements file or tox.ini includes are read with it.
    seen.texts.extend(
        files.texts.iter().filter(|(path, _)| is_requirements(path)).map(|(path, text)| (path.clone(), text.clone())),
    );
    let declared = Declared::read(&seen)?;
    let is_source = |path: &str| environment.sources.iter().any(|source| source == path);
    let from_uv = environment.from.file_name() == Some("uv.lock");

    let mut wanted: Vec<String> = Vec::new();
    if !from_uv {
        wanted.extend(declared.project.iter().cloned());
        let named = |list: &indexmap::IndexMap<String, Vec<String>>, names: &[String]| -> Vec<String> {
            names.iter().filter_map(|name| list.get(&declared::normal(name))).flatten().cloned().collect()
        };
        wanted.extend(named(&declared.extras, &environment.extras));
        wanted.extend(named(&declared.groups, &environment.groups));
        wanted.extend(declared.files.iter().filter(|(path, _)| is_source(path)).flat_map(|(_, list)| list.clone()));
        wanted.extend(declared.tox.iter().cloned());
    }
    wanted.extend(declared.hooks.iter().filter(|hook| hook.id == "mypy").flat_map(|hook| hook.dependencies.clone()));
    if lock.build || environment.project == Project::Editable {
        wanted.extend(declared.build.iter().cloned());
    }
    for tool in lock.tools.values() {
        if let Some(package) = &tool.package {
            wanted
                .push(tool.version.as_ref().map_or_else(|| package.clone(), |version| format!("{package}=={version}")));
        }
    }
    wanted.extend(lock.plugins.iter().map(|plugin| declared::normal(plugin)));

    // The project's own extras (`me[test]`) stand for what they hold.
    let own = declared.name.as_deref().map(declared::normal);
    let mut open: BTreeSet<String> = BTreeSet::new();
    let mut lines: BTreeSet<String> = BTreeSet::new();
    // Files that were compiled at other times pin the same distribution differently: the first one holds.
    let mut pinned: BTreeMap<String, String> = BTreeMap::new();
    let mut wanted: VecDeque<String> = wanted.into();
    while let Some(text) = wanted.pop_front() {
        let Ok(requirement) = super::pep508::requirement(&text) else { continue };
        if text.contains("==") && requirement.marker.is_true() {
            let pin = pinned.entry(requirement.name.to_string()).or_insert_with(|| text.clone());
            if *pin != text {
                continue;
            }
        }
        if Some(requirement.name.to_string()) != own {
            lines.insert(text.trim().to_owned());
            continue;
        }
        for extra in requirement.extras.iter().map(ToString::to_string) {
            if open.insert(extra.clone()) {
                wanted.extend(declared.extras.get(&extra).into_iter().flatten().cloned());
            }
        }
    }
    let closure = match files.text(environment.from.as_str()).filter(|_| from_uv) {
        Some(text) => Some(Closure::from_uv_lock(text, &environment.groups, &environment.extras, None)?),
        None => None,
    };
    let held = |text: &str| match (&closure, name_of(text)) {
        (Some(closure), Some(name)) => !closure.versions_of(name.as_ref()).is_empty(),
        _ => false,
    };
    // A bare name adds nothing to a line that says more about the same distribution.
    let said: BTreeSet<_> = lines
        .iter()
        .filter(|text| name_of(text).is_some_and(|name| name.as_ref() != text.as_str()))
        .filter_map(|text| name_of(text))
        .collect();
    let bare = |text: &str| name_of(text).is_some_and(|name| name.as_ref() == text && said.contains(&name));
    Ok(lines.iter().filter(|text| !held(text) && !bare(text)).cloned().collect())
}

#[cfg(test)]
mod tests;
