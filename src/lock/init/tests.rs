use super::*;
use crate::lock::{Network, OnAdded};
use proptest::prelude::*;

fn project(texts: &[(&str, &str)], others: &[&str]) -> ProjectFiles {
    let tracked = texts.iter().map(|(path, _)| *path).chain(others.iter().copied()).map(str::to_owned).collect();
    ProjectFiles { tracked, texts: texts.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect() }
}

fn found(files: &ProjectFiles) -> (Init, Lock) {
    let init = init(files, &["3.9.18".to_owned(), "3.11.7".to_owned(), "3.13.0".to_owned()], "0.1.0").unwrap();
    let (lock, warnings) = Lock::parse(init.lock.as_bytes()).unwrap();
    assert_eq!(warnings, []);
    (init, lock)
}

const MODERN: &str = r#"
[project]
name = "My.App"
requires-python = ">=3.9"
classifiers = ["Programming Language :: Python :: 3.9", "Programming Language :: Python :: 3.11"]
dependencies = ["click>=8"]
[project.optional-dependencies]
docs = ["sphinx"]
[dependency-groups]
dev = [{include-group = "test"}, "ruff"]
test = ["pytest", "pytest-cov", "my-app[docs]"]
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[tool.ruff]
line-length = 99
[tool.mypy]
files = ["src"]
[tool.pytest.ini_options]
testpaths = ["tests"]
addopts = "--cov"
[tool.coverage.report]
fail_under = 80
[tool.bandit]
skips = ["B101"]
"#;

const HOOKS: &str = "repos:\n- repo: https://github.com/astral-sh/ruff-pre-commit\n  rev: v0.6.9\n  hooks: [{id: ruff}, {id: ruff-format}]\n- repo: https://github.com/pre-commit/mirrors-mypy\n  rev: v1.11.2\n  hooks:\n  - id: mypy\n    additional_dependencies: [types-requests==2.32.0.20241016]\n";

#[test]
fn a_modern_project_gets_the_checks_that_it_configures() {
    let files = project(
        &[("pyproject.toml", MODERN), (".pre-commit-config.yaml", HOOKS)],
        &["src/my_app/__init__.py", "tests/test_a.py", "docs/conf.py"],
    );
    let (init, lock) = found(&files);
    assert_eq!(lock.python, "3.11");
    assert_eq!(lock.tools.keys().collect::<Vec<_>>(), ["ruff", "ruff-format", "mypy", "pytest", "bandit"]);
    assert_eq!(lock.tools["ruff-format"].args, ["format", "--check", "."]);
    assert!(lock.tools["mypy"].args.is_empty() && lock.tools["pytest"].args.is_empty());
    assert_eq!(lock.tools["bandit"].args, ["-q", "-r", "src/my_app", "-c", "pyproject.toml"]);
    assert_eq!(lock.tools["mypy"].version.as_deref(), Some("1.11.2"));
    assert_eq!(lock.tools["ruff"].version, None, "the group's ruff decides");
    assert_eq!(lock.thresholds.coverage_min, Some(0.8));
    assert_eq!(lock.plugins, ["pytest-cov"]);
    assert_eq!(lock.import_names, ["my_app"]);
    assert!(lock.build);
    assert_eq!(lock.network, Network::Loopback);
    assert_eq!(lock.collection.on_added, OnAdded::Update);
    assert_eq!(
        lock.config_hashes.keys().collect::<Vec<_>>(),
        [
            "pyproject.toml#tool.ruff",
            "pyproject.toml#tool.mypy",
            "pyproject.toml#tool.pytest",
            "pyproject.toml#tool.bandit",
            "pyproject.toml#tool.coverage"
        ]
    );
    let environment = lock.environment.clone().unwrap();
    assert_eq!(environment.from, REQUIREMENTS_PATH);
    assert_eq!(environment.groups, ["dev", "test"]);
    assert_eq!(environment.sources, ["pyproject.toml", ".pre-commit-config.yaml"]);
    assert_eq!(
        requirements(&lock, &environment, &files).unwrap(),
        [
            "bandit",
            "click>=8",
            "editables",
            "hatchling",
            "mypy==1.11.2",
            "pytest",
            "pytest-cov",
            "ruff",
            "sphinx",
            "types-requests==2.32.0.20241016"
        ]
    );
    assert!(
        init.notes.iter().any(|note| note.starts_with("mypy: mypy 1.11.2; configured in pyproject.toml#tool.mypy")),
        "{:?}",
        init.notes
    );
    assert_eq!(init.warnings, [""; 0]);
    insta::assert_snapshot!(init.lock);
}

