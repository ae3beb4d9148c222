//! A machine that forbids namespaces: the same commands in cells of the kind `here`.

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
fn a_run_is_green_without_namespaces_and_says_so() {
    let project = project(&["pytest"]);
    ft(&project, &["run"]).leaves(0);
    let report = project.report();
    assert_eq!(report.0["enforcement"]["cell"], "here");
    ft(&project, &["check"]).leaves(0);
}

#[test]
fn a_step_that_reaches_for_the_network_is_a_violation_without_namespaces_too() {
    let project = project(&["pytest"]);
    project.write(
        "tests/test_net.py",
        "import socket\ndef test_reaches():\n    try: socket.create_connection(('198.51.100.1', 80), 1)\n    except OSError: pass\n",
    );
    project.commit();
    project.ft(&["lock"]);
    project.commit();
    let ran = ft(&project, &["run"]);
    ran.leaves(251).says("198.51.100.1");
}

#[test]
fn a_lock_that_wants_namespaces_is_not_run_without() {
    let project = project(&["pytest"]);
    project.lock(|lock| lock["cell"] = serde_json::json!({"minimum": "namespaces"})).commit();
    ft(&project, &["run"]).leaves(105).says("PARITY-052").says("cell.minimum");
    assert_eq!(project.report().started(), 0);
}
