//! A world without a kernel: maps keyed as the kernel's are, with capacities and NOEXIST, a clock and a routing table that tests set.
//!
//! The topology is the same for both families, so that one table of cases runs over either: sandboxes `a1` and `a2` on network A, `b1` on network
//! B, `up0` towards the world.

pub mod malformed;
pub mod script;

use core::cell::{Cell, RefCell, RefMut};
use std::{collections::BTreeMap, vec::Vec};

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, ip_number};

use crate::{
    conntrack,
    env::{ChecksumChange, ClaimError, Draft, Env, Packet, Route, Routes},
    family::{Address, Family, Fields, Ip, V4, V6},
    maps::{
        Config, Datagram, Endpoint, Flow, FragmentKey, Handed, Hearing, LinkKey, Network, Open, Owner,
        PORT_RANGES, Pace, Pending, Place, PortRange, Publish, PublishKey, Timeouts, Tuple, Uplink,
        endpoint_flags, features, port_set,
    },
    nat::{masquerade, siit},
    net::{Addr4, Addr6, Be16, IfIndex, Mac},
    verdict::DropReason,
    wire::{crc32c, csum, headers::L3},
};

/// Host sides and devices of the topology.
pub mod ifindex {
    /// Host side of a1's veth.
    pub const A1: u32 = 11;
    /// Host side of a2's veth.
    pub const A2: u32 = 12;
    /// Host side of b1's veth.
    pub const B1: u32 = 21;
    /// Network A's bridge.
    pub const BRIDGE_A: u32 = 30;
    /// Network B's bridge.
    pub const BRIDGE_B: u32 = 31;
    /// The uplink.
    pub const UP0: u32 = 5;
    /// Another uplink.
    pub const UP1: u32 = 6;
}

/// The parties of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// A sandbox on network A.
    A1,
    /// Another sandbox on network A.
    A2,
    /// A sandbox on network B.
    B1,
    /// Network A's gateway.
    GatewayA,
    /// Network B's gateway.
    GatewayB,
    /// The host's address on the uplink.
    Host,
    /// A machine outside.
    Remote,
    /// Another machine outside.
    Remote2,
}

/// A family whose addresses the topology has.
pub trait Cast: Ip {
    /// Returns a party's address.
    fn of(party: Party) -> Self::Addr;
    /// Returns the netmask of both networks.
    fn netmask() -> Self::Addr;
    /// Starts a frame between two addresses.
    fn frame(
        from: Mac,
        to: Mac,
        src: &Self::Addr,
        dst: &Self::Addr,
        ttl: u8,
    ) -> PacketBuilderStep<etherparse::IpHeaders>;
    /// Returns the fake's tables for the family.
    fn tables(fake: &Fake) -> &Tables<Self::Addr>;
    /// Returns the fake's tables for the family, to change them.
    fn tables_mut(fake: &mut Fake) -> &mut Tables<Self::Addr>;
}

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
}

