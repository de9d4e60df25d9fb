//! What each operation on sandboxes makes of the world. Nothing here touches the kernel.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Attachment, Code, CreateSandbox, Error, World, endpoint,
    publish::{self, HostPorts, Taken},
    words,
};
use crate::model::{Binding, Driver, Id, Link, Name, Netns, Network, PublishSpec, Sandbox, SandboxMode};

/// What the caller found out about a new sandbox's namespace.
pub struct Place {
    /// The namespace; none when the mode has none of its own.
    pub netns: Option<Netns>,
    /// Interface names that exist in it already.
    pub occupied: BTreeSet<String>,
}

/// Where a new sandbox's network comes from, by its list of networks.
///
/// # Errors
/// An unknown network, or options that contradict each other (Docker semantics D10, CO2, HO4).
pub fn mode(world: &World, request: &CreateSandbox) -> Result<SandboxMode, Error> {
    let mut modes = Vec::new();
    for attachment in &request.networks {
        let word = attachment.network.as_str();
        modes.push(match word.strip_prefix("sandbox:").or_else(|| word.strip_prefix("container:")) {
            Some(target) => SandboxMode::Sandbox(world.sandbox(target)?.id.clone()),
            None => match world.network(default_network(word))?.driver {
                Driver::Bridge => SandboxMode::Endpoints,
                Driver::Host => SandboxMode::Host,
                Driver::Null => SandboxMode::None,
            },
        });
    }
    let special = modes.iter().find(|mode| **mode != SandboxMode::Endpoints);
    let mode = match (special, modes.len()) {
        (None, _) => SandboxMode::Endpoints,
        (Some(mode), 1) => mode.clone(),
        (Some(SandboxMode::None), _) => {
            let text = "container cannot be connected to multiple networks with one of the networks in private (none) mode";
            return Err(Error::new(Code::Usage, text));
        }
        (Some(_), _) => {
            let text = "container sharing network namespace with another container or host cannot be connected to any \
                        other network";
            return Err(Error::new(Code::Usage, text));
        }
    };
    check_options(&mode, request)?;
    Ok(mode)
}

fn default_network(word: &str) -> &str {
    if matches!(word, "" | "default") { "bridge" } else { word }
}

