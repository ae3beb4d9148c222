//! What answers, what it is, and what is said where nothing usable does.

use crate::script::{Reply, Script, Scripted};
use crate::{connect, real};
use bollard::query_parameters::ListContainersOptions;
use firsttry::engine::endpoint::{Disk, unnamed};
use firsttry::engine::{Api, Engine, EngineError, Kind, Where, promises};
use firsttry::step::Limits;
use serde_json::json;

fn all_limits() -> Limits {
    Limits { memory_bytes: Some(1 << 30), pids: Some(100), cpus: Some(1), ..Limits::default() }
}

/// The walls that this engine can't keep.
async fn broken(script: Script) -> Vec<String> {
    let scripted = script.start();
    let engine = connect(&scripted).await.unwrap();
    promises(engine.facts(), &all_limits()).into_iter().filter(|it| !it.held).map(|it| it.wall).collect()
}

/// Why nothing could be connected to, and what to do.
async fn refusal(script: Script) -> (String, String) {
    let scripted = script.start();
    let error = connect(&scripted).await.unwrap_err();
    assert_eq!(error.exit().0, 105, "{error}");
    let finding = error.finding().unwrap();
    assert!(finding.message.contains(&scripted.host()) && finding.message.contains("(DOCKER_HOST)"), "{finding:?}");
    (finding.message, finding.hint)
}

#[tokio::test]
async fn the_engine_of_this_machine_says_what_it_is() {
    let engine = real().await;
    let facts = engine.facts();
    assert_eq!((facts.os.as_str(), facts.kind), ("linux", Kind::Docker));
    assert!(!facts.id.is_empty() && !facts.storage.is_empty() && !facts.version.is_empty(), "{facts:?}");
    assert!(matches!(facts.cgroup_version.as_str(), "1" | "2"), "{facts:?}");
    assert!(
        facts.asked <= facts.api && facts.cpus > 0 && facts.memory_bytes > 0 && facts.ahead_secs.abs() < 60,
        "{facts:?}"
    );
}

#[tokio::test]
async fn old_and_new_engines_are_asked_in_an_api_that_both_sides_know() {
    for (version, api, oldest, asked) in [
        ("1.13.0", "1.25", "1.12", Api(1, 25)),
        ("19.03.15", "1.40", "1.12", Api(1, 40)),
        ("20.10.24", "1.41", "1.12", Api(1, 41)),
        ("29.1.0", "1.52", "1.44", Api(1, 47)),
        ("40.0.0", "1.70", "1.60", Api(1, 60)),
    ] {
        let scripted = Script::docker(version, api, oldest).on("GET /containers/json", Reply::json(200, "[]")).start();
        let engine = connect(&scripted).await.unwrap();
        assert_eq!((engine.facts().asked, engine.facts().version.as_str()), (asked, version));
        engine.docker().list_containers(None::<ListContainersOptions>).await.unwrap();
        let versions: Vec<_> = scripted.seen().into_iter().map(|seen| seen.version).collect();
        let asked = Some(asked.to_string());
        assert_eq!(versions, [None, asked.clone(), asked], "the first question can't name one yet");
    }
}

