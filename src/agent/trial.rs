//! Tries every wall and limit by itself, each in a process of its own that ends afterwards: what `ft doctor` shows.
//!
//! Runs as the caller, outside of any cell, and changes nothing that outlives it. A trial says what it saw, and not what
//! a version number promises.

use crate::frame::Observed;
use crate::linux::cgroup::Groups;
use crate::linux::namespaces::{loopback_up, map_ids, set_mount_attributes, unshare};
use crate::linux::notify::Listener;
use crate::linux::process::{self, Fork, Limit, Reaped};
use crate::linux::{CallError, ids, seccomp, trial};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// How long one trial may take.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A limit of memory for a trial, in bytes, and how much is taken to meet it.
const MEMORY: u64 = 32 << 20;
const TOO_MUCH: usize = 96 << 20;

/// A limit of processes for a trial.
const PROCESSES: u64 = 8;

/// What a trial saw, or why the wall can't be had.
type Seen = Result<String, String>;

/// Tries everything. `scratch` is an empty directory of the caller's.
#[must_use]
pub fn all(scratch: &Path) -> Vec<Observed> {
    let at = |name: &str| scratch.join(name);
    for name in ["mount", "proc", "lower", "upper", "work", "merged"] {
        // A directory that is missing shows in the trial that needs it.
        let _ = fs::create_dir(at(name));
    }
    vec![
        tried("user", "user namespace", user),
        tried("mounts", "mount namespace", || mounts(&at("mount"))),
        tried("pid", "pid namespace", || inside_pid(|| Ok("pid 1".to_owned()))),
        tried("proc", "procfs of the cell's own", || inside_pid(|| own_proc(&at("proc")))),
        tried("network", "network namespace", network),
        tried("ipc", "ipc namespace", || other_namespace(UnshareFlags::NEWIPC, "ipc")),
        tried("uts", "uts namespace", uts),
        tried("cgroup", "cgroup namespace", || other_namespace(UnshareFlags::NEWCGROUP, "cgroup")),
        tried("capabilities", "dropped, bounding set included", capabilities),
        tried("no_new_privs", "prctl", || no_new_privs().map(|()| "set".to_owned())),
        tried("seccomp", "filter", filter),
        tried("notification", "seccomp user notification", || notified(false)),
        tried("injection", "SECCOMP_IOCTL_NOTIF_ADDFD", || notified(true)),
        tried("landlock", "Landlock", || landlocked(scratch)),
        tried("tree", "overlayfs", || overlay(scratch)),
        memory(),
        processes(),
        tried("cpus", "affinity mask", one_cpu),
        tried("files", "RLIMIT_NOFILE", open_files),
        tried("file_size", "RLIMIT_FSIZE", || file_size(scratch)),
    ]
}

/// Runs a trial in a process of its own.
fn tried(wall: &str, mechanism: &str, trial: impl FnOnce() -> Seen) -> Observed {
    let seen = apart(trial);
    let enforced = seen.is_ok();
    Observed {
        wall: wall.to_owned(),
        mechanism: if enforced { mechanism.to_owned() } else { String::new() },
        detail: seen.unwrap_or_else(|why| why),
        enforced,
    }
}

fn apart(trial: impl FnOnce() -> Seen) -> Seen {
    let text = |e: std::io::Error| e.to_string();
    let (answer, said) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| text(e.into()))?;
    match process::fork().map_err(text)? {
        Fork::Child => {
            drop(answer);
            let seen = trial();
            let (mark, words) = match &seen {
                Ok(words) => ("+", words),
                Err(words) => ("-", words),
            };
            let _ = File::from(said).write_all(format!("{mark}{words}").as_bytes());
            process::leave(0);
        }
        Fork::Parent(pid) => {
            drop(said);
            let heard = hear(&answer);
            process::signal(pid, libc::SIGKILL);
            let signal = end_of(pid).unwrap_or(0);
            match heard {
                Some(words) if words.starts_with('+') => Ok(words[1..].to_owned()),
                Some(words) if words.starts_with('-') => Err(words[1..].to_owned()),
                Some(_) => Err(format!("the trial was ended by signal {signal}")),
                None => Err(format!("the trial did not end within {} s", PATIENCE.tv_sec)),
            }
        }
    }
}

