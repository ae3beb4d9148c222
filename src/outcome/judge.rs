//! From what steps did to what was found. Pure: plan and step outcomes in, findings out, in plan order.

use super::{Outcome, StepOutcome, violation};
use crate::code::ParityCode;
use crate::event::StepEnd;
use crate::finding::Finding;
use crate::lock::Severity;
use crate::lock::collection::{Manifest, name_hash};
use crate::plan::{Judge, Plan, minor};
use crate::results::pytest::{TestReport, TestResult};
use crate::step::{Gate, Reader, Step};

/// The findings of all steps, then of coverage, then of artifacts.
pub(super) fn findings(plan: &Plan, outcome: &Outcome) -> Vec<Finding> {
    let mut findings = Vec::new();
    let pairs = || plan.steps.iter().zip(&outcome.steps);
    for (step, result) in pairs().filter(|(step, _)| step.gate != Gate::Coverage) {
        findings.extend(of_step(plan, step, result));
    }
    findings.extend(collection(plan, outcome));
    for (step, result) in pairs().filter(|(step, _)| step.gate == Gate::Coverage) {
        findings.extend(coverage(plan, step, result));
    }
    if plan.steps.iter().any(|step| step.gate != Gate::Tests || step.reader != Reader::Collection) {
        findings.extend(missing_artifacts(&plan.judge, outcome));
    }
    findings
}

/// Within one step the network comes before the timeout, and the timeout before the step's own failure.
pub(super) fn of_step(plan: &Plan, step: &Step, result: &StepOutcome) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(violation::finding(step, result));
    let Some(end) = &result.end else { return findings };
    if end.timed_out {
        let how = if end.killed { ", SIGTERM was not enough" } else { "" };
        findings.push(Finding::new(
            step.on_timeout,
            &step.id,
            format!("{} was ended at its timeout of {} s{how}", step.id, step.timeout_ms as f64 / 1000.0),
        ));
        return findings;
    }
    if end.cancelled {
        return findings;
    }
    match &step.reader {
        Reader::Bandit(_) => findings.extend(security(plan, step, result, end)),
        Reader::Pytest => findings.extend(tests(plan, step, result, end)),
        Reader::Collection => findings.extend(collected(step, result, end)),
        Reader::Plain | Reader::Coverage => findings.extend(own_failure(step, end)),
    }
    findings
}

/// How a command ended, in words that tell memory, signals and exit statuses apart.
fn how(step: &Step, end: &StepEnd) -> Option<String> {
    let name = &step.id;
    match (end.out_of_memory, end.signal, end.code) {
        (true, ..) => Some(format!(
            "{name} ran out of memory{}",
            step.limits.memory_bytes.map_or(String::new(), |b| format!(" (limit {} MiB)", b >> 20))
        )),
        (_, Some(signal), _) => Some(format!("{name} was ended by signal {signal}")),
        (_, _, Some(0)) => None,
        (_, _, Some(code)) => Some(format!("{name} exited with status {code}")),
        (_, _, None) => Some(format!("{name} ended without a status")),
    }
}

fn own_failure(step: &Step, end: &StepEnd) -> Option<Finding> {
    how(step, end).map(|message| Finding::new(step.on_fail, &step.id, message))
}

fn tests(plan: &Plan, step: &Step, result: &StepOutcome, end: &StepEnd) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(report) = &result.tests else {
        findings.extend(own_failure(step, end).or_else(|| {
            Some(Finding::new(
                step.on_fail,
                &step.id,
                format!("{} exited with status 0 and left no result of its tests", step.id),
            ))
        }));
        return findings;
    };
    if !report.collect_errors.is_empty() {
        findings.push(collect_errors(step, report));
    }
    let failed = report.count(TestResult::Failed) + report.count(TestResult::Error);
    if failed > 0 {
        let first = report.tests.iter().find(|t| matches!(t.result, TestResult::Failed | TestResult::Error));
        let first = first.map_or(String::new(), |t| format!("; first: {}", t.id));
        findings.push(Finding::new(
            step.on_fail,
            &step.id,
            format!("{failed} of {} tests failed{first}", report.tests.len()),
        ));
    } else if findings.is_empty() {
        findings.extend(own_failure(step, end).map(|mut finding| {
            if end.code == Some(5) {
                finding.message = format!("{} collected no tests", step.id);
            }
            finding
        }));
        if findings.is_empty() && !report.finished {
            findings.push(Finding::new(
                step.on_fail,
                &step.id,
                "pytest exited with status 0 before its session was over",
            ));
        }
    }
    let thresholds = &plan.judge.thresholds;
    if let Some(max) = thresholds.max_warnings.filter(|max| report.warnings > *max) {
        let first = report.warning_lines.first().map_or(String::new(), |line| format!("; first: {line}"));
        findings.push(Finding::new(
            ParityCode::WARNINGS_BUDGET,
            &step.id,
            format!("{} warnings, {max} allowed{first}", report.warnings),
        ));
    }
    let flaky: Vec<_> = report.flaky().map(|t| t.id.as_str()).collect();
    if !flaky.is_empty() && !thresholds.allow_flaky {
        findings.push(Finding::new(
            ParityCode::FLAKY_TESTS,
            &step.id,
            format!("{} succeeded only when run again: {}", flaky.len(), flaky[..flaky.len().min(5)].join(", ")),
        ));
    }
    findings
}

