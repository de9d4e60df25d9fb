//! What sandboxes say of the multicast groups that they belong to.

use crate::{
    env::Packet,
    family::Ip,
    wire::{
        Fragment, Headers, L4,
        l4::{self, LISTENER_REPORT},
    },
};

/// Records of a report that are read: an interface that comes up tells of three groups at most, those of its own addresses.
const RECORDS: u32 = 4;

/// Whether it is an `MLDv2` report about groups of the link alone, such as every new interface sends for its own addresses (RFC 3810 §5.2, RFC 4291 §2.7).
/// No router forwards such groups; who reads of them are switches that give a group to its members alone, which netd's bridges do not.
#[inline(always)]
pub fn is_report_of_the_link<F: Ip, P: Packet>(packet: &P, headers: &Headers<F>) -> bool {
    let is_report = F::V6 && headers.l4 == L4::Icmp && headers.icmp_type == LISTENER_REPORT;
    if !is_report || headers.fragment != Fragment::Whole {
        return false;
    }
    let Ok(count) = packet.load(headers.l4_offset + l4::LISTENER_RECORDS) else { return false };
    let count = u32::from(u16::from_be_bytes(count));
    let is_of_the_link = |number: u32| {
        let at = headers.l4_offset + l4::LISTENER_REPORT_HEADER + number * l4::LISTENER_RECORD;
        // Type, length of auxiliary data, number of sources, and the group begins.
        let record = packet.load::<6>(at);
        matches!(record, Ok([_, 0, 0, 0, 0xff, scope]) if scope & 0xf == l4::LINK_SCOPE)
    };
    (1..=RECORDS).contains(&count) && (0..RECORDS).all(|number| number >= count || is_of_the_link(number))
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;
    use crate::{
        env::Env,
        fake::{Cast as _, Fake, FakePacket, Party, ifindex, mac},
        family::V6,
        hook::{from_endpoint_decide, slow},
        maps::endpoint_flags,
        verdict::Verdict,
        wire::ethernet,
    };

    /// `ff02::1:ff00:2`, a group of whoever has an address that ends so.
    const SOLICITED: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2];
    /// `ff05::2`, a group of a site.
    const SITE: [u8; 16] = [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

    /// A record that says that a filter excludes nobody from now on: the group was joined (RFC 3810 §5.2.12).
    fn joined(group: [u8; 16]) -> Vec<u8> {
        [&[4, 0, 0, 0][..], &group].concat()
    }

    /// A frame of a1's with this report, behind a hop-by-hop header as RFC 3810 §5 wants it.
    fn report(kind: u8, count: u16, records: &[Vec<u8>]) -> FakePacket {
        let records = records.concat();
        let mut frame = [[0x33, 0x33, 0, 0, 0, 0x16], mac(Party::A1).into()].concat();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((8 + 8 + records.len() as u16).to_be_bytes());
        frame.extend([0, 1]); // hop-by-hop options are next; one hop
        frame.extend(V6::of(Party::A1).to_wire());
        frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16]);
        frame.extend([58, 0, 5, 2, 0, 0, 1, 0]); // ICMPv6 is next; a router alert, and padding
        frame.extend([kind, 0, 0, 0, 0, 0]);
        frame.extend(count.to_be_bytes());
        frame.extend(records);
        FakePacket::new(frame, ifindex::A1)
    }

    fn is_spared(packet: &FakePacket) -> bool {
        is_report_of_the_link(packet, &Headers::<V6>::read(packet).expect("readable"))
    }

    #[test]
    fn reports_of_the_links_groups_alone_are_spared() {
        let with_source = [&[4, 0, 0, 1][..], &SOLICITED, &SITE].concat();
        let with_data = [&[4, 1, 0, 0][..], &SOLICITED, &[0; 4]].concat();
        for (packet, spared) in [
            (report(143, 1, &[joined(SOLICITED)]), true),
            (report(143, 4, &vec![joined(SOLICITED); 4]), true),
            (report(143, 5, &vec![joined(SOLICITED); 5]), false),
            (report(143, 1, &[joined(SITE)]), false),
            (report(143, 2, &[joined(SOLICITED), joined(SITE)]), false),
            (report(143, 1, &[with_source]), false),
            (report(143, 1, &[with_data]), false),
            (report(143, 0, &[]), false),
            (report(143, 2, &[joined(SOLICITED)]), false), // it ends too early
            (report(130, 1, &[joined(SOLICITED)]), false), // a question
        ] {
            assert_eq!(is_spared(&packet), spared, "{packet:?}");
        }
    }

    #[test]
    fn the_ports_of_a_bridge_of_netds_own_are_spared_them() {
        let mut fake = Fake::new(10_000, 100);
        let decide =
            |fake: &Fake, mut packet| slow::<V6, _, _>(fake, &mut packet, ifindex::A1, from_endpoint_decide);
        let of_the_link = || report(143, 1, &[joined(SOLICITED)]);
        let bridge = Env::<V6>::network(&fake, 1).expect("network A").bridge;
        assert_eq!(decide(&fake, of_the_link()), Ok(Verdict::Pass), "one that somebody else made");
        fake.flag(1, endpoint_flags::OWN_BRIDGE, true);
        assert_eq!(decide(&fake, of_the_link()), Ok(Verdict::ToBridge(bridge)));
        assert_eq!(decide(&fake, report(143, 1, &[joined(SITE)])), Ok(Verdict::Pass));
        let mut forged = of_the_link();
        forged.store::<6>(ethernet::SOURCE, mac(Party::A2).into()).expect("room");
        assert!(decide(&fake, forged).is_err(), "what is checked first");
    }
}
