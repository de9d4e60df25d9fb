//! The fake world's topology in the running kernel: devices of a namespace of its own, and a dataplane whose maps hold the same as the fake's.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Command,
};

use ipnet::{Ipv4Net, Ipv6Net};
use netd::{
    dataplane::{Dataplane, EndpointEntry, Guard, Kernel, NetworkEntry, Settings, UplinkEntry},
    model::{GatewayMode, HairpinSource, Mac},
};
use netd_common::{
    fake::{Cast, Party, ifindex, mac},
    family::{V4, V6},
};

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes the fake world's devices, addresses and routes in this thread's namespace, with the fake's interface indexes.
pub fn devices() {
    ip("link set lo up");
    for (index, name) in
        [(ifindex::A1, "a1"), (ifindex::A2, "a2"), (ifindex::B1, "b1"), (ifindex::UP0, "up0")]
    {
        ip(&format!("link add index {index} name {name} type veth peer name {name}p index {}", index + 100));
        ip(&format!("link set {name} up"));
        ip(&format!("link set {name}p up"));
    }
    for (index, name, v4, v6) in [
        (ifindex::BRIDGE_A, "brA", "172.30.0.1/24", "fd30::1/64"),
        (ifindex::BRIDGE_B, "brB", "172.31.0.1/24", "fd31::1/64"),
    ] {
        ip(&format!("link add index {index} name {name} type bridge"));
        ip(&format!("link set {name} up"));
        ip(&format!("addr add {v4} dev {name}"));
        ip(&format!("-6 addr add {v6} dev {name} nodad"));
        for family in ["ipv4", "ipv6"] {
            fs::write(format!("/proc/sys/net/{family}/conf/{name}/forwarding"), "1").expect("own bridge");
        }
    }
    ip("addr add 198.51.100.1/24 dev up0");
    ip("-6 addr add 2001:db8:e::1/64 dev up0 nodad");
    ip("route add default via 198.51.100.2");
    ip("-6 route add default via 2001:db8:e::2");
}

/// Returns a party's IPv4 address.
pub fn v4(party: Party) -> Ipv4Addr {
    V4::of(party).into()
}

/// Returns a party's IPv6 address.
pub fn v6(party: Party) -> Ipv6Addr {
    V6::of(party).into()
}

/// Fills the kernel's maps as `Fake::new` fills its own: with these ports for masqueraded flows, and room for so many entries of flows.
pub fn kernel(bpffs: &Path, ports: (u16, u16), entries: u32) -> Kernel {
    let cgroup = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let cgroup =
        cgroup.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let mut kernel = Kernel::open(Settings {
        bpffs: bpffs.to_owned(),
        cgroup: cgroup.expect("a cgroup2 mount").into(),
        flow_entries: entries,
        flow_entries_per_endpoint: entries,
        nat_excluded_ports: Vec::new(),
        nat_port_ranges: vec![ports],
        timeouts: netd::dataplane::Timeouts::default(),
        attach: netd::dataplane::AttachMode::Auto,
        tcx_order: netd::dataplane::TcxOrder::Last,
        direct: netd::dataplane::DirectAccess::default(),
        respect_host_firewall: false,
        guard: Guard::default(),
    })
    .expect("programs load");
    for (index, bridge, gateway) in
        [(1, ifindex::BRIDGE_A, Party::GatewayA), (2, ifindex::BRIDGE_B, Party::GatewayB)]
    {
        let subnet4 = Ipv4Net::new(v4(gateway), 24).expect("a prefix").trunc();
        let subnet6 = Ipv6Net::new(v6(gateway), 64).expect("a prefix").trunc();
        kernel
            .put_network(&NetworkEntry {
                index,
                bridge,
                bridge_mac: Mac(mac(gateway).into()),
                ipv4: Some((subnet4, Some(v4(gateway)))),
                ipv6: Some((subnet6, Some(v6(gateway)))),
                icc: true,
                internal: false,
                masquerade: true,
                gateway_mode_ipv4: GatewayMode::Nat,
                gateway_mode_ipv6: GatewayMode::Nat,
                trusts: false,
                host_ipv4: None,
                host_ipv6: None,
                host_closed: false,
                hairpin_source: HairpinSource::Auto,
                any_source: false,
                own_bridge: false,
            })
            .expect("network");
    }
    for (ifindex, network, party) in
        [(ifindex::A1, 1, Party::A1), (ifindex::A2, 1, Party::A2), (ifindex::B1, 2, Party::B1)]
    {
        let (ipv4, ipv6) = (Some(v4(party)), Some(v6(party)));
        let entry = EndpointEntry { ifindex, network, mac: Mac(mac(party).into()), ipv4, ipv6 };
        kernel.put_endpoint(&entry).expect("endpoint");
    }
    let ifname = "up0".parse().expect("a name");
    let (ipv4, ipv6) = (Some(v4(Party::Host)), Some(v6(Party::Host)));
    let uplink = UplinkEntry { ifindex: ifindex::UP0, ifname, ipv4, ipv6, mtu: 1500, bare: false };
    kernel.put_uplink(&uplink).expect("uplink");
    let local: Vec<IpAddr> = [Party::Host, Party::GatewayA, Party::GatewayB]
        .into_iter()
        .flat_map(|party| [IpAddr::from(v4(party)), IpAddr::from(v6(party))])
        .collect();
    kernel.set_local_addresses(&local).expect("addresses");
    kernel
}
