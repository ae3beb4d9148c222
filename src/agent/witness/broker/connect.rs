//! Connects: to what the step itself opened, to our own name server, to where the policy lets it.

use super::kept::Whose;
use super::{Answer, Broker, Later};
use crate::agent::channel::Channel;
use crate::agent::witness::Fate;
use crate::agent::witness::address::{self, Address};
use crate::agent::witness::task::Task;
use crate::agent::witness::{Target, Witness, call_name, sockets};
use crate::frame::{Attempt, Verdict};
use crate::linux::notify::Notification;
use crate::linux::socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

impl Broker {
    pub(super) fn connect(
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
                if is_local(at.ip()) && self.whose(true, *at) == Whose::Own {
                    self.peers.remove(&inode);
                    return self.connect_to(inode, bytes, None);
                }
                if !stays_here(witness, at.ip()) {
                    return match witness.judge(task, call, &target, Some((libc::SOCK_DGRAM, false)), channel) {
                        Fate::Refused(errno) => Answer::Refuse(errno),
                        _ => self.point(witness, inode, *at),
                    };
                }
                if at.port() == 53 {
                    return self.lead(witness, task, inode, self.stub);
                }
                // As if nobody were there. Later somebody could be, so it does not stay connected to the place.
                match self.sink.local_addr() {
                    Ok(sink) => self.lead(witness, task, inode, sink),
                    Err(error) => error.into(),
                }
            }
            (Address::Inet(at), false) => self.connect_stream(witness, call, task, inode, *at, bytes, channel),
            _ => Answer::Refuse(libc::EAFNOSUPPORT),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of one call")]
    pub(super) fn connect_stream(
        &mut self,
        witness: &mut Witness,
        call: &Notification,
        task: Task,
        inode: u64,
        at: SocketAddr,
        bytes: Vec<u8>,
        channel: &mut Channel,
    ) -> Answer {
        let whose = if is_local(at.ip()) { self.whose(false, at) } else { Whose::Others };
        let local = stays_here(witness, at.ip());
        if whose == Whose::Own {
            return self.connect_to(inode, bytes, None);
        }
        if at.port() == 53 && (local || self.nameservers.contains(&at.ip())) {
            return self.lead(witness, task, inode, self.stub);
        }
        if local {
            if whose == Whose::Others && !witness.again(task, "connect", at) {
                let attempt = Attempt {
                    verdict: Verdict::Note,
                    call: "connect".to_owned(),
                    protocol: "tcp".to_owned(),
                    address: at.ip().to_string(),
                    port: at.port(),
                    why: "a service of this machine, which the step did not start".to_owned(),
                    ..Attempt::default()
                };
                if let Some(told) = witness.by(task, attempt, channel) {
                    witness.remember(task, "connect", at, told);
                }
            }
            return Answer::Refuse(libc::ECONNREFUSED);
        }
        let target = Target { address: Address::Inet(at), payload: Vec::new() };
        let non_blocking = self.kept.get(&inode).is_some_and(|kept| {
            rustix::fs::fcntl_getfl(&kept.socket).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
        });
        match witness.judge(task, call, &target, Some((libc::SOCK_STREAM, non_blocking)), channel) {
            Fate::Refused(errno) => Answer::Refuse(errno),
            Fate::Waits => Answer::Wait(Later::Dialed { inode, at }),
            Fate::Pass => Answer::Refuse(libc::ENETUNREACH),
        }
    }

    /// Connects a socket to the door that stands for what it asked for.
    pub(super) fn meet(&mut self, witness: &mut Witness, inode: u64, at: SocketAddr) -> Answer {
        let Some(relay) = &mut witness.relay else { return Answer::Refuse(libc::ENETUNREACH) };
        let Some(place) = relay.place_of(at, false) else { return Answer::Refuse(libc::ECONNREFUSED) };
        let Some(kept) = self.kept.get(&inode) else { return Answer::Refuse(libc::EISCONN) };
        let Ok(socket) = kept.socket.try_clone() else { return Answer::Refuse(libc::ENOBUFS) };
        let answer = self.connect_to(inode, address::bytes(place, is_six(&socket)), None);
        if let Some(from) = own_address(&socket) {
            relay.welcome(at, false, from);
        }
        self.peers.insert(inode, at);
        answer
    }

