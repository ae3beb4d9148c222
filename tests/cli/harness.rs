//! A small real repository, made and locked once with the product itself, then copied for each test.
//!
//! The environment is built once and lies beside the copies; each copy's `.firsttry/env` leads to it. A test that
//! changes an environment takes one of its own ([`Project::with_own_environment`]).

use firsttry::outcome::Outcome;
use firsttry::report::json::json;
use firsttry::session::recorder;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The tools of the template, in the order of its lock.
const TOOLS: &[&str] = &["ruff", "mypy", "pytest", "bandit"];

/// A repository that was locked, and where its environment and wheels are kept.
struct Template {
    root: PathBuf,
    environments: PathBuf,
    cache: PathBuf,
    /// The folder of the Python that it was locked for.
    python_bin: PathBuf,
    /// `3.11`.
    python: String,
}

/// The first Python here that `ft` can work with, and its version.
fn python() -> (PathBuf, String) {
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

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let (python_bin, python) = python();
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
        let root = base.join("template");
        // What an earlier call of the tests left; the wheels stay.
        for old in [&root, &base.join("environments")] {
            let _ = fs::remove_dir_all(old);
        }
        fs::create_dir_all(&base).unwrap();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/project"), &root);
        for path in ["pyproject.toml", "ci/parity.lock.json"] {
            let text = fs::read_to_string(root.join(path)).unwrap().replace("PYTHON", &python);
            fs::write(root.join(path), text).unwrap();
        }
        let template =
            Template { environments: base.join("environments"), cache: base.join("cache"), root, python_bin, python };
        git(&template.root, &["init", "-q", "-b", "main"]);
        git(&template.root, &["add", "-A"]);
        // The caller's own index settings: this is the only call that needs a network.
        let mut lock = Command::new(env!("CARGO_BIN_EXE_ft"));
        lock.arg("lock").current_dir(&template.root).env("FT_CACHE_DIR", &template.cache);
        lock.env("FIRSTTRY_DISABLE_AUTO_PARITY", "1").env_remove("CI").env("PATH", path_with(&template.python_bin));
        let out = lock.output().unwrap();
        assert!(out.status.success(), "ft lock: {}", String::from_utf8_lossy(&out.stderr));
        git(&template.root, &["add", "-A"]);
        git(&template.root, &["commit", "-qm", "locked"]);
        fs::rename(template.root.join(".firsttry/env"), &template.environments).unwrap();
        fs::remove_dir_all(template.root.join(".firsttry/runs")).unwrap();
        template
    })
}

#[expect(clippy::disallowed_methods, reason = "the caller's own PATH holds git, sh and uv")]
fn path_with(first: &Path) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(first.to_owned()).chain(std::env::split_paths(&rest))).unwrap()
}

/// Copies a folder with its links and modes.
fn copy(from: &Path, to: &Path) {
    let out = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Git without the machine's and the user's configuration.
fn git_command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "A Person").env(format!("GIT_{who}_EMAIL"), "person@example.org");
    }
    command
}

/// Runs git and gives what it printed, without the last newline.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let out = git_command(dir).args(args).output().unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

/// One repository under test.
pub struct Project {
    _dir: TempDir,
    /// The repository's top level.
    pub root: PathBuf,
    /// The home of the person who works in it.
    pub home: PathBuf,
    vars: Vec<(String, String)>,
}

impl Project {
    /// A clean copy of the locked repository, with all of its tools and without the build gate.
    pub fn new() -> Project {
        Project::in_folder("project")
    }

    /// A clean copy in a folder of this name.
    pub fn in_folder(name: &str) -> Project {
        let template = template();
        let project = Project::empty_in(name);
        fs::remove_dir(&project.root).unwrap();
        copy(&template.root, &project.root);
        std::os::unix::fs::symlink(&template.environments, project.root.join(".firsttry/env")).unwrap();
        project
    }

    /// An empty folder that is no repository yet.
    pub fn empty() -> Project {
        Project::empty_in("project")
    }

