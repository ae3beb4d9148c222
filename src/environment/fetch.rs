//! Which wheel of a pinned package fits this interpreter, downloaded by pip and verified against the lock.
//!
//! The wheel store is shared between clones: `files/SHA256/NAME.whl`, `choices/` (which of the locked files fits an
//! interpreter), and `unpacked/` (see [`super::wheel`]). A choice is pip's, made once: the set of locked hashes and the
//! tags of the interpreter decide it, so it holds for as long as these two stay what they are.
//!
//! A download needs the user's world (index, proxy, certificates, netrc), so pip runs outside cells with the caller's
//! environment; it unpacks and executes nothing. Every file is compared with the lock's sha256 on every use.

use super::interpreter::Interpreter;
use super::{PathError, Pinned, Progress, Report, dists, layout, seal};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

/// The caller's world, as far as a download needs it.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Prove that nothing is fetched.
    pub offline: bool,
    /// The caller's environment variables.
    pub env: BTreeMap<String, OsString>,
    /// The text of the user's `uv.toml`, where there is one: its indexes count where pip has none.
    pub uv_toml: Option<String>,
    /// The user's `uv`, where there is one: it can bring a pip where the interpreter has none.
    pub uv: Option<PathBuf>,
}

/// The file of a pinned package that fits an interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its digest in hex.
    pub sha256: String,
    /// `name-version-tags.whl`, or an sdist.
    pub file: String,
}

impl Chosen {
    /// Whether it has to be built first.
    #[must_use]
    pub fn is_sdist(&self) -> bool {
        !self.file.ends_with(".whl")
    }
}

/// Why wheels could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// `--offline`, and these are not in the store.
    #[error("offline, and not in the wheel store: {}", .0.join(", "))]
    Offline(Vec<String>),
    /// No index answered. Infrastructure.
    #[error("package index unreachable: {0}")]
    Unreachable(String),
    /// The index serves other bytes than the lock names.
    #[error("{package}: no file has a hash of the lock\n{detail}")]
    Hash {
        /// `name==version`.
        package: String,
        /// Expected and found.
        detail: String,
    },
    /// No wheel fits this interpreter and platform.
    #[error("{package}: no wheel for {interpreter}; the index has {}", exist_text(.exist))]
    NoWheel {
        /// `name==version`.
        package: String,
        /// Which Python and platform.
        interpreter: String,
        /// Files of this version that the index has.
        exist: Vec<String>,
    },
    /// There is only an sdist, and the lock does not allow one.
    #[error("{package}: no wheel for {interpreter}, only the sdist {sdist}")]
    SdistOnly {
        /// `name==version`.
        package: String,
        /// Which Python and platform.
        interpreter: String,
        /// Its file name.
        sdist: String,
    },
    /// Nothing here can download.
    #[error("{} has no pip, and there is no uv", .0.display())]
    NoDownloader(PathBuf),
    /// pip ended with something else.
    #[error("pip failed:\n{0}")]
    Failed(String),
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] PathError),
}

fn exist_text(exist: &[String]) -> String {
    if exist.is_empty() { "no file of this version".to_owned() } else { exist.join(", ") }
}

impl FetchError {
    /// What the reader can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Offline(_) => "run once without `--offline`, or point pip at a directory with `PIP_FIND_LINKS`",
            Self::Unreachable(_) => {
                "check the network, and the index, proxy and certificate settings of pip (`pip config list`)"
            }
            Self::Hash { .. } => {
                "the index serves a file that was not there when the lock was written; find out why before `ft lock`"
            }
            Self::NoWheel { .. } => "lock a version that has a wheel for this platform, or use container mode",
            Self::SdistOnly { .. } => {
                "allow the build with `environment.sdists` in the lock, or lock a version with wheels"
            }
            Self::NoDownloader(_) => "install pip for this interpreter (`python -m ensurepip`), or uv",
            Self::Failed(_) => "the last lines above are pip's own",
            Self::Io(error) if error.disk_full() => "the disk is full: `ft gc` frees what ft keeps",
            Self::Io(_) => "check the permissions of that path",
        }
        .to_owned()
    }
}

/// Wheels, shared between clones.
#[derive(Debug, Clone)]
pub struct WheelStore {
    root: PathBuf,
}

