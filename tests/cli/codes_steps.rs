//! Every code that a step is judged by, provoked on a real repository through the real cell: exit status, report, words.

use super::harness::Project;
use serde_json::json;

/// The run leaves with the full code `exit`, which the shell sees as `exit % 256`, because of exactly these findings.
#[track_caller]
fn fails(project: &Project, exit: i32, codes: &[&str], words: &str) {
    let ran = project.ft(&["run"]);
    ran.leaves(exit % 256).says(words).does_not_say("passed:");
    let report = project.report();
    assert_eq!((report.exit_code(), report.failures()), (u64::try_from(exit).unwrap(), codes.to_vec()));
    assert_eq!(report.0["ok"], false);
}

#[test]
fn a_finding_of_the_linter_is_parity_211() {
    let project = Project::with_tools(&["ruff"]);
    project.write("src/demo/bad.py", "import os\n").commit();
    fails(&project, 211, &["PARITY-211"], "F401");
    assert!(project.read("artifacts/logs/ruff.log").contains("F401"));
}

#[test]
fn a_finding_of_the_type_checker_is_parity_212() {
    let project = Project::with_tools(&["mypy"]);
    project.write("src/demo/bad.py", "x: int = 'text'\n").commit();
    fails(&project, 212, &["PARITY-212"], "Incompatible types in assignment");
}

#[test]
fn a_failing_test_is_parity_221() {
    let project = Project::with_tools(&["pytest"]);
    project.replace("tests/test_demo.py", "== 3000", "== 3001");
    fails(&project, 221, &["PARITY-221"], "1 of 2 tests failed; first: tests/test_demo.py::test_large");
    let report = project.report();
    let tests = &report.step("pytest")["tests"];
    assert_eq!((&tests["passed"], &tests["failed"]), (&json!(1), &json!(1)));
    assert!(project.read("artifacts/junit.xml").contains("test_large"));
}

#[test]
fn more_warnings_than_the_lock_allows_are_parity_225() {
    let project = Project::with_tools(&["pytest"]);
    project.lock(|lock| lock["thresholds"]["max_warnings"] = json!(0));
    project.ft(&["run"]).leaves(0);
    let warns = "import warnings\n\nfrom demo import add\n\n\ndef test_small() -> None:\n    warnings.warn('old news')\n\n\n\
                 def test_large() -> None:\n    assert add(1, 1) == 2\n";
    project.write("tests/test_demo.py", warns);
    fails(&project, 221, &["PARITY-225"], "1 warnings, 0 allowed");
    project.lock(|lock| lock["thresholds"]["max_warnings"] = json!(1));
    project.ft(&["run"]).leaves(0);
}

#[test]
fn a_test_that_passes_only_when_run_again_is_parity_226() {
    let project = Project::with_tools(&["pytest"]);
    let flaky = "import pathlib\n\n\ndef test_small() -> None:\n    seen = pathlib.Path('seen')\n    \
                 again = seen.exists()\n    seen.write_text('')\n    assert again\n\n\ndef test_large() -> None:\n    pass\n";
    project.write("tests/test_demo.py", flaky);
    fails(&project, 221, &["PARITY-221"], "1 of 2 tests failed");
    project.lock(|lock| lock["tools"]["pytest"]["args"] = json!(["-q", "--reruns", "1", "tests"]));
    fails(&project, 221, &["PARITY-226"], "tests/test_demo.py::test_small");
    project.lock(|lock| lock["thresholds"]["allow_flaky"] = json!(true));
    project.ft(&["run"]).leaves(0);
    assert_eq!(project.report().step("pytest")["tests"]["flaky"], json!(["tests/test_demo.py::test_small"]));
}

#[test]
fn a_step_that_outlives_its_timeout_is_parity_222_even_if_it_ignores_sigterm() {
    let project = Project::with_tools(&["ruff"]);
    let hangs = "import signal\nimport time\n\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)\n";
    project.write("hang.py", hangs);
    project.lock(|lock| {
        lock["tools"]["hang"] =
            json!({"command": "python", "args": ["hang.py"], "gate": "lint", "timeout_sec": 1, "grace_sec": 1});
    });
    project.commit();
    let before = std::time::Instant::now();
    fails(&project, 222, &["PARITY-222"], "hang was ended at its timeout of 1 s, SIGTERM was not enough");
    assert!(before.elapsed().as_secs() < 20);
    let report = project.report();
    let step = report.step("hang");
    assert_eq!((&step["timed_out"], &step["killed"]), (&json!(true), &json!(true)));
    assert!(project.read("artifacts/logs/hang.log").contains("deaf"));
}

