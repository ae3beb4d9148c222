//! Brings back what the command left: `artifacts/` and the `collect` patterns below `/ft/work` where new or changed, and
//! everything in `/ft/out`, as one tar with names below `work/` and `out/`.
//!
//! Runs with the step's own rights when all its processes are dead, and still trusts nothing it finds: regular files
//! and directories only, opened without following a link, each as large as it said. What does not come back is named.
//! A file whose name is in a `refused` frame after its entry began (it changed while it was read) has an entry that is
//! padded to its size; the reader on the host leaves it out.

use super::channel::{Channel, Gone};
use super::places::Places;
use super::tree;
use crate::frame::{Bytes, Frame, Manifest};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Tar frames are of this size, but for the last.
const PIECE: usize = 256 * 1024;

/// Directories deeper than this are not walked: a step can make them deeper than any path.
const DEPTH: usize = 64;

/// Entries of one directory that are looked at, and files that are named as refused one by one. A step can make millions,
/// and neither this process nor the report is to grow with them.
const CROWD: usize = 100_000;
const NAMED: u64 = 1000;

/// Bytes of names that are held at once, of the directories that are being walked and of what was found in them. A name
/// can have 4 KiB, and a hundred thousand of those would be more than a cell's memory.
const NAMES: usize = 16 << 20;

/// What holding a name takes beside its bytes.
const NAME: usize = 160;

/// Files in the record of what was there before; a larger tree is compared no further.
const RECORD: usize = 1_000_000;

/// What tells a file that was touched from one that was not. The change time can't be set back by a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    inode: u64,
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Mark {
    #[expect(clippy::unnecessary_cast, reason = "the types of these fields differ between architectures")]
    fn of(stat: &Stat) -> Mark {
        Mark {
            inode: stat.st_ino as u64,
            size: stat.st_size as i64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        }
    }
}

/// The files below `/ft/work` that could come back, as they were before the command started.
pub struct Before {
    marks: HashMap<PathBuf, Mark>,
}

impl Before {
    /// Looks at every file that matches.
    pub fn record(manifest: &Manifest, at: &Places) -> Before {
        let mut marks = HashMap::new();
        let mut held = 4 * NAMES;
        for place in places(manifest) {
            walk(&at.work().join(&place), &place, 0, &mut |path, found| {
                if let Found::File(stat) = found
                    && marks.len() < RECORD
                    && wanted(manifest, path)
                    && hold(&mut held, path)
                {
                    marks.insert(path.to_owned(), Mark::of(&stat));
                }
                true
            });
        }
        Before { marks }
    }
}

/// Where wanted files can be, relative to `/ft/work`: `artifacts`, and of each pattern the part before its first
/// wildcard. Everything where a pattern starts with one. No place is below another, so that none is walked twice.
fn places(manifest: &Manifest) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("artifacts")];
    for pattern in &manifest.collect {
        let plain = |part: &&str| !part.contains(['*', '?', '[', '{', '\\', '!']);
        let parts: Vec<&str> = pattern.split('/').collect();
        // The last part is a file or a wildcard: its directory is walked.
        let fixed = parts[..parts.len() - 1].iter().take_while(|part| plain(part));
        if parts.contains(&"..") || pattern.starts_with('/') {
            continue;
        }
        places.push(fixed.filter(|part| !part.is_empty() && **part != ".").collect());
    }
    places.sort();
    places.dedup();
    let all = places.clone();
    places.retain(|place| !all.iter().any(|other| other != place && place.starts_with(other)));
    places
}

/// Whether a path relative to `/ft/work` comes back at all.
fn wanted(manifest: &Manifest, path: &Path) -> bool {
    if path.starts_with("artifacts") {
        return true;
    }
    let path = path.as_os_str().as_bytes();
    manifest.collect.iter().any(|pattern| fast_glob::glob_match(pattern.trim_start_matches("./"), path))
}

/// Takes a path's share of what may be held; false where nothing is left.
fn hold(room: &mut usize, path: &Path) -> bool {
    let left = room.checked_sub(path.as_os_str().len() + NAME);
    *room = left.unwrap_or(*room);
    left.is_some()
}

