//! The law of caches: an edit of equal size, within the same second, is seen by the very next run, by every tool.

use super::harness::Project;
use serde_json::json;
use std::fs;
use std::time::UNIX_EPOCH;

/// Changes a file without changing its size or its time.
fn edit(project: &Project, path: &str, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    let place = project.path(path);
    let time = fs::metadata(&place).unwrap().modified().unwrap();
    assert!(time > UNIX_EPOCH);
    project.replace(path, old, new);
    fs::File::options().write(true).open(&place).unwrap().set_modified(time).unwrap();
}

/// Green, an edit that breaks it, red with this code, the edit taken back, green again; twice, so that a cache which is
/// filled by the second run is found as well.
fn edited(tool: &str, path: &str, good: &str, bad: &str, exit: i32) {
    let project = Project::with_tools(&[tool]);
    project.ft(&["run"]).leaves(0);
    for _ in 0..2 {
        edit(&project, path, good, bad);
        project.ft(&["run"]).leaves(exit);
        edit(&project, path, bad, good);
        project.ft(&["run"]).leaves(0);
    }
}

#[test]
fn ruff_sees_an_edit_of_equal_size() {
    // A name that is not defined, F821.
    edited("ruff", "src/demo/__init__.py", "return a + b", "return a + c", 211);
}

#[test]
fn mypy_sees_an_edit_of_equal_size() {
    edited("mypy", "src/demo/__init__.py", "b: int) -> int:", "b: int) -> str:", 212);
}

#[test]
fn pytest_sees_an_edit_of_equal_size_in_a_test_and_in_the_code() {
    edited("pytest", "tests/test_demo.py", "== 3000", "== 3001", 221);
    edited("pytest", "src/demo/__init__.py", "return a + b", "return a - b", 221);
}

#[test]
fn bandit_sees_an_edit_of_equal_size() {
    let project = Project::with_tools(&["bandit"]);
    project.write("src/demo/shell.py", "import textwrap  \n").commit();
    project.ft(&["run"]).leaves(0);
    project.lock(|lock| lock["thresholds"]["bandit_severity_max"] = json!("NONE"));
    edit(&project, "src/demo/shell.py", "import textwrap  ", "import subprocess");
    project.ft(&["run"]).leaves(242);
    edit(&project, "src/demo/shell.py", "import subprocess", "import textwrap  ");
    project.ft(&["run"]).leaves(0);
}

#[test]
fn the_self_check_sees_a_renamed_test_of_equal_size() {
    let project = Project::with_tools(&["pytest"]);
    project.ft(&["check"]).leaves(0);
    project.ft(&["check"]).leaves(0).says("nothing changed since its tests were collected");
    edit(&project, "tests/test_demo.py", "test_small", "test_smell");
    project.ft(&["check"]).leaves(223).says("PARITY-021");
    edit(&project, "tests/test_demo.py", "test_smell", "test_small");
    project.ft(&["check"]).leaves(0);
}

#[test]
fn a_config_file_that_is_edited_without_a_trace_is_seen() {
    let project = Project::with_tools(&["ruff"]);
    project.ft(&["check"]).leaves(0);
    edit(&project, "ruff.toml", "100", "101");
    project.ft(&["check"]).leaves(102).says("PARITY-012");
}