#[test]
fn a_project_with_uv_lock_takes_its_closure_from_there() {
    let lock = include_str!("../fixtures/workspace.uv.lock");
    let pyproject = "[project]\nname='app'\nrequires-python='>=3.8'\n[dependency-groups]\ndev=['pytest']\ntypes=['typing-extensions']\n[build-system]\nrequires=['hatchling', 'packaging']\nbuild-backend='hatchling.build'\n[tool.ruff]\n";
    let files = project(&[("pyproject.toml", pyproject), ("uv.lock", lock)], &["src/app/__init__.py"]);
    let (init, lock) = found(&files);
    let environment = lock.environment.clone().unwrap();
    assert_eq!(environment.from, "uv.lock");
    assert_eq!(environment.groups, ["dev"]);
    assert_eq!(environment.extra.as_deref().map(camino::Utf8Path::as_str), Some(REQUIREMENTS_PATH));
    // uv.lock holds pytest and packaging.
    assert_eq!(requirements(&lock, &environment, &files).unwrap(), ["editables", "hatchling", "ruff"]);
    assert!(init.notes.iter().any(|note| note == "the closure is that of uv.lock"), "{:?}", init.notes);
}

#[test]
fn an_old_project_is_read_from_setup_cfg_and_requirements_files() {
    let files = project(
        &[
            ("setup.py", "from setuptools import setup\nsetup()"),
            (
                "setup.cfg",
                "[metadata]\nname = old\n[options]\npy_modules = old\ninstall_requires =\n    six\n[tool:pytest]\naddopts = -q\n[flake8]\nmax-line-length=99\n",
            ),
            ("requirements-dev.txt", "-r requirements.txt\n-e .\npytest==7.4.4  # pinned\nflake8\n"),
            ("requirements.txt", "six==1.16.0\n"),
        ],
        &["old.py", "test_old.py"],
    );
    let (_, lock) = found(&files);
    assert_eq!(lock.tools.keys().collect::<Vec<_>>(), ["flake8", "pytest"]);
    assert_eq!(lock.tools["pytest"].args, ["test_old.py"]);
    assert_eq!(lock.tools["flake8"].args, ["old.py"]);
    assert_eq!(lock.import_names, ["old"]);
    assert_eq!(lock.python, "3.13");
    assert_eq!(lock.config_hashes.keys().collect::<Vec<_>>(), ["setup.cfg#flake8", "setup.cfg#tool:pytest"]);
    let environment = lock.environment.clone().unwrap();
    assert_eq!(
        environment.sources,
        ["setup.cfg", "setup.py", "requirements-dev.txt", "requirements.txt"],
        "with the file that it includes"
    );
    assert_eq!(
        requirements(&lock, &environment, &files).unwrap(),
        ["flake8", "pytest==7.4.4", "setuptools", "six==1.16.0", "wheel"]
    );
}

#[test]
fn of_several_requirements_files_the_one_for_the_tool_counts() {
    let files = project(
        &[
            ("pyproject.toml", "[tool.mypy]\nfiles=['a']\n[tool.pytest]\n"),
            ("requirements/dev.txt", "pytest==8\nmypy==1\nsphinx==7\n"),
            ("requirements/tests.txt", "pytest==8.1\npluggy==1.5\n"),
            ("requirements/tests37.txt", "pytest==7\n"),
            ("requirements/typing.txt", "mypy==1.13\npytest==8.2\npluggy==1.4\n"),
            ("requirements/tests.in", "pytest\n"),
        ],
        &[],
    );
    let (_, lock) = found(&files);
    let environment = lock.environment.clone().unwrap();
    assert_eq!(environment.sources, ["pyproject.toml", "requirements/tests.txt", "requirements/typing.txt"]);
    assert_eq!(requirements(&lock, &environment, &files).unwrap(), ["mypy==1.13", "pluggy==1.5", "pytest==8.1"]);
}

