//! `.firsttry/env`: build, find, verify and collect environments.
//!
//! `KEY/` is a sealed environment. `KEY.stat` is its stat cache, `KEY.lock` is shared by whoever uses it and taken alone
//! by whoever replaces or removes it, `KEY.build` is held by the one who builds it, `KEY.tmp-*` is being built. Nothing
//! but a rename makes `KEY/`, and the seal is in it by then; a leftover of an interrupted build has another name and is
//! removed by the next builder.

use super::dists::{Dist, Metadata, Unmet, parse_metadata, unmet};
use super::fetch::{Chosen, FetchError, Settings, WheelStore};
use super::interpreter::Interpreter;
use super::key::EnvKey;
use super::locks::{self, Held};
use super::seal::{self, Deviation, Kind, Seal, quick};
use super::wheel::{self, WheelError};
use super::{Job, JobLost, PathError, Pinned, Progress, Report, RunJob, dists, layout, lib_dir, project};
use crate::cell::{Mount, Walls, Work, remove_scratch};
use crate::code::ParityCode;
use crate::frame::Manifest;
use crate::step::{Limits, Network};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Spec {
    /// For which interpreter.
    pub interpreter: Interpreter,
    /// The closure, chosen for that interpreter.
    pub closure: Vec<Pinned>,
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
            Self::Lost(_) => "`ft doctor` says which cells this machine can make".to_owned(),
            other => other.code().map_or_else(String::new, |code| code.fix().to_owned()),
        }
    }
}

/// The environments of one repository.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    wheels: WheelStore,
}

