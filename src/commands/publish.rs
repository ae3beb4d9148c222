//! The end of a run: its reports, its artifacts, and the folders that are no longer needed.

use crate::artifacts::{self, ArtifactError, Item, Published, RunDir, RunLock};
use crate::cell;
use crate::leftovers;
use crate::outcome::Outcome;
use crate::repo::{ARTIFACTS_DIR, Repo};
use crate::report::{json, junit};
use crate::ui;
use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

/// How many finished runs are kept.
const KEPT_RUNS: usize = 10;

/// What of a run's results goes to `artifacts/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publish {
    /// All of them, in place of what the run before left.
    Everything,
    /// The report; what else an earlier run left stays. For a self-check.
    ReportAlone,
    /// None: the run is a means to another end.
    Nothing,
}

/// Takes the lock under which one run of this repository writes; says so where another run has it.
pub(super) fn lock(state: &Path) -> Result<RunLock, ArtifactError> {
    let now = jiff::Timestamp::now().to_string();
    match RunLock::try_take(state, &now)? {
        Ok(lock) => Ok(lock),
        Err(holder) => {
            let pid = holder.pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
            ui::note(&format!("another run of this repository{pid} started at {}; waiting for it", holder.since));
            RunLock::wait(state, &now)
        }
    }
}

/// Removes what killed runs left: folders, temporary files, control groups.
pub(super) fn sweep(repo: &Repo) {
    let runs = artifacts::sweep(&repo.state_dir()).unwrap_or_else(|error| {
        // A folder that can't be removed is no reason not to run; nothing trusts it.
        ui::warning(&format!("what a killed run left could not be removed: {error}"), None);
        Vec::new()
    });
    if !runs.is_empty() {
        ui::note(&format!("removed what {} left unfinished", runs.join(", ")));
    }
    let state = repo.state_dir();
    let cache = state.join("cache");
    let places = [state.join("env"), cache.join("layer"), cache.join("bytecode"), repo.root.join("ci"), state];
    let files: usize = places.iter().map(|place| leftovers::sweep(place)).sum();
    if files > 0 {
        ui::note(&format!(
            "removed {files} temporary {} that a killed ft left",
            if files == 1 { "file" } else { "files" }
        ));
    }
    cell::sweep();
}

/// Adds the page of a run to the file that GitHub Actions shows for this step, where there is one.
pub(super) fn step_summary(context: &super::context::Context, outcome: &Outcome) {
    let Some(path) = &context.vars.github_summary else { return };
    let page = crate::report::markdown::page(outcome);
    let added = fs_err::OpenOptions::new().append(true).create(true).open(path);
    if let Err(error) = added.and_then(|mut file| file.write_all(page.as_bytes())) {
        ui::warning(&format!("the page of this step could not be written: {error}"), None);
    }
}

/// Writes the run's reports into its folder, publishes under the lock to `artifacts/` where that is wanted, and removes what only the
/// run itself needed. What can't be removed is said.
///
/// # Errors
/// Report or artifacts are not there: what stands in `artifacts/` may be an older run's.
pub(super) fn finish(
    lock: Option<&RunLock>,
    repo: &Repo,
    run: RunDir,
    outcome: &Outcome,
    wanted: Publish,
) -> Result<(), String> {
    let run_dir = run.path();
    let said = |what: &str, error: &dyn std::fmt::Display| ui::warning(&format!("{what}: {error}"), None);
    let mut failed = Ok(());
    for (name, bytes) in [("parity_report.json", json::json(outcome)), ("junit.xml", junit::junit(outcome))] {
        if let Err(error) = write_atomic(&run_dir.join(name), &bytes) {
            failed = Err(format!("the report could not be written: {error}"));
        }
    }
    let published = match (wanted, lock) {
        (Publish::Everything, Some(lock)) => artifacts::publish(lock, repo, &items(run_dir, outcome)),
        (Publish::ReportAlone, Some(lock)) => {
            let from = run_dir.join("parity_report.json");
            artifacts::update(lock, repo, &[Item { from, to: "parity_report.json".to_owned() }], None)
        }
        (Publish::Nothing, _) | (_, None) => Ok(Published::default()),
    };
    match published {
        Ok(published) => {
            for (name, what) in published.reported {
                ui::warning(&format!("{ARTIFACTS_DIR}/{name}: {what}"), None);
            }
        }
        Err(error) => failed = failed.and(Err(format!("artifacts could not be published: {error}"))),
    }
    for left in ["cells", "tree", "bytecode", "jobs", "project", "left"].map(|name| run_dir.join(name)) {
        if left.exists()
            && let Err(error) = cell::remove_scratch(&left)
        {
            said("a folder of the run could not be removed", &error);
        }
    }
    // A snapshot that was never written is not there to be removed.
    let _ = std::fs::remove_file(run_dir.join("snapshot.tar"));
    // A command of one's own and a collection for the lock are no runs that anyone looks up again.
    let ended = if wanted == Publish::Nothing { run.forget() } else { run.end() };
    if let Err(error) = ended.and_then(|()| lock.map_or(Ok(Vec::new()), |lock| lock.prune(KEPT_RUNS))) {
        said("older runs could not be removed", &error);
    }
    if !outcome.broken.is_empty() {
        // Whoever removes a cell's groups may be what was killed.
        cell::sweep();
    }
    failed
}

