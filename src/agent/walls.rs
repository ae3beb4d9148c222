//! Raises the walls of a namespaces cell around what becomes PID 1.
//!
//! Two processes: the starter stays outside, owns the control groups, and cleans up when PID 1 is gone; PID 1 builds the
//! root, gives up every right, and serves. Both orders end the same, with a kernel uid that is nobody's and no
//! capability over anything:
//!
//! - for an ordinary user, the user namespace comes first (it gives the right to make the others) and maps the caller;
//! - for root, the other namespaces are made with root's rights, so that directories only root can reach (an interpreter
//!   below `/root`) can be bound, and the user namespace comes last: it owns none of the others, so not even its own
//!   capabilities reach them. It maps [`ids::UNPRIVILEGED`]: a root that only drops capabilities still reads
//!   `/etc/shadow`, because the file is its own.

use super::disk::{self, Meter};
use super::family::Family;
use super::here::Without;
use super::observe::Facts;
use super::places::Places;
use super::spawn::Terminal;
use super::tree::Before;
use super::witness::Stub;
use super::{Failure, refuse, root, serve};
use crate::code::ExitCode;
use crate::frame::{Decoder, Spec, ToHelper};
use crate::linux::cgroup::Groups;
use crate::linux::process::{Fork, Reaped};
use crate::linux::{ids, namespaces, process, route, seccomp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Instant;

/// What PID 1 finds when the walls stand.
#[derive(Default)]
pub struct Behind {
    /// What was built, for the observer.
    pub facts: Facts,
    /// Control groups for the command.
    pub groups: Groups,
    /// Ends when the starter does.
    pub starter_lives: Option<OwnedFd>,
    /// The caller's terminal, where asked for.
    pub terminal: Option<Terminal>,
    /// The cell's name server.
    pub stub: Option<Stub>,
    /// The host relays what is allowed. With namespaces every address is the cell's own then.
    pub routed: bool,
    /// Where the cell's places are.
    pub places: Places,
    /// What the command gets where there are no namespaces.
    pub without: Option<Without>,
    /// The tree as it was unpacked, where its changes are wanted.
    pub changes: Option<Before>,
    /// Only say what was observed.
    pub probe: bool,
    /// When nobody can need it any more.
    pub deadline: Option<Instant>,
}

/// Reads the spec, raises the walls, and runs PID 1 to its end.
pub fn raise() -> ExitCode {
    let spec = match read_spec() {
        Ok(spec) => spec,
        Err(failure) => return refuse(failure),
    };
    let scratch = PathBuf::from(OsStr::from_bytes(&spec.scratch.0));
    let mut groups = Groups::create(spec.memory_bytes, spec.pids);
    let owner = ids::step_owner();
    let code = match start(&spec, &scratch, owner, &mut groups) {
        Ok(Side::Inside(behind)) => {
            let behind = Behind { groups, ..*behind };
            return serve(behind);
        }
        Ok(Side::InsideFailed(failure)) => return refuse(failure),
        // No frame: a stream that was cut.
        Ok(Side::Orphaned) => return ExitCode::INFRASTRUCTURE,
        Ok(Side::Outside(code)) => code,
        Err(failure) => refuse(failure),
    };
    groups.remove();
    root::clear_scratch(&scratch);
    code
}

enum Side {
    /// We are PID 1, behind the walls.
    Inside(Box<Behind>),
    /// We are PID 1 and could not build them.
    InsideFailed(Failure),
    /// We are PID 1, could not build them, and the starter is gone.
    Orphaned,
    /// We are the starter, and PID 1 is gone.
    Outside(ExitCode),
}

/// Whether the other end of a pipe is closed.
fn is_over(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().is_empty()
}

/// The spec from standard input; what follows is for PID 1.
pub(super) fn read_spec() -> Result<Spec, Failure> {
    match read_frame()? {
        ToHelper::Raise { spec } => Ok(spec),
        _ => Err(Failure::new("spec", "no spec")),
    }
}

/// Takes exactly one frame from standard input, and waits for it.
pub(super) fn read_frame() -> Result<ToHelper, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::new("spec", e);
    let mut input =
        std::fs::File::from(rustix::io::dup(std::os::fd::AsFd::as_fd(&std::io::stdin())).map_err(|e| fail(&e))?);
    let mut head = [0; 4];
    input.read_exact(&mut head).map_err(|e| fail(&e))?;
    let length = u32::from_le_bytes(head) as usize;
    if length > crate::frame::MAX_FRAME {
        return Err(fail(&crate::frame::FrameError::Length(length)));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).map_err(|e| fail(&e))?;
    let mut decoder = Decoder::default();
    decoder.push(&head);
    decoder.push(&body);
    match decoder.next::<ToHelper>() {
        Ok(Some((frame, _))) => Ok(frame),
        Ok(None) => Err(fail(&"no frame")),
        Err(e) => Err(fail(&e)),
    }
}

