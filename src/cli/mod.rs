//! What was typed. Nothing starts here: [`crate::commands`] turns these into work.

pub mod env_vars;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Run the locked checks of a Python repository behind walls, with the same verdict here and in CI.
#[derive(Debug, Parser)]
#[command(name = "ft", version, max_term_width = 100, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Start with `ft init` in a Python repository, commit what it wrote, then `ft run`.\n\
    In a clone that has a lock, the first command sets everything up.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Say less: findings and the verdict only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more: command lines, versions, walls, resources
    #[arg(long, global = true)]
    pub explain: bool,
    /// Run as if started in this directory
    #[arg(short = 'C', long, value_name = "DIR", global = true)]
    pub directory: Option<PathBuf>,
    /// Fetch nothing: fail where a wheel is missing
    #[arg(long, global = true)]
    pub offline: bool,
}

/// The commands of `ft`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the version
    Version,
    /// Write a lock for this repository, from what it has configured already
    #[command(
        after_help = "Examples:\n  ft init            look at the project, write ci/parity.lock.json, resolve and hash everything\n  \
        ft init --dry-run  print what would be written"
    )]
    Init(Init),
    /// Resolve, hash and record: the closure, config files, the collected tests
    #[command(
        after_help = "Examples:\n  ft lock               refresh everything that is stale\n  ft lock --collection  accept the tests as they are now, resolve nothing\n  \
        ft lock --check       exit 102 if the lock is stale; changes nothing, needs no network\n  \
        ft lock --network-from-report  what the last run talked to becomes its allow-list\n  \
        ft lock --image my/checks:1    pin this image of the engine: digests, layers, platform; touches nothing else"
    )]
    Lock(Lock),
    /// The self-check: does this clone match the lock? Runs no check
    Check(Check),
    /// The parity run: every check of the lock, each in its own cell
    #[command(
        after_help = "Examples:\n  ft run                     everything, as CI runs it\n  ft run ruff mypy           only these (the verdict is then PARITY-041, not \"passed\")\n  \
        ft run --snapshot index    what is staged\n  ft run --snapshot HEAD     what is committed\n  ft run --plan              print what would run, and stop"
    )]
    Run(Run),
    /// The parity run for a CI job: nothing is installed into the clone, untracked files are errors
    Ci(Run),
    /// What the pre-commit hook runs: the self-check of the index
    PreCommit(Hook),
    /// What the pre-push hook runs: the parity run of the commits being pushed (read from standard input)
    PrePush(Hook),
    /// Run any command in a cell with the lock's environment, and exit with its status
    #[command(
        after_help = "Examples:\n  ft exec -- pytest -x tests/test_api.py\n  ft exec -- python -c 'import sys; print(sys.version)'"
    )]
    Exec(Exec),
    /// An interactive shell in a cell with the lock's environment and policy
    #[command(
        after_help = "Examples:\n  ft shell                   bash where there is one, else sh; leave it with `exit`\n  \
        ft shell -- python         another program that wants a terminal\n\nWhat is written in it is gone afterwards. Without a terminal use `ft exec -- COMMAND`."
    )]
    Shell(Shell),
    /// The locked environment: build it, verify it, say where it is, remove it
    Env {
        /// What to do with it.
        #[command(subcommand)]
        command: Env,
    },
    /// Container images: build, verify, save, load, pin
    Image {
        /// What to do with one.
        #[command(subcommand)]
        command: Image,
    },
    /// Git hooks: install, uninstall, status
    Hooks {
        /// What to do with them.
        #[command(subcommand)]
        command: Hooks,
    },
    /// Show the last run, or an earlier one
    Report(Report),
    /// Compare two reports field by field; exits 1 if they differ
    Diff {
        /// A report, or the id of a run
        left: String,
        /// Another one
        right: String,
    },
    /// What a code, an exit status or a finding means
    #[command(
        after_help = "Examples:\n  ft explain PARITY-021\n  ft explain 223\n  ft explain 45      what the shell shows for 301"
    )]
    Explain {
        /// PARITY-021, 223, 45, ...; without it, the whole table
        what: Option<String>,
    },
    /// Try every wall, limit and container engine on this machine, and say what to change
    #[command(
        after_help = "Examples:\n  ft doctor         a table of what holds, by what, and one fix for each thing that does not\n  \
        ft doctor --json  the same for programs\n\nExits with 0 where runs can work here, and with 105 where no cell can be raised or a policy of the\n\
        lock in reach can't be kept. Works outside of a repository as well."
    )]
    Doctor(Doctor),
    /// Remove environments, runs and wheels that are no longer needed
    Gc(Gc),
    /// Print the JSON Schema of the lock
    Schema,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `ft init`.
#[derive(Debug, Clone, Args)]
pub struct Init {
    /// Print the lock and the notes, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Replace a lock that is there
    #[arg(long)]
    pub force: bool,
    /// Write the lock only; resolve later with `ft lock`
    #[arg(long)]
    pub no_lock: bool,
}

