//! Who may come to a published port.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Prefixes in ascending order, each once and without host bits; none: everybody may come. Shared, since tens of thousands of ports may have
/// the same ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Vec<IpNet>", into = "Vec<IpNet>")]
pub struct Sources(Arc<[IpNet]>);

impl Sources {
    /// Whether everybody may come.
    pub fn is_everybody(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the prefixes.
    pub fn prefixes(&self) -> &[IpNet] {
        &self.0
    }
}

impl From<Vec<IpNet>> for Sources {
    fn from(prefixes: Vec<IpNet>) -> Self {
        let mut prefixes: Vec<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        Self(prefixes.into())
    }
}

impl From<Sources> for Vec<IpNet> {
    fn from(sources: Sources) -> Self {
        sources.0.to_vec()
    }
}

/// Parses `10.0.0.0/8`, or an address alone.
///
/// # Errors
/// In words.
pub(super) fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let prefix = match IpAddr::from_str(text) {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => text
            .parse()
            .map_err(|_| format!("invalid source {text:?}: an address or a prefix such as 10.0.0.0/8"))?,
    };
    if prefix == prefix.trunc() {
        Ok(prefix)
    } else {
        Err(format!("invalid source {text:?}: it should be {}", prefix.trunc()))
    }
}

impl fmt::Display for Sources {
    /// Writes what stands behind a publish specification: `,allow=10.0.0.0/8,allow=fd00::/8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|prefix| write!(f, ",allow={prefix}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_a_set_of_prefixes() {
        let prefix = |text| parse_prefix(text).expect("valid");
        let sources = Sources::from(vec![prefix("fd00::/8"), prefix("10.0.0.3"), prefix("10.0.0.3/32")]);
        assert_eq!(sources.to_string(), ",allow=10.0.0.3/32,allow=fd00::/8");
        assert!(Sources::default().is_everybody() && !sources.is_everybody());
        for bad in ["", "10.0.0.1/8", "10.0.0.0/33", "eth0", "10.0.0.0/"] {
            assert!(parse_prefix(bad).is_err(), "{bad}");
        }
    }
}