    /// Points a datagram socket to the place that stands for what it asked for.
    fn point(&mut self, witness: &mut Witness, inode: u64, at: SocketAddr) -> Answer {
        let Some(relay) = &mut witness.relay else { return Answer::Refuse(libc::ENETUNREACH) };
        let Some(place) = relay.place_of(at, true) else { return Answer::Refuse(libc::ENETUNREACH) };
        let Some(kept) = self.kept.get(&inode) else { return Answer::Refuse(libc::EBADF) };
        let answer = self.connect_to(inode, address::bytes(place, is_six(&kept.socket)), None);
        if let Some(from) = self.kept.get(&inode).and_then(|kept| own_address(&kept.socket)) {
            relay.welcome(at, true, from);
        }
        self.peers.insert(inode, at);
        answer
    }

    /// getpeername(2): of what is relayed, the address that was asked for.
    pub(super) fn peer_name(&self, call: &Notification, task: Task) -> Answer {
        let [number, to, length, ..] = call.arguments;
        let Some((inode, at)) = task.inode(number).and_then(|inode| Some((inode, self.peers.get(&inode)?))) else {
            return Answer::Proceed;
        };
        let kept = self.kept.get(&inode);
        if kept.is_some_and(|kept| rustix::net::getpeername(&kept.socket).is_err()) {
            // Not connected yet, or no longer: the kernel says so.
            return Answer::Proceed;
        }
        let six = at.is_ipv6() || kept.is_some_and(|kept| is_six(&kept.socket));
        let bytes = address::bytes(*at, six);
        let fault = |_| Answer::Refuse(libc::EFAULT);
        let said = task.read(length, 4).map_err(|_| ()).map_err(fault).and_then(|room| {
            let room = room.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b)) as usize;
            task.write(to, &bytes[..bytes.len().min(room)]).map_err(|_| ()).map_err(fault)?;
            task.write(length, &(bytes.len() as u32).to_ne_bytes()).map_err(|_| ()).map_err(fault)
        });
        said.map_or_else(|answer| answer, |()| Answer::Value(0))
    }

    /// Connects a socket to another place of ours than it asked for.
    pub(super) fn lead(&mut self, witness: &mut Witness, task: Task, inode: u64, to: SocketAddr) -> Answer {
        if to == self.stub {
            witness.asks(task);
        }
        let Some(kept) = self.kept.get(&inode) else { return Answer::Refuse(libc::EBADF) };
        let six = is_six(&kept.socket);
        self.peers.remove(&inode);
        self.connect_to(inode, address::bytes(to, six), None)
    }

    /// Connects our copy without waiting. Where its owner would wait, it waits.
    pub(super) fn connect_to(&mut self, inode: u64, address: Vec<u8>, path: Option<OwnedFd>) -> Answer {
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
    pub(super) fn unix(
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
}

pub(super) fn is_six(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_domain(socket).is_ok_and(|domain| domain == rustix::net::AddressFamily::INET6)
}

/// Where a socket sends from.
pub(super) fn own_address(socket: &OwnedFd) -> Option<SocketAddr> {
    rustix::net::getsockname(socket).ok()?.try_into().ok()
}

/// Calls `action` while the socket does not wait, and says whether its owner had it wait.
pub(super) fn without_waiting<T>(socket: &OwnedFd, action: impl FnOnce() -> T) -> (T, bool) {
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
pub(super) fn events(socket: &OwnedFd) -> PollFlags {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::ERR,
    }
}

/// The address of a unix socket that we opened: its path can't be changed under us.
pub(super) fn path_address(socket: &OwnedFd) -> Vec<u8> {
    address::unix_bytes(format!("/proc/self/fd/{}", socket.as_raw_fd()).as_bytes())
}

/// Whether an address is this machine's: those can be bound to.
pub(super) fn is_local(address: IpAddr) -> bool {
    // Addresses of many can be bound to as well.
    let many = address.is_multicast() || address == IpAddr::from(Ipv4Addr::BROADCAST);
    address.is_loopback() || address.is_unspecified() || (!many && UdpSocket::bind((address, 0)).is_ok())
}

/// Whether what goes to this address can only be for this machine. Where the host relays, its other addresses are the
/// policy's to allow, as in a cell that has a network of its own.
pub(super) fn stays_here(witness: &Witness, address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || (witness.relay.is_none() && is_local(address))
}

/// The name servers of a resolv.conf(5); the resolver asks this machine where it names none.
pub(super) fn nameservers(text: &str) -> Vec<IpAddr> {
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
        for other in ["192.0.2.1", "255.255.255.255", "224.0.0.1", "ff02::1"] {
            assert!(!is_local(other.parse().unwrap()), "{other}");
        }
    }
}
