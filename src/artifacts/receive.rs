//! The hardened reader of what a cell gives back.
//!
//! The tar was written by our own agent, but inside walls that hold hostile code: nothing in it is believed. Entry by
//! entry, regular files and directories only, below `work/` or `out/` only, within a budget. What is refused is named
//! and the rest comes back. `tar::Archive` is not used: it joins extension headers to entries by itself, of any size.

use super::beneath::Beneath;
use super::{ArtifactError, io};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use tar::{EntryType, Header};

/// The longest name of a file that comes back, in bytes.
const LONGEST_NAME: u64 = 1024;
/// The longest name of one step of it.
const LONGEST_STEP: usize = 255;
/// How many refused entries are named; the rest is counted.
const NAMED: usize = 1000;

/// How much may come back from one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of any kind. What comes behind the last one is not read.
    pub entries: u64,
    /// Bytes of all files. A file that does not fit is refused, smaller ones behind it still come.
    pub bytes: u64,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// The files, in the order of the tar.
    pub files: Vec<ReceivedFile>,
    /// Name and reason of what was refused; a name is escaped where it is not plain text.
    pub refused: Vec<(String, String)>,
    /// What is kept but may surprise on another system: names that differ only in case.
    pub notes: Vec<String>,
}

/// One file that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedFile {
    /// `work/...` or `out/...`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Of its content, in hex.
    pub sha256: String,
}

/// Reads the tar into the directory `into`, which is made if it is not there. Files get 0644 or 0755; every file is
/// new, and nothing goes through a link.
///
/// # Errors
/// [`ArtifactError`]. A refused entry is no error.
pub fn receive(tar: &Path, into: &Path, limits: &Limits) -> Result<Received, ArtifactError> {
    let file = File::open(tar).map_err(io(tar))?;
    std::fs::create_dir_all(into).map_err(io(into))?;
    let below = Beneath::new(into).map_err(io(into))?;
    let mut reader = Reader { from: BufReader::with_capacity(1 << 17, file), tar };
    let mut receiver = Receiver {
        below,
        into,
        left: limits.bytes,
        seen: BTreeMap::new(),
        folded: HashMap::new(),
        unnamed: 0,
        received: Received::default(),
    };
    let mut entries = 0;
    let mut long_name: Option<Result<Vec<u8>, &'static str>> = None;
    while let Some(header) = reader.header()? {
        entries += 1;
        let size = header.entry_size().map_err(|_| ArtifactError::Malformed("a size that is no number"))?;
        if entries > limits.entries {
            receiver.refuse(&[], &format!("more than {} entries; the rest was not read", limits.entries));
            break;
        }
        match header.entry_type() {
            EntryType::GNULongName if size <= LONGEST_NAME + 1 => {
                let mut name = Vec::new();
                reader.content(size, |bytes| {
                    name.extend_from_slice(bytes);
                    Ok(())
                })?;
                let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                name.truncate(end);
                long_name = Some(Ok(name));
            }
            EntryType::GNULongName => {
                reader.skip(size)?;
                long_name = Some(Err("a name that is too long"));
            }
            EntryType::GNULongLink => reader.skip(size)?,
            EntryType::XHeader | EntryType::XGlobalHeader => {
                reader.skip(size)?;
                long_name = Some(Err("a pax header"));
            }
            kind => {
                let name = long_name.take().unwrap_or_else(|| Ok(header.path_bytes().into_owned()));
                let (name, refusal) = match name {
                    Ok(name) => {
                        let why = check(kind, &name).err();
                        (name, why)
                    }
                    Err(why) => (header.path_bytes().into_owned(), Some(why)),
                };
                if kind == EntryType::GNUSparse {
                    reader.skip_sparse_map(&header)?;
                }
                match refusal {
                    Some(why) => {
                        receiver.refuse(&name, why);
                        reader.skip(size)?;
                    }
                    None => {
                        let name = String::from_utf8_lossy(&name);
                        let executable = header.mode().is_ok_and(|mode| mode & 0o100 != 0);
                        receiver.take(name.trim_end_matches('/'), kind, size, executable, &mut reader)?;
                    }
                }
            }
        }
    }
    if receiver.unnamed > 0 {
        let why = format!("{} further entries were refused", receiver.unnamed);
        receiver.received.refused.push((String::new(), why));
    }
    Ok(receiver.received)
}

/// Whether an entry of this kind and name may come back at all.
fn check(kind: EntryType, name: &[u8]) -> Result<(), &'static str> {
    match kind {
        EntryType::Regular | EntryType::Directory => {}
        EntryType::Symlink => return Err("a symbolic link"),
        EntryType::Link => return Err("a hard link"),
        EntryType::Char | EntryType::Block => return Err("a device"),
        EntryType::Fifo => return Err("a FIFO"),
        EntryType::GNUSparse => return Err("a sparse file"),
        _ => return Err("neither a file nor a directory"),
    }
    let Ok(name) = std::str::from_utf8(name) else { return Err("a name that is not UTF-8") };
    if name.chars().any(char::is_control) {
        return Err("a control character in its name");
    }
    if name.len() as u64 > LONGEST_NAME {
        return Err("a name that is too long");
    }
    let name = if kind == EntryType::Directory { name.strip_suffix('/').unwrap_or(name) } else { name };
    if name.starts_with('/') {
        return Err("an absolute name");
    }
    let mut steps = name.split('/');
    let first = steps.next();
    if steps.clone().any(|step| step == "..") || first == Some("..") {
        return Err("a name that leads to a parent");
    }
    if name.split('/').any(|step| step.is_empty() || step == "." || step.len() > LONGEST_STEP) {
        return Err("a name with an empty, `.` or over-long step");
    }
    if cfg!(windows) && name.contains(['\\', ':']) {
        return Err("a name that is a path of this system");
    }
    match (first, kind, steps.next()) {
        (Some("work" | "out"), EntryType::Directory, _) | (Some("work" | "out"), _, Some(_)) => Ok(()),
        _ => Err("neither below work/ nor below out/"),
    }
}

