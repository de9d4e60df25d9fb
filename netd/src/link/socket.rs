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

/// Longest wait for a message of the kernel's, which answers from memory.
const RECEIVE: Duration = Duration::from_secs(5);
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
}

impl Socket {
    /// Opens a socket in a namespace; the descriptor belongs to it from then on, whoever uses it.
    pub(super) async fn open(netns: &Netns) -> Result<Self, Error> {
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
        Ok(Self { handle: Mutex::new(handle) })
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
        let handle = self.handle.lock().await;
        let mut answers = handle
            .request_batch(requests, SocketAddr::new(0, 0))
            .map_err(|_| failed(io::Error::from(io::ErrorKind::BrokenPipe)))?;
        let (mut objects, mut failure, mut disturbed) = (Vec::new(), None, false);
        while let Some(answer) = tokio::time::timeout(RECEIVE, answers.next())
            .await
            .map_err(|_| failed(io::Error::new(io::ErrorKind::TimedOut, "no answer from the kernel")))?
        {
            disturbed |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(object) => objects.push(object),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    let doing = match reason(&error.header) {
                        Some(reason) => format!("{doing} ({reason})"),
                        None => doing.to_owned(),
                    };
                    failure = failure.or(Some(Error::kernel(doing, error.to_io())));
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    failure = failure.or(Some(failed(io::Error::from_raw_os_error(-done.code))));
                }
                _ => {}
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None if disturbed => {
                Err(failed(io::Error::new(io::ErrorKind::Interrupted, "the table changed while it was read")))
            }
            None => Ok(objects),
        }
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
