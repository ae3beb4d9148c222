//! The root that a step sees: a small tmpfs with what a Python check needs bound into it, and nothing else of the host.
//!
//! Runs in a fresh mount namespace with rights over it, before they are given up.

use super::tree::copy_tree;
use super::{Failure, witness};
use crate::etc;
use crate::frame::{Bytes, Frame, Payload, Spec};
use crate::linux::namespaces::set_mount_attributes;
use crate::linux::{CallError, Named};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the cell's directories stand, below the scratch directory. `overlay` and `root` are of no use afterwards.
const SCRATCH: [&str; 5] = ["changes", "home", "out", "overlay", "root"];

/// The file in which the step says which test runs.
const SLOTS: &str = "slots";

/// Those of them that the step writes to.
pub const WRITTEN_TO: [&str; 3] = ["changes", "home", "out"];

/// System directories, where the host has them. `/opt` and `/srv` are not among them: an interpreter there is named by
/// the spec. The stores are where NixOS and Guix keep what `/usr` holds elsewhere.
pub(super) const SYSTEM: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"];

/// What `/etc` has of the host's: the loader's cache (without it libraries in unusual places are not found), Debian's
/// alternatives (`/usr/bin/cc` points there), public certificates and the configuration of OpenSSL. Everything else is
/// absent, or written here. No `localtime` (a step's time zone is UTC unless `TZ` says otherwise), no `mime.types`.
pub(super) const ETC: [&str; 10] = [
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "ssl/certs",
    "ssl/openssl.cnf",
];

const DEVICES: [&str; 5] = ["full", "null", "random", "urandom", "zero"];

/// Of `/proc`: what is seen but not written, and what is hidden.
const PROC_READ_ONLY: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];
const PROC_HIDDEN: [&str; 7] =
    ["kcore", "keys", "key-users", "latency_stats", "sched_debug", "timer_list", "kpagecount"];

/// How much memory `/tmp` and `/dev/shm` may each take where the lock sets no limit: together less than the machine has.
const MEMORY_DISK: &str = "size=25%,nr_inodes=1m";

/// A tmpfs of this size. Each name takes memory of the kernel's that no size counts, so there are no more of them than
/// blocks.
fn sized(bytes: u64) -> String {
    format!("size={bytes},nr_inodes={}", (bytes / 4096).clamp(1024, 1 << 20))
}

/// What `/dev/shm` may take, and `/tmp` where the lock says nothing of disk: with a limit of memory, not more than half
/// of that, because where rlimits hold it nothing else counts what lies there.
fn in_memory(memory_bytes: u64) -> String {
    match memory_bytes {
        0 => MEMORY_DISK.to_owned(),
        bytes => sized(bytes / 2),
    }
}
const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// How the step's view of the tree came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tree {
    /// An empty directory.
    #[default]
    Empty,
    /// overlayfs over the given directories.
    Overlay,
    /// A copy, because the kernel did not take the overlay: why.
    Copy(i32),
}

/// Makes the cell's directories, owned by the step.
pub fn make_scratch(scratch: &Path, owner: Option<(u32, u32)>) -> Result<(), Failure> {
    for name in SCRATCH {
        let path = scratch.join(name);
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(|e| Failure::new("scratch", format!("make {}: {e}", path.display())))?,
        }
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid))
                .map_err(|e| Failure::new("scratch", format!("own {}: {e}", path.display())))?;
        }
    }
    make_slots(&scratch.join(SLOTS), owner).map_err(|e| Failure::new("scratch", format!("make {SLOTS}: {e}")))
}

