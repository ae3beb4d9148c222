//! What two people do at once: a dependency bump, a new test, two branches that each add tests. Real merges by git,
//! then the real checks. Nobody has a conflict, nobody edits a hash.

use crate::harness::{By, Repo};
use firsttry::report::fields::Report;

const PYPROJECT: &str = r#"[project]
name = "app"
version = "1"
requires-python = ">=3.11"

[dependency-groups]
dev = ["pytest==8.3.4", "iniconfig==2.0.0"]

[tool.uv]
package = false

[tool.pytest.ini_options]
testpaths = ["tests"]
"#;

fn tests(names: &[&str]) -> String {
    names.iter().map(|name| format!("def test_{name}():\n    assert True\n\n\n")).collect()
}

/// What the last commit of a branch changed.
fn changed(repo: &Repo, branch: &str) -> Vec<String> {
    repo.git(&["diff", "--name-only", &format!("{branch}~"), branch]).lines().map(str::to_owned).collect()
}

/// As CI judges it: nothing may be written, every test must be in the manifest, the lock must be fresh.
fn holds(repo: &Repo, tests: u64, pytest: Option<&str>) {
    repo.ft(&["lock", "--check"]).expect(0);
    let checked = repo.ci(&["check", "--json"]).expect(0);
    let report: Report = serde_json::from_str(&checked.stdout).expect("the report of the self-check");
    assert_eq!(report.collection.count, Some(tests));
    if let Some(pytest) = pytest {
        assert_eq!(report.tool_versions["pytest"], pytest);
    }
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
}

fn locked(name: &str, by: By, files: &[(&str, &str)]) -> Repo {
    let repo = Repo::empty(name, by);
    files.iter().for_each(|(path, text)| repo.write(path, text));
    repo.write("tests/test_a.py", &tests(&["one", "two"]));
    repo.write("tests/test_c.py", &tests(&["three"]));
    if by == By::Uv {
        repo.uv(&["lock", "--quiet"]);
    }
    repo.git(&["add", "--all"]);
    repo.ft(&["init"]).expect(0);
    repo.commit("The project and its lock");
    repo
}

/// Adds a test on a branch of its own. `ft check` writes it into the manifest.
fn add_test(repo: &Repo, branch: &str, file: &str, names: &[&str]) {
    repo.git(&["switch", "--quiet", "--create", branch, "main"]);
    repo.write(file, &tests(names));
    repo.git(&["add", "--all"]);
    repo.ft(&["check"]).expect(0);
    repo.commit("Add a test");
    assert_eq!(changed(repo, branch), ["ci/collection.txt", file]);
}

fn merge(repo: &Repo, branches: &[&str]) {
    repo.git(&["switch", "--quiet", "main"]);
    for branch in branches {
        repo.git(&["merge", "--quiet", "--no-edit", branch]);
    }
}

#[test]
fn a_bump_of_a_uv_project_changes_pyproject_and_uv_lock_alone_and_merges_with_a_new_test() {
    let repo = locked("bump-uv", By::Uv, &[("pyproject.toml", PYPROJECT)]);
    add_test(&repo, "new-test", "tests/test_b.py", &["four"]);

    repo.git(&["switch", "--quiet", "--create", "bump", "main"]);
    repo.write("pyproject.toml", &PYPROJECT.replace("8.3.4", "8.4.2"));
    let stale = repo.ft(&["lock", "--check"]).expect(102);
    assert!(
        stale.stderr.contains("uv.lock is older than pyproject.toml, which asks for pytest==8.4.2"),
        "{}",
        stale.stderr
    );
    assert!(stale.stderr.contains("PARITY-013") && stale.stderr.contains("run `uv lock`"), "{}", stale.stderr);
    repo.uv(&["lock", "--quiet"]);
    repo.commit("Bump pytest");
    assert_eq!(changed(&repo, "bump"), ["pyproject.toml", "uv.lock"]);
    holds(&repo, 3, Some("8.4.2"));

    merge(&repo, &["new-test", "bump"]);
    holds(&repo, 4, Some("8.4.2"));
}

#[test]
fn a_bump_of_a_project_with_requirements_merges_with_a_new_test() {
    let requirements = "pytest==8.3.4\niniconfig==2.0.0\n";
    let ini = "[pytest]\ntestpaths = tests\n";
    let files = [("requirements-dev.txt", requirements), ("pytest.ini", ini)];
    let repo = locked("bump-requirements", By::Pip, &files);
    add_test(&repo, "new-test", "tests/test_b.py", &["four"]);

    repo.git(&["switch", "--quiet", "--create", "bump", "main"]);
    repo.write("requirements-dev.txt", &requirements.replace("8.3.4", "8.4.2"));
    repo.ft(&["lock", "--check"]).expect(102);
    repo.ft(&["lock"]).expect(0);
    repo.commit("Bump pytest");
    assert_eq!(changed(&repo, "bump"), ["ci/parity.lock.json", "ci/parity.requirements.txt", "requirements-dev.txt"]);

    merge(&repo, &["bump", "new-test"]);
    holds(&repo, 4, Some("8.4.2"));
}

#[test]
fn two_branches_that_each_add_tests_merge() {
    let repo = locked("tests-twice", By::Uv, &[("pyproject.toml", PYPROJECT)]);
    // New files at the same place of the manifest, and one file that both extend.
    add_test(&repo, "one", "tests/test_b1.py", &["four"]);
    add_test(&repo, "two", "tests/test_b2.py", &["five", "six"]);
    let at_start = format!("{}{}", tests(&["zero"]), tests(&["one", "two"]));
    add_test(&repo, "three", "tests/test_a.py", &["one", "two", "seven"]);
    repo.git(&["switch", "--quiet", "--create", "four", "main"]);
    repo.write("tests/test_a.py", &at_start);
    repo.ft(&["check"]).expect(0);
    repo.commit("Add a test at the start");

    merge(&repo, &["one", "two", "three", "four"]);
    holds(&repo, 8, None);
}

#[test]
fn tests_whose_names_depend_on_the_hash_seed_are_not_locked() {
    let unstable = "import pytest\n\n\n@pytest.mark.parametrize('word', {'alpha', 'beta', 'gamma', 'delta', 'epsilon'})\ndef test_word(word):\n    assert word\n\n\n@pytest.mark.parametrize('at', [hash('alpha') % 1000003])\ndef test_hash(at):\n    assert at >= 0\n";
    let repo = Repo::empty("unstable", By::Uv);
    repo.write("pyproject.toml", PYPROJECT);
    repo.write("tests/test_unstable.py", unstable);
    repo.uv(&["lock", "--quiet"]);
    repo.git(&["add", "--all"]);
    let refused = repo.ft(&["init"]).expect(223);
    assert!(refused.stderr.contains("another name under another hash seed"), "{}", refused.stderr);
    assert!(refused.stderr.contains("tests/test_unstable.py::test_hash["), "{}", refused.stderr);
    assert!(!repo.root.join("ci/collection.txt").exists(), "nothing was recorded");
}