#[test]
fn a_lost_test_is_parity_021_and_the_other_tests_still_run() {
    let project = Project::with_tools(&["pytest"]);
    let one = "from demo import add\n\n\ndef test_small() -> None:\n    assert add(1, 2) == 3\n";
    project.write("tests/test_demo.py", one);
    fails(&project, 223, &["PARITY-021"], "tests/test_demo.py -1");
    assert_eq!(project.report().step("pytest")["tests"]["passed"], 1);
    project.ft(&["check"]).leaves(223).says("PARITY-021");
    project.ft(&["lock", "--collection"]).leaves(0);
    project.ft(&["check"]).leaves(0);
    project.ft(&["run"]).leaves(0);
}

#[test]
fn other_names_of_as_many_tests_are_parity_021() {
    let project = Project::with_tools(&["pytest"]);
    project.replace("tests/test_demo.py", "test_large", "test_huge");
    fails(&project, 223, &["PARITY-021"], "tests/test_demo.py +1 -1");
}

#[test]
fn a_collection_that_fails_is_parity_023() {
    let project = Project::with_tools(&["pytest"]);
    project.write("tests/test_more.py", "import not_there\n").commit();
    let ran = project.ft(&["run"]);
    ran.leaves(223).says("PARITY-023").says("No module named 'not_there'");
    project.ft(&["check"]).leaves(223).says("PARITY-023");
    assert_eq!(project.report().failures()[0], "PARITY-023");
}

/// A project of which exactly 7 of 10 statements are covered, or 6,999 of 10,000.
fn covered(lines: usize, of: usize) -> Project {
    let project = Project::with_tools(&["pytest"]);
    // The statements: `def`, its body, and the lines that no test reaches.
    let reached = "x = 1\n".repeat(lines - 1);
    let missed = "    y = 1\n".repeat(of - lines);
    project.write("src/demo/__init__.py", format!("{reached}def never():\n{missed}"));
    project
        .write("tests/test_demo.py", "import demo\n\n\ndef test_small():\n    demo\n\n\ndef test_large():\n    demo\n");
    project.lock(|lock| {
        lock["tools"]["pytest"]["args"] = json!(["-q", "--cov=demo", "tests"]);
        lock["thresholds"]["coverage_min"] = json!(0.7);
    });
    project
}

#[test]
fn coverage_at_the_threshold_passes() {
    let project = covered(7, 10);
    project.ft(&["run"]).leaves(0);
    assert_eq!(project.report().0["thresholds"]["coverage_total"], 0.7);
}

#[test]
fn coverage_below_the_threshold_is_parity_231_unrounded() {
    // 69.99 %: every tool that rounds to one decimal shows 70.0.
    fails(&covered(6999, 10_000), 231, &["PARITY-231"], "69.99 % (6999 of 10000)");
}

#[test]
fn no_coverage_at_all_is_parity_231() {
    let project = Project::with_tools(&["pytest"]);
    project.lock(|lock| lock["thresholds"]["coverage_min"] = json!(0.7));
    fails(&project, 231, &["PARITY-231"], "no coverage was measured");
    assert!(project.report().finding("PARITY-231").1.contains("--cov"));
}

#[test]
fn a_scan_that_can_not_do_its_work_is_parity_241() {
    let project = Project::with_tools(&["bandit"]);
    project.lock(|lock| lock["tools"]["bandit"]["args"] = json!(["-q", "-r", "src", "--no-such-flag"]));
    fails(&project, 241, &["PARITY-241"], "bandit exited with status 2");
    project.lock(|lock| lock["tools"]["bandit"]["args"] = json!(["-q", "-r", "src"]));
    project.write("src/demo/broken.py", "def broken(:\n").commit();
    fails(&project, 241, &["PARITY-241"], "src/demo/broken.py");
}

/// One issue of low and one of high severity.
const ISSUES: &str = "import hashlib\nimport subprocess\n\nhashlib.md5(b'')\n";

#[test]
fn an_issue_above_the_severity_of_the_lock_is_parity_242() {
    let project = Project::with_tools(&["bandit"]);
    project.write("src/demo/issues.py", ISSUES).commit();
    fails(&project, 242, &["PARITY-242"], "1 issues above Low: 1 high, 0 medium, 1 low");
    project.lock(|lock| lock["thresholds"]["bandit_severity_max"] = json!("HIGH"));
    project.ft(&["run"]).leaves(0);
    project.lock(|lock| lock["thresholds"]["bandit_severity_max"] = json!("NONE"));
    fails(&project, 242, &["PARITY-242"], "2 issues above None");
}

