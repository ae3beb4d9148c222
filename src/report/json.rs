//! `parity_report.json`: the fields of the original tool, and what it left out. The order of the fields here is the
//! order in the file. Does not decide anything: exit code and findings come from the outcome.

use super::state::{StepState, state};
use crate::event::{self, Attempt, Verdict};
use crate::finding::Finding;
use crate::outcome::{Outcome, StepOutcome};
use crate::plan::Plan;
use crate::results::pytest::{TestReport, TestResult, name_hash};
use crate::step::{Network, Step};
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
    /// Attempts beyond those that are listed one by one.
    pub unlisted: u64,
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

/// The bytes of `parity_report.json`: indented JSON and a newline.
#[must_use]
pub fn json(outcome: &Outcome) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(&report(outcome))
        .expect("the report has text keys and no other numbers than finite ones");
    bytes.push(b'\n');
    bytes
}

/// The JSON Schema of the report.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).into()
}

/// The report as a value.
#[must_use]
pub fn report(outcome: &Outcome) -> Report {
    let findings = outcome.findings();
    let plan = outcome.plan.as_deref();
    let (warnings, failures): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.warning);
    Report {
        schema_version: SCHEMA_VERSION,
        ok: outcome.passed(),
        kind: outcome.kind.clone(),
        id: outcome.id.clone(),
        timestamp: outcome.timestamp.clone(),
        ft: outcome.ft.clone(),
        exit_code: outcome.exit().0,
        exit_status: outcome.exit().status(),
        advisory: plan.is_some_and(|plan| plan.advisory),
        python: plan.map_or_else(String::new, |plan| plan.python.clone()),
        lock_sha256: plan.map_or_else(String::new, |plan| plan.lock_sha256.clone()),
        tool_versions: plan.map_or_else(BTreeMap::new, |plan| plan.tool_versions.clone()),
        durations_sec: outcome
            .steps
            .iter()
            .filter_map(|step| Some((step.id.clone(), seconds(step.end.as_ref()?.wall_ms))))
            .collect(),
        duration_sec: outcome.wall_ms.map(seconds),
        thresholds: thresholds(plan, outcome),
        collection: collection(plan, outcome),
        failures: failures.into_iter().map(failure).collect(),
        warnings: warnings.into_iter().map(failure).collect(),
        broken: outcome
            .broken
            .iter()
            .map(|(stage, msg, hint)| Broken { stage: stage.clone(), msg: msg.clone(), hint: hint.clone() })
            .collect(),
        interrupted: outcome.interrupted.clone(),
        bug: outcome.bug.clone(),
        enforcement: enforcement(outcome),
        snapshot: outcome.snapshot.as_ref().map(snapshot),
        environment: outcome.environment.as_ref().map(environment),
        stages: outcome
            .stages
            .iter()
            .map(|(stage, ms, detail)| Stage {
                stage: stage.clone(),
                duration_sec: seconds(*ms),
                detail: detail.clone(),
            })
            .collect(),
        steps: plan.map_or_else(Vec::new, |plan| {
            plan.steps
                .iter()
                .zip(&outcome.steps)
                .map(|(step, result)| of_step(outcome, &findings, step, result))
                .collect()
        }),
        artifacts: outcome
            .artifacts
            .iter()
            .map(|(step, path, bytes, sha256)| Artifact {
                step: step.clone(),
                path: path.clone(),
                bytes: *bytes,
                sha256: sha256.clone(),
            })
            .collect(),
        refused: outcome
            .refused
            .iter()
            .map(|(step, path, why)| Refused { step: step.clone(), path: path.clone(), why: why.clone() })
            .collect(),
    }
}

