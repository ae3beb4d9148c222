//! Every code that is found before a step starts, provoked on a real repository: exit status, report, words.
//! PARITY-050 and -051 belong to container mode and can't be provoked in venv mode.

use super::harness::{Project, Report};
use serde_json::json;

/// The run stopped before its first step, for this reason alone.
#[track_caller]
fn stopped(project: &Project, status: i32, code: &str, words: &str) -> Report {
    let ran = project.ft(&["run"]);
    ran.leaves(status).says(code).does_not_say("passed:").does_not_say("RUN ");
    let report = project.report();
    assert_eq!(report.exit_code(), u64::try_from(status).unwrap());
    assert_eq!(report.failures(), [code]);
    assert_eq!(report.started(), 0, "a step was started");
    let (message, hint) = report.finding(code);
    assert!(message.contains(words), "{message:?} does not say {words:?}");
    assert!(!hint.is_empty(), "{code} says no next step");
    report
}

#[test]
fn a_repository_that_is_as_its_lock_says_passes() {
    let project = Project::new();
    project.lock(|lock| lock["build"] = json!(true)).commit();
    project.ft(&["run"]).leaves(0).says("passed: 6 checks, 2 tests");
    let report = project.report();
    assert_eq!((report.exit_code(), report.0["ok"].as_bool()), (0, Some(true)));
    assert_eq!(report.0["tool_versions"]["pytest"], "8.4.2");
    assert_eq!(project.git(&["status", "--porcelain"]), "");
    for file in ["events.jsonl", "junit.xml", "logs/pytest.log", "logs/build.log"] {
        assert!(project.path("artifacts").join(file).is_file(), "artifacts/{file} is missing");
    }
}

#[test]
fn another_version_of_a_tool_is_parity_001() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| lock["tools"]["ruff"]["version"] = json!("0.1.0"));
    stopped(&project, 101, "PARITY-001", "0.14.4");
}

#[test]
fn another_patch_release_of_python_is_parity_003() {
    let project = Project::with_tools(&["ruff"]);
    let locked = format!("{}.99", Project::python());
    project.lock(|lock| lock["python_locked"] = json!({Project::python(): locked}));
    stopped(&project, 101, "PARITY-003", &locked);
    project.lock(|lock| lock["python_match"] = json!("minor"));
    project.ft(&["run"]).leaves(0);
}

#[test]
fn a_python_that_is_not_installed_is_parity_003_and_what_was_found_is_named() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| {
        lock["python"] = json!("3.99");
        lock.as_object_mut().unwrap().remove("python_locked");
    });
    let report = stopped(&project, 101, "PARITY-003", "Python 3.99 is not installed");
    let (message, hint) = report.finding("PARITY-003");
    assert!(message.contains(&Project::python_bin().display().to_string()), "{message}");
    assert!(hint.contains("3.99"), "{hint}");
}

#[test]
fn an_edited_environment_is_parity_004() {
    let project = Project::with_tools(&["ruff"]).with_own_environment();
    let site = format!(".venv-parity/lib/python{}/site-packages", Project::python());
    project.write(&format!("{site}/pytest/__init__.py"), "raise SystemExit(0)\n");
    project.write(&format!("{site}/sitecustomize.py"), "");
    project.ft(&["check"]).leaves(101).says("PARITY-004");
    let report = stopped(&project, 101, "PARITY-004", "pytest/__init__.py");
    assert!(report.finding("PARITY-004").0.contains("sitecustomize.py"));
    project.ft(&["env", "verify"]).leaves(101).says("sitecustomize.py");
    project.ft(&["env", "build", "--force"]).leaves(0);
    project.ft(&["run"]).leaves(0);
}

#[test]
fn a_package_without_a_hash_is_parity_005() {
    let project = Project::with_tools(&["ruff"]);
    let closure = project.read("ci/parity.requirements.txt");
    let name = closure.lines().find(|line| line.starts_with("ruff==")).unwrap();
    let start = closure.find(name).unwrap();
    let end =
        closure[start..].match_indices('\n').find(|(at, _)| !closure[start + at + 1..].starts_with(' ')).unwrap().0;
    let bare = format!("{}ruff==0.14.4{}", &closure[..start], &closure[start + end..]);
    project.write("ci/parity.requirements.txt", bare);
    stopped(&project, 101, "PARITY-005", "ruff");
}

#[test]
fn a_lock_for_another_runner_is_parity_006() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| lock["runner"]["version"] = json!(">=99"));
    let report = stopped(&project, 101, "PARITY-006", ">=99");
    assert!(report.finding("PARITY-006").1.contains("cargo install firsttry --version '>=99'"));
}

