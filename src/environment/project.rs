//! The jobs around the project under test: making it importable (the layer), building a wheel of it, importing that
//! wheel; and building a wheel of a locked sdist.
//!
//! All four are descriptions; the work is done by our scripts inside a cell without network, by the project's own build
//! backend from the locked environment.
//!
//! The layer comes back in `/ft/out/layer`: `site/` (metadata, `.pth` files, finder modules) and `bin/` (scripts) are
//! mounted together at `/ft/project`; `tree/` holds what the build created or changed in the tree (compiled extensions,
//! a generated `_version.py`) and goes on top of the snapshot in every step's view of it. `layer.json` says how it went.

use super::Job;
use super::interpreter::Interpreter;
use crate::cell::{Mount, Walls, Work};
use crate::frame::Manifest;
use crate::step::{Limits, Network};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What the jobs share.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The interpreter of the environment.
    pub interpreter: &'a Interpreter,
    /// The environment's directory on the host.
    pub env: &'a Path,
    /// Our Python files on the host.
    pub lib: &'a Path,
    /// `SOURCE_DATE_EPOCH` for builds: the time of the commit, seconds since 1970.
    pub source_date_epoch: Option<u64>,
}

/// A manifest with what every job of a build has in common.
pub(crate) fn manifest() -> Manifest {
    let env = [
        ("PATH", "/ft/env/bin:/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/ft/home"),
        ("LANG", "C.UTF-8"),
        ("LC_ALL", "C.UTF-8"),
        ("TZ", "UTC"),
        ("TMPDIR", "/tmp"),
        ("PYTHONHASHSEED", "0"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PIP_NO_INDEX", "1"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
    ];
    Manifest {
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        cwd: "/ft/work".to_owned(),
        timeout_ms: 30 * 60 * 1000,
        grace_ms: 2000,
        output_bytes: 16 << 20,
        artifact_entries: 500_000,
        artifact_bytes: 8 << 30,
        artifact_ms: 10 * 60 * 1000,
        ..Manifest::default()
    }
}

fn job(
    world: &World<'_>,
    name: &str,
    script: &str,
    arguments: &[&str],
    work: Work,
    out: PathBuf,
    scratch: PathBuf,
) -> Job {
    let mount = |host: &Path, cell: &str| Mount { host: host.to_path_buf(), cell: cell.to_owned(), writable: false };
    let mut manifest = manifest();
    // A script's own directory stands first on its path, not the working directory: a `build.py` of the project shadows
    // nothing. Not `-I`, which would ignore PYTHONHASHSEED: what a build writes must not depend on the order of sets.
    manifest.argv =
        ["/ft/env/bin/python", "-s", script].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    if let Some(epoch) = world.source_date_epoch {
        manifest.env.push(("SOURCE_DATE_EPOCH".to_owned(), epoch.to_string()));
    }
    Job {
        name: name.to_owned(),
        walls: Walls {
            work,
            mounts: vec![mount(world.env, "/ft/env"), mount(world.lib, super::lib_dir::SEEN_AT)],
            interpreter: Some(world.interpreter.facts.prefix.clone()),
            network: Network::Loopback,
            limits: Limits::default(),
            keep: false,
            scratch,
        },
        manifest,
        out,
    }
}

/// Makes the project layer of a tree (`tree`: the directories of the step's view, top first). Read the result with
/// [`read_layer`].
#[must_use]
pub fn layer_job(world: &World<'_>, tree: Vec<PathBuf>, out: PathBuf, scratch: PathBuf) -> Job {
    let arguments = ["layer", "/ft/work", "/ft/out/layer"];
    job(world, "making the project layer", "/ft/lib/ft_project.py", &arguments, Work::View(tree), out, scratch)
}

/// Builds a wheel of the tree into `/ft/out/dist`: the build gate.
#[must_use]
pub fn build_job(world: &World<'_>, tree: Vec<PathBuf>, out: PathBuf, scratch: PathBuf) -> Job {
    let arguments = ["wheel", "/ft/work", "/ft/out/dist"];
    job(world, "building the wheel", "/ft/lib/ft_project.py", &arguments, Work::View(tree), out, scratch)
}

/// Installs the wheel of the build gate (`dist`: the directory that holds it) into an empty directory and imports these
/// names, out of sight of the tree: the import gate.
#[must_use]
pub fn import_job(world: &World<'_>, dist: &Path, names: &[String], out: PathBuf, scratch: PathBuf) -> Job {
    let arguments: Vec<&str> = std::iter::once("/ft/dist").chain(names.iter().map(String::as_str)).collect();
    let mut job = job(world, "importing the wheel", "/ft/lib/ft_import.py", &arguments, Work::Empty, out, scratch);
    job.walls.mounts.push(Mount { host: dist.to_path_buf(), cell: "/ft/dist".to_owned(), writable: false });
    job
}

/// Builds a wheel of a locked sdist into `/ft/out/dist`.
#[must_use]
pub fn sdist_job(world: &World<'_>, sdist: &Path, out: PathBuf, scratch: PathBuf) -> Job {
    let seen = format!("/ft/sdist/{}", sdist.file_name().unwrap_or_default().to_string_lossy());
    let arguments = ["sdist", &seen, "/ft/out/dist"];
    let mut job = job(world, "building a wheel", "/ft/lib/ft_project.py", &arguments, Work::Empty, out, scratch);
    let host = sdist.parent().unwrap_or(sdist).to_path_buf();
    job.walls.mounts.push(Mount { host, cell: "/ft/sdist".to_owned(), writable: false });
    job
}

/// How the making of a layer went: `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Layer {
    /// The build backend, as `[build-system]` names it.
    pub backend: String,
    /// `build_editable`, or empty where the backend has none.
    #[serde(default)]
    pub hook: String,
    /// What went wrong; `None` where the layer is complete.
    #[serde(default)]
    pub problem: Option<LayerProblem>,
    /// Console scripts in `bin/`.
    #[serde(default)]
    pub scripts: Vec<String>,
    /// Files of the tree that the build created or changed, relative to it.
    #[serde(default)]
    pub tree: Vec<String>,
    /// Files of the tree that the build opened, relative to it; `None` where it did more than can be seen (it started
    /// a process, which may have read anything).
    #[serde(default)]
    pub reads: Option<Vec<String>>,
}

