//! Bytecode that a collection left, lent to the next collection, so that one edit compiles one file.
//!
//! Only to collections: a run starts without any cache. What is kept is keyed by the environment, and every file is held
//! against its source at both ends: when it is kept and when it is lent, size and time in its head must be those of the
//! source in the tree. That time is made from the content (see [`crate::snapshot`]), so that an edit of equal size is
//! seen; bytecode whose source is gone is not lent, and no folder appears that the tree does not have. That is what the
//! law of caches asks for (DESIGN section 3).
//!
//! What comes from a cell is not trusted to be what its name says: regular files of this shape and size come across,
//! and nothing else. Code of the repository can write what it likes into its own bytecode; that can mislead this clone's
//! self-check, as that code could by itself, and never a run.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The folder in which Python keeps bytecode beside its sources.
const FOLDER: &str = "__pycache__";
/// The largest file that is kept, in bytes.
const LARGEST: u64 = 8 << 20;
/// How many files are kept or lent at the most.
const MOST: usize = 50_000;

/// Copies the bytecode in `changes` (what a step wrote over `trees`) into `store`. Returns how many files.
///
/// # Errors
/// The first file that can't be written. What is not fit to be kept is passed over.
pub fn keep(changes: &Path, trees: &[PathBuf], store: &Path) -> io::Result<usize> {
    let mut kept = 0;
    for found in bytecode_below(changes) {
        if !found.is_of(changes, trees) {
            continue;
        }
        let to = store.join(&found.path);
        let folder = to.parent().unwrap_or(store);
        std::fs::create_dir_all(folder)?;
        let mut file = crate::leftovers::file_in(store)?;
        let from = File::open(changes.join(&found.path))?;
        io::copy(&mut from.take(LARGEST), file.as_file_mut())?;
        file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(&to)?;
        kept += 1;
    }
    Ok(kept)
}

/// Makes a layer below `trees` at `into`: the bytecode in `store` that belongs to their sources. `owner` is who steps
/// run as, where that is somebody else. Returns how many files.
///
/// # Errors
/// The first folder or file that can't be made.
pub fn lend(store: &Path, trees: &[PathBuf], into: &Path, owner: Option<(u32, u32)>) -> io::Result<usize> {
    let mut lent = 0;
    for found in bytecode_below(store) {
        if !found.is_of(store, trees) {
            continue;
        }
        let to = into.join(&found.path);
        let folder = to.parent().unwrap_or(into);
        if !folder.is_dir() {
            std::fs::create_dir_all(folder)?;
            if let Some((uid, gid)) = owner {
                // The step replaces files in it; the folders above have the tree's own on top of them.
                std::os::unix::fs::lchown(folder, Some(uid), Some(gid))?;
            }
        }
        // A link is enough: the layer is never written to.
        let from = store.join(&found.path);
        std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(drop))?;
        lent += 1;
    }
    Ok(lent)
}

/// A file that is named like bytecode.
struct Found {
    /// `tests/__pycache__/test_a.cpython-311-pytest-8.4.2.pyc`
    path: PathBuf,
    /// `tests/test_a.py`
    source: PathBuf,
}

impl Found {
    /// Whether its head names the size and time of its source in the topmost tree that has one.
    fn is_of(&self, root: &Path, trees: &[PathBuf]) -> bool {
        let source = trees.iter().find_map(|tree| tree.join(&self.source).symlink_metadata().ok());
        let head = head(&root.join(&self.path));
        source.filter(Metadata::is_file).zip(head).is_some_and(|(source, head)| head == expected(&source))
    }
}

/// Flags, time and size as they stand behind the magic number (PEP 552; pytest writes the same head). The flags are 0:
/// any other bytecode is not held against its source by time.
fn head(path: &Path) -> Option<[u8; 12]> {
    let mut head = [0; 16];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    head[4..].try_into().ok()
}

fn expected(source: &Metadata) -> [u8; 12] {
    use std::os::unix::fs::MetadataExt;
    let low = |n: u64| (n as u32).to_le_bytes();
    let mut head = [0; 12];
    head[4..8].copy_from_slice(&low(source.mtime().cast_unsigned()));
    head[8..].copy_from_slice(&low(source.size()));
    head
}

