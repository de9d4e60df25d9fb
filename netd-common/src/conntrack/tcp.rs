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
    /// TCP: both sides closed.
    Closed,
    /// TCP: reset, and nobody has spoken since.
    Reset,
    /// Not TCP: no answer yet.
    Unreplied,
    /// Not TCP: answered.
    Replied,
}

impl State {
    /// Returns a TCP flow's state from the flags that its two directions have seen.
    pub const fn of_tcp(original: u8, reply: u8) -> Self {
        if original & reply & RST != 0 {
            Self::Reset
        } else if original & reply & FIN != 0 {
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
            Self::Reset => timeouts.tcp_reset,
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
            Self::Reset => "reset",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
        }
    }
}

/// Returns what a direction has seen after one more segment. A reset changes nothing by itself: [`super::reset`] judges it. Any other segment
/// takes the mark of an earlier reset away: who goes on speaking was not reset (calico #9605).
pub const fn seen(before: u8, flags: u8) -> u8 {
    if flags & RST != 0 { before } else { (before & !RST) | (flags & (SYN | ACK | FIN)) }
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
    fn a_reset_ends_a_connection_until_either_side_speaks_again() {
        let open = SYN | ACK;
        assert_eq!(State::of_tcp(open | RST, open | RST), State::Reset);
        assert_eq!(State::of_tcp(open | RST, seen(open | RST, ACK)), State::Established);
        assert_eq!(State::of_tcp(seen(open | RST, ACK), open | RST), State::Established);
        assert_eq!(seen(open, RST), open, "the mark is not this function's to make");
    }
}
