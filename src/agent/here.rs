//! A cell where no namespace can be made: inside a container with its engine's own filter, and on machines that forbid
//! user namespaces. Nothing is hidden here; the step loses the right to use it.
//!
//! Three processes above the command's: the starter, outside, which adopts what is left when the agent is killed; the
//! agent, which gives up every right, adopts orphans, and decides as broker about every socket; the command, which has
//! fewer rights still. Agent and command share a kernel uid (else the agent could not read what a call points to): the
//! caller's own, or [`ids::UNPRIVILEGED`] where root called.
//!
//! The cell's places stand in a directory of their own below a shared one (`/tmp`), not below the repository: programs
//! look for their configuration in the folders above, and those of the repository are shut here.

use super::disk::{self, Meter};
use super::family::Family;
use super::observe::{Facts, Here};
use super::places::Places;
use super::root::SignsOfLife;
use super::spawn::Terminal;
use super::tree::{self, Before, copy_tree};
use super::walls::{Behind, close_stdio, read_spec};
use super::witness::{Broker, Stub, Writable};
use super::{Failure, refuse, root, serve};
use crate::code::ExitCode;
use crate::frame::{Bytes, Spec};
use crate::linux::cgroup::Groups;
use crate::linux::landlock::{self, Files, Rules, Wanted};
use crate::linux::process::{self, Fork, Reaped};
use crate::linux::{CallError, ids, seccomp};
use rustix::fs::{Access, AtFlags, CWD, Mode, StatVfsMountFlags};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Before Linux 5.19 no file could be renamed from one directory to another behind Landlock, which hardly a program bears.
const LANDLOCK: u32 = 2;

/// What `/etc` has that a step may read, beside what every cell has of it.
const ETC: [&str; 12] = [
    "passwd",
    "group",
    "hosts",
    "host.conf",
    "hostname",
    "resolv.conf",
    "nsswitch.conf",
    "services",
    "protocols",
    "os-release",
    "localtime",
    "mime.types",
];

/// Devices that are a step's to use.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "ptmx"];

/// The project layer: its files name places of a cell, so each cell has a copy with its own.
const LAYER: &str = "/ft/project";

/// Where everybody may write, and programs expect to.
const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Where the cell's own directory is made: the first of them that lets programs be executed.
const PLACES: [&str; 2] = ["/tmp", "/var/tmp"];

/// Those of the cell's places that the step writes to, below its root.
const WRITTEN_TO: [&str; 3] = ["work", "home", "out"];

/// How long the starter tries to end what a killed agent left.
const REAP: Duration = Duration::from_secs(2);

/// What stands in for namespaces.
#[derive(Debug)]
pub struct Without {
    /// What the command alone loses.
    pub inner: Rules,
    /// Decides about sockets and signals.
    pub broker: Broker,
    /// What is left of the tree when the step is over.
    pub left: Left,
}

/// The step's tree, and how what was changed in it reaches the host.
#[derive(Debug)]
pub struct Left {
    /// The tree as it was copied.
    copied: Option<Before>,
    /// The directories that the step writes to, and which they are.
    own: Vec<(PathBuf, (u64, u64))>,
    /// The host's directory for what was changed.
    changes: PathBuf,
}

impl Left {
    /// Whether the step's directories are those that were made for it: it could put others, or links, in their place.
    ///
    /// # Errors
    /// Which one is another.
    pub fn check(&self) -> Result<(), String> {
        match self.own.iter().find(|(path, made)| identity(path).ok().as_ref() != Some(made)) {
            Some((path, _)) => Err(format!("the step put something else in the place of {}", path.display())),
            None => Ok(()),
        }
    }

    /// Moves what is new or changed in `work` to the host, as the layer that an overlay would have left.
    ///
    /// # Errors
    /// Where something can't be moved.
    pub fn hand_over(self, work: &Path) -> io::Result<()> {
        if let Some(copied) = self.copied {
            // Where that fails the layer holds more than the changes, and every one of them.
            let _ = copied.reduce(work);
        }
        tree::move_tree(work, &self.changes)
    }
}

