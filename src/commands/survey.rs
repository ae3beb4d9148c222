//! Lock and facts of one tree: everything the plan is made from. Reads; judges nothing.

use super::contained::{self, Contained};
use super::context::Context;
use crate::cell;
use crate::code::ParityCode;
use crate::environment::Pinned;
use crate::environment::interpreter::{self, Interpreter, Memory, SearchPath};
use crate::environment::key::EnvKey;
use crate::facts::files::Files;
use crate::facts::git::TreeState;
use crate::finding::Finding;
use crate::frame::Observed;
use crate::lock::closure::{Closure, ClosureError};
use crate::lock::init::{ProjectFiles, project_name as project_name_of};
use crate::lock::{Environment, LOCK_PATH, Lock, Warning, fresh, stale};
use crate::plan::inputs::{ClosureFacts, Facts, MachineFacts, PythonFacts};
use crate::repo::{Repo, Source, shown};
use crate::ui;
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What was read of one tree and this machine.
pub(super) struct Survey {
    pub(super) facts: Facts,
    pub(super) interpreter: Option<Interpreter>,
    pub(super) pinned: Vec<Pinned>,
    pub(super) key: Option<EnvKey>,
    /// The project's own distribution name.
    pub(super) project: Option<String>,
}

/// The largest lock, in bytes. A real one has a few KiB.
const LARGEST_LOCK: usize = 1 << 20;

/// Reads the lock of a tree. What is wrong with it is a finding; warnings are shown.
pub(super) fn read_lock(repo: &Repo, source: &Source) -> Result<Lock, Finding> {
    let (lock, warnings) = quietly_read_lock(repo, source)?;
    warnings.iter().for_each(|warning| ui::note(&warning.to_string()));
    Ok(lock)
}

/// The same, with its warnings for whoever decides to show them.
pub(super) fn quietly_read_lock(repo: &Repo, source: &Source) -> Result<(Lock, Vec<Warning>), Finding> {
    let invalid = |message: String| Finding::new(ParityCode::LOCK_INVALID, "preflight", message);
    let bytes = match Files::new(repo, source).read(LOCK_PATH) {
        Ok(Some(bytes)) => bytes,
        Ok(None) if matches!(source, Source::Commit(_)) && crate::facts::git::commit_time(repo, source).is_none() => {
            return Err(invalid(format!("{source}: git knows no commit of this name"))
                .hint("name a branch, a tag or a commit; `git log --oneline` lists them"));
        }
        Ok(None) => {
            return Err(invalid(format!("there is no {LOCK_PATH}{}", in_tree(source)))
                .hint("write one with `ft init` and commit it"));
        }
        Err(error) => return Err(invalid(error.to_string()).hint("it must be a file that can be read")),
    };
    if bytes.len() > LARGEST_LOCK {
        return Err(invalid(format!("{LOCK_PATH} has {} MiB; a lock has a few KiB", bytes.len() >> 20)));
    }
    Lock::parse(&bytes).map_err(|error| error.finding())
}

fn in_tree(source: &Source) -> String {
    match source {
        Source::Worktree => String::new(),
        Source::Index { .. } => " in the index".to_owned(),
        Source::Commit(commit) => format!(" in {commit}"),
    }
}

/// What to look at beside the lock.
pub(super) struct Asked<'a> {
    pub(super) source: &'a Source,
    /// The Python of this run: the lock's, or one of its matrix.
    pub(super) python: &'a str,
    /// Files that git does not track, where the caller has asked git already.
    pub(super) untracked: Vec<String>,
    /// Whether steps are going to run, so that the machine must be tried.
    pub(super) cells: bool,
    /// What container mode is made of, where it applies, or why there is none.
    pub(super) contained: Option<&'a Result<Contained, Finding>>,
}

