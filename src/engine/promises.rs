//! What an engine can keep of what a cell promises: judged from its facts, before anything is created. Pure.
//!
//! What is held here is seen again from inside, by the agent. What is not held is PARITY-052 or degraded by name: that
//! is for the plan to say.

use super::facts::EngineFacts;
use crate::step::Limits;
use serde::{Deserialize, Serialize};

/// One promise, by the name that the agent's observations use as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// `memory`, `pids`, `cpus`, `disk`, `mounts`, `no_new_privs`, `capabilities`, `seccomp`, `network`.
    pub wall: String,
    /// Whether the engine can keep it.
    pub held: bool,
    /// By what, or why not.
    pub why: String,
}

/// What the engine can keep: its walls, and of the limits those that are asked for.
#[must_use]
pub fn promises(facts: &EngineFacts, limits: &Limits) -> Vec<Promise> {
    let name = facts.name();
    let promise = |wall: &str, judged: Result<String, String>| {
        let held = judged.is_ok();
        Promise { wall: wall.to_owned(), held, why: judged.unwrap_or_else(|why| format!("{name}: {why}")) }
    };
    let linux = || match facts.os.as_str() {
        "linux" => Ok(()),
        other => Err(format!("its containers are for {other:?}, not for linux")),
    };
    let always = |by: &str| linux().map(|()| by.to_owned());
    let mut found = vec![
        promise("mounts", always("a read-only root file system")),
        promise("no_new_privs", always("the option no-new-privileges")),
        promise("capabilities", always("all capabilities dropped")),
        promise("network", always("network none")),
        promise("seccomp", linux().and_then(|()| seccomp(facts))),
    ];
    if limits.memory_bytes.is_some() {
        found.push(promise("memory", linux().and_then(|()| memory(facts))));
    }
    if limits.pids.is_some() {
        found.push(promise("pids", linux().and_then(|()| pids(facts))));
    }
    if limits.cpus.is_some() {
        found.push(promise("cpus", linux().and_then(|()| cpus(facts))));
    }
    if limits.disk_bytes.is_some() {
        found.push(promise("disk", Err("it bounds `/tmp`, and not what a step writes to its tree".to_owned())));
    }
    found
}

fn seccomp(facts: &EngineFacts) -> Result<String, String> {
    match facts.seccomp.as_deref() {
        Some("unconfined") => Err("it filters no system calls (its default profile is \"unconfined\")".to_owned()),
        Some(profile) => Ok(format!("the engine's profile {profile:?}")),
        None => Err("it filters no system calls (its security options have no seccomp)".to_owned()),
    }
}

/// Why nothing at all can be limited, where that is so: an engine without root can use only what the host delegates to
/// it, and the first version of control groups delegates nothing. It then says of each limit what the kernel could do.
fn unlimited(facts: &EngineFacts) -> Option<String> {
    if facts.cgroup_driver == "none" {
        return Some("it has no control groups (cgroup driver \"none\")".to_owned());
    }
    (facts.rootless && facts.cgroup_version == "1")
        .then(|| "it runs without root, and control groups of version 1 can't be delegated to it".to_owned())
}

fn limit(facts: &EngineFacts, able: bool, field: &str) -> Result<String, String> {
    match unlimited(facts) {
        Some(why) => Err(why),
        None if able => Ok(match facts.cgroup_version.as_str() {
            "" => "control groups".to_owned(),
            version => format!("control groups of version {version}"),
        }),
        None => Err(format!("its kernel or its control groups have no such limit ({field} is false)")),
    }
}

fn memory(facts: &EngineFacts) -> Result<String, String> {
    let held = limit(facts, facts.memory_limit, "MemoryLimit")?;
    // Not a promise broken: the limit of memory holds, and what is swapped out is slow before it is much.
    Ok(if facts.swap_limit { held } else { format!("{held}; swap is not counted (SwapLimit is false)") })
}

fn pids(facts: &EngineFacts) -> Result<String, String> {
    match facts.pids_limit {
        Some(able) => limit(facts, able, "PidsLimit"),
        None => Err(unlimited(facts).unwrap_or_else(|| "it does not say whether it can (before API 1.40)".to_owned())),
    }
}

