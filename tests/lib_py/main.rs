//! The plugin and the wrappers of `src/lib_py`, under the real pytest, coverage and bandit. No cell: what they write must
//! not depend on one.

use firsttry::lock::Severity;
use firsttry::results::bandit::SecurityReport;
use firsttry::results::coverage::Coverage;
use firsttry::results::pytest::{TestReport, TestResult, name_hash};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Versions that the plugin is held against, each with plugins of its time.
const PYTESTS: &[(&str, &[&str])] = &[
    ("7.4.4", &["pytest==7.4.4", "pytest-xdist==3.5.0", "pytest-rerunfailures==13.0"]),
    ("8.4.2", &["pytest==8.4.2", "pytest-xdist==3.8.0", "pytest-rerunfailures==16.0.1"]),
    ("9.0.1", &["pytest==9.0.1", "pytest-xdist==3.8.0", "pytest-rerunfailures==16.1"]),
];

const TOOLS: &[&str] = &["bandit==1.8.6", "coverage==7.11.0"];

fn lib() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib_py")
}

/// The first Python here that can make an environment.
fn python() -> &'static str {
    let usable = |python: &str| {
        let probe = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
        Command::new(python).args(["-c", probe]).output().is_ok_and(|out| out.status.success())
    };
    ["python3.11", "python3.12", "python3.13", "python3.10", "python3"]
        .into_iter()
        .find(|python| usable(python))
        .expect("a Python from 3.10 on with venv is needed for these tests")
}

/// The Python of an environment with these packages, made once.
fn environment(name: &str, packages: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lib_py-{name}"));
    let (mark, wanted) = (dir.join("packages"), packages.join("\n"));
    if std::fs::read_to_string(&mark).ok().as_deref() != Some(&wanted) {
        let _ = std::fs::remove_dir_all(&dir);
        good(Command::new(python()).args(["-m", "venv"]).arg(&dir));
        let mut pip = Command::new(dir.join("bin/python"));
        good(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages));
        std::fs::write(&mark, wanted).unwrap();
    }
    dir.join("bin/python")
}

fn good(command: &mut Command) -> Output {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}\n{}", told(&out));
    out
}

fn told(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// A tree with these files, and a folder beside it for what ft gets.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        for dir in ["work", "out"] {
            std::fs::create_dir(tree.0.path().join(dir)).unwrap();
        }
        for (name, text) in files {
            let path = tree.work().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        tree
    }

    fn work(&self) -> PathBuf {
        // coverage names files by their real paths.
        self.0.path().join("work").canonicalize().unwrap()
    }

    fn out(&self, name: &str) -> PathBuf {
        self.0.path().join("out").join(name)
    }

    fn run(&self, python: &Path, args: &[&str]) -> Output {
        self.command(python, args).output().unwrap()
    }

    fn command(&self, python: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(python);
        command
            .args(args)
            .current_dir(self.work())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.0.path())
            .env("LANG", "C.UTF-8")
            .env("FT_OUT", self.0.path().join("out"))
            .env("PYTHONPATH", lib())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONSAFEPATH", "1");
        command
    }

    /// Runs pytest with the plugin; its output, and what the plugin wrote.
    fn pytest(&self, python: &Path, args: &[&str]) -> (Output, TestReport) {
        let out = self.run(python, &[&["-m", "pytest", "-p", "ft_pytest"], args].concat());
        let bytes = std::fs::read(self.out("pytest.json")).unwrap_or_else(|e| panic!("{e}\n{}", told(&out)));
        (out, TestReport::parse(&bytes).unwrap())
    }
}

/// Runs a check under every version of pytest.
fn each(check: impl Fn(&Path)) {
    for (version, packages) in PYTESTS {
        check(&environment(&format!("pytest-{version}"), packages));
    }
}

const EVERY_KIND: &str = r#"
import unittest, warnings
import pytest

@pytest.mark.parametrize("x", [1, "a::b", "\x1b[31m", b"\xff"])
def test_p(x): pass

def test_fail():
    assert 1 == 2

def test_warn():
    warnings.warn("first line\nsecond line")

