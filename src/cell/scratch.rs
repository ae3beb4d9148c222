//! Removing what a step left, however it left it.

use std::io;
use std::path::Path;

/// Removes a scratch directory with everything in it, see [`crate::leftovers`].
///
/// # Errors
/// Where something can't be removed; what could be, is. A directory that is not there is no error.
pub fn remove_scratch(path: &Path) -> io::Result<()> {
    crate::leftovers::remove_tree(path)
}
