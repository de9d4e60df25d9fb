//! One rtnetlink socket: requests one after the other, each answered in time or failed.
//!
//! A dump that the kernel marks as disturbed (`NLM_F_DUMP_INTR`) is taken again: links may be missing from it or appear
//! twice, and whoever sweeps by it deletes the wrong ones.

use std::{
    io,
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
        NetlinkMessage, NetlinkPayload, NlasIterator,
    },
    packet_route::RouteNetlinkMessage,
    sys::{self, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::sync::Mutex;

use super::Error;
use crate::netns::Netns;

/// Longest wait for a message of the kernel's: it answers from memory, once whoever has the rtnl lock gives it back. To take a few busy namespaces
/// down takes the kernel seconds, during which everybody waits.
const RECEIVE: Duration = Duration::from_secs(30);
/// A dump disturbed this often is given up.
const DUMP_TRIES: usize = 10;
/// Longest datagram of the kernel's: a piece of a dump has 32 KiB, and one link with many virtual functions may take more.
const LONGEST: usize = 64 * 1024;
/// `NLMSGERR_ATTR_MSG` (linux/netlink.h): the reason in words.
const REASON: u16 = 1;
/// `struct nlmsghdr`: its length, and the first type that is not netlink's own (`NLMSG_MIN_TYPE`).
const HEADER: usize = 16;
const FIRST_OBJECT: u16 = 16;
/// `NLMSG_ALIGNTO` (linux/netlink.h).
const ALIGNMENT: usize = 4;

/// What a request does when the object exists or does not.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    /// Fails when it exists.
    Create,
    /// Makes it or puts it in the other one's place.
    Replace,
    /// Changes or deletes it.
    Change,
}

impl Mode {
    const fn flags(self) -> u16 {
        match self {
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Change => 0,
        }
    }
}

/// Requests and answers without a task of their own in between: the kernel works a request off within `sendto` and its answer is there when that
/// returns, so that waiting for it in an event loop would cost several switches between threads, and take ten times as long as the answer.
pub(super) struct Socket {
    /// Held from request to last answer: the kernel refuses a second dump on one socket. None after a failure, because answers may be left in it.
    connection: Mutex<Option<Connection>>,
    netns: Netns,
}

impl Socket {
    /// Opens a socket in a namespace; the descriptor belongs to it from then on, whoever uses it.
    pub(super) async fn open(netns: &Netns) -> Result<Self, Error> {
        Ok(Self { connection: Mutex::new(Some(Connection::open(netns).await?)), netns: netns.clone() })
    }

    /// Sends one request and waits for the kernel's acknowledgement.
    pub(super) async fn send(
        &self,
        doing: &str,
        mode: Mode,
        message: RouteNetlinkMessage,
    ) -> Result<(), Error> {
        self.exchange(doing, vec![request(message, mode.flags() | NLM_F_ACK)], EVERY, &Some).await.map(drop)
    }

    /// Sends requests as one datagram, which the kernel works off within the same system call: no crash of ours comes
    /// between them. The later ones are tried even when an earlier one fails; the first failure is returned.
    pub(super) async fn send_together(
        &self,
        doing: &str,
        requests: Vec<(Mode, RouteNetlinkMessage)>,
    ) -> Result<(), Error> {
        let requests =
            requests.into_iter().map(|(mode, message)| request(message, mode.flags() | NLM_F_ACK)).collect();
        self.exchange(doing, requests, EVERY, &Some).await.map(drop)
    }

    /// Reads one object.
    pub(super) async fn get(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let answers = self.exchange(doing, vec![request(message, NLM_F_ACK)], EVERY, &Some).await?;
        Ok(answers.into_iter().next())
    }

    /// Reads of every object the message selects what `keep` takes of it, undisturbed. A whole message takes a multiple of the memory.
    ///
    /// # Errors
    /// `is_interrupted` when it was disturbed ten times in a row.
    pub(super) async fn dump<T>(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
        keep: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.dump_of(doing, message, EVERY, keep).await
    }

    /// The same without the objects that are not `wanted`, by their bytes behind the netlink header: to take an object apart costs more than the
    /// kernel's telling of it.
    pub(super) async fn dump_of<T>(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
        wanted: fn(&[u8]) -> bool,
        keep: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        undisturbed(|| self.exchange(doing, vec![request(message.clone(), NLM_F_DUMP)], wanted, &keep)).await
    }

    async fn exchange<T>(
        &self,
        doing: &str,
        requests: Vec<NetlinkMessage<RouteNetlinkMessage>>,
        wanted: fn(&[u8]) -> bool,
        keep: &impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut slot = self.connection.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => Connection::open(&self.netns).await?,
        };
        let outcome = connection
            .exchange(doing, requests, wanted, keep)
            .map_err(|source| Error::kernel(doing, source))?;
        *slot = Some(connection);
        outcome.result(doing)
    }
}

