//! A finding: one deviation that a run or a self-check reports. A finding is a result, not an error.

use crate::code::ParityCode;
use serde::{Deserialize, Serialize};

/// One deviation, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which row of the code table.
    pub code: ParityCode,
    /// Where it was found: `preflight`, or the id of the step (`ruff`, `pytest`, `build`, `coverage`, `artifacts`).
    pub gate: String,
    /// What was found: names, expected and actual values. One sentence or a few lines.
    #[serde(rename = "msg")]
    pub message: String,
    /// The next step for the reader.
    pub hint: String,
    /// True where the finding is reported but does not decide the exit code (PARITY-042 by hand).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warning: bool,
}

impl Finding {
    /// A finding with the code's own hint.
    pub fn new(code: ParityCode, gate: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { code, gate: gate.into(), message: message.into(), hint: code.fix().to_owned(), warning: false }
    }

    /// The same finding with a hint that fits this case better than the code's own.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same finding as a warning.
    #[must_use]
    pub fn as_warning(mut self) -> Self {
        self.warning = true;
        self
    }
}