#[tokio::test]
async fn shapes_of_old_new_and_other_engines_are_read() {
    // API 1.40 says nothing of control groups, 1.24 nothing of profiles.
    let old =
        json!({ "CgroupVersion": null, "PidsLimit": null, "CgroupDriver": "cgroupfs", "SecurityOptions": ["seccomp"] });
    let scripted = Script::docker_with("18.09.1", "1.39", "1.12", old).start();
    let facts = connect(&scripted).await.unwrap().facts().clone();
    assert_eq!((facts.cgroup_version.as_str(), facts.pids_limit), ("", None));
    assert_eq!((facts.seccomp.as_deref(), facts.apparmor), (Some("default"), false));

    let new = json!({
        "Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "Containerd": { "Address": "/run/containerd/containerd.sock", "Namespaces": { "Containers": "moby", "Plugins": "plugins.moby" } },
        "FirewallBackend": { "Driver": "nftables" }, "DiscoveredDevices": [], "CDISpecDirs": ["/etc/cdi"],
        "SomethingNew": { "nobody": ["knows"] }
    });
    let scripted = Script::docker_with("29.1.0", "1.52", "1.44", new).start();
    let facts = connect(&scripted).await.unwrap().facts().clone();
    assert!(facts.containerd_store && facts.storage == "overlayfs" && facts.apparmor, "{facts:?}");

    let podman = Script::empty()
        .on("GET /version", Reply::json(200, json!({
            "Platform": { "Name": "linux/arm64/debian-12" },
            "Components": [{ "Name": "Podman Engine", "Version": "4.3.1", "Details": { "APIVersion": "4.3.1", "MinAPIVersion": "4.0.0" } },
                           { "Name": "Conmon", "Version": "conmon version 2.1.6", "Details": { "Package": "conmon" } }],
            "Version": "4.3.1", "ApiVersion": "1.41", "MinAPIVersion": "1.24", "GitCommit": "", "GoVersion": "go1.19.5",
            "Os": "linux", "Arch": "arm64", "KernelVersion": "6.1.0", "BuildTime": "Thu Jan 1 00:00:00 1970"
        })))
        .on("GET /info", Reply::json(200, json!({
            "ID": "e0a0", "Driver": "overlay", "DriverStatus": [["Native Overlay Diff", "true"]], "CgroupDriver": "systemd",
            "CgroupVersion": "2", "OSType": "linux", "Architecture": "arm64", "MemoryLimit": true, "SwapLimit": true,
            "CpuCfsPeriod": true, "CpuCfsQuota": true, "PidsLimit": true, "NCPU": 2, "MemTotal": 1000,
            "SecurityOptions": ["name=seccomp,profile=default"], "SystemTime": "2024-01-01T00:00:00Z",
            "DefaultRuntime": "crun", "Plugins": { "Volume": ["local"], "Network": ["bridge"], "Authorization": null, "Log": ["k8s-file"] },
            "Swarm": { "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null },
            "RegistryConfig": { "IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": [] }, "Isolation": "",
            "BuildahVersion": "1.28.0", "CPURealtimePeriod": false, "SwapFree": 0, "SwapTotal": 0, "Rootless": true
        })))
        .start();
    let engine = connect(&podman).await.unwrap();
    let facts = engine.facts();
    assert_eq!((facts.kind, facts.arch.as_str(), facts.rootless), (Kind::Podman, "arm64", true));
    assert!(facts.ahead_secs < -3600 && engine.now() < 1_704_070_000, "deadlines are on the engine's clock: {facts:?}");
    assert_eq!(facts.name(), "Podman 4.3.1, API 1.41, linux/arm64");
}

#[tokio::test]
async fn what_an_engine_lacks_breaks_the_promises_that_need_it() {
    let with = |change| Script::docker_with("24.0.0", "1.43", "1.12", change);
    assert_eq!(broken(with(json!({}))).await, [""; 0]);
    let rootless = json!(["name=seccomp,profile=builtin", "name=rootless"]);
    // Podman's way to say it, some of whose versions have no such option.
    assert_eq!(broken(with(json!({ "Rootless": true, "CgroupVersion": "1" }))).await, ["memory", "pids", "cpus"]);
    let none = json!({ "SecurityOptions": rootless, "CgroupDriver": "none", "CgroupVersion": "1", "MemoryLimit": false, "PidsLimit": false });
    assert_eq!(broken(with(none)).await, ["memory", "pids", "cpus"]);
    assert_eq!(
        broken(with(json!({ "SecurityOptions": rootless, "CgroupVersion": "1" }))).await,
        ["memory", "pids", "cpus"]
    );
    assert_eq!(broken(with(json!({ "MemoryLimit": false }))).await, ["memory"]);
    assert_eq!(broken(with(json!({ "SecurityOptions": [] }))).await, ["seccomp"]);
    assert_eq!(broken(with(json!({ "SecurityOptions": ["name=seccomp,profile=unconfined"] }))).await, ["seccomp"]);
}

#[tokio::test]
async fn what_is_no_engine_says_why_and_what_to_do() {
    let first = |reply| Script::empty().on("GET /version", reply);
    for (script, why) in [
        (first(Reply::close()), "connection closed"),
        (first(Reply::raw(b"220 mail ready\r\n")), "invalid HTTP"),
        (first(Reply::error(503, "starting up")), "status 503: starting up"),
        (first(Reply::json(200, "<html>")), "no engine"),
        (first(Reply::json(200, "{}")), "its API version is \"\""),
        (
            first(Reply::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"Version\"")),
            "end of file before message",
        ),
        (Script::docker("1.12.6", "1.24", "1.12"), "(1.12.6, API 1.24) is too old: API 1.25 is needed"),
    ] {
        let (said, hint) = refusal(script).await;
        assert!(said.contains(why), "{why}: {said}");
        assert!(!hint.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_never_answers_is_given_up() {
    let (said, _) = refusal(Script::empty().on("GET /version", Reply::stall())).await;
    assert!(said.contains("accepts connections and does not answer within 20 s"), "{said}");
}

#[tokio::test]
async fn sockets_that_are_not_there_dead_or_closed_to_us_say_so() {
    let dir = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("dead")).unwrap());
    for (name, why, fix) in
        [("absent", "No such file", "install Docker"), ("dead", "Connection refused", "start the engine")]
    {
        let host = format!("unix://{}", dir.path().join(name).display());
        let error = Engine::connect(&Where { host: Some(host), ..Where::default() }).await.unwrap_err();
        assert!(error.to_string().contains(why) && error.hint().contains(fix), "{error}: {}", error.hint());
        assert_eq!(error.exit().0, 105);
    }
}

#[tokio::test]
async fn where_nobody_named_an_engine_the_first_that_answers_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("podman")).unwrap();
    let scripted = Script::docker("4.3.1", "1.41", "1.24").start();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("docker.sock")).unwrap());
    std::os::unix::fs::symlink(scripted.host().trim_start_matches("unix://"), dir.path().join("podman/podman.sock"))
        .unwrap();
    let places = Where { host: Some(String::new()), runtime_dir: Some(dir.path().to_owned()), ..Where::default() };
    let found: Vec<_> = unnamed(&places, &Disk).into_iter().map(|endpoint| endpoint.from).collect();
    assert_eq!(found[..3], ["default socket", "rootless Docker", "rootless Podman"]);
    let first = Engine::first_of(unnamed(&places, &Disk).into_iter().skip(1)).await.unwrap();
    assert_eq!(first.facts().from, "rootless Podman");
    let error = Engine::first_of(unnamed(&places, &Disk).into_iter().skip(1).take(1)).await.unwrap_err();
    assert!(error.to_string().contains("docker.sock (rootless Docker): Connection refused"), "{error}");
    // The default socket of this machine stands before them.
    assert_eq!(Engine::connect(&places).await.unwrap().facts().from, "default socket");
}

