//! Datagrams: a socket at each address that was allowed, and a flow for each of the step's sockets that sends there.

use super::door::{Guests, bound, standing};
use rustix::net::{self, RecvFlags, SendFlags, SocketType};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// The largest datagram, in bytes (udp(7)).
pub(super) const LARGEST: usize = 65_535;

/// A socket that stands for an address of the outside. It stays for the life of the cell: a socket that was connected to it
/// sends without asking again.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) target: SocketAddr,
    /// Where it stands: there, or at loopback.
    pub(super) at: SocketAddr,
    pub(super) guests: Guests,
    /// The name that this address was looked up for; empty where there is none.
    pub(super) name: String,
    socket: OwnedFd,
}

/// What one of the step's sockets and one address say to each other.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) port: u32,
    pub(super) peer: SocketAddr,
    /// Bytes that may still be sent to the host.
    pub(super) credit: u32,
    pub(super) last: Instant,
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Port {
    pub(super) fn open(target: SocketAddr, at: SocketAddr, name: &str) -> io::Result<Port> {
        let socket = bound(at, SocketType::DGRAM)?;
        let at = standing(&socket, at);
        Ok(Port { target, at, guests: Guests::of(target, at), name: name.to_owned(), socket })
    }

    /// The next datagram that is there: its length, and who sent it.
    pub(super) fn receive(&self, bytes: &mut [u8]) -> Option<(usize, SocketAddr)> {
        loop {
            match net::recvfrom(&self.socket, &mut *bytes, RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                    if self.guests.has(from) {
                        return Some((length, from?));
                    }
                }
                // What the kernel says about a datagram that was sent before.
                Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends an answer; one that the step does not take is lost.
    pub(super) fn send(&self, bytes: &[u8], peer: SocketAddr) {
        let _ = net::sendto(&self.socket, bytes, SendFlags::empty(), &peer);
    }
}
