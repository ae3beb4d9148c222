//! Builds `ft-agent` as a static program of its own, for the library to embed.
//!
//! A nested cargo is needed because `crt-static` must not reach procedural macros: it may only be set together with
//! `--target`, and a build script can't know whether the outer cargo was given one. The agent's dependencies are a
//! subset of the library's, so nothing is fetched that the outer cargo has not fetched already.

#![expect(clippy::disallowed_methods, reason = "how cargo and its build scripts talk")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    let out = PathBuf::from(variable("OUT_DIR"));
    let embedded = out.join("ft-agent");
    if variable("CARGO_CFG_TARGET_OS") == "linux" {
        let built = build_agent(&out.join("agent"), &variable("TARGET"));
        std::fs::copy(&built, &embedded).unwrap_or_else(|e| panic!("copy {}: {e}", built.display()));
    } else {
        // Cells run on Linux; elsewhere the library says so instead of starting one.
        std::fs::write(&embedded, b"").unwrap_or_else(|e| panic!("write {}: {e}", embedded.display()));
    }
    println!("cargo::rustc-env=FT_AGENT={}", embedded.display());
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
