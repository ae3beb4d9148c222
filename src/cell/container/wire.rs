//! The attach stream of a container as the stream of its agent, and how a container is ended.

use super::body::Asked;
use crate::cell::{CellError, Handle, Live};
use crate::engine::Engine;
use bollard::container::LogOutput;
use bollard::models::ContainerWaitResponse;
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, KillContainerOptions, RemoveContainerOptions,
    StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

/// Bytes between the engine and whoever reads the frames; more wait in the engine, and then in the container.
const ROOM: usize = 256 * 1024;

/// How long an engine may take to end a container, on a machine under load.
const ENDING: Duration = Duration::from_secs(15);

/// Creates, attaches to and starts a container, in this order: nothing that it says is lost.
pub(super) async fn start(engine: &Engine, asked: &Asked<'_>) -> Result<(Live, Made), CellError> {
    let created = engine.docker().create_container(None::<CreateContainerOptions>, asked.body()).await;
    let created = created.map_err(|error| engine.error("creating a container", error))?;
    let mut made = Made { engine: engine.clone(), id: created.id, started: false };
    let refused = |what: String| CellError::Unsupported { kind: "container", what };
    if let Some(warning) = created.warnings.iter().find(|warning| !warning.trim().is_empty()) {
        // "Limitation discarded": the engine says that it does not do what it was asked.
        return Err(refused(format!("what was asked for (the engine says: {})", warning.trim())));
    }
    let attach = AttachContainerOptions { stdin: true, stdout: true, stderr: true, stream: true, ..Default::default() };
    let (inspected, attached) = tokio::join!(
        engine.docker().inspect_container(&made.id, None),
        engine.docker().attach_container(&made.id, Some(attach)),
    );
    let inspected = inspected.map_err(|error| engine.error("reading a container back", error))?;
    if let Some(what) = asked.refused(&inspected) {
        return Err(refused(what));
    }
    let attached = attached.map_err(|error| engine.error("attaching to a container", error))?;
    let (from, to_reader) = duplex(ROOM);
    let (errors, to_errors) = duplex(4096);
    tokio::spawn(drain(attached.output, to_reader, to_errors));
    let started = engine.docker().start_container(&made.id, None::<StartContainerOptions>).await;
    started.map_err(|error| engine.error("starting a container", error))?;
    made.started = true;
    let ended = Made { engine: engine.clone(), id: made.id.clone(), started: true };
    let (engine, id) = (made.engine.clone(), made.id.clone());
    let waiting = tokio::spawn(async move { gone(&engine, &id).await });
    let shared = asked.volumes.iter().map(|volume| (volume.name.clone(), volume.mark())).collect();
    let handle = Box::new(Running { made, waiting: Some(waiting), ended: None, shared });
    Ok((Live { to: Box::new(attached.input), from: Box::new(from), errors: Some(Box::new(errors)), handle }, ended))
}

type Output = Pin<Box<dyn futures_util::Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

/// Sorts the two streams. What belongs to neither (a text that the engine puts in, a frame that was cut) ends both: what
/// comes after it can't be trusted.
async fn drain(mut output: Output, mut to: DuplexStream, mut errors: DuplexStream) {
    let said = loop {
        match output.next().await {
            Some(Ok(LogOutput::StdOut { message })) => {
                if to.write_all(&message).await.is_err() {
                    break None;
                }
            }
            // Nobody may read them, and they are a panic's few lines at most.
            Some(Ok(LogOutput::StdErr { message })) => {
                let _ = tokio::time::timeout(Duration::from_secs(1), errors.write_all(&message)).await;
            }
            Some(Ok(other)) => break Some(format!("the engine's stream was cut or is not the container's: {other}")),
            Some(Err(error)) => break Some(format!("the engine's stream: {error}")),
            None => break None,
        }
    };
    if let Some(said) = said {
        let said: String = said.chars().take(1000).flat_map(char::escape_debug).collect();
        let _ = tokio::time::timeout(Duration::from_secs(1), errors.write_all(said.as_bytes())).await;
    }
}

/// A container that was created.
#[derive(Debug)]
pub(super) struct Made {
    engine: Engine,
    id: String,
    /// It removes itself when its first process ends.
    started: bool,
}

impl Made {
    /// Waits a moment for it to be gone.
    pub(super) async fn look_at_its_end(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), gone(&self.engine, &self.id)).await;
    }

    /// An engine that does not answer is not waited for: the agent's standard input ends with this process, and a later
    /// run sweeps what is left.
    async fn kill(&self) {
        let docker = self.engine.docker();
        let killed = async {
            let options = KillContainerOptions { signal: "SIGKILL".to_owned() };
            let _ = docker.kill_container(&self.id, Some(options)).await;
            let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
            let _ = docker.remove_container(&self.id, Some(options)).await;
        };
        let _ = tokio::time::timeout(ENDING, killed).await;
    }
}

impl Drop for Made {
    /// One that never started does not remove itself. Where the runtime is gone too, a later run sweeps it by its labels.
    fn drop(&mut self) {
        if !self.started
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let made = Made { engine: self.engine.clone(), id: std::mem::take(&mut self.id), started: true };
            runtime.spawn(async move { made.kill().await });
        }
    }
}

/// Waits until the container is removed; says how its first process ended, where the engine still knows.
async fn gone(engine: &Engine, id: &str) -> io::Result<String> {
    let options = WaitContainerOptions { condition: "not-running".to_owned() };
    let waited = engine.patient().wait_container(id, Some(options)).next().await;
    Ok(match waited {
        Some(Ok(ContainerWaitResponse { status_code, .. })) => format!("exit status: {status_code}"),
        Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => format!("exit status: {code}"),
        Some(Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })) => "gone".to_owned(),
        Some(Err(error)) => return Err(io::Error::other(engine.error("waiting for a container", error))),
        None => "gone".to_owned(),
    })
}

struct Running {
    made: Made,
    waiting: Option<JoinHandle<io::Result<String>>>,
    ended: Option<String>,
    /// Volumes that it shares, by name, and what says that they are whole.
    shared: Vec<(String, String)>,
}

impl Handle for Running {
    fn kill(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.made.kill())
    }

    fn wait(&mut self) -> Pin<Box<dyn Future<Output = io::Result<String>> + Send + '_>> {
        Box::pin(async {
            if let Some(waiting) = &mut self.waiting {
                let ended = waiting.await.map_err(io::Error::other)??;
                self.waiting = None;
                self.ended = Some(ended);
            }
            Ok(self.ended.clone().unwrap_or_default())
        })
    }

    fn distrust(&mut self, said: &str) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let marks: Vec<String> =
            self.shared.iter().filter(|(name, _)| said.contains(name)).map(|(_, mark)| mark.clone()).collect();
        Box::pin(async move {
            for mark in marks {
                // What stays is found by the next run, as it was by this one.
                let _ = tokio::time::timeout(ENDING, self.made.engine.remove_volume(&mark)).await;
            }
        })
    }
}
