//! `parity_report.json` from an outcome. Does not decide anything: exit code and findings come from the outcome. What
//! stands in it is described by [`super::fields`].

use super::fields::{
    self, Artifact, Broken, Collection, ContainerReport, Coverage, Enforcement, Environment, Failure, InImageReport,
    Issue, NetworkReport, Observed, Output, Refused, Report, SCHEMA_VERSION, Security, Snapshot, Stage, StepReport,
    TestNote, Tests, Thresholds, Wall, WallReport,
};
use super::state::state;
use crate::event::{self, Verdict};
use crate::finding::Finding;
use crate::outcome::violation::Destination;
use crate::outcome::{Outcome, StepOutcome};
use crate::plan::Plan;
use crate::results::pytest::{TestReport, TestResult, name_hash};
use crate::step::{Network, Step};
use std::collections::BTreeMap;

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
        network: over_all(outcome),
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
    let event::EnvironmentInfo { key, path, python, built, installer, packages, container, in_image } = info.clone();
    let container = container.map(|event::ContainerInfo { image, engine, agent_sha256 }| ContainerReport {
        image,
        engine,
        agent_sha256,
    });
    let in_image = in_image.map(|found| {
        let event::InImage { image, contents } = *found;
        InImageReport { image, contents }
    });
    Environment { key, path, python, built, installer, packages, container, in_image }
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
        out_of_disk: flag(|end| end.out_of_disk),
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

/// The network over all steps. A name that was looked up and then connected to is told once, by its connections.
fn over_all(outcome: &Outcome) -> fields::Network {
    let mut observed = Vec::new();
    for step in &outcome.steps {
        let mut own: BTreeMap<(Destination, &str), Observed> = BTreeMap::new();
        // A unix socket is no host; the walls decide which of them are there.
        let exchanges = step.network.iter().filter(|a| a.verdict == Verdict::Allowed && a.protocol != "unix");
        for attempt in exchanges {
            let to = Destination::of(attempt);
            let entry = own.entry((to.clone(), &attempt.protocol)).or_insert_with(|| Observed {
                step: step.id.clone(),
                processes: Vec::new(),
                host: to.host,
                port: to.port,
                protocol: attempt.protocol.clone(),
                count: 0,
            });
            entry.count += attempt.count;
            if entry.processes.len() < 3 && !entry.processes.contains(&attempt.process) {
                entry.processes.push(attempt.process.clone());
            }
        }
        let connected: Vec<String> = own.keys().filter(|(to, _)| to.port != 0).map(|(to, _)| to.host.clone()).collect();
        own.retain(|(to, _), _| to.port != 0 || !connected.contains(&to.host));
        observed.extend(own.into_values());
    }
    fields::Network { observed }
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
