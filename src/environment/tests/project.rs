//! The project layer and the gates around it, with the build backends that people use, in cells.

use super::super::fetch::Settings;
use super::super::project::{Layer, LayerProblemKind, World, build_job, import_job, layer_job, read_layer};
use super::super::store::{Ready, Spec, Store};
use super::super::{JobEnd, RunJob, lib_dir};
use super::{InCell, block, interpreter, pinned, settings, shared_wheels};
use crate::cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const BACKENDS: &[(&str, &str, &str)] = &[
    ("editables", "0.5", "61e5ffa82629e0d8bfe09bc44a07db3c1ab8ed1ce78a6980732870f19b5e7d4c"),
    ("flit-core", "3.10.1", "cb31a76e8b31ad3351bb89e531f64ef2b05d1e65bd939183250bf81ddf4922a8"),
    ("hatch-vcs", "0.4.0", "b8a2b6bee54cf6f9fc93762db73890017ae59c9081d1038a41f16235ceaf8b2c"),
    ("hatchling", "1.26.3", "c407e1c6c17b574584a66ae60e8e9a01235ecb6dc61d01559bb936577aaf5846"),
    ("packaging", "24.2", "09abb1bccd265c01f4a3aa3f7a7db064b36514d2cba19a2f694fe6150451a759"),
    ("pathspec", "0.12.1", "a0d503e138a4c123b27490a4f7beda6a01c6f288df0e4a8b79c7eb0dc7b4cc08"),
    ("pluggy", "1.5.0", "44e1ad92c8ca002de6377e165f3e0f1be63266ab4d554740532335b9d75ea669"),
    ("poetry-core", "1.9.1", "6f45dd3598e0de8d9b0367360253d4c5d4d0110c8f5c71120a14f0e0f116c1a0"),
    ("setuptools", "75.6.0", "ce74b49e8f7110f9bf04883b730f4765b774ef3ef28f722cce7c273d253aaf7d"),
    ("setuptools-scm", "8.1.0", "897a3226a6fd4a6eb2f068745e49733261a21f70b1bb28fce0339feb978d9af3"),
    ("trove-classifiers", "2024.10.21.16", "0fb11f1e995a757807a8ef1c03829fbd4998d817319abcef1f33165750f103be"),
];

/// One environment with every backend, built once for all tests.
fn environment() -> &'static Ready {
    static BUILT: OnceLock<(tempfile::TempDir, Ready)> = OnceLock::new();
    let build = || {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join(".firsttry"), shared_wheels());
        let spec = Spec {
            interpreter: interpreter(),
            closure: pinned(BACKENDS),
            settings: settings(),
            project: None,
            rebuild: false,
        };
        let ready = block(store.ensure(&spec, &mut InCell, &mut |_| {})).unwrap();
        (directory, ready)
    };
    &BUILT.get_or_init(build).1
}

/// A project in a tree, and what its jobs leave.
struct Project {
    directory: tempfile::TempDir,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Project {
        let project = Project { directory: tempfile::tempdir().unwrap() };
        for (path, text) in files {
            let path = project.tree().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        project
    }

    fn at(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn tree(&self) -> PathBuf {
        self.at("tree")
    }

    fn git(&self, arguments: &[&str]) {
        let who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "safe.directory=*"];
        let status = Command::new("git").arg("-C").arg(self.tree()).args(who).args(arguments).status().unwrap();
        assert!(status.success());
    }

    fn run(&self, make: impl FnOnce(&World<'_>) -> super::Job) -> JobEnd {
        give_to_step(&self.tree());
        let (interpreter, environment) = (interpreter(), environment());
        let lib = lib_dir::ready(&self.at("lib")).unwrap();
        let world = World {
            interpreter: &interpreter,
            env: &environment.root,
            lib: &lib,
            source_date_epoch: Some(1_700_000_000),
        };
        let end = block(InCell.run(make(&world))).unwrap();
        cell::remove_scratch(&self.at("scratch")).unwrap();
        end
    }

    fn layer(&self) -> (JobEnd, Layer) {
        let end = self.run(|world| layer_job(world, vec![self.tree()], self.at("out"), self.at("scratch")));
        let layer = read_layer(&self.at("out")).unwrap_or_else(|error| panic!("{error}\n{}", end.tail(40)));
        (end, layer)
    }

    /// Runs Python in a cell that sees the layer as every step does.
    fn with_layer(&self, code: &str) -> String {
        let end = self.run(|world| {
            let out = self.at("out");
            let view = vec![out.join("layer/tree"), self.tree()];
            give_to_step(&view[0]);
            let mut job = layer_job(world, view, self.at("unused"), self.at("scratch"));
            job.walls.mounts.push(cell::Mount { host: out.join("layer"), cell: "/ft/project".into(), writable: false });
            job.manifest.argv = ["/ft/env/bin/python", "-c", code].map(str::to_owned).to_vec();
            job.manifest.cwd = "/".to_owned();
            job
        });
        assert!(end.succeeded(), "{}", end.tail(40));
        end.tail(40)
    }
}

fn give_to_step(path: &Path) {
    let Some((uid, gid)) = cell::step_owner() else { return };
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give_to_step(&entry.unwrap().path()));
    }
}

