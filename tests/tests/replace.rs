//! Rung: namespaces, dataplane §12 cases 28 and 96, rows T73 and T75. What clients keep of a published port that goes, and of a sandbox that is replaced.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use netd_tests::{Family, H, Lab, Ns, PATIENCE, Proto, R, SILENCE, Server, Silence, at};

/// Sends datagrams from one port without a pause, until it is dropped.
struct Sender {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sender {
    fn start(ns: &Ns, from: u16, to: SocketAddr) -> Self {
        let socket = ns.run(|| UdpSocket::bind(at(wildcard(to), from)).expect("a socket"));
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                // An ICMP error of the datagram before is not this one's.
                let _ = socket.send_to(b"more", to);
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(200));
            }
        });
        Self { sent, stop, thread: Some(thread) }
    }

    /// Waits until this many more have been sent.
    fn wait_for(&self, more: u64) {
        let (end, deadline) = (self.sent.load(Ordering::Relaxed) + more, Instant::now() + PATIENCE);
        while self.sent.load(Ordering::Relaxed) < end {
            assert!(Instant::now() < deadline, "the client sends no more");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

fn wildcard(of: SocketAddr) -> std::net::IpAddr {
    if of.is_ipv4() { Family::V4.any() } else { Family::V6.any() }
}

#[test]
fn t73_t74_a_client_that_never_pauses_follows_its_port_at_once() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    for family in Family::BOTH {
        let sender = Sender::start(&lab.r, 40_000, at(H.ip(family), 8080));
        for _ in 0..5 {
            for (now, other, name) in [(&a1, &a2, "a1"), (&a2, &a1, "a2")] {
                sender.wait_for(10);
                lab.netd(&["publish", name, "8080:80/udp"]).ok();
                let (arrives, silence) = (now.capture(), Silence::watch(other));
                arrives.wait("a datagram", PATIENCE, |p| !p.outgoing && p.is_to(Proto::Udp, 80));
                lab.netd(&["unpublish", name, "8080:80/udp"]).ok();
                let silent = Silence::watch(now);
                sender.wait_for(50);
                silent.assert("after unpublish");
                silence.assert("the other sandbox");
            }
        }
    }
}

/// A connected UDP socket of a process on `ns`, which has exchanged a datagram.
fn connected(ns: &Ns, to: SocketAddr) -> UdpSocket {
    // Without a port of its own yet: the kernel binds it to address and port at once when it connects.
    let socket = ns.run(|| {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        UdpSocket::from(socket)
    });
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    ns.run(|| socket.connect(to)).expect("connect");
    assert_eq!(answer(&socket).expect("an answer").split(' ').next(), Some("a1"), "{to}");
    socket
}

fn answer(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"who?")?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Expects that a socket's program learns of the end, whether it waits for an answer or sends.
fn assert_told(socket: &UdpSocket) {
    let waiting = socket.recv(&mut [0]).expect_err("its backend is gone");
    assert_eq!(waiting.kind(), ErrorKind::ConnectionAborted, "{waiting}");
    let sending = socket.send(b"and again").expect_err("it is connected no more");
    assert_eq!(sending.raw_os_error(), Some(libc::EDESTADDRREQ), "{sending}");
}

#[test]
fn connected_sockets_of_the_host_are_told_when_their_backend_is_replaced() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let mut a1 = Some(lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]).serving(&[80]));
    for family in Family::BOTH {
        let published = [family.loopback(), H.ip(family)].map(|ip| at(ip, 8080));
        let sockets = published.map(|to| connected(&lab.h, to));
        let direct = connected(&lab.h, at(a1.as_ref().expect("a1").ip(family), 80));
        lab.netd(&["unpublish", "a1", "8080:80/udp"]).ok();
        for socket in &sockets {
            assert_told(socket);
        }
        answer(&direct).expect("who dialled the sandbox itself is left alone");
        lab.netd(&["publish", "a1", "8080:80/udp"]).ok();
        for (socket, to) in sockets.iter().zip(published) {
            lab.h.run(|| socket.connect(to)).expect("the same socket connects again");
            assert!(answer(socket).expect("an answer").starts_with("a1 "));
        }
    }
    // The next sandbox gets address and port: nothing of the old client's socket reaches it before it connects again.
    for family in Family::BOTH {
        let to = at(family.loopback(), 8080);
        let socket = connected(&lab.h, to);
        drop(a1.take());
        lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
        let next = lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]).serving(&[80]);
        let silence = Silence::watch(&next);
        assert_told(&socket);
        silence.assert("the next owner of the address");
        lab.h.run(|| socket.connect(to)).expect("the same socket connects again");
        assert!(answer(&socket).expect("an answer").starts_with("a1 "));
        a1 = Some(next);
    }
}

