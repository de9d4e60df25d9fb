//! The common form of what two worlds delivered: what may differ is renamed or removed, all other bytes are compared.
//!
//! Renamed: Ethernet addresses by their owner, ports that the host chose by their first use. Removed: checksums that were verified, and the
//! identification of packets that the host made itself.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::{
    layout::Layout,
    packet::{ETHERNET, crc32c, fold, lite_sum, number, sum, transport_sum},
    plan::{Edge, is_dialled, is_host},
    sequence::flags_text,
};

/// TTL of packets that the host makes itself (`net.ipv4.ip_default_ttl`).
const FRESH: u8 = 64;
/// The first name of a port that the host chose.
const CHOSEN: u16 = 0xf000;

/// A frame in its common form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery {
    /// Where it was seen.
    pub edge: Edge,
    /// Its bytes after renaming.
    pub bytes: Vec<u8>,
    /// What is wrong with its checksums.
    pub notes: Vec<&'static str>,
}

/// A port that the host chose, with whom it is used.
type Chosen = (u8, IpAddr, u16, IpAddr, u16);

/// The names of one sequence in one world.
#[derive(Clone, Debug, Default)]
pub struct Names {
    ports: BTreeMap<Chosen, u16>,
}

impl Names {
    /// Brings a frame into the common form. `owner` names Ethernet addresses.
    pub fn canonical(&mut self, edge: Edge, frame: &[u8], owner: impl Fn([u8; 6]) -> Option<u8>) -> Delivery {
        let mut bytes = frame.to_vec();
        let mut notes = Vec::new();
        for at in [0, 6] {
            let mac = <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap_or_default();
            if let Some(role) = owner(mac) {
                bytes[at..at + 6].copy_from_slice(&[2, 0, 0, 0, 0, role]);
            }
        }
        let Some(layout) = Layout::of_frame(frame) else { return Delivery { edge, bytes, notes } };
        bytes.truncate(layout.end); // Ethernet padding
        verify(&layout, frame, &mut notes);
        self.rename(&layout, &mut bytes);
        if let Some(quoted) = layout.quoted(frame) {
            self.canonical_quote(&quoted, &mut bytes, &mut notes);
        }
        let l3 = layout.l3;
        if layout.v4 {
            bytes[l3 + 10..l3 + 12].fill(0);
        }
        if let Some(at) = layout.checksum_at() {
            bytes[at..at + 2].fill(0);
        }
        if let Some(at) = layout.crc_at() {
            bytes[at..at + 4].fill(0);
        }
        if is_made_by_host(&layout) {
            let id = if layout.v4 { l3 + 4..l3 + 6 } else { l3 + 1..l3 + 4 };
            bytes[id].fill(0);
        }
        Delivery { edge, bytes, notes }
    }

    fn canonical_quote(&mut self, quoted: &Layout, bytes: &mut [u8], notes: &mut Vec<&'static str>) {
        if quoted.v4 && fold(sum(&bytes[quoted.l3..quoted.l4.min(quoted.end)])) != 0xffff {
            notes.push("bad quoted IP checksum");
        }
        self.rename(quoted, bytes);
        if let Some(at) = quoted.crc_at() {
            bytes[at..at + 4].fill(0); // over bytes that a quote need not have: nobody can check it
        }
        if let Some(at) = quoted.checksum_at()
            && bytes[at..at + 2] == [0xff, 0xff]
            && quoted.proto != number::UDP
        {
            bytes[at..at + 2].fill(0); // two ways to write one checksum
        }
    }

    /// Replaces the ports that the host chose, and brings the transport checksum along.
    fn rename(&mut self, layout: &Layout, bytes: &mut [u8]) {
        let (source, destination) = layout.ports_at(bytes);
        let (sport, dport) = layout.ports(bytes);
        let ends = [
            (source, layout.src, sport, layout.dst, dport),
            (destination, layout.dst, dport, layout.src, sport),
        ];
        for (at, host, port, peer, peer_port) in ends {
            let Some(at) = at.filter(|_| is_host(host) && !is_dialled(port)) else { continue };
            let next = CHOSEN + u16::try_from(self.ports.len()).unwrap_or_default();
            let name = *self.ports.entry((layout.proto, host, port, peer, peer_port)).or_insert(next);
            bytes[at..at + 2].copy_from_slice(&name.to_be_bytes());
            let none = |at: usize| layout.proto == number::UDP && bytes[at..at + 2] == [0, 0];
            if let Some(sum_at) = layout.checksum_at().filter(|&at| !none(at)) {
                let old = u16::from_be_bytes([bytes[sum_at], bytes[sum_at + 1]]);
                let new = !fold(u64::from(!old) + u64::from(!port) + u64::from(name)); // RFC 1624
                bytes[sum_at..sum_at + 2].copy_from_slice(&new.to_be_bytes());
            }
        }
    }
}

