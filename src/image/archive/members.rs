//! Where each member of an archive stands: of a tar, whose headers alone are read, or of a directory. Refuses what no
//! honest archive has.

use super::blocks::{Blocks, Fault, padding};
use super::{ArchiveError, Limits};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tar::EntryType;

/// The longest name of a member.
const LONGEST: usize = 512;

/// The content of one member in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    at: u64,
    size: u64,
}

/// What the members are in.
#[derive(Debug)]
enum Within {
    Tar(Arc<File>),
    Directory,
}

/// An archive whose members are known.
#[derive(Debug)]
pub struct Members {
    within: Within,
    path: PathBuf,
    spans: BTreeMap<String, Span>,
}

impl Members {
    /// Reads the headers of the tar at `path`, or lists the directory there.
    ///
    /// # Errors
    /// It can't be read, is no whole tar, or has members that are neither files nor directories (nor links to other
    /// members, as older engines write for layers that come twice), lead out of it, come twice, or are too many.
    pub fn open(path: &Path, limits: &Limits) -> Result<Members, ArchiveError> {
        let file = File::open(path).map_err(ArchiveError::at(path))?;
        let meta = file.metadata().map_err(ArchiveError::at(path))?;
        if meta.is_dir() {
            let mut spans = BTreeMap::new();
            list(path, "", &mut limits.members.clone(), &mut spans)?;
            return Ok(Members { within: Within::Directory, path: path.to_path_buf(), spans });
        }
        if !meta.is_file() {
            return Err(ArchiveError::refused(path, "neither a file nor a directory"));
        }
        let length = meta.len();
        let fault = |fault| match fault {
            Fault::Io(source) => ArchiveError::Io { path: path.to_path_buf(), source },
            Fault::Tar(what) => ArchiveError::refused(path, format!("not a whole tar: {what}")),
        };
        let mut head = [0; 4];
        let read = file.read_at(&mut head, 0).map_err(ArchiveError::at(path))?;
        for (magic, tool) in [(&[0x1f, 0x8b][..], "gunzip"), (&[0x28, 0xb5, 0x2f, 0xfd], "unzstd"), (b"\xfd7z", "unxz")]
        {
            if head[..read].starts_with(magic) {
                return Err(ArchiveError::refused(
                    path,
                    format!("compressed as a whole; unpack it with `{tool}` first"),
                ));
            }
        }
        let mut spans = BTreeMap::new();
        let mut links: Vec<(String, String)> = Vec::new();
        let mut blocks = Blocks::new(BufReader::new(&file), false);
        let mut count = 0;
        while let Some(entry) = blocks.next().map_err(fault)? {
            count += 1;
            if count > limits.members {
                return Err(ArchiveError::refused(path, format!("more than {} members", limits.members)));
            }
            let refuse = |what: &str| ArchiveError::member(path, &entry.name, what);
            let name = plain(&entry.name).map_err(refuse)?;
            let end = blocks.at.checked_add(entry.size).and_then(|end| end.checked_add(padding(entry.size)));
            match (entry.kind, end) {
                (EntryType::Directory, _) => continue,
                (EntryType::Regular, Some(end)) if end <= length => {
                    let span = Span { at: blocks.at, size: entry.size };
                    if links.iter().any(|(link, _)| *link == name) || spans.insert(name, span).is_some() {
                        return Err(refuse("the same name a second time"));
                    }
                    blocks.get_mut().seek(SeekFrom::Start(end)).map_err(ArchiveError::at(path))?;
                    blocks.at = end;
                }
                (EntryType::Regular, _) => return Err(refuse("cut off: the archive ends inside of it")),
                (EntryType::Symlink, _) => {
                    let target =
                        beside(&name, &entry.link).ok_or_else(|| refuse("a link that leads out of the archive"))?;
                    if spans.contains_key(&name) || links.iter().any(|(link, _)| *link == name) {
                        return Err(refuse("the same name a second time"));
                    }
                    links.push((name, target));
                }
                (EntryType::Link, _) => return Err(refuse("a hard link")),
                (EntryType::Char | EntryType::Block, _) => return Err(refuse("a device")),
                (EntryType::Fifo, _) => return Err(refuse("a FIFO")),
                _ => return Err(refuse("neither a file nor a directory")),
            }
        }
        // One step only, so that there is no circle.
        for (link, target) in links {
            let Some(span) = spans.get(&target).copied() else {
                return Err(ArchiveError::member(path, link.as_bytes(), "a link to what is no file of the archive"));
            };
            spans.insert(link, span);
        }
        Ok(Members { within: Within::Tar(Arc::new(file)), path: path.to_path_buf(), spans })
    }

