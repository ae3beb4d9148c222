//! Which wheel of a pinned package fits this interpreter, downloaded by pip and verified against the lock.
//!
//! The wheel store is shared between clones: `files/SHA256/NAME.whl`, `choices/` (which of the locked files fits an
//! interpreter), and `unpacked/` (see [`super::wheel`]). A choice is pip's, made once: the set of locked hashes and the
//! tags of the interpreter decide it, so it holds for as long as these two stay what they are.
//!
//! A download needs the user's world (index, proxy, certificates, netrc), so pip runs outside cells with the caller's
//! environment; it unpacks and executes nothing. Every file is compared with the lock's sha256 on every use.

use super::interpreter::Interpreter;
use super::pip::{self, Pip, Problem, classify, no_wheel};
use super::{PathError, Pinned, Progress, Report, layout, locks, seal};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The caller's world, as far as a download needs it.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Prove that nothing is fetched.
    pub offline: bool,
    /// The caller's environment variables.
    pub env: BTreeMap<String, OsString>,
    /// The text of the user's `uv.toml`, where there is one: its indexes count where pip has none.
    pub uv_toml: Option<String>,
    /// A Python of this machine that runs pip, where the one to install for is in an image.
    pub host: Option<Interpreter>,
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
                "the lock knows no file for this platform: pip resolves for its own machine alone (install uv, then \
                 `ft lock --upgrade`), or the file came after the lock (find out why before `ft lock`)"
            }
            Self::NoWheel { .. } => "lock a version that has a wheel for this platform",
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
            arguments.extend(pip::platform_arguments(interpreter));
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
            pip::run_logged(&pip.python, &arguments, &pip.env, directory.path(), &mut |_| {}).await?;
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

    /// Bytes of everything in the store.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        bytes_below(&self.root)
    }

    /// Removes files and unpacked wheels, least recently used first, until the rest has no more than `budget` bytes.
    /// Returns how many bytes were freed; nothing where another process uses the store. What is removed is fetched or
    /// unpacked again when it is needed.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn gc(&self, budget: u64) -> Result<u64, PathError> {
        if !self.root.is_dir() {
            return Ok(0);
        }
        let Some(_alone) = locks::try_exclusive(&self.lock_path())? else { return Ok(0) };
        self.sweep()?;
        let mut kept: Vec<(std::time::SystemTime, u64, PathBuf)> = Vec::new();
        for part in ["files", "unpacked", "built"] {
            for entry in std::fs::read_dir(self.root.join(part)).into_iter().flatten().flatten() {
                let used = entry.metadata().and_then(|meta| meta.modified()).unwrap_or(std::time::UNIX_EPOCH);
                kept.push((used, bytes_below(&entry.path()), entry.path()));
            }
        }
        kept.sort_unstable();
        let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        let mut freed = 0;
        for (_, bytes, path) in kept {
            if total <= budget {
                break;
            }
            // By a rename first, so that a half-removed one has no name that is looked up.
            let doomed = self.root.join(format!(".tmp-gone-{}", std::process::id()));
            std::fs::rename(&path, &doomed).map_err(PathError::at(&path))?;
            super::store::remove_tree(&doomed)?;
            total -= bytes;
            freed += bytes;
        }
        Ok(freed)
    }

    /// Removes what an interrupted writer left. The caller holds the store's lock.
    ///
    /// # Errors
    /// A leftover that can't be removed.
    pub fn sweep(&self) -> Result<usize, PathError> {
        super::store::sweep(&self.root, ".tmp-")
    }
}

/// Bytes of every regular file below a directory; what can't be read counts as nothing.
fn bytes_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
        .fold(0, |sum, (meta, path)| sum + if meta.is_dir() { bytes_below(&path) } else { meta.len() })
}

/// A file name and nothing more.
pub(super) fn plain_name(name: &str) -> bool {
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
