//! From `-p` to bindings: which host addresses and ports lead to which endpoint of a sandbox (Docker semantics E).

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netd_common::maps::capacity;

use super::{Code, Error, World, gateway, object::Listen};
use crate::model::{Binding, BridgeOptions, Endpoint, GatewayMode, Protocol, PublishSpec, Sandbox, Sources};

/// Tries for one ephemeral port (moby `daemon/libnetwork/portmappers/nat`, `maxAllocatePortAttempts`).
const EPHEMERAL_TRIES: usize = 10;

/// What the host has to say about ports.
pub struct HostPorts<'a> {
    /// `ip_local_port_range`: where ephemeral host ports come from.
    pub ephemeral: (u16, u16),
    /// The last ephemeral port handed out; the search goes on after it.
    pub last: &'a mut u16,
    /// `ip_local_reserved_ports`: never chosen.
    pub reserved: &'a dyn Fn(u16) -> bool,
    /// Whether no socket of the host holds any of these.
    pub free: &'a mut dyn FnMut(&[Listen]) -> bool,
    /// Whether the host has IPv6 at all.
    pub ipv6: bool,
}

/// Which host ports are published, by whom.
pub struct Taken(HashMap<(u16, Protocol), Vec<IpAddr>>);

impl Taken {
    /// Collects the ports of every sandbox but one.
    pub fn by_others(world: &World, except: &Sandbox) -> Self {
        let others = world.sandboxes().filter(|sandbox| sandbox.id != except.id);
        let mut taken = Self(HashMap::new());
        let bindings = others.flat_map(|sandbox| &sandbox.bindings);
        bindings.filter(|binding| binding.takes_host_port()).for_each(|binding| taken.add(binding.into()));
        taken
    }

    /// Adds one.
    pub fn add(&mut self, listen: Listen) {
        self.0.entry((listen.port, listen.protocol)).or_default().push(listen.ip);
    }

    /// Whether a port is published on an overlapping address of its family (Docker semantics E11).
    fn holds(&self, listen: Listen) -> bool {
        let overlaps = |ip: &IpAddr| {
            ip.is_ipv4() == listen.ip.is_ipv4()
                && (ip.is_unspecified() || listen.ip.is_unspecified() || *ip == listen.ip)
        };
        self.0.get(&(listen.port, listen.protocol)).is_some_and(|ips| ips.iter().any(overlaps))
    }
}

/// Returns the specs of a new sandbox: what `-p` says, and with `-P` an ephemeral port for every other exposed one (E8).
pub fn requested(sandbox: &Sandbox) -> Vec<PublishSpec> {
    let explicit = |port: u16, protocol: Protocol| {
        sandbox
            .publish
            .iter()
            .any(|spec| spec.protocol == protocol && (spec.ports.0..=spec.ports.1).contains(&port))
    };
    let exposed: BTreeSet<(u16, Protocol)> = sandbox.exposed.iter().copied().collect();
    let implied = exposed
        .into_iter()
        .filter(|(port, protocol)| sandbox.publish_all && !explicit(*port, *protocol))
        .map(|(port, protocol)| PublishSpec {
            host_ip: None,
            host_ports: None,
            ports: (port, port),
            protocol,
            allow: Sources::default(),
        });
    sandbox.publish.iter().cloned().chain(implied).collect()
}

