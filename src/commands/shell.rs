//! `ft shell`: an interactive shell in a cell with the lock's environment, on the caller's own terminal.

use super::context::Context;
use super::pipeline::{self, Job};
use super::publish::Publish;
use super::{exec, run};
use crate::cli::Shell;
use crate::code::ExitCode;
use crate::plan::inputs::{Command, Request};
use crate::ui;

/// Chosen in the cell, where it is known what is there. Without its start files, whose place is empty anyway; the prompt
/// says where one is.
const CHOOSE: &str = "if command -v bash >/dev/null 2>&1; then export PS1='(ft) \\w\\$ '; exec bash --noprofile --norc -i; \
                      else export PS1='(ft) $ '; exec sh -i; fi";

pub(super) fn shell(context: &Context, args: &Shell) -> ExitCode {
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    let source = match super::settled(&repo, run::source(&args.snapshot)) {
        Ok(source) => source,
        Err(code) => return code,
    };
    // First of all: nothing is built for somebody who can't use it.
    if let Err(code) = terminal() {
        return code;
    }
    let argv = match args.command.as_slice() {
        [] => ["sh", "-c", CHOOSE].map(str::to_owned).to_vec(),
        command => command.to_vec(),
    };
    let request = Request {
        command: Command::Exec { argv, cwd: exec::below(&repo, &context.cwd) },
        source,
        ..run::request(context, &crate::cli::Run::default(), false)
    };
    let job = Job {
        kind: "shell",
        request,
        python: None,
        deep: false,
        publish: Publish::Nothing,
        timeout_sec: None,
        terminal: Some(context.vars.text("TERM").unwrap_or_else(|| "dumb".to_owned())),
    };
    match pipeline::execute(context, &repo, job, ui::Face::passing_through(context.style.clone())) {
        Ok(done) => exec::status(&done.outcome),
        Err(error) => super::cannot_begin(&error),
    }
}

/// Whether there is a terminal to lend; the pipeline lends it when the cell is about to be raised.
#[cfg(target_os = "linux")]
fn terminal() -> Result<(), ExitCode> {
    use crate::cell::{NoTerminal, Terminal};
    Terminal::lend().map(drop).map_err(|error| {
        let hint = match error {
            NoTerminal::NotOne => "a shell needs a terminal; in a pipe or a script use `ft exec -- COMMAND`",
            NoTerminal::Background => "call it without `&`",
        };
        ui::error(&error.to_string(), Some(hint));
        ExitCode::USAGE
    })
}

#[cfg(not(target_os = "linux"))]
fn terminal() -> Result<(), ExitCode> {
    ui::error("a shell in a cell needs Linux", None);
    Err(ExitCode::USAGE)
}
