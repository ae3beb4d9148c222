//! `junit.xml`: one suite per step with tests, and one for all other steps. Times are those of the run; nothing else
//! makes two files of the same outcome differ.
//!
//! A refused attempt to reach the network stands twice: as `system-err` of the test that made it, and as the failure of
//! the step's own test case. The test keeps the result that pytest gave it: whoever counts or compares tests over runs
//! sees those of pytest, and the file is red all the same.

use super::neutral::neutral;
use super::state::{StepState, state};
use crate::code::ParityCode;
use crate::escape::{LONGEST, escaped};
use crate::event::{Attempt, Verdict};
use crate::finding::Finding;
use crate::outcome::violation::sentence;
use crate::outcome::{Outcome, StepOutcome};
use crate::results::pytest::{self, TestReport, TestResult};
use crate::step::Step;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};
use std::time::Duration;

/// The bytes of `junit.xml`.
#[must_use]
pub fn junit(outcome: &Outcome) -> Vec<u8> {
    let findings = outcome.findings();
    let mut report = Report::new("ft");
    if let Some(ms) = outcome.wall_ms {
        report.set_time(Duration::from_millis(ms));
    }
    let mut others = TestSuite::new("ft");
    for (step, result) in outcome.plan.iter().flat_map(|plan| plan.steps.iter()).zip(&outcome.steps) {
        match &result.tests {
            Some(tests) => {
                let mut suite = TestSuite::new(attribute(&step.id));
                if let Some(end) = &result.end {
                    suite.set_time(Duration::from_millis(end.wall_ms));
                }
                suite.add_test_cases(tests.tests.iter().map(|one| test(one, &result.network)));
                suite.add_test_cases(tests.collect_errors.iter().map(collect_error));
                let unsaid = unsaid(step, tests, &findings);
                let state = state(outcome, &findings, result);
                if !unsaid.is_empty() || !matches!(state, StepState::Good | StepState::Failed) {
                    suite.add_test_case(of_step(outcome, step, result, state, &unsaid));
                }
                report.add_test_suite(suite);
            }
            None => {
                let own: Vec<&Finding> = findings.iter().filter(|f| !f.warning && f.gate == step.id).collect();
                others.add_test_case(of_step(outcome, step, result, state(outcome, &findings, result), &own));
            }
        }
    }
    for gate in beside_steps(outcome, &findings) {
        let own: Vec<&Finding> = findings.iter().filter(|f| !f.warning && f.gate == gate).collect();
        let mut case = TestCase::new(attribute(gate), failure(&own));
        case.set_classname("ft");
        others.add_test_case(case);
    }
    // A step without an end has it in its own test case.
    let told = |stage: &str| outcome.step(stage).is_some_and(|(_, result)| result.end.is_none());
    for (stage, message, _) in outcome.broken.iter().filter(|(stage, ..)| !told(stage)) {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(attribute(message)).set_type("infrastructure");
        let mut case = TestCase::new(attribute(stage), status);
        case.set_classname("ft.broken");
        others.add_test_case(case);
    }
    report.add_test_suite(others);
    let mut bytes = Vec::new();
    report.serialize(&mut bytes).expect("writing to memory does not fail");
    bytes
}

/// Gates of findings that belong to no step: `preflight`, `collection`, `artifacts`; each once, in their order.
fn beside_steps<'a>(outcome: &Outcome, findings: &'a [Finding]) -> Vec<&'a str> {
    let mut gates: Vec<&str> = Vec::new();
    for finding in findings.iter().filter(|finding| !finding.warning) {
        let known = gates.contains(&finding.gate.as_str()) || outcome.steps.iter().any(|step| step.id == finding.gate);
        if !known {
            gates.push(&finding.gate);
        }
    }
    gates
}

/// The step's own findings that none of its test cases says: a timeout, a refused call, a budget, a crash.
fn unsaid<'a>(step: &Step, tests: &TestReport, findings: &'a [Finding]) -> Vec<&'a Finding> {
    let failed = tests.tests.iter().any(|t| matches!(t.result, TestResult::Failed | TestResult::Error));
    let said = |code: ParityCode| {
        (failed && code == step.on_fail) || (code == ParityCode::COLLECTION_FAILED && !tests.collect_errors.is_empty())
    };
    findings.iter().filter(|f| !f.warning && f.gate == step.id && !said(f.code)).collect()
}

fn of_step(outcome: &Outcome, step: &Step, result: &StepOutcome, state: StepState, own: &[&Finding]) -> TestCase {
    let broken = outcome.broken.iter().find(|(stage, ..)| *stage == step.id).map(|(_, message, _)| message.as_str());
    let skipped = |why: &str| {
        let mut status = TestCaseStatus::skipped();
        status.set_message(attribute(why));
        status
    };
    let status = match state {
        StepState::Good => TestCaseStatus::success(),
        StepState::Failed => failure(own),
        StepState::Skipped => skipped(result.skipped.as_deref().unwrap_or_default()),
        StepState::Cancelled => skipped("ended before it was done"),
        StepState::NotRun => skipped("did not start"),
        StepState::Unknown => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            let why = broken.unwrap_or("nothing is known about its end");
            status.set_message(attribute(why)).set_type("infrastructure");
            status
        }
    };
    let mut case = TestCase::new(attribute(&step.id), status);
    case.set_classname(format!("ft.{}", step.gate.word()));
    if let Some(end) = &result.end {
        case.set_time(Duration::from_millis(end.wall_ms));
    }
    case
}