fn collect_errors(step: &Step, report: &TestReport) -> Finding {
    let first = &report.collect_errors[0];
    let last_line = first.message.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
    Finding::new(
        ParityCode::COLLECTION_FAILED,
        &step.id,
        format!("{} could not be collected; first: {}: {}", report.collect_errors.len(), first.id, last_line.trim()),
    )
}

fn collected(step: &Step, result: &StepOutcome, end: &StepEnd) -> Option<Finding> {
    match &result.tests {
        Some(report) if !report.collect_errors.is_empty() => Some(collect_errors(step, report)),
        Some(report) if report.finished && matches!(end.code, Some(0 | 5)) => None,
        _ => Some(Finding::new(
            ParityCode::COLLECTION_FAILED,
            &step.id,
            how(step, end).unwrap_or_else(|| format!("{} left no list of tests", step.id)),
        )),
    }
}

fn security(plan: &Plan, step: &Step, result: &StepOutcome, end: &StepEnd) -> Option<Finding> {
    let Some(report) = &result.security else {
        let message = how(step, end).unwrap_or_else(|| format!("{} left no report", step.id));
        return Some(Finding::new(ParityCode::SECURITY_BROKEN, &step.id, message));
    };
    // 0: no issue, 1: issues. Anything else, or a file it could not read, is a scan that did not do its work.
    if !matches!(end.code, Some(0 | 1)) {
        return how(step, end).map(|message| Finding::new(ParityCode::SECURITY_BROKEN, &step.id, message));
    }
    if let Some(first) = report.errors.first() {
        let message = format!("{} files could not be scanned; first: {first}", report.errors.len());
        return Some(Finding::new(ParityCode::SECURITY_BROKEN, &step.id, message));
    }
    let max = plan.judge.thresholds.bandit_severity_max.unwrap_or(Severity::None);
    let above = report.above(max);
    (above > 0).then(|| {
        let first = report.issues.iter().find(|issue| issue.severity > max);
        let first = first.map_or(String::new(), |i| format!("; first: {} {}:{} {}", i.test_id, i.path, i.line, i.text));
        Finding::new(
            ParityCode::SECURITY_ISSUE,
            &step.id,
            format!(
                "{above} issues above {max:?}: {} high, {} medium, {} low{first}",
                report.high, report.medium, report.low
            ),
        )
    })
}

/// One comparison over all test steps together: a manifest knows files, not steps.
fn collection(plan: &Plan, outcome: &Outcome) -> Vec<Finding> {
    let expected = &plan.judge.collection;
    if expected.allow_uncollected {
        return Vec::new();
    }
    let reports: Vec<&TestReport> = outcome.steps.iter().filter_map(|step| step.tests.as_deref()).collect();
    let test_steps = plan.steps.iter().filter(|s| matches!(s.reader, Reader::Pytest | Reader::Collection)).count();
    let asked = expected.expected_count.is_some() || expected.name_hash_sha256.is_some() || expected.manifest.is_some();
    if test_steps == 0 && asked {
        let message = "the lock says which tests there are, and none of its steps starts pytest";
        return vec![Finding::new(ParityCode::COLLECTION_FAILED, "collection", message).hint(
            "start it as `pytest` or `python -m pytest` in a step, or take `pytest_collection` out of the lock",
        )];
    }
    let whole = test_steps > 0
        && reports.len() == test_steps
        && reports.iter().all(|report| report.finished && report.collect_errors.is_empty());
    if !whole {
        return Vec::new();
    }
    let ids: Vec<String> = reports.iter().flat_map(|report| report.collected.iter().cloned()).collect();
    differences(plan, &ids)
        .into_iter()
        .map(|message| Finding::new(ParityCode::COLLECTION_DIFFERS, "collection", message))
        .collect()
}

