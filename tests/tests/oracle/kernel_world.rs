//! The world in which the kernel does it: bridges, and the rules that Docker 28 installs in iptables with its userland proxy off
//! (Docker semantics 5.1; moby `daemon/libnetwork/drivers/bridge/internal/iptabler`).

use std::{fmt::Write as _, net::IpAddr, os::fd::AsRawFd as _, process::Command};

use netd_tests::{Family, Ns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::{
    plan::{Edge, Mode, NETWORKS, Network, PUBLISHES, Published},
    world::{World, mac_text, restore, topology},
};

/// What Docker publishes.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Builds it.
pub fn build() -> World {
    build_without("no rule has this in it")
}

/// Builds it without the rules that contain a text.
pub fn build_without(text: &str) -> World {
    let topology = topology();
    let h = &topology.h;
    for network in NETWORKS {
        bridge(h, network);
    }
    let mut spaces = vec![(Edge::R, topology.r.clone()), (Edge::R2, topology.r2.clone())];
    for edge in Edge::SANDBOXES {
        spaces.push((edge, sandbox(h, edge)));
    }
    tracking(h);
    for (program, family) in [("iptables-restore", Family::V4), ("ip6tables-restore", Family::V6)] {
        let rules = rules(family);
        let kept: Vec<_> = rules.lines().filter(|rule| !rule.contains(text)).collect();
        restore(h, program, &format!("{}\n", kept.join("\n")));
    }
    let (h, ns) = (h.clone(), h.clone());
    World::new("kernel", &h, &spaces, Box::new(move || flush(&ns)), Box::new(topology))
}

fn bridge_name(network: Network) -> String {
    format!("br{}", network.number)
}

fn bridge(h: &Ns, network: Network) {
    let bridge = bridge_name(network);
    h.ip_batch(&format!(
        "link add {bridge} type bridge\n\
         link set {bridge} address 02:42:00:00:00:{:02x}\n\
         link set {bridge} up",
        network.number,
    ));
    if network.has_gateway() {
        let [v4, v6] = Family::BOTH.map(|family| network.ip(family, 1));
        h.ip_batch(&format!("addr add {v4}/24 dev {bridge}\naddr add {v6}/64 dev {bridge} nodad"));
    } else {
        // Nobody reaches it, and silently so: of errors about missing routes the kernel sends a few a second (`ip_error`).
        let [v4, v6] = Family::BOTH.map(|family| network.subnet(family));
        h.ip_batch(&format!("route add blackhole {v4}\nroute add blackhole {v6}"));
    }
}

/// Makes a sandbox that has no address: it speaks through its raw socket alone.
fn sandbox(h: &Ns, edge: Edge) -> Ns {
    let ns = Ns::new(edge.name());
    let (network, _) = edge.place().expect("a sandbox has a network");
    let (bridge, port) = (bridge_name(network), format!("v{edge}"));
    h.connect(&port, &ns, "eth0");
    let mac = mac_text(ns.link("eth0").expect("its interface").mac);
    h.ip_batch(&format!(
        "link set {port} master {bridge}\n\
         link set {port} type bridge_slave hairpin on\n\
         neigh replace {} lladdr {mac} dev {bridge} nud permanent\n\
         neigh replace {} lladdr {mac} dev {bridge} nud permanent",
        edge.ip(Family::V4),
        edge.ip(Family::V6)
    ));
    let out =
        h.output(Command::new("bridge").args(["fdb", "replace", &mac, "dev", &port, "master", "static"]));
    assert!(out.status.success(), "bridge fdb: {}", String::from_utf8_lossy(&out.stderr));
    ns
}

/// Sets connection tracking up as netd's is meant to be: state comes from opening packets alone, and no window is tracked (dataplane 7.7).
fn tracking(h: &Ns) {
    for (key, value) in [
        ("nf_conntrack_tcp_loose", "0"),
        ("nf_conntrack_tcp_be_liberal", "1"),
        ("nf_conntrack_tcp_ignore_invalid_rst", "1"),
        ("nf_conntrack_checksum", "0"),
        // One sandbox alone uses a protocol without ports towards a machine: as long in both worlds, in seconds.
        ("nf_conntrack_generic_timeout", "600"),
        ("nf_conntrack_gre_timeout", "600"),
        ("nf_conntrack_gre_timeout_stream", "600"),
    ] {
        h.sysctl(&format!("net/netfilter/{key}"), value);
    }
    for table in ["iptables", "ip6tables"] {
        h.sysctl(&format!("net/bridge/bridge-nf-call-{table}"), "1");
    }
}

/// The tables of one family.
fn rules(family: Family) -> String {
    let mut text = String::new();
    let mut add = |line: String| writeln!(text, "{line}").expect("a string");
    raw(family, &mut add);
    nat(family, &mut add);
    filter(family, &mut add);
    text
}

fn published(family: Family) -> impl Iterator<Item = &'static Published> {
    PUBLISHES.iter().filter(move |publish| family == Family::V4 || publish.address.is_none())
}

