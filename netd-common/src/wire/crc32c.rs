//! The checksum of SCTP, CRC32c (RFC 9260 appendix A), and its update without the data.
//!
//! A CRC is linear: what changes in it depends on the changed bits and on how many bytes follow them, not on the rest. Bytes that follow multiply the
//! change by a power of x, modulo the polynomial; squaring reaches any power of a packet's length in 17 steps.

/// The Castagnoli polynomial, its lowest power in the highest bit, as CRC32c is defined.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1 in that notation.
const ONE: u32 = 1 << 31;
/// Steps: lengths below 2^17 bytes.
const STEPS: usize = 17;

/// Multiplies two polynomials modulo the CRC's, without branches: each would double the verifier's paths.
#[inline(always)]
const fn multiply(mut a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 0);
    while bit < 32 {
        product ^= b & 0_u32.wrapping_sub(a >> 31);
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
        bit += 1;
    }
    product
}

/// Returns x to the power of 8 times 2 to the power of `step`: what so many bytes multiply by.
const fn power(step: usize) -> u32 {
    let (mut power, mut at) = (ONE >> 8, 0);
    while at < step {
        power = multiply(power, power);
        at += 1;
    }
    power
}

/// Multiplies by the power of step `N`, if that bit of `bytes` is set.
#[inline(always)]
fn step<const N: usize>(word: u32, bytes: u32) -> u32 {
    let set = 0_u32.wrapping_sub(bytes >> N & 1);
    multiply(word, ONE ^ ((ONE ^ const { power(N) }) & set))
}

/// Returns what the CRC of a packet of so many bytes changes by when its first four, read as they lie in memory, change by `word`.
#[inline(always)]
pub fn change(word: u32, bytes: u32) -> u32 {
    const _: () = assert!(STEPS == 17);
    // The factors are constants of the code; in a table they would be another map.
    let word = step::<3>(step::<2>(step::<1>(step::<0>(word, bytes), bytes), bytes), bytes);
    let word = step::<7>(step::<6>(step::<5>(step::<4>(word, bytes), bytes), bytes), bytes);
    let word = step::<11>(step::<10>(step::<9>(step::<8>(word, bytes), bytes), bytes), bytes);
    let word = step::<15>(step::<14>(step::<13>(step::<12>(word, bytes), bytes), bytes), bytes);
    step::<16>(word, bytes)
}

/// Returns the CRC32c of bytes, as SCTP's checksum field holds it in memory.
pub fn of(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_known_checksum_comes_out() {
        assert_eq!(of(b"123456789"), 0xe306_9283); // the check value of CRC-32/ISCSI
    }

    proptest! {
        #[test]
        fn an_incremental_checksum_equals_a_full_one(
            data in proptest::collection::vec(any::<u8>(), 4..3000),
            new in any::<[u8; 4]>(),
        ) {
            let (mut after, old) = (data.clone(), [data[0], data[1], data[2], data[3]]);
            after[..4].copy_from_slice(&new);
            let word = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
            prop_assert_eq!(of(&data) ^ change(word, data.len() as u32), of(&after));
        }
    }

    #[test]
    fn the_largest_packet_has_its_power() {
        let mut data = std::vec![0x5a; 65_535];
        let before = of(&data);
        data[..4].copy_from_slice(&[0xa5; 4]);
        assert_eq!(before ^ change(u32::from_le_bytes([0xff; 4]), 65_535), of(&data));
    }
}
