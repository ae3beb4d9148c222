//! The stat cache: what `stat` said about every file of an environment when its content was last known to be right.
//!
//! It stands beside the environment, not in it, and is only an accelerator: without it, with one of another boot, or
//! with one that belongs to another seal, everything is hashed again. Another boot counts as unknown because the files
//! of an environment are not flushed one by one: a power failure may leave a file short that was sealed whole.
//!
//! A file is taken as unchanged when size, mode, inode, modification and change time are what they were; the change
//! time can't be set from user space. A directory's own times change when an entry is added, removed or renamed in it,
//! so unchanged directories need no reading. As in git's index, an entry whose change time is not clearly older than
//! the cache may have been changed within the clock's granularity, and is hashed again.

use super::{Deviation, Differs, Kind, SEAL_FILE, Seal, compare, verify_deep};
use crate::environment::PathError;
use crate::environment::dists::Dist;
use rayon::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, statat};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: &[u8; 8] = b"ftstat 1";
/// Wider than the granularity of any file system's clock that is in use (ext4: one tick, at most 10 ms).
const RACY_NS: i128 = 50_000_000;

/// How a directory is opened to look from: `O_PATH` needs no right to read it (open(2)); only Linux has that.
#[cfg(target_os = "linux")]
const LOOK: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const LOOK: OFlags = OFlags::RDONLY;

/// What identifies a state of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stamp {
    size: u64,
    ino: u64,
    mode: u32,
    mtime: i128,
    ctime: i128,
}

const STAMP_BYTES: usize = 8 + 8 + 4 + 8 + 8;

impl Stamp {
    fn of(stat: &rustix::fs::Stat) -> Stamp {
        let time = |seconds: i64, nanos: i128| i128::from(seconds) * 1_000_000_000 + nanos;
        let directory = FileType::from_raw_mode(stat.st_mode).is_dir();
        #[cfg_attr(target_os = "linux", expect(clippy::unnecessary_cast, reason = "its type differs between systems"))]
        let mode = stat.st_mode as u32;
        Stamp {
            // The size of a directory says nothing that its times do not, and differs between file systems.
            size: if directory { 0 } else { stat.st_size as u64 },
            ino: stat.st_ino,
            mode,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec.into()),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec.into()),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.ino.to_le_bytes());
        out.extend_from_slice(&self.mode.to_le_bytes());
        // Nanoseconds since 1970 fit into 63 bits until the year 2262; an odd time becomes a mismatch, never a match.
        out.extend_from_slice(&i64::try_from(self.mtime).unwrap_or(i64::MIN).to_le_bytes());
        out.extend_from_slice(&i64::try_from(self.ctime).unwrap_or(i64::MIN).to_le_bytes());
    }
}

/// A directory with its entries that are no directories.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Folder<'a> {
    path: &'a str,
    stamp: Stamp,
    files: Vec<(&'a str, Stamp)>,
}

/// What is remembered about one environment. Names are those of the seal or of the file that was read: there are
/// thousands, and a warm check has no time to copy each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct StatCache<'a> {
    boot: String,
    key: String,
    /// When it was taken, nanoseconds since 1970.
    taken: i64,
    seal: Stamp,
    /// What is installed, so that a warm check reads no second file.
    dists: Vec<Dist>,
    folders: Vec<Folder<'a>>,
}

/// What a verification found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What is installed, as sealed.
    pub dists: Vec<Dist>,
    /// What differs from the seal; empty where nothing does.
    pub deviations: Vec<Deviation>,
    /// How many files were hashed again.
    pub hashed: usize,
}

/// Names this boot of the machine; empty where the system does not say, and then nothing is remembered across calls.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Compares an environment with its seal, hashing only what `stat` can't vouch for. `cache` is the file of the stat
/// cache; it is written anew where it taught nothing or too little.
///
/// # Errors
/// The text of why there is no seal to compare with.
pub fn verify(root: &Path, key: &str, cache: &Path) -> Result<Verified, String> {
    let boot = boot_id();
    let bytes = std::fs::read(cache).unwrap_or_default();
    let known = StatCache::decode(&bytes)
        .filter(|known| !boot.is_empty() && known.boot == boot && known.key == key)
        .filter(|known| stamp_of(&root.join(SEAL_FILE)) == Some(known.seal));
    let Some(known) = known else {
        return verify_without(root, key, cache);
    };
    let doubtful = || -> BTreeSet<String> {
        known.folders.par_iter().flat_map_iter(|folder| folder.doubtful(root, i128::from(known.taken))).collect()
    };
    if doubtful().is_empty() {
        return Ok(Verified { dists: known.dists, deviations: Vec::new(), hashed: 0 });
    }
    let seal = Seal::read(root)?;
    // Taken first, then looked again: what changed before is among the doubtful, what changes after has another stamp
    // than the one that is remembered. Nothing is vouched for that was not hashed.
    let taken = StatCache::take(root, &seal);
    let doubtful = doubtful();
    let deviations = recheck(root, &seal, &doubtful).map_err(|error| error.to_string())?;
    if deviations.is_empty() {
        write(cache, taken);
    }
    Ok(Verified { dists: seal.dists, deviations, hashed: doubtful.len() })
}

