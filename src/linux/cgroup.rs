//! Control groups: where memory and processes of a whole cell can be limited, which no rlimit can.
//!
//! Both generations. A group is named `ft-cell-PID-START` after the helper that made it, so that a later [`sweep`] can
//! tell what a killed run left from what is in use.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MOUNTED: &str = "/sys/fs/cgroup";
const PREFIX: &str = "ft-cell-";

/// The groups of one cell. Removed by [`Groups::remove`], after all processes in it are gone.
#[derive(Debug, Default)]
pub struct Groups {
    directories: Vec<PathBuf>,
    members: Vec<File>,
    memory_events: Option<File>,
    /// What limits memory, in words.
    pub memory: Option<&'static str>,
    /// What limits processes, in words.
    pub pids: Option<&'static str>,
    /// Why no group could be made; empty where one was, or none was asked for.
    pub refused: String,
}

impl Groups {
    /// Makes the groups for these limits (0 means none), as far as this machine lets us. What could not be limited has
    /// `None` in its field; that is no error here.
    #[must_use]
    pub fn create(memory_bytes: u64, pids: u64) -> Groups {
        let mut groups = Groups::default();
        if memory_bytes == 0 && pids == 0 {
            return groups;
        }
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let name = format!("{PREFIX}{}-{}", std::process::id(), started(std::process::id()).unwrap_or(0));
        if Path::new(MOUNTED).join("cgroup.controllers").exists() {
            groups.create_unified(&own, &name, memory_bytes, pids);
        } else {
            groups.create_separate(&own, &name, memory_bytes, pids);
        }
        if groups.members.is_empty() && groups.refused.is_empty() {
            "no control groups are mounted here".clone_into(&mut groups.refused);
        }
        groups
    }

    /// The groups of a container, as it sees its own: made and removed by its engine, and read here.
    #[must_use]
    pub fn of_container() -> Groups {
        let mut groups = Groups::default();
        let at = Path::new(MOUNTED);
        let events = [at.join("memory.events"), at.join("memory/memory.oom_control")];
        groups.memory_events = events.iter().find_map(|path| File::open(path).ok());
        groups
    }