/// Every regular file below `root` that is named and placed like bytecode. Links are not followed.
fn bytecode_below(root: &Path) -> Vec<Found> {
    let (mut found, mut waiting) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(root.join(&folder)) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let Ok(kind) = entry.file_type() else { continue };
            let path = folder.join(entry.file_name());
            if found.len() + waiting.len() >= MOST {
                return found;
            }
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file()
                && let Some(source) = source_of(&path)
                && entry.metadata().is_ok_and(|meta| meta.len() <= LARGEST)
            {
                found.push(Found { path, source });
            }
        }
    }
    found
}

/// `a/__pycache__/b.cpython-311.pyc` is made from `a/b.py`.
fn source_of(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| folder.file_name().is_some_and(|name| name == FOLDER))?;
    let (module, tag) = path.file_name()?.to_str()?.strip_suffix(".pyc")?.split_once('.')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let shaped = !module.is_empty() && tag.starts_with("cpython-") && tag.chars().all(plain);
    shaped.then(|| folder.with_file_name(format!("{module}.py")))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Places {
        dir: tempfile::TempDir,
    }

    impl Places {
        fn new() -> Self {
            let places = Places { dir: tempfile::tempdir().unwrap() };
            for name in ["changes/tests/__pycache__", "tree/tests", "store"] {
                std::fs::create_dir_all(places.at(name)).unwrap();
            }
            std::fs::write(places.at("tree/tests/test_a.py"), "x = 1\n").unwrap();
            places
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn bytecode(&self, name: &str) {
            let source = self.at("tree/tests/test_a.py").metadata().unwrap();
            let bytes = [&b"mgic"[..], &expected(&source), b"code"].concat();
            std::fs::write(self.at("changes/tests/__pycache__").join(name), bytes).unwrap();
        }

        fn keep(&self) -> usize {
            keep(&self.at("changes"), &[self.at("tree")], &self.at("store")).unwrap()
        }

        fn lend(&self) -> usize {
            lend(&self.at("store"), &[self.at("tree")], &self.at("lent"), None).unwrap()
        }
    }

    const NAME: &str = "test_a.cpython-311-pytest-8.4.2.pyc";

    #[test]
    fn bytecode_of_an_unchanged_source_is_lent_again() {
        let places = Places::new();
        places.bytecode(NAME);
        assert_eq!(places.keep(), 1);
        assert_eq!(places.lend(), 1);
        assert!(places.at("lent/tests/__pycache__").join(NAME).is_file());
    }

    #[test]
    fn bytecode_of_a_source_that_changed_or_went_away_is_not_lent() {
        let places = Places::new();
        places.bytecode(NAME);
        assert_eq!(places.keep(), 1);
        let source = places.at("tree/tests/test_a.py");
        // The same size, another time: what a snapshot gives another content.
        let file = File::options().write(true).open(&source).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(400_000_000)).unwrap();
        assert_eq!(places.lend(), 0);
        std::fs::remove_file(source).unwrap();
        assert_eq!(places.lend(), 0);
        assert!(!places.at("lent").exists());
    }

    #[test]
    fn only_regular_files_of_the_right_shape_are_kept() {
        let places = Places::new();
        for name in ["test_a.pyc", ".pyc", "test_a.cpython-311.txt", "test_b.cpython-311.pyc", "test_a.pypy39.pyc"] {
            places.bytecode(name);
        }
        places.bytecode(NAME);
        let folder = places.at("changes/tests/__pycache__");
        std::os::unix::fs::symlink(folder.join(NAME), folder.join("test_a.cpython-311.pyc")).unwrap();
        std::fs::write(folder.join("test_a.cpython-312.pyc"), b"short").unwrap();
        // Unchecked bytecode says so in its flags.
        let mut unchecked = std::fs::read(folder.join(NAME)).unwrap();
        unchecked[4] = 1;
        std::fs::write(folder.join("test_a.cpython-310.pyc"), unchecked).unwrap();
        assert_eq!(places.keep(), 1);
    }
}
