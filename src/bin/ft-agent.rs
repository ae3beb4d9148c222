//! The agent's entry. It is started by a cell, never by a person.

/// Without an argument it is PID 1 of a container whose engine built the walls; with `--walls` it builds them itself;
/// with `--try DIR` it says which of them can be had.
#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let mut words = std::env::args_os().skip(1);
    match (words.next(), words.next()) {
        (Some(mode), Some(scratch)) if mode == "--try" => firsttry::agent::trials(scratch.as_ref()),
        (mode, _) => firsttry::agent::main(mode.is_some_and(|mode| mode == "--walls")),
    }
}

/// Cells are Linux.
#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    firsttry::code::ExitCode::INFRASTRUCTURE.into()
}
