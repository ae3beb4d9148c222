//! The end of a run: its report and artifacts.

use crate::outcome::Outcome;
use crate::repo::Repo;
use crate::report::{json, junit};
use crate::ui;
use std::path::Path;

/// Writes the run's reports into its folder.
pub(super) fn publish(_repo: &Repo, run_dir: &Path, outcome: &Outcome, _wanted: bool) {
    for (name, bytes) in [("parity_report.json", json::json(outcome)), ("junit.xml", junit::junit(outcome))] {
        if let Err(error) = fs_err::write(run_dir.join(name), bytes) {
            ui::warning(&format!("the report could not be written: {error}"), None);
        }
    }
}

/// The report of a self-check that needed no run.
pub(super) fn report_only(repo: &Repo, outcome: &Outcome) {
    let _ = (repo, outcome);
}