/// Chooses the bindings for these specs. Where `previous` has a binding for a port, its host port is kept.
///
/// A sandbox without a gateway publishes nothing (E24); an address family without a gateway is left out.
///
/// # Errors
/// A port is published already, or none of a range is free.
pub fn bind(
    world: &World,
    sandbox: &Sandbox,
    specs: &[PublishSpec],
    previous: &[Binding],
    taken: &mut Taken,
    host: &mut HostPorts<'_>,
) -> Result<Vec<Binding>, Error> {
    let served = Served::of(world, sandbox, host.ipv6);
    check_count(sandbox, specs)?;
    let mut kept: HashMap<(u16, Protocol), Vec<u16>> = HashMap::new();
    for binding in previous.iter().filter(|binding| binding.takes_host_port()) {
        kept.entry((binding.port, binding.protocol)).or_default().push(binding.host_port);
    }
    let mut bindings = Vec::new();
    for group in groups(specs) {
        let PublishSpec { ports, host_ports, protocol, allow, .. } = group[0].clone();
        let addresses: Vec<(IpAddr, &Endpoint)> =
            group.iter().flat_map(|spec| served.addresses(spec.host_ip)).collect();
        bindings.extend(group.iter().flat_map(|spec| served.opened(spec)));
        if addresses.is_empty() {
            continue;
        }
        for port in ports.0..=ports.1 {
            let listens = |host_port: u16| -> Vec<Listen> {
                addresses.iter().map(|(ip, _)| Listen { ip: *ip, port: host_port, protocol }).collect()
            };
            let kept = kept.get(&(port, protocol)).map_or(&[][..], Vec::as_slice);
            let host_port = match host_ports {
                Some((first, last)) if last - first == ports.1 - ports.0 => {
                    let listens = listens(first + (port - ports.0));
                    match listens.iter().find(|listen| taken.holds(**listen)) {
                        Some(listen) => return Err(allocated(world, *listen)),
                        None => listens[0].port,
                    }
                }
                wanted => choose(wanted, port, protocol, kept, &listens, taken, host)?,
            };
            for (ip, endpoint) in &addresses {
                let endpoint = endpoint.id.clone();
                let binding =
                    Binding { host_ip: *ip, host_port, port, protocol, endpoint, allow: allow.clone() };
                taken.add((&binding).into());
                bindings.push(binding);
            }
        }
    }
    let mut seen = HashSet::new();
    bindings.retain(|binding| binding.takes_host_port() || seen.insert(binding.clone()));
    Ok(bindings)
}

/// Refuses more ports than the packet path has room for, before a list of them is made.
fn check_count(sandbox: &Sandbox, specs: &[PublishSpec]) -> Result<(), Error> {
    let ports: u64 = specs.iter().map(|spec| u64::from(spec.ports.1 - spec.ports.0) + 1).sum();
    if ports <= u64::from(capacity::PUBLISH) {
        return Ok(());
    }
    let text = format!(
        "publish for sandbox {}: {ports} ports, the map PUBLISH has room for {}",
        sandbox.name,
        capacity::PUBLISH
    );
    Err(Error::new(Code::Limit, text))
}

/// Whether a host may have an address, and packets may come to it alone (RFC 1122 §3.2.1.3, RFC 4291 §2.5, §2.7); unspecified: all that it has.
fn can_be_a_hosts(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_unspecified() || (1..224).contains(&ip.octets()[0]),
        IpAddr::V6(ip) => !ip.is_multicast() && ip.to_ipv4_mapped().is_none(),
    }
}

/// Refuses specs that name a host address which no host can have (CVE-2020-8554), or which no endpoint of a connected sandbox can serve.
///
/// # Errors
/// Names the address, and the missing family.
pub fn check_served(
    world: &World,
    sandbox: &Sandbox,
    specs: &[PublishSpec],
    bindings: &[Binding],
) -> Result<(), Error> {
    if let Some(ip) = specs.iter().filter_map(|spec| spec.host_ip).find(|ip| !can_be_a_hosts(*ip)) {
        return Err(Error::new(
            Code::Usage,
            format!("cannot publish on {ip}: no host can have this address"),
        ));
    }
    let connected = [false, true].into_iter().any(|ipv6| gateway::provider(world, sandbox, ipv6).is_some());
    let unserved = specs.iter().find_map(|spec| {
        spec.host_ip.filter(|_| connected && !bindings.iter().any(|binding| covers(spec, binding)))
    });
    unserved.map_or(Ok(()), |ip| {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let text = format!(
            "cannot publish on {ip}: sandbox {} has no {family} address that leads outside",
            sandbox.name
        );
        Err(Error::new(Code::Usage, text))
    })
}