/// An engine that was connected to, and then does this to a request.
async fn later(reply: Reply) -> (Scripted, EngineError) {
    let scripted = Script::docker("20.10", "1.41", "1.12").on("GET /images/x/json", reply).start();
    let engine = connect(&scripted).await.unwrap();
    let error = engine.image("x").await.unwrap_err();
    (scripted, error)
}

#[tokio::test]
async fn an_engine_that_is_lost_later_is_infrastructure() {
    for (case, reply) in [
        ("closed", Reply::close()),
        ("reset", Reply::close().unread()),
        ("cut in the head", Reply::raw(b"HTTP/1.1 200 OK\r\nContent-Le")),
        ("cut in the body", Reply::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")),
    ] {
        let (scripted, error) = later(reply).await;
        assert!(matches!(error, EngineError::Lost { .. }), "{case}: {error:?}");
        assert_eq!((error.exit().0, error.finding()), (69, None), "{case}");
        let said = error.to_string();
        assert!(
            said.contains(&scripted.host()) && said.contains("DOCKER_HOST") && said.contains("inspecting x"),
            "{said}"
        );
    }
    let (_, error) = later(Reply::error(500, "layer does not exist")).await;
    assert_eq!(error.exit().0, 69);
    assert!(error.to_string().ends_with("refused inspecting x: layer does not exist (status 500)"), "{error}");
    let (_, error) = later(Reply::json(200, "[1")).await;
    assert!(matches!(error, EngineError::Unreadable { .. }) && error.exit().0 == 69, "{error:?}");
}

#[tokio::test]
async fn an_engine_that_stalls_later_is_lost() {
    let scripted = Script::docker("20.10", "1.41", "1.12").on("GET /images/x/json", Reply::stall()).start();
    let engine = connect(&scripted).await.unwrap();
    tokio::time::pause();
    let error = engine.image("x").await.unwrap_err();
    assert!(
        matches!(error, EngineError::Lost { .. }) && error.to_string().contains("did not answer in time"),
        "{error:?}"
    );
}
