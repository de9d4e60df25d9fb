//! A sandbox's own /etc/hosts and /etc/resolv.conf, from the host's files and what was asked for. Pure: text in, text out.
//!
//! There is no embedded DNS server, so every sandbox gets the name servers that Docker's default bridge would give it
//! (Docker semantics F1, F11, F13, G1, HO5; moby `daemon/libnetwork/internal/resolvconf`).

use std::{fmt::Write as _, net::IpAddr};

use crate::model::{DnsConfig, Endpoint, Sandbox, SandboxMode};

/// Used where the host has no name server that a sandbox could reach.
const FALLBACK_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
/// The same for sandboxes with IPv6.
const FALLBACK_SERVERS_IPV6: [&str; 2] = ["2001:4860:4860::8888", "2001:4860:4860::8844"];

/// Where systemd-resolved keeps the servers behind its stub.
pub const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// What a `--link` adds to /etc/hosts (Docker semantics G1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link<'a> {
    /// Addresses of the target on the shared network.
    pub addresses: Vec<IpAddr>,
    /// Name that the user chose, or the target's.
    pub alias: &'a str,
    /// The target's host name.
    pub hostname: &'a str,
    /// The target's name.
    pub name: &'a str,
}

/// Returns a sandbox's /etc/hosts; `host` is the host's own, which sandboxes in host mode share unless they add names.
pub fn hosts(sandbox: &Sandbox, host: &str, links: &[Link<'_>]) -> String {
    let extra = &sandbox.dns.extra_hosts;
    if sandbox.mode == SandboxMode::Host && extra.is_empty() {
        return host.to_owned();
    }
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        line(&mut text, *address, name);
    }
    for link in links {
        let mut names = vec![link.alias];
        for name in [link.hostname, link.name] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        for address in &link.addresses {
            line(&mut text, *address, &names.join(" "));
        }
    }
    let own = own_names(&sandbox.hostname);
    for address in sandbox.endpoints.iter().flat_map(addresses) {
        line(&mut text, address, &own);
    }
    text
}

fn line(text: &mut String, address: IpAddr, names: &str) {
    let _ = writeln!(text, "{address}\t{names}"); // writing to a String cannot fail
}

/// Returns a host name, followed by its first label where it is a qualified one.
fn own_names(hostname: &str) -> String {
    match hostname.split_once('.') {
        Some((label, _)) if !label.is_empty() => format!("{hostname} {label}"),
        _ => hostname.to_owned(),
    }
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    let ipv4 = endpoint.ipv4.map(|net| IpAddr::V4(net.addr()));
    ipv4.into_iter().chain(endpoint.ipv6.map(|net| IpAddr::V6(net.addr())))
}

/// Whether a resolv.conf names nothing but systemd-resolved's stub, so that `SYSTEMD_RESOLV_CONF` is the one to read
/// for sandboxes with a namespace of their own.
pub fn is_systemd_stub(resolv_conf: &str) -> bool {
    let parsed = ResolvConf::parse(resolv_conf);
    parsed.servers == ["127.0.0.53"]
}

/// Returns a sandbox's /etc/resolv.conf.
///
/// `host` is the host's file; `defaults` come from the daemon's configuration (A17). Lists that were asked for replace the
/// host's; servers on the host's loopback stay out of namespaces that cannot reach them, and IPv6 ones out of sandboxes without
/// IPv6.
pub fn resolv_conf(sandbox: &Sandbox, host: &str, defaults: &DnsConfig) -> String {
    let host_mode = sandbox.mode == SandboxMode::Host;
    let pick =
        |own: &[String], default: &[String]| if own.is_empty() { default.to_vec() } else { own.to_vec() };
    let servers = if sandbox.dns.servers.is_empty() { &defaults.servers } else { &sandbox.dns.servers };
    let search = pick(&sandbox.dns.search, &defaults.search);
    let options = pick(&sandbox.dns.options, &defaults.options);
    if host_mode && servers.is_empty() && search.is_empty() && options.is_empty() {
        return host.to_owned();
    }
    let mut conf = ResolvConf::parse(host);
    if !search.is_empty() {
        // `--dns-search .` asks for no search list at all (F11).
        conf.search = search.into_iter().filter(|domain| domain != ".").collect();
    }
    if !options.is_empty() {
        conf.options = options;
    }
    if !servers.is_empty() {
        conf.servers = servers.iter().map(ToString::to_string).collect();
    } else if !host_mode {
        let ipv6 = sandbox.endpoints.iter().any(|endpoint| endpoint.ipv6.is_some());
        conf.servers.retain(|server| is_reachable(server, ipv6));
        if conf.servers.is_empty() {
            let ipv6_fallback = FALLBACK_SERVERS_IPV6.iter().filter(|_| ipv6);
            conf.servers = FALLBACK_SERVERS.iter().chain(ipv6_fallback).map(ToString::to_string).collect();
        }
    }
    conf.render()
}

