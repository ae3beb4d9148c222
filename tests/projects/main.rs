//! The main job on projects that nobody here wrote: sdists of the package index, pinned by sha256, as their authors
//! released them. `ft init`, a commit, `ft run`: green with the projects' own tests, and the report is whole. In a container
//! it is the same.
#![cfg(target_os = "linux")]

#[path = "../cells/container.rs"]
#[allow(dead_code, reason = "images alone are needed here")]
mod container;
mod harness;
mod image;
mod merges;

use firsttry::event::Event;
use firsttry::outcome::Outcome;
use firsttry::report::fields::{Report, StepReport, Tests};
use firsttry::report::json::json;
use firsttry::report::state::StepState;
use harness::{By, Repo, Sdist};

/// Whether a second self-check needs no cell.
#[derive(PartialEq, Eq)]
enum Second {
    Warm,
    /// Collecting depends on what no cache key holds.
    Collects,
}

/// From `ft init` to the report, in both modes. `steps` must be in the lock, and at least `passed` tests must pass.
fn main_job(repo: &Repo, steps: &[&str], passed: u64, second: Second) {
    repo.ft(&["init"]).expect(0);
    repo.ft(&["lock", "--image", image::image()]).expect(0);
    repo.commit("The lock");
    repo.ft(&["run"]).expect(0);
    let report = published(repo);
    whole(&report, steps, passed);
    replayed(repo, &report);
    counted(repo, &report);
    assert_eq!(repo.git(&["status", "--porcelain"]), "", "a run leaves nothing that git sees");
    repo.ft(&["lock", "--check"]).expect(0);
    self_check(repo, &second);
    in_a_container(repo, &report);
}

/// In a container the report is the same, but for where that was and how it was held.
fn in_a_container(repo: &Repo, report: &Report) {
    repo.ft(&["run", "--container"]).expect(0);
    let contained = published(repo);
    assert!(contained.environment.is_some_and(|environment| environment.container.is_some()));
    let compared = repo.ft(&["diff", &report.id, &contained.id]).expect(1);
    let held = |line: &&str| line.starts_with("enforcement.") || line.contains(".enforcement.");
    let (held, other): (Vec<&str>, Vec<&str>) = compared.stdout.lines().partition(held);
    assert!(held.contains(&"enforcement.cell: namespaces | container"), "{held:#?}");
    let fields: Vec<&str> = other.iter().map(|line| line.split(':').next().unwrap_or_default()).collect();
    assert_eq!(fields, ["environment.key", "environment.path", "environment.container"], "{other:#?}");
}

fn published(repo: &Repo) -> Report {
    serde_json::from_str(&repo.read("artifacts/parity_report.json")).expect("the report is of its own type")
}

/// Every section of the report is there and says something.
fn whole(report: &Report, steps: &[&str], passed: u64) {
    assert!(report.ok && report.kind == "parity" && report.exit_code == 0 && report.exit_status == 0);
    assert!(report.python.starts_with("3.11."), "{}", report.python);
    assert!(report.failures.is_empty() && report.broken.is_empty() && report.bug.is_none(), "{:?}", report.failures);
    assert!(report.lock_sha256.len() == 64 && report.duration_sec.is_some_and(|seconds| seconds > 0.0));
    for wall in ["network", "mounts", "pid", "user", "capabilities", "no_new_privs", "seccomp"] {
        let found = report.enforcement.walls.iter().find(|found| found.wall == wall);
        assert!(found.is_some_and(|found| found.enforced && found.not_in.is_empty()), "{wall}: {found:?}");
    }
    let snapshot = report.snapshot.as_ref().expect("a snapshot was taken");
    assert!(snapshot.sha256.len() == 64 && snapshot.entries > 10 && !snapshot.dirty && snapshot.untracked.is_empty());
    let environment = report.environment.as_ref().expect("an environment was there");
    assert!(environment.packages.contains_key("pytest") && environment.key.len() > 10);
    for step in ["build", "import"].iter().chain(steps) {
        let step = report.steps.iter().find(|found| found.step == *step).unwrap_or_else(|| panic!("no step {step}"));
        good(step);
        assert!(report.durations_sec.contains_key(&step.step));
    }
    for tool in steps {
        assert!(report.tool_versions.contains_key(*tool), "{:?}", report.tool_versions);
    }
    let tests = tests_of(report);
    let (found, failed) = (tests.passed, tests.failed + tests.errors);
    assert!(found >= passed && failed == 0 && tests.finished, "{found} of {passed} passed, {failed} failed");
    assert_eq!(tests.skips.len() as u64, tests.skipped);
    assert!(tests.skips.iter().all(|skip| !skip.msg.is_empty()), "each skip has its reason: {:?}", tests.skips);
    assert_eq!(report.collection.count, Some(tests.collected));
    assert_eq!(report.collection.hash.as_ref().map(String::len), Some(64));
}

