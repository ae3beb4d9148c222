//! The cell's name server: it answers from the policy, and knows who asked.
//!
//! Bound while there are rights (its port is below 1024), served behind the walls. It answers at once that there is no
//! answer, as a machine without a network does; names that the policy allows are resolved by the host.

use super::dns::{self, Question};
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// Where it listens: `/etc/resolv.conf` of the cell names this address.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 53), 53);

/// Connections over TCP at once; more wait in the listener.
const CONNECTIONS: usize = 16;

/// Datagrams that are taken at once.
const BURST: usize = 16;

/// The sockets of the name server.
#[derive(Debug)]
pub struct Stub {
    datagrams: UdpSocket,
    listener: TcpListener,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    socket: TcpStream,
    from: SocketAddr,
    bytes: Vec<u8>,
    number: u64,
}

/// Who is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Over UDP.
    Datagram(SocketAddr),
    /// Over TCP, from that address.
    Stream(SocketAddr, u64),
}

impl Asker {
    /// From where, for finding the process.
    pub fn address(self) -> SocketAddr {
        match self {
            Asker::Datagram(address) | Asker::Stream(address, _) => address,
        }
    }

    /// The kernel's table that lists the asker's socket.
    pub fn table(self) -> &'static str {
        match self {
            Asker::Datagram(_) => "udp",
            Asker::Stream(..) => "tcp",
        }
    }
}

impl Stub {
    /// Opens the sockets.
    ///
    /// # Errors
    /// EACCES without the right to a low port, EADDRINUSE.
    pub fn open() -> io::Result<Stub> {
        Stub::open_at(ADDRESS)
    }

    /// Opens them where no name server is expected, for a broker that leads questions there.
    ///
    /// # Errors
    /// EADDRINUSE where no port is left.
    pub fn open_anywhere() -> io::Result<Stub> {
        Stub::open_at(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))
    }

    fn open_at(address: SocketAddrV4) -> io::Result<Stub> {
        let datagrams = UdpSocket::bind(address)?;
        datagrams.set_nonblocking(true)?;
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Stub { datagrams, listener, streams: Vec::new() })
    }

    /// Where connections are taken.
    ///
    /// # Errors
    /// None that is known.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What to wait for.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.datagrams.as_fd()];
        if self.streams.len() < CONNECTIONS {
            all.push(self.listener.as_fd());
        }
        all.extend(self.streams.iter().map(|stream| stream.socket.as_fd()));
        all
    }

    /// Questions that are there now. Bounded: a flood waits for the next time.
    pub fn questions(&mut self, number: &mut u64) -> Vec<(Asker, Question)> {
        let mut all = Vec::new();
        let mut bytes = [0; dns::DATAGRAM * 2];
        for _ in 0..BURST {
            let Ok((n, from)) = self.datagrams.recv_from(&mut bytes) else { break };
            all.extend(dns::question(&bytes[..n]).map(|question| (Asker::Datagram(from), question)));
        }
        while self.streams.len() < CONNECTIONS
            && let Ok((socket, from)) = self.listener.accept()
        {
            if socket.set_nonblocking(true).is_ok() {
                *number += 1;
                self.streams.push(Stream { socket, from, bytes: Vec::new(), number: *number });
            }
        }
        self.streams.retain_mut(|stream| {
            let open = match stream.socket.read(&mut bytes) {
                Ok(0) => false,
                Ok(n) => {
                    stream.bytes.extend_from_slice(&bytes[..n]);
                    true
                }
                Err(e) => matches!(Errno::from_io_error(&e), Some(Errno::AGAIN | Errno::INTR)),
            };
            // Two bytes of length before each message, RFC 1035 section 4.2.2.
            while let Some(length) = stream.bytes.first_chunk::<2>().map(|b| usize::from(u16::from_be_bytes(*b)))
                && stream.bytes.len() >= 2 + length
            {
                let message: Vec<u8> = stream.bytes.drain(..2 + length).skip(2).collect();
                all.extend(dns::question(&message).map(|q| (Asker::Stream(stream.from, stream.number), q)));
            }
            open
        });
        all
    }

    /// Sends an answer; an asker that is gone gets none.
    pub fn answer(&mut self, to: Asker, question: &Question, code: dns::Code, addresses: &[std::net::IpAddr]) {
        match to {
            Asker::Datagram(address) => {
                let _ = self.datagrams.send_to(&dns::answer(question, code, addresses, dns::DATAGRAM), address);
            }
            Asker::Stream(_, number) => {
                let message = dns::answer(question, code, addresses, usize::from(u16::MAX));
                let Some(stream) = self.streams.iter_mut().find(|stream| stream.number == number) else { return };
                let mut bytes = (message.len() as u16).to_be_bytes().to_vec();
                bytes.extend(message);
                // As much as fits into an empty socket buffer fits at once.
                let _ = stream.socket.write_all(&bytes);
            }
        }
    }
}
