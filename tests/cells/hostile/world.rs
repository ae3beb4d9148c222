//! The world outside of a cell, as an attack would like to have it: things to reach, to read and to break, each of which
//! tells afterwards whether that happened.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// One case's own world.
pub struct World {
    dir: tempfile::TempDir,
    /// The case's.
    pub name: &'static str,
    /// In the command line of everything that the attack starts.
    pub marker: String,
    /// A text that is secret.
    canary: String,
    tcp: TcpListener,
    udp: UdpSocket,
    unix: UnixListener,
    datagrams: UnixDatagram,
    abstract_name: String,
    abstract_socket: UnixListener,
    victim: Option<Victim>,
    /// A connection to our own listener that every child inherits.
    leaked: Option<(TcpStream, TcpStream)>,
}

/// A process of the caller's, with secrets in its environment and its memory.
struct Victim {
    child: Child,
    at: u64,
}

/// `sys.argv`: the canary, and a number for the names of its IPC objects or 0. Lives until its input ends.
const VICTIM: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None)
secret = ctypes.create_string_buffer(sys.argv[1].encode())
libc.prctl(0x59616d61, -1, 0, 0, 0)
key = int(sys.argv[2])
if key == 0:
    print(ctypes.addressof(secret), flush=True); sys.stdin.read(); sys.exit()
shm = libc.shmget(key, 4096, 0o1666)
queue = libc.msgget(key, 0o1666)
semaphore = libc.semget(key, 1, 0o1666)
os.umask(0)
os.close(os.open(f'/dev/shm/ft-{key}', os.O_CREAT | os.O_RDWR, 0o666))
libc.mq_open(b'/ft-%d' % key, 0o102, 0o666, None)
print(ctypes.addressof(secret), flush=True)
sys.stdin.read()
libc.shmctl(shm, 0, None); libc.msgctl(queue, 0, None); libc.semctl(semaphore, 0, 0)
os.unlink(f'/dev/shm/ft-{key}'); libc.mq_unlink(b'/ft-%d' % key)
";

fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::process::id() * 1000 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An address of this machine that is not its loopback, where it has one: the one it would go out with.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let outside = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    outside.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

impl World {
    /// What this attack names of it. `apart` from the shared places, where a cell without namespaces lets its step write.
    pub fn new(name: &'static str, attack: &str, apart: bool) -> World {
        let number = number();
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("ft-outside-");
        let dir = if apart { crate::here::outside_of_tmp(builder) } else { builder.tempdir().unwrap() };
        let at = |path: &str| dir.path().join(path);
        let open = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        open(dir.path(), 0o755);
        let canary = format!("canary-{number}");
        for place in
            ["given", "home", "home/.ssh", "home/.aws", "home/.docker", "unprotected", "unprotected/.git", "out"]
        {
            fs::create_dir(at(place)).unwrap();
        }
        for file in
            ["secret", "home/.netrc", "home/.ssh/id_ed25519", "home/.aws/credentials", "home/.docker/config.json"]
        {
            fs::write(at(file), &canary).unwrap();
        }
        for file in ["precious", "given/precious", "unprotected/README"] {
            fs::write(at(file), "before").unwrap();
            open(&at(file), 0o666);
        }
        fs::create_dir(at("given/sub")).unwrap();
        let unix = UnixListener::bind(at("engine.sock")).unwrap();
        let datagrams = UnixDatagram::bind(at("log.sock")).unwrap();
        for socket in ["engine.sock", "log.sock"] {
            open(&at(socket), 0o666);
        }
        // Both families where the machine has both.
        let tcp = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0")).unwrap();
        let udp = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let abstract_name = format!("ft-outside-{number}");
        let abstract_socket =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        let leaked = attack.contains("INHERITED").then(|| {
            let client = TcpStream::connect(("127.0.0.1", tcp.local_addr().unwrap().port())).unwrap();
            let (server, _) = tcp.accept().unwrap();
            server.set_nonblocking(true).unwrap();
            rustix::io::fcntl_setfd(&client, rustix::io::FdFlags::empty()).unwrap();
            (client, server)
        });
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        unix.set_nonblocking(true).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        abstract_socket.set_nonblocking(true).unwrap();
        // One that is to be ended has nothing to clean up.
        let key = if attack.contains("IPC") { number } else { 0 };
        let victim = (attack.contains("VICTIM") || key > 0).then(|| Victim::start(&canary, key));
        World {
            dir,
            name,
            marker: format!("ft-hostile-{number}-"),
            canary,
            tcp,
            udp,
            unix,
            datagrams,
            abstract_name,
            abstract_socket,
            victim,
            leaked,
        }
    }

    /// A directory that is handed to the cell, to be read.
    pub fn given(&self) -> PathBuf {
        self.dir.path().join("given")
    }

    /// Where the control works.
    pub fn unprotected(&self) -> PathBuf {
        self.dir.path().join("unprotected")
    }

    /// What a repository has beside its files.
    pub fn furnish(&self, tree: &Path) {
        fs::create_dir_all(tree.join(".git/hooks")).unwrap();
        super::super::harness::give_to_step(tree);
    }

