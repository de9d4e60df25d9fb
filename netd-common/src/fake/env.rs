//! What the core asks of its environment, answered from the fake's tables.

use core::cell::RefMut;

use super::{Cast, Fake, Party};
use crate::{
    conntrack,
    env::{ClaimError, Draft, Env, Route, Routes},
    family::{Address, Fields, V4, V6},
    maps::{
        Config, Datagram, Endpoint, Flow, FragmentKey, Handed, Hearing, LinkKey, Network, Open, Owner,
        Pending, Place, Publish, PublishKey, Tuple, Uplink, port_set,
    },
    nat::masquerade,
    net::{Addr4, Addr6, IfIndex},
    verdict::DropReason,
};

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
            fn route(&self, from: IfIndex, asks: &Tuple<$addr>, by: IfIndex, sourced: bool) -> Route<$addr> {
                let mut table = (self, Route::default());
                conntrack::way::find(&mut table, from, asks, by);
                if sourced {
                    self.sourced.set(self.sourced.get() + 1);
                    table.1.source = self.$tables.preferred;
                }
                table.1
            }
            fn still_has(&self, _: IfIndex, addr: &$addr) -> bool {
                self.$tables.local.contains(addr)
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
