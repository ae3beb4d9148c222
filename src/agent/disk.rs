//! How much a step has written to its view of the tree, its home and `/ft/out`. No quota can be had without privileges
//! (a tmpfs as the upper layer would be gone when later steps need it), so the starter measures, outside of the walls
//! and with rights over everything the step made, and tells PID 1 when it is too much.
//!
//! Blocks count and not sizes, so a sparse file is as small as it is. Every name counts at least [`ENTRY`], or a million
//! empty files would be nothing. Files without a name count as long as somebody has them open.

use super::family::Family;
use crate::linux::process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a name costs at least, in bytes: a block.
const ENTRY: u64 = 4096;

/// How long nobody looks, at least; and at most a tenth of the time is spent on looking.
pub const PAUSE: Duration = Duration::from_millis(100);
const SHARE: u32 = 10;

/// `TMPFS_MAGIC` of statfs(2): what lies in memory has a limit of its own.
const TMPFS: i64 = 0x0102_1994;

/// What is measured.
pub struct Meter {
    /// Directories of the host that the step writes to.
    pub directories: Vec<PathBuf>,
    /// Bytes that it may write.
    pub limit: u64,
    /// Whose open files count.
    pub who: Family,
}

/// Measures until a child ends, and says so on `tell` when it is too much. `before` brings what PID 1 itself put there
/// (a copy of the tree), when the step is about to begin.
pub fn watch(meter: &Meter, before: &OwnedFd, tell: &OwnedFd) {
    let Ok(children) = process::child_signals() else { return };
    let mut bytes = [0; 8];
    let wait = |fds: &mut [PollFd<'_>], timeout: Option<&Timespec>| poll(fds, timeout).unwrap_or(0) > 0;
    let mut fds = [PollFd::new(&children, PollFlags::IN), PollFd::new(before, PollFlags::IN)];
    wait(&mut fds, None);
    if !fds[0].revents().is_empty() || rustix::io::read(before, &mut bytes) != Ok(8) {
        return;
    }
    let limit = meter.limit.saturating_add(u64::from_le_bytes(bytes));
    let mut pause = PAUSE;
    loop {
        let timeout = Timespec { tv_sec: pause.as_secs().cast_signed(), tv_nsec: i64::from(pause.subsec_nanos()) };
        if wait(&mut [PollFd::new(&children, PollFlags::IN)], Some(&timeout)) {
            return;
        }
        let start = Instant::now();
        let mut sum = Sum { limit, ..Sum::default() };
        meter.directories.iter().for_each(|directory| sum.walk(directory));
        match meter.who {
            Family::Namespace => sum.open(),
            Family::Descendants => sum.open_by(meter),
        }
        if sum.bytes > limit {
            let _ = rustix::io::write(tell, b"d");
            wait(&mut [PollFd::new(&children, PollFlags::IN)], None);
            return;
        }
        pause = PAUSE.max(start.elapsed() * SHARE);
    }
}

/// What is in these directories now, in bytes.
pub fn used(directories: &[PathBuf]) -> u64 {
    let mut sum = Sum { limit: u64::MAX, ..Sum::default() };
    directories.iter().for_each(|directory| sum.walk(directory));
    sum.bytes
}

#[derive(Default)]
struct Sum {
    bytes: u64,
    /// Beyond it nobody needs to know more.
    limit: u64,
    /// Files with several names, and files without one: each counts once.
    seen: HashSet<(u64, u64)>,
}

impl Sum {
    fn add(&mut self, meta: &Metadata) {
        let several = meta.nlink() != 1 && !meta.is_dir();
        if !several || self.seen.insert((meta.dev(), meta.ino())) {
            self.bytes = self.bytes.saturating_add(meta.blocks().saturating_mul(512).max(ENTRY));
        }
    }

    fn walk(&mut self, directory: &Path) {
        let mut left = vec![directory.to_owned()];
        while let Some(directory) = left.pop() {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.filter_map(Result::ok) {
                if self.bytes > self.limit {
                    return;
                }
                // Gone in the meantime is nothing.
                let Ok(meta) = entry.metadata() else { continue };
                self.add(&meta);
                if meta.is_dir() {
                    left.push(entry.path());
                }
            }
        }
    }

    /// Files that were removed and are open in some process of the cell's pid namespace.
    fn open(&mut self) {
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        // Ours, not asked of PID 1: nobody may look at that one.
        let Ok(cell) = fs::read_link("/proc/self/ns/pid_for_children") else { return };
        let Ok(processes) = fs::read_dir("/proc") else { return };
        for process in processes.filter_map(Result::ok) {
            let name = process.file_name();
            let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
            if space(pid).as_ref() == Some(&cell) {
                // What lies in memory has a limit of its own.
                self.open_in(pid, &|path, _| {
                    rustix::fs::statfs(path).is_ok_and(|at| {
                        #[expect(clippy::unnecessary_cast, reason = "its type differs between architectures")]
                        let kind = at.f_type as i64;
                        kind != TMPFS
                    })
                });
            }
        }
    }

    /// The same of those below this process: what lies on the file system of the measured directories.
    fn open_by(&mut self, meter: &Meter) {
        let Some(device) = meter.directories.first().and_then(|path| Some(fs::metadata(path).ok()?.dev())) else {
            return;
        };
        for pid in meter.who.members() {
            self.open_in(&pid.to_string(), &|_, meta| meta.dev() == device);
        }
    }

    fn open_in(&mut self, pid: &str, counts: &dyn Fn(&Path, &Metadata) -> bool) {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
        for path in open.filter_map(Result::ok).map(|entry| entry.path()) {
            if self.bytes > self.limit {
                return;
            }
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.is_file() && meta.nlink() == 0 && counts(&path, &meta) {
                self.add(&meta);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn blocks_and_names_count_once_and_holes_and_links_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let all = || used(&[dir.path().to_owned()]);
        assert_eq!(all(), 0);
        fs::write(at("empty"), "").unwrap();
        assert_eq!(all(), ENTRY);
        fs::File::create(at("sparse")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(all(), 2 * ENTRY);
        fs::create_dir(at("inner")).unwrap();
        fs::write(at("inner/full"), vec![1; 100_000]).unwrap();
        fs::File::open(at("inner/full")).unwrap().sync_all().unwrap();
        let full = all();
        assert!((100_000 + 3 * ENTRY..200_000).contains(&full), "{full}");
        fs::hard_link(at("inner/full"), at("again")).unwrap();
        assert_eq!(all(), full);
        symlink("/usr", at("link")).unwrap();
        assert_eq!(all(), full + ENTRY);
    }
}
