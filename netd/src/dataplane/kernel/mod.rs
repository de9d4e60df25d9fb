//! The packet path in the running kernel: `Dataplane` over pinned maps and programs.

mod allow;
mod collector;
mod config;
mod digest;
mod direct;
pub(super) mod drops;
mod guard;
mod hooks;
mod ports;
mod promotion;
mod rules;
mod subnets;
#[cfg(test)]
mod tests;
pub(super) mod values;
mod via;
pub(super) mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netd_common::{
    maps::{
        Config, Endpoint, Network, Owner, Publish, PublishKey, endpoint_flags, features, flow_flags, port_set,
    },
    net::{Addr4, Addr6, LOOPBACK_ZONE, Mac as WireMac},
    policy,
    wire::l4,
};
use nix::mount::{MntFlags, umount2};

use super::{
    AttachMode, Dataplane, Digesting, EndpointEntry, Error, Explainer, FlowFilter, FlowInfo, Inventory,
    LinkEntry, Monitor, NetworkEntry, Occupancy, OpenEntry, PublishEntry, RuleEntry, Rules, Settings,
    Unhooked, UplinkEntry, adopt,
    attach::{self, Side},
    explain::Player,
    flows::{self, Printable as _},
    host_sockets,
    layout::Layout,
    load,
    maps::{FamilyMaps, Maps, Ports, Table},
    migrate::Migration,
    object::OBJECT_SHA256,
    order,
    programs::Programs,
    raw,
};
use crate::model::{Device, IfName, Mac};
use collector::Collector;
pub use collector::{Found, Look};
use config::configure;
use ports::published;

/// Ports of a request beyond which the memory that it took is given back to the kernel: a megabyte or two.
const MANY_PORTS: usize = 4096;
/// So many collections later the last of it is freed: one comes each second, the first while the answer is being written.
const MEMORY_RETURNS: u8 = 3;

/// The packet path of one instance.
pub struct Kernel {
    settings: Settings,
    /// Where its links are pinned.
    links: PathBuf,
    programs: Programs,
    maps: Maps,
    mode: AttachMode,
    config: Config,
    sets: Vec<Ports>,
    /// How many entries reserve a port, by (set, port): several host addresses may publish one.
    reserved: HashMap<(u32, u16), u16>,
    /// What is known of each network, for the flags that its endpoints inherit.
    networks: HashMap<u16, Network>,
    /// Slots by subnet, as the maps have them.
    subnets: HashMap<IpNet, u32>,
    /// What is known of each uplink, to see its addresses change.
    uplinks: HashMap<u32, UplinkEntry>,
    /// Interfaces with programs of netd, and their names.
    attached: BTreeMap<u32, (Side, String)>,
    /// Those of sandboxes where what becomes a link is a filter still.
    filtered: BTreeSet<u32>,
    /// The last of them that was to become one.
    promoted: u32,
    /// How many interfaces have been looked at in this turn.
    looked_at: usize,
    /// Whether `lo` has its program.
    loopback: bool,
    /// Whether ports of removed publishes may still be in the sets of interest.
    stale_interest: bool,
    /// How often ports have been withdrawn.
    withdrawals: u64,
    /// Collections of expired flows to come that give freed memory back first.
    returns_memory: u8,
    /// What the last look at the flows found.
    collector: Collector,
    /// Lists of sources that may come to a port.
    lists: allow::Lists,
    /// Lists of interfaces by which the outside may come to a port.
    ways: via::Ways,
    /// Who plays packets that are to be explained.
    understudy: Player,
    /// Uplinks whose guard could not be attached, by index.
    unguarded: BTreeSet<u32>,
    /// Who listens to drops.
    monitor: Monitor,
}

