//! The seal: every file of an environment with its sha256, and how to find what differs.
//!
//! The seal is a text file inside the environment, written last. It is compared in two ways: [`verify_deep`] hashes
//! every file again; [`quick::verify`] compares what `stat` says with what it said when the content was last known to
//! be right, and hashes only what differs there.
//!
//! It does not repair anything and does not say what a deviation means.

pub mod quick;

use super::PathError;
use super::dists::Dist;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The seal's file, in the environment's root. It is the one file that the seal does not list.
pub const SEAL_FILE: &str = ".ft-seal";
const HEAD: &str = "ft-seal 1";

/// What the seal says about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Bytes.
        size: u64,
        /// Of its content.
        sha256: [u8; 32],
    },
    /// A directory.
    Dir {
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// What it points to, as it is written.
        target: String,
    },
}

/// Everything that belongs to an environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seal {
    /// The environment's key.
    pub key: String,
    /// What was installed.
    pub dists: Vec<Dist>,
    /// Relative path to what is there. The root itself and the seal file are left out.
    pub entries: BTreeMap<String, Kind>,
}

/// One difference between an environment and its seal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deviation {
    /// Relative to the environment.
    pub path: String,
    /// What differs.
    pub what: Differs,
}

/// The ways in which a path differs from the seal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Differs {
    /// Content, mode, kind or target: what was sealed, and what is there.
    Changed {
        /// In words.
        sealed: String,
        /// In words.
        found: String,
    },
    /// Sealed, and not there.
    Missing,
    /// There, and not sealed.
    Added,
}

impl std::fmt::Display for Deviation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.what {
            Differs::Changed { sealed, found } => write!(f, "{}: changed ({found}, sealed as {sealed})", self.path),
            Differs::Missing => write!(f, "{}: missing", self.path),
            Differs::Added => write!(f, "{}: added", self.path),
        }
    }
}

impl Kind {
    pub(crate) fn describe(&self) -> String {
        match self {
            Kind::File { mode, size, sha256 } => {
                format!("file of {size} bytes, mode {mode:o}, sha256 {}", &hex::encode(sha256)[..16])
            }
            Kind::Dir { mode } => format!("directory, mode {mode:o}"),
            Kind::Link { target } => format!("link to {target}"),
        }
    }
}

/// Why a seal can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It does not start as a seal of this version does, or has no end.
    #[error("no seal of version 1, or a cut one")]
    Head,
    /// A line that is not as it is written.
    #[error("line {0}: not a line of a seal")]
    Line(usize),
}

impl Seal {
    /// The text form: sorted, one line a path, so that two seals can be compared with `diff`.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = format!("{HEAD}\nkey {}\n", self.key);
        for dist in &self.dists {
            dist.encode_into(&mut out);
        }
        for (path, kind) in &self.entries {
            match kind {
                Kind::File { mode, size, sha256 } => {
                    writeln!(out, "file {mode:o} {size} {} {path}", hex::encode(sha256))
                }
                Kind::Dir { mode } => writeln!(out, "dir {mode:o} {path}"),
                Kind::Link { target } => writeln!(out, "link {path}\t{target}"),
            }
            .expect("writing to a String");
        }
        let digest = hex::encode(Sha256::digest(out.as_bytes()));
        out + "end " + &digest + "\n"
    }

    /// Reads the text form. The last line is a sha256 of what stands above it, so that a cut or edited seal is none.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn decode(text: &str) -> Result<Seal, SealError> {
        let body_len = text.rfind("end ").ok_or(SealError::Head)?;
        let (body, end) = text.split_at(body_len);
        if end != format!("end {}\n", hex::encode(Sha256::digest(body.as_bytes()))) {
            return Err(SealError::Head);
        }
        let mut lines = body.lines().enumerate();
        if lines.next().map(|(_, line)| line) != Some(HEAD) {
            return Err(SealError::Head);
        }
        let mut seal = Seal::default();
        for (at, line) in lines {
            seal.decode_line(line).ok_or(SealError::Line(at + 1))?;
        }
        Ok(seal)
    }

    fn decode_line(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "key" => self.key = rest.to_owned(),
            "file" => {
                let mut words = rest.splitn(4, ' ');
                let mode = u32::from_str_radix(words.next()?, 8).ok()?;
                let size = words.next()?.parse().ok()?;
                let sha256 = hex::decode(words.next()?).ok()?.try_into().ok()?;
                self.entries.insert(words.next()?.to_owned(), Kind::File { mode, size, sha256 });
            }
            "dir" => {
                let (mode, path) = rest.split_once(' ')?;
                self.entries.insert(path.to_owned(), Kind::Dir { mode: u32::from_str_radix(mode, 8).ok()? });
            }
            "link" => {
                let (path, target) = rest.split_once('\t')?;
                self.entries.insert(path.to_owned(), Kind::Link { target: target.to_owned() });
            }
            _ => Dist::decode_line(word, rest, &mut self.dists)?,
        }
        Some(())
    }

    /// How many regular files, and their bytes.
    #[must_use]
    pub fn totals(&self) -> (usize, u64) {
        self.entries.values().fold((0, 0), |(files, bytes), kind| match kind {
            Kind::File { size, .. } => (files + 1, bytes + size),
            _ => (files, bytes),
        })
    }

    /// Reads the seal of an environment.
    ///
    /// # Errors
    /// The text of what is wrong: it is missing, unreadable, or no seal.
    pub fn read(root: &Path) -> Result<Seal, String> {
        let path = root.join(SEAL_FILE);
        let text = fs_err::read_to_string(&path).map_err(|error| error.to_string())?;
        Seal::decode(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// A path that may stand in a seal: UTF-8 without control characters, so that a line is a line.
pub(crate) fn sealable(path: &str) -> bool {
    !path.is_empty() && !path.chars().any(char::is_control)
}

/// What stands at a path now, its content included.
///
/// # Errors
/// What the system said.
pub fn look(path: &Path) -> std::io::Result<Kind> {
    let meta = std::fs::symlink_metadata(path)?;
    let mode = meta.permissions().mode() & 0o7777;
    if meta.is_symlink() {
        let target = std::fs::read_link(path)?;
        return Ok(Kind::Link { target: String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned() });
    }
    if meta.is_dir() {
        return Ok(Kind::Dir { mode });
    }
    if !meta.is_file() {
        return Ok(Kind::Link { target: "(neither file, directory nor link)".to_owned() });
    }
    let (size, sha256) = hash_file(path)?;
    Ok(Kind::File { mode, size, sha256 })
}

/// Size and sha256 of a file's content.
///
/// # Errors
/// What the system said.
pub fn hash_file(path: &Path) -> std::io::Result<(u64, [u8; 32])> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    let mut size = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((size, hash.finalize().into())),
            n => {
                size += n as u64;
                hash.update(&buffer[..n]);
            }
        }
    }
}

