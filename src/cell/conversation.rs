//! Leads the conversation with an agent: sends the manifest, passes frames and requests on, keeps the artifact tar, and
//! ends a cell that does not end itself.

use super::relay::{self, Relay};
use super::{Cell, CellError, Conversation, Handle, Live, Walls};
use crate::frame::{Decoder, Ended, Frame, Manifest, Observed, Payload, ToAgent, UNENFORCEABLE, UNSEALED};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long an agent may be late beyond every budget that it was given.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long walls may take to be raised, on a machine under load.
const RAISING: Duration = Duration::from_secs(30);

/// How long the first process may take to leave after `bye`.
const LEAVING: Duration = Duration::from_secs(5);

/// How much of what an agent says while it dies is kept.
const LAST_WORDS: usize = 4096;

/// What is known when a conversation is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finished {
    /// How the command ended; `None` where it never started, or nothing is known about it.
    pub ended: Option<Ended>,
    /// The walls as seen from inside.
    pub observed: Vec<Observed>,
    /// Stage and message where the agent could not do its work: `exec` where the command was not found.
    pub broken: Option<(String, String)>,
    /// Files that did not come back, and why. An entry of the tar with one of these names is not to be used.
    pub refused: Vec<(String, String)>,
    /// The artifact tar, as it came: not checked, to be read by the hardened reader only.
    pub tar: PathBuf,
}

/// A cell whose conversation is over: everything that ran in it is dead, its first process leaves, and the kernel takes
/// its namespaces down, which takes longer than anything that the agent does at the end. Until then its scratch directory
/// is in use. Dropping it waits for nothing.
#[derive(Debug)]
pub struct Leaving(JoinHandle<()>);