/// Everything that is said until the end; `None` where the end does not come.
fn hear(from: &OwnedFd) -> Option<String> {
    let mut words = Vec::new();
    loop {
        if !matches!(poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&PATIENCE)), Ok(1..)) {
            return None;
        }
        let mut bytes = [0; 1024];
        match rustix::io::read(from, &mut bytes) {
            Ok(0) | Err(_) => return Some(String::from_utf8_lossy(&words).into_owned()),
            Ok(n) => words.extend_from_slice(&bytes[..n]),
        }
    }
}

/// Waits for this child: the signal that ended it, 0 where it exited.
fn end_of(pid: i32) -> Option<i32> {
    loop {
        match process::reap(true) {
            Reaped::Child(ended, status) if ended == pid => return Some(status.signal),
            Reaped::Child(..) => {}
            Reaped::Waiting | Reaped::Nobody => return None,
        }
    }
}

fn why(error: CallError) -> String {
    error.to_string()
}

fn failed(what: &str) -> impl Fn(rustix::io::Errno) -> String + '_ {
    move |e| format!("{what}: {e}")
}

/// The right to make the other namespaces, as a cell gets it: an ordinary user from a user namespace.
fn rights() -> Result<(), String> {
    if ids::step_owner().is_some() { Ok(()) } else { user().map(|_| ()) }
}

/// A user namespace that maps the caller and gives rights: on Ubuntu 24.04 it can be made and gives none.
fn user() -> Seen {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER).map_err(why)?;
    map_ids("self", ids::INNER, uid, gid, true).map_err(why)?;
    unshare(UnshareFlags::NEWUTS).map_err(why)?;
    rustix::system::sethostname(b"ft-trial").map_err(failed("rights in the user namespace"))?;
    Ok(format!("uid {uid} seen as {}", ids::INNER))
}

fn private_mounts() -> Result<(), String> {
    unshare(UnshareFlags::NEWNS).map_err(why)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("make all mounts private"))
}

fn mount(kind: &str, at: &Path, options: &str) -> Result<(), String> {
    let words = CString::new(options).map_err(|e| e.to_string())?;
    rustix::mount::mount(kind, at, kind, MountFlags::NOSUID | MountFlags::NODEV, words.as_c_str())
        .map_err(failed(&format!("mount {kind}")))
}

fn mounts(at: &Path) -> Seen {
    rights()?;
    private_mounts()?;
    mount("tmpfs", at, "size=1m")?;
    set_mount_attributes(&at.to_string_lossy(), libc::MOUNT_ATTR_RDONLY, true).map_err(why)?;
    match fs::write(at.join("file"), "") {
        Err(e) if e.raw_os_error() == Some(libc::EROFS) => Ok("a mount of its own, read-only".to_owned()),
        Err(e) => Err(format!("write on a read-only mount: {e}")),
        Ok(()) => Err("a read-only mount was written to".to_owned()),
    }
}

/// Runs the rest as PID 1 of a new pid namespace.
fn inside_pid(rest: impl FnOnce() -> Seen) -> Seen {
    rights()?;
    unshare(UnshareFlags::NEWPID).map_err(why)?;
    apart(|| match std::process::id() {
        1 => rest(),
        other => Err(format!("pid {other} in a new pid namespace")),
    })
}

/// A container engine hides parts of its `/proc`, and the kernel then refuses a fresh one.
fn own_proc(at: &Path) -> Seen {
    private_mounts()?;
    mount("proc", at, "")?;
    let count = fs::read_dir(at)
        .map_err(|e| e.to_string())?
        .filter(|entry| {
            entry.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().chars().all(|c| c.is_ascii_digit()))
        })
        .count();
    if count == 1 { Ok("one process in it".to_owned()) } else { Err(format!("{count} processes in it")) }
}

