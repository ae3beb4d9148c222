//! The self-check: lock against facts. A function of values; what it finds is what a run would be judged by.

use super::inputs::{ClosureFacts, Command, Facts, Request};
use crate::code::ParityCode;
use crate::finding::Finding;
use crate::lock::image::ImageName;
use crate::lock::{CellKind, Lock, PythonMatch, normalise};
use crate::repo::Source;
use std::str::FromStr;

const GATE: &str = "preflight";

/// Everything that differs, in the order of the checks.
pub(super) fn findings(lock: &Lock, facts: &Facts, request: &Request) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(runner(lock, facts));
    findings.extend(changed_only(lock, request));
    findings.extend(container(lock, facts, request));
    findings.extend(cell(lock, facts, request));
    findings.extend(limits(lock, facts));
    findings.extend(python(lock, facts));
    findings.extend(closure(lock, facts, request));
    findings.extend(tools(lock, facts));
    findings.extend(plugins(lock, facts));
    findings.extend(seal(facts));
    findings.extend(config(lock, facts));
    findings.extend(scope(request));
    findings.extend(tree(facts, request));
    findings
}

fn runner(lock: &Lock, facts: &Facts) -> Option<Finding> {
    let range = lock.runner_version.as_deref()?;
    let fits = pep440_rs::VersionSpecifiers::from_str(range)
        .ok()
        .zip(pep440_rs::Version::from_str(&facts.ft_version).ok())
        .is_some_and(|(range, version)| range.contains(&version));
    (!fits).then(|| {
        Finding::new(
            ParityCode::RUNNER_VERSION,
            GATE,
            format!("this is ft {}, the lock was written for {range}", facts.ft_version),
        )
        .hint(format!("install one that fits, for example `cargo install firsttry --version '{range}'`"))
    })
}

fn changed_only(lock: &Lock, request: &Request) -> Option<Finding> {
    if !request.changed_only {
        return None;
    }
    let message =
        || lock.changed_only_message.clone().unwrap_or_else(|| "changed-only mode is forbidden by the lock".into());
    Some(if lock.changed_only_forbidden {
        Finding::new(ParityCode::CHANGED_ONLY, GATE, message())
    } else {
        Finding::new(
            ParityCode::SCOPE_NARROWED,
            GATE,
            "FT_CHANGED_ONLY is set, and a parity run always checks everything",
        )
        .hint("unset FT_CHANGED_ONLY")
    })
}

fn container(lock: &Lock, facts: &Facts, request: &Request) -> Option<Finding> {
    if !super::wants_container(lock, request) {
        return None;
    }
    let image = lock.image(&facts.python_asked).map(|image| image.image).unwrap_or_default();
    if !image.parse::<ImageName>().is_ok_and(|name| name.is_pinned()) {
        let what = if image.is_empty() {
            format!("the lock names no container image for Python {}", facts.python_asked)
        } else {
            format!("{image} is a tag, not a digest")
        };
        let hint = "`ft lock --image NAME` pins an image that an engine has";
        return Some(Finding::new(ParityCode::IMAGE_NOT_PINNED, GATE, what).hint(hint));
    }
    facts.machine.container.as_ref()?.refused.clone()
}

fn cell(lock: &Lock, facts: &Facts, request: &Request) -> Option<Finding> {
    let (reason, fix_namespaces) = facts.machine.no_namespaces.as_ref()?;
    if matches!(request.command, Command::Check { collect: false }) {
        return None;
    }
    let (why, fix) = match (lock.cell_minimum, &facts.machine.no_here) {
        (CellKind::Here, None) => return None,
        (CellKind::Here, Some((why, fix))) => (
            format!("and neither can a cell without them ({why})"),
            format!("for namespaces: {fix_namespaces}; for a cell without them: {fix}"),
        ),
        _ => ("and `cell.minimum` asks for them".to_owned(), fix_namespaces.clone()),
    };
    Some(
        Finding::new(
            ParityCode::POLICY_UNENFORCEABLE,
            GATE,
            format!("no namespaces can be had on this machine ({reason}), {why}"),
        )
        .hint(fix),
    )
}

