//! `ft`: the daily command.

fn main() -> std::process::ExitCode {
    firsttry::entry(firsttry::Front::Ft)
}
