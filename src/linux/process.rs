//! Processes: forking, replacing, ending, reaping, and what they may use.

use super::{CallError, Named, check};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The two sides of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// We are the new process.
    Child,
    /// We are the old one; the process id of the new one.
    Parent(i32),
}

/// Forks this process, which must have one thread only: the child may then do anything.
///
/// # Errors
/// EAGAIN and ENOMEM over a limit.
///
/// # Panics
/// Where the process has more than one thread.
pub fn fork() -> io::Result<Fork> {
    assert_eq!(std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count), 1, "fork from a threaded process");
    // SAFETY: no other thread exists, so no lock of the allocator or of anybody else can be held in the child.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Forks this process with the descriptor table shared, clone(2) with `CLONE_FILES`: what the child opens is open
/// here, until it calls [`unshare_descriptors`]. The process must have one thread only.
///
/// # Errors
/// EAGAIN and ENOMEM over a limit.
///
/// # Panics
/// Where the process has more than one thread.
pub fn fork_sharing_descriptors() -> io::Result<Fork> {
    assert_eq!(std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count), 1, "fork from a threaded process");
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: memory is copied as by fork, and no other thread exists that could hold a lock in the child. All pointers
    // are null, so the order of the last arguments, which differs between architectures, does not matter.
    match unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Gives this process a descriptor table of its own, with copies of what is open: unshare(2), or where a container's
/// filter knows that call only for namespaces, close_range(2) of no descriptor at all.
///
/// # Errors
/// ENOMEM, and EMFILE over a limit; EPERM where both are refused.
pub fn unshare_descriptors() -> io::Result<()> {
    // SAFETY: whoever shared the table keeps it; every descriptor here stays what it is.
    if unsafe { libc::unshare(libc::CLONE_FILES) } == 0 {
        return Ok(());
    }
    // SAFETY: as above; no descriptor has the number that is to be closed.
    let done = unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    check(done as libc::c_int)?;
    Ok(())
}

/// Ends this process at once: no destructors, no flushing. For forked children, whose buffers are the parent's.
pub fn leave(status: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Sends a signal to every process of this pid namespace but PID 1 itself, kill(2) with -1. Only PID 1 may call it:
/// outside of a pid namespace it would hit everything of the user.
///
/// Returns whether there was anybody.
pub fn signal_all(signal: i32) -> bool {
    if std::process::id() != 1 {
        return false;
    }
    // SAFETY: has no memory preconditions.
    check(unsafe { libc::kill(-1, signal) }).is_ok()
}

/// Makes this process the new parent of those of its descendants whose own parent ends, prctl(2).
///
/// # Errors
/// None that is known.
pub fn adopt_orphans() -> io::Result<()> {
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    Ok(())
}

/// Lets this process be killed when its parent dies, prctl(2); at once where it is not `parent` any more.
///
/// # Errors
/// None that is known.
pub fn die_with(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        leave(1);
    }
    Ok(())
}

/// Sends a signal to one process. A process that is gone already is no error.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: has no memory preconditions.
    unsafe { libc::kill(pid, signal) };
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Its exit status; 0 where a signal ended it.
    pub code: i32,
    /// The signal that ended it; 0 where it exited.
    pub signal: i32,
}

/// One step of reaping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    /// A child that ended.
    Child(i32, Status),
    /// Children, but none that ended.
    Waiting,
    /// No child at all.
    Nobody,
}

/// Takes one child that ended, waitpid(2). With `block`, waits for one.
pub fn reap(block: bool) -> Reaped {
    loop {
        let mut status = 0;
        // SAFETY: the status outlives the call.
        match unsafe { libc::waitpid(-1, &raw mut status, if block { 0 } else { libc::WNOHANG }) } {
            0 => return Reaped::Waiting,
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Reaped::Nobody,
            pid if libc::WIFEXITED(status) => {
                return Reaped::Child(pid, Status { code: libc::WEXITSTATUS(status), signal: 0 });
            }
            pid if libc::WIFSIGNALED(status) => {
                return Reaped::Child(pid, Status { code: 0, signal: libc::WTERMSIG(status) });
            }
            _ => {}
        }
    }
}

