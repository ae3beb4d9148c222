//! What a run is told as: JSON, JUnit, text. Pure: an [`Outcome`](crate::outcome::Outcome) in, bytes out. Nothing here
//! opens a file, looks at a clock or knows whether it writes to a terminal.

pub mod allow_list;
pub mod diff;
pub mod doctor;
pub mod explain;
pub mod fields;
pub mod github;
pub mod json;
pub mod junit;
pub mod markdown;
pub mod neutral;
pub mod page;
pub mod plan;
pub mod state;
pub mod text;

#[cfg(test)]
pub(crate) mod sample;

#[cfg(test)]
mod tests {
    use super::{explain, sample, text};
    use crate::event::{Attempt, EventKind};
    use crate::lock::Lock;
    use crate::outcome::Outcome;

    const README: &str = include_str!("../../README.md");

    /// What stands between two markers of the README.
    fn part(name: &str) -> &'static str {
        let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let from = README.find(&open).unwrap_or_else(|| panic!("no {open}")) + open.len();
        let to = README[from..].find(&close).unwrap_or_else(|| panic!("no {close}"));
        &README[from..from + to]
    }

    #[test]
    fn the_table_of_the_readme_is_the_table_of_the_program() {
        pretty_eq(part("codes"), &explain::table_markdown());
    }

    #[test]
    fn the_report_of_the_readme_is_what_a_run_says() {
        let (outcome, tails) = sample::readme();
        let told = text::summary(&outcome, &tails, text::Detail::default()).plain();
        pretty_eq(part("report"), &format!("```console\n$ ft run\n{told}```\n"));
    }

    #[test]
    fn the_violation_of_the_readme_is_what_a_run_says() {
        let attempt = Attempt {
            process: "python -m pytest -q".into(),
            pid: 3,
            call: "lookup".into(),
            protocol: "dns".into(),
            name: "api.example.com".into(),
            test: "tests/test_api.py::test_fetch".into(),
            count: 3,
            ..Attempt::default()
        };
        let outcome = Outcome::fold(&sample::events([
            sample::start("parity"),
            EventKind::Planned { plan: Box::new(sample::plan()) },
            EventKind::NetworkAttempted { step: "pytest".into(), attempt: Box::new(attempt) },
        ]));
        let told = text::finding(&outcome.findings()[0]).plain();
        pretty_eq(part("violation"), &format!("```console\n{told}```\n"));
    }

    #[test]
    fn the_lock_of_the_readme_is_one() {
        let json = part("lock").trim().trim_start_matches("```json").trim_end_matches("```");
        let (lock, warnings) = Lock::parse(json.as_bytes()).unwrap();
        assert_eq!((lock.version, warnings.len()), (2, 0));
    }

    /// Says what to paste where the two differ.
    fn pretty_eq(have: &str, want: &str) {
        assert!(have == want, "README.md is out of date; it must say:\n\n{want}");
    }
}
