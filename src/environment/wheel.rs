//! One wheel, unpacked to where its files will stand in an environment, following the binary distribution format
//! (PEP 427 and its successor on packaging.python.org).
//!
//! An unpacked wheel is a directory with `tree/`, laid out as an environment is, and `manifest`, a seal of that tree.
//! It is made once per wheel and interpreter; building an environment copies from it and compares every file with the
//! manifest on the way.
//!
//! Executes nothing of the wheel and trusts no path in it. The wheel's own `RECORD` is not consulted: the archive as a
//! whole was compared with the lock, which says more, and some published wheels carry a wrong one.

use super::dists::{Dist, EntryPoint, Metadata, parse_entry_points, parse_metadata};
use super::interpreter::Interpreter;
use super::layout;
use super::seal::{Kind, Seal, look, sealable};
use super::{PathError, layout::create_file};
use crate::lock::normalise;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where the files stand, in an unpacked wheel.
pub const TREE: &str = "tree";
/// The seal of the tree, in an unpacked wheel. Written last.
pub const MANIFEST: &str = "manifest";

/// Why a wheel can't be installed.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// Not an archive, or not one with a wheel's metadata.
    #[error("{wheel}: not a wheel: {why}")]
    Malformed {
        /// Its file name.
        wheel: String,
        /// What is wrong.
        why: String,
    },
    /// A path that leads out of the environment, or can't be sealed.
    #[error("{wheel}: refused path {path:?}")]
    Path {
        /// Its file name.
        wheel: String,
        /// As it stands in the archive.
        path: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Io(#[from] PathError),
}

/// Unpacks a wheel below `item/tree`. Writes no manifest: the bytecode is not there yet.
///
/// # Errors
/// [`WheelError`].
pub fn unpack(wheel: &Path, interpreter: &Interpreter, item: &Path) -> Result<(), WheelError> {
    let file_name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let malformed = |why: String| WheelError::Malformed { wheel: file_name.clone(), why };
    let file = std::fs::File::open(wheel).map_err(PathError::at(wheel))?;
    let mut archive =
        zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|error| malformed(error.to_string()))?;
    let tree = item.join(TREE);
    layout::create_dir(&tree)?;
    let mut made = BTreeSet::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| malformed(error.to_string()))?;
        if entry.is_dir() {
            continue;
        }
        let name = entry.name().map_err(|error| malformed(error.to_string()))?.into_owned();
        let refused = || WheelError::Path { wheel: file_name.clone(), path: name.clone() };
        let place = place(&name, interpreter).ok_or_else(refused)?;
        if entry.is_symlink() {
            return Err(refused());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(entry.size()).unwrap_or(0).min(1 << 28));
        entry.read_to_end(&mut bytes).map_err(|error| malformed(format!("{name}: {error}")))?;
        let executable = place.script || entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        if place.script {
            bytes = layout::rewrite_shebang(bytes, interpreter);
        }
        let target = tree.join(&place.path);
        layout::create_parents(&tree, &place.path, &mut made)?;
        create_file(&target, if executable { 0o755 } else { 0o644 }, &bytes)?;
    }
    let described = describe(&tree, interpreter).map_err(malformed)?;
    for script in described.entry_points.iter().filter(|e| e.group == "console_scripts" || e.group == "gui_scripts") {
        let path = format!("bin/{}", script.name);
        let launcher =
            safe(&script.name).filter(|name| !name.contains('/')).and_then(|_| layout::launcher(script, interpreter));
        let launcher = launcher.ok_or_else(|| WheelError::Path { wheel: file_name.clone(), path: path.clone() })?;
        layout::create_parents(&tree, &path, &mut made)?;
        let target = tree.join(&path);
        // A wheel may ship a script of the same name in its `.data`; installers let the entry point win.
        if target.exists() {
            std::fs::remove_file(&target).map_err(PathError::at(&target))?;
        }
        create_file(&target, 0o755, launcher.as_bytes())?;
    }
    Ok(())
}

/// Where an archive's file stands in an environment.
struct Place {
    path: String,
    script: bool,
}

