//! Container mode before the plan: the engine, the image, and the Python in it.

use super::context::Context;
use super::in_place::{Another, Question};
use super::jobs::CellJobs;
use super::runs;
use crate::cell::AnyCell;
use crate::cell::container::{Container, OpenError};
use crate::code::ParityCode;
use crate::engine::labels::{Labels, Owner};
use crate::engine::{Engine, EngineError, Where, promises};
use crate::environment::contained::{self, Place};
use crate::environment::interpreter::Interpreter;
use crate::environment::lib_dir;
use crate::finding::Finding;
use crate::image::identity;
use crate::image::store::{self, ImageError};
use crate::lock::contents::Contents;
use crate::lock::image::{ImageName, Reference};
use crate::lock::{Image, Lock};
use crate::plan;
use crate::plan::inputs::ContainerFacts;
use crate::repo::Repo;
use crate::step::Limits;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Seconds after which nobody can need what a run made.
const DEADLINE: u64 = 24 * 3600;

/// After so long a container of ours ends itself, whoever seems to hold its stream: far more than any step takes.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

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

impl From<ImageError> for NoContainer {
    fn from(error: ImageError) -> NoContainer {
        match error {
            ImageError::Finding(finding) => NoContainer::Refused(*finding),
            ImageError::Engine(error) => error.into(),
            error => NoContainer::Broken(error.to_string(), error.hint()),
        }
    }
}

/// What the plan is told.
pub(super) fn facts(opened: &Result<Contained, Finding>) -> ContainerFacts {
    let every = Limits { memory_bytes: Some(0), pids: Some(0), disk_bytes: Some(0), cpus: Some(0), output_bytes: None };
    let missing = |contained: &Contained| {
        let promises = promises(contained.cell.engine().facts(), &every);
        promises.into_iter().filter(|promise| !promise.held).map(|promise| (promise.wall, promise.why)).collect()
    };
    ContainerFacts {
        refused: opened.as_ref().err().cloned(),
        limits_missing: opened.as_ref().map_or_else(|_| Vec::new(), missing),
    }
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
    // What the lock does not say is the plan's to find; nobody needs to be asked.
    let Some(image) = lock.image(python) else {
        let what = format!("the lock names no container image for Python {python}");
        let hint = "`ft lock --image NAME` pins an image that an engine has";
        return Err(NoContainer::Refused(Finding::new(ParityCode::IMAGE_NOT_PINNED, "preflight", what).hint(hint)));
    };
    let places = Where::from_variables(|name| context.vars.text(name));
    let engine = Engine::connect(&places).await?;
    let lib = lib_dir::ready(&repo.state_dir().join("lib")).map_err(|error| broken(&error))?;
    // Compared with the lock before anything is made of it.
    let id = match store::find(&engine, &image).await? {
        Some((id, _)) => id,
        None => pull(context, &engine, &image).await?,
    };
    let owner = Owner::this();
    let labels = Labels {
        run: runs::new_id(jiff::Timestamp::now()),
        deadline: engine.now().saturating_add(DEADLINE),
        repository: repo.root.display().to_string(),
        owner: owner.clone(),
    };
    // What dead runs left goes while the image is looked at; what can't be removed is tried again by the next one.
    let sweeper = engine.clone();
    let id = [id];
    let (opened, _) = tokio::join!(Container::open(engine, &id, &lib, labels, LONGEST), sweeper.sweep(&owner));
    let cell = match opened {
        Ok(cell) => cell,
        Err(OpenError::Engine(error)) => return Err(error.into()),
        Err(error) => {
            let (code, hint) = match &error {
                OpenError::Missing { .. } => (
                    ParityCode::IMAGE_IDENTITY,
                    "pull it, or load it from an archive, into the engine that is named".to_owned(),
                ),
                OpenError::Architecture { .. } => (
                    ParityCode::POLICY_UNENFORCEABLE,
                    "a release of ft carries agents for amd64 and arm64, a build from source that for its own machine"
                        .to_owned(),
                ),
                OpenError::Emulated { .. } => {
                    let hint = "name an engine on such a machine in `DOCKER_HOST`, or pin an image for this one";
                    (ParityCode::POLICY_UNENFORCEABLE, hint.to_owned())
                }
                OpenError::Place { .. } | OpenError::Meet { .. } => {
                    (ParityCode::POLICY_UNENFORCEABLE, "use an image without that volume".to_owned())
                }
                OpenError::Engine(_) => unreachable!("told apart above"),
            };
            return Err(NoContainer::Refused(Finding::new(code, "preflight", error.to_string()).hint(hint)));
        }
    };
    let (kind, spool) = (AnyCell::Container(cell.clone()), run_dir.join("jobs"));
    let mut jobs = CellJobs::new(&kind, spool);
    let [memory, scratch] = folders(repo, run_dir);
    let interpreter = match contained::find(python, &place(&cell, &memory, &scratch), &mut jobs).await {
        Ok(found) => found,
        Err(lost) if lost.unenforceable => {
            let finding = Finding::new(ParityCode::POLICY_UNENFORCEABLE, "preflight", lost.to_string());
            return Err(NoContainer::Refused(finding));
        }
        Err(lost) => return Err(broken(&lost)),
    };
    Ok(Contained { cell, interpreter })
}

