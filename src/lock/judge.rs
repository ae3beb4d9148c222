//! The raw form of a lock -> [`Lock`]: defaults are filled in, values are checked, and version 1 gets its meaning.
//! Reads no file and no text; every fault names its place.

use super::container::container;
use super::error::LockError;
use super::host::HostPort;
use super::inside::{glob, inside};
use super::parse::Notes;
use super::place::Place;
use super::raw::{RawCollection, RawEnvironment, RawLimits, RawLock, RawNetwork, RawPrefix, RawThresholds};
use super::step::tools;
use super::{Collection, Environment, LOCK_PATH, Lock, PythonMatch, ResourceLimits, Thresholds};
use crate::code::ParityCode;
use crate::step::Network;
use camino::Utf8PathBuf;
use indexmap::IndexMap;
use pep440_rs::VersionSpecifiers;
use pep508_rs::PackageName;
use std::collections::BTreeMap;
use std::str::FromStr;

/// What a hash is before `ft lock` has filled it in.
pub const PENDING: &str = "pending";

/// The least coverage threshold that promises something.
pub const COVERAGE_FLOOR: f64 = 0.5;

/// Checks every value of a raw lock of the given version. `sha256` is that of the file's bytes.
pub(super) fn judge(notes: &mut Notes<'_>, raw: RawLock, version: u64, sha256: String) -> Result<Lock, LockError> {
    let root = Place::root();
    let python = match raw.python {
        Some(python) => python_version(notes, &root.key("python"), python)?,
        None => return Err(notes.refuse(&root, "missing field `python`: the Python of the checks, such as \"3.11\"")),
    };
    let matrix = matrix(notes, raw.matrix.and_then(|matrix| matrix.python), &python)?;
    let env = variables(notes, &root.key("env"), raw.env)?;
    let build = raw.build.unwrap_or(false);
    let Some(tools_of_file) = raw.tools else {
        return Err(notes.refuse(&root, "missing field `tools`: the steps by name"));
    };
    let tools = tools(notes, tools_of_file, version, build)?;
    let network_place = root.key("network_policy");
    let (network, deny_quietly) = network_policy(notes, &network_place, raw.network_policy.unwrap_or_default())?;
    taken_back(notes, &network_place, &network, &deny_quietly);
    for (name, tool) in &tools {
        let place = Place::from(["tools", name, "network"]);
        tool.network.iter().for_each(|own| taken_back(notes, &place, own, &deny_quietly));
    }
    let changed_only = raw.changed_only_policy.unwrap_or_default();
    if raw.scope.as_ref().and_then(|scope| scope.full_repo) == Some(false) {
        notes.warn(
            &Place::from(["scope", "full_repo"]),
            "the whole repository is always checked, but for `scope.exclude`",
        );
    }

    let container = container(notes, raw.container.unwrap_or_default(), version, &matrix)?;

    Ok(Lock {
        version: if version >= 2 { 2 } else { 1 },
        sha256,
        python,
        python_match: raw.python_match.unwrap_or(PythonMatch::Exact),
        matrix,
        env,
        tools,
        plugins: names(notes, &root.key("plugins"), raw.plugins, "the name of a plugin")?,
        thresholds: thresholds(notes, raw.thresholds.unwrap_or_default(), version)?,
        collection: collection(notes, raw.pytest_collection.unwrap_or_default(), version)?,
        config_hashes: config_hashes(notes, raw.config_hashes.unwrap_or_default(), version)?,
        project_files: project_files(notes, raw.project_files.unwrap_or_default())?,
        exclude: globs(notes, &Place::from(["scope", "exclude"]), raw.scope.and_then(|scope| scope.exclude))?,
        network,
        deny_quietly: deny_quietly.iter().map(ToString::to_string).collect(),
        limits: limits(notes, raw.resource_limits.unwrap_or_default())?,
        required_artifacts: paths(notes, &root.key("required_artifacts"), raw.required_artifacts)?,
        collect: globs(notes, &root.key("collect"), raw.collect)?,
        container,
        cell_minimum: raw.cell.and_then(|cell| cell.minimum).unwrap_or_default(),
        explain: raw.explain.unwrap_or(false),
        changed_only_forbidden: changed_only.forbid_in_parity.unwrap_or(true),
        changed_only_message: changed_only.message,
        environment: raw.environment.map(|environment| environment_of(notes, environment)).transpose()?,
        runner_version: runner_version(notes, raw.runner.and_then(|runner| runner.version))?,
        build,
        import_names: import_names(notes, raw.import_names)?,
        locked_pythons: locked_pythons(notes, raw.python_locked)?,
    })
}

