//! Whole runs on small repositories, held against venv mode on the same repository, and how they end.

use crate::harness::{Project, eventually};
use crate::shared::{HERE, In, label, leaves_nothing, project, wall};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

/// A text without what differs from run to run.
fn without_times(text: &str) -> String {
    ["time=\"", "timestamp=\"", " in "].iter().fold(text.to_owned(), |text, word| {
        let mut parts = text.split(word);
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |out, part| {
            out + word + part.trim_start_matches(|c: char| c.is_ascii_digit() || ".:-TZ+".contains(c))
        })
    })
}

#[test]
fn a_run_in_a_container_passes_and_says_what_stood() {
    passes(&HERE);
}

/// A run with limits: good, and every wall stood.
pub fn passes(engine: &In<'_>) -> Project {
    let project = engine.project(&["pytest"]);
    project.lock(|lock| lock["resource_limits"] = serde_json::json!({"mem_mb": 512, "pids": 200, "cpu_count": 1}));
    project.commit();
    project.ft(&["run", "--container"]).leaves(0);
    let report = project.report();
    assert_eq!(report.exit_code(), 0);
    assert_eq!(report.step("pytest")["tests"]["passed"], 2);
    for name in
        ["network", "pid", "user", "capabilities", "no_new_privs", "seccomp", "mounts", "witness", "memory", "pids"]
    {
        let wall = wall(&report, "pytest", name);
        assert_eq!(wall["enforced"], true, "{wall}");
    }
    let container = &report.0["environment"]["container"];
    assert!(container["image"].as_str().unwrap().starts_with("sha256:"), "{container}");
    assert_eq!(container["agent_sha256"].as_str().unwrap().len(), 64);
    engine.leaves_nothing(&project);
    project
}

#[test]
fn both_modes_say_the_same_of_one_repository() {
    both_say_the_same(&HERE);
}

/// A red run, in venv mode and in the engine.
pub fn both_say_the_same(engine: &In<'_>) {
    let project = engine.project(&["ruff", "mypy", "pytest", "bandit"]);
    project.write("tests/test_red.py", "def test_red() -> None:\n    assert [1] == [2]\n\n\nimport os\n");
    project.lock(|lock| {
        lock["tools"]["pytest"]["args"] =
            serde_json::json!(["-q", "tests", "--cov=demo", "--cov-report=xml:artifacts/coverage.xml"]);
        lock["pytest_collection"] = serde_json::json!({"allow_uncollected": true});
    });
    project.commit();
    let mut seen = Vec::new();
    for arguments in [&["run"][..], &["run", "--container"]] {
        let ran = project.ft(arguments);
        let report = project.report();
        let codes: Vec<String> = report.failures().into_iter().map(str::to_owned).collect();
        let logs: Vec<String> = ["ruff", "mypy", "pytest", "bandit"]
            .iter()
            .map(|step| without_times(&project.read(&format!("artifacts/logs/{step}.log"))))
            .collect();
        let junit = without_times(&project.read("artifacts/junit.xml"));
        let coverage = without_times(&project.read("artifacts/coverage.xml"));
        let cell = report.0["cell"].as_str().unwrap_or_default().to_owned();
        seen.push((cell, ran.status, codes, logs, junit, coverage));
    }
    let (container, namespaces) = (seen.pop().unwrap(), seen.pop().unwrap());
    assert_eq!((container.1, &container.2), (namespaces.1, &namespaces.2));
    assert_eq!(container.3, namespaces.3);
    assert_eq!(container.4, namespaces.4);
    assert_eq!(container.5, namespaces.5);
    assert!(container.2.contains(&"PARITY-221".to_owned()), "{:?}", container.2);
    engine.leaves_nothing(&project);
}

#[test]
fn who_reaches_for_the_network_in_a_container_is_named() {
    is_named(&HERE);
}

/// A test reaches out, and takes the refusal well.
pub fn is_named(engine: &In<'_>) {
    let project = engine.project(&["pytest"]);
    project.write(
        "tests/test_out.py",
        "import socket\n\n\ndef test_out() -> None:\n    try:\n        socket.create_connection((\"192.0.2.7\", 4711), 5)\n    except OSError:\n        pass\n",
    );
    project.lock(|lock| lock["pytest_collection"] = serde_json::json!({"allow_uncollected": true}));
    project.commit();
    project.ft(&["run", "--container"]).leaves(251);
    let (message, _) = project.report().finding("PARITY-251");
    assert!(message.contains("192.0.2.7:4711") && message.contains("test_out"), "{message}");
    engine.leaves_nothing(&project);
}

