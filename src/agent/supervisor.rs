//! Watches one command from start to end: forwards what it writes, keeps its time, ends it and everything it started,
//! and says how it ended. When [`run`] returns, no process of the command is left that could be killed.

use super::channel::{Channel, Gone};
use super::complaint::Complaint;
use super::escalation::{Due, Escalation};
use super::family::{self, Family};
use super::here::{Left, Without};
use super::relay::Relay;
use super::walls::Behind;
use super::witness::Witness;
use super::{Ended as Over, Failure};
use super::{observe, spawn};
use crate::frame::{Bytes, Ended, Frame, Manifest, ToAgent, UNENFORCEABLE};
use crate::linux::notify::Listener;
use crate::linux::process::{self, Reaped, Status};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long helpers of the command may take to leave after it, before they count as survivors: multiprocessing's
/// resource tracker ends when its pipe does.
const SETTLE: Duration = Duration::from_millis(50);

/// How long after SIGKILL a process may take to be gone, before it is named as one that can't be killed.
const REAP: Duration = Duration::from_millis(1000);

/// How long pipes are read when everybody is dead. Only a process that can't be killed keeps one open.
const DRAIN: Duration = Duration::from_millis(200);

const SURVIVORS: usize = 64;

/// Starts the command and stays with it until nobody is left. Gives back what it left where there are no namespaces.
///
/// # Errors
/// Where it could not be started, or the host is gone (everything is killed by then).
pub fn run(channel: &mut Channel, manifest: &Manifest, behind: Behind) -> Result<Option<Left>, Over> {
    let Behind { mut facts, mut groups, terminal, stub, routed, places, without, .. } = behind;
    facts.relayed = if routed { observe::relayed(&manifest.network) } else { None };
    let (inner, broker, left) = match without {
        Some(Without { inner, broker, left }) => (Some(inner), Some(broker), Some(left)),
        None => (None, None, None),
    };
    let relay = if routed { Some(Relay::new(broker.is_some()).map_err(|e| Failure::new("relay", e))?) } else { None };
    let children = process::child_signals().map_err(|e| Failure::new("signals", e))?;
    let mut observed = observe::observe(&facts);
    let started = match spawn::start(manifest, &facts, &mut groups, terminal, inner) {
        Ok(started) => started,
        Err(failure) => {
            channel.send(&Frame::Ready { observed });
            return Err(failure.into());
        }
    };
    if let (Some(_), Err(why)) = (&relay, &started.listener) {
        Family::of_this_process().signal(libc::SIGKILL);
        let message = format!("nothing can be relayed where calls can't be watched: {why}");
        return Err(Failure::new(UNENFORCEABLE, message).into());
    }
    observed.push(observe::witness(&started.listener.as_ref().map(|_| ()).map_err(Clone::clone)));
    channel.send(&Frame::Ready { observed });
    channel.send(&Frame::Started { pid: started.pid.cast_unsigned() });
    let mut watch = Watch::new(manifest, started, children, |listener| {
        Witness::new(listener, stub, manifest.network.clone(), relay, &places.slots(), broker)
    });
    let watched = watch.follow(channel);
    // Whatever happened, and however it ended: nobody stays.
    watch.family.signal(libc::SIGKILL);
    watched?;
    let mut ended = watch.ended;
    let (user, system, peak) = process::children_usage();
    (ended.user_ms, ended.system_ms, ended.peak_bytes) = (millis(user), millis(system), peak);
    let complained = watch.complaint.heard() && (ended.code, ended.signal) != (0, 0);
    ended.out_of_memory =
        groups.out_of_memory() > 0 || (complained && facts.data_limit(manifest.memory_bytes).is_some());
    ended.out_of_disk |= ended.signal == libc::SIGXFSZ && manifest.file_bytes > 0;
    watch.witness.finish(channel);
    channel.send(&Frame::Exited { ended });
    Ok(left)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One of the command's two pipes.
struct Source {
    stream: u8,
    pipe: OwnedFd,
}

struct Watch {
    family: Family,
    start: Instant,
    main: i32,
    children: OwnedFd,
    sources: Vec<Source>,
    witness: Witness,
    timers: Escalation,
    timeout_ms: u64,
    output_bytes: u64,
    complaint: Complaint,
    ended: Ended,
}

impl Watch {
    fn new(
        manifest: &Manifest,
        started: spawn::Started,
        children: OwnedFd,
        witness: impl FnOnce(Option<Listener>) -> Witness,
    ) -> Watch {
        let timeout = (manifest.timeout_ms > 0).then(|| Duration::from_millis(manifest.timeout_ms));
        let sources: Vec<Source> = [(1, started.output), (2, started.error)]
            .into_iter()
            .filter_map(|(stream, pipe)| Some(Source { stream, pipe: pipe? }))
            .collect();
        for source in &sources {
            // Ours alone: the command's end is another description and stays blocking.
            let _ = rustix::fs::fcntl_getfl(&source.pipe)
                .and_then(|flags| rustix::fs::fcntl_setfl(&source.pipe, flags | OFlags::NONBLOCK));
        }
        Watch {
            family: Family::of_this_process(),
            start: Instant::now(),
            main: started.pid,
            children,
            sources,
            witness: witness(started.listener.ok()),
            timers: Escalation::new(timeout, Duration::from_millis(manifest.grace_ms)),
            timeout_ms: manifest.timeout_ms,
            output_bytes: manifest.output_bytes,
            complaint: Complaint::default(),
            ended: Ended::default(),
        }
    }

    fn follow(&mut self, channel: &mut Channel) -> Result<(), Gone> {
        let mut status = self.until_the_command_ends(channel)?;
        let now = self.start.elapsed();
        self.ended.wall_ms = millis(self.timers.running_time(now));
        self.until_nobody_is_left(channel, &mut status)?;
        let status = status.unwrap_or(Status { code: 0, signal: libc::SIGKILL });
        (self.ended.code, self.ended.signal) = (status.code, status.signal);
        self.drain(channel)
    }

    /// `None` where it was killed and is still there.
    fn until_the_command_ends(&mut self, channel: &mut Channel) -> Result<Option<Status>, Gone> {
        let mut give_up = None;
        loop {
            if let Some(status) = self.reap_all().0 {
                return Ok(Some(status));
            }
            let now = self.start.elapsed();
            match self.timers.due(now) {
                Some(Due::Terminate) => {
                    self.ended.timed_out = true;
                    channel.send(&Frame::Terminating { after_ms: self.timeout_ms });
                    self.terminate_all();
                }
                Some(Due::Kill) => {
                    // Without a grace period nothing was sent before; the timeout ran out all the same.
                    self.ended.timed_out |= !self.ended.cancelled;
                    self.kill_all(channel);
                }
                None => {}
            }
            if channel.over_disk && !self.ended.out_of_disk {
                // No grace: it would be time to write more in.
                self.ended.out_of_disk = true;
                self.timers.kill(now);
                self.kill_all(channel);
            }
            if self.ended.killed {
                let until = *give_up.get_or_insert(now + REAP);
                if now >= until {
                    return Ok(None);
                }
                // Forks that were under way when the signal went round are caught by the next one.
                self.family.signal(libc::SIGKILL);
                self.turn(channel, Some(Duration::from_millis(20)))?;
            } else {
                let wait = self.timers.wait(self.start.elapsed());
                self.turn(channel, wait)?;
            }
        }
    }

    /// Ends and names what the command left behind.
    fn until_nobody_is_left(&mut self, channel: &mut Channel, status: &mut Option<Status>) -> Result<(), Gone> {
        let settled = Instant::now() + SETTLE;
        while status.is_some() && !self.ended.killed {
            let (_, nobody) = self.reap_all();
            let left = settled.saturating_duration_since(Instant::now());
            if nobody || left.is_zero() {
                break;
            }
            self.turn(channel, Some(left))?;
        }
        if !self.ended.killed {
            self.ended.survivors = self.living();
        }
        let deadline = Instant::now() + REAP;
        loop {
            self.family.signal(libc::SIGKILL);
            let (ended, nobody) = self.reap_all();
            *status = status.or(ended);
            if nobody {
                return Ok(());
            }
            if Instant::now() >= deadline {
                // Stuck in the kernel: named, and left to the end of the pid namespace.
                self.ended.survivors = self.living();
                return Ok(());
            }
            self.turn(channel, Some(Duration::from_millis(5)))?;
        }
    }

    /// Reads what is still in the pipes.
    fn drain(&mut self, channel: &mut Channel) -> Result<(), Gone> {
        let deadline = Instant::now() + DRAIN;
        while !self.sources.is_empty() && Instant::now() < deadline {
            let ready: Vec<bool> = vec![true; self.sources.len()];
            self.read(channel, &ready);
            channel.write_some()?;
            if !self.sources.is_empty() {
                let fds: Vec<BorrowedFd<'_>> = self.sources.iter().map(|s| s.pipe.as_fd()).collect();
                channel.wait(&fds, Some(Duration::from_millis(10)))?;
            }
        }
        self.sources.clear();
        // What the step said to the outside before it ended is on its way, as it would be without us.
        while self.witness.is_talking() && Instant::now() < deadline {
            self.turn(channel, Some(Duration::from_millis(10)))?;
        }
        Ok(())
    }

    /// Takes every child that ended: the command's status if it was among them, and whether nobody is left.
    fn reap_all(&mut self) -> (Option<Status>, bool) {
        let mut main = None;
        loop {
            match process::reap(false) {
                Reaped::Child(pid, status) if pid == self.main => main = Some(status),
                Reaped::Child(..) => {}
                Reaped::Waiting => return (main, false),
                Reaped::Nobody => return (main, true),
            }
        }
    }

    /// Waits for something to happen, at most `timeout`, and deals with everything but time and children.
    fn turn(&mut self, channel: &mut Channel, timeout: Option<Duration>) -> Result<(), Gone> {
        while let Some(request) = channel.receive()? {
            self.obey(channel, request);
        }
        channel.write_some()?;
        let mut fds = vec![self.children.as_fd()];
        let sources = if channel.is_full() { &[] } else { &self.sources[..] };
        fds.extend(sources.iter().map(|source| source.pipe.as_fd()));
        let pipes = 1..fds.len();
        fds.extend(self.witness.descriptors(channel));
        let timeout = [timeout, self.witness.wait()].into_iter().flatten().min();
        let ready = channel.wait(&fds, timeout)?;
        if ready[0] {
            let mut info = [0; 1024];
            // Several signals may have become one: the reaping asks for everybody anyway.
            while matches!(rustix::io::read(&self.children, &mut info), Ok(n) if n > 0) {}
        }
        if !pipes.is_empty() {
            self.read(channel, &ready[pipes]);
        }
        self.witness.turn(channel);
        channel.write_some()
    }

    fn obey(&mut self, channel: &mut Channel, request: ToAgent) {
        let now = self.start.elapsed();
        match request {
            ToAgent::Pause {} => {
                if self.timers.pause(now) {
                    self.witness.pause();
                    self.family.signal(libc::SIGSTOP);
                    channel.send(&Frame::Paused { paused: true });
                }
            }
            ToAgent::Resume {} => {
                if self.timers.resume(now) {
                    self.witness.resume();
                    self.family.signal(libc::SIGCONT);
                    channel.send(&Frame::Paused { paused: false });
                }
            }
            ToAgent::Cancel {} => {
                self.witness.resume();
                if self.timers.cancel(now) {
                    self.ended.cancelled = true;
                    self.terminate_all();
                }
            }
            ToAgent::Kill {} => {
                self.witness.resume();
                self.ended.cancelled = true;
                if self.timers.kill(now) {
                    self.kill_all(channel);
                }
            }
            ToAgent::Ping { token } => channel.send(&Frame::Pong { token }),
            said @ (ToAgent::Looked { .. }
            | ToAgent::Dialed { .. }
            | ToAgent::Received { .. }
            | ToAgent::Shut { .. }
            | ToAgent::Taken { .. }) => self.witness.hear(said, channel),
            ToAgent::Manifest { .. } | ToAgent::Ack {} | ToAgent::Bye {} => {}
        }
    }

    /// SIGTERM to everybody, and SIGCONT, without which a stopped process would not hear it.
    fn terminate_all(&self) {
        self.family.signal(libc::SIGTERM);
        self.family.signal(libc::SIGCONT);
    }

    /// Who is there: `pid command line`. Zombies do not count: they are nobody's.
    fn living(&self) -> Vec<String> {
        self.family.members().into_iter().filter_map(describe).take(SURVIVORS).collect()
    }

    fn kill_all(&mut self, channel: &mut Channel) {
        self.ended.killed = true;
        self.family.signal(libc::SIGKILL);
        channel.send(&Frame::Killing {});
    }

    /// Reads each ready pipe once, so that neither a flood on one nor one at all keeps the timers waiting.
    fn read(&mut self, channel: &mut Channel, ready: &[bool]) {
        let mut bytes = [0; 64 * 1024];
        let mut index = 0;
        let (ended, complaint, output_bytes) = (&mut self.ended, &mut self.complaint, self.output_bytes);
        self.sources.retain(|source| {
            let is_ready = ready.get(index).copied().unwrap_or(false);
            index += 1;
            if !is_ready {
                return true;
            }
            match rustix::io::read(&source.pipe, &mut bytes) {
                Ok(0) => false,
                Ok(n) => {
                    complaint.hear(source.stream, &bytes[..n]);
                    let room = if output_bytes == 0 { u64::MAX } else { output_bytes };
                    let passed = ended.output_total - ended.output_dropped;
                    let pass = usize::try_from(room.saturating_sub(passed)).unwrap_or(usize::MAX).min(n);
                    ended.output_total += n as u64;
                    ended.output_dropped += (n - pass) as u64;
                    if pass > 0 {
                        channel.send(&Frame::Output { stream: source.stream, bytes: Bytes(bytes[..pass].to_vec()) });
                    }
                    true
                }
                Err(Errno::AGAIN | Errno::INTR) => true,
                Err(_) => false,
            }
        });
    }
}

fn describe(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    if tail.trim_start().starts_with(['Z', 'X']) {
        return None;
    }
    let line = family::command_line(pid);
    let line = String::from_utf8_lossy(&line);
    let words: Vec<&str> = line.split('\0').filter(|word| !word.is_empty()).collect();
    let text = if words.is_empty() { head.split_once('(')?.1.to_owned() } else { words.join(" ") };
    // The step chose these words: nothing of them may move a terminal's cursor, and there is an end to them.
    let text: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    Some(format!("{pid} {text}"))
}
