use super::*;
use crate::event::{Attempt, EventKind};
use crate::lock::Collection;
use crate::report::sample::{ended, events, plan, start, started};
use crate::results::pytest::{TestCase, TestResult};
use proptest::prelude::*;

fn run(kinds: Vec<EventKind>) -> Vec<Event> {
    run_of(plan(), kinds)
}

fn run_of(plan: Plan, kinds: Vec<EventKind>) -> Vec<Event> {
    let head = [start("parity"), EventKind::Planned { plan: Box::new(plan) }];
    events(head.into_iter().chain(kinds).chain([EventKind::RunFinished { wall_ms: 9 }]))
}

fn report(collected: usize, failed: usize) -> TestReport {
    let ids = |n: usize| (0..n).map(|i| format!("t.py::t{i}"));
    TestReport {
        collected: ids(collected).collect(),
        tests: ids(collected)
            .enumerate()
            .map(|(i, id)| TestCase {
                id,
                result: if i < failed { TestResult::Failed } else { TestResult::Passed },
                seconds: 0.1,
                message: String::new(),
                reruns: 0,
            })
            .collect(),
        finished: true,
        exit_status: Some(i32::from(failed > 0)),
        ..TestReport::default()
    }
}

/// Every step of the sample plan as it should be.
fn good() -> Vec<EventKind> {
    let coverage = Coverage { covered: 8, total: 10, ratio: 0.8 };
    vec![
        started("ruff"),
        ended("ruff", 0, 1),
        started("pytest"),
        ended("pytest", 0, 1),
        EventKind::TestsReported { step: "pytest".into(), report: Box::new(report(4, 0)) },
        started("bandit"),
        ended("bandit", 0, 1),
        EventKind::IssuesReported { step: "bandit".into(), report: SecurityReport::default() },
        started("coverage"),
        ended("coverage", 0, 1),
        EventKind::CoverageMeasured { step: "coverage".into(), coverage },
    ]
}

/// The exit of a good run in which the events of one kind were changed.
fn changed(change: impl Fn(&mut EventKind)) -> ExitCode {
    let mut kinds = good();
    kinds.iter_mut().for_each(change);
    Outcome::fold(&run(kinds)).exit()
}

fn end_of(kind: &mut EventKind, id: &str) -> Option<StepEnd> {
    match kind {
        EventKind::StepEnded { step, end } if step == id => Some(end.clone()),
        _ => None,
    }
}

#[test]
fn a_run_in_which_everything_is_as_it_should_be_passes() {
    let outcome = Outcome::fold(&run(good()));
    assert_eq!(outcome.findings(), []);
    assert!(outcome.passed());
}

#[test]
fn each_result_that_deviates_has_its_code() {
    let set_end = |id: &'static str, end: StepEnd| {
        changed(move |kind| {
            if end_of(kind, id).is_some() {
                *kind = EventKind::StepEnded { step: id.into(), end: end.clone() };
            }
        })
    };
    let set_tests = |report: TestReport| {
        changed(move |kind| {
            if let EventKind::TestsReported { report: old, .. } = kind {
                **old = report.clone();
            }
        })
    };
    let exit = |code: i32| StepEnd { code: Some(code), ..StepEnd::default() };
    assert_eq!(set_end("ruff", exit(1)), ExitCode(211));
    assert_eq!(set_end("ruff", StepEnd { timed_out: true, signal: Some(9), ..StepEnd::default() }), ExitCode(222));
    // A tool that exits with one of our numbers by itself is only a tool that failed.
    assert_eq!(set_end("ruff", exit(222)), ExitCode(211));
    assert_eq!(set_end("bandit", exit(2)), ExitCode(241));
    assert_eq!(set_tests(report(4, 1)), ExitCode(221));
    assert_eq!(set_tests(report(3, 0)), ExitCode(223));
    assert_eq!(set_tests(TestReport { finished: false, ..report(4, 0) }), ExitCode(221));
    let mut flaky = report(4, 0);
    flaky.tests[0].reruns = 1;
    assert_eq!(set_tests(flaky), ExitCode(221));
    let below = changed(|kind| {
        if let EventKind::CoverageMeasured { coverage, .. } = kind {
            *coverage = Coverage { covered: 699_999, total: 1_000_000, ratio: 0.699_999 };
        }
    });
    assert_eq!(below, ExitCode(231));
    let issue = changed(|kind| {
        if let EventKind::IssuesReported { report, .. } = kind {
            report.high = 1;
        }
    });
    assert_eq!(issue, ExitCode(242));
}

#[test]
fn results_that_are_not_there_are_no_pass() {
    for gone in ["tests_reported", "issues_reported", "coverage_measured"] {
        let kinds = good().into_iter().filter(|kind| serde_json::to_value(kind).unwrap()["event"] != gone).collect();
        assert_ne!(Outcome::fold(&run(kinds)).exit(), ExitCode::PASSED, "without {gone}");
    }
}

#[test]
fn within_a_step_the_network_comes_before_the_timeout_and_that_before_its_own_failure() {
    let mut kinds = good();
    let end = StepEnd { code: Some(1), timed_out: true, ..StepEnd::default() };
    kinds[1] = EventKind::StepEnded { step: "ruff".into(), end };
    assert_eq!(Outcome::fold(&run(kinds.clone())).exit(), ExitCode(222));
    let denied = EventKind::NetworkAttempted {
        step: "ruff".into(),
        attempt: Box::new(Attempt {
            process: "ruff".into(),
            pid: 3,
            call: "connect".into(),
            protocol: "tcp".into(),
            address: "192.0.2.1".into(),
            port: 80,
            count: 1,
            ..Attempt::default()
        }),
    };
    kinds.insert(1, denied);
    assert_eq!(Outcome::fold(&run(kinds)).exit(), ExitCode(251));
}