/// Maps a path of the archive to one of the environment. `None` where it must be refused.
fn place(name: &str, interpreter: &Interpreter) -> Option<Place> {
    let name = safe(name)?;
    let purelib = &interpreter.facts.purelib;
    let plain = |path: String| Some(Place { path, script: false });
    let (first, rest) = name.split_once('/').unwrap_or((name, ""));
    let Some(dist) = first.strip_suffix(".data") else { return plain(format!("{purelib}/{name}")) };
    let (scheme, rest) = rest.split_once('/')?;
    match scheme {
        "purelib" | "platlib" => plain(format!("{purelib}/{rest}")),
        "scripts" => Some(Place { path: format!("bin/{rest}"), script: true }),
        "data" => plain(rest.to_owned()),
        "headers" => {
            let dist = dist.split('-').next().unwrap_or(dist);
            plain(format!("include/site/python{}/{dist}/{rest}", interpreter.minor()))
        }
        _ => None,
    }
}

/// A relative path that stays below where it is joined to, and can stand in a seal.
fn safe(path: &str) -> Option<&str> {
    let fine = sealable(path)
        && !path.contains('\\')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    fine.then_some(path)
}

/// What a wheel's metadata says about it.
struct Described {
    metadata: Metadata,
    dist_info: String,
    entry_points: Vec<EntryPoint>,
}

fn describe(tree: &Path, interpreter: &Interpreter) -> Result<Described, String> {
    let site = tree.join(&interpreter.facts.purelib);
    let mut dist_infos: Vec<String> = std::fs::read_dir(&site)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".dist-info"))
        .collect();
    let (Some(dist_info), None) = (dist_infos.pop(), dist_infos.pop()) else {
        return Err("it needs exactly one *.dist-info".to_owned());
    };
    let read = |file: &str| std::fs::read(site.join(&dist_info).join(file));
    let metadata = read("METADATA").map_err(|error| format!("{dist_info}/METADATA: {error}"))?;
    let metadata = parse_metadata(&String::from_utf8_lossy(&metadata));
    let clean = |text: &str| sealable(text) && !text.contains(' ');
    if !clean(&metadata.name) || !clean(&metadata.version) {
        return Err(format!("{dist_info}/METADATA: no name or no version"));
    }
    let entry_points = read("entry_points.txt").unwrap_or_default();
    let entry_points = parse_entry_points(&String::from_utf8_lossy(&entry_points));
    if !entry_points.iter().all(|e| sealable(&e.group) && sealable(&e.name) && sealable(&e.value)) {
        return Err(format!("{dist_info}/entry_points.txt: an entry without group, name or value"));
    }
    Ok(Described { metadata, dist_info, entry_points })
}

