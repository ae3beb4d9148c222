//! One run as it is shown while it goes on, and its summary at the end.
//!
//! On a terminal: a live line per running step and stage, a line for each that is over. Elsewhere: plain lines, and a
//! sign of life after half a minute of silence, since CI services end jobs that say nothing.

use super::live::Live;
use super::patient::{Patient, Screen};
use super::{Style, paint};
use crate::code::ParityCode;
use crate::event::{Attempt, Event, EventKind, Glimpse, Verdict};
use crate::outcome::Outcome;
use crate::outcome::violation::{Destination, sentence};
use crate::report::github;
use crate::report::neutral::{neutral, one_line};
use crate::report::page::{Line, Page, Tone, count, duration};
use crate::report::text::{Detail, finding, step_line, summary_with_logs};
use indicatif::ProgressDrawTarget;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Milliseconds of silence after which a plain log says that something still runs.
const SILENCE_MS: u64 = 30_000;

/// How often live lines are drawn at most.
const DRAWN_A_SECOND: u8 = 20;

/// Milliseconds since the face was made; given in, so that tests have their own.
type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where text goes; shared by the clones of a face.
type Stream = Arc<Mutex<dyn Write + Send>>;

/// The face of one run. A clone shows on the same streams.
#[derive(Clone)]
pub struct Face {
    style: Style,
    progress: Stream,
    results: Stream,
    /// What `progress` writes to, where its reader may stand still while the run goes on.
    patient: Option<Patient>,
    live: Option<Live>,
    clock: Clock,
    /// The output of a single command is the result: it is passed on, and nothing else is said where it ran.
    passing: Option<Passing>,
    last_said: u64,
    running: Vec<Running>,
    /// Steps that ended and whose line is not said yet: their results arrive right behind their end.
    ended: Vec<String>,
    /// What was refused and is said already, by step.
    refused: BTreeSet<(String, Destination)>,
    paused_since: Option<u64>,
}

/// Output that is passed on: on a terminal line by line and neutralised, elsewhere byte for byte.
#[derive(Clone, Default)]
struct Passing {
    /// The unfinished lines of standard output and standard error.
    held: [Vec<u8>; 2],
    /// Why output could not be passed on: said once, then nothing is passed on any more.
    failed: Failed,
}

/// Whether a write failed.
#[derive(Clone, Default)]
enum Failed {
    #[default]
    No,
    /// It did, and nobody was told yet.
    New(std::io::ErrorKind, String),
    Told,
}

/// A step or stage that goes on.
#[derive(Clone)]
struct Running {
    name: String,
    stage: bool,
    since: u64,
    timeout_ms: u64,
    /// Its last words, or what a stage works on.
    detail: String,
}

