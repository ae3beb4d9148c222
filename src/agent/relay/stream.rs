//! One connection between a socket of the step and the host's end of it.

use super::{Bytes, CHUNK, Channel, Frame, WINDOW, Waiting};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Bytes that are handed to the step before the host is told, where more of them wait.
const TOLD: u32 = WINDOW / 4;

/// What is known of a stream from the moment the host dialed: it may speak before the step's connection has arrived.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Option<OwnedFd>,
    watched: EventFlags,
    /// What the host said and the step has not taken; the first piece from `offset` on.
    waiting: Waiting,
    offset: usize,
    /// Bytes handed to the step that the host was not told of.
    untold: u32,
    /// Bytes that may still be sent to the host.
    pub(super) credit: u32,
    /// The host says nothing more.
    host_ended: bool,
    /// The step says nothing more.
    step_ended: bool,
    /// Somebody is gone: nothing more is passed on.
    broken: bool,
}

impl Default for Stream {
    fn default() -> Stream {
        Stream {
            socket: None,
            watched: EventFlags::empty(),
            waiting: Waiting::new(),
            offset: 0,
            untold: 0,
            credit: WINDOW,
            host_ended: false,
            step_ended: false,
            broken: false,
        }
    }
}

impl Stream {
    /// Takes the step's connection. Non-blocking.
    pub(super) fn claim(&mut self, socket: OwnedFd) {
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        self.socket = Some(socket);
        if self.broken {
            self.reset();
        }
    }

    /// Nothing more will come of it.
    pub(super) fn is_over(&self) -> bool {
        let ended = self.step_ended && self.host_ended && self.waiting.is_empty();
        // A connection that has not arrived yet is still expected at its door.
        self.socket.is_some() && (self.broken || ended)
    }

    /// Whether the step may still have something to say.
    pub(super) fn is_talking(&self) -> bool {
        self.socket.is_some() && !self.step_ended && !self.broken
    }

    /// Asks the kernel for what is waited for now. What nobody waits for is taken out: a connection that was reset says
    /// so without being asked, again and again.
    pub(super) fn watch(&mut self, poll: &OwnedFd, number: u32) {
        let Some(socket) = &self.socket else { return };
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, self.credit > 0 && !self.step_ended);
        wanted.set(EventFlags::OUT, !self.waiting.is_empty());
        if wanted == self.watched {
            return;
        }
        let data = epoll::EventData::new_u64(number.into());
        let _ = if wanted.is_empty() {
            epoll::delete(poll, socket)
        } else if self.watched.is_empty() {
            epoll::add(poll, socket, data, wanted)
        } else {
            epoll::modify(poll, socket, data, wanted)
        };
        self.watched = wanted;
    }

    /// Reads once what the step says.
    pub(super) fn read(&mut self, number: u32, channel: &mut Channel) {
        let Some(socket) = &self.socket else { return };
        if self.broken || self.step_ended || self.credit == 0 {
            return;
        }
        let mut bytes = vec![0; CHUNK.min(self.credit as usize)];
        match rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()) {
            Ok((0, _)) => {
                self.step_ended = true;
                channel.send(&Frame::Shut { stream: number, reset: false });
            }
            Ok((n, _)) => {
                self.credit -= n as u32;
                bytes.truncate(n);
                channel.send(&Frame::Sent { stream: number, bytes: Bytes(bytes) });
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.break_off(number, channel),
        }
    }

    /// Takes what the host says.
    pub(super) fn take(&mut self, bytes: Vec<u8>) {
        if !self.broken && !self.host_ended && !bytes.is_empty() {
            self.waiting.push_back(bytes);
        }
    }

    /// Hands on what waits, as much as the step takes now.
    pub(super) fn write(&mut self, number: u32, channel: &mut Channel) {
        let Some(socket) = &self.socket else { return };
        if self.broken {
            return;
        }
        let mut gone = false;
        while let Some(piece) = self.waiting.front() {
            match rustix::net::send(socket, &piece[self.offset..], SendFlags::NOSIGNAL) {
                Ok(n) => {
                    self.offset += n;
                    self.untold += n as u32;
                    if self.offset == piece.len() {
                        self.waiting.pop_front();
                        self.offset = 0;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        if gone {
            self.break_off(number, channel);
            return;
        }
        if self.untold >= TOLD || (self.waiting.is_empty() && self.untold > 0) {
            channel.send(&Frame::Taken { stream: number, bytes: self.untold });
            self.untold = 0;
        }
        if self.host_ended && self.waiting.is_empty() {
            let _ = rustix::net::shutdown(socket.as_fd(), Shutdown::Write);
        }
    }

    /// The host says nothing more: neither will we, when all is handed on.
    pub(super) fn end(&mut self, number: u32, channel: &mut Channel) {
        self.host_ended = true;
        self.write(number, channel);
    }

    /// The other side is gone: the step sees the same.
    pub(super) fn reset(&mut self) {
        self.broken = true;
        self.waiting.clear();
        if let Some(socket) = &self.socket {
            // Its closing is a reset then, socket(7).
            let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
    }

    /// The step is gone.
    fn break_off(&mut self, number: u32, channel: &mut Channel) {
        self.broken = true;
        channel.send(&Frame::Shut { stream: number, reset: true });
    }
}
