//! How a run ends that does not end by itself: Ctrl-C, SIGTERM, SIGKILL, a cut stream, an index that does not answer.

use super::harness::{Project, eventually, processes};
use serde_json::json;
use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

/// A project whose second step leaves a file, says `marker` in its command line, and then stands still.
fn that_hangs(marker: &str, deaf: bool, grace_sec: u64) -> Project {
    let project = Project::with_tools(&["ruff"]);
    let trap = if deaf { "trap '' TERM INT HUP; " } else { "" };
    let code =
        format!("{trap}mkdir -p artifacts; echo started; echo here > artifacts/half.txt; while :; do sleep 1; done");
    project.lock(|lock| {
        let args = ["-c", &code, marker];
        lock["tools"]["hang"] =
            json!({"command": "sh", "args": args, "gate": "lint", "timeout_sec": 300, "grace_sec": grace_sec});
    });
    project
}

fn marker(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// Waits until the step of [`that_hangs`] has left its file.
fn until_it_hangs(project: &Project, marker: &str) {
    eventually("the step starts", || !processes(marker).is_empty());
    eventually("the step has said something", || {
        project.runs().last().is_some_and(|run| {
            fs::read_to_string(run.join("events.jsonl"))
                .is_ok_and(|events| events.contains("\"step\":\"hang\"") && events.contains("\"ruff\""))
        })
    });
    // The last of its first lines, as its cell has it.
    eventually("its file is there", || {
        let file = "cells/hang/changes/artifacts/half.txt";
        project.runs().last().is_some_and(|run| fs::read(run.join(file)).is_ok_and(|text| text == b"here\n"))
    });
}

fn signal(child: &Child, name: &str) {
    signal_to(child.id(), name);
}

fn signal_to(pid: u32, name: &str) {
    let sent = std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn ctrl_c_ends_the_steps_and_leaves_130_a_report_and_what_is_there() {
    let marker = marker("ctrl-c");
    let project = that_hangs(&marker, false, 5);
    let run = project.start(&["run"]);
    until_it_hangs(&project, &marker);
    signal(&run, "INT");
    project.wait(run).leaves(130).does_not_say("passed");
    let report = project.report();
    assert_eq!((report.exit_code(), report.0["interrupted"].as_str()), (130, Some("SIGINT")));
    assert_eq!(report.step("hang")["cancelled"], true);
    assert_eq!(report.step("ruff")["exit"], 0);
    assert_eq!(project.read("artifacts/half.txt"), "here\n");
    assert!(project.read("artifacts/logs/hang.log").contains("started"));
    assert_eq!(processes(&marker), Vec::<u32>::new());
    assert_eq!(project.git(&["status", "--porcelain"]), " M ci/parity.lock.json");
}

#[test]
fn a_second_ctrl_c_skips_the_grace() {
    let marker = marker("ctrl-c-twice");
    let project = that_hangs(&marker, true, 120);
    let run = project.start(&["run"]);
    until_it_hangs(&project, &marker);
    let before = Instant::now();
    signal(&run, "INT");
    std::thread::sleep(Duration::from_millis(500));
    assert!(!processes(&marker).is_empty(), "the step did not use its grace");
    signal(&run, "INT");
    project.wait(run).leaves(130);
    assert!(before.elapsed() < Duration::from_secs(60));
    assert_eq!(project.report().step("hang")["killed"], true);
    assert_eq!(processes(&marker), Vec::<u32>::new());
}

#[test]
fn sigterm_leaves_143_and_a_report() {
    let marker = marker("sigterm");
    let project = that_hangs(&marker, false, 5);
    let run = project.start(&["run"]);
    until_it_hangs(&project, &marker);
    signal(&run, "TERM");
    project.wait(run).leaves(143);
    assert_eq!((project.report().exit_code(), project.report().0["interrupted"].as_str()), (143, Some("SIGTERM")));
    assert_eq!(processes(&marker), Vec::<u32>::new());
}

/// The parent of a process, in this machine's numbers.
fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

#[test]
fn a_stream_that_is_cut_is_infrastructure_and_no_verdict() {
    let marker = marker("cut");
    let project = that_hangs(&marker, false, 5);
    let run = project.start(&["run"]);
    until_it_hangs(&project, &marker);
    let agent = parent(processes(&marker)[0]);
    assert_ne!(agent, run.id(), "the agent stands between the two");
    signal_to(agent, "KILL");
    project.wait(run).leaves(69).says("broken hang").does_not_say("passed:").does_not_say("failed: PARITY");
    let report = project.report();
    assert_eq!((report.exit_code(), report.0["ok"].as_bool()), (69, Some(false)));
    assert!(report.failures().is_empty());
    assert_eq!(report.0["broken"][0]["stage"], "hang");
    assert_eq!(processes(&marker), Vec::<u32>::new());
}

/// Mounts of this machine below a folder.
fn mounts(project: &Project) -> usize {
    let root = project.root.display().to_string();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&root)).count()
}

