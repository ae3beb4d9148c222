//! `ft run` and `ft ci`: the parity run.

use super::context::Context;
use super::pipeline::{self, Job};
use super::publish::Publish;
use super::{matrix, survey};
use crate::cli::Run;
use crate::code::ExitCode;
use crate::lock::nearest;
use crate::plan;
use crate::plan::inputs::{Command, Request};
use crate::repo::Source;
use crate::report;
use crate::ui;

pub(super) fn run(context: &Context, args: &Run, ci: bool) -> ExitCode {
    let context = &context.with_json(args.json);
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    let request = request(context, args, ci);
    let request = match super::settled(&repo, request.source.clone()) {
        Ok(source) => Request { source, ..request },
        Err(code) => return code,
    };
    if let Some((unknown, known)) = unknown_step(&repo, &request) {
        let hint = match nearest(&unknown, known.iter().map(String::as_str)) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("the lock has {}", known.join(", ")),
        };
        ui::error(&format!("{unknown}: no step of this lock"), Some(&hint));
        return ExitCode::USAGE;
    }
    if args.plan {
        return print_plan(context, &repo, &request, args.json);
    }
    if args.matrix {
        return matrix::run(context, &repo, &request, args.json);
    }
    let job = Job {
        kind: "parity",
        request,
        python: None,
        deep: true,
        publish: Publish::Everything,
        timeout_sec: None,
        terminal: None,
    };
    match pipeline::execute(context, &repo, job, ui::Face::new(context.style.clone())) {
        Ok(done) => {
            super::publish::step_summary(context, &done.outcome);
            if args.json {
                ui::bytes(&report::json::json(&done.outcome));
            }
            done.outcome.exit()
        }
        Err(error) => super::cannot_begin(&error),
    }
}

/// The first step that was asked for and that the lock does not have, and those that it has. What is wrong with the
/// lock itself is for the run to say.
fn unknown_step(repo: &crate::repo::Repo, request: &Request) -> Option<(String, Vec<String>)> {
    if request.only.is_empty() {
        return None;
    }
    let (lock, _) = survey::quietly_read_lock(repo, &request.source).ok()?;
    let own = ["build", "import"].into_iter().filter(|_| lock.build).map(str::to_owned);
    let known: Vec<String> = own.chain(lock.tools.keys().cloned()).collect();
    let unknown = request.only.iter().find(|name| !known.contains(name))?;
    Some((unknown.clone(), known))
}

/// What the arguments and the caller's environment mean.
pub(super) fn request(context: &Context, args: &Run, ci: bool) -> Request {
    Request {
        command: Command::Run,
        only: args.steps.clone(),
        source: source(&args.snapshot),
        advisory: args.advisory,
        fail_fast: args.fail_fast,
        container: args.container,
        in_place: ci && !args.container,
        no_network: context.vars.no_network,
        changed_only: context.vars.changed_only,
        pytest_addopts: context.vars.pytest_addopts.clone(),
        strict_tree: ci || context.vars.ci,
        update_collection: false,
        hash_seed: None,
        jobs: args.jobs,
    }
}

/// `worktree`, `index`, or a revision.
pub(super) fn source(text: &str) -> Source {
    match text {
        "" | "worktree" => Source::Worktree,
        "index" => Source::Index { index_file: None },
        revision => Source::Commit(revision.to_owned()),
    }
}

fn print_plan(context: &Context, repo: &crate::repo::Repo, request: &Request, json: bool) -> ExitCode {
    let (plan, findings) = match survey::read_lock(repo, &request.source) {
        Ok(lock) => {
            let untracked = crate::facts::git::tree_state(repo, &request.source)
                .map(|state| survey::untracked(&state))
                .unwrap_or_default();
            let opened = match super::contained::now(context, repo, &lock, request) {
                Ok(opened) => opened,
                Err((message, hint)) => {
                    ui::error(&message, Some(&hint).filter(|hint| !hint.is_empty()).map(String::as_str));
                    return ExitCode::INFRASTRUCTURE;
                }
            };
            let contained = opened.as_ref();
            let asked =
                survey::Asked { source: &request.source, python: &lock.python, untracked, cells: true, contained };
            let survey = survey::survey(context, repo, &lock, asked);
            plan::plan(&lock, &survey.facts, request)
        }
        Err(finding) => {
            ui::finding(&context.style, &finding);
            return finding.code.exit();
        }
    };
    if json {
        ui::bytes(&report::plan::json(&plan, &findings));
    } else {
        ui::page(&context.style, &report::plan::text(&plan, &findings));
    }
    findings.iter().find(|finding| !finding.warning).map_or(ExitCode::PASSED, |finding| finding.code.exit())
}
