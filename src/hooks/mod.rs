//! The git hooks `pre-commit` and `pre-push`: put where git looks, beside what is there, and taken away without a trace.
//!
//! **Where.** The folder that git itself would use:
//!
//! 1. `core.hooksPath` of the repository or of this worktree, relative to the worktree's top. That is how `.githooks/`
//!    and husky's `.husky/_` come in: a `.githooks/` folder that no `core.hooksPath` names is not where git looks, and
//!    it is not for us to switch it on.
//! 2. `core.hooksPath` of the user, the machine or the command line: never written to, other repositories use it. The
//!    error says what to do.
//! 3. Else `hooks` of the common git directory, which linked worktrees share and submodules have for themselves.
//!
//! A folder outside the repository (also through a link) is treated like 2. A hook file that git tracks is not changed:
//! the answer names the line to add to it.
//!
//! **What is there** is kept as `NAME.ft-original` and called first, with the same arguments and standard input; its
//! failure ends the hook. A shell script is called so that it still sees its old name in `$0` (husky finds its own
//! script by that). `uninstall` renames it back: same bytes, mode and kind.
//!
//! Does not print and does not run checks: the hook files call `ft pre-commit` and `ft pre-push`.

mod place;
mod pushed;
mod script;

pub use place::Scope;
pub use pushed::{PushedRef, parse_pre_push};

use crate::git::{Git, GitError, exclude};
use crate::leftovers;
use crate::repo::{Repo, path_bytes};
use place::hooks_dir;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The hooks that `ft` has.
pub const HOOKS: [&str; 2] = ["pre-commit", "pre-push"];

/// What is added to the name of a hook that was there before.
const KEPT: &str = ".ft-original";

/// Why hooks can't be put or read.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// `core.hooksPath` comes from outside the repository.
    #[error("core.hooksPath is {} in the {scope} configuration: hooks there are not this repository's alone", path.display())]
    NotOurs {
        /// Whose configuration it is.
        scope: Scope,
        /// Its value.
        path: PathBuf,
    },
    /// The folder lies outside the repository.
    #[error("the hooks folder {} lies outside this repository, others may use it", .0.display())]
    Outside(PathBuf),
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Git can't be asked.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl HookError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            HookError::NotOurs { .. } | HookError::Outside(_) => Some(
                "call `ft pre-commit \"$@\"` and `ft pre-push \"$@\"` from the hooks there, or give this repository its \
                 own with `git config core.hooksPath .git/hooks` and run `ft hooks install` again"
                    .into(),
            ),
            HookError::Io { .. } | HookError::Git(_) => None,
        }
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HookError {
    let path = path.to_owned();
    move |source| HookError::Io { path, source }
}

/// How one hook stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is no hook.
    Absent,
    /// Ours, of this version; `chained` where it calls one that was there before.
    Installed {
        /// Whether it calls one that was there before.
        chained: bool,
    },
    /// Ours, but of another version or with another path to `ft`.
    Outdated,
    /// Another one, and ours is not called.
    Foreign,
    /// Another tool put its own over ours: the hook that ours had kept is still beside it.
    Replaced,
    /// Another one, which calls `ft` (by itself, or ours as `NAME.legacy`, as pre-commit does).
    CallsFt,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Absent => "not installed",
            State::Installed { chained: false } => "installed",
            State::Installed { chained: true } => "installed, calls the one that was there before",
            State::Outdated => "installed by another ft: run `ft hooks install`",
            State::Foreign => "another hook, ft is not called: run `ft hooks install`",
            State::Replaced => "another tool put its own over ours: run `ft hooks install`",
            State::CallsFt => "another hook that calls ft",
        })
    }
}

/// Where hooks are and how each stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The folder that git uses.
    pub dir: PathBuf,
    /// Name and state, in the order of [`HOOKS`].
    pub hooks: Vec<(&'static str, State)>,
}

/// What was done about one hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    /// Ours was written; there was none before.
    Wrote,
    /// Ours was written, and calls the one that was there before.
    WroteBeside,
    /// Ours was brought up to date.
    Updated,
    /// It was as it should be.
    Nothing,
    /// Git tracks the hook file, so it stays as it is; a line has to be added by hand.
    LeftTracked,
    /// Ours was removed.
    Removed,
    /// Ours was removed, and the one that was there before is back.
    Restored,
}

