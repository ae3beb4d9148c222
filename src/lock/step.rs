//! The steps of a lock: what each field of `tools.NAME` means, what is known about the usual tools, and whether the
//! order that `needs` asks for exists. Runs nothing and knows no environment.

use super::Tool;
use super::error::LockError;
use super::inside::inside;
use super::judge::{network, variables};
use super::parse::Notes;
use super::place::Place;
use super::raw::RawTool;
use super::unknown::nearest;
use crate::step::Gate;
use camino::Utf8PathBuf;
use indexmap::IndexMap;
use pep440_rs::Version;
use pep508_rs::PackageName;
use std::str::FromStr;

/// Seconds until SIGTERM where a step does not say.
pub const TIMEOUT_SEC: u64 = 600;
/// The longest timeout that is accepted: a week.
pub const LONGEST_TIMEOUT_SEC: u64 = 7 * 24 * 60 * 60;
/// Seconds between SIGTERM and SIGKILL where a step does not say.
pub const GRACE_SEC: u64 = 5;
/// The longest grace that is accepted.
pub const LONGEST_GRACE_SEC: u64 = 3600;

/// Names that findings and reports already use for something else than a step of the lock.
const RESERVED: [&str; 6] = ["artifacts", "build", "collect", "coverage", "import", "preflight"];

/// What a tool checks, where its name says it.
#[must_use]
pub fn known_gate(tool: &str) -> Option<Gate> {
    Some(match tool {
        "ruff" | "black" | "flake8" | "pylint" | "isort" | "pyflakes" | "pycodestyle" | "pydocstyle" | "codespell"
        | "yamllint" | "vulture" | "interrogate" | "pyupgrade" | "autoflake" | "yapf" | "autopep8" | "doc8"
        | "refurb" | "djlint" | "sqlfluff" | "validate-pyproject" | "check-manifest" | "typos" => Gate::Lint,
        "mypy" | "pyright" | "basedpyright" | "pyre-check" | "pyre" | "pytype" | "ty" | "pyrefly" => Gate::Types,
        "pytest" | "unittest" | "nose2" | "stestr" | "green" | "behave" | "xdoctest" => Gate::Tests,
        "bandit" | "pip-audit" | "safety" | "semgrep" | "detect-secrets" => Gate::Security,
        _ => return None,
    })
}

/// Checks every step, and that they can run in some order.
pub(super) fn tools(
    notes: &mut Notes<'_>,
    raw: IndexMap<String, RawTool>,
    version: u64,
    build: bool,
) -> Result<IndexMap<String, Tool>, LockError> {
    let place = Place::from(["tools"]);
    let mut tools = IndexMap::new();
    for (name, raw) in raw {
        let place = place.key(&name);
        check_name(notes, &place, &name)?;
        let tool = tool(notes, &place, &name, raw, version)?;
        tools.insert(name, tool);
    }
    check_needs(notes, &tools, build)?;
    Ok(tools)
}

/// A step's name is also the name of its log, and a word on the command line.
fn check_name(notes: &Notes<'_>, place: &Place, name: &str) -> Result<(), LockError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > 64
        || !name.chars().all(plain)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        let what = "a step's name has up to 64 letters, digits, `.`, `_` and `-`, a letter or digit first";
        return Err(notes.refuse_key(place, what));
    }
    if RESERVED.contains(&name) {
        let error = notes.refuse_key(place, format!("`{name}` is the name of a gate of `ft` itself"));
        let hint =
            format!("give the step another name, with `package` or `command` saying what it runs: \"run-{name}\"");
        return Err(LockError { hint, ..error });
    }
    Ok(())
}

