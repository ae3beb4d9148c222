//! The project layer of the last self-check, for a tree of which the build saw nothing new.
//!
//! An edit of a test does not change what a build backend makes of a project, but only the backend knows what it looks
//! at. So it is watched while it works: a layer is kept with the names of everything in the tree and the content of every
//! file that was opened, and counts for another tree only where all of these are the same. Where the backend started a
//! process, loaded a library by itself or looked into `.git`, nothing is kept: that could depend on anything. What is kept
//! carries the digest of its own files and is compared with it before use.
//!
//! For the collection of a self-check alone. A run makes its layer anew.

use super::PathError;
use super::project::{Layer, read_layer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "kept.json";

/// What a kept layer was made from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// [`key`]
    key: String,
    /// sha256 of every file that the build opened; `None` where it found none.
    reads: BTreeMap<String, Option<String>>,
    /// Digest of the layer itself.
    layer: String,
}

/// Everything that decides what a build makes of a tree, but for the content of the files that it opens: our own
/// scripts, the time that the build is told, and the names, kinds and links of the tree.
///
/// # Errors
/// A folder that can't be read.
pub fn key(scripts: &str, source_date_epoch: Option<u64>, tree: &Path) -> Result<String, PathError> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(scripts.as_bytes());
    part(&source_date_epoch.map_or_else(Vec::new, |time| time.to_le_bytes().to_vec()));
    for entry in entries(tree).map_err(PathError::at(tree))? {
        if entry.path.starts_with(".git") {
            continue;
        }
        part(entry.path.as_os_str().as_bytes());
        part(&[entry.kind]);
        if entry.kind == b'l' {
            let at = tree.join(&entry.path);
            part(std::fs::read_link(&at).map_err(PathError::at(&at))?.as_os_str().as_bytes());
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// The layer that is kept at `place`, where a build of `tree` would make the same.
#[must_use]
pub fn find(place: &Path, key: &str, tree: &Path) -> Option<Layer> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(place.join(FILE)).ok()?).ok()?;
    let same = kept.key == key
        && kept.reads.iter().all(|(path, was)| content(tree, path).is_ok_and(|now| now == *was))
        && digest(&place.join("layer")).is_ok_and(|now| now == kept.layer);
    read_layer(place).ok().filter(|layer| same && layer.problem.is_none())
}

/// Keeps the layer in `out` at `place`, in place of what is there. `false` where the build can't be vouched for.
///
/// # Errors
/// What can't be read or written; nothing that [`find`] would trust is left then.
pub fn keep(place: &Path, key: &str, tree: &Path, layer: &Layer, out: &Path) -> Result<bool, PathError> {
    let Some(reads) = &layer.reads else { return Ok(false) };
    let reads = reads.iter().map(|path| Ok((path.clone(), content(tree, path)?))).collect::<io::Result<_>>();
    let Ok(reads) = reads else { return Ok(false) };
    let above = place.parent().unwrap_or(place);
    std::fs::create_dir_all(above).map_err(PathError::at(above))?;
    let made = crate::leftovers::folder_in(above).map_err(PathError::at(above))?;
    let all = || -> io::Result<()> {
        std::fs::set_permissions(made.path(), std::fs::Permissions::from_mode(0o755))?;
        copy(&out.join("layer"), &made.path().join("layer"))?;
        let kept = Kept { key: key.to_owned(), reads, layer: digest(&made.path().join("layer"))? };
        std::fs::write(made.path().join(FILE), serde_json::to_vec(&kept)?)?;
        if place.exists() {
            // Two renames, so that a reader finds a whole layer or none.
            let old = crate::leftovers::folder_in(above)?;
            std::fs::rename(place, old.path().join("old"))?;
        }
        std::fs::rename(made.path(), place)
    };
    all().map_err(PathError::at(place))?;
    Ok(true)
}