@pytest.mark.skip(reason="why not")
def test_skip(): pass

def test_skip_inside():
    pytest.skip("in the call")

@pytest.mark.xfail(reason="known")
def test_xfail():
    assert 0

@pytest.mark.xfail(reason="known")
def test_xpass(): pass

@pytest.mark.xfail(strict=True, reason="must fail")
def test_xpass_strict(): pass

@pytest.fixture
def bad_setup():
    raise RuntimeError("in set-up")

def test_setup(bad_setup): pass

@pytest.fixture
def bad_teardown():
    yield
    raise RuntimeError("in tear-down")

def test_teardown(bad_teardown): pass

def test_both(bad_teardown):
    assert 0, "in the call"

runs = 0

@pytest.mark.flaky(reruns=2)
def test_flaky():
    global runs
    runs += 1
    assert runs > 1

class TestUnit(unittest.TestCase):
    def test_method(self): pass

    @unittest.expectedFailure
    def test_expected(self):
        self.fail()
"#;

#[test]
fn every_way_a_test_can_end_is_told_with_and_without_workers() {
    each(|python| {
        let tree = Tree::new(&[
            ("tests/test_a.py", EVERY_KIND),
            ("tests/test_b.py", "import pytest\npytest.importorskip('not_installed_anywhere')\n"),
        ]);
        let mut hashes = Vec::new();
        for workers in [&[][..], &["-n2"], &["-n2", "--dist", "loadgroup"]] {
            let (out, report) = tree.pytest(python, &[&["-q", "tests"], workers].concat());
            assert_eq!(out.status.code(), Some(1), "{}", told(&out));
            let ends: Vec<(&str, TestResult, u64)> = report
                .tests
                .iter()
                .map(|t| (t.id.trim_start_matches("tests/test_a.py::"), t.result, t.reruns))
                .collect();
            use TestResult::{Error, Failed, Passed, Skipped, Xfailed, Xpassed};
            assert_eq!(
                ends,
                [
                    ("test_p[1]", Passed, 0),
                    ("test_p[a::b]", Passed, 0),
                    ("test_p[\\x1b[31m]", Passed, 0),
                    ("test_p[\\xff]", Passed, 0),
                    ("test_fail", Failed, 0),
                    ("test_warn", Passed, 0),
                    ("test_skip", Skipped, 0),
                    ("test_skip_inside", Skipped, 0),
                    ("test_xfail", Xfailed, 0),
                    ("test_xpass", Xpassed, 0),
                    ("test_xpass_strict", Failed, 0),
                    ("test_setup", Error, 0),
                    ("test_teardown", Error, 0),
                    ("test_both", Failed, 0),
                    ("test_flaky", Passed, 1),
                    ("TestUnit::test_expected", Xfailed, 0),
                    ("TestUnit::test_method", Passed, 0),
                    ("tests/test_b.py", Skipped, 0),
                ],
                "{workers:?}\n{}",
                told(&out)
            );
            let message = |id: &str| &report.tests.iter().find(|t| t.id.ends_with(id)).unwrap().message;
            assert!(message("test_fail").ends_with("tests/test_a.py:9: AssertionError"), "{}", message("test_fail"));
            assert_eq!(message("test_skip"), "why not");
            assert_eq!(message("test_skip_inside"), "in the call");
            assert_eq!(message("test_xfail"), "known");
            assert!(message("test_both").contains("in the call") && message("test_both").contains("in tear-down"));
            assert!(message("test_b.py").contains("not_installed_anywhere"));
            assert_eq!((report.warnings, report.deselected), (1, 0));
            assert_eq!(report.warning_lines, ["tests/test_a.py:12: UserWarning: first line"]);
            assert!(report.finished && report.exit_status == Some(1));
            hashes.push((report.collected.len(), name_hash(report.collected.iter().map(String::as_str))));
        }
        assert_eq!(hashes[0].0, 17);
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    });
}