/// Finds a free port in the given range (E5), else in the ephemeral one (E9), the same for every address (E10).
fn choose(
    wanted: Option<(u16, u16)>,
    port: u16,
    protocol: Protocol,
    kept: &[u16],
    listens: &dyn Fn(u16) -> Vec<Listen>,
    taken: &Taken,
    host: &mut HostPorts<'_>,
) -> Result<u16, Error> {
    let unpublished = |candidate: u16| !listens(candidate).into_iter().any(|listen| taken.holds(listen));
    let (first, last) = wanted.unwrap_or(host.ephemeral);
    let kept = kept.iter().copied().filter(|kept| wanted.is_none() || (first..=last).contains(kept));
    if let Some(kept) = kept.into_iter().find(|kept| unpublished(*kept)) {
        return Ok(kept);
    }
    let start = if wanted.is_none() && (first..last).contains(host.last) { *host.last + 1 } else { first };
    let candidates = (start..=last)
        .chain(first..start)
        .filter(|candidate| unpublished(*candidate))
        .filter(|candidate| wanted.is_some() || !(host.reserved)(*candidate));
    let tries = if wanted.is_some() { usize::MAX } else { EPHEMERAL_TRIES };
    for candidate in candidates.take(tries) {
        if (host.free)(&listens(candidate)) {
            if wanted.is_none() {
                *host.last = candidate;
            }
            return Ok(candidate);
        }
    }
    let ip = listens(first).first().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |listen| listen.ip);
    Err(Error::new(
        Code::Conflict,
        format!("failed to publish port {port}/{protocol} on {ip}: no free host port in {first}-{last}"),
    ))
}

/// Puts specs that differ only in their host address into one group: they get the same host ports (E10).
fn groups(specs: &[PublishSpec]) -> Vec<Vec<&PublishSpec>> {
    let mut groups: Vec<Vec<&PublishSpec>> = Vec::new();
    let mut seen: HashMap<_, Vec<usize>> = HashMap::new();
    for spec in specs {
        let same = seen.entry((spec.host_ports, spec.ports, spec.protocol, &spec.allow)).or_default();
        let joins = same.iter().copied().find(|index| {
            groups[*index].iter().all(|other| match (other.host_ip, spec.host_ip) {
                (Some(a), Some(b)) => a != b,
                _ => false,
            })
        });
        if let Some(index) = joins {
            groups[index].push(spec);
        } else {
            same.push(groups.len());
            groups.push(vec![spec]);
        }
    }
    groups
}

/// The endpoints that serve a sandbox's ports, one for each family (E16), and the default host addresses.
struct Served<'a> {
    ipv4: Option<&'a Endpoint>,
    ipv6: Option<&'a Endpoint>,
    default: Vec<IpAddr>,
    /// Endpoints in gateway mode `routed`, which open ports on their own address and take none of the host's (B8), also where another one is the
    /// gateway (T25); by family.
    routed: Vec<(bool, &'a Endpoint)>,
}

