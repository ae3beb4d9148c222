//! From the process's start to its exit status.

use crate::code::ExitCode;
use crate::commands::{self, Front};
use crate::ui;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs a program from argv to its exit status.
#[must_use]
pub fn entry(front: Front) -> std::process::ExitCode {
    guarded(|| commands::main(front, std::env::args_os().collect()))
}

/// Does the work and leaves with its code. The only place where a bug becomes 70: a panic in any thread is caught here,
/// so that Rust's own 101 is never read as version drift. Takes over the panic hook of the process.
#[must_use]
pub fn guarded(work: impl FnOnce() -> ExitCode) -> std::process::ExitCode {
    let bug: Arc<Mutex<Option<String>>> = Arc::default();
    let seen = Arc::clone(&bug);
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without a message");
        let place = panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        seen.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(format!("{text}{place}"));
    }));
    let result = catch_unwind(AssertUnwindSafe(work));
    let bug = bug.lock().unwrap_or_else(PoisonError::into_inner).take();
    let code = match (result, bug) {
        (Ok(code), None) => code,
        (_, bug) => {
            ui::bug(&bug.unwrap_or_else(|| "a panic without a message".to_owned()));
            ExitCode::BUG
        }
    };
    code.into()
}
