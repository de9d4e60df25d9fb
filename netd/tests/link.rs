//! Rung: namespaces. Links, addresses and routes as the kernel shows them after each call.

use std::{net::IpAddr, path::Path, process::Command};

use ipnet::IpNet;
use netd::{
    link::{BridgeSpec, Error, InsideSpec, Links, MAX_IFINDEX, PortFlags, VethSpec, label, uplinks},
    model::{IfName, Mac},
    netns::Netns,
    sysctl,
};
use nix::sched::{CloneFlags, unshare};

/// Runs a test on a thread with a namespace of its own, which ends with the thread.
fn in_new_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the calling thread's namespace.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn name(text: &str) -> IfName {
    text.parse().expect("valid")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("valid")
}

/// Makes an anonymous namespace that lives as long as the value.
fn sandbox() -> Netns {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root");
        Netns::current().expect("namespace")
    };
    std::thread::spawn(make).join().expect("namespace")
}

fn bridge() -> BridgeSpec {
    BridgeSpec {
        ifname: name("br-test"),
        label: label("test", "network", "0123"),
        mac: Mac([2, 0x42, 0, 0, 0, 1]),
        mtu: 1400,
        addresses: vec![net("10.89.0.1/24"), net("fd00:89::1/64")],
        forwarding: true,
        ipv6: true,
    }
}

fn veth(netns: &Netns) -> VethSpec {
    VethSpec {
        host_ifname: name("veth0000001"),
        label: label("test", "endpoint", "0123"),
        host_mac: Mac([2, 0x42, 0, 0, 1, 1]),
        peer_ifname: name("eth0"),
        peer_mac: Mac([2, 0x42, 10, 89, 0, 2]),
        peer_netns: netns.clone(),
        mtu: 1400,
    }
}

fn inside() -> InsideSpec {
    InsideSpec {
        ifname: name("eth0"),
        addresses: vec![net("10.89.0.2/24"), net("fd00:89::2/64")],
        mtu: 1400,
        gateway4: Some("10.89.0.1".parse().expect("valid")),
        gateway6: Some("fd00:89::1".parse().expect("valid")),
    }
}

#[test]
fn a_bridge_is_made_as_described_and_again_is_success() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let spec = bridge();
        let ifindex = links.ensure_bridge(&spec).await.expect("created");
        let shown = ip("-d link show br-test");
        for part in [
            "mtu 1400",
            "02:42:00:00:00:01",
            "forward_delay 0",
            "stp_state 0",
            "mcast_snooping 0",
            "netd:test:network:0123",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let addresses = links.addresses(Some(ifindex)).await.expect("addresses");
        for wanted in &spec.addresses {
            assert!(
                addresses.iter().any(|a| a.net == *wanted && a.ours && !a.unusable),
                "{wanted} in {addresses:?}"
            );
        }
        let link = links.link(&spec.ifname).await.expect("answer").expect("present");
        assert!(link.up && link.kind.as_deref() == Some("bridge") && link.ifindex == ifindex);
        for (key, value) in [
            ("ipv4/conf/br-test/forwarding", "1"),
            ("ipv4/conf/all/forwarding", "0"),
            ("ipv6/conf/br-test/forwarding", "1"),
            ("ipv6/conf/br-test/accept_ra", "0"),
            ("ipv6/conf/br-test/disable_ipv6", "0"),
        ] {
            assert_eq!(sysctl::read(links.netns(), key).await.expect(key), value, "{key}");
        }
        assert_eq!(links.ensure_bridge(&spec).await.expect("again"), ifindex);
    });
}

#[test]
fn a_changed_bridge_is_repaired_in_place() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let spec = bridge();
        let ifindex = links.ensure_bridge(&spec).await.expect("created");
        ip("link set br-test down mtu 1500 address 02:00:00:00:00:99");
        ip("addr flush dev br-test");
        ip("addr add 192.0.2.1/24 dev br-test");
        let changed = BridgeSpec { addresses: vec![net("10.89.0.254/24")], ipv6: false, ..spec };
        assert_eq!(links.ensure_bridge(&changed).await.expect("repaired"), ifindex);
        let link = links.link(&changed.ifname).await.expect("answer").expect("present");
        assert_eq!((link.mtu, link.mac, link.up), (1400, Some(changed.mac), true));
        let mut nets: Vec<_> =
            links.addresses(Some(ifindex)).await.expect("addresses").into_iter().map(|a| a.net).collect();
        nets.sort();
        assert_eq!(
            nets,
            [net("10.89.0.254/24"), net("192.0.2.1/24")],
            "ours replaced, the administrator's kept"
        );
    });
}

