//! The order in which an agent may speak, as a state machine without any I/O.

use crate::frame::{Frame, PROTOCOL};
use sha2::{Digest, Sha256};

/// A frame that may not come now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Out of order.
    #[error("`{frame}` while waiting for {expected}")]
    Order {
        /// What came.
        frame: &'static str,
        /// What may come.
        expected: &'static str,
    },
    /// Another version of the protocol.
    #[error("the agent speaks protocol {0}, this is {PROTOCOL}")]
    Version(u16),
    /// `end` does not fit what came before it.
    #[error("`end` speaks of {said} frames with sha256 {said_sha256}, {seen} came with {seen_sha256}")]
    Count {
        /// Frames according to `end`.
        said: u64,
        /// Digest according to `end`.
        said_sha256: String,
        /// Frames that came.
        seen: u64,
        /// Digest of what came.
        seen_sha256: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing came yet.
    Silent,
    /// `hello` came; the manifest was or will be sent.
    Greeted,
    /// `ready` came.
    Raised,
    /// `started` came.
    Running,
    /// `exited` came.
    Collecting,
    /// `broken` came.
    Broken,
    /// `end` came, and everything is accounted for.
    Over,
}

/// What was said so far.
#[derive(Debug)]
pub struct Conversation {
    stage: Stage,
    frames: u64,
    digest: Sha256,
}

impl Default for Conversation {
    fn default() -> Self {
        Conversation { stage: Stage::Silent, frames: 0, digest: Sha256::new() }
    }
}

impl Conversation {
    /// Takes the next frame with its bytes.
    ///
    /// # Errors
    /// [`Wrong`]: the stream can't be trusted from here on.
    pub fn accept(&mut self, frame: &Frame, raw: &[u8]) -> Result<(), Wrong> {
        use Stage::{Broken, Collecting, Greeted, Over, Raised, Running, Silent};
        let next = match (self.stage, frame) {
            (Silent, Frame::Raising {}) => return Ok(()),
            (Silent, Frame::Hello { protocol, .. }) if *protocol == PROTOCOL => Greeted,
            (Silent, Frame::Hello { protocol, .. }) => return Err(Wrong::Version(*protocol)),
            (Greeted, Frame::Ready { .. }) => Raised,
            (Raised, Frame::Started { .. }) => Running,
            (
                Running,
                Frame::Output { .. }
                | Frame::Terminating { .. }
                | Frame::Killing {}
                | Frame::Paused { .. }
                | Frame::Attempt { .. }
                | Frame::Repeated { .. }
                | Frame::Unlisted { .. }
                | Frame::Lookup { .. }
                | Frame::Dial { .. }
                | Frame::Sent { .. }
                | Frame::Shut { .. }
                | Frame::Taken { .. },
            ) => Running,
            (Running, Frame::Exited { .. }) => Collecting,
            (Collecting, Frame::Tar { .. } | Frame::Refused { .. } | Frame::Change { .. }) => Collecting,
            (Greeted | Raised | Running | Collecting, Frame::Pong { .. }) => self.stage,
            (Silent | Greeted | Raised | Running | Collecting, Frame::Broken { .. }) => Broken,
            (Collecting | Broken, Frame::End { frames, sha256 }) => {
                self.check(*frames, sha256)?;
                Over
            }
            (stage, frame) => return Err(Wrong::Order { frame: name(frame), expected: stage.expected() }),
        };
        self.stage = next;
        self.frames += 1;
        self.digest.update(raw);
        Ok(())
    }

    fn check(&self, said: u64, said_sha256: &str) -> Result<(), Wrong> {
        let seen_sha256 = hex::encode(self.digest.clone().finalize());
        if said == self.frames && said_sha256 == seen_sha256 {
            return Ok(());
        }
        Err(Wrong::Count { said, said_sha256: said_sha256.to_owned(), seen: self.frames, seen_sha256 })
    }

    /// Whether `end` came and fitted.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether the agent said `hello`: what failed before that is a wall, what fails later is not.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        !matches!(self.stage, Stage::Silent)
    }
}

impl Stage {
    fn expected(self) -> &'static str {
        match self {
            Stage::Silent => "`hello`",
            Stage::Greeted => "`ready`",
            Stage::Raised => "`started`",
            Stage::Running => "`output` or `exited`",
            Stage::Collecting => "`tar` or `end`",
            Stage::Broken => "`end`",
            Stage::Over => "nothing more",
        }
    }
}

