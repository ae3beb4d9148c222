//! One run from its first event to its report: the way of the data of DESIGN section 3, in order.

use super::contained::{self, Contained, NoContainer};
use super::context::Context;
use super::in_place::{Another, Question};
use super::jobs::{Asked as ToJob, CellJobs};
use super::obeying::during;
use super::publish::Publish;
use super::survey::{self, Asked, Survey};
use super::{publish, runs};
use crate::artifacts::RunDir;
use crate::bytecode;
use crate::cell::Container;
use crate::cell::{self, AnyCell};
use crate::code::ParityCode;
use crate::environment::interpreter::Interpreter;
use crate::environment::store::{BuildError, Ready, State};
use crate::environment::{Progress, RunJob, kept_layer, lib_dir, project};
use crate::event::{ContainerInfo, EnvironmentInfo, EventKind, InImage, SnapshotInfo};
use crate::finding::Finding;
use crate::lock::{CellKind, Lock, Project};
use crate::outcome::Outcome;
use crate::plan::inputs::{Command, EnvironmentFacts, Request};
use crate::plan::{self, Plan};
use crate::repo::Repo;
use crate::session::recorder::{self, Recorder};
use crate::session::{self, Departures, Signals, World};
use crate::snapshot;
use crate::ui::Face;
use std::path::{Path, PathBuf};

/// What a run is to do.
pub(super) struct Job {
    /// `parity`, `self-check`, `exec`.
    pub(super) kind: &'static str,
    /// What was asked for.
    pub(super) request: Request,
    /// Another Python of the matrix than the lock's first.
    pub(super) python: Option<String>,
    /// Whether every file of the environment is read again.
    pub(super) deep: bool,
    /// What of the results goes to `artifacts/`.
    pub(super) publish: Publish,
    /// Seconds for the command of `ft exec`.
    pub(super) timeout_sec: Option<u64>,
    /// The command has the caller's own terminal, which is of this type (`TERM`).
    pub(super) terminal: Option<String>,
}

/// A run that is over.
pub(super) struct Done {
    pub(super) outcome: Outcome,
}

/// Why a run could not even begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Artifacts(#[from] crate::artifacts::ArtifactError),
}

/// Runs a job to its report. What goes wrong after the run has a folder is in the outcome.
pub(super) fn execute(context: &Context, repo: &Repo, job: Job, face: Face) -> Result<Done, BeginError> {
    let state = repo.state_dir();
    fs_err::create_dir_all(&state)?;
    crate::artifacts::exclude_from_status(repo)?;
    // A command of one's own publishes nothing: it waits for nobody, and a server that it starts keeps no run waiting.
    let run_lock = if job.publish == Publish::Nothing { None } else { Some(publish::lock(&state)?) };
    publish::sweep(repo);
    let id = runs::new_id(jiff::Timestamp::now());
    let run = RunDir::begin(&state, &id)?;
    let run_dir = run.path().to_owned();
    fs_err::create_dir_all(run_dir.join("logs"))?;
    let first = EventKind::RunStarted {
        events_version: recorder::VERSION,
        id,
        timestamp: jiff::Timestamp::now().to_string(),
        ft: env!("CARGO_PKG_VERSION").to_owned(),
        kind: job.kind.to_owned(),
        repository: repo.root.display().to_string(),
    };
    let publish_wanted = job.publish;
    let mut recorder = Recorder::start(&run_dir, face, first)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut departures, mut container) = (Departures::default(), None);
    let failure = runtime.block_on(async {
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => return Some(Stop::broken("signals", error)),
        };
        let (recorder, signals) = (&mut recorder, &mut signals);
        let (departures, container) = (&mut departures, &mut container);
        Drive { context, repo, job: &job, run_dir: &run_dir, recorder, signals, departures, container, in_image: None }
            .all()
            .await
            .err()
    });
    if let Some(stop) = failure {
        recorder.record(stop.event());
        let waiting: Vec<String> = recorder
            .outcome
            .steps
            .iter()
            .filter(|step| step.end.is_none() && step.skipped.is_none())
            .map(|step| step.id.clone())
            .collect();
        for step in waiting {
            recorder.record(EventKind::StepSkipped { step, why: "the run stopped before it".to_owned() });
        }
    }
    recorder.finish();
    let tails = runs::tails(&run_dir, &recorder.outcome);
    // Their folders go now.
    runtime.block_on(async {
        departures.all().await;
        if let Some(container) = &container {
            Container::close(container).await;
        }
    });
    // Threads that still read a large tree must not hold up an interrupted run.
    runtime.shutdown_background();
    if let Err(error) = publish::finish(run_lock.as_ref(), repo, run, &recorder.outcome, publish_wanted) {
        // A verdict whose report is not there, or is an older one's, is no verdict.
        let hint = "free some disk space or mend the permissions, then run again".to_owned();
        recorder.record(EventKind::Broken { stage: "report".to_owned(), message: error, hint });
    }
    recorder.face.finish(&recorder.outcome, &tails, &run_dir);
    Ok(Done { outcome: recorder.outcome })
}

