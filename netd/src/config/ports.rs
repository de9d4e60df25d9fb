//! `[nat] port_range` and `exclude_ports`: ranges of host ports.

use serde::{Deserialize, Deserializer, de::Error as _};

/// The dataplane keeps this many ranges (`netd_common::maps::PORT_RANGES`).
const MAX_RANGES: usize = 4;
/// Ports below belong to well-known services.
const FIRST: u16 = 1024;

/// `"LOW-HIGH"`, or several with commas between them; ascending and apart from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortRanges(pub(super) Vec<(u16, u16)>);

impl<'de> Deserialize<'de> for PortRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Self).map_err(|why| D::Error::custom(format!("invalid port range {text:?}: {why}")))
    }
}

/// Any number of ports and ranges, with commas between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortList(pub(super) Vec<(u16, u16)>);

impl<'de> Deserialize<'de> for PortList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let ranges = text.split(',').map(|part| {
            let (low, high) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
            let (low, high) = (number(low)?, number(high)?);
            if low > high { Err("LOW is above HIGH") } else { Ok((low, high)) }
        });
        let ranges: Result<Vec<_>, &str> = ranges.collect();
        ranges.map(Self).map_err(|why| D::Error::custom(format!("invalid port list {text:?}: {why}")))
    }
}

fn number(digits: &str) -> Result<u16, &'static str> {
    digits.trim().parse().map_err(|_| "a port is a number up to 65535")
}

fn parse(text: &str) -> Result<Vec<(u16, u16)>, &'static str> {
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let (low, high) = part.trim().split_once('-').ok_or("it is written LOW-HIGH")?;
        let (low, high) = (number(low)?, number(high)?);
        if low < FIRST {
            return Err("ports below 1024 belong to services");
        }
        if low > high {
            return Err("LOW is above HIGH");
        }
        ranges.push((low, high));
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].1 >= pair[1].0) {
        return Err("two ranges overlap");
    }
    if ranges.len() > MAX_RANGES { Err("at most four ranges") } else { Ok(ranges) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_in_ascending_order() {
        for (text, expected) in [
            ("20000-20099", Ok(vec![(20_000, 20_099)])),
            ("61000-65535, 10000-32767", Ok(vec![(10_000, 32_767), (61_000, 65_535)])),
            ("5000-5000", Ok(vec![(5000, 5000)])),
            ("5000", Err("it is written LOW-HIGH")),
            ("", Err("it is written LOW-HIGH")),
            ("80-90", Err("ports below 1024 belong to services")),
            ("6000-5000", Err("LOW is above HIGH")),
            ("5000-70000", Err("a port is a number up to 65535")),
            ("5000-6000,6000-7000", Err("two ranges overlap")),
            ("2000-2001,3000-3001,4000-4001,5000-5001,6000-6001", Err("at most four ranges")),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
