//! What is written on everything that is created in an engine, and what it says about who may remove it.

use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;

/// The run that made it.
pub const RUN: &str = "ft.run";
/// The process that made it: host, process, and when that started.
pub const OWNER: &str = "ft.owner";
/// The boot in which it was made.
pub const BOOT: &str = "ft.boot";
/// When nobody can need it any more: seconds since 1970, by the engine's clock.
pub const DEADLINE: &str = "ft.deadline";
/// The repository that it was made for: its path, or what else the caller calls it.
pub const REPOSITORY: &str = "ft.repository";
/// On volumes that outlive their run, and are nobody's: named by their content, and shared by whoever needs that.
pub const SHARED: &str = "ft.shared";

/// How far beyond its deadline a thing of a stranger is left alone: clocks of engines jump as well.
const GRACE_SECS: u64 = 3600;

/// A process, named so that no other one has that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Where its number means something: a machine, or one container on it. Sixteen hexadecimal digits.
    pub host: String,
    /// Which boot of that machine's kernel.
    pub boot: String,
    /// Its number.
    pub pid: u32,
    /// When it started, in ticks since boot; 0 where the system does not say.
    pub started: u64,
    /// Whether `host` names a whole machine. In a container it may be that of another one with the same image and name,
    /// on another machine.
    pub whole_machine: bool,
}

impl Owner {
    /// This process.
    #[must_use]
    pub fn this() -> Owner {
        let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let (machine, name) = (read("/etc/machine-id"), read("/proc/sys/kernel/hostname"));
        // Process numbers are those of a namespace; the first one of a machine has this number on every kernel.
        let space = std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
        let whole_machine = space == "pid:[4026531836]" && !machine.is_empty();
        let scope = if whole_machine { String::new() } else { space };
        let digest = hex::encode(Sha256::digest(format!("{machine}\n{name}\n{scope}")));
        let pid = std::process::id();
        Owner {
            host: digest[..16].to_owned(),
            boot: read("/proc/sys/kernel/random/boot_id"),
            pid,
            started: started(pid).unwrap_or_default(),
            whole_machine,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.whole_machine { "machine" } else { "container" };
        write!(f, "{kind}:{}:{}:{}", self.host, self.pid, self.started)
    }
}

/// When a process of this machine started; none where there is none of that number, or the system does not say.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return crate::linux::cgroup::started(pid);
    #[cfg(not(target_os = "linux"))]
    return {
        let _ = pid;
        None
    };
}

/// Everything that is written on one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// The run.
    pub run: String,
    /// Who made it.
    pub owner: Owner,
    /// Seconds since 1970 by the engine's clock: see [`super::Engine::now`].
    pub deadline: u64,
    /// The repository.
    pub repository: String,
}