/// Reads everything the plan needs.
pub(super) fn survey(context: &Context, repo: &Repo, lock: &Lock, asked: Asked<'_>) -> Survey {
    let files = Files::new(repo, asked.source);
    let texts = read_texts(&files, lock);
    let (interpreter, pythons_found) = match asked.contained {
        None => find_python(context, repo, lock, asked.python),
        Some(opened) => in_the_image(opened),
    };
    let (closure, pinned) = closure_facts(lock, &texts, interpreter.as_ref());
    let key =
        interpreter.as_ref().filter(|_| matches!(closure, ClosureFacts::Ready(_))).map(|i| EnvKey::new(i, &pinned));
    let facts = Facts {
        ft_version: env!("CARGO_PKG_VERSION").to_owned(),
        repository: repo.root.display().to_string(),
        python_asked: asked.python.to_owned(),
        python: interpreter.as_ref().map(|i| PythonFacts {
            version: i.facts.version.clone(),
            exposes: if i.image.is_some() { None } else { exposes(&i.facts.prefix, context.vars.home.as_deref()) },
        }),
        pythons_found,
        closure,
        hashes: config_hashes(lock, &texts),
        environment: None,
        commit_time: if asked.cells { crate::facts::git::commit_time(repo, asked.source) } else { None },
        tracked_state: if asked.cells { crate::facts::git::tracked_state(repo) } else { None },
        untracked: asked.untracked,
        machine: match asked.contained {
            Some(opened) => {
                MachineFacts { cpus: cpus(), container: Some(contained::facts(opened)), ..MachineFacts::default() }
            }
            None if asked.cells => machine(),
            None => MachineFacts { cpus: cpus(), ..MachineFacts::default() },
        },
        collection_manifest: lock.collection.manifest.as_ref().and_then(|path| text(&texts, path.as_str())),
    };
    let project = project_name(&texts);
    Survey { facts, interpreter, pinned, key, project }
}

/// The prefix of an interpreter is bound into cells whole. One that is the caller's home, holds it, or is the
/// conventional `~/.local` has files of the caller beside the interpreter.
fn exposes(prefix: &Path, home: Option<&Path>) -> Option<String> {
    let home = home?;
    let bad = home.starts_with(prefix) || prefix == home.join(".local") || prefix == Path::new("/");
    bad.then(|| prefix.display().to_string())
}

/// Where a project says its name.
const NAMING: [&str; 2] = ["pyproject.toml", "setup.cfg"];

fn project_name(texts: &Texts) -> Option<String> {
    let texts = NAMING.iter().filter_map(|path| Some(((*path).to_owned(), text(texts, path)?))).collect();
    project_name_of(&ProjectFiles { tracked: Vec::new(), texts })
}

type Texts = BTreeMap<String, Result<Vec<u8>, String>>;

/// Every file that the lock names, read at once. A file that is there and can't be read says why.
fn read_texts(files: &Files<'_>, lock: &Lock) -> Texts {
    let mut paths: Vec<String> = Vec::new();
    let hashed = lock.config_hashes.keys().chain(lock.project_files.keys());
    paths.extend(hashed.map(|entry| stale::split_key(entry).0.to_owned()));
    if let Some(environment) = &lock.environment {
        paths.push(environment.from.to_string());
        paths.extend(environment.extra.iter().map(ToString::to_string));
        paths.extend(environment.sources.iter().cloned());
    }
    paths.extend(lock.collection.manifest.iter().map(ToString::to_string));
    // They name the project.
    paths.extend(NAMING.map(str::to_owned));
    paths.sort();
    paths.dedup();
    match files.read_all(&paths) {
        Ok(found) => found.into_iter().map(|(path, bytes)| (path, Ok(bytes))).collect(),
        // One of them fails: then each is asked alone, so that the others keep their answer.
        Err(_) => paths
            .into_iter()
            .filter_map(|path| match files.read(&path) {
                Ok(Some(bytes)) => Some((path, Ok(bytes))),
                Ok(None) => None,
                Err(error) => Some((path, Err(error.to_string()))),
            })
            .collect(),
    }
}

