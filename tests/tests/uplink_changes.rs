//! Rung: namespaces, dataplane §12 case 91, and 7.6. Uplinks whose routes, rules, addresses, names and links change under traffic.

use std::{net::IpAddr, process::Command};

use netd_tests::{
    Asking, Capture, Family, H, H1, Lab, Ns, Options, PATIENCE, Proto, R, R2, Server, Topology, at,
    eventually,
    ways::{X, default_by, serve, two_ways},
};
use nix::sys::signal::Signal;

/// Whether a packet from one to the other has arrived since the last look.
fn came(wire: &Capture, from: IpAddr, to: IpAddr) -> bool {
    wire.take().iter().any(|packet| !packet.outgoing && (packet.src, packet.dst) == (Some(from), Some(to)))
}

#[test]
fn flows_take_the_new_uplinks_address_when_the_default_route_moves() {
    let (topology, x) = two_ways();
    default_by(&topology.h, &R);
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = serve(&x);
    for family in Family::BOTH {
        let to = at(X.ip(family), 80);
        let asking = Asking::start(&a1, to);
        let (mut stream, seen) = a1.connect_stream(to);
        assert_eq!(seen.source.ip(), H.ip(family));
        for (router, host) in [(&R2, &H1), (&R, &H)] {
            default_by(&lab.h, router);
            asking.until("an answer by the new way", |seen| seen.source.ip() == host.ip(family));
            let (mut fresh, seen) = a1.connect_stream(to);
            assert_eq!(seen.source.ip(), host.ip(family));
            fresh.echo(b"by the new way").expect("a new stream");
        }
        // Its address belongs to the way that it does not take any more: as under nf_nat, it ends; here at once and by a reset.
        stream.patience(PATIENCE);
        default_by(&lab.h, &R2);
        let ended = stream.echo(b"by the old way").expect_err("the source belongs to the old way");
        assert_eq!(ended.raw_os_error(), Some(libc::ECONNRESET), "{ended}");
        default_by(&lab.h, &R);
    }
}

#[test]
fn flows_with_a_fixed_address_go_on_when_the_default_route_moves() {
    let (topology, x) = two_ways();
    default_by(&topology.h, &R);
    let lab = Lab::on(topology, &Options::default());
    let fixed =
        ["-o", "com.docker.network.host_ipv4=10.0.0.2", "-o", "com.docker.network.host_ipv6=fd00:a::2"];
    let net = lab.network("netA", 20, &fixed);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = serve(&x);
    for family in Family::BOTH {
        let to = at(X.ip(family), 80);
        let (mut stream, seen) = a1.connect_stream(to);
        assert_eq!(seen.source.ip(), H.ip(family));
        let wire = Capture::start(&lab.r2, "eth0");
        default_by(&lab.h, &R2);
        eventually("the stream to go by the new way", || {
            stream.echo(b"on").expect("the stream goes on");
            came(&wire, H.ip(family), X.ip(family))
        });
        default_by(&lab.h, &R);
    }
}

