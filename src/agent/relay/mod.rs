//! Delivers what the policy allows: the host makes the connection, and here its bytes meet the step's own socket.
//!
//! In a namespaces cell every address is the cell's own ([`crate::linux::route`]), and nobody listens on any. When a
//! connect that the policy allows waits for its answer, the host dials first; then a door is opened, a listener at
//! exactly that address and port, and the call proceeds: the step's own socket connects to it in the kernel, with all
//! its options. What is relayed is where the accepted connection arrived, never what somebody wrote into memory: an
//! address that is rewritten after it was looked at leads to a closed door.
//!
//! Where there is no such namespace the doors are at loopback, which is the machine's: the broker connects the step's
//! socket to the one that was opened for it, and nobody else is let in ([`Relay::welcome`]).
//!
//! Nothing here blocks. What a stream holds is bounded by [`WINDOW`] in each direction.

mod datagrams;
mod door;
mod stream;

use super::channel::Channel;
use crate::frame::{Bytes, Frame, ToAgent, WINDOW, datagram_cost};
use crate::network::address;
use datagrams::{Flow, Port};
use door::Door;
use rustix::event::epoll;
use rustix::process::{Resource, Rlimit};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use stream::Stream;

/// Streams and flows that may be open at once: as many as the host allows one cell.
const STREAMS: usize = 1024;

/// Sockets that take datagrams, each at an address of its own.
const PORTS: usize = 512;

/// The largest piece of a stream in one frame, in bytes.
const CHUNK: usize = 32 * 1024;

/// Sockets that are looked at before timers and pipes get their turn again.
const BURST: usize = 64;

/// How long the connection that was allowed to proceed may take to arrive: it never leaves the kernel.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How long a connect of a non-blocking socket waits for the host before it proceeds to a door that is deaf: an event
/// loop stands still meanwhile.
const HOLD: Duration = Duration::from_millis(300);

/// How long such a one may take to arrive: the kernel asks again after 1, 2, 4, ... seconds.
const LATE_ARRIVAL: Duration = Duration::from_secs(70);

/// What became of a connect that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which one: what [`Relay::connect`] was given.
    pub ticket: u64,
    /// 0 where the call may proceed; else its error number.
    pub errno: i32,
    /// Why the host refused to try; empty where it did not.
    pub refused: String,
}

/// Everything that one step reaches.
#[derive(Debug)]
pub struct Relay {
    poll: OwnedFd,
    /// Doors and ports are at loopback, whatever they stand for.
    at_loopback: bool,
    next: u32,
    open: HashMap<u32, Open>,
    doors: HashMap<SocketAddr, u32>,
    ports: HashMap<SocketAddr, u32>,
    flows: HashMap<(u32, SocketAddr), u32>,
    answers: Vec<Answer>,
    spoken: Vec<SocketAddr>,
    /// Calls that proceed at some time, in order.
    held: VecDeque<(Instant, u32)>,
    /// Since when time stands still.
    paused: Option<Instant>,
}

/// What a number stands for. Streams and flows have theirs in frames as well.
#[derive(Debug)]
enum Open {
    Dialing(Dialing),
    Stream(Stream),
    Door(Door),
    Port(Port),
    Flow(Flow),
}

/// A connect that waits for the host.
#[derive(Debug)]
struct Dialing {
    ticket: u64,
    target: SocketAddr,
    /// The call has proceeded although the host has not answered: its connection is in the making, at a door that does not answer.
    proceeded: bool,
}

impl AsFd for Relay {
    /// Readable when [`Relay::turn`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }
}

impl Relay {
    /// With nothing open yet. Every address is the cell's own, or `at_loopback` its doors are.
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub fn new(at_loopback: bool) -> io::Result<Relay> {
        // Each connection is a descriptor here, and a caller's soft limit is made for programs that call select(2). The
        // step gets limits of its own.
        let limit = rustix::process::getrlimit(Resource::Nofile);
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        Ok(Relay {
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            at_loopback,
            next: 0,
            open: HashMap::new(),
            doors: HashMap::new(),
            ports: HashMap::new(),
            flows: HashMap::new(),
            answers: Vec::new(),
            spoken: Vec::new(),
            held: VecDeque::new(),
            paused: None,
        })
    }

