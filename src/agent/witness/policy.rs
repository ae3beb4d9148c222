//! What the policy says of a destination. Pure.

use crate::frame::{HostEntry, Policy, Verdict};
use std::net::IpAddr;

/// Names of an entry or of a question, without the dot of the root.
fn same_name(entry: &HostEntry, name: &str) -> bool {
    !entry.name.is_empty() && entry.name == name.trim_end_matches('.').to_ascii_lowercase()
}

fn same_address(entry: &HostEntry, address: IpAddr) -> bool {
    let octets = &entry.address.0;
    match address.to_canonical() {
        IpAddr::V4(address) => *octets == address.octets(),
        IpAddr::V6(address) => *octets == address.octets(),
    }
}

/// Whether a destination may be reached: `names` are those that were looked up for the address. What is expected to be
/// refused is refused, also where it is allowed as well.
pub fn destination(policy: &Policy, address: IpAddr, port: u16, names: &[String]) -> Verdict {
    let listed = |entries: &[HostEntry]| {
        entries.iter().any(|entry| {
            (entry.port == 0 || entry.port == port)
                && (same_address(entry, address) || names.iter().any(|name| same_name(entry, name)))
        })
    };
    verdict(policy, listed)
}

/// Whether a name may be looked up.
pub fn lookup(policy: &Policy, name: &str) -> Verdict {
    verdict(policy, |entries| entries.iter().any(|entry| same_name(entry, name)))
}

fn verdict(policy: &Policy, listed: impl Fn(&[HostEntry]) -> bool) -> Verdict {
    match policy.mode {
        _ if listed(&policy.quiet) => Verdict::Quiet,
        1 if listed(&policy.allowed) => Verdict::Allowed,
        2 => Verdict::Allowed,
        _ => Verdict::Denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Bytes;

    fn entry(host: &str, port: u16) -> HostEntry {
        match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(a)) => HostEntry { address: Bytes(a.octets().to_vec()), port, ..HostEntry::default() },
            Ok(IpAddr::V6(a)) => HostEntry { address: Bytes(a.octets().to_vec()), port, ..HostEntry::default() },
            Err(_) => HostEntry { name: host.to_owned(), port, ..HostEntry::default() },
        }
    }

    #[test]
    fn nothing_is_allowed_by_default_and_refusals_that_are_expected_win() {
        let address = "192.0.2.1".parse().unwrap();
        let mut policy = Policy::default();
        assert_eq!(destination(&policy, address, 80, &[]), Verdict::Denied);
        policy.mode = 1;
        policy.allowed = vec![entry("192.0.2.1", 80), entry("example.org", 0)];
        assert_eq!(destination(&policy, address, 80, &[]), Verdict::Allowed);
        assert_eq!(destination(&policy, address, 81, &[]), Verdict::Denied);
        assert_eq!(destination(&policy, address, 81, &["example.org".into()]), Verdict::Allowed);
        policy.quiet = vec![entry("example.org", 0)];
        assert_eq!(destination(&policy, address, 81, &["example.org".into()]), Verdict::Quiet);
        assert_eq!(lookup(&policy, "example.org"), Verdict::Quiet);
    }

    #[test]
    fn a_name_is_itself_and_nothing_around_it() {
        let policy = Policy { mode: 1, allowed: vec![entry("example.org", 443)], ..Policy::default() };
        assert_eq!(lookup(&policy, "Example.ORG."), Verdict::Allowed);
        for name in ["www.example.org", "evilexample.org", "example.org.evil", "org", ""] {
            assert_eq!(lookup(&policy, name), Verdict::Denied, "{name}");
        }
    }
}
