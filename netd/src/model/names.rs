//! Names and ids: parsed at the edge, valid inside.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Says which name was refused and which rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {given:?}: {rule}")]
pub struct InvalidName {
    /// What was being named: "name", "interface name", "id".
    pub kind: &'static str,
    /// The refused text.
    pub given: String,
    /// The rule in words.
    pub rule: &'static str,
}

/// The name of a network or sandbox: `[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}` (moby `daemon/names/names.go`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A Linux interface name: 1 to 15 bytes without `/`, `:` or white space, not `.` or `..` (kernel `dev_valid_name`, net/core/dev.c), and without
/// `%`, of which the kernel makes a number of its own (`dev_alloc_name`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// An interface name in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfPattern(String);

/// The id of a network, sandbox or endpoint: 64 lower-case hexadecimal digits. Shared, since each of tens of thousands of
/// published ports carries one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(Arc<str>);

impl Id {
    /// Makes a new random id.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Returns the id that spells these 32 bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        use fmt::Write as _;
        let text = bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
            text
        });
        Self(text.into())
    }

    /// Returns the first 12 digits, as Docker prints ids in tables.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        let rule =
            "it starts with a letter or digit and goes on with at most 127 letters, digits, `_`, `.` or `-`";
        let mut bytes = text.bytes();
        let first_ok = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest_ok = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if first_ok && rest_ok && text.len() <= 128 {
            Ok(Self(text))
        } else {
            Err(InvalidName { kind: "name", given: text, rule })
        }
    }
}

impl TryFrom<String> for IfName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        let rule = "it is 1 to 15 bytes of printable ASCII without `/`, `:`, `%` or white space, and not `.` or `..`";
        let bytes_ok = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'));
        if bytes_ok && (1..=15).contains(&text.len()) && text != "." && text != ".." {
            Ok(Self(text))
        } else {
            Err(InvalidName { kind: "interface name", given: text, rule })
        }
    }
}

impl TryFrom<String> for Id {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName { kind: "id", given: text, rule: "it has 64 lower-case hexadecimal digits" })
        }
    }
}

impl TryFrom<String> for IfPattern {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        let rule = "it is an interface name, in which `*` stands for any characters";
        match IfName::try_from(text) {
            Ok(name) => Ok(Self(name.0)),
            Err(error) => Err(InvalidName { kind: "interface name or pattern", given: error.given, rule }),
        }
    }
}

impl IfPattern {
    /// Whether an interface has a name that this means.
    pub fn matches(&self, ifname: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = ifname.strip_prefix(first) else { return false };
        let Some(last) = self.0.contains('*').then(|| parts.next_back()).flatten() else {
            return rest.is_empty();
        };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

macro_rules! text_newtype {
    ($($type:ty),*) => { $(
        impl $type {
            /// Returns the text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> { Self::try_from(text.to_owned()) }
        }
        impl From<$type> for String {
            fn from(name: $type) -> Self { name.as_str().to_owned() }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&self.0) }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str { &self.0 }
        }
    )* };
}
text_newtype!(Name, IfName, IfPattern, Id);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_expression() {
        for good in ["web", "0", "a_b.c-d", &"x".repeat(128)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-web", ".web", "a/b", "a b", "../etc", "a\n", "ü", &"x".repeat(129)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernels_rule() {
        for good in ["eth0", "br-0123456789ab", "a"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "a%d", "sixteen-bytes-xx"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_star_in_a_pattern_stands_for_any_characters() {
        for (pattern, yes, no) in [
            ("eth0", "eth0", "eth01"),
            ("wg*", "wg0", "xwg0"),
            ("wg*", "wg", "w"),
            ("*", "anything", ""),
            ("*0", "eth0", "eth1"),
            ("e*h*0", "eth10", "eth01"),
            ("a*a", "aa", "a"),
        ] {
            let parsed: IfPattern = pattern.parse().expect(pattern);
            assert!(parsed.matches(yes), "{pattern} means {yes}");
            assert!(!parsed.matches(no) || no.is_empty(), "{pattern} does not mean {no}");
        }
        assert!("a/b".parse::<IfPattern>().is_err());
    }

    #[test]
    fn ids_are_random_and_parse_back() {
        let (a, b) = (Id::random().expect("random"), Id::random().expect("random"));
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<Id>().as_ref(), Ok(&a));
        assert_eq!(a.short().len(), 12);
    }
}
