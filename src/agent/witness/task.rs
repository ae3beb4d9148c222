//! The process behind a notification: its memory, its command line, its parents.
//!
//! Everything is read while the call waits, and is the process's own only if it still waits afterwards. All text is the
//! step's and comes out escaped.

use super::super::family::command_line;
use crate::escape::escaped;
use crate::linux::process;
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;

/// Parents that are named, and characters of a command line.
const PARENTS: usize = 8;
const LINE: usize = 200;

/// Bytes of a table of sockets that are read to find one: a step can open any number.
const TABLE: u64 = 1 << 20;

/// A thread that made a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Its thread id in our pid namespace.
    pub thread: u32,
}

/// Who made a call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    /// Process id.
    pub pid: u32,
    /// Command line; empty where it is hidden.
    pub process: String,
    /// The ids of the processes above, the nearest first, without PID 1.
    pub above: Vec<u32>,
    /// `pid command line` of the same.
    pub parents: Vec<String>,
}

/// Why memory could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// No process may look at this one, or it is gone.
    Hidden,
    /// Nothing is mapped there.
    Fault,
}

impl Task {
    /// Exactly `length` bytes at `address`, as the kernel wants them.
    pub fn read_exact(self, address: u64, length: usize) -> Result<Vec<u8>, Unread> {
        let bytes = self.read(address, length)?;
        if bytes.len() == length { Ok(bytes) } else { Err(Unread::Fault) }
    }

    /// At most `length` bytes at `address`; fewer where the mapping ends.
    pub fn read(self, address: u64, length: usize) -> Result<Vec<u8>, Unread> {
        // Not process_vm_readv(2), which engines forbid and our own filter as well.
        let memory = File::open(format!("/proc/{}/mem", self.thread)).map_err(|_| Unread::Hidden)?;
        let mut bytes = vec![0; length];
        let mut have = 0;
        while have < length {
            match memory.read_at(&mut bytes[have..], address.saturating_add(have as u64)) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(_) if have > 0 => break,
                Err(_) => return Err(Unread::Fault),
            }
        }
        bytes.truncate(have);
        Ok(bytes)
    }

    /// Writes bytes at `address`, all or nothing that matters.
    pub fn write(self, address: u64, bytes: &[u8]) -> Result<(), Unread> {
        let memory =
            File::options().write(true).open(format!("/proc/{}/mem", self.thread)).map_err(|_| Unread::Hidden)?;
        memory.write_all_at(bytes, address).map_err(|_| Unread::Fault)
    }

    /// The inode of the socket under a number; `None` where there is none.
    pub fn inode(self, number: u64) -> Option<u64> {
        let number = u32::try_from(number & u64::from(u32::MAX)).ok()?;
        socket_inode(&fs::read_link(format!("/proc/{}/fd/{number}", self.thread)).ok()?)
    }

    /// Numbers and inodes of every socket that is open here.
    pub fn inodes(self) -> Vec<(u64, u64)> {
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", self.thread)) else { return Vec::new() };
        let one = |entry: fs::DirEntry| {
            Some((entry.file_name().to_str()?.parse().ok()?, socket_inode(&fs::read_link(entry.path()).ok()?)?))
        };
        open.filter_map(|entry| one(entry.ok()?)).collect()
    }

    /// The process of this thread.
    pub fn process(self) -> Option<u32> {
        self.group().map(|(pid, _)| pid)
    }

    /// How many threads its process has.
    pub fn threads(self) -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.thread)).ok()?;
        status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok())
    }

    /// Its state, proc_pid_stat(5): `R`, `S`, `D`, ...; `None` where it is gone.
    pub fn state(self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.thread)).ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    }

    /// Whether its process descends from `top`.
    pub fn is_below(self, top: u32) -> bool {
        let Some((mut pid, mut above)) = self.group() else { return false };
        // A list that changes while it is read is no circle for long.
        for _ in 0..10_000 {
            if above == top {
                return pid != top;
            }
            match group(above) {
                Some((up, parent)) => (pid, above) = (up, parent),
                None => return false,
            }
        }
        false
    }

    /// The process this thread belongs to, and its parent.
    fn group(self) -> Option<(u32, u32)> {
        group(self.thread)
    }

    /// Who this is. `top` is the process above all of the step's (the agent).
    pub fn caller(self, top: u32) -> Caller {
        let Some((pid, mut above)) = self.group() else { return Caller { pid: self.thread, ..Caller::default() } };
        let mut caller = Caller { pid, process: line(pid), ..Caller::default() };
        while above > 1 && above != top && caller.above.len() < PARENTS {
            caller.above.push(above);
            caller.parents.push(format!("{above} {}", line(above)));
            match group(above) {
                Some((_, parent)) => above = parent,
                None => break,
            }
        }
        caller
    }

    /// The type of a socket, `SOCK_STREAM`, ..., and whether it is non-blocking; `None` where it is none or can't be
    /// looked at.
    pub fn socket_type(self, fd: u64) -> Option<(i32, bool)> {
        let (pid, _) = self.group()?;
        // The kernel takes the low half of the register.
        process::socket_type_of(pid, fd as u32)
    }

    /// Whether the socket with this inode is open here. `most` is how many descriptors may be looked at, and has what is
    /// left of it afterwards.
    pub fn has_socket(self, inode: u64, most: &mut usize) -> bool {
        let wanted = format!("socket:[{inode}]");
        fs::read_dir(format!("/proc/{}/fd", self.thread)).is_ok_and(|open| {
            open.take(*most).any(|entry| {
                *most -= 1;
                entry
                    .and_then(|entry| fs::read_link(entry.path()))
                    .is_ok_and(|link| link.as_os_str() == wanted.as_str())
            })
        })
    }
}

