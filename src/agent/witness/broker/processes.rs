//! Which processes are the step's to signal.

use super::Answer;
use crate::agent::family::Family;
use crate::agent::witness::task::{Task, group_members};
use crate::linux::process;

pub(super) fn allowed(yes: bool, errno: i32) -> Answer {
    if yes { Answer::Proceed } else { Answer::Refuse(errno) }
}

/// Whether a process (or with a minus a process group, or with 0 the caller's own) is the step's.
pub(super) fn whom(id: i32) -> bool {
    match id {
        0 => true,
        1.. => Task { thread: id.unsigned_abs() }.is_below(std::process::id()),
        _ => {
            let members = group_members(id.unsigned_abs());
            !members.is_empty() && members.iter().all(|pid| Task { thread: *pid }.is_below(std::process::id()))
        }
    }
}

/// kill(2) of everybody who may be signalled: everybody of the step but the caller.
pub(super) fn signal_everybody(caller: Option<u32>, signal: i32) {
    for pid in Family::Descendants.members().into_iter().filter(|pid| Some(*pid) != caller) {
        process::signal(pid.cast_signed(), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_step_is_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(whom(child.id().cast_signed()) && whom(0));
        let parent = std::os::unix::process::parent_id().cast_signed();
        assert!(
            !whom(parent) && !whom(1) && !whom(i32::MAX) && !whom(-i32::MAX) && !whom(std::process::id().cast_signed())
        );
        // Our own group has our parent in it, or at least us.
        assert!(!whom(-rustix::process::getpgrp().as_raw_nonzero().get()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