fn start(
    spec: &Spec,
    scratch: &std::path::Path,
    owner: Option<(u32, u32)>,
    groups: &mut Groups,
) -> Result<Side, Failure> {
    root::make_scratch(scratch, owner)?;
    let terminal = Terminal::inherited(&spec.terminal)?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if owner.is_none() {
        namespaces::unshare(UnshareFlags::NEWUSER).map_err(|e| Failure::new("user namespace", e))?;
        namespaces::map_ids("self", ids::INNER, uid, gid, true).map_err(|e| Failure::new("user namespace", e))?;
    }
    namespaces::unshare(UnshareFlags::NEWPID).map_err(|e| Failure::new("pid namespace", e))?;
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| Failure::new("pipe", e));
    // PID 1 sees the end of this one when the starter is gone.
    let (starter_lives, life) = pipe()?;
    let (asked, ask) = pipe()?;
    let (mapped, map) = pipe()?;
    let (before, begin) = pipe()?;
    match process::fork().map_err(|e| Failure::new("pid namespace", e))? {
        Fork::Child => {
            drop((life, asked, map, before));
            let built = build(spec, scratch, owner, &ask, &mapped, groups);
            if let Ok((facts, _)) = &built {
                let _ = rustix::io::write(&begin, &facts.copied.to_le_bytes());
            }
            Ok(match built {
                Ok((facts, stub)) => Side::Inside(Box::new(Behind {
                    facts,
                    stub: Some(stub),
                    routed: spec.relay,
                    groups: Groups::default(),
                    starter_lives: Some(starter_lives),
                    terminal,
                    probe: spec.probe,
                    ..Behind::default()
                })),
                // Whatever could not be built: there is nobody to build it for, and it says nothing about this machine.
                Err(_) if is_over(&starter_lives) => Side::Orphaned,
                Err(failure) => Side::InsideFailed(failure),
            })
        }
        Fork::Parent(pid) => {
            drop((starter_lives, ask, mapped, begin, terminal));
            // The stream is PID 1's alone; were it open here too, its end would not be seen.
            close_stdio();
            if !spec.terminal.is_empty() {
                // What is typed is for the command: Ctrl-C must not end the one who keeps the cell up.
                let _ = rustix::process::setsid();
            }
            if let Some((uid, gid)) = owner {
                let mut byte = [0];
                if matches!(rustix::io::read(&asked, &mut byte), Ok(1)) {
                    // On failure nothing is answered, and PID 1 reports that it was not mapped.
                    if namespaces::map_ids(&pid.to_string(), ids::INNER, uid, gid, false).is_ok() {
                        let _ = rustix::io::write(&map, b"m");
                    }
                }
            }
            drop((asked, map));
            if spec.disk_bytes > 0 && !spec.probe {
                let directories = root::WRITTEN_TO.iter().map(|name| scratch.join(name)).collect();
                disk::watch(&Meter { directories, limit: spec.disk_bytes, who: Family::Namespace }, &before, &life);
            }
            let mut code = ExitCode::INFRASTRUCTURE;
            while let Reaped::Child(ended, status) = process::reap(true) {
                if ended == pid && status.signal == 0 {
                    code = ExitCode(status.code as u16);
                }
            }
            drop(life);
            Ok(Side::Outside(code))
        }
    }
}

/// Everything PID 1 does before it serves. The order matters: what needs rights comes first, and the filter last.
fn build(
    spec: &Spec,
    scratch: &std::path::Path,
    owner: Option<(u32, u32)>,
    ask: &OwnedFd,
    mapped: &OwnedFd,
    groups: &mut Groups,
) -> Result<(Facts, Stub), Failure> {
    let fail = |stage: &'static str| move |e: crate::linux::CallError| Failure::new(stage, e);
    namespaces::unshare(
        UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP,
    )
    .map_err(fail("namespaces"))?;
    namespaces::loopback_up().map_err(fail("network namespace"))?;
    if spec.relay {
        route::everywhere_is_here().map_err(fail("network namespace"))?;
    }
    // Now, while a low port may be bound.
    let stub = Stub::open().map_err(|e| Failure::new("name server", e))?;
    rustix::system::sethostname(b"ft").map_err(|e| Failure::new("uts namespace", e))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let tree = root::build(spec, scratch)?;
    let copied = if matches!(tree, root::Tree::Copy(_)) { disk::used(&["/ft/work".into()]) } else { 0 };
    if owner.is_some() {
        rustix::thread::set_thread_groups(&[]).map_err(|e| Failure::new("groups", e))?;
        namespaces::unshare(UnshareFlags::NEWUSER).map_err(fail("user namespace"))?;
        rustix::io::write(ask, b"a").map_err(|e| Failure::new("user namespace", e))?;
        let mut byte = [0];
        if !matches!(rustix::io::read(mapped, &mut byte), Ok(1)) {
            return Err(Failure::new("user namespace", "the starter could not write the id maps"));
        }
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(ids::INNER), rustix::fs::Gid::from_raw(ids::INNER));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|e| Failure::new("ids", e))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|e| Failure::new("ids", e))?;
    process::drop_bounding_set().map_err(fail("capabilities"))?;
    process::drop_capabilities().map_err(fail("capabilities"))?;
    // After the ids: a change of ids makes a process dumpable or not by rules of its own.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::new("dumpable", e))?;
    seccomp::install().map_err(fail("seccomp"))?;
    let spec_limits = (spec.memory_bytes, spec.pids);
    let facts = Facts {
        raised: true,
        copied,
        tree,
        memory: groups.memory,
        pids: groups.pids,
        memory_bytes: spec_limits.0,
        pids_max: spec_limits.1,
        disk_bytes: spec.disk_bytes,
        cpus: spec.cpus,
        mapped_from_root: owner.is_some(),
        ..Facts::default()
    };
    Ok((facts, stub))
}

/// Replaces the three standard descriptors by `/dev/null`.
pub(super) fn close_stdio() {
    let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else { return };
    for number in 0..3 {
        let _ = process::put_descriptor(std::os::fd::AsFd::as_fd(&null), number);
    }
}
