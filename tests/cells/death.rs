//! The runner dies; nothing of it stays.

use super::harness::{Fixture, eventually, processes};
use std::process::{Command, Stdio};

/// What the other test kills: this binary, running this test alone, in a directory of its own.
#[test]
fn a_runner_that_is_alive() {
    let marker = std::env::temp_dir().display().to_string();
    let fixture =
        Fixture::argv(&["sh", "-c", "trap '' TERM; sleep 2; sleep 1", &format!("runner-of-{marker}")]).with(|w, _| {
            w.limits.pids = Some(20);
            w.limits.memory_bytes = Some(64 << 20);
        });
    fixture.run().passed();
}

#[test]
fn a_runner_that_is_killed_leaves_no_process_and_no_control_group() {
    let dir = tempfile::tempdir().unwrap();
    let marker = format!("runner-of-{}", dir.path().display());
    let mut runner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "death::a_runner_that_is_alive"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the step of the runner starts", || !processes(&marker).is_empty());
    runner.kill().unwrap();
    runner.wait().unwrap();
    eventually("the step ends with its runner", || processes(&marker).is_empty());
    eventually("no agent is left", || agents_below(&dir.path().display().to_string()) == 0);
    firsttry::cell::sweep();
}

/// Agents whose scratch directory was below `dir`: none keeps it as its root or mounts from it once they are gone.
fn agents_below(dir: &str) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| {
            std::fs::read_to_string(entry.path().join("mountinfo")).is_ok_and(|mounts| mounts.contains(dir))
        })
        .count()
}

#[test]
fn a_cell_whose_run_is_dropped_ends() {
    let marker = format!("dropped-{}", std::process::id());
    let fixture = Fixture::argv(&["sh", "-c", "sleep 30; true", &marker]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_ask, control) = tokio::sync::mpsc::channel(1);
        let (send, mut receive) = tokio::sync::mpsc::channel(8);
        let tar = fixture.dir.path().join("tar");
        let cell = firsttry::cell::Namespaces::default();
        let run = firsttry::cell::run(&cell, &fixture.walls, fixture.manifest.clone(), &tar, control, send);
        let started = async {
            while let Some(frame) = receive.recv().await {
                if matches!(frame, firsttry::frame::Frame::Started { .. }) {
                    break;
                }
            }
        };
        tokio::select! {
            result = run => panic!("it is not over: {result:?}"),
            () = started => {}
        }
    });
    eventually("the step ends with its run", || processes(&marker).is_empty());
}
