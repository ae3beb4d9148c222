//! Questions to a name server and answers to them, RFC 1035. Pure; only what a stub needs.

use std::fmt::Write;
use std::net::IpAddr;

/// The largest message over UDP without extensions, RFC 1035 section 4.2.1.
pub const DATAGRAM: usize = 512;

/// Question types that have an answer here.
pub const A: u16 = 1;
/// An IPv6 address, RFC 3596.
pub const AAAA: u16 = 28;

/// Seconds that an answer may be kept: the whole life of most steps is shorter.
const TTL: u32 = 30;

/// What comes back beside addresses, RFC 1035 section 4.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// There is an answer, perhaps an empty one.
    NoError = 0,
    /// What a machine without a network says: libraries report a temporary failure, at once.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    id: [u8; 2],
    flags: u8,
    /// Its bytes, as they are repeated in the answer.
    section: Vec<u8>,
    /// The name in lower case without the dot of the root; bytes that are not printable ASCII as `\ddd`.
    pub name: String,
    /// What is asked for: [`A`], [`AAAA`], ...
    pub kind: u16,
}

impl Question {
    /// What the asker tells answers apart by: the same again where it asks once more for lack of an answer.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes(self.id)
    }
}

/// Reads the question of a message; `None` for anything that is no single ordinary question.
pub fn question(message: &[u8]) -> Option<Question> {
    let header = message.first_chunk::<12>()?;
    let [id0, id1, flags, _, questions0, questions1, ..] = *header;
    // A query (not an answer) of the standard kind, with one question.
    if flags & 0xf8 != 0 || [questions0, questions1] != [0, 1] {
        return None;
    }
    let (mut at, mut name) = (12, String::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // No pointers: nothing comes before the question that one could point to.
        if length > 63 || at + length - 12 > 255 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in message.get(at..at + length)? {
            match byte {
                b'.' | b'\\' => write!(name, "\\{:03}", byte).ok()?,
                0x21..=0x7e => name.push(byte.to_ascii_lowercase() as char),
                _ => write!(name, "\\{byte:03}").ok()?,
            }
        }
        at += length;
    }
    let kind = u16::from_be_bytes(*message.get(at..)?.first_chunk()?);
    let section = message.get(12..at + 4)?.to_vec();
    Some(Question { id: [id0, id1], flags, section, name, kind })
}

/// The answer to a question. Addresses of the other family than asked for are left out; over `limit` bytes nothing but
/// the mark is sent that makes the asker come again over TCP.
pub fn answer(question: &Question, code: Code, addresses: &[IpAddr], limit: usize) -> Vec<u8> {
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match (address, question.kind) {
            (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
            (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let size = 12 + question.section.len() + records.iter().map(|data| 12 + data.len()).sum::<usize>();
    let truncated = size > limit;
    let count = if truncated { 0 } else { records.len() as u16 };
    // An answer (0x80), the asker's wish for recursion (0x01), truncated (0x02); recursion is available (0x80).
    let flags = 0x80 | (question.flags & 0x01) | if truncated { 0x02 } else { 0 };
    let mut message = vec![question.id[0], question.id[1], flags, 0x80 | code as u8, 0, 1];
    message.extend(count.to_be_bytes());
    message.extend([0; 4]);
    message.extend(&question.section);
    for data in records.iter().take(count.into()) {
        // The name by a pointer to the question's, and the class of the internet.
        message.extend([0xc0, 12]);
        message.extend(question.kind.to_be_bytes());
        message.extend([0, 1]);
        message.extend(TTL.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    #[test]
    fn a_question_is_read_in_lower_case() {
        let question = question(&query("Example.ORG", A)).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("example.org", A));
    }

    #[test]
    fn an_answer_repeats_the_question_and_has_only_the_family_asked_for() {
        let question = question(&query("a.b", AAAA)).unwrap();
        let addresses = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let message = answer(&question, Code::NoError, &addresses, DATAGRAM);
        assert_eq!(message[..8], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1]);
        assert_eq!(message[12..21], query("a.b", AAAA)[12..21]);
        assert!(message.ends_with(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets()));
    }

    #[test]
    fn an_answer_that_is_too_long_for_a_datagram_says_so() {
        let question = question(&query("a", A)).unwrap();
        let many = vec!["192.0.2.1".parse().unwrap(); 40];
        let message = answer(&question, Code::NoError, &many, DATAGRAM);
        assert_eq!(message[2] & 2, 2);
        assert!(message.len() <= DATAGRAM);
        assert_eq!(answer(&question, Code::NoError, &many, 65535)[7], 40);
    }

    #[test]
    fn bytes_of_a_name_that_a_terminal_would_act_on_are_escaped() {
        let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, 0x1b, b'.', b'\\', 0xff, 0, 0, 1, 0, 1];
        assert_eq!(question(&message).unwrap().name, "\\027\\046\\092\\255");
        message[4..6].copy_from_slice(&[0, 2]);
        assert_eq!(question(&message), None);
    }

    proptest! {
        #[test]
        fn any_message_is_read_or_refused(message in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(question) = question(&message) {
                prop_assert!(question.name.bytes().all(|b| (0x21..=0x7e).contains(&b)));
                let said = answer(&question, Code::ServFail, &[], DATAGRAM);
                prop_assert!(said.len() <= DATAGRAM);
            }
        }

        #[test]
        fn a_name_is_read_as_it_was_asked(labels in proptest::collection::vec("[a-z0-9_-]{1,63}", 1..4), kind: u16) {
            let name = labels.join(".");
            let question = question(&query(&name, kind)).unwrap();
            prop_assert_eq!(question.name, name);
            prop_assert_eq!(question.kind, kind);
        }
    }
}
