//! The cell of venv mode: our own helper raises user, mount, pid, net, ipc and uts namespaces and becomes PID 1 in them.
//!
//! This side only describes the walls in wire form and starts the helper, a static program that travels inside this one.

use super::{Cell, CellError, Handle, Live, Walls};
use crate::frame::Observed;
use crate::lock::CellKind;

/// How the agent is asked to raise namespaces.
const RAISE: &str = "--walls";

/// Cells made of namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Hand the caller's own terminal in, for a manifest with `passthrough`.
    pub terminal: bool,
}

/// Whether this machine lets this user raise such cells: found by raising one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Why not; `None` where it works.
    pub unavailable: Option<Unavailable>,
    /// The walls as seen from inside the trial cell.
    pub observed: Vec<Observed>,
}

/// Why namespaces cells can't be raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Not Linux.
    #[error("cells need Linux")]
    NotLinux,
    /// Ubuntu 23.10 and later: AppArmor gives unprivileged user namespaces no rights.
    #[error("AppArmor restricts unprivileged user namespaces ({0})")]
    AppArmor(String),
    /// A sysctl forbids user namespaces.
    #[error("this system forbids user namespaces: {sysctl} is 0 ({message})")]
    Sysctl {
        /// Which one.
        sysctl: &'static str,
        /// What the kernel said.
        message: String,
    },
    /// Inside a container whose engine forbids new namespaces.
    #[error("this container may not make namespaces ({0})")]
    Container(String),
    /// The kernel lacks a call.
    #[error("this kernel is too old, Linux 5.12 is needed ({0})")]
    Kernel(String),
    /// No Landlock, without which a cell that has no namespaces has no wall around files.
    #[error("{0}")]
    Landlock(String),
    /// Root that may not become the user of its steps, or whose files that user does not get to.
    #[error("{0}")]
    Root(String),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

impl Unavailable {
    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self {
            Unavailable::NotLinux => "run it on Linux",
            Unavailable::AppArmor(_) => {
                "allow it for this program with an AppArmor profile that has `userns,`, or for all with \
                 `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
            }
            Unavailable::Sysctl { sysctl: "kernel.unprivileged_userns_clone", .. } => {
                "`sudo sysctl kernel.unprivileged_userns_clone=1`"
            }
            Unavailable::Sysctl { .. } => "`sudo sysctl user.max_user_namespaces=16384`",
            Unavailable::Container(_) => {
                "run on the host, or start the container with `--security-opt seccomp=unconfined --security-opt \
                 systempaths=unconfined` and, where AppArmor is on, `--security-opt apparmor=unconfined`"
            }
            Unavailable::Kernel(_) => "use a newer kernel",
            Unavailable::Landlock(_) => "start the kernel with `lsm=landlock,...`, or use a newer one",
            Unavailable::Root(_) => "start it as an ordinary user who has these files (`docker run --user 1000`)",
            Unavailable::Other(_) => "the message names what the kernel refused; allow it, or run on another machine",
        }
    }
}

impl Cell for Namespaces {
    fn kind(&self) -> CellKind {
        CellKind::Namespaces
    }

    async fn launch(&self, walls: &Walls) -> Result<Live, CellError> {
        start::launch(walls, self.terminal, RAISE).await
    }
}

/// Tries to raise a cell with nothing in it.
#[must_use]
pub fn probe() -> Probe {
    start::probe(RAISE)
}

/// Tries every wall and limit by itself, as this user, and says what was seen. For people: a cell is [`probe`]d whole.
///
/// # Errors
/// Where the agent, which does it, can't be started or does not answer.
pub fn trials() -> std::io::Result<Vec<Observed>> {
    start::trials()
}

#[cfg(not(target_os = "linux"))]
pub(super) mod start {
    use super::{CellError, Handle, Live, Observed, Probe, Unavailable, Walls};

    pub(super) fn trials() -> std::io::Result<Vec<Observed>> {
        Ok(Vec::new())
    }

    pub(in crate::cell) async fn launch(_: &Walls, _: bool, _: &str) -> Result<Live, CellError> {
        let _: Option<Box<dyn Handle>> = None;
        Err(CellError::Unsupported { kind: "namespaces", what: "Linux".to_owned() })
    }

    pub(in crate::cell) fn probe(_: &str) -> Probe {
        Probe { unavailable: Some(Unavailable::NotLinux), observed: Vec::new() }
    }
}

#[cfg(target_os = "linux")]
pub(super) mod start {
    use super::{CellError, Handle, Live, Observed, Probe, Unavailable, Walls};
    use crate::cell::{Conversation, Work, agents};
    use crate::frame::{BoundPath, Bytes, Decoder, Frame, Payload, Spec, ToAgent, ToHelper};
    use crate::leftovers;
    use crate::step::Network;
    use rustix::fs::{MemfdFlags, SealFlags};
    use std::fs::{self, File};
    use std::future::Future;
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::{Path, PathBuf};
    use std::pin::Pin;
    use std::process::Stdio;
    use std::sync::OnceLock;
    use tokio::io::AsyncWriteExt;

