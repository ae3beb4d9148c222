//! `ft hooks`: install, uninstall, status.

use super::context::Context;
use crate::cli::Hooks;
use crate::code::ExitCode;
use crate::hooks::{self, HookError};
use crate::repo::Repo;
use crate::ui;

pub(super) fn hooks(context: &Context, command: &Hooks) -> ExitCode {
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    let lines = match command {
        Hooks::Install => install(&repo),
        Hooks::Uninstall => hooks::uninstall(&repo).map(|report| lines(&report)).map_err(Failed::from),
        Hooks::Status => hooks::status(&repo).map(|status| status_lines(&status)).map_err(Failed::from),
    };
    match lines {
        Ok(lines) => {
            lines.iter().for_each(|line| ui::out(&format!("{line}\n")));
            ExitCode::PASSED
        }
        Err(failed) => {
            ui::error(&failed.message, failed.hint.as_deref());
            ExitCode(1)
        }
    }
}

/// Why hooks are not as asked.
pub(super) struct Failed {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl From<HookError> for Failed {
    fn from(error: HookError) -> Self {
        Failed { message: error.to_string(), hint: error.hint() }
    }
}

/// Installs both hooks; one line per hook that says what was done.
pub(super) fn install(repo: &Repo) -> Result<Vec<String>, Failed> {
    let ft = std::env::current_exe().map_err(|error| Failed { message: error.to_string(), hint: None })?;
    Ok(lines(&hooks::install(repo, &ft)?))
}

fn lines(report: &hooks::Report) -> Vec<String> {
    report.hooks.iter().map(|(path, did)| format!("{}: {did}", path.display())).collect()
}

fn status_lines(status: &hooks::Status) -> Vec<String> {
    status.hooks.iter().map(|(name, state)| format!("{}: {state}", status.dir.join(name).display())).collect()
}
