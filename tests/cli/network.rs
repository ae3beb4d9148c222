//! The network policy as a user meets it: what an entry means, what a violation says, how a list is learned. Through the
//! real cell, witness and relay; who was reached is said by servers outside.

use super::harness::{Project, Ran, Report};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The two tests of the template, with these bodies.
pub(super) fn tests(project: &Project, small: &str, large: &str) {
    let bodies = format!("def test_small() -> None:\n    {small}\n\n\ndef test_large() -> None:\n    {large}\n");
    let used = ["socket", "subprocess", "sys"].into_iter().filter(|module| bodies.contains(&format!("{module}.")));
    let imports: String = used.map(|module| format!("import {module}\n")).collect();
    let text = format!("{imports}\n\n{bodies}");
    project.write("tests/test_demo.py", text).commit();
}

/// Tries an address that is nobody's (RFC 5737) and a name that nobody has (RFC 2606), and takes it well.
const ADDRESS: &str = "assert socket.socket().connect_ex(('192.0.2.1', 9)) != 0";
const NAME: &str =
    "\n    try:\n        socket.gethostbyname('no-such-host.example')\n    except OSError:\n        pass";

pub(super) fn policy(project: &Project, policy: Value) {
    project.lock(|lock| lock["network_policy"] = policy).commit();
}

/// A server at an address of this machine that is not its loopback, and how often somebody came.
pub(super) fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    // Nothing is sent: the kernel only looks for a route.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.1:9").expect("these tests need an address beside loopback");
    let own: IpAddr = socket.local_addr().unwrap().ip();
    let listener = TcpListener::bind((own, 0)).unwrap();
    let (at, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = socket.read(&mut [0; 1]).and_then(|_| socket.write_all(b"y"));
        }
    });
    (at, count)
}

/// Talks to a server, and fails where that is refused.
pub(super) fn talk(at: SocketAddr) -> String {
    format!(
        "\n    with socket.create_connection(('{}', {}), 20) as s:\n        s.sendall(b'x')\n        assert s.recv(1) == b'y'",
        at.ip(),
        at.port()
    )
}

fn denied(report: &Report) -> Vec<String> {
    let list = report.step("pytest")["network"]["denied"].as_array().unwrap();
    let field = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    list.iter()
        .map(|one| {
            format!(
                "{} {} {}{}:{}",
                field(one, "test"),
                field(one, "call"),
                field(one, "name"),
                field(one, "address"),
                one["port"]
            )
        })
        .collect()
}

