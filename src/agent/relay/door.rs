//! A listener at an address of the outside: open as long as somebody who may come is expected.

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// Connections that may wait to be taken. Each of them was allowed to proceed, one by one.
const BACKLOG: i32 = 1024;

#[derive(Debug)]
pub(super) struct Door {
    pub(super) target: SocketAddr,
    listener: OwnedFd,
    /// The streams that connections are expected for, and until when. They are all alike: each is a new connection to
    /// the same place.
    expected: VecDeque<(u32, Instant)>,
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A socket bound to exactly this address, which is the cell's own although no interface has it.
pub(super) fn bound(target: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if target.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    } else {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    if kind == SocketType::STREAM {
        // So that a server of the step may have the same port at its own address, and keep it when this one goes. For
        // datagrams it would let the step take over the whole address (socket(7)).
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    net::bind(&socket, &target)?;
    Ok(socket)
}

impl Door {
    pub(super) fn open(target: SocketAddr) -> io::Result<Door> {
        let listener = bound(target, SocketType::STREAM)?;
        net::listen(&listener, BACKLOG)?;
        Ok(Door { target, listener, expected: VecDeque::new() })
    }

    pub(super) fn expect(&mut self, stream: u32, until: Instant) {
        self.expected.push_back((stream, until));
    }

    /// Whether anybody is still expected.
    pub(super) fn is_open(&self) -> bool {
        !self.expected.is_empty()
    }

    /// When the first one is late.
    pub(super) fn due(&self) -> Option<Instant> {
        self.expected.front().map(|(_, until)| *until)
    }

    /// The next connection that is there, for the stream that waited for longest.
    pub(super) fn admit(&mut self) -> Option<(u32, OwnedFd)> {
        let (stream, _) = *self.expected.front()?;
        let socket = net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
        self.expected.pop_front();
        Some((stream, socket))
    }

    /// Those who did not come in time.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<u32> {
        let late = self.expected.partition_point(|(_, until)| *until <= now);
        self.expected.drain(..late).map(|(stream, _)| stream).collect()
    }
}
