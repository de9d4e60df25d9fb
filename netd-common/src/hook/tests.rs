//! Rung: unit and property tests. The hooks over a fake world, every case for both families from one source.

use std::vec::Vec;

use etherparse::SlicedPacket;
use proptest::prelude::*;

use super::{
    from_endpoint_decide, from_endpoint_fast, from_uplink_decide, from_uplink_fast, slow, to_endpoint,
    to_uplink,
};
use crate::{
    env::Env,
    fake::{Cast, Fake, FakePacket, Kind, Party, Wire, ifindex, mac},
    family::{Address, V4, V6},
    maps::{Tuple, endpoint_flags},
    net::UPLINK_ZONE,
    verdict::{DropReason, Verdict},
    wire::{
        Headers,
        l4::{ACK, FIN, RST, SYN},
    },
};

/// A packet after a hook: what was decided, and its bytes.
pub(super) struct Outcome<F: Cast> {
    pub(super) decision: super::Decision<F>,
    pub(super) bytes: Vec<u8>,
}

impl<F: Cast> Outcome<F> {
    /// Returns what the packet says now, its checksums compared with full ones first.
    pub(super) fn headers(&self) -> Headers<F> {
        assert_checksums(&self.bytes);
        Headers::read(&FakePacket::new(self.bytes.clone(), 0)).expect("a readable packet")
    }
}

/// Compares every checksum with one that an independent implementation works out.
fn assert_checksums(bytes: &[u8]) {
    use etherparse::{NetSlice, TransportSlice};
    let packet = SlicedPacket::from_ethernet(bytes).expect("a well-formed packet");
    let transport = packet.transport.expect("a transport header");
    let (expected, found) = match (packet.net.expect("an IP header"), transport) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 header checksum");
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let header4 = ip.header().to_header();
                    (
                        tcp.to_header().calc_checksum_ipv4(&header4, tcp.payload()).expect("fits"),
                        tcp.checksum(),
                    )
                }
                TransportSlice::Udp(udp) => {
                    let header4 = ip.header().to_header();
                    (
                        udp.to_header().calc_checksum_ipv4(&header4, udp.payload()).expect("fits"),
                        udp.checksum(),
                    )
                }
                TransportSlice::Icmpv4(icmp) => {
                    (icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum())
                }
                other => panic!("not built here: {other:?}"),
            }
        }
        (NetSlice::Ipv6(ip), transport) => {
            let header6 = ip.header().to_header();
            match transport {
                TransportSlice::Tcp(tcp) => (
                    tcp.to_header().calc_checksum_ipv6(&header6, tcp.payload()).expect("fits"),
                    tcp.checksum(),
                ),
                TransportSlice::Udp(udp) => (
                    udp.to_header().calc_checksum_ipv6(&header6, udp.payload()).expect("fits"),
                    udp.checksum(),
                ),
                TransportSlice::Icmpv6(icmp) => {
                    let (src, dst) = (header6.source, header6.destination);
                    (icmp.icmp_type().calc_checksum(src, dst, icmp.payload()).expect("fits"), icmp.checksum())
                }
                other => panic!("not built here: {other:?}"),
            }
        }
        (NetSlice::Arp(_), _) => panic!("ARP has no transport"),
    };
    assert_eq!(expected, found, "transport checksum");
}

/// Sends a packet through `from_endpoint`, the fast part first, as the program does.
pub(super) fn leave<F: Cast>(fake: &Fake, ifindex: u32, wire: &Wire<F::Addr>) -> Outcome<F>
where
    Fake: Env<F>,
{
    let mut packet = FakePacket::new(wire.build::<F>(), ifindex);
    let decision = from_endpoint_fast::<F, _, _>(fake, &mut packet)
        .unwrap_or_else(|| slow::<F, _, _>(fake, &mut packet, ifindex, from_endpoint_decide));
    Outcome { decision, bytes: packet.bytes }
}