#[test]
fn collection_is_told_whatever_the_arguments_print() {
    each(|python| {
        let tree = Tree::new(&[
            ("pytest.ini", "[pytest]\naddopts = -q -q\n"),
            ("test_a.py", "import pytest\n@pytest.mark.xdist_group('g')\ndef test_one(): pass\ndef test_two(): pass\n"),
        ]);
        let all = ["test_a.py::test_one", "test_a.py::test_two"];
        for args in [&["--collect-only"][..], &["--collect-only", "-p", "no:terminal"], &["--collect-only", "-n0"]] {
            let (_, report) = tree.pytest(python, args);
            assert_eq!(report.collected, all, "{args:?}");
            assert!(report.tests.is_empty() && report.finished);
            assert_eq!(report.uncacheable, Vec::<String>::new(), "{args:?}");
        }
        for args in [&["-p", "no:cacheprovider"][..], &["-n2", "--dist", "loadgroup"]] {
            let (_, report) = tree.pytest(python, args);
            assert_eq!(report.collected, all, "{args:?}");
            assert_eq!(report.tests.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), all, "{args:?}");
        }
        let (_, report) = tree.pytest(python, &["-k", "one"]);
        assert_eq!((report.collected.len(), report.deselected), (1, 1));
        let (_, report) = tree.pytest(python, &["--keep-duplicates", "test_a.py", "test_a.py"]);
        // Ids repeat, and each counts.
        assert_eq!((report.collected.len(), report.tests.len()), (4, 4));
    });
}

#[test]
fn a_test_that_runs_pytest_changes_nothing() {
    let nested = r#"
pytest_plugins = ["pytester"]

def test_nested(pytester):
    pytester.makepyfile("def test_inner(): pass\ndef test_other(): assert 0")
    for run in (pytester.runpytest_inprocess, pytester.runpytest_subprocess):
        run("-p", "ft_pytest").assert_outcomes(passed=1, failed=1)

def test_after(): pass
"#;
    let forks = r#"
import os

def test_fork():
    if os.fork() == 0:
        raise SystemExit(0)
    os.wait()
"#;
    each(|python| {
        let tree = Tree::new(&[("test_a.py", nested), ("test_b.py", forks)]);
        let (out, report) = tree.pytest(python, &["-q"]);
        assert_eq!(report.tests.len(), 3, "{}", told(&out));
        assert!(report.tests.iter().all(|test| test.result == TestResult::Passed), "{}", told(&out));
        assert_eq!(report.collected, ["test_a.py::test_nested", "test_a.py::test_after", "test_b.py::test_fork"]);
    });
}

/// What the witness reads of a process: whose slot it is, and what it says.
const WITNESS: &str = r#"
import os, struct, subprocess, sys
import pytest

def said(pid):
    path = os.environ.get("FT_WITNESS")
    if not path or not os.path.exists(path) or os.path.getsize(path) < 64 * 4096:
        return None
    with open(path, "rb") as file:
        file.seek(pid % 64 * 4096)
        slot = file.read(4096)
    sequence, owner, length = struct.unpack_from("<III", slot)
    assert sequence % 2 == 0
    return (owner, slot[12:12 + length].decode("utf-8"))

AT_IMPORT = said(os.getpid())

def now(text):
    assert said(os.getpid()) in ((os.getpid(), text), None)

def test_import():
    assert AT_IMPORT in ((os.getpid(), "test_w.py (collecting)"), None)

@pytest.fixture
def around(request):
    now("test_w.py::TestX::test_fixture")
    yield
    now("test_w.py::TestX::test_fixture")

class TestX:
    def test_fixture(self, around):
        now("test_w.py::TestX::test_fixture")

LONG = "é" * 3000

@pytest.mark.parametrize("x", [1], ids=[LONG])
def test_long(request, x):
    whole = ("test_w.py::test_long[%s]" % LONG.encode("unicode_escape").decode("ascii"))
    now(whole[:3500])
    plugin = request.config.pluginmanager.get_plugin("ft-current")
    before = plugin.say("a" + LONG)
    now("a" + LONG[:1749])
    plugin.say(before)

def test_fork(request):
    mine = said(os.getpid())
    if os.fork() == 0:
        request.config.pluginmanager.get_plugin("ft-current").say("the child")
        os._exit(0 if said(os.getpid()) in ((0, ""), None) else 1)
    assert os.wait()[1] == 0
    assert said(os.getpid()) == mine

