//! What a step can't see, can't write and can't do.

use super::harness::{Fixture, field, processes};
use firsttry::frame::Frame;
use std::fs;

/// Calls the C library and prints `NAME errno` for each line; 0 where the call went through.
const CALLS: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, function, *args):
    ctypes.set_errno(0)
    result = getattr(libc, function)(*args)
    print(name, ctypes.get_errno() if result == -1 else 0)
    return result
"#;

fn calls(script: &str) -> Fixture {
    Fixture::python(&format!("{CALLS}{script}"))
}

#[test]
fn every_wall_is_seen_to_hold_from_inside() {
    let ran = Fixture::sh("true").run();
    let observed = &ran.finished().observed;
    for wall in ["network", "pid", "user", "capabilities", "no_new_privs", "seccomp", "mounts", "tree"] {
        assert!(observed.iter().any(|o| o.wall == wall && o.enforced), "{wall}: {observed:?}");
    }
    assert!(observed.iter().any(|o| o.wall == "tree" && ["overlayfs", "copy"].contains(&o.mechanism.as_str())));
}

#[test]
fn the_kernel_knows_the_step_as_an_unprivileged_user() {
    let marker = format!("ft-uid-{}", std::process::id());
    let mut uids: Vec<String> = Vec::new();
    let fixture = Fixture::argv(&["sh", "-c", "id -u; id -un; id -g; sleep 1; true", &marker]);
    let ran = fixture.run_with(|frame, _| {
        if matches!(frame, Frame::Output { .. }) {
            uids = processes(&marker).iter().map(|(_, status)| field(status, "Uid").to_owned()).collect();
        }
    });
    assert_eq!(ran.passed(), "1000\nft\n1000\n");
    let own = rustix::process::geteuid();
    let expected = if own.is_root() { 65532 } else { own.as_raw() };
    // Real, effective, saved and file system uid, of the shell and of what it forks.
    let expected = [expected; 4].map(|uid| uid.to_string()).join("\t");
    assert!(!uids.is_empty() && uids.iter().all(|uid| *uid == expected), "{uids:?}, not {expected}");
    assert_eq!(fixture.control().lines().next().unwrap(), own.as_raw().to_string());
}

#[test]
fn a_file_of_the_caller_that_only_he_may_read_is_not_read_even_where_it_is_shown() {
    // The whole directory is handed in: not its absence protects the file here, but the kernel's uid of the step.
    if !rustix::process::geteuid().is_root() {
        // An ordinary user's cell has the user's uid, and what is handed in is readable: hiding is the wall there.
        let fixture = Fixture::sh("cat /etc/shadow /root/.profile 2>&1; ls -d /root /home 2>&1; true");
        let ran = fixture.run();
        assert!(!ran.passed().contains(":$") && ran.output.matches("No such file").count() == 4, "{}", ran.output);
        return;
    }
    let fixture = Fixture::sh("cat /ft/host-etc/shadow 2>/dev/null || cat /etc/shadow 2>/dev/null || echo refused")
        .mount("/etc".as_ref(), "/ft/host-etc", false);
    assert_eq!(fixture.run().passed(), "refused\n");
    assert!(fixture.control().contains("root:"));
}

#[test]
fn the_users_files_are_not_there() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "canary").unwrap();
    let script = format!(
        "cat {} 2>/dev/null; ls -A /root /home /var/run /run /mnt /srv 2>/dev/null | grep -v :",
        secret.display()
    );
    let fixture = Fixture::sh(&format!("{script}; true"));
    assert_eq!(fixture.run().passed().trim(), "");
    assert!(fixture.control().contains("canary"));
}

#[test]
fn the_environment_is_the_manifests_and_nothing_of_the_callers_can_be_read() {
    let fixture = Fixture::sh("env | sort; cat /proc/1/environ /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")
        .with(|_, m| m.env.push(("ONLY".into(), "this".into())));
    let ran = fixture.run();
    let allowed = ["HOME=", "ONLY=", "PATH=", "PWD=", "OLDPWD=", "_=", "SHLVL="];
    for line in ran.passed().lines().filter(|line| !line.is_empty()) {
        assert!(allowed.iter().any(|name| line.starts_with(name)), "{line}");
    }
    assert!(ran.output.contains("ONLY=this"));
}

