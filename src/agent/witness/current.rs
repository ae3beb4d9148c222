//! Which test runs, as our pytest plugin says it: a file of slots that the step maps and writes, and we read.
//!
//! Slot `pid % 64` holds `u32` sequence number (odd while it is written), `u32` pid, `u32` length, and the node id. Not
//! mapped here: the step can cut the file, and reading a mapping behind the end of its file kills the reader.

use super::task::Caller;
use crate::escape::{LONGEST, escaped};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Slots, and bytes of each.
const SLOTS: u32 = 64;
const SLOT: usize = 4096;

/// Bytes of the whole file.
pub const SIZE: u64 = SLOTS as u64 * SLOT as u64;

/// The file of slots, where there is one.
#[derive(Debug, Default)]
pub struct Current(Option<File>);

impl Current {
    /// Reads from `path`, which the walls made.
    pub fn open(path: &str) -> Current {
        Current(File::open(path).ok())
    }

    /// The test that the caller, or the nearest of its parents that runs one, is at; empty where none does.
    pub fn test_of(&self, caller: &Caller) -> String {
        let Some(file) = &self.0 else { return String::new() };
        std::iter::once(caller.pid)
            .chain(caller.above.iter().copied())
            .find_map(|pid| slot(file, pid))
            .unwrap_or_default()
    }
}

fn slot(file: &File, pid: u32) -> Option<String> {
    let mut bytes = [0; SLOT];
    let have = file.read_at(&mut bytes, u64::from(pid % SLOTS) * SLOT as u64).ok()?;
    read_slot(&bytes[..have], pid)
}

/// What a slot says of a process. What is being written right now is nothing.
fn read_slot(bytes: &[u8], pid: u32) -> Option<String> {
    let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let (sequence, owner, length) = (number(0)?, number(4)?, number(8)? as usize);
    if sequence % 2 == 1 || owner != pid || length == 0 {
        return None;
    }
    let text = bytes.get(12..)?.get(..length)?;
    Some(escaped(&String::from_utf8_lossy(text), LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(sequence: u32, pid: u32, text: &[u8]) -> Vec<u8> {
        [&sequence.to_le_bytes()[..], &pid.to_le_bytes(), &(text.len() as u32).to_le_bytes(), text].concat()
    }

    #[test]
    fn a_slot_is_its_writers_alone_and_not_while_it_is_written() {
        let bytes = written(2, 7, b"tests/test_a.py::test_b");
        assert_eq!(read_slot(&bytes, 7).as_deref(), Some("tests/test_a.py::test_b"));
        assert_eq!(read_slot(&bytes, 71), None);
        assert_eq!(read_slot(&written(3, 7, b"x"), 7), None);
        assert_eq!(read_slot(&written(2, 7, b""), 7), None);
        assert_eq!(read_slot(&bytes[..20], 7), None);
    }

    proptest! {
        #[test]
        fn any_bytes_of_the_step_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..64), pid: u32) {
            if let Some(text) = read_slot(&bytes, pid) {
                prop_assert!(text.chars().all(|c| !c.is_control()));
            }
        }
    }
}
