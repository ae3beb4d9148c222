//! The lock: `ci/parity.lock.json` as types. Parsing and validating text; it does not look at the repository.
//!
//! Version 1 is the format of the original tool and has no `version` key; version 2 is a superset. Both become the same
//! [`Lock`], so that nothing behind this module asks for the version of the file again, but for [`Lock::version`] where
//! a version 1 lock means something else (an absent `coverage_min` counts as 0 there).

pub mod closure;
pub mod collection;
mod container;
pub mod contents;
pub mod edit;
pub mod error;
pub mod fresh;
pub mod host;
pub mod image;
pub mod ini;
pub mod init;
pub mod inside;
pub mod judge;
pub mod parse;
pub mod pep508;
pub mod pin;
pub mod place;
pub mod raw;
pub mod relock;
pub mod requirements;
pub mod schema;
pub mod stale;
pub mod step;
#[cfg(test)]
mod tests;
mod unknown;
pub use unknown::nearest;
mod uv_lock;

pub use error::{LockError, Warning};
pub use judge::PENDING;
pub use parse::MAX_BYTES;

use crate::step::{Gate, Network};
use camino::Utf8PathBuf;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the lock stands in a repository.
pub const LOCK_PATH: &str = "ci/parity.lock.json";

/// PEP 503: lower case, runs of `-`, `_` and `.` become one `-`.
#[must_use]
pub fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

/// A parsed, validated lock. Every default is filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// 1 or 2.
    pub version: u8,
    /// sha256 of the file's bytes, in hex.
    pub sha256: String,
    /// `3.11` or `3.11.7`.
    pub python: String,
    /// Whether another patch release than the locked one is accepted.
    pub python_match: PythonMatch,
    /// Every Python of `--matrix`, `python` first, without repetition.
    pub matrix: Vec<String>,
    /// The environment of every step.
    pub env: BTreeMap<String, String>,
    /// The steps, in the order of the file, which is the order of the plan.
    pub tools: IndexMap<String, Tool>,
    /// Plugins that must be there, by import name (`pytest_cov`) or distribution name.
    pub plugins: Vec<String>,
    /// Limits of what is accepted.
    pub thresholds: Thresholds,
    /// What the test steps must collect.
    pub collection: Collection,
    /// `path` or `path#table.table` to a sha256 in hex, or `pending`.
    pub config_hashes: IndexMap<String, String>,
    /// Like `config_hashes`, but a prefix of the hash is enough.
    pub project_files: IndexMap<String, String>,
    /// Globs of tracked files that are left out of the snapshot.
    pub exclude: Vec<String>,
    /// The network policy of every step that has none of its own.
    pub network: Network,
    /// Hosts whose refusal is expected and is no violation.
    pub deny_quietly: Vec<String>,
    /// Limits of each cell, and of the run.
    pub limits: ResourceLimits,
    /// Files that must be there after a run, relative to the repository.
    pub required_artifacts: Vec<Utf8PathBuf>,
    /// Globs of further artifacts.
    pub collect: Vec<String>,
    /// The container of container mode.
    pub container: Container,
    /// The weakest kind of cell that counts.
    pub cell_minimum: CellKind,
    /// Whether runs explain themselves without `--explain`.
    pub explain: bool,
    /// Whether changed-only mode is refused, and in which words.
    pub changed_only_forbidden: bool,
    /// The lock's own message for that.
    pub changed_only_message: Option<String>,
    /// Where the hashed closure comes from. `None` in a version 1 lock: a run is then PARITY-013.
    pub environment: Option<Environment>,
    /// The range of `ft` versions this lock was written for, as a PEP 440 specifier.
    pub runner_version: Option<String>,
    /// Whether the build gate runs.
    pub build: bool,
    /// What the import gate imports from the built wheel. Empty: no import gate.
    pub import_names: Vec<String>,
    /// What was resolved exactly when `ft lock` ran: `python` full versions by request.
    pub locked_pythons: BTreeMap<String, String>,
}

/// How exactly the interpreter must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PythonMatch {
    /// The patch release too.
    #[default]
    Exact,
    /// Major and minor only.
    Minor,
}

/// One step of the lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// The exact version, where the lock names one; else the closure decides.
    pub version: Option<String>,
    /// The distribution whose version counts. `None` for a step that is a command and no package.
    pub package: Option<String>,
    /// The executable in the environment; the step's name or its package's where absent in the file.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Seconds until SIGTERM.
    pub timeout_sec: u64,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_sec: u64,
    /// What it checks.
    pub gate: Gate,
    /// Working directory relative to the repository.
    pub cwd: Utf8PathBuf,
    /// Steps whose outputs it sees.
    pub needs: Vec<String>,
    /// Its own network policy.
    pub network: Option<Network>,
    /// Variables of this step alone.
    pub env: BTreeMap<String, String>,
}

