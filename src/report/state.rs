//! What a step came to, in one word. The findings decide; a step without an end is never called good.

use crate::finding::Finding;
use crate::outcome::{Outcome, StepOutcome};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It ended and nothing was found.
    Good,
    /// Something was found: by its end, or before it could start.
    Failed,
    /// It was not to run.
    Skipped,
    /// It was asked to end before it was done.
    Cancelled,
    /// It never started: the run ended before.
    NotRun,
    /// It started, or should have, and nothing is known about its end.
    Unknown,
}

impl StepState {
    /// Four letters for the head of a line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            StepState::Good => "PASS",
            StepState::Failed => "FAIL",
            StepState::Skipped => "SKIP",
            StepState::Cancelled => "STOP",
            StepState::NotRun => "NONE",
            StepState::Unknown => "LOST",
        }
    }
}

/// What this step came to, given all findings of the outcome.
#[must_use]
pub fn state(outcome: &Outcome, findings: &[Finding], step: &StepOutcome) -> StepState {
    let found = || findings.iter().any(|f| f.gate == step.id && !f.warning);
    match (&step.end, &step.skipped) {
        _ if found() => StepState::Failed,
        (Some(end), _) if end.cancelled => StepState::Cancelled,
        (Some(_), _) => StepState::Good,
        (None, Some(_)) => StepState::Skipped,
        (None, None) if step.started || outcome.broken.iter().any(|(stage, ..)| *stage == step.id) => {
            StepState::Unknown
        }
        (None, None) => StepState::NotRun,
    }
}
