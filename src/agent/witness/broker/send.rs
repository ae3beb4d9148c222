//! Datagrams: each is performed on our copy of its socket, with our copy of its address.

use super::connect::{is_local, is_six, own_address, path_address, stays_here};
use super::kept::Whose;
use super::message::{LONGEST, message};
use super::{Answer, Broker, Later};
use crate::agent::channel::Channel;
use crate::agent::witness::address::{self, Address};
use crate::agent::witness::task::{Task, Unread};
use crate::agent::witness::{Fate, MESSAGE, Target, VECTOR, Weighed, Witness, call_name, dns};
use crate::frame::Verdict;
use crate::linux::notify::{Listener, Notification};
use crate::linux::socket;
use rustix::fs::OFlags;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Flags of sends that a caller may choose.
pub(super) const FLAGS: i32 =
    libc::MSG_DONTWAIT | libc::MSG_MORE | libc::MSG_EOR | libc::MSG_CONFIRM | libc::MSG_DONTROUTE;

impl Broker {
    pub(super) fn send(
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
                let mut refused = false;
                for target in targets.iter().filter(|target| outside(target)) {
                    let kind = Some((libc::SOCK_STREAM, false));
                    match witness.weigh(task, call, call_name(call), target, kind, channel) {
                        Weighed::Nothing => {}
                        Weighed::Again => refused = true,
                        // Not performed: whoever may connect does that then.
                        Weighed::Leads { attempt, .. } if attempt.verdict == Verdict::Allowed => {}
                        Weighed::Leads { attempt, at, .. } => {
                            witness.refuse(task, call_name(call), at, *attempt, channel);
                            refused = true;
                        }
                    }
                }
                return Ok(Answer::Refuse(if refused { libc::ENETUNREACH } else { libc::EOPNOTSUPP }));
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
    pub(super) fn datagram(
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
                let local = stays_here(witness, at.ip());
                let own = is_local(at.ip()) && self.whose(true, at) == Whose::Own;
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
                match witness.judge(task, call, &target, Some((libc::SOCK_DGRAM, false)), channel) {
                    Fate::Refused(errno) => Answer::Refuse(errno),
                    _ => self.relayed(witness, inode, at, bytes, flags),
                }
            }
            _ => Answer::Refuse(libc::EAFNOSUPPORT),
        }
    }

    /// Sends to the place that stands for an address.
    fn relayed(&mut self, witness: &mut Witness, inode: u64, at: SocketAddr, bytes: Vec<u8>, flags: i32) -> Answer {
        let Some(relay) = &mut witness.relay else { return Answer::Refuse(libc::ENETUNREACH) };
        let Some(place) = relay.place_of(at, true) else { return Answer::Refuse(libc::ENETUNREACH) };
        let Some(kept) = self.kept.get(&inode) else { return Answer::Refuse(libc::EBADF) };
        let address = address::bytes(place, is_six(&kept.socket));
        let answer = self.send_to(inode, bytes, Some(address), flags, None);
        // It has an address of its own since it was sent from, at the latest; nobody has looked at the place meanwhile.
        if let Some(from) = self.kept.get(&inode).and_then(|kept| own_address(&kept.socket)) {
            relay.welcome(at, true, from);
        }
        answer
    }

    pub(super) fn send_to(
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
}

fn outside(target: &Target) -> bool {
    matches!(&target.address, Address::Inet(at) if !is_local(at.ip()))
}