/// Takes a list again as long as it is disturbed, [`DUMP_TRIES`] times at most.
async fn undisturbed<T, F: Future<Output = Result<T, Error>>>(
    mut take: impl FnMut() -> F,
) -> Result<T, Error> {
    let mut tries = 1;
    loop {
        match take().await {
            Err(error) if error.is_interrupted() && tries < DUMP_TRIES => tries += 1,
            other => return other,
        }
    }
}

/// A socket, and the number of the last request sent on it.
struct Connection {
    socket: sys::Socket,
    sequence: u32,
}

impl Connection {
    /// Opens a connection inside a namespace.
    async fn open(netns: &Netns) -> Result<Self, Error> {
        let open = || -> io::Result<sys::Socket> {
            let socket = sys::Socket::new(NETLINK_ROUTE)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            socket.set_netlink_get_strict_chk(true)?;
            let seconds = i64::try_from(RECEIVE.as_secs()).unwrap_or(i64::MAX);
            setsockopt(&socket, ReceiveTimeout, &TimeVal::new(seconds, 0))?;
            Ok(socket)
        };
        let opened = netns.run_in(open).await?;
        let socket = opened.map_err(|source| Error::kernel("open a route netlink socket", source))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends requests as one datagram and takes every answer.
    fn exchange<T>(
        &mut self,
        doing: &str,
        requests: Vec<NetlinkMessage<RouteNetlinkMessage>>,
        wanted: fn(&[u8]) -> bool,
        keep: &impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Outcome<T>> {
        let (first, expected) = (self.sequence.wrapping_add(1), requests.len());
        let mut datagram = Vec::new();
        for mut request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.header.sequence_number = self.sequence;
            request.finalize();
            let start = datagram.len();
            datagram.resize(start + request.buffer_len().next_multiple_of(ALIGNMENT), 0);
            request.serialize(&mut datagram[start..]);
        }
        self.socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
        let mut outcome = Outcome::default();
        let mut buffer = Vec::with_capacity(LONGEST);
        let deadline = Instant::now() + RECEIVE;
        while outcome.finished < expected {
            self.receive(&mut buffer, deadline)?;
            for answer in messages(&buffer, wanted) {
                let number = answer.header.sequence_number.wrapping_sub(first);
                if usize::try_from(number).is_ok_and(|number| number < expected) {
                    outcome.take(doing, answer, keep);
                }
            }
        }
        Ok(outcome)
    }

    /// Receives one datagram of the kernel's. In a sandbox's namespace somebody else may send to this socket, too.
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Instant) -> io::Result<()> {
        loop {
            buffer.clear();
            match self.socket.recv_from(buffer, libc::MSG_TRUNC) {
                Ok((length, _)) if length > buffer.len() => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the kernel's answer is too long",
                    ));
                }
                Ok((_, sender)) if sender.port_number() == 0 => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(_) | Err(_) if Instant::now() > deadline => break,
                Ok(_) | Err(_) => {}
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from the kernel"))
    }
}

/// Wants every object.
const EVERY: fn(&[u8]) -> bool = |_| true;

/// Returns the messages of a datagram but for objects that are not wanted; one that makes no sense is passed over.
fn messages(
    datagram: &[u8],
    wanted: fn(&[u8]) -> bool,
) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let message = rest.get(..length.max(HEADER))?;
        rest = rest.get(length.max(HEADER).next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(message)
    })
    .filter(move |message| is_control(message) || wanted(&message[HEADER..]))
    .filter_map(|message| {
        NetlinkMessage::deserialize(message)
            .inspect_err(|error| tracing::debug!(%error, "the kernel's message was not understood"))
            .ok()
    })
}

/// Whether a message is not an object of a whole list: an acknowledgement, an end, or part of a list that was disturbed.
fn is_control(message: &[u8]) -> bool {
    let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
    half(4) < FIRST_OBJECT || half(6) & NLM_F_DUMP_INTR != 0
}

/// What the answers so far say.
struct Outcome<T> {
    objects: Vec<T>,
    failure: Option<Error>,
    /// Requests that got their last answer.
    finished: usize,
    disturbed: bool,
}

impl<T> Default for Outcome<T> {
    fn default() -> Self {
        Self { objects: Vec::new(), failure: None, finished: 0, disturbed: false }
    }
}

impl<T> Outcome<T> {
    /// Returns what was kept of the objects that the kernel told of.
    fn result(self, doing: &str) -> Result<Vec<T>, Error> {
        let failed = |source| Err(Error::kernel(doing, source));
        match self.failure {
            Some(failure) => Err(failure),
            None if self.disturbed => {
                failed(io::Error::new(io::ErrorKind::Interrupted, "the table changed while it was read"))
            }
            None => Ok(self.objects),
        }
    }

