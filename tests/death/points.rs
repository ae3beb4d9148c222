//! Somebody is killed at a point of a run, and what is left is looked at; then the next point. Every few points a whole
//! run must go through at once, and leave nothing of all that was killed before it.

use super::harness::{Dice, Repo, STEPS, Started, children, groups_of};
use rustix::process::{Pid, Signal, WaitStatus};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How many points each of the workers kills the runner at, and starter or agent.
const RUNNER_POINTS: usize = 54;
const CELL_POINTS: usize = 18;
const OTHER_POINTS: usize = 9;
/// Processes that work side by side, each with a repository of its own: half of a run is waiting.
const WORKERS: usize = 3;
/// After so many points comes a whole run.
const WHOLE_AFTER: usize = 4;
/// How long the last of a killed run may take to be gone, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(20);

const SEED: &str = "FT_DEATH_SEED";
const WORKER: &str = "FT_DEATH_WORKER";

#[expect(clippy::disallowed_methods, reason = "a seed given by hand, and what the test tells its own workers")]
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seed() -> u64 {
    variable(SEED).unwrap_or(20_240_229)
}

/// For whoever reads the test's output: the last line before a failure names the point.
fn say(text: &str) {
    // Past the capture of the test's output, which a killed test never shows.
    std::io::stdout().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// Runs `work` in processes of their own, which inherit the orphans of everything they start: this test again, alone.
/// Each is given its number.
fn in_workers(test: &str, count: usize, work: fn(u64)) {
    if let Some(worker) = variable(WORKER) {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        return work(worker);
    }
    let workers = (0..count).map(|number| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(WORKER, number.to_string()).env(SEED, seed().to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let mut said = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        let output = worker.wait_with_output().unwrap();
        if !output.status.success() {
            said.push(
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat(),
            );
        } else {
            let output = String::from_utf8_lossy(&output.stdout).into_owned();
            output.lines().filter(|line| line.contains(" points ")).for_each(say);
        }
    }
    assert!(said.is_empty(), "seed {}; again with {SEED}={}\n{}", seed(), seed(), said.join("\n"));
}

/// When the blow falls.
#[derive(Debug, Clone, Copy)]
enum When {
    /// So many microseconds after the start.
    After(u64),
    /// So many microseconds after the record has the n-th event of this name.
    Event(&'static str, usize, u64),
}

/// Where the phases of a run change.
const CHANGES: [(&str, usize); 9] = [
    ("run_started", 1),
    ("environment_ready", 1),
    ("stage_started", 2),
    ("snapshot_taken", 1),
    ("step_started", 1),
    ("step_ended", 1),
    ("artifact_received", 2),
    ("step_ended", 3),
    ("run_finished", 1),
];

/// A point: every second one anywhere in the run, the others close after a change of phase.
fn point(dice: &mut Dice, length: Duration) -> When {
    if dice.below(2) == 0 {
        return When::After(dice.below(u64::try_from(length.as_micros()).unwrap() * 11 / 10));
    }
    let (event, count) = CHANGES[usize::try_from(dice.below(CHANGES.len() as u64)).unwrap()];
    // Publishing has no events of its own: it comes after the last one.
    When::Event(event, count, dice.below(if event == "run_finished" { 80_000 } else { 12_000 }))
}

fn wait_for(repo: &Repo, started: &mut Started, when: When) {
    match when {
        When::After(micros) => {
            let at = started.since + Duration::from_micros(micros);
            while Instant::now() < at && !started.is_over() {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        When::Event(name, count, micros) => {
            let text = format!("\"event\":\"{name}\"");
            let mut record = None;
            let mut there = || {
                record = record.take().or_else(|| repo.record());
                let events = record.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
                events.matches(&text).count() >= count
            };
            while !there() && !started.is_over() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(micros));
        }
    }
}

/// A whole run, however the runs before it ended: at once, with the right verdict, and without a word about damage.
fn whole(repo: &Repo, longest: Duration) {
    let mut run = repo.start(&["run"], &[]);
    run.until_nobody_is_left(PATIENCE).unwrap();
    let (took, said) = (run.since.elapsed(), repo.said());
    assert_eq!(run.status.and_then(|status| status.exit_status()), Some(0), "{said}");
    for word in ["warning", "error", "waiting", "bug", "could not"] {
        assert!(!said.contains(word), "it says {word}:\n{said}");
    }
    assert!(said.contains("passed: 3 checks"), "{said}");
    assert!(took < longest, "{took:?}\n{said}");
    assert_eq!(repo.harm(), Vec::<String>::new());
    assert_eq!(repo.leftovers(), Vec::<String>::new(), "{said}");
    for step in STEPS {
        assert_eq!(std::fs::read(repo.root.join(format!("artifacts/{step}.bin"))).unwrap().len(), 60_000);
    }
}

fn no_groups(makers: &[i32]) {
    assert_eq!(groups_of(makers), Vec::<std::path::PathBuf>::new());
}

/// The first run builds the environment; the second tells how long one takes.
fn measured(repo: &Repo) -> Duration {
    let take = || {
        let mut run = repo.start(&["run"], &[]);
        run.until_nobody_is_left(PATIENCE).unwrap();
        assert_eq!(run.status.and_then(|status| status.exit_status()), Some(0), "{}", repo.said());
        run.since.elapsed()
    };
    take();
    take()
}

#[test]
fn the_runner_may_die_at_any_point() {
    in_workers("points::the_runner_may_die_at_any_point", WORKERS, |worker| {
        let repo = Repo::new();
        let mut length = measured(&repo);
        let patience = length * 4 + Duration::from_secs(5);
        let mut dice = Dice(seed() ^ (worker << 32));
        let mut alive = 0;
        for index in 0..RUNNER_POINTS {
            let when = point(&mut dice, length);
            say(&format!("worker {worker}, point {index}: {when:?} of {length:?}"));
            let mut run = repo.start(&["run"], &[]);
            wait_for(&repo, &mut run, when);
            if run.is_over() {
                // Measured while the machine was busier: later points would miss as well.
                length = length.mul_f64(0.8);
            } else {
                alive += 1;
            }
            run.kill();
            run.until_nobody_is_left(PATIENCE).unwrap();
            assert_eq!(repo.harm(), Vec::<String>::new());
            no_groups(&run.orphans);
            if index % WHOLE_AFTER == WHOLE_AFTER - 1 {
                whole(&repo, patience);
            }
        }
        whole(&repo, patience);
        say(&format!("{alive} of {RUNNER_POINTS} points hit a living runner"));
        assert!(alive * 3 > RUNNER_POINTS * 2, "the points miss the run");
    });
}

/// The starter of a cell that is there now (a child of the runner), or its agent (a child of the starter).
fn victim(runner: Pid, agent: bool, dice: &mut Dice) -> Option<i32> {
    let starters = children(runner.as_raw_nonzero().get(), "ft-agent");
    let starter = *starters.get(usize::try_from(dice.below(starters.len() as u64)).unwrap())?;
    if !agent {
        return Some(starter);
    }
    children(starter, "").first().copied()
}

#[test]
fn the_starter_and_the_agent_may_die_at_any_point() {
    in_workers("points::the_starter_and_the_agent_may_die_at_any_point", WORKERS, |worker| {
        let repo = Repo::new();
        let length = measured(&repo);
        let mut dice = Dice(seed() ^ (worker << 32) ^ 0xce11);
        let mut cut = 0;
        for index in 0..CELL_POINTS {
            let (agent, delay) = (dice.below(2) == 0, dice.below(260_000));
            say(&format!(
                "worker {worker}, point {index}: {} after {delay} µs",
                if agent { "agent" } else { "starter" }
            ));
            let mut run = repo.start(&["run"], &[]);
            wait_for(&repo, &mut run, When::Event("snapshot_taken", 1, delay));
            let mut killed = None;
            while killed.is_none() && !run.is_over() {
                killed = victim(run.pid, agent, &mut dice);
                std::thread::sleep(Duration::from_micros(500));
            }
            let pid = killed.and_then(Pid::from_raw);
            pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
            run.until_nobody_is_left(PATIENCE).unwrap();
            let said = repo.said();
            let status = run.status.and_then(WaitStatus::exit_status);
            let report = std::fs::read_to_string(repo.root.join("artifacts/parity_report.json")).unwrap();
            let report: serde_json::Value = serde_json::from_str(&report).unwrap();
            assert_eq!(report["exit_status"].as_i64(), status.map(i64::from), "{said}");
            assert_eq!(report["failures"], serde_json::json!([]), "{said}");
            match status {
                Some(69) => {
                    cut += 1;
                    assert_eq!(report["broken"].as_array().unwrap().len(), 1, "{said}");
                    assert!(!said.contains("passed:") && !said.contains("failed:"), "{said}");
                }
                // The blow fell when everything had been said already.
                Some(0) => assert!(said.contains("passed: 3 checks"), "{said}"),
                other => panic!("{other:?}\n{said}"),
            }
            // What the other steps left is there.
            for step in report["steps"].as_array().unwrap().iter().filter(|step| step["exit"] == 0) {
                let name = step["step"].as_str().unwrap();
                assert!(repo.root.join(format!("artifacts/{name}.bin")).exists(), "{name}: {said}");
            }
            assert_eq!(repo.harm(), Vec::<String>::new());
            assert_eq!(repo.leftovers(), Vec::<String>::new(), "{said}");
            no_groups(&killed.into_iter().collect::<Vec<_>>());
        }
        whole(&repo, length * 4 + Duration::from_secs(5));
        say(&format!("{cut} of {CELL_POINTS} points cut a step"));
        assert!(cut * 2 > CELL_POINTS, "the points miss the cells");
    });
}

/// The hooks of a clone: name and text.
fn hooks(repo: &Repo) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(repo.root.join(".git/hooks")).into_iter().flatten().filter_map(Result::ok);
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    let ours = named.filter(|(name, _)| !name.ends_with(".sample"));
    let mut hooks: Vec<_> = ours.map(|(name, path)| (name, std::fs::read_to_string(path).unwrap())).collect();
    hooks.sort();
    hooks
}

/// Makes a clone one that was never set up.
fn anew(repo: &Repo, exclude: &[u8]) {
    std::fs::remove_dir_all(repo.root.join(".firsttry")).ok();
    std::fs::remove_file(repo.root.join(".venv-parity")).ok();
    // Without the list in `.firsttry` what was published would be the user's.
    std::fs::remove_dir_all(repo.root.join("artifacts")).unwrap();
    std::fs::create_dir(repo.root.join("artifacts")).unwrap();
    std::fs::write(repo.root.join("artifacts/mine.txt"), "mine\n").unwrap();
    for (name, _) in hooks(repo) {
        std::fs::remove_file(repo.root.join(".git/hooks").join(name)).unwrap();
    }
    std::fs::write(repo.root.join(".git/info/exclude"), exclude).unwrap();
    repo.git(&["checkout", "-q", "--", "."]);
}

/// What is not the steps: the first command in a clone (hooks, environment), a build, and `ft lock`, which writes files
/// of the user's.
#[test]
fn setting_up_building_and_locking_may_die_at_any_point() {
    const LOCKED: [&str; 2] = ["ci/parity.lock.json", "ci/parity.requirements.txt"];
    const SET_UP: &[(&str, &str)] = &[("FIRSTTRY_DISABLE_AUTO_PARITY", "")];
    in_workers("points::setting_up_building_and_locking_may_die_at_any_point", WORKERS, |worker| {
        let repo = Repo::new();
        let exclude = std::fs::read(repo.root.join(".git/info/exclude")).unwrap();
        let texts = || LOCKED.map(|path| std::fs::read(repo.root.join(path)).unwrap());
        let old = texts();
        type Call = (&'static [&'static str], &'static [(&'static str, &'static str)]);
        let commands: [Call; 3] = [(&["version"], SET_UP), (&["env", "build"], &[]), (&["lock"], &[])];
        let once = |args: &[&str], vars: &[(&str, &str)]| {
            let mut all = repo.start(args, vars);
            all.until_nobody_is_left(PATIENCE).unwrap();
            let said = repo.said();
            assert_eq!(all.status.and_then(WaitStatus::exit_status), Some(0), "{args:?}: {said}");
            assert!(!said.contains("warning") && !said.contains("error"), "{args:?}: {said}");
            all.since.elapsed()
        };
        let lengths = commands.map(|(args, vars)| {
            anew(&repo, &exclude);
            once(args, vars)
        });
        let new = texts();
        assert_ne!(old, new, "`ft lock` writes");
        anew(&repo, &exclude);
        once(commands[0].0, SET_UP);
        let whole = hooks(&repo);
        assert!(whole.len() >= 2, "{whole:?}");
        let mut dice = Dice(seed() ^ (worker << 32) ^ 0x10c);
        for index in 0..OTHER_POINTS {
            let which = index % commands.len();
            let (args, vars) = commands[which];
            let when = When::After(dice.below(u64::try_from(lengths[which].as_micros()).unwrap()));
            say(&format!("worker {worker}, point {index}: {args:?} {when:?} of {:?}", lengths[which]));
            anew(&repo, &exclude);
            let mut run = repo.start(args, vars);
            wait_for(&repo, &mut run, when);
            run.kill();
            run.until_nobody_is_left(PATIENCE).unwrap();
            for (now, (old, new)) in texts().iter().zip(old.iter().zip(&new)) {
                assert!(now == old || now == new, "half a file: {}", String::from_utf8_lossy(now));
            }
            repo.git(&["checkout", "-q", "--", "."]);
            let known = |hook: &(String, String)| whole.contains(hook) || hook.0.starts_with(".ft-tmp-");
            assert!(hooks(&repo).iter().all(known), "{:?}", hooks(&repo));
            assert_eq!(repo.harm(), Vec::<String>::new());
            // The same again goes through, and leaves nothing of what was killed.
            once(args, vars);
            repo.git(&["checkout", "-q", "--", "."]);
            once(&["run"], &[]);
            assert_eq!(repo.harm(), Vec::<String>::new());
            assert_eq!(repo.leftovers(), Vec::<String>::new());
            assert!(which != 0 || hooks(&repo) == whole, "{:?}", hooks(&repo));
        }
    });
}
