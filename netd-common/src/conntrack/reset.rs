//! Which resets are believed.
//!
//! Every reset is passed on: the receiver knows its windows and judges by RFC 5961 §3.2. What has to be decided here is whether the flow goes
//! soon. A reset is believed when its sequence number is near what the other side last acknowledged, of which each entry keeps the upper half; then
//! it marks both entries, and any later segment of either side takes its own mark away. So neither a blind forgery nor one that the
//! receiver answers by a challenge ends an idle connection, and no window is tracked.

use super::seq_near;
use crate::{
    env::{Env, Packet},
    family::Ip,
    maps::Tuple,
    net::Be16,
    wire::{
        Headers,
        l4::{ACK, RST, TCP_SEQUENCE},
    },
};

/// Marks both entries of the flow that a reset belongs to, if the reset is believed.
#[inline(always)]
pub fn judge<F: Ip, P: Packet, E: Env<F>>(env: &E, packet: &P, headers: &Headers<F>, key: &Tuple<F::Addr>) {
    let Ok(wire) = packet.load::<2>(headers.l4_offset + TCP_SEQUENCE) else { return };
    let Some(other) = env.flow(key).map(|flow| key.counterpart(&flow)) else { return };
    let Some(mut theirs) = env.flow(&other) else { return };
    // Without an acknowledgement there is nothing to compare with, and not much to lose: the handshake goes on with the next segment.
    if theirs.seen & ACK != 0 && !seq_near(theirs.acked, Be16::from_wire(wire).into()) {
        return;
    }
    theirs.seen |= RST;
    drop(theirs);
    if let Some(mut mine) = env.flow(key) {
        mine.seen |= RST;
    }
}
