//! What the engine is: read from its own answers, never assumed.

use super::EngineError;
use super::endpoint::Endpoint;
use crate::lock::image::goarch;
use bollard::models::{SystemInfo, SystemVersion};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A version of the engine's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Api(pub u32, pub u32);

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl FromStr for Api {
    type Err = ();

    fn from_str(text: &str) -> Result<Api, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Api(major.parse().map_err(|_| ())?, minor.parse().map_err(|_| ())?))
    }
}

/// Whose engine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Docker's, or one that does not say otherwise.
    Docker,
    /// Podman, by its compatible API.
    Podman,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Docker => "Docker",
            Kind::Podman => "Podman",
        })
    }
}

/// What an engine said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFacts {
    /// `unix:///var/run/docker.sock`.
    pub endpoint: String,
    /// Who named the endpoint: `DOCKER_HOST`, `default socket`.
    pub from: String,
    /// Whose engine it is.
    pub kind: Kind,
    /// `20.10.24`.
    pub version: String,
    /// The newest API that it speaks.
    pub api: Api,
    /// The API that it is asked in.
    pub asked: Api,
    /// `linux`, as image configurations name it.
    pub os: String,
    /// `amd64`, as image configurations name it.
    pub arch: String,
    /// The engine's own id, where it has one: tells two engines apart behind one address.
    pub id: String,
    /// The storage driver: `overlay2`, `fuse-overlayfs`, `overlayfs` of containerd.
    pub storage: String,
    /// Images are kept by containerd: an image's id is then the digest of its manifest, not of its configuration.
    pub containerd_store: bool,
    /// `1` or `2`; empty where it does not say (before API 1.41, where it was always 1).
    pub cgroup_version: String,
    /// `cgroupfs`, `systemd`, or `none`: then it can't limit anything.
    pub cgroup_driver: String,
    /// It runs without root.
    pub rootless: bool,
    /// Users of containers are mapped to others of the host.
    pub userns: bool,
    /// The profile of system calls: `default`, `builtin`, a path, `unconfined`; none where seccomp is off.
    pub seccomp: Option<String>,
    /// AppArmor confines containers.
    pub apparmor: bool,
    /// SELinux labels containers.
    pub selinux: bool,
    /// It can limit memory.
    pub memory_limit: bool,
    /// It can limit swap, without which a limit of memory leaves swap open.
    pub swap_limit: bool,
    /// It can limit processor time.
    pub cpu_quota: bool,
    /// It can limit processes. Engines before API 1.40 do not say: then none.
    pub pids_limit: Option<bool>,
    /// Processors, as the engine counts them.
    pub cpus: u64,
    /// Memory of its machine, in bytes.
    pub memory_bytes: u64,
    /// How far its clock is ahead of ours, in seconds.
    pub ahead_secs: i64,
}

impl EngineFacts {
    /// `Docker 20.10.24, API 1.41, linux/amd64`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}, API {}, {}/{}", self.kind, self.version, self.api, self.os, self.arch)
    }
}

/// The newest API that the engine speaks.
pub(super) fn api(endpoint: &Endpoint, said: &SystemVersion) -> Result<Api, EngineError> {
    let text = said.api_version.as_deref().unwrap_or_default();
    text.parse().map_err(|()| {
        let why = format!("what answers is no engine: its API version is {text:?}");
        EngineError::silent(endpoint, why, "look at what listens there")
    })
}

/// The API to ask in: the newest that both sides know. Where the engine no longer speaks any that we know, its oldest:
/// the shapes of what we use have outlived many versions, and what changed is an error with the call's name.
pub(super) fn asked(endpoint: &Endpoint, api: Api, said: &SystemVersion) -> Result<Api, EngineError> {
    if api < super::OLDEST {
        let version = said.version.as_deref().unwrap_or("of an unknown version");
        let why = format!("the engine ({version}, API {api}) is too old: API {} is needed", super::OLDEST);
        return Err(EngineError::silent(endpoint, why, "install a newer engine (Docker 1.13 or newer)"));
    }
    let oldest = said.min_api_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(super::OLDEST);
    Ok(api.min(super::NEWEST).max(oldest))
}

/// What an engine says of itself, with the one field that only Podman has.
#[derive(Deserialize)]
pub(super) struct Info {
    /// Not every version of it has the option that Docker has.
    #[serde(rename = "Rootless", default)]
    rootless: bool,
    #[serde(flatten)]
    system: SystemInfo,
}