/// What goes to `artifacts/`: our own files, the logs, and what the steps left, in plan order.
fn items(run_dir: &Path, outcome: &Outcome) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let order = |step: &str| outcome.steps.iter().position(|s| s.id == step);
    let mut left: Vec<_> = outcome.artifacts.iter().collect();
    left.sort_by_key(|(step, path, ..)| (order(step), path.clone()));
    for pair in left.iter().enumerate() {
        let (i, (step, path, _, sha256)) = pair;
        let later = left[i + 1..].iter().find(|(_, other, _, bytes)| other == path && bytes != sha256);
        if let Some((later, ..)) = later {
            ui::warning(&format!("{step} and {later} both left {path}; that of {later} is kept"), None);
        }
        let received = format!("work/{path}");
        if let Some(to) = artifacts::published_name(&received) {
            items.push(Item { from: run_dir.join("left").join(step).join(&received), to: to.to_owned() });
        }
    }
    let mut own = |from: PathBuf, to: String| {
        if from.is_file() {
            items.push(Item { from, to });
        }
    };
    // Coverage data with paths of this machine, so that `coverage html` works here.
    own(run_dir.join("left/coverage/out/coverage.mapped"), "coverage.mapped".to_owned());
    for name in ["parity_report.json", "junit.xml", "events.jsonl"] {
        own(run_dir.join(name), name.to_owned());
    }
    let logs = std::fs::read_dir(run_dir.join("logs")).into_iter().flatten().filter_map(Result::ok);
    for entry in logs {
        own(entry.path(), format!("logs/{}", entry.file_name().to_string_lossy()));
    }
    items
}

/// The report of a self-check that needed no run: that one file, and nothing of an earlier run is touched. A run that
/// writes at this moment will leave a newer report than this one. `tracked` as for [`artifacts::update`].
pub(super) fn report_only(
    repo: &Repo,
    outcome: &Outcome,
    tracked: Option<&HashSet<String>>,
) -> Result<(), ArtifactError> {
    let state = repo.state_dir();
    std::fs::create_dir_all(&state).map_err(|source| ArtifactError::Io { path: state.clone(), source })?;
    artifacts::exclude_from_status(repo)?;
    let now = jiff::Timestamp::now().to_string();
    let Ok(lock) = RunLock::try_take(&state, &now)? else { return Ok(()) };
    let from = state.join("self-check.json");
    write_atomic(&from, &json::json(outcome)).map_err(|source| ArtifactError::Io { path: from.clone(), source })?;
    let published = artifacts::update(&lock, repo, &[Item { from, to: "parity_report.json".to_owned() }], tracked)?;
    for (name, what) in published.reported {
        ui::warning(&format!("{ARTIFACTS_DIR}/{name}: {what}"), None);
    }
    Ok(())
}

/// Whole or not at all: a temporary file beside it, then a rename.
fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = leftovers::file_in(path.parent().unwrap_or(Path::new(".")))?;
    file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
