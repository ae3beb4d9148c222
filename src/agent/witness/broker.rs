//! The broker: where there is no network namespace, it makes the step's sockets and performs what is asked of them.
//!
//! A call that is policed never continues in the kernel, which would read its address again after we did. Instead the
//! broker keeps its own copy of each socket that it hands out, finds it again by the inode behind the caller's number,
//! and performs the call on its copy with its copy of the address: whatever the caller's threads do to memory and
//! descriptors meanwhile, only what was looked at is reached. The copy goes when the socket is connected or listens: it
//! would keep the other side from seeing the end.
//!
//! What may continue is what can't carry an address to anybody: sends on streams, while the caller's process has no
//! datagram socket at all that could be put under the same number; and calls whose arguments all stand in registers.

use super::address::{self, Address};
use super::files::Writable;
use super::task::{Task, Unread};
use super::{MESSAGE, Target, VECTOR, Witness, call_name, dns, sockets, stub::Stub};
use crate::agent::channel::Channel;
use crate::agent::family::Family;
use crate::frame::{Attempt, Verdict};
use crate::linux::notify::{Listener, Notification};
use crate::linux::{process, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often what waits is looked at, and how often sockets that everybody closed are looked for.
const SOON: Duration = Duration::from_millis(2);
const SWEEP: Duration = Duration::from_secs(1);

/// Sockets that are kept before those that everybody closed are looked for.
const MANY: usize = 256;

/// The longest datagram that is performed; the kernel's own limit is lower for most.
const LONGEST: usize = 256 * 1024;

/// How long a send on a stream waits for its process to close its last datagram socket.
const HOLDING: Duration = Duration::from_secs(2);

/// CPU time after which a thread that was let go on is past the call that it went on with, for which it needs a
/// thousandth of it.
const PAST: u64 = 1_000_000;

/// Flags of sends that a caller may choose.
const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_MORE | libc::MSG_EOR | libc::MSG_CONFIRM | libc::MSG_DONTROUTE;

/// What the broker knows.
#[derive(Debug)]
pub struct Broker {
    /// Where questions to the machine's name servers are led, and who they are.
    stub: SocketAddr,
    nameservers: Vec<IpAddr>,
    /// Where nobody reads: datagrams to nobody on this machine.
    sink: UdpSocket,
    /// Directories in which only the step can have made a socket.
    private: Vec<PathBuf>,
    /// Where the step changes modes, owners, times and attributes.
    writable: Writable,
    landlock: u32,
    kept: HashMap<u64, Kept>,
    waiting: Vec<Waiting>,
    going_on: Vec<GoingOn>,
    /// Where a socket of the step was seen open: process and number.
    seen: HashMap<u64, (u32, u64)>,
    swept: Instant,
}

/// Our copy of a socket of the step.
#[derive(Debug)]
struct Kept {
    socket: OwnedFd,
    datagram: bool,
    unix: bool,
    /// A connect was begun and the caller did not wait for it.
    connecting: bool,
}

/// A call that is answered later.
#[derive(Debug)]
struct Waiting {
    call: Notification,
    since: Instant,
    what: Later,
}

#[derive(Debug)]
enum Later {
    /// Until it is connected.
    Connected { inode: u64 },
    /// Until there is room: connect(2) to a unix socket whose backlog is full.
    Room { inode: u64, address: Vec<u8>, path: Option<OwnedFd> },
    /// Until the datagram can be sent.
    Sent { inode: u64, bytes: Vec<u8>, address: Option<Vec<u8>>, flags: i32, path: Option<OwnedFd> },
    /// Until no thread of the process can be on its way into a send.
    Given,
    /// Until its process has no datagram socket.
    Alone,
}

/// A thread that was let go on with a send, in a process with others.
#[derive(Debug)]
struct GoingOn {
    process: u32,
    thread: u32,
    used: u64,
}

/// What a call gets.
#[derive(Debug)]
enum Answer {
    Proceed,
    Value(i64),
    Refuse(i32),
    /// It has it already.
    Given,
    Wait(Later),
}

impl From<io::Error> for Answer {
    fn from(error: io::Error) -> Answer {
        Answer::Refuse(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Whose a place on this machine's loopback is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Nobodys,
    Others,
}

impl Broker {
    /// Leads questions for names to `stub`. `private` are directories in which only the step writes, `writable` is all
    /// where Landlock lets it write.
    ///
    /// # Errors
    /// Where no socket can be made.
    pub fn new(stub: &Stub, private: Vec<PathBuf>, writable: Writable, landlock: u32) -> io::Result<Broker> {
        Ok(Broker {
            stub: stub.address()?,
            nameservers: nameservers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
            sink: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
            private,
            writable,
            landlock,
            kept: HashMap::new(),
            waiting: Vec::new(),
            going_on: Vec::new(),
            seen: HashMap::new(),
            swept: Instant::now(),
        })
    }

    /// How long nothing needs to be looked at; `None` for ever.
    pub fn patience(&self) -> Option<Duration> {
        if !self.waiting.is_empty() || self.kept.values().any(|kept| kept.connecting) {
            return Some(SOON);
        }
        (!self.kept.is_empty()).then_some(SWEEP)
    }

    /// Answers a call, now or later.
    pub fn perform(&mut self, witness: &mut Witness, listener: &Listener, call: &Notification, channel: &mut Channel) {
        let answer = self.decide(witness, listener, call, channel);
        self.give(listener, call, answer, Instant::now());
    }

    /// Looks at what waits.
    pub fn turn(&mut self, witness: &mut Witness, listener: &Listener, channel: &mut Channel) {
        for Waiting { call, since, what } in std::mem::take(&mut self.waiting) {
            if listener.waits(call.id) {
                let answer = self.again(witness, listener, &call, since, what, channel);
                self.give(listener, &call, answer, since);
            }
        }
        for kept in self.kept.values_mut().filter(|kept| kept.connecting) {
            kept.connecting = events(&kept.socket).is_empty();
        }
        self.kept.retain(|_, kept| kept.datagram || kept.connecting || rustix::net::getpeername(&kept.socket).is_err());
        if !self.kept.is_empty() && self.swept.elapsed() >= SWEEP {
            self.sweep();
        }
    }

    fn give(&mut self, listener: &Listener, call: &Notification, answer: Answer, since: Instant) {
        match answer {
            Answer::Proceed => listener.proceed(call.id),
            Answer::Value(value) => listener.answer(call.id, value),
            Answer::Refuse(errno) => listener.refuse(call.id, errno),
            Answer::Given => {}
            Answer::Wait(what) => self.waiting.push(Waiting { call: *call, since, what }),
        }
    }

    fn decide(
        &mut self,
        witness: &mut Witness,
        listener: &Listener,
        call: &Notification,
        channel: &mut Channel,
    ) -> Answer {
        let task = Task { thread: call.thread };
        let [first, second, third, ..] = call.arguments;
        let number = |argument: u64| argument as u32 as i32;
        match call.call {
            libc::SYS_socket | libc::SYS_socketpair => self.make(witness, listener, call),
            libc::SYS_connect => match task.read(second, (third as u32).min(128) as usize) {
                Ok(bytes) if listener.waits(call.id) => self.connect(witness, call, task, bytes, channel),
                Ok(_) => Answer::Given,
                Err(Unread::Fault) => Answer::Refuse(libc::EFAULT),
                Err(Unread::Hidden) => self.hidden(witness, call, channel),
            },
            libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg => {
                match self.send(witness, listener, call, task, channel) {
                    Ok(answer) => answer,
                    Err(Unread::Fault) => Answer::Refuse(libc::EFAULT),
                    Err(Unread::Hidden) => self.hidden(witness, call, channel),
                }
            }
            libc::SYS_bind => {
                // The number of a port that everybody closed is free again.
                self.sweep();
                Answer::Proceed
            }
            libc::SYS_listen => {
                if let Some(kept) = task.inode(first).and_then(|inode| self.kept.remove(&inode))
                    && !kept.unix
                {
                    let _ = socket::keep_on_loopback(kept.socket.as_fd());
                }
                Answer::Proceed
            }
            libc::SYS_kill if number(first) == -1 => {
                let caller = task.process();
                for pid in Family::Descendants.members().into_iter().filter(|pid| Some(*pid) != caller) {
                    process::signal(pid.cast_signed(), number(second));
                }
                Answer::Value(0)
            }
            libc::SYS_kill => allowed(whom(number(first)), libc::ESRCH),
            libc::SYS_tgkill | libc::SYS_rt_tgsigqueueinfo => allowed(whom(number(second)), libc::ESRCH),
            libc::SYS_tkill | libc::SYS_rt_sigqueueinfo | libc::SYS_pidfd_open => {
                allowed(number(first) > 0 && whom(number(first)), libc::ESRCH)
            }
            libc::SYS_prlimit64
            | libc::SYS_sched_setaffinity
            | libc::SYS_sched_setscheduler
            | libc::SYS_sched_setparam
            | libc::SYS_sched_setattr => allowed(number(first) > 0 && whom(number(first)), libc::EPERM),
            libc::SYS_setpriority => allowed(
                whom(if number(first) == libc::PRIO_PGRP.cast_signed() { -number(second) } else { number(second) }),
                libc::EPERM,
            ),
            // 1: a process, 2: a group, ioprio_set(2).
            libc::SYS_ioprio_set => {
                allowed(whom(if number(first) == 2 { -number(second) } else { number(second) }), libc::EPERM)
            }
            libc::SYS_fcntl => allowed(number(third) != -1 && whom(number(third)), libc::EPERM),
            // Landlock keeps files from it since its third version.
            libc::SYS_truncate => allowed(self.landlock >= 3, libc::EACCES),
            // What is left of the broker's table changes files.
            _ => match self.writable.perform(listener, call) {
                None => Answer::Given,
                Some(Ok(())) => Answer::Value(0),
                Some(Err(errno)) => Answer::Refuse(errno.raw_os_error()),
            },
        }
    }

    fn hidden(&mut self, witness: &mut Witness, call: &Notification, channel: &mut Channel) -> Answer {
        witness.by(Task { thread: call.thread }, Witness::unknown(call), channel);
        Answer::Refuse(libc::EACCES)
    }

    /// Makes a socket, or a pair of them, and hands it out.
    fn make(&mut self, witness: &Witness, listener: &Listener, call: &Notification) -> Answer {
        let [family, kind, protocol, pair, ..] = call.arguments.map(|argument| argument as u32 as i32);
        let datagram = kind & 0xf == libc::SOCK_DGRAM;
        let task = Task { thread: call.thread };
        if datagram && self.somebody_goes_on(task) {
            return Answer::Wait(Later::Given);
        }
        let refusal = match (family, kind & 0xf, protocol) {
            (libc::AF_UNIX, ..)
            | (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP)
            | (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => None,
            (_, libc::SOCK_RAW, _) => Some(libc::EPERM),
            (_, libc::SOCK_DGRAM, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) => Some(libc::EACCES),
            _ => Some(libc::EPROTONOSUPPORT),
        };
        if let Some(errno) = refusal {
            return Answer::Refuse(errno);
        }
        let closing = kind & libc::SOCK_CLOEXEC != 0;
        if self.kept.len() >= MANY {
            self.sweep();
        }
        if call.call == libc::SYS_socketpair {
            let made = socket::pair(family, kind, protocol).and_then(|(one, other)| {
                let numbers = [
                    listener.inject(call.id, one.as_fd(), None, closing)?,
                    listener.inject(call.id, other.as_fd(), None, closing)?,
                ];
                self.keep(one, true, true);
                self.keep(other, true, true);
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
                task.write(call.arguments[3], &bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))
            });
            let _ = pair;
            return made.map_or_else(Answer::from, |()| Answer::Value(0));
        }
        let made = match socket::create(family, kind, protocol) {
            Ok(made) => made,
            Err(error) => return error.into(),
        };
        // Where a stream may reach others it is kept on loopback when it listens.
        if family != libc::AF_UNIX && (datagram || witness.policy.mode == 0) {
            let _ = socket::keep_on_loopback(made.as_fd());
        }
        let given = match listener.inject_as_answer(call.id, made.as_fd(), closing) {
            // Before Linux 5.14 it takes two calls.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                match listener.inject(call.id, made.as_fd(), None, closing) {
                    Ok(number) => Answer::Value(number.into()),
                    Err(error) => return error.into(),
                }
            }
            Err(error) => return error.into(),
            Ok(_) => Answer::Given,
        };
        self.keep(made, datagram, family == libc::AF_UNIX);
        given
    }

    fn keep(&mut self, socket: OwnedFd, datagram: bool, unix: bool) {
        if let Ok(stat) = rustix::fs::fstat(&socket) {
            self.kept.insert(stat.st_ino, Kept { socket, datagram, unix, connecting: false });
        }
    }

    fn connect(
        &mut self,
        witness: &mut Witness,
        call: &Notification,
        task: Task,
        bytes: Vec<u8>,
        channel: &mut Channel,
    ) -> Answer {
        let Some(inode) = task.inode(call.arguments[0]) else { return Answer::Refuse(libc::ENOTSOCK) };
        // A stream that is not kept is connected, or listens.
        let Some(kept) = self.kept.get(&inode) else { return Answer::Refuse(libc::EISCONN) };
        let (datagram, unix) = (kept.datagram, kept.unix);
        let address = address::parse(&bytes, false);
        match (&address, unix) {
            (Address::Unspecified, _) => self.connect_to(inode, bytes, None),
            (Address::Unix(path), true) => match self.unix(witness, call, task, path, bytes.len(), channel) {
                Ok(None) => self.connect_to(inode, bytes, None),
                Ok(Some(path)) => self.connect_to(inode, path_address(&path), Some(path)),
                Err(answer) => answer,
            },
            (Address::Inet(at), false) if datagram => {
                let target = Target { address: address.clone(), payload: Vec::new() };
                if !is_local(at.ip()) {
                    witness.verdict_of(task, call, &target, libc::SOCK_DGRAM, channel);
                    return Answer::Refuse(libc::ENETUNREACH);
                }
                match self.whose(true, *at) {
                    Whose::Own => self.connect_to(inode, bytes, None),
                    _ if at.port() == 53 => self.lead(witness, task, inode, self.stub),
                    // As if nobody were there. Later somebody could be, so it does not stay connected to the place.
                    _ => match self.sink.local_addr() {
                        Ok(sink) => self.lead(witness, task, inode, sink),
                        Err(error) => error.into(),
                    },
                }
            }
            (Address::Inet(at), false) => self.connect_stream(witness, call, task, inode, *at, bytes, channel),
            _ => Answer::Refuse(libc::EAFNOSUPPORT),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of one call")]
    fn connect_stream(
        &mut self,
        witness: &mut Witness,
        call: &Notification,
        task: Task,
        inode: u64,
        at: SocketAddr,
        bytes: Vec<u8>,
        channel: &mut Channel,
    ) -> Answer {
        let local = is_local(at.ip());
        let whose = if local { self.whose(false, at) } else { Whose::Others };
        if whose == Whose::Own {
            return self.connect_to(inode, bytes, None);
        }
        if at.port() == 53 && (local || self.nameservers.contains(&at.ip())) {
            return self.lead(witness, task, inode, self.stub);
        }
        if local {
            if whose == Whose::Others {
                let attempt = Attempt {
                    verdict: Verdict::Note,
                    call: "connect".to_owned(),
                    protocol: "tcp".to_owned(),
                    address: at.ip().to_string(),
                    port: at.port(),
                    why: "a service of this machine, which the step did not start".to_owned(),
                    ..Attempt::default()
                };
                witness.by(task, attempt, channel);
            }
            return Answer::Refuse(libc::ECONNREFUSED);
        }
        let target = Target { address: Address::Inet(at), payload: Vec::new() };
        match witness.verdict_of(task, call, &target, libc::SOCK_STREAM, channel) {
            Some(Verdict::Allowed) => self.connect_to(inode, bytes, None),
            _ => Answer::Refuse(libc::ENETUNREACH),
        }
    }

    /// Connects a socket to another place of ours than it asked for.
    fn lead(&mut self, witness: &mut Witness, task: Task, inode: u64, to: SocketAddr) -> Answer {
        if to == self.stub {
            witness.asks(task);
        }
        let Some(kept) = self.kept.get(&inode) else { return Answer::Refuse(libc::EBADF) };
        let six =
            rustix::net::sockopt::socket_domain(&kept.socket).is_ok_and(|d| d == rustix::net::AddressFamily::INET6);
        self.connect_to(inode, address::bytes(to, six), None)
    }

    /// Connects our copy without waiting. Where its owner would wait, it waits.
    fn connect_to(&mut self, inode: u64, address: Vec<u8>, path: Option<OwnedFd>) -> Answer {
        let Some(kept) = self.kept.get_mut(&inode) else { return Answer::Refuse(libc::EISCONN) };
        let (result, waits) = without_waiting(&kept.socket, || socket::connect(kept.socket.as_fd(), &address));
        match result.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)) {
            Ok(()) => {
                if !kept.datagram {
                    self.kept.remove(&inode);
                }
                Answer::Value(0)
            }
            Err(libc::EINPROGRESS) if waits => Answer::Wait(Later::Connected { inode }),
            Err(libc::EINPROGRESS) => {
                kept.connecting = true;
                Answer::Refuse(libc::EINPROGRESS)
            }
            Err(libc::EAGAIN) if waits && kept.unix => Answer::Wait(Later::Room { inode, address, path }),
            Err(errno) => Answer::Refuse(errno),
        }
    }

    /// What a unix address is: `None` for one that is taken as it is, a socket that was opened by its path, or what the
    /// caller gets because it is nobody's or somebody else's.
    fn unix(
        &mut self,
        witness: &mut Witness,
        call: &Notification,
        task: Task,
        path: &[u8],
        length: usize,
        channel: &mut Channel,
    ) -> Result<Option<OwnedFd>, Answer> {
        match path.first() {
            None => Ok(None),
            Some(0) => {
                let name = &path[..length.saturating_sub(2).min(path.len())];
                let text = fs::read("/proc/net/unix").unwrap_or_default();
                let inodes = sockets::abstract_inodes(&text, name);
                let own = !inodes.is_empty() && inodes.iter().all(|inode| self.is_own(*inode));
                if own { Ok(None) } else { Err(Answer::Refuse(libc::ECONNREFUSED)) }
            }
            Some(_) => {
                let given = Path::new(std::ffi::OsStr::from_bytes(path));
                let cwd = fs::read_link(format!("/proc/{}/cwd", task.thread)).unwrap_or_default();
                let opened = rustix::fs::open(
                    cwd.join(given).as_path(),
                    OFlags::PATH | OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                );
                let own = opened.ok().filter(|opened| {
                    let real = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).unwrap_or_default();
                    self.private.iter().any(|place| real.starts_with(place))
                });
                own.map(Some).ok_or_else(|| {
                    witness.unix(task, call_name(call), path, channel);
                    // As if it were not there, as it is where it can be hidden.
                    Answer::Refuse(libc::ENOENT)
                })
            }
        }
    }

    fn send(
        &mut self,
        witness: &mut Witness,
        listener: &Listener,
        call: &Notification,
        task: Task,
        channel: &mut Channel,
    ) -> Result<Answer, Unread> {
        let [number, first, second, third, fourth, fifth] = call.arguments;
        let flags = (if call.call == libc::SYS_sendmsg { second } else { third }) as u32 as i32;
        let kept = task.inode(number).and_then(|inode| Some((inode, self.kept.get(&inode)?)));
        let Some((inode, true)) = kept.map(|(inode, kept)| (inode, kept.datagram)) else {
            if flags & libc::MSG_FASTOPEN != 0 {
                // A connect by another name. What it may reach it reaches by connect(2) as well.
                let (_, targets) = witness.targets(task, call)?;
                for target in &targets {
                    witness.verdict_of(task, call, target, libc::SOCK_STREAM, channel);
                }
                return Ok(Answer::Refuse(if targets.iter().any(outside) {
                    libc::ENETUNREACH
                } else {
                    libc::EOPNOTSUPP
                }));
            }
            return Ok(self.stream_goes_on(call, task, Instant::now()));
        };
        Ok(match call.call {
            libc::SYS_sendto => {
                let address = task.read(fourth, (fifth as u32).min(128) as usize)?;
                let bytes = task.read(first, (second as usize).min(LONGEST + 1))?;
                if listener.waits(call.id) {
                    self.datagram(witness, call, task, inode, Some(address), bytes, flags, channel)
                } else {
                    Answer::Given
                }
            }
            libc::SYS_sendmsg => {
                let header = task.read(first, MESSAGE)?;
                let (address, bytes) = message(task, &header)?;
                if listener.waits(call.id) {
                    self.datagram(witness, call, task, inode, address, bytes, flags, channel)
                } else {
                    Answer::Given
                }
            }
            _ => {
                let count = (second as u32 as usize).min(VECTOR);
                let mut sent = 0;
                for n in 0..count {
                    let at = first + (n * (MESSAGE + 8)) as u64;
                    let header = task.read(at, MESSAGE)?;
                    let (address, bytes) = message(task, &header)?;
                    if !listener.waits(call.id) {
                        return Ok(Answer::Given);
                    }
                    match self.datagram(witness, call, task, inode, address, bytes, flags | libc::MSG_DONTWAIT, channel)
                    {
                        Answer::Value(length) => {
                            let _ = task.write(at + MESSAGE as u64, &(length as u32).to_ne_bytes());
                            sent += 1;
                        }
                        answer if sent == 0 => return Ok(answer),
                        _ => break,
                    }
                }
                Answer::Value(sent)
            }
        })
    }

    /// One datagram to where it may go.
    #[expect(clippy::too_many_arguments, reason = "all of one call")]
    fn datagram(
        &mut self,
        witness: &mut Witness,
        call: &Notification,
        task: Task,
        inode: u64,
        address: Option<Vec<u8>>,
        bytes: Vec<u8>,
        flags: i32,
        channel: &mut Channel,
    ) -> Answer {
        if bytes.len() > LONGEST {
            return Answer::Refuse(libc::EMSGSIZE);
        }
        let unix = self.kept.get(&inode).is_some_and(|kept| kept.unix);
        let Some(address) = address else { return self.send_to(inode, bytes, None, flags, None) };
        let length = i64::try_from(bytes.len()).unwrap_or(0);
        match (address::parse(&address, !unix), unix) {
            (Address::Unspecified, _) => self.send_to(inode, bytes, None, flags, None),
            (Address::Unix(path), true) => match self.unix(witness, call, task, &path, address.len(), channel) {
                Ok(None) => self.send_to(inode, bytes, Some(address), flags, None),
                Ok(Some(path)) => self.send_to(inode, bytes, Some(path_address(&path)), flags, Some(path)),
                Err(answer) => answer,
            },
            (Address::Inet(at), false) => {
                let local = is_local(at.ip());
                let own = local && self.whose(true, at) == Whose::Own;
                if own {
                    return self.send_to(inode, bytes, Some(address), flags, None);
                }
                let asks = at.port() == 53;
                let payload = if asks { bytes[..bytes.len().min(dns::DATAGRAM)].to_vec() } else { Vec::new() };
                if local && asks {
                    witness.asked_without_us(task, &payload, channel);
                    return Answer::Refuse(libc::ENETUNREACH);
                }
                if local {
                    // Nobody is there, or somebody whom the step does not reach: a datagram gets lost.
                    return Answer::Value(length);
                }
                let target = Target { address: Address::Inet(at), payload };
                witness.verdict_of(task, call, &target, libc::SOCK_DGRAM, channel);
                Answer::Refuse(libc::ENETUNREACH)
            }
            _ => Answer::Refuse(libc::EAFNOSUPPORT),
        }
    }

    fn send_to(
        &mut self,
        inode: u64,
        bytes: Vec<u8>,
        address: Option<Vec<u8>>,
        flags: i32,
        path: Option<OwnedFd>,
    ) -> Answer {
        let Some(kept) = self.kept.get(&inode) else { return Answer::Refuse(libc::EBADF) };
        let waits = flags & libc::MSG_DONTWAIT == 0
            && rustix::fs::fcntl_getfl(&kept.socket).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK));
        match socket::send(kept.socket.as_fd(), &bytes, flags & FLAGS | libc::MSG_DONTWAIT, address.as_deref()) {
            Ok(sent) => Answer::Value(i64::try_from(sent).unwrap_or(i64::MAX)),
            Err(error) if waits && error.raw_os_error() == Some(libc::EAGAIN) => {
                Answer::Wait(Later::Sent { inode, bytes, address, flags, path })
            }
            Err(error) => error.into(),
        }
    }

    /// A send on what is no datagram socket: it carries no address anywhere, unless another thread puts a datagram
    /// socket under its number before the kernel looks. So it goes on only where there is none to put.
    fn stream_goes_on(&mut self, call: &Notification, task: Task, since: Instant) -> Answer {
        let threads = task.threads();
        // Nothing but this one thread has its descriptors, and there is no message in memory that others could change.
        let alone = threads == Some(1) && call.call == libc::SYS_sendto;
        if alone || !self.holds_datagrams(task) {
            if threads != Some(1) {
                self.going_on.push(GoingOn {
                    process: task.process().unwrap_or(0),
                    thread: task.thread,
                    used: used(task.thread).unwrap_or(0),
                });
            }
            return Answer::Proceed;
        }
        if let Some(answer) = stream_sent(call, task) {
            return answer;
        }
        if since.elapsed() < HOLDING { Answer::Wait(Later::Alone) } else { Answer::Refuse(libc::EPERM) }
    }

    /// Whether the caller's process has a datagram socket open.
    fn holds_datagrams(&self, task: Task) -> bool {
        self.kept.values().any(|kept| kept.datagram)
            && task.inodes().iter().any(|(_, inode)| self.kept.get(inode).is_some_and(|kept| kept.datagram))
    }

    /// Whether a thread of the caller's process was let go on with a send and may not have begun it.
    fn somebody_goes_on(&mut self, task: Task) -> bool {
        self.going_on.retain(|going| {
            // It sleeps in its send, or somewhere behind it; or it has used so much time that it is past it.
            let state = Task { thread: going.thread }.state();
            matches!(state, Some('R' | 'D'))
                && used(going.thread).is_some_and(|now| now.saturating_sub(going.used) < PAST)
        });
        let process = task.process();
        self.going_on.iter().any(|going| Some(going.process) == process)
    }

    fn again(
        &mut self,
        witness: &mut Witness,
        listener: &Listener,
        call: &Notification,
        since: Instant,
        what: Later,
        channel: &mut Channel,
    ) -> Answer {
        let _ = &channel;
        match what {
            Later::Connected { inode } => {
                let Some(kept) = self.kept.get(&inode) else { return Answer::Refuse(libc::EISCONN) };
                if events(&kept.socket).is_empty() {
                    return Answer::Wait(Later::Connected { inode });
                }
                match rustix::net::sockopt::socket_error(&kept.socket) {
                    Ok(Ok(())) => {
                        self.kept.remove(&inode);
                        Answer::Value(0)
                    }
                    Ok(Err(errno)) | Err(errno) => Answer::Refuse(errno.raw_os_error()),
                }
            }
            Later::Room { inode, address, path } => self.connect_to(inode, address, path),
            Later::Sent { inode, bytes, address, flags, path } => self.send_to(inode, bytes, address, flags, path),
            Later::Given => self.make(witness, listener, call),
            Later::Alone => self.stream_goes_on(call, Task { thread: call.thread }, since),
        }
    }

    /// Whose the sockets are that this address on this machine leads to.
    fn whose(&mut self, datagram: bool, at: SocketAddr) -> Whose {
        let tables = if datagram { ["udp", "udp6"] } else { ["tcp", "tcp6"] };
        let mut whose = Whose::Nobodys;
        for table in tables {
            let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
            for inode in sockets::bound_inodes(&text, datagram, at) {
                if !self.is_own(inode) {
                    return Whose::Others;
                }
                whose = Whose::Own;
            }
        }
        whose
    }

    /// Whether a process of the step has this socket open.
    fn is_own(&mut self, inode: u64) -> bool {
        let there = |at: Option<&(u32, u64)>| {
            at.is_some_and(|(pid, number)| {
                Task { thread: *pid }.inode(*number) == Some(inode) && whom(pid.cast_signed())
            })
        };
        if there(self.seen.get(&inode)) {
            return true;
        }
        self.look();
        there(self.seen.get(&inode))
    }

    /// Notes every socket that the step has open.
    fn look(&mut self) {
        self.seen.clear();
        for pid in Family::Descendants.members() {
            self.seen.extend(Task { thread: pid }.inodes().into_iter().map(|(number, inode)| (inode, (pid, number))));
        }
    }

    /// Drops our copies of sockets that everybody closed.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        if self.kept.is_empty() {
            return;
        }
        self.look();
        let open: HashSet<u64> = self.seen.keys().copied().collect();
        self.kept.retain(|inode, _| open.contains(inode));
    }
}

