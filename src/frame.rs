//! What agent and host say to each other, and the decoder for it.
//!
//! A frame is `u32` length (little endian, of what follows), `u8` kind, payload. The decoder does no I/O: bytes go in,
//! frames come out, so that it works over a pipe, a socket or an engine's attach stream. A stream that ends without
//! [`Frame::End`], or whose counts differ from it, is infrastructure (exit code 69), never a verdict.
//!
//! Compiled into the agent as well: no serde, nothing but std.

/// Version of the protocol; the host refuses an agent that speaks another one.
pub const PROTOCOL: u16 = 1;

/// The largest frame, in bytes. A larger length is a protocol error, whatever the stream says next.
pub const MAX_FRAME: usize = 1 << 20;

/// The stage of [`Frame::Broken`] where the machine does not give what the policy needs: PARITY-052, and not a failure of
/// ours.
pub const UNENFORCEABLE: &str = "policy";

/// The stage of [`Frame::Broken`] where something that cells share is not whole.
pub const UNSEALED: &str = "seal";

/// Why a stream of frames can't be read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// A length of zero or above [`MAX_FRAME`].
    Length(usize),
    /// A kind that this protocol version does not have.
    Kind(u8),
    /// The payload is shorter or longer than its kind wants, or its text is not UTF-8.
    Payload(u8),
    /// The stream ended inside a frame.
    Cut(usize),
}

// By hand: the agent is built without procedural macros.
impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::Length(n) => write!(f, "frame of {n} bytes: not between 1 and {MAX_FRAME}"),
            FrameError::Kind(kind) => write!(f, "unknown frame kind {kind}"),
            FrameError::Payload(kind) => write!(f, "malformed payload of frame kind {kind}"),
            FrameError::Cut(left) => write!(f, "stream ended inside a frame ({left} bytes left over)"),
        }
    }
}

impl std::error::Error for FrameError {}

/// A value with a byte form.
trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(input: &mut &[u8]) -> Option<Self>;
}

fn split<'a>(input: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = input.split_at_checked(n)?;
    *input = tail;
    Some(head)
}

macro_rules! wire_int {
    ($($t:ty),*) => { $( impl Wire for $t {
        fn put(&self, out: &mut Vec<u8>) { out.extend_from_slice(&self.to_le_bytes()); }
        fn take(input: &mut &[u8]) -> Option<Self> {
            Some(<$t>::from_le_bytes(split(input, size_of::<$t>())?.try_into().ok()?))
        }
    } )* };
}
wire_int!(u8, u16, u32, u64, i32);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        match u8::take(input)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        let n = u32::take(input)? as usize;
        String::from_utf8(split(input, n)?.to_vec()).ok()
    }
}

/// Bytes that need not be text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl Wire for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        (self.0.len() as u32).put(out);
        out.extend_from_slice(&self.0);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        let n = u32::take(input)? as usize;
        Some(Bytes(split(input, n)?.to_vec()))
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for item in self {
            item.put(out);
        }
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        let n = u32::take(input)?;
        // Not `with_capacity(n)`: n is the sender's word. Each item takes at least one byte of what is there.
        (0..n).map(|_| T::take(input)).collect()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some((A::take(input)?, B::take(input)?))
    }
}

/// Gives `?` a function to leave.
fn fields<T>(read: impl FnOnce() -> Option<T>) -> Option<T> {
    read()
}

macro_rules! record {
    ($(#[$m:meta])* pub struct $name:ident { $( $(#[$fm:meta])* pub $field:ident : $t:ty, )* }) => {
        $(#[$m])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct $name { $( $(#[$fm])* pub $field: $t, )* }
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) { $( self.$field.put(out); )* }
            fn take(input: &mut &[u8]) -> Option<Self> { Some($name { $( $field: Wire::take(input)?, )* }) }
        }
    };
}

