//! The agent's entry. It is started by a cell, never by a person.

/// Without an argument it is PID 1 of a container whose engine built the walls; with `--walls` it builds them itself,
/// and with `--here` it does without namespaces.
#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use firsttry::agent::Mode;
    firsttry::agent::main(match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("--walls") => Mode::Raise,
        Some("--here") => Mode::Here,
        _ => Mode::Behind,
    })
}

/// Cells are Linux.
#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    firsttry::code::ExitCode::INFRASTRUCTURE.into()
}
