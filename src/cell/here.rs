//! The cell where no namespaces can be had: inside a container with its engine's own filter, and on machines that forbid
//! user namespaces. The same agent takes every right from the step and decides about each of its sockets.
//!
//! Weaker than namespaces, and the report says so: paths differ, loopback and `/tmp` are the machine's, other processes
//! can be seen, one step at a time.

use super::namespaces::start;
use super::{Cell, CellError, Live, Probe, Walls};
use crate::lock::CellKind;

/// How the agent is asked to do without namespaces.
const HERE: &str = "--here";

/// Cells without namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Here {
    /// Hand the caller's own terminal in, for a manifest with `passthrough`.
    pub terminal: bool,
}

impl Here {
    /// What is asked for and can't be had in this kind of cell.
    fn unsupported(walls: &Walls) -> Option<CellError> {
        let place = |cell: &str| cell.strip_prefix("/ft/").is_some_and(|name| !name.contains('/'));
        let other = walls.mounts.iter().find(|mount| !place(&mount.cell))?;
        let what = format!("{} at {}", other.host.display(), other.cell);
        Some(CellError::Unsupported { kind: "here", what })
    }
}

impl Cell for Here {
    fn kind(&self) -> CellKind {
        CellKind::Here
    }

    async fn launch(&self, walls: &Walls) -> Result<Live, CellError> {
        match Self::unsupported(walls) {
            Some(error) => Err(error),
            None => start::launch(walls, self.terminal, HERE).await,
        }
    }
}

/// Tries one with nothing in it.
#[must_use]
pub fn probe() -> Probe {
    start::probe(HERE)
}

/// Ends what killed runs of this user left: processes with the marker of a starter that is gone, and the directories of
/// such starters. Returns how many of both.
#[cfg(target_os = "linux")]
pub(super) fn sweep() -> usize {
    use crate::agent::{MARKER, TEMPORARY, is_gone};
    let wanted = format!("{MARKER}=");
    let marked = |pid: &str| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut words = environ.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
        is_gone(words.find_map(|word| word.strip_prefix(&wanted))?)
    };
    let names = |place: &str| {
        let entries = std::fs::read_dir(place).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let mut swept = 0;
    for pid in names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        if marked(&pid) == Some(true)
            && let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw)
        {
            swept += usize::from(rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
        }
    }
    for place in ["/tmp", "/var/tmp"] {
        for name in names(place) {
            if name.strip_prefix(TEMPORARY).and_then(is_gone) == Some(true) {
                swept += usize::from(super::remove_scratch(&std::path::Path::new(place).join(name)).is_ok());
            }
        }
    }
    swept
}