fn check_options(mode: &SandboxMode, request: &CreateSandbox) -> Result<(), Error> {
    words::check_sandbox(request)?;
    let dns =
        !request.dns.servers.is_empty() || !request.dns.search.is_empty() || !request.dns.options.is_empty();
    let publishes = !request.publish.is_empty() || request.publish_all;
    let joined = [
        (request.hostname.is_some(), "hostname and the network mode"),
        (
            !request.links.is_empty(),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (dns, "dns and the network mode"),
        (!request.dns.extra_hosts.is_empty(), "custom host-to-IP mapping and the network mode"),
        (publishes, "port publishing and the container type network mode"),
        (!request.exposed.is_empty(), "port exposing and the container type network mode"),
    ];
    let host = [(
        !request.links.is_empty(),
        "host type networking can't be used with links. This would result in undefined behavior",
    )];
    let rules = match mode {
        SandboxMode::Sandbox(_) => &joined[..],
        SandboxMode::Host => &host[..],
        SandboxMode::Endpoints | SandboxMode::None => &[],
    };
    if let Some((_, text)) = rules.iter().find(|(broken, _)| *broken) {
        return Err(Error::new(Code::Usage, format!("conflicting options: {text}")));
    }
    let fixed = |attachment: &Attachment| attachment.ipv4.is_some() || attachment.ipv6.is_some();
    if *mode != SandboxMode::Endpoints && request.networks.iter().any(fixed) {
        let text = "user-specified IP address is supported on user-defined networks only";
        return Err(Error::new(Code::Usage, text));
    }
    Ok(())
}

/// Chooses the id and name of a new sandbox.
///
/// # Errors
/// The name breaks the rule or is taken.
pub fn identify(world: &World, wanted: Option<&str>) -> Result<(Id, Name), Error> {
    let id = Id::random().map_err(|error| Error::new(Code::Failure, format!("choose an id: {error}")))?;
    let name = wanted.map_or_else(|| format!("sandbox-{}", id.short()), str::to_owned);
    let name: Name =
        name.parse().map_err(|error| Error::new(Code::Usage, format!("create sandbox: {error}")))?;
    if let Some(other) = world.sandboxes().find(|other| other.name == name) {
        let text =
            format!("create sandbox {name}: the name is already in use by sandbox {}", other.id.short());
        return Err(Error::new(Code::Conflict, text).hint(format!("remove it with `netd sandbox rm {name}`")));
    }
    Ok((id, name))
}

/// Adds a sandbox with its endpoints and bindings to the world.
///
/// # Errors
/// An unknown network, an address or port that is taken, ...: see `endpoint::make` and `publish::bind`.
pub fn create(
    world: &mut World,
    request: &CreateSandbox,
    (id, name): (Id, Name),
    mode: SandboxMode,
    place: Place,
    host: &mut HostPorts<'_>,
) -> Result<Id, Error> {
    let mut sandbox = Sandbox {
        hostname: request.hostname.clone().unwrap_or_else(|| default_hostname(world, &id, &mode)),
        id: id.clone(),
        name,
        created: super::now(),
        mode,
        netns: place.netns,
        dns: request.dns.clone(),
        endpoints: Vec::new(),
        publish: request.publish.clone(),
        publish_all: request.publish_all,
        exposed: request.exposed.clone(),
        bindings: Vec::new(),
        links: Vec::new(),
        labels: request.labels.clone(),
        command: request.command.clone(),
        pid: None,
    };
    if sandbox.mode == SandboxMode::Endpoints {
        let bridge = [Attachment::default()];
        let wanted = if request.networks.is_empty() { &bridge[..] } else { &request.networks };
        for attachment in wanted {
            let network = Arc::clone(world.network(default_network(&attachment.network))?);
            sandbox.endpoints.push(endpoint::make(world, &network, &sandbox, attachment, &place.occupied)?);
        }
        sandbox.links = links(world, &sandbox, &request.links)?;
        let specs = publish::requested(&sandbox);
        let mut taken = Taken::by_others(world, &sandbox);
        sandbox.bindings = publish::bind(world, &sandbox, &specs, &[], &mut taken, host)?;
        publish::check_served(world, &sandbox, &specs, &sandbox.bindings)?;
    }
    world.put_sandbox(sandbox);
    Ok(id)
}

/// A sandbox is named after its id, unless it shares the host's or another sandbox's names (Docker semantics HO4, CO1).
fn default_hostname(world: &World, id: &Id, mode: &SandboxMode) -> String {
    let shared = match mode {
        SandboxMode::Endpoints | SandboxMode::None => None,
        SandboxMode::Host => nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()),
        SandboxMode::Sandbox(target) => world.sandbox_by_id(target).map(|target| target.hostname.clone()),
    };
    shared.unwrap_or_else(|| id.short().to_owned())
}

/// Resolves `--link` (Docker semantics G1, G5).
fn links(world: &World, sandbox: &Sandbox, wanted: &[(String, String)]) -> Result<Vec<Link>, Error> {
    let on_default = |sandbox: &Sandbox| {
        let mut networks =
            sandbox.endpoints.iter().filter_map(|endpoint| world.network_by_id(&endpoint.network));
        networks.any(|network| network.is_default_bridge())
    };
    let resolve = |(target, alias): &(String, String)| {
        let other = world.sandbox(target)?;
        if on_default(sandbox) && !on_default(other) {
            let text = format!("Cannot link to {target}, as it does not belong to the default network");
            return Err(Error::new(Code::Usage, text));
        }
        Ok(Link { target: other.id.clone(), name: other.name.clone(), alias: alias.clone() })
    };
    wanted.iter().map(resolve).collect()
}

/// Attaches a sandbox to a network; its published ports follow the gateway (Docker semantics E16).
pub fn connect(
    world: &mut World,
    sandbox: &str,
    wanted: &Attachment,
    occupied: &BTreeSet<String>,
    host: &mut HostPorts<'_>,
) -> Result<Id, Error> {
    let mut sandbox = Sandbox::clone(world.sandbox(sandbox)?);
    let network = Arc::clone(world.network(default_network(&wanted.network))?);
    if network.driver == Driver::Host {
        let text =
            "cannot connect container to host network - container must be created in host network mode";
        return Err(Error::new(Code::Usage, text));
    }
    endpoint::check_mode(&sandbox)?;
    if network.driver == Driver::Null {
        let text = "container cannot be connected to multiple networks with one of the networks in private (none) mode";
        return Err(Error::new(Code::Usage, text));
    }
    sandbox.endpoints.push(endpoint::make(world, &network, &sandbox, wanted, occupied)?);
    let previous = std::mem::take(&mut sandbox.bindings);
    let mut taken = Taken::by_others(world, &sandbox);
    sandbox.bindings =
        publish::bind(world, &sandbox, &publish::requested(&sandbox), &previous, &mut taken, host)?;
    world.put_sandbox(sandbox);
    Ok(network.id.clone())
}

