//! One run at a time, the folders of runs, and what a killed runner leaves.
//!
//! A run's folder holds a mark until the run is over, and its runner holds a lock on the mark. Whoever can take that lock
//! knows that the runner is dead: the folder is removed and never read.

use super::{ArtifactError, io};
use crate::leftovers;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

const UNFINISHED: &str = "unfinished";

/// The right to write runs and artifacts of one repository. Ends when dropped, and with the process in any case.
#[derive(Debug)]
pub struct RunLock {
    state_dir: PathBuf,
    _file: File,
}

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process, where it could be read.
    pub pid: Option<u32>,
    /// Since when, in the words that it gave.
    pub since: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}, since {}", self.since),
            None => f.write_str("another process"),
        }
    }
}

impl RunLock {
    /// Takes the lock if it is free; else says who holds it. `now` is what another process will be told.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn try_take(state_dir: &Path, now: &str) -> Result<Result<RunLock, Holder>, ArtifactError> {
        let (mut file, place) = open(state_dir)?;
        match file.try_lock() {
            Ok(()) => RunLock::taken(state_dir, file, now).map(Ok),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The holder may be writing it at this moment; then nothing is known about it.
                let _ = file.read_to_string(&mut text);
                let mut lines = text.lines();
                let pid = lines.next().and_then(|line| line.parse().ok());
                Ok(Err(Holder { pid, since: lines.next().unwrap_or_default().to_owned() }))
            }
            Err(TryLockError::Error(source)) => Err(io(&place)(source)),
        }
    }

    /// Takes the lock, and waits for it as long as it takes.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn wait(state_dir: &Path, now: &str) -> Result<RunLock, ArtifactError> {
        let (file, place) = open(state_dir)?;
        file.lock().map_err(io(&place))?;
        RunLock::taken(state_dir, file, now)
    }

    fn taken(state_dir: &Path, mut file: File, now: &str) -> Result<RunLock, ArtifactError> {
        let text = format!("{}\n{now}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(io(state_dir))?;
        Ok(RunLock { state_dir: state_dir.to_owned(), _file: file })
    }

    pub(super) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Removes finished runs but for the newest `keep`, by the order of their ids, and names them.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn prune(&self, keep: usize) -> Result<Vec<String>, ArtifactError> {
        let finished: Vec<_> =
            list(&self.state_dir)?.into_iter().filter(|run| !run.join(UNFINISHED).exists()).collect();
        let old = &finished[..finished.len().saturating_sub(keep)];
        for run in old {
            // Half of a run is no run.
            let marker = run.join(UNFINISHED);
            File::create(&marker).map_err(io(&marker))?;
            remove(run)?;
        }
        Ok(old.iter().map(|run| name_of(run)).collect())
    }
}

/// The folder of a run that is under way, its own and nobody else's. Needs no [`RunLock`]: several may be under way, of
/// which one at a time publishes. Dropping it leaves the folder, which the next sweep takes for a dead runner's.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Locked for as long as this process lives.
    _mark: File,
}

