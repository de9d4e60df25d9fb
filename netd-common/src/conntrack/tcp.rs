//! The state of a flow, read from what each direction has seen. No state is stored: it cannot get out of step.

use crate::{
    maps::Timeouts,
    wire::l4::{ACK, FIN, RST, SYN},
};

/// The state of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// TCP: the opener's SYN.
    SynSent,
    /// TCP: both SYNs.
    SynReceived,
    /// TCP: open.
    Established,
    /// TCP: one side has closed; data may still flow the other way for as long as it likes.
    Closing,
    /// TCP: both sides closed, or one was reset.
    Closed,
    /// Not TCP: no answer yet.
    Unreplied,
    /// Not TCP: answered.
    Replied,
}

impl State {
    /// Returns a TCP flow's state from the flags that its two directions have seen.
    pub const fn of_tcp(original: u8, reply: u8) -> Self {
        if (original | reply) & RST != 0 || original & reply & FIN != 0 {
            Self::Closed
        } else if (original | reply) & FIN != 0 {
            Self::Closing
        } else if reply & SYN == 0 {
            Self::SynSent
        } else if original & ACK == 0 {
            Self::SynReceived
        } else {
            Self::Established
        }
    }

    /// Returns the timeout of this state, in ticks.
    pub const fn timeout(self, proto: u8, timeouts: &Timeouts) -> u32 {
        match self {
            Self::SynSent => timeouts.tcp_syn_sent,
            Self::SynReceived => timeouts.tcp_syn_recv,
            Self::Established => timeouts.tcp_established,
            Self::Closing => timeouts.tcp_closing,
            Self::Closed => timeouts.tcp_closed,
            Self::Unreplied | Self::Replied => match (proto, self) {
                (crate::wire::l4::UDP, Self::Replied) => timeouts.udp_replied,
                (crate::wire::l4::UDP, _) => timeouts.udp,
                (1 | 58, _) => timeouts.icmp,
                _ => timeouts.other,
            },
        }
    }

    /// Returns the word that `netd flow ls` prints.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
        }
    }
}

/// Returns what a direction has seen after one more segment.
///
/// A reset marks the direction; any later segment that is none clears the mark (calico #9605), so that a forged reset ends no flow that goes on
/// within the timeout of a closed one. An idle connection has no such segment: windows are not tracked.
pub const fn seen(before: u8, flags: u8) -> u8 {
    if flags & RST != 0 { before | RST } else { (before & !RST) | (flags & (SYN | ACK | FIN)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_connection_follows_its_flags() {
        let (mut original, mut reply) = (0, 0);
        for (from_opener, flags, state) in [
            (true, SYN, State::SynSent),
            (true, SYN, State::SynSent), // resent
            (false, SYN | ACK, State::SynReceived),
            (true, ACK, State::Established),
            (false, ACK, State::Established),
            (true, FIN | ACK, State::Closing),
            (false, ACK, State::Closing), // half-closed: the other side goes on
            (false, FIN | ACK, State::Closed),
            (true, ACK, State::Closed),
        ] {
            let side = if from_opener { &mut original } else { &mut reply };
            *side = seen(*side, flags);
            assert_eq!(State::of_tcp(original, reply), state, "after {flags:#x}");
        }
    }

    #[test]
    fn a_reset_followed_by_data_ends_nothing() {
        let (original, reply) = (SYN | ACK, SYN | ACK);
        let reset = seen(reply, RST);
        assert_eq!(State::of_tcp(original, reset), State::Closed);
        assert_eq!(State::of_tcp(original, seen(reset, ACK)), State::Established);
    }
}
