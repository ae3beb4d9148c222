//! The image that the projects are checked in: that of the other tests, and what builds a C extension and runs JavaScript on
//! this machine. Of the compiler it has what is read where this Python's own commands build an extension.

use super::container::{self, Entry, Files};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Builds an extension as `sysconfig` says, where `read` lists every header and every input of the linker. Prints the
/// compiler, and where the headers of this Python are.
const EXTENSION: &str = r##"
import subprocess, sysconfig
include, value = sysconfig.get_path("include"), sysconfig.get_config_var
with open("a.c", "w") as source:
    source.write("#include <Python.h>\n")
for command in (
    f"{value('CC')} {value('CFLAGS')} {value('CCSHARED')} -I{include} -MD -MF headers -c a.c -o a.o",
    f"{value('LDSHARED')} -Wl,--dependency-file=inputs a.o -o a.so",
    "cat headers inputs > read",
):
    subprocess.run(command, shell=True, check=True)
print(value("CC").split()[0], include, sep="\n")
"##;

/// Prints the parts of itself that this Node.js has in files, as Debian's does.
const OUTSIDE: &str = r#"
const { defines } = process.config.target_defaults;
console.log(defines.map(define => define.split("=")[1] || "").filter(path => path.startsWith("/")).join("\n"));
"#;

/// The tag of the image, built at the first call unless an equal one is there.
pub fn image() -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| {
        let mut files = container::files();
        let mut programs = compiler(&mut files);
        programs.push(node(&mut files));
        container::add_libraries(&programs, &mut files);
        container::image_of(&files)
    })
}

/// Adds what builds an extension; the programs among it.
fn compiler(files: &mut Files) -> Vec<PathBuf> {
    let folder = tempfile::tempdir().unwrap();
    let printed = said(Command::new("python3.11").args(["-I", "-c", EXTENSION]).current_dir(&folder));
    let (name, include) = printed.trim().split_once('\n').unwrap();
    let include = fs::canonicalize(include).unwrap();
    let mut programs = Vec::new();
    container::walk(&include, Path::new("usr/local/include/python3.11"), files, &mut programs);
    let ask = |what: &str| said(Command::new(name).arg(what)).trim().to_owned();

    // The compiler looks for its own parts beside each other and for headers where they are here. All else is for the
    // linker, and stands with the libraries.
    let own = placed(Path::new(&ask("-print-libgcc-file-name"))).parent().unwrap().to_owned();
    let read = fs::read_to_string(folder.path().join("read")).unwrap();
    let read = read.split_whitespace().map(|path| Path::new(path.trim_end_matches(':'))).filter(|path| path.is_file());
    for path in read.filter(|path| path.is_absolute()).map(placed).filter(|path| !path.starts_with(&include)) {
        let here = path.extension().is_some_and(|extension| extension == "h") || path.starts_with(&own);
        let inside = if here { below_root(&path) } else { Path::new("usr/lib").join(path.file_name().unwrap()) };
        files.insert(inside, Entry::File(path));
    }
    for part in ["-print-prog-name=cc1", "-print-prog-name=collect2", "-print-file-name=liblto_plugin.so"] {
        let path = placed(Path::new(&ask(part)));
        files.insert(below_root(&path), Entry::File(path.clone()));
        programs.push(path);
    }
    for (name, path) in [(name, name), ("as", &ask("-print-prog-name=as")), ("ld", &ask("-print-prog-name=ld"))] {
        let path = container::which(path);
        files.insert(Path::new("usr/bin").join(name), Entry::File(path.clone()));
        programs.push(path);
    }
    // The linker's scripts name libraries by their places here.
    let architecture = ask("-print-multiarch");
    if !architecture.is_empty() {
        files.insert(Path::new("usr/lib").join(architecture), Entry::Link(".".into()));
    }
    programs
}

/// Adds Node.js, which pyright is written for.
fn node(files: &mut Files) -> PathBuf {
    let node = container::which("node");
    for path in said(Command::new(&node).args(["-e", OUTSIDE])).lines().filter(|line| !line.is_empty()) {
        files.insert(below_root(Path::new(path)), Entry::File(path.into()));
    }
    files.insert("usr/bin/node".into(), Entry::File(node.clone()));
    node
}

/// The path with no link and no `..` above its name, which may be a link's own.
fn placed(path: &Path) -> PathBuf {
    let folder = fs::canonicalize(path.parent().unwrap());
    folder.unwrap_or_else(|error| panic!("{}: {error}", path.display())).join(path.file_name().unwrap())
}

fn below_root(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap().to_owned()
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
