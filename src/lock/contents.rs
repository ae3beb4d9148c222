//! What an image gives to Python, measured: so that a job of CI, which runs in the image and can ask no engine which one it
//! is, can be held against the lock. Pure; the measuring is `lib_py/ft_measure.py`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// sha256 of what counts, in hex.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Contents {
    /// The interpreter's executable.
    pub interpreter: String,
    /// Names and bytes of its standard library, without bytecode.
    pub stdlib: String,
    /// The shared libraries that it and its extension modules load, by file name.
    pub libraries: BTreeMap<String, String>,
}

/// How many libraries a message names.
const NAMED: usize = 5;

impl Contents {
    /// Reads what the script printed. `None` where that is something else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Contents> {
        let contents: Contents = serde_json::from_slice(bytes).ok()?;
        contents.is_whole().then_some(contents)
    }

    /// Whether every digest is one.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let digest = |text: &String| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digest(&self.interpreter) && digest(&self.stdlib) && self.libraries.values().all(digest)
    }

    /// One line for each part in which what was measured differs from `self`, what is locked. Empty: it is the same.
    #[must_use]
    pub fn differences(&self, measured: &Contents) -> Vec<String> {
        let mut lines = Vec::new();
        if self.interpreter != measured.interpreter {
            lines.push("the interpreter is another one".to_owned());
        }
        if self.stdlib != measured.stdlib {
            lines.push("the standard library is another one".to_owned());
        }
        let (have, want) = (&measured.libraries, &self.libraries);
        let changed = names(want.iter().filter(|(name, sha)| have.get(*name).is_some_and(|other| other != *sha)));
        let missing = names(want.iter().filter(|(name, _)| !have.contains_key(*name)));
        let further = names(have.iter().filter(|(name, _)| !want.contains_key(*name)));
        for (what, names) in [("changed", changed), ("missing", missing), ("further", further)] {
            if !names.is_empty() {
                let more = names.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                lines.push(format!("{what} shared libraries: {}{more}", names[..names.len().min(NAMED)].join(", ")));
            }
        }
        lines
    }
}

fn names<'a>(entries: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<&'a str> {
    entries.map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents(interpreter: char, libraries: &[(&str, char)]) -> Contents {
        let digest = |c: char| c.to_string().repeat(64);
        Contents {
            interpreter: digest(interpreter),
            stdlib: digest('b'),
            libraries: libraries.iter().map(|(name, c)| ((*name).to_owned(), digest(*c))).collect(),
        }
    }

    #[test]
    fn each_part_that_differs_is_named() {
        let locked = contents('a', &[("libc.so.6", '1'), ("libz.so.1", '2'), ("libssl.so.3", '3')]);
        assert_eq!(locked.differences(&locked.clone()), [] as [&str; 0]);
        let other = contents('f', &[("libc.so.6", '9'), ("libssl.so.3", '3'), ("libffi.so.8", '4')]);
        assert_eq!(
            locked.differences(&other),
            [
                "the interpreter is another one",
                "changed shared libraries: libc.so.6",
                "missing shared libraries: libz.so.1",
                "further shared libraries: libffi.so.8",
            ]
        );
    }

    #[test]
    fn what_is_no_measurement_is_refused() {
        let whole = serde_json::to_vec(&contents('a', &[("libc.so.6", '1')])).unwrap();
        assert!(Contents::parse(&whole).is_some());
        for bad in ["", "{}", "[]", r#"{"interpreter": "a", "stdlib": "b", "libraries": {}}"#] {
            assert_eq!(Contents::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Contents::parse(&bytes);
        }
    }
}
