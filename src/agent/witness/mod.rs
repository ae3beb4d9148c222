//! The witness: sees every attempt of the step to reach the network, says who made it, and answers it.
//!
//! In a cell with a network namespace of its own nothing can get out, so that the witness only explains: what it lets
//! proceed meets the empty namespace, and a process that rewrites an address while it is looked at deceives the report
//! at most, and reaches nobody. Where there is no such namespace, its [`Broker`] performs every call itself. Calls wait for their answer; everything about a process is read before it gets one.

mod address;
mod broker;
mod current;
mod dns;
mod files;
mod log;
mod lookups;
mod sockets;
mod stub;
mod task;

pub use broker::Broker;
pub use current::SIZE as SLOTS_SIZE;
pub use files::Writable;
pub use stub::Stub;

use super::channel::Channel;
use super::relay::{Answer, Relay};
use crate::escape::escaped;
use crate::frame::{Attempt, Bytes, Frame, Policy, ToAgent, Verdict};
use crate::linux::notify::{Listener, Notification};
use crate::network;
use address::Address;
use current::Current;
use dns::{Code, Question};
use log::Log;
use lookups::LookUps;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use stub::Asker;
use task::{Caller, Task, Unread};

/// Where the walls put the file in which the plugin says which test runs.
pub const SLOTS: &str = "/ft/witness";

/// Calls that are answered before timers and pipes get their turn again.
const BURST: usize = 64;

/// How long calls and questions are answered before timers and pipes get their turn again.
const TURN: Duration = Duration::from_millis(50);

/// Descriptors that are looked at to find who asked the name server.
const DESCRIPTORS: usize = 4096;

/// Messages of one sendmmsg(2) that are looked at; the kernel takes 1024.
const VECTOR: usize = 1024;

/// Processes that asked the name server last.
const ASKERS: usize = 64;

/// Questions that wait for the host; further ones fail at once.
const QUESTIONS: usize = 256;

/// Threads and destinations whose last refused attempt is remembered.
const RECENT: usize = 1024;

/// Names that were given out with their addresses.
const NAMES: usize = 4096;

/// The witness of one step.
#[derive(Debug)]
pub struct Witness {
    listener: Option<Listener>,
    stub: Option<Stub>,
    policy: Policy,
    /// Delivers what is allowed. Where there is one, every address is local, so that what is refused must be refused
    /// by us.
    relay: Option<Relay>,
    /// Connects that wait for the host, by their notification.
    dialing: HashMap<u64, Attempt>,
    /// Who pointed a socket at an address where datagrams are taken, and has sent nothing yet.
    pointed: HashMap<SocketAddr, Attempt>,
    /// Performs what is asked for, where no namespace stands behind an answer.
    broker: Option<Broker>,
    current: Current,
    start: Instant,
    log: Log,
    recent: HashMap<(u32, &'static str, SocketAddr), Remembered>,
    askers: VecDeque<Task>,
    names: HashMap<IpAddr, Vec<String>>,
    /// Questions that were taken and have not had their turn.
    taken: VecDeque<(Asker, Question)>,
    /// Questions that the host was asked, and whether they are only a part of a look-up.
    questions: HashMap<u32, (Asker, Question, Attempt, bool)>,
    look_ups: LookUps,
    /// Who makes the call that is looked at, once it was asked for: a call can have a thousand destinations.
    caller: Option<(Task, Caller)>,
    asked: u32,
    streams: u64,
    top: u32,
}

/// What becomes of a call, or of one of its destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is none of our business, or somebody stands ready for it.
    Pass,
    /// It is refused with this error number.
    Refused(i32),
    /// The host is asked first.
    Waits,
}

/// A refused attempt that the same thread may make again and again.
#[derive(Debug)]
struct Remembered {
    /// Its id in the log.
    id: u32,
    /// The processes whose test was asked for, and what their slots said then.
    processes: Vec<u32>,
    stamps: Vec<u32>,
}