impl std::fmt::Display for Did {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Did::Wrote => "installed",
            Did::WroteBeside => "installed, calls the one that was there before",
            Did::Updated => "brought up to date",
            Did::Nothing => "as it should be",
            Did::LeftTracked => "git tracks this file, so it was left as it is: add a line that calls ft",
            Did::Removed => "removed",
            Did::Restored => "removed, and the one that was there before is back",
        })
    }
}

/// What install or uninstall did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The folder that git uses.
    pub dir: PathBuf,
    /// Hook file and what was done.
    pub hooks: Vec<(PathBuf, Did)>,
}

/// Installs both hooks. `ft` is the running program, the last place where a hook looks for one. Can be called any
/// number of times.
///
/// # Errors
/// [`HookError`]; a hook that was there is untouched then.
pub fn install(repo: &Repo, ft: &Path) -> Result<Report, HookError> {
    let dir = hooks_dir(repo)?;
    std::fs::create_dir_all(&dir).map_err(io(&dir))?;
    let mut hooks = Vec::new();
    for name in HOOKS {
        let at = dir.join(name);
        hooks.push((at.clone(), install_one(repo, &at, name, ft)?));
    }
    hide(repo, &hooks)?;
    Ok(Report { dir, hooks })
}

/// Keeps what was written into the worktree (a `.githooks/` folder) out of `git status` of this clone.
fn hide(repo: &Repo, hooks: &[(PathBuf, Did)]) -> Result<(), HookError> {
    let written = hooks.iter().filter(|(at, did)| {
        matches!(did, Did::Wrote | Did::WroteBeside | Did::Updated) && !at.starts_with(&repo.common_dir)
    });
    let patterns: Vec<_> = written
        .flat_map(|(at, _)| [at.clone(), kept_as(at)])
        .filter_map(|at| Some(exclude::pattern(path_bytes(at.strip_prefix(&repo.top).ok()?))))
        .collect();
    if patterns.is_empty() {
        return Ok(());
    }
    exclude::add(&repo.common_dir, &patterns).map_err(io(&repo.common_dir.join("info/exclude")))
}

fn install_one(repo: &Repo, at: &Path, name: &str, ft: &Path) -> Result<Did, HookError> {
    let prefix = repo.prefix();
    let below = String::from_utf8_lossy(&prefix);
    let call = (ft, below.trim_end_matches('/'));
    let state = state_of(at, name, Some(call))?;
    let kept = kept_as(at);
    match state {
        State::Installed { .. } | State::CallsFt => return Ok(Did::Nothing),
        State::Foreign | State::Replaced if is_tracked(repo, at)? => return Ok(Did::LeftTracked),
        State::Foreign | State::Replaced => keep(at, &kept)?,
        State::Absent => {
            // Left by a tool that removed ours: what ours had kept was in use until then, so it is again.
        }
        State::Outdated => {}
    }
    let before = match kept.symlink_metadata() {
        Ok(_) => Some(std::fs::read(&kept).unwrap_or_default()),
        Err(_) => None,
    };
    write_executable(at, script::hook(name, before.as_deref(), call.0, call.1).as_bytes())?;
    Ok(match state {
        State::Outdated => Did::Updated,
        _ if before.is_some() => Did::WroteBeside,
        _ => Did::Wrote,
    })
}

/// Takes our hooks away, wherever git looks and in the common git directory, and puts back what was there.
///
/// # Errors
/// [`HookError`].
pub fn uninstall(repo: &Repo) -> Result<Report, HookError> {
    let default = repo.common_dir.join("hooks");
    // A folder that we would not write to holds none of ours.
    let dir = hooks_dir(repo).unwrap_or_else(|_| default.clone());
    let mut hooks = Vec::new();
    for folder in if dir == default { vec![dir.clone()] } else { vec![dir.clone(), default] } {
        for name in HOOKS {
            let at = folder.join(name);
            hooks.push((at.clone(), uninstall_one(&at)?));
        }
    }
    Ok(Report { dir, hooks })
}

fn uninstall_one(at: &Path) -> Result<Did, HookError> {
    let kept = kept_as(at);
    let is_ours = read_hook(at)?.is_some_and(|text| script::is_ours(&text));
    match (is_ours, kept.symlink_metadata().is_ok()) {
        (true, true) => std::fs::rename(&kept, at).map(|()| Did::Restored).map_err(io(at)),
        (true, false) => std::fs::remove_file(at).map(|()| Did::Removed).map_err(io(at)),
        // Another tool removed ours: the hook from before is still due.
        (false, true) if at.symlink_metadata().is_err() => {
            std::fs::rename(&kept, at).map(|()| Did::Restored).map_err(io(at))
        }
        (false, _) => Ok(Did::Nothing),
    }
}

