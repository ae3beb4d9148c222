//! The fold of all events: the only source of report and exit code.
//!
//! Law, tested: the outcome of a live run equals the outcome of its replayed `events.jsonl`. So nothing here looks at a
//! clock, a file or live state.

mod judge;
pub mod violation;

use crate::code::{ExitCode, ParityCode};
use crate::event::{Attempt, EnvironmentInfo, Event, EventKind, SnapshotInfo, StepEnd, Wall};
use crate::finding::Finding;
use crate::plan::Plan;
use crate::results::bandit::SecurityReport;
use crate::results::coverage::Coverage;
use crate::results::pytest::TestReport;
use crate::step::Step;
use serde::{Deserialize, Serialize};

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The run's id.
    pub id: String,
    /// RFC 3339, UTC: when it started.
    pub timestamp: String,
    /// Version of `ft`.
    pub ft: String,
    /// `self-check`, `parity`, `exec`.
    pub kind: String,
    /// Absolute path of the repository.
    pub repository: String,
    /// The plan, once there was one.
    pub plan: Option<Box<Plan>>,
    /// Findings from before the steps and beside them, in the order they were made.
    pub preflight: Vec<Finding>,
    /// What was checked.
    pub snapshot: Option<SnapshotInfo>,
    /// What the steps saw.
    pub environment: Option<EnvironmentInfo>,
    /// Stages that are over: name, milliseconds, what came of it.
    pub stages: Vec<(String, u64, String)>,
    /// One per step of the plan, in plan order.
    pub steps: Vec<StepOutcome>,
    /// Files that came back: step, path, bytes, sha256.
    pub artifacts: Vec<(String, String, u64, String)>,
    /// Files that did not come back: step, path, why.
    pub refused: Vec<(String, String, String)>,
    /// What we could not do: stage, message, hint.
    pub broken: Vec<(String, String, String)>,
    /// A defect of ours.
    pub bug: Option<String>,
    /// The signal that ended the run.
    pub interrupted: Option<String>,
    /// Milliseconds of the whole run, once it is over. `None`: it was cut off.
    pub wall_ms: Option<u64>,
}

/// What came of one step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StepOutcome {
    /// Step id.
    pub id: String,
    /// Whether its command was started.
    pub started: bool,
    /// The walls as seen from inside.
    pub enforcement: Vec<Wall>,
    /// How it ended.
    pub end: Option<StepEnd>,
    /// Why it did not run.
    pub skipped: Option<String>,
    /// What pytest said.
    pub tests: Option<Box<TestReport>>,
    /// What the tests covered.
    pub coverage: Option<Coverage>,
    /// What the security scan found.
    pub security: Option<SecurityReport>,
    /// Side results that are missing or can't be read.
    pub missing: Vec<String>,
    /// Attempts to reach the network, refused and not.
    pub network: Vec<Attempt>,
    /// How many refused attempts are not listed one by one. They are a violation as well.
    pub unlisted: u64,
}

