//! One run at a time, the folders of runs, and what a killed runner leaves.
//!
//! A run's folder holds a marker until the run is over. Whoever holds the lock and sees a marker knows that its runner
//! is dead: the folder is removed and never read.

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

    fn runs(&self) -> PathBuf {
        self.state_dir.join("runs")
    }

    pub(super) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Makes the folder of a run, marked as unfinished. Until the mark is there the folder is empty, which is a mark too.
    ///
    /// # Errors
    /// [`ArtifactError::Io`], also where a run of this id is there.
    pub fn begin(&self, id: &str) -> Result<PathBuf, ArtifactError> {
        let dir = self.runs().join(id);
        std::fs::create_dir_all(self.runs()).and_then(|()| std::fs::create_dir(&dir)).map_err(io(&dir))?;
        let marker = dir.join(UNFINISHED);
        std::fs::write(&marker, format!("{}\n", std::process::id())).map_err(io(&marker))?;
        Ok(dir)
    }

    /// Takes the mark off: the folder is whole.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn end(&self, run_dir: &Path) -> Result<(), ArtifactError> {
        let marker = run_dir.join(UNFINISHED);
        std::fs::remove_file(&marker).map_err(io(&marker))
    }

    /// Removes the folder of a run that is marked as unfinished. The mark goes last, so that somebody who is killed here
    /// leaves nothing that looks like a run.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn forget(&self, run_dir: &Path) -> Result<(), ArtifactError> {
        leftovers::remove_with_last(run_dir, Some(UNFINISHED)).map_err(io(run_dir))
    }

    /// Removes what killed runners left, and names it.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn sweep(&self) -> Result<Vec<String>, ArtifactError> {
        let mut swept = Vec::new();
        for run in self.list()? {
            // An empty folder is one that its runner could not mark any more.
            let empty = std::fs::remove_dir(&run).is_ok();
            if !empty && run.join(UNFINISHED).exists() {
                self.forget(&run)?;
                swept.push(name_of(&run));
            }
        }
        Ok(swept)
    }

    /// Removes finished runs but for the newest `keep`, by the order of their ids, and names them.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn prune(&self, keep: usize) -> Result<Vec<String>, ArtifactError> {
        let finished: Vec<_> = self.list()?.into_iter().filter(|run| !run.join(UNFINISHED).exists()).collect();
        let old = &finished[..finished.len().saturating_sub(keep)];
        for run in old {
            // Half of a run is no run.
            let marker = run.join(UNFINISHED);
            std::fs::write(&marker, format!("{}\n", std::process::id())).map_err(io(&marker))?;
            self.forget(run)?;
        }
        Ok(old.iter().map(|run| name_of(run)).collect())
    }

    /// The folders of runs, sorted by id.
    fn list(&self) -> Result<Vec<PathBuf>, ArtifactError> {
        let dir = self.runs();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(&dir)(error)),
        };
        let mut runs = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io(&dir))?;
            if entry.file_type().map_err(io(&dir))?.is_dir() {
                runs.push(entry.path());
            }
        }
        runs.sort();
        Ok(runs)
    }
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
    fn what_a_killed_runner_left_is_swept_and_finished_runs_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RunLock::wait(dir.path(), "now").unwrap();
        for id in ["1", "2", "3"] {
            let run = lock.begin(id).unwrap();
            std::fs::write(run.join("events.jsonl"), "").unwrap();
            lock.end(&run).unwrap();
        }
        let killed = lock.begin("4").unwrap();
        std::fs::create_dir(killed.join("half")).unwrap();
        assert!(lock.begin("4").is_err());
        std::fs::create_dir(lock.runs().join("0")).unwrap();
        assert_eq!(lock.prune(3).unwrap(), ["0"]);
        std::fs::create_dir(lock.runs().join("5")).unwrap();
        assert_eq!(lock.prune(3).unwrap(), ["1"]);
        assert_eq!(lock.sweep().unwrap(), ["4"]);
        assert_eq!(lock.sweep().unwrap(), [""; 0]);
        assert_eq!(lock.list().unwrap().len(), 2);
    }

    #[test]
    fn a_link_in_the_folder_of_runs_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join(UNFINISHED), "").unwrap();
        let lock = RunLock::wait(dir.path(), "now").unwrap();
        std::fs::create_dir(lock.runs()).unwrap();
        std::os::unix::fs::symlink(outside.path(), lock.runs().join("link")).unwrap();
        assert_eq!(lock.sweep().unwrap(), [""; 0]);
        assert!(outside.path().join(UNFINISHED).exists());
    }
}
