//! What the tests share: a tree, a scratch directory, a cell around one command.

use firsttry::cell::{self, Cell, CellError, Finished, Mount, Namespaces, Walls, Work};
use firsttry::frame::{Frame, Manifest, ToAgent};
use firsttry::step::{Limits, Network};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// One cell to be, with defaults that suit most tests.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub walls: Walls,
    pub manifest: Manifest,
}

/// What a run of it gave.
pub struct Ran {
    pub result: Result<Finished, CellError>,
    pub frames: Vec<Frame>,
    pub output: String,
    pub error: String,
    tar: Vec<u8>,
}

impl Ran {
    pub fn finished(&self) -> &Finished {
        self.result.as_ref().unwrap_or_else(|e| panic!("no result: {e}\n{}\n{}", self.output, self.error))
    }

    pub fn ended(&self) -> &firsttry::frame::Ended {
        let finished = self.finished();
        finished.ended.as_ref().unwrap_or_else(|| panic!("did not end: {:?}\n{}", finished.broken, self.error))
    }

    /// The output of a command that exited with 0.
    pub fn passed(&self) -> &str {
        let ended = self.ended();
        assert_eq!((ended.code, ended.signal), (0, 0), "{}\n{}", self.output, self.error);
        &self.output
    }

    /// The artifact tar's entries by name.
    pub fn artifacts(&self) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(self.tar.as_slice());
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
                (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
            })
            .collect()
    }

    pub fn refused(&self, path: &str) -> Option<&str> {
        self.finished().refused.iter().find(|(p, _)| p == path).map(|(_, why)| why.as_str())
    }
}

impl Fixture {
    pub fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (tree, scratch) = (dir.path().join("tree"), dir.path().join("scratch"));
        for path in [&tree, &scratch] {
            fs::create_dir(path).unwrap();
        }
        fs::write(tree.join("README"), "original\n").unwrap();
        give_to_step(&tree);
        Fixture {
            walls: Walls {
                work: Work::View(vec![tree]),
                mounts: Vec::new(),
                interpreter: None,
                network: Network::Loopback,
                limits: Limits::default(),
                keep: true,
                scratch,
            },
            manifest: Manifest {
                env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()), ("HOME".into(), "/ft/home".into())],
                cwd: "/ft/work".into(),
                timeout_ms: 20_000,
                grace_ms: 500,
                output_bytes: 1 << 20,
                artifact_entries: 100,
                artifact_bytes: 1 << 20,
                artifact_ms: 10_000,
                ..Manifest::default()
            },
            dir,
        }
    }

    pub fn sh(script: &str) -> Fixture {
        Fixture::argv(&["sh", "-c", script])
    }

    pub fn python(script: &str) -> Fixture {
        Fixture::argv(&["python3", "-c", script])
    }

    pub fn argv(argv: &[&str]) -> Fixture {
        let mut fixture = Fixture::new();
        fixture.manifest.argv = argv.iter().map(ToString::to_string).collect();
        fixture
    }

    pub fn with(mut self, change: impl FnOnce(&mut Walls, &mut Manifest)) -> Fixture {
        change(&mut self.walls, &mut self.manifest);
        self
    }

    pub fn mount(mut self, host: &Path, cell: &str, writable: bool) -> Fixture {
        self.walls.mounts.push(Mount { host: host.to_owned(), cell: cell.into(), writable });
        self
    }

    pub fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    pub fn run(&self) -> Ran {
        self.run_with(|_, _| {})
    }

    /// The control arm: the same command with the same variables and no walls, in the tree. What it printed.
    pub fn control(&self) -> String {
        let (program, arguments) = self.manifest.argv.split_first().unwrap();
        let output = std::process::Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(self.manifest.env.iter().cloned())
            .current_dir(self.tree())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it; `react` sees every frame and may answer.
    pub fn run_with(&self, react: impl FnMut(&Frame, &mpsc::Sender<ToAgent>)) -> Ran {
        self.run_in_with(&Namespaces::default(), react)
    }

    pub fn run_in(&self, cell: &impl Cell) -> Ran {
        self.run_in_with(cell, |_, _| {})
    }

    pub fn run_in_with(&self, cell: &impl Cell, mut react: impl FnMut(&Frame, &mpsc::Sender<ToAgent>)) -> Ran {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ask, control) = mpsc::channel(8);
            let (send, mut receive) = mpsc::channel(8);
            let tar = self.dir.path().join("artifacts.tar");
            let run = cell::run(cell, &self.walls, self.manifest.clone(), &tar, control, send);
            let listen = async {
                let (mut frames, mut output, mut error) = (Vec::new(), Vec::new(), Vec::new());
                while let Some(frame) = receive.recv().await {
                    react(&frame, &ask);
                    match frame {
                        Frame::Output { stream: 1, bytes } => output.extend(bytes.0),
                        Frame::Output { bytes, .. } => error.extend(bytes.0),
                        other => frames.push(other),
                    }
                }
                (frames, output, error)
            };
            let (result, (frames, output, error)) = tokio::join!(run, listen);
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let tar = fs::read(&tar).unwrap_or_default();
            Ran { result, frames, output: text(output), error: text(error), tar }
        })
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = cell::remove_scratch(&self.walls.scratch);
    }
}

/// Makes a tree the step's own, as the snapshot does when it is unpacked.
pub fn give_to_step(path: &Path) {
    let Some((uid, gid)) = cell::step_owner() else { return };
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| give_to_step(&entry.unwrap().path()));
    }
}

/// Processes of the whole machine whose command line holds `marker`: number and the text of their `status`.
pub fn processes(marker: &str) -> Vec<(u32, String)> {
    let read = |pid: u32, file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && String::from_utf8_lossy(&read(*pid, "cmdline")).contains(marker))
        .map(|pid| (pid, String::from_utf8_lossy(&read(pid, "status")).into_owned()))
        .collect()
}

/// One field of a `status` text.
pub fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

/// Asks until it holds, for at most ten seconds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !holds() {
        assert!(std::time::Instant::now() < until, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
