//! What only the host's stack can answer: packets of flows at the end of their TTL, or too large for their way out.
//!
//! It would take one that is addressed to the host itself for a socket's. So such a packet gets the destination that its flow leads to first, and
//! keeps its source: a gateway's would be a martian to the stack, and the error goes to whoever sent the packet. What was dialled is
//! kept for as long as that error takes to leave, and then stands in it again, as conntrack has it for errors of the host's own.

use crate::{
    conntrack::{self, elapsed},
    env::{Draft, Env, Packet},
    family::{Address, Ip},
    maps::{Endpoint, Flow, Handed, Tuple, endpoint_flags, flow_flags},
    nat::{icmp_error, rewrite},
    net::{HANDED_ZONE, Zone},
    policy::has,
    verdict::DropReason,
    wire::{Headers, L4, headers::L3},
};

/// Ticks (a second) that an error may take to leave: it is sent at once, but may wait for its receiver's link address.
const AWAITED: u32 = 15;

/// Gives the host's stack a packet that its flow cannot carry.
///
/// # Errors
/// `Ttl` where the stack knows no such packet, `UnknownL4` or `KernelRefused` where it cannot be translated.
#[inline(always)]
pub fn hand_over<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    draft: &mut Draft<F>,
    zone: Zone,
) -> Result<(), DropReason> {
    let key = draft.headers.tuple(zone);
    draft.flow = Flow { flags: flow_flags::TRANSLATE, src: key.src, sport: key.sport, ..Flow::default() };
    match env.flow(&key) {
        Some(flow) => (draft.flow.dst, draft.flow.dport) = (flow.dst, flow.dport),
        None => return Ok(()),
    }
    let (dst, dport) = (draft.flow.dst, draft.flow.dport);
    if dst == key.dst {
        return Ok(()); // not for the host: its stack forwards, and `to_uplink` translates what comes of it
    }
    if dst.is_mapped() {
        return Err(DropReason::Ttl);
    }
    rewrite::prepare(&key, &mut draft.flow);
    draft.reply = Tuple {
        src: dst,
        dst: key.src,
        sport: dport,
        dport: key.sport,
        zone: HANDED_ZONE,
        proto: key.proto,
        pad: [0; 3],
    };
    let handed = Handed { addr: key.dst, port: key.dport, pad: 0, since: env.now() };
    env.keep_handed(&draft.reply, &handed);
    rewrite::apply(packet, &draft.headers, &draft.flow, false)
}

/// Whether a packet that leaves may be an error of the host's stack about a packet that was handed over.
#[inline(always)]
pub fn may_answer_handed<F: Ip, P: Packet>(packet: &P) -> bool {
    let icmp = packet.load::<1>(L3 + F::PROTOCOL).is_ok_and(|[proto]| proto == F::ICMP);
    icmp && packet.ingress_ifindex() == 0
}

/// Whether a packet that leaves is neither TCP nor UDP, nor a sandbox's: [`own`] has to see it.
#[inline(always)]
pub fn may_be_own<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &P) -> bool {
    let rare = packet.load::<1>(L3 + F::PROTOCOL).is_ok_and(|[proto]| !conntrack::own::is_seen(proto));
    let of_a_sandbox = |endpoint: &Endpoint| has(endpoint.flags, endpoint_flags::ACTIVE);
    rare && !env.endpoint(packet.ingress_ifindex()).is_some_and(of_a_sandbox)
}

/// What the host itself sends to the outside: an error of its stack's is brought in order, and the rest kept in mind. In the kernel its steps are functions.
///
/// # Errors
/// `KernelRefused` when the packet's memory cannot be changed.
pub fn own<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &mut P) -> Result<(), DropReason> {
    if !may_be_own::<F, _, _>(env, packet) {
        return Ok(());
    }
    let Ok(headers) = Headers::<F>::read(packet) else { return Ok(()) };
    if headers.l4 != L4::Icmp {
        conntrack::own::remember(env, &mut Draft { headers, ..Draft::default() });
        return Ok(());
    }
    if may_answer_handed::<F, _>(packet) { take_back(env, packet, &headers) } else { Ok(()) }
}

/// Whether the packet that an error quotes was handed over: the draft's flow then says what the error has to say. For parts of the kernel's program.
#[inline(always)]
pub fn recall_handed<F: Ip, E: Env<F>>(env: &E, draft: &mut Draft<F>) -> bool {
    let about = &draft.quote.against;
    let Some(handed) = env.handed(about).filter(|it| elapsed(it.since, env.now()) <= AWAITED) else {
        return false;
    };
    draft.flow = Flow {
        flags: flow_flags::TRANSLATE,
        src: handed.addr,
        sport: handed.port,
        dst: about.dst,
        dport: about.dport,
        ..Flow::default()
    };
    true
}

