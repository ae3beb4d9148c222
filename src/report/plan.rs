//! What `--plan` prints: the plan as a person reads it, and as JSON. Starts nothing.

use super::page::{Line, Page, Tone};
use super::text::{command, limits, policy};
use crate::finding::Finding;
use crate::plan::Plan;
use serde::Serialize;

/// The plan for a person, and what preflight found on the way to it.
#[must_use]
pub fn text(plan: &Plan, findings: &[Finding]) -> Page {
    let mut page = Page::default();
    let kind = format!("{:?}", plan.cell).to_lowercase();
    page.push(Line::new(Tone::Strong, &plan.command).and(
        Tone::Plain,
        format!(
            ": {} in cells of kind {kind}, {} at once{}{}",
            super::page::count(plan.steps.len(), "step"),
            plan.parallel,
            if plan.fail_fast { ", the first failure ends those after it" } else { "" },
            if plan.advisory { ", advisory" } else { "" },
        ),
    ));
    page.say(format!("  python       {}", plan.python));
    if let Some(key) = &plan.environment {
        page.say(format!("  environment  {key}"));
    }
    for (number, step) in plan.steps.iter().enumerate() {
        page.gap();
        page.push(
            Line::new(Tone::Strong, format!("{}. {}", number + 1, step.id))
                .and(Tone::Dim, format!(" ({}, {} if it fails)", step.gate.word(), step.on_fail)),
        );
        page.say(format!("  command  {}", command(&step.argv)));
        if !step.cwd.as_str().is_empty() {
            page.say(format!("  folder   {}", step.cwd));
        }
        if !step.needs.is_empty() {
            page.say(format!("  after    {}", step.needs.join(", ")));
        }
        page.say(format!("  limits   {}", limits(step)));
        page.say(format!("  network  {}", policy(step)));
    }
    page.gap();
    for finding in findings {
        let tone = if finding.warning { Tone::Warn } else { Tone::Bad };
        page.block(
            Line::new(tone, finding.code.id()).and(Tone::Plain, format!(" {}: ", finding.gate)),
            Tone::Plain,
            &finding.message,
        );
        page.block(Line::new(Tone::Strong, "  hint: "), Tone::Plain, &finding.hint);
    }
    page
}

/// Plan and findings as JSON, indented, with a newline.
#[must_use]
pub fn json(plan: &Plan, findings: &[Finding]) -> Vec<u8> {
    #[derive(Serialize)]
    struct File<'a> {
        plan: &'a Plan,
        findings: &'a [Finding],
    }
    let mut bytes = serde_json::to_vec_pretty(&File { plan, findings }).expect("a plan has text keys");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::ParityCode;
    use crate::report::sample;

    #[test]
    fn a_plan_reads_so() {
        let finding = Finding::new(ParityCode::CONFIG_DRIFT, "preflight", "pyproject.toml is aa, the lock says bb");
        insta::assert_snapshot!(text(&sample::plan(), &[finding]).plain());
    }

    #[test]
    fn the_plan_as_json_is_read_back() {
        let value: serde_json::Value = serde_json::from_slice(&json(&sample::plan(), &[])).unwrap();
        let plan: Plan = serde_json::from_value(value["plan"].clone()).unwrap();
        assert_eq!(plan, sample::plan());
    }
}