impl Kernel {
    /// Loads the programs, adopting the instance's pinned maps and links where an earlier daemon left them.
    ///
    /// # Errors
    /// Names the program, map or link, and the kernel's reason.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        raw::keep_no_large_pieces();
        let layout = Layout::of(&settings);
        let pins = layout.pins(&settings.bpffs);
        load::make_dirs(&settings.bpffs, &pins)?;
        let adopted = adopt::adopt(&pins, &layout)?;
        if !adopted.is_empty() {
            tracing::warn!(?adopted, "pins were taken away by others and are put back");
        }
        let migration = Migration::prepare(&settings.bpffs, &pins, &layout)?;
        let mut programs = load::load(&settings, &pins, &layout)?;
        if let Some(migration) = &migration {
            migration.copy_tables()?;
        }
        let mut maps = Maps::open(&pins)?;
        let (links, asks) = (pins.join("links"), settings.respect_host_firewall);
        if asks {
            attach::input(&mut programs, &links, true)?; // before the first packet asks, and taken away after the last
        }
        let config = configure(&mut maps, &settings, programs.probe_features())?;
        if !asks {
            attach::input(&mut programs, &links, false)?;
        }
        if let Some(migration) = &migration {
            migration.switch(&mut programs)?;
        }
        order::finish(&links)?;
        let sets = maps.port_sets()?;
        attach::sockets(&mut programs, &pins.join("links"), &settings.cgroup)?;
        let mode = settings.attach;
        let mut kernel = Self {
            settings,
            links: pins.join("links"),
            programs,
            maps,
            mode,
            config,
            sets,
            reserved: HashMap::new(),
            networks: HashMap::new(),
            subnets: HashMap::new(),
            uplinks: HashMap::new(),
            attached: BTreeMap::new(),
            filtered: BTreeSet::new(),
            promoted: 0,
            looked_at: 0,
            loopback: false,
            stale_interest: true,
            withdrawals: 0,
            returns_memory: 0,
            collector: Collector::default(),
            lists: allow::Lists::new(),
            ways: via::Ways::default(),
            understudy: Player::default(),
            unguarded: BTreeSet::new(),
            monitor: Monitor::of(&pins)?,
        };
        kernel.place_links()?;
        kernel.deny_sources()?;
        kernel.exclude_ports()?;
        kernel.recall()?;
        if !kernel.reserved.is_empty() || attach::is_attached(&kernel.links, Side::Loopback, LOOPBACK_ZONE) {
            kernel.serve_loopback()?;
        }
        raw::return_freed_memory();
        Ok(kernel)
    }

    /// Moves links that another setting has put where they are.
    fn place_links(&mut self) -> Result<(), Error> {
        let order = self.settings.tcx_order;
        let is_there = self.config.features & features::UPLINKS_FIRST == order.feature();
        if !is_there && order::move_links(&mut self.programs, &self.links, order)? {
            self.config.features ^= features::UPLINKS_FIRST;
            self.write_config()?;
        }
        Ok(())
    }

    /// Returns the loaded programs.
    pub(super) fn programs(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Gives freed memory back, some time after so many entries came or went: the request and the answer are still in it now.
    fn return_memory_after(&mut self, entries: usize) {
        if entries > MANY_PORTS {
            self.returns_memory = MEMORY_RETURNS;
        }
    }

    /// Puts the program on `lo` when the first port is published: until then, what the host sends to itself costs nothing. It stays for the next
    /// port: to attach it takes a grace period (ADR 0007).
    fn serve_loopback(&mut self) -> Result<(), Error> {
        if !self.loopback {
            let mode = self.mode;
            self.mode = attach::interface(
                &mut self.programs,
                &self.links,
                Side::Loopback,
                "lo",
                LOOPBACK_ZONE,
                (mode, false),
            )?;
            self.attached.insert(LOOPBACK_ZONE, (Side::Loopback, "lo".to_owned()));
            self.loopback = true;
            raw::return_freed_memory();
        }
        Ok(())
    }

    /// Reads back what an earlier daemon left in the maps.
    fn recall(&mut self) -> Result<(), Error> {
        let mut keys = Vec::new();
        self.maps
            .v4
            .publish
            .for_each(|key, _| keys.push((port_set::PUBLISHED4, key.proto, u16::from(key.port))))?;
        self.maps
            .v6
            .publish
            .for_each(|key, _| keys.push((port_set::PUBLISHED6, key.proto, u16::from(key.port))))?;
        // The sets are made anew from the keys: a daemon that was killed between the two writes may have left them apart.
        for purpose in [port_set::PUBLISHED4, port_set::PUBLISHED6] {
            for set in
                [l4::TCP, l4::UDP, l4::SCTP].into_iter().filter_map(|proto| port_set::index(purpose, proto))
            {
                self.sets[set as usize] = Ports([0; 2048]);
            }
        }
        for (purpose, proto, port) in keys {
            if let Some(set) = port_set::index(purpose, proto) {
                *self.reserved.entry((set, port)).or_default() += 1;
                self.sets[set as usize].set(port, true);
            }
        }
        for purpose in [port_set::PUBLISHED4, port_set::PUBLISHED6] {
            for set in
                [l4::TCP, l4::UDP, l4::SCTP].into_iter().filter_map(|proto| port_set::index(purpose, proto))
            {
                self.write_set(set)?;
            }
        }
        for (slot, network) in self.maps.networks()? {
            if network.bridge != 0 {
                self.networks.insert(u16::try_from(slot).unwrap_or(u16::MAX), network);
            }
        }
        self.subnets = self.read_subnets()?;
        for (ifindex, uplink) in self.maps.uplink.entries()? {
            let Ok(ifname) = format!("if{ifindex}").parse() else { continue };
            let (ipv4, ipv6) = (option4(uplink.addr4), option6(uplink.addr6));
            self.uplinks
                .insert(ifindex, UplinkEntry { ifindex, ifname, ipv4, ipv6, mtu: uplink.mtu, bare: false });
        }
        self.recall_lists()?;
        self.forget_ways()?;
        self.refresh_interest(&HashSet::new(), true)
    }

    fn endpoint(&self, ifindex: u32) -> Result<Endpoint, Error> {
        self.maps
            .endpoint
            .get(&ifindex, 0)
            .map_err(|source| Error::kernel(format!("read endpoint {ifindex} from map ENDPOINT"), source))
    }

    fn write_endpoint(&mut self, ifindex: u32, endpoint: Endpoint) -> Result<(), Error> {
        self.maps
            .endpoint
            .set(ifindex, endpoint, 0)
            .map_err(|source| Error::kernel(format!("write endpoint {ifindex} to map ENDPOINT"), source))
    }

    /// Removes the record of the link that had an address before this one: once the address leads here, nothing leads to that record.
    fn succeed(&mut self, before: Option<Owner>, ifindex: u32) -> Result<(), Error> {
        match before {
            Some(owner) if owner.ifindex != ifindex => {
                self.write_endpoint(owner.ifindex, Endpoint::default())
            }
            _ => Ok(()),
        }
    }

    fn write_config(&mut self) -> Result<(), Error> {
        let config = self.config;
        self.maps
            .config
            .set(0, config, 0)
            .map_err(|source| Error::kernel("write to map CONFIG".to_owned(), source))
    }
}

