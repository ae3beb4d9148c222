//! Runs to tell about, as the events they leave behind.

use crate::code::ParityCode;
use crate::event::{Attempt, EVENTS_VERSION, EnvironmentInfo, Event, EventKind, SnapshotInfo, StepEnd, Verdict, Wall};
use crate::finding::Finding;
use crate::lock::{CellKind, Collection, Severity, Thresholds};
use crate::outcome::Outcome;
use crate::plan::{Judge, Plan};
use crate::results::bandit::{Issue, SecurityReport};
use crate::results::coverage::Coverage;
use crate::results::pytest::{TestCase, TestReport, TestResult};
use crate::step::{Gate, Limits, Network, Reader, Step};

/// Events with numbers and times: 100 ms between two of them.
pub fn events(kinds: impl IntoIterator<Item = EventKind>) -> Vec<Event> {
    kinds.into_iter().zip(0..).map(|(kind, seq)| Event { seq, at_ms: seq * 100, kind }).collect()
}

pub fn start(kind: &str) -> EventKind {
    EventKind::RunStarted {
        events_version: EVENTS_VERSION,
        id: "20260102-030405-abcd".into(),
        timestamp: "2026-01-02T03:04:05Z".into(),
        ft: "0.1.0".into(),
        kind: kind.into(),
        repository: "/home/dev/shop".into(),
    }
}

pub fn step(id: &str, gate: Gate, reader: Reader) -> Step {
    Step {
        id: id.into(),
        gate,
        argv: vec![format!("/ft/env/bin/{id}"), "check".into(), "a file".into()],
        env: [("HOME".to_owned(), "/ft/home".to_owned())].into(),
        cwd: "".into(),
        timeout_ms: 900_000,
        grace_ms: 5000,
        network: Network::Loopback,
        deny_quietly: Vec::new(),
        limits: Limits { memory_bytes: Some(2 << 30), pids: Some(512), ..Limits::default() },
        needs: Vec::new(),
        project: true,
        tree: true,
        collect: Vec::new(),
        on_fail: gate.on_fail(),
        on_timeout: ParityCode::STEP_TIMEOUT,
        reader,
    }
}

pub fn plan() -> Plan {
    Plan {
        command: "run".into(),
        lock_sha256: "11".repeat(32),
        cell: CellKind::Namespaces,
        python: "3.11.7".into(),
        environment: Some("py311-1a2b3c".into()),
        tool_versions: [("ruff".to_owned(), "0.14.4".to_owned()), ("pytest".to_owned(), "8.4.2".to_owned())].into(),
        parallel: 2,
        fail_fast: false,
        advisory: false,
        steps: vec![
            step("ruff", Gate::Lint, Reader::Plain),
            step("pytest", Gate::Tests, Reader::Pytest),
            step("bandit", Gate::Security, Reader::Bandit("/ft/out/bandit.json".into())),
            step("coverage", Gate::Coverage, Reader::Coverage),
        ],
        judge: Judge {
            thresholds: Thresholds {
                coverage_min: Some(0.7),
                bandit_severity_max: Some(Severity::Medium),
                max_warnings: None,
                allow_flaky: false,
            },
            collection: Collection { expected_count: Some(4), ..Collection::default() },
            collection_manifest: None,
            required_artifacts: Vec::new(),
            added_is_fine: false,
        },
    }
}

pub fn walls() -> Vec<Wall> {
    let wall = |wall: &str, enforced, mechanism: &str, detail: &str| Wall {
        wall: wall.into(),
        enforced,
        mechanism: mechanism.into(),
        detail: detail.into(),
    };
    vec![
        wall("network", true, "network namespace", "only lo"),
        wall("memory", true, "cgroup", "memory.max 2147483648"),
        wall("disk", false, "", "no quota on overlay"),
    ]
}

pub fn ended(step: &str, code: i32, wall_ms: u64) -> EventKind {
    EventKind::StepEnded {
        step: step.into(),
        end: StepEnd {
            code: Some(code),
            wall_ms,
            cpu_ms: wall_ms * 2,
            peak_bytes: 50 << 20,
            output_bytes: 1234,
            output_sha256: "22".repeat(32),
            ..StepEnd::default()
        },
    }
}

pub fn started(step: &str) -> EventKind {
    EventKind::StepStarted { step: step.into(), enforcement: walls() }
}

