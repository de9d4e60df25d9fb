//! Ones' complement sums (RFC 1071) and their incremental update (RFC 1624, eqn. 3).
//!
//! Sums are taken over words as they lie in memory: the result is right in either byte order (RFC 1071 §2(B)).

/// Returns the sum of the two 16-bit words in a 32-bit word, unfolded (at most 17 bits).
pub const fn words(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// Folds a sum to 16 bits.
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    twice as u16
}

/// Returns what a checksum changes by when words that sum to `old` become words that sum to `new`.
///
/// The result has 16 bits and suits both [`update`] and the kernel's `bpf_l4_csum_replace` with size 0.
pub const fn delta(old: u32, new: u32) -> u32 {
    fold(fold(new) as u32 + !fold(old) as u32) as u32
}

/// Returns a checksum field after its data changed by `delta`.
pub const fn update(checksum: u16, delta: u32) -> u16 {
    !fold(!checksum as u32 + delta)
}

/// Returns the sum of bytes, unfolded; an odd last byte is padded with zero.
pub fn bytes(data: &[u8]) -> u32 {
    let mut sum = 0_u32;
    let mut chunks = data.chunks_exact(2);
    for pair in &mut chunks {
        sum += u32::from(u16::from_ne_bytes([pair[0], pair[1]]));
        sum = u32::from(fold(sum));
    }
    if let [last] = chunks.remainder() {
        sum += u32::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_incremental_checksum_equals_a_full_one(
            data in proptest::collection::vec(any::<u8>(), 24..64),
            new in any::<[u8; 8]>(),
            at in 0_usize..8,
        ) {
            let data = &data[..data.len() & !1];
            let at = at * 2;
            let before = !fold(bytes(data));
            let mut after = data.to_vec();
            after[at..at + 8].copy_from_slice(&new);
            let change = delta(bytes(&data[at..at + 8]), bytes(&new));
            let (incremental, full) = (update(before, change), !fold(bytes(&after)));
            // Both forms of zero are the same number (RFC 1624 §3); the full sum of all-zero data is the one exception.
            prop_assert!(incremental == full || (incremental ^ full) == 0xffff && (full == 0 || full == 0xffff));
        }

        #[test]
        fn a_delta_and_its_reverse_cancel(old in any::<u32>(), new in any::<u32>(), checksum in any::<u16>()) {
            let (old, new) = (words(old), words(new));
            let back = update(update(checksum, delta(old, new)), delta(new, old));
            prop_assert!(back == checksum || fold(u32::from(back)) % 0xffff == fold(u32::from(checksum)) % 0xffff);
        }
    }
}