/// Hashes everything, and remembers it where nothing differs.
///
/// # Errors
/// The text of why there is no seal to compare with.
pub fn verify_without(root: &Path, key: &str, cache: &Path) -> Result<Verified, String> {
    let seal = Seal::read(root)?;
    if seal.key != key {
        return Err(format!("{}: sealed as {}", root.display(), seal.key));
    }
    // Taken before the hashing: what changes in between has a change time that the next call sees as doubtful.
    let taken = StatCache::take(root, &seal);
    let deviations = verify_deep(root, &seal).map_err(|error| error.to_string())?;
    if deviations.is_empty() {
        write(cache, taken);
    }
    let hashed = seal.totals().0;
    Ok(Verified { dists: seal.dists, deviations, hashed })
}

/// Remembers an environment whose content is known to be right.
pub(crate) fn remember(root: &Path, seal: &Seal, cache: &Path) {
    write(cache, StatCache::take(root, seal));
}

/// The cache is an accelerator: where it can't be written, the next call hashes again.
fn write(cache: &Path, taken: Option<StatCache<'_>>) {
    if let Some(taken) = taken
        && let Some(directory) = cache.parent()
        && let Ok(file) = crate::leftovers::file_in(directory)
        && std::fs::write(file.path(), taken.encode()).is_ok()
    {
        file.persist(cache).ok();
    }
}

/// The paths that `stat` does not vouch for, against the seal. A doubtful directory is read, for entries not sealed.
fn recheck(root: &Path, seal: &Seal, doubtful: &BTreeSet<String>) -> Result<Vec<Deviation>, PathError> {
    let mut deviations = BTreeSet::new();
    for path in doubtful {
        let sealed = if path.is_empty() { Some(&Kind::Dir { mode: 0o755 }) } else { seal.entries.get(path) };
        let Some(sealed) = sealed else {
            deviations.insert(Deviation { path: path.clone(), what: Differs::Added });
            continue;
        };
        let deviation = compare(root, path, sealed);
        let listed = matches!(sealed, Kind::Dir { .. }) && deviation.is_none();
        deviations.extend(deviation);
        if listed {
            deviations.extend(added(root, path, seal)?);
        }
    }
    Ok(deviations.into_iter().collect())
}

/// Entries of one directory that the seal does not list, with everything below those.
fn added(root: &Path, directory: &str, seal: &Seal) -> Result<Vec<Deviation>, PathError> {
    let full = root.join(directory);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&full).map_err(PathError::at(&full))? {
        let entry = entry.map_err(PathError::at(&full))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
        if path == SEAL_FILE || seal.entries.contains_key(&path) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(added(root, &path, seal)?);
        }
        found.push(Deviation { path, what: Differs::Added });
    }
    Ok(found)
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| Stamp::of(&stat))
}

impl Folder<'_> {
    /// The paths of this directory and its files whose state is not the remembered one, or is too young to be trusted.
    fn doubtful(&self, root: &Path, taken: i128) -> Vec<String> {
        let full = if self.path.is_empty() { root.to_path_buf() } else { root.join(self.path) };
        let flags = LOOK | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(directory) = openat(CWD, &full, flags, Mode::empty()) else {
            let files = self.files.iter().map(|(name, _)| self.join(name));
            return std::iter::once(self.path.to_owned()).chain(files).collect();
        };
        let vouched = |known: &Stamp, now: rustix::io::Result<rustix::fs::Stat>| {
            now.is_ok_and(|stat| Stamp::of(&stat) == *known) && known.ctime < taken - RACY_NS
        };
        let mut doubtful = Vec::new();
        if !vouched(&self.stamp, fstat(&directory)) {
            doubtful.push(self.path.to_owned());
        }
        for (name, known) in &self.files {
            if !vouched(known, statat(&directory, *name, AtFlags::SYMLINK_NOFOLLOW)) {
                doubtful.push(self.join(name));
            }
        }
        doubtful
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }
}

