//! A packet's place in a fragmented datagram (RFC 791 §3.2, RFC 8200 §4.5), and what of a datagram has been seen.

use crate::{verdict::DropReason, wire::l4};

/// The place of a packet among the fragments of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// Not a fragment (or an atomic one, RFC 6946).
    Whole,
    /// The first: it has the transport header.
    First,
    /// A later one, whose ports are not known: its first has not been seen.
    Later,
    /// A later one that has been given the ports of its first.
    Joined,
    /// One that leaves part of the transport header to another, or rewrites it (RFC 1858, RFC 3128): no flow follows it.
    Tiny,
    /// One that is no part of a flow: the host's own stack judges it, and nobody else gets it.
    Stray,
}

/// A range of a datagram, in units of eight bytes; empty where `end` is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first unit.
    pub start: u16,
    /// The unit behind the last.
    pub end: u16,
}

impl Span {
    /// Moves into `other` what touches it.
    #[inline(always)]
    fn join(&mut self, other: &mut Self) {
        if self.end == 0 {
            return;
        }
        if self.end == other.start {
            (other.start, *self) = (self.start, Self { start: 0, end: 0 });
        } else if self.start == other.end {
            (other.end, *self) = (self.end, Self { start: 0, end: 0 });
        }
    }
}

/// What an IP header says about fragmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which part it is.
    pub fragment: Fragment,
    /// What it holds.
    pub span: Span,
    /// Whether nothing follows it.
    pub last: bool,
}

/// Largest datagram, in bytes.
const LARGEST: u32 = 65_535;

impl Place {
    /// Of a packet that is no fragment.
    pub const WHOLE: Self = Self { fragment: Fragment::Whole, span: Span { start: 0, end: 0 }, last: true };

    /// Reads a place: `start` in units of eight bytes, `length` of what the fragment carries in bytes, `transport` of that from the transport
    /// header on (less by extension headers behind the fragment header).
    ///
    /// # Errors
    /// `Malformed` for what no sender makes: nothing in it, an odd length in the middle, an end beyond the largest datagram.
    #[inline(always)]
    pub const fn new(
        start: u16,
        more: bool,
        length: u32,
        transport: u32,
        proto: u8,
    ) -> Result<Self, DropReason> {
        if start == 0 && !more {
            return Ok(Self::WHOLE);
        }
        let end = start as u32 * 8 + length;
        if length == 0 || end > LARGEST || (more && length & 7 != 0) {
            return Err(DropReason::Malformed);
        }
        let header = l4::smallest_header(proto);
        let fragment = match start {
            0 if transport < header => Fragment::Tiny,
            0 => Fragment::First,
            _ if (start as u32) * 8 < header => Fragment::Tiny,
            _ => Fragment::Later,
        };
        Ok(Self { fragment, span: Span { start, end: end.div_ceil(8) as u16 }, last: !more })
    }
}

/// Ranges of one datagram that are told apart; of more, some are forgotten.
const RANGES: usize = 4;

/// What of a datagram has been seen: up to four ranges with gaps between them.
///
/// A datagram in order or in reverse needs one. Of more ranges than fit the last is forgotten: its overlaps go unseen, no good fragment is refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage([Span; RANGES]);

impl Coverage {
    /// Adds a range; false: part of it has been seen already, and nothing changes.
    #[inline(always)]
    pub fn add(&mut self, mut span: Span) -> bool {
        let mut overlaps = false;
        for seen in &self.0 {
            overlaps |= seen.start < span.end && span.start < seen.end;
        }
        if overlaps {
            return false;
        }
        // Written out: of a loop with branches LLVM makes one that the verifier of Linux 6.1 refuses (`cargo xtask verify` tells).
        let [one, two, three, four] = &mut self.0;
        one.join(&mut span);
        two.join(&mut span);
        three.join(&mut span);
        four.join(&mut span);
        for seen in &mut self.0 {
            if seen.end == 0 {
                *seen = span;
                break;
            }
        }
        true
    }

