//! A repository whose run takes half a second, and somebody who looks at what is left of one.

use rustix::process::{Pid, WaitOptions, WaitStatus};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub const FT: &str = env!("CARGO_BIN_EXE_ft");

/// What every step does: it leaves two files, and a process in a session of its own that holds its output open.
const STEP: &str = "mkdir -p artifacts; (setsid sh -c 'setsid sleep 300 & sleep 300' &); echo one > artifacts/NAME.txt; \
                    sleep .03; head -c 60000 /dev/zero > artifacts/NAME.bin; echo said; sleep .03";

/// The steps of the repository.
pub const STEPS: [&str; 3] = ["a", "b", "c"];

/// A repository, its home and its temporary folder.
pub struct Repo {
    dir: tempfile::TempDir,
    pub root: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

/// The first Python here that `ft` can work with: its folder and `3.11`.
pub fn python() -> &'static (PathBuf, String) {
    static PYTHON: OnceLock<(PathBuf, String)> = OnceLock::new();
    PYTHON.get_or_init(find_python)
}

fn find_python() -> (PathBuf, String) {
    let probe = "import sys, ensurepip; assert sys.version_info >= (3, 10); print(sys.executable); \
                 print('%d.%d' % sys.version_info[:2])";
    let found = ["python3.11", "python3.12", "python3.13", "python3.10", "python3"].into_iter().find_map(|name| {
        let out = Command::new(name).args(["-c", probe]).output().ok().filter(|out| out.status.success())?;
        let text = String::from_utf8(out.stdout).ok()?;
        let (path, version) = text.trim().split_once('\n')?;
        Some((Path::new(path).parent()?.to_owned(), version.to_owned()))
    });
    found.expect("a Python from 3.10 on with ensurepip is needed for these tests")
}

#[expect(clippy::disallowed_methods, reason = "the caller's own PATH holds git and sh")]
fn path_with(first: &Path) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(first.to_owned()).chain(std::env::split_paths(&rest))).unwrap()
}

impl Repo {
    /// A committed repository with three steps that was never run.
    pub fn new() -> Repo {
        let step = |name: &&str| {
            let args = ["-c".to_owned(), STEP.replace("NAME", name)];
            (
                (*name).to_owned(),
                json!({"command": "sh", "args": args, "gate": "lint", "timeout_sec": 60, "grace_sec": 1}),
            )
        };
        Repo::with(STEPS.iter().map(step).collect())
    }

