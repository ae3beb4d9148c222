//! A directory as a layer: the same bytes for the same content, wherever it stands and whoever unpacked it.
//!
//! Sorted by the bytes of the names. Everything is root's. A file has mode 0755 where its owner may execute it, else 0644; a
//! directory 0755, or 1777 where it is sticky (`/tmp`): a umask leaves no trace, and set-uid bits are gone, which no cell
//! would honour. A file is not newer than `epoch`; a directory and a link have that time, since theirs is when somebody
//! unpacked them. Files with several names become files of their own.

use super::ArchiveError;
use crate::lock::image::Digest;
use crate::tar_writer::TarWriter;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An unpacked layer in a file of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its digest.
    pub diff_id: Digest,
    /// How long it is.
    pub bytes: u64,
}

/// Writes the content of `directory` as a layer into the file `into`, below the path `prefix` of the image (empty: its
/// root). `epoch` is in seconds since 1970.
///
/// # Errors
/// A file can't be read, changes while it is read, or is a device, a socket or a FIFO.
pub fn layer(directory: &Path, prefix: &str, epoch: u64, into: &Path) -> Result<LayerFile, ArchiveError> {
    let file = File::create_new(into).map_err(ArchiveError::at(into))?;
    let mut tar = TarWriter::new(file);
    let write = ArchiveError::at(into);
    // The directories above, so that they are ours and not made by who unpacks.
    let mut name = Vec::new();
    for step in prefix.split('/').filter(|step| !step.is_empty()) {
        name.extend_from_slice(step.as_bytes());
        tar.directory_with(&name, 0o755, epoch).map_err(ArchiveError::at(into))?;
        name.push(b'/');
    }
    let mut walk = Walk { tar: &mut tar, into, epoch };
    walk.directory(directory, &mut name)?;
    finish(tar, into).map_err(write)
}

/// The layer with nothing in it: what an image from scratch has, since some engines take none without any.
///
/// # Errors
/// The file can't be written.
pub fn empty_layer(into: &Path) -> Result<LayerFile, ArchiveError> {
    let file = File::create_new(into).map_err(ArchiveError::at(into))?;
    finish(TarWriter::new(file), into).map_err(ArchiveError::at(into))
}

fn finish(tar: TarWriter<File>, path: &Path) -> std::io::Result<LayerFile> {
    let written = tar.finish()?;
    Ok(LayerFile { path: path.to_path_buf(), diff_id: Digest(written.sha256), bytes: written.bytes })
}

struct Walk<'a, W: Write> {
    tar: &'a mut TarWriter<W>,
    into: &'a Path,
    epoch: u64,
}

impl<W: Write> Walk<'_, W> {
    /// `name` is the directory's own, with a slash at its end, or empty.
    fn directory(&mut self, path: &Path, name: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let entries = std::fs::read_dir(path).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<OsString>, _>>()
        });
        let mut entries = entries.map_err(ArchiveError::at(path))?;
        entries.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
        for entry in entries {
            let path = path.join(&entry);
            let length = name.len();
            name.extend_from_slice(entry.as_bytes());
            self.entry(&path, name)?;
            name.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let meta = std::fs::symlink_metadata(path).map_err(ArchiveError::at(path))?;
        let kind = meta.file_type();
        if kind.is_symlink() {
            let target = std::fs::read_link(path).map_err(ArchiveError::at(path))?;
            let link = self.tar.link(name, target.as_os_str().as_bytes(), self.epoch);
            link.map_err(ArchiveError::at(self.into))
        } else if kind.is_dir() {
            let mode = if meta.mode() & 0o1000 != 0 { 0o1777 } else { 0o755 };
            self.tar.directory_with(name, mode, self.epoch).map_err(ArchiveError::at(self.into))?;
            name.push(b'/');
            self.directory(path, name)
        } else if kind.is_file() {
            self.file(path, name, &meta)
        } else {
            let what = if kind.is_fifo() {
                "a FIFO"
            } else if kind.is_socket() {
                "a socket"
            } else {
                "a device"
            };
            Err(input(path, &format!("{what}, which an image can't hold")))
        }
    }

    fn file(&mut self, path: &Path, name: &[u8], meta: &Metadata) -> Result<(), ArchiveError> {
        let changed = || input(path, "changed while it was read");
        let mut file = File::open(path).map_err(ArchiveError::at(path))?;
        let opened = file.metadata().map_err(ArchiveError::at(path))?;
        if (opened.ino(), opened.dev(), opened.len()) != (meta.ino(), meta.dev(), meta.len()) {
            return Err(changed());
        }
        let time = u64::try_from(opened.mtime()).unwrap_or(0).min(self.epoch);
        let mut counted = Counted { from: (&mut file).take(opened.len()), bytes: 0 };
        let executable = opened.mode() & 0o100 != 0;
        self.tar.file(name, executable, time, opened.len(), &mut counted).map_err(ArchiveError::at(path))?;
        // The tar is then broken, and nobody gets it.
        if counted.bytes != opened.len() || file.read(&mut [0]).map_err(ArchiveError::at(path))? > 0 {
            return Err(changed());
        }
        Ok(())
    }
}

struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

fn input(path: &Path, what: &str) -> ArchiveError {
    ArchiveError::Input { path: path.to_path_buf(), what: what.to_owned() }
}
