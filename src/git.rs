//! The git program: how every part of `ft` calls it, and what a failure of it says.
//!
//! Does not know what the output means ([`crate::repo`] does) and keeps nothing. Git is asked in one voice: without the
//! caller's `GIT_*` variables (in a hook they point at another index or repository), without taking locks that are not
//! needed, without a prompt, a pager, a file system monitor or a translated message.

pub mod exclude;
#[cfg(test)]
pub(crate) mod fixture;

use crate::repo::{Kind, Tracked, UnreadableLine, native, parse_ls_files};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Variables that make git look at another repository, index or object store, or write where no one asked. The first
/// part is `git rev-parse --local-env-vars`, but for `GIT_CONFIG_COUNT`: the configuration of a CI job may stand there
/// (`safe.directory`).
const REMOVED: &[&str] = &[
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
    "GIT_ATTR_SOURCE",
    "GIT_DEFAULT_HASH",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
    "GIT_GLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
    "GIT_LITERAL_PATHSPECS",
    "GIT_NAMESPACE",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_QUARANTINE_PATH",
    "GIT_REDIRECT_STDERR",
    "GIT_REDIRECT_STDIN",
    "GIT_REDIRECT_STDOUT",
    "GIT_TRACE",
    "GIT_TRACE2",
    "GIT_TRACE2_EVENT",
    "GIT_TRACE2_PERF",
];

/// One call of git.
#[derive(Debug)]
pub struct Git {
    command: Command,
}

/// Why a call of git gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no such program.
    #[error("git is not installed, or not in PATH")]
    Missing,
    /// It can't be started or talked to.
    #[error("{line}: {source}")]
    Io {
        /// The command line.
        line: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It ended with an error of its own.
    #[error("{line}: {message}")]
    Failed {
        /// The command line.
        line: String,
        /// What git wrote to its error output, or its exit status where it wrote nothing.
        message: String,
        /// What it wrote to its output before.
        output: Vec<u8>,
    },
    /// Its answer is not in the documented form.
    #[error(transparent)]
    Unreadable(#[from] UnreadableLine),
}

impl Git {
    /// A call in this directory.
    #[must_use]
    pub fn at(dir: &Path) -> Git {
        let mut command = Command::new("git");
        for name in REMOVED {
            command.env_remove(name);
        }
        command
            .args(["--no-pager", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false"])
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Git { command }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Git {
        self.command.args(args);
        self
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Git {
        self.command.arg(arg);
        self
    }

    /// Sets a variable of git's.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Git {
        self.command.env(name, value);
        self
    }

    /// Runs git and gives its output.
    ///
    /// # Errors
    /// [`GitError`] where it can't be started or ends with another status than 0.
    pub fn output(mut self) -> Result<Vec<u8>, GitError> {
        let child = self.spawn()?;
        let done = child.wait_with_output().map_err(|source| self.io(source))?;
        self.judge(done.status, done.stdout, &done.stderr)
    }

    /// Runs git with this standard input and gives its output.
    ///
    /// # Errors
    /// As [`Git::output`].
    pub fn feed(mut self, input: &[u8]) -> Result<Vec<u8>, GitError> {
        self.command.stdin(Stdio::piped());
        let mut child = self.spawn()?;
        let stdin = child.stdin.take();
        // Written from a thread of its own: git may fill its output while it still reads.
        let done = std::thread::scope(|scope| {
            scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input)));
            child.wait_with_output()
        });
        // A failed write shows in git's own status: it stopped reading because it ended.
        let done = done.map_err(|source| self.io(source))?;
        self.judge(done.status, done.stdout, &done.stderr)
    }

    /// Runs git and hands its output to `read` as it comes, so that memory does not grow with it.
    ///
    /// # Errors
    /// As [`Git::output`]; what `read` returns comes back as it is where git itself succeeds.
    pub fn stream<T>(mut self, read: impl FnOnce(&mut dyn Read) -> T) -> Result<T, GitError> {
        let mut child = self.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (value, said) = std::thread::scope(|scope| {
            let said = scope.spawn(move || {
                let mut said = Vec::new();
                stderr.map(|mut pipe| pipe.read_to_end(&mut said));
                said
            });
            let value = match stdout {
                Some(mut pipe) => read(&mut pipe),
                None => read(&mut std::io::empty()),
            };
            (value, said.join().unwrap_or_default())
        });
        let status = child.wait().map_err(|source| self.io(source))?;
        self.judge(status, Vec::new(), &said).map(|_| value)
    }

    fn spawn(&mut self) -> Result<Child, GitError> {
        self.command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound if self.command.get_current_dir().is_some_and(Path::is_dir) => {
                GitError::Missing
            }
            _ => self.io(source),
        })
    }

    fn judge(&self, status: std::process::ExitStatus, output: Vec<u8>, said: &[u8]) -> Result<Vec<u8>, GitError> {
        if status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(said);
        let message = match said.trim() {
            "" => status.to_string(),
            text => text.to_owned(),
        };
        Err(GitError::Failed { line: self.line(), message, output })
    }

    fn io(&self, source: std::io::Error) -> GitError {
        GitError::Io { line: self.line(), source }
    }

    /// The command line as a person would type it: without what every call has.
    fn line(&self) -> String {
        let words = self.command.get_args().skip(5).map(|word| word.to_string_lossy());
        std::iter::once("git".into()).chain(words).collect::<Vec<_>>().join(" ")
    }
}

/// What git says of itself: `git version 2.39.2`.
///
/// # Errors
/// [`GitError`] where there is none.
pub fn version(dir: &Path) -> Result<String, GitError> {
    Ok(line(&Git::at(dir).arg("--version").output()?))
}

/// Takes the newline off a line of git's output and gives it as text.
#[must_use]
pub fn line(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim_end_matches(['\n', '\r']).to_owned()
}

/// A line of git's output as a path.
#[must_use]
pub fn path_line(output: &[u8]) -> PathBuf {
    native(output.strip_suffix(b"\n").unwrap_or(output))
}

/// Everything that git tracks below a folder, by its index, in git's order; populated submodules are gone into, and
/// their files stand behind their own entry. `index_file` is another index than the worktree's.
///
/// # Errors
/// [`GitError`], also for output that can't be read.
pub fn tracked(dir: &Path, index_file: Option<&Path>) -> Result<Vec<Tracked>, GitError> {
    let mut git = Git::at(dir);
    if let Some(index_file) = index_file {
        git = git.env("GIT_INDEX_FILE", index_file);
    }
    let listed = parse_ls_files(&git.args(["ls-files", "--stage", "-v", "-z"]).output()?)?;
    if listed.iter().all(|entry| entry.kind != Kind::Submodule) {
        return Ok(listed);
    }
    let mut all = Vec::with_capacity(listed.len());
    for entry in listed {
        let is_submodule = entry.kind == Kind::Submodule;
        let path = entry.path.clone();
        all.push(entry);
        let folder = dir.join(native(&path));
        // Asked in a folder without a `.git` of its own, git would answer for the repository around it.
        if is_submodule && folder.join(".git").symlink_metadata().is_ok() {
            all.extend(tracked(&folder, None)?.into_iter().map(|mut inner| {
                inner.path.splice(..0, path.iter().copied().chain([b'/']));
                inner
            }));
        }
    }
    Ok(all)
}
