//! What kind of address a name led to, and whether the host connects there for a step. Resolves nothing.
//!
//! The registries are IANA's special-purpose address registries (RFC 6890 and its updates) as of 2025; what they do not
//! give out as global unicast counts as not public.

use super::Target;
use crate::frame::{Policy, Verdict};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What stands behind an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Global unicast: the internet.
    Public,
    /// A network of somebody's own: RFC 1918, carrier-grade NAT (RFC 6598), unique local IPv6 (RFC 4193).
    Private,
    /// Whoever asks gets the credentials of the machine it asks from: the metadata services of the clouds.
    Metadata,
    /// The link of the machine that connects (RFC 3927, RFC 4291).
    LinkLocal,
    /// The machine that connects.
    Loopback,
    /// No single host: unspecified, multicast, broadcast.
    Nobody,
    /// Given to nobody to be reached: documentation, benchmarks, protocols, the future.
    Reserved,
}

/// Metadata services outside of link-local. Over IPv6: AWS, its pods' credentials, Google, Oracle, Scaleway.
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];
/// And over IPv4: Alibaba, Oracle, Azure.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

impl Class {
    /// The class of an address. An IPv6 address that carries an IPv4 one (mapped, compatible, 6to4, NAT64, Teredo,
    /// ISATAP) is what that one is wherever that is not public: some router, or the kernel itself, goes there.
    #[must_use]
    pub fn of(address: IpAddr) -> Class {
        match address {
            IpAddr::V4(address) => v4(address),
            IpAddr::V6(address) => v6(address),
        }
    }

    /// Why an address of this class is refused, in the words of the report.
    #[must_use]
    pub fn refusal(self) -> &'static str {
        match self {
            Class::Public => "not allowed",
            Class::Private | Class::Reserved => "private address",
            Class::Metadata => "metadata address",
            Class::LinkLocal => "link-local address",
            Class::Loopback => "loopback address of the host",
            Class::Nobody => "address of no single host",
        }
    }
}

fn v4(address: Ipv4Addr) -> Class {
    if METADATA_V4.contains(&address) {
        return Class::Metadata;
    }
    match address.octets() {
        [0, 0, 0, 0] | [255, 255, 255, 255] | [224..=239, ..] => Class::Nobody,
        [127, ..] => Class::Loopback,
        [169, 254, ..] => Class::LinkLocal,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Class::Private,
        // "This network", IETF protocols, documentation, 6to4 relays, benchmarks, the future.
        [0, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => Class::Reserved,
        _ => Class::Public,
    }
}

fn v6(address: Ipv6Addr) -> Class {
    if METADATA_V6.contains(&address) {
        return Class::Metadata;
    }
    let segments = address.segments();
    let plain = match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] | [0xff00..=0xffff, ..] => Class::Nobody,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        // Unique local, and what was site-local before (RFC 3879).
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Class::Private,
        // Documentation (RFC 3849, RFC 9637), benchmarks, ORCHID.
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] | [0x2001, 2, 0, ..] | [0x2001, 0x10..=0x2f, ..] => {
            Class::Reserved
        }
        [0x2000..=0x3fff, ..] => Class::Public,
        // Translated by somebody's own gateway (RFC 8215), with a prefix whose length only he knows.
        [0x64, 0xff9b, 1, ..] => {
            let refused = |class: &Class| matches!(class, Class::Metadata | Class::LinkLocal | Class::Loopback);
            translated(address.octets()).map(v4).into_iter().find(refused).unwrap_or(Class::Reserved)
        }
        // Only what carries an IPv4 address is anything else than reserved here.
        _ => match embedded(segments).map(v4) {
            Some(Class::Public) => Class::Public,
            Some(other) => return other,
            None => Class::Reserved,
        },
    };
    // Whatever the prefix is: the far end of a tunnel is where the packet goes.
    match (plain, embedded(segments).map(v4)) {
        (Class::Public, Some(inner)) => inner,
        (plain, _) => plain,
    }
}