macro_rules! frames {
    ($(#[$m:meta])* pub enum $name:ident { $( $(#[$vm:meta])* $kind:literal = $variant:ident { $( $(#[$fm:meta])* $field:ident : $t:ty ),* $(,)? } )* }) => {
        $(#[$m])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the variant's sentence says what its fields are")]
        pub enum $name { $( $(#[$vm])* $variant { $( $(#[$fm])* $field: $t, )* }, )* }
        impl Payload for $name {
            fn encode_into(&self, out: &mut Vec<u8>) {
                match self { $( $name::$variant { $( $field, )* } => { out.push($kind); $( $field.put(out); )* } )* }
            }
            fn decode(kind: u8, mut input: &[u8]) -> Result<Self, FrameError> {
                let input = &mut input;
                let frame = match kind {
                    $( $kind => fields(|| Some($name::$variant { $( $field: <$t as Wire>::take(input)?, )* })), )*
                    _ => return Err(FrameError::Kind(kind)),
                };
                frame.filter(|_| input.is_empty()).ok_or(FrameError::Payload(kind))
            }
        }
    };
}

/// Something that travels as the payload of one frame.
pub trait Payload: Sized {
    /// Appends kind and payload, without the length.
    fn encode_into(&self, out: &mut Vec<u8>);
    /// Reads one payload back.
    ///
    /// # Errors
    /// [`FrameError::Kind`] or [`FrameError::Payload`].
    fn decode(kind: u8, input: &[u8]) -> Result<Self, FrameError>;

    /// The whole frame, length first.
    ///
    /// # Panics
    /// Where it is larger than [`MAX_FRAME`]: nobody could read it. Whoever puts text of others into a frame bounds it
    /// before, or uses [`Payload::try_encode`].
    fn encode(&self) -> Vec<u8> {
        self.try_encode().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The whole frame, length first.
    ///
    /// # Errors
    /// [`FrameError::Length`] where it is larger than [`MAX_FRAME`].
    fn try_encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut out = vec![0; 4];
        self.encode_into(&mut out);
        let n = out.len() - 4;
        if n > MAX_FRAME {
            return Err(FrameError::Length(n));
        }
        out[..4].copy_from_slice(&(n as u32).to_le_bytes());
        Ok(out)
    }
}

record! {
    /// What the agent is to do: one command, its world, and what to bring back. The first frame it gets.
    pub struct Manifest {
        /// The command; the first word is looked up in `PATH` of `env`.
        pub argv: Vec<String>,
        /// The whole environment of the command; nothing is inherited.
        pub env: Vec<(String, String)>,
        /// Working directory, absolute inside the cell.
        pub cwd: String,
        /// Milliseconds until SIGTERM; 0 means no timeout.
        pub timeout_ms: u64,
        /// Milliseconds between SIGTERM and SIGKILL.
        pub grace_ms: u64,
        /// Bytes of output that are passed on; what comes after is counted and dropped. 0 means no limit.
        pub output_bytes: u64,
        /// Address-space-independent memory limit in bytes, where only rlimits are to be had; 0 means none.
        pub memory_bytes: u64,
        /// Processes and threads, `RLIMIT_NPROC` where no cgroup is to be had; 0 means none.
        pub pids: u64,
        /// Bytes one file may have, `RLIMIT_FSIZE`; 0 means none.
        pub file_bytes: u64,
        /// Glob patterns relative to `/ft/work` of what comes back if it is new or changed, beside `artifacts/` and
        /// everything in `/ft/out`.
        pub collect: Vec<String>,
        /// How many entries the artifact tar may have.
        pub artifact_entries: u64,
        /// How many bytes the artifact tar may have.
        pub artifact_bytes: u64,
        /// Milliseconds that collecting artifacts may take.
        pub artifact_ms: u64,
        /// Standard input, output and error are the caller's own terminal (`ft shell`); only in namespaces cells.
        pub passthrough: bool,
        /// Where the command may connect to, for the witness: it says what was refused and why, the walls refuse.
        pub network: Policy,
    }
}

record! {
    /// Where a command may connect to, beside its own loopback.
    pub struct Policy {
        /// 0: nowhere, 1: to `allowed` alone, 2: everywhere.
        pub mode: u8,
        /// What mode 1 allows.
        pub allowed: Vec<HostEntry>,
        /// Whose refusal is expected: no violation. Wins over `allowed` and over mode 2.
        pub quiet: Vec<HostEntry>,
    }
}

record! {
    /// A name or an address with an optional port.
    pub struct HostEntry {
        /// In lower case and IDNA form, without the dot of the root; empty for an address. With a leading dot: every name
        /// below it, and not itself. [`crate::network`] compares.
        pub name: String,
        /// 4 or 16 bytes; none for a name.
        pub address: Bytes,
        /// 0 for every port.
        pub port: u16,
    }
}

/// Attempts of one verdict that are told one by one.
pub const LISTED: usize = 1000;

/// What became of an attempt to reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum Verdict {
    /// Refused: a violation.
    #[default]
    Denied,
    /// Refused, and `deny_quietly` says that this is expected.
    Quiet,
    /// Refused or without effect, and no exchange with anybody: no violation.
    Note,
    /// Let through.
    Allowed,
}

impl Wire for Verdict {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        [Verdict::Denied, Verdict::Quiet, Verdict::Note, Verdict::Allowed].get(usize::from(u8::take(input)?)).copied()
    }
}

record! {
    /// Somebody in the cell tried to reach the network: who, what, and what became of it. All text was chosen by the
    /// command and is escaped: no control characters.
    pub struct Attempt {
        /// Counts from 0 in this cell.
        pub id: u32,
        /// Milliseconds since the command started.
        pub at_ms: u64,
        /// What became of it.
        pub verdict: Verdict,
        /// Process id in the cell.
        pub pid: u32,
        /// Its command line; empty where it could not be read.
        pub process: String,
        /// `pid command line` of its parents, the nearest first, up to the command of the step.
        pub parents: Vec<String>,
        /// The system call: `connect`, `sendto`, `sendmsg`, `sendmmsg`, or `lookup` for a question to the name server.
        pub call: String,
        /// `tcp`, `udp`, `dns`, `unix`, `netlink`; empty where unknown.
        pub protocol: String,
        /// The address, or the path of a unix socket; empty for a look-up.
        pub address: String,
        /// The port; 0 where there is none.
        pub port: u16,
        /// The name that was looked up for this address, or the one that was asked for; empty where unknown.
        pub name: String,
        /// The test that ran, where pytest ran one.
        pub test: String,
        /// Why, where it needs saying: `private address`, `does not resolve`.
        pub why: String,
    }
}

record! {
    /// A directory or file of the host at a path of the cell, for the helper.
    pub struct BoundPath {
        /// On the host, as the bytes of the path.
        pub host: Bytes,
        /// In the cell, absolute.
        pub cell: String,
        /// Whether the step may write there.
        pub writable: bool,
    }
}

record! {
    /// What the helper raises before it becomes the agent. The same as `cell::Walls`, in wire form.
    pub struct Spec {
        /// A directory of the host that belongs to this cell alone. The helper makes `changes`, `home`, `out`, `overlay`
        /// and `root` below it, and removes the last two.
        pub scratch: Bytes,
        /// What stands at `/ft/work`, the first on top; none for an empty directory.
        pub lowers: Vec<Bytes>,
        /// Further directories or files.
        pub mounts: Vec<BoundPath>,
        /// Directories that are seen read-only at their own paths: the interpreter's prefix.
        pub own_paths: Vec<Bytes>,
        /// Memory of all processes of the cell in bytes; 0 means no limit.
        pub memory_bytes: u64,
        /// Processes and threads; 0 means no limit.
        pub pids: u64,
        /// Bytes of `/tmp`; 0 means the kernel's default, half of the memory.
        pub disk_bytes: u64,
        /// CPUs of the affinity mask; 0 means all.
        pub cpus: u32,
        /// For [`Manifest::passthrough`], the numbers of three inherited descriptors that become the command's standard
        /// ones; none otherwise.
        pub terminal: Vec<u32>,
        /// Every address is the cell's own: connections to the outside arrive at the agent, which relays what the policy
        /// allows.
        pub relay: bool,
        /// Raise the walls, say what was observed, and leave.
        pub probe: bool,
    }
}

record! {
    /// What an agent makes of a container before it serves: an engine raised the walls and brought the agent, and the rest
    /// comes over the stream or lies in the container as a tar.
    pub struct Inside {
        /// What is unpacked, in this order. Those without `from` come over the stream in the same order.
        pub goods: Vec<Goods>,
        /// Files that have this text, or what they stand in was not finished: path and text.
        pub seals: Vec<(String, String)>,
        /// What the step changes in its tree is wanted afterwards, as [`Frame::Change`].
        pub changes: bool,
        /// Memory of the container in bytes, which the engine limits; 0 means no limit.
        pub memory_bytes: u64,
        /// Processes and threads, which the engine limits; 0 means no limit.
        pub pids: u64,
        /// Bytes that the step may write; 0 means no limit.
        pub disk_bytes: u64,
        /// CPUs of the affinity mask; 0 means all.
        pub cpus: u32,
        /// As in [`Spec`].
        pub relay: bool,
    }
}

record! {
    /// A directory that is unpacked from a tar.
    pub struct Goods {
        /// Where, absolute.
        pub to: String,
        /// A tar in the container; empty where it comes over the stream.
        pub from: String,
        /// Whether it becomes the step's own; else the step may only read it.
        pub owned: bool,
    }
}

record! {
    /// One wall as it was seen from inside the cell.
    pub struct Observed {
        /// `network`, `mounts`, `pid`, `capabilities`, `no_new_privs`, `memory`, ...
        pub wall: String,
        /// How it is enforced, `network namespace`; empty where it is not.
        pub mechanism: String,
        /// What was read or tried to know it.
        pub detail: String,
        /// Whether the wall holds.
        pub enforced: bool,
    }
}

record! {
    /// How the command ended and what it used.
    pub struct Ended {
        /// Its exit status, where it exited.
        pub code: i32,
        /// The signal that ended it; 0 where it exited by itself.
        pub signal: i32,
        /// Milliseconds from start to end, pauses taken out.
        pub wall_ms: u64,
        /// Milliseconds of CPU in user mode, all processes of the cell.
        pub user_ms: u64,
        /// Milliseconds of CPU in kernel mode, all processes of the cell.
        pub system_ms: u64,
        /// Largest resident set of one process, bytes.
        pub peak_bytes: u64,
        /// The timeout ran out.
        pub timed_out: bool,
        /// SIGKILL was needed after the grace period.
        pub killed: bool,
        /// The host asked for the end ([`ToAgent::Cancel`] or [`ToAgent::Kill`]).
        pub cancelled: bool,
        /// The kernel ended it, or a limit refused it memory.
        pub out_of_memory: bool,
        /// It wrote more than its disk limit, or more to one file than one may have.
        pub out_of_disk: bool,
        /// Bytes of output seen, passed on or not.
        pub output_total: u64,
        /// Bytes of output dropped over the budget.
        pub output_dropped: u64,
        /// Processes that were still there when the command had ended: `pid command`, at most 64.
        pub survivors: Vec<String>,
    }
}

frames! {
    /// From the agent to the host.
    pub enum Frame {
        /// The agent is PID 1 and waits for its manifest.
        1 = Hello { protocol: u16, version: String }
        /// The walls as seen from inside; the command starts next.
        2 = Ready { observed: Vec<Observed> }
        /// The command runs.
        3 = Started { pid: u32 }
        /// Something the command wrote; `stream` is 1 for output, 2 for error output.
        4 = Output { stream: u8, bytes: Bytes }
        /// The timeout ran out and SIGTERM was sent.
        5 = Terminating { after_ms: u64 }
        /// The grace period ran out and SIGKILL was sent to everything.
        6 = Killing {}
        /// All processes and their timers stand still, or go on.
        7 = Paused { paused: bool }
        /// The command is over.
        8 = Exited { ended: Ended }
        /// A piece of the artifact tar.
        9 = Tar { bytes: Bytes }
        /// A file that matched and does not come back, and why.
        10 = Refused { path: String, why: String }
        /// The agent could not do its work; nothing is known about the command.
        11 = Broken { stage: String, message: String }
        /// Answer to a ping.
        12 = Pong { token: u64 }
        /// Somebody tried to reach the network. The witness says it.
        13 = Attempt { attempt: Attempt }
        /// Everything was said: how many frames came before, and the sha256 of all bytes of them, in hex.
        14 = End { frames: u64, sha256: String }
        /// That attempt was made so often in all. Comes once, before `exited`.
        15 = Repeated { id: u32, count: u64 }
        /// So many refused attempts were made beyond those that are told one by one. Comes once, before `exited`.
        16 = Unlisted { count: u64 }
        /// Which addresses does this name have? The host answers with `looked`.
        17 = Lookup { id: u32, name: String }
        /// The host is to connect there: protocol 6 for TCP, 17 for UDP, and it answers with `dialed`. `name` is the one
        /// that this address was looked up for, or empty.
        18 = Dial { stream: u32, protocol: u8, address: Bytes, port: u16, name: String }
        /// What the step sent: a piece of a TCP stream, or one datagram.
        19 = Sent { stream: u32, bytes: Bytes }
        /// The step says nothing more on this stream; with `reset`, it does not listen either.
        20 = Shut { stream: u32, reset: bool }
        /// So many bytes of `received` were handed to the step: the host may send as many more.
        21 = Taken { stream: u32, bytes: u32 }
        /// A sign of life before `hello`: the tree is being copied. `end` does not count it.
        22 = Raising {}
        /// A piece of the tar of what the step changed in its tree, where that is wanted: files as they are now, and of
        /// what is gone a device of number 0, as overlayfs marks it.
        23 = Change { bytes: Bytes }
    }
}

/// How many bytes of one stream may be under way in one direction before the receiver said `taken`. Holds any datagram;
/// the streams of a cell times this is what each side may have to keep in memory.
pub const WINDOW: u32 = 128 * 1024;

/// What a datagram takes of its window: the least is more than its bytes, since one without any has to be kept as well.
#[must_use]
pub fn datagram_cost(bytes: usize) -> u32 {
    const LEAST: u32 = 256;
    u32::try_from(bytes).unwrap_or(u32::MAX).max(LEAST)
}

frames! {
    /// From the host to the agent.
    pub enum ToAgent {
        /// What to do.
        1 = Manifest { manifest: Manifest }
        /// Stop all processes and timers (Ctrl-Z).
        2 = Pause {}
        /// Go on.
        3 = Resume {}
        /// SIGTERM, grace, SIGKILL, then collect.
        4 = Cancel {}
        /// SIGKILL at once, then collect.
        5 = Kill {}
        /// Are you there?
        6 = Ping { token: u64 }
        /// [`Frame::End`] was received whole.
        7 = Ack {}
        /// The agent may leave.
        8 = Bye {}
        /// The answer to `lookup`: addresses of 4 or 16 bytes, or why there are none (`not allowed`, `does not resolve`,
        /// `private address`).
        9 = Looked { id: u32, addresses: Vec<Bytes>, refused: String }
        /// The answer to `dial`: 0, or the error number of a connect(2), and why where the policy refused.
        10 = Dialed { stream: u32, errno: i32, refused: String }
        /// What the other side sent.
        11 = Received { stream: u32, bytes: Bytes }
        /// The other side says nothing more; with `reset`, it is gone.
        12 = Shut { stream: u32, reset: bool }
        /// So many bytes of `sent` were handed on: the agent may send as many more.
        13 = Taken { stream: u32, bytes: u32 }
    }
}

frames! {
    /// From the host to the helper, before the first [`ToAgent`].
    pub enum ToHelper {
        /// Raise these walls and become the agent behind them.
        1 = Raise { spec: Spec }
        /// Become the agent behind walls that an engine raised.
        2 = Enter { inside: Inside }
        /// A piece of a tar that was announced; an empty one ends it.
        3 = Goods { bytes: Bytes }
    }
}

/// Bytes in, frames out. One per direction of a stream.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start >= self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame with the bytes it was made of, or `None` until more is pushed.
    ///
    /// # Errors
    /// Any [`FrameError`]; the stream can't be read on after one.
    #[expect(clippy::should_implement_trait, reason = "fallible, and not an iterator: None means wait")]
    pub fn next<P: Payload>(&mut self) -> Result<Option<(P, &[u8])>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some(head) = rest.first_chunk::<4>() else { return Ok(None) };
        let n = u32::from_le_bytes(*head) as usize;
        if n == 0 || n > MAX_FRAME {
            return Err(FrameError::Length(n));
        }
        if rest.len() < 4 + n {
            return Ok(None);
        }
        let from = self.start;
        self.start += 4 + n;
        let raw = &self.buffer[from..self.start];
        Ok(Some((P::decode(raw[4], &raw[5..])?, raw)))
    }

    /// The stream ended.
    ///
    /// # Errors
    /// [`FrameError::Cut`] where bytes of an unfinished frame are left.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.buffer.len() - self.start {
            0 => Ok(()),
            left => Err(FrameError::Cut(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Hello { protocol: PROTOCOL, version: "0.1.0".into() },
            Frame::Ready { observed: vec![Observed { wall: "network".into(), enforced: true, ..Observed::default() }] },
            Frame::Started { pid: 2 },
            Frame::Output { stream: 1, bytes: Bytes(vec![0, 159, 255]) },
            Frame::Exited { ended: Ended { code: 3, survivors: vec!["7 sleep".into()], ..Ended::default() } },
            Frame::End { frames: 5, sha256: "00".into() },
        ]
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
        let sent = frames();
        let bytes: Vec<u8> = sent.iter().flat_map(Payload::encode).collect();
        for size in [1, 2, 3, 7, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(size) {
                decoder.push(chunk);
                while let Some((frame, _)) = decoder.next::<Frame>().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, sent);
            decoder.finish().unwrap();
        }
    }

    #[test]
    fn a_frame_that_nobody_could_read_is_not_written() {
        let output = |n| Frame::Output { stream: 1, bytes: Bytes(vec![0; n]) };
        // Kind, stream and the length of the bytes take six.
        assert_eq!(output(MAX_FRAME - 6).try_encode().unwrap().len(), MAX_FRAME + 4);
        assert_eq!(output(MAX_FRAME - 5).try_encode(), Err(FrameError::Length(MAX_FRAME + 1)));
        assert!(std::panic::catch_unwind(|| output(MAX_FRAME).encode()).is_err());
    }

    #[test]
    fn a_stream_cut_inside_a_frame_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.push(&Frame::Started { pid: 1 }.encode()[..5]);
        assert!(decoder.next::<Frame>().unwrap().is_none());
        assert_eq!(decoder.finish(), Err(FrameError::Cut(5)));
    }

    proptest! {
        #[test]
        fn any_bytes_give_frames_or_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next::<Frame>() {}
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next::<ToAgent>() {}
        }

        #[test]
        fn a_stream_that_was_changed_on_the_way_reads_the_same_however_it_is_cut(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            pieces in proptest::collection::vec(1usize..40, 1..20),
        ) {
            let mut bytes: Vec<u8> = frames().iter().flat_map(Payload::encode).collect();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let read = |pieces: &mut dyn Iterator<Item = usize>| {
                let (mut decoder, mut seen, mut rest) = (Decoder::default(), Vec::new(), bytes.as_slice());
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at(pieces.next().unwrap_or(1).min(rest.len()));
                    rest = more;
                    decoder.push(piece);
                    loop {
                        match decoder.next::<Frame>() {
                            Ok(Some((frame, _))) => seen.push(frame),
                            Ok(None) => break,
                            Err(error) => return (seen, Some(error)),
                        }
                    }
                }
                (seen, None)
            };
            prop_assert_eq!(read(&mut pieces.iter().copied().cycle()), read(&mut std::iter::once(bytes.len())));
        }

        #[test]
        fn a_manifest_survives_the_wire(argv in proptest::collection::vec(".*", 0..5), timeout_ms: u64, passthrough: bool) {
            let manifest = Manifest { argv, timeout_ms, passthrough, ..Manifest::default() };
            let sent = ToAgent::Manifest { manifest };
            let mut decoder = Decoder::default();
            decoder.push(&sent.encode());
            let (seen, _) = decoder.next::<ToAgent>().unwrap().unwrap();
            prop_assert_eq!(seen, sent);
        }
    }
}
