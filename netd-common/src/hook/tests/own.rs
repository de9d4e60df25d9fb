//! What netd has and Docker has not: sources allowed per publish, publishing on internal networks, networks kept from the host's services.

use super::*;
use crate::maps::PublishKey;

/// The slot of network A.
const A: u16 = 1;
/// A list that allows the remote and a2.
const LIST: u32 = 7;

/// Publishes a1's port for the list alone.
fn publish_for_list<F: Cast>(fake: &mut Fake) {
    fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A1, ifindex::A1, 80);
    let tables = F::tables_mut(fake);
    tables.publishes.values_mut().for_each(|publish| publish.allow = LIST);
    let ones = F::of(Party::Remote);
    tables.allowed.insert(LIST, [(ones, F::netmask()), (F::of(Party::A2), F::netmask())].to_vec());
}

/// The gate in front of a1, for what the host sends.
fn host_sends<F: Cast>(fake: &Fake, wire: &Wire<F::Addr>)
where
    Fake: Env<F>,
{
    let mut packet = FakePacket::new(wire.build::<F>(), ifindex::A1);
    packet.ingress = 0;
    let headers = Headers::<F>::read(&packet).expect("readable");
    assert_eq!(to_endpoint::<F, _, _>(fake, &mut packet, &headers), Ok(Verdict::Pass));
}