/// Device and inode of a directory, which no link is.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() { Ok((meta.dev(), meta.ino())) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// What the command does to itself, before anything is watched.
pub fn enter(rules: &Rules, agent: i32) -> Result<(), String> {
    process::die_with(agent).map_err(|e| format!("die with the agent: {e}"))?;
    rules.enforce().map_err(|e| e.to_string())
}

/// Reads the spec, takes every right away, and serves to the end.
pub fn raise() -> ExitCode {
    let spec = match read_spec() {
        Ok(spec) => spec,
        Err(failure) => return refuse(failure),
    };
    let mut groups = Groups::create(spec.memory_bytes, spec.pids);
    match start(&spec, &mut groups) {
        Ok(Side::Inside(behind)) => serve(Behind { groups, ..*behind }),
        Ok(Side::InsideFailed(failure)) => refuse(failure),
        Ok(Side::Outside(code, temporary)) => {
            groups.remove();
            // What this leaves is swept by the next run.
            let _ = tree::remove(&temporary);
            code
        }
        Err(failure) => {
            groups.remove();
            refuse(failure)
        }
    }
}

enum Side {
    /// We are the agent.
    Inside(Box<Behind>),
    /// We are the agent and something was not to be had.
    InsideFailed(Failure),
    /// We are the starter, and nobody is left.
    Outside(ExitCode, PathBuf),
}

fn start(spec: &Spec, groups: &mut Groups) -> Result<Side, Failure> {
    let fail = |stage: &'static str| move |e: io::Error| Failure::new(stage, e);
    let terminal = Terminal::inherited(&spec.terminal)?;
    process::adopt_orphans().map_err(fail("subreaper"))?;
    let owner = ids::step_owner();
    let temporary = make_temporary(owner).map_err(fail("scratch"))?;
    let (starter_lives, life) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| Failure::new("pipe", e))?;
    let (before, begin) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| Failure::new("pipe", e))?;
    match process::fork().map_err(fail("fork"))? {
        Fork::Child => {
            drop((life, before));
            // Not inherited.
            process::adopt_orphans().map_err(fail("subreaper"))?;
            Ok(match build(spec, owner, &temporary, groups) {
                Ok(behind) => {
                    let _ = rustix::io::write(&begin, &behind.facts.copied.to_le_bytes());
                    let behind = Behind { starter_lives: Some(starter_lives), terminal, probe: spec.probe, ..behind };
                    Side::Inside(Box::new(behind))
                }
                Err(failure) => Side::InsideFailed(failure),
            })
        }
        Fork::Parent(agent) => {
            drop((starter_lives, terminal, begin));
            close_stdio();
            if spec.disk_bytes > 0 && !spec.probe {
                let root = temporary.join(ROOT);
                let own = WRITTEN_TO.map(|name| root.join(name)).into_iter().chain([temporary.join(FILES)]);
                let meter = Meter { directories: own.collect(), limit: spec.disk_bytes, who: Family::Descendants };
                disk::watch(&meter, &before, &life);
            }
            let code = wait(agent);
            drop::<OwnedFd>(life);
            Ok(Side::Outside(code, temporary))
        }
    }
}

/// Waits for the agent, and ends what it could not end itself because somebody killed it.
fn wait(agent: i32) -> ExitCode {
    let mut code = ExitCode::INFRASTRUCTURE;
    loop {
        match process::reap(true) {
            Reaped::Child(pid, status) if pid == agent => {
                if status.signal == 0 {
                    code = ExitCode(status.code as u16);
                }
                break;
            }
            Reaped::Child(..) | Reaped::Waiting => {}
            Reaped::Nobody => break,
        }
    }
    let until = Instant::now() + REAP;
    while Instant::now() < until {
        match process::reap(false) {
            Reaped::Child(..) => {}
            Reaped::Nobody => break,
            Reaped::Waiting => {
                Family::Descendants.signal(libc::SIGKILL);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    code
}

/// The cell's own directory, which nobody but the step gets into. Its path is short: unix sockets are made below it, and
/// their paths have 107 bytes.
fn make_temporary(owner: Option<(u32, u32)>) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let executes =
        |place: &Path| rustix::fs::statvfs(place).is_ok_and(|stat| !stat.f_flag.contains(StatVfsMountFlags::NOEXEC));
    let place = PLACES.map(Path::new).into_iter().find(|place| executes(place)).unwrap_or(Path::new(PLACES[0]));
    let path = place.join(format!("{TEMPORARY}{}", name()));
    fs::DirBuilder::new().mode(0o700).create(&path)?;
    if let Some((_, gid)) = owner {
        // The step goes through it, and can't put another one in its place.
        std::os::unix::fs::lchown(&path, None, Some(gid))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o710))?;
    }
    Ok(path)
}

