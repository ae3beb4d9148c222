//! A scripted engine: HTTP/1.1 on a unix socket, in threads of the test. It shows what no real engine can be made to show
//! at will, and is no simulation: it says what its script says, byte for byte.
//!
//! ```ignore
//! let engine = Script::docker("20.10.24", "1.41", "1.12")
//!     .on("GET /images/gone/json", Reply::error(404, "No such image: gone"))
//!     .on("POST /containers/c/attach", Reply::hijack().frame(1, b"hello").cut())
//!     .start();
//! let host = engine.host();        // unix:///tmp/…/engine.sock
//! engine.seen();                   // what was asked, in order
//! ```
//!
//! A request that the script does not know is answered with 404 and found in [`Scripted::unexpected`]. A rule that is given
//! several times answers the first request with the first reply, the next one with the next, and the rest with the last.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the engine will say; see the module.
pub struct Script {
    rules: Vec<(String, Vec<Reply>)>,
}

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET /images/json`: without version and query.
    pub what: String,
    /// `1.41`; none where the request named none.
    pub version: Option<String>,
    /// Behind the question mark, as it came.
    pub query: String,
    /// The whole body, its chunks put together. Empty where the reply began before it was read.
    pub body: Vec<u8>,
}

/// What is said to one request, act by act. The connection is closed at its end.
#[derive(Clone)]
pub struct Reply {
    acts: Vec<Act>,
    unread: bool,
}

#[derive(Clone)]
enum Act {
    Say(Vec<u8>),
    Wait(Duration),
    Run(Arc<dyn Fn(&mut Connection) + Send + Sync>),
}

/// A connection that was hijacked: what the client sends can be read, and anything be written.
pub struct Connection {
    stream: UnixStream,
    ahead: Vec<u8>,
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            return self.stream.read(buffer);
        }
        let n = self.ahead.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.ahead[..n]);
        self.ahead.drain(..n);
        Ok(n)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Connection {
    /// Writes one frame of the engine's multiplexed stream: 1 is standard output, 2 standard error, 3 the engine itself.
    pub fn frame(&mut self, stream: u8, payload: &[u8]) -> io::Result<()> {
        self.write_all(&frame(stream, payload))
    }
}

/// One frame: type, three zeros, length (big endian), payload.
pub fn frame(stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame of a test is small");
    [&[stream, 0, 0, 0], length.to_be_bytes().as_slice(), payload].concat()
}

impl Reply {
    fn of(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply { acts: vec![Act::Say(bytes.into())], unread: false }
    }

    /// An answer with a body of JSON.
    pub fn json(status: u16, body: impl ToString) -> Reply {
        let body = body.to_string();
        Reply::of(format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ))
    }

    /// An answer without a body: 204.
    pub fn done() -> Reply {
        Reply::of("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    }

    /// The engine's no.
    pub fn error(status: u16, message: &str) -> Reply {
        Reply::json(status, serde_json::json!({ "message": message }))
    }

    /// The beginning of an answer in chunks, as engines send progress: one that is not ended with [`Reply::end`] is cut.
    pub fn chunked() -> Reply {
        Reply::of("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    }

    /// The connection becomes a stream of frames (101), as for attach.
    pub fn hijack() -> Reply {
        Reply::of(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        )
    }

    /// The connection is closed without a word.
    pub fn close() -> Reply {
        Reply::of("")
    }

    /// Bytes that are no answer of an engine.
    pub fn raw(bytes: &[u8]) -> Reply {
        Reply::of(bytes)
    }

    /// The engine takes the request and says nothing, for longer than any test.
    pub fn stall() -> Reply {
        Reply::of("").wait(Duration::from_secs(3600))
    }

    /// The reply begins before the body of the request is read; what is unread when the connection is closed makes a
    /// reset of it.
    pub fn unread(mut self) -> Reply {
        self.unread = true;
        self
    }

    /// More bytes.
    pub fn say(mut self, bytes: impl AsRef<[u8]>) -> Reply {
        self.acts.push(Act::Say(bytes.as_ref().to_vec()));
        self
    }

    /// One chunk of a chunked answer.
    pub fn chunk(self, bytes: impl AsRef<[u8]>) -> Reply {
        let bytes = bytes.as_ref();
        self.say([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
    }

    /// The end of a chunked answer.
    pub fn end(self) -> Reply {
        self.say("0\r\n\r\n")
    }

    /// One frame of a hijacked stream.
    pub fn frame(self, stream: u8, payload: impl AsRef<[u8]>) -> Reply {
        self.say(frame(stream, payload.as_ref()))
    }

    /// Nothing for a while.
    pub fn wait(mut self, time: Duration) -> Reply {
        self.acts.push(Act::Wait(time));
        self
    }

    /// What the test does with the connection from here on: a scripted agent speaks here.
    pub fn run(mut self, run: impl Fn(&mut Connection) + Send + Sync + 'static) -> Reply {
        self.acts.push(Act::Run(Arc::new(run)));
        self
    }
}

impl Script {
    /// An engine that knows no request at all.
    pub fn empty() -> Script {
        Script { rules: Vec::new() }
    }

    /// An engine of Docker's that says what it is: version, newest and oldest API. What more it says of itself is that of
    /// a machine on which everything works.
    pub fn docker(version: &str, api: &str, oldest: &str) -> Script {
        Script::docker_with(version, api, oldest, serde_json::json!({}))
    }

    /// The same, with fields of `/info` changed; `null` takes one out.
    pub fn docker_with(version: &str, api: &str, oldest: &str, change: serde_json::Value) -> Script {
        let said = serde_json::json!({
            "Platform": { "Name": "Docker Engine - Community" },
            "Components": [{ "Name": "Engine", "Version": version, "Details": { "ApiVersion": api, "Arch": "amd64" } }],
            "Version": version, "ApiVersion": api, "MinAPIVersion": oldest, "Os": "linux", "Arch": "amd64",
            "KernelVersion": "6.1.0", "GitCommit": "0", "GoVersion": "go1.22", "BuildTime": "2024-01-01T00:00:00+00:00"
        });
        let mut info = serde_json::json!({
            "ID": "7TRN:IPZB", "Containers": 0, "Images": 0, "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
            "MemoryLimit": true, "SwapLimit": true, "CpuCfsPeriod": true, "CpuCfsQuota": true, "CPUShares": true,
            "CPUSet": true, "PidsLimit": true, "OomKillDisable": true, "CgroupDriver": "systemd", "CgroupVersion": "2",
            "OSType": "linux", "Architecture": "x86_64", "NCPU": 4, "MemTotal": 8_000_000_000_u64, "Name": "host",
            "ServerVersion": version, "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"]
        });
        for (field, value) in change.as_object().into_iter().flatten() {
            info[field] = value.clone();
            if value.is_null() {
                info.as_object_mut().expect("an object").remove(field);
            }
        }
        Script::empty().on("GET /version", Reply::json(200, said)).on("GET /info", Reply::json(200, info))
    }

    /// Answers requests: `METHOD /path`, without version and query.
    pub fn on(mut self, what: &str, reply: Reply) -> Script {
        match self.rules.iter_mut().find(|(known, _)| known == what) {
            Some((_, replies)) => replies.push(reply),
            None => self.rules.push((what.to_owned(), vec![reply])),
        }
        self
    }

    /// Starts to answer.
    pub fn start(self) -> Scripted {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(dir.path().join("engine.sock")).expect("a socket of ours");
        let state = Arc::new(State {
            rules: Mutex::new(self.rules.into_iter().collect()),
            seen: Mutex::default(),
            unexpected: Mutex::default(),
        });
        let ours = Arc::clone(&state);
        // Ends with the test's process; a client that is gone ends what waits for it.
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let state = Arc::clone(&ours);
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Scripted { dir, state }
    }
}

/// A scripted engine that answers.
pub struct Scripted {
    dir: tempfile::TempDir,
    state: Arc<State>,
}

impl Scripted {
    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("engine.sock").display())
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no thread panicked with it").clone()
    }

    /// `METHOD /path` of every request so far, but for those of connecting.
    pub fn asked(&self) -> Vec<String> {
        let first = |what: &str| matches!(what, "GET /version" | "GET /info");
        self.seen().into_iter().map(|seen| seen.what).filter(|what| !first(what)).collect()
    }

    /// Requests that the script did not know.
    pub fn unexpected(&self) -> Vec<String> {
        self.state.unexpected.lock().expect("no thread panicked with it").clone()
    }
}

struct State {
    rules: Mutex<HashMap<String, Vec<Reply>>>,
    seen: Mutex<Vec<Seen>>,
    unexpected: Mutex<Vec<String>>,
}

impl State {
    fn serve(&self, stream: UnixStream) {
        let mut connection = Connection { stream, ahead: Vec::new() };
        let Some(head) = head(&mut connection) else { return };
        let mut lines = head.split("\r\n");
        let mut request = lines.next().unwrap_or_default().split(' ');
        let (method, uri) = (request.next().unwrap_or_default(), request.next().unwrap_or_default());
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let (version, path) = match path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) {
            Some((version, rest)) if version.contains('.') => (Some(version.to_owned()), format!("/{rest}")),
            _ => (None, path.to_owned()),
        };
        let what = format!("{method} {path}");
        let reply = {
            let mut rules = self.rules.lock().expect("no thread panicked with it");
            match rules.get_mut(&what) {
                Some(replies) if replies.len() > 1 => Some(replies.remove(0)),
                Some(replies) => replies.first().cloned(),
                None => None,
            }
        };
        let reply = reply.unwrap_or_else(|| {
            self.unexpected.lock().expect("no thread panicked with it").push(what.clone());
            Reply::error(404, &format!("the script does not know {what}"))
        });
        let body = if reply.unread { Vec::new() } else { body(&mut connection, lines).unwrap_or_default() };
        self.seen.lock().expect("no thread panicked with it").push(Seen {
            what,
            version,
            query: query.to_owned(),
            body,
        });
        for act in &reply.acts {
            match act {
                Act::Say(bytes) => {
                    if connection.write_all(bytes).is_err() {
                        return;
                    }
                }
                Act::Wait(time) => std::thread::sleep(*time),
                Act::Run(run) => run(&mut connection),
            }
        }
    }
}

/// Up to the empty line.
fn head(connection: &mut Connection) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match connection.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    String::from_utf8(head).ok()
}

fn body<'a>(connection: &mut Connection, headers: impl Iterator<Item = &'a str>) -> io::Result<Vec<u8>> {
    let (mut length, mut chunked) = (0, false);
    for (name, value) in headers.filter_map(|line| line.split_once(':')) {
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "transfer-encoding" => chunked = value.trim() == "chunked",
            _ => {}
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    while chunked {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(text.trim(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        connection.read_exact(&mut chunk)?;
        chunk.truncate(size);
        body.extend(chunk);
        chunked = size > 0;
    }
    Ok(body)
}
