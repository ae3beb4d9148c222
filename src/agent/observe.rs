//! What the walls look like from inside: read or tried by PID 1 after it gave up its rights, which its children share.

use super::root::Tree;
use crate::frame::{Observed, Policy};
use crate::linux::cgroup;
use crate::network::address;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// What was built, for what can't be seen from inside.
#[derive(Debug, Default)]
pub struct Facts {
    /// We built the walls; else an engine did.
    pub raised: bool,
    /// How the view of the tree came to be.
    pub tree: Tree,
    /// The control group that limits memory.
    pub memory: Option<&'static str>,
    /// The control group that limits processes.
    pub pids: Option<&'static str>,
    /// Memory limit of the cell; 0 for none.
    pub memory_bytes: u64,
    /// Limit of processes; 0 for none.
    pub pids_max: u64,
    /// Bytes that the step may write; 0 for no limit.
    pub disk_bytes: u64,
    /// What the copy of the tree takes, where it was copied.
    pub copied: u64,
    /// CPUs of the affinity mask; 0 for all.
    pub cpus: u32,
    /// Root started the cell, and the step has another kernel uid.
    pub mapped_from_root: bool,
    /// What the host relays, in words; `None` for nothing.
    pub relayed: Option<String>,
    /// There are no namespaces, and what there is instead.
    pub here: Option<Here>,
    /// An engine raised the walls: what it limits.
    pub engine: Option<Engine>,
}

/// What the groups of a container limit, as seen from inside: the file and its value.
#[derive(Debug)]
pub struct Engine {
    memory: Option<(&'static str, u64)>,
    pids: Option<(&'static str, u64)>,
}

impl Engine {
    /// Looks.
    pub fn look() -> Engine {
        let [memory, pids] = cgroup::container_limits();
        Engine { memory, pids }
    }
}

/// A cell without namespaces.
#[derive(Debug)]
pub struct Here {
    /// What stands for `/ft`.
    pub root: String,
    /// The version of Landlock's interface.
    pub landlock: u32,
    /// Threads of the same user that are not of this cell, which the kernel counts with its own.
    pub others: u64,
}

impl Facts {
    /// `RLIMIT_DATA` for the command, where no control group limits memory.
    pub fn data_limit(&self, manifest: u64) -> Option<u64> {
        let bytes = if manifest > 0 { manifest } else { self.memory_bytes };
        (bytes > 0 && self.memory.is_none() && self.raised).then_some(bytes)
    }

    /// `RLIMIT_NPROC` for the command, where no control group limits processes. PID 1 counts too.
    pub fn process_limit(&self, manifest: u64) -> Option<u64> {
        let pids = if manifest > 0 { manifest } else { self.pids_max };
        let others = self.here.as_ref().map_or(0, |here| here.others);
        (pids > 0 && self.pids.is_none() && self.raised).then_some(pids + 1 + others)
    }
}

fn wall(wall: &str, mechanism: &str, detail: impl Into<String>, enforced: bool) -> Observed {
    Observed { wall: wall.into(), mechanism: mechanism.into(), detail: detail.into(), enforced }
}

/// What an engine was asked to limit, held against what the container's groups say.
fn of_engine(engine: &Engine, facts: &Facts) -> Vec<Observed> {
    let held = |wall_of: &str, asked: u64, said: Option<(&'static str, u64)>| match said {
        Some((file, value)) if value <= asked => {
            wall(wall_of, &format!("the container's control group, {file}"), value.to_string(), true)
        }
        said => {
            let said = said.map_or("no limit".to_owned(), |(file, value)| format!("{value} in {file}"));
            wall(wall_of, "", format!("{asked} was asked for, the container's control group says {said}"), false)
        }
    };
    let mut all = Vec::new();
    if facts.memory_bytes > 0 {
        all.push(held("memory", facts.memory_bytes, engine.memory));
    }
    if facts.pids_max > 0 {
        all.push(held("pids", facts.pids_max, engine.pids));
    }
    if facts.disk_bytes > 0 {
        all.push(wall("disk", "", "only the size of /tmp and of one file", false));
    }
    all.push(wall("output", "counted by PID 1", "what is over the limit is dropped", true));
    all.push(wall("files", "RLIMIT_NOFILE", super::spawn::FILES.0.to_string(), true));
    if facts.cpus > 0 {
        all.push(wall("cpus", "affinity mask", facts.cpus.to_string(), true));
    }
    all
}

/// Looks at every wall.
pub fn observe(facts: &Facts) -> Vec<Observed> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim().to_owned()
    };
    let mut all = match &facts.here {
        Some(here) => without_namespaces(here, &field("Uid"), facts),
        None => vec![network(facts.relayed.as_deref()), pid(), user(&field("Uid"), facts)],
    };
    let capabilities: Vec<String> = ["CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().map(|n| field(n)).collect();
    // What an ordinary user has in the bounding set comes to nobody with no_new_privs.
    let held = if facts.here.is_some() {
        vec![&capabilities[0], &capabilities[1], &capabilities[3]]
    } else {
        capabilities.iter().collect()
    };
    let none = held.iter().all(|c| !c.is_empty() && c.chars().all(|digit| digit == '0'));
    all.push(wall("capabilities", "dropped", capabilities.join(" "), none));
    all.push(groups(&field("Groups"), facts));
    let nnp = field("NoNewPrivs");
    all.push(wall("no_new_privs", "prctl", nnp.clone(), nnp == "1"));
    let filter = field("Seccomp");
    all.push(wall("seccomp", "filter", format!("mode {filter}"), filter == "2"));
    if facts.here.is_none() {
        all.push(read_only());
    }
    all.push(tree(facts));
    all.extend(limits(facts));
    all
}

/// Whether refused calls are seen. The other walls hold without it; then violations can't be told.
pub fn witness(watched: &Result<(), String>) -> Observed {
    let (detail, holds) = match watched {
        Ok(()) => ("every connect and addressed send is asked about".to_owned(), true),
        Err(why) => (format!("violations are not observable: {why}"), false),
    };
    wall("witness", "seccomp user notification", detail, holds)
}

/// What the host relays under this policy; `None` for nothing.
pub fn relayed(policy: &Policy) -> Option<String> {
    match policy.mode {
        Policy::LISTED => {
            let entries = policy.allowed.iter().map(|entry| {
                let host = match address::parse(&entry.address.0) {
                    Some(IpAddr::V6(address)) if entry.port != 0 => format!("[{address}]"),
                    Some(address) => address.to_string(),
                    None if entry.name.starts_with('.') => format!("*{}", entry.name),
                    None => entry.name.clone(),
                };
                if entry.port == 0 { host } else { format!("{host}:{}", entry.port) }
            });
            Some(entries.collect::<Vec<_>>().join(", "))
        }
        Policy::EVERYWHERE => Some("everything but the host's own loopback, link and metadata".to_owned()),
        _ => None,
    }
}

/// No interface but loopback. Without a relay no route either: a datagram socket can't even be pointed outside; with
/// one, everywhere is loopback.
fn network(relayed: Option<&str>) -> Observed {
    let interfaces: Vec<String> = fs::read_to_string("/proc/net/dev")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    // A documentation address (RFC 5737): nothing is sent by connect, the kernel only looks for a route.
    let outside = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect(outside)).is_ok();
    let only_loopback = interfaces.iter().all(|name| name == "lo");
    let interfaces = interfaces.join(" ");
    match relayed {
        Some(hosts) => {
            let detail = format!("interfaces: {interfaces}; relayed by the host: {hosts}");
            wall("network", "network namespace, relay", detail, only_loopback)
        }
        None => {
            let detail = format!("interfaces: {interfaces}; route outside: {routed}");
            wall("network", "network namespace", detail, only_loopback && !routed)
        }
    }
}

