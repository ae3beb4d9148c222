//! `.firsttry/env`: build, find, verify and collect environments.
//!
//! `KEY/` is a sealed environment. `KEY.stat` is its stat cache, `KEY.lock` is shared by whoever uses it and taken alone
//! by whoever replaces or removes it, `KEY.build` is held by the one who builds it, `KEY.tmp-*` is being built. Nothing
//! but a rename makes `KEY/`, and the seal is in it by then; a leftover of an interrupted build has another name and is
//! removed by the next builder.

use super::PathError;
use super::dists::Dist;
use super::fetch::WheelStore;
use super::key::EnvKey;
use super::locks::{self, Held};
use super::seal::{self, Deviation, Seal, quick};
use crate::leftovers;
use std::path::{Path, PathBuf};

pub use super::build::{BuildError, Spec};

/// An environment that is as sealed.
#[derive(Debug)]
pub struct Ready {
    /// Its key.
    pub key: EnvKey,
    /// Its directory.
    pub root: PathBuf,
    /// What is installed.
    pub dists: Vec<Dist>,
    /// Held for as long as this value lives, so that nobody removes it.
    pub lock: Option<Held>,
}

/// What is known about an environment.
#[derive(Debug)]
pub enum State {
    /// It is there and as sealed.
    Ready(Ready),
    /// It was never built, or was collected.
    Missing,
    /// It is there and differs from its seal: PARITY-004.
    Broken(Vec<Deviation>),
}

/// The environments of one repository.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) root: PathBuf,
    pub(super) wheels: WheelStore,
}

/// An environment of the store, as `ft gc` weighs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many files.
    pub files: usize,
    /// When it was last used.
    pub used: std::time::SystemTime,
}

impl Store {
    /// The store below `.firsttry`, with the wheel store at `wheels`. Touches nothing.
    #[must_use]
    pub fn open(firsttry: &Path, wheels: PathBuf) -> Store {
        Store { root: firsttry.to_path_buf(), wheels: WheelStore::open(wheels) }
    }

    /// The wheel store.
    #[must_use]
    pub fn wheels(&self) -> &WheelStore {
        &self.wheels
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.root.join("env")
    }

    pub(super) fn beside(&self, key: &str, suffix: &str) -> PathBuf {
        self.directory().join(format!("{key}.{suffix}"))
    }

    /// Where the environment of a key stands, whether or not it is there.
    #[must_use]
    pub fn path(&self, key: &EnvKey) -> PathBuf {
        self.directory().join(key.as_str())
    }

    /// The state of an environment: a `stat` per file where the stat cache vouches, else a hash.
    #[must_use]
    pub fn state(&self, key: &EnvKey) -> State {
        self.state_by(key, quick::verify)
    }

    /// The same, hashing every file.
    #[must_use]
    pub fn state_deep(&self, key: &EnvKey) -> State {
        self.state_by(key, quick::verify_without)
    }

    fn state_by(&self, key: &EnvKey, verify: fn(&Path, &str, &Path) -> Result<quick::Verified, String>) -> State {
        let root = self.path(key);
        if !root.is_dir() {
            return State::Missing;
        }
        match verify(&root, key.as_str(), &self.beside(key.as_str(), "stat")) {
            Ok(verified) if verified.deviations.is_empty() => {
                State::Ready(Ready { key: key.clone(), root, dists: verified.dists, lock: None })
            }
            Ok(verified) => State::Broken(verified.deviations),
            Err(found) => State::Broken(vec![Deviation {
                path: seal::SEAL_FILE.to_owned(),
                what: seal::Differs::Changed { sealed: "a seal".to_owned(), found },
            }]),
        }
    }

    /// Holds an environment against removal, and notes that it is used.
    ///
    /// # Errors
    /// The lock file can't be made.
    pub fn hold(&self, key: &EnvKey) -> Result<Option<Held>, PathError> {
        let path = self.beside(key.as_str(), "lock");
        let held = locks::try_shared(&path)?;
        if let Ok(file) = std::fs::File::open(&path) {
            file.set_modified(std::time::SystemTime::now()).ok();
        }
        Ok(held)
    }