/// What is remembered of images, and where jobs are made in one.
fn folders(repo: &Repo, run_dir: &Path) -> [PathBuf; 2] {
    [repo.state_dir().join("cache/images"), run_dir.join("cells/image")]
}

fn place<'a>(cell: &'a Container, memory: &'a Path, scratch: &'a Path) -> Place<'a> {
    Place { image: &cell.image().id, path: &cell.image().path, memory, scratch }
}

/// What the lock's image gives to this Python, measured in it; else why that can't be said.
pub(super) async fn measure(
    context: &Context,
    repo: &Repo,
    lock: &Lock,
    python: &str,
    folder: &Path,
) -> Result<Contents, String> {
    let Contained { cell, interpreter } = match open(context, repo, lock, python, folder).await {
        Ok(contained) => contained,
        Err(NoContainer::Refused(finding)) => return Err(finding.message),
        Err(NoContainer::Broken(message, _)) => return Err(message),
    };
    let measured = match interpreter {
        Err(_) => Err(format!("it has no Python {python}")),
        Ok(interpreter) => {
            let (kind, spool) = (AnyCell::Container(cell.clone()), folder.join("measure"));
            let [memory, scratch] = folders(repo, folder);
            let mut jobs = CellJobs::new(&kind, spool);
            contained::measure(&interpreter, &place(&cell, &memory, &scratch), &mut jobs)
                .await
                .unwrap_or_else(|lost| Err(lost.to_string()))
        }
    };
    cell.close().await;
    measured
}

/// The same for a command that is no run; none where container mode does not apply.
pub(super) fn now(
    context: &Context,
    repo: &Repo,
    lock: &Lock,
    request: &plan::inputs::Request,
) -> Result<Option<Result<Contained, Finding>>, (String, String)> {
    if !plan::wants_container(lock, request) {
        return Ok(None);
    }
    let elsewhere = match Question::asked(context, repo, lock, &lock.python, request).map(Question::answer) {
        Some(Ok(_)) => return Ok(None),
        Some(Err(another)) => Some(another),
        None => None,
    };
    let broken = |error: std::io::Error| (error.to_string(), String::new());
    let state = repo.state_dir();
    fs_err::create_dir_all(&state).map_err(broken)?;
    let folder = crate::leftovers::folder_in(&state).map_err(broken)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
    match runtime.block_on(open(context, repo, lock, &lock.python, folder.path())) {
        Ok(contained) => Ok(Some(Ok(contained))),
        Err(NoContainer::Refused(finding)) => Ok(Some(Err(Another::or(elsewhere, finding)))),
        Err(NoContainer::Broken(message, hint)) => Err((message, hint)),
    }
}

/// Gets an image that the engine does not have from its registry, by its digest.
async fn pull(context: &Context, engine: &Engine, image: &Image) -> Result<String, NoContainer> {
    let name = identity::pinned(image).map_err(NoContainer::Refused)?;
    let refused = |what: String, hint: &str| {
        NoContainer::Refused(Finding::new(ParityCode::IMAGE_IDENTITY, "preflight", what).hint(hint))
    };
    let missing = format!("{} has no image {name}", engine.facts().name());
    let reference = match &name {
        ImageName::Id(_) => {
            return Err(refused(missing, "it is in no registry: `ft image load FILE` loads an archive of it"));
        }
        ImageName::Named(_) if context.global.offline => {
            return Err(refused(format!("offline, and {missing}"), "`ft image load FILE`, or run without `--offline`"));
        }
        ImageName::Named(reference) => Reference { tag: None, ..reference.clone() },
    };
    let seen = super::pull::pull(context, engine, &reference).await?;
    identity::check(image, &seen, &image.image).map_err(NoContainer::Refused)?;
    Ok(seen.id.to_string())
}
