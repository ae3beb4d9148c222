//! What a cell may reach: the host resolves, connects and passes bytes on for it, over the agent's own stream. There is
//! no other way out of a cell, so this is the wall, and the agent, which shares its kernel uid with the step, is not
//! trusted with the policy: every question and every connection is judged here again.
//!
//! Nothing here makes the conversation wait. Each stream is a task of its own; what it holds is bounded by [`WINDOW`] in
//! each direction, what waits for the agent by [`QUEUE`] frames. Dropping the [`Relay`] closes every socket.

mod resolver;
mod stream;

pub use resolver::{Resolver, Resolving};

use crate::frame::{Bytes, Frame, Policy, ToAgent, Verdict, WINDOW, datagram_cost};
use crate::network::{Target, address};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stream::{Line, Told};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Frames that wait for the agent to take them. One holds at most [`stream::CHUNK`] bytes, or one datagram.
pub(super) const QUEUE: usize = 64;

/// Streams that may be open at once. Together with [`WINDOW`] it bounds what a cell can make this process hold.
const STREAMS: usize = 1024;

/// Questions that may wait at once, and how many are asked at the same time.
const QUESTIONS: usize = 1024;
const ASKED_AT_ONCE: usize = 16;

/// How long a name may take to resolve.
const LOOKUP: Duration = Duration::from_secs(10);

/// How long a connection may take to be made.
const DIAL: Duration = Duration::from_secs(30);

/// Pairs of address and name that are remembered: no step needs so many, and they are the step's choice.
const REMEMBERED: usize = 16_384;

/// Addresses of one name that are passed on.
const ADDRESSES: usize = 128;

/// How long what the step said before it ended may take to be on its way.
const SETTLE: Duration = Duration::from_millis(500);

/// Error numbers as the agent knows them: those of Linux, whatever this host is.
mod errno {
    pub(super) const MFILE: i32 = 24;
    pub(super) const PROTOCOL_NOT_SUPPORTED: i32 = 93;
    pub(super) const ADDRESS_NOT_AVAILABLE: i32 = 99;
    pub(super) const NET_UNREACHABLE: i32 = 101;
    pub(super) const CONNECTION_RESET: i32 = 104;
    pub(super) const TIMED_OUT: i32 = 110;
    pub(super) const CONNECTION_REFUSED: i32 = 111;
    pub(super) const HOST_UNREACHABLE: i32 = 113;
}

/// Everything that one cell reaches.
pub(super) struct Relay {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// What the tasks of one relay have in common.
struct Shared {
    policy: Policy,
    resolver: Resolver,
    to_agent: mpsc::Sender<ToAgent>,
    questions: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Which allowed names each address was given out for.
    names: BTreeMap<IpAddr, BTreeSet<String>>,
    remembered: usize,
    lines: BTreeMap<u32, Entry>,
}

/// A stream as the conversation sees it.
struct Entry {
    told: mpsc::UnboundedSender<Told>,
    /// How many bytes the agent said that it can take.
    credit: Arc<Semaphore>,
    /// How many bytes of the agent's wait here: at most [`WINDOW`], or it does not keep to the protocol.
    held: Arc<AtomicUsize>,
    /// What is sent are datagrams, each of which costs something.
    datagrams: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    /// A relay under this policy, which says everything through `to_agent`.
    pub(super) fn new(policy: Policy, resolver: Resolver, to_agent: mpsc::Sender<ToAgent>) -> Relay {
        let questions = Semaphore::new(ASKED_AT_ONCE);
        let shared = Shared { policy, resolver, to_agent, questions, state: Mutex::default() };
        Relay { shared: Arc::new(shared), tasks: JoinSet::new() }
    }

