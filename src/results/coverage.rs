//! The totals of `coverage json`.

use super::ResultError;
use serde::{Deserialize, Serialize};

/// How much was covered, unrounded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Lines (and branches, where they are measured) that ran.
    pub covered: u64,
    /// All that could have run.
    pub total: u64,
    /// `covered / total`, from 0 to 1; 1 for an empty total, as coverage.py has it.
    pub ratio: f64,
}

impl Coverage {
    /// Reads `coverage json`'s output. The ratio is made from the counts, never from the rounded percentage.
    ///
    /// # Errors
    /// [`ResultError`] where the totals are missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, ResultError> {
        #[derive(Deserialize)]
        struct File {
            totals: Totals,
        }
        #[derive(Deserialize)]
        struct Totals {
            covered_lines: u64,
            num_statements: u64,
            #[serde(default)]
            covered_branches: u64,
            #[serde(default)]
            num_branches: u64,
        }
        let File { totals } = serde_json::from_slice(bytes).map_err(|error| ResultError {
            tool: "coverage",
            what: "coverage.json",
            reason: error.to_string(),
        })?;
        let covered = totals.covered_lines.saturating_add(totals.covered_branches);
        let total = totals.num_statements.saturating_add(totals.num_branches);
        let ratio = if total == 0 { 1.0 } else { covered as f64 / total as f64 };
        Ok(Coverage { covered, total, ratio })
    }

    /// The percentage with enough digits to tell it from `min` (a ratio), at least two.
    #[must_use]
    pub fn percent_apart_from(&self, min: f64) -> String {
        (2..10)
            .map(|digits| format!("{:.digits$}", self.ratio * 100.0))
            .find(|text| *text != format!("{:.*}", text.rsplit('.').next().map_or(0, str::len), min * 100.0))
            .unwrap_or_else(|| format!("{}", self.ratio * 100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_counts_branches_and_is_not_rounded() {
        let json = br#"{"totals":{"covered_lines":6999,"num_statements":9999,"covered_branches":0,"num_branches":1,"percent_covered":69.99}}"#;
        let coverage = Coverage::parse(json).unwrap();
        assert!(coverage.ratio < 0.7);
        assert_eq!(coverage.percent_apart_from(0.7), "69.99");
    }

    #[test]
    fn a_percentage_just_below_the_bound_is_not_shown_as_the_bound() {
        let coverage = Coverage { covered: 699_999, total: 1_000_000, ratio: 0.699_999 };
        assert_eq!(coverage.percent_apart_from(0.7), "69.9999");
    }
}