/// The IPv4 addresses that an IPv6 address behind a prefix of 48, 56, 64 and 96 bits carries, RFC 6052 section 2.2: byte
/// 8 is none of theirs.
fn translated(octets: [u8; 16]) -> [Ipv4Addr; 4] {
    let of = |at: [usize; 4]| Ipv4Addr::from(at.map(|at| octets[at]));
    [of([6, 7, 9, 10]), of([7, 9, 10, 11]), of([9, 10, 11, 12]), of([12, 13, 14, 15])]
}

/// The IPv4 address that an IPv6 address carries.
fn embedded(segments: [u16; 8]) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        // Mapped (RFC 4291), translated (RFC 2765), compatible, NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(join(high, low)),
        // Teredo (RFC 4380): the client's address, all bits turned.
        [0x2001, 0, _, _, _, _, high, low] => Some(join(!high, !low)),
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(join(high, low)),
        _ => None,
    }
}

/// An address as it travels in frames: 4 or 16 bytes, an IPv4 address inside an IPv6 one as the IPv4 address.
#[must_use]
pub fn bytes(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An address from 4 or 16 bytes.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|all| IpAddr::from(all).to_canonical())
}

impl Policy {
    /// Whether a step may be told this address as one of `name`, which must itself be allowed. The port is not known yet.
    ///
    /// # Errors
    /// Why not, in the words of the report.
    pub fn admits_answer(&self, address: IpAddr) -> Result<(), &'static str> {
        self.admits_class(address, None)
    }

    /// Whether the host connects there for a step: `names` are the allowed names that this address was given out for.
    ///
    /// A refusal wins over a permission. An address that the lock itself names may be a private one, one that a name led
    /// to may not. The machine's own loopback is never relayed: a step's loopback is the cell's own.
    ///
    /// # Errors
    /// Why not, in the words of the report.
    pub fn admits<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
        address: IpAddr,
        port: u16,
    ) -> Result<(), &'static str> {
        let bytes = bytes(address);
        let bare = Target { name: "", address: &bytes, port: Some(port) };
        let mut verdict = self.verdict(&bare);
        for name in names {
            let by_name = self.verdict(&Target { name, ..bare });
            verdict = match (verdict, by_name) {
                (Verdict::Quiet, _) | (_, Verdict::Quiet) => Verdict::Quiet,
                (Verdict::Allowed, _) | (_, Verdict::Allowed) => Verdict::Allowed,
                _ => Verdict::Denied,
            };
        }
        match verdict {
            Verdict::Allowed => self.admits_class(address, Some(port)),
            _ => Err("not allowed"),
        }
    }

    fn admits_class(&self, address: IpAddr, port: Option<u16>) -> Result<(), &'static str> {
        let class = Class::of(address);
        let bytes = bytes(address);
        let named = self.allowed.iter().any(|entry| entry.covers(&Target { name: "", address: &bytes, port }));
        let open = self.mode == Policy::EVERYWHERE;
        match class {
            Class::Public => Ok(()),
            Class::Nobody | Class::Loopback => Err(class.refusal()),
            Class::LinkLocal | Class::Metadata if named => Ok(()),
            Class::LinkLocal | Class::Metadata => Err(class.refusal()),
            Class::Private | Class::Reserved if named || open => Ok(()),
            Class::Private | Class::Reserved => Err(class.refusal()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Bytes, HostEntry};
    use proptest::prelude::*;

    fn class(text: &str) -> Class {
        Class::of(text.parse().unwrap())
    }

    fn name(name: &str, port: u16) -> HostEntry {
        HostEntry { name: name.into(), address: Bytes::default(), port }
    }

    fn address(text: &str, port: u16) -> HostEntry {
        HostEntry { name: String::new(), address: Bytes(bytes(text.parse().unwrap())), port }
    }

    fn listed(allowed: Vec<HostEntry>) -> Policy {
        Policy { mode: Policy::LISTED, allowed, quiet: Vec::new() }
    }

    fn admits(policy: &Policy, names: &[&str], address: &str, port: u16) -> Result<(), &'static str> {
        policy.admits(names.iter().copied(), address.parse().unwrap(), port)
    }

    #[test]
    fn every_special_network_has_its_class() {
        for (class_of, addresses) in [
            (
                Class::Public,
                &["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111"][..],
            ),
            (Class::Private, &["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"]),
            (Class::Private, &["fc00::1", "fd12:3456::1", "fec0::1"]),
            (Class::Metadata, &["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"]),
            (Class::Metadata, &["fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42"]),
            (Class::LinkLocal, &["169.254.0.1", "169.254.170.2", "fe80::1", "febf::1"]),
            (Class::Loopback, &["127.0.0.1", "127.255.255.255", "::1"]),
            (Class::Nobody, &["0.0.0.0", "255.255.255.255", "224.0.0.1", "239.255.255.250", "::", "ff02::1"]),
            (Class::Reserved, &["0.1.2.3", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"]),
            (
                Class::Reserved,
                &["240.0.0.1", "2001:db8::1", "3fff::1", "2001:2::1", "100::1", "4000::1", "64:ff9b:1::1"],
            ),
        ] {
            for text in addresses {
                assert_eq!(class(text), class_of, "{text}");
            }
        }
    }

    #[test]
    fn an_address_inside_an_address_is_what_it_leads_to() {
        for (text, class_of) in [
            ("::ffff:10.0.0.1", Class::Private),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::ffff:169.254.169.254", Class::Metadata),
            ("::ffff:1.1.1.1", Class::Public),
            ("::10.0.0.1", Class::Private),
            ("::ffff:0:127.0.0.1", Class::Loopback),
            ("64:ff9b::7f00:1", Class::Loopback),
            ("64:ff9b::a9fe:a9fe", Class::Metadata),
            ("64:ff9b::101:101", Class::Public),
            ("2002:a00:1::1", Class::Private),
            ("2002:7f00:1::", Class::Loopback),
            ("2002:101:101::1", Class::Public),
            // Teredo: 10.0.0.1 with all bits turned.
            ("2001:0:4136:e378:8000:63bf:f5ff:fffe", Class::Private),
            ("2606:4700::5efe:a00:1", Class::Private),
            // 169.254.169.254 and 127.0.0.1 behind each length of somebody's own prefix.
            ("64:ff9b:1:a9fe:a9:fe00::", Class::Metadata),
            ("64:ff9b:1:ffa9:fe:a9fe::", Class::Metadata),
            ("64:ff9b:1:ffff:a9:fea9:fe00:0", Class::Metadata),
            ("64:ff9b:1::a9fe:a9fe", Class::Metadata),
            ("64:ff9b:1::7f00:1", Class::Loopback),
            ("64:ff9b:1::a00:1", Class::Reserved),
        ] {
            assert_eq!(class(text), class_of, "{text}");
        }
    }

    #[test]
    fn a_name_leads_to_public_addresses_only_and_on_its_port() {
        let policy = listed(vec![name("example.org", 443)]);
        assert_eq!(admits(&policy, &["example.org"], "93.184.216.34", 443), Ok(()));
        assert_eq!(admits(&policy, &["example.org"], "93.184.216.34", 80), Err("not allowed"));
        assert_eq!(admits(&policy, &[], "93.184.216.34", 443), Err("not allowed"));
        assert_eq!(admits(&policy, &["other.example"], "93.184.216.34", 443), Err("not allowed"));
        assert_eq!(admits(&policy, &["example.org"], "10.0.0.1", 443), Err("private address"));
        assert_eq!(admits(&policy, &["example.org"], "169.254.169.254", 443), Err("metadata address"));
        assert_eq!(admits(&policy, &["example.org"], "127.0.0.1", 443), Err("loopback address of the host"));
        assert_eq!(admits(&policy, &["example.org"], "64:ff9b::7f00:1", 443), Err("loopback address of the host"));
    }

    #[test]
    fn an_address_that_the_lock_names_may_be_private_and_a_name_may_lead_there_then() {
        let policy = listed(vec![address("10.0.0.1", 5432), name("db.example", 0), address("169.254.169.254", 80)]);
        assert_eq!(admits(&policy, &[], "10.0.0.1", 5432), Ok(()));
        assert_eq!(admits(&policy, &[], "::ffff:10.0.0.1", 5432), Ok(()));
        assert_eq!(admits(&policy, &["db.example"], "10.0.0.1", 5432), Ok(()));
        assert_eq!(admits(&policy, &["db.example"], "10.0.0.1", 22), Err("private address"));
        assert_eq!(admits(&policy, &["db.example"], "10.0.0.2", 5432), Err("private address"));
        assert_eq!(admits(&policy, &[], "169.254.169.254", 80), Ok(()));
        // The machine's own loopback stays its own, even if somebody managed to write it down.
        assert_eq!(
            admits(&listed(vec![address("127.0.0.1", 0)]), &[], "127.0.0.1", 80),
            Err("loopback address of the host")
        );
        assert_eq!(policy.admits_answer("10.0.0.1".parse().unwrap()), Ok(()));
        assert_eq!(policy.admits_answer("10.0.0.2".parse().unwrap()), Err("private address"));
    }

    #[test]
    fn a_refusal_wins() {
        let mut policy = listed(vec![name(".example.org", 0)]);
        policy.quiet = vec![name("telemetry.example.org", 0), address("93.184.216.35", 0)];
        assert_eq!(admits(&policy, &["a.example.org"], "93.184.216.34", 443), Ok(()));
        assert_eq!(admits(&policy, &["a.example.org"], "93.184.216.35", 443), Err("not allowed"));
        assert_eq!(admits(&policy, &["telemetry.example.org"], "93.184.216.34", 443), Err("not allowed"));
        assert_eq!(
            admits(&policy, &["a.example.org", "telemetry.example.org"], "93.184.216.34", 443),
            Err("not allowed")
        );
        policy.mode = Policy::EVERYWHERE;
        assert_eq!(admits(&policy, &[], "93.184.216.35", 443), Err("not allowed"));
    }

    #[test]
    fn open_is_everywhere_but_the_host_itself_and_its_credentials() {
        let policy = Policy { mode: Policy::EVERYWHERE, ..Policy::default() };
        for open in ["1.1.1.1", "10.0.0.1", "192.168.1.1", "fd12::1", "2606:4700::1111", "198.18.0.1"] {
            assert_eq!(admits(&policy, &[], open, 80), Ok(()), "{open}");
        }
        for closed in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "169.254.170.2",
            "fe80::1",
            "fd00:ec2::254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "224.0.0.1",
            "ff02::1",
        ] {
            assert!(admits(&policy, &[], closed, 80).is_err(), "{closed}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_admitted_that_no_entry_means(octets: [u8; 4], port: u16, other in "[a-z]{1,8}\\.example") {
            let policy = listed(vec![name("allowed.test", 0)]);
            let address = IpAddr::from(octets);
            prop_assert!(policy.admits([], address, port).is_err());
            prop_assert!(policy.admits([other.as_str()], address, port).is_err());
            let admitted = policy.admits(["allowed.test"], address, port).is_ok();
            prop_assert_eq!(admitted, Class::of(address) == Class::Public);
        }

        #[test]
        fn with_no_network_nothing_is_admitted(bytes: [u8; 16], port: u16) {
            let policy = Policy { mode: Policy::NOWHERE, allowed: vec![name("a.test", 0)], quiet: Vec::new() };
            prop_assert!(policy.admits(["a.test"], IpAddr::from(bytes), port).is_err());
        }

        #[test]
        fn every_way_to_carry_an_address_keeps_its_class_where_it_is_not_public(octets: [u8; 4]) {
            let inner = Ipv4Addr::from(octets);
            let class = v4(inner);
            let [a, b] = [u16::from_be_bytes([octets[0], octets[1]]), u16::from_be_bytes([octets[2], octets[3]])];
            for carried in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, a, b),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 1, 2, 3, 4, !a, !b),
            ] {
                prop_assert_eq!(v6(carried), class, "{}", carried);
            }
        }

        #[test]
        fn bytes_are_read_back_as_the_same_address(all: [u8; 16]) {
            let address = IpAddr::from(all).to_canonical();
            prop_assert_eq!(parse(&bytes(address)), Some(address));
        }

        #[test]
        fn a_refusal_is_never_turned_by_another_name(octets: [u8; 4], port: u16) {
            let mut policy = Policy { mode: Policy::EVERYWHERE, ..Policy::default() };
            policy.quiet = vec![name("quiet.test", 0)];
            prop_assert!(policy.admits(["a.test", "quiet.test"], IpAddr::from(octets), port).is_err());
        }
    }
}