def test_inner(request, tmp_path):
    mine = said(os.getpid())
    (tmp_path / "test_i.py").write_text("def test_i(): pass\n")
    inner = [sys.executable, "-m", "pytest", "-p", "ft_pytest", "-p", "no:cacheprovider", "-q", str(tmp_path)]
    assert subprocess.call(inner) == 0
    assert pytest.main(inner[3:]) == 0
    assert said(os.getpid()) == mine

@pytest.mark.xdist_group("g")
def test_group():
    now("test_w.py::test_group")
"#;

#[test]
fn the_witness_is_told_which_test_runs_and_nothing_else_changes() {
    each(|python| {
        let tree = Tree::new(&[("test_w.py", WITNESS)]);
        let shared = tree.out("current");
        let mut told_ids = Vec::new();
        let sizes = [Some(64 * 4096), Some(64 * 4096), Some(64 * 4096), Some(4096), Some(0), None];
        for (workers, size) in
            [&[][..], &["-n2"], &["-n2", "--dist", "loadgroup"], &[], &[], &[]].into_iter().zip(sizes)
        {
            let _ = std::fs::remove_file(&shared);
            if let Some(size) = size {
                std::fs::write(&shared, vec![0; size]).unwrap();
            }
            let args = [&["-m", "pytest", "-p", "ft_pytest", "-q"], workers].concat();
            let out = tree.command(python, &args).env("FT_WITNESS", &shared).output().unwrap();
            assert_eq!(out.status.code(), Some(0), "{workers:?} {size:?}\n{}", told(&out));
            let report = TestReport::parse(&std::fs::read(tree.out("pytest.json")).unwrap()).unwrap();
            told_ids.push((report.collected, report.tests.len()));
            let left = std::fs::read(&shared).unwrap_or_default();
            assert_eq!(left.len(), size.unwrap_or(0), "the file is the agent's");
            for slot in left.chunks_exact(4096).filter(|_| size == Some(64 * 4096)) {
                let word = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().unwrap());
                assert!(word(0) % 2 == 0 && word(8) == 0, "no test runs any more");
            }
        }
        let without = tree.pytest(python, &["-q"]).1;
        assert!(told_ids.iter().all(|ids| *ids == (without.collected.clone(), without.tests.len())), "{told_ids:?}");
    });
}

#[test]
fn a_session_that_does_not_come_to_its_end_says_so_even_with_status_0() {
    each(|python| {
        for (line, status) in [
            ("import os; os._exit(0)", 0),
            ("import pytest; pytest.exit('enough', returncode=0)", 0),
            ("raise KeyboardInterrupt", 2),
        ] {
            let tree = Tree::new(&[("test_a.py", &format!("def test_one(): pass\ndef test_two():\n    {line}\n"))]);
            let (out, report) = tree.pytest(python, &["-q"]);
            assert_eq!(out.status.code(), Some(status), "{}", told(&out));
            assert!(!report.finished, "{line}");
            assert_eq!(report.collected.len(), 2, "{line}");
        }
    });
}

#[test]
fn a_file_that_can_not_be_imported_is_a_collect_error() {
    each(|python| {
        let tree = Tree::new(&[("test_a.py", "import not_there_at_all\n"), ("test_b.py", "def test_one(): pass\n")]);
        for workers in [&[][..], &["-n2"]] {
            let (out, report) = tree.pytest(python, &[&["-q"], workers].concat());
            assert_eq!(report.collect_errors.len(), 1, "{}", told(&out));
            assert_eq!(report.collect_errors[0].id, "test_a.py");
            assert!(report.collect_errors[0].message.contains("not_there_at_all"));
        }
    });
}

