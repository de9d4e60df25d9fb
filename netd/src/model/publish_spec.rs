//! Docker's `-p` and `--expose` forms (Docker semantics E1 to E8; go-connections `nat.ParsePortSpec`).

use std::{fmt, net::IpAddr, str::FromStr};

use super::{Protocol, PublishSpec, Source, Sources, sources};

/// Says which port specification was refused and why, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPorts(String);

/// One port of a sandbox that is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublishPort {
    /// Host address; None: the network's default, else every address of both families.
    pub host_ip: Option<IpAddr>,
    /// First and last host port that may serve it: the first free one does. None: an ephemeral one.
    pub host_ports: Option<(u16, u16)>,
    /// Port inside the sandbox.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl PublishSpec {
    /// Returns one item per port inside the sandbox.
    ///
    /// A range of host ports of the same length is assigned one to one; a range for a single port is a choice (E5, E6).
    pub fn expand(&self) -> impl Iterator<Item = PublishPort> + use<> {
        let spec = self.clone();
        let one_to_one = spec.ports.0 != spec.ports.1;
        (spec.ports.0..=spec.ports.1).map(move |port| {
            let same = |(first, _): (u16, u16)| first.saturating_add(port - spec.ports.0);
            let host_ports =
                spec.host_ports.map(|range| if one_to_one { (same(range), same(range)) } else { range });
            PublishPort { host_ip: spec.host_ip, host_ports, port, protocol: spec.protocol }
        })
    }
}

impl FromStr for PublishSpec {
    type Err = InvalidPorts;

    /// Parses `[[IP:][HOST]:]PORT[/PROTOCOL][,allow=CIDR][,via=IFACE]...`, where HOST and PORT may be ranges and an IPv6 address may stand in brackets. The
    /// options are netd's own: no form of docker's has a comma.
    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        let mut options = text.split(',');
        let text = options.next().unwrap_or_default();
        let allow = Sources::from(options.map(parse_option).collect::<Result<Vec<_>, _>>()?);
        let mut from_the_right = text.rsplitn(3, ':');
        let inner = from_the_right.next().unwrap_or_default();
        let (outer, ip) =
            (from_the_right.next().unwrap_or_default(), from_the_right.next().unwrap_or_default());

        let (ports_text, protocol) = inner.split_once('/').unwrap_or((inner, ""));
        if ports_text.is_empty() {
            return Err(InvalidPorts(format!("no port specified: {text}<empty>")));
        }
        let protocol = parse_protocol(protocol)?;
        let host_ip = parse_ip(ip)?;
        let ports = parse_range(ports_text)
            .filter(|ports| ports.0 > 0)
            .ok_or_else(|| InvalidPorts(format!("invalid containerPort: {ports_text}")))?;
        let host_ports = match outer {
            "" | "0" => None,
            _ => Some(
                parse_range(outer)
                    .filter(|ports| ports.0 > 0)
                    .ok_or_else(|| InvalidPorts(format!("invalid hostPort: {outer}")))?,
            ),
        };
        let length = |(first, last): (u16, u16)| last - first;
        if host_ports.is_some_and(|host| length(host) != length(ports)) && length(ports) != 0 {
            return Err(InvalidPorts(format!(
                "invalid ranges specified for container and host Ports: {ports_text} and {outer}"
            )));
        }
        Ok(Self { host_ip, host_ports, ports, protocol, allow })
    }
}

impl fmt::Display for PublishSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host_ports.map_or_else(String::new, range_text);
        let ports = range_text(self.ports);
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{host}:")?,
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:{host}:")?,
            None if host.is_empty() => {}
            None => write!(f, "{host}:")?,
        }
        write!(f, "{ports}/{}{}", self.protocol, self.allow)
    }
}

/// Parses `--expose`: `80`, `80/udp`, `8000-8010`, into single ports.
///
/// # Errors
/// What is no port, range or protocol.
pub fn parse_expose(text: &str) -> Result<Vec<(u16, Protocol)>, InvalidPorts> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, ""));
    let (first, last) = parse_range(ports)
        .filter(|ports| ports.0 > 0)
        .ok_or_else(|| InvalidPorts(format!("invalid range format for --expose: {text}")))?;
    let protocol = parse_protocol(protocol)?;
    Ok((first..=last).map(|port| (port, protocol)).collect())
}

