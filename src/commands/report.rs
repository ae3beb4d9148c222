//! `ft report`, `ft diff`, `ft explain`: what earlier runs left, and what codes mean.

use super::context::Context;
use super::runs;
use crate::cli::{Form, Report};
use crate::code::ExitCode;
use crate::outcome::Outcome;
use crate::report::{explain as explained, json, junit, text};
use crate::session::recorder;
use crate::ui;
use std::path::{Path, PathBuf};

pub(super) fn report(context: &Context, args: &Report) -> ExitCode {
    let state = match super::discover(context) {
        Ok(repo) => repo.state_dir(),
        Err(code) => return code,
    };
    let kept = runs::list(&state);
    if args.list {
        let lines: String = kept.iter().map(|run| format!("{}\n", run.id)).collect();
        ui::out(&lines);
        return ExitCode::PASSED;
    }
    let run = match &args.run {
        Some(id) => kept.iter().find(|run| run.id == *id),
        None => kept.last(),
    };
    let Some(run) = run else {
        let what =
            args.run.as_ref().map_or("no run has been made here yet".to_owned(), |id| format!("{id}: no such run"));
        ui::error(&what, Some("make one with `ft run`; `ft report --list` names the runs that are kept"));
        return ExitCode::USAGE;
    };
    let outcome = match recorder::read(&run.dir.join("events.jsonl")) {
        Ok(events) => Outcome::fold(&events),
        Err(error) => {
            ui::error(&format!("the record of run {} can't be read: {error}", run.id), None);
            return ExitCode::INFRASTRUCTURE;
        }
    };
    match args.format {
        Form::Text => {
            let detail = text::Detail { steps: true, quiet: context.global.quiet, explain: context.global.explain };
            ui::page(&context.style, &text::summary(&outcome, &runs::tails(&run.dir, &outcome), detail));
        }
        Form::Json => ui::bytes(&json::json(&outcome)),
        Form::Junit => ui::bytes(&junit::junit(&outcome)),
    }
    ExitCode::PASSED
}

/// Compares two reports. 0: equal but for times and ids; 1: they differ.
pub(super) fn diff(context: &Context, left: &str, right: &str) -> ExitCode {
    let state = super::discover(context).ok().map(|repo| repo.state_dir());
    let load = |name: &str| -> Result<serde_json::Value, String> {
        let path = find(context, state.as_deref(), name);
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{}: not a report: {error}", path.display()))
    };
    match (load(left), load(right)) {
        (Ok(left), Ok(right)) => {
            let lines = crate::report::diff::differences(&left, &right);
            if lines.is_empty() {
                ui::out("no difference\n");
                return ExitCode::PASSED;
            }
            ui::out(&(lines.join("\n") + "\n"));
            ExitCode(1)
        }
        (Err(error), _) | (_, Err(error)) => {
            ui::error(&error, Some("give the path of a parity_report.json, or the id of a run (`ft report --list`)"));
            ExitCode::USAGE
        }
    }
}

/// A path, or the id of a run.
fn find(context: &Context, state: Option<&Path>, name: &str) -> PathBuf {
    let run = state.and_then(|state| runs::report(state, Path::new(name)));
    run.unwrap_or_else(|| context.cwd.join(name))
}

pub(super) fn explain(context: &Context, what: Option<&str>) -> ExitCode {
    let page = match what.map_or_else(|| Ok(explained::list()), explained::explain) {
        Ok(page) => page,
        Err(error) => {
            ui::error(&error.to_string(), Some(&error.hint()));
            return ExitCode::USAGE;
        }
    };
    ui::page(&context.style, &page);
    ExitCode::PASSED
}