/// The walls over all steps that started: one holds only where it held in each of them.
#[must_use]
pub fn enforcement(outcome: &Outcome) -> Enforcement {
    let started: Vec<&StepOutcome> = outcome.steps.iter().filter(|step| step.started).collect();
    let mut names: Vec<&str> = Vec::new();
    for wall in started.iter().flat_map(|step| &step.enforcement) {
        if !names.contains(&wall.wall.as_str()) {
            names.push(&wall.wall);
        }
    }
    let walls = names.into_iter().map(|name| {
        let mut mechanisms: Vec<String> = Vec::new();
        let mut not_in = Vec::new();
        for step in &started {
            match step.enforcement.iter().find(|wall| wall.wall == name) {
                Some(wall) if wall.enforced => {
                    if !mechanisms.contains(&wall.mechanism) {
                        mechanisms.push(wall.mechanism.clone());
                    }
                }
                _ => not_in.push(step.id.clone()),
            }
        }
        WallReport { wall: name.to_owned(), enforced: not_in.is_empty(), mechanisms, not_in }
    });
    Enforcement { cell: outcome.plan.as_ref().map(|plan| plan.cell), walls: walls.collect() }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn failure(finding: &Finding) -> Failure {
    Failure {
        code: finding.code.id(),
        gate: finding.gate.clone(),
        msg: finding.message.clone(),
        hint: finding.hint.clone(),
    }
}

fn thresholds(plan: Option<&Plan>, outcome: &Outcome) -> Thresholds {
    let Some(plan) = plan else { return Thresholds::default() };
    let wanted = &plan.judge.thresholds;
    Thresholds {
        coverage_min: wanted.coverage_min,
        coverage_total: outcome.steps.iter().rev().find_map(|step| step.coverage).map(|coverage| coverage.ratio),
        bandit_severity_max: wanted.bandit_severity_max,
        max_warnings: wanted.max_warnings,
        allow_flaky: wanted.allow_flaky,
    }
}

fn collection(plan: Option<&Plan>, outcome: &Outcome) -> Collection {
    let expected = plan.map(|plan| plan.judge.collection.clone()).unwrap_or_default();
    let reports: Vec<&TestReport> = outcome.steps.iter().filter_map(|step| step.tests.as_deref()).collect();
    let ids = || reports.iter().flat_map(|report| report.collected.iter().map(String::as_str));
    let known = !reports.is_empty();
    Collection {
        expected_count: expected.expected_count,
        expected_hash: expected.name_hash_sha256,
        allow_uncollected: expected.allow_uncollected,
        count: known.then(|| ids().count() as u64),
        hash: known.then(|| name_hash(ids())),
    }
}

fn snapshot(info: &event::SnapshotInfo) -> Snapshot {
    let event::SnapshotInfo { sha256, source, commit, entries, bytes, dirty, untracked } = info.clone();
    Snapshot { sha256, source, commit, dirty, entries, bytes, untracked }
}

fn environment(info: &event::EnvironmentInfo) -> Environment {
    let event::EnvironmentInfo { key, path, python, built, installer, packages } = info.clone();
    Environment { key, path, python, built, installer, packages }
}

fn of_step(outcome: &Outcome, findings: &[Finding], step: &Step, result: &StepOutcome) -> StepReport {
    let end = result.end.as_ref();
    let flag = |read: fn(&event::StepEnd) -> bool| end.is_some_and(read);
    StepReport {
        step: step.id.clone(),
        gate: step.gate.word().to_owned(),
        state: state(outcome, findings, result),
        skipped: result.skipped.clone(),
        argv: step.argv.clone(),
        cwd: step.cwd.to_string(),
        exit: end.and_then(|end| end.code),
        signal: end.and_then(|end| end.signal),
        timed_out: flag(|end| end.timed_out),
        killed: flag(|end| end.killed),
        cancelled: flag(|end| end.cancelled),
        out_of_memory: flag(|end| end.out_of_memory),
        duration_sec: end.map(|end| seconds(end.wall_ms)),
        timeout_sec: seconds(step.timeout_ms),
        cpu_sec: end.map(|end| seconds(end.cpu_ms)),
        peak_memory_bytes: end.map(|end| end.peak_bytes),
        output: end.map(|end| Output {
            bytes: end.output_bytes,
            dropped: end.output_dropped,
            sha256: end.output_sha256.clone(),
            log: format!("logs/{}.log", step.id),
        }),
        survivors: end.map_or_else(Vec::new, |end| end.survivors.clone()),
        network: network(&step.network, result),
        enforcement: result.enforcement.iter().map(wall).collect(),
        tests: result.tests.as_deref().map(tests),
        coverage: result.coverage.map(|c| Coverage { covered: c.covered, total: c.total, ratio: c.ratio }),
        security: result.security.as_ref().map(|report| Security {
            high: report.high,
            medium: report.medium,
            low: report.low,
            issues: report
                .issues
                .iter()
                .map(|issue| Issue {
                    test_id: issue.test_id.clone(),
                    severity: issue.severity,
                    path: issue.path.clone(),
                    line: issue.line,
                    msg: issue.text.clone(),
                })
                .collect(),
            errors: report.errors.clone(),
        }),
        missing: result.missing.clone(),
    }
}

fn network(policy: &Network, result: &StepOutcome) -> NetworkReport {
    let (word, allowed) = match policy {
        Network::Loopback => ("loopback", Vec::new()),
        Network::Allow(hosts) => ("allow", hosts.clone()),
        Network::Open => ("open", Vec::new()),
    };
    let of = |verdict: Verdict| result.network.iter().filter(|a| a.verdict == verdict).cloned().collect();
    NetworkReport {
        policy: word.to_owned(),
        allowed,
        denied: of(Verdict::Denied),
        denied_quietly: of(Verdict::Quiet),
        notes: of(Verdict::Note),
        observed: of(Verdict::Allowed),
        unlisted: result.unlisted,
    }
}

fn wall(wall: &event::Wall) -> Wall {
    let event::Wall { wall, enforced, mechanism, detail } = wall.clone();
    Wall { wall, enforced, mechanism, detail }
}

fn tests(report: &TestReport) -> Tests {
    let count = |result| report.count(result) as u64;
    let notes = |results: &[TestResult]| {
        report
            .tests
            .iter()
            .filter(|test| results.contains(&test.result))
            .map(|test| TestNote { id: test.id.clone(), msg: test.message.clone() })
            .collect()
    };
    Tests {
        collected: report.collected.len() as u64,
        deselected: report.deselected,
        passed: count(TestResult::Passed),
        failed: count(TestResult::Failed),
        errors: count(TestResult::Error),
        skipped: count(TestResult::Skipped),
        xfailed: count(TestResult::Xfailed),
        xpassed: count(TestResult::Xpassed),
        flaky: report.flaky().map(|test| test.id.clone()).collect(),
        warnings: report.warnings,
        failures: notes(&[TestResult::Failed, TestResult::Error]),
        skips: notes(&[TestResult::Skipped]),
        collect_errors: report
            .collect_errors
            .iter()
            .map(|error| TestNote { id: error.id.clone(), msg: error.message.clone() })
            .collect(),
        finished: report.finished,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use serde_json::Value;

    #[test]
    fn the_fields_of_the_original_and_of_the_design_are_there_whatever_happened() {
        for outcome in [
            sample::failed(),
            sample::passed(),
            sample::stopped(),
            sample::broken(),
            sample::interrupted(),
            Outcome::default(),
        ] {
            let value: Value = serde_json::from_slice(&json(&outcome)).unwrap();
            for field in [
                // the original
                "ok",
                "type",
                "python",
                "timestamp",
                "tool_versions",
                "durations_sec",
                "thresholds",
                "collection",
                "failures",
                // DESIGN section 10
                "schema_version",
                "exit_code",
                "exit_status",
                "enforcement",
                "snapshot",
                "environment",
                "steps",
                // what else a reader needs to trust it
                "warnings",
                "broken",
                "interrupted",
                "bug",
                "advisory",
                "artifacts",
                "refused",
            ] {
                assert!(value.get(field).is_some(), "{field} is missing");
            }
            for field in ["expected_count", "expected_hash", "allow_uncollected", "count", "hash"] {
                assert!(value["collection"].get(field).is_some(), "collection.{field} is missing");
            }
            for step in value["steps"].as_array().unwrap() {
                for field in [
                    "argv",
                    "gate",
                    "exit",
                    "signal",
                    "duration_sec",
                    "cpu_sec",
                    "peak_memory_bytes",
                    "output",
                    "timed_out",
                    "survivors",
                    "network",
                    "tests",
                ] {
                    assert!(step.get(field).is_some(), "steps[].{field} is missing");
                }
            }
            for failure in value["failures"].as_array().unwrap() {
                let keys: Vec<_> = failure.as_object().unwrap().keys().collect();
                assert_eq!(keys, ["code", "gate", "msg", "hint"]);
            }
        }
    }

    #[test]
    fn a_failed_run_is_reported_so() {
        insta::assert_snapshot!(String::from_utf8(json(&sample::failed())).unwrap());
    }

    #[test]
    fn the_report_is_read_back_as_it_was_written() {
        let report = report(&sample::failed());
        let read: Report = serde_json::from_slice(&json(&sample::failed())).unwrap();
        assert_eq!(read, report);
    }

    #[test]
    fn ok_is_true_for_a_run_that_passed_and_for_nothing_else() {
        assert!(report(&sample::passed()).ok);
        let mut advisory = sample::failed();
        advisory.plan.as_mut().unwrap().advisory = true;
        for outcome in
            [sample::failed(), sample::stopped(), sample::broken(), sample::interrupted(), Outcome::default(), advisory]
        {
            assert!(!report(&outcome).ok);
        }
    }

    #[test]
    fn a_wall_holds_only_where_it_held_in_every_step() {
        let mut outcome = sample::passed();
        outcome.steps[1].enforcement[0].enforced = false;
        outcome.steps[2].enforcement.remove(1);
        let walls = enforcement(&outcome).walls;
        assert_eq!(walls[0].not_in, ["pytest"]);
        assert_eq!(walls[1].not_in, ["bandit"]);
        assert!(walls.iter().all(|wall| !wall.enforced));
    }
}