fn network() -> Seen {
    rights()?;
    unshare(UnshareFlags::NEWNET).map_err(why)?;
    loopback_up().map_err(why)?;
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| format!("listen on loopback: {e}"))?;
    // A documentation address (RFC 5737): nothing is sent by connect, the kernel only looks for a route.
    let outside = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect(outside)) {
        Err(_) => Ok("loopback, and no route".to_owned()),
        Ok(()) => Err("a route leads out of it".to_owned()),
    }
}

fn other_namespace(flag: UnshareFlags, name: &str) -> Seen {
    rights()?;
    let which = || fs::read_link(format!("/proc/self/ns/{name}")).map_err(|e| e.to_string());
    let before = which()?;
    unshare(flag).map_err(why)?;
    if which()? == before {
        Err("it is still the old one".to_owned())
    } else {
        Ok("another than the caller's".to_owned())
    }
}

fn uts() -> Seen {
    rights()?;
    unshare(UnshareFlags::NEWUTS).map_err(why)?;
    rustix::system::sethostname(b"ft-trial").map_err(failed("set the host name"))?;
    Ok("a host name of its own".to_owned())
}

fn status(name: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    field.unwrap_or_default().trim().to_owned()
}

fn capabilities() -> Seen {
    user()?;
    process::drop_bounding_set().map_err(why)?;
    process::drop_capabilities().map_err(why)?;
    let left: Vec<String> = ["CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().map(|set| status(set)).collect();
    let none = left.iter().all(|set| !set.is_empty() && set.chars().all(|c| c == '0'));
    if none { Ok("none left".to_owned()) } else { Err(format!("left: {}", left.join(" "))) }
}

fn no_new_privs() -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(failed("prctl"))?;
    if status("NoNewPrivs") == "1" { Ok(()) } else { Err("not set".to_owned()) }
}

fn filter() -> Seen {
    no_new_privs()?;
    // Refused by the filter for everybody; without it the call fails otherwise, or not at all.
    seccomp::install().map_err(why)?;
    match rustix::net::socket(AddressFamily::VSOCK, SocketType::STREAM, None) {
        Err(rustix::io::Errno::AFNOSUPPORT) if status("Seccomp") == "2" => Ok("refuses what its table says".to_owned()),
        other => Err(format!("a call that it refuses gave {other:?}")),
    }
}

/// A process asks to connect, its watcher hears of it and answers; with `inject`, with a descriptor of its own.
fn notified(inject: bool) -> Seen {
    no_new_privs()?;
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed("pipe"));
    let (told, tell) = pipe()?;
    let (go_on, go) = pipe()?;
    let (heard, hear_from) = pipe()?;
    match process::fork_sharing_descriptors().map_err(|e| e.to_string())? {
        Fork::Child => {
            let asked = || -> Result<i32, String> {
                let socket =
                    rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).map_err(failed("socket"))?;
                let number = seccomp::watch(false).map_err(why)?;
                let _ = rustix::io::write(&tell, format!("{number}").as_bytes());
                let mut byte = [0];
                let _ = rustix::io::read(&go_on, &mut byte);
                let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
                match rustix::net::connect(&socket, &address) {
                    Ok(()) => Ok(0),
                    Err(e) => Ok(e.raw_os_error()),
                }
            };
            match asked() {
                Ok(errno) => process::leave(if errno == libc::ENETUNREACH { 7 } else { 8 }),
                Err(words) => {
                    let _ = rustix::io::write(&tell, format!("-{words}").as_bytes());
                    process::leave(9)
                }
            }
        }
        Fork::Parent(_) => {
            let mut bytes = [0; 256];
            let n = rustix::io::read(&told, &mut bytes).map_err(failed("read"))?;
            let words = String::from_utf8_lossy(&bytes[..n]).into_owned();
            let number = words.parse().map_err(|_| words.trim_start_matches('-').to_owned())?;
            let listener = Listener::adopt(number).map_err(|e| e.to_string())?;
            let _ = rustix::io::write(&go, b"g");
            if !matches!(poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&PATIENCE)), Ok(1..)) {
                return Err("no notification came".to_owned());
            }
            let call = listener.receive().map_err(|e| e.to_string())?.ok_or("the notification was lost")?;
            if inject {
                let number = listener.inject(call.id, hear_from.as_fd(), None, true).map_err(|e| e.to_string())?;
                if number < 0 {
                    return Err(format!("descriptor {number}"));
                }
            }
            listener.refuse(call.id, libc::ENETUNREACH);
            drop((heard, hear_from));
            match process::reap(true) {
                Reaped::Child(_, end) if end.code == 7 && inject => {
                    Ok("a descriptor was put into a waiting call".to_owned())
                }
                Reaped::Child(_, end) if end.code == 7 => Ok("a waiting call was answered".to_owned()),
                other => Err(format!("the answer did not arrive: {other:?}")),
            }
        }
    }
}

