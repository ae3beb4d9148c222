//! The first `ft` command in a clone: hooks and environment, with a word on standard error; silent ever after.

use super::context::Context;
use crate::facts::git;
use crate::lock::LOCK_PATH;
use crate::repo::{STATE_DIR, VENV_LINK};
use crate::ui;
use std::path::{Path, PathBuf};

/// Sets the clone up if it has a lock and was not set up yet. A failure is a warning: the command that was asked for
/// goes on, and fails by itself where it needs what is missing.
pub(super) fn first_run(context: &Context) {
    if context.vars.ci || context.vars.disable_auto {
        return;
    }
    let done = |root: &Path| marker(root).exists();
    // Looked at before git is asked, so that it costs every later command next to nothing.
    if git::likely_root(&context.cwd).is_none_or(|root| done(&root)) {
        return;
    }
    let Ok(repo) = git::discover(&context.cwd) else { return };
    if !repo.root.join(LOCK_PATH).is_file() || done(&repo.root) {
        return;
    }
    ui::note("first ft command in this clone: setting it up (FIRSTTRY_DISABLE_AUTO_PARITY=1 switches this off)");
    match super::hooks::install(&repo) {
        Ok(lines) => lines.iter().for_each(|line| ui::note(line)),
        Err(failed) => {
            ui::warning(&format!("hooks were not installed: {}", failed.message), failed.hint.as_deref());
        }
    }
    if !repo.root.join(VENV_LINK).exists() {
        match super::env::build(context, &repo, false) {
            Ok(line) => ui::note(&line),
            Err(failure) => {
                ui::note(&format!("the environment was not built: {}", failure.message));
            }
        }
    }
    // Tried once, whatever came of it: what failed was said, `ft hooks uninstall` stays uninstalled, and a command that
    // needs the environment builds it. Losing the mark means that the next command looks again.
    let _ = fs_err::write(marker(&repo.root), format!("set up by ft {}\n", env!("CARGO_PKG_VERSION")));
}

/// Says that this clone was set up. Below the state folder, so that removing that starts anew.
fn marker(root: &Path) -> PathBuf {
    root.join(STATE_DIR).join("set-up")
}
