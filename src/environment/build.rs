//! Building an environment: once per key, whoever asks, and nothing left behind that a later run would trust.
//!
//! The steps are [`super::prepare`] (every wheel of the closure verified, unpacked and compiled) and [`super::assemble`]
//! (copied together and sealed); here is what goes around them: locks, leftovers, the rename.

use super::assemble::{Assemble, assemble};
use super::dists::Unmet;
use super::fetch::{FetchError, Settings};
use super::interpreter::Interpreter;
use super::key::EnvKey;
use super::locks;
use super::seal::{Deviation, Seal, quick};
use super::store::{Ready, State, Store, remove_tree, sweep};
use super::wheel::WheelError;
use super::{JobLost, PathError, Pinned, Progress, Report, RunJob};
use crate::code::ParityCode;
use std::path::{Path, PathBuf};

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Spec {
    /// For which interpreter.
    pub interpreter: Interpreter,
    /// The closure, chosen for that interpreter.
    pub closure: Vec<Pinned>,
    /// The project under test, normalised: it is no part of the environment, and packages may require it all the same.
    pub project: Option<String>,
    /// How missing wheels are fetched.
    pub settings: Settings,
    /// Replace an environment that differs from its seal, or one that is fine (`ft env build --force`).
    pub rebuild: bool,
}

impl Spec {
    /// The name of what comes out.
    #[must_use]
    pub fn key(&self) -> EnvKey {
        EnvKey::new(&self.interpreter, &self.closure)
    }
}

/// Why there is no environment.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Wheels could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A wheel can't be installed.
    #[error(transparent)]
    Wheel(#[from] WheelError),
    /// A wheel says it is something else than what was pinned.
    #[error("{file} is {found}, the lock pins it as {pinned}")]
    Identity {
        /// The wheel.
        file: String,
        /// `name==version` of the lock.
        pinned: String,
        /// `name==version` of its metadata.
        found: String,
    },
    /// The closure does not meet the requirements of its own packages.
    #[error("the closure is not complete: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unmet(Vec<Unmet>),
    /// It is there and differs from its seal, and nobody asked to rebuild it.
    #[error("{key} differs from its seal: {}", deviations_text(.deviations))]
    Broken {
        /// Its key.
        key: EnvKey,
        /// What differs.
        deviations: Vec<Deviation>,
    },
    /// A step of the build ended with an error.
    #[error("{name} failed:\n{log}")]
    Job {
        /// What it was to do.
        name: String,
        /// The end of its log.
        log: String,
    },
    /// A cell could not do its work.
    #[error(transparent)]
    Lost(#[from] JobLost),
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] PathError),
}

fn deviations_text(deviations: &[Deviation]) -> String {
    let shown: Vec<String> = deviations.iter().take(5).map(ToString::to_string).collect();
    let more = deviations.len().saturating_sub(5);
    if more == 0 { shown.join("; ") } else { format!("{}; and {more} more", shown.join("; ")) }
}

impl BuildError {
    /// The finding that this is. `None`: infrastructure (69), which says nothing about the lock.
    #[must_use]
    pub fn code(&self) -> Option<ParityCode> {
        match self {
            Self::Fetch(FetchError::Hash { .. } | FetchError::NoWheel { .. } | FetchError::SdistOnly { .. })
            | Self::Wheel(WheelError::Malformed { .. } | WheelError::Path { .. })
            | Self::Identity { .. } => Some(ParityCode::PACKAGE_HASH),
            Self::Unmet(_) => Some(ParityCode::LOCK_STALE),
            Self::Broken { .. } => Some(ParityCode::ENVIRONMENT_SEAL),
            Self::Job { .. } => Some(ParityCode::PACKAGE_HASH),
            Self::Lost(lost) if lost.unenforceable => Some(ParityCode::POLICY_UNENFORCEABLE),
            Self::Fetch(_) | Self::Wheel(WheelError::Io(_)) | Self::Lost(_) | Self::Io(_) => None,
        }
    }

    /// What the reader can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Fetch(error) => error.hint(),
            Self::Io(error) | Self::Wheel(WheelError::Io(error)) if error.disk_full() => {
                "the disk is full: `ft gc` frees what ft keeps".to_owned()
            }
            Self::Io(_) => "check the permissions of that path".to_owned(),
            Self::Lost(_) => "run it again; if it stays, the message above names what this machine refuses".to_owned(),
            other => other.code().map_or_else(String::new, |code| code.fix().to_owned()),
        }
    }
}