#[test]
fn a_test_that_tries_to_get_out_is_named_with_the_host_and_the_line_that_expects_it() {
    let project = Project::with_tools(&["pytest"]);
    tests(&project, ADDRESS, NAME);
    let ran = project.ft(&["run"]);
    ran.leaves(251)
        .says("PARITY-251 pytest: network policy violated")
        .says("tests/test_demo.py::test_small tried to reach 192.0.2.1:9 (connect over tcp)")
        .says("tests/test_demo.py::test_large looked up no-such-host.example")
        .says("\"deny_quietly\": [\"192.0.2.1:9\", \"no-such-host.example\"]");
    assert!(
        ran.err.contains("REFUSED pytest: tests/test_demo.py::test_small tried"),
        "said when it happens: {}",
        ran.err
    );
    let report = project.report();
    assert_eq!((report.exit_code(), report.failures()), (251, vec!["PARITY-251"]));
    assert_eq!(
        denied(&report),
        [
            "tests/test_demo.py::test_small connect 192.0.2.1:9",
            "tests/test_demo.py::test_large lookup no-such-host.example:0"
        ]
    );
    assert_eq!(report.step("pytest")["tests"]["passed"], 2, "the tests themselves took it well");
    let junit = project.read("artifacts/junit.xml");
    assert!(junit.contains("<system-err>PARITY-251: tests/test_demo.py::test_small tried"), "{junit}");
    assert!(junit.contains("type=\"PARITY-251\""), "{junit}");

    // What the run said is said again, and two runs of the same tree do not differ in it.
    project.ft(&["report"]).leaves(0).says("test_small tried to reach 192.0.2.1:9");
    project.ft_with(&[("FT_PARITY_EXPLAIN", "1")], &["report"]).leaves(0).says("refused\n");
    project.ft(&["run"]).leaves(251);
    let ids: Vec<String> =
        project.runs().iter().map(|run| run.file_name().unwrap().to_string_lossy().into_owned()).collect();
    let differ = project.ft(&["diff", &ids[0], &ids[1]]);
    assert!(!differ.out.contains("network"), "{}", differ.out);
    project.ft(&["explain", "251"]).leaves(0).says("deny_quietly").says("--network-from-report");
    let github = project.ft_with(&[("GITHUB_ACTIONS", "true"), ("CI", "true")], &["ci"]);
    github
        .leaves(251)
        .says("::error file=tests/test_demo.py,title=PARITY-251 pytest::tests/test_demo.py::test_small tried");

    // One line of the lock, as the hint gave it.
    policy(&project, json!({"forbid_network": true, "deny_quietly": ["192.0.2.1:9", "no-such-host.example"]}));
    project.ft(&["run"]).leaves(0).says("pytest was refused, as expected: 192.0.2.1:9, no-such-host.example");
    assert_eq!(project.report().step("pytest")["network"]["denied_quietly"].as_array().unwrap().len(), 2);
    // Another port, and another name, are not covered by it.
    policy(&project, json!({"forbid_network": true, "deny_quietly": ["192.0.2.1:10", "such-host.example"]}));
    project.ft(&["run"]).leaves(251);
    assert_eq!(denied(&project.report()).len(), 2);
    policy(&project, json!({"forbid_network": true, "deny_quietly": ["192.0.2.1", "*.example.org"]}));
    project.ft(&["run"]).leaves(251).does_not_say("test_small tried").says("test_large looked up");
}

#[test]
fn a_process_of_a_test_and_the_import_of_its_file_are_named_too() {
    let project = Project::with_tools(&["pytest"]);
    let child =
        "subprocess.call([sys.executable, '-c', \"import socket; socket.socket().connect_ex(('192.0.2.7', 7))\"])";
    tests(&project, child, "pass");
    project.replace(
        "tests/test_demo.py",
        "import sys\n",
        "import sys\n\nsocket.socket().connect_ex((\"192.0.2.8\", 8))\n",
    );
    project.ft(&["run"]).leaves(251);
    assert_eq!(
        denied(&project.report()),
        ["tests/test_demo.py (collecting) connect 192.0.2.8:8", "tests/test_demo.py::test_small connect 192.0.2.7:7"]
    );
    let (message, _) = project.report().finding("PARITY-251");
    assert!(message.contains("started by") && message.contains("pytest"), "{message}");
    // A timeout on top: the network comes first.
    tests(&project, ADDRESS, "import time; time.sleep(60)");
    project.lock(|lock| lock["tools"]["pytest"]["timeout_sec"] = json!(3));
    project.ft(&["run"]).leaves(251);
    assert_eq!(project.report().failures()[..2], ["PARITY-251", "PARITY-222"]);
}

#[test]
fn a_command_passes_its_status_on_and_its_violations_are_printed() {
    let project = Project::with_tools(&["ruff"]);
    let script = "import socket, sys; print('mine'); socket.socket().connect_ex(('192.0.2.1', 9)); sys.exit(3)";
    let ran = project.ft(&["exec", "--", "python", "-c", script]);
    ran.leaves(3);
    assert_eq!(ran.out, "mine\n");
    assert!(ran.err.contains("PARITY-251 exec: network policy violated"), "{}", ran.err);
    assert!(ran.err.contains("tried to reach 192.0.2.1:9") && !ran.err.contains("exit 251"), "{}", ran.err);
    let quiet = project.ft(&["exec", "--", "python", "-c", "print('mine')"]);
    quiet.leaves(0);
    assert_eq!((quiet.out.as_str(), quiet.err.contains("PARITY")), ("mine\n", false));
}