/// What decides whether a flow ends, for both families.
struct Passage {
    zone: u32,
    out: u32,
    to_sandbox: bool,
    masqueraded: bool,
    proto: u8,
    opener: IpAddr,
    host: (IpAddr, u16),
    backend: (IpAddr, u16),
    shown: IpAddr,
}

impl Passage {
    fn of<A: flows::Printable>(key: &netd_common::maps::Tuple<A>, flow: &netd_common::maps::Flow<A>) -> Self {
        Self {
            zone: key.zone,
            out: flow.out,
            to_sandbox: flow.flags & flow_flags::TO_SANDBOX != 0,
            masqueraded: flow.flags & flow_flags::MASQUERADED != 0,
            proto: key.proto,
            opener: key.src.ip(),
            host: (key.dst.ip(), key.dport.into()),
            backend: (flow.dst.ip().to_canonical(), flow.dport.into()),
            shown: flow.src.ip(),
        }
    }
}

fn option4(addr: Addr4) -> Option<Ipv4Addr> {
    (addr != Addr4::default()).then(|| addr.into())
}

fn option6(addr: Addr6) -> Option<Ipv6Addr> {
    (addr != Addr6::default()).then(|| addr.into())
}

fn wire(mac: Mac) -> WireMac {
    WireMac::from(mac.0)
}

/// Makes a table hold exactly these keys. Returns those that went.
fn sync<K, V>(table: &mut Table<K, V>, wanted: &HashSet<K>, value: &V) -> Result<Vec<K>, Error>
where
    K: aya::Pod + Eq + std::hash::Hash,
    V: aya::Pod,
{
    let present: HashSet<K> = table.entries()?.into_iter().map(|(key, _)| key).collect();
    for key in wanted.difference(&present) {
        table.put(key, value)?;
    }
    let gone: Vec<K> = present.difference(wanted).copied().collect();
    for key in &gone {
        table.remove(key)?;
    }
    Ok(gone)
}

