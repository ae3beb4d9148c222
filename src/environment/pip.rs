//! pip as a downloader: where it is found, what it is told, and what its output means. Only its words are read here; which
//! bytes count is decided in [`super::fetch`].

use super::fetch::{FetchError, Settings};
use super::interpreter::Interpreter;
use super::{PathError, Progress, Report};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

/// A pip that can be started.
pub(super) struct Pip {
    pub(super) program: PathBuf,
    /// The interpreter that it runs in.
    pub(super) python: PathBuf,
    first: Vec<OsString>,
    /// What to put on the path to import pip in the interpreter, empty for nothing; `None` where it can't be imported.
    pub(super) import_from: Option<OsString>,
    pub(super) env: BTreeMap<String, OsString>,
}

impl Pip {
    pub(super) fn find(interpreter: &Interpreter, settings: &Settings) -> Result<Pip, FetchError> {
        let env = pip_environment(&settings.env, settings.uv_toml.as_deref());
        // What is in an image can't be started here.
        let interpreter = match (&interpreter.image, &settings.host) {
            (Some(_), Some(host)) => host,
            (Some(_), None) => return Err(FetchError::NoDownloader(interpreter.executable.clone())),
            (None, _) => interpreter,
        };
        let (program, python) = (interpreter.executable.clone(), interpreter.executable.clone());
        let facts = &interpreter.facts;
        let own = [facts.host_purelib.clone(), facts.prefix.join("lib/python3/dist-packages")];
        if own.iter().any(|site| site.join("pip/__init__.py").is_file()) {
            return Ok(Pip {
                program,
                python,
                first: ["-I", "-m", "pip"].map(OsString::from).into(),
                import_from: Some(OsString::new()),
                env,
            });
        }
        // The wheel that `ensurepip` would install can be run as it is.
        let bundled = std::fs::read_dir(facts.stdlib.join("ensurepip/_bundled")).into_iter().flatten().flatten();
        let bundled = bundled.map(|entry| entry.path()).find(|path| {
            path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("pip-") && n.ends_with(".whl"))
        });
        if let Some(wheel) = bundled {
            return Ok(Pip {
                program,
                python,
                first: vec!["-I".into(), wheel.join("pip").into()],
                import_from: Some(wheel.into()),
                env,
            });
        }
        match &settings.uv {
            Some(uv) => {
                let first = ["tool", "run", "--python"].map(OsString::from).into_iter();
                let first = first.chain([program.into(), "pip".into()]).collect();
                Ok(Pip { program: uv.clone(), python, first, import_from: None, env })
            }
            None => Err(FetchError::NoDownloader(program)),
        }
    }

    pub(super) async fn run(
        &self,
        arguments: &[OsString],
        cwd: &Path,
        report: Report<'_>,
    ) -> Result<(bool, String), FetchError> {
        let all: Vec<OsString> = self.first.iter().chain(arguments).cloned().collect();
        run_logged(&self.program, &all, &self.env, cwd, report).await
    }
}

/// What tells pip to choose for an interpreter that is not its own: nothing for one of this machine.
pub(super) fn platform_arguments(interpreter: &Interpreter) -> Vec<OsString> {
    let facts = &interpreter.facts;
    if interpreter.image.is_none() {
        return Vec::new();
    }
    let cpython = facts.markers.get("implementation_name").is_none_or(|name| name == "cpython");
    let minor = interpreter.minor();
    let digits = minor.replace('.', "");
    let threaded = if facts.free_threaded { "t" } else { "" };
    let mut all = vec!["--python-version".to_owned(), minor.to_owned(), "--implementation".to_owned()];
    let mut abis = vec!["none".to_owned()];
    if cpython {
        all.push("cp".to_owned());
        abis.splice(0..0, [format!("cp{digits}{threaded}")]);
        if !facts.free_threaded {
            abis.insert(1, "abi3".to_owned());
        }
    } else {
        all.push("pp".to_owned());
        abis.splice(0..0, [facts.abi.clone()]);
    }
    all.extend(abis.into_iter().flat_map(|abi| ["--abi".to_owned(), abi]));
    all.extend(platforms(&facts.platform, &facts.libc).into_iter().flat_map(|tag| ["--platform".to_owned(), tag]));
    all.into_iter().map(OsString::from).collect()
}

