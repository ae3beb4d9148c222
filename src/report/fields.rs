//! The fields of `parity_report.json`: those of the original tool, and what it left out. The order here is the order in
//! the file. [`super::json`] fills them in.

use super::state::StepState;
use crate::event::Attempt;
use crate::lock::contents::Contents;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the report's format. Fields are only added within one version.
pub const SCHEMA_VERSION: u32 = 1;

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Whether every check ran and nothing was found. False for an advisory run with findings, though it exits 0.
    pub ok: bool,
    /// `self-check`, `parity`, `exec`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The run's id, the name of its folder.
    pub id: String,
    /// When the run started: RFC 3339, UTC.
    pub timestamp: String,
    /// Version of `ft`.
    pub ft: String,
    /// The full exit code, which may be above 255.
    pub exit_code: u16,
    /// What the shell sees: the lowest eight bits of the exit code.
    pub exit_status: u8,
    /// Whether findings were reported without deciding the exit code.
    pub advisory: bool,
    /// Full version of the Python that was used; empty where the run ended before one was known.
    pub python: String,
    /// sha256 of the lock, in hex; empty where none could be read.
    pub lock_sha256: String,
    /// Versions of the lock's tools, by step.
    pub tool_versions: BTreeMap<String, String>,
    /// Seconds by step, in plan order; steps that did not end are absent.
    pub durations_sec: IndexMap<String, f64>,
    /// Seconds of the whole run; absent where it was cut off.
    pub duration_sec: Option<f64>,
    /// What the results were held against, and the coverage that was reached.
    pub thresholds: Thresholds,
    /// What the lock expects of the collection, and what was collected.
    pub collection: Collection,
    /// Findings that decide, in the order that decides.
    pub failures: Vec<Failure>,
    /// Findings that do not decide.
    pub warnings: Vec<Failure>,
    /// What the run itself could not do.
    pub broken: Vec<Broken>,
    /// The signal that ended the run.
    pub interrupted: Option<String>,
    /// A defect of `ft`.
    pub bug: Option<String>,
    /// The walls, over all steps.
    pub enforcement: Enforcement,
    /// Who talked to whom, over all steps.
    #[serde(default)]
    pub network: Network,
    /// The tree that was checked.
    pub snapshot: Option<Snapshot>,
    /// The environment that the steps saw.
    pub environment: Option<Environment>,
    /// Work outside the steps.
    pub stages: Vec<Stage>,
    /// Every step of the plan, in plan order.
    pub steps: Vec<StepReport>,
    /// Files that came back.
    pub artifacts: Vec<Artifact>,
    /// Files that did not come back.
    pub refused: Vec<Refused>,
}

/// What the results were held against.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Thresholds {
    /// Least coverage, from 0 to 1.
    pub coverage_min: Option<f64>,
    /// Coverage that was reached, from 0 to 1, unrounded.
    pub coverage_total: Option<f64>,
    /// Highest severity that is accepted.
    pub bandit_severity_max: Option<crate::lock::Severity>,
    /// Most warnings that the tests may raise.
    pub max_warnings: Option<u64>,
    /// Whether a test that passes only when it is run again is accepted.
    pub allow_flaky: bool,
}

/// Expected and actual collection.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Collection {
    /// How many node ids the lock expects.
    pub expected_count: Option<u64>,
    /// sha256 of the sorted node ids joined by newlines, as the lock expects it.
    pub expected_hash: Option<String>,
    /// Whether the check is switched off.
    pub allow_uncollected: bool,
    /// How many were collected by all test steps; absent where none reported.
    pub count: Option<u64>,
    /// Their hash; absent where none reported.
    pub hash: Option<String>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// `PARITY-021`.
    pub code: String,
    /// `preflight`, or the id of the step.
    pub gate: String,
    /// What was found.
    pub msg: String,
    /// What to do.
    pub hint: String,
}

/// What the run itself could not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Broken {
    /// A stage, or a step's id.
    pub stage: String,
    /// What failed.
    pub msg: String,
    /// What to do.
    pub hint: String,
}