/// Sends for the caller on the stream itself, which can be had where no engine forbids it: `None` where it can't.
fn stream_sent(call: &Notification, task: Task) -> Option<Answer> {
    let [number, first, second, third, ..] = call.arguments;
    let stream = process::descriptor_of(task.process()?, number as u32).ok()?;
    if rustix::net::sockopt::socket_type(&stream).is_ok_and(|kind| kind == rustix::net::SocketType::DGRAM) {
        // Flipped since it was looked at.
        return Some(Answer::Refuse(libc::EPERM));
    }
    let mut passed = Vec::new();
    let (bytes, flags) = match call.call {
        libc::SYS_sendto => (task.read(first, (second as usize).min(LONGEST)).ok()?, third),
        libc::SYS_sendmsg => {
            let header = task.read(first, MESSAGE).ok()?;
            let control = task.read(word(&header, 32), (word(&header, 40) as usize).min(CONTROL)).ok()?;
            passed = passed_numbers(&control)?;
            (message(task, &header).ok()?.1, second)
        }
        _ => return None,
    };
    let flags = flags as u32 as i32;
    let waits = flags & libc::MSG_DONTWAIT == 0
        && rustix::fs::fcntl_getfl(&stream).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK));
    let process = task.process()?;
    let fds: Vec<OwnedFd> =
        passed.into_iter().map(|number| process::descriptor_of(process, number)).collect::<Result<_, _>>().ok()?;
    if fds.iter().any(|fd| rustix::net::sockopt::socket_type(fd) == Ok(rustix::net::SocketType::DGRAM)) {
        // Whoever got it could put it where one of its threads sends.
        return Some(Answer::Refuse(libc::EPERM));
    }
    match socket::send_with(stream.as_fd(), &bytes, flags & FLAGS | libc::MSG_DONTWAIT, &fds) {
        Ok(sent) => Some(Answer::Value(i64::try_from(sent).unwrap_or(i64::MAX))),
        Err(error) if waits && error.raw_os_error() == Some(libc::EAGAIN) => None,
        Err(error) => Some(error.into()),
    }
}