/// The platform tags of a Linux that count, the newest first: PEP 600 and 656, and their forerunners.
fn platforms(platform: &str, libc: &str) -> Vec<String> {
    let machine = platform.strip_prefix("linux-").unwrap_or(platform).replace(['-', '.'], "_");
    let version = |text: &str| {
        let (major, minor) = text.trim().split_once('.')?;
        let minor: String = minor.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let mut all = Vec::new();
    if let Some((major, newest)) = libc.strip_prefix("glibc").and_then(version) {
        // Before 2.17 only the two classic architectures had any.
        let oldest = if matches!(machine.as_str(), "x86_64" | "i686") { 5 } else { 17 };
        for minor in (oldest..=newest).rev() {
            all.push(format!("manylinux_{major}_{minor}_{machine}"));
            let former = match (major, minor) {
                (2, 17) => "manylinux2014",
                (2, 12) => "manylinux2010",
                (2, 5) => "manylinux1",
                _ => continue,
            };
            all.push(format!("{former}_{machine}"));
        }
    } else if let Some((major, newest)) = libc.strip_prefix("musl").and_then(version) {
        all.extend((0..=newest).rev().map(|minor| format!("musllinux_{major}_{minor}_{machine}")));
    }
    all.push(format!("linux_{machine}"));
    all
}

/// Runs a program to its end, output and error output in one text; it is killed when nobody waits for it any more.
pub(super) async fn run_logged(
    program: &Path,
    arguments: &[OsString],
    env: &BTreeMap<String, OsString>,
    cwd: &Path,
    report: Report<'_>,
) -> Result<(bool, String), FetchError> {
    let (reader, writer) = std::io::pipe().map_err(PathError::at(program))?;
    let errors = writer.try_clone().map_err(PathError::at(program))?;
    let mut child = {
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).env_clear().envs(env).current_dir(cwd);
        command.stdin(Stdio::null()).stdout(writer).stderr(errors).kill_on_drop(true);
        command.spawn().map_err(PathError::at(program))?
        // The command holds the writing ends; they must be gone, else the output would never end.
    };
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(PathError::at(program))?;
    let mut lines = BufReader::new(reader).split(b'\n');
    let mut output = String::new();
    while let Some(line) = lines.next_segment().await.map_err(PathError::at(program))? {
        let line = String::from_utf8_lossy(&line);
        if let Some(what) = line.trim().strip_prefix("Downloading ") {
            let what = what.split([' ', '#']).next().unwrap_or(what).rsplit('/').next().unwrap_or(what);
            report(Progress::Downloading { what: what.to_owned() });
        }
        // A backtracking pip can say a lot; what counts is at the end.
        if output.len() > 8 << 20 {
            let end = output
                .lines()
                .map(|line| line.len() + 1)
                .scan(0, |at, n| {
                    (*at < 4 << 20).then(|| {
                        *at += n;
                        *at
                    })
                })
                .last();
            output.drain(..end.unwrap_or(0));
        }
        output.push_str(line.trim_end());
        output.push('\n');
    }
    let status = child.wait().await.map_err(PathError::at(program))?;
    Ok((status.success(), output))
}