/// What holds where there are no namespaces, and what is weaker than with them.
fn without_namespaces(here: &Here, ids: &str, facts: &Facts) -> Vec<Observed> {
    let since = |version: u32, what: &'static str| if here.landlock >= version { what } else { "" };
    let network = format!(
        "every socket is made and connected by the broker{}; loopback is the machine's: connections only to what the \
         step itself opened{}",
        since(4, ", and Landlock refuses TCP beside it"),
        facts.relayed.as_ref().map(|hosts| format!("; relayed by the host: {hosts}")).unwrap_or_default()
    );
    let files = format!(
        "Landlock {}: {}; modes, owners, times and attributes of files are changed by the broker, where the step may \
         write; /tmp, /var/tmp and /dev/shm are the machine's; names and sizes of other files can be seen",
        here.landlock,
        if refuses_home_and_system() {
            "files of users and the system can't be opened or written"
        } else {
            "NOT in force"
        },
    );
    let pid = format!(
        "signals go through the broker{}; other processes can be seen by name; what is left of a cell is found by its \
         parents and a marker",
        since(6, ", and Landlock refuses them beside it")
    );
    let root = ids.split_ascii_whitespace().any(|id| id == "0");
    let user = if facts.mapped_from_root { "unprivileged uid" } else { "the caller's own uid" };
    vec![
        wall(
            "network",
            if facts.relayed.is_some() { "seccomp broker, relay" } else { "seccomp broker" },
            network,
            true,
        ),
        wall("files", "Landlock, seccomp broker", files, refuses_home_and_system()),
        wall("ipc", "seccomp", "System V IPC and POSIX message queues are refused to the step (ENOSYS)", true),
        wall("pid", "seccomp broker, subreaper", pid, true),
        wall("user", user, format!("uid {ids}"), !root),
        // What is promised less than with namespaces, by name: a report has no more of what does not hold.
        wall("own paths", "", format!("/ft is {} (FT_ROOT)", here.root), false),
        wall("own loopback", "", "the machine's: connections only to what the step itself opened", false),
        wall("own /tmp", "", "/tmp, /var/tmp and /dev/shm are the machine's; TMPDIR is the step's own", false),
        wall("own processes", "", "others are seen by name; those of killed runs are swept by a marker", false),
    ]
}