#[test]
fn an_open_network_is_observed_and_becomes_an_allow_list() {
    let (at, count) = server();
    let (other, never) = server();
    let project = Project::with_tools(&["ruff", "pytest"]);
    tests(&project, &talk(at), "pass");
    let learn = |args: &[&str]| -> Ran { project.ft(&[&["lock", "--network-from-report"], args].concat()) };
    learn(&[]).leaves(2).says("no run of all checks is kept here");
    policy(&project, json!({"forbid_network": true}));
    project.ft(&["run"]).leaves(251).says(&format!("test_small tried to reach {at}"));
    learn(&[]).leaves(2).says("no step of this lock has an open network");
    assert_eq!(count.load(Ordering::SeqCst), 0);

    policy(&project, json!({"forbid_network": false}));
    learn(&[]).leaves(2).says("made with another lock");
    project.ft_with(&[("FT_NO_NETWORK", "1")], &["run"]).leaves(251);
    learn(&[]).leaves(2).says("was not open in this run");
    project.ft(&["run", "pytest", "--advisory"]).leaves(0);
    learn(&[]).leaves(2).says("ruff");
    project.ft(&["run"]).leaves(0).says(&format!("pytest talked to {at}")).says("ft lock --network-from-report");
    assert_eq!(count.load(Ordering::SeqCst), 2);
    let observed = &project.report().0["network"]["observed"];
    let (step, host) = (&observed[0]["step"], &observed[0]["host"]);
    assert_eq!((observed.as_array().unwrap().len(), step, host), (1, &json!("pytest"), &json!(at.ip().to_string())));

    let before = project.read("ci/parity.lock.json");
    learn(&[]).leaves(0).says("network_policy: closed").says(&format!("+ {at}    pytest: ")).says("(once)");
    let lock: Value = serde_json::from_str(&project.read("ci/parity.lock.json")).unwrap();
    assert_eq!(lock["network_policy"], json!({"forbid_network": true}));
    assert_eq!(lock["tools"]["pytest"]["network"], json!({"allowed_hosts": [at.to_string()]}));
    let changed = project.read("ci/parity.lock.json");
    let gone: Vec<&str> = before.lines().filter(|line| !changed.contains(line.trim_end_matches(','))).collect();
    assert_eq!(gone.len(), 1, "only what changed is touched: {gone:?}");
    learn(&[]).leaves(0).says("nothing in it is open");
    assert_eq!(project.read("ci/parity.lock.json"), changed);
    let runs = project.runs();
    let id = runs.last().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    learn(&[&id]).leaves(0);
    learn(&["artifacts/parity_report.json"]).leaves(0);
    learn(&["pyproject.toml"]).leaves(2).says("not a report");
    learn(&["no/such.json"]).leaves(2).says("no/such.json");

    project.commit();
    project.ft(&["run"]).leaves(0);
    tests(&project, &talk(other), "pass");
    project.ft(&["run"]).leaves(251).says(&format!("test_small tried to reach {other}"));
    assert_eq!((count.load(Ordering::SeqCst), never.load(Ordering::SeqCst)), (3, 0));
    project.ft(&["run", "--plan"]).leaves(0).says(&format!("its own loopback and {at}"));
}

