//! The same walls for another user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A number without an account: nothing of it may depend on one.
const ORDINARY: u32 = 54321;

/// Names a directory outside of the shared places that the ordinary user may write to.
pub const PLACE: &str = "FT_TEST_PLACE";

#[test]
fn everything_here_holds_for_an_ordinary_user_as_well() {
    if !rustix::process::geteuid().is_root() {
        // Then all the other tests have just shown it.
        assert_eq!(firsttry::cell::step_owner(), None);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let (binary, temporary) = (dir.path().join("cells"), dir.path().join("tmp"));
    // The build's own directory may be closed to others.
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::create_dir(&temporary).unwrap();
    std::os::unix::fs::chown(&temporary, Some(ORDINARY), Some(ORDINARY)).unwrap();
    let place = tempfile::tempdir_in("/opt").or_else(|_| tempfile::tempdir_in("/run")).unwrap();
    std::os::unix::fs::chown(place.path(), Some(ORDINARY), Some(ORDINARY)).unwrap();
    let output = Command::new(&binary)
        .env(PLACE, place.path())
        .args(["--test-threads", "2", "--skip", "agent::", "--skip", "container"])
        .env("TMPDIR", &temporary)
        .current_dir("/")
        .uid(ORDINARY)
        .gid(ORDINARY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let passed = text.lines().filter(|line| line.starts_with("test ") && line.ends_with("ok")).count();
    assert!(passed > 30, "only {passed} tests ran\n{text}");
    let hostile: Vec<&str> = text.lines().filter_map(super::hostile::summary).collect();
    assert_eq!(hostile.len(), 2, "both kinds of cell\n{text}");
    for line in hostile {
        super::hostile::say(line);
    }
}
