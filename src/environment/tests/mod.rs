//! Environments built from real wheels by a real Python. The wheels come from the package index, pinned by sha256.

mod processes;
mod project;

use super::fetch::{FetchError, Settings};
use super::interpreter::{Interpreter, Memory, SearchPath, find};
use super::seal::Differs;
use super::store::{BuildError, Ready, Spec, State, Store};
use super::{Job, JobEnd, JobLost, Pinned, Progress, RunJob};
use crate::cell::{self, Namespaces};
use crate::frame::Frame;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PYTEST: &[(&str, &str, &str)] = &[
    ("iniconfig", "2.0.0", "b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374"),
    ("packaging", "24.2", "09abb1bccd265c01f4a3aa3f7a7db064b36514d2cba19a2f694fe6150451a759"),
    ("pluggy", "1.5.0", "44e1ad92c8ca002de6377e165f3e0f1be63266ab4d554740532335b9d75ea669"),
    ("pygments", "2.18.0", "b8e6aca0523f3ab76fee51799c488e38782ac06eafcf95e7ba832985c8e7b13a"),
    ("pytest", "8.3.4", "50e16d954148559c9a74109af1eaf0c945ba2d8f30f0a3d3335edde19788b6f6"),
];

pub(super) fn pinned(list: &[(&str, &str, &str)]) -> Vec<Pinned> {
    let one = |(name, version, sha256): &(&str, &str, &str)| Pinned {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        hashes: vec![format!("sha256:{sha256}")],
        sdist: false,
    };
    list.iter().map(one).collect()
}

/// The caller's variables. Tests are the outermost caller there is.
#[expect(clippy::disallowed_methods, reason = "a test stands where the command line stands")]
pub(super) fn settings() -> Settings {
    let env = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
    Settings { env, ..Settings::default() }
}