impl Outcome {
    /// Folds a run from its first event to its last.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Outcome {
        let mut outcome = Outcome::default();
        for event in events {
            outcome.apply(event);
        }
        outcome
    }

    /// Takes in one more event.
    pub fn apply(&mut self, event: &Event) {
        match event.kind.clone() {
            EventKind::RunStarted { id, timestamp, ft, kind, repository, .. } => {
                *self = Outcome { id, timestamp, ft, kind, repository, ..Outcome::default() };
            }
            EventKind::Planned { plan } => {
                self.steps =
                    plan.steps.iter().map(|s| StepOutcome { id: s.id.clone(), ..StepOutcome::default() }).collect();
                self.plan = Some(plan);
            }
            EventKind::Found { finding } => self.preflight.push(finding),
            EventKind::StageStarted { .. } | EventKind::Paused { .. } | EventKind::StepTerminating { .. } => {}
            EventKind::StageFinished { stage, wall_ms, detail } => self.stages.push((stage, wall_ms, detail)),
            EventKind::SnapshotTaken { snapshot } => self.snapshot = Some(snapshot),
            EventKind::EnvironmentReady { environment } => self.environment = Some(environment),
            EventKind::StepStarted { step, enforcement } => self.with(&step, |s| {
                s.started = true;
                s.enforcement = enforcement;
            }),
            EventKind::StepEnded { step, end } => self.with(&step, |s| s.end = Some(end)),
            EventKind::StepSkipped { step, why } => self.with(&step, |s| s.skipped = Some(why)),
            EventKind::NetworkAttempted { step, attempt } => self.with(&step, |s| s.network.push(*attempt)),
            EventKind::NetworkRepeated { step, id, count } => self.with(&step, |s| {
                s.network.iter_mut().filter(|attempt| attempt.id == id).for_each(|attempt| attempt.count = count);
            }),
            EventKind::NetworkUnlisted { step, count } => self.with(&step, |s| s.unlisted = count),
            EventKind::TestsReported { step, report } => self.with(&step, |s| s.tests = Some(report)),
            EventKind::CoverageMeasured { step, coverage } => self.with(&step, |s| s.coverage = Some(coverage)),
            EventKind::IssuesReported { step, report } => self.with(&step, |s| s.security = Some(report)),
            EventKind::ResultMissing { step, reason } => self.with(&step, |s| s.missing.push(reason)),
            EventKind::ArtifactReceived { step, path, bytes, sha256 } => {
                self.artifacts.push((step, path, bytes, sha256));
            }
            EventKind::ArtifactRefused { step, path, why } => self.refused.push((step, path, why)),
            EventKind::Interrupted { signal } => {
                self.interrupted.get_or_insert(signal);
            }
            EventKind::Broken { stage, message, hint } => self.broken.push((stage, message, hint)),
            EventKind::Bug { message } => {
                self.bug.get_or_insert(message);
            }
            EventKind::RunFinished { wall_ms } => self.wall_ms = Some(wall_ms),
        }
    }

    fn with(&mut self, id: &str, change: impl FnOnce(&mut StepOutcome)) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.id == id) {
            change(step);
        }
    }

    /// Every finding, warnings included, in plan order: preflight, then step by step, then coverage, then artifacts.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.preflight.clone();
        if let Some(plan) = &self.plan {
            findings.extend(judge::findings(plan, self));
        }
        findings
    }

    /// What the run leaves with (DESIGN section 5, "which one wins").
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        let advisory = self.plan.as_ref().is_some_and(|plan| plan.advisory);
        if self.bug.is_some() {
            ExitCode::BUG
        } else if let Some(signal) = &self.interrupted {
            match signal.as_str() {
                "SIGINT" => ExitCode::INTERRUPTED,
                "SIGPIPE" => ExitCode::UNREAD,
                _ => ExitCode::TERMINATED,
            }
        } else if !self.broken.is_empty() || self.unfinished() {
            ExitCode::INFRASTRUCTURE
        } else {
            match self.findings().into_iter().find(|finding| !finding.warning) {
                Some(finding) if !advisory => finding.code.exit(),
                // A check that did not run, and no finding that says why: nothing is known about it.
                None if self.left_out() => ExitCode::INFRASTRUCTURE,
                _ => ExitCode::PASSED,
            }
        }
    }

    /// Whether every check ran and nothing was found. False for an advisory run with findings, though it exits 0.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.exit() == ExitCode::PASSED && self.findings().iter().all(|finding| finding.warning)
    }

    /// Whether a parity run left a step out, or ended one before its time.
    fn left_out(&self) -> bool {
        let parity = self.plan.as_ref().is_some_and(|plan| plan.command == "run");
        let whole = |step: &StepOutcome| step.end.as_ref().is_some_and(|end| !end.cancelled);
        parity && !self.steps.iter().all(whole)
    }

    /// A step that neither ended nor was skipped: its stream was cut, so nothing is known about it. Never "passed".
    fn unfinished(&self) -> bool {
        let stopped = self.preflight.iter().any(|f| f.code.stops_run() && !f.warning);
        // Without a plan nothing was going to be checked; then only a finding can say why.
        let planless = self.plan.is_none() && self.preflight.iter().all(|f| f.warning);
        self.wall_ms.is_none()
            || planless
            || (!stopped && self.steps.iter().any(|step| step.end.is_none() && step.skipped.is_none()))
    }

    /// Whether a step did what it should, once these last events of it are taken in: it ended by itself, and nothing was
    /// found about it. Decides whether steps that need it may start.
    #[must_use]
    pub fn step_succeeds(&self, id: &str, events: &[EventKind]) -> bool {
        let (Some(plan), Some((step, result))) = (&self.plan, self.step(id)) else { return false };
        let mut alone = Outcome { steps: vec![result.clone()], ..Outcome::default() };
        for (seq, kind) in (0..).zip(events) {
            alone.apply(&Event { seq, at_ms: 0, kind: kind.clone() });
        }
        let result = &alone.steps[0];
        let ended = result.end.as_ref().is_some_and(|end| !end.cancelled);
        ended && alone.broken.is_empty() && alone.bug.is_none() && judge::of_step(plan, step, result).is_empty()
    }

    /// The step of the plan with this id, and what came of it.
    #[must_use]
    pub fn step(&self, id: &str) -> Option<(&Step, &StepOutcome)> {
        let plan = self.plan.as_ref()?;
        let step = plan.steps.iter().find(|step| step.id == id)?;
        Some((step, self.steps.iter().find(|step| step.id == id)?))
    }

    /// The codes of the findings that decide, for short summaries.
    #[must_use]
    pub fn codes(&self) -> Vec<ParityCode> {
        self.findings().into_iter().filter(|f| !f.warning).map(|f| f.code).collect()
    }
}

#[cfg(test)]
mod tests;
