//! One step from walls to events: raises its cell, keeps its log, receives what it left, reads its results.

use super::World;
use crate::artifacts;
use crate::cell::{self, Cell, CellError, Leaving, Mount, Walls, Work};
use crate::code::ParityCode;
use crate::escape::escaped;
use crate::event::{Attempt, EventKind, Glimpse, StepEnd, Verdict, Wall};
use crate::finding::Finding;
use crate::frame::{self, Ended, Frame, Manifest, Observed, Policy, ToAgent};
use crate::lock::CellKind;
use crate::lock::host::HostPort;
use crate::results::bandit::SecurityReport;
use crate::results::coverage::Coverage;
use crate::results::pytest::TestReport;
use crate::step::{Network, Reader, Step};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// What a running step tells the session.
#[derive(Debug)]
pub(super) enum Note {
    /// To be recorded.
    Event(EventKind),
    /// To be shown.
    Glimpse(Glimpse),
    /// The cell of this step stands still.
    Paused(String),
}

/// What came of a step.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) events: Vec<EventKind>,
    /// Its cell, where there was one to the end and something may be left of it.
    pub(super) leaving: Option<Leaving>,
}

/// The largest side result that is read, in bytes: it goes into memory, the record and the report.
const LARGEST_RESULT: u64 = 64 << 20;

/// How many entries and bytes a step may leave, and how long bringing them back may take.
const ARTIFACT_ENTRIES: u64 = 20_000;
const ARTIFACT_BYTES: u64 = 1 << 30;
const ARTIFACT_MS: u64 = 60_000;

/// The walls of one step. `changes` are those of the steps that it needs, the latest first.
fn walls(
    world: &World,
    step: &Step,
    changes: Vec<PathBuf>,
    dist: Option<PathBuf>,
    keep: bool,
    scratch: PathBuf,
) -> Walls {
    let mount = |host: &Path, cell: &str| Mount { host: host.to_owned(), cell: cell.to_owned(), writable: false };
    let mut mounts = vec![mount(&world.lib, "/ft/lib")];
    mounts.extend(world.env.as_deref().map(|env| mount(env, "/ft/env")));
    if step.project {
        mounts.extend(world.project.as_deref().map(|project| mount(project, "/ft/project")));
    }
    mounts.extend(dist.as_deref().map(|dist| mount(dist, "/ft/dist")));
    let work = if step.tree {
        let mut lowers = changes;
        lowers.extend(world.trees.iter().cloned());
        Work::View(lowers)
    } else {
        Work::Empty
    };
    Walls {
        work,
        mounts,
        interpreter: world.interpreter.clone(),
        network: step.network.clone(),
        limits: step.limits.clone(),
        keep,
        scratch,
    }
}

fn manifest(step: &Step, terminal: bool) -> Manifest {
    let cwd = if step.cwd.as_str().is_empty() { "/ft/work".to_owned() } else { format!("/ft/work/{}", step.cwd) };
    let bytes = |limit: Option<u64>| limit.unwrap_or(0);
    Manifest {
        argv: step.argv.clone(),
        env: step.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        cwd,
        timeout_ms: step.timeout_ms,
        grace_ms: step.grace_ms,
        output_bytes: bytes(step.limits.output_bytes),
        memory_bytes: bytes(step.limits.memory_bytes),
        pids: bytes(step.limits.pids),
        file_bytes: bytes(step.limits.disk_bytes),
        collect: step.collect.clone(),
        artifact_entries: ARTIFACT_ENTRIES,
        artifact_bytes: ARTIFACT_BYTES,
        artifact_ms: ARTIFACT_MS,
        passthrough: terminal,
        network: policy(&step.network, &step.deny_quietly),
    }
}

/// What the witness must know of the policy. Entries were checked when the lock was read.
fn policy(network: &Network, quiet: &[String]) -> Policy {
    let entries =
        |list: &[String]| list.iter().filter_map(|text| HostPort::parse(text).ok()).map(|host| host.entry()).collect();
    let (mode, allowed) = match network {
        Network::Loopback => (Policy::NOWHERE, Vec::new()),
        Network::Allow(hosts) => (Policy::LISTED, entries(hosts)),
        Network::Open => (Policy::EVERYWHERE, Vec::new()),
    };
    Policy { mode, allowed, quiet: entries(quiet) }
}