const SHOW: &str = "import importlib.metadata as m, sample, subprocess; \
    print(m.version('sample'), sample.__file__, subprocess.check_output(['/ft/project/bin/sample'], text=True).strip())";

fn shows(project: &Project, version: &str, file: &str) {
    let (end, layer) = project.layer();
    assert_eq!(layer.problem, None, "{}", end.tail(40));
    assert_eq!(layer.scripts, ["sample"]);
    assert_eq!(project.with_layer(SHOW), format!("{version} {file} hello"));
}

const CODE: &str = "def main():\n    print('hello')\n";

#[test]
fn setuptools_with_a_src_layout_is_importable_where_it_stands() {
    let project = Project::new(&[
        (
            "pyproject.toml",
            "[build-system]\nrequires = ['setuptools>=61']\nbuild-backend = 'setuptools.build_meta'\n\
          [project]\nname = 'sample'\nversion = '1.2'\nscripts = { sample = 'sample:main' }\n",
        ),
        ("src/sample/__init__.py", CODE),
    ]);
    shows(&project, "1.2", "/ft/work/src/sample/__init__.py");
}

#[test]
fn setuptools_with_a_flat_layout_and_only_setup_py_is_importable() {
    let project = Project::new(&[
        (
            "setup.py",
            "from setuptools import setup\nsetup(name='sample', version='0.3', packages=['sample'],\n\
          entry_points={'console_scripts': ['sample=sample:main']})\n",
        ),
        ("sample/__init__.py", CODE),
    ]);
    shows(&project, "0.3", "/ft/work/sample/__init__.py");
}

#[test]
fn hatchling_flit_and_poetry_are_importable() {
    let scripts =
        "[project]\nname = 'sample'\nversion = '1.0'\ndescription = 'x'\nscripts = { sample = 'sample:main' }\n";
    let backends = [
        ("['hatchling']", "hatchling.build", scripts),
        ("['flit_core >=3.2,<4']", "flit_core.buildapi", scripts),
        (
            "['poetry-core>=1.0.0']",
            "poetry.core.masonry.api",
            "[tool.poetry]\nname = 'sample'\nversion = '1.0'\ndescription = ''\nauthors = ['a <a@b.c>']\n\
          [tool.poetry.scripts]\nsample = 'sample:main'\n",
        ),
    ];
    for (requires, backend, table) in backends {
        let text = format!("[build-system]\nrequires = {requires}\nbuild-backend = '{backend}'\n{table}");
        let project = Project::new(&[("pyproject.toml", &text), ("sample/__init__.py", CODE)]);
        shows(&project, "1.0", "/ft/work/sample/__init__.py");
    }
}

#[test]
fn versions_come_from_git_and_generated_files_are_carried_by_the_layer() {
    let scm = "[build-system]\nrequires = ['setuptools', 'setuptools-scm>=8']\nbuild-backend = 'setuptools.build_meta'\n\
        [project]\nname = 'sample'\ndynamic = ['version']\nscripts = { sample = 'sample:main' }\n\
        [tool.setuptools_scm]\nversion_file = 'src/sample/_version.py'\n";
    let hatch = "[build-system]\nrequires = ['hatchling', 'hatch-vcs']\nbuild-backend = 'hatchling.build'\n\
        [project]\nname = 'sample'\ndynamic = ['version']\nscripts = { sample = 'sample:main' }\n\
        [tool.hatch.version]\nsource = 'vcs'\n[tool.hatch.build.hooks.vcs]\nversion-file = 'src/sample/_version.py'\n";
    for text in [scm, hatch] {
        let project = Project::new(&[
            ("pyproject.toml", text),
            ("src/sample/__init__.py", CODE),
            (".gitignore", "_version.py\n*.egg-info\n"),
        ]);
        for arguments in [&["init", "-q"][..], &["add", "."], &["commit", "-qm", "x"], &["tag", "v3.4.5"]] {
            project.git(arguments);
        }
        shows(&project, "3.4.5", "/ft/work/src/sample/__init__.py");
        assert_eq!(project.layer().1.tree, ["src/sample/_version.py"]);
        assert_eq!(project.with_layer("from sample._version import version; print(version)"), "3.4.5");
        assert!(!project.tree().join("src/sample/_version.py").exists(), "the snapshot is not changed");
    }
}