    /// The archive.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.spans.contains_key(name)
    }

    /// The names of all files, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.spans.keys().map(String::as_str)
    }

    /// The size of a file.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u64> {
        self.spans.get(name).map(|span| span.size)
    }

    /// The content of a small file.
    ///
    /// # Errors
    /// It is not there, too large, or can't be read.
    pub fn small(&self, name: &str, most: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut reader = self.reader(name)?;
        if reader.left > most {
            return Err(ArchiveError::member(&self.path, name.as_bytes(), &format!("more than {most} bytes")));
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(ArchiveError::at(&self.path))?;
        Ok(bytes)
    }

    /// The content of a file, from its beginning.
    ///
    /// # Errors
    /// It is not there, or can't be read.
    pub fn reader(&self, name: &str) -> Result<MemberReader, ArchiveError> {
        let Some(span) = self.spans.get(name) else {
            return Err(ArchiveError::member(&self.path, name.as_bytes(), "named in the archive and not there"));
        };
        let file = match &self.within {
            Within::Tar(file) => Arc::clone(file),
            Within::Directory => {
                let path = self.path.join(name);
                Arc::new(open_again(&path).map_err(ArchiveError::at(&path))?)
            }
        };
        Ok(MemberReader { file, at: span.at, left: span.size })
    }
}

/// Reads one member; several may be read at once.
#[derive(Debug)]
pub struct MemberReader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for MemberReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = self.left.min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..want], self.at)?;
        if read == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive became shorter"));
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The files below a directory; at most `left` entries, of whatever kind. Links are not followed: an archive is whole
/// without what they lead to.
fn list(root: &Path, beneath: &str, left: &mut usize, spans: &mut BTreeMap<String, Span>) -> Result<(), ArchiveError> {
    let directory = root.join(beneath);
    for entry in std::fs::read_dir(&directory).map_err(ArchiveError::at(&directory))? {
        *left =
            left.checked_sub(1).ok_or_else(|| ArchiveError::refused(root, "more members than an archive may have"))?;
        let entry = entry.map_err(ArchiveError::at(&directory))?;
        let name = Path::new(beneath).join(entry.file_name());
        let refuse = |what: &str| ArchiveError::member(root, name.as_os_str().as_bytes(), what);
        let meta = entry.metadata().map_err(ArchiveError::at(entry.path()))?;
        let plain = plain(name.as_os_str().as_bytes()).map_err(refuse)?;
        if meta.is_dir() {
            list(root, &plain, left, spans)?;
        } else if meta.is_file() {
            spans.insert(plain, Span { at: 0, size: meta.len() });
        } else {
            return Err(refuse(if meta.is_symlink() { "a link" } else { "neither a file nor a directory" }));
        }
    }
    Ok(())
}

/// Opens what was a file when it was listed. Neither a link nor a FIFO that took its place is followed or waited for.
fn open_again(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// A name inside of the archive, without a `./` before it.
fn plain(name: &[u8]) -> Result<String, &'static str> {
    let Ok(name) = std::str::from_utf8(name) else { return Err("a name that is not UTF-8") };
    if name.starts_with('/') {
        return Err("an absolute name");
    }
    let name = name.trim_end_matches('/');
    let name = name.strip_prefix("./").unwrap_or(name);
    if name.split('/').any(|step| step == "..") {
        return Err("a name that leads to a parent");
    }
    let step = |step: &str| !step.is_empty() && step != ".";
    if name != "." && !name.is_empty() && !name.split('/').all(step) || name.chars().any(char::is_control) {
        return Err("a name with an empty or `.` step or a control character");
    }
    if name.len() > LONGEST {
        return Err("a name that is too long");
    }
    Ok(name.to_owned())
}

/// Where a link beside `name` leads, if that is inside of the archive.
fn beside(name: &str, link: &[u8]) -> Option<String> {
    let link = std::str::from_utf8(link).ok().filter(|link| !link.starts_with('/') && !link.contains('\0'))?;
    let mut steps: Vec<&str> = name.split('/').collect();
    steps.pop();
    for step in link.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()?),
            step => steps.push(step),
        }
    }
    Some(steps.join("/"))
}
