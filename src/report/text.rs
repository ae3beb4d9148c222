//! What a person reads at the end of a run, and again with `ft report`. Says where things are, but reads nothing: the
//! caller gives the last lines of each log.

use super::fields::Enforcement;
use super::json::enforcement;
use super::page::{Line, Page, Tone, bytes, count, duration};
use super::state::{StepState, state};
use crate::code::ExitCode;
use crate::event::Verdict;
use crate::finding::Finding;
use crate::outcome::violation::{Destination, groups, sentence};
use crate::outcome::{Outcome, StepOutcome};
use crate::plan::Plan;
use crate::results::pytest::{TestReport, TestResult};
use crate::step::{Network, Step};
use std::collections::BTreeMap;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detail {
    /// One line per step. Off where the face has just shown them.
    pub steps: bool,
    /// Findings and verdict only.
    pub quiet: bool,
    /// Command lines, versions, environment, walls by step, resources.
    pub explain: bool,
}

impl Default for Detail {
    fn default() -> Self {
        Detail { steps: true, quiet: false, explain: false }
    }
}

/// The whole summary. `tails` holds the last lines of the output of steps, by step id; only those of steps that did not
/// end well are shown.
#[must_use]
pub fn summary(outcome: &Outcome, tails: &BTreeMap<String, String>, detail: Detail) -> Page {
    // `artifacts/` has the logs of the last run only; the run's own folder is right for every run that is kept.
    summary_with_logs(outcome, tails, detail, &format!(".firsttry/runs/{}/logs", outcome.id))
}

/// [`summary`] with the folder that the logs are in.
#[must_use]
pub fn summary_with_logs(outcome: &Outcome, tails: &BTreeMap<String, String>, detail: Detail, logs: &str) -> Page {
    let findings = outcome.findings();
    let mut page = Page::default();
    if detail.explain && !detail.quiet {
        explain(&mut page, outcome);
        page.gap();
    }
    if detail.steps && !detail.quiet {
        for (step, result) in pairs(outcome) {
            page.push(step_line(outcome, &findings, step, result));
        }
    }
    if !detail.quiet {
        for (step, result) in pairs(outcome) {
            let bad = matches!(state(outcome, &findings, result), StepState::Failed | StepState::Unknown);
            let said = tails.get(&step.id).map_or("", String::as_str);
            // A command that could not be started has a word in its log too.
            if bad && (result.started || result.end.is_some()) {
                let log = format!("{logs}/{}.log", step.id);
                tail(&mut page, step, result, said, &log);
            }
        }
    }
    page.gap();
    for finding in &findings {
        say_finding(&mut page, finding);
    }
    for (stage, message, hint) in &outcome.broken {
        page.block(Line::new(Tone::Bad, "broken").and(Tone::Plain, format!(" {stage}: ")), Tone::Plain, message);
        if !hint.is_empty() {
            page.block(Line::new(Tone::Strong, "  hint: "), Tone::Plain, hint);
        }
    }
    if let Some(bug) = &outcome.bug {
        page.block(Line::new(Tone::Bad, "bug: "), Tone::Plain, bug);
    }
    if !detail.quiet {
        page.gap();
        notes(&mut page, outcome);
    }
    page.push(verdict(outcome));
    page
}

fn pairs(outcome: &Outcome) -> impl Iterator<Item = (&Step, &StepOutcome)> {
    outcome.plan.iter().flat_map(|plan| plan.steps.iter()).zip(&outcome.steps)
}