    fn take(
        &mut self,
        doing: &str,
        answer: NetlinkMessage<RouteNetlinkMessage>,
        keep: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) {
        self.disturbed |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        let failure = match answer.payload {
            NetlinkPayload::InnerMessage(object) => return self.objects.extend(keep(object)),
            NetlinkPayload::Error(error) if error.code.is_none() => None,
            NetlinkPayload::Error(error) => Some(Error::kernel(
                match reason(&error.header) {
                    Some(reason) => format!("{doing} ({reason})"),
                    None => doing.to_owned(),
                },
                error.to_io(),
            )),
            NetlinkPayload::Done(done) if done.code < 0 => {
                Some(Error::kernel(doing, io::Error::from_raw_os_error(-done.code)))
            }
            NetlinkPayload::Done(_) => None,
            _ => return,
        };
        self.finished += 1;
        self.failure = self.failure.take().or(failure);
    }
}

fn request(message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request
}

/// Returns the kernel's reason from an extended acknowledgement: attributes behind the request's header.
fn reason(acknowledgement: &[u8]) -> Option<String> {
    let attributes = NlasIterator::new(acknowledgement.get(HEADER..)?);
    let reason = attributes.flatten().find(|attribute| attribute.kind() == REASON)?;
    let text = reason.value().strip_suffix(&[0]).unwrap_or(reason.value());
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel sends of a list: two links and the end, one of them with this flag.
    fn list(disturbed: Option<usize>) -> Outcome<RouteNetlinkMessage> {
        let outcome = list_of(disturbed, EVERY, Some);
        assert_eq!((outcome.objects.len(), outcome.finished), (2, 1));
        outcome
    }

    fn list_of<T>(
        disturbed: Option<usize>,
        wanted: fn(&[u8]) -> bool,
        keep: fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Outcome<T> {
        let mut outcome = Outcome::default();
        for number in 0..3 {
            let flags = if disturbed == Some(number) { NLM_F_DUMP_INTR } else { 0 };
            // struct nlmsghdr, then a struct ifinfomsg, or the end's error number (linux/netlink.h).
            let (kind, body): (u16, &[u8]) = if number < 2 { (16, &[0; 16]) } else { (3, &[0; 4]) };
            let mut bytes = u32::try_from(HEADER + body.len()).expect("short").to_ne_bytes().to_vec();
            bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
            bytes.extend([0; 8]);
            bytes.extend(body);
            messages(&bytes, wanted).for_each(|message| outcome.take("list links", message, keep));
        }
        outcome
    }

    #[test]
    fn a_list_is_whole_only_if_no_part_of_it_says_otherwise() {
        assert_eq!(list(None).result("list links").expect("whole").len(), 2);
        for part in 0..3 {
            let error = list(Some(part)).result("list links").expect_err("disturbed");
            assert!(error.is_interrupted(), "part {part}: {error:?}");
        }
    }

    #[test]
    fn what_is_not_wanted_is_left_out_and_neither_the_end_nor_a_disturbance_is() {
        for disturbed in [None, Some(0), Some(1), Some(2)] {
            let outcome = list_of(disturbed, |_| false, Some);
            assert_eq!((outcome.finished, outcome.disturbed), (1, disturbed.is_some()), "{disturbed:?}");
            assert!(outcome.objects.len() <= 1, "{disturbed:?}");
        }
        let all = list_of(None, |object| object.len() == 16, Some).result("list links").expect("whole");
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn of_an_object_only_what_is_kept_stays_in_memory() {
        let number = |object| match object {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        };
        assert_eq!(list_of(None, EVERY, number).result("list links").expect("whole"), [0, 0]);
        let none = list_of(None, EVERY, |_| None::<u32>);
        assert_eq!((none.finished, none.result("list links").expect("whole")), (1, Vec::new()));
    }

    #[tokio::test]
    async fn a_disturbed_list_is_taken_again_and_in_the_end_refused() {
        for (disturbed, calls, whole) in
            [(0, 1, true), (3, 4, true), (9, 10, true), (10, 10, false), (99, 10, false)]
        {
            let mut taken = 0;
            let result = undisturbed(|| {
                taken += 1;
                std::future::ready(list((taken <= disturbed).then_some(2)).result("list links"))
            });
            let result = result.await;
            assert_eq!((taken, result.is_ok()), (calls, whole), "{disturbed} disturbed ones");
            assert!(result.is_ok_and(|list| list.len() == 2) == whole, "whole, or nothing");
        }
        let mut taken = 0;
        let refused = || {
            taken += 1;
            std::future::ready(Err::<(), _>(Error::kernel(
                "list links",
                io::ErrorKind::PermissionDenied.into(),
            )))
        };
        undisturbed(refused).await.expect_err("another error");
        assert_eq!(taken, 1, "only what is disturbed is taken again");
    }
}
