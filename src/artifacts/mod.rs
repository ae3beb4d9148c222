//! What a run leaves: read from the cell without trust, kept per run, published without touching a file of the user's.
//!
//! Does not know what a file means (`results` and `report` do) and decides no finding.

mod beneath;
mod publish;
mod receive;
mod runs;

pub use publish::{Item, Published, Shadowed, exclude_from_status, merge, publish, published_name, update};
pub use receive::{Limits, Received, ReceivedFile, receive};
pub use runs::{Holder, RunDir, RunLock, is_finished, sweep};

use crate::git::GitError;
use std::path::{Path, PathBuf};

/// Why artifacts can't be read or published.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The bytes are no tar, or it ends too early. What was read until then is in the directory.
    #[error("artifact tar: {0}")]
    Malformed(&'static str),
    /// `artifacts` is a link or a file.
    #[error("{}: not a folder, so nothing is published", .0.display())]
    NoFolder(PathBuf),
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Git can't be asked.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl ArtifactError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ArtifactError::NoFolder(_) => Some("make it a folder, or read the results in .firsttry/runs"),
            ArtifactError::Malformed(_) | ArtifactError::Io { .. } | ArtifactError::Git(_) => None,
        }
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ArtifactError {
    let path = path.to_owned();
    move |source| ArtifactError::Io { path, source }
}
