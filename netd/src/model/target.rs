//! `TO[:PORT][/PROTO]`: whom a packet to explain is for.

use std::{net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// The kinds of first packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// A SYN.
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request.
    Icmp,
}

impl Probe {
    /// Returns its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// A destination as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host`, an address without its brackets, or a sandbox.
    pub whom: String,
    /// The port; 0: none, for an echo.
    pub port: u16,
    /// The kind of packet: without a port an echo, with one a SYN.
    pub probe: Probe,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, probe) = match text.rsplit_once('/') {
            None => (text, None),
            Some((rest, "tcp")) => (rest, Some(Probe::Tcp)),
            Some((rest, "udp")) => (rest, Some(Probe::Udp)),
            Some((rest, "icmp" | "icmpv6")) => (rest, Some(Probe::Icmp)),
            Some((_, other)) => return Err(format!("{other:?} is none of tcp, udp and icmp")),
        };
        let (whom, port) = whom_and_port(rest)?;
        if whom.is_empty() {
            return Err("write HOST:PORT, [IPV6]:PORT or NAME:PORT".into());
        }
        match (port, probe) {
            (None, None | Some(Probe::Icmp)) => Ok(Self { whom, port: 0, probe: Probe::Icmp }),
            (None, Some(probe)) => {
                Err(format!("{} wants a port: {whom}:PORT/{}", probe.as_str(), probe.as_str()))
            }
            (Some(_), Some(Probe::Icmp)) => Err("an echo has no port".into()),
            (Some(port), probe) => Ok(Self { whom, port, probe: probe.unwrap_or(Probe::Tcp) }),
        }
    }
}

/// Splits a port off; an IPv6 address with one stands in brackets.
fn whom_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    let (whom, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((whom, "")) => (whom, None),
        Some((whom, rest)) => (whom, Some(rest.strip_prefix(':').ok_or("write [IPV6]:PORT")?)),
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("write an IPv6 address in brackets: [IPV6]:PORT".into());
            }
            Some((whom, port)) => (whom, Some(port)),
            None => (text, None),
        },
    };
    let number = |port: &str| port.parse().ok().filter(|port| *port != 0);
    let port = port.map(|port| number(port).ok_or(format!("{port:?} is not a port from 1 to 65535")));
    Ok((whom.to_owned(), port.transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        for (text, whom, port, probe) in [
            ("10.0.0.5:443", "10.0.0.5", 443, Probe::Tcp),
            ("host:8080", "host", 8080, Probe::Tcp),
            ("db:5432/udp", "db", 5432, Probe::Udp),
            ("[2001:db8::1]:443/udp", "2001:db8::1", 443, Probe::Udp),
            ("[2001:db8::1]", "2001:db8::1", 0, Probe::Icmp),
            ("2001:db8::1", "2001:db8::1", 0, Probe::Icmp),
            ("2001:db8::1/icmp", "2001:db8::1", 0, Probe::Icmp),
            ("db", "db", 0, Probe::Icmp),
        ] {
            assert_eq!(text.parse(), Ok(Target { whom: whom.into(), port, probe }), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            ":80",
            "db:",
            "db:0",
            "db:65536",
            "db:x",
            "db/tcp",
            "db:1/icmp",
            "db:1/sctp",
            "fd00::1::2:3",
            "[fd00::1]80",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
