//! The packet path as the controller sees it: maps to fill and interfaces to attach. Only this module knows aya.
//!
//! Every call is idempotent, so that applying a plan again after a crash is safe.

mod adopt;
mod attach;
mod clock;
mod explain;
pub mod fake;
mod flows;
mod guard;
mod host_sockets;
mod kept;
mod kernel;
mod layout;
mod load;
mod maps;
mod migrate;
mod monitor;
mod netkit;
mod object;
mod occupancy;
mod order;
mod pinned;
mod programs;
mod promote;
mod raw;
mod rules;
mod shapes;
mod sock_diag;
mod survey;
mod test_run;
mod verify;

pub use explain::{Explainer, Explanation, Origin, Page, Question, Step, Unexplained, page};
pub use guard::Guard;
pub use kernel::{Found, Kernel, Look, remove_pins, wanted::Wanted};
pub use monitor::{Drop, Listener, Monitor, Packet};
pub use object::OBJECT_SHA256;
pub use occupancy::{Occupancy, PortTries, TableUse};
pub use order::TcxOrder;
pub use pinned::{Attached, Difference, MapDump, Names, Pinned, published_ports};
pub use rules::{RuleEntry, Rules};
pub use test_run::Ran;
pub use verify::{ProgramReport, verify};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::model::{Device, GatewayMode, HairpinSource, IfName, Mac, Protocol, Sources};

/// The IPv6 flow table, and what one endpoint may have of it, is this many times smaller than IPv4's (spec: dataplane.md 7.2).
const IPV6_SHARE: u32 = 4;

/// Where the programs, pins and cgroup of one instance live.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory on a bpffs for this instance's pins.
    pub bpffs: PathBuf,
    /// Root of the cgroup2 hierarchy whose sockets are the host's.
    pub cgroup: PathBuf,
    /// Entries of the IPv4 flow table (two per flow); IPv6's is four times smaller.
    pub flow_entries: u32,
    /// Entries of the IPv4 flow table that one endpoint may fill; of IPv6's, four times fewer.
    pub flow_entries_per_endpoint: u32,
    /// Host ports that masqueraded flows may take, first and last.
    pub nat_port_ranges: Vec<(u16, u16)>,
    /// Host ports among them that they may not take, besides those of reflectable services and tunnels.
    pub nat_excluded_ports: Vec<(u16, u16)>,
    /// How long flows live.
    pub timeouts: Timeouts,
    /// How packet programs are attached.
    pub attach: AttachMode,
    /// Where the programs of uplinks stand among others of their hooks.
    pub tcx_order: TcxOrder,
    /// Who may address sandboxes directly, on every network.
    pub direct: DirectAccess,
    /// Whether published ports are open to the outside only where the host's own input rules let packets in.
    pub respect_host_firewall: bool,
    /// Which uplinks are guarded, and against whom.
    pub guard: Guard,
}

/// Who may address sandboxes directly, whatever their network says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DirectAccess {
    /// Everybody, on published ports (`allow-direct-routing`, Docker semantics A12).
    pub routing: bool,
    /// Packets with this mark under this mask, on every port, where a network may be addressed directly at all (`bridge-accept-fwmark`, A13).
    pub mark: Option<(u32, u32)>,
}

/// How packet programs are attached to interfaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// TCX links where the kernel has them (6.6), else clsact filters.
    #[default]
    Auto,
    /// TCX links.
    Tcx,
    /// Filters of the clsact qdisc.
    Tc,
}

