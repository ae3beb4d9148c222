//! What the policy says of a destination that may have several names. Pure; entries are compared by [`crate::network`].

use crate::frame::{Policy, Verdict};
use crate::network::Target;
use std::net::IpAddr;

/// Whether a destination may be reached: `names` are those that were looked up for the address. What is expected to be
/// refused is refused, also where it is allowed as well.
pub fn destination(policy: &Policy, address: IpAddr, port: u16, names: &[String]) -> Verdict {
    let (octets, port) = (octets(address), Some(port));
    let mut targets = vec![Target { name: "", address: &octets, port }];
    targets.extend(names.iter().map(|name| Target { name, address: &octets, port }));
    // A refusal that is expected wins over a permission, also where they come by different names.
    let verdicts = || targets.iter().map(|target| policy.verdict(target));
    let has = |wanted| verdicts().any(|verdict| verdict == wanted);
    [Verdict::Quiet, Verdict::Allowed].into_iter().find(|wanted| has(*wanted)).unwrap_or_default()
}

/// Whether a name may be looked up.
pub fn lookup(policy: &Policy, name: &str) -> Verdict {
    policy.verdict(&Target { name, ..Target::default() })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Bytes, HostEntry};

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