impl Store {
    /// The sealed environment of a spec: the one that is there, or a new one. One process builds a key, others wait.
    ///
    /// # Errors
    /// [`BuildError`]. Nothing that a later run would trust is left behind, whatever happened.
    pub async fn ensure(&self, spec: &Spec, run: &mut impl RunJob, report: Report<'_>) -> Result<Ready, BuildError> {
        let key = spec.key();
        if !spec.rebuild
            && let Some(ready) = self.usable(&key)?
        {
            return Ok(ready);
        }
        let _building = locks::exclusive(&self.beside(key.as_str(), "build"), key.as_str(), report).await?;
        // Whoever held the lock may have built it.
        if !spec.rebuild
            && let Some(ready) = self.usable(&key)?
        {
            return Ok(ready);
        }
        let leftovers = sweep(&self.directory(), &format!("{key}.tmp-"))?;
        if leftovers > 0 {
            report(Progress::Removed { leftovers });
        }
        let temporary = self.beside(key.as_str(), &format!("tmp-{}", std::process::id()));
        let cleared = Cleared(temporary.clone());
        let seal = self.build(spec, &key, &temporary, run, report).await?;
        self.publish(&key, &temporary, &seal, report).await?;
        drop(cleared);
        let (files, bytes) = seal.totals();
        report(Progress::Sealed { files, bytes });
        let lock = self.hold(&key)?;
        Ok(Ready { root: self.path(&key), key, dists: seal.dists, lock })
    }

    /// The environment that is there, held; an error where it is broken.
    fn usable(&self, key: &EnvKey) -> Result<Option<Ready>, BuildError> {
        if !self.path(key).is_dir() {
            return Ok(None);
        }
        // Held first: what is verified must not be removed after. None: somebody is replacing it right now.
        let Some(lock) = self.hold(key)? else { return Ok(None) };
        match self.state(key) {
            State::Ready(ready) => Ok(Some(Ready { lock: Some(lock), ..ready })),
            State::Missing => Ok(None),
            State::Broken(deviations) => Err(BuildError::Broken { key: key.clone(), deviations }),
        }
    }

    async fn build(
        &self,
        spec: &Spec,
        key: &EnvKey,
        temporary: &Path,
        run: &mut impl RunJob,
        report: Report<'_>,
    ) -> Result<Seal, BuildError> {
        let mut retried = false;
        loop {
            let items = self.prepare(spec, run, report).await?;
            report(Progress::Installing { packages: items.len() });
            let (interpreter, key, root) = (spec.interpreter.clone(), key.clone(), temporary.to_path_buf());
            let assembled = blocking(move || assemble(&root, &interpreter, &key, &items)).await;
            match assembled {
                Ok(seal) => return Ok(seal),
                // Somebody edited the store's copy: made again from the wheel, once.
                Err(Assemble::Stale(item)) if !retried => {
                    retried = true;
                    report(Progress::Discarded { path: item.clone() });
                    remove_tree(&item)?;
                    remove_tree(temporary)?;
                }
                Err(Assemble::Stale(path)) => {
                    let source = std::io::Error::other("changes while it is read");
                    return Err(PathError { path, source }.into());
                }
                Err(Assemble::Failed(error)) => return Err(error),
            }
        }
    }

    /// Makes a finished build the environment of its key.
    async fn publish(&self, key: &EnvKey, temporary: &Path, seal: &Seal, report: Report<'_>) -> Result<(), BuildError> {
        let target = self.path(key);
        if target.exists() {
            // A running step must not lose its files.
            let _alone = locks::exclusive(&self.beside(key.as_str(), "lock"), key.as_str(), report).await?;
            let old = self.beside(key.as_str(), &format!("tmp-{}-old", std::process::id()));
            remove_tree(&old)?;
            std::fs::rename(&target, &old).map_err(PathError::at(&target))?;
            std::fs::rename(temporary, &target).map_err(PathError::at(&target))?;
            remove_tree(&old)?;
        } else {
            std::fs::rename(temporary, &target).map_err(PathError::at(&target))?;
        }
        let directory = self.directory();
        std::fs::File::open(&directory).and_then(|file| file.sync_all()).map_err(PathError::at(&directory))?;
        quick::remember(&target, seal, &self.beside(key.as_str(), "stat"));
        Ok(())
    }
}

/// Removes a directory when it is dropped, for builds that end early. A killed build is swept by the next one.
struct Cleared(PathBuf);

impl Drop for Cleared {
    fn drop(&mut self) {
        remove_tree(&self.0).ok();
    }
}

/// Runs work that blocks beside the runtime, so that signals and other cells are served.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
