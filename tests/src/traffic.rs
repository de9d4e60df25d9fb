//! Continuous traffic: one socket that keeps asking a server, while a test changes the world around it.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{Ns, PATIENCE, Seen, client};

/// Between two questions.
const PACE: Duration = Duration::from_millis(5);

/// A client that sends datagrams to one server from one port; it goes on until it is dropped.
#[derive(Debug)]
pub struct Asking {
    to: SocketAddr,
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Seen>>>,
    thread: Option<JoinHandle<()>>,
}

impl Asking {
    /// Starts to ask, and waits for the first answer.
    pub fn start(ns: &Ns, to: SocketAddr) -> Self {
        let socket = ns.run(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any).expect("a socket")
        });
        socket.set_read_timeout(Some(PACE)).expect("a timeout");
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = std::thread::spawn({
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            move || ask(&socket, to, &stop, &answers)
        });
        let asking = Self { to, stop, answers, thread: Some(thread) };
        asking.until("the first answer", |_| true);
        asking
    }

    /// Waits for an answer, from now on, of the wanted kind.
    pub fn until(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        self.answers.lock().expect("answers").clear();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = self.answers.lock().expect("answers").iter().find(|seen| wanted(seen)) {
                return seen.clone();
            }
            let last = self.answers.lock().expect("answers").last().cloned();
            assert!(
                Instant::now() < end,
                "asking {}: {what}: not in time; the last answer: {last:?}",
                self.to
            );
            std::thread::sleep(PACE);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ask(socket: &UdpSocket, to: SocketAddr, stop: &AtomicBool, answers: &Mutex<Vec<Seen>>) {
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        // Without a route, or refused for a moment: the next one may go.
        let _ = socket.send_to(b"who?", to);
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let seen = client::parse(&String::from_utf8_lossy(&buffer[..length]));
                answers.lock().expect("answers").push(seen);
                std::thread::sleep(PACE);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => std::thread::sleep(PACE),
        }
    }
}
