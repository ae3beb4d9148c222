//! Files from disk into the tar, in order, with bounded memory.
//!
//! Small files are read in batches on all cores; a large one is hashed first, since its time stands before its content,
//! and then copied. A file that is written to meanwhile is noticed.

use super::SnapshotError;
use crate::repo::{Kind, Tracked, native, path_bytes, shown};
use crate::tar_writer::{TarWriter, time_of};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// A file of more bytes is streamed.
const LARGE: u64 = 1 << 20;
/// A batch holds at most this many files, and at most [`BATCH_BYTES`] or one file more.
const BATCH_FILES: usize = 512;
const BATCH_BYTES: u64 = 8 << 20;
/// How often a file that changes while it is read is read again.
const TRIES: usize = 3;

/// What is there on disk where git tracks something.
enum Loaded {
    Small {
        bytes: Vec<u8>,
        sha256: [u8; 32],
        executable: bool,
    },
    Large {
        executable: bool,
    },
    Link(Vec<u8>),
    /// A folder: a submodule's, or one that took a file's place.
    Folder,
    Missing,
    /// A FIFO, socket or device.
    Special,
}

/// Writes the entries, which are sorted, as they are below `from`. Without `modes_count` (`core.fileMode` is false: the
/// file system has no executable bit of its own) git's word is taken for what is executable.
pub fn write_files<W: Write>(
    from: &Path,
    entries: &[Tracked],
    modes_count: bool,
    tar: &mut TarWriter<W>,
    notes: &mut Vec<String>,
) -> Result<(), SnapshotError> {
    let mut folders = Folders { from, real: HashMap::new() };
    let mut rest = entries;
    while !rest.is_empty() {
        let (batch, behind) = rest.split_at(batch_len(from, rest));
        rest = behind;
        let real: Vec<bool> = batch.iter().map(|entry| folders.hold(&entry.path)).collect();
        let loaded: Vec<_> = batch
            .par_iter()
            .zip(real)
            .map(|(entry, real)| if real { load(from, entry) } else { Ok(Loaded::Missing) })
            .collect();
        for (entry, loaded) in batch.iter().zip(loaded) {
            let mut loaded = loaded?;
            if let (false, Loaded::Small { executable, .. } | Loaded::Large { executable }) = (modes_count, &mut loaded)
            {
                *executable = entry.kind == Kind::Executable;
            }
            write_one(from, entry, loaded, tar, notes)?;
        }
    }
    Ok(())
}

/// Which folders of the tree are folders and not links: a tracked file behind a link is gone, as for git.
struct Folders<'a> {
    from: &'a Path,
    real: HashMap<PathBuf, bool>,
}

impl Folders<'_> {
    /// Whether the path is reached through folders alone.
    fn hold(&mut self, path: &[u8]) -> bool {
        native(path).parent().is_none_or(|folder| self.is_real(folder))
    }

    fn is_real(&mut self, folder: &Path) -> bool {
        let Some(above) = folder.parent() else { return true };
        if let Some(known) = self.real.get(folder) {
            return *known;
        }
        let real = self.is_real(above) && self.from.join(folder).symlink_metadata().is_ok_and(|meta| meta.is_dir());
        self.real.insert(folder.to_owned(), real);
        real
    }
}

fn batch_len(from: &Path, entries: &[Tracked]) -> usize {
    let mut bytes = 0;
    let sizes = entries.iter().take(BATCH_FILES).map(|entry| {
        // A guess to bound memory; what is read decides.
        from.join(native(&entry.path)).symlink_metadata().map_or(0, |meta| meta.len().min(LARGE))
    });
    let mut n = 0;
    for size in sizes {
        n += 1;
        bytes += size;
        if bytes >= BATCH_BYTES {
            break;
        }
    }
    n
}

fn write_one<W: Write>(
    from: &Path,
    entry: &Tracked,
    loaded: Loaded,
    tar: &mut TarWriter<W>,
    notes: &mut Vec<String>,
) -> Result<(), SnapshotError> {
    let path = &entry.path;
    let write = match loaded {
        Loaded::Small { bytes, sha256, executable } => {
            tar.file(path, executable, time_of(&sha256), bytes.len() as u64, &*bytes)
        }
        Loaded::Large { executable } => return write_large(&from.join(native(path)), path, executable, tar),
        Loaded::Link(target) => tar.link(path, &target, time_of(&Sha256::digest(&target).into())),
        Loaded::Folder if entry.kind == Kind::Submodule => tar.directory(path),
        Loaded::Missing if entry.kind == Kind::Submodule => tar.directory(path),
        Loaded::Missing => Ok(()),
        Loaded::Folder | Loaded::Special => {
            notes.push(format!("{}: tracked by git, but no file or link on disk; left out", shown(path)));
            Ok(())
        }
    };
    write.map_err(SnapshotError::io(native(path)))
}

