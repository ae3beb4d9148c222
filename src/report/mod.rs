//! What a run is told as: JSON, JUnit, text. Pure: an [`Outcome`](crate::outcome::Outcome) in, bytes out. Nothing here
//! opens a file, looks at a clock or knows whether it writes to a terminal.

pub mod diff;
pub mod explain;
pub mod github;
pub mod json;
pub mod junit;
pub mod neutral;
pub mod page;
pub mod plan;
pub mod state;
pub mod text;

#[cfg(test)]
pub(crate) mod sample;