    /// A connect over TCP waits: it is answered by [`Relay::answers`] when the host has tried, or, of a non-blocking
    /// socket, when that takes long: then its connection stays in the making until the host has.
    pub fn connect(&mut self, ticket: u64, target: SocketAddr, name: &str, non_blocking: bool, channel: &mut Channel) {
        if self.streams() >= STREAMS && !self.forget_an_idle_flow(channel) {
            self.answers.push(Answer { ticket, errno: libc::ENOBUFS, refused: String::new() });
            return;
        }
        let stream = self.number();
        channel.send(&dial(stream, 6, target, name));
        self.open.insert(stream, Open::Dialing(Dialing { ticket, target, proceeded: false }));
        if non_blocking {
            self.held.push_back((Instant::now() + HOLD, stream));
        }
    }

    /// A datagram is about to be sent there, or a socket to be pointed there: makes that somebody takes it.
    ///
    /// # Errors
    /// Where nobody can: the error number.
    pub fn expect_datagrams(&mut self, target: SocketAddr, name: &str) -> Result<(), i32> {
        if self.ports.contains_key(&target) || target.port() == 0 {
            return Ok(());
        }
        if self.ports.len() >= PORTS {
            return Err(libc::ENOBUFS);
        }
        let port = Port::open(target, self.standing_for(target), name).map_err(number_of)?;
        let number = self.number();
        self.watch(port.as_fd(), number)?;
        self.ports.insert(target, number);
        self.open.insert(number, Open::Port(port));
        Ok(())
    }

    /// Where somebody stands ready for what goes to `target`.
    pub fn place_of(&self, target: SocketAddr, datagram: bool) -> Option<SocketAddr> {
        let numbers = if datagram { &self.ports } else { &self.doors };
        match self.open.get(numbers.get(&target)?)? {
            Open::Door(door) => Some(door.at),
            Open::Port(port) => Some(port.at),
            _ => None,
        }
    }

    /// Lets in who comes to that place from this address of the step's. At loopback nobody else is.
    pub fn welcome(&mut self, target: SocketAddr, datagram: bool, from: SocketAddr) {
        let numbers = if datagram { &self.ports } else { &self.doors };
        match numbers.get(&target).and_then(|number| self.open.get_mut(number)) {
            Some(Open::Door(door)) => door.guests.welcome(from),
            Some(Open::Port(port)) => port.guests.welcome(from),
            _ => {}
        }
    }

    fn standing_for(&self, target: SocketAddr) -> SocketAddr {
        if self.at_loopback { door::at_loopback(target) } else { target }
    }