/// Why a run stops before its steps, beside findings.
#[derive(Debug)]
enum Stop {
    Broken {
        stage: &'static str,
        message: String,
        hint: String,
    },
    Interrupted(crate::run::Signal),
    Found(Box<Finding>),
    /// Findings were recorded, and they stop the run.
    Judged,
}

impl Stop {
    fn broken(stage: &'static str, error: impl std::fmt::Display) -> Stop {
        Stop::Broken { stage, message: error.to_string(), hint: String::new() }
    }

    fn event(self) -> EventKind {
        match self {
            Stop::Broken { stage, message, hint } => EventKind::Broken { stage: stage.to_owned(), message, hint },
            Stop::Interrupted(signal) => EventKind::Interrupted { signal: signal.name().to_owned() },
            Stop::Found(finding) => EventKind::Found { finding: *finding },
            Stop::Judged => unreachable!("recorded where it was judged"),
        }
    }
}

impl From<crate::run::Signal> for Stop {
    fn from(signal: crate::run::Signal) -> Stop {
        Stop::Interrupted(signal)
    }
}

struct Drive<'a> {
    context: &'a Context,
    repo: &'a Repo,
    job: &'a Job,
    run_dir: &'a Path,
    recorder: &'a mut Recorder,
    signals: &'a mut Signals,
    /// Cells that are left behind.
    departures: &'a mut Departures,
    /// The containers of container mode.
    container: &'a mut Option<Container>,
    /// The lock's image, where the run found itself in it.
    in_image: Option<InImage>,
}

