//! Each command as an operation: read what is needed, plan on a copy of the world, change, tell.

use std::{net::IpAddr, sync::Arc};

use super::{
    Attachment, Code, CreateNetwork, CreateSandbox, Error, Event, Facts, NetnsRequest, SandboxRemoved, World,
    apply::{Machine, PortFacts},
    create_network, free_index, proxies,
    sandboxes::{self, Place},
    task::Controller,
};
use crate::{
    dataplane::PublishEntry,
    ipam,
    model::{
        Answer, Binding, BridgeOptions, Device, Id, Name, Netns, Network, PublishSpec, Sandbox, SandboxMode,
        Sources,
    },
    store::Intent,
};

impl<M: Machine> Controller<M> {
    pub(super) async fn create_network(&mut self, request: &CreateNetwork) -> Result<Arc<Network>, Error> {
        let mut host = self.machine.prefixes().await?;
        let mut request = request.clone();
        for (key, value) in &self.settings.network_options {
            request.options.entry(key.clone()).or_insert_with(|| value.clone());
        }
        proxies::allow_within(&mut host, &request, &self.host);
        let network = self.plan_network(&host, |facts| create_network(&request, facts))?;
        self.check_device(network.bridge.device).await?;
        self.check_proxies(&network).await?;
        self.add_network(network).await
    }

    /// Fails where the kernel cannot make what shall join sandboxes to their bridge.
    async fn check_device(&mut self, device: Device) -> Result<(), Error> {
        if device != Device::Netkit || self.machine.has_netkit().await? {
            return Ok(());
        }
        let text = format!("{}=netkit: this kernel has no netkit devices", BridgeOptions::DEVICE);
        Err(Error::new(Code::Unsupported, text)
            .hint("they take Linux 6.8 with CONFIG_NETKIT; veth works everywhere"))
    }