/// `3.11` or `3.11.7`.
fn python_version(notes: &Notes<'_>, place: &Place, text: String) -> Result<String, LockError> {
    let number = |part: &str| part.parse::<u16>().is_ok_and(|number| number.to_string() == part);
    let parts: Vec<_> = text.split('.').collect();
    if matches!(parts.len(), 2 | 3) && parts[0] == "3" && parts.iter().all(|part| number(part)) {
        return Ok(text);
    }
    Err(notes.expected(place, "a Python version such as \"3.11\" or \"3.11.7\""))
}

fn matrix(notes: &Notes<'_>, wanted: Option<Vec<String>>, python: &str) -> Result<Vec<String>, LockError> {
    let mut matrix = vec![python.to_owned()];
    for (at, version) in wanted.unwrap_or_default().into_iter().enumerate() {
        let version = python_version(notes, &Place::from(["matrix", "python"]).index(at), version)?;
        if !matrix.contains(&version) {
            matrix.push(version);
        }
    }
    Ok(matrix)
}

fn locked_pythons(
    notes: &Notes<'_>,
    locked: Option<BTreeMap<String, String>>,
) -> Result<BTreeMap<String, String>, LockError> {
    let place = Place::from(["python_locked"]);
    let locked = locked.unwrap_or_default();
    for (wanted, full) in &locked {
        let place = place.key(wanted);
        python_version(notes, &place, wanted.clone())
            .map_err(|_| notes.refuse_key(&place, "expected a Python version such as \"3.11\" as the key"))?;
        let within = full == wanted || full.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('.'));
        if !within || full.split('.').count() != 3 {
            return Err(notes.expected(&place, format!("a full version of Python {wanted}, such as \"{wanted}.7\"")));
        }
        python_version(notes, &place, full.clone())?;
    }
    Ok(locked)
}

/// Environment variables, as execve(2) takes them.
pub(super) fn variables(
    notes: &Notes<'_>,
    place: &Place,
    variables: Option<IndexMap<String, String>>,
) -> Result<BTreeMap<String, String>, LockError> {
    let mut checked = BTreeMap::new();
    for (name, value) in variables.unwrap_or_default() {
        let place = place.key(&name);
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(notes.refuse_key(&place, "a variable's name is not empty and has no `=` and no NUL"));
        }
        if value.contains('\0') {
            return Err(notes.refuse(&place, "a variable's value has no NUL"));
        }
        checked.insert(name, value);
    }
    Ok(checked)
}

fn names(notes: &Notes<'_>, place: &Place, names: Option<Vec<String>>, what: &str) -> Result<Vec<String>, LockError> {
    let names = names.unwrap_or_default();
    for (at, name) in names.iter().enumerate() {
        if PackageName::from_str(name).is_err() {
            return Err(notes.expected(&place.index(at), what));
        }
    }
    Ok(names)
}

fn globs(notes: &Notes<'_>, place: &Place, globs: Option<Vec<String>>) -> Result<Vec<String>, LockError> {
    let checked = globs.unwrap_or_default().into_iter().enumerate();
    checked.map(|(at, text)| glob(&text).map_err(|what| notes.expected(&place.index(at), what))).collect()
}

