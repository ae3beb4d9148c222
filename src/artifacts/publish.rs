//! From the folder of a run to `artifacts/`, where no file of the user's is lost.
//!
//! What is ours is known by name *and* content: the list of what was published last, with hashes. Only that is removed
//! or replaced. A file that git tracks is never touched; another file that stands where one of ours must go gets a
//! second name beside it (`NAME.yours`), and both cases are reported. The list is written before and after, so that a
//! runner that is killed half-way leaves nothing that the next one takes for the user's. Files are renamed into place
//! whole; they are not forced to disk, the folder of the run has them too.

use super::beneath::Beneath;
use super::runs::RunLock;
use super::{ArtifactError, ReceivedFile, io};
use crate::git::{Git, exclude};
use crate::repo::{ARTIFACTS_DIR, Repo, STATE_DIR, VENV_LINK};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Where files stand until they are renamed into place, below `artifacts/`: this, and something that no step can guess.
const STAGING: &str = ".ft-new";

/// One file to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// A file in the folder of the run.
    pub from: PathBuf,
    /// Its name below `artifacts/`, `/` between plain names.
    pub to: String,
}

/// What publishing did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// Names below `artifacts/` that are there now.
    pub written: Vec<String>,
    /// Names that the run before had and this one does not.
    pub removed: Vec<String>,
    /// Names of the user's own that were in the way, and what became of them.
    pub reported: Vec<(String, String)>,
}

/// What was published, as it stands in `.firsttry/published.json`: name to the hashes it may have.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, BTreeSet<String>>,
}

/// Replaces what the run before published by these files. Of two items with one name the later wins.
///
/// # Errors
/// [`ArtifactError`]: where `artifacts` is no folder, or something can't be written. What is published by then stays.
pub fn publish(lock: &RunLock, repo: &Repo, items: &[Item]) -> Result<Published, ArtifactError> {
    exchange(lock, items, &repo.root, &tracked_artifacts(repo)?, false)
}

/// Replaces single published files, and leaves what else a run published as it is: the report of a self-check. `tracked`
/// is what git tracks below `artifacts/`, relative to it, where the caller knows it already.
///
/// # Errors
/// As [`publish`].
pub fn update(
    lock: &RunLock,
    repo: &Repo,
    items: &[Item],
    tracked: Option<&HashSet<String>>,
) -> Result<Published, ArtifactError> {
    match tracked {
        Some(tracked) => exchange(lock, items, &repo.root, tracked, true),
        None => exchange(lock, items, &repo.root, &tracked_artifacts(repo)?, true),
    }
}

