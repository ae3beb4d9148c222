//! The page that GitHub Actions shows for a job: what `GITHUB_STEP_SUMMARY` names takes Markdown. A step's page may have
//! 1 MiB, and one that is larger is dropped whole; so this one ends before.

use super::neutral::neutral;
use super::state::state;
use super::text::{step_line, verdict};
use crate::outcome::Outcome;

/// GitHub's limit is 1 MiB for all that one step of a workflow writes; a matrix writes several pages.
const LARGEST: usize = 256 * 1024;

/// How many lines of a finding are shown; the report has them all.
const LINES: usize = 20;

/// Verdict, steps and findings.
#[must_use]
pub fn page(outcome: &Outcome) -> String {
    let findings = outcome.findings();
    let mut page = Bounded::default();
    page.say(&format!("### ft: {}\n", text(&verdict(outcome).plain())));
    if !outcome.steps.is_empty() {
        page.say("\n| | step | |\n|---|---|---|\n");
    }
    for (step, result) in outcome.plan.iter().flat_map(|plan| &plan.steps).zip(&outcome.steps) {
        let word = state(outcome, &findings, result).word();
        let line = step_line(outcome, &findings, step, result).plain();
        let rest = line.strip_prefix(word).unwrap_or(&line).trim_start();
        let rest = rest.strip_prefix(&step.id).unwrap_or(rest).trim_start();
        page.say(&format!("| {word} | {} | {} |\n", text(&step.id), text(rest)));
    }
    for finding in &findings {
        let kind = if finding.warning { "warning " } else { "" };
        page.say(&format!("\n**{kind}{}** {}: {}\n", finding.code, text(&finding.gate), finding.code.title()));
        page.say(&fenced(&finding.message));
        if !finding.hint.is_empty() {
            page.say(&format!("hint:\n{}", fenced(&finding.hint)));
        }
    }
    for (stage, message, hint) in &outcome.broken {
        page.say(&format!("\n**broken** {}\n{}", text(stage), fenced(&format!("{message}\n{hint}"))));
    }
    if let Some(bug) = &outcome.bug {
        page.say(&format!("\n**bug**\n{}", fenced(bug)));
    }
    page.finish()
}

/// Text that takes pieces until it is full, each whole or not at all.
#[derive(Default)]
struct Bounded {
    text: String,
    left_out: usize,
}

impl Bounded {
    fn say(&mut self, piece: &str) {
        if self.left_out == 0 && self.text.len() + piece.len() <= LARGEST {
            self.text += piece;
        } else {
            self.left_out += 1;
        }
    }

    fn finish(mut self) -> String {
        if self.left_out > 0 {
            self.text += "\nThe rest is in the log and in `artifacts/parity_report.json`.\n";
        }
        self.text
    }
}

/// A piece of one line in which nothing is markup: names of tests are anybody's text.
fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in neutral(text, false).replace('\n', " ").chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    // An address that is written out becomes a link without any markup (GitHub's "extended autolinks").
    out.replace("://", "&#58;//").replace("www.", "www&#46;").replace('@', "&#64;")
}

/// A block between fences that are longer than any in the text.
fn fenced(block: &str) -> String {
    let block = neutral(block, false);
    let mut lines: Vec<&str> = block.trim_end().lines().collect();
    let more = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    let rest = if more > 0 { format!("\n({more} more lines)") } else { String::new() };
    let longest = lines.iter().map(|line| runs_of_ticks(line)).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}{rest}\n{fence}\n", lines.join("\n"))
}

fn runs_of_ticks(line: &str) -> usize {
    line.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use proptest::prelude::*;

    #[test]
    fn a_failed_run_has_this_page() {
        insta::assert_snapshot!(page(&sample::failed()));
    }

    #[test]
    fn a_page_ends_before_the_limit_and_says_so() {
        let mut outcome = sample::failed();
        outcome.broken = vec![("x".repeat(1000), "m".repeat(2000), String::new()); 2000];
        let page = page(&outcome);
        assert!(page.len() < LARGEST + 200, "{}", page.len());
        assert!(page.ends_with("parity_report.json`.\n"), "{}", &page[page.len() - 200..]);
    }

    #[test]
    fn nothing_in_a_line_is_a_link() {
        assert_eq!(
            text("see https://a.b or www.c.d, [x](y) a@b"),
            r"see https&#58;//a.b or www&#46;c.d, \[x\](y) a&#64;b"
        );
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_place(hostile in "(```|\\||<script>|\\[x\\]\\(http://a\\)|\n|\r|#|\u{1b}|\\PC){0,20}") {
            let one = text(&hostile);
            prop_assert!(!one.contains('\n') && !one.contains('<') && !one.contains("://"), "{one}");
            prop_assert!(!one.replace("\\|", "").contains('|'), "{one}");
            let block = fenced(&hostile);
            let fence = block.lines().next().unwrap().trim_end_matches("text");
            prop_assert_eq!(block.lines().filter(|line| line.trim().starts_with(fence)).count(), 2, "{}", block);
        }
    }
}
