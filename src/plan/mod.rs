//! The plan: lock, facts and request turned into steps. Pure; `--plan` prints what stands here.

pub mod inputs;
mod preflight;
mod steps;

use crate::finding::Finding;
use crate::lock::{CellKind, Collection, Lock, OnAdded, Thresholds};
use crate::step::Step;
use camino::Utf8PathBuf;
use inputs::{ClosureFacts, Command, Facts, Request};
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
    /// The interpreter's full version, `3.11.7`; what the lock asks for where there is none.
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
    /// Tests that the manifest does not have are written into it by this command and are no finding.
    #[serde(default)]
    pub added_is_fine: bool,
    /// Files that must be there after the run, relative to the repository.
    pub required_artifacts: Vec<Utf8PathBuf>,
}

/// Turns lock, facts and request into the plan and what deviates already. Preflight is this function; it acts on
/// nothing.
#[must_use]
pub fn plan(lock: &Lock, facts: &Facts, request: &Request) -> (Plan, Vec<Finding>) {
    let findings = preflight::findings(lock, facts, request);
    let run = request.command == Command::Run;
    let partial = !request.only.is_empty();
    let steps = steps::steps(lock, facts, request);
    // An exec is nobody's check, and a part of the steps can't collect all tests nor leave all artifacts.
    let judged = !matches!(request.command, Command::Exec { .. });
    let judge = Judge {
        thresholds: lock.thresholds.clone(),
        collection: Collection {
            allow_uncollected: lock.collection.allow_uncollected || !judged || partial || lock.environment.is_none(),
            ..lock.collection.clone()
        },
        collection_manifest: facts.collection_manifest.clone(),
        added_is_fine: request.update_collection && lock.collection.on_added == OnAdded::Update,
        required_artifacts: if run && !partial { lock.required_artifacts.clone() } else { Vec::new() },
    };
    let tool_versions = lock
        .tools
        .iter()
        .filter_map(|(step, tool)| {
            let version = packages(facts)?.get(&crate::lock::normalise(tool.package.as_deref()?))?;
            Some((step.clone(), version.clone()))
        })
        .collect();
    let plan = Plan {
        command: match request.command {
            Command::Run => "run",
            Command::Check { .. } => "check",
            Command::Exec { .. } => "exec",
        }
        .to_owned(),
        lock_sha256: lock.sha256.clone(),
        cell: facts.machine.kind(),
        python: facts.python.as_ref().map_or_else(|| lock.python.clone(), |python| python.version.clone()),
        environment: facts.environment.as_ref().map(|environment| environment.key.clone()),
        tool_versions,
        parallel: parallel(lock, facts, request),
        fail_fast: request.fail_fast,
        advisory: request.advisory,
        steps,
        judge,
    };
    (plan, findings)
}

/// Whether container mode applies.
#[must_use]
pub fn wants_container(lock: &Lock, request: &Request) -> bool {
    request.container || lock.container.force || lock.cell_minimum == CellKind::Container
}

/// `3.11` of `3.11.7`: what the collection manifest calls a Python.
#[must_use]
pub fn minor(version: &str) -> &str {
    version.match_indices('.').nth(1).map_or(version, |(at, _)| &version[..at])
}

/// `cpu_count` is for the run: an affinity mask and the parallelism. Steps that share loopback and `/tmp` run one at a
/// time.
fn parallel(lock: &Lock, facts: &Facts, request: &Request) -> usize {
    if facts.machine.kind() == CellKind::Here {
        return 1;
    }
    let machine = facts.machine.cpus.max(1);
    let locked = lock.limits.cpu_count.map_or(machine, |n| machine.min(n as usize));
    request.jobs.unwrap_or(locked).max(1)
}

/// What the environment has, or what it is to be made of.
fn packages(facts: &Facts) -> Option<&BTreeMap<String, String>> {
    match (&facts.environment, &facts.closure) {
        (Some(environment), _) if environment.deviations.is_empty() => Some(&environment.packages),
        // What is in a broken environment is not looked at: that it is broken is the finding.
        (_, ClosureFacts::Ready(packages)) => Some(packages),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
