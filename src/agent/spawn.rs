//! Starts the command: looks it up, forks, and gives the child exactly what it may have.

use super::observe::Facts;
use super::{Failure, here};
use crate::frame::{Manifest, UNENFORCEABLE};
use crate::linux::cgroup::Groups;
use crate::linux::landlock::Rules;
use crate::linux::notify::Listener;
use crate::linux::process::{self, Fork, Limit};
use crate::linux::seccomp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

/// Descriptors a step may have open at once: the usual soft limit of a service, and a hard limit that leaves room.
pub const FILES: (u64, u64) = (4096, 524_288);

/// Bytes of the reason why a command could not be watched.
const REASON: usize = 200;

/// Whether this machine lets us watch: tried by a process that does nothing else.
pub fn try_to_watch() -> Result<(), String> {
    let io = |e: io::Error| e.to_string();
    let (failed, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| io(e.into()))?;
    match process::fork().map_err(io)? {
        Fork::Child => {
            let why = seccomp::watch(false).err().map(|e| e.to_string()).unwrap_or_default();
            let _ = rustix::io::write(&report, why.as_bytes());
            process::leave(0);
        }
        Fork::Parent(_) => {
            drop(report);
            let mut why = String::new();
            File::from(failed).read_to_string(&mut why).map_err(io)?;
            if why.is_empty() { Ok(()) } else { Err(why) }
        }
    }
}

/// The caller's own terminal, for `ft shell`.
#[derive(Debug)]
pub struct Terminal {
    input: OwnedFd,
    output: OwnedFd,
    error: OwnedFd,
}

impl Terminal {
    /// Takes the three descriptors that were inherited for it; none where there are none.
    pub fn inherited(numbers: &[u32]) -> Result<Option<Terminal>, Failure> {
        let take = |number: u32| {
            process::take_inherited(number)
                .map_err(|e| Failure::new("terminal", format!("take descriptor {number}: {e}")))
        };
        match *numbers {
            [] => Ok(None),
            [input, output, error] => {
                Ok(Some(Terminal { input: take(input)?, output: take(output)?, error: take(error)? }))
            }
            _ => Err(Failure::new("terminal", "three descriptors are needed")),
        }
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Started {
    /// Its process id, in the cell.
    pub pid: i32,
    /// What it writes to standard output; none on a terminal.
    pub output: Option<OwnedFd>,
    /// What it writes to standard error.
    pub error: Option<OwnedFd>,
    /// Where its calls to reach the network wait for an answer; why not, where this machine does not let us watch.
    pub listener: Result<Listener, String>,
}

/// Starts the command of `manifest`. Where there are no namespaces, `inner` is what only the command gets.
///
/// # Errors
/// Stage `exec` where it can't be found or executed, which is not the same as a command that exits with 127.
pub fn start(
    manifest: &Manifest,
    facts: &Facts,
    groups: &mut Groups,
    terminal: Option<Terminal>,
    inner: Option<Rules>,
) -> Result<Started, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::new("exec", e);
    let program = find(manifest)?;
    let path = words([&program])?.remove(0);
    let argv = words(&manifest.argv)?;
    let env = words(manifest.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>())?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| fail(&e))?;
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| fail(&e));
    let (failed, report) = pipe()?;
    let (output, error, terminal) = if manifest.passthrough {
        (None, None, Some(terminal.ok_or_else(|| fail(&"no terminal was handed to this cell"))?))
    } else {
        (Some(pipe()?), Some(pipe()?), None)
    };
    // The table is shared for a moment: that is how the listener comes to us. Passing it in a message would be a call
    // that waits for an answer, and nobody could give it yet.
    let (agent, broker) = (std::process::id().cast_signed(), inner.is_some());
    match process::fork_sharing_descriptors().map_err(|e| fail(&e))? {
        Fork::Child => {
            // Not closed here: its number would be the parent's to close as well.
            let alone = inner.as_ref().map_or(Ok(()), |rules| here::enter(rules, agent));
            let watched = alone.and_then(|()| seccomp::watch(broker).map_err(|e| e.to_string()));
            let own = process::unshare_descriptors();
            let shared = own.as_ref().err().map(|e| format!("a table of descriptors of its own: {e}"));
            let watched = own.map_err(|e| e.to_string()).and(watched);
            let number = watched.as_ref().map_or(-1, |number| *number);
            let _ = rustix::io::write(&report, &number.to_le_bytes());
            let unwatched = watched.is_err();
            let mut why = watched.err().unwrap_or_default().into_bytes();
            why.resize(REASON, 0);
            let _ = rustix::io::write(&report, &why);
            drop(failed);
            if let Some(why) = shared {
                // What it opens and closes now would be opened and closed for the agent.
                let _ = rustix::io::write(&report, why.as_bytes());
                process::leave(127);
            }
            if broker && unwatched {
                // Where the broker is the wall, nothing runs without it; the other side knows why.
                process::leave(127);
            }
            let result: Result<(), String> = prepare(manifest, facts, groups).and_then(|()| {
                let put = |number, fd: &OwnedFd| {
                    process::put_descriptor(fd.as_fd(), number).map_err(|e| format!("standard descriptors: {e}"))
                };
                put(0, terminal.as_ref().map_or(&null, |t| &t.input))?;
                if let Some(fd) = output.as_ref().map(|p| &p.1).or(terminal.as_ref().map(|t| &t.output)) {
                    put(1, fd)?;
                }
                if let Some(fd) = error.as_ref().map(|p| &p.1).or(terminal.as_ref().map(|t| &t.error)) {
                    put(2, fd)?;
                }
                if terminal.is_some() {
                    take_foreground().map_err(|e| format!("foreground of the terminal: {e}"))?;
                }
                process::close_on_exec_from_three();
                process::reset_signals();
                Err(format!("{program}: {}", process::exec(&path, &argv, &env)))
            });
            let message = result.err().unwrap_or_default();
            let _ = rustix::io::write(&report, message.as_bytes());
            process::leave(127);
        }
        Fork::Parent(pid) => {
            let mut failed = File::from(failed);
            // Until the child has a table of its own, what we close is closed for it as well.
            let listener = listener(&mut failed, pid).map_err(|e| Failure::new("witness", e))?;
            if let (true, Err(why)) = (broker, &listener) {
                return Err(Failure::new(UNENFORCEABLE, why));
            }
            drop((report, null));
            if terminal.is_some() {
                // Ctrl-C and a hangup are the command's. And with its parent in another session its group is orphaned:
                // nobody could continue a program that Ctrl-Z stopped, so the kernel does not stop it (setpgid(2)).
                // Jobs of a shell have the shell as their parent, and stop.
                let _ = rustix::process::setsid();
            }
            let mut message = String::new();
            // Ends at once: exec closes the other end, and so does a child that failed.
            let _ = failed.read_to_string(&mut message);
            if !message.is_empty() {
                return Err(fail(&message));
            }
            Ok(Started { pid, output: output.map(|p| p.0), error: error.map(|p| p.0), listener })
        }
    }
}