/// Returns a party's Ethernet address; outside and gateways have one too.
pub fn mac(party: Party) -> Mac {
    Mac::from([2, 0, 0, 0, 0, party as u8 + 1])
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

macro_rules! env_for {
    ($family:ty, $addr:ty, $tables:ident, $other:ident, $in_other:expr) => {
        impl Routes<$addr> for (&Fake, Route<$addr>) {
            fn from(&mut self, _: IfIndex, asks: &Tuple<$addr>) -> IfIndex {
                let tables = &self.0.$tables;
                self.1 = if !tables.routed || tables.local.contains(&asks.dst) {
                    Route::default()
                } else {
                    let (nexthop, source) = (<$family>::of(Party::Remote), <$addr>::UNSPECIFIED);
                    Route { out: self.0.default_out, nexthop, mtu: 1500, source }
                };
                self.1.out
            }
            fn by(&mut self, device: IfIndex, asks: &Tuple<$addr>) -> IfIndex {
                if Routes::from(self, device, asks) != 0 && self.0.ways_back.contains(&device) {
                    self.1.out = device;
                }
                self.1.out
            }
            fn answer(&mut self, device: IfIndex, asks: &Tuple<$addr>) {
                self.1 = Route { out: device, nexthop: asks.dst, ..Route::default() };
            }
        }

        impl Env<$family> for Fake {
            type FlowRef<'a> = RefMut<'a, Flow<$addr>>;
            type PendingRef<'a> = RefMut<'a, Pending<$addr>>;

            fn config(&self) -> Option<&Config> {
                Some(&self.config)
            }
            fn now(&self) -> u32 {
                self.now.get()
            }
            fn random(&self) -> u32 {
                // A full-period generator (Numerical Recipes): repeatable runs.
                self.seed.set(self.seed.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
                self.seed.get()
            }
            fn endpoint(&self, ifindex: IfIndex) -> Option<&Endpoint> {
                self.endpoints.get(&ifindex)
            }
            fn network(&self, slot: u16) -> Option<&Network> {
                self.networks.get(&slot)
            }
            fn owner(&self, addr: &$addr) -> Option<&Owner> {
                self.$tables.owners.get(addr)
            }
            fn subnet(&self, addr: &$addr) -> Option<u16> {
                let inside = |network: &&u16| {
                    let gateway = <$family>::network_gateway(&self.networks[*network]);
                    gateway.matches(addr, &<$family>::netmask())
                };
                self.networks.keys().find(inside).copied()
            }
            fn is_local(&self, addr: &$addr) -> bool {
                self.$tables.local.contains(addr)
            }
            fn publish(&self, key: &PublishKey<$addr>) -> Option<Publish<$addr>> {
                self.$tables.publishes.get(key).copied()
            }
            fn opened(&self, key: &PublishKey<$addr>) -> Option<Open> {
                self.$tables.opened.get(key).copied()
            }
            fn allows(&self, list: u32, source: &$addr) -> bool {
                let prefixes = self.$tables.allowed.get(&list);
                prefixes.is_some_and(|all| all.iter().any(|(addr, mask)| addr.matches(source, mask)))
            }
            fn names(&self, list: u32, ifindex: IfIndex) -> bool {
                self.named.contains(&(list, ifindex))
            }
            fn keep_asked(&self, answer: &Tuple<$addr>) {
                self.$tables.asked.borrow_mut().insert(*answer, self.now.get());
            }
            fn asked(&self, answer: &Tuple<$addr>) -> Option<u32> {
                self.$tables.asked.borrow().get(answer).copied()
            }
            fn keep_handed(&self, answer: &Tuple<$addr>, handed: &Handed<$addr>) {
                self.$tables.handed.borrow_mut().insert(*answer, *handed);
            }
            fn handed(&self, answer: &Tuple<$addr>) -> Option<Handed<$addr>> {
                self.$tables.handed.borrow().get(answer).copied()
            }
            fn set_hearing(&self, asks: &Tuple<$addr>, hearing: &Hearing) {
                self.$tables.hearings.borrow_mut().insert(*asks, *hearing);
            }
            fn hearing(&self, asks: &Tuple<$addr>) -> Option<Hearing> {
                self.$tables.hearings.borrow().get(asks).copied()
            }
            fn linked(&self, key: &LinkKey<$addr>) -> bool {
                self.$tables.links.contains(key)
            }
            fn trusts(&self, network: u16, ifindex: IfIndex) -> bool {
                self.trusted.contains(&(network, ifindex))
            }
            fn in_port_set(&self, set: u32, port: u16) -> bool {
                self.ports.borrow().get(&set).is_some_and(|ports| ports.contains(&port))
            }
            fn uplink(&self, ifindex: IfIndex) -> Option<&Uplink> {
                self.uplinks.get(&ifindex)
            }
            fn route(&self, from: IfIndex, asks: &Tuple<$addr>, by: IfIndex, _: bool) -> Route<$addr> {
                let mut table = (self, Route::default());
                conntrack::way::find(&mut table, from, asks, by);
                table.1
            }
            fn host_socket(&self, tuple: &Tuple<$addr>) -> bool {
                self.$tables.sockets.contains(tuple)
            }
            type DatagramRef<'a> = RefMut<'a, Datagram>;

            fn datagram(&self, key: &FragmentKey<$addr>) -> Option<RefMut<'_, Datagram>> {
                RefMut::filter_map(self.$tables.datagrams.borrow_mut(), |all| all.get_mut(key)).ok()
            }
            fn keep(&self, key: &FragmentKey<$addr>, datagram: &Datagram) {
                self.$tables.datagrams.borrow_mut().insert(*key, *datagram);
            }
            fn forget(&self, key: &FragmentKey<$addr>) {
                self.$tables.datagrams.borrow_mut().remove(key);
            }
            fn flow(&self, key: &Tuple<$addr>) -> Option<RefMut<'_, Flow<$addr>>> {
                RefMut::filter_map(self.$tables.flows.borrow_mut(), |flows| flows.get_mut(key)).ok()
            }
            fn in_other_family(&self, key: &Tuple<$addr>) -> bool {
                let in_other: fn(&Tuple<$addr>) -> Option<_> = $in_other;
                in_other(key).is_some_and(|key| self.$other.flows.borrow().contains_key(&key))
            }
            fn claim(&self, key: &Tuple<$addr>, flow: &Flow<$addr>) -> Result<(), ClaimError> {
                let mut flows = self.$tables.flows.borrow_mut();
                if flows.contains_key(key) {
                    return Err(ClaimError::Taken);
                }
                if flows.len() >= self.capacity {
                    return Err(ClaimError::Full);
                }
                flows.insert(*key, *flow);
                Ok(())
            }
            fn replace(&self, key: &Tuple<$addr>, flow: &Flow<$addr>) -> Result<(), ClaimError> {
                self.$tables.flows.borrow_mut().insert(*key, *flow);
                Ok(())
            }
            fn remove(&self, key: &Tuple<$addr>) -> bool {
                self.$tables.flows.borrow_mut().remove(key).is_some()
            }
            fn usage(&self, ifindex: IfIndex) -> u32 {
                self.$tables
                    .usage
                    .borrow()
                    .get(&ifindex)
                    .map_or(0, |flows| u32::try_from(*flows).unwrap_or(0))
            }
            fn charge(&self, ifindex: IfIndex, flows: i32) {
                *self.$tables.usage.borrow_mut().entry(ifindex).or_default() += flows;
            }
            fn next_place(&self, ifindex: IfIndex) -> u32 {
                let mut pace = self.pace.borrow_mut();
                let pace = pace.entry(ifindex).or_default();
                pace.place += 1;
                pace.place
            }
            fn pending(&self, place: &Place) -> Option<RefMut<'_, Pending<$addr>>> {
                RefMut::filter_map(self.$tables.pending.borrow_mut(), |pending| pending.get_mut(place)).ok()
            }
            fn set_pending(&self, place: &Place, pending: &Pending<$addr>) {
                self.$tables.pending.borrow_mut().insert(*place, *pending);
            }
            fn may_reset(&self, ifindex: IfIndex) -> bool {
                conntrack::may_answer(self.pace.borrow_mut().entry(ifindex).or_default(), self.now.get())
            }
            fn keep_port(&self, proto: u8, port: u16) {
                if let Some(set) = port_set::index(port_set::KEPT, proto) {
                    self.ports.borrow_mut().entry(set).or_default().push(port);
                }
            }
            fn count_tries(&self, tries: u32) {
                self.tries.borrow_mut().push(tries);
            }
            fn port_at(&self, position: u32) -> u16 {
                masquerade::port_at(&self.config, position)
            }
            fn reserve(&self, draft: &Draft<$family>, heed_host: bool) -> Result<(), DropReason> {
                conntrack::reserve(self, draft, heed_host)
            }
        }
    };
}
env_for!(V4, Addr4, v4, v6, |key| Some(key.mapped()));
env_for!(V6, Addr6, v6, v4, |key| key.as_mapped());