#[test]
fn no_descriptor_is_inherited() {
    let file = fs::File::open("/etc/passwd").unwrap();
    // Without close-on-exec every child of this process gets it: the control arm does.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let fixture = Fixture::python("import os; print(sorted(set(os.listdir('/proc/self/fd'))), os.read(0, 1))");
    assert_eq!(fixture.run().passed(), "['0', '1', '2', '3'] b''\n");
    let number = std::os::fd::AsRawFd::as_raw_fd(&file).to_string();
    assert!(fixture.control().contains(&format!("'{number}'")), "{}", fixture.control());
}

#[test]
fn nothing_of_the_agent_can_be_opened_traced_read_or_limited() {
    let attack = |victim: &str| {
        calls(&format!(
            r#"
victim = {victim}
def attempt(name, action):
    try: action(); print(name, 0)
    except OSError as e: print(name, e.errno)
attempt("fd", lambda: os.open(f"/proc/{{victim}}/fd/1", os.O_WRONLY))
attempt("environ", lambda: open(f"/proc/{{victim}}/environ").read())
attempt("mem", lambda: open(f"/proc/{{victim}}/mem", "rb"))
attempt("exe", lambda: open(f"/proc/{{victim}}/exe", "rb"))
import resource
attempt("prlimit", lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (64, 64)))
call("ptrace", "ptrace", 16, victim, 0, 0)
os.kill(victim, 9)
"#
        ))
    };
    let inside = attack("1").run();
    for line in inside.passed().lines() {
        let (name, errno) = line.split_once(' ').unwrap();
        assert!(["1", "13"].contains(&errno), "{name} {errno}");
    }
    assert_eq!(inside.output.lines().count(), 6);
    // The control's victim is a child of its own, which it may do all of this to.
    let control = attack("__import__('subprocess').Popen(['sleep', '60'], stdout=-3, stderr=-3).pid").control();
    for line in control.lines() {
        assert!(line.ends_with(" 0"), "control: {control}");
    }
}

#[test]
fn the_agent_outlives_every_signal_from_inside() {
    let script = "import os\nfor s in list(range(1, 32)) + list(range(34, 65)):\n try: os.kill(1, s)\n except OSError: pass\nprint('done')";
    assert_eq!(Fixture::python(script).run().passed(), "done\n");
}

#[test]
fn no_namespace_and_no_mount_can_be_made() {
    // CLONE_NEWUSER | CLONE_NEWNS, then a tmpfs over /tmp in it.
    let fixture = calls(
        "call('unshare', 'unshare', 0x10020000)\ncall('mount', 'mount', b'x', b'/tmp', b'tmpfs', 0, None)\ncall('umount', 'umount2', b'/tmp', 2)",
    );
    assert_eq!(fixture.run().passed(), "unshare 1\nmount 1\numount 1\n");
    assert_eq!(fixture.control(), "unshare 0\nmount 0\numount 0\n");
}

#[test]
fn no_user_namespace_comes_from_clone_either() {
    // clone with CLONE_NEWUSER | SIGCHLD as fork, clone3 not at all (ENOSYS makes glibc take clone).
    let script = "
pid = libc.syscall(56, ctypes.c_ulong(0x10000011), 0, 0, 0, 0)
if pid == 0: os._exit(0)
print('clone', ctypes.get_errno() if pid == -1 else 0)
call('clone3', 'syscall', 435, 0, 0)";
    if cfg!(target_arch = "x86_64") {
        assert_eq!(calls(script).run().passed(), "clone 1\nclone3 38\n");
        assert!(calls(script).control().starts_with("clone 0\n"));
    }
}

#[test]
fn only_the_steps_own_places_can_be_written() {
    let fixture = Fixture::sh(
        "for d in / /usr /usr/bin /etc /dev /proc /proc/sys/kernel /sys /ft /ft/env /run /var/lib; do touch $d/x 2>/dev/null && echo wrote $d; done
         for d in /ft/work /ft/home /ft/out /tmp /var/tmp /dev/shm; do touch $d/x || echo could not write $d; done
         cp /bin/true /tmp/t && /tmp/t && echo executes
         umask; hostname",
    );
    let env = tempfile::tempdir().unwrap();
    let fixture = fixture.mount(env.path(), "/ft/env", false);
    assert_eq!(fixture.run().passed(), "executes\n0022\nft\n");
    assert_eq!(fs::read_dir(env.path()).unwrap().count(), 0);
}

