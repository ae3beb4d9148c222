//! The record of a run: every event is appended to `events.jsonl`, folded into the outcome, and shown.

use crate::event::{EVENTS_VERSION, Event, EventKind, Glimpse};
use crate::outcome::Outcome;
use crate::ui::Face;
use fs_err::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// One run's record.
pub struct Recorder {
    events: Option<File>,
    next: u64,
    started: Instant,
    /// The fold of everything recorded so far.
    pub outcome: Outcome,
    /// Who is shown it.
    pub face: Face,
    /// A write of the record failed: then the run is infrastructure, since its report would not equal its events.
    failed: Option<String>,
}

impl Recorder {
    /// Opens the record of a new run in `run_dir`, which is there and empty, with its first event.
    ///
    /// # Errors
    /// Where `events.jsonl` can't be made.
    pub fn start(run_dir: &Path, face: Face, first: EventKind) -> std::io::Result<Self> {
        let events = File::create(run_dir.join("events.jsonl"))?;
        Ok(Self::with(Some(events), face, first))
    }

    /// A record that is folded and shown, and not written: a self-check that needed no cell.
    #[must_use]
    pub fn in_memory(face: Face, first: EventKind) -> Self {
        Self::with(None, face, first)
    }

    fn with(events: Option<File>, face: Face, first: EventKind) -> Self {
        let mut recorder =
            Recorder { events, next: 0, started: Instant::now(), outcome: Outcome::default(), face, failed: None };
        recorder.record(first);
        recorder
    }

    /// Appends one event.
    pub fn record(&mut self, kind: EventKind) {
        let event = Event { seq: self.next, at_ms: self.elapsed_ms(), kind };
        self.next += 1;
        let written = self.events.as_mut().map_or(Ok(()), |file| {
            let mut line = serde_json::to_vec(&event).expect("events have string keys and finite numbers");
            line.push(b'\n');
            file.write_all(&line)
        });
        if let Err(error) = written
            && self.failed.is_none()
        {
            // A torn line can't be followed by another: the record ends here.
            self.events = None;
            self.failed = Some(error.to_string());
            self.apply(&Event {
                seq: event.seq,
                at_ms: event.at_ms,
                kind: EventKind::Broken {
                    stage: "record".into(),
                    message: error.to_string(),
                    hint: "free some disk space and run again".into(),
                },
            });
        }
        self.apply(&event);
    }

    fn apply(&mut self, event: &Event) {
        self.outcome.apply(event);
        self.face.event(event, &self.outcome);
    }

    /// Shows something passing.
    pub fn glimpse(&mut self, glimpse: &Glimpse) {
        self.face.glimpse(glimpse);
    }

    /// Milliseconds since the run started.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Records a stage around a piece of work.
    pub fn stage_started(&mut self, stage: &str, detail: impl Into<String>) -> Stage {
        self.record(EventKind::StageStarted { stage: stage.to_owned(), detail: detail.into() });
        Stage { name: stage.to_owned(), since: Instant::now() }
    }

    /// Ends a stage.
    pub fn stage_finished(&mut self, stage: Stage, detail: impl Into<String>) {
        let wall_ms = u64::try_from(stage.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.record(EventKind::StageFinished { stage: stage.name, wall_ms, detail: detail.into() });
    }

    /// Records the end. The events are on disk when this returns.
    pub fn finish(&mut self) {
        let wall_ms = self.elapsed_ms();
        self.record(EventKind::RunFinished { wall_ms });
        // The report is written even where this fails; a lost record was said above.
        let _ = self.events.as_ref().map(File::sync_all);
    }
}

/// A stage that runs.
#[derive(Debug)]
pub struct Stage {
    name: String,
    since: Instant,
}

/// The version that every `RunStarted` carries.
pub const VERSION: u32 = EVENTS_VERSION;

/// Reads a record back.
///
/// # Errors
/// Where the file can't be read, or a line is no event; a last line that was cut off by a kill is left out.
pub fn read(path: &Path) -> std::io::Result<Vec<Event>> {
    let text = fs_err::read(path)?;
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    text[..whole]
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_slice(line)
                .map_err(|error| std::io::Error::other(format!("{}:{}: {error}", path.display(), i + 1)))
        })
        .collect()
}