    /// Whether all of a datagram of so many units has been seen.
    #[inline(always)]
    pub fn is_all(&self, units: u16) -> bool {
        let mut all = false;
        for seen in &self.0 {
            all |= seen.start == 0 && seen.end == units && units != 0;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn places_are_read_and_nonsense_is_refused() {
        use Fragment::{First, Later, Tiny, Whole};
        let place = |start, more, length| {
            Place::new(start, more, length, length, l4::TCP).map(|place| (place.fragment, place.last))
        };
        assert_eq!(place(0, false, 100), Ok((Whole, true)));
        assert_eq!(place(0, true, 1480), Ok((First, false)));
        assert_eq!(place(185, true, 1480), Ok((Later, false)));
        assert_eq!(place(185, false, 1), Ok((Later, true)));
        assert_eq!(place(8191, false, 7), Ok((Later, true)), "the last byte of the largest datagram");
        assert_eq!(place(8191, false, 8), Err(DropReason::Malformed), "the ping of death");
        assert_eq!(place(0x1fff, true, 8), Err(DropReason::Malformed));
        assert_eq!(place(3, true, 13), Err(DropReason::Malformed), "no sender fragments at an odd length");
        assert_eq!(place(3, true, 0), Err(DropReason::Malformed));
        assert_eq!(place(0, true, 16), Ok((Tiny, false)), "its flags are in another fragment");
        assert_eq!(place(1, false, 64), Ok((Tiny, true)), "it rewrites the flags of its first (RFC 3128)");
        assert_eq!(place(2, false, 64), Ok((Tiny, true)));
        assert_eq!(place(3, false, 64), Ok((Later, true)));
        let udp = Place::new(1, false, 8, 8, l4::UDP).map(|place| place.fragment);
        assert_eq!(udp, Ok(Later), "eight bytes hold all of a UDP header");
        let behind_options = Place::new(0, true, 1480, 4, l4::UDP).map(|place| place.fragment);
        assert_eq!(behind_options, Ok(Tiny), "options fill the first fragment");
    }

    /// What has been seen, unit by unit: the model.
    fn overlaps(seen: &[bool], span: Span) -> bool {
        seen[usize::from(span.start)..usize::from(span.end)].iter().any(|unit| *unit)
    }

    proptest! {
        #[test]
        fn a_datagram_in_any_order_is_never_refused(order in Just((0_u16..12).collect::<Vec<_>>()).prop_shuffle()) {
            let mut coverage = Coverage::default();
            for at in order {
                let added = coverage.add(Span { start: at * 5, end: at * 5 + 5 });
                prop_assert!(added);
            }
        }

        #[test]
        fn an_overlap_is_seen_while_the_ranges_fit(spans in proptest::collection::vec((0_u16..200, 1_u16..60), 1..40)) {
            let (mut coverage, mut seen) = (Coverage::default(), [false; 300]);
            for (start, length) in spans {
                let span = Span { start, end: start + length };
                let ranges = seen.windows(2).filter(|pair| !pair[0] && pair[1]).count() + usize::from(seen[0]);
                if overlaps(&seen, span) {
                    prop_assert!(!coverage.add(span), "{span:?} overlaps {coverage:?}");
                } else if ranges < RANGES {
                    prop_assert!(coverage.add(span), "{span:?} does not overlap {coverage:?}");
                    seen[usize::from(span.start)..usize::from(span.end)].fill(true);
                }
            }
        }

        #[test]
        fn all_is_said_when_all_was_seen_and_not_before(reverse in any::<bool>(), parts in 2_u16..30) {
            let mut coverage = Coverage::default();
            for step in 0..parts {
                prop_assert!(!coverage.is_all(parts));
                let at = if reverse { parts - 1 - step } else { step };
                let added = coverage.add(Span { start: at, end: at + 1 });
                prop_assert!(added);
            }
            prop_assert!(coverage.is_all(parts));
        }
    }
}