enum Found {
    Directory,
    File(Stat),
    /// Neither: what it is.
    Other(&'static str),
    /// It could not be looked at.
    Failed(Errno),
}

/// Visits everything below `at` in the order of names; `name` is the path that visitors see. A directory is entered if
/// the visitor says so. Links are never followed.
fn walk(at: &Path, name: &Path, depth: usize, visit: &mut impl FnMut(&Path, Found) -> bool) {
    let directory = match open(CWD, at.as_os_str(), OFlags::DIRECTORY) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR) => return,
        Err(e) => {
            visit(name, Found::Failed(e));
            return;
        }
    };
    walk_open(&directory, name, depth, NAMES, visit);
}

/// `room` is what names of this directory and those below it may take.
fn walk_open(
    directory: &OwnedFd,
    name: &Path,
    depth: usize,
    mut room: usize,
    visit: &mut impl FnMut(&Path, Found) -> bool,
) {
    let mut more = false;
    let mut names: Vec<OsString> = match Dir::read_from(directory) {
        Ok(entries) => entries
            .filter_map(Result::ok)
            .map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec()))
            .filter(|entry| entry != "." && entry != "..")
            .take(CROWD + 1)
            .take_while(|entry| {
                let left = room.checked_sub(entry.len() + NAME);
                more = left.is_none();
                room = left.unwrap_or(room);
                !more
            })
            .collect(),
        Err(e) => {
            visit(name, Found::Failed(e));
            return;
        }
    };
    names.sort_unstable();
    if more || names.len() > CROWD {
        names.truncate(CROWD);
        visit(name, Found::Other("a directory with more entries than are looked at; the rest of it"));
    }
    for entry in names {
        let path = name.join(&entry);
        let stat = match rustix::fs::statat(directory, entry.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(e) => {
                visit(&path, Found::Failed(e));
                continue;
            }
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                visit(&path, Found::File(stat));
            }
            FileType::Directory => {
                if !visit(&path, Found::Directory) {
                    continue;
                }
                if depth >= DEPTH {
                    visit(&path, Found::Other("a directory nested too deeply"));
                    continue;
                }
                match open(directory, &entry, OFlags::DIRECTORY) {
                    Ok(inner) => walk_open(&inner, &path, depth + 1, room, visit),
                    Err(e) => {
                        visit(&path, Found::Failed(e));
                    }
                }
            }
            other => {
                visit(&path, Found::Other(kind(other)));
            }
        }
    }
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "not a regular file",
    }
}

/// Opens a path beneath `directory` for reading: no link anywhere in it, and no waiting for a pipe's other end.
fn open(directory: impl std::os::fd::AsFd, path: &OsStr, extra: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | extra;
    let mut resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if !path.as_bytes().starts_with(b"/") {
        resolve |= ResolveFlags::BENEATH;
    }
    match rustix::fs::openat2(&directory, path.as_bytes(), flags, Mode::empty(), resolve) {
        // Old engines' filters do not know the call. Names come one component at a time, so this opens the same.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(&directory, path.as_bytes(), flags, Mode::empty()),
        other => other,
    }
}

/// Sends the tar and the refusals.
///
/// # Errors
/// Where the host is gone.
pub fn send(channel: &mut Channel, manifest: &Manifest, at: &Places, before: &Before) -> Result<(), Gone> {
    let most = usize::try_from(manifest.artifact_entries).unwrap_or(usize::MAX).saturating_add(CROWD);
    let mut held = NAMES;
    let mut collector = Collector {
        archive: tar::Builder::new(Pieces {
            channel,
            pending: Vec::with_capacity(PIECE),
            frame: |bytes| Frame::Tar { bytes },
        }),
        refused: 0,
        entries: Budget { left: manifest.artifact_entries },
        bytes: Budget { left: manifest.artifact_bytes },
        deadline: Instant::now() + Duration::from_millis(manifest.artifact_ms),
        gone: false,
    };
    let (work, out) = (at.work(), at.out());
    for place in places(manifest) {
        let top = work.join(&place);
        let mut found = Vec::new();
        let mut more = 0;
        walk(&top, &place, 0, &mut |path, what| {
            // Directories come with their files, so that a pattern does not bring a skeleton of the tree.
            let unchanged = matches!(&what, Found::File(stat) if before.marks.get(path) == Some(&Mark::of(stat)));
            if !matches!(what, Found::Directory) && wanted(manifest, path) && !unchanged {
                if found.len() < most && hold(&mut held, path) {
                    found.push((path.to_owned(), what))
                } else {
                    more += 1
                }
            }
            true
        });
        collector.refused += more;
        for (path, what) in found {
            held += path.as_os_str().len() + NAME;
            collector.take(&work, "work", &path, what);
        }
    }
    let mut found = Vec::new();
    let mut more = 0;
    walk(&out, Path::new(""), 0, &mut |path, what| {
        if found.len() < most && hold(&mut held, path) {
            found.push((path.to_owned(), what))
        } else {
            more += 1
        }
        true
    });
    collector.refused += more;
    for (path, what) in found {
        collector.take(&out, "out", &path, what);
    }
    collector.summarise();
    if collector.gone || collector.archive.into_inner().and_then(|mut pieces| pieces.finish()).is_err() {
        return Err(Gone);
    }
    Ok(())
}

