//! The closure: every distribution that may become part of the environment, with its hashes, for every platform and
//! Python that was locked. Read from text; nothing is resolved, fetched or installed here.

use super::requirements::{self, Entry};
use super::uv_lock::UvLock;
use crate::code::ParityCode;
use pep440_rs::Version;
use pep508_rs::{MarkerEnvironmentBuilder, PackageName};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// What an interpreter says about itself, as markers ask for it (PEP 508).
pub use pep508_rs::MarkerEnvironment as MarkerEnv;

/// One distribution that is part of an environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pinned {
    /// Normalised as PEP 503 says: `ruamel-yaml`.
    pub name: String,
    /// The exact version, as the closure writes it.
    pub version: String,
    /// `sha256:` and 64 hexadecimal digits for each file that is accepted; sorted, at least one.
    pub hashes: Vec<String>,
    /// Whether the closure holds no wheel for it at all, so that it must be built from source. Known for `uv.lock`;
    /// always false for a requirements file, which does not say what a hash is of.
    pub sdist: bool,
}

/// A project of the same repository that another one depends on. It has no hash: it is part of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Normalised name.
    pub name: String,
    /// Its folder, relative to the repository.
    pub path: String,
}

/// Why a text is no closure, or why it has no answer for an environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClosureError {
    /// `uv.lock` is not TOML, or not of uv's shape.
    #[error("uv.lock: {0}")]
    Toml(String),
    /// A later format than the one that is known.
    #[error("uv.lock: expected version 1, found {0}")]
    Format(i64),
    /// No package of `uv.lock` is the project.
    #[error("uv.lock: no package is the project{}", .0.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default())]
    NoProject(Option<String>),
    /// A dependency group that the lock asks for.
    #[error("uv.lock: no dependency group {name:?}; there is {}", list(.known))]
    Group {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// An extra that the lock asks for.
    #[error("uv.lock: the project has no extra {name:?}; there is {}", list(.known))]
    Extra {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A dependency that is named and not there.
    #[error("uv.lock: {wanted_by} depends on {name}, which has no entry that fits")]
    Missing {
        /// The dependency.
        name: String,
        /// Who asks for it.
        wanted_by: String,
    },
    /// A distribution from git, a URL or a folder: nothing that an index holds under a hash.
    #[error("{name} comes from {kind} ({origin}), not from a package index")]
    NotFromIndex {
        /// The distribution.
        name: String,
        /// `git`, `a URL`, `a path`.
        kind: &'static str,
        /// Where from.
        origin: String,
    },
    /// Bytes that no hash names.
    #[error("{name} {version} has no sha256")]
    Unhashed {
        /// The distribution.
        name: String,
        /// Its version.
        version: String,
    },
    /// A line of a requirements file.
    #[error("line {line}: {reason}: {text}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
        /// The line, shortened.
        text: String,
    },
    /// The closure was resolved for other Pythons.
    #[error("uv.lock was resolved for Python {required}, and this is Python {found}")]
    Python {
        /// `requires-python` of the closure.
        required: String,
        /// The interpreter's version.
        found: String,
    },
    /// The closure was resolved for other platforms.
    #[error("uv.lock was not resolved for this platform; it was for {0}")]
    Platform(String),
    /// Two versions of one distribution at once.
    #[error("{name} is wanted in two versions: {one} and {other}")]
    TwoVersions {
        /// The distribution.
        name: String,
        /// One.
        one: String,
        /// The other.
        other: String,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl ClosureError {
    /// PARITY-005 where bytes have no hash, else PARITY-013: the closure is no answer to the lock.
    #[must_use]
    pub fn code(&self) -> ParityCode {
        match self {
            ClosureError::Unhashed { .. } | ClosureError::NotFromIndex { .. } => ParityCode::PACKAGE_HASH,
            _ => ParityCode::LOCK_STALE,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            ClosureError::Format(_) => "install a newer `ft`",
            ClosureError::Group { .. } => "correct `environment.groups`, or run `uv lock`",
            ClosureError::Extra { .. } => "correct `environment.extras`, or run `uv lock`",
            ClosureError::NotFromIndex { .. } => {
                "depend on a released version, or leave the group or extra out of `environment`"
            }
            ClosureError::Python { .. } => {
                "lock for this Python (`requires-python`), or take it out of the lock's matrix"
            }
            ClosureError::Platform(_) => "add this platform to `tool.uv.environments`, or run where the closure is for",
            ClosureError::Unhashed { .. } => ParityCode::PACKAGE_HASH.fix(),
            ClosureError::NoProject(_) => "run `uv lock` in the project",
            _ => ParityCode::LOCK_STALE.fix(),
        }
    }
}

/// The hashed closure of an environment: one or more files, the first of which wins.
#[derive(Debug, Clone)]
pub struct Closure {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    UvLock(UvLock),
    Requirements(Vec<Entry>),
}

impl Closure {
    /// Reads `uv.lock`, from the project with its dependencies and the named groups and extras. `project` names the
    /// package where the lock is that of a workspace; else it is the one at the root, or every member where none is.
    ///
    /// # Errors
    /// Where the text is no lock of uv, or has no such project, group or extra.
    pub fn from_uv_lock(
        text: &str,
        groups: &[String],
        extras: &[String],
        project: Option<&str>,
    ) -> Result<Closure, ClosureError> {
        Ok(Closure { parts: vec![Part::UvLock(UvLock::read(text, groups, extras, project)?)] })
    }

    /// Reads a requirements file with hashes, as `uv pip compile --generate-hashes` and `pip-compile` write it. Options
    /// that say where files come from are passed over: hashes decide.
    ///
    /// # Errors
    /// The first line that is no pinned, hashed distribution.
    pub fn from_requirements(text: &str) -> Result<Closure, ClosureError> {
        Ok(Closure { parts: vec![Part::Requirements(requirements::read(text)?)] })
    }

    /// This closure, and beside it what the other one holds under names that this one does not know.
    #[must_use]
    pub fn with_extra(mut self, other: Closure) -> Closure {
        self.parts.extend(other.parts);
        self
    }

    /// What belongs into the environment of this interpreter: sorted by name, each name once.
    ///
    /// # Errors
    /// Where the closure was not resolved for it, or something that it needs has no hash.
    pub fn select(&self, env: &MarkerEnv) -> Result<Vec<Pinned>, ClosureError> {
        let mut chosen: BTreeMap<PackageName, Pinned> = BTreeMap::new();
        for (at, part) in self.parts.iter().enumerate() {
            let found = match part {
                Part::UvLock(lock) => lock.select(env)?,
                Part::Requirements(entries) => requirements::select(entries, env),
            };
            for (name, pinned) in found {
                if self.parts[..at].iter().any(|before| before.names(&name)) {
                    continue;
                }
                if let Some(other) = chosen.get(&name).filter(|other| other.version != pinned.version) {
                    return Err(ClosureError::TwoVersions {
                        name: pinned.name,
                        one: other.version.clone(),
                        other: pinned.version,
                    });
                }
                chosen
                    .entry(name)
                    .and_modify(|same| {
                        same.hashes.extend(pinned.hashes.iter().cloned());
                        same.hashes.sort();
                        same.hashes.dedup();
                    })
                    .or_insert(pinned);
            }
        }
        Ok(chosen.into_values().collect())
    }

    /// Projects of the same repository that this interpreter's environment needs beside the project itself.
    ///
    /// # Errors
    /// As [`Closure::select`].
    pub fn members(&self, env: &MarkerEnv) -> Result<Vec<Member>, ClosureError> {
        let mut members = Vec::new();
        for part in &self.parts {
            if let Part::UvLock(lock) = part {
                members.extend(lock.members(env)?);
            }
        }
        members.sort();
        members.dedup();
        Ok(members)
    }

    /// Every version of a distribution that the closure holds for some platform or Python, lowest first; of the first
    /// file that names it. The name need not be normalised.
    #[must_use]
    pub fn versions_of(&self, name: &str) -> Vec<String> {
        let Ok(name) = PackageName::from_str(name) else { return Vec::new() };
        let Some(part) = self.parts.iter().find(|part| part.names(&name)) else { return Vec::new() };
        let mut versions: Vec<Version> = match part {
            Part::UvLock(lock) => lock.versions_of(&name),
            Part::Requirements(entries) => {
                entries.iter().filter(|entry| entry.name == name).map(|entry| entry.version.clone()).collect()
            }
        };
        versions.sort();
        versions.dedup();
        versions.iter().map(ToString::to_string).collect()
    }

    /// The version of a distribution, where the closure holds one only; `None` where it holds none, or where the
    /// interpreter decides between several (then [`Closure::select`] knows).
    #[must_use]
    pub fn version_of(&self, name: &str) -> Option<String> {
        match <[String; 1]>::try_from(self.versions_of(name)) {
            Ok([only]) => Some(only),
            Err(_) => None,
        }
    }
}

impl Closure {
    /// The hash of every file that may become part of an environment, on whatever machine: `sha256:` and 64 digits. What a
    /// package without any has is said where it is asked for.
    #[must_use]
    pub fn hashes(&self) -> BTreeSet<String> {
        let of = |part: &Part| -> Vec<String> {
            match part {
                Part::UvLock(lock) => lock.hashes(),
                Part::Requirements(entries) => entries.iter().flat_map(|entry| entry.hashes.clone()).collect(),
            }
        };
        self.parts.iter().flat_map(of).collect()
    }

    /// `name==version` for each distribution that has one version for every platform and Python: what keeps a
    /// resolution beside this closure in step with it. Sorted.
    #[must_use]
    pub fn constraints(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for part in &self.parts {
            match part {
                Part::UvLock(lock) => names.extend(lock.reachable().map(ToString::to_string)),
                Part::Requirements(entries) => names.extend(entries.iter().map(|entry| entry.name.to_string())),
            }
        }
        names.sort();
        names.dedup();
        names
            .into_iter()
            .filter_map(|name| self.version_of(&name).map(|version| format!("{name}=={version}")))
            .collect()
    }
}

impl Part {
    fn names(&self, name: &PackageName) -> bool {
        match self {
            Part::UvLock(lock) => lock.names(name),
            Part::Requirements(entries) => entries.iter().any(|entry| entry.name == *name),
        }
    }
}

/// The markers of CPython on Linux: `python` in full (`3.11.7`), the machine as uname(2) says it (`x86_64`). What the
/// kernel says about itself is left empty, so that no environment depends on it. `None` where `python` is no version.
#[must_use]
pub fn linux_env(python: &str, machine: &str) -> Option<MarkerEnv> {
    env_of(python, "posix", "Linux", "linux", machine)
}

/// The markers of CPython on another system: `os.name`, `platform.system()`, `sys.platform` and `platform.machine()`.
#[must_use]
pub fn env_of(python: &str, os_name: &str, system: &str, sys_platform: &str, machine: &str) -> Option<MarkerEnv> {
    let version = Version::from_str(python).ok()?;
    let [major, minor, ..] = version.release() else { return None };
    MarkerEnvironmentBuilder {
        implementation_name: "cpython",
        implementation_version: python,
        os_name,
        platform_machine: machine,
        platform_python_implementation: "CPython",
        platform_release: "",
        platform_system: system,
        platform_version: "",
        python_full_version: python,
        python_version: &format!("{major}.{minor}"),
        sys_platform,
    }
    .try_into()
    .ok()
}

#[cfg(test)]
mod tests;