#[test]
fn rules_by_the_sandboxes_subnet_choose_the_uplink() {
    let (topology, x) = two_ways();
    default_by(&topology.h, &R);
    let lab = Lab::on(topology, &Options::default());
    let (net_a, net_b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let (a1, b1) = (lab.sandbox("a1", net_a, 2, &[]), lab.sandbox("b1", net_b, 2, &[]));
    let _server = serve(&x);
    let table = |action: &str| {
        lab.h.ip_batch(&format!(
            "route {action} default via {} table 100\nroute {action} default via {} table 100",
            R2.v4, R2.v6
        ));
    };
    table("add");
    for (family, subnet) in [(Family::V4, "172.20.0.0/24"), (Family::V6, "fd00:c:20::/64")] {
        let to = at(X.ip(family), 80);
        let (of_a, of_b) = (Asking::start(&a1, to), Asking::start(&b1, to));
        let rule = |action: &str| {
            let flag = if family == Family::V4 { "-4" } else { "-6" };
            assert!(
                lab.h
                    .output(Command::new("ip").args([flag, "rule", action, "from", subnet, "lookup", "100"]))
                    .status
                    .success()
            );
        };
        rule("add");
        of_a.until("an answer by the rule's way", |seen| seen.source.ip() == H1.ip(family));
        of_b.until("an answer by the main way", |seen| seen.source.ip() == H.ip(family));
        assert_eq!(a1.reach(Proto::Tcp, to).source.ip(), H1.ip(family));
        assert_eq!(b1.reach(Proto::Tcp, to).source.ip(), H.ip(family));
        rule("del");
        of_a.until("an answer by the main way", |seen| seen.source.ip() == H.ip(family));
    }
    table("del");
}

#[test]
fn rules_by_port_choose_the_uplink() {
    let (topology, x) = two_ways();
    default_by(&topology.h, &R);
    topology.h.ip_batch(&format!(
        "route add default via {} table 100\nrule add ipproto tcp dport 81 lookup 100",
        R2.v4
    ));
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&x, &[80, 81]);
    for (port, host) in [(80, H), (81, H1)] {
        assert_eq!(a1.reach(Proto::Tcp, at(X.v4, port)).source.ip(), host.v4);
    }
}

/// Dials `H1`'s published port from `X`, and returns whether the answers left by `eth1`, as they should.
fn answers_return_the_same_way(lab: &Lab, x: &Ns) {
    for family in Family::BOTH {
        let (right, wrong) = (Capture::start(&lab.r2, "eth0"), Capture::start(&lab.r, "eth0"));
        for proto in Proto::BOTH {
            let seen = x.reach(proto, at(H1.ip(family), 8080));
            assert_eq!(
                (seen.server.as_str(), seen.source.ip()),
                (
                    "a1",
                    if family == Family::V4 { "10.0.9.3" } else { "fd00:a:9::3" }
                        .parse::<IpAddr>()
                        .expect("an address")
                )
            );
        }
        let answer = |packet: &netd_tests::Packet| {
            !packet.outgoing && packet.src == Some(H1.ip(family)) && packet.sport == Some(8080)
        };
        assert!(right.take().iter().any(answer), "{family:?}: no answer by the uplink that was dialled");
        assert!(!wrong.take().iter().any(answer), "{family:?}: an answer by the other uplink");
    }
}

fn publishing(topology: Topology, options: &Options) -> (Lab, netd_tests::Sandbox) {
    let lab = Lab::on(topology, options);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    (lab, a1)
}

#[test]
fn answers_of_a_published_port_leave_by_the_uplink_that_was_dialled() {
    let (topology, x) = two_ways();
    for (router, metric) in [(R, 100), (R2, 200)] {
        // IPv6 knows only the ways of the best metric.
        topology.h.ip_batch(&format!(
            "route add default via {} metric {metric}\nroute append default via {} metric 100",
            router.v4, router.v6
        ));
    }
    let (lab, _a1) = publishing(topology, &Options::default());
    answers_return_the_same_way(&lab, &x);
}

/// The usual recipe for a host with two uplinks: a rule and a table for each of its addresses.
#[test]
fn rules_by_the_hosts_address_choose_the_way_of_a_published_ports_answers() {
    for forwarding in [true, false] {
        let (topology, x) = two_ways();
        default_by(&topology.h, &R);
        for (flag, ip, router) in
            [("-4", H1.ip(Family::V4), R2.ip(Family::V4)), ("-6", H1.ip(Family::V6), R2.ip(Family::V6))]
        {
            topology.h.ip_batch(&format!("route add default via {router} table 101"));
            assert!(
                topology
                    .h
                    .output(Command::new("ip").args([
                        flag,
                        "rule",
                        "add",
                        "from",
                        &ip.to_string(),
                        "lookup",
                        "101"
                    ]))
                    .status
                    .success()
            );
        }
        let (lab, _a1) = publishing(topology, &Options { forwarding, ..Options::default() });
        answers_return_the_same_way(&lab, &x);
    }
}