fn addr4(text: [u8; 4]) -> Addr4 {
    Addr4::from_wire(text)
}

fn addr6(text: &str) -> Addr6 {
    text.parse::<core::net::Ipv6Addr>().map(Addr6::from).unwrap_or_default()
}

impl Cast for V4 {
    fn of(party: Party) -> Addr4 {
        addr4(match party {
            Party::A1 => [172, 30, 0, 2],
            Party::A2 => [172, 30, 0, 3],
            Party::B1 => [172, 31, 0, 2],
            Party::GatewayA => [172, 30, 0, 1],
            Party::GatewayB => [172, 31, 0, 1],
            Party::Host => [198, 51, 100, 1],
            Party::Remote => [198, 51, 100, 2],
            Party::Remote2 => [203, 0, 113, 2],
        })
    }
    fn netmask() -> Addr4 {
        addr4([255, 255, 255, 0])
    }
    fn frame(
        from: Mac,
        to: Mac,
        src: &Addr4,
        dst: &Addr4,
        ttl: u8,
    ) -> PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(from.into(), to.into()).ipv4(src.to_wire(), dst.to_wire(), ttl)
    }
    fn tables(fake: &Fake) -> &Tables<Addr4> {
        &fake.v4
    }
    fn tables_mut(fake: &mut Fake) -> &mut Tables<Addr4> {
        &mut fake.v4
    }
}

