//! The collection manifest, `ci/collection.txt`: which tests there are, made so that git merges it.
//!
//! One line per test file: `path count hash digits`, sorted by path, an empty line between two. `hash` is the start of a
//! sha256 over the file's node ids; `digits` are four hexadecimal digits for each test, so that a removal is told from an
//! addition without a list of names. There is no total: it would conflict on every merge. `path@3.10` is what another
//! Python than the lock's first collects, where that differs.
//!
//! Why it merges: an empty line stands between two entries, so that changes of neighbours never touch (git needs one
//! common line between two changes). Where both branches add a line at the same place, or change the same one, the
//! attribute `merge=union` (see [`GIT_ATTRIBUTE`]) keeps the lines of both. A file that has two lines then holds the tests
//! of either: nothing that one branch added may be missing, and `ft` writes one line again when it next writes the file.
//! A test that one branch removed is still named by the other's line and counts as removed until
//! `ft lock --collection`.
//!
//! Pure: it runs no test and opens no file.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Where the manifest stands in a repository.
pub const MANIFEST_PATH: &str = "ci/collection.txt";

/// The line of `.gitattributes` that lets git keep the lines of both branches.
pub const GIT_ATTRIBUTE: &str = "ci/collection.txt merge=union";

const HEAD: &str = "\
# The tests of this repository: path, count, hash, and four digits for each test. Written by `ft lock --collection`.
# Two branches that add tests merge without a conflict; a file that then has two lines holds the tests of both.
";

/// The tests that one file holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    /// The first 16 hexadecimal digits of the sha256 of the sorted node ids, joined by newlines.
    hash: String,
    /// For each node id the first 16 bits of its sha256: sorted, with multiplicity.
    tests: Vec<u16>,
}

/// A file of tests, for one Python or for all that have no record of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    path: String,
    python: Option<String>,
}

/// What the test steps must collect, as the manifest says it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// More than one record for a file that two branches changed.
    records: BTreeMap<Key, BTreeSet<Record>>,
}

/// A line that is no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{MANIFEST_PATH}:{line}: {reason}")]
pub struct ManifestError {
    /// From 1.
    pub line: usize,
    /// What was expected.
    pub reason: String,
}

/// How the tests of one file differ from the manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileDiff {
    /// The test file.
    pub path: String,
    /// Tests that the manifest does not have.
    pub added: u64,
    /// Tests of the manifest that were not collected.
    pub removed: u64,
}

impl std::fmt::Display for FileDiff {
    /// `tests/test_a.py +2 -1`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)?;
        if self.added > 0 {
            write!(f, " +{}", self.added)?;
        }
        if self.removed > 0 {
            write!(f, " -{}", self.removed)?;
        }
        Ok(())
    }
}

/// How a collection differs from the manifest. Empty where it does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Files that differ, sorted.
    pub files: Vec<FileDiff>,
    /// Files that have the lines of two branches and hold the tests of both: nothing to complain about, and written as
    /// one line when the manifest is next written.
    pub merged: Vec<String>,
}

impl Diff {
    /// Tests that the manifest does not have.
    #[must_use]
    pub fn added(&self) -> u64 {
        self.files.iter().map(|file| file.added).sum()
    }

    /// Tests of the manifest that were not collected.
    #[must_use]
    pub fn removed(&self) -> u64 {
        self.files.iter().map(|file| file.removed).sum()
    }

    /// Whether the collection is what the manifest says.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

impl Manifest {
    /// The manifest of what each Python collects, as node ids. `main` is the lock's first Python, whose lines carry no
    /// suffix; the others have lines of their own where they differ from it.
    #[must_use]
    pub fn of(collections: &BTreeMap<String, Vec<String>>, main: &str) -> Manifest {
        let mut records = BTreeMap::new();
        let by_file = |python: &str| collections.get(python).map(|ids| by_file(ids)).unwrap_or_default();
        let main_files = by_file(main);
        for (path, ids) in &main_files {
            records.insert(Key { path: path.clone(), python: None }, BTreeSet::from([Record::of(ids)]));
        }
        for python in collections.keys().filter(|python| *python != main) {
            let files = by_file(python);
            for path in files.keys().chain(main_files.keys()).collect::<BTreeSet<_>>() {
                let own = files.get(path).map(|ids| Record::of(ids));
                if own != main_files.get(path).map(|ids| Record::of(ids)) {
                    let key = Key { path: path.clone(), python: Some(python.clone()) };
                    records.insert(key, BTreeSet::from([own.unwrap_or_else(Record::nothing)]));
                }
            }
        }
        Manifest { records }
    }

