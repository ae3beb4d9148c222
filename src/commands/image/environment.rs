//! The locked environment as a layer: made for the Python of the lock's image, in a cell of that image, and put where a cell
//! has it. Who runs the new image needs neither `ft` nor a network to have the tools of the lock.

use super::{Failure, image_of, read_lock};
use crate::cell::AnyCell;
use crate::code::{ExitCode, ParityCode};
use crate::commands::contained::{self, NoContainer};
use crate::commands::context::Context;
use crate::commands::env;
use crate::commands::jobs::CellJobs;
use crate::commands::survey::{self, Asked};
use crate::environment::Progress;
use crate::finding::Finding;
use crate::image::archive::{self, Found, LayerFile};
use crate::image::identity;
use crate::image::store;
use crate::plan::inputs::ClosureFacts;
use crate::repo::Source;
use crate::ui;
use std::path::Path;

/// Where an environment stands in a cell, from the root of the image.
const PLACE: &str = "ft/env";

/// The environment of the lock for this image, as a layer in `folder`.
pub(super) fn layer(
    context: &Context,
    base: &str,
    image: &Found,
    epoch: u64,
    folder: &Path,
) -> Result<LayerFile, Failure> {
    let (repo, lock) = read_lock(context)?;
    let wanted = image_of(&lock, &lock.python)?;
    // Made for one Python, an environment does not run with another.
    identity::check(&wanted, &store::seen(image), base).map_err(|finding| {
        finding.hint("an environment is made for the image of the lock: build from that one, or pin this one first (`ft lock --image`)")
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(ExitCode::INFRASTRUCTURE, error, "run it again"))?;
    let opened = match runtime.block_on(contained::open(context, &repo, &lock, &lock.python, folder)) {
        Ok(contained) => Ok(contained),
        Err(NoContainer::Refused(finding)) => return Err(finding.into()),
        Err(NoContainer::Broken(message, hint)) => {
            return Err(Failure::new(ExitCode::INFRASTRUCTURE, message, hint));
        }
    };
    let asked = Asked {
        source: &Source::Worktree,
        python: &lock.python,
        untracked: Vec::new(),
        cells: false,
        contained: Some(&opened),
    };
    let survey = survey::survey(context, &repo, &lock, asked);
    let (Some(key), Some(interpreter), Ok(contained)) = (&survey.key, &survey.interpreter, &opened) else {
        return Err(nothing_to_build(&survey.facts.closure, &lock.python, survey.interpreter.is_some()).into());
    };
    let environments = env::store(context, &repo);
    let spec = env::spec(context, &repo, interpreter, &survey, false);
    let cell = AnyCell::Container(contained.cell.clone());
    let mut jobs = CellJobs::new(&cell, folder.join("jobs"));
    let mut face = ui::Face::new(context.style.clone());
    let mut report = |progress: Progress| face.glimpse(&env::glimpse(&progress));
    let built = runtime.block_on(environments.ensure(&spec, &mut jobs, &mut report));
    let ready = built.map_err(|error| match error.code() {
        Some(code) => Failure::from(Finding::new(code, "environment", error.to_string()).hint(error.hint())),
        None => Failure::new(ExitCode::INFRASTRUCTURE, &error, error.hint()),
    })?;
    ui::note(&format!("the environment of Python {}: {} packages", interpreter.facts.version, ready.dists.len()));
    Ok(archive::layer(&environments.path(key), PLACE, epoch, &folder.join("environment"))?)
}

fn nothing_to_build(closure: &ClosureFacts, python: &str, found: bool) -> Finding {
    if !found {
        let what = format!("the image has no Python {python}");
        return Finding::new(ParityCode::PYTHON_VERSION, "preflight", what).hint("pin an image that has it");
    }
    let what = match closure {
        ClosureFacts::Stale { what, .. } => what.clone(),
        _ => "the lock has no hashed closure that can be used".to_owned(),
    };
    Finding::new(ParityCode::LOCK_STALE, "preflight", what)
}