fn raw(family: Family, add: &mut impl FnMut(String)) {
    add("*raw".into());
    for edge in Edge::SANDBOXES {
        let (network, _) = edge.place().expect("a sandbox has a network");
        if !network.internal && network.mode == Mode::Nat {
            if network.trusts {
                add(format!("-A PREROUTING -d {} -i eth0 -j ACCEPT", edge.ip(family)));
            }
            add(format!("-A PREROUTING -d {} ! -i {} -j DROP", edge.ip(family), bridge_name(network)));
        }
    }
    for publish in published(family) {
        if let Some(address) = publish.address.filter(std::net::Ipv4Addr::is_loopback) {
            for proto in PROTOCOLS {
                add(format!(
                    "-A PREROUTING -p {proto} -d {address} --dport {} ! -i lo -j DROP",
                    publish.host_port
                ));
            }
        }
    }
    add("COMMIT".into());
}

fn nat(family: Family, add: &mut impl FnMut(String)) {
    add("*nat\n:DOCKER - [0:0]".into());
    add("-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER".into());
    add("-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER".into());
    for network in NETWORKS.iter().filter(|network| !network.internal && network.masquerade) {
        let bridge = bridge_name(*network);
        add(format!("-A POSTROUTING -s {} ! -o {bridge} -j MASQUERADE", network.subnet(family)));
        add(format!("-A POSTROUTING -m addrtype --src-type LOCAL -o {bridge} -j MASQUERADE"));
    }
    for publish in published(family).filter(|publish| publish.is_on_host()) {
        let (backend, port) = (publish.edge.ip(family), publish.port);
        let backend_port = match backend {
            IpAddr::V4(v4) => format!("{v4}:{port}"),
            IpAddr::V6(v6) => format!("[{v6}]:{port}"),
        };
        let address = publish.address.map_or(String::new(), |address| format!("-d {address} "));
        let not_link_local = if family == Family::V6 { "! -s fe80::/10 " } else { "" };
        for proto in PROTOCOLS {
            add(format!("-A POSTROUTING -p {proto} -s {backend} -d {backend} --dport {port} -j MASQUERADE"));
            let dialled = publish.host_port;
            add(format!(
                "-A DOCKER {not_link_local}-p {proto} {address}--dport {dialled} -j DNAT --to-destination {backend_port}"
            ));
        }
    }
    add("COMMIT".into());
}

fn filter(family: Family, add: &mut impl FnMut(String)) {
    add("*filter".into());
    for network in NETWORKS {
        let bridge = bridge_name(network);
        add(format!("-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
    }
    for network in NETWORKS.iter().filter(|network| network.internal) {
        let (bridge, subnet) = (bridge_name(*network), network.subnet(family));
        let [only_in, only_out] = match family {
            Family::V4 => [String::new(), String::new()],
            Family::V6 => [format!("! -i {bridge} "), format!("! -o {bridge} ")],
        };
        add(format!("-A FORWARD {only_in}! -s {subnet} -o {bridge} -j DROP"));
        add(format!("-A FORWARD {only_out}! -d {subnet} -i {bridge} -j DROP"));
    }
    for publish in published(family) {
        let (network, _) = publish.edge.place().expect("a sandbox has a network");
        let bridge = bridge_name(network);
        for proto in PROTOCOLS {
            let (backend, port) = (publish.edge.ip(family), publish.port);
            add(format!(
                "-A FORWARD ! -i {bridge} -o {bridge} -p {proto} -d {backend} --dport {port} -j ACCEPT"
            ));
        }
    }
    for network in NETWORKS.iter().filter(|network| !network.internal) {
        let bridge = bridge_name(*network);
        if network.mode == Mode::Routed {
            add(format!(
                "-A FORWARD -o {bridge} -p {} -j ACCEPT",
                if family == Family::V4 { "icmp" } else { "ipv6-icmp" }
            ));
        }
        if network.mode != Mode::Unprotected {
            add(format!("-A FORWARD ! -i {bridge} -o {bridge} -j DROP"));
        }
        if !network.icc {
            add(format!("-A FORWARD -i {bridge} -o {bridge} -j DROP"));
        }
    }
    add("COMMIT".into());
}

/// Empties the connection table of a namespace: a deletion that names no entry (`net/netfilter/nf_conntrack_netlink.c`).
fn flush(h: &Ns) {
    const DELETE: u16 = 1 << 8 | 2; // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
    const FLAGS: u16 = 1 | 4; // NLM_F_REQUEST, NLM_F_ACK
    let mut message = 20_u32.to_ne_bytes().to_vec();
    message.extend([DELETE, FLAGS].iter().flat_map(|field| field.to_ne_bytes()));
    message.extend([0; 12]); // sequence, port, family and version
    let answer = h.run(|| {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .expect("a netlink socket");
        sendto(fd.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .expect("send to netlink");
        let mut answer = [0; 64];
        let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("netlink's answer");
        answer[..length].to_vec()
    });
    assert_eq!(answer.get(16..20), Some(&[0; 4][..]), "flush the connection table: {answer:?}");
}