/// What is kept of an attempt: more than the agent sends, so that a stream that is not the agent's has an end too.
const CHARACTERS: usize = 4096;
const PARENTS: usize = 16;

/// The agent escapes what the step chose; here it is done again, so that no event depends on it.
fn attempt(seen: frame::Attempt) -> Attempt {
    let text = |text: &str| escaped(text, CHARACTERS);
    Attempt {
        id: seen.id,
        at_ms: seen.at_ms,
        verdict: match seen.verdict {
            frame::Verdict::Denied => Verdict::Denied,
            frame::Verdict::Quiet => Verdict::Quiet,
            frame::Verdict::Note => Verdict::Note,
            frame::Verdict::Allowed => Verdict::Allowed,
        },
        pid: seen.pid,
        process: text(&seen.process),
        parents: seen.parents.iter().take(PARENTS).map(|parent| text(parent)).collect(),
        call: text(&seen.call),
        protocol: text(&seen.protocol),
        address: text(&seen.address),
        port: seen.port,
        name: text(&seen.name),
        test: text(&seen.test),
        why: text(&seen.why),
        count: 1,
    }
}

/// Runs one step to its end. Never fails: what goes wrong is an event. With `keep` later steps need what it changes.
pub(super) async fn perform<C: Cell>(
    cell: &C,
    world: &World,
    step: &Step,
    keep: bool,
    control: mpsc::Receiver<ToAgent>,
    notes: mpsc::Sender<Note>,
) -> Over {
    let mut leaving = None;
    let events = match lead(cell, world, step, keep, control, &notes, &mut leaving).await {
        Ok(events) => events,
        Err(error) => vec![gone_wrong(step, &error)],
    };
    if cell.kind() == CellKind::Here
        && let Some(cell) = leaving.take()
    {
        // Nothing but its own sweep keeps what is left of it from the next one.
        cell.gone().await;
    }
    Over { events, leaving }
}

