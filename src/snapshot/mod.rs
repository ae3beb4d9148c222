//! The snapshot: the exact tree that is checked, as one deterministic tar, and its way back to disk.
//!
//! Sorted, uid and gid 0, modes 0644 and 0755, links as links, no directories but those that need an entry. The
//! time of a file is made from its content (the law of caches, DESIGN section 3): a cache that goes by size and time
//! sees every edit, also one of equal size in the same second.
//!
//! Does not write into the repository, does not decide what is excluded, and does not start anything but git.

mod checkout;
mod history;
mod read;
mod store;
mod unpack;

pub use unpack::{UnpackError, Unpacked, unpack};

use crate::git::{Git, GitError, line, tracked};
use crate::repo::{Kind, Repo, Source, Tracked, native, shown};
use crate::tar_writer::TarWriter;
use globset::GlobSet;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A tree, written once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The tar.
    pub tar: PathBuf,
    /// The snapshot digest, in hex: the same for the same state on any machine. Over the tar's bytes up to `.git`, and
    /// over what `.git` says (HEAD, tags, index); not over how git packs its objects.
    pub sha256: String,
    /// Files and links, without `.git`.
    pub entries: u64,
    /// Bytes of the tar.
    pub bytes: u64,
    /// The commit that is HEAD inside.
    pub head: Option<String>,
    /// What a reader of the report should know: a submodule that is not there, a path that is no file. One sentence
    /// each.
    pub notes: Vec<String>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Git does not know or can't give the tree.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A file was written to while it was read.
    #[error("{0}: changed while the snapshot was taken")]
    Changed(String),
    /// No commit can be made of the index.
    #[error("the index has unmerged paths")]
    Unmerged,
    /// The repository root is a folder that the tree does not have.
    #[error("{0}: not in this tree")]
    NoSuchFolder(String),
    /// A submodule is checked out, but without the commit that the tree names.
    #[error("submodule {path}: commit {commit} is not there")]
    SubmoduleCommit {
        /// Relative to the repository root.
        path: String,
        /// What the tree names.
        commit: String,
    },
    /// The tar can't be unpacked again.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A file can't be read, or the tar can't be written.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl SnapshotError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            SnapshotError::Changed(_) => "end what writes to the file, then run again",
            SnapshotError::Unmerged => "resolve the conflicts and `git add` the files",
            SnapshotError::SubmoduleCommit { .. } => "fetch it with `git submodule update --init --recursive`",
            SnapshotError::Git(_)
            | SnapshotError::NoSuchFolder(_)
            | SnapshotError::Unpack(_)
            | SnapshotError::Io { .. } => return None,
        })
    }

    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> SnapshotError {
        let path = shown(crate::repo::path_bytes(path.as_ref()));
        move |source| SnapshotError::Io { path, source }
    }
}

/// Writes the tree of `source` to the file `to`, without what `exclude` matches (a path, or a folder above it, relative
/// to the repository root). The file appears whole or not at all.
///
/// # Errors
/// [`SnapshotError`]; nothing is left at `to` then.
pub fn take(repo: &Repo, source: &Source, exclude: &GlobSet, to: &Path) -> Result<Snapshot, SnapshotError> {
    let folder = to.parent().unwrap_or(Path::new("."));
    let mut notes = Vec::new();
    let store = store::Store::new(repo, folder)?;
    let mut head = repo.head.clone();
    let tree = match source {
        Source::Worktree => None,
        Source::Index { index_file } => Some(store.index_tree(repo, index_file.as_deref())?),
        Source::Commit(name) => {
            let commit = commit(repo, name)?;
            let tree = format!("{commit}^{{tree}}");
            head = Some(commit);
            Some(tree)
        }
    };
    let checked_out;
    let (from, mut entries) = match &tree {
        None => {
            let entries = tracked(&repo.root, None)?;
            note_missing_submodules(&repo.root, &entries, &mut notes);
            (&*repo.root, entries)
        }
        Some(tree) => {
            checked_out =
                tempfile::Builder::new().prefix("tree.").tempdir_in(folder).map_err(SnapshotError::io(folder))?;
            let tree = checkout::subtree(&store, tree, &repo.prefix())?;
            let entries = checkout::checkout(&store, &tree, &repo.root, checked_out.path(), &mut notes)?;
            (checked_out.path(), entries)
        }
    };
    entries.retain(|entry| !is_excluded(exclude, &entry.path));
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let file = tempfile::NamedTempFile::new_in(folder).map_err(SnapshotError::io(folder))?;
    let mut tar = TarWriter::new(file);
    let modes_count = tree.is_some() || file_mode(repo)?;
    let wanted = history::Wanted { repo, head: head.as_deref(), from, entries: &entries, exclude };
    // Git packs on one processor while the files are read on another.
    let (history, files) = std::thread::scope(|scope| {
        let history = scope.spawn(|| history::make(&wanted, &store, folder));
        let files = read::write_files(from, &entries, modes_count, &mut tar, &mut notes);
        (history.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), files)
    });
    files?;
    let history = history?;
    let entries_of_tree = tar.entries();
    let digest =
        Sha256::new().chain_update(FORMAT).chain_update(tar.digest_so_far()).chain_update(history.key).finalize();
    history.write(&mut tar)?;
    let written = tar.finish().map_err(SnapshotError::io(to))?;
    written.into.persist(to).map_err(|error| SnapshotError::io(to)(error.error))?;
    Ok(Snapshot {
        tar: to.to_owned(),
        sha256: hex::encode(digest),
        entries: entries_of_tree,
        bytes: written.bytes,
        head,
        notes,
    })
}

/// In front of what the digest is made of; moves with the format of the tar.
const FORMAT: &[u8] = b"firsttry snapshot 1\n";

/// The id of a commit that a person named.
fn commit(repo: &Repo, name: &str) -> Result<String, GitError> {
    let asked = format!("{name}^{{commit}}");
    let id = Git::at(&repo.top).args(["rev-parse", "--verify", "--end-of-options", &asked]).output()?;
    Ok(line(&id))
}

/// Whether the worktree's executable bits mean something.
fn file_mode(repo: &Repo) -> Result<bool, GitError> {
    let set =
        Git::at(&repo.top).args(["config", "--type=bool", "--default=true", "--get", "core.fileMode"]).output()?;
    Ok(line(&set) == "true")
}

fn note_missing_submodules(root: &Path, entries: &[Tracked], notes: &mut Vec<String>) {
    for entry in entries.iter().filter(|entry| entry.kind == Kind::Submodule) {
        if root.join(native(&entry.path)).join(".git").symlink_metadata().is_err() {
            notes.push(format!("submodule {}: not checked out here, so its files are left out", shown(&entry.path)));
        }
    }
}

/// Whether a glob matches the path or a folder above it.
fn is_excluded(exclude: &GlobSet, path: &[u8]) -> bool {
    if exclude.is_empty() {
        return false;
    }
    let path = native(path);
    path.ancestors().filter(|at| !at.as_os_str().is_empty()).any(|at| exclude.is_match(at))
}

#[cfg(test)]
mod tests;
