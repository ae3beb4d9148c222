//! What comes back, and what a careless collector would take for it.

use super::{CASE, Case, Control, ended_well};
use crate::harness::Ran;

/// Whether this name was refused, and with a reason that has this word.
fn refused(ran: &Ran, path: &str, why: &str) -> Result<(), String> {
    ended_well(ran)?;
    match ran.refused(path) {
        Some(reason) if reason.contains(why) => Ok(()),
        other => Err(format!("{path}: {other:?}, not {why}; all: {:?}", ran.finished().refused)),
    }
}

/// Whether exactly these came back.
fn came(ran: &Ran, names: &[&str]) -> Result<(), String> {
    let found: Vec<String> = ran.artifacts().into_iter().map(|(name, _)| name).collect();
    if found == names { Ok(()) } else { Err(format!("{found:?} came back")) }
}

pub const CASES: &[Case] = &[
    Case {
        name: "a-link-to-a-secret",
        attack: "
os.mkdir('artifacts')
open('artifacts/good', 'w').write('good')
os.symlink(SECRET, 'artifacts/link')
os.symlink('../' * 20 + SECRET, 'artifacts/relative')
os.symlink(SECRET, OUT + '/link')",
        control: Control::Plain(""),
        harm: Some(|w, came_back| w.stolen(came_back)),
        check: |ran| {
            refused(ran, "work/artifacts/link", "symbolic link")?;
            refused(ran, "out/link", "symbolic link")?;
            came(ran, &["work/artifacts/good"])
        },
        ..CASE
    },
    Case {
        name: "a-linked-directory",
        attack: "
os.mkdir('artifacts')
os.symlink(OUTSIDE, 'artifacts/dir')
os.symlink(OUTSIDE, OUT + '/dir')
if WALLS: os.symlink('/proc/self/cwd', OUT + '/magic')",
        control: Control::Plain(""),
        harm: Some(|w, came_back| w.stolen(came_back)),
        check: |ran| {
            refused(ran, "work/artifacts/dir", "symbolic link")?;
            came(ran, &[])
        },
        ..CASE
    },
    Case {
        name: "the-directory-itself-is-a-link",
        attack: "os.symlink(OUTSIDE, 'artifacts')",
        control: Control::Plain(""),
        harm: Some(|w, came_back| w.stolen(came_back)),
        check: |ran| {
            ended_well(ran)?;
            came(ran, &[])
        },
        ..CASE
    },
    Case {
        name: "a-hard-link",
        attack: "
os.mkdir('artifacts')
attempt('outside', lambda: os.link(SECRET, 'artifacts/hard'))
open('artifacts/one', 'w').write('x'); os.link('artifacts/one', 'artifacts/two')",
        walls: "outside ENOENT|EACCES|EXDEV|EPERM",
        control: Control::Plain("outside ok"),
        harm: Some(|w, came_back| w.stolen(came_back)),
        check: |ran| {
            refused(ran, "work/artifacts/one", "hard link")?;
            came(ran, &[])
        },
        ..CASE
    },
    Case {
        name: "devices-pipes-and-sockets",
        attack: "
os.mkdir('artifacts')
os.mkfifo('artifacts/pipe')
socket.socket(socket.AF_UNIX).bind('artifacts/socket')
attempt('device', lambda: os.mknod('artifacts/device', 0o600 | stat.S_IFBLK, os.makedev(8, 0)))
attempt('whiteout', lambda: os.mknod('artifacts/whiteout', stat.S_IFCHR, 0))
open('artifacts/last', 'w').write('x')",
        walls: "device EPERM\nwhiteout *",
        control: Control::Root("device ok\nwhiteout ok"),
        check: |ran| {
            refused(ran, "work/artifacts/pipe", "named pipe")?;
            refused(ran, "work/artifacts/socket", "socket")?;
            came(ran, &["work/artifacts/last"])
        },
        ..CASE
    },
    Case {
        name: "names-that-are-not-text",
        attack: r"
os.mkdir('artifacts')
for name in [b'line\nbreak', b'\x1b]0;title\x07', b'not-utf-8-\xff', b'\xe2\x80\xaeright-to-left', b'-rf', b'a\\b', b'~', b'$(id)', b'*']:
    open(b'artifacts/' + name, 'w').write('x')
print('written', len(os.listdir('artifacts')))",
        walls: "written 9",
        control: Control::Plain("written 9"),
        check: |ran| {
            ended_well(ran)?;
            let bad = |name: &str| name.chars().any(|c| c.is_control() || c == '\u{fffd}');
            if let Some((name, _)) = ran.artifacts().into_iter().find(|(name, _)| bad(name)) {
                return Err(format!("{name:?} came back"));
            }
            // Nor may the report of it move a cursor.
            match ran.finished().refused.iter().find(|(name, _)| name.chars().any(char::is_control)) {
                Some((name, _)) => Err(format!("{name:?} was named as it is")),
                None => Ok(()),
            }
        },
        ..CASE
    },
    Case {
        name: "setuid-bits-and-attributes",
        attack: "
import shutil
os.mkdir('artifacts')
for mode in [0o4755, 0o2755, 0o1755, 0o777]:
    name = f'artifacts/{mode:o}'
    open(name, 'w').write('x'); os.chmod(name, mode)
attempt('attribute', lambda: os.setxattr('artifacts/777', 'user.x', b'x'))
attempt('capability', lambda: os.setxattr('artifacts/777', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000')))",
        walls: "attribute *\ncapability EPERM",
        control: Control::Rights("attribute *\ncapability *"),
        check: |ran| {
            refused(ran, "work/artifacts/4755", "setuid")?;
            refused(ran, "work/artifacts/2755", "set")
        },
        ..CASE
    },
    Case {
        name: "a-file-that-is-swapped-for-a-link-all-the-time",
        attack: "
os.mkdir('artifacts')
open('artifacts/file', 'w').write('good')
os.symlink(SECRET, 'artifacts/other')
if os.fork() == 0:
    os.setsid()
    exchange = lambda: raw(316 if os.uname().machine == 'x86_64' else 276, -100, b'artifacts/file', -100, b'artifacts/other', 2)
    end = time.time() + (30 if WALLS else .2)
    while time.time() < end: exchange()
    os._exit(0)
time.sleep(.1 if WALLS else .4)",
        control: Control::Plain(""),
        harm: Some(|w, came_back| w.stolen(came_back)),
        check: |ran| {
            ended_well(ran)?;
            let survivors = ran.ended().survivors.len();
            if survivors == 1 { Ok(()) } else { Err(format!("{survivors} survivors")) }
        },
        ..CASE
    },
    Case {
        name: "a-sparse-file-of-a-terabyte",
        attack: "
os.mkdir('artifacts')
os.truncate(os.open('artifacts/sparse', os.O_CREAT | os.O_WRONLY), 1 << 40)
os.truncate(os.open(OUT + '/sparse', os.O_CREAT | os.O_WRONLY), 1 << 40)
open('artifacts/zzz', 'w').write('x')
print('size', os.stat('artifacts/sparse').st_size)",
        walls: "size 1099511627776",
        control: Control::Plain("size 1099511627776"),
        check: |ran| {
            refused(ran, "work/artifacts/sparse", "budget of bytes")?;
            came(ran, &["work/artifacts/zzz"])
        },
        ..CASE
    },
    Case {
        name: "very-many-entries",
        attack: "
os.mkdir('artifacts')
for n in range(2000): os.close(os.open(f'artifacts/{n:05}', os.O_CREAT | os.O_WRONLY))
for n in range(2000): os.symlink('x', f'{OUT}/{n:05}')
print('made', len(os.listdir('artifacts')))",
        walls: "made 2000",
        control: Control::Plain("made 2000"),
        check: |ran| {
            ended_well(ran)?;
            let (came, named) = (ran.artifacts().len(), ran.finished().refused.len());
            if came <= 100 && named <= 1001 { Ok(()) } else { Err(format!("{came} came back, {named} were named")) }
        },
        ..CASE
    },
    Case {
        name: "a-directory-deeper-than-any-path",
        attack: "
os.mkdir('artifacts'); os.chdir('artifacts')
depth = 0
for depth in range(400):
    os.mkdir('d' * 200); os.chdir('d' * 200)
open('deep', 'w').write('x')
print('depth', depth)",
        walls: "depth 399",
        control: Control::Plain("depth 399"),
        cell: |_, m| m.collect = Vec::new(),
        ..CASE
    },
    Case {
        name: "patterns-that-lead-elsewhere",
        attack: "
os.makedirs('a/b'); os.symlink(OUTSIDE, 'a/b/out'); os.symlink('/', 'a/root')
os.mkdir('artifacts'); os.symlink(OUTSIDE, 'artifacts/x')",
        control: Control::Plain(""),
        harm: Some(|w, came_back| w.stolen(came_back)),
        cell: |_, m| {
            m.collect = ["a/b/out/*", "../*", "/etc/*", "**/secret", "a/root/**", "a/../../*"].map(String::from).to_vec();
        },
        check: |ran| {
            ended_well(ran)?;
            came(ran, &[])
        },
        ..CASE
    },
    Case {
        name: "closed-directories-and-files",
        attack: "
os.makedirs('artifacts/closed'); open('artifacts/closed/x', 'w').write('x'); os.chmod('artifacts/closed', 0)
open('artifacts/unreadable', 'w').write('x'); os.chmod('artifacts/unreadable', 0)
os.mkdir(OUT + '/locked'); os.chmod(OUT + '/locked', 0o555)
open('artifacts/zzz', 'w').write('x')
if not WALLS: os.chmod('artifacts/closed', 0o700)",
        control: Control::Plain(""),
        check: |ran| {
            refused(ran, "work/artifacts/closed", "Permission denied")?;
            refused(ran, "work/artifacts/unreadable", "Permission denied")
        },
        ..CASE
    },
];
