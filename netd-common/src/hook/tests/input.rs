//! Published ports where the host's own input rules are asked (ADR 0020), and networks whose sandboxes may use any address.

use super::*;
use crate::{
    conntrack::input,
    env::Draft,
    hook::{answers_asked, may_answer_asked},
    maps::features,
    nat::icmp_error,
    net::HANDED_ZONE,
};

fn asking<F: Cast>() -> Fake
where
    Fake: Env<F>,
{
    let mut fake = Fake::new(20_000, 100);
    fake.config.features |= features::ASKS_HOST;
    for proto in [6, 17, 132] {
        fake.publish_port::<F>(F::of(Party::Host), proto, 8080, Party::A1, ifindex::A1, 80);
    }
    fake
}

/// A copy of a packet from outside arrives.
fn copy<F: Cast>(fake: &Fake, wire: &Wire<F::Addr>) -> crate::hook::Decision<F>
where
    Fake: Env<F>,
{
    let mut packet = FakePacket::new(wire.build::<F>(), ifindex::UP0);
    packet.tag = input::tag::<F, _>(fake);
    match from_uplink_fast::<F, _, _>(fake, &mut packet) {
        Some(decision) => decision,
        None => slow::<F, _, _>(fake, &mut packet, UPLINK_ZONE, from_uplink_decide),
    }
}

/// The rules let a packet through: the stack looks for its socket. Returns whether it finds none.
fn let_in<F: Cast>(fake: &Fake, wire: &Wire<F::Addr>) -> bool
where
    Fake: Env<F>,
{
    let packet = FakePacket::new(wire.build::<F>(), ifindex::UP0);
    let key = Headers::<F>::read(&packet).expect("readable").tuple(UPLINK_ZONE);
    let mut all = F::tables(fake).hearings.borrow_mut();
    all.get_mut(&key).is_some_and(|known| input::heard(known, fake.now.get()))
}

