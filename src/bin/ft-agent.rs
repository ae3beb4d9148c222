//! The agent's entry. It is started by a cell, never by a person.

/// With `--within SECONDS` it is PID 1 of a container whose engine built the walls, for so long at most; with `--walls` it
/// builds them itself, with `--here` it does without namespaces; with `--try DIR` it says which of them can be had.
#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use firsttry::agent::Mode;
    let mut words = std::env::args_os().skip(1);
    let mode = words.next();
    match (mode.as_deref().and_then(std::ffi::OsStr::to_str), words.next()) {
        (Some("--try"), Some(scratch)) => firsttry::agent::trials(scratch.as_ref()),
        (Some("--walls"), _) => firsttry::agent::main(Mode::Raise),
        (Some("--here"), _) => firsttry::agent::main(Mode::Here),
        (Some("--within"), seconds) => {
            let seconds = seconds.and_then(|word| word.to_str()?.parse().ok());
            firsttry::agent::main(Mode::Behind { seconds })
        }
        _ => firsttry::agent::main(Mode::Behind { seconds: None }),
    }
}

/// Cells are Linux.
#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    firsttry::code::ExitCode::INFRASTRUCTURE.into()
}