impl Face {
    /// A face on this process's standard streams.
    #[must_use]
    pub fn new(style: Style) -> Face {
        let started = Instant::now();
        let patient = Patient::new(std::io::stderr());
        let screen = || ProgressDrawTarget::term_like_with_hz(Box::new(Screen(patient.clone())), DRAWN_A_SECOND);
        let live = (style.terminal && !style.quiet).then(screen);
        let face = Face::on(
            style,
            Arc::new(Mutex::new(patient.clone())),
            Arc::new(Mutex::new(std::io::stdout())),
            live,
            Arc::new(move || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)),
        );
        Face { patient: Some(patient), ..face }
    }

    /// A face for one command whose output is the result (`ft exec`).
    #[must_use]
    pub fn passing_through(style: Style) -> Face {
        let face = Face::new(style);
        // What it says is passed on as fast as it is read, and no faster.
        Face { passing: Some(Passing::default()), progress: Arc::new(Mutex::new(std::io::stderr())), ..face }
    }

    /// From now on the terminal belongs to a command: no live lines any more.
    pub fn hand_over(&mut self) {
        if let Some(mut live) = self.live.take() {
            live.clear();
        }
        self.settle();
    }

    /// Waits until all progress is told, however long its reader takes.
    fn settle(&self) {
        self.patient.iter().for_each(Patient::settle);
    }

    /// A face that says nothing: for work whose outcome somebody else tells.
    #[must_use]
    pub fn silent(style: Style) -> Face {
        let nowhere = || Arc::new(Mutex::new(std::io::sink()));
        Face::on(style, nowhere(), nowhere(), None, Arc::new(|| 0))
    }

    /// From now on says more, as `--explain` does: a lock can ask for it.
    pub fn explain(&mut self) {
        self.style.explain = !self.style.quiet;
    }

    fn on(style: Style, progress: Stream, results: Stream, live: Option<ProgressDrawTarget>, clock: Clock) -> Face {
        Face {
            style,
            progress,
            results,
            patient: None,
            live: live.map(Live::new),
            clock,
            passing: None,
            last_said: 0,
            running: Vec::new(),
            ended: Vec::new(),
            refused: BTreeSet::new(),
            paused_since: None,
        }
    }

    /// Shows what happened. `outcome` has it folded in already.
    pub fn event(&mut self, event: &Event, outcome: &Outcome) {
        if !is_result(&event.kind) {
            self.say_ended(outcome);
        }
        match &event.kind {
            EventKind::StageStarted { stage, detail } => {
                let line = format!("{stage}: {detail}");
                self.begin(stage, true, 0, detail);
                if self.live.is_none() {
                    self.say(&Line::new(Tone::Dim, line));
                }
            }
            EventKind::StageFinished { stage, wall_ms, detail } => {
                self.over(stage);
                self.say(&Line::new(Tone::Dim, format!("{stage} {}: {detail}", duration(*wall_ms))));
            }
            EventKind::StepStarted { step, .. } => {
                let timeout = outcome.step(step).map_or(0, |(step, _)| step.timeout_ms);
                if self.passing.is_some() {
                    // From here on the lines of the terminal belong to the command.
                    self.live = None;
                    self.settle();
                }
                self.begin(step, false, timeout, "");
                if self.live.is_none() {
                    self.say(&Line::new(Tone::Plain, format!("RUN  {step}")));
                }
            }
            EventKind::StepTerminating { step, after_ms, kill } => {
                let (signal, why) = if *kill { ("SIGKILL", "did not end") } else { ("SIGTERM", "is asked to end") };
                let after = duration(*after_ms);
                self.say(&Line::new(Tone::Warn, format!("{step} {why} after {after}: {signal}")));
            }
            EventKind::StepEnded { step, .. } => {
                self.pass_on_rest();
                self.over(step);
                self.ended.push(step.clone());
            }
            EventKind::StepSkipped { step, .. } => self.ended.push(step.clone()),
            EventKind::NetworkAttempted { step, attempt } => self.attempted(step, attempt),
            EventKind::Paused { paused } => self.pause(*paused),
            EventKind::Interrupted { signal } => {
                let steps = self.running.iter().filter(|r| !r.stage).count();
                let text = format!("{signal}: ending {}; once more ends it at once", count(steps, "running step"));
                self.say(&Line::new(Tone::Warn, text));
            }
            EventKind::Broken { stage, .. } => self.over(stage),
            EventKind::RunFinished { .. } => {
                self.running.clear();
                if let Some(live) = &mut self.live {
                    live.clear();
                }
            }
            _ => {}
        }
    }

    /// Shows something passing.
    pub fn glimpse(&mut self, glimpse: &Glimpse) {
        if let (Some(_), Glimpse::Output { stream, bytes, .. }) = (&self.passing, glimpse) {
            return self.pass_on(*stream, bytes);
        }
        if self.live.is_none() && !matches!(glimpse, Glimpse::Progress { .. }) {
            return;
        }
        let now = (self.clock)();
        match glimpse {
            Glimpse::Output { step, bytes, .. } => {
                let last = last_line(bytes);
                if let Some(running) = self.running.iter_mut().find(|r| r.name == *step)
                    && !last.is_empty()
                {
                    running.detail = last;
                }
            }
            Glimpse::Progress { stage, detail, done, total } => {
                let Some(running) = self.running.iter_mut().find(|r| r.name == *stage) else { return };
                running.detail = one_line(detail);
                if let Some(live) = &mut self.live {
                    let text = format!("{} {}", running.words(now), running.detail);
                    if *total > 0 {
                        live.measure(stage, text, *done, *total);
                    } else {
                        live.show(stage, text);
                    }
                }
            }
        }
    }

    /// Time has passed: moves the live lines on, or gives a sign of life. To be called a few times a second.
    pub fn tick(&mut self, outcome: &Outcome) {
        self.say_ended(outcome);
        let now = (self.clock)();
        if self.paused_since.is_some() || self.style.quiet || (self.passing.is_some() && self.live.is_none()) {
            return;
        }
        if let Some(live) = &mut self.live {
            for running in self.running.iter().filter(|r| !r.stage) {
                live.show(&running.name, running.line(now));
            }
        } else if now.saturating_sub(self.last_said) >= SILENCE_MS && !self.running.is_empty() {
            let names: Vec<String> = self.running.iter().map(|running| running.words(now)).collect();
            self.say(&Line::new(Tone::Dim, format!("still running: {}", names.join(", "))));
        }
    }

    /// Shows the summary as a result. `tails` holds the last lines of the output of steps, by step id; their logs are in
    /// `logs/` of `run_dir`.
    pub fn finish(&mut self, outcome: &Outcome, tails: &BTreeMap<String, String>, run_dir: &Path) {
        self.say_ended(outcome);
        if let Some(live) = &mut self.live {
            live.clear();
        }
        // Nothing waits for this process any more: the steps are over and the report is written.
        self.settle();
        let said = match &self.live {
            Some(_) => self.style.results_on_terminal,
            None => self.style.one_stream && !self.style.quiet,
        };
        let shown = said && !self.style.json;
        let detail = Detail { steps: !shown, quiet: self.style.quiet, explain: self.style.explain };
        let logs = run_dir.strip_prefix(&outcome.repository).unwrap_or(run_dir).join("logs");
        if self.passing.is_some() {
            self.pass_on_rest();
            let page = if ran_to_its_end(outcome) || unread(outcome) {
                // Its own status is the result; what it tried stands beside it.
                let mut page = Page::default();
                let violations = outcome.findings().into_iter().filter(|f| f.code == ParityCode::NETWORK_VIOLATED);
                violations.for_each(|violation| page.lines.extend(finding(&violation).lines));
                page
            } else {
                summary_with_logs(outcome, &BTreeMap::new(), detail, &logs.to_string_lossy())
            };
            put(&self.progress, &paint::page(&page, self.style.colour));
            return;
        }
        let (to, colour) = if self.style.json {
            (&self.progress, self.style.colour)
        } else {
            (&self.results, self.style.results_colour)
        };
        let text = if self.style.github && !self.style.json {
            github::log(outcome, tails, detail)
        } else {
            paint::page(&summary_with_logs(outcome, tails, detail, &logs.to_string_lossy()), colour)
        };
        put(to, &text);
    }

    /// Passes a command's output on.
    fn pass_on(&mut self, stream: u8, bytes: &[u8]) {
        let Some(passing) = &mut self.passing else { return };
        let (to, terminal, colour, at) = if stream == 2 {
            (&self.progress, self.style.terminal, self.style.colour, 1)
        } else {
            (&self.results, self.style.results_on_terminal, self.style.results_colour, 0)
        };
        if !matches!(passing.failed, Failed::No) {
            return;
        }
        let Passing { held: held_lines, failed: why } = passing;
        let mut failed = |result: std::io::Result<()>| {
            if let Err(error) = result {
                *why = Failed::New(error.kind(), error.to_string());
            }
        };
        if !terminal {
            return failed(try_put(to, bytes));
        }
        let held = &mut held_lines[at];
        held.extend_from_slice(bytes);
        // A line can't grow without end; one that long is no text for a terminal.
        const LONGEST: usize = 64 << 10;
        let end = held.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let end = if held.len() > LONGEST { held.len() } else { end };
        let lines: Vec<u8> = held.drain(..end).collect();
        failed(try_put(to, neutral(&String::from_utf8_lossy(&lines), colour).as_bytes()));
    }

    /// Why the output of the command can't be passed on, once.
    pub fn unheard(&mut self) -> Option<(std::io::ErrorKind, String)> {
        let failed = &mut self.passing.as_mut()?.failed;
        match std::mem::replace(failed, Failed::Told) {
            Failed::New(kind, message) => Some((kind, message)),
            other => {
                *failed = other;
                None
            }
        }
    }

    /// Passes on lines that never ended.
    fn pass_on_rest(&mut self) {
        let Some(passing) = &mut self.passing else { return };
        for (held, to) in passing.held.iter_mut().zip([&self.results, &self.progress]) {
            put(to, &neutral(&String::from_utf8_lossy(&std::mem::take(held)), false));
        }
    }

    fn begin(&mut self, name: &str, stage: bool, timeout_ms: u64, detail: &str) {
        let now = (self.clock)();
        let running = Running { name: name.to_owned(), stage, since: now, timeout_ms, detail: one_line(detail) };
        if let Some(live) = &mut self.live {
            live.show(name, running.line(now));
        }
        self.running.push(running);
    }

    fn over(&mut self, name: &str) {
        self.running.retain(|running| running.name != name);
        if let Some(live) = &mut self.live {
            live.remove(name);
        }
    }

    /// Time that stood still does not count.
    fn pause(&mut self, paused: bool) {
        let now = (self.clock)();
        match (paused, self.paused_since.take()) {
            (true, since) => {
                self.paused_since = since.or(Some(now));
                self.say(&Line::new(Tone::Warn, "paused: all steps and their timers stand still"));
            }
            (false, Some(since)) => {
                for running in &mut self.running {
                    running.since += now - since;
                }
                self.say(&Line::new(Tone::Dim, "going on"));
            }
            (false, None) => {}
        }
    }

    /// A violation is said when it happens, once for each destination of a step; a flood is counted at the end.
    fn attempted(&mut self, step: &str, attempt: &Attempt) {
        const MOST: usize = 20;
        let first = attempt.verdict == Verdict::Denied
            && self.refused.len() < MOST
            && self.refused.insert((step.to_owned(), Destination::of(attempt)));
        // A command of one's own has the stream to itself; what it tried is told behind its output.
        if first {
            let line = Line::new(Tone::Bad, "REFUSED").and(Tone::Plain, format!(" {step}: {}", sentence(attempt)));
            self.say(&line);
        }
    }

    fn say_ended(&mut self, outcome: &Outcome) {
        if self.ended.is_empty() {
            return;
        }
        let findings = outcome.findings();
        for id in std::mem::take(&mut self.ended) {
            if let Some((step, result)) = outcome.step(&id) {
                self.say(&step_line(outcome, &findings, step, result));
            }
        }
    }

    fn say(&mut self, line: &Line) {
        if self.style.quiet || self.passing.is_some() {
            return;
        }
        self.last_said = (self.clock)();
        let text = paint::line(line, self.style.colour);
        match &self.live {
            Some(live) => live.say(&text),
            None => put(&self.progress, &(text + "\n")),
        }
    }
}

