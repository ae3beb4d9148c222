//! From the lock's tools to steps: command lines, environment, limits, readers.

use super::inputs::{Command, Facts, Request};
use crate::code::ParityCode;
use crate::lock::{Lock, Tool, normalise};
use crate::step::{Gate, Limits, Network, Reader, Step};
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds that the steps we add ourselves may take.
const BUILD_MS: u64 = 600_000;
const IMPORT_MS: u64 = 120_000;
const COVERAGE_MS: u64 = 120_000;
const GRACE_MS: u64 = 5_000;

/// Output kept of one step where the lock sets no limit, in bytes.
const OUTPUT_BYTES: u64 = 64 << 20;
/// Processes and threads of a cell where the lock sets no limit: stops a fork bomb before the machine does.
const PIDS: u64 = 4096;

/// The steps of this request, in plan order: build, import, the lock's tools, coverage.
pub(super) fn steps(lock: &Lock, facts: &Facts, request: &Request) -> Vec<Step> {
    let wanted = |name: &str| request.only.is_empty() || request.only.iter().any(|only| only == name);
    match &request.command {
        // Without a closure there is no environment to collect in; the finding for that says so.
        Command::Check { .. } if lock.collection.allow_uncollected || lock.environment.is_none() => Vec::new(),
        Command::Check { .. } => {
            lock.tools.iter().filter_map(|(name, tool)| collect(lock, facts, request, name, tool)).collect()
        }
        Command::Exec { argv, cwd } => {
            vec![Step { cwd: cwd.clone(), timeout_ms: 0, ..own(lock, request, "exec", Gate::Prepare, 0, argv.clone()) }]
        }
        Command::Run => {
            let mut steps = Vec::new();
            if lock.build && wanted("build") {
                steps.push(build(lock, facts, request));
            }
            if lock.build && !lock.import_names.is_empty() && wanted("import") {
                steps.push(import(lock, request));
            }
            steps.extend(
                lock.tools.iter().filter(|(name, _)| wanted(name)).map(|(name, tool)| check(lock, request, name, tool)),
            );
            steps.extend(coverage(lock, facts, request, &steps));
            steps
        }
    }
}

/// What every step sees before the lock's own variables. Nothing of the caller's environment is in it.
fn environment(lock: &Lock, own: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let fixed = [
        ("PATH", "/ft/project/bin:/ft/env/bin:/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/ft/home"),
        ("USER", "ft"),
        ("LOGNAME", "ft"),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
        ("LC_ALL", "C.UTF-8"),
        ("TZ", "UTC"),
        ("TERM", "dumb"),
        ("COLUMNS", "120"),
        ("TMPDIR", "/tmp"),
        ("VIRTUAL_ENV", "/ft/env"),
        ("PYTHONNOUSERSITE", "1"),
        // Sets in parametrize and the like give the same order here and in CI; `ft lock` looks for the ones that don't.
        ("PYTHONHASHSEED", "0"),
        ("FT_OUT", "/ft/out"),
        // Where our pytest plugin tells the witness which test runs.
        ("FT_WITNESS", "/ft/witness"),
    ];
    let mut env: BTreeMap<String, String> = fixed.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    env.extend(lock.env.clone());
    env.extend(own.cloned().unwrap_or_default());
    env
}

fn limits(lock: &Lock) -> Limits {
    const MIB: u64 = 1 << 20;
    Limits {
        memory_bytes: lock.limits.mem_mb.map(|mb| mb.saturating_mul(MIB)),
        pids: Some(lock.limits.pids.unwrap_or(PIDS)),
        disk_bytes: lock.limits.disk_mb.map(|mb| mb.saturating_mul(MIB)),
        output_bytes: Some(lock.limits.output_mb.map_or(OUTPUT_BYTES, |mb| mb.saturating_mul(MIB))),
        cpus: lock.limits.cpu_count,
    }
}

fn policy(lock: &Lock, request: &Request, own: Option<&Network>) -> Network {
    if request.no_network { Network::Loopback } else { own.unwrap_or(&lock.network).clone() }
}