/// A socket that was bound to a port alone goes by `lo`, and an IPv6 socket may have dialled an IPv4 name, or a sandbox that has IPv4 alone.
#[test]
fn every_kind_of_connected_socket_of_the_host_finds_the_next_backend() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let mut a1 = Some(lab.sandbox("a1", net, 2, &["-p", "8080:80/udp"]).serving(&[80]));
    let mapped = |family: Family| matches!(family, Family::V6).then(|| H.v4.to_ipv6_mapped());
    for family in Family::BOTH {
        let names = [Some(H.ip(family)), Some(family.loopback()), mapped(family).map(Into::into)];
        for to in names.into_iter().flatten().map(|ip| at(ip, 8080)) {
            let bound = lab.h.run(|| UdpSocket::bind(at(family.any(), 0)).expect("a socket"));
            bound.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            lab.h.run(|| bound.connect(to)).expect("connect");
            let sockets = [bound, connected(&lab.h, to)];
            assert!(answer(&sockets[0]).expect("an answer").starts_with("a1 "), "{to}");
            drop(a1.take());
            lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
            let next = lab.sandbox("a1", net, 2, &["-p", "9090:80/udp"]).serving(&[80]);
            let silence = Silence::watch(&next);
            for socket in &sockets {
                let ended = answer(socket).expect_err("nobody is behind the port");
                let told =
                    [ErrorKind::ConnectionRefused, ErrorKind::ConnectionAborted, ErrorKind::NotConnected];
                let unled = ended.raw_os_error() == Some(libc::EDESTADDRREQ);
                assert!(unled || told.contains(&ended.kind()), "{to}: {ended}");
                let _ = socket.take_error(); // `SOCK_DESTROY` leaves one for whoever waits
            }
            silence.assert("the next owner of the address");
            lab.netd(&["publish", "a1", "8080:80/udp"]).ok();
            for socket in &sockets {
                lab.h.run(|| socket.connect(to)).expect("connect again");
                assert!(answer(socket).expect("an answer").starts_with("a1 "), "{to}");
            }
            lab.netd(&["unpublish", "a1", "8080:80/udp"]).ok();
            let refused = answer(&sockets[0]).expect_err("unpublished");
            lab.netd(&["publish", "a1", "8080:80/udp"]).ok();
            // What goes by `lo` follows the port by itself.
            if refused.kind() == ErrorKind::ConnectionRefused {
                assert!(answer(&sockets[0]).expect("an answer").starts_with("a1 "), "{to}");
            }
            a1 = Some(next);
        }
    }
}

#[test]
fn case28_kill_ends_what_came_by_the_port_and_nothing_else() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "9090:80"]).serving(&[80]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let by_port = [
            ("remote", lab.r.connect_stream(at(H.ip(family), 8080)).0),
            ("host by loopback", lab.h.connect_stream(at(family.loopback(), 8080)).0),
            ("host by its address", lab.h.connect_stream(at(H.ip(family), 8080)).0),
        ];
        let others = [
            ("host to the sandbox itself", lab.h.connect_stream(at(a1.ip(family), 80)).0),
            ("host by another port", lab.h.connect_stream(at(family.loopback(), 9090)).0),
            ("remote by another port", lab.r.connect_stream(at(H.ip(family), 9090)).0),
            ("the sandbox to the same port outside", a1.connect_stream(at(R.ip(family), 80)).0),
        ];
        lab.netd(&["unpublish", "--kill", "a1", "8080:80"]).ok();
        for (who, mut stream) in by_port {
            stream.patience(PATIENCE);
            let error = stream.echo(b"after").expect_err(who);
            let told = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::ConnectionAborted];
            assert!(told.contains(&error.kind()), "{family:?} {who}: {error}");
        }
        for (who, mut stream) in others {
            stream.echo(b"still here").unwrap_or_else(|e| panic!("{family:?} {who}: {e}"));
        }
        lab.netd(&["publish", "a1", "8080:80"]).ok();
    }
}

#[test]
fn t75_case96_clients_of_a_sandbox_that_is_replaced_under_load_never_reach_the_next_by_the_old_port() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a2 = lab.sandbox("a2", net, 9, &[]);
    for round in 0..3 {
        let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
        let senders = Family::BOTH.map(|family| {
            let (to, from) = (at(H.ip(family), 8080), if family == Family::V4 { 40_000 } else { 40_001 });
            [&lab.r, &a2, &lab.h].map(|client| Sender::start(client, from, to))
        });
        let mut streams = Family::BOTH.map(|family| lab.r.connect_stream(at(H.ip(family), 8080)).0);
        let arrives = a1.capture();
        arrives.wait("a datagram", PATIENCE, |p| !p.outgoing && p.is_to(Proto::Udp, 80));
        drop(a1);
        lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
        let next = lab.sandbox("next", net, 2, &["-p", "9090:80"]).serving(&[80]);
        let silence = Silence::watch(&next);
        senders.iter().flatten().for_each(|sender| sender.wait_for(20));
        for stream in &mut streams {
            stream.patience(SILENCE);
            stream.echo(b"for a1").expect_err("a1 is gone");
        }
        silence.assert("the next owner of the address");
        drop(senders);
        for family in Family::BOTH {
            let to = at(H.ip(family), 8080);
            // The host may have used up its ICMP messages on the senders.
            assert_eq!(lab.r.probe(Proto::Udp, to).seen(), None, "{family:?} round {round}");
            assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 9090)).server, "next");
        }
        drop(next);
        lab.netd(&["sandbox", "rm", "-f", "next"]).ok();
    }
}
