//! How published ports are shown: the lines of `netd port` and the PORTS column of `netd ps` (Docker semantics E28, E30).

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{Binding, Protocol, publish_spec::parse_expose};

/// Returns the lines of `netd port`: `80/tcp -> 0.0.0.0:8080`, in natural order.
pub fn port_lines(bindings: &[Binding]) -> Vec<String> {
    let mut lines: Vec<String> = sorted(bindings)
        .map(|binding| format!("{}/{} -> {}", binding.port, binding.protocol, host_side(binding)))
        .collect();
    lines.dedup();
    lines
}

/// Returns the host addresses of one port, `0.0.0.0:8080`, as `netd port SANDBOX PORT[/PROTO]` prints them.
///
/// # Errors
/// When the port is not published or not a port; the port stands in the text as it was typed.
pub fn public_addresses(bindings: &[Binding], typed: &str, sandbox: &str) -> Result<Vec<String>, String> {
    let wanted = parse_expose(typed).map_err(|error| error.to_string())?;
    let of_port = sorted(bindings).filter(|binding| wanted.contains(&(binding.port, binding.protocol)));
    let mut addresses: Vec<String> = of_port.map(host_side).collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(format!("No public port '{typed}' published for {sandbox}"));
    }
    Ok(addresses)
}

/// Returns the PORTS column: `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 81/tcp`.
///
/// Contiguous ports collapse only where host and sandbox port are the same, as in Docker; exposed ports that are not
/// published stand without an arrow. Order as docker's `formatter.DisplayablePorts`.
pub fn ports_column(bindings: &[Binding], exposed: &[(u16, Protocol)]) -> String {
    let takers = || bindings.iter().filter(|binding| binding.takes_host_port());
    let published: BTreeSet<(u16, Protocol)> = takers().map(|b| (b.port, b.protocol)).collect();
    let opened = bindings.iter().filter(|binding| !binding.takes_host_port()).map(|b| (b.port, b.protocol));
    let same_number = takers().filter(|binding| binding.host_port == binding.port);
    let mut shown: Vec<Shown> = same_number
        .map(|binding| Shown {
            port: binding.port,
            host_ip: Some(binding.host_ip),
            protocol: binding.protocol,
        })
        .chain(
            exposed
                .iter()
                .copied()
                .chain(opened)
                .filter(|port| !published.contains(port))
                .map(|(port, protocol)| Shown { port, host_ip: None, protocol }),
        )
        .collect();
    shown.sort_unstable();
    shown.dedup();

    let mut groups: Vec<(Shown, u16)> = Vec::new();
    for one in shown {
        let open = groups.iter_mut().rev().find(|(first, _)| first.continues_in(&one));
        match open {
            Some((_, last)) if one.port == *last + 1 => *last = one.port,
            _ => groups.push((one, one.port)),
        }
    }
    let collapsed = groups.iter().map(|(first, last)| first.text(*last));
    let mut translated: Vec<String> = sorted(bindings)
        .filter(|binding| binding.takes_host_port() && binding.host_port != binding.port)
        .map(|binding| format!("{}->{}/{}", host_side(binding), binding.port, binding.protocol))
        .collect();
    translated.dedup();
    collapsed.chain(translated).collect::<Vec<_>>().join(", ")
}

/// A port that is shown under its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    port: u16,
    host_ip: Option<IpAddr>,
    protocol: Protocol,
}

impl Shown {
    fn continues_in(&self, next: &Self) -> bool {
        (self.host_ip, self.protocol) == (next.host_ip, next.protocol)
    }

    fn text(&self, last: u16) -> String {
        let range = if last == self.port { last.to_string() } else { format!("{}-{last}", self.port) };
        match self.host_ip {
            Some(IpAddr::V6(ip)) => format!("[{ip}]:{range}->{range}/{}", self.protocol),
            Some(IpAddr::V4(ip)) => format!("{ip}:{range}->{range}/{}", self.protocol),
            None => format!("{range}/{}", self.protocol),
        }
    }
}

/// Returns the host's side as docker prints it; of a port that takes none of the host's there is nothing behind the colon.
fn host_side(binding: &Binding) -> String {
    let text = SocketAddr::new(binding.host_ip, binding.host_port).to_string();
    if binding.takes_host_port() { text } else { text.trim_end_matches('0').to_owned() }
}