/// What a collection differs in from what the lock says, one message per difference.
fn differences(plan: &Plan, ids: &[String]) -> Vec<String> {
    let expected = &plan.judge.collection;
    let mut messages = Vec::new();
    if let Some(count) = expected.expected_count.filter(|count| *count != ids.len() as u64) {
        messages.push(format!("{} tests collected, the lock expects {count}", ids.len()));
    } else if let Some(hash) = expected.name_hash_sha256.as_ref().filter(|hash| **hash != name_hash(ids)) {
        messages.push(format!(
            "{} tests collected, as many as the lock expects, but with other names (hash {}, the lock has {})",
            ids.len(),
            &name_hash(ids)[..12],
            hash.get(..12).unwrap_or(hash)
        ));
    }
    match (&expected.manifest, &plan.judge.collection_manifest) {
        (None, _) => {}
        (Some(path), None) => messages.push(format!("{path} is not there")),
        (Some(path), Some(text)) => match Manifest::parse(text) {
            Err(error) => messages.push(format!("{path}:{error}")),
            Ok(manifest) => messages.extend(manifest_differences(plan, path.as_str(), &manifest, ids)),
        },
    }
    messages
}

fn manifest_differences(plan: &Plan, path: &str, manifest: &Manifest, ids: &[String]) -> Option<String> {
    let diff = manifest.diff(minor(&plan.python), ids);
    if diff.is_empty() || (plan.judge.added_is_fine && diff.removed() == 0) {
        return None;
    }
    let files = diff.files.iter().take(5).map(|file| match (file.added, file.removed) {
        (added, 0) => format!("{} +{added}", file.path),
        (0, removed) => format!("{} -{removed}", file.path),
        (added, removed) => format!("{} +{added} -{removed}", file.path),
    });
    let files = files.collect::<Vec<_>>().join(", ");
    let more = if diff.files.len() > 5 { format!(" and {} more files", diff.files.len() - 5) } else { String::new() };
    Some(format!("{path}: +{} -{} tests: {files}{more}", diff.added(), diff.removed()))
}

fn coverage(plan: &Plan, step: &Step, result: &StepOutcome) -> Option<Finding> {
    let min = plan.judge.thresholds.coverage_min?;
    let finding = |message: String| Some(Finding::new(ParityCode::COVERAGE_BELOW, &step.id, message));
    match (&result.coverage, &result.skipped) {
        (Some(coverage), _) if coverage.ratio >= min => None,
        (Some(coverage), _) => finding(format!(
            "coverage is {} % ({} of {}), the lock wants {} %",
            coverage.percent_apart_from(min),
            coverage.covered,
            coverage.total,
            min * 100.0
        )),
        (None, Some(_)) => None,
        (None, None) if result.end.is_none() || result.end.as_ref().is_some_and(|end| end.cancelled) => None,
        (None, None)
            if result.end.as_ref().is_some_and(|end| end.timed_out || end.out_of_memory || end.signal.is_some()) =>
        {
            of_step(plan, step, result).into_iter().next()
        }
        (None, None) => finding("no coverage was measured: no test step left coverage data".to_owned()).map(|f| {
            f.hint(
                "let a test step measure it (pytest-cov and `--cov` in its args), or remove `thresholds.coverage_min`",
            )
        }),
    }
}

fn missing_artifacts(judge: &Judge, outcome: &Outcome) -> Vec<Finding> {
    if outcome.steps.iter().all(|step| !step.started) {
        return Vec::new();
    }
    judge
        .required_artifacts
        .iter()
        .filter(|path| !OWN.contains(&path.as_str()))
        .filter(|path| !outcome.artifacts.iter().any(|(_, have, ..)| have == path.as_str()))
        .map(|path| {
            let refused = outcome.refused.iter().find(|(_, have, _)| have == path.as_str());
            let why = refused
                .map_or("no step left it".to_owned(), |(step, _, why)| format!("{step} left it, refused: {why}"));
            Finding::new(ParityCode::ARTIFACT_MISSING, "artifacts", format!("{path}: {why}"))
        })
        .collect()
}

/// What the run itself always writes.
const OWN: &[&str] = &["artifacts/parity_report.json", "artifacts/junit.xml", "artifacts/events.jsonl"];
