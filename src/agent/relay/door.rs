//! A listener that stands for an address of the outside: open as long as somebody who may come is expected.

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Connections that may wait to be taken. Each of them was allowed to proceed, one by one.
const BACKLOG: i32 = 1024;

#[derive(Debug)]
pub(super) struct Door {
    pub(super) target: SocketAddr,
    /// Where it stands: there, or at loopback.
    pub(super) at: SocketAddr,
    pub(super) guests: Guests,
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

/// Who may come to a place at loopback, which is the whole machine's: the step's own sockets, by their addresses.
#[derive(Debug)]
pub(super) enum Guests {
    /// In a namespace of its own there is nobody but the step.
    Everybody,
    /// The place, and who may come to it.
    Listed(IpAddr, VecDeque<SocketAddr>),
}

/// Addresses that are remembered as guests of one place.
const GUESTS: usize = 4096;

impl Guests {
    pub(super) fn of(target: SocketAddr, at: SocketAddr) -> Guests {
        if target.ip() == at.ip() { Guests::Everybody } else { Guests::Listed(at.ip(), VecDeque::new()) }
    }

    pub(super) fn welcome(&mut self, from: SocketAddr) {
        let Guests::Listed(at, all) = self else { return };
        // Who did not choose an address comes from that of the place.
        let ip = if from.ip().is_unspecified() { *at } else { from.ip() };
        let from = plain((ip, from.port()).into());
        if !all.contains(&from) {
            if all.len() >= GUESTS {
                all.pop_front();
            }
            all.push_back(from);
        }
    }

    /// Whether that one may come.
    pub(super) fn has(&self, from: Option<SocketAddr>) -> bool {
        match self {
            Guests::Everybody => true,
            Guests::Listed(_, all) => from.is_some_and(|from| all.contains(&plain(from))),
        }
    }

    /// The connection of a guest is there: another one from the same address is not his.
    pub(super) fn came(&mut self, from: Option<SocketAddr>) {
        if let (Guests::Listed(_, all), Some(from)) = (self, from.map(plain)) {
            all.retain(|guest| *guest != from);
        }
    }
}

/// As the other side sees it: an IPv4 address inside an IPv6 one is that.
fn plain(from: SocketAddr) -> SocketAddr {
    (from.ip().to_canonical(), from.port()).into()
}

/// A place at loopback that stands for an address, of its family where the machine has that.
pub(super) fn at_loopback(target: SocketAddr) -> SocketAddr {
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    if target.is_ipv6() && std::net::UdpSocket::bind(six).is_ok() { six } else { (Ipv4Addr::LOCALHOST, 0).into() }
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

/// Where a socket stands that was bound to `at`, whose port may be any.
pub(super) fn standing(socket: &OwnedFd, at: SocketAddr) -> SocketAddr {
    net::getsockname(socket).ok().and_then(|at| at.try_into().ok()).unwrap_or(at)
}

impl Door {
    /// Stands at `at`. A deaf one leaves connections in the making until somebody is expected.
    pub(super) fn open(target: SocketAddr, at: SocketAddr, deaf: bool) -> io::Result<Door> {
        let listener = bound(at, SocketType::STREAM)?;
        net::listen(&listener, if deaf { 0 } else { BACKLOG })?;
        let at = standing(&listener, at);
        let filler = if deaf { Some(connected(at)?) } else { None };
        let filled_from = filler.as_ref().and_then(|socket| net::getsockname(socket).ok()?.try_into().ok());
        let guests = Guests::of(target, at);
        Ok(Door { target, at, guests, listener, expected: VecDeque::new(), awaited: 0, filler, filled_from })
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
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            if from == self.filled_from && from.is_some() {
                self.filled_from = None;
            } else if self.guests.has(from) {
                self.guests.came(from);
                return Some((self.expected.pop_front().map(|(stream, _)| stream), socket));
            }
        }
    }

    /// Those who did not come in time.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<u32> {
        let late = self.expected.iter().filter(|(_, until)| *until <= now).map(|(stream, _)| *stream).collect();
        self.expected.retain(|(_, until)| *until > now);
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, UdpSocket};

    #[test]
    fn a_door_at_loopback_lets_in_its_guests_alone_and_each_once() {
        let target = SocketAddr::from(([198, 51, 100, 1], 443));
        let mut door = Door::open(target, at_loopback(target), false).unwrap();
        assert!(door.at.ip().is_loopback() && door.at.port() != 0);
        let until = Instant::now() + std::time::Duration::from_secs(9);
        door.expect(7, until);
        door.expect(8, until);
        let stranger = TcpStream::connect(door.at).unwrap();
        let guest = TcpStream::connect(door.at).unwrap();
        door.guests.welcome(guest.local_addr().unwrap());
        assert_eq!(door.admit().unwrap().0, Some(7));
        assert!(door.admit().is_none());
        drop((stranger, guest));
        assert!(!door.guests.has(Some(SocketAddr::from(([127, 0, 0, 1], 1)))));
        // Where the address is the cell's own nobody else can come.
        assert!(Guests::of(target, target).has(None));
    }

    #[test]
    fn a_guest_is_known_by_the_address_that_the_place_sees() {
        let place = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut guests = Guests::of(SocketAddr::from(([198, 51, 100, 1], 53)), SocketAddr::from((place, 5)));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        guests.welcome(socket.local_addr().unwrap());
        assert!(guests.has(Some((place, port).into())) && !guests.has(Some(([127, 0, 0, 2], port).into())));
        guests.welcome(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9)));
        guests.welcome("[::ffff:127.0.0.3]:9".parse().unwrap());
        assert!(guests.has(Some((place, 9).into())) && guests.has(Some(([127, 0, 0, 3], 9).into())));
        assert!(!guests.has(None));
    }
}
