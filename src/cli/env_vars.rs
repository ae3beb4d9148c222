//! Every environment variable that is read, in one place. Nothing else in the program reads the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// What the caller's environment says.
#[derive(Debug, Clone, Default)]
pub struct EnvVars {
    /// `CI` is set, and not to `0`, `false` or nothing.
    pub ci: bool,
    /// `GITHUB_ACTIONS=true`: groups and annotations are understood by who reads our output.
    pub github_actions: bool,
    /// `GITHUB_STEP_SUMMARY`: the file that takes the page of this step, in Markdown.
    pub github_summary: Option<PathBuf>,
    /// `PRE_COMMIT_TO_REF` and `PRE_COMMIT_LOCAL_BRANCH`: what is pushed, where a hook framework has read git's list.
    pub framework_push: Option<(String, String)>,
    /// `FIRSTTRY_DISABLE_AUTO_PARITY`: no bootstrap by itself.
    pub disable_auto: bool,
    /// `FT_PARITY_EXPLAIN`: like `--explain`.
    pub explain: bool,
    /// `FT_CHANGED_ONLY`: asks for a mode that a parity run refuses.
    pub changed_only: bool,
    /// `FT_NO_NETWORK`: forbids the network whatever the lock allows.
    pub no_network: bool,
    /// `SKIP_FT`: hooks do nothing but say so.
    pub skip: bool,
    /// `PYTEST_ADDOPTS`: never seen by a cell; a selection in it is PARITY-041.
    pub pytest_addopts: Option<String>,
    /// `GIT_INDEX_FILE`: which index a commit hook is about.
    pub git_index_file: Option<PathBuf>,
    /// `PATH`: where interpreters and uv are looked for.
    pub path: Vec<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `FT_CACHE_DIR`, else `XDG_CACHE_HOME/firsttry`, else `HOME/.cache/firsttry`: verified wheels.
    pub cache_dir: Option<PathBuf>,
    /// `FT_UV`: the uv to use instead of the one in `PATH`; `FT_UV=` (empty) means none.
    pub uv: Option<OsString>,
    /// Everything: the fetch of wheels honours pip's and uv's own variables. Cells see none of it.
    pub all: BTreeMap<String, OsString>,
}

impl EnvVars {
    /// Reads the process environment, once.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        let flag = |name: &str| text(name).is_some_and(|value| is_on(&value));
        let dir = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = dir("HOME");
        EnvVars {
            ci: flag("CI"),
            github_actions: flag("GITHUB_ACTIONS"),
            github_summary: dir("GITHUB_STEP_SUMMARY"),
            framework_push: text("PRE_COMMIT_TO_REF")
                .filter(|to| !to.is_empty())
                .map(|to| (to, text("PRE_COMMIT_LOCAL_BRANCH").unwrap_or_default())),
            disable_auto: flag("FIRSTTRY_DISABLE_AUTO_PARITY"),
            explain: flag("FT_PARITY_EXPLAIN"),
            changed_only: flag("FT_CHANGED_ONLY"),
            no_network: flag("FT_NO_NETWORK"),
            skip: flag("SKIP_FT"),
            pytest_addopts: text("PYTEST_ADDOPTS").filter(|value| !value.trim().is_empty()),
            git_index_file: dir("GIT_INDEX_FILE"),
            path: std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default(),
            cache_dir: dir("FT_CACHE_DIR")
                .or_else(|| dir("XDG_CACHE_HOME").map(|cache| cache.join("firsttry")))
                .or_else(|| home.as_ref().map(|home| home.join(".cache/firsttry"))),
            home,
            uv: std::env::var_os("FT_UV"),
            all: std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect(),
        }
    }
}

impl EnvVars {
    /// A variable of another program, where it is set to something.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.all.get(name)?.to_str().filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// The user's uv, where there is one.
    #[must_use]
    pub fn find_uv(&self) -> Option<PathBuf> {
        match &self.uv {
            Some(named) if named.is_empty() => None,
            Some(named) => Some(PathBuf::from(named)),
            None => self.path.iter().map(|dir| dir.join("uv")).find(|uv| uv.is_file()),
        }
    }

    /// The user's own uv configuration, whether or not it is there: `UV_CONFIG_FILE`, else
    /// `XDG_CONFIG_HOME/uv/uv.toml`.
    #[must_use]
    pub fn uv_toml_path(&self) -> Option<PathBuf> {
        let set = |name: &str| self.all.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("UV_CONFIG_FILE").or_else(|| {
            let config = set("XDG_CONFIG_HOME").or_else(|| self.home.as_ref().map(|home| home.join(".config")))?;
            Some(config.join("uv/uv.toml"))
        })
    }
}

/// `CI=false` is off, `CI=1` and `CI=woodpecker` are on.
fn is_on(value: &str) -> bool {
    !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "false" | "no" | "off")
}

#[cfg(test)]
mod tests {
    use super::is_on;

    #[test]
    fn a_flag_that_says_false_is_off() {
        for off in ["", " ", "0", "false", "False", "no", "off"] {
            assert!(!is_on(off), "{off:?}");
        }
        for on in ["1", "true", "yes", "woodpecker"] {
            assert!(is_on(on), "{on:?}");
        }
    }
}
