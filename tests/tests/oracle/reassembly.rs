//! Puts datagrams together as a receiver would: where a packet is cut is no difference, whether it arrives whole is.
//!
//! The kernel's connection tracking reassembles and cuts again; netd passes fragments as they come. An incomplete datagram counts as not
//! delivered, as its receiver has it.

use std::collections::BTreeMap;

use crate::{layout::Layout, plan::Edge};

/// Frames as they were seen at an edge.
pub type Frames = Vec<(Edge, Vec<u8>)>;

/// What makes fragments one datagram.
type Datagram = (Edge, std::net::IpAddr, std::net::IpAddr, u32);

/// Replaces fragments by the whole packets that they make up.
pub fn reassemble(frames: Frames) -> Frames {
    let mut whole = Frames::new();
    let mut open: BTreeMap<Datagram, Vec<(Layout, Vec<u8>)>> = BTreeMap::new();
    for (edge, bytes) in frames {
        match Layout::of_frame(&bytes) {
            Some(layout) if layout.fragment.is_some() => {
                let id = layout.fragment.map_or(0, |fragment| fragment.id);
                open.entry((edge, layout.src, layout.dst, id)).or_default().push((layout, bytes));
            }
            _ => whole.push((edge, bytes)),
        }
    }
    for ((edge, ..), pieces) in open {
        whole.extend(join(pieces).map(|bytes| (edge, bytes)));
    }
    whole
}

/// Joins the pieces of one datagram; None when one is missing, or two overlap.
fn join(mut pieces: Vec<(Layout, Vec<u8>)>) -> Option<Vec<u8>> {
    pieces.sort_by_key(|(layout, _)| layout.fragment.map(|fragment| fragment.offset));
    let (layout, first) = pieces.first()?.clone();
    let place = layout.fragment?;
    let mut payload: Vec<u8> = Vec::new();
    for (layout, bytes) in &pieces {
        if layout.fragment?.offset != payload.len() {
            return None;
        }
        payload.extend(&bytes[layout.l4..layout.end]);
    }
    if pieces.last()?.0.fragment?.more {
        return None;
    }
    let header = if layout.v4 { layout.l4 } else { place.header };
    let mut bytes = first[..header].to_vec();
    let l3 = layout.l3;
    if layout.v4 {
        let total = u16::try_from(header - l3 + payload.len()).ok()?;
        bytes[l3 + 2..l3 + 4].copy_from_slice(&total.to_be_bytes());
        bytes[l3 + 6..l3 + 8].fill(0);
        bytes[l3 + 10..l3 + 12].fill(0);
        let sum = !crate::packet::fold(crate::packet::sum(&bytes[l3..header]));
        bytes[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let length = u16::try_from(header - l3 - 40 + payload.len()).ok()?;
        bytes[l3 + 4..l3 + 6].copy_from_slice(&length.to_be_bytes());
        bytes[place.next_at] = layout.proto;
    }
    bytes.extend(payload);
    Some(bytes)
}
