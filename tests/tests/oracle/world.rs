//! A world: the host under test between its edges, with a socket at each edge that sends and sees raw frames.
//!
//! The machines and sandboxes at the edges say nothing by themselves: what they receive is dropped behind the sockets.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use netd_tests::{Capture, H, H1, Ns, R, R2, Topology};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    layout::Layout,
    packet::{Packet, icmp, icmp_number},
    plan::{Edge, NETWORKS, Network},
    reassembly::Frames,
};

/// Who has an Ethernet address: an edge, an uplink of the host, or one of its bridges.
pub type Role = u8;
/// The host's first uplink.
const UPLINK: Role = 1;
/// The host's second uplink.
const UPLINK2: Role = 2;

/// Returns the role of an edge.
pub const fn edge_role(edge: Edge) -> Role {
    0x10 + edge as u8
}

/// Returns the role of the host's side of an edge: what its packets are sent to.
pub fn gateway_role(edge: Edge) -> Role {
    match edge.place() {
        Some((network, _)) => 0x80 + network.number,
        None if edge == Edge::R => UPLINK,
        None => UPLINK2,
    }
}

/// A host with its edges.
pub struct World {
    /// Its name in reports.
    pub name: &'static str,
    edges: Vec<(Edge, Capture)>,
    macs: BTreeMap<Role, [u8; 6]>,
    roles: BTreeMap<[u8; 6], Role>,
    /// Forgets every connection.
    forget: Box<dyn Fn() + Send + Sync>,
    /// What the world consists of; it ends with it.
    _parts: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("World").field(&self.name).finish()
    }
}

impl World {
    /// Opens the sockets of a world that is built.
    pub fn new(
        name: &'static str,
        h: &Ns,
        spaces: &[(Edge, Ns)],
        forget: Box<dyn Fn() + Send + Sync>,
        parts: Box<dyn Any + Send + Sync>,
    ) -> Self {
        let mut macs = BTreeMap::new();
        for (role, ifname) in [(UPLINK, "eth0"), (UPLINK2, "eth1")] {
            macs.insert(role, h.link(ifname).expect("an uplink").mac);
        }
        for network in NETWORKS {
            let bridge = bridge_of(h, network, spaces);
            for port in ports_of(h, &bridge) {
                h.disable_offloads(&port);
            }
            macs.insert(0x80 + network.number, h.link(&bridge).expect("a bridge").mac);
        }
        for (edge, ns) in spaces {
            silence(ns);
            macs.insert(edge_role(*edge), ns.link("eth0").expect("an edge's interface").mac);
        }
        let edges = spaces.iter().map(|(edge, ns)| (*edge, Capture::start(ns, "eth0"))).collect();
        let roles = macs.iter().map(|(role, mac)| (*mac, *role)).collect();
        let world = Self { name, edges, macs, roles, forget, _parts: parts };
        world.settle();
        world
    }

    /// Returns the Ethernet address of a role.
    pub fn mac(&self, role: Role) -> [u8; 6] {
        self.macs[&role]
    }

    /// Returns whose an Ethernet address is.
    pub fn role(&self, mac: [u8; 6]) -> Option<Role> {
        self.roles.get(&mac).copied()
    }

    /// Sends a frame at an edge.
    pub fn send(&self, edge: Edge, frame: &[u8]) {
        self.socket(edge).send(frame);
    }