pub fn before() -> Vec<EventKind> {
    vec![
        start("parity"),
        EventKind::StageStarted { stage: "snapshot".into(), detail: "the worktree".into() },
        EventKind::StageFinished { stage: "snapshot".into(), wall_ms: 31, detail: "630 files".into() },
        EventKind::SnapshotTaken {
            snapshot: SnapshotInfo {
                sha256: "33".repeat(32),
                source: "worktree".into(),
                commit: Some("4444444".into()),
                entries: 630,
                bytes: 3_500_000,
                dirty: true,
                untracked: ["a.py", "b.py", "c.py", "d.py", "e.py", "f.py"].map(String::from).to_vec(),
            },
        },
        EventKind::EnvironmentReady {
            environment: EnvironmentInfo {
                key: "py311-1a2b3c".into(),
                path: ".firsttry/env/py311-1a2b3c".into(),
                python: "3.11.7".into(),
                built: false,
                installer: "uv 0.9.2".into(),
                packages: [("ruff".to_owned(), "0.14.4".to_owned())].into(),
                container: None,
                in_image: None,
            },
        },
        EventKind::Planned { plan: Box::new(plan()) },
    ]
}

pub fn tests(failing: bool) -> TestReport {
    let test = |id: &str, result, message: &str, reruns| TestCase {
        id: id.into(),
        result,
        seconds: 0.25,
        message: message.into(),
        reruns,
    };
    let mut tests = vec![
        test("tests/test_a.py::test_one", TestResult::Passed, "", 0),
        test("tests/test_a.py::TestX::test_two[\u{1b}[31m-a::b]", TestResult::Passed, "", 0),
        test("tests/test_b.py::test_three", TestResult::Skipped, "needs a display", 0),
        test("tests/test_b.py::test_four", TestResult::Xfailed, "known", 0),
    ];
    if failing {
        tests[0] = test(
            "tests/test_a.py::test_one",
            TestResult::Failed,
            "def test_one():\n>       assert 1 == 2\nE       assert 1 == 2\n\ntests/test_a.py:4: \u{1b}[31mAssertionError\u{1b}[0m",
            0,
        );
        tests[1].reruns = 1;
    }
    TestReport {
        collected: tests.iter().map(|t| t.id.clone()).collect(),
        tests,
        finished: true,
        exit_status: Some(i32::from(failing)),
        ..TestReport::default()
    }
}

/// One run whose tests, security and coverage fail, with a warning of preflight.
pub fn failed_events() -> Vec<Event> {
    let mut kinds = before();
    kinds.extend([
        EventKind::Found {
            finding: Finding::new(ParityCode::TREE_NOT_CI, "preflight", "6 files are not tracked").as_warning(),
        },
        started("ruff"),
        started("pytest"),
        ended("ruff", 0, 120),
        started("bandit"),
        EventKind::NetworkAttempted {
            step: "pytest".into(),
            attempt: Box::new(Attempt {
                at_ms: 210,
                process: "python3 -m pytest".into(),
                parents: vec!["2 sh -c test".into()],
                pid: 7,
                call: "connect".into(),
                protocol: "tcp".into(),
                address: "192.0.2.1".into(),
                port: 443,
                test: "tests/test_a.py::TestX::test_two[\\u{1b}[31m-a::b]".into(),
                count: 1,
                ..Attempt::default()
            }),
        },
        EventKind::NetworkRepeated { step: "pytest".into(), id: 0, count: 3 },
        EventKind::NetworkAttempted {
            step: "pytest".into(),
            attempt: Box::new(Attempt {
                id: 1,
                at_ms: 250,
                verdict: Verdict::Quiet,
                process: "python3 -m pytest".into(),
                pid: 7,
                call: "lookup".into(),
                protocol: "dns".into(),
                name: "telemetry.example".into(),
                count: 1,
                ..Attempt::default()
            }),
        },
        EventKind::StepEnded {
            step: "bandit".into(),
            end: StepEnd { code: Some(1), wall_ms: 2300, survivors: vec!["9 sleep".into()], ..StepEnd::default() },
        },
        EventKind::IssuesReported {
            step: "bandit".into(),
            report: SecurityReport {
                low: 3,
                medium: 0,
                high: 1,
                issues: vec![Issue {
                    test_id: "B602".into(),
                    severity: Severity::High,
                    path: "src/shop.py".into(),
                    line: 12,
                    text: "subprocess call with shell=True".into(),
                }],
                errors: Vec::new(),
            },
        },
        ended("pytest", 1, 3210),
        EventKind::TestsReported { step: "pytest".into(), report: Box::new(tests(true)) },
        EventKind::ArtifactReceived {
            step: "pytest".into(),
            path: "artifacts/coverage.xml".into(),
            bytes: 10,
            sha256: "55".repeat(32),
        },
        EventKind::ArtifactRefused { step: "pytest".into(), path: "artifacts/link".into(), why: "a link".into() },
        started("coverage"),
        ended("coverage", 0, 300),
        EventKind::CoverageMeasured {
            step: "coverage".into(),
            coverage: Coverage { covered: 6999, total: 10_000, ratio: 0.6999 },
        },
        EventKind::RunFinished { wall_ms: 5700 },
    ]);
    events(kinds)
}