fn tool(notes: &mut Notes<'_>, place: &Place, name: &str, raw: RawTool, version: u64) -> Result<Tool, LockError> {
    if raw.version.as_ref().is_some_and(|version| Version::from_str(version).is_err()) {
        return Err(notes.expected(&place.key("version"), "a version such as \"8.4.2\""));
    }
    let is_package = raw.package.is_some() || raw.version.is_some() || raw.command.is_none();
    let package = raw.package.unwrap_or_else(|| name.to_owned());
    if is_package && PackageName::from_str(&package).is_err() {
        return Err(notes.expected(&place.key("package"), "the name of a distribution"));
    }
    let command = raw.command.unwrap_or_else(|| package.clone());
    if command.is_empty() || command.contains(['/', '\0']) {
        return Err(notes.expected(&place.key("command"), "the name of an executable, without `/`"));
    }
    let gate = match raw.gate {
        Some(Gate::Import | Gate::Coverage) => {
            let what = "`lint`, `types`, `tests`, `security`, `build` or `prepare`";
            return Err(notes.expected(&place.key("gate"), what));
        }
        Some(gate) => gate,
        None => match known_gate(&package).or_else(|| known_gate(&command)).or_else(|| known_gate(name)) {
            Some(gate) => gate,
            None if version >= 2 => {
                let error = notes.refuse(place, "missing field `gate`: what this step checks");
                let hint = "add `\"gate\"`: lint, types, tests, security, build or prepare".to_owned();
                return Err(LockError { hint, ..error });
            }
            None => {
                notes.warn(place, "what this step checks is not known; it counts as lint");
                Gate::Lint
            }
        },
    };
    let args = raw.args.unwrap_or_default();
    if let Some(at) = args.iter().position(|arg| arg.contains('\0')) {
        return Err(notes.refuse(&place.key("args").index(at), "an argument has no NUL"));
    }
    let own_network =
        raw.network.map(|own| network(notes, &place.key("network"), own.forbid_network, own.allowed_hosts));
    Ok(Tool {
        version: raw.version,
        package: is_package.then_some(package),
        command,
        args,
        timeout_sec: seconds(notes, &place.key("timeout_sec"), raw.timeout_sec, TIMEOUT_SEC, 1..=LONGEST_TIMEOUT_SEC)?,
        grace_sec: seconds(notes, &place.key("grace_sec"), raw.grace_sec, GRACE_SEC, 0..=LONGEST_GRACE_SEC)?,
        gate,
        cwd: match raw.cwd {
            Some(cwd) => inside(&cwd).map_err(|error| notes.expected(&place.key("cwd"), error))?,
            None => Utf8PathBuf::new(),
        },
        needs: raw.needs.unwrap_or_default(),
        network: own_network.transpose()?,
        env: variables(notes, &place.key("env"), raw.env)?,
    })
}

fn seconds(
    notes: &Notes<'_>,
    place: &Place,
    wanted: Option<u64>,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, LockError> {
    match wanted {
        None => Ok(default),
        Some(seconds) if range.contains(&seconds) => Ok(seconds),
        Some(_) => {
            let (least, most) = range.into_inner();
            Err(notes.expected(place, format!("a number of seconds from {least} to {most}")))
        }
    }
}

fn check_needs(notes: &Notes<'_>, tools: &IndexMap<String, Tool>, build: bool) -> Result<(), LockError> {
    for (name, tool) in tools {
        for (at, need) in tool.needs.iter().enumerate() {
            let place = Place::from(["tools", name, "needs"]).index(at);
            if tools.contains_key(need) || (build && need == "build") {
                continue;
            }
            let meant = nearest(need, tools.keys().map(String::as_str));
            let meant = meant.map(|meant| format!(", did you mean {meant}")).unwrap_or_default();
            return Err(notes.refuse(&place, format!("no step is called {need:?}{meant}")));
        }
    }
    if let Some(circle) = circle(tools) {
        let place = Place::from(["tools", &circle[0], "needs"]);
        return Err(notes.refuse(&place, format!("the steps wait for each other: {}", circle.join(" -> "))));
    }
    Ok(())
}

/// The first circle of `needs`, its first step again at its end. Steps are taken out as soon as all that they need is.
fn circle(tools: &IndexMap<String, Tool>) -> Option<Vec<String>> {
    let mut left: Vec<&String> = tools.keys().collect();
    loop {
        let before = left.len();
        let waiting = left.clone();
        left.retain(|name| tools[name.as_str()].needs.iter().any(|need| waiting.contains(&need)));
        if left.len() == before {
            break;
        }
    }
    // Each step that is left needs another one that is left: following those ends in a circle.
    let mut way: Vec<&String> = vec![left.first()?];
    loop {
        let last = way[way.len() - 1];
        let next = left.iter().find(|name| tools[last.as_str()].needs.contains(name))?;
        if let Some(start) = way.iter().position(|name| name == next) {
            way.push(next);
            return Some(way[start..].iter().map(|name| (*name).clone()).collect());
        }
        way.push(next);
    }
}
