//! `ft env`: the locked environment, outside of a run.

use super::context::Context;
use super::jobs::CellJobs;
use super::survey::{self, Asked, Survey};
use crate::cell::AnyCell;
use crate::cli::Env;
use crate::code::{ExitCode, ParityCode};
use crate::environment::Progress;
use crate::environment::fetch::Settings;
use crate::environment::interpreter::Interpreter;
use crate::environment::key::EnvKey;
use crate::environment::seal::Deviation;
use crate::environment::store::{Ready, Spec, State, Store};
use crate::event::Glimpse;
use crate::finding::Finding;
use crate::plan;
use crate::plan::inputs::{Command, EnvironmentFacts, Request};
use crate::repo::{Repo, Source, VENV_LINK};
use crate::ui;
use std::collections::BTreeMap;

pub(super) fn env(context: &Context, command: &Env) -> ExitCode {
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    let done = match command {
        Env::Build { force } => build(context, &repo, *force).map(|line| ui::note(&line)),
        Env::Verify => verify(context, &repo),
        Env::Path => path(context, &repo),
        Env::Clean => clean(context, &repo),
    };
    match done {
        Ok(()) => ExitCode::PASSED,
        Err(failure) => {
            ui::error(&failure.message, Some(&failure.hint));
            failure.exit
        }
    }
}

/// Why a command about the environment ended without what it was for.
pub(super) struct Failure {
    pub(super) exit: ExitCode,
    pub(super) message: String,
    pub(super) hint: String,
}

impl From<Finding> for Failure {
    fn from(finding: Finding) -> Self {
        Failure {
            exit: finding.code.exit(),
            message: format!("{} {}", finding.code, finding.message),
            hint: finding.hint,
        }
    }
}

impl Failure {
    fn broken(error: impl std::fmt::Display) -> Self {
        Failure { exit: ExitCode::INFRASTRUCTURE, message: error.to_string(), hint: "run it again".to_owned() }
    }
}

/// Where environments and wheels of this repository are kept.
pub(super) fn store(context: &Context, repo: &Repo) -> Store {
    let cache = context.vars.cache_dir.clone().unwrap_or_else(|| repo.state_dir().join("cache"));
    Store::open(&repo.state_dir(), cache.join("wheels"))
}

/// What is to be built, with the caller's own index settings for the fetch.
pub(super) fn spec(context: &Context, repo: &Repo, interpreter: &Interpreter, survey: &Survey, rebuild: bool) -> Spec {
    let uv_toml = context.vars.uv_toml_path().and_then(|path| std::fs::read_to_string(path).ok());
    Spec {
        interpreter: interpreter.clone(),
        closure: survey.pinned.clone(),
        project: survey.project.clone(),
        settings: Settings {
            offline: context.global.offline,
            env: context.vars.all.clone(),
            uv_toml,
            host: interpreter.image.as_ref().and_then(|_| survey::any_python(context, repo, &interpreter.request)),
            uv: context.vars.find_uv(),
        },
        rebuild,
    }
}

/// Name and version of everything in an environment.
pub(super) fn packages(ready: &Ready) -> BTreeMap<String, String> {
    ready.dists.iter().map(|dist| (dist.name.clone(), dist.version.clone())).collect()
}

/// An environment that differs from its seal, as facts.
pub(super) fn broken_facts(key: &EnvKey, deviations: &[Deviation]) -> EnvironmentFacts {
    EnvironmentFacts {
        key: key.as_str().to_owned(),
        packages: BTreeMap::new(),
        deviations: deviations.iter().map(ToString::to_string).collect(),
    }
}

/// What a build says about itself, as something to show.
pub(super) fn glimpse(progress: &Progress) -> Glimpse {
    let (detail, total) = match progress {
        Progress::Waiting { what, owner } => (format!("waiting for another ft that builds {what} ({owner})"), 0),
        Progress::Removed { leftovers } => (format!("removed {leftovers} leftovers of an interrupted build"), 0),
        Progress::Fetching { packages } => (format!("fetching {packages} packages"), *packages),
        Progress::Downloading { what } => (format!("downloading {what}"), 0),
        Progress::Preparing { wheels } => (format!("unpacking and compiling {wheels} wheels"), *wheels),
        Progress::BuildingSdist { name } => (format!("building a wheel of {name}"), 0),
        Progress::Installing { packages } => (format!("installing {packages} packages"), *packages),
        Progress::Discarded { path } => (format!("{} was not what its digest says; fetched again", path.display()), 0),
        Progress::Sealed { files, bytes } => (format!("sealed {files} files, {} MiB", bytes >> 20), 0),
    };
    Glimpse::Progress { stage: "environment".to_owned(), detail, done: 0, total: total as u64 }
}