impl Drive<'_> {
    async fn all(mut self) -> Result<(), Stop> {
        match self.stages().await {
            Err(Stop::Judged) => Ok(()),
            other => other,
        }
    }

    /// A cell of this run.
    fn cell(&self, kind: CellKind, terminal: bool) -> AnyCell {
        match &*self.container {
            Some(container) => AnyCell::Container(container.clone()),
            None => AnyCell::of(kind, terminal),
        }
    }

    /// Engine and image, where container mode applies; the plan says why they can't be had.
    async fn contain(&mut self, lock: &Lock, python: &str) -> Result<Option<Result<Contained, Finding>>, Stop> {
        let elsewhere = match self.in_place(lock, python).await? {
            Some(Ok(image)) => {
                self.in_image = Some(image);
                return Ok(None);
            }
            Some(Err(another)) => Some(another),
            None => None,
        };
        if !plan::wants_container(lock, &self.job.request) {
            // The lock asks for no container: its steps may run on any machine, and so in any image.
            if let Some(another) = elsewhere {
                self.recorder.record(EventKind::Found { finding: another.finding().as_warning() });
            }
            return Ok(None);
        }
        if self.job.terminal.is_some() {
            let finding = Finding::new(
                ParityCode::POLICY_UNENFORCEABLE,
                "preflight",
                "a container has no terminal of the caller's: there is no `ft shell` in container mode",
            );
            return Err(Stop::Found(Box::new(finding.hint("use `ft exec --container -- COMMAND`"))));
        }
        let stage = self.recorder.stage_started("container", "engine and image");
        let open = contained::open(self.context, self.repo, lock, python, self.run_dir);
        let opened = match during(self.signals, ToJob::default(), open).await? {
            Ok(contained) => Ok(contained),
            Err(NoContainer::Refused(finding)) => Err(Another::or(elsewhere, finding)),
            Err(NoContainer::Broken(message, hint)) => {
                return Err(Stop::Broken { stage: "container", message, hint });
            }
        };
        if let Ok(contained) = &opened {
            *self.container = Some(contained.cell.clone());
        }
        self.recorder.stage_finished(stage, opened.as_ref().map_or("can't be had", |_| "there"));
        Ok(Some(opened))
    }

    /// Whether this job runs in the lock's image already, where that is asked.
    async fn in_place(&mut self, lock: &Lock, python: &str) -> Result<Option<Result<InImage, Another>>, Stop> {
        let question = Question::asked(self.context, self.repo, lock, python, &self.job.request);
        let Some(question) = question else { return Ok(None) };
        let stage = self.recorder.stage_started("image", "what this job runs in");
        let measuring = tokio::task::spawn_blocking(move || question.answer());
        let answer = match during(self.signals, ToJob::default(), measuring).await? {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let detail = match &answer {
            Ok(InImage { contents, .. }) => format!(
                "the lock's image: interpreter, standard library and {} shared libraries are the same",
                contents.libraries.len()
            ),
            Err(_) => "not known to be the lock's image".to_owned(),
        };
        self.recorder.stage_finished(stage, detail);
        Ok(Some(answer))
    }

    async fn stages(&mut self) -> Result<(), Stop> {
        let request = &self.job.request;
        let lock = survey::read_lock(self.repo, &request.source).map_err(|finding| Stop::Found(Box::new(finding)))?;
        if lock.explain {
            self.recorder.face.explain();
        }
        let python = self.job.python.clone().unwrap_or_else(|| lock.python.clone());
        let opened = self.contain(&lock, &python).await?;
        let request = &self.job.request;
        let asked = Asked {
            source: &request.source,
            python: &python,
            untracked: Vec::new(),
            cells: true,
            contained: opened.as_ref(),
        };
        // git looks at the tree while the machine is tried.
        let (status, mut survey) = std::thread::scope(|scope| {
            let status = scope.spawn(|| crate::facts::git::tree_state(self.repo, &request.source));
            let survey = survey::survey(self.context, self.repo, &lock, asked);
            (status.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), survey)
        });
        let status = status.map_err(|error| Stop::broken("git", error))?;
        survey.facts.untracked = survey::untracked(&status);

        // Before anything is built: what stops a run stops it here.
        let (first_plan, findings) = plan::plan(&lock, &survey.facts, request);
        if findings.iter().any(|finding| finding.code.stops_run() && !finding.warning) {
            self.judge(first_plan, findings);
            return Err(Stop::Judged);
        }
        let environment = self.environment(&mut survey).await?;
        let (mut plan, findings) = plan::plan(&lock, &survey.facts, request);
        if let (Some(seconds), Command::Exec { .. }) = (self.job.timeout_sec, &request.command) {
            plan.steps.iter_mut().for_each(|step| step.timeout_ms = seconds.saturating_mul(1000));
        }
        if let Some(kind) = &self.job.terminal {
            for step in &mut plan.steps {
                step.env.insert("TERM".to_owned(), kind.clone());
                // The terminal knows its own size, also when that changes.
                step.env.remove("COLUMNS");
            }
        }
        let stop = findings.iter().any(|finding| finding.code.stops_run() && !finding.warning);
        self.judge(plan.clone(), findings);
        if stop {
            return Err(Stop::Judged);
        }
        if plan.steps.is_empty() {
            return Ok(());
        }
        let mut world = self.world(&lock, &survey, environment.as_ref(), &status, &plan).await?;
        let collects = matches!(request.command, Command::Check { .. });
        // The environment is held for as long as the steps run: nobody may remove it under them.
        // Not from a container, whose changes come back as a tar.
        let lends = collects && self.container.is_none();
        let bytecode = environment.as_ref().filter(|_| lends).map(|ready| self.bytecode_store(ready));
        let trees = world.trees.clone();
        if let Some(store) = &bytecode {
            let layer = self.run_dir.join("bytecode");
            // Without it the collection compiles everything.
            if bytecode::lend(store, &trees, &layer, cell::step_owner()).is_ok_and(|lent| lent > 0) {
                world.trees.push(layer);
            }
        }
        let lent = self.lend_terminal()?;
        let cell = self.cell(plan.cell, world.terminal);
        *self.departures = session::steps(self.recorder, &cell, &world, &plan, self.signals).await;
        drop(lent);
        if collects {
            // The tree was looked at before the environment was built, and taken after it: only if both are the same tree
            // is the collection that of the key.
            let now = crate::facts::git::tree_state(self.repo, &request.source);
            if now.is_ok_and(|now| now.key == status.key) {
                super::check::keep(self.repo, &survey, &status, &plan, &self.recorder.outcome);
            }
        }
        if let Some(store) = &bytecode {
            for step in &plan.steps {
                // What is not kept is compiled again.
                let _ = bytecode::keep(&world.scratch(&step.id).join("changes"), &trees, store);
            }
        }
        Ok(())
    }

    /// Lends the caller's terminal to the command, where it is to have it; dropping what comes back ends that.
    #[cfg(target_os = "linux")]
    fn lend_terminal(&mut self) -> Result<Option<cell::Terminal>, Stop> {
        if self.job.terminal.is_none() {
            return Ok(None);
        }
        self.recorder.face.hand_over();
        cell::Terminal::lend().map(Some).map_err(|error| Stop::broken("terminal", error))
    }

    #[cfg(not(target_os = "linux"))]
    fn lend_terminal(&mut self) -> Result<Option<Box<dyn Send>>, Stop> {
        Ok(None)
    }

    /// Where bytecode of collections in this environment is kept. What is kept for environments that are gone goes.
    fn bytecode_store(&self, ready: &Ready) -> PathBuf {
        let cache = self.repo.state_dir().join("cache");
        let kept = ["bytecode", "layer"].map(|kind| std::fs::read_dir(cache.join(kind)));
        for entry in kept.into_iter().flatten().flatten().filter_map(Result::ok) {
            if !ready.root.with_file_name(entry.file_name()).is_dir() {
                // Tried again by the next check.
                let _ = cell::remove_scratch(&entry.path());
            }
        }
        cache.join("bytecode").join(ready.key.as_str())
    }

    fn judge(&mut self, plan: Plan, findings: Vec<Finding>) {
        self.recorder.record(EventKind::Planned { plan: Box::new(plan) });
        for finding in findings {
            self.recorder.record(EventKind::Found { finding });
        }
    }

    /// Finds or builds the environment, and reads what is in it.
    async fn environment(&mut self, survey: &mut Survey) -> Result<Option<Ready>, Stop> {
        let (Some(key), Some(interpreter)) = (survey.key.clone(), &survey.interpreter) else { return Ok(None) };
        let store = super::env::store(self.context, self.repo);
        let spec = super::env::spec(self.context, self.repo, interpreter, survey, false);
        let stage = self.recorder.stage_started("environment", format!("Python {}", interpreter.facts.version));
        let there = store.path(&key).is_dir();
        if there && self.job.deep {
            // A full run reads every file again; what differs is a finding, and nothing is run.
            if let State::Broken(deviations) = store.state_deep(&key) {
                survey.facts.environment = Some(super::env::broken_facts(&key, &deviations));
                self.recorder.stage_finished(stage, "differs from its seal");
                return Ok(None);
            }
        }
        let (progress, mut progressed) = tokio::sync::mpsc::unbounded_channel::<Progress>();
        let cell = self.cell(survey.facts.machine.kind(), false);
        let mut jobs = CellJobs::new(&cell, self.run_dir.join("jobs"));
        let asked = jobs.asked();
        let ready = {
            let mut report = move |p: Progress| {
                // The face may be gone while the build is being ended.
                let _ = progress.send(p);
            };
            let mut ensure = std::pin::pin!(store.ensure(&spec, &mut jobs, &mut report));
            let recorder = &mut *self.recorder;
            let shown = async {
                loop {
                    tokio::select! {
                        biased;
                        Some(p) = progressed.recv() => recorder.glimpse(&super::env::glimpse(&p)),
                        ready = &mut ensure => break ready,
                    }
                }
            };
            during(self.signals, asked, shown).await?
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(BuildError::Broken { key, deviations }) => {
                survey.facts.environment = Some(super::env::broken_facts(&key, &deviations));
                self.recorder.stage_finished(stage, "differs from its seal");
                return Ok(None);
            }
            Err(error) => return Err(build_stop(&error)),
        };
        let packages = super::env::packages(&ready);
        // An environment of an image runs nowhere else.
        if self.container.is_none() {
            store.current_link(&self.repo.root, &key).map_err(|error| Stop::broken("environment", error))?;
        }
        let what = if there { "is there" } else { "built" };
        self.recorder.stage_finished(stage, format!("{} packages, {what}", packages.len()));
        self.recorder.record(EventKind::EnvironmentReady {
            environment: EnvironmentInfo {
                key: key.as_str().to_owned(),
                path: ready.root.strip_prefix(&self.repo.root).unwrap_or(&ready.root).display().to_string(),
                python: interpreter.facts.version.clone(),
                built: !there,
                installer: format!("ft {}", env!("CARGO_PKG_VERSION")),
                packages: packages.clone(),
                container: self.container.as_ref().map(container_info),
                in_image: self.in_image.clone().map(Box::new),
            },
        });
        survey.facts.environment =
            Some(EnvironmentFacts { key: key.as_str().to_owned(), packages, deviations: Vec::new() });
        Ok(Some(ready))
    }

    /// The tree, unpacked once, and the project layer.
    async fn world(
        &mut self,
        lock: &Lock,
        survey: &Survey,
        environment: Option<&Ready>,
        status: &crate::facts::git::TreeState,
        plan: &Plan,
    ) -> Result<World, Stop> {
        let stage = self.recorder.stage_started("snapshot", self.job.request.source.to_string());
        let (tar, tree) = (self.run_dir.join("snapshot.tar"), self.run_dir.join("tree"));
        let exclude = survey::globs(&lock.exclude).map_err(|error| Stop::broken("snapshot", error))?;
        let (repo, source, to, into) = (self.repo.clone(), self.job.request.source.clone(), tar.clone(), tree.clone());
        let taken = self
            .blocking("snapshot", move || {
                let snapshot = snapshot::take(&repo, &source, &exclude, &to)?;
                let unpacked = snapshot::unpack(&snapshot, &into, crate::cell::step_owner());
                unpacked.map(|_| snapshot).map_err(snapshot::SnapshotError::from)
            })
            .await?;
        self.recorder.stage_finished(stage, format!("{} files", taken.entries));
        taken.notes.iter().for_each(|note| crate::ui::note(note));
        self.recorder.record(EventKind::SnapshotTaken {
            snapshot: SnapshotInfo {
                sha256: taken.sha256.clone(),
                source: self.job.request.source.to_string(),
                commit: taken.head.clone(),
                entries: taken.entries,
                bytes: taken.bytes,
                dirty: status.dirty,
                untracked: survey.facts.untracked.clone(),
            },
        });
        let lib = lib_dir::ready(&self.repo.state_dir().join("lib")).map_err(|error| Stop::broken("lib", error))?;
        let mut world = World {
            run_dir: self.run_dir.to_owned(),
            trees: vec![tree],
            env: environment.map(|ready| ready.root.clone()),
            project: None,
            lib,
            interpreter: survey.interpreter.as_ref().filter(|i| i.image.is_none()).map(|i| i.facts.prefix.clone()),
            terminal: self.job.terminal.is_some(),
        };
        let editable = lock.environment.as_ref().is_some_and(|e| e.project == Project::Editable);
        if editable
            && plan.steps.iter().any(|step| step.project)
            && let Some(interpreter) = &survey.interpreter
        {
            let kind = plan.cell;
            self.project(&mut world, interpreter, survey.facts.commit_time, kind).await?;
        }
        Ok(world)
    }

    /// The project under test as a layer of its own, made in a cell without network.
    async fn project(
        &mut self,
        world: &mut World,
        interpreter: &Interpreter,
        commit_time: Option<u64>,
        kind: CellKind,
    ) -> Result<(), Stop> {
        let Some(env) = world.env.clone() else { return Ok(()) };
        let stage = self.recorder.stage_started("project", "as an editable install makes it");
        let kept = self.kept_layer(world, commit_time);
        if let Some((place, key)) = &kept
            && let Some(layer) = kept_layer::find(place, key, &world.trees[0])
        {
            self.recorder.stage_finished(stage, format!("{}: nothing that it read changed", layer.backend));
            return put_on(world, &layer, place.join("layer"));
        }
        let (out, scratch) = (self.run_dir.join("project"), self.run_dir.join("cells/project"));
        for folder in [&out, &scratch] {
            fs_err::create_dir_all(folder).map_err(|error| Stop::broken("project", error))?;
        }
        let parts = project::World { interpreter, env: &env, lib: &world.lib, source_date_epoch: commit_time };
        let job = project::layer_job(&parts, world.trees.clone(), out.clone(), scratch);
        let cell = self.cell(kind, false);
        let mut jobs = CellJobs::new(&cell, self.run_dir.join("jobs"));
        let asked = jobs.asked();
        let end = during(self.signals, asked, jobs.run(job)).await?;
        let end = end.map_err(|lost| match lost.unenforceable {
            true => Stop::Found(Box::new(Finding::new(ParityCode::POLICY_UNENFORCEABLE, "project", lost.to_string()))),
            false => Stop::broken("project", lost),
        })?;
        fs_err::write(world.log("project"), &end.log).map_err(|error| Stop::broken("project", error))?;
        let found = |code: ParityCode, message: String, hint: &str| {
            Stop::Found(Box::new(Finding::new(code, "project", message).hint(hint)))
        };
        let layer = project::read_layer(&out).map_err(|error| {
            found(
                ParityCode::BUILD_FAILED,
                format!("the project could not be made importable: {error}\n{}", end.tail(20)),
                "read logs/project.log",
            )
        })?;
        if let Some(problem) = layer.problem {
            // A backend that is not in the closure is the lock's business, not the project's.
            let code = match problem.kind {
                project::LayerProblemKind::Missing => ParityCode::LOCK_STALE,
                _ => ParityCode::BUILD_FAILED,
            };
            return Err(found(
                code,
                format!("{}\n{}", problem.message, end.tail(20)).trim_end().to_owned(),
                problem.kind.hint(),
            ));
        }
        if let Some((place, key)) = &kept {
            // What is not kept is made again.
            let _ = kept_layer::keep(place, key, &world.trees[0], &layer, &out);
        }
        self.recorder.stage_finished(stage, format!("{} ({})", layer.backend, layer.hook));
        put_on(world, &layer, out.join("layer"))
    }

    /// Where the layer of the last self-check in this environment is kept, and what it must have been made from. A run
    /// has none.
    fn kept_layer(&self, world: &World, commit_time: Option<u64>) -> Option<(PathBuf, String)> {
        if !matches!(self.job.request.command, Command::Check { .. }) {
            return None;
        }
        let environment = world.env.as_ref()?.file_name()?;
        let place = self.repo.state_dir().join("cache/layer").join(environment);
        Some((place, kept_layer::key(&crate::lib_py::digest(), commit_time, &world.trees[0]).ok()?))
    }

    /// Blocking work beside the signals.
    async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
        &mut self,
        stage: &'static str,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Stop> {
        match during(self.signals, ToJob::default(), tokio::task::spawn_blocking(work)).await? {
            Ok(result) => result.map_err(|error| Stop::broken(stage, error)),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

fn container_info(container: &Container) -> ContainerInfo {
    let engine = container.engine().facts();
    ContainerInfo {
        image: container.image().id.clone(),
        engine: format!("{} {} at {}", engine.kind, engine.version, engine.endpoint),
        agent_sha256: container.agent_sha256(),
    }
}

/// Puts a layer into the world of the steps.
fn put_on(world: &mut World, layer: &project::Layer, made: PathBuf) -> Result<(), Stop> {
    if !layer.tree.is_empty() {
        // Steps may change what the build left in the tree, so it belongs to them.
        give_to_step(&made.join("tree")).map_err(|error| Stop::broken("project", error))?;
        world.trees.insert(0, made.join("tree"));
    }
    world.project = Some(made);
    Ok(())
}

/// What stops a build: some of it is the repository's business (101), the rest infrastructure.
fn build_stop(error: &BuildError) -> Stop {
    match error.code() {
        Some(code) => Stop::Found(Box::new(Finding::new(code, "environment", error.to_string()).hint(error.hint()))),
        None => Stop::Broken { stage: "environment", message: error.to_string(), hint: error.hint() },
    }
}

/// As root a step runs under another uid; what it may change must belong to that.
fn give_to_step(tree: &Path) -> std::io::Result<()> {
    let Some((uid, gid)) = cell::step_owner() else { return Ok(()) };
    let mut left = vec![tree.to_owned()];
    while let Some(path) = left.pop() {
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid))?;
        if path.is_dir() && !path.is_symlink() {
            for entry in fs_err::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
    }
    Ok(())
}
