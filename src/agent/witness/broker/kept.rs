//! The sockets of the step: made here, kept as copies, and told from those of others.

use super::processes::whom;
use super::{Answer, Broker, Later, SocketAddr};
use crate::agent::family::Family;
use crate::agent::witness::task::Task;
use crate::agent::witness::{Witness, sockets};
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

impl Broker {
    /// Makes a socket, or a pair of them, and hands it out.
    pub(super) fn make(&mut self, witness: &Witness, listener: &Listener, call: &Notification) -> Answer {
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

    pub(super) fn keep(&mut self, socket: OwnedFd, datagram: bool, unix: bool) {
        if let Ok(stat) = rustix::fs::fstat(&socket) {
            self.kept.insert(stat.st_ino, Kept { socket, datagram, unix, connecting: false });
        }
    }

    /// Whose the sockets are that this address on this machine leads to.
    pub(super) fn whose(&mut self, datagram: bool, at: SocketAddr) -> Whose {
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
    pub(super) fn is_own(&mut self, inode: u64) -> bool {
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
        if self.kept.is_empty() {
            return;
        }
        self.look();
        let open: HashSet<u64> = self.seen.keys().copied().collect();
        self.kept.retain(|inode, _| open.contains(inode));
    }
}
