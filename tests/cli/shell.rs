//! `ft shell` on a real terminal: job control, Ctrl-C, modes, sizes, exit status.

use super::harness::Project;
use serde_json::{Value, json};
use std::path::Path;

/// What a terminal showed, and how the program on it ended.
struct Talked {
    shown: String,
    status: i64,
}

/// Calls `ft` from a shell that owns a new terminal, and talks on it. The shell says `left STATUS` afterwards.
fn talk(project: &Project, args: &str, talk: &Value, then: &str) -> Talked {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/terminal.py");
    let ft = env!("CARGO_BIN_EXE_ft");
    let line = format!("'{ft}' {args}; echo left $?; {then}");
    let plan = json!({"talk": talk, "size": [33, 101]}).to_string();
    let mut command = project.command("python3", &[]);
    let output = command.arg(driver).arg(plan).args(["sh", "-c", &line]).env("TERM", "xterm").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    let shown = said["shown"].as_str().unwrap().to_owned();
    assert_eq!(said["missed"], Value::Null, "waited for {} in vain:\n{shown}", said["missed"]);
    Talked { shown, status: said["status"].as_i64().unwrap() }
}

fn project() -> Project {
    Project::with_tools(&["ruff"])
}

#[test]
fn a_shell_sees_the_environment_and_passes_its_status_on() {
    let said = talk(
        &project(),
        "shell",
        &json!([
            [r"\(ft\) /ft/work\$ ", "command -v python; id -un; echo columns $COLUMNS; stty size\r"],
            [r"/ft/env/bin/python\r\nft\r\n.*33 101\r\n.*\(ft\)", "exit 7\r"],
        ]),
        "",
    );
    assert!(said.shown.contains("left 7"), "{}", said.shown);
    assert_eq!(said.status, 0);
}

#[test]
fn ctrl_c_goes_to_the_program_and_ctrl_z_stops_it() {
    let said = talk(
        &project(),
        "shell",
        &json!([
            [r"\(ft\) ", "sh -c 'printf \"run%s\\n\" ning; exec sleep 100'\r"],
            [r"running\r\n", "\u{3}"],
            // It says itself that it was continued: until then the terminal may still be the shell's. And it starts
            // nothing: a shell between vfork and exec can't stop, and its `sleep` would wait for it for ever.
            [
                r"\^C.*\(ft\) ",
                "python -c 'import os, signal; signal.signal(signal.SIGCONT, lambda *_: os.write(1, b\"go on\\n\")); os.write(1, b\"up 1\\n\"); [signal.sigtimedwait([], 9) for _ in iter(int, 1)]'\r"
            ],
            [r"up \d+\r\n", "\u{1a}"],
            [r"Stopped.*\(ft\) ", "fg\r"],
            [r"go on\r\n", "\u{3}"],
            [r"\^C.*\(ft\) ", "exit 0\r"],
            [r"left 0", ""],
        ]),
        "",
    );
    assert_eq!(said.status, 0, "{}", said.shown);
}

#[test]
fn a_window_that_changes_is_known_inside() {
    let said = talk(
        &project(),
        "shell",
        &json!([
            [r"\(ft\) ", "trap 'echo changed to $(stty size)' WINCH; echo set\r"],
            [r"\rset\r\n.*\(ft\) ", {"size": [20, 70]}],
            [r"", "echo\r"],
            [r"changed to 20 70", "exit\r"],
        ]),
        "",
    );
    assert!(said.shown.contains("left 0"), "{}", said.shown);
}

#[test]
fn modes_and_foreground_are_restored_however_it_ends() {
    // Raw mode without echo, and then a death without a word: of the shell, and of the cell.
    for (how, typed, left) in [
        ("the shell", "stty raw -echo -isig; kill -9 $$\r", 137),
        ("the cell", "stty raw -echo -isig; printf 'ra%s\\n' w\r", 69),
    ] {
        let mut talked = vec![json!([r"\(ft\) ", typed])];
        if left == 69 {
            talked.push(json!([r"raw", {"signal": 9, "generation": 2}]));
        }
        // Whoever is not in the foreground gets no line here, and is stopped.
        talked.push(json!([format!("left {left}\r\n.*READY"), "a line\r"]));
        talked.push(json!([r"got a line", ""]));
        let said = talk(&project(), "shell", &json!(talked), "stty -a; printf READY; read line; echo got $line");
        let modes: Vec<&str> =
            said.shown.rsplit(&format!("left {left}")).next().unwrap().split_ascii_whitespace().collect();
        for mode in ["icanon", "echo", "isig", "opost"] {
            assert!(modes.contains(&mode), "{how}: {mode}: {}", said.shown);
        }
        assert_eq!(said.status, 0);
    }
}

#[test]
fn a_signal_to_the_runner_ends_the_cell_and_restores_the_terminal() {
    let script = r#"shell -- sh -c 'trap "" TERM; stty raw -echo; echo up; while :; do sleep 1; done'"#;
    let said = talk(&project(), script, &json!([[r"up", {"signal": 15}], [r"left 143", ""]]), "stty -a");
    let modes: Vec<&str> = said.shown.rsplit("left 143").next().unwrap().split_ascii_whitespace().collect();
    assert!(modes.contains(&"icanon") && modes.contains(&"echo"), "{}", said.shown);
}

#[test]
fn a_job_in_the_background_does_not_take_the_terminal() {
    let line = format!("set -m; '{}' shell & wait $!; echo status $?", env!("CARGO_BIN_EXE_ft"));
    let said = talk(&project(), "version", &json!([[r"left 0", ""], [r"status 2", ""]]), &line);
    assert!(said.shown.contains("not the foreground job") && said.shown.contains("without `&`"), "{}", said.shown);
}

#[test]
fn a_program_that_nobody_could_continue_is_not_stopped() {
    let script = r#"shell -- python -c 'print("up", flush=True); print("read", input())'"#;
    let said = talk(&project(), script, &json!([[r"up\r\n", "\u{1a}"], [r"\^Z", "words\r"], [r"read words", ""]]), "");
    assert!(said.shown.contains("left 0"), "{}", said.shown);
}

#[test]
fn ctrl_c_ends_a_program_without_a_shell_and_its_signal_is_the_status() {
    let script = r#"shell -- sh -c 'echo up; exec sleep 100'"#;
    let said = talk(&project(), script, &json!([[r"up\r\n", "\u{3}"], [r"left 130", ""]]), "");
    assert_eq!(said.status, 0);
}

#[test]
fn the_terminal_is_there_by_its_name_and_is_not_typed_into() {
    let script = r#"shell -- python -c 'import fcntl, termios
open("/dev/tty", "w").write("by name\n")
try: fcntl.ioctl(0, termios.TIOCSTI, b"x")
except OSError as e: print("refused", e.errno)'"#;
    let said = talk(&project(), script, &json!([[r"by name\r\n", ""], [r"refused 1\r\n", ""], [r"left 0", ""]]), "");
    assert_eq!(said.status, 0);
}

#[test]
fn without_a_terminal_it_names_the_command_for_that() {
    let project = project();
    let ran = project.ft(&["shell"]);
    ran.leaves(2).says("standard input is not a terminal").says("ft exec -- COMMAND");
    assert!(!project.path(".firsttry/runs").exists(), "no run began");
}
