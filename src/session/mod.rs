//! The one `select!`: performs what [`crate::run`] decides, and records what happens. It decides nothing itself.

pub mod recorder;
mod step;

use crate::cell::Cell;
use crate::frame::ToAgent;
use crate::plan::Plan;
use crate::run::{Action, Input, Run, Signal};
use futures_util::stream::{FuturesUnordered, StreamExt};
use recorder::Recorder;
use std::collections::HashMap;
use std::path::PathBuf;
use step::Note;
use tokio::sync::mpsc;

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

/// Runs every step of the plan, in its order and within its parallelism, and records what happens.
pub async fn steps<C: Cell>(recorder: &mut Recorder, cell: &C, world: &World, plan: &Plan, signals: &mut Signals) {
    let mut run = Run::new(plan);
    let (notes, mut noted) = mpsc::channel::<Note>(256);
    let mut controls: HashMap<usize, mpsc::Sender<ToAgent>> = HashMap::new();
    let mut running = FuturesUnordered::new();
    let mut heartbeat = tokio::time::interval(std::time::Duration::from_millis(100));
    let mut inputs = vec![Input::Ready];
    loop {
        let mut finished = false;
        for action in inputs.drain(..).flat_map(|input| run.on(input)).collect::<Vec<_>>() {
            match action {
                Action::Start(i) => {
                    let (control, controlled) = mpsc::channel(8);
                    controls.insert(i, control);
                    let (step, notes) = (&plan.steps[i], notes.clone());
                    running.push(async move { (i, step::perform(cell, world, step, controlled, notes).await) });
                }
                Action::Record(event) => recorder.record(event),
                Action::Send(to, message) => {
                    for i in to {
                        if let Some(control) = controls.get(&i) {
                            // An agent that is already gone needs no telling.
                            let _ = control.try_send(message.clone());
                        }
                    }
                }
                Action::StopSelf => stop_self().await,
                Action::Finish => finished = true,
            }
        }
        if finished {
            break;
        }
        tokio::select! {
            biased;
            Some(note) = noted.recv() => match note {
                Note::Event(event) => inputs.push(Input::Happened(event)),
                Note::Glimpse(glimpse) => recorder.glimpse(&glimpse),
            },
            Some((i, over)) = running.next() => {
                controls.remove(&i);
                // What the step said before its end comes before its end.
                let mut said = Vec::new();
                while let Ok(note) = noted.try_recv() {
                    match note {
                        Note::Event(event) => said.push(event),
                        Note::Glimpse(glimpse) => recorder.glimpse(&glimpse),
                    }
                }
                let all: Vec<_> = said.iter().chain(&over.events).cloned().collect();
                let ok = recorder.outcome.step_succeeds(&plan.steps[i].id, &all);
                inputs.extend(said.into_iter().map(Input::Happened));
                inputs.push(Input::Over { step: i, events: over.events, ok });
            }
            signal = signals.next() => inputs.push(Input::Signal(signal)),
            _ = heartbeat.tick() => recorder.face.tick(&recorder.outcome),
        }
    }
}

/// Stops this process as Ctrl-Z asked, a moment after the agents were told to pause theirs.
pub async fn stop_self() {
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    // SIGSTOP to ourselves can't fail; where it did, the run simply would not pause.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
}