fn group(thread: u32) -> Option<(u32, u32)> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
    Some((field("Tgid:")?, field("PPid:")?))
}

fn socket_inode(link: &std::path::Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The processes of a process group.
pub fn group_members(wanted: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let group = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(2)?.parse().ok());
        group == Some(wanted)
    })
    .collect()
}

/// A command line as one line of text, escaped and cut.
fn line(pid: u32) -> String {
    let bytes = command_line(pid);
    let words: Vec<&[u8]> = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    let text = String::from_utf8_lossy(&words.join(&b' ')).into_owned();
    let text = if text.is_empty() { fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() } else { text };
    escaped(text.trim_end(), LINE)
}

/// The inode of the UDP or TCP socket that sends from this address, from the kernel's tables (proc_net_udp(5)).
pub fn inode_of(table: &str, local: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(local) = local else { return None };
    // Four bytes in the machine's order, as one number in hex.
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(local.ip().octets()), local.port());
    let mut text = String::new();
    File::open(format!("/proc/net/{table}")).ok()?.take(TABLE).read_to_string(&mut text).ok()?;
    text.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        (*words.get(1)? == wanted).then(|| words.get(9)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_memory_and_its_parent() {
        let word = *b"here it is";
        let task = Task { thread: std::process::id() };
        assert_eq!(task.read(word.as_ptr() as u64, word.len()), Ok(word.to_vec()));
        assert_eq!(task.read(8, 4), Err(Unread::Fault));
        let caller = task.caller(0);
        assert_eq!(caller.pid, std::process::id());
        assert!(caller.process.contains("firsttry"), "{caller:?}");
        assert_eq!(caller.above.first(), Some(&std::os::unix::process::parent_id()));
    }

    #[test]
    fn a_socket_is_found_by_its_address() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = inode_of("udp", socket.local_addr().unwrap()).unwrap();
        assert!(Task { thread: std::process::id() }.has_socket(inode, &mut 1000));
        drop(socket);
        assert!(!Task { thread: std::process::id() }.has_socket(inode, &mut 1000));
    }
}