#[test]
fn a_foreign_link_is_named_and_left_alone() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        for make in ["link add br-test type bridge", "link add br-test type veth peer name other"] {
            ip(make);
            let before = ip("-d link show br-test");
            let error = links.ensure_bridge(&bridge()).await.expect_err("foreign");
            assert!(matches!(&error, Error::Foreign { name, .. } if name == "br-test"), "{error:?}");
            assert_eq!(ip("-d link show br-test"), before);
            links.delete_link(&name("br-test")).await.expect("deleted");
        }
        links.delete_link(&name("br-test")).await.expect("gone is success");
    });
}

#[test]
fn an_adopted_bridge_is_given_back_as_it_was() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        ip("link add br-own type bridge");
        ip("link set br-own up");
        ip("addr add 192.0.2.1/24 dev br-own");
        let adopted = links.adopt_bridge(&name("br-own"), &[net("10.89.0.1/24")]).await.expect("adopted");
        assert_eq!(
            links.addresses(Some(adopted.ifindex)).await.expect("addresses").len(),
            3,
            "two and link-local"
        );
        links.release_bridge(&name("br-own")).await.expect("released");
        let left = ip("-4 -o addr show dev br-own");
        assert!(left.contains("192.0.2.1/24") && !left.contains("10.89.0.1"), "{left}");
        ip("link add other type veth peer name another");
        let error = links.adopt_bridge(&name("other"), &[]).await.expect_err("no bridge");
        assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
        assert!(links.adopt_bridge(&name("nothing"), &[]).await.expect_err("none").is_not_found());
    });
}

#[test]
fn an_endpoint_reaches_its_gateway_over_both_families() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let netns = sandbox();
        let bridge_index = links.ensure_bridge(&bridge()).await.expect("bridge");
        let spec = veth(&netns);
        let host = links.create_veth(&spec).await.expect("veth");
        assert!(host < MAX_IFINDEX);
        let link = links.link(&spec.host_ifname).await.expect("answer").expect("present");
        assert!(!link.up, "not before its programs are attached");
        assert_eq!(link.alias.as_deref(), Some(spec.label.as_str()));
        let flags = PortFlags { isolated: true, ..PortFlags::default() };
        links.enslave(&spec.host_ifname, bridge_index, flags).await.expect("port");
        links.add_fdb(host, spec.peer_mac).await.expect("fdb");
        for ip in ["10.89.0.2", "fd00:89::2"] {
            links
                .add_neighbour(bridge_index, ip.parse().expect("valid"), spec.peer_mac)
                .await
                .expect("neighbour");
        }
        let shown = ip("-d link show veth0000001");
        for part in [
            "learning off",
            "flood off",
            "isolated on",
            "hairpin off",
            "addrgenmode none",
            "gso_max_size 196608",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        links.set_up(&spec.host_ifname).await.expect("up");
        let within = Links::open_in(&netns).await.expect("socket inside");
        let peer = within.configure_endpoint(&inside()).await.expect("configured");
        assert_eq!(within.configure_endpoint(&inside()).await.expect("again"), peer);

        let neighbours = ip("neigh show dev br-test");
        assert!(neighbours.contains("10.89.0.2 lladdr 02:42:0a:59:00:02 PERMANENT"), "{neighbours}");
        assert!(neighbours.contains("fd00:89::2 lladdr 02:42:0a:59:00:02 PERMANENT"), "{neighbours}");
        let own = ip("-6 addr show dev veth0000001");
        assert_eq!(own, "", "a port has no addresses");
        netns
            .run_in(|| {
                for gateway in ["10.89.0.1", "fd00:89::1"] {
                    answers(gateway);
                }
            })
            .await
            .expect("pinged");

        links.remove_fdb(host, spec.peer_mac).await.expect("removed");
        links.remove_fdb(host, spec.peer_mac).await.expect("gone is success");
        let ip4: IpAddr = "10.89.0.2".parse().expect("valid");
        links.remove_neighbour(bridge_index, ip4).await.expect("removed");
        links.remove_neighbour(bridge_index, ip4).await.expect("gone is success");
        links.delete_link(&spec.host_ifname).await.expect("deleted");
        links.delete_link(&spec.host_ifname).await.expect("gone is success");
        assert!(within.link(&name("eth0")).await.expect("answer").is_none());
    });
}

/// Connects by TCP to a closed port: a refusal proves the way there and back.
fn answers(gateway: &str) {
    let address = std::net::SocketAddr::new(gateway.parse().expect("valid"), 9);
    let error = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5))
        .expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{gateway}");
}

