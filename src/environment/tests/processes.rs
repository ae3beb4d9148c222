//! Several processes at one store, and processes that are killed.

use super::super::fetch::Settings;
use super::super::locks;
use super::super::store::{Spec, State, Store};
use super::super::{Job, JobEnd, JobLost, Progress, RunJob};
use super::{InCell, PYTEST, block, ensure, spec};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Says when it is asked to run something, and runs it when it is told to.
struct Gate {
    asked: Sender<()>,
    go: Receiver<()>,
}

impl RunJob for Gate {
    async fn run(&mut self, job: Job) -> Result<JobEnd, JobLost> {
        self.asked.send(()).unwrap();
        self.go.recv().unwrap();
        InCell.run(job).await
    }
}

#[test]
fn of_two_builders_one_builds_and_the_other_waits_and_says_so() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(&repository.path().join(".firsttry"), repository.path().join("wheels"));
    let spec = spec(&PYTEST[..1]);
    let (asked, is_asked) = channel();
    let (tell, go) = channel();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| block(store.ensure(&spec, &mut Gate { asked, go }, &mut |_| {})).unwrap().root);
        is_asked.recv().unwrap();
        let mut seen = Vec::new();
        let mut report = |progress: Progress| {
            if let Progress::Waiting { owner, .. } = &progress {
                assert!(owner.starts_with(&format!("pid {}", std::process::id())), "{owner}");
                tell.send(()).unwrap();
            }
            seen.push(progress);
        };
        let second = block(store.ensure(&spec, &mut InCell, &mut report)).unwrap();
        assert_eq!(second.root, first.join().unwrap());
        assert!(matches!(seen[..], [Progress::Waiting { .. }]), "{seen:?}");
    });
}

#[test]
fn an_environment_in_use_is_neither_collected_nor_replaced_under_its_user() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(&repository.path().join(".firsttry"), super::shared_wheels());
    let spec = spec(&PYTEST[..1]);
    let (ready, _) = ensure(&store, &spec).unwrap();
    assert_eq!(store.gc(0, None).unwrap(), []);
    let lock = ready.root.with_file_name(format!("{}.lock", ready.key));
    assert!(locks::try_exclusive(&lock).unwrap().is_none());
    drop(ready);
    let removed = store.gc(0, None).unwrap();
    assert_eq!(removed.len(), 1);
    assert!(removed[0].files > 10 && removed[0].bytes > 10_000);
    assert!(matches!(store.state(&spec.key()), State::Missing));
    assert_eq!(ensure(&store, &spec).unwrap().0.dists.len(), 1);
    assert_eq!(store.clean().unwrap(), 1);
}

/// Where a child is to build, told by the test that starts it.
const HERE: &str = "FT_TEST_BUILD_HERE";

#[test]
fn a_build_in_a_process_of_its_own() {
    #[expect(clippy::disallowed_methods, reason = "a test that starts itself has no other way to tell itself where")]
    let here = std::env::var_os(HERE).map(PathBuf::from);
    let repository = tempfile::tempdir().unwrap();
    let (root, offline) = here.map_or((repository.path().to_path_buf(), false), |here| (here, true));
    let store = Store::open(&root.join(".firsttry"), root.join("wheels"));
    let mut spec = spec(PYTEST);
    spec.settings.offline = offline;
    assert_eq!(ensure(&store, &spec).unwrap().0.dists.len(), PYTEST.len());
}

fn child(root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "environment::tests::processes::a_build_in_a_process_of_its_own"])
        .env(HERE, root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether a name that starts like this stands in a directory.
fn there(directory: &Path, prefix: &str) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
}

#[test]
fn a_build_that_is_killed_at_any_point_leaves_nothing_that_is_trusted() {
    let repository = tempfile::tempdir().unwrap();
    let root = repository.path();
    let store = Store::open(&root.join(".firsttry"), root.join("wheels"));
    let spec = spec(PYTEST);
    let key = spec.key();
    ensure(&store, &spec).unwrap();
    let offline = Spec { settings: Settings { offline: true, ..Settings::default() }, ..spec };
    let (env, wheels) = (root.join(".firsttry/env"), root.join("wheels"));
    let unpacked = |n: usize| std::fs::read_dir(wheels.join("unpacked")).is_ok_and(|entries| entries.count() >= n);
    let seal = env.join(format!("{key}.tmp-"));
    let points: [(&str, &dyn Fn() -> bool); 6] = [
        ("locked", &|| env.join(format!("{key}.build")).exists()),
        ("unpacking", &|| there(&wheels, ".tmp-")),
        ("the first wheel is ready", &|| unpacked(1)),
        ("all wheels are ready", &|| unpacked(PYTEST.len())),
        ("assembling", &|| there(&env, seal.file_name().unwrap().to_str().unwrap())),
        ("renamed", &|| env.join(key.as_str()).exists()),
    ];
    for (name, reached) in points {
        std::fs::remove_dir_all(&env).unwrap();
        std::fs::remove_dir_all(wheels.join("unpacked")).unwrap();
        let mut child = child(root);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !reached() && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!matches!(store.state(&key), State::Broken(_)), "{name}");
        let (ready, _) = ensure(&store, &offline).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(matches!(store.state_deep(&key), State::Ready(_)), "{name}");
        assert!(!there(&env, &format!("{key}.tmp-")), "{name}");
        drop(ready);
    }
}
