//! What is only there for a while: temporary files and folders whose name tells whose they are, and their removal when
//! that process is gone; and removing a tree, whatever a step made of it.
//!
//! A step can nest directories deeper than any path, than the stack and than the descriptors of a process, take the
//! permissions off its own directories, and be killed anywhere. So this goes down a few levels only; a directory below
//! that is moved up beside its forefathers and emptied there. Links are removed and never followed. It can be killed
//! anywhere too: the next removal goes on.

use std::io;
use std::path::Path;
use tempfile::{Builder, NamedTempFile, TempDir};

/// How temporary names of ours begin; the number of the process that made them follows.
const TEMPORARY: &str = ".ft-tmp-";

/// A temporary name of this process.
#[must_use]
pub fn name(what: &str) -> String {
    format!("{TEMPORARY}{}-{what}", std::process::id())
}

/// A temporary file in `folder`, for its owner alone. Gone when dropped, and swept where this process was killed.
///
/// # Errors
/// Where it can't be made.
pub fn file_in(folder: &Path) -> io::Result<NamedTempFile> {
    Builder::new().prefix(&name("")).tempfile_in(folder)
}

/// A temporary folder in `folder`, likewise.
///
/// # Errors
/// Where it can't be made.
pub fn folder_in(folder: &Path) -> io::Result<TempDir> {
    Builder::new().prefix(&name("")).tempdir_in(folder)
}

/// Makes `link` a symbolic link to `target`, by a rename from `aside`, which is on the same file system.
///
/// # Errors
/// Where it can't be made.
#[cfg(unix)]
pub fn replace_link(target: &Path, link: &Path, aside: &Path) -> io::Result<()> {
    let folder = folder_in(aside)?;
    let new = folder.path().join("link");
    std::os::unix::fs::symlink(target, &new)?;
    std::fs::rename(new, link)
}

/// Removes temporary files and folders in `folder` whose process is gone. Returns how many. Another process may be at
/// the same: what is gone already is no error, and what can't be removed waits for the next sweep.
pub fn sweep(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let left = entries.filter(|entry| is_left(&entry.file_name().to_string_lossy()));
    left.filter(|entry| remove_tree(&entry.path()).is_ok()).count()
}

/// Whether a name is one of ours and its process is gone. Where processes can't be looked up nobody is taken for dead.
fn is_left(name: &str) -> bool {
    let process = name.strip_prefix(TEMPORARY).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
    let number = process.filter(|pid| pid.parse::<u32>().is_ok());
    number.is_some_and(|pid| Path::new("/proc/self").exists() && !Path::new("/proc").join(pid).exists())
}

/// Removes a file, or a directory with everything in it. What is not there is no error.
///
/// # Errors
/// The first thing that can't be removed; what can be, is.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    remove_with_last(path, None)
}

/// The same, and the entry `last` of the directory goes only when nothing but it is left: a mark that says "not whole"
/// must not go before what it speaks of.
///
/// # Errors
/// As [`remove_tree`].
pub fn remove_with_last(path: &Path, last: Option<&str>) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if !meta.is_dir() => std::fs::remove_file(path),
        Ok(_) => {
            system::empty(path, last)?;
            if let Some(last) = last {
                gone(std::fs::remove_file(path.join(last)))?;
            }
            gone(std::fs::remove_dir(path))
        }
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(target_os = "linux")]
mod system {
    use super::{Path, io};
    use rustix::fd::{AsFd, OwnedFd};
    use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
    use rustix::io::Errno;
    use std::ffi::{CStr, CString};

    /// So many levels are gone down before directories are moved up: two descriptors and a frame of the stack each.
    const DEEP: usize = 32;

    /// A directory's children may be made as long as its maker lives; ours is dead. Some file systems skip entries while
    /// others are removed.
    const PASSES: usize = 8;

    pub(super) fn empty(path: &Path, last: Option<&str>) -> io::Result<()> {
        let top = enter(CWD, path)?;
        let mut shelf = Shelf { top: &top, names: Vec::new(), next: 0, failed: None };
        shelf.empty(&top, 0, last);
        while let Some(name) = shelf.names.pop() {
            shelf.remove_directory(&top, &name, 1);
        }
        shelf.failed.map_or(Ok(()), |failed| Err(failed.into()))
    }

