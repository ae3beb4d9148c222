//! The `.git` of a snapshot: enough for a build backend and for `git status`, and nothing that is private.
//!
//! In it: HEAD (detached, as CI checks it out), its commits, the tags that reach it, the objects of its tree, and an
//! index. Not in it: remotes, other branches, stashes, hooks, configuration, logs, the contents of older commits.
//! `git describe --tags --long --dirty` answers as in the repository itself, `git archive HEAD` works (setuptools-scm lists
//! files with it).
//!
//! The index is made from HEAD and from the names in the snapshot: what was staged does not matter, a file that HEAD
//! does not have counts as added, what the lock excludes is not missed. So the digest of the snapshot depends on state that
//! two machines share: HEAD, tags, files. The bytes of the pack are git's affair and are not part of it; the ids of the
//! objects in it are, through HEAD.
//!
//! Where the repository root is a folder below git's top level, that folder is the top of the tree here: a replacement
//! ref (git-replace(1)) gives HEAD the folder as its tree, under its own id.

use super::checkout::{list, subtree};
use super::store::{Store, config};
use super::{SnapshotError, is_excluded};
use crate::git::{Git, line};
use crate::repo::{Kind, Repo, Tracked, path_bytes};
use crate::tar_writer::{FIXED_TIME, TarWriter};
use globset::GlobSet;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A git directory in a temporary folder, to be packed.
pub struct History {
    dir: tempfile::TempDir,
    /// sha256 over all that it says: HEAD, tags, index.
    pub key: [u8; 32],
}

/// What the history is made for.
pub struct Wanted<'a> {
    pub repo: &'a Repo,
    /// The commit that is to be HEAD; `None` before the first one.
    pub head: Option<&'a str>,
    /// Where the files of the snapshot are.
    pub from: &'a Path,
    /// What is in the snapshot, sorted by path.
    pub entries: &'a [Tracked],
    /// What is left out of it.
    pub exclude: &'a GlobSet,
}

/// Makes the git directory in `folder`.
pub fn make(wanted: &Wanted<'_>, store: &Store, folder: &Path) -> Result<History, SnapshotError> {
    store.borrow_objects(&[&wanted.repo.common_dir.join("objects")])?;
    let dir = tempfile::Builder::new().prefix("history.").tempdir_in(folder).map_err(SnapshotError::io(folder))?;
    let here = dir.path();
    for name in ["refs", "objects/pack"] {
        std::fs::create_dir_all(here.join(name)).map_err(SnapshotError::io(here))?;
    }
    let write = |name: &str, bytes: &[u8]| {
        let at = here.join(name);
        std::fs::write(&at, bytes).map_err(SnapshotError::io(&at))
    };
    write("config", config(&wanted.repo.object_format).as_bytes())?;
    write("HEAD", format!("{}\n", wanted.head.unwrap_or("ref: refs/heads/main")).as_bytes())?;

    let past = match wanted.head {
        Some(head) => past(wanted.repo, store, head)?,
        None => Past { tree: empty_tree(store)?, ..Past::default() },
    };
    write("packed-refs", past.refs.as_bytes())?;
    if !past.shallow.is_empty() {
        write("shallow", past.shallow.as_bytes())?;
    }
    let committed = list(store, &past.tree)?;
    let added = added(wanted, store, &committed)?;
    let mut objects = past.objects;
    objects.extend(added.iter().filter(|entry| entry.kind != Kind::Submodule).map(|entry| entry.oid.clone()));
    if !objects.is_empty() {
        let names = objects.join("\n") + "\n";
        // Deltas that are there are taken over; looking for new ones would take longer than the run.
        store
            .git()
            .args(["pack-objects", "--quiet", "--window=0", "--delta-base-offset"])
            .arg(here.join("objects/pack/pack"))
            .feed(names.as_bytes())?;
    }
    let index = index(here, store, &past.tree, &committed, &added, wanted.exclude)?;
    let mut key = Sha256::new();
    for part in [
        wanted.repo.object_format.as_bytes(),
        wanted.head.unwrap_or_default().as_bytes(),
        past.refs.as_bytes(),
        past.shallow.as_bytes(),
        &index,
    ] {
        key.update((part.len() as u64).to_le_bytes());
        key.update(part);
    }
    Ok(History { dir, key: key.finalize().into() })
}