impl<'a> StatCache<'a> {
    /// What `stat` says now about everything that is sealed. `None` where something of it is not there.
    fn take(root: &Path, seal: &'a Seal) -> Option<StatCache<'a>> {
        let taken = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos();
        let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::from([("", Vec::new())]);
        for (path, kind) in &seal.entries {
            if let Kind::Dir { .. } = kind {
                folders.entry(path).or_default();
            } else {
                let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
                folders.entry(directory).or_default().push(name);
            }
        }
        let folders = folders
            .into_par_iter()
            .map(|(path, names)| {
                let full = root.join(path);
                let stamp = stamp_of(&full)?;
                let files =
                    names.into_iter().map(|name| Some((name, stamp_of(&full.join(name))?))).collect::<Option<_>>()?;
                Some(Folder { path, stamp, files })
            })
            .collect::<Option<_>>()?;
        Some(StatCache {
            boot: boot_id(),
            key: seal.key.clone(),
            taken: i64::try_from(taken).ok()?,
            seal: stamp_of(&root.join(SEAL_FILE))?,
            dists: seal.dists.clone(),
            folders,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let put_text = |out: &mut Vec<u8>, text: &str| {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        put_text(&mut out, &self.boot);
        put_text(&mut out, &self.key);
        out.extend_from_slice(&self.taken.to_le_bytes());
        self.seal.put(&mut out);
        let mut dists = String::new();
        for dist in &self.dists {
            dist.encode_into(&mut dists);
        }
        put_text(&mut out, &dists);
        out.extend_from_slice(&(self.folders.len() as u32).to_le_bytes());
        for folder in &self.folders {
            put_text(&mut out, folder.path);
            folder.stamp.put(&mut out);
            out.extend_from_slice(&(folder.files.len() as u32).to_le_bytes());
            for (name, stamp) in &folder.files {
                put_text(&mut out, name);
                stamp.put(&mut out);
            }
        }
        out
    }

    fn decode(bytes: &'a [u8]) -> Option<StatCache<'a>> {
        let mut input = Input(bytes.strip_prefix(MAGIC)?);
        let (boot, key, taken, seal) =
            (input.text()?.to_owned(), input.text()?.to_owned(), input.i64()?, input.stamp()?);
        let mut dists = Vec::new();
        for line in input.text()?.lines() {
            let (word, rest) = line.split_once(' ')?;
            Dist::decode_line(word, rest, &mut dists)?;
        }
        let folders = (0..input.u32()?)
            .map(|_| {
                let (path, stamp) = (input.text()?, input.stamp()?);
                let files = (0..input.u32()?).map(|_| Some((input.text()?, input.stamp()?)));
                Some(Folder { path, stamp, files: files.collect::<Option<_>>()? })
            })
            .collect::<Option<_>>()?;
        input.0.is_empty().then_some(StatCache { boot, key, taken, seal, dists, folders })
    }
}

/// A reader of the bytes of a stat cache.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let n = self.u32()? as usize;
        std::str::from_utf8(self.take(n)?).ok()
    }

    fn stamp(&mut self) -> Option<Stamp> {
        let bytes = self.take(STAMP_BYTES)?;
        let word = |at: usize| bytes[at..at + 8].try_into().ok();
        Some(Stamp {
            size: u64::from_le_bytes(word(0)?),
            ino: u64::from_le_bytes(word(8)?),
            mode: u32::from_le_bytes(bytes[16..20].try_into().ok()?),
            mtime: i64::from_le_bytes(word(20)?).into(),
            ctime: i64::from_le_bytes(word(28)?).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp() -> impl Strategy<Value = Stamp> {
        (any::<u64>(), any::<u64>(), any::<u32>(), any::<i64>(), any::<i64>()).prop_map(
            |(size, ino, mode, mtime, ctime)| Stamp { size, ino, mode, mtime: mtime.into(), ctime: ctime.into() },
        )
    }

    proptest! {
        #[test]
        fn a_stat_cache_reads_back_and_a_cut_one_is_none(
            seal in stamp(), taken: i64, files in proptest::collection::vec((".{0,9}", stamp()), 0..4), cut in 1usize..9,
        ) {
            let files = files.iter().map(|(name, stamp)| (name.as_str(), *stamp)).collect();
            let folders = vec![Folder { path: "a/b", stamp: seal, files }];
            let dists = vec![Dist { name: "n".into(), version: "1".into(), ..Dist::default() }];
            let cache = StatCache { boot: "b".into(), key: "k".into(), taken, seal, dists, folders };
            let bytes = cache.encode();
            prop_assert_eq!(StatCache::decode(&bytes), Some(cache));
            prop_assert_eq!(StatCache::decode(&bytes[..bytes.len() - cut]), None);
        }

        #[test]
        fn any_bytes_are_a_stat_cache_or_none_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut all = MAGIC.to_vec();
            all.extend(bytes);
            let _ = StatCache::decode(&all);
        }
    }
}
