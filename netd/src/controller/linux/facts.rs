//! What the kernel and the run directory say: prefixes in use, uplinks, and everything that carries this instance's label.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    net::IpAddr,
    path::Path,
};

use crate::{
    controller::{
        apply::Owned,
        host::{HostView, LinkView},
    },
    dataplane::UplinkEntry,
    ipam::{HostPrefix, HostPrefixKind},
    link::{self, HostAddress, HostLink, HostSnapshot, LOCAL, MAIN, parse_label},
    model::IfName,
};

/// What every label of netd's starts with, whatever the instance.
const LABEL: &str = "netd:";

/// Returns what the host uses itself: routes that lead somewhere, its addresses and name servers (Docker semantics C2).
pub(super) fn prefixes(snapshot: &HostSnapshot, own_label: &str) -> Vec<HostPrefix> {
    let names: HashMap<u32, &str> =
        snapshot.links.iter().map(|link| (link.ifindex, link.name.as_str())).collect();
    let own = labelled(&snapshot.links, own_label);
    let device = |index: Option<u32>| index.and_then(|index| Some((*names.get(&index)?).to_owned()));
    let routes = snapshot.routes.iter().filter(|route| route.unicast && route.table == MAIN);
    let routes = routes.map(|route| {
        let prefix = route.dst.trunc();
        (route.oif, HostPrefix { prefix, kind: HostPrefixKind::Route, device: device(route.oif) })
    });
    let addresses = snapshot.addresses.iter().map(|address| {
        let index = Some(address.ifindex);
        let prefix = address.net.trunc();
        (index, HostPrefix { prefix, kind: HostPrefixKind::Address, device: device(index) })
    });
    let foreign =
        routes.chain(addresses).filter(|(index, _)| index.is_none_or(|index| !own.contains(&index)));
    foreign.map(|(_, prefix)| prefix).chain(name_servers()).collect()
}

fn name_servers() -> Vec<HostPrefix> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers =
        text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers
        .map(|ip| HostPrefix { prefix: ip.into(), kind: HostPrefixKind::NameServer, device: None })
        .collect()
}

fn labelled(links: &[HostLink], prefix: &str) -> BTreeSet<u32> {
    let own = |link: &&HostLink| link.alias.as_ref().is_some_and(|alias| alias.starts_with(prefix));
    links.iter().filter(own).map(|link| link.ifindex).collect()
}

/// Returns what the packet path has to know of the host.
pub(super) fn view(snapshot: HostSnapshot, bridges: &[IfName], only: &[IfName]) -> HostView {
    let uplinks = link::uplinks(&snapshot, LABEL, bridges, only).into_iter().map(|uplink| UplinkEntry {
        ifindex: uplink.ifindex,
        ifname: uplink.ifname,
        ipv4: uplink.ipv4,
        ipv6: uplink.ipv6,
        mtu: uplink.mtu,
        bare: uplink.bare,
    });
    let uplinks: Vec<UplinkEntry> = uplinks.collect();
    let sole_source6 = link::has_sole_sources(&snapshot, uplinks.iter().map(|it| (it.ifindex, it.ipv6)));
    let asks = |address: &&HostAddress| {
        let by = uplinks.iter().any(|uplink| uplink.ifindex == address.ifindex && !uplink.bare);
        by && address.scope == link::Scope::Global
    };
    let on_link = snapshot.addresses.iter().filter(asks).map(|it| (it.ifindex, it.net.trunc())).collect();
    let rules = super::rules::rules(&snapshot);
    let unserved = link::unserved(&snapshot, LABEL, bridges, only);
    let own = labelled(&snapshot.links, LABEL);
    let foreign = |oif: Option<u32>| oif.is_none_or(|oif| !own.contains(&oif));
    let adopted = |link: &HostLink| bridges.iter().any(|bridge| bridge.as_str() == link.name);
    let ours = snapshot.links.iter().filter(|link| own.contains(&link.ifindex) || adopted(link));
    let ours: Vec<&HostLink> = ours.collect();
    let names: HashMap<u32, &str> = ours.iter().map(|link| (link.ifindex, link.name.as_str())).collect();
    let port = |link: &&HostLink| Some((link.name.clone(), (*names.get(&link.master?)?).to_owned()));
    let address = |address: &HostAddress| Some(((*names.get(&address.ifindex)?).to_owned(), address.net));
    HostView {
        own: ours.iter().map(|link| link.name.clone()).collect(),
        up: ours.iter().filter(|link| link.up).map(|link| link.name.clone()).collect(),
        ports: ours.iter().filter_map(port).collect(),
        addresses: snapshot.addresses.iter().filter_map(address).collect(),
        links: snapshot.links.iter().map(|link| (link.name.clone(), link.ifindex)).collect(),
        uplinks,
        sole_source6,
        on_link,
        unserved,
        rules: Some(rules),
        local: link::local_addresses(&snapshot.addresses),
        routes: snapshot
            .routes
            .into_iter()
            .filter(|route| route.table != LOCAL && foreign(route.oif))
            .collect(),
    }
}

/// Returns what a view of the host would say of a link.
pub(super) fn link_view(link: &HostLink, addresses: &[HostAddress]) -> LinkView {
    LinkView {
        ifindex: link.ifindex,
        labelled: link.alias.as_ref().is_some_and(|alias| alias.starts_with(LABEL)),
        up: link.up,
        master: link.master,
        addresses: addresses.iter().map(|address| address.net).collect(),
    }
}

/// Returns the links that carry the instance's label.
pub(super) fn owned_links(links: &[HostLink], instance: &str) -> Vec<Owned> {
    let owned = links.iter().filter_map(|link| {
        let label = parse_label(link.alias.as_deref()?).filter(|label| label.instance == instance)?;
        let (ifname, id) = (link.name.parse().ok()?, label.id.parse().ok()?);
        match label.kind {
            "network" => Some(Owned::Bridge { ifname, network: id }),
            "endpoint" => Some(Owned::Veth { ifname, endpoint: id }),
            _ => None,
        }
    });
    owned.collect()
}

/// Returns what lies in the run directory's folders of namespaces and of sandboxes' files.
pub(super) fn owned_files(netns_dir: &Path, sandboxes_dir: &Path) -> io::Result<Vec<Owned>> {
    let namespaces = names(netns_dir)?.into_iter().filter_map(|name| Some(Owned::Netns(name.parse().ok()?)));
    let files = names(sandboxes_dir)?.into_iter().filter_map(|id| Some(Owned::Files(id.parse().ok()?)));
    Ok(namespaces.chain(files).collect())
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
