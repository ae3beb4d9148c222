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
        container: ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
            || (in_a_namespace() && root_of_layers(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())),
        cgroups: cgroups.to_owned(),
    }
}

/// Whether process numbers are not the machine's: its own space of them has this number on every kernel.
fn in_a_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link != Path::new("pid:[4026531836]"))
}

/// Whether `/` is made of layers, as that of containers is where the engine leaves no file (containerd below Kubernetes),
/// and that of some machines: proc_pid_mountinfo(5), the mount that came last counts.
fn root_of_layers(mounts: &str) -> bool {
    let mut root =
        mounts.lines().filter_map(|line| line.split_once(" - ")).filter(|(of, _)| of.split(' ').nth(4) == Some("/"));
    let kind = root.next_back().and_then(|(_, kind)| kind.split(' ').next());
    matches!(kind, Some("overlay" | "fuse.fuse-overlayfs" | "aufs"))
}

#[cfg(target_os = "linux")]
fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(not(target_os = "linux"))]
fn uid() -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_of_layers_is_told_from_a_disk() {
        let layers = "611 521 0:43 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l:/m,upperdir=/u";
        let disk = "26 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw";
        let below = "90 26 0:50 / /var/lib/merged rw - overlay overlay rw";
        assert!(root_of_layers(layers) && root_of_layers(&format!("{disk}\n{layers}\n{below}")));
        assert!(!root_of_layers(disk) && !root_of_layers(&format!("{disk}\n{below}")) && !root_of_layers("x - y"));
    }
}
