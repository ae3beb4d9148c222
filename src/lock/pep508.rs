//! Requirements as PEP 508 writes them. A guard before `pep508_rs`, which panics on a name or extra that ends with a
//! separator (`a.>=1`, `a[b-]`; seen with 0.9.2).

use pep508_rs::Requirement;
use std::str::FromStr;
use url::Url;

/// Reads one requirement: `name[extra]>=1 ; marker`, or `name @ url`.
///
/// # Errors
/// In words, what is wrong with it.
pub fn requirement(text: &str) -> Result<Requirement<Url>, String> {
    let text = text.trim();
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let whole = |name: &str| name.ends_with(|c: char| c.is_ascii_alphanumeric());
    let (name, rest) = text.split_at(text.find(|c| !part(c)).unwrap_or(text.len()));
    if !whole(name) {
        return Err(format!("expected the name of a distribution, found {name:?}"));
    }
    if let Some(extras) = rest.trim_start().strip_prefix('[') {
        let extras = extras.split(']').next().unwrap_or_default();
        let mut words = extras.split(|c| !part(c)).filter(|word| !word.is_empty());
        if let Some(extra) = words.find(|word| !whole(word)) {
            return Err(format!("expected the name of an extra, found {extra:?}"));
        }
    }
    Requirement::from_str(text).map_err(|error| error.message.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_or_extra_that_ends_with_a_separator_is_refused() {
        assert!(requirement("a.>=1").is_err());
        assert!(requirement("a[b-]").is_err());
        assert!(requirement("a[b.").is_err());
        assert_eq!(requirement("A_b[c, d] >= 1").unwrap().name.to_string(), "a-b");
        assert!(requirement("a[]").is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,40}|[a-b.\\-_\\[\\], =<>;@'\"()]{0,30}") {
            let _ = requirement(&text);
        }
    }
}
