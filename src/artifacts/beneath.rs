//! Files below one directory, never through a link.
//!
//! On Linux every step of a path is opened from the one before it, so that a link that appears meanwhile is an error
//! and not a way out. Elsewhere each step is looked at first.

use std::fs::File;
use std::io;
use std::path::Path;

/// A directory and what may be made below it. Paths are relative, `/` between plain names.
pub struct Beneath {
    #[cfg(target_os = "linux")]
    root: rustix::fd::OwnedFd,
    #[cfg(not(target_os = "linux"))]
    root: std::path::PathBuf,
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{Beneath, File, Path, io};
    use rustix::fd::OwnedFd;
    use rustix::fs::{AtFlags, Mode, OFlags, fchmod, mkdirat, openat, renameat, statat, unlinkat};

    const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

    fn split(path: &str) -> (Option<&str>, &str) {
        path.rsplit_once('/').map_or((None, path), |(folder, name)| (Some(folder), name))
    }

    impl Beneath {
        /// This directory, which must be there and be no link itself.
        pub fn new(root: &Path) -> io::Result<Beneath> {
            Ok(Beneath { root: rustix::fs::open(root, FOLDER, Mode::empty())? })
        }

        /// Makes a folder and those above it.
        pub fn make_folder(&self, path: &str) -> io::Result<()> {
            self.folder(Some(path), true).map(drop)
        }

        /// A new file, with the folders above it. An error where something has that name.
        pub fn create(&self, path: &str, executable: bool) -> io::Result<File> {
            let (folder, name) = split(path);
            let folder = self.folder(folder, true)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(folder, name, flags, Mode::from_raw_mode(0o600))?;
            // Whatever the umask is.
            fchmod(&file, Mode::from_raw_mode(if executable { 0o755 } else { 0o644 }))?;
            Ok(file.into())
        }

        /// A regular file for reading; `None` where nothing has that name.
        pub fn open(&self, path: &str) -> io::Result<Option<File>> {
            let (folder, name) = split(path);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match self.folder(folder, false).and_then(|folder| Ok(openat(folder, name, flags, Mode::empty())?)) {
                Ok(file) => {
                    let file = File::from(file);
                    if file.metadata()?.is_file() { Ok(Some(file)) } else { Err(io::ErrorKind::InvalidInput.into()) }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        }

        /// Whether anything has that name, a dangling link too.
        pub fn exists(&self, path: &str) -> io::Result<bool> {
            let (folder, name) = split(path);
            let seen = self
                .folder(folder, false)
                .and_then(|folder| Ok(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map(drop)?));
            match seen {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        }

        /// Renames below the directory; what has the new name is replaced.
        pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            let ((old_folder, old), (new_folder, new)) = (split(from), split(to));
            Ok(renameat(self.folder(old_folder, false)?, old, self.folder(new_folder, true)?, new)?)
        }

        /// Removes a file.
        pub fn remove(&self, path: &str) -> io::Result<()> {
            let (folder, name) = split(path);
            Ok(unlinkat(self.folder(folder, false)?, name, AtFlags::empty())?)
        }

        /// Removes a folder where it is empty; says whether it did.
        pub fn remove_empty_folder(&self, path: &str) -> bool {
            let (folder, name) = split(path);
            self.folder(folder, false).is_ok_and(|folder| unlinkat(folder, name, AtFlags::REMOVEDIR).is_ok())
        }

        /// Opens a folder, step by step.
        fn folder(&self, path: Option<&str>, make: bool) -> io::Result<OwnedFd> {
            let mut at = self.root.try_clone()?;
            for name in path.into_iter().flat_map(|path| path.split('/')) {
                if make {
                    match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                at = openat(&at, name, FOLDER, Mode::empty())?;
            }
            Ok(at)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{Beneath, File, Path, io};
    use std::path::PathBuf;

    impl Beneath {
        /// This directory, which must be there and be no link itself.
        pub fn new(root: &Path) -> io::Result<Beneath> {
            if root.symlink_metadata()?.is_dir() {
                Ok(Beneath { root: root.to_owned() })
            } else {
                Err(io::ErrorKind::NotADirectory.into())
            }
        }

        /// Makes a folder and those above it.
        pub fn make_folder(&self, path: &str) -> io::Result<()> {
            self.at(&format!("{path}/."), true).map(drop)
        }

        /// A new file, with the folders above it. An error where something has that name.
        pub fn create(&self, path: &str, executable: bool) -> io::Result<File> {
            let at = self.at(path, true)?;
            let file = File::options().write(true).create_new(true).open(&at)?;
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let mode = if executable { 0o755 } else { 0o644 };
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            }
            let _ = executable;
            Ok(file)
        }

        /// A regular file for reading; `None` where nothing has that name.
        pub fn open(&self, path: &str) -> io::Result<Option<File>> {
            let at = self.at(path, false)?;
            match at.symlink_metadata() {
                Ok(meta) if meta.is_file() => File::open(at).map(Some),
                Ok(_) => Err(io::ErrorKind::InvalidInput.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        }

        /// Whether anything has that name, a dangling link too.
        pub fn exists(&self, path: &str) -> io::Result<bool> {
            match self.at(path, false)?.symlink_metadata() {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        }

        /// Renames below the directory; what has the new name is replaced.
        pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            std::fs::rename(self.at(from, false)?, self.at(to, true)?)
        }

        /// Removes a file.
        pub fn remove(&self, path: &str) -> io::Result<()> {
            std::fs::remove_file(self.at(path, false)?)
        }

        /// Removes a folder where it is empty; says whether it did.
        pub fn remove_empty_folder(&self, path: &str) -> bool {
            self.at(path, false).is_ok_and(|at| std::fs::remove_dir(at).is_ok())
        }

        fn at(&self, path: &str, make: bool) -> io::Result<PathBuf> {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            let mut at = self.root.clone();
            for step in folder.split('/').filter(|step| !step.is_empty()) {
                at.push(step);
                match at.symlink_metadata() {
                    Ok(meta) if meta.is_dir() => {}
                    Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound && make => std::fs::create_dir(&at)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            at.push(name);
            Ok(at)
        }
    }
}
