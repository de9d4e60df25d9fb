//! Datagrams cut into fragments by hand, to send them in any order (RFC 791 §3.2, RFC 8200 §4.5).

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{Capture, Frame, Ns};

/// Length of an Ethernet header.
const L2: usize = 14;
/// IPv6's fragment header.
const FRAGMENT_HEADER: u8 = 44;

static NEXT_ID: AtomicU32 = AtomicU32::new(0x1000);

/// One end of a link, from which frames go to one neighbour.
#[derive(Debug)]
pub struct Wire {
    /// The socket.
    pub socket: Capture,
    /// The link addresses.
    pub frame: Frame,
}

/// A part of a datagram, from a byte of what IP carries on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it starts, in bytes; a multiple of eight.
    pub start: usize,
    /// Its length in bytes.
    pub length: usize,
    /// Whether it says that more follows.
    pub more: bool,
}

impl Wire {
    /// Opens a namespace's `eth0` towards a neighbour, which it asks for its link address.
    pub fn to(ns: &Ns, neighbour: IpAddr) -> Self {
        let (src, dst) = (ns.link("eth0").expect("eth0").mac, ns.mac_of(neighbour));
        Self { socket: Capture::start(ns, "eth0"), frame: Frame { src, dst } }
    }

    /// Builds a UDP datagram and cuts it for a link with this MTU.
    pub fn datagram(&self, from: SocketAddr, to: SocketAddr, payload: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        self.frame.fragments(from, to, payload, mtu)
    }

    /// Sends frames in this order.
    pub fn send_all<'a>(&self, frames: impl IntoIterator<Item = &'a Vec<u8>>) {
        frames.into_iter().for_each(|frame| self.socket.send(frame));
    }
}

impl Frame {
    /// Builds a UDP datagram and cuts it for a link with this MTU.
    pub fn fragments(&self, from: SocketAddr, to: SocketAddr, payload: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        let whole = self.udp(from, to, payload);
        cut(&whole, &parts(whole.len() - L2, mtu, from.is_ipv4()))
    }
}

/// Returns how a packet of so many bytes is cut for an MTU.
fn parts(length: usize, mtu: usize, v4: bool) -> Vec<Part> {
    let (header, room) = if v4 { (20, mtu - 20) } else { (40, mtu - 48) };
    let (carried, room) = (length - header, room & !7);
    (0..carried)
        .step_by(room)
        .map(|start| Part { start, length: room.min(carried - start), more: start + room < carried })
        .collect()
}

/// Cuts exactly these parts out of a whole frame, under an identification of their own.
pub fn cut(whole: &[u8], parts: &[Part]) -> Vec<Vec<u8>> {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    parts
        .iter()
        .map(|part| if whole[L2] >> 4 == 4 { cut4(whole, *part, id) } else { cut6(whole, *part, id) })
        .collect()
}

fn cut4(whole: &[u8], part: Part, id: u32) -> Vec<u8> {
    let header = usize::from(whole[L2] & 0x0f) * 4;
    let mut frame = whole[..L2 + header].to_vec();
    frame.extend_from_slice(&whole[L2 + header + part.start..][..part.length]);
    let (total, offset) = (header + part.length, (part.start / 8) | (usize::from(part.more) << 13));
    frame[L2 + 2..L2 + 4].copy_from_slice(&low16(total));
    frame[L2 + 4..L2 + 6].copy_from_slice(&low16(id as usize));
    frame[L2 + 6..L2 + 8].copy_from_slice(&low16(offset));
    fix_header(&mut frame);
    frame
}

/// Writes the checksum of an IPv4 header.
pub fn fix_header(frame: &mut [u8]) {
    let header = usize::from(frame[L2] & 0x0f) * 4;
    frame[L2 + 10..L2 + 12].fill(0);
    let sum = frame[L2..L2 + header]
        .chunks_exact(2)
        .fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[L2 + 10..L2 + 12].copy_from_slice(&low16(!folded as usize & 0xffff));
}

fn cut6(whole: &[u8], part: Part, id: u32) -> Vec<u8> {
    let mut frame = whole[..L2 + 40].to_vec();
    let next = std::mem::replace(&mut frame[L2 + 6], FRAGMENT_HEADER);
    frame[L2 + 4..L2 + 6].copy_from_slice(&low16(8 + part.length));
    let [high, low] = low16(part.start | usize::from(part.more));
    frame.extend_from_slice(&[next, 0, high, low]);
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&whole[L2 + 40 + part.start..][..part.length]);
    frame
}

/// The low two bytes, as the wire has them.
fn low16(number: usize) -> [u8; 2] {
    let [.., high, low] = number.to_be_bytes();
    [high, low]
}

/// Puts a list into an order that a seed fixes (Fisher and Yates, over a linear congruential generator).
pub fn shuffle<T>(list: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..list.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        list.swap(last, (state >> 33) as usize % (last + 1));
    }
}