    /// Lets a closure make a network from the facts about the world.
    pub(super) fn plan_network(
        &self,
        host: &[ipam::HostPrefix],
        make: impl FnOnce(Facts<'_>) -> Result<Network, Error>,
    ) -> Result<Network, Error> {
        let networks: Vec<&Network> = self.world.networks().map(AsRef::as_ref).collect();
        make(Facts {
            world: ipam::World { networks: &networks, host, default_pools: &self.settings.default_pools },
            id: Id::random().map_err(|error| Error::new(Code::Failure, format!("choose an id: {error}")))?,
            created: super::now(),
            index: free_index(&networks, self.settings.network_slots),
        })
    }

    pub(super) async fn add_network(&mut self, network: Network) -> Result<Arc<Network>, Error> {
        let mut next = World::clone(&self.world);
        next.put_network(network.clone());
        let answer = Answer::Network(network.id.clone());
        self.change(next, &Intent::CreateNetwork(Box::new(network.clone())), Some(answer)).await?;
        self.sync_host().await;
        tracing::info!(network = %network.name, id = network.id.short(), "network created");
        self.tell(network_event("create", &network, None));
        Ok(Arc::new(network))
    }

    pub(super) async fn remove_network(&mut self, word: &str) -> Result<(), Error> {
        let network = Arc::clone(self.world.network(word)?);
        if network.is_predefined() {
            let text = format!("{} is a pre-defined network and cannot be removed", network.name);
            return Err(Error::new(Code::Forbidden, text));
        }
        let endpoints: Vec<String> = self
            .world
            .endpoints_on(&network.id)
            .map(|(sandbox, endpoint)| {
                format!("name:{:?} id:{:?}", sandbox.name.as_str(), endpoint.id.short())
            })
            .collect();
        if !endpoints.is_empty() {
            let text = format!("network {} has active endpoints ({})", network.name, endpoints.join(", "));
            return Err(Error::new(Code::Forbidden, text)
                .hint("take them off with `netd network disconnect -f`, or remove the sandboxes"));
        }
        self.forget_network(&network, Some(Answer::Done)).await?;
        self.sync_host().await;
        Ok(())
    }

    /// Removes a network without endpoints; the packet path is told of the host afterwards.
    pub(super) async fn forget_network(
        &mut self,
        network: &Network,
        answer: Option<Answer>,
    ) -> Result<(), Error> {
        let mut next = World::clone(&self.world);
        next.remove_network(&network.id);
        self.change(next, &Intent::RemoveNetwork(Box::new(network.clone())), answer).await?;
        tracing::info!(network = %network.name, id = network.id.short(), "network removed");
        self.tell(network_event("destroy", network, None));
        Ok(())
    }

    pub(super) async fn create_sandbox(&mut self, request: &CreateSandbox) -> Result<Arc<Sandbox>, Error> {
        let (id, name) = sandboxes::identify(&self.world, request.name.as_deref())?;
        let mode = sandboxes::mode(&self.world, request)?;
        let place = self.place(&name, &mode, &request.netns).await?;
        let facts = self.facts(request.wants_ports()).await?;
        let mut next = World::clone(&self.world);
        let id = self.with_ports(&facts, |ports| {
            sandboxes::create(&mut next, request, (id, name), mode, place, ports)
        })?;
        let sandbox = next.sandbox_by_id(&id).cloned().ok_or_else(lost)?;
        let answer = Answer::Sandbox {
            id: sandbox.id.clone(),
            name: sandbox.name.clone(),
            discards_ports: request.wants_ports() && sandbox.mode == SandboxMode::Host,
        };
        let intent = Intent::CreateSandbox(Box::new(Sandbox::clone(&sandbox)));
        self.change(next, &intent, Some(answer)).await?;
        tracing::info!(sandbox = %sandbox.name, id = sandbox.id.short(), "sandbox created");
        self.tell(sandbox_event("create", &sandbox));
        for endpoint in &sandbox.endpoints {
            self.tell_attached("connect", &endpoint.network, &sandbox);
        }
        Ok(sandbox)
    }

    /// Finds the namespace of a new sandbox, by its mode.
    async fn place(
        &mut self,
        name: &Name,
        mode: &SandboxMode,
        request: &NetnsRequest,
    ) -> Result<Place, Error> {
        let given = !matches!(request, NetnsRequest::Create);
        let none = |netns| Place { netns, occupied: std::collections::BTreeSet::default() };
        match mode {
            SandboxMode::Host | SandboxMode::Sandbox(_) if given => {
                let text = "conflicting options: a namespace of its own and the network mode";
                Err(Error::new(Code::Usage, text))
            }
            SandboxMode::Host => Ok(none(None)),
            SandboxMode::Sandbox(target) => {
                let world = Arc::clone(&self.world);
                let target = world.sandbox_by_id(target).and_then(|target| target.netns.as_ref());
                let Some(target) = target else { return Ok(none(None)) };
                let inode = self.machine.inode(target)?;
                Ok(none(Some(Netns { path: target.path.clone(), owned: false, inode })))
            }
            SandboxMode::Endpoints | SandboxMode::None => {
                let place = self.machine.place(name, request).await?;
                match place.netns.as_ref().filter(|netns| !netns.owned).and_then(|netns| self.user_of(netns))
                {
                    None => Ok(place),
                    Some(other) => {
                        let text =
                            format!("create sandbox {name}: the namespace is sandbox {}'s", other.name);
                        Err(Error::new(Code::Conflict, text)
                            .hint(format!("use --network sandbox:{}", other.name)))
                    }
                }
            }
        }
    }

    fn user_of(&self, netns: &Netns) -> Option<&Sandbox> {
        let same =
            |other: &Netns| other.path == netns.path || (other.inode != 0 && other.inode == netns.inode);
        self.world.sandboxes().map(AsRef::as_ref).find(|sandbox| sandbox.netns.as_ref().is_some_and(same))
    }

    pub(super) async fn remove_sandbox(&mut self, word: &str, force: bool) -> Result<SandboxRemoved, Error> {
        let sandbox = Arc::clone(self.world.sandbox(word)?);
        let joined = SandboxMode::Sandbox(sandbox.id.clone());
        if let Some(other) = self.world.sandboxes().find(|other| other.mode == joined).filter(|_| !force) {
            let text = format!(
                "cannot remove sandbox {}: sandbox {} shares its namespace",
                sandbox.name, other.name
            );
            return Err(Error::new(Code::Conflict, text).hint("remove that one first, or use -f"));
        }
        if let Some(pid) = sandbox.pid
            && self.machine.is_running(&sandbox, pid)?
        {
            if !force {
                let text =
                    format!("cannot remove sandbox {}: its command is running (pid {pid})", sandbox.name);
                return Err(Error::new(Code::Conflict, text).hint("end it first, or use -f"));
            }
            self.machine.kill(pid)?;
        }
        let mut next = World::clone(&self.world);
        next.remove_sandbox(&sandbox.id);
        let intent = Intent::RemoveSandbox(Box::new(Sandbox::clone(&sandbox)));
        self.change(next, &intent, Some(Answer::Done)).await?;
        tracing::info!(sandbox = %sandbox.name, id = sandbox.id.short(), "sandbox removed");
        self.tell_removed(&sandbox);
        Ok(SandboxRemoved { id: sandbox.id.clone(), name: sandbox.name.clone() })
    }

    pub(super) async fn connect(&mut self, word: &str, wanted: &Attachment) -> Result<(), Error> {
        let before = Arc::clone(self.world.sandbox(word)?);
        let occupied = match before.netns.as_ref().filter(|netns| !netns.owned) {
            Some(netns) if before.mode == SandboxMode::Endpoints => self.machine.interfaces(netns).await?,
            _ => std::collections::BTreeSet::default(),
        };
        let facts = self.facts(!before.publish.is_empty() || before.publish_all).await?;
        let mut next = World::clone(&self.world);
        let network = self.with_ports(&facts, |ports| {
            sandboxes::connect(&mut next, before.id.as_str(), wanted, &occupied, ports)
        })?;
        self.update(next, &before, Answer::Done).await?;
        tracing::info!(sandbox = %before.name, network = network.short(), "sandbox connected");
        self.tell_attached("connect", &network, &before);
        Ok(())
    }

    pub(super) async fn disconnect(&mut self, network: &str, word: &str, force: bool) -> Result<(), Error> {
        let network = Arc::clone(self.world.network(network)?);
        let before = match self.world.sandbox(word) {
            Ok(sandbox) => Arc::clone(sandbox),
            // The endpoint of a sandbox that is gone is gone too.
            Err(error) if force && error.code == Code::NotFound => {
                return Err(sandboxes::not_connected(word, &network));
            }
            Err(error) => return Err(error),
        };
        let facts = self.facts(!before.publish.is_empty() || before.publish_all).await?;
        let mut next = World::clone(&self.world);
        self.with_ports(&facts, |ports| sandboxes::disconnect(&mut next, &network, &before, ports))?;
        self.update(next, &before, Answer::Done).await?;
        tracing::info!(sandbox = %before.name, network = %network.name, "sandbox disconnected");
        self.tell_attached("disconnect", &network.id, &before);
        Ok(())
    }

    pub(super) async fn publish(&mut self, word: &str, specs: &[PublishSpec]) -> Result<Vec<Binding>, Error> {
        let before = Arc::clone(self.world.sandbox(word)?);
        let facts = self.facts(true).await?;
        let mut next = World::clone(&self.world);
        let bindings =
            self.with_ports(&facts, |ports| sandboxes::publish(&mut next, &before, specs, ports))?;
        self.update(next, &before, Answer::Ports(bindings.clone())).await?;
        tracing::info!(sandbox = %before.name, ports = bindings.len(), "ports published");
        Ok(bindings)
    }

    pub(super) async fn unpublish(
        &mut self,
        word: &str,
        specs: &[PublishSpec],
        kill: bool,
    ) -> Result<Vec<Binding>, Error> {
        let before = Arc::clone(self.world.sandbox(word)?);
        let mut next = World::clone(&self.world);
        let gone = sandboxes::unpublish(&mut next, &before, specs)?;
        self.update(next, &before, Answer::Ports(gone.clone())).await?;
        tracing::info!(sandbox = %before.name, ports = gone.len(), kill, "ports unpublished");
        if kill {
            self.kill_flows(&before, &gone)?;
        }
        Ok(gone)
    }

    pub(super) async fn unlink(&mut self, word: &str, alias: &str) -> Result<(), Error> {
        let before = Arc::clone(self.world.sandbox(word)?);
        let mut next = World::clone(&self.world);
        sandboxes::unlink(&mut next, &before, alias)?;
        self.update(next, &before, Answer::Done).await?;
        tracing::info!(sandbox = %before.name, alias, "link removed");
        Ok(())
    }

    /// Ends what came in by these bindings.
    fn kill_flows(&mut self, sandbox: &Sandbox, gone: &[Binding]) -> Result<(), Error> {
        let entry = |binding: &Binding| {
            let endpoint = sandbox.endpoints.iter().find(|endpoint| endpoint.id == binding.endpoint)?;
            let (ipv4, ipv6) = (endpoint.ipv4.map(|net| net.addr()), endpoint.ipv6.map(|net| net.addr()));
            let backend = match binding.host_ip {
                IpAddr::V4(_) => ipv4?.into(),
                // An IPv6 port of a sandbox that has IPv4 alone (E16).
                IpAddr::V6(_) => ipv6.map_or(ipv4.map(IpAddr::V4), |addr| Some(addr.into()))?,
            };
            Some(PublishEntry {
                host_ip: binding.host_ip,
                host_port: binding.host_port,
                protocol: binding.protocol,
                backend,
                backend_port: binding.port,
                ifindex: 0,
                allow: Sources::default(),
            })
        };
        let entries: Vec<PublishEntry> = gone.iter().filter_map(entry).collect();
        self.machine.dataplane(|dataplane| dataplane.kill_publishes(&entries))?;
        Ok(())
    }

    pub(super) async fn set_pid(&mut self, word: &str, pid: Option<u32>) -> Result<(), Error> {
        let before = Arc::clone(self.world.sandbox(word)?);
        if before.pid == pid {
            return Ok(());
        }
        let mut after = Sandbox::clone(&before);
        after.pid = pid;
        let mut next = World::clone(&self.world);
        next.put_sandbox(after);
        self.update(next, &before, Answer::Done).await?;
        self.tell(sandbox_event(if pid.is_some() { "start" } else { "die" }, &before));
        Ok(())
    }

    /// Changes one sandbox.
    async fn update(&mut self, next: World, before: &Sandbox, answer: Answer) -> Result<(), Error> {
        let after = next.sandbox_by_id(&before.id).cloned().ok_or_else(lost)?;
        let intent = Intent::UpdateSandbox {
            before: Box::new(before.clone()),
            after: Box::new(Sandbox::clone(&after)),
        };
        self.change(next, &intent, Some(answer)).await
    }

    /// Reads what the host says of ports, where that is needed.
    async fn facts(&mut self, needed: bool) -> Result<PortFacts, Error> {
        if needed { self.machine.ports().await } else { Ok(PortFacts::default()) }
    }

    pub(super) fn tell_removed(&self, sandbox: &Sandbox) {
        for endpoint in &sandbox.endpoints {
            self.tell_attached("disconnect", &endpoint.network, sandbox);
        }
        self.tell(sandbox_event("destroy", sandbox));
    }

    fn tell_attached(&self, action: &str, network: &Id, sandbox: &Sandbox) {
        if let Some(network) = self.world.network_by_id(network) {
            self.tell(network_event(action, network, Some(sandbox)));
        }
    }
}

fn lost() -> Error {
    Error::new(Code::Failure, "the planned sandbox is not in the planned world")
}

/// Docker semantics J5.
fn network_event(action: &str, network: &Network, sandbox: Option<&Sandbox>) -> Event {
    let driver = match network.driver {
        crate::model::Driver::Bridge => "bridge",
        crate::model::Driver::Host => "host",
        crate::model::Driver::Null => "null",
    };
    let container = sandbox.map(|sandbox| ("container".to_owned(), sandbox.id.to_string()));
    let attributes = [("name".to_owned(), network.name.to_string()), ("type".to_owned(), driver.to_owned())];
    event("network", action, &network.id, attributes.into_iter().chain(container))
}

fn sandbox_event(action: &str, sandbox: &Sandbox) -> Event {
    event("container", action, &sandbox.id, [("name".to_owned(), sandbox.name.to_string())])
}

/// Makes an event of now.
pub(super) fn event(
    kind: &str,
    action: &str,
    id: &Id,
    attributes: impl IntoIterator<Item = (String, String)>,
) -> Event {
    let nanoseconds = jiff::Timestamp::now().as_nanosecond();
    Event {
        kind: kind.to_owned(),
        action: action.to_owned(),
        id: id.to_string(),
        attributes: attributes.into_iter().collect(),
        time_nano: i64::try_from(nanoseconds).unwrap_or(i64::MAX),
    }
}
