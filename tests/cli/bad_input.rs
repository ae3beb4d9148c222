//! What bad input gets: locks, repositories, tools and artifacts that are not as they should be.

use super::harness::{Project, git, processes};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

const LOCK: &str = "ci/parity.lock.json";

/// A run and a self-check both refuse the lock: 102 with id, place and hint, a report, and nothing is run.
#[track_caller]
fn refused(project: &Project, words: &[&str]) {
    for command in [["run"], ["check"]] {
        let _ = fs::remove_dir_all(project.path("artifacts"));
        let ran = project.ft(&command);
        ran.leaves(102).says("PARITY-002").says("hint: ");
        let report = project.report();
        assert_eq!((report.exit_code(), report.failures()), (102, vec!["PARITY-002"]));
        let (message, hint) = report.finding("PARITY-002");
        for word in words {
            assert!(message.contains(word), "{message:?} does not say {word:?}");
        }
        assert!(message.len() < 1000 && !hint.is_empty());
        assert!(report.0["steps"].as_array().unwrap().is_empty(), "something was run");
    }
}

#[test]
fn no_lock_at_all_is_refused() {
    let project = Project::with_tools(&["ruff"]);
    fs::remove_file(project.path(LOCK)).unwrap();
    refused(&project, &[LOCK]);
    project.ft(&["run"]).says("ft init");
}

#[test]
fn a_lock_that_is_a_directory_is_refused() {
    let project = Project::with_tools(&["ruff"]);
    fs::remove_file(project.path(LOCK)).unwrap();
    fs::create_dir(project.path(LOCK)).unwrap();
    refused(&project, &[LOCK]);
}

#[test]
fn a_lock_that_is_a_pipe_is_not_waited_for() {
    let project = Project::with_tools(&["ruff"]);
    fs::remove_file(project.path(LOCK)).unwrap();
    assert!(project.command("mkfifo", &[LOCK]).status().unwrap().success());
    refused(&project, &[LOCK, "is not a regular file"]);
}

#[test]
fn a_lock_that_says_nothing_readable_is_refused_with_its_place() {
    let project = Project::with_tools(&["ruff"]);
    let good = project.read(LOCK);
    let cases: &[(&str, &[&str])] = &[
        ("", &[LOCK, "empty"]),
        ("python = 3.11\n", &["1:1"]),
        ("[]", &["1:1"]),
        ("\"text\"", &["1:1"]),
        ("{\"version\": 2,\n  \"python\": 3.11}", &["2:13", "python"]),
        ("{\"version\": 2,\n  \"python\": \"3.11\",\n  \"python\": \"3.12\"}", &["3:3", "python"]),
        ("{\"version\": 2, \"python\": \"3.11\", \"thresholds\": {\"coverage_min\": NaN}}", &["1:"]),
        ("{\"version\": 2, \"python\": \"3.11\", \"thresholds\": {\"coverage_min\": 1e999}}", &["1:"]),
        ("{\"version\": 3, \"python\": \"3.11\"}", &["version"]),
        ("{\"version\": 2, \"python\": \"3.11\", \"tool\": {}}", &["tool", "did you mean tools"]),
    ];
    for (text, words) in cases {
        project.write(LOCK, text);
        refused(&project, words);
    }
    project.write(LOCK, format!("\u{feff}{good}")).ft(&["check"]).does_not_say("panicked");
    project.write(LOCK, b"{\"python\": \"\xff\"}".as_slice());
    refused(&project, &[]);
    project.write(LOCK, "[".repeat(100_000));
    refused(&project, &[]);
}

#[test]
fn a_lock_of_50_mb_is_refused_without_being_kept_in_memory() {
    let project = Project::with_tools(&["ruff"]);
    project.write(LOCK, format!("{{\"_comment\": \"{}\"}}", "x".repeat(50 << 20)));
    let limit = format!("ulimit -v {}; exec {} check", 400 << 10, env!("CARGO_BIN_EXE_ft"));
    let out = project.command("sh", &["-c", &limit]).output().unwrap();
    assert_eq!(out.status.code(), Some(102), "{}", String::from_utf8_lossy(&out.stderr));
    refused(&project, &["50 MiB"]);
}

#[test]
fn a_path_that_leaves_the_repository_is_refused() {
    let project = Project::with_tools(&["ruff"]);
    for path in ["../secret.toml", "/etc/passwd", "a/../../b", "~/x/../../../y"] {
        let (good, bad) = (project.read(LOCK), "a".repeat(64));
        project.lock(|lock| lock["config_hashes"] = json!({path: bad}));
        if path.starts_with('~') {
            project.ft(&["check"]).leaves(102);
        } else {
            refused(&project, &["config_hashes", path]);
        }
        project.write(LOCK, &good);
        project.lock(|lock| lock["collect"] = json!([path]));
        if !path.starts_with('~') {
            refused(&project, &["collect", path]);
        }
        project.write(LOCK, &good);
    }
}

