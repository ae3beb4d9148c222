//! Resolving requirements into a hashed closure: `uv` for all platforms and Pythons at once, else `pip` for this one.
//!
//! Runs outside of every cell, with the caller's own index, proxy and certificate settings: the child inherits the
//! environment. Decides nothing about the lock; the text it gives back still names what the resolver names.

use crate::code::{ExitCode, ParityCode};
use crate::leftovers;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What resolves, and for which Pythons.
#[derive(Debug, Clone)]
pub struct Resolver {
    /// The user's uv, where there is one.
    pub uv: Option<PathBuf>,
    /// `3.11` and its interpreter, for each Python of the lock that is installed; the lock's first one first.
    pub pythons: Vec<(String, PathBuf)>,
    /// The oldest Python of the lock, installed or not: the closure is to hold from there on.
    pub oldest: String,
    /// Fetch nothing.
    pub offline: bool,
    /// Take newer versions than the ones that were locked.
    pub upgrade: bool,
}

/// Why there is no closure.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Neither uv nor an interpreter with pip.
    #[error("nothing here can resolve: there is no uv, and no Python of the lock is installed")]
    NoResolver,
    /// The resolver can't be started, or its files can't be written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// No index answered.
    #[error("the package index can't be reached:\n{0}")]
    Unreachable(String),
    /// The requirements contradict each other, or name what is not there.
    #[error("the requirements can't be resolved:\n{0}")]
    Unsolvable(String),
}

impl ResolveError {
    /// 69 where nothing is known about the requirements, else that of PARITY-013.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        match self {
            ResolveError::Unsolvable(_) => ParityCode::LOCK_STALE.exit(),
            _ => ExitCode::INFRASTRUCTURE,
        }
    }

    /// What the reader can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            ResolveError::NoResolver => "install uv, or the Python that the lock names",
            ResolveError::Io { .. } => "check the permissions of that path",
            ResolveError::Unreachable(_) => {
                "check the network, and the index, proxy and certificate settings of uv and pip"
            }
            ResolveError::Unsolvable(_) => {
                "change the requirements in the project's files; the resolver's own words are above"
            }
        }
        .to_owned()
    }
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ResolveError {
    let what = what.into();
    move |source| ResolveError::Io { what, source }
}

/// Resolves `input` (requirements, one a line) under `constraints` (`name==version`). What `old` pins is kept where the
/// requirements allow it.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve(
    resolver: &Resolver,
    input: &str,
    constraints: &[String],
    old: Option<&str>,
) -> Result<String, ResolveError> {
    let folder = leftovers::folder_in(&std::env::temp_dir()).map_err(io("a temporary folder"))?;
    let file = |name: &str, text: &str| -> Result<PathBuf, ResolveError> {
        let path = folder.path().join(name);
        std::fs::write(&path, text).map_err(io(path.display().to_string()))?;
        Ok(path)
    };
    let input = file("requirements.in", input)?;
    let constraints = file("constraints.txt", &(constraints.join("\n") + "\n"))?;
    match &resolver.uv {
        Some(uv) => {
            let old = old.filter(|_| !resolver.upgrade).unwrap_or_default();
            let output = file("requirements.txt", old)?;
            by_uv(resolver, uv, &input, &constraints, &output)
        }
        None => {
            // pip knows no preference: what was locked is a constraint, and where that no longer fits it is let go.
            let kept = old.filter(|_| !resolver.upgrade).map(pins).unwrap_or_default();
            let kept = file("kept.txt", &kept)?;
            by_pip(resolver, &input, &[constraints.as_path(), kept.as_path()])
                .or_else(|_| by_pip(resolver, &input, &[constraints.as_path()]))
        }
    }
}

