//! The closed table of what a run can find, and the numbers it leaves with.
//!
//! Nothing else in the program knows a number: findings carry a [`ParityCode`], the README's table and
//! `ft explain` are made from [`ParityCode::ALL`], and only [`ExitCode`] is turned into a process status.

/// One kind of deviation. The id (`PARITY-021`) is the stable name; the exit code is what the run leaves with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "host", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "host", serde(into = "String", try_from = "String"))]
pub struct ParityCode(u16);

/// One row of the table in DESIGN section 5.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The stable name without its prefix: `21` for `PARITY-021`.
    pub number: u16,
    /// The full exit code, which may be above 255.
    pub exit: u16,
    /// What was found, in a few words.
    pub title: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// What to do about it.
    pub fix: &'static str,
}

macro_rules! table {
    ($( $name:ident = $number:literal, $exit:literal, $title:literal, $why:literal, $fix:literal; )*) => {
        /// Every row, in the order of the table.
        pub const TABLE: &[Row] = &[ $( Row { number: $number, exit: $exit, title: $title, why: $why, fix: $fix }, )* ];

        impl ParityCode {
            $( #[doc = $title] pub const $name: ParityCode = ParityCode($number); )*
            /// Every code, in the order of the table.
            pub const ALL: &'static [ParityCode] = &[ $( ParityCode($number), )* ];
        }
    };
}

table! {
    TOOL_VERSION = 1, 101, "tool version differs from the lock",
        "another version of a tool finds other things",
        "run `ft lock` if the new version is wanted, else rebuild with `ft env build`";
    PYTHON_VERSION = 3, 101, "Python version differs from the lock",
        "a patch release changes the standard library and its error messages",
        "install the Python the lock names (for example `uv python install 3.11`), or set `python_match` to `minor`";
    ENVIRONMENT_SEAL = 4, 101, "environment differs from its seal",
        "a file of the environment was changed, added or removed after it was built",
        "rebuild it from the lock with `ft env build --force`";
    PACKAGE_HASH = 5, 101, "package without a hash, or with another one",
        "only bytes that the lock names may become part of the environment",
        "run `ft lock` to hash the closure again; if the index changed a file, find out why first";
    RUNNER_VERSION = 6, 101, "this `ft` is not the one the lock was written for",
        "another runner may judge differently",
        "install the version that `runner.version` names";
    LOCK_INVALID = 2, 102, "lock missing or invalid",
        "without a readable lock there is nothing to compare with",
        "write one with `ft init`, or repair the place that the message names";
    CONFIG_DRIFT = 12, 102, "config file differs from the lock",
        "a changed configuration changes what the tools check",
        "review the change, then run `ft lock`";
    LOCK_STALE = 13, 102, "lock not resolved, or older than its sources",
        "the closure no longer follows from the files it was made from",
        "run `ft lock`";
    IMAGE_NOT_PINNED = 14, 102, "container image not pinned by digest",
        "a tag can name other bytes tomorrow",
        "pin it with `name@sha256:...`";
    THRESHOLD_FLOOR = 19, 102, "threshold below policy",
        "a coverage threshold below 0.5 promises nothing",
        "raise `thresholds.coverage_min` to at least 0.5, or leave it out of a version 2 lock";
    PLUGIN_MISSING = 34, 103, "plugin missing",
        "without the plugin its options are ignored or fail",
        "add it to the locked dependencies and run `ft lock`";
    SCOPE_NARROWED = 41, 104, "selection narrower than the lock's",
        "a subset that passes says nothing about the rest",
        "remove `-k`, `-m`, `--lf`, `--deselect`, `PYTEST_ADDOPTS` or the changed paths";
    TREE_NOT_CI = 42, 104, "tree is not what CI would see",
        "files that git does not track exist here and not there",
        "`git add` the files, or ignore them in `.gitignore`";
    NO_ENGINE = 50, 105, "no container engine",
        "the lock asks for a container and no engine answers",
        "start the engine, or set DOCKER_HOST to one that runs";
    IMAGE_IDENTITY = 51, 105, "image is not the one of the lock",
        "other layers are another environment",
        "load or pull the image that the lock names";
    POLICY_UNENFORCEABLE = 52, 105, "a policy of the lock can't be enforced here",
        "a run that silently drops a wall would promise what it does not keep",
        "the message names the wall and what this machine lacks";
    CHANGED_ONLY = 60, 106, "changed-only mode is forbidden",
        "the lock allows only full runs",
        "unset FT_CHANGED_ONLY";
    LINT_FAILED = 211, 211, "lint failed", "the linter found something, or could not run", "read the step's log";
    TYPES_FAILED = 212, 212, "types failed", "the type checker found something, or could not run", "read the step's log";
    TESTS_FAILED = 221, 221, "tests failed", "at least one test failed, or the test runner could not run", "read the step's log or junit.xml";
    WARNINGS_BUDGET = 225, 221, "more warnings than `max_warnings`",
        "the lock limits how many warnings the tests may raise",
        "mend the warnings, or raise `thresholds.max_warnings`";
    FLAKY_TESTS = 226, 221, "flaky tests, and the lock allows none",
        "a test that passes only when it is run again hides a defect",
        "mend the test, or set `thresholds.allow_flaky`";
    STEP_TIMEOUT = 222, 222, "a step ran into its timeout",
        "the step and everything it started were ended",
        "find out why it hangs, or raise `tools.NAME.timeout_sec`";
    COLLECTION_DIFFERS = 21, 223, "collected tests differ from the lock",
        "tests were lost, renamed or added",
        "if that is wanted, run `ft lock --collection`";
    COLLECTION_FAILED = 23, 223, "collecting the tests failed",
        "tests that can't be imported are not run",
        "mend the import error that the log shows";
    COVERAGE_BELOW = 231, 231, "coverage below the threshold, or none measured",
        "code that no test runs is not tested",
        "add tests, or check that the test step measures coverage";
    SECURITY_BROKEN = 241, 241, "the security scan could not do its work",
        "a scan that breaks has found nothing out",
        "read the step's log";
    SECURITY_ISSUE = 242, 242, "security issue above `bandit_severity_max`",
        "an issue of this severity is not accepted by the lock",
        "mend it, or mark the line with `# nosec` and a reason";
    NETWORK_VIOLATED = 251, 251, "network policy violated",
        "a step tried to reach what the lock does not allow",
        "remove the call, mock it, or allow the host in `network_policy.allowed_hosts`";
    ARTIFACT_MISSING = 301, 301, "a required artifact is missing",
        "the lock requires a file that no step left behind",
        "check the step that should write it, or `required_artifacts`";
    BUILD_FAILED = 310, 310, "build failed", "no wheel could be built from this tree", "read the build step's log";
    IMPORT_FAILED = 311, 311, "import of the built wheel failed",
        "the wheel installs but can't be imported: often a file that is not packaged",
        "read the import step's log; check the package data of the build";
}

impl ParityCode {
    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.number == self.0).expect("a ParityCode is made from the table only")
    }

    /// The stable name, `PARITY-021`.
    #[must_use]
    pub fn id(self) -> String {
        format!("PARITY-{:03}", self.0)
    }

    /// The exit code of a run that this finding decides.
    #[must_use]
    pub fn exit(self) -> ExitCode {
        ExitCode(self.row().exit)
    }

    /// What was found, in a few words.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.row().title
    }

    /// Why it matters, in a sentence.
    #[must_use]
    pub fn why(self) -> &'static str {
        self.row().why
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(self) -> &'static str {
        self.row().fix
    }

    /// Whether a run means nothing after this finding and therefore starts no step (DESIGN section 5: 101, 103, 105,
    /// 106, and of 102 all but PARITY-012).
    #[must_use]
    pub fn stops_run(self) -> bool {
        match self.row().exit {
            101 | 103 | 105 | 106 => true,
            102 => self != Self::CONFIG_DRIFT,
            _ => false,
        }
    }

    /// The code of a name as a person types it: `PARITY-012`, `parity-12`, `012`.
    #[must_use]
    pub fn parse(text: &str) -> Option<ParityCode> {
        let digits = text.get(..7).filter(|p| p.eq_ignore_ascii_case("parity-")).map_or(text, |p| &text[p.len()..]);
        let number: u16 = digits.parse().ok()?;
        Self::ALL.iter().copied().find(|code| code.0 == number)
    }
}

