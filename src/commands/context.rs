//! What every command works with: where it was called, how it speaks, what the caller's environment says.

use crate::cli::Global;
use crate::cli::env_vars::EnvVars;
use crate::ui::{self, Style};
use std::path::PathBuf;

/// One call of `ft`.
#[derive(Debug, Clone)]
pub struct Context {
    /// The caller's environment, read once.
    pub vars: EnvVars,
    /// Flags of every command.
    pub global: Global,
    /// Where the command works.
    pub cwd: PathBuf,
    /// How it speaks.
    pub style: Style,
}

impl Context {
    /// Resolves `-C` and how to speak.
    ///
    /// # Errors
    /// A sentence where the directory is not there.
    pub fn new(vars: EnvVars, global: Global) -> Result<Self, String> {
        let here = std::env::current_dir().map_err(|error| format!("the current directory can't be read: {error}"))?;
        let cwd = match &global.directory {
            None => here,
            Some(directory) => {
                let path = here.join(directory);
                if !path.is_dir() {
                    return Err(format!("{}: not a directory", directory.display()));
                }
                path
            }
        };
        let explain = global.explain || vars.explain;
        let style = ui::style(global.quiet, explain, vars.github_actions);
        Ok(Context { vars, global: Global { explain, ..global }, cwd, style })
    }

    /// The same call, where standard output carries JSON or does not.
    #[must_use]
    pub fn with_json(&self, json: bool) -> Self {
        Context { style: Style { json, ..self.style.clone() }, ..self.clone() }
    }
}