    /// Waits until every packet on its way has arrived, and returns what arrived since the last call.
    ///
    /// A packet takes a few rounds through the receive queue of this CPU, which is first in, first out; an echo of the host takes two. After
    /// three echoes one after the other, nothing sent before the first is under way.
    pub fn settle(&self) -> Frames {
        let mut seen = Frames::new();
        for round in 0..3 {
            self.send(Edge::R, &self.marker(round));
            let end = Instant::now() + Duration::from_secs(10);
            while !self.collect(&mut seen, round) {
                let left = end.saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "{}: the host does not answer an echo", self.name);
                let mut waiting = [PollFd::new(self.socket(Edge::R).as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut waiting, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            }
        }
        seen
    }

    /// Takes what arrived; true when the marker's answer is among it.
    fn collect(&self, seen: &mut Frames, round: u8) -> bool {
        let mut marked = false;
        for (edge, socket) in &self.edges {
            for packet in socket.take().into_iter().filter(|packet| !packet.outgoing) {
                let layout = Layout::of_frame(&packet.bytes);
                let answer = layout.is_some_and(|l| l.src == IpAddr::V4(H.v4) && l.dst == IpAddr::V4(R.v4));
                if answer
                    && packet.dport == Some(marker_id(round))
                    && layout.is_some_and(|l| l.kind(&packet.bytes) == Some(0))
                {
                    marked = true;
                } else if layout.is_some_and(|layout| !is_chatter(&layout, &packet.bytes)) {
                    seen.push((*edge, packet.bytes));
                }
            }
        }
        marked
    }

    fn marker(&self, round: u8) -> Vec<u8> {
        let (src, dst) = (IpAddr::V4(R.v4), IpAddr::V4(H.v4));
        let [high, low] = marker_id(round).to_be_bytes();
        let macs = [self.mac(UPLINK), self.mac(edge_role(Edge::R))];
        let echo = icmp(src, dst, (8, 0), [high, low, 0, 0], b"marker");
        Packet { macs, ..Packet::new(src, dst, icmp_number(src), echo) }.frame()
    }

    fn socket(&self, edge: Edge) -> &Capture {
        let found = self.edges.iter().find(|(at, _)| *at == edge);
        &found.unwrap_or_else(|| panic!("{} has no edge {edge}", self.name)).1
    }

    /// Forgets every connection.
    pub fn forget(&self) {
        (self.forget)();
    }
}

const fn marker_id(round: u8) -> u16 {
    0xfe00 + round as u16
}

/// What stacks say by themselves: neighbour and router discovery, multicast listeners, and that a datagram was never completed, which a timer
/// decides.
fn is_chatter(layout: &Layout, bytes: &[u8]) -> bool {
    let code = bytes.get(layout.l4 + 1);
    let incomplete = layout.kind(bytes) == Some(if layout.v4 { 11 } else { 3 }) && code == Some(&1);
    let discovery = !layout.v4 && matches!(layout.kind(bytes), Some(130..=137 | 143));
    discovery || incomplete || layout.proto == 2
}

/// Restricts this thread to one CPU, which then delivers in order what it sends. `index` counts the CPUs there are.
pub fn pin(index: usize) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this thread");
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
    let mut one = CpuSet::new();
    one.set(cpus[index % cpus.len()]).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &one).expect("pin a thread");
}

/// Builds the hosts and their uplinks with what both worlds have in common.
pub fn topology() -> Topology {
    let topology = Topology::new();
    let h = &topology.h;
    for (ifname, peer, ns, near) in [("eth0", R, &topology.r, H), ("eth1", R2, &topology.r2, H1)] {
        h.disable_offloads(ifname);
        let mac = mac_text(ns.link("eth0").expect("an uplink's other end").mac);
        let (four, six) = if near == H { (18, "18") } else { (19, "19") };
        h.ip_batch(&format!(
            "neigh replace {0} lladdr {mac} dev {ifname} nud permanent\n\
             neigh replace {1} lladdr {mac} dev {ifname} nud permanent\n\
             route add 198.{four}.0.0/16 via {0}\n\
             route add 2001:db8:{six}::/48 via {1}",
            peer.v4, peer.v6
        ));
    }
    // Errors of the host are compared like all else: no limit on their rate may hide one.
    for (key, value) in [
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv4/icmp_msgs_per_sec", "1000000"),
        ("net/ipv4/icmp_msgs_burst", "1000000"),
        ("net/ipv6/icmp/ratelimit", "0"),
        // A datagram that stays incomplete does not wait for the tag's next use. In seconds.
        ("net/ipv4/ipfrag_time", "1"),
        ("net/ipv6/ip6frag_time", "1"),
        ("net/netfilter/nf_conntrack_frag6_timeout", "1"),
    ] {
        h.sysctl(key, value);
    }
    topology
}

/// Writes an Ethernet address as `ip` reads it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Finds the bridge of a network: the master of what its first sandbox is connected to.
fn bridge_of(h: &Ns, network: Network, spaces: &[(Edge, Ns)]) -> String {
    let lives_in = |edge: Edge| edge.place().is_some_and(|(place, _)| place.number == network.number);
    let (_, ns) = spaces.iter().find(|(edge, _)| lives_in(*edge)).expect("a sandbox of the network");
    let inside = ns.ip_json(&["link", "show", "eth0"]);
    let links = h.ip_json(&["link", "show"]);
    let outside =
        links.as_array().into_iter().flatten().find(|link| link["ifindex"] == inside[0]["link_index"]);
    let master = outside.and_then(|link| link["master"].as_str());
    master.unwrap_or_else(|| panic!("{}: no bridge in {links}", network.name)).to_owned()
}

/// Lists the ports of a bridge.
fn ports_of(h: &Ns, bridge: &str) -> Vec<String> {
    let links = h.ip_json(&["link", "show", "master", bridge]);
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    names.map(str::to_owned).collect()
}

/// Drops what a machine at an edge receives, behind the packet sockets, so that its stack answers nothing.
fn silence(ns: &Ns) {
    for program in ["iptables-restore", "ip6tables-restore"] {
        restore(ns, program, "*raw\n-A PREROUTING -j DROP\nCOMMIT\n");
    }
}

/// Loads rules in a namespace.
pub fn restore(ns: &Ns, program: &str, rules: &str) {
    let mut command = Command::new(program);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ns.spawn(&mut command);
    child.stdin.take().expect("stdin").write_all(rules.as_bytes()).expect("write rules");
    let out = child.wait_with_output().expect("wait for iptables");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}: {program} failed: {errors}\n{rules}", ns.name());
}
