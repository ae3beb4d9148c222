//! Taking more than was given.

use super::{CASE, Case, Control, ended_well};

pub const CASES: &[Case] = &[
    Case {
        name: "memory",
        attack: "
if os.fork() == 0:
    try: held = bytearray(400 << 20); print('held', len(held), flush=True)
    except MemoryError: pass
    os._exit(0)
os.wait()",
        walls: "",
        control: Control::Plain("held 419430400"),
        cell: |w, _| w.limits.memory_bytes = Some(96 << 20),
        check: |ran| {
            let counted = ran.finished().observed.iter().any(|o| o.wall == "memory" && o.enforced);
            let ended = ran.ended();
            // With a limit for each process alone, it is the program that sees it.
            if ended.out_of_memory == counted && !ended.timed_out {
                Ok(())
            } else {
                Err(format!("{counted} {ended:?}"))
            }
        },
        ..CASE
    },
    Case {
        name: "processes",
        attack: "
count = 0
try:
    while count < 300:
        if os.fork() == 0: time.sleep(20 if WALLS else 1); os._exit(0)
        count += 1
    print('made', count)
except OSError as e: print('refused', said(e.errno), count <= 60)",
        walls: "refused EAGAIN True",
        control: Control::Plain("made 300"),
        cell: |w, _| w.limits.pids = Some(60),
        ..CASE
    },
    Case {
        name: "threads",
        attack: "
count = 0
try:
    while count < 300:
        threading.Thread(target=time.sleep, args=(20 if WALLS else 1,), daemon=True).start()
        count += 1
    print('made', count)
except RuntimeError: print('refused', count <= 60)
sys.stdout.flush(); os._exit(0)",
        walls: "refused True",
        control: Control::Plain("made 300"),
        cell: |w, _| w.limits.pids = Some(60),
        ..CASE
    },
    Case {
        name: "zombies",
        // Each double fork leaves one to the first process, who must take it, or the limit is reached.
        attack: "
for n in range(120):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.waitpid(pid, 0)
    if n % 20 == 0: time.sleep(.02)
time.sleep(.1)
def orphaned(pid):
    # Its parent is the first process: whoever started this one, or this one itself.
    try: state, parent = open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[:2]
    except OSError: return False
    return state == 'Z' and int(parent) in (os.getppid(), os.getpid())
print('zombies', sum(map(orphaned, filter(str.isdigit, os.listdir('/proc')))) > 20)",
        walls: "zombies False",
        // As the first process itself, which takes nobody.
        control: Control::Rights("zombies True"),
        cell: |w, _| w.limits.pids = Some(60),
        ..CASE
    },
    Case {
        name: "temporary-files",
        attack: "
def fill():
    with open(place, 'wb') as f:
        for _ in range(48): f.write(bytes(1 << 16)); f.flush()
place = f'/tmp/ft-fill-{os.getpid()}' if WALLS else 'fill'
attempt('three-megabytes', fill)
os.unlink(place)",
        walls: "three-megabytes ENOSPC|EFBIG|EDQUOT",
        // The machine's `/tmp` is not the step's to be measured. What is: its tree, home, `/ft/out` and TMPDIR, see
        // `here::a_step_that_writes_too_much_is_ended`.
        here: "three-megabytes ok",
        control: Control::Plain("three-megabytes ok"),
        cell: |w, _| w.limits.disk_bytes = Some(1 << 20),
        ..CASE
    },
    Case {
        name: "empty-files",
        attack: "
import shutil
place = f'/tmp/ft-many-{os.getpid()}' if WALLS else 'many'
os.mkdir(place)
def fill():
    for n in range(5000): os.close(os.open(f'{place}/{n}', os.O_CREAT | os.O_WRONLY))
attempt('five-thousand', fill)
shutil.rmtree(place)",
        walls: "five-thousand ENOSPC|EDQUOT",
        here: "five-thousand ok",
        control: Control::Plain("five-thousand ok"),
        cell: |w, _| w.limits.disk_bytes = Some(1 << 20),
        ..CASE
    },
    Case {
        name: "output",
        attack: "
sys.stdout.flush()
for _ in range(48): os.write(1, b'x' * (1 << 20))
os.write(1, b'\\n')",
        walls: "*",
        control: Control::Plain("*"),
        cell: |_, m| (m.output_bytes, m.timeout_ms) = (1 << 20, 100_000),
        check: |ran| {
            ended_well(ran)?;
            let ended = ran.ended();
            let passed = ended.output_total - ended.output_dropped;
            let counted = ended.output_total > 48 << 20;
            if counted && passed == 1 << 20 && ran.output.len() as u64 == passed {
                Ok(())
            } else {
                Err(format!("{ended:?}"))
            }
        },
        ..CASE
    },
    Case {
        name: "open-files",
        attack: "
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 17), hard))
def fill():
    for _ in range(1 << 16 if WALLS else 1 << 10): os.dup(0)
attempt('fill', fill)
attempt('more', lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1)))
for fd in range(3, 1 << 17):
    try: os.close(fd)
    except OSError: break",
        walls: "fill ok|EMFILE\nmore ValueError|EPERM",
        control: Control::Root("fill ok\nmore *"),
        ..CASE
    },
    Case {
        name: "a-large-file",
        attack: "
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def fill():
    with open('large', 'wb') as f:
        for _ in range(48): f.write(bytes(1 << 16)); f.flush()
attempt('three-megabytes', fill)
attempt('sparse', lambda: os.truncate('large', 1 << 30))
attempt('limit', lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)))",
        walls: "three-megabytes EFBIG\nsparse EFBIG\nlimit ValueError|EPERM",
        control: Control::Plain("three-megabytes ok\nsparse ok\nlimit ok"),
        cell: |_, m| m.file_bytes = 1 << 20,
        ..CASE
    },
    Case {
        name: "processors",
        attack: "
count = len(os.sched_getaffinity(0))
attempt('all', lambda: os.sched_setaffinity(0, range(count)))
print('one', count == 1)",
        walls: "all ok\none True",
        control: Control::Plain("all ok\none False"),
        cell: |w, _| w.limits.cpus = Some(1),
        ..CASE
    },
    Case {
        name: "locked-memory",
        attack: "
held = mmap.mmap(-1, 64 << 20)
at = ctypes.addressof(ctypes.c_char.from_buffer(held))
def lock():
    if libc.mlock(ctypes.c_void_p(at), ctypes.c_size_t(64 << 20)): raise OSError(ctypes.get_errno(), '')
attempt('lock', lock)
attempt('limit', lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 40, 1 << 40)))",
        walls: "lock ENOMEM|EPERM|EAGAIN\nlimit ValueError|EPERM",
        control: Control::Root("lock ok\nlimit *"),
        ..CASE
    },
];
