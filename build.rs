//! Builds `ft-agent` as a static program of its own, for the library to embed; or takes the agents of `FT_AGENTS`.
//!
//! A cell needs the agent of its kernel's architecture, and a build knows one C library: this machine's. A release, and
//! every build on a system that has no cells, gets a directory of agents made before, `ft-agent-amd64` and
//! `ft-agent-arm64` (`ci/release`): then the same bytes travel with every host, and environments are shared between them.
//!
//! A nested cargo is needed because `crt-static` must not reach procedural macros: it may only be set together with
//! `--target`, and a build script can't know whether the outer cargo was given one. The agent's dependencies are a
//! subset of the library's, so nothing is fetched that the outer cargo has not fetched already.

#![expect(clippy::disallowed_methods, reason = "how cargo and its build scripts talk")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each architecture as images call it and as Rust does, with its number in the header of an ELF file (elf.h).
const ARCHITECTURES: [(&str, &str, u8); 2] = [("amd64", "x86_64", 62), ("arm64", "aarch64", 183)];

/// What the agent is made of; a change elsewhere does not build it again.
const SOURCES: &[&str] = &[
    "src/agent",
    "src/linux",
    "src/escape.rs",
    "src/etc.rs",
    "src/frame.rs",
    "src/network.rs",
    "src/network",
    "src/code.rs",
    "src/bin/ft-agent.rs",
    "Cargo.toml",
    "build.rs",
];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    // The agent's own build passes through here too and has nothing to embed.
    if env::var_os("CARGO_FEATURE_HOST").is_none() {
        return;
    }
    println!("cargo::rerun-if-env-changed=FT_AGENTS");
    let out = PathBuf::from(variable("OUT_DIR"));
    let made_before = env::var_os("FT_AGENTS").map(PathBuf::from);
    let cells_here = variable("CARGO_CFG_TARGET_OS") == "linux";
    for (image, rust, number) in ARCHITECTURES {
        let name = format!("ft-agent-{image}");
        let agent = match &made_before {
            Some(dir) => made(&dir.join(&name), number),
            None if cells_here && variable("CARGO_CFG_TARGET_ARCH") == rust => {
                read(&build_agent(&out.join("agent"), &variable("TARGET")))
            }
            // The library says so where it would need it.
            None => Vec::new(),
        };
        let embedded = out.join(&name);
        std::fs::write(&embedded, agent).unwrap_or_else(|e| panic!("write {}: {e}", embedded.display()));
        println!("cargo::rustc-env=FT_AGENT_{}={}", image.to_uppercase(), embedded.display());
    }
}

/// An agent that was made before, for the architecture with this number.
fn made(path: &Path, number: u8) -> Vec<u8> {
    println!("cargo::rerun-if-changed={}", path.display());
    let agent = read(path);
    // 64-bit, little-endian, and e_machine.
    let fits = agent.starts_with(b"\x7fELF\x02\x01") && agent.get(18..20) == Some(&[number, 0]);
    assert!(fits, "{} of FT_AGENTS is no program for its architecture", path.display());
    assert!(is_static(&agent), "{} of FT_AGENTS wants a C library, which an image may not have", path.display());
    agent
}

/// Whether none of its program headers asks for an interpreter (PT_INTERP, elf.h).
fn is_static(agent: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        let bytes = agent.get(at..at + bytes).unwrap_or_default();
        bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    count > 0 && (0..count).all(|at| number(offset + at * size, 4) != 3)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

fn build_agent(target_dir: &Path, target: &str) -> PathBuf {
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(&source)
        .args(["build", "--release", "--bin", "ft-agent", "--no-default-features", "--features", "agent"])
        .args(["--target", target])
        .arg("--target-dir")
        .arg(target_dir)
        .arg("--manifest-path")
        .arg(source.join("Cargo.toml"));
    // A packaged crate carries the lock; a checkout that never resolved one would fail for no good reason.
    if source.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    // What the outer cargo says about its own build must not steer this one: clippy's wrapper, another target
    // directory, coverage flags, profile overrides. The job server and the network settings stay.
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let steers = text.starts_with("CARGO_PROFILE_")
            || text.starts_with("CARGO_BUILD_")
            || text.starts_with("CARGO_FEATURE_")
            || text.starts_with("CARGO_CFG_")
            || text.starts_with("CLIPPY_")
            || matches!(
                text,
                "CARGO_TARGET_DIR"
                    | "RUSTC_WORKSPACE_WRAPPER"
                    | "RUSTFLAGS"
                    | "RUSTDOCFLAGS"
                    | "CARGO_ENCODED_RUSTDOCFLAGS"
            );
        if steers {
            cargo.env_remove(&name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = cargo.status().unwrap_or_else(|e| panic!("start cargo for ft-agent: {e}"));
    assert!(status.success(), "building ft-agent for {target} failed: {status}; a static C library is needed");
    target_dir.join(target).join("release").join("ft-agent")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
