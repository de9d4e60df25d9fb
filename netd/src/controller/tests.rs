//! Unit rung: operations of the controller on a machine in memory.

mod access;
mod broken_off;
mod limits;
mod news;
mod policies;
mod ports;
mod proxies;
mod prune;
mod shortage;
mod sources;

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    Attachment, Code, CreateNetwork, CreateSandbox, Error, Handle,
    fake::FakeMachine,
    files::Renderer,
    object::{Listen, Object},
    task::{Controller, Settings},
};
use crate::{
    ipam::{docker_default_pools, ula_pool},
    link::{Changes, Interfaces, LinkChange},
    model::{Binding, BridgeOptions, Device, Id, IfName, Protocol, PublishSpec, Sandbox},
    store::Store,
};

/// A controller on an empty machine, with its state in a directory of its own.
struct Bench {
    controller: Controller<FakeMachine>,
    handle: Handle,
    dir: tempfile::TempDir,
}

fn settings() -> Settings {
    let mut default_pools = docker_default_pools();
    default_pools.push(ula_pool(&Id::from_bytes(&[1; 32])));
    Settings {
        instance: "test".into(),
        default_pools,
        default_bridge: CreateNetwork::default(),
        network_options: std::collections::BTreeMap::new(),
        network_slots: 64,
        direct_routing: false,
        collect_every: Duration::from_secs(5),
    }
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        Self::on(FakeMachine::default(), dir).await
    }

    async fn on(machine: FakeMachine, dir: tempfile::TempDir) -> Self {
        let store = Store::open(&dir.path().join("state"), &dir.path().join("copies")).expect("store");
        let (mut controller, handle, _) = Controller::new(machine, store, settings(), Renderer::default());
        controller.reconcile().await.expect("reconciled");
        Self { controller, handle, dir }
    }

    /// Ends the daemon and starts another one on the same machine and state.
    async fn restart(self, change: impl FnOnce(&mut FakeMachine)) -> Self {
        let Self { controller, dir, .. } = self;
        let mut machine = controller.machine;
        drop(controller.store);
        change(&mut machine);
        Self::on(machine, dir).await
    }

    fn dump(&self) -> Vec<String> {
        self.controller.machine.dump()
    }

    async fn network(&mut self, name: &str) {
        self.network_with(CreateNetwork { name: name.into(), ..CreateNetwork::default() }).await;
    }

    async fn network_with(&mut self, request: CreateNetwork) {
        self.controller.create_network(&request).await.expect("network");
    }

    async fn sandbox(
        &mut self,
        name: &str,
        networks: &[&str],
        publish: &[&str],
    ) -> Result<Arc<Sandbox>, Error> {
        self.controller.create_sandbox(&request(name, networks, publish)).await
    }

    fn bindings(&self, sandbox: &str) -> Vec<String> {
        let sandbox = self.controller.world.sandbox(sandbox).expect("sandbox");
        sandbox.bindings.iter().map(text).collect()
    }

    fn serves(&self, sandbox: &str) -> Vec<String> {
        let sandbox = self.controller.world.sandbox(sandbox).expect("sandbox");
        let name = |binding: &Binding| {
            let endpoint = sandbox.endpoints.iter().find(|endpoint| endpoint.id == binding.endpoint);
            endpoint.map(|endpoint| endpoint.ifname.to_string()).unwrap_or_default()
        };
        sandbox.bindings.iter().map(name).collect()
    }
}

fn request(name: &str, networks: &[&str], publish: &[&str]) -> CreateSandbox {
    CreateSandbox {
        name: Some(name.into()),
        networks: networks.iter().map(|network| attachment(network)).collect(),
        publish: specs(publish),
        ..CreateSandbox::default()
    }
}

fn attachment(network: &str) -> Attachment {
    Attachment { network: network.into(), ..Attachment::default() }
}

fn specs(texts: &[&str]) -> Vec<PublishSpec> {
    texts.iter().map(|text| text.parse().expect("a specification")).collect()
}

fn text(binding: &Binding) -> String {
    format!("{}:{}->{}/{}", binding.host_ip, binding.host_port, binding.port, binding.protocol)
}

fn busy(ip: &str, port: u16) -> Listen {
    let ip: IpAddr = ip.parse().expect("an address");
    Listen { ip, port, protocol: Protocol::Tcp }
}