/// Why there is no layer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LayerProblem {
    /// Which kind.
    pub kind: LayerProblemKind,
    /// In words, with values.
    pub message: String,
}

/// The kinds of layer problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerProblemKind {
    /// Neither `pyproject.toml` nor `setup.py`: set `environment.project` to `none`.
    NoProject,
    /// `pyproject.toml` can't be read as one.
    Invalid,
    /// The backend, or something it requires, is not in the locked environment.
    Missing,
    /// The backend can't make an editable install (PEP 660).
    NoEditable,
    /// The backend failed; its output is in the log.
    Failed,
    /// It made something that is no wheel.
    BadWheel,
}

impl LayerProblemKind {
    /// What the reader can do.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::NoProject => "set `environment.project` to `none` in the lock, or add a pyproject.toml",
            Self::Invalid => "mend pyproject.toml",
            Self::Missing => "run `ft lock`: it locks the build backend beside the dependencies",
            Self::NoEditable => "lock a newer version of the build backend, or set `environment.project` to `none`",
            Self::Failed | Self::BadWheel => "read the log: it is the build backend that speaks there",
        }
    }
}

/// Reads what [`layer_job`] left in its `out`.
///
/// # Errors
/// The text of why there is no result: the script was ended before it could write one.
pub fn read_layer(out: &Path) -> Result<Layer, String> {
    let path = out.join("layer/layer.json");
    let bytes = fs_err::read(&path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}