/// What a destination is, before anything is done about it.
enum Weighed {
    /// It stays in the cell.
    Nothing,
    /// The same thread was refused it before, and it is counted.
    Again,
    /// It leads out of the cell.
    Leads { attempt: Box<Attempt>, at: SocketAddr, datagram: bool, non_blocking: bool },
}

/// One destination of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    address: Address,
    /// What is sent there, its beginning, where it can be a question to a name server.
    payload: Vec<u8>,
}

impl Witness {
    /// Answers `listener` by `policy`; names come from `stub` where there is one. `slots` is where the step says which
    /// test runs.
    pub fn new(
        listener: Option<Listener>,
        stub: Option<Stub>,
        policy: Policy,
        relay: Option<Relay>,
        slots: &str,
        broker: Option<Broker>,
    ) -> Witness {
        Witness {
            listener,
            stub,
            policy,
            broker,
            current: Current::open(slots),
            relay,
            dialing: HashMap::new(),
            pointed: HashMap::new(),
            start: Instant::now(),
            log: Log::default(),
            recent: HashMap::new(),
            askers: VecDeque::new(),
            names: HashMap::new(),
            taken: VecDeque::new(),
            questions: HashMap::new(),
            look_ups: LookUps::default(),
            caller: None,
            asked: 0,
            streams: 0,
            top: std::process::id(),
        }
    }

