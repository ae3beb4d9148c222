//! A machine that forbids namespaces: the same commands in cells of the kind `here`.

use super::harness::{Project, Ran};
use super::network::{policy, server, talk, tests};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;

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
    // Its weaker promises are told, not left out.
    let told = report.0["enforcement"].to_string();
    for weaker in ["own paths", "own loopback", "own /tmp", "own processes"] {
        assert!(told.contains(&format!("{{\"wall\":\"{weaker}\",\"enforced\":false")), "{weaker}: {told}");
    }
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

#[test]
fn a_layer_counts_for_both_kinds_of_cell_whichever_made_it() {
    for first_here in [true, false] {
        let project = project(&["pytest"]);
        let check = |here: bool| if here { ft(&project, &["check"]) } else { project.ft(&["check"]) };
        check(first_here).leaves(0);
        let layers = project.path(".firsttry/cache/layer");
        let paths = texts(&layers);
        assert!(paths.iter().any(|text| text.contains("/ft/work")), "{paths:?}");
        assert!(paths.iter().all(|text| !text.contains(".firsttry")), "{paths:?}");
        // Tests are collected anew, and the build of the layer saw nothing of them.
        let tests = fs::read_to_string(project.path("tests/test_demo.py")).unwrap();
        project.write("tests/test_demo.py", tests + "# changed\n");
        let second = check(!first_here);
        second.leaves(0).says("nothing that it read changed");
    }
}

#[test]
fn what_the_lock_allows_is_reached_without_namespaces_too() {
    let ((at, count), (other, refused)) = (server(), server());
    let project = project(&["pytest"]);
    policy(&project, serde_json::json!({"allowed_hosts": [at.to_string()]}));
    tests(&project, &talk(at), "assert True");
    project.ft(&["lock"]);
    project.commit();
    ft(&project, &["run"]).leaves(0);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let ran =
        ft(&project, &["exec", "--", "python", "-c", &format!("import socket{}", talk(other).replace("\n    ", "\n"))]);
    ran.leaves(1).says("Network is unreachable").says(&other.port().to_string());
    assert_eq!(refused.load(Ordering::SeqCst), 0);
}

#[test]
fn one_command_runs_without_namespaces_and_its_status_is_passed_on() {
    let project = project(&["pytest"]);
    ft(&project, &["exec", "--", "sh", "-c", "echo $FT_ROOT; exit 7"]).leaves(7).says("/ft-cell-");
    ft(&project, &["check"]).leaves(0);
    // As in CI: what is not tracked is a finding there.
    ft(&project, &["ci"]).leaves(0);
    assert_eq!(project.report().0["enforcement"]["cell"], "here");
}

#[test]
fn doctor_finds_the_cell_without_namespaces() {
    let ran = ft(&Project::empty(), &["doctor", "--json"]);
    ran.leaves(0);
    let found: serde_json::Value = serde_json::from_str(&ran.face().1).unwrap();
    assert_eq!((&found["cells"][0]["holds"], &found["cells"][2]["holds"]), (&false.into(), &true.into()));
}

/// Every text below a folder.
fn texts(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { texts(&path) } else { fs::read_to_string(path).into_iter().collect() })
        .collect()
}
