//! What a run leaves: read from the cell without trust, kept per run, published without touching a file of the user's.
//!
//! Does not know what a file means (`results` and `report` do) and decides no finding.

mod beneath;
mod receive;

pub use receive::{ArtifactError, Limits, Received, ReceivedFile, receive};