impl History {
    /// Appends it as `.git`.
    pub fn write<W: Write>(&self, tar: &mut TarWriter<W>) -> Result<(), SnapshotError> {
        let mut waiting = vec![PathBuf::new()];
        while let Some(folder) = waiting.pop() {
            let at = self.dir.path().join(&folder);
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&at).map_err(SnapshotError::io(&at))? {
                names.push(entry.map_err(SnapshotError::io(&at))?.file_name());
            }
            names.sort_unstable();
            tar.directory(&in_git(&folder)).map_err(SnapshotError::io(&at))?;
            for name in names {
                let path = folder.join(name);
                let at = self.dir.path().join(&path);
                if at.is_dir() {
                    waiting.push(path);
                    continue;
                }
                let file = File::open(&at).map_err(SnapshotError::io(&at))?;
                let size = file.metadata().map_err(SnapshotError::io(&at))?.len();
                tar.file(&in_git(&path), false, FIXED_TIME, size, file).map_err(SnapshotError::io(&at))?;
            }
        }
        Ok(())
    }
}

fn in_git(path: &Path) -> Vec<u8> {
    let mut name = b".git".to_vec();
    if path != Path::new("") {
        name.push(b'/');
        name.extend_from_slice(path_bytes(path));
    }
    name
}

/// What HEAD reaches.
#[derive(Default)]
struct Past {
    /// Ids of everything that goes into the pack.
    objects: Vec<String>,
    /// The text of `packed-refs`.
    refs: String,
    /// The text of `shallow`, where the repository itself is a shallow clone.
    shallow: String,
    /// The tree that is the snapshot's own.
    tree: String,
}

