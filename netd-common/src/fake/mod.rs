//! A world without a kernel: maps keyed as the kernel's are, with capacities and NOEXIST, a clock and a routing table that tests set.
//!
//! The topology is the same for both families, so that one table of cases runs over either: sandboxes `a1` and `a2` on network A, `b1` on network
//! B, `up0` towards the world.

mod cast;
mod env;
pub mod malformed;
mod packet;
pub mod script;
mod wire;

use core::cell::{Cell, RefCell};
use std::{collections::BTreeMap, vec::Vec};

pub use self::{
    cast::{Cast, Party, ifindex, mac},
    packet::FakePacket,
    wire::{Kind, Wire},
};
use crate::{
    family::{V4, V6},
    maps::{
        Config, Datagram, Endpoint, Flow, FragmentKey, Handed, Hearing, LinkKey, Network, Open, Owner,
        PORT_RANGES, Pace, Pending, Place, PortRange, Publish, PublishKey, Timeouts, Tuple, Uplink,
        endpoint_flags, features, port_set,
    },
    net::{Addr4, Addr6, IfIndex},
};

/// What a fake world knows in one family.
#[derive(Default)]
pub struct Tables<A: Ord> {
    /// Flows, as the hash map would hold them.
    pub flows: RefCell<BTreeMap<Tuple<A>, Flow<A>>>,
    /// Who holds the places of endpoints' latest flows.
    pub pending: RefCell<BTreeMap<Place, Pending<A>>>,
    /// Flows that endpoints pay for.
    pub usage: RefCell<BTreeMap<IfIndex, i32>>,
    /// Fragmented datagrams whose first fragment was seen.
    pub datagrams: RefCell<BTreeMap<FragmentKey<A>, Datagram>>,
    /// Who has an address.
    pub owners: BTreeMap<A, Owner>,
    /// Published ports.
    pub publishes: BTreeMap<PublishKey<A>, Publish<A>>,
    /// Ports open on sandboxes' own addresses.
    pub opened: BTreeMap<PublishKey<A>, Open>,
    /// Sources that lists allow, by list: address and mask.
    pub allowed: BTreeMap<u32, Vec<(A, A)>>,
    /// What the host asked, and when.
    pub asked: RefCell<BTreeMap<Tuple<A>, u32>>,
    /// What packets were addressed to that the host's stack answers.
    pub handed: RefCell<BTreeMap<Tuple<A>, Handed<A>>>,
    /// What the host's rules say.
    pub hearings: RefCell<BTreeMap<Tuple<A>, Hearing>>,
    /// Ports that links open.
    pub links: Vec<LinkKey<A>>,
    /// The host's own addresses.
    pub local: Vec<A>,
    /// Tuples that sockets of the host have.
    pub sockets: Vec<Tuple<A>>,
    /// Whether a route to the world exists.
    pub routed: bool,
    /// The source that the routing table prefers.
    pub preferred: A,
}

/// A world without a kernel.
pub struct Fake {
    /// What all programs read.
    pub config: Config,
    /// The time in ticks.
    pub now: Cell<u32>,
    seed: Cell<u32>,
    /// Most entries of each flow table.
    pub capacity: usize,
    /// Endpoints by interface index.
    pub endpoints: BTreeMap<IfIndex, Endpoint>,
    /// Networks by slot.
    pub networks: BTreeMap<u16, Network>,
    /// Devices through which the outside is reached.
    pub uplinks: BTreeMap<IfIndex, Uplink>,
    /// Devices that have a way to the world too, of a worse metric than the default route.
    pub ways_back: Vec<IfIndex>,
    /// The device of the default route.
    pub default_out: IfIndex,
    /// Interfaces that a network trusts.
    pub trusted: Vec<(u16, IfIndex)>,
    /// Interfaces that lists name, each with its list.
    pub named: Vec<(u32, IfIndex)>,
    ports: RefCell<BTreeMap<u32, Vec<u16>>>,
    pace: RefCell<BTreeMap<IfIndex, Pace>>,
    /// IPv4.
    pub v4: Tables<Addr4>,
    /// IPv6.
    pub v6: Tables<Addr6>,
    /// Ports that were tried for each masqueraded flow that has one.
    pub tries: RefCell<Vec<u32>>,
    /// How often the routing table was asked for a source.
    pub sourced: Cell<u32>,
}

const A: u16 = 1;
const B: u16 = 2;

