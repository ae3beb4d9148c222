//! The cell of `ft run --container`: an engine's containers, of an image made of this machine's own files. The engine is
//! listened to from outside all the time: it tells which containers and volumes were made, and which are gone.

use crate::container;
use crate::harness::{Fixture, Ran, eventually};
use firsttry::cell::Container;
use firsttry::engine::labels::{self, Labels, Owner};
use firsttry::engine::{Engine, Where};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Seconds after which nobody can need what was made here.
const DEADLINE: u64 = 3600;

/// Containers for cases.
pub struct Containers {
    cell: Container,
    run: String,
    seen: Arc<Mutex<Seen>>,
    events: Child,
    /// Our Python files.
    _lib: tempfile::TempDir,
}

/// What the engine told of one run.
#[derive(Debug, Default)]
struct Seen {
    made: BTreeSet<String>,
    gone: BTreeSet<String>,
    /// In its containers.
    volumes: BTreeSet<String>,
}

impl Seen {
    fn hear(&mut self, event: &serde_json::Value, run: &str) {
        let text = |at: &str| event.pointer(at).and_then(serde_json::Value::as_str).unwrap_or_default();
        let id = text("/Actor/ID").to_owned();
        let mine = event["Actor"]["Attributes"][labels::RUN] == run;
        match (text("/Type"), text("/Action")) {
            ("container", "create") if mine => _ = self.made.insert(id),
            ("container", "destroy") if mine => _ = self.gone.insert(id),
            // Volumes of a container that is being made are mounted after that was told.
            ("volume", "mount") if self.made.contains(text("/Actor/Attributes/container")) => {
                _ = self.volumes.insert(id);
            }
            _ => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the engine of the tests is that of the Docker client")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The engine's client; what it printed.
fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for it without a runtime around.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Containers {
    pub fn open() -> Containers {
        Containers::open_for(Duration::from_secs(DEADLINE))
    }

    /// That end themselves after so long.
    fn open_for(longest: Duration) -> Containers {
        let image = container::image();
        // What an attack is to be kept from is on this machine: of an engine elsewhere nothing here would be shown.
        let boot = "/proc/sys/kernel/random/boot_id";
        let inside = container::Container::new().passed(&["cat", boot]);
        assert_eq!(inside, std::fs::read_to_string(boot).unwrap(), "the engine's containers are not on this machine");
        let lib = tempfile::tempdir().unwrap();
        let ready = firsttry::environment::lib_dir::ready(lib.path()).unwrap();
        let run = format!("hostile-{}-{}", std::process::id(), lib.path().file_name().unwrap().display());
        let cell = block_on(async {
            let engine = Engine::connect(&Where::from_variables(variable)).await.unwrap();
            let labels = Labels {
                run: run.clone(),
                owner: Owner::this(),
                deadline: engine.now() + DEADLINE,
                repository: "the hostile cases".to_owned(),
            };
            Container::open(engine, &[image.to_owned()], &ready, labels, longest).await.unwrap()
        });
        // What was told since then comes first, so nothing is missed while the client connects.
        let since = cell.engine().now().to_string();
        let mut events = Command::new("docker")
            .args(["events", "--since", &since, "--format", "{{json .}}"])
            .args(["container", "volume"].iter().flat_map(|of| ["--filter".to_owned(), format!("type={of}")]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(events.stdout.take().unwrap()).lines();
        let seen = Arc::<Mutex<Seen>>::default();
        let (heard, of) = (Arc::clone(&seen), run.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().hear(&serde_json::from_str(&line).unwrap(), &of);
            }
        });
        Containers { cell, run, seen, events, _lib: lib }
    }

    pub fn run(&self, fixture: &Fixture) -> Ran {
        fixture.run_in(&self.cell)
    }

    /// Gives back what the run had, and asks the engine: each of so many cases had a container, and none of them is left,
    /// nor a volume that they alone had.
    pub fn close(&self, cases: usize) {
        block_on(self.cell.close());
        eventually("the engine tells of every container that it is gone", || {
            let seen = self.seen.lock().unwrap();
            seen.made.len() >= cases && seen.made == seen.gone
        });
        let mine = format!("label={}={}", labels::RUN, self.run);
        assert_eq!(docker(&["ps", "--all", "--quiet", "--filter", &mine]), "");
        assert_eq!(docker(&["volume", "ls", "--quiet", "--filter", &mine]), "");
        let seen = self.seen.lock().unwrap();
        // Named by their content, they are every run's, and outlive all of them.
        let shared = |name: &&String| ["ft-lib-", "ft-etc-"].iter().any(|kind| name.starts_with(kind));
        let (shared, own): (BTreeSet<_>, BTreeSet<_>) = seen.volumes.iter().partition(shared);
        assert!(own.len() >= cases && shared.len() == 2, "{seen:?}");
        let there = || docker(&["volume", "ls", "--quiet"]).lines().map(str::to_owned).collect::<BTreeSet<_>>();
        assert!(shared.iter().all(|name| there().contains(*name)), "a name that the engine knows is found: {shared:?}");
        // They go after their container.
        eventually("no volume of a case is left", || there().iter().all(|name| !own.contains(name)));
    }
}

impl Drop for Containers {
    /// Also where a case failed.
    fn drop(&mut self) {
        block_on(self.cell.close());
        let _ = self.events.kill();
        let _ = self.events.wait();
    }
}

#[test]
fn a_container_ends_itself_whoever_holds_its_stream() {
    // The stream stays open and the step has no timeout: nobody but the agent can end it.
    let containers = Containers::open_for(Duration::from_secs(5));
    let ran = containers.run(&Fixture::argv(&["sleep", "100"]).with(|_, manifest| manifest.timeout_ms = 0));
    assert!(ran.result.as_ref().is_err_and(|error| error.to_string().contains("its time is over")), "{:?}", ran.result);
    containers.close(1);
    // The control: with more time the same step ends as it does.
    let containers = Containers::open();
    containers.run(&Fixture::argv(&["sleep", "6"]).with(|_, manifest| manifest.timeout_ms = 0)).passed();
    containers.close(1);
}