fn cpus(facts: &EngineFacts) -> Result<String, String> {
    limit(facts, facts.cpu_quota, "CpuCfsQuota")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Api, Kind};

    /// An engine that can do everything.
    fn able() -> EngineFacts {
        EngineFacts {
            endpoint: "unix:///var/run/docker.sock".into(),
            from: "default socket".into(),
            kind: Kind::Docker,
            version: "29.1.0".into(),
            api: Api(1, 52),
            asked: Api(1, 47),
            os: "linux".into(),
            arch: "amd64".into(),
            id: "one".into(),
            storage: "overlayfs".into(),
            containerd_store: true,
            cgroup_version: "2".into(),
            cgroup_driver: "systemd".into(),
            rootless: false,
            userns: false,
            seccomp: Some("builtin".into()),
            apparmor: true,
            selinux: false,
            memory_limit: true,
            swap_limit: true,
            cpu_quota: true,
            pids_limit: Some(true),
            cpus: 2,
            memory_bytes: 1 << 30,
            ahead_secs: 0,
        }
    }

    fn all() -> Limits {
        Limits { memory_bytes: Some(1), pids: Some(1), cpus: Some(1), ..Limits::default() }
    }

    /// The walls that are not held, and why.
    fn broken(facts: &EngineFacts, limits: &Limits) -> Vec<(String, String)> {
        promises(facts, limits).into_iter().filter(|it| !it.held).map(|it| (it.wall, it.why)).collect()
    }

    #[test]
    fn an_engine_that_can_do_everything_breaks_no_promise() {
        assert_eq!(broken(&able(), &all()), []);
        assert_eq!(promises(&able(), &all()).len(), 8);
        assert_eq!(promises(&able(), &Limits::default()).len(), 5, "a limit that nobody asked for is no promise");
    }

    #[test]
    fn each_thing_that_an_engine_lacks_breaks_the_promise_that_needs_it_and_says_why() {
        type Change = fn(&mut EngineFacts);
        let cases: [(&str, Change, &[&str], &str); 9] = [
            (
                "rootless with the first control groups",
                |f| {
                    f.rootless = true;
                    f.cgroup_version = "1".into();
                },
                &["memory", "pids", "cpus"],
                "can't be delegated",
            ),
            (
                "no control groups",
                |f| f.cgroup_driver = "none".into(),
                &["memory", "pids", "cpus"],
                "no control groups",
            ),
            ("no memory controller", |f| f.memory_limit = false, &["memory"], "MemoryLimit is false"),
            ("no pids controller", |f| f.pids_limit = Some(false), &["pids"], "PidsLimit is false"),
            ("an old engine that does not say", |f| f.pids_limit = None, &["pids"], "does not say"),
            ("no cpu quota", |f| f.cpu_quota = false, &["cpus"], "CpuCfsQuota is false"),
            ("seccomp off", |f| f.seccomp = None, &["seccomp"], "no seccomp"),
            ("seccomp unconfined", |f| f.seccomp = Some("unconfined".into()), &["seccomp"], "unconfined"),
            (
                "containers of Windows",
                |f| f.os = "windows".into(),
                &["mounts", "no_new_privs", "capabilities", "network", "seccomp", "memory", "pids", "cpus"],
                "\"windows\"",
            ),
        ];
        for (case, change, walls, why) in cases {
            let mut facts = able();
            change(&mut facts);
            let broken = broken(&facts, &all());
            assert_eq!(broken.iter().map(|(wall, _)| wall.as_str()).collect::<Vec<_>>(), walls, "{case}");
            assert!(
                broken.iter().all(|(_, text)| text.contains(why) && text.contains("API 1.52")),
                "{case}: {broken:?}"
            );
        }
    }

    #[test]
    fn rootless_with_the_second_control_groups_and_memory_without_swap_hold() {
        let rootless = EngineFacts { rootless: true, ..able() };
        assert_eq!(broken(&rootless, &all()), []);
        let swap = EngineFacts { swap_limit: false, ..able() };
        let memory = promises(&swap, &all()).into_iter().find(|it| it.wall == "memory").unwrap();
        assert!(memory.held && memory.why.contains("swap is not counted"), "{memory:?}");
    }
}