/// Removes an address if it is still this endpoint's.
fn disown<A: aya::Pod>(maps: &mut FamilyMaps<A>, addr: A, ifindex: u32) -> Result<(), Error>
where
    netd_common::maps::Tuple<A>: aya::Pod,
    netd_common::maps::Flow<A>: aya::Pod,
    PublishKey<A>: aya::Pod,
    Publish<A>: aya::Pod,
{
    if maps.address.get(&addr)?.is_some_and(|owner| owner.ifindex == ifindex) {
        maps.address.remove(&addr)?;
    }
    Ok(())
}

impl Dataplane for Kernel {
    fn put_network(&mut self, network: &NetworkEntry) -> Result<(), Error> {
        let entry = values::network(network);
        let refused = |doing: String| move |source| Error::Kernel { doing, source };
        self.maps
            .network
            .set(u32::from(network.index), entry, 0)
            .map_err(|e| refused(format!("write network {} to map NETWORK", network.index))(Box::new(e)))?;
        self.networks.insert(network.index, entry);
        if let Some((subnet, _)) = network.ipv4 {
            let key = Key::new(u32::from(subnet.prefix_len()), Addr4::from(subnet.network()));
            self.maps
                .v4
                .subnet
                .insert(&key, u32::from(network.index), 0)
                .map_err(|e| refused(format!("write {subnet} to map SUBNET4"))(Box::new(e)))?;
            self.subnets.insert(IpNet::V4(subnet.trunc()), u32::from(network.index));
        }
        if let Some((subnet, _)) = network.ipv6 {
            let key = Key::new(u32::from(subnet.prefix_len()), Addr6::from(subnet.network()));
            self.maps
                .v6
                .subnet
                .insert(&key, u32::from(network.index), 0)
                .map_err(|e| refused(format!("write {subnet} to map SUBNET6"))(Box::new(e)))?;
            self.subnets.insert(IpNet::V6(subnet.trunc()), u32::from(network.index));
        }
        self.forget_prefixes(
            network.index,
            network.ipv4.map(|(net, _)| net),
            network.ipv6.map(|(net, _)| net),
        )?;
        self.refresh_filter()
    }

    fn remove_network(&mut self, network: &NetworkEntry) -> Result<(), Error> {
        self.forget_prefixes(network.index, None, None)?;
        self.networks.remove(&network.index);
        self.maps.network.set(u32::from(network.index), Network::default(), 0).map_err(|source| {
            Error::kernel(format!("clear network {} in map NETWORK", network.index), source)
        })?;
        self.refresh_filter()
    }

    fn put_endpoint(&mut self, endpoint: &EndpointEntry) -> Result<(), Error> {
        let network = self.networks.get(&endpoint.network).copied().unwrap_or_default();
        let known = self.endpoint(endpoint.ifindex)?;
        let same = known.mac == wire(endpoint.mac) && known.network == endpoint.network;
        let published = if same { known.published } else { [0; 2] };
        let masks = values::masks(&self.subnets, endpoint.network);
        let mut entry = values::endpoint(endpoint, &network, masks, published);
        let owner = values::owner(endpoint, entry.flags);
        entry.flags |= known.flags & endpoint_flags::PROMOTION;
        // The addresses first and, in `remove_endpoint`, last: by them the next daemon finds a record that a kill left behind.
        if let Some(addr) = endpoint.ipv4 {
            let before = self.maps.v4.address.get(&addr.into())?;
            self.succeed(before, endpoint.ifindex)?;
            self.maps.v4.address.put(&addr.into(), &owner)?;
        }
        if let Some(addr) = endpoint.ipv6 {
            let before = self.maps.v6.address.get(&addr.into())?;
            self.succeed(before, endpoint.ifindex)?;
            self.maps.v6.address.put(&addr.into(), &owner)?;
        }
        self.write_endpoint(endpoint.ifindex, entry)
    }

    fn remove_endpoint(&mut self, endpoint: &EndpointEntry) -> Result<(), Error> {
        self.write_endpoint(endpoint.ifindex, Endpoint::default())?;
        if let Some(addr) = endpoint.ipv4 {
            disown(&mut self.maps.v4, addr.into(), endpoint.ifindex)?;
        }
        if let Some(addr) = endpoint.ipv6 {
            disown(&mut self.maps.v6, addr.into(), endpoint.ifindex)?;
        }
        let ifindex = endpoint.ifindex;
        self.end_flows(|flow| flow.zone == ifindex || (flow.to_sandbox && flow.out == ifindex)).map(drop)
    }

