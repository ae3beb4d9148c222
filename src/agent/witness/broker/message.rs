//! What a `struct msghdr` in the memory of a caller holds, sendmsg(2).

use crate::agent::witness::VECTOR;
use crate::agent::witness::task::{Task, Unread};

/// The longest datagram that is performed; the kernel's own limit is lower for most.
pub(super) const LONGEST: usize = 256 * 1024;

/// Address and data of a `struct msghdr`. What else it carries (descriptors, options) is left out: a datagram socket
/// takes it to nobody.
pub(super) fn message(task: Task, header: &[u8]) -> Result<(Option<Vec<u8>>, Vec<u8>), Unread> {
    let address = match word(header, 0) {
        0 => None,
        at => Some(task.read(at, (word(header, 8) as u32).min(128) as usize)?),
    };
    let vectors = task.read(word(header, 16), (word(header, 24) as usize).min(VECTOR) * 16)?;
    let mut bytes = Vec::new();
    for vector in vectors.chunks_exact(16) {
        let room = (LONGEST + 1).saturating_sub(bytes.len());
        let length = (word(vector, 8) as usize).min(room);
        if length > 0 {
            bytes.extend(task.read(word(vector, 0), length)?);
        }
    }
    Ok((address, bytes))
}

/// Bytes of control data that are looked at: as many descriptors as the kernel passes at once, and more.
pub(super) const CONTROL: usize = 4096;

/// The descriptors that control data passes, cmsg(3); `None` where it holds anything else.
pub(super) fn passed_numbers(mut control: &[u8]) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    while !control.is_empty() {
        let length = usize::try_from(word(control, 0)).ok().filter(|length| (16..=control.len()).contains(length))?;
        let int = |at: usize| control.get(at..)?.first_chunk().map(|b| i32::from_ne_bytes(*b));
        if (int(8)?, int(12)?) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            return None;
        }
        numbers.extend(
            control[16..length].chunks_exact(4).filter_map(|b| b.first_chunk().map(|b| u32::from_ne_bytes(*b))),
        );
        control = control.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Some(numbers)
}

pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_descriptors_are_read_and_nothing_else_is() {
        let part = |level: i32, kind: i32, data: &[u8]| {
            let length = (16 + data.len() as u64).to_ne_bytes();
            let mut all = [&length[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), data].concat();
            all.resize(all.len().next_multiple_of(8), 0);
            all
        };
        let rights = part(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(passed_numbers(&[rights.clone(), rights.clone()].concat()), Some(vec![7, 8, 9, 7, 8, 9]));
        assert_eq!(passed_numbers(&[]), Some(vec![]));
        assert_eq!(passed_numbers(&part(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[0; 12])), None);
        for cut in 1..16 {
            assert_eq!(passed_numbers(&rights[..cut]), None);
        }
    }
}