/// Whether the host made the packet itself, rather than passing it on.
pub fn is_made_by_host(layout: &Layout) -> bool {
    layout.ttl == FRESH
}

fn verify(layout: &Layout, bytes: &[u8], notes: &mut Vec<&'static str>) {
    if layout.v4 && fold(sum(&bytes[layout.l3..layout.l4])) != 0xffff {
        notes.push("bad IP checksum");
    }
    if layout.cut || layout.fragment.is_some() {
        return;
    }
    let transport = &bytes[layout.l4..layout.end];
    if let Some(at) = layout.crc_at()
        && bytes[at..at + 4] != crc32c(transport).to_le_bytes()
    {
        notes.push("bad transport checksum");
    }
    let Some(at) = layout.checksum_at() else { return };
    if layout.proto == number::UDP && bytes[at..at + 2] == [0, 0] {
        notes.push("no UDP checksum");
    } else if layout.proto == number::LITE {
        if transport.len() < 8 || lite_sum(transport, layout.src, layout.dst) != 0 {
            notes.push("bad transport checksum");
        }
    } else if transport_sum(transport, layout.src, layout.dst, layout.proto) != 0 {
        notes.push("bad transport checksum");
    }
}

impl Delivery {
    /// Reads its headers again.
    pub fn layout(&self) -> Option<Layout> {
        Layout::of_frame(&self.bytes)
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = |at: usize| format!("{:02x}", self.bytes.get(at).copied().unwrap_or_default());
        write!(f, "at {}: mac {}>{} ", self.edge, role(11), role(5))?;
        match self.layout() {
            Some(layout) => describe(f, &layout, &self.bytes)?,
            None => write!(f, "{:02x?}", self.bytes.get(ETHERNET - 2..).unwrap_or_default())?,
        }
        if self.notes.is_empty() { Ok(()) } else { write!(f, " ({})", self.notes.join(", ")) }
    }
}

fn describe(f: &mut fmt::Formatter<'_>, layout: &Layout, bytes: &[u8]) -> fmt::Result {
    let (sport, dport) = layout.ports(bytes);
    let name = |port: u16| if port >= CHOSEN { format!("chosen{}", port - CHOSEN) } else { port.to_string() };
    let proto = match layout.proto {
        number::TCP => "tcp".into(),
        number::UDP => "udp".into(),
        number::SCTP => format!("sctp chunk {}", bytes.get(layout.l4 + 12).copied().unwrap_or_default()),
        number::LITE => "udp-lite".into(),
        number::ICMP | number::ICMP6 => {
            let code = bytes.get(layout.l4 + 1).copied().unwrap_or_default();
            format!("icmp {}/{code}", layout.kind(bytes).unwrap_or_default())
        }
        other => format!("protocol {other}"),
    };
    write!(
        f,
        "{proto} {} port {} > {} port {} ttl {} id {:#x} length {}",
        layout.src,
        name(sport),
        layout.dst,
        name(dport),
        layout.ttl,
        layout.tag,
        layout.end - layout.l3
    )?;
    if layout.cut {
        write!(f, " cut")?;
    }
    if let Some(flags) = layout.flags(bytes) {
        write!(f, " {}", flags_text(flags))?;
    }
    if let Some(fragment) = layout.fragment {
        write!(f, " fragment at {}{}", fragment.offset, if fragment.more { "+" } else { "" })?;
    }
    if let Some(quoted) = layout.quoted(bytes) {
        write!(f, " quoting [")?;
        describe(f, &quoted, bytes)?;
        write!(f, "]")?;
    }
    Ok(())
}
