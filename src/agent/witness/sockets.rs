//! The kernel's tables of sockets: proc_net_tcp(5), proc_net_udp(5), proc_net_unix(5). Pure: text in, inodes out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `LISTEN` of TCP.
const LISTEN: u8 = 0x0a;

/// The inodes of the sockets that could take what is sent to an address of this machine: TCP sockets that listen, UDP
/// sockets that are not connected, on this port of this address or of every one. More than the kernel would choose
/// from: none of the step's own may hide one of somebody else.
pub fn bound_inodes(text: &str, datagram: bool, at: SocketAddr) -> Vec<u64> {
    let row = |line: &str| -> Option<u64> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, remote) = (address(words.get(1)?)?, address(words.get(2)?)?);
        let state = u8::from_str_radix(words.get(3)?, 16).ok()?;
        let takes = if datagram { remote.port() == 0 } else { state == LISTEN };
        let here = local.port() == at.port() && takes_for(local.ip(), at.ip());
        if takes && here { words.get(9)?.parse().ok() } else { None }
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Whether a socket that is bound to `bound` could take what is sent to `wanted`.
pub fn takes_for(bound: IpAddr, wanted: IpAddr) -> bool {
    // The kernel takes no address for the loopback one.
    let wanted = match wanted.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let bound = bound.to_canonical();
    bound == wanted || bound.is_unspecified()
}

/// `0100007F:0035`, or the same with an IPv6 address: groups of four bytes, each in the machine's order as one number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let group = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(group(0)?),
        32 => {
            let mut octets = [0; 16];
            for (n, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&group(n * 8)?);
            }
            IpAddr::from(octets)
        }
        _ => return None,
    };
    Some((ip, port).into())
}

/// The inodes of the unix sockets with this abstract name, which begins with a NUL. The table shows each NUL as `@`, so
/// that several names can look the same: all of them are meant.
pub fn abstract_inodes(text: &[u8], name: &[u8]) -> Vec<u64> {
    let shown: Vec<u8> = name.iter().map(|byte| if *byte == 0 { b'@' } else { *byte }).collect();
    let row = |line: &[u8]| -> Option<u64> {
        // Seven words, one space, and the name with whatever is in it.
        let mut rest = line;
        let mut inode = None;
        for n in 0..7 {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
            if n == 6 {
                inode = std::str::from_utf8(&rest[..end]).ok()?.parse().ok();
            }
            rest = &rest[end..];
        }
        if rest.strip_prefix(b" ")? == shown { inode } else { None }
    };
    text.split(|byte| *byte == b'\n').skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;

    fn inode(of: &impl AsFd) -> u64 {
        rustix::fs::fstat(of).unwrap().st_ino
    }

    fn table(name: &str) -> String {
        std::fs::read_to_string(format!("/proc/net/{name}")).unwrap()
    }

    #[test]
    fn listeners_are_found_by_address_and_by_wildcard_and_connections_are_not() {
        let own = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
        let at = own.local_addr().unwrap();
        let peer = std::net::TcpStream::connect(at).unwrap();
        assert_eq!(bound_inodes(&table("tcp"), false, at), [inode(&own)]);
        assert_eq!(bound_inodes(&table("tcp"), false, (Ipv4Addr::LOCALHOST, at.port()).into()), Vec::<u64>::new());
        assert_eq!(bound_inodes(&table("tcp"), false, peer.local_addr().unwrap()), Vec::<u64>::new());
        let every = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = every.local_addr().unwrap().port();
        assert_eq!(bound_inodes(&table("tcp"), false, (Ipv4Addr::LOCALHOST, port).into()), [inode(&every)]);
        assert_eq!(bound_inodes(&table("tcp"), false, (Ipv4Addr::UNSPECIFIED, port).into()), [inode(&every)]);
    }

    #[test]
    fn an_ipv6_wildcard_takes_ipv4_too() {
        let Ok(every) = std::net::UdpSocket::bind("[::]:0") else { return };
        let port = every.local_addr().unwrap().port();
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            assert_eq!(bound_inodes(&table("udp6"), true, (ip, port).into()), [inode(&every)]);
        }
    }

    #[test]
    fn an_abstract_name_is_found_with_everything_in_it() {
        let name = format!("ft test {} a@b", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
        let text = std::fs::read("/proc/net/unix").unwrap();
        let wanted = [b"\0", name.as_bytes()].concat();
        assert_eq!(abstract_inodes(&text, &wanted), [inode(&listener)]);
        assert_eq!(abstract_inodes(&text, &wanted[..wanted.len() - 1]), Vec::<u64>::new());
    }

    proptest! {
        #[test]
        fn any_table_is_read(text in "[0-9A-F: \n]{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            bound_inodes(&text, true, (Ipv4Addr::LOCALHOST, 1).into());
            abstract_inodes(&bytes, b"\0x");
        }
    }
}
