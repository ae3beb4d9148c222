//! Real repositories for tests: a folder that vanishes, and git in it as a person calls it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository in a temporary folder.
pub(crate) struct Fixture {
    /// Holds the repository and whatever a test puts beside it.
    pub(crate) dir: tempfile::TempDir,
    /// The repository's top level, without links.
    pub(crate) top: PathBuf,
}

impl Fixture {
    /// An empty repository on the branch `main`, in a folder whose name needs quoting.
    pub(crate) fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap().join("a b \u{e4}");
        std::fs::create_dir(&top).unwrap();
        let fixture = Fixture { dir, top };
        fixture.git(["init", "-q", "-b", "main"]);
        fixture
    }

    /// A repository with these files, committed.
    pub(crate) fn with(files: &[(&str, &str)]) -> Fixture {
        let fixture = Fixture::new();
        for (path, text) in files {
            fixture.write(path, text);
        }
        fixture.commit("first");
        fixture
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let at = self.top.join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, bytes).unwrap();
    }

    /// Commits everything.
    pub(crate) fn commit(&self, message: &str) {
        self.git(["add", "-A"]);
        self.git(["commit", "-q", "--allow-empty", "-m", message]);
    }

    /// Runs git here and gives its output without the last newline.
    pub(crate) fn git<const N: usize>(&self, args: [&str; N]) -> String {
        git(&self.top, args)
    }
}

/// Runs git in a folder, with a name and without the configuration of who runs the tests.
pub(crate) fn git<const N: usize>(dir: &Path, args: [&str; N]) -> String {
    let done = command(dir).args(args).output().unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim_end_matches('\n').to_owned()
}

/// The same call, not yet made.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(dir)
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "protocol.file.allow=always"])
        .args(["-c", "commit.gpgSign=false", "-c", "tag.gpgSign=false"])
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_WORK_TREE");
    command
}
