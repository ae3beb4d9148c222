//! The Python files that go into every cell at `/ft/lib`: a pytest plugin, two wrappers, and what builds and installs the
//! project under test. Only carries them; what they write is read by [`crate::results`] and [`crate::environment`].

use sha2::{Digest, Sha256};

/// Name and text of each file, sorted by name.
pub const FILES: &[(&str, &str)] = &[
    ("ft_bandit.py", include_str!("lib_py/ft_bandit.py")),
    ("ft_compile.py", include_str!("lib_py/ft_compile.py")),
    ("ft_coverage.py", include_str!("lib_py/ft_coverage.py")),
    ("ft_import.py", include_str!("lib_py/ft_import.py")),
    ("ft_project.py", include_str!("lib_py/ft_project.py")),
    ("ft_pytest.py", include_str!("lib_py/ft_pytest.py")),
    ("ft_wheel.py", include_str!("lib_py/ft_wheel.py")),
];

/// What measures the content of an image. Runs outside of steps, so it is no file of `/ft/lib`.
pub const MEASURE: &str = include_str!("lib_py/ft_measure.py");

/// sha256 over names and texts, in hex: part of every cache key that the plugin's output goes into.
#[must_use]
pub fn digest() -> String {
    let mut hash = Sha256::new();
    for (name, text) in FILES {
        for part in [name, text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_sorted_and_hold_only_ascii() {
        assert!(FILES.is_sorted_by_key(|(name, _)| *name));
        for (name, text) in FILES {
            assert!(text.is_ascii(), "{name}");
        }
        assert_eq!(digest().len(), 64);
    }
}
