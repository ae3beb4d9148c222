//! The lock file as it is written: both versions, nothing filled in, nothing judged. The JSON Schema is made from here,
//! so what a doc comment says here is what an editor shows. An absent field and a `null` are the same here; the parser
//! tells them apart before.

use super::contents::Contents;
use super::{CellKind, OnAdded, Project, PythonMatch, Severity};
use crate::step::Gate;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The extension that marks a field of version 2 in the schema. In a version 1 lock such a field is ignored with a warning.
pub const SINCE: &str = "x-since-version";

/// The locked checks of a Python repository.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawLock {
    /// Format of this file: 2. Absent in version 1.
    #[schemars(range(min = 1, max = 2))]
    pub version: Option<u64>,
    /// The `ft` that this lock was written for.
    #[schemars(extend("x-since-version" = 2))]
    pub runner: Option<RawRunner>,
    /// The Python of the checks: `3.11`, or `3.11.7`.
    pub python: Option<String>,
    /// Whether the patch release of Python must match too.
    #[schemars(extend("x-since-version" = 2))]
    pub python_match: Option<PythonMatch>,
    /// The full version of each Python when this was locked: `{"3.11": "3.11.7"}`. Written by `ft lock`.
    #[schemars(extend("x-since-version" = 2))]
    pub python_locked: Option<BTreeMap<String, String>>,
    /// What `--matrix` runs.
    pub matrix: Option<RawMatrix>,
    /// Environment variables of every step. Nothing of the caller's environment reaches a step.
    pub env: Option<IndexMap<String, String>>,
    /// Where the hashed set of packages comes from.
    #[schemars(extend("x-since-version" = 2))]
    pub environment: Option<RawEnvironment>,
    /// Whether the build gate runs: a wheel is built from the tree without network.
    #[schemars(extend("x-since-version" = 2))]
    pub build: Option<bool>,
    /// What the import gate imports from the built wheel.
    #[schemars(extend("x-since-version" = 2))]
    pub import_names: Option<Vec<String>>,
    /// The steps by name, in the order in which their findings count.
    pub tools: Option<IndexMap<String, RawTool>>,
    /// Plugins that must be installed, by import name or by distribution name.
    pub plugins: Option<Vec<String>>,
    /// Limits of what is accepted.
    pub thresholds: Option<RawThresholds>,
    /// What the test steps must collect.
    pub pytest_collection: Option<RawCollection>,
    /// sha256 of configuration files: a path, or a path and a table (`pyproject.toml#tool.pytest`). `pending` until `ft lock`.
    pub config_hashes: Option<IndexMap<String, String>>,
    /// Like `config_hashes`, with a prefix of the sha256.
    pub project_files: Option<IndexMap<String, RawPrefix>>,
    /// Which files are checked.
    pub scope: Option<RawScope>,
    /// Where steps may connect to.
    pub network_policy: Option<RawNetwork>,
    /// Limits of each cell, and of the run.
    pub resource_limits: Option<RawLimits>,
    /// Files that must be there after a run.
    pub required_artifacts: Option<Vec<String>>,
    /// Globs of further files that steps leave and that come back.
    #[schemars(extend("x-since-version" = 2))]
    pub collect: Option<Vec<String>>,
    /// The container of container mode.
    pub container: Option<RawContainer>,
    /// How strong the walls must be.
    #[schemars(extend("x-since-version" = 2))]
    pub cell: Option<RawCell>,
    /// Whether runs explain themselves without `--explain`.
    pub explain: Option<bool>,
    /// Whether changed-only mode is refused.
    pub changed_only_policy: Option<RawChangedOnly>,
    /// Read for version 1. Holds by construction: every step starts without caches.
    pub cache_policy: Option<RawCachePolicy>,
}

/// The `ft` that a lock was written for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawRunner {
    /// Version range: `>=0.1,<0.2`.
    pub version: Option<String>,
}

/// What `--matrix` runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawMatrix {
    /// Pythons, each `3.11` or `3.11.7`.
    pub python: Option<Vec<String>>,
}

