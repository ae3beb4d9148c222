//! Modes, owners, times and attributes of files, where no mount namespace hides the caller's own: Landlock does not know
//! these calls (landlock(7), "Current limitations"), so that the broker performs them, on what it looked at.
//!
//! The object is opened with `O_PATH` as the caller's own view has it, then the kernel says where it really is, and what
//! is asked for is done through our descriptor: whatever is swapped in memory, under a descriptor's number or below a
//! path meanwhile, only what was looked at is changed. We have the caller's uid and no capability: what its user may
//! not do fails here as it would there.

use super::task::{Task, Unread};
use crate::linux::notify::{Listener, Notification};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    utimensat,
};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The kernel's longest path with its end, and the longest name and value of an attribute, xattr(7).
const PATH: usize = 4096;
const NAME: usize = 256;
const VALUE: usize = 64 * 1024;

/// Symbolic links that are followed for one path, path_resolution(7).
const LINKS: usize = 40;

/// The inode of a proc file system's root, and what statfs(2) says of it.
const PROC_ROOT: u64 = 1;
const PROC: i64 = 0x9fa0;

/// Calls that the C library's crate does not know on every architecture; one number everywhere (Linux 6.6).
const FCHMODAT2: i64 = 452;

/// What names the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// A descriptor of the caller.
    Number(u64),
    /// A path at this address, below a directory of the caller.
    Path { directory: i32, path: u64, at_flags: u32 },
    /// The same; without a path the directory itself.
    PathOrDirectory { directory: i32, path: u64, at_flags: u32 },
}

/// What is asked for, with copies of all it points to.
#[derive(Debug, Clone)]
enum Change {
    Mode(u32),
    Owner(u32, u32),
    Times(Timestamps),
    Set { name: Vec<u8>, value: Vec<u8>, flags: u32 },
    Remove { name: Vec<u8> },
}

/// The places of the machine where files of the step are.
#[derive(Debug)]
pub struct Writable(Vec<PathBuf>);

impl Writable {
    /// What is below `places`, wherever links lead with them.
    pub fn new(places: impl IntoIterator<Item = PathBuf>) -> Writable {
        Writable(places.into_iter().filter_map(|place| fs::canonicalize(place).ok()).collect())
    }

    /// Whether an opened object is in one of the places, or in none that has a name.
    fn holds(&self, object: &OwnedFd) -> bool {
        let Ok(real) = fs::read_link(own(object)) else { return false };
        let anonymous = ["pipe:[", "socket:[", "anon_inode:", "/memfd:"];
        let deleted = || rustix::fs::fstat(object).is_ok_and(|stat| stat.st_nlink == 0);
        self.0.iter().any(|place| real.starts_with(place))
            || anonymous.iter().any(|kind| {
                real.as_os_str().as_bytes().starts_with(kind.as_bytes()) && (!kind.starts_with('/') || deleted())
            })
    }

    /// Performs a call: what it gives back, or `None` where it does not wait any more.
    pub fn perform(&self, listener: &Listener, call: &Notification) -> Option<Result<(), Errno>> {
        let task = Task { thread: call.thread };
        let opened = asked(task, call).and_then(|(named, change)| Ok((open(task, named)?, change)));
        if !listener.waits(call.id) {
            return None;
        }
        Some(opened.and_then(
            |(object, change)| {
                if self.holds(&object) { change_it(&object, change) } else { Err(Errno::PERM) }
            },
        ))
    }
}

/// The object by a path of this process that leads to it alone.
fn own(object: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", object.as_raw_fd())
}

fn change_it(object: &OwnedFd, change: Change) -> Result<(), Errno> {
    let path = own(object);
    let attribute = |name: Vec<u8>| std::ffi::CString::new(name).map_err(|_| Errno::INVAL);
    match change {
        Change::Mode(mode) => chmodat(CWD, path, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty()),
        Change::Owner(uid, gid) => {
            let set = |id: u32| (id != u32::MAX).then_some(id);
            chownat(CWD, path, set(uid).map(Uid::from_raw), set(gid).map(Gid::from_raw), AtFlags::empty())
        }
        Change::Times(times) => utimensat(CWD, path, &times, AtFlags::empty()),
        Change::Set { name, value, flags } => {
            rustix::fs::setxattr(path, attribute(name)?, &value, XattrFlags::from_bits_retain(flags))
        }
        Change::Remove { name } => rustix::fs::removexattr(path, attribute(name)?),
    }
}

fn unread(unread: Unread) -> Errno {
    match unread {
        Unread::Fault => Errno::FAULT,
        Unread::Hidden => Errno::ACCESS,
    }
}

