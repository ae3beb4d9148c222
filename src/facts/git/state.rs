//! What state the files are in: one key for all that git tracks, and the names of what CI would not see.
//!
//! The key of the worktree is made from the bytes on disk and not from what git believes of them, so that nothing hides
//! an edit: not `assume-unchanged`, not a filter, not line endings, not an index that was refreshed in the same second.
//! Files are read again only where their stamp moved or is too young to be trusted (see [`super::cache`]); git walks
//! the tree for untracked files meanwhile.

use super::cache::{Cache, Stamp, Told, Verdict};
use super::folder::{Folder, Look, open_root};
use crate::git::{Git, GitError, tracked};
use crate::repo::{ARTIFACTS_DIR, Kind, Repo, Source, is_ours, native, parse_status, shown};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::time::SystemTime;

/// How often a file that moves while it is read is read again.
const TRIES: usize = 5;

/// The state of one tree. Paths are relative to the repository root, in the bytes that git has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeState {
    /// sha256 over name, kind and content of every tracked file, in hex. Of the worktree: the same whether a change is
    /// staged or not. Of index and commit: over what they hold. Keys of different sources are not comparable.
    pub key: String,
    /// The same over what git neither tracks nor ignores; of the worktree only.
    pub untracked_key: String,
    /// Whether tracked files differ from HEAD; never for index and commit.
    pub dirty: bool,
    /// Tracked paths of the worktree that differ from HEAD, those too that the index hides from `git status`.
    pub changed: Vec<Vec<u8>>,
    /// Paths of the worktree that git neither tracks nor ignores, without what `ft` itself writes. A submodule with
    /// such files is named as `sub/`.
    pub untracked: Vec<Vec<u8>>,
    /// What git tracks below `artifacts/`, relative to it; `None` where only git knows (index and commit).
    pub artifacts: Option<HashSet<String>>,
    /// How many files are tracked.
    pub files: usize,
    /// How many of them had to be read.
    pub read: usize,
}

impl TreeState {
    /// [`TreeState::untracked`] as text.
    #[must_use]
    pub fn untracked_names(&self) -> Vec<String> {
        self.untracked.iter().map(|path| shown(path)).collect()
    }

    /// [`TreeState::changed`] as text.
    #[must_use]
    pub fn changed_names(&self) -> Vec<String> {
        self.changed.iter().map(|path| shown(path)).collect()
    }
}

/// Reads the state of the tree that `source` names.
///
/// # Errors
/// [`GitError`], also where a tracked file can't be read.
pub fn tree_state(repo: &Repo, source: &Source) -> Result<TreeState, GitError> {
    let held = match source {
        Source::Worktree => return worktree_state(repo),
        Source::Index { index_file } => {
            let git = Git::at(&repo.root);
            let git = match index_file {
                Some(path) => git.env("GIT_INDEX_FILE", repo.top.join(path)),
                None => git,
            };
            git.args(["ls-files", "--stage", "-z"]).output()?
        }
        Source::Commit(name) => {
            let asked = format!("{name}^{{commit}}");
            // In a folder below the top level, only that folder is listed.
            Git::at(&repo.root).args(["ls-tree", "-r", "-z", &asked]).output()?
        }
    };
    Ok(TreeState {
        key: hex::encode(Sha256::digest(&held)),
        untracked_key: String::new(),
        dirty: false,
        changed: Vec::new(),
        untracked: Vec::new(),
        artifacts: None,
        files: held.iter().filter(|b| **b == 0).count(),
        read: 0,
    })
}

fn worktree_state(repo: &Repo) -> Result<TreeState, GitError> {
    let place = repo.state_dir().join("tree-cache");
    let taken = SystemTime::now();
    let cache = Cache::load(&place);
    let index = std::fs::symlink_metadata(repo.git_dir.join("index")).map(|meta| Stamp::of(&meta)).unwrap_or_default();
    let head = repo.head.clone().unwrap_or_default().into_bytes();
    let known = cache.names(&index).filter(|_| cache.verdict.head == head);
    let unmoved = known.is_some();
    let looked = match known {
        Some(names) => look_again(repo, &cache, &names)?,
        None => look_anew(repo, &cache, index)?,
    };
    let untracked = look_at_all(repo, &looked.status.untracked, &cache)?;
    let below = |file: &Seen| file.path.strip_prefix(ARTIFACTS_DIR.as_bytes())?.strip_prefix(b"/").map(<[u8]>::to_vec);
    let artifacts = looked.files.iter().filter_map(below).map(|path| String::from_utf8_lossy(&path).into_owned());
    let artifacts = artifacts.collect();
    let (files, read) = (looked.files.len(), looked.files.iter().filter(|file| file.read).count());
    let Status { changed, untracked: untracked_paths } = looked.status;
    let verdict = Verdict { head, key: looked.key, changed };
    if !unmoved || read > 0 || untracked.iter().any(|file| file.read) || verdict != cache.verdict {
        let others = untracked.iter().map(|file| Told { tracked: false, ..file.told() });
        let told = looked.files.iter().map(Seen::told).chain(others);
        // Without it the next check reads more files. Losing it is not worth a word.
        let _ = Cache::save(&place, taken, looked.names_stamp, &verdict, told);
    }
    Ok(TreeState {
        key: hex::encode(looked.key),
        untracked_key: hex::encode(key_of(&untracked)),
        dirty: !verdict.changed.is_empty(),
        changed: verdict.changed,
        untracked: untracked_paths,
        artifacts: Some(artifacts),
        files,
        read,
    })
}