/// Reads one entry; a file that changes meanwhile is read again a few times.
fn load(from: &Path, entry: &Tracked) -> Result<Loaded, SnapshotError> {
    let at = from.join(native(&entry.path));
    for _ in 0..TRIES {
        if let Some(loaded) = load_once(&at).map_err(SnapshotError::io(native(&entry.path)))? {
            return Ok(loaded);
        }
    }
    Err(SnapshotError::Changed(shown(&entry.path)))
}

/// `None` where the file changed while it was read.
fn load_once(at: &Path) -> std::io::Result<Option<Loaded>> {
    let meta = match at.symlink_metadata() {
        Ok(meta) => meta,
        // A file where git has a folder: what git has below it is gone.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Some(Loaded::Missing));
        }
        Err(error) => return Err(error),
    };
    if meta.is_symlink() {
        return match at.read_link() {
            Ok(target) => Ok(Some(Loaded::Link(path_bytes(&target).to_vec()))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(None),
            Err(error) => Err(error),
        };
    }
    if meta.is_dir() {
        return Ok(Some(Loaded::Folder));
    }
    if !meta.is_file() {
        return Ok(Some(Loaded::Special));
    }
    if meta.len() > LARGE {
        return Ok(Some(Loaded::Large { executable: is_executable(&meta) }));
    }
    let Some((mut file, before)) = open_same(at, &meta)? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(before.len() as usize + 1);
    (&mut file).take(2 * LARGE).read_to_end(&mut bytes)?;
    if !is_same(&before, &file.metadata()?) || bytes.len() as u64 != before.len() {
        return Ok(None);
    }
    let sha256 = Sha256::digest(&bytes).into();
    Ok(Some(Loaded::Small { bytes, sha256, executable: is_executable(&before) }))
}

/// Hashes the file, then copies it and sees that both readings are one.
fn write_large<W: Write>(
    at: &Path,
    path: &[u8],
    executable: bool,
    tar: &mut TarWriter<W>,
) -> Result<(), SnapshotError> {
    let io = || SnapshotError::io(native(path));
    let changed = || SnapshotError::Changed(shown(path));
    let meta = at.symlink_metadata().map_err(|_| changed())?;
    let (mut file, before) = open_same(at, &meta).map_err(io())?.ok_or_else(changed)?;
    let mut first = Hashed { from: &mut file, hash: Sha256::new(), bytes: 0 };
    std::io::copy(&mut first, &mut std::io::sink()).map_err(io())?;
    let (sha256, size): ([u8; 32], u64) = (first.hash.finalize().into(), first.bytes);
    std::io::Seek::rewind(&mut file).map_err(io())?;
    let mut second = Hashed { from: (&mut file).take(size), hash: Sha256::new(), bytes: 0 };
    tar.file(path, executable, time_of(&sha256), size, &mut second).map_err(io())?;
    let same = second.bytes == size && <[u8; 32]>::from(second.hash.finalize()) == sha256;
    if same && is_same(&before, &file.metadata().map_err(io())?) { Ok(()) } else { Err(changed()) }
}

/// A reader that hashes and counts what passes.
struct Hashed<R> {
    from: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// Opens what `meta` was read from; `None` where something else stands there now. Never follows a link, and never
/// waits for the other end of a FIFO.
fn open_same(at: &Path, meta: &Metadata) -> std::io::Result<Option<(File, Metadata)>> {
    let mut options = File::options();
    options.read(true);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    }
    let file = match options.open(at) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        #[cfg(target_os = "linux")]
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    let opened = file.metadata()?;
    Ok(is_same(meta, &opened).then_some((file, opened)))
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let of =
            |m: &Metadata| (m.dev(), m.ino(), m.mode(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        of(a) == of(b)
    }
    #[cfg(not(unix))]
    {
        a.file_type() == b.file_type() && a.len() == b.len() && a.modified().ok() == b.modified().ok()
    }
}

fn is_executable(meta: &Metadata) -> bool {
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