/// What is written on a volume that outlives its run, made first for this repository. No sweep of dead runs takes it;
/// [`super::Engine::gc`] does, by budget.
#[must_use]
pub fn shared(repository: &str) -> HashMap<String, String> {
    [(SHARED, "1"), (REPOSITORY, repository)].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The empty volume that says that a shared one is whole: a volume can be neither renamed nor labelled once it is made.
#[must_use]
pub fn mark(volume: &str) -> String {
    format!("{volume}{MARK}")
}

/// The volume that this one is the mark of; none for one that is no mark.
#[must_use]
pub fn marked(volume: &str) -> Option<&str> {
    volume.strip_suffix(MARK)
}

const MARK: &str = "-sealed";

impl Labels {
    /// As an engine takes them.
    #[must_use]
    pub fn to_map(&self) -> HashMap<String, String> {
        [
            (RUN, self.run.clone()),
            (OWNER, self.owner.to_string()),
            (BOOT, self.owner.boot.clone()),
            (DEADLINE, self.deadline.to_string()),
            (REPOSITORY, self.repository.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Reads them back; none where one is missing or says nothing that we wrote. Such a thing is not ours.
    #[must_use]
    pub fn from_map(map: &HashMap<String, String>) -> Option<Labels> {
        let text = map.get(OWNER)?;
        let fields: Vec<&str> = text.split(':').collect();
        let [kind @ ("machine" | "container"), host, pid, started] = fields[..] else { return None };
        Some(Labels {
            run: map.get(RUN)?.clone(),
            owner: Owner {
                host: host.to_owned(),
                boot: map.get(BOOT)?.clone(),
                pid: pid.parse().ok()?,
                started: started.parse().ok()?,
                whole_machine: kind == "machine",
            },
            deadline: map.get(DEADLINE)?.parse().ok()?,
            repository: map.get(REPOSITORY)?.clone(),
        })
    }

    /// Whether the run that made it is over, as far as this process can know. `now` is the engine's clock; `started` says
    /// when a process of this machine started.
    ///
    /// Of a process elsewhere nothing is known but its deadline: the engine may be shared, and its run may live.
    #[must_use]
    pub fn is_over(&self, me: &Owner, now: u64, started: impl Fn(u32) -> Option<u64>) -> bool {
        let overdue = now > self.deadline.saturating_add(GRACE_SECS);
        if self.owner.host != me.host || self.owner.whole_machine != me.whole_machine {
            return overdue;
        }
        if self.owner.boot != me.boot {
            return me.whole_machine || overdue;
        }
        // Where the system does not say when a process started, its number may be another's by now.
        if self.owner.started == 0 {
            return overdue;
        }
        started(self.owner.pid) != Some(self.owner.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner() -> Owner {
        Owner { host: "aaaa".into(), boot: "b1".into(), pid: 7, started: 100, whole_machine: true }
    }

    fn labels(owner: Owner) -> Labels {
        Labels { run: "r".into(), owner, deadline: 10_000, repository: "/r".into() }
    }

    #[test]
    fn only_what_is_surely_over_is_over() {
        let me = Owner { pid: 8, started: 200, ..owner() };
        let alive = |pid: u32| (pid == 7).then_some(100);
        let gone = |_: u32| None;
        let reused = |_: u32| Some(101);
        let before = 10_000;
        let after = 10_000 + GRACE_SECS + 1;
        let container = |of: Owner| Owner { whole_machine: false, ..of };
        let other_boot = || Owner { boot: "b0".into(), ..owner() };
        let elsewhere = || Owner { host: "bbbb".into(), ..owner() };
        let timeless = || Owner { started: 0, ..owner() };
        type Started<'a> = &'a dyn Fn(u32) -> Option<u64>;
        let cases: [(&str, Owner, &Owner, u64, Started<'_>, bool); 14] = [
            ("a live process", owner(), &me, before, &alive, false),
            ("a live process, long after its deadline", owner(), &me, after, &alive, false),
            ("a dead process", owner(), &me, before, &gone, true),
            ("a number that another process has by now", owner(), &me, before, &reused, true),
            ("before a reboot of this machine", other_boot(), &me, before, &alive, true),
            (
                "another boot of what may be another machine",
                container(other_boot()),
                &container(me.clone()),
                before,
                &gone,
                false,
            ),
            ("the same, overdue", container(other_boot()), &container(me.clone()), after, &gone, true),
            ("another host", elsewhere(), &me, before, &gone, false),
            ("another host, at the deadline", elsewhere(), &me, 10_001, &gone, false),
            ("another host, overdue", elsewhere(), &me, after, &gone, true),
            ("a container on this host", container(owner()), &me, before, &gone, false),
            ("this host, asked from a container", owner(), &container(me.clone()), before, &gone, false),
            ("a system that does not say when processes started", timeless(), &me, before, &gone, false),
            ("the same, overdue", timeless(), &me, after, &gone, true),
        ];
        for (case, owner, me, now, started, over) in cases {
            assert_eq!(labels(owner).is_over(me, now, started), over, "{case}");
        }
    }

    #[test]
    fn this_process_is_alive() {
        let me = Owner::this();
        assert_eq!((me.pid, me.host.len()), (std::process::id(), 16));
        assert!(!labels(me.clone()).is_over(&me, 0, started));
        #[cfg(target_os = "linux")]
        assert!(me.started > 0 && !me.boot.is_empty());
    }

    #[test]
    fn a_thing_with_a_label_missing_or_wrong_is_not_ours() {
        let whole = labels(owner()).to_map();
        assert_eq!(Labels::from_map(&whole), Some(labels(owner())));
        assert_eq!(Labels::from_map(&shared("/r")), None, "nobody's");
        for name in [RUN, OWNER, BOOT, DEADLINE, REPOSITORY] {
            let mut less = whole.clone();
            less.remove(name);
            assert_eq!(Labels::from_map(&less), None, "{name}");
        }
        for (name, value) in [
            (OWNER, ""),
            (OWNER, "machine:a:b:c"),
            (OWNER, "you:a:1:1"),
            (OWNER, "machine:a:1:1:1"),
            (DEADLINE, "soon"),
        ] {
            let mut wrong = whole.clone();
            wrong.insert(name.to_owned(), value.to_owned());
            assert_eq!(Labels::from_map(&wrong), None, "{name}={value}");
        }
    }

    proptest! {
        #[test]
        fn labels_come_back_as_they_were_written(
            run in ".*", host in "[0-9a-f]{16}", boot in ".*", pid: u32, started: u64, whole_machine: bool,
            deadline: u64, repository in ".*",
        ) {
            let owner = Owner { host, boot, pid, started, whole_machine };
            let labels = Labels { run, owner, deadline, repository };
            prop_assert_eq!(Labels::from_map(&labels.to_map()), Some(labels));
        }
    }
}