pub(super) fn search() -> SearchPath {
    let env = settings().env;
    let home = env.get("HOME").map(PathBuf::from);
    let entries = env.get("PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    SearchPath { entries, home, extra: Vec::new() }
}

/// A Python that this machine has, new enough for every test.
pub(super) fn interpreter() -> Interpreter {
    static FOUND: OnceLock<Interpreter> = OnceLock::new();
    let look = || {
        let mut memory = Memory::default();
        ["3.11", "3.12", "3.13", "3.10"].iter().find_map(|r| find(r, None, &search(), &mut memory).ok())
    };
    FOUND.get_or_init(|| look().expect("a Python from 3.10 to 3.13 on this machine")).clone()
}

/// Wheels that all tests of this process share, so that each is downloaded once.
pub(super) fn shared_wheels() -> PathBuf {
    static WHEELS: OnceLock<tempfile::TempDir> = OnceLock::new();
    WHEELS.get_or_init(|| tempfile::tempdir().unwrap()).path().join("wheels")
}

/// Runs jobs in namespaces cells.
pub(super) struct InCell;

impl RunJob for InCell {
    async fn run(&mut self, job: Job) -> Result<JobEnd, JobLost> {
        let (_ask, control) = tokio::sync::mpsc::channel(1);
        let (send, mut receive) = tokio::sync::mpsc::channel(64);
        let tar = job.walls.scratch.with_extension("tar");
        let cell = Namespaces::default();
        let run = cell::run(&cell, &job.walls, job.manifest.clone(), &tar, control, send);
        let listen = async {
            let mut log = Vec::new();
            while let Some(frame) = receive.recv().await {
                if let Frame::Output { bytes, .. } = frame {
                    log.extend(bytes.0);
                }
            }
            log
        };
        let (finished, log) = tokio::join!(run, listen);
        let finished = finished.map_err(|e| JobLost {
            message: e.to_string(),
            unenforceable: e.is_unenforceable(),
            absent: false,
        })?;
        let ended =
            finished.ended.unwrap_or_else(|| panic!("{:?}\n{}", finished.broken, String::from_utf8_lossy(&log)));
        let mut archive = tar::Archive::new(std::fs::File::open(&tar).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let Ok(path) = path.strip_prefix("out") else { continue };
            let target = job.out.join(path);
            if entry.header().entry_type().is_dir() {
                std::fs::create_dir_all(target).unwrap();
            } else {
                std::fs::create_dir_all(target.parent().unwrap()).unwrap();
                entry.unpack(target).unwrap();
            }
        }
        Ok(JobEnd { code: ended.code, signal: ended.signal, timed_out: ended.timed_out, log })
    }
}

pub(super) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn spec(list: &[(&str, &str, &str)]) -> Spec {
    Spec { interpreter: interpreter(), closure: pinned(list), settings: settings(), project: None, rebuild: false }
}

fn ensure(store: &Store, spec: &Spec) -> Result<(Ready, Vec<Progress>), BuildError> {
    let mut seen = Vec::new();
    let ready = block(store.ensure(spec, &mut InCell, &mut |progress| seen.push(progress)))?;
    Ok((ready, seen))
}

fn output(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env_clear().env("PATH", "/usr/bin:/bin").output().unwrap();
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn an_environment_works_on_the_host_and_says_what_is_installed() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(&repository.path().join(".firsttry"), shared_wheels());
    let spec = spec(PYTEST);
    assert!(matches!(store.state(&spec.key()), State::Missing));
    let (ready, _) = ensure(&store, &spec).unwrap();
    store.current_link(repository.path(), &ready.key).unwrap();

    let link = repository.path().join(".venv-parity");
    assert!(std::fs::read_link(&link).unwrap().is_relative());
    assert_eq!(output(&link.join("bin/pytest"), &["--version"]), "pytest 8.3.4");
    let prefix = output(&link.join("bin/python"), &["-c", "import sys; print(sys.prefix != sys.base_prefix)"]);
    assert_eq!(prefix, "True");
    // Bytecode is used although its source was written at another time: it is of the unchecked kind.
    let cached = "import pytest, importlib.util as u; b = open(pytest.__cached__, 'rb').read(); print(b[4])";
    assert_eq!(output(&link.join("bin/python"), &["-c", cached]), "1");
    let files = "import importlib.metadata as m; print(all(f.locate().exists() for f in m.files('pytest')))";
    assert_eq!(output(&link.join("bin/python"), &["-c", files]), "True");

    let pytest = ready.dists.iter().find(|dist| dist.name == "pytest").unwrap();
    assert_eq!(pytest.version, "8.3.4");
    assert_eq!(pytest.imports, ["_pytest", "py", "pytest"]);
    assert!(pytest.entry_points.iter().any(|e| e.group == "console_scripts" && e.name == "py.test"));
    let again = store.state(&spec.key());
    assert!(matches!(again, State::Ready(again) if again.dists == ready.dists));
}

#[test]
fn the_seal_finds_what_was_changed_removed_and_added_quickly_and_deeply() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(&repository.path().join(".firsttry"), shared_wheels());
    let spec = spec(&PYTEST[..1]);
    let (ready, _) = ensure(&store, &spec).unwrap();
    let site = ready.root.join(&spec.interpreter.facts.purelib);
    let module = site.join("iniconfig/__init__.py");
    let before = std::fs::read(&module).unwrap();
    let modified = std::fs::metadata(&module).unwrap().modified().unwrap();

    // The same size and the same modification time.
    let mut edited = before.clone();
    edited[0] ^= 1;
    std::fs::write(&module, &edited).unwrap();
    std::fs::File::open(&module).unwrap().set_modified(modified).unwrap();
    std::fs::remove_file(site.join("iniconfig/py.typed")).unwrap();
    std::fs::create_dir(site.join("extra")).unwrap();
    std::fs::write(site.join("extra/x.py"), "").unwrap();

    let found = |state: State| match state {
        State::Broken(deviations) => deviations
            .into_iter()
            .map(|d| (d.path.rsplit("site-packages/").next().unwrap().to_owned(), d.what))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let quick = found(store.state(&spec.key()));
    assert_eq!(quick, found(store.state_deep(&spec.key())));
    let paths: Vec<&str> = quick.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["extra", "extra/x.py", "iniconfig/__init__.py", "iniconfig/py.typed"]);
    assert_eq!(quick[0].1, Differs::Added);
    assert!(matches!(quick[2].1, Differs::Changed { .. }));
    assert_eq!(quick[3].1, Differs::Missing);

    assert!(matches!(ensure(&store, &spec), Err(BuildError::Broken { .. })));
    let rebuilt = Spec { rebuild: true, ..spec.clone() };
    drop(ready);
    ensure(&store, &rebuilt).unwrap();
    assert_eq!(std::fs::read(&module).unwrap(), before);
    assert!(matches!(store.state(&spec.key()), State::Ready(_)));
}

