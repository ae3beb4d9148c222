//! Several runs at once in one engine: none of them minds the others, and what they share is made once.

use crate::harness::{Project, eventually};
use crate::shared::{Built, docker, label, leaves_nothing, small};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A repository with this many tests.
fn with_tests(image: &mut Built, count: usize) -> Project {
    let project = small();
    let tests: String = (0..count).map(|at| format!("def test_{at}():\n    assert True\n\n\n")).collect();
    project.write("tests/test_demo.py", tests);
    image.pin(&project);
    project
}

/// What the engine says that it does, from now on.
struct Events {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Events {
    fn listen() -> Events {
        let format = "{{.Action}} {{.Actor.Attributes.name}}";
        let mut listen = Command::new("docker");
        listen.args(["events", "--since", "0s", "--filter", "type=container", "--format", format]);
        let mut child = listen.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, into) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
        std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line)));
        Events { child, lines }
    }

    fn count(&self, line: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|said| *said == line).count()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn runs_of_one_repository_and_of_two_at_once_are_right_and_fill_each_volume_once() {
    // Of an image of their own there is nothing yet that somebody else has made.
    let mut image = Built::on_top("LABEL ft.test.together=1");
    let (one, other) = (with_tests(&mut image, 3), with_tests(&mut image, 5));
    let events = Events::listen();
    let probe = docker(&["create", "--network", "none", &image.id, "true"]);
    let named = docker(&["inspect", "--format", "{{.Name}}", &probe]);
    eventually("the engine's events are heard", || {
        events.count(&format!("create {}", named.trim_start_matches('/'))) == 1
    });
    docker(&["rm", &probe]);

    let running = [(&one, 3), (&one, 3), (&other, 5)]
        .map(|(project, tests)| (project, tests, project.start(&["run", "--container", "--json"])));
    for (project, tests, child) in running {
        let ran = project.wait(child);
        ran.leaves(0);
        let report: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((&report["exit_code"], &report["steps"][0]["tests"]["passed"]), (&json!(0), &json!(tests)));
    }
    assert_eq!(one.runs().len(), 2);
    leaves_nothing(&one);
    leaves_nothing(&other);

    let listed = |project| docker(&["volume", "ls", "--quiet", "--filter", &label(project)]);
    let volumes = format!("{}\n{}", listed(&one), listed(&other));
    for kind in ["ft-env-", "ft-etc-"] {
        let named: Vec<&str> =
            volumes.lines().filter(|name| name.starts_with(kind) && !name.ends_with("-sealed")).collect();
        assert_eq!(named.len(), 1, "{kind}: {volumes}");
        // Its content, and its seal.
        assert_eq!(events.count(&format!("extract-to-dir ft-fill-{}", named[0])), 2, "{kind}");
    }
}
