//! What the tests share: a real project from its sdist, as a git repository, and the real `ft` in it.

use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// uv, for the projects that are locked with it: the wheel of each machine that the tests run on.
const UV: &str = "uv==0.13.9 \
    --hash=sha256:d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19 \
    --hash=sha256:5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe \
    --hash=sha256:ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375\n";

/// A released project, as its authors uploaded it.
pub struct Sdist {
    pub name: &'static str,
    pub version: &'static str,
    pub sha256: &'static str,
}

/// Who resolves and fetches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    Uv,
    Pip,
}

/// A git repository, and how `ft` is called in it.
pub struct Repo {
    pub root: PathBuf,
    by: By,
}

/// What a call of `ft` came to.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The call, where it left with this status.
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }
}

fn base() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("projects")
}

fn done(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A folder whose only file is `python3.11`: the one Python that these tests ask for.
fn python_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let output = done(Command::new("python3.11").args(["-c", "import sys; print(sys.executable)"]));
        let python = String::from_utf8(output.stdout).expect("the path of a Python is UTF-8 here");
        let dir = base().join("bin");
        std::fs::create_dir_all(&dir).unwrap();
        let link = dir.join("python3.11");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(python.trim(), link).unwrap();
        dir
    })
}

/// Where programs are looked for: that Python, and what every machine has.
fn search_path() -> OsString {
    std::env::join_paths([python_dir(), Path::new("/usr/bin"), Path::new("/bin")]).expect("no path here has a colon")
}

fn python() -> Command {
    Command::new(python_dir().join("python3.11"))
}

/// uv in a virtual environment of its own, installed once.
fn uv() -> &'static Path {
    static UV_PATH: OnceLock<PathBuf> = OnceLock::new();
    UV_PATH.get_or_init(|| {
        let venv = base().join("uv-0.13.9");
        let uv = venv.join("bin/uv");
        if !uv.is_file() {
            done(python().args(["-m", "venv"]).arg(&venv));
            let wanted = venv.join("requirements.txt");
            std::fs::write(&wanted, UV).unwrap();
            let mut pip = Command::new(venv.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--require-hashes", "-r"]);
            done(pip.arg(wanted));
        }
        uv
    })
}

impl Sdist {
    /// The archive, fetched once and held against its hash each time.
    fn fetch(&self) -> PathBuf {
        let dir = base().join("sdists");
        std::fs::create_dir_all(&dir).unwrap();
        let archive = dir.join(format!("{}-{}.tar.gz", self.name, self.version));
        if !archive.is_file() {
            let requirement = format!("{}=={}", self.name, self.version);
            let mut pip = python();
            pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest"]);
            done(pip.arg(&dir).arg(requirement));
        }
        let digest = hex::encode(Sha256::digest(std::fs::read(&archive).unwrap()));
        assert_eq!(digest, self.sha256, "{} is not the file that was pinned", archive.display());
        archive
    }

    /// A fresh repository of the project, with one commit and the tag of its version.
    pub fn repository(&self, by: By) -> Repo {
        let repo = Repo::empty(&format!("{}-{}", self.name, self.version), by);
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--gzip", "--no-same-owner", "--strip-components=1", "--file"]);
        done(tar.arg(self.fetch()).arg("--directory").arg(&repo.root));
        repo.git(&["add", "--all", "--force"]);
        repo.git(&["commit", "--quiet", "--message", "As released"]);
        repo.git(&["tag", self.version]);
        repo
    }
}

impl Repo {
    /// An empty repository in a folder of this name.
    pub fn empty(name: &str, by: By) -> Repo {
        let root = base().join("repositories").join(name);
        if root.exists() {
            std::fs::remove_dir_all(&root).unwrap();
        }
        std::fs::create_dir_all(&root).unwrap();
        let repo = Repo { root, by };
        repo.git(&["init", "--quiet", "--initial-branch", "main"]);
        repo
    }

    /// What git says. It sees no configuration of this machine.
    pub fn git(&self, args: &[&str]) -> String {
        let output = self.try_git(args);
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn try_git(&self, args: &[&str]) -> Output {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.root);
        for setting in ["user.name=A", "user.email=a@example.org", "commit.gpgsign=false", "core.hooksPath=/dev/null"] {
            git.args(["-c", setting]);
        }
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env_remove("GIT_DIR");
        git.args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Commits everything that git does not ignore.
    pub fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    /// As [`Repo::ft`], where CI calls it.
    pub fn ci(&self, args: &[&str]) -> Ran {
        self.call(args, &[("CI", "true")])
    }

    /// Calls `ft` as a person does.
    pub fn ft(&self, args: &[&str]) -> Ran {
        self.call(args, &[])
    }

    /// uv itself, in the repository.
    pub fn uv(&self, args: &[&str]) {
        let mut command = Command::new(uv());
        command.args(args).args(["--python", "3.11", "--no-config"]).current_dir(&self.root);
        command.env("UV_CACHE_DIR", base().join("uv-cache")).env("UV_PYTHON_DOWNLOADS", "never");
        done(command.env("PATH", search_path()));
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("a file stands in a folder")).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Calls `ft` with nothing of the caller's environment but where packages come from.
    #[expect(clippy::disallowed_methods, reason = "the environment of a child is made of this process's own")]
    fn call(&self, args: &[&str], more: &[(&str, &str)]) -> Ran {
        let mut ft = Command::new(env!("CARGO_BIN_EXE_ft"));
        let keep = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.starts_with("pip_") || name.starts_with("ssl_") || name.ends_with("_proxy")
        };
        let kept: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(keep)).collect();
        let uv = if self.by == By::Uv { uv().as_os_str().to_owned() } else { OsString::new() };
        let home = base().join("home");
        std::fs::create_dir_all(&home).unwrap();
        ft.args(args).current_dir(&self.root).env_clear().envs(kept);
        ft.env("PATH", search_path()).env("HOME", home).env("FT_CACHE_DIR", base().join("cache")).env("FT_UV", uv);
        ft.env("FIRSTTRY_DISABLE_AUTO_PARITY", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        ft.envs(more.iter().copied());
        let output = ft.stdin(Stdio::null()).output().unwrap();
        Ran {
            code: output.status.code().expect("ft is not ended by a signal"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}
