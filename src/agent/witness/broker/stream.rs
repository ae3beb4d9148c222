//! Sends on streams: they go on in the kernel where nobody can put a datagram socket under them meanwhile.

use super::message::{CONTROL, LONGEST, message, passed_numbers, word};
use super::send::FLAGS;
use super::{Answer, Broker, Later};
use crate::agent::witness::MESSAGE;
use crate::agent::witness::task::Task;
use crate::linux::notify::Notification;
use crate::linux::{process, socket};
use rustix::fs::OFlags;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a send on a stream waits for its process to close its last datagram socket.
const HOLDING: Duration = Duration::from_secs(2);

/// CPU time after which a thread that was let go on is past the call that it went on with, for which it needs a
/// thousandth of it.
const PAST: u64 = 1_000_000;

/// A thread that was let go on with a send, in a process with others.
#[derive(Debug)]
pub(super) struct GoingOn {
    pub(super) process: u32,
    thread: u32,
    used: u64,
}

impl Broker {
    /// A send on what is no datagram socket: it carries no address anywhere, unless another thread puts a datagram
    /// socket under its number before the kernel looks. So it goes on only where there is none to put.
    pub(super) fn stream_goes_on(&mut self, call: &Notification, task: Task, since: Instant) -> Answer {
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
    pub(super) fn holds_datagrams(&self, task: Task) -> bool {
        self.kept.values().any(|kept| kept.datagram)
            && task.inodes().iter().any(|(_, inode)| self.kept.get(inode).is_some_and(|kept| kept.datagram))
    }

    /// Whether a thread of the caller's process was let go on with a send and may not have begun it.
    pub(super) fn somebody_goes_on(&mut self, task: Task) -> bool {
        self.going_on.retain(|going| {
            // It sleeps in its send, or somewhere behind it; or it has used so much time that it is past it.
            let state = Task { thread: going.thread }.state();
            matches!(state, Some('R' | 'D'))
                && used(going.thread).is_some_and(|now| now.saturating_sub(going.used) < PAST)
        });
        let process = task.process();
        self.going_on.iter().any(|going| Some(going.process) == process)
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

/// Nanoseconds of CPU time that a thread has used, proc_pid_schedstat(5).
fn used(thread: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}
