//! Unit rung: published ports, and the endpoint that serves them.

use super::*;

#[tokio::test]
async fn a_published_port_is_on_every_address_of_both_families() {
    let mut bench = Bench::new().await;
    bench.sandbox("a", &[], &["8080:80", "127.0.0.1:53:53/udp"]).await.expect("sandbox");
    assert_eq!(bench.bindings("a"), ["0.0.0.0:8080->80/tcp", ":::8080->80/tcp", "127.0.0.1:53->53/udp"]);
    let sandbox = bench.controller.world.sandbox("a").expect("sandbox");
    let address = sandbox.endpoints[0].ipv4.expect("IPv4").addr();
    for (_, port) in bench.controller.machine.published.values() {
        assert_eq!(port.backend, IpAddr::V4(address), "[::] leads to the only address there is");
    }
}

#[tokio::test]
async fn ports_conflict_as_docker_says() {
    let mut bench = Bench::new().await;
    bench.sandbox("a", &[], &["8080:80", "127.0.0.1:9000:90", "10.0.0.1:9001:91"]).await.expect("sandbox");
    for (spec, text) in [
        ("8080:80", "Bind for 0.0.0.0:8080 failed: port is already allocated"),
        ("127.0.0.1:8080:80", "Bind for 127.0.0.1:8080 failed: port is already allocated"),
        ("[::1]:8080:80", "Bind for [::1]:8080 failed: port is already allocated"),
        ("9000:90", "Bind for 0.0.0.0:9000 failed: port is already allocated"),
    ] {
        let before = bench.dump();
        let error = bench.sandbox("b", &[], &[spec]).await.expect_err(spec);
        assert_eq!((error.code, error.message.as_str()), (Code::Conflict, text), "{spec}");
        assert_eq!(bench.dump(), before, "{spec}");
    }
    bench
        .sandbox("b", &[], &["8080:80/udp", "127.0.0.2:9000:90", "[::1]:9001:91"])
        .await
        .expect("no conflict");
}

#[tokio::test]
async fn a_port_of_a_host_process_is_refused_and_nothing_stays() {
    let mut bench = Bench::new().await;
    bench.controller.machine.busy.insert(busy("::", 8080));
    let before = bench.dump();
    let error = bench.sandbox("a", &[], &["8080:80"]).await.expect_err("busy");
    assert_eq!(error.code, Code::Conflict);
    assert_eq!(bench.dump(), before);
    assert!(bench.controller.world.sandbox("a").is_err());
}

#[tokio::test]
async fn ephemeral_ports_go_up_skip_what_is_taken_and_wrap() {
    let mut bench = Bench::new().await;
    bench.controller.machine.busy.insert(busy("0.0.0.0", 32_770));
    bench.sandbox("a", &[], &["80", "81"]).await.expect("sandbox");
    // 32769 is reserved, 32770 is a process's.
    assert_eq!(
        bench.bindings("a"),
        ["0.0.0.0:32768->80/tcp", ":::32768->80/tcp", "0.0.0.0:32771->81/tcp", ":::32771->81/tcp"]
    );
    bench.controller.remove_sandbox("a", false).await.expect("removed");
    bench.sandbox("b", &[], &["80", "81", "82", "83", "84"]).await.expect("sandbox");
    let ports: Vec<u16> =
        bench.controller.world.sandbox("b").expect("b").bindings.iter().map(|b| b.host_port).collect();
    assert_eq!(ports, [32_772, 32_772, 32_773, 32_773, 32_774, 32_774, 32_775, 32_775, 32_768, 32_768]);
}

#[tokio::test]
async fn requests_that_differ_only_in_the_host_address_get_one_port() {
    let mut bench = Bench::new().await;
    bench.controller.machine.busy.insert(busy("127.0.0.2", 32_768));
    bench.sandbox("a", &[], &["127.0.0.1::80", "127.0.0.2::80"]).await.expect("sandbox");
    // 32768 is taken on one of the addresses, 32769 is reserved.
    assert_eq!(bench.bindings("a"), ["127.0.0.1:32770->80/tcp", "127.0.0.2:32770->80/tcp"]);
}

