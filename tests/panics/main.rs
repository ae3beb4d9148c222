//! A bug is 70: panics through the same function that `ft` and `ft-parity` leave by. A program of its own, because that
//! function takes over the panic hook of its process; it starts itself again for each case and looks from outside.

#![expect(clippy::print_stdout, reason = "the result, in the words of cargo's own tests")]

use firsttry::code::ExitCode;
use std::process::Command;

fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("--in-main") => firsttry::guarded(|| panic!("a bug {}", 7)),
        Some("--in-a-thread") => firsttry::guarded(|| {
            let joined = std::thread::spawn(|| panic!("a bug in a thread")).join();
            assert!(joined.is_err());
            ExitCode::PASSED
        }),
        Some("--in-a-task") => firsttry::guarded(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let lost = runtime.block_on(async { tokio::spawn(async { panic!("a bug in a task") }).await });
            assert!(lost.is_err());
            ExitCode::PASSED
        }),
        Some("--none") => firsttry::guarded(|| ExitCode(211)),
        _ => {
            let cases = [
                ("--in-main", 70, "a bug 7"),
                ("--in-a-thread", 70, "a bug in a thread"),
                ("--in-a-task", 70, "a bug in a task"),
                ("--none", 211, ""),
            ];
            for (case, status, words) in cases {
                looked_at_from_outside(case, status, words);
            }
            println!("\ntest result: ok. {} passed; 0 failed; 0 ignored", cases.len());
            std::process::ExitCode::SUCCESS
        }
    }
}

/// Panics, and so fails, where the program leaves otherwise than it should.
fn looked_at_from_outside(case: &str, status: i32, words: &str) {
    let me = std::env::current_exe().expect("this program has a path");
    let out = Command::new(me).arg(case).output().expect("it can be started");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{case}: {said}");
    assert!(said.contains(words), "{case}: {said}");
    if status == 70 {
        assert!(
            said.starts_with("bug: ") && said.contains("tests/panics/main.rs:") && said.contains("hint: "),
            "{said}"
        );
        assert!(!said.contains("RUST_BACKTRACE"), "{said}");
    } else {
        assert_eq!(said, "");
    }
}