fn text(texts: &Texts, path: &str) -> Option<String> {
    let bytes = texts.get(path)?.as_ref().ok()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// The Python of the image, or what is there instead.
fn in_the_image(opened: &Result<Contained, Finding>) -> (Option<Interpreter>, Vec<String>) {
    let text = |(path, version): &(std::path::PathBuf, String)| format!("{version} ({})", path.display());
    match opened.as_ref().map(|contained| &contained.interpreter) {
        Ok(Ok(interpreter)) => (Some(interpreter.clone()), Vec::new()),
        Ok(Err(others)) => (None, others.iter().map(text).collect()),
        Err(_) => (None, Vec::new()),
    }
}

/// A Python of this machine, for what has to run outside of any cell: the one that the lock asks for, or any.
pub(super) fn any_python(context: &Context, repo: &Repo, request: &str) -> Option<Interpreter> {
    let search = SearchPath { entries: context.vars.path.clone(), home: context.vars.home.clone(), extra: Vec::new() };
    let mut memory = Memory::open(repo.state_dir().join("interpreters.json"));
    let first = interpreter::find(request, None, &search, &mut memory);
    let other = |none: interpreter::NotFound| {
        let (_, version) = none.found.last()?.clone();
        interpreter::find(&version, None, &search, &mut memory).ok()
    };
    first.map_or_else(other, Some)
}

/// The interpreter that a run takes, or what is there instead.
pub(super) fn find_python(
    context: &Context,
    repo: &Repo,
    lock: &Lock,
    request: &str,
) -> (Option<Interpreter>, Vec<String>) {
    let search = SearchPath { entries: context.vars.path.clone(), home: context.vars.home.clone(), extra: Vec::new() };
    let mut memory = Memory::open(repo.state_dir().join("interpreters.json"));
    let found = interpreter::find(request, lock.locked_pythons.get(request).map(String::as_str), &search, &mut memory);
    // A look makes no folder: the root may not even be a repository's (see `check`). Losing what was learnt costs a
    // Python start next time.
    if repo.state_dir().is_dir() {
        let _ = memory.save();
    }
    match found {
        Ok(interpreter) => (Some(interpreter), Vec::new()),
        Err(none) => {
            (None, none.found.iter().map(|(path, version)| format!("{version} ({})", path.display())).collect())
        }
    }
}

/// Every hash of the lock's closure, for all platforms and Pythons.
pub(super) fn locked_hashes(repo: &Repo, lock: &Lock) -> Result<BTreeSet<String>, Finding> {
    let stale = |what: String| Finding::new(ParityCode::LOCK_STALE, "preflight", what);
    let environment = lock.environment.as_ref().ok_or_else(|| stale("the lock has no hashed closure".to_owned()))?;
    let texts = read_texts(&Files::new(repo, &Source::Worktree), lock);
    read_closure(environment, &texts).map(|closure| closure.hashes()).map_err(|(what, _)| stale(what))
}

/// What is wrong with a closure, and whether it is about a hash.
fn bad_closure(path: &str, error: &ClosureError) -> (String, bool) {
    (format!("{path}: {error}"), error.code() == ParityCode::PACKAGE_HASH)
}

fn read_closure(environment: &Environment, texts: &Texts) -> Result<Closure, (String, bool)> {
    let read = |path: &str| text(texts, path).ok_or_else(|| (format!("{path} is not there"), false));
    let from = read(environment.from.as_str())?;
    let closure = if environment.from.file_name() == Some("uv.lock") {
        Closure::from_uv_lock(&from, &environment.groups, &environment.extras, None)
    } else {
        Closure::from_requirements(&from)
    }
    .map_err(|error| bad_closure(environment.from.as_str(), &error))?;
    let Some(extra) = &environment.extra else { return Ok(closure) };
    let bad = |error: ClosureError| bad_closure(extra.as_str(), &error);
    Ok(closure.with_extra(Closure::from_requirements(&read(extra.as_str())?).map_err(bad)?))
}

fn closure_facts(lock: &Lock, texts: &Texts, interpreter: Option<&Interpreter>) -> (ClosureFacts, Vec<Pinned>) {
    let Some(environment) = &lock.environment else { return (ClosureFacts::None, Vec::new()) };
    if let Some(locked) = &environment.sources_sha256 {
        let sources: Vec<(&str, &[u8])> = environment
            .sources
            .iter()
            .map(|path| (path.as_str(), texts.get(path).and_then(|t| t.as_ref().ok()).map_or(&[][..], Vec::as_slice)))
            .collect();
        let stale = match stale::sources_sha256(&environment.from, &sources) {
            Ok(now) if now == *locked => None,
            Ok(_) => {
                Some(format!("{} changed since {} was resolved", environment.sources.join(", "), environment.from))
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(what) = stale {
            return (ClosureFacts::Stale { what, hint: None }, Vec::new());
        }
    }
    if environment.from == "uv.lock"
        && let (Some(uv_lock), Some(pyproject)) = (text(texts, "uv.lock"), text(texts, "pyproject.toml"))
        && let Some(what) = fresh::outdated(&uv_lock, pyproject.as_bytes())
    {
        return (ClosureFacts::Stale { what: fresh::older(&what), hint: Some(fresh::HINT.to_owned()) }, Vec::new());
    }
    let closure = || -> Result<Option<Vec<Pinned>>, (String, bool)> {
        let closure = read_closure(environment, texts)?;
        // Without the interpreter nobody knows which of it counts here; that it can be read at all is known.
        let Some(interpreter) = interpreter else { return Ok(None) };
        let markers =
            crate::environment::dists::marker_environment(&interpreter.facts.markers).map_err(|e| (e, false))?;
        let selected = closure.select(&markers).map_err(|error| bad_closure(environment.from.as_str(), &error))?;
        let built = |name: &String| environment.sdists.iter().any(|sdist| sdist == name);
        let pinned = selected.into_iter().map(|p| Pinned {
            sdist: built(&p.name),
            name: p.name,
            version: p.version,
            hashes: p.hashes,
        });
        Ok(Some(pinned.collect()))
    };
    match closure() {
        Ok(None) => (ClosureFacts::None, Vec::new()),
        Ok(Some(pinned)) => {
            let packages = pinned.iter().map(|p| (p.name.clone(), p.version.clone())).collect();
            (ClosureFacts::Ready(packages), pinned)
        }
        Err((message, unhashed)) => (ClosureFacts::Unusable { message, unhashed }, Vec::new()),
    }
}

fn config_hashes(lock: &Lock, texts: &Texts) -> BTreeMap<String, Result<String, String>> {
    lock.config_hashes
        .keys()
        .chain(lock.project_files.keys())
        .map(|entry| {
            let path = stale::split_key(entry).0;
            let hash = match texts.get(path) {
                None => Err("is not in the tree that is checked".to_owned()),
                Some(Err(why)) => Err(why.clone()),
                Some(Ok(bytes)) => stale::config_hash(entry, bytes).map_err(|error| error.to_string()),
            };
            (entry.clone(), hash)
        })
        .collect()
}

/// Names of files that git does not track, for people.
pub(super) fn untracked(state: &TreeState) -> Vec<String> {
    state.untracked.iter().map(|path| shown(path)).collect()
}

/// The lock's `scope.exclude` as one matcher.
pub(super) fn globs(patterns: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern)?);
    }
    set.build()
}

/// The interpreter for one Python of the matrix.
pub(super) fn installed(context: &Context, repo: &Repo, python: &str) -> Option<Interpreter> {
    let search = SearchPath { entries: context.vars.path.clone(), home: context.vars.home.clone(), extra: Vec::new() };
    let mut memory = Memory::open(repo.state_dir().join("interpreters.json"));
    interpreter::find(python, None, &search, &mut memory).ok()
}

fn limits_missing(observed: &[Observed]) -> Vec<String> {
    observed.iter().filter(|wall| !wall.enforced).map(|wall| wall.wall.clone()).collect()
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What cells this machine gives, found by raising one of each kind until one stands.
pub(super) fn machine() -> MachineFacts {
    let explained = |why: &cell::Unavailable| (why.to_string(), why.fix().to_owned());
    let mut probe = cell::probe();
    let no_namespaces = probe.unavailable.as_ref().map(explained);
    if no_namespaces.is_some() {
        probe = cell::here::probe();
    }
    MachineFacts {
        no_here: no_namespaces.as_ref().and(probe.unavailable.as_ref().map(explained)),
        no_namespaces,
        cpus: cpus(),
        limits_missing: limits_missing(&probe.observed),
        container: None,
    }
}