fn limits(lock: &Lock, facts: &Facts) -> Option<Finding> {
    let container = facts.machine.container.as_ref();
    let why = |name: &str| match container {
        Some(container) => container.limits_missing.iter().find(|(missing, _)| missing == name).map(|(_, why)| &**why),
        None => facts.machine.limits_missing.iter().any(|missing| missing == name).then_some(""),
    };
    let asked = [
        ("memory", lock.limits.mem_mb.is_some()),
        ("pids", lock.limits.pids.is_some()),
        ("disk", lock.limits.disk_mb.is_some()),
    ];
    let missing: Vec<_> =
        asked.iter().filter(|(_, asked)| *asked).filter_map(|(name, _)| Some((*name, why(name)?))).collect();
    if !lock.limits.required || missing.is_empty() {
        return None;
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let mut whys: Vec<_> = missing.iter().map(|(_, why)| *why).filter(|why| !why.is_empty()).collect();
    whys.dedup();
    let (who, fix) = match container {
        Some(_) if names == ["disk"] => ("container mode", "leave out `resource_limits.disk_mb`"),
        Some(_) => {
            ("container mode", "use an engine with root, or one that control groups of version 2 are delegated to")
        }
        None => ("this machine", "delegate a cgroup to this user"),
    };
    let mut message =
        format!("`resource_limits.required` is set, and {who} can't hold a cell to its limit of {}", names.join(", "));
    if !whys.is_empty() {
        message = format!("{message} ({})", whys.join("; "));
    }
    let hint = format!("{fix}, or set `resource_limits.required` to false");
    Some(Finding::new(ParityCode::POLICY_UNENFORCEABLE, GATE, message).hint(hint))
}

fn python(lock: &Lock, facts: &Facts) -> Option<Finding> {
    let asked = &facts.python_asked;
    let container = facts.machine.container.as_ref();
    if container.is_some_and(|container| container.refused.is_some()) {
        // Nobody knows what is in the image.
        return None;
    }
    let Some(python) = &facts.python else {
        let found = match facts.pythons_found.as_slice() {
            [] => "no Python was found".to_owned(),
            found => format!("found: {}", found.join(", ")),
        };
        if container.is_some() {
            return Some(
                Finding::new(ParityCode::PYTHON_VERSION, GATE, format!("Python {asked} is not in the image; {found}"))
                    .hint("pin an image with it, or lock the Python of the image"),
            );
        }
        return Some(
            Finding::new(ParityCode::PYTHON_VERSION, GATE, format!("Python {asked} is not installed; {found}"))
                .hint(format!("install it, for example with `uv python install {0}` or `pyenv install {0}`", asked)),
        );
    };
    if let Some(exposed) = &python.exposes {
        return Some(
            Finding::new(
                ParityCode::POLICY_UNENFORCEABLE,
                GATE,
                format!("this Python is installed in {exposed}: a cell that sees it would see the files there"),
            )
            .hint("use a Python in a folder of its own, for example `uv python install` or pyenv"),
        );
    }
    let locked = lock.locked_pythons.get(asked).unwrap_or(asked);
    let exact = locked.matches('.').count() >= 2 && lock.python_match == PythonMatch::Exact;
    (exact && python.version != *locked).then(|| {
        Finding::new(
            ParityCode::PYTHON_VERSION,
            GATE,
            format!("Python {} is here, {locked} was locked", python.version),
        )
        .hint(format!("install {locked}, or set `python_match` to `minor` if a patch release may differ"))
    })
}

fn closure(lock: &Lock, facts: &Facts, request: &Request) -> Option<Finding> {
    match &facts.closure {
        ClosureFacts::Ready(_) => None,
        ClosureFacts::None if lock.environment.is_none() => {
            let finding = Finding::new(
                ParityCode::LOCK_STALE,
                GATE,
                "the lock has no hashed closure (`environment`), so no environment can be built from it, and no tests can be collected",
            )
            .hint("run `ft lock`: it resolves and hashes everything, and writes a version 2 lock");
            // A version 1 lock never had one: a self-check of it still means something.
            Some(if matches!(request.command, Command::Check { .. }) { finding.as_warning() } else { finding })
        }
        ClosureFacts::None => None,
        ClosureFacts::Stale { what, hint } => {
            let finding = Finding::new(ParityCode::LOCK_STALE, GATE, what.clone());
            Some(match hint {
                Some(hint) => finding.hint(hint.clone()),
                None => finding,
            })
        }
        ClosureFacts::Unusable { message, unhashed: true } => {
            Some(Finding::new(ParityCode::PACKAGE_HASH, GATE, message.clone()))
        }
        ClosureFacts::Unusable { message, unhashed: false } => {
            Some(Finding::new(ParityCode::LOCK_STALE, GATE, message.clone()))
        }
    }
}

fn tools(lock: &Lock, facts: &Facts) -> Vec<Finding> {
    let Some(have) = super::packages(facts) else { return Vec::new() };
    lock.tools
        .iter()
        .filter_map(|(step, tool)| {
            let package = normalise(tool.package.as_deref()?);
            let message = match (have.get(&package), &tool.version) {
                (None, _) => format!("{step}: {package} is not in the locked environment"),
                (Some(have), Some(want)) if !same_version(have, want) => {
                    format!("{step}: the environment has {package} {have}, `tools.{step}.version` says {want}")
                }
                _ => return None,
            };
            Some(Finding::new(ParityCode::TOOL_VERSION, GATE, message))
        })
        .collect()
}

fn same_version(a: &str, b: &str) -> bool {
    match (pep440_rs::Version::from_str(a), pep440_rs::Version::from_str(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn plugins(lock: &Lock, facts: &Facts) -> Option<Finding> {
    let have = super::packages(facts)?;
    let missing: Vec<_> = lock.plugins.iter().filter(|name| !have.contains_key(&normalise(name))).cloned().collect();
    (!missing.is_empty()).then(|| {
        Finding::new(ParityCode::PLUGIN_MISSING, GATE, format!("not in the locked environment: {}", missing.join(", ")))
    })
}

fn seal(facts: &Facts) -> Option<Finding> {
    if let Some(path) = &facts.tracked_state {
        return Some(
            Finding::new(
                ParityCode::ENVIRONMENT_SEAL,
                GATE,
                format!("git tracks {path}: an environment that comes with a clone was built by whoever committed it"),
            )
            .hint("take it out of git with `git rm -r --cached .firsttry .venv-parity`, and remove the folder"),
        );
    }
    let deviations = &facts.environment.as_ref()?.deviations;
    let first = deviations.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if deviations.len() > 5 { format!(" and {} more", deviations.len() - 5) } else { String::new() };
    (!deviations.is_empty()).then(|| Finding::new(ParityCode::ENVIRONMENT_SEAL, GATE, format!("{first}{more}")))
}

fn config(lock: &Lock, facts: &Facts) -> Vec<Finding> {
    let whole = lock.config_hashes.iter().map(|(path, hash)| (path, hash, false));
    let prefixes = lock.project_files.iter().map(|(path, hash)| (path, hash, true));
    whole
        .chain(prefixes)
        .filter(|(_, expected, _)| *expected != "pending")
        .filter_map(|(path, expected, prefix)| {
            let message = match facts.hashes.get(path)? {
                Ok(actual) if actual == expected || (prefix && actual.starts_with(expected.as_str())) => return None,
                Ok(actual) => format!(
                    "{path} has changed since it was locked ({} now, {} locked)",
                    short(actual),
                    short(expected)
                ),
                Err(why) => format!("{path}: {why}"),
            };
            Some(Finding::new(ParityCode::CONFIG_DRIFT, GATE, message))
        })
        .collect()
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Options of pytest that leave tests out.
const NARROWING: &[&str] = &[
    "-k",
    "-m",
    "--lf",
    "--last-failed",
    "--deselect",
    "--ignore",
    "--ignore-glob",
    "--sw",
    "--stepwise",
    "--maxfail",
    "-x",
    "--exitfirst",
];

fn scope(request: &Request) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(addopts) = &request.pytest_addopts {
        let narrowing: Vec<_> = addopts
            .split_whitespace()
            .filter(|word| NARROWING.iter().any(|option| word == option || word.starts_with(&format!("{option}="))))
            .collect();
        if !narrowing.is_empty() {
            findings.push(
                Finding::new(ParityCode::SCOPE_NARROWED, GATE, format!("PYTEST_ADDOPTS selects tests: {addopts}"))
                    .hint("unset PYTEST_ADDOPTS; cells never see it"),
            );
        }
    }
    // Collection, coverage and required artifacts are judged of whole runs only.
    if !request.only.is_empty() {
        findings.push(
            Finding::new(
                ParityCode::SCOPE_NARROWED,
                GATE,
                format!("only some steps were asked for: {}", request.only.join(", ")),
            )
            .hint(
                "run all steps with `ft run`; for a partial run whose exit status counts as nothing add `--advisory`",
            ),
        );
    }
    findings
}

fn tree(facts: &Facts, request: &Request) -> Option<Finding> {
    // Index and commits hold tracked files only: they are what CI sees.
    let worktree = request.source == Source::Worktree;
    if !worktree || facts.untracked.is_empty() || matches!(request.command, Command::Exec { .. }) {
        return None;
    }
    let first = facts.untracked.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = match facts.untracked.len() {
        n if n > 5 => format!(" and {} more", n - 5),
        _ => String::new(),
    };
    let finding = Finding::new(
        ParityCode::TREE_NOT_CI,
        GATE,
        format!("git does not track {first}{more}: neither CI nor this run sees them"),
    );
    Some(if request.strict_tree { finding } else { finding.as_warning() })
}