fn landlocked(scratch: &Path) -> Seen {
    let version = trial::landlock_version().map_err(why)?;
    no_new_privs()?;
    trial::landlock_no_writing().map_err(why)?;
    match fs::write(scratch.join("landlocked"), "") {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(format!("ABI {version}; refused to write a file")),
        Err(e) => Err(format!("write a file: {e}")),
        Ok(()) => Err("a file was written in spite of it".to_owned()),
    }
}

fn overlay(scratch: &Path) -> Seen {
    fs::write(scratch.join("lower/file"), "lower").map_err(|e| e.to_string())?;
    rights()?;
    private_mounts()?;
    std::env::set_current_dir(scratch).map_err(|e| e.to_string())?;
    mount("overlay", Path::new("merged"), "lowerdir=lower,upperdir=upper,workdir=work,userxattr")?;
    fs::write("merged/file", "upper").map_err(|e| format!("write: {e}"))?;
    let kept = fs::read_to_string("lower/file").is_ok_and(|text| text == "lower");
    if kept {
        Ok("a view that leaves the tree alone".to_owned())
    } else {
        Err("the layer below was changed".to_owned())
    }
}

/// By a control group where one can be made, and tried: a process that takes too much must be ended by the kernel.
fn memory() -> Observed {
    let mut groups = Groups::create(MEMORY, 0);
    let seen = match groups.memory {
        Some(mechanism) => {
            let end = apart_in(&mut groups, || {
                let mut taken = vec![0u8; TOO_MUCH];
                taken.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                // Memory that nobody reads is no memory to a compiler: for arm64 it took none.
                std::hint::black_box(&taken);
                0
            });
            let killed = groups.out_of_memory() > 0;
            match end {
                Ok(Some(libc::SIGKILL)) if killed => Ok((mechanism, "ended who took too much".to_owned())),
                Ok(signal) => Err(format!("{mechanism}: who took too much ended with signal {signal:?}")),
                Err(message) => Err(message),
            }
        }
        None => Err(groups.refused.clone()),
    };
    groups.remove();
    let (mechanism, detail, enforced) = match seen {
        Ok((mechanism, detail)) => (mechanism, detail, true),
        Err(refused) => match apart(data) {
            Ok(_) => ("RLIMIT_DATA", format!("each process alone, not all together: {refused}"), false),
            Err(message) => ("", format!("{refused}; {message}"), false),
        },
    };
    Observed { wall: "memory".to_owned(), mechanism: mechanism.to_owned(), detail, enforced }
}

fn data() -> Seen {
    process::set_limit(Limit::Data, MEMORY, MEMORY).map_err(|e| e.to_string())?;
    match trial::reserve(TOO_MUCH) {
        Err(_) => Ok("refused too much".to_owned()),
        Ok(()) => Err("RLIMIT_DATA does not refuse anything".to_owned()),
    }
}