/// Where the hashed set of packages comes from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawEnvironment {
    /// `uv.lock`, or `ci/parity.requirements.txt`, which `ft lock` writes.
    pub from: Option<String>,
    /// Dependency groups of `uv.lock`.
    pub groups: Option<Vec<String>>,
    /// Extras of the project in `uv.lock`.
    pub extras: Option<Vec<String>>,
    /// With `uv.lock`: the file with what that does not lock, such as build backends. Written by `ft lock`.
    pub extra: Option<String>,
    /// The files that the set was resolved from.
    pub sources: Option<Vec<String>>,
    /// One sha256 over what resolution reads in `sources`. Written by `ft lock`.
    pub sources_sha256: Option<String>,
    /// Whether the project itself is installed.
    pub project: Option<Project>,
    /// Distributions that may be built from source. All others are installed from wheels.
    pub sdists: Option<Vec<String>>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawTool {
    /// Exact version. Absent: what the locked set of packages holds.
    pub version: Option<String>,
    /// The distribution that the command comes from; the step's name where absent.
    #[schemars(extend("x-since-version" = 2))]
    pub package: Option<String>,
    /// The executable; the package's name where absent. With a command, and neither package nor version, the step is no package.
    #[schemars(extend("x-since-version" = 2))]
    pub command: Option<String>,
    /// Its arguments.
    pub args: Option<Vec<String>>,
    /// What it checks. Known without saying for the usual tools.
    #[schemars(extend("x-since-version" = 2))]
    pub gate: Option<Gate>,
    /// Working directory, relative to the repository.
    #[schemars(extend("x-since-version" = 2))]
    pub cwd: Option<String>,
    /// Steps that run first and whose outputs this one sees.
    #[schemars(extend("x-since-version" = 2))]
    pub needs: Option<Vec<String>>,
    /// Seconds until the step is ended. 600 where absent.
    #[schemars(range(min = 1, max = 604_800))]
    pub timeout_sec: Option<u64>,
    /// Seconds between SIGTERM and SIGKILL. 5 where absent.
    #[schemars(range(max = 3600), extend("x-since-version" = 2))]
    pub grace_sec: Option<u64>,
    /// The network policy of this step alone.
    #[schemars(extend("x-since-version" = 2))]
    pub network: Option<RawStepNetwork>,
    /// Environment variables of this step alone.
    #[schemars(extend("x-since-version" = 2))]
    pub env: Option<IndexMap<String, String>>,
    /// Read for version 1. Holds by construction: every step starts without caches.
    pub fresh: Option<bool>,
}

/// Limits of what is accepted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawThresholds {
    /// Least coverage, 0.5 to 1. Absent: no coverage gate (version 2); refused (version 1).
    #[schemars(range(min = 0.5, max = 1.0))]
    pub coverage_min: Option<f64>,
    /// Highest severity of a bandit issue that is accepted.
    pub bandit_severity_max: Option<Severity>,
    /// Most warnings that the tests may raise.
    pub max_warnings: Option<u64>,
    /// Whether a test that passes only when it is run again is accepted.
    pub allow_flaky: Option<bool>,
}

/// What the test steps must collect.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawCollection {
    /// How many tests. A manifest is the better choice: it does not conflict when two branches add tests.
    pub expected_count: Option<u64>,
    /// sha256 of the sorted node ids joined by newlines, or `pending`.
    pub name_hash_sha256: Option<String>,
    /// Switches the check off.
    pub allow_uncollected: Option<bool>,
    /// The file with count and hash per test file: `ci/collection.txt`.
    #[schemars(extend("x-since-version" = 2))]
    pub manifest: Option<String>,
    /// What a test that is not in the manifest does.
    #[schemars(extend("x-since-version" = 2))]
    pub on_added: Option<OnAdded>,
}

/// A prefix of a sha256: `"9a42"` or `{"sha256_prefix": "9a42"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a sha256 prefix in hex, or an object with `sha256_prefix`")]
pub enum RawPrefix {
    /// The prefix itself.
    Plain(String),
    /// The form of version 1.
    Object {
        /// The prefix.
        sha256_prefix: String,
    },
}

/// Which files are checked.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawScope {
    /// Read for version 1. The whole repository is always checked.
    pub full_repo: Option<bool>,
    /// Globs of tracked files that no step sees.
    pub exclude: Option<Vec<String>>,
}