#[test]
fn a_hash_that_the_index_does_not_serve_is_refused() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(repository.path(), repository.path().join("wheels"));
    let wrong = [("iniconfig", "2.0.0", PYTEST[1].2)];
    let error = ensure(&store, &spec(&wrong)).unwrap_err();
    assert!(matches!(error, BuildError::Fetch(FetchError::Hash { .. })), "{error}");
    assert_eq!(error.code(), Some(crate::code::ParityCode::PACKAGE_HASH));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn warm_builds_need_no_network_and_cold_ones_name_what_is_missing() {
    let repository = tempfile::tempdir().unwrap();
    let wheels = repository.path().join("wheels");
    let mut spec = spec(&PYTEST[..1]);
    spec.settings.offline = true;
    let store = Store::open(&repository.path().join("a"), wheels.clone());
    let error = ensure(&store, &spec).unwrap_err().to_string();
    assert_eq!(error, "offline, and not in the wheel store: iniconfig==2.0.0");
    spec.settings.offline = false;
    ensure(&store, &spec).unwrap();
    spec.settings = Settings { offline: true, ..Settings::default() };
    let other = Store::open(&repository.path().join("b"), wheels.clone());
    let (ready, seen) = ensure(&other, &spec).unwrap();
    assert!(!seen.iter().any(|p| matches!(p, Progress::Fetching { .. } | Progress::Preparing { .. })), "{seen:?}");

    // The same bytes, in whichever place and order of events.
    let seal = |root: &Path| std::fs::read_to_string(root.join(".ft-seal")).unwrap();
    assert_eq!(seal(&store.path(&spec.key())), seal(&ready.root));
}

#[test]
fn an_edited_file_of_the_wheel_store_is_thrown_away_and_made_again() {
    let repository = tempfile::tempdir().unwrap();
    let wheels = repository.path().join("wheels");
    let spec = spec(&PYTEST[..1]);
    let first = Store::open(&repository.path().join("a"), wheels.clone());
    ensure(&first, &spec).unwrap();
    let item = std::fs::read_dir(wheels.join("unpacked")).unwrap().next().unwrap().unwrap().path();
    let module = item.join("tree").join(&spec.interpreter.facts.purelib).join("iniconfig/__init__.py");
    std::fs::write(&module, "evil = 1\n").unwrap();
    let second = Store::open(&repository.path().join("b"), wheels.clone());
    let (ready, seen) = ensure(&second, &spec).unwrap();
    assert!(seen.iter().any(|p| matches!(p, Progress::Discarded { .. })), "{seen:?}");
    let installed = ready.root.join(&spec.interpreter.facts.purelib).join("iniconfig/__init__.py");
    assert!(!std::fs::read_to_string(installed).unwrap().contains("evil"));

    // A wheel with other bytes is fetched again, and offline it is an error.
    let file = wheels.join("files").join(PYTEST[0].2).join("iniconfig-2.0.0-py3-none-any.whl");
    std::fs::write(&file, "evil").unwrap();
    let mut offline = spec.clone();
    offline.settings = Settings { offline: true, ..Settings::default() };
    let third = Store::open(&repository.path().join("c"), wheels.clone());
    assert!(matches!(ensure(&third, &offline), Err(BuildError::Fetch(FetchError::Offline(_)))));
    ensure(&third, &spec).unwrap();
}

#[test]
fn a_closure_that_lacks_a_requirement_is_stale() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(repository.path(), shared_wheels());
    let error = ensure(&store, &spec(&PYTEST[4..])).unwrap_err();
    assert_eq!(error.code(), Some(crate::code::ParityCode::LOCK_STALE));
    let text = error.to_string();
    assert!(text.contains("pytest requires iniconfig, the lock has none"), "{text}");
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn an_interpreter_is_asked_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("interpreters.json");
    let mut memory = Memory::open(file.clone());
    let wanted = interpreter();
    let first = find(wanted.minor(), None, &search(), &mut memory).unwrap();
    memory.save().unwrap();
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    let mut memory = Memory::open(file.clone());
    assert_eq!(find(wanted.minor(), None, &search(), &mut memory).unwrap(), first);
    memory.save().unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written, "nothing new was learnt");

    let missing = find("3.99", None, &search(), &mut memory).unwrap_err();
    assert!(missing.found.iter().any(|(path, _)| *path == first.executable), "{missing}");
}

