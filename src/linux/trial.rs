//! Calls that only a trial of this machine makes.

use super::{CallError, Named, check};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Write accesses of Landlock's first version, landlock(7): write a file, remove or make anything in a directory.
const WRITES: u64 = 1 << 1 | 0x1ff << 4;

/// The version of Landlock's interface that this kernel has, landlock_create_ruleset(2).
///
/// # Errors
/// ENOSYS where it is not built in, EOPNOTSUPP where it is not switched on, EPERM under an outer filter.
pub fn landlock_version() -> Result<u32, CallError> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads no memory of ours.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    Ok(check(version as libc::c_int).named(|| "landlock_create_ruleset".to_owned())?.cast_unsigned())
}

/// Refuses this process and its children all writing to files, for good. `no_new_privs` must be set.
///
/// # Errors
/// As [`landlock_version`].
pub fn landlock_no_writing() -> Result<(), CallError> {
    let handled: u64 = WRITES;
    // SAFETY: the attribute is one u64 in the first version, lives until the call returns, and is as long as said.
    let ruleset = unsafe {
        let fd = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const handled, size_of::<u64>(), 0u32);
        OwnedFd::from_raw_fd(check(fd as libc::c_int).named(|| "landlock_create_ruleset".to_owned())?)
    };
    // SAFETY: plain numbers.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    check(done as libc::c_int).named(|| "landlock_restrict_self".to_owned())?;
    Ok(())
}

/// Reserves private writable memory, mmap(2): what `RLIMIT_DATA` counts. Nothing is given back.
///
/// # Errors
/// ENOMEM over a limit.
pub fn reserve(bytes: usize) -> io::Result<()> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