both_families! {
    fn t83_a_flow_begins_by_a_copy_of_a_packet_that_the_rules_have_let_in<F>() {
        let fake = asking::<F>();
        for kind in [TCP_SYN, Kind::Udp] {
            let wire = wire::<F>(Party::Remote, 5000, Party::Host, 8080, kind);
            assert!(!let_in::<F>(&fake, &wire), "nobody has asked");
            let asked = arrive::<F>(&fake, &wire);
            assert_eq!((asked.decision, &asked.bytes), (Ok(Verdict::HandOver), &wire.build::<F>()), "as it is");
            assert_eq!(copy::<F>(&fake, &wire), Err(DropReason::HostFirewall), "not let in");
            assert_eq!(arrive::<F>(&fake, &wire).decision, Ok(Verdict::HandOver), "sent again");
            assert!(let_in::<F>(&fake, &wire));
            assert_eq!(copy::<F>(&fake, &wire), Ok(Verdict::ToSandbox(ifindex::A1)));
            let next = if kind == TCP_SYN { Kind::Tcp(ACK) } else { kind };
            assert_eq!(arrive::<F>(&fake, &Wire { kind: next, ..wire }).decision, Ok(Verdict::ToSandbox(ifindex::A1)));
            let other = Wire { sport: 5001, ..wire };
            assert_eq!(arrive::<F>(&fake, &other).decision, Ok(Verdict::HandOver), "another client");
            assert_eq!(copy::<F>(&fake, &other), Err(DropReason::HostFirewall));
        }
    }

    fn what_the_rules_have_said_counts_for_a_while<F>() {
        let fake = asking::<F>();
        let wire = wire::<F>(Party::Remote, 5000, Party::Host, 8080, TCP_SYN);
        assert_eq!(arrive::<F>(&fake, &wire).decision, Ok(Verdict::HandOver));
        assert!(let_in::<F>(&fake, &wire));
        fake.now.set(fake.now.get() + 121);
        assert!(!let_in::<F>(&fake, &wire), "a service of the host may be there by now");
        assert_eq!(arrive::<F>(&fake, &wire).decision, Ok(Verdict::HandOver), "asked anew");
        assert!(let_in::<F>(&fake, &wire));
        fake.now.set(fake.now.get() + 110);
        assert_eq!(arrive::<F>(&fake, &wire).decision, Ok(Verdict::ToSandbox(ifindex::A1)), "the copy was lost, and this is the SYN again");
    }

    fn copies_without_their_tag_make_no_loop<F>() {
        let fake = asking::<F>();
        let wire = wire::<F>(Party::Remote, 5000, Party::Host, 8080, Kind::Udp);
        let mut times = 0;
        while arrive::<F>(&fake, &wire).decision == Ok(Verdict::HandOver) {
            times += 1;
            assert!(times < 100, "for ever");
        }
        assert_eq!(arrive::<F>(&fake, &wire).decision, Err(DropReason::HostFirewall));
        fake.now.set(fake.now.get() + 1);
        assert_eq!(arrive::<F>(&fake, &wire).decision, Ok(Verdict::HandOver), "in the next tick");
    }

    fn a_connection_that_begins_anew_is_asked_about_again<F>() {
        let fake = asking::<F>();
        let syn = wire::<F>(Party::Remote, 5000, Party::Host, 8080, TCP_SYN);
        assert_eq!(arrive::<F>(&fake, &syn).decision, Ok(Verdict::HandOver));
        assert!(let_in::<F>(&fake, &syn));
        let seen = {
            assert_eq!(copy::<F>(&fake, &syn), Ok(Verdict::ToSandbox(ifindex::A1)));
            wire::<F>(Party::A1, 80, Party::Remote, 5000, Kind::Tcp(SYN | ACK))
        };
        assert!(leave::<F>(&fake, ifindex::A1, &seen).decision.is_ok());
        assert!(arrive::<F>(&fake, &Wire { kind: Kind::Tcp(FIN | ACK), ..syn }).decision.is_ok());
        assert!(leave::<F>(&fake, ifindex::A1, &Wire { kind: Kind::Tcp(FIN | ACK), ..seen }).decision.is_ok());
        assert!(arrive::<F>(&fake, &Wire { kind: Kind::Tcp(ACK), ..syn }).decision.is_ok());
        fake.now.set(fake.now.get() + 121);
        assert_eq!(arrive::<F>(&fake, &syn).decision, Ok(Verdict::HandOver));
        assert_eq!(copy::<F>(&fake, &syn), Err(DropReason::HostFirewall));
        assert_eq!(arrive::<F>(&fake, &syn).decision, Ok(Verdict::HandOver));
        assert!(let_in::<F>(&fake, &syn));
        assert_eq!(copy::<F>(&fake, &syn), Ok(Verdict::ToSandbox(ifindex::A1)));
    }

    fn nobody_sees_what_the_stack_says_to_a_packet_for_its_rules_alone<F>() {
        let fake = asking::<F>();
        let syn = wire::<F>(Party::Remote, 5000, Party::Host, 8080, TCP_SYN);
        let reset = wire::<F>(Party::Host, 8080, Party::Remote, 5000, Kind::Tcp(RST | ACK));
        let hushed = |bytes: Vec<u8>, ingress| {
            let mut packet = FakePacket::new(bytes, ifindex::UP0);
            packet.ingress = ingress;
            may_answer_asked::<F, _, _>(&fake, &packet) && {
                let headers = Headers::<F>::read(&packet).expect("readable");
                let quote = icmp_error::quote(&packet, &headers, HANDED_ZONE).unwrap_or_default();
                answers_asked::<F, _>(&fake, &Draft { headers, quote, ..Draft::default() })
            }
        };
        assert_eq!(arrive::<F>(&fake, &syn).decision, Ok(Verdict::HandOver));
        assert!(!hushed(reset.build::<F>(), 0), "a rule's own reset");
        assert!(let_in::<F>(&fake, &syn));
        assert!(hushed(reset.build::<F>(), 0));
        assert!(!hushed(reset.build::<F>(), ifindex::A1), "a sandbox's");
        assert!(!hushed(Wire { dport: 5001, ..reset }.build::<F>(), 0), "to somebody else");
        assert!(!hushed(Wire { kind: Kind::Tcp(SYN | ACK), ..reset }.build::<F>(), 0));
    }

    fn t69_with_anti_spoofing_off_an_address_that_is_nobodys_goes_to_the_stack<F>() {
        let mut fake = Fake::new(20_000, 100);
        fake.flag(1, endpoint_flags::ANY_SOURCE, true);
        let from = |party, to| leave::<F>(&fake, ifindex::A1, &wire::<F>(party, 5000, to, 53, Kind::Udp));
        let stranger = from(Party::Remote2, Party::Remote);
        assert_eq!(stranger.decision, Ok(Verdict::Pass));
        assert_eq!(stranger.headers().src, F::of(Party::Remote2));
        assert!(F::tables(&fake).flows.borrow().is_empty(), "no flow that answers to others could meet");
        assert_eq!(from(Party::A2, Party::Remote).headers().src, F::of(Party::Host), "its network's own are masqueraded");
        assert_eq!(from(Party::Remote2, Party::A2).decision, Ok(Verdict::ToSandbox(ifindex::A2)));
        for party in [Party::B1, Party::Host, Party::GatewayA, Party::GatewayB] {
            assert_eq!(from(party, Party::Remote).decision, Err(DropReason::SpoofIp), "{party:?}");
        }
        assert_eq!(from(Party::Remote2, Party::B1).decision, Err(DropReason::Isolation));
        fake.flag(1, endpoint_flags::INTERNAL, true);
        let inside = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::Remote2, 5000, Party::Remote, 53, Kind::Udp));
        assert_eq!(inside.decision, Err(DropReason::Internal));
        let b1 = leave::<F>(&fake, ifindex::B1, &wire::<F>(Party::Remote2, 5000, Party::Remote, 53, Kind::Udp));
        assert_eq!(b1.decision, Err(DropReason::SpoofMac), "a network that has not switched it off");
    }
}