#[test]
fn a_veth_whose_peer_is_elsewhere_is_made_anew() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let (first, second) = (sandbox(), sandbox());
        let before = links.create_veth(&veth(&first)).await.expect("veth");
        assert_eq!(links.create_veth(&veth(&first)).await.expect("again"), before, "equal: kept");
        let after = links.create_veth(&veth(&second)).await.expect("anew");
        assert_ne!(after, before);
        let count =
            async |netns| Links::open_in(netns).await.expect("socket").links().await.expect("links").len();
        assert_eq!((count(&first).await, count(&second).await), (1, 2), "lo, and eth0 in the second");
    });
}

#[test]
fn a_taken_name_inside_the_sandbox_leaves_nothing_behind() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let netns = sandbox();
        netns.run_in(|| ip("link add eth0 type bridge")).await.expect("made");
        let error = links.create_veth(&veth(&netns)).await.expect_err("taken");
        assert!(error.is_exists(), "{error:?}");
        assert_eq!(links.links().await.expect("links").len(), 1);
    });
}

#[test]
fn an_endpoint_without_ipv6_has_no_ipv6_address() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let netns = sandbox();
        links.create_veth(&veth(&netns)).await.expect("veth");
        links.set_up(&name("veth0000001")).await.expect("up");
        let within = Links::open_in(&netns).await.expect("socket inside");
        let spec =
            InsideSpec { addresses: vec![net("10.89.0.2/24")], gateway4: None, gateway6: None, ..inside() };
        let ifindex = within.configure_endpoint(&spec).await.expect("configured");
        let addresses = within.addresses(Some(ifindex)).await.expect("addresses");
        assert_eq!(addresses.iter().map(|a| a.net).collect::<Vec<_>>(), [net("10.89.0.2/24")]);
        let loopback = within.addresses(Some(1)).await.expect("addresses");
        assert_eq!(loopback.iter().map(|a| a.net).collect::<Vec<_>>(), [net("127.0.0.1/8"), net("::1/128")]);
        assert!(!within.routes().await.expect("routes").iter().any(netd::link::HostRoute::is_default));
    });
}

#[test]
fn the_default_route_moves_from_endpoint_to_endpoint() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let netns = sandbox();
        let within = Links::open_in(&netns).await.expect("socket inside");
        let first = veth(&netns);
        let second =
            VethSpec { host_ifname: name("veth0000002"), peer_ifname: name("eth1"), ..first.clone() };
        for spec in [&first, &second] {
            links.create_veth(spec).await.expect("veth");
            links.set_up(&spec.host_ifname).await.expect("up");
        }
        let eth0 = within.configure_endpoint(&inside()).await.expect("configured");
        let other = InsideSpec {
            ifname: name("eth1"),
            addresses: vec![net("10.90.0.2/24"), net("fd00:90::2/64")],
            gateway4: None,
            gateway6: None,
            ..inside()
        };
        let eth1 = within.configure_endpoint(&other).await.expect("configured");
        let defaults = async || {
            let routes = within.routes().await.expect("routes");
            let defaults = routes.into_iter().filter(|route| route.is_default() && route.unicast);
            defaults.map(|route| (route.oif, route.gateway)).collect::<Vec<_>>()
        };
        let gateway = |text: &str| Some(text.parse::<IpAddr>().expect("valid"));
        assert_eq!(
            defaults().await,
            [(Some(eth0), gateway("10.89.0.1")), (Some(eth0), gateway("fd00:89::1"))]
        );
        for text in ["10.90.0.1", "fd00:90::1"] {
            within.set_default_gateway(eth1, text.parse().expect("valid")).await.expect("moved");
        }
        assert_eq!(
            defaults().await,
            [(Some(eth1), gateway("10.90.0.1")), (Some(eth1), gateway("fd00:90::1"))]
        );
        within.remove_default_route(false).await.expect("removed");
        within.remove_default_route(false).await.expect("gone is success");
        assert_eq!(defaults().await, [(Some(eth1), gateway("fd00:90::1"))]);
    });
}

