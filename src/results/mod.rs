//! What tools leave behind, read into values: pytest's plugin report, coverage totals, bandit's issues. Bytes in,
//! values out; who judges them is [`crate::outcome`].

pub mod bandit;
pub mod coverage;
pub mod pytest;

/// A side result that a tool should have written and that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not what {tool} writes: {reason}")]
pub struct ResultError {
    /// The tool that should have written it.
    pub tool: &'static str,
    /// Which file.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: String,
}
