//! How a tone looks.

use crate::report::neutral::neutral;
use crate::report::page::{Line, Page, Tone};
use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};

fn look(tone: Tone) -> Style {
    match tone {
        Tone::Plain | Tone::Quote => Style::new(),
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Warn => AnsiColor::Yellow.on_default(),
        Tone::Dim => Style::new().dimmed(),
        Tone::Strong => Style::new().bold(),
    }
}

/// The line, without its end. Nothing but its own text and colours is in it.
pub(super) fn line(line: &Line, colours: bool) -> String {
    let mut text = String::new();
    for span in &line.spans {
        let style = look(span.tone);
        if colours {
            text += &format!("{style}{}{style:#}", neutral(&span.text, span.tone == Tone::Quote));
        } else {
            text += &strip_str(&span.text).to_string();
        }
    }
    text.trim_end().to_owned()
}

/// All lines, each ended.
pub(super) fn page(page: &Page, colours: bool) -> String {
    page.lines.iter().map(|l| line(l, colours) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_the_words_are_the_same() {
        let mut told = Page::default();
        told.push(Line::new(Tone::Good, "PASS").and(Tone::Plain, " ruff"));
        told.quote("\u{1b}[31mred\u{1b}[0m \u{1b}]52;c;x\u{7}text");
        assert_eq!(page(&told, false), told.plain());
        assert_eq!(strip_str(&page(&told, true)).to_string(), told.plain());
        assert!(page(&told, true).contains("\u{1b}[31mred"));
        assert!(!page(&told, true).contains("]52"));
    }
}