#[test]
fn a_collection_that_reaches_beyond_the_tree_is_not_cacheable() {
    let python = environment("pytest-8.4.2", PYTESTS[1].1);
    for (line, reason) in [
        ("open('/etc/passwd').close()", "opened /etc/passwd"),
        ("import os; os.listdir('/etc')", "opened /etc"),
        ("import subprocess; subprocess.call(['true'])", "started a process: true"),
        ("import os; os.system('true')", "started a process: true"),
        ("import socket; socket.getaddrinfo('localhost', 1)", "used a socket: socket.getaddrinfo localhost"),
    ] {
        let tree = Tree::new(&[("conftest.py", line), ("test_a.py", "def test_one(): open('/etc/group').close()\n")]);
        let (_, report) = tree.pytest(&python, &["-q"]);
        let reasons = report.uncacheable;
        assert!(reasons.iter().any(|r| r.starts_with(reason)), "{line}: {reasons:?}");
        // What a test does while it runs is no matter of collection.
        assert!(!reasons.iter().any(|r| r.contains("/etc/group")), "{reasons:?}");
    }
}

#[test]
fn the_places_of_a_cell_may_have_another_root() {
    let python = environment("pytest-8.4.2", PYTESTS[1].1);
    let stranger = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let opens = |path: &Path| format!("open({:?}).close()", path.display().to_string());
    let test = "import warnings\ndef test_one(): warnings.warn('w')\n";
    for (own_root, own_place, cacheable) in
        [(true, true, true), (true, false, false), (false, true, true), (false, false, true)]
    {
        let tree = Tree::new(&[("pytest.ini", "[pytest]\n"), ("test_a.py", test), ("sub/x.py", "")]);
        let root = tree.work().parent().unwrap().to_owned();
        for dir in ["env", "tmp"] {
            std::fs::create_dir(root.join(dir)).unwrap();
        }
        std::fs::write(root.join("env/x"), "").unwrap();
        let opened = if own_place { root.join("env/x") } else { stranger.path().to_owned() };
        std::fs::write(tree.work().join("conftest.py"), opens(&opened)).unwrap();
        let mut command = tree.command(&python, &["-m", "pytest", "-p", "ft_pytest", "../test_a.py"]);
        command.current_dir(tree.work().join("sub"));
        if own_root {
            command.env("FT_ROOT", &root).env("TMPDIR", root.join("tmp"));
        }
        good(&mut command);
        let report = TestReport::parse(&std::fs::read(tree.out("pytest.json")).unwrap()).unwrap();
        assert_eq!(report.uncacheable.is_empty(), cacheable, "{own_root} {own_place}: {:?}", report.uncacheable);
        assert_eq!(report.warning_lines[0].starts_with("test_a.py:"), own_root, "{:?}", report.warning_lines);
        assert_eq!(report.collected, ["test_a.py::test_one"]);
    }
}

#[test]
fn bandit_is_asked_again_without_filters_and_keeps_its_first_status() {
    let python = environment("tools", TOOLS);
    let tree = Tree::new(&[("a.py", "import subprocess\nassert 1\nsubprocess.call(input(), shell=True)\n")]);
    let wrapper = lib().join("ft_bandit.py");
    let wrapper = wrapper.to_str().unwrap();
    // The assert is LOW and filtered; the call is HIGH.
    for (args, status) in [
        (&["-rlllf", "txt", "."][..], 1),
        (&["-r", "--format=csv", "-o", "b.csv", "."], 1),
        (&["--exit-zero", "-r", ".", "-f", "txt"], 0),
    ] {
        let out = tree.run(&python, &[&[wrapper], args].concat());
        assert_eq!(out.status.code(), Some(status), "{args:?} {}", told(&out));
        let report = SecurityReport::parse(&std::fs::read(tree.out("bandit.json")).unwrap()).unwrap();
        assert_eq!((report.high, report.above(Severity::None)), (1, 3), "{args:?}");
        assert_eq!(report.issues.len(), 3, "{args:?}: no filter narrows our report");
        std::fs::remove_file(tree.out("bandit.json")).unwrap();
    }
    assert!(tree.work().join("b.csv").is_file());
}