#[test]
fn bugs_come_before_signals_before_infrastructure_before_findings() {
    let with = |more: Vec<EventKind>| {
        let mut kinds = good();
        kinds[1] = ended("ruff", 1, 1);
        kinds.extend(more);
        Outcome::fold(&run(kinds)).exit()
    };
    let broken = || EventKind::Broken { stage: "x".into(), message: "x".into(), hint: String::new() };
    let signal = |signal: &str| EventKind::Interrupted { signal: signal.into() };
    let bug = || EventKind::Bug { message: "x".into() };
    assert_eq!(with(vec![]), ExitCode(211));
    assert_eq!(with(vec![broken()]), ExitCode::INFRASTRUCTURE);
    assert_eq!(with(vec![broken(), signal("SIGINT")]), ExitCode::INTERRUPTED);
    assert_eq!(with(vec![signal("SIGTERM"), broken()]), ExitCode::TERMINATED);
    assert_eq!(with(vec![signal("SIGINT"), bug(), broken()]), ExitCode::BUG);
}

#[test]
fn an_advisory_run_with_findings_exits_0_and_has_not_passed() {
    let mut kinds = good();
    kinds[1] = ended("ruff", 1, 1);
    let outcome = Outcome::fold(&run_of(Plan { advisory: true, ..plan() }, kinds));
    assert_eq!(outcome.exit(), ExitCode::PASSED);
    assert!(!outcome.passed());
}

#[test]
fn the_collection_is_compared_over_all_test_steps_or_not_at_all() {
    let mut plan = plan();
    plan.judge.collection = Collection { expected_count: Some(8), ..Collection::default() };
    let outcome = Outcome::fold(&run_of(plan.clone(), good()));
    assert_eq!(outcome.codes(), [ParityCode::COLLECTION_DIFFERS]);
    plan.judge.collection.allow_uncollected = true;
    assert!(Outcome::fold(&run_of(plan, good())).passed());
}

#[test]
fn a_scan_with_only_issues_that_the_lock_allows_has_succeeded() {
    let outcome = Outcome::fold(&run(vec![]));
    let low = |low| SecurityReport { low, ..SecurityReport::default() };
    let events = |report: SecurityReport| {
        vec![ended("bandit", 1, 1), EventKind::IssuesReported { step: "bandit".into(), report }]
    };
    assert!(outcome.step_succeeds("bandit", &events(low(1))), "the sample plan allows up to MEDIUM");
    assert!(!outcome.step_succeeds("bandit", &events(SecurityReport { high: 1, ..low(0) })));
    assert!(!outcome.step_succeeds("bandit", &[]), "nothing is known about it");
}

#[test]
fn a_parity_run_that_left_a_step_out_is_no_pass() {
    let mut kinds = good();
    kinds.retain(|kind| end_of(&mut kind.clone(), "ruff").is_none());
    kinds.push(EventKind::StepSkipped { step: "ruff".into(), why: "x".into() });
    assert_eq!(Outcome::fold(&run(kinds)).exit(), ExitCode::INFRASTRUCTURE);
    let cancelled = changed(|kind| {
        if let Some(end) = end_of(kind, "ruff") {
            *kind = EventKind::StepEnded { step: "ruff".into(), end: StepEnd { cancelled: true, ..end } };
        }
    });
    assert_eq!(cancelled, ExitCode::INFRASTRUCTURE);
}

#[test]
fn a_suite_that_is_gone_differs_from_the_lock() {
    let mut kinds = good();
    for kind in &mut kinds {
        if let EventKind::TestsReported { report: old, .. } = kind {
            **old = TestReport { exit_status: Some(5), ..report(0, 0) };
        }
    }
    let codes = Outcome::fold(&run(kinds)).codes();
    assert!(codes.contains(&ParityCode::COLLECTION_DIFFERS), "{codes:?}");
}

#[test]
fn tests_that_nothing_collects_can_not_be_as_expected() {
    let mut plan = plan();
    plan.steps[1].reader = crate::step::Reader::Plain;
    let codes = Outcome::fold(&run_of(plan, good())).codes();
    assert!(codes.contains(&ParityCode::COLLECTION_FAILED), "{codes:?}");
}

proptest! {
    /// Wherever the record of a good run is cut off, nobody takes it for a pass.
    #[test]
    fn a_record_that_was_cut_off_is_no_pass(cut in 0usize..13) {
        let whole = run(good());
        prop_assume!(cut < whole.len());
        prop_assert_ne!(Outcome::fold(&whole[..cut]).exit(), ExitCode::PASSED);
    }

    /// An event that got lost never makes a failing run pass.
    #[test]
    fn a_failing_run_that_lost_an_event_does_not_pass(lost in 0usize..14) {
        let mut kinds = good();
        kinds[1] = ended("ruff", 1, 1);
        let mut events = run(kinds);
        prop_assume!(lost < events.len());
        // The fold starts with the first event, and with the failing end itself the failure is gone.
        prop_assume!(lost != 0);
        events.remove(lost);
        prop_assert_ne!(Outcome::fold(&events).exit(), ExitCode::PASSED);
    }

    /// Law: the outcome of a live run equals that of its replayed events.
    #[test]
    fn a_replayed_record_has_the_same_outcome(cut in 0usize..14, code in 0i32..3) {
        let mut kinds = good();
        kinds[1] = ended("ruff", code, 7);
        kinds.truncate(cut);
        let live = run(kinds);
        let lines: Vec<String> = live.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        let replayed: Vec<Event> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        prop_assert_eq!(Outcome::fold(&replayed), Outcome::fold(&live));
        prop_assert_eq!(replayed, live);
    }
}
