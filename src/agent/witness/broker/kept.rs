//! The sockets of the step: made here, kept as copies, and told from those of others.

use super::processes::whom;
use super::{Answer, Broker, Later, SocketAddr};
use crate::agent::family::Family;
use crate::agent::witness::sockets;
use crate::agent::witness::task::Task;
use crate::linux::notify::{Listener, Notification};
use crate::linux::socket;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Sockets that are kept before those that everybody closed are looked for.
const MANY: usize = 256;

/// Our copy of a socket of the step.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) socket: OwnedFd,
    pub(super) datagram: bool,
    pub(super) unix: bool,
    /// A connect was begun and the caller did not wait for it.
    pub(super) connecting: bool,
}

/// Whose a place on this machine's loopback is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Own,
    Nobodys,
    Others,
}

/// Sockets that are remembered as the step's before those that nobody has open are forgotten.
const MADE: usize = 65_536;

impl Broker {
    /// Makes a socket, or a pair of them, and hands it out.
    pub(super) fn make(&mut self, listener: &Listener, call: &Notification) -> Answer {
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
        // What is allowed beyond it is relayed, through a door at loopback.
        if family != libc::AF_UNIX {
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

    pub(super) fn keep(&mut self, socket: OwnedFd, datagram: bool, unix: bool) {
        if let Ok(stat) = rustix::fs::fstat(&socket) {
            self.made.insert(stat.st_ino);
            self.kept.insert(stat.st_ino, Kept { socket, datagram, unix, connecting: false });
        }
    }

    /// Whose the sockets are that this address on this machine leads to.
    pub(super) fn whose(&mut self, datagram: bool, at: SocketAddr) -> Whose {
        let mut whose = Whose::Nobodys;
        for inode in self.standing_ready(datagram, at) {
            if !self.is_own(inode) {
                return Whose::Others;
            }
            whose = Whose::Own;
        }
        whose
    }

    /// The sockets that take what comes to this address.
    fn standing_ready(&mut self, datagram: bool, at: SocketAddr) -> Vec<u64> {
        if let Some(Ok(all)) = self.sockets.as_mut().map(|sockets| sockets.on_port(datagram, at.port())) {
            return all.iter().filter(|bound| sockets::takes_for(bound.ip, at.ip())).map(|bound| bound.inode).collect();
        }
        let tables = if datagram { ["udp", "udp6"] } else { ["tcp", "tcp6"] };
        let text = |table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        tables.iter().flat_map(|table| sockets::bound_inodes(&text(table), datagram, at)).collect()
    }

    /// Whether a process of the step has this socket open.
    pub(super) fn is_own(&mut self, inode: u64) -> bool {
        if !self.made.contains(&inode) {
            return false;
        }
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
    pub(super) fn look(&mut self) {
        self.seen.clear();
        for pid in Family::Descendants.members() {
            self.seen.extend(Task { thread: pid }.inodes().into_iter().map(|(number, inode)| (inode, (pid, number))));
        }
    }

    /// Drops our copies of sockets that everybody closed.
    pub(super) fn sweep(&mut self) {
        self.swept = Instant::now();
        if self.kept.is_empty() && self.peers.is_empty() {
            return;
        }
        self.look();
        let open: HashSet<u64> = self.seen.keys().copied().collect();
        self.kept.retain(|inode, _| open.contains(inode));
        self.peers.retain(|inode, _| open.contains(inode));
        if self.made.len() > MADE {
            self.made.retain(|inode| open.contains(inode));
        }
    }
}
