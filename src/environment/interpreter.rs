//! Which Python, and what it says about itself.
//!
//! An interpreter is asked once (`python -I -S`, a small script) and the answer is kept under its real path, size,
//! modification time and inode, so that a warm call starts no Python. Shims (pyenv, asdf) are shell scripts that pick
//! another interpreter in another directory; they are never run, the interpreters behind them are looked up where these
//! tools keep them.
//!
//! Does not judge whether a version is good enough: that is the plan's.

use super::PathError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const PROBE: &str = include_str!("../lib_py/ft_probe.py");
/// An interpreter that does not answer in this time is passed over.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Changes when the probe says more.
const CACHE_VERSION: u32 = 1;

/// Where to look. Values of the caller, so that nothing here reads the process's environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// The entries of `PATH`.
    pub entries: Vec<PathBuf>,
    /// The caller's home: pyenv, uv, asdf and mise keep interpreters there.
    pub home: Option<PathBuf>,
    /// Further directories that hold `python*`, looked at first.
    pub extra: Vec<PathBuf>,
}

/// An interpreter and what it says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// What was asked for: `3.11` or `3.11.7`.
    pub request: String,
    /// The real path of the executable.
    pub executable: PathBuf,
    /// sha256 of the executable, in hex.
    pub sha256: String,
    /// The image that it is in; `None` for one of this machine.
    #[serde(default)]
    pub image: Option<String>,
    /// What it said.
    #[serde(flatten)]
    pub facts: InterpreterFacts,
}

/// The answer of an interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterpreterFacts {
    /// `sys.base_prefix`.
    pub prefix: PathBuf,
    /// The full version, `3.11.7`.
    pub version: String,
    /// `cpython-311`: the infix of bytecode files.
    pub cache_tag: String,
    /// `SOABI`: `cpython-311-x86_64-linux-gnu`.
    pub abi: String,
    /// Whether it was built without the global lock; its wheels are other ones.
    pub free_threaded: bool,
    /// `sysconfig.get_platform()`: `linux-x86_64`.
    pub platform: String,
    /// `glibc 2.36`; which `manylinux` wheels fit depends on it.
    pub libc: String,
    /// Where its standard library is.
    pub stdlib: PathBuf,
    /// Its own site-packages: where a `pip` of its own would be.
    pub host_purelib: PathBuf,
    /// site-packages of an environment, relative to it: `lib/python3.11/site-packages`.
    pub purelib: String,
    /// The same for compiled packages; `lib64/...` on some systems.
    pub platlib: String,
    /// PEP 508: the values that markers are evaluated with, by marker name.
    pub markers: BTreeMap<String, String>,
}

impl Interpreter {
    /// `3.11`.
    #[must_use]
    pub fn minor(&self) -> &str {
        minor_of(&self.facts.version)
    }

    /// Everything that decides which wheels fit, one fact a line.
    #[must_use]
    pub fn tags(&self) -> String {
        let f = &self.facts;
        let marker = |name: &str| f.markers.get(name).map_or("", String::as_str);
        format!(
            "{} {}\nabi {}\nplatform {}\nlibc {}\n",
            marker("implementation_name"),
            self.minor(),
            f.abi,
            f.platform,
            f.libc
        )
    }
}

pub(super) fn minor_of(version: &str) -> &str {
    version.match_indices('.').nth(1).map_or(version, |(at, _)| &version[..at])
}

/// No interpreter answers the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no Python {request} found{}", found_text(.found))]
pub struct NotFound {
    /// What was asked for.
    pub request: String,
    /// What is there instead, with its version, in the order of the search.
    pub found: Vec<(PathBuf, String)>,
}

fn found_text(found: &[(PathBuf, String)]) -> String {
    if found.is_empty() {
        return ", nor any other".to_owned();
    }
    let list: Vec<String> = found.iter().map(|(path, version)| format!("{version} ({})", path.display())).collect();
    format!("; there is {}", list.join(", "))
}

impl NotFound {
    /// What the reader can do.
    #[must_use]
    pub fn hint(&self) -> String {
        format!("install it, for example with `uv python install {0}` or `pyenv install {0}`", self.request)
    }
}

/// Answers of interpreters, kept in a file. Losing it costs time only.
#[derive(Debug, Default)]
pub struct Memory {
    path: Option<PathBuf>,
    known: BTreeMap<PathBuf, Remembered>,
    changed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Remembered {
    stamp: Stamp,
    sha256: String,
    /// `None`: it did not answer, and is not asked again until it changes.
    facts: Option<InterpreterFacts>,
}

/// What identifies a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    mtime: i64,
    mtime_ns: i64,
    ino: u64,
}

