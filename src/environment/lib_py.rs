//! Our Python files: embedded here, written to a directory that cells see read-only at `/ft/lib`.

use super::{PathError, seal};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Where cells see them.
pub const SEEN_AT: &str = "/ft/lib";

/// Name and text of every file.
pub const FILES: &[(&str, &str)] = &[
    ("ft_compile.py", include_str!("../lib_py/ft_compile.py")),
    ("ft_project.py", include_str!("../lib_py/ft_project.py")),
    ("ft_wheel.py", include_str!("../lib_py/ft_wheel.py")),
    ("ft_import.py", include_str!("../lib_py/ft_import.py")),
];

/// Writes the files below `directory`, once per content, and says where. `more` are files of other modules (the pytest
/// plugin). A file whose content is another one is written again.
///
/// # Errors
/// The path that could not be written.
pub fn ready(directory: &Path, more: &[(&str, &str)]) -> Result<PathBuf, PathError> {
    let files: Vec<_> = FILES.iter().chain(more).collect();
    let mut hash = Sha256::new();
    for (name, text) in &files {
        hash.update(format!("{name} {}\n{text}", text.len()));
    }
    let target = directory.join(&hex::encode(hash.finalize())[..16]);
    super::layout::create_dirs(&target)?;
    for (name, text) in files {
        let path = target.join(name);
        if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            seal::write_atomic(&path, text.as_bytes())?;
        }
    }
    Ok(target)
}