/// What a call asks for.
fn asked(task: Task, call: &Notification) -> Result<(Named, Change), Errno> {
    let [first, second, third, fourth, fifth, _] = call.arguments;
    let low = |argument: u64| argument as u32;
    let directory = low(first).cast_signed();
    let nofollow = libc::AT_SYMLINK_NOFOLLOW as u32;
    let known = |flags: u32, allowed: i32| if flags & !(allowed as u32) == 0 { Ok(flags) } else { Err(Errno::INVAL) };
    let both = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    let path = |path: u64, at_flags: u32| Named::Path { directory: libc::AT_FDCWD, path, at_flags };
    Ok(match call.call {
        libc::SYS_fchmod => (Named::Number(first), Change::Mode(low(second))),
        // Its fourth argument is none of the call's.
        libc::SYS_fchmodat => (Named::Path { directory, path: second, at_flags: 0 }, Change::Mode(low(third))),
        FCHMODAT2 => {
            (Named::Path { directory, path: second, at_flags: known(low(fourth), both)? }, Change::Mode(low(third)))
        }
        libc::SYS_fchown => (Named::Number(first), Change::Owner(low(second), low(third))),
        libc::SYS_fchownat => (
            Named::Path { directory, path: second, at_flags: known(low(fifth), both)? },
            Change::Owner(low(third), low(fourth)),
        ),
        libc::SYS_utimensat => (
            Named::PathOrDirectory { directory, path: second, at_flags: known(low(fourth), both)? },
            Change::Times(times(task, third, 1)?),
        ),
        libc::SYS_setxattr => (path(first, 0), set(task, call)?),
        libc::SYS_lsetxattr => (path(first, nofollow), set(task, call)?),
        libc::SYS_fsetxattr => (Named::Number(first), set(task, call)?),
        libc::SYS_removexattr => (path(first, 0), Change::Remove { name: name(task, second)? }),
        libc::SYS_lremovexattr => (path(first, nofollow), Change::Remove { name: name(task, second)? }),
        libc::SYS_fremovexattr => (Named::Number(first), Change::Remove { name: name(task, second)? }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => (path(first, 0), Change::Mode(low(second))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown => (path(first, 0), Change::Owner(low(second), low(third))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown => (path(first, nofollow), Change::Owner(low(second), low(third))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_utime => (path(first, 0), Change::Times(seconds(task, second)?)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_utimes => (path(first, 0), Change::Times(times(task, second, 1000)?)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_futimesat => {
            (Named::PathOrDirectory { directory, path: second, at_flags: 0 }, Change::Times(times(task, third, 1000)?))
        }
        _ => return Err(Errno::PERM),
    })
}

fn set(task: Task, call: &Notification) -> Result<Change, Errno> {
    let [_, second, third, fourth, fifth, _] = call.arguments;
    let name = name(task, second)?;
    let length = usize::try_from(fourth).ok().filter(|length| *length <= VALUE).ok_or(Errno::TOOBIG)?;
    let value = if length == 0 { Vec::new() } else { exact(task, third, length)? };
    Ok(Change::Set { name, value, flags: fifth as u32 })
}

fn exact(task: Task, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let bytes = task.read(at, length).map_err(unread)?;
    if bytes.len() == length { Ok(bytes) } else { Err(Errno::FAULT) }
}

/// A string with its end within `most` bytes.
fn string(task: Task, at: u64, most: usize) -> Result<Option<Vec<u8>>, Errno> {
    let mut bytes = task.read(at, most).map_err(unread)?;
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => {
            bytes.truncate(end);
            Ok(Some(bytes))
        }
        None if bytes.len() == most => Ok(None),
        None => Err(Errno::FAULT),
    }
}

fn name(task: Task, at: u64) -> Result<Vec<u8>, Errno> {
    string(task, at, NAME)?.filter(|name| !name.is_empty()).ok_or(Errno::RANGE)
}

fn word(bytes: &[u8], at: usize) -> i64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| i64::from_ne_bytes(*b))
}

fn now() -> Timestamps {
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    Timestamps { last_access: now, last_modification: now }
}

/// Two `struct timespec` (`scale` 1) or two `struct timeval` (`scale` 1000); without them it is now.
fn times(task: Task, at: u64, scale: i64) -> Result<Timestamps, Errno> {
    if at == 0 {
        return Ok(now());
    }
    let bytes = exact(task, at, 32)?;
    let one = |at: usize| {
        let part = word(&bytes, at + 8);
        if scale != 1 && !(0..1_000_000).contains(&part) {
            return Err(Errno::INVAL);
        }
        Ok(Timespec { tv_sec: word(&bytes, at), tv_nsec: part.saturating_mul(scale) })
    };
    Ok(Timestamps { last_access: one(0)?, last_modification: one(16)? })
}

/// `struct utimbuf`, utime(2).
#[cfg(target_arch = "x86_64")]
fn seconds(task: Task, at: u64) -> Result<Timestamps, Errno> {
    if at == 0 {
        return Ok(now());
    }
    let bytes = exact(task, at, 16)?;
    let one = |at: usize| Timespec { tv_sec: word(&bytes, at), tv_nsec: 0 };
    Ok(Timestamps { last_access: one(0), last_modification: one(8) })
}

/// Opens what the caller names, without any right over it.
fn open(task: Task, named: Named) -> Result<OwnedFd, Errno> {
    let (directory, path, at_flags) = match named {
        Named::Number(number) => return of_number(task, number as u32),
        Named::PathOrDirectory { directory, path: 0, at_flags } if directory != libc::AT_FDCWD => {
            return if at_flags == 0 { of_number(task, directory.cast_unsigned()) } else { Err(Errno::INVAL) };
        }
        Named::Path { directory, path, at_flags } | Named::PathOrDirectory { directory, path, at_flags } => {
            (directory, path, at_flags)
        }
    };
    let path = string(task, path, PATH)?.ok_or(Errno::NAMETOOLONG)?;
    if path.is_empty() && at_flags & libc::AT_EMPTY_PATH as u32 == 0 {
        return Err(Errno::NOENT);
    }
    let base = || match directory {
        libc::AT_FDCWD => path_only(CWD, format!("/proc/{}/cwd", task.thread).as_bytes(), false),
        number => of_number(task, number.cast_unsigned()),
    };
    if path.is_empty() {
        return base();
    }
    let follow = at_flags & libc::AT_SYMLINK_NOFOLLOW as u32 == 0;
    let base = if path.first() == Some(&b'/') { path_only(CWD, b"/", false)? } else { base()? };
    let flags = OFlags::PATH | OFlags::CLOEXEC | if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    match rustix::fs::openat2(&base, OsStr::from_bytes(&path), flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        // A link of /proc, which we must not follow as our own; or nobody knows (Linux 5.6, engines' filters).
        Err(Errno::LOOP | Errno::NOSYS | Errno::PERM | Errno::AGAIN) => walk(task, base, &path, follow),
        opened => opened,
    }
}

/// Negative numbers are too large for any descriptor.
fn of_number(task: Task, number: u32) -> Result<OwnedFd, Errno> {
    match path_only(CWD, format!("/proc/{}/fd/{number}", task.thread).as_bytes(), false) {
        Err(Errno::NOENT) => Err(Errno::BADF),
        opened => opened,
    }
}

fn path_only(directory: impl AsFd, path: &[u8], nofollow: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | if nofollow { OFlags::NOFOLLOW } else { OFlags::empty() };
    rustix::fs::openat(directory, OsStr::from_bytes(path), flags, Mode::empty())
}

/// Follows a path name by name, as the kernel does for the caller: `self` in `/proc` is the caller, not we.
fn walk(task: Task, base: OwnedFd, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
    let mut rest: VecDeque<Vec<u8>> = names(path).collect();
    let mut must_be_directory = path.ends_with(b"/");
    let (mut at, mut links) = (base, 0);
    while let Some(name) = rest.pop_front() {
        let next = path_only(&at, &name, true)?;
        let is_link = FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) == FileType::Symlink;
        if !is_link || rest.is_empty() && !follow && !must_be_directory {
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(Errno::LOOP);
        }
        let in_proc = rustix::fs::fstatfs(&next)?.f_type as i64 == PROC;
        if in_proc && rustix::fs::fstat(&at)?.st_ino != PROC_ROOT {
            // It leads to an object, not to a path. Below /proc/PID: whose it is was said on the way.
            at = path_only(&at, &name, false)?;
            continue;
        }
        let target = match (&*name, in_proc) {
            (b"self", true) => task.process().ok_or(Errno::NOENT)?.to_string().into_bytes(),
            (b"thread-self", true) => {
                format!("{}/task/{}", task.process().ok_or(Errno::NOENT)?, task.thread).into_bytes()
            }
            _ => rustix::fs::readlinkat(&next, "", Vec::new())?.into_bytes(),
        };
        if target.first() == Some(&b'/') {
            at = path_only(CWD, b"/", false)?;
        }
        must_be_directory |= rest.is_empty() && target.ends_with(b"/");
        for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(name);
        }
    }
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&at)?.st_mode);
    if must_be_directory && kind != FileType::Directory { Err(Errno::NOTDIR) } else { Ok(at) }
}

fn names(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}