    fn empty_in(name: &str) -> Project {
        let dir = tempfile::Builder::new().prefix("ft-cli-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (root, home) = (dir.path().join(name), dir.path().join("home"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&home).unwrap();
        Project { _dir: dir, root, home, vars: Vec::new() }
    }

    /// A copy whose lock has these tools only: a test pays for what it looks at.
    pub fn with_tools(tools: &[&str]) -> Project {
        let project = Project::new();
        project.lock(|lock| {
            let all = lock["tools"].as_object_mut().unwrap();
            all.retain(|name, _| tools.contains(&name.as_str()));
            assert_eq!(all.len(), tools.len(), "the template has {TOOLS:?}");
        });
        if !tools.contains(&"pytest") {
            project.lock(|lock| lock["pytest_collection"] = serde_json::json!({"allow_uncollected": true}));
        }
        project.commit();
        project
    }

    /// Its environment becomes its own, so that the test may harm it.
    pub fn with_own_environment(self) -> Project {
        let env = self.root.join(".firsttry/env");
        fs::remove_file(&env).unwrap();
        copy(&template().environments, &env);
        self
    }

    /// A variable of the caller, for every later command.
    pub fn var(mut self, name: &str, value: &str) -> Project {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Project {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn replace(&self, path: &str, old: &str, new: &str) -> &Project {
        let text = self.read(path);
        assert!(text.contains(old), "{path} does not hold {old:?}:\n{text}");
        self.write(path, text.replace(old, new))
    }

    /// Edits the lock as JSON.
    pub fn lock(&self, edit: impl FnOnce(&mut Value)) -> &Project {
        let path = "ci/parity.lock.json";
        let mut lock: Value = serde_json::from_str(&self.read(path)).unwrap();
        edit(&mut lock);
        self.write(path, serde_json::to_string_pretty(&lock).unwrap())
    }

    pub fn git(&self, args: &[&str]) -> String {
        git(&self.root, args)
    }

    /// Commits everything that is there.
    pub fn commit(&self) -> &Project {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-qm", "a change", "--allow-empty"]);
        self
    }

    /// `ft` with these arguments, not started yet: the environment of a person who has set nothing.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.root).stdin(Stdio::null());
        self.dress(&mut command);
        command
    }

    fn dress(&self, command: &mut Command) {
        let template = template();
        command.env_clear();
        command.env("PATH", path_with(&template.python_bin)).env("HOME", &self.home);
        command.env("FT_CACHE_DIR", &template.cache).env("FIRSTTRY_DISABLE_AUTO_PARITY", "1");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "A Person").env(format!("GIT_{who}_EMAIL"), "person@example.org");
        }
        // Nothing here needs an index; whoever asks for one gets a closed door, at once.
        command.env("PIP_INDEX_URL", "http://127.0.0.1:9/simple").env("PIP_RETRIES", "0").env("FT_UV", "");
        for (name, value) in &self.vars {
            command.env(name, value);
        }
    }

    /// Git as this person calls it, hooks included.
    pub fn git_as_person(&self, args: &[&str]) -> Ran {
        self.finish(self.command("git", args).output().unwrap())
    }

    /// Calls `ft`.
    pub fn ft(&self, args: &[&str]) -> Ran {
        self.finish(self.command(env!("CARGO_BIN_EXE_ft"), args).output().unwrap())
    }

    /// Calls another program that calls `ft`.
    pub fn run(&self, program: &str, args: &[&str]) -> Ran {
        self.finish(self.command(program, args).output().unwrap())
    }

    /// Calls `ft` with variables of this call alone.
    pub fn ft_with(&self, vars: &[(&str, &str)], args: &[&str]) -> Ran {
        let mut command = self.command(env!("CARGO_BIN_EXE_ft"), args);
        self.finish(command.envs(vars.iter().copied()).output().unwrap())
    }

    /// Calls `ft-parity`.
    pub fn ft_parity(&self, args: &[&str]) -> Ran {
        self.finish(self.command(env!("CARGO_BIN_EXE_ft-parity"), args).output().unwrap())
    }