#[test]
fn a_compiled_extension_is_built_and_carried_by_the_layer() {
    let c = "#include <Python.h>\nstatic struct PyModuleDef d = {PyModuleDef_HEAD_INIT, \"sample._fast\", 0, -1, 0};\n\
        PyMODINIT_FUNC PyInit__fast(void) { return PyModule_Create(&d); }\n";
    let project = Project::new(&[
        ("pyproject.toml", "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n"),
        (
            "setup.py",
            "from setuptools import Extension, setup\nsetup(name='sample', version='1', packages=['sample'],\n\
          ext_modules=[Extension('sample._fast', ['sample/_fast.c'])],\n\
          entry_points={'console_scripts': ['sample=sample:main']})\n",
        ),
        ("sample/__init__.py", CODE),
        ("sample/_fast.c", c),
    ]);
    shows(&project, "1", "/ft/work/sample/__init__.py");
    let file = project.with_layer("import sample._fast; print(sample._fast.__file__)");
    assert!(file.starts_with("/ft/work/sample/_fast.") && file.ends_with(".so"), "{file}");
}

#[test]
fn what_can_not_be_made_importable_says_why() {
    let problem = |files: &[(&str, &str)]| {
        let (end, layer) = Project::new(files).layer();
        assert!(!end.succeeded());
        layer.problem.unwrap()
    };
    let none = problem(&[("pyproject.toml", "[tool.ruff]\nline-length = 100\n")]);
    assert_eq!(none.kind, LayerProblemKind::NoProject, "{}", none.message);
    let invalid = problem(&[("pyproject.toml", "[build-system\n")]);
    assert_eq!(invalid.kind, LayerProblemKind::Invalid, "{}", invalid.message);
    let absent =
        problem(&[("pyproject.toml", "[build-system]\nrequires = ['pdm-backend']\nbuild-backend = 'pdm.backend'\n")]);
    assert_eq!(absent.kind, LayerProblemKind::Missing);
    assert!(absent.message.ends_with("pdm-backend"), "{}", absent.message);
    let two = problem(&[
        (
            "pyproject.toml",
            "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n\
          [project]\nname = 'sample'\nversion = '1'\n",
        ),
        ("one/__init__.py", ""),
        ("two/__init__.py", ""),
    ]);
    assert_eq!(two.kind, LayerProblemKind::Failed);
    assert!(two.message.contains("Multiple top-level packages"), "{}", two.message);
    let old = problem(&[
        ("pyproject.toml", "[build-system]\nrequires = []\nbuild-backend = 'own'\nbackend-path = ['.']\n"),
        ("own.py", "def build_wheel(d, s=None, m=None): pass\n"),
    ]);
    assert_eq!(old.kind, LayerProblemKind::NoEditable, "{}", old.message);
}

#[test]
fn the_built_wheel_is_imported_and_a_file_that_is_not_packaged_is_noticed() {
    let text = "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n\
        [project]\nname = 'sample'\nversion = '1'\n[tool.setuptools]\npackages = ['sample']\n";
    let project = Project::new(&[
        ("pyproject.toml", text),
        ("sample/__init__.py", CODE),
        ("sample/data.txt", "x"),
        ("sample/needs_data.py", "import os; open(os.path.join(os.path.dirname(__file__), 'data.txt'))\n"),
        ("outside.py", ""),
    ]);
    let end = project.run(|world| build_job(world, vec![project.tree()], project.at("out"), project.at("scratch")));
    assert!(end.succeeded(), "{}", end.tail(40));
    let import = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        project.run(|world| {
            import_job(world, &project.at("out").join("dist"), &names, project.at("import"), project.at("scratch"))
        })
    };
    let fine = import(&["sample"]);
    assert!(fine.succeeded(), "{}", fine.tail(40));
    let data = import(&["sample", "sample.needs_data"]);
    assert!(!data.succeeded() && data.tail(9).contains("data.txt"), "{}", data.tail(40));
    assert!(!import(&["outside"]).succeeded());
    let other = import(&["pluggy"]);
    assert!(!other.succeeded() && other.tail(9).contains("not in the wheel"), "{}", other.tail(40));
}

#[test]
fn a_locked_sdist_is_built_from_the_closure_where_the_lock_allows_it() {
    let repository = tempfile::tempdir().unwrap();
    let store = Store::open(&repository.path().join(".firsttry"), repository.path().join("wheels"));
    let sdist = [("iniconfig", "2.0.0", "2d91e135bf72d31a410b17c16da610a82cb55f6b0477d1a902134b24a455b8b3")];
    let mut closure = pinned(BACKENDS);
    closure.extend(pinned(&sdist));
    let mut spec = Spec { interpreter: interpreter(), closure, settings: settings(), project: None, rebuild: false };
    let refused = block(store.ensure(&spec, &mut InCell, &mut |_| {})).unwrap_err().to_string();
    assert!(refused.contains("iniconfig"), "{refused}");
    spec.closure.last_mut().unwrap().sdist = true;
    let ready = block(store.ensure(&spec, &mut InCell, &mut |_| {})).unwrap();
    assert!(ready.dists.iter().any(|dist| dist.name == "iniconfig" && dist.version == "2.0.0"));
    // A second build takes the wheel that was made, and needs nothing.
    let again = Spec { settings: Settings { offline: true, ..Settings::default() }, rebuild: true, ..spec };
    drop(ready);
    block(store.ensure(&again, &mut InCell, &mut |_| {})).unwrap();
}
