//! What the life of a flow depends on: its two entries, read together.
//!
//! Nothing of this is stored: state and timeout follow from what each direction has seen and when.

use super::State;
use crate::{
    maps::{Flow, Timeouts, Tuple, flow_flags},
    net::Be16,
    wire::l4,
};

/// Port of name servers.
const DNS: u16 = 53;

/// What the life of a flow depends on, from one of its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Half {
    /// TCP flags seen.
    pub seen: u8,
    /// Whether a packet came.
    pub used: bool,
    /// Whether this direction opened the flow.
    pub original: bool,
    /// Whether one of its ports is that of name servers.
    pub dns: bool,
    /// Tick of the last packet, or of creation.
    pub last: u32,
    /// Tick of creation.
    pub created: u32,
    /// What both halves of one flow have in common.
    pub generation: u32,
}

/// Returns the ticks from `last` to `now`. A packet may have come after `now` was read: that is no time at all, and not the clock's whole range.
pub const fn elapsed(last: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(last);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

impl Half {
    /// Takes what matters out of an entry.
    pub fn of<A>(key: &Tuple<A>, flow: &Flow<A>) -> Self {
        let dns = Be16::from(DNS);
        Self {
            seen: flow.seen,
            used: flow.last_seen != 0,
            original: flow.flags & flow_flags::ORIGINAL != 0,
            dns: key.sport == dns || key.dport == dns,
            last: if flow.last_seen == 0 { flow.created } else { flow.last_seen },
            created: flow.created,
            generation: flow.generation,
        }
    }

    /// Returns the other half if it is of the same flow; an entry of another generation is another flow's, which took the tuple.
    pub fn partner(self, other: Option<Self>) -> Option<Self> {
        other.filter(|other| other.generation == self.generation)
    }

    /// As [`Self::partner`], for programs: the partner and true, or a silent one.
    ///
    /// No `Option`: of one that lives across calls LLVM reloads parts that nobody has stored, which the verifier of Linux 6.1 refuses.
    #[inline(always)]
    pub fn partner_or_silence(self, other: Option<Self>) -> (Self, bool) {
        match other {
            Some(other) if other.generation == self.generation => (other, true),
            _ => (Self::default(), false),
        }
    }

    /// Returns the state of the flow whose other half is given.
    pub fn state_with(self, other: Self, proto: u8) -> State {
        let (original, reply) = if self.original { (self, other) } else { (other, self) };
        match (proto, reply.used) {
            (l4::TCP, _) => State::of_tcp(original.seen, reply.seen),
            (_, true) => State::Replied,
            (_, false) => State::Unreplied,
        }
    }

    /// Returns the ticks since the last packet of either half.
    pub fn idle_with(self, other: Self, now: u32) -> u32 {
        let (a, b) = (elapsed(self.last, now), elapsed(other.last, now));
        if a < b { a } else { b }
    }

    /// Returns the flow's timeout in ticks.
    pub fn timeout_with(self, other: Self, proto: u8, timeouts: &Timeouts) -> u32 {
        let state = self.state_with(other, proto);
        let (a, b) = (elapsed(self.created, self.last), elapsed(self.created, other.last));
        // A question and its answer are all that most flows to a name server are. One that goes on is a session, whatever its port.
        let brief = a <= timeouts.udp_dns && b <= timeouts.udp_dns;
        if proto == l4::UDP && state == State::Replied && self.dns && brief {
            return timeouts.udp_dns;
        }
        state.timeout(proto, timeouts)
    }

    /// Whether the flow has outlived its timeout. A missing other half counts as silent.
    pub fn is_dead_with(self, other: Self, proto: u8, timeouts: &Timeouts, now: u32) -> bool {
        self.idle_with(other, now) > self.timeout_with(other, proto, timeouts)
    }

    /// Whether both sides of a connection have closed it, or a reset that nobody has objected to for longer than `challenge` ticks has ended it.
    pub fn is_over_with(self, other: Self, proto: u8, challenge: u32, now: u32) -> bool {
        match self.state_with(other, proto) {
            State::Closed => true,
            State::Reset => self.idle_with(other, now) > challenge,
            _ => false,
        }
    }

    /// Whether nobody would miss the flow: an attempt that nobody has confirmed, or an end.
    ///
    /// Only a handshake that is completed proves that the opener's address is its own. Where there is no handshake, one that answers are still
    /// going to is kept for `grace` ticks; what comes later opens the same flow again, since a published port leads to one place.
    pub fn is_unconfirmed_with(self, other: Self, proto: u8, grace: u32, now: u32) -> bool {
        match self.state_with(other, proto) {
            State::SynSent | State::SynReceived | State::Unreplied => true,
            State::Closed | State::Reset | State::Replied => self.idle_with(other, now) > grace,
            State::Established | State::Closing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::l4::{ACK, FIN, RST, SYN, TCP, UDP};

    fn timeouts() -> Timeouts {
        Timeouts { tcp_established: 100, udp: 30, udp_replied: 120, udp_dns: 10, ..Timeouts::default() }
    }

    fn half(seen: u8, original: bool, created: u32, last: u32) -> Half {
        Half { seen, used: true, original, dns: false, last, created, generation: 1 }
    }

    #[test]
    fn a_packet_that_came_after_the_clock_was_read_keeps_its_flow() {
        let now = 1000;
        let busy = |original| half(SYN | ACK, original, 900, now + 1);
        assert_eq!(busy(true).idle_with(busy(false), now), 0);
        assert!(!busy(true).is_dead_with(busy(false), TCP, &timeouts(), now));
        let silent = |original| Half { last: now - 200, ..busy(original) };
        assert!(silent(true).is_dead_with(silent(false), TCP, &timeouts(), now));
    }

    #[test]
    fn an_answered_question_to_a_name_server_is_soon_forgotten_and_a_session_on_its_port_is_not() {
        let dns = |original, last| Half { dns: true, ..half(0, original, 1000, last) };
        let asked = |last| dns(true, 1000).timeout_with(dns(false, last), UDP, &timeouts());
        assert_eq!((asked(1001), asked(1010), asked(1011)), (10, 10, 120));
        let unanswered = Half { used: false, ..dns(false, 1000) };
        assert_eq!(dns(true, 1000).timeout_with(unanswered, UDP, &timeouts()), 30);
        assert_eq!(half(0, true, 1000, 1000).timeout_with(half(0, false, 1000, 1001), UDP, &timeouts()), 120);
    }

    #[test]
    fn only_attempts_and_ends_are_unconfirmed() {
        let (grace, now) = (15, 1000);
        for (proto, original, reply, idle, expected) in [
            (TCP, SYN, 0, 0, true),
            (TCP, SYN, SYN | ACK, 0, true),
            (TCP, SYN | ACK, SYN | ACK, 0, false),
            (TCP, SYN | ACK, SYN | ACK, 5000, false),
            (TCP, SYN | ACK | FIN, SYN | ACK, 5000, false), // half-closed
            (TCP, SYN | ACK | FIN, SYN | ACK | FIN, 15, false),
            (TCP, SYN | ACK | FIN, SYN | ACK | FIN, 16, true),
            (TCP, SYN | ACK | RST, SYN | ACK | RST, 16, true),
            (UDP, 0, 0, 15, false),
            (UDP, 0, 0, 16, true),
        ] {
            let at = 10_000 + now - idle;
            let unconfirmed = half(original, true, 1, at).is_unconfirmed_with(
                half(reply, false, 1, at),
                proto,
                grace,
                10_000 + now,
            );
            assert_eq!(unconfirmed, expected, "{proto} {original:#x} {reply:#x} idle {idle}");
        }
        let unanswered = Half { used: false, ..half(0, false, 1000, 1000) };
        assert!(half(0, true, 1000, 1000).is_unconfirmed_with(unanswered, UDP, grace, 1000));
    }
}