#[test]
fn a_routes_preferred_source_is_the_masquerades() {
    let topology = Topology::new();
    topology.h.ip_batch("addr add 10.0.0.22/24 dev eth0\naddr add fd00:a::22/64 dev eth0 nodad");
    topology.h.ip_batch("route add 198.51.100.0/24 via 10.0.0.3 src 10.0.0.22\nroute add 2001:db8::/64 via fd00:a::3 src fd00:a::22");
    topology.r.ip_batch(&format!("addr add {}/32 dev lo\naddr add {}/128 dev lo nodad", X.v4, X.v6));
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    for (far, near, source) in [
        (X.ip(Family::V4), R.ip(Family::V4), "10.0.0.22"),
        (X.ip(Family::V6), R.ip(Family::V6), "fd00:a::22"),
    ] {
        assert_eq!(
            a1.reach(Proto::Tcp, at(far, 80)).source.ip(),
            source.parse::<IpAddr>().expect("an address")
        );
        // The kernel's choice among several of one subnet.
        let own = lab.h.reach(Proto::Tcp, at(near, 80)).source.ip();
        assert_eq!(a1.reach(Proto::Tcp, at(near, 80)).source.ip(), own);
    }
}

#[test]
fn case91_an_address_that_goes_takes_its_flows_along_and_the_next_one_serves() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _server = Server::start(&lab.r, &[80]);
    for (family, new, old, prefix) in
        [(Family::V4, "10.0.0.22", H.ip(Family::V4), 24), (Family::V6, "fd00:a::22", H.ip(Family::V6), 64)]
    {
        let ip: IpAddr = new.parse().expect("an address");
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        let asking = Asking::start(&a1, at(R.ip(family), 80));
        let (mut stream, _) = a1.connect_stream(at(R.ip(family), 80));
        stream.patience(PATIENCE);
        // One batch would do the same; two show that the daemon needs nobody's order.
        lab.h.ip_batch(&format!("addr add {new}/{prefix} dev eth0{nodad}"));
        lab.h.ip_batch(&format!("addr del {old}/{prefix} dev eth0"));
        // Removing the first address of a subnet takes the others along, unless told otherwise (promote_secondaries).
        lab.h.ip_batch(&format!("addr replace {new}/{prefix} dev eth0{nodad}"));
        asking.until("an answer to the new address", |seen| seen.source.ip() == ip);
        assert_eq!(a1.reach(Proto::Tcp, at(R.ip(family), 80)).source.ip(), ip);
        eventually("the new address to be noticed", || {
            let status = lab.netd(&["status", "--format", "json"]).json();
            status["LocalAddresses"].as_array().is_some_and(|all| all.iter().any(|local| local == new))
        });
        for proto in Proto::BOTH {
            let seen = lab.r.reach(proto, at(ip, 8080));
            assert_eq!(seen.source.ip(), R.ip(family), "a publish on every address follows");
        }
        eventually("the old address's flows to go", || {
            lab.flows(&[]).iter().all(|flow| flow["TranslatedSource"] != old.to_string())
        });
        stream.echo(b"from the old address").expect_err("its source is gone");
        lab.h.ip_batch(&format!("addr add {old}/{prefix} dev eth0{nodad}"));
        lab.h.ip_batch(&format!("addr del {new}/{prefix} dev eth0"));
        lab.h.ip_batch(&format!("addr replace {old}/{prefix} dev eth0{nodad}"));
        asking.until("an answer to the old address", |seen| seen.source.ip() == old);
    }
}

