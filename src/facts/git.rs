//! The repository as git sees it: where it is, and what state its files are in.
//!
//! Reads only, but for a cache of its own in `.firsttry`; the index is not refreshed and nothing in `.git` is written. The git program does the work, so that
//! worktrees, submodules, sparse checkouts and every format of index mean what they mean to git.

mod cache;
mod folder;
mod state;

pub use state::{TreeState, tree_state};

use crate::git::{Git, GitError, path_line};
use crate::repo::{Repo, STATE_DIR, Source, VENV_LINK, native};
use std::path::{Path, PathBuf};

/// Why there is no repository to work on.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// No folder at or above this one is a git repository.
    #[error("{0}: not in a git repository")]
    NotARepository(PathBuf),
    /// The repository has no worktree.
    #[error("{0}: a bare repository has no files to check")]
    Bare(PathBuf),
    /// The folder is inside a `.git`.
    #[error("{0}: inside the git directory, not in the worktree")]
    InsideGitDir(PathBuf),
    /// Git refuses a repository of another user.
    #[error("{0}: git does not trust this repository, it belongs to another user")]
    Untrusted(PathBuf),
    /// The folder itself can't be read.
    #[error("{path}: {source}")]
    Folder {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Git answers in a way that is not understood.
    #[error("{0}: git's answer about this folder can't be read (does its path hold a newline?)")]
    Unreadable(PathBuf),
    /// Git can't be asked.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl RepoError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            RepoError::NotARepository(_) => "go to a git repository, or make one with `git init`".into(),
            RepoError::Bare(path) => {
                format!("make a worktree of it: `git -C {} worktree add ../FOLDER`", path.display())
            }
            RepoError::InsideGitDir(_) => "go up to the worktree".into(),
            RepoError::Untrusted(path) => {
                format!("if you trust it: `git config --global --add safe.directory {}`", path.display())
            }
            RepoError::Git(GitError::Missing) => "install git".into(),
            RepoError::Folder { .. } | RepoError::Unreadable(_) | RepoError::Git(_) => return None,
        })
    }
}

/// Finds the repository around a folder, with one call of git.
///
/// # Errors
/// [`RepoError`], one sentence each.
pub fn discover(cwd: &Path) -> Result<Repo, RepoError> {
    let cwd = cwd.canonicalize().map_err(|source| RepoError::Folder { path: cwd.to_owned(), source })?;
    // `HEAD^{commit}` stands last: before the first commit git prints what comes before it, then fails.
    let asked = Git::at(&cwd)
        .args(["rev-parse", "--is-bare-repository", "--is-inside-work-tree", "--show-object-format"])
        .args(["--absolute-git-dir", "--git-common-dir", "--show-toplevel", "HEAD^{commit}"])
        .output();
    let output = match asked {
        Ok(output) => output,
        Err(GitError::Failed { message, .. }) if message.contains("not a git repository") => {
            return Err(RepoError::NotARepository(cwd));
        }
        Err(GitError::Failed { message, .. }) if message.contains("dubious ownership") => {
            let path = message.split('\'').nth(1).map_or(cwd, PathBuf::from);
            return Err(RepoError::Untrusted(path));
        }
        Err(GitError::Failed { output, .. }) => output,
        Err(other) => return Err(other.into()),
    };
    let lines: Vec<&[u8]> = output.split(|b| *b == b'\n').collect();
    match lines[..] {
        [b"true", ..] => Err(RepoError::Bare(cwd)),
        [_, b"false", ..] => Err(RepoError::InsideGitDir(cwd)),
        [b"false", b"true", format, git_dir, common_dir, top, head, ..] if !top.is_empty() && lines.len() <= 8 => {
            let top = path_line(top);
            let is_commit = matches!(head.len(), 40 | 64) && head.iter().all(u8::is_ascii_hexdigit);
            Ok(Repo {
                root: root(&cwd, &top),
                git_dir: native(git_dir),
                // Relative to the folder that was asked, unless git made it absolute.
                common_dir: cwd
                    .join(native(common_dir))
                    .canonicalize()
                    .map_err(|source| RepoError::Folder { path: native(common_dir), source })?,
                head: is_commit.then(|| String::from_utf8_lossy(head).into_owned()),
                object_format: String::from_utf8_lossy(format).into_owned(),
                top,
            })
        }
        _ => Err(RepoError::Unreadable(cwd)),
    }
}

/// The root that [`discover`] will most likely find, without asking git: the nearest folder that holds a lock. Good for
/// reads that begin while git still answers, and are thrown away where it answers something else.
#[must_use]
pub fn likely_root(cwd: &Path) -> Option<PathBuf> {
    let cwd = cwd.canonicalize().ok()?;
    let holds_lock = |dir: &&Path| dir.join(crate::lock::LOCK_PATH).symlink_metadata().is_ok();
    cwd.ancestors().find(holds_lock).map(Path::to_owned)
}