/// `PASS ruff 0.1 s`, `FAIL pytest 3.2 s PARITY-221 2 of 1077 tests failed`.
#[must_use]
pub fn step_line(outcome: &Outcome, findings: &[Finding], step: &Step, result: &StepOutcome) -> Line {
    let state = state(outcome, findings, result);
    let tone = match state {
        StepState::Good => Tone::Good,
        StepState::Failed | StepState::Unknown => Tone::Bad,
        StepState::Skipped | StepState::NotRun => Tone::Dim,
        StepState::Cancelled => Tone::Warn,
    };
    let mut line = Line::new(tone, state.word()).and(Tone::Plain, format!(" {}", step.id));
    if let Some(end) = &result.end {
        line = line.and(Tone::Dim, format!(" {}", duration(end.wall_ms)));
    }
    let mut own = findings.iter().filter(|finding| finding.gate == step.id && !finding.warning);
    if let Some(first) = own.next() {
        line = line.and(Tone::Strong, format!(" {}", first.code));
        line = line.and(Tone::Plain, format!(" {}", without_name(&first.message, &step.id)));
        let more = own.count();
        if more > 0 {
            line = line.and(Tone::Plain, format!(" (and {})", count(more, "more finding")));
        }
        return line;
    }
    match state {
        StepState::Skipped => line.and(Tone::Dim, format!(" {}", result.skipped.as_deref().unwrap_or_default())),
        StepState::NotRun => line.and(Tone::Dim, " did not start"),
        StepState::Unknown => line.and(Tone::Plain, " nothing is known about its end"),
        StepState::Cancelled => line.and(Tone::Plain, " was ended before it was done"),
        StepState::Good | StepState::Failed => match (&result.tests, &result.coverage) {
            (Some(report), _) => line.and(Tone::Dim, format!(" {}", tests(report))),
            (None, Some(c)) => line.and(Tone::Dim, format!(" {:.2} % ({} of {})", c.ratio * 100.0, c.covered, c.total)),
            _ => line,
        },
    }
}

/// The first line of a message, without the step's name where the line starts with it.
fn without_name<'a>(message: &'a str, step: &str) -> &'a str {
    let first = message.lines().next().unwrap_or_default();
    first.strip_prefix(step).and_then(|rest| rest.strip_prefix(' ')).unwrap_or(first)
}

/// `1077 tests, 2 failed, 3 skipped`.
fn tests(report: &TestReport) -> String {
    if report.tests.is_empty() {
        return format!("{} collected", count(report.collected.len(), "test"));
    }
    let mut text = count(report.tests.len(), "test");
    let failed = report.count(TestResult::Failed) + report.count(TestResult::Error);
    for (n, word) in [
        (failed, "failed"),
        (report.count(TestResult::Skipped), "skipped"),
        (report.count(TestResult::Xfailed), "failed as expected"),
        (report.count(TestResult::Xpassed), "did not fail as expected"),
        (report.flaky().count(), "flaky"),
    ] {
        if n > 0 {
            text += &format!(", {n} {word}");
        }
    }
    text
}

fn tail(page: &mut Page, step: &Step, result: &StepOutcome, tail: &str, log: &str) {
    if tail.trim().is_empty() {
        let printed = result.end.as_ref().is_none_or(|end| end.output_bytes > 0);
        let what = if printed { format!("'s output is in {log}") } else { " printed nothing".to_owned() };
        page.push(Line::new(Tone::Dim, format!("{}{what}", step.id)));
        return;
    }
    page.gap();
    page.push(Line::new(Tone::Dim, format!("the end of {}'s output, all of it in {log}:", step.id)));
    page.quote(tail);
}

/// One finding by itself.
#[must_use]
pub fn finding(finding: &Finding) -> Page {
    let mut page = Page::default();
    say_finding(&mut page, finding);
    page
}

fn say_finding(page: &mut Page, finding: &Finding) {
    let (tone, head) = if finding.warning { (Tone::Warn, "warning ") } else { (Tone::Bad, "") };
    let head = Line::new(tone, format!("{head}{}", finding.code)).and(Tone::Plain, format!(" {}: ", finding.gate));
    page.push(head.and(Tone::Strong, finding.code.title()));
    for line in finding.message.lines() {
        page.say(format!("  {line}"));
    }
    page.block(Line::new(Tone::Strong, "  hint: "), Tone::Plain, &finding.hint);
}

