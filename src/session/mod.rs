//! The one `select!`: performs what [`crate::run`] decides, and records what happens. It decides nothing itself.

mod departures;
pub mod recorder;
mod step;

pub use departures::Departures;

use crate::cell::Cell;
use crate::frame::ToAgent;
use crate::plan::Plan;
use crate::run::{Action, Input, Run, Signal};
use futures_util::stream::{FuturesUnordered, StreamExt};
use recorder::Recorder;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use step::Note;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What the cells of one run are made of.
#[derive(Debug, Clone)]
pub struct World {
    /// The run's folder: logs, what steps left, scratch.
    pub run_dir: PathBuf,
    /// The tree, and what lies under it; the first one is on top.
    pub trees: Vec<PathBuf>,
    /// The sealed environment.
    pub env: Option<PathBuf>,
    /// The project layer.
    pub project: Option<PathBuf>,
    /// Our plugin and wrappers.
    pub lib: PathBuf,
    /// The interpreter's prefix.
    pub interpreter: Option<PathBuf>,
    /// The step has the caller's own terminal.
    pub terminal: bool,
}

impl World {
    /// The folder that belongs to a step's cell alone.
    #[must_use]
    pub fn scratch(&self, step: &str) -> PathBuf {
        self.run_dir.join("cells").join(step)
    }

    /// Where what a step left is unpacked: `work/...` and `out/...`.
    #[must_use]
    pub fn left(&self, step: &str) -> PathBuf {
        self.run_dir.join("left").join(step)
    }

    /// A step's log.
    #[must_use]
    pub fn log(&self, step: &str) -> PathBuf {
        self.run_dir.join("logs").join(format!("{step}.log"))
    }
}

/// Whether a signal was ignored when this process started.
fn ignored(kind: tokio::signal::unix::SignalKind) -> bool {
    #[cfg(target_os = "linux")]
    return crate::linux::process::is_ignored(kind.as_raw_value());
    #[cfg(not(target_os = "linux"))]
    {
        let _ = kind;
        false
    }
}

/// The signals of this process, as a stream.
#[derive(Debug)]
pub struct Signals {
    receiver: mpsc::UnboundedReceiver<Signal>,
}

impl Signals {
    /// Starts listening. Must be called inside a runtime.
    ///
    /// # Errors
    /// Where the operating system refuses a handler.
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (sender, receiver) = mpsc::unbounded_channel();
        let kinds = [
            (SignalKind::interrupt(), Signal::Interrupt),
            (SignalKind::terminate(), Signal::Terminate),
            (SignalKind::hangup(), Signal::Hangup),
            (SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw()), Signal::Stop),
            (SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()), Signal::Continue),
        ];
        for (kind, meaning) in kinds {
            // Whoever started this process does not want it to hear of this: nohup, a script that goes on without us.
            if ignored(kind) {
                continue;
            }
            let mut stream = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if sender.send(meaning).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Signals { receiver })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        match self.receiver.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

