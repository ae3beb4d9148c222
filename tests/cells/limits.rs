//! What a step may use, and that the rest of the machine does not pay for it.
//!
//! Which mechanism holds a limit depends on the machine, and the tests ask the cell which one it was. Control groups of
//! version 2 are a manual check where a machine has version 1: boot a kernel with `cgroup2` on `/sys/fs/cgroup` (a
//! virtual machine whose root is a tmpfs with this program, Python 3.11 and `overlay.ko` is enough; emulated it takes
//! about a minute for each group) and run `limits::want limits::a_fork limits::memory` as root in the root group, as root
//! in a group of its own, as a user in a group that was delegated (directory, `cgroup.procs` and
//! `cgroup.subtree_control` owned by the user, the test started in it), and as a user without one.

use super::harness::{Fixture, Ran};
use firsttry::frame::Observed;
use std::fs;

fn wall<'a>(ran: &'a Ran, name: &str) -> &'a Observed {
    ran.finished().observed.iter().find(|o| o.wall == name).unwrap_or_else(|| panic!("{name} was not observed"))
}

#[test]
fn a_fork_bomb_stays_below_its_limit() {
    let script = "import os, time\nn = 0\ntry:\n  while n < 300:\n    if os.fork() == 0: time.sleep(30); os._exit(0)\n    n += 1\nexcept OSError as e: print(e.errno)\nprint(n)";
    let fixture = Fixture::python(script).with(|w, m| {
        w.limits.pids = Some(40);
        m.timeout_ms = 10_000;
    });
    let ran = fixture.run();
    let numbers: Vec<u32> = ran.passed().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers[0], libc::EAGAIN.cast_unsigned());
    assert!((30..=40).contains(&numbers[1]), "{numbers:?}");
    assert!(wall(&ran, "pids").enforced);
    assert_eq!(ran.ended().survivors.len(), numbers[1] as usize);
}

#[test]
fn want_of_memory_is_said_and_not_just_a_failure() {
    let script = "x = bytearray(400 << 20); print('got it')";
    let fixture = Fixture::python(script).with(|w, _| w.limits.memory_bytes = Some(96 << 20));
    let ran = fixture.run();
    assert_eq!(ran.output, "");
    if wall(&ran, "memory").enforced {
        assert!(ran.ended().out_of_memory, "{:?}", ran.ended());
        assert_eq!(ran.ended().signal, libc::SIGKILL);
    } else {
        assert_eq!(wall(&ran, "memory").mechanism, "RLIMIT_DATA");
        assert!(ran.error.contains("MemoryError"), "{}", ran.error);
    }
    assert_eq!(fixture.control(), "got it\n");
}

#[test]
fn memory_of_a_child_counts_and_a_step_within_its_limit_is_not_out_of_memory() {
    let ran = Fixture::python("x = bytearray(20 << 20); print('fine')")
        .with(|w, _| w.limits.memory_bytes = Some(256 << 20))
        .run();
    assert_eq!(ran.passed(), "fine\n");
    assert!(!ran.ended().out_of_memory);
    assert!(ran.ended().peak_bytes > 20 << 20);
}

