//! `from_netkit`: what a sandbox sends by a netkit, where it sends it. A short way past the host's receive queue for flows to the outside.
//!
//! Everything else takes that queue to `from_endpoint`, which judges it as a veth's. Whatever this program passes on is looked at there, so that it
//! grants nothing by leaving a packet alone.

use super::Decision;
use crate::{
    conntrack::{self, Moment, own},
    env::{Env, Packet},
    family::Ip,
    maps::{endpoint_flags, flow_flags},
    net::{Be16, LOOPBACK_ZONE},
    policy::has,
    verdict::DropReason,
    wire::{Headers, ethernet},
};

/// Smaller values of the field are lengths of IEEE 802.3 frames (RFC 7042 Appendix B.1).
const FIRST_ETHERTYPE: u16 = 0x600;

/// Fails unless a frame is of the type that its sender says. A veth reads the type in the frame again (`eth_type_trans`); a netkit believes whoever
/// sends, so that a packet socket could have IP pass for anything else.
///
/// # Errors
/// `Malformed`.
#[inline(always)]
pub fn check_type<P: Packet>(packet: &P, claimed: Be16) -> Result<(), DropReason> {
    let written = Be16::from_wire(packet.load(ethernet::ETHERTYPE)?);
    let both_lengths = u16::from(written) < FIRST_ETHERTYPE && u16::from(claimed) < FIRST_ETHERTYPE;
    if written == claimed || both_lengths { Ok(()) } else { Err(DropReason::Malformed) }
}

/// The ordinary packet of an established flow to the outside. None: it takes the receive queue.
///
/// TCP and UDP alone: at the uplink a packet that was never received looks like the host's own, whose other protocols are kept in mind there
/// ([`conntrack::own`]).
#[inline(always)]
pub fn from_netkit<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &mut P) -> Option<Decision<F>> {
    if packet.has_vlan_tag() {
        return None;
    }
    let headers = Headers::<F>::read_plain(packet)?;
    if !own::is_seen(headers.proto) || headers.is_turning() {
        return None;
    }
    let ifindex = packet.ifindex();
    if !env.endpoint(ifindex).is_some_and(|endpoint| has(endpoint.flags, endpoint_flags::ACTIVE)) {
        return None;
    }
    let config = env.config()?;
    let key = headers.tuple(ifindex);
    // Into a sandbox leads `bpf_redirect_peer` alone, which the kernel takes from where packets are received (`skb_do_redirect`).
    let leaves = {
        let flow = env.flow(&key)?;
        flow.flags & flow_flags::TO_SANDBOX == 0 && flow.out != LOOPBACK_ZONE
    };
    if !leaves {
        return None;
    }
    let moment = Moment { epoch: config.epoch, now: env.now() };
    conntrack::forward(env, packet, &headers, &key, moment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakePacket, ifindex};

    #[test]
    fn a_frame_is_of_the_type_that_its_sender_says() {
        let typed = |written: [u8; 2]| {
            let mut bytes = std::vec![0_u8; 60];
            bytes[12..14].copy_from_slice(&written);
            FakePacket::new(bytes, ifindex::A1)
        };
        let (ip, arp, lldp) = ([0x08, 0], [0x08, 0x06], [0x88, 0xcc]);
        for (written, claimed, same) in [
            (ip, ip, true),
            (arp, arp, true),
            (ip, lldp, false),
            (ip, arp, false),
            (arp, ip, false),
            ([0, 38], [0, 4], true), // a length, and ETH_P_802_2
            (ip, [0, 4], false),
            ([0, 38], ip, false),
        ] {
            let checked = check_type(&typed(written), Be16::from_wire(claimed));
            assert_eq!(checked.is_ok(), same, "{written:?} as {claimed:?}");
        }
        let short = FakePacket::new(std::vec![0; 13], ifindex::A1);
        assert_eq!(check_type(&short, Be16::from_wire(ip)), Err(DropReason::Malformed));
    }
}
