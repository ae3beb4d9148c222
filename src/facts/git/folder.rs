//! Looking at many files of one tree, folder by folder, and never through a link: a tracked file behind a folder that
//! has become a link is gone, for git and for us.
//!
//! On Linux a folder is opened once and its files are looked up in it, which halves the price of a look.

use super::cache::Stamp;
use std::fs::File;
use std::io;
use std::path::Path;

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// `f`, `x` (executable), `l` (link), `d` (folder), `?` (anything else).
    pub kind: u8,
    pub stamp: Stamp,
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{File, Look, Path, Stamp, io};
    use rustix::fd::OwnedFd;
    use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, openat, openat2, readlinkat, statat};
    use rustix::io::Errno;

    /// The folder that was looked into last.
    pub struct Folder<'a> {
        root: &'a OwnedFd,
        path: Vec<u8>,
        /// `None` where it is not there, or not without a link.
        here: Option<OwnedFd>,
    }

    const OPEN: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

    /// Opens the top of a tree.
    pub fn open_root(root: &Path) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(root, OPEN, Mode::empty())?)
    }

    impl<'a> Folder<'a> {
        pub fn new(root: &'a OwnedFd) -> Self {
            Folder { root, path: Vec::new(), here: None }
        }

        /// Looks; `None` where nothing is there.
        pub fn look(&mut self, path: &[u8]) -> io::Result<Option<Look>> {
            let Some((folder, name)) = self.at(path)? else { return Ok(None) };
            match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Ok(Some(look(&stat))),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }

        /// Opens a file for reading; never waits for the other end of a FIFO.
        pub fn open(&mut self, path: &[u8]) -> io::Result<File> {
            let (folder, name) = self.at(path)?.ok_or(io::ErrorKind::NotFound)?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(openat(folder, name, flags, Mode::empty())?.into())
        }

        /// What a link says.
        pub fn target(&mut self, path: &[u8]) -> io::Result<Vec<u8>> {
            let (folder, name) = self.at(path)?.ok_or(io::ErrorKind::NotFound)?;
            Ok(readlinkat(folder, name, Vec::new())?.into_bytes())
        }

        fn at<'p>(&mut self, path: &'p [u8]) -> io::Result<Option<(&OwnedFd, &'p [u8])>> {
            let Some(slash) = path.iter().rposition(|b| *b == b'/') else { return Ok(Some((self.root, path))) };
            let (folder, name) = (&path[..slash], &path[slash + 1..]);
            if self.path != folder {
                self.here = open_folder(self.root, folder)?;
                self.path = folder.to_vec();
            }
            Ok(self.here.as_ref().map(|here| (here, name)))
        }
    }

    fn open_folder(root: &OwnedFd, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        let opened = match openat2(root, path, OPEN, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            // An old kernel, or a container that forbids what it does not know: step by step.
            Err(Errno::NOSYS | Errno::PERM) => path
                .split(|b| *b == b'/')
                .try_fold(root.try_clone()?, |at, name| openat(at, name, OPEN | OFlags::NOFOLLOW, Mode::empty())),
            other => other,
        };
        match opened {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn look(stat: &Stat) -> Look {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_mode & 0o100 != 0 => b'x',
            FileType::RegularFile => b'f',
            FileType::Symlink => b'l',
            FileType::Directory => b'd',
            _ => b'?',
        };
        Look { kind, stamp: Stamp::of_stat(stat) }
    }
}

#[cfg(target_os = "linux")]
pub use linux::{Folder, open_root};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{File, Look, Path, Stamp, io};
    use crate::repo::{native, path_bytes};
    use std::path::PathBuf;

    /// The folder that was looked into last.
    pub struct Folder<'a> {
        root: &'a Path,
        path: PathBuf,
        is_real: bool,
    }

    /// The top of a tree.
    pub fn open_root(root: &Path) -> io::Result<PathBuf> {
        Ok(root.to_owned())
    }

    impl<'a> Folder<'a> {
        pub fn new(root: &'a Path) -> Self {
            Folder { root, path: PathBuf::new(), is_real: true }
        }

        /// Looks; `None` where nothing is there.
        pub fn look(&mut self, path: &[u8]) -> io::Result<Option<Look>> {
            let Some(at) = self.at(path) else { return Ok(None) };
            let meta = match at.symlink_metadata() {
                Ok(meta) => meta,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let kind = match () {
                () if meta.is_symlink() => b'l',
                () if meta.is_dir() => b'd',
                () if !meta.is_file() => b'?',
                () if is_executable(&meta) => b'x',
                () => b'f',
            };
            Ok(Some(Look { kind, stamp: Stamp::of(&meta) }))
        }

        /// Opens a file for reading.
        pub fn open(&mut self, path: &[u8]) -> io::Result<File> {
            File::open(self.at(path).ok_or(io::ErrorKind::NotFound)?)
        }

        /// What a link says.
        pub fn target(&mut self, path: &[u8]) -> io::Result<Vec<u8>> {
            Ok(path_bytes(&self.at(path).ok_or(io::ErrorKind::NotFound)?.read_link()?).to_vec())
        }

        fn at(&mut self, path: &[u8]) -> Option<PathBuf> {
            let path = native(path);
            let folder = path.parent().unwrap_or(Path::new(""));
            if self.path != folder {
                let mut above = folder.ancestors().filter(|at| !at.as_os_str().is_empty());
                self.is_real = above.all(|at| self.root.join(at).symlink_metadata().is_ok_and(|meta| meta.is_dir()));
                self.path = folder.to_owned();
            }
            self.is_real.then(|| self.root.join(path))
        }
    }

    fn is_executable(meta: &std::fs::Metadata) -> bool {
        #[cfg(unix)]
        {
            std::os::unix::fs::MetadataExt::mode(meta) & 0o100 != 0
        }
        #[cfg(not(unix))]
        {
            let _ = meta;
            false
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Folder, open_root};