    /// A committed repository with these tools.
    pub fn with(tools: serde_json::Map<String, Value>) -> Repo {
        let (_, python) = python();
        let dir = tempfile::Builder::new().prefix("ft-death-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = dir.path().join("project");
        for folder in ["project/ci", "project/src", "project/artifacts", "home", "tmp"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let lock = json!({
            "version": 2,
            "python": python,
            "environment": {"from": "ci/parity.requirements.txt", "project": "none"},
            "tools": tools,
            "pytest_collection": {"allow_uncollected": true},
            "network_policy": {"forbid_network": true},
            "resource_limits": {"cpu_count": 2, "pids": 100},
        });
        fs::write(root.join("ci/parity.lock.json"), serde_json::to_string_pretty(&lock).unwrap()).unwrap();
        fs::write(root.join("ci/parity.requirements.txt"), "").unwrap();
        fs::write(root.join("src/a.py"), "x = 1\n").unwrap();
        let mut repo = Repo { dir, root, before: BTreeMap::new() };
        repo.git(&["init", "-q", "-b", "main"]);
        repo.git(&["add", "-A"]);
        repo.git(&["commit", "-qm", "all"]);
        // Of the user's own, where results go.
        fs::write(repo.root.join("artifacts/mine.txt"), "mine\n").unwrap();
        repo.remember();
        repo
    }

    /// What the user has is from now on what is there now.
    pub fn remember(&mut self) {
        let tracked = self.git(&["ls-files"]);
        let names = tracked.lines().map(PathBuf::from).chain([PathBuf::from("artifacts/mine.txt")]);
        self.before = names.map(|name| (name.clone(), sha256(&self.root.join(&name)))).collect();
    }

    /// A command of the person who works here, with nothing of this process's environment.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.root).stdin(Stdio::null()).env_clear();
        let folder = |name: &str| self.dir.path().join(name);
        command.env("PATH", path_with(&python().0)).env("HOME", folder("home")).env("TMPDIR", folder("tmp"));
        command.env("FT_CACHE_DIR", folder("home/cache")).env("FIRSTTRY_DISABLE_AUTO_PARITY", "1").env("FT_UV", "");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "A Person").env(format!("GIT_{who}_EMAIL"), "person@example.org");
        }
        command
    }

    /// Runs git and gives what it printed, without the last newline.
    pub fn git(&self, args: &[&str]) -> String {
        let out = self.command("git", args).output().unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    /// Starts `ft` with its output in files.
    pub fn start(&self, args: &[&str], vars: &[(&str, &str)]) -> Started {
        let mut command = self.command(FT, args);
        let file = |name: &str| fs::File::create(self.dir.path().join(name)).unwrap();
        command.stdout(file("out")).stderr(file("err")).envs(vars.iter().copied());
        let pid = command.spawn().unwrap().id();
        Started {
            pid: Pid::from_raw(pid.cast_signed()).unwrap(),
            since: Instant::now(),
            status: None,
            orphans: Vec::new(),
        }
    }

    /// What the command that was started last said, on both streams.
    pub fn said(&self) -> String {
        ["out", "err"].map(|name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()).concat()
    }

    /// The record of the run that is under way.
    pub fn record(&self) -> Option<PathBuf> {
        let runs = fs::read_dir(self.root.join(".firsttry/runs")).ok()?;
        let unfinished =
            runs.filter_map(Result::ok).map(|run| run.path()).filter(|run| run.join("unfinished").exists());
        // Older ones of runs that were killed are swept before a new one begins.
        unfinished.max().map(|run| run.join("events.jsonl")).filter(|record| record.exists())
    }

    /// What must hold at every moment, however somebody died: nothing of the machine is held, nothing of the user's is
    /// changed, and what is published is whole. Says what does not.
    pub fn harm(&self) -> Vec<String> {
        let mut harm = Vec::new();
        let name = self.dir.path().file_name().unwrap().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        harm.extend(mounts.lines().filter(|line| line.contains(&name)).map(|line| format!("mount: {line}")));
        for (path, digest) in &self.before {
            let now = sha256(&self.root.join(path));
            if now != *digest {
                harm.push(format!("{}: changed", path.display()));
            }
        }
        let status = self.git(&["status", "--porcelain"]);
        // Before the first run nothing of ours is there to be left out.
        if !status.is_empty() && self.root.join(".firsttry").exists() {
            harm.push(format!("git status: {status}"));
        }
        let link = self.root.join(".venv-parity");
        if link.is_symlink() && !link.join("bin/python").exists() {
            harm.push(format!(".venv-parity leads to nothing: {:?}", fs::read_link(&link)));
        }
        harm.extend(self.published());
        harm
    }

    /// Whether what stands in `artifacts/` is what the list of publishing says.
    fn published(&self) -> Vec<String> {
        let mut harm = Vec::new();
        let artifacts = self.root.join("artifacts");
        if let Ok(text) = fs::read_to_string(self.root.join(".firsttry/published.json")) {
            let Ok(list) = serde_json::from_str::<Value>(&text) else {
                return vec!["published.json is no JSON".into()];
            };
            for (name, hashes) in list["files"].as_object().unwrap() {
                let file = artifacts.join(name);
                let known = |hash: &str| hashes.as_array().unwrap().iter().any(|known| known == hash);
                if file.exists() && !known(&sha256(&file)) {
                    harm.push(format!("artifacts/{name} is not what the list says"));
                }
            }
        }
        if let Ok(text) = fs::read_to_string(artifacts.join("parity_report.json")) {
            match serde_json::from_str::<Value>(&text) {
                Ok(report) if report["exit_code"].is_u64() && report["steps"].is_array() => {}
                _ => harm.push(format!("the report is not one: {text}")),
            }
        }
        for file in below(&artifacts) {
            let name = file.strip_prefix(&artifacts).unwrap().to_string_lossy().into_owned();
            if name.contains(".yours") {
                harm.push(format!("artifacts/{name}: ours was taken for the user's"));
            }
        }
        harm
    }

    /// What a whole run leaves nothing of: temporary files, marks, folders of cells. To be asked after one.
    pub fn leftovers(&self) -> Vec<String> {
        let temporary = |name: &str| {
            name.contains(".tmp")
                || name.starts_with(".ft-")
                || name.contains(".partial")
                || name.starts_with("tree.")
                || name.starts_with("git.")
                || name.starts_with("history.")
                || name == "unfinished"
                || name == "snapshot.tar"
                || name == "cells"
                || name.ends_with(".new")
        };
        let mut left: Vec<String> = below(&self.root)
            .into_iter()
            // The seal of an environment stays.
            .filter(|path| {
                path.file_name().is_some_and(|name| name != ".ft-seal" && temporary(&name.to_string_lossy()))
            })
            .map(|path| path.strip_prefix(self.dir.path()).unwrap().display().to_string())
            .collect();
        for empty in ["tmp", "project/.firsttry/tmp"] {
            left.extend(below(&self.dir.path().join(empty)).iter().map(|path| path.display().to_string()));
        }
        left
    }
}