fn name(frame: &Frame) -> &'static str {
    match frame {
        Frame::Hello { .. } => "hello",
        Frame::Ready { .. } => "ready",
        Frame::Started { .. } => "started",
        Frame::Output { .. } => "output",
        Frame::Terminating { .. } => "terminating",
        Frame::Killing {} => "killing",
        Frame::Paused { .. } => "paused",
        Frame::Exited { .. } => "exited",
        Frame::Tar { .. } => "tar",
        Frame::Refused { .. } => "refused",
        Frame::Broken { .. } => "broken",
        Frame::Pong { .. } => "pong",
        Frame::Attempt { .. } => "attempt",
        Frame::Repeated { .. } => "repeated",
        Frame::Unlisted { .. } => "unlisted",
        Frame::Lookup { .. } => "lookup",
        Frame::Dial { .. } => "dial",
        Frame::Sent { .. } => "sent",
        Frame::Shut { .. } => "shut",
        Frame::Taken { .. } => "taken",
        Frame::Raising {} => "raising",
        Frame::End { .. } => "end",
        Frame::Change { .. } => "change",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Bytes, Ended, Payload};

    fn one_of_each() -> Vec<Frame> {
        vec![
            Frame::Hello { protocol: PROTOCOL, version: String::new() },
            Frame::Ready { observed: vec![] },
            Frame::Started { pid: 2 },
            Frame::Output { stream: 1, bytes: Bytes(b"x".to_vec()) },
            Frame::Terminating { after_ms: 1 },
            Frame::Killing {},
            Frame::Paused { paused: true },
            Frame::Attempt { attempt: crate::frame::Attempt::default() },
            Frame::Exited { ended: Ended::default() },
            Frame::Tar { bytes: Bytes(vec![]) },
            Frame::Refused { path: String::new(), why: String::new() },
            Frame::Broken { stage: String::new(), message: String::new() },
            Frame::Pong { token: 1 },
        ]
    }

    /// Says these frames, and then an `end` that fits them.
    fn say(frames: &[Frame]) -> Result<Conversation, Wrong> {
        let mut conversation = Conversation::default();
        for frame in frames {
            conversation.accept(frame, &frame.encode())?;
        }
        Ok(conversation)
    }

    fn end_of(frames: &[Frame]) -> Frame {
        let bytes: Vec<u8> = frames.iter().flat_map(Payload::encode).collect();
        Frame::End { frames: frames.len() as u64, sha256: hex::encode(Sha256::digest(bytes)) }
    }

    #[test]
    fn a_whole_conversation_is_accepted_and_over() {
        let all = one_of_each();
        let whole: Vec<Frame> = all[..11].to_vec();
        let mut conversation = say(&whole).unwrap();
        assert!(!conversation.is_over());
        conversation.accept(&end_of(&whole), &[]).unwrap();
        assert!(conversation.is_over());
    }

    #[test]
    fn at_every_stage_only_the_named_frames_may_come() {
        let all = one_of_each();
        let prefixes = [0, 1, 2, 3, 9, 12];
        let allowed: [&[&str]; 6] = [
            &["hello", "broken"],
            &["ready", "broken", "pong"],
            &["started", "broken", "pong"],
            &["output", "terminating", "killing", "paused", "attempt", "exited", "broken", "pong"],
            &["tar", "refused", "broken", "pong"],
            &[],
        ];
        for (prefix, allowed) in prefixes.into_iter().zip(allowed) {
            // The last prefix is the one that ends with `broken`.
            for frame in &all {
                let mut conversation = say(&all[..prefix]).unwrap();
                let accepted = conversation.accept(frame, &frame.encode()).is_ok();
                assert_eq!(accepted, allowed.contains(&name(frame)), "{} after {prefix} frames", name(frame));
            }
        }
    }

    #[test]
    fn an_end_comes_only_after_exited_or_broken() {
        let all = one_of_each();
        for prefix in 0..all.len() - 1 {
            let mut conversation = say(&all[..prefix]).unwrap();
            let accepted = conversation.accept(&end_of(&all[..prefix]), &[]).is_ok();
            assert_eq!(accepted, prefix >= 9, "after {prefix} frames");
        }
    }

    #[test]
    fn an_end_that_counts_otherwise_is_refused() {
        let all = one_of_each();
        let mut conversation = say(&all[..9]).unwrap();
        let wrong = Frame::End { frames: 8, sha256: String::new() };
        assert!(matches!(conversation.accept(&wrong, &[]), Err(Wrong::Count { said: 8, seen: 9, .. })));
        let Frame::End { frames, .. } = end_of(&all[..9]) else { unreachable!() };
        let wrong = Frame::End { frames, sha256: "00".into() };
        assert!(matches!(conversation.accept(&wrong, &[]), Err(Wrong::Count { .. })));
    }

    #[test]
    fn another_protocol_is_refused_by_number() {
        let frame = Frame::Hello { protocol: PROTOCOL + 1, version: String::new() };
        assert_eq!(Conversation::default().accept(&frame, &[]), Err(Wrong::Version(PROTOCOL + 1)));
    }

    #[test]
    fn signs_of_life_come_before_hello_only_and_are_not_counted() {
        let all = one_of_each();
        let mut conversation = Conversation::default();
        for _ in 0..3 {
            conversation.accept(&Frame::Raising {}, &Frame::Raising {}.encode()).unwrap();
        }
        for frame in &all[..9] {
            conversation.accept(frame, &frame.encode()).unwrap();
            assert!(conversation.accept(&Frame::Raising {}, &Frame::Raising {}.encode()).is_err());
        }
        conversation.accept(&end_of(&all[..9]), &[]).unwrap();
        assert!(conversation.is_over());
    }

    #[test]
    fn nothing_comes_after_the_end() {
        let all = one_of_each();
        for frame in &all {
            let mut conversation = say(&all[..9]).unwrap();
            conversation.accept(&end_of(&all[..9]), &[]).unwrap();
            assert!(conversation.accept(frame, &[]).is_err());
        }
    }
}
