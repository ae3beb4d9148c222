//! The report of our pytest plugin (`/ft/out/pytest.json`).

use super::ResultError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What one pytest run collected and what came of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TestReport {
    /// Every collected node id, in pytest's order, with repetition where ids repeat.
    pub collected: Vec<String>,
    /// Collectors that failed: node id and message.
    pub collect_errors: Vec<CollectError>,
    /// Every test that ran or was skipped.
    pub tests: Vec<TestCase>,
    /// How many warnings pytest counted.
    pub warnings: u64,
    /// The first warnings, one line each.
    pub warning_lines: Vec<String>,
    /// Ids that were deselected.
    pub deselected: u64,
    /// Whether the session came to its end (a crash leaves the file of its start).
    pub finished: bool,
    /// pytest's own exit status, where the session came to its end.
    pub exit_status: Option<i32>,
    /// Whether collecting opened a socket or started a process or read outside the tree: then it can't be cached.
    pub uncacheable: Vec<String>,
}

/// A collector that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectError {
    /// Node id of the collector, mostly a file.
    pub id: String,
    /// The end of its traceback.
    pub message: String,
}

/// One test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestCase {
    /// Node id.
    pub id: String,
    /// How it ended.
    pub result: TestResult,
    /// Seconds of set-up, call and tear-down.
    pub seconds: f64,
    /// Why it was skipped, or the end of the failure's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How often pytest-rerunfailures ran it again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reruns: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// How one test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestResult {
    /// It passed; with reruns it is flaky.
    Passed,
    /// Its call failed, or a strict xfail passed.
    Failed,
    /// Set-up or tear-down failed.
    Error,
    /// It was skipped.
    Skipped,
    /// It failed as expected.
    Xfailed,
    /// It was expected to fail and passed.
    Xpassed,
}

impl TestReport {
    /// Reads the plugin's file.
    ///
    /// # Errors
    /// [`ResultError`] where it is not that file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ResultError> {
        serde_json::from_slice(bytes).map_err(|error| ResultError {
            tool: "pytest",
            what: "pytest.json",
            reason: error.to_string(),
        })
    }

    /// How many tests ended so.
    #[must_use]
    pub fn count(&self, result: TestResult) -> usize {
        self.tests.iter().filter(|test| test.result == result).count()
    }

    /// Tests that passed only when they were run again.
    pub fn flaky(&self) -> impl Iterator<Item = &TestCase> {
        self.tests.iter().filter(|test| test.reruns > 0 && test.result == TestResult::Passed)
    }
}

/// sha256 of the sorted node ids joined by newlines, in hex: `name_hash_sha256` of the original tool. Ids that repeat
/// count as often as they are there.
#[must_use]
pub fn name_hash<'a>(ids: impl IntoIterator<Item = &'a str>) -> String {
    let mut ids: Vec<&str> = ids.into_iter().collect();
    ids.sort_unstable();
    hex::encode(Sha256::digest(ids.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_report_without_optional_fields_is_read() {
        let report = TestReport::parse(
            br#"{"collected":["a::b"],"tests":[{"id":"a::b","result":"passed","seconds":0.1,"reruns":1}]}"#,
        )
        .unwrap();
        assert_eq!(report.flaky().count(), 1);
        assert!(!report.finished);
    }

    #[test]
    fn the_name_hash_does_not_depend_on_the_order_and_counts_repetition() {
        // printf 'a\nb' | sha256sum
        let hash = "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78";
        assert_eq!(name_hash(["b", "a"]), hash);
        assert_ne!(name_hash(["b", "a", "a"]), hash);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_report_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = TestReport::parse(&bytes);
        }
    }
}