    /// Where directories from far below wait for their turn: the top of the tree.
    struct Shelf<'a> {
        top: &'a OwnedFd,
        names: Vec<CString>,
        next: u64,
        failed: Option<Errno>,
    }

    impl Shelf<'_> {
        /// Removes the entries of `directory`, or puts them on the shelf.
        fn empty(&mut self, directory: &OwnedFd, depth: usize, but: Option<&str>) {
            let entries = match Dir::read_from(directory) {
                Ok(entries) => entries,
                Err(error) => return self.fail(error),
            };
            for entry in entries {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => return self.fail(error),
                };
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") || but.is_some_and(|but| but.as_bytes() == name.to_bytes()) {
                    continue;
                }
                let is_directory = match entry.file_type() {
                    FileType::Unknown => rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
                    kind => kind == FileType::Directory,
                };
                if !is_directory {
                    self.settle(rustix::fs::unlinkat(directory, name, AtFlags::empty()));
                } else if depth < DEEP {
                    self.remove_directory(directory, name, depth + 1);
                } else {
                    self.put_up(directory, name);
                }
            }
        }

        fn remove_directory(&mut self, parent: &OwnedFd, name: &CStr, depth: usize) {
            for pass in 1..=PASSES {
                // Most directories of a tree are left empty by what was done below, and some were from the start.
                match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTEMPTY | Errno::EXIST) if pass < PASSES => {}
                    done => return self.settle(done),
                }
                let before = self.failed;
                match enter(parent, name) {
                    Ok(directory) => self.empty(&directory, depth, None),
                    Err(error) => return self.settle(Err(error)),
                }
                if self.failed != before {
                    return;
                }
            }
        }

        /// Moves a directory up to the top, where it is nobody's child but the tree's.
        fn put_up(&mut self, parent: &OwnedFd, name: &CStr) {
            loop {
                let up = CString::new(format!(".ft-removed-{}", self.next)).unwrap_or_default();
                self.next += 1;
                let moved = rustix::fs::renameat(parent, name, self.top, up.as_c_str()).or_else(|error| {
                    // Its own `..` changes, for which it must be writable.
                    if error != Errno::ACCESS {
                        return Err(error);
                    }
                    rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
                    rustix::fs::renameat(parent, name, self.top, up.as_c_str())
                });
                match moved {
                    Ok(()) => return self.names.push(up),
                    // One that a removal that was killed put there.
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                    Err(error) => return self.fail(error),
                }
            }
        }

        fn settle(&mut self, result: rustix::io::Result<()>) {
            match result {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => self.fail(error),
            }
        }

        fn fail(&mut self, error: Errno) {
            self.failed.get_or_insert(error);
        }
    }

    /// Opens a directory and makes it one that can be read and emptied.
    fn enter(parent: impl AsFd, name: impl rustix::path::Arg + Copy) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&parent, name, flags, Mode::empty());
        let directory = open().or_else(|error| {
            if error != Errno::ACCESS {
                return Err(error);
            }
            // No link: the open above said that it is a directory, and whoever could change that has our own rights.
            rustix::fs::chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
            open()
        })?;
        if !Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode).contains(Mode::RWXU) {
            // Of another's directory the unlinking will say why it can't be.
            let _ = rustix::fs::fchmod(&directory, Mode::RWXU);
        }
        Ok(directory)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Path, io};

    /// No step runs here, so nothing is deeper than a path.
    pub(super) fn empty(path: &Path, last: Option<&str>) -> io::Result<()> {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if last.is_some_and(|last| entry.file_name() == last) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn directories_without_permissions_are_removed_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let locked = scratch.path().join("a/b");
        fs::create_dir_all(locked.join("c")).unwrap();
        fs::write(locked.join("file"), "").unwrap();
        symlink(outside.path(), locked.join("link")).unwrap();
        for folder in [&locked.join("c"), &locked] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o0)).unwrap();
        }
        remove_tree(scratch.path()).unwrap();
        assert!(!scratch.path().exists());
        assert!(outside.path().join("kept").exists());
        remove_tree(scratch.path()).unwrap();
        symlink(outside.path(), scratch.path()).unwrap();
        remove_tree(scratch.path()).unwrap();
        assert!(!scratch.path().is_symlink() && outside.path().join("kept").exists());
    }

    /// `levels` directories in each other with a file and a side directory in each, deeper than a path can name.
    fn nest(top: &Path, levels: usize) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = openat(CWD, top, flags, Mode::empty()).unwrap();
        for _ in 0..levels {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            mkdirat(&at, "side", Mode::RWXU).unwrap();
            openat(&at, "file", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR).unwrap();
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed_also_when_a_removal_was_killed_in_the_middle() {
        let scratch = tempfile::tempdir().unwrap();
        nest(scratch.path(), 20_000);
        // What a killed one left, with the same names.
        for n in [0, 1, 7] {
            fs::create_dir_all(scratch.path().join(format!(".ft-removed-{n}/d/d"))).unwrap();
        }
        fs::write(scratch.path().join(".ft-removed-2"), "").unwrap();
        remove_tree(scratch.path()).unwrap();
        assert!(!scratch.path().exists());
    }

    #[test]
    fn temporary_names_of_the_dead_are_swept_and_of_the_living_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let mine = (file_in(folder.path()).unwrap(), folder_in(folder.path()).unwrap());
        let dead = format!("{TEMPORARY}{}-x", u32::MAX);
        fs::create_dir_all(folder.path().join(&dead).join("a/b")).unwrap();
        for other in [format!("{TEMPORARY}nobody-x"), format!("{TEMPORARY}7"), ".tmp-4294967295-x".into()] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        assert_eq!(sweep(folder.path()), 1);
        assert!(!folder.path().join(dead).exists() && mine.0.path().exists() && mine.1.path().exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
        assert_eq!(sweep(&folder.path().join("absent")), 0);
    }

    #[test]
    fn the_mark_goes_last() {
        let scratch = tempfile::tempdir().unwrap();
        nest(scratch.path(), 3);
        fs::write(scratch.path().join("mark"), "").unwrap();
        system::empty(scratch.path(), Some("mark")).unwrap();
        let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["mark"]);
        remove_with_last(scratch.path(), Some("mark")).unwrap();
        assert!(!scratch.path().exists());
    }
}
