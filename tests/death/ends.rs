//! Other ways to stop listening: closed pipes and descriptors, a full disk, `timeout`; who waits for whom; and what a step
//! leaves that is hard to remove.

use super::harness::{FT, Repo, eventually, nobody, tool};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

/// Runs a line of shell in which `ft` is `$FT`; gives status and what it said.
fn sh(repo: &Repo, line: &str) -> (Option<i32>, String) {
    let output = repo.command("sh", &["-c", line]).env("FT", FT).output().unwrap();
    (
        output.status.code(),
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat(),
    )
}

fn status_of(repo: &Repo) -> String {
    let path = repo.root.join("status");
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(path).unwrap();
    text.trim().to_owned()
}

fn quick() -> Repo {
    Repo::with(tool("one", json!({"command": "sh", "args": ["-c", "echo said"], "gate": "lint"})))
}

#[test]
fn a_reader_that_leaves_ends_the_command_that_it_read_from() {
    let repo = quick();
    let mark = format!("unread-{}", std::process::id());
    let start = Instant::now();
    let line = format!("{{ \"$FT\" exec -- sh -c 'while :; do echo y; done' {mark}; echo $? >status; }} | head -n 1");
    let (status, said) = sh(&repo, &line);
    assert_eq!((status, status_of(&repo).as_str(), said.as_str()), (Some(0), "141", "y\n"));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    nobody(&mark);
    // As the shell has it without us.
    let line = "{ sh -c 'while :; do echo y; done'; echo $? >status; } | head -n 1";
    assert_eq!((sh(&repo, line).0, status_of(&repo).as_str()), (Some(0), "141"));
    assert_eq!(repo.harm(), Vec::<String>::new());
    assert_eq!(repo.leftovers(), Vec::<String>::new());
}

#[test]
fn a_run_whose_reader_leaves_keeps_its_verdict() {
    let repo = quick();
    for line in ["{ \"$FT\" run; echo $? >status; } | true", "{ \"$FT\" run; echo $? >status; } 2>&1 | head -n 1"] {
        sh(&repo, line);
        assert_eq!(status_of(&repo), "0", "{line}");
        assert!(repo.root.join("artifacts/parity_report.json").exists());
    }
}

#[test]
fn descriptors_that_are_closed_change_no_verdict_and_no_file() {
    let repo = quick();
    for line in
        ["\"$FT\" run <&-", "\"$FT\" run >&-", "\"$FT\" run 2>&-", "\"$FT\" run <&- >&- 2>&-", "\"$FT\" run >/dev/full"]
    {
        let (status, said) = sh(&repo, line);
        assert_eq!(status, Some(0), "{line}: {said}");
        assert_eq!(repo.harm(), Vec::<String>::new(), "{line}");
        assert_eq!(repo.leftovers(), Vec::<String>::new(), "{line}");
    }
    let (status, said) = sh(&repo, "\"$FT\" exec -- cat <&-");
    assert_eq!((status, said.as_str()), (Some(0), ""));
}

#[test]
fn output_that_can_not_be_written_is_no_success() {
    let repo = quick();
    let (status, said) = sh(&repo, "\"$FT\" exec -- echo important >/dev/full");
    assert_eq!(status, Some(69), "{said}");
    assert!(said.contains("the output can't be written") && said.contains("No space left"), "{said}");
    assert_eq!(sh(&repo, "\"$FT\" exec -- echo important"), (Some(0), "important\n".to_owned()));
}

#[test]
fn timeout_of_coreutils_ends_a_run_with_its_report() {
    let mark = format!("timeout-{}", std::process::id());
    let repo =
        Repo::with(tool("one", json!({"command": "sh", "args": ["-c", "sleep 300; true", mark], "gate": "lint"})));
    let (status, said) = sh(&repo, "timeout 3 \"$FT\" run");
    assert_eq!(status, Some(124), "{said}");
    let report = fs::read_to_string(repo.root.join("artifacts/parity_report.json")).unwrap();
    assert!(report.contains("\"interrupted\": \"SIGTERM\""), "{report}");
    nobody(&mark);
}

/// A server in the cell of `ft exec` keeps nobody waiting: not another command, and not a run, which sweeps and must
/// not take the living for the dead.
#[test]
fn a_command_of_ones_own_keeps_no_run_waiting() {
    let repo = quick();
    let mark = format!("server-{}", std::process::id());
    let mut server = repo.command(FT, &["exec", "--", "sh", "-c", "sleep 300; true", &mark]).spawn().unwrap();
    eventually("the server runs", || !super::harness::processes(&mark).is_empty());
    for line in ["\"$FT\" exec -- echo beside", "\"$FT\" run", "\"$FT\" gc"] {
        let start = Instant::now();
        let (status, said) = sh(&repo, line);
        assert_eq!(status, Some(0), "{line}: {said}");
        assert!(!said.contains("waiting") && !said.contains("unfinished"), "{said}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    assert!(server.try_wait().unwrap().is_none(), "it still runs");
    assert_eq!(super::harness::processes(&mark).len(), 1);
    // And one that is dead is swept, by its name.
    server.kill().unwrap();
    server.wait().unwrap();
    nobody(&mark);
    let (status, said) = sh(&repo, "\"$FT\" run");
    assert_eq!(status, Some(0));
    assert!(said.contains("left unfinished"), "{said}");
    assert_eq!(repo.leftovers(), Vec::<String>::new());
}

/// Deeper than a path, and with fewer descriptors than levels.
#[test]
fn a_tree_that_is_deeper_than_any_path_is_removed_after_the_run() {
    let deep = "import os\nfor place in ('.', 'artifacts', '/ft/home', '/ft/out'):\n os.makedirs(place, exist_ok=True)\n \
                here = os.open('.', os.O_RDONLY)\n os.chdir(place)\n for _ in range(5000):\n  os.mkdir('d')\n  os.chdir('d')\n \
                os.chmod('.', 0)\n os.fchdir(here)\nprint('made')";
    let repo = Repo::with(tool("one", json!({"command": "python3", "args": ["-c", deep], "gate": "lint"})));
    let (status, said) = sh(&repo, "ulimit -n 200; \"$FT\" run");
    assert_eq!(status, Some(0), "{said}");
    assert!(!said.contains("could not be removed"), "{said}");
    assert_eq!(fs::read_to_string(repo.root.join("artifacts/logs/one.log")).unwrap(), "made\n");
    assert_eq!(repo.leftovers(), Vec::<String>::new());
    assert_eq!(repo.harm(), Vec::<String>::new());
    for run in fs::read_dir(repo.root.join(".firsttry/runs")).unwrap() {
        let left: Vec<_> = fs::read_dir(run.unwrap().path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.len() <= 4, "{left:?}");
    }
}
