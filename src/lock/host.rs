//! Entries of `allowed_hosts` and `deny_quietly`: a host name or an address, with an optional port. Resolves nothing.
//!
//! | entry | meaning |
//! |---|---|
//! | `example.org` | this host, every port; `Example.ORG` and `example.org.` are the same |
//! | `example.org:443` | this host, this port |
//! | `*.example.org` | every name below it at any depth, and not `example.org` itself |
//! | `bücher.example` | its IDNA form, `xn--bcher-kva.example` |
//! | `192.0.2.1`, `2001:db8::1`, `[2001:db8::1]:443` | this address; a port after an IPv6 address takes brackets |
//! | `localhost`, `127.0.0.1`, `::1` | the cell's own loopback, which is always there |
//!
//! Everything else is refused with the entry and the reason: a scheme, a path, a mask, a user name, a bad port, `*` alone
//! or inside a name, and numbers that some programs take for addresses.

use crate::frame::{Bytes, HostEntry};
use std::fmt;
use std::net::IpAddr;
use url::Host;

/// One entry, normalised: names in lower case and IDNA form without the dot of the root, addresses in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name, or an address.
    pub host: Host<String>,
    /// Every name below that name is meant, and not the name itself. Never with an address.
    pub below: bool,
    /// Every port where absent.
    pub port: Option<u16>,
}

/// Why an entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// `https://...`
    #[error("it has a scheme; write the host alone")]
    Scheme,
    /// `host/path`, or a network like `10.0.0.0/8`.
    #[error("it has a path or a network mask; write one host")]
    Path,
    /// `*`, `a.*.org`, `*.org`, `*x.org`: a wildcard stands for whole names below a domain, and a domain has a dot.
    #[error("a wildcard stands alone before a domain: `*.example.org` is every name below it")]
    Wildcard,
    /// `user@host`
    #[error("it has a user name; write the host alone")]
    User,
    /// Port 0, above 65535, or not a number.
    #[error("{0:?} is not a port (1 to 65535)")]
    Port(String),
    /// `0.0.0.0` or `::`.
    #[error("it is the unspecified address, which names no host")]
    Unspecified,
    /// Not a name and not an address.
    #[error("it is neither a host name nor an address")]
    Name,
}

impl HostPort {
    /// Reads an entry as it stands in the lock.
    ///
    /// # Errors
    /// What keeps it from naming one host.
    pub fn parse(entry: &str) -> Result<HostPort, HostError> {
        if entry.is_empty() {
            return Err(HostError::Empty);
        }
        if entry.contains("://") {
            return Err(HostError::Scheme);
        }
        if entry.contains(['/', '\\', '?', '#']) {
            return Err(HostError::Path);
        }
        if entry.contains('@') {
            return Err(HostError::User);
        }
        let (below, rest) = entry.strip_prefix("*.").map_or((false, entry), |rest| (true, rest));
        if rest.contains('*') {
            return Err(HostError::Wildcard);
        }
        let (host, port) = split_port(rest)?;
        let host = match host.parse::<IpAddr>() {
            Ok(address) => canonical(address),
            Err(_) => name(host)?,
        };
        match &host {
            // `*.org` would be a whole registry, and `*.192.0.2.1` is nothing.
            Host::Domain(name) if below && !name.contains('.') => Err(HostError::Wildcard),
            Host::Ipv4(_) | Host::Ipv6(_) if below => Err(HostError::Wildcard),
            Host::Ipv4(address) if address.is_unspecified() => Err(HostError::Unspecified),
            Host::Ipv6(address) if address.is_unspecified() => Err(HostError::Unspecified),
            _ => Ok(HostPort { host, below, port }),
        }
    }

    /// The entry as witness and relay compare it.
    #[must_use]
    pub fn entry(&self) -> HostEntry {
        let (name, address) = match &self.host {
            Host::Domain(name) if self.below => (format!(".{name}"), Vec::new()),
            Host::Domain(name) => (name.clone(), Vec::new()),
            Host::Ipv4(address) => (String::new(), address.octets().to_vec()),
            Host::Ipv6(address) => (String::new(), address.octets().to_vec()),
        };
        HostEntry { name, address: Bytes(address), port: self.port.unwrap_or(0) }
    }

    /// Whether everything that the other entry means is meant by this one too.
    #[must_use]
    pub fn includes(&self, other: &HostPort) -> bool {
        let names = match (&self.host, &other.host) {
            (Host::Domain(own), Host::Domain(name)) if self.below => {
                let suffix = name.strip_suffix(own.as_str());
                suffix.is_some_and(|head| head.ends_with('.') || (other.below && head.is_empty()))
            }
            (own, host) => own == host && self.below == other.below,
        };
        names && (self.port.is_none() || self.port == other.port)
    }

    /// Whether this names the cell's own loopback, which is always there.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        }
    }
}

impl fmt::Display for HostPort {
    /// `host`, `*.host`, `host:port`; an IPv6 address stands in brackets before a port, and without them alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.below { "*." } else { "" })?;
        match (&self.host, self.port) {
            (Host::Ipv6(address), None) => write!(f, "{address}"),
            (host, None) => write!(f, "{host}"),
            (host, Some(port)) => write!(f, "{host}:{port}"),
        }
    }
}

fn split_port(entry: &str) -> Result<(&str, Option<u16>), HostError> {
    let (host, port) = if let Some(bracketed) = entry.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or(HostError::Name)?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(HostError::Name);
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(HostError::Name),
        }
    } else {
        match entry.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (entry, None),
        }
    };
    let Some(port) = port else { return Ok((host, None)) };
    let number = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten();
    match number.filter(|number| *number != 0) {
        Some(number) => Ok((host, Some(number))),
        None => Err(HostError::Port(port.to_owned())),
    }
}