#[tokio::test]
async fn the_default_networks_exist_from_the_start_and_stay() {
    let mut bench = Bench::new().await;
    let mut names: Vec<String> =
        bench.controller.world.networks().map(|network| network.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["bridge", "host", "none"]);
    for name in names {
        let error = bench.controller.remove_network(&name).await.expect_err("refused");
        assert_eq!(error.code, Code::Forbidden, "{error}");
    }
}

/// Runs an operation with a failure at its first step, its second, and so on, until it succeeds.
async fn fails_clean<F>(bench: &mut Bench, mut operation: F)
where
    F: AsyncFnMut(&mut Controller<FakeMachine>) -> Result<(), Error>,
{
    for failing in 0..200 {
        let (objects, world) = (bench.dump(), Arc::clone(&bench.controller.world));
        bench.controller.machine.fail_in = Some(failing);
        let result = operation(&mut bench.controller).await;
        let failed = bench.controller.machine.fail_in.take().is_none();
        if !failed {
            result.expect("no step was told to fail");
            assert!(failing > 0, "the operation took no step");
            return;
        }
        result.expect_err("a step failed");
        assert_eq!(bench.dump(), objects, "objects after a failure at step {failing}");
        assert_eq!(bench.controller.world, world, "world after a failure at step {failing}");
    }
    panic!("the operation never succeeded");
}

#[tokio::test]
async fn a_network_says_what_joins_its_sandboxes_and_the_kernel_has_to_have_it() {
    let kit = |name: &str| {
        let options = [(BridgeOptions::DEVICE.to_owned(), "netkit".to_owned())];
        CreateNetwork { name: name.into(), options: options.into(), ..CreateNetwork::default() }
    };
    let mut bench = Bench::new().await;
    bench.controller.machine.no_netkit = true;
    let before = bench.dump();
    let error = bench.controller.create_network(&kit("kit")).await.expect_err("no netkit");
    assert_eq!((error.code, bench.dump()), (Code::Unsupported, before), "{error}");
    bench.network("pairs").await;

    bench.controller.machine.no_netkit = false;
    bench.controller.create_network(&kit("kit")).await.expect("netkit");
    let devices = |bench: &Bench, host: &IfName| -> Vec<Device> {
        let of = |object: &Object| match object {
            Object::Veth(veth) if veth.host == *host => Some(veth.device),
            Object::Programs(at, device) if at == host => Some(*device),
            _ => None,
        };
        bench.controller.machine.objects.iter().filter_map(of).collect()
    };
    for (network, device) in [("kit", Device::Netkit), ("pairs", Device::Veth)] {
        let sandbox = bench.sandbox(&format!("on-{network}"), &[network], &[]).await.expect("sandbox");
        assert_eq!(devices(&bench, &sandbox.endpoints[0].host_ifname), [device; 2], "{network}");
    }
}

#[tokio::test]
async fn an_operation_that_fails_at_any_step_has_changed_nothing() {
    let mut bench = Bench::new().await;
    fails_clean(&mut bench, async |controller| {
        let request = CreateNetwork { name: "web".into(), ipv6: Some(true), ..CreateNetwork::default() };
        controller.create_network(&request).await.map(drop)
    })
    .await;
    bench.network("db").await;
    fails_clean(&mut bench, async |controller| {
        controller.create_sandbox(&request("a", &["web", "db"], &["8080:80", "53:53/udp"])).await.map(drop)
    })
    .await;
    fails_clean(&mut bench, async |controller| {
        let wanted = Attachment { gw_priority: 10, ..attachment("bridge") };
        controller.connect("a", &wanted).await
    })
    .await;
    fails_clean(&mut bench, async |controller| {
        controller.publish("a", &specs(&["9000-9010:9000-9010"])).await.map(drop)
    })
    .await;
    fails_clean(&mut bench, async |controller| {
        controller.unpublish("a", &specs(&["9003:9003"]), false).await.map(drop)
    })
    .await;
    fails_clean(&mut bench, async |controller| controller.disconnect("bridge", "a", false).await).await;
    fails_clean(&mut bench, async |controller| controller.remove_sandbox("a", false).await.map(drop)).await;
    fails_clean(&mut bench, async |controller| controller.remove_network("web").await).await;
}

#[tokio::test]
async fn what_was_made_and_removed_leaves_nothing() {
    let mut bench = Bench::new().await;
    let before = bench.dump();
    bench.network("web").await;
    bench.sandbox("a", &["web", "bridge"], &["80", "8080:80"]).await.expect("sandbox");
    bench.controller.remove_sandbox("a", false).await.expect("removed");
    bench.controller.remove_network("web").await.expect("removed");
    assert_eq!(bench.dump(), before);
}