/// Puts the bytecode that a cell compiled beside the modules, writes `INSTALLER` and `RECORD`, and seals the item.
///
/// Of `compiled` only what has a module is taken: the cell is not trusted to name files.
///
/// # Errors
/// [`WheelError`].
pub fn finish(item: &Path, compiled: &Path, interpreter: &Interpreter, wheel_sha256: &str) -> Result<(), WheelError> {
    let tree = item.join(TREE);
    let malformed = |why| WheelError::Malformed { wheel: item.display().to_string(), why };
    let purelib = &interpreter.facts.purelib;
    let described = describe(&tree, interpreter).map_err(malformed)?;
    let mut entries = survey(&tree)?;
    let mut made: BTreeSet<String> = BTreeSet::new();
    let modules: Vec<String> =
        entries.keys().filter(|p| p.starts_with(purelib.as_str()) && p.ends_with(".py")).cloned().collect();
    for module in modules {
        let cached = bytecode_path(&module, &interpreter.facts.cache_tag);
        let from = compiled.join(&cached);
        if std::fs::symlink_metadata(&from).is_ok_and(|meta| meta.is_file()) {
            let bytes = std::fs::read(&from).map_err(PathError::at(&from))?;
            let target = tree.join(&cached);
            if target.exists() {
                std::fs::remove_file(&target).map_err(PathError::at(&target))?;
            }
            layout::create_parents(&tree, &cached, &mut made)?;
            create_file(&target, 0o644, &bytes)?;
        }
    }
    let info = format!("{purelib}/{}", described.dist_info);
    for (name, bytes) in
        [("INSTALLER", Some(&b"ft\n"[..])), ("RECORD", None), ("direct_url.json", None), ("REQUESTED", None)]
    {
        let path = tree.join(&info).join(name);
        std::fs::remove_file(&path).or_else(ignore_missing).map_err(PathError::at(&path))?;
        if let Some(bytes) = bytes {
            create_file(&path, 0o644, bytes)?;
        }
    }
    entries = survey(&tree)?;
    let record = format!("{info}/RECORD");
    let text = record_text(&entries, purelib, &record);
    create_file(&tree.join(&record), 0o644, text.as_bytes())?;
    entries.insert(record.clone(), look(&tree.join(&record)).map_err(PathError::at(tree.join(&record)))?);
    let dist = Dist {
        name: normalise(&described.metadata.name),
        version: described.metadata.version,
        wheel: wheel_sha256.to_owned(),
        imports: import_names(entries.keys(), purelib),
        entry_points: described.entry_points,
    };
    let seal = Seal { key: item_name(wheel_sha256, interpreter), dists: vec![dist], entries };
    create_file(&item.join(MANIFEST), 0o644, seal.encode().as_bytes())?;
    Ok(())
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The name of an unpacked wheel in the store: the wheel, and all of the interpreter that its files depend on.
#[must_use]
pub fn item_name(wheel_sha256: &str, interpreter: &Interpreter) -> String {
    use sha2::{Digest, Sha256};
    let f = &interpreter.facts;
    let place = if interpreter.image.is_some() { "in an image\n" } else { "" };
    let all = format!("{}\n{}\n{}\n{}\n{place}", layout::VERSION, interpreter.sha256, f.version, f.purelib);
    format!("{wheel_sha256}-{}-{}", f.cache_tag, &hex::encode(Sha256::digest(all))[..12])
}

/// Reads an unpacked wheel's manifest. `None` where there is none that belongs to this name: it must be made anew.
#[must_use]
pub fn manifest(item: &Path) -> Option<Seal> {
    let seal = Seal::decode(&std::fs::read_to_string(item.join(MANIFEST)).ok()?).ok()?;
    (seal.key == item.file_name()?.to_str()? && seal.dists.len() == 1).then_some(seal)
}

/// The path of a module's bytecode (PEP 3147).
fn bytecode_path(module: &str, cache_tag: &str) -> String {
    let (directory, name) = module.rsplit_once('/').unwrap_or(("", module));
    let stem = name.strip_suffix(".py").unwrap_or(name);
    format!("{directory}/__pycache__/{stem}.{cache_tag}.pyc")
}

/// Everything in a tree, hashed.
pub(crate) fn survey(tree: &Path) -> Result<BTreeMap<String, Kind>, PathError> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(directory) = todo.pop() {
        let full = tree.join(&directory);
        for entry in std::fs::read_dir(&full).map_err(PathError::at(&full))? {
            let entry = entry.map_err(PathError::at(&full))?;
            let path = directory.join(entry.file_name());
            let kind = look(&entry.path()).map_err(PathError::at(entry.path()))?;
            if let Kind::Dir { .. } = kind {
                todo.push(path.clone());
            }
            let text = path.to_str().expect("the tree was made from text").to_owned();
            found.insert(text, kind);
        }
    }
    Ok(found)
}