    /// Secrets in the caller's environment.
    pub fn variables(&self) -> [(&'static str, &str); 3] {
        [("AWS_SECRET_ACCESS_KEY", &self.canary), ("GITHUB_TOKEN", &self.canary), ("PYTHONSTARTUP", &self.canary)]
    }

    /// The constants of the attack, in Python.
    pub fn constants(&self, walls: bool) -> String {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut text = format!("NAME, WALLS = {:?}, {}\n", self.name, if walls { "True" } else { "False" });
        let place = |inside: &str, outside: &str| if walls { inside.to_owned() } else { path(outside) };
        for (name, value) in [
            ("OUTSIDE", path("")),
            ("SECRET", path("secret")),
            ("PRECIOUS", path("precious")),
            ("USERS_HOME", path("home")),
            ("ENGINE", path("engine.sock")),
            ("LOG", path("log.sock")),
            ("GIVEN", place("/ft/given", "given")),
            ("OUT", place("/ft/out", "out")),
            ("ABSTRACT", self.abstract_name.clone()),
            ("CANARY", self.canary.clone()),
            ("ADDRESS", own_address().to_string()),
            ("FRAME", forged()),
        ] {
            let _ = writeln!(text, "{name} = {value:?}");
        }
        let port = |address: std::io::Result<std::net::SocketAddr>| address.unwrap().port();
        let _ = writeln!(text, "PORT, UDP = {}, {}", port(self.tcp.local_addr()), port(self.udp.local_addr()));
        if let Some(victim) = &self.victim {
            let _ = writeln!(text, "VICTIM, VICTIM_AT, IPC = {}, {}, {}", victim.child.id(), victim.at, self.key());
        }
        let _ = writeln!(text, "NR = {:?}", super::kernel::numbers());
        text
    }

    fn key(&self) -> &str {
        self.marker.trim_start_matches("ft-hostile-").trim_end_matches('-')
    }

    /// How often its TCP listener was connected to.
    pub fn reached(&self) -> bool {
        self.tcp.accept().is_ok()
    }

    /// Whether a datagram came.
    pub fn told(&self) -> bool {
        self.udp.recv_from(&mut [0; 64]).is_ok()
    }

    /// Whether a socket in its file system or of an abstract name was connected to.
    pub fn engine_reached(&self) -> bool {
        self.unix.accept().is_ok()
    }

    pub fn abstract_reached(&self) -> bool {
        self.abstract_socket.accept().is_ok()
    }

    pub fn logged(&self) -> bool {
        self.datagrams.recv(&mut [0; 64]).is_ok()
    }

    /// Whether something came through the connection that its children inherit.
    pub fn leaked(&self) -> bool {
        let mut server = &self.leaked.as_ref().unwrap().1;
        match server.read(&mut [0; 64]) {
            Ok(n) => n > 0,
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            Err(e) => panic!("{e}"),
        }
    }

    /// Whether one of its files was changed or is gone.
    pub fn broken(&self) -> bool {
        ["precious", "given/precious"]
            .iter()
            .any(|file| fs::read_to_string(self.dir.path().join(file)).ok().as_deref() != Some("before"))
    }

    /// Whether its process has ended.
    pub fn victim_is_dead(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.victim.as_ref().unwrap().child.id()));
        !status.is_ok_and(|status| !super::super::harness::field(&status, "State").starts_with(['Z', 'X']))
    }

    /// Whether a file was planted where the next command, or the user, would run it.
    pub fn planted(&self) -> bool {
        [".git/hooks/pre-commit", "sitecustomize.py", "conftest.py", "evil.pth"]
            .iter()
            .any(|file| self.unprotected().join(file).exists())
    }

    /// Whether a secret is in what came back.
    pub fn stolen(&self, came_back: &[Vec<u8>]) -> bool {
        came_back.iter().any(|bytes| bytes.windows(self.canary.len()).any(|w| w == self.canary.as_bytes()))
    }

    /// What a collector without any care takes from the control's directories: it follows every link.
    pub fn naively_collected(&self) -> Vec<Vec<u8>> {
        fn take(path: &Path, depth: usize, all: &mut Vec<Vec<u8>>) {
            let Ok(meta) = fs::metadata(path) else { return };
            if meta.is_dir() && depth < 5 {
                fs::read_dir(path)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .for_each(|entry| take(&entry.path(), depth + 1, all));
            } else if meta.is_file() && meta.len() < 1 << 20 {
                all.extend(fs::read(path).ok());
            }
        }
        let mut all = Vec::new();
        for place in [self.unprotected().join("artifacts"), self.dir.path().join("out")] {
            take(&place, 0, &mut all);
        }
        all
    }

    /// Every file of the tree and outside, with what tells a changed one.
    pub fn listing(&self, tree: &Path) -> String {
        fn list(at: &Path, all: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(at).unwrap().flatten() {
                let (path, meta) = (entry.path(), entry.metadata().unwrap());
                if meta.is_dir() {
                    list(&path, all);
                }
                let modified = meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
                let mode = meta.permissions().mode();
                all.insert(path, format!("{mode:o} {} {}", meta.len(), modified.as_nanos()));
            }
        }
        let mut all = BTreeMap::new();
        list(tree, &mut all);
        list(self.dir.path(), &mut all);
        all.iter().fold(String::new(), |text, (path, mark)| format!("{text}{mark} {}\n", path.display()))
    }
}

impl Victim {
    fn start(canary: &str, number: u32) -> Victim {
        let mut child = Command::new("python3")
            .args(["-ISc", VICTIM, canary, &number.to_string()])
            .env_clear()
            .envs([("PATH", "/usr/local/bin:/usr/bin:/bin"), ("AWS_SECRET_ACCESS_KEY", canary)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Victim { at: line.trim().parse().unwrap(), child }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // The end of its input: it removes its IPC objects and ends, unless the control has ended it.
        drop(self.child.stdin.take());
        // A control that traced it has left it stopped.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        let _ = self.child.wait();
    }
}

/// A frame that says that all went well, as text of the control's constants: hexadecimal.
fn forged() -> String {
    use firsttry::frame::{Ended, Frame, Payload};
    hex::encode(Frame::Exited { ended: Ended { code: 42, ..Ended::default() } }.encode())
}
