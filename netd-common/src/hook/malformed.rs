//! Rung: unit tests. Every malformed packet of the table through every hook: no fault, nothing untranslated on an uplink, nothing delivered
//! that may not be, outputs of the right length.

use std::{format, string::String, vec::Vec};

use super::{
    Decision, from_endpoint_decide, from_endpoint_fast, from_uplink_decide, from_uplink_fast, slow,
    to_endpoint, to_uplink, to_uplink_fast,
};
use crate::{
    env::Env,
    fake::{
        Cast, Fake, FakePacket, Kind, Party, ifindex,
        malformed::{Case, Fate, Hook, Leg, cases},
    },
    family::{Address, V4, V6},
    net::UPLINK_ZONE,
    verdict::{DropReason, Verdict},
    wire::Headers,
};

/// Sends a frame through a hook, as the programs compose it.
pub(super) fn run<F: Cast>(fake: &Fake, hook: Hook, frame: &[u8]) -> (Decision<F>, Vec<u8>)
where
    Fake: Env<F>,
{
    let (device, ingress) = match hook {
        Hook::FromEndpoint(ifindex) => (ifindex, ifindex),
        Hook::FromUplink | Hook::ToUplink => (ifindex::UP0, ifindex::UP0),
        Hook::ToEndpoint { ifindex, ingress } => (ifindex, ingress),
    };
    let mut packet = FakePacket::new(frame.to_vec(), device);
    packet.ingress = ingress;
    let decision = match hook {
        Hook::FromEndpoint(zone) => from_endpoint_fast::<F, _, _>(fake, &mut packet)
            .unwrap_or_else(|| slow::<F, _, _>(fake, &mut packet, zone, from_endpoint_decide)),
        Hook::FromUplink => from_uplink_fast::<F, _, _>(fake, &mut packet)
            .unwrap_or_else(|| slow::<F, _, _>(fake, &mut packet, UPLINK_ZONE, from_uplink_decide)),
        Hook::ToEndpoint { .. } => Headers::<F>::read(&packet)
            .and_then(|headers| to_endpoint::<F, _, _>(fake, &mut packet, &headers)),
        Hook::ToUplink => to_uplink_fast::<F, _, _>(fake, &mut packet).unwrap_or_else(|| {
            Headers::<F>::read(&packet).and_then(|headers| to_uplink::<F, _, _>(fake, &mut packet, &headers))
        }),
    };
    (decision, packet.bytes)
}

fn world<F: Cast>() -> Fake {
    let mut fake = Fake::new(10_000, 1000);
    for proto in [6, 17] {
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, proto, 8080, Party::A1, ifindex::A1, 80);
    }
    fake
}

/// Whether the frame's source, wherever it can be read, is an address of a sandbox.
fn shows_a_sandbox<F: Cast>(frame: &[u8]) -> bool {
    let source = F::load_address(&FakePacket::new(frame.to_vec(), 0), 14 + if F::V6 { 8 } else { 12 });
    source.is_some_and(|source| [Party::A1, Party::A2, Party::B1].map(F::of).contains(&source))
}

/// What holds on a leg, whatever is wrong with the packet. None: it does.
fn fault<F: Cast>(fake: &Fake, case: &Case, leg: Leg, frame: &[u8]) -> Option<&'static str>
where
    Fake: Env<F>,
{
    let (decision, bytes) = run::<F>(fake, leg.hook(), frame);
    // What is held until its first fragment comes goes nowhere by itself; in the end it is counted.
    let dropped = matches!(decision, Err(_) | Ok(Verdict::Drop(_) | Verdict::Refuse(_) | Verdict::Hold));
    // A reset goes back to the sandbox that sent the segment; it alone has another length.
    let reset = decision == Ok(Verdict::ToSandbox(ifindex::A1)) && leg == Leg::World;
    if !reset && !dropped && bytes.len() != frame.len() {
        return Some("the output has another length");
    }
    let handed_over = !F::tables(fake).handed.borrow().is_empty(); // at the end of its TTL
    if decision == Ok(Verdict::Pass) && leg != Leg::Leaving && bytes != frame && !handed_over {
        return Some("changed, and passed to the stack");
    }
    let refused = case.fate == Fate::Refused;
    let delivered = matches!(decision, Ok(Verdict::ToSandbox(_)));
    match leg {
        Leg::World | Leg::Leaving => {
            // What passes to the stack meets the guard of the uplink.
            let left = match decision {
                Ok(Verdict::Pass) if leg == Leg::World => run::<F>(fake, Hook::ToUplink, &bytes),
                other => (other, bytes),
            };
            let leaves = matches!(left.0, Ok(Verdict::ToNeighbour(..) | Verdict::Pass));
            if leaves && shows_a_sandbox::<F>(&left.1) {
                return Some("left untranslated");
            }
            (leaves && refused && leg == Leg::World).then_some("left, though it cannot be translated")
        }
        Leg::OtherNetwork => (!dropped && !reset_or_bridge::<F>(&decision)).then_some("not dropped"),
        Leg::HostService => {
            (!matches!(decision, Ok(Verdict::Pass | Verdict::Hold))).then_some("the host does not get it")
        }
        Leg::Published | Leg::Hairpin => {
            let to_group = case.name.starts_with("to "); // T79: a published port is a host's, not a group's
            (delivered && (refused || to_group)).then_some("translated and delivered")
        }
        Leg::Direct | Leg::Arriving => {
            let gate = Hook::ToEndpoint { ifindex: ifindex::A1, ingress: ifindex::UP0 };
            let arrives = match decision {
                Ok(Verdict::Pass) if leg == Leg::Direct => run::<F>(fake, gate, &bytes).0.is_ok(),
                Ok(Verdict::Hold) | Err(_) => false,
                Ok(_) => true,
            };
            (arrives && for_a1::<F>(&bytes)).then_some("delivered")
        }
        Leg::Neighbour | Leg::Gateway => None,
    }
}