/// How much more the changes of a tree may have than what a step leaves on purpose.
const CHANGES: u64 = 4;

/// Sends what the step changed in its tree, for steps that need it.
///
/// # Errors
/// Where the host is gone, and where it is more than anybody should send.
pub fn send_changes(
    channel: &mut Channel,
    manifest: &Manifest,
    at: &Places,
    before: &tree::Before,
) -> Result<(), super::Ended> {
    let pieces = Pieces { channel, pending: Vec::with_capacity(PIECE), frame: |bytes| Frame::Change { bytes } };
    let mut limited = Limited { inner: pieces, left: manifest.artifact_bytes.saturating_mul(CHANGES) };
    let written = before.changes(&at.work(), &mut limited);
    match written.and_then(|()| limited.inner.finish()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(super::Ended::Gone),
        Err(e) => Err(super::Failure::new("changes", format!("what the step changed can't be passed on: {e}")).into()),
    }
}

/// Takes so many bytes and no more.
struct Limited<W> {
    inner: W,
    left: u64,
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.left = self.left.checked_sub(written as u64).ok_or_else(|| io::Error::other("it is too much"))?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Budget {
    left: u64,
}

impl Budget {
    fn spend(&mut self, amount: u64) -> bool {
        let enough = self.left >= amount;
        if enough {
            self.left -= amount;
        }
        enough
    }
}

struct Collector<'a> {
    archive: tar::Builder<Pieces<'a>>,
    entries: Budget,
    bytes: Budget,
    deadline: Instant,
    refused: u64,
    gone: bool,
}

