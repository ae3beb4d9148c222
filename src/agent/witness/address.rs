//! What a `struct sockaddr` says. Pure: bytes in, an address out.
//!
//! The bytes are the watched process's own: any length, any content.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address of a socket call, as the kernel would read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// IPv4 or IPv6; an IPv4 address inside an IPv6 one is that IPv4 address.
    Inet(SocketAddr),
    /// A unix socket's path, or its abstract name after a NUL; empty for none.
    Unix(Vec<u8>),
    /// The kernel's netlink.
    Netlink,
    /// `AF_UNSPEC`: a connect(2) with it takes a connection away.
    Unspecified,
    /// Another family, or too short for its own.
    Other(u16),
}

/// Reads `bytes`. `datagram`: the address stands in a send call, where IPv4 takes `AF_UNSPEC` for itself
/// (`udp_sendmsg` in net/ipv4/udp.c).
pub fn parse(bytes: &[u8], datagram: bool) -> Address {
    let Some((family, rest)) = bytes.split_first_chunk::<2>() else { return Address::Unspecified };
    let family = u16::from_ne_bytes(*family);
    let port = |rest: &[u8]| rest.first_chunk::<2>().map(|b| u16::from_be_bytes(*b));
    match i32::from(family) {
        libc::AF_UNSPEC if !datagram => Address::Unspecified,
        libc::AF_INET | libc::AF_UNSPEC => match (port(rest), rest.get(2..6)) {
            (Some(port), Some(&[a, b, c, d])) => Address::Inet((Ipv4Addr::new(a, b, c, d), port).into()),
            _ => Address::Other(family),
        },
        libc::AF_INET6 => match (port(rest), rest.get(6..22).and_then(|b| <[u8; 16]>::try_from(b).ok())) {
            (Some(port), Some(octets)) => {
                Address::Inet((IpAddr::V6(Ipv6Addr::from(octets)).to_canonical(), port).into())
            }
            _ => Address::Other(family),
        },
        libc::AF_UNIX => Address::Unix(match rest.first() {
            // An abstract name has its length from the call; a path ends at its first NUL.
            Some(0) => rest.to_vec(),
            _ => rest.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
        }),
        libc::AF_NETLINK => Address::Netlink,
        _ => Address::Other(family),
    }
}

/// The bytes of an address, for an IPv6 socket where `six`.
pub fn bytes(at: SocketAddr, six: bool) -> Vec<u8> {
    let family = |family: i32| (family as u16).to_ne_bytes();
    let port = at.port().to_be_bytes();
    match at.ip() {
        IpAddr::V4(ip) if !six => [&family(libc::AF_INET)[..], &port, &ip.octets(), &[0; 8]].concat(),
        ip => {
            let octets = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            [&family(libc::AF_INET6)[..], &port, &[0; 4], &octets, &[0; 4]].concat()
        }
    }
}

/// The bytes of a unix socket's address.
pub fn unix_bytes(path: &[u8]) -> Vec<u8> {
    [&(libc::AF_UNIX as u16).to_ne_bytes()[..], path, &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(family: i32, port: u16, octets: [u8; 4]) -> Vec<u8> {
        [&(family as u16).to_ne_bytes()[..], &port.to_be_bytes(), &octets, &[0; 8]].concat()
    }

    fn v6(port: u16, octets: [u8; 16]) -> Vec<u8> {
        [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &port.to_be_bytes(), &[0; 4], &octets, &[0; 4]].concat()
    }

    #[test]
    fn unspec_takes_a_connection_away_and_is_an_address_of_a_datagram() {
        let bytes = v4(libc::AF_UNSPEC, 9, [192, 0, 2, 1]);
        assert_eq!(parse(&bytes, false), Address::Unspecified);
        assert_eq!(parse(&bytes, true), Address::Inet("192.0.2.1:9".parse().unwrap()));
    }

    #[test]
    fn a_mapped_address_is_the_one_inside() {
        let bytes = v6(80, "::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(parse(&bytes, false), Address::Inet("192.0.2.1:80".parse().unwrap()));
    }

    #[test]
    fn a_path_ends_at_its_nul_and_an_abstract_name_does_not() {
        let unix = |name: &[u8]| [&(libc::AF_UNIX as u16).to_ne_bytes()[..], name].concat();
        assert_eq!(parse(&unix(b"/run/x\0junk"), false), Address::Unix(b"/run/x".to_vec()));
        assert_eq!(parse(&unix(b"\0a\0b"), false), Address::Unix(b"\0a\0b".to_vec()));
        assert_eq!(parse(&unix(b""), false), Address::Unix(Vec::new()));
    }

    #[test]
    fn what_is_too_short_is_no_address() {
        for cut in 2..6 {
            assert_eq!(parse(&v4(libc::AF_INET, 1, [1, 2, 3, 4])[..cut], false), Address::Other(libc::AF_INET as u16));
        }
        assert_eq!(parse(&v6(1, [1; 16])[..20], false), Address::Other(libc::AF_INET6 as u16));
        assert_eq!(parse(&[], false), Address::Unspecified);
    }

    proptest! {
        #[test]
        fn an_address_is_read_as_it_was_written(address: IpAddr, port: u16) {
            let bytes = match address {
                IpAddr::V4(a) => v4(libc::AF_INET, port, a.octets()),
                IpAddr::V6(a) => v6(port, a.octets()),
            };
            let read = Address::Inet((address.to_canonical(), port).into());
            prop_assert_eq!(parse(&bytes, false), read.clone());
            prop_assert_eq!(parse(&super::bytes((address, port).into(), true), false), read.clone());
            prop_assert_eq!(parse(&super::bytes((address, port).into(), false), false), read);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..140), datagram: bool) {
            parse(&bytes, datagram);
        }
    }
}
