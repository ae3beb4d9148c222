//! The cache of the collection: node ids that pytest collected, kept under a key of everything that can change them.
//!
//! Other code than a test's own file may change which tests exist (pytest #1922), so the key covers all that can run
//! while tests are collected, or that they can read:
//!
//! | part | why |
//! |---|---|
//! | environment key and interpreter | every installed file: plugins, their entry points, `.pth` files |
//! | digest of our own plugin and its format | it decides what an id looks like |
//! | command line, variables, working directory, limits of each test step | `-p`, `-k`, `PYTEST_PLUGINS`, locale, CPUs |
//! | tree key | bytes, mode, name and target of every tracked file: parametrize reads JSON, conftest globs folders |
//! | HEAD | `.git` is in the cell: a version from a tag may name a test |
//!
//! What a cell does not have is in no key: the caller's variables, home, ignored and untracked files. What no key can
//! hold (a socket, a process, a file outside of the cell's fixed places) is reported by the plugin's audit hook, and
//! such a collection is not kept. A collection that failed is never kept. A full run collects anew and ignores this.

use crate::step::Step;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Where it stands, below the state folder.
pub const FILE: &str = "collection.sig";

/// Changes when ids are written another way.
const FORMAT: u32 = 1;

/// How many collections are kept: worktree, index and a branch or two switch back and forth.
const KEPT: usize = 4;

/// A collection and what it is the collection of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cached {
    /// [`key`] of everything that determines it.
    pub key: String,
    /// Step and its node ids, in pytest's order.
    pub steps: Vec<(String, Vec<String>)>,
}

/// The key of the collection of these steps.
#[must_use]
pub fn key(environment: &str, plugin: &str, tree: &str, head: Option<&str>, steps: &[Step]) -> String {
    let mut digest = Sha256::new();
    let steps = serde_json::to_vec(steps).expect("steps have string keys");
    let parts = [
        FORMAT.to_string().as_bytes(),
        environment.as_bytes(),
        plugin.as_bytes(),
        tree.as_bytes(),
        head.unwrap_or("").as_bytes(),
        &steps,
    ]
    .map(<[u8]>::to_vec);
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    hex::encode(digest.finalize())
}

/// The cached collection with this key. A file that is missing, cut or of another key is no answer, never an error.
#[must_use]
pub fn load(state_dir: &Path, key: &str) -> Option<Cached> {
    all(state_dir).into_iter().find(|cached| cached.key == key)
}

fn all(state_dir: &Path) -> Vec<Cached> {
    let bytes = std::fs::read(state_dir.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Keeps a collection, the newest first.
///
/// # Errors
/// Where it can't be written; nothing is lost but time.
pub fn store(state_dir: &Path, cached: &Cached) -> std::io::Result<()> {
    let mut kept = all(state_dir);
    kept.retain(|old| old.key != cached.key);
    kept.insert(0, cached.clone());
    kept.truncate(KEPT);
    let mut file = crate::leftovers::file_in(state_dir)?;
    serde_json::to_writer(&mut file, &kept).map_err(std::io::Error::other)?;
    file.persist(state_dir.join(FILE)).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_changes_the_key() {
        let base = key("e", "p", "t", Some("h"), &[]);
        for other in [
            key("x", "p", "t", Some("h"), &[]),
            key("e", "x", "t", Some("h"), &[]),
            key("e", "p", "x", Some("h"), &[]),
            key("e", "p", "t", Some("x"), &[]),
            key("e", "p", "t", None, &[]),
            key("ep", "", "t", Some("h"), &[]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_cut_or_foreign_file_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path(), "k"), None);
        let cached = Cached { key: "k".into(), steps: vec![("pytest".into(), vec!["a::b".into()])] };
        store(dir.path(), &cached).unwrap();
        assert_eq!(load(dir.path(), "k"), Some(cached));
        assert_eq!(load(dir.path(), "other"), None);
        store(dir.path(), &Cached { key: "other".into(), steps: vec![] }).unwrap();
        assert_eq!(
            load(dir.path(), "k"),
            Some(Cached { key: "k".into(), steps: vec![("pytest".into(), vec!["a::b".into()])] })
        );
        std::fs::write(dir.path().join(FILE), b"[{\"key\":\"k\",").unwrap();
        assert_eq!(load(dir.path(), "k"), None);
    }
}