#[test]
fn a_flood_of_output_is_counted_and_held_by_nobody() {
    let resident = |status: &str| -> u64 {
        let text = super::harness::field(status, "VmHWM");
        text.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let mut agent = 0;
    let fixture = Fixture::sh("head -c 1000000000 /dev/zero; head -c 1000000 /dev/zero >&2")
        .with(|_, m| (m.output_bytes, m.timeout_ms) = (2_000_000, 60_000));
    let own = |()| resident(&fs::read_to_string("/proc/self/status").unwrap());
    let before = own(());
    let ran = fixture.run_with(|_, _| {
        let all = super::harness::processes("ft-agent\0--walls");
        agent = all.iter().map(|(_, status)| resident(status)).max().unwrap_or(0).max(agent);
    });
    let ended = ran.ended();
    assert_eq!(ended.output_total, 1_001_000_000);
    assert_eq!(ended.output_total - ended.output_dropped, 2_000_000);
    assert_eq!(ran.output.len() + ran.error.len(), 2_000_000);
    assert!((1..32 * 1024).contains(&agent), "the agent's memory: {agent} kB");
    // Everything that is in this process runs in parallel; a flood that it held would be a gigabyte.
    assert!(own(()) - before < 200 * 1024, "{before} kB before, {} kB after", own(()));
}

#[test]
fn a_slow_reader_slows_the_command_and_loses_nothing() {
    let mut seen = 0;
    let fixture = Fixture::sh("head -c 8000000 /dev/zero").with(|_, m| m.output_bytes = 0);
    let ran = fixture.run_with(|_, _| {
        seen += 1;
        if seen < 20 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    assert_eq!(ran.passed().len(), 8_000_000);
    assert_eq!(ran.ended().output_dropped, 0);
}

#[test]
fn sizes_of_files_and_of_tmp_are_limited() {
    let fixture = Fixture::sh("head -c 3000000 /dev/zero > /tmp/a; stat -c %s /tmp/a; trap '' XFSZ; head -c 2000000 /dev/zero > b; stat -c %s b")
        .with(|w, m| {
            w.limits.disk_bytes = Some(1 << 20);
            m.file_bytes = 1_500_000;
        });
    assert_eq!(fixture.run().passed(), "1048576\n1500000\n");
}

#[test]
fn the_affinity_mask_has_as_many_cpus_as_allowed() {
    let fixture =
        Fixture::python("import os; print(len(os.sched_getaffinity(0)))").with(|w, _| w.limits.cpus = Some(1));
    assert_eq!(fixture.run().passed(), "1\n");
}

/// A cell whose step may write this much.
fn with_disk(script: &str, mebibytes: u64) -> Fixture {
    Fixture::python(script).with(|w, m| {
        w.limits.disk_bytes = Some(mebibytes << 20);
        m.file_bytes = mebibytes << 20;
        m.timeout_ms = 60_000;
    })
}

/// Ways to fill a disk of 40 MiB with files that are none of them too large; each ends with `full`.
const FILLERS: [(&str, &str); 6] = [
    (
        "the tree",
        "import time\nfor n in range(80): open(f'f{n}', 'wb').write(b'x' * (1 << 20))\nprint('full', flush=True)\ntime.sleep(20)",
    ),
    (
        "the home",
        "import time, os\nfor n in range(80): open(os.path.expanduser(f'~/f{n}'), 'wb').write(b'x' * (1 << 20))\nprint('full', flush=True)\ntime.sleep(20)",
    ),
    (
        "the results",
        "import time\nfor n in range(80): open(f'/ft/out/f{n}', 'wb').write(b'x' * (1 << 20))\nprint('full', flush=True)\ntime.sleep(20)",
    ),
    (
        "files without a name",
        "import time, os\nkept = []\nfor n in range(80):\n f = open(f'f{n}', 'wb'); f.write(b'x' * (1 << 20)); f.flush(); os.unlink(f'f{n}'); kept.append(f)\nprint('full', flush=True)\ntime.sleep(20)",
    ),
    (
        "names without content",
        "import time\nfor n in range(20000): open(f'f{n}', 'w').close()\nprint('full', flush=True)\ntime.sleep(20)",
    ),
    (
        "a locked directory",
        "import time, os\nos.mkdir('d')\nfor n in range(80): open(f'd/f{n}', 'wb').write(b'x' * (1 << 20))\nos.chmod('d', 0)\nprint('full', flush=True)\ntime.sleep(20)",
    ),
];

#[test]
fn a_step_that_fills_the_disk_is_ended_for_that_wherever_it_writes() {
    for (what, script) in FILLERS {
        let start = std::time::Instant::now();
        let ran = with_disk(script, 40).run();
        assert!(ran.ended().out_of_disk && ran.ended().killed, "{what}: {:?}\n{}", ran.ended(), ran.error);
        assert!(!ran.ended().timed_out && !ran.ended().cancelled, "{what}");
        assert!(start.elapsed().as_secs() < 18, "{what}: {:?}", start.elapsed());
        assert!(wall(&ran, "disk").enforced, "{what}");
    }
}

#[test]
fn the_same_writing_within_the_limit_is_nothing() {
    for (what, script) in FILLERS {
        // The control arm: the same program, and room for it.
        let ran = with_disk(&script.replace("time.sleep(20)", "time.sleep(.5)"), 200).run();
        assert_eq!(ran.passed(), "full\n", "{what}");
        assert!(!ran.ended().out_of_disk, "{what}");
    }
}

#[test]
fn what_the_tree_holds_already_is_not_the_steps() {
    let fixture = with_disk("import time; open('small', 'w').write('x'); time.sleep(.5)", 4);
    fs::write(fixture.tree().join("large"), vec![7; 20 << 20]).unwrap();
    super::harness::give_to_step(&fixture.tree());
    assert!(!fixture.run().ended().out_of_disk);
}

#[test]
fn one_file_that_grows_too_large_is_the_disk_limit_too() {
    let ran =
        with_disk("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); open('f', 'wb').truncate(1 << 40)", 8)
            .run();
    assert_eq!(ran.ended().signal, libc::SIGXFSZ);
    assert!(ran.ended().out_of_disk);
    let control = Fixture::python("open('f', 'wb').truncate(1 << 30); print('sparse')");
    assert_eq!(control.run().passed(), "sparse\n");
}

#[test]
fn names_in_tmp_have_an_end_too() {
    let script = "import itertools\ntry:\n for n in itertools.count(): open(f'/tmp/{n}', 'w').close()\nexcept OSError as e: print(n < 5000, e.errno)";
    let ran = with_disk(script, 16).run();
    assert_eq!(ran.passed(), format!("True {}\n", libc::ENOSPC));
    let control = Fixture::python("for n in range(5000): open(f'/tmp/{n}', 'w').close()\nprint('made')");
    assert_eq!(control.run().passed(), "made\n");
}

#[test]
fn memory_in_many_processes_counts_together_where_a_group_counts() {
    let script = "import os, time\nfor n in range(8):\n if os.fork() == 0:\n  x = bytearray(40 << 20); time.sleep(5); os._exit(0)\nfor n in range(8): os.wait()\nprint('got it')";
    let fixture = Fixture::python(script).with(|w, m| {
        w.limits.memory_bytes = Some(128 << 20);
        m.timeout_ms = 30_000;
    });
    let ran = fixture.run();
    if wall(&ran, "memory").enforced {
        assert!(ran.ended().out_of_memory, "{:?}", ran.ended());
    } else {
        // Each alone is below it: the report says that this limit does not hold.
        assert_eq!(ran.passed(), "got it\n");
    }
    let control = Fixture::python(script).with(|_, m| m.timeout_ms = 30_000);
    assert_eq!(control.run().passed(), "got it\n");
}

#[test]
fn descriptors_have_an_end() {
    let script = "kept = []\ntry:\n while True: kept.append(open('/dev/null'))\nexcept OSError as e: print(e.errno, 4000 < len(kept) < 4096)";
    assert_eq!(Fixture::python(script).run().passed(), format!("{} True\n", libc::EMFILE));
}

#[test]
fn a_spin_with_many_threads_stays_on_its_cpu_and_ends_in_time() {
    let script = "import multiprocessing as m, time\ndef spin():\n while True: pass\n[m.Process(target=spin, daemon=True).start() for _ in range(8)]\ntime.sleep(60)";
    let fixture = Fixture::python(script).with(|w, m| {
        w.limits.cpus = Some(1);
        (m.timeout_ms, m.grace_ms) = (2000, 200);
    });
    let ran = fixture.run();
    assert!(ran.ended().timed_out);
    let used = ran.ended().user_ms + ran.ended().system_ms;
    // One CPU can't give more than the time that went by.
    assert!(used <= ran.ended().wall_ms + 500, "{used} ms of CPU in {} ms", ran.ended().wall_ms);
}
