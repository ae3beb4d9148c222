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
    // Its own name only: mountinfo names places relative to the file system that they are on.
    let place = dir.path().file_name().unwrap().to_string_lossy().into_owned();
    let groups = groups_of(&processes(&marker));
    // The agent lets nobody but root look at it.
    if firsttry::cell::step_owner().is_some() {
        assert!(agents_below(&place) > 0, "the test sees the agent while it lives");
        assert!(!groups.is_empty(), "root's cells have groups");
    }
    runner.kill().unwrap();
    runner.wait().unwrap();
    eventually("the step ends with its runner", || processes(&marker).is_empty());
    eventually("no agent is left", || agents_below(&place) == 0);
    // The kernel takes its time with the last of a process, and a group with something in it can't be removed.
    eventually("a sweep leaves no control group of it", || {
        firsttry::cell::sweep();
        groups.iter().all(|group| !group.exists())
    });
}

/// The control groups of ours that these processes are in. None where an ordinary user may make none.
fn groups_of(of: &[(u32, String)]) -> Vec<std::path::PathBuf> {
    let lines = of.iter().filter_map(|(pid, _)| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
    let mut groups = Vec::new();
    for line in lines.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()) {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next())
            && path.contains("ft-cell-")
        {
            groups.push(std::path::Path::new("/sys/fs/cgroup").join(controllers).join(path.trim_start_matches('/')));
        }
    }
    groups
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