#[test]
fn the_plain_environment_of_tox_and_the_projects_own_extras_count() {
    let files = project(
        &[
            (
                "pyproject.toml",
                "[project]\nname='me'\n[project.optional-dependencies]\nfast=['c-ext']\n[tool.pytest]\n",
            ),
            ("tox.ini", "[testenv]\ndeps =\n    -r requirements/t.txt\n    min: pytest==6\n    py: plug\n"),
            ("requirements/t.txt", "-e .[fast]\npytest\n"),
        ],
        &[],
    );
    let (_, lock) = found(&files);
    let environment = lock.environment.clone().unwrap();
    assert_eq!(environment.sources, ["pyproject.toml", "tox.ini", "requirements/t.txt"]);
    assert_eq!(requirements(&lock, &environment, &files).unwrap(), ["c-ext", "plug", "pytest"]);
}

#[test]
fn a_low_threshold_of_the_project_is_left_out_and_said() {
    let text = "[tool.pytest.ini_options]\naddopts='--cov=x'\n[tool.coverage.report]\nfail_under = 12";
    let (init, lock) = found(&project(&[("pyproject.toml", text)], &["tests/test_a.py"]));
    assert_eq!(lock.thresholds.coverage_min, None);
    assert!(init.notes.iter().any(|note| note.contains("fail_under 12 is below the floor")));
    assert!(!lock.build && lock.import_names.is_empty());
    assert_eq!(lock.tools["pytest"].args, ["tests"]);
}

#[test]
fn an_empty_repository_gets_a_lock_without_steps() {
    let (_, lock) = found(&ProjectFiles::default());
    assert!(lock.tools.is_empty() && lock.environment.is_some());
    assert_eq!(lock.python, "3.13");
}

#[test]
fn the_python_is_the_one_that_the_project_names_or_the_newest_that_it_accepts() {
    let python = |texts: &[(&str, &str)]| found(&project(texts, &[])).1.python;
    assert_eq!(python(&[(".python-version", "3.10.4\n")]), "3.10.4");
    assert_eq!(python(&[(".python-version", "pypy3.9\n")]), "3.13");
    assert_eq!(python(&[("pyproject.toml", "[project]\nname='a'\nrequires-python='<3.10'")]), "3.9");
    assert_eq!(python(&[("pyproject.toml", "[project]\nname='a'\nrequires-python='>=3.14'")]), "3.14");
    assert_eq!(
        python(&[("pyproject.toml", "[tool.poetry]\nname='a'\n[tool.poetry.dependencies]\npython='^3.8,<3.12'")]),
        "3.11"
    );
}

#[test]
fn where_no_classifier_names_a_python_those_of_tox_count() {
    let python = |text: &str| found(&project(&[("tox.ini", text)], &[])).1.python;
    assert_eq!(python("[tox]\nenvlist =\n    py3{12,11,10},pypy3{9}\n    style\n"), "3.11");
    assert_eq!(python("[tox]\nenv_list = py39, pypy313\n"), "3.9");
    assert_eq!(python("[tox]\nenv_list = style\n"), "3.13");
    let toml = "[project]\nname='a'\n[tool.tox]\nenv_list=['py3.12','3.9','3.13t','x']\n";
    assert_eq!(found(&project(&[("pyproject.toml", toml)], &[])).1.python, "3.13");
}

#[test]
fn a_type_checker_runs_as_the_project_runs_it_or_not_at_all() {
    let config = ("pyproject.toml", "[tool.mypy]\nstrict = true\n");
    let (init, lock) = found(&project(&[config], &["src/a/__init__.py"]));
    assert!(lock.tools.is_empty());
    assert!(init.notes.iter().any(|note| note.starts_with("mypy is left out: ")), "{:?}", init.notes);

    let tox = ("tox.ini", "[testenv]\ncommands =\n    mypy: mypy examples\n    mypy: mypy src/a.pyi\n    mypy: mypy\n");
    let (_, lock) = found(&project(&[config, tox], &["src/a/__init__.py"]));
    assert_eq!(lock.tools.keys().collect::<Vec<_>>(), ["mypy", "mypy-2"]);
    assert_eq!((&lock.tools["mypy"].args[0], &lock.tools["mypy-2"].args[0]), (&"examples".into(), &"src/a.pyi".into()));
    assert_eq!(lock.tools["mypy-2"].package.as_deref(), Some("mypy"));
    assert_eq!(lock.tools["mypy-2"].gate, crate::step::Gate::Types);
}