#[derive(Serialize, Deserialize)]
struct MemoryFile {
    version: u32,
    interpreters: BTreeMap<PathBuf, Remembered>,
}

impl Memory {
    /// Reads the file; one that is missing or can't be read is an empty memory.
    #[must_use]
    pub fn open(path: PathBuf) -> Memory {
        let known = fs_err::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<MemoryFile>(&bytes).ok())
            .filter(|file| file.version == CACHE_VERSION)
            .map(|file| file.interpreters)
            .unwrap_or_default();
        Memory { path: Some(path), known, changed: false }
    }

    /// Writes the file if something was learnt.
    ///
    /// # Errors
    /// The path that could not be written.
    pub fn save(&mut self) -> Result<(), PathError> {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else { return Ok(()) };
        self.known.retain(|path, _| path.exists());
        let file = MemoryFile { version: CACHE_VERSION, interpreters: self.known.clone() };
        let bytes = serde_json::to_vec(&file).expect("paths of interpreters that were run are UTF-8 or refused");
        super::seal::write_atomic(path, &bytes)?;
        self.changed = false;
        Ok(())
    }

    fn ask(&mut self, executable: &Path) -> Option<(InterpreterFacts, String)> {
        let meta = std::fs::metadata(executable).ok()?;
        let stamp = Stamp { size: meta.size(), mtime: meta.mtime(), mtime_ns: meta.mtime_nsec(), ino: meta.ino() };
        if let Some(known) = self.known.get(executable).filter(|known| known.stamp == stamp) {
            return known.facts.clone().map(|facts| (facts, known.sha256.clone()));
        }
        executable.to_str()?;
        let sha256 = sha256_file(executable).ok()?;
        let facts = probe(executable);
        self.changed = true;
        self.known.insert(executable.to_path_buf(), Remembered { stamp, sha256: sha256.clone(), facts: facts.clone() });
        facts.map(|facts| (facts, sha256))
    }
}