/// How long flows live without a packet, with where each default comes from.
///
/// Most are the kernel's own (`net/netfilter/nf_conntrack_proto_*.c`), which Docker's users rely on: idle database connections for days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, SYN seen: 120 s (`tcp_timeouts[TCP_CONNTRACK_SYN_SENT]`).
    pub tcp_syn_sent: Duration,
    /// TCP, SYN and SYN+ACK seen: 60 s (`TCP_CONNTRACK_SYN_RECV`).
    pub tcp_syn_recv: Duration,
    /// TCP, open: 5 days (`TCP_CONNTRACK_ESTABLISHED`; RFC 5382 REQ-5 asks for at least 2 h 4 min).
    pub tcp_established: Duration,
    /// TCP, one side closed: as long as an open one. The kernel's 60 s of `CLOSE_WAIT` cut streams that flow the other way.
    pub tcp_closing: Duration,
    /// TCP, both sides closed: 10 s, for segments on their way. `LAST_ACK` and `TIME_WAIT` (30 s, 120 s) guard the sides, which keep them too.
    pub tcp_closed: Duration,
    /// TCP, reset and silent since: 10 s (`TCP_CONNTRACK_CLOSE`).
    pub tcp_reset: Duration,
    /// UDP without an answer yet: 30 s (`udp_timeouts[UDP_CT_UNREPLIED]`).
    pub udp: Duration,
    /// UDP, answered: 120 s (`UDP_CT_REPLIED`; RFC 4787 REQ-5 asks for at least 2 min).
    pub udp_replied: Duration,
    /// UDP, answered from port 53 and soon silent: 10 s (RFC 4787 §4.3 lets well-known ports have less; resolvers ask again after 5 s).
    pub udp_dns: Duration,
    /// ICMP echo: 30 s (`nf_ct_icmp_timeout`; RFC 5508 REQ-2 asks for 60 s, which no `ping` needs).
    pub icmp: Duration,
    /// Other protocols: 600 s (`nf_ct_generic_timeout`).
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            tcp_syn_sent: Duration::from_mins(2),
            tcp_syn_recv: Duration::from_mins(1),
            tcp_established: Duration::from_secs(5 * DAY),
            tcp_closing: Duration::from_secs(5 * DAY),
            tcp_closed: Duration::from_secs(10),
            tcp_reset: Duration::from_secs(10),
            udp: Duration::from_secs(30),
            udp_replied: Duration::from_mins(2),
            udp_dns: Duration::from_secs(10),
            icmp: Duration::from_secs(30),
            other: Duration::from_mins(10),
        }
    }
}

/// A bridge network in the dataplane.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct NetworkEntry {
    /// Slot in the `NETWORK` map.
    pub index: u16,
    /// The bridge's interface index.
    pub bridge: u32,
    /// The bridge's address on the link.
    pub bridge_mac: Mac,
    /// IPv4 subnet and the bridge's address in it.
    pub ipv4: Option<(Ipv4Net, Option<Ipv4Addr>)>,
    /// IPv6 subnet and the bridge's address in it.
    pub ipv6: Option<(Ipv6Net, Option<Ipv6Addr>)>,
    /// Whether endpoints may talk to each other.
    pub icc: bool,
    /// Whether nothing enters or leaves.
    pub internal: bool,
    /// Whether egress takes the host's address, where the gateway mode has it at all.
    pub masquerade: bool,
    /// How the outside reaches IPv4 endpoints.
    pub gateway_mode_ipv4: GatewayMode,
    /// How the outside reaches IPv6 endpoints.
    pub gateway_mode_ipv6: GatewayMode,
    /// Whether it names interfaces that may reach open ports directly.
    pub trusts: bool,
    /// Fixed source of masqueraded IPv4 flows.
    pub host_ipv4: Option<Ipv4Addr>,
    /// Fixed source of masqueraded IPv6 flows.
    pub host_ipv6: Option<Ipv6Addr>,
    /// Whether it reaches no service of the host but those that are open on the bridge's addresses.
    pub host_closed: bool,
    /// As whom its servers see sandboxes that come through the host.
    pub hairpin_source: HairpinSource,
    /// Whether its sandboxes may use addresses that are nobody's here.
    pub any_source: bool,
    /// Whether its bridge is netd's own, and not one that somebody else made.
    pub own_bridge: bool,
}

/// An endpoint in the dataplane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointEntry {
    /// Index of the veth's host side.
    pub ifindex: u32,
    /// Slot of its network.
    pub network: u16,
    /// The only Ethernet source it may use.
    pub mac: Mac,
    /// The only IPv4 source it may use.
    pub ipv4: Option<Ipv4Addr>,
    /// The only global IPv6 source it may use.
    pub ipv6: Option<Ipv6Addr>,
}