#[test]
fn a_refusal_wins_over_a_permission_and_the_caller_over_both() {
    let (at, count) = server();
    let project = Project::with_tools(&["pytest"]);
    tests(&project, &format!("socket.socket().connect_ex(('{}', {}))", at.ip(), at.port()), "pass");
    let both = json!({"allowed_hosts": [at.to_string()], "deny_quietly": [at.to_string()]});
    policy(&project, both);
    project.ft(&["run"]).leaves(0).says("is refused all the same").says("was refused, as expected");
    policy(&project, json!({"forbid_network": false, "deny_quietly": [at.ip().to_string()]}));
    project.ft(&["run"]).leaves(0).says("was refused, as expected");
    assert_eq!(count.load(Ordering::SeqCst), 0);
    policy(&project, json!({"allowed_hosts": [at.to_string()]}));
    project.ft_with(&[("FT_NO_NETWORK", "1")], &["run"]).leaves(251);
    assert_eq!(count.load(Ordering::SeqCst), 0);
    project.ft(&["run"]).leaves(0);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn every_entry_of_a_host_list_has_a_meaning_or_is_refused_by_its_name() {
    let project = Project::with_tools(&["ruff"]);
    let planned = |field: &str, entry: &str| {
        policy(&project, json!({"forbid_network": true, field: [entry]}));
        project.ft(&["run", "--plan"])
    };
    for (entry, meaning) in [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("example.org:443", "example.org:443"),
        ("*.Example.org", "*.example.org"),
        ("*.example.org:443", "*.example.org:443"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ] {
        let allowed = format!("its own loopback and {meaning}\n");
        planned("allowed_hosts", entry).leaves(0).says(&allowed);
        planned("deny_quietly", entry).leaves(0).says(&format!("refused without a finding: {meaning}\n"));
    }
    planned("allowed_hosts", "localhost:8000").leaves(0).says("its own loopback only\n");
    for (entry, why) in [
        ("", "it is empty"),
        ("https://example.org", "it has a scheme"),
        ("example.org/path", "it has a path"),
        ("10.0.0.0/8", "it has a path or a network mask"),
        ("example.org:http", "\"http\" is not a port"),
        ("example.org:0", "\"0\" is not a port"),
        ("example.org:65536", "\"65536\" is not a port"),
        ("*", "a wildcard stands alone before a domain"),
        ("*.org", "a wildcard stands alone before a domain"),
        ("api.*.example.org", "a wildcard stands alone before a domain"),
        ("*example.org", "a wildcard stands alone before a domain"),
        ("me@example.org", "it has a user name"),
        ("a b", "neither a host name nor an address"),
        ("127.1", "neither a host name nor an address"),
        ("[::1", "neither a host name nor an address"),
        ("0.0.0.0", "the unspecified address"),
    ] {
        for field in ["allowed_hosts", "deny_quietly"] {
            policy(&project, json!({"forbid_network": true, field: [entry]}));
            let ran = project.ft(&["check"]);
            ran.leaves(102)
                .says("PARITY-002")
                .says(&format!("network_policy.{field}[0]: {entry:?} is not a host: "))
                .says(why);
        }
        policy(&project, json!({}));
        project.lock(|lock| lock["tools"]["ruff"]["network"] = json!({"allowed_hosts": ["a.org", entry]}));
        project
            .ft(&["check"])
            .leaves(102)
            .says(&format!("tools.ruff.network.allowed_hosts[1]: {entry:?} is not a host: "));
        project.lock(|lock| drop(lock["tools"]["ruff"].as_object_mut().unwrap().remove("network")));
    }
}

/// The step sees a look-up that fails, the report says which, and nobody violated anything.
#[test]
fn a_host_that_is_allowed_and_does_not_resolve_is_said_and_is_no_violation() {
    let project = Project::with_tools(&["pytest"]);
    // Nobody has it, ever (RFC 6761).
    let look_up = "\n    try:\n        socket.gethostbyname('nobody.invalid')\n    except socket.gaierror:\n        \
                   pass\n    else:\n        raise AssertionError";
    tests(&project, look_up, "pass");
    policy(&project, json!({"allowed_hosts": ["nobody.invalid"]}));
    project.ft(&["run"]).leaves(0).says("pytest: could not be resolved: nobody.invalid");
    let report = project.report();
    let network = &report.step("pytest")["network"];
    assert_eq!((network["denied"].as_array().map(Vec::len), report.exit_code()), (Some(0), 0), "{network}");
    let note = &network["notes"][0];
    assert_eq!((&note["name"], &note["why"]), (&json!("nobody.invalid"), &json!("does not resolve")), "{network}");
    // The control: the same look-up of a host that is not allowed.
    policy(&project, json!({"allowed_hosts": ["other.invalid"]}));
    project.ft(&["run"]).leaves(251).says("looked up nobody.invalid");
}