/// How the directories of cells begin.
pub const TEMPORARY: &str = "ft-cell-";

/// What stands for `/ft` and for `/tmp` in them.
const ROOT: &str = "ft";
const FILES: &str = "tmp";

/// The name of the starter that made this directory.
fn name_of(temporary: &Path) -> String {
    temporary.to_str().and_then(|path| path.split_once(TEMPORARY)).map_or("", |(_, name)| name).to_owned()
}

/// `NAMESPACE-PID-START` of this process: a name that no other process of this boot ever has. Containers share a `/tmp`
/// and see each other's processes, but their numbers mean others.
fn name() -> String {
    let pid = std::process::id();
    format!("{}-{pid}-{}", pid_namespace(), crate::linux::cgroup::started(pid).unwrap_or(0))
}

/// Whether the starter with this name is gone; `None` where that can't be told, because it is no name, or one of another
/// pid namespace.
pub fn is_gone(name: &str) -> Option<bool> {
    let mut parts = name.split('-');
    let (space, pid, start) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let ours = space.parse() == Ok(pid_namespace()) && parts.next().is_none();
    ours.then(|| crate::linux::cgroup::started(pid) != Some(start))
}

fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

fn own(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    match owner {
        Some((uid, gid)) => std::os::unix::fs::lchown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

fn path_of(bytes: &Bytes) -> &Path {
    Path::new(OsStr::from_bytes(&bytes.0))
}

/// Everything the agent does before it serves. Files are made with the caller's rights, copied with the step's.
fn build(spec: &Spec, owner: Option<(u32, u32)>, temporary: &Path, groups: &mut Groups) -> Result<Behind, Failure> {
    let fail = |stage: &'static str| move |e: CallError| Failure::new(stage, e);
    let failed = |stage: &'static str| move |e: io::Error| Failure::new(stage, e);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let version = landlock::version().filter(|version| *version >= LANDLOCK).ok_or_else(|| {
        let why =
            "this kernel has no Landlock (Linux 5.19, and `landlock` among the names in /sys/kernel/security/lsm)";
        Failure::new("Landlock", format!("{why}: nothing would keep the step from the files of this user"))
    })?;
    let scratch = fs::canonicalize(path_of(&spec.scratch)).map_err(failed("scratch"))?;
    let at = temporary.join(ROOT);
    let changes = scratch.join("changes");
    make_places(spec, &at, &[changes.clone(), temporary.join(FILES)], owner).map_err(failed("scratch"))?;
    let text = |path: &Path| path.to_str().unwrap_or_default().to_owned();
    let places = Places { root: text(&at), temporary: text(&temporary.join(FILES)), marker: name_of(temporary) };
    become_the_step(owner)?;
    reachable(spec, &scratch, owner)?;
    let work = places.work();
    let mut alive = SignsOfLife::default();
    for layer in spec.lowers.iter().rev() {
        copy_tree(path_of(layer), &work, &mut || alive.give())
            .map_err(|e| Failure::new("tree", format!("copy {}: {e}", path_of(layer).display())))?;
    }
    for layer in spec.mounts.iter().filter(|mount| mount.cell == LAYER) {
        let to = at.join("project");
        copy_tree(path_of(&layer.host), &to, &mut || alive.give())
            .and_then(|()| tree::rewrite(&to, &|bytes| places.content(bytes), &mut || alive.give()))
            .map_err(|e| Failure::new("project layer", format!("copy {}: {e}", path_of(&layer.host).display())))?;
    }
    let copied = (!spec.lowers.is_empty()).then(|| Before::record(&work));
    let copied_bytes = if spec.disk_bytes > 0 { disk::used(std::slice::from_ref(&work)) } else { 0 };
    let own = WRITTEN_TO.map(|name| at.join(name)).into_iter().map(|path| Ok((path.clone(), identity(&path)?)));
    let own = own.collect::<io::Result<Vec<_>>>().map_err(failed("scratch"))?;
    // After the ids: a change of ids makes a process dumpable or not by rules of its own.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::new("dumpable", e))?;
    let stub = Stub::open_anywhere().map_err(failed("name server"))?;
    let private = vec![temporary.to_owned()];
    let broker =
        Broker::new(&stub, private, Writable::new(writable(spec, &places)), version).map_err(failed("broker"))?;
    // The agent writes into the memory of the command, over /proc; the command does not write there.
    let inner = rules(spec, &places, Files::Read).map_err(fail("Landlock"))?;
    let ours = rules(spec, &places, Files::Write).and_then(|mut rules| {
        rules.allow(&changes, Files::Write)?;
        Ok(rules)
    });
    ours.and_then(|rules| rules.enforce()).map_err(fail("Landlock"))?;
    seccomp::install().map_err(fail("seccomp"))?;
    let facts = Facts {
        raised: true,
        memory: groups.memory,
        pids: groups.pids,
        memory_bytes: spec.memory_bytes,
        pids_max: spec.pids,
        disk_bytes: spec.disk_bytes,
        copied: copied_bytes,
        cpus: spec.cpus,
        mapped_from_root: owner.is_some(),
        here: Some(Here { root: places.root.clone(), landlock: version, others: threads_of_this_user() }),
        ..Facts::default()
    };
    Ok(Behind {
        facts,
        stub: Some(stub),
        routed: spec.relay,
        places,
        without: Some(Without { inner, broker, left: Left { copied, own, changes } }),
        ..Behind::default()
    })
}

