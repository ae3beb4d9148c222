//! Bandit's JSON report.

use super::ResultError;
use crate::lock::Severity;
use serde::{Deserialize, Serialize};

/// What bandit found. Counts come from its metrics, which no `-l` or `-i` argument narrows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SecurityReport {
    /// Issues of severity LOW.
    pub low: u64,
    /// Issues of severity MEDIUM.
    pub medium: u64,
    /// Issues of severity HIGH.
    pub high: u64,
    /// The issues that the arguments let through, most severe first.
    pub issues: Vec<Issue>,
    /// Files that bandit could not read: `path: reason`.
    pub errors: Vec<String>,
}

/// One issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// Bandit's id, `B602`.
    pub test_id: String,
    /// How bad it is.
    pub severity: Severity,
    /// File, relative to the repository where bandit says so.
    pub path: String,
    /// Line, from 1.
    pub line: u64,
    /// What it is.
    pub text: String,
}

impl SecurityReport {
    /// Reads bandit's JSON.
    ///
    /// # Errors
    /// [`ResultError`] where it is not that.
    pub fn parse(bytes: &[u8]) -> Result<Self, ResultError> {
        #[derive(Deserialize)]
        struct File {
            metrics: Metrics,
            results: Vec<Row>,
            #[serde(default)]
            errors: Vec<Failure>,
        }
        #[derive(Deserialize)]
        struct Metrics {
            #[serde(rename = "_totals")]
            totals: Totals,
        }
        #[derive(Deserialize)]
        struct Totals {
            #[serde(rename = "SEVERITY.LOW")]
            low: u64,
            #[serde(rename = "SEVERITY.MEDIUM")]
            medium: u64,
            #[serde(rename = "SEVERITY.HIGH")]
            high: u64,
        }
        #[derive(Deserialize)]
        struct Row {
            test_id: String,
            issue_severity: String,
            filename: String,
            line_number: u64,
            issue_text: String,
        }
        #[derive(Deserialize)]
        struct Failure {
            filename: String,
            reason: String,
        }
        let file: File = serde_json::from_slice(bytes).map_err(|error| ResultError {
            tool: "bandit",
            what: "bandit.json",
            reason: error.to_string(),
        })?;
        let Totals { low, medium, high } = file.metrics.totals;
        let mut issues: Vec<Issue> = file
            .results
            .into_iter()
            .map(|row| Issue {
                severity: match row.issue_severity.as_str() {
                    "HIGH" => Severity::High,
                    "MEDIUM" => Severity::Medium,
                    _ => Severity::Low,
                },
                test_id: row.test_id,
                path: row.filename.trim_start_matches("./").trim_start_matches("/ft/work/").to_owned(),
                line: row.line_number,
                text: row.issue_text,
            })
            .collect();
        issues.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| (&a.path, a.line).cmp(&(&b.path, b.line))));
        let errors = file.errors.into_iter().map(|f| format!("{}: {}", f.filename, f.reason)).collect();
        Ok(SecurityReport { low, medium, high, issues, errors })
    }

    /// How many issues are above this severity.
    #[must_use]
    pub fn above(&self, max: Severity) -> u64 {
        [(Severity::Low, self.low), (Severity::Medium, self.medium), (Severity::High, self.high)]
            .into_iter()
            .filter(|(severity, _)| *severity > max)
            .map(|(_, count)| count)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_is_counted_whatever_the_arguments_filtered() {
        let json = br#"{"errors":[],"metrics":{"_totals":{"SEVERITY.LOW":2,"SEVERITY.MEDIUM":1,"SEVERITY.HIGH":0}},
            "results":[{"test_id":"B602","issue_severity":"MEDIUM","filename":"./a.py","line_number":3,"issue_text":"x"}]}"#;
        let report = SecurityReport::parse(json).unwrap();
        assert_eq!(report.above(Severity::None), 3);
        assert_eq!(report.above(Severity::Low), 1);
        assert_eq!(report.above(Severity::Medium), 0);
        assert_eq!(report.issues[0].path, "a.py");
    }
}
