//! Namespaces: entering new ones, mapping ids, raising loopback, attributes of whole mount trees.

use super::{CallError, Named, check};
use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;

/// Moves this process (for `NEWPID`: its later children) into new namespaces, unshare(2). The process must have one
/// thread only: a user namespace is refused to others with EINVAL.
///
/// # Errors
/// EPERM where the kernel, a security module or an outer seccomp filter forbids it; ENOSPC over a namespace limit.
pub fn unshare(flags: UnshareFlags) -> Result<(), CallError> {
    // SAFETY: without CLONE_FILES in the flags no descriptor table is split, which is what rustix warns of.
    unsafe { rustix::thread::unshare_unsafe(flags) }.named(|| format!("unshare {flags:?}"))
}

/// Maps one inner id to one outer id in the user namespace of `pid` (`self` for our own), user_namespaces(7).
///
/// # Errors
/// EPERM where the writer may not map that id, and on Ubuntu 24.04 where AppArmor gave a namespace without rights.
pub fn map_ids(pid: &str, inner: u32, outer_uid: u32, outer_gid: u32, deny_setgroups: bool) -> Result<(), CallError> {
    let write = |file: &str, text: String| {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, text).named(|| format!("write {path}"))
    };
    if deny_setgroups {
        write("setgroups", "deny".to_owned())?;
    }
    write("uid_map", format!("{inner} {outer_uid} 1"))?;
    write("gid_map", format!("{inner} {outer_gid} 1"))
}

/// Brings the loopback interface of this network namespace up (netdevice(7)); it is born down.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace.
pub fn loopback_up() -> Result<(), CallError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .named(|| "socket for the loopback interface".to_owned())?;
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = (*from).cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })
        .named(|| "bring up the loopback interface".to_owned())?;
    Ok(())
}

/// Sets attributes (`MOUNT_ATTR_*`) on the mount at `path` and, where asked, on everything below it,
/// mount_setattr(2). Flags that are set already stay, which a remount from a user namespace would have to repeat.
///
/// # Errors
/// ENOSYS before Linux 5.12; EPERM without CAP_SYS_ADMIN over the mount namespace.
pub fn set_mount_attributes(path: &str, set: u64, recursive: bool) -> Result<(), CallError> {
    let c_path = CString::new(path).map_err(io::Error::from).named(|| format!("mount_setattr {path}"))?;
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated, the struct is as large as said, and both live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c_path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result as libc::c_int).named(|| format!("mount_setattr {path}"))?;
    Ok(())
}
