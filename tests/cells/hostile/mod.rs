//! Hostile programs, as one table. Each is run behind the walls and, as a control, without them: there the same program
//! must get what it wants, or the case shows nothing. Each says `SANDBOX-RAN` and its name before anything else, labels
//! what every call gave, and is judged from outside where there is an outside to ask.
//!
//! A control runs with the caller's rights, often root's, on the machine that it is on: it may break what its world
//! made for it, and nothing else. What only asks who says no is asked with arguments that make nothing happen.
//!
//! A case is a Python program; what [`PRELUDE`] defines and the constants that [`world::World`] gives are there. Calls
//! that Python does not have are made by their number, other ABIs by machine code in executable memory.

mod artifacts;
mod engine;
mod files;
mod kernel;
mod network;
mod processes;
mod resources;
mod secrets;
mod world;

use super::harness::{Fixture, Ran, processes};
use engine::Containers;
use firsttry::cell::{Here, Walls};
use firsttry::frame::Manifest;
use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::panic::AssertUnwindSafe;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use world::World;

/// What a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Area {
    Network,
    Files,
    Processes,
    Secrets,
    Resources,
    Artifacts,
}

/// One attack.
struct Case {
    name: &'static str,
    /// What the program tries, in Python.
    attack: &'static str,
    /// The lines it prints behind the walls. Words are compared; `A|B` is either, `*` is any, `!A` is anything else.
    walls: &'static str,
    /// The lines it prints in a cell of the kind `here`, where they differ.
    here: &'static str,
    /// The lines it prints in a container of an engine, where they differ.
    engine: &'static str,
    /// The arm in which it succeeds.
    control: Control,
    /// Whether the world outside has taken harm: false behind the walls and true in the control.
    harm: Option<Harm>,
    /// Changes the cell to be.
    cell: fn(&mut Walls, &mut Manifest),
    /// What else must hold of the result.
    check: fn(&Ran) -> Result<(), String>,
}

/// Asks the world, and what came back from the cell, whether harm was done.
type Harm = fn(&World, &[Vec<u8>]) -> bool;

