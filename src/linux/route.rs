//! Routes of a network namespace, rtnetlink(7).

use super::{CallError, Named};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Makes every address an address of this network namespace ("AnyIP"): a packet to anywhere arrives at its loopback
/// interface, and who binds an address receives it. Nothing leaves: there is no other interface. What is sent comes from
/// the loopback address of its family.
///
/// The loopback interface must be up. Without IPv6 in the kernel or on that interface only IPv4 is routed.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace.
pub fn everywhere_is_here() -> Result<(), CallError> {
    let call = |family: &str| format!("route every {family} address to the loopback interface");
    ask(&local_route(Ipv4Addr::LOCALHOST.into())).named(|| call("IPv4"))?;
    let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    if disabled.is_ok_and(|text| text.trim() == "0") {
        ask(&local_route(Ipv6Addr::LOCALHOST.into())).named(|| call("IPv6"))?;
    }
    Ok(())
}

/// The loopback interface has this number in every network namespace.
const LOOPBACK: u32 = 1;

/// `RTM_NEWROUTE`: every address of this family is local, and `source` is where packets come from.
fn local_route(source: IpAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // struct rtmsg: destination and source of no bits, no type of service.
    let mut body = vec![family as u8, 0, 0, 0];
    body.extend([libc::RT_TABLE_LOCAL, libc::RTPROT_BOOT, libc::RT_SCOPE_HOST, libc::RTN_LOCAL]);
    body.extend([0; 4]);
    let mut attribute = |kind: u16, value: &[u8]| {
        body.extend(((4 + value.len()) as u16).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    };
    attribute(libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
    match source {
        IpAddr::V4(source) => attribute(libc::RTA_PREFSRC, &source.octets()),
        IpAddr::V6(source) => attribute(libc::RTA_PREFSRC, &source.octets()),
    }
    // struct nlmsghdr before it.
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16;
    let mut message = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Sends a request to the kernel and waits for its answer.
fn ask(request: &[u8]) -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // Without an address it is for the kernel, netlink(7).
    rustix::net::send(&socket, request, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    match error_of(&answer[..length]) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// What a `struct nlmsgerr` says: 0 or a negative error number.
fn error_of(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then(|| answer.get(16..)?.first_chunk().map(|b| i32::from_ne_bytes(*b)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_lengths_that_it_says() {
        for (source, length) in [(IpAddr::from(Ipv4Addr::LOCALHOST), 44), (Ipv6Addr::LOCALHOST.into(), 56)] {
            let request = local_route(source);
            assert_eq!((request.len(), u32::from_ne_bytes(*request.first_chunk().unwrap())), (length, length as u32));
        }
    }

    #[test]
    fn an_answer_is_an_error_number_or_nothing() {
        let answer = |kind: u16, error: i32| {
            [&36u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &error.to_ne_bytes(), &[0; 16]].concat()
        };
        assert_eq!(error_of(&answer(2, 0)), Some(0));
        assert_eq!(error_of(&answer(2, -1)), Some(-1));
        assert_eq!(error_of(&answer(3, 0)), None);
        assert_eq!(error_of(&answer(2, 0)[..18]), None);
        assert_eq!(error_of(&[]), None);
    }
}