/// The environment for pip: the caller's, without what would make it refuse or do other work, and with uv's index
/// settings where pip has none of its own.
fn pip_environment(env: &BTreeMap<String, OsString>, uv_toml: Option<&str>) -> BTreeMap<String, OsString> {
    let drop = [
        "PIP_REQUIRE_VIRTUALENV",
        "PIP_CONSTRAINT",
        "PIP_REQUIREMENT",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        "PIP_NO_BINARY",
        "PIP_ONLY_BINARY",
        "PIP_PRE",
        "PIP_PLATFORM",
        "PIP_PYTHON_VERSION",
        "PIP_REPORT",
        "PIP_LOG",
        "PIP_DRY_RUN",
        "PIP_NO_DEPS",
        "PIP_REQUIRE_HASHES",
        "PIP_QUIET",
        "PIP_VERBOSE",
        "PIP_PYTHON",
        "PIP_DEST",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "__PYVENV_LAUNCHER__",
    ];
    let mut out: BTreeMap<String, OsString> = env
        .iter()
        .filter(|(name, _)| !drop.contains(&name.as_str()) && !name.starts_with("PYTHON"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    out.insert("PIP_REQUIRE_VIRTUALENV".into(), "0".into());
    // What pip says is read, so it must not be translated or wrapped.
    out.insert("LC_ALL".into(), "C.UTF-8".into());
    out.insert("NO_COLOR".into(), "1".into());
    let file = uv_toml.and_then(|text| text.parse::<toml::Table>().ok()).unwrap_or_default();
    let from_env = |name: &str| env.get(name).and_then(|value| value.to_str()).filter(|value| !value.is_empty());
    let mut index = from_env("UV_DEFAULT_INDEX").or_else(|| from_env("UV_INDEX_URL")).map(str::to_owned);
    let mut extra: Vec<String> = ["UV_INDEX", "UV_EXTRA_INDEX_URL"]
        .iter()
        .filter_map(|name| from_env(name))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect();
    let text = |value: Option<&toml::Value>| value.and_then(toml::Value::as_str).map(str::to_owned);
    index = index.or_else(|| text(file.get("index-url")));
    for entry in file.get("index").and_then(toml::Value::as_array).into_iter().flatten() {
        let Some(url) = text(entry.get("url")) else { continue };
        match entry.get("default").and_then(toml::Value::as_bool) {
            Some(true) => index = index.or(Some(url)),
            _ => extra.push(url),
        }
    }
    let named = |url: &str| match url.split_once('=') {
        // `name=https://...`; a URL's own `=` comes after its `:`.
        Some((name, url)) if !name.contains(':') => url.to_owned(),
        _ => url.to_owned(),
    };
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.entry(name.to_owned()).or_insert_with(|| value.into());
        }
    };
    set("PIP_INDEX_URL", index.as_deref().map(named));
    set("PIP_EXTRA_INDEX_URL", Some(extra.iter().map(|url| named(url)).collect::<Vec<_>>().join(" ")));
    set("PIP_FIND_LINKS", from_env("UV_FIND_LINKS").map(|links| links.replace(',', " ")));
    set("PIP_TRUSTED_HOST", from_env("UV_INSECURE_HOST").map(str::to_owned));
    set("PIP_CERT", from_env("SSL_CERT_FILE").map(str::to_owned));
    out
}

/// What pip's output says went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    DiskFull,
    Hash(String),
    Unreachable(String),
    NoMatch(String),
    Other,
}

pub(super) fn classify(output: &str) -> Problem {
    let line_with = |text: &str| {
        output
            .lines()
            .find(|line| line.contains(text) && !line.contains("404 Client Error"))
            .map(|line| line.trim().to_owned())
    };
    if output.contains("No space left on device") || output.contains("Disk quota exceeded") {
        return Problem::DiskFull;
    }
    if let Some(at) = output.find("DO NOT MATCH THE HASHES") {
        let detail: Vec<&str> = output[at..].lines().skip(1).map(str::trim).filter(|l| !l.is_empty()).take(6).collect();
        return Problem::Hash(detail.join("\n"));
    }
    // Said before "No matching distribution", which then only follows from it.
    let signs = [
        "Failed to establish a new connection",
        "Could not fetch URL",
        "Max retries exceeded",
        "Read timed out",
        "SSLError",
        "CERTIFICATE_VERIFY_FAILED",
        "Connection refused",
        "ProxyError",
        "Temporary failure in name resolution",
        "HTTP error",
        "HTTPError",
        "URLError",
        "ConnectionResetError",
        "NewConnectionError",
        "Connection broken",
    ];
    if let Some(line) = signs.iter().find_map(|sign| line_with(sign)) {
        return Problem::Unreachable(line);
    }
    let marker = "No matching distribution found for ";
    if let Some(line) = line_with(marker)
        && let Some((_, rest)) = line.split_once(marker)
    {
        let package = rest.split([' ', ';']).next().unwrap_or(rest);
        return Problem::NoMatch(package.to_owned());
    }
    Problem::Other
}

impl Problem {
    pub(super) fn into_error(self, interpreter: &Interpreter, output: String) -> FetchError {
        match self {
            Problem::DiskFull => FetchError::Io(PathError {
                path: PathBuf::from("the wheel store"),
                source: std::io::ErrorKind::StorageFull.into(),
            }),
            Problem::Hash(detail) => {
                let package = detail.split_whitespace().next().unwrap_or("a package").to_owned();
                FetchError::Hash { package, detail }
            }
            Problem::Unreachable(line) => FetchError::Unreachable(line),
            Problem::NoMatch(package) => {
                FetchError::NoWheel { package, interpreter: platform_text(interpreter), exist: Vec::new() }
            }
            Problem::Other => {
                let lines: Vec<&str> = output.trim_end().lines().collect();
                FetchError::Failed(lines[lines.len().saturating_sub(12)..].join("\n"))
            }
        }
    }
}