#[test]
fn an_address_that_is_exchanged_while_the_daemon_is_away_serves_at_once() {
    let mut lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    let shown = |family: Family| a1.reach(Proto::Tcp, at(R.ip(family), 80)).source.ip();
    for family in Family::BOTH {
        assert_eq!(shown(family), H.ip(family));
    }
    lab.daemon.end(Signal::SIGKILL);
    for (family, new, prefix) in [(Family::V4, "10.0.0.22", 24), (Family::V6, "fd00:a::22", 64)] {
        let (ip, old): (IpAddr, IpAddr) = (new.parse().expect("an address"), H.ip(family));
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        lab.h.ip_batch(&format!("addr del {old}/{prefix} dev eth0\naddr add {new}/{prefix} dev eth0{nodad}"));
        assert_eq!(shown(family), ip, "the daemon that could tell is not there");
        lab.h.ip_batch(&format!("addr del {new}/{prefix} dev eth0\naddr add {old}/{prefix} dev eth0{nodad}"));
    }
    lab.daemon.restart();
}

#[test]
fn an_uplink_is_renamed_narrowed_and_given_another_link_address_under_traffic() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    let _server = Server::start(&lab.r, &[80]);
    let own = lab.h.link("eth0").expect("eth0");
    for setting in ["arp_notify", "ndisc_notify"] {
        let family = if setting == "arp_notify" { "ipv4" } else { "ipv6" };
        lab.r.sysctl(&format!("net/{family}/conf/eth0/{setting}"), "1");
        lab.h.sysctl(&format!("net/{family}/conf/eth0/{setting}"), "1");
    }
    let mut streams = Family::BOTH.map(|family| {
        [a1.connect_stream(at(R.ip(family), 80)).0, lab.r.connect_stream(at(H.ip(family), 8080)).0]
    });
    let mut go_on = |when: &str| {
        for stream in streams.iter_mut().flatten() {
            stream.echo(&vec![0x5a; 20_000]).unwrap_or_else(|e| panic!("{when}: {e}"));
        }
        for family in Family::BOTH {
            a1.reach(Proto::Tcp, at(R.ip(family), 80));
            lab.r.reach(Proto::Tcp, at(H.ip(family), 8080));
        }
    };
    go_on("before");
    lab.h.ip_batch("link set eth0 name wan0");
    lab.until_uplink("wan0");
    go_on("under another name");
    for ns in [&lab.h, &lab.r] {
        ns.ip_batch(&format!("link set {} mtu 1400", if ns.name() == "H" { "wan0" } else { "eth0" }));
    }
    go_on("with a smaller MTU");
    lab.r.ip_batch("link set eth0 address 02:00:00:00:77:01");
    go_on("with another router's link address");
    lab.h.ip_batch("link set wan0 address 02:00:00:00:77:02");
    go_on("with another link address");
    let mac: Vec<String> = own.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    lab.h.ip_batch(&format!(
        "link set wan0 address {}\nlink set wan0 mtu 1500\nlink set wan0 name eth0",
        mac.join(":")
    ));
    lab.r.ip_batch("link set eth0 mtu 1500");
    for (family, setting) in [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")] {
        lab.h.sysctl(&format!("net/{family}/conf/eth0/{setting}"), "0");
    }
    lab.until_uplink("eth0");
    go_on("as it was");
}

