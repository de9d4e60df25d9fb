//! Reads and writes `/proc/sys/net` of a network namespace.

use std::{
    fmt, fs,
    io::{self, Read as _},
    ops::RangeInclusive,
    path::PathBuf,
    sync::OnceLock,
};

use crate::netns::{self, Netns, SettingsDirs};

/// What went wrong with which setting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The kernel refused, or has no such setting.
    #[error("{doing} net/{key}")]
    Setting {
        /// "read" or "write VALUE to".
        doing: String,
        /// The path below `/proc/sys/net`.
        key: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the kernel has no such setting: no such interface, or no IPv6.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Setting { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Writes settings in a namespace, in order, as pairs of a path below `/proc/sys/net` and a value.
///
/// # Errors
/// Names the first setting that was refused; the ones before it are written.
pub async fn write(netns: &Netns, settings: Vec<(String, String)>) -> Result<(), Error> {
    let dirs = netns.settings(settings.iter().map(|(key, _)| key.as_str())).await?;
    settings.into_iter().try_for_each(|(key, value)| {
        // Equal already: nothing for others to notice.
        if read_from(dirs, &key).is_ok_and(|present| present == value) {
            return Ok(());
        }
        // The newline is what clears a list: nothing at all would not reach the kernel.
        let written = find(dirs, &key).and_then(|path| fs::write(path, format!("{value}\n")));
        written.map_err(|source| Error::Setting { doing: format!("write {value:?} to"), key, source })
    })
}

/// Returns of each group of settings, as `write` takes them, those that are there and have another value.
///
/// # Errors
/// When the namespace can't be entered.
pub async fn differing(
    netns: &Netns,
    groups: Vec<Vec<(String, String)>>,
) -> Result<Vec<Vec<(String, String)>>, Error> {
    let dirs = netns.settings(groups.iter().flatten().map(|(key, _)| key.as_str())).await?;
    let differs =
        |(key, value): &(String, String)| read_from(dirs, key).is_ok_and(|present| present != *value);
    Ok(groups.into_iter().map(|group| group.into_iter().filter(differs).collect()).collect())
}

/// Reads one setting in a namespace, without the newline.
pub async fn read(netns: &Netns, key: &str) -> Result<String, Error> {
    read_from(netns.settings(std::iter::once(key)).await?, key)
}

/// Whether the kernel has IPv6. Its module may be loaded later, and is never unloaded: only a yes is final.
pub fn has_ipv6() -> bool {
    static FOUND: OnceLock<()> = OnceLock::new();
    // Among the settings, a look takes milliseconds with a thousand namespaces.
    once_there(&FOUND, || fs::exists("/proc/self/net/if_inet6").unwrap_or(false))
}

fn once_there(found: &OnceLock<()>, look: impl FnOnce() -> bool) -> bool {
    found.get().is_some() || (look() && found.set(()).is_ok()) || found.get().is_some()
}

fn find(dirs: &SettingsDirs, key: &str) -> io::Result<PathBuf> {
    dirs.find(key).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Longest setting that is read: the kernel's lists of ports take up to 64 KiB, all others a few bytes.
const LONGEST_LIST: usize = 64 * 1024;
const LONGEST: usize = 4 * 1024;

/// Reads a setting in one call: the kernel answers a second one with nothing, and a list of ports would be cut where the first ended.
fn read_from(dirs: &SettingsDirs, key: &str) -> Result<String, Error> {
    let failed = |source| Error::Setting { doing: "read".into(), key: key.into(), source };
    let mut text = vec![0; if key == RESERVED { LONGEST_LIST } else { LONGEST }];
    let file = find(dirs, key).and_then(fs::File::open);
    let length = file.and_then(|mut file| file.read(&mut text)).map_err(failed)?;
    text.truncate(length);
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

/// The host ports that the kernel hands out by itself (`ip_local_port_range`).
pub async fn local_port_range(netns: &Netns) -> Result<RangeInclusive<u16>, Error> {
    const KEY: &str = "ipv4/ip_local_port_range";
    let text = read(netns, KEY).await?;
    let mut bounds = text.split_whitespace().map(str::parse);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(malformed(KEY, &text)),
    }
}

fn malformed(key: &str, text: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, format!("unexpected text {text:?}"));
    Error::Setting { doing: "read".into(), key: key.into(), source }
}

const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// Ports that the kernel never hands out by itself (`ip_local_reserved_ports`): sorted ranges without overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReservedPorts(Vec<(u16, u16)>);

impl ReservedPorts {
    /// Reads the present list.
    pub async fn read(netns: &Netns) -> Result<Self, Error> {
        let text = read(netns, RESERVED).await?;
        Self::parse(&text).ok_or_else(|| malformed(RESERVED, &text))
    }

    /// Makes this the list.
    pub async fn write(&self, netns: &Netns) -> Result<(), Error> {
        write(netns, vec![(RESERVED.into(), self.to_string())]).await
    }

    /// Returns the list with these ranges, first and last port of each, added.
    #[must_use]
    pub fn with(&self, ranges: &[(u16, u16)]) -> Self {
        let mut all: Vec<_> = self.0.iter().chain(ranges).copied().collect();
        all.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Returns the list without these ranges, as far as `original` did not hold them: what restores the host's own list
    /// and keeps what others added meanwhile.
    #[must_use]
    pub fn without(&self, ranges: &[(u16, u16)], original: &Self) -> Self {
        let mut left = self.0.clone();
        for &(first, last) in ranges {
            left = left.into_iter().flat_map(|range| cut(range, (first, last))).flatten().collect();
        }
        Self(left).with(&original.0)
    }

    /// Returns the ranges, first and last port of each.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Reads the list as the kernel and `Display` write it.
    pub fn parse(text: &str) -> Option<Self> {
        let ranges = text.split(',').filter(|part| !part.is_empty()).map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        Some(Self::default().with(&ranges.collect::<Option<Vec<_>>>()?))
    }
}

/// What is left of a range below and above the part cut out.
fn cut((first, last): (u16, u16), (from, to): (u16, u16)) -> [Option<(u16, u16)>; 2] {
    if to < first || last < from {
        return [Some((first, last)), None];
    }
    [(first < from).then(|| (first, from - 1)), (to < last).then(|| (to + 1, last))]
}

impl fmt::Display for ReservedPorts {
    /// Writes the list as the kernel reads it: `1000,2000-3000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_that_comes_later_is_noticed() {
        let found = OnceLock::new();
        assert!(!once_there(&found, || false));
        assert!(!once_there(&found, || false));
        assert!(once_there(&found, || true));
        assert!(once_there(&found, || unreachable!("asked again")));
        assert_eq!(has_ipv6(), fs::exists("/proc/sys/net/ipv6").expect("procfs"));
    }

    #[test]
    fn reserved_ports_come_back_as_they_were() {
        let original = ReservedPorts::parse("80,8080-8090").expect("valid");
        let ours = [(8085, 8100), (20000, 30000)];
        let reserved = original.with(&ours);
        assert_eq!(reserved.to_string(), "80,8080-8100,20000-30000");
        assert_eq!(reserved.without(&ours, &original), original);
        let with_others = reserved.with(&[(31000, 31000)]);
        assert_eq!(with_others.without(&ours, &original).to_string(), "80,8080-8090,31000");
    }

    #[test]
    fn edges_of_the_port_space_are_kept() {
        let all = ReservedPorts::default().with(&[(0, 65535)]);
        assert_eq!(all.without(&[(0, 0), (65535, 65535)], &ReservedPorts::default()).to_string(), "1-65534");
        assert_eq!(ReservedPorts::parse(""), Some(ReservedPorts::default()));
        assert_eq!(ReservedPorts::parse("x"), None);
    }
}