impl std::fmt::Display for ParityCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.id())
    }
}

impl From<ParityCode> for String {
    fn from(code: ParityCode) -> String {
        code.id()
    }
}

impl TryFrom<String> for ParityCode {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        ParityCode::parse(&text).ok_or_else(|| format!("{text}: not a PARITY code"))
    }
}

/// What a run leaves with. The full number stands in the report; [`ExitCode::status`] is what the shell sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "host", derive(serde::Serialize, serde::Deserialize))]
pub struct ExitCode(pub u16);

impl ExitCode {
    /// All checks passed.
    pub const PASSED: ExitCode = ExitCode(0);
    /// The command line could not be understood.
    pub const USAGE: ExitCode = ExitCode(2);
    /// Infrastructure: index unreachable, stream cut, engine lost. Never "passed", never "failed".
    pub const INFRASTRUCTURE: ExitCode = ExitCode(69);
    /// A defect of this program (a panic). Rust's own 101 would read as version drift.
    pub const BUG: ExitCode = ExitCode(70);
    /// Ended by Ctrl-C.
    pub const INTERRUPTED: ExitCode = ExitCode(130);
    /// Nobody reads the output of `ft exec` any more: what a shell says of a command that SIGPIPE ended.
    pub const UNREAD: ExitCode = ExitCode(141);
    /// Ended by SIGTERM.
    pub const TERMINATED: ExitCode = ExitCode(143);