/// A published port in the dataplane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishEntry {
    /// Host address; unspecified: every local address of that family.
    pub host_ip: IpAddr,
    /// Port on the host.
    pub host_port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// Where it leads.
    pub backend: IpAddr,
    /// Port there.
    pub backend_port: u16,
    /// Host side of the endpoint's veth.
    pub ifindex: u32,
    /// Who may come.
    pub allow: Sources,
}

/// A port that is open on an endpoint's own address, or, by the bridge's address, on the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenEntry {
    /// The endpoint's address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// Host side of the endpoint's veth.
    pub ifindex: u32,
    /// Who may come.
    pub allow: Sources,
}

/// What a link or a policy opens between two endpoints of a network without ICC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkEntry {
    /// Who may open connections; unspecified: every endpoint of the network.
    pub from: IpAddr,
    /// To whom; of the same family.
    pub to: IpAddr,
    /// The port there; None: everything.
    pub port: Option<(u16, Protocol)>,
    /// Which of the two opens it.
    pub by: LinkBy,
}

/// What opens something between two endpoints. What both open stays open while one of them does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkBy {
    /// A sandbox's link.
    Link,
    /// A policy of the network.
    Policy,
}

/// A host interface through which the outside is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkEntry {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub ifname: IfName,
    /// Source of masqueraded IPv4 flows that leave here.
    pub ipv4: Option<Ipv4Addr>,
    /// Source of masqueraded IPv6 flows that leave here.
    pub ipv6: Option<Ipv6Addr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether its packets begin with IP, without an Ethernet header.
    pub bare: bool,
}

/// One live flow, seen from the side that opened it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FlowInfo {
    /// `tcp`, `udp`, `icmp`, ... or the protocol's number.
    pub protocol: String,
    /// Its TCP state, or `unreplied`/`replied`.
    pub state: String,
    /// Who opened it.
    pub source: IpAddr,
    /// The opener's port, or ICMP echo id.
    pub source_port: u16,
    /// Whom it addressed.
    pub destination: IpAddr,
    /// The addressed port.
    pub destination_port: u16,
    /// Source after translation.
    pub translated_source: IpAddr,
    /// Source port after translation.
    pub translated_source_port: u16,
    /// Destination after translation.
    pub translated_destination: IpAddr,
    /// Destination port after translation.
    pub translated_destination_port: u16,
    /// Host side of the opener's veth; 0: it came from an uplink.
    pub ifindex: u32,
    /// Host side of the veth it is delivered to; 0: it leaves by an uplink.
    pub out_ifindex: u32,
    /// Seconds since its last packet.
    pub idle_seconds: f64,
    /// Seconds until it expires when nothing more comes.
    pub expires_seconds: f64,
}

/// Selects flows; an empty filter selects all.
#[derive(Debug, Clone, Default)]
pub struct FlowFilter {
    /// Any of the flow's four addresses is one of these (empty: any).
    pub addresses: Vec<IpAddr>,
    /// The protocol's number.
    pub protocol: Option<u8>,
    /// Any of the flow's ports.
    pub port: Option<u16>,
}

/// What went wrong in the dataplane, to which object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused an operation on an object.
    #[error("{doing}")]
    Kernel {
        /// What was being done to which object: "attach `from_uplink` to eth0".
        doing: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A table is full; the text names it, its size and the configuration key.
    #[error("{0}")]
    Limit(String),
    /// The kernel lacks something that netd needs.
    #[error("{0}")]
    Unsupported(String),
}

impl Error {
    /// Makes an error of the kernel's refusal.
    fn kernel(doing: String, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Kernel { doing, source: Box::new(source) }
    }
}

