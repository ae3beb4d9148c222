//! A listener at an address of the outside: open as long as somebody who may come is expected.

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Connections that may wait to be taken. Each of them was allowed to proceed, one by one.
const BACKLOG: i32 = 1024;

#[derive(Debug)]
pub(super) struct Door {
    pub(super) target: SocketAddr,
    listener: OwnedFd,
    /// The streams that connections are expected for, and until when. They are all alike: each is a new connection to
    /// the same place.
    expected: VecDeque<(u32, Instant)>,
    /// Connections in the making for which the host has not answered yet: the door stays as long as there are any.
    pub(super) awaited: usize,
    /// What keeps a deaf door deaf: a connection of our own that fills its queue, so that the kernel drops every other
    /// attempt (`tcp_conn_request` in net/ipv4/tcp_input.c), which is made again and again.
    filler: Option<OwnedFd>,
    filled_from: Option<SocketAddr>,
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

/// A connection to a listener of this cell: it is made before the call returns.
fn connected(target: SocketAddr) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    match net::connect(&socket, &target) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e.into()),
    }
}

impl Door {
    /// A deaf one leaves connections in the making until somebody is expected.
    pub(super) fn open(target: SocketAddr, deaf: bool) -> io::Result<Door> {
        let listener = bound(target, SocketType::STREAM)?;
        net::listen(&listener, if deaf { 0 } else { BACKLOG })?;
        let filler = if deaf { Some(connected(target)?) } else { None };
        let filled_from = filler.as_ref().and_then(|socket| net::getsockname(socket).ok()?.try_into().ok());
        Ok(Door { target, listener, expected: VecDeque::new(), awaited: 0, filler, filled_from })
    }

    pub(super) fn expect(&mut self, stream: u32, until: Instant) {
        self.expected.push_back((stream, until));
    }

    /// Makes a deaf door hear. Whether it was one.
    pub(super) fn hear(&mut self) -> io::Result<bool> {
        if self.filler.take().is_none() {
            return Ok(false);
        }
        net::listen(&self.listener, BACKLOG)?;
        Ok(true)
    }

    /// Whether anybody is still expected.
    pub(super) fn is_open(&self) -> bool {
        !self.expected.is_empty() || self.awaited > 0
    }

    /// Everybody has so much more time.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.expected.iter_mut().for_each(|(_, until)| *until += by);
    }

    /// When the first one is late.
    pub(super) fn due(&self) -> Option<Instant> {
        self.expected.iter().map(|(_, until)| *until).min()
    }

    /// The next connection that is there, for the stream that waited for longest; for none where nobody is expected.
    pub(super) fn admit(&mut self) -> Option<(Option<u32>, OwnedFd)> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (socket, from) = net::acceptfrom_with(&self.listener, flags).ok()?;
            if from.and_then(|from| SocketAddr::try_from(from).ok()) != self.filled_from || self.filled_from.is_none() {
                return Some((self.expected.pop_front().map(|(stream, _)| stream), socket));
            }
            self.filled_from = None;
        }
    }

    /// Those who did not come in time.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<u32> {
        let late = self.expected.iter().filter(|(_, until)| *until <= now).map(|(stream, _)| *stream).collect();
        self.expected.retain(|(_, until)| *until > now);
        late
    }
}
