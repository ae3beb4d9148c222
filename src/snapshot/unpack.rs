//! The tar back on disk: a view that a cell can be given.
//!
//! Our own writer and not `Archive::unpack`: names are checked, nothing is ever written through a link (links come last,
//! and every file is new), and modes do not depend on the umask. Files are written on all cores, each read from its
//! place in the tar, so memory does not grow with the tree.

use super::Snapshot;
use crate::repo::{native, shown};
use crate::tar_writer::FIXED_TIME;
use filetime::FileTime;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Files and links.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// Why a snapshot can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tar holds what a snapshot never holds.
    #[error("{path}: {why} in a snapshot")]
    Foreign {
        /// The entry's name.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::Io { path, source }
}

/// A file's place in the tar.
struct Member {
    path: PathBuf,
    at: u64,
    size: u64,
    mode: u32,
    time: FileTime,
}

/// Unpacks below `dir`, which is made if it is not there and must be empty otherwise. Everything is readable for
/// everyone; with `owner` it belongs to that uid and gid.
///
/// # Errors
/// [`UnpackError`]; what was written until then stays.
pub fn unpack(snapshot: &Snapshot, dir: &Path, owner: Option<(u32, u32)>) -> Result<Unpacked, UnpackError> {
    let file = File::open(&snapshot.tar).map_err(io(&snapshot.tar))?;
    let Members { files, links, mut folders } = members(&file, &snapshot.tar)?;
    folders.insert(PathBuf::new());
    for folder in &folders {
        make_folder(&dir.join(folder))?;
    }
    files.par_iter().try_for_each_init(
        || vec![0; 1 << 16],
        |buffer, member| write_file(&file, &snapshot.tar, member, dir, owner, buffer),
    )?;
    for (path, target, time) in &links {
        let at = dir.join(path);
        make_link(target, &at).map_err(io(&at))?;
        set_owner(&at, owner)?;
        filetime::set_symlink_file_times(&at, *time, *time).map_err(io(&at))?;
    }
    // Last: every file made in a folder moves its time.
    let time = FileTime::from_unix_time(FIXED_TIME as i64, 0);
    for folder in &folders {
        let at = dir.join(folder);
        set_owner(&at, owner)?;
        filetime::set_file_times(&at, time, time).map_err(io(&at))?;
    }
    Ok(Unpacked { files: (files.len() + links.len()) as u64, bytes: files.iter().map(|m| m.size).sum() })
}

/// What a tar holds.
#[derive(Default)]
struct Members {
    files: Vec<Member>,
    /// Path, target and time.
    links: Vec<(PathBuf, PathBuf, FileTime)>,
    folders: BTreeSet<PathBuf>,
}

/// Reads the headers: files with their places, links, and every folder that must be there.
fn members(file: &File, tar: &Path) -> Result<Members, UnpackError> {
    let Members { mut files, mut links, mut folders } = Members::default();
    let mut file = file;
    file.seek(SeekFrom::Start(0)).map_err(io(tar))?;
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(io(tar))? {
        let entry = entry.map_err(io(tar))?;
        let name = entry.path_bytes();
        let foreign = |why| UnpackError::Foreign { path: shown(&name), why };
        let path = native(name.strip_suffix(b"/").unwrap_or(&name));
        if path.as_os_str().is_empty() || path.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(foreign("a name that leaves the tree"));
        }
        folders.extend(path.ancestors().skip(1).map(Path::to_owned));
        let header = entry.header();
        let time = FileTime::from_unix_time(header.mtime().map_err(io(tar))? as i64, 0);
        match header.entry_type() {
            EntryType::Regular => files.push(Member {
                at: entry.raw_file_position(),
                size: entry.size(),
                mode: if header.mode().map_err(io(tar))? & 0o100 == 0 { 0o644 } else { 0o755 },
                path,
                time,
            }),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| foreign("a link without a target"))?;
                links.push((path, native(&target), time));
            }
            EntryType::Directory => {
                folders.insert(path);
            }
            _ => return Err(foreign("an entry that is no file, link or folder")),
        }
    }
    Ok(Members { files, links, folders })
}

fn make_folder(at: &Path) -> Result<(), UnpackError> {
    match std::fs::create_dir(at) {
        Ok(()) => {}
        // Not one that a link stands for: links are made after all folders.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if !at.symlink_metadata().map_err(io(at))?.is_dir() {
                return Err(io(at)(error));
            }
        }
        Err(error) => return Err(io(at)(error)),
    }
    set_mode(at, 0o755)
}

fn write_file(
    from: &File,
    tar: &Path,
    member: &Member,
    dir: &Path,
    owner: Option<(u32, u32)>,
    buffer: &mut [u8],
) -> Result<(), UnpackError> {
    let at = dir.join(&member.path);
    let mut file = File::options().write(true).create_new(true).open(&at).map_err(io(&at))?;
    let (mut done, mut place) = (0, member.at);
    while done < member.size {
        let want = buffer.len().min((member.size - done) as usize);
        let n = read_at(from, &mut buffer[..want], place).map_err(io(tar))?;
        if n == 0 {
            return Err(io(tar)(std::io::ErrorKind::UnexpectedEof.into()));
        }
        file.write_all(&buffer[..n]).map_err(io(&at))?;
        done += n as u64;
        place += n as u64;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(member.mode)).map_err(io(&at))?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid)).map_err(io(&at))?;
        }
    }
    filetime::set_file_handle_times(&file, Some(member.time), Some(member.time)).map_err(io(&at))
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_at(file, buffer, at)
    }
    #[cfg(windows)]
    {
        std::os::windows::fs::FileExt::seek_read(file, buffer, at)
    }
}

fn make_link(target: &Path, at: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(target, at)
    }
    #[cfg(windows)]
    {
        std::os::windows::fs::symlink_file(target, at)
    }
}

fn set_mode(at: &Path, mode: u32) -> Result<(), UnpackError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(mode)).map_err(io(at))
    }
    #[cfg(not(unix))]
    {
        let _ = (at, mode);
        Ok(())
    }
}

fn set_owner(at: &Path, owner: Option<(u32, u32)>) -> Result<(), UnpackError> {
    #[cfg(unix)]
    if let Some((uid, gid)) = owner {
        return std::os::unix::fs::lchown(at, Some(uid), Some(gid)).map_err(io(at));
    }
    let _ = (at, owner);
    Ok(())
}
