//! Addresses of new interfaces on the link.

use std::collections::BTreeSet;

use crate::{
    controller::{Code, Error},
    model::Mac,
};

/// Returns a random unicast, locally administered address that is not in `used` (Docker semantics D3; IEEE 802 bits 0 and 1).
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn random_mac(used: &BTreeSet<Mac>) -> Result<Mac, Error> {
    loop {
        let mut bytes = [0_u8; 6];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::new(Code::Failure, format!("choose a MAC address: {error}")))?;
        bytes[0] = (bytes[0] & !0b01) | 0b10;
        if !used.contains(&Mac(bytes)) {
            return Ok(Mac(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_address_is_local_unicast_and_new() {
        let mut used = BTreeSet::new();
        for _ in 0..1000 {
            let mac = random_mac(&used).expect("random bytes");
            assert_eq!(mac.0[0] & 0b11, 0b10, "{mac}");
            assert!(used.insert(mac), "{mac} twice");
        }
    }
}