/// Makes an error of the host's stack about a packet that was handed over one about the packet that its sender knows, from where that was
/// addressed to. Others stay as they are.
///
/// # Errors
/// `KernelRefused` when the packet's memory cannot be changed.
pub fn take_back<F: Ip, P: Packet, E: Env<F>>(
    env: &E,
    packet: &mut P,
    headers: &Headers<F>,
) -> Result<(), DropReason> {
    let Some(quote) = icmp_error::quote(packet, headers, HANDED_ZONE) else { return Ok(()) };
    let mut draft = Draft::<F> { quote, ..Draft::default() };
    if recall_handed(env, &mut draft) {
        icmp_error::translate(packet, headers, &quote, &draft.flow)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::{
        fake::{Cast, Fake, FakePacket, Kind, Party, Wire, ifindex, mac},
        family::{V4, V6},
        hook::tests::{TCP_SYN, answer, arrive, leave, wire},
        net::UPLINK_ZONE,
        verdict::Verdict,
        wire::csum,
    };

    /// What the host's stack says about a packet that it forwards at the end of its TTL: time exceeded, in this host's name.
    fn expiry<F: Cast>(about: &[u8], by: Party, to: F::Addr) -> Vec<u8> {
        let kind = if F::V6 { 3 } else { 11 };
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0], &about[14..]].concat();
        let mut frame = Vec::new();
        let step = F::frame(mac(by), mac(Party::Remote), &F::of(by), &to, 64);
        step.write(&mut frame, etherparse::IpNumber(F::ICMP), &message).expect("an error");
        let mut packet = FakePacket::new(frame, ifindex::UP0);
        let at = L3 + F::HEADER + 2;
        let sum = full_checksum::<F>(&packet.bytes);
        packet.store(at, sum).expect("the checksum");
        packet.bytes
    }

    /// The checksum that an ICMP message should have.
    fn full_checksum<F: Cast>(frame: &[u8]) -> [u8; 2] {
        let at = (L3 + F::HEADER) as usize;
        let mut message = frame[at..].to_vec();
        message[2..4].fill(0);
        if message.len() % 2 == 1 {
            message.push(0);
        }
        let mut sum: u64 = message.chunks(2).map(|two| u64::from(u16::from_ne_bytes([two[0], two[1]]))).sum();
        if F::V6 {
            let pseudo =
                [&frame[22..54], &u32::to_be_bytes(frame[at..].len() as u32), &[0, 0, 0, 58]].concat();
            sum += pseudo.chunks(2).map(|two| u64::from(u16::from_ne_bytes([two[0], two[1]]))).sum::<u64>();
        }
        let folded = u32::try_from((sum & 0xffff) + (sum >> 16)).expect("a short message");
        (!csum::fold(folded)).to_ne_bytes()
    }

    /// Takes an error of the stack back, and checks that it quotes the packet as it was sent and comes from where that was sent to.
    fn assert_taken_back<F: Cast>(
        fake: &Fake,
        sent: &[u8],
        handed: &[u8],
        by: Party,
        from: F::Addr,
        to: F::Addr,
    ) where
        Fake: Env<F>,
    {
        let mut packet = FakePacket::new(expiry::<F>(handed, by, to), ifindex::UP0);
        packet.ingress = 0;
        assert!(may_answer_handed::<F, _>(&packet));
        let headers = Headers::<F>::read(&packet).expect("an error");
        take_back::<F, _, _>(fake, &mut packet, &headers).expect("taken back");
        let at = (L3 + F::HEADER) as usize;
        assert_eq!(packet.bytes[at + 8..], sent[14..], "the quote");
        assert_eq!(Headers::<F>::read(&packet).expect("an error").src, from);
        assert_eq!(packet.bytes[at + 2..at + 4], full_checksum::<F>(&packet.bytes));
    }

    fn last<A: Copy>(wire: &Wire<A>) -> Wire<A> {
        Wire { ttl: 1, ..*wire }
    }

    fn published<F: Cast>() -> Fake {
        let mut fake = Fake::new(20_000, 100);
        for port in [8080, 9090] {
            for proto in [6, 17] {
                fake.publish_port::<F>(F::of(Party::Host), proto, port, Party::A1, ifindex::A1, 80);
            }
        }
        fake
    }

    fn from_outside<F: Cast>()
    where
        Fake: Env<F>,
    {
        let fake = published::<F>();
        for (sport, kind) in [(5000, Kind::Udp), (5001, TCP_SYN)] {
            // The second collides with the first in the sandbox, and shows as the gateway there.
            for port in [8080, 9090] {
                let wire = wire::<F>(Party::Remote, sport, Party::Host, port, kind);
                assert!(matches!(arrive::<F>(&fake, &wire).decision, Ok(Verdict::ToSandbox(_))), "control");
                let sent = last(&wire).build::<F>();
                let handed = arrive::<F>(&fake, &last(&wire));
                assert_eq!(handed.decision, Ok(Verdict::Pass));
                let seen = handed.headers();
                assert_eq!((seen.src, seen.dst, seen.ttl), (F::of(Party::Remote), F::of(Party::A1), 1));
                let (from, to) = (F::of(Party::Host), F::of(Party::Remote));
                assert_taken_back::<F>(&fake, &sent, &handed.bytes, Party::Host, from, to);
            }
        }
        // An echo's reply, and a datagram that answers.
        for kind in [Kind::Udp, Kind::Echo { reply: false }] {
            let (id, port) = if kind == Kind::Udp { (6000, 53) } else { (6000, 0) };
            let out = leave::<F>(&fake, ifindex::A1, &wire::<F>(Party::A1, id, Party::Remote, port, kind));
            let kind = if kind == Kind::Udp { kind } else { Kind::Echo { reply: true } };
            let reply = last(&answer::<F>(&out.headers(), kind));
            let handed = arrive::<F>(&fake, &reply);
            assert_eq!((handed.decision, handed.headers().dst), (Ok(Verdict::Pass), F::of(Party::A1)));
            let (from, to) = (F::of(Party::Host), F::of(Party::Remote));
            assert_taken_back::<F>(&fake, &reply.build::<F>(), &handed.bytes, Party::Host, from, to);
        }
    }

    fn from_a_sandbox<F: Cast>()
    where
        Fake: Env<F>,
    {
        let fake = published::<F>();
        let dials = wire::<F>(Party::B1, 5000, Party::Host, 8080, Kind::Udp);
        let handed = leave::<F>(&fake, ifindex::B1, &last(&dials));
        assert_eq!(handed.decision, Ok(Verdict::Pass));
        let seen = handed.headers();
        assert_eq!(
            (seen.src, seen.dst),
            (F::of(Party::B1), F::of(Party::A1)),
            "no gateway's address: a martian"
        );
        let (sent, from, to) = (last(&dials).build::<F>(), F::of(Party::Host), F::of(Party::B1));
        assert_taken_back::<F>(&fake, &sent, &handed.bytes, Party::GatewayB, from, to);
        // On one network nothing is routed, and to the outside the stack forwards it as it is.
        let dials = last(&wire::<F>(Party::A2, 5000, Party::Host, 8080, Kind::Udp));
        assert!(matches!(leave::<F>(&fake, ifindex::A2, &dials).decision, Ok(Verdict::ToSandbox(_))));
        let out = last(&wire::<F>(Party::B1, 5000, Party::Remote, 80, Kind::Udp));
        let passed = leave::<F>(&fake, ifindex::B1, &out);
        assert_eq!((passed.decision, passed.bytes), (Ok(Verdict::Pass), out.build::<F>()));
    }

    fn strangers<F: Cast>()
    where
        Fake: Env<F>,
    {
        let fake = published::<F>();
        let wire = last(&wire::<F>(Party::Remote, 5000, Party::Host, 8080, Kind::Udp));
        let (sent, handed) = (wire.build::<F>(), arrive::<F>(&fake, &wire).bytes);
        let error = expiry::<F>(&handed, Party::Host, F::of(Party::Remote));
        let mut packet = FakePacket::new(error.clone(), ifindex::UP0);
        assert!(!may_answer_handed::<F, _>(&packet), "forwarded, not the host's own");
        packet.ingress = 0;
        let headers = Headers::<F>::read(&packet).expect("an error");
        fake.now.set(fake.now.get() + AWAITED + 1);
        take_back::<F, _, _>(&fake, &mut packet, &headers).expect("left alone");
        assert_eq!(packet.bytes, error, "nobody waits for it any more");
        let other = expiry::<F>(&sent, Party::Host, F::of(Party::Remote));
        let mut packet = FakePacket::new(other.clone(), ifindex::UP0);
        take_back::<F, _, _>(&fake, &mut packet, &headers).expect("left alone");
        assert_eq!(packet.bytes, other, "about another packet");
        let zones: Vec<_> = F::tables(&fake).handed.borrow().keys().map(|key| key.zone).collect();
        assert_eq!(zones, [HANDED_ZONE]);
        assert_ne!(HANDED_ZONE, UPLINK_ZONE);
    }

    #[test]
    fn what_ends_on_its_way_from_outside_is_answered_in_the_name_of_what_was_dialled() {
        from_outside::<V4>();
        from_outside::<V6>();
    }

    #[test]
    fn what_ends_on_its_way_from_a_sandbox_is_answered_in_the_name_of_what_was_dialled() {
        from_a_sandbox::<V4>();
        from_a_sandbox::<V6>();
    }

    #[test]
    fn other_errors_of_the_host_stay_as_they_are() {
        strangers::<V4>();
        strangers::<V6>();
    }
}