impl Cast for V6 {
    fn of(party: Party) -> Addr6 {
        addr6(match party {
            Party::A1 => "fd30::2",
            Party::A2 => "fd30::3",
            Party::B1 => "fd31::2",
            Party::GatewayA => "fd30::1",
            Party::GatewayB => "fd31::1",
            Party::Host => "2001:db8:e::1",
            Party::Remote => "2001:db8:e::2",
            Party::Remote2 => "2001:db8:f::2",
        })
    }
    fn netmask() -> Addr6 {
        addr6("ffff:ffff:ffff:ffff::")
    }
    fn frame(
        from: Mac,
        to: Mac,
        src: &Addr6,
        dst: &Addr6,
        ttl: u8,
    ) -> PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(from.into(), to.into()).ipv6(src.to_wire(), dst.to_wire(), ttl)
    }
    fn tables(fake: &Fake) -> &Tables<Addr6> {
        &fake.v6
    }
    fn tables_mut(fake: &mut Fake) -> &mut Tables<Addr6> {
        &mut fake.v6
    }
}

/// A packet to be built: who sends what to whom.
#[derive(Clone, Copy, Debug)]
pub struct Wire<A> {
    /// Ethernet source.
    pub from: Mac,
    /// IP source.
    pub src: A,
    /// IP destination.
    pub dst: A,
    /// Source port, or echo id.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// What it carries.
    pub kind: Kind,
    /// TTL or hop limit.
    pub ttl: u8,
}

/// What a built packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP with these flags.
    Tcp(u8),
    /// UDP.
    Udp,
    /// An ICMP echo request, or its reply.
    Echo {
        /// Whether it answers.
        reply: bool,
    },
    /// Another protocol, by number.
    Other(u8),
}

impl<A: Copy> Wire<A> {
    /// Returns the frame, its checksums complete.
    pub fn build<F: Cast<Addr = A>>(&self) -> Vec<u8> {
        let step = F::frame(self.from, mac(Party::GatewayA), &self.src, &self.dst, self.ttl);
        let (mut frame, payload) = (Vec::new(), *b"payload!");
        let id = self.sport | self.dport;
        let written = match self.kind {
            Kind::Tcp(flags) => {
                let mut header = etherparse::TcpHeader::new(self.sport, self.dport, 1000, 64_000);
                header.fin = flags & 0x01 != 0;
                header.syn = flags & 0x02 != 0;
                header.rst = flags & 0x04 != 0;
                header.ack = flags & 0x10 != 0;
                step.tcp_header(header).write(&mut frame, &payload)
            }
            Kind::Udp => step.udp(self.sport, self.dport).write(&mut frame, &payload),
            Kind::Echo { reply } => match (F::V6, reply) {
                (false, false) => step.icmpv4_echo_request(id, 1).write(&mut frame, &payload),
                (false, true) => step.icmpv4_echo_reply(id, 1).write(&mut frame, &payload),
                (true, false) => step.icmpv6_echo_request(id, 1).write(&mut frame, &payload),
                (true, true) => step.icmpv6_echo_reply(id, 1).write(&mut frame, &payload),
            },
            Kind::Other(proto) => step.write(&mut frame, IpNumber(proto), &payload),
        };
        assert!(written.is_ok(), "a test's packet can be built");
        frame
    }