impl Leaving {
    /// Waits until nothing of the cell is left, with some patience and then with force.
    pub async fn gone(self) {
        if let Err(error) = self.0.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Leads the whole conversation, see [`talk`], and waits until nothing of the cell is left.
///
/// # Errors
/// [`CellError`]: there is no result then, whatever frames came before.
pub async fn run<C: Cell>(
    cell: &C,
    walls: &Walls,
    manifest: Manifest,
    tar_to: &Path,
    control: mpsc::Receiver<ToAgent>,
    frames: mpsc::Sender<Frame>,
) -> Result<Finished, CellError> {
    let (finished, leaving) = talk(cell, walls, manifest, tar_to, control, frames).await?;
    leaving.gone().await;
    Ok(finished)
}

/// Leads the conversation: launch, handshake, passing everything but `hello`, `tar` and `end` to `frames`, writing the
/// tar to `tar_to`, verifying what `end` says, acknowledging it and saying bye. Must be called inside a runtime.
///
/// Dropping the future ends the cell. When `control` closes, the conversation goes on without it.
///
/// # Errors
/// [`CellError`]: there is no result then, whatever frames came before. Nothing of the cell is left.
pub async fn talk<C: Cell>(
    cell: &C,
    walls: &Walls,
    manifest: Manifest,
    tar_to: &Path,
    control: mpsc::Receiver<ToAgent>,
    frames: mpsc::Sender<Frame>,
) -> Result<(Finished, Leaving), CellError> {
    let Live { to, from, errors, mut handle } = cell.launch(walls).await?;
    let last_words = tokio::spawn(last_words(errors));
    let (say, said) = mpsc::unbounded_channel();
    let (relayed, to_relay) = mpsc::channel(relay::QUEUE);
    let mut speak = Box::pin(speak(to, said, to_relay));
    let mut talk = Talk {
        say,
        from,
        control: Some(control),
        frames,
        conversation: Conversation::default(),
        clock: Clock::new(&manifest),
        relay: Relay::new(manifest.network.clone(), cell.resolver(), relayed),
        manifest: Some(manifest),
        spool: Spool::create(tar_to)?,
        changes_to: walls.scratch.join(super::CHANGES_TAR),
        changes: None,
        finished: Finished { tar: tar_to.to_owned(), ..Finished::default() },
    };
    // Side by side: an agent that does not read must not keep us from hearing it, nor from giving up on it.
    let talked = tokio::select! {
        biased;
        talked = talk.lead() => talked,
        () = &mut speak => unreachable!("its sender is the talk's"),
    };
    if let Err(error) = &talked {
        handle.kill().await;
        if let CellError::Walls { stage, message } = error
            && stage == UNSEALED
        {
            handle.distrust(message).await;
        }
    }
    let Talk { say, relay, finished, .. } = talk;
    if talked.is_ok() {
        tokio::select! {
            () = relay.settle() => {}
            () = &mut speak => unreachable!("its sender is held"),
        }
    }
    // Closes every connection of the cell.
    drop((relay, say));
    let leaving = Leaving(tokio::spawn(async move { leave(handle.as_mut(), speak).await }));
    let Err(error) = talked else { return Ok((finished, leaving)) };
    leaving.gone().await;
    if !matches!(error, CellError::Cut(_) | CellError::Frame(_) | CellError::Protocol(_)) {
        return Err(error);
    }
    let words = tokio::time::timeout(LEAVING, last_words).await.ok().and_then(Result::ok).unwrap_or_default();
    Err(match error {
        // Nothing but a panic of the agent comes this way; its frames may have been cut by it anywhere.
        _ if words.contains("panicked at") => CellError::Panicked(words),
        CellError::Cut(said) if said.is_empty() => CellError::Cut(words),
        other => other,
    })
}

/// Says to the agent what it is to be told: what `said` brings first, then what the relay has for it. Over when the
/// sender of `said` is gone and everything of it was written; then the agent's standard input is closed.
///
/// An agent that is gone is seen by reading, so writing to it is no error.
async fn speak(
    mut to: Box<dyn AsyncWrite + Send + Unpin>,
    mut said: mpsc::UnboundedReceiver<ToAgent>,
    mut to_relay: mpsc::Receiver<ToAgent>,
) {
    loop {
        let request = tokio::select! {
            biased;
            request = said.recv() => match request {
                Some(request) => request,
                None => return,
            },
            Some(relayed) = to_relay.recv() => relayed,
        };
        let _ = to.write_all(&request.encode()).await;
        let _ = to.flush().await;
    }
}

/// Waits for the cell to be gone, with some patience and then with force.
async fn leave(handle: &mut dyn Handle, speak: Pin<Box<impl Future<Output = ()>>>) {
    // Whether it heard everything or not: its standard input is closed afterwards.
    let _ = tokio::time::timeout(LEAVING, speak).await;
    if tokio::time::timeout(LEAVING, handle.wait()).await.is_err() {
        handle.kill().await;
        let _ = tokio::time::timeout(LEAVING, handle.wait()).await;
    }
}

async fn last_words(errors: Option<Box<dyn AsyncRead + Send + Unpin>>) -> String {
    let Some(mut errors) = errors else { return String::new() };
    let mut kept = Vec::new();
    let mut bytes = [0; 1024];
    while let Ok(n @ 1..) = errors.read(&mut bytes).await {
        let room = LAST_WORDS.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..n.min(room)]);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

struct Talk {
    say: mpsc::UnboundedSender<ToAgent>,
    from: Box<dyn AsyncRead + Send + Unpin>,
    control: Option<mpsc::Receiver<ToAgent>>,
    frames: mpsc::Sender<Frame>,
    conversation: Conversation,
    clock: Clock,
    relay: Relay,
    manifest: Option<Manifest>,
    spool: Spool,
    /// Where what the step changed goes, where the cell sends it.
    changes_to: PathBuf,
    changes: Option<Spool>,
    finished: Finished,
}

impl Talk {
    async fn lead(&mut self) -> Result<(), CellError> {
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; 64 * 1024];
        while !self.conversation.is_over() {
            let control = async {
                match &mut self.control {
                    Some(control) => control.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What was asked for before what is there, and a deadline last: one that passed while this process was
                // stopped says nothing about the agent.
                biased;
                request = control => match request {
                    Some(request) => {
                        self.clock.asked(&request);
                        self.send(request);
                    }
                    None => self.control = None,
                },
                read = self.from.read(&mut bytes) => match read {
                    Ok(0) | Err(_) => {
                        decoder.finish()?;
                        return Err(self.cut());
                    }
                    Ok(n) => decoder.push(&bytes[..n]),
                },
                () = tokio::time::sleep_until(self.clock.deadline()) => {
                    return Err(CellError::Stalled { seconds: PATIENCE.as_secs() });
                }
            }
            while let Some((frame, raw)) = decoder.next::<Frame>()? {
                self.conversation.accept(&frame, raw)?;
                self.hear(frame).await?;
            }
        }
        self.send(ToAgent::Ack {});
        self.send(ToAgent::Bye {});
        Ok(())
    }

    async fn hear(&mut self, frame: Frame) -> Result<(), CellError> {
        match &frame {
            Frame::Hello { .. } => {
                self.clock.greeted();
                if let Some(manifest) = self.manifest.take() {
                    let request = ToAgent::Manifest { manifest };
                    // The lock's variables and arguments are in it: they may be more than a frame holds.
                    request.try_encode()?;
                    self.send(request);
                }
                return Ok(());
            }
            Frame::Raising {} => {
                self.clock.greeted();
                return Ok(());
            }
            Frame::Tar { bytes } => return self.spool.write(&bytes.0),
            Frame::Change { bytes } => {
                if self.changes.is_none() {
                    self.changes = Some(Spool::create(&self.changes_to)?);
                }
                return self.changes.as_mut().map_or(Ok(()), |changes| changes.write(&bytes.0));
            }
            Frame::End { .. } => return Ok(()),
            Frame::Lookup { .. }
            | Frame::Dial { .. }
            | Frame::Sent { .. }
            | Frame::Shut { .. }
            | Frame::Taken { .. } => {
                self.relay.hear(frame);
                return Ok(());
            }
            Frame::Ready { observed } => self.finished.observed.clone_from(observed),
            Frame::Started { .. } => self.clock.started(),
            Frame::Paused { paused } => self.clock.paused(*paused),
            Frame::Exited { ended } => {
                self.clock.exited();
                self.finished.ended = Some(ended.clone());
            }
            Frame::Refused { path, why } => self.finished.refused.push((path.clone(), why.clone())),
            Frame::Broken { stage, message } => {
                if self.manifest.is_some() || stage == UNENFORCEABLE {
                    return Err(CellError::Walls { stage: stage.clone(), message: message.clone() });
                }
                if stage == "panic" {
                    return Err(CellError::Panicked(message.clone()));
                }
                self.finished.broken = Some((stage.clone(), message.clone()));
            }
            _ => {}
        }
        // Waiting here is the back-pressure: the pipe fills, and the command waits in its write. Our own deadline does
        // not run meanwhile, and the agent's timers do.
        self.pass_on(frame).await?;
        self.clock.waited();
        Ok(())
    }

    /// Hands a frame to whoever runs the step, and passes its requests on while it is busy: a Ctrl-C does not wait behind
    /// a flood of output.
    async fn pass_on(&mut self, frame: Frame) -> Result<(), CellError> {
        let frames = self.frames.clone();
        let mut room = std::pin::pin!(frames.reserve());
        let permit = loop {
            let control = async {
                match &mut self.control {
                    Some(control) => control.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                permit = &mut room => break permit.map_err(|_| CellError::Abandoned)?,
                request = control => match request {
                    Some(request) => {
                        self.clock.asked(&request);
                        self.send(request);
                    }
                    None => self.control = None,
                },
            }
        };
        permit.send(frame);
        Ok(())
    }

    /// An agent that is gone is seen by reading, so writing to it is no error.
    fn send(&mut self, request: ToAgent) {
        let _ = self.say.send(request);
    }

    fn cut(&self) -> CellError {
        // What the agent said last, where it left by itself.
        let said = self.finished.broken.as_ref().map(|(stage, message)| format!("{stage}: {message}"));
        CellError::Cut(said.unwrap_or_default())
    }
}

/// When a cell counts as stuck. Every stage has its budget, and [`PATIENCE`] on top.
#[derive(Debug)]
struct Clock {
    timeout: Option<Duration>,
    grace: Duration,
    collecting: Duration,
    until: Option<Instant>,
    paused_at: Option<Instant>,
    waited: Instant,
}

impl Clock {
    fn new(manifest: &Manifest) -> Clock {
        Clock {
            timeout: (manifest.timeout_ms > 0).then(|| Duration::from_millis(manifest.timeout_ms)),
            grace: Duration::from_millis(manifest.grace_ms),
            collecting: Duration::from_millis(manifest.artifact_ms),
            until: Some(Instant::now() + RAISING),
            paused_at: None,
            waited: Instant::now(),
        }
    }

    /// A cell without a timeout is only watched while it is raised, ended or collected.
    fn deadline(&self) -> Instant {
        let until = if self.paused_at.is_some() { None } else { self.until };
        // Reading what is there already has precedence over a deadline that passed while the reader was busy.
        until.map_or_else(|| Instant::now() + Duration::from_secs(86_400), |until| until.max(self.waited))
    }

    fn set(&mut self, budget: Option<Duration>) {
        self.until = budget.map(|budget| Instant::now() + budget + PATIENCE);
    }

    /// It said something: walls that are being raised have as long again.
    fn greeted(&mut self) {
        self.set(Some(RAISING));
    }

    fn started(&mut self) {
        self.set(self.timeout.map(|timeout| timeout + self.grace));
    }

    fn exited(&mut self) {
        self.set(Some(self.collecting));
    }

    fn asked(&mut self, request: &ToAgent) {
        let ended_by = match request {
            ToAgent::Cancel {} => self.grace,
            ToAgent::Kill {} => Duration::ZERO,
            _ => return,
        };
        self.paused_at = None;
        let until = Instant::now() + ended_by + PATIENCE;
        self.until = Some(self.until.map_or(until, |old| old.min(until)));
    }

    fn paused(&mut self, paused: bool) {
        let now = Instant::now();
        match (paused, self.paused_at) {
            (true, None) => self.paused_at = Some(now),
            (false, Some(since)) => {
                self.until = self.until.map(|until| until + (now - since));
                self.paused_at = None;
            }
            _ => {}
        }
    }

    fn waited(&mut self) {
        self.waited = Instant::now() + Duration::from_millis(100);
    }
}

/// The artifact tar on its way to a file. Scratch data of one run: nothing trusts it after a crash.
struct Spool {
    path: PathBuf,
    file: File,
}

impl Spool {
    fn create(path: &Path) -> Result<Spool, CellError> {
        let file = File::create(path).map_err(|source| CellError::Spool { path: path.to_owned(), source })?;
        Ok(Spool { path: path.to_owned(), file })
    }

    /// Blocks for one piece into the page cache; handing each to another thread would take longer.
    fn write(&mut self, bytes: &[u8]) -> Result<(), CellError> {
        self.file.write_all(bytes).map_err(|source| CellError::Spool { path: self.path.clone(), source })
    }
}
