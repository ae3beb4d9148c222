//! A bundle: images and wheels in one tar, for a machine without network.
//!
//! ```text
//! ft-bundle.json               {"format": 1}
//! images/CONFIG.tar            an image archive, named by the digest of its configuration
//! wheels/SHA256/NAME.whl       a wheel
//! choices/KEY                  which of the locked files fits an interpreter: digest and name
//! ```
//!
//! Sorted, with fixed times: the same content gives the same bytes. On the way in nothing of it is believed: each image is
//! read as any archive is and must be one of the lock, each wheel must have a hash of the lock.

use super::archive::{ArchiveError, Members};
use crate::tar_writer::{EARLIEST, TarWriter};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What makes a tar a bundle.
pub const MARK: &str = "ft-bundle.json";
/// What the mark says. Another number is another format.
const SAYS: &[u8] = b"{\"format\":1}";

/// What a member of a bundle is made from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A few bytes.
    Bytes(Vec<u8>),
}

/// Writes a bundle of these members, by name.
///
/// # Errors
/// One can't be read, or changed while it was read; or `into` can't be written.
pub fn write<W: Write>(members: &BTreeMap<String, Source>, into: W) -> Result<(), ArchiveError> {
    let mut tar = TarWriter::new(into);
    let mut all = members.clone();
    all.insert(MARK.to_owned(), Source::Bytes(SAYS.to_vec()));
    for (name, source) in &all {
        let name = name.as_bytes();
        match source {
            Source::Bytes(bytes) => tar
                .file(name, false, EARLIEST, bytes.len() as u64, bytes.as_slice())
                .map_err(ArchiveError::at("the bundle"))?,
            Source::File(path) => {
                let file = File::open(path).map_err(ArchiveError::at(path))?;
                let size = file.metadata().map_err(ArchiveError::at(path))?.len();
                let mut exact = Exact { from: file, left: size };
                tar.file(name, false, EARLIEST, size, &mut exact).map_err(ArchiveError::at(path))?;
            }
        }
    }
    tar.finish().map(drop).map_err(ArchiveError::at("the bundle"))
}

/// A bundle, whose table of contents was read.
#[derive(Debug)]
pub struct Bundle {
    members: Members,
}

impl Bundle {
    /// The bundle in these members; `None` where they are none.
    ///
    /// # Errors
    /// It is one of another format, or holds something that has no place in a bundle.
    pub fn of(members: Members) -> Result<Option<Bundle>, ArchiveError> {
        if !members.has(MARK) {
            return Ok(None);
        }
        if members.small(MARK, 1024)? != SAYS {
            return Err(ArchiveError::refused(members.path(), "a bundle of a format that this ft does not know"));
        }
        let strange = members.names().find(|name| {
            let steps: Vec<&str> = name.split('/').collect();
            !matches!(steps.as_slice(), [MARK] | ["images", _] | ["choices", _] | ["wheels", _, _])
        });
        match strange {
            Some(name) => Err(ArchiveError::member(members.path(), name.as_bytes(), "has no place in a bundle")),
            None => Ok(Some(Bundle { members })),
        }
    }

    /// The names of the images.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.members.names().filter(|name| name.starts_with("images/"))
    }

    /// Member, sha256 and file name of each wheel, as the bundle says.
    pub fn wheels(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.members.names().filter_map(|name| {
            let (sha256, file) = name.strip_prefix("wheels/")?.split_once('/')?;
            Some((name, sha256, file))
        })
    }

    /// Key and text of each choice.
    ///
    /// # Errors
    /// One is too long or no text.
    pub fn choices(&self) -> Result<Vec<(String, String)>, ArchiveError> {
        let choice = |name: &str| {
            let bytes = self.members.small(name, 4096)?;
            let text = String::from_utf8(bytes)
                .map_err(|_| ArchiveError::member(self.members.path(), name.as_bytes(), "no text"))?;
            Ok((name["choices/".len()..].to_owned(), text))
        };
        self.members.names().filter(|name| name.starts_with("choices/")).map(choice).collect()
    }

    /// Writes one member into the file `into`, which is new.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn extract(&self, member: &str, into: &Path) -> Result<(), ArchiveError> {
        let mut file = File::create_new(into).map_err(ArchiveError::at(into))?;
        let copied = io::copy(&mut self.members.reader(member)?, &mut file);
        copied.map(drop).map_err(ArchiveError::at(into))
    }
}

/// Gives exactly as much as was there when it was opened.
struct Exact {
    from: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = self.left.min(buffer.len() as u64) as usize;
        let read = self.from.read(&mut buffer[..want])?;
        if read == 0 && want > 0 {
            return Err(io::Error::other("became shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::archive::Limits;
    use super::*;

    fn written(members: &[(&str, &[u8])]) -> (tempfile::TempDir, Result<Option<Bundle>, ArchiveError>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b");
        let mut tar = TarWriter::new(File::create(&path).unwrap());
        for (name, bytes) in members {
            tar.file(name.as_bytes(), false, 0, bytes.len() as u64, *bytes).unwrap();
        }
        tar.finish().unwrap();
        let bundle = Members::open(&path, &Limits::default()).and_then(Bundle::of);
        (folder, bundle)
    }

    #[test]
    fn what_is_written_is_read_and_the_same_bytes_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wheel");
        std::fs::write(&path, "content").unwrap();
        let members = BTreeMap::from([
            ("wheels/aa/x.whl".to_owned(), Source::File(path)),
            ("choices/kk".to_owned(), Source::Bytes(b"aa x.whl\n".to_vec())),
            ("images/ii.tar".to_owned(), Source::Bytes(b"tar".to_vec())),
        ]);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        write(&members, &mut one).unwrap();
        write(&members, &mut other).unwrap();
        assert_eq!(one, other);
        let at = folder.path().join("bundle");
        std::fs::write(&at, one).unwrap();
        let bundle = Bundle::of(Members::open(&at, &Limits::default()).unwrap()).unwrap().unwrap();
        assert_eq!(bundle.images().collect::<Vec<_>>(), ["images/ii.tar"]);
        assert_eq!(bundle.wheels().collect::<Vec<_>>(), [("wheels/aa/x.whl", "aa", "x.whl")]);
        assert_eq!(bundle.choices().unwrap(), [("kk".to_owned(), "aa x.whl\n".to_owned())]);
        bundle.extract("wheels/aa/x.whl", &folder.path().join("out")).unwrap();
        assert_eq!(std::fs::read(folder.path().join("out")).unwrap(), b"content");
    }

    #[test]
    fn what_is_no_bundle_or_a_strange_one_is_told_apart() {
        assert!(written(&[("manifest.json", b"[]")]).1.unwrap().is_none());
        let strange = written(&[(MARK, SAYS), ("bin/x", b"")]).1.unwrap_err().to_string();
        assert!(strange.contains("bin/x: has no place in a bundle"), "{strange}");
        let newer = written(&[(MARK, b"{\"format\":2}")]).1.unwrap_err().to_string();
        assert!(newer.contains("a format that this ft does not know"), "{newer}");
    }
}