fn allowed(yes: bool, errno: i32) -> Answer {
    if yes { Answer::Proceed } else { Answer::Refuse(errno) }
}

/// Whether a process (or with a minus a process group, or with 0 the caller's own) is the step's.
fn whom(id: i32) -> bool {
    match id {
        0 => true,
        1.. => Task { thread: id.unsigned_abs() }.is_below(std::process::id()),
        _ => {
            let members = super::task::group_members(id.unsigned_abs());
            !members.is_empty() && members.iter().all(|pid| Task { thread: *pid }.is_below(std::process::id()))
        }
    }
}

/// Nanoseconds of CPU time that a thread has used, proc_pid_schedstat(5).
fn used(thread: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Calls `action` while the socket does not wait, and says whether its owner had it wait.
fn without_waiting<T>(socket: &OwnedFd, action: impl FnOnce() -> T) -> (T, bool) {
    let flags = rustix::fs::fcntl_getfl(socket).unwrap_or(OFlags::NONBLOCK);
    let waits = !flags.contains(OFlags::NONBLOCK);
    if waits {
        // Shared with the step for these few instructions; the caller itself stands still.
        let _ = rustix::fs::fcntl_setfl(socket, flags | OFlags::NONBLOCK);
    }
    let result = action();
    if waits {
        let _ = rustix::fs::fcntl_setfl(socket, flags);
    }
    (result, waits)
}

/// What a socket is ready for: empty while it is being connected.
fn events(socket: &OwnedFd) -> PollFlags {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::ERR,
    }
}

