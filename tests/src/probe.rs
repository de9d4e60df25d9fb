//! Continuous probes (reliability 7.2): sequence-stamped streams and datagrams, new connections, and an attacker who knocks at what is closed, all
//! of them while something happens to netd.
//!
//! A probe asks and waits for the answer before it asks again: a machine that is slow makes it slower, and loses nothing. What it reports as lost
//! was given [`PATIENCE`].

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{Ns, PATIENCE, Proto, Stream, at, client, eventually};

/// Between two questions of an established flow.
const PACE: Duration = Duration::from_millis(10);
/// Between two new connections: what they leave in the tables is to stay far below their size.
const NEW_PACE: Duration = Duration::from_millis(50);
/// Between two volleys of an attacker.
const ATTACK_PACE: Duration = Duration::from_millis(40);
/// Connections that a probe keeps at most.
const MOST: usize = 400;
/// What an attacker's datagrams say.
const KNOCK: &[u8] = b"let me in";
/// A probe ends after this many faults: each may take [`PATIENCE`].
const ENOUGH: u64 = 3;

/// What a probe does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stamped messages on one connection.
    Stream,
    /// Stamped datagrams of one flow.
    Datagrams,
    /// A new connection and a new flow of datagrams each time.
    New,
    /// A new connection each time; each stays open, and is asked once more in the end.
    Connections,
}

/// What a probe has seen.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Who asked whom, and how.
    pub name: String,
    /// Questions that were answered.
    pub answered: u64,
    /// Segments and datagrams that did not arrive, or whose answer did not.
    pub lost: u64,
    /// Connections that were reset, refused or not possible.
    pub reset: u64,
    /// Answers that were not the one waited for.
    pub odd: u64,
    /// The longest time between two answers.
    pub gap: Duration,
    /// The first fault in words.
    pub first: Option<String>,
}

impl Report {
    /// Whether nothing was lost, reset or out of order.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.reset == 0 && self.odd == 0
    }

    fn fault(&mut self, error: &io::Error) {
        match error.kind() {
            ErrorKind::InvalidData => self.odd += 1,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.lost += 1,
            _ => self.reset += 1,
        }
        self.first.get_or_insert_with(|| format!("question {}: {error}", self.answered));
    }

    const fn faults(&self) -> u64 {
        self.lost + self.reset + self.odd
    }
}

/// A client at work.
#[derive(Debug)]
pub struct Probe {
    name: String,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<Report>>,
}

impl Probe {
    /// Starts to ask a [`crate::Server`], and waits for the first answers.
    pub fn start(ns: &Ns, kind: Kind, to: SocketAddr) -> Self {
        let name = format!("{kind:?} {} to {to}", ns.name());
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let work = Work {
            stop: Arc::clone(&stop),
            answered: Arc::clone(&answered),
            last: Instant::now(),
            report: Report { name: name.clone(), ..Report::default() },
        };
        let thread = match kind {
            Kind::Stream => {
                let (stream, _) = ns.connect_stream(to);
                stream.patience(PATIENCE);
                thread::spawn(move || work.stream(stream))
            }
            Kind::Datagrams => {
                let socket = ns.run(|| connected(to)).unwrap_or_else(|e| panic!("{name}: {e}"));
                thread::spawn(move || work.datagrams(&socket))
            }
            Kind::New | Kind::Connections => {
                let ns = ns.clone();
                thread::spawn(move || {
                    ns.run_here();
                    if kind == Kind::New { work.anew(to) } else { work.connections(to) }
                })
            }
        };
        let probe = Self { name, stop, answered, thread: Some(thread) };
        probe.beat(3);
        probe
    }

    /// Waits for this many more answers, or for the end of the probe.
    pub fn beat(&self, more: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        eventually(&format!("{more} answers: {}", self.name), || {
            self.answered.load(Ordering::Relaxed) >= goal
                || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
        });
    }