#[test]
fn what_the_lock_allows_is_relayed_into_a_container_and_everything_else_is_refused() {
    // Nothing is sent: the kernel only looks for a route.
    let route = UdpSocket::bind("0.0.0.0:0").unwrap();
    route.connect("198.51.100.1:9").expect("this test needs an address beside loopback");
    let listen = || TcpListener::bind((route.local_addr().unwrap().ip(), 0)).unwrap();
    let (allowed, other) = (listen(), listen());
    let [to, not_to] = [&allowed, &other].map(|listener| listener.local_addr().unwrap());
    let project = project(&["pytest"]);
    project.write(
        "tests/test_out.py",
        format!(
            "import socket\n\n\ndef test_out() -> None:\n    s = socket.create_connection((\"{0}\", {1}), 20)\n    \
             s.sendall(b\"x\")\n    assert s.recv(1) == b\"y\" and s.getpeername() == (\"{0}\", {1})\n    \
             assert socket.socket().connect_ex((\"{0}\", {2})) != 0\n",
            to.ip(),
            to.port(),
            not_to.port()
        ),
    );
    project.lock(|lock| {
        lock["network_policy"] = serde_json::json!({"allowed_hosts": [to.to_string()]});
        lock["pytest_collection"] = serde_json::json!({"allow_uncollected": true});
    });
    project.commit();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = allowed.accept().unwrap();
        stream.read_exact(&mut [0; 1]).and_then(|()| stream.write_all(b"y")).unwrap();
    });
    project.ft(&["run", "--container"]).leaves(251).says(&format!("pytest talked to {to}"));
    served.join().unwrap();
    let (message, _) = project.report().finding("PARITY-251");
    assert!(message.contains(&not_to.to_string()) && !message.contains(&to.to_string()), "{message}");
    // Whoever came would wait here.
    other.set_nonblocking(true).unwrap();
    assert_eq!(other.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    TcpStream::connect(not_to).unwrap();
    assert!(other.accept().is_ok(), "without the walls the same connect arrives");
    leaves_nothing(&project);
}

#[test]
fn a_step_in_a_container_that_dies_of_memory_says_so() {
    dies_of_memory(&HERE);
}

/// A test takes more memory than the lock gives.
pub fn dies_of_memory(engine: &In<'_>) {
    let project = engine.project(&["pytest"]);
    project.write("tests/test_big.py", "def test_big() -> None:\n    assert bytearray(b\"x\") * (600 << 20)\n");
    project.lock(|lock| {
        lock["pytest_collection"] = serde_json::json!({"allow_uncollected": true});
        lock["resource_limits"] = serde_json::json!({"mem_mb": 200});
    });
    project.commit();
    project.ft(&["run", "--container"]).leaves(221);
    let (message, _) = project.report().finding("PARITY-221");
    assert!(message.contains("ran out of memory"), "{message}");
    engine.leaves_nothing(&project);
}

#[test]
fn ctrl_c_ends_a_container_with_a_report() {
    let project = project(&["pytest"]);
    project.write("tests/test_slow.py", "import time\n\n\ndef test_slow() -> None:\n    time.sleep(600)\n");
    project.lock(|lock| lock["pytest_collection"] = serde_json::json!({"allow_uncollected": true})).commit();
    let child = project.start(&["run", "--container"]);
    eventually("a test runs in a container", || {
        let runs = project.runs();
        runs.iter().any(|run| std::fs::read(run.join("events.jsonl")).is_ok_and(|events| started(&events)))
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    project.wait(child).leaves(130);
    let report = project.report();
    assert_eq!((report.exit_code(), report.0["interrupted"].as_str()), (130, Some("SIGINT")));
    leaves_nothing(&project);
}

/// Whether a step began.
fn started(events: &[u8]) -> bool {
    String::from_utf8_lossy(events).contains("step_started")
}

#[test]
fn a_step_in_a_container_that_does_not_end_is_ended() {
    is_ended(&HERE);
}

/// A test that neither ends nor heeds SIGTERM.
pub fn is_ended(engine: &In<'_>) {
    let project = engine.project(&["pytest"]);
    project.write(
        "tests/test_slow.py",
        "import signal\nimport time\n\n\ndef test_slow() -> None:\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    time.sleep(600)\n",
    );
    project.lock(|lock| {
        lock["pytest_collection"] = serde_json::json!({"allow_uncollected": true});
        lock["tools"]["pytest"]["timeout_sec"] = 3.into();
        lock["tools"]["pytest"]["grace_sec"] = 1.into();
    });
    project.commit();
    project.ft(&["run", "--container"]).leaves(222);
    engine.leaves_nothing(&project);
}

#[test]
fn a_runner_that_is_killed_leaves_no_container() {
    leaves_no_container(&HERE);
}

/// The runner is killed in the middle of a step.
pub fn leaves_no_container(engine: &In<'_>) {
    let project = engine.project(&["pytest"]);
    project.write("tests/test_slow.py", "import time\n\n\ndef test_slow() -> None:\n    time.sleep(600)\n");
    project.lock(|lock| lock["pytest_collection"] = serde_json::json!({"allow_uncollected": true})).commit();
    let mut child = project.start(&["run", "--container"]);
    let running = || {
        let mine = label(&project);
        engine.docker(&["ps", "--filter", &mine, "--format", "{{.Status}}"]).contains("Up")
    };
    eventually("a container runs", running);
    child.kill().unwrap();
    child.wait().unwrap();
    engine.leaves_nothing(&project);
}

#[test]
fn an_image_that_is_not_there_and_one_that_is_not_pinned_stop_before_anything_starts() {
    let project = project(&["pytest"]);
    let other = format!("sha256:{}", "0".repeat(64));
    project.lock(|lock| lock["container"] = serde_json::json!({ "image": other })).commit();
    project.ft(&["run", "--container"]).leaves(105);
    assert_eq!(project.report().failures(), ["PARITY-051"]);
    project.ft_with(&[("DOCKER_HOST", "unix:///nowhere/engine.sock")], &["run", "--container"]).leaves(105);
    assert_eq!(project.report().failures(), ["PARITY-050"]);
    // In venv mode nobody asks for an engine.
    project.ft_with(&[("DOCKER_HOST", "unix:///nowhere/engine.sock")], &["run"]).leaves(0);
}