/// How the hooks stand.
///
/// # Errors
/// [`HookError`], also where the folder is one that we do not write to.
pub fn status(repo: &Repo) -> Result<Status, HookError> {
    let dir = hooks_dir(repo)?;
    let hooks = HOOKS
        .into_iter()
        .map(|name| Ok((name, state_of(&dir.join(name), name, None)?)))
        .collect::<Result<_, HookError>>()?;
    Ok(Status { dir, hooks })
}

/// With the place of `ft` and that of the repository below git's top level, a hook that would look elsewhere is
/// [`State::Outdated`].
fn state_of(at: &Path, name: &str, call: Option<(&Path, &str)>) -> Result<State, HookError> {
    let kept = kept_as(at);
    let chained = kept.symlink_metadata().is_ok();
    let Some(text) = read_hook(at)? else { return Ok(State::Absent) };
    if script::is_ours(&text) {
        let before = if chained { Some(std::fs::read(&kept).unwrap_or_default()) } else { None };
        let current = match call {
            Some((ft, below)) => text == script::hook(name, before.as_deref(), ft, below).as_bytes(),
            None => script::is_current(&text),
        };
        return Ok(if current { State::Installed { chained } } else { State::Outdated });
    }
    let mut legacy = at.as_os_str().to_owned();
    legacy.push(".legacy");
    let called_as_legacy = read_hook(Path::new(&legacy))?.is_some_and(|text| script::is_ours(&text));
    Ok(match () {
        () if called_as_legacy || script::calls_ft(&text, name) => State::CallsFt,
        () if chained => State::Replaced,
        () => State::Foreign,
    })
}

/// The bytes of a hook; `None` where there is none. A dangling link has no bytes.
fn read_hook(at: &Path) -> Result<Option<Vec<u8>>, HookError> {
    match at.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(at)(error)),
        Ok(meta) if meta.is_dir() => return Err(io(at)(ErrorKind::IsADirectory.into())),
        Ok(_) => {}
    }
    match std::fs::read(at) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(Vec::new())),
        Err(error) => Err(io(at)(error)),
    }
}

fn kept_as(at: &Path) -> PathBuf {
    let mut name = at.as_os_str().to_owned();
    name.push(KEPT);
    PathBuf::from(name)
}

/// Gives the hook its second name. It keeps the first until ours is renamed over it, so that there is a hook at any
/// time. An older kept one that differs (a tool replaced ours meanwhile) is kept too, with a number.
fn keep(at: &Path, kept: &Path) -> Result<(), HookError> {
    if kept.symlink_metadata().is_ok() {
        let numbered = (2..)
            .map(|n| {
                let mut name = kept.as_os_str().to_owned();
                name.push(format!("-{n}"));
                PathBuf::from(name)
            })
            .find(|name| name.symlink_metadata().is_err())
            .expect("numbers do not end before names do");
        if std::fs::read(kept).ok() == std::fs::read(at).ok() {
            std::fs::remove_file(kept).map_err(io(kept))?;
        } else {
            std::fs::rename(kept, numbered).map_err(io(kept))?;
        }
    }
    // Of the link itself where the hook is one: linkat(2) follows none unless it is told to. Not every file system has
    // hard links.
    std::fs::hard_link(at, kept).or_else(|_| std::fs::rename(at, kept)).map_err(io(at))
}

fn write_executable(at: &Path, text: &[u8]) -> Result<(), HookError> {
    let folder = at.parent().unwrap_or(Path::new("."));
    leftovers::sweep(folder);
    let mut file = leftovers::file_in(folder).map_err(io(folder))?;
    file.write_all(text).map_err(io(at))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o755)).map_err(io(at))?;
    }
    file.as_file().sync_all().map_err(io(at))?;
    file.persist(at).map_err(|error| io(at)(error.error))?;
    Ok(())
}

fn is_tracked(repo: &Repo, at: &Path) -> Result<bool, HookError> {
    let Ok(path) = at.strip_prefix(&repo.top) else { return Ok(false) };
    if path_bytes(path).starts_with(b".git/") {
        return Ok(false);
    }
    let listed =
        Git::at(&repo.top).env("GIT_LITERAL_PATHSPECS", "1").args(["ls-files", "-z", "--"]).arg(path).output()?;
    Ok(!listed.is_empty())
}

#[cfg(test)]
mod tests;
