//! What an engine is asked for, as one description, and whether it gave that. Pure.

use super::volumes::Volume;
use super::{AGENT_NAME, GOODS, Image, LIB};
use crate::engine::labels::Labels;
use crate::engine::{EngineFacts, Kind, promises};
use crate::step::Limits;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    MountVolumeOptions, ResourcesUlimits,
};
use std::collections::HashMap;

/// What PID 1 needs to make the places of a cell, to bind the port of its name server and to become the step's user with
/// an empty bounding set. It gives them away before the step starts.
const CAPABILITIES: [&str; 5] = ["CHOWN", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID"];

/// With a relay every address is made the container's own first; it has no network but its loopback.
const RELAY: &str = "NET_ADMIN";

/// Where the kernel tells of the machine's devices and of itself. Each of these is below `/sys` on every kernel. The rest
/// stays as the engine gives it, read-only: the control groups, in which the agent reads its limits, and the names of file
/// systems that are mounted.
const MACHINE: [&str; 7] =
    ["/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/devices", "/sys/kernel", "/sys/module"];

/// Where IPv6 is switched on in a container; a kernel without it has no such file, and the engine then says its name.
pub(super) const IPV6: &str = "net.ipv6.conf.all.disable_ipv6";

/// One container to be.
pub(super) struct Asked<'a> {
    pub(super) image: &'a Image,
    pub(super) engine: &'a EngineFacts,
    pub(super) labels: &'a Labels,
    pub(super) volumes: &'a [Volume],
    /// The volume of this run's tars, where one of them is needed.
    pub(super) goods: Option<String>,
    pub(super) limits: &'a Limits,
    /// Seconds after which it ends itself.
    pub(super) seconds: u64,
    pub(super) relay: bool,
    /// Its loopback has IPv6, which engines switch off without a network.
    pub(super) six: bool,
    /// What each process in it may have, where the engine's own choice is more than it may give.
    pub(super) ulimits: &'a [(&'static str, u64)],
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn ulimit((name, most): &(&'static str, u64)) -> ResourcesUlimits {
    let most = Some(signed(*most));
    ResourcesUlimits { name: Some((*name).to_owned()), soft: most, hard: most }
}

/// A volume at a place. Without a name it is the container's own, and goes with it.
pub(super) fn mount(name: Option<&str>, target: &str, read_only: bool, copy: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: name.map(str::to_owned),
        typ: Some(MountType::VOLUME),
        read_only: Some(read_only),
        volume_options: Some(MountVolumeOptions { no_copy: Some(!copy), ..Default::default() }),
        ..Default::default()
    }
}

