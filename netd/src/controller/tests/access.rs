//! Ports on sandboxes' own addresses: routed networks, trusted interfaces, links.

use super::*;

const MODE4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";

async fn network_with_options(bench: &mut Bench, name: &str, options: &[(&str, &str)]) {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let request = CreateNetwork { name: name.into(), ipv6: Some(true), options, ..CreateNetwork::default() };
    bench.network_with(request).await;
}

/// Returns the open ports of every endpoint as `PORT/PROTO`, by family.
fn open(bench: &Bench) -> Vec<String> {
    let ports = bench.controller.machine.objects.iter().filter_map(|object| match object {
        Object::Open(open) => Some(open.ports.iter().cloned()),
        _ => None,
    });
    let family = |ip: IpAddr| if ip.is_ipv4() { 4 } else { 6 };
    ports.flatten().map(|open| format!("{}/{} v{}", open.port, open.protocol, family(open.ip))).collect()
}

#[tokio::test]
async fn a_routed_network_opens_ports_and_takes_none_of_the_host() {
    let mut bench = Bench::new().await;
    network_with_options(&mut bench, "routed", &[(MODE4, "routed"), (MODE6, "routed")]).await;
    bench.controller.machine.busy.insert(busy("0.0.0.0", 8080));
    for name in ["a", "b"] {
        // The same port, taken by a process of the host as well: nobody is in anybody's way.
        bench.sandbox(name, &["routed"], &["8080:80", "10.0.0.2:53:53/udp"]).await.expect("sandbox");
        assert_eq!(bench.bindings(name), ["0.0.0.0:0->80/tcp", ":::0->80/tcp", "0.0.0.0:0->53/udp"]);
    }
    assert!(bench.controller.machine.guarded.is_empty() && bench.controller.machine.published.is_empty());
    assert_eq!(open(&bench), ["53/udp v4", "80/tcp v4", "80/tcp v6", "53/udp v4", "80/tcp v4", "80/tcp v6"]);
    bench.controller.unpublish("a", &specs(&["8080:80"]), false).await.expect("unpublished");
    assert_eq!(bench.bindings("a"), ["0.0.0.0:0->53/udp"]);
    bench.controller.disconnect("routed", "a", false).await.expect("disconnected");
    bench.controller.connect("a", &attachment("routed")).await.expect("connected");
    assert_eq!(bench.bindings("a"), ["0.0.0.0:0->53/udp"], "a reconnect brings back what was left");
}

#[tokio::test]
async fn one_family_may_be_routed_and_the_other_translated() {
    let mut bench = Bench::new().await;
    network_with_options(&mut bench, "mixed", &[(MODE6, "routed")]).await;
    bench.sandbox("a", &["mixed"], &["8080:80"]).await.expect("sandbox");
    assert_eq!(bench.bindings("a"), [":::0->80/tcp", "0.0.0.0:8080->80/tcp"]);
    assert_eq!(open(&bench), ["80/tcp v6"]);
}

#[tokio::test]
async fn a_routed_endpoint_opens_its_ports_where_another_one_is_the_gateway() {
    let mut bench = Bench::new().await;
    network_with_options(&mut bench, "routed", &[(MODE4, "routed"), (MODE6, "routed")]).await;
    let first = Attachment { gw_priority: 1, ..attachment("bridge") };
    let networks = vec![first, attachment("routed")];
    let wanted = CreateSandbox { networks, ..request("a", &[], &["8080:80"]) };
    bench.controller.create_sandbox(&wanted).await.expect("sandbox");
    assert_eq!(bench.bindings("a"), ["0.0.0.0:0->80/tcp", ":::0->80/tcp", "0.0.0.0:8080->80/tcp"]);
    assert_eq!(open(&bench), ["80/tcp v4", "80/tcp v6"]);
}

#[tokio::test]
async fn a_network_that_trusts_interfaces_opens_what_it_publishes() {
    let mut bench = Bench::new().await;
    let trusted = [("com.docker.network.bridge.trusted_host_interfaces", "eth0:wg*")];
    network_with_options(&mut bench, "trusting", &trusted).await;
    bench.sandbox("a", &["trusting"], &["8080:80", "9090:80"]).await.expect("sandbox");
    assert_eq!(open(&bench), ["80/tcp v4", "80/tcp v6"], "two host ports lead to one");
    bench.controller.unpublish("a", &specs(&["8080:80"]), false).await.expect("unpublished");
    assert_eq!(open(&bench).len(), 2, "the other one still does");
    bench.controller.unpublish("a", &specs(&["9090:80"]), false).await.expect("unpublished");
    assert!(open(&bench).is_empty());
}

#[tokio::test]
async fn operations_on_open_ports_and_links_fail_clean() {
    let mut bench = Bench::new().await;
    network_with_options(&mut bench, "routed", &[(MODE4, "routed"), (MODE6, "routed")]).await;
    fails_clean(&mut bench, async |controller| {
        controller.create_sandbox(&request("a", &["routed"], &["80-90"])).await.map(drop)
    })
    .await;
    fails_clean(&mut bench, async |controller| controller.publish("a", &specs(&["91"])).await.map(drop))
        .await;
    fails_clean(&mut bench, async |controller| {
        controller.unpublish("a", &specs(&["85"]), false).await.map(drop)
    })
    .await;
    let restarted = bench.dump();
    let mut bench = bench.restart(|_| {}).await;
    assert_eq!(bench.dump(), restarted);
    fails_clean(&mut bench, async |controller| controller.remove_sandbox("a", false).await.map(drop)).await;
}

#[tokio::test]
async fn a_link_opens_the_targets_exposed_ports_on_a_default_network_without_icc() {
    let links = async |icc: &str| {
        let dir = tempfile::tempdir().expect("directory");
        let store = Store::open(&dir.path().join("state"), &dir.path().join("copies")).expect("store");
        let mut settings = settings();
        let key = "com.docker.network.bridge.enable_icc".to_owned();
        settings.default_bridge.options.insert(key, icc.into());
        let (mut controller, handle, _) =
            Controller::new(FakeMachine::default(), store, settings, Renderer::default());
        controller.reconcile().await.expect("reconciled");
        let mut bench = Bench { controller, handle, dir };
        let target = CreateSandbox { exposed: vec![(81, Protocol::Udp)], ..request("d2", &[], &["8080:80"]) };
        bench.controller.create_sandbox(&target).await.expect("target");
        let linked = CreateSandbox { links: vec![("d2".into(), "db".into())], ..request("d1", &[], &[]) };
        bench.controller.create_sandbox(&linked).await.expect("linked");
        let of = |bench: &Bench| -> Vec<(u16, Protocol)> {
            let objects = bench.controller.machine.objects.iter();
            let links = objects.filter_map(|o| if let Object::Links(links) = o { Some(links) } else { None });
            links.flat_map(|links| links.ports.iter().filter_map(|link| link.port)).collect()
        };
        let before = of(&bench);
        bench.controller.remove_sandbox("d2", false).await.expect("removed");
        assert_eq!(of(&bench), [], "a link ends with its target");
        before
    };
    assert_eq!(links("false").await, [(80, Protocol::Tcp), (81, Protocol::Udp)]);
    assert_eq!(links("true").await, [], "they may talk anyway");
}