/// A step of our own with the defaults of its gate.
fn own(lock: &Lock, request: &Request, id: &str, gate: Gate, timeout_ms: u64, argv: Vec<String>) -> Step {
    Step {
        id: id.to_owned(),
        gate,
        argv,
        env: environment(lock, None),
        cwd: "".into(),
        timeout_ms,
        grace_ms: GRACE_MS,
        network: policy(lock, request, None),
        deny_quietly: lock.deny_quietly.clone(),
        limits: limits(lock),
        needs: Vec::new(),
        project: true,
        tree: true,
        collect: Vec::new(),
        on_fail: gate.on_fail(),
        on_timeout: ParityCode::STEP_TIMEOUT,
        reader: Reader::Plain,
    }
}

fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|word| (*word).to_owned()).collect()
}

fn build(lock: &Lock, facts: &Facts, request: &Request) -> Step {
    let argv = words(&["python", "-I", "/ft/lib/ft_project.py", "wheel", "/ft/work", "/ft/out/dist"]);
    let mut step = Step { project: false, ..own(lock, request, "build", Gate::Build, BUILD_MS, argv) };
    // A wheel made twice of one commit is the same file (reproducible-builds.org, SOURCE_DATE_EPOCH).
    step.env.extend(facts.commit_time.map(|time| ("SOURCE_DATE_EPOCH".to_owned(), time.to_string())));
    step
}

/// Starts in an empty tree, without the project layer: what it imports can only come from the wheel.
fn import(lock: &Lock, request: &Request) -> Step {
    let mut argv = words(&["python", "-I", "/ft/lib/ft_import.py", "/ft/dist"]);
    argv.extend(lock.import_names.iter().cloned());
    Step {
        project: false,
        tree: false,
        needs: vec!["build".to_owned()],
        ..own(lock, request, "import", Gate::Import, IMPORT_MS, argv)
    }
}

/// Which tool a command line starts, also as `python -m NAME` and `coverage run -m NAME`, and how many of its arguments
/// belong to whoever starts it.
fn program(tool: &Tool) -> (&str, usize) {
    let starts_modules = matches!(tool.command.as_str(), "python" | "python3" | "coverage");
    let module = tool.args.iter().position(|arg| arg == "-m").filter(|_| starts_modules);
    match module.and_then(|at| Some((tool.args.get(at + 1)?, at + 2))) {
        Some((module, at)) => (module, at),
        None => (&tool.command, 0),
    }
}

/// The command line with `extra` right after the program's name, so that the lock's own arguments come last and win.
fn command_line(tool: &Tool, extra: &[&str]) -> Vec<String> {
    let (_, at) = program(tool);
    let mut argv = vec![tool.command.clone()];
    argv.extend(tool.args[..at].iter().cloned());
    argv.extend(words(extra));
    argv.extend(tool.args[at..].iter().cloned());
    argv
}

/// The environment of a step of the lock. Where several steps run tests, each keeps the coverage that it measured in a
/// file of its own: in the view of the coverage step the later one would hide the others.
fn own_environment(lock: &Lock, name: &str, tool: &Tool) -> BTreeMap<String, String> {
    let mut env = environment(lock, Some(&tool.env));
    let several = lock.tools.values().filter(|tool| tool.gate == Gate::Tests).count() > 1;
    if several && tool.gate == Gate::Tests {
        env.entry("COVERAGE_FILE".to_owned()).or_insert_with(|| format!(".coverage.{name}"));
    }
    env
}

fn is_pytest(tool: &Tool) -> bool {
    matches!(program(tool).0, "pytest" | "py.test")
}

fn check(lock: &Lock, request: &Request, name: &str, tool: &Tool) -> Step {
    let (argv, reader) = match program(tool).0 {
        _ if is_pytest(tool) => (command_line(tool, &["-p", "ft_pytest"]), Reader::Pytest),
        "bandit" => bandit(tool),
        _ => (command_line(tool, &[]), Reader::Plain),
    };
    // Where bandit writes its own JSON, that is brought back to be read.
    let (reader, report) = match reader {
        Reader::Bandit(path) if !path.starts_with('/') => {
            let path = tool.cwd.join(path).into_string();
            (Reader::Bandit(path.clone()), Some(path))
        }
        reader => (reader, None),
    };
    let coverage_data = if tool.gate == Gate::Tests { words(&[".coverage", ".coverage.*"]) } else { Vec::new() };
    Step {
        id: name.to_owned(),
        gate: tool.gate,
        argv,
        env: own_environment(lock, name, tool),
        cwd: tool.cwd.clone(),
        timeout_ms: tool.timeout_sec.saturating_mul(1000),
        grace_ms: tool.grace_sec.saturating_mul(1000),
        network: policy(lock, request, tool.network.as_ref()),
        deny_quietly: lock.deny_quietly.clone(),
        limits: limits(lock),
        needs: tool.needs.clone(),
        project: true,
        tree: true,
        collect: lock
            .collect
            .iter()
            .cloned()
            .chain(coverage_data)
            .chain(report)
            // `artifacts/` comes back by itself; what is required elsewhere is asked for.
            .chain(
                lock.required_artifacts.iter().filter(|path| !path.starts_with("artifacts")).map(ToString::to_string),
            )
            .collect(),
        on_fail: tool.gate.on_fail(),
        on_timeout: ParityCode::STEP_TIMEOUT,
        reader,
    }
}