/// Sends a packet through `from_uplink`.
pub(super) fn arrive<F: Cast>(fake: &Fake, wire: &Wire<F::Addr>) -> Outcome<F>
where
    Fake: Env<F>,
{
    let mut packet = FakePacket::new(wire.build::<F>(), ifindex::UP0);
    let decision = from_uplink_fast::<F, _, _>(fake, &mut packet)
        .unwrap_or_else(|| slow::<F, _, _>(fake, &mut packet, UPLINK_ZONE, from_uplink_decide));
    Outcome { decision, bytes: packet.bytes }
}

pub(super) fn wire<F: Cast>(from: Party, sport: u16, to: Party, dport: u16, kind: Kind) -> Wire<F::Addr> {
    Wire { from: mac(from), src: F::of(from), dst: F::of(to), sport, dport, kind, ttl: 64 }
}

/// Returns the packet that answers what an outcome's packet says.
pub(super) fn answer<F: Cast>(to: &Headers<F>, kind: Kind) -> Wire<F::Addr> {
    let (sport, dport) = (to.dport.into(), to.sport.into());
    Wire { from: mac(Party::Remote), src: to.dst, dst: to.src, sport, dport, kind, ttl: 64 }
}

/// Runs a case in both families.
macro_rules! both_families {
    ($($(#[$meta:meta])* fn $name:ident<F>() $body:block)*) => { $(
        mod $name {
            use super::*;
            fn case<F: Cast>() where Fake: Env<F> $body
            $(#[$meta])*
            #[test]
            fn v4() { case::<V4>() }
            #[test]
            fn v6() { case::<V6>() }
        }
    )* };
}

pub(super) const SYN_ACK: u8 = SYN | ACK;
pub(super) const TCP_SYN: Kind = Kind::Tcp(SYN);

mod direct; // behind the macro that they use
mod empty;
mod hosts;
mod input;
mod netkit;
mod own;
mod quick;

both_families! {
    fn a_connection_leaves_with_the_hosts_address_and_its_replies_come_back<F>() {
        let fake = Fake::new(10_000, 1000);
        let out = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::Remote, 80, TCP_SYN));
        assert_eq!(out.decision, Ok(Verdict::ToNeighbour(ifindex::UP0, F::of(Party::Remote))));
        let sent = out.headers();
        assert_eq!((sent.src, sent.dst), (F::of(Party::Host), F::of(Party::Remote)));
        assert!((10_000..11_000).contains(&u16::from(sent.sport)), "{:?}", sent.sport);
        assert_eq!(sent.ttl, 63);
        let back = arrive::<F>(&fake, &answer::<F>(&sent, Kind::Tcp(SYN_ACK)));
        assert_eq!(back.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        let got = back.headers();
        assert_eq!((got.src, got.dst), (F::of(Party::Remote), F::of(Party::A1)));
        assert_eq!((u16::from(got.sport), u16::from(got.dport)), (80, 40_000));
    }

    fn two_sandboxes_with_one_source_port_leave_with_different_ports<F>() {
        let fake = Fake::new(10_000, 2);
        let from = |party, ifindex| {
            leave::<F>(&fake, ifindex, &wire::<F>(party, 40_000, Party::Remote, 80, Kind::Udp)).headers().sport
        };
        assert_ne!(from(Party::A1, ifindex::A1), from(Party::A2, ifindex::A2), "replies could not be told apart");
    }

    fn one_source_port_keeps_its_external_port_towards_every_destination<F>() {
        let fake = Fake::new(10_000, 1000);
        let to = |party| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 5000, party, 53, Kind::Udp)).headers().sport;
        assert_eq!(to(Party::Remote), to(Party::Remote2));
    }

    fn the_range_exhausted_for_one_destination_drops_only_new_flows<F>() {
        let fake = Fake::new(10_000, 4);
        let syn = |sport, to| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, sport, to, 80, TCP_SYN)).decision;
        for sport in 0..4 {
            assert!(matches!(syn(40_000 + sport, Party::Remote), Ok(Verdict::ToNeighbour(..))), "{sport}");
        }
        assert_eq!(syn(40_100, Party::Remote), Err(DropReason::NatExhausted));
        assert!(matches!(syn(40_101, Party::Remote2), Ok(Verdict::ToNeighbour(..))), "another destination has ports");
        let established = wire::<F>(Party::A1, 40_000, Party::Remote, 80, Kind::Tcp(ACK));
        assert!(leave::<F>(&fake, ifindex::A1, &established).decision.is_ok());
        fake.now.set(fake.now.get() + 200);
        assert!(matches!(syn(40_102, Party::Remote), Ok(Verdict::ToNeighbour(..))), "expired flows give their ports back");
    }

    fn a_published_or_listening_port_is_never_chosen<F>() {
        let mut fake = Fake::new(10_000, 3);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 10_000, Party::A2, ifindex::A2, 80);
        let (src, dst) = (F::of(Party::Remote), F::of(Party::Host));
        let socket = Tuple { src, dst, sport: 80.into(), dport: 10_001.into(), zone: 0, proto: 6, pad: [0; 3] };
        F::tables_mut(&mut fake).sockets.push(socket);
        let out = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::Remote, 80, TCP_SYN));
        assert_eq!(u16::from(out.headers().sport), 10_002);
        assert!(matches!(fake.tries.borrow()[..], [1..=64]), "the one of three ports that is free: {:?}", fake.tries);
        let next = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_001, Party::Remote, 80, TCP_SYN));
        assert_eq!(next.decision, Err(DropReason::NatExhausted));
        assert_eq!(fake.tries.borrow().len(), 1, "a flow without a port counts as dropped alone");
    }

    fn a_full_table_drops_new_flows_and_keeps_the_rest<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.capacity = 2;
        let syn = |sport| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, sport, Party::Remote, 80, TCP_SYN)).decision;
        assert!(syn(1).is_ok());
        assert_eq!(syn(2), Err(DropReason::TableFull));
        assert!(syn(1).is_ok());
        assert_eq!(F::tables(&fake).flows.borrow().len(), 2);
    }

    fn tcp_state_comes_only_from_a_lone_syn<F>() {
        let fake = Fake::new(10_000, 1000);
        for flags in [0, ACK, FIN, RST, SYN_ACK, SYN | FIN, SYN | RST, FIN | ACK] {
            let out = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::Remote, 80, Kind::Tcp(flags)));
            if flags & RST != 0 {
                assert_eq!(out.decision, Err(DropReason::CtInvalid), "flags {flags:#x}");
            } else {
                assert_eq!(out.decision, Ok(Verdict::ToSandbox(ifindex::A1)), "flags {flags:#x}");
                let answer = out.headers();
                assert_eq!((answer.src, answer.dst), (F::of(Party::Remote), F::of(Party::A1)));
                assert_eq!((u16::from(answer.sport), u16::from(answer.dport)), (80, 40_000));
                let wanted = if flags & ACK != 0 { RST } else { RST | ACK };
                assert_eq!((answer.tcp_flags, answer.tcp_header), (wanted, 20), "flags {flags:#x}");
            }
        }
        assert!(F::tables(&fake).flows.borrow().is_empty());
        let syn = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::Remote, 80, TCP_SYN));
        assert!(matches!(syn.decision, Ok(Verdict::ToNeighbour(..))), "the positive control");
    }

    fn a_closed_connection_reopens_under_the_same_port<F>() {
        let fake = Fake::new(10_000, 1000);
        let out = |flags| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::Remote, 80, Kind::Tcp(flags)));
        let first = out(SYN).headers();
        let back = |flags| arrive::<F>(&fake, &answer::<F>(&first, Kind::Tcp(flags)));
        assert!(back(SYN_ACK).decision.is_ok());
        assert!(out(ACK).decision.is_ok());
        assert!(out(FIN | ACK).decision.is_ok());
        assert!(back(FIN | ACK).decision.is_ok());
        let again = out(SYN);
        assert!(again.decision.is_ok());
        assert_eq!(again.headers().sport, first.sport);
    }

    fn a_published_port_leads_to_its_sandbox_and_shows_the_client<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A1, ifindex::A1, 80);
        let out = arrive::<F>(&fake, &wire::<F>(Party::Remote, 50_000, Party::Host, 8080, TCP_SYN));
        assert_eq!(out.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        let got = out.headers();
        assert_eq!((got.src, got.dst, u16::from(got.dport)), (F::of(Party::Remote), F::of(Party::A1), 80));
        let reply = leave::<F>(&fake, ifindex::A1, &Wire { from: mac(Party::A1), ..answer::<F>(&got, Kind::Tcp(SYN_ACK)) });
        assert_eq!(reply.decision, Ok(Verdict::ToNeighbour(ifindex::UP0, F::of(Party::Remote))));
        let sent = reply.headers();
        assert_eq!((sent.src, u16::from(sent.sport)), (F::of(Party::Host), 8080));
    }

    fn an_exact_host_address_wins_over_every_address<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 80, Party::A1, ifindex::A1, 80);
        fake.publish_port::<F>(F::of(Party::Host), 6, 80, Party::A2, ifindex::A2, 80);
        let out = arrive::<F>(&fake, &wire::<F>(Party::Remote, 50_000, Party::Host, 80, TCP_SYN));
        assert_eq!(out.decision, Ok(Verdict::ToSandbox(ifindex::A2)));
        let other = arrive::<F>(&fake, &wire::<F>(Party::Remote, 50_000, Party::GatewayA, 80, TCP_SYN));
        assert_eq!(other.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
    }

    fn two_front_ends_of_one_port_do_not_confuse_a_clients_connections<F>() {
        let mut fake = Fake::new(10_000, 1000);
        for port in [8080, 9090] {
            fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, port, Party::A1, ifindex::A1, 80);
        }
        let seen = [8080, 9090].map(|port| {
            arrive::<F>(&fake, &wire::<F>(Party::Remote, 50_000, Party::Host, port, TCP_SYN)).headers()
        });
        assert_ne!((seen[0].src, seen[0].sport), (seen[1].src, seen[1].sport));
        for (got, port) in seen.into_iter().zip([8080, 9090]) {
            let reply = Wire { from: mac(Party::A1), ..answer::<F>(&got, Kind::Tcp(SYN_ACK)) };
            let sent = leave::<F>(&fake, ifindex::A1, &reply).headers();
            assert_eq!((sent.dst, u16::from(sent.sport), u16::from(sent.dport)), (F::of(Party::Remote), port, 50_000));
        }
    }

    fn the_host_keeps_what_is_not_netds<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A1, ifindex::A1, 80);
        for (to, dport, kind) in [
            (Party::Host, 22, TCP_SYN),
            (Party::Host, 8080, Kind::Tcp(ACK)), // mid-flow: the host's reset tells the sender
            (Party::Host, 8080, Kind::Udp),      // another protocol
            (Party::Host, 10_500, TCP_SYN),      // a port of masqueraded flows, but none has it
            (Party::Remote2, 8080, TCP_SYN),     // transit is never hijacked
            (Party::Host, 0, Kind::Echo { reply: false }),
        ] {
            let out = arrive::<F>(&fake, &wire::<F>(Party::Remote, 50_000, to, dport, kind));
            assert_eq!(out.decision, Ok(Verdict::Pass), "{to:?} {dport} {kind:?}");
        }
    }

    fn direct_access_from_outside_is_dropped_published_or_not<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A1, ifindex::A1, 80);
        for (dport, kind) in [(80, TCP_SYN), (81, TCP_SYN), (80, Kind::Udp), (0, Kind::Echo { reply: false })] {
            let out = arrive::<F>(&fake, &wire::<F>(Party::Remote, 50_000, Party::A1, dport, kind));
            assert_eq!(out.decision, Err(DropReason::DirectAccess), "{dport} {kind:?}");
        }
    }

    fn neighbours_talk_and_networks_do_not<F>() {
        let fake = Fake::new(10_000, 1000);
        for kind in [TCP_SYN, Kind::Tcp(ACK), Kind::Udp, Kind::Echo { reply: false }, Kind::Other(47)] {
            let same = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 1, Party::A2, 0, kind));
            assert_eq!(same.decision, Ok(Verdict::ToSandbox(ifindex::A2)), "{kind:?}");
            let other = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 1, Party::B1, 0, kind));
            assert_eq!(other.decision, Err(DropReason::Isolation), "{kind:?}");
        }
    }

    fn without_icc_neighbours_meet_only_through_published_ports<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.flag(1, endpoint_flags::ICC, false);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 7070, Party::A1, ifindex::A1, 70);
        let direct = leave::<F>(&fake, ifindex::A2, &wire::<F>(Party::A2, 40_000, Party::A1, 70, TCP_SYN));
        assert_eq!(direct.decision, Err(DropReason::Icc));
        let through = leave::<F>(&fake, ifindex::A2, &wire::<F>(Party::A2, 40_000, Party::Host, 7070, TCP_SYN));
        assert_eq!(through.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        let got = through.headers();
        assert_eq!(got.src, F::of(Party::A2), "a neighbour's address is kept");
        let reply = Wire { from: mac(Party::A1), ..answer::<F>(&got, Kind::Tcp(SYN_ACK)) };
        let back = leave::<F>(&fake, ifindex::A1, &reply);
        assert_eq!(back.decision, Ok(Verdict::ToSandbox(ifindex::A2)));
        assert_eq!(back.headers().src, F::of(Party::Host));
    }

    fn a_sandbox_reaches_its_own_published_port_as_its_gateway<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 17, 5353, Party::A1, ifindex::A1, 53);
        let out = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, Party::Host, 5353, Kind::Udp));
        assert_eq!(out.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        let got = out.headers();
        assert_eq!((got.src, got.dst), (F::of(Party::GatewayA), F::of(Party::A1)));
        let reply = Wire { from: mac(Party::A1), ..answer::<F>(&got, Kind::Udp) };
        let back = leave::<F>(&fake, ifindex::A1, &reply);
        assert_eq!(back.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        let got = back.headers();
        assert_eq!((got.src, u16::from(got.sport), u16::from(got.dport)), (F::of(Party::Host), 5353, 40_000));
    }

    fn another_network_reaches_a_published_port_as_the_servers_gateway<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 9090, Party::B1, ifindex::B1, 90);
        for through in [Party::Host, Party::GatewayA, Party::GatewayB] {
            let out = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, through, 9090, TCP_SYN));
            assert_eq!(out.decision, Ok(Verdict::ToSandbox(ifindex::B1)), "{through:?}");
            let got = out.headers();
            assert_eq!((got.src, got.dst, got.ttl), (F::of(Party::GatewayB), F::of(Party::B1), 63));
        }
    }

    fn internal_networks_neither_leave_nor_are_entered<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 9090, Party::B1, ifindex::B1, 90);
        fake.flag(1, endpoint_flags::INTERNAL, true);
        let to = |party, dport| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 1, party, dport, TCP_SYN)).decision;
        assert_eq!(to(Party::Remote, 80), Err(DropReason::Internal));
        assert_eq!(to(Party::B1, 90), Err(DropReason::Internal));
        assert_eq!(to(Party::GatewayA, 9090), Err(DropReason::Internal));
        assert_eq!(to(Party::A2, 80), Ok(Verdict::ToSandbox(ifindex::A2)));
        assert_eq!(to(Party::GatewayA, 22), Ok(Verdict::Pass));
        let entering = arrive::<F>(&fake, &wire::<F>(Party::Remote, 1, Party::A1, 80, TCP_SYN));
        assert_eq!(entering.decision, Err(DropReason::Internal));
    }

    fn spoofed_sources_go_nowhere<F>() {
        let fake = Fake::new(10_000, 1000);
        for pretended in [Party::A2, Party::B1, Party::GatewayA, Party::Host, Party::Remote] {
            for to in [Party::A2, Party::Remote2, Party::Host] {
                let spoofed = Wire { src: F::of(pretended), ..wire::<F>(Party::A1, 1, to, 80, Kind::Udp) };
                let out = leave::<F>(&fake, ifindex::A1, &spoofed);
                assert_eq!(out.decision, Err(DropReason::SpoofIp), "{pretended:?} to {to:?}");
            }
        }
        let frame = Wire { from: mac(Party::A2), ..wire::<F>(Party::A1, 1, Party::A2, 80, Kind::Udp) };
        assert_eq!(leave::<F>(&fake, ifindex::A1, &frame).decision, Err(DropReason::SpoofMac));
        assert!(leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 1, Party::A2, 80, Kind::Udp)).decision.is_ok());
    }

    fn echoes_of_two_sandboxes_with_one_id_come_back_to_their_senders<F>() {
        let fake = Fake::new(40_000, 1000);
        let sent = [(Party::A1, ifindex::A1), (Party::A2, ifindex::A2)].map(|(party, ifindex)| {
            let request = wire::<F>(party, 7, Party::Remote, 0, Kind::Echo { reply: false });
            (leave::<F>(&fake, ifindex, &request).headers(), party, ifindex)
        });
        assert_ne!(sent[0].0.sport, sent[1].0.sport);
        for (request, party, ifindex) in sent {
            let back = arrive::<F>(&fake, &answer::<F>(&request, Kind::Echo { reply: true }));
            assert_eq!(back.decision, Ok(Verdict::ToSandbox(ifindex)));
            let got = back.headers();
            assert_eq!((got.dst, u16::from(got.dport)), (F::of(party), 7));
        }
    }

    fn what_takes_the_stack_is_translated_or_stays<F>() {
        let fake = Fake::new(10_000, 1000);
        let syn = wire::<F>(Party::A1, 40_000, Party::Remote, 80, TCP_SYN);
        let sent = leave::<F>(&fake, ifindex::A1, &syn).headers();
        let via_stack = |wire: &Wire<F::Addr>| {
            let mut packet = FakePacket::new(wire.build::<F>(), ifindex::UP0);
            let headers = Headers::<F>::read(&packet).expect("readable");
            let decision = to_uplink::<F, _, _>(&fake, &mut packet, &headers);
            Outcome::<F> { decision, bytes: packet.bytes }
        };
        let known = via_stack(&wire::<F>(Party::A1, 40_000, Party::Remote, 80, Kind::Tcp(ACK)));
        assert_eq!(known.decision, Ok(Verdict::Pass));
        assert_eq!((known.headers().src, known.headers().sport), (sent.src, sent.sport));
        let unknown = via_stack(&wire::<F>(Party::A1, 40_001, Party::Remote, 80, Kind::Tcp(ACK)));
        assert_eq!(unknown.decision, Err(DropReason::LeakGuard));
        // A flow between two sandboxes: what it translates to is no packet for the world.
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A1, ifindex::A1, 80);
        let to_neighbour = wire::<F>(Party::A2, 40_000, Party::Host, 8080, TCP_SYN);
        assert_eq!(leave::<F>(&fake, ifindex::A2, &to_neighbour).decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        let mut packet = FakePacket::new(to_neighbour.build::<F>(), ifindex::UP0);
        let headers = Headers::<F>::read(&packet).expect("readable");
        let strayed = to_uplink::<F, _, _>(&fake, &mut packet, &headers);
        assert_eq!(strayed, Err(DropReason::LeakGuard));
        for host in [Party::Host, Party::GatewayA] {
            let own = via_stack(&wire::<F>(host, 1, Party::Remote, 80, TCP_SYN));
            assert_eq!(own.decision, Ok(Verdict::Pass), "{host:?}");
        }
    }

    fn the_gate_lets_in_the_host_and_flows_and_nothing_else<F>() {
        let mut fake = Fake::new(10_000, 1000);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A1, ifindex::A1, 80);
        let from = |ingress, wire: &Wire<F::Addr>| {
            let mut packet = FakePacket::new(wire.build::<F>(), ifindex::A1);
            packet.ingress = ingress;
            let headers = Headers::<F>::read(&packet).expect("readable");
            to_endpoint::<F, _, _>(&fake, &mut packet, &headers)
        };
        let probe = wire::<F>(Party::Remote, 50_000, Party::A1, 80, TCP_SYN);
        assert_eq!(from(0, &wire::<F>(Party::GatewayA, 1, Party::A1, 81, TCP_SYN)), Ok(Verdict::Pass));
        assert_eq!(from(99, &probe), Err(DropReason::DirectAccess));
        assert_eq!(from(ifindex::A2, &wire::<F>(Party::A2, 1, Party::A1, 81, TCP_SYN)), Ok(Verdict::Pass));
        assert_eq!(from(ifindex::B1, &wire::<F>(Party::B1, 1, Party::A1, 81, TCP_SYN)), Err(DropReason::Isolation));
        assert!(arrive::<F>(&fake, &wire::<F>(Party::Remote, 50_000, Party::Host, 8080, TCP_SYN)).decision.is_ok());
        let mut translated = FakePacket::new(probe.build::<F>(), ifindex::A1);
        translated.ingress = 99;
        let headers = Headers::<F>::read(&translated).expect("readable");
        assert_eq!(to_endpoint::<F, _, _>(&fake, &mut translated, &headers), Ok(Verdict::Pass), "a flow's packet");
    }
}