/// A path inside the repository that is not the repository itself.
pub(super) fn file(notes: &Notes<'_>, place: &Place, text: &str) -> Result<Utf8PathBuf, LockError> {
    match inside(text) {
        Ok(path) if path == "" => Err(notes.expected(place, "the path of a file")),
        Ok(path) => Ok(path),
        Err(error) => Err(notes.expected(place, error)),
    }
}

fn paths(notes: &Notes<'_>, place: &Place, paths: Option<Vec<String>>) -> Result<Vec<Utf8PathBuf>, LockError> {
    let checked = paths.unwrap_or_default().into_iter().enumerate();
    checked.map(|(at, text)| file(notes, &place.index(at), &text)).collect()
}

fn thresholds(notes: &Notes<'_>, raw: RawThresholds, version: u64) -> Result<Thresholds, LockError> {
    let place = Place::from(["thresholds", "coverage_min"]);
    let below = |message: String| {
        let error = notes.refuse(&place, message);
        LockError { hint: ParityCode::THRESHOLD_FLOOR.fix().to_owned(), code: ParityCode::THRESHOLD_FLOOR, ..error }
    };
    match raw.coverage_min {
        Some(share) if share > 1.0 => {
            let error = notes.expected(&place, "a share from 0.5 to 1");
            return Err(LockError { hint: format!("75 % is written 0.75; this would be {}", share / 100.0), ..error });
        }
        Some(share) if share.is_nan() || share < COVERAGE_FLOOR => {
            return Err(below(format!("expected at least {COVERAGE_FLOOR}, found {share}")));
        }
        None if version < 2 => {
            return Err(below(format!(
                "absent, which counts as 0 in a version 1 lock; at least {COVERAGE_FLOOR} is expected"
            )));
        }
        _ => {}
    }
    Ok(Thresholds {
        coverage_min: raw.coverage_min,
        bandit_severity_max: raw.bandit_severity_max,
        max_warnings: raw.max_warnings,
        allow_flaky: raw.allow_flaky.unwrap_or(false),
    })
}

