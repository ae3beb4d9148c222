//! The engine, or the way to it, goes away in the middle of a step: infrastructure, never a verdict. What came before it
//! is kept, and where the engine lives nothing is left in it.

use crate::harness::{Project, Ran, eventually};
use crate::private::Private;
use crate::relay::{Plan, Relay};
use crate::shared::{Built, In, docker, label, leaves_nothing, project, small};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// What the second step says when it runs.
const MARK: &str = "half of this is lost";

/// Two steps: one that leaves a file, and one that does this.
fn two_steps(second: &str, timeout_sec: u64) -> Project {
    let project = project(&[]);
    project.lock(|lock| {
        lock["tools"] = json!({
            "first": {"command": "sh", "args": ["-c", "mkdir -p artifacts; echo kept > artifacts/first.txt; echo one"],
                "gate": "lint", "timeout_sec": 60},
            "second": {"command": "python", "args": ["-c", second], "gate": "lint", "needs": ["first"],
                "timeout_sec": timeout_sec, "grace_sec": 1},
        });
        lock["plugins"] = json!([]);
    });
    project.commit();
    project
}

/// Says the mark, goes on to speak, and does not end. The mark is not in its text, which comes by as well.
const SAYS_AND_STAYS: &str = "import time\nprint('half', 'of this is lost', flush=True)\nwhile True:\n    \
                              time.sleep(.1)\n    print('more', flush=True)\n";

/// 69, with a report that says what broke and has what came before it.
fn broke(project: &Project, ran: &Ran) {
    ran.leaves(69);
    let report = project.report();
    assert_eq!(report.exit_code(), 69);
    let broken = report.0["broken"].as_array().unwrap();
    assert!(broken.iter().any(|broken| broken["stage"] == "second"), "{broken:#?}");
    assert!(report.failures().is_empty(), "no verdict: {:?}", report.failures());
    assert_eq!(report.step("first")["state"], "good");
    assert_ne!(report.step("second")["state"], "good");
    assert_eq!(project.read("artifacts/first.txt"), "kept\n");
    assert_eq!(project.read("artifacts/logs/first.log"), "one\n");
}

#[test]
fn a_stream_that_is_cut_is_no_verdict_wherever_it_is_cut() {
    let project = two_steps(SAYS_AND_STAYS, 4);
    let line = MARK.len() + 1;
    // Inside a frame of ours, where one of the engine's ends, and inside the head of its next one.
    for after in [MARK.len() / 2, line, line + 3] {
        let relay = Relay::start(Plan::Cut { mark: MARK, after });
        let ran = project.ft_with(&[("DOCKER_HOST", &relay.host())], &["run", "--container"]);
        assert!(relay.has_seen_the_mark());
        broke(&project, &ran);
        // While the way is still there for whoever wants to remove something.
        leaves_nothing(&project);
        drop(relay);
        std::fs::remove_dir_all(project.path("artifacts")).unwrap();
    }
    // The control: over the same socket, and nothing is cut.
    let relay = Relay::start(Plan::Pass);
    project.lock(|lock| lock["tools"]["second"]["args"] = json!(["-c", "print('half', 'of this is lost')"])).commit();
    project.ft_with(&[("DOCKER_HOST", &relay.host())], &["run", "--container"]).leaves(0);
    assert_eq!(project.read("artifacts/logs/second.log"), format!("{MARK}\n"));
    leaves_nothing(&project);
}

#[test]
fn a_step_whose_end_is_known_and_whose_files_are_cut_is_no_verdict_either() {
    for status in [0, 1] {
        let files = "mkdir -p artifacts; printf 'half %s' 'of this is lost' > artifacts/second.txt";
        let project = two_steps("", 60);
        project.lock(|lock| {
            lock["tools"]["second"]["command"] = "sh".into();
            lock["tools"]["second"]["args"] = json!(["-c", format!("{files}; exit {status}")]);
        });
        project.commit();
        let relay = Relay::start(Plan::Cut { mark: MARK, after: 4 });
        let ran = project.ft_with(&[("DOCKER_HOST", &relay.host())], &["run", "--container"]);
        assert!(relay.has_seen_the_mark());
        broke(&project, &ran);
        assert!(!project.path("artifacts/second.txt").exists(), "half a file is none");
        leaves_nothing(&project);
    }
}

#[test]
fn a_container_that_somebody_else_ends_is_no_verdict() {
    for end in [&["kill"][..], &["rm", "--force", "--volumes"]] {
        let project = two_steps(SAYS_AND_STAYS, 300);
        let mut child = project.start(&["run", "--container"]);
        wait_for(&mut child, || second_runs(&project));
        let container = docker(&["ps", "--quiet", "--no-trunc", "--filter", &label(&project)]);
        docker(&[end, &[&container]].concat());
        broke(&project, &project.wait(child));
        leaves_nothing(&project);
    }
}

#[test]
fn a_volume_that_was_filled_by_half_is_filled_again() {
    // Nobody has an environment for an image of its own.
    let mut image = Built::on_top("LABEL ft.test.half=1");
    let project = small();
    image.pin(&project);
    let relay = Relay::start(Plan::Cut { mark: "/_pytest/nodes.py", after: 300 });
    project.ft_with(&[("DOCKER_HOST", &relay.host())], &["run", "--container"]).leaves(69);
    assert!(relay.has_seen_the_mark());
    let broken = project.report().0["broken"][0]["msg"].as_str().unwrap().to_owned();
    let named = |kind: &str| {
        let listed = docker(&["volume", "ls", "--quiet", "--filter", &label(&project)]);
        listed.lines().filter(|name| name.starts_with(kind)).map(str::to_owned).collect::<Vec<_>>()
    };
    let [half] = &named("ft-env-")[..] else {
        panic!("one volume, and it is not sealed: {:?} {broken}", named("ft-env-"))
    };
    leaves_nothing(&project);
    project.ft(&["run", "--container"]).leaves(0);
    assert_eq!(project.report().step("pytest")["tests"]["passed"], 2);
    assert_eq!(named("ft-env-"), [half.clone(), format!("{half}-sealed")]);
    leaves_nothing(&project);
}

