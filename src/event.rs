//! What a run records: one JSON line per event in `events.jsonl`, the first one a header with the version.
//!
//! Events are owned and portable; the outcome of a run is a fold of them and of nothing else, so that a recorded run
//! can be judged again. What a step prints is not an event: it goes to the step's log, and its digest is recorded.

use crate::finding::Finding;
use crate::lock::contents::Contents;
use crate::plan::Plan;
use crate::results::bandit::SecurityReport;
use crate::results::coverage::Coverage;
use crate::results::pytest::TestReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the event format.
pub const EVENTS_VERSION: u32 = 1;

/// One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 0 without gaps.
    pub seq: u64,
    /// Milliseconds since the run started, on a monotonic clock.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The run begins. Always the first event.
    RunStarted {
        /// [`EVENTS_VERSION`].
        events_version: u32,
        /// The run's id, the name of its folder.
        id: String,
        /// RFC 3339, UTC.
        timestamp: String,
        /// Version of `ft`.
        ft: String,
        /// `self-check`, `parity`, `exec`.
        #[serde(rename = "type")]
        kind: String,
        /// Absolute path of the repository.
        repository: String,
    },
    /// What will be done.
    Planned {
        /// The plan.
        plan: Box<Plan>,
    },
    /// A deviation found before the steps or beside them.
    Found {
        /// The finding.
        finding: Finding,
    },
    /// A longer piece of work outside the steps begins: `environment`, `snapshot`, `project`.
    StageStarted {
        /// Its name.
        stage: String,
        /// What it is about, one line.
        detail: String,
    },
    /// It is done.
    StageFinished {
        /// Its name.
        stage: String,
        /// Milliseconds it took.
        wall_ms: u64,
        /// What came of it, one line.
        detail: String,
    },
    /// The tree that is checked.
    SnapshotTaken {
        /// What was taken.
        snapshot: SnapshotInfo,
    },
    /// The environment that the steps see.
    EnvironmentReady {
        /// Which one.
        environment: EnvironmentInfo,
    },
    /// A step's cell is up and its command starts.
    StepStarted {
        /// Step id.
        step: String,
        /// The walls as seen from inside.
        enforcement: Vec<Wall>,
    },
    /// A step was asked to end.
    StepTerminating {
        /// Step id.
        step: String,
        /// Milliseconds since its start.
        after_ms: u64,
        /// Whether it is SIGKILL and no longer SIGTERM.
        kill: bool,
    },
    /// A step is over.
    StepEnded {
        /// Step id.
        step: String,
        /// How, and what it used.
        end: StepEnd,
    },
    /// A step did not run.
    StepSkipped {
        /// Step id.
        step: String,
        /// Why.
        why: String,
    },
    /// Somebody in a step's cell tried to reach the network.
    NetworkAttempted {
        /// Step id.
        step: String,
        /// Who, what, and what became of it.
        attempt: Box<Attempt>,
    },
    /// An attempt was made more than once.
    NetworkRepeated {
        /// Step id.
        step: String,
        /// The attempt's id.
        id: u32,
        /// How often it was made in all.
        count: u64,
    },
    /// More attempts were refused than are listed one by one.
    NetworkUnlisted {
        /// Step id.
        step: String,
        /// How many more.
        count: u64,
    },
    /// What pytest collected and what came of it.
    TestsReported {
        /// Step id.
        step: String,
        /// The report.
        report: Box<TestReport>,
    },
    /// How much the tests covered.
    CoverageMeasured {
        /// Step id.
        step: String,
        /// The totals.
        coverage: Coverage,
    },
    /// What the security scan found.
    IssuesReported {
        /// Step id.
        step: String,
        /// The report.
        report: SecurityReport,
    },
    /// A side result that a step should have left is missing or can't be read.
    ResultMissing {
        /// Step id.
        step: String,
        /// What and why.
        reason: String,
    },
    /// A file came back.
    ArtifactReceived {
        /// Step id.
        step: String,
        /// Relative to the repository.
        path: String,
        /// Bytes.
        bytes: u64,
        /// In hex.
        sha256: String,
    },
    /// A file did not come back.
    ArtifactRefused {
        /// Step id.
        step: String,
        /// As the cell named it, control characters escaped.
        path: String,
        /// Why.
        why: String,
    },
    /// All steps and timers stand still, or go on (Ctrl-Z, fg).
    Paused {
        /// Which of the two.
        paused: bool,
    },
    /// A signal asks the run to end.
    Interrupted {
        /// `SIGINT`, `SIGTERM`, `SIGHUP`.
        signal: String,
    },
    /// We could not do our job: infrastructure, exit code 69.
    Broken {
        /// Where: a stage, or a step's id.
        stage: String,
        /// What failed.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A defect of ours: exit code 70.
    Bug {
        /// The panic's message and place.
        message: String,
    },
    /// Everything was said.
    RunFinished {
        /// Milliseconds of the whole run.
        wall_ms: u64,
    },
}