fn put(stream: &Stream, text: &str) {
    put_bytes(stream, text.as_bytes());
}

fn put_bytes(stream: &Stream, bytes: &[u8]) {
    // Of what is only told, whether anybody hears it is nobody's business.
    let _ = try_put(stream, bytes);
}

fn try_put(stream: &Stream, bytes: &[u8]) -> std::io::Result<()> {
    // A panic elsewhere while text was written leaves nothing that later text could trip over.
    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
    stream.write_all(bytes).and_then(|()| stream.flush())
}

/// Whether nobody read the output any more: then it ends as in a shell, without a word.
fn unread(outcome: &Outcome) -> bool {
    outcome.interrupted.as_deref() == Some("SIGPIPE") && outcome.broken.is_empty() && outcome.bug.is_none()
}

/// Whether the command of an exec ended by itself, so that its own status and output say everything.
fn ran_to_its_end(outcome: &Outcome) -> bool {
    let end = outcome.steps.first().and_then(|step| step.end.as_ref());
    let whole = outcome.bug.is_none() && outcome.broken.is_empty() && outcome.interrupted.is_none();
    whole && end.is_some_and(|end| !end.timed_out && !end.out_of_memory)
}

impl std::fmt::Debug for Face {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Face").field("style", &self.style).finish_non_exhaustive()
    }
}