impl<'a> Served<'a> {
    fn of(world: &World, sandbox: &'a Sandbox, host_ipv6: bool) -> Self {
        let serving =
            |ipv6| gateway::provider(world, sandbox, ipv6).or_else(|| opted_in(world, sandbox, ipv6));
        let (ipv4, ipv6) = (serving(false), serving(true));
        let configured =
            ipv4.or(ipv6).and_then(|endpoint| world.network_by_id(&endpoint.network)?.bridge.host_binding);
        let everywhere = [
            Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).filter(|_| ipv4.is_some()),
            Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)).filter(|_| host_ipv6),
        ];
        let default = match configured {
            // An IPv4 value suppresses the implicit [::] (B5), unless it means every address.
            Some(ip) if !ip.is_unspecified() => vec![ip],
            Some(ip) if ip.is_ipv6() => vec![ip],
            _ => everywhere.into_iter().flatten().collect(),
        };
        Self { ipv4, ipv6, default, routed: routed(world, sandbox) }
    }

    /// Returns what a spec opens on the addresses of routed endpoints. A host address says no more than the family.
    fn opened(&self, spec: &PublishSpec) -> impl Iterator<Item = Binding> {
        let of_family =
            |(ipv6, _): &&(bool, &'a Endpoint)| spec.host_ip.is_none_or(|ip| ip.is_ipv6() == *ipv6);
        let PublishSpec { ports, protocol, allow, .. } = spec.clone();
        self.routed.iter().filter(of_family).flat_map(move |(ipv6, endpoint)| {
            let host_ip: IpAddr =
                if *ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let (endpoint, allow) = (endpoint.id.clone(), allow.clone());
            (ports.0..=ports.1).map(move |port| Binding {
                host_ip,
                host_port: 0,
                port,
                protocol,
                endpoint: endpoint.clone(),
                allow: allow.clone(),
            })
        })
    }

    /// Whether an endpoint serves a host address of this family by NAT.
    fn translates(&self, host_ip: IpAddr, endpoint: &Endpoint) -> bool {
        let ipv6 = host_ip.is_ipv6() && endpoint.ipv6.is_some();
        !self.routed.iter().any(|(family, other)| *family == ipv6 && other.id == endpoint.id)
    }

    fn addresses(&self, host_ip: Option<IpAddr>) -> Vec<(IpAddr, &'a Endpoint)> {
        let wanted = host_ip.map_or_else(|| self.default.clone(), |ip| vec![ip]);
        wanted
            .into_iter()
            .filter_map(|ip| Some((ip, if ip.is_ipv4() { self.ipv4? } else { self.ipv6.or(self.ipv4)? })))
            .filter(|(ip, endpoint)| self.translates(*ip, endpoint))
            .collect()
    }
}

/// Returns the first endpoint on an internal network that publishes all the same (`netd.publish_internal`, truth table T58).
fn opted_in<'a>(world: &World, sandbox: &'a Sandbox, ipv6: bool) -> Option<&'a Endpoint> {
    sandbox.endpoints.iter().find(|endpoint| {
        let network = world.network_by_id(&endpoint.network);
        let has_address = if ipv6 { endpoint.ipv6.is_some() } else { endpoint.ipv4.is_some() };
        // Clients outside are shown as the bridge: a network without its address can't serve them.
        let serves = network.is_some_and(|network| {
            network.internal
                && network.bridge.publish_internal
                && network.pool_for(ipv6).is_some_and(|pool| pool.gateway.is_some())
        });
        has_address && serves
    })
}

/// Returns a sandbox's endpoints in gateway mode `routed`, by family (true: IPv6).
fn routed<'a>(world: &World, sandbox: &'a Sandbox) -> Vec<(bool, &'a Endpoint)> {
    let families = sandbox.endpoints.iter().flat_map(|endpoint| {
        let options = world.network_by_id(&endpoint.network).filter(|network| !network.internal);
        let routes = |mode: fn(&BridgeOptions) -> GatewayMode| {
            options.is_some_and(|network| mode(&network.bridge) == GatewayMode::Routed)
        };
        let ipv4 = endpoint.ipv4.is_some() && routes(|options| options.gateway_mode_ipv4);
        let ipv6 = endpoint.ipv6.is_some() && routes(|options| options.gateway_mode_ipv6);
        [(false, ipv4), (true, ipv6)].map(|(family, routed)| (routed, (family, endpoint)))
    });
    families.filter_map(|(routed, item)| routed.then_some(item)).collect()
}

