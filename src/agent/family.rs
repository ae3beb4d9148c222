//! Everybody that the command started: what is ended, stopped and counted.

use crate::linux::process;
use std::collections::{HashMap, HashSet};
use std::fs;

/// How often the processes are looked up again while they are stopped before they are killed. Each round stops all that
/// it sees, so that only those forked since are left for the next one.
const ROUNDS: usize = 200;

/// Who belongs to the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Every process of our pid namespace but PID 1, which we are.
    Namespace,
    /// Every descendant of this process, which adopts orphans.
    Descendants,
}

impl Family {
    /// What can be ended from here.
    pub fn of_this_process() -> Family {
        if std::process::id() == 1 { Family::Namespace } else { Family::Descendants }
    }

    /// Sends a signal to everybody. SIGKILL reaches also those that fork as fast as they can.
    pub fn signal(self, signal: i32) {
        match self {
            // One call, which the kernel makes atomic.
            Family::Namespace => {
                process::signal_all(signal);
            }
            Family::Descendants if signal == libc::SIGKILL => kill_descendants(),
            Family::Descendants => descendants().into_iter().for_each(|pid| process::signal(pid.cast_signed(), signal)),
        }
    }

    /// The processes, in the order of their numbers.
    pub fn members(self) -> Vec<u32> {
        let mut all = match self {
            Family::Namespace => processes().into_iter().map(|(pid, _)| pid).filter(|pid| *pid != 1).collect(),
            Family::Descendants => descendants(),
        };
        all.sort_unstable();
        all
    }
}

/// Stops everybody first: a stopped process forks no more.
fn kill_descendants() {
    let mut stopped = HashSet::new();
    for _ in 0..ROUNDS {
        let new: Vec<u32> = descendants().into_iter().filter(|pid| !stopped.contains(pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            process::signal(pid.cast_signed(), libc::SIGSTOP);
            stopped.insert(pid);
        }
    }
    descendants().into_iter().for_each(|pid| process::signal(pid.cast_signed(), libc::SIGKILL));
}

/// Everybody below this process.
fn descendants() -> Vec<u32> {
    below(std::process::id(), &processes())
}

/// Everybody below `top` in a list of processes and their parents.
fn below(top: u32, all: &[(u32, u32)]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, parent) in all {
        children.entry(*parent).or_default().push(*pid);
    }
    let (mut found, mut at) = (children.remove(&top).unwrap_or_default(), 0);
    while at < found.len() {
        // Taken out: a list that was read while it changed may hold a circle.
        found.extend(children.remove(&found[at]).unwrap_or_default());
        at += 1;
    }
    found
}

/// The beginning of a process's command line, words ended by NUL; empty where it is hidden. A step can make one of
/// several megabytes, and nobody shows more than a line of it.
pub fn command_line(pid: u32) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    // What could be read is what there is.
    let _ = fs::File::open(format!("/proc/{pid}/cmdline")).and_then(|file| file.take(4096).read_to_end(&mut bytes));
    bytes
}

/// Every process that is seen, with its parent.
fn processes() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// The parent of a process; `None` where it is gone.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything; the parent is field 4, proc_pid_stat(5).
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_below_is_found_once_and_nobody_else() {
        let all = [(2, 1), (10, 2), (11, 10), (12, 11), (20, 1), (21, 20), (13, 10), (30, 31), (31, 30)];
        let mut found = below(10, &all);
        found.sort_unstable();
        assert_eq!(found, [11, 12, 13]);
        assert_eq!(below(99, &all), Vec::<u32>::new());
        assert_eq!(below(30, &all), [31, 30]);
    }

    #[test]
    fn a_child_is_a_descendant_and_its_parent_is_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = descendants();
        assert!(found.contains(&child.id()));
        assert!(!found.contains(&std::os::unix::process::parent_id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
