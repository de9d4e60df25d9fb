//! Rung: namespaces. The controller on real links, namespaces and sockets; only the packet path is in memory.

mod bench;

use std::{net::TcpListener, process::Command};

use bench::{Bench, in_new_netns, request};
use netd::{
    controller::{Attachment, Code, CreateNetwork, CreateSandbox, NetnsRequest},
    netns::Netns,
};

/// Returns what a command prints in the calling thread's namespace.
fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .output()
        .expect("the command is installed");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Everything that an operation could leave behind in the host's namespace; not whether there is a carrier, which the kernel
/// notices in its own time.
fn host() -> String {
    let reserved = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").expect("readable");
    let lists = ["ip -o link", "ip -o address", "ip route", "ip -6 route", "ip neighbour", "bridge fdb"];
    let mut text = lists.map(output).join("\n") + &reserved;
    for carrier in ["NO-CARRIER,", ",LOWER_UP", " state UP", " state DOWN", " linkdown"] {
        text = text.replace(carrier, "");
    }
    text
}

#[test]
fn a_sandbox_is_complete_when_the_answer_comes_and_gone_after_its_removal() {
    in_new_netns(async || {
        let bench = Bench::start().await;
        let before = host();
        let web = CreateNetwork { name: "web".into(), ipv6: Some(true), ..CreateNetwork::default() };
        let web = bench.handle.create_network(web).await.expect("network");
        let sandbox = bench.handle.create_sandbox(request("a", &["web", "bridge"], &["8080:80"])).await;
        let sandbox = sandbox.expect("sandbox");
        let netns = sandbox.netns.clone().expect("namespace").path;
        let inside = Netns::open_path(&netns).expect("namespace");
        let (links, routes) = inside
            .run_in(|| (output("ip -o address"), output("ip route") + &output("ip -6 route")))
            .await
            .expect("inside");
        for endpoint in &sandbox.endpoints {
            let address = endpoint.ipv4.expect("IPv4").to_string();
            let line = links.lines().find(|line| line.contains(&address)).expect("its address");
            assert!(line.contains(endpoint.ifname.as_str()), "{line}");
        }
        assert!(links.contains(&sandbox.endpoints[0].ipv6.expect("IPv6").to_string()), "{links}");
        // `web` has gateways of both families, so it comes before `bridge` (Docker semantics H1).
        let gateway = web.pool_for(false).and_then(|pool| pool.gateway).expect("gateway");
        assert!(routes.contains(&format!("default via {gateway} dev eth0")), "{routes}");
        assert!(routes.contains("default via fd"), "{routes}");
        let hosts = std::fs::read_to_string(bench.run_dir().join(format!("sandboxes/{}/hosts", sandbox.id)));
        assert!(hosts.expect("hosts").contains(&sandbox.endpoints[1].ipv4.expect("IPv4").addr().to_string()));

        bench.handle.remove_sandbox("a", false).await.expect("removed");
        bench.handle.remove_network("web").await.expect("removed");
        assert_eq!(host(), before);
        assert!(!netns.exists());
        bench.down().await;
    });
}

#[test]
fn down_leaves_the_namespace_as_it_was() {
    in_new_netns(async || {
        let before = host();
        let bench = Bench::start().await;
        bench
            .handle
            .create_sandbox(request("a", &[], &["80", "8000-8010:8000-8010/udp"]))
            .await
            .expect("sandbox");
        bench.down().await;
        assert_eq!(host(), before);
    });
}

#[test]
fn a_new_daemon_takes_over_the_very_links_of_the_old_one() {
    in_new_netns(async || {
        let bench = Bench::start().await;
        bench.handle.create_sandbox(request("a", &[], &["8080:80"])).await.expect("sandbox");
        let (links, view) = (output("ip -o link"), bench.handle.view());
        let bench = bench.restart().await;
        assert_eq!(output("ip -o link"), links, "indexes and labels");
        assert_eq!(bench.handle.view(), view);
        bench.down().await;
    });
}

#[test]
fn a_new_daemon_makes_what_was_deleted_and_sweeps_what_is_nobodys() {
    in_new_netns(async || {
        let bench = Bench::start().await;
        let sandbox = bench.handle.create_sandbox(request("a", &[], &[])).await.expect("sandbox");
        let stored = bench.save_state();
        bench.handle.create_sandbox(request("orphan", &[], &[])).await.expect("sandbox");
        let orphan = bench.handle.sandbox("orphan").expect("sandbox").endpoints[0].host_ifname.clone();
        let netns = sandbox.netns.clone().expect("namespace").path;
        let veth = sandbox.endpoints[0].host_ifname.clone();
        output(&format!("ip link delete {veth}"));
        let bench = bench.restart_from(stored).await;
        assert!(output("ip -o link").contains(veth.as_str()));
        assert!(!output("ip -o link").contains(orphan.as_str()));
        let inside = Netns::open_path(&netns).expect("namespace");
        let address = inside.run_in(|| output("ip -o -4 address show eth0")).await.expect("inside");
        assert!(address.contains(&sandbox.endpoints[0].ipv4.expect("IPv4").to_string()), "{address}");
        bench.down().await;
    });
}