/// The tree that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Digest of the snapshot.
    pub sha256: String,
    /// `worktree`, `index`, or the commit that was asked for.
    pub source: String,
    /// HEAD, or the commit taken; none in a repository without one.
    pub commit: Option<String>,
    /// Files and links in it.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Whether tracked files differ from HEAD.
    pub dirty: bool,
    /// Files that git does not track and does not ignore: CI will not see them.
    pub untracked: Vec<String>,
}

/// The environment that the steps saw.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EnvironmentInfo {
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
    /// The container that it is seen in, in container mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerInfo>,
    /// The lock's image that the run found itself in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_image: Option<Box<InImage>>,
}

/// The image that a run found itself in: `ft ci` in a job that runs in the lock's image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InImage {
    /// The image, as the lock names it.
    pub image: String,
    /// What was measured, and is what the lock says of that image.
    pub contents: Contents,
}

/// What the containers of a run are made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerInfo {
    /// The image, by the engine's digest of its content.
    pub image: String,
    /// `Docker 20.10.24 at unix:///var/run/docker.sock`.
    pub engine: String,
    /// sha256 of the agent that is their first process, in hex.
    pub agent_sha256: String,
}

/// One wall as it was seen from inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wall {
    /// `network`, `memory`, ...
    pub wall: String,
    /// Whether it holds.
    pub enforced: bool,
    /// By what.
    pub mechanism: String,
    /// What was read or tried to know it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Somebody in a cell tried to reach the network. Text that the step chose has its control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Attempt {
    /// Counts from 0 in each step.
    pub id: u32,
    /// Milliseconds since the step's command started.
    pub at_ms: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// Process id in the cell.
    pub pid: u32,
    /// Command line of the process; empty where it could not be read.
    pub process: String,
    /// `pid command line` of its parents, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// The system call, or `lookup` for a question to the name server.
    pub call: String,
    /// `tcp`, `udp`, `dns`, `unix`, `netlink`; empty where unknown.
    pub protocol: String,
    /// The address, or the path of a unix socket; empty for a look-up.
    pub address: String,
    /// The port; 0 where there is none.
    pub port: u16,
    /// The name that was looked up for it; empty where unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The test that ran, where pytest ran one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub test: String,
    /// Why, where it needs saying.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// How often it was made in all, where that is known by now.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub count: u64,
}

fn once() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_once(count: &u64) -> bool {
    *count == 1
}

/// What became of an attempt to reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Refused: a violation.
    #[default]
    Denied,
    /// Refused, and `deny_quietly` says that this is expected.
    Quiet,
    /// No exchange with anybody: no violation.
    Note,
    /// Let through.
    Allowed,
}

/// How a step ended, and what it used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StepEnd {
    /// Exit status, where the command exited by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The timeout ran out.
    pub timed_out: bool,
    /// SIGKILL was needed.
    pub killed: bool,
    /// The run asked for its end (interrupt, fail-fast).
    pub cancelled: bool,
    /// It died of memory.
    pub out_of_memory: bool,
    /// It wrote more than its disk limit, and was ended for that.
    #[serde(default)]
    pub out_of_disk: bool,
    /// Milliseconds from start to end, pauses taken out.
    pub wall_ms: u64,
    /// Milliseconds of CPU, user and kernel, all its processes.
    pub cpu_ms: u64,
    /// Largest resident set of one process, bytes.
    pub peak_bytes: u64,
    /// Bytes it printed.
    pub output_bytes: u64,
    /// Bytes of that which were dropped over the limit.
    pub output_dropped: u64,
    /// sha256 of what was kept, in hex.
    pub output_sha256: String,
    /// Processes that it left behind.
    pub survivors: Vec<String>,
}

/// What the face of a run is shown beside the events: passing things that nobody records.
#[derive(Debug, Clone, PartialEq)]
pub enum Glimpse {
    /// A step printed something. `stream` is 1 for output, 2 for error output.
    Output {
        /// Step id.
        step: String,
        /// 1 or 2.
        stream: u8,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A stage moved on: `done` of `total` (0: unknown), in `unit`.
    Progress {
        /// The stage.
        stage: String,
        /// What is worked on.
        detail: String,
        /// How much is done.
        done: u64,
        /// Of how much; 0 where unknown.
        total: u64,
    },
}
