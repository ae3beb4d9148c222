//! The original's checklist: a fresh clone sets itself up, hooks judge what is committed and pushed, nothing hangs.

use super::harness::{Project, git};
use std::fs;

const BREAKS: &str = "import os\n";

/// A clone of a locked repository, whose person wants it set up.
fn cloned() -> (Project, Project) {
    let origin = Project::with_tools(&["ruff"]);
    let clone = Project::empty().var("FIRSTTRY_DISABLE_AUTO_PARITY", "");
    fs::remove_dir(&clone.root).unwrap();
    git(&origin.root, &["clone", "-q", ".", clone.root.to_str().unwrap()]);
    (origin, clone)
}

/// Runs git as the person does, hooks and all, with our programs first in the `PATH`.
#[track_caller]
fn commit(project: &Project, passes: bool) -> String {
    let ran = project.git_as_person(&["commit", "-qm", "work"]);
    assert_eq!(ran.status == Some(0), passes, "{}{}", ran.out, ran.err);
    format!("{}{}", ran.out, ran.err)
}

#[test]
fn the_first_command_in_a_fresh_clone_sets_it_up_and_the_second_is_silent() {
    let (_origin, clone) = cloned();
    let first = clone.ft(&["version"]);
    first.leaves(0).says("first ft command in this clone").says("pre-commit: installed");
    assert_eq!(first.out, format!("ft {}\n", env!("CARGO_PKG_VERSION")));
    assert!(clone.path(".venv-parity/bin/python").exists());
    assert!(clone.path(".git/hooks/pre-commit").is_file() && clone.path(".git/hooks/pre-push").is_file());
    let second = clone.ft(&["version"]);
    second.leaves(0);
    assert_eq!(second.err, "");
    assert_eq!(clone.git(&["status", "--porcelain"]), "");
    clone.ft_parity(&["--self-check"]).leaves(0).says("passed: self-check");
    assert_eq!(clone.report().0["type"], "self-check");
    clone.ft_parity(&["--parity"]).leaves(0);
    assert_eq!(clone.report().0["type"], "parity");
}

#[test]
fn ci_and_the_variable_that_says_so_do_not_set_a_clone_up() {
    for vars in [("CI", "true"), ("FIRSTTRY_DISABLE_AUTO_PARITY", "1")] {
        let (_origin, clone) = cloned();
        let ran = clone.ft_with(&[vars], &["version"]);
        ran.leaves(0);
        assert_eq!(ran.err, "");
        assert!(!clone.path(".firsttry").exists() && !clone.path(".git/hooks/pre-commit").exists());
    }
    let (_origin, clone) = cloned();
    for args in [&["--help"][..], &["completions", "bash"], &["schema"], &["explain", "102"]] {
        assert_eq!(clone.ft(args).leaves(0).err, "");
    }
    assert!(!clone.path(".firsttry").exists());
}

#[test]
fn a_bootstrap_that_fails_warns_and_lets_the_command_go_on() {
    let (_origin, clone) = cloned();
    let cold = clone.home.join("cold").display().to_string();
    clone.ft_with(&[("FT_CACHE_DIR", &cold)], &["version"]).leaves(0).says("the environment was not built");
    clone.ft(&["version"]).leaves(0);
    assert!(clone.path(".venv-parity/bin/python").exists());
}

#[test]
fn the_commit_hook_judges_the_index_and_not_the_worktree() {
    let project = Project::with_tools(&["ruff"]);
    project.ft(&["hooks", "install"]).leaves(0);
    let good = project.read("ruff.toml");
    // Staged: drift. In the worktree: all is well.
    project.write("ruff.toml", "line-length = 99\n").git(&["add", "-A"]);
    project.write("ruff.toml", &good);
    assert!(commit(&project, false).contains("PARITY-012"));
    // Staged: all is well. In the worktree: drift.
    project.git(&["add", "-A"]);
    project.write("ruff.toml", "line-length = 99\n").write("src/demo/new.py", "x = 1\n").git(&["add", "src"]);
    commit(&project, true);
    project.git(&["add", "-A"]);
    assert!(commit(&project, false).contains("ruff.toml"));
    let skipped = project.git_as_person(&["-c", "core.pager=", "commit", "-qm", "no check", "--no-verify"]);
    skipped.leaves(0);
}

#[test]
fn a_commit_of_some_paths_is_judged_by_the_index_that_git_makes_for_it() {
    let project = Project::with_tools(&["ruff"]);
    project.ft(&["hooks", "install"]).leaves(0);
    project.write("ruff.toml", "line-length = 99\n").write("src/demo/new.py", "x = 1\n").git(&["add", "-A"]);
    project.git_as_person(&["commit", "-qm", "only one file", "src/demo/new.py"]).leaves(0);
    let refused = project.git_as_person(&["commit", "-qm", "the other", "ruff.toml"]);
    assert_ne!(refused.status, Some(0), "{}", refused.err);
}

