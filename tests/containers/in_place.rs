//! `ft ci` in a job that runs in a container already: of the lock's image, or of another one.

use crate::container::{self, Container};
use crate::harness::Project;
use crate::recipes::Image;
use crate::shared::pinned;
use serde_json::{Value, json};

/// What `ft ci` left with there, in a clone, after this was done to the container; and what it printed.
fn job(project: &Project, before: &str) -> (Option<i32>, String, String) {
    // Where the harness keeps them.
    let wheels = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli/cache");
    let cache = format!("{}:/cache", wheels.to_str().unwrap());
    let repository = format!("{}:/repository:ro", project.root.display());
    let container =
        Container::new().with(&["--volume", &cache, "--volume", &repository, "--env", "FT_CACHE_DIR=/cache"]);
    let script = format!(
        "set -e; {before}
        git config --global --add safe.directory '*'
        git clone --quiet /repository /tmp/clone
        cd /tmp/clone
        exec ft --offline ci --json"
    );
    let output = container.run(&["sh", "-c", &script]);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A repository whose lock has the image of these tests, as `ft lock --image` writes it.
fn locked(force: bool) -> Project {
    let project = Project::with_tools(&["pytest"]);
    project.ft(&["lock", "--image", container::image()]).leaves(0).says("measuring");
    project.lock(|lock| lock["container"]["force_container"] = force.into()).commit();
    project
}

#[test]
fn a_job_in_the_locks_image_runs_in_place_and_says_what_was_measured() {
    let project = locked(true);
    let lock: Value = serde_json::from_str(&project.read("ci/parity.lock.json")).unwrap();
    let contents = &lock["container"]["contents"];
    assert_eq!(contents["stdlib"].as_str().map(str::len), Some(64), "{lock:#}");
    assert!(contents["libraries"].as_object().unwrap().keys().any(|name| name.starts_with("libc.so")), "{contents}");

    let (status, out, err) = job(&project, "");
    assert_eq!(status, Some(0), "{out}\n{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["environment"]["in_image"]["image"], pinned(container::image()));
    assert_eq!(report["environment"]["in_image"]["contents"], *contents);
    assert_eq!(report["environment"]["container"], Value::Null);
    assert_eq!(report["steps"][0]["tests"]["passed"], 2, "{report:#}");
    // The same in the image by way of an engine: the control that the lock means this one.
    project.ft(&["run"]).leaves(0);
}

#[test]
fn a_job_in_another_image_is_refused_and_what_differs_is_named() {
    let project = locked(true);
    for (change, says) in [
        ("echo '# changed' >> /usr/local/lib/python3.11/json/__init__.py", "the standard library is another one"),
        (
            "for f in /usr/lib/libz.so.1*; do printf x >> $(readlink -f $f); break; done",
            "changed shared libraries: libz.so.1",
        ),
        // The one that the run would take is measured, not the one that the image is known for.
        (
            "mkdir -p /tmp/1/bin /tmp/1/lib; ln -s /usr/local/lib/python3.11 /tmp/1/lib; cp /usr/local/bin/python3.11 /tmp/1/bin; printf x >> /tmp/1/bin/python3.11; export PATH=/tmp/1/bin:$PATH",
            "the interpreter is another one",
        ),
        ("rm /usr/local/bin/python3.11", "there is no Python 3.11"),
    ] {
        let (status, out, err) = job(&project, change);
        assert_eq!(status, Some(105), "{change}: {out}\n{err}");
        assert!(err.contains("PARITY-051") && err.contains(says), "{change}: {err}");
        assert!(err.contains("let the job run in sha256:"), "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        let ended = |step: &Value| !step["exit"].is_null() || !step["signal"].is_null();
        assert!(!report["steps"].as_array().unwrap().iter().any(ended), "a step ran: {report:#}");
    }
}

#[test]
fn a_lock_that_forces_no_container_is_checked_in_any_and_told_of_it() {
    let project = locked(false);
    let (status, out, err) = job(&project, "echo '# changed' >> /usr/local/lib/python3.11/json/__init__.py");
    assert_eq!(status, Some(0), "{out}\n{err}");
    assert!(err.contains("PARITY-051") && err.contains("the standard library is another one"), "{err}");
    let (status, out, err) = job(&project, "");
    assert_eq!(status, Some(0), "{out}\n{err}");
    assert!(!err.contains("PARITY-051"), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(report["environment"]["in_image"]["contents"]["interpreter"].is_string());
}

#[test]
fn without_a_measurement_in_the_lock_or_where_cells_must_be_containers_a_job_needs_an_engine() {
    let project = locked(true);
    project.lock(|lock| lock["cell"] = json!({"minimum": "container"})).commit();
    let (status, out, err) = job(&project, "");
    assert_eq!(status, Some(105), "{out}\n{err}");
    assert!(err.contains("PARITY-050"), "{err}");
    project.lock(|lock| drop(lock.as_object_mut().unwrap().remove("cell")));
    project.lock(|lock| drop(lock["container"].as_object_mut().unwrap().remove("contents"))).commit();
    let (status, out, err) = job(&project, "");
    assert_eq!(status, Some(105), "{out}\n{err}");
    assert!(err.contains("PARITY-050"), "{err}");
    // Measured again, it is in the lock again.
    project.ft(&["lock", "--image", container::image()]).leaves(0);
    let lock: Value = serde_json::from_str(&project.read("ci/parity.lock.json")).unwrap();
    assert!(lock["container"]["contents"]["interpreter"].is_string());
}

#[test]
fn an_image_without_this_python_is_pinned_and_the_want_is_told() {
    let project = Project::with_tools(&["pytest"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let name = "ft-test-in-place/no-python:1";
    let archive = dir.path().join("a.tar");
    let base = dir.path().to_str().unwrap();
    let built = project.ft(&["image", "build", base, "-o", archive.to_str().unwrap(), "--name", name, "--load"]);
    built.leaves(0);
    let _gone = Image(pinned(name));
    project.ft(&["lock", "--image", name]).leaves(0).says("was not measured").says("no Python 3.11");
    let lock: Value = serde_json::from_str(&project.read("ci/parity.lock.json")).unwrap();
    assert_eq!(lock["container"]["image"], json!(pinned(name)));
    assert_eq!(lock["container"]["contents"], Value::Null);
}
