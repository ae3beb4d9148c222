//! `ft gc`: removes environments, runs and leftovers that are no longer needed.

use super::context::Context;
use super::{env, publish};
use crate::cell;
use crate::cli::Gc;
use crate::code::ExitCode;
use crate::ui;

pub(super) fn gc(context: &Context, args: &Gc) -> ExitCode {
    let repo = match super::discover(context) {
        Ok(repo) => repo,
        Err(code) => return code,
    };
    let collect = || -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let lock = publish::lock(&repo.state_dir()).map_err(|error| text(&error))?;
        publish::sweep(&repo);
        let runs = lock.prune(args.keep_runs).map_err(|error| text(&error))?;
        let store = env::store(context, &repo);
        // The current environment stays, whatever the budget says.
        let current = env::current_key(context, &repo);
        let removed = store.gc(args.keep_mb.saturating_mul(1 << 20), current.as_ref()).map_err(|error| text(&error))?;
        let wheels = store.wheels().gc(args.keep_mb.saturating_mul(1 << 20)).map_err(|error| text(&error))?;
        let bytes: u64 = removed.iter().map(|env| env.bytes).sum();
        ui::note(&format!(
            "removed {} runs and {} environments ({} MiB with wheels)",
            runs.len(),
            removed.len(),
            (bytes + wheels) >> 20
        ));
        Ok(())
    };
    match fs_err::create_dir_all(repo.state_dir()).map_err(|error| error.to_string()).and_then(|()| collect()) {
        Ok(()) => {
            cell::sweep();
            ExitCode::PASSED
        }
        Err(message) => {
            ui::error(&message, None);
            ExitCode::INFRASTRUCTURE
        }
    }
}