/// A wall that can't be raised is PARITY-052, a panic of the agent is a defect of ours, the rest is infrastructure.
fn gone_wrong(step: &Step, error: &StepError) -> EventKind {
    match error {
        StepError::Cell(CellError::Panicked(message)) => {
            return EventKind::Bug { message: format!("the agent of {}: {message}", step.id) };
        }
        StepError::Cell(cell) if cell.is_unenforceable() => {
            let finding = Finding::new(ParityCode::POLICY_UNENFORCEABLE, &step.id, cell.to_string());
            return EventKind::Found { finding };
        }
        _ => {}
    }
    EventKind::Broken {
        stage: step.id.clone(),
        message: error.to_string(),
        hint: "this says nothing about the code; run again, and report it if it stays".to_owned(),
    }
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Cell(#[from] CellError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{stage}: {message}")]
    Agent { stage: String, message: String },
    #[error("artifacts: {0}")]
    Artifacts(#[from] artifacts::ArtifactError),
}

async fn lead<C: Cell>(
    cell: &C,
    world: &World,
    step: &Step,
    keep: bool,
    control: mpsc::Receiver<ToAgent>,
    notes: &mpsc::Sender<Note>,
    leaving: &mut Option<Leaving>,
) -> Result<Vec<EventKind>, StepError> {
    let scratch = world.scratch(&step.id);
    fs_err::create_dir_all(&scratch)?;
    let changed = |need: &String| {
        let at = |name| world.scratch(need).join(name);
        [at(cell::CHANGES_TAR), at(cell::CHANGES)].into_iter().find(|layer| layer.exists())
    };
    let changes = step.needs.iter().rev().filter_map(changed).collect();
    let dist = step.needs.iter().map(|need| world.left(need).join("out/dist")).find(|dir| dir.is_dir());
    let walls = walls(world, step, changes, dist, keep, scratch);
    let tar = world.scratch(&step.id).join("artifacts.tar");

    let (frames, mut received) = mpsc::channel(64);
    let log_path = world.log(&step.id);
    let path = log_path.clone();
    // Owns its end of the channel: where the log can't be written it is dropped, and the cell is given up.
    let listen = async move {
        let mut log = Log::create(&path)?;
        let mut observed = Vec::new();
        while let Some(frame) = received.recv().await {
            match frame {
                Frame::Ready { observed: seen } => observed = seen,
                Frame::Started { .. } => {
                    let enforcement = observed.drain(..).map(wall).collect();
                    note(notes, Note::Event(EventKind::StepStarted { step: step.id.clone(), enforcement })).await;
                }
                Frame::Output { stream, bytes } => {
                    log.write(&bytes.0)?;
                    note(notes, Note::Glimpse(Glimpse::Output { step: step.id.clone(), stream, bytes: bytes.0 })).await;
                }
                Frame::Paused { paused: true } => note(notes, Note::Paused(step.id.clone())).await,
                Frame::Terminating { after_ms } => {
                    let kind = EventKind::StepTerminating { step: step.id.clone(), after_ms, kill: false };
                    note(notes, Note::Event(kind)).await;
                }
                Frame::Killing {} => {
                    let kind = EventKind::StepTerminating { step: step.id.clone(), after_ms: 0, kill: true };
                    note(notes, Note::Event(kind)).await;
                }
                Frame::Attempt { attempt: seen } => {
                    let kind = EventKind::NetworkAttempted { step: step.id.clone(), attempt: Box::new(attempt(seen)) };
                    note(notes, Note::Event(kind)).await;
                }
                Frame::Repeated { id, count } => {
                    note(notes, Note::Event(EventKind::NetworkRepeated { step: step.id.clone(), id, count })).await;
                }
                Frame::Unlisted { count } => {
                    note(notes, Note::Event(EventKind::NetworkUnlisted { step: step.id.clone(), count })).await;
                }
                _ => {}
            }
        }
        log.finish()
    };
    let (talked, log) =
        tokio::join!(cell::talk(cell, &walls, manifest(step, world.terminal), &tar, control, frames), listen);
    let finished = talked.map(|(finished, cell)| {
        *leaving = Some(cell);
        finished
    });
    let (output_sha256, finished) = (log?, finished?);

    let Some(ended) = finished.ended else {
        let (stage, message) =
            finished.broken.unwrap_or_else(|| ("agent".into(), "the step ended without a word".into()));
        // A command that is not there is the lock's business, not infrastructure: it ends as a shell would end it.
        if stage == "exec" {
            let mut end = StepEnd { code: Some(127), output_sha256, ..StepEnd::default() };
            end.survivors = Vec::new();
            let said = format!("ft: {message}\n");
            Log::append(&log_path, &said)?;
            let said = Glimpse::Output { step: step.id.clone(), stream: 2, bytes: said.into_bytes() };
            note(notes, Note::Glimpse(said)).await;
            return Ok(vec![EventKind::StepEnded { step: step.id.clone(), end }]);
        }
        return Err(StepError::Agent { stage, message });
    };
    let mut events = vec![EventKind::StepEnded { step: step.id.clone(), end: step_end(ended, output_sha256) }];
    events.extend(finished.refused.into_iter().map(|(path, why)| EventKind::ArtifactRefused {
        step: step.id.clone(),
        path: relative(path),
        why,
    }));
    events.extend(receive(world, step, &tar).await?);
    Ok(events)
}

/// A path of what came back, relative to the repository where it is one of the tree.
fn relative(path: String) -> String {
    path.strip_prefix("work/").map(str::to_owned).unwrap_or(path)
}

async fn note(notes: &mpsc::Sender<Note>, note: Note) {
    // The session listens until every step is over; if it is gone, nobody is left to be told.
    let _ = notes.send(note).await;
}

fn wall(observed: Observed) -> Wall {
    Wall { wall: observed.wall, enforced: observed.enforced, mechanism: observed.mechanism, detail: observed.detail }
}

fn step_end(ended: Ended, output_sha256: String) -> StepEnd {
    let exited = ended.signal == 0;
    StepEnd {
        code: exited.then_some(ended.code),
        signal: (!exited).then_some(ended.signal),
        timed_out: ended.timed_out,
        killed: ended.killed,
        cancelled: ended.cancelled,
        out_of_memory: ended.out_of_memory,
        out_of_disk: ended.out_of_disk,
        wall_ms: ended.wall_ms,
        cpu_ms: ended.user_ms + ended.system_ms,
        peak_bytes: ended.peak_bytes,
        output_bytes: ended.output_total,
        output_dropped: ended.output_dropped,
        output_sha256,
        survivors: ended.survivors,
    }
}

/// Unpacks what came back and reads the side results.
async fn receive(world: &World, step: &Step, tar: &Path) -> Result<Vec<EventKind>, StepError> {
    let (tar, into, limits) =
        (tar.to_owned(), world.left(&step.id), artifacts::Limits { entries: ARTIFACT_ENTRIES, bytes: ARTIFACT_BYTES });
    let root = into.clone();
    let received = tokio::task::spawn_blocking(move || artifacts::receive(&tar, &into, &limits))
        .await
        .map_err(std::io::Error::other)??;
    let id = || step.id.clone();
    let mut events = Vec::new();
    for (path, why) in received.refused {
        events.push(EventKind::ArtifactRefused { step: id(), path: relative(path), why });
    }
    for file in &received.files {
        if let Some(path) = file.path.strip_prefix("work/") {
            events.push(EventKind::ArtifactReceived {
                step: id(),
                path: path.to_owned(),
                bytes: file.bytes,
                sha256: file.sha256.clone(),
            });
        }
    }
    events.extend(read_results(step, &root));
    Ok(events)
}

/// The side results that this step's reader wants.
fn read_results(step: &Step, left: &Path) -> Option<EventKind> {
    let id = || step.id.clone();
    let read = |path: &str| match std::fs::metadata(left.join(path)) {
        Ok(meta) if meta.len() > LARGEST_RESULT => {
            Err(format!("{path} has {} MiB, and at most {} are read", meta.len() >> 20, LARGEST_RESULT >> 20))
        }
        _ => fs_err::read(left.join(path)).map_err(|_| format!("{path} was not written")),
    };
    let (wanted, event) = match &step.reader {
        Reader::Plain => return None,
        Reader::Pytest | Reader::Collection => {
            let report = read("out/pytest.json").and_then(|b| TestReport::parse(&b).map_err(|e| e.to_string()));
            (
                "the tests' results",
                report.map(|report| EventKind::TestsReported { step: id(), report: Box::new(report) }),
            )
        }
        Reader::Coverage => {
            let coverage = read("out/coverage.json").and_then(|b| Coverage::parse(&b).map_err(|e| e.to_string()));
            ("coverage", coverage.map(|coverage| EventKind::CoverageMeasured { step: id(), coverage }))
        }
        Reader::Bandit(path) => {
            let path = path.strip_prefix("/ft/").map_or_else(|| format!("work/{path}"), str::to_owned);
            let report = read(&path).and_then(|b| SecurityReport::parse(&b).map_err(|e| e.to_string()));
            ("bandit's report", report.map(|report| EventKind::IssuesReported { step: id(), report }))
        }
    };
    Some(event.unwrap_or_else(|why| EventKind::ResultMissing { step: id(), reason: format!("{wanted}: {why}") }))
}

/// A step's log, and the digest of what is in it.
struct Log {
    file: std::io::BufWriter<fs_err::File>,
    digest: Sha256,
}

impl Log {
    fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Log { file: std::io::BufWriter::new(fs_err::File::create(path)?), digest: Sha256::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.digest.update(bytes);
        self.file.write_all(bytes)
    }

    fn finish(mut self) -> std::io::Result<String> {
        self.file.flush()?;
        Ok(hex::encode(self.digest.finalize()))
    }

    fn append(path: &Path, text: &str) -> std::io::Result<()> {
        fs_err::OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
    }
}
