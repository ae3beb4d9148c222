//! Engines and registries of a test's own: they may be killed, filled and cut off without anybody else noticing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a program may take to listen, on a machine that does other things as well.
const START: Duration = Duration::from_secs(90);

/// Whose a service without root is: nobody's on this machine.
const USER: u32 = 61_001;

/// An engine with its own data, without a network.
pub struct Private {
    dir: tempfile::TempDir,
    child: Child,
    start: Box<dyn Fn(&Path) -> Child>,
}

impl Private {
    /// An engine on a socket.
    pub fn start() -> Private {
        Private::start_with(&[], |_| ())
    }

    /// An engine with more arguments, after `prepare` has put what it needs into its directory. Data stand in `data/`.
    pub fn start_with(more: &[String], prepare: impl FnOnce(&Path)) -> Private {
        let dir = tempfile::Builder::new().prefix("ft-engine-").tempdir().unwrap();
        // Without a file of its own it would read the machine's, and have that engine's id.
        let key = dir.path().join("key.json");
        let config =
            serde_json::json!({ "deprecated-key-path": key, "storage-driver": "vfs", "max-download-attempts": 1 });
        std::fs::write(dir.path().join("daemon.json"), config.to_string()).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        prepare(dir.path());
        let more = more.to_vec();
        Private::start_in(dir, Box::new(move |dir| docker(dir, &more)))
    }

    /// A Podman service as it is installed, by root who may not raise a limit: as in a container that is not privileged.
    pub fn podman() -> Private {
        Private::podman_of("--bounding-set=-sys_resource", |_| ())
    }

    /// The same by an ordinary user, who is one for this service alone, as are the ids that are his to give.
    pub fn rootless_podman() -> Private {
        Private::podman_of(&format!("--reuid={USER} --regid={USER} --clear-groups"), |dir| {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
            let line = format!("ft-engine:x:{USER}:{USER}::{}:/bin/sh\n", dir.join("home").display());
            std::fs::write(dir.join("passwd"), passwd + &line).unwrap();
            for ids in ["subuid", "subgid"] {
                std::fs::write(dir.join(ids), "ft-engine:2000000:65536\n").unwrap();
            }
            std::fs::create_dir(dir.join("home")).unwrap();
            for at in ["", "home", "run"] {
                std::os::unix::fs::chown(dir.join(at), Some(USER), Some(USER)).unwrap();
            }
        })
    }

    fn podman_of(who: &str, prepare: impl FnOnce(&Path)) -> Private {
        let dir = tempfile::Builder::new().prefix("ft-engine-").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let text = format!("[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n", at("data"), at("run"));
        std::fs::write(at("storage.conf"), text).unwrap();
        std::fs::create_dir(at("run")).unwrap();
        prepare(dir.path());
        let who = who.to_owned();
        Private::start_in(dir, Box::new(move |dir| podman(dir, &who)))
    }