fn exchange(
    lock: &RunLock,
    items: &[Item],
    root: &Path,
    tracked: &HashSet<String>,
    keep_others: bool,
) -> Result<Published, ArtifactError> {
    let dir = root.join(ARTIFACTS_DIR);
    match dir.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(ArtifactError::NoFolder(dir)),
        Err(_) => std::fs::create_dir(&dir).map_err(io(&dir))?,
    }
    let below = Beneath::new(&dir).map_err(io(&dir))?;
    remove_old_staging(&dir)?;
    let staging = tempfile::Builder::new().prefix(&format!("{STAGING}-")).tempdir_in(&dir).map_err(io(&dir))?;
    let staging_name = staging.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let place = lock.state_dir().join("published.json");
    let old = load(&place);

    let mut published = Published::default();
    let mut new = Manifest::default();
    let mut staged = BTreeMap::new();
    for (n, item) in items.iter().enumerate() {
        if tracked.contains(&item.to) {
            let why = "git tracks this file, so it stays; the run's own is in its folder";
            published.reported.push((item.to.clone(), why.to_owned()));
            continue;
        }
        let name = format!("{staging_name}/{n}");
        let sha256 = stage(&below, &item.from, &name)?;
        new.files.insert(item.to.clone(), BTreeSet::from([sha256]));
        staged.insert(item.to.clone(), name);
    }
    let mut both = Manifest { files: old.files.clone() };
    for (name, hashes) in &new.files {
        both.files.entry(name.clone()).or_default().extend(hashes.iter().cloned());
    }
    save(&place, &both)?;

    let gone = |name: &String| !keep_others && !new.files.contains_key(name) && !tracked.contains(name);
    for (name, hashes) in old.files.iter().filter(|(name, _)| gone(name)) {
        match below.open(name).and_then(|file| file.map(hash).transpose()) {
            Ok(None) => {}
            Ok(Some(there)) if hashes.contains(&there) => {
                below.remove(name).map_err(io(&dir.join(name)))?;
                remove_empty_folders(&below, name);
                published.removed.push(name.clone());
            }
            Ok(Some(_)) | Err(_) => {
                published.reported.push((name.clone(), "changed since it was published, so it stays".to_owned()));
            }
        }
    }
    for (name, from) in &staged {
        match make_way(&below, name, both.files.get(name)) {
            Ok(None) => {}
            Ok(Some(aside)) => published.reported.push((name.clone(), format!("was not ours; it is now {aside}"))),
            Err(error) => {
                let why = format!("can't be written below {ARTIFACTS_DIR}/ ({error}); it is in the folder of the run");
                published.reported.push((name.clone(), why));
                new.files.remove(name);
                continue;
            }
        }
        below.rename(from, name).map_err(io(&dir.join(name)))?;
        published.written.push(name.clone());
    }
    if keep_others {
        for (name, hashes) in old.files {
            new.files.entry(name).or_insert(hashes);
        }
    }
    // Nothing but what could not be renamed is left in it; the next one clears it.
    let _ = std::fs::remove_dir_all(&staging);
    save(&place, &new)?;
    Ok(published)
}

/// Copies a file to its staging name and gives its hash.
fn stage(below: &Beneath, from: &Path, name: &str) -> Result<String, ArtifactError> {
    let mut source = File::open(from).map_err(io(from))?;
    let executable = is_executable(&source.metadata().map_err(io(from))?);
    let mut target = below.create(name, executable).map_err(io(Path::new(name)))?;
    let mut hash = Sha256::new();
    let mut buffer = [0; 1 << 15];
    loop {
        let n = source.read(&mut buffer).map_err(io(from))?;
        if n == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..n]);
        target.write_all(&buffer[..n]).map_err(io(from))?;
    }
}

/// Sees that `name` is free or ours. What is not ours is renamed; its new name comes back.
fn make_way(below: &Beneath, name: &str, ours: Option<&BTreeSet<String>>) -> std::io::Result<Option<String>> {
    if let Some((folder, _)) = name.rsplit_once('/') {
        below.make_folder(folder)?;
    }
    if !below.exists(name)? {
        return Ok(None);
    }
    if let Ok(Some(file)) = below.open(name)
        && ours.is_some_and(|ours| hash(file).is_ok_and(|hash| ours.contains(&hash)))
    {
        return Ok(None);
    }
    let mut aside = format!("{name}.yours");
    let mut n = 1;
    while below.exists(&aside)? {
        n += 1;
        aside = format!("{name}.yours-{n}");
    }
    below.rename(name, &aside)?;
    Ok(Some(aside))
}

fn remove_empty_folders(below: &Beneath, name: &str) {
    let mut rest = name;
    while let Some((folder, _)) = rest.rsplit_once('/') {
        if !below.remove_empty_folder(folder) {
            break;
        }
        rest = folder;
    }
}

fn hash(mut file: File) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = [0; 1 << 15];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Names below `artifacts/` that git tracks.
fn tracked_artifacts(repo: &Repo) -> Result<HashSet<String>, ArtifactError> {
    let output = Git::at(&repo.root).args(["ls-files", "-z", "--", ARTIFACTS_DIR]).output()?;
    let names = output.split(|b| *b == 0).filter(|name| !name.is_empty()).map(String::from_utf8_lossy);
    Ok(names.filter_map(|name| name.strip_prefix("artifacts/").map(str::to_owned)).collect())
}

