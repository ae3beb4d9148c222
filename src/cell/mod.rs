//! The walls around one step. One step, one cell.
//!
//! [`Walls`] is a description: plain data, nothing acts on it here. A [`Cell`] raises them and hands back a stream on
//! which the agent speaks frames; [`talk`] leads the conversation with it. After `hello` the kinds can't be told apart.
//! What a step's end means is not decided here.

pub mod agents;
pub mod container;
mod conversation;
mod handshake;
pub mod here;
pub mod namespaces;
mod relay;
mod scratch;
pub mod scripted;
#[cfg(target_os = "linux")]
mod terminal;

pub use container::Container;
pub use conversation::{Finished, Leaving, run, talk};
pub use handshake::{Conversation, Wrong};
pub use here::Here;
pub use namespaces::{Namespaces, Probe, Unavailable, probe, trials};
pub use relay::{Resolver, Resolving};
pub use scratch::remove_scratch;
#[cfg(target_os = "linux")]
pub use terminal::{NoTerminal, Terminal};

use crate::lock::CellKind;
use crate::step::{Limits, Network};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};

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
    /// Whether what the step changes in its tree is wanted afterwards, below `scratch`. Where it is not, it may go with
    /// the cell.
    pub keep: bool,
    /// A directory of the host that belongs to this cell alone: the step's changes land in [`CHANGES`] below it, or in
    /// [`CHANGES_TAR`]. The caller makes it and removes it.
    pub scratch: PathBuf,
}

/// What a step changed in its tree, below its scratch directory: an upper layer as overlayfs makes it.
pub const CHANGES: &str = "changes";

/// The same as a tar, from cells that have no directory of the host.
pub const CHANGES_TAR: &str = "changes.tar";

/// What stands at `/ft/work`.
#[derive(Debug, Clone)]
pub enum Work {
    /// An empty writable directory.
    Empty,
    /// A writable view of these directories, the first one on top. None of them is changed. In a container one may be the
    /// tar of a directory.
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

/// One kind of cell.
pub trait Cell: Sync {
    /// Which kind.
    fn kind(&self) -> CellKind;

    /// Who resolves the names that its policy allows.
    fn resolver(&self) -> Resolver {
        Resolver::System
    }

    /// Raises the walls and starts the agent behind them.
    ///
    /// # Errors
    /// [`CellError::Unsupported`] where these walls can't be had here, [`CellError::Launch`] where it failed.
    fn launch(&self, walls: &Walls) -> impl Future<Output = Result<Live, CellError>> + Send;
}

/// The kind that a machine gives, known when the program runs.
#[derive(Debug, Clone)]
pub enum AnyCell {
    /// Namespaces.
    Namespaces(Namespaces),
    /// None to be had.
    Here(Here),
    /// An engine's containers.
    Container(Container),
}

impl AnyCell {
    /// A cell of this kind, where it is raised by our own agent; with the caller's terminal in it, for a manifest with
    /// `passthrough`.
    #[must_use]
    pub fn of(kind: CellKind, terminal: bool) -> AnyCell {
        match kind {
            CellKind::Here => AnyCell::Here(Here { terminal }),
            CellKind::Namespaces | CellKind::Container => AnyCell::Namespaces(Namespaces { terminal }),
        }
    }
}

impl Cell for AnyCell {
    fn kind(&self) -> CellKind {
        match self {
            AnyCell::Namespaces(cell) => cell.kind(),
            AnyCell::Here(cell) => cell.kind(),
            AnyCell::Container(cell) => cell.kind(),
        }
    }

    async fn launch(&self, walls: &Walls) -> Result<Live, CellError> {
        match self {
            AnyCell::Namespaces(cell) => cell.launch(walls).await,
            AnyCell::Here(cell) => cell.launch(walls).await,
            AnyCell::Container(cell) => cell.launch(walls).await,
        }
    }
}

/// A cell whose agent was started. Dropping it ends it.
pub struct Live {
    /// To the agent.
    pub to: Box<dyn AsyncWrite + Send + Unpin>,
    /// From the agent: its frames.
    pub from: Box<dyn AsyncRead + Send + Unpin>,
    /// What the agent says when it panics.
    pub errors: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// How it is ended and waited for.
    pub handle: Box<dyn Handle>,
}

/// How a running cell is ended from outside, in any order and any number of times.
pub trait Handle: Send {
    /// Ends everything in the cell at once.
    fn kill(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Waits until nothing of it is left; says how its first process ended.
    fn wait(&mut self) -> Pin<Box<dyn Future<Output = io::Result<String>> + Send + '_>>;
    /// Something that many cells share was not whole, as the agent says in these words: it is to be made again by whoever
    /// needs it next. Cells that share nothing have nothing to do.
    fn distrust(&mut self, _said: &str) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// Why there is no result of a step. Never a statement about the step.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// The cell can't give what the walls ask for. PARITY-052.
    #[error("{kind} cell: {what} is not available here")]
    Unsupported {
        /// The kind of cell, `namespaces`.
        kind: &'static str,
        /// What was asked for.
        what: String,
    },
    /// The walls could not be raised. PARITY-052.
    #[error("walls could not be raised: {stage}: {message}")]
    Walls {
        /// Which wall: `user namespace`, `root`, ...
        stage: String,
        /// What the kernel said.
        message: String,
    },
    /// The agent could not be started. Infrastructure.
    #[error("start the cell: {what}")]
    Launch {
        /// What was tried.
        what: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The stream ended before `end`. Infrastructure.
    #[error("the cell's stream was cut{}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    Cut(String),
    /// The agent has a defect. Exit code 70.
    #[error("the agent panicked: {0}")]
    Panicked(String),
    /// The engine did not do what it was asked. Infrastructure.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// Something that is no frame. Infrastructure.
    #[error("the cell's stream can't be read: {0}")]
    Frame(#[from] crate::frame::FrameError),
    /// A frame out of order, or another protocol. Infrastructure.
    #[error("the cell does not keep to the protocol: {0}")]
    Protocol(#[from] Wrong),
    /// The agent itself is stuck; it was killed from outside. Infrastructure.
    #[error("the cell did not answer within {seconds} s after its step should have ended, and was killed")]
    Stalled {
        /// How long was waited beyond timeout and grace.
        seconds: u64,
    },
    /// A file of the run could not be written. Infrastructure.
    #[error("write {}", path.display())]
    Spool {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Whoever wanted the frames is gone; the cell was killed.
    #[error("the run gave up on the cell")]
    Abandoned,
}

impl CellError {
    /// Whether a policy can't be enforced on this machine (PARITY-052); anything else is infrastructure (69).
    #[must_use]
    pub fn is_unenforceable(&self) -> bool {
        match self {
            CellError::Unsupported { .. } => true,
            // What was to be in the cell did not get there: that says nothing about the machine.
            CellError::Walls { stage, .. } => !["goods", crate::frame::UNSEALED].contains(&stage.as_str()),
            _ => false,
        }
    }
}

/// The kernel's owner of what a step writes, where it is not the caller: a tree that a step is to change must be
/// unpacked with it. `Some` when running as root.
#[must_use]
pub fn step_owner() -> Option<(u32, u32)> {
    #[cfg(target_os = "linux")]
    return crate::linux::ids::step_owner();
    #[cfg(not(target_os = "linux"))]
    None
}

/// Ends the processes and removes the control groups and temporary files that killed runs left. Returns how many.
pub fn sweep() -> usize {
    // Processes first: a group with somebody in it can't be removed.
    #[cfg(target_os = "linux")]
    return here::sweep() + crate::linux::cgroup::sweep();
    #[cfg(not(target_os = "linux"))]
    0
}