#[test]
fn options_are_taken_apart_as_argparse_does() {
    let python = environment("tools", TOOLS);
    let tree = Tree::new(&[]);
    let cases = [
        (vec!["-rll", "src"], vec!["-r", "src"]),
        (vec!["-rfjson", "-iii", "src"], vec!["-r", "src"]),
        (vec!["-f", "txt", "-o", "x", "-x", "a,b", "src"], vec!["-x", "a,b", "src"]),
        (
            vec!["--form", "txt", "--outp=x", "--severity-level", "high", "-c", "pyproject.toml"],
            vec!["-c", "pyproject.toml"],
        ),
        (
            vec!["--confidence", "--confidence-level", "low", "-ccfg", "-qf", "txt", "--", "-l"],
            vec!["-c", "cfg", "-q", "--", "-l"],
        ),
        (vec!["-lx", "a", "-n", "3", "-f"], vec!["-x", "a", "-n", "3"]),
    ];
    for (given, kept) in cases {
        let code = "import ft_bandit, sys; print('\\n'.join(ft_bandit.without_output_options(sys.argv[1:])))";
        let out = tree.run(&python, &[&["-c", code], &given[..]].concat());
        assert_eq!(String::from_utf8_lossy(&out.stdout).lines().collect::<Vec<_>>(), kept, "{given:?} {}", told(&out));
    }
}

#[test]
fn coverage_of_all_steps_is_combined_without_touching_their_data() {
    let python = environment("tools", TOOLS);
    let tree = Tree::new(&[
        ("src/shop.py", "def f(x):\n    if x:\n        return 1\n    return 2\n"),
        ("one.py", "import sys; sys.path.insert(0, 'src')\nimport shop; shop.f(1)\n"),
        ("pkg/two.py", "import sys; sys.path.insert(0, '../src')\nimport shop; shop.f(0)\n"),
        (".coveragerc", "[run]\nbranch = true\nsource = src\n[report]\nfail_under = 100\nprecision = 0\n"),
    ]);
    good(Command::new(&python).args(["-m", "coverage", "run", "one.py"]).current_dir(tree.work()));
    let wrapper = lib().join("ft_coverage.py");
    let wrapper = wrapper.to_str().unwrap();
    let measured = |args: &[&str]| {
        let out = tree.run(&python, &[&[wrapper], args].concat());
        assert!(out.status.success(), "{}", told(&out));
        Coverage::parse(&std::fs::read(tree.out("coverage.json")).unwrap()).unwrap()
    };
    let coverage = measured(&[]);
    assert_eq!((coverage.covered, coverage.total), (4, 6));

    let pkg = tree.work().join("pkg");
    good(
        Command::new(&python)
            .args(["-m", "coverage", "run", "--rcfile=../.coveragerc", "--source=../src", "-p", "two.py"])
            .current_dir(&pkg),
    );
    let data = || {
        let mut files: Vec<_> = [tree.work(), pkg.clone()]
            .iter()
            .flat_map(|dir| std::fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.file_name().unwrap().to_string_lossy().starts_with(".coverage") && !path.ends_with(".coveragerc")
            })
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = data();
    assert_eq!(before.len(), 2);
    let coverage = measured(&["/home/dev/shop", "pkg"]);
    assert_eq!((coverage.covered, coverage.total), (6, 6));
    assert_eq!(data(), before);
    let code = "import coverage, sys; d = coverage.CoverageData(sys.argv[1]); d.read(); print(*d.measured_files())";
    let mapped = tree.run(&python, &["-c", code, tree.out("coverage.mapped").to_str().unwrap()]);
    assert_eq!(String::from_utf8_lossy(&mapped.stdout).trim(), "/home/dev/shop/src/shop.py", "{}", told(&mapped));
}

#[test]
fn no_coverage_data_is_status_3_and_says_where_it_was_looked_for() {
    let python = environment("tools", TOOLS);
    let tree = Tree::new(&[(".coverage.py", "not data\n"), (".coveragerc", "[run]\ndata_file = build/cov.dat\n")]);
    let out = tree.run(&python, &[lib().join("ft_coverage.py").to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(3), "{}", told(&out));
    assert!(told(&out).contains("no test step left coverage data (.coverage, .coverage.* or"), "{}", told(&out));
    assert!(told(&out).contains("build/cov.dat"), "{}", told(&out));
    assert!(!tree.out("coverage.json").exists());
}
