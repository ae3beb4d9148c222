//! The faces that a user sees most, as they are: exit status, standard output, standard error.

use super::harness::{Project, Ran};
use insta::{assert_snapshot, with_settings};
use serde_json::json;

/// A face without what differs between two machines and two runs.
#[track_caller]
fn face(name: &str, ran: &Ran) {
    let version = Project::python().replace('.', r"\.");
    let python = format!(r"{version}\.\d+");
    let filters = [
        (r"\b\d+(\.\d+)? ?(ms|s)\b", "[TIME]"),
        (r"\d{8}-\d{6}-\d{3}-\d+", "[RUN]"),
        (python.as_str(), "[PYTHON]"),
        (r"\d+ packages", "[N] packages"),
        (r"walls \(namespaces\): .*", "walls (namespaces): [WALLS]"),
        (r"[0-9a-f]{12}\b", "[HASH]"),
        (r"(?m)^(RUN |PASS|FAIL) .*\n", ""),
    ];
    // The order in which steps end on standard error is theirs.
    let (out, err) = (&filters[..6], &filters[..]);
    let (status, said_out, said_err) = ran.face();
    with_settings!({filters => out.to_vec(), omit_expression => true, prepend_module_to_snapshot => false}, {
        assert_snapshot!(format!("{name}-stdout"), format!("exit status: {status}\n{said_out}"));
    });
    with_settings!({filters => err.to_vec(), omit_expression => true, prepend_module_to_snapshot => false}, {
        assert_snapshot!(format!("{name}-stderr"), said_err);
    });
}

#[test]
fn a_green_run() {
    let project = Project::new();
    project.lock(|lock| lock["build"] = json!(true)).commit();
    face("green", &project.ft(&["run"]));
}

#[test]
fn a_red_run() {
    let project = Project::with_tools(&["ruff", "pytest"]);
    project.write("src/demo/bad.py", "import os\n").replace("tests/test_demo.py", "== 3000", "== 3001").commit();
    face("red", &project.ft(&["run"]));
}

#[test]
fn a_quiet_red_run() {
    let project = Project::with_tools(&["ruff"]);
    project.write("src/demo/bad.py", "import os\n").commit();
    face("quiet", &project.ft(&["--quiet", "run"]));
}

#[test]
fn a_warm_self_check() {
    let project = Project::with_tools(&["pytest"]);
    project.ft(&["check"]).leaves(0);
    face("check", &project.ft(&["check"]));
}

#[test]
fn a_self_check_that_finds_drift() {
    let project = Project::with_tools(&["pytest"]);
    project.write("ruff.toml", "line-length = 99\n").write("new.py", "");
    face("drift", &project.ft(&["check"]));
}

#[test]
fn a_lock_with_a_mistake() {
    let project = Project::with_tools(&["pytest"]);
    project.replace("ci/parity.lock.json", "timeout_sec", "timeout_secs");
    face("mistake", &project.ft(&["run"]));
}

#[test]
fn where_json_is_asked_for_standard_output_is_json_and_nothing_else() {
    let project = Project::with_tools(&["pytest"]);
    for args in [&["run", "--json"][..], &["check", "--json"], &["check", "--json"], &["run", "--plan", "--json"]] {
        let ran = project.ft(args);
        let json: serde_json::Value = serde_json::from_str(&ran.leaves(0).out).unwrap();
        assert!(json.is_object());
    }
    let ran = project.ft(&["run", "--json"]);
    ran.says("passed: 1 check");
    assert_eq!(ran.out, project.read("artifacts/parity_report.json"));
    project.write("ci/parity.lock.json", "{");
    for args in [&["run", "--json"][..], &["check", "--json"]] {
        let ran = project.ft(args);
        let json: serde_json::Value = serde_json::from_str(&ran.leaves(102).out).unwrap();
        assert_eq!(json["exit_code"], 102);
    }
}

