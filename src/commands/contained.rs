//! Container mode before the plan: the engine, the image, and the Python in it.

use super::context::Context;
use super::jobs::CellJobs;
use super::runs;
use crate::cell::AnyCell;
use crate::cell::container::{Container, OpenError};
use crate::code::ParityCode;
use crate::engine::{Engine, EngineError, Where};
use crate::environment::contained::{self, Place};
use crate::environment::interpreter::Interpreter;
use crate::environment::lib_dir;
use crate::finding::Finding;
use crate::lock::Lock;
use crate::plan::inputs::ContainerFacts;
use crate::repo::Repo;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What container mode is made of.
pub(super) struct Contained {
    pub(super) cell: Container,
    /// The Python of this run in the image; else what is there instead.
    pub(super) interpreter: Result<Interpreter, Vec<(PathBuf, String)>>,
}

/// Why there is none.
pub(super) enum NoContainer {
    /// It is the plan's to say.
    Refused(Finding),
    /// Infrastructure: what happened, and what to do.
    Broken(String, String),
}

impl From<EngineError> for NoContainer {
    fn from(error: EngineError) -> NoContainer {
        match error.finding() {
            Some(finding) => NoContainer::Refused(finding),
            None => NoContainer::Broken(error.to_string(), error.hint()),
        }
    }
}

/// What the plan is told.
pub(super) fn facts(opened: &Result<Contained, Finding>) -> ContainerFacts {
    ContainerFacts { refused: opened.as_ref().err().cloned() }
}

/// Connects, finds the image, and asks the Pythons in it.
pub(super) async fn open(
    context: &Context,
    repo: &Repo,
    lock: &Lock,
    python: &str,
    run_dir: &Path,
) -> Result<Contained, NoContainer> {
    let broken = |error: &dyn std::fmt::Display| NoContainer::Broken(error.to_string(), String::new());
    let Some((name, digest)) = lock.container.image.as_deref().and_then(|image| image.split_once('@')) else {
        // The plan says so; nobody needs to be asked.
        return Err(NoContainer::Refused(Finding::new(ParityCode::IMAGE_NOT_PINNED, "preflight", "no image is pinned")));
    };
    let places = Where::from_variables(|name| context.vars.text(name));
    let engine = Engine::connect(&places).await?;
    let lib = lib_dir::ready(&repo.state_dir().join("lib")).map_err(|error| broken(&error))?;
    let names = [format!("{name}@{digest}"), digest.to_owned()];
    let cell = match Container::open(engine, &names, &lib, labels(repo)).await {
        Ok(cell) => cell,
        Err(OpenError::Engine(error)) => return Err(error.into()),
        Err(error) => {
            let (code, hint) = match &error {
                OpenError::Missing { .. } => (
                    ParityCode::IMAGE_IDENTITY,
                    "pull it, or load it from an archive, into the engine that is named".to_owned(),
                ),
                _ => (ParityCode::POLICY_UNENFORCEABLE, "use another image or engine".to_owned()),
            };
            return Err(NoContainer::Refused(Finding::new(code, "preflight", error.to_string()).hint(hint)));
        }
    };
    let (kind, spool) = (AnyCell::Container(cell.clone()), run_dir.join("jobs"));
    let mut jobs = CellJobs::new(&kind, spool);
    let place = Place {
        image: &cell.image().id.clone(),
        path: &cell.image().path.clone(),
        memory: &repo.state_dir().join("cache/images"),
        scratch: &run_dir.join("cells/image"),
    };
    let interpreter = match contained::find(python, &place, &mut jobs).await {
        Ok(found) => found,
        Err(lost) if lost.unenforceable => {
            let finding = Finding::new(ParityCode::POLICY_UNENFORCEABLE, "preflight", lost.to_string());
            return Err(NoContainer::Refused(finding));
        }
        Err(lost) => return Err(broken(&lost)),
    };
    Ok(Contained { cell, interpreter })
}

/// What everything that this run makes in an engine is marked with.
fn labels(repo: &Repo) -> HashMap<String, String> {
    let now = jiff::Timestamp::now();
    let deadline = now.as_second() + 24 * 3600;
    [
        ("ft.run", runs::new_id(now)),
        ("ft.owner", std::process::id().to_string()),
        ("ft.deadline", deadline.to_string()),
        ("ft.repository", repo.root.display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
