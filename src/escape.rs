//! Names that hostile code chose, as one line that shows what they are. Compiled into the agent, which escapes what it
//! tells, and used by the host, which trusts no stream.

/// How much is told of a name, a path or a command line, in characters.
pub const LONGEST: usize = 500;

/// Characters that no line may hold: controls, and those that make a terminal show text in another order than it has, or
/// hide where it ends (UAX 9 section 2, UTR 36 section 2.5).
#[must_use]
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The text with what misleads written as `\u{1b}`, so that different names stay different; everything else stays as it
/// is. At most `limit` characters of it; what is cut off ends in `...`.
#[must_use]
pub fn escaped(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for (at, c) in text.chars().enumerate() {
        if at == limit {
            out.push_str("...");
            break;
        }
        if misleads(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_misleads_is_shown_as_it_is_stored() {
        assert_eq!(escaped("evil\u{202e}gro.\n\u{1b}[2J", 40), "evil\\u{202e}gro.\\u{a}\\u{1b}[2J");
        assert_eq!(escaped("test_p[\\x1b\"'é]", 40), "test_p[\\x1b\"'é]");
        assert_eq!((escaped("abcdef", 3), escaped("abc", 3)), ("abc...".to_owned(), "abc".to_owned()));
    }

    proptest! {
        #[test]
        fn an_escaped_name_is_one_line_and_escaping_it_again_changes_nothing(text in "(\\PC|\\pC){0,60}") {
            let once = escaped(&text, 100);
            prop_assert!(!once.chars().any(misleads));
            prop_assert_eq!(escaped(&once, 1000), once);
        }
    }
}
