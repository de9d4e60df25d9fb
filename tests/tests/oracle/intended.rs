//! The differences that are meant: what netd does otherwise than the kernel under Docker's rules, and why.
//!
//! Reviewed data: each entry names the row or paragraph it rests on, recognises nothing beyond it, and has an example that a test plays, so that
//! the list does not outlive its reasons.

use netd_tests::Family;

use crate::{
    canon::Delivery,
    difference::Difference,
    plan::{Edge, HostAddress, is_host},
    sequence::{ErrorKind, Event, Flow, Proto, Quote, Sequence, Target, Twist, What, flag},
    world::gateway_role,
};

/// A difference that is meant.
#[derive(Debug)]
pub struct Intended {
    /// The row of the truth table or the paragraph that says so.
    pub id: &'static str,
    /// Why netd does so.
    pub reason: &'static str,
    /// Whether a difference is this one.
    pub explains: fn(&Difference<'_>) -> bool,
    /// Whether the worlds' states are the same afterwards, so that the sequence is compared further.
    pub goes_on: bool,
    /// A sequence whose last event shows it.
    pub example: Example,
}

/// A sequence as data.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// Whether it is of IPv6.
    pub v6: bool,
    /// Its flows.
    pub flows: &'static [Flow],
    /// Its events.
    pub events: &'static [Event],
}

impl Example {
    const fn v4(flows: &'static [Flow], events: &'static [Event]) -> Self {
        Self { v6: false, flows, events }
    }

    /// Returns the sequence.
    pub fn sequence(&self) -> Sequence {
        let family = if self.v6 { Family::V6 } else { Family::V4 };
        Sequence { family, flows: self.flows.to_vec(), events: self.events.to_vec() }
    }
}

/// An ordinary packet of a protocol that has no flags.
const PLAIN: What = What::packet(0);
const SYN: What = What::packet(flag::SYN);
const SYN_ACK: What = What::packet(flag::SYN | flag::ACK);
const ACK: What = What::packet(flag::ACK);
const FIN_ACK: What = What::packet(flag::FIN | flag::ACK);
const RST: What = What::packet(flag::RST);
const IN_ORDER: What = What::Fragments { order: [0, 1, 2], lost: None };
const PORT_UNREACHABLE: What = What::Error { kind: ErrorKind::Port, quote: Quote::Short, by_router: false };
const CUT_SHORT: What = What::Error { kind: ErrorKind::Port, quote: Quote::Cut, by_router: false };
const TO_R: Target = Target::Remote(Edge::R);
const TO_A1: Target = Target::Host(HostAddress::Uplink, 8080);
const TO_C1: Target = Target::Host(HostAddress::Uplink, 7070);
const TO_LOOPBACK: Target = Target::Host(HostAddress::Loopback, 8080);

/// A connection that its opener alone has closed.
const HALF_CLOSE: [Event; 8] = [
    Event::there(SYN),
    Event::back(SYN_ACK),
    Event::there(ACK),
    Event::there(FIN_ACK),
    Event::there(FIN_ACK),
    Event::there(ACK),
    Event::there(SYN),
    Event::back(SYN),
];
/// One that both sides open.
const AT_ONCE: [Event; 4] = [Event::there(SYN), Event::back(SYN), Event::back(ACK), Event::back(SYN)];

/// Whether a connection has ended for the kernel, and not for both its sides.
fn is_half_closed(d: &Difference<'_>) -> bool {
    const ENDS: u8 = flag::FIN | flag::RST;
    let ends = |event: &&Event| matches!(event.what, What::Packet { flags, .. } if flags & ENDS != 0);
    d.before().filter(ends).count() >= 2
}

/// Whether both sides of a connection have opened it, and who was dialled has acknowledged something.
fn is_opened_at_once(d: &Difference<'_>) -> bool {
    const OPENS: u8 = flag::SYN | flag::ACK | flag::RST | flag::FIN;
    let sent = |wanted: fn(u8) -> bool| {
        d.before()
            .any(|event| event.back && matches!(event.what, What::Packet { flags, .. } if wanted(flags)))
    };
    sent(|flags| flags & OPENS == flag::SYN) && sent(|flags| flags & flag::ACK != 0) && !d.is_established()
}