    /// Takes one frame of the agent that is for the relay. Returns at once.
    pub(super) fn hear(&mut self, frame: Frame) {
        while self.tasks.try_join_next().is_some() {}
        // An agent that asks for more than it ever has streams and questions is not ours any more.
        let is_flood = self.tasks.len() >= 2 * (STREAMS + QUESTIONS);
        match frame {
            Frame::Lookup { id, name } if !is_flood => {
                let shared = Arc::clone(&self.shared);
                self.tasks.spawn(async move { shared.look_up(id, name).await });
            }
            Frame::Dial { stream, protocol, address, port, name: _ } if !is_flood => {
                self.dial(stream, protocol, &address.0, port);
            }
            Frame::Sent { stream, bytes } => {
                let mut state = self.shared.state();
                let Some(entry) = state.lines.get(&stream) else { return };
                let cost = if entry.datagrams { datagram_cost(bytes.0.len()) as usize } else { bytes.0.len() };
                let over = entry.held.fetch_add(cost, Ordering::Relaxed) + cost > WINDOW as usize;
                if over || entry.told.send(Told::Bytes(bytes.0)).is_err() {
                    // Gone at once, or what it goes on sending would be kept.
                    if let Some(entry) = state.lines.remove(&stream) {
                        let _ = entry.told.send(Told::Reset);
                    }
                }
            }
            Frame::Shut { stream, reset } => {
                let mut state = self.shared.state();
                if reset {
                    // Gone at once: the agent may use its place for another one.
                    if let Some(entry) = state.lines.remove(&stream) {
                        let _ = entry.told.send(Told::Reset);
                    }
                } else if let Some(entry) = state.lines.get(&stream) {
                    let _ = entry.told.send(Told::End);
                }
            }
            Frame::Taken { stream, bytes } => {
                if let Some(entry) = self.shared.state().lines.get(&stream) {
                    // What was never sent can't be taken: more than a window is never open.
                    let room = (WINDOW as usize).saturating_sub(entry.credit.available_permits());
                    entry.credit.add_permits(room.min(bytes as usize));
                }
            }
            _ => {}
        }
    }

    /// Judges a connection and makes it in a task of its own.
    fn dial(&mut self, stream: u32, protocol: u8, target: &[u8], port: u16) {
        let shared = Arc::clone(&self.shared);
        match shared.judge(stream, protocol, target, port) {
            Ok((transport, target, line)) => {
                self.tasks.spawn(async move {
                    transport.run(target, line).await;
                    shared.state().lines.remove(&stream);
                });
            }
            Err((errno, refused)) => {
                let answer = ToAgent::Dialed { stream, errno, refused: refused.to_owned() };
                self.tasks.spawn(async move {
                    let _ = shared.to_agent.send(answer).await;
                });
            }
        }
    }