#[test]
fn a_matrix_runs_what_is_installed_and_names_the_rest() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| lock["matrix"] = json!({"python": [Project::python(), "3.99"]})).commit();
    project.ft(&["run", "--matrix"]).leaves(0).says("Python 3.99: not installed, not run");
    let ran = project.ft(&["run", "--matrix", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.leaves(0).out).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1);
}

#[test]
fn earlier_runs_are_shown_again_and_compared() {
    let project = Project::with_tools(&["ruff"]);
    project.ft(&["report"]).leaves(2).says("no run has been made here yet");
    project.ft(&["run"]).leaves(0);
    project.ft(&["run"]).leaves(0);
    project.write("src/demo/bad.py", "import os\n").commit();
    project.ft(&["run"]).leaves(211);
    let list = project.ft(&["report", "--list"]);
    let ids: Vec<&str> = list.leaves(0).out.lines().collect();
    assert_eq!(ids.len(), 3);
    project.ft(&["report"]).leaves(0).says("failed: PARITY-211").says("F401");
    project.ft(&["report", ids[0]]).leaves(0).says("passed: 1 check");
    project.ft(&["report", "--format", "junit"]).leaves(0).says("<testsuites");
    project.ft(&["report", "no-such-run"]).leaves(2).says("no such run");
    project.ft(&["diff", ids[0], ids[1]]).leaves(0).says("no difference");
    project.ft(&["diff", ids[1], ids[2]]).leaves(1).says("exit_code: 0 | 211");
    project.ft(&["diff", ids[1], "nothing.json"]).leaves(2);
}

#[test]
fn a_plan_starts_nothing() {
    let project = Project::new();
    project.lock(|lock| lock["build"] = json!(true));
    project.ft(&["run", "--plan"]).leaves(0).says("ruff check .").says("bandit");
    assert!(!project.path("artifacts").exists() && project.runs().is_empty());
}

#[test]
fn a_command_of_one_s_own_runs_in_a_cell_and_its_status_is_passed_on() {
    let project = Project::with_tools(&["ruff"]).var("SECRET_TOKEN", "hush");
    let ran = project.ft(&["exec", "--", "sh", "-c", "echo out; echo err >&2; env; exit 7"]);
    ran.leaves(7).does_not_say("hush");
    assert!(ran.out.starts_with("out\n") && ran.err.contains("err\n"));
    project.ft(&["exec", "--", "sh", "-c", "kill -9 $$"]).leaves(137);
    project.ft(&["exec", "--", "no-such-command"]).leaves(127).says("no-such-command");
    project.ft(&["exec", "--timeout", "1", "--", "sleep", "60"]).leaves(222);
    assert!(!project.path("artifacts").exists());
}

#[test]
fn several_test_steps_are_covered_together() {
    let project = Project::with_tools(&["pytest"]);
    let two = "def one() -> int:\n    return 1\n\n\ndef two() -> int:\n    return 2\n";
    project.write("src/demo/__init__.py", two);
    project.write("tests/test_demo.py", "from demo import one\n\n\ndef test_one() -> None:\n    assert one() == 1\n");
    project.write("deep/test_two.py", "from demo import two\n\n\ndef test_two() -> None:\n    assert two() == 2\n");
    project.commit();
    project.lock(|lock| {
        let step = |args: &[&str]| json!({"command": "pytest", "gate": "tests", "args": args, "timeout_sec": 60});
        lock["tools"] = json!({
            "unit": step(&["-q", "--cov=demo", "tests"]),
            "deep": step(&["-q", "--cov=demo", "."]),
        });
        lock["tools"]["deep"]["cwd"] = json!("deep");
        lock["pytest_collection"] = json!({"allow_uncollected": true});
        lock["thresholds"]["coverage_min"] = json!(1.0);
    });
    project.ft(&["run"]).leaves(0);
    assert_eq!(project.report().0["thresholds"]["coverage_total"], 1.0);
}