fn allocated(world: &World, listen: Listen) -> Error {
    let address = Address(listen.ip, listen.port);
    let error = Error::new(Code::Conflict, format!("Bind for {address} failed: port is already allocated"));
    let owner = world.sandboxes().find(|sandbox| {
        let same =
            |binding: &Binding| (binding.host_port, binding.protocol) == (listen.port, listen.protocol);
        sandbox.bindings.iter().any(same)
    });
    match owner {
        Some(sandbox) => error.hint(format!("sandbox {} publishes it", sandbox.name)),
        None => error,
    }
}

/// Prints `0.0.0.0:80` and `[::]:80`.
pub struct Address(pub IpAddr, pub u16);

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.0, self.1))
    }
}

/// Whether a binding came from this spec, or is meant by it in `unpublish`.
pub fn covers(spec: &PublishSpec, binding: &Binding) -> bool {
    if !binding.takes_host_port() {
        // What the spec says of the host was ignored but for the family.
        return spec.protocol == binding.protocol
            && (spec.ports.0..=spec.ports.1).contains(&binding.port)
            && spec.host_ip.is_none_or(|ip| ip.is_ipv4() == binding.host_ip.is_ipv4());
    }
    let host_port = || match spec.host_ports {
        None => true,
        Some((first, last)) if last - first == spec.ports.1 - spec.ports.0 => {
            binding.host_port.checked_sub(first) == Some(binding.port - spec.ports.0)
        }
        Some((first, last)) => (first..=last).contains(&binding.host_port),
    };
    spec.protocol == binding.protocol
        && (spec.ports.0..=spec.ports.1).contains(&binding.port)
        && spec.host_ip.is_none_or(|ip| ip == binding.host_ip)
        && host_port()
}

/// Takes the bindings that these specs mean out of a sandbox, and returns them.
///
/// What a stored spec asked for beyond them stays as explicit specs, so that the next reconnect doesn't bring them back.
pub fn unbind(sandbox: &mut Sandbox, specs: &[PublishSpec]) -> Vec<Binding> {
    let (gone, left): (Vec<Binding>, Vec<Binding>) = std::mem::take(&mut sandbox.bindings)
        .into_iter()
        .partition(|binding| specs.iter().any(|spec| covers(spec, binding)));
    let lost: HashSet<&Binding> = gone.iter().collect();
    let (cut, mut whole): (Vec<PublishSpec>, Vec<PublishSpec>) =
        requested(sandbox).into_iter().partition(|spec| lost.iter().any(|binding| covers(spec, binding)));
    let remains: Vec<&Binding> =
        left.iter().filter(|binding| cut.iter().any(|spec| covers(spec, binding))).collect();
    whole.extend(runs(&remains));
    sandbox.publish = whole;
    sandbox.publish_all = false;
    sandbox.bindings = left;
    gone
}

/// Describes bindings as few explicit specs.
fn runs(bindings: &[&Binding]) -> Vec<PublishSpec> {
    let mut sorted: Vec<&&Binding> = bindings.iter().collect();
    sorted
        .sort_unstable_by_key(|binding| (binding.protocol, binding.host_ip, binding.port, binding.host_port));
    let mut specs: Vec<PublishSpec> = Vec::new();
    for binding in sorted {
        let next = |spec: &PublishSpec| {
            (spec.protocol, spec.host_ip, &spec.allow)
                == (binding.protocol, Some(binding.host_ip), &binding.allow)
                && spec.ports.1.checked_add(1) == Some(binding.port)
                && spec.host_ports.map_or(Some(0), |(_, last)| last.checked_add(1)) == Some(binding.host_port)
        };
        match specs.last_mut().filter(|spec| next(spec)) {
            Some(spec) => {
                spec.ports.1 = binding.port;
                spec.host_ports = spec.host_ports.map(|(first, _)| (first, binding.host_port));
            }
            None => specs.push(PublishSpec {
                host_ip: Some(binding.host_ip),
                host_ports: binding.takes_host_port().then_some((binding.host_port, binding.host_port)),
                ports: (binding.port, binding.port),
                protocol: binding.protocol,
                allow: binding.allow.clone(),
            }),
        }
    }
    specs
}
