//! `ft doctor`: what it says of this machine, in and outside of a repository.

use super::harness::Project;
use serde_json::{Value, json};

fn diagnosis(project: &Project, status: i32) -> Value {
    let ran = project.ft(&["doctor", "--json"]);
    ran.leaves(status);
    serde_json::from_str(&ran.face().1).unwrap()
}

#[test]
fn outside_of_a_repository_it_tries_everything_and_knows_no_lock() {
    let project = Project::empty();
    let found = diagnosis(&project, 0);
    assert_eq!((&found["schema_version"], &found["ok"], &found["exit_code"]), (&json!(1), &json!(true), &json!(0)));
    assert_eq!(found.get("lock"), None);
    let names = |table: &str| -> Vec<String> {
        let rows = found[table].as_array().unwrap();
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("cells"), ["namespaces", "container", "here"]);
    let walls = [
        "user",
        "mounts",
        "pid",
        "proc",
        "network",
        "ipc",
        "uts",
        "cgroup",
        "capabilities",
        "no_new_privs",
        "seccomp",
        "notification",
        "injection",
        "landlock",
        "tree",
    ];
    assert_eq!(names("walls"), walls);
    for limit in ["memory", "pids", "cpus", "files", "file_size", "disk", "output"] {
        assert!(names("limits").iter().any(|name| name == limit), "{limit}: {:?}", names("limits"));
    }
    // The cells of these tests stand, so what they are made of must be seen to hold by itself.
    for wall in found["walls"].as_array().unwrap().iter().filter(|wall| wall["name"] != "landlock") {
        assert_eq!(wall["holds"], json!(true), "{wall}");
    }
    assert!(found["git"]["detail"].as_str().unwrap().starts_with("git version "));
    assert!(!project.path(".firsttry").exists(), "a look makes no folder");
}

#[test]
fn the_engine_of_docker_host_is_asked_first() {
    let project = Project::empty().var("DOCKER_HOST", "unix:///nowhere/engine.sock");
    let found = diagnosis(&project, 0);
    assert_eq!(found["engines"][0]["endpoint"], "unix:///nowhere/engine.sock");
    assert_eq!(found["engines"][0]["answers"], json!(false));
    assert!(!found["engines"][0]["fix"].as_str().unwrap().is_empty());
}

#[test]
fn a_lock_in_reach_is_judged_as_a_run_would_be() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| lock["resource_limits"] = json!({"cpu_count": 1, "pids": 500}));
    let found = diagnosis(&project, 0);
    assert_eq!(found["lock"]["cell"], "namespaces");
    assert_eq!(found["lock"]["findings"], json!([]));
    let limits: Vec<_> =
        found["lock"]["limits"].as_array().unwrap().iter().map(|l| (&l["name"], &l["holds"])).collect();
    assert_eq!(limits, [(&json!("pids"), &json!(true)), (&json!("cpus"), &json!(true))]);

    project.lock(|lock| lock["cell"] = json!({"minimum": "container"}));
    project.lock(|lock| lock["container"] = json!({"image": format!("demo@sha256:{}", "0".repeat(64))}));
    assert_eq!(diagnosis(&project, 0)["lock"]["cell"], "container");
    let nowhere = [("DOCKER_HOST", "unix:///nowhere/engine.sock")];
    let said = project.ft_with(&nowhere, &["doctor", "--json"]);
    said.leaves(105);
    let found: Value = serde_json::from_str(&said.face().1).unwrap();
    assert_eq!(found["lock"]["findings"][0]["code"], "PARITY-050");
    assert_eq!((&found["ok"], &found["lock"]["cell"]), (&json!(false), &Value::Null));
    let said = project.ft_with(&nowhere, &["doctor"]);
    said.leaves(105);
    assert!(said.face().1.contains("runs of this lock can't work here (exit 105)"), "{}", said.face().1);
}
