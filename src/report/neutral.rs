//! Text of tools made harmless for a terminal. Raw bytes stay in the logs; this is for what is shown.
//!
//! A test can print anything: a sequence that writes the clipboard (OSC 52), moves the cursor over an earlier line, or
//! hides what follows. Only colours survive, and only where the caller wants them.

use crate::escape::misleads;
use std::borrow::Cow;

const ESC: char = '\u{1b}';

/// The text without escape sequences and control characters but newline and tab. With `colours`, SGR sequences (but
/// for "conceal") stay, and a reset is added at the end where one of them stayed. A line that was overwritten after a
/// carriage return shows its last state, as a terminal would.
#[must_use]
pub fn neutral(text: &str, colours: bool) -> Cow<'_, str> {
    if !text.chars().any(|c| c != '\n' && c != '\t' && misleads(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut line_start = 0;
    let mut overwrite = false;
    let mut coloured = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = after;
        match c {
            '\n' => {
                out.push('\n');
                line_start = out.len();
                overwrite = false;
            }
            '\r' => overwrite = true,
            ESC => {
                let (length, sgr) = escape(after);
                let (sequence, tail) = after.split_at(length);
                if sgr && colours {
                    out.push(ESC);
                    out.push_str(sequence);
                    coloured = true;
                }
                rest = tail;
            }
            '\t' => out.push('\t'),
            c if misleads(c) => {}
            c => {
                if std::mem::take(&mut overwrite) {
                    out.truncate(line_start);
                }
                out.push(c);
            }
        }
    }
    if coloured {
        out.push_str("\u{1b}[0m");
    }
    Cow::Owned(out)
}

/// One line for messages that quote names from a tree: [`neutral`] without colours, newlines as spaces.
#[must_use]
pub fn one_line(text: &str) -> String {
    neutral(text, false).replace('\n', " ")
}

/// How many bytes after an ESC belong to its sequence, and whether it is a colour.
fn escape(after: &str) -> (usize, bool) {
    let bytes = after.as_bytes();
    match bytes.first() {
        Some(b'[') => {
            let length = bytes[1..].iter().take_while(|b| (0x20..=0x3f).contains(*b)).count();
            match bytes.get(1 + length) {
                Some(b'm') => (length + 2, plain_colour(&after[1..=length])),
                Some(0x40..=0x7e) => (length + 2, false),
                _ => (length + 1, false),
            }
        }
        // OSC, DCS, SOS, PM and APC carry a string up to BEL or ST. One that does not end on its line is not followed:
        // without its introducer the rest is plain text.
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let line = after.split('\n').next().unwrap_or_default();
            let end = line.find('\u{7}').map(|at| at + 1);
            let st = line.find("\u{1b}\\").map(|at| at + 2);
            (end.into_iter().chain(st).min().unwrap_or(1), false)
        }
        Some(_) => {
            let length = bytes.iter().take_while(|b| (0x20..=0x2f).contains(*b)).count();
            (length + usize::from(matches!(bytes.get(length), Some(0x30..=0x7e))), false)
        }
        None => (0, false),
    }
}

/// Whether these SGR parameters only colour or weigh text. 8 conceals; after 38, 48 and 58 come colour numbers.
fn plain_colour(parameters: &str) -> bool {
    if !parameters.bytes().all(|b| b.is_ascii_digit() || b == b';' || b == b':') {
        return false;
    }
    let mut numbers = parameters.split(';');
    while let Some(number) = numbers.next() {
        match number {
            "8" => return false,
            "38" | "48" | "58" => {
                let skip = if numbers.next() == Some("2") { 3 } else { 1 };
                numbers.by_ref().take(skip).for_each(drop);
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_stay_where_they_are_wanted_and_are_closed() {
        assert_eq!(neutral("\u{1b}[31mred", true), "\u{1b}[31mred\u{1b}[0m");
        assert_eq!(neutral("\u{1b}[38;5;8mgrey", true), "\u{1b}[38;5;8mgrey\u{1b}[0m");
        assert_eq!(neutral("\u{1b}[31mred\u{1b}[0m", false), "red");
    }

    #[test]
    fn what_writes_the_clipboard_moves_the_cursor_or_hides_text_is_removed() {
        assert_eq!(neutral("a\u{1b}]52;c;ZXZpbA==\u{7}b", true), "ab");
        assert_eq!(neutral("a\u{1b}]0;title\u{1b}\\b", true), "ab");
        assert_eq!(neutral("a\u{1b}[2J\u{1b}[1;1Hb\u{1b}[1Ac", true), "abc");
        assert_eq!(neutral("a\u{1b}[8mb", true), "ab");
        assert_eq!(neutral("a\u{1b}cb\u{9b}31mc\u{8}\u{7f}", true), "ab31mc");
        assert_eq!(neutral("a\u{1b}]never ends\nb", true), "anever ends\nb");
    }

    #[test]
    fn what_makes_text_run_backwards_or_hides_it_is_removed() {
        assert_eq!(neutral("a\u{202e}b\u{2066}c\u{200b}d", true), "abcd");
    }

    #[test]
    fn an_overwritten_line_shows_its_last_state() {
        assert_eq!(neutral("10 %\r50 %\r100 %\r\nnext\r\n", false), "100 %\nnext\n");
    }

    proptest! {
        #[test]
        fn nothing_but_colours_survives(text in "(\\PC|\u{1b}|\\[|[0-9;]|m|H|\\]|\u{7}|\r|\n|\u{9b}){0,60}") {
            let plain = neutral(&text, false);
            prop_assert!(plain.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()), "{plain:?}");
            let coloured = neutral(&text, true);
            for piece in coloured.split(ESC).skip(1) {
                let end = piece.find('m');
                prop_assert!(piece.starts_with('['), "{coloured:?}");
                prop_assert!(end.is_some_and(|at| plain_colour(&piece[1..at])), "{coloured:?}");
            }
            prop_assert!(coloured.chars().all(|c| matches!(c, '\n' | '\t' | ESC) || !c.is_control()));
        }

        #[test]
        fn neutral_text_is_left_as_it_is(text in "(\\PC|\n|\t){0,60}") {
            let text: String = text.chars().filter(|c| *c == '\n' || *c == '\t' || !misleads(*c)).collect();
            prop_assert_eq!(neutral(&text, false).into_owned(), text);
        }
    }
}
