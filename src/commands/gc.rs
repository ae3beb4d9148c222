//! `ft gc`: removes environments, runs and leftovers that are no longer needed.

use super::context::Context;
use super::{env, publish};
use crate::cell;
use crate::cli::Gc;
use crate::code::ExitCode;
use crate::engine::endpoint::{Disk, named, unnamed};
use crate::engine::{Engine, EngineError, Owner, SharedVolume, Swept, Where};
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
            engine(context, args.keep_mb.saturating_mul(1 << 20));
            ExitCode::PASSED
        }
        Err(message) => {
            ui::error(&message, None);
            ExitCode::INFRASTRUCTURE
        }
    }
}

/// What dead runs left in the engine, and what is shared there beyond the budget. An engine that is not there holds
/// nothing; one that was named and can't be asked is a warning.
fn engine(context: &Context, keep_bytes: u64) {
    let places = Where::from_variables(|name| context.vars.text(name));
    let chosen = match named(&places, &Disk) {
        Ok(chosen) => chosen,
        Err(error) => return unasked(&error),
    };
    let was_named = chosen.is_some();
    let endpoints = chosen.map_or_else(|| unnamed(&places, &Disk), |endpoint| vec![endpoint]);
    let collect = async {
        let engine = match Engine::first_of(endpoints).await {
            Ok(engine) => engine,
            Err(error) if was_named => return Err(error),
            Err(_) => return Ok(None),
        };
        let swept = engine.sweep(&Owner::this()).await?;
        let shared = engine.gc(keep_bytes, &[]).await?;
        Ok(Some((engine.facts().endpoint.clone(), swept, shared)))
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ui::warning(&format!("the container engine was not asked: {error}"), None),
    };
    match runtime.block_on(collect) {
        Ok(Some((endpoint, swept, shared))) => say(&endpoint, &swept, &shared),
        Ok(None) => {}
        Err(error) => unasked(&error),
    }
}

fn unasked(error: &EngineError) {
    ui::warning(&format!("what is left in the container engine stays there: {error}"), Some(&error.hint()));
}

fn say(endpoint: &str, swept: &Swept, shared: &[SharedVolume]) {
    for error in &swept.left {
        ui::warning(&error.to_string(), None);
    }
    if swept.count() + shared.len() > 0 {
        let bytes: u64 = shared.iter().filter_map(|volume| volume.bytes).sum();
        ui::note(&format!(
            "removed {} containers, {} volumes and {} networks of dead runs and {} shared volumes ({} MiB) from {endpoint}",
            swept.containers.len(),
            swept.volumes.len(),
            swept.networks.len(),
            shared.len(),
            bytes >> 20
        ));
    }
}