fn processes() -> Observed {
    let mut groups = Groups::create(0, PROCESSES);
    let many = || {
        let started = (0..4 * PROCESSES).map_while(|_| match process::fork() {
            Ok(Fork::Child) => {
                std::thread::sleep(std::time::Duration::from_secs(1));
                process::leave(0)
            }
            Ok(Fork::Parent(pid)) => Some(pid),
            Err(_) => None,
        });
        let started: Vec<i32> = started.collect();
        started.iter().for_each(|pid| process::signal(*pid, libc::SIGKILL));
        while matches!(process::reap(true), Reaped::Child(..)) {}
        started.len() as u64
    };
    let (mechanism, end) = match groups.pids {
        Some(mechanism) => (mechanism, apart_in_counted(&mut groups, many)),
        None => (
            "RLIMIT_NPROC",
            apart(|| {
                // Root is exempt as long as it has rights; in a cell it has another uid and none.
                user()?;
                process::drop_bounding_set().map_err(why)?;
                process::drop_capabilities().map_err(why)?;
                process::set_limit(Limit::Processes, PROCESSES, PROCESSES).map_err(|e| e.to_string())?;
                Ok(many().to_string())
            }),
        ),
    };
    groups.remove();
    let (detail, enforced) = match end {
        Ok(count) if count.parse().is_ok_and(|n: u64| n <= PROCESSES) => ("refused too many".to_owned(), true),
        Ok(count) => (format!("{count} processes were started, {PROCESSES} allowed"), false),
        Err(message) => (message, false),
    };
    let mechanism = if enforced { mechanism } else { "" };
    Observed { wall: "pids".to_owned(), mechanism: mechanism.to_owned(), detail, enforced }
}

fn apart_in_counted(groups: &mut Groups, work: impl FnOnce() -> u64) -> Seen {
    apart(|| {
        groups.join().map_err(|e| format!("join the control group: {e}"))?;
        Ok(work().to_string())
    })
}

/// Runs `work` in these groups: the signal that ended it.
fn apart_in(groups: &mut Groups, work: impl FnOnce() -> i32) -> Result<Option<i32>, String> {
    match process::fork().map_err(|e| e.to_string())? {
        Fork::Child => {
            if groups.join().is_err() {
                process::leave(1);
            }
            process::leave(work());
        }
        Fork::Parent(pid) => Ok(end_of(pid)),
    }
}

fn one_cpu() -> Seen {
    super::spawn::narrow_cpus(1).map_err(failed("sched_setaffinity"))?;
    let mask = rustix::thread::sched_getaffinity(None).map_err(failed("sched_getaffinity"))?;
    if mask.count() == 1 { Ok("one CPU of those allowed".to_owned()) } else { Err(format!("{} CPUs", mask.count())) }
}

fn open_files() -> Seen {
    process::set_limit(Limit::Files, 16, 16).map_err(|e| e.to_string())?;
    let open: Vec<_> = (0..32).map_while(|_| File::open("/dev/null").ok()).collect();
    if open.len() < 16 { Ok("refused too many".to_owned()) } else { Err("not applied".to_owned()) }
}

fn file_size(scratch: &Path) -> Seen {
    process::set_limit(Limit::FileSize, 4096, 4096).map_err(|e| e.to_string())?;
    // The signal that comes first is ignored by nobody here, and ends a step; here only the error is wanted.
    process::ignore(libc::SIGXFSZ);
    match fs::write(scratch.join("large"), vec![0; 8192]) {
        Err(e) if e.raw_os_error() == Some(libc::EFBIG) => Ok("refused a file that grew too large".to_owned()),
        Err(e) => Err(e.to_string()),
        Ok(()) => Err("not applied".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_is_whole() {
        let (from, to) = rustix::pipe::pipe().unwrap();
        File::from(to).write_all("+fine".repeat(500).as_bytes()).unwrap();
        let mut text = hear(&from).unwrap();
        assert_eq!(text.len(), 2500);
        text.truncate(5);
        assert_eq!(text, "+fine");
    }
}
