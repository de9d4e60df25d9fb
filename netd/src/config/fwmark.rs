//! `bridge-accept-fwmark`: a packet mark and the bits of it that count (Docker semantics A13; moby `bridge_linux.go` `parseFWMark`).

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de::Error as _};

/// `MARK` or `MARK/MASK`, in decimal, or in hexadecimal behind `0x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fwmark {
    pub(super) mark: u32,
    pub(super) mask: u32,
}

impl<'de> Deserialize<'de> for Fwmark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl FromStr for Fwmark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("invalid firewall mark {text:?}: {why}");
        let (mark, mask) = text.split_once('/').map_or((text, None), |(mark, mask)| (mark, Some(mask)));
        let parse = |text: &str| number(text).ok_or_else(|| refused("it is written MARK or MARK/MASK"));
        let (mark, mask) = (parse(mark)?, mask.map_or(Ok(u32::MAX), parse)?);
        if mask == 0 {
            return Err(refused("no bit of the mark counts"));
        }
        if mark & !mask != 0 {
            return Err(refused("the mark has bits outside the mask"));
        }
        Ok(Self { mark, mask })
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_have_a_mask_or_count_whole() {
        for (text, mark, mask) in [("1", 1, u32::MAX), ("0x10/0xf0", 0x10, 0xf0), ("0/1", 0, 1)] {
            assert_eq!(text.parse::<Fwmark>(), Ok(Fwmark { mark, mask }), "{text}");
        }
        for bad in ["", "a", "1/0", "0x11/0xf0", "1/2/3", "-1", "0x1ffffffff"] {
            assert!(bad.parse::<Fwmark>().is_err(), "{bad}");
        }
    }
}