impl RunDir {
    /// Makes the folder, marked as unfinished.
    ///
    /// # Errors
    /// [`ArtifactError::Io`], also where a run of this id is there.
    pub fn begin(state_dir: &Path, id: &str) -> Result<RunDir, ArtifactError> {
        let runs = runs(state_dir);
        std::fs::create_dir_all(&runs).map_err(io(&runs))?;
        // It has its name when it has its mark, and the mark is locked.
        let (path, new) = (runs.join(id), runs.join(leftovers::name(id)));
        std::fs::create_dir(&new).map_err(io(&new))?;
        let make = || {
            let mark = File::create(new.join(UNFINISHED))?;
            mark.lock()?;
            std::fs::rename(&new, &path)?;
            Ok(mark)
        };
        match make() {
            Ok(mark) => Ok(RunDir { path, _mark: mark }),
            Err(error) => {
                // Where this fails as well, the next sweep does it.
                let _ = leftovers::remove_tree(&new);
                Err(io(&path)(error))
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the mark off: the folder is whole, and kept.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn end(self) -> Result<(), ArtifactError> {
        let mark = self.path.join(UNFINISHED);
        std::fs::remove_file(&mark).map_err(io(&mark))
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn forget(self) -> Result<(), ArtifactError> {
        remove(&self.path)
    }
}

/// Whether the folder of a run is there and whole.
#[must_use]
pub fn is_finished(run: &Path) -> bool {
    run.is_dir() && !run.join(UNFINISHED).exists()
}

/// Removes what killed runners left, and names it. Folders of runners that live are left alone.
///
/// # Errors
/// [`ArtifactError::Io`].
pub fn sweep(state_dir: &Path) -> Result<Vec<String>, ArtifactError> {
    leftovers::sweep(&runs(state_dir));
    let mut swept = Vec::new();
    for run in list(state_dir)? {
        let Ok(mark) = File::open(run.join(UNFINISHED)) else { continue };
        // Held until the folder is gone: another sweep passes it over.
        if mark.try_lock().is_ok() {
            remove(&run)?;
            swept.push(name_of(&run));
        }
    }
    Ok(swept)
}

/// Removes the folder of a run that is marked. The mark goes last, so that somebody who is killed here leaves nothing
/// that looks like a run.
fn remove(run: &Path) -> Result<(), ArtifactError> {
    leftovers::remove_with_last(run, Some(UNFINISHED)).map_err(io(run))
}

fn runs(state_dir: &Path) -> PathBuf {
    state_dir.join("runs")
}

/// The folders of runs, sorted by id.
fn list(state_dir: &Path) -> Result<Vec<PathBuf>, ArtifactError> {
    let dir = runs(state_dir);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(&dir)(error)),
    };
    let mut runs = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io(&dir))?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.file_type().map_err(io(&dir))?.is_dir() {
            runs.push(entry.path());
        }
    }
    runs.sort();
    Ok(runs)
}

fn open(state_dir: &Path) -> Result<(File, PathBuf), ArtifactError> {
    std::fs::create_dir_all(state_dir).map_err(io(state_dir))?;
    let place = state_dir.join("run.lock");
    // Never truncated at opening: it may be another's.
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&place).map_err(io(&place))?;
    Ok((file, place))
}

fn name_of(run: &Path) -> String {
    run.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::try_take(dir.path(), "noon").unwrap().unwrap();
        let holder = RunLock::try_take(dir.path(), "later").unwrap().unwrap_err();
        assert_eq!(holder, Holder { pid: Some(std::process::id()), since: "noon".into() });
        let waiting = {
            let dir = dir.path().to_owned();
            std::thread::spawn(move || RunLock::wait(&dir, "later").unwrap())
        };
        drop(first);
        let second = waiting.join().unwrap();
        let holder = RunLock::try_take(dir.path(), "last").unwrap().unwrap_err();
        assert_eq!(holder.since, "later");
        drop(second);
        assert!(RunLock::try_take(dir.path(), "last").unwrap().is_ok());
    }

    #[test]
    fn what_a_killed_runner_left_is_swept_and_finished_and_living_runs_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RunLock::wait(dir.path(), "now").unwrap();
        for id in ["1", "2", "3"] {
            RunDir::begin(dir.path(), id).unwrap().end().unwrap();
        }
        let living = RunDir::begin(dir.path(), "4").unwrap();
        assert!(RunDir::begin(dir.path(), "4").is_err());
        let killed = RunDir::begin(dir.path(), "5").unwrap();
        std::fs::create_dir(killed.path().join("half")).unwrap();
        drop(killed);
        std::fs::create_dir(runs(dir.path()).join(format!(".ft-tmp-{}-6", u32::MAX))).unwrap();
        assert_eq!(lock.prune(2).unwrap(), ["1"]);
        assert_eq!(sweep(dir.path()).unwrap(), ["5"]);
        assert_eq!(sweep(dir.path()).unwrap(), [""; 0]);
        assert_eq!(std::fs::read_dir(runs(dir.path())).unwrap().count(), 3);
        assert!(is_finished(&runs(dir.path()).join("2")) && !is_finished(living.path()));
        living.forget().unwrap();
        assert_eq!(list(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn a_link_in_the_folder_of_runs_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join(UNFINISHED), "").unwrap();
        std::fs::create_dir(runs(dir.path())).unwrap();
        std::os::unix::fs::symlink(outside.path(), runs(dir.path()).join("link")).unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), [""; 0]);
        assert!(outside.path().join(UNFINISHED).exists());
    }
}
