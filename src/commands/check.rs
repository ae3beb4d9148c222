//! `ft check`: the self-check. Warm, it starts two gits and nothing else, and looks at the rest while they answer.

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
use crate::finding::Finding;
use crate::git::GitError;
use crate::lock::collection::Manifest;
use crate::lock::{Lock, OnAdded, Warning};
use crate::outcome::Outcome;
use crate::plan::inputs::{Command, EnvironmentFacts, Request};
use crate::plan::{self, Plan};
use crate::repo::{Repo, Source};
use crate::report;
use crate::results::pytest::TestReport;
use crate::session::recorder::{self, Recorder};
use crate::ui::{self, Face};
use std::collections::{BTreeMap, HashSet};

pub(super) fn check(context: &Context, args: &Check) -> ExitCode {
    let context = &context.with_json(args.json);
    let source = run::source(&args.snapshot);
    let early = source == Source::Worktree && !args.deep;
    let (repo, begun) = match if early { begin(context) } else { super::discover(context).map(|repo| (repo, None)) } {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    let source = match super::settled(&repo, source) {
        Ok(source) => source,
        Err(code) => return code,
    };
    let request = Request {
        command: Command::Check { collect: true },
        source,
        container: args.container,
        ..run::request(context, &crate::cli::Run::default(), false)
    };
    let request = Request { update_collection: !context.vars.ci && request.source == Source::Worktree, ..request };
    let may_record = request.update_collection;
    match perform(context, &repo, request, args.deep, begun) {
        Ok(outcome) => {
            if may_record {
                record_added(&repo, &outcome);
            }
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
    begun: Option<Begun>,
) -> Result<Outcome, pipeline::BeginError> {
    if !deep && let Some(outcome) = warm(context, repo, &request, begun)? {
        return Ok(outcome);
    }
    let job = Job {
        kind: "self-check",
        request,
        python: None,
        deep,
        publish: Publish::ReportAlone,
        timeout_sec: None,
        terminal: None,
    };
    let done = pipeline::execute(context, repo, job, Face::new(context.style.clone()))?;
    Ok(done.outcome)
}

/// What a warm check is made from, but for what git says.
type Looked = Result<(Lock, Vec<Warning>, Option<Survey>), Finding>;

/// Both halves of what a warm check is made from.
pub(super) struct Begun {
    looked: Looked,
    status: Result<TreeState, GitError>,
}

/// Lock, survey and seal of a tree; no survey where the environment is not there yet.
fn look(context: &Context, repo: &Repo, source: &Source) -> Looked {
    let (lock, warnings) = survey::quietly_read_lock(repo, source)?;
    let asked = Asked { source, python: &lock.python, untracked: Vec::new(), cells: false, contained: None };
    let mut survey = survey::survey(context, repo, &lock, asked);
    let ready = sealed(context, repo, &mut survey);
    Ok((lock, warnings, ready.then_some(survey)))
}

/// Finds the repository and looks at everything at the same time: git answers about as slowly as the seal is read. What
/// was looked at counts only if git then names the same root; a worktree is read by its root and nothing else.
fn begin(context: &Context) -> Result<(Repo, Option<Begun>), ExitCode> {
    let source = &Source::Worktree;
    let (asked, early) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let repo = super::discover(context)?;
            let status = crate::facts::git::tree_state(&repo, source);
            Ok((repo, status))
        });
        let likely = crate::facts::git::likely_root(&context.cwd).map(Repo::unconfirmed);
        let early = likely.map(|repo| (look(context, &repo, source), repo.root));
        (asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), early)
    });
    let (repo, status) = asked?;
    let looked = match early {
        Some((looked, root)) if root == repo.root => looked,
        _ => look(context, &repo, source),
    };
    Ok((repo, Some(Begun { looked, status })))
}

/// The whole check without a cell, or `None` where something has to be built or collected first.
fn warm(
    context: &Context,
    repo: &Repo,
    request: &Request,
    begun: Option<Begun>,
) -> Result<Option<Outcome>, pipeline::BeginError> {
    let Begun { looked, status } = begun.unwrap_or_else(|| {
        std::thread::scope(|scope| {
            let status = scope.spawn(|| crate::facts::git::tree_state(repo, &request.source));
            let looked = look(context, repo, &request.source);
            Begun { looked, status: status.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) }
        })
    });
    let tracked = status.as_ref().ok().and_then(|status| status.artifacts.clone());
    let (lock, warnings, survey) = match looked {
        Ok(looked) => looked,
        Err(finding) => {
            let events = vec![EventKind::Found { finding }];
            return Ok(Some(record(context, repo, events, tracked.as_ref())?));
        }
    };
    if plan::wants_container(&lock, request) {
        // The engine has to be asked.
        return Ok(None);
    }
    let (Ok(status), Some(mut survey)) = (status, survey) else { return Ok(None) };
    survey.facts.untracked = survey::untracked(&status);
    let (plan, findings) =
        plan::plan(&lock, &survey.facts, &Request { command: Command::Check { collect: false }, ..request.clone() });
    let stops = findings.iter().any(|finding| finding.code.stops_run() && !finding.warning);
    let reports = if stops { Some(Vec::new()) } else { cached(repo, &lock, &survey, &status, &plan) };
    let Some(reports) = reports else { return Ok(None) };
    // Whoever goes on after a `None` reads the lock again and says them.
    warnings.iter().for_each(|warning| ui::note(&warning.to_string()));
    let mut events = vec![EventKind::Planned { plan: Box::new(plan) }];
    events.extend(findings.into_iter().map(|finding| EventKind::Found { finding }));
    for (step, report) in reports {
        events.push(EventKind::StepSkipped {
            step: step.clone(),
            why: "nothing changed since its tests were collected".into(),
        });
        events.push(EventKind::TestsReported { step, report: Box::new(report) });
    }
    Ok(Some(record(context, repo, events, tracked.as_ref())?))
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
fn record(
    context: &Context,
    repo: &Repo,
    events: Vec<EventKind>,
    tracked: Option<&HashSet<String>>,
) -> Result<Outcome, pipeline::BeginError> {
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
    if let Err(error) = publish::report_only(repo, &recorder.outcome, tracked) {
        ui::warning(&format!("the report could not be written: {error}"), None);
    }
    recorder.face.finish(&recorder.outcome, &BTreeMap::new(), &repo.state_dir());
    Ok(recorder.outcome)
}

/// Which index a commit hook is about.
pub(super) fn index_of(context: &Context) -> Source {
    Source::Index { index_file: context.vars.git_index_file.clone() }
}