    /// What to wait for.
    pub fn descriptors(&self, channel: &Channel) -> Vec<BorrowedFd<'_>> {
        let mut all: Vec<_> = self.listener.iter().map(AsFd::as_fd).collect();
        all.extend(self.stub.iter().flat_map(Stub::descriptors));
        if !channel.is_full() {
            all.extend(self.relay.iter().map(AsFd::as_fd));
        }
        all
    }

    /// How long to wait at most.
    pub fn wait(&self) -> Option<Duration> {
        if !self.taken.is_empty() {
            return Some(Duration::ZERO);
        }
        [self.relay.as_ref().and_then(Relay::wait), self.broker.as_ref().and_then(Broker::patience)]
            .into_iter()
            .flatten()
            .min()
    }

    /// All processes of the step stand still.
    pub fn pause(&mut self) {
        self.relay.iter_mut().for_each(Relay::pause);
    }

    /// They go on.
    pub fn resume(&mut self) {
        self.relay.iter_mut().for_each(Relay::resume);
    }

    /// Whether a connection is relayed that the step has not ended.
    pub fn is_talking(&self) -> bool {
        self.relay.as_ref().is_some_and(Relay::is_talking)
    }

    /// Answers what waits now, within bounds.
    pub fn turn(&mut self, channel: &mut Channel) {
        let until = Instant::now() + TURN;
        for _ in 0..BURST {
            let Some(listener) = self.listener.as_ref().filter(|_| Instant::now() < until) else { break };
            // Taking blocks where nobody waits (any more), and this thread keeps the step's time.
            let mut fds = [PollFd::new(listener, PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..)) {
                break;
            }
            let events = fds[0].revents();
            if !events.contains(PollFlags::IN) {
                // Nobody is left who could call.
                self.listener = None;
                break;
            }
            match listener.receive() {
                Ok(Some(notification)) => self.answer(&notification, channel),
                Ok(None) => {}
                Err(_) => self.listener = None,
            }
        }
        self.with_broker(|broker, _, listener| broker.turn(listener));
        if let (Some(stub), true) = (&mut self.stub, self.taken.is_empty()) {
            self.taken.extend(stub.questions(&mut self.streams));
        }
        let until = Instant::now() + TURN;
        while Instant::now() < until
            && let Some((asker, question)) = self.taken.pop_front()
        {
            self.asked_for(asker, question, channel);
        }
        if let Some(relay) = &mut self.relay {
            relay.turn(channel);
        }
        self.pass_answers_on(channel);
    }

    /// Answers the connects that the host has answered.
    fn pass_answers_on(&mut self, channel: &mut Channel) {
        let Some(relay) = &mut self.relay else { return };
        let (answers, spoken) = (relay.answers(), relay.spoken());
        for Answer { ticket, errno, refused } in answers {
            if self.broker.is_some() {
                self.with_broker(|broker, witness, listener| broker.dialed(witness, listener, ticket, errno));
            } else if let Some(listener) = &self.listener {
                if errno == 0 {
                    // Where it leads is open now, and nothing else is: whatever the address says by then.
                    listener.proceed(ticket);
                } else {
                    listener.refuse(ticket, errno);
                }
            }
            let Some(attempt) = self.dialing.remove(&ticket) else { continue };
            let verdict = if refused.is_empty() { Verdict::Allowed } else { Verdict::Denied };
            self.tell(Attempt { verdict, why: escaped(&refused, 100), ..attempt }, false, channel);
        }
        for target in spoken {
            if let Some(attempt) = self.pointed.remove(&target) {
                self.tell(attempt, false, channel);
            }
        }
    }

    /// Tells how often, at the end.
    pub fn finish(&mut self, channel: &mut Channel) {
        self.log.totals().iter().for_each(|frame| channel.send(frame));
    }

    /// Takes what the host says about names and connections.
    pub fn hear(&mut self, said: ToAgent, channel: &mut Channel) {
        let ToAgent::Looked { id, addresses, refused } = said else {
            if let Some(relay) = &mut self.relay {
                relay.hear(said, channel);
            }
            self.pass_answers_on(channel);
            return;
        };
        let Some((asker, question, attempt, part)) = self.questions.remove(&id) else { return };
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|Bytes(octets)| ip(octets)).collect();
        for address in &addresses {
            if self.names.len() >= NAMES {
                break;
            }
            let names = self.names.entry(address.to_canonical()).or_default();
            if !names.contains(&question.name) && names.len() < 16 {
                names.push(question.name.clone());
            }
        }
        let (code, verdict) = match refused.as_str() {
            "" => (Code::NoError, Verdict::Allowed),
            // No exchange with anybody but the host's own resolver: nothing was violated.
            "does not resolve" => (Code::NxDomain, Verdict::Note),
            _ => (Code::ServFail, Verdict::Denied),
        };
        if let Some(stub) = &mut self.stub {
            stub.answer(asker, &question, code, &addresses);
        }
        // Also the one that was answered: who only looks a name up needs it in an allow-list all the same.
        self.tell(Attempt { verdict, why: escaped(&refused, 100), ..attempt }, part, channel);
    }

    /// Lets the broker do something, where there is one.
    fn with_broker(&mut self, action: impl FnOnce(&mut Broker, &mut Witness, &Listener)) {
        let Some(mut broker) = self.broker.take() else { return };
        self.caller = None;
        // Both go back: a listener that is dropped leaves every watched call with ENOSYS.
        if let Some(listener) = self.listener.take() {
            action(&mut broker, self, &listener);
            self.listener = Some(listener);
        }
        self.broker = Some(broker);
    }

    fn answer(&mut self, call: &Notification, channel: &mut Channel) {
        self.caller = None;
        if self.broker.is_some() {
            return self.with_broker(|broker, witness, listener| broker.perform(witness, listener, call, channel));
        }
        let task = Task { thread: call.thread };
        let mut targets = Vec::new();
        let unread = self.read_targets(task, call, &mut targets).err();
        if !self.listener.as_ref().is_some_and(|listener| listener.waits(call.id)) {
            // Nobody's any more, and what was read perhaps somebody else's.
            return;
        }
        if unread == Some(Unread::Hidden) {
            self.hidden(task, call, channel);
            return;
        }
        // What we can't read the kernel is not to read either.
        let fault = if unread.is_some() { libc::EFAULT } else { 0 };
        let mut errno = 0;
        for target in &targets {
            match self.judge(task, call, target, None, channel) {
                Fate::Pass => {}
                Fate::Refused(number) => errno = number,
                // A connect has one target.
                Fate::Waits => return,
            }
        }
        let Some(listener) = &self.listener else { return };
        if fault != 0 || (errno != 0 && self.relay.is_some()) {
            listener.refuse(call.id, if errno != 0 { errno } else { fault });
        } else {
            // What is refused here finds no route: the kernel's own words are the most natural ones.
            listener.proceed(call.id);
        }
    }

    /// The destinations of a call.
    fn targets(&self, task: Task, call: &Notification) -> Result<(&'static str, Vec<Target>), Unread> {
        let mut targets = Vec::new();
        self.read_targets(task, call, &mut targets)?;
        Ok((call_name(call), targets))
    }

    /// Reads the destinations of a call: also those before one that can't be read.
    fn read_targets(&self, task: Task, call: &Notification, targets: &mut Vec<Target>) -> Result<(), Unread> {
        let [_, first, second, _, fourth, fifth] = call.arguments;
        let address = |at: u64, length: u64, datagram: bool| -> Result<Address, Unread> {
            if at == 0 {
                return Ok(Address::Unspecified);
            }
            // The kernel takes no more, sockaddr_storage.
            Ok(address::parse(&task.read_exact(at, (length as u32).min(128) as usize)?, datagram))
        };
        match call.call {
            libc::SYS_connect => targets.push(Target { address: address(first, second, false)?, payload: Vec::new() }),
            libc::SYS_sendto => {
                let target = address(fourth, fifth, true)?;
                let payload = if is_question(&target) {
                    task.read(first, second.min(dns::DATAGRAM as u64) as usize).unwrap_or_default()
                } else {
                    Vec::new()
                };
                targets.push(Target { address: target, payload });
            }
            libc::SYS_sendmsg => targets.push(message(task, &task.read_exact(first, MESSAGE)?, &address)?),
            libc::SYS_sendmmsg => {
                // struct mmsghdr is a message and how much of it was sent, padded.
                let size = MESSAGE + 8;
                let whole = (second as u32 as usize).min(VECTOR) * size;
                let bytes = task.read(first, whole)?;
                // One by one: those before one that can't be read are attempts all the same.
                for header in bytes.chunks_exact(size) {
                    targets.push(message(task, header, &address)?);
                }
                if bytes.len() < whole {
                    return Err(Unread::Fault);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Says and counts what is worth it, and what is to become of the call. `kind` is the socket's type, and whether it
    /// is non-blocking, where that is known.
    fn judge(
        &mut self,
        task: Task,
        call: &Notification,
        target: &Target,
        kind: Option<(i32, bool)>,
        channel: &mut Channel,
    ) -> Fate {
        let name = call_name(call);
        match self.weigh(task, call, name, target, kind, channel) {
            Weighed::Nothing => Fate::Pass,
            Weighed::Again => Fate::Refused(libc::ENETUNREACH),
            Weighed::Leads { attempt, at, datagram, non_blocking } => {
                if self.relay.is_some() && attempt.verdict == Verdict::Allowed {
                    return self.deliver(task, call, at, (datagram, non_blocking), *attempt, channel);
                }
                self.refuse(task, name, at, *attempt, channel);
                Fate::Refused(libc::ENETUNREACH)
            }
        }
    }

    /// The attempt that a call is, where it leads out of the cell.
    fn weigh(
        &mut self,
        task: Task,
        call: &Notification,
        name: &'static str,
        target: &Target,
        kind: Option<(i32, bool)>,
        channel: &mut Channel,
    ) -> Weighed {
        let at = match &target.address {
            Address::Inet(at) => *at,
            Address::Unix(path) => {
                self.unix(task, name, path, channel);
                return Weighed::Nothing;
            }
            Address::Netlink | Address::Unspecified | Address::Other(_) => return Weighed::Nothing,
        };
        if at == SocketAddr::from(stub::ADDRESS) && self.stub.is_some() {
            self.asks(task);
            return Weighed::Nothing;
        }
        if at.ip().is_loopback() || at.ip().is_unspecified() {
            return Weighed::Nothing;
        }
        let names = self.names.get(&at.ip()).cloned().unwrap_or_default();
        let mut verdict = self.verdict(at, &names);
        if matches!(verdict, Verdict::Denied | Verdict::Quiet) && self.again(task, name, at) {
            return Weighed::Again;
        }
        let (kind, non_blocking) = kind.or_else(|| task.socket_type(call.arguments[0])).unzip();
        let non_blocking = non_blocking.unwrap_or(false);
        let datagram = kind == Some(libc::SOCK_DGRAM) || (kind.is_none() && name != "connect");
        let mut why = String::new();
        if verdict == Verdict::Allowed
            && let Err(refused) = self.policy.admits(names.iter().map(String::as_str), at.ip(), at.port())
        {
            // The host would say the same.
            (verdict, why) = (Verdict::Denied, refused.to_owned());
        }
        if verdict == Verdict::Denied && datagram && name == "connect" && at.port() != 53 {
            // Sends nothing: how programs ask for their own address, and how resolvers sort theirs.
            verdict = Verdict::Note;
            why = "a UDP connect sends nothing".to_owned();
        }
        let question = dns::question(&target.payload).map(|question| question.name);
        let attempt = Attempt {
            verdict,
            call: name.to_owned(),
            protocol: (if at.port() == 53 {
                "dns"
            } else if datagram {
                "udp"
            } else {
                "tcp"
            })
            .to_owned(),
            address: at.ip().to_string(),
            port: at.port(),
            name: question.or_else(|| names.first().cloned()).unwrap_or_default(),
            why,
            ..Attempt::default()
        };
        Weighed::Leads { attempt: Box::new(attempt), at, datagram, non_blocking }
    }

    /// Tells an attempt, and remembers it where it may be made again and again.
    fn refuse(&mut self, task: Task, name: &'static str, at: SocketAddr, attempt: Attempt, channel: &mut Channel) {
        let again = matches!(attempt.verdict, Verdict::Denied | Verdict::Quiet);
        if let Some(told) = self.by(task, attempt, channel).filter(|_| again) {
            self.remember(task, name, at, told);
        }
    }

    /// Counts what this thread did before in the same test, without looking at it again: a loop that tries and tries
    /// costs its own time and little of ours.
    fn again(&mut self, task: Task, name: &'static str, at: SocketAddr) -> bool {
        let Some(seen) = self.recent.get(&(task.thread, name, at)) else { return false };
        let same = self.current.stamps(&seen.processes) == seen.stamps;
        if same {
            self.log.again(seen.id);
        }
        same
    }

    fn remember(&mut self, task: Task, name: &'static str, at: SocketAddr, (id, processes): (u32, Vec<u32>)) {
        // A question has a name of its own each time.
        if at.port() == 53 {
            return;
        }
        if self.recent.len() >= RECENT {
            self.recent.clear();
        }
        let stamps = self.current.stamps(&processes);
        self.recent.insert((task.thread, name, at), Remembered { id, processes, stamps });
    }

    /// Has an allowed attempt delivered.
    fn deliver(
        &mut self,
        task: Task,
        call: &Notification,
        at: SocketAddr,
        (datagram, non_blocking): (bool, bool),
        attempt: Attempt,
        channel: &mut Channel,
    ) -> Fate {
        let Some(relay) = &mut self.relay else { return Fate::Refused(libc::ENETUNREACH) };
        let name = attempt.name.clone();
        if !datagram {
            relay.connect(call.id, at, &name, non_blocking, channel);
            // Read now, while it waits.
            let attempt = self.made_by_caller(task, attempt);
            self.dialing.insert(call.id, attempt);
            return Fate::Waits;
        }
        if let Err(errno) = relay.expect_datagrams(at, &name) {
            return Fate::Refused(errno);
        }
        if call.call != libc::SYS_connect {
            self.by(task, attempt, channel);
        } else if self.pointed.len() < NAMES && !self.pointed.contains_key(&at) {
            // Sends nothing yet, and perhaps never: told with the first datagram.
            let attempt = self.made_by_caller(task, attempt);
            self.pointed.insert(at, attempt);
        }
        Fate::Pass
    }

    /// Notes who turned to the name server.
    fn asks(&mut self, task: Task) {
        self.askers.retain(|other| *other != task);
        self.askers.push_back(task);
        if self.askers.len() > ASKERS {
            self.askers.pop_front();
        }
    }

    /// A question that can't come to our own name server, and gets no answer.
    fn asked_without_us(&mut self, task: Task, message: &[u8], channel: &mut Channel) {
        let Some(question) = dns::question(message) else { return };
        let verdict = match self.policy.verdict(&network::Target { name: &question.name, ..Default::default() }) {
            Verdict::Allowed => Verdict::Note,
            verdict => verdict,
        };
        let attempt = Attempt {
            verdict,
            call: "lookup".to_owned(),
            protocol: "dns".to_owned(),
            name: question.name,
            ..Attempt::default()
        };
        self.by(task, attempt, channel);
    }

    /// What the policy says of an address, under each name that was given out for it.
    fn verdict(&self, at: SocketAddr, names: &[String]) -> Verdict {
        let octets = match at.ip() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let of = |name: &str| self.policy.verdict(&network::Target { name, address: &octets, port: Some(at.port()) });
        let all: Vec<Verdict> = std::iter::once("").chain(names.iter().map(String::as_str)).map(of).collect();
        // A refusal that is expected wins; one name that is allowed is enough.
        [Verdict::Quiet, Verdict::Allowed].into_iter().find(|verdict| all.contains(verdict)).unwrap_or(Verdict::Denied)
    }

    /// A unix socket of the machine that programs like to use, and that is not here.
    fn unix(&mut self, task: Task, name: &'static str, path: &[u8], channel: &mut Channel) {
        // nscd is asked before every look-up of a name or user.
        if !(path.starts_with(b"/run/") || path.starts_with(b"/var/run/")) || path.ends_with(b"/nscd/socket") {
            return;
        }
        let attempt = Attempt {
            verdict: Verdict::Note,
            call: name.to_owned(),
            protocol: "unix".to_owned(),
            address: escaped(&String::from_utf8_lossy(path), 120),
            why: "this socket of the machine is not in the cell".to_owned(),
            ..Attempt::default()
        };
        self.by(task, attempt, channel);
    }

    /// A process that hides its memory and reaches for the network.
    fn hidden(&mut self, task: Task, call: &Notification, channel: &mut Channel) {
        self.by(task, Witness::unknown(call), channel);
        if let Some(listener) = &self.listener {
            listener.refuse(call.id, libc::EACCES);
        }
    }

    fn unknown(call: &Notification) -> Attempt {
        Attempt {
            call: call_name(call).to_owned(),
            why: "the process hides its memory, so the address is not known".to_owned(),
            ..Attempt::default()
        }
    }

    fn asked_for(&mut self, asker: Asker, question: Question, channel: &mut Channel) {
        if is_loopback_in_reverse(&question.name) {
            // Whose name it is stands in /etc/hosts, or nowhere (RFC 6303): nobody would be asked.
            if let Some(stub) = &mut self.stub {
                stub.answer(asker, &question, Code::NxDomain, &[]);
            }
            return;
        }
        let own = question.name == "localhost" || question.name.ends_with(".localhost");
        if own {
            let addresses = [std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
            if let Some(stub) = &mut self.stub {
                stub.answer(asker, &question, Code::NoError, &addresses);
            }
            return;
        }
        let verdict = self.policy.verdict(&network::Target { name: &question.name, ..network::Target::default() });
        if verdict != Verdict::Allowed && self.log.is_full(verdict) {
            self.log.add_unseen(verdict);
            if let Some(stub) = &mut self.stub {
                stub.answer(asker, &question, Code::ServFail, &[]);
            }
            return;
        }
        let attempt = Attempt {
            verdict,
            call: "lookup".to_owned(),
            protocol: "dns".to_owned(),
            name: question.name.clone(),
            ..Attempt::default()
        };
        let attempt = self.attributed(self.asking_task(asker), attempt);
        let part = !self.look_ups.begins(attempt.pid, &question, Instant::now());
        if verdict == Verdict::Allowed && self.questions.len() < QUESTIONS {
            self.asked += 1;
            channel.send(&Frame::Lookup { id: self.asked, name: question.name.clone() });
            self.questions.insert(self.asked, (asker, question, attempt, part));
            return;
        }
        if let Some(stub) = &mut self.stub {
            stub.answer(asker, &question, Code::ServFail, &[]);
        }
        self.tell(attempt, part, channel);
    }

    /// Who asked: the one that has this socket open, or else the last one that turned to the name server.
    fn asking_task(&self, asker: Asker) -> Option<Task> {
        let inode = task::inode_of(asker.table(), asker.address());
        let mut most = DESCRIPTORS;
        let by_socket = inode.and_then(|inode| self.askers.iter().rev().find(|task| task.has_socket(inode, &mut most)));
        by_socket.or(self.askers.back()).copied()
    }

    /// Tells an attempt of a process, unless there are too many by now.
    ///
    /// Its id where it is listed, and the processes whose test was asked for.
    fn by(&mut self, task: Task, attempt: Attempt, channel: &mut Channel) -> Option<(u32, Vec<u32>)> {
        if self.log.is_full(attempt.verdict) {
            self.log.add_unseen(attempt.verdict);
            return None;
        }
        let attempt = self.made_by_caller(task, attempt);
        let Some((_, caller)) = &self.caller else { return None };
        let processes = std::iter::once(caller.pid).chain(caller.above.iter().copied()).collect();
        Some((self.tell(attempt, false, channel)?, processes))
    }

    /// The attempt with who makes the call that is looked at.
    fn made_by_caller(&mut self, task: Task, attempt: Attempt) -> Attempt {
        let caller = match self.caller.take() {
            Some((known, caller)) if known == task => caller,
            _ => task.caller(self.top),
        };
        self.caller = Some((task, caller.clone()));
        self.made_by(caller, attempt)
    }

    fn attributed(&self, task: Option<Task>, attempt: Attempt) -> Attempt {
        self.made_by(task.map(|task| task.caller(self.top)).unwrap_or_default(), attempt)
    }

    fn made_by(&self, caller: Caller, attempt: Attempt) -> Attempt {
        let test = self.current.test_of(&caller);
        let Caller { pid, process, parents, .. } = caller;
        let at_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Attempt { at_ms, pid, process, parents, test, ..attempt }
    }

    fn tell(&mut self, attempt: Attempt, part: bool, channel: &mut Channel) -> Option<u32> {
        let (id, frame) = self.log.add(attempt, part);
        frame.iter().for_each(|frame| channel.send(frame));
        id
    }
}

/// Bytes of `struct msghdr` on 64-bit machines.
const MESSAGE: usize = 56;

fn message(
    task: Task,
    header: &[u8],
    address: &dyn Fn(u64, u64, bool) -> Result<Address, Unread>,
) -> Result<Target, Unread> {
    let word = |at: usize| header.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_ne_bytes(*b));
    let target = address(word(0), word(8) & u64::from(u32::MAX), true)?;
    let payload = if is_question(&target) && word(24) > 0 {
        // Its name is worth knowing, and the attempt is one without it.
        let vector = task.read(word(16), 16).unwrap_or_default();
        let part = |at: usize| vector.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_ne_bytes(*b));
        task.read(part(0), part(8).min(dns::DATAGRAM as u64) as usize).unwrap_or_default()
    } else {
        Vec::new()
    };
    Ok(Target { address: target, payload })
}

fn is_question(target: &Address) -> bool {
    matches!(target, Address::Inet(at) if at.port() == 53)
}

/// Whether a name asks whose a loopback address is.
fn is_loopback_in_reverse(name: &str) -> bool {
    const SIX: &str = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa";
    name.ends_with(".127.in-addr.arpa") || name == SIX
}

fn call_name(call: &Notification) -> &'static str {
    match call.call {
        libc::SYS_connect => "connect",
        libc::SYS_sendto => "sendto",
        libc::SYS_sendmsg => "sendmsg",
        libc::SYS_sendmmsg => "sendmmsg",
        _ => "call",
    }
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}