both_families! {
    fn t84_a_publish_with_a_list_is_closed_to_everybody_else<F>() {
        let mut fake = Fake::new(10_000, 100);
        publish_for_list::<F>(&mut fake);
        let from = |party| arrive::<F>(&fake, &wire::<F>(party, 50_000, Party::Host, 8080, TCP_SYN)).decision;
        assert_eq!(from(Party::Remote), Ok(Verdict::ToSandbox(ifindex::A1)));
        assert_eq!(from(Party::Remote2), Err(DropReason::NotAllowed));
        let inside = |ifindex, party| leave::<F>(&fake, ifindex, &wire::<F>(party, 50_000, Party::Host, 8080, TCP_SYN)).decision;
        assert_eq!(inside(ifindex::A2, Party::A2), Ok(Verdict::ToSandbox(ifindex::A1)));
        assert_eq!(inside(ifindex::B1, Party::B1), Err(DropReason::NotAllowed));
        assert_eq!(arrive::<F>(&fake, &wire::<F>(Party::Remote2, 1, Party::Host, 8081, TCP_SYN)).decision, Ok(Verdict::Pass), "other ports are the host's");
    }

    fn t30_a_publish_with_interfaces_is_reached_by_them_alone_and_from_within<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 8080, Party::A1, ifindex::A1, 80);
        F::tables_mut(&mut fake).publishes.values_mut().for_each(|publish| publish.via = LIST);
        let outside = |fake: &Fake, sport| arrive::<F>(fake, &wire::<F>(Party::Remote, sport, Party::Host, 8080, TCP_SYN)).decision;
        assert_eq!(outside(&fake, 50_000), Err(DropReason::NotAllowed), "a list that names no interface now");
        for (list, ifindex) in [(LIST + 1, ifindex::UP0), (LIST, ifindex::UP0 + 1)] {
            fake.named.push((list, ifindex));
            assert_eq!(outside(&fake, 50_000), Err(DropReason::NotAllowed), "{list} {ifindex}");
        }
        for (ifindex, party) in [(ifindex::A2, Party::A2), (ifindex::B1, Party::B1)] {
            let inside = leave::<F>(&fake, ifindex, &wire::<F>(party, 50_000, Party::Host, 8080, TCP_SYN)).decision;
            assert_eq!(inside, Ok(Verdict::ToSandbox(ifindex::A1)), "{party:?}");
        }
        fake.named.push((LIST, ifindex::UP0));
        assert_eq!(outside(&fake, 50_000), Ok(Verdict::ToSandbox(ifindex::A1)));
        fake.named.clear();
        let ack = wire::<F>(Party::Remote, 50_000, Party::Host, 8080, Kind::Tcp(ACK));
        assert_eq!(arrive::<F>(&fake, &ack).decision, Ok(Verdict::ToSandbox(ifindex::A1)), "established");
        assert_eq!(outside(&fake, 50_001), Err(DropReason::NotAllowed));
    }

    fn t30_an_opened_port_has_its_interfaces_too<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.flag(A, F::ROUTED, true);
        fake.open_port::<F>(Party::A1, 6, 80, ifindex::A1);
        F::tables_mut(&mut fake).opened.values_mut().for_each(|open| open.via = LIST);
        let outside = |fake: &Fake| arrive::<F>(fake, &wire::<F>(Party::Remote, 50_000, Party::A1, 80, TCP_SYN)).decision;
        assert_eq!(outside(&fake), Err(DropReason::NotAllowed));
        let other = leave::<F>(&fake, ifindex::B1, &wire::<F>(Party::B1, 50_000, Party::A1, 80, TCP_SYN)).decision;
        assert_eq!(other, Ok(Verdict::ToSandbox(ifindex::A1)), "another network's sandbox");
        fake.named.push((LIST, ifindex::UP0));
        assert_eq!(outside(&fake), Ok(Verdict::ToSandbox(ifindex::A1)));
    }

    fn t40_the_servers_network_says_as_whom_it_sees_sandboxes_that_come_by_the_host<F>() {
        let seen = |flags: u32, masquerade: bool, (ifindex, party): (u32, Party), kind| {
            let mut fake = Fake::new(10_000, 100);
            fake.flag(A, flags, true);
            fake.flag(2, endpoint_flags::MASQUERADE, masquerade);
            for proto in [6, 17] {
                fake.publish_port::<F>(F::Addr::UNSPECIFIED, proto, 8080, Party::A1, ifindex::A1, 80);
            }
            let out = leave::<F>(&fake, ifindex, &wire::<F>(party, 50_000, Party::Host, 8080, kind));
            assert_eq!(out.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
            let got = out.headers();
            let answer = Wire { from: mac(Party::A1), ..answer::<F>(&got, if kind == Kind::Udp { kind } else { Kind::Tcp(SYN_ACK) }) };
            let back = leave::<F>(&fake, ifindex::A1, &answer);
            assert_eq!(back.decision, Ok(Verdict::ToSandbox(ifindex)), "the answer");
            assert_eq!((back.headers().src, u16::from(back.headers().dport)), (F::of(Party::Host), 50_000));
            got.src
        };
        let (a1, a2, b1) = ((ifindex::A1, Party::A1), (ifindex::A2, Party::A2), (ifindex::B1, Party::B1));
        let gateway = F::of(Party::GatewayA);
        for kind in [TCP_SYN, Kind::Udp] {
            for icc in [0, endpoint_flags::LINKS] {
                let as_gateway = endpoint_flags::SEEN_AS_GATEWAY | icc;
                let as_client = endpoint_flags::SEEN_AS_CLIENT | icc;
                assert_eq!(seen(icc, true, a2, kind), F::of(Party::A2), "a neighbour, by default");
                assert_eq!(seen(as_client, true, a2, kind), F::of(Party::A2));
                assert_eq!(seen(icc, true, b1, kind), gateway, "another network's, by default");
                assert_eq!(seen(icc, false, b1, kind), F::of(Party::B1), "which is not masqueraded");
                assert_eq!(seen(as_client, true, b1, kind), F::of(Party::B1));
                for (from, masquerade) in [(a2, true), (b1, true), (b1, false)] {
                    assert_eq!(seen(as_gateway, masquerade, from, kind), gateway, "{from:?}");
                }
                for flags in [icc, as_gateway, as_client] {
                    assert_eq!(seen(flags, true, a1, kind), gateway, "itself");
                }
                let internal = as_client | endpoint_flags::INTERNAL;
                assert_eq!(seen(internal, true, b1, kind), gateway, "an internal network knows no way to it");
            }
        }
    }

    fn a_list_that_shrinks_leaves_established_connections_alone<F>() {
        let mut fake = Fake::new(10_000, 100);
        publish_for_list::<F>(&mut fake);
        let syn = wire::<F>(Party::Remote, 50_000, Party::Host, 8080, TCP_SYN);
        assert!(arrive::<F>(&fake, &syn).decision.is_ok());
        F::tables_mut(&mut fake).allowed.clear();
        assert!(arrive::<F>(&fake, &Wire { kind: Kind::Tcp(ACK), ..syn }).decision.is_ok());
        assert_eq!(arrive::<F>(&fake, &Wire { sport: 50_001, ..syn }).decision, Err(DropReason::NotAllowed));
    }

    fn an_opened_port_has_its_list_too<F>() {
        let mut fake = Fake::new(10_000, 100);
        publish_for_list::<F>(&mut fake);
        fake.flag(A, F::ROUTED, true);
        fake.open_port::<F>(Party::A1, 6, 80, ifindex::A1);
        F::tables_mut(&mut fake).opened.values_mut().for_each(|open| open.allow = LIST);
        let from = |party| arrive::<F>(&fake, &wire::<F>(party, 50_000, Party::A1, 80, TCP_SYN)).decision;
        assert_eq!(from(Party::Remote), Ok(Verdict::ToSandbox(ifindex::A1)));
        assert_eq!(from(Party::Remote2), Err(DropReason::NotAllowed));
    }

    fn t58_an_internal_network_that_publishes_meets_clients_as_its_gateway<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.flag(A, endpoint_flags::INTERNAL, true);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 6060, Party::A1, ifindex::A1, 60);
        let out = arrive::<F>(&fake, &wire::<F>(Party::Remote, 50_000, Party::Host, 6060, TCP_SYN));
        assert_eq!(out.decision, Ok(Verdict::ToSandbox(ifindex::A1)));
        let got = out.headers();
        assert_eq!((got.src, got.dst, u16::from(got.dport)), (F::of(Party::GatewayA), F::of(Party::A1), 60));
        let reply = Wire { from: mac(Party::A1), ..answer::<F>(&got, Kind::Tcp(SYN_ACK)) };
        let sent = leave::<F>(&fake, ifindex::A1, &reply);
        assert_eq!(sent.decision, Ok(Verdict::ToNeighbour(ifindex::UP0, F::of(Party::Remote))));
        let sent = sent.headers();
        assert_eq!((sent.src, u16::from(sent.sport), u16::from(sent.dport)), (F::of(Party::Host), 6060, 50_000));
        let own = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 1, Party::Remote, 80, TCP_SYN));
        assert_eq!(own.decision, Err(DropReason::Internal), "it still reaches nobody itself");
    }

    fn t50_a_network_may_be_kept_from_the_hosts_services<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, 6, 9090, Party::B1, ifindex::B1, 90);
        let to = |fake: &Fake, party, dport, kind| leave::<F>(fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, party, dport, kind)).decision;
        let probes = [(22, TCP_SYN), (53, Kind::Udp), (0, Kind::Echo { reply: false }), (0, Kind::Other(47))];
        for host in [Party::GatewayA, Party::Host] {
            for (dport, kind) in probes {
                assert_eq!(to(&fake, host, dport, kind), Ok(Verdict::Pass), "open: {host:?} {dport} {kind:?}");
            }
        }
        fake.flag(A, endpoint_flags::HOST_CLOSED, true);
        for host in [Party::GatewayA, Party::Host, Party::GatewayB] {
            for (dport, kind) in probes {
                assert_eq!(to(&fake, host, dport, kind), Err(DropReason::HostAccess), "{host:?} {dport} {kind:?}");
            }
            assert_eq!(to(&fake, host, 9090, TCP_SYN), Ok(Verdict::ToSandbox(ifindex::B1)), "published");
        }
        assert!(matches!(to(&fake, Party::Remote, 80, TCP_SYN), Ok(Verdict::ToNeighbour(..))), "the world");
        assert_eq!(to(&fake, Party::A2, 80, TCP_SYN), Ok(Verdict::ToSandbox(ifindex::A2)), "a neighbour");
    }

    fn a_network_kept_from_the_host_reaches_the_ports_that_are_named<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.flag(A, endpoint_flags::HOST_CLOSED, true);
        let key = PublishKey { addr: F::of(Party::GatewayA), port: 53.into(), proto: 17, pad: 0 };
        F::tables_mut(&mut fake).opened.insert(key, crate::maps::Open::default());
        let to = |party, dport, kind| leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, 40_000, party, dport, kind)).decision;
        for host in [Party::GatewayA, Party::Host] {
            assert_eq!(to(host, 53, Kind::Udp), Ok(Verdict::Pass));
            assert_eq!(to(host, 53, TCP_SYN), Err(DropReason::HostAccess), "another protocol");
            assert_eq!(to(host, 54, Kind::Udp), Err(DropReason::HostAccess));
        }
        let b1 = leave::<F>(&fake, ifindex::B1, &wire::<F>(Party::B1, 1, Party::GatewayA, 54, Kind::Udp));
        assert_eq!(b1.decision, Ok(Verdict::Pass), "another network's rule is its own");
    }

    fn what_answers_the_host_reaches_it_always<F>() {
        let mut fake = Fake::new(10_000, 100);
        fake.flag(A, endpoint_flags::HOST_CLOSED, true);
        for (sport, kind, back) in [
            (50_000, Kind::Udp, Kind::Udp),
            (50_000, TCP_SYN, Kind::Tcp(SYN_ACK)),
            (77, Kind::Echo { reply: false }, Kind::Echo { reply: true }),
        ] {
            let dport = if matches!(kind, Kind::Echo { .. }) { 0 } else { 80 };
            let asked = wire::<F>(Party::GatewayA, sport, Party::A1, dport, kind);
            host_sends::<F>(&fake, &asked);
            let reply = wire::<F>(Party::A1, dport, Party::GatewayA, sport, back);
            assert_eq!(leave::<F>(&fake, ifindex::A1, &reply).decision, Ok(Verdict::Pass), "{kind:?}");
            if kind != TCP_SYN {
                let other = if dport == 0 { Wire { dport: 78, ..reply } } else { Wire { sport: 81, ..reply } };
                assert_eq!(leave::<F>(&fake, ifindex::A1, &other).decision, Err(DropReason::HostAccess), "{kind:?}");
            }
        }
        let late = wire::<F>(Party::A1, 80, Party::GatewayA, 50_000, Kind::Udp);
        fake.now.set(fake.now.get() + 121);
        assert_eq!(leave::<F>(&fake, ifindex::A1, &late).decision, Err(DropReason::HostAccess), "too late");
    }

    fn the_gate_looks_once_more_at_what_a_neighbour_claims<F>() {
        let fake = Fake::new(10_000, 100);
        let gate = |wire: &Wire<F::Addr>| {
            let mut packet = FakePacket::new(wire.build::<F>(), ifindex::A2);
            packet.ingress = ifindex::A1;
            let headers = Headers::<F>::read(&packet).expect("readable");
            to_endpoint::<F, _, _>(&fake, &mut packet, &headers)
        };
        let honest = wire::<F>(Party::A1, 50_000, Party::A2, 80, Kind::Udp);
        assert_eq!(gate(&honest), Ok(Verdict::Pass));
        assert_eq!(gate(&Wire { src: F::of(Party::B1), ..honest }), Err(DropReason::SpoofIp));
        assert_eq!(gate(&Wire { from: mac(Party::B1), ..honest }), Err(DropReason::SpoofMac));
    }
}