/// The packet path. One implementation fills BPF maps; tests use one in memory.
///
/// `put_` inserts or replaces one entry atomically, `remove_` succeeds when the entry is already gone.
pub trait Dataplane: Send {
    /// Inserts or replaces a network.
    fn put_network(&mut self, network: &NetworkEntry) -> Result<(), Error>;
    /// Removes a network and every prefix that leads to its slot, by its index alone.
    fn remove_network(&mut self, network: &NetworkEntry) -> Result<(), Error>;
    /// Inserts or replaces an endpoint; from here on its packets are served.
    fn put_endpoint(&mut self, endpoint: &EndpointEntry) -> Result<(), Error>;
    /// Removes an endpoint and every flow from or to it.
    fn remove_endpoint(&mut self, endpoint: &EndpointEntry) -> Result<(), Error>;
    /// Puts the programs on the host side of a pair, of a netkit's also where the sandbox sends, and pins the links. To be called while the pair is down.
    fn attach_endpoint(&mut self, host_side: &IfName, ifindex: u32, device: Device) -> Result<(), Error>;
    /// Removes the pins of an endpoint's programs; the kernel detaches them with the interface.
    fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), Error>;
    /// Whether an endpoint has a program that would be faster as a link: nobody waited for that.
    fn awaits_promotion(&self) -> bool {
        false
    }
    /// Promotes the program of one such endpoint, which takes 10 ms and more.
    fn promote_one(&mut self) -> Result<(), Error> {
        Ok(())
    }
    /// Puts the programs on an uplink, pins the links, and records its addresses.
    fn put_uplink(&mut self, uplink: &UplinkEntry) -> Result<(), Error>;
    /// Forgets an uplink, detaches its programs and purges flows that left with its addresses.
    fn remove_uplink(&mut self, uplink: &UplinkEntry) -> Result<(), Error>;
    /// Makes this the complete list of the host's own addresses (published ports answer on them).
    fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), Error>;
    /// Reserves host ports, which are not reserved yet: from here on sockets of the host get EADDRINUSE for them. Comes before
    /// `put_publishes`. All or none: when there is no room for some, none is reserved.
    fn guard_ports(&mut self, entries: &[PublishEntry]) -> Result<(), Error>;
    /// Gives up the reservation of host ports.
    fn release_ports(&mut self, entries: &[PublishEntry]) -> Result<(), Error>;
    /// Starts serving published ports.
    fn put_publishes(&mut self, entries: &[PublishEntry]) -> Result<(), Error>;
    /// Stops serving published ports: no new flows from here on; established TCP flows go on, UDP flows end, and connected UDP sockets of host
    /// processes are told to connect again.
    fn remove_publishes(&mut self, entries: &[PublishEntry]) -> Result<(), Error>;
    /// Ends what came by published ports that are withdrawn already: flows, and connections of host processes, whose both ends learn of it by a
    /// reset. Returns how many flows and sockets went.
    fn kill_publishes(&mut self, entries: &[PublishEntry]) -> Result<usize, Error>;
    /// Opens ports on endpoints' own addresses.
    fn put_open(&mut self, entries: &[OpenEntry]) -> Result<(), Error>;
    /// Closes them for new flows; established TCP flows go on, UDP flows end.
    fn remove_open(&mut self, entries: &[OpenEntry]) -> Result<(), Error>;
    /// Opens what links and policies say between endpoints.
    fn put_links(&mut self, entries: &[LinkEntry]) -> Result<(), Error>;
    /// Closes them for new flows; established TCP flows go on, UDP flows end.
    fn remove_links(&mut self, entries: &[LinkEntry]) -> Result<(), Error>;
    /// Makes this the complete list of interfaces that may reach a network's open ports directly: (slot of the network, interface index).
    fn set_trusted(&mut self, trusted: &[(u16, u32)]) -> Result<(), Error>;
    /// Makes this the complete list of the host's interfaces, by name with their indexes: ports may be open to some of them.
    fn set_links(&mut self, links: &BTreeMap<String, u32>) -> Result<(), Error>;
    /// Makes these the rules by which IPv6 packets find their way.
    fn set_rules(&mut self, rules: &Rules) -> Result<(), Error>;
    /// Makes every flow ask again for its route on its next packet, after routes, links or neighbours changed.
    fn routes_changed(&mut self) -> Result<(), Error>;
    /// Says whether each uplink's IPv6 address is the source of all masqueraded flows that leave there, so that the routing table need not be asked.
    fn set_sole_source6(&mut self, sole: bool) -> Result<(), Error>;
    /// Lists live flows.
    fn flows(&mut self, filter: &FlowFilter) -> Result<Vec<FlowInfo>, Error>;
    /// Ends flows and returns how many; with `reset`, TCP peers are told by RST on their next packet.
    fn flush_flows(&mut self, filter: &FlowFilter) -> Result<usize, Error>;
    /// Returns (reason, packets) for every drop reason, in their stable order.
    fn drops(&mut self) -> Result<Vec<(&'static str, u64)>, Error>;
    /// Puts back programs and pins that somebody else took away; to be called every second. Returns what was put back.
    fn put_back_hooks(&mut self, _unhooked: &Unhooked) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
    /// Begins a collection of expired flows, if it is time for one; to be called every second or oftener. The look is taken without this.
    fn look_for_garbage(&mut self) -> Result<Option<Look>, Error> {
        Ok(None)
    }
    /// Removes a part of what a look found. Returns whether there is more.
    fn collect_garbage(&mut self, _found: &mut Found) -> Result<bool, Error> {
        Ok(false)
    }
    /// Says how full the flow tables are.
    ///
    /// # Errors
    /// When the kernel does not let a map be read.
    fn occupancy(&mut self) -> Result<Occupancy, Error> {
        Ok(Occupancy::default())
    }
    /// Begins a look at every map that the daemon alone writes; what is returned makes it, and takes its time.
    ///
    /// # Errors
    /// When the kernel does not let a map be read.
    fn begin_digests(&mut self) -> Result<Digesting, Error> {
        Ok(Box::new(|| Ok(Digests::default())))
    }
    /// Writes again what is in no plan: the configuration of the programs, and sets of ports.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn write_again(&mut self) -> Result<(), Error> {
        Ok(())
    }
    /// Lists what the maps hold, for reconciling: endpoints by interface index, publishes, network slots, uplinks.
    fn inventory(&mut self) -> Result<Inventory, Error>;
    /// Returns the features in use: attach mode, kernel probes, SHA-256 of the object; for `status` and `doctor`.
    fn features(&self) -> Vec<(String, String)>;
    /// Returns what explains packets, beside everything else that goes on.
    fn explainer(&self) -> Explainer {
        Explainer::default()
    }
    /// Returns what listens to drops as they happen.
    fn monitor(&self) -> Monitor {
        Monitor::default()
    }
    /// Removes every program, link and pin of this instance.
    fn down(&mut self) -> Result<(), Error>;
}

