use super::*;
use crate::frame::{HostEntry, datagram_cost};
use std::sync::atomic::AtomicUsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// This machine's own loopback is never relayed, so a peer of a test stands behind another of its addresses.
async fn own_address() -> IpAddr {
    // A documentation address (RFC 5737): nothing is sent by connect, the kernel only looks for a route.
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    socket.connect("192.0.2.1:9").await.unwrap();
    socket.local_addr().unwrap().ip()
}

fn listed(address: IpAddr, port: u16) -> HostEntry {
    HostEntry { name: String::new(), address: Bytes(address::bytes(address)), port }
}

fn named(name: &str) -> HostEntry {
    HostEntry { name: name.to_owned(), address: Bytes::default(), port: 0 }
}

struct Agent {
    relay: Relay,
    told: mpsc::Receiver<ToAgent>,
}

impl Agent {
    fn new(mode: u8, allowed: Vec<HostEntry>, resolver: Resolver) -> Agent {
        let (send, told) = mpsc::channel(QUEUE);
        Agent { relay: Relay::new(Policy { mode, allowed, quiet: Vec::new() }, resolver, send), told }
    }

    fn dial(&mut self, stream: u32, protocol: u8, target: IpAddr, port: u16) {
        let address = Bytes(address::bytes(target));
        self.relay.hear(Frame::Dial { stream, protocol, address, port, name: "whatever it says".into() });
    }

    fn say(&mut self, stream: u32, bytes: &[u8]) {
        self.relay.hear(Frame::Sent { stream, bytes: Bytes(bytes.to_vec()) });
    }

    async fn next(&mut self) -> ToAgent {
        tokio::time::timeout(Duration::from_secs(20), self.told.recv()).await.expect("an answer").unwrap()
    }

    async fn connected(&mut self, stream: u32, address: IpAddr, port: u16) {
        self.dial(stream, 6, address, port);
        assert_eq!(self.next().await, ToAgent::Dialed { stream, errno: 0, refused: String::new() });
    }

    /// Takes what is received until the stream is shut.
    async fn hear_all(&mut self, of: u32) -> (Vec<u8>, bool) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                ToAgent::Received { stream, bytes } if stream == of => {
                    all.extend(&bytes.0);
                    self.relay.hear(Frame::Taken { stream, bytes: bytes.0.len() as u32 });
                }
                ToAgent::Shut { stream, reset } if stream == of => return (all, reset),
                ToAgent::Taken { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn answers(names: &'static [(&'static str, &'static str)]) -> (Resolver, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let given = move |name: &str| {
        counter.fetch_add(1, Ordering::SeqCst);
        let found: Vec<IpAddr> = names.iter().filter(|(n, _)| *n == name).map(|(_, a)| a.parse().unwrap()).collect();
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    };
    (Resolver::Given(Arc::new(given)), asked)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_side_ends_by_itself() {
    let own = own_address().await;
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        // The step said its last word, and still listens.
        socket.write_all(&all).await.unwrap();
        all.len()
    });
    let mut agent = Agent::new(Policy::LISTED, vec![listed(own, port)], Resolver::System);
    agent.connected(1, own, port).await;
    agent.say(1, b"hello ");
    agent.say(1, b"world");
    agent.relay.hear(Frame::Shut { stream: 1, reset: false });
    assert_eq!(agent.hear_all(1).await, (b"hello world".to_vec(), false));
    assert_eq!(peer.await.unwrap(), 11);
    while agent.relay.tasks.join_next().await.is_some() {}
    assert!(agent.relay.shared.state().lines.is_empty(), "a stream that is over is forgotten");
}

#[tokio::test]
async fn a_peer_that_floods_waits_for_the_step() {
    let own = own_address().await;
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let block = vec![7; 64 * 1024];
        for _ in 0..512 {
            socket.write_all(&block).await.unwrap();
        }
    });
    let mut agent = Agent::new(Policy::LISTED, vec![listed(own, 0)], Resolver::System);
    agent.connected(1, own, port).await;
    // Nothing is taken: no more than the window may come.
    let mut got = 0;
    while let Ok(Some(ToAgent::Received { bytes, .. })) =
        tokio::time::timeout(Duration::from_millis(300), agent.told.recv()).await
    {
        got += bytes.0.len();
    }
    assert_eq!(got, WINDOW as usize);
    agent.relay.hear(Frame::Taken { stream: 1, bytes: WINDOW });
    let (rest, reset) = agent.hear_all(1).await;
    assert_eq!((got + rest.len(), reset), (512 * 64 * 1024, false));
    peer.await.unwrap();
}

