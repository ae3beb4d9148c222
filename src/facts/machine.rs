//! What this machine is. For people to read: nothing is decided by a version.

use std::fs;
use std::path::Path;

/// The machine and the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// `linux`.
    pub os: String,
    /// Release of the kernel.
    pub kernel: String,
    /// `x86_64`.
    pub architecture: String,
    /// The user.
    pub uid: u32,
    /// Whether a container engine left its mark here.
    pub container: bool,
    /// Which control groups are mounted: `v1`, `v2`, or nothing.
    pub cgroups: String,
}

/// Reads it.
#[must_use]
pub fn read() -> Machine {
    let groups = Path::new("/sys/fs/cgroup");
    let cgroups = match (groups.join("cgroup.controllers").exists(), groups.join("memory").is_dir()) {
        (true, _) => "v2",
        (false, true) => "v1",
        (false, false) => "",
    };
    Machine {
        os: std::env::consts::OS.to_owned(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        uid: uid(),
        container: ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists()),
        cgroups: cgroups.to_owned(),
    }
}

#[cfg(target_os = "linux")]
fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(not(target_os = "linux"))]
fn uid() -> u32 {
    0
}
