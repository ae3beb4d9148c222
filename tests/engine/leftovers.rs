//! What dead runs left is removed, and nothing that may belong to a live one.

use crate::script::{Reply, Script, Scripted};
use crate::{connect, real};
use bollard::models::{NetworkCreateRequest, VolumeCreateRequest};
use firsttry::engine::labels::shared;
use firsttry::engine::{Labels, Owner, Swept};
use serde_json::json;
use std::collections::HashMap;

fn labels(owner: &Owner, run: &str) -> HashMap<String, String> {
    let owner = owner.clone();
    // Far in the future: only a process that is dead makes something over.
    Labels { run: run.into(), owner, deadline: 4_000_000_000, repository: "/r".into() }.to_map()
}

/// A process of this machine that has been.
fn dead() -> Owner {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    Owner { pid, started: 1, ..Owner::this() }
}

fn elsewhere() -> Owner {
    Owner { host: "0000000000000000".into(), ..dead() }
}

/// An engine that holds one container, volume and network of each kind of owner.
fn full() -> Script {
    let owners = [("live", Owner::this()), ("dead", dead()), ("far", elsewhere())];
    let stranger = json!({ "ft.run": "of somebody who uses our label" });
    let containers: Vec<_> = owners
        .iter()
        .map(|(name, owner)| json!({ "Id": name, "Names": [format!("/{name}")], "Labels": labels(owner, name), "State": "running" }))
        .chain([json!({ "Id": "stranger", "Labels": stranger })])
        .collect();
    let volume = |name: &str, labels| json!({ "Name": name, "Driver": "local", "Mountpoint": "/v", "Labels": labels, "Options": null, "Scope": "local" });
    let volumes: Vec<_> = owners
        .iter()
        .map(|(name, owner)| volume(name, json!(labels(owner, name))))
        .chain([volume("kept", json!(shared("/r")))])
        .collect();
    let networks: Vec<_> =
        owners.iter().map(|(name, owner)| json!({ "Name": name, "Id": name, "Labels": labels(owner, name) })).collect();
    Script::docker("20.10", "1.41", "1.12")
        .on("GET /containers/json", Reply::json(200, json!(containers)))
        .on("GET /volumes", Reply::json(200, json!({ "Volumes": volumes, "Warnings": null })))
        .on("GET /networks", Reply::json(200, json!(networks)))
}

async fn sweep(script: Script) -> (Swept, Scripted) {
    let scripted = script.start();
    let engine = connect(&scripted).await.unwrap();
    let swept = engine.sweep(&Owner::this()).await.unwrap();
    assert_eq!(scripted.unexpected(), [""; 0]);
    (swept, scripted)
}

#[tokio::test]
async fn only_what_a_dead_process_of_this_machine_left_is_removed() {
    let script = full()
        .on("DELETE /containers/dead", Reply::done())
        .on("DELETE /volumes/dead", Reply::done())
        .on("DELETE /networks/dead", Reply::done());
    let (swept, scripted) = sweep(script).await;
    assert_eq!(
        (&swept.containers, &swept.volumes, &swept.networks),
        (&vec!["dead".into()], &vec!["dead".into()], &vec!["dead".into()])
    );
    assert_eq!((swept.count(), swept.left.len()), (3, 0));
    assert_eq!(
        scripted.asked(),
        [
            "GET /containers/json",
            "DELETE /containers/dead",
            "GET /volumes",
            "DELETE /volumes/dead",
            "GET /networks",
            "DELETE /networks/dead"
        ]
    );
    let seen = scripted.seen();
    assert!(seen[2].query.contains("all=true") && seen[2].query.contains("ft.run"), "{:?}", seen[2]);
    assert!(seen[3].query.contains("force=true") && seen[3].query.contains("v=true"), "{:?}", seen[3]);
}

#[tokio::test]
async fn what_is_gone_or_going_is_no_error_and_what_cannot_be_removed_is_named() {
    let script = full()
        .on("DELETE /containers/dead", Reply::error(409, "removal of container dead is already in progress"))
        .on("DELETE /volumes/dead", Reply::error(404, "get dead: no such volume"))
        .on("DELETE /networks/dead", Reply::error(403, "network dead has active endpoints"));
    let (swept, _) = sweep(script).await;
    assert_eq!((swept.count(), swept.left.len()), (0, 1));
    assert!(swept.left[0].to_string().contains("active endpoints"), "{:?}", swept.left);
    let script = full()
        .on("DELETE /containers/dead", Reply::error(500, "device or resource busy"))
        .on("DELETE /volumes/dead", Reply::error(409, "volume is in use - [dead]"))
        .on("DELETE /networks/dead", Reply::error(404, "network dead not found"));
    let (swept, _) = sweep(script).await;
    assert_eq!((swept.count(), swept.left.len()), (0, 2));
}

