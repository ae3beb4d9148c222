//! Sockets with addresses as bytes: whoever performs a call for another process has its bytes and no type for them.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Makes a socket, socket(2). `SOCK_NONBLOCK` may stand in `kind`; close-on-exec is always set.
///
/// # Errors
/// Those of the call.
pub fn create(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the new descriptor is ours.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol))?)) }
}

/// Keeps a socket on the loopback interface: nothing that it sends leaves the machine, and nothing from outside reaches
/// it. Can't be taken back without CAP_NET_RAW, socket(7) `SO_BINDTODEVICE`.
///
/// # Errors
/// EPERM before Linux 5.7, and where it is bound to an interface already.
pub fn keep_on_loopback(socket: BorrowedFd<'_>) -> io::Result<()> {
    let name = b"lo";
    // SAFETY: the name is as long as said and outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// connect(2) to an address in its bytes.
///
/// # Errors
/// Those of the call.
pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: the address is as long as said and outlives the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) })?;
    Ok(())
}

/// send(2), or sendto(2) where there is an address. Never raises SIGPIPE.
///
/// # Errors
/// Those of the call.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], flags: i32, address: Option<&[u8]>) -> io::Result<usize> {
    let (at, length) = address.map_or((std::ptr::null(), 0), |a| (a.as_ptr(), a.len()));
    // SAFETY: both buffers are as long as said and outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags | libc::MSG_NOSIGNAL,
            at.cast(),
            length as libc::socklen_t,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Two sockets that are connected to each other, socketpair(2).
///
/// # Errors
/// Those of the call.
pub fn pair(family: i32, kind: i32, protocol: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut numbers = [-1; 2];
    // SAFETY: the array has room for the two numbers; both descriptors are new and ours.
    unsafe {
        check(libc::socketpair(family, kind | libc::SOCK_CLOEXEC, protocol, numbers.as_mut_ptr()))?;
        Ok((OwnedFd::from_raw_fd(numbers[0]), OwnedFd::from_raw_fd(numbers[1])))
    }
}

/// sendmsg(2) of bytes and descriptors on a connected socket. Never raises SIGPIPE.
///
/// # Errors
/// Those of the call.
pub fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], flags: i32, fds: &[OwnedFd]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = vec![std::mem::MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&fds).size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let flags = SendFlags::from_bits_retain((flags | libc::MSG_NOSIGNAL).cast_unsigned());
    Ok(sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, flags)?)
}