impl Collector<'_> {
    /// Sends one file, or says why not.
    fn take(&mut self, top: &Path, prefix: &str, path: &Path, found: Found) {
        if self.gone {
            return;
        }
        let before = self.entries.left;
        let result = match found {
            Found::Directory => self.directory(prefix, path),
            Found::File(stat) => self.file(top, prefix, path, &stat),
            Found::Other(what) => Err(what.to_owned()),
            Found::Failed(e) => Err(format!("can't be read: {e}")),
        };
        let Err(why) = result else { return };
        self.refused += 1;
        // One whose entry began already must be named in any case: the reader leaves it out.
        if self.refused <= NAMED || self.entries.left < before {
            self.gone |= self.archive.get_mut().refuse(prefix, path, why).is_err();
        }
    }

    /// Counts those that were not named.
    fn summarise(&mut self) {
        if let Some(more @ 1..) = self.refused.checked_sub(NAMED) {
            let why = format!("{more} more files were refused");
            self.gone |= self.archive.get_mut().refuse("...", Path::new(""), why).is_err();
        }
    }

    fn within_budget(&mut self, bytes: u64) -> Result<(), String> {
        if self.archive.get_ref().channel.hurry {
            return Err("the run was ended at once".into());
        }
        if Instant::now() >= self.deadline {
            return Err("the time for collecting ran out".into());
        }
        if !self.entries.spend(1) {
            return Err("over the budget of entries".into());
        }
        if !self.bytes.spend(bytes) {
            return Err(format!("over the budget of bytes: it has {bytes}, {} are left", self.bytes.left));
        }
        Ok(())
    }

    fn directory(&mut self, prefix: &str, path: &Path) -> Result<(), String> {
        let name = entry_name(prefix, path)?;
        self.within_budget(0)?;
        let mut header = header(tar::EntryType::Directory, 0, 0o755, 0);
        self.append(&mut header, &format!("{name}/"), io::empty())
    }

    fn file(&mut self, top: &Path, prefix: &str, path: &Path, seen: &Stat) -> Result<(), String> {
        let name = entry_name(prefix, path)?;
        if seen.st_nlink > 1 {
            return Err("a hard link: it has further names".into());
        }
        if seen.st_mode & 0o6000 != 0 {
            return Err("it has a setuid or setgid bit".into());
        }
        let failed = |e: Errno| format!("can't be read: {e}");
        let root = open(CWD, top.as_os_str(), OFlags::DIRECTORY).map_err(failed)?;
        let file = open(&root, path.as_os_str(), OFlags::empty()).map_err(failed)?;
        let mark = Mark::of(&rustix::fs::fstat(&file).map_err(failed)?);
        if mark != Mark::of(seen) {
            return Err("it was changed while artifacts were collected".into());
        }
        let size = u64::try_from(mark.size).unwrap_or(0);
        self.within_budget(size)?;
        let mode = if seen.st_mode & 0o111 != 0 { 0o755 } else { 0o644 };
        let mut header = header(tar::EntryType::Regular, size, mode, u64::try_from(mark.modified.0).unwrap_or(0));
        let mut exact = Exact { file: File::from(file), left: size, short: false, deadline: self.deadline };
        self.append(&mut header, &name, &mut exact)?;
        let after = rustix::fs::fstat(&exact.file).map(|stat| Mark::of(&stat));
        if exact.short || after != Ok(mark) {
            return Err("it changed, or time ran out, while it was read".into());
        }
        Ok(())
    }

    fn append(&mut self, header: &mut tar::Header, name: &str, data: impl Read) -> Result<(), String> {
        self.archive.append_data(header, name, data).map_err(|e| {
            self.gone = e.kind() == io::ErrorKind::BrokenPipe;
            format!("can't be sent: {e}")
        })
    }
}

/// The name in the tar; names that are not text stay here.
fn entry_name(prefix: &str, path: &Path) -> Result<String, String> {
    let name = path.to_str().ok_or("its name is not UTF-8")?;
    if name.contains(char::is_control) {
        return Err("its name has control characters".into());
    }
    if name.len() > 1024 {
        return Err("its name is longer than 1024 bytes".into());
    }
    Ok(format!("{prefix}/{name}"))
}

fn header(kind: tar::EntryType, size: u64, mode: u32, modified: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(modified);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Reads a file to exactly the size it said it has: never more, and zeroes where it has become shorter.
struct Exact {
    file: File,
    left: u64,
    short: bool,
    deadline: Instant,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        self.short |= Instant::now() >= self.deadline;
        let mut read = 0;
        if !self.short {
            read = self.file.read(&mut buffer[..room]).unwrap_or(0);
            self.short = read == 0;
        }
        if self.short {
            buffer[..room].fill(0);
            read = room;
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Cuts the archive into frames and waits for the host, so that one piece is in memory at a time.
struct Pieces<'a> {
    channel: &'a mut Channel,
    pending: Vec<u8>,
    frame: fn(Bytes) -> Frame,
}

impl Pieces<'_> {
    fn refuse(&mut self, prefix: &str, path: &Path, why: String) -> io::Result<()> {
        // The name is the step's: shown, never used, and nothing of it may move a terminal's cursor.
        let shown = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
        let path: String = path.to_string_lossy().chars().take(1024).map(shown).collect();
        self.channel.send(&Frame::Refused { path: format!("{prefix}/{path}"), why });
        self.channel.flush()
    }

    fn cut(&mut self) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.pending, Vec::with_capacity(PIECE));
        if !bytes.is_empty() {
            self.channel.send(&(self.frame)(Bytes(bytes)));
        }
        self.channel.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.cut()
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.pending.len();
        let taken = room.min(bytes.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == PIECE {
            self.cut()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
