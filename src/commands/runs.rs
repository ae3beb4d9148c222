//! The folder of runs: `.firsttry/runs/ID/`, the newest few kept.

use crate::artifacts;
use crate::outcome::Outcome;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A run that is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kept {
    /// Sorts by time.
    pub(super) id: String,
    pub(super) dir: PathBuf,
}

/// A new id: `20261123-141503-417-8123`, UTC with milliseconds, and the process.
pub(super) fn new_id(now: jiff::Timestamp) -> String {
    let utc = now.to_zoned(jiff::tz::TimeZone::UTC);
    format!("{}-{:03}-{}", utc.strftime("%Y%m%d-%H%M%S"), utc.millisecond(), std::process::id())
}

/// Runs that are over and have a record, oldest first.
pub(super) fn list(state: &Path) -> Vec<Kept> {
    let Ok(entries) = std::fs::read_dir(state.join("runs")) else { return Vec::new() };
    let mut runs: Vec<Kept> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("events.jsonl").is_file() && artifacts::is_finished(&entry.path()))
        .map(|entry| Kept { id: entry.file_name().to_string_lossy().into_owned(), dir: entry.path() })
        .collect();
    runs.sort();
    runs
}

/// The report of a run that is kept, by its id.
pub(super) fn report(state: &Path, id: &Path) -> Option<PathBuf> {
    let mut parts = id.components();
    let plain = matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None));
    let path = state.join("runs").join(id).join(REPORT);
    (plain && path.is_file()).then_some(path)
}

/// The report of the last run of all checks.
pub(super) fn last_parity(state: &Path) -> Option<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(rename = "type")]
        kind: String,
    }
    let reports = list(state).into_iter().rev().map(|run| run.dir.join(REPORT));
    reports.into_iter().find(|path| {
        let head = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Head>(&bytes).ok());
        head.is_some_and(|head| head.kind == "parity")
    })
}

const REPORT: &str = "parity_report.json";

/// How much of a log is shown when its step failed, in bytes.
const TAIL: u64 = 8 << 10;

/// The last lines of the logs of steps that started.
pub(super) fn tails(run_dir: &Path, outcome: &Outcome) -> BTreeMap<String, String> {
    let started = outcome.steps.iter().filter(|step| step.started || step.end.is_some());
    started
        .filter_map(|step| Some((step.id.clone(), tail(&run_dir.join("logs").join(format!("{}.log", step.id))).ok()?)))
        .collect()
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let from = size.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // The first line is cut off in the middle.
    let text = if from > 0 { text.split_once('\n').map_or(text.clone(), |(_, rest)| rest.to_owned()) } else { text };
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(60)..].join("\n"))
}
