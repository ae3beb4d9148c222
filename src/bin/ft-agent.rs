//! The agent's entry. It is started by a cell, never by a person.

/// Without an argument it is PID 1 of a container whose engine built the walls; with `--walls` it builds them itself.
#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    firsttry::agent::main(std::env::args_os().nth(1).is_some_and(|mode| mode == "--walls"))
}

/// Cells are Linux.
#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    firsttry::code::ExitCode::INFRASTRUCTURE.into()
}
