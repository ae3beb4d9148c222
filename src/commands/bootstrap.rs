//! The first `ft` command in a clone: hooks and environment, with a word on standard error; silent ever after.

use super::context::Context;
use crate::code::ExitCode;
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
    // Each is tried once: what failed was said, `ft hooks uninstall` stays uninstalled, and a command that needs the
    // environment builds it. Only where the index or the disk failed is it tried again. Losing a mark means that the
    // next command looks again.
    if !hooks_marker(&repo.root).exists() {
        match super::hooks::install(&repo) {
            Ok(lines) => lines.iter().for_each(|line| ui::note(line)),
            Err(failed) => {
                ui::warning(&format!("hooks were not installed: {}", failed.message), failed.hint.as_deref());
            }
        }
        // Kept out of `git status` from the first moment; where that fails a run says so.
        let _ = crate::artifacts::exclude_from_status(&repo);
        let _ =
            fs_err::create_dir_all(repo.state_dir()).and_then(|()| fs_err::write(hooks_marker(&repo.root), WRITTEN));
    }
    let built = if repo.root.join(VENV_LINK).exists() {
        Ok(())
    } else {
        super::env::build(context, &repo, false).map(|line| ui::note(&line))
    };
    if let Err(failure) = &built {
        ui::note(&format!("the environment was not built: {}", failure.message));
    }
    if built.is_ok() || built.is_err_and(|failure| failure.exit != ExitCode::INFRASTRUCTURE) {
        let _ = fs_err::write(marker(&repo.root), WRITTEN);
    }
}

/// What stands in the marks.
const WRITTEN: &str = concat!("set up by ft ", env!("CARGO_PKG_VERSION"), "\n");

/// Says that hooks were installed, or tried to be.
fn hooks_marker(root: &Path) -> PathBuf {
    root.join(STATE_DIR).join("hooks-set-up")
}

/// Says that this clone was set up. Below the state folder, so that removing that starts anew.
fn marker(root: &Path) -> PathBuf {
    root.join(STATE_DIR).join("set-up")
}