#[test]
fn an_uplink_is_removed_and_comes_back_under_traffic() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    let _other = Server::start(&lab.r2, &[80]);
    let (mut aside, _) = a1.connect_stream(at(R2.v4, 80));
    for _ in 0..2 {
        {
            let _server = Server::start(&lab.r, &[80]);
            let asking = Family::BOTH.map(|family| Asking::start(&a1, at(R.ip(family), 80)));
            lab.h.ip_batch("link set eth0 down");
            lab.h.ip_batch("link set eth0 up");
            lab.h.ip_batch(&format!("addr replace {}/64 dev eth0 nodad", H.v6)); // which the kernel has taken away
            for asking in &asking {
                asking.until("an answer when the uplink is up again", |_| true);
            }
        }
        let v = Ns::new("V");
        lab.h.connect("up2", &v, "eth0");
        for (ns, dev, host) in [(&lab.h, "up2", "2"), (&v, "eth0", "3")] {
            ns.ip_batch(&format!(
                "addr add 10.0.5.{host}/24 dev {dev}\naddr add fd00:a:5::{host}/64 dev {dev} nodad"
            ));
        }
        let _server = Server::start(&v, &[80]);
        lab.until_uplink("up2");
        for (near, far) in [("10.0.5.2", "10.0.5.3"), ("fd00:a:5::2", "fd00:a:5::3")] {
            let (near, far): (IpAddr, IpAddr) =
                (near.parse().expect("an address"), far.parse().expect("an address"));
            assert_eq!(a1.reach(Proto::Tcp, at(far, 80)).source.ip(), near);
            assert_eq!(v.reach(Proto::Tcp, at(near, 8080)).source.ip(), far);
        }
        assert!(lab.flows(&[]).iter().any(|flow| flow["TranslatedSource"] == "10.0.5.2"));
        lab.h.ip_batch("link del up2");
        lab.until_no_uplink("up2");
        eventually("the uplink's flows to go", || {
            lab.flows(&[]).iter().all(|flow| flow["TranslatedSource"] != "10.0.5.2")
        });
        aside.echo(b"by the other uplink").expect("the stream goes on");
    }
}

/// The host's own bridge with `eth0` below it, as virtual machines like it: the bridge is the uplink.
#[test]
fn a_bridge_of_the_hosts_is_an_uplink_and_its_port_is_none() {
    let topology = Topology::new();
    topology.h.ip_batch(&format!(
        "link add br0 type bridge\nlink set br0 up\naddr flush dev eth0\nlink set eth0 master br0\n\
         addr add {}/24 dev br0\naddr add {}/64 dev br0 nodad",
        H.v4, H.v6
    ));
    works_through(topology, "br0");
}

#[test]
fn a_macvlan_device_is_an_uplink() {
    let topology = Topology::new();
    topology.h.ip_batch(&format!(
        "addr flush dev eth0\nlink add mac0 link eth0 type macvlan mode bridge\nlink set mac0 up\n\
         addr add {}/24 dev mac0\naddr add {}/64 dev mac0 nodad",
        H.v4, H.v6
    ));
    works_through(topology, "mac0");
}

/// Masquerade out and a published port in by this uplink, in place of `eth0`.
fn works_through(topology: Topology, ifname: &str) {
    let (lab, a1) = publishing(topology, &Options::default());
    lab.until_uplinks("the right uplinks", |uplinks| {
        let named = |name: &str| uplinks.iter().any(|uplink| uplink.starts_with(&format!("{name} ")));
        named(ifname) && named("eth1") && !named("eth0")
    });
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family));
        }
        a1.ping(R.ip(family));
        let (mut stream, _) = lab.r.connect_stream(at(H.ip(family), 8080));
        stream.echo(&vec![0x5a; 200_000]).expect("a stream");
    }
}

/// A link without an address of its own: the host's address lies on `lo`, as routers have it.
#[test]
fn an_unnumbered_uplink_shows_the_address_of_another_interface() {
    let topology = Topology::new();
    let v = Ns::new("V");
    topology.h.connect("up2", &v, "eth0");
    topology.h.ip_batch("addr add 203.0.113.2/32 dev lo\nroute add 203.0.113.3/32 dev up2 src 203.0.113.2");
    v.ip_batch("addr add 203.0.113.3/32 dev eth0\nroute add 203.0.113.2/32 dev eth0");
    let (lab, a1) = publishing(topology, &Options::default());
    lab.until_uplink("up2");
    let _server = Server::start(&v, &[80]);
    let (near, far) = (IpAddr::from([203, 0, 113, 2]), IpAddr::from([203, 0, 113, 3]));
    for proto in Proto::BOTH {
        assert_eq!(a1.reach(proto, at(far, 80)).source.ip(), near);
        assert_eq!(v.reach(proto, at(near, 8080)).source.ip(), far);
    }
}
