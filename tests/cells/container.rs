//! Containers for tests, from this machine's own files: no registry is asked. The image is a small Linux with a Python
//! and what the tests call; this test binary and `ft` are bound into each container. An engine is a must: without one these
//! tests fail.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Every image and container of these tests has it.
const LABEL: &str = "ft.test";
/// Where this test binary stands inside.
pub const CELLS: &str = "/opt/ft/bin/cells";
/// Where `ft` stands inside; on the `PATH` as well.
pub const FT: &str = "/opt/ft/bin/ft";

const PATH: &str = "/opt/ft/bin:/usr/local/bin:/usr/bin:/bin";

/// What a Python check's commands and these tests call.
const TOOLS: &[&str] = &[
    "basename",
    "cat",
    "chmod",
    "cp",
    "cut",
    "date",
    "dd",
    "dirname",
    "env",
    "false",
    "find",
    "git",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "mount",
    "mv",
    "ps",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setpriv",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tar",
    "timeout",
    "touch",
    "tr",
    "true",
    "umount",
    "uname",
    "unshare",
    "wc",
    "xargs",
];

/// Parts of the standard library that are large and that no test needs.
const LEFT_OUT: &[&str] =
    &["test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "site-packages", "dist-packages"];

/// One container to be: the engine's defaults, no network.
pub struct Container {
    arguments: Vec<String>,
    limit: Duration,
}

impl Container {
    /// Root inside, with what the engine gives by default, and no network but its own loopback.
    pub fn new() -> Container {
        Container { arguments: vec!["--network".into(), "none".into()], limit: Duration::from_secs(300) }
    }

    /// The least that an engine is commonly asked to give: an ordinary user, no capabilities, no new privileges.
    pub fn ordinary() -> Container {
        Container::new().with(&["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "1234:1234"])
    }

    /// Further options of `docker create`; a later `--network` wins.
    pub fn with(mut self, arguments: &[&str]) -> Container {
        if let Some(at) = arguments.iter().position(|a| *a == "--network") {
            self.arguments[1] = arguments[at + 1].to_owned();
            let rest: Vec<&str> = [&arguments[..at], &arguments[at + 2..]].concat();
            return self.with(&rest);
        }
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// The same with more time than five minutes.
    pub fn lasting(self, limit: Duration) -> Container {
        Container { limit, ..self }
    }

    /// Runs it to its end and removes it. Killed and failed after five minutes.
    pub fn run(&self, argv: &[&str]) -> Output {
        let image = image();
        let owner = format!("{LABEL}.pid={}", std::process::id());
        let bound = |host: &Path, inside: &str| format!("{}:{inside}:ro", host.display());
        let cells = bound(&std::env::current_exe().unwrap(), CELLS);
        let ft = bound(env!("CARGO_BIN_EXE_ft").as_ref(), FT);
        let mut create = vec!["create", "--label", LABEL, "--label", &owner, "--volume", &cells, "--volume", &ft];
        create.extend(self.arguments.iter().map(String::as_str));
        create.push(image);
        create.extend(argv);
        let made = Made(docker(&create, None).trim().to_owned());
        let mut child = Command::new("docker")
            .args(["start", "--attach", &made.0])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let read = |pipe: &mut dyn Read| {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            bytes
        };
        std::thread::scope(|scope| {
            let (out, err) = (scope.spawn(|| read(&mut stdout)), scope.spawn(|| read(&mut stderr)));
            let until = Instant::now() + self.limit;
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                if Instant::now() > until {
                    // The attached client ends with its container.
                    docker(&["kill", &made.0], None);
                    let _ = child.wait();
                    let text = [out.join().unwrap(), err.join().unwrap()].concat();
                    panic!("{argv:?} did not end within {:?}:\n{}", self.limit, String::from_utf8_lossy(&text));
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
        })
    }

    /// What it wrote to both streams, where it exited with 0.
    pub fn passed(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{argv:?} in a container: {}\n{text}", output.status);
        text
    }
}

/// A container that is removed whatever happens.
struct Made(String);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", &self.0]).stdout(Stdio::null()).status();
    }
}

/// Where the host is, as seen from a container on the engine's bridge: its listeners are reached there.
pub fn gateway() -> std::net::IpAddr {
    let container = Container::new().with(&["--network", "bridge"]);
    // `/proc/net/route` has the gateway as a number in the machine's order.
    let routes = container.passed(&["cat", "/proc/net/route"]);
    let hex = routes.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&"00000000")).then(|| words[2].to_owned())
    });
    let number = u32::from_str_radix(&hex.unwrap_or_else(|| panic!("no default route:\n{routes}")), 16).unwrap();
    std::net::Ipv4Addr::from(number.to_le_bytes()).into()
}

type Feed<'a> = &'a dyn Fn(&mut dyn Write);

