//! `ft doctor`: tries every wall, limit and engine as this user, and says what holds and what to change.

use super::context::Context;
use super::{run, survey};
use crate::cell;
use crate::cli::Doctor;
use crate::code::{ExitCode, ParityCode};
use crate::doctor::{Examined, LockExamined, Raised, System, diagnose};
use crate::engine::Where;
use crate::environment::interpreter::{self, Memory, SearchPath};
use crate::facts::{engines, git, machine};
use crate::finding::Finding;
use crate::lock::{CellKind, LOCK_PATH, Lock};
use crate::plan;
use crate::repo::{Repo, Source};
use crate::report;
use crate::step::Network;
use crate::ui;

pub(super) fn doctor(context: &Context, args: &Doctor) -> ExitCode {
    let diagnosis = diagnose(examine(context));
    if args.json {
        let text = serde_json::to_string_pretty(&diagnosis).expect("plain data with string keys");
        ui::out(&format!("{text}\n"));
    } else {
        ui::page(&context.style, &report::doctor::page(&diagnosis));
    }
    diagnosis.exit()
}

/// Trials wait more than they work: they run beside each other.
fn examine(context: &Context) -> Examined {
    let vars = &context.vars;
    let places = Where::from_variables(|name| vars.text(name));
    std::thread::scope(|scope| {
        let trials = scope.spawn(cell::trials);
        let engines = scope.spawn(|| engines::find(&places));
        let pythons = scope.spawn(|| pythons(context));
        let here = scope.spawn(cell::here::probe);
        let probe = cell::probe();
        let git_version = crate::git::version(&context.cwd);
        let lock = repository(context).and_then(|repo| examine_lock(context, &repo));
        let machine::Machine { os, kernel, architecture, uid, container, cgroups } = machine::read();
        Examined {
            ft: env!("CARGO_PKG_VERSION").to_owned(),
            system: System { os, kernel, architecture, uid, container, cgroups },
            trials: joined(trials).map_err(|error| error.to_string()),
            namespaces: raised(probe),
            here: raised(joined(here)),
            engines: joined(engines),
            pythons: joined(pythons),
            git: git_version.map_err(|error| error.to_string()),
            lock,
        }
    })
}

fn raised(probe: cell::Probe) -> Raised {
    match probe.unavailable {
        None => Ok(probe.observed),
        Some(why) => Err((why.to_string(), why.fix().to_owned())),
    }
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Works outside of a repository as well: then there is no lock to look at.
fn repository(context: &Context) -> Option<Repo> {
    git::discover(&context.cwd).ok().filter(|repo| repo.root.join(LOCK_PATH).symlink_metadata().is_ok())
}

fn pythons(context: &Context) -> Vec<(String, String)> {
    let search = SearchPath { entries: context.vars.path.clone(), home: context.vars.home.clone(), extra: Vec::new() };
    interpreter::all(&search, &mut Memory::default())
        .into_iter()
        .map(|(path, version)| (path.display().to_string(), version))
        .collect()
}

/// What keeps a run of this lock from starting here: the plan says it, as it would to the run.
fn examine_lock(context: &Context, repo: &Repo) -> Option<LockExamined> {
    let path = repo.root.join(LOCK_PATH).display().to_string();
    let source = Source::Worktree;
    let lock = match survey::quietly_read_lock(repo, &source) {
        Ok((lock, _)) => lock,
        Err(finding) => return Some(LockExamined { path, findings: vec![finding], ..LockExamined::default() }),
    };
    let asked =
        survey::Asked { source: &source, python: &lock.python, untracked: Vec::new(), cells: true, contained: None };
    let survey = survey::survey(context, repo, &lock, asked);
    let request = run::request(context, &crate::cli::Run::default(), false);
    let (_, findings) = plan::plan(&lock, &survey.facts, &request);
    Some(LockExamined {
        path,
        minimum: Some(if lock.container.force { CellKind::Container } else { lock.cell_minimum }),
        limits: limits(&lock),
        limits_required: lock.limits.required,
        network: network(&lock, request.no_network),
        findings: findings.into_iter().filter(of_the_machine).collect(),
    })
}

/// Drift of the repository is for `ft check`.
fn of_the_machine(finding: &Finding) -> bool {
    let codes = [
        ParityCode::POLICY_UNENFORCEABLE,
        ParityCode::NO_ENGINE,
        ParityCode::IMAGE_IDENTITY,
        ParityCode::PYTHON_VERSION,
        ParityCode::RUNNER_VERSION,
    ];
    codes.contains(&finding.code)
}

fn limits(lock: &Lock) -> Vec<(String, u64, String)> {
    let limits = &lock.limits;
    [
        ("memory", limits.mem_mb, "MiB"),
        ("pids", limits.pids, ""),
        ("disk", limits.disk_mb, "MiB"),
        ("output", limits.output_mb, "MiB"),
        ("cpus", limits.cpu_count.map(u64::from), ""),
    ]
    .into_iter()
    .filter_map(|(name, value, unit)| Some((name.to_owned(), value?, unit.to_owned())))
    .collect()
}

fn network(lock: &Lock, forbidden: bool) -> String {
    match &lock.network {
        _ if forbidden => "loopback only (FT_NO_NETWORK is set)".to_owned(),
        Network::Loopback => "loopback only".to_owned(),
        Network::Allow(hosts) => format!("loopback and {}", hosts.join(", ")),
        Network::Open => "open".to_owned(),
    }
}
