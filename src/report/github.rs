//! The summary as GitHub Actions reads a log: groups around tools' output, annotations for findings. A line of a log
//! that starts with `::` is a command there, so everything that is not ours stands between stop markers.

use super::neutral::neutral;
use super::text::{Detail, summary};
use crate::code::ParityCode;
use crate::event::{Attempt, Verdict};
use crate::finding::Finding;
use crate::outcome::Outcome;
use crate::outcome::violation::sentence;
use crate::results::pytest::TestResult;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// GitHub keeps ten errors and ten warnings of a step and drops the rest without a word.
const KEPT: usize = 10;

/// Output of tools in groups, the summary, and annotations.
#[must_use]
pub fn log(outcome: &Outcome, tails: &BTreeMap<String, String>, detail: Detail) -> String {
    let mut log = String::new();
    if !detail.quiet {
        for step in outcome.steps.iter().filter(|step| step.started) {
            if let Some(tail) = tails.get(&step.id).filter(|tail| !tail.trim().is_empty()) {
                let title = neutral(&step.id, false).replace('\n', " ");
                log +=
                    &format!("::group::the end of {title}'s output\n{}::endgroup::\n", fenced(&neutral(tail, false)));
            }
        }
    }
    log += &fenced(&summary(outcome, &BTreeMap::new(), detail).plain());
    for line in annotations(outcome) {
        log += &line;
        log.push('\n');
    }
    log
}

/// The text with commands switched off. What ends the pause is the digest of the text itself: a tool would have to
/// print the digest of its own output to end it.
fn fenced(text: &str) -> String {
    let token = hex::encode(Sha256::digest(text));
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("::stop-commands::{token}\n{text}{end}::{token}::\n")
}

/// What our pytest plugin adds to the name of a file that is being collected.
const COLLECTING: &str = " (collecting)";

/// One finding at a place.
struct Annotation {
    warning: bool,
    file: Option<String>,
    line: Option<u64>,
    title: String,
    message: String,
}

/// At most ten errors and ten warnings, in the order of the findings; the last one says how many more there are.
fn annotations(outcome: &Outcome) -> Vec<String> {
    let all: Vec<Annotation> = outcome.findings().iter().flat_map(|finding| of_finding(outcome, finding)).collect();
    let mut lines = Vec::new();
    for warning in [false, true] {
        let kind: Vec<&Annotation> = all.iter().filter(|a| a.warning == warning).collect();
        let shown = if kind.len() > KEPT { KEPT - 1 } else { kind.len() };
        lines.extend(kind[..shown].iter().map(|a| command(a)));
        if kind.len() > shown {
            lines.push(command(&Annotation {
                warning,
                file: None,
                line: None,
                title: "ft".to_owned(),
                message: format!("{} more in the log and in artifacts/parity_report.json", kind.len() - shown),
            }));
        }
    }
    lines
}

fn of_finding(outcome: &Outcome, finding: &Finding) -> Vec<Annotation> {
    let at = |file: Option<String>, line: Option<u64>, message: String| Annotation {
        warning: finding.warning,
        file,
        line,
        title: format!("{} {}", finding.code, finding.gate),
        message,
    };
    let step = outcome.steps.iter().find(|step| step.id == finding.gate);
    let tests = step.and_then(|step| step.tests.as_deref());
    let places: Vec<Annotation> = match (finding.code, tests, step.and_then(|step| step.security.as_ref())) {
        (ParityCode::TESTS_FAILED, Some(report), _) => report
            .tests
            .iter()
            .filter(|test| matches!(test.result, TestResult::Failed | TestResult::Error))
            .map(|test| {
                let file = file_of(&test.id);
                let line = line_in(&test.message, file);
                at(Some(file.to_owned()), line, format!("{}\n{}", test.id, last_lines(&test.message)))
            })
            .collect(),
        (ParityCode::COLLECTION_FAILED, Some(report), _) => report
            .collect_errors
            .iter()
            .map(|error| at(Some(file_of(&error.id).to_owned()), None, last_lines(&error.message)))
            .collect(),
        (ParityCode::NETWORK_VIOLATED, ..) => refused(step.map_or(&[][..], |step| &step.network))
            .into_iter()
            .map(|(test, tried)| at(Some(file_of(test).to_owned()), None, format!("{tried}\nhint: {}", finding.hint)))
            .collect(),
        (ParityCode::SECURITY_ISSUE, _, Some(report)) => report
            .issues
            .iter()
            .map(|issue| at(Some(issue.path.clone()), Some(issue.line), format!("{} {}", issue.test_id, issue.text)))
            .collect(),
        _ => Vec::new(),
    };
    if places.is_empty() {
        vec![at(None, None, format!("{}\nhint: {}", finding.message, finding.hint))]
    } else {
        places
    }
}

