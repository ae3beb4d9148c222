//! Paths and globs of the lock: relative to the repository, and never out of it. Looks at text alone; what a link on the
//! disk makes of a path is for those who open it.

use camino::Utf8PathBuf;

/// Why a path or glob is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutsideError {
    /// Nothing there.
    #[error("a path that is not empty")]
    Empty,
    /// `/etc/passwd`, `C:\x`
    #[error("a path relative to the repository")]
    Absolute,
    /// `../x`
    #[error("a path inside the repository, without `..`")]
    Parent,
    /// A backslash is a part of a name on Linux and a separator elsewhere.
    #[error("a path with `/` between its parts, without backslashes")]
    Backslash,
    /// NUL, newline and the like.
    #[error("a path without control characters")]
    Control,
}

/// A path as the lock writes it, without `.` and doubled slashes. `.` is the repository itself: an empty path.
///
/// # Errors
/// Where the path is empty, absolute, or leaves the repository.
pub fn inside(text: &str) -> Result<Utf8PathBuf, OutsideError> {
    let drive = |text: &str| text.as_bytes().get(1) == Some(&b':') && text.as_bytes()[0].is_ascii_alphabetic();
    let path: Utf8PathBuf = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if text.is_empty() {
        return Err(OutsideError::Empty);
    }
    if text.starts_with('/') || drive(text) || drive(path.as_str()) {
        return Err(OutsideError::Absolute);
    }
    if text.contains('\\') {
        return Err(OutsideError::Backslash);
    }
    if text.chars().any(char::is_control) {
        return Err(OutsideError::Control);
    }
    if text.split('/').any(|part| part == "..") {
        return Err(OutsideError::Parent);
    }
    Ok(path)
}

/// A glob, checked like a path and for its own grammar.
///
/// # Errors
/// In words, what was expected.
pub fn glob(text: &str) -> Result<String, String> {
    inside(text).map_err(|error| error.to_string().replace("path", "glob"))?;
    match globset::Glob::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("a glob ({})", error.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_stays_inside() {
        assert_eq!(inside("a/b.txt").unwrap(), "a/b.txt");
        assert_eq!(inside("./a//b/.").unwrap(), "a/b");
        assert_eq!(inside(".").unwrap(), "");
        assert_eq!(inside("a/..b/c..").unwrap(), "a/..b/c..");
        assert_eq!(inside(""), Err(OutsideError::Empty));
        assert_eq!(inside("/etc/passwd"), Err(OutsideError::Absolute));
        assert_eq!(inside("C:/x"), Err(OutsideError::Absolute));
        assert_eq!(inside("c:x"), Err(OutsideError::Absolute));
        assert_eq!(inside("a\\..\\b"), Err(OutsideError::Backslash));
        assert_eq!(inside("a/../b"), Err(OutsideError::Parent));
        assert_eq!(inside(".."), Err(OutsideError::Parent));
        assert_eq!(inside("a\0b"), Err(OutsideError::Control));
    }

    #[test]
    fn a_glob_is_checked_for_its_grammar_too() {
        assert_eq!(glob(".venv*").unwrap(), ".venv*");
        assert_eq!(glob("a[").unwrap_err(), "a glob (unclosed character class; missing ']')");
        assert_eq!(glob("../*").unwrap_err(), "a glob inside the repository, without `..`");
    }

    proptest! {
        #[test]
        fn an_accepted_path_has_only_plain_parts(text in "[a./\\\\:C]{0,12}|\\PC{0,12}") {
            if let Ok(path) = inside(&text) {
                prop_assert!(path.is_relative());
                prop_assert!(path.components().all(|part| matches!(part, camino::Utf8Component::Normal(_))));
                prop_assert_eq!(if path == "" { inside(".") } else { inside(path.as_str()) }, Ok(path));
            }
        }
    }
}