#[tokio::test]
async fn a_restart_touches_nothing_that_is_there() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    bench.sandbox("a", &["web"], &["8080:80"]).await.expect("sandbox");
    let (objects, world) = (bench.dump(), Arc::clone(&bench.controller.world));
    let bench = bench.restart(|_| ()).await;
    assert_eq!(bench.dump(), objects);
    assert_eq!(bench.controller.world, world);
}

#[tokio::test]
async fn a_restart_makes_what_is_missing_and_sweeps_what_is_nobodys() {
    let mut bench = Bench::new().await;
    bench.sandbox("a", &[], &["8080:80"]).await.expect("sandbox");
    let objects = bench.dump();
    let mut other = Bench::new().await;
    other.sandbox("b", &[], &[]).await.expect("sandbox");
    let strangers = other.controller.machine.objects.clone();
    let bench = bench
        .restart(|machine| {
            machine.objects.truncate(machine.objects.len() / 2);
            machine.objects.extend(
                strangers.into_iter().filter(|object| matches!(object, Object::Veth(_) | Object::Netns(_))),
            );
        })
        .await;
    assert_eq!(bench.dump(), objects);
}

/// A link changed that nobody has heard of.
fn links_changed() -> Changes {
    let change = LinkChange { name: "eth9".into(), alias: Some(String::new()), ..LinkChange::default() };
    Changes { links: [(99, change)].into(), ..Changes::default() }
}

fn settings_changed() -> Changes {
    Changes { settings: Interfaces::any(), ..Changes::default() }
}

#[tokio::test]
async fn flows_ask_again_for_their_way_after_settings_were_put_back_or_ways_changed() {
    let mut bench = Bench::new().await;
    let disturbed = vec!["ipv4/conf/netd0/forwarding = 1".to_owned()];
    let told = |bench: &Bench| bench.controller.machine.dataplane.route_changes;
    let before = told(&bench);
    for (changes, times) in [
        (links_changed(), 0),
        (settings_changed(), 1),
        (Changes { ways: true, ..Changes::default() }, 2),
        (Changes { lost: true, ..Changes::default() }, 4),
    ] {
        bench.controller.machine.disturbed.clone_from(&disturbed);
        bench.controller.host_changed(&changes).await;
        assert_eq!(told(&bench) - before, times, "{changes:?}");
    }
    bench.controller.host_changed(&settings_changed()).await;
    assert_eq!(told(&bench) - before, 4, "nothing was put back");
}

#[tokio::test]
async fn a_sandbox_whose_namespace_ends_is_forgotten_and_its_ports_are_free() {
    let mut bench = Bench::new().await;
    let before = bench.dump();
    let sandbox = bench.sandbox("a", &[], &["8080:80"]).await.expect("sandbox");
    let netns = sandbox.netns.clone().expect("namespace").path;
    bench.controller.machine.dead.insert(netns);
    bench.controller.machine.objects.retain(|object| !matches!(object, Object::Veth(_)));
    bench.controller.host_changed(&links_changed()).await;
    assert!(bench.controller.world.sandbox("a").is_err());
    let left: Vec<String> = bench.dump().into_iter().filter(|line| !before.contains(line)).collect();
    assert!(left.iter().all(|line| !line.starts_with("Netns") && !line.starts_with("Files")), "{left:?}");
}

#[tokio::test]
async fn a_reboot_keeps_networks_and_forgets_sandboxes() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    let sandbox = bench.sandbox("a", &["web"], &["8080:80"]).await.expect("sandbox");
    let netns = sandbox.netns.clone().expect("namespace").path;
    let mut bench = bench
        .restart(|machine| {
            *machine = FakeMachine { dead: [netns].into(), ..FakeMachine::default() };
        })
        .await;
    assert!(bench.controller.world.network("web").is_ok());
    assert_eq!(bench.controller.world.sandbox("a").expect_err("forgotten").code, Code::NotFound);
    bench.controller.machine.dead.clear();
    let again = bench.sandbox("a", &["web"], &["8080:80"]).await.expect("name, address and port are free");
    assert_eq!(again.endpoints[0].ipv4, sandbox.endpoints[0].ipv4);
}

#[tokio::test]
async fn down_leaves_no_object() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    bench.sandbox("a", &["web", "bridge"], &["8080:80"]).await.expect("sandbox");
    bench.controller.down().await.expect("down");
    assert_eq!(bench.dump(), Vec::<String>::new());
}