/// The listener whose number the child says first, or why there is none. It can't end without saying one of both,
/// unless it is killed from outside.
fn listener(from: &mut File, pid: i32) -> io::Result<Result<Listener, String>> {
    loop {
        let mut fds = [PollFd::new(from, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))? > 0 {
            let (mut number, mut why) = ([0; 4], [0; REASON]);
            from.read_exact(&mut number)?;
            from.read_exact(&mut why)?;
            let number = i32::from_le_bytes(number);
            if number >= 0 {
                return Listener::adopt(number).map(Ok);
            }
            let why = why.split(|byte| *byte == 0).next().unwrap_or_default();
            return Ok(Err(String::from_utf8_lossy(why).into_owned()));
        }
        if !process::is_running(pid) {
            return Err(io::Error::other("the command's process was killed before it began"));
        }
    }
}

/// Puts this process into a group of its own, in the foreground of the caller's terminal: what is typed, Ctrl-C
/// included, is for it alone. Standard input that is no terminal has no foreground.
fn take_foreground() -> rustix::io::Result<()> {
    let input = std::io::stdin();
    if !rustix::termios::isatty(&input) {
        return Ok(());
    }
    rustix::process::setpgid(None, None)?;
    // Asked from the background, which would stop us; the command gets its signals back afterwards.
    process::ignore(libc::SIGTTOU);
    rustix::termios::tcsetpgrp(&input, rustix::process::getpid())
}

/// What the child does to itself before it becomes the command.
fn prepare(manifest: &Manifest, facts: &Facts, groups: &mut Groups) -> Result<(), String> {
    groups.join().map_err(|e| format!("join the control group: {e}"))?;
    if facts.engine.is_some() {
        // PID 1 is in the same group, and is to be there still when somebody must go for want of memory. Nobody else of
        // the step runs yet who could look in here.
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
        let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    }
    if !manifest.passthrough {
        // A session of its own: no controlling terminal, and signals to the group miss PID 1.
        rustix::process::setsid().map_err(|e| format!("setsid: {e}"))?;
    }
    let limit = |limit, soft, hard| process::set_limit(limit, soft, hard).map_err(|e| format!("limit {limit:?}: {e}"));
    limit(Limit::Core, 0, 0)?;
    limit(Limit::Files, FILES.0, FILES.1)?;
    if manifest.file_bytes > 0 {
        limit(Limit::FileSize, manifest.file_bytes, manifest.file_bytes)?;
    }
    if let Some(bytes) = facts.data_limit(manifest.memory_bytes) {
        limit(Limit::Data, bytes, bytes)?;
    }
    if let Some(pids) = facts.process_limit(manifest.pids) {
        limit(Limit::Processes, pids, pids)?;
    }
    if facts.cpus > 0 {
        narrow_cpus(facts.cpus as usize).map_err(|e| format!("cpu affinity: {e}"))?;
    }
    std::env::set_current_dir(&manifest.cwd).map_err(|e| format!("working directory {}: {e}", manifest.cwd))
}

/// Keeps the first `count` of the CPUs this process may use.
pub fn narrow_cpus(count: usize) -> rustix::io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let mut kept = rustix::thread::CpuSet::new();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(count).for_each(|cpu| kept.set(cpu));
    rustix::thread::sched_setaffinity(None, &kept)
}

/// The file of the manifest's command: a path as it is, a name as the first executable in its `PATH`.
fn find(manifest: &Manifest) -> Result<String, Failure> {
    let fail = |message: String| Failure::new("exec", message);
    let Some(name) = manifest.argv.first().filter(|name| !name.is_empty()) else {
        return Err(fail("no command".into()));
    };
    if name.contains('/') {
        return Ok(name.clone());
    }
    let path = manifest.env.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value);
    path.split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| format!("{directory}/{name}"))
        .find(|file| {
            rustix::fs::accessat(CWD, file.as_str(), Access::EXEC_OK, AtFlags::EACCESS).is_ok()
                && std::fs::metadata(file).is_ok_and(|meta| meta.is_file())
        })
        .ok_or_else(|| fail(format!("{name}: command not found in PATH={path}")))
}

fn words<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Result<Vec<CString>, Failure> {
    words
        .into_iter()
        .map(|word| CString::new(word.as_ref()))
        .collect::<Result<_, _>>()
        .map_err(|e| Failure::new("exec", format!("argument or variable: {e}")))
}
