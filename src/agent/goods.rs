//! Directories that come as tars: read from the stream frame by frame, laid over each other, and never written through a
//! link. The tars are the host's own or an agent's, and their names are checked all the same.

use super::walls::read_frame;
use crate::frame::{Bytes, ToHelper};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// A tar that comes over standard input, until an empty piece.
#[derive(Debug, Default)]
pub struct Feed {
    piece: Vec<u8>,
    at: usize,
    over: bool,
}

impl Feed {
    /// Takes what a reader of the tar did not need.
    ///
    /// # Errors
    /// Where the stream is cut.
    pub fn finish(&mut self) -> io::Result<()> {
        while !self.over {
            self.at = 0;
            self.piece.clear();
            self.next()?;
        }
        Ok(())
    }

    fn next(&mut self) -> io::Result<()> {
        match read_frame().map_err(|failure| io::Error::other(failure.message))? {
            ToHelper::Goods { bytes: Bytes(bytes) } => {
                self.over = bytes.is_empty();
                (self.piece, self.at) = (bytes, 0);
                Ok(())
            }
            _ => Err(io::Error::other("something else came where goods were announced")),
        }
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !self.over {
            self.next()?;
        }
        let rest = &self.piece[self.at..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

/// Mode and time of a directory, set when nothing more comes into it.
#[derive(Debug, Clone, Copy)]
struct Directory {
    mode: u32,
    time: (i64, i64),
}

/// One directory that tars are laid into.
#[derive(Debug)]
pub struct Unpacker {
    to: PathBuf,
    owned: bool,
    directories: BTreeMap<PathBuf, Directory>,
}

impl Unpacker {
    /// Into `to`, which is made where it is not there. Without `owned`, everybody may read everything and nobody but us
    /// write.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn new(to: &Path, owned: bool) -> io::Result<Unpacker> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(to)?;
        Ok(Unpacker { to: to.to_owned(), owned, directories: BTreeMap::new() })
    }

    /// Lays one tar over what is there. `alive` is called for each entry.
    ///
    /// # Errors
    /// Where it can't be read or written, and for names that leave the directory.
    pub fn lay(&mut self, tar: &mut impl Read, alive: &mut dyn FnMut()) -> io::Result<()> {
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries()? {
            alive();
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
            self.entry(&mut entry, &path).map_err(named)?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(io::Error::other("a name that leaves its directory"));
        }
        let at = self.to.join(&path);
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode()? & 0o777);
        let time = modified(entry)?;
        let there = fs::symlink_metadata(&at).ok();
        if kind.is_dir() {
            if there.as_ref().is_some_and(|there| !there.is_dir()) {
                self.remove(&path, &at)?;
            }
            if !there.is_some_and(|there| there.is_dir()) {
                self.parent(&path)?;
                fs::DirBuilder::new().mode(0o755).create(&at)?;
            }
            self.directories.insert(path, Directory { mode, time });
            return Ok(());
        }
        if there.is_some() {
            self.remove(&path, &at)?;
        }
        if kind.is_file() {
            self.parent(&path)?;
            let read = if mode & 0o100 == 0 { 0o444 } else { 0o555 };
            let mode = if self.owned { mode } else { read };
            let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&at)?;
            io::copy(entry, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            rustix::fs::futimens(&file, &times(time))?;
        } else if kind.is_symlink() {
            self.parent(&path)?;
            let target = entry.link_name_bytes().ok_or_else(|| io::Error::other("a link without a target"))?;
            symlink(std::ffi::OsStr::from_bytes(&target), &at)?;
            rustix::fs::utimensat(CWD, &at, &times(time), AtFlags::SYMLINK_NOFOLLOW)?;
        } else if !kind.is_character_special() {
            // That is how something that is gone is marked, and it is gone now.
            return Err(io::Error::other("an entry that is no file, link or directory"));
        }
        Ok(())
    }

    /// Makes the directories above an entry, none of which is a link.
    fn parent(&self, path: &Path) -> io::Result<()> {
        let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
        above.reverse();
        for part in above {
            let at = self.to.join(part);
            match fs::symlink_metadata(&at) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(io::Error::other("an entry behind what is no directory")),
                Err(_) => fs::DirBuilder::new().mode(0o755).create(&at)?,
            }
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path, at: &Path) -> io::Result<()> {
        self.directories.retain(|directory, _| !directory.starts_with(path));
        if fs::symlink_metadata(at)?.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) }
    }

    /// Gives the directories their modes and times, the deepest first: after that nothing is made in them.
    ///
    /// # Errors
    /// Where that is refused.
    pub fn finish(self) -> io::Result<()> {
        for (path, directory) in self.directories.iter().rev() {
            let at = self.to.join(path);
            if self.owned {
                fs::set_permissions(&at, fs::Permissions::from_mode(directory.mode))?;
            }
            rustix::fs::utimensat(CWD, &at, &times(directory.time), AtFlags::empty())?;
        }
        Ok(())
    }
}

/// Seconds and nanoseconds; the latter stand in an extension.
fn modified<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<(i64, i64)> {
    let seconds = entry.header().mtime()?.cast_signed();
    let Some(extensions) = entry.pax_extensions()? else { return Ok((seconds, 0)) };
    let precise = extensions.filter_map(Result::ok).find(|e| e.key_bytes() == b"mtime");
    let precise = precise.and_then(|e| {
        let (whole, part) = e.value().ok()?.split_once('.')?;
        Some((whole.parse().ok()?, part.get(..9)?.parse().ok()?))
    });
    Ok(precise.unwrap_or((seconds, 0)))
}

fn times((tv_sec, tv_nsec): (i64, i64)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec, tv_nsec },
    }
}
