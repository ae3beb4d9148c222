//! What `ft explain` says, and the README's table. Everything comes from [`crate::code::TABLE`].

use super::page::{Line, Page, Tone};
use super::text::exit_words;
use crate::code::{ExitCode, ParityCode, TABLE};

/// The exit codes beside the table, as the README lists them.
const PLAIN: &[ExitCode] = &[
    ExitCode::PASSED,
    ExitCode::USAGE,
    ExitCode::INFRASTRUCTURE,
    ExitCode::BUG,
    ExitCode::INTERRUPTED,
    ExitCode::UNREAD,
    ExitCode::TERMINATED,
];

/// Nothing in the table is called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: no code and no exit status of ft")]
pub struct UnknownCode {
    /// What was asked for.
    pub what: String,
    /// What may have been meant.
    pub nearest: Option<String>,
}

impl UnknownCode {
    /// The next step.
    #[must_use]
    pub fn hint(&self) -> String {
        match &self.nearest {
            Some(nearest) => format!("did you mean {nearest}? `ft explain` lists all"),
            None => "`ft explain` lists all".to_owned(),
        }
    }
}

/// Explains an id (`PARITY-012`, `012`), an exit code (`301`, `223`) or an exit status as the shell saw it (`45`).
///
/// # Errors
/// [`UnknownCode`] with the nearest name.
pub fn explain(what: &str) -> Result<Page, UnknownCode> {
    let what = what.trim();
    let mut page = Page::default();
    // A number can be an exit code, what the shell makes of one, and an id. With a leading zero it is an id.
    let number = what.parse::<u16>().ok().filter(|_| !what.starts_with(['0', '+']) || what == "0");
    if let Some(meaning) = number.and_then(|number| ExitCode(number).plain_meaning()) {
        page.push(Line::new(Tone::Strong, format!("exit {what}")).and(Tone::Plain, format!(": {meaning}")));
    }
    let exits = |code: &ParityCode| number == Some(code.exit().0);
    let cut = |code: &ParityCode| !exits(code) && number == Some(u16::from(code.exit().status()));
    let named = |code: &ParityCode| ParityCode::parse(what) == Some(*code) && !exits(code) && !cut(code);
    let all = || ParityCode::ALL.iter().copied();
    for code in all().filter(exits).chain(all().filter(cut)).chain(all().filter(named)) {
        page.gap();
        describe(&mut page, code);
    }
    if page.lines.is_empty() {
        return Err(UnknownCode { what: what.to_owned(), nearest: nearest(what) });
    }
    Ok(page)
}

fn describe(page: &mut Page, code: ParityCode) {
    page.push(
        Line::new(Tone::Strong, code.id())
            .and(Tone::Plain, format!(": {}", code.title()))
            .and(Tone::Dim, format!(" ({})", exit_words(code.exit()))),
    );
    page.say(format!("  why:  {}", code.why()));
    page.say(format!("  hint: {}", code.fix()));
    let effect = if code.stops_run() { "the run stops before its first step" } else { "the other steps still run" };
    page.say(format!("  then: {effect}"));
}

/// Every code, one line each.
#[must_use]
pub fn list() -> Page {
    let mut page = Page::default();
    for exit in PLAIN {
        let meaning = exit.plain_meaning().expect("listed because it has one");
        page.push(Line::new(Tone::Strong, format!("{:>4}           ", exit.0)).and(Tone::Plain, format!(" {meaning}")));
    }
    for code in ParityCode::ALL {
        let cut = if u16::from(code.exit().status()) == code.exit().0 {
            String::new()
        } else {
            format!(" (the shell sees {})", code.exit().status())
        };
        page.push(
            Line::new(Tone::Strong, format!("{:>4} {code}", code.exit().0))
                .and(Tone::Plain, format!(" {}", code.title()))
                .and(Tone::Dim, cut),
        );
    }
    page
}

fn nearest(what: &str) -> Option<String> {
    let wanted = what.to_ascii_uppercase();
    let bare = wanted.trim_start_matches("PARITY").trim_start_matches(['-', '_', ' ']);
    let names = ParityCode::ALL.iter().flat_map(|code| {
        let id = code.id();
        let digits = id.trim_start_matches("PARITY-").to_owned();
        [(id.clone(), id.clone()), (digits, id.clone()), (code.exit().to_string(), id)]
    });
    names
        .map(|(name, id)| (strsim::osa_distance(&name, bare).min(strsim::osa_distance(&name, &wanted)), id))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, id)| id)
}

/// The README's table of codes: one row per exit code, in the order of the table.
#[must_use]
pub fn table_markdown() -> String {
    let mut text = String::from("| exit code | id | meaning |\n|---|---|---|\n");
    let mut row = |exit: ExitCode, id: &str, meaning: &str| {
        let exit_text = if u16::from(exit.status()) == exit.0 {
            exit.to_string()
        } else {
            format!("{exit} (the shell sees {})", exit.status())
        };
        text += &format!("| {exit_text} | {id} | {meaning} |\n");
    };
    for exit in PLAIN {
        row(*exit, "", exit.plain_meaning().expect("listed because it has one"));
    }
    for entry in TABLE {
        row(ExitCode(entry.exit), &format!("PARITY-{:03}", entry.number), entry.title);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(what: &str) -> Vec<String> {
        let text = explain(what).unwrap().plain();
        text.lines()
            .filter_map(|l| l.split(':').next().filter(|head| head.starts_with("PARITY-")))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn an_id_an_exit_code_and_a_truncated_status_are_told_apart() {
        assert_eq!(ids("PARITY-012"), ["PARITY-012"]);
        assert_eq!(ids("parity-12"), ["PARITY-012"]);
        assert_eq!(ids("012"), ["PARITY-012"]);
        assert_eq!(ids("223"), ["PARITY-021", "PARITY-023"]);
        assert_eq!(ids("221"), ["PARITY-221", "PARITY-225", "PARITY-226"]);
        assert_eq!(ids("301"), ["PARITY-301"]);
        assert_eq!(ids("45"), ["PARITY-301"]);
        assert_eq!(ids("55"), ["PARITY-311"]);
        assert_eq!(ids("2"), ["PARITY-002"]);
    }

    #[test]
    fn every_exit_code_that_ft_can_leave_with_is_explained() {
        for code in ParityCode::ALL {
            for what in [code.id(), code.exit().to_string(), code.exit().status().to_string()] {
                assert!(explain(&what).unwrap().plain().contains(&code.id()), "{what}");
            }
        }
        for exit in PLAIN {
            assert!(explain(&exit.to_string()).unwrap().plain().starts_with(&format!("exit {exit}: ")), "{exit}");
        }
    }

    #[test]
    fn what_is_unknown_is_an_error_with_the_nearest_name() {
        let error = explain("PARTY-221").unwrap_err();
        assert_eq!(error.nearest.as_deref(), Some("PARITY-221"));
        assert_eq!(error.hint(), "did you mean PARITY-221? `ft explain` lists all");
        assert_eq!(explain("ft").unwrap_err().hint(), "`ft explain` lists all");
        assert!(explain("").is_err());
    }

    #[test]
    fn the_explanation_of_a_status_reads_so() {
        insta::assert_snapshot!(explain("45").unwrap().plain());
        insta::assert_snapshot!(list().plain());
    }
}