impl Asked<'_> {
    fn capabilities(&self) -> Vec<String> {
        CAPABILITIES.iter().copied().chain(self.relay.then_some(RELAY)).map(str::to_owned).collect()
    }

    fn sysctls(&self) -> HashMap<String, String> {
        let port = ("net.ipv4.ip_unprivileged_port_start", if self.relay { "0" } else { "1024" });
        let six = self.six.then_some((IPV6, "0"));
        [port].into_iter().chain(six).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn mounts(&self) -> Vec<Mount> {
        let mut own = mount(None, "/ft", false, false);
        if let Some(options) = &mut own.volume_options {
            // An engine that was killed removes the container afterwards, and not its volume: a later run finds it by these.
            options.labels = Some(self.labels.to_map());
        }
        let mut all = vec![own];
        all.extend(self.volumes.iter().map(|volume| mount(Some(&volume.name), &volume.target, true, false)));
        all.extend(self.goods.iter().map(|name| mount(Some(name), GOODS, true, false)));
        all
    }

    /// What `/tmp` and `/dev/shm` may each take: as in a namespaces cell.
    fn in_memory(&self) -> u64 {
        match self.limits.memory_bytes {
            Some(bytes) => bytes / 2,
            None => (self.engine.memory_bytes / 4).max(64 << 20),
        }
    }

    /// Every file system in memory, with its options: what may be written, and what covers the machine's own.
    fn tmpfs(&self) -> HashMap<String, String> {
        let bytes = self.limits.disk_bytes.unwrap_or_else(|| self.in_memory());
        // Podman knows no limit of names there, and would copy into it what the image has at the same place.
        let (names, bare) = match self.engine.kind {
            Kind::Podman => (String::new(), ",notmpcopyup"),
            Kind::Docker => (format!(",nr_inodes={}", (bytes / 4096).clamp(1024, 1 << 20)), ""),
        };
        let temporary = format!("rw,exec,nosuid,nodev,mode=1777,size={bytes}{names}{bare}");
        // Not by `MaskedPaths`: that would replace the engine's own list, and what newer engines add to it.
        let cover = format!("ro,nosuid,nodev,noexec,size=4k,mode=555{bare}");
        let own = ["/tmp", "/var/tmp"].map(|place| (place.to_owned(), temporary.clone()));
        own.into_iter().chain(MACHINE.map(|place| (place.to_owned(), cover.clone()))).collect()
    }

    /// The whole description.
    pub(super) fn body(&self) -> ContainerCreateBody {
        let limits = self.limits;
        // Of what it can't hold, one engine takes the question and forgets it, and another one makes no container. Whether a
        // run may do without was decided before; from inside it is seen.
        let promises = promises(self.engine, limits);
        let held = |wall: &str| promises.iter().any(|promise| promise.wall == wall && promise.held);
        let memory = limits.memory_bytes.filter(|_| held("memory")).map(signed);
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        let cpus = limits.cpus.filter(|_| held("cpus")).map(u64::from);
        let host = HostConfig {
            network_mode: Some("none".to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: words(&["ALL"]),
            cap_add: Some(self.capabilities()),
            security_opt: words(&["no-new-privileges"]),
            pids_limit: limits.pids.filter(|_| held("pids")).map(signed),
            memory,
            memory_swap: memory.filter(|_| self.engine.swap_limit),
            nano_cpus: cpus.map(|cpus| signed(cpus.min(self.engine.cpus.max(1)) * 1_000_000_000)),
            tmpfs: Some(self.tmpfs()),
            shm_size: Some(signed(self.in_memory())),
            ipc_mode: Some("private".to_owned()),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            init: Some(false),
            auto_remove: Some(true),
            mounts: Some(self.mounts()),
            dns: words(&["127.0.0.53"]),
            dns_search: words(&["."]),
            extra_hosts: words(&["ft:127.0.0.1"]),
            sysctls: Some(self.sysctls()),
            ulimits: (!self.ulimits.is_empty()).then(|| self.ulimits.iter().map(ulimit).collect()),
            ..HostConfig::default()
        };
        ContainerCreateBody {
            image: Some(self.image.id.clone()),
            hostname: Some("ft".to_owned()),
            user: Some("0:0".to_owned()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            stdin_once: Some(true),
            tty: Some(false),
            entrypoint: Some(vec![format!("{LIB}/{AGENT_NAME}")]),
            cmd: words(&["--within", &self.seconds.to_string()]),
            working_dir: Some("/".to_owned()),
            healthcheck: Some(HealthConfig { test: words(&["NONE"]), ..HealthConfig::default() }),
            labels: Some(self.labels.to_map()),
            stop_signal: Some("SIGKILL".to_owned()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }

    /// What the engine did not give of what it was asked for.
    pub(super) fn refused(&self, made: &ContainerInspectResponse) -> Option<String> {
        let asked = self.body().host_config.unwrap_or_default();
        let Some(made) = &made.host_config else { return Some("anything that can be read back".to_owned()) };
        let set = |list: &Option<Vec<String>>| {
            // Podman writes CAP_CHOWN, and options with a colon.
            let bare = |word: &String| word.trim_start_matches("CAP_").trim_end_matches(":true").to_owned();
            list.iter().flatten().map(bare).collect::<std::collections::BTreeSet<_>>()
        };
        let less = |asked: Option<i64>, made: Option<i64>| asked.is_some_and(|asked| made != Some(asked));
        let all = [
            ("a container without network", made.network_mode != asked.network_mode),
            ("a read-only root", made.readonly_rootfs != Some(true)),
            ("dropped capabilities", !set(&asked.cap_add).is_superset(&set(&made.cap_add))),
            ("dropped capabilities", made.cap_drop.as_ref().is_none_or(Vec::is_empty)),
            ("no-new-privileges", !set(&made.security_opt).contains("no-new-privileges")),
            ("a container without privileges", made.privileged == Some(true)),
            ("a limit of processes", less(asked.pids_limit, made.pids_limit)),
            ("a limit of memory", less(asked.memory, made.memory)),
            ("a limit of swap", less(asked.memory_swap, made.memory_swap)),
            ("a limit of processors", less(asked.nano_cpus, made.nano_cpus)),
            (
                "IPC of its own",
                made.ipc_mode.as_deref().is_some_and(|mode| mode == "host" || mode.starts_with("container:")),
            ),
            (
                "process ids of its own",
                made.pid_mode.as_deref().is_some_and(|mode| !mode.is_empty() && mode != "private"),
            ),
            // Podman lists volumes there as well, by their names, which have no slash.
            ("no directory of the host", made.binds.iter().flatten().any(|bind| bind.starts_with('/'))),
        ];
        all.into_iter().find(|(_, refused)| *refused).map(|(what, _)| what.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::volumes::Contents;
    use super::*;

    fn facts() -> EngineFacts {
        let said = serde_json::json!({
            "endpoint": "unix:///e", "from": "default socket", "kind": "docker", "version": "20.10.24", "api": [1, 41],
            "asked": [1, 41], "os": "linux", "arch": "amd64", "id": "", "storage": "overlay2", "containerd_store": false,
            "cgroup_version": "2", "cgroup_driver": "systemd", "rootless": false, "userns": false, "seccomp": null,
            "apparmor": false, "selinux": false, "memory_limit": true, "swap_limit": true, "cpu_quota": true,
            "pids_limit": true, "cpus": 2, "memory_bytes": 8_u64 << 30, "ahead_secs": 0,
        });
        serde_json::from_value(said).unwrap_or_else(|e| panic!("{e}"))
    }

    /// What a container is asked with.
    struct Given {
        image: Image,
        engine: EngineFacts,
        labels: Labels,
        limits: Limits,
    }

    impl Given {
        fn new(engine: EngineFacts, limits: Limits) -> Given {
            let owner = crate::engine::labels::Owner::this();
            let labels = Labels { run: "r".into(), owner, deadline: 0, repository: "/r".into() };
            Given { image: Image::default(), engine, labels, limits }
        }

        fn asked<'a>(&'a self, volumes: &'a [Volume]) -> Asked<'a> {
            Asked {
                image: &self.image,
                engine: &self.engine,
                labels: &self.labels,
                volumes,
                goods: None,
                limits: &self.limits,
                seconds: 60,
                relay: false,
                six: true,
                ulimits: &[],
            }
        }
    }

    #[test]
    fn what_is_shared_can_be_read_and_nothing_of_the_host_is_mounted() {
        let limits = Limits { memory_bytes: Some(1 << 30), pids: Some(7), ..Limits::default() };
        let given = Given::new(facts(), limits);
        let shared = Volume::new("image", "/data", &[], Contents::Image(Vec::new()));
        let volumes = [shared];
        let asked = given.asked(&volumes);
        let host = asked.body().host_config.unwrap();
        let mounts = host.mounts.as_ref().unwrap();
        assert!(mounts.iter().all(|mount| mount.typ == Some(MountType::VOLUME)));
        let at = |place: &str| mounts.iter().find(|mount| mount.target.as_deref() == Some(place));
        assert_eq!(at("/data").unwrap().read_only, Some(true));
        assert_ne!(at("/ft").unwrap().read_only, Some(true));
        let granted = |change: &dyn Fn(&mut HostConfig)| {
            let mut host = host.clone();
            change(&mut host);
            asked.refused(&ContainerInspectResponse { host_config: Some(host), ..Default::default() })
        };
        assert_eq!(granted(&|_| {}), None);
        assert_eq!(granted(&|host| host.memory = Some(0)).as_deref(), Some("a limit of memory"));
        assert_eq!(granted(&|host| host.pids_limit = None).as_deref(), Some("a limit of processes"));
        assert_eq!(granted(&|host| host.readonly_rootfs = None).as_deref(), Some("a read-only root"));
        let more = granted(&|host| host.cap_add.as_mut().unwrap().push("SYS_ADMIN".into()));
        assert_eq!(more.as_deref(), Some("dropped capabilities"));
        let bound = granted(&|host| host.binds = Some(vec!["/:/host".into()]));
        assert_eq!(bound.as_deref(), Some("no directory of the host"));
        assert_eq!(granted(&|host| host.binds = Some(vec!["ft-lib-1:/ft/lib:ro,rprivate".into()])), None);
    }

    #[test]
    fn an_engine_is_not_asked_for_limits_that_it_can_not_hold() {
        let limits = Limits { memory_bytes: Some(1 << 30), pids: Some(7), cpus: Some(1), ..Limits::default() };
        let asked = |engine: EngineFacts| {
            let given = Given::new(engine, limits.clone());
            let asked = given.asked(&[]);
            let host = asked.body().host_config.unwrap();
            let left = ContainerInspectResponse { host_config: Some(host.clone()), ..Default::default() };
            assert_eq!(asked.refused(&left), None);
            [host.memory, host.memory_swap, host.pids_limit, host.nano_cpus].map(|limit| limit.is_some())
        };
        assert_eq!(asked(facts()), [true; 4]);
        let rootless = EngineFacts { rootless: true, cgroup_version: "1".into(), ..facts() };
        assert_eq!(asked(rootless), [false; 4], "it says that it can, since the kernel could");
        assert_eq!(asked(EngineFacts { memory_limit: false, ..facts() }), [false, false, true, true]);
    }

    #[test]
    fn podman_is_asked_for_what_it_knows() {
        let options = |kind: Kind| {
            let given = Given::new(EngineFacts { kind, ..facts() }, Limits::default());
            given.asked(&[]).body().host_config.unwrap().tmpfs.unwrap()
        };
        let (docker, podman) = (options(Kind::Docker), options(Kind::Podman));
        assert!(docker["/tmp"].contains("nr_inodes=") && !docker["/tmp"].contains("notmpcopyup"));
        assert!(podman.values().all(|of| of.contains("notmpcopyup") && !of.contains("nr_inodes")), "{podman:?}");
        assert!(docker.keys().all(|place| podman.contains_key(place)) && docker.len() == podman.len());
    }
}