/// Calls the engine's client; its standard output.
fn docker(arguments: &[&str], input: Option<Feed<'_>>) -> String {
    let mut child = Command::new("docker")
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("these tests need the Docker client (`docker`) on the PATH and its engine running: {e}")
        });
    if let Some(feed) = input {
        let mut pipe = std::io::BufWriter::with_capacity(1 << 20, child.stdin.take().unwrap());
        feed(&mut pipe);
    }
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "docker {} failed; these tests need a Docker engine that this user may use (try `docker info`): {error}",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The tag of the image, built at the first call unless an equal one is there.
pub fn image() -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| image_of(&files()))
}

/// The tag of an image of these files, built unless an equal one is there.
pub fn image_of(files: &Files) -> String {
    sweep();
    let mut digest = Sha256::new();
    for (path, entry) in files {
        let of = match entry {
            Entry::Directory(mode) => format!("d {mode:o}"),
            Entry::Link(target) => format!("l {}", target.display()),
            Entry::Text(text) => format!("t {text}"),
            Entry::File(host) => {
                let meta = fs::metadata(host).unwrap();
                format!("f {} {} {}", host.display(), meta.len(), meta.mtime())
            }
        };
        digest.update(format!("{}\0{of}\0", path.display()));
    }
    let tag = format!("ft-test:{}", &hex::encode(digest.finalize())[..16]);
    let found = docker(&["images", "--quiet", &tag], None);
    if found.trim().is_empty() {
        let path = format!("ENV PATH={PATH}");
        let label = format!("LABEL {LABEL}=image");
        let import = ["import", "--change", &path, "--change", &label, "-", &tag];
        docker(&import, Some(&|pipe| write(files, pipe)));
    }
    tag
}

/// Removes containers whose test was killed before it could.
fn sweep() {
    let format = format!("{{{{.ID}}}} {{{{.Label \"{LABEL}.pid\"}}}}");
    let all = docker(&["ps", "--all", "--filter", &format!("label={LABEL}"), "--format", &format], None);
    for (id, pid) in all.lines().filter_map(|line| line.split_once(' ')) {
        if !Path::new("/proc").join(pid).exists() {
            drop(Made(id.to_owned()));
        }
    }
}

/// What an image has at a path.
pub enum Entry {
    Directory(u32),
    /// A file of this machine.
    File(PathBuf),
    Link(PathBuf),
    Text(&'static str),
}

/// By their paths in an image.
pub type Files = BTreeMap<PathBuf, Entry>;

/// Everything in the image. Libraries all stand in one directory that every loader searches, so that nothing depends on
/// where this machine has them: not on `/root`, for one, which not every user inside may enter.
pub fn files() -> Files {
    let mut files = Files::new();
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib"), ("usr/lib64", "lib")]
    {
        files.insert(link.into(), Entry::Link(target.into()));
    }
    for (directory, mode) in [("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("home", 0o755), ("run", 0o755)] {
        files.insert(directory.into(), Entry::Directory(mode));
    }
    for (path, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ] {
        files.insert(path.into(), Entry::Text(text));
    }
    let mut programs = vec![std::env::current_exe().unwrap(), PathBuf::from(env!("CARGO_BIN_EXE_ft"))];
    for name in TOOLS {
        let path = which(name);
        files.insert(Path::new("usr/bin").join(name), Entry::File(path.clone()));
        programs.push(path);
    }
    // What a local clone starts.
    files.insert("usr/bin/git-upload-pack".into(), Entry::Link("git".into()));
    let python = python();
    for name in ["python3.11", "python3", "python"] {
        let entry =
            if name == "python3.11" { Entry::File(python.program.clone()) } else { Entry::Link("python3.11".into()) };
        files.insert(Path::new("usr/local/bin").join(name), entry);
    }
    programs.push(python.program);
    walk(&python.library, Path::new("usr/local/lib/python3.11"), &mut files, &mut programs);
    add_libraries(&programs, &mut files);
    files
}

/// The shared libraries of these programs, where every loader searches.
pub fn add_libraries(programs: &[PathBuf], files: &mut Files) {
    for library in libraries(programs) {
        files.insert(Path::new("usr/lib").join(library.file_name().unwrap()), Entry::File(library));
    }
}

/// The program of this name or path, behind all links.
#[expect(clippy::disallowed_methods, reason = "the caller's own PATH holds python and docker")]
pub fn which(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = places.map(|place| place.join(name)).find(|path| path.is_file());
    fs::canonicalize(found.unwrap_or_else(|| panic!("these tests need `{name}` on the PATH"))).unwrap()
}

struct Python {
    program: PathBuf,
    library: PathBuf,
}

/// The Python 3.11 of this machine, wherever it is from.
fn python() -> Python {
    let script = "import sys, sysconfig; print(sys.executable); print(sysconfig.get_path('stdlib'))";
    let output = Command::new("python3.11").args(["-I", "-c", script]).output();
    let output = output.unwrap_or_else(|e| panic!("these tests need `python3.11` on the PATH: {e}"));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().map(|line| fs::canonicalize(line).unwrap());
    Python { program: lines.next().unwrap(), library: lines.next().unwrap() }
}

/// Adds the files below `from`, and to `programs` what may need libraries.
pub fn walk(from: &Path, to: &Path, files: &mut Files, programs: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        let text = name.to_string_lossy();
        // `config-*` holds a static libpython; Tk would bring a window system with it. Of the bytecode, an image has what
        // a plain start reads.
        let large = LEFT_OUT.contains(&&*text) || text.starts_with("config-") || text.starts_with("_tkinter");
        if large || text.contains(".opt-") {
            continue;
        }
        let meta = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if meta.is_dir() {
            walk(&path, &to.join(name), files, programs);
        } else {
            if path.extension() == Some(OsStr::new("so")) {
                programs.push(path.clone());
            }
            files.insert(to.join(name), Entry::File(path));
        }
    }
}

/// The shared libraries of all of them and the loader, as ldd(1) finds them.
fn libraries(programs: &[PathBuf]) -> BTreeSet<PathBuf> {
    let output = Command::new("ldd").args(programs).output().unwrap();
    // It exits with 1 where one of them is no dynamic program.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().filter_map(|line| {
        let line = line.trim();
        let path = line.split_once(" => ").map_or(line, |(_, path)| path).split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path)).filter(|path| path.exists() && !line.ends_with(':'))
    });
    let mut found: BTreeSet<PathBuf> = found.collect();
    // Wheels are built against the C library of before 2.34, when these were libraries of their own.
    let old = ["libpthread.so.0", "librt.so.1", "libdl.so.2", "libutil.so.1"];
    let beside =
        found.iter().find(|path| path.ends_with("libc.so.6")).and_then(|path| path.parent()).map(Path::to_owned);
    found.extend(beside.iter().flat_map(|directory| old.map(|name| directory.join(name))).filter(|path| path.exists()));
    assert!(found.iter().any(|p| p.to_string_lossy().contains("libc.so")), "ldd finds no C library:\n{text}");
    found
}

