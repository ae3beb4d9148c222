//! A socket between `ft` and the engine, which hands everything on until it does not.

use crate::shared::docker;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What happens to a connection, and when: as soon as these bytes came by.
#[derive(Clone, Copy)]
pub enum Plan {
    /// Nothing is done.
    Pass,
    /// So many bytes from the beginning of the mark on still come back, then the connection is closed.
    Cut { mark: &'static str, after: usize },
    /// From the mark on, nothing goes on any more, on any connection, in any direction. Nothing is closed.
    Stall { mark: &'static str },
}

/// The socket. Dropping it closes every connection.
pub struct Relay {
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    engine: PathBuf,
    plan: Plan,
    /// Whether the mark was seen.
    seen: AtomicBool,
    stalled: AtomicBool,
    open: Mutex<Vec<UnixStream>>,
}

impl Relay {
    /// Before the engine of this machine.
    pub fn start(plan: Plan) -> Relay {
        let host = docker(&["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]);
        let engine = host.strip_prefix("unix://").expect("these tests want an engine on a socket").into();
        let dir = tempfile::Builder::new().prefix("ft-relay-").tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("engine.sock")).unwrap();
        let (seen, stalled) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { engine, plan, seen, stalled, open: Mutex::default() });
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(engine) = UnixStream::connect(&ours.engine) else { continue };
                let both = [client.try_clone().unwrap(), engine.try_clone().unwrap()];
                ours.open.lock().unwrap().extend(both);
                for (from, to) in [(&client, &engine), (&engine, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&ours);
                    thread::spawn(move || shared.pass(from, to));
                }
            }
        });
        Relay { dir, shared }
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        Path::join(self.dir.path(), "engine.sock")
    }

    /// Whether the mark came by.
    pub fn has_seen_the_mark(&self) -> bool {
        self.shared.seen.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    /// One direction of one connection.
    fn pass(&self, mut from: UnixStream, mut to: UnixStream) {
        let mut scan = Scan::default();
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            let mut room = n;
            match self.plan {
                Plan::Cut { mark, after } => {
                    if let Some(left) = scan.left(&bytes[..n], mark, after) {
                        self.seen.store(true, Ordering::SeqCst);
                        room = left.min(n);
                    }
                }
                Plan::Stall { mark } => {
                    if scan.left(&bytes[..n], mark, 0).is_some() {
                        self.seen.store(true, Ordering::SeqCst);
                        self.stalled.store(true, Ordering::SeqCst);
                    }
                }
                Plan::Pass => {}
            }
            if self.stalled.load(Ordering::SeqCst) {
                // What comes is taken and goes nowhere, until the socket is dropped.
                continue;
            }
            if to.write_all(&bytes[..room]).is_err() {
                break;
            }
            if room < n {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Looks for a mark in a stream that comes in pieces.
#[derive(Default)]
struct Scan {
    tail: Vec<u8>,
    /// Bytes that may still pass, once the mark was found.
    left: Option<usize>,
}

impl Scan {
    /// How many bytes of this piece and the next ones may pass, where the mark came by; at least one is held back for a
    /// cut.
    fn left(&mut self, piece: &[u8], mark: &str, after: usize) -> Option<usize> {
        let left = match self.left {
            Some(left) => left,
            None => {
                let before = self.tail.len();
                self.tail.extend_from_slice(piece);
                let found = self.tail.windows(mark.len()).position(|window| window == mark.as_bytes());
                let keep = self.tail.len().saturating_sub(mark.len() - 1);
                let Some(at) = found else {
                    self.tail.drain(..keep);
                    return None;
                };
                // What of the mark passed before it was known as one can't be held back.
                (at + after).saturating_sub(before)
            }
        };
        self.left = Some(left.saturating_sub(piece.len()));
        Some(left)
    }
}
