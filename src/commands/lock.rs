//! `ft lock`: resolves, hashes and records, and touches only what changed.

use super::context::Context;
use super::failure::{Failure, done};
use super::init::project_files;
use super::pipeline::{self, Job};
use super::publish::Publish;
use super::runs;
use super::survey::{self, Asked};
use crate::cli::Lock as Args;
use crate::code::{ExitCode, ParityCode};
use crate::finding::Finding;
use crate::leftovers;
use crate::lock::closure::Closure;
use crate::lock::collection::{Manifest, unstable};
use crate::lock::init::{self, ProjectFiles};
use crate::lock::relock::{self, input_text};
use crate::lock::{Environment, LOCK_PATH, Lock, fresh};
use crate::plan::inputs::{ClosureFacts, Command, Request};
use crate::plan::{self, minor};
use crate::repo::{Repo, Source};
use crate::report::allow_list::{AllowList, allow_list};
use crate::report::fields::Report;
use crate::resolve::{self, Resolver};
use crate::ui::{self, Face};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

pub(super) fn lock(context: &Context, args: &Args) -> ExitCode {
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    if let Some(name) = &args.image {
        super::image::pin(context, name, args.python.as_deref())
    } else if let Some(path) = &args.network_from_report {
        done(network(context, &repo, path.as_deref()))
    } else if args.check {
        check(context, &repo)
    } else if args.collection {
        done(collection(context, &repo))
    } else {
        whole(context, &repo, args.upgrade)
    }
}

/// Writes a file of the repository, whole or not at all.
pub(super) fn write(repo: &Repo, path: &Path, text: &str) -> std::io::Result<()> {
    let path = repo.root.join(path);
    let folder = path.parent().unwrap_or(&repo.root);
    fs_err::create_dir_all(folder)?;
    if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let mode =
        std::fs::metadata(&path).map_or(0o644, |meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()));
    let write = |aside: &Path| -> std::io::Result<()> {
        let mut file = leftovers::file_in(aside)?;
        file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode & 0o777))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    // Where git does not see it, if this process is killed; beside the file where that is another file system.
    let state = repo.state_dir();
    match write(if state.is_dir() { &state } else { folder }) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => write(folder),
        other => other,
    }
}

/// Resolves the closure, fills every hash, builds the environment, records the collection.
pub(super) fn whole(context: &Context, repo: &Repo, upgrade: bool) -> ExitCode {
    done(resolve_and_hash(context, repo, upgrade).and_then(|()| collection(context, repo)))
}

fn read(repo: &Repo) -> Result<(String, Lock), Failure> {
    let lock = survey::read_lock(repo, &Source::Worktree)?;
    let text = fs_err::read_to_string(repo.root.join(LOCK_PATH)).map_err(Failure::infrastructure)?;
    Ok((text, lock))
}

fn parse(text: &str) -> Result<Lock, Failure> {
    Lock::parse(text.as_bytes()).map(|(lock, _)| lock).map_err(|error| error.finding().into())
}