/// Whether a child of ours is there and has not ended, waitid(2) without taking it.
#[must_use]
pub fn is_running(pid: i32) -> bool {
    // SAFETY: siginfo is plain data for which all zeroes is a value; the kernel fills it.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        check(libc::waitid(libc::P_PID, pid.cast_unsigned(), &raw mut info, flags)).is_ok() && info.si_pid() == 0
    }
}

/// What all reaped children used, getrusage(2): user time, system time, largest resident set of one of them in bytes.
#[must_use]
pub fn children_usage() -> (Duration, Duration, u64) {
    // SAFETY: rusage is plain data for which all zeroes is a value; the kernel fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let time = |t: libc::timeval| {
        Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or(0))
    };
    (time(usage.ru_utime), time(usage.ru_stime), u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024)
}

/// Whether this process ignores a signal, sigaction(2): what it inherited, as long as nobody installed a handler.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is plain data for which all zeroes is a value; the call only reads the disposition into it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Blocks SIGCHLD in this process and gives a descriptor that is readable when one came, signalfd(2). PID 1 blocks
/// nothing else: every other signal from inside is dropped by the kernel because it has no handler there.
///
/// # Errors
/// EMFILE and ENOMEM.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use, and outlives both calls; the descriptor is new and ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        Ok(OwnedFd::from_raw_fd(check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?))
    }
}

/// Gives a child the signals of a fresh process: nothing blocked, nothing ignored (Rust ignores SIGPIPE, which a shell
/// pipeline in the step would inherit).
pub fn reset_signals() {
    // SAFETY: plain calls on an initialised set; SIG_DFL is a valid disposition, refusals (SIGKILL, SIGSTOP) are fine.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Ignores a signal in this process and its children.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is a valid disposition; refusals (SIGKILL, SIGSTOP) are harmless.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// What [`end_after`] ends with: infrastructure.
const LATE: i32 = 69;

/// Has the kernel end this process after so many seconds, with status 69, whatever it is doing then, until
/// [`end_no_more`]: alarm(2). A forked child is not ended.
pub fn end_after(seconds: u32) {
    extern "C" fn late(_: i32) {
        // SAFETY: _exit(2) may be called in a handler, and does not return.
        unsafe { libc::_exit(LATE) };
    }
    let handler: extern "C" fn(i32) = late;
    // SAFETY: the handler has the type that signal(2) asks for, and calls nothing that is not safe in one.
    unsafe {
        libc::signal(libc::SIGALRM, handler as usize);
        libc::alarm(seconds);
    }
}

/// Takes back [`end_after`], and its handler: without one the kernel shields PID 1 from that signal altogether.
pub fn end_no_more() {
    // SAFETY: 0 takes a timer back, and SIG_DFL is a valid disposition.
    unsafe {
        libc::alarm(0);
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
    }
}

/// Makes `fd` the descriptor `number`, without close-on-exec. For a child before exec.
///
/// # Errors
/// EMFILE over the descriptor limit.
pub fn put_descriptor(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // SAFETY: changes a flag of one descriptor.
        check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
    } else {
        // SAFETY: the callers replace only 0 to 2, in a process that owns nothing there.
        check(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    }
    Ok(())
}

/// A copy of a descriptor that this process inherited under a number that it was told, not inherited any further. The
/// original stays open, and is closed for the command like everything else.
///
/// # Errors
/// EBADF where there is none.
pub fn take_inherited(number: u32) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the new descriptor belongs to nobody else; a wrong number is an error of the call.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3))?)) }
}

