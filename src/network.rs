//! Which hosts a policy means. The one place that compares: the witness in the cell says by it what was refused and
//! why, the relay on the host connects by it. Resolves nothing and knows no lock.
//!
//! An entry names one host, or with a leading dot every name below one (`.example.org` is `a.example.org` and
//! `b.a.example.org`, never `example.org`). Entries by name never cover an address that was reached without a look-up:
//! only who resolves names can tell what stands behind them.

pub mod address;

use crate::frame::{HostEntry, Policy, Verdict};

/// Where somebody wants to go, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Target<'a> {
    /// The name that was looked up, or is asked for; empty where there is none.
    pub name: &'a str,
    /// 4 or 16 bytes; empty for a question that has only a name.
    pub address: &'a [u8],
    /// Unknown for a question to the name server.
    pub port: Option<u16>,
}

impl HostEntry {
    /// Whether this entry means that target. A port that is not known yet is covered: a look-up comes before any
    /// connection, and is refused or answered for all of them.
    #[must_use]
    pub fn covers(&self, target: &Target<'_>) -> bool {
        if self.port != 0 && target.port.is_some_and(|port| port != self.port) {
            return false;
        }
        match (self.name.as_str(), self.address.0.as_slice()) {
            ("", address) => !address.is_empty() && plain(address) == plain(target.address),
            (name, _) => names(name, target.name),
        }
    }
}

impl Policy {
    /// The cell's own loopback and nothing else.
    pub const NOWHERE: u8 = 0;
    /// What is listed, and loopback.
    pub const LISTED: u8 = 1;
    /// Everywhere.
    pub const EVERYWHERE: u8 = 2;

    /// What becomes of an attempt to get there. Loopback of the cell is not asked about. A refusal that is expected wins
    /// over a permission: who wrote both wants it refused, and a wall errs on the closed side.
    #[must_use]
    pub fn verdict(&self, target: &Target<'_>) -> Verdict {
        let allowed = match self.mode {
            Policy::LISTED => self.allowed.iter().any(|entry| entry.covers(target)),
            mode => mode == Policy::EVERYWHERE,
        };
        // A refused port says nothing about the others: the look-up before an allowed one is answered.
        let refuses = |entry: &HostEntry| entry.port == 0 || target.port.is_some() || !allowed;
        if self.quiet.iter().any(|entry| entry.covers(target) && refuses(entry)) {
            return Verdict::Quiet;
        }
        if allowed { Verdict::Allowed } else { Verdict::Denied }
    }

    /// Whether the lock itself names this address: then it may be a private one, which a name never leads to.
    #[must_use]
    pub fn names_address(&self, address: &[u8], port: u16) -> bool {
        let target = Target { name: "", address, port: Some(port) };
        self.allowed.iter().any(|entry| entry.covers(&target))
    }
}

/// Whether a name of the policy means the name of a target. Case and the dot of the root say nothing (RFC 4343, RFC 1034
/// section 3.1).
fn names(entry: &str, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
    let entry = entry.as_bytes();
    if entry.first() == Some(&b'.') {
        let Some(head) = name.len().checked_sub(entry.len()) else { return false };
        let (below, suffix) = name.split_at(head);
        // A name that is only a suffix, or begins with a dot, has no label there.
        return suffix.eq_ignore_ascii_case(entry) && !below.is_empty() && below[0] != b'.' && below[head - 1] != b'.';
    }
    !entry.is_empty() && name.eq_ignore_ascii_case(entry)
}