/// Arguments of `ft lock`.
#[derive(Debug, Clone, Args)]
pub struct Lock {
    /// Record the collected tests, resolve nothing
    #[arg(long, conflicts_with = "check")]
    pub collection: bool,
    /// Only say whether the lock is stale
    #[arg(long)]
    pub check: bool,
    /// Take newer versions where the sources allow them
    #[arg(long, conflicts_with_all = ["check", "collection"])]
    pub upgrade: bool,
    /// Allow the hosts that a run with an open network talked to, and close the rest [default: the last run]
    #[arg(long, value_name = "REPORT", num_args = 0..=1, conflicts_with_all = ["check", "collection", "upgrade"])]
    pub network_from_report: Option<Option<PathBuf>>,
    /// Pin this image of the engine: digest, config digest, layers and platform
    #[arg(long, value_name = "NAME", conflicts_with_all = ["check", "collection", "upgrade", "network_from_report"])]
    pub image: Option<String>,
    /// With `--image`: for this Python of the matrix [default: the lock's `python`]
    #[arg(long, value_name = "VERSION", requires = "image")]
    pub python: Option<String>,
}

/// Arguments of `ft check`.
#[derive(Debug, Clone, Default, Args)]
pub struct Check {
    /// Read every file of the environment again, and collect the tests again
    #[arg(long)]
    pub deep: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Which tree: worktree, index, or a revision
    #[arg(long, value_name = "TREE", default_value = "worktree")]
    pub snapshot: String,
    /// For the lock's container image
    #[arg(long)]
    pub container: bool,
}

/// Arguments of `ft run` and `ft ci`.
#[derive(Debug, Clone, Default, Args)]
pub struct Run {
    /// Only these steps
    #[arg(value_name = "STEP")]
    pub steps: Vec<String>,
    /// Which tree: worktree (tracked files as they are), index, or a revision
    #[arg(long, value_name = "TREE", default_value = "worktree")]
    pub snapshot: String,
    /// Print what would run, and stop
    #[arg(long)]
    pub plan: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Full report, but exit 0; never says "passed"
    #[arg(long)]
    pub advisory: bool,
    /// A failing step cancels the steps that come later
    #[arg(long)]
    pub fail_fast: bool,
    /// Every Python of the lock's matrix that is installed
    #[arg(long)]
    pub matrix: bool,
    /// In the lock's container image
    #[arg(long)]
    pub container: bool,
    /// Steps at once (default: the lock's cpu_count, else the processors)
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
}

/// Arguments that git gives a hook.
#[derive(Debug, Clone, Args)]
pub struct Hook {
    /// What git passes on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub args: Vec<String>,
}

/// Arguments of `ft exec`.
#[derive(Debug, Clone, Args)]
pub struct Exec {
    /// Which tree: worktree, index, or a revision
    #[arg(long, value_name = "TREE", default_value = "worktree")]
    pub snapshot: String,
    /// Seconds until the command is ended (default: none)
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// In the lock's container image
    #[arg(long)]
    pub container: bool,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Arguments of `ft shell`.
#[derive(Debug, Clone, Args)]
pub struct Shell {
    /// Which tree: worktree, index, or a revision
    #[arg(long, value_name = "TREE", default_value = "worktree")]
    pub snapshot: String,
    /// Another program than a shell, and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// The commands of `ft env`.
#[derive(Debug, Clone, Subcommand)]
pub enum Env {
    /// Build the environment if it is not there
    Build {
        /// Build it again even if it is there
        #[arg(long)]
        force: bool,
    },
    /// Read every file again and compare with the seal
    Verify,
    /// Print where it is
    Path,
    /// Remove the environments of this repository
    Clean,
}

/// The commands of `ft image`.
#[derive(Debug, Clone, Subcommand)]
pub enum Image {
    /// Write an image archive whose id is the same on every machine
    #[command(
        after_help = "Examples:\n  ft image build ./root -o py311.tar --name my/py311   from a directory with a root file system\n  \
        ft image build scratch -o empty.tar                   an image with nothing in it\n  \
        ft image build my/base:1 -o base.tar --load           an image of the engine, written anew\n  \
        ft image build python@sha256:... -o base.tar          pulled where the engine lacks it, verified\n  \
        ft image build my/base:1 --with-environment -o ci.tar the image of the lock, with the locked tools in it\n\n\
        The id is printed on standard output. Files are root's, with modes 0644 and 0755, and no newer than the epoch."
    )]
    Build(ImageBuild),
    /// Compare an image of the engine, or an archive, with the lock
    #[command(after_help = "Examples:\n  ft image verify                  every image of the lock, in the engine\n  \
        ft image verify my/py311         is this the image of the lock?\n  \
        ft image verify py311.tar        the same for an archive, read to its last byte\n\n\
        Exits with 102 where the lock has no digest (PARITY-014), with 105 where the image is another one (PARITY-051).")]
    Verify {
        /// A name or id in the engine, or a file; without it, every image of the lock
        what: Option<String>,
        /// For this Python of the matrix [default: the lock's `python`]
        #[arg(long, value_name = "VERSION", requires = "what")]
        python: Option<String>,
    },
    /// Write an image of the engine to an archive, or all that a machine without network needs to a bundle
    #[command(
        after_help = "Examples:\n  ft image save my/py311 -o py311.tar\n  ft image save -o py311.tar          the image of the lock\n  \
        ft image save --bundle ft.bundle    the images of the lock and every wheel of its closure"
    )]
    Save {
        /// A name or id in the engine [default: the image of the lock]
        #[arg(conflicts_with = "bundle")]
        name: Option<String>,
        /// Where the archive goes
        #[arg(short, long, value_name = "FILE", required_unless_present = "bundle")]
        output: Option<PathBuf>,
        /// Where a bundle goes
        #[arg(long, value_name = "FILE", conflicts_with = "output")]
        bundle: Option<PathBuf>,
    },
    /// Verify an archive or a bundle, then load it
    #[command(after_help = "Examples:\n  ft image load py311.tar\n  ft image load py311.tar --as my/py311:2\n  \
        ft image load oci.tar --only my/py311   one image of several\n  \
        ft image load layout/                   an OCI layout as a directory\n  ft image load ft.bundle                 images and wheels, in a clone with the lock\n\n\
        Docker archives and OCI layouts, in a tar or a directory. Nothing is loaded unless every layer is what the archive says.")]
    Load {
        /// The archive, a file or a directory; or the bundle
        file: PathBuf,
        /// What the engine shall call it
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        /// Which image of the archive, by name or digest
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
    },
    /// Write what identifies an image of the engine into the lock; the same as `ft lock --image`
    Pin {
        /// A name or id in the engine
        name: String,
        /// For this Python of the matrix [default: the lock's `python`]
        #[arg(long, value_name = "VERSION")]
        python: Option<String>,
    },
}