/// How the same program gets through without the walls, and what it prints then.
#[derive(Debug, Clone, Copy)]
enum Control {
    /// As the caller.
    Plain(&'static str),
    /// As the caller, where no container's filter is in the way.
    Machine(&'static str),
    /// With all rights in namespaces of its own: the machine is not to be harmed by a control.
    Rights(&'static str),
    /// The same, and only for the machine's root.
    Root(&'static str),
    /// It is still there when it was asked to end.
    Stays,
}

/// What a case has unless it says otherwise.
const CASE: Case = Case {
    name: "",
    attack: "",
    walls: "",
    here: "",
    engine: "",
    control: Control::Plain(""),
    harm: None,
    cell: |_, _| {},
    check: ended_well,
};

fn ended_well(ran: &Ran) -> Result<(), String> {
    let ended = ran.ended();
    if (ended.code, ended.signal, ended.timed_out) == (0, 0, false) { Ok(()) } else { Err(format!("{ended:?}")) }
}

/// It had to be killed, and that was recorded.
fn was_killed(ran: &Ran) -> Result<(), String> {
    let ended = ran.ended();
    if ended.timed_out && ended.killed && ended.signal == libc::SIGKILL { Ok(()) } else { Err(format!("{ended:?}")) }
}

const PRELUDE: &str = r"
import ctypes, errno, mmap, os, resource, signal, socket, stat, struct, sys, threading, time
print('SANDBOX-RAN', NAME, flush=True)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def said(number): return errno.errorcode.get(number, str(number))
def word(a): return a if isinstance(a, (bytes, ctypes.Array, ctypes.Structure)) else ctypes.c_ulong(a & (1 << 64) - 1)
def raw(number, *a):
    ctypes.set_errno(0)
    return libc.syscall(ctypes.c_long(number), *map(word, a))
def call(label, number, *a):
    result = raw(number, *a)
    print(label, said(ctypes.get_errno()) if result == -1 else 'ok', flush=True)
    return result
def attempt(label, action):
    try: result = action()
    except socket.gaierror: print(label, 'no-name', flush=True)
    except TimeoutError: print(label, 'ETIMEDOUT', flush=True)
    except OSError as e: print(label, said(e.errno), flush=True)
    except Exception as e: print(label, type(e).__name__, flush=True)
    else:
        print(label, 'ok', flush=True)
        return result
def write(path, text=b'attacked'):
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try: os.write(fd, text)
    finally: os.close(fd)
def read(path): return open(path, 'rb').read()
def tcp(host, port, family=socket.AF_INET, protocol=0):
    s = socket.socket(family, socket.SOCK_STREAM, protocol)
    s.settimeout(2)
    s.connect((host, port))
    return s
def udp(family=socket.AF_INET): return socket.socket(family, socket.SOCK_DGRAM)
def unix(path, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.connect(path)
    return s
def address(host, port): return struct.pack('=HH4s8x', 2, socket.htons(port), socket.inet_aton(host))
def child(action):
    pid = os.fork()
    if pid == 0:
        try: action()
        finally: os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
";

/// Namespaces of its own and every right in them, as the first process there.
const RIGHTS: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
if libc.unshare(0x6c020000 | (0x10000000 if uid else 0)): sys.exit('no namespaces for the control')
if uid:
    open('/proc/self/setgroups', 'w').write('deny')
    open('/proc/self/uid_map', 'w').write(f'0 {uid} 1')
    open('/proc/self/gid_map', 'w').write(f'0 {gid} 1')
libc.mount(None, b'/', None, 0x44000, None)
pid = os.fork()
if pid: sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
libc.mount(b'proc', b'/proc', b'proc', 0, None)
";

fn cases() -> Vec<(Area, &'static Case)> {
    let tables: [(Area, &[Case]); 7] = [
        (Area::Network, network::CASES),
        (Area::Files, files::CASES),
        (Area::Files, kernel::CASES),
        (Area::Processes, processes::CASES),
        (Area::Secrets, secrets::CASES),
        (Area::Resources, resources::CASES),
        (Area::Artifacts, artifacts::CASES),
    ];
    tables.into_iter().flat_map(|(area, cases)| cases.iter().map(move |case| (area, case))).collect()
}

/// How a control went.
enum Arm {
    Succeeded,
    /// Only the machine's root, or only a machine without a container's filter, could show it: the same case's control
    /// runs in the setting where it can.
    Elsewhere,
}

/// Runs one case with both arms.
fn run(case: &Case, setting: &Setting) -> Result<Arm, String> {
    let world = World::new(case.name, case.attack, matches!(setting.kind, Kind::Here));
    let marker = world.marker.clone();
    let program = |constants: String, before: &str| {
        vec!["python3".to_owned(), "-ISc".into(), format!("# {marker}\n{constants}{before}{PRELUDE}{}", case.attack)]
    };
    let mut fixture = Fixture::new()
        .with(|_, m| {
            m.argv = program(world.constants(true), "");
            m.collect = vec![".coverage".into()];
        })
        .mount(&world.given(), "/ft/given", false);
    world.furnish(&fixture.tree());
    (case.cell)(&mut fixture.walls, &mut fixture.manifest);
    let before = world.listing(&fixture.tree());
    let ran = setting.run(&fixture);
    if let Err(error) = &ran.result {
        return Err(format!("no result: {error}"));
    }
    if ran.finished().ended.is_none() {
        return Err(format!("did not start: {:?}", ran.finished().broken));
    }
    let came_back: Vec<Vec<u8>> = ran.artifacts().into_iter().map(|(_, bytes)| bytes).collect();
    let special = match setting.kind {
        Kind::Namespaces => "",
        Kind::Here => case.here,
        Kind::Engine(_) => case.engine,
    };
    let lines = if special.is_empty() { case.walls } else { special };
    compare(&ran.output, case.name, lines)
        .map_err(|e| format!("behind the walls: {e}\n{}\n{:?}", ran.error, ran.ended()))?;
    (case.check)(&ran)?;
    if case.harm.is_some_and(|harm| harm(&world, &came_back)) {
        return Err("behind the walls: the world outside has taken harm".into());
    }
    // Whatever it tried: what it was shown is as it was, and nothing of it is left.
    let after = world.listing(&fixture.tree());
    if before != after {
        return Err(format!("behind the walls: files outside changed from\n{before}to\n{after}"));
    }
    let left = processes(&marker);
    if !left.is_empty() {
        return Err(format!("processes are left: {left:?}"));
    }
    drop(fixture);
    let (before, expected) = match case.control {
        Control::Plain(lines) => ("", lines),
        Control::Machine(lines) if !setting.contained => ("", lines),
        Control::Rights(lines) if !setting.contained => (RIGHTS, lines),
        Control::Root(lines) if !setting.contained && setting.root => (RIGHTS, lines),
        Control::Machine(_) | Control::Rights(_) | Control::Root(_) => return Ok(Arm::Elsewhere),
        Control::Stays => return stays(&program(world.constants(false), ""), &marker, &world),
    };
    let argv = program(world.constants(false), before);
    let output = without_walls(&argv, &world).output().map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    compare(&text(&output.stdout), case.name, expected)
        .map_err(|e| format!("control: {e}\n{}", text(&output.stderr)))?;
    if let Some(harm) = case.harm
        && !harm(&world, &world.naively_collected())
    {
        return Err("control: nothing was harmed, so the walls were not needed".into());
    }
    Ok(Arm::Succeeded)
}

/// The program with the caller's own variables in a directory of its own, and no walls. Ended after a minute.
fn without_walls(argv: &[String], world: &World) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after", "1", "60"]).args(argv).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.envs(world.variables()).current_dir(world.unprotected()).stdin(Stdio::null());
    command
}

/// Asks it to end, and sees that it or what it started is still there. Then ends all of it.
fn stays(argv: &[String], marker: &str, world: &World) -> Result<Arm, String> {
    let mut child = Command::new(&argv[0])
        .args(&argv[1..])
        .current_dir(world.unprotected())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    // Kept open to the end: some write again.
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).map_err(|e| e.to_string())?;
    compare(&line, world.name, "").map_err(|e| format!("control: {e}"))?;
    std::thread::sleep(Duration::from_millis(400));
    let pid = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    let _ = child.try_wait();
    let alive = |status: &str| !super::harness::field(status, "State").starts_with(['Z', 'X']);
    let left: Vec<_> = processes(marker).into_iter().filter(|(_, status)| alive(status)).collect();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let all = processes(marker);
        for (pid, _) in &all {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = child.try_wait();
        if all.is_empty() {
            break;
        }
        if Instant::now() > until {
            return Err(format!("control: could not be ended: {all:?}"));
        }
    }
    let _ = child.wait();
    if left.is_empty() { Err("control: it ended when it was asked to".into()) } else { Ok(Arm::Succeeded) }
}

/// Whether the lines after the first one, which says that it ran, are the expected ones.
fn compare(output: &str, name: &str, expected: &str) -> Result<(), String> {
    let mut lines = output.lines();
    if lines.next() != Some(format!("SANDBOX-RAN {name}").as_str()) {
        return Err(format!("the program did not run: {output:?}"));
    }
    let lines: Vec<&str> = lines.collect();
    let wanted: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let same = |wanted: &str, word: &str| match wanted.strip_prefix('!') {
        Some(other) => word != other,
        None => wanted == "*" || wanted.split('|').any(|w| w == word),
    };
    let fits = |wanted: &str, line: &str| {
        let (wanted, words): (Vec<&str>, Vec<&str>) = (wanted.split(' ').collect(), line.split(' ').collect());
        wanted.len() == words.len() && wanted.iter().zip(words).all(|(wanted, word)| same(wanted, word))
    };
    if lines.len() == wanted.len() && wanted.iter().zip(&lines).all(|(wanted, line)| fits(wanted, line)) {
        return Ok(());
    }
    Err(format!("it said\n{}\nnot\n{}", lines.join("\n"), wanted.join("\n")))
}

/// What a case is run in.
enum Kind {
    Namespaces,
    Here,
    /// Containers of an engine, as `ft run --container` makes them.
    Engine(Containers),
}

/// Where and as whom the table is run.
struct Setting {
    /// For the line that is printed.
    label: String,
    /// The kind of cell.
    kind: Kind,
    /// The machine's root.
    root: bool,
    /// In a container that forbids namespaces, to the controls as well.
    contained: bool,
}

impl Setting {
    fn namespaces() -> Setting {
        let (root, whom) = whom();
        Setting { label: format!("namespaces as {whom}"), kind: Kind::Namespaces, root, contained: false }
    }

    /// Where no namespaces can be made in this process's own place, it is a container.
    fn here() -> Setting {
        let (root, whom) = whom();
        let made = Command::new("unshare").args(["--user", "true"]).stderr(Stdio::null()).status();
        let contained = !made.is_ok_and(|status| status.success());
        let label = format!("here as {whom}{}", if contained { " in a container" } else { "" });
        Setting { label, kind: Kind::Here, root, contained }
    }

    /// The engine's containers are on this machine: what they are to be kept from is beside them, and so are the controls.
    fn engine() -> Setting {
        let (root, whom) = whom();
        let kind = Kind::Engine(Containers::open());
        Setting { label: format!("container as {whom}"), kind, root, contained: false }
    }

    fn run(&self, fixture: &Fixture) -> Ran {
        match &self.kind {
            Kind::Namespaces => fixture.run(),
            Kind::Here => {
                let _ =
                    std::fs::set_permissions(fixture.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755));
                fixture.run_in(&Here::default())
            }
            Kind::Engine(containers) => containers.run(fixture),
        }
    }

    /// Steps that share loopback and `/tmp` run one at a time.
    fn at_once(&self) -> usize {
        if matches!(self.kind, Kind::Here) { 1 } else { 4 }
    }
}

/// Whether this is the machine's root, and what it is called.
fn whom() -> (bool, &'static str) {
    let root = rustix::process::geteuid().is_root();
    (root, if root { "root" } else { "an ordinary user" })
}

/// Prints past the test's own output, which one that passed keeps to itself.
pub fn say(line: &str) {
    let _ = std::io::stdout().write_all(format!("\n{line}\n").as_bytes());
}

/// The line of a setting, in what a run of this binary printed.
pub fn summary(line: &str) -> Option<&str> {
    line.starts_with("hostile: ").then_some(line)
}

/// Fewer than these is no suite.
const AT_LEAST: usize = 80;

#[expect(clippy::disallowed_methods, reason = "one case alone, for the one who works on it")]
fn only() -> String {
    std::env::var("FT_HOSTILE").unwrap_or_default()
}

/// Runs the whole table and says past the test's own output how many ran.
fn everything(setting: &Setting) {
    let cases = cases();
    let only = only();
    let queue = Mutex::new(cases.iter().filter(|(_, case)| case.name.contains(&only)).rev().collect::<Vec<_>>());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..setting.at_once() {
            scope.spawn(|| {
                loop {
                    let Some((area, case)) = queue.lock().unwrap().pop() else { break };
                    let result =
                        std::panic::catch_unwind(AssertUnwindSafe(|| run(case, setting))).unwrap_or_else(|panic| {
                            Err(format!("the test panicked: {:?}", panic.downcast_ref::<String>()))
                        });
                    done.lock().unwrap().push((*area, case.name, result));
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    let mut failures = String::new();
    for (area, name, result) in &done {
        if let Err(error) = result {
            let _ = write!(failures, "\n--- {area:?}: {name}\n{error}\n");
        }
    }
    let elsewhere = done.iter().filter(|(_, _, result)| matches!(result, Ok(Arm::Elsewhere))).count();
    let (ran, skipped) = (done.len(), cases.len() - done.len());
    let mut line = format!("hostile: {}: {ran} ran, {skipped} skipped", setting.label);
    if elsewhere > 0 {
        let _ = write!(line, " ({elsewhere} with their control arm in another setting)");
    }
    say(&line);
    assert!(failures.is_empty(), "{failures}");
    assert!(only.is_empty() || ran > 0, "no case is called {only}");
    assert!(!only.is_empty() || (skipped == 0 && ran >= AT_LEAST), "{line}");
    if let Kind::Engine(containers) = &setting.kind {
        containers.close(ran);
    }
}

#[test]
fn no_attack_gets_through_namespaces() {
    everything(&Setting::namespaces());
}

#[test]
fn no_attack_gets_through_without_namespaces() {
    everything(&Setting::here());
}

#[test]
fn no_attack_gets_through_in_the_containers_of_ft() {
    everything(&Setting::engine());
}

/// The engine's own defaults, and the least that engines are commonly asked to give.
#[test]
fn no_attack_gets_through_inside_a_container() {
    use super::container::{CELLS, Container};
    let test = "hostile::no_attack_gets_through_without_namespaces";
    let place = format!("{}=/place", super::user::PLACE);
    for container in [Container::new(), Container::ordinary()] {
        // A place outside of the shared ones that this user may write to. And in memory, because some of the file
        // systems that engines use have no pipes and no deep paths (fuse-overlayfs).
        let memory = ["/place:mode=1777,exec", "/tmp:mode=1777,exec"];
        let container = container.with(&["--tmpfs", memory[0], "--tmpfs", memory[1], "--env", &place]);
        let text = container.lasting(Duration::from_secs(3000)).passed(&[CELLS, "--exact", test, "--nocapture"]);
        let lines: Vec<&str> = text.lines().filter_map(summary).collect();
        assert!(lines.len() == 1 && lines[0].contains("in a container"), "{text}");
        say(lines[0]);
    }
}

#[test]
fn every_case_has_a_name_of_its_own_and_every_area_has_cases() {
    let cases = cases();
    let names: std::collections::BTreeSet<&str> = cases.iter().map(|(_, case)| case.name).collect();
    assert_eq!(names.len(), cases.len());
    for area in [Area::Network, Area::Files, Area::Processes, Area::Secrets, Area::Resources, Area::Artifacts] {
        assert!(cases.iter().filter(|(a, _)| *a == area).count() >= 7, "{area:?}");
    }
}

#[test]
fn a_program_that_did_not_run_or_said_something_else_is_no_pass() {
    let compare = |output, expected| compare(output, "x", expected).is_ok();
    assert!(compare("SANDBOX-RAN x\ntcp EPERM\nudp ok\n", "tcp EPERM|EACCES\nudp !EIO"));
    assert!(!compare("", "tcp EPERM"));
    assert!(!compare("sh: python3: not found\n", ""));
    assert!(!compare("SANDBOX-RAN y\n", ""));
    assert!(!compare("SANDBOX-RAN x\ntcp ok\n", "tcp EPERM|EACCES"));
    assert!(!compare("SANDBOX-RAN x\n", "tcp EPERM"));
    assert!(!compare("SANDBOX-RAN x\ntcp EPERM\nmore ok\n", "tcp EPERM"));
    assert!(!compare("SANDBOX-RAN x\ntcp EPERM\n", "tcp !EPERM"));
}