    /// Starts `ft` and lets it run. With the signals of a fresh process: a test runner in the background ignores Ctrl-C,
    /// and what is started with it ignored heeds that.
    pub fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command("env", &[&["--default-signal", env!("CARGO_BIN_EXE_ft")], args].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits for what [`Project::start`] started.
    pub fn wait(&self, child: Child) -> Ran {
        self.finish(child.wait_with_output().unwrap())
    }

    fn finish(&self, output: Output) -> Ran {
        self.every_record_replays();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran {
            status: output.status.code(),
            signal: std::os::unix::process::ExitStatusExt::signal(&output.status),
            out: text(output.stdout),
            err: text(output.stderr),
            here: self.root.display().to_string(),
        }
    }

    /// The law of section 3, on every run of every test here: the report of the live run is that of its events.
    fn every_record_replays(&self) {
        for run in self.runs() {
            let Ok(report) = fs::read(run.join("parity_report.json")) else { continue };
            let events = recorder::read(&run.join("events.jsonl")).unwrap();
            let replayed = json(&Outcome::fold(&events));
            assert!(replayed == report, "{}: its events tell another story than its report", run.display());
        }
    }

    /// The folders of runs that are kept, oldest first.
    pub fn runs(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path(".firsttry/runs")) else { return Vec::new() };
        let mut runs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        runs.sort();
        runs
    }

    /// `artifacts/parity_report.json`.
    pub fn report(&self) -> Report {
        Report(serde_json::from_str(&self.read("artifacts/parity_report.json")).unwrap())
    }

    /// `3.11`: the Python of the lock.
    pub fn python() -> &'static str {
        &template().python
    }

    /// The folder of that Python.
    pub fn python_bin() -> &'static Path {
        &template().python_bin
    }
}

/// A command that is over.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub signal: Option<i32>,
    pub out: String,
    pub err: String,
    here: String,
}

impl Ran {
    /// It left with this status.
    #[track_caller]
    pub fn leaves(&self, status: i32) -> &Ran {
        assert_eq!(
            self.status,
            Some(status),
            "signal {:?}\n--- stdout\n{}--- stderr\n{}",
            self.signal,
            self.out,
            self.err
        );
        self
    }

    /// Standard output or standard error holds this.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Ran {
        let all = format!("{}{}", self.out, self.err);
        assert!(all.contains(text), "it does not say {text:?}\n--- stdout\n{}--- stderr\n{}", self.out, self.err);
        self
    }

    /// Neither stream holds this.
    #[track_caller]
    pub fn does_not_say(&self, text: &str) -> &Ran {
        let all = format!("{}{}", self.out, self.err);
        assert!(!all.contains(text), "it says {text:?}\n--- stdout\n{}--- stderr\n{}", self.out, self.err);
        self
    }

    /// Status, standard output and standard error for a snapshot, without the place of this copy.
    pub fn face(&self) -> (String, String, String) {
        let status = self.status.map_or("a signal".to_owned(), |status| status.to_string());
        (status, self.out.replace(&self.here, "[HERE]"), self.err.replace(&self.here, "[HERE]"))
    }
}

/// A report that is there.
pub struct Report(pub Value);

impl Report {
    /// Its `exit_code`, after a look at the status that belongs to it.
    #[track_caller]
    pub fn exit_code(&self) -> u64 {
        let code = self.0["exit_code"].as_u64().unwrap();
        assert_eq!(self.0["exit_status"].as_u64(), Some(code % 256));
        code
    }

    /// The codes of what decides, in the order that decides.
    pub fn failures(&self) -> Vec<&str> {
        self.0["failures"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect()
    }

    /// The codes of what does not decide.
    pub fn warnings(&self) -> Vec<&str> {
        self.0["warnings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect()
    }

    /// Message and hint of a finding.
    #[track_caller]
    pub fn finding(&self, code: &str) -> (String, String) {
        let all = ["failures", "warnings"].map(|list| self.0[list].as_array().unwrap().clone()).concat();
        let found = all.iter().find(|f| f["code"] == code).unwrap_or_else(|| panic!("no {code} in {:#}", self.0));
        (found["msg"].as_str().unwrap().to_owned(), found["hint"].as_str().unwrap().to_owned())
    }

    /// What came of a step.
    #[track_caller]
    pub fn step(&self, name: &str) -> &Value {
        let steps = self.0["steps"].as_array().unwrap();
        steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name} in {:#}", self.0))
    }

    /// How many steps were started.
    pub fn started(&self) -> usize {
        self.0["durations_sec"].as_object().unwrap().len()
    }
}

/// Asks until it holds, for at most half a minute.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !holds() {
        assert!(std::time::Instant::now() < until, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Processes of the whole machine whose command line holds `marker`, but for this one.
pub fn processes(marker: &str) -> Vec<u32> {
    let read = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && String::from_utf8_lossy(&read(*pid)).contains(marker))
        .collect()
}