/// Limits of what is accepted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Thresholds {
    /// Least coverage, 0.5 to 1. `None`: no coverage gate.
    pub coverage_min: Option<f64>,
    /// Highest severity of a bandit issue that is accepted; `None` where the lock has no bandit threshold.
    pub bandit_severity_max: Option<Severity>,
    /// Most warnings that the tests may raise. `None`: no budget.
    pub max_warnings: Option<u64>,
    /// Whether a test that passes only when it is run again is accepted.
    pub allow_flaky: bool,
}

/// Bandit's severities, least first. `NONE` accepts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// Below every issue: no issue is accepted.
    None,
    /// Bandit's LOW.
    Low,
    /// Bandit's MEDIUM.
    Medium,
    /// Bandit's HIGH: every issue is accepted.
    High,
}

/// What the test steps must collect.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Collection {
    /// How many node ids, where the lock says so.
    pub expected_count: Option<u64>,
    /// sha256 of the sorted node ids joined by newlines, in hex; `None` where absent or `pending`.
    pub name_hash_sha256: Option<String>,
    /// Switches the check off.
    pub allow_uncollected: bool,
    /// The manifest file, `ci/collection.txt`.
    pub manifest: Option<Utf8PathBuf>,
    /// What an added test does.
    pub on_added: OnAdded,
}

/// What a test that is not in the manifest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnAdded {
    /// It is PARITY-021.
    #[default]
    Fail,
    /// Hook and `ft check` write it into the manifest; CI never does.
    Update,
}

/// Limits of each cell, and of the run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// CPUs of the run: affinity mask and parallelism.
    pub cpu_count: Option<u32>,
    /// MiB of memory per cell.
    pub mem_mb: Option<u64>,
    /// Processes and threads per cell.
    pub pids: Option<u64>,
    /// MiB a step may write.
    pub disk_mb: Option<u64>,
    /// MiB of output that are kept.
    pub output_mb: Option<u64>,
    /// Whether a limit that can't be applied is PARITY-052.
    pub required: bool,
}

/// The container of container mode.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Container {
    /// `name@sha256:...`, or `sha256:...` (the configuration's digest) of an image that never was in a registry; a tag is
    /// PARITY-014 when container mode is asked for. It is the image of [`Lock::python`].
    pub image: Option<String>,
    /// Whether only container mode counts.
    pub force: bool,
    /// `sha256:...` of the image's configuration: the same in every image store.
    pub config_digest: Option<String>,
    /// `sha256:...` of each unpacked layer, lowest first.
    pub diff_ids: Vec<String>,
    /// `linux/amd64`.
    pub platform: Option<String>,
    /// What the image gives to Python, measured.
    pub contents: Option<contents::Contents>,
    /// The images of the other Pythons of the matrix.
    #[serde(default)]
    pub images: BTreeMap<String, Image>,
}

/// One image, as the lock knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Image {
    /// As [`Container::image`].
    pub image: String,
    /// As [`Container::config_digest`].
    pub config_digest: Option<String>,
    /// As [`Container::diff_ids`].
    pub diff_ids: Vec<String>,
    /// As [`Container::platform`].
    pub platform: Option<String>,
    /// As [`Container::contents`].
    #[serde(default)]
    pub contents: Option<contents::Contents>,
}

impl Lock {
    /// The image in which the checks of this Python run, where the lock names one.
    #[must_use]
    pub fn image(&self, python: &str) -> Option<Image> {
        let container = &self.container;
        if python != self.python {
            return container.images.get(python).cloned();
        }
        Some(Image {
            image: container.image.clone()?,
            config_digest: container.config_digest.clone(),
            diff_ids: container.diff_ids.clone(),
            platform: container.platform.clone(),
            contents: container.contents.clone(),
        })
    }
}

/// The kinds of cells, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CellKind {
    /// No namespaces to be had: broker, Landlock, limits.
    #[default]
    Here,
    /// User, mount, pid, net, ipc and uts namespaces.
    Namespaces,
    /// An engine's container.
    Container,
}

/// Where the hashed closure comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// `uv.lock`, or `ci/parity.requirements.txt`.
    pub from: Utf8PathBuf,
    /// Dependency groups of `uv.lock`.
    pub groups: Vec<String>,
    /// Extras of `uv.lock`.
    pub extras: Vec<String>,
    /// What the file was resolved from.
    pub sources: Vec<String>,
    /// One sha256 over the sources, in hex; see [`crate::facts`].
    pub sources_sha256: Option<String>,
    /// Whether the project itself is installed.
    pub project: Project,
    /// Distributions that may be built from an sdist.
    pub sdists: Vec<String>,
    /// Where `from` is `uv.lock`: the file with what that does not lock (build backend, tools of the lock that are no
    /// dependency of the project), resolved under its constraints. It never names a package that `from` names.
    pub extra: Option<Utf8PathBuf>,
}

/// Whether the project under test is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Project {
    /// Metadata and scripts as `pip install -e .` makes them.
    #[default]
    Editable,
    /// Not at all.
    None,
}