/// Passed to the bridge, which knows nobody of another network.
fn reset_or_bridge<F: Cast>(decision: &Decision<F>) -> bool {
    matches!(decision, Ok(Verdict::Pass))
}

/// Whether the frame still is for a1: a case may have spoilt that.
fn for_a1<F: Cast>(frame: &[u8]) -> bool {
    let at = 14 + if F::V6 { 24 } else { 16 };
    F::load_address(&FakePacket::new(frame.to_vec(), 0), at) == Some(F::of(Party::A1))
}

fn every_case<F: Cast>()
where
    Fake: Env<F>,
{
    let mut faults = Vec::<String>::new();
    for (number, case) in cases().iter().enumerate().filter(|(_, case)| case.applies::<F>()) {
        for leg in Leg::ALL {
            let frame = case.frame::<F>(leg, u16::try_from(number).expect("few cases"));
            // A world of its own: a flow of one leg would let another's packet in.
            let fault = fault::<F>(&world::<F>(), case, leg, &frame);
            faults.extend(fault.map(|fault| format!("{leg:?}: {}: {fault}", case.name)));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn malformed_packets_do_no_harm_v4() {
    every_case::<V4>();
}

#[test]
fn malformed_packets_do_no_harm_v6() {
    every_case::<V6>();
}

/// The positive control: the good packet of each leg goes where it should.
fn good_packets_pass<F: Cast>()
where
    Fake: Env<F>,
{
    let fake = world::<F>();
    for (leg, wanted) in [
        (Leg::World, Some(Verdict::ToNeighbour(ifindex::UP0, F::of(Party::Remote)))),
        (Leg::Neighbour, Some(Verdict::ToSandbox(ifindex::A2))),
        (Leg::OtherNetwork, None),
        (Leg::Gateway, Some(Verdict::Pass)),
        (Leg::Hairpin, Some(Verdict::ToSandbox(ifindex::A1))),
        (Leg::HostService, Some(Verdict::Pass)),
        (Leg::Published, Some(Verdict::ToSandbox(ifindex::A1))),
        (Leg::Direct, None),
    ] {
        for kind in [Kind::Udp, Kind::Tcp(crate::wire::l4::SYN)] {
            let frame = leg.packet::<F>(kind, 0).build::<F>();
            assert_eq!(run::<F>(&fake, leg.hook(), &frame).0.ok(), wanted, "{leg:?} {kind:?}");
        }
    }
}

#[test]
fn good_packets_of_every_leg_pass() {
    good_packets_pass::<V4>();
    good_packets_pass::<V6>();
}

/// A tag in the packet's metadata, where the kernel puts the outer one: a sandbox has none, and from outside it is another network's packet.
fn tagged_packets_are_nobodys<F: Cast>()
where
    Fake: Env<F>,
{
    let fake = world::<F>();
    for (leg, tagged) in
        [(Leg::World, true), (Leg::Neighbour, true), (Leg::Hairpin, true), (Leg::World, false)]
    {
        let frame = leg.packet::<F>(Kind::Udp, 0).build::<F>();
        let mut packet = FakePacket { vlan: tagged, ..FakePacket::new(frame, ifindex::A1) };
        let decision = from_endpoint_fast::<F, _, _>(&fake, &mut packet);
        assert_eq!(decision == Some(Err(DropReason::UnknownL3)), tagged, "{leg:?}");
    }
    for (leg, tagged) in [(Leg::Published, true), (Leg::Direct, true), (Leg::Direct, false)] {
        let frame = leg.packet::<F>(Kind::Udp, 0).build::<F>();
        let mut packet = FakePacket { vlan: tagged, ..FakePacket::new(frame.clone(), ifindex::UP0) };
        let decision = from_uplink_fast::<F, _, _>(&fake, &mut packet);
        assert_eq!(decision == Some(Ok(Verdict::Pass)), tagged, "{leg:?}");
        assert_eq!(packet.bytes, frame);
    }
}

#[test]
fn a_tag_in_the_metadata_is_seen() {
    tagged_packets_are_nobodys::<V4>();
    tagged_packets_are_nobodys::<V6>();
}