#[test]
fn the_push_hook_judges_what_is_pushed_and_not_the_worktree() {
    let project = Project::with_tools(&["ruff"]);
    let remote = project.home.join("remote.git");
    git(&project.home, &["init", "-q", "--bare", "remote.git"]);
    project.git(&["remote", "add", "origin", remote.to_str().unwrap()]);
    project.ft(&["hooks", "install"]).leaves(0);
    // The commit is broken, the worktree is not.
    project.write("src/demo/bad.py", BREAKS).commit();
    project.write("src/demo/bad.py", "");
    let refused = project.git_as_person(&["push", "-q", "origin", "main"]);
    assert_ne!(refused.status, Some(0));
    refused.says("PARITY-211").says("F401");
    assert_eq!(git(&remote, &["branch", "--list"]), "");
    // The commit is mended, the worktree is broken.
    project.commit();
    project.write("src/demo/bad.py", BREAKS);
    project.git_as_person(&["push", "-q", "origin", "main"]).leaves(0);
    assert!(git(&remote, &["branch", "--list"]).contains("main"));
    project.commit();
    project.git_as_person(&["push", "-q", "origin", "main"]).says("PARITY-211");
    let ran = project.command("git", &["push", "-q", "origin", "main"]).env("SKIP_FT", "1").output().unwrap();
    assert!(ran.status.success());
    assert!(String::from_utf8_lossy(&ran.stderr).contains("SKIP_FT"));
    // Deleting a branch pushes no commit.
    project.git(&["branch", "other", "HEAD~1"]);
    project.git_as_person(&["push", "-q", "origin", "other"]).leaves(0);
    project.git_as_person(&["push", "-q", "origin", ":other"]).leaves(0);
}

#[test]
fn hooks_that_were_there_are_called_and_come_back_to_the_byte() {
    let project = Project::with_tools(&["ruff"]);
    let own = "#!/bin/sh\necho own hook >> said.txt\n";
    fs::create_dir_all(project.path(".git/hooks")).unwrap();
    project.write(".git/hooks/pre-commit", own);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(project.path(".git/hooks/pre-commit"), mode).unwrap();
    project.ft(&["hooks", "install"]).leaves(0);
    project.write("src/demo/new.py", "x = 1\n").git(&["add", "src"]);
    commit(&project, true);
    assert_eq!(project.read("said.txt"), "own hook\n");
    project.ft(&["hooks", "uninstall"]).leaves(0);
    assert_eq!(project.read(".git/hooks/pre-commit"), own);
    assert!(!project.path(".git/hooks/pre-push").exists());
}

const MORE: &str = "\n\ndef test_more() -> None:\n    pass\n";

#[test]
fn a_new_test_goes_into_the_manifest_where_the_lock_allows_it_and_never_in_ci() {
    let project = Project::with_tools(&["pytest"]);
    let (tests, manifest) = (project.read("tests/test_demo.py"), project.read("ci/collection.txt"));
    project.write("tests/test_demo.py", format!("{tests}{MORE}"));
    project.ft_with(&[("CI", "true")], &["check"]).leaves(223).says("PARITY-021").says("tests/test_demo.py +1");
    assert_eq!(project.read("ci/collection.txt"), manifest);
    project.ft(&["check"]).leaves(0).says("ci/collection.txt: +1 tests");
    assert_ne!(project.read("ci/collection.txt"), manifest);
    project.ft_with(&[("CI", "true")], &["check"]).leaves(0);
    project.commit();
    project.ft_with(&[("CI", "true")], &["run"]).leaves(0);
    // A removal is never taken over silently.
    let three = project.read("ci/collection.txt");
    project.write("tests/test_demo.py", &tests);
    project.ft(&["check"]).leaves(223).says("tests/test_demo.py -1");
    assert_eq!(project.read("ci/collection.txt"), three);
    project.ft(&["lock", "--collection"]).leaves(0);
    assert_eq!(project.read("ci/collection.txt"), manifest);
    project.ft(&["check"]).leaves(0);
}

#[test]
fn a_lock_that_wants_every_change_reviewed_refuses_a_new_test() {
    let project = Project::with_tools(&["pytest"]);
    project.lock(|lock| lock["pytest_collection"]["on_added"] = serde_json::json!("fail"));
    let tests = project.read("tests/test_demo.py");
    project.write("tests/test_demo.py", format!("{tests}{MORE}"));
    project.ft(&["check"]).leaves(223).says("PARITY-021");
}

#[test]
fn branches_that_each_add_tests_merge_without_a_hand_edited_hash() {
    let project = Project::with_tools(&["pytest"]);
    for (branch, file) in [("one", "tests/test_a.py"), ("two", "tests/test_z.py")] {
        project.git(&["checkout", "-q", "-b", branch, "main"]);
        project.write(file, format!("def test_of_{branch}() -> None:\n    pass\n")).git(&["add", "-A"]);
        project.ft(&["check"]).leaves(0);
        project.commit();
    }
    project.git(&["merge", "-q", "--no-edit", "one"]);
    project.ft_with(&[("CI", "true")], &["run"]).leaves(0).says("4 tests");
}
