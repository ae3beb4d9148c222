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

mod connect;
mod kept;
mod message;
mod processes;
mod send;
mod stream;

use super::files::Writable;
use super::task::{Task, Unread};
use super::{Witness, stub::Stub};
use crate::agent::channel::Channel;
use crate::linux::diag::Sockets;
use crate::linux::notify::{Listener, Notification};
use connect::{events, nameservers};
use kept::Kept;
use processes::{allowed, signal_everybody, whom};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stream::GoingOn;

/// How often what waits is looked at, and how often sockets that everybody closed are looked for.
const SOON: Duration = Duration::from_millis(2);
const SWEEP: Duration = Duration::from_secs(1);
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
    /// Says whose a place is, where this kernel has it. The filter lets nobody open one later.
    sockets: Option<Sockets>,
    /// Every socket that was made for the step: one that is not among them is somebody else's.
    made: HashSet<u64>,
    kept: HashMap<u64, Kept>,
    waiting: Vec<Waiting>,
    going_on: Vec<GoingOn>,
    /// What relayed sockets are connected to, as the step named it: the kernel only knows our door.
    peers: HashMap<u64, SocketAddr>,
    /// Where a socket of the step was seen open: process and number.
    seen: HashMap<u64, (u32, u64)>,
    swept: Instant,
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
    /// Until the host has dialed what the policy allows.
    Dialed { inode: u64, at: SocketAddr },
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
            sockets: Sockets::open().ok(),
            made: HashSet::new(),
            kept: HashMap::new(),
            waiting: Vec::new(),
            going_on: Vec::new(),
            peers: HashMap::new(),
            seen: HashMap::new(),
            swept: Instant::now(),
        })
    }

    /// How long nothing needs to be looked at; `None` for ever.
    pub fn patience(&self) -> Option<Duration> {
        let looked_at = |waiting: &Waiting| !matches!(waiting.what, Later::Dialed { .. });
        if self.waiting.iter().any(looked_at) || self.kept.values().any(|kept| kept.connecting) {
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
    pub fn turn(&mut self, listener: &Listener) {
        for Waiting { call, since, what } in std::mem::take(&mut self.waiting) {
            if listener.waits(call.id) {
                let answer = self.again(listener, &call, since, what);
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

    /// Goes on with a connect for which the host has dialed: to the door that is open for it now.
    pub fn dialed(&mut self, witness: &mut Witness, listener: &Listener, ticket: u64, errno: i32) {
        let Some(index) = self.waiting.iter().position(|waiting| waiting.call.id == ticket) else { return };
        let Waiting { call, since, what } = self.waiting.swap_remove(index);
        let answer = match what {
            Later::Dialed { inode, at } if errno == 0 && listener.waits(ticket) => self.meet(witness, inode, at),
            _ => Answer::Refuse(errno),
        };
        self.give(listener, &call, answer, since);
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
            libc::SYS_socket | libc::SYS_socketpair => self.make(listener, call),
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
            libc::SYS_getpeername => self.peer_name(call, task),
            libc::SYS_bind => {
                // The number of a port that everybody closed is free again.
                self.sweep();
                Answer::Proceed
            }
            libc::SYS_listen => {
                task.inode(first).and_then(|inode| self.kept.remove(&inode));
                Answer::Proceed
            }
            libc::SYS_kill if number(first) == -1 => {
                signal_everybody(task.process(), number(second));
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

    fn again(&mut self, listener: &Listener, call: &Notification, since: Instant, what: Later) -> Answer {
        match what {
            Later::Dialed { .. } => Answer::Wait(what),
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
            Later::Given => self.make(listener, call),
            Later::Alone => self.stream_goes_on(call, Task { thread: call.thread }, since),
        }
    }
}