/// The walls over all steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Enforcement {
    /// The kind of cell; absent without a plan.
    pub cell: Option<crate::lock::CellKind>,
    /// Every wall that a step reported.
    pub walls: Vec<WallReport>,
}

/// One wall over all steps that started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WallReport {
    /// `network`, `memory`, ...
    pub wall: String,
    /// Whether it held in every step that started.
    pub enforced: bool,
    /// By what, each mechanism once.
    pub mechanisms: Vec<String>,
    /// Steps in which it did not hold, or which did not report it.
    pub not_in: Vec<String>,
}

/// The tree that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Its digest, in hex.
    pub sha256: String,
    /// `worktree`, `index`, or the commit that was asked for.
    pub source: String,
    /// HEAD, or the commit taken.
    pub commit: Option<String>,
    /// Whether tracked files differ from HEAD.
    pub dirty: bool,
    /// Files and links in it.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Files that CI will not see.
    pub untracked: Vec<String>,
}

/// The environment that the steps saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// Its key.
    pub key: String,
    /// Where it stands, relative to the repository.
    pub path: String,
    /// Full version of its Python.
    pub python: String,
    /// Whether this run built it.
    pub built: bool,
    /// `uv 0.9.2`, `pip 25.1`.
    pub installer: String,
    /// Every distribution and its version.
    pub packages: BTreeMap<String, String>,
    /// The container that it was seen in, in container mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerReport>,
    /// The lock's image that the run found itself in, where `ft ci` ran in a container of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_image: Option<InImageReport>,
}

/// The image that a run found itself in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InImageReport {
    /// The image, as the lock names it.
    pub image: String,
    /// What was measured: it is what the lock says of that image.
    pub contents: Contents,
}

/// What the containers of a run were made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerReport {
    /// The image, by the engine's digest of its content.
    pub image: String,
    /// The engine, its version and where it was.
    pub engine: String,
    /// sha256 of the agent that was their first process, in hex.
    pub agent_sha256: String,
}

/// Work outside the steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stage {
    /// Its name.
    pub stage: String,
    /// Seconds it took.
    pub duration_sec: f64,
    /// What came of it.
    pub detail: String,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepReport {
    /// Its name in the lock, or `build`, `import`, `coverage`, `collect`.
    pub step: String,
    /// `lint`, `types`, `tests`, ...
    pub gate: String,
    /// What it came to.
    pub state: StepState,
    /// Why it did not run.
    pub skipped: Option<String>,
    /// The command as it ran inside the cell.
    pub argv: Vec<String>,
    /// Its working directory, relative to the repository.
    pub cwd: String,
    /// Its exit status, where it exited by itself.
    pub exit: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its timeout ran out.
    pub timed_out: bool,
    /// SIGKILL was needed.
    pub killed: bool,
    /// The run asked for its end.
    pub cancelled: bool,
    /// It died of memory.
    pub out_of_memory: bool,
    /// It wrote more than its disk limit.
    #[serde(default)]
    pub out_of_disk: bool,
    /// Seconds it took, pauses taken out.
    pub duration_sec: Option<f64>,
    /// Seconds it was allowed.
    pub timeout_sec: f64,
    /// Seconds of CPU, all its processes.
    pub cpu_sec: Option<f64>,
    /// Largest resident set of one process, bytes.
    pub peak_memory_bytes: Option<u64>,
    /// What it printed.
    pub output: Option<Output>,
    /// Processes that it left behind.
    pub survivors: Vec<String>,
    /// Where it might connect to, and what was refused.
    pub network: NetworkReport,
    /// The walls as seen from inside.
    pub enforcement: Vec<Wall>,
    /// What its tests came to.
    pub tests: Option<Tests>,
    /// What the tests covered.
    pub coverage: Option<Coverage>,
    /// What the security scan found.
    pub security: Option<Security>,
    /// Side results that are missing or can't be read.
    pub missing: Vec<String>,
}

