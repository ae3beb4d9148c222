//! A person at a terminal: Ctrl-C, Ctrl-Z, a window that is closed. A real pseudo terminal, with a shell that does what
//! shells do (groups of processes, the foreground), played by Python's `pty`.

use super::harness::{FT, Repo, nobody, python, tool};
use serde_json::{Value, json};
use std::fs;

/// Plays a scenario; gives what it put into `answer`.
fn play(repo: &Repo, scenario: &str) -> Value {
    let script = format!("{}\n{scenario}\nprint(json.dumps(answer))\n", include_str!("terminal.py"));
    let python = python().0.join(format!("python{}", python().1));
    let mut command = repo.command(python.to_str().unwrap(), &["-c", &script]);
    let output = command.env("FT_UNDER_TEST", FT).env("TERM", "xterm").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A repository with one step, and a mark that stands in the step's command line.
fn with_step(mark: &str, script: &str, timeout_sec: u64) -> Repo {
    Repo::with(tool(
        "one",
        json!({"command": "sh", "args": ["-c", script, mark], "gate": "lint",
        "timeout_sec": timeout_sec, "grace_sec": 30}),
    ))
}

fn mark(name: &str) -> String {
    format!("terminal-{name}-{}", std::process::id())
}

fn report(repo: &Repo) -> Value {
    serde_json::from_str(&fs::read_to_string(repo.root.join("artifacts/parity_report.json")).unwrap()).unwrap()
}

#[test]
fn ctrl_c_asks_and_a_second_one_does_not() {
    let mark = mark("ctrl-c");
    let repo = with_step(&mark, "trap '' TERM INT HUP; touch ready; sleep 300; sleep 300", 600);
    let answer = play(
        &repo,
        r#"
t = Terminal([FT, "run"])
t.until_ready("one")
t.keys(b"\x03")
t.until("once more")
t.stand(.3)
answer["heard before the second"] = t.heard.decode()
t.keys(b"\x03")
answer["status"] = t.status(20)
"#,
    );
    assert_eq!(answer["status"], 130);
    assert!(!answer["heard before the second"].as_str().unwrap().contains("exited"), "{answer}");
    let report = report(&repo);
    assert_eq!((&report["interrupted"], &report["steps"][0]["killed"]), (&json!("SIGINT"), &json!(true)));
    nobody(&mark);
}

#[test]
fn ctrl_z_pauses_the_cell_and_its_timers_and_fg_lets_both_go_on() {
    let mark = mark("ctrl-z");
    // Two seconds of work, five of timeout, six of pause.
    let repo = with_step(&mark, "touch ready; i=0; while [ $i -lt 20 ]; do echo $i; i=$((i+1)); sleep .1; done", 5);
    let answer = play(
        &repo,
        r#"
import glob
def said():
    return sum(os.path.getsize(log) for log in glob.glob(".firsttry/runs/*/logs/one.log"))
def states(mark):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in open(f"/proc/{pid}/cmdline").read() and "python" not in open(f"/proc/{pid}/comm").read():
                found.append(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0])
        except OSError:
            pass
    return found
t = Terminal([FT, "run"])
t.until_ready("one")
t.stand(.3)
t.keys(b"\x1a")
answer["stopped"] = t.until("stopped", 5)
for _ in range(40):
    # A process that waits for a busy machine's CPU takes its stop when it gets one.
    answer["states"] = states("MARK")
    if answer["states"] == ["T"]:
        break
    t.stand(.05)
before = said()
t.stand(6)
answer["grown"] = said() - before
t.tell("fg")
answer["status"] = t.status(30)
answer["output"] = t.output.decode(errors="replace")
"#
        .replace("MARK", &mark)
        .as_str(),
    );
    assert_eq!(answer["states"], json!(["T"]), "{answer}");
    assert_eq!(answer["grown"], 0, "{answer}");
    assert_eq!(answer["status"], 0, "{answer}");
    let events = fs::read_to_string(repo.root.join("artifacts/events.jsonl")).unwrap();
    assert_eq!(events.matches("\"event\":\"paused\"").count(), 2, "{events}");
    let log = fs::read_to_string(repo.root.join("artifacts/logs/one.log")).unwrap();
    assert_eq!(log.lines().count(), 20);
    nobody(&mark);
}

#[test]
fn a_window_that_is_closed_ends_the_run_with_a_report() {
    let mark = mark("closed");
    let repo = with_step(&mark, "sleep 300; sleep 300", 600);
    let answer = play(
        &repo,
        r#"
t = Terminal([FT, "run"])
t.until("one")
t.stand(.5)
t.hang_up()
answer["status"] = t.status(20)
"#,
    );
    assert_eq!(answer["status"], 143);
    assert_eq!(report(&repo)["interrupted"], "SIGHUP");
    nobody(&mark);
}

#[test]
fn nohup_goes_on_when_the_window_is_closed() {
    let mark = mark("nohup");
    let repo = with_step(&mark, "sleep 2", 60);
    let answer = play(
        &repo,
        r#"
t = Terminal(["sh", "-c", "exec nohup " + FT + " run >nohup.txt 2>&1"])
t.until("job")
while not (os.path.exists("nohup.txt") and "RUN  one" in open("nohup.txt").read()):
    t.stand(.05)
t.hang_up()
answer["status"] = t.status(30)
os.remove("nohup.txt")
"#,
    );
    assert_eq!(answer["status"], 0);
    assert_eq!(report(&repo)["interrupted"], Value::Null);
    nobody(&mark);
}

#[test]
fn a_job_in_the_background_that_may_not_write_stops_and_goes_on_in_the_foreground() {
    let mark = mark("tostop");
    let repo = with_step(&mark, "sleep .5", 60);
    let answer = play(
        &repo,
        r#"
t = Terminal([FT, "run"], background=True, tostop=True)
answer["stopped"] = t.until("stopped", 20)
t.stand(1)
t.tell("fg")
answer["status"] = t.status(30)
"#,
    );
    assert_eq!(answer["stopped"], format!("stopped {}", libc::SIGTTOU));
    assert_eq!(answer["status"], 0);
    nobody(&mark);
}

#[test]
fn a_job_in_the_background_that_may_write_runs_to_its_end() {
    let mark = mark("background");
    let repo = with_step(&mark, "sleep .5", 60);
    let answer = play(
        &repo,
        r#"
t = Terminal([FT, "run"], background=True)
answer["status"] = t.status(30)
"#,
    );
    assert_eq!(answer["status"], 0);
    nobody(&mark);
}
