//! `ft`, the engine's own client as a witness from outside, and a clone with a lock.

use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// `ft` in a directory, without the caller's habits.
pub fn ft(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ft"));
    command.current_dir(dir).env_remove("SOURCE_DATE_EPOCH").env("FIRSTTRY_DISABLE_AUTO_PARITY", "1");
    command.env("FT_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("images"));
    command
}

/// Standard output of a command that must succeed.
pub fn output(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The engine as its own client sees it.
pub fn docker(args: &[&str]) -> String {
    let out = Command::new("docker").args(args).output();
    let out = out.unwrap_or_else(|error| panic!("these tests need the Docker client (`docker`): {error}"));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.success(),
        "docker {}: {said}\nthese tests need an engine that this user may use",
        args.join(" ")
    );
    String::from_utf8(out.stdout).unwrap()
}

/// An image of this test, removed whatever happens.
pub struct Image(pub String);

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}

/// Makes an image of `images/`, once per checkout, and loads it; its id.
pub fn images_make(name: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/make");
    let mut command = Command::new(script);
    command.args([name, "--load"]).env("FT", env!("CARGO_BIN_EXE_ft"));
    output(&mut command).trim().to_owned()
}

/// A repository with a lock and nothing else.
pub struct Clone(TempDir);

impl Clone {
    pub fn new() -> Clone {
        let dir = tempfile::tempdir().unwrap();
        let git = Command::new("git").args(["init", "-q"]).current_dir(dir.path()).status().unwrap();
        assert!(git.success());
        fs::create_dir(dir.path().join("ci")).unwrap();
        let lock = "{\n  \"version\": 2,\n  \"python\": \"3.11\",\n  \"tools\": {}\n}\n";
        fs::write(dir.path().join("ci/parity.lock.json"), lock).unwrap();
        Clone(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Locks one wheel that nobody else has. The folder where pip finds it, and its bytes.
    pub fn lock_a_wheel(&self) -> (PathBuf, Vec<u8>) {
        let index = self.path().join("index");
        fs::create_dir(&index).unwrap();
        let file = index.join("ft_probe-1.0-py3-none-any.whl");
        let script = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w') as wheel:\n    \
            put = lambda name, text: wheel.writestr(zipfile.ZipInfo(name), text)\n    \
            put('ft_probe.py', 'x = 1\\n' * 50)\n    \
            put('ft_probe-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: ft-probe\\nVersion: 1.0\\n')\n    \
            put('ft_probe-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n    \
            put('ft_probe-1.0.dist-info/RECORD', 'ft_probe.py,,\\nft_probe-1.0.dist-info/METADATA,,\\nft_probe-1.0.dist-info/WHEEL,,\\nft_probe-1.0.dist-info/RECORD,,\\n')\n";
        output(Command::new("python3.11").args(["-c", script]).arg(&file));
        let wheel = fs::read(&file).unwrap();
        let line = format!("ft-probe==1.0 --hash=sha256:{}\n", hex::encode(Sha256::digest(&wheel)));
        fs::write(self.path().join("ci/parity.requirements.txt"), line).unwrap();
        let lock = "{\n  \"version\": 2,\n  \"python\": \"3.11\",\n  \"environment\": {\"from\": \"ci/parity.requirements.txt\", \"project\": \"none\"},\n  \"tools\": {}\n}\n";
        fs::write(self.path().join("ci/parity.lock.json"), lock).unwrap();
        (index, wheel)
    }

    /// The command ends with this status and says all of this on standard error.
    pub fn refused(&self, args: &[&str], status: i32, says: &[&str]) -> Output {
        self.refused_by(&mut ft(self.path()), args, status, says)
    }

    /// The same for a command with an environment of its own.
    pub fn refused_by(&self, command: &mut Command, args: &[&str], status: i32, says: &[&str]) -> Output {
        let out = command.args(args).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "{args:?}: {said}");
        for what in says {
            assert!(said.contains(what), "{args:?} does not say {what:?}: {said}");
        }
        out
    }
}
