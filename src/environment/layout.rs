//! What an environment has beside its wheels: interpreter links, `pyvenv.cfg`, activation, the `.pth` that adds the
//! project layer; and how scripts are written so that they work wherever the environment stands.
//!
//! Modes are set after creation, so that the umask of the caller does not decide whether a cell, whose user is another
//! one, can read the environment.

use super::PathError;
use super::dists::EntryPoint;
use super::interpreter::Interpreter;
use super::seal::Kind;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Changes whenever this module or [`super::wheel`] would write other bytes for the same closure.
pub const VERSION: u32 = 1;

/// Adds the project layer and our own modules, where they are: in a cell. On the host it adds nothing. `FT_ROOT` names
/// another root than `/ft` in cells that have no mount namespace.
pub const PTH: &str = "import os, site, sys; r = os.environ.get('FT_ROOT', '/ft'); \
    os.path.isdir(r + '/project/site') and site.addsitedir(r + '/project/site'); \
    os.path.isdir(r + '/lib') and sys.path.append(r + '/lib')\n";

/// The name of that file. It sorts before most others, so that the project's paths come first among those of `.pth` files.
pub const PTH_NAME: &str = "_ft.pth";

const ACTIVATE: &str = include_str!("../lib_py/activate.sh");
const ACTIVATE_FISH: &str = include_str!("../lib_py/activate.fish");

/// A script starts with this so that it runs the interpreter beside it: a shell reads the second line as a command,
/// Python reads lines two and three as a string. The same form that uv and pip's vendored distlib write.
const HEAD: &str = "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python' \"$0\" \"$@\"\n' '''\n";

/// What a script of an image's environment starts with, which stands at one place only: an image may have no shell. As
/// many lines as the other.
const HEAD_IN_IMAGE: &str = "#!/ft/env/bin/python\n\n\n";

fn head(interpreter: &Interpreter) -> &'static str {
    if interpreter.image.is_some() { HEAD_IN_IMAGE } else { HEAD }
}

/// The text of a console script. `None` where the entry point does not name a function in a module.
#[must_use]
pub fn launcher(entry: &EntryPoint, interpreter: &Interpreter) -> Option<String> {
    let (module, object) = entry.value.split_once(':')?;
    let dotted = |text: &str| {
        text.split('.').all(|part| {
            !part.is_empty()
                && part.chars().all(|c| c == '_' || c.is_alphanumeric())
                && !part.starts_with(|c: char| c.is_numeric())
        })
    };
    let (module, object) = (module.trim(), object.trim());
    if !dotted(module) || !dotted(object) {
        return None;
    }
    let (head, first) = (head(interpreter), object.split('.').next().unwrap_or(object));
    Some(format!(
        "{head}import sys\nfrom {module} import {first}\nif __name__ == '__main__':\n    sys.exit({object}())\n"
    ))
}

/// Scripts of a wheel's `.data` say `#!python`; they get the head of all others instead. Others stay as they are.
#[must_use]
pub fn rewrite_shebang(bytes: Vec<u8>, interpreter: &Interpreter) -> Vec<u8> {
    let Some(rest) = bytes.strip_prefix(b"#!python") else { return bytes };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return bytes };
    let mut out = head(interpreter).as_bytes().to_vec();
    out.extend_from_slice(&rest[end + 1..]);
    out
}

/// Writes everything but the wheels' files into an empty directory and says what it wrote.
///
/// # Errors
/// The path that could not be written.
pub fn skeleton(root: &Path, interpreter: &Interpreter, key: &str) -> Result<BTreeMap<String, Kind>, PathError> {
    let mut entries = BTreeMap::new();
    let mut made = BTreeSet::new();
    let minor = interpreter.minor();
    let home = interpreter.executable.parent().unwrap_or(Path::new("/"));
    let config = format!(
        "home = {}\nimplementation = {}\nversion_info = {}\ninclude-system-site-packages = false\nrelocatable = true\n\
         ft-key = {key}\n",
        home.display(),
        interpreter.facts.markers.get("platform_python_implementation").map_or("CPython", String::as_str),
        interpreter.facts.version,
    );
    let pth = format!("{}/{PTH_NAME}", interpreter.facts.purelib);
    for (path, text) in [
        ("pyvenv.cfg", config.as_str()),
        (pth.as_str(), PTH),
        ("bin/activate", ACTIVATE),
        ("bin/activate.fish", ACTIVATE_FISH),
    ] {
        create_parents(root, path, &mut made)?;
        create_file(&root.join(path), 0o644, text.as_bytes())?;
        let sha256 = Sha256::digest(text.as_bytes()).into();
        entries.insert(path.to_owned(), Kind::File { mode: 0o644, size: text.len() as u64, sha256 });
    }
    let executable = interpreter.executable.to_string_lossy().into_owned();
    let named = format!("bin/python{minor}");
    let mut links = vec![("bin/python", executable.as_str()), ("bin/python3", "python"), (named.as_str(), "python")];
    if interpreter.facts.platlib.starts_with("lib64/") && interpreter.facts.purelib.starts_with("lib/") {
        links.push(("lib64", "lib"));
    }
    for (path, target) in links {
        std::os::unix::fs::symlink(target, root.join(path)).map_err(PathError::at(root.join(path)))?;
        entries.insert(path.to_owned(), Kind::Link { target: target.to_owned() });
    }
    entries.extend(made.into_iter().map(|path| (path, Kind::Dir { mode: 0o755 })));
    Ok(entries)
}

/// Makes the directories above a relative path, each once, and notes them in `made`.
pub(crate) fn create_parents(root: &Path, path: &str, made: &mut BTreeSet<String>) -> Result<(), PathError> {
    for (at, _) in path.match_indices('/') {
        if !made.contains(&path[..at]) {
            create_dir(&root.join(&path[..at]))?;
            made.insert(path[..at].to_owned());
        }
    }
    Ok(())
}

/// Makes a directory, readable for everyone, or leaves the one that is there.
pub(crate) fn create_dir(path: &Path) -> Result<(), PathError> {
    match std::fs::create_dir(path) {
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(0o755)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(PathError::at(path))
}

/// Makes a new file with this mode and content. One that is there is an error: two files of a wheel at one place.
pub(crate) fn create_file(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), PathError> {
    let write = || {
        let mut file = std::fs::File::create_new(path)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(mode))
    };
    write().map_err(PathError::at(path))
}

/// Makes a directory and those above it; the ones it makes are readable for everyone.
pub(crate) fn create_dirs(path: &Path) -> Result<(), PathError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dirs(parent)?;
    }
    create_dir(path)
}