/// `RECORD` as installers write it: relative to site-packages, sorted, bytecode without hash.
fn record_text(entries: &BTreeMap<String, Kind>, purelib: &str, record: &str) -> String {
    let up = "../".repeat(purelib.split('/').count());
    let mut out = String::new();
    for (path, kind) in entries {
        let Kind::File { size, sha256, .. } = kind else { continue };
        let shown = path.strip_prefix(purelib).map_or_else(|| format!("{up}{path}"), |rest| rest[1..].to_owned());
        let shown = if shown.contains([',', '"']) { format!("\"{}\"", shown.replace('"', "\"\"")) } else { shown };
        if path.ends_with(".pyc") {
            writeln!(out, "{shown},,")
        } else {
            writeln!(out, "{shown},sha256={},{size}", base64_url(sha256))
        }
        .expect("writing to a String");
    }
    let shown = record.strip_prefix(purelib).map_or(record, |rest| &rest[1..]);
    out + shown + ",,\n"
}

/// RFC 4648 section 5 without padding, as `RECORD` wants it.
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * at)) as usize & 63]));
        }
    }
    out
}

/// The top-level names that these files make importable, sorted.
fn import_names<'a>(paths: impl Iterator<Item = &'a String>, purelib: &str) -> Vec<String> {
    let mut names = BTreeSet::new();
    for path in paths {
        let Some(rest) = path.strip_prefix(purelib).and_then(|rest| rest.strip_prefix('/')) else { continue };
        let (first, below) = rest.split_once('/').unwrap_or((rest, ""));
        let code = |name: &str| name.ends_with(".py") || name.ends_with(".so");
        let name = match below {
            "" if code(first) => first.split('.').next().unwrap_or_default(),
            "" => continue,
            below if code(below) => first,
            _ => continue,
        };
        let identifier = name.chars().all(|c| c == '_' || c.is_alphanumeric()) && !name.starts_with(char::is_numeric);
        if identifier && !name.is_empty() {
            names.insert(name.to_owned());
        }
    }
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_environment_are_refused() {
        for path in ["../x", "/etc/passwd", "a/../../b", "a//b", "a/./b", "a\\b", "a\nb", ""] {
            assert_eq!(safe(path), None, "{path:?}");
        }
        assert_eq!(safe("a/b.py"), Some("a/b.py"));
    }

    #[test]
    fn base64_is_url_safe_and_unpadded() {
        assert_eq!(base64_url(b""), "");
        assert_eq!(base64_url(b"f"), "Zg");
        assert_eq!(base64_url(b"fo"), "Zm8");
        assert_eq!(base64_url(&[0xfb, 0xff, 0xfe]), "-__-");
    }

    #[test]
    fn import_names_are_packages_and_modules_and_not_metadata() {
        let paths =
            ["l/a/__init__.py", "l/b.py", "l/c.cpython-311-x86_64-linux-gnu.so", "l/d-1.dist-info/METADATA", "l/x.pth"]
                .map(str::to_owned);
        assert_eq!(import_names(paths.iter(), "l"), ["a", "b", "c"]);
    }

    fn wheel_with(path: &str) -> Result<(), WheelError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x-1-py3-none-any.whl");
        let mut archive = zip::ZipWriter::new(std::fs::File::create(&file).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        for name in [path, "x-1.dist-info/METADATA"] {
            archive.start_file(name, options).unwrap();
            std::io::Write::write_all(&mut archive, b"Name: x\nVersion: 1\n").unwrap();
        }
        archive.finish().unwrap();
        let item = directory.path().join("item");
        std::fs::create_dir(&item).unwrap();
        unpack(&file, &crate::environment::tests::interpreter(), &item)
    }

    #[test]
    fn an_archive_that_writes_outside_or_has_no_metadata_is_refused() {
        for path in ["../x.py", "/x.py", "a/../../x.py", "x-1.data/unknown/x", "a\\b.py"] {
            assert!(matches!(wheel_with(path), Err(WheelError::Path { .. })), "{path}");
        }
        assert!(matches!(wheel_with("y-1.dist-info/METADATA"), Err(WheelError::Malformed { .. })));
        wheel_with("x/__init__.py").unwrap();
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_path_looks_like_it_stays_in_the_environment(path in "[a./\\\\\u{0}-\u{1f}]{0,12}") {
            if let Some(path) = safe(&path) {
                let parts = Path::new(path).components();
                proptest::prop_assert!(parts.into_iter().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
