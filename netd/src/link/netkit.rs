//! Netkit pairs: what differs from veth pairs when they are made, and whether the kernel has them (`drivers/net/netkit.c`).

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoNetkit, LinkAttribute, LinkInfo, LinkMessage, NetkitMode, NetkitPolicy},
};

use super::{Error, Links, Mode};

/// An address that no interface can have: a group's.
const NOBODYS: [u8; 6] = [0xff; 6];

/// Returns what makes a link a netkit pair that carries Ethernet, as a bridge's port has to. What a sandbox sends is dropped as long as no
/// program is there to look at it; what the host sends passes.
pub(super) fn pair(peer: LinkMessage) -> InfoData {
    InfoData::Netkit(vec![
        InfoNetkit::Mode(NetkitMode::L2),
        InfoNetkit::Policy(NetkitPolicy::Pass),
        InfoNetkit::PeerPolicy(NetkitPolicy::Drop),
        InfoNetkit::Peer(peer),
    ])
}

impl Links {
    /// Whether the kernel has netkit devices. Asks it for one that it has to refuse, so that none is ever made: it looks for the driver first, and the
    /// driver then at the address (`netkit_validate`).
    ///
    /// # Errors
    /// The kernel's, when it answers something else.
    pub async fn has_netkit(&self) -> Result<bool, Error> {
        let mut message = LinkMessage::default();
        message.attributes.extend([
            LinkAttribute::Address(NOBODYS.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Netkit)]),
        ]);
        let asked =
            self.socket.send("ask for netkit devices", Mode::Create, RouteNetlinkMessage::NewLink(message));
        match asked.await {
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(true),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::in_new_netns;

    #[test]
    fn asking_for_netkit_makes_none() {
        in_new_netns(async || {
            let links = Links::open().await.expect("socket");
            let names = async || {
                let all = links.links().await.expect("links").into_iter();
                all.map(|link| link.name).collect::<Vec<_>>()
            };
            let before = names().await;
            let answer = links.has_netkit().await.expect("an answer");
            assert_eq!(links.has_netkit().await.expect("an answer"), answer);
            assert_eq!(names().await, before);
        });
    }
}