/// What a step printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Bytes it printed.
    pub bytes: u64,
    /// Bytes of that which were dropped over the limit.
    pub dropped: u64,
    /// sha256 of what was kept, in hex.
    pub sha256: String,
    /// Where it is, relative to the run's folder and to `artifacts/`.
    pub log: String,
}

/// A step's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkReport {
    /// `loopback`, `allow`, `open`.
    pub policy: String,
    /// The entries of an allow-list.
    pub allowed: Vec<String>,
    /// Refused attempts: violations.
    pub denied: Vec<Attempt>,
    /// Refused attempts that `deny_quietly` expects.
    pub denied_quietly: Vec<Attempt>,
    /// Attempts that are no exchange with anybody.
    pub notes: Vec<Attempt>,
    /// Who talked to whom.
    pub observed: Vec<Attempt>,
    /// Refused attempts beyond those that are listed one by one.
    pub unlisted: u64,
}

/// The network over all steps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// Exchanges that the policies let through, each destination of a step once: what an allow-list would hold
    /// (`ft lock --network-from-report`). Sorted by step in plan order, then host and port.
    pub observed: Vec<Observed>,
}

/// Somebody with whom a step talked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Observed {
    /// The step.
    pub step: String,
    /// Command lines of the processes, the first three.
    pub processes: Vec<String>,
    /// The name that was looked up, else the address.
    pub host: String,
    /// The port; 0 for a name that was looked up and then not connected to.
    pub port: u16,
    /// `tcp`, `udp`, `dns`.
    pub protocol: String,
    /// How often.
    pub count: u64,
}

/// One wall in one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Wall {
    /// `network`, `memory`, ...
    pub wall: String,
    /// Whether it held.
    pub enforced: bool,
    /// By what.
    pub mechanism: String,
    /// What was read or tried to know it.
    pub detail: String,
}

/// What the tests of a step came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tests {
    /// Node ids collected.
    pub collected: u64,
    /// Ids that were deselected.
    pub deselected: u64,
    /// Tests that passed.
    pub passed: u64,
    /// Tests whose call failed.
    pub failed: u64,
    /// Tests whose set-up or tear-down failed.
    pub errors: u64,
    /// Tests that were skipped.
    pub skipped: u64,
    /// Tests that failed as expected.
    pub xfailed: u64,
    /// Tests that were expected to fail and passed.
    pub xpassed: u64,
    /// Tests that passed only when run again.
    pub flaky: Vec<String>,
    /// Warnings that pytest counted.
    pub warnings: u64,
    /// The tests that failed.
    pub failures: Vec<TestNote>,
    /// The tests that were skipped, and why.
    pub skips: Vec<TestNote>,
    /// Collectors that failed.
    pub collect_errors: Vec<TestNote>,
    /// Whether the session came to its end.
    pub finished: bool,
}

/// A test, and what there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestNote {
    /// Node id.
    pub id: String,
    /// Reason of a skip, or the end of a failure's text.
    pub msg: String,
}

/// How much was covered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// Lines and branches that ran.
    pub covered: u64,
    /// All that could have run.
    pub total: u64,
    /// From 0 to 1, unrounded.
    pub ratio: f64,
}

/// What the security scan found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Security {
    /// Issues of severity HIGH, whatever the arguments filtered.
    pub high: u64,
    /// MEDIUM.
    pub medium: u64,
    /// LOW.
    pub low: u64,
    /// The issues that the arguments let through, most severe first.
    pub issues: Vec<Issue>,
    /// Files that could not be scanned.
    pub errors: Vec<String>,
}

/// One issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Issue {
    /// Bandit's id.
    pub test_id: String,
    /// How bad it is.
    pub severity: crate::lock::Severity,
    /// File, relative to the repository.
    pub path: String,
    /// Line, from 1.
    pub line: u64,
    /// What it is.
    pub msg: String,
}

/// A file that came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// Step that left it.
    pub step: String,
    /// Relative to the repository.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// In hex.
    pub sha256: String,
}

/// A file that did not come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// Step that left it.
    pub step: String,
    /// As the cell named it.
    pub path: String,
    /// Why.
    pub why: String,
}