/// Everything below a folder, links not followed.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        all.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(below(&entry.path()));
        }
    }
    all
}

fn sha256(path: &Path) -> String {
    fs::read(path).map_or_else(|error| error.to_string(), |bytes| hex::encode(Sha256::digest(bytes)))
}

/// A command that was started, by a process that inherits its orphans.
pub struct Started {
    pub pid: Pid,
    pub since: Instant,
    pub status: Option<WaitStatus>,
    /// Other processes of it that were handed to us and ended.
    pub orphans: Vec<i32>,
}

impl Started {
    /// Takes everybody who ended. Whether somebody is left.
    pub fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.pid => self.status = Some(status),
                Ok(Some((pid, _))) => self.orphans.push(pid.as_raw_nonzero().get()),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    pub fn is_over(&mut self) -> bool {
        self.reap();
        self.status.is_some()
    }

    pub fn kill(&self) {
        let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::KILL);
    }

    /// Waits until it and everything it ever started are gone; else names who is left.
    pub fn until_nobody_is_left(&mut self, patience: Duration) -> Result<(), String> {
        let until = Instant::now() + patience;
        while self.reap() {
            if Instant::now() >= until {
                return Err(format!("still there: {:?}", family(std::process::id().cast_signed())));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Every living process: its number, its parent's, and the first word of its command line (or its name).
fn everybody() -> Vec<(i32, i32, String)> {
    let stat = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = text.rsplit_once(')')?;
        let mut fields = tail.split_ascii_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let word = String::from_utf8_lossy(line.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        let name = if word.is_empty() { head.split_once('(').unwrap_or_default().1.to_owned() } else { word };
        (!["Z", "X"].contains(&state)).then_some((pid, parent, name))
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).collect()
}

/// Children of a process whose command line starts so. All of them where `name` is empty.
pub fn children(of: i32, name: &str) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    let called =
        |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(name.as_bytes()));
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(called).collect()
}

/// All descendants of a process, as `number name`.
pub fn family(of: i32) -> Vec<String> {
    let all = everybody();
    let (mut known, mut named) = (vec![of], Vec::new());
    let mut at = 0;
    while at < known.len() {
        let of = known[at];
        for (pid, _, name) in all.iter().filter(|(_, parent, _)| *parent == of) {
            known.push(*pid);
            named.push(format!("{pid} {name}"));
        }
        at += 1;
    }
    named
}

/// Control groups of ours that were made by one of these processes.
pub fn groups_of(makers: &[i32]) -> Vec<PathBuf> {
    let ours = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        let maker = name.strip_prefix("ft-cell-")?.split_once('-')?.0.parse().ok()?;
        makers.contains(&maker).then_some(())
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let root = Path::new("/sys/fs/cgroup").join(controllers);
        for place in root.join(path.trim_start_matches('/')).ancestors().take_while(|place| place.starts_with(&root)) {
            let groups = fs::read_dir(place).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
            found.extend(groups.filter(|path| ours(path).is_some()));
        }
    }
    found
}

/// One tool of a lock.
pub fn tool(name: &str, tool: Value) -> serde_json::Map<String, Value> {
    [(name.to_owned(), tool)].into_iter().collect()
}

/// Processes of the whole machine with `mark` as a word of their command line.
pub fn processes(mark: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let marked = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Who started it has the mark too, as one of its own arguments.
        !line.starts_with(FT.as_bytes()) && line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    };
    pids.filter(marked).collect()
}

/// Asks until it holds, for at most half a minute.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// No process with this mark is left. Those that were just killed may still be on their way.
#[track_caller]
pub fn nobody(mark: &str) {
    eventually("the step is gone", || processes(mark).is_empty());
}

/// Numbers from a seed, the same on every machine (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the numbers below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}
