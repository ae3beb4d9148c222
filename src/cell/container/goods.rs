//! Directories of the host as tars. Small ones are kept in memory and sent to each agent; large ones go to a file first.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Bytes of one piece on its way.
pub(super) const PIECE: usize = 256 * 1024;

/// A tar up to this size is sent to each agent over its stream: sending it to five of them takes less time than a volume
/// takes to be made.
const SMALL: usize = 4 << 20;

/// One directory as a tar.
#[derive(Debug)]
pub(super) enum Packed {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file of the host.
    File(PathBuf),
    /// In this run's volume, under this name.
    Stored(String),
}

/// Packs a directory, or takes a tar as it is. What becomes large is written to a file in `scratch`.
pub(super) async fn pack(host: PathBuf, scratch: PathBuf) -> io::Result<Packed> {
    let packed = tokio::task::spawn_blocking(move || {
        if host.is_file() {
            return Ok(Packed::File(host));
        }
        let mut spill = Spill { bytes: Vec::new(), file: None, scratch };
        write_tree(&host, &mut spill)?;
        match spill.file {
            None => Ok(Packed::Bytes(spill.bytes)),
            Some((path, mut file)) => {
                file.flush()?;
                Ok(Packed::File(path))
            }
        }
    });
    packed.await.map_err(io::Error::other)?
}

/// Memory up to a size, then a file.
struct Spill {
    bytes: Vec<u8>,
    file: Option<(PathBuf, io::BufWriter<File>)>,
    scratch: PathBuf,
}

impl Write for Spill {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some((_, file)) = &mut self.file {
            return file.write(bytes);
        }
        if self.bytes.len() + bytes.len() > SMALL {
            let (file, path) = crate::leftovers::file_in(&self.scratch)?.keep().map_err(|e| e.error)?;
            let mut file = io::BufWriter::with_capacity(PIECE, file);
            file.write_all(&std::mem::take(&mut self.bytes))?;
            self.file = Some((path, file));
            return self.write(bytes);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes of a file, piece by piece, read beside the runtime.
pub(super) fn read(path: PathBuf) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    produce(move |into| {
        let mut file = File::open(&path)?;
        io::copy(&mut file, into).map(drop)
    })
}

/// What `write` writes, piece by piece, written beside the runtime.
pub(super) fn produce(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut pieces = io::BufWriter::with_capacity(PIECE, Pieces(sender.clone()));
        let written = write(&mut pieces).and_then(|()| pieces.flush());
        if let Err(error) = written {
            // Nobody listens where nobody wants it any more.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

/// The same for whoever reads on a thread of its own.
pub(super) fn reader(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> impl Read + Send {
    Reader { pieces: produce(write), piece: Vec::new(), at: 0 }
}

struct Reader {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.blocking_recv() {
                Some(piece) => (self.piece, self.at) = (piece?, 0),
                None => return Ok(0),
            }
        }
        let read = (&self.piece[self.at..]).read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

struct Pieces(mpsc::Sender<io::Result<Vec<u8>>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Ok(bytes.to_vec())).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes everything below `dir`, sorted, without an end.
pub(super) fn append_tree(archive: &mut tar::Builder<impl Write>, dir: &Path) -> io::Result<()> {
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let mut entries = fs::read_dir(dir.join(&below))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = below.join(entry.file_name());
            let meta = entry.metadata()?;
            append(archive, &entry.path(), &path, &meta)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", entry.path().display())))?;
            if meta.is_dir() {
                left.push(path);
            }
        }
    }
    Ok(())
}

/// The whole tar of a directory.
pub(super) fn write_tree(dir: &Path, into: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let mut archive = tar::Builder::new(into);
    append_tree(&mut archive, dir)?;
    archive.finish()
}

/// A header of root's, whoever has the file here.
pub(super) fn header(kind: tar::EntryType, mode: u32, size: u64, time: i64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(u64::try_from(time).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(unix)]
fn append(archive: &mut tar::Builder<impl Write>, at: &Path, path: &Path, meta: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let kind = meta.file_type();
    let mode = meta.mode() & 0o777;
    let of = |entry| header(entry, mode, 0, meta.mtime());
    if meta.mtime_nsec() != 0 && (kind.is_dir() || kind.is_file() || kind.is_symlink()) {
        let time = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        archive.append_pax_extensions([("mtime", time.as_bytes())])?;
    }
    if kind.is_dir() {
        archive.append_data(&mut of(tar::EntryType::Directory), path, io::empty())
    } else if kind.is_symlink() {
        archive.append_link(&mut of(tar::EntryType::Symlink), path, fs::read_link(at)?)
    } else if kind.is_file() {
        let mut header = header(tar::EntryType::Regular, mode, meta.len(), meta.mtime());
        archive.append_data(&mut header, path, File::open(at)?.take(meta.len()))
    } else if kind.is_char_device() && meta.rdev() == 0 {
        // What an upper layer removed.
        let mut header = header(tar::EntryType::Char, 0, 0, 0);
        header.set_device_major(0)?;
        header.set_device_minor(0)?;
        archive.append_data(&mut header, path, io::empty())
    } else {
        Ok(())
    }
}
