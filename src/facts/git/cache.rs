//! What was in a file when its stamp was last seen, so that a check of an unchanged tree reads no file.
//!
//! Never trusted blindly: the cache itself carries a checksum; a stamp counts with size, times in nanoseconds, inode
//! and mode, and the change time can't be set by a program; and a stamp that was young when it was taken does not
//! count at all (git calls it racy: the file may have been written again within the same tick of the clock).

use sha2::{Digest, Sha256};
use std::fs::Metadata;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: &[u8; 8] = b"ftree 2\n";
/// Nanoseconds by which a stamp must be older than the look at it. The clock that file systems use ticks every 10 ms or
/// faster.
const YOUNG: i64 = 50_000_000;
/// The same on a file system that keeps whole seconds, or pairs of them.
const YOUNG_COARSE: i64 = 3_000_000_000;

/// What moves when a file is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    size: u64,
    modified: i64,
    changed: i64,
    inode: u64,
    mode: u32,
}

const STAMP: usize = 36;

impl Stamp {
    /// The stamp of a file, times in nanoseconds since 1970.
    pub fn of(meta: &Metadata) -> Stamp {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let nanos = |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
            Stamp {
                size: meta.size(),
                modified: nanos(meta.mtime(), meta.mtime_nsec()),
                changed: nanos(meta.ctime(), meta.ctime_nsec()),
                inode: meta.ino(),
                mode: meta.mode(),
            }
        }
        #[cfg(not(unix))]
        {
            let modified = meta.modified().map(nanos).unwrap_or_default();
            Stamp { size: meta.len(), modified, changed: modified, inode: 0, mode: 0 }
        }
    }

    /// The same from stat(2).
    #[cfg(target_os = "linux")]
    pub fn of_stat(stat: &rustix::fs::Stat) -> Stamp {
        let nanos = |seconds: i64, rest: u64| seconds.wrapping_mul(1_000_000_000).wrapping_add_unsigned(rest);
        Stamp {
            size: stat.st_size.unsigned_abs(),
            modified: nanos(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanos(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
            mode: stat.st_mode,
        }
    }

    /// Whether a write after `taken` must have moved it.
    fn is_settled(&self, taken: i64) -> bool {
        let coarse = self.modified % 1_000_000_000 == 0 && self.changed % 1_000_000_000 == 0;
        let last = self.modified.max(self.changed);
        last.saturating_add(if coarse { YOUNG_COARSE } else { YOUNG }) < taken
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.size.to_le_bytes());
        out.extend(self.modified.to_le_bytes());
        out.extend(self.changed.to_le_bytes());
        out.extend(self.inode.to_le_bytes());
        out.extend(self.mode.to_le_bytes());
    }

    fn take(bytes: &[u8; STAMP]) -> Stamp {
        let part = |at: usize| bytes[at..at + 8].try_into().expect("eight bytes");
        Stamp {
            size: u64::from_le_bytes(part(0)),
            modified: i64::from_le_bytes(part(8)),
            changed: i64::from_le_bytes(part(16)),
            inode: u64::from_le_bytes(part(24)),
            mode: u32::from_le_bytes(bytes[32..36].try_into().expect("four bytes")),
        }
    }
}

fn nanos(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// What the cache is told about one file.
pub struct Told<'a> {
    pub path: &'a [u8],
    pub tracked: bool,
    pub stamp: Stamp,
    pub sha256: [u8; 32],
}

/// What was concluded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The commit, in hex; empty before the first one.
    pub head: Vec<u8>,
    /// The key of the tracked files.
    pub key: [u8; 32],
    /// What differed from HEAD: a function of HEAD, the index, and the tracked files.
    pub changed: Vec<Vec<u8>>,
}

