//! `ft check`: the self-check. Warm, it starts two gits and nothing else.

use super::context::Context;
use super::pipeline::{self, Job};
use super::publish::Publish;
use super::survey::{self, Asked, Survey};
use super::{publish, run, runs};
use crate::cli::Check;
use crate::code::ExitCode;
use crate::environment::store::State;
use crate::event::EventKind;
use crate::facts::collection;
use crate::facts::git::TreeState;
use crate::lock::collection::Manifest;
use crate::lock::{Lock, OnAdded};
use crate::outcome::Outcome;
use crate::plan::inputs::{Command, EnvironmentFacts, Request};
use crate::plan::{self, Plan};
use crate::repo::{Repo, Source};
use crate::report;
use crate::results::pytest::TestReport;
use crate::session::recorder::{self, Recorder};
use crate::ui::{self, Face};
use std::collections::BTreeMap;

pub(super) fn check(context: &Context, args: &Check) -> ExitCode {
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    let context = &context.with_json(args.json);
    let request = Request {
        command: Command::Check { collect: true },
        source: run::source(&args.snapshot),
        container: args.container,
        ..run::request(context, &crate::cli::Run::default(), false)
    };
    let request = Request { update_collection: !context.vars.ci && request.source == Source::Worktree, ..request };
    match perform(context, &repo, request, args.deep) {
        Ok(outcome) => {
            record_added(&repo, &outcome);
            if args.json {
                ui::bytes(&report::json::json(&outcome));
            }
            outcome.exit()
        }
        Err(error) => super::cannot_begin(&error),
    }
}

/// The self-check of one tree. Where everything is warm it is answered from stat and caches; else cells are raised.
pub(super) fn perform(
    context: &Context,
    repo: &Repo,
    request: Request,
    deep: bool,
) -> Result<Outcome, pipeline::BeginError> {
    if !deep && let Some(outcome) = warm(context, repo, &request)? {
        return Ok(outcome);
    }
    let job = Job { kind: "self-check", request, python: None, deep, publish: Publish::ReportAlone, timeout_sec: None };
    let done = pipeline::execute(context, repo, job, Face::new(context.style.clone()))?;
    Ok(done.outcome)
}

/// The whole check without a cell, or `None` where something has to be built or collected first.
fn warm(context: &Context, repo: &Repo, request: &Request) -> Result<Option<Outcome>, pipeline::BeginError> {
    let lock = match survey::read_lock(repo, &request.source) {
        Ok(lock) => lock,
        Err(finding) => {
            let events = vec![EventKind::Found { finding }];
            return Ok(Some(record(context, repo, events)?));
        }
    };
    // git and the seal are read at the same time: they are what a warm check costs.
    let (status, surveyed) = std::thread::scope(|scope| {
        let status = scope.spawn(|| crate::facts::git::tree_state(repo, &request.source));
        let asked = Asked { source: &request.source, python: &lock.python, untracked: Vec::new(), cells: false };
        let mut survey = survey::survey(context, repo, &lock, asked);
        let ready = sealed(context, repo, &mut survey);
        let status = status.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (status, ready.then_some(survey))
    });
    let Ok(status) = status else { return Ok(None) };
    let Some(mut survey) = surveyed else { return Ok(None) };
    survey.facts.untracked = survey::untracked(&status);
    let (plan, findings) =
        plan::plan(&lock, &survey.facts, &Request { command: Command::Check { collect: false }, ..request.clone() });
    let stops = findings.iter().any(|finding| finding.code.stops_run() && !finding.warning);
    let reports = if stops { Some(Vec::new()) } else { cached(repo, &lock, &survey, &status, &plan) };
    let Some(reports) = reports else { return Ok(None) };
    let mut events = vec![EventKind::Planned { plan: Box::new(plan) }];
    events.extend(findings.into_iter().map(|finding| EventKind::Found { finding }));
    for (step, report) in reports {
        events.push(EventKind::StepSkipped {
            step: step.clone(),
            why: "nothing changed since its tests were collected".into(),
        });
        events.push(EventKind::TestsReported { step, report: Box::new(report) });
    }
    Ok(Some(record(context, repo, events)?))
}

/// Whether the environment is there, with its facts filled in. A lock without a closure has none to be there.
fn sealed(context: &Context, repo: &Repo, survey: &mut Survey) -> bool {
    let Some(key) = &survey.key else { return true };
    match super::env::store(context, repo).state(key) {
        State::Ready(ready) => {
            survey.facts.environment = Some(EnvironmentFacts {
                key: key.as_str().to_owned(),
                packages: ready.dists.iter().map(|dist| (dist.name.clone(), dist.version.clone())).collect(),
                deviations: Vec::new(),
            });
            true
        }
        State::Broken(deviations) => {
            survey.facts.environment = Some(EnvironmentFacts {
                key: key.as_str().to_owned(),
                packages: BTreeMap::new(),
                deviations: deviations.iter().map(ToString::to_string).collect(),
            });
            true
        }
        State::Missing => false,
    }
}