/// An IPv4 address inside an IPv6 one is that IPv4 address: the kernel connects to it (ipv6(7)).
fn plain(address: &[u8]) -> &[u8] {
    match address {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4 @ ..] if v4.len() == 4 => v4,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Bytes;
    use proptest::prelude::*;

    fn name(name: &str, port: u16) -> HostEntry {
        HostEntry { name: name.into(), address: Bytes::default(), port }
    }

    fn address(address: &[u8], port: u16) -> HostEntry {
        HostEntry { name: String::new(), address: Bytes(address.to_vec()), port }
    }

    fn to<'a>(name: &'a str, port: u16) -> Target<'a> {
        Target { name, address: &[192, 0, 2, 1], port: Some(port) }
    }

    #[test]
    fn a_name_means_itself_whatever_its_case_and_the_dot_of_the_root() {
        let entry = name("example.org", 0);
        for same in ["example.org", "EXAMPLE.org", "example.org."] {
            assert!(entry.covers(&to(same, 443)), "{same}");
        }
        for other in ["", ".", "a.example.org", "evilexample.org", "example.org.evil", "example.org..", "example.or"] {
            assert!(!entry.covers(&to(other, 443)), "{other}");
        }
    }

    #[test]
    fn a_leading_dot_means_what_is_below_and_not_the_name_itself() {
        let entry = name(".example.org", 0);
        for below in ["a.example.org", "b.a.example.org", "A.EXAMPLE.ORG", "a.example.org.", "_dmarc.example.org"] {
            assert!(entry.covers(&to(below, 443)), "{below}");
        }
        for other in [
            "example.org",
            ".example.org",
            "..example.org",
            "a..example.org",
            "evilexample.org",
            "a.example.org.evil",
            "x.org",
            "",
        ] {
            assert!(!entry.covers(&to(other, 443)), "{other}");
        }
    }

    #[test]
    fn a_port_counts_where_it_is_known() {
        let entry = name("example.org", 443);
        assert!(entry.covers(&to("example.org", 443)) && !entry.covers(&to("example.org", 80)));
        assert!(entry.covers(&Target { name: "example.org", ..Target::default() }));
    }

    #[test]
    fn an_address_means_itself_under_any_name_and_a_name_no_bare_address() {
        let entry = address(&[192, 0, 2, 1], 0);
        assert!(entry.covers(&to("", 1)) && entry.covers(&to("any.example", 1)));
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        assert!(entry.covers(&Target { name: "", address: &mapped, port: Some(1) }));
        assert!(!entry.covers(&Target { name: "", address: &[192, 0, 2, 2], port: Some(1) }));
        assert!(!entry.covers(&Target::default()) && !HostEntry::default().covers(&Target::default()));
        assert!(!name("example.org", 0).covers(&to("", 443)));
    }

    #[test]
    fn a_refusal_that_is_expected_wins_over_a_permission() {
        let mut policy = Policy { mode: Policy::NOWHERE, allowed: vec![], quiet: vec![name("a.example", 0)] };
        assert_eq!(policy.verdict(&to("a.example", 1)), Verdict::Quiet);
        assert_eq!(policy.verdict(&to("b.example", 1)), Verdict::Denied);
        policy.mode = Policy::EVERYWHERE;
        assert_eq!(policy.verdict(&to("a.example", 1)), Verdict::Quiet);
        assert_eq!(policy.verdict(&to("b.example", 1)), Verdict::Allowed);
        policy.mode = Policy::LISTED;
        policy.allowed = vec![name(".example", 0)];
        assert_eq!(policy.verdict(&to("a.example", 1)), Verdict::Quiet);
        assert_eq!(policy.verdict(&to("b.example", 1)), Verdict::Allowed);
        assert_eq!(policy.verdict(&to("b.example.net", 1)), Verdict::Denied);
        // One of its ports is refused: it is looked up for the others.
        policy.quiet = vec![name("a.example", 80)];
        let look_up = Target { name: "a.example", ..Target::default() };
        assert_eq!(policy.verdict(&look_up), Verdict::Allowed);
        assert_eq!(policy.verdict(&to("a.example", 80)), Verdict::Quiet);
        assert_eq!(policy.verdict(&to("a.example", 443)), Verdict::Allowed);
        policy.mode = Policy::NOWHERE;
        assert_eq!(policy.verdict(&look_up), Verdict::Quiet);
        // A mode that this version does not have opens nothing.
        policy.mode = 9;
        assert_eq!(policy.verdict(&to("b.example", 1)), Verdict::Denied);
    }

    proptest! {
        #[test]
        fn a_suffix_covers_exactly_the_names_that_end_in_its_labels(
            suffix in "[a-z]{1,5}(\\.[a-z]{1,5}){1,2}", before in "([a-z_-]{1,4}\\.){0,3}|[a-z.]{0,6}", root in any::<bool>(), upper in any::<bool>()
        ) {
            let mut asked = format!("{before}{suffix}{}", if root { "." } else { "" });
            if upper {
                asked = asked.to_uppercase();
            }
            let labels = |name: &str| name.strip_suffix('.').unwrap_or(name).split('.').map(str::to_lowercase).collect::<Vec<_>>();
            let (have, want) = (labels(&asked), labels(&suffix));
            let whole = have.iter().all(|label| !label.is_empty());
            let wanted = whole && have.len() > want.len() && have.ends_with(&want);
            let covered = name(&format!(".{suffix}"), 0).covers(&to(&asked, 1));
            // Empty labels elsewhere than at the seam are no name that a resolver knows.
            if whole || wanted {
                prop_assert_eq!(covered, wanted, "{} of {}", asked, suffix);
            }
            prop_assert_eq!(name(&suffix, 0).covers(&to(&asked, 1)), have == want);
        }

        #[test]
        fn any_text_is_compared_without_a_panic(entry in "\\PC{0,12}", asked in "\\PC{0,12}", bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = name(&entry, 0).covers(&Target { name: &asked, address: &bytes, port: None });
            let _ = address(&bytes, 1).covers(&Target { name: &asked, address: &bytes, port: None });
        }
    }
}
