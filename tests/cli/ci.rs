//! What CI is given: the page of a job, the composite action, the workflows to copy, the manifest of hook frameworks.

use super::harness::{Project, git};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A file of this repository, parsed.
fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    serde_yaml_ng::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_page_of_a_job_is_added_to_what_other_steps_wrote() {
    let project = Project::with_tools(&["ruff"]);
    let page = project.home.join("summary.md");
    fs::write(&page, "# from another step\n").unwrap();
    let vars = [("GITHUB_STEP_SUMMARY", page.to_str().unwrap()), ("GITHUB_ACTIONS", "true"), ("CI", "true")];
    project.ft_with(&vars, &["ci"]).leaves(0);
    project.write("src/demo/__init__.py", "import os, sys\n").commit();
    project.ft_with(&vars, &["ci"]).leaves(211);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("# from another step\n### ft: passed"), "{page}");
    assert!(page.contains("| PASS | ruff |") && page.contains("| FAIL | ruff |"), "{page}");
    assert!(page.contains("**PARITY-211** ruff"), "{page}");
}

#[test]
fn a_page_that_can_not_be_written_changes_no_verdict() {
    let project = Project::with_tools(&["ruff"]);
    let vars = [("GITHUB_STEP_SUMMARY", "/nowhere/summary.md"), ("CI", "true")];
    project.ft_with(&vars, &["ci"]).leaves(0).says("/nowhere/summary.md");
}

#[test]
fn the_composite_action_calls_ft_with_its_arguments_and_says_where_the_report_is() {
    let action = yaml("ci/action/action.yml");
    let steps = action["runs"]["steps"].as_array().unwrap();
    let script = steps.iter().find(|step| step["id"] == "run").unwrap()["run"].as_str().unwrap();
    // The runner puts what an expression gives into the script as it is: one of a pull request's would be code.
    assert!(steps.iter().all(|step| !step["run"].as_str().unwrap_or_default().contains("${{")), "{action:#}");
    let project = Project::with_tools(&["ruff"]);
    let (root, output) = (project.home.join("ft"), project.home.join("output"));
    fs::create_dir_all(root.join("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_ft"), root.join("bin/ft")).unwrap();
    let ran = project
        .command("bash", &["--noprofile", "--norc", "-eo", "pipefail", "-c", script])
        .env("ROOT", &root)
        .env("ARGS", "--json\n\n--snapshot\nHEAD\n")
        .env("CI", "true")
        .env("GITHUB_OUTPUT", &output)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["snapshot"]["source"], git(&project.root, &["rev-parse", "HEAD"]));
    let said = fs::read_to_string(output).unwrap();
    let path = said.trim().strip_prefix("report=").unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap()["id"], report["id"]);
}

#[test]
fn workflows_and_manifest_name_commands_that_there_are() {
    let github = yaml("ci/workflows/github.yml");
    let job = &github["jobs"]["checks-in-image"]["steps"];
    assert!(job.as_array().unwrap().iter().any(|step| step["run"] == "ft ci"), "{github:#}");
    assert_eq!(github["permissions"], serde_json::json!({"contents": "read"}));
    assert_eq!(yaml("ci/workflows/gitlab.yml")["checks"]["script"][0], "ft ci");
    let project = Project::with_tools(&["ruff"]);
    for hook in yaml(".pre-commit-hooks.yaml").as_array().unwrap() {
        let entry: Vec<&str> = hook["entry"].as_str().unwrap().split(' ').collect();
        assert_eq!(entry[0], "ft");
        project.ft(&[entry[1], "--help"]).leaves(0);
    }
}

#[test]
fn a_hook_framework_that_read_gits_list_says_what_is_pushed() {
    let project = Project::with_tools(&["ruff"]);
    let good = git(&project.root, &["rev-parse", "HEAD"]);
    project.write("src/demo/__init__.py", "import os, sys\n").commit();
    let bad = git(&project.root, &["rev-parse", "HEAD"]);
    let push = |oid: &str| {
        project.ft_with(&[("PRE_COMMIT_TO_REF", oid), ("PRE_COMMIT_LOCAL_BRANCH", "refs/heads/main")], &["pre-push"])
    };
    push(&good).leaves(0).says("(refs/heads/main)");
    push(&bad).leaves(211);
    project.ft(&["pre-push"]).leaves(0).says("nothing was checked");
}