/// Arguments of `ft image build`.
#[derive(Debug, Clone, Args)]
pub struct ImageBuild {
    /// What it is made on: a directory, an archive, a name in the engine, `name@sha256:...`, or `scratch`
    #[arg(value_name = "BASE")]
    pub base: String,
    /// Where the archive goes
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What engines shall call it; no part of its id
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Load it into the engine, too
    #[arg(long)]
    pub load: bool,
    /// The locked environment as a layer, at /ft/env; BASE is then the image of the lock
    #[arg(long)]
    pub with_environment: bool,
    /// A variable of every process, for a directory and for scratch; may come several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// For which machines [default: this one, or that of the base]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// No time in it is later than this, in seconds since 1970 [default: SOURCE_DATE_EPOCH, or 1980-01-01]
    #[arg(long, value_name = "SECONDS")]
    pub epoch: Option<u64>,
}

/// The commands of `ft hooks`.
#[derive(Debug, Clone, Subcommand)]
pub enum Hooks {
    /// Install pre-commit and pre-push where git looks for them; hooks that are there are kept and called
    Install,
    /// Restore what was there before, to the byte
    Uninstall,
    /// Say what is installed
    Status,
}

/// Arguments of `ft report`.
#[derive(Debug, Clone, Args)]
pub struct Report {
    /// The id of a run; the last one if absent
    pub run: Option<String>,
    /// In which form
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub format: Form,
    /// List the runs that are kept
    #[arg(long, conflicts_with = "run")]
    pub list: bool,
}

/// The forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    Text,
    /// parity_report.json
    Json,
    /// junit.xml
    Junit,
}

/// Arguments of `ft doctor`.
#[derive(Debug, Clone, Default, Args)]
pub struct Doctor {
    /// Print the diagnosis as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `ft gc`.
#[derive(Debug, Clone, Args)]
pub struct Gc {
    /// Environments, wheels and the container engine's shared volumes may keep this many MiB each
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub keep_mb: u64,
    /// Runs to keep
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub keep_runs: usize,
}

/// The runner with the flags of the original.
#[derive(Debug, Parser)]
#[command(name = "ft-parity", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Examples:\n  ft-parity --self-check\n  ft-parity --parity --explain\n\nThe same as `ft check` and `ft run`."
)]
pub struct ParityCli {
    /// Does this clone match the lock? Runs no check
    #[arg(long, conflicts_with = "parity", required_unless_present = "parity")]
    pub self_check: bool,
    /// Every check of the lock
    #[arg(long, visible_alias = "full")]
    pub parity: bool,
    /// Every Python of the lock's matrix
    #[arg(long, requires = "parity")]
    pub matrix: bool,
    /// In the lock's container image
    #[arg(long)]
    pub container: bool,
    /// Print what would run, and stop
    #[arg(long, requires = "parity")]
    pub plan: bool,
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        ParityCli::command().debug_assert();
    }

    #[test]
    fn every_help_text_is_a_phrase_without_a_period() {
        fn walk(command: &clap::Command) {
            for arg in command.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty() && !help.ends_with('.'), "{} {}: {help:?}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(walk);
        }
        let mut command = Cli::command();
        command.build();
        command.get_subcommands().for_each(walk);
    }
}
