//! Servers that answer `<name> sees <source address>`: one probe shows reachability and the source the server saw.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    thread::JoinHandle,
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, MsgFlags, SockaddrStorage, recvfrom, sendto},
    unistd::pipe2,
};

use crate::{Ns, Proto, process, sctp};

/// A server for TCP and UDP that echoes after its first line: a stream what follows, a datagram within its answer. It stops on drop.
#[derive(Debug)]
pub struct Server {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves these ports on every address of a namespace, TCP, UDP and the first step of SCTP, IPv4 and IPv6.
    pub fn start(ns: &Ns, ports: &[u16]) -> Self {
        // A socket bound to `::` takes both families.
        let everywhere = |&port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let addresses: Vec<_> = ports.iter().map(everywhere).collect();
        let both = addresses.iter().flat_map(|&to| [(Proto::Tcp, to), (Proto::Udp, to)]);
        Self::serve(ns, &both.collect::<Vec<_>>(), ports)
    }

    /// Serves exactly these addresses; they are bound when this returns.
    pub fn bind(ns: &Ns, addresses: &[(Proto, SocketAddr)]) -> Self {
        Self::serve(ns, addresses, &[])
    }

    fn serve(ns: &Ns, addresses: &[(Proto, SocketAddr)], sctp: &[u16]) -> Self {
        let mut peer = Peer { name: ns.name().to_owned(), sctp: sctp.to_vec(), ..Peer::default() };
        ns.run(|| {
            if !sctp.is_empty() {
                let open = |family| sctp::open(family).unwrap_or_else(|e| panic!("{}: SCTP: {e}", ns.name()));
                peer.raw = [AddressFamily::Inet, AddressFamily::Inet6].map(open).into();
            }
            for &(proto, address) in addresses {
                let bound = peer.bind(proto, address);
                bound.unwrap_or_else(|e| panic!("{}: bind {proto:?} {address}: {e}", ns.name()));
            }
        });
        let (wake, stop) = pipe2(OFlag::O_CLOEXEC).expect("a pipe"); // or a child would hold it open
        let thread = std::thread::spawn(move || peer.serve(&wake));
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take()); // the closed pipe wakes the thread
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        process::wait_for_starts(); // who wants its ports now gets them
    }
}

/// A connection, and what it has not taken back yet; no more is read before it has.
struct Client {
    stream: TcpStream,
    owed: Vec<u8>,
}

#[derive(Default)]
struct Peer {
    name: String,
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    clients: Vec<Client>,
    /// Raw sockets for SCTP, IPv4 and IPv6, and the ports that answer.
    raw: Vec<OwnedFd>,
    sctp: Vec<u16>,
}

impl Peer {
    fn bind(&mut self, proto: Proto, address: SocketAddr) -> std::io::Result<()> {
        match proto {
            Proto::Tcp => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                self.listeners.push(listener);
            }
            Proto::Udp => {
                let socket = UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                self.datagrams.push(socket);
            }
        }
        Ok(())
    }

    fn serve(mut self, stop: &OwnedFd) {
        loop {
            let sockets = (self.listeners.iter().map(AsFd::as_fd))
                .chain(self.datagrams.iter().map(AsFd::as_fd))
                .chain(self.raw.iter().map(AsFd::as_fd))
                .chain([stop.as_fd()]);
            let mut waiting: Vec<_> = self.clients.iter().map(Client::waits_for).collect();
            waiting.extend(sockets.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            let _ = poll(&mut waiting, PollTimeout::NONE);
            if waiting.last().is_some_and(|pipe| pipe.any() == Some(true)) {
                return;
            }
            self.answer_datagrams();
            self.answer_sctp();
            self.clients.retain_mut(|client| client.echo().is_ok());
            self.accept();
        }
    }

    fn sees(&self, source: SocketAddr) -> String {
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        format!("{} sees {source}\n", self.name)
    }

    fn accept(&mut self) {
        for listener in &self.listeners {
            while let Ok((mut client, source)) = listener.accept() {
                let greeted = client.write_all(self.sees(source).as_bytes());
                if greeted.is_ok() && client.set_nonblocking(true).is_ok() {
                    self.clients.push(Client { stream: client, owed: Vec::new() });
                }
            }
        }
    }

    fn answer_datagrams(&self) {
        let mut buffer = [0; 16_384];
        for socket in &self.datagrams {
            while let Ok((length, source)) = socket.recv_from(&mut buffer) {
                let answer = [self.sees(source).as_bytes(), &buffer[..length]].concat();
                let _ = socket.send_to(&answer, source);
            }
        }
    }

    fn answer_sctp(&self) {
        let mut buffer = [0; 2048];
        for (index, fd) in self.raw.iter().enumerate() {
            while let Ok((length, Some(from))) = recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer) {
                let Some(source) = sctp::address(from) else { continue };
                let says = |port| self.sees(SocketAddr::new(source, port));
                if let Some(answer) = sctp::answer(&buffer[..length], index == 0, &self.sctp, says) {
                    let _ = sendto(fd.as_raw_fd(), &answer, &from, MsgFlags::empty());
                }
            }
        }
    }
}

impl Client {
    fn waits_for(&self) -> PollFd<'_> {
        let event = if self.owed.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        PollFd::new(self.stream.as_fd(), event)
    }

    /// Gives back as much as the connection takes now; an error when it is over.
    fn echo(&mut self) -> std::io::Result<()> {
        match self.give_back() {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    fn give_back(&mut self) -> std::io::Result<()> {
        if self.owed.is_empty() {
            let mut buffer = [0; 16_384];
            let length = self.stream.read(&mut buffer)?;
            if length == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.owed.extend_from_slice(&buffer[..length]);
        }
        while !self.owed.is_empty() {
            let written = self.stream.write(&self.owed)?;
            self.owed.drain(..written);
        }
        Ok(())
    }
}