/// The nearest folder from `cwd` up to `top` that holds a lock, else `top`.
fn root(cwd: &Path, top: &Path) -> PathBuf {
    cwd.ancestors()
        .take_while(|dir| dir.starts_with(top))
        .find(|dir| dir.join(crate::lock::LOCK_PATH).symlink_metadata().is_ok())
        .unwrap_or(top)
        .to_owned()
}

/// A file that git tracks below the folders that are `ft`'s own.
#[must_use]
pub fn tracked_state(repo: &Repo) -> Option<String> {
    let asked = Git::at(&repo.root).args(["ls-files", "-z", "--", STATE_DIR, VENV_LINK]).output().ok()?;
    let first = asked.split(|byte| *byte == 0).find(|name| !name.is_empty())?;
    Some(crate::repo::shown(first))
}

/// The commit that a revision names; `None` where git knows none.
#[must_use]
pub fn commit_of(repo: &Repo, revision: &str) -> Option<String> {
    let asked = Git::at(&repo.root)
        .args(["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{revision}^{{commit}}")])
        .output()
        .ok()?;
    let commit = String::from_utf8(asked).ok()?.trim().to_owned();
    (!commit.is_empty()).then_some(commit)
}

/// When the commit was made that a source stands on, seconds since 1970; `None` before the first commit.
#[must_use]
pub fn commit_time(repo: &Repo, source: &Source) -> Option<u64> {
    let commit = match source {
        Source::Commit(commit) => commit.as_str(),
        Source::Worktree | Source::Index { .. } => repo.head.as_deref()?,
    };
    let asked =
        Git::at(&repo.root).args(["show", "--no-patch", "--format=%ct", "--end-of-options", commit]).output().ok()?;
    String::from_utf8(asked).ok()?.lines().last()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::fixture::{Fixture, git};

    #[test]
    fn a_repository_is_found_from_a_folder_inside_it() {
        let fixture = Fixture::with(&[("ci/parity.lock.json", "{}"), ("src/deep/a.py", "")]);
        let repo = discover(&fixture.top.join("src/deep")).unwrap();
        assert_eq!(repo.root, fixture.top);
        assert_eq!(repo.top, fixture.top);
        assert_eq!(repo.git_dir, fixture.top.join(".git"));
        assert_eq!(repo.common_dir, fixture.top.join(".git"));
        assert_eq!(repo.head.unwrap(), fixture.git(["rev-parse", "HEAD"]));
        assert_eq!(repo.object_format, "sha1");
    }

    #[test]
    fn the_root_is_where_the_nearest_lock_is() {
        let fixture = Fixture::with(&[("one/ci/parity.lock.json", "{}"), ("one/src/a.py", ""), ("two/a.py", "")]);
        let one = discover(&fixture.top.join("one/src")).unwrap();
        assert_eq!(one.root, fixture.top.join("one"));
        assert_eq!(one.prefix(), b"one/");
        assert_eq!(discover(&fixture.top.join("two")).unwrap().root, fixture.top);
    }

    #[test]
    fn before_the_first_commit_there_is_no_head() {
        let fixture = Fixture::new();
        assert_eq!(discover(&fixture.top).unwrap().head, None);
    }

    #[test]
    fn a_linked_worktree_shares_the_common_directory() {
        let fixture = Fixture::with(&[("a", "")]);
        let linked = fixture.dir.path().canonicalize().unwrap().join("linked");
        fixture.git(["worktree", "add", "-q", linked.to_str().unwrap()]);
        let repo = discover(&linked).unwrap();
        assert_eq!(repo.top, linked);
        assert_eq!(repo.git_dir, fixture.top.join(".git/worktrees/linked"));
        assert_eq!(repo.common_dir, fixture.top.join(".git"));
    }

    #[test]
    fn a_submodule_is_a_repository_of_its_own() {
        let inner = Fixture::with(&[("b", "")]);
        let outer = Fixture::with(&[("a", "")]);
        outer.git(["submodule", "--quiet", "add", inner.top.to_str().unwrap(), "sub"]);
        let repo = discover(&outer.top.join("sub")).unwrap();
        assert_eq!(repo.top, outer.top.join("sub"));
        assert_eq!(repo.git_dir, outer.top.join(".git/modules/sub"));
    }

    #[test]
    fn what_is_no_worktree_is_refused_in_one_sentence() {
        let fixture = Fixture::with(&[("a", "")]);
        let outside = fixture.dir.path().canonicalize().unwrap();
        git(&outside, ["init", "-q", "--bare", "bare"]);
        assert!(matches!(discover(&outside), Err(RepoError::NotARepository(_))));
        assert!(matches!(discover(&outside.join("bare")), Err(RepoError::Bare(_))));
        assert!(matches!(discover(&fixture.top.join(".git")), Err(RepoError::InsideGitDir(_))));
        assert!(matches!(discover(&outside.join("missing")), Err(RepoError::Folder { .. })));
        for error in [discover(&outside).unwrap_err(), discover(&outside.join("bare")).unwrap_err()] {
            assert_eq!(error.to_string().lines().count(), 1);
            assert!(error.hint().is_some());
        }
    }
}
