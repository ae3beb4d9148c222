//! The walls inside the crate: which module may import which. One crate has no crate walls, so this test is the wall.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each top-level module may name with `crate::`. Pure modules import only pure modules; effects import pure ones;
/// wiring imports all; nothing imports wiring.
const PURE: &[&str] = &[
    "code", "frame", "network", "finding", "step", "lock", "plan", "results", "event", "run", "outcome", "doctor",
    "report", "repo", "escape", "etc",
];
/// Tools of effects: how git is called, how a container engine is reached, the Python files we carry, the one way a tar is
/// written, and how what is temporary is made and removed.
const TOOLS: &[&str] = &["git", "engine", "lib_py", "leftovers", "tar_writer"];
const EFFECTS: &[&str] = &["facts", "snapshot", "environment", "artifacts", "bytecode", "hooks", "resolve", "image"];
const WIRING: &[&str] = &["session", "commands", "entry", "lib"];

fn allowed(module: &str) -> Option<BTreeSet<&'static str>> {
    let set = |lists: &[&[&'static str]]| Some(lists.iter().flat_map(|list| list.iter().copied()).collect());
    match module {
        // The agent's side compiles alone: no lock, no plan.
        "code" | "frame" => set(&[&["code"]]),
        "network" => set(&[&["frame"]]),
        "escape" => set(&[&["escape"]]),
        "etc" => set(&[&["etc"]]),
        "linux" => set(&[&["linux"]]),
        "agent" => set(&[&["agent", "linux", "frame", "network", "escape", "etc", "code"]]),
        // The host side of a cell raises walls and leads the conversation.
        "cell" => set(&[PURE, &["cell", "linux", "agent", "engine", "leftovers"]]),
        "ui" => set(&[PURE, &["ui"]]),
        "cli" => set(&[PURE, &["cli"]]),
        // Building an environment needs a cell, and nothing else that acts.
        "environment" => set(&[PURE, TOOLS, &["environment", "cell"]]),
        "lib_py" => set(&[&["lib_py"]]),
        "leftovers" => set(&[&["leftovers"]]),
        "tar_writer" => set(&[&["tar_writer"]]),
        m if PURE.contains(&m) => set(&[PURE]),
        // How git is called: below the effects, as `linux` is below the cells.
        "git" => set(&[PURE, &["git", "leftovers"]]),
        // How an engine is reached: the same.
        "engine" => set(&[PURE, &["engine", "linux"]]),
        m if EFFECTS.contains(&m) => {
            let own = EFFECTS.iter().copied().filter(|e| *e == m).chain(["git"]).collect::<Vec<_>>();
            Some(PURE.iter().chain(TOOLS).copied().chain(own).collect())
        }
        m if WIRING.contains(&m) => None,
        other => panic!("src/{other}: not in the table of the house; add it to tests/house"),
    }
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// `src/lock/parse.rs` belongs to `lock`.
fn module(path: &Path, src: &Path) -> String {
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn code_of(text: &str) -> impl Iterator<Item = &str> {
    // Test modules stand at the end of a file and may reach further.
    text.split("#[cfg(test)]").next().unwrap_or_default().lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn imports(text: &str) -> BTreeSet<String> {
    code_of(text)
        .flat_map(|line| line.match_indices("crate::").map(|(at, _)| &line[at + 7..]).collect::<Vec<_>>())
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
        .filter(|name: &String| !name.is_empty() && name.chars().next().is_some_and(char::is_lowercase))
        .collect()
}

#[test]
fn modules_import_only_what_the_house_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    let mut read = 0;
    for path in sources(&src) {
        let module = module(&path, &src);
        if module == "bin" {
            continue;
        }
        read += 1;
        let Some(allowed) = allowed(&module) else { continue };
        let text = std::fs::read_to_string(&path).unwrap();
        let bad: Vec<_> =
            imports(&text).into_iter().filter(|name| *name != module && !allowed.contains(name.as_str())).collect();
        if !bad.is_empty() {
            wrong.insert(path, bad);
        }
    }
    assert!(read > 20, "the test reads the sources");
    assert!(wrong.is_empty(), "imports across the walls: {wrong:#?}");
}

#[test]
fn unsafe_code_stands_in_linux_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        if module(&path, &src) != "linux" {
            let text = std::fs::read_to_string(&path).unwrap();
            let found = code_of(&text).any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
            assert!(!found, "{}: unsafe outside src/linux", path.display());
        }
    }
}