/// The bytes of a tar, block by block.
struct Reader<'a, R> {
    from: R,
    tar: &'a Path,
}

impl<R: Read> Reader<'_, R> {
    /// The next header; `None` at the end mark.
    fn header(&mut self) -> Result<Option<Header>, ArtifactError> {
        let mut header = Header::new_old();
        self.exact(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|b| *b == 0) {
            return Ok(None);
        }
        // As tar(5): the sum of all bytes with spaces where the sum stands.
        let bytes = header.as_bytes();
        let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(ArtifactError::Malformed("a header whose checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Hands the content of an entry on and steps over the padding.
    fn content(
        &mut self,
        size: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), ArtifactError>,
    ) -> Result<(), ArtifactError> {
        let mut buffer = [0; 1 << 15];
        let mut left = size;
        while left > 0 {
            let want = left.min(buffer.len() as u64) as usize;
            self.exact(&mut buffer[..want])?;
            each(&buffer[..want])?;
            left -= want as u64;
        }
        let padding = (512 - size % 512) % 512;
        self.exact(&mut buffer[..padding as usize])
    }

    fn skip(&mut self, size: u64) -> Result<(), ArtifactError> {
        self.content(size, |_| Ok(()))
    }

    /// The blocks of a sparse map that do not fit the header stand before the content.
    fn skip_sparse_map(&mut self, header: &Header) -> Result<(), ArtifactError> {
        let mut more = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        while more {
            let mut block = [0; 512];
            self.exact(&mut block)?;
            more = block[504] == 1;
        }
        Ok(())
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), ArtifactError> {
        self.from.read_exact(buffer).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => ArtifactError::Malformed("it ends too early"),
            _ => io(self.tar)(source),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    File,
    Folder,
}

/// What was taken so far, and where it goes.
struct Receiver<'a> {
    below: Beneath,
    into: &'a Path,
    left: u64,
    seen: BTreeMap<String, Seen>,
    /// Lower case to the name that has it.
    folded: HashMap<String, String>,
    unnamed: usize,
    received: Received,
}

impl Receiver<'_> {
    fn refuse(&mut self, name: &[u8], why: &str) {
        if self.received.refused.len() < NAMED {
            let name = &name[..name.len().min(LONGEST_NAME as usize)];
            self.received.refused.push((crate::repo::shown(name), why.to_owned()));
        } else {
            self.unnamed += 1;
        }
    }

    fn take<R: Read>(
        &mut self,
        path: &str,
        kind: EntryType,
        size: u64,
        executable: bool,
        reader: &mut Reader<'_, R>,
    ) -> Result<(), ArtifactError> {
        let is_folder = kind == EntryType::Directory;
        let refusal = match self.seen.get(path) {
            Some(Seen::Folder) if is_folder => return reader.skip(size),
            Some(_) => Some("the same name a second time".to_owned()),
            None if above(path).any(|folder| self.seen.get(folder) == Some(&Seen::File)) => {
                Some("below a file".to_owned())
            }
            None if !is_folder && size > self.left => {
                Some(format!("{size} bytes are more than what is left of the budget ({} bytes)", self.left))
            }
            None => None,
        };
        if let Some(why) = refusal {
            self.refuse(path.as_bytes(), &why);
            return reader.skip(size);
        }
        for folder in above(path) {
            self.seen.insert(folder.to_owned(), Seen::Folder);
        }
        self.seen.insert(path.to_owned(), if is_folder { Seen::Folder } else { Seen::File });
        let at = self.into.join(path);
        if is_folder {
            self.below.make_folder(path).map_err(io(&at))?;
            return reader.skip(size);
        }
        if let Some(other) = self.folded.insert(path.to_lowercase(), path.to_owned()) {
            self.received.notes.push(format!("{path}: differs from {other} only in case"));
        }
        let mut file = match self.below.create(path, executable) {
            Ok(file) => file,
            // A file system that folds case.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                self.refuse(path.as_bytes(), "a file of this name is there already");
                return reader.skip(size);
            }
            Err(error) => return Err(io(&at)(error)),
        };
        let mut hash = Sha256::new();
        reader.content(size, |bytes| {
            hash.update(bytes);
            file.write_all(bytes).map_err(io(&at))
        })?;
        self.left -= size;
        let sha256 = hex::encode(hash.finalize());
        self.received.files.push(ReceivedFile { path: path.to_owned(), bytes: size, sha256 });
        Ok(())
    }
}

/// The folders above a path, nearest last.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests;
