//! What a person sees. The only place that prints, and the only one that knows indicatif. It decides nothing: a write
//! that fails (a closed pipe) changes neither the run nor its exit code.
//!
//! Progress goes to standard error, results to standard output.

mod face;
mod live;
mod paint;
mod patient;
mod transfers;

pub use face::Face;
pub use transfers::Transfers;

use crate::finding::Finding;
use crate::report::page::{Line, Page, Tone};
use crate::report::text;
use std::io::{IsTerminal, Write};

/// How to speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Style {
    /// Standard error is a terminal that can move its cursor: live lines.
    pub terminal: bool,
    /// Standard output is a terminal: what was shown live there is not said twice.
    pub results_on_terminal: bool,
    /// Both go to the same place (a CI log, a hook): what was said as progress is not said again as a result.
    pub one_stream: bool,
    /// Colours on standard error.
    pub colour: bool,
    /// Colours on standard output.
    pub results_colour: bool,
    /// Findings and verdict only.
    pub quiet: bool,
    /// Command lines, versions, walls, resources.
    pub explain: bool,
    /// GitHub Actions reads along: groups and annotations.
    pub github: bool,
    /// Standard output carries JSON: the summary goes to standard error.
    pub json: bool,
}

/// How to speak to whoever listens to this process.
#[must_use]
pub fn style(quiet: bool, explain: bool, github: bool) -> Style {
    let colour = |choice: anstream::ColorChoice| choice != anstream::ColorChoice::Never;
    Style {
        terminal: std::io::stderr().is_terminal() && !indicatif::ProgressDrawTarget::stderr().is_hidden(),
        results_on_terminal: std::io::stdout().is_terminal(),
        one_stream: one_stream(),
        colour: colour(anstream::AutoStream::choice(&std::io::stderr())),
        results_colour: colour(anstream::AutoStream::choice(&std::io::stdout())),
        quiet,
        explain,
        github,
        json: false,
    }
}

/// Whether standard output and standard error are the same file, pipe or terminal.
#[cfg(unix)]
fn one_stream() -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let place = |fd: std::os::fd::BorrowedFd<'_>| {
        let meta = std::fs::File::from(fd.try_clone_to_owned().ok()?).metadata().ok()?;
        Some((meta.dev(), meta.ino()))
    };
    let (out, error) = (place(std::io::stdout().as_fd()), place(std::io::stderr().as_fd()));
    out.is_some() && out == error
}

#[cfg(not(unix))]
fn one_stream() -> bool {
    false
}

/// Prints a result.
pub fn out(text: &str) {
    bytes(text.as_bytes());
}

/// Prints a result that was made as bytes.
pub fn bytes(bytes: &[u8]) {
    write(&mut std::io::stdout().lock(), bytes);
}

/// Prints a result that was made as a page.
pub fn page(style: &Style, page: &Page) {
    out(&paint::page(page, style.results_colour));
}

/// Says on standard error what was found before a run could begin.
pub fn finding(style: &Style, finding: &Finding) {
    let page = text::finding(finding);
    write(&mut std::io::stderr().lock(), paint::page(&page, style.colour).as_bytes());
}

/// Says on standard error what went wrong, and what to do.
pub fn error(message: &str, hint: Option<&str>) {
    said("error", Tone::Bad, message, hint);
}

/// Says on standard error what is worth knowing and stops nothing.
pub fn warning(message: &str, hint: Option<&str>) {
    said("warning", Tone::Warn, message, hint);
}

/// Says something beside the result, on standard error.
pub fn note(message: &str) {
    said("note", Tone::Dim, message, None);
}

/// Says that this program has a defect.
pub fn bug(message: &str) {
    said("bug", Tone::Bad, message, Some("this is a defect of ft, not of your code; please report it"));
}

/// Prints clap's help, version or mistake where each belongs.
pub fn clap(error: &clap::Error) {
    // A closed pipe is no reason to leave with another code.
    let _ = error.print();
}

fn said(head: &str, tone: Tone, message: &str, hint: Option<&str>) {
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    write(&mut std::io::stderr().lock(), paint::page(&remark(head, tone, message, hint), colour).as_bytes());
}

fn remark(head: &str, tone: Tone, message: &str, hint: Option<&str>) -> Page {
    let mut page = Page::default();
    page.block(Line::new(tone, head).and(Tone::Plain, ": "), Tone::Plain, message);
    if let Some(hint) = hint.filter(|hint| !hint.is_empty()) {
        page.block(Line::new(Tone::Strong, "hint").and(Tone::Plain, ": "), Tone::Plain, hint);
    }
    page
}

/// Writes all of it, or stops where the reader is gone.
fn write(to: &mut dyn Write, bytes: &[u8]) {
    let _ = to.write_all(bytes).and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_line_and_a_hint_under_it() {
        let page = remark("error", Tone::Bad, "ci/parity.lock.json: 3:4: expected a string\nfound 7", Some("quote it"));
        assert_eq!(
            page.plain(),
            "error: ci/parity.lock.json: 3:4: expected a string\n       found 7\nhint: quote it\n"
        );
    }
}
