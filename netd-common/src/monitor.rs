//! What the programs tell of the packets that they drop while somebody listens, and how much of it at most (ADR 0023).

use crate::net::IfIndex;

/// Bytes of a packet that are told: every header that netd reads, IPv6 options included in most packets.
pub const CAPTURED: usize = 128;

/// Bytes of the ring buffer `EVENTS`: six thousand sightings.
pub const RING_BYTES: u32 = 1 << 20;

/// What a program tells of a packet that it drops: a record of `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When, in nanoseconds of the monotonic clock.
    pub at: u64,
    /// The device that it arrived on, or was to leave by.
    pub ifindex: IfIndex,
    /// The device by which it entered the host; 0: the host made it.
    pub ingress: IfIndex,
    /// Its length in bytes.
    pub length: u32,
    /// Packets of its kind since the last that was told: no token was left for them, or no room.
    pub unseen: u32,
    /// The mark that others have given it.
    pub mark: u32,
    /// How many of `bytes` are its own.
    pub captured: u16,
    /// Number of the drop reason.
    pub reason: u8,
    /// One of [`program`].
    pub program: u8,
    /// The packet from its first header on.
    pub bytes: [u8; CAPTURED],
}
const _: () = assert!(size_of::<Sighting>() == 8 + 5 * 4 + 2 + 1 + 1 + CAPTURED);
const _: () = assert!(RING_BYTES.is_power_of_two());

/// Which program tells: values of [`Sighting::program`].
pub mod program {
    /// What a sandbox sends.
    pub const FROM_ENDPOINT: u8 = 1;
    /// What is delivered to a sandbox.
    pub const TO_ENDPOINT: u8 = 2;
    /// What arrives from outside.
    pub const FROM_UPLINK: u8 = 3;
    /// What leaves by an uplink.
    pub const TO_UPLINK: u8 = 4;
    /// What leaves by an uplink whose packets begin with IP.
    pub const TO_BARE_UPLINK: u8 = 5;
    /// What the host sends to itself.
    pub const FROM_LOOPBACK: u8 = 6;
    /// What a sandbox sends, on its own side of a netkit.
    pub const FROM_NETKIT: u8 = 7;
    /// Their names, by these numbers.
    pub const NAMES: [&str; 8] = [
        "",
        "from_endpoint",
        "to_endpoint",
        "from_uplink",
        "to_uplink",
        "to_bare_uplink",
        "from_loopback",
        "from_netkit",
    ];
}

/// Tokens that a bucket holds: so many packets of a kind are told at once.
pub const BURST: u32 = 64;
/// Tokens that come back each tick (67 ms): 119 a second.
pub const REFILL: u32 = 8;
/// Devices with buckets of their own; others share them.
const DEVICES: u32 = 16;
/// Reasons with buckets of their own: all of them.
const REASONS: u32 = crate::verdict::COUNTERS;
/// Buckets of a processor.
pub const BUCKETS: u32 = REASONS * DEVICES;
const _: () = assert!(DEVICES.is_power_of_two() && REASONS.is_power_of_two());

/// Returns the bucket of a reason on a device: a flood of one kind on one device hides nothing of another.
pub const fn bucket(reason: u32, ifindex: IfIndex) -> u32 {
    (reason & (REASONS - 1)) * DEVICES + (ifindex & (DEVICES - 1))
}

/// How many packets of a kind may still be told: an element of `BUCKETS`, one for each processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The tick that it was last looked at.
    pub tick: u32,
    /// Tokens that are left.
    pub tokens: u32,
    /// Packets since the last that was told.
    pub unseen: u32,
}

impl Bucket {
    /// Takes a token. None: there is none, and the packet counts as unseen; else how many went unseen before it.
    #[inline(always)]
    pub fn take(&mut self, now: u32) -> Option<u32> {
        let elapsed = now.wrapping_sub(self.tick);
        if elapsed != 0 {
            let gained = if elapsed < BURST { elapsed * REFILL } else { BURST };
            let tokens = self.tokens + gained;
            self.tokens = if tokens < BURST { tokens } else { BURST };
            self.tick = now;
        }
        if self.tokens == 0 {
            self.unseen = self.unseen.wrapping_add(1);
            return None;
        }
        self.tokens -= 1;
        Some(self.unseen)
    }

    /// Says whether the packet that took a token could be told.
    #[inline(always)]
    pub fn told(&mut self, told: bool) {
        self.unseen = if told { 0 } else { self.unseen.wrapping_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_told_then_what_comes_back_each_tick_and_the_rest_is_counted() {
        let (mut bucket, mut told) = (Bucket::default(), 0);
        let flood = |bucket: &mut Bucket, now| {
            (0..1000)
                .filter(|_| {
                    bucket.take(now).is_some_and(|_| {
                        bucket.told(true);
                        true
                    })
                })
                .count()
        };
        told += flood(&mut bucket, 100);
        assert_eq!((told, bucket.unseen), (BURST as usize, 1000 - BURST));
        told = flood(&mut bucket, 101);
        assert_eq!((told, bucket.unseen), (REFILL as usize, 1000 - REFILL));
        told = flood(&mut bucket, 1_000_000);
        assert_eq!(told, BURST as usize, "a long silence saves up no more than a burst");
    }

    #[test]
    fn what_found_no_room_in_the_ring_is_said_with_the_next() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(5), Some(0));
        bucket.told(false);
        assert_eq!(bucket.take(5), Some(1));
        bucket.told(true);
        assert_eq!(bucket.take(5), Some(0));
    }

    proptest! {
        /// Told and unseen packets are all packets, and no period tells more than its tokens.
        #[test]
        fn nothing_is_lost_from_the_count(
            start in any::<u32>(),
            gaps in proptest::collection::vec((0_u32..200, any::<bool>()), 1..500),
        ) {
            let (mut bucket, mut now) = (Bucket { tick: start, ..Bucket::default() }, start);
            let (mut told, mut unseen, mut passed) = (0, 0, 0);
            for (gap, room) in &gaps {
                now = now.wrapping_add(*gap);
                passed += gap;
                if let Some(before) = bucket.take(now) {
                    bucket.told(*room);
                    if *room {
                        told += 1;
                        unseen += before;
                    }
                }
            }
            prop_assert_eq!(told + unseen + bucket.unseen, u32::try_from(gaps.len()).expect("few"));
            prop_assert!(told <= passed * REFILL + BURST);
        }
    }

    #[test]
    fn every_kind_has_a_bucket() {
        for reason in crate::verdict::DropReason::ALL {
            assert!(bucket(*reason as u32, u32::MAX) < BUCKETS);
            assert_ne!(bucket(*reason as u32, 1), bucket(*reason as u32, 2));
        }
    }
}