/// Marks every descriptor from 3 on close-on-exec, close_range(2), so that nothing is inherited that was forgotten.
/// An outer seccomp filter that does not know the call gets the slow way over `/proc/self/fd`.
pub fn close_on_exec_from_three() {
    // SAFETY: changes a flag of descriptors only.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 {
        return;
    }
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    for number in open.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<RawFd>().ok()).filter(|n| *n > 2) {
        // SAFETY: as above.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// A copy of a descriptor that another process has open under this number, pidfd_getfd(2).
///
/// # Errors
/// EBADF where there is none; EPERM where the right to trace that process is missing, and where an engine forbids it.
pub fn descriptor_of(pid: u32, number: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; each descriptor that comes back is new and ours.
    unsafe {
        let pid_fd = check(libc::syscall(libc::SYS_pidfd_open, pid, 0) as libc::c_int)?;
        let pid_fd = OwnedFd::from_raw_fd(pid_fd);
        let fd = check(libc::syscall(libc::SYS_pidfd_getfd, pid_fd.as_raw_fd(), number, 0) as libc::c_int)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The type (`SOCK_STREAM`, `SOCK_DGRAM`, ...) of a socket that another process has open under this number, and whether
/// it is non-blocking. `None` where it is no socket, or can't be had.
#[must_use]
pub fn socket_type_of(pid: u32, number: u32) -> Option<(i32, bool)> {
    let Ok(fd) = descriptor_of(pid, number) else { return socket_said_of(pid, number) };
    let flags = rustix::fs::fcntl_getfl(&fd).ok()?;
    let kind = rustix::net::sockopt::socket_type(&fd).ok()?.as_raw().cast_signed();
    Some((kind, flags.contains(rustix::fs::OFlags::NONBLOCK)))
}

/// The same from what `/proc` says, where an engine's filter has no pidfd_getfd(2): the name of a socket's protocol is an
/// attribute of its descriptor (`sockfs_xattr_get` in net/socket.c; lsof(8) asks for it).
fn socket_said_of(pid: u32, number: u32) -> Option<(i32, bool)> {
    let mut name = [0; 32];
    let path = format!("/proc/{pid}/fd/{number}");
    let length = rustix::fs::getxattr(path, "system.sockprotoname", &mut name[..]).ok()?;
    let kind = match name[..length].strip_suffix(&[0]).unwrap_or(&name[..length]) {
        b"TCP" | b"TCPv6" => libc::SOCK_STREAM,
        b"UDP" | b"UDPv6" | b"PING" | b"PINGv6" => libc::SOCK_DGRAM,
        _ => return None,
    };
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
    Some((kind, flags & libc::O_NONBLOCK != 0))
}

/// Replaces this process, execve(2). Returns only on failure.
///
/// # Errors
/// Why it could not be replaced; a word with a NUL byte is EINVAL.
pub fn exec(path: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        words.iter().map(|w| w.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: all strings are NUL-terminated, both arrays end with a null pointer, and all of them outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Limits of one process that its children inherit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Size of one written file.
    FileSize,
    /// Private writable memory of one process.
    Data,
    /// Processes and threads of the user.
    Processes,
    /// Open files.
    Files,
    /// Core dumps.
    Core,
}

/// Sets soft and hard limit, setrlimit(2); never above the hard limit that is already there.
///
/// # Errors
/// None that is known for lowering a limit.
pub fn set_limit(limit: Limit, soft: u64, hard: u64) -> io::Result<()> {
    let resource = match limit {
        Limit::FileSize => libc::RLIMIT_FSIZE,
        Limit::Data => libc::RLIMIT_DATA,
        Limit::Processes => libc::RLIMIT_NPROC,
        Limit::Files => libc::RLIMIT_NOFILE,
        Limit::Core => libc::RLIMIT_CORE,
    };
    // SAFETY: rlimit is plain data that outlives both calls.
    unsafe {
        let mut now: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(resource, &raw mut now))?;
        let hard = hard.min(now.rlim_max);
        let new = libc::rlimit { rlim_cur: soft.min(hard), rlim_max: hard };
        check(libc::setrlimit(resource, &raw const new))?;
    }
    Ok(())
}

/// Gives up the chance to ever get a capability back by executing something: the bounding set becomes empty.
///
/// # Errors
/// EPERM without CAP_SETPCAP over the user namespace.
pub fn drop_bounding_set() -> Result<(), CallError> {
    // Linux has 41 capabilities; EINVAL ends the list on kernels with fewer, or newer ones are dropped as well.
    for capability in 0..64 {
        // SAFETY: plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) } != 1 {
            continue;
        }
        // SAFETY: plain numbers.
        check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })
            .named(|| format!("drop capability {capability} from the bounding set"))?;
    }
    Ok(())
}

/// Gives up every capability of this process: ambient set and all three sets; and what executing a program could give
/// (`no_new_privs`).
///
/// # Errors
/// None that is known.
pub fn drop_capabilities() -> Result<(), CallError> {
    rustix::thread::clear_ambient_capability_set().named(|| "clear the ambient capabilities".to_owned())?;
    let none = rustix::thread::CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
    .named(|| "drop all capabilities".to_owned())?;
    rustix::thread::set_no_new_privs(true).named(|| "set no_new_privs".to_owned())
}
