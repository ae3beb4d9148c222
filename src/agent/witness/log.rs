//! The attempts of one step: each distinct one once, with a bound for each verdict. A step can make any number, and
//! many harmless ones must not hide a refused one.

use crate::frame::{Attempt, Frame, LISTED, Verdict};
use std::collections::HashMap;

/// What makes two attempts the same one: everything but when, and which process of several alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    process: String,
    call: String,
    address: String,
    port: u16,
    name: String,
    test: String,
    verdict: u8,
}

/// What was told so far.
#[derive(Debug, Default)]
pub struct Log {
    seen: HashMap<Key, u32>,
    counts: Vec<u64>,
    listed: [usize; 4],
    unlisted: u64,
}

impl Log {
    /// Whether another distinct attempt would still be told: else looking at the process is for nothing.
    pub fn is_full(&self, verdict: Verdict) -> bool {
        self.listed[verdict as usize] >= LISTED
    }

    /// Counts one that is not told: refused ones only, the others are nobody's business.
    pub fn add_unseen(&mut self, verdict: Verdict) {
        self.unlisted += u64::from(verdict == Verdict::Denied);
    }

    /// Counts one that is the same as the one with this id.
    pub fn again(&mut self, id: u32) {
        self.counts[id as usize] += 1;
    }

    /// Counts an attempt: its id where it is listed, and the frame that tells it where it is a new one. One that is only
    /// a `part` of what was counted already (the second question of a look-up) is told where it is new, and not counted
    /// again.
    pub fn add(&mut self, mut attempt: Attempt, part: bool) -> (Option<u32>, Option<Frame>) {
        let key = Key {
            process: attempt.process.clone(),
            call: attempt.call.clone(),
            address: attempt.address.clone(),
            port: attempt.port,
            name: attempt.name.clone(),
            test: attempt.test.clone(),
            verdict: attempt.verdict as u8,
        };
        if let Some(id) = self.seen.get(&key) {
            let id = *id;
            if !part {
                self.again(id);
            }
            return (Some(id), None);
        }
        if self.is_full(attempt.verdict) {
            if !part {
                self.add_unseen(attempt.verdict);
            }
            return (None, None);
        }
        self.listed[attempt.verdict as usize] += 1;
        attempt.id = self.counts.len() as u32;
        self.seen.insert(key, attempt.id);
        self.counts.push(1);
        (Some(attempt.id), Some(Frame::Attempt { attempt }))
    }

    /// How often, at the end.
    pub fn totals(&self) -> Vec<Frame> {
        let repeated = self.counts.iter().zip(0..).filter(|(count, _)| **count > 1);
        let mut frames: Vec<Frame> = repeated.map(|(count, id)| Frame::Repeated { id, count: *count }).collect();
        if self.unlisted > 0 {
            frames.push(Frame::Unlisted { count: self.unlisted });
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_told_once_and_counted_and_there_is_an_end() {
        let mut log = Log::default();
        let attempt = |port| Attempt { port, ..Attempt::default() };
        assert!(log.add(attempt(1), false).1.is_some());
        assert!(log.add(attempt(1), false).1.is_none());
        assert!(log.add(Attempt { at_ms: 9, pid: 7, ..attempt(1) }, false).1.is_none());
        // A part is not counted where the whole is.
        assert!(log.add(attempt(1), true).1.is_none());
        for port in 2..=LISTED as u16 {
            assert!(log.add(attempt(port), false).1.is_some());
        }
        assert!(log.is_full(Verdict::Denied) && !log.is_full(Verdict::Note));
        assert!(log.add(attempt(5000), false).1.is_none() && log.add(attempt(5000), true).1.is_none());
        log.add_unseen(Verdict::Denied);
        log.add_unseen(Verdict::Note);
        assert_eq!(log.totals(), [Frame::Repeated { id: 0, count: 3 }, Frame::Unlisted { count: 2 }]);
    }
}
