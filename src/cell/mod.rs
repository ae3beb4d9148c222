//! The walls around one step. One step, one cell.
//!
//! [`Walls`] is a description: plain data, nothing acts on it here. A [`Cell`] raises them and hands back a stream on
//! which the agent speaks frames; [`run`] leads the conversation with it. After `hello` the kinds can't be told apart.

use crate::step::{Limits, Network};
use std::path::PathBuf;

/// What a cell looks like from inside, and what holds it.
#[derive(Debug, Clone)]
pub struct Walls {
    /// What stands at `/ft/work`.
    pub work: Work,
    /// Further directories or files, by default `/ft/env`, `/ft/project` and `/ft/lib`, read-only.
    pub mounts: Vec<Mount>,
    /// The interpreter's prefix (`sys.base_prefix`), seen read-only at its own path.
    pub interpreter: Option<PathBuf>,
    /// Where the step may connect to.
    pub network: Network,
    /// What it may use.
    pub limits: Limits,
    /// A directory of the host that belongs to this cell alone: the step's changes land in `changes/` below it. The
    /// caller makes it and removes it.
    pub scratch: PathBuf,
}

/// What stands at `/ft/work`.
#[derive(Debug, Clone)]
pub enum Work {
    /// An empty writable directory.
    Empty,
    /// A writable view of these directories, the first one on top. None of them is changed.
    View(Vec<PathBuf>),
}

/// A directory or file of the host at a path of the cell.
#[derive(Debug, Clone)]
pub struct Mount {
    /// On the host.
    pub host: PathBuf,
    /// In the cell, absolute.
    pub cell: String,
    /// Whether the step may write there.
    pub writable: bool,
}