    /// The connects that are answered.
    pub fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// The addresses to which a flow of datagrams has begun.
    pub fn spoken(&mut self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.spoken)
    }

    /// When [`Relay::turn`] is to be called at the latest.
    pub fn wait(&self) -> Option<Duration> {
        if self.paused.is_some() {
            return None;
        }
        let due = self.doors.values().filter_map(|number| match self.open.get(number) {
            Some(Open::Door(door)) => door.due(),
            _ => None,
        });
        due.chain(self.held.front().map(|(until, _)| *until))
            .min()
            .map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// All processes of the step stand still: nobody is late.
    pub fn pause(&mut self) {
        self.paused.get_or_insert_with(Instant::now);
    }

    /// They go on, and so does time.
    pub fn resume(&mut self) {
        let Some(missed) = self.paused.take().map(|since| since.elapsed()) else { return };
        for open in self.open.values_mut() {
            match open {
                Open::Door(door) => door.postpone(missed),
                Open::Flow(flow) => flow.last += missed,
                Open::Dialing(_) | Open::Stream(_) | Open::Port(_) => {}
            }
        }
        self.held.iter_mut().for_each(|(until, _)| *until += missed);
    }

    /// Whether there is a connection whose last word has not come from the step yet.
    pub fn is_talking(&self) -> bool {
        self.open.values().any(|open| matches!(open, Open::Stream(stream) if stream.is_talking()))
    }

    /// Deals with what is ready, within bounds, unless the host is too slow to be told more.
    pub fn turn(&mut self, channel: &mut Channel) {
        if self.paused.is_none() {
            self.close_doors_that_are_due(channel);
            self.let_proceed();
        }
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; BURST];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok(count) = epoll::wait(&self.poll, &mut events[..], Some(&now)) else { return };
        for event in &events[..count] {
            if channel.is_full() {
                // What is ready stays ready.
                return;
            }
            let (flags, number) = (event.flags, event.data.u64() as u32);
            match self.open.get_mut(&number) {
                Some(Open::Door(_)) => self.admit(number, channel),
                Some(Open::Stream(stream)) => {
                    if flags.contains(epoll::EventFlags::OUT) {
                        stream.write(number, channel);
                    }
                    if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                        stream.read(number, channel);
                    }
                    self.settle(number);
                }
                Some(Open::Port(_)) => self.take_datagrams(number, channel),
                Some(Open::Flow(_) | Open::Dialing(_)) | None => {}
            }
        }
    }

    /// Takes what the host says about a stream.
    pub fn hear(&mut self, said: ToAgent, channel: &mut Channel) {
        match said {
            ToAgent::Dialed { stream, errno, refused } => self.dialed(stream, errno, refused, channel),
            ToAgent::Received { stream: number, bytes: Bytes(bytes) } => match self.open.get_mut(&number) {
                Some(Open::Stream(stream)) => {
                    stream.take(bytes);
                    stream.write(number, channel);
                    self.settle(number);
                }
                Some(Open::Flow(flow)) => {
                    flow.last = Instant::now();
                    let (port, peer, length) = (flow.port, flow.peer, bytes.len() as u32);
                    if let Some(Open::Port(port)) = self.open.get(&port) {
                        port.send(&bytes, peer);
                    }
                    channel.send(&Frame::Taken { stream: number, bytes: length });
                }
                _ => {}
            },
            ToAgent::Shut { stream: number, reset } => match self.open.get_mut(&number) {
                Some(Open::Stream(stream)) => {
                    if reset {
                        stream.reset();
                    } else {
                        stream.end(number, channel);
                    }
                    self.settle(number);
                }
                Some(Open::Flow(_)) => self.forget_flow(number),
                _ => {}
            },
            ToAgent::Taken { stream: number, bytes } => match self.open.get_mut(&number) {
                Some(Open::Stream(stream)) => {
                    stream.credit = stream.credit.saturating_add(bytes).min(WINDOW);
                    self.settle(number);
                }
                Some(Open::Flow(flow)) => flow.credit = flow.credit.saturating_add(bytes).min(WINDOW),
                _ => {}
            },
            _ => {}
        }
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn streams(&self) -> usize {
        self.open.len() - self.doors.len() - self.ports.len()
    }

    fn watch(&self, socket: BorrowedFd<'_>, number: u32) -> Result<(), i32> {
        let data = epoll::EventData::new_u64(number.into());
        epoll::add(&self.poll, socket, data, epoll::EventFlags::IN).map_err(|e| e.raw_os_error())
    }

    /// Asks for what a stream waits for now, or forgets it where it is over.
    fn settle(&mut self, number: u32) {
        let Some(Open::Stream(stream)) = self.open.get_mut(&number) else { return };
        if stream.is_over() {
            // Takes it out of the poll as well: nobody else has a copy of this descriptor.
            self.open.remove(&number);
        } else {
            stream.watch(&self.poll, number);
        }
    }

    fn dialed(&mut self, number: u32, errno: i32, refused: String, channel: &mut Channel) {
        match self.open.get(&number) {
            Some(Open::Flow(_)) if errno != 0 => self.forget_flow(number),
            Some(Open::Stream(_)) if errno != 0 => {
                if let Some(Open::Stream(stream)) = self.open.get_mut(&number) {
                    stream.reset();
                    self.settle(number);
                }
            }
            Some(Open::Dialing(Dialing { ticket, target, proceeded, .. })) => {
                let (ticket, target, proceeded) = (*ticket, *target, *proceeded);
                self.open.remove(&number);
                if proceeded {
                    self.arrives_late(target, number, errno);
                    return;
                }
                let errno = if errno == 0 { self.open_door(target, number, ARRIVAL).err().unwrap_or(0) } else { errno };
                if errno != 0 {
                    // A connection that nobody can come for; of one that was not made the host knows nothing.
                    channel.send(&Frame::Shut { stream: number, reset: true });
                }
                self.answers.push(Answer { ticket, errno, refused });
            }
            _ => {}
        }
    }

    /// What the host says of a connect that has proceeded: the door hears its next try, or is gone by then.
    fn arrives_late(&mut self, target: SocketAddr, stream: u32, errno: i32) {
        let Some(number) = self.doors.get(&target).copied() else { return };
        if let Some(Open::Door(door)) = self.open.get_mut(&number) {
            door.awaited = door.awaited.saturating_sub(1);
        }
        if errno == 0 {
            // It is there, so that nothing has to be opened that could fail.
            let _ = self.open_door(target, stream, LATE_ARRIVAL);
        }
        self.close_door_of_nobody(number);
    }

    /// Lets those calls proceed that have waited for long enough: to a door that does not answer.
    fn let_proceed(&mut self) {
        let now = Instant::now();
        while let Some((_, stream)) = self.held.front().copied().filter(|(until, _)| *until <= now) {
            self.held.pop_front();
            let Some(Open::Dialing(dialing)) = self.open.get_mut(&stream) else { continue };
            let (ticket, target) = (dialing.ticket, dialing.target);
            // Where no door can be made it waits on, as a call of a blocking socket does.
            let Ok(number) = self.door_at(target, true) else { continue };
            if let Some(Open::Door(door)) = self.open.get_mut(&number) {
                door.awaited += 1;
            }
            if let Some(Open::Dialing(dialing)) = self.open.get_mut(&stream) {
                dialing.proceeded = true;
            }
            self.answers.push(Answer { ticket, errno: 0, refused: String::new() });
        }
    }

    /// The door at this address, made where there is none yet.
    fn door_at(&mut self, target: SocketAddr, deaf: bool) -> Result<u32, i32> {
        if let Some(number) = self.doors.get(&target) {
            return Ok(*number);
        }
        let door = Door::open(target, self.standing_for(target), deaf).map_err(number_of)?;
        let number = self.number();
        if !deaf {
            self.watch(door.as_fd(), number)?;
        }
        self.doors.insert(target, number);
        self.open.insert(number, Open::Door(door));
        Ok(number)
    }

    /// Lets one more connection in at this address.
    fn open_door(&mut self, target: SocketAddr, stream: u32, within: Duration) -> Result<(), i32> {
        let number = self.door_at(target, false)?;
        if let Some(Open::Door(door)) = self.open.get_mut(&number) {
            door.expect(stream, Instant::now() + within);
            if door.hear().map_err(number_of)? {
                let data = epoll::EventData::new_u64(number.into());
                let _ = epoll::add(&self.poll, door.as_fd(), data, epoll::EventFlags::IN);
            }
        }
        self.open.insert(stream, Open::Stream(Stream::default()));
        Ok(())
    }

    /// Takes the connections that arrived at a door, and closes it where nobody else is expected.
    fn admit(&mut self, number: u32, channel: &mut Channel) {
        loop {
            let Some(Open::Door(door)) = self.open.get_mut(&number) else { return };
            let Some((stream, socket)) = door.admit() else { break };
            if let Some(stream) = stream.or_else(|| self.awaited_at(number)) {
                self.claim(stream, socket, channel);
            }
        }
        self.close_door_of_nobody(number);
    }

    /// A connect that was completed by chance, when the door heard for another one: its stream, for which the host has
    /// not answered yet.
    fn awaited_at(&mut self, number: u32) -> Option<u32> {
        let Some(Open::Door(door)) = self.open.get_mut(&number) else { return None };
        let target = door.target;
        door.awaited = door.awaited.checked_sub(1)?;
        let stream = self.open.iter().find_map(|(stream, open)| match open {
            Open::Dialing(dialing) if dialing.proceeded && dialing.target == target => Some(*stream),
            _ => None,
        })?;
        self.open.insert(stream, Open::Stream(Stream::default()));
        Some(stream)
    }

    /// Gives a stream its socket.
    fn claim(&mut self, number: u32, socket: OwnedFd, channel: &mut Channel) {
        if let Some(Open::Stream(stream)) = self.open.get_mut(&number) {
            stream.claim(socket);
            stream.write(number, channel);
            self.settle(number);
        }
    }

    /// Closes a door where nobody is expected any more.
    fn close_door_of_nobody(&mut self, number: u32) {
        if let Some(Open::Door(door)) = self.open.get(&number)
            && !door.is_open()
        {
            self.doors.remove(&door.target);
            self.open.remove(&number);
        }
    }

    fn close_doors_that_are_due(&mut self, channel: &mut Channel) {
        let now = Instant::now();
        let due: Vec<u32> = self
            .doors
            .values()
            .copied()
            .filter(|number| matches!(self.open.get(number), Some(Open::Door(door)) if door.due().is_some_and(|due| due <= now)))
            .collect();
        for number in due {
            // Whoever arrived in the meantime is let in first.
            self.admit(number, channel);
            let Some(Open::Door(door)) = self.open.get_mut(&number) else { continue };
            for stream in door.give_up(now) {
                channel.send(&Frame::Shut { stream, reset: true });
                self.open.remove(&stream);
            }
            self.close_door_of_nobody(number);
        }
    }

    /// Passes on what arrived at a port, each sender's datagrams as a flow of their own.
    fn take_datagrams(&mut self, number: u32, channel: &mut Channel) {
        let mut bytes = vec![0; datagrams::LARGEST];
        for _ in 0..BURST {
            if channel.is_full() {
                return;
            }
            let Some(Open::Port(port)) = self.open.get(&number) else { return };
            let Some((length, peer)) = port.receive(&mut bytes) else { return };
            let (target, name) = (port.target, port.name.clone());
            let stream = match self.flows.get(&(number, peer)) {
                Some(stream) => *stream,
                None => {
                    if self.streams() >= STREAMS && !self.forget_an_idle_flow(channel) {
                        // Lost, as datagrams are.
                        continue;
                    }
                    let stream = self.number();
                    channel.send(&dial(stream, 17, target, &name));
                    self.spoken.push(target);
                    let flow = Flow { port: number, peer, credit: WINDOW, last: Instant::now() };
                    self.flows.insert((number, peer), stream);
                    self.open.insert(stream, Open::Flow(flow));
                    stream
                }
            };
            let Some(Open::Flow(flow)) = self.open.get_mut(&stream) else { continue };
            flow.last = Instant::now();
            let Some(credit) = flow.credit.checked_sub(datagram_cost(length)) else { continue };
            flow.credit = credit;
            channel.send(&Frame::Sent { stream, bytes: Bytes(bytes[..length].to_vec()) });
        }
    }

    fn forget_flow(&mut self, number: u32) {
        if let Some(Open::Flow(flow)) = self.open.get(&number) {
            self.flows.remove(&(flow.port, flow.peer));
            self.open.remove(&number);
        }
    }

    /// Ends the flow that has been silent for longest. Whether there was one.
    fn forget_an_idle_flow(&mut self, channel: &mut Channel) -> bool {
        let flows = self.open.iter().filter_map(|(number, open)| match open {
            Open::Flow(flow) => Some((flow.last, *number)),
            _ => None,
        });
        let Some((_, number)) = flows.min() else { return false };
        channel.send(&Frame::Shut { stream: number, reset: true });
        self.forget_flow(number);
        true
    }
}

