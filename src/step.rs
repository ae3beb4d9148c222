//! One check as a description: what runs, where, how long, and what its end means. Nothing here acts.

use crate::code::ParityCode;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a step checks. Decides its code where the lock's tool is not known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// Makes files that other steps need; its outputs are seen by the steps that name it in `needs`.
    Prepare,
    /// Builds a wheel of the project.
    Build,
    /// Imports the built wheel.
    Import,
    /// Linters and formatters.
    Lint,
    /// Type checkers.
    Types,
    /// Test runners.
    Tests,
    /// Measures coverage from what the test steps left.
    Coverage,
    /// Security scanners.
    Security,
}

impl Gate {
    /// The finding when a step of this gate exits other than 0.
    #[must_use]
    pub fn on_fail(self) -> ParityCode {
        match self {
            Gate::Prepare | Gate::Build => ParityCode::BUILD_FAILED,
            Gate::Import => ParityCode::IMPORT_FAILED,
            Gate::Lint => ParityCode::LINT_FAILED,
            Gate::Types => ParityCode::TYPES_FAILED,
            Gate::Tests => ParityCode::TESTS_FAILED,
            Gate::Coverage => ParityCode::COVERAGE_BELOW,
            Gate::Security => ParityCode::SECURITY_BROKEN,
        }
    }

    /// The word used in lock, report and output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Gate::Prepare => "prepare",
            Gate::Build => "build",
            Gate::Import => "import",
            Gate::Lint => "lint",
            Gate::Types => "types",
            Gate::Tests => "tests",
            Gate::Coverage => "coverage",
            Gate::Security => "security",
        }
    }
}

/// Where a step may connect to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The cell's own loopback and nothing else.
    #[default]
    Loopback,
    /// Loopback and these `host[:port]` entries.
    Allow(Vec<String>),
    /// Everything; who talked to whom is recorded.
    Open,
}

/// What a cell may use. `None` means no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all processes of the cell, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes that the step may write to its view of the tree and to `/tmp`.
    pub disk_bytes: Option<u64>,
    /// Bytes of standard output and error that are kept.
    pub output_bytes: Option<u64>,
    /// CPUs of the run: the affinity mask.
    pub cpus: Option<u32>,
}

/// How the result of a step is read, beside its exit status. On the step, so that no runner asks for a tool's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reader {
    /// The exit status alone.
    Plain,
    /// The plugin's `/ft/out/pytest.json`: collection, results, warnings, reruns.
    Pytest,
    /// The plugin's `/ft/out/pytest.json` of a `--collect-only` run.
    Collection,
    /// Bandit's JSON at this path: absolute in the cell, or relative to `/ft/work`.
    Bandit(String),
    /// `coverage json`'s totals in `/ft/out/coverage.json`.
    Coverage,
}

/// One check: one step, one cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name in the lock, or `build`, `import`, `coverage`, `collect`.
    pub id: String,
    /// What it checks.
    pub gate: Gate,
    /// The command, as it is executed inside the cell.
    pub argv: Vec<String>,
    /// The whole environment of the command.
    pub env: BTreeMap<String, String>,
    /// Working directory relative to the repository's root; empty for the root.
    pub cwd: Utf8PathBuf,
    /// Milliseconds until SIGTERM.
    pub timeout_ms: u64,
    /// Milliseconds between SIGTERM and SIGKILL.
    pub grace_ms: u64,
    /// Where it may connect to.
    pub network: Network,
    /// `host[:port]` entries whose refusal is expected and is no violation.
    pub deny_quietly: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// Steps whose outputs it sees; it starts after them.
    pub needs: Vec<String>,
    /// Whether it sees the project layer at `/ft/project` (the import gate does not).
    pub project: bool,
    /// Whether it sees the tree at `/ft/work` (the import gate starts in an empty one).
    pub tree: bool,
    /// Globs of what comes back if new or changed, beside `artifacts/` and `/ft/out`.
    pub collect: Vec<String>,
    /// The finding when it exits other than 0.
    pub on_fail: ParityCode,
    /// The finding when its timeout runs out.
    pub on_timeout: ParityCode,
    /// How its result is read.
    pub reader: Reader,
}