    /// Waits, not for long, until what the step said before it ended is on its way.
    pub(super) async fn settle(&self) {
        let waiting = || self.shared.state().lines.values().any(|line| line.held.load(Ordering::Relaxed) > 0);
        let _ = tokio::time::timeout(SETTLE, async {
            while waiting() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// How a stream is carried.
enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    async fn run(self, target: SocketAddr, line: Line) {
        match self {
            Transport::Tcp => {
                let made = tokio::time::timeout(DIAL, TcpStream::connect(target)).await;
                match made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(socket) => {
                        if line.dialed(0).await {
                            stream::tcp(socket, line).await;
                        }
                    }
                    Err(error) => drop(line.dialed(number(&error)).await),
                }
            }
            Transport::Udp => match udp(target).await {
                Ok(socket) => {
                    if line.dialed(0).await {
                        stream::udp(socket, line).await;
                    }
                }
                Err(error) => drop(line.dialed(number(&error)).await),
            },
        }
    }
}

async fn udp(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if target.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // From here on the kernel drops what anybody else sends to it.
    socket.connect(target).await?;
    Ok(socket)
}

impl Shared {
    /// What a connection would be, or the error number and the reason that the agent is told.
    fn judge(
        &self,
        stream: u32,
        protocol: u8,
        target: &[u8],
        port: u16,
    ) -> Result<(Transport, SocketAddr, Line), (i32, &'static str)> {
        let transport = match protocol {
            6 => Transport::Tcp,
            17 => Transport::Udp,
            _ => return Err((errno::PROTOCOL_NOT_SUPPORTED, "protocol")),
        };
        let Some(address) = address::parse(target) else { return Err((errno::NET_UNREACHABLE, "not an address")) };
        let mut state = self.state();
        let names = state.names.get(&address).into_iter().flatten().map(String::as_str);
        self.policy.admits(names, address, port).map_err(|why| (errno::NET_UNREACHABLE, why))?;
        if port == 0 {
            return Err((errno::ADDRESS_NOT_AVAILABLE, ""));
        }
        if state.lines.len() >= STREAMS || state.lines.contains_key(&stream) {
            return Err((errno::MFILE, ""));
        }
        let (told, inbox) = mpsc::unbounded_channel();
        let entry = Entry {
            told,
            credit: Arc::new(Semaphore::new(WINDOW as usize)),
            held: Arc::new(AtomicUsize::new(0)),
            datagrams: matches!(transport, Transport::Udp),
        };
        let line = Line {
            stream,
            inbox,
            credit: Arc::clone(&entry.credit),
            held: Arc::clone(&entry.held),
            to_agent: self.to_agent.clone(),
        };
        state.lines.insert(stream, entry);
        Ok((transport, SocketAddr::new(address, port), line))
    }

    async fn look_up(&self, id: u32, name: String) {
        let answer = match self.resolve(&name).await {
            Ok(addresses) => {
                let addresses = addresses.into_iter().map(|address| Bytes(address::bytes(address))).collect();
                ToAgent::Looked { id, addresses, refused: String::new() }
            }
            Err(why) => ToAgent::Looked { id, addresses: Vec::new(), refused: why.to_owned() },
        };
        let _ = self.to_agent.send(answer).await;
    }

    /// The addresses of a name that the step may know, remembered as its addresses. A name that is not allowed never
    /// leaves this process: whoever serves its domain would read what the step wrote into it.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, &'static str> {
        let target = Target { name, address: &[], port: None };
        if name.is_empty() || self.policy.verdict(&target) != Verdict::Allowed {
            return Err("not allowed");
        }
        let Ok(_turn) = self.questions.acquire().await else { return Err("does not resolve") };
        let asked = tokio::time::timeout(LOOKUP, self.resolver.resolve(name)).await;
        let found = asked.map_err(|_| "does not resolve")?.map_err(|_| "does not resolve")?;
        let mut refused = "does not resolve";
        let mut addresses = Vec::new();
        for address in found.into_iter().map(|address| address.to_canonical()).take(ADDRESSES) {
            match self.policy.admits_answer(address) {
                Ok(()) if !addresses.contains(&address) => addresses.push(address),
                Ok(()) => {}
                Err(why) => refused = why,
            }
        }
        if addresses.is_empty() {
            return Err(refused);
        }
        let mut state = self.state();
        if state.remembered + addresses.len() > REMEMBERED {
            return Err("too many names");
        }
        for address in &addresses {
            if state.names.entry(*address).or_default().insert(name.to_owned()) {
                state.remembered += 1;
            }
        }
        Ok(addresses)
    }
}

/// The error number of a connect(2) that failed, as Linux counts them.
fn number(error: &io::Error) -> i32 {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => errno::CONNECTION_REFUSED,
        io::ErrorKind::ConnectionReset => errno::CONNECTION_RESET,
        io::ErrorKind::TimedOut => errno::TIMED_OUT,
        io::ErrorKind::HostUnreachable => errno::HOST_UNREACHABLE,
        io::ErrorKind::NetworkUnreachable => errno::NET_UNREACHABLE,
        io::ErrorKind::AddrNotAvailable => errno::ADDRESS_NOT_AVAILABLE,
        _ if cfg!(target_os = "linux") => error.raw_os_error().unwrap_or(errno::NET_UNREACHABLE),
        _ => errno::NET_UNREACHABLE,
    }
}

#[cfg(test)]
mod tests;