#[test]
fn a_changed_config_file_is_parity_012_and_the_steps_still_run() {
    let project = Project::with_tools(&["ruff"]);
    project.write("ruff.toml", "line-length = 99\n");
    project.ft(&["run"]).leaves(102).says("PARITY-012").says("PASS ruff").says("ruff.toml");
    let report = project.report();
    assert_eq!((report.exit_code(), report.failures(), report.started()), (102, vec!["PARITY-012"], 1));
}

#[test]
fn a_table_of_a_config_file_is_held_alone() {
    let project = Project::with_tools(&["ruff"]).with_own_environment();
    // A comment elsewhere in the file changes its bytes and not the table; the sources are another matter.
    project.lock(|lock| lock["environment"]["sources"] = json!(["ruff.toml"]));
    project.lock(|lock| {
        lock["environment"].as_object_mut().unwrap().remove("sources_sha256");
    });
    let text = project.read("pyproject.toml");
    project.write("pyproject.toml", format!("{text}\n[tool.unrelated]\nx = 1\n"));
    project.ft(&["check"]).leaves(0);
    project.write("pyproject.toml", text.replace("files = [\"src\"]", "files = [\"src/demo\"]"));
    project.ft(&["check"]).leaves(102).says("pyproject.toml#tool.mypy");
}

#[test]
fn a_lock_that_is_older_than_its_sources_is_parity_013() {
    let project = Project::with_tools(&["ruff"]);
    project.replace("pyproject.toml", "ruff==0.14.4", "ruff==0.14.5");
    let report = stopped(&project, 102, "PARITY-013", "pyproject.toml");
    assert!(report.finding("PARITY-013").1.contains("ft lock"));
    project.ft(&["lock", "--check"]).leaves(102).says("PARITY-013");
}

#[test]
fn a_version_1_lock_is_checked_but_not_run() {
    let project = Project::with_tools(&["ruff"]);
    let v1 = json!({
        "python": Project::python(), "tools": {"ruff": {"version": "0.14.4", "args": ["check", "."]}},
        "thresholds": {"coverage_min": 0.75}, "pytest_collection": {"allow_uncollected": true},
    });
    project.write("ci/parity.lock.json", v1.to_string());
    project.ft(&["check"]).leaves(0).says("PARITY-013");
    stopped(&project, 102, "PARITY-013", "no hashed closure");
}

#[test]
fn an_image_by_tag_is_parity_014_where_a_container_is_asked_for() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| lock["container"] = json!({"image": "python:3.11-slim"}));
    project.ft(&["run"]).leaves(0);
    project.ft(&["run", "--container"]).leaves(102).says("PARITY-014").says("python:3.11-slim is a tag");
    project.lock(|lock| lock["container"]["force_container"] = json!(true));
    stopped(&project, 102, "PARITY-014", "python:3.11-slim");
}

#[test]
fn a_threshold_below_one_half_is_parity_019() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| lock["thresholds"]["coverage_min"] = json!(0.3));
    stopped(&project, 102, "PARITY-019", "0.3");
}

#[test]
fn a_missing_plugin_is_parity_034() {
    let project = Project::with_tools(&["ruff"]);
    project.lock(|lock| lock["plugins"] = json!(["pytest_cov", "Pytest_XDist"]));
    let report = stopped(&project, 103, "PARITY-034", "Pytest_XDist");
    assert!(!report.finding("PARITY-034").0.contains("pytest_cov"));
}

#[test]
fn a_selection_in_pytest_addopts_is_parity_041_and_no_cell_sees_it() {
    let project = Project::with_tools(&["pytest"]);
    let ran = project.ft_with(&[("PYTEST_ADDOPTS", "-k small")], &["run"]);
    ran.leaves(104).says("PARITY-041").says("-k small").says("2 tests");
    assert_eq!(project.report().failures(), ["PARITY-041"]);
    project.ft_with(&[("PYTEST_ADDOPTS", "-ra --tb=short")], &["run"]).leaves(0);
}

#[test]
fn a_run_of_some_steps_is_parity_041() {
    let project = Project::with_tools(&["ruff", "bandit"]);
    project.ft(&["run", "ruff"]).leaves(104).says("PARITY-041").says("PASS ruff").does_not_say("bandit 0");
    let report = project.report();
    assert_eq!((report.exit_code(), report.failures(), report.started()), (104, vec!["PARITY-041"], 1));
    project.ft(&["run", "ruff", "--advisory"]).leaves(0).does_not_say("passed");
}

#[test]
fn a_step_that_is_not_in_the_lock_is_a_mistake_of_usage() {
    let project = Project::with_tools(&["ruff", "bandit"]);
    project.ft(&["run", "rufff"]).leaves(2).says("rufff").says("ruff");
}

