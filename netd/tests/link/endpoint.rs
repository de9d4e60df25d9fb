//! Rung: namespaces. Veth pairs and the sandbox side of endpoints.

use std::net::IpAddr;

use netd::{
    link::{Haste, HostRoute, InsideSpec, Links, MAX_IFINDEX, PortFlags, Turns, VethSpec},
    model::Announcements,
    netns::Netns,
};

use crate::{answers, bridge, in_new_netns, inside, ip, name, net, sandbox, until, veth};

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
        assert!(!within.routes().await.expect("routes").iter().any(HostRoute::is_default));
    });
}

/// What decides how much an interface tells of itself: `arp_notify`, `ndisc_notify`, and the interval of reports on groups in milliseconds.
async fn speech(netns: &Netns) -> [String; 3] {
    let read = |path: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/{path}")).expect("a setting");
        text.trim().to_owned()
    };
    let all = move || {
        [
            "ipv4/conf/eth0/arp_notify",
            "ipv6/conf/eth0/ndisc_notify",
            "ipv6/conf/eth0/mldv2_unsolicited_report_interval",
        ]
        .map(read)
    };
    netns.run_in(all).await.expect("read")
}

#[test]
fn a_new_interface_is_quiet_until_it_works_and_none_stays_so() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let netns = sandbox();
        links.create_veth(&veth(&netns)).await.expect("veth");
        links.set_up(&name("veth0000001")).await.expect("up");
        let within = Links::open_in(&netns).await.expect("socket inside");
        let usual = InsideSpec { gateway4: None, gateway6: None, ..inside() };
        let new = InsideSpec { quiet: true, ..usual.clone() };
        within.configure_endpoint(&new).await.expect("configured");
        assert_eq!(speech(&netns).await, ["1", "0", "604800000"]);
        within.end_quiet(&name("eth0")).await.expect("ended");
        assert_eq!(speech(&netns).await, ["1", "1", "1000"]);

        let write = async |interval: &'static str| {
            let path = "/proc/sys/net/ipv6/conf/eth0/mldv2_unsolicited_report_interval";
            netns.run_in(move || std::fs::write(path, interval)).await.expect("inside").expect("written");
        };
        write("604800000").await;
        within.configure_endpoint(&usual).await.expect("configured");
        assert_eq!(speech(&netns).await, ["1", "1", "1000"], "as a daemon left it that ended in between");
        write("5000").await;
        within.configure_endpoint(&usual).await.expect("configured");
        within.end_quiet(&name("eth0")).await.expect("ended");
        assert_eq!(speech(&netns).await, ["1", "1", "5000"], "somebody's own");
        links.set_down(&name("veth0000001")).await.expect("down");
        within.set_down(&name("eth0")).await.expect("down");
        within.configure_endpoint(&new).await.expect("configured");
        assert_eq!(speech(&netns).await, ["1", "1", "5000"], "somebody's own is not exchanged");
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
fn a_neighbour_learns_a_new_owner_by_announcement() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let netns = sandbox();
        let bridge_index = links.ensure_bridge(&bridge()).await.expect("bridge");
        let spec = veth(&netns);
        links.create_veth(&spec).await.expect("veth");
        links.enslave(&spec.host_ifname, bridge_index, PortFlags::default()).await.expect("port");
        links.set_up(&spec.host_ifname).await.expect("up");
        let within = Links::open_in(&netns).await.expect("socket inside");
        within.configure_endpoint(&inside()).await.expect("configured");
        until(async || ip("link show veth0000001").contains("state UP")).await;
        for address in ["10.89.0.2", "fd00:89::2"] {
            ip(&format!("neigh replace {address} lladdr 02:00:00:00:00:77 dev br-test nud stale"));
        }
        // The port forwards a moment after its carrier is there.
        let announcer = within.clone();
        let announcing = tokio::spawn(async move {
            announcer
                .announce(
                    &name("eth0"),
                    Announcements { times: 1000, every_ms: 20 },
                    Haste::AtOnce,
                    &Turns::default(),
                )
                .await
        });
        until(async || {
            let shown = ip("neigh show dev br-test");
            ["10.89.0.2 lladdr 02:42:0a:59:00:02", "fd00:89::2 lladdr 02:42:0a:59:00:02"]
                .iter()
                .all(|entry| shown.contains(entry))
        })
        .await;
        links.delete_link(&spec.host_ifname).await.expect("deleted");
        announcing.await.expect("no panic").expect("ends with the interface");
    });
}

#[test]
fn links_are_deleted_together_and_no_other_goes_with_them() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        // More than one batch, and a link of somebody else's in each kind of group.
        for number in 0..70 {
            ip(&format!("link add many{number} type veth peer name peer{number}"));
        }
        ip("link add other0 type veth peer name other1");
        ip("link set other1 group 7");
        let all = links.links().await.expect("listed");
        let many: Vec<_> = all.iter().filter(|link| link.name.starts_with("many")).collect();
        assert_eq!(many.len(), 70);
        links.delete_links(&many).await.expect("deleted");
        let names = async || -> Vec<String> {
            let mut names: Vec<String> =
                links.links().await.expect("listed").into_iter().map(|link| link.name).collect();
            names.sort();
            names
        };
        assert_eq!(names().await, ["lo", "other0", "other1"]);
        links.delete_links(&many).await.expect("gone is success");
        links.delete_links(&[]).await.expect("nothing to do");
        assert_eq!(names().await, ["lo", "other0", "other1"]);
    });
}