impl Running {
    /// `pytest 61 s of 900 s`.
    fn words(&self, now: u64) -> String {
        let elapsed = now.saturating_sub(self.since) / 1000;
        match self.timeout_ms {
            0 => format!("{} {elapsed} s", self.name),
            timeout => format!("{} {elapsed} s of {} s", self.name, timeout / 1000),
        }
    }

    fn line(&self, now: u64) -> String {
        format!("RUN  {}  {}", self.words(now), self.detail).trim_end().to_owned()
    }
}

/// What comes behind a step's end and belongs to it.
fn is_result(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::StepEnded { .. }
            | EventKind::TestsReported { .. }
            | EventKind::CoverageMeasured { .. }
            | EventKind::IssuesReported { .. }
            | EventKind::ResultMissing { .. }
            | EventKind::ArtifactReceived { .. }
            | EventKind::ArtifactRefused { .. }
            | EventKind::NetworkAttempted { .. }
            | EventKind::NetworkRepeated { .. }
            | EventKind::NetworkUnlisted { .. }
    )
}

/// The last line of this output that says something.
fn last_line(bytes: &[u8]) -> String {
    const ENOUGH: usize = 2048;
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(ENOUGH)..]);
    let text = neutral(&text, false);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    last.replace('\t', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::StepEnd;
    use crate::report::sample;
    use crate::step::{Gate, Reader};
    use indicatif::InMemoryTerm;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A stream that a test can read.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// A stream whose reader is gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }

    struct Stage {
        face: Face,
        progress: Page,
        results: Page,
        now: Arc<AtomicU64>,
        outcome: Outcome,
    }

    const PLAIN: Style = Style {
        terminal: false,
        results_on_terminal: false,
        one_stream: false,
        colour: false,
        results_colour: false,
        quiet: false,
        explain: false,
        github: false,
        json: false,
    };

    impl Stage {
        fn new(style: Style, term: Option<&InMemoryTerm>) -> Stage {
            let (progress, results, now) = (Page::default(), Page::default(), Arc::<AtomicU64>::default());
            let clock = Arc::clone(&now);
            let face = Face::on(
                style,
                Arc::new(Mutex::new(progress.clone())),
                Arc::new(Mutex::new(results.clone())),
                term.map(|term| ProgressDrawTarget::term_like(Box::new(term.clone()))),
                Arc::new(move || clock.load(Ordering::Relaxed)),
            );
            Stage { face, progress, results, now, outcome: Outcome::default() }
        }

        fn play(&mut self, events: &[Event]) {
            for event in events {
                self.now.store(event.at_ms, Ordering::Relaxed);
                self.outcome.apply(event);
                self.face.event(event, &self.outcome);
            }
        }

        fn tick(&mut self, now: u64) {
            self.now.store(now, Ordering::Relaxed);
            self.face.tick(&self.outcome);
        }
    }

    fn tails() -> BTreeMap<String, String> {
        [("pytest".to_owned(), "1 failed\n".to_owned())].into()
    }

    fn run_dir() -> &'static Path {
        Path::new("/home/dev/shop/.firsttry/runs/7")
    }

    #[test]
    fn a_log_without_a_terminal_reads_so() {
        let mut stage = Stage::new(PLAIN, None);
        stage.play(&sample::failed_events());
        stage.face.finish(&stage.outcome, &tails(), run_dir());
        insta::assert_snapshot!(stage.progress.text());
        assert!(stage.results.text().ends_with("(exit 251)\n"));
    }

    #[test]
    fn half_a_minute_of_silence_gets_a_sign_of_life_and_a_busy_log_none() {
        let mut stage = Stage::new(PLAIN, None);
        let mut kinds = sample::before();
        kinds.extend([sample::started("ruff"), sample::started("pytest")]);
        stage.play(&sample::events(kinds));
        let said = stage.progress.text().len();
        for second in 1..61 {
            stage.tick(700 + second * 1000);
        }
        assert_eq!(
            &stage.progress.text()[said..],
            "still running: ruff 30 s of 900 s, pytest 30 s of 900 s\nstill running: ruff 60 s of 900 s, pytest 60 s of 900 s\n"
        );
    }

    #[test]
    fn quiet_shows_no_progress_at_all() {
        let mut stage = Stage::new(Style { quiet: true, ..PLAIN }, None);
        stage.play(&sample::passed_events());
        stage.tick(100_000);
        stage.face.finish(&stage.outcome, &tails(), run_dir());
        assert_eq!(stage.progress.text(), "");
        assert_eq!(stage.results.text(), "passed: 4 checks, 4 tests, 12.3 s\n");
    }

    #[test]
    fn a_terminal_has_live_lines_and_keeps_one_for_each_step() {
        let term = InMemoryTerm::new(20, 70);
        let style = Style { terminal: true, results_on_terminal: true, ..PLAIN };
        let mut stage = Stage::new(style, Some(&term));
        let events = sample::failed_events();
        let started =
            events.iter().position(|e| matches!(e.kind, EventKind::StepStarted { ref step, .. } if step == "pytest"));
        let (before, after) = events.split_at(started.unwrap() + 1);
        stage.play(before);
        stage.face.glimpse(&Glimpse::Output {
            step: "pytest".into(),
            stream: 1,
            bytes: b"tests/test_a.py \x1b[32m.\x1b[0m\r\x1b[2Ktests/test_b.py ..\x1b]52;c;eA==\x07\n\n".to_vec(),
        });
        stage.tick(61_000);
        insta::assert_snapshot!("while_it_runs", term.contents());
        stage.play(after);
        stage.face.finish(&stage.outcome, &tails(), run_dir());
        insta::assert_snapshot!("when_it_is_over", term.contents());
        // The steps were shown live; the summary does not say them again.
        assert!(!stage.results.text().contains("PASS ruff"));
    }

    #[test]
    fn a_stage_shows_how_far_it_is() {
        let term = InMemoryTerm::new(10, 60);
        let mut stage = Stage::new(Style { terminal: true, ..PLAIN }, Some(&term));
        stage.play(&sample::events([
            sample::start("parity"),
            EventKind::StageStarted { stage: "environment".into(), detail: "42 packages".into() },
        ]));
        stage.face.glimpse(&Glimpse::Progress {
            stage: "environment".into(),
            detail: "downloading numpy".into(),
            done: 21,
            total: 42,
        });
        assert_eq!(term.contents(), "###########--------- environment 0 s downloading numpy");
    }

    #[test]
    fn time_that_stood_still_does_not_count() {
        let term = InMemoryTerm::new(10, 60);
        let mut stage = Stage::new(Style { terminal: true, ..PLAIN }, Some(&term));
        let mut kinds = sample::before();
        kinds.push(sample::started("ruff"));
        kinds.push(EventKind::Paused { paused: true });
        stage.play(&sample::events(kinds));
        let mut resumed = sample::events([EventKind::Paused { paused: false }]);
        resumed[0].at_ms = 100_000;
        stage.play(&resumed);
        stage.tick(105_000);
        assert!(term.contents().contains("RUN  ruff 5 s of 900 s"), "{}", term.contents());
    }

    #[test]
    fn a_closed_pipe_is_no_reason_to_panic() {
        let mut face =
            Face::on(PLAIN, Arc::new(Mutex::new(Closed)), Arc::new(Mutex::new(Closed)), None, Arc::new(|| 0));
        let mut outcome = Outcome::default();
        for event in sample::failed_events() {
            outcome.apply(&event);
            face.event(&event, &outcome);
        }
        face.tick(&outcome);
        face.finish(&outcome, &tails(), run_dir());
    }

    /// Events of `ft exec` up to its end.
    fn exec(end: StepEnd) -> Vec<Event> {
        let mut plan = sample::plan();
        plan.steps = vec![sample::step("exec", Gate::Prepare, Reader::Plain)];
        sample::events([
            sample::start("exec"),
            EventKind::StageStarted { stage: "snapshot".into(), detail: "the worktree".into() },
            EventKind::StageFinished { stage: "snapshot".into(), wall_ms: 31, detail: "630 files".into() },
            EventKind::Planned { plan: Box::new(plan) },
            sample::started("exec"),
            EventKind::StepEnded { step: "exec".into(), end },
            EventKind::RunFinished { wall_ms: 1000 },
        ])
    }

    fn passing(style: Style, output: &[&[u8]], end: StepEnd) -> (String, Vec<u8>) {
        let mut stage = Stage::new(style, None);
        stage.face.passing = Some(Passing::default());
        let events = exec(end);
        stage.play(&events[..5]);
        for bytes in output {
            stage.face.glimpse(&Glimpse::Output { step: "exec".into(), stream: 1, bytes: bytes.to_vec() });
        }
        stage.play(&events[5..]);
        stage.tick(60_000);
        stage.face.finish(&stage.outcome, &BTreeMap::new(), run_dir());
        let results = stage.results.0.lock().unwrap().clone();
        (stage.progress.text(), results)
    }

    #[test]
    fn a_command_passes_its_bytes_through_a_pipe_and_nothing_else_is_said() {
        let end = StepEnd { code: Some(3), ..StepEnd::default() };
        let (progress, results) = passing(PLAIN, &[b"a\xff\x1b[2J", b"b"], end);
        assert_eq!(progress, "");
        assert_eq!(results, b"a\xff\x1b[2Jb");
    }

    #[test]
    fn a_terminal_is_not_at_the_mercy_of_a_command() {
        let style = Style { results_on_terminal: true, results_colour: true, ..PLAIN };
        let end = StepEnd { code: Some(0), ..StepEnd::default() };
        let (_, results) = passing(style, &[b"\x1b[31mr\xc3", b"\xa9d\x1b[0m\x1b]52;c;", b"eA==\x07\nrest"], end);
        assert_eq!(String::from_utf8(results).unwrap(), "\u{1b}[31mr\u{e9}d\u{1b}[0m\n\u{1b}[0mrest");
    }

    #[test]
    fn a_command_that_did_not_end_by_itself_is_explained() {
        let end = StepEnd { signal: Some(15), timed_out: true, ..StepEnd::default() };
        let (progress, _) = passing(PLAIN, &[], end);
        assert!(progress.contains("PARITY-222"), "{progress}");
    }

    #[test]
    fn where_standard_output_carries_json_the_summary_goes_beside_it() {
        let mut stage = Stage::new(Style { json: true, ..PLAIN }, None);
        stage.play(&sample::passed_events());
        stage.face.finish(&stage.outcome, &tails(), run_dir());
        assert_eq!(stage.results.text(), "");
        assert!(stage.progress.text().ends_with("passed: 4 checks, 4 tests, 12.3 s\n"));
    }
}
