//! Which questions to the name server are one look-up: a C library asks for both families of addresses at once, and asks
//! the same again where it got no answer. Decides and does nothing; time comes in.

use super::dns::Question;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long the questions of one look-up may come after the first: two tries of five seconds and a third of the time
/// (resolv.conf(5): `attempts`, `timeout`).
const SOON: Duration = Duration::from_secs(15);

/// Look-ups that are remembered, and questions of one.
const RECENT: usize = 1024;
const QUESTIONS: usize = 8;

/// The look-ups of late, by process and name.
#[derive(Debug, Default)]
pub struct LookUps(HashMap<(u32, String), LookUp>);

#[derive(Debug)]
struct LookUp {
    since: Instant,
    /// Kind and id of each question.
    asked: Vec<(u16, u16)>,
}

impl LookUps {
    /// Whether this question of a process begins a look-up. It belongs to the one before if it is that question again, or
    /// one of a kind that was not asked for yet.
    pub fn begins(&mut self, pid: u32, question: &Question, now: Instant) -> bool {
        let (kind, id) = (question.kind, question.id());
        let key = (pid, question.name.clone());
        if let Some(look_up) = self.0.get_mut(&key).filter(|look_up| now.duration_since(look_up.since) < SOON) {
            if look_up.asked.contains(&(kind, id)) {
                return false;
            }
            if look_up.asked.len() < QUESTIONS && look_up.asked.iter().all(|(other, _)| *other != kind) {
                look_up.asked.push((kind, id));
                return false;
            }
        }
        if self.0.len() >= RECENT {
            self.0.clear();
        }
        self.0.insert(key, LookUp { since: now, asked: vec![(kind, id)] });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::dns::{self, A, AAAA};
    use super::*;

    fn question(id: u8, kind: u16) -> Question {
        let [high, low] = kind.to_be_bytes();
        dns::question(&[0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, high, low, 0, 1]).unwrap()
    }

    #[test]
    fn both_families_and_a_second_try_are_one_look_up_and_a_new_question_is_another() {
        let (mut all, now) = (LookUps::default(), Instant::now());
        let asked = [(1, A), (2, AAAA), (1, A), (2, AAAA), (3, A), (4, AAAA), (5, A)];
        let begins = asked.map(|(id, kind)| all.begins(7, &question(id, kind), now));
        assert_eq!(begins, [true, false, false, false, true, false, true]);
        assert!(all.begins(8, &question(5, A), now), "another process looks up by itself");
        assert!(all.begins(7, &question(5, A), now + SOON), "ids are used again some day");
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let (mut all, now) = (LookUps::default(), Instant::now());
        for pid in 0..3000 {
            assert!(all.begins(pid, &question(1, A), now));
        }
        for kind in 0..3000 {
            all.begins(0, &question(1, kind), now);
        }
        assert!(all.0.len() <= RECENT && all.0.values().all(|look_up| look_up.asked.len() <= QUESTIONS));
    }
}
