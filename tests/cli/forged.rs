//! What a repository or a step may try to pass off as ours.

use super::harness::Project;
use serde_json::json;
use std::fs;

/// A project with one more step, a Python program of these lines.
fn with_step(program: &str) -> Project {
    let project = Project::with_tools(&["ruff"]);
    project.write("step.py", program);
    project.lock(|lock| {
        lock["tools"]["step"] = json!({"command": "python", "args": ["step.py"], "gate": "lint", "timeout_sec": 60});
        lock["tools"]["ruff"]["args"] = json!(["check", "src"]);
    });
    project.commit();
    project
}

#[test]
fn a_step_can_not_replace_what_the_run_publishes() {
    let project = with_step(
        "import os\nos.makedirs('artifacts/.ft-new', exist_ok=True)\nos.makedirs('artifacts/logs', exist_ok=True)\n\
         for n in range(30):\n    open(f'artifacts/.ft-new/{n}', 'w').write('forged')\n\
         for name in ('parity_report.json', 'junit.xml', 'events.jsonl', 'logs/step.log'):\n    \
         open('artifacts/' + name, 'w').write('forged')\n",
    );
    project.ft(&["run"]).leaves(0);
    assert_eq!(project.report().exit_code(), 0);
    for name in ["parity_report.json", "junit.xml", "events.jsonl", "logs/step.log"] {
        assert!(!project.read(&format!("artifacts/{name}")).contains("forged"), "{name}");
    }
    let staged = fs::read_dir(project.path("artifacts")).unwrap().filter_map(Result::ok);
    assert_eq!(staged.filter(|entry| entry.file_name().to_string_lossy().starts_with(".ft-new")).count(), 0);
}

#[test]
fn an_environment_that_comes_with_the_clone_is_not_trusted() {
    let project = Project::with_tools(&["ruff"]);
    project.write(".firsttry/planted", "x");
    project.git(&["add", "-f", ".firsttry/planted"]);
    project.git(&["commit", "-qm", "planted"]);
    project.ft(&["run"]).leaves(101).says("PARITY-004").says("git tracks .firsttry/planted");
    project.ft(&["exec", "--", "true"]).leaves(101).says("git tracks .firsttry/planted");
}

#[test]
fn a_priority_of_pid_1_is_not_the_steps_to_change() {
    let project = with_step(
        "import os\n\
         def refused(call):\n    try:\n        call()\n    except PermissionError:\n        return True\n    return False\n\
         os.setpriority(os.PRIO_PROCESS, 0, 5)\n\
         assert refused(lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))\n\
         assert refused(lambda: os.setpriority(os.PRIO_USER, 0, 19))\n",
    );
    project.ft(&["run"]).leaves(0);
}

#[test]
fn a_scan_with_allowed_issues_holds_up_no_step_that_needs_it() {
    let project = Project::with_tools(&["bandit", "pytest"]);
    project.write("src/demo/low.py", "import subprocess\n\nprint(subprocess.PIPE)\n");
    project.lock(|lock| {
        lock["thresholds"]["bandit_severity_max"] = json!("LOW");
        lock["tools"]["pytest"]["needs"] = json!(["bandit"]);
    });
    project.commit();
    project.ft(&["run"]).leaves(0);
    assert_eq!(project.report().step("pytest")["exit"], json!(0));
}