#[test]
fn arguments_of_bandit_do_not_hide_an_issue_from_the_threshold() {
    let project = Project::with_tools(&["bandit"]);
    project.write("src/demo/issues.py", "import subprocess\n").commit();
    project.lock(|lock| {
        lock["thresholds"]["bandit_severity_max"] = json!("NONE");
        lock["tools"]["bandit"]["args"] = json!(["-q", "-lll", "--exit-zero", "-r", "src"]);
    });
    fails(&project, 242, &["PARITY-242"], "1 low");
}

#[test]
fn a_missing_artifact_is_parity_301_which_the_shell_sees_as_45() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| lock["required_artifacts"] = json!(["artifacts/parity_report.json", "artifacts/sbom.json"]));
    fails(&project, 301, &["PARITY-301"], "artifacts/sbom.json: no step left it");
    assert_eq!(project.report().0["exit_status"], 45);
    project.ft(&["explain", "45"]).leaves(0).says("PARITY-301");
}

#[test]
fn a_tree_of_which_no_wheel_can_be_built_is_parity_310_which_the_shell_sees_as_54() {
    let project = Project::with_tools(&["ruff"]);
    project.write("setup.py", "import sys\n\nif 'bdist_wheel' in sys.argv:\n    sys.exit('no wheel today')\n").commit();
    project.lock(|lock| lock["build"] = json!(true));
    project.lock(|lock| lock["environment"]["project"] = json!("none"));
    fails(&project, 310, &["PARITY-310"], "no wheel today");
    let report = project.report();
    assert!(report.step("import")["skipped"].as_str().unwrap().contains("build"));
    assert_eq!((report.0["exit_status"].as_u64(), report.started()), (Some(54), 2));
}

#[test]
fn a_wheel_that_can_not_be_imported_is_parity_311_which_the_shell_sees_as_55() {
    let project = Project::with_tools(&["ruff"]);
    // The worktree has the file, the wheel has not: the usual way to ship a broken wheel.
    let text = "import pathlib\n\nTEXT = (pathlib.Path(__file__).parent / 'data.txt').read_text()\n";
    project.write("src/demo/__init__.py", text).write("src/demo/data.txt", "here\n").commit();
    project.lock(|lock| lock["build"] = json!(true));
    fails(&project, 311, &["PARITY-311"], "data.txt");
    assert_eq!(project.report().0["exit_status"], 55);
}

#[test]
fn the_first_finding_in_plan_order_decides_and_all_are_reported() {
    let project = Project::with_tools(&["ruff", "pytest", "bandit"]);
    project.write("src/demo/issues.py", ISSUES).replace("tests/test_demo.py", "== 3000", "== 3001").commit();
    project.lock(|lock| lock["required_artifacts"] = json!(["artifacts/none.txt"]));
    fails(&project, 211, &["PARITY-211", "PARITY-221", "PARITY-242", "PARITY-301"], "F401");
    // The order of the lock is the order that decides.
    project.lock(|lock| {
        let tools = lock["tools"].as_object_mut().unwrap();
        let ruff = tools.shift_remove("ruff").unwrap();
        tools.insert("ruff".to_owned(), ruff);
    });
    fails(&project, 221, &["PARITY-221", "PARITY-242", "PARITY-211", "PARITY-301"], "F401");
}

#[test]
fn a_tool_that_exits_with_one_of_our_own_codes_is_told_apart() {
    let project = Project::with_tools(&["ruff"]);
    for status in [222, 69, 70, 101, 143] {
        let args = ["-c".to_owned(), format!("raise SystemExit({status})")];
        project.lock(|lock| {
            lock["tools"]["odd"] = json!({"command": "python", "args": args, "gate": "lint", "timeout_sec": 30})
        });
        fails(&project, 211, &["PARITY-211"], &format!("odd exited with status {status}"));
    }
    project.ft(&["exec", "--", "sh", "-c", "exit 222"]).leaves(222);
}

#[test]
fn a_tool_that_is_not_in_the_environment_is_its_gate_s_failure() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| {
        lock["tools"]["ghost"] = json!({"command": "no-such-tool", "args": [], "gate": "lint", "timeout_sec": 30})
    });
    fails(&project, 211, &["PARITY-211"], "no-such-tool");
}