impl WheelStore {
    /// The store at this directory, which is made when something is put into it.
    #[must_use]
    pub fn open(root: PathBuf) -> WheelStore {
        WheelStore { root }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The lock of everything that writes to the store.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Where unpacked wheels stand.
    #[must_use]
    pub fn unpacked(&self) -> PathBuf {
        self.root.join("unpacked")
    }

    /// Where a chosen file stands, if it is there.
    #[must_use]
    pub fn file(&self, chosen: &Chosen) -> PathBuf {
        self.root.join("files").join(&chosen.sha256).join(&chosen.file)
    }

    fn choice_path(&self, pinned: &Pinned, interpreter: &Interpreter) -> PathBuf {
        let mut hashes = pinned.hashes.clone();
        hashes.sort_unstable();
        hashes.dedup();
        let text = format!(
            "{} {} {}\n{}\n{}",
            pinned.name,
            pinned.version,
            pinned.sdist,
            interpreter.tags(),
            hashes.join("\n")
        );
        self.root.join("choices").join(&hex::encode(Sha256::digest(text))[..40])
    }

    /// The file that was chosen before, whether or not it is still there.
    #[must_use]
    pub fn chosen(&self, pinned: &Pinned, interpreter: &Interpreter) -> Option<Chosen> {
        let text = std::fs::read_to_string(self.choice_path(pinned, interpreter)).ok()?;
        let (sha256, file) = text.trim_end().split_once(' ')?;
        let locked = pinned.hashes.iter().any(|hash| hash.strip_prefix("sha256:") == Some(sha256));
        (locked && plain_name(file)).then(|| Chosen { sha256: sha256.to_owned(), file: file.to_owned() })
    }

    /// The chosen file, if it is there and its bytes are the lock's. Another content is thrown away.
    ///
    /// # Errors
    /// The file is there and can't be read or removed.
    pub fn verified(
        &self,
        pinned: &Pinned,
        interpreter: &Interpreter,
    ) -> Result<Result<Chosen, Option<PathBuf>>, PathError> {
        let Some(chosen) = self.chosen(pinned, interpreter) else { return Ok(Err(None)) };
        let path = self.file(&chosen);
        match seal::hash_file(&path) {
            Ok((_, sha256)) if hex::encode(sha256) == chosen.sha256 => Ok(Ok(chosen)),
            Ok(_) => {
                std::fs::remove_file(&path).map_err(PathError::at(&path))?;
                Ok(Err(Some(path)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Err(None)),
            Err(error) => Err(PathError::at(&path)(error)),
        }
    }

    /// Downloads what is missing. The caller holds the store's lock.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(
        &self,
        missing: &[Pinned],
        interpreter: &Interpreter,
        settings: &Settings,
        report: Report<'_>,
    ) -> Result<(), FetchError> {
        if missing.is_empty() {
            return Ok(());
        }
        if settings.offline {
            return Err(FetchError::Offline(missing.iter().map(requirement).collect()));
        }
        report(Progress::Fetching { packages: missing.len() });
        layout::create_dirs(&self.root)?;
        let pip = Pip::find(interpreter, settings)?;
        let (flexible, wheels): (Vec<&Pinned>, Vec<&Pinned>) = missing.iter().partition(|pinned| pinned.sdist);
        self.download(&pip, &wheels, interpreter, report).await?;
        for pinned in flexible {
            match self.download(&pip, &[pinned], interpreter, report).await {
                // A wheel that the index has and the lock does not name is no reason to take none of what it names.
                Err(FetchError::SdistOnly { .. } | FetchError::NoWheel { .. } | FetchError::Hash { .. }) => {
                    self.download_sdist(&pip, pinned, interpreter, report).await?;
                }
                other => other?,
            }
        }
        Ok(())
    }

    async fn download(
        &self,
        pip: &Pip,
        packages: &[&Pinned],
        interpreter: &Interpreter,
        report: Report<'_>,
    ) -> Result<(), FetchError> {
        if packages.is_empty() {
            return Ok(());
        }
        let directory = self.temporary()?;
        let requirements = directory.path().join("requirements.txt");
        std::fs::write(&requirements, requirements_text(packages)).map_err(PathError::at(&requirements))?;
        let into = directory.path().join("wheels");
        layout::create_dir(&into)?;
        let arguments = |verbose: bool| {
            let mut arguments: Vec<OsString> = ["download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
                .into_iter()
                .chain(["--disable-pip-version-check", "--no-input", "--progress-bar", "off"])
                .map(OsString::from)
                .collect();
            arguments.extend(verbose.then(|| "-vvv".into()));
            arguments.extend(["-d".into(), into.clone().into(), "-r".into(), requirements.clone().into()]);
            arguments
        };
        let (success, output) = pip.run(&arguments(false), directory.path(), report).await?;
        if !success {
            let problem = classify(&output);
            // Which files there are is only said when asked for; one more call, to say it better.
            if let Problem::NoMatch(package) = &problem
                && let Some(pinned) = packages.iter().find(|p| requirement(p) == *package)
            {
                std::fs::write(&requirements, requirements_text(&[pinned])).map_err(PathError::at(&requirements))?;
                let (_, verbose) = pip.run(&arguments(true), directory.path(), &mut |_| {}).await?;
                return Err(no_wheel(package.clone(), interpreter, &verbose, &pinned.version));
            }
            return Err(problem.into_error(interpreter, output));
        }
        for entry in std::fs::read_dir(&into).map_err(PathError::at(&into))? {
            let path = entry.map_err(PathError::at(&into))?.path();
            self.keep(&path, packages, interpreter)?;
        }
        for pinned in packages {
            if self.chosen(pinned, interpreter).is_none() {
                return Err(FetchError::Failed(format!(
                    "pip downloaded no file for {}\n{output}",
                    requirement(pinned)
                )));
            }
        }
        Ok(())
    }

    /// A source archive is looked up by our own reader of the index's pages: pip would run the archive's build backend
    /// to learn its name, outside of any cell.
    async fn download_sdist(
        &self,
        pip: &Pip,
        pinned: &Pinned,
        interpreter: &Interpreter,
        report: Report<'_>,
    ) -> Result<(), FetchError> {
        let directory = self.temporary()?;
        let script = directory.path().join("ft_sdist.py");
        std::fs::write(&script, include_str!("../lib_py/ft_sdist.py")).map_err(PathError::at(&script))?;
        let into = directory.path().join("sdist");
        layout::create_dir(&into)?;
        report(Progress::Downloading { what: format!("{} (sdist)", requirement(pinned)) });
        let Some(import_from) = &pip.import_from else { return Err(FetchError::NoDownloader(pip.program.clone())) };
        let mut arguments: Vec<OsString> = vec!["-I".into(), script.into(), import_from.into(), into.clone().into()];
        arguments.extend([pinned.name.clone(), pinned.version.clone()].map(OsString::from));
        arguments.extend(pinned.hashes.iter().map(OsString::from));
        let (success, output) =
            run_logged(&interpreter.executable, &arguments, &pip.env, directory.path(), &mut |_| {}).await?;
        if !success {
            return Err(classify(&output).into_error(interpreter, output));
        }
        for entry in std::fs::read_dir(&into).map_err(PathError::at(&into))? {
            self.keep(&entry.map_err(PathError::at(&into))?.path(), &[pinned], interpreter)?;
        }
        match self.chosen(pinned, interpreter) {
            Some(_) => Ok(()),
            None => Err(FetchError::Failed(format!("no source archive for {}\n{output}", requirement(pinned)))),
        }
    }

    /// Moves one downloaded file to where its digest says, if the lock names it.
    fn keep(&self, path: &Path, packages: &[&Pinned], interpreter: &Interpreter) -> Result<(), FetchError> {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let (_, sha256) = seal::hash_file(path).map_err(PathError::at(path))?;
        let sha256 = hex::encode(sha256);
        let locked = format!("sha256:{sha256}");
        let Some(pinned) = packages.iter().find(|pinned| pinned.hashes.contains(&locked)).filter(|_| plain_name(&file))
        else {
            let detail = format!("{file} has {locked}");
            return Err(FetchError::Hash { package: file, detail });
        };
        let chosen = Chosen { sha256, file };
        let target = self.file(&chosen);
        if let Some(directory) = target.parent() {
            layout::create_dirs(directory)?;
        }
        std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(PathError::at(path))?;
        std::fs::rename(path, &target).map_err(PathError::at(&target))?;
        self.choose(pinned, interpreter, &chosen)
    }

    /// Remembers which file fits.
    fn choose(&self, pinned: &Pinned, interpreter: &Interpreter, chosen: &Chosen) -> Result<(), FetchError> {
        let path = self.choice_path(pinned, interpreter);
        if let Some(directory) = path.parent() {
            layout::create_dirs(directory)?;
        }
        Ok(seal::write_atomic(&path, format!("{} {}\n", chosen.sha256, chosen.file).as_bytes())?)
    }

    fn temporary(&self) -> Result<tempfile::TempDir, PathError> {
        tempfile::Builder::new().prefix(".tmp-").tempdir_in(&self.root).map_err(PathError::at(&self.root))
    }

    /// Removes what an interrupted writer left. The caller holds the store's lock.
    ///
    /// # Errors
    /// A leftover that can't be removed.
    pub fn sweep(&self) -> Result<usize, PathError> {
        super::store::sweep(&self.root, ".tmp-")
    }
}

/// A file name and nothing more.
fn plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/') && seal::sealable(name)
}

fn requirement(pinned: &Pinned) -> String {
    format!("{}=={}", pinned.name, pinned.version)
}

/// A hashed requirements file of exactly these packages.
#[must_use]
pub fn requirements_text(packages: &[&Pinned]) -> String {
    let mut text = String::new();
    for pinned in packages {
        write!(text, "{}", requirement(pinned)).expect("writing to a String");
        for hash in &pinned.hashes {
            write!(text, " \\\n    --hash={hash}").expect("writing to a String");
        }
        text.push('\n');
    }
    text
}

/// A pip that can be started.
struct Pip {
    program: PathBuf,
    first: Vec<OsString>,
    /// What to put on the path to import pip in the interpreter, empty for nothing; `None` where it can't be imported.
    import_from: Option<OsString>,
    env: BTreeMap<String, OsString>,
}

impl Pip {
    fn find(interpreter: &Interpreter, settings: &Settings) -> Result<Pip, FetchError> {
        let env = pip_environment(&settings.env, settings.uv_toml.as_deref());
        let program = interpreter.executable.clone();
        let facts = &interpreter.facts;
        let own = [facts.host_purelib.clone(), facts.prefix.join("lib/python3/dist-packages")];
        if own.iter().any(|site| site.join("pip/__init__.py").is_file()) {
            return Ok(Pip {
                program,
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
                first: vec!["-I".into(), wheel.join("pip").into()],
                import_from: Some(wheel.into()),
                env,
            });
        }
        match &settings.uv {
            Some(uv) => {
                let first = ["tool", "run", "--python"].map(OsString::from).into_iter();
                let first = first.chain([program.into(), "pip".into()]).collect();
                Ok(Pip { program: uv.clone(), first, import_from: None, env })
            }
            None => Err(FetchError::NoDownloader(program)),
        }
    }

    async fn run(&self, arguments: &[OsString], cwd: &Path, report: Report<'_>) -> Result<(bool, String), FetchError> {
        let all: Vec<OsString> = self.first.iter().chain(arguments).cloned().collect();
        run_logged(&self.program, &all, &self.env, cwd, report).await
    }
}

/// Runs a program to its end, output and error output in one text; it is killed when nobody waits for it any more.
async fn run_logged(
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
enum Problem {
    DiskFull,
    Hash(String),
    Unreachable(String),
    NoMatch(String),
    Other,
}

fn classify(output: &str) -> Problem {
    let line_with = |text: &str| output.lines().find(|line| line.contains(text)).map(|line| line.trim().to_owned());
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
    fn into_error(self, interpreter: &Interpreter, output: String) -> FetchError {
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
fn no_wheel(package: String, interpreter: &Interpreter, verbose: &str, version: &str) -> FetchError {
    let mut exist: Vec<String> = verbose
        .lines()
        .filter(|line| line.contains("Skipping link"))
        .filter_map(|line| line.split_whitespace().find(|word| word.contains("://")))
        .filter_map(|url| url.split('#').next()?.rsplit('/').next().map(str::to_owned))
        .filter(|file| is_of_version(file, version))
        .collect();
    exist.sort_unstable();
    exist.dedup();
    let interpreter = platform_text(interpreter);
    match exist.as_slice() {
        [sdist] if !sdist.ends_with(".whl") => FetchError::SdistOnly { package, interpreter, sdist: sdist.clone() },
        _ => FetchError::NoWheel { package, interpreter, exist },
    }
}

fn is_of_version(file: &str, version: &str) -> bool {
    let stem = file.strip_suffix(".tar.gz").or_else(|| file.strip_suffix(".zip"));
    match stem {
        Some(stem) => stem.rsplit_once('-').is_some_and(|(_, v)| dists::normalise(v) == dists::normalise(version)),
        None => file.split('-').nth(1).is_some_and(|v| dists::normalise(v) == dists::normalise(version)),
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
    }
}