/// Tries what Landlock must refuse, whatever the permissions say.
fn refuses_home_and_system() -> bool {
    let refused = |result: std::io::Result<()>| result.is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied);
    refused(fs::read_dir("/").map(drop))
        && refused(fs::read_dir("/etc").map(drop))
        && refused(fs::File::create("/usr/.ft-write-probe").map(drop))
}

fn pid() -> Observed {
    let own = std::process::id();
    wall("pid", "pid namespace", format!("pid {own}"), own == 1)
}

fn user(ids: &str, facts: &Facts) -> Observed {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let map: Vec<&str> = map.split_ascii_whitespace().collect();
    let mechanism = if facts.mapped_from_root { "user namespace, unprivileged kernel uid" } else { "user namespace" };
    let root = ids.split_ascii_whitespace().any(|id| id == "0");
    let mechanism = if facts.engine.is_some() { "the container's user" } else { mechanism };
    wall("user", mechanism, format!("uid {ids}; map {}", map.join(" ")), !root)
}

/// Only root may give groups up (user_namespaces(7)): an ordinary user's step keeps the caller's. What they may reach is
/// not in the cell.
fn groups(further: &str, facts: &Facts) -> Observed {
    match further {
        "" => wall("groups", "dropped", "none but its own", true),
        _ => wall("groups", "mount namespace", format!("kept: {further}"), facts.raised),
    }
}

/// Tries to write where only reading is allowed.
fn read_only() -> Observed {
    // An image may have no `/usr`.
    let there = ["/", "/usr", "/etc"].into_iter().filter(|directory| fs::metadata(directory).is_ok());
    let refused = there.clone().all(|directory| {
        let probe = format!("{directory}/.ft-write-probe");
        match fs::File::create(&probe) {
            Ok(_) => {
                let _ = fs::remove_file(&probe);
                false
            }
            // Whoever may not write would be refused on a writable mount as well; only this is the mount's own word.
            Err(error) => error.raw_os_error() == Some(libc::EROFS),
        }
    });
    wall("mounts", "mount namespace, own root", format!("/, /usr and /etc refuse writing: {refused}"), refused)
}

fn tree(facts: &Facts) -> Observed {
    let (mechanism, detail) = match facts.tree {
        _ if facts.here.is_some() => ("copy", "overlayfs needs a mount namespace".to_owned()),
        _ if facts.engine.is_some() => ("unpacked", "in a volume of this container alone".to_owned()),
        Tree::Empty => ("empty directory", String::new()),
        Tree::Overlay => ("overlayfs", String::new()),
        Tree::Copy(errno) => ("copy", format!("overlayfs refused: {}", std::io::Error::from_raw_os_error(errno))),
    };
    wall("tree", mechanism, detail, true)
}

fn limits(facts: &Facts) -> Vec<Observed> {
    let mut all = Vec::new();
    if let Some(engine) = &facts.engine {
        return of_engine(engine, facts);
    }
    if facts.memory_bytes > 0 {
        all.push(match facts.memory {
            Some(group) => wall("memory", group, format!("{} bytes, all processes", facts.memory_bytes), true),
            None => wall(
                "memory",
                "RLIMIT_DATA",
                format!("{} bytes for each process alone: no control group can be made here", facts.memory_bytes),
                false,
            ),
        });
    }
    if facts.pids_max > 0 {
        all.push(match facts.pids {
            Some(group) => wall("pids", group, facts.pids_max.to_string(), true),
            None => {
                // Since Linux 5.14 each user namespace counts its own.
                let detail =
                    format!("{} of the cell's user; before Linux 5.14 with all of the caller's", facts.pids_max);
                wall("pids", "RLIMIT_NPROC", detail, true)
            }
        });
    }
    if facts.disk_bytes > 0 {
        let every = super::disk::PAUSE.as_millis();
        let bytes = facts.disk_bytes;
        all.push(if facts.here.is_some() {
            let detail = format!(
                "{bytes} bytes for tree, home, out and TMPDIR together, measured every {every} ms, and for one file; what \
                 is written to /tmp, /var/tmp and /dev/shm by name is not counted"
            );
            wall("disk", "measured and ended", detail, false)
        } else {
            let detail = format!(
                "{bytes} bytes for tree, home and /ft/out together, measured every {every} ms; as many for /tmp, and \
                 for one file"
            );
            wall("disk", "measured and ended; size of /tmp", detail, true)
        });
    }
    all.push(wall("output", "counted by PID 1", "what is over the limit is dropped", true));
    all.push(wall("files", "RLIMIT_NOFILE", super::spawn::FILES.0.to_string(), true));
    if facts.cpus > 0 {
        all.push(wall("cpus", "affinity mask", facts.cpus.to_string(), true));
    }
    all
}