fn failure(findings: &[&Finding]) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    if let Some(first) = findings.first() {
        let line = first.message.lines().next().unwrap_or_default();
        status.set_message(attribute(line)).set_type(first.code.id());
    }
    let text: Vec<String> =
        findings.iter().map(|f| format!("{} {}\n{}\nhint: {}", f.code, f.code.title(), f.message, f.hint)).collect();
    status.set_description(body(&text.join("\n\n")));
    status
}

fn test(test: &pytest::TestCase, network: &[Attempt]) -> TestCase {
    let (class, name) = class_and_name(&test.id);
    let mut status = match test.result {
        TestResult::Passed | TestResult::Xpassed => TestCaseStatus::success(),
        TestResult::Failed | TestResult::Error => {
            let kind = if test.result == TestResult::Failed { NonSuccessKind::Failure } else { NonSuccessKind::Error };
            let mut status = TestCaseStatus::non_success(kind);
            let last = test.message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            status.set_message(attribute(neutral(last, false).trim())).set_description(body(&test.message));
            status
        }
        TestResult::Skipped | TestResult::Xfailed => {
            let mut status = TestCaseStatus::skipped();
            let kind = if test.result == TestResult::Skipped { "pytest.skip" } else { "pytest.xfail" };
            status.set_message(attribute(&test.message)).set_type(kind);
            status
        }
    };
    for _ in 0..test.reruns {
        let mut rerun = TestRerun::new(NonSuccessKind::Failure);
        rerun.set_message("run again");
        status.add_rerun(rerun);
    }
    let mut case = TestCase::new(attribute(name), status);
    case.set_classname(attribute(&class));
    case.set_time(Duration::try_from_secs_f64(test.seconds).unwrap_or_default());
    let id = escaped(&test.id, LONGEST);
    let refused = network.iter().filter(|attempt| attempt.verdict == Verdict::Denied && attempt.test == id);
    let refused: Vec<String> =
        refused.map(|attempt| format!("{}: {}", ParityCode::NETWORK_VIOLATED, sentence(attempt))).collect();
    if !refused.is_empty() {
        case.set_system_err(body(&refused.join("\n")));
    }
    case
}

fn collect_error(error: &pytest::CollectError) -> TestCase {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_message("collection failure").set_description(body(&error.message));
    let mut case = TestCase::new(attribute(&error.id), status);
    case.set_classname("");
    case
}

/// `tests/test_a.py::TestX::test_y[p]` as pytest's own junit file names it (`mangle_test_address`):
/// `tests.test_a.TestX`, `test_y[p]`.
fn class_and_name(id: &str) -> (String, &str) {
    let path = &id[..id.find('[').unwrap_or(id.len())];
    let Some(at) = path.rfind("::") else { return (String::new(), id) };
    let (file, classes) = path[..at].split_once("::").unwrap_or((&path[..at], ""));
    let mut class = file.replace('/', ".");
    if let Some(module) = class.strip_suffix(".py") {
        class.truncate(module.len());
    }
    if !classes.is_empty() {
        class += &format!(".{}", classes.replace("::", "."));
    }
    (class, &id[at + 2..])
}

/// Text of an element: without escape sequences; what XML has no way to say is written as pytest does, `#x1B`.
fn body(text: &str) -> String {
    legal(&neutral(text, false))
}

/// Text of an attribute: names stay distinct, so nothing is dropped.
fn attribute(text: &str) -> String {
    legal(text).replace('\n', "#x0A").replace('\r', "#x0D").replace('\t', "#x09")
}

fn legal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t'
            | '\n'
            | '\r'
            | '\u{20}'..='\u{7e}'
            | '\u{80}'..='\u{d7ff}'
            | '\u{e000}'..='\u{fffd}'
            | '\u{10000}'.. => {
                out.push(c);
            }
            c => out += &format!("#x{:02X}", c as u32),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use proptest::prelude::*;

    #[test]
    fn tests_are_named_as_pytest_names_them() {
        assert_eq!(
            class_and_name("tests/test_a.py::TestX::test_y[a::b/c]"),
            ("tests.test_a.TestX".into(), "test_y[a::b/c]")
        );
        assert_eq!(class_and_name("test_a.py::test_y"), ("test_a".into(), "test_y"));
        assert_eq!(class_and_name("README.md"), (String::new(), "README.md"));
    }

    #[test]
    fn a_failed_run_has_a_suite_for_its_tests_and_one_for_the_other_steps() {
        insta::assert_snapshot!(String::from_utf8(junit(&sample::failed())).unwrap());
    }

    #[test]
    fn a_run_that_stops_at_preflight_and_one_that_breaks_say_so() {
        insta::assert_snapshot!(String::from_utf8(junit(&sample::stopped())).unwrap());
        insta::assert_snapshot!(String::from_utf8(junit(&sample::broken())).unwrap());
    }

    proptest! {
        #[test]
        fn any_text_becomes_text_that_xml_allows(text in "\\PC*|[\u{0}-\u{20}\u{7f}-\u{9f}\u{fffe}]*") {
            let legal = |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{7e}' | '\u{80}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
            prop_assert!(body(&text).chars().all(legal));
            prop_assert!(attribute(&text).chars().all(legal));
        }
    }
}
