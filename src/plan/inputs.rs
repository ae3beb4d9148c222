//! What the plan is made from, beside the lock. Plain values: `cli` fills the request, `facts` fills the facts.

use crate::finding::Finding;
use crate::lock::CellKind;
use crate::repo::Source;
use camino::Utf8PathBuf;
use std::collections::BTreeMap;

/// What was asked for, after flags and environment variables were understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the run is.
    pub command: Command,
    /// Only these steps; empty means all.
    pub only: Vec<String>,
    /// Which tree.
    pub source: Source,
    /// Report, but exit 0.
    pub advisory: bool,
    /// A failing step cancels the later ones.
    pub fail_fast: bool,
    /// Container mode was asked for.
    pub container: bool,
    /// Where this process already runs in the lock's image, that is the container: `ft ci`, where no engine is asked for
    /// by name.
    pub in_place: bool,
    /// `FT_NO_NETWORK=1`: no network, whatever the lock says.
    pub no_network: bool,
    /// `FT_CHANGED_ONLY=1`.
    pub changed_only: bool,
    /// `PYTEST_ADDOPTS` of the caller.
    pub pytest_addopts: Option<String>,
    /// Whether hooks or CI run this: what is a warning by hand is an error there.
    pub strict_tree: bool,
    /// Whether this command may write new tests into the manifest, where the lock allows it (`ft check`, not CI).
    pub update_collection: bool,
    /// Another `PYTHONHASHSEED` than the lock's: `ft lock` collects under two, to see what has no fixed order.
    pub hash_seed: Option<String>,
    /// How many steps at once, where the caller says so.
    pub jobs: Option<usize>,
}

/// What kind of run it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Command {
    /// The parity run.
    #[default]
    Run,
    /// The self-check: no check runs; tests are collected only where the cache has no answer.
    Check {
        /// Whether the tests must be collected in cells, because no cached collection fits.
        collect: bool,
    },
    /// One command of the caller's own.
    Exec {
        /// The command.
        argv: Vec<String>,
        /// Where it starts, relative to the repository: where the caller stands.
        cwd: Utf8PathBuf,
    },
}

/// What was read from repository and machine. Nothing here is judged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// Version of this program.
    pub ft_version: String,
    /// Absolute path of the repository on this machine.
    pub repository: String,
    /// The Python that was asked for: the lock's, or one of its matrix.
    pub python_asked: String,
    /// The interpreter for it.
    pub python: Option<PythonFacts>,
    /// Interpreters that were found instead: `3.12.1 at /usr/bin/python3.12`.
    pub pythons_found: Vec<String>,
    /// The closure for this interpreter.
    pub closure: ClosureFacts,
    /// Hash of every entry of `config_hashes` and `project_files`; `Err` says why there is none.
    pub hashes: BTreeMap<String, Result<String, String>>,
    /// The environment, once it is there.
    pub environment: Option<EnvironmentFacts>,
    /// When the commit was made that is checked, seconds since 1970: `SOURCE_DATE_EPOCH` of builds.
    pub commit_time: Option<u64>,
    /// A file below `.firsttry` or `.venv-parity` that git tracks: what comes with a clone is not what was built here.
    pub tracked_state: Option<String>,
    /// Files that git does not track and does not ignore.
    pub untracked: Vec<String>,
    /// What this machine can do.
    pub machine: MachineFacts,
    /// Text of the collection manifest, where the lock names one that exists.
    pub collection_manifest: Option<String>,
}

/// An interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PythonFacts {
    /// `3.11.7`.
    pub version: String,
    /// Why its prefix can't be shown to a cell: it is the caller's home, or holds it.
    pub exposes: Option<String>,
}

/// The hashed closure, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClosureFacts {
    /// Not looked at (a version 1 lock has none).
    #[default]
    None,
    /// The lock is older than its sources.
    Stale {
        /// What differs.
        what: String,
        /// What to do, where it is not `ft lock`.
        hint: Option<String>,
    },
    /// The file can't be read as a closure: what is wrong, and whether a hash is missing.
    Unusable {
        /// What is wrong.
        message: String,
        /// A package without a hash (PARITY-005) and not a broken file (PARITY-013).
        unhashed: bool,
    },
    /// Name to version.
    Ready(BTreeMap<String, String>),
}

/// An environment that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnvironmentFacts {
    /// Its key.
    pub key: String,
    /// Distribution (normalised) to version, from the metadata of what is installed.
    pub packages: BTreeMap<String, String>,
    /// How it differs from its seal: `changed lib/python3.11/site-packages/x.py`.
    pub deviations: Vec<String>,
}

/// What this machine can do, found by trying.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineFacts {
    /// Why the namespaces cell can't be raised, and what to change; `None` where it can.
    pub no_namespaces: Option<(String, String)>,
    /// Why not even a cell without namespaces can be had, and what to change; `None` where it can, or where it is not
    /// needed.
    pub no_here: Option<(String, String)>,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Limits that can't be applied here: `memory`, `pids`, `disk`.
    pub limits_missing: Vec<String>,
    /// In container mode, what its engine and image said.
    pub container: Option<ContainerFacts>,
}

/// An engine and the lock's image in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerFacts {
    /// Why no container of that image can be had.
    pub refused: Option<Finding>,
    /// What this engine can't hold a container to, limits (`memory`, `pids`, `cpus`, `disk`) and walls, each with the reason.
    pub limits_missing: Vec<(String, String)>,
}

impl MachineFacts {
    /// The kind of cell: a container in container mode, else the strongest that this machine gives.
    #[must_use]
    pub fn kind(&self) -> CellKind {
        match &self.container {
            Some(_) => CellKind::Container,
            None if self.no_namespaces.is_some() => CellKind::Here,
            None => CellKind::Namespaces,
        }
    }
}