#[test]
fn a_linter_of_all_rules_runs_only_in_a_version_that_is_pinned() {
    let config = "[tool.ruff.lint]\nselect = ['ALL']\n";
    let (init, lock) = found(&project(&[("pyproject.toml", config)], &[]));
    assert!(lock.tools.is_empty() && init.notes.iter().any(|note| note.starts_with("ruff is left out: ")));
    let declared = format!("{config}[dependency-groups]\ndev = ['ruff==0.6.9']\n");
    assert!(found(&project(&[("pyproject.toml", &declared)], &[])).1.tools.contains_key("ruff"));
    let some = config.replace("ALL", "E");
    assert!(found(&project(&[("pyproject.toml", &some)], &[])).1.tools.contains_key("ruff"));
}

#[test]
fn what_ci_runs_and_the_lock_does_not_is_listed() {
    let workflow = "on: push\njobs:\n  test:\n    strategy:\n      matrix:\n        python-version: [3.10, '3.11']\n    steps:\n    - uses: actions/checkout@v4\n    - run: |\n        pip install -e .[dev]\n        ruff check .\n        mypy src\n        python -m pytest -q && coverage run -m pytest\n    - name: Docs\n      run: FOO=1 uv run sphinx-build docs out\n    - run: tox run -e py\n    - uses: pre-commit/action@v3\n  other:\n    uses: ./.github/workflows/x.yml\n";
    let files = project(
        &[
            ("pyproject.toml", "[tool.ruff]\n[tool.pytest]"),
            (".github/workflows/ci.yml", workflow),
            (".github/workflows/bad.yml", "a: ["),
        ],
        &[],
    );
    let (init, _) = found(&files);
    let shown: Vec<_> =
        init.uncovered.iter().map(|one| format!("{}/{}: {}: {}", one.job, one.step, one.command, one.reason)).collect();
    assert_eq!(
        shown,
        [
            "test/2: mypy src: no step of the lock runs mypy",
            "test/Docs: FOO=1 uv run sphinx-build docs out: no step of the lock runs sphinx-build",
            "test/4: tox run -e py: what tox runs is not looked into",
            "test/5: pre-commit/action@v3: an action that runs checks of its own",
            "other/-: ./.github/workflows/x.yml: a reusable workflow, which is not looked into",
        ]
    );
    assert!(init.warnings[0].starts_with(".github/workflows/bad.yml: not YAML: "), "{:?}", init.warnings);
    assert_eq!(
        init.warnings[1],
        ".github/workflows/ci.yml: job test: python-version: 3.1 is a number; quote it (3.10 without quotes is 3.1)"
    );
}

#[test]
fn a_pyproject_that_is_no_toml_is_refused_with_its_line() {
    let error = init(&project(&[("pyproject.toml", "[project\n")], &[]), &[], "0.1.0").unwrap_err();
    assert!(error.to_string().starts_with("pyproject.toml: not TOML: line 1: "), "{error}");
}

#[test]
fn the_range_of_ft_ends_where_its_meaning_may_change() {
    assert_eq!(runner_range("0.3.1"), ">=0.3.1,<0.4");
    assert_eq!(runner_range("1.2.0"), ">=1.2.0,<2");
}

proptest! {
    #[test]
    fn no_text_makes_the_detection_panic(
        name in prop::sample::select(vec!["pyproject.toml", "setup.cfg", "setup.py", "tox.ini", "requirements.txt", ".pre-commit-config.yaml", ".github/workflows/a.yml", "uv.lock", ".python-version"]),
        text in "\\PC{0,60}|[a-z\\[\\]{}=:.,'\"\n -]{0,80}"
    ) {
        if let Ok(init) = init(&project(&[(name, &text)], &["a/__init__.py", "tests/test_a.py"]), &[], "0.1.0") {
            prop_assert!(Lock::parse(init.lock.as_bytes()).is_ok(), "{}", init.lock);
        }
    }
}