/// What was missing, what does not hold, and what CI will not see.
fn notes(page: &mut Page, outcome: &Outcome) {
    for (step, result) in pairs(outcome) {
        for missing in &result.missing {
            page.push(Line::new(Tone::Warn, format!("{}: {missing}", step.id)));
        }
        let Some(end) = &result.end else { continue };
        if !end.survivors.is_empty() {
            let names = end.survivors.join(", ");
            page.push(Line::new(Tone::Warn, format!("{} left processes behind, ended: {names}", step.id)));
        }
        if end.output_dropped > 0 {
            page.push(Line::new(
                Tone::Warn,
                format!("{}: {} of output were dropped over the limit", step.id, bytes(end.output_dropped)),
            ));
        }
    }
    network(page, outcome);
    for (step, path, why) in &outcome.refused {
        page.push(Line::new(Tone::Warn, format!("{step}: {path} did not come back: {why}")));
    }
    if let Some(line) = walls(outcome) {
        page.push(line);
    }
    let untracked = outcome.snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.untracked);
    if !untracked.is_empty() {
        const SHOWN: usize = 5;
        let names = untracked[..untracked.len().min(SHOWN)].join(", ");
        let more = untracked.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        page.push(Line::new(Tone::Warn, format!("not tracked by git, so not checked: {names}{more}")));
    }
}

/// Who talked to whom, and what did not resolve: no finding, and the answer to "why does it fail here".
fn network(page: &mut Page, outcome: &Outcome) {
    let mut observed = false;
    for (step, result) in pairs(outcome) {
        let unresolved = groups(&result.network, Verdict::Note)
            .into_iter()
            .filter(|group| group.attempts.iter().any(|attempt| attempt.call == "lookup"));
        let unresolved = names(unresolved.map(|group| group.destination));
        if !unresolved.is_empty() {
            page.push(Line::new(Tone::Warn, format!("{}: could not be resolved: {unresolved}", step.id)));
        }
        let allowed = names(groups(&result.network, Verdict::Allowed).into_iter().map(|group| group.destination));
        if !allowed.is_empty() {
            observed |= step.network == Network::Open;
            page.push(Line::new(Tone::Dim, format!("{} talked to {allowed}", step.id)));
        }
        let quiet = names(groups(&result.network, Verdict::Quiet).into_iter().map(|group| group.destination));
        if !quiet.is_empty() {
            page.push(Line::new(Tone::Dim, format!("{} was refused, as expected: {quiet}", step.id)));
        }
    }
    if observed {
        page.push(Line::new(
            Tone::Dim,
            "the network was open; `ft lock --network-from-report` allows what was used and closes the rest",
        ));
    }
}

/// The first few destinations by name; a look-up that was followed by a connection is told by that.
fn names(destinations: impl Iterator<Item = Destination>) -> String {
    const SHOWN: usize = 8;
    let all: Vec<Destination> = destinations.collect();
    let connected = |host: &str| all.iter().any(|other| other.host == host && other.port != 0);
    let told: Vec<String> =
        all.iter().filter(|one| one.port != 0 || !connected(&one.host)).map(ToString::to_string).collect();
    let more = told.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", told[..told.len().min(SHOWN)].join(", "))
}

/// The enforcement in one line: what holds, and by name what does not.
fn walls(outcome: &Outcome) -> Option<Line> {
    let Enforcement { cell, walls } = enforcement(outcome);
    let cell = cell.filter(|_| !walls.is_empty())?;
    let names = |enforced: bool| {
        let names: Vec<String> = walls
            .iter()
            .filter(|wall| wall.enforced == enforced)
            .map(|wall| match (&wall.mechanisms[..], &wall.not_in[..]) {
                (_, []) | ([], _) => wall.wall.clone(),
                (_, steps) => format!("{} (in {})", wall.wall, steps.join(", ")),
            })
            .collect();
        names.join(", ")
    };
    let kind = format!("{cell:?}").to_lowercase();
    let line = Line::new(Tone::Dim, format!("walls ({kind}): {}", names(true)));
    Some(match names(false) {
        missing if missing.is_empty() => line,
        missing => line.and(Tone::Warn, format!("; not enforced: {missing}")),
    })
}