fn resolve_and_hash(context: &Context, repo: &Repo, upgrade: bool) -> Result<(), Failure> {
    let (mut text, mut lock) = read(repo)?;
    let files = project_files(repo).map_err(Failure::infrastructure)?;
    if lock.environment.is_none() {
        // A version 1 lock, or one by hand: what `ft init` would choose for this project.
        let made = init::init(&files, &[], env!("CARGO_PKG_VERSION"))
            .map_err(|error| Failure::lock(error, "mend that file, then run `ft lock` again"))?;
        let environment = parse(&made.lock)?.environment.ok_or_else(|| {
            Failure::lock("the project says nothing an environment could be made of", "add a pyproject.toml")
        })?;
        text = relock::upgrade(&text, &lock, &environment).map_err(|error| Failure::lock(error, ""))?;
        lock = parse(&text)?;
        ui::note(&format!("{LOCK_PATH} is now a version 2 lock"));
    }
    let environment = lock.environment.clone().expect("every lock has one by now");
    closure(context, repo, &lock, &environment, &files, upgrade)?;

    let mut pythons = BTreeMap::new();
    for python in &lock.matrix {
        if let Some(interpreter) = survey::installed(context, repo, python) {
            pythons.insert(python.clone(), interpreter.facts.version);
        }
    }
    if !pythons.contains_key(&lock.python) {
        return Err(Finding::new(
            ParityCode::PYTHON_VERSION,
            "preflight",
            format!("Python {} is not installed", lock.python),
        )
        .hint(format!("install it, for example with `uv python install {0}` or `pyenv install {0}`", lock.python))
        .into());
    }
    let mut contents = relock::Files::new();
    for path in relock::files_of(&lock) {
        if let Ok(bytes) = std::fs::read(repo.root.join(&path)) {
            contents.insert(path, bytes);
        }
    }
    let new = relock::relock(&text, &lock, &contents, &pythons)
        .map_err(|error| Failure::lock(error, "take it out of the lock, or bring the file back"))?;
    write(repo, Path::new(LOCK_PATH), &new).map_err(Failure::infrastructure)
}

/// Writes what the lock's own requirements file must hold: the whole closure, or what `uv.lock` lacks.
fn closure(
    context: &Context,
    repo: &Repo,
    lock: &Lock,
    environment: &Environment,
    files: &ProjectFiles,
    upgrade: bool,
) -> Result<(), Failure> {
    let mend = "mend that file, then run `ft lock` again";
    let from_uv = environment.from.file_name() == Some("uv.lock");
    let target = if from_uv { environment.extra.as_ref() } else { Some(&environment.from) };
    let Some(target) = target else { return Ok(()) };
    let wanted = init::requirements(lock, environment, files).map_err(|error| Failure::lock(error, mend))?;
    if let (true, Some(uv_lock), Some(pyproject)) = (from_uv, files.text("uv.lock"), files.text("pyproject.toml"))
        && let Some(what) = fresh::outdated(uv_lock, pyproject.as_bytes())
    {
        let message = format!("{} {}", ParityCode::LOCK_STALE, fresh::older(&what));
        return Err(Failure { exit: ParityCode::LOCK_STALE.exit(), message, hint: fresh::HINT.to_owned() });
    }
    let held = match files.text("uv.lock").filter(|_| from_uv) {
        Some(text) => Some(
            Closure::from_uv_lock(text, &environment.groups, &environment.extras, None)
                .map_err(|error| Failure::lock(format!("uv.lock: {error}"), error.hint()))?,
        ),
        None => None,
    };
    let old = std::fs::read_to_string(repo.root.join(target)).ok();
    let resolver = Resolver {
        uv: context.vars.find_uv(),
        pythons: lock
            .matrix
            .iter()
            .filter_map(|python| Some((minor(python).to_owned(), survey::installed(context, repo, python)?.executable)))
            .collect(),
        oldest: oldest(lock),
        offline: context.global.offline,
        upgrade,
    };
    ui::note(&format!("resolving {} requirements", wanted.len()));
    let constraints: Vec<String> = held.iter().flat_map(Closure::constraints).collect::<Vec<_>>();
    let resolved = resolve::resolve(&resolver, &input_text(&wanted), &constraints, old.as_deref())
        .map_err(|error| Failure { exit: error.exit(), hint: error.hint(), message: error.to_string() })?;
    let own = init::project_name(files);
    let text = crate::lock::requirements::normalised_without(&resolved, |name| {
        own.as_deref() == Some(name) || held.as_ref().is_some_and(|held| !held.versions_of(name).is_empty())
    })
    .map_err(|error| Failure::lock(&error, error.hint()))?;
    write(repo, target.as_std_path(), &text).map_err(Failure::infrastructure)
}

/// The oldest Python of the matrix, `3.9` before `3.10`.
fn oldest(lock: &Lock) -> String {
    let minors = lock.matrix.iter().map(|python| minor(python)).chain([minor(&lock.python)]);
    minors.min_by_key(|python| resolve::version_key(python)).unwrap_or_default().to_owned()
}