/// What was known.
#[derive(Debug, Default)]
pub struct Cache {
    bytes: Vec<u8>,
    /// Nanoseconds since 1970: before every look that went into it.
    taken: i64,
    /// The index that the tracked names are from; the default where they depend on more than that.
    names: Stamp,
    /// What was concluded from it all.
    pub verdict: Verdict,
    entries: Vec<Entry>,
    /// The entries before this one are tracked. Each part is sorted by path.
    tracked: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    path: (usize, usize),
    stamp: Stamp,
    sha256: [u8; 32],
}

impl Cache {
    /// What stands at `place`; nothing where that is no whole cache of this version.
    pub fn load(place: &Path) -> Cache {
        std::fs::read(place).ok().and_then(Cache::parse).unwrap_or_default()
    }

    fn parse(bytes: Vec<u8>) -> Option<Cache> {
        let (body, sum) = bytes.split_last_chunk::<32>()?;
        if body.strip_prefix(MAGIC).is_none() || <[u8; 32]>::from(Sha256::digest(body)) != *sum {
            return None;
        }
        let mut at = MAGIC.len();
        let mut next = |n: usize| {
            let part = body.get(at..at.checked_add(n)?)?;
            at += n;
            Some((at - n, part))
        };
        let taken = i64::from_le_bytes(next(8)?.1.try_into().ok()?);
        let names = Stamp::take(next(STAMP)?.1.try_into().ok()?);
        let key = next(32)?.1.try_into().ok()?;
        let head_length = next(1)?.1[0] as usize;
        let head = next(head_length)?.1.to_vec();
        let mut changed = Vec::new();
        for _ in 0..u32::from_le_bytes(next(4)?.1.try_into().ok()?) {
            let length = u32::from_le_bytes(next(4)?.1.try_into().ok()?) as usize;
            changed.push(next(length)?.1.to_vec());
        }
        let tracked = u32::from_le_bytes(next(4)?.1.try_into().ok()?) as usize;
        let mut entries = Vec::with_capacity(tracked.min(body.len() / STAMP));
        while let Some((_, length)) = next(2) {
            let length = u16::from_le_bytes(length.try_into().ok()?) as usize;
            let (start, _) = next(length)?;
            let stamp = Stamp::take(next(STAMP)?.1.try_into().ok()?);
            let sha256 = next(32)?.1.try_into().ok()?;
            entries.push(Entry { path: (start, start + length), stamp, sha256 });
        }
        (tracked <= entries.len()).then_some(Cache {
            taken,
            names,
            verdict: Verdict { head, key, changed },
            entries,
            tracked,
            bytes,
        })
    }

    /// The index that the names are from.
    pub fn names_stamp(&self) -> Stamp {
        self.names
    }

    /// The names of what git tracks, if they are from this index.
    pub fn names(&self, index: &Stamp) -> Option<Vec<&[u8]>> {
        let known = *index == self.names && *index != Stamp::default() && index.is_settled(self.taken);
        known.then(|| self.entries[..self.tracked].iter().map(|entry| self.path(entry)).collect())
    }

    /// The content's sha256 of a file with this path and stamp, where that stamp can be trusted. `guess` is where it may
    /// stand.
    pub fn sha256(&self, path: &[u8], stamp: &Stamp, guess: usize) -> Option<[u8; 32]> {
        let find = |part: &[Entry]| part.binary_search_by(|entry| self.path(entry).cmp(path)).ok().map(|at| part[at]);
        let (tracked, others) = self.entries.split_at(self.tracked);
        let entry = self
            .entries
            .get(guess)
            .filter(|entry| self.path(entry) == path)
            .copied()
            .or_else(|| find(tracked))
            .or_else(|| find(others))?;
        (entry.stamp == *stamp && stamp.is_settled(self.taken)).then_some(entry.sha256)
    }