impl Fake {
    /// Makes the topology with masquerading networks and these ports for masqueraded flows.
    pub fn new(first_port: u16, ports: u16) -> Self {
        let mut ranges = [PortRange::default(); PORT_RANGES];
        ranges[0] = PortRange { first: first_port, count: ports };
        let timeouts = Timeouts {
            tcp_syn_sent: 120,
            tcp_syn_recv: 60,
            tcp_established: 100_000,
            tcp_closing: 100_000,
            tcp_closed: 10,
            tcp_reset: 10,
            udp: 30,
            udp_replied: 120,
            udp_dns: 10,
            icmp: 30,
            other: 600,
        };
        let config = Config {
            epoch: 1,
            features: features::PEER_SCRUBS | features::CSUM_IPV6,
            secret: 7,
            port_count: u32::from(ports),
            ports: ranges,
            timeouts,
            filter4: [u32::MAX; 8],
            filter6: [u32::MAX; 8],
            quota4: u32::MAX,
            quota6: u32::MAX,
            places4: 63,
            places6: 63,
            ..Config::default()
        };
        let mut fake = Self {
            config,
            now: Cell::new(1000),
            seed: Cell::new(1),
            capacity: 4096,
            endpoints: BTreeMap::new(),
            networks: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            ways_back: Vec::new(),
            default_out: ifindex::UP0,
            trusted: Vec::new(),
            named: Vec::new(),
            ports: RefCell::default(),
            tries: RefCell::default(),
            sourced: Cell::default(),
            pace: RefCell::default(),
            v4: Tables::default(),
            v6: Tables::default(),
        };
        for proto in [6, 17, 1] {
            if let Some(set) = port_set::index(port_set::INTEREST, proto) {
                fake.ports.get_mut().insert(set, (first_port..=first_port + (ports - 1)).collect());
            }
        }
        let flags = endpoint_flags::ICC | endpoint_flags::MASQUERADE;
        for (slot, bridge, gateway) in
            [(A, ifindex::BRIDGE_A, Party::GatewayA), (B, ifindex::BRIDGE_B, Party::GatewayB)]
        {
            let network = Network {
                bridge,
                flags,
                mac: mac(gateway),
                gateway4: V4::of(gateway),
                gateway6: V6::of(gateway),
                ..Network::default()
            };
            fake.networks.insert(slot, network);
        }
        for (ifindex, slot, party, gateway) in [
            (ifindex::A1, A, Party::A1, Party::GatewayA),
            (ifindex::A2, A, Party::A2, Party::GatewayA),
            (ifindex::B1, B, Party::B1, Party::GatewayB),
        ] {
            let endpoint = Endpoint {
                flags: flags | endpoint_flags::ACTIVE,
                network: slot,
                mac: mac(party),
                addr4: V4::of(party),
                mask4: V4::netmask(),
                gateway4: V4::of(gateway),
                published: [0; 2],
                addr6: V6::of(party),
                mask6: V6::netmask(),
                gateway6: V6::of(gateway),
            };
            fake.endpoints.insert(ifindex, endpoint);
            let owner = Owner { ifindex, network: slot, mac: mac(party), flags: endpoint.flags };
            fake.v4.owners.insert(V4::of(party), owner);
            fake.v6.owners.insert(V6::of(party), owner);
        }
        fake.uplinks.insert(
            ifindex::UP0,
            Uplink { addr4: V4::of(Party::Host), addr6: V6::of(Party::Host), mtu: 1500 },
        );
        fake.v4.local = [Party::Host, Party::GatewayA, Party::GatewayB].map(V4::of).to_vec();
        fake.v6.local = [Party::Host, Party::GatewayA, Party::GatewayB].map(V6::of).to_vec();
        (fake.v4.routed, fake.v6.routed) = (true, true);
        fake
    }

    /// Lets one endpoint pay for this many flows of each family, and have this many places for the latest: a power of two.
    pub fn limit(&mut self, quota: u32, places: u32) {
        (self.config.quota4, self.config.quota6) = (quota, quota);
        (self.config.places4, self.config.places6) = (places - 1, places - 1);
    }

    /// Keeps a port from masqueraded flows.
    pub fn exclude_port(&mut self, proto: u8, port: u16) {
        if let Some(set) = port_set::index(port_set::EXCLUDED, proto) {
            self.ports.get_mut().entry(set).or_default().push(port);
        }
    }

    /// Sets or clears flags on a network and its endpoints.
    pub fn flag(&mut self, slot: u16, flag: u32, on: bool) {
        let change = |flags: &mut u32| *flags = if on { *flags | flag } else { *flags & !flag };
        self.networks.entry(slot).and_modify(|network| change(&mut network.flags));
        self.endpoints.values_mut().filter(|e| e.network == slot).for_each(|e| change(&mut e.flags));
        self.v4.owners.values_mut().filter(|o| o.network == slot).for_each(|o| change(&mut o.flags));
        self.v6.owners.values_mut().filter(|o| o.network == slot).for_each(|o| change(&mut o.flags));
    }

    /// Opens a sandbox's port on its own address.
    pub fn open_port<F: Cast>(&mut self, sandbox: Party, proto: u8, port: u16, ifindex: IfIndex) {
        let key = PublishKey { addr: F::of(sandbox), port: port.into(), proto, pad: 0 };
        F::tables_mut(self).opened.insert(key, Open { ifindex, allow: 0, via: 0 });
    }

    /// Publishes a host port of an address (unspecified: every local one) on a sandbox's port.
    pub fn publish_port<F: Cast>(
        &mut self,
        addr: F::Addr,
        proto: u8,
        port: u16,
        backend: Party,
        ifindex: IfIndex,
        to: u16,
    ) {
        let network = self.endpoints.get(&ifindex).map_or(0, |endpoint| endpoint.network);
        let key = PublishKey { addr, port: port.into(), proto, pad: 0 };
        let value = Publish { backend: F::of(backend), ifindex, port: to.into(), network, allow: 0, via: 0 };
        F::tables_mut(self).publishes.insert(key, value);
        for purpose in [port_set::INTEREST, if F::V6 { port_set::PUBLISHED6 } else { port_set::PUBLISHED4 }] {
            if let Some(set) = port_set::index(purpose, proto) {
                self.ports.get_mut().entry(set).or_default().push(port);
            }
        }
        if let Some(endpoint) = self.endpoints.get_mut(&ifindex) {
            endpoint.published[usize::from(to >> 5 & 1)] |= 1 << (to & 31);
        }
    }
}