fn platform_text(interpreter: &Interpreter) -> String {
    let facts = &interpreter.facts;
    format!("Python {} on {} ({})", facts.version, facts.platform, facts.libc)
}

/// What the index has instead, from pip's verbose output.
pub(super) fn no_wheel(package: String, interpreter: &Interpreter, verbose: &str, version: &str) -> FetchError {
    let mut exist: Vec<String> = verbose
        .lines()
        .filter(|line| line.contains("Skipping link"))
        .filter_map(|line| line.split_whitespace().find(|word| word.contains("://")))
        .filter_map(|url| url.split('#').next()?.rsplit('/').next().map(str::to_owned))
        .filter(|file| is_of_version(file, version))
        .collect();
    exist.sort_unstable();
    exist.dedup();
    // Without retries, pip tells a broken connection from an unknown package in its verbose output only.
    if exist.is_empty()
        && let Problem::Unreachable(line) = classify(verbose)
    {
        return FetchError::Unreachable(line);
    }
    let interpreter = platform_text(interpreter);
    match exist.as_slice() {
        [sdist] if !sdist.ends_with(".whl") => FetchError::SdistOnly { package, interpreter, sdist: sdist.clone() },
        _ => FetchError::NoWheel { package, interpreter, exist },
    }
}

fn is_of_version(file: &str, version: &str) -> bool {
    let stem = file.strip_suffix(".tar.gz").or_else(|| file.strip_suffix(".zip"));
    match stem {
        Some(stem) => {
            stem.rsplit_once('-').is_some_and(|(_, v)| crate::lock::normalise(v) == crate::lock::normalise(version))
        }
        None => file.split('-').nth(1).is_some_and(|v| crate::lock::normalise(v) == crate::lock::normalise(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, OsString> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect()
    }

    #[test]
    fn uv_settings_reach_pip_only_where_pip_has_none() {
        let uv = [("UV_DEFAULT_INDEX", "https://a/simple"), ("UV_INDEX", "in=https://b/simple https://c/?x=y")];
        let out = pip_environment(&env(&uv), None);
        assert_eq!(out["PIP_INDEX_URL"], "https://a/simple");
        assert_eq!(out["PIP_EXTRA_INDEX_URL"], "https://b/simple https://c/?x=y");
        let both = [("UV_DEFAULT_INDEX", "https://a/simple"), ("PIP_INDEX_URL", "https://own/simple")];
        assert_eq!(pip_environment(&env(&both), None)["PIP_INDEX_URL"], "https://own/simple");
        let file = "[[index]]\nurl = 'https://d/simple'\ndefault = true\n";
        assert_eq!(pip_environment(&env(&[]), Some(file))["PIP_INDEX_URL"], "https://d/simple");
    }

    #[test]
    fn settings_that_would_change_what_is_downloaded_do_not_reach_pip() {
        let out = pip_environment(&env(&[("PIP_CONSTRAINT", "c.txt"), ("PYTHONPATH", "x"), ("PIP_CERT", "ca")]), None);
        assert!(!out.contains_key("PIP_CONSTRAINT") && !out.contains_key("PYTHONPATH"));
        assert_eq!(out["PIP_CERT"], "ca");
    }

    #[test]
    fn what_pip_says_is_told_apart() {
        let retry = "WARNING: Retrying ... NewConnectionError: Failed to establish a new connection\n\
            ERROR: No matching distribution found for x==1\n";
        assert!(matches!(classify(retry), Problem::Unreachable(_)));
        let none = "ERROR: Could not find a version\nERROR: No matching distribution found for x==1\n";
        assert_eq!(classify(none), Problem::NoMatch("x==1".into()));
        let hash = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    x==1 from y:\n   Expected a\n";
        assert_eq!(classify(hash), Problem::Hash("x==1 from y:\nExpected a".into()));
        assert_eq!(classify("OSError: [Errno 28] No space left on device"), Problem::DiskFull);
        assert_eq!(classify("boom"), Problem::Other);
        let unknown = "Could not fetch URL https://a/simple/x/: 404 Client Error: Not Found for url\n\
            ERROR: No matching distribution found for x==1\n";
        assert_eq!(classify(unknown), Problem::NoMatch("x==1".into()));
    }
}
