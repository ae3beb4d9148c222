//! `ft ci` in a job that runs in a container already: no engine can be asked which image that is, so what it gives to
//! Python is measured and held against the lock. Where it is the lock's image, the steps run where the job runs.

use super::context::Context;
use super::survey;
use crate::code::ParityCode;
use crate::event::InImage;
use crate::facts::{contents, machine};
use crate::finding::Finding;
use crate::lock::contents::Contents;
use crate::lock::{Image, Lock};
use crate::plan::inputs::Request;
use crate::repo::Repo;
use std::path::PathBuf;

/// Whether the container of this job is of the lock's image: all that an answer needs.
pub(super) struct Question {
    image: String,
    locked: Contents,
    python: String,
    interpreter: Option<PathBuf>,
}

/// The container of this job is of another image.
pub(super) struct Another {
    image: String,
    differences: Vec<String>,
}

impl Question {
    /// There is one where the command may run in place, a container engine left its mark here, and the lock knows what
    /// its image gives.
    pub(super) fn asked(
        context: &Context,
        repo: &Repo,
        lock: &Lock,
        python: &str,
        request: &Request,
    ) -> Option<Question> {
        if !request.in_place || !machine::read().container {
            return None;
        }
        let Image { image, contents: Some(locked), .. } = lock.image(python)? else { return None };
        let interpreter = survey::installed(context, repo, python).map(|interpreter| interpreter.executable);
        Some(Question { image, locked, python: python.to_owned(), interpreter })
    }

    /// Measures. Reads some thousand files: half a second where they are in memory.
    pub(super) fn answer(self) -> Result<InImage, Another> {
        let Question { image, locked, python, interpreter } = self;
        let differences = match interpreter.map(|interpreter| contents::measure(&interpreter)) {
            None => vec![format!("there is no Python {python}")],
            Some(Err(why)) => vec![format!("it can't be measured: {why}")],
            Some(Ok(measured)) => match locked.differences(&measured) {
                same if same.is_empty() => return Ok(InImage { image, contents: measured }),
                differences => differences,
            },
        };
        Err(Another { image, differences })
    }
}

impl Another {
    /// What the run says of it.
    pub(super) fn finding(&self) -> Finding {
        let Another { image, differences } = self;
        let what = format!("this job runs in a container, and not in the lock's image: {}", differences.join("; "));
        let hint = format!("let the job run in {image}; after a change of the image, `ft lock --image NAME`");
        Finding::new(ParityCode::IMAGE_IDENTITY, "preflight", what).hint(hint)
    }
}