/// Whether a sandbox with its own namespace can reach a name server. Addresses with a zone belong to the host's links.
fn is_reachable(server: &str, ipv6: bool) -> bool {
    match server.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => !ip.is_loopback() && !ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => {
            ipv6 && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local()
        }
        Err(_) => false,
    }
}

/// A resolv.conf, as resolv.conf(5) describes it.
#[derive(Debug, Default)]
struct ResolvConf {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    /// Other directives as they stand: `sortlist`.
    others: Vec<String>,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            let rest = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().map(str::to_owned)),
                // `domain` is the old word for a search list of one; the last of both wins.
                Some("search" | "domain") => conf.search = rest(words),
                Some("options") => conf.options.extend(rest(words)),
                Some(_) => conf.others.push(line.to_owned()),
                None => {}
            }
        }
        conf
    }

    fn render(&self) -> String {
        let mut lines = vec!["# Generated by netd".to_owned()];
        lines.extend(self.servers.iter().map(|server| format!("nameserver {server}")));
        for (directive, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                lines.push(format!("{directive} {}", words.join(" ")));
            }
        }
        lines.extend(self.others.iter().cloned());
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Id;

    const STUB: &str =
        "# managed by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";

    fn sandbox(mode: SandboxMode, ipv4: &[&str], ipv6: &[&str]) -> Sandbox {
        let endpoint = |ipv4: Option<&str>, ipv6: Option<&str>| Endpoint {
            id: Id::from_bytes(&[2; 32]),
            network: Id::from_bytes(&[3; 32]),
            ifname: "eth0".parse().expect("a name"),
            host_ifname: "nd0".parse().expect("a name"),
            mac: "02:00:00:00:00:01".parse().expect("a MAC"),
            ipv4: ipv4.map(|net| net.parse().expect("an address")),
            ipv6: ipv6.map(|net| net.parse().expect("an address")),
            gateway4: None,
            gateway6: None,
            aliases: Vec::new(),
            gw_priority: 0,
            driver_opts: BTreeMap::new(),
            requested: (false, false, false),
        };
        let endpoints =
            ipv4.iter().enumerate().map(|(at, net)| endpoint(Some(net), ipv6.get(at).copied())).collect();
        Sandbox {
            id: Id::from_bytes(&[1; 32]),
            name: "web".parse().expect("a name"),
            created: String::new(),
            mode,
            netns: None,
            hostname: "010101010101".to_owned(),
            dns: DnsConfig::default(),
            endpoints,
            publish: Vec::new(),
            publish_all: false,
            exposed: Vec::new(),
            bindings: Vec::new(),
            links: Vec::new(),
            labels: BTreeMap::new(),
            command: Vec::new(),
            pid: None,
        }
    }

    fn resolved(sandbox: &Sandbox, host: &str) -> Vec<String> {
        resolv_conf(sandbox, host, &DnsConfig::default()).lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn loopback_and_unusable_servers_stay_on_the_host() {
        let v4 = sandbox(SandboxMode::Endpoints, &["172.17.0.2/16"], &[]);
        let dual = sandbox(SandboxMode::Endpoints, &["172.17.0.2/16"], &["fd00::2/64"]);
        for (sandbox, host, servers) in [
            (&v4, "nameserver 192.0.2.53\nnameserver 127.0.0.1\nnameserver ::1\n", &["192.0.2.53"][..]),
            (&v4, "nameserver 192.0.2.53\nnameserver 2001:db8::53\n", &["192.0.2.53"]),
            (&dual, "nameserver 2001:db8::53\nnameserver fe80::1%eth0\n", &["2001:db8::53"]),
            (&v4, STUB, &["8.8.8.8", "8.8.4.4"]),
            (&dual, "", &["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"]),
        ] {
            let lines = resolved(sandbox, host);
            let found: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("nameserver ")).collect();
            assert_eq!(found, servers, "{host:?}");
        }
    }

    #[test]
    fn search_and_options_come_from_the_host_unless_given() {
        let host = "domain old.example\nsearch a.example b.example\nnameserver 192.0.2.53\noptions ndots:2\noptions rotate\nsortlist 192.0.2.0\n";
        let mut web = sandbox(SandboxMode::Endpoints, &["172.17.0.2/16"], &[]);
        assert_eq!(
            resolved(&web, host),
            [
                "nameserver 192.0.2.53",
                "search a.example b.example",
                "options ndots:2 rotate",
                "sortlist 192.0.2.0"
            ]
        );
        web.dns.servers = vec!["127.0.0.1".parse().expect("an address")];
        web.dns.search = vec!["c.example".into()];
        web.dns.options = vec!["timeout:1".into()];
        assert_eq!(
            resolved(&web, host),
            ["nameserver 127.0.0.1", "search c.example", "options timeout:1", "sortlist 192.0.2.0"]
        );
        web.dns.search = vec![".".into()];
        assert!(!resolved(&web, host).iter().any(|line| line.starts_with("search")));
    }

    #[test]
    fn the_daemons_servers_stand_in_for_the_hosts() {
        let web = sandbox(SandboxMode::Endpoints, &["172.17.0.2/16"], &[]);
        let defaults =
            DnsConfig { servers: vec!["192.0.2.1".parse().expect("an address")], ..DnsConfig::default() };
        let text = resolv_conf(&web, "nameserver 192.0.2.53\nsearch lan\n", &defaults);
        assert_eq!(text, "# Generated by netd\nnameserver 192.0.2.1\nsearch lan\n");
    }

    #[test]
    fn host_mode_shares_the_hosts_files() {
        let mut shared = sandbox(SandboxMode::Host, &[], &[]);
        assert_eq!(resolv_conf(&shared, STUB, &DnsConfig::default()), STUB);
        assert_eq!(hosts(&shared, "127.0.0.1 localhost me\n", &[]), "127.0.0.1 localhost me\n");

        shared.dns.options = vec!["ndots:1".into()];
        assert!(
            resolved(&shared, STUB).contains(&"nameserver 127.0.0.53".to_owned()),
            "the stub works there"
        );
        shared.dns.extra_hosts = vec![("db".into(), "192.0.2.9".parse().expect("an address"))];
        assert!(hosts(&shared, "127.0.0.1 me\n", &[]).ends_with("192.0.2.9\tdb\n"));
    }

    #[test]
    fn hosts_lists_extra_names_links_and_every_own_address() {
        let mut web = sandbox(SandboxMode::Endpoints, &["172.17.0.2/16", "172.18.0.5/16"], &["fd00::2/64"]);
        web.dns.extra_hosts = vec![("db".into(), "192.0.2.9".parse().expect("an address"))];
        let address = vec!["172.17.0.3".parse().expect("an address")];
        let links = [
            Link { addresses: address.clone(), alias: "database", hostname: "0a0b0c", name: "pg" },
            Link { addresses: address, alias: "pg", hostname: "0a0b0c", name: "pg" },
        ];
        let text = hosts(&web, "", &links);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "127.0.0.1\tlocalhost");
        assert_eq!(
            lines[6..],
            [
                "192.0.2.9\tdb",
                "172.17.0.3\tdatabase 0a0b0c pg",
                "172.17.0.3\tpg 0a0b0c",
                "172.17.0.2\t010101010101",
                "fd00::2\t010101010101",
                "172.18.0.5\t010101010101",
            ]
        );
        web.hostname = "www.example.org".into();
        assert!(hosts(&web, "", &[]).contains("172.17.0.2\twww.example.org www\n"));
    }

    #[test]
    fn the_systemd_stub_is_recognised() {
        assert!(is_systemd_stub(STUB));
        assert!(!is_systemd_stub("nameserver 192.0.2.53\nnameserver 127.0.0.53\n"));
        assert!(!is_systemd_stub(""));
    }
}
