//! The commands: wiring from what was typed to effects, events and an exit code. One file per command.

mod bootstrap;
mod check;
mod contained;
mod context;
mod doctor;
mod env;
mod exec;
mod failure;
mod gc;
mod hook;
mod hooks;
mod image;
mod in_place;
mod init;
mod jobs;
mod lock;
mod matrix;
mod obeying;
mod pipeline;
mod publish;
mod pull;
mod report;
mod run;
mod runs;
mod shell;
mod survey;

use crate::cli::env_vars::EnvVars;
use crate::cli::{Cli, Command, ParityCli};
use crate::code::ExitCode;
use crate::ui;
use clap::{CommandFactory, Parser};
use context::Context;
use std::ffi::OsString;

/// Which program was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// `ft`, for every day.
    Ft,
    /// `ft-parity`, the runner with the flags of the original.
    FtParity,
}

/// Parses the command line and does what it says.
pub fn main(front: Front, argv: Vec<OsString>) -> ExitCode {
    let vars = EnvVars::read();
    let parsed = match front {
        Front::Ft => Cli::try_parse_from(argv).map(|cli| (cli.command, cli.global)),
        Front::FtParity => ParityCli::try_parse_from(argv).map(from_parity),
    };
    let (command, global) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    match Context::new(vars, global) {
        Ok(context) => dispatch(&context, command),
        Err(message) => {
            ui::error(&message, None);
            ExitCode::USAGE
        }
    }
}

/// Help and version leave with 0, a mistake with 2.
fn usage(error: &clap::Error) -> ExitCode {
    ui::clap(error);
    if error.use_stderr() { ExitCode::USAGE } else { ExitCode::PASSED }
}

fn from_parity(cli: ParityCli) -> (Command, crate::cli::Global) {
    let snapshot = "worktree".to_owned();
    let command = if cli.self_check {
        Command::Check(crate::cli::Check { snapshot, container: cli.container, ..Default::default() })
    } else {
        let (matrix, container, plan) = (cli.matrix, cli.container, cli.plan);
        Command::Run(crate::cli::Run { snapshot, matrix, container, plan, ..Default::default() })
    };
    (command, cli.global)
}

fn dispatch(context: &Context, command: Command) -> ExitCode {
    if bootstraps(&command) {
        bootstrap::first_run(context);
    }
    match command {
        Command::Version => {
            ui::out(&format!("ft {}\n", env!("CARGO_PKG_VERSION")));
            ExitCode::PASSED
        }
        Command::Check(args) => check::check(context, &args),
        Command::Run(args) => run::run(context, &args, false),
        Command::Ci(args) => run::run(context, &args, true),
        Command::PreCommit(_) => hook::pre_commit(context),
        Command::PrePush(_) => hook::pre_push(context),
        Command::Exec(args) => exec::exec(context, &args),
        Command::Shell(args) => shell::shell(context, &args),
        Command::Env { command } => env::env(context, &command),
        Command::Image { command } => image::image(context, &command),
        Command::Hooks { command } => hooks::hooks(context, &command),
        Command::Report(args) => report::report(context, &args),
        Command::Diff { left, right } => report::diff(context, &left, &right),
        Command::Explain { what } => report::explain(context, what.as_deref()),
        Command::Init(args) => init::init(context, &args),
        Command::Lock(args) => lock::lock(context, &args),
        Command::Gc(args) => gc::gc(context, &args),
        Command::Doctor(args) => doctor::doctor(context, &args),
        Command::Schema => {
            ui::out(&crate::lock::schema::schema());
            ExitCode::PASSED
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ft", &mut text);
            ui::out(&String::from_utf8_lossy(&text));
            ExitCode::PASSED
        }
    }
}

/// Which commands set a fresh clone up before they do their own work (DESIGN section 11).
fn bootstraps(command: &Command) -> bool {
    matches!(
        command,
        Command::Version
            | Command::Check(_)
            | Command::Run(_)
            | Command::Exec(_)
            | Command::Shell(_)
            | Command::Report(_)
    )
}

/// The repository that the command is about.
fn discover(context: &Context) -> Result<crate::repo::Repo, ExitCode> {
    crate::facts::git::discover(&context.cwd).map_err(|error| {
        ui::error(&error.to_string(), error.hint().as_deref());
        ExitCode::USAGE
    })
}

/// A revision becomes the commit that it names now, once: a branch that moves while a run goes on must not mix two trees.
fn settled(repo: &crate::repo::Repo, source: crate::repo::Source) -> Result<crate::repo::Source, ExitCode> {
    use crate::repo::Source;
    let Source::Commit(revision) = source else { return Ok(source) };
    match crate::facts::git::commit_of(repo, &revision) {
        Some(commit) => Ok(Source::Commit(commit)),
        None => {
            ui::error(
                &format!("{revision}: git knows no such commit here"),
                Some("give `worktree`, `index`, or a branch, tag or commit of this repository"),
            );
            Err(ExitCode::USAGE)
        }
    }
}

/// The run has no folder, so that there is no report to say it in.
fn cannot_begin(error: &pipeline::BeginError) -> ExitCode {
    ui::error(&format!("the run could not begin: {error}"), Some("check that .firsttry can be written to"));
    ExitCode::INFRASTRUCTURE
}
