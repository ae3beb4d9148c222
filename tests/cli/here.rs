//! A machine that forbids namespaces: refused, and said so.

use super::harness::{Project, Ran};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A project whose folders the user of steps that root starts gets into, as it would be on a CI runner.
fn project(tools: &[&str]) -> Project {
    // An interpreter that other users get to: the first one of the tests may be below the home of root.
    let project = Project::with_tools(tools).var("PATH", "/usr/local/bin:/usr/bin:/bin");
    project.lock(|lock| lock["python_match"] = "minor".into()).commit();
    fs::set_permissions(project.root.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    project
}

/// Calls `ft` where the calls for namespaces fail.
fn ft(project: &Project, args: &[&str]) -> Ran {
    let deny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/deny.py");
    let all: Vec<&str> = [deny, env!("CARGO_BIN_EXE_ft")].iter().chain(args).copied().collect();
    project.run("python3", &all)
}

#[test]
fn a_run_is_refused_where_no_namespaces_can_be_had() {
    let project = project(&["pytest"]);
    ft(&project, &["run"]).leaves(105).says("PARITY-052").says("does not run steps in them yet");
    assert_eq!(project.report().started(), 0);
    let project = project_with_allowed_host();
    ft(&project, &["run"]).leaves(105).says("PARITY-052");
    assert_eq!(project.report().started(), 0);
}

fn project_with_allowed_host() -> Project {
    let project = project(&["pytest"]);
    project.lock(|lock| lock["network_policy"] = serde_json::json!({"allowed_hosts": ["example.org"]})).commit();
    project
}

#[test]
fn a_lock_that_wants_namespaces_is_not_run_without() {
    let project = project(&["pytest"]);
    project.lock(|lock| lock["cell"] = serde_json::json!({"minimum": "namespaces"})).commit();
    ft(&project, &["run"]).leaves(105).says("PARITY-052").says("cell.minimum");
    assert_eq!(project.report().started(), 0);
}

#[test]
fn doctor_says_that_nothing_can_be_run_there() {
    let ran = ft(&Project::empty(), &["doctor", "--json"]);
    ran.leaves(105);
    let found: serde_json::Value = serde_json::from_str(&ran.face().1).unwrap();
    assert_eq!((&found["cells"][0]["holds"], &found["cells"][2]["holds"]), (&false.into(), &false.into()));
}