/// The reports of a collection that is still true; `None` where the tests must be collected.
fn cached(
    repo: &Repo,
    lock: &Lock,
    survey: &Survey,
    status: &TreeState,
    plan: &Plan,
) -> Option<Vec<(String, TestReport)>> {
    if plan.steps.is_empty() || lock.collection.allow_uncollected {
        return Some(Vec::new());
    }
    let key = collection_key(survey, repo, status, plan)?;
    let cached = collection::load(&repo.state_dir(), &key)?;
    let report = |ids| TestReport { collected: ids, finished: true, exit_status: Some(0), ..TestReport::default() };
    Some(cached.steps.into_iter().map(|(step, ids)| (step, report(ids))).collect())
}

/// The key of what the tests of this tree would be collected as.
pub(super) fn collection_key(survey: &Survey, repo: &Repo, status: &TreeState, plan: &Plan) -> Option<String> {
    let environment = survey.key.as_ref()?.as_str();
    Some(collection::key(environment, &crate::lib_py::digest(), &status.key, repo.head.as_deref(), &plan.steps))
}

/// Keeps the collection that cells have just made, unless the plugin saw something that no key can hold.
pub(super) fn keep(repo: &Repo, survey: &Survey, status: &TreeState, plan: &Plan, outcome: &Outcome) {
    let reports: Option<Vec<_>> =
        outcome.steps.iter().map(|step| Some((step.id.clone(), step.tests.as_deref()?))).collect();
    let fits = |report: &TestReport| {
        report.finished
            && report.collect_errors.is_empty()
            && report.uncacheable.is_empty()
            && matches!(report.exit_status, Some(0 | 5))
    };
    let Some(reports) = reports.filter(|reports| reports.iter().all(|(_, report)| fits(report))) else { return };
    let Some(key) = collection_key(survey, repo, status, plan) else { return };
    let steps = reports.into_iter().map(|(step, report)| (step, report.collected.clone())).collect();
    // Losing it costs a collection next time.
    let _ = collection::store(&repo.state_dir(), &collection::Cached { key, steps });
}

/// Writes tests that are new into the manifest, where the lock allows it; says so. The file is the user's to commit.
/// Returns whether it was changed.
pub(super) fn record_added(repo: &Repo, outcome: &Outcome) -> bool {
    let Some(plan) = &outcome.plan else { return false };
    let judge = &plan.judge;
    let (Some(path), OnAdded::Update) = (&judge.collection.manifest, judge.collection.on_added) else { return false };
    let Ok(old) = std::fs::read_to_string(repo.root.join(path)) else { return false };
    let Ok(manifest) = Manifest::parse(&old) else { return false };
    let reports: Option<Vec<_>> = outcome.steps.iter().map(|step| step.tests.as_deref()).collect();
    let whole =
        |report: &&TestReport| report.finished && report.collect_errors.is_empty() && !report.collected.is_empty();
    let Some(reports) = reports.filter(|reports| !reports.is_empty() && reports.iter().all(whole)) else {
        return false;
    };
    let ids: Vec<String> = reports.iter().flat_map(|report| report.collected.iter().cloned()).collect();
    let python = plan::minor(&plan.python);
    let diff = manifest.diff(python, &ids);
    if diff.removed() > 0 || (diff.added() == 0 && diff.merged.is_empty()) {
        return false;
    }
    match super::lock::write(repo, path.as_std_path(), &manifest.with(python, python, &ids).render()) {
        Ok(()) => {
            ui::note(&format!("{path}: +{} tests; commit it with them", diff.added()));
            true
        }
        Err(error) => {
            ui::warning(&format!("{path} could not be brought up to date: {error}"), None);
            false
        }
    }
}

/// Events of a check that needed no cell, judged, shown and reported.
fn record(context: &Context, repo: &Repo, events: Vec<EventKind>) -> Result<Outcome, pipeline::BeginError> {
    let first = EventKind::RunStarted {
        events_version: recorder::VERSION,
        id: runs::new_id(jiff::Timestamp::now()),
        timestamp: jiff::Timestamp::now().to_string(),
        ft: env!("CARGO_PKG_VERSION").to_owned(),
        kind: "self-check".to_owned(),
        repository: repo.root.display().to_string(),
    };
    let mut recorder = Recorder::in_memory(Face::new(context.style.clone()), first);
    events.into_iter().for_each(|event| recorder.record(event));
    recorder.finish();
    if let Err(error) = publish::report_only(repo, &recorder.outcome) {
        ui::warning(&format!("the report could not be written: {error}"), None);
    }
    recorder.face.finish(&recorder.outcome, &BTreeMap::new(), &repo.state_dir());
    Ok(recorder.outcome)
}

/// Which index a commit hook is about.
pub(super) fn index_of(context: &Context) -> Source {
    Source::Index { index_file: context.vars.git_index_file.clone() }
}