fn sha256_file(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Asks one interpreter. `None` where it does not answer in time or not with what we asked for.
fn probe(executable: &Path) -> Option<InterpreterFacts> {
    let mut child = Command::new(executable)
        .args(["-I", "-S", "-c", PROBE])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // The answer is far below the size of a pipe's buffer, so it can be read when the process is over.
    let deadline = Instant::now() + PROBE_TIMEOUT;
    let status = loop {
        match child.try_wait().ok()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().ok();
                child.wait().ok();
                return None;
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let mut answer = Vec::new();
    child.stdout.take()?.read_to_end(&mut answer).ok()?;
    if !status.success() {
        return None;
    }
    serde_json::from_slice(&answer).ok()
}

/// Finds an interpreter for `3.11` or `3.11.7`: an exact match of all that was asked for first, then `prefer` (the
/// patch release that was locked for `3.11`), then the first of the same minor version in the order of the search.
/// Whether another patch release than the locked one is accepted is decided by who asked.
///
/// # Errors
/// [`NotFound`], with every interpreter that was seen.
pub fn find(
    request: &str,
    prefer: Option<&str>,
    search: &SearchPath,
    memory: &mut Memory,
) -> Result<Interpreter, NotFound> {
    let free_threaded = request.ends_with('t');
    let wanted = request.trim_end_matches('t');
    let minor = minor_of(wanted);
    let mut same_minor: Vec<Interpreter> = Vec::new();
    for executable in candidates(search, Some(minor)).iter().filter(|path| may_be(path, minor)) {
        let Some((facts, sha256)) = memory.ask(executable) else { continue };
        if minor_of(&facts.version) == minor && facts.free_threaded == free_threaded {
            let executable = executable.clone();
            same_minor.push(Interpreter { request: request.to_owned(), executable, sha256, image: None, facts });
        }
    }
    let exact = |version: &str| same_minor.iter().position(|i| i.facts.version == version);
    let index = exact(wanted).or_else(|| prefer.and_then(exact)).or((!same_minor.is_empty()).then_some(0));
    if let Some(index) = index {
        return Ok(same_minor.swap_remove(index));
    }
    Err(NotFound { request: request.to_owned(), found: all(search, memory) })
}

/// Every interpreter that answers, with its version, in the order of the search.
pub fn all(search: &SearchPath, memory: &mut Memory) -> Vec<(PathBuf, String)> {
    candidates(search, None)
        .into_iter()
        .filter_map(|path| memory.ask(&path).map(|(facts, _)| (path, facts.version)))
        .collect()
}

/// Whether a file named like this can be the minor version: `python3.10` is not 3.11, `python3` may be.
fn may_be(path: &Path, minor: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let rest = name.strip_prefix("python").unwrap_or(name).trim_end_matches('t');
    !rest.contains('.') || rest == minor
}

/// The real paths of everything that is named like an interpreter (of this minor version, or of any), in the order of
/// the search, without repetition.
fn candidates(search: &SearchPath, minor: Option<&str>) -> Vec<PathBuf> {
    let mut directories = search.extra.clone();
    for entry in &search.entries {
        // What stands in for an interpreter on `PATH` counts where it stands there.
        match entry.file_name().and_then(|name| name.to_str()).zip(entry.parent()) {
            Some(("shims", manager)) => {
                directories
                    .extend(["versions", "installs/python"].iter().flat_map(|d| installations(&manager.join(d))));
            }
            _ => directories.push(entry.clone()),
        }
    }
    if let Some(home) = &search.home {
        for kept in
            [".pyenv/versions", ".local/share/uv/python", ".asdf/installs/python", ".local/share/mise/installs/python"]
        {
            directories.extend(installations(&home.join(kept)));
        }
    }
    directories.extend(["/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    directories.extend(installations(Path::new("/opt")));
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut looked = BTreeSet::new();
    for directory in directories.into_iter().filter(|directory| directory.is_absolute()) {
        if !looked.insert(directory.clone()) {
            continue;
        }
        let names = match minor {
            Some(minor) => {
                [format!("python{minor}"), format!("python{minor}t"), "python3".into(), "python".into()].into()
            }
            None => interpreter_names(&directory),
        };
        for name in names {
            let path = directory.join(name);
            // One call for the many that are not there; resolving a path costs one per component.
            if !path.exists() {
                continue;
            }
            let Ok(real) = path.canonicalize() else { continue };
            if seen.insert(real.clone()) && is_program(&real) {
                found.push(real);
            }
        }
    }
    found
}

/// `DIR/*/bin`, the highest version first.
fn installations(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<OsString> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    names.sort_by_cached_key(|name| (numbers(&name.to_string_lossy()), name.clone()));
    names.into_iter().rev().map(|name| directory.join(name).join("bin")).collect()
}

/// `cpython-3.11.10-linux` as 3, 11, 10: so that 3.11.10 stands above 3.11.9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// `python`, `python3`, `python3.N` and `python3.Nt` of a directory; the most specific names first.
fn interpreter_names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix("python").is_some_and(|rest| {
                let digits = rest.strip_prefix('3').unwrap_or(rest).trim_end_matches('t');
                digits.is_empty() || digits.strip_prefix('.').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
            })
        })
        .collect();
    names.sort_unstable_by_key(|name| std::cmp::Reverse(name.len()));
    names
}

/// An executable that is no script: shims are scripts, and what they would start depends on where they are called.
fn is_program(path: &Path) -> bool {
    let executable = std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    let mut head = [0; 2];
    executable && std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && &head != b"#!"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_patch_release_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["3.11.9", "3.11.10", "3.9.1"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let found = installations(directory.path());
        let names: Vec<_> = found.iter().map(|p| p.strip_prefix(directory.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["3.11.10/bin", "3.11.9/bin", "3.9.1/bin"]);
    }

    #[test]
    fn a_file_named_for_another_version_is_not_asked() {
        for (name, may) in [("python3.11", true), ("python3.10", false), ("python3", true), ("python3.11t", true)] {
            assert_eq!(may_be(Path::new(name), "3.11"), may, "{name}");
        }
    }

    #[test]
    fn a_shim_is_never_run_and_what_stands_behind_it_is_found_in_its_place() {
        let home = tempfile::tempdir().unwrap();
        let (shims, real) = (home.path().join(".pyenv/shims"), home.path().join(".pyenv/versions/9.9.1/bin"));
        std::fs::create_dir_all(&shims).unwrap();
        std::fs::create_dir_all(&real).unwrap();
        for (path, text) in [(shims.join("python9.9"), "#!/bin/sh\n"), (real.join("python9.9"), "\x7fELF")] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let search = SearchPath { entries: vec![shims], ..SearchPath::default() };
        let found = candidates(&search, Some("9.9"));
        assert_eq!(found[0], real.join("python9.9").canonicalize().unwrap());
        assert!(!found.iter().any(|path| path.ends_with("shims/python9.9")));
    }
}