#[test]
fn a_port_that_a_process_of_the_host_holds_is_refused_and_nothing_stays() {
    in_new_netns(async || {
        output("ip link set lo up");
        let bench = Bench::start().await;
        let before = host();
        for (address, text) in [
            ("0.0.0.0:8080", "failed to bind host port 0.0.0.0:8080/tcp: address already in use"),
            ("127.0.0.1:8080", "failed to bind host port 0.0.0.0:8080/tcp: address already in use"),
            ("[::1]:8080", "failed to bind host port [::]:8080/tcp: address already in use"),
        ] {
            let _held = TcpListener::bind(address).expect("free");
            let error =
                bench.handle.create_sandbox(request("a", &[], &["8080:80"])).await.expect_err(address);
            assert_eq!((error.code, error.message.as_str()), (Code::Conflict, text));
            assert_eq!(host(), before, "{address}");
        }
        let foreign = bench.handle.create_sandbox(request("a", &[], &["203.0.113.9:8080:80"])).await;
        let error = foreign.expect_err("not an address of the host");
        assert!(error.message.ends_with("203.0.113.9:8080/tcp: cannot assign requested address"), "{error}");
        assert_eq!(host(), before);
        bench.handle.create_sandbox(request("a", &[], &["8080:80"])).await.expect("free again");
        bench.down().await;
    });
}

#[test]
fn an_existing_namespace_is_used_and_left_in_place() {
    in_new_netns(async || {
        let bench = Bench::start().await;
        let foreign = Bench::foreign_namespace();
        let create = |name: &str, path: &std::path::Path| CreateSandbox {
            netns: NetnsRequest::Path(path.to_owned()),
            ..request(name, &[], &[])
        };
        let sandbox = bench.handle.create_sandbox(create("a", foreign.path())).await.expect("sandbox");
        assert_eq!(sandbox.endpoints[0].ifname.as_str(), "eth1", "eth0 is there already");
        let error = bench.handle.create_sandbox(create("b", foreign.path())).await.expect_err("in use");
        assert_eq!(error.code, Code::Conflict, "{error}");
        for (path, code) in [
            ("/nonexistent", Code::NotFound),
            ("/etc/hosts", Code::Usage),
            ("/proc/thread-self/ns/net", Code::Usage),
        ] {
            let error = bench.handle.create_sandbox(create("b", path.as_ref())).await.expect_err(path);
            assert_eq!(error.code, code, "{error}");
        }
        bench.handle.remove_sandbox("a", false).await.expect("removed");
        let inside = foreign.run_in(|| output("ip -o link")).await.expect("inside");
        assert!(inside.contains("eth0") && !inside.contains("eth1"), "{inside}");
        bench.down().await;
    });
}

#[test]
fn links_of_somebody_else_stay_and_are_named() {
    in_new_netns(async || {
        let bench = Bench::start().await;
        output("ip link add br-mine type veth peer name mine1");
        let before = host();
        let options = [("com.docker.network.bridge.name".to_owned(), "br-mine".to_owned())].into();
        let request = CreateNetwork { name: "mine".into(), options, ..CreateNetwork::default() };
        let error = bench.handle.create_network(request).await.expect_err("foreign");
        assert!(error.message.contains("br-mine"), "{error}");
        assert_eq!(host(), before);
        bench.down().await;
        assert!(output("ip -o link").contains("br-mine"));
    });
}

#[test]
fn a_connected_network_comes_and_goes_while_the_sandbox_lives() {
    in_new_netns(async || {
        let bench = Bench::start().await;
        let web = CreateNetwork { name: "web".into(), ..CreateNetwork::default() };
        bench.handle.create_network(web).await.expect("network");
        let sandbox = bench.handle.create_sandbox(request("a", &[], &[])).await.expect("sandbox");
        let inside = Netns::open_path(&sandbox.netns.clone().expect("namespace").path).expect("namespace");
        let routes = async || inside.run_in(|| output("ip route show default")).await.expect("inside");
        let first = routes().await;
        let wanted = Attachment { network: "web".into(), gw_priority: 1, ..Attachment::default() };
        bench.handle.connect("a", wanted).await.expect("connected");
        assert!(routes().await.contains("dev eth1"), "the higher priority provides the default route");
        bench.handle.disconnect("web", "a", false).await.expect("disconnected");
        assert_eq!(routes().await, first);
        bench.down().await;
    });
}
