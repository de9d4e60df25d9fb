//! Listing and ending other programs' sockets (`sock_diag(7)`).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// Both families that a socket may be of.
pub(super) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];
/// Those in which a socket has a peer; a connected UDP socket is "established".
const CONNECTED: StateFlags = StateFlags::ESTABLISHED
    .union(StateFlags::SYN_SENT)
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2)
    .union(StateFlags::CLOSE_WAIT);

/// A socket that asks about sockets, one question at a time.
pub(super) struct SockDiag(Socket);

impl SockDiag {
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Lists the connected sockets of a family and protocol.
    pub(super) fn connected(&self, family: u8, protocol: u8) -> io::Result<Vec<SocketId>> {
        let everywhere = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        let request = SockDiagMessage::InetRequest(request(family, protocol, CONNECTED, everywhere));
        let answers = self.ask(NLM_F_DUMP, request)?;
        let ids = answers.into_iter().filter_map(|answer| match answer {
            SockDiagMessage::InetResponse(socket) => Some(socket.header.socket_id),
            _ => None,
        });
        Ok(ids.collect())
    }

    /// Ends a socket; whoever has it gets ECONNABORTED (`SOCK_DESTROY`, kernel 4.9).
    pub(super) fn end(&self, family: u8, protocol: u8, socket: &SocketId) -> io::Result<()> {
        let request = request(family, protocol, StateFlags::all(), socket.clone());
        self.ask(NLM_F_ACK, SockDiagDestroy::new(SockDiagMessage::InetRequest(request))).map(drop)
    }

    /// Sends a request and reads its answers up to the kernel's last word.
    fn ask<M: NetlinkSerializable + NetlinkDeserializable>(
        &self,
        flags: u16,
        message: M,
    ) -> io::Result<Vec<M>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let mut answers = Vec::new();
        while !read(&self.0.recv_from_full()?.0, &mut answers)? {}
        Ok(answers)
    }
}

/// Reads the messages of a datagram. Whether the last word was among them.
fn read<M: NetlinkDeserializable>(mut datagram: &[u8], answers: &mut Vec<M>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<M>::deserialize(datagram).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            NetlinkPayload::Error(error) => {
                return if error.code.is_none() { Ok(true) } else { Err(error.to_io()) };
            }
            NetlinkPayload::Done(_) => return Ok(true),
            _ => {}
        }
        let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn request(family: u8, protocol: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id }
}