/// The address of a unix socket that we opened: its path can't be changed under us.
fn path_address(socket: &OwnedFd) -> Vec<u8> {
    address::unix_bytes(format!("/proc/self/fd/{}", socket.as_raw_fd()).as_bytes())
}

/// Address and data of a `struct msghdr`. What else it carries (descriptors, options) is left out: a datagram socket
/// takes it to nobody.
fn message(task: Task, header: &[u8]) -> Result<(Option<Vec<u8>>, Vec<u8>), Unread> {
    let address = match word(header, 0) {
        0 => None,
        at => Some(task.read(at, (word(header, 8) as u32).min(128) as usize)?),
    };
    let vectors = task.read(word(header, 16), (word(header, 24) as usize).min(VECTOR) * 16)?;
    let mut bytes = Vec::new();
    for vector in vectors.chunks_exact(16) {
        let room = (LONGEST + 1).saturating_sub(bytes.len());
        let length = (word(vector, 8) as usize).min(room);
        if length > 0 {
            bytes.extend(task.read(word(vector, 0), length)?);
        }
    }
    Ok((address, bytes))
}

/// Bytes of control data that are looked at: as many descriptors as the kernel passes at once, and more.
const CONTROL: usize = 4096;

/// The descriptors that control data passes, cmsg(3); `None` where it holds anything else.
fn passed_numbers(mut control: &[u8]) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    while !control.is_empty() {
        let length = usize::try_from(word(control, 0)).ok().filter(|length| (16..=control.len()).contains(length))?;
        let int = |at: usize| control.get(at..)?.first_chunk().map(|b| i32::from_ne_bytes(*b));
        if (int(8)?, int(12)?) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            return None;
        }
        numbers.extend(
            control[16..length].chunks_exact(4).filter_map(|b| b.first_chunk().map(|b| u32::from_ne_bytes(*b))),
        );
        control = control.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Some(numbers)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_ne_bytes(*b))
}

