//! Puts an environment together from unpacked wheels, hashing every file on the way, and seals it.

use super::build::BuildError;
use super::interpreter::Interpreter;
use super::key::EnvKey;
use super::seal::{self, Kind, Seal};
use super::wheel::{self, WheelError};
use super::{PathError, layout};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why an environment could not be put together.
pub(super) enum Assemble {
    /// This unpacked wheel is not what its manifest says.
    Stale(PathBuf),
    /// Anything else.
    Failed(BuildError),
}

impl From<PathError> for Assemble {
    fn from(error: PathError) -> Assemble {
        Assemble::Failed(error.into())
    }
}

/// Puts an environment together in a new directory and seals it. Where two wheels bring the same file, the later name
/// wins, as it does with other installers; here the order is that of the names and never that of the network.
pub(super) fn assemble(
    root: &Path,
    interpreter: &Interpreter,
    key: &EnvKey,
    items: &[PathBuf],
) -> Result<Seal, Assemble> {
    layout::create_dirs(root)?;
    let mut entries = layout::skeleton(root, interpreter, key.as_str())?;
    let mut dists = Vec::new();
    let mut files: BTreeMap<String, (usize, u32, [u8; 32])> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let manifest = wheel::manifest(item).ok_or_else(|| Assemble::Stale(item.clone()))?;
        dists.extend(manifest.dists);
        for (path, kind) in manifest.entries {
            match (&kind, entries.get(&path)) {
                (Kind::Dir { .. }, Some(Kind::Dir { .. })) => continue,
                (Kind::Dir { .. }, None) => {}
                (Kind::File { mode, sha256, .. }, None | Some(Kind::File { .. })) if !reserved(&path) => {
                    files.insert(path.clone(), (index, *mode, *sha256));
                }
                _ => {
                    let wheel = item.display().to_string();
                    return Err(Assemble::Failed(WheelError::Path { wheel, path }.into()));
                }
            }
            entries.insert(path, kind);
        }
    }
    for (path, kind) in &entries {
        if let Kind::Dir { .. } = kind {
            layout::create_dir(&root.join(path))?;
        }
    }
    files.par_iter().try_for_each(|(path, (item, mode, sha256))| {
        let item = &items[*item];
        match copy_verified(&item.join(wheel::TREE).join(path), &root.join(path), *mode, sha256) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Assemble::Stale(item.clone())),
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Err(Assemble::Stale(item.clone())),
            Err(error) => Err(error.into()),
        }
    })?;
    let seal = Seal { key: key.as_str().to_owned(), dists, entries };
    seal::write_atomic(&root.join(seal::SEAL_FILE), seal.encode().as_bytes())?;
    Ok(seal)
}

/// Files that no wheel may bring: they are ours.
fn reserved(path: &str) -> bool {
    path == seal::SEAL_FILE || path == "pyvenv.cfg" || path.ends_with(&format!("/{}", layout::PTH_NAME))
}

/// Copies one file, hashing what is written. `false` where it is not what was expected.
fn copy_verified(from: &Path, to: &Path, mode: u32, sha256: &[u8; 32]) -> Result<bool, PathError> {
    let mut source = std::fs::File::open(from).map_err(PathError::at(from))?;
    let mut copy = || {
        let mut target = std::fs::File::create_new(to)?;
        let mut hash = Sha256::new();
        let mut buffer = [0; 1 << 16];
        loop {
            match source.read(&mut buffer)? {
                0 => break,
                n => {
                    hash.update(&buffer[..n]);
                    target.write_all(&buffer[..n])?;
                }
            }
        }
        target.set_permissions(std::fs::Permissions::from_mode(mode))?;
        Ok(hash.finalize()[..] == sha256[..])
    };
    copy().map_err(PathError::at(to))
}