#[test]
fn a_volume_that_lost_its_content_stops_one_run_and_no_more() {
    let mut image = Built::on_top("LABEL ft.test.lost=1");
    let project = small();
    image.pin(&project);
    project.ft(&["run", "--container"]).leaves(0);
    let volumes = docker(&["volume", "ls", "--quiet", "--filter", &label(&project)]);
    let env = volumes.lines().find(|name| name.starts_with("ft-env-")).unwrap();
    // As a power failure leaves it: it is there, and so is what says that it is whole.
    docker(&["volume", "rm", env]);
    docker(&["volume", "create", "--label", label(&project).trim_start_matches("label="), env]);
    project.ft(&["run", "--container"]).leaves(69).says(env).says("was not finished");
    project.ft(&["run", "--container"]).leaves(0);
    leaves_nothing(&project);
}

/// Asks until it holds, for as long as the run goes on: an environment may have to be made first.
fn wait_for(child: &mut Child, holds: impl Fn() -> bool) {
    while !holds() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn second_runs(project: &Project) -> bool {
    let events = |run: &std::path::PathBuf| std::fs::read_to_string(run.join("events.jsonl")).unwrap_or_default();
    project.runs().iter().any(|run| events(run).matches("step_started").count() == 2)
}

#[test]
fn an_engine_that_stalls_ends_in_bounded_time() {
    let in_a_step = || {
        let project = two_steps(SAYS_AND_STAYS, 4);
        let relay = Relay::start(Plan::Stall { mark: MARK });
        let began = Instant::now();
        let ran = project.ft_with(&[("DOCKER_HOST", &relay.host())], &["run", "--container"]);
        let took = began.elapsed();
        assert!(relay.has_seen_the_mark());
        broke(&project, &ran);
        // The step's five seconds, ten more for its agent, and what is tried to end the container.
        assert!(took < Duration::from_secs(100), "{took:?}");
        drop(relay);
        leaves_nothing(&project);
    };
    let before_a_step = || {
        let project = two_steps(SAYS_AND_STAYS, 4);
        let relay = Relay::start(Plan::Stall { mark: "/containers/create" });
        let began = Instant::now();
        let ran = project.ft_with(&[("DOCKER_HOST", &relay.host())], &["run", "--container"]);
        let took = began.elapsed();
        assert!(relay.has_seen_the_mark());
        ran.leaves(69).says("did not answer in time");
        assert!(took < Duration::from_secs(180), "{took:?}");
        drop(relay);
        leaves_nothing(&project);
    };
    let with_a_person_who_does_not_wait = || {
        let project = two_steps(SAYS_AND_STAYS, 300);
        let relay = Relay::start(Plan::Stall { mark: MARK });
        let project = project.var("DOCKER_HOST", &relay.host());
        let mut child = project.start(&["run", "--container"]);
        wait_for(&mut child, || relay.has_seen_the_mark());
        let began = Instant::now();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        project.wait(child).leaves(130);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(100), "{took:?}");
        let report = project.report();
        assert_eq!((report.exit_code(), report.0["interrupted"].as_str()), (130, Some("SIGINT")));
        assert_eq!(project.read("artifacts/first.txt"), "kept\n");
        drop(relay);
        leaves_nothing(&project);
    };
    std::thread::scope(|scope| {
        scope.spawn(in_a_step);
        scope.spawn(before_a_step);
        scope.spawn(with_a_person_who_does_not_wait);
    });
}

/// The processes below a private engine's directory but for the engine itself: containerd and its shims.
fn kill_containerd(dir: &Path) {
    let config = dir.join("exec/containerd");
    for pid in crate::harness::processes(&config.display().to_string()) {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
}

#[test]
fn an_engine_that_is_killed_is_no_verdict_and_the_next_run_finds_its_way() {
    let mut engine = Private::start();
    let host = engine.host();
    let there = In::private(&host);
    let project = two_steps(SAYS_AND_STAYS, 300);
    let project = project.var("DOCKER_HOST", &host);
    let mut child = project.start(&["run", "--container"]);
    wait_for(&mut child, || second_runs(&project));
    engine.kill();
    kill_containerd(engine.dir());
    broke(&project, &project.wait(child));
    // Nobody is there: still no verdict, and the reason is another one.
    project.ft(&["run", "--container"]).leaves(105).says("PARITY-050");
    engine.restart();
    project.lock(|lock| lock["tools"]["second"]["args"] = json!(["-c", "print('well')"])).commit();
    project.ft(&["run", "--container"]).leaves(0);
    let mine = label(&project);
    eventually("nothing of the dead run is left", || {
        there.docker(&["ps", "--all", "--quiet", "--filter", &mine]).is_empty()
    });
    // A volume without a name of ours is that of a single container.
    let volumes = there.docker(&["volume", "ls", "--quiet"]);
    assert!(volumes.lines().all(|name| name.starts_with("ft-")), "{volumes}");
}
