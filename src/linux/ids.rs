//! Who the step is, inside and outside.

use std::fs;

/// User and group of every step, as it sees them itself. Its name is `ft`.
pub const INNER: u32 = 1000;

/// The kernel's uid and gid of a step that root starts. Distributions assign it to nobody, container images know it as
/// `nonroot`; it is below systemd's reserved 65534 and above its dynamic users. Fixed, so that what a killed run left
/// behind is recognised.
pub const UNPRIVILEGED: u32 = 65532;

/// The kernel's uid and gid of a step, where it is not the caller's own: `Some` when we are really root.
///
/// Root inside somebody's user namespace (a rootless container) is that somebody to the kernel, and usually may not map
/// [`UNPRIVILEGED`]; there the step runs as the caller, as it does for an ordinary user.
#[must_use]
pub fn step_owner() -> Option<(u32, u32)> {
    let mapped = |file: &str| fs::read_to_string(file).is_ok_and(|map| maps(&map, UNPRIVILEGED));
    (rustix::process::geteuid().is_root() && mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map"))
        .then_some((UNPRIVILEGED, UNPRIVILEGED))
}

/// Whether the text of a `uid_map` (user_namespaces(7)) has `id` among the inner ids.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => {
                (first..first.saturating_add(count)).contains(&id.into())
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initial_namespace_maps_every_id_and_a_rootless_container_only_its_own() {
        assert!(maps("         0          0 4294967295\n", UNPRIVILEGED));
        assert!(!maps("         0       1000          1\n", UNPRIVILEGED));
        assert!(maps("0 1000 1\n1 100000 65536\n", UNPRIVILEGED));
        assert!(!maps("nonsense", UNPRIVILEGED));
    }
}
