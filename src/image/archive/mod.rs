//! Image archives: one tar that every engine loads and registries' tools read.
//!
//! What is written here is both a docker-archive (`manifest.json`) and an OCI layout (`index.json`), over the same blobs.
//! Everything in it is a function of its content: sorted, times clamped, JSON in one form. So the same inputs give the same
//! image id on every machine.
//!
//! What is read may come from anyone. Nothing is believed: names, sizes and kinds of members, the digest of every blob, the
//! digest of every unpacked layer. Only what was verified is handed on, as files of our own.

mod blocks;
mod canonical;
mod config;
mod layer;
mod members;
mod read;
mod unzip;
mod write;

pub use canonical::canonical;
pub use config::{Base, config_of};
pub use layer::{LayerFile, empty_layer, layer};
pub use members::Members;
pub use read::{Archive, Found, Unpacked};
pub use write::{Contents, Ids, ids, write};

use crate::repo::shown;
use std::path::{Path, PathBuf};

/// How much an archive may ask of its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members of the archive.
    pub members: usize,
    /// Bytes of one JSON document.
    pub json: u64,
    /// Layers of one image. Engines take 125.
    pub layers: usize,
    /// Entries of one layer.
    pub entries: u64,
    /// Bytes of all unpacked layers of one image.
    pub unpacked: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { members: 20_000, json: 4 << 20, layers: 125, entries: 4_000_000, unpacked: 64 << 30 }
    }
}

/// Why an archive could not be written, or was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The archive is broken, or says what no honest archive says.
    #[error("{}: {what}", path.display())]
    Refused {
        /// The archive.
        path: PathBuf,
        /// What is wrong, and with which member.
        what: String,
    },
    /// Something has another digest than the archive itself says.
    #[error("{}: {what} is {found}, and the archive says {said}", path.display())]
    Differs {
        /// The archive.
        path: PathBuf,
        /// A member.
        what: String,
        /// Its digest or size.
        found: String,
        /// What is said.
        said: String,
    },
    /// The archive has no such image, or several and none was named.
    #[error("{}: {what}", path.display())]
    Choice {
        /// The archive.
        path: PathBuf,
        /// What was looked for and what is there.
        what: String,
    },
    /// A directory holds what an image can't be made of.
    #[error("{}: {what}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl ArchiveError {
    /// For `map_err`.
    pub(super) fn at(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> ArchiveError {
        let path = path.as_ref().to_path_buf();
        move |source| ArchiveError::Io { path, source }
    }

    pub(super) fn refused(path: &Path, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Refused { path: path.to_path_buf(), what: what.into() }
    }

    /// About one member, whose name may be anything.
    pub(super) fn member(path: &Path, name: &[u8], what: &str) -> ArchiveError {
        ArchiveError::refused(path, format!("{}: {what}", shown(&name[..name.len().min(256)])))
    }

    /// Whether the content is to blame, and not this machine.
    #[must_use]
    pub fn is_content(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Differs { .. })
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "the disk is full: `ft gc` frees what ft keeps"
            }
            Self::Io { .. } => "check that path and its permissions",
            Self::Refused { .. } => "copy the archive again from where it was made; nothing of it was used",
            Self::Differs { .. } => "the archive was changed or cut after it was made; nothing of it was used",
            Self::Choice { .. } => "name one of them",
            Self::Input { .. } => "take it out of the directory",
        }
    }
}

#[cfg(test)]
mod tests;
