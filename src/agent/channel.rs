//! The agent's end of the stream: frames out through a bounded queue, requests in. Nothing here blocks unless its name
//! says so, because timers must run while the host is slow.

use crate::frame::{Decoder, Frame, Payload, ToAgent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Above this many queued bytes nothing more is read from the command: the pipe fills and the command waits.
const HIGH: usize = 512 * 1024;

/// The host is gone, or says nothing that can be understood; there is nobody to work for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// The stream to the host.
pub struct Channel {
    input: OwnedFd,
    output: OwnedFd,
    decoder: Decoder,
    queue: Vec<u8>,
    sent: usize,
    frames: u64,
    digest: Sha256,
    /// Readable (by its end) when whoever started us is gone.
    pub alive: Option<OwnedFd>,
    /// When nobody can need us any more, whatever the stream says.
    pub deadline: Option<Instant>,
    /// Whoever started us said that the step has written too much.
    pub over_disk: bool,
    /// The host wants the end at once ([`ToAgent::Kill`]), also of what is done after the command's.
    pub hurry: bool,
}

impl Channel {
    /// Over standard input and output.
    ///
    /// # Errors
    /// Where they are not open.
    pub fn stdio() -> io::Result<Channel> {
        Channel::over(io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?)
    }

    /// Over pipes, with the host's ends of them.
    #[cfg(test)]
    pub fn for_tests() -> (Channel, (OwnedFd, OwnedFd)) {
        let pipe = || rustix::pipe::pipe().expect("a pipe");
        let ((input, to), (from, output)) = (pipe(), pipe());
        (Channel::over(input, output).expect("flags of a pipe"), (to, from))
    }

    fn over(input: OwnedFd, output: OwnedFd) -> io::Result<Channel> {
        rustix::fs::fcntl_setfl(&input, rustix::fs::fcntl_getfl(&input)? | OFlags::NONBLOCK)?;
        rustix::fs::fcntl_setfl(&output, rustix::fs::fcntl_getfl(&output)? | OFlags::NONBLOCK)?;
        Ok(Channel {
            input,
            output,
            decoder: Decoder::default(),
            queue: Vec::new(),
            sent: 0,
            frames: 0,
            digest: Sha256::new(),
            alive: None,
            deadline: None,
            over_disk: false,
            hurry: false,
        })
    }

    /// Queues a frame.
    pub fn send(&mut self, frame: &Frame) {
        let bytes = frame.encode();
        self.digest.update(&bytes);
        self.frames += 1;
        self.queue.extend_from_slice(&bytes);
    }

    /// Queues `end`, which says what came before it.
    pub fn send_end(&mut self) {
        let sha256 = hex::encode(self.digest.clone().finalize());
        let end = Frame::End { frames: self.frames, sha256 };
        self.queue.extend_from_slice(&end.encode());
    }

    /// Whether the queue is so long that its sources have to wait.
    pub fn is_full(&self) -> bool {
        self.queue.len() - self.sent > HIGH
    }

    /// Whether everything queued was written.
    pub fn is_flushed(&self) -> bool {
        self.sent == self.queue.len()
    }

    /// Writes what can be written now.
    ///
    /// # Errors
    /// Where nobody reads any more.
    pub fn write_some(&mut self) -> Result<(), Gone> {
        while self.sent < self.queue.len() {
            match rustix::io::write(&self.output, &self.queue[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Gone),
            }
        }
        if self.is_flushed() {
            self.queue.clear();
            self.sent = 0;
        } else if self.sent > HIGH {
            self.queue.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// The next request that is there already.
    ///
    /// # Errors
    /// At the end of the input, and for bytes that are no request.
    pub fn receive(&mut self) -> Result<Option<ToAgent>, Gone> {
        loop {
            if let Some((request, _)) = self.decoder.next::<ToAgent>().map_err(|_| Gone)? {
                return Ok(Some(request));
            }
            let mut bytes = [0; 16 * 1024];
            match rustix::io::read(&self.input, &mut bytes) {
                Ok(0) => return Err(Gone),
                Ok(n) => self.decoder.push(&bytes[..n]),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Waits until the stream, or one of `others` is ready (readable, or ended), at most this long. Says which of
    /// `others` were.
    ///
    /// # Errors
    /// Where the starter is gone, or the deadline is over.
    pub fn wait(&mut self, others: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<Vec<bool>, Gone> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            // Whoever is there after all is told; nobody is waited for.
            self.send(&Frame::Broken { stage: "deadline".into(), message: "its time is over".into() });
            let _ = self.write_some();
            return Err(Gone);
        }
        let mut fds = vec![PollFd::new(&self.input, PollFlags::IN)];
        fds.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        if !self.is_flushed() {
            fds.push(PollFd::new(&self.output, PollFlags::OUT));
        }
        let alive = self.alive.as_ref().map(|fd| {
            fds.push(PollFd::new(fd, PollFlags::IN));
            fds.len() - 1
        });
        let timeout = left.into_iter().chain(timeout).min().map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Err(Gone),
        }
        let said = alive.is_some_and(|i| !fds[i].revents().is_empty());
        if let Some(starter) = self.alive.as_ref().filter(|_| said) {
            // It says one thing only; its end is its end.
            match rustix::io::read(starter, &mut [0; 1]) {
                Ok(1) => self.over_disk = true,
                _ => return Err(Gone),
            }
        }
        Ok(fds[1..=others.len()].iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Waits for a request while writing what is queued.
    ///
    /// # Errors
    /// Where host or starter are gone.
    pub fn receive_blocking(&mut self) -> Result<ToAgent, Gone> {
        loop {
            self.write_some()?;
            if let Some(request) = self.receive()? {
                return Ok(request);
            }
            self.wait(&[], None)?;
        }
    }

    /// Writes everything that is queued, however long the host takes, and takes its requests meanwhile: one that is left
    /// lying would be waited for again and again.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        let gone = |Gone| io::Error::from(io::ErrorKind::BrokenPipe);
        self.listen().map_err(gone)?;
        while !self.is_flushed() {
            self.write_some().map_err(gone)?;
            if !self.is_flushed() {
                self.wait(&[], None).map_err(gone)?;
                self.listen().map_err(gone)?;
            }
        }
        Ok(())
    }

    /// Takes the requests that are there, when the command is over and nothing can be asked of it any more.
    fn listen(&mut self) -> Result<(), Gone> {
        while let Some(request) = self.receive()? {
            match request {
                ToAgent::Ping { token } => self.send(&Frame::Pong { token }),
                ToAgent::Kill {} => self.hurry = true,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    /// A channel and the host's ends of it.
    fn channel() -> (Channel, OwnedFd, OwnedFd) {
        let (channel, (to, from)) = Channel::for_tests();
        (channel, to, from)
    }

    #[test]
    fn requests_are_taken_while_a_slow_host_is_written_to() {
        let (mut channel, to, from) = channel();
        let say = |request: ToAgent| rustix::io::write(&to, &request.encode()).unwrap();
        say(ToAgent::Cancel {});
        say(ToAgent::Ping { token: 7 });
        say(ToAgent::Kill {});
        // More than a pipe holds, so that the flush has to wait.
        for _ in 0..40 {
            channel.send(&Frame::Tar { bytes: crate::frame::Bytes(vec![0; 8192]) });
        }
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            let (mut all, mut bytes) = (Decoder::default(), vec![0; 65536]);
            let mut heard = Vec::new();
            while heard.len() < 41 {
                let n = rustix::io::read(&from, &mut bytes).unwrap();
                all.push(&bytes[..n]);
                while let Some((frame, _)) = all.next::<Frame>().unwrap() {
                    heard.push(frame);
                }
            }
            heard
        });
        let before = cpu();
        channel.flush().unwrap();
        let used = cpu() - before;
        assert!(channel.hurry);
        assert!(reader.join().unwrap().contains(&Frame::Pong { token: 7 }));
        // Waiting means to wait: a request that is left lying keeps the poll awake for all of these 300 ms.
        assert!(used < Duration::from_millis(150), "{used:?} of CPU");
        drop(to);
        channel.send(&Frame::Killing {});
        assert!(channel.flush().is_err(), "a host that is gone is seen");
    }

    /// CPU time of this thread.
    fn cpu() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
    }

    #[test]
    fn a_starter_says_one_thing_and_its_end_is_the_end() {
        let (mut channel, _to, _from) = channel();
        let (alive, life) = pipe().unwrap();
        channel.alive = Some(alive);
        rustix::io::write(&life, b"d").unwrap();
        channel.wait(&[], None).unwrap();
        assert!(channel.over_disk);
        drop(life);
        assert_eq!(channel.wait(&[], None), Err(Gone));
    }
}