/// What each test tried to reach, at the test. Empty where something was tried outside of tests: that has no place.
fn refused(network: &[Attempt]) -> Vec<(&str, String)> {
    let mut tests: Vec<(&str, String)> = Vec::new();
    for attempt in network.iter().filter(|attempt| attempt.verdict == Verdict::Denied) {
        let tried = sentence(attempt);
        match tests.iter_mut().find(|(test, _)| *test == attempt.test) {
            Some((_, all)) => *all += &format!("\n{tried}"),
            None => tests.push((&attempt.test, tried)),
        }
    }
    if tests.iter().any(|(test, _)| test.is_empty()) { Vec::new() } else { tests }
}

fn file_of(id: &str) -> &str {
    let file = id.split("::").next().unwrap_or(id);
    file.strip_suffix(COLLECTING).unwrap_or(file)
}

/// The last line number that a traceback gives for this file: `tests/test_a.py:4: AssertionError`.
fn line_in(traceback: &str, file: &str) -> Option<u64> {
    traceback.lines().rev().find_map(|line| {
        let rest = line.trim_start().strip_prefix(file)?.strip_prefix(':')?;
        rest.split(':').next()?.parse().ok()
    })
}

fn last_lines(text: &str) -> String {
    const LINES: usize = 8;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn command(annotation: &Annotation) -> String {
    let kind = if annotation.warning { "warning" } else { "error" };
    let file = annotation.file.as_ref().map(|file| format!("file={},", property(file))).unwrap_or_default();
    let line = annotation.line.map(|line| format!("line={line},")).unwrap_or_default();
    format!(
        "::{kind} {file}{line}title={}::{}",
        property(&cut(&annotation.title, LONGEST_TITLE)),
        data(&cut(&annotation.message, LONGEST))
    )
}

/// Bytes of a message and of a title that are surely kept (64 KiB and 255 characters, "Check runs" of GitHub's REST
/// reference): a longer annotation is dropped whole.
const LONGEST: usize = 16 * 1024;
const LONGEST_TITLE: usize = 200;

fn cut(text: &str, longest: usize) -> String {
    let end =
        text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= longest).last().unwrap_or(0);
    if end == text.len() { text.to_owned() } else { format!("{}...", &text[..end]) }
}

/// Escapes of the toolkit's `command.ts`.
fn data(text: &str) -> String {
    neutral(text, false).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use proptest::prelude::*;

    #[test]
    fn a_failed_run_is_logged_so() {
        let tails = [("pytest".to_owned(), "1 failed\n::error::not from us\n##[error]nor this".to_owned())].into();
        insta::assert_snapshot!(log(&sample::failed(), &tails, Detail::default()));
    }

    #[test]
    fn no_more_than_ten_errors_are_annotated_and_the_rest_is_counted() {
        let mut outcome = sample::failed();
        let tests = outcome.steps[1].tests.as_mut().unwrap();
        let failed = tests.tests[0].clone();
        tests.tests.extend(std::iter::repeat_n(failed, 30));
        let lines = annotations(&outcome);
        let errors: Vec<_> = lines.iter().filter(|line| line.starts_with("::error")).collect();
        assert_eq!(errors.len(), 10);
        assert!(errors[9].ends_with("more in the log and in artifacts/parity_report.json"), "{}", errors[9]);
    }

    #[test]
    fn a_message_of_any_length_is_one_that_is_kept() {
        let mut outcome = sample::failed();
        outcome.steps[1].tests.as_mut().unwrap().tests[0].message = "\u{e9}".repeat(100_000);
        assert!(annotations(&outcome).iter().all(|line| line.len() < 64 * 1024));
    }

    /// The lines that the runner would take as commands: those outside of a stop, as its own reader does it.
    fn commands(log: &str) -> Vec<String> {
        let mut stopped: Option<String> = None;
        let mut seen = Vec::new();
        for line in log.lines() {
            match &stopped {
                Some(token) if line.trim() == format!("::{token}::") => stopped = None,
                Some(_) => {}
                None => match line.strip_prefix("::stop-commands::") {
                    Some(token) => stopped = Some(token.to_owned()),
                    None => seen.push(line.to_owned()),
                },
            }
        }
        seen
    }

    proptest! {
        #[test]
        fn output_of_a_tool_is_never_a_command(tail in "(::|##\\[|error|stop-commands|group|\n|\r|[a-f0-9]{64}|::[a-f0-9]{4}::|\u{1b}|\\PC){0,30}") {
            let tails = [("pytest".to_owned(), tail.clone())].into();
            let seen = commands(&log(&sample::failed(), &tails, Detail::default()));
            let plain = commands(&log(&sample::failed(), &BTreeMap::new(), Detail::default()));
            let ours = |line: &String| line.starts_with("::group::the end of") || line == "::endgroup::";
            let rest: Vec<_> = seen.into_iter().filter(|line| !ours(line)).collect();
            prop_assert_eq!(rest, plain);
        }
    }
}
