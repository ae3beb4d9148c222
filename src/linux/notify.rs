//! Seccomp user notification, seccomp_unotify(2): a call of a watched process waits until its watcher answers.
//!
//! The listener is the watcher's end. When it is closed, watched calls fail with ENOSYS: nothing passes unseen. All
//! that is read of a waiting process was chosen by it, and by its other threads at any time: an answer that lets the
//! kernel read it again ([`Listener::proceed`]) is only safe where another wall stands behind it.

use super::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS` and `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` of linux/seccomp.h: who calls and who answers
/// run in turns, so the one is woken on the CPU of the other. Waking a CPU that sleeps takes longer than the answer.
const SET_FLAGS: libc::Ioctl = 0x4008_2104;
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// The watcher's end of a filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// Names it in every answer.
    pub id: u64,
    /// The *thread* that called, in the watcher's pid namespace; 0 where it is not in it.
    pub thread: u32,
    /// The call's number.
    pub call: i64,
    /// Its arguments, as registers.
    pub arguments: [u64; 6],
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Takes a listener whose number a child told us, from the descriptor table that we shared with it.
    ///
    /// # Errors
    /// EBADF where there is none.
    pub fn adopt(number: RawFd) -> io::Result<Listener> {
        // SAFETY: asks for a flag of a number; a wrong one is an error of the call.
        check(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
        // SAFETY: the child made it in the shared table and has its own copy by now; nobody here owns this number.
        let listener = Listener(unsafe { OwnedFd::from_raw_fd(number) });
        // SAFETY: takes two numbers. Before Linux 6.6 it is no request, and both sides are woken as ever.
        unsafe { libc::ioctl(number, SET_FLAGS, SYNC_WAKE_UP) };
        Ok(listener)
    }

    fn ask<T>(&self, request: libc::Ioctl, argument: &mut T) -> io::Result<libc::c_int> {
        // SAFETY: each request of this interface reads and writes one struct of its own type, which the callers pass
        // and which outlives the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), request, std::ptr::from_mut(argument)) })
    }

    /// Takes a waiting call; `None` where it was interrupted or its process ended in the meantime. Blocks where nobody
    /// waits: poll first.
    ///
    /// # Errors
    /// Where the listener can't be used any more.
    pub fn receive(&self) -> io::Result<Option<Notification>> {
        // SAFETY: plain data for which all zeroes is a value, and which the kernel wants zeroed.
        let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        match self.ask(libc::SECCOMP_IOCTL_NOTIF_RECV, &mut raw) {
            Ok(_) => Ok(Some(Notification {
                id: raw.id,
                thread: raw.pid,
                call: raw.data.nr.into(),
                arguments: raw.data.args,
            })),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::EINPROGRESS)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the call still waits. What was read of its process before is the process's own only if this holds
    /// afterwards: a thread id is used again.
    #[must_use]
    pub fn waits(&self, id: u64) -> bool {
        let mut id = id;
        self.ask(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id).is_ok()
    }

    fn send(&self, id: u64, value: i64, error: i32, flags: u32) {
        let mut answer = libc::seccomp_notif_resp { id, val: value, error: -error, flags };
        // ENOENT: nobody waits for it any more.
        let _ = self.ask(libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer);
    }

    /// Lets the kernel perform the call, with whatever its arguments point to by then.
    pub fn proceed(&self, id: u64) {
        self.send(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// The call returns this value and was not performed by the kernel.
    pub fn answer(&self, id: u64, value: i64) {
        self.send(id, value, 0, 0);
    }

    /// The call fails with this error number.
    pub fn refuse(&self, id: u64, errno: i32) {
        self.send(id, 0, errno, 0);
    }

    /// Gives the waiting process a copy of `fd`: under the number `at`, replacing what stands there, or else under a
    /// new one, which is returned. The call still waits afterwards.
    ///
    /// # Errors
    /// ENOENT where it does not wait any more, EMFILE over its limit.
    pub fn inject(&self, id: u64, fd: BorrowedFd<'_>, at: Option<u32>, close_on_exec: bool) -> io::Result<RawFd> {
        let mut request = libc::seccomp_notif_addfd {
            id,
            flags: if at.is_some() { libc::SECCOMP_ADDFD_FLAG_SETFD as u32 } else { 0 },
            srcfd: fd.as_raw_fd().cast_unsigned(),
            newfd: at.unwrap_or(0),
            newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        self.ask(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut request)
    }

    /// Gives the waiting process a copy of `fd` under a new number, which its call returns: one step, so that no
    /// descriptor is left where the call was interrupted (Linux 5.14).
    ///
    /// # Errors
    /// ENOENT where it does not wait any more, EMFILE over its limit, EINVAL before Linux 5.14.
    pub fn inject_as_answer(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<RawFd> {
        let mut request = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: fd.as_raw_fd().cast_unsigned(),
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        self.ask(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut request)
    }
}
