//! Why a command that is no run ended without what it was for, and how that is told.

use crate::code::{ExitCode, ParityCode};
use crate::finding::Finding;
use crate::ui;

/// What is told, and what the program leaves with.
pub(super) struct Failure {
    pub(super) exit: ExitCode,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Failure {
    pub(super) fn new(exit: ExitCode, message: impl ToString, hint: impl ToString) -> Failure {
        Failure { exit, message: message.to_string(), hint: hint.to_string() }
    }

    pub(super) fn usage(message: impl ToString, hint: impl ToString) -> Failure {
        Failure::new(ExitCode::USAGE, message, hint)
    }

    pub(super) fn infrastructure(error: impl ToString) -> Failure {
        Failure::new(ExitCode::INFRASTRUCTURE, error, "")
    }

    pub(super) fn lock(error: impl ToString, hint: impl ToString) -> Failure {
        Failure::new(ParityCode::LOCK_INVALID.exit(), error, hint)
    }
}

impl From<Finding> for Failure {
    fn from(finding: Finding) -> Failure {
        Failure::new(finding.code.exit(), format!("{} {}", finding.code, finding.message), finding.hint)
    }
}

/// Tells a failure.
pub(super) fn done(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::PASSED,
        Err(failure) => {
            ui::error(&failure.message, Some(&failure.hint));
            failure.exit
        }
    }
}