/// The directories of the cell: `work` and so on at its root, `further` ones, and links to what is mounted elsewhere.
fn make_places(spec: &Spec, at: &Path, further: &[PathBuf], owner: Option<(u32, u32)>) -> io::Result<()> {
    fs::create_dir(at)?;
    for path in WRITTEN_TO.iter().map(|name| at.join(name)).chain(further.iter().cloned()) {
        fs::create_dir(&path)?;
        own(&path, owner)?;
    }
    root::make_slots(&at.join("witness"), owner)?;
    for mount in &spec.mounts {
        let name = mount.cell.strip_prefix("/ft/").filter(|name| !name.is_empty() && !name.contains('/'));
        let name = name.ok_or_else(|| io::Error::other(format!("{} is no place of a cell", mount.cell)))?;
        if mount.cell == LAYER {
            fs::create_dir(at.join(name))?;
            own(&at.join(name), owner)?;
        } else {
            symlink(path_of(&mount.host), at.join(name))?;
        }
    }
    Ok(())
}

/// Changes to the step's ids, without a way back.
fn become_the_step(owner: Option<(u32, u32)>) -> Result<(), Failure> {
    if let Some((uid, gid)) = owner {
        let fail = |e: &dyn std::fmt::Display| {
            let why = "this root may not change its user, and a step never runs as root; start it as another user";
            Failure::new("ids", format!("{why} (`docker run --user`), or with the capabilities SETUID and SETGID: {e}"))
        };
        process::drop_bounding_set().map_err(|e| fail(&e))?;
        rustix::thread::set_thread_groups(&[]).map_err(|e| fail(&e))?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|e| fail(&e))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|e| fail(&e))?;
    }
    process::drop_capabilities().map_err(|e| Failure::new("capabilities", e))
}

