//! One rtnetlink socket: requests one after the other, each answered in time or failed.
//!
//! A dump that the kernel marks as disturbed (`NLM_F_DUMP_INTR`) is taken again: links may be missing from it or appear
//! twice, and whoever sweeps by it deletes the wrong ones.

use std::{io, time::Duration};

use futures_util::StreamExt;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
        NetlinkMessage, NetlinkPayload, NlasIterator,
    },
    packet_route::RouteNetlinkMessage,
    proto::{self, ConnectionHandle, sys::SocketAddr},
    sys::{AsyncSocket, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::sync::Mutex;

use super::Error;
use crate::netns::Netns;

/// Longest wait for a message of the kernel's: it answers from memory, once whoever has the rtnl lock gives it back. To take a few busy namespaces
/// down takes the kernel seconds, during which everybody waits.
const RECEIVE: Duration = Duration::from_secs(30);
/// Between tries while an abandoned dump is read to its end.
const PAUSE: Duration = Duration::from_millis(5);
/// A dump disturbed this often is given up.
const DUMP_TRIES: usize = 10;
/// `NLMSGERR_ATTR_MSG` (linux/netlink.h): the reason in words.
const REASON: u16 = 1;
const HEADER: usize = 16;

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

pub(super) struct Socket {
    // Held from request to last answer: the kernel refuses a second dump on one socket.
    handle: Mutex<ConnectionHandle<RouteNetlinkMessage>>,
    netns: Netns,
}

impl Socket {
    /// Opens a socket in a namespace; the descriptor belongs to it from then on, whoever uses it.
    pub(super) async fn open(netns: &Netns) -> Result<Self, Error> {
        Ok(Self { handle: Mutex::new(connect(netns).await?), netns: netns.clone() })
    }

    /// Sends one request and waits for the kernel's acknowledgement.
    pub(super) async fn send(
        &self,
        doing: &str,
        mode: Mode,
        message: RouteNetlinkMessage,
    ) -> Result<(), Error> {
        self.exchange(doing, vec![request(message, mode.flags() | NLM_F_ACK)]).await.map(drop)
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
        self.exchange(doing, requests).await.map(drop)
    }

    /// Reads one object.
    pub(super) async fn get(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let answers = self.exchange(doing, vec![request(message, NLM_F_ACK)]).await?;
        Ok(answers.into_iter().next())
    }

    /// Reads every object the message selects, undisturbed.
    ///
    /// # Errors
    /// `is_interrupted` when it was disturbed ten times in a row.
    pub(super) async fn dump(
        &self,
        doing: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut tries = 1;
        loop {
            match self.exchange(doing, vec![request(message.clone(), NLM_F_DUMP)]).await {
                Err(error) if error.is_interrupted() && tries < DUMP_TRIES => tries += 1,
                // A dump that nobody waits for any more is still being read.
                Err(error) if error.errno() == Some(libc::EBUSY) && tries < DUMP_TRIES => {
                    tokio::time::sleep(PAUSE).await;
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    async fn exchange(
        &self,
        doing: &str,
        requests: Vec<NetlinkMessage<RouteNetlinkMessage>>,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let failed = |source| Error::kernel(doing, source);
        let expected = requests.len();
        let mut handle = self.handle.lock().await;
        let sent = handle.request_batch(requests.clone(), SocketAddr::new(0, 0));
        let mut answers = if let Ok(answers) = sent {
            answers.left_stream()
        } else {
            // The connection ended with its socket, on an error such as ENOMEM.
            *handle = connect(&self.netns).await?;
            let again = handle.request_batch(requests, SocketAddr::new(0, 0));
            again.map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))?.right_stream()
        };
        let mut outcome = Outcome::default();
        while let Some(answer) = tokio::time::timeout(RECEIVE, answers.next())
            .await
            .map_err(|_| failed(io::Error::new(io::ErrorKind::TimedOut, "no answer from the kernel")))?
        {
            outcome.take(doing, answer);
        }
        match outcome.failure {
            Some(failure) => Err(failure),
            None if outcome.finished < expected => Err(failed(io::ErrorKind::UnexpectedEof.into())),
            None if outcome.disturbed => {
                Err(failed(io::Error::new(io::ErrorKind::Interrupted, "the table changed while it was read")))
            }
            None => Ok(outcome.objects),
        }
    }
}

/// What the answers so far say.
#[derive(Default)]
struct Outcome {
    objects: Vec<RouteNetlinkMessage>,
    failure: Option<Error>,
    /// Requests that got their last answer.
    finished: usize,
    disturbed: bool,
}

impl Outcome {
    fn take(&mut self, doing: &str, answer: NetlinkMessage<RouteNetlinkMessage>) {
        self.disturbed |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        let failure = match answer.payload {
            NetlinkPayload::InnerMessage(object) => return self.objects.push(object),
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

/// Opens a connection inside a namespace and lets it run on this runtime until its handle is gone.
async fn connect(netns: &Netns) -> Result<ConnectionHandle<RouteNetlinkMessage>, Error> {
    let runtime = tokio::runtime::Handle::current();
    let opened = netns.run_in(move || {
        let _guard = runtime.enter();
        let (mut connection, handle, _) = proto::new_connection::<RouteNetlinkMessage>(NETLINK_ROUTE)?;
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let socket = AsyncSocket::socket_ref(connection.socket_mut());
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok((connection, handle))
    });
    let (connection, handle): (proto::Connection<_, TokioSocket>, _) =
        opened.await?.map_err(|source| Error::kernel("open a route netlink socket", source))?;
    tokio::spawn(connection);
    Ok(handle)
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