fn by_uv(
    resolver: &Resolver,
    uv: &Path,
    input: &Path,
    constraints: &Path,
    output: &Path,
) -> Result<String, ResolveError> {
    let mut command = Command::new(uv);
    command.args(["pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]);
    command.args(["--no-emit-index-url", "--no-emit-find-links", "--no-emit-build-options"]).arg(input);
    command.arg("--constraints").arg(constraints).arg("--output-file").arg(output);
    command.args(["--python-version", &resolver.oldest]);
    if let Some((_, python)) = resolver.pythons.first() {
        command.arg("--python").arg(python);
    }
    if resolver.offline {
        command.arg("--offline");
    }
    if resolver.upgrade {
        command.arg("--upgrade");
    }
    run(command, uv)?;
    std::fs::read_to_string(output).map_err(io(output.display().to_string()))
}

/// `3.9` comes before `3.10`.
#[must_use]
pub fn version_key(minor: &str) -> Vec<u32> {
    minor.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// The `name==version ; marker` of a hashed requirements text, without its hashes.
fn pins(text: &str) -> String {
    let entries = text.lines().filter(|line| !line.starts_with([' ', '#', '-']) && line.contains("=="));
    entries.map(|line| format!("{}\n", line.trim_end_matches([' ', '\\']))).collect()
}

/// One `pip install --dry-run` per Python. pip knows only the files that fit here: the closure is for this platform.
fn by_pip(resolver: &Resolver, input: &Path, constraints: &[&Path]) -> Result<String, ResolveError> {
    if resolver.pythons.is_empty() {
        return Err(ResolveError::NoResolver);
    }
    let mut reports = Vec::new();
    for (minor, python) in &resolver.pythons {
        let mut command = Command::new(python);
        command.args(["-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--report", "-"]);
        command.args(["--disable-pip-version-check", "--no-input", "--requirement"]).arg(input);
        for file in constraints {
            command.arg("--constraint").arg(file);
        }
        if resolver.offline {
            command.arg("--no-index");
        }
        let report: PipReport = serde_json::from_slice(&run(command, python)?)
            .map_err(|error| ResolveError::Unsolvable(format!("pip's report can't be read: {error}")))?;
        reports.push((minor.clone(), report));
    }
    merged(&reports)
}

#[derive(Debug, Deserialize)]
struct PipReport {
    install: Vec<PipItem>,
}

#[derive(Debug, Deserialize)]
struct PipItem {
    metadata: PipMetadata,
    download_info: PipDownload,
}

#[derive(Debug, Deserialize)]
struct PipMetadata {
    name: String,
    version: String,
}

#[derive(Debug, Deserialize)]
struct PipDownload {
    #[serde(default)]
    archive_info: PipArchive,
}

#[derive(Debug, Default, Deserialize)]
struct PipArchive {
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

/// One text for all Pythons: what is the same for all has no marker.
fn merged(reports: &[(String, PipReport)]) -> Result<String, ResolveError> {
    // Name and version; its hashes, and the Pythons that want it.
    type Pin<'a> = (BTreeSet<String>, BTreeSet<&'a str>);
    let mut pins: BTreeMap<(String, String), Pin<'_>> = BTreeMap::new();
    for (minor, report) in reports {
        for item in &report.install {
            let key = (crate::lock::normalise(&item.metadata.name), item.metadata.version.clone());
            let Some(hash) = item.download_info.archive_info.hashes.get("sha256") else {
                return Err(ResolveError::Unsolvable(format!(
                    "{}=={} has no sha256: it is no file of an index",
                    key.0, key.1
                )));
            };
            let (hashes, minors) = pins.entry(key).or_default();
            hashes.insert(hash.clone());
            minors.insert(minor);
        }
    }
    let mut text = String::new();
    for ((name, version), (hashes, minors)) in pins {
        let _ = write!(text, "{name}=={version}");
        if minors.len() < reports.len() {
            let marker: Vec<String> = minors.iter().map(|minor| format!("python_version == '{minor}'")).collect();
            let _ = write!(text, " ; {}", marker.join(" or "));
        }
        for hash in hashes {
            let _ = write!(text, " \\\n    --hash=sha256:{hash}");
        }
        text.push('\n');
    }
    Ok(text)
}

/// Runs a resolver to its end and gives its standard output.
fn run(mut command: Command, program: &Path) -> Result<Vec<u8>, ResolveError> {
    let output = command.stdin(Stdio::null()).output().map_err(io(program.display().to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    Err(if is_network(&said) { ResolveError::Unreachable(tail) } else { ResolveError::Unsolvable(tail) })
}

/// Whether the words of a resolver are about the network and not about requirements.
fn is_network(said: &str) -> bool {
    const WORDS: &[&str] = &[
        "error sending request",
        "Failed to fetch",
        "dns error",
        "Connection refused",
        "Max retries exceeded",
        "NewConnectionError",
        "Temporary failure in name resolution",
        "timed out",
        "network connectivity is disabled",
        "Could not connect",
        "certificate verify failed",
    ];
    WORDS.iter().any(|word| said.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(items: &[(&str, &str, &str)]) -> PipReport {
        let install = items
            .iter()
            .map(|(name, version, hash)| PipItem {
                metadata: PipMetadata { name: (*name).into(), version: (*version).into() },
                download_info: PipDownload {
                    archive_info: PipArchive { hashes: [("sha256".to_owned(), (*hash).to_owned())].into() },
                },
            })
            .collect();
        PipReport { install }
    }

    #[test]
    fn what_every_python_has_needs_no_marker() {
        let reports = [
            ("3.10".to_owned(), report(&[("A_b", "1", "aa"), ("tomli", "2", "cc")])),
            ("3.11".to_owned(), report(&[("a-b", "1", "bb")])),
        ];
        let text = merged(&reports).unwrap();
        assert_eq!(
            text,
            "a-b==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\ntomli==2 ; python_version == '3.10' \\\n    --hash=sha256:cc\n"
        );
        assert!(
            crate::lock::closure::Closure::from_requirements(
                &text.replace("aa", &"a".repeat(64)).replace("bb", &"b".repeat(64)).replace("cc", &"c".repeat(64))
            )
            .is_ok()
        );
    }

    #[test]
    fn what_was_locked_is_told_to_pip_without_hashes() {
        let text = "# head\na==1 ; python_version < '3.9' \\\n    --hash=sha256:aa\nb==2 \\\n    --hash=sha256:bb\n";
        assert_eq!(pins(text), "a==1 ; python_version < '3.9'\nb==2\n");
    }

    #[test]
    fn a_python_with_a_smaller_number_is_older() {
        assert!(version_key("3.9") < version_key("3.10"));
    }
}