struct Looked {
    files: Vec<Seen>,
    key: [u8; 32],
    status: Status,
    /// The index that the names are from, where that is all that they depend on.
    names_stamp: Stamp,
}

/// HEAD and index are those of last time, so git need only look for untracked files while we look at the tracked ones.
/// Where one of those moved, git says what differs now.
fn look_again(repo: &Repo, cache: &Cache, names: &[&[u8]]) -> Result<Looked, GitError> {
    let (untracked, files) = std::thread::scope(|scope| {
        let untracked = scope.spawn(|| untracked(repo));
        let files = look_at_all(repo, names, cache);
        (untracked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), files)
    });
    let (untracked, files) = (untracked?, files?);
    let key = key_of(&files);
    let changed = if key == cache.verdict.key {
        cache.verdict.changed.clone()
    } else {
        status(repo, "--untracked-files=no")?.changed
    };
    Ok(Looked { files, key, status: Status { changed, untracked }, names_stamp: cache.names_stamp() })
}

fn look_anew(repo: &Repo, cache: &Cache, index: Stamp) -> Result<Looked, GitError> {
    let (status, files) = std::thread::scope(|scope| {
        let status = scope.spawn(|| status(repo, "--untracked-files=all"));
        let files = look_at_tracked(repo, cache, index);
        (status.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), files)
    });
    let (mut status, (files, mut hidden, names_stamp)) = (status?, files?);
    status.changed.append(&mut hidden);
    status.changed.sort_unstable();
    status.changed.dedup();
    Ok(Looked { key: key_of(&files), files, status, names_stamp })
}

/// Paths relative to the root, and without ours.
struct Status {
    changed: Vec<Vec<u8>>,
    untracked: Vec<Vec<u8>>,
}

fn status(repo: &Repo, which: &str) -> Result<Status, GitError> {
    let output = Git::at(&repo.root)
        .args(["status", "--porcelain=v2", "-z", which, "--no-renames", "--ignore-submodules=none"])
        .args(["--", "."].iter().filter(|_| repo.root != repo.top))
        .output()?;
    let status = parse_status(&output)?;
    let prefix = repo.prefix();
    let below = |paths: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        paths.into_iter().filter_map(|path| path.strip_prefix(&prefix[..]).map(<[u8]>::to_vec)).collect()
    };
    let mut untracked = below(status.untracked);
    untracked.retain(|path| !is_ours(path));
    untracked.extend(below(status.untracked_in_submodules).into_iter().map(|mut path| {
        path.push(b'/');
        path
    }));
    untracked.sort_unstable();
    let mut changed = below(status.changed);
    changed.sort_unstable();
    Ok(Status { changed, untracked })
}

/// What git neither tracks nor ignores, where there are no submodules: half the price of a whole status.
fn untracked(repo: &Repo) -> Result<Vec<Vec<u8>>, GitError> {
    let output = Git::at(&repo.root).args(["ls-files", "--others", "--exclude-standard", "-z"]).output()?;
    let paths = output.split(|b| *b == 0).filter(|path| !path.is_empty() && !is_ours(path));
    let mut paths: Vec<_> = paths.map(<[u8]>::to_vec).collect();
    paths.sort_unstable();
    Ok(paths)
}

/// A path and what is there.
struct Seen {
    path: Vec<u8>,
    /// `f`, `x`, `l`; `-` nothing, `d` a folder, `?` a FIFO or device.
    kind: u8,
    stamp: Stamp,
    sha256: [u8; 32],
    /// It was read now and not only looked at.
    read: bool,
}

impl Seen {
    fn told(&self) -> Told<'_> {
        Told { path: &self.path, tracked: true, stamp: self.stamp, sha256: self.sha256 }
    }
}