    /// Makes `.venv-parity` of the repository a relative link to the environment of this key, by a rename.
    ///
    /// # Errors
    /// Something else than a link stands there, which is left alone; or the link can't be written.
    pub fn current_link(&self, repository: &Path, key: &EnvKey) -> Result<(), PathError> {
        let link = repository.join(".venv-parity");
        let target = self.path(key);
        let target = target.strip_prefix(repository).unwrap_or(&target);
        match std::fs::symlink_metadata(&link) {
            Ok(meta) if !meta.is_symlink() => {
                let source = std::io::Error::other("not a link made by ft; move it away to get one");
                return Err(PathError { path: link, source });
            }
            Ok(_) if std::fs::read_link(&link).is_ok_and(|now| now == target) => return Ok(()),
            _ => {}
        }
        // From a folder that git does not see, whenever this process may be killed.
        leftovers::replace_link(target, &link, &self.root).map_err(PathError::at(&link))
    }

    /// Every environment that is there, last used first.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn list(&self) -> Result<Vec<Listed>, PathError> {
        let directory = self.directory();
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(PathError::at(&directory)(error)),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(PathError::at(&directory))?;
            let Ok(key) = entry.file_name().into_string() else { continue };
            if key.contains(".tmp-") || !entry.path().join(seal::SEAL_FILE).is_file() {
                continue;
            }
            let (files, bytes) = Seal::read(&entry.path()).map_or((0, 0), |seal| seal.totals());
            let used = std::fs::metadata(self.beside(&key, "lock")).or_else(|_| entry.metadata());
            let used = used.and_then(|meta| meta.modified()).unwrap_or(std::time::UNIX_EPOCH);
            listed.push(Listed { key, bytes, files, used });
        }
        listed.sort_unstable_by_key(|listed| std::cmp::Reverse(listed.used));
        Ok(listed)
    }

    /// Removes environments, least recently used first, until the others have no more than `budget` bytes. One that is
    /// in use, or is `keep`, stays. Returns what was removed.
    ///
    /// # Errors
    /// Something can't be read or removed.
    pub fn gc(&self, budget: u64, keep: Option<&EnvKey>) -> Result<Vec<Listed>, PathError> {
        let mut listed = self.list()?;
        let mut total: u64 = listed.iter().map(|environment| environment.bytes).sum();
        let mut removed = Vec::new();
        while total > budget
            && let Some(last) = listed.pop()
        {
            if keep.is_some_and(|keep| keep.as_str() == last.key) || !self.remove(&last.key)? {
                continue;
            }
            total -= last.bytes;
            removed.push(last);
        }
        Ok(removed)
    }

    /// Removes every environment that is not in use, and what interrupted builds left. Returns how many environments.
    ///
    /// # Errors
    /// Something can't be read or removed.
    pub fn clean(&self) -> Result<usize, PathError> {
        let mut removed = 0;
        for environment in self.list()? {
            removed += usize::from(self.remove(&environment.key)?);
        }
        Ok(removed)
    }

    /// Removes one environment unless somebody uses or builds it. Its lock files stay: another process may wait on them.
    fn remove(&self, key: &str) -> Result<bool, PathError> {
        let Some(_building) = locks::try_exclusive(&self.beside(key, "build"))? else { return Ok(false) };
        let Some(_alone) = locks::try_exclusive(&self.beside(key, "lock"))? else { return Ok(false) };
        // By a rename first: an interrupted removal must not leave something under the key's own name.
        let doomed = self.beside(key, &format!("tmp-{}-gone", std::process::id()));
        let path = self.directory().join(key);
        std::fs::rename(&path, &doomed).map_err(PathError::at(&path))?;
        std::fs::remove_file(self.beside(key, "stat")).ok();
        remove_tree(&doomed)?;
        sweep(&self.directory(), &format!("{key}.tmp-"))?;
        Ok(true)
    }
}

/// Removes everything in a directory whose name starts like this; returns how many entries. The caller holds the lock
/// that its makers hold.
///
/// # Errors
/// Something can't be removed.
pub(crate) fn sweep(directory: &Path, prefix: &str) -> Result<usize, PathError> {
    let mut removed = 0;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            remove_tree(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes a tree, or nothing where there is none. Leftovers of a killed cell may have no permissions.
pub(super) fn remove_tree(path: &Path) -> Result<(), PathError> {
    leftovers::remove_tree(path).map_err(PathError::at(path))
}