/// An environment as `ft env list` shows it.
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

    fn directory(&self) -> PathBuf {
        self.root.join("env")
    }

    fn beside(&self, key: &str, suffix: &str) -> PathBuf {
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

    /// The unpacked wheels of a closure, in the order of installation. Fetches, unpacks and compiles what is missing.
    async fn prepare(
        &self,
        spec: &Spec,
        run: &mut impl RunJob,
        report: Report<'_>,
    ) -> Result<Vec<PathBuf>, BuildError> {
        let mut closure = spec.closure.clone();
        closure.sort_unstable();
        let (store, interpreter) = (self.wheels.clone(), spec.interpreter.clone());
        let looked = closure.clone();
        let mut found = blocking(move || verified(&store, &looked, &interpreter)).await?;
        let complete = |found: &[Option<Chosen>]| {
            let present = |chosen: &Chosen| {
                !chosen.is_sdist() && wheel::manifest(&self.item(&chosen.sha256, &spec.interpreter)).is_some()
            };
            found.iter().all(|chosen| chosen.as_ref().is_some_and(present))
        };
        if !complete(&found.chosen) {
            let _lock = locks::exclusive(&self.wheels.lock_path(), "wheels", report).await?;
            self.wheels.sweep()?;
            let (store, interpreter) = (self.wheels.clone(), spec.interpreter.clone());
            let looked = closure.clone();
            // Again: whoever held the lock may have fetched them.
            let discarded = std::mem::take(&mut found.discarded);
            found = blocking(move || verified(&store, &looked, &interpreter)).await?;
            found.discarded.extend(discarded);
            for path in found.discarded.drain(..) {
                report(Progress::Discarded { path });
            }
            let missing = closure.iter().zip(&found.chosen).filter(|(_, chosen)| chosen.is_none());
            let missing: Vec<Pinned> = missing.map(|(pinned, _)| pinned.clone()).collect();
            self.wheels.fetch(&missing, &spec.interpreter, &spec.settings, report).await?;
            for (pinned, chosen) in closure.iter().zip(&mut found.chosen) {
                if chosen.is_none() {
                    *chosen = self.wheels.chosen(pinned, &spec.interpreter);
                }
            }
            let wheels: Vec<(PathBuf, String)> = found
                .chosen
                .iter()
                .flatten()
                .filter(|chosen| !chosen.is_sdist())
                .map(|chosen| (self.wheels.file(chosen), chosen.sha256.clone()))
                .collect();
            self.unpack(&wheels, &spec.interpreter, run, report).await?;
        }
        let mut items = Vec::new();
        for (pinned, chosen) in closure.iter().zip(&found.chosen) {
            let chosen = chosen.as_ref().ok_or_else(|| {
                FetchError::Failed(format!("{}=={}: downloaded, and not there any more", pinned.name, pinned.version))
            })?;
            items.push((pinned, chosen));
        }
        let (sdists, wheels): (Vec<_>, Vec<_>) = items.into_iter().partition(|(_, chosen)| chosen.is_sdist());
        let mut ready: Vec<(&Pinned, PathBuf)> =
            wheels.iter().map(|(pinned, chosen)| (*pinned, self.item(&chosen.sha256, &spec.interpreter))).collect();
        if !sdists.is_empty() {
            let base: Vec<PathBuf> = ready.iter().map(|(_, item)| item.clone()).collect();
            for (pinned, chosen) in sdists {
                let item = self.build_sdist(spec, pinned, chosen, &base, run, report).await?;
                ready.push((pinned, item));
            }
            ready.sort_unstable_by_key(|(pinned, _)| *pinned);
        }
        check_identity(&ready)?;
        let metadata: Vec<Metadata> = ready.iter().map(|(_, item)| item_metadata(item)).collect::<Result<_, _>>()?;
        let markers = dists::marker_environment(&spec.interpreter.facts.markers).map_err(|why| PathError {
            path: spec.interpreter.executable.clone(),
            source: std::io::Error::other(why),
        })?;
        let unmet = unmet(&metadata, &markers);
        if !unmet.is_empty() {
            return Err(BuildError::Unmet(unmet));
        }
        Ok(ready.into_iter().map(|(_, item)| item).collect())
    }

    fn item(&self, sha256: &str, interpreter: &Interpreter) -> PathBuf {
        self.wheels.unpacked().join(wheel::item_name(sha256, interpreter))
    }

    /// Unpacks and compiles those of these wheels (file and its sha256) that are not unpacked yet. The caller holds the
    /// wheel store's lock.
    async fn unpack(
        &self,
        wheels: &[(PathBuf, String)],
        interpreter: &Interpreter,
        run: &mut impl RunJob,
        report: Report<'_>,
    ) -> Result<(), BuildError> {
        let unpacked = self.wheels.unpacked();
        layout::create_dirs(&unpacked)?;
        let mut todo = Vec::new();
        for (file, sha256) in wheels {
            let name = wheel::item_name(sha256, interpreter);
            if wheel::manifest(&unpacked.join(&name)).is_none() {
                remove_tree(&unpacked.join(&name))?;
                todo.push((file.clone(), sha256.clone(), name));
            }
        }
        if todo.is_empty() {
            return Ok(());
        }
        report(Progress::Preparing { wheels: todo.len() });
        let temporary = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempdir_in(self.wheels.root())
            .map_err(PathError::at(self.wheels.root()))?;
        let items = temporary.path().join("items");
        let out = temporary.path().join("out");
        let scratch = temporary.path().join("scratch");
        for directory in [&items, &out, &scratch] {
            layout::create_dir(directory)?;
        }
        let (work, facts, into) = (todo.clone(), interpreter.clone(), items.clone());
        blocking(move || {
            work.par_iter().try_for_each(|(file, _, name)| {
                layout::create_dir(&into.join(name))?;
                wheel::unpack(file, &facts, &into.join(name))
            })
        })
        .await?;
        let lib = lib_dir::ready(&self.root.join("lib"))?;
        let job = compile_job(interpreter, &items, &lib, out.clone(), scratch.clone());
        let name = job.name.clone();
        let end = run.run(job).await;
        remove_scratch(&scratch).map_err(PathError::at(&scratch))?;
        let end = end?;
        if !end.succeeded() {
            return Err(BuildError::Job { name, log: end.tail(12) });
        }
        let facts = interpreter.clone();
        blocking(move || {
            todo.par_iter().try_for_each(|(_, sha256, name)| {
                let item = items.join(name);
                wheel::finish(&item, &out.join(name).join(wheel::TREE), &facts, sha256)?;
                let target = unpacked.join(name);
                std::fs::rename(&item, &target).map_err(PathError::at(&target))?;
                Ok::<_, WheelError>(())
            })
        })
        .await?;
        drop(temporary);
        Ok(())
    }

    /// The unpacked wheel of an sdist, built in a cell from the other packages of the closure and nothing else.
    async fn build_sdist(
        &self,
        spec: &Spec,
        pinned: &Pinned,
        chosen: &Chosen,
        base: &[PathBuf],
        run: &mut impl RunJob,
        report: Report<'_>,
    ) -> Result<PathBuf, BuildError> {
        let mut text = format!("{}\n{}\n", chosen.sha256, layout::VERSION);
        for item in base {
            text += &format!("{}\n", item.file_name().unwrap_or_default().to_string_lossy());
        }
        let name = hex::encode(Sha256::digest(text));
        let built = self.wheels.root().join("built").join(&name[..40]);
        let found = |built: &Path| -> Option<(PathBuf, String)> {
            let entry = std::fs::read_dir(built).ok()?.flatten().next()?;
            let (_, sha256) = seal::hash_file(&entry.path()).ok()?;
            Some((entry.path(), hex::encode(sha256)))
        };
        let _lock = locks::exclusive(&self.wheels.lock_path(), "wheels", report).await?;
        if found(&built).is_none() {
            report(Progress::BuildingSdist { name: pinned.name.clone() });
            let temporary = tempfile::Builder::new()
                .prefix(".tmp-")
                .tempdir_in(self.wheels.root())
                .map_err(PathError::at(self.wheels.root()))?;
            let [env, out, scratch] = ["env", "out", "scratch"].map(|name| temporary.path().join(name));
            layout::create_dir(&out)?;
            layout::create_dir(&scratch)?;
            let (root, interpreter, key, items) = (env.clone(), spec.interpreter.clone(), spec.key(), base.to_vec());
            match blocking(move || assemble(&root, &interpreter, &key, &items)).await {
                Ok(_) => {}
                Err(Assemble::Stale(path)) => {
                    remove_tree(&path)?;
                    let source = std::io::Error::other("differs from its manifest; removed, run again");
                    return Err(PathError { path, source }.into());
                }
                Err(Assemble::Failed(error)) => return Err(error),
            }
            let lib = lib_dir::ready(&self.root.join("lib"))?;
            let world =
                project::World { interpreter: &spec.interpreter, env: &env, lib: &lib, source_date_epoch: None };
            let job = project::sdist_job(&world, &self.wheels.file(chosen), out.clone(), scratch.clone());
            let name = format!("{} of {}", job.name, pinned.name);
            let end = run.run(job).await;
            remove_scratch(&scratch).map_err(PathError::at(&scratch))?;
            let end = end?;
            if !end.succeeded() {
                return Err(BuildError::Job { name, log: end.tail(30) });
            }
            if let Some(parent) = built.parent() {
                layout::create_dirs(parent)?;
            }
            remove_tree(&built)?;
            std::fs::rename(out.join("dist"), &built).map_err(PathError::at(&built))?;
        }
        let (file, sha256) = found(&built).ok_or_else(|| BuildError::Job {
            name: format!("building a wheel of {}", pinned.name),
            log: "the build left no wheel".to_owned(),
        })?;
        self.unpack(&[(file, sha256.clone())], &spec.interpreter, run, report).await?;
        Ok(self.item(&sha256, &spec.interpreter))
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
        let new = repository.join(format!(".venv-parity.tmp-{}", std::process::id()));
        let swap = || {
            std::fs::remove_file(&new).ok();
            std::os::unix::fs::symlink(target, &new)?;
            std::fs::rename(&new, &link)
        };
        swap().map_err(PathError::at(&link))
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

/// Removes a directory when it is dropped, for builds that end early. A killed build is swept by the next one.
struct Cleared(PathBuf);

impl Drop for Cleared {
    fn drop(&mut self) {
        remove_tree(&self.0).ok();
    }
}

/// Runs work that blocks beside the runtime, so that signals and other cells are served.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
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
fn remove_tree(path: &Path) -> Result<(), PathError> {
    if path.is_dir() {
        return remove_scratch(path).map_err(PathError::at(path));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PathError::at(path)(error)),
        _ => Ok(()),
    }
}

/// What the wheel store has of a closure.
struct Verified {
    chosen: Vec<Option<Chosen>>,
    discarded: Vec<PathBuf>,
}

fn verified(store: &WheelStore, closure: &[Pinned], interpreter: &Interpreter) -> Result<Verified, PathError> {
    let looked: Vec<_> =
        closure.par_iter().map(|pinned| store.verified(pinned, interpreter)).collect::<Result<_, _>>()?;
    let mut found = Verified { chosen: Vec::new(), discarded: Vec::new() };
    for result in looked {
        match result {
            Ok(chosen) => found.chosen.push(Some(chosen)),
            Err(discarded) => {
                found.chosen.push(None);
                found.discarded.extend(discarded);
            }
        }
    }
    Ok(found)
}

/// Each unpacked wheel must be what it was pinned as: a hash in the lock can stand at the wrong name.
fn check_identity(items: &[(&Pinned, PathBuf)]) -> Result<(), BuildError> {
    for (pinned, item) in items {
        let Some(dist) = wheel::manifest(item).and_then(|seal| seal.dists.into_iter().next()) else {
            let source = std::io::Error::other("no manifest");
            return Err(PathError { path: item.clone(), source }.into());
        };
        let version = |text: &str| text.parse::<pep440_rs::Version>().ok();
        let same = dist.version == pinned.version
            || version(&dist.version).is_some_and(|v| version(&pinned.version) == Some(v));
        if dist.name != dists::normalise(&pinned.name) || !same {
            return Err(BuildError::Identity {
                file: item.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                pinned: format!("{}=={}", pinned.name, pinned.version),
                found: format!("{}=={}", dist.name, dist.version),
            });
        }
    }
    Ok(())
}

fn item_metadata(item: &Path) -> Result<Metadata, PathError> {
    let seal = wheel::manifest(item).unwrap_or_default();
    let path = seal.entries.keys().find(|path| path.ends_with(".dist-info/METADATA")).cloned().unwrap_or_default();
    let path = item.join(wheel::TREE).join(path);
    let bytes = std::fs::read(&path).map_err(PathError::at(&path))?;
    Ok(parse_metadata(&String::from_utf8_lossy(&bytes)))
}

/// Compiles what was unpacked, in a cell without network.
fn compile_job(interpreter: &Interpreter, items: &Path, lib: &Path, out: PathBuf, scratch: PathBuf) -> Job {
    let site = &interpreter.facts.purelib;
    let argv = [
        &*interpreter.executable.to_string_lossy(),
        "-I",
        "-S",
        "-B",
        "/ft/lib/ft_compile.py",
        "/ft/build",
        "/ft/out",
        &*format!("{}/{site}", wheel::TREE),
        &*format!("/ft/env/{site}"),
    ];
    let mount = |host: &Path, cell: &str| Mount { host: host.to_path_buf(), cell: cell.to_owned(), writable: false };
    Job {
        name: "compiling".to_owned(),
        walls: Walls {
            work: Work::Empty,
            mounts: vec![mount(items, "/ft/build"), mount(lib, lib_dir::SEEN_AT)],
            interpreter: Some(interpreter.facts.prefix.clone()),
            network: Network::Loopback,
            limits: Limits::default(),
            scratch,
        },
        manifest: Manifest { argv: argv.map(str::to_owned).to_vec(), ..project::manifest() },
        out,
    }
}

enum Assemble {
    /// This unpacked wheel is not what its manifest says.
    Stale(PathBuf),
    Failed(BuildError),
}

impl From<PathError> for Assemble {
    fn from(error: PathError) -> Assemble {
        Assemble::Failed(error.into())
    }
}

/// Puts an environment together in a new directory and seals it. Where two wheels bring the same file, the later name
/// wins, as it does with other installers; here the order is that of the names and never that of the network.
fn assemble(root: &Path, interpreter: &Interpreter, key: &EnvKey, items: &[PathBuf]) -> Result<Seal, Assemble> {
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
