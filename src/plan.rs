//! The plan: lock, facts and request turned into steps. Pure; `--plan` prints what stands here.

use crate::lock::{CellKind, Collection, Thresholds};
use crate::step::Step;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything a run is going to do, and what its results are held against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `run`, `check`, `exec`.
    pub command: String,
    /// sha256 of the lock, in hex; empty where there is none that can be read.
    pub lock_sha256: String,
    /// The kind of cell.
    pub cell: CellKind,
    /// The interpreter's full version, `3.11.7`.
    pub python: String,
    /// The environment's key, where there is one.
    pub environment: Option<String>,
    /// The versions of the lock's tools, by step, as the closure has them.
    pub tool_versions: BTreeMap<String, String>,
    /// How many steps run at once.
    pub parallel: usize,
    /// Whether a failing step cancels the steps that come later in the plan.
    pub fail_fast: bool,
    /// Full report, exit 0, and never the word "passed".
    pub advisory: bool,
    /// The steps, in plan order.
    pub steps: Vec<Step>,
    /// What the results are held against.
    pub judge: Judge,
}

/// What the results of a run are held against.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Judge {
    /// The lock's thresholds.
    pub thresholds: Thresholds,
    /// The lock's word on the collection.
    pub collection: Collection,
    /// The text of the collection manifest, where the lock names one that exists.
    pub collection_manifest: Option<String>,
    /// Files that must be there after the run, relative to the repository.
    pub required_artifacts: Vec<Utf8PathBuf>,
}
