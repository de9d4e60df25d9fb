//! Who may talk to whom on a network whose sandboxes may not talk to each other: "web to db, port 5432".

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Id, Name, Protocol};

/// Lets one sandbox of a network, or all of them, open connections to another one. It speaks of names: it follows them to new addresses and to
/// sandboxes that are made anew, and waits for those that do not exist yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its id, 64 hexadecimal digits.
    pub id: Id,
    /// When it was made, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// Who may open connections; None: every sandbox on the network.
    pub from: Option<Name>,
    /// To whom.
    pub to: Name,
    /// The ports there, in ascending order, each once; none: everything, what has no ports too.
    pub ports: Vec<(u16, Protocol)>,
}

impl Policy {
    /// Whether two policies say the same.
    pub fn says_as(&self, other: &Self) -> bool {
        (&self.from, &self.to, &self.ports) == (&other.from, &other.to, &other.ports)
    }

    /// Returns the ports as a user writes them, neighbours as one range.
    pub fn ports_text(&self) -> Vec<String> {
        let mut sorted = self.ports.clone();
        sorted.sort_unstable_by_key(|(port, protocol)| (*protocol, *port));
        let mut runs: Vec<(u16, u16, Protocol)> = Vec::new();
        for (port, protocol) in sorted {
            match runs.last_mut() {
                Some((_, last, same)) if *same == protocol && last.checked_add(1) == Some(port) => {
                    *last = port;
                }
                _ => runs.push((port, port, protocol)),
            }
        }
        let text = |(first, last, protocol): (u16, u16, Protocol)| {
            if first == last { format!("{first}/{protocol}") } else { format!("{first}-{last}/{protocol}") }
        };
        runs.into_iter().map(text).collect()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from.as_ref().map_or("everybody", Name::as_str), self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse_expose;

    #[test]
    fn ports_print_as_they_are_written() {
        let ports = |texts: &[&str]| -> Vec<(u16, Protocol)> {
            texts.iter().flat_map(|text| parse_expose(text).expect("ports")).collect()
        };
        for (given, shown) in [
            (&["5432"][..], &["5432/tcp"][..]),
            (&["53/udp", "53/tcp"], &["53/tcp", "53/udp"]),
            (&["8000-8002", "8003", "65535/sctp", "9000"], &["8000-8003/tcp", "9000/tcp", "65535/sctp"]),
            (&[], &[]),
        ] {
            let policy = Policy {
                id: Id::from_bytes(&[1; 32]),
                created: String::new(),
                from: None,
                to: "db".parse().expect("a name"),
                ports: ports(given),
            };
            assert_eq!(policy.ports_text(), shown);
        }
    }
}
