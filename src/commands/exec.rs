//! `ft exec -- COMMAND`: any command in a cell with the lock's environment; its exit status is ours.

use super::context::Context;
use super::pipeline::{self, Job};
use super::publish::Publish;
use super::run;
use crate::cli::Exec;
use crate::code::ExitCode;
use crate::plan::inputs::{Command, Request};
use crate::ui;

pub(super) fn exec(context: &Context, args: &Exec) -> ExitCode {
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    let source = match super::settled(&repo, run::source(&args.snapshot)) {
        Ok(source) => source,
        Err(code) => return code,
    };
    let request = Request {
        command: Command::Exec { argv: args.command.clone(), cwd: below(&repo, &context.cwd) },
        source,
        container: args.container,
        ..run::request(context, &crate::cli::Run::default(), false)
    };
    let job = Job {
        kind: "exec",
        request,
        python: None,
        deep: false,
        publish: Publish::Nothing,
        timeout_sec: args.timeout,
        terminal: None,
    };
    match pipeline::execute(context, &repo, job, ui::Face::passing_through(context.style.clone())) {
        Ok(done) => status(&done.outcome),
        Err(error) => super::cannot_begin(&error),
    }
}

/// Where the caller stands, relative to the repository: the command starts in the same folder of its own tree.
pub(super) fn below(repo: &crate::repo::Repo, cwd: &std::path::Path) -> camino::Utf8PathBuf {
    let real = cwd.canonicalize().unwrap_or_else(|_| cwd.to_owned());
    let below = real.strip_prefix(&repo.root).ok().and_then(|path| path.to_str());
    below.unwrap_or_default().into()
}

/// The command's own status where it ran (128 and the signal's number where one ended it); else the run's.
pub(super) fn status(outcome: &crate::outcome::Outcome) -> ExitCode {
    let end = outcome.steps.first().and_then(|step| step.end.as_ref());
    match end {
        Some(end)
            if outcome.bug.is_none()
                && outcome.broken.is_empty()
                && outcome.interrupted.is_none()
                && !end.timed_out =>
        {
            match (end.code, end.signal) {
                (Some(code), _) => ExitCode(code.rem_euclid(256) as u16),
                (None, Some(signal)) => ExitCode(128u16.saturating_add(signal.unsigned_abs() as u16)),
                (None, None) => ExitCode::INFRASTRUCTURE,
            }
        }
        _ => outcome.exit(),
    }
}