/// sha256 of a file of the tree as the build saw it; `None` where there is no file. Links are refused: what is behind
/// them is another name's business.
fn content(tree: &Path, path: &str) -> io::Result<Option<String>> {
    let mut at = tree.to_owned();
    for name in Path::new(path).components() {
        at.push(name);
        match at.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => return Err(io::ErrorKind::InvalidInput.into()),
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
    }
    if !at.is_file() {
        return Ok(None);
    }
    Ok(Some(hex::encode(Sha256::digest(std::fs::read(at)?))))
}

struct Entry {
    path: PathBuf,
    /// `d`, `f`, `x`, `l`, `?`
    kind: u8,
}

/// Everything below a folder, sorted by path.
fn entries(root: &Path) -> io::Result<Vec<Entry>> {
    let (mut found, mut waiting) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let (meta, path) = (entry.metadata()?, folder.join(entry.file_name()));
            let kind = match () {
                () if meta.is_symlink() => b'l',
                () if meta.is_dir() => b'd',
                () if !meta.is_file() => b'?',
                () if meta.permissions().mode() & 0o100 != 0 => b'x',
                () => b'f',
            };
            if kind == b'd' {
                waiting.push(path.clone());
            }
            found.push(Entry { path, kind });
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn digest(layer: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    for entry in entries(layer)? {
        hash.update((entry.path.as_os_str().len() as u64).to_le_bytes());
        hash.update(entry.path.as_os_str().as_bytes());
        hash.update([entry.kind]);
        if matches!(entry.kind, b'f' | b'x') {
            hash.update(Sha256::digest(std::fs::read(layer.join(&entry.path))?));
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// Copies folders and files; what came back from a cell has nothing else.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in entries(from)? {
        let at = to.join(&entry.path);
        match entry.kind {
            b'd' => std::fs::create_dir(&at)?,
            b'f' | b'x' => drop(std::fs::copy(from.join(&entry.path), &at)?),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(())
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
            for (name, text) in [
                ("tree/pyproject.toml", "[project]"),
                ("tree/tests/test_a.py", "a"),
                ("out/layer/site/x.pth", "/ft/work/src"),
                ("out/layer/layer.json", r#"{"backend": "b", "reads": ["pyproject.toml", "setup.py"]}"#),
            ] {
                places.write(name, text);
            }
            places
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
            std::fs::write(self.at(name), text).unwrap();
        }

        fn keep(&self) -> bool {
            let layer = read_layer(&self.at("out")).unwrap();
            keep(&self.at("kept/env"), &self.key(), &self.at("tree"), &layer, &self.at("out")).unwrap()
        }

        fn key(&self) -> String {
            key("scripts", None, &self.at("tree")).unwrap()
        }

        fn is_found(&self) -> bool {
            find(&self.at("kept/env"), &self.key(), &self.at("tree")).is_some()
        }
    }

    #[test]
    fn a_layer_counts_for_a_tree_that_differs_where_the_build_did_not_look() {
        let places = Places::new();
        assert!(!places.is_found());
        assert!(places.keep() && places.keep());
        places.write("tree/tests/test_a.py", "b");
        assert!(places.is_found());
    }

    #[test]
    fn a_file_that_was_read_or_a_name_that_is_new_ends_it() {
        for (name, text) in [("tree/pyproject.toml", "[projecu]"), ("tree/setup.py", ""), ("tree/tests/test_b.py", "")]
        {
            let places = Places::new();
            assert!(places.keep());
            places.write(name, text);
            assert!(!places.is_found(), "{name}");
        }
    }

    #[test]
    fn a_layer_that_was_edited_is_not_used() {
        let places = Places::new();
        assert!(places.keep());
        places.write("kept/env/layer/site/x.pth", "/tmp/elsewhere");
        assert!(!places.is_found());
    }

    #[test]
    fn a_build_that_could_not_be_watched_is_not_kept() {
        let places = Places::new();
        places.write("out/layer/layer.json", r#"{"backend": "b", "reads": null}"#);
        assert!(!places.keep());
        assert!(!places.is_found());
        places.write("out/layer/layer.json", r#"{"backend": "b", "reads": ["linked"]}"#);
        std::os::unix::fs::symlink("/etc/passwd", places.at("tree/linked")).unwrap();
        assert!(!places.keep());
    }
}