/// The last line: what the run came to, and the exit code.
#[must_use]
pub fn verdict(outcome: &Outcome) -> Line {
    let findings = outcome.findings();
    let deciding: Vec<&Finding> = findings.iter().filter(|finding| !finding.warning).collect();
    let exit = outcome.exit();
    let with = |head: &str, rest: String| {
        let tone = if exit == ExitCode::PASSED { Tone::Warn } else { Tone::Bad };
        Line::new(tone, head).and(Tone::Plain, rest)
    };
    let also = match deciding.len() {
        0 => String::new(),
        n => format!(", {} so far", count(n, "finding")),
    };
    match exit {
        ExitCode::BUG => return with("no verdict", format!(": a defect of ft itself{also} ({})", exit_words(exit))),
        ExitCode::INTERRUPTED | ExitCode::TERMINATED => {
            let done = outcome.steps.iter().filter(|step| step.end.as_ref().is_some_and(|end| !end.cancelled)).count();
            let signal = outcome.interrupted.as_deref().unwrap_or("a signal");
            let steps = count(outcome.steps.len(), "check");
            return with("interrupted", format!(" by {signal}: {done} of {steps} ended{also} ({})", exit_words(exit)));
        }
        ExitCode::INFRASTRUCTURE => {
            let what = match outcome.broken.first() {
                Some((stage, message, _)) => format!("{stage}: {}", message.lines().next().unwrap_or_default()),
                None => "the run was cut off".to_owned(),
            };
            return with("no verdict", format!(": {what}{also} ({})", exit_words(exit)));
        }
        _ => {}
    }
    let advisory = outcome.plan.as_ref().is_some_and(|plan| plan.advisory);
    match deciding.first() {
        None if advisory => with("advisory", format!(": no findings, {}", totals(outcome))),
        None => Line::new(Tone::Good, "passed").and(Tone::Plain, format!(": {}", totals(outcome))),
        Some(first) => {
            let more = match deciding.len() - 1 {
                0 => String::new(),
                n => format!(", and {}", count(n, "more finding")),
            };
            let what = format!("{} {}: {}{more}", first.code, first.gate, first.code.title());
            if advisory {
                let else_code = exit_words(first.code.exit());
                with("advisory", format!(": {what} (exit 0; without --advisory {else_code})"))
            } else {
                with("failed", format!(": {what} ({})", exit_words(exit)))
            }
        }
    }
}

/// `exit 221`; `exit 301, seen by the shell as 45`.
#[must_use]
pub fn exit_words(exit: ExitCode) -> String {
    if u16::from(exit.status()) == exit.0 {
        format!("exit {exit}")
    } else {
        format!("exit {exit}, seen by the shell as {}", exit.status())
    }
}

/// `5 checks, 1077 tests, 12.3 s`.
fn totals(outcome: &Outcome) -> String {
    let checks = match outcome.kind.as_str() {
        "self-check" => "self-check".to_owned(),
        _ => count(outcome.steps.iter().filter(|step| step.end.is_some()).count(), "check"),
    };
    let ran: usize = outcome.steps.iter().filter_map(|step| step.tests.as_ref()).map(|t| t.tests.len()).sum();
    let collected: usize = outcome.steps.iter().filter_map(|step| step.tests.as_ref()).map(|t| t.collected.len()).sum();
    let tests = match (ran, collected) {
        (0, 0) => String::new(),
        (0, n) => format!(", {} collected", count(n, "test")),
        (n, _) => format!(", {}", count(n, "test")),
    };
    format!("{checks}{tests}, {}", duration(outcome.wall_ms.unwrap_or_default()))
}

