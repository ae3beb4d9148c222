//! Our Python files ([`crate::lib_py`]) in a directory of the host that cells see read-only at `/ft/lib`.

use super::{PathError, layout, seal};
use crate::lib_py;
use std::path::{Path, PathBuf};

/// Where cells see them.
pub const SEEN_AT: &str = "/ft/lib";

/// Writes the files below `directory`, once per content, and says where. A file whose content is another one is written
/// again: cells of this run must not execute what somebody edited.
///
/// # Errors
/// The path that could not be written.
pub fn ready(directory: &Path) -> Result<PathBuf, PathError> {
    let target = directory.join(&lib_py::digest()[..16]);
    layout::create_dirs(&target)?;
    for (name, text) in lib_py::FILES {
        let path = target.join(name);
        if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            seal::write_atomic(&path, text.as_bytes())?;
        }
    }
    Ok(target)
}