/// Returns the bindings by port, protocol, host address (IPv4 first) and host port.
fn sorted(bindings: &[Binding]) -> impl Iterator<Item = &Binding> {
    let mut sorted: Vec<&Binding> = bindings.iter().collect();
    sorted.sort_by_key(|b| (b.port, b.protocol, b.host_ip, b.host_port));
    sorted.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Id, Sources};

    /// Parses `IP:HOST->PORT/PROTO`.
    fn bindings(texts: &[&str]) -> Vec<Binding> {
        let parse = |text: &&str| {
            let (host, inner) = text.split_once("->").expect("an arrow");
            let host: SocketAddr = host.parse().expect("a host address");
            let (port, protocol) = parse_expose(inner).expect("a port")[0];
            let endpoint = Id::from_bytes(&[1; 32]);
            Binding {
                host_ip: host.ip(),
                host_port: host.port(),
                port,
                protocol,
                endpoint,
                allow: Sources::default(),
            }
        };
        texts.iter().map(parse).collect()
    }

    #[test]
    fn port_lists_in_natural_order() {
        let bindings = bindings(&[
            "[::]:8443->443/tcp",
            "0.0.0.0:8443->443/tcp",
            "0.0.0.0:5353->53/udp",
            "[::]:8080->80/tcp",
            "0.0.0.0:8080->80/tcp",
        ]);
        assert_eq!(
            port_lines(&bindings),
            [
                "53/udp -> 0.0.0.0:5353",
                "80/tcp -> 0.0.0.0:8080",
                "80/tcp -> [::]:8080",
                "443/tcp -> 0.0.0.0:8443",
                "443/tcp -> [::]:8443",
            ]
        );
    }

    #[test]
    fn one_port_is_asked_for_as_typed() {
        let bindings = bindings(&["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "0.0.0.0:53->53/udp"]);
        assert_eq!(
            public_addresses(&bindings, "80", "c"),
            Ok(vec!["0.0.0.0:8080".into(), "[::]:8080".into()])
        );
        assert_eq!(public_addresses(&bindings, "53/udp", "c"), Ok(vec!["0.0.0.0:53".into()]));
        let none = public_addresses(&bindings, "80/udp", "c");
        assert_eq!(none, Err("No public port '80/udp' published for c".into()));
        assert!(public_addresses(&bindings, "http", "c").is_err());
    }

    #[test]
    fn only_equal_contiguous_ports_collapse() {
        let both = |first: u16, host: u16, count: u16| -> Vec<String> {
            (0..count)
                .flat_map(|n| {
                    [
                        format!("0.0.0.0:{}->{}", host + n, first + n),
                        format!("[::]:{}->{}", host + n, first + n),
                    ]
                })
                .collect()
        };
        let texts = both(8000, 8000, 3);
        let range = bindings(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            ports_column(&range, &[]),
            "0.0.0.0:8000-8002->8000-8002/tcp, [::]:8000-8002->8000-8002/tcp"
        );

        for (texts, exposed, column) in [
            (
                &["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"][..],
                &[][..],
                "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
            (&["0.0.0.0:80->80/tcp", "0.0.0.0:82->82/tcp"], &[], "0.0.0.0:80->80/tcp, 0.0.0.0:82->82/tcp"),
            (
                &["0.0.0.0:9000->8000/tcp", "0.0.0.0:9001->8001/tcp"],
                &[],
                "0.0.0.0:9000->8000/tcp, 0.0.0.0:9001->8001/tcp",
            ),
            (&[], &[(81, Protocol::Tcp)], "81/tcp"),
            (
                &["0.0.0.0:80->80/tcp"],
                &[(80, Protocol::Tcp), (90, Protocol::Tcp), (91, Protocol::Tcp)],
                "0.0.0.0:80->80/tcp, 90-91/tcp",
            ),
            (&["0.0.0.0:53->53/tcp", "0.0.0.0:53->53/udp"], &[], "0.0.0.0:53->53/tcp, 0.0.0.0:53->53/udp"),
            (&[], &[], ""),
        ] {
            assert_eq!(ports_column(&bindings(texts), exposed), column);
        }
    }
}