fn past(repo: &Repo, store: &Store, head: &str) -> Result<Past, SnapshotError> {
    let commits = store.git().args(["rev-list", head]).output()?;
    let commits = String::from_utf8_lossy(&commits);
    let mut objects: Vec<String> = commits.lines().map(str::to_owned).collect();
    let known: HashSet<&str> = commits.lines().collect();
    let mut refs = "# pack-refs with: peeled fully-peeled sorted \n".to_owned();

    let prefix = repo.prefix();
    let whole = format!("{head}^{{tree}}");
    let tree = match subtree(store, &whole, &prefix) {
        Ok(tree) if prefix.is_empty() => line(&store.git().args(["rev-parse", "--verify", &tree]).output()?),
        Ok(tree) => tree,
        // A folder that is not committed yet.
        Err(SnapshotError::NoSuchFolder(_)) => empty_tree(store)?,
        Err(error) => return Err(error),
    };
    if !prefix.is_empty() {
        let commit = store.git().args(["cat-file", "commit", head]).output()?;
        let behind = commit.iter().position(|b| *b == b'\n').unwrap_or(commit.len());
        let replaced = [b"tree ", tree.as_bytes(), &commit[behind..]].concat();
        let id = line(&store.git().args(["hash-object", "-w", "-t", "commit", "--stdin"]).feed(&replaced)?);
        refs.push_str(&format!("{id} refs/replace/{head}\n"));
        objects.push(id);
    }

    let format = "--format=%(objectname) %(objecttype) %(*objectname) %(refname)";
    let tags = Git::at(&repo.top)
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .args(["for-each-ref", "--sort=refname", &format!("--merged={head}"), format, "refs/tags"])
        .output()?;
    for tag in String::from_utf8_lossy(&tags).lines() {
        let mut words = tag.split(' ');
        let (Some(id), Some(kind), Some(peeled), Some(name)) = (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        refs.push_str(&format!("{id} {name}\n"));
        if kind != "tag" {
            continue;
        }
        objects.push(id.to_owned());
        if known.contains(peeled) {
            refs.push_str(&format!("^{peeled}\n"));
        } else {
            // A tag of a tag.
            objects.push(peeled.to_owned());
            let commit = store.git().args(["rev-parse", "--verify", &format!("{id}^{{commit}}")]).output()?;
            refs.push_str(&format!("^{}\n", line(&commit)));
        }
    }

    let below = store.git().args(["rev-list", "--objects", "--no-object-names", &tree]).output()?;
    objects.extend(String::from_utf8_lossy(&below).lines().map(str::to_owned));
    let shallow = std::fs::read_to_string(store.path().join("shallow")).unwrap_or_default();
    let shallow = shallow.lines().filter(|id| known.contains(id)).map(|id| format!("{id}\n")).collect();
    Ok(Past { objects, refs, shallow, tree })
}

fn empty_tree(store: &Store) -> Result<String, SnapshotError> {
    Ok(line(&store.git().args(["hash-object", "-w", "-t", "tree", "--stdin"]).feed(b"")?))
}

/// What is in the snapshot and not in HEAD, with ids of what is on disk, which are written to the store.
fn added(wanted: &Wanted<'_>, store: &Store, committed: &[Tracked]) -> Result<Vec<Tracked>, SnapshotError> {
    let known: HashSet<&[u8]> = committed.iter().map(|entry| &entry.path[..]).collect();
    let mut inside: Option<Vec<u8>> = None;
    let mut names = Vec::new();
    let mut added = Vec::new();
    for entry in wanted.entries {
        if inside.as_ref().is_some_and(|folder| entry.path.starts_with(folder)) {
            continue;
        }
        let is_submodule = entry.kind == Kind::Submodule;
        if is_submodule {
            inside = Some([&entry.path[..], b"/"].concat());
        }
        if !known.contains(&entry.path[..]) {
            if is_submodule {
                added.push(entry.clone());
            } else {
                names.extend_from_slice(&entry.path);
                names.push(0);
            }
        }
    }
    if names.is_empty() {
        return Ok(added);
    }
    let git = || store.git().env("GIT_INDEX_FILE", store.path().join("index-added")).env("GIT_WORK_TREE", wanted.from);
    git().args(["update-index", "--add", "--remove", "-z", "--stdin"]).feed(&names)?;
    let output = git().args(["ls-files", "--stage", "-v", "-z"]).output()?;
    added.extend(crate::repo::parse_ls_files(&output).map_err(crate::git::GitError::from)?);
    Ok(added)
}

/// Writes the index and gives its content as git lists it.
fn index(
    here: &Path,
    store: &Store,
    tree: &str,
    committed: &[Tracked],
    added: &[Tracked],
    exclude: &GlobSet,
) -> Result<Vec<u8>, SnapshotError> {
    // Reads the tree from the store: without a commit, there is no pack here.
    let git = || store.git().env("GIT_INDEX_FILE", here.join("index"));
    git().args(["read-tree", tree]).output()?;
    if !added.is_empty() {
        let lines: Vec<u8> = added
            .iter()
            .flat_map(|entry| {
                let mut line = format!("{} {} 0\t", entry.kind.mode(), entry.oid).into_bytes();
                line.extend_from_slice(&entry.path);
                line.push(0);
                line
            })
            .collect();
        git().args(["update-index", "-z", "--index-info"]).feed(&lines)?;
    }
    let excluded = committed.iter().filter(|entry| is_excluded(exclude, &entry.path));
    let names: Vec<u8> = excluded.flat_map(|entry| entry.path.iter().copied().chain([0])).collect();
    if !names.is_empty() {
        git().args(["update-index", "-z", "--skip-worktree", "--stdin"]).feed(&names)?;
    }
    Ok(git().args(["ls-files", "--stage", "-t", "-z"]).output()?)
}

#[cfg(test)]
mod tests;
