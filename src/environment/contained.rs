//! A Python in an image: found by a small job there, with the image's own `PATH`, and remembered by the image's identity.

use super::interpreter::{Interpreter, InterpreterFacts, PROBE, minor_of};
use super::{Job, JobLost, PathError, RunJob, layout, project, seal};
use crate::cell::{Walls, Work};
use crate::frame::Manifest;
use crate::lib_py::MEASURE;
use crate::lock::contents::Contents;
use crate::step::{Limits, Network};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where to look.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The image's identity: its content's digest.
    pub image: &'a str,
    /// Its `PATH`.
    pub path: &'a str,
    /// A folder of the host for what is remembered.
    pub memory: &'a Path,
    /// A folder of the host for the jobs.
    pub scratch: &'a Path,
}

/// What a Python says after the probe: where it really is, and the digest of that file.
const AND_ITSELF: &str = include_str!("../lib_py/ft_probe_itself.py");

/// How long one may take to answer, in milliseconds.
const PATIENCE: u64 = 20_000;

/// How long measuring an image may take, in milliseconds: some thousand files of a cold disk.
const MEASURING: u64 = 120_000;

#[derive(Deserialize)]
struct Itself {
    executable: PathBuf,
    sha256: String,
}

/// The interpreter for `3.11` or `3.11.7`; else what is there instead, each with its version, in the order of the search.
///
/// # Errors
/// [`JobLost`] where the cell could not do its work.
pub async fn find(
    request: &str,
    place: &Place<'_>,
    run: &mut impl RunJob,
) -> Result<Result<Interpreter, Vec<(PathBuf, String)>>, JobLost> {
    let minor = minor_of(request.trim_end_matches('t')).to_owned();
    let mut others = Vec::new();
    let suffix = if request.ends_with('t') { "t" } else { "" };
    for name in [format!("python{minor}{suffix}"), "python3".to_owned(), "python".to_owned()] {
        let Some(found) = ask(&name, place, run).await? else { continue };
        let fits = minor_of(&found.facts.version) == minor && found.facts.free_threaded == request.ends_with('t');
        if fits {
            return Ok(Ok(Interpreter { request: request.to_owned(), ..found }));
        }
        others.push((found.executable, found.facts.version));
    }
    others.dedup();
    Ok(Err(others))
}

/// Asks the command of this name, unless it was asked before.
async fn ask(name: &str, place: &Place<'_>, run: &mut impl RunJob) -> Result<Option<Interpreter>, JobLost> {
    let image: String = place.image.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let known = place.memory.join(format!("{image}-{name}.json"));
    if let Some(found) = std::fs::read(&known).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(found);
    }
    let script = format!("{PROBE}{AND_ITSELF}");
    let end = match run.run(job(name, &script, PATIENCE, name, place)?).await {
        Ok(end) => end,
        Err(error) if error.absent => {
            remember(&known, &None);
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&end.log);
    let mut lines = text.lines().filter(|line| line.starts_with('{'));
    let said = || {
        let facts: InterpreterFacts = serde_json::from_str(lines.next()?).ok()?;
        let itself: Itself = serde_json::from_str(lines.next()?).ok()?;
        Some((facts, itself))
    };
    // What is named like a Python and does not answer like one is none.
    let found = end.succeeded().then(said).flatten().map(|(facts, itself)| Interpreter {
        request: String::new(),
        executable: itself.executable,
        sha256: itself.sha256,
        image: Some(place.image.to_owned()),
        facts,
    });
    remember(&known, &found);
    Ok(found)
}

/// What the image gives to this Python of it; else why that can't be said.
///
/// # Errors
/// [`JobLost`] where the cell could not do its work.
pub async fn measure(
    interpreter: &Interpreter,
    place: &Place<'_>,
    run: &mut impl RunJob,
) -> Result<Result<Contents, String>, JobLost> {
    let executable = interpreter.executable.to_string_lossy();
    let end = run.run(job(&executable, MEASURE, MEASURING, "measure", place)?).await?;
    let text = String::from_utf8_lossy(&end.log);
    let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    let measured = Contents::parse(line.as_bytes()).filter(|_| end.succeeded());
    Ok(measured.ok_or_else(|| format!("{executable}: {}", end.tail(1))))
}

/// A script for a Python of the image, in an empty cell.
fn job(python: &str, script: &str, timeout_ms: u64, folder: &str, place: &Place<'_>) -> Result<Job, JobLost> {
    let lost = |error: PathError| JobLost { message: error.to_string(), unenforceable: false, absent: false };
    let (out, scratch) = (place.scratch.join(folder).join("out"), place.scratch.join(folder).join("scratch"));
    for folder in [&out, &scratch] {
        layout::create_dirs(folder).map_err(lost)?;
    }
    let mut manifest = project::manifest();
    manifest.env.retain(|(name, _)| name != "PATH");
    manifest.env.push(("PATH".to_owned(), place.path.to_owned()));
    let argv = [python, "-I", "-S", "-B", "-c", script].map(str::to_owned).to_vec();
    Ok(Job {
        name: format!("asking {python} of the image"),
        walls: Walls {
            work: Work::Empty,
            mounts: Vec::new(),
            interpreter: None,
            network: Network::Loopback,
            limits: Limits::default(),
            keep: false,
            scratch,
        },
        manifest: Manifest { argv, timeout_ms, ..manifest },
        out,
    })
}

/// Losing it costs a job next time.
fn remember(known: &Path, found: &Option<Interpreter>) {
    let Some(folder) = known.parent() else { return };
    if let (Ok(()), Ok(bytes)) = (layout::create_dirs(folder), serde_json::to_vec(found)) {
        let _ = seal::write_atomic(known, &bytes);
    }
}