#[test]
fn a_config_file_that_is_a_link_out_of_the_repository_is_not_read() {
    let project = Project::with_tools(&["ruff"]);
    fs::remove_file(project.path("ruff.toml")).unwrap();
    let secret = project.home.join("secret");
    fs::write(&secret, "line-length = 100\n").unwrap();
    symlink(&secret, project.path("ruff.toml")).unwrap();
    project.ft(&["check"]).leaves(102).says("PARITY-012").says("ruff.toml");
}

#[test]
fn a_mistake_of_usage_leaves_with_2_a_suggestion_and_nothing_new() {
    let project = Project::empty();
    git(&project.root, &["init", "-q"]);
    for (args, words) in [
        (&["run", "--advisry"][..], "--advisory"),
        (&["chekc"], "check"),
        (&["env", "biuld"], "build"),
        (&["lock", "--check", "--upgrade"], "--check"),
        (&[], "Usage"),
        (&["explain", "PARITY-999"], "PARITY-"),
        (&["-C", "/no/such/folder", "run"], "/no/such/folder"),
    ] {
        project.ft(args).leaves(2).says(words);
    }
    project.ft_parity(&["--parity", "--self-check"]).leaves(2).says("cannot be used with");
    project.ft_parity(&["--self-chekc"]).leaves(2).says("--self-check");
    project.ft_parity(&[]).leaves(2).says("Usage");
    let left: Vec<_> = fs::read_dir(&project.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".git"]);
    assert!(!project.path(".git/info/exclude").is_file() || !project.read(".git/info/exclude").contains(".firsttry"));
}

#[test]
fn outside_of_a_repository_there_is_one_clear_sentence() {
    let project = Project::empty().var("GIT_CEILING_DIRECTORIES", env!("CARGO_TARGET_TMPDIR"));
    for command in [&["run"][..], &["check"], &["init"], &["lock"], &["exec", "--", "true"], &["hooks", "status"]] {
        let ran = project.ft(command);
        ran.leaves(2).says("not in a git repository").says("git init");
        assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    }
    git(&project.root, &["init", "-q", "--bare", "bare.git"]);
    project.ft(&["-C", "bare.git", "run"]).leaves(2).says("a bare repository has no files to check");
    assert_eq!(fs::read_dir(&project.root).unwrap().count(), 1);
}

#[test]
fn before_the_first_commit_everything_works() {
    let project = Project::with_tools(&["ruff"]);
    fs::remove_dir_all(project.path(".git")).unwrap();
    git(&project.root, &["init", "-q"]);
    project.git(&["add", "-A", "--", ":!.firsttry", ":!.venv-parity"]);
    project.ft(&["run"]).leaves(0);
    assert_eq!(project.report().0["snapshot"]["commit"], json!(null));
    project.ft(&["run", "--snapshot", "index"]).leaves(0);
    project.ft(&["run", "--snapshot", "HEAD"]).leaves(2).says("HEAD: git knows no such commit here");
}

#[test]
fn a_project_in_a_subfolder_of_the_repository_is_checked_alone() {
    let project = Project::with_tools(&["ruff"]);
    let inner = project.path("services/the api \u{e4}");
    fs::create_dir_all(&inner).unwrap();
    for name in ["ci", "src", "tests", "pyproject.toml", "ruff.toml"] {
        fs::rename(project.path(name), inner.join(name)).unwrap();
    }
    project.write("other/broken.py", "import os\n");
    project.commit();
    fs::rename(project.path(".firsttry"), inner.join(".firsttry")).unwrap();
    fs::remove_file(project.path(".venv-parity")).unwrap();
    let at = inner.join("src").display().to_string();
    project.ft(&["-C", &at, "run"]).leaves(0);
    assert!(inner.join("artifacts/parity_report.json").is_file());
    assert!(!project.path("artifacts").exists());
    assert_eq!(project.git(&["status", "--porcelain"]), "");
}

#[test]
fn a_path_with_spaces_and_letters_beyond_ascii_works() {
    let project = Project::in_folder("my projekt \u{fc} \u{2603} 'quoted'");
    project.lock(|lock| lock["build"] = json!(true)).commit();
    project.ft(&["run"]).leaves(0).says("passed: 6 checks");
    project.ft(&["exec", "--", "python", "-c", "import demo; print(demo.add(2, 2))"]).leaves(0).says("4");
}

/// A lock with one more step: `python -c CODE`.
fn step(project: &Project, code: &str) {
    project.lock(|lock| {
        lock["tools"] =
            json!({"odd": {"command": "python", "args": ["-c", code], "gate": "lint", "timeout_sec": 60, "grace_sec": 1}});
    });
}

