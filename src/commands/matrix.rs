//! `--matrix`: the run with every Python of the lock that is installed; the others are named.

use super::context::Context;
use super::pipeline::{self, Job};
use super::publish::Publish;
use super::survey;
use crate::code::ExitCode;
use crate::plan::inputs::Request;
use crate::repo::Repo;
use crate::report;
use crate::ui::{self, Face};

pub(super) fn run(context: &Context, repo: &Repo, request: &Request, json: bool) -> ExitCode {
    let lock = match survey::read_lock(repo, &request.source) {
        Ok(lock) => lock,
        Err(finding) => {
            ui::finding(&context.style, &finding);
            return finding.code.exit();
        }
    };
    let contained = crate::plan::wants_container(&lock, request);
    let missing = if contained { "no image in the lock, not run" } else { "not installed, not run" };
    let mut verdicts = Vec::new();
    let mut reports = Vec::new();
    let mut failed = false;
    for python in &lock.matrix {
        let there = match contained {
            true => lock.image(python).is_some(),
            false => survey::installed(context, repo, python).is_some(),
        };
        if !there {
            verdicts.push((python.clone(), None));
            continue;
        }
        ui::note(&format!("Python {python}"));
        let job = Job {
            kind: "parity",
            request: request.clone(),
            python: Some(python.clone()),
            deep: true,
            // What stands in `artifacts/` is the first Python that fails, else the last one.
            publish: if failed { Publish::Nothing } else { Publish::Everything },
            timeout_sec: None,
            terminal: None,
        };
        match pipeline::execute(context, repo, job, Face::new(context.style.clone())) {
            Ok(done) => {
                let exit = done.outcome.exit();
                super::publish::step_summary(context, &done.outcome);
                failed |= exit != ExitCode::PASSED;
                verdicts.push((python.clone(), Some(exit)));
                reports.push(report::json::json(&done.outcome));
                if done.outcome.interrupted.is_some() || done.outcome.bug.is_some() {
                    break;
                }
            }
            Err(error) => return super::cannot_begin(&error),
        }
    }
    let lines: Vec<String> =
        verdicts.iter().map(|(python, exit)| format!("Python {python}: {}", words(*exit, missing))).collect();
    ui::note(&lines.join("\n"));
    if json {
        let all = reports.iter().map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned()).collect::<Vec<_>>();
        ui::out(&format!("[{}]\n", all.join(",\n")));
    }
    verdict(&verdicts)
}

fn words(exit: Option<ExitCode>, missing: &str) -> String {
    match exit {
        None => missing.to_owned(),
        Some(ExitCode::PASSED) => "exit 0".to_owned(),
        Some(exit) => report::text::exit_words(exit),
    }
}

/// What comes first, whichever Python it was of: a bug, an interruption, infrastructure; then the first verdict that is
/// not 0. A matrix of which nothing could be run has no verdict: PARITY-003.
fn verdict(verdicts: &[(String, Option<ExitCode>)]) -> ExitCode {
    let mut ran = verdicts.iter().filter_map(|(_, exit)| *exit).peekable();
    if ran.peek().is_none() {
        return crate::code::ParityCode::PYTHON_VERSION.exit();
    }
    let all: Vec<ExitCode> = ran.collect();
    let first = [ExitCode::BUG, ExitCode::INTERRUPTED, ExitCode::TERMINATED, ExitCode::INFRASTRUCTURE];
    let first = first.into_iter().find(|exit| all.contains(exit));
    first.or_else(|| all.into_iter().find(|exit| *exit != ExitCode::PASSED)).unwrap_or(ExitCode::PASSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failing_python_fails_the_matrix_and_none_at_all_is_no_pass() {
        let at = |code| Some(ExitCode(code));
        assert_eq!(verdict(&[("3.10".into(), at(0)), ("3.11".into(), at(221))]), ExitCode(221));
        assert_eq!(verdict(&[("3.10".into(), at(0)), ("3.14".into(), None)]), ExitCode::PASSED);
        assert_eq!(verdict(&[("3.14".into(), None)]), ExitCode(101));
        assert_eq!(verdict(&[("3.10".into(), at(221)), ("3.11".into(), at(130))]), ExitCode::INTERRUPTED);
    }
}
