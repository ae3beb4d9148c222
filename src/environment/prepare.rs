//! Every wheel of a closure, verified against the lock, unpacked and compiled for one interpreter in the wheel store.

use super::assemble::{Assemble, assemble};
use super::build::{BuildError, Spec, blocking};
use super::dists::{self, Metadata, parse_metadata, unmet};
use super::fetch::{Chosen, FetchError, WheelStore};
use super::interpreter::Interpreter;
use super::store::{Store, remove_tree, sweep};
use super::wheel::{self, WheelError};
use super::{Job, PathError, Pinned, Progress, Report, RunJob, layout, lib_dir, locks, project, seal};
use crate::cell::{Mount, Walls, Work, remove_scratch};
use crate::frame::Manifest;
use crate::step::{Limits, Network};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

impl Store {
    /// The unpacked wheels of a closure, in the order of installation. Fetches, unpacks and compiles what is missing.
    pub(super) async fn prepare(
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
        let mut unmet = unmet(&metadata, &markers);
        // What requires the project under test gets it from the project layer.
        unmet.retain(|unmet| spec.project.as_ref() != Some(&unmet.needed));
        if !unmet.is_empty() {
            return Err(BuildError::Unmet(unmet));
        }
        for (_, item) in &ready {
            // When it was last used, for whoever collects the store. Not knowing it only makes it look older.
            let _ = std::fs::File::open(item).and_then(|item| item.set_modified(std::time::SystemTime::now()));
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
        layout::create_dir(&items)?;
        let (work, facts, into) = (todo.clone(), interpreter.clone(), items.clone());
        blocking(move || {
            work.par_iter().try_for_each(|(file, _, name)| {
                layout::create_dir(&into.join(name))?;
                wheel::unpack(file, &facts, &into.join(name))
            })
        })
        .await?;
        let lib = lib_dir::ready(&self.root.join("lib"))?;
        let space = self.space()?;
        let job = compile_job(interpreter, &items, &lib, space.out(), space.scratch());
        self.run_job(job, run).await?;
        let out = space.out();
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
        let _lock = locks::exclusive(&self.wheels.lock_path(), "wheels", report).await?;
        if found_built(&built).is_none() {
            report(Progress::BuildingSdist { name: pinned.name.clone() });
            let space = self.space()?;
            let env = space.0.path().join("env");
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
            let source_date_epoch = Some(FIRST_OF_1980);
            let world = project::World { interpreter: &spec.interpreter, env: &env, lib: &lib, source_date_epoch };
            let mut job = project::sdist_job(&world, &self.wheels.file(chosen), space.out(), space.scratch());
            job.name = format!("building a wheel of {}", pinned.name);
            self.run_job(job, run).await?;
            keep_built(&space.out().join("dist"), &built)?;
        }
        let (file, sha256) = found_built(&built).ok_or_else(|| BuildError::Job {
            name: format!("building a wheel of {}", pinned.name),
            log: "the build left no wheel".to_owned(),
        })?;
        self.unpack(&[(file, sha256.clone())], &spec.interpreter, run, report).await?;
        Ok(self.item(&sha256, &spec.interpreter))
    }

    /// A place for one job, on the file system of the repository, as every other cell's. The caller holds the wheel
    /// store's lock, so that what is there already was left by a killed process.
    fn space(&self) -> Result<Space, PathError> {
        let directory = self.root.join("tmp");
        layout::create_dirs(&directory)?;
        sweep(&directory, Space::PREFIX)?;
        let made =
            tempfile::Builder::new().prefix(Space::PREFIX).tempdir_in(&directory).map_err(PathError::at(&directory))?;
        let space = Space(made);
        layout::create_dir(&space.out())?;
        layout::create_dir(&space.scratch())?;
        Ok(space)
    }

    /// Runs a job whose failure is the build's.
    async fn run_job(&self, job: Job, run: &mut impl RunJob) -> Result<(), BuildError> {
        let (name, scratch) = (job.name.clone(), job.walls.scratch.clone());
        let end = run.run(job).await;
        remove_scratch(&scratch).map_err(PathError::at(&scratch))?;
        let end = end?;
        if end.succeeded() { Ok(()) } else { Err(BuildError::Job { name, log: end.tail(30) }) }
    }
}

/// The earliest time that an archive can hold: what a wheel made of an sdist says, whenever it is made.
const FIRST_OF_1980: u64 = 315_532_800;

/// Where a job has its scratch directory and leaves its output.
struct Space(tempfile::TempDir);

impl Space {
    const PREFIX: &str = "job-";

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn scratch(&self) -> PathBuf {
        self.0.path().join("scratch")
    }
}

/// Digest and name of a wheel that was made here, beside it: no lock knows its bytes, so they are noted when it is made.
const BUILT_NOTE: &str = "made";

/// The wheel that was made before, if its bytes are still those.
fn found_built(built: &Path) -> Option<(PathBuf, String)> {
    let note = std::fs::read_to_string(built.join(BUILT_NOTE)).ok()?;
    let (noted, name) = note.trim_end().split_once(' ')?;
    let file = built.join(name);
    let (_, sha256) = seal::hash_file(&file).ok()?;
    (hex::encode(sha256) == noted).then(|| (file, noted.to_owned()))
}

/// Takes the one wheel that a build left.
fn keep_built(dist: &Path, built: &Path) -> Result<(), PathError> {
    remove_tree(built)?;
    layout::create_dirs(built)?;
    for entry in std::fs::read_dir(dist).map_err(PathError::at(dist))? {
        let entry = entry.map_err(PathError::at(dist))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".whl") {
            let bytes = std::fs::read(entry.path()).map_err(PathError::at(entry.path()))?;
            seal::write_atomic(&built.join(&name), &bytes)?;
            let note = format!("{} {name}\n", hex::encode(Sha256::digest(&bytes)));
            return seal::write_atomic(&built.join(BUILT_NOTE), note.as_bytes());
        }
    }
    Ok(())
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
        if dist.name != crate::lock::normalise(&pinned.name) || !same {
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
        // Not `-I`, which would ignore PYTHONHASHSEED: before 3.11, bytecode holds sets in the order of their hashes.
        "-s",
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
            keep: false,
            scratch,
        },
        manifest: Manifest { argv: argv.map(str::to_owned).to_vec(), ..project::manifest() },
        out,
    }
}