pub fn failed() -> Outcome {
    Outcome::fold(&failed_events())
}

pub fn passed_events() -> Vec<Event> {
    let mut kinds = before();
    for id in ["ruff", "pytest", "bandit", "coverage"] {
        kinds.extend([started(id), ended(id, 0, 1500)]);
    }
    kinds.extend([
        EventKind::TestsReported { step: "pytest".into(), report: Box::new(tests(false)) },
        EventKind::IssuesReported { step: "bandit".into(), report: SecurityReport::default() },
        EventKind::CoverageMeasured {
            step: "coverage".into(),
            coverage: Coverage { covered: 80, total: 100, ratio: 0.8 },
        },
        EventKind::RunFinished { wall_ms: 12_345 },
    ]);
    events(kinds)
}

pub fn passed() -> Outcome {
    Outcome::fold(&passed_events())
}

/// Preflight finds another tool version, so nothing starts.
pub fn stopped() -> Outcome {
    let mut kinds = before();
    kinds.extend([
        EventKind::Found {
            finding: Finding::new(ParityCode::TOOL_VERSION, "ruff", "ruff is 0.13.0, the lock says 0.14.4"),
        },
        EventKind::RunFinished { wall_ms: 12 },
    ]);
    Outcome::fold(&events(kinds))
}

/// A step's stream is cut.
pub fn broken() -> Outcome {
    let mut kinds = before();
    kinds.extend([
        started("ruff"),
        EventKind::Broken {
            stage: "ruff".into(),
            message: "stream cut after 12 frames".into(),
            hint: "run it again".into(),
        },
        EventKind::RunFinished { wall_ms: 900 },
    ]);
    Outcome::fold(&events(kinds))
}

/// Ctrl-C while pytest runs.
pub fn interrupted() -> Outcome {
    let mut kinds = before();
    kinds.extend([
        started("ruff"),
        ended("ruff", 0, 120),
        started("pytest"),
        EventKind::Interrupted { signal: "SIGINT".into() },
        EventKind::StepEnded {
            step: "pytest".into(),
            end: StepEnd { signal: Some(15), cancelled: true, wall_ms: 2000, ..StepEnd::default() },
        },
        EventKind::StepSkipped { step: "bandit".into(), why: "the run was interrupted".into() },
        EventKind::StepSkipped { step: "coverage".into(), why: "the run was interrupted".into() },
        EventKind::RunFinished { wall_ms: 2300 },
    ]);
    Outcome::fold(&events(kinds))
}

/// The run that the README shows, and the tails of its logs.
pub fn readme() -> (Outcome, std::collections::BTreeMap<String, String>) {
    let mut plan = plan();
    plan.steps.truncate(2);
    plan.judge = Judge::default();
    let mut report = tests(false);
    report.tests.truncate(2);
    report.tests[0].result = TestResult::Failed;
    let kinds = [
        start("parity"),
        EventKind::Planned { plan: Box::new(plan) },
        EventKind::StepStarted { step: "ruff".into(), enforcement: walls()[..2].to_vec() },
        EventKind::StepStarted { step: "pytest".into(), enforcement: walls()[..2].to_vec() },
        ended("ruff", 0, 120),
        ended("pytest", 1, 3210),
        EventKind::TestsReported { step: "pytest".into(), report: Box::new(report) },
        EventKind::RunFinished { wall_ms: 3400 },
    ];
    let tail = "FAILED tests/test_a.py::test_one - assert 1 == 2\n1 failed, 1 passed in 2.98s\n";
    (Outcome::fold(&events(kinds)), [("pytest".to_owned(), tail.to_owned())].into())
}
