//! The jobs of the environment (install, project layer) in real cells.

use crate::artifacts;
use crate::cell::{self, Cell};
use crate::environment::{Job, JobEnd, JobLost, RunJob};
use crate::frame::{Frame, ToAgent};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Runs environment jobs in cells of one kind.
pub(super) struct CellJobs<'a, C> {
    cell: &'a C,
    /// Where the tars of what jobs leave are spooled.
    spool: PathBuf,
    made: usize,
    asked: Asked,
}

/// How somebody else speaks to the cell of the job that runs now.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Arc<Mutex<Option<mpsc::Sender<ToAgent>>>>);

impl Asked {
    /// Says this to the cell; to nobody where no job runs.
    pub(super) fn say(&self, message: ToAgent) {
        if let Some(cell) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // One that is gone or has enough to hear needs no telling.
            let _ = cell.try_send(message);
        }
    }

    fn set(&self, cell: Option<mpsc::Sender<ToAgent>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cell;
    }
}

/// What a job may leave: a large project with C extensions, not a disk full.
const LIMITS: artifacts::Limits = artifacts::Limits { entries: 200_000, bytes: 8 << 30 };

/// Processes and threads of a job.
const PIDS: u64 = 4096;

/// How much of a job's output is kept for messages, in bytes.
const LOG_BYTES: usize = 1 << 20;

impl<'a, C: Cell> CellJobs<'a, C> {
    pub(super) fn new(cell: &'a C, spool: PathBuf) -> Self {
        CellJobs { cell, spool, made: 0, asked: Asked::default() }
    }

    /// How to speak to its cells.
    pub(super) fn asked(&self) -> Asked {
        self.asked.clone()
    }
}

impl<C: Cell> RunJob for CellJobs<'_, C> {
    async fn run(&mut self, mut job: Job) -> Result<JobEnd, JobLost> {
        let name = job.name.clone();
        let lost = |error: &dyn std::fmt::Display| JobLost {
            message: format!("{name}: {error}"),
            unenforceable: false,
            absent: false,
        };
        self.made += 1;
        fs_err::create_dir_all(&self.spool).map_err(|error| lost(&error))?;
        let tar = self.spool.join(format!("{}.tar", self.made));
        job.manifest.artifact_entries = LIMITS.entries;
        job.manifest.artifact_bytes = LIMITS.bytes;
        // The project's build backend is code of the repository: a fork bomb in it meets the limit of any step.
        job.walls.limits.pids.get_or_insert(PIDS);
        job.manifest.pids = job.walls.limits.pids.unwrap_or(PIDS);
        let (frames, mut received) = mpsc::channel(64);
        let (control, controlled) = mpsc::channel(4);
        self.asked.set(Some(control));
        let listen = async {
            let mut log = Vec::new();
            while let Some(frame) = received.recv().await {
                if let Frame::Output { bytes, .. } = frame
                    && log.len() < LOG_BYTES
                {
                    log.extend_from_slice(&bytes.0);
                }
            }
            log
        };
        let (finished, log) =
            tokio::join!(cell::run(self.cell, &job.walls, job.manifest, &tar, controlled, frames), listen);
        self.asked.set(None);
        let finished = finished.map_err(|error| JobLost { unenforceable: error.is_unenforceable(), ..lost(&error) })?;
        let Some(ended) = finished.ended else {
            let (stage, message) = finished.broken.unwrap_or_default();
            return Err(JobLost { absent: stage == "exec", ..lost(&format!("{stage}: {message}")) });
        };
        // A job may leave gigabytes; signals are heard meanwhile.
        let into = self.spool.join(format!("{}", self.made));
        let received = tokio::task::spawn_blocking(move || artifacts::receive(&tar, &into, &LIMITS))
            .await
            .map_err(|error| lost(&error))?
            .map_err(|error| lost(&error))?;
        if let Some((path, why)) = received.refused.first() {
            return Err(lost(&format!("{path} did not come back: {why}")));
        }
        let out = self.spool.join(format!("{}/out", self.made));
        if out.is_dir() {
            move_into(&out, &job.out).map_err(|error| lost(&error))?;
        }
        Ok(JobEnd { code: ended.code, signal: ended.signal, timed_out: ended.timed_out, log })
    }
}

/// Moves the entries of one folder into another on the same file system.
fn move_into(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        fs_err::rename(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