/// Where steps may connect to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawNetwork {
    /// Whether the network is closed but for `allowed_hosts`. True where absent.
    pub forbid_network: Option<bool>,
    /// Who may be reached all the same, as `host` or `host:port`: a name, `*.example.org` for every name below that, an
    /// address. Loopback is always there. A name that leads to a private address is refused; name the address.
    pub allowed_hosts: Option<Vec<String>>,
    /// Hosts whose refusal is expected and is no violation, written like `allowed_hosts`. Wins over it.
    #[schemars(extend("x-since-version" = 2))]
    pub deny_quietly: Option<Vec<String>>,
}

/// Where one step may connect to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawStepNetwork {
    /// Whether the network is closed but for `allowed_hosts`. True where absent.
    pub forbid_network: Option<bool>,
    /// Who this step may reach all the same, instead of the hosts of `network_policy`.
    pub allowed_hosts: Option<Vec<String>>,
}

/// Limits of each cell, and of the run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawLimits {
    /// CPUs of the run: affinity mask and parallelism.
    #[schemars(range(min = 1))]
    pub cpu_count: Option<u32>,
    /// MiB of memory per cell.
    #[schemars(range(min = 1))]
    pub mem_mb: Option<u64>,
    /// Processes and threads per cell.
    #[schemars(range(min = 1), extend("x-since-version" = 2))]
    pub pids: Option<u64>,
    /// MiB that a step may write.
    #[schemars(range(min = 1), extend("x-since-version" = 2))]
    pub disk_mb: Option<u64>,
    /// MiB of output that are kept.
    #[schemars(range(min = 1), extend("x-since-version" = 2))]
    pub output_mb: Option<u64>,
    /// Whether a limit that can't be applied stops the run (PARITY-052).
    #[schemars(extend("x-since-version" = 2))]
    pub required: Option<bool>,
}

/// The container of container mode.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawContainer {
    /// The image of `python`: `name@sha256:...`, or `sha256:...` (the digest of its configuration) where it never was in a
    /// registry. A tag is refused where container mode is asked for (PARITY-014).
    pub image: Option<String>,
    /// Whether only container mode counts.
    pub force_container: Option<bool>,
    /// Digest of the image's configuration: the same in every image store.
    #[schemars(extend("x-since-version" = 2))]
    pub config_digest: Option<String>,
    /// Digests of the unpacked layers, lowest first.
    #[schemars(extend("x-since-version" = 2))]
    pub diff_ids: Option<Vec<String>>,
    /// `linux/amd64`.
    #[schemars(extend("x-since-version" = 2))]
    pub platform: Option<String>,
    /// What the image gives to Python, measured: so that a job of CI that runs in it can be compared with it.
    #[schemars(extend("x-since-version" = 2))]
    pub contents: Option<Contents>,
    /// The images of the other Pythons of `matrix.python`, by Python.
    #[schemars(extend("x-since-version" = 2))]
    pub images: Option<BTreeMap<String, RawImage>>,
}

/// The image of one Python of the matrix.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawImage {
    /// `name@sha256:...`, or `sha256:...` (the digest of its configuration) where it never was in a registry.
    pub image: Option<String>,
    /// Digest of the image's configuration: the same in every image store.
    pub config_digest: Option<String>,
    /// Digests of the unpacked layers, lowest first.
    pub diff_ids: Option<Vec<String>>,
    /// `linux/amd64`.
    pub platform: Option<String>,
    /// What the image gives to Python, measured.
    pub contents: Option<Contents>,
}

/// How strong the walls must be.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawCell {
    /// The weakest kind of cell that counts.
    pub minimum: Option<CellKind>,
}

/// Whether changed-only mode is refused.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawChangedOnly {
    /// True where absent.
    pub forbid_in_parity: Option<bool>,
    /// In which words.
    pub message: Option<String>,
}

/// Read for version 1. Holds by construction: every step starts without caches.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawCachePolicy {
    /// Whether the original cleared caches first.
    pub clear_before_run: Option<bool>,
    /// Which ones.
    pub caches: Option<Vec<String>>,
}