/// Bandit's verdict is read from its JSON, whatever its arguments print: where they leave the format to us it is
/// written beside; where they write JSON themselves that is read; any other format runs through a wrapper that asks
/// bandit a second time.
fn bandit(tool: &Tool) -> (Vec<String>, Reader) {
    const OURS: &str = "/ft/out/bandit.json";
    let value = |short: &str, long: &str| {
        tool.args.iter().enumerate().find_map(|(i, arg)| {
            let after = arg.strip_prefix(&format!("{long}=")).map(str::to_owned);
            after.or_else(|| (arg == short || arg == long).then(|| tool.args.get(i + 1).cloned()).flatten())
        })
    };
    match (value("-f", "--format").as_deref(), value("-o", "--output")) {
        (None, None) => {
            let mut argv = command_line(tool, &[]);
            argv.extend(words(&["-f", "json", "-o", OURS]));
            (argv, Reader::Bandit(OURS.to_owned()))
        }
        (Some("json"), Some(path)) => (command_line(tool, &[]), Reader::Bandit(path)),
        _ => {
            let mut argv = words(&["python", "/ft/lib/ft_bandit.py"]);
            argv.extend(tool.args.iter().cloned());
            (argv, Reader::Bandit(OURS.to_owned()))
        }
    }
}

/// The collection of a test step, for the self-check: the same arguments, and nothing that measures or distributes.
fn collect(lock: &Lock, facts: &Facts, request: &Request, name: &str, tool: &Tool) -> Option<Step> {
    if tool.gate != Gate::Tests || !is_pytest(tool) {
        return None;
    }
    let mut step = check(lock, request, name, tool);
    step.argv.push("--collect-only".to_owned());
    let has = |package: &str| super::packages(facts).is_some_and(|have| have.contains_key(&normalise(package)));
    if has("pytest-cov") {
        step.argv.push("--no-cov".to_owned());
    }
    if has("pytest-xdist") {
        step.argv.push("-n0".to_owned());
    }
    // Version 1 locks often set it; the cell's bytecode would be lost for nothing (DESIGN section 7).
    step.env.remove("PYTHONDONTWRITEBYTECODE");
    if let Some(seed) = &request.hash_seed {
        step.env.insert("PYTHONHASHSEED".to_owned(), seed.clone());
    }
    step.reader = Reader::Collection;
    step.collect = Vec::new();
    step.needs = Vec::new();
    Some(step)
}

/// Reads what the test steps measured, where the lock asks for coverage or a test step measures it anyway.
fn coverage(lock: &Lock, facts: &Facts, request: &Request, steps: &[Step]) -> Option<Step> {
    let measured = |step: &&Step| step.gate == Gate::Tests && step.argv.iter().any(|arg| arg.starts_with("--cov"));
    let asked = lock.thresholds.coverage_min.is_some() && request.only.is_empty();
    let has_coverage = super::packages(facts).is_some_and(|have| have.contains_key("coverage"));
    if !asked && (!has_coverage || !steps.iter().any(|step| measured(&step))) {
        return None;
    }
    let mut argv = words(&["python", "/ft/lib/ft_coverage.py", &facts.repository]);
    // Data lies where the tests ran.
    let tests = steps.iter().filter(|step| step.gate == Gate::Tests && !step.cwd.as_str().is_empty());
    argv.extend(tests.map(|step| step.cwd.to_string()).collect::<BTreeSet<_>>());
    Some(Step {
        needs: steps.iter().filter(|step| step.gate == Gate::Tests).map(|step| step.id.clone()).collect(),
        reader: Reader::Coverage,
        ..own(lock, request, "coverage", Gate::Coverage, COVERAGE_MS, argv)
    })
}