/// A look at maps that has begun.
pub type Digesting = Box<dyn FnOnce() -> Result<Digests, Error> + Send>;

/// Digests of maps, by name.
pub type Digests = BTreeMap<&'static str, u64>;

/// Where a filter or a qdisc was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unhooked {
    /// On these interfaces, by index.
    On(BTreeSet<u32>),
    /// Nobody knows: the kernel lost what it had to say.
    Anywhere,
}

impl Unhooked {
    /// Whether it may have been on this interface.
    pub fn includes(&self, ifindex: u32) -> bool {
        match self {
            Self::On(indexes) => indexes.contains(&ifindex),
            Self::Anywhere => true,
        }
    }
}

impl Default for Unhooked {
    fn default() -> Self {
        Self::On(BTreeSet::new())
    }
}

/// What the maps hold, for reconciling them with the desired state.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Interface indexes of endpoints.
    pub endpoints: Vec<EndpointEntry>,
    /// Interface indexes that programs of endpoints were put on, and whose pins are still there.
    pub attached: Vec<u32>,
    /// Published ports.
    pub publishes: Vec<PublishEntry>,
    /// Ports open on endpoints' own addresses.
    pub open: Vec<OpenEntry>,
    /// Ports that links open.
    pub links: Vec<LinkEntry>,
    /// Used slots of the `NETWORK` map.
    pub networks: Vec<u16>,
    /// Interface indexes of uplinks.
    pub uplinks: Vec<u32>,
}