/// Lock and facts for an environment command, or what stops it.
fn surveyed(context: &Context, repo: &Repo) -> Result<(Survey, EnvKey), Failure> {
    let lock = survey::read_lock(repo, &Source::Worktree)?;
    let asked =
        Asked { source: &Source::Worktree, python: &lock.python, untracked: Vec::new(), cells: false, contained: None };
    let survey = survey::survey(context, repo, &lock, asked);
    if let Some(path) = crate::facts::git::tracked_state(repo) {
        let message = format!("git tracks {path}: an environment that comes with a clone is not used");
        return Err(Finding::new(ParityCode::ENVIRONMENT_SEAL, "environment", message)
            .hint("take it out of git with `git rm -r --cached .firsttry .venv-parity`, and remove the folder")
            .into());
    }
    if let Some(key) = survey.key.clone() {
        return Ok((survey, key));
    }
    // The plan knows why there is nothing to build from.
    let request = Request { command: Command::Run, ..super::run::request(context, &crate::cli::Run::default(), false) };
    let (_, findings) = plan::plan(&lock, &survey.facts, &request);
    let stop = findings.into_iter().find(|finding| finding.code.stops_run() && !finding.warning);
    Err(stop
        .unwrap_or_else(|| {
            Finding::new(ParityCode::LOCK_STALE, "preflight", "there is nothing to build an environment from")
        })
        .into())
}

/// The environment that the lock of the worktree asks for, where that can be known.
pub(super) fn current_key(context: &Context, repo: &Repo) -> Option<EnvKey> {
    surveyed(context, repo).ok().map(|(_, key)| key)
}

/// Builds the environment if it is not there; says in one line what came of it.
pub(super) fn build(context: &Context, repo: &Repo, force: bool) -> Result<String, Failure> {
    // Kept out of `git status` from the first moment.
    crate::artifacts::exclude_from_status(repo).map_err(Failure::broken)?;
    let (survey, key) = surveyed(context, repo)?;
    let interpreter = survey.interpreter.as_ref().expect("a key is made from an interpreter");
    let spec = spec(context, repo, interpreter, &survey, force);
    let store = store(context, repo);
    let there = !force && store.path(&key).is_dir();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::broken)?;
    let spool = repo.state_dir().join("env").join(format!("jobs.tmp-{}", std::process::id()));
    let cell = AnyCell::of(super::survey::machine().kind(), false);
    let mut jobs = CellJobs::new(&cell, spool.clone());
    let mut face = ui::Face::new(context.style.clone());
    let mut report = |p: Progress| face.glimpse(&glimpse(&p));
    let built = runtime.block_on(store.ensure(&spec, &mut jobs, &mut report));
    // What the jobs spooled is of no use any more; a leftover is swept with other leftovers.
    let _ = fs_err::remove_dir_all(&spool);
    let ready = built.map_err(|error| match error.code() {
        Some(code) => Failure::from(Finding::new(code, "environment", error.to_string()).hint(error.hint())),
        None => Failure { exit: ExitCode::INFRASTRUCTURE, message: error.to_string(), hint: error.hint() },
    })?;
    store.current_link(&repo.root, &key).map_err(Failure::broken)?;
    let what = if there { "is there" } else { "built" };
    Ok(format!("{VENV_LINK}: Python {}, {} packages, {what}", interpreter.facts.version, ready.dists.len()))
}

fn verify(context: &Context, repo: &Repo) -> Result<(), Failure> {
    let (_, key) = surveyed(context, repo)?;
    match store(context, repo).state_deep(&key) {
        State::Ready(ready) => {
            ui::note(&format!("{} packages, every file as sealed", ready.dists.len()));
            Ok(())
        }
        State::Missing => Err(Failure {
            exit: ExitCode::INFRASTRUCTURE,
            message: "the environment is not built".to_owned(),
            hint: "build it with `ft env build`".to_owned(),
        }),
        State::Broken(deviations) => {
            let all: Vec<String> = deviations.iter().map(ToString::to_string).collect();
            Err(Finding::new(ParityCode::ENVIRONMENT_SEAL, "environment", all.join("\n")).into())
        }
    }
}

fn path(context: &Context, repo: &Repo) -> Result<(), Failure> {
    let (_, key) = surveyed(context, repo)?;
    let path = store(context, repo).path(&key);
    if !path.is_dir() {
        return Err(Failure {
            exit: ExitCode::INFRASTRUCTURE,
            message: "the environment is not built".to_owned(),
            hint: "build it with `ft env build`".to_owned(),
        });
    }
    ui::out(&format!("{}\n", path.display()));
    Ok(())
}

fn clean(context: &Context, repo: &Repo) -> Result<(), Failure> {
    let removed = store(context, repo).clean().map_err(Failure::broken)?;
    let link = repo.root.join(VENV_LINK);
    if link.is_symlink() {
        fs_err::remove_file(link).map_err(Failure::broken)?;
    }
    ui::note(&format!("removed {removed} environments"));
    Ok(())
}
