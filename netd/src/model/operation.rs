//! An operation by the id that its caller gave it, and what it gave back: asked for again, it is answered and not done again (reliability P3).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Binding, Id, InvalidName, Name};
use crate::moment::Moment;

/// Longest id in bytes.
const LONGEST: usize = 64;
/// Longest answer that is remembered whole, in bytes of JSON.
const WHOLE: usize = 16 << 10;

/// The caller's name for an operation: 1 to 64 bytes, `[a-zA-Z0-9_-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId(String);

impl OperationId {
    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OperationId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if text.is_empty() || text.len() > LONGEST || !text.bytes().all(is_allowed) {
            let given = text.chars().take(LONGEST).collect();
            let rule = "it must match ^[a-zA-Z0-9_-]{1,64}$";
            return Err(InvalidName { kind: "operation id", given, rule });
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for OperationId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.0
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request that can be told from another one with the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its caller's name for it.
    pub id: OperationId,
    /// SHA-256 of the request, as hexadecimal digits.
    pub request: String,
}

/// What an operation gave back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nothing but that it is done.
    Done,
    /// A new network.
    Network(Id),
    /// Networks that are gone.
    Networks(Vec<Name>),
    /// A new sandbox.
    Sandbox {
        /// Its id.
        id: Id,
        /// Its name.
        name: Name,
        /// Whether its published ports mean nothing, because it lives on the host's own network.
        discards_ports: bool,
    },
    /// A new policy.
    Policy(Id),
    /// Published ports that came or went.
    Ports(#[serde(with = "super::binding_ranges")] Vec<Binding>),
}

/// A finished operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Which one.
    #[serde(flatten)]
    pub operation: Operation,
    /// When.
    #[serde(flatten)]
    pub at: Moment,
    /// What it gave back.
    pub answer: Answer,
}

impl Finished {
    /// An operation that ends now. Of a list that is too long, only that it is done is kept.
    pub fn now(operation: Operation, answer: Answer) -> Self {
        let length = serde_json::to_vec(&answer).map_or(usize::MAX, |text| text.len());
        let answer = match answer {
            Answer::Ports(_) if length > WHOLE => Answer::Ports(Vec::new()),
            Answer::Networks(_) if length > WHOLE => Answer::Networks(Vec::new()),
            answer => answer,
        };
        Self { operation, at: Moment::now(), answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operations_id_is_a_short_word() {
        for (text, valid) in [
            ("0123456789abcdef", true),
            ("deploy_7-web", true),
            (&"x".repeat(64), true),
            (&"x".repeat(65), false),
            ("", false),
            ("a b", false),
            ("a\nb", false),
            ("ä", false),
        ] {
            assert_eq!(text.parse::<OperationId>().is_ok(), valid, "{text:?}");
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_left_out() {
        let operation = Operation { id: "a".parse().expect("an id"), request: String::new() };
        let names = |count: usize| {
            let name = |number: usize| format!("network-{number}").parse().expect("a name");
            Answer::Networks((0..count).map(name).collect())
        };
        assert_eq!(Finished::now(operation.clone(), names(100)).answer, names(100));
        assert_eq!(Finished::now(operation, names(10_000)).answer, names(0));
    }
}
