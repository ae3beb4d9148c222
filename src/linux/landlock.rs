//! Landlock, landlock(7): what a process without any right may still take from itself, for good and for its children.
//!
//! Raw calls: the crate for it is made with procedural macros, which the agent is built without.

use super::{CallError, Named, check};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

// linux/landlock.h; all of them were added once and never change.
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
const CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT: u64 = 1;
const SCOPE_SIGNAL: u64 = 1 << 1;
const RULE_PATH: libc::c_int = 1;
const GET_VERSION: u32 = 1;

/// What may be done with files below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// List, read and execute.
    Read,
    /// Everything but devices' own requests: list, read, execute, write, make, remove, rename.
    Write,
    /// Read, write and send requests to a device.
    Device,
}

/// What is taken away beside files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Files: only what [`Rules::allow`] names.
    pub files: bool,
    /// Connecting TCP sockets anywhere (Linux 6.7).
    pub connect_tcp: bool,
    /// Connecting to abstract unix sockets of processes outside (Linux 6.12).
    pub abstract_sockets: bool,
    /// Signals to processes outside (Linux 6.12).
    pub signals: bool,
}

#[repr(C)]
struct Attributes {
    files: u64,
    network: u64,
    scopes: u64,
}

// No padding at its end: the kernel takes 12 bytes.
#[repr(C, packed)]
struct PathRule {
    allowed: u64,
    parent: libc::c_int,
}

/// The kernel's version of the interface, 1 and later; `None` where it has no Landlock, or where it is off.
#[must_use]
pub fn version() -> Option<u32> {
    // SAFETY: with this flag the kernel reads no memory.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, GET_VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// Every right over files that this version knows.
fn all_files(version: u32) -> u64 {
    match version {
        0 | 1 => (1 << 13) - 1,
        2 => (1 << 14) - 1,
        3 | 4 => (1 << 15) - 1,
        _ => (1 << 16) - 1,
    }
}

fn rights(files: Files, version: u32) -> u64 {
    let read = EXECUTE | READ_FILE | READ_DIR;
    let allowed = match files {
        Files::Read => read,
        Files::Write => all_files(version) & !IOCTL_DEV,
        Files::Device => WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV,
    };
    allowed & all_files(version)
}

/// Rules that are not in force yet.
#[derive(Debug)]
pub struct Rules {
    set: OwnedFd,
    version: u32,
}

impl Rules {
    /// Takes away what is wanted, as far as this kernel can.
    ///
    /// # Errors
    /// ENOSYS and EOPNOTSUPP where there is no Landlock.
    pub fn new(wanted: Wanted) -> Result<Rules, CallError> {
        let version =
            version().ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP)).named(|| "Landlock".to_owned())?;
        let when = |wanted: bool, since: u32, bits: u64| if wanted && version >= since { bits } else { 0 };
        let attributes = Attributes {
            files: when(wanted.files, 1, all_files(version)),
            network: when(wanted.connect_tcp, 4, CONNECT_TCP),
            scopes: when(wanted.abstract_sockets, 6, SCOPE_ABSTRACT) | when(wanted.signals, 6, SCOPE_SIGNAL),
        };
        // Older kernels take a longer struct whose rest is zero.
        // SAFETY: the struct is as large as said and outlives the call; the descriptor that comes back is ours.
        let set = unsafe {
            let set = libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const attributes,
                size_of::<Attributes>(),
                0 as libc::c_uint,
            );
            OwnedFd::from_raw_fd(check(set as libc::c_int).named(|| "create a Landlock ruleset".to_owned())?)
        };
        Ok(Rules { set, version })
    }

    /// Allows something for a directory with everything below it, or for one file. What is not there is no error.
    ///
    /// # Errors
    /// Where the path can't be opened.
    pub fn allow(&mut self, path: &Path, files: Files) -> Result<(), CallError> {
        use rustix::fs::{Mode, OFlags};
        let call = || format!("allow {} with Landlock", path.display());
        let opened = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            opened => opened.named(call)?,
        };
        let is_directory = rustix::fs::fstat(&opened).named(call)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        // A right over directories is EINVAL for a file.
        let of_files = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
        let allowed = rights(files, self.version) & if is_directory { u64::MAX } else { of_files };
        let rule = PathRule { allowed, parent: opened.as_raw_fd() };
        // SAFETY: the rule outlives the call, and the descriptors in it are open.
        let added = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.set.as_raw_fd(),
                RULE_PATH,
                &raw const rule,
                0 as libc::c_uint,
            )
        };
        check(added as libc::c_int).named(call)?;
        Ok(())
    }

    /// Puts the rules over this process (one thread) and its children, on top of those that are there.
    ///
    /// # Errors
    /// EPERM without `no_new_privs`, E2BIG over 16 layers.
    pub fn enforce(&self) -> Result<(), CallError> {
        // SAFETY: plain numbers.
        let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.set.as_raw_fd(), 0 as libc::c_uint) };
        check(done as libc::c_int).named(|| "enforce the Landlock rules".to_owned())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_right_is_asked_of_a_kernel_that_does_not_know_it() {
        for version in 1..12 {
            for files in [Files::Read, Files::Write, Files::Device] {
                assert_eq!(rights(files, version) & !all_files(version), 0);
            }
            assert_eq!(rights(Files::Read, version) & WRITE_FILE, 0);
        }
        assert_eq!(all_files(1), 0x1fff);
        assert_eq!(all_files(5), 0xffff);
    }
}
