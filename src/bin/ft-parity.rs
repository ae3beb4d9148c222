//! `ft-parity`: the runner, with the flags of the original.

fn main() -> std::process::ExitCode {
    firsttry::entry(firsttry::Front::FtParity)
}