/// Runs every step of the plan, in its order and within its parallelism, and records what happens. Cells may still be
/// leaving then: their folders are to stay until they are gone.
pub async fn steps<C: Cell>(
    recorder: &mut Recorder,
    cell: &C,
    world: &World,
    plan: &Plan,
    signals: &mut Signals,
) -> Departures {
    let mut departures = Departures::default();
    let mut run = Run::new(plan);
    let (notes, mut noted) = mpsc::channel::<Note>(256);
    let mut controls: HashMap<usize, mpsc::Sender<ToAgent>> = HashMap::new();
    let mut running = FuturesUnordered::new();
    let mut heartbeat = tokio::time::interval(std::time::Duration::from_millis(100));
    let mut inputs = vec![Input::Ready];
    let mut pausing = Pausing::default();
    loop {
        let mut finished = false;
        for action in inputs.drain(..).flat_map(|input| run.on(input)).collect::<Vec<_>>() {
            match action {
                Action::Start(i) => {
                    let (control, controlled) = mpsc::channel(8);
                    controls.insert(i, control);
                    let (step, notes) = (&plan.steps[i], notes.clone());
                    // An overlay must not lie over the changes of one that is still mounted.
                    let needed = departures.of(&step.needs);
                    let keep = plan.steps.iter().any(|other| other.needs.contains(&step.id));
                    running.push(async move {
                        needed.await;
                        (i, step::perform(cell, world, step, keep, controlled, notes).await)
                    });
                }
                Action::Record(event) => recorder.record(event),
                Action::Send(to, message) => {
                    for i in to {
                        // An agent that is already gone needs no telling.
                        let told = controls.get(&i).is_some_and(|control| control.try_send(message.clone()).is_ok());
                        if told && message == (ToAgent::Pause {}) {
                            pausing.waits_for(i);
                        }
                    }
                }
                Action::StopSelf => pausing.begin(),
                Action::Finish => finished = true,
            }
        }
        if finished {
            return departures;
        }
        tokio::select! {
            biased;
            Some(note) = noted.recv() => match note {
                Note::Event(event) => inputs.push(Input::Happened(event)),
                Note::Glimpse(glimpse) => inputs.extend(shown(recorder, &glimpse)),
                Note::Paused(step) => {
                    if let Some(i) = plan.steps.iter().position(|other| other.id == step) {
                        pausing.stands(i);
                    }
                }
            },
            Some((i, over)) = running.next() => {
                controls.remove(&i);
                pausing.stands(i);
                if let Some(leaving) = over.leaving {
                    departures.add(&plan.steps[i].id, leaving);
                }
                // What the step said before its end comes before its end.
                let mut said = Vec::new();
                while let Ok(note) = noted.try_recv() {
                    match note {
                        Note::Event(event) => said.push(event),
                        Note::Glimpse(glimpse) => inputs.extend(shown(recorder, &glimpse)),
                        Note::Paused(_) => {}
                    }
                }
                let all: Vec<_> = said.iter().chain(&over.events).cloned().collect();
                let ok = recorder.outcome.step_succeeds(&plan.steps[i].id, &all);
                inputs.extend(said.into_iter().map(Input::Happened));
                inputs.push(Input::Over { step: i, events: over.events, ok });
            }
            signal = signals.next() => inputs.push(Input::Signal(signal)),
            () = pausing.due() => {}
            _ = heartbeat.tick() => recorder.face.tick(&recorder.outcome),
        }
    }
}

/// Shows something passing; what is to be done where that fails.
fn shown(recorder: &mut Recorder, glimpse: &crate::event::Glimpse) -> Option<Input> {
    recorder.glimpse(glimpse);
    let (kind, message) = recorder.face.unheard()?;
    let error = (kind != std::io::ErrorKind::BrokenPipe).then(|| format!("the output can't be written: {message}"));
    Some(Input::Unheard { error })
}

/// How long a cell may take to say that it stands still.
const STANDSTILL: std::time::Duration = std::time::Duration::from_millis(500);

/// Ctrl-Z: this process stops when all cells stand still. Until then it goes on listening to them, since what it has not
/// passed on yet they do not know.
#[derive(Debug, Default)]
pub struct Pausing {
    cells: HashSet<usize>,
    until: Option<Instant>,
}

impl Pausing {
    /// This cell was asked to stand still.
    pub fn waits_for(&mut self, cell: usize) {
        self.cells.insert(cell);
    }

    /// This cell stands still, or is gone.
    pub fn stands(&mut self, cell: usize) {
        self.cells.remove(&cell);
    }

    /// This process is to stop.
    pub fn begin(&mut self) {
        self.until = Some(Instant::now() + STANDSTILL);
    }

    /// This process is to stop in a moment: nobody tells when the cell stands still.
    pub fn shortly(&mut self) {
        self.waits_for(usize::MAX);
        self.until = Some(Instant::now() + STANDSTILL / 5);
    }

    /// Waits until it is time, and stops this process; comes back when it was continued. Waits for ever where nothing
    /// was asked for. May be dropped at any moment and called again.
    pub async fn due(&mut self) {
        match self.until {
            None => return std::future::pending().await,
            Some(until) if !self.cells.is_empty() => tokio::time::sleep_until(until).await,
            Some(_) => {}
        }
        *self = Pausing::default();
        // SIGSTOP to ourselves can't fail; where it did, the run simply would not pause.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
    }
}