/// What `--explain` adds.
fn explain(page: &mut Page, outcome: &Outcome) {
    let Some(plan) = outcome.plan.as_deref() else { return };
    page.push(
        Line::new(Tone::Strong, "run ")
            .and(Tone::Plain, format!("{} ({}), ft {}", outcome.id, outcome.kind, outcome.ft)),
    );
    facts(page, plan, outcome);
    for (stage, ms, detail) in &outcome.stages {
        page.say(format!("  {stage} {}: {detail}", duration(*ms)));
    }
    for (step, result) in pairs(outcome) {
        page.push(Line::new(Tone::Strong, &step.id).and(Tone::Dim, format!(" ({})", step.gate.word())));
        page.say(format!("  command  {}", command(&step.argv)));
        if !step.cwd.as_str().is_empty() {
            page.say(format!("  folder   {}", step.cwd));
        }
        page.say(format!("  limits   {}", limits(step)));
        page.say(format!("  network  {}", policy(step)));
        for attempt in &result.network {
            let word = match attempt.verdict {
                Verdict::Denied => "refused",
                Verdict::Quiet => "refused, as expected",
                Verdict::Note => "no exchange",
                Verdict::Allowed => "let through",
            };
            let times = if attempt.count > 1 { format!(", {} times", attempt.count) } else { String::new() };
            page.say(format!("  attempt  {} ms: {}{times}: {word}", attempt.at_ms, sentence(attempt)));
            for parent in &attempt.parents {
                page.say(format!("           started by {parent}"));
            }
        }
        if result.unlisted > 0 {
            page.say(format!("  attempt  {} more, not listed one by one", result.unlisted));
        }
        if let Some(end) = &result.end {
            page.say(format!(
                "  used     {} wall, {} CPU, {} memory, {} of output",
                duration(end.wall_ms),
                duration(end.cpu_ms),
                bytes(end.peak_bytes),
                bytes(end.output_bytes)
            ));
        }
        for wall in &result.enforcement {
            let how = if wall.enforced { "by" } else { "NOT ENFORCED" };
            page.say(format!("  wall     {} {how} {} {}", wall.wall, wall.mechanism, wall.detail).trim_end());
        }
    }
}

fn facts(page: &mut Page, plan: &Plan, outcome: &Outcome) {
    page.say(format!("  lock         {}", plan.lock_sha256));
    page.say(format!("  python       {}", plan.python));
    if let Some(environment) = &outcome.environment {
        let origin = if environment.built { "built now with" } else { "built before with" };
        page.say(format!(
            "  environment  {} ({}, {origin} {})",
            environment.key,
            count(environment.packages.len(), "package"),
            environment.installer
        ));
    } else if let Some(key) = &plan.environment {
        page.say(format!("  environment  {key}"));
    }
    if let Some(snapshot) = &outcome.snapshot {
        let dirty = if snapshot.dirty { ", with changes" } else { "" };
        let commit = snapshot.commit.as_deref().unwrap_or("no commit");
        page.say(format!(
            "  snapshot     {} ({}, {commit}{dirty}; {}, {})",
            snapshot.sha256,
            snapshot.source,
            count(snapshot.entries as usize, "file"),
            bytes(snapshot.bytes)
        ));
    }
    for (step, version) in &plan.tool_versions {
        page.say(format!("  tool         {step} {version}"));
    }
}

