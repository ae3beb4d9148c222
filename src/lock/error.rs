//! What is wrong with a lock, and where. Says nothing about files: the caller knows whether the file was there.

use crate::code::ParityCode;
use crate::finding::Finding;
use crate::lock::LOCK_PATH;

/// Why a lock was refused: the first place that can't be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.render())]
pub struct LockError {
    /// The place inside the JSON (`tools.pytest.timeout_sec`); empty for the whole document.
    pub path_in_file: String,
    /// Line of that place, from 1. 0 where the file has no lines to speak of (empty, too large).
    pub line: usize,
    /// Column of that place in characters, from 1. 0 as for `line`.
    pub column: usize,
    /// What was expected, and what is there.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// PARITY-002, or PARITY-019 for a threshold below policy.
    pub code: ParityCode,
}

impl LockError {
    /// The error as the finding of a run or self-check.
    #[must_use]
    pub fn finding(&self) -> Finding {
        Finding::new(self.code, "preflight", self.to_string()).hint(self.hint.clone())
    }

    fn render(&self) -> String {
        let place = if self.line == 0 { String::new() } else { format!(":{}:{}", self.line, self.column) };
        let path = if self.path_in_file.is_empty() { String::new() } else { format!("{}: ", self.path_in_file) };
        format!("{LOCK_PATH}{place}: {path}{}", self.message)
    }
}

/// Something in a lock that is accepted and probably not what was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The place inside the JSON.
    pub path_in_file: String,
    /// Line of that place, from 1.
    pub line: usize,
    /// Column of that place in characters, from 1.
    pub column: usize,
    /// What was read, and what it means here.
    pub message: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{LOCK_PATH}:{}:{}: {}: {}", self.line, self.column, self.path_in_file, self.message)
    }
}