#[test]
fn uplinks_are_what_speaks_ethernet_with_an_address() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let netns = sandbox();
        for command in [
            "link set lo up",
            "link add up0 type veth peer name up1",
            "link set up0 up",
            "addr add 192.0.2.1/24 dev up0",
            "addr add 192.0.2.2/24 dev up0",
            "addr add 169.254.1.1/16 scope link dev up0",
            "addr add fd00:1::1/64 dev up0 nodad",
            "addr add 2001:db8::1/64 dev up0 nodad preferred_lft 0",
            "addr add 2001:db8::2/64 dev up0 nodad",
            "link add port0 type veth peer name port1",
            "link add br-own type bridge",
            "link set port0 master br-own up",
            "link set br-own up",
            "addr add 198.51.100.1/24 dev br-own",
            "link add bare0 type veth peer name bare1",
            "link set bare0 up",
            "tuntap add tun0 mode tun",
            "addr add 203.0.113.1/24 dev tun0",
            "link set tun0 up",
        ] {
            ip(command);
        }
        links.ensure_bridge(&bridge()).await.expect("bridge");
        links.create_veth(&veth(&netns)).await.expect("veth");
        let snapshot = links.snapshot().await.expect("snapshot");
        let found = uplinks(&snapshot, "netd:test:", &[]);
        let names: Vec<_> = found.iter().map(|uplink| uplink.ifname.as_str()).collect();
        assert_eq!(names, ["up0", "br-own"]);
        assert_eq!(found[0].ipv4, Some("192.0.2.1".parse().expect("valid")));
        assert_eq!(found[0].ipv6, Some("2001:db8::2".parse().expect("valid")));
        assert_eq!((found[1].ipv4, found[1].ipv6), (Some("198.51.100.1".parse().expect("valid")), None));
        let only = uplinks(&snapshot, "netd:test:", &[name("bare0"), name("absent")]);
        assert_eq!(only.iter().map(|uplink| uplink.ifname.as_str()).collect::<Vec<_>>(), ["bare0"]);
        let local = netd::link::local_addresses(&snapshot.addresses);
        for present in ["192.0.2.2", "2001:db8::1", "10.89.0.1", "203.0.113.1"] {
            assert!(local.contains(&present.parse().expect("valid")), "{present} in {local:?}");
        }
        assert!(!local.iter().any(IpAddr::is_loopback), "{local:?}");
        assert!(snapshot.routes.iter().any(|route| route.dst == net("10.89.0.0/24") && route.protocol == 2));
    });
}

#[test]
fn a_named_namespace_is_made_opened_and_removed() {
    in_new_netns(async || {
        let run = tempfile::tempdir().expect("directory");
        let dir = run.path().join("netns");
        let name: netd::model::Name = "web.1".parse().expect("valid");
        let made = Netns::create(&name, &dir).await.expect("made");
        let again = Netns::create(&name, &dir).await.expect("opened");
        let opened = Netns::open_path(&dir.join("web.1")).expect("opened");
        assert_eq!(made.inode().expect("inode"), again.inode().expect("inode"));
        assert_eq!(made.inode().expect("inode"), opened.inode().expect("inode"));
        assert_ne!(made.inode().expect("inode"), Netns::current().expect("own").inode().expect("inode"));
        assert_ne!(
            made.cookie().await.expect("cookie"),
            Netns::current().expect("own").cookie().await.expect("cookie")
        );
        let lo =
            Links::open_in(&made).await.expect("socket").link_by_index(1).await.expect("answer").expect("lo");
        assert!(lo.up && lo.loopback, "{lo:?}");
        Netns::remove(&name, &dir).expect("removed");
        Netns::remove(&name, &dir).expect("gone is success");
        assert!(std::fs::read_dir(&dir).expect("directory").next().is_none());
        assert!(Netns::open_path(&dir.join("web.1")).expect_err("gone").is_not_found());
        assert!(Netns::open_path(Path::new("/etc/hostname")).is_err(), "a file is no namespace");
        assert!(!made.inode().expect("still open").eq(&0));
    });
}

#[test]
fn a_leftover_file_becomes_a_namespace() {
    in_new_netns(async || {
        let run = tempfile::tempdir().expect("directory");
        let name: netd::model::Name = "left".parse().expect("valid");
        std::fs::write(run.path().join("left"), "").expect("file");
        let made = Netns::create(&name, run.path()).await.expect("made");
        assert_ne!(made.inode().expect("inode"), 0);
        Netns::remove(&name, run.path()).expect("removed");
    });
}

#[test]
fn reserved_ports_are_those_of_the_namespace() {
    in_new_netns(async || {
        let own = Netns::current().expect("own");
        let original = sysctl::ReservedPorts::read(&own).await.expect("read");
        let reserved = original.with(&[(40000, 40099)]);
        reserved.write(&own).await.expect("written");
        assert_eq!(sysctl::ReservedPorts::read(&own).await.expect("read"), reserved);
        let back = reserved.without(&[(40000, 40099)], &original);
        back.write(&own).await.expect("written");
        assert_eq!(sysctl::ReservedPorts::read(&own).await.expect("read"), original);
        assert!(sysctl::local_port_range(&own).await.expect("read").contains(&40000));
        let error = sysctl::read(&own, "ipv4/conf/absent/forwarding").await.expect_err("absent");
        assert!(error.is_not_found(), "{error:?}");
    });
}