    fn start_in(dir: tempfile::TempDir, start: Box<dyn Fn(&Path) -> Child>) -> Private {
        let mut private = Private { child: start(dir.path()), dir, start };
        private.wait();
        private
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("engine.sock")
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Ends the engine as a power failure would; its containers may go on.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same data.
    pub fn restart(&mut self) {
        self.kill();
        // What a dead one left would be waited for, also where its number is a zombie's or another's by now.
        for stale in ["pid", "exec/containerd/containerd.pid"] {
            let _ = std::fs::remove_file(self.dir.path().join(stale));
        }
        self.child = (self.start)(self.dir.path());
        self.wait();
    }

    fn wait(&mut self) {
        let until = Instant::now() + START;
        while !pings(&self.socket()) {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "the private engine does not answer: {log}");
            assert!(self.child.try_wait().unwrap().is_none(), "the private engine ended: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.kill();
        // Its containerd, the shims of containers and those themselves: whatever names our directory, and its children.
        let ours = self.dir.path().display().to_string();
        for _ in 0..20 {
            let found = processes_of(&ours);
            if found.is_empty() {
                break;
            }
            for pid in found {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below: Vec<&str> =
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| at.starts_with(&ours)).collect();
        for at in below.into_iter().rev() {
            let _ = Command::new("umount").args(["-l", at]).status();
        }
        // Podman's for all containers; whoever else has some in it keeps it.
        let groups = Path::new("/sys/fs/cgroup");
        let below = std::fs::read_dir(groups).into_iter().flatten().filter_map(|group| Some(group.ok()?.path()));
        for group in below.chain([groups.to_owned()]) {
            for made in ["libpod_parent/conmon", "libpod_parent"] {
                let _ = std::fs::remove_dir(group.join(made));
            }
        }
    }
}

/// Processes whose command line names this directory, after their children.
fn processes_of(dir: &str) -> Vec<u32> {
    let all: Vec<u32> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .collect();
    let names_it = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(dir)
    };
    let own: Vec<u32> = all.iter().copied().filter(names_it).collect();
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    let children = all.iter().copied().filter(|pid| parent(*pid).is_some_and(|parent| own.contains(&parent)));
    children.chain(own.iter().copied()).collect()
}

/// Its output goes to `log` in the directory.
fn spawn(command: &mut Command, dir: &Path, package: &str) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    // Where it stands, conmon leaves a file when a container's memory is exhausted.
    let command = command.current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap_or_else(|e| panic!("{:?} is part of {package}: {e}", command.get_program()))
}

fn docker(dir: &Path, more: &[String]) -> Child {
    let at = |name: &str| dir.join(name).display().to_string();
    let mut engine = Command::new("dockerd");
    engine
        .args(["--config-file", &at("daemon.json"), "--data-root", &at("data"), "--exec-root", &at("exec")])
        .args(["--pidfile", &at("pid"), "--host", &format!("unix://{}", at("engine.sock"))])
        // Without a bridge of its own: with `none` it would remove the one of this machine's engine.
        .args(["--bridge=docker0", "--iptables=false", "--ip6tables=false"])
        .args(more);
    spawn(&mut engine, dir, "Docker's engine package")
}

/// The service, all that it starts, and what it keeps beside its data (locks, caches, a bridge's description) are in
/// namespaces of their own: with the first of these processes everything is gone.
fn podman(dir: &Path, who: &str) -> Child {
    let at = |name: &str| dir.join(name).display().to_string();
    let script = format!(
        "for own in /run /dev/shm /var/lib /etc/cni; do [ ! -d $own ] || mount -t tmpfs none $own; done\n\
         for own in passwd subuid subgid; do [ ! -e {own}/$own ] || mount --bind {own}/$own /etc/$own; done\n\
         prlimit --nofile=20000 setpriv {who} podman \"$@\"\nexit 1",
        own = dir.display()
    );
    let mut engine = Command::new("unshare");
    engine
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script, "podman"])
        .args(["--root", &at("data"), "--runroot", &at("run")])
        // What systemd would be asked for.
        .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
        .args(["system", "service", "--time", "0", &format!("unix://{}", at("engine.sock"))])
        // The machine's configuration is not a test's.
        .env("CONTAINERS_CONF", "/dev/null")
        .env("CONTAINERS_STORAGE_CONF", at("storage.conf"))
        .env("HOME", at("home"))
        .env("XDG_RUNTIME_DIR", at("run"));
    spawn(&mut engine, dir, "util-linux")
}

fn pings(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut answer = [0; 12];
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: d\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.ends_with(b" 200")
}

/// A port that nobody listens on right now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A registry of images on loopback.
pub struct Registry {
    _dir: tempfile::TempDir,
    child: Child,
    pub port: u16,
}

impl Registry {
    pub fn start() -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed (ci/test does it)");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("listening on 127.0.0.1:")?.1.split('"').next()?.parse().ok())
            .expect("it says where it listens");
        // What it says later must go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Registry { _dir: dir, child, port }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes connections on, and cuts all of them once so many bytes have come back.
pub struct Cutter {
    pub port: u16,
    left: Arc<AtomicUsize>,
}

impl Cutter {
    pub fn start(to: u16) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let ours = Arc::clone(&left);
        std::thread::spawn(move || {
            for client in listener.incoming().filter_map(Result::ok) {
                let left = Arc::clone(&ours);
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (mut up, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut up, &mut to_server));
                std::thread::spawn(move || pass(server, client, &left));
            }
        });
        Cutter { port, left }
    }

    /// From now on, no more than this comes back.
    pub fn allow(&self, bytes: usize) {
        self.left.store(bytes, Ordering::SeqCst);
    }
}

fn pass(mut server: TcpStream, mut client: TcpStream, left: &AtomicUsize) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        let took = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(n));
        if took.is_err() || client.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(std::net::Shutdown::Both);
    let _ = client.shutdown(std::net::Shutdown::Both);
}