    /// The agent in memory, executable by descriptor, the same for every cell of this process. `None` where this system
    /// does not execute memory files.
    fn in_memory() -> Option<&'static File> {
        static MEMORY: OnceLock<Option<File>> = OnceLock::new();
        MEMORY.get_or_init(|| agents::own().and_then(|agent| memory_file(agent).ok())).as_ref()
    }

    fn memory_file(agent: &[u8]) -> io::Result<File> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // MFD_EXEC is unknown before Linux 6.3, where every memory file may be executed.
        let fd = rustix::fs::memfd_create("ft-agent", flags | MemfdFlags::EXEC)
            .or_else(|_| rustix::fs::memfd_create("ft-agent", flags))?;
        let mut file = File::from(fd);
        file.write_all(agent)?;
        // Sealed: a step that got hold of the running program could not change the next one's.
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(file)
    }

    /// Calls `start` with the path of an executable agent.
    fn with_agent<T>(scratch: &Path, start: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
        let Some(agent) = agents::own() else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this build has no agent for this machine"));
        };
        if let Some(file) = in_memory() {
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            match start(&path) {
                Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => {}
                other => return other,
            }
        }
        let path = scratch.join("ft-agent");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o700).open(&path)?;
        file.write_all(agent)?;
        drop(file);
        start(&path)
    }

    pub(in crate::cell) async fn launch(walls: &Walls, terminal: bool, mode: &str) -> Result<Live, CellError> {
        let what = |what: &str| {
            let what = what.to_owned();
            move |source: io::Error| CellError::Launch { what, source }
        };
        // Held until the agent has been started: it inherits them by number. Whatever else this process starts at the
        // same moment inherits them too, and has the same terminal anyway.
        let handed = if terminal { hand_over().map_err(what("hand the terminal over"))? } else { Vec::new() };
        let spec = spec(walls, handed.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect());
        let mut child = with_agent(&walls.scratch, |path| {
            tokio::process::Command::new(path)
                .arg0("ft-agent")
                .arg(mode)
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                // A signal to the caller's group (Ctrl-C) is the runner's to deal with, not the starter's. On a
                // terminal that is handed in, the group must stay the one in the foreground.
                .process_group(if terminal { rustix::process::getpgrp().as_raw_nonzero().get() } else { 0 })
                .kill_on_drop(true)
                .spawn()
        })
        .map_err(what("start the agent"))?;
        let (Some(mut to), Some(from), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(what("take the agent's pipes")(io::ErrorKind::BrokenPipe.into()));
        };
        drop(handed);
        let raise = ToHelper::Raise { spec }.try_encode()?;
        // A helper that died says why on its other streams; this is not the place to find out.
        let _ = to.write_all(&raise).await;
        Ok(Live {
            to: Box::new(to),
            from: Box::new(from),
            errors: Some(Box::new(errors)),
            handle: Box::new(Helper(child)),
        })
    }

    /// Copies of our standard descriptors that a child inherits.
    fn hand_over() -> io::Result<Vec<OwnedFd>> {
        let copy = |fd: BorrowedFd<'_>| rustix::io::dup(fd).map_err(io::Error::from);
        Ok(vec![copy(io::stdin().as_fd())?, copy(io::stdout().as_fd())?, copy(io::stderr().as_fd())?])
    }

    fn spec(walls: &Walls, terminal: Vec<u32>) -> Spec {
        let bytes = |path: &Path| Bytes(path.as_os_str().as_bytes().to_vec());
        let limits = &walls.limits;
        Spec {
            scratch: bytes(&walls.scratch),
            lowers: match &walls.work {
                Work::Empty => Vec::new(),
                Work::View(layers) => layers.iter().map(|layer| bytes(layer)).collect(),
            },
            mounts: walls
                .mounts
                .iter()
                .map(|m| BoundPath { host: bytes(&m.host), cell: m.cell.clone(), writable: m.writable })
                .collect(),
            own_paths: walls.interpreter.iter().map(|path| bytes(path)).collect(),
            memory_bytes: limits.memory_bytes.unwrap_or(0),
            pids: limits.pids.unwrap_or(0),
            disk_bytes: limits.disk_bytes.unwrap_or(0),
            cpus: limits.cpus.unwrap_or(0),
            terminal,
            relay: walls.network != Network::Loopback,
            probe: false,
        }
    }

    /// The starter, outside of the walls. When it dies, PID 1 does; when PID 1 dies, everything in the cell does.
    struct Helper(tokio::process::Child);

    impl Handle for Helper {
        fn kill(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async {
                let _ = self.0.start_kill();
            })
        }

        fn wait(&mut self) -> Pin<Box<dyn Future<Output = io::Result<String>> + Send + '_>> {
            Box::pin(async { Ok(self.0.wait().await?.to_string()) })
        }
    }

    pub(in crate::cell) fn probe(mode: &str) -> Probe {
        match try_one(mode) {
            Ok(probe) => probe,
            Err(e) => Probe { unavailable: Some(Unavailable::Other(e.to_string())), observed: Vec::new() },
        }
    }

    fn try_one(mode: &str) -> Result<Probe, Box<dyn std::error::Error>> {
        use std::os::unix::fs::PermissionsExt;
        let place = std::env::temp_dir();
        leftovers::sweep(&place);
        let scratch = leftovers::folder_in(&place)?;
        // A step that root starts has another user, and no way into a directory that is root's alone.
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711))?;
        let spec = Spec {
            scratch: Bytes(scratch.path().as_os_str().as_bytes().to_vec()),
            probe: true,
            // So that the trial says what a limit would be enforced by.
            memory_bytes: 1 << 30,
            pids: 64,
            disk_bytes: 1 << 20,
            ..Spec::default()
        };
        let mut child = with_agent(scratch.path(), |path| {
            std::process::Command::new(path)
                .arg(mode)
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        })?;
        let (Some(mut to), Some(mut from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the agent has no pipes".into());
        };
        to.write_all(&ToHelper::Raise { spec }.encode())?;
        let heard = listen(&mut from, &mut to);
        drop(to);
        let status = child.wait()?;
        heard.map_err(|e| format!("{e}; {status}").into())
    }

    pub(super) fn trials() -> io::Result<Vec<Observed>> {
        let scratch = tempfile::tempdir()?;
        let output = with_agent(scratch.path(), |path| {
            std::process::Command::new(path)
                .arg("--try")
                .arg(scratch.path())
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .output()
        })?;
        let mut decoder = Decoder::default();
        decoder.push(&output.stdout);
        match decoder.next::<Frame>() {
            Ok(Some((Frame::Ready { observed }, _))) => Ok(observed),
            _ => Err(io::Error::other(format!(
                "the agent tried nothing ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ))),
        }
    }

    fn listen(from: &mut impl Read, to: &mut impl Write) -> Result<Probe, Box<dyn std::error::Error>> {
        let (mut decoder, mut conversation) = (Decoder::default(), Conversation::default());
        let mut bytes = [0; 8192];
        let mut probe = Probe { unavailable: None, observed: Vec::new() };
        loop {
            while let Some((frame, raw)) = decoder.next::<Frame>()? {
                // A trial cell ends after `ready`, which no conversation about a command does.
                if let Frame::End { .. } = frame {
                    to.write_all(&ToAgent::Bye {}.encode())?;
                    return Ok(probe);
                }
                conversation.accept(&frame, raw)?;
                match frame {
                    Frame::Ready { observed } => probe.observed = observed,
                    Frame::Broken { stage, message } => {
                        probe.unavailable = Some(explain(&format!("{stage}: {message}"), &sysctl));
                    }
                    _ => {}
                }
            }
            match from.read(&mut bytes)? {
                0 => return Err("the agent's stream was cut".into()),
                n => decoder.push(&bytes[..n]),
            }
        }
    }

    fn sysctl(name: &str) -> Option<String> {
        fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/"))).ok().map(|text| text.trim().to_owned())
    }

    /// What a failure means on this system. The trial decided that it fails; this only looks for the reason.
    fn explain(message: &str, sysctl: &dyn Fn(&str) -> Option<String>) -> Unavailable {
        let message = message.to_owned();
        if message.starts_with("Landlock") {
            return Unavailable::Landlock(message);
        }
        if message.starts_with("ids") || message.starts_with("reach") {
            return Unavailable::Root(message);
        }
        let is = |name: &str, value: &str| sysctl(name).as_deref() == Some(value);
        if message.contains("mount_setattr") && message.contains("os error 38") {
            return Unavailable::Kernel(message);
        }
        if is("kernel.unprivileged_userns_clone", "0") {
            return Unavailable::Sysctl { sysctl: "kernel.unprivileged_userns_clone", message };
        }
        if is("user.max_user_namespaces", "0") {
            return Unavailable::Sysctl { sysctl: "user.max_user_namespaces", message };
        }
        if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
            return Unavailable::AppArmor(message);
        }
        let contained = ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists());
        if contained { Unavailable::Container(message) } else { Unavailable::Other(message) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_failed_trial_is_explained_by_what_this_system_says_of_itself() {
            let ubuntu = |name: &str| (name == "kernel.apparmor_restrict_unprivileged_userns").then(|| "1".to_owned());
            assert!(matches!(explain("user namespace: EPERM", &ubuntu), Unavailable::AppArmor(_)));
            let debian = |name: &str| (name == "kernel.unprivileged_userns_clone").then(|| "0".to_owned());
            let found = explain("user namespace: EPERM", &debian);
            assert!(found.fix().contains("unprivileged_userns_clone=1"));
            let old = explain("root: mount_setattr /: Function not implemented (os error 38)", &|_| None);
            assert!(matches!(old, Unavailable::Kernel(_)));
        }

        #[test]
        fn a_cell_can_be_raised_here_and_its_walls_hold() {
            let probe = probe(super::super::RAISE);
            assert_eq!(probe.unavailable, None);
            for wall in ["network", "pid", "user", "capabilities", "no_new_privs", "seccomp", "mounts", "witness"] {
                assert!(probe.observed.iter().any(|o| o.wall == wall && o.enforced), "{wall}: {:?}", probe.observed);
            }
        }
    }
}