/// Parses what stands behind a comma.
fn parse_option(text: &str) -> Result<Source, InvalidPorts> {
    match text.split_once('=') {
        Some(("allow", source)) => sources::parse_prefix(source).map(Source::Allow).map_err(InvalidPorts),
        Some(("via", name)) => match name.parse() {
            Ok(via) => Ok(Source::Via { via }),
            Err(why) => Err(InvalidPorts(format!("invalid option {text:?}: {why}"))),
        },
        _ => Err(InvalidPorts(format!("invalid option {text:?}: it is allow=CIDR or via=IFACE"))),
    }
}

/// Parses the protocol behind the slash; without one it is TCP.
fn parse_protocol(protocol: &str) -> Result<Protocol, InvalidPorts> {
    match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        other => Err(InvalidPorts(format!("invalid proto: {other}"))),
    }
}

fn parse_ip(text: &str) -> Result<Option<IpAddr>, InvalidPorts> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.strip_prefix('[').map_or(Some(text), |rest| rest.strip_suffix(']'));
    let parsed = bare.and_then(|bare| bare.parse::<IpAddr>().ok());
    parsed
        .map(|ip| Some(ip.to_canonical()))
        .ok_or_else(|| InvalidPorts(format!("invalid IP address: {text}")))
}

/// Parses `80` or `8000-8010`.
fn parse_range(text: &str) -> Option<(u16, u16)> {
    let number =
        |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u16>().ok())?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn range_text((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> PublishSpec {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_form_of_docker_parses_and_prints() {
        for (text, printed) in [
            ("80", "80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("0:80", "80/tcp"),
            (":80", "80/tcp"),
            ("::80", "80/tcp"),
            ("10.0.0.2:8080:80", "10.0.0.2:8080:80/tcp"),
            ("10.0.0.2::80", "10.0.0.2::80/tcp"),
            ("10.0.0.2:0:80", "10.0.0.2::80/tcp"),
            ("[::1]:8080:80", "[::1]:8080:80/tcp"),
            ("::1:8080:80", "[::1]:8080:80/tcp"),
            ("[::1]::80", "[::1]::80/tcp"),
            ("[::]:8080:80/UDP", "[::]:8080:80/udp"),
            ("::ffff:10.0.0.2:8080:80", "10.0.0.2:8080:80/tcp"),
            ("8000-8010:80", "8000-8010:80/tcp"),
            ("8000-8010:9000-9010/udp", "8000-8010:9000-9010/udp"),
            ("9000-9010", "9000-9010/tcp"),
            ("10.0.0.2::9000-9010/Tcp", "10.0.0.2::9000-9010/tcp"),
            ("80/", "80/tcp"),
            ("1-65535", "1-65535/tcp"),
            ("8080:80,allow=10.0.0.3", "8080:80/tcp,allow=10.0.0.3/32"),
            (
                "[::1]:53:53/udp,allow=fd00::/8,allow=10.0.0.0/8",
                "[::1]:53:53/udp,allow=10.0.0.0/8,allow=fd00::/8",
            ),
            ("8080:80,via=wg*,allow=10.0.0.3,via=eth1", "8080:80/tcp,allow=10.0.0.3/32,via=eth1,via=wg*"),
        ] {
            assert_eq!(parse(text).to_string(), printed, "{text}");
        }
    }

    #[test]
    fn bad_forms_are_refused_with_dockers_texts() {
        for (text, message) in [
            ("", "no port specified: <empty>"),
            ("8080:", "no port specified: 8080:<empty>"),
            ("/tcp", "no port specified: /tcp<empty>"),
            ("web", "invalid containerPort: web"),
            ("8080:0", "invalid containerPort: 0"),
            ("8080:+80", "invalid containerPort: +80"),
            ("80:65536", "invalid containerPort: 65536"),
            ("80:90-80", "invalid containerPort: 90-80"),
            ("x:80", "invalid hostPort: x"),
            ("65536:80", "invalid hostPort: 65536"),
            ("0-5:80", "invalid hostPort: 0-5"),
            ("80:80/icmp", "invalid proto: icmp"),
            ("80:80/tcp/udp", "invalid proto: tcp/udp"),
            ("localhost:8080:80", "invalid IP address: localhost"),
            ("10.0.0.300:8080:80", "invalid IP address: 10.0.0.300"),
            ("[::1:8080:80", "invalid IP address: [::1"),
            ("10.0.0.1::1:80", "invalid IP address: 10.0.0.1:"),
            (
                "8000-8010:9000-9005",
                "invalid ranges specified for container and host Ports: 9000-9005 and 8000-8010",
            ),
            ("8000:9000-9005", "invalid ranges specified for container and host Ports: 9000-9005 and 8000"),
            ("80,", "invalid option \"\": it is allow=CIDR or via=IFACE"),
            ("80,deny=10.0.0.0/8", "invalid option \"deny=10.0.0.0/8\": it is allow=CIDR or via=IFACE"),
            (
                "80,via=a/b",
                "invalid option \"via=a/b\": invalid interface name or pattern \"a/b\": it is an interface name, in which `*` stands for any characters",
            ),
            ("80,allow=10.0.0.1/8", "invalid source \"10.0.0.1/8\": it should be 10.0.0.0/8"),
        ] {
            let error = text.parse::<PublishSpec>().expect_err(text);
            assert_eq!(error.to_string(), message, "{text}");
        }
    }

    #[test]
    fn a_range_is_one_to_one_and_a_range_for_one_port_is_a_choice() {
        let pairs = |text: &str| -> Vec<(Option<(u16, u16)>, u16)> {
            parse(text).expand().map(|one| (one.host_ports, one.port)).collect()
        };
        assert_eq!(pairs("80"), [(None, 80)]);
        assert_eq!(pairs("8080:80"), [(Some((8080, 8080)), 80)]);
        assert_eq!(pairs("8000-8010:80"), [(Some((8000, 8010)), 80)]);
        assert_eq!(pairs("80-81"), [(None, 80), (None, 81)]);
        assert_eq!(pairs("8000-8001:80-81"), [(Some((8000, 8000)), 80), (Some((8001, 8001)), 81)]);
        assert_eq!(parse("1-65535:1-65535").expand().count(), 65535);
    }

    #[test]
    fn exposed_ports_are_numbers_and_ranges() {
        assert_eq!(parse_expose("80"), Ok(vec![(80, Protocol::Tcp)]));
        assert_eq!(parse_expose("53/UDP"), Ok(vec![(53, Protocol::Udp)]));
        assert_eq!(parse_expose("8000-8010").map(|ports| ports.len()), Ok(11));
        for bad in ["", "0", "80:80", "a", "9-8", "80/icmp"] {
            assert!(parse_expose(bad).is_err(), "{bad}");
        }
    }

    fn spec() -> impl Strategy<Value = PublishSpec> {
        let ip = prop_oneof![
            Just(None),
            any::<[u8; 4]>().prop_map(|octets| Some(IpAddr::from(octets))),
            any::<[u8; 16]>().prop_map(|octets| Some(IpAddr::from(octets).to_canonical())),
        ];
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
        let prefix =
            (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(ip, bits)| IpNet::new(ip.into(), bits).expect("bits"));
        let via = "[a-z]{1,4}[0-9*]?".prop_map(|name| name.parse().expect("a pattern"));
        let sources = (prop::collection::vec(prefix, 0..3), prop::collection::vec(via, 0..3));
        (ip, 1..=60_000_u16, 0..=5_000_u16, prop::option::of(1..=60_000_u16), protocol, sources).prop_map(
            |(host_ip, first, length, host, protocol, (allow, via))| PublishSpec {
                host_ip,
                host_ports: host.map(|host| (host, host + length)),
                ports: (first, first + length),
                protocol,
                allow: Sources::new(&allow, &via),
            },
        )
    }

    proptest! {
        #[test]
        fn a_printed_specification_parses_back(spec in spec()) {
            prop_assert_eq!(spec.to_string().parse::<PublishSpec>(), Ok(spec));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-f:./\\[\\]-]{0,24}|.*") {
            if let Ok(spec) = text.parse::<PublishSpec>() {
                prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            }
        }
    }
}