#[tokio::test]
async fn shared_volumes_go_by_budget_and_those_in_use_stay_whole() {
    let all = [
        ("new", "2026-03-01T00:00:00Z", 100, 0),
        ("old", "2026-01-01T00:00:00Z", 100, 0),
        ("old-sealed", "2020-01-01T00:00:00Z", 0, 0),
        ("mounted", "2025-01-01T00:00:00Z", 100, 1),
        ("raced", "2025-06-01T00:00:00Z", 100, 0),
        ("raced-sealed", "2025-06-01T00:00:00Z", 0, 0),
        ("stranger", "2020-01-01T00:00:00Z", 100_000, 0),
    ];
    // As Podman does: what is measured has neither labels nor an age.
    let measured = all.map(|(name, _, size, references)| {
        json!({ "Name": name, "Labels": {}, "UsageData": { "Size": size, "RefCount": references } })
    });
    let usage = json!({ "LayersSize": 0, "Images": null, "Containers": null, "BuildCache": null, "Volumes": measured });
    let listed = all.map(|(name, created, ..)| {
        let labels = if name == "stranger" { json!(null) } else { json!(shared("/r")) };
        json!({ "Name": name, "CreatedAt": created, "Labels": labels, "Driver": "local", "Mountpoint": "", "Scope": "local", "Options": {} })
    });
    let scripted = Script::docker("20.10", "1.41", "1.12")
        .on("GET /system/df", Reply::json(200, &usage))
        .on("GET /volumes", Reply::json(200, json!({ "Volumes": listed, "Warnings": null })))
        .on("DELETE /volumes/old", Reply::done())
        .on("DELETE /volumes/old-sealed", Reply::done())
        .on("DELETE /volumes/raced", Reply::error(409, "volume is in use"))
        .start();
    let engine = connect(&scripted).await.unwrap();
    let removed = engine.gc(200, &["new".to_owned()]).await.unwrap();
    assert_eq!(removed.iter().map(|it| (it.name.as_str(), it.bytes)).collect::<Vec<_>>(), [("old", Some(100))]);
    assert_eq!(
        scripted.asked(),
        [
            "GET /system/df",
            "GET /volumes",
            "DELETE /volumes/raced",
            "DELETE /volumes/old",
            "DELETE /volumes/old-sealed"
        ],
        "what was taken into use meanwhile keeps its mark"
    );
    assert!(engine.gc(1000, &[]).await.unwrap().is_empty());
    // From API 1.42 on, volumes alone are measured; and an engine's no has its own words.
    let scripted = Script::docker("24.0", "1.43", "1.12").on("GET /system/df", Reply::error(500, "df failed")).start();
    let error = connect(&scripted).await.unwrap().gc(0, &[]).await.unwrap_err();
    assert!(error.to_string().contains("refused measuring volumes: df failed (status 500)"), "{error}");
    assert_eq!(scripted.seen()[2].query, "type=volume");
}

#[tokio::test]
async fn a_real_engine_is_swept_of_the_dead_and_keeps_the_living() {
    let engine = real().await;
    let volume = async |name: &str, labels: HashMap<String, String>| {
        let request = VolumeCreateRequest {
            name: Some(format!("ft-engine-test-{name}")),
            labels: Some(labels),
            ..Default::default()
        };
        engine.docker().create_volume(request).await.unwrap().name
    };
    let live = volume("live", labels(&Owner::this(), "live")).await;
    let far = volume("far", labels(&elsewhere(), "far")).await;
    let gone = volume("dead", labels(&dead(), "dead")).await;
    let kept = volume("kept", shared("/r")).await;
    let marks = [volume("kept-sealed", shared("/r")).await, volume("stale-sealed", shared("/r")).await];
    let network = NetworkCreateRequest {
        name: "ft-engine-test-dead".to_owned(),
        labels: Some(labels(&dead(), "dead")),
        internal: Some(true),
        ..Default::default()
    };
    let network = engine.docker().create_network(network).await;
    let swept = engine.sweep(&Owner::this()).await.unwrap();
    // Gone: by this sweep, or by that of somebody else who shares the engine.
    assert!(!engine.remove_volume(&gone).await.unwrap(), "{swept:?}");
    assert!(!engine.remove_volume(&marks[1]).await.unwrap(), "the mark of a volume that is gone: {swept:?}");
    assert!([&live, &far, &kept, &marks[0]].iter().all(|name| !swept.volumes.contains(*name)), "{swept:?}");
    // This machine's engine may have no bridges at all.
    if let Ok(network) = network {
        assert!(!engine.remove_network(&network.id).await.unwrap(), "{swept:?}");
    }
    let found = engine.shared_volumes().await.unwrap();
    let ours = found.iter().find(|it| it.name == kept).unwrap();
    assert!(!ours.used && ours.bytes.is_some() && found.iter().all(|it| !marks.contains(&it.name)), "{found:?}");
    for name in [&live, &far, &kept, &marks[0]] {
        assert!(engine.remove_volume(name).await.unwrap());
        assert!(!engine.remove_volume(name).await.unwrap());
    }
}
