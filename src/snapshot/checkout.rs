//! A tree of git's on disk, as a fresh clone would have it, for snapshots of the index and of commits.

use super::SnapshotError;
use super::store::{Store, objects_of};
use crate::git::{GitError, line};
use crate::repo::{Kind, Tracked, native, parse_ls_tree, shown};
use std::path::Path;

/// Lists a tree, recursively.
pub fn list(store: &Store, tree: &str) -> Result<Vec<Tracked>, SnapshotError> {
    let output = store.git().args(["ls-tree", "-r", "-z", tree]).output()?;
    parse_ls_tree(&output).map_err(|error| SnapshotError::Git(error.into()))
}

/// The id of the tree at a folder of another one; `prefix` is empty or ends with a slash.
pub fn subtree(store: &Store, tree: &str, prefix: &[u8]) -> Result<String, SnapshotError> {
    let Some(folder) = prefix.strip_suffix(b"/") else { return Ok(tree.to_owned()) };
    let mut name = std::ffi::OsString::from(format!("{tree}:"));
    name.push(native(folder));
    match store.git().args(["rev-parse", "--verify", "--quiet", "--end-of-options"]).arg(name).output() {
        Ok(id) => Ok(line(&id)),
        Err(GitError::Failed { .. }) => Err(SnapshotError::NoSuchFolder(shown(folder))),
        Err(error) => Err(error.into()),
    }
}

/// Checks a tree out into the empty folder `to`, submodules too where their objects are there, and lists what it holds.
/// `worktree` is where the same tree is checked out in the user's repository: a submodule's objects are found there.
pub fn checkout(
    store: &Store,
    tree: &str,
    worktree: &Path,
    to: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<Tracked>, SnapshotError> {
    let mut all = Vec::new();
    let mut waiting = vec![(tree.to_owned(), Vec::new())];
    while let Some((tree, prefix)) = waiting.pop() {
        let here: Vec<u8> = prefix.clone();
        if !here.is_empty() {
            store.borrow_objects(&[&objects_of(&worktree.join(native(&here)))?])?;
        }
        let missing = |error| match error {
            GitError::Failed { .. } if !here.is_empty() => SnapshotError::SubmoduleCommit {
                path: shown(here.strip_suffix(b"/").unwrap_or(&here)),
                commit: tree.clone(),
            },
            other => SnapshotError::Git(other),
        };
        let index = store.path().join("index-checkout");
        let git = || store.git().env("GIT_INDEX_FILE", &index);
        git().args(["read-tree", "--empty"]).output()?;
        git().args(["read-tree", &tree]).output().map_err(missing)?;
        let target = to.join(native(&here));
        git()
            .env("GIT_WORK_TREE", &target)
            .args(["checkout-index", "--all", "--force", "--quiet"])
            .output()
            .map_err(missing)?;
        for mut entry in list(store, &tree)? {
            entry.path.splice(..0, here.iter().copied());
            if entry.kind == Kind::Submodule {
                if worktree.join(native(&entry.path)).join(".git").symlink_metadata().is_ok() {
                    waiting.push((entry.oid.clone(), [&entry.path[..], b"/"].concat()));
                } else {
                    notes.push(format!(
                        "submodule {}: not checked out here, so its files are left out",
                        shown(&entry.path)
                    ));
                }
            }
            all.push(entry);
        }
    }
    Ok(all)
}