/// The files, what the index hides of them, and the stamp of the index where the names depend on nothing else.
type Tracked = (Vec<Seen>, Vec<Vec<u8>>, Stamp);

fn look_at_tracked(repo: &Repo, cache: &Cache, index: Stamp) -> Result<Tracked, GitError> {
    let mut listed = tracked(&repo.root, None)?;
    // A submodule has an index of its own, and what the index hides must be compared each time.
    let simple = listed.iter().all(|entry| entry.kind != Kind::Submodule && !entry.unwatched);
    let hidden = hidden_changes(repo, &listed)?;
    listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let names: Vec<_> = listed.into_iter().map(|entry| entry.path).collect();
    let files = look_at_all(repo, &names, cache)?;
    Ok((files, hidden, if simple { index } else { Stamp::default() }))
}

/// Tracked files that differ although the index tells git not to look; those too that are not there (sparse checkout).
fn hidden_changes(repo: &Repo, listed: &[crate::repo::Tracked]) -> Result<Vec<Vec<u8>>, GitError> {
    let mut changed = Vec::new();
    for entry in listed.iter().filter(|entry| entry.unwatched && entry.kind != Kind::Submodule) {
        let path = native(&entry.path);
        let same = match std::fs::symlink_metadata(repo.root.join(&path)) {
            Ok(meta) if meta.is_symlink() => {
                let target = std::fs::read_link(repo.root.join(&path)).unwrap_or_default();
                let id = Git::at(&repo.root).args(["hash-object", "--stdin"]).feed(crate::repo::path_bytes(&target))?;
                crate::git::line(&id) == entry.oid
            }
            Ok(meta) if meta.is_file() => {
                let id = Git::at(&repo.root).args(["hash-object", "--"]).arg(&path).output()?;
                crate::git::line(&id) == entry.oid
            }
            _ => false,
        };
        if !same {
            changed.push(entry.path.clone());
        }
    }
    Ok(changed)
}

fn look_at_all<P: AsRef<[u8]> + Sync>(repo: &Repo, paths: &[P], cache: &Cache) -> Result<Vec<Seen>, GitError> {
    let root =
        open_root(&repo.root).map_err(|source| GitError::Io { line: repo.root.display().to_string(), source })?;
    let looked: Vec<Vec<Seen>> = paths
        .par_chunks(512)
        .enumerate()
        .map(|(n, chunk)| {
            let mut folder = Folder::new(&root);
            let each = chunk.iter().enumerate();
            each.map(|(i, path)| {
                let path = path.as_ref();
                look_at(&mut folder, path, cache, n * 512 + i)
                    .map_err(|source| GitError::Io { line: shown(path), source })
            })
            .collect::<Result<_, _>>()
        })
        .collect::<Result<_, GitError>>()?;
    Ok(looked.into_iter().flatten().collect())
}

/// `guess` is where the cache may have the path.
fn look_at(folder: &mut Folder<'_>, path: &[u8], cache: &Cache, guess: usize) -> std::io::Result<Seen> {
    let seen = |kind, stamp, sha256, read| Seen { path: path.to_vec(), kind, stamp, sha256, read };
    let mut left = TRIES;
    loop {
        left -= 1;
        let look = match folder.look(path)? {
            None => return Ok(seen(b'-', Stamp::default(), [0; 32], false)),
            Some(Look { kind: kind @ (b'd' | b'?'), .. }) => return Ok(seen(kind, Stamp::default(), [0; 32], false)),
            Some(look) => look,
        };
        if let Some(sha256) = cache.sha256(path, &look.stamp, guess) {
            return Ok(seen(look.kind, look.stamp, sha256, false));
        }
        let content = match look.kind {
            b'l' => folder.target(path).map(|target| Sha256::digest(target).into()),
            _ => folder.open(path).and_then(hash),
        };
        match content {
            Ok(sha256) if folder.look(path)? == Some(look) => return Ok(seen(look.kind, look.stamp, sha256, true)),
            // Moved meanwhile: look again. What is written to without end is given as it was read, and not remembered.
            Ok(sha256) if left == 0 => return Ok(seen(look.kind, Stamp::default(), sha256, true)),
            Ok(_) => {}
            // A file that became a link or went away.
            Err(_) if left > 0 && folder.look(path)? != Some(look) => {}
            Err(error) => return Err(error),
        }
    }
}

fn hash(mut file: File) -> std::io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = [0; 1 << 15];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn key_of(files: &[Seen]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for file in files {
        hash.update((file.path.len() as u64).to_le_bytes());
        hash.update(&file.path);
        hash.update([file.kind]);
        hash.update(file.sha256);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
