//! What the host answers for outside follows the world and the host.

use super::*;
use crate::{controller::PROXY_NDP, controller::PoolRequest, dataplane::UplinkEntry};

const UPLINK: u32 = 7;

fn machine() -> FakeMachine {
    let settings = [
        (PROXY_NDP, "0"),
        ("ipv4/conf/eth0/forwarding", "1"),
        ("ipv6/conf/eth0/forwarding", "1"),
        ("ipv4/conf/eth1/forwarding", "0"),
    ];
    let net = |text: &str| text.parse().expect("a prefix");
    let uplink = |ifindex, name: &str| UplinkEntry {
        ifindex,
        ifname: name.parse().expect("a name"),
        ipv4: None,
        ipv6: None,
        mtu: 1500,
        bare: false,
    };
    FakeMachine {
        settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        on_link: [(UPLINK, net("192.0.2.0/24")), (UPLINK, net("2001:db8::/64")), (8, net("198.51.100.0/24"))]
            .into(),
        uplinks: vec![uplink(UPLINK, "eth0"), uplink(8, "eth1")],
        ..FakeMachine::default()
    }
}

fn network(name: &str, modes: [&str; 2], subnets: &[&str]) -> CreateNetwork {
    let key = |family: &str| format!("com.docker.network.bridge.gateway_mode_{family}");
    let options = [(key("ipv4"), modes[0]), (key("ipv6"), modes[1]), ("netd.neighbour_proxy".into(), "true")];
    let pools =
        subnets.iter().map(|subnet| PoolRequest { subnet: subnet.parse().ok(), ..PoolRequest::default() });
    CreateNetwork {
        name: name.into(),
        options: options.map(|(key, value)| (key, value.to_owned())).into(),
        pools: pools.collect(),
        ..CreateNetwork::default()
    }
}

fn answered(bench: &Bench) -> Vec<String> {
    bench.controller.machine.proxies.iter().map(|(ifindex, ip)| format!("{ifindex} {ip}")).collect()
}

#[tokio::test]
async fn the_host_answers_for_what_is_addressed_directly_and_lies_in_an_uplinks_network() {
    let dir = tempfile::tempdir().expect("directory");
    let mut bench = Bench::on(machine(), dir).await;
    bench.network_with(network("both", ["routed"; 2], &["192.0.2.128/26", "2001:db8::c:0:0/96"])).await;
    bench
        .network_with(network("six", ["nat", "nat-unprotected"], &["10.0.0.0/24", "2001:db8::d:0:0/96"]))
        .await;
    bench.sandbox("a", &["both"], &[]).await.expect("sandbox");
    assert_eq!(answered(&bench), ["7 192.0.2.130", "7 2001:db8::c:0:2"]);
    bench.sandbox("b", &["six"], &[]).await.expect("sandbox");
    assert_eq!(answered(&bench), ["7 192.0.2.130", "7 2001:db8::c:0:2", "7 2001:db8::d:0:2"]);
    assert_eq!(bench.controller.machine.settings[PROXY_NDP], "1");

    // Others took all of it away while no daemon ran; another uplink has the network now.
    let bench = bench
        .restart(|machine| {
            machine.proxies.clear();
            machine.settings.insert(PROXY_NDP.to_owned(), "0".to_owned());
            machine.on_link = machine.on_link.iter().map(|(_, net)| (8, *net)).collect();
        })
        .await;
    assert_eq!(answered(&bench), ["8 192.0.2.130", "8 2001:db8::c:0:2", "8 2001:db8::d:0:2"]);
    assert_eq!(bench.controller.machine.settings[PROXY_NDP], "1");

    // Of a host that nobody can look at nothing seems to be left over.
    let mut bench = bench.restart(|machine| machine.blind = true).await;
    bench.controller.look_around().await;
    bench.sandbox("c", &["bridge"], &[]).await.expect("sandbox");
    assert_eq!(answered(&bench).len(), 3);
    let mut bench = bench.restart(|machine| machine.blind = false).await;

    for sandbox in ["a", "b"] {
        bench.controller.remove_sandbox(sandbox, false).await.expect("removed");
    }
    assert!(answered(&bench).is_empty());
    assert_eq!(bench.controller.machine.settings[PROXY_NDP], "0", "as it was");
}

#[tokio::test]
async fn a_network_that_could_not_be_answered_for_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let mut bench = Bench::on(machine(), dir).await;
    let before = bench.dump();
    for (modes, subnet, why) in [
        (["nat"; 2], "192.0.2.128/26", "needs the gateway mode routed or nat-unprotected"),
        (["routed"; 2], "203.0.113.0/24", "no uplink's own network contains 203.0.113.0/24"),
        (["routed"; 2], "198.51.100.128/26", "eth1 does not forward"),
    ] {
        let request = network("none-such", modes, &[subnet]);
        let error = bench.controller.create_network(&request).await.expect_err(why);
        assert!(error.message.contains(why), "{error}");
    }
    assert_eq!(bench.dump(), before);
}