#[tokio::test]
async fn modes_refuse_what_contradicts_them() {
    let mut bench = Bench::new().await;
    bench.sandbox("a", &[], &[]).await.expect("sandbox");
    bench.sandbox("lonely", &["none"], &[]).await.expect("sandbox");
    bench.sandbox("hosted", &["host"], &["80:80"]).await.expect("published ports are discarded");
    assert_eq!(bench.bindings("hosted"), Vec::<String>::new());
    let joined = bench.sandbox("joined", &["sandbox:a"], &[]).await.expect("sandbox");
    assert_eq!(joined.endpoints, []);
    assert_eq!(joined.hostname, bench.controller.world.sandbox("a").expect("a").hostname);
    for (networks, publish, text) in [
        (
            &["none", "bridge"][..],
            &[][..],
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
        (
            &["host", "bridge"],
            &[],
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ),
        (
            &["sandbox:a"],
            &["80:80"],
            "conflicting options: port publishing and the container type network mode",
        ),
        (&["sandbox:x"], &[], "No such sandbox: x"),
        (&["x"], &[], "network x not found"),
    ] {
        let error = bench.sandbox("new", networks, publish).await.expect_err(text);
        assert_eq!(error.message, text);
    }
    for sandbox in ["lonely", "hosted", "joined"] {
        let error = bench.controller.connect(sandbox, &attachment("bridge")).await.expect_err("refused");
        assert_eq!(error.code, Code::Usage, "{error}");
    }
    let error = bench.controller.remove_sandbox("a", false).await.expect_err("shared");
    assert_eq!(error.code, Code::Conflict);
}

#[tokio::test]
async fn a_network_in_use_is_not_removed() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    bench.sandbox("a", &["web"], &[]).await.expect("sandbox");
    let error = bench.controller.remove_network("web").await.expect_err("in use");
    assert_eq!(error.code, Code::Forbidden);
    assert!(error.message.starts_with("network web has active endpoints (name:\"a\""), "{error}");
    assert_eq!(bench.controller.prune_networks(Box::new(|_| true)).await.expect("pruned"), []);
    bench.controller.disconnect("web", "a", true).await.expect("disconnected");
    let before = bench.dump();
    for sandbox in ["a", "gone"] {
        let error = bench.controller.disconnect("web", sandbox, true).await.expect_err("not connected");
        assert_eq!(error.code, Code::NotFound);
        assert_eq!(error.message, format!("sandbox {sandbox} is not connected to network web"));
    }
    assert_eq!(bench.dump(), before);
    let pruned = bench.controller.prune_networks(Box::new(|_| true)).await.expect("pruned");
    assert_eq!(pruned.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["web"]);
}

#[tokio::test]
async fn names_ids_and_prefixes_find_objects_in_this_order() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    let id = bench.controller.world.network("web").expect("by name").id.clone();
    let decoy = id.short()[..4].to_owned();
    bench.network(&decoy).await;
    let world = Arc::clone(&bench.controller.world);
    assert_eq!(world.network(&decoy).expect("by name").name.as_str(), decoy, "a name wins over a prefix");
    for word in [id.as_str(), id.short()] {
        assert_eq!(world.network(word).expect("by id").name.as_str(), "web");
    }
    for word in ["", "nosuch"] {
        assert_eq!(world.network(word).expect_err("unknown").code, Code::NotFound, "{word:?}");
    }
}

#[tokio::test]
async fn static_addresses_and_names_are_checked() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    let with = |ipv4: &str, aliases: &[&str], network: &str| Attachment {
        ipv4: ipv4.parse().ok(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        ..attachment(network)
    };
    let create = |name: &str, wanted: Attachment| CreateSandbox {
        name: Some(name.to_owned()),
        networks: vec![wanted],
        ..CreateSandbox::default()
    };
    bench.controller.create_sandbox(&create("a", with("172.18.0.9", &["x"], "web"))).await.expect("free");
    for (wanted, code) in [
        (with("172.18.0.9", &[], "web"), Code::Conflict),
        (with("10.0.0.1", &[], "web"), Code::Usage),
        (with("172.17.0.9", &[], "bridge"), Code::Usage),
        (with("", &["x"], "bridge"), Code::Usage),
    ] {
        let error = bench.controller.create_sandbox(&create("b", wanted)).await.expect_err("refused");
        assert_eq!(error.code, code, "{error}");
    }
    let error = bench.sandbox("a", &[], &[]).await.expect_err("taken");
    assert_eq!(error.code, Code::Conflict);
    let error = bench.sandbox("../x", &[], &[]).await.expect_err("invalid");
    assert_eq!(error.code, Code::Usage);
}
