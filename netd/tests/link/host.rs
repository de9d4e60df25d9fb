//! Rung: namespaces. What the host has: uplinks, and lists that are whole while everything moves.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use netd::{
    link::{BridgeSpec, Haste, InsideSpec, Links, PortFlags, Turns, local_addresses, uplinks},
    model::{Announcements, Mac},
};

use crate::{bridge, in_new_netns, inside, ip, name, net, sandbox, veth};

#[test]
fn uplinks_are_what_has_an_address_or_a_route() {
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
            "tuntap add tun1 mode tun",
            "link set tun1 up",
            "route add 203.0.113.128/25 dev tun1",
            "tuntap add tun2 mode tun",
            "link set tun2 up",
        ] {
            ip(command);
        }
        links.ensure_bridge(&bridge()).await.expect("bridge");
        links.create_veth(&veth(&netns)).await.expect("veth");
        let snapshot = links.snapshot().await.expect("snapshot");
        let found = uplinks(&snapshot, "netd:test:", &[], &[]);
        let names: Vec<_> = found.iter().map(|uplink| uplink.ifname.as_str()).collect();
        assert_eq!(names, ["up0", "br-own", "tun0", "tun1"], "tun1 is unnumbered, tun2 leads nowhere");
        assert_eq!(found.iter().map(|uplink| uplink.bare).collect::<Vec<_>>(), [false, false, true, true]);
        assert_eq!(found[0].ipv4, Some("192.0.2.1".parse().expect("valid")));
        assert_eq!(found[0].ipv6, Some("2001:db8::2".parse().expect("valid")));
        assert_eq!((found[1].ipv4, found[1].ipv6), (Some("198.51.100.1".parse().expect("valid")), None));
        let adopted = uplinks(&snapshot, "netd:test:", &[name("br-own")], &[]);
        assert_eq!(adopted.len(), 3, "an adopted bridge leads to sandboxes");
        let only = uplinks(&snapshot, "netd:test:", &[], &[name("bare0"), name("absent")]);
        assert_eq!(only.iter().map(|uplink| uplink.ifname.as_str()).collect::<Vec<_>>(), ["bare0"]);
        let local = local_addresses(&snapshot.addresses);
        for present in ["192.0.2.2", "2001:db8::1", "10.89.0.1", "203.0.113.1"] {
            assert!(local.contains(&present.parse().expect("valid")), "{present} in {local:?}");
        }
        assert!(!local.iter().any(IpAddr::is_loopback), "{local:?}");
        assert!(snapshot.routes.iter().any(|route| route.dst == net("10.89.0.0/24") && route.protocol == 2));
    });
}

#[test]
fn lists_are_whole_or_refused_while_links_come_and_go() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        for number in 0..40 {
            ip(&format!("link add stay{number} type bridge"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let churn = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let links = Links::open().await.expect("socket");
                let mut rounds = 0;
                while !stopped.load(Ordering::Relaxed) {
                    let spec = BridgeSpec { addresses: Vec::new(), ..bridge() };
                    links.ensure_bridge(&spec).await.expect("made");
                    links.delete_link(&spec.ifname).await.expect("deleted");
                    rounds += 1;
                }
                rounds
            })
        });
        let mut whole = 0;
        for _ in 0..300 {
            match links.links().await {
                Ok(list) => {
                    let mut stayed: Vec<_> =
                        list.iter().map(|l| l.name.as_str()).filter(|n| n.starts_with("stay")).collect();
                    stayed.sort_unstable();
                    stayed.dedup();
                    assert_eq!((stayed.len(), list.len() <= 42), (40, true), "each once");
                    whole += 1;
                }
                Err(error) => assert!(error.is_interrupted(), "{error:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(churn.join().expect("no panic") > 0);
        assert!(whole > 0, "not one list in 300 was undisturbed");
    });
}

#[test]
fn many_callers_share_one_socket() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        ip("link add br-test type bridge");
        let lists = (0..50).map(|_| {
            let links = links.clone();
            tokio::spawn(async move { links.links().await.expect("list").len() })
        });
        for list in lists.collect::<Vec<_>>() {
            assert_eq!(list.await.expect("no panic"), 2);
        }
        // A caller that goes away in the middle of a list disturbs nobody.
        for _ in 0..50 {
            let abandoned = tokio::time::timeout(Duration::ZERO, links.links()).await;
            assert_eq!(links.links().await.expect("list").len(), 2, "after {abandoned:?}");
        }
    });
}

#[test]
fn a_vanished_interface_is_not_found_at_every_step() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let gone = name("gone");
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let address: IpAddr = "10.89.0.2".parse().expect("valid");
        let index = 4711;
        let results = [
            links.set_up(&gone).await,
            links.set_down(&gone).await,
            links.enslave(&gone, 1, PortFlags::default()).await,
            links.release_port(&gone).await,
            links.add_fdb(index, mac).await,
            links.add_neighbour(index, address, mac).await,
            links.add_address(index, net("10.89.0.2/24")).await,
            links.set_default_gateway(index, address).await,
            links.configure_endpoint(&InsideSpec { ifname: gone.clone(), ..inside() }).await.map(drop),
        ];
        for result in results {
            let error = result.expect_err("gone");
            assert!(error.is_not_found(), "{error:?}");
        }
        let results = [
            links.delete_link(&gone).await,
            links.remove_fdb(index, mac).await,
            links.remove_neighbour(index, address).await,
            links.remove_address(index, net("10.89.0.2/24")).await,
            links.remove_default_route(true).await,
            links.release_bridge(&gone).await,
            links.announce(&gone, Announcements::default(), Haste::AtOnce, &Turns::default()).await,
        ];
        for result in results {
            result.expect("gone is success");
        }
    });
}