/// The image as a tar.
fn write(files: &Files, pipe: &mut dyn Write) {
    let mut tar = tar::Builder::new(pipe);
    let mut made = BTreeSet::new();
    for (path, entry) in files {
        parents(&mut tar, path, &mut made);
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        match entry {
            Entry::Directory(mode) => {
                directory(&mut tar, path, *mode);
                made.insert(path.clone());
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_mode(0o777);
                tar.append_link(&mut header, path, target).unwrap();
            }
            Entry::Text(text) => {
                header.set_mode(0o644);
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
            Entry::File(host) => file(&mut tar, path, host),
        }
    }
    tar.into_inner().unwrap().flush().unwrap();
}

fn parents<W: Write>(tar: &mut tar::Builder<W>, path: &Path, made: &mut BTreeSet<PathBuf>) {
    let all: Vec<PathBuf> =
        path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned).collect();
    for parent in all.into_iter().rev() {
        if made.insert(parent.clone()) {
            directory(tar, &parent, 0o755);
        }
    }
}

fn directory<W: Write>(tar: &mut tar::Builder<W>, path: &Path, mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(mode);
    tar.append_data(&mut header, path, std::io::empty()).unwrap();
}

/// Readable and executable by everybody, root's, without the setuid bits that it may have here. Its time stays, which is
/// how Python knows the bytecode of a module: without it, each start would compile the standard library anew.
fn file<W: Write>(tar: &mut tar::Builder<W>, path: &Path, host: &Path) {
    let file = fs::File::open(host).unwrap_or_else(|e| panic!("{}: {e}", host.display()));
    let meta = file.metadata().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
    header.set_size(meta.len());
    header.set_mtime(meta.mtime().try_into().unwrap_or(0));
    tar.append_data(&mut header, path, file).unwrap();
}

#[test]
fn a_container_has_what_the_tests_call_for_root_and_for_others() {
    let script = "import ctypes, hashlib, socket, sqlite3, ssl, subprocess, sys
print(sys.prefix, sys.version_info[:2], subprocess.check_output(['git', '--version'])[:11])";
    for container in [Container::new(), Container::ordinary()] {
        let output = container.passed(&["python3.11", "-I", "-c", script]);
        assert_eq!(output, "/usr/local (3, 11) b'git version'\n");
        assert!(container.passed(&["ft", "--version"]).starts_with("ft "));
        let list = container.passed(&[CELLS, "--list"]);
        assert!(list.contains("container::a_container_has_what_the_tests_call"), "{list}");
    }
}

#[test]
fn the_default_container_forbids_what_namespaces_cells_need() {
    // The reason for the kind `here`: if this ever changes, its tests have to find another place.
    let output = Container::new().run(&["unshare", "--user", "true"]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("unshare"), "{output:?}");
    // The same without the engine's filter: it is the filter that forbids it.
    Container::new().with(&["--security-opt", "seccomp=unconfined"]).passed(&["unshare", "--user", "true"]);
}

#[test]
fn a_listener_of_the_host_is_seen_from_the_bridge_and_not_without_a_network() {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = gateway();
    let script = format!("import socket; socket.create_connection(('{host}', {port}), 5)");
    Container::new().with(&["--network", "bridge"]).passed(&["python3", "-c", &script]);
    listener.accept().unwrap();
    assert!(!Container::new().run(&["python3", "-c", &script]).status.success());
}