    /// This manifest with what one Python of the matrix collects now; the lines of the others stay. For
    /// `on_added: update`.
    #[must_use]
    pub fn with(&self, python: &str, main: &str, ids: &[String]) -> Manifest {
        let mut records = self.records.clone();
        let files = by_file(ids);
        let suffix = (python != main).then(|| python.to_owned());
        records.retain(|key, _| key.python != suffix);
        for (path, ids) in &files {
            let own = BTreeSet::from([Record::of(ids)]);
            let shared = suffix.is_some() && records.get(&Key { path: path.clone(), python: None }) == Some(&own);
            if !shared {
                records.insert(Key { path: path.clone(), python: suffix.clone() }, own);
            }
        }
        if suffix.is_some() {
            let shared: Vec<String> =
                records.keys().filter(|key| key.python.is_none()).map(|key| key.path.clone()).collect();
            for path in shared.into_iter().filter(|path| !files.contains_key(path)) {
                records.insert(Key { path, python: suffix.clone() }, BTreeSet::from([Record::nothing()]));
            }
        }
        Manifest { records }
    }

    /// Reads a manifest, in any order and with the lines of two branches.
    ///
    /// # Errors
    /// The first line that is no entry: a conflict marker, for one.
    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        let mut records: BTreeMap<Key, BTreeSet<Record>> = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, record) = entry(line).map_err(|reason| ManifestError { line: at + 1, reason })?;
            records.entry(key).or_default().insert(record);
        }
        Ok(Manifest { records })
    }

    /// The manifest as text: sorted, with its head, an empty line between two entries.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = HEAD.to_owned();
        for (key, records) in &self.records {
            for record in records {
                let python = key.python.as_ref().map(|python| format!("@{python}")).unwrap_or_default();
                let digits: String = record.tests.iter().map(|test| format!("{test:04x}")).collect();
                let digits = if digits.is_empty() { "-" } else { &digits };
                let path = escape(&key.path);
                let _ = writeln!(text, "\n{path}{python} {} {} {digits}", record.tests.len(), record.hash);
            }
        }
        text
    }

    /// How many tests a Python must collect at least.
    #[must_use]
    pub fn count(&self, python: &str) -> u64 {
        self.of_python(python).values().map(|records| wanted(records).len() as u64).sum()
    }

    /// How what a Python has collected differs from this manifest.
    #[must_use]
    pub fn diff(&self, python: &str, ids: &[String]) -> Diff {
        let files = by_file(ids);
        let expected = self.of_python(python);
        let mut diff = Diff::default();
        for path in files.keys().map(String::as_str).chain(expected.keys().copied()).collect::<BTreeSet<_>>() {
            let found = files.get(path).map_or_else(Record::nothing, |ids| Record::of(ids));
            let records = expected.get(path).copied();
            let one = records.is_some_and(|records| records.len() == 1);
            if one && records.is_some_and(|records| records.contains(&found)) {
                continue;
            }
            let wanted = records.map(wanted).unwrap_or_default();
            let (mut added, mut removed) = (minus(&found.tests, &wanted), minus(&wanted, &found.tests));
            if one && added == 0 && removed == 0 {
                // Other names under the same digits: the hash knows.
                (added, removed) = (1, 1);
            }
            if added > 0 || removed > 0 {
                diff.files.push(FileDiff { path: path.to_owned(), added, removed });
            } else if records.is_some_and(|records| records.len() > 1) {
                diff.merged.push(path.to_owned());
            }
        }
        diff
    }

    /// The records that hold for a Python: its own, else the shared ones.
    fn of_python(&self, python: &str) -> BTreeMap<&str, &BTreeSet<Record>> {
        let shared = self.records.iter().filter(|(key, _)| key.python.is_none());
        let own = self.records.iter().filter(|(key, _)| key.python.as_deref() == Some(python));
        shared.chain(own).map(|(key, records)| (key.path.as_str(), records)).collect()
    }
}

impl Record {
    fn of<S: AsRef<str>>(ids: &[S]) -> Record {
        let mut tests: Vec<u16> = ids
            .iter()
            .map(|id| {
                let digest = Sha256::digest(id.as_ref());
                u16::from_be_bytes([digest[0], digest[1]])
            })
            .collect();
        tests.sort_unstable();
        Record { hash: name_hash(ids)[..16].to_owned(), tests }
    }

