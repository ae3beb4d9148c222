//! One stream between a socket of the host and the agent.

use super::{Bytes, ToAgent};
use crate::frame::datagram_cost;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};

/// The largest piece of a stream in one frame, in bytes.
pub(super) const CHUNK: usize = 32 * 1024;

/// The largest datagram, in bytes (udp(7)).
const DATAGRAM: usize = 65_535;

/// How long datagrams may be missing in both directions before a flow is over.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// What the agent told a stream.
pub(super) enum Told {
    /// The step said this.
    Bytes(Vec<u8>),
    /// The step says nothing more.
    End,
    /// The step does not listen either.
    Reset,
}

/// The agent's end of a stream.
pub(super) struct Line {
    pub(super) stream: u32,
    pub(super) inbox: mpsc::UnboundedReceiver<Told>,
    pub(super) credit: Arc<Semaphore>,
    pub(super) held: Arc<AtomicUsize>,
    pub(super) to_agent: mpsc::Sender<ToAgent>,
}

/// Why a stream is over before both sides said all they had to say.
enum Broken {
    ByStep,
    ByPeer,
}

impl Line {
    /// Tells the agent what came of the connection. Returns whether it still listens.
    pub(super) async fn dialed(&self, errno: i32) -> bool {
        self.to_agent.send(ToAgent::Dialed { stream: self.stream, errno, refused: String::new() }).await.is_ok()
    }

    async fn shut(&self, reset: bool) {
        let _ = self.to_agent.send(ToAgent::Shut { stream: self.stream, reset }).await;
    }
}

/// Passes bytes both ways until both ends have said all, or one of them is gone.
pub(super) async fn tcp(mut socket: TcpStream, line: Line) {
    // The step's side decides what is sent at once; a second wait here would only add to it.
    let _ = socket.set_nodelay(true);
    let Line { stream, inbox, credit, held, to_agent } = line;
    let (read, write) = socket.split();
    let ends = Ends { stream, credit: &credit, held: &held, to_agent: &to_agent };
    let broken = ends.pass(read, write, inbox).await.err();
    match broken {
        // The peer sees what the step did: a reset, not an end.
        Some(Broken::ByStep) => drop(socket.set_zero_linger()),
        Some(Broken::ByPeer) => {
            let _ = to_agent.send(ToAgent::Shut { stream, reset: true }).await;
        }
        None => {}
    }
}

struct Ends<'a> {
    stream: u32,
    credit: &'a Semaphore,
    held: &'a AtomicUsize,
    to_agent: &'a mpsc::Sender<ToAgent>,
}

type Inbox = mpsc::UnboundedReceiver<Told>;

impl Ends<'_> {
    async fn pass(&self, read: ReadHalf<'_>, write: WriteHalf<'_>, inbox: Inbox) -> Result<(), Broken> {
        let (peer_to_step, step_to_peer) = (self.peer_to_step(read), self.step_to_peer(inbox, write));
        tokio::pin!(peer_to_step, step_to_peer);
        tokio::select! {
            peer = &mut peer_to_step => {
                peer?;
                step_to_peer.await?;
                Ok(())
            }
            step = &mut step_to_peer => {
                let mut inbox = step?.0;
                // Its end may still be followed by its reset, while the peer talks on.
                tokio::select! {
                    peer = peer_to_step => peer,
                    _ = inbox.recv() => Err(Broken::ByStep),
                }
            }
        }
    }

    async fn peer_to_step(&self, socket: ReadHalf<'_>) -> Result<(), Broken> {
        let mut bytes = vec![0; CHUNK];
        loop {
            let Ok(first) = self.credit.acquire().await else { return Err(Broken::ByStep) };
            first.forget();
            let more = self.credit.available_permits().min(CHUNK - 1);
            if let Ok(more) = self.credit.try_acquire_many(more as u32) {
                more.forget();
            }
            let room = 1 + more;
            let read = loop {
                if socket.readable().await.is_err() {
                    return Err(Broken::ByPeer);
                }
                // A place in the queue before the bytes are read: what can't be passed on stays in the kernel, and the
                // peer waits. Not before there are any, or idle streams would hold all places.
                let Ok(place) = self.to_agent.reserve().await else { return Err(Broken::ByStep) };
                match socket.try_read(&mut bytes[..room]) {
                    Ok(0) => {
                        place.send(ToAgent::Shut { stream: self.stream, reset: false });
                        return Ok(());
                    }
                    Ok(n) => {
                        place.send(ToAgent::Received { stream: self.stream, bytes: Bytes(bytes[..n].to_vec()) });
                        break n;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err(Broken::ByPeer),
                }
            };
            self.credit.add_permits(room - read);
        }
    }

    /// Gives the inbox and the socket's half back when the step has said all: dropping a half ends nothing.
    async fn step_to_peer<'s>(
        &self,
        mut inbox: Inbox,
        mut socket: WriteHalf<'s>,
    ) -> Result<(Inbox, WriteHalf<'s>), Broken> {
        loop {
            match inbox.recv().await {
                Some(Told::Bytes(bytes)) => {
                    socket.write_all(&bytes).await.map_err(|_| Broken::ByPeer)?;
                    self.taken(bytes.len()).await?;
                }
                Some(Told::End) => {
                    socket.shutdown().await.map_err(|_| Broken::ByPeer)?;
                    return Ok((inbox, socket));
                }
                Some(Told::Reset) | None => return Err(Broken::ByStep),
            }
        }
    }

    async fn taken(&self, bytes: usize) -> Result<(), Broken> {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        let taken = ToAgent::Taken { stream: self.stream, bytes: bytes as u32 };
        self.to_agent.send(taken).await.map_err(|_| Broken::ByStep)
    }
}

/// Passes datagrams both ways until nobody has said anything for [`IDLE`], or the agent ends the flow.
pub(super) async fn udp(socket: UdpSocket, mut line: Line) {
    let mut bytes = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            told = line.inbox.recv() => match told {
                Some(Told::Bytes(datagram)) => {
                    // What the network says against it is no more than a loss.
                    let _ = socket.send(&datagram).await;
                    let cost = datagram_cost(datagram.len());
                    line.held.fetch_sub(cost as usize, Ordering::Relaxed);
                    let taken = ToAgent::Taken { stream: line.stream, bytes: cost };
                    if line.to_agent.send(taken).await.is_err() {
                        return;
                    }
                }
                Some(Told::End | Told::Reset) | None => return,
            },
            received = socket.recv(&mut bytes) => {
                let n = match received {
                    Ok(n) => n,
                    Err(e) if is_about_an_earlier_one(&e) => continue,
                    Err(_) => {
                        line.shut(true).await;
                        return;
                    }
                };
                // Datagrams that the step does not read in time are lost, as they are anywhere.
                let Ok(credit) = line.credit.try_acquire_many(n as u32) else { continue };
                credit.forget();
                let received = ToAgent::Received { stream: line.stream, bytes: Bytes(bytes[..n].to_vec()) };
                if line.to_agent.send(received).await.is_err() {
                    return;
                }
            },
            () = tokio::time::sleep(IDLE) => {
                line.shut(false).await;
                return;
            }
        }
    }
}

/// Whether an error tells what became of a datagram that was sent before: no more than a loss.
fn is_about_an_earlier_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}
