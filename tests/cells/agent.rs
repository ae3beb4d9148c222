//! The agent as a program: what it is made of.

use std::process::Command;

#[test]
fn each_agent_is_a_static_program_for_its_architecture() {
    use firsttry::cell::agents;
    let own = agents::own().expect("a build on Linux has one");
    let all: Vec<&[u8]> = agents::architectures().into_iter().filter_map(agents::agent).collect();
    assert!(all.contains(&own) && agents::agent("riscv64").is_none());
    for architecture in agents::architectures() {
        let agent = agents::agent(architecture).unwrap();
        assert_eq!(&agent[..4], b"\x7fELF");
        let number =
            |at: usize, n: usize| agent[at..at + n].iter().rev().fold(0usize, |sum, b| sum << 8 | usize::from(*b));
        // The architecture's number (elf.h).
        assert_eq!(number(18, 2), if architecture == "amd64" { 62 } else { 183 });
        // Program headers of a 64-bit ELF file: none may ask for an interpreter (PT_INTERP is 3).
        let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        let kinds: Vec<usize> = (0..count).map(|i| number(offset + i * size, 4)).collect();
        assert!(kinds.contains(&1) && !kinds.contains(&3), "{kinds:?}");
        assert!(agent.len() < 4 << 20, "{} bytes", agent.len());
    }
}

#[test]
fn the_agent_depends_on_no_runtime_no_parser_and_no_macro() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--no-default-features",
            "--features",
            "agent",
            "--edges",
            "normal,build",
        ])
        .args(["--prefix", "none", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"rustix") && names.contains(&"tar"), "{tree}");
    for name in ["tokio", "clap", "serde", "serde_json", "bollard", "thiserror", "syn", "quote", "proc-macro2"] {
        assert!(!names.contains(&name), "{name} is in the agent's tree:\n{tree}");
    }
    assert!(!tree.contains("(proc-macro)"), "{tree}");
}

#[test]
fn outside_of_a_cell_the_agent_refuses_to_work() {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ft-agent");
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o700).open(&path).unwrap();
    file.write_all(firsttry::cell::agents::own().unwrap()).unwrap();
    drop(file);
    for arguments in [&[][..], &["--walls"]] {
        // Its input ends at once: it must neither wait nor end anybody.
        let output = Command::new(&path).args(arguments).stdin(std::process::Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(if arguments.is_empty() { "not the first process" } else { "spec" }), "{text:?}");
    }
}
