//! Into other processes, and out of the reach of whoever ends them.

use super::{CASE, Case, Control, was_killed};

pub const CASES: &[Case] = &[
    Case {
        name: "ending-the-users-processes",
        attack: "
if WALLS:
    attempt('everybody', lambda: os.kill(-1, 9))
    attempt('the-first', lambda: os.kill(1, 9))
else: print('everybody ok\\nthe-first ok')
attempt('group', lambda: os.killpg(VICTIM, 19))
attempt('by-number', lambda: os.kill(VICTIM, 9))
time.sleep(.2)",
        walls: "everybody ok|ESRCH|EPERM\nthe-first ok|EPERM\ngroup ESRCH|EPERM\nby-number ESRCH|EPERM",
        // The first one here is the machine's, and not there for the step.
        here: "everybody ok|ESRCH|EPERM\nthe-first ESRCH\ngroup ESRCH|EPERM\nby-number ESRCH|EPERM",
        control: Control::Plain("everybody ok\nthe-first ok\ngroup *\nby-number ok"),
        harm: Some(|w, _| w.victim_is_dead()),
        ..CASE
    },
    Case {
        name: "ending-by-descriptor",
        attack: "
fd = call('open', NR['pidfd_open'], VICTIM, 0)
call('signal', NR['pidfd_send_signal'], fd, 9, 0, 0)
first = raw(NR['pidfd_open'], 1, 0)
print('first', raw(NR['pidfd_send_signal'], first, 0, 0, 0) if WALLS else 0)
time.sleep(.2)",
        walls: "open ESRCH|EPERM\nsignal EBADF|EPERM\nfirst *",
        here: "open ESRCH|EPERM\nsignal ENOSYS\nfirst -1",
        control: Control::Plain("open ok\nsignal ok\nfirst 0"),
        harm: Some(|w, _| w.victim_is_dead()),
        ..CASE
    },
    Case {
        name: "memory-of-another-process",
        attack: "
target = ctypes.create_string_buffer(len(CANARY))
vector = lambda at, n: ctypes.create_string_buffer(struct.pack('=QQ', at, n), 16)
call('readv', NR['process_vm_readv'], VICTIM, vector(ctypes.addressof(target), len(CANARY)), 1, vector(VICTIM_AT, len(CANARY)), 1, 0)
print('stolen', target.raw == CANARY.encode())
call('writev', NR['process_vm_writev'], VICTIM, vector(ctypes.addressof(target), 1), 1, vector(VICTIM_AT, 1), 1, 0)
attempt('mem', lambda: os.pread(os.open(f'/proc/{VICTIM}/mem', os.O_RDONLY), 8, VICTIM_AT))
call('ptrace', NR['ptrace'], 16, VICTIM, 0, 0)
call('compare', NR['kcmp'], os.getpid(), VICTIM, 0, 0, 0)",
        walls: "readv EPERM\nstolen False\nwritev EPERM\nmem ENOENT|EACCES|EPERM\nptrace EPERM\ncompare EPERM",
        control: Control::Machine("readv ok\nstolen True\nwritev ok\nmem ok\nptrace ok\ncompare *"),
        ..CASE
    },
    Case {
        name: "descriptors-of-another-process",
        attack: "
def given():
    # The target's own descriptor 1, which leads to the caller.
    target = 1 if WALLS else VICTIM
    fd = raw(NR['pidfd_open'], target, 0)
    return target, fd
target, fd = given()
call('getfd', NR['pidfd_getfd'], fd, 1, 0)
attempt('open', lambda: os.open(f'/proc/{target}/fd/1', os.O_WRONLY))
attempt('list', lambda: os.listdir(f'/proc/{target}/fd'))
attempt('program', lambda: open(f'/proc/{target}/exe', 'rb'))
attempt('cwd', lambda: os.listdir(f'/proc/{target}/cwd'))
attempt('maps', lambda: read(f'/proc/{target}/maps'))
attempt('environment', lambda: read(f'/proc/{target}/environ'))
attempt('memory', lambda: os.open(f'/proc/{target}/mem', os.O_RDWR))",
        walls: "getfd EPERM\nopen EACCES|EPERM\nlist EACCES|EPERM\nprogram EACCES|EPERM\ncwd EACCES|EPERM\nmaps EACCES|EPERM\nenvironment EACCES|EPERM\nmemory EACCES|EPERM",
        // The numbers of what is open in a process of the same user can be listed, and nothing of it had.
        here: "getfd EPERM\nopen EACCES|EPERM\nlist ok|EACCES|EPERM\nprogram EACCES|EPERM\ncwd EACCES|EPERM\nmaps EACCES|EPERM\nenvironment EACCES|EPERM\nmemory EACCES|EPERM",
        control: Control::Machine("getfd ok\nopen ok\nlist ok\nprogram ok\ncwd ok\nmaps ok\nenvironment ok\nmemory ok"),
        ..CASE
    },
    Case {
        name: "limits-and-priority-of-another-process",
        attack: "
target = 1 if WALLS else VICTIM
call('limits', NR['prlimit64'], target, 7, struct.pack('=QQ', 64, 64), 0)
call('affinity', NR['sched_setaffinity'], target, 8, struct.pack('=Q', 1))
call('scheduler', NR['sched_setscheduler'], target, 5, struct.pack('=i', 0))
call('priority', NR['setpriority'], 0, target, 19)
# Without walls that would be everything of the user's, root's kernel threads among it.
if WALLS: call('of-the-user', NR['setpriority'], 2, 0, 19)
call('io', NR['ioprio_set'], 1, target, 3 << 13)
call('pages', NR['move_pages'], target, 0, 0, 0, 0, 0)",
        walls: "limits EPERM\naffinity EPERM\nscheduler EPERM\npriority EPERM\nof-the-user EPERM\nio EPERM\npages EPERM|EACCES",
        control: Control::Machine("limits ok\naffinity ok\nscheduler ok\npriority ok\nio ok\npages ok|ENOSYS|ENODEV"),
        ..CASE
    },
    Case {
        name: "more-than-its-share-of-the-machine",
        attack: "
attempt('real-time', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt('priority', lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1))
attempt('files', lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)))
attempt('core', lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)))
attempt('oom', lambda: write('/proc/self/oom_score_adj', b'-1000'))
call('io', NR['ioprio_set'], 1, 0, 1 << 13)",
        walls: "real-time EPERM\npriority EACCES|EPERM\nfiles ValueError|EPERM\ncore ValueError|EPERM\noom EACCES\nio EPERM",
        control: Control::Root("real-time *\npriority ok\nfiles *\ncore ok\noom *\nio ok"),
        ..CASE
    },
    Case {
        name: "every-signal-to-the-first-process",
        attack: "
target = 1
if not WALLS:
    target = os.fork()
    if target == 0: time.sleep(60); os._exit(0)
sent = 0
for number in [*range(1, 32), *range(34, 65)]:
    try: os.kill(target, number); sent += 1
    except OSError: pass
time.sleep(.1)
print('ended', not WALLS and os.waitpid(target, os.WNOHANG)[0] == target)",
        walls: "ended False",
        control: Control::Plain("ended True"),
        check: |ran| {
            super::ended_well(ran)?;
            // Had the first process ended, nobody would have counted this.
            if ran.ended().output_total > 0 { Ok(()) } else { Err("nothing was counted".into()) }
        },
        ..CASE
    },
    Case {
        name: "pretending-to-be-the-agent",
        attack: "
# The bytes of a frame that says `exited with 42`.
if WALLS:
    for fd in range(1, 64):
        try: os.write(fd, bytes.fromhex(FRAME))
        except OSError: pass
    print(flush=True)
attempt('its-output', lambda: os.open('/proc/1/fd/1', os.O_WRONLY))
attempt('its-input', lambda: os.open('/proc/1/fd/0', os.O_RDWR))
attempt('its-memory', lambda: os.open('/proc/1/mem', os.O_RDWR))",
        // What it writes is output and nothing else: the frame's bytes stand in the line.
        walls: "*\nits-output EACCES|EPERM\nits-input EACCES|EPERM\nits-memory EACCES|EPERM",
        control: Control::Rights("its-output ok\nits-input *\nits-memory ok"),
        check: |ran| {
            super::ended_well(ran)?;
            let ended = ran.frames.iter().filter(|f| matches!(f, firsttry::frame::Frame::Exited { .. })).count();
            if ended == 1 { Ok(()) } else { Err(format!("{ended} ends")) }
        },
        ..CASE
    },
    Case {
        name: "ignoring-sigterm",
        attack: "
signal.signal(15, signal.SIG_IGN)
while True: time.sleep(60)",
        control: Control::Stays,
        cell: short,
        check: was_killed,
        ..CASE
    },
    Case {
        name: "stopping-itself-again-and-again",
        attack: "
signal.signal(15, signal.SIG_IGN)
while True: os.kill(os.getpid(), signal.SIGSTOP)",
        control: Control::Stays,
        cell: short,
        check: was_killed,
        ..CASE
    },
    Case {
        name: "a-daemon-that-holds-the-output",
        attack: "
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(15, signal.SIG_IGN); signal.signal(1, signal.SIG_IGN)
        while True: time.sleep(60)
    os._exit(0)
os.wait()",
        control: Control::Stays,
        check: |ran| {
            super::ended_well(ran)?;
            let survivors = &ran.ended().survivors;
            if survivors.len() == 1 { Ok(()) } else { Err(format!("survivors: {survivors:?}")) }
        },
        ..CASE
    },
    Case {
        name: "a-daemon-that-changes-its-name-and-its-parents-death",
        attack: "
if os.fork() == 0:
    os.setsid()
    libc.prctl(1, 0, 0, 0, 0); libc.prctl(4, 0, 0, 0, 0); libc.prctl(15, b'kworker', 0, 0, 0); libc.prctl(36, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    for n in range(3):
        if os.fork() == 0: os.setsid(); time.sleep(60); os._exit(0)
    time.sleep(60)
time.sleep(.3)",
        control: Control::Stays,
        check: |ran| {
            super::ended_well(ran)?;
            let survivors = ran.ended().survivors.len();
            if survivors == 4 { Ok(()) } else { Err(format!("{survivors} survivors")) }
        },
        ..CASE
    },
    Case {
        name: "spinning-with-many-threads",
        attack: "
signal.signal(15, signal.SIG_IGN)
for _ in range(8): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()",
        control: Control::Stays,
        cell: short,
        check: was_killed,
        ..CASE
    },
    Case {
        name: "forking-during-the-timeout",
        attack: "
signal.signal(15, signal.SIG_IGN)
main = os.getpid()
while True:
    try:
        if os.fork() == 0:
            if os.getpid() % 3: os._exit(0)
            time.sleep(60)
    except OSError: pass
    time.sleep(.005)",
        control: Control::Stays,
        cell: |w, m| {
            short(w, m);
            w.limits.pids = Some(60);
        },
        check: was_killed,
        ..CASE
    },
    Case {
        name: "replacing-itself-during-the-timeout",
        attack: "
signal.signal(15, signal.SIG_IGN)
time.sleep(.05)
with open('/proc/self/cmdline', 'rb') as f: words = f.read().split(b'\\0')[:-1]
os.execv(sys.executable, words)",
        // Each time anew, it says that it ran.
        walls: "",
        control: Control::Stays,
        cell: |w, m| {
            short(w, m);
            // The first line alone.
            m.output_bytes = "SANDBOX-RAN replacing-itself-during-the-timeout\n".len() as u64;
        },
        check: was_killed,
        ..CASE
    },
];

/// A second in all.
fn short(_: &mut firsttry::cell::Walls, manifest: &mut firsttry::frame::Manifest) {
    // Python takes its time to start where nothing is compiled and the machine is busy.
    (manifest.timeout_ms, manifest.grace_ms) = (3000, 300);
}