fn good(step: &StepReport) {
    assert_eq!((step.state, step.exit), (StepState::Good, Some(0)), "{}", step.step);
    assert!(!step.argv.is_empty() && step.duration_sec.is_some_and(|seconds| seconds > 0.0), "{}", step.step);
    assert!(step.cpu_sec.is_some() && step.peak_memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{}", step.step);
    assert!(step.network.policy == "loopback" && step.network.denied.is_empty(), "{}", step.step);
    assert!(step.output.as_ref().is_some_and(|output| output.sha256.len() == 64), "{}", step.step);
    assert!(step.survivors.is_empty() && step.missing.is_empty(), "{}: {:?}", step.step, step.survivors);
}

fn tests_of(report: &Report) -> &Tests {
    report.steps.iter().find_map(|step| step.tests.as_ref()).expect("a step ran tests")
}

/// The outcome of the live run, which the report was made of, equals the outcome of its replayed events.
fn replayed(repo: &Repo, report: &Report) {
    let text = repo.read(&format!(".firsttry/runs/{}/events.jsonl", report.id));
    let events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let bytes = json(&Outcome::fold(&events));
    assert_eq!(String::from_utf8_lossy(&bytes), repo.read("artifacts/parity_report.json"));
    assert_eq!(repo.read("artifacts/events.jsonl"), text);
}

/// `junit.xml` counts what the report counts.
fn counted(repo: &Repo, report: &Report) {
    let junit = repo.read("artifacts/junit.xml");
    let tests = tests_of(report);
    let others = report.steps.iter().filter(|step| step.tests.is_none()).count() as u64;
    let count = |what: &str| junit.matches(what).count() as u64;
    assert_eq!(count("<testcase "), tests.collected + others);
    assert_eq!(count("<skipped"), tests.skipped + tests.xfailed);
    assert_eq!((count("<failure"), count("<error")), (0, 0));
    for step in &report.steps {
        let output = step.output.as_ref().expect("every step ended");
        let log = std::fs::metadata(repo.root.join("artifacts").join(&output.log)).expect("a log for each step");
        assert_eq!(log.len(), output.bytes, "{}", output.log);
    }
}

/// A self-check of what was checked already starts nothing.
fn self_check(repo: &Repo, second: &Second) {
    repo.ft(&["check"]).expect(0);
    let again = repo.ft(&["check", "--json"]).expect(0);
    let report: Report = serde_json::from_str(&again.stdout).expect("standard output carries the report alone");
    assert!(report.ok && report.kind == "self-check" && report.collection.count.is_some());
    let cold = report.steps.iter().any(|step| step.exit.is_some()) || !report.stages.is_empty();
    assert_eq!(cold, *second == Second::Collects, "{:?}", report.stages);
}

#[test]
fn attrs_is_green_with_its_own_calls_of_mypy() {
    let attrs = Sdist {
        name: "attrs",
        version: "25.4.0",
        sha256: "16d5969b87f0859ef33a48b35d55ac1be6e42ae49d5e853b597db70c35c57e11",
    };
    let repo = attrs.repository(By::Uv);
    // It asks inspect.signature for what CPython 3.11.7 and 3.12.1 do not say, with and without walls.
    let (path, test) = ("tests/test_converters.py", "    def test_wrapped_annotation(self):\n");
    let text = repo.read(path);
    assert!(text.contains(test));
    repo.write(path, &text.replace(test, "    def of_a_later_patch_release(self):\n"));
    repo.commit("Leave out what this patch release of Python can't do");
    main_job(&repo, &["ruff", "mypy", "mypy-2", "pytest"], 1440, Second::Warm);
}

#[test]
fn pluggy_is_green() {
    let pluggy = Sdist {
        name: "pluggy",
        version: "1.6.0",
        sha256: "7dcc130b76258d33b90f61b658791dede3486c3e6bfb003ee5c9bfb396dd22f3",
    };
    // pytest-benchmark asks git and hg for the commit while it is configured.
    main_job(&pluggy.repository(By::Uv), &["ruff", "mypy", "pytest"], 120, Second::Collects);
}

#[test]
fn click_is_green() {
    let click = Sdist {
        name: "click",
        version: "8.1.8",
        sha256: "ed53c9d8990d83c2a27deae68e4ee337473f6330c040a31d4225c9574d16096a",
    };
    main_job(&click.repository(By::Uv), &["ruff", "mypy", "pytest"], 620, Second::Warm);
}

#[test]
fn itsdangerous_is_green_without_uv() {
    let itsdangerous = Sdist {
        name: "itsdangerous",
        version: "2.2.0",
        sha256: "e0050c0b7da1eea53ffaf149c0cfbb5c6e2e2b69c4bef22c81fa6eb73e5f6173",
    };
    main_job(&itsdangerous.repository(By::Pip), &["ruff", "mypy", "pytest"], 290, Second::Warm);
}

#[test]
fn markupsafe_is_green_with_its_c_extension() {
    let markupsafe = Sdist {
        name: "markupsafe",
        version: "3.0.3",
        sha256: "722695808f4b6457b320fdc131280796bdceb04ab50fe1795cd540799ebe1698",
    };
    let repo = markupsafe.repository(By::Uv);
    // Where nothing compiles, its setup.py tries again without the extension. An editable install fails at that, with walls
    // and without: setuptools remembers to have made a directory that it removed ("Cannot update time stamp").
    main_job(&repo, &["ruff", "mypy", "pytest"], 79, Second::Warm);
    let script = "import markupsafe._speedups as s; print(s.__file__)";
    for exec in [&["exec"][..], &["exec", "--container"]] {
        let native = repo.ft(&[exec, &["--", "python", "-c", script]].concat()).expect(0);
        assert!(native.stdout.contains("_speedups.cpython-311"), "{exec:?}: {}", native.stdout);
    }
}

/// Its tests look for a host that is not there, on purpose: that the library says so in its own words.
#[test]
fn httplib2_is_red_for_the_host_that_it_looks_for_in_vain_and_green_when_that_is_expected() {
    let httplib2 = Sdist {
        name: "httplib2",
        version: "0.31.0",
        sha256: "ac7ab497c50975147d4f7b1ade44becc7df2f8954d42b38b3d69c515f531135c",
    };
    let repo = httplib2.repository(By::Pip);
    repo.ft(&["init"]).expect(0);
    repo.commit("The lock");
    let refused = repo.ft(&["run"]).expect(251).stdout;
    let line = r#""deny_quietly": ["no-such-hostname"]"#;
    // Three tests, one of which looks twice; each look-up is several questions. They run in an order of chance.
    for part in ["PARITY-251", "tests/test_", "looked up no-such-hostname, 4 times, also tests/test_", line] {
        assert!(refused.contains(part), "{part} is not in:\n{refused}");
    }
    let policy = r#""network_policy": {"forbid_network": true}"#;
    let lock = repo.read("ci/parity.lock.json");
    assert!(lock.contains(policy), "{lock}");
    // The line that the message gave, where it said.
    let expected = format!("\"network_policy\": {{\n    \"forbid_network\": true,\n    {line}\n  }}");
    repo.write("ci/parity.lock.json", &lock.replace(policy, &expected));
    repo.commit("A host that is not there is expected");
    repo.ft(&["run"]).expect(0);
    let report = published(&repo);
    let tests = tests_of(&report);
    assert!(report.ok && tests.finished && tests.passed >= 490 && tests.failed + tests.errors == 0, "{tests:?}");
    assert!(report.steps.iter().all(|step| step.network.denied.is_empty()));
}
