//! Lines of toned text. What is said is decided here and in [`super::text`]; how a tone looks is decided in the face.

use super::neutral::neutral;

/// What a piece of text is. Nothing depends on it: the words alone say everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Plain text.
    Plain,
    /// Something holds.
    Good,
    /// Something fails.
    Bad,
    /// Something to look at.
    Warn,
    /// Beside the point.
    Dim,
    /// A head line.
    Strong,
    /// A tool's own words; may hold colours of its own.
    Quote,
}

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What it is.
    pub tone: Tone,
    /// Its text, without newlines and control characters.
    pub text: String,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line {
    /// Its pieces.
    pub spans: Vec<Span>,
}

impl Line {
    /// A line of one piece. Control characters are removed; newlines become spaces.
    #[must_use]
    pub fn new(tone: Tone, text: impl AsRef<str>) -> Line {
        Line::default().and(tone, text)
    }

    /// The line with one more piece.
    #[must_use]
    pub fn and(mut self, tone: Tone, text: impl AsRef<str>) -> Line {
        let text = neutral(text.as_ref(), tone == Tone::Quote).replace('\n', " ");
        self.spans.push(Span { tone, text });
        self
    }

    /// Its text alone.
    #[must_use]
    pub fn plain(&self) -> String {
        self.spans.iter().map(|span| neutral(&span.text, false)).collect()
    }
}

/// Lines, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The lines.
    pub lines: Vec<Line>,
}

impl Page {
    /// Adds a line.
    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Adds a plain line.
    pub fn say(&mut self, text: impl AsRef<str>) {
        self.push(Line::new(Tone::Plain, text));
    }

    /// Adds an empty line, unless the page is empty or ends in one.
    pub fn gap(&mut self) {
        if self.lines.last().is_some_and(|line| !line.spans.is_empty()) {
            self.lines.push(Line::default());
        }
    }

    /// A text of several lines: the first behind `head`, the others indented below it.
    pub fn block(&mut self, head: Line, tone: Tone, text: &str) {
        let indent = " ".repeat(head.plain().chars().count());
        let mut lines = text.lines();
        self.push(head.and(tone, lines.next().unwrap_or_default()));
        for line in lines {
            self.push(Line::new(Tone::Plain, &indent).and(tone, line));
        }
    }

    /// A tool's output, indented by two.
    pub fn quote(&mut self, text: &str) {
        // Before it is cut into lines: a carriage return, or a colour, can span them.
        for line in neutral(text, true).lines() {
            self.push(Line::new(Tone::Plain, "  ").and(Tone::Quote, line));
        }
    }

    /// The text alone, every line ended.
    #[must_use]
    pub fn plain(&self) -> String {
        self.lines.iter().map(|line| line.plain().trim_end().to_owned() + "\n").collect()
    }
}

/// `0.1 s`, `12.3 s`, `2 min 5 s`; below a tenth of a second `12 ms`.
#[must_use]
pub fn duration(ms: u64) -> String {
    match ms {
        0..100 => format!("{ms} ms"),
        100..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// `12 B`, `3.4 KiB`, `120 MiB`.
#[must_use]
pub fn bytes(n: u64) -> String {
    let (unit, name) = match n {
        0..1024 => return format!("{n} B"),
        1024..0x10_0000 => (1024.0, "KiB"),
        0x10_0000..0x4000_0000 => (1_048_576.0, "MiB"),
        _ => (1_073_741_824.0, "GiB"),
    };
    let value = n as f64 / unit;
    if value < 10.0 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
}

/// `1 test`, `2 tests`.
#[must_use]
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_short() {
        assert_eq!(duration(7), "7 ms");
        assert_eq!(duration(120), "0.1 s");
        assert_eq!(duration(12_390), "12.3 s");
        assert_eq!(duration(125_000), "2 min 5 s");
        assert_eq!(bytes(3500), "3.4 KiB");
        assert_eq!(bytes(125_829_120), "120 MiB");
    }

    #[test]
    fn a_message_cannot_break_out_of_its_line() {
        let mut page = Page::default();
        page.push(Line::new(Tone::Plain, "a\u{1b}[2J\nb"));
        page.quote("x\ry\u{1b}[31m\nz");
        assert_eq!(page.plain(), "a b\n  y\n  z\n");
    }
}