    /// Returns its protocol number.
    pub fn proto<F: Family>(&self) -> u8 {
        match self.kind {
            Kind::Tcp(_) => ip_number::TCP.0,
            Kind::Udp => ip_number::UDP.0,
            Kind::Echo { .. } => F::ICMP,
            Kind::Other(proto) => proto,
        }
    }
}

/// A frame with what the kernel knows about it.
#[derive(Clone, Debug)]
pub struct FakePacket {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The device it arrived on, or leaves by.
    pub ifindex: IfIndex,
    /// The device by which it entered the host.
    pub ingress: IfIndex,
    /// Payload of each segment of a GSO packet.
    pub segment: u32,
    /// Its mark.
    pub mark: u32,
    /// Whether its metadata has a VLAN tag.
    pub vlan: bool,
    /// What programs have written beside it.
    pub tag: u32,
}

impl FakePacket {
    /// Wraps a frame that arrived on a device.
    pub fn new(bytes: Vec<u8>, ifindex: IfIndex) -> Self {
        Self { bytes, ifindex, ingress: ifindex, segment: 0, mark: 0, vlan: false, tag: 0 }
    }
}

impl Packet for FakePacket {
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], DropReason> {
        let bytes = self.bytes.get(offset as usize..offset as usize + N).ok_or(DropReason::Malformed)?;
        bytes.try_into().map_err(|_| DropReason::Malformed)
    }
    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason> {
        let place = self.bytes.get_mut(offset as usize..offset as usize + N).ok_or(DropReason::Malformed)?;
        place.copy_from_slice(&bytes);
        Ok(())
    }
    fn renew<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason> {
        self.store(offset, bytes)
    }
    fn update_checksum(&mut self, offset: u32, delta: u32, change: ChecksumChange) -> Result<(), DropReason> {
        let old = Be16::from_wire(self.load::<2>(offset)?);
        if change.zero_is_none && old == Be16::ZERO {
            return Ok(());
        }
        let new = csum::update(old.raw(), delta);
        let new = if change.zero_is_none && new == 0 { u16::MAX } else { new };
        self.store(offset, new.to_ne_bytes())
    }
    fn crc32c_change(word: u32, bytes: u32) -> u32 {
        crc32c::change(word, bytes)
    }
    fn truncate(&mut self, length: u32) -> Result<(), DropReason> {
        self.bytes.truncate(length as usize);
        Ok(())
    }
    fn exchange_header(&mut self, ethertype: Be16) -> Result<(), DropReason> {
        let (old, new) =
            if ethertype == V6::ETHERTYPE { (V4::HEADER, V6::HEADER) } else { (V6::HEADER, V4::HEADER) };
        let end = (L3 + old) as usize;
        if self.bytes.len() < end {
            return Err(DropReason::KernelRefused);
        }
        self.bytes.splice(L3 as usize..end, std::vec![0; new as usize]);
        Ok(())
    }
    fn stand_for_ipv4(&mut self) -> Result<(), DropReason> {
        siit::to_v4(self)
    }
    fn ifindex(&self) -> IfIndex {
        self.ifindex
    }
    fn ingress_ifindex(&self) -> IfIndex {
        self.ingress
    }
    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }
    fn segment_payload(&self) -> u32 {
        self.segment
    }
    fn mark(&self) -> u32 {
        self.mark
    }
    fn has_vlan_tag(&self) -> bool {
        self.vlan
    }
    fn tag(&self) -> u32 {
        self.tag
    }
}