#[test]
fn an_untracked_file_is_parity_042_a_warning_by_hand_and_an_error_in_ci() {
    let project = Project::with_tools(&["ruff"]);
    project.write("src/demo/forgotten.py", "x = 1\n");
    project.ft(&["run"]).leaves(0).says("PARITY-042").says("src/demo/forgotten.py");
    assert_eq!((project.report().exit_code(), project.report().warnings()), (0, vec!["PARITY-042"]));
    project.ft_with(&[("CI", "true")], &["run"]).leaves(104).says("PASS ruff");
    assert_eq!(project.report().failures(), ["PARITY-042"]);
    project.ft(&["ci"]).leaves(104);
    project.write(".gitignore", "forgotten.py\n").commit();
    project.ft(&["ci"]).leaves(0).does_not_say("PARITY-042");
}

#[test]
fn a_container_that_is_asked_for_is_never_replaced_by_venv_mode() {
    let project = Project::with_tools(&["ruff"]);
    let image = format!("sha256:{}", "a".repeat(64));
    project.lock(|lock| lock["container"] = json!({"image": image, "force_container": true}));
    stopped(&project, 105, "PARITY-051", "has no image");
    project.lock(|lock| lock["container"]["force_container"] = json!(false));
    project.lock(|lock| lock["cell"] = json!({"minimum": "container"}));
    stopped(&project, 105, "PARITY-051", "has no image");
    project.lock(|lock| lock["cell"] = json!({"minimum": "namespaces"}));
    project.ft(&["run"]).leaves(0);
}

#[test]
fn a_required_limit_that_can_not_be_applied_is_parity_052() {
    let project = Project::with_tools(&["ruff"]);
    let limits = json!({"mem_mb": 500, "disk_mb": 100, "required": true});
    project.lock(|lock| lock["resource_limits"] = limits);
    // A machine on which this user can make no control group: there is nothing where they are made.
    let without = |args: &[&str]| {
        let script = "mount -t tmpfs -o ro none /sys/fs/cgroup && exec \"$@\"";
        let as_root: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        let hidden: &[&str] = &["--mount", "--", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_ft")];
        project.run("unshare", &[as_root, hidden, args].concat())
    };
    without(&["run"]).leaves(105).says("PARITY-052").says("limit of memory").does_not_say("RUN ");
    assert_eq!(project.report().failures(), ["PARITY-052"]);
    project.lock(|lock| lock["resource_limits"]["required"] = json!(false));
    without(&["run"]).leaves(0).says("memory");
    project.lock(|lock| lock["resource_limits"]["required"] = json!(true));
    project.ft(&["run"]).leaves(0);
}

#[test]
fn changed_only_mode_is_parity_060() {
    let project = Project::with_tools(&["ruff"]).var("FT_CHANGED_ONLY", "1");
    let message = "this repository is always checked as a whole";
    project.lock(|lock| lock["changed_only_policy"] = json!({"forbid_in_parity": true, "message": message}));
    stopped(&project, 106, "PARITY-060", message);
}

#[test]
fn an_advisory_run_reports_everything_leaves_with_0_and_never_says_passed() {
    let project = Project::with_tools(&["ruff"]);
    project.write("ruff.toml", "line-length = 99\n").write("src/demo/bad.py", "import os\n").commit();
    project.ft(&["run", "--advisory"]).leaves(0).says("PARITY-012").says("PARITY-211").does_not_say("passed");
    let report = project.report();
    assert_eq!((report.exit_code(), report.0["ok"].as_bool()), (0, Some(false)));
    assert_eq!(report.failures(), ["PARITY-012", "PARITY-211"]);
}

#[test]
fn a_build_backend_that_is_not_in_the_closure_is_parity_013() {
    let project = Project::with_tools(&["ruff"]);
    let text = project.read("pyproject.toml").replace("setuptools==80.9.0", "hatchling");
    project.write("pyproject.toml", text.replace("setuptools.build_meta", "hatchling.build"));
    project.lock(|lock| {
        let environment = lock["environment"].as_object_mut().unwrap();
        environment.insert("sources".to_owned(), json!(["ruff.toml"]));
        environment.remove("sources_sha256");
    });
    stopped(&project, 102, "PARITY-013", "hatchling");
    assert!(project.report().finding("PARITY-013").1.contains("ft lock"));
}

#[test]
fn a_revision_that_is_not_there_is_named() {
    let project = Project::with_tools(&["ruff"]);
    for command in [&["run"][..], &["check"], &["exec", "--", "true"]] {
        let (name, rest) = command.split_first().unwrap();
        let args = [&[*name, "--snapshot", "no-such-branch"], rest].concat();
        project.ft(&args).leaves(2).says("no-such-branch: git knows no such commit here");
    }
    project.ft(&["run", "--snapshot", "HEAD"]).leaves(0);
}
