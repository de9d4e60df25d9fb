//! Packets out of any bytes: what fuzzing feeds to the hooks, on the host and in the kernel alike.

use std::{vec, vec::Vec};

use super::{Cast, Kind, Party, Wire, ifindex, mac, malformed::Hook};

/// Where packets are met.
pub const PLACES: [Hook; 7] = [
    Hook::FromEndpoint(ifindex::A1),
    Hook::FromUplink,
    Hook::FromEndpoint(ifindex::A2),
    Hook::FromEndpoint(ifindex::B1),
    Hook::ToEndpoint { ifindex: ifindex::A1, ingress: ifindex::UP0 },
    Hook::ToEndpoint { ifindex: ifindex::A2, ingress: ifindex::A1 },
    Hook::ToUplink,
];
const PARTIES: [Party; 8] = [
    Party::A1,
    Party::Remote,
    Party::Host,
    Party::A2,
    Party::B1,
    Party::GatewayA,
    Party::GatewayB,
    Party::Remote2,
];
const PORTS: [u16; 8] = [80, 8080, 10_000, 10_001, 4000, 53, 443, 10_007];

/// Reads a script of packets: six bytes each say where, from whom, to whom, which ports, what, and how many of the next bytes spoil it (pairs of
/// place and value).
pub fn packets<F: Cast>(data: &[u8]) -> Vec<(Hook, Vec<u8>)> {
    let mut rest = data;
    let mut packets = Vec::new();
    while let [place, parties, ports, kind, ttl, spoilt, tail @ ..] = rest {
        let at = PLACES[usize::from(*place) % PLACES.len()];
        let pick = |n: u8| PARTIES[usize::from(n) % PARTIES.len()];
        let port = |n: u8| PORTS[usize::from(n) % PORTS.len()];
        let wire = Wire {
            from: mac(pick(*parties)),
            src: F::of(pick(*parties)),
            dst: F::of(pick(*parties >> 4)),
            sport: port(*ports),
            dport: port(*ports >> 4),
            kind: kind_of(*kind),
            ttl: if *ttl < 4 { *ttl } else { 64 },
        };
        let mut frame = wire.build::<F>();
        let count = usize::from(*spoilt % 8).min(tail.len() / 2);
        for pair in tail[..2 * count].chunks_exact(2) {
            let at = 14 + usize::from(pair[0]);
            match frame.get_mut(at) {
                Some(byte) => *byte = pair[1],
                None => frame.truncate(14 + usize::from(pair[1])),
            }
        }
        rest = &tail[2 * count..];
        packets.push((at, frame));
    }
    packets
}

/// Returns the packet that an error of [`error`] is about, as a1 sends it.
pub fn asked<F: Cast>(data: &[u8]) -> Option<Vec<u8>> {
    let [_, _, _, flow, ..] = data else { return None };
    Some(asking::<F>(*flow).build::<F>())
}

fn asking<F: Cast>(flow: u8) -> Wire<F::Addr> {
    let (src, dst) = (F::of(Party::A1), F::of(Party::Remote));
    Wire { from: mac(Party::A1), src, dst, sport: 4000, dport: 53, kind: kind_of(flow), ttl: 64 }
}

/// Builds an error from outside about a packet that was sent: type, code and length of the quote come from the data, then pairs of place and value
/// that spoil it.
pub fn error<F: Cast>(sent: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let [kind, code, cut, flow, spoilt @ ..] = data else { return None };
    let outer = Wire {
        from: mac(Party::Remote),
        src: F::of(Party::Remote),
        dst: F::of(Party::Host),
        kind: Kind::Other(F::ICMP),
        ..asking::<F>(*flow)
    };
    let mut frame = outer.build::<F>();
    let header = 14 + F::HEADER as usize;
    frame.truncate(header);
    frame.extend([*kind, *code, 0, 0, 0, 0, 0, 0]);
    frame.extend(&sent[14..sent.len() - usize::from(*cut) % (sent.len() - 14)]);
    let (at, length) = if F::V6 { (18, frame.len() - header) } else { (16, frame.len() - 14) };
    frame[at..at + 2].copy_from_slice(&u16::try_from(length).unwrap_or_default().to_be_bytes());
    for pair in spoilt.chunks_exact(2).take(16) {
        if let Some(byte) = frame.get_mut(14 + usize::from(pair[0])) {
            *byte = pair[1];
        }
    }
    Some(frame)
}

/// Puts bytes behind an Ethernet header of the family.
pub fn framed<F: Cast>(data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes.extend(F::ETHERTYPE.to_wire());
    bytes.extend(data);
    bytes
}

/// What a packet carries, by a byte.
pub fn kind_of(byte: u8) -> Kind {
    match byte % 8 {
        0 => Kind::Tcp(0x02),
        1 => Kind::Udp,
        2 => Kind::Tcp(0x10),
        3 => Kind::Tcp(0x12),
        4 => Kind::Tcp(byte >> 3),
        5 => Kind::Echo { reply: false },
        6 => Kind::Echo { reply: true },
        _ => Kind::Other([47, 50, 132, 255][usize::from(byte >> 3) % 4]),
    }
}