    /// Ends it.
    pub fn finish(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is finished once");
        thread.join().unwrap_or_else(|_| panic!("{} panicked", self.name))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a probe's thread knows.
struct Work {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    last: Instant,
    report: Report,
}

impl Work {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.report.faults() < ENOUGH
    }

    fn answer(&mut self) {
        self.report.gap = self.report.gap.max(self.last.elapsed());
        self.last = Instant::now();
        self.report.answered += 1;
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn stream(mut self, mut stream: Stream) -> Report {
        while self.goes_on() {
            match stream.echo(&self.report.answered.to_be_bytes()) {
                Ok(()) => self.answer(),
                Err(error) => {
                    self.report.fault(&error);
                    break; // a stream has no second chance
                }
            }
            thread::sleep(PACE);
        }
        self.report.lost += u64::from(stream.lost());
        self.report
    }

    fn datagrams(mut self, socket: &UdpSocket) -> Report {
        let mut stamp = 0_u64;
        while self.goes_on() {
            stamp += 1;
            match answer(socket, &stamp.to_be_bytes()) {
                Ok(()) => self.answer(),
                Err(error) => self.report.fault(&error),
            }
            thread::sleep(PACE);
        }
        self.report
    }

    fn anew(mut self, to: SocketAddr) -> Report {
        while self.goes_on() {
            for proto in Proto::BOTH {
                let answer = match proto {
                    Proto::Tcp => greeted(to).map(drop),
                    Proto::Udp => connected(to).and_then(|socket| answer(&socket, b"new")),
                };
                match answer {
                    Ok(()) => self.answer(),
                    Err(error) => self.report.fault(&error),
                }
            }
            thread::sleep(NEW_PACE);
        }
        self.report
    }
}

impl Work {
    fn connections(mut self, to: SocketAddr) -> Report {
        let mut kept = Vec::new();
        while self.goes_on() && kept.len() < MOST {
            match greeted(to) {
                Ok(stream) => {
                    kept.push(stream);
                    self.answer();
                }
                Err(error) => self.report.fault(&error),
            }
            thread::sleep(NEW_PACE);
        }
        while self.goes_on() {
            self.answer();
            thread::sleep(NEW_PACE);
        }
        for stream in &mut kept {
            let mut back = [0; 4];
            let echoed = stream.write_all(b"more").and_then(|()| stream.read_exact(&mut back));
            if let Err(error) = echoed {
                self.report.fault(&error);
            }
        }
        self.report
    }
}

fn any(of: SocketAddr) -> SocketAddr {
    let any = if of.is_ipv4() { crate::Family::V4.any() } else { crate::Family::V6.any() };
    at(any, 0)
}

/// A connected socket of the calling thread's namespace: it learns of ICMP errors.
fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(any(to))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends a datagram and takes the answer to it.
fn answer(socket: &UdpSocket, question: &[u8]) -> io::Result<()> {
    let mut buffer = [0; 256];
    socket.send(question)?;
    let length = socket.recv(&mut buffer)?;
    if buffer[..length].ends_with(question) { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Opens a connection and reads the server's first line, and no more.
fn greeted(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
    }
    Ok(stream)
}

/// Who must not be reached: counts every knock that arrives.
#[derive(Debug)]
pub struct Victim {
    hits: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Victim {
    /// Listens on a port of a namespace, TCP and UDP, both families.
    pub fn start(ns: &Ns, port: u16) -> Self {
        let address = at(crate::Family::V6.any(), port);
        let (datagrams, listener) = ns.run(|| {
            let datagrams = UdpSocket::bind(address).expect("the victim's port");
            datagrams.set_read_timeout(Some(ATTACK_PACE)).expect("a timeout");
            let listener = TcpListener::bind(address).expect("the victim's port");
            listener.set_nonblocking(true).expect("a listener that does not wait");
            (datagrams, listener)
        });
        let (hits, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, ends) = (Arc::clone(&hits), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !ends.load(Ordering::Relaxed) {
                let knocks = datagrams.recv(&mut buffer).is_ok_and(|length| buffer[..length] == *KNOCK);
                let opens = listener.accept().is_ok();
                seen.fetch_add(u64::from(knocks) + u64::from(opens), Ordering::Relaxed);
            }
        });
        Self { hits, stop, threads: vec![thread] }
    }

    /// Knocks that have arrived so far.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// The positive control: who may come is heard, by datagram and by connection.
    pub fn hears(&self, neighbour: &Ns, to: SocketAddr) {
        let before = self.hits();
        let attacker = Attacker::start(neighbour, to);
        eventually(&format!("the victim to hear {} at {to}", neighbour.name()), || self.hits() > before + 1);
        drop(attacker);
        // What is under way still arrives; a connection that is accepted was complete.
        let mut quiet = (Instant::now(), self.hits());
        eventually("the control to be over", || {
            if self.hits() != quiet.1 {
                quiet = (Instant::now(), self.hits());
            }
            quiet.0.elapsed() > client::SILENCE
        });
        self.hits.store(0, Ordering::Relaxed);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Who knocks at a closed door without a pause, by datagrams and by connections, until it is dropped.
#[derive(Debug)]
pub struct Attacker {
    knocks: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Attacker {
    /// Starts to knock.
    pub fn start(ns: &Ns, to: SocketAddr) -> Self {
        let (knocks, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends, ns) = (Arc::clone(&knocks), Arc::clone(&stop), ns.clone());
        let thread = thread::spawn(move || {
            ns.run_here();
            let socket = UdpSocket::bind(any(to)).expect("a socket");
            while !ends.load(Ordering::Relaxed) {
                for _ in 0..2 {
                    // An ICMP error of the datagram before is not this one's.
                    let _ = socket.send_to(KNOCK, to);
                }
                let _ = client::connect(to, None, Duration::from_millis(1));
                count.fetch_add(3, Ordering::Relaxed);
                thread::sleep(ATTACK_PACE);
            }
        });
        Self { knocks, stop, thread: Some(thread) }
    }

    /// Knocks so far.
    pub fn knocks(&self) -> u64 {
        self.knocks.load(Ordering::Relaxed)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