/// All of them.
pub const INTENDED: &[Intended] = &[
    Intended {
        id: "T69 spoofed source",
        reason: "a sandbox speaks for itself alone: another address or Ethernet address than its own goes nowhere",
        explains: |d| {
            let spoofed = matches!(d.event.twist, Twist::SpoofedAddress | Twist::SpoofedMac);
            spoofed && d.sandbox_sends() && d.netd.is_empty()
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Udp, Edge::A1, TO_R)],
            &[Event::there(PLAIN), Event::there(PLAIN).but(Twist::SpoofedAddress)],
        ),
    },
    Intended {
        id: "T70 leak",
        reason: "what belongs to no flow and opens none never leaves with the sandbox's address; a segment's sender is told by a reset",
        explains: |d| {
            let leaks = |seen: &Delivery| {
                seen.edge.is_remote() && seen.source().is_some_and(|ip| Some(ip) == d.sender_ip())
            };
            d.sandbox_sends()
                && !d.sender_shows()
                && d.kernel.iter().all(leaks)
                && d.netd.iter().all(|seen| Some(seen.edge) == d.sender() && seen.is_host_reset())
                && (!d.kernel.is_empty() || !d.netd.is_empty())
        },
        goes_on: true,
        example: Example::v4(&[Flow::new(Proto::Tcp, Edge::A1, TO_R)], &[Event::there(ACK)]),
    },
    Intended {
        id: "T39, T40 bridged",
        reason: "a published port dialled by a neighbour is answered by the gateway's Ethernet address, where br_netfilter leaves the opener's: \
                 what was dialled is behind the gateway",
        explains: |d| {
            let gateway = |seen: &Delivery| seen.bytes[11] == gateway_role(seen.edge);
            let rest = |seen: &[Delivery]| -> Vec<Vec<u8>> {
                seen.iter().map(|seen| [&seen.bytes[..6], &seen.bytes[12..]].concat()).collect()
            };
            d.is_bridged() && d.netd.iter().all(gateway) && rest(&d.netd) == rest(&d.kernel)
        },
        goes_on: true,
        example: Example::v4(&[Flow::new(Proto::Udp, Edge::A2, TO_A1)], &[Event::there(PLAIN)]),
    },
    Intended {
        id: "7.7 state table",
        reason: "netd keeps no window and judges no order: a segment of a known flow is translated and its receiver judges it, where the kernel \
                 finds it invalid and leaks it untranslated, lets the host answer it, or drops it",
        explains: |d| {
            let [netd] = &d.netd[..] else { return false };
            let outside = netd.edge.is_remote() && d.receiver().is_some_and(Edge::is_remote);
            let translated = netd.is_segment() && (Some(netd.edge) == d.receiver() || outside);
            let ended = d.event.twist == Twist::Ttl(1) && netd.is_expiry() && Some(netd.edge) == d.sender();
            let expected = translated || ended;
            let invalid =
                |seen: &Delivery| seen.is_host_reset() || d.is_told(seen) || seen.source() == d.sender_ip();
            d.is_known && d.is_irregular_segment() && expected && d.kernel.iter().all(invalid)
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Tcp, Edge::R, TO_A1)],
            &[Event::there(SYN), Event::back(SYN_ACK), Event::there(ACK), Event::back(SYN)],
        ),
    },
    Intended {
        id: "7.7 half-close",
        reason: "the kernel takes a FIN that is sent again for the other side's, and any reset for an end, and lets a SYN open the connection anew; netd \
                 waits for both sides, so that a SYN of the dialled one meets no connection that opens",
        explains: |d| is_half_closed(d) && d.is_refused_back(),
        goes_on: false,
        example: Example::v4(&[Flow::new(Proto::Tcp, Edge::A1, TO_A1)], &HALF_CLOSE),
    },
    Intended {
        id: "7.7 half-close of neighbours",
        reason: "as above; and the dialled one's SYN, which belongs to no connection, goes to its neighbour as a connection of its own",
        explains: |d| is_half_closed(d) && d.is_direct_back(),
        goes_on: false,
        example: Example::v4(&[Flow::new(Proto::Tcp, Edge::A2, TO_A1)], &HALF_CLOSE),
    },
    Intended {
        id: "7.7 simultaneous open",
        reason: "of two sandboxes that open at once, who was dialled may repeat its SYN until it has acknowledged anything; the kernel lets it until \
                 both have",
        explains: |d| is_opened_at_once(d) && d.is_refused_back(),
        goes_on: false,
        example: Example::v4(&[Flow::new(Proto::Tcp, Edge::A1, TO_A1)], &AT_ONCE),
    },
    Intended {
        id: "7.7 simultaneous open of neighbours",
        reason: "as above; and the dialled one's SYN, which belongs to no connection, goes to its neighbour as a connection of its own",
        explains: |d| is_opened_at_once(d) && d.is_direct_back(),
        goes_on: false,
        example: Example::v4(&[Flow::new(Proto::Tcp, Edge::A2, TO_A1)], &AT_ONCE),
    },
    Intended {
        id: "T64 published within icc=false",
        reason: "a published port is reached through the host by the sandboxes of its own network too, also where they may not talk directly",
        explains: |d| {
            let closed = d.flow.from.place().is_some_and(|(network, _)| !network.icc);
            let there = |seen: &Delivery| Some(seen.edge) == d.receiver();
            let published = closed && d.is_bridged() && matches!(d.flow.to, Target::Host(..));
            published && d.kernel.is_empty() && d.netd.iter().all(there)
        },
        goes_on: false,
        example: Example::v4(&[Flow::new(Proto::Udp, Edge::C2, TO_C1)], &[Event::there(PLAIN)]),
    },
    Intended {
        id: "7.5 walk 3 colliding reply",
        reason: "where the reply's tuple is taken the client shows as the gateway, with a port that netd reserves, and not as itself with a port \
                 that it never had; neighbours that talk directly take none",
        explains: |d| {
            let (Some(kernel), Some(netd)) = (d.kernel.first(), d.netd.first()) else { return false };
            let same = kernel.edge == netd.edge
                && Some(netd.edge) == d.receiver()
                && kernel.but_source() == netd.but_source();
            let gateway = netd.edge.place().map(|(network, _)| network.ip(d.family(), 1));
            let kept = netd.source() == kernel.source();
            !d.event.back
                && d.before().next().is_some()
                && d.kernel.len() == 1
                && d.netd.len() == 1
                && same
                && (netd.source() == gateway || kept)
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Udp, Edge::R, TO_A1)],
            &[Event::back(PLAIN), Event::there(PLAIN)],
        ),
    },
    Intended {
        id: "T27 loopback on the wire",
        reason: "a packet to a loopback address that comes over a wire goes nowhere; Docker's rules translate it when the port is published on \
                 every address",
        explains: |d| d.flow.to_loopback() && d.netd.is_empty(),
        goes_on: false,
        example: Example::v4(&[Flow::new(Proto::Udp, Edge::R, TO_LOOPBACK)], &[Event::there(PLAIN)]),
    },
    Intended {
        id: "7.7 flows that the kernel never confirmed or has ended",
        reason: "a flow opens with its first packet, also when that dies on the host or is a fragment of a datagram that is never completed, and \
                 lingers after a reset: what belongs to it is translated, where the kernel leaks it or takes it for a flow of its own",
        explains: |d| {
            const ENDS: u8 = flag::RST | flag::FIN;
            let died = |event: &Event| match event.what {
                What::Fragments { lost: Some(_), .. } => true,
                What::Packet { .. } | What::Fragments { .. } => event.twist == Twist::Ttl(1),
                What::Error { .. } => false,
            };
            let ended = |event: &Event| matches!(event.what, What::Packet { flags, .. } if flags & ENDS != 0);
            let anew = |seen: &Delivery| {
                Some(seen.edge) == d.receiver() && seen.source().is_some_and(is_host) && d.before().any(died)
            };
            let told = |seen: &Delivery| d.flow.proto == Proto::Sctp && d.is_told(seen);
            let outside = |seen: &Delivery| {
                told(seen)
                    || seen.edge.is_remote()
                    || seen.is_host_reset()
                    || seen.source() == d.sender_ip()
                    || anew(seen)
            };
            let error = matches!(d.event.what, What::Error { .. });
            let shows = |edge: Edge| edge.place().is_some_and(|(network, _)| network.shows());
            let translated = |seen: &Delivery| {
                let shown = !d.sandbox_sends() || d.sender_shows() || seen.source().is_some_and(is_host);
                Some(seen.edge) == d.receiver() && shown
            };
            let about = error && (d.is_known || d.before().any(died));
            let answers = d.kernel.is_empty() && (about || d.receiver().is_some_and(shows));
            let refused = !d.kernel.is_empty() && d.kernel.iter().all(told);
            d.may_send()
                && !d.netd.is_empty()
                && d.before().any(|event| died(event) || ended(event))
                && (d.sandbox_sends() || answers || refused)
                && d.kernel.iter().all(outside)
                && d.netd.iter().all(translated)
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Tcp, Edge::A1, TO_R)],
            &[Event::there(SYN), Event::there(RST), Event::there(PORT_UNREACHABLE)],
        ),
    },
    Intended {
        id: "7.7 opened at the end of its TTL",
        reason: "a flow opens with its first packet, also when that dies on the host: segments of it are translated and their receiver judges them, where \
                 the kernel knows no connection and the host answers with a reset",
        explains: |d| {
            let died = |event: &Event| {
                let opened = matches!(event.what, What::Packet { flags, .. } if flags & flag::SYN != 0);
                opened && !event.back && event.twist == Twist::Ttl(1)
            };
            d.flow.proto == Proto::Tcp
                && !d.is_known
                && !d.event.back
                && matches!(d.flow.to, Target::Host(..))
                && d.before().any(died)
                && !d.kernel.is_empty()
                && d.kernel.iter().all(|seen| seen.is_host_reset() && Some(seen.edge) == d.sender())
                && d.netd.iter().all(|seen| Some(seen.edge) == d.receiver())
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Tcp, Edge::R, TO_A1)],
            &[Event::there(SYN).but(Twist::Ttl(1)), Event::there(IN_ORDER)],
        ),
    },
    Intended {
        id: "7.8 routers behind a sandbox",
        reason: "an error about a flow shows the flow's own address, whatever machine behind the sandbox sent it",
        explains: |d| {
            let error = matches!(d.event.what, What::Error { .. }) && d.event.twist == Twist::SpoofedAddress;
            let own = |seen: &Delivery| {
                Some(seen.edge) == d.receiver()
                    && (seen.source() == d.sender_ip() || seen.source().is_some_and(is_host))
            };
            error && d.sandbox_sends() && !d.netd.is_empty() && d.netd.iter().all(own)
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Udp, Edge::A2, TO_A1)],
            &[Event::there(PLAIN), Event::there(PORT_UNREACHABLE).but(Twist::SpoofedAddress)],
        ),
    },
    Intended {
        id: "7.8 short quotes",
        reason: "an error that quotes less than eight bytes behind the IP header belongs to no flow: no stack sends one (RFC 792)",
        explains: |d| {
            let direct = |seen: &Delivery| Some(seen.edge) == d.receiver() && seen.source() == d.sender_ip();
            matches!(d.event.what, What::Error { quote: Quote::Cut, .. }) && d.netd.iter().all(direct)
        },
        goes_on: true,
        example: Example::v4(
            &[Flow::new(Proto::Other(50), Edge::A1, TO_R)],
            &[Event::there(PLAIN), Event::there(CUT_SHORT)],
        ),
    },
    Intended {
        id: "7.8 quoted fragment",
        reason: "fragments pass as they are, so that an error of the host quotes the first one; the kernel quotes the reassembled datagram, if it is complete",
        explains: |d| {
            let expired = |seen: &Delivery| Some(seen.edge) == d.sender() && seen.is_expiry();
            let What::Fragments { lost, .. } = d.event.what else { return false };
            let told = |seen: &[Delivery]| !seen.is_empty() && seen.iter().all(expired);
            d.event.twist == Twist::Ttl(1)
                && told(&d.netd)
                && (told(&d.kernel) || (lost.is_some() && d.kernel.is_empty()))
        },
        goes_on: true,
        example: Example::v4(
            &[Flow::new(Proto::Udp, Edge::R2, TO_R)],
            &[Event::there(IN_ORDER).but(Twist::Ttl(1))],
        ),
    },
    Intended {
        id: "7.8 options before the fragment header",
        reason: "the kernel's defragmentation for connection tracking loses IPv6 datagrams whose fragments have destination options in front",
        explains: |d| {
            let fragments = matches!(d.event.what, What::Fragments { .. }) && d.event.twist == Twist::Options;
            // Of what it keeps, errors of the host point to another byte.
            let told = d.kernel.iter().chain(&d.netd).all(Delivery::is_error_of_host);
            fragments && d.family() == Family::V6 && (d.kernel.is_empty() || told)
        },
        goes_on: false,
        example: Example {
            v6: true,
            flows: &[Flow::new(Proto::Echo, Edge::R, TO_A1)],
            events: &[Event::there(IN_ORDER).but(Twist::Options)],
        },
    },
    Intended {
        id: "7.4 direct access at the end of its TTL",
        reason: "what may not pass is dropped before its TTL is looked at, and a segment of no flow is reset before; the kernel forwards first and \
                 filters then",
        explains: |d| {
            let reset = |seen: &Delivery| seen.is_host_reset() && Some(seen.edge) == d.sender();
            let expired = |seen: &Delivery| Some(seen.edge) == d.sender() && seen.is_expiry();
            // Of sandboxes that are masqueraded one alone may use such a protocol towards a machine.
            let portless = matches!(d.flow.proto, Proto::Other(_)) && !matches!(d.flow.to, Target::Remote(_));
            let apart = |(from, to): (Edge, Edge)| {
                from != to && !from.is_remote() && !to.is_remote() && !from.is_neighbour_of(to)
            };
            let new = !d.is_open || d.is_irregular_segment();
            let elsewhere = new && d.sender().zip(d.receiver()).is_some_and(apart);
            d.event.twist == Twist::Ttl(1)
                && d.kernel.iter().all(expired)
                && d.netd.iter().all(reset)
                && (portless || elsewhere || d.is_direct() || !d.may_send() || !(d.opens() || d.is_open))
        },
        goes_on: true,
        example: Example::v4(
            &[Flow::new(Proto::Udp, Edge::R, Target::Direct(Edge::I1, 80))],
            &[Event::there(PLAIN).but(Twist::Ttl(1))],
        ),
    },
    Intended {
        id: "7.6 protocols without ports",
        reason: "what such a protocol sends to the host itself is not tracked, and does not keep a sandbox from talking to the same machine",
        explains: |d| {
            let there =
                |seen: &Delivery| Some(seen.edge) == d.receiver() && seen.source().is_some_and(is_host);
            matches!(d.flow.proto, Proto::Other(_))
                && d.sandbox_sends()
                && d.kernel.is_empty()
                && d.netd.iter().all(there)
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Other(47), Edge::R, TO_A1), Flow::new(Proto::Other(47), Edge::A1, TO_R)],
            &[Event::there(PLAIN), Event::there(PLAIN).of(1)],
        ),
    },
    Intended {
        id: "7.6 unknown protocols",
        reason: "a protocol of which nobody knows what an address means to it is dropped, and never sent out with its address exchanged",
        explains: |d| {
            let unknown = matches!(d.flow.proto, Proto::Other(253));
            unknown && d.sandbox_sends() && d.receiver().is_some_and(Edge::is_remote) && d.netd.is_empty()
        },
        goes_on: false,
        example: Example::v4(&[Flow::new(Proto::Other(253), Edge::A1, TO_R)], &[Event::there(PLAIN)]),
    },
    Intended {
        id: "7.14 errors with a bad checksum",
        reason: "checksums are brought along and not verified: a wrong one stays wrong, and the receiver drops the packet",
        explains: |d| {
            let bad = |seen: &Delivery| seen.notes.contains(&"bad transport checksum");
            d.event.twist == Twist::BadChecksum && d.kernel.is_empty() && d.netd.iter().all(bad)
        },
        goes_on: true,
        example: Example::v4(
            &[Flow::new(Proto::Udp, Edge::R2, TO_R)],
            &[
                Event::there(PLAIN),
                Event::back(PLAIN),
                Event::there(PORT_UNREACHABLE).but(Twist::BadChecksum),
            ],
        ),
    },
    Intended {
        id: "T3 replies without masquerade",
        reason: "what answers a known flow of a network that is not masqueraded arrives; Docker's rules against direct access drop it",
        explains: |d| {
            let known = d.is_known || d.before().any(|event| event.back != d.event.back);
            // On the host, where it would have gone on.
            let expired = |seen: &Delivery| {
                d.event.twist == Twist::Ttl(1) && Some(seen.edge) == d.sender() && seen.is_expiry()
            };
            d.receiver() == Some(Edge::M1)
                && known
                && d.kernel.is_empty()
                && d.netd.iter().all(|seen| Some(seen.edge) == d.receiver() || expired(seen))
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Udp, Edge::M1, TO_R)],
            &[Event::there(PLAIN), Event::back(PLAIN)],
        ),
    },
    Intended {
        id: "7.7 nothing begins in the middle",
        reason: "what opens no flow and belongs to none is dropped, or its sender reset, also where a sandbox may be addressed by its own address or \
                 shows it outside; Docker's rules keep no state there",
        explains: |d| {
            let refused =
                |seen: &Delivery| (seen.is_host_reset() && Some(seen.edge) == d.sender()) || d.is_told(seen);
            let there = |seen: &Delivery| {
                Some(seen.edge) == d.receiver()
                    || (seen.edge.is_remote() && d.receiver().is_some_and(Edge::is_remote))
            };
            // To a published port it ends at the host, which is where it is addressed to: it has not come to the end of its TTL there.
            let published = d.flow.proto == Proto::Sctp && matches!(d.flow.to, Target::Host(..));
            let expired = |seen: &Delivery| {
                published
                    && d.event.twist == Twist::Ttl(1)
                    && Some(seen.edge) == d.sender()
                    && seen.is_expiry()
            };
            // Another source is another flow.
            let new = !d.is_open || d.event.twist == Twist::SpoofedAddress;
            !d.opens()
                && new
                && (!d.kernel.is_empty() || d.flow.proto == Proto::Sctp)
                && d.kernel.iter().all(|seen| there(seen) || expired(seen))
                && d.netd.iter().all(refused)
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Tcp, Edge::R, Target::Direct(Edge::U1, 81))],
            &[Event::there(ACK)],
        ),
    },
    Intended {
        id: "7.6 SCTP in fragments",
        reason: "SCTP's checksum covers its ports and all of its data: where ports change, a fragment cannot be translated (SCTP itself cuts what is \
                 too large, RFC 9260 6.9)",
        explains: |d| {
            let fragments = matches!(d.event.what, What::Fragments { .. }) && d.flow.proto == Proto::Sctp;
            fragments && matches!(d.flow.to, Target::Host(..)) && d.netd.is_empty()
        },
        goes_on: false,
        example: Example::v4(
            &[Flow::new(Proto::Sctp, Edge::R, TO_A1)],
            &[Event::there(SYN), Event::back(SYN_ACK), Event::there(ACK), Event::there(IN_ORDER)],
        ),
    },
    Intended {
        id: "7.14 SCTP with a bad checksum",
        reason: "a wrong checksum stays wrong, and the receiver drops the packet; the kernel makes a right one for it where it translates",
        explains: |d| {
            let bad = |seen: &Delivery| seen.notes.contains(&"bad transport checksum");
            let alike =
                |seen: &[Delivery]| -> Vec<_> { seen.iter().map(|s| (s.edge, s.bytes.clone())).collect() };
            d.flow.proto == Proto::Sctp
                && d.event.twist == Twist::BadChecksum
                && alike(&d.kernel) == alike(&d.netd)
                && d.netd.iter().all(bad)
        },
        goes_on: true,
        example: Example::v4(
            &[Flow::new(Proto::Sctp, Edge::R, TO_A1)],
            &[Event::there(SYN).but(Twist::BadChecksum)],
        ),
    },
];

/// Differences that are faults still to be repaired.
pub const OPEN: &[Intended] = &[];
