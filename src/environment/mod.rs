//! The environment: the locked tools, installed, keyed by everything that determines them, sealed; and the project
//! layer, the project under test made importable.
//!
//! An environment is made of wheels alone, and this module installs them itself: a wheel is an archive with a written
//! specification, so the same closure gives the same bytes whether `uv` or `pip` or neither is on this machine. Each
//! wheel is unpacked and compiled once per interpreter in the wheel store; building an environment copies those files
//! and hashes every one on the way. Nothing of a wheel is executed to install it.
//!
//! ```text
//! interpreter   which Python, and what it says about itself (asked once, remembered)
//! contained     the same of a Python in an image, asked by a job there
//! key           everything that determines an environment, as one name
//! fetch         which wheel of a pinned package fits, downloaded by pip, verified against the lock
//! held          what the wheel store holds of a lock, and what is put into it from elsewhere
//! pip           pip as a downloader, and what its output means
//! wheel         one wheel, unpacked to where it will stand, and compiled
//! layout        what an environment has beside its wheels
//! dists         what is installed, read from *.dist-info
//! seal          every file with its sha256; deviations from it
//! store         .firsttry/env: find, verify, collect
//! build         a new environment: locks around prepare (wheels ready in the wheel store) and assemble (copied, sealed)
//! project       the jobs around the project under test: layer, build, import
//! lib_dir       our Python files on disk, seen at /ft/lib
//! ```
//!
//! It does not decide what the closure is (that is [`crate::lock`]), starts no cell (it describes [`Job`]s and the
//! caller runs them), prints nothing ([`Progress`] is a value) and reads no environment variable.

mod assemble;
mod build;
pub mod contained;
pub mod dists;
pub mod fetch;
pub mod held;
pub mod interpreter;
pub mod kept_layer;
pub mod key;
pub mod layout;
pub mod lib_dir;
pub mod locks;
mod pip;
mod prepare;
pub mod project;
pub mod seal;
pub mod store;
pub mod wheel;

#[cfg(test)]
mod tests;

/// One package of the closure; here `sdist` says that it may be built from a source archive.
pub use crate::lock::closure::Pinned;

use crate::cell::Walls;
use crate::frame::Manifest;
use std::future::Future;
use std::path::{Path, PathBuf};

/// One process in one cell: a description. Whoever runs it raises the walls, leads the conversation, and puts what the
/// process left in `/ft/out` into [`Job::out`]. Whoever described it makes and removes the scratch directory.
#[derive(Debug, Clone)]
pub struct Job {
    /// What it does, in a few words, for progress and errors.
    pub name: String,
    /// The walls.
    pub walls: Walls,
    /// The command and its world.
    pub manifest: Manifest,
    /// An existing, empty directory of the host that receives what comes back from `/ft/out`.
    pub out: PathBuf,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobEnd {
    /// Its exit status; 0 where a signal ended it.
    pub code: i32,
    /// The signal that ended it; 0 where it exited by itself.
    pub signal: i32,
    /// The timeout ran out.
    pub timed_out: bool,
    /// Standard output and error, in the order of arrival.
    pub log: Vec<u8>,
}

impl JobEnd {
    /// Whether the command exited by itself with 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.code == 0 && self.signal == 0 && !self.timed_out
    }

    /// The last lines of the log, for a message.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = String::from_utf8_lossy(&self.log);
        let all: Vec<&str> = text.trim_end().lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// The cell could not do its work; nothing is known about the command.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct JobLost {
    /// What happened.
    pub message: String,
    /// The walls can't be had on this machine: PARITY-052. Else infrastructure (69).
    pub unenforceable: bool,
    /// The cell stands, and there is no such command in it.
    pub absent: bool,
}

/// Runs jobs. The wiring implements it with the cell of this run.
pub trait RunJob {
    /// Runs one job to its end.
    fn run(&mut self, job: Job) -> impl Future<Output = Result<JobEnd, JobLost>>;
}

/// What the building of an environment says about itself, for whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Another process holds the lock; `owner` is what it wrote about itself.
    Waiting {
        /// What is waited for: an environment key, or `wheels`.
        what: String,
        /// `pid 123, since ...`, or empty where it is not known.
        owner: String,
    },
    /// Leftovers of an interrupted build were removed.
    Removed {
        /// How many.
        leftovers: usize,
    },
    /// Files are missing and are fetched now.
    Fetching {
        /// How many packages.
        packages: usize,
    },
    /// One package is being downloaded.
    Downloading {
        /// As the downloader names it.
        what: String,
    },
    /// Wheels are unpacked and compiled into the wheel store.
    Preparing {
        /// How many.
        wheels: usize,
    },
    /// A wheel is built from an sdist.
    BuildingSdist {
        /// Its name.
        name: String,
    },
    /// The environment is put together.
    Installing {
        /// How many packages.
        packages: usize,
    },
    /// A file of the wheel store was not what its digest says; it was thrown away.
    Discarded {
        /// Which.
        path: PathBuf,
    },
    /// The environment is sealed.
    Sealed {
        /// How many files.
        files: usize,
        /// How many bytes.
        bytes: u64,
    },
}

/// Where progress goes.
pub type Report<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// An I/O error with the path it is about.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct PathError {
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

impl PathError {
    /// For `map_err`.
    pub(crate) fn at(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> PathError {
        let path = path.as_ref().to_path_buf();
        move |source| PathError { path, source }
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn disk_full(&self) -> bool {
        matches!(self.source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    }
}
