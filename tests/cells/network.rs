//! No network but the cell's own loopback.

use super::harness::Fixture;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Counts who reaches it, from a thread that lives as long as the test binary.
fn counting() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, count)
}

#[test]
fn a_listener_of_the_host_is_not_reached_over_loopback() {
    let (port, count) = counting();
    let fixture = Fixture::python(&format!(
        "import socket
for host in ['127.0.0.1', '127.0.0.2', '::1', '::ffff:127.0.0.1', 'localhost', '0.0.0.0']:
    try: socket.create_connection((host, {port}), 2); print('connected', host)
    except OSError as e: print(type(e).__name__)"
    ));
    assert_eq!(fixture.run().passed(), "ConnectionRefusedError\n".repeat(6));
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert!(fixture.control().starts_with("connected 127.0.0.1\n"));
    super::harness::eventually("the control reaches the listener", || count.load(Ordering::SeqCst) > 0);
}

#[test]
fn an_abstract_socket_of_the_host_is_not_reached() {
    let name = format!("ft-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let fixture = Fixture::python(&format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\nprint(s.connect_ex(b'\\0{name}'))"
    ));
    assert_eq!(fixture.run().passed(), "111\n");
    assert_eq!(fixture.control(), "0\n");
}

#[test]
fn the_outside_is_unreachable_at_once_and_names_do_not_resolve() {
    let fixture = Fixture::python(
        "import socket, errno
def attempt(name, action):
    try: action(); print(name, 'went out')
    except socket.gaierror as e: print(name, 'no name')
    except OSError as e: print(name, errno.errorcode[e.errno])
tcp = lambda family: socket.socket(family, socket.SOCK_STREAM)
udp = lambda family: socket.socket(family, socket.SOCK_DGRAM)
attempt('tcp', lambda: tcp(socket.AF_INET).connect(('192.0.2.1', 80)))
attempt('tcp6', lambda: tcp(socket.AF_INET6).connect(('2001:db8::1', 80)))
attempt('mapped', lambda: tcp(socket.AF_INET6).connect(('::ffff:192.0.2.1', 80)))
attempt('udp', lambda: udp(socket.AF_INET).sendto(b'x', ('192.0.2.1', 53)))
attempt('sendmsg', lambda: udp(socket.AF_INET).sendmsg([b'x'], [], 0, ('8.8.8.8', 53)))
attempt('name', lambda: socket.getaddrinfo('example.org', 80))
attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM))
attempt('vsock', lambda: socket.socket(40, socket.SOCK_STREAM))
attempt('alg', lambda: socket.socket(38, 5))
attempt('uevent', lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15))
attempt('route', lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))",
    );
    let start = Instant::now();
    assert_eq!(
        fixture.run().passed(),
        "tcp ENETUNREACH\ntcp6 ENETUNREACH\nmapped ENETUNREACH\nudp ENETUNREACH\nsendmsg ENETUNREACH\nname no name\nraw EPERM\npacket EAFNOSUPPORT\nvsock EAFNOSUPPORT\nalg EAFNOSUPPORT\nuevent EAFNOSUPPORT\nroute went out\n"
    );
    assert!(start.elapsed() < Duration::from_secs(5));
    // Whether the control has a route is this machine's business; a kernel event socket it has everywhere.
    let control = fixture.with(|_, m| {
        m.argv[2] = "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)\nprint('uevent')".into()
    });
    assert_eq!(control.control(), "uevent\n");
}

#[test]
fn loopback_works_inside_in_both_families_and_between_processes() {
    let script = "import socket, os
for family, host in [(socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1'), (socket.AF_INET, '127.1.2.3')]:
    server = socket.create_server((host, 0), family=family)
    if os.fork() == 0:
        socket.create_connection(server.getsockname()[:2]).sendall(b'hello'); os._exit(0)
    print(server.accept()[0].recv(5).decode()); os.wait()
left, right = socket.socketpair(); left.send(b'pair'); print(right.recv(4).decode())
import asyncio, multiprocessing
asyncio.run(asyncio.sleep(0)); multiprocessing.Lock(); print(socket.gethostbyname('localhost'))";
    assert_eq!(Fixture::python(script).run().passed(), "hello\nhello\nhello\npair\n127.0.0.1\n");
}
