//! Single files of the tree that is checked: from the worktree, the index or a commit, as the source says.
//!
//! The lock, its configuration files and its closure are read from the tree that is checked, so that a hook judges what
//! is committed and not what lies around.

use crate::git::{Git, GitError};
use crate::repo::{Repo, Source};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Reads files of one tree.
#[derive(Debug, Clone)]
pub struct Files<'a> {
    repo: &'a Repo,
    source: &'a Source,
}

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Git gave no answer.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The system says no.
    #[error("{path}: {source}")]
    Io {
        /// Relative to the repository.
        path: String,
        /// What it says.
        source: std::io::Error,
    },
}

/// The largest file that is read whole, in bytes. A lock file of more is a mistake, and is refused before it is parsed.
pub const LARGEST: u64 = 32 << 20;

impl<'a> Files<'a> {
    /// The files of `source`.
    #[must_use]
    pub fn new(repo: &'a Repo, source: &'a Source) -> Self {
        Files { repo, source }
    }

    /// One file, relative to the repository; `None` where there is none.
    ///
    /// # Errors
    /// [`FileError`] where it is there and can't be read (a directory, no permission, more than [`LARGEST`] bytes).
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.read_all(&[path.to_owned()])?.remove(path))
    }

    /// Several files at once; those that are not there are left out. One process of git at the most.
    ///
    /// # Errors
    /// As [`Files::read`], for the first that fails.
    pub fn read_all(&self, paths: &[String]) -> Result<BTreeMap<String, Vec<u8>>, FileError> {
        match self.source {
            Source::Worktree => self.worktree(paths),
            Source::Index { index_file } => self.asked_of_git(paths, "", index_file.clone()),
            Source::Commit(commit) => self.asked_of_git(paths, commit, None),
        }
    }

    fn worktree(&self, paths: &[String]) -> Result<BTreeMap<String, Vec<u8>>, FileError> {
        let mut found = BTreeMap::new();
        for path in paths {
            let io = |source| FileError::Io { path: path.clone(), source };
            let full = self.repo.root.join(path);
            let metadata = match std::fs::metadata(&full) {
                Ok(metadata) => metadata,
                Err(error)
                    if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                Err(error) => return Err(io(error)),
            };
            let refuse = |why: &str| Err(io(std::io::Error::other(why.to_owned())));
            // A pipe would be waited for.
            if !metadata.is_file() {
                return refuse("is not a regular file");
            }
            if !full.canonicalize().map_err(io)?.starts_with(&self.repo.top) {
                return refuse("is a link that leads out of the repository");
            }
            let size = metadata.len();
            if size > LARGEST {
                return Err(io(std::io::Error::other(format!(
                    "{} MiB, and at most {} are read",
                    size >> 20,
                    LARGEST >> 20
                ))));
            }
            found.insert(path.clone(), std::fs::read(&full).map_err(io)?);
        }
        Ok(found)
    }

    /// `git cat-file --batch`: a line `OID TYPE SIZE`, the bytes, a newline; or `NAME missing`.
    fn asked_of_git(
        &self,
        paths: &[String],
        revision: &str,
        index: Option<PathBuf>,
    ) -> Result<BTreeMap<String, Vec<u8>>, FileError> {
        let mut git = Git::at(&self.repo.top).args(["cat-file", "--batch"]);
        if let Some(index) = index {
            git = git.env("GIT_INDEX_FILE", index);
        }
        let prefix = String::from_utf8_lossy(&self.repo.prefix()).into_owned();
        let askable: Vec<&String> = paths.iter().filter(|path| !path.contains('\n')).collect();
        let asked: String = askable.iter().map(|path| format!("{revision}:{prefix}{path}\n")).collect();
        let output = git.feed(asked.as_bytes())?;
        let mut rest = output.as_slice();
        let mut found = BTreeMap::new();
        for path in askable {
            let Some(end) = rest.iter().position(|b| *b == b'\n') else { break };
            let head = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 1..];
            let size = head.rsplit(' ').next().and_then(|size| size.parse::<usize>().ok());
            let Some(size) = size.filter(|_| !head.ends_with(" missing")) else { continue };
            let (bytes, after) = rest.split_at_checked(size).unwrap_or((rest, &[]));
            if head.contains(" blob ") {
                found.insert(path.clone(), bytes.to_vec());
            }
            rest = after.get(1..).unwrap_or_default();
        }
        Ok(found)
    }
}
