//! A cell whose walls an engine raised: a container with this program as PID 1, started as root with the few capabilities
//! that it needs to become the step's user, which it gives away before it serves.
//!
//! The root is read-only, and below it only `/ft`, `/tmp` and `/dev/shm` can be written to. Nothing of the host is mounted:
//! what a step sees below `/ft` comes as tars, over the stream or in a volume. What the step may only read is unpacked
//! while this is root and stays root's; the tree is the step's own.

use super::goods::{Feed, Unpacker};
use super::observe::{Engine, Facts};
use super::root::{self, SignsOfLife};
use super::tree::Before;
use super::walls::{Behind, read_frame};
use super::witness::{SLOTS, Stub};
use super::{Failure, refuse, serve};
use crate::code::ExitCode;
use crate::frame::{Goods, Inside, ToHelper, UNENFORCEABLE, UNSEALED};
use crate::linux::cgroup::Groups;
use crate::linux::{ids, process, route, seccomp};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The step's own directories beside its tree.
const OWN: [&str; 3] = ["/ft/work", "/ft/home", "/ft/out"];

/// Where everything of ours stands.
const PLACES: &str = "/ft";

/// Where everybody may write. One of them may lead to the other.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Reads what is to be made of the container, makes it, and serves to the end, for so many seconds at most: a host that
/// vanished behind a connection that nobody closed would else keep the container for ever.
pub fn enter(seconds: Option<u32>) -> ExitCode {
    if std::process::id() != 1 {
        // Before anything is waited for, or unpacked over somebody's files.
        return refuse(Failure::new("pid", "the agent is not the first process here"));
    }
    let Some(seconds) = seconds.filter(|seconds| *seconds > 0) else {
        return refuse(Failure::new("deadline", "nobody said how long this may take"));
    };
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    // As long as this only reads and unpacks. Afterwards the channel looks at the clock, and a step that sends the same
    // signal interrupts nothing.
    process::end_after(seconds);
    let inside = match read_frame() {
        Ok(ToHelper::Enter { inside }) => inside,
        Ok(_) => return refuse(Failure::new("spec", "no description of the inside")),
        Err(failure) => return refuse(failure),
    };
    let built = build(&inside);
    process::end_no_more();
    match built {
        Ok(behind) => serve(Behind { deadline: Some(deadline), ..behind }),
        Err(failure) => refuse(failure),
    }
}

fn build(inside: &Inside) -> Result<Behind, Failure> {
    let fail = |stage: &'static str| move |e: crate::linux::CallError| Failure::new(stage, e);
    are_places()?;
    for (path, text) in &inside.seals {
        if fs::read_to_string(path).is_ok_and(|found| found == *text) {
            continue;
        }
        return Err(Failure::new(UNSEALED, format!("{path} does not say {text}: what it stands in was not finished")));
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let groups = Groups::of_container();
    if inside.relay {
        route::everywhere_is_here().map_err(fail("network namespace"))?;
    }
    let stub = Stub::open().map_err(|e| Failure::new("name server", e))?;
    make_places().map_err(|e| Failure::new("places", e))?;
    std::env::set_current_dir(PLACES).map_err(|e| Failure::new("places", e))?;
    let mut alive = SignsOfLife::default();
    let (ours, owned): (Vec<&Goods>, Vec<&Goods>) = inside.goods.iter().partition(|goods| !goods.owned);
    unpack(&ours, &mut alive)?;
    become_the_step()?;
    unpack(&owned, &mut alive)?;
    let changes = inside.changes.then(|| Before::record(near(Path::new("/ft/work"))));
    std::env::set_current_dir("/").map_err(|e| Failure::new("places", e))?;
    seccomp::install().map_err(fail("seccomp"))?;
    Ok(Behind {
        facts: Facts {
            engine: Some(Engine::look()),
            memory_bytes: inside.memory_bytes,
            pids_max: inside.pids,
            disk_bytes: inside.disk_bytes,
            cpus: inside.cpus,
            ..Facts::default()
        },
        groups,
        stub: Some(stub),
        routed: inside.relay,
        changes,
        ..Behind::default()
    })
}

/// What the engine mounted there is there and nowhere else: an image whose `/ft` leads somewhere else would have every
/// path of a step mean two things.
fn are_places() -> Result<(), Failure> {
    let temporary = TEMPORARY.map(PathBuf::from);
    let one = |path: &Path, allowed: &[PathBuf]| {
        let found = fs::canonicalize(path).map_err(|e| Failure::new("places", format!("{}: {e}", path.display())))?;
        if allowed.contains(&found) {
            return Ok(());
        }
        let said = format!(
            "{} leads to {} in this image, and cells have their own places there",
            path.display(),
            found.display()
        );
        Err(Failure::new(UNENFORCEABLE, said))
    };
    one(Path::new("/ft"), &[PathBuf::from("/ft")])?;
    temporary.iter().try_for_each(|path| one(path, &temporary))
}

/// The same place from [`PLACES`], where we stand while we unpack: an image's root may be a file system in user space
/// (fuse-overlayfs), which is asked about each path through it, ten times as long as the file then takes.
fn near(path: &Path) -> &Path {
    path.strip_prefix(PLACES).ok().filter(|near| !near.as_os_str().is_empty()).unwrap_or(path)
}

fn make_places() -> std::io::Result<()> {
    for path in TEMPORARY {
        // Some engines give a directory in memory the mode that the image's own directory has.
        fs::set_permissions(path, fs::Permissions::from_mode(0o1777))?;
    }
    let owner = Some((ids::INNER, ids::INNER));
    for path in OWN {
        fs::create_dir_all(path)?;
        std::os::unix::fs::lchown(path, Some(ids::INNER), Some(ids::INNER))?;
    }
    root::make_slots(Path::new(SLOTS), owner)
}

/// Unpacks tars in their order; several may lie over each other at one place.
fn unpack(all: &[&Goods], alive: &mut SignsOfLife) -> Result<(), Failure> {
    let fail = |to: &str, e: std::io::Error| Failure::new("goods", format!("unpack {to}: {e}"));
    let mut at = all;
    while let Some(first) = at.first() {
        let layers = at.iter().take_while(|goods| goods.to == first.to).count();
        let mut unpacker = Unpacker::new(near(Path::new(&first.to)), first.owned).map_err(|e| fail(&first.to, e))?;
        for goods in &at[..layers] {
            let done = if goods.from.is_empty() {
                let mut feed = Feed::default();
                unpacker.lay(&mut feed, &mut || alive.give()).and_then(|()| feed.finish())
            } else {
                fs::File::open(&goods.from).and_then(|file| {
                    unpacker.lay(&mut std::io::BufReader::with_capacity(1 << 18, file), &mut || alive.give())
                })
            };
            done.map_err(|e| fail(&goods.to, e))?;
        }
        unpacker.finish().map_err(|e| fail(&first.to, e))?;
        at = &at[layers..];
    }
    Ok(())
}

/// Gives every right away, as the walls of a namespaces cell do.
fn become_the_step() -> Result<(), Failure> {
    let fail = |stage: &'static str| move |e: crate::linux::CallError| Failure::new(stage, e);
    process::drop_bounding_set().map_err(fail("capabilities"))?;
    rustix::thread::set_thread_groups(&[]).map_err(|e| Failure::new("groups", e))?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(ids::INNER), rustix::fs::Gid::from_raw(ids::INNER));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|e| Failure::new("ids", e))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|e| Failure::new("ids", e))?;
    process::drop_capabilities().map_err(fail("capabilities"))?;
    // After the ids: a change of ids makes a process dumpable or not by rules of its own.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::new("dumpable", e))
}
