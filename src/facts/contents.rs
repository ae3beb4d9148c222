//! What this machine gives to Python, measured by the interpreter that the checks are going to run with.

use crate::lib_py::MEASURE;
use crate::lock::contents::Contents;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Reading some thousand files of a cold disk takes a while; an interpreter that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// The largest answer that is read, in bytes. A real one has a few KiB.
const LARGEST: u64 = 1 << 20;

/// Measures, starting this interpreter with nothing of the caller's environment.
///
/// # Errors
/// Why there is no measurement: what the interpreter printed instead, or that it did not end.
pub fn measure(interpreter: &Path) -> Result<Contents, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", interpreter.display());
    let mut child = Command::new(interpreter)
        .args(["-I", "-S", "-B", "-c", MEASURE])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What can't be read is no answer, and that is found below.
            let _ = stream.map(|stream| stream.take(LARGEST).read_to_end(&mut bytes));
            bytes
        })
    };
    let answer = read(child.stdout.take().map(|stream| Box::new(stream) as _));
    let complaint = read(child.stderr.take().map(|stream| Box::new(stream) as _));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                // It may be gone by now.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(format!("{} did not end within {} s", interpreter.display(), PATIENCE.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let (answer, complaint) = (answer.join().unwrap_or_default(), complaint.join().unwrap_or_default());
    Contents::parse(&answer).filter(|_| status.success()).ok_or_else(|| {
        let complaint = String::from_utf8_lossy(&complaint);
        let last = complaint.trim().lines().last().unwrap_or("it printed no measurement").to_owned();
        format!("{} ({status}): {last}", interpreter.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn python() -> std::path::PathBuf {
        let said = Command::new("python3.11").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        Path::new(String::from_utf8(said.stdout).unwrap().trim()).canonicalize().unwrap()
    }

    #[test]
    fn the_same_machine_measures_the_same_and_another_library_is_found() {
        let measured = measure(&python()).unwrap();
        assert!(measured.libraries.keys().any(|name| name.starts_with("libc.so")), "{measured:?}");
        assert_eq!(measured.differences(&measure(&python()).unwrap()), [] as [&str; 0]);
        let mut locked = measured.clone();
        locked.libraries.insert("libc.so.6".into(), "0".repeat(64));
        assert_eq!(locked.differences(&measured), ["changed shared libraries: libc.so.6"]);
    }

    #[test]
    fn what_does_not_measure_says_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("python");
        std::fs::write(&path, "#!/bin/sh\necho out; echo no such library >&2; exit 3\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let why = measure(&path).unwrap_err();
        assert!(why.contains("exit status: 3") && why.ends_with("no such library"), "{why}");
        assert!(measure(&dir.path().join("absent")).unwrap_err().contains("No such file"));
    }
}
