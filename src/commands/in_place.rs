//! `ft ci` in a job that runs in a container already: no engine can be asked which image that is, so what it gives to
//! Python is measured and held against the lock. Where it is the lock's image, the steps run where the job runs.

use super::context::Context;
use super::survey;
use crate::code::ParityCode;
use crate::event::InImage;
use crate::facts::{contents, machine};
use crate::finding::Finding;
use crate::lock::CellKind;
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

/// The container of this job is not known to be of the lock's image.
pub(super) struct Another {
    image: String,
    why: Why,
}

enum Why {
    /// It is of another one.
    Differs(Vec<String>),
    /// It could not be measured.
    Unknown(String),
}

impl Question {
    /// There is one where the command may run in place, this is a container, and the lock knows what its image gives. A
    /// lock whose cells must be containers asks for an engine's walls around each step, which no image gives.
    pub(super) fn asked(
        context: &Context,
        repo: &Repo,
        lock: &Lock,
        python: &str,
        request: &Request,
    ) -> Option<Question> {
        let walls = lock.cell_minimum == CellKind::Container;
        if !request.in_place || walls || !machine::read().container {
            return None;
        }
        let Image { image, contents: Some(locked), .. } = lock.image(python)? else { return None };
        // The one that the run is going to take.
        let (interpreter, _) = survey::find_python(context, repo, lock, python);
        let interpreter = interpreter.map(|interpreter| interpreter.executable);
        Some(Question { image, locked, python: python.to_owned(), interpreter })
    }

    /// Measures. Reads some thousand files: half a second where they are in memory.
    pub(super) fn answer(self) -> Result<InImage, Another> {
        let Question { image, locked, python, interpreter } = self;
        let why = match interpreter.map(|interpreter| contents::measure(&interpreter)) {
            None => Why::Differs(vec![format!("there is no Python {python}")]),
            Some(Err(why)) => Why::Unknown(why),
            Some(Ok(measured)) => match locked.differences(&measured) {
                same if same.is_empty() => return Ok(InImage { image, contents: measured }),
                differences => Why::Differs(differences),
            },
        };
        Err(Another { image, why })
    }
}

impl Another {
    /// What the run says of it.
    pub(super) fn finding(&self) -> Finding {
        let Another { image, why } = self;
        let what = match why {
            Why::Differs(parts) => {
                format!("this job runs in a container, and not in the lock's image: {}", parts.join("; "))
            }
            Why::Unknown(why) => {
                format!("this job runs in a container; whether of the lock's image can't be said: {why}")
            }
        };
        let hint = format!("let the job run in {image}; after a change of the image, `ft lock --image NAME`");
        Finding::new(ParityCode::IMAGE_IDENTITY, "preflight", what).hint(hint)
    }

    /// What stops a run that needs a container and got none for this reason: without an engine it is the job's own
    /// container, where it was looked at, that had to be the right one.
    pub(super) fn or(looked_at: Option<Another>, refused: Finding) -> Finding {
        match looked_at {
            Some(another) if refused.code == ParityCode::NO_ENGINE => another.finding(),
            _ => refused,
        }
    }
}