/// An IPv4 address inside an IPv6 one is that IPv4 address: the kernel connects to it.
fn canonical(address: IpAddr) -> Host<String> {
    match address.to_canonical() {
        IpAddr::V4(address) => Host::Ipv4(address),
        IpAddr::V6(address) => Host::Ipv6(address),
    }
}

fn name(text: &str) -> Result<Host<String>, HostError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() || text.len() > 253 {
        return Err(HostError::Name);
    }
    match Host::parse(text) {
        // `1`, `127.1` and `0x7f.1` are addresses to some programs and names to others.
        Ok(Host::Domain(name)) if name.len() <= 253 && name.split('.').all(is_label) => Ok(Host::Domain(name)),
        _ => Err(HostError::Name),
    }
}

fn is_label(label: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !label.is_empty()
        && label.len() <= 63
        && label.chars().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(entry: &str) -> String {
        HostPort::parse(entry).unwrap().to_string()
    }

    #[test]
    fn entries_are_normalised() {
        assert_eq!(shown("Example.COM"), "example.com");
        assert_eq!(shown("example.com.:443"), "example.com:443");
        assert_eq!(shown("bücher.example"), "xn--bcher-kva.example");
        assert_eq!(shown("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(shown("::1"), "::1");
        assert_eq!(shown("[2001:DB8:0::1]:443"), "[2001:db8::1]:443");
        assert_eq!(shown("[2001:DB8::1]"), "2001:db8::1");
        assert_eq!(shown("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(shown("my_host"), "my_host");
        assert_eq!(shown("*.Example.ORG.:443"), "*.example.org:443");
    }

    #[test]
    fn entries_that_name_no_single_host_are_refused() {
        for (entry, error) in [
            ("", HostError::Empty),
            ("https://example.com", HostError::Scheme),
            ("example.com/path", HostError::Path),
            ("10.0.0.0/8", HostError::Path),
            ("*", HostError::Wildcard),
            ("*.", HostError::Name),
            ("*.org", HostError::Wildcard),
            ("*.localhost", HostError::Wildcard),
            ("a.*.example.org", HostError::Wildcard),
            ("*example.org", HostError::Wildcard),
            ("*.*.example.org", HostError::Wildcard),
            ("example.*", HostError::Wildcard),
            ("example.org:*", HostError::Wildcard),
            ("*.192.0.2.1", HostError::Wildcard),
            ("*.[2001:db8::1]", HostError::Wildcard),
            ("me@example.com", HostError::User),
            ("example.com:0", HostError::Port("0".into())),
            ("example.com:65536", HostError::Port("65536".into())),
            ("example.com:+80", HostError::Port("+80".into())),
            ("example.com:", HostError::Port(String::new())),
            ("0.0.0.0", HostError::Unspecified),
            ("[::]:80", HostError::Unspecified),
            ("127.1", HostError::Name),
            ("0x7f.1", HostError::Name),
            ("1", HostError::Name),
            ("a..b", HostError::Name),
            ("a b", HostError::Name),
            (" example.com", HostError::Name),
            ("[example.com]", HostError::Name),
            ("[::1", HostError::Name),
            (".", HostError::Name),
        ] {
            assert_eq!(HostPort::parse(entry), Err(error), "{entry:?}");
        }
    }

    #[test]
    fn loopback_is_known_by_every_name() {
        for entry in [
            "localhost",
            "LOCALHOST.",
            "localhost:8000",
            "a.localhost",
            "127.0.0.1",
            "127.9.9.9:1",
            "::1",
            "[::1]:5",
            "::ffff:127.0.0.1",
        ] {
            assert!(HostPort::parse(entry).unwrap().is_loopback(), "{entry}");
        }
        for entry in ["localhost.example.com", "10.0.0.1", "notlocalhost", "::2"] {
            assert!(!HostPort::parse(entry).unwrap().is_loopback(), "{entry}");
        }
    }

    #[test]
    fn an_entry_includes_what_it_means_and_no_more() {
        let includes =
            |one: &str, other: &str| HostPort::parse(one).unwrap().includes(&HostPort::parse(other).unwrap());
        for (one, other) in [
            ("a.org", "A.org."),
            ("a.org", "a.org:443"),
            ("*.a.org", "x.a.org"),
            ("*.a.org", "y.x.a.org:1"),
            ("*.a.org", "*.a.org"),
            ("*.a.org", "*.x.a.org"),
            ("192.0.2.1", "192.0.2.1:80"),
        ] {
            assert!(includes(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("a.org:443", "a.org"),
            ("*.a.org", "a.org"),
            ("x.a.org", "*.a.org"),
            ("*.x.a.org", "*.a.org"),
            ("*.a.org", "evila.org"),
            ("*.a.org", "*.evila.org"),
            ("192.0.2.1", "192.0.2.2"),
        ] {
            assert!(!includes(one, other), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn what_an_entry_prints_is_read_back_as_the_same_entry(entry in "\\PC{0,40}|[a-z0-9.:*\\[\\]-]{0,30}|(\\*\\.)?[a-z]{1,4}\\.[a-z]{1,4}(:[1-9])?") {
            if let Ok(host) = HostPort::parse(&entry) {
                prop_assert_eq!(HostPort::parse(&host.to_string()), Ok(host.clone()));
                // A name that an entry means is never empty, and a rule for what is below begins with one dot.
                let HostEntry { name, address, .. } = host.entry();
                prop_assert!(name.is_empty() != address.0.is_empty());
                prop_assert_eq!(name.starts_with('.'), host.below);
            }
        }
    }
}