/// Collects the tests twice, under different hash seeds, and records what was found.
fn collection(context: &Context, repo: &Repo) -> Result<(), Failure> {
    let (text, lock) = read(repo)?;
    if lock.collection.allow_uncollected
        || (lock.collection.manifest.is_none() && lock.collection.expected_count.is_none())
    {
        return Ok(());
    }
    ui::note("collecting the tests, twice and with different hash seeds");
    let one = collect(context, repo, "0", None)?;
    let Some(one) = one else { return Ok(()) };
    let other = collect(context, repo, "4242", None)?.unwrap_or_default();
    let moving = unstable(&one, &other);
    if !moving.is_empty() {
        let shown = moving.iter().take(10).cloned().collect::<Vec<_>>().join("\n  ");
        return Err(Failure {
            exit: ParityCode::COLLECTION_DIFFERS.exit(),
            message: format!("{} tests have another name under another hash seed:\n  {shown}", moving.len()),
            hint: "sort what they are parametrized with (a set has no order), then run `ft lock` again".to_owned(),
        });
    }
    // Collecting takes a while: whoever edited the lock meanwhile keeps the edit.
    let (text, lock) = if text == read(repo)?.0 { (text, lock) } else { read(repo)? };
    let new = relock::relock_collection(&text, &lock, &one).map_err(|error| Failure::lock(error, ""))?;
    write(repo, Path::new(LOCK_PATH), &new).map_err(Failure::infrastructure)?;
    if let Some(path) = &lock.collection.manifest {
        let mut all = BTreeMap::from([(minor(&lock.python).to_owned(), one.clone())]);
        for python in lock.matrix.iter().filter(|python| **python != lock.python) {
            if survey::installed(context, repo, python).is_none() {
                ui::note(&format!("Python {python} is not installed: what it collects otherwise is not recorded"));
            } else if let Some(ids) = collect(context, repo, "0", Some(python))? {
                all.insert(minor(python).to_owned(), ids);
            }
        }
        let manifest = Manifest::of(&all, minor(&lock.python));
        write(repo, path.as_std_path(), &manifest.render()).map_err(Failure::infrastructure)?;
    }
    ui::note(&format!("{} tests recorded", one.len()));
    Ok(())
}

/// Closes what is open but for what a run talked to, and shows the entries.
fn network(context: &Context, repo: &Repo, path: Option<&Path>) -> Result<(), Failure> {
    let usage = |message: String, hint: &str| Failure { exit: ExitCode::USAGE, message, hint: hint.to_owned() };
    let (text, lock) = read(repo)?;
    let path = match path {
        Some(path) => runs::report(&repo.state_dir(), path).unwrap_or_else(|| context.cwd.join(path)),
        None => runs::last_parity(&repo.state_dir())
            .ok_or_else(|| usage("no run of all checks is kept here".to_owned(), "make one with `ft run`"))?,
    };
    let shown = path.strip_prefix(&repo.root).unwrap_or(&path).display();
    let hint = "give the path of a parity_report.json, or the id of a run (`ft report --list`)";
    let bytes = std::fs::read(&path).map_err(|error| usage(format!("{shown}: {error}"), hint))?;
    let report: Report =
        serde_json::from_slice(&bytes).map_err(|error| usage(format!("{shown}: not a report: {error}"), hint))?;
    let learned =
        allow_list(&text, &lock, &report).map_err(|error| usage(format!("{shown}: {error}"), error.hint()))?;
    write(repo, Path::new(LOCK_PATH), &learned.text).map_err(Failure::infrastructure)?;
    ui::out(&told(&learned));
    Ok(())
}