fn dial(stream: u32, protocol: u8, target: SocketAddr, name: &str) -> Frame {
    let address = Bytes(address::bytes(target.ip()));
    Frame::Dial { stream, protocol, address, port: target.port(), name: name.to_owned() }
}

/// The number of an error, for the step's own call.
fn number_of(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::ENOBUFS)
}

/// The bytes of a stream that wait for the step.
type Waiting = VecDeque<Vec<u8>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_late_while_everything_stands_still() {
        let (mut channel, _host) = Channel::for_tests();
        let mut relay = Relay::new(false).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let within = Duration::from_millis(200);
        for paused in [false, true] {
            relay.open_door(free, 7, within).unwrap();
            relay.held.push_back((Instant::now() + within, 9));
            if paused {
                relay.pause();
            }
            std::thread::sleep(within * 2);
            // The control: without a pause both are over by now.
            relay.turn(&mut channel);
            assert_eq!((relay.doors.len(), relay.held.len()), if paused { (1, 1) } else { (0, 0) });
            assert_eq!(relay.wait(), None);
        }
        relay.resume();
        assert!(relay.wait().is_some_and(|wait| wait > within / 4), "{:?}", relay.wait());
        relay.turn(&mut channel);
        assert_eq!((relay.doors.len(), relay.held.len()), (1, 1));
        std::thread::sleep(within);
        relay.turn(&mut channel);
        assert_eq!((relay.doors.len(), relay.held.len()), (0, 0));
    }
}