    fn nothing() -> Record {
        Record { hash: "-".to_owned(), tests: Vec::new() }
    }
}

/// sha256 of the sorted node ids joined by newlines, in hex: `name_hash_sha256` of the lock, as the original tool has it.
#[must_use]
pub fn name_hash<S: AsRef<str>>(ids: &[S]) -> String {
    let mut sorted: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    hex::encode(Sha256::digest(sorted.join("\n")))
}

/// Node ids that two collections of the same tree do not have in common, sorted: with two hash seeds, the tests whose
/// names depend on the order of a set.
#[must_use]
pub fn unstable(one: &[String], other: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    one.iter().for_each(|id| *counts.entry(id).or_default() += 1);
    other.iter().for_each(|id| *counts.entry(id).or_default() -= 1);
    counts.into_iter().filter(|(_, count)| *count != 0).map(|(id, _)| id.to_owned()).collect()
}

/// `.gitattributes` with [`GIT_ATTRIBUTE`] at its end; `None` where it says something about the manifest already.
#[must_use]
pub fn with_git_attribute(text: &str) -> Option<String> {
    let told = text.lines().any(|line| line.split_whitespace().next() == Some(MANIFEST_PATH));
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    (!told).then(|| format!("{text}{newline}{GIT_ATTRIBUTE}\n"))
}

fn by_file(ids: &[String]) -> BTreeMap<String, Vec<&str>> {
    let mut files: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for id in ids {
        let path = id.split_once("::").map_or(id.as_str(), |(path, _)| path);
        files.entry(path.to_owned()).or_default().push(id);
    }
    files
}

/// What the lines of one file ask for together: each test as often as the line that has it most often.
fn wanted(records: &BTreeSet<Record>) -> Vec<u16> {
    let mut most: BTreeMap<u16, usize> = BTreeMap::new();
    for record in records {
        for tests in record.tests.chunk_by(|one, other| one == other) {
            let count = most.entry(tests[0]).or_default();
            *count = (*count).max(tests.len());
        }
    }
    most.into_iter().flat_map(|(test, count)| std::iter::repeat_n(test, count)).collect()
}

/// How many of the sorted `these` are not among the sorted `those`, with multiplicity.
fn minus(these: &[u16], those: &[u16]) -> u64 {
    let mut those = those.iter().peekable();
    let missing = these.iter().filter(|test| {
        while those.next_if(|other| other < test).is_some() {}
        those.next_if(|other| other == test).is_none()
    });
    missing.count() as u64
}

fn entry(line: &str) -> Result<(Key, Record), String> {
    if ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].iter().any(|marker| line.starts_with(marker)) {
        return Err("a conflict marker of git; run `ft lock --collection`".to_owned());
    }
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [path, count, hash, digits] = fields.as_slice() else {
        return Err(format!("expected path, count, hash and digits, found {} fields", fields.len()));
    };
    let (path, python) = path.rsplit_once('@').map_or((*path, None), |(path, python)| (path, Some(python.to_owned())));
    let path = unescape(path).ok_or_else(|| format!("expected a path, found {path:?}"))?;
    let digits = if *digits == "-" { "" } else { digits };
    let tests: Option<Vec<u16>> = digits.as_bytes().chunks(4).map(four_digits).collect();
    let Some(mut tests) = tests.filter(|tests| *count == tests.len().to_string()) else {
        return Err(format!("expected four hexadecimal digits for each of {count} tests"));
    };
    tests.sort_unstable();
    let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let is_nothing = tests.is_empty() && *hash == "-";
    if !is_hash && !is_nothing {
        return Err(format!("expected a hash of 16 hexadecimal digits, found {hash:?}"));
    }
    Ok((Key { path, python }, Record { hash: (*hash).to_owned(), tests }))
}

fn four_digits(digits: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.len() == 4 && !text.starts_with('+'))?;
    u16::from_str_radix(text, 16).ok()
}

/// Percent-encodes what would end a field or begin a suffix or comment.
fn escape(path: &str) -> String {
    let mut escaped = String::new();
    for c in path.chars() {
        if c.is_whitespace() || c.is_control() || matches!(c, '%' | '@' | '#' | '<' | '=' | '>' | '|') {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(escaped, "%{byte:02X}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok().filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests;