proptest! {
    #[test]
    fn nat_and_its_reverse_are_the_identity(sport in 1_u16.., dport in 1_u16.., udp in any::<bool>(), v6 in any::<bool>()) {
        fn case<F: Cast>(sport: u16, dport: u16, udp: bool) where Fake: Env<F> {
            let fake = Fake::new(10_000, 1000);
            let (first, second) = if udp { (Kind::Udp, Kind::Udp) } else { (TCP_SYN, Kind::Tcp(SYN_ACK)) };
            let sent = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, sport, Party::Remote, dport, first)).headers();
            let got = arrive::<F>(&fake, &answer::<F>(&sent, second)).headers();
            assert_eq!((got.src, got.dst), (F::of(Party::Remote), F::of(Party::A1)));
            assert_eq!((u16::from(got.sport), u16::from(got.dport)), (dport, sport));
        }
        if v6 { case::<V6>(sport, dport, udp) } else { case::<V4>(sport, dport, udp) }
    }

    #[test]
    fn no_two_live_flows_share_a_reply_tuple(flows in proptest::collection::vec((0_u8..3, 1_u16..50, 0_u8..2, 1_u16..3), 1..80)) {
        let fake = Fake::new(10_000, 40);
        let mut taken = std::collections::BTreeMap::new();
        for (who, sport, whom, dport) in flows {
            let (party, ifindex) = [(Party::A1, ifindex::A1), (Party::A2, ifindex::A2), (Party::B1, ifindex::B1)][who as usize];
            let to = [Party::Remote, Party::Remote2][whom as usize];
            let out = leave::<V4>(&fake, ifindex, &wire::<V4>(party, sport, to, dport, Kind::Udp));
            if out.decision.is_ok() {
                let sent = out.headers();
                let owner = taken.entry((sent.dst, sent.dport, sent.sport)).or_insert((ifindex, sport));
                prop_assert_eq!(*owner, (ifindex, sport));
            }
        }
    }

    #[test]
    fn garbage_is_never_forwarded_untranslated(bytes in proptest::collection::vec(any::<u8>(), 0..120), v6 in any::<bool>()) {
        let fake = Fake::new(10_000, 100);
        let mut frame = wire::<V4>(Party::A1, 1, Party::Remote, 80, Kind::Udp).build::<V4>();
        if v6 { frame = wire::<V6>(Party::A1, 1, Party::Remote, 80, Kind::Udp).build::<V6>(); }
        frame.truncate(14);
        frame.extend(bytes);
        let mut packet = FakePacket::new(frame, ifindex::A1);
        if v6 {
            let decision = slow::<V6, _, _>(&fake, &mut packet, ifindex::A1, from_endpoint_decide);
            prop_assert!(!matches!(decision, Ok(Verdict::ToNeighbour(..))));
        } else {
            let decision = slow::<V4, _, _>(&fake, &mut packet, ifindex::A1, from_endpoint_decide);
            prop_assert!(!matches!(decision, Ok(Verdict::ToNeighbour(..))));
        }
    }
}
