//! What a step may use, and that the rest of the machine does not pay for it.

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
        let all = super::harness::processes("ft-agent");
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