/// Takes a sandbox off a network; its published ports move to the next gateway (Docker semantics H2).
///
/// # Errors
/// The sandbox is not on the network.
pub fn disconnect(
    world: &mut World,
    network: &Network,
    sandbox: &Sandbox,
    host: &mut HostPorts<'_>,
) -> Result<(), Error> {
    if sandbox.mode == SandboxMode::Host || network.driver == Driver::Host {
        let text = "container cannot be disconnected from host network - container must be created in host network mode";
        return Err(Error::new(Code::Usage, text));
    }
    if sandbox.endpoint_on(&network.id).is_none() {
        return Err(not_connected(sandbox.name.as_str(), network));
    }
    let mut sandbox = sandbox.clone();
    sandbox.endpoints.retain(|endpoint| endpoint.network != network.id);
    let previous = std::mem::take(&mut sandbox.bindings);
    let specs = publish::requested(&sandbox);
    let mut taken = Taken::by_others(world, &sandbox);
    match publish::bind(world, &sandbox, &specs, &previous, &mut taken, host) {
        Ok(bindings) => sandbox.bindings = bindings,
        Err(error) => {
            tracing::warn!(sandbox = %sandbox.name, %error, "published ports were given up with their gateway");
        }
    }
    world.put_sandbox(sandbox);
    Ok(())
}

/// Says that there is no endpoint to remove.
pub fn not_connected(sandbox: &str, network: &Network) -> Error {
    Error::new(Code::NotFound, format!("sandbox {sandbox} is not connected to network {}", network.name))
}

/// Adds published ports to a sandbox; returns the new bindings.
pub fn publish(
    world: &mut World,
    sandbox: &Sandbox,
    specs: &[PublishSpec],
    host: &mut HostPorts<'_>,
) -> Result<Vec<Binding>, Error> {
    let refused = match sandbox.mode {
        SandboxMode::Endpoints => None,
        SandboxMode::Host => Some("port publishing and the host type network mode"),
        SandboxMode::None => Some("port publishing and the private (none) network mode"),
        SandboxMode::Sandbox(_) => Some("port publishing and the container type network mode"),
    };
    if let Some(text) = refused {
        return Err(Error::new(Code::Usage, format!("conflicting options: {text}")));
    }
    let mut taken = Taken::by_others(world, sandbox);
    let takers = sandbox.bindings.iter().filter(|binding| binding.takes_host_port());
    takers.for_each(|binding| taken.add(binding.into()));
    let fresh = publish::bind(world, sandbox, specs, &[], &mut taken, host)?;
    publish::check_served(world, sandbox, specs, &fresh)?;
    let mut sandbox = sandbox.clone();
    sandbox.publish.extend_from_slice(specs);
    sandbox.bindings.extend(fresh.iter().cloned());
    world.put_sandbox(sandbox);
    Ok(fresh)
}

/// Takes published ports away from a sandbox; returns the bindings that went.
///
/// # Errors
/// None of the sandbox's bindings is meant.
pub fn unpublish(world: &mut World, sandbox: &Sandbox, specs: &[PublishSpec]) -> Result<Vec<Binding>, Error> {
    let mut sandbox = sandbox.clone();
    for spec in specs {
        if !sandbox.bindings.iter().any(|binding| publish::covers(spec, binding)) {
            let text = format!("No public port '{spec}' published for {}", sandbox.name);
            return Err(Error::new(Code::NotFound, text));
        }
    }
    let gone = publish::unbind(&mut sandbox, specs);
    world.put_sandbox(sandbox);
    Ok(gone)
}

/// Takes a link away from a sandbox (Docker semantics G3).
///
/// # Errors
/// The sandbox has no link of this alias.
pub fn unlink(world: &mut World, sandbox: &Sandbox, alias: &str) -> Result<(), Error> {
    let mut sandbox = sandbox.clone();
    let before = sandbox.links.len();
    sandbox.links.retain(|link| link.alias != alias);
    if sandbox.links.len() == before {
        return Err(Error::new(Code::NotFound, format!("sandbox {} has no link {alias}", sandbox.name)));
    }
    world.put_sandbox(sandbox);
    Ok(())
}