/// A sha256 in hex, in lower case; `None` for `pending`. In a version 1 lock a text that is no sha256 is kept with a
/// warning: it matches no file, so that nothing passes that should not.
fn sha256(notes: &mut Notes<'_>, place: &Place, text: &str, version: u64) -> Result<Option<String>, LockError> {
    if text == PENDING {
        return Ok(None);
    }
    if is_hex(text) && text.len() == 64 {
        return Ok(Some(text.to_ascii_lowercase()));
    }
    if version >= 2 {
        return Err(notes.expected(place, "a sha256 of 64 hexadecimal digits, or \"pending\""));
    }
    notes.warn(place, "not a sha256 of 64 hexadecimal digits; it matches nothing");
    Ok(Some(text.to_owned()))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn collection(notes: &mut Notes<'_>, raw: RawCollection, version: u64) -> Result<Collection, LockError> {
    let place = Place::from(["pytest_collection"]);
    let name_hash_sha256 = match raw.name_hash_sha256 {
        Some(hash) => sha256(notes, &place.key("name_hash_sha256"), &hash, version)?,
        None => None,
    };
    Ok(Collection {
        expected_count: raw.expected_count,
        name_hash_sha256,
        allow_uncollected: raw.allow_uncollected.unwrap_or(false),
        manifest: raw.manifest.map(|path| file(notes, &place.key("manifest"), &path)).transpose()?,
        on_added: raw.on_added.unwrap_or_default(),
    })
}

fn config_hashes(
    notes: &mut Notes<'_>,
    raw: IndexMap<String, String>,
    version: u64,
) -> Result<IndexMap<String, String>, LockError> {
    let mut checked = IndexMap::new();
    for (key, hash) in raw {
        let place = Place::from(["config_hashes"]).key(&key);
        let (path, table) = key.split_once('#').map_or((key.as_str(), None), |(path, table)| (path, Some(table)));
        let path = file_key(notes, &place, path)?;
        if path == LOCK_PATH {
            return Err(notes.refuse_key(&place, "the lock can't hold its own hash"));
        }
        if table == Some("") {
            return Err(notes.refuse_key(&place, "expected the name of a table after `#`"));
        }
        let hash = sha256(notes, &place, &hash, version)?.unwrap_or_else(|| PENDING.to_owned());
        let key = table.map_or_else(|| path.to_string(), |table| format!("{path}#{table}"));
        if checked.insert(key, hash).is_some() {
            return Err(notes.refuse_key(&place, "this file is named twice"));
        }
    }
    Ok(checked)
}

fn project_files(notes: &Notes<'_>, raw: IndexMap<String, RawPrefix>) -> Result<IndexMap<String, String>, LockError> {
    let mut checked = IndexMap::new();
    for (key, prefix) in raw {
        let place = Place::from(["project_files"]).key(&key);
        let path = file_key(notes, &place, &key)?;
        let (place, prefix) = match prefix {
            RawPrefix::Plain(prefix) => (place, prefix),
            RawPrefix::Object { sha256_prefix } => (place.key("sha256_prefix"), sha256_prefix),
        };
        if prefix != PENDING && (prefix.len() < 8 || prefix.len() > 64 || !is_hex(&prefix)) {
            return Err(notes.expected(&place, "the first 8 to 64 hexadecimal digits of a sha256"));
        }
        checked.insert(path.into_string(), prefix.to_ascii_lowercase());
    }
    Ok(checked)
}

fn file_key(notes: &Notes<'_>, place: &Place, path: &str) -> Result<Utf8PathBuf, LockError> {
    let refuse = |what: String| notes.refuse_key(place, format!("expected {what}, found {path:?}"));
    match inside(path) {
        Ok(path) if path == "" => Err(refuse("the path of a file".to_owned())),
        Ok(path) => Ok(path),
        Err(error) => Err(refuse(error.to_string())),
    }
}

fn network_policy(
    notes: &mut Notes<'_>,
    place: &Place,
    raw: RawNetwork,
) -> Result<(Network, Vec<HostPort>), LockError> {
    let network = network(notes, place, raw.forbid_network, raw.allowed_hosts)?;
    let mut deny_quietly = Vec::new();
    for (at, entry) in raw.deny_quietly.unwrap_or_default().into_iter().enumerate() {
        let place = place.key("deny_quietly").index(at);
        let host = host(notes, &place, &entry)?;
        if host.is_loopback() {
            notes.warn(&place, "loopback is the cell's own and never refused; this entry says nothing");
        } else if !deny_quietly.contains(&host) {
            deny_quietly.push(host);
        }
    }
    Ok((network, deny_quietly))
}

/// `forbid_network` with loopback hosts only: no network, for loopback is the cell's own. With further hosts: those. Else
/// everything. The hosts are checked in every case.
pub(super) fn network(
    notes: &mut Notes<'_>,
    place: &Place,
    forbid: Option<bool>,
    hosts: Option<Vec<String>>,
) -> Result<Network, LockError> {
    let place = place.key("allowed_hosts");
    let mut allowed = Vec::new();
    for (at, entry) in hosts.unwrap_or_default().into_iter().enumerate() {
        let host = host(notes, &place.index(at), &entry)?;
        let text = host.to_string();
        if !host.is_loopback() && !allowed.contains(&text) {
            allowed.push(text);
        }
    }
    let forbid = forbid.unwrap_or(true);
    if !forbid && !allowed.is_empty() {
        notes.warn(&place, "`forbid_network` is false, so that every host may be reached; this list says nothing");
    }
    Ok(match (forbid, allowed.is_empty()) {
        (false, _) => Network::Open,
        (true, true) => Network::Loopback,
        (true, false) => Network::Allow(allowed),
    })
}

/// Says which entries of an allow-list `deny_quietly` takes back. A refusal wins over a permission: that may be meant (one
/// host of a wildcard), but an entry that is refused as a whole says nothing.
fn taken_back(notes: &mut Notes<'_>, place: &Place, network: &Network, deny_quietly: &[HostPort]) {
    let Network::Allow(hosts) = network else { return };
    let entries = hosts.iter().filter_map(|entry| HostPort::parse(entry).ok());
    for entry in entries.filter(|entry| deny_quietly.iter().any(|quiet| quiet.includes(entry))) {
        let message =
            format!("{entry} is refused all the same: `network_policy.deny_quietly` has it too, and a refusal wins");
        notes.warn(&place.key("allowed_hosts"), message);
    }
}

fn host(notes: &Notes<'_>, place: &Place, entry: &str) -> Result<HostPort, LockError> {
    HostPort::parse(entry).map_err(|error| notes.refuse(place, format!("{entry:?} is not a host: {error}")))
}

fn limits(notes: &Notes<'_>, raw: RawLimits) -> Result<ResourceLimits, LockError> {
    // 2^40 MiB is 2^60 bytes: the product of every limit with its unit stays a number.
    const MOST: u64 = 1 << 40;
    let at_least_one = |name: &str, value: Option<u64>| match value {
        Some(0) => Err(notes.expected(&Place::from(["resource_limits", name]), "at least 1")),
        Some(value) if value > MOST => {
            Err(notes.expected(&Place::from(["resource_limits", name]), format!("at most {MOST}")))
        }
        value => Ok(value),
    };
    at_least_one("cpu_count", raw.cpu_count.map(u64::from))?;
    Ok(ResourceLimits {
        cpu_count: raw.cpu_count,
        mem_mb: at_least_one("mem_mb", raw.mem_mb)?,
        pids: at_least_one("pids", raw.pids)?,
        disk_mb: at_least_one("disk_mb", raw.disk_mb)?,
        output_mb: at_least_one("output_mb", raw.output_mb)?,
        required: raw.required.unwrap_or(false),
    })
}

fn environment_of(notes: &mut Notes<'_>, raw: RawEnvironment) -> Result<Environment, LockError> {
    let place = Place::from(["environment"]);
    let Some(from) = raw.from else {
        let what = "missing field `from`: \"uv.lock\", or \"ci/parity.requirements.txt\"";
        return Err(notes.refuse(&place, what));
    };
    let sources = raw.sources.unwrap_or_default();
    Ok(Environment {
        from: file(notes, &place.key("from"), &from)?,
        groups: names(notes, &place.key("groups"), raw.groups, "the name of a dependency group")?,
        extras: names(notes, &place.key("extras"), raw.extras, "the name of an extra")?,
        sources: sources
            .iter()
            .enumerate()
            .map(|(at, text)| file(notes, &place.key("sources").index(at), text).map(Utf8PathBuf::into_string))
            .collect::<Result<_, _>>()?,
        sources_sha256: match raw.sources_sha256 {
            Some(hash) => sha256(notes, &place.key("sources_sha256"), &hash, 2)?,
            None => None,
        },
        project: raw.project.unwrap_or_default(),
        sdists: names(notes, &place.key("sdists"), raw.sdists, "the name of a distribution")?,
        extra: raw.extra.map(|path| file(notes, &place.key("extra"), &path)).transpose()?,
    })
}

fn runner_version(notes: &Notes<'_>, range: Option<String>) -> Result<Option<String>, LockError> {
    if range.as_ref().is_some_and(|range| VersionSpecifiers::from_str(range).is_err()) {
        return Err(notes.expected(&Place::from(["runner", "version"]), "a version range such as \">=0.1,<0.2\""));
    }
    Ok(range)
}

fn import_names(notes: &Notes<'_>, names: Option<Vec<String>>) -> Result<Vec<String>, LockError> {
    let identifier = |part: &str| {
        let start = |c: char| c == '_' || c.is_alphabetic();
        part.starts_with(start) && part.chars().all(|c| c == '_' || c.is_alphanumeric())
    };
    let names = names.unwrap_or_default();
    match names.iter().position(|name| !name.split('.').all(identifier)) {
        Some(at) => Err(notes.expected(&Place::from(["import_names"]).index(at), "the name of a module")),
        None => Ok(names),
    }
}
