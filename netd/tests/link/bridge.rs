//! Rung: namespaces. Bridges: made, repaired, adopted, and left alone when they are foreign.

use netd::{
    link::{BridgeSpec, Error, Links, PortFlags},
    sysctl,
};

use crate::{bridge, in_new_netns, ip, ip_batch, name, net};

#[test]
fn a_bridge_takes_1023_ports_and_says_why_it_takes_no_more() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let bridge_index = links.ensure_bridge(&bridge()).await.expect("created");
        let pairs: Vec<_> = (0..512).map(|n| format!("link add p{n} type veth peer name q{n}")).collect();
        ip_batch(&pairs.join("\n"));
        let mut ports = (0..512).flat_map(|n| [name(&format!("p{n}")), name(&format!("q{n}"))]);
        for port in ports.by_ref().take(1023) {
            links.enslave(&port, bridge_index, PortFlags::default()).await.expect("a port");
        }
        let last = ports.next().expect("the 1,024th");
        let error = links.enslave(&last, bridge_index, PortFlags::default()).await.expect_err("full");
        assert!(matches!(&error, Error::Limit(text) if text.contains("at most 1023 ports")), "{error}");
        // One goes, and there is room again.
        links.release_port(&name("p0")).await.expect("released");
        links.enslave(&last, bridge_index, PortFlags::default()).await.expect("a port");
    });
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
fn settings_of_own_bridges_are_put_back_and_others_left_alone() {
    in_new_netns(async || {
        let links = Links::open().await.expect("socket");
        let own = bridge();
        let internal =
            BridgeSpec { ifname: name("br-internal"), addresses: vec![], forwarding: false, ..bridge() };
        for spec in [&own, &internal] {
            links.ensure_bridge(spec).await.expect("created");
        }
        ip("link add br-foreign type bridge");
        let foreign = BridgeSpec { ifname: name("br-foreign"), addresses: vec![], ..bridge() };
        let gone = BridgeSpec { ifname: name("br-gone"), ..bridge() };
        let specs = [own, internal, foreign, gone];
        for [all, forwarding] in [
            ["ipv4/ip_forward", "ipv4/conf/br-test/forwarding"],
            ["ipv6/conf/all/forwarding", "ipv6/conf/br-test/forwarding"],
        ] {
            for value in ["1", "0"] {
                sysctl::write(links.netns(), vec![(all.into(), value.into())]).await.expect("written");
                let expected = match value {
                    "0" => (forwarding.to_owned(), "1".to_owned()),
                    _ => (forwarding.replace("test", "internal"), "0".to_owned()),
                };
                let repaired = links.repair_bridge_settings(&specs).await.expect("repaired");
                assert_eq!(repaired, [expected], "{all} = {value}");
                assert_eq!(links.repair_bridge_settings(&specs).await.expect("nothing to do"), []);
                let foreign = forwarding.replace("test", "foreign");
                for key in [all, &foreign] {
                    assert_eq!(sysctl::read(links.netns(), key).await.expect(key), value, "{key}");
                }
            }
        }
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
        let forwarding = sysctl::read(links.netns(), "ipv4/conf/br-own/forwarding").await.expect("read");
        assert_eq!(forwarding, "1", "or no route leads out of it");
        links.release_bridge(&name("br-own")).await.expect("released");
        let left = ip("-4 -o addr show dev br-own");
        assert!(left.contains("192.0.2.1/24") && !left.contains("10.89.0.1"), "{left}");
        ip("link add other type veth peer name another");
        let error = links.adopt_bridge(&name("other"), &[]).await.expect_err("no bridge");
        assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
        assert!(links.adopt_bridge(&name("nothing"), &[]).await.expect_err("none").is_not_found());
    });
}
