//! Default routes by source address of sandboxes on several networks.

use super::*;
use crate::model::Netns;

/// The addresses with such a route, and the interface and gateway of each.
fn routes(bench: &Bench) -> Vec<String> {
    let all = bench.controller.machine.objects.iter().filter_map(|object| match object {
        Object::SourceRoutes(routes) => Some(&routes.routes),
        _ => None,
    });
    all.flatten().map(|route| format!("{} {} {}", route.source, route.ifname, route.gateway)).collect()
}

fn net(name: &str, number: u8, internal: bool) -> CreateNetwork {
    let pool = |subnet: String| crate::controller::PoolRequest {
        subnet: Some(subnet.parse().expect("a subnet")),
        ..crate::controller::PoolRequest::default()
    };
    CreateNetwork {
        name: name.into(),
        internal,
        ipv6: Some(true),
        pools: vec![pool(format!("172.30.{number}.0/24")), pool(format!("fd00:{number}::/64"))],
        ..CreateNetwork::default()
    }
}

async fn bench() -> Bench {
    let mut bench = Bench::new().await;
    for (name, number, internal) in [("a", 1, false), ("b", 2, false), ("in", 3, true)] {
        bench.network_with(net(name, number, internal)).await;
    }
    bench
}

const BOTH: [&str; 4] = [
    "172.30.1.2 eth0 172.30.1.1",
    "172.30.2.2 eth1 172.30.2.1",
    "fd00:1::2 eth0 fd00:1::1",
    "fd00:2::2 eth1 fd00:2::1",
];

#[tokio::test]
async fn each_address_of_a_sandbox_on_two_networks_leaves_by_its_own() {
    let mut bench = bench().await;
    bench.sandbox("s", &["a"], &[]).await.expect("sandbox");
    bench.controller.connect("s", &attachment("in")).await.expect("connected");
    assert_eq!(routes(&bench), Vec::<String>::new(), "an internal network leads nowhere");
    bench.controller.disconnect("in", "s", false).await.expect("disconnected");
    let before = bench.dump();
    bench.controller.connect("s", &attachment("b")).await.expect("connected");
    assert_eq!(routes(&bench), BOTH);
    bench.controller.connect("s", &attachment("in")).await.expect("connected");
    assert_eq!(routes(&bench), BOTH);
    bench.controller.disconnect("in", "s", false).await.expect("disconnected");
    bench.controller.disconnect("b", "s", false).await.expect("disconnected");
    assert_eq!(bench.dump(), before);
    let other = Attachment { ipv4: "172.30.2.9".parse().ok(), ..attachment("b") };
    bench.controller.connect("s", &other).await.expect("connected");
    assert_eq!(routes(&bench)[1], "172.30.2.9 eth1 172.30.2.1");
    bench.controller.disconnect("a", "s", false).await.expect("disconnected");
    assert_eq!(routes(&bench), Vec::<String>::new(), "one network is left");
}

#[tokio::test]
async fn each_family_counts_its_own_networks() {
    let mut bench = bench().await;
    bench.sandbox("s", &["a", "bridge"], &[]).await.expect("sandbox");
    let families: Vec<bool> = routes(&bench).iter().map(|route| route.contains("fd00:")).collect();
    assert_eq!(families, [false, false], "the default network has no IPv6");
}

#[tokio::test]
async fn a_restart_finds_makes_and_removes_source_routes() {
    let mut bench = bench().await;
    bench.sandbox("s", &["a", "b"], &[]).await.expect("sandbox");
    bench.sandbox("t", &["a"], &[]).await.expect("sandbox");
    let before = bench.dump();
    let bench = bench.restart(|_| {}).await;
    assert_eq!(bench.dump(), before);
    let is_theirs = |object: &Object| matches!(object, Object::SourceRoutes(_));
    let bench = bench.restart(|machine| machine.objects.retain(|object| !is_theirs(object))).await;
    assert_eq!(bench.dump(), before, "what is missing is made");
    let plant = |machine: &mut FakeMachine| {
        let mut left = machine.objects.iter().find(|object| is_theirs(object)).expect("routes").clone();
        if let Object::SourceRoutes(routes) = &mut left {
            routes.netns = Netns { path: "/run/netd/netns/t".into(), ..routes.netns.clone() };
        }
        machine.objects.push(left);
    };
    let bench = bench.restart(plant).await;
    assert_eq!(bench.dump(), before, "what is left over is removed");
}