/// Puts together what the engine said.
pub(super) fn read(
    endpoint: &Endpoint,
    (api, asked): (Api, Api),
    said: SystemVersion,
    Info { rootless, system: info }: Info,
    now: jiff::Timestamp,
) -> EngineFacts {
    let podman = said.components.iter().flatten().any(|component| component.name.contains("Podman"));
    let options = info.security_options.unwrap_or_default();
    let option = |name: &str| options.iter().find_map(|option| security(option, name));
    let storage = info.driver.unwrap_or_default();
    let containerd_store = info
        .driver_status
        .iter()
        .flatten()
        .any(|pair| matches!(pair.as_slice(), [key, value] if key == "driver-type" && value.starts_with("io.containerd.snapshotter")));
    EngineFacts {
        endpoint: endpoint.address.to_string(),
        from: endpoint.from.clone(),
        kind: if podman { Kind::Podman } else { Kind::Docker },
        version: said.version.unwrap_or_default(),
        api,
        asked,
        os: said.os.or(info.os_type).unwrap_or_default(),
        arch: said.arch.or(info.architecture).map(|arch| goarch(&arch).to_owned()).unwrap_or_default(),
        id: info.id.unwrap_or_default(),
        containerd_store,
        storage,
        cgroup_version: info.cgroup_version.map(|version| version.to_string()).unwrap_or_default(),
        cgroup_driver: info.cgroup_driver.map(|driver| driver.to_string()).unwrap_or_default(),
        rootless: rootless || option("rootless").is_some(),
        userns: option("userns").is_some(),
        seccomp: option("seccomp").map(|profile| if profile.is_empty() { "default".to_owned() } else { profile }),
        apparmor: option("apparmor").is_some(),
        selinux: option("selinux").is_some(),
        memory_limit: info.memory_limit.unwrap_or_default(),
        swap_limit: info.swap_limit.unwrap_or_default(),
        cpu_quota: info.cpu_cfs_quota.unwrap_or_default() && info.cpu_cfs_period.unwrap_or_default(),
        pids_limit: info.pids_limit,
        cpus: info.ncpu.and_then(|cpus| u64::try_from(cpus).ok()).unwrap_or_default(),
        memory_bytes: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
        ahead_secs: info.system_time.as_deref().map(|time| ahead(time, now)).unwrap_or_default(),
    }
}

/// How far a clock is ahead of `now`, in seconds; what can't be read is no difference.
fn ahead(time: &str, now: jiff::Timestamp) -> i64 {
    time.parse::<jiff::Timestamp>().map(|there| there.as_second() - now.as_second()).unwrap_or_default()
}

/// The profile of a security option, where it is the one called `name`: `name=seccomp,profile=default`, and `seccomp`
/// of engines before API 1.27.
fn security(option: &str, name: &str) -> Option<String> {
    let mut fields = option.split(',');
    let first = fields.next().unwrap_or_default();
    if first.strip_prefix("name=").unwrap_or(first) != name {
        return None;
    }
    Some(fields.find_map(|field| field.strip_prefix("profile=")).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options_are_read_in_both_of_their_shapes() {
        for (option, name, profile) in [
            ("name=seccomp,profile=default", "seccomp", Some("default")),
            ("name=seccomp,profile=/etc/p.json", "seccomp", Some("/etc/p.json")),
            ("seccomp", "seccomp", Some("")),
            ("name=rootless", "rootless", Some("")),
            ("name=rootless", "root", None),
            ("name=userns", "seccomp", None),
            ("", "seccomp", None),
        ] {
            assert_eq!(security(option, name).as_deref(), profile, "{option}");
        }
    }

    #[test]
    fn the_engine_is_asked_in_the_newest_api_that_both_sides_know() {
        let endpoint = Endpoint { address: super::super::endpoint::Address::Unix("/s".into()), from: "x".into() };
        let asked = |newest: &str, oldest: Option<&str>| {
            let said = SystemVersion {
                version: Some("1.2.3".into()),
                api_version: Some(newest.into()),
                min_api_version: oldest.map(Into::into),
                ..Default::default()
            };
            api(&endpoint, &said).and_then(|api| asked(&endpoint, api, &said)).map_err(|error| error.to_string())
        };
        assert_eq!(asked("1.41", Some("1.12")), Ok(Api(1, 41)));
        assert_eq!(asked("1.52", Some("1.44")), Ok(super::super::NEWEST));
        assert_eq!(asked("1.60", Some("1.55")), Ok(Api(1, 55)), "a newer engine that no longer knows ours");
        assert_eq!(asked("1.25", None), Ok(Api(1, 25)));
        assert!(asked("1.24", Some("1.12")).unwrap_err().contains("(1.2.3, API 1.24) is too old: API 1.25 is needed"));
        for nonsense in ["", "1", "1.x", "v1.41"] {
            assert!(asked(nonsense, None).unwrap_err().contains("no engine"), "{nonsense}");
        }
    }

    #[test]
    fn the_clock_of_the_engine_is_compared_with_ours() {
        let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(ahead("2026-01-01T01:00:00.123456789+00:00", now), 3600);
        assert_eq!(ahead("2025-12-31T23:59:00Z", now), -60);
        assert_eq!(ahead("yesterday", now), 0);
    }
}