/// The entries that came and went, as a person reviews them.
fn told(learned: &AllowList) -> String {
    let mut told = String::new();
    for change in &learned.changes {
        let closed = if change.added.is_empty() { ": closed" } else { "" };
        told += &format!("{LOCK_PATH}: {}{closed}\n", change.place);
        told.extend(change.added.iter().map(|(entry, who)| format!("  + {entry}    {who}\n")));
        told.extend(change.removed.iter().map(|entry| format!("  - {entry}\n")));
    }
    if learned.changes.is_empty() {
        told += &format!("{LOCK_PATH} allows what this run talked to, and nothing in it is open\n");
    }
    for (step, name) in &learned.unresolved {
        told += &format!(
            "{step} looked up {name}, which did not resolve: if that is expected, add it to `network_policy.deny_quietly`\n"
        );
    }
    told
}

/// The node ids of all test steps; `None` where the lock has no step that collects.
fn collect(context: &Context, repo: &Repo, seed: &str, python: Option<&str>) -> Result<Option<Vec<String>>, Failure> {
    let request = Request {
        command: Command::Check { collect: true },
        hash_seed: Some(seed.to_owned()),
        ..super::run::request(context, &crate::cli::Run::default(), false)
    };
    let job = Job {
        kind: "collection",
        request,
        python: python.map(str::to_owned),
        deep: false,
        publish: Publish::Nothing,
        timeout_sec: None,
        terminal: None,
    };
    let style = ui::Style { quiet: true, ..context.style };
    let done = pipeline::execute(context, repo, job, Face::silent(style)).map_err(Failure::infrastructure)?;
    let outcome = &done.outcome;
    let unexpected = |finding: &Finding| {
        !finding.warning
            && !matches!(
                finding.code,
                ParityCode::COLLECTION_DIFFERS | ParityCode::CONFIG_DRIFT | ParityCode::SCOPE_NARROWED
            )
    };
    if let Some(finding) = outcome.findings().into_iter().find(unexpected) {
        return Err(finding.into());
    }
    if let Some((stage, message, hint)) = outcome.broken.first() {
        return Err(Failure {
            exit: ExitCode::INFRASTRUCTURE,
            message: format!("{stage}: {message}"),
            hint: hint.clone(),
        });
    }
    if let Some(signal) = &outcome.interrupted {
        return Err(Failure { exit: outcome.exit(), message: signal.clone(), hint: String::new() });
    }
    let reports: Vec<_> = outcome.steps.iter().filter_map(|step| step.tests.as_ref()).collect();
    Ok((!reports.is_empty()).then(|| reports.iter().flat_map(|report| report.collected.iter().cloned()).collect()))
}

/// Says whether the lock is stale. Needs no network, starts no cell, changes nothing.
fn check(context: &Context, repo: &Repo) -> ExitCode {
    let lock = match survey::read_lock(repo, &Source::Worktree) {
        Ok(lock) => lock,
        Err(finding) => {
            ui::finding(&context.style, &finding);
            return finding.code.exit();
        }
    };
    let asked =
        Asked { source: &Source::Worktree, python: &lock.python, untracked: Vec::new(), cells: false, contained: None };
    let survey = survey::survey(context, repo, &lock, asked);
    let request = super::run::request(context, &crate::cli::Run::default(), false);
    let (_, findings) = plan::plan(&lock, &survey.facts, &request);
    let stale = |finding: &&Finding| {
        matches!(
            finding.code,
            ParityCode::LOCK_STALE
                | ParityCode::CONFIG_DRIFT
                | ParityCode::PACKAGE_HASH
                | ParityCode::TOOL_VERSION
                | ParityCode::PLUGIN_MISSING
        )
    };
    let found: Vec<&Finding> = findings.iter().filter(stale).collect();
    found.iter().for_each(|finding| ui::finding(&context.style, finding));
    match found.first() {
        Some(finding) => finding.code.exit(),
        None => {
            let what = match &survey.facts.closure {
                ClosureFacts::Ready(packages) => format!("{} packages", packages.len()),
                _ => format!("Python {} is not here: which packages it takes was not looked at", lock.python),
            };
            ui::note(&format!("{LOCK_PATH} is up to date ({what})"));
            ExitCode::PASSED
        }
    }
}
