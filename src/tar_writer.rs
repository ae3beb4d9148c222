//! One tar, written the same way every time.
//!
//! GNU format: names of any bytes and any length; everything is root's. Knows nothing of git, of images or of the disk.

use sha2::{Digest, Sha256};
use std::io::{BufWriter, Read, Write};
use tar::{Builder, EntryType, Header};

/// 1980-01-01: the earliest time that a zip file (a wheel) can hold.
pub const EARLIEST: u64 = 315_532_800;
/// The times lie in the 38 years from then, all of them in the past.
const SPAN: u64 = 1_200_000_000;

/// The time of everything that has no content of its own: later than any file's, so that git's index, which has it,
/// is never older than what it describes.
pub const FIXED_TIME: u64 = EARLIEST + SPAN;

/// The time of a file with this sha256, in seconds: another content, another time.
///
/// # Panics
/// Never: 32 bytes are more than 8.
#[must_use]
pub fn time_of(sha256: &[u8; 32]) -> u64 {
    let (head, _) = sha256.split_first_chunk::<8>().expect("32 bytes are more than 8");
    EARLIEST + u64::from_be_bytes(*head) % SPAN
}

/// Where a tar goes: what passes is hashed and counted.
struct Hashing<W: Write> {
    into: BufWriter<W>,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.into.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.into.flush()
    }
}

/// A tar that is being written.
pub struct TarWriter<W: Write> {
    builder: Builder<Hashing<W>>,
    entries: u64,
}

/// A tar that is finished.
pub struct Written<W> {
    /// Where it went.
    pub into: W,
    /// How long it is.
    pub bytes: u64,
    /// The digest of all of it.
    pub sha256: [u8; 32],
}

impl<W: Write> TarWriter<W> {
    /// A tar that goes there.
    pub fn new(into: W) -> Self {
        let into = Hashing { into: BufWriter::with_capacity(1 << 18, into), hash: Sha256::new(), bytes: 0 };
        TarWriter { builder: Builder::new(into), entries: 0 }
    }

    /// A file whose `size` bytes come from `content`.
    ///
    /// # Errors
    /// Where the tar can't be written, or the content can't be read.
    pub fn file(
        &mut self,
        path: &[u8],
        executable: bool,
        time: u64,
        size: u64,
        content: impl Read,
    ) -> std::io::Result<()> {
        let mode = if executable { 0o755 } else { 0o644 };
        self.entry(path, EntryType::Regular, mode, time, size, content)
    }

    /// A symbolic link; its target's bytes are kept as they are.
    ///
    /// # Errors
    /// Where the tar can't be written.
    pub fn link(&mut self, path: &[u8], target: &[u8], time: u64) -> std::io::Result<()> {
        if target.len() > 100 {
            self.long(EntryType::GNULongLink, target)?;
        }
        let mut header = header(EntryType::Symlink, 0o777, time, 0);
        put(&mut header.as_old_mut().linkname, target);
        self.named(path, header, std::io::empty())
    }

    /// A directory; only those that would not be there otherwise need one.
    ///
    /// # Errors
    /// Where the tar can't be written.
    pub fn directory(&mut self, path: &[u8]) -> std::io::Result<()> {
        self.directory_with(path, 0o755, FIXED_TIME)
    }

    /// A directory of another mode (`/tmp` is 01777) and time.
    ///
    /// # Errors
    /// Where the tar can't be written.
    pub fn directory_with(&mut self, path: &[u8], mode: u32, time: u64) -> std::io::Result<()> {
        let mut path = path.to_vec();
        path.push(b'/');
        self.entry(&path, EntryType::Directory, mode, time, 0, std::io::empty())
    }

    fn entry(
        &mut self,
        path: &[u8],
        kind: EntryType,
        mode: u32,
        time: u64,
        size: u64,
        content: impl Read,
    ) -> std::io::Result<()> {
        self.named(path, header(kind, mode, time, size), content)
    }

    fn named(&mut self, path: &[u8], mut header: Header, content: impl Read) -> std::io::Result<()> {
        if path.len() > 100 {
            self.long(EntryType::GNULongName, path)?;
        }
        put(&mut header.as_old_mut().name, path);
        header.set_cksum();
        self.entries += u64::from(header.entry_type() != EntryType::Directory);
        self.builder.append(&header, content)
    }

    /// What GNU tar puts in front of an entry whose name or target is longer than its field.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> std::io::Result<()> {
        let mut header = header(kind, 0o644, 0, name.len() as u64 + 1);
        put(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_cksum();
        self.builder.append(&header, name.chain(&[0][..]))
    }

    /// Files and links so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The sha256 of everything so far.
    #[must_use]
    pub fn digest_so_far(&self) -> [u8; 32] {
        self.builder.get_ref().hash.clone().finalize().into()
    }

    /// Writes the end mark and everything that is still held back.
    ///
    /// # Errors
    /// Where the tar can't be written.
    pub fn finish(self) -> std::io::Result<Written<W>> {
        let done = self.builder.into_inner()?;
        let sha256 = done.hash.finalize().into();
        let into = done.into.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        Ok(Written { into, bytes: done.bytes, sha256 })
    }
}

fn header(kind: EntryType, mode: u32, time: u64, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(time);
    header.set_size(size);
    header
}

/// Fills a name field; what does not fit stands in the long entry before.
fn put(field: &mut [u8; 100], name: &[u8]) {
    let n = name.len().min(field.len());
    field[..n].copy_from_slice(&name[..n]);
}