/// Hashes every file of the environment again and lists what differs, sorted by path.
///
/// # Errors
/// A directory that can't be read.
pub fn verify_deep(root: &Path, seal: &Seal) -> Result<Vec<Deviation>, PathError> {
    let mut deviations: Vec<Deviation> =
        seal.entries.par_iter().filter_map(|(path, sealed)| compare(root, path, sealed)).collect();
    for path in walk(root)? {
        if !seal.entries.contains_key(&path) {
            deviations.push(Deviation { path, what: Differs::Added });
        }
    }
    deviations.sort_unstable();
    Ok(deviations)
}

/// One path against what was sealed for it.
pub(crate) fn compare(root: &Path, path: &str, sealed: &Kind) -> Option<Deviation> {
    let what = match look(&root.join(path)) {
        Ok(found) if found == *sealed => return None,
        Ok(found) => Differs::Changed { sealed: sealed.describe(), found: found.describe() },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Differs::Missing,
        Err(error) => Differs::Changed { sealed: sealed.describe(), found: error.to_string() },
    };
    Some(Deviation { path: path.to_owned(), what })
}

/// Every path below `root` but the seal file, relative, in no order. Names that are not UTF-8 appear with replacement
/// characters: no seal lists them.
fn walk(root: &Path) -> Result<Vec<String>, PathError> {
    let mut found = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(directory) = todo.pop() {
        let full = root.join(&directory);
        for entry in std::fs::read_dir(&full).map_err(PathError::at(&full))? {
            let entry = entry.map_err(PathError::at(&full))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if path == SEAL_FILE {
                continue;
            }
            if entry.file_type().map_err(PathError::at(entry.path()))?.is_dir() {
                todo.push(path.clone());
            }
            found.push(path);
        }
    }
    Ok(found)
}

/// Writes a file whole or not at all: temporary file in the same directory, fsync, rename. Mode 0644 whatever the umask.
///
/// # Errors
/// The path that could not be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), PathError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let mut file = crate::leftovers::file_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(PathError::at(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            (0u32..0o7777, any::<u64>(), any::<[u8; 32]>()).prop_map(|(mode, size, sha256)| Kind::File {
                mode,
                size,
                sha256
            }),
            (0u32..0o7777).prop_map(|mode| Kind::Dir { mode }),
            "[^\\p{C}\n\r\t]{1,9}".prop_map(|target| Kind::Link { target }),
        ]
    }

    proptest! {
        #[test]
        fn a_seal_reads_back_as_it_was_written(entries in proptest::collection::btree_map("[a-z ./]{1,20}", kind(), 0..9)) {
            let seal = Seal { key: "k".into(), entries, ..Seal::default() };
            prop_assert_eq!(Seal::decode(&seal.encode()).unwrap(), seal);
        }

        #[test]
        fn any_text_is_a_seal_or_an_error_and_never_a_panic(text in ".{0,200}") {
            prop_assert!(Seal::decode(&text).is_err());
            let body = format!("{HEAD}\n{text}\n");
            let sealed = format!("{body}end {}\n", hex::encode(Sha256::digest(body.as_bytes())));
            let _ = Seal::decode(&sealed);
        }
    }

    #[test]
    fn a_seal_with_one_changed_character_is_none() {
        let seal =
            Seal { key: "k".into(), entries: [("a".into(), Kind::Dir { mode: 0o755 })].into(), ..Seal::default() };
        let text = seal.encode();
        assert!(Seal::decode(&text.replace("dir 755", "dir 777")).is_err());
        assert!(Seal::decode(&text[..text.len() - 1]).is_err());
    }
}