/// `900 s, then 5 s to end; memory 2.0 GiB, 512 processes`.
pub(super) fn limits(step: &Step) -> String {
    let mut text = format!("{}, then {} to end", duration(step.timeout_ms), duration(step.grace_ms));
    let limits = &step.limits;
    let parts = [
        limits.memory_bytes.map(|n| format!("memory {}", bytes(n))),
        limits.pids.map(|n| format!("{n} processes")),
        limits.disk_bytes.map(|n| format!("disk {}", bytes(n))),
        limits.output_bytes.map(|n| format!("output {}", bytes(n))),
        limits.cpus.map(|n| count(n as usize, "CPU")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if !parts.is_empty() {
        text += &format!("; {}", parts.join(", "));
    }
    text
}

/// The network policy in words.
pub(super) fn policy(step: &Step) -> String {
    let mut text = match &step.network {
        Network::Loopback => "its own loopback only".to_owned(),
        Network::Allow(hosts) => format!("its own loopback and {}", hosts.join(", ")),
        Network::Open => "open, recorded".to_owned(),
    };
    if !step.deny_quietly.is_empty() {
        text += &format!("; refused without a finding: {}", step.deny_quietly.join(", "));
    }
    text
}

/// The command as a shell would take it.
pub(super) fn command(argv: &[String]) -> String {
    let quoted: Vec<String> = argv.iter().map(|word| quote(word)).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./=:,@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn tails() -> BTreeMap<String, String> {
        [
            ("pytest".to_owned(), "FAILED tests/test_a.py::test_one\n\u{1b}]52;c;ZXZpbA==\u{7}1 failed\n".to_owned()),
            ("ruff".to_owned(), "All checks passed!\n".to_owned()),
        ]
        .into()
    }

    fn told(outcome: &Outcome, detail: Detail) -> String {
        summary(outcome, &tails(), detail).plain()
    }

    #[test]
    fn a_failed_run_reads_so() {
        insta::assert_snapshot!(told(&sample::failed(), Detail::default()));
    }

    #[test]
    fn a_failed_run_explained_reads_so() {
        insta::assert_snapshot!(told(&sample::failed(), Detail { explain: true, ..Detail::default() }));
    }

    #[test]
    fn a_quiet_run_shows_findings_and_verdict_only() {
        insta::assert_snapshot!(told(&sample::failed(), Detail { quiet: true, ..Detail::default() }));
        insta::assert_snapshot!(told(&sample::passed(), Detail { quiet: true, ..Detail::default() }), @"passed: 4 checks, 4 tests, 12.3 s");
    }

    #[test]
    fn the_other_ends_of_a_run_have_their_own_words() {
        insta::assert_snapshot!(told(&sample::passed(), Detail::default()));
        insta::assert_snapshot!(told(&sample::stopped(), Detail::default()));
        insta::assert_snapshot!(told(&sample::broken(), Detail::default()));
        insta::assert_snapshot!(told(&sample::interrupted(), Detail::default()));
    }

    #[test]
    fn an_advisory_run_never_says_passed() {
        for mut outcome in [sample::failed(), sample::passed(), sample::stopped()] {
            outcome.plan.as_mut().unwrap().advisory = true;
            for detail in [Detail::default(), Detail { explain: true, ..Detail::default() }] {
                let text = summary(&outcome, &BTreeMap::new(), detail).plain();
                assert!(!text.to_lowercase().contains("passed"), "{text}");
                assert!(text.lines().last().unwrap().starts_with("advisory: "), "{text}");
            }
        }
    }

    #[test]
    fn only_a_run_that_passed_says_so() {
        let passed = sample::passed();
        for events in 0..sample::passed_events().len() {
            let cut = Outcome::fold(&sample::passed_events()[..events]);
            assert!(!told(&cut, Detail::default()).contains("passed: "), "{events}");
        }
        assert!(told(&passed, Detail::default()).contains("passed: "));
    }

    #[test]
    fn a_code_above_255_says_what_the_shell_sees() {
        assert_eq!(exit_words(ExitCode(301)), "exit 301, seen by the shell as 45");
        assert_eq!(exit_words(ExitCode(221)), "exit 221");
    }

    #[test]
    fn commands_are_shown_as_a_shell_takes_them() {
        assert_eq!(command(&["a".into(), "b c".into(), "it's".into(), String::new()]), "a 'b c' 'it'\\''s' ''");
    }
}