#[test]
fn a_handed_in_directory_is_read_only_unless_it_was_meant_to_be_written() {
    let (closed, open) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&closed, &open] {
        fs::write(dir.path().join("f"), "before").unwrap();
        super::harness::give_to_step(dir.path());
    }
    let fixture = Fixture::sh("echo after > /ft/closed/f; echo after > /ft/open/f; cat /ft/closed/f /ft/open/f")
        .mount(closed.path(), "/ft/closed", false)
        .mount(open.path(), "/ft/open", true);
    assert_eq!(fixture.run().passed(), "beforeafter\n");
    assert_eq!(fs::read_to_string(closed.path().join("f")).unwrap(), "before");
    assert_eq!(fs::read_to_string(open.path().join("f")).unwrap(), "after\n");
}

#[test]
fn the_tree_is_changed_in_the_cell_alone() {
    let fixture = Fixture::sh("echo changed >> README; rm -f gone; mkdir new; echo x > new/file; cat README");
    fs::write(fixture.tree().join("gone"), "still here").unwrap();
    super::harness::give_to_step(&fixture.tree());
    assert_eq!(fixture.run().passed(), "original\nchanged\n");
    assert_eq!(fs::read_to_string(fixture.tree().join("README")).unwrap(), "original\n");
    assert!(fixture.tree().join("gone").exists() && !fixture.tree().join("new").exists());
    assert_eq!(fs::read_to_string(fixture.walls.scratch.join("changes/new/file")).unwrap(), "x\n");
}

#[test]
fn layers_lie_over_each_other_the_first_on_top() {
    let fixture = Fixture::sh("cat README; cat below");
    let top = fixture.dir.path().join("top, with: odd \\ name");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("README"), "on top\n").unwrap();
    fs::write(fixture.tree().join("below"), "below\n").unwrap();
    let tree = fixture.tree();
    let fixture = fixture.with(|w, _| w.work = firsttry::cell::Work::View(vec![top, tree]));
    assert_eq!(fixture.run().passed(), "on top\nbelow\n");
}

#[test]
fn an_empty_work_directory_is_empty_and_writable() {
    let fixture = Fixture::sh("ls -A; echo x > f; cat f").with(|w, _| w.work = firsttry::cell::Work::Empty);
    assert_eq!(fixture.run().passed(), "x\n");
}

#[test]
fn an_interpreter_behind_a_closed_directory_runs_at_its_own_path() {
    let home = tempfile::tempdir().unwrap();
    let prefix = home.path().join("pythons/3.x");
    fs::create_dir_all(prefix.join("bin")).unwrap();
    fs::write(home.path().join("secret"), "canary").unwrap();
    fs::write(prefix.join("bin/tool"), "#!/bin/sh\necho from $0\n").unwrap();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(prefix.join("bin/tool"), mode(0o755)).unwrap();
    fs::set_permissions(home.path(), mode(0o700)).unwrap();
    let tool = prefix.join("bin/tool");
    let script = format!("{0}; ls {1}; echo x 2>/dev/null >> {0} && echo wrote", tool.display(), home.path().display());
    let fixture = Fixture::sh(&format!("{script}; true")).with(|w, _| w.interpreter = Some(prefix.clone()));
    assert_eq!(fixture.run().passed(), format!("from {}\npythons\n", tool.display()));
}

#[test]
fn other_processes_and_other_cells_are_not_seen() {
    let script = "touch /tmp/mine /dev/shm/mine /ft/home/mine; ls -d /proc/[0-9]* | wc -l; echo $(ls /tmp) $(ls /dev/shm); sleep .3";
    let fixtures = [Fixture::sh(script), Fixture::sh(script)];
    let outputs: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = fixtures.iter().map(|f| scope.spawn(|| f.run().passed().to_owned())).collect();
        running.into_iter().map(|r| r.join().unwrap()).collect()
    });
    for output in outputs {
        let count: u32 = output.lines().next().unwrap().trim().parse().unwrap();
        assert!(count <= 4, "{output}");
        assert!(output.ends_with("\nmine mine\n"), "{output}");
    }
}

#[test]
fn the_terminal_of_the_caller_and_the_kernels_switches_are_out_of_reach() {
    let fixture = Fixture::python(
        "import os
for path in ['/dev/tty', '/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/proc/kcore', '/dev/mem', '/dev/kmsg']:
    try: os.open(path, os.O_RDWR); print('opened', path)
    except OSError as e: pass
pid, fd = os.forkpty()
if pid == 0: os.write(1, b'on a pty\\n'); os._exit(0)
print(os.read(fd, 100))",
    );
    assert_eq!(fixture.run().passed(), "b'on a pty\\r\\n'\n");
}