    fn attach_endpoint(&mut self, host_side: &IfName, ifindex: u32, device: Device) -> Result<(), Error> {
        let side = match device {
            Device::Veth => Side::Endpoint,
            Device::Netkit => Side::Netkit,
        };
        // An earlier daemon's has its filters.
        let known = policy::has(self.endpoint(ifindex)?.flags, endpoint_flags::ACTIVE);
        let (ifname, mode) = (host_side.as_str(), self.mode);
        self.mode = attach::interface(&mut self.programs, &self.links, side, ifname, ifindex, (mode, known))?;
        self.attached.insert(ifindex, (side, ifname.to_owned()));
        self.note_promotion(ifindex, ifname)
    }

    fn detach_endpoint(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attached.remove(&ifindex);
        self.filtered.remove(&ifindex);
        attach::detach(&self.links, Side::Endpoint, ifindex)
    }

    fn awaits_promotion(&self) -> bool {
        !self.filtered.is_empty()
    }

    fn promote_one(&mut self) -> Result<(), Error> {
        self.promote_next()
    }

    fn put_uplink(&mut self, uplink: &UplinkEntry) -> Result<(), Error> {
        self.maps.uplink.put(&uplink.ifindex, &values::uplink(uplink))?;
        let side = if uplink.bare { Side::BareUplink } else { Side::Uplink };
        let (ifname, ifindex) = (uplink.ifname.as_str(), uplink.ifindex);
        let mode = (self.mode, false);
        self.mode = attach::interface(&mut self.programs, &self.links, side, ifname, ifindex, mode)?;
        self.attached.insert(ifindex, (side, ifname.to_owned()));
        self.guard(uplink)?;
        self.uplinks.insert(uplink.ifindex, uplink.clone());
        self.routes_changed()
    }

    fn remove_uplink(&mut self, uplink: &UplinkEntry) -> Result<(), Error> {
        self.attached.remove(&uplink.ifindex);
        for side in [Side::Uplink, Side::BareUplink] {
            attach::detach(&self.links, side, uplink.ifindex)?;
        }
        super::guard::detach(&self.links, uplink.ifindex)?;
        self.unguarded.remove(&uplink.ifindex);
        self.maps.uplink.remove(&uplink.ifindex)?;
        self.uplinks.remove(&uplink.ifindex);
        let out = uplink.ifindex;
        self.end_flows(|flow| !flow.to_sandbox && flow.out == out)?;
        self.routes_changed()
    }

    fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let (mut v4, mut v6) = (HashSet::new(), HashSet::new());
        for address in addresses {
            match address {
                IpAddr::V4(addr) => v4.extend([Addr4::from(*addr)]),
                IpAddr::V6(addr) => v6.extend([Addr6::from(*addr)]),
            }
        }
        let mut gone: HashSet<IpAddr> = HashSet::new();
        gone.extend(sync(&mut self.maps.v4.local, &v4, &1)?.into_iter().map(|addr| addr.ip()));
        gone.extend(sync(&mut self.maps.v6.local, &v6, &1)?.into_iter().map(|addr| addr.ip()));
        if gone.is_empty() {
            return Ok(());
        }
        // As nf_nat does (masq_inet_event): nobody can answer to them any more, and a new flow takes the new address.
        let ended =
            self.end_flows(|flow| flow.masqueraded && !flow.to_sandbox && gone.contains(&flow.shown))?;
        if ended > 0 {
            tracing::info!(?gone, flows = ended, "flows ended with the address that they showed");
        }
        Ok(())
    }

    fn guard_ports(&mut self, entries: &[PublishEntry]) -> Result<(), Error> {
        if let Err(error) = self.write_publishes(entries, false) {
            // A batch that met a full map has left its first entries there.
            self.erase_publishes(entries)?;
            return Err(error);
        }
        self.return_memory_after(entries.len());
        self.reserve(entries, true).inspect_err(|_| {
            // Whole or not at all: the caller takes back only what it has been told to be there.
            let left = self.reserve(entries, false).and(self.erase_publishes(entries));
            if let Err(error) = left {
                tracing::error!(%error, "ports stay reserved after a failure");
            }
        })
    }

    fn release_ports(&mut self, entries: &[PublishEntry]) -> Result<(), Error> {
        let erased = self.erase_publishes(entries);
        self.stale_interest = true;
        self.withdrawals += 1;
        self.return_memory_after(entries.len());
        // Also after a failure: who guards these ports again counts them again.
        erased.and(self.reserve(entries, false))
    }

    fn put_publishes(&mut self, entries: &[PublishEntry]) -> Result<(), Error> {
        if !entries.is_empty() {
            self.serve_loopback()?;
        }
        let mut by_endpoint: HashMap<u32, [u32; 2]> = HashMap::new();
        let mut interest = HashSet::new();
        for entry in entries {
            values::mark_published(by_endpoint.entry(entry.ifindex).or_default(), entry.backend_port);
            if let Some(set) = port_set::index(port_set::INTEREST, entry.protocol as u8)
                && self.sets[set as usize].set(entry.host_port, true)
            {
                interest.insert(set);
            }
        }
        // The reply's way first: an endpoint that answers must find its flow.
        for (ifindex, bits) in by_endpoint {
            let mut endpoint = self.endpoint(ifindex)?;
            endpoint.published[0] |= bits[0];
            endpoint.published[1] |= bits[1];
            self.write_endpoint(ifindex, endpoint)?;
        }
        self.write_publishes(entries, true)?;
        self.write_sets(&interest)?;
        // A datagram that came before the publish may have opened no flow, so nothing stale is in the way.
        Ok(())
    }

    fn remove_publishes(&mut self, entries: &[PublishEntry]) -> Result<(), Error> {
        self.write_publishes(entries, false)?;
        if entries.iter().any(|entry| !entry.allow.is_everybody()) {
            self.forget_lists().and(self.forget_ways())?;
        }
        let udp = host_sockets::connectionless(entries);
        if !udp.is_empty() {
            self.end_flows(ports::came_by(&udp))?;
            self.end_host_sockets(&udp);
        }
        Ok(())
    }

    fn kill_publishes(&mut self, entries: &[PublishEntry]) -> Result<usize, Error> {
        Ok(self.end_flows(ports::came_by(entries))? + self.end_host_sockets(entries))
    }

    fn put_open(&mut self, entries: &[OpenEntry]) -> Result<(), Error> {
        self.open_ports(entries)
    }

    fn remove_open(&mut self, entries: &[OpenEntry]) -> Result<(), Error> {
        self.close_ports(entries)
    }

    fn put_links(&mut self, entries: &[LinkEntry]) -> Result<(), Error> {
        self.link_ports(entries)
    }

    fn remove_links(&mut self, entries: &[LinkEntry]) -> Result<(), Error> {
        self.unlink_ports(entries)
    }

    fn set_trusted(&mut self, trusted: &[(u16, u32)]) -> Result<(), Error> {
        sync(&mut self.maps.trust, &trusted.iter().copied().map(values::trust).collect(), &1).map(drop)
    }

    fn set_links(&mut self, links: &BTreeMap<String, u32>) -> Result<(), Error> {
        self.follow_links(links)
    }

    fn set_rules(&mut self, rules: &Rules) -> Result<(), Error> {
        self.write_rules(rules)
    }

    fn routes_changed(&mut self) -> Result<(), Error> {
        self.config.epoch = self.config.epoch.wrapping_add(1).max(1);
        self.write_config()
    }

    fn set_sole_source6(&mut self, sole: bool) -> Result<(), Error> {
        let others = self.config.features & !features::SOLE_SOURCE6;
        self.config.features = others | if sole { features::SOLE_SOURCE6 } else { 0 };
        self.write_config()
    }

    fn flows(&mut self, filter: &FlowFilter) -> Result<Vec<FlowInfo>, Error> {
        let mut found = flows::list(&self.maps.v4.flow, &self.config.timeouts, filter)?;
        found.extend(flows::list(&self.maps.v6.flow, &self.config.timeouts, filter)?);
        Ok(found)
    }

    fn flush_flows(&mut self, filter: &FlowFilter) -> Result<usize, Error> {
        self.flush(filter)
    }

    fn drops(&mut self) -> Result<Vec<(&'static str, u64)>, Error> {
        self.count_drops()
    }

    fn put_back_hooks(&mut self, unhooked: &Unhooked) -> Result<Vec<String>, Error> {
        self.put_back(unhooked)
    }

    fn look_for_garbage(&mut self) -> Result<Option<Look>, Error> {
        if let Some(left) = self.returns_memory.checked_sub(1) {
            self.returns_memory = left;
            raw::return_freed_memory();
        }
        self.look_when_due()
    }

    fn collect_garbage(&mut self, found: &mut Found) -> Result<bool, Error> {
        self.collect_part(found)
    }

    fn begin_digests(&mut self) -> Result<Digesting, Error> {
        Kernel::begin_digests(self)
    }

    fn write_again(&mut self) -> Result<(), Error> {
        self.write_known()
    }

    fn inventory(&mut self) -> Result<Inventory, Error> {
        let mut addresses: HashMap<u32, (Option<Ipv4Addr>, Option<Ipv6Addr>)> = HashMap::new();
        self.maps.v4.address.for_each(|addr, owner| {
            addresses.entry(owner.ifindex).or_default().0 = Some((*addr).into());
        })?;
        self.maps.v6.address.for_each(|addr, owner| {
            addresses.entry(owner.ifindex).or_default().1 = Some((*addr).into());
        })?;
        let mut inventory = Inventory {
            attached: attach::endpoints(&self.links),
            open: self.open_entries()?,
            links: self.link_entries()?,
            networks: self.networks.keys().copied().collect(),
            uplinks: self.uplinks.keys().copied().collect(),
            ..Inventory::default()
        };
        for (ifindex, (ipv4, ipv6)) in addresses {
            let endpoint = self.endpoint(ifindex)?;
            inventory.endpoints.push(EndpointEntry {
                ifindex,
                network: endpoint.network,
                mac: Mac(endpoint.mac.into()),
                ipv4: option4(endpoint.addr4).or(ipv4),
                ipv6: option6(endpoint.addr6).or(ipv6),
            });
        }
        for (key, value) in self.maps.v4.publish.entries()? {
            let host_ip = Ipv4Addr::from(key.addr).into();
            inventory.publishes.extend(published(
                host_ip,
                key.port,
                key.proto,
                Ipv4Addr::from(value.backend).into(),
                &value,
            ));
        }
        for (key, value) in self.maps.v6.publish.entries()? {
            let host_ip = Ipv6Addr::from(key.addr).into();
            let backend = match value.backend.as_mapped() {
                Some(v4) => Ipv4Addr::from(v4).into(),
                None => Ipv6Addr::from(value.backend).into(),
            };
            inventory.publishes.extend(published(host_ip, key.port, key.proto, backend, &value));
        }
        Ok(inventory)
    }

    fn occupancy(&mut self) -> Result<Occupancy, Error> {
        self.measure()
    }

    fn features(&self) -> Vec<(String, String)> {
        let yes = |flag: u32| if self.config.features & flag != 0 { "yes" } else { "no" }.to_owned();
        let attach = match self.mode {
            AttachMode::Auto => "none yet",
            AttachMode::Tcx => "tcx",
            AttachMode::Tc => "clsact",
        };
        let mut features = vec![
            ("attach".to_owned(), attach.to_owned()),
            ("object".to_owned(), OBJECT_SHA256.to_owned()),
            ("flow_entries".to_owned(), self.settings.flow_entries.to_string()),
            ("peer_scrubs".to_owned(), yes(features::PEER_SCRUBS)),
            ("csum_ipv6".to_owned(), yes(features::CSUM_IPV6)),
        ];
        features.extend(self.occupancy());
        features
    }

    fn explainer(&self) -> Explainer {
        let pins = self.links.parent().unwrap_or(&self.links).to_owned();
        Explainer::new(pins, self.uplinks.values().cloned().collect(), Arc::clone(&self.understudy))
    }

    fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    fn down(&mut self) -> Result<(), Error> {
        remove_pins(&self.settings.bpffs)
    }
}

/// Removes every pin and filter of an instance; works without a running daemon. Unpinned links detach, unpinned maps and programs go with them.
///
/// # Errors
/// Names the directory that stays.
pub fn remove_pins(bpffs: &PathBuf) -> Result<(), Error> {
    for layout in fs::read_dir(bpffs).into_iter().flatten().flatten() {
        attach::detach_links(&layout.path().join("links"))?;
    }
    attach::detach_filters();
    let failed = |source| Error::kernel(format!("remove the pins in {}", bpffs.display()), source);
    loop {
        // Only directories are netd's: a bpffs of its own has files that nobody can remove.
        for entry in fs::read_dir(bpffs).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        match fs::remove_dir(bpffs) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Mounted here, and it may hide an earlier one's pins.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                umount2(bpffs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                    .map_err(|errno| failed(errno.into()))?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
}