fn outside(target: &Target) -> bool {
    matches!(&target.address, Address::Inet(at) if !is_local(at.ip()))
}

/// Whether an address is this machine's: those can be bound to.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

/// The name servers of a resolv.conf(5); the resolver asks this machine where it names none.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.split_ascii_whitespace().next()?.parse().ok())
        .collect();
    if all.is_empty() {
        all.push(Ipv4Addr::LOCALHOST.into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_default_to_this_machine() {
        assert_eq!(nameservers("# x\nnameserver 10.0.0.1\nnameserver\t::1 # y\noptions a\n").len(), 2);
        assert_eq!(nameservers("search x\n"), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    }

    #[test]
    fn addresses_of_this_machine_are_known() {
        assert!(is_local("127.9.9.9".parse().unwrap()) && is_local("0.0.0.0".parse().unwrap()));
        assert!(!is_local("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn passed_descriptors_are_read_and_nothing_else_is() {
        let part = |level: i32, kind: i32, data: &[u8]| {
            let length = (16 + data.len() as u64).to_ne_bytes();
            let mut all = [&length[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), data].concat();
            all.resize(all.len().next_multiple_of(8), 0);
            all
        };
        let rights = part(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(passed_numbers(&[rights.clone(), rights.clone()].concat()), Some(vec![7, 8, 9, 7, 8, 9]));
        assert_eq!(passed_numbers(&[]), Some(vec![]));
        assert_eq!(passed_numbers(&part(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[0; 12])), None);
        for cut in 1..16 {
            assert_eq!(passed_numbers(&rights[..cut]), None);
        }
    }

    #[test]
    fn only_the_step_is_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(whom(child.id().cast_signed()) && whom(0));
        let parent = std::os::unix::process::parent_id().cast_signed();
        assert!(
            !whom(parent) && !whom(1) && !whom(i32::MAX) && !whom(-i32::MAX) && !whom(std::process::id().cast_signed())
        );
        // Our own group has our parent in it, or at least us.
        assert!(!whom(-rustix::process::getpgrp().as_raw_nonzero().get()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