    /// cgroups(7), version 2: one tree. Processes may only live in leaves, so the new group stands beside ours or
    /// beside one of its parents: the nearest one that already hands both controllers down. Where none does, our own
    /// group is made to, which works where it was delegated to us.
    fn create_unified(&mut self, own: &str, name: &str, memory_bytes: u64, pids: u64) {
        let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
            "this process is in no control group of version 2".clone_into(&mut self.refused);
            return;
        };
        let at = Path::new(MOUNTED).join(path);
        for parent in at.ancestors().take_while(|p| p.starts_with(MOUNTED)) {
            if hands_down(parent) && self.make_unified(parent, name, memory_bytes, pids) {
                return;
            }
        }
        match hand_down(&at) {
            Ok(()) => {
                self.make_unified(&at, name, memory_bytes, pids);
            }
            // Why none of the parents could be used says less than why our own could not.
            Err(e) => self.refused = format!("{}: {e}", at.display()),
        }
    }

    fn make_unified(&mut self, parent: &Path, name: &str, memory_bytes: u64, pids: u64) -> bool {
        let directory = parent.join(name);
        if let Err(e) = fs::create_dir(&directory) {
            self.refused = format!("make {}: {e}", directory.display());
            return false;
        }
        self.directories.push(directory.clone());
        match File::options().write(true).open(directory.join("cgroup.procs")) {
            Ok(members) => self.members.push(members),
            Err(e) => {
                self.refused = format!("open {}/cgroup.procs: {e}", directory.display());
                return false;
            }
        }
        if memory_bytes > 0 && put(&directory, "memory.max", memory_bytes).is_ok() {
            // Absent without swap accounting; then there is no swap to flee into either.
            let _ = put(&directory, "memory.swap.max", 0);
            // All or nobody: a step that lost one of its processes to a limit is not left to hang without it. PID 1 is
            // in no group and says what happened.
            let _ = put(&directory, "memory.oom.group", 1);
            self.memory_events = File::open(directory.join("memory.events")).ok();
            self.memory = Some("cgroup v2 memory.max");
        }
        if pids > 0 && put(&directory, "pids.max", pids).is_ok() {
            self.pids = Some("cgroup v2 pids.max");
        }
        self.refused.clear();
        true
    }

    /// cgroups(7), version 1: one tree for each controller.
    fn create_separate(&mut self, own: &str, name: &str, memory_bytes: u64, pids: u64) {
        if memory_bytes > 0
            && let Some(directory) = self.join_separate(own, "memory", name)
            && put(&directory, "memory.limit_in_bytes", memory_bytes).is_ok()
        {
            let _ = put(&directory, "memory.memsw.limit_in_bytes", memory_bytes);
            self.memory_events = File::open(directory.join("memory.oom_control")).ok();
            self.memory = Some("cgroup v1 memory.limit_in_bytes");
        }
        if pids > 0
            && let Some(directory) = self.join_separate(own, "pids", name)
            && put(&directory, "pids.max", pids).is_ok()
        {
            self.pids = Some("cgroup v1 pids.max");
        }
    }

    fn join_separate(&mut self, own: &str, controller: &str, name: &str) -> Option<PathBuf> {
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            fields.next()?.split(',').any(|c| c == controller).then(|| fields.next())?
        })?;
        let mounted = Path::new(MOUNTED).join(controller);
        let own = mounted.join(path.trim_start_matches('/'));
        // In a container the path is the host's, and the container's own group is mounted as the root.
        let directory = if own.is_dir() { own } else { mounted }.join(name);
        if let Err(e) = fs::create_dir(&directory) {
            self.refused = format!("make {}: {e}", directory.display());
            return None;
        }
        self.directories.push(directory.clone());
        // Not `cgroup.procs`: moving a process waits until no CPU is in a fork or exit (an RCU grace period, 5 to 20 ms),
        // moving the thread that asks does not, and whoever joins has only one.
        self.members.push(File::options().write(true).open(directory.join("tasks")).ok()?);
        Some(directory)
    }

    /// Moves this process, which must have one thread only, into the groups. It may stand behind any wall by then: the
    /// files were opened before, and the kernel asks for the rights of who opened them.
    ///
    /// # Errors
    /// ENODEV where somebody removed the group.
    pub fn join(&mut self) -> io::Result<()> {
        self.members.iter_mut().try_for_each(|file| file.write_all(b"0"))
    }

    /// How many processes of the groups the kernel ended for want of memory.
    #[must_use]
    pub fn out_of_memory(&mut self) -> u64 {
        let Some(file) = &mut self.memory_events else { return 0 };
        let mut text = String::new();
        if file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text)).is_err() {
            return 0;
        }
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes the groups. Processes that were just killed leave theirs a moment later, so this tries for a while.
    pub fn remove(&mut self) {
        self.members.clear();
        self.memory_events = None;
        for directory in self.directories.drain(..) {
            // Version 2, Linux 5.14: whoever is left. Elsewhere the pid namespace has seen to it.
            let _ = put(&directory, "cgroup.kill", 1);
            for _ in 0..50 {
                match fs::remove_dir(&directory) {
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// What a container's own groups limit, read inside: of memory and processes, each with the file's name. `None` where no
/// group says so.
#[must_use]
pub fn container_limits() -> [Option<(&'static str, u64)>; 2] {
    let read = |files: [&'static str; 2]| {
        files.into_iter().find_map(|name| {
            let text = fs::read_to_string(Path::new(MOUNTED).join(name)).ok()?;
            // "max" is none.
            Some((name, text.trim().parse().ok()?))
        })
    };
    [read(["memory.max", "memory/memory.limit_in_bytes"]), read(["pids.max", "pids/pids.max"])]
}

/// The controllers that a cell needs.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

fn lists(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    CONTROLLERS.iter().all(|wanted| text.split_ascii_whitespace().any(|c| c == *wanted))
}

/// Whether groups below this one have the controllers.
fn hands_down(group: &Path) -> bool {
    lists(&group.join("cgroup.subtree_control"))
}

/// Makes our own group hand its controllers down. A group with processes in it may not (EBUSY): so this process and the
/// one that started it move into a leaf below it. Anybody else in it stays where he is, and the group as it was.
fn hand_down(group: &Path) -> io::Result<()> {
    if !lists(&group.join("cgroup.controllers")) {
        return Err(io::Error::other("it was not given the controllers memory and pids"));
    }
    let hand = || fs::write(group.join("cgroup.subtree_control"), "+memory +pids");
    match hand() {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
        other => return other,
    }
    let starter = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
    // Of the starter's name: it is swept when the starter is gone.
    let leaf = group.join(format!("{PREFIX}{starter}-{}", started(starter).unwrap_or(0)));
    match fs::create_dir(&leaf) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    for pid in [starter, std::process::id()] {
        // One that is not in our group stays in its own.
        let _ = fs::write(leaf.join("cgroup.procs"), pid.to_string());
    }
    // Another cell of this run may be doing the same at this moment.
    for _ in 0..20 {
        match hand() {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(std::time::Duration::from_millis(5)),
            other => return other,
        }
    }
    Err(io::Error::other("other processes are in it, and a group with processes can't be divided"))
}

fn put(directory: &Path, file: &str, value: u64) -> io::Result<()> {
    fs::write(directory.join(file), value.to_string())
}

/// When a process started, in clock ticks since boot: with its number, a name that no other process ever has.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything; the start is field 22, proc_pid_stat(5).
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Removes the groups that killed runs left, below the places where this process could have made them. Returns how many.
pub fn sweep() -> usize {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut removed = 0;
    for line in own.lines() {
        let Some((controllers, path)) =
            line.splitn(3, ':').skip(1).collect::<Vec<_>>().try_into().ok().map(|[c, p]: [&str; 2]| (c, p))
        else {
            continue;
        };
        let root = controllers
            .split(',')
            .next()
            .filter(|c| !c.is_empty())
            .map_or_else(|| PathBuf::from(MOUNTED), |c| Path::new(MOUNTED).join(c));
        let at = root.join(path.trim_start_matches('/'));
        for place in at.ancestors().take_while(|p| p.starts_with(&root)) {
            removed += sweep_place(place);
        }
    }
    removed
}

fn sweep_place(place: &Path) -> usize {
    let Ok(entries) = fs::read_dir(place) else { return 0 };
    let dead = |name: &str| {
        let (pid, start) = name.strip_prefix(PREFIX)?.split_once('-')?;
        Some(started(pid.parse().ok()?) != start.parse().ok())
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().and_then(dead) == Some(true))
        .filter(|entry| fs::remove_dir(entry.path()).is_ok())
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_read_whatever_the_command_is_called() {
        assert!(started(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn only_groups_of_processes_that_are_gone_are_swept() {
        let place = tempfile::tempdir().unwrap();
        let own = std::process::id();
        let names = [
            format!("{PREFIX}{own}-{}", started(own).unwrap()),
            // The number was given to another process since.
            format!("{PREFIX}{own}-1"),
            format!("{PREFIX}{}-7", u32::MAX),
            format!("{PREFIX}nonsense"),
            "somebody-elses".to_owned(),
        ];
        for name in &names {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        assert_eq!(sweep_place(place.path()), 2);
        let left: Vec<bool> = names.iter().map(|name| place.path().join(name).exists()).collect();
        assert_eq!(left, [true, false, false, true, true]);
    }

    #[test]
    fn a_cell_without_limits_makes_no_group() {
        let groups = Groups::create(0, 0);
        assert!(groups.directories.is_empty() && groups.memory.is_none() && groups.pids.is_none());
    }
}