#[test]
fn a_runner_that_is_killed_leaves_nothing_that_the_next_run_trips_over() {
    let marker = marker("killed");
    let project = that_hangs(&marker, true, 120);
    project.commit();
    let mut run = project.start(&["run"]);
    until_it_hangs(&project, &marker);
    let killed = project.runs().pop().unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    eventually("the step ends with its runner", || processes(&marker).is_empty());
    assert_eq!(mounts(&project), 0);
    assert_eq!(project.git(&["status", "--porcelain"]), "");
    project.lock(|lock| {
        lock["tools"].as_object_mut().unwrap().remove("hang");
    });
    let id = killed.file_name().unwrap().to_str().unwrap().to_owned();
    project.ft(&["run"]).leaves(0).says(&format!("removed what {id} left unfinished"));
    assert!(!killed.exists());
    project.ft(&["run"]).leaves(0).does_not_say("unfinished");
    assert_eq!(project.git(&["status", "--porcelain"]), " M ci/parity.lock.json");
}

#[test]
fn a_build_that_is_killed_at_any_time_is_made_good_by_the_next_one() {
    let project = Project::with_tools(&["ruff"]);
    fs::remove_file(project.path(".firsttry/env")).unwrap();
    for after_ms in [30, 200, 700] {
        let mut build = project.start(&["env", "build"]);
        std::thread::sleep(Duration::from_millis(after_ms));
        build.kill().unwrap();
        build.wait().unwrap();
    }
    project.ft(&["run"]).leaves(0);
    project.ft(&["env", "verify"]).leaves(0);
    let left: Vec<String> = fs::read_dir(project.path(".firsttry/env"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(project.git(&["status", "--porcelain"]), "");
}

#[test]
fn an_index_that_does_not_answer_is_infrastructure() {
    let project = Project::with_tools(&["ruff"]);
    fs::remove_file(project.path(".firsttry/env")).unwrap();
    let cold = project.home.join("cold").display().to_string();
    let vars = [("FT_CACHE_DIR", cold.as_str())];
    for args in [&["run"][..], &["--offline", "run"]] {
        project.ft_with(&vars, args).leaves(69).says("hint: ").does_not_say("passed");
        let report = project.report();
        assert_eq!((report.exit_code(), report.failures()), (69, vec![]));
        assert_eq!(report.0["broken"][0]["stage"], "environment");
        assert_eq!(report.started(), 0);
    }
    // The cache that has everything needs no index.
    project.ft(&["--offline", "run"]).leaves(0);
}

#[test]
fn a_wheel_with_other_bytes_than_the_lock_says_is_parity_005() {
    let project = Project::with_tools(&["ruff"]);
    fs::remove_file(project.path(".firsttry/env")).unwrap();
    // An index that gives other bytes under the same name.
    let links = project.home.join("links");
    fs::create_dir_all(&links).unwrap();
    fs::write(links.join("ruff-0.14.4-py3-none-any.whl"), "other bytes").unwrap();
    let name = project.read("ci/parity.requirements.txt");
    let only: String = {
        let start = name.find("ruff==").unwrap();
        let end = name[start..].match_indices('\n').find(|(at, _)| !name[start + at + 1..].starts_with(' ')).unwrap().0;
        name[start..start + end].to_owned() + "\n"
    };
    project.write("ci/parity.requirements.txt", only);
    project.lock(|lock| {
        lock["plugins"] = json!([]);
        lock["environment"]["project"] = json!("none");
    });
    let (cold, links) = (project.home.join("cold").display().to_string(), links.display().to_string());
    let vars = [("FT_CACHE_DIR", cold.as_str()), ("PIP_FIND_LINKS", links.as_str()), ("PIP_NO_INDEX", "1")];
    project.ft_with(&vars, &["run"]).leaves(101).says("PARITY-005").says("ruff");
    assert_eq!((project.report().failures(), project.report().started()), (vec!["PARITY-005"], 0));
    assert!(!project.path(".venv-parity").exists() || !project.path(".firsttry/env").exists());
}

#[test]
fn two_runs_at_once_wait_for_each_other() {
    let project = Project::with_tools(&["ruff"]);
    let (one, two) = (project.start(&["run"]), project.start(&["run"]));
    project.wait(one).leaves(0);
    project.wait(two).leaves(0);
}

/// Ctrl-S, a pager, a full pipe: whoever looks at the progress does not decide when the steps are over.
#[test]
fn a_reader_of_the_progress_that_stands_still_holds_up_nobody() {
    use std::io::Read;
    let project = Project::new();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    // Full before it begins.
    while std::io::Write::write(&mut writer, &[b'-'; 4096]).is_ok() {}
    while std::io::Write::write(&mut writer, b"-").is_ok() {}
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    let mut command = project.command(env!("CARGO_BIN_EXE_ft"), &["run"]);
    let mut child = command.stderr(writer).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(command);
    let begin = std::time::Instant::now();
    while !project.path("artifacts/parity_report.json").is_file() {
        assert!(begin.elapsed() < std::time::Duration::from_secs(120), "no report while nobody reads");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(child.try_wait().unwrap().is_none(), "it waits for its reader at the end");
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.trim_start_matches('-').contains("RUN  "), "what was said meanwhile is there: {said}");
}
