//! Who may come to a published port, and by which of the host's interfaces.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::IfPattern;

/// Prefixes and interfaces in ascending order, each once, prefixes without host bits. Without prefixes everybody may come, without interfaces by every
/// way. Shared, since tens of thousands of ports may have the same ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Vec<Source>", into = "Vec<Source>")]
pub struct Sources {
    prefixes: Arc<[IpNet]>,
    via: Arc<[IfPattern]>,
}

/// One item of a list of sources; in state files a prefix is a text, as it was before interfaces were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// These addresses may come: `allow=CIDR`.
    Allow(IpNet),
    /// What is outside may come by these interfaces: `via=IFACE`.
    Via {
        /// By name; `*` stands for any characters.
        via: IfPattern,
    },
}

impl Sources {
    /// Makes a list of prefixes and interfaces in any order.
    pub fn new(prefixes: &[IpNet], via: &[IfPattern]) -> Self {
        Self { prefixes: sorted(prefixes.iter().map(IpNet::trunc)), via: sorted(via.iter().cloned()) }
    }

    /// Whether everybody may come, by every way.
    pub fn is_everybody(&self) -> bool {
        self.prefixes.is_empty() && self.via.is_empty()
    }

    /// Returns the prefixes; none: everybody.
    pub fn prefixes(&self) -> &Arc<[IpNet]> {
        &self.prefixes
    }

    /// Returns the interfaces by which the outside comes; none: all of them.
    pub fn via(&self) -> &Arc<[IfPattern]> {
        &self.via
    }
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Arc<[T]> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items.into()
}

impl From<Vec<Source>> for Sources {
    fn from(sources: Vec<Source>) -> Self {
        let (mut prefixes, mut via) = (Vec::new(), Vec::new());
        for source in sources {
            match source {
                Source::Allow(prefix) => prefixes.push(prefix),
                Source::Via { via: pattern } => via.push(pattern),
            }
        }
        Self::new(&prefixes, &via)
    }
}

impl From<Sources> for Vec<Source> {
    fn from(sources: Sources) -> Self {
        let prefixes = sources.prefixes.iter().copied().map(Source::Allow);
        prefixes.chain(sources.via.iter().cloned().map(|via| Source::Via { via })).collect()
    }
}

/// Parses `10.0.0.0/8`, or an address alone.
///
/// # Errors
/// In words.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
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
    /// Writes what stands behind a publish specification: `,allow=10.0.0.0/8,allow=fd00::/8,via=eth1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefixes.iter().try_for_each(|prefix| write!(f, ",allow={prefix}"))?;
        self.via.iter().try_for_each(|via| write!(f, ",via={via}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_a_set_of_prefixes() {
        let prefix = |text| parse_prefix(text).expect("valid");
        let via: Vec<IfPattern> =
            ["wg*", "eth1", "wg*"].map(|name| name.parse().expect("a pattern")).to_vec();
        let prefixes = [prefix("fd00::/8"), prefix("10.0.0.3"), prefix("10.0.0.3/32")];
        let sources = Sources::new(&prefixes, &via);
        assert_eq!(sources.to_string(), ",allow=10.0.0.3/32,allow=fd00::/8,via=eth1,via=wg*");
        assert_eq!(Sources::new(&[], &via).to_string(), ",via=eth1,via=wg*");
        assert!(Sources::default().is_everybody() && !sources.is_everybody());
        for bad in ["", "10.0.0.1/8", "10.0.0.0/33", "eth0", "10.0.0.0/"] {
            assert!(parse_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_stored_form_of_prefixes_is_that_of_earlier_versions() {
        let read = |text| serde_json::from_str::<Sources>(text).expect("a list");
        let sources = read(r#"["10.0.0.0/8", {"via": "eth1"}, "fd00::/8"]"#);
        assert_eq!(sources.to_string(), ",allow=10.0.0.0/8,allow=fd00::/8,via=eth1");
        let written = serde_json::to_string(&sources).expect("JSON");
        assert_eq!(written, r#"["10.0.0.0/8","fd00::/8",{"via":"eth1"}]"#);
        assert_eq!(read(&written), sources);
        assert_eq!(read(r#"["10.0.0.0/8"]"#).to_string(), ",allow=10.0.0.0/8");
        assert!(read("[]").is_everybody());
        assert!(serde_json::from_str::<Sources>(r#"[{"via": "a/b"}]"#).is_err());
    }
}
