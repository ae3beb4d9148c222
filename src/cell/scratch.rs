//! Removing what a step left, however it left it.

use std::fs;
use std::io;
use std::path::Path;

/// Removes a scratch directory with everything in it. A step may take the permissions off its own directories, which a
/// plain recursive removal trips over; so this gives them back on the way. Links are removed, never followed.
///
/// # Errors
/// Where something can't be removed; what could be, is. A directory that is not there is no error.
pub fn remove_scratch(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
        other => return other,
    }
    open_up(path)?;
    fs::remove_dir_all(path)
}

#[cfg(unix)]
fn open_up(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn open_up(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn directories_without_permissions_are_removed_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let locked = scratch.path().join("a/b");
        fs::create_dir_all(&locked).unwrap();
        fs::write(locked.join("file"), "").unwrap();
        symlink(outside.path(), locked.join("link")).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o0)).unwrap();
        remove_scratch(scratch.path()).unwrap();
        assert!(!scratch.path().exists());
        assert!(outside.path().join("kept").exists());
        remove_scratch(scratch.path()).unwrap();
    }
}
