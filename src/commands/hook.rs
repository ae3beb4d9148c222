//! What the hooks run: the self-check of the index before a commit, the parity run of what is pushed before a push.

use super::check;
use super::context::Context;
use super::pipeline::{self, Job};
use super::publish::Publish;
use super::run;
use crate::code::ExitCode;
use crate::facts::files::Files;
use crate::hooks::{self, PushedRef};
use crate::lock::LOCK_PATH;
use crate::plan::inputs::{Command, Request};
use crate::repo::{Repo, Source};
use crate::ui::{self, Face};
use std::collections::BTreeSet;
use std::io::Read;

/// The self-check of the index. A repository without a lock in its index is none of our business.
pub(super) fn pre_commit(context: &Context) -> ExitCode {
    if skipped(context) {
        return ExitCode::PASSED;
    }
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    let source = check::index_of(context);
    if no_lock(&repo, &source) {
        return ExitCode::PASSED;
    }
    let request = Request {
        command: Command::Check { collect: true },
        source,
        strict_tree: true,
        ..run::request(context, &crate::cli::Run::default(), false)
    };
    match check::perform(context, &repo, request, false, None) {
        Ok(outcome) => {
            if !context.vars.ci && check::record_added(&repo, &outcome) {
                ui::note("the manifest in the worktree was brought up to date: `git add` it and commit again");
            }
            outcome.exit()
        }
        Err(error) => super::cannot_begin(&error),
    }
}

/// The parity run of every commit that is about to be pushed, in the order of the refs; the first that fails stops the
/// push.
pub(super) fn pre_push(context: &Context) -> ExitCode {
    if skipped(context) {
        return ExitCode::PASSED;
    }
    let mut text = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut text) {
        ui::error(&format!("the refs being pushed can't be read from standard input: {error}"), None);
        return ExitCode::USAGE;
    }
    let refs = match hooks::parse_pre_push(&text) {
        Ok(refs) => refs,
        Err(error) => {
            ui::error(&error.to_string(), Some("git calls this hook with one line per ref on standard input"));
            return ExitCode::USAGE;
        }
    };
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    let (refs, told) = match &context.vars.framework_push {
        // It read git's list, and passes the first ref of it on.
        Some((oid, branch)) if refs.is_empty() => (vec![PushedRef::of_framework(oid, branch)], true),
        _ => (refs, !text.trim().is_empty()),
    };
    if !told {
        ui::warning(
            "git named no ref on standard input, so nothing was checked",
            Some("a hook that runs before must not read it"),
        );
    }
    let mut seen = BTreeSet::new();
    for PushedRef { local_oid, local_ref, .. } in refs {
        if !seen.insert(local_oid.clone()) {
            continue;
        }
        ui::note(&format!("checking {} ({local_ref})", &local_oid[..local_oid.len().min(12)]));
        let source = Source::Commit(local_oid);
        if no_lock(&repo, &source) {
            continue;
        }
        let request =
            Request { source, strict_tree: true, ..run::request(context, &crate::cli::Run::default(), false) };
        let job = Job {
            kind: "parity",
            request,
            python: None,
            deep: true,
            publish: Publish::Everything,
            timeout_sec: None,
            terminal: None,
        };
        match pipeline::execute(context, &repo, job, Face::new(context.style.clone())) {
            Ok(done) if done.outcome.exit() == ExitCode::PASSED => {}
            Ok(done) => return done.outcome.exit(),
            Err(error) => return super::cannot_begin(&error),
        }
    }
    ExitCode::PASSED
}

/// A tree without a lock (an old branch) has no checks: that is said, and nothing is held up.
fn no_lock(repo: &Repo, source: &Source) -> bool {
    let none = matches!(Files::new(repo, source).read(LOCK_PATH), Ok(None));
    if none {
        ui::note(&format!("there is no {LOCK_PATH} in {source}: nothing was checked"));
    }
    none
}

fn skipped(context: &Context) -> bool {
    if context.vars.skip {
        ui::note("SKIP_FT is set: nothing was checked");
    }
    context.vars.skip
}