pub(super) fn make_slots(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    fs::File::create(path)?.set_len(witness::SLOTS_SIZE)?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Removes what only the kernel used. overlayfs leaves a directory without any permission in its work directory, which
/// an ordinary user's recursive removal trips over.
pub fn clear_scratch(scratch: &Path) {
    let work = scratch.join("overlay/work");
    let _ = fs::set_permissions(&work, fs::Permissions::from_mode(0o700));
    let _ = fs::remove_dir_all(scratch.join("overlay"));
    let _ = fs::remove_dir(scratch.join("root"));
    let _ = fs::remove_file(scratch.join(SLOTS));
}

/// Builds the root and makes it ours; nothing of the old one can be reached afterwards.
pub fn build(spec: &Spec, scratch: &Path) -> Result<Tree, Failure> {
    let mut root = Root { at: scratch.join("root") };
    let tree = root.build(spec, scratch).map_err(|e| Failure::new("root", e))?;
    Ok(tree)
}

struct Root {
    at: PathBuf,
}

impl Root {
    fn build(&mut self, spec: &Spec, scratch: &Path) -> Result<Tree, CallError> {
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .named(|| "make all mounts private".to_owned())?;
        self.tmpfs("/", "mode=755,size=4m", MountFlags::NOSUID | MountFlags::NODEV)?;
        self.system()?;
        self.etc()?;
        self.devices(spec.memory_bytes)?;
        if !spec.terminal.is_empty() {
            // Whoever has a terminal may ask for it by this name (passwords, pagers); TIOCSTI is refused by the filter.
            self.bind(Path::new("/dev/tty"), "/dev/tty", NO_SUID | NO_EXEC)?;
        }
        self.proc(spec.relay)?;
        let size = match spec.disk_bytes {
            0 => format!("mode=1777,{}", in_memory(spec.memory_bytes)),
            bytes => format!("mode=1777,{}", sized(bytes)),
        };
        self.tmpfs("/tmp", &size, MountFlags::NOSUID | MountFlags::NODEV)?;
        for empty in ["/run", "/sys", "/var/cache", "/var/lib"] {
            self.directory(empty)?;
        }
        self.link("/tmp", "/var/tmp")?;
        self.link("/run", "/var/run")?;
        for path in &spec.own_paths {
            self.own_path(Path::new(OsStr::from_bytes(&path.0)))?;
        }
        self.bind(&scratch.join("home"), "/ft/home", NO_SUID | NO_DEV)?;
        self.bind(&scratch.join("out"), "/ft/out", NO_SUID | NO_DEV)?;
        self.bind(&scratch.join(SLOTS), witness::SLOTS, NO_SUID | NO_DEV | NO_EXEC)?;
        let tree = self.work(&spec.lowers, scratch)?;
        for mount in &spec.mounts {
            let attributes = NO_SUID | NO_DEV | if mount.writable { 0 } else { READ_ONLY };
            self.bind(Path::new(OsStr::from_bytes(&mount.host.0)), &mount.cell, attributes)?;
        }
        self.enter()?;
        Ok(tree)
    }

    /// The host path of a path of the cell. The cell's own words only: no `..` gets through.
    fn inside(&self, cell: &str) -> PathBuf {
        let mut path = self.at.clone();
        path.extend(Path::new(cell).components().filter_map(|c| match c {
            Component::Normal(name) => Some(name),
            _ => None,
        }));
        path
    }

    fn directory(&self, cell: &str) -> Result<PathBuf, CallError> {
        let path = self.inside(cell);
        fs::create_dir_all(&path).named(|| format!("make {cell} in the cell"))?;
        Ok(path)
    }

    fn link(&self, target: &str, cell: &str) -> Result<(), CallError> {
        let path = self.inside(cell);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).named(|| format!("make the parent of {cell} in the cell"))?;
        }
        symlink(target, &path).named(|| format!("link {cell} in the cell"))
    }

    fn write(&self, cell: &str, text: &str) -> Result<(), CallError> {
        fs::write(self.inside(cell), text).named(|| format!("write {cell} in the cell"))
    }

    fn tmpfs(&self, cell: &str, options: &str, flags: MountFlags) -> Result<(), CallError> {
        let path = self.directory(cell)?;
        mount("tmpfs", &path, "tmpfs", flags, options)
    }

    /// Shows `host` (with everything mounted below it) at `cell`, with these attributes.
    fn bind(&self, host: &Path, cell: &str, attributes: u64) -> Result<(), CallError> {
        let call = || format!("bind {} at {cell}", host.display());
        let target = self.inside(cell);
        let is_directory = fs::metadata(host).named(call)?.is_dir();
        if is_directory {
            self.directory(cell)?;
        } else if fs::symlink_metadata(&target).is_err() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).named(call)?;
            }
            fs::File::create(&target).named(call)?;
        }
        // Recursive always: the kernel refuses a plain bind of a tree whose mounts are locked in a user namespace.
        rustix::mount::mount_bind_recursive(host, &target).named(call)?;
        set_mount_attributes(&target.to_string_lossy(), attributes, true)
    }

    fn system(&self) -> Result<(), CallError> {
        for path in SYSTEM {
            let Ok(meta) = fs::symlink_metadata(path) else { continue };
            if meta.is_symlink() {
                let target = fs::read_link(path).named(|| format!("read link {path}"))?;
                self.link(&target.to_string_lossy(), path)?;
            } else {
                self.bind(Path::new(path), path, READ_ONLY | NO_SUID | NO_DEV)?;
            }
        }
        Ok(())
    }

    fn etc(&self) -> Result<(), CallError> {
        self.directory("/etc")?;
        for name in ETC {
            let host = PathBuf::from("/etc").join(name);
            if host.exists() {
                self.bind(&host, &format!("/etc/{name}"), READ_ONLY | NO_SUID | NO_DEV | NO_EXEC)?;
            }
        }
        for (name, text) in etc::WRITTEN {
            self.write(&format!("/etc/{name}"), text)?;
        }
        self.link("../usr/lib/os-release", "/etc/os-release")
    }

    fn devices(&self, memory_bytes: u64) -> Result<(), CallError> {
        let shared = in_memory(memory_bytes);
        self.directory("/dev")?;
        for name in DEVICES {
            // Not NODEV, which would make it a device that can't be opened.
            self.bind(&Path::new("/dev").join(name), &format!("/dev/{name}"), NO_SUID | NO_EXEC)?;
        }
        for (target, name) in [
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
            ("pts/ptmx", "ptmx"),
        ] {
            self.link(target, &format!("/dev/{name}"))?;
        }
        self.tmpfs("/dev/shm", &format!("mode=1777,{shared}"), MountFlags::NOSUID | MountFlags::NODEV)?;
        let pts = self.directory("/dev/pts")?;
        mount("devpts", &pts, "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    }

    fn proc(&self, relay: bool) -> Result<(), CallError> {
        let proc = self.directory("/proc")?;
        mount("proc", &proc, "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")?;
        if relay {
            // Of this network namespace alone: the agent, without rights by then, stands in for ports of the outside.
            fs::write(proc.join("sys/net/ipv4/ip_unprivileged_port_start"), "0")
                .named(|| "let every port of the cell be bound".to_owned())?;
        }
        for name in PROC_READ_ONLY {
            let path = proc.join(name);
            if path.exists() {
                self.bind(&path, &format!("/proc/{name}"), READ_ONLY | NO_SUID | NO_DEV | NO_EXEC)?;
            }
        }
        for name in PROC_HIDDEN {
            if proc.join(name).exists() {
                self.bind(Path::new("/dev/null"), &format!("/proc/{name}"), NO_SUID | NO_EXEC)?;
            }
        }
        Ok(())
    }

    /// A host directory at its own path, and where that leads through links, at its real one as well.
    fn own_path(&self, host: &Path) -> Result<(), CallError> {
        let real = fs::canonicalize(host).named(|| format!("find {}", host.display()))?;
        for path in [host, &real] {
            let seen = SYSTEM.iter().any(|system| path.starts_with(system));
            if seen || (path == real && host != real && self.inside(&path.to_string_lossy()).exists()) {
                continue;
            }
            self.bind(&real, &path.to_string_lossy(), READ_ONLY | NO_SUID | NO_DEV)?;
            if host == real {
                break;
            }
        }
        Ok(())
    }

    /// The step's own view of the tree.
    fn work(&self, lowers: &[Bytes], scratch: &Path) -> Result<Tree, CallError> {
        let changes = scratch.join("changes");
        if lowers.is_empty() {
            self.bind(&changes, "/ft/work", NO_SUID | NO_DEV)?;
            return Ok(Tree::Empty);
        }
        let work = self.directory("/ft/work")?;
        let layers: Vec<&Path> = lowers.iter().map(|l| Path::new(OsStr::from_bytes(&l.0))).collect();
        match self.overlay(&layers, scratch, &work) {
            Ok(()) => Ok(Tree::Overlay),
            Err(refused) => {
                let mut alive = SignsOfLife::default();
                for layer in layers.iter().rev() {
                    copy_tree(layer, &changes, &mut || alive.give()).named(|| format!("copy {}", layer.display()))?;
                }
                self.bind(&changes, "/ft/work", NO_SUID | NO_DEV)?;
                Ok(Tree::Copy(refused.source.raw_os_error().unwrap_or(0)))
            }
        }
    }

    /// overlayfs with `userxattr`, so that its marks are readable without rights over the host and a change directory
    /// can be a layer of a later step. The layers are named by descriptors: paths in mount options would need escaping,
    /// all of them have to fit into one page, and the step could read them in its `/proc/mounts`.
    fn overlay(&self, layers: &[&Path], scratch: &Path, work: &Path) -> Result<(), CallError> {
        let open = |path: &Path| {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .named(|| format!("open {}", path.display()))
        };
        let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let lowers = layers.iter().map(|layer| open(layer)).collect::<Result<Vec<_>, _>>()?;
        let (changes, overlay) = (open(&scratch.join("changes"))?, open(&scratch.join("overlay"))?);
        let lower: Vec<String> = lowers.iter().map(name).collect();
        let options =
            format!("lowerdir={},upperdir={},workdir={},userxattr", lower.join(":"), name(&changes), name(&overlay));
        mount("overlay", work, "overlay", MountFlags::NOSUID | MountFlags::NODEV, &options)
    }

    /// pivot_root(2) onto the new root, and away with the old one.
    fn enter(&self) -> Result<(), CallError> {
        std::env::set_current_dir(&self.at).named(|| "enter the new root".to_owned())?;
        // The documented trick with two dots stacks the old root on the new one: no directory is needed for it.
        rustix::process::pivot_root(".", ".").named(|| "pivot_root".to_owned())?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).named(|| "unmount the old root".to_owned())?;
        std::env::set_current_dir("/").named(|| "enter /".to_owned())?;
        set_mount_attributes("/", READ_ONLY | NO_SUID | NO_DEV, false)
    }
}

/// Tells the host, which waits for `hello`, that a long copy goes on: once a second.
#[derive(Default)]
pub(super) struct SignsOfLife {
    last: Option<Instant>,
}

impl SignsOfLife {
    pub(super) fn give(&mut self) {
        let now = Instant::now();
        if now.duration_since(*self.last.get_or_insert(now)) >= Duration::from_secs(1) {
            self.last = Some(now);
            // The stream is empty but for these few bytes: it does not block, and a host that is gone is seen later.
            let _ = rustix::io::write(io::stdout(), &Frame::Raising {}.encode());
        }
    }
}

fn mount(source: &str, target: &Path, kind: &str, flags: MountFlags, options: &str) -> Result<(), CallError> {
    let call = || format!("mount {kind} at {}", target.display());
    let options = CString::new(options).map_err(io::Error::from).named(call)?;
    rustix::mount::mount(source, target, kind, flags, options.as_c_str() as &CStr).named(call)
}