#[test]
fn every_python_of_this_machine_gets_an_environment_that_starts() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(&repository.path().join(".firsttry"), shared_wheels());
    let mut memory = Memory::default();
    let mut built = 0;
    for request in ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"] {
        let Ok(interpreter) = find(request, None, &search(), &mut memory) else { continue };
        let closure = pinned(&PYTEST[..1]);
        let spec = Spec { interpreter, closure, settings: settings(), project: None, rebuild: false };
        let (ready, _) = ensure(&store, &spec).unwrap_or_else(|error| panic!("{request}: {error}"));
        let code = "import iniconfig, sys; print(sys.version_info[:2], open(iniconfig.__cached__, 'rb').read()[4])";
        let said = output(&ready.root.join("bin/python"), &["-c", code]);
        assert_eq!(said, format!("({}) 1", request.replace('.', ", ")));
        built += 1;
    }
    assert!(built > 0);
}

#[test]
fn a_package_with_only_a_source_archive_says_how_to_allow_it() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(repository.path(), repository.path().join("wheels"));
    let docopt = [("docopt", "0.6.2", "49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491")];
    let mut spec = spec(&docopt);
    // Only what the index has counts here, not what this machine keeps in a folder.
    spec.settings.env.remove("PIP_FIND_LINKS");
    let error = ensure(&store, &spec).unwrap_err();
    assert!(error.to_string().contains("only the sdist docopt-0.6.2.tar.gz"), "{error}");
    assert!(error.hint().contains("environment.sdists"), "{}", error.hint());
}

#[test]
fn an_index_that_does_not_answer_says_nothing_about_the_lock() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(repository.path(), repository.path().join("wheels"));
    let mut spec = spec(&PYTEST[..1]);
    spec.settings.env.retain(|name, _| !name.starts_with("PIP_"));
    for (name, value) in [("PIP_INDEX_URL", "http://127.0.0.1:9/simple"), ("PIP_RETRIES", "0")] {
        spec.settings.env.insert(name.to_owned(), value.into());
    }
    let error = ensure(&store, &spec).unwrap_err();
    assert!(matches!(error, BuildError::Fetch(FetchError::Unreachable(_))), "{error}");
    assert_eq!(error.code(), None);
}

#[test]
fn the_wheel_store_is_collected_by_budget_and_fills_again() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(repository.path(), repository.path().join("wheels"));
    let spec = spec(&PYTEST[..1]);
    ensure(&store, &spec).unwrap();
    assert_eq!(store.wheels().gc(u64::MAX).unwrap(), 0);
    assert!(store.wheels().gc(0).unwrap() > 10_000);
    assert!(store.wheels().bytes() < 10_000);
    ensure(&store, &Spec { rebuild: true, ..spec }).unwrap();
}

#[test]
fn bytecode_depends_on_wheel_and_interpreter_alone() {
    let mut memory = Memory::default();
    let mut compared = 0;
    // An old one, where the order of hashes would show, and a new one.
    let found = ["3.8", "3.9", "3.10"].iter().find_map(|request| find(request, None, &search(), &mut memory).ok());
    for interpreter in found.into_iter().chain([interpreter()]) {
        let repository = tempfile::tempdir().unwrap();
        let manifests = |name: &str, closure: &[(&str, &str, &str)]| {
            let store = Store::open(&repository.path().join(name), repository.path().join(name).join("wheels"));
            let (interpreter, closure) = (interpreter.clone(), pinned(closure));
            let spec = Spec { interpreter, closure, settings: settings(), project: None, rebuild: false };
            ensure(&store, &spec).unwrap();
            let items = std::fs::read_dir(store.wheels().root().join("unpacked")).unwrap().flatten();
            let manifest = |item: std::fs::DirEntry| {
                (item.file_name(), std::fs::read_to_string(item.path().join("manifest")).unwrap())
            };
            items.map(manifest).collect::<std::collections::BTreeMap<_, _>>()
        };
        let few = manifests("few", &PYTEST[1..4]);
        for (name, manifest) in manifests("more", &PYTEST[..4]) {
            if let Some(other) = few.get(&name) {
                assert_eq!(manifest, *other);
                compared += 1;
            }
        }
    }
    assert!(compared >= 3);
}