    fn path(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.path.0..entry.path.1]
    }

    /// Writes what is known now, in place of what stands at `place`. Tracked files come first; each part is sorted by
    /// path. Not forced to disk: a torn cache is no cache.
    pub fn save<'a>(
        place: &Path,
        taken: SystemTime,
        names: Stamp,
        verdict: &Verdict,
        entries: impl Iterator<Item = Told<'a>>,
    ) -> std::io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(nanos(taken).to_le_bytes());
        names.put(&mut bytes);
        bytes.extend(verdict.key);
        bytes.push(u8::try_from(verdict.head.len()).unwrap_or_default());
        bytes.extend_from_slice(&verdict.head);
        bytes.extend((verdict.changed.len() as u32).to_le_bytes());
        for path in &verdict.changed {
            bytes.extend((path.len() as u32).to_le_bytes());
            bytes.extend_from_slice(path);
        }
        let count_at = bytes.len();
        bytes.extend([0; 4]);
        let mut tracked: u32 = 0;
        for told in entries {
            let Ok(length) = u16::try_from(told.path.len()) else { continue };
            tracked += u32::from(told.tracked);
            bytes.extend(length.to_le_bytes());
            bytes.extend_from_slice(told.path);
            told.stamp.put(&mut bytes);
            bytes.extend(told.sha256);
        }
        bytes[count_at..count_at + 4].copy_from_slice(&tracked.to_le_bytes());
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum);
        let folder = place.parent().unwrap_or(Path::new("."));
        let mut file = crate::leftovers::file_in(folder)?;
        file.write_all(&bytes)?;
        file.persist(place)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(nanos: i64) -> Stamp {
        Stamp { size: 3, modified: nanos, changed: nanos, inode: 7, mode: 0o100_644 }
    }

    fn saved(taken: i64, nanos: i64) -> Cache {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("cache");
        let told = |path, tracked| Told { path, tracked, stamp: stamp(nanos), sha256: [9; 32] };
        let taken = UNIX_EPOCH + std::time::Duration::from_nanos(taken as u64);
        let verdict = Verdict { head: b"abc".to_vec(), key: [3; 32], changed: vec![b"a".to_vec()] };
        Cache::save(
            &place,
            taken,
            stamp(1),
            &verdict,
            [told(b"a", true), told(b"b/c", true), told(b"a new", false)].into_iter(),
        )
        .unwrap();
        let cache = Cache::load(&place);
        assert_eq!(cache.verdict, verdict);
        cache
    }

    #[test]
    fn what_was_told_is_known() {
        let cache = saved(1_000_000_001, 1);
        for (path, guess) in [(&b"a"[..], 0), (b"a", 9), (b"b/c", 0), (b"a new", 0)] {
            assert_eq!(cache.sha256(path, &stamp(1), guess), Some([9; 32]));
        }
        assert_eq!(cache.sha256(b"b", &stamp(1), 0), None);
        assert_eq!(cache.names(&stamp(1)).unwrap(), [&b"a"[..], b"b/c"]);
        assert_eq!(cache.names(&stamp(2)), None);
    }

    #[test]
    fn a_stamp_that_moved_or_was_young_is_not_trusted() {
        assert_eq!(saved(1_000_000_001, 1).sha256(b"a", &stamp(2), 0), None);
        assert_eq!(saved(1_000_000_001, 999_999_999).sha256(b"a", &stamp(999_999_999), 0), None);
        // Whole seconds: two of them could be one tick.
        assert_eq!(saved(2_500_000_000, 1_000_000_000).sha256(b"a", &stamp(1_000_000_000), 0), None);
        assert!(saved(5_000_000_000, 1_000_000_000).sha256(b"a", &stamp(1_000_000_000), 0).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_cache_or_none_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), whole: bool) {
            let mut bytes = if whole { [MAGIC, &bytes[..]].concat() } else { bytes };
            let sum = Sha256::digest(&bytes);
            bytes.extend_from_slice(&sum);
            if let Some(cache) = Cache::parse(bytes) {
                let _ = (cache.names(&stamp(1)), cache.sha256(b"a", &stamp(1), 0));
            }
        }
    }
}