    /// The eight bits that the operating system keeps (`_exit(2)`): 301 becomes 45.
    #[must_use]
    pub fn status(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// What the codes beside the table mean, for `ft explain` and the README.
    #[must_use]
    pub fn plain_meaning(self) -> Option<&'static str> {
        Some(match self {
            Self::PASSED => "all checks passed",
            Self::USAGE => "usage: the command line could not be understood",
            Self::INFRASTRUCTURE => "infrastructure: the run could not do its work; this says nothing about the code",
            Self::BUG => "a defect of ft itself; please report it with the events.jsonl of the run",
            Self::INTERRUPTED => "interrupted by Ctrl-C",
            Self::UNREAD => "`ft exec`: nobody reads the output any more, so the command was ended",
            Self::TERMINATED => "ended by SIGTERM",
            _ => return None,
        })
    }
}

impl std::fmt::Display for ExitCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_own_number() {
        let mut numbers: Vec<_> = TABLE.iter().map(|row| row.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), TABLE.len());
        assert_eq!(ParityCode::ALL.len(), TABLE.len());
    }

    #[test]
    fn codes_above_255_reach_the_shell_as_the_system_cuts_them() {
        assert_eq!(ParityCode::ARTIFACT_MISSING.exit().status(), 45);
        assert_eq!(ParityCode::BUILD_FAILED.exit().status(), 54);
        assert_eq!(ParityCode::IMPORT_FAILED.exit().status(), 55);
    }

    #[test]
    fn a_code_is_read_back_from_what_it_prints() {
        for code in ParityCode::ALL {
            assert_eq!(ParityCode::parse(&code.id()), Some(*code));
            assert_eq!(ParityCode::parse(&code.id().to_lowercase()), Some(*code));
        }
        assert_eq!(ParityCode::parse("PARITY-999"), None);
        assert_eq!(ParityCode::parse("é-parity-1"), None);
    }

    #[test]
    fn only_drift_that_makes_a_run_meaningless_stops_it() {
        let stopping: Vec<_> = ParityCode::ALL.iter().filter(|c| c.stops_run()).map(|c| c.id()).collect();
        assert_eq!(
            stopping,
            [
                "PARITY-001",
                "PARITY-003",
                "PARITY-004",
                "PARITY-005",
                "PARITY-006",
                "PARITY-002",
                "PARITY-013",
                "PARITY-014",
                "PARITY-019",
                "PARITY-034",
                "PARITY-050",
                "PARITY-051",
                "PARITY-052",
                "PARITY-060"
            ]
        );
    }
}