/// Whether the step's user gets to everything it needs. Without namespaces nobody opens the way for it.
fn reachable(spec: &Spec, scratch: &Path, owner: Option<(u32, u32)>) -> Result<(), Failure> {
    let read = spec.lowers.iter().chain(&spec.own_paths).chain(spec.mounts.iter().map(|m| &m.host)).map(path_of);
    let needed = read.map(|path| (path, Access::READ_OK)).chain([(scratch, Access::EXEC_OK)]);
    for (path, access) in needed {
        if let Err(e) = rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS) {
            let who = owner.map_or_else(String::new, |(uid, _)| format!(" the user of steps that root starts ({uid})"));
            let who = if who.is_empty() { " this user".to_owned() } else { who };
            return Err(Failure::new(
                "reach",
                format!(
                    "{} can't be reached by{who}: {e}; open the directories above it (`chmod o+x`), put the repository \
                     and the interpreter elsewhere, or start ft as an ordinary user who has them",
                    path.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Where files may be made, changed and removed.
fn writable(spec: &Spec, places: &Places) -> Vec<PathBuf> {
    let mounts = spec.mounts.iter().filter(|mount| mount.writable).map(|mount| path_of(&mount.host).to_owned());
    let own = ["work", "home", "out", "witness"].map(|name| Path::new(&places.root).join(name));
    let shared = SHARED.map(PathBuf::from);
    mounts.chain(own).chain([PathBuf::from(&places.temporary)]).chain(shared).collect()
}

/// What stays allowed. `proc` is how much of `/proc`.
fn rules(spec: &Spec, places: &Places, proc: Files) -> Result<Rules, CallError> {
    let mut rules =
        Rules::new(Wanted { files: true, connect_tcp: proc == Files::Read, abstract_sockets: true, signals: true })?;
    let root = Path::new(&places.root);
    for path in root::SYSTEM {
        rules.allow(Path::new(path), Files::Read)?;
    }
    for name in root::ETC.iter().chain(&ETC) {
        rules.allow(&Path::new("/etc").join(name), Files::Read)?;
    }
    for path in &spec.own_paths {
        rules.allow(path_of(path), Files::Read)?;
    }
    for mount in spec.mounts.iter().filter(|mount| !mount.writable) {
        rules.allow(path_of(&mount.host), Files::Read)?;
    }
    rules.allow(root, Files::Read)?;
    for path in writable(spec, places) {
        rules.allow(&path, Files::Write)?;
    }
    for name in DEVICES {
        rules.allow(&Path::new("/dev").join(name), Files::Device)?;
    }
    if terminals_are_strangers() {
        rules.allow(Path::new("/dev/pts"), Files::Device)?;
    }
    rules.allow(Path::new("/proc"), proc)?;
    Ok(rules)
}

/// How many threads this user has on the machine, as far as they are seen.
fn threads_of_this_user() -> u64 {
    let own = rustix::process::geteuid().as_raw().to_string();
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let statuses = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    statuses
        .filter_map(|status| {
            let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
            let mine = field("Uid:")?.split_ascii_whitespace().next() == Some(own.as_str());
            if mine { field("Threads:")?.parse::<u64>().ok() } else { None }
        })
        .sum()
}

/// Whether none of the terminals in `/dev/pts` is this user's: one that is could be typed into and read.
fn terminals_are_strangers() -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    fs::read_dir("/dev/pts").is_ok_and(|terminals| {
        terminals
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name() != "ptmx")
            .all(|entry| entry.metadata().is_ok_and(|meta| meta.uid() != own))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starter_is_gone_where_its_number_has_another_start_and_others_are_not_judged() {
        assert_eq!(is_gone(&name()), Some(false));
        let space = pid_namespace();
        assert_eq!(is_gone(&format!("{space}-{}-1", std::process::id())), Some(true));
        assert_eq!(is_gone(&format!("{space}-4294967295-1")), Some(true));
        for other in ["", "7-9", "1-2-3-4", "a-1-2", &format!("{}-4294967295-1", space + 1), &format!("{space}-x-1")] {
            assert_eq!(is_gone(other), None, "{other}");
        }
    }
}