#[tokio::test]
async fn a_range_for_one_port_gives_its_first_free_one() {
    let mut bench = Bench::new().await;
    bench.controller.machine.busy.insert(busy("0.0.0.0", 8000));
    bench.sandbox("a", &[], &["8000-8002:80"]).await.expect("sandbox");
    bench.sandbox("b", &[], &["8000-8002:80"]).await.expect("sandbox");
    assert_eq!(bench.bindings("a")[0], "0.0.0.0:8001->80/tcp");
    assert_eq!(bench.bindings("b")[0], "0.0.0.0:8002->80/tcp");
    let error = bench.sandbox("c", &[], &["8000-8002:80"]).await.expect_err("full");
    assert_eq!(error.code, Code::Conflict);
}

#[tokio::test]
async fn published_ports_follow_the_gateway() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    bench.network_with(CreateNetwork { name: "in".into(), internal: true, ..CreateNetwork::default() }).await;
    bench.sandbox("a", &["in"], &["8080:80"]).await.expect("sandbox");
    assert_eq!(bench.bindings("a"), Vec::<String>::new(), "an internal network publishes nothing");
    bench.controller.connect("a", &attachment("web")).await.expect("connected");
    assert_eq!(bench.serves("a"), ["eth1", "eth1"]);
    bench
        .controller
        .connect("a", &Attachment { gw_priority: 1, ..attachment("bridge") })
        .await
        .expect("connected");
    assert_eq!(bench.serves("a"), ["eth2", "eth2"]);
    bench.controller.disconnect("bridge", "a", false).await.expect("disconnected");
    assert_eq!(bench.serves("a"), ["eth1", "eth1"]);
    bench.controller.disconnect("web", "a", false).await.expect("disconnected");
    assert_eq!(bench.bindings("a"), Vec::<String>::new());
    bench.controller.connect("a", &attachment("bridge")).await.expect("connected");
    assert_eq!(bench.serves("a"), ["eth1", "eth1"], "the lowest free name, and the ports are back");
}

#[tokio::test]
async fn each_family_has_its_own_gateway() {
    let mut bench = Bench::new().await;
    bench
        .network_with(CreateNetwork {
            name: "six".into(),
            ipv4: Some(false),
            ipv6: Some(true),
            ..CreateNetwork::default()
        })
        .await;
    bench.sandbox("a", &["six", "bridge"], &["8080:80"]).await.expect("sandbox");
    assert_eq!(bench.bindings("a"), ["0.0.0.0:8080->80/tcp", ":::8080->80/tcp"]);
    assert_eq!(bench.serves("a"), ["eth1", "eth0"]);
    bench.sandbox("b", &["six"], &["9090:80"]).await.expect("sandbox");
    assert_eq!(bench.bindings("b"), [":::9090->80/tcp"], "no IPv4 address leads to an IPv6-only sandbox");
    let error = bench.sandbox("c", &["six"], &["127.0.0.1:9091:80"]).await.expect_err("no IPv4");
    assert_eq!(
        error.message,
        "cannot publish on 127.0.0.1: sandbox c has no IPv4 address that leads outside"
    );
}

#[tokio::test]
async fn unpublish_takes_what_is_meant_and_a_reconnect_does_not_bring_it_back() {
    let mut bench = Bench::new().await;
    bench.sandbox("a", &[], &["8000-8003:8000-8003"]).await.expect("sandbox");
    let gone = bench.controller.unpublish("a", &specs(&["8001:8001"]), true).await.expect("unpublished");
    assert_eq!(gone.len(), 2);
    let error = bench.controller.unpublish("a", &specs(&["8001:8001"]), false).await.expect_err("gone");
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::NotFound, "No public port '8001:8001/tcp' published for a")
    );
    for (spec, shown) in
        [("80", "80/tcp"), ("9999:8002", "9999:8002/tcp"), ("[::1]:8002:8002", "[::1]:8002:8002/tcp")]
    {
        let error = bench.controller.unpublish("a", &specs(&[spec]), false).await.expect_err(spec);
        assert_eq!(error.message, format!("No public port '{shown}' published for a"));
    }
    bench.controller.disconnect("bridge", "a", false).await.expect("disconnected");
    bench.controller.connect("a", &attachment("bridge")).await.expect("connected");
    let mut ports: Vec<u16> =
        bench.controller.world.sandbox("a").expect("a").bindings.iter().map(|b| b.host_port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [8000, 8000, 8002, 8002, 8003, 8003]);
    assert!(!bench.controller.machine.dataplane.killed.is_empty(), "--kill ends flows");
}