#[tokio::test]
async fn an_agent_that_sends_more_than_its_window_is_cut_off() {
    let own = own_address().await;
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut agent = Agent::new(Policy::LISTED, vec![listed(own, 0)], Resolver::System);
    agent.connected(1, own, port).await;
    let (mut socket, _) = listener.accept().await.unwrap();
    let (_, nobody) = mpsc::channel(1);
    let mut told = std::mem::replace(&mut agent.told, nobody);
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    // In one go, so that nothing can be taken in between.
    for _ in 0..=(WINDOW as usize / 1024) {
        agent.say(1, &[1; 1024]);
    }
    let mut all = Vec::new();
    assert_eq!(socket.read_to_end(&mut all).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(all.len() <= WINDOW as usize);
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let own = own_address().await;
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut agent = Agent::new(Policy::LISTED, vec![listed(own, 0)], Resolver::System);
    agent.connected(1, own, port).await;
    let (socket, _) = listener.accept().await.unwrap();
    socket.set_zero_linger().unwrap();
    drop(socket);
    assert_eq!(agent.hear_all(1).await, (Vec::new(), true));
    agent.connected(2, own, port).await;
    let (mut socket, _) = listener.accept().await.unwrap();
    agent.relay.hear(Frame::Shut { stream: 2, reset: true });
    assert_eq!(socket.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_the_kernel_says_of_a_connection_is_passed_on() {
    let own = own_address().await;
    let free = TcpListener::bind((own, 0)).await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut agent = Agent::new(Policy::LISTED, vec![listed(own, 0)], Resolver::System);
    agent.dial(1, 6, own, port);
    assert_eq!(agent.next().await, ToAgent::Dialed { stream: 1, errno: 111, refused: String::new() });
    agent.dial(2, 132, own, port);
    assert_eq!(agent.next().await, ToAgent::Dialed { stream: 2, errno: 93, refused: "protocol".into() });
}

#[tokio::test]
async fn what_is_not_allowed_is_never_connected_whatever_the_agent_says() {
    let own = own_address().await;
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (allowed, open) in [(vec![], false), (vec![listed(own, port ^ 1)], false), (vec![listed(own, port)], true)] {
        let mut agent = Agent::new(Policy::LISTED, allowed, Resolver::System);
        agent.dial(1, 6, own, port);
        let ToAgent::Dialed { errno, refused, .. } = agent.next().await else { panic!("not dialed") };
        assert_eq!((errno == 0, refused.is_empty()), (open, open));
        let reached = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_ok();
        assert_eq!(reached, open);
    }
    // The host's own loopback, in an open cell, whoever listens there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut agent = Agent::new(Policy::EVERYWHERE, vec![], Resolver::System);
    for target in ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.169.254"] {
        agent.dial(1, 6, target.parse().unwrap(), port);
        let ToAgent::Dialed { errno, refused, .. } = agent.next().await else { panic!("not dialed") };
        assert!(errno == errno::NET_UNREACHABLE && !refused.is_empty(), "{target}");
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_err());
}

#[tokio::test]
async fn only_allowed_names_are_asked_and_only_public_addresses_told() {
    let (resolver, asked) = answers(&[
        ("a.test", "93.184.216.34"),
        ("a.test", "10.0.0.1"),
        ("inner.test", "169.254.169.254"),
        ("secret.evil.test", "93.184.216.35"),
    ]);
    let allowed = vec![named("a.test"), named("inner.test"), named("gone.test")];
    let mut agent = Agent::new(Policy::LISTED, allowed, resolver);
    for (id, name, refused, count) in [
        (1, "a.test", "", 1),
        (2, "inner.test", "metadata address", 2),
        (3, "gone.test", "does not resolve", 3),
        (4, "secret.evil.test", "not allowed", 3),
        (5, "", "not allowed", 3),
        (6, "x.a.test", "not allowed", 3),
    ] {
        agent.relay.hear(Frame::Lookup { id, name: name.into() });
        let addresses = if refused.is_empty() { vec![Bytes(vec![93, 184, 216, 34])] } else { vec![] };
        assert_eq!(agent.next().await, ToAgent::Looked { id, addresses, refused: refused.into() });
        assert_eq!(asked.load(Ordering::SeqCst), count, "{name}");
    }
}

#[tokio::test]
async fn a_connection_is_allowed_by_the_names_that_were_told_and_not_by_those_that_are_claimed() {
    let own = own_address().await;
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let text: &'static str = own.to_string().leak();
    let (resolver, _) = answers(vec![("a.test", text)].leak());
    // Open, so that this machine's private address may be told at all.
    let mut agent = Agent::new(Policy::LISTED, vec![named("a.test"), listed(own, port ^ 1)], resolver);
    agent.dial(1, 6, own, port);
    assert!(matches!(agent.next().await, ToAgent::Dialed { errno: errno::NET_UNREACHABLE, .. }));
    agent.relay.hear(Frame::Lookup { id: 1, name: "a.test".into() });
    assert!(matches!(agent.next().await, ToAgent::Looked { addresses, .. } if addresses.len() == 1));
    // The lock names this address with another port alone, so the name leads to a private one.
    agent.dial(2, 6, own, port);
    let ToAgent::Dialed { refused, .. } = agent.next().await else { panic!("not dialed") };
    let is_private = address::Class::of(own) != address::Class::Public;
    assert_eq!(refused, if is_private { "private address" } else { "" });
}

#[tokio::test]
async fn datagrams_keep_their_bounds_and_their_flow() {
    let own = own_address().await;
    let server = UdpSocket::bind((own, 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let mut agent = Agent::new(Policy::LISTED, vec![listed(own, port)], Resolver::System);
    for stream in [1, 2] {
        agent.dial(stream, 17, own, port);
        assert!(matches!(agent.next().await, ToAgent::Dialed { errno: 0, .. }));
    }
    let mut bytes = [0; 100];
    let mut from = Vec::new();
    for (stream, text) in [(1, "one"), (2, "two"), (1, "")] {
        agent.say(stream, text.as_bytes());
        let (n, sender) = server.recv_from(&mut bytes).await.unwrap();
        assert_eq!(&bytes[..n], text.as_bytes());
        from.push(sender);
        assert!(
            matches!(agent.next().await, ToAgent::Taken { stream: s, bytes: b } if s == stream && b == datagram_cost(n))
        );
        server.send_to(text.as_bytes(), sender).await.unwrap();
        assert_eq!(agent.next().await, ToAgent::Received { stream, bytes: Bytes(text.into()) });
    }
    assert!(from[0] == from[2] && from[0] != from[1]);
}

#[tokio::test]
async fn a_flood_of_datagrams_without_a_byte_is_not_kept() {
    let own = own_address().await;
    let server = UdpSocket::bind((own, 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let mut agent = Agent::new(Policy::LISTED, vec![listed(own, port)], Resolver::System);
    agent.dial(1, 17, own, port);
    assert!(matches!(agent.next().await, ToAgent::Dialed { errno: 0, .. }));
    let held = Arc::clone(&agent.relay.shared.state().lines[&1].held);
    // In one go, so that nothing can be passed on in between. Its window is in bytes, and these have none.
    for _ in 0..100_000 {
        agent.say(1, b"");
    }
    assert!(held.load(Ordering::SeqCst) <= WINDOW as usize + 256, "it keeps {held:?}");
    assert!(agent.relay.shared.state().lines.is_empty(), "who does not keep to the window is cut off");
    let (_, nobody) = mpsc::channel(1);
    let mut told = std::mem::replace(&mut agent.told, nobody);
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    while agent.relay.tasks.join_next().await.is_some() {}
    let mut got = 0;
    while server.try_recv_from(&mut [0; 8]).is_ok() {
        got += 1;
    }
    assert!(got <= WINDOW as usize / 256, "{got} were passed on");
}

#[tokio::test]
async fn when_the_relay_goes_every_connection_goes() {
    let own = own_address().await;
    let listener = TcpListener::bind((own, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut agent = Agent::new(Policy::LISTED, vec![listed(own, 0)], Resolver::System);
    let mut sockets = Vec::new();
    for stream in 0..20 {
        agent.connected(stream, own, port).await;
        sockets.push(listener.accept().await.unwrap().0);
    }
    drop(agent);
    for mut socket in sockets {
        let end = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut [0])).await.unwrap();
        assert!(!matches!(end, Ok(1..)));
    }
}

#[tokio::test]
async fn there_is_an_end_to_the_streams_of_a_cell() {
    let own = own_address().await;
    let server = UdpSocket::bind((own, 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let mut agent = Agent::new(Policy::LISTED, vec![listed(own, port)], Resolver::System);
    let mut refused = 0;
    for stream in 0..=STREAMS as u32 {
        agent.dial(stream, 17, own, port);
        let ToAgent::Dialed { errno, .. } = agent.next().await else { panic!("not dialed") };
        refused += usize::from(errno == errno::MFILE);
    }
    assert!(refused >= 1);
    assert!(agent.relay.shared.state().lines.len() <= STREAMS);
}