#[test]
fn a_tool_that_prints_a_gigabyte_costs_bounded_memory_and_disk() {
    let project = Project::with_tools(&["ruff"]);
    step(&project, "import os\nline = b'x' * (1 << 20)\nfor _ in range(1024): os.write(1, line)");
    project.lock(|lock| lock["resource_limits"] = json!({"output_mb": 8}));
    let limit = format!("ulimit -v {}; exec {} run", 2 << 20, env!("CARGO_BIN_EXE_ft"));
    let out = project.command("sh", &["-c", &limit]).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let report = project.report();
    let output = &report.step("odd")["output"];
    assert_eq!(output["bytes"], 1_u64 << 30);
    assert!(output["dropped"].as_u64().unwrap() >= (1 << 30) - (9 << 20));
    assert!(fs::metadata(project.path("artifacts/logs/odd.log")).unwrap().len() <= 9 << 20);
}

#[test]
fn output_that_is_no_text_or_steers_a_terminal_does_no_harm() {
    let project = Project::with_tools(&["ruff"]);
    let code = "import os\nos.write(1, b'\\xff\\xfe \\x1b[2J\\x1b]0;title\\x07 \\x1b]52;c;aGk=\\x07 seen\\r\\n')\nraise SystemExit(1)";
    step(&project, code);
    let ran = project.ft(&["run"]);
    ran.leaves(211).says("seen");
    assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'));
    let log = fs::read(project.path("artifacts/logs/odd.log")).unwrap();
    assert!(log.starts_with(b"\xff\xfe \x1b[2J"), "the log is kept byte for byte");
}

#[test]
fn a_daemon_that_a_step_leaves_is_ended_and_named() {
    let project = Project::with_tools(&["ruff"]);
    let marker = format!("daemon-of-{}", std::process::id());
    let code = format!(
        "import os, sys, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    \
         os.execvp('sh', ['sh', '-c', 'sleep 600; true', '{marker}'])\n  os._exit(0)\ntime.sleep(0.5)"
    );
    step(&project, &code);
    project.ft(&["run"]).leaves(0);
    assert_eq!(processes(&marker), Vec::<u32>::new());
    let report = project.report();
    assert!(report.step("odd")["survivors"].to_string().contains("sh"), "{:#}", report.step("odd"));
}

#[test]
fn a_required_artifact_that_is_a_link_or_a_pipe_is_refused_by_name() {
    let project = Project::with_tools(&["ruff"]);
    let code = "import os\nos.makedirs('artifacts', exist_ok=True)\nos.symlink('/etc/passwd', 'artifacts/link.xml')\n\
                os.mkfifo('artifacts/pipe.xml')\nopen('artifacts/good.xml', 'w').write('<good/>')\n\
                f = open('artifacts/huge.xml', 'w'); f.truncate(1 << 40)";
    step(&project, code);
    let wanted = ["artifacts/link.xml", "artifacts/pipe.xml", "artifacts/huge.xml", "artifacts/good.xml"];
    project.lock(|lock| lock["required_artifacts"] = json!(wanted));
    project.ft(&["run"]).leaves(45).says("artifacts/link.xml: odd left it, refused");
    let report = project.report();
    assert_eq!((report.exit_code(), report.failures()), (301, vec!["PARITY-301"; 3]));
    let refused = report.0["refused"].to_string();
    for name in &wanted[..3] {
        assert!(refused.contains(name), "{refused}");
        assert!(project.path(name).symlink_metadata().is_err(), "{name} was published");
    }
    assert_eq!(project.read("artifacts/good.xml"), "<good/>");
}

#[test]
fn a_file_of_the_user_s_in_artifacts_is_never_lost() {
    let project = Project::with_tools(&["ruff"]);
    project.write("artifacts/mine.txt", "mine").write("artifacts/junit.xml", "mine too");
    project.ft(&["run"]).leaves(0).says("junit.xml.yours");
    project.ft(&["check"]).leaves(0);
    project.ft(&["run"]).leaves(0).does_not_say("was not ours");
    assert_eq!(project.read("artifacts/mine.txt"), "mine");
    assert_eq!(project.read("artifacts/junit.xml.yours"), "mine too");
}

#[test]
fn a_full_disk_is_infrastructure_and_the_next_run_recovers() {
    let project = Project::with_tools(&["ruff"]);
    fs::remove_dir_all(project.path(".firsttry")).unwrap();
    fs::remove_file(project.path(".venv-parity")).unwrap();
    fs::create_dir(project.path(".firsttry")).unwrap();
    // A mount namespace of its own, so that nothing is left of the small disk.
    let full = "[ \"$(id -u)\" = 0 ] && flags=-m || flags=-rm\n\
                exec unshare $flags sh -c 'mount -t tmpfs -o size=20m small .firsttry && exec \"$0\" run' \"$0\"";
    let out = project.command("sh", &["-c", full, env!("CARGO_BIN_EXE_ft")]).output().unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert_eq!(out.status.code(), Some(69), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    let report = project.report();
    assert_eq!((report.exit_code(), report.failures(), report.started()), (69, vec![], 0));
    project.ft(&["run"]).leaves(0);
    assert_eq!(project.git(&["status", "--porcelain"]), "");
}