/// A list that can't be read lists nothing: then nothing is removed, and what is in the way is kept aside.
fn load(place: &Path) -> Manifest {
    std::fs::read(place).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn save(place: &Path, manifest: &Manifest) -> Result<(), ArtifactError> {
    let folder = place.parent().unwrap_or(Path::new("."));
    let bytes = serde_json::to_vec_pretty(manifest).map_err(|error| io(place)(error.into()))?;
    let mut file = crate::leftovers::file_in(folder).map_err(io(folder))?;
    // Not forced to disk: a list that is lost makes files the user's, which is the safe side.
    file.write_all(&bytes).map_err(io(place))?;
    file.persist(place).map_err(|error| io(place)(error.error))?;
    Ok(())
}

/// Removes what a publishing that was killed left.
fn remove_old_staging(dir: &Path) -> Result<(), ArtifactError> {
    for entry in std::fs::read_dir(dir).map_err(io(dir))?.filter_map(Result::ok) {
        let ours = entry.file_name().to_string_lossy().starts_with(STAGING);
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            crate::leftovers::remove_tree(&entry.path()).map_err(io(&entry.path()))?;
        }
    }
    Ok(())
}

fn is_executable(meta: &std::fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        std::os::unix::fs::MetadataExt::mode(meta) & 0o100 != 0
    }
    #[cfg(not(unix))]
    {
        let _ = meta;
        false
    }
}

/// The name below `artifacts/` of something that came back from a cell: `work/artifacts/a.xml` is `a.xml`, another file
/// of the tree keeps its path (`work/dist/x.whl` is `dist/x.whl`). What came from `out/` is not published.
#[must_use]
pub fn published_name(received: &str) -> Option<&str> {
    let path = received.strip_prefix("work/")?;
    // The folder of publishing itself is nobody's to fill.
    Some(path.strip_prefix("artifacts/").unwrap_or(path)).filter(|path| !path.starts_with(STAGING))
}

/// Two steps left the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// The path.
    pub path: String,
    /// The step whose file is not published.
    pub earlier: String,
    /// The step whose file is.
    pub later: String,
}

/// Joins what the steps left, in plan order: of one path, the later step's file counts, and both are named where the
/// bytes differ. Gives step and file, sorted by path.
#[must_use]
pub fn merge<'a>(
    steps: impl IntoIterator<Item = (&'a str, &'a [ReceivedFile])>,
) -> (Vec<(&'a str, &'a ReceivedFile)>, Vec<Shadowed>) {
    let mut all: BTreeMap<&str, (&str, &ReceivedFile)> = BTreeMap::new();
    let mut shadowed = Vec::new();
    for (step, files) in steps {
        for file in files {
            if let Some((earlier, other)) = all.insert(&file.path, (step, file))
                && other.sha256 != file.sha256
            {
                let (earlier, later) = (earlier.to_owned(), step.to_owned());
                shadowed.push(Shadowed { path: file.path.clone(), earlier, later });
            }
        }
    }
    (all.into_values().collect(), shadowed)
}

/// Keeps what `ft` makes out of `git status` of this clone: `.firsttry/`, `.venv-parity`, and `artifacts/` where git
/// tracks nothing in it. Changes no file of the project.
///
/// # Errors
/// [`ArtifactError`].
pub fn exclude_from_status(repo: &Repo) -> Result<(), ArtifactError> {
    let place = repo.common_dir.join("info/exclude");
    let pattern = |name: &str| exclude::pattern(&[&repo.prefix(), name.as_bytes()].concat());
    let mut patterns = vec![pattern(&format!("{STATE_DIR}/")), pattern(VENV_LINK)];
    let artifacts = pattern(&format!("{ARTIFACTS_DIR}/"));
    let all = [&patterns[..], std::slice::from_ref(&artifacts)].concat();
    if exclude::has(&repo.common_dir, &all).map_err(io(&place))? {
        return Ok(());
    }
    if tracked_artifacts(repo)?.is_empty() {
        patterns.push(artifacts);
    }
    exclude::add(&repo.common_dir, &patterns).map_err(io(&place))
}

#[cfg(test)]
mod tests;
