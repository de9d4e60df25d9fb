//! Rung: namespaces, beside dataplane §12 cases 59, 60 and 76. MTUs that change while streams run: on the way, of a route, of a sandbox, of a bridge.

use netd_tests::{
    Family, H, Lab, Net, Options, PATIENCE, Proto, R, Sandbox, Server, Stream, Topology, at,
    far::{X, lab_with_a_far_host},
};

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

/// Echoes enough for many full segments both ways; what is lost to a narrower link is sent again in time.
fn flow_on(streams: &mut [(&str, Stream)], when: &str) {
    for (way, stream) in streams {
        stream.patience(PATIENCE * 6);
        for _ in 0..3 {
            stream.echo(&vec![0x5a; 60_000]).unwrap_or_else(|e| panic!("{way}, {when}: {e}"));
        }
    }
}

#[test]
fn case59_case60_streams_follow_a_link_on_the_way_that_becomes_narrow() {
    let (lab, [y, x]) = lab_with_a_far_host(1500);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let _server = Server::start(&x, &[80]);
    for family in Family::BOTH {
        let mut streams = [
            ("outwards", a1.connect_stream(at(X.ip(family), 80)).0),
            ("inwards", x.connect_stream(at(H.ip(family), 8080)).0),
        ];
        flow_on(&mut streams, "wide");
        for narrow in [1400, 1300] {
            // Both ends of the link: neither sends what the other would not take.
            lab.r.ip_batch(&format!("link set eth1 mtu {narrow}"));
            y.ip_batch(&format!("link set eth0 mtu {narrow}"));
            flow_on(&mut streams, "narrow");
        }
        lab.r.ip_batch("link set eth1 mtu 1500");
        y.ip_batch("link set eth0 mtu 1500");
        flow_on(&mut streams, "wide again");
    }
}

fn world() -> (Lab, Net, Sandbox, Sandbox, Server) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &["-o", "com.docker.network.bridge.name=netd-a"]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &[]).serving(&[80]);
    let remote = Server::start(&lab.r, &[80]);
    (lab, net, a1, a2, remote)
}

fn all_streams<'a>(lab: &Lab, a1: &Sandbox, a2: &Sandbox, family: Family) -> [(&'a str, Stream); 5] {
    [
        ("outwards", a1.connect_stream(at(R.ip(family), 80)).0),
        ("inwards", lab.r.connect_stream(at(H.ip(family), 8080)).0),
        ("from the host", lab.h.connect_stream(at(family.loopback(), 8080)).0),
        ("to a neighbour", a1.connect_stream(at(a2.ip(family), 80)).0),
        ("from a neighbour", a2.connect_stream(at(H.ip(family), 8080)).0),
    ]
}

#[test]
fn streams_follow_a_sandbox_that_becomes_narrow_and_wide_again() {
    let (lab, _, a1, a2, _remote) = world();
    for family in Family::BOTH {
        let mut streams = all_streams(&lab, &a1, &a2, family);
        flow_on(&mut streams, "wide");
        for mtu in [1300, 1500] {
            a1.ip_batch(&format!("link set eth0 mtu {mtu}"));
            flow_on(&mut streams, &format!("with {mtu} inside"));
            for client in [&lab.r, &*a2] {
                client.reach(Proto::Tcp, at(H.ip(family), 8080));
            }
            a1.exchange_datagram(at(R.ip(family), 80), 8000);
        }
    }
}

#[test]
fn streams_follow_a_bridge_that_becomes_narrow_and_wide_again() {
    let (lab, _, a1, a2, _remote) = world();
    for family in Family::BOTH {
        let mut streams = all_streams(&lab, &a1, &a2, family);
        for mtu in [1300, 1500] {
            lab.h.ip_batch(&format!("link set netd-a mtu {mtu}"));
            flow_on(&mut streams, &format!("with {mtu} on the bridge"));
        }
    }
}

#[test]
fn case76_streams_and_datagrams_follow_a_route_that_becomes_narrow() {
    let topology = Topology::new();
    let routes = |action: &str, mtu: &str| {
        format!(
            "route {action} 198.51.100.0/24 via 10.0.0.3 {mtu}\nroute {action} 2001:db8::/64 via fd00:a::3 {mtu}"
        )
    };
    topology.h.ip_batch(&routes("add", ""));
    topology.r.ip_batch("addr add 198.51.100.3/32 dev lo\naddr add 2001:db8::3/128 dev lo nodad");
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    for (family, far) in Family::BOTH.into_iter().zip(["198.51.100.3", "2001:db8::3"]) {
        let far = at(far.parse::<std::net::IpAddr>().expect("an address"), 80);
        let _server = Server::bind(&lab.r, &Proto::BOTH.map(|proto| (proto, far)));
        let mut streams = [
            ("outwards", a1.connect_stream(far).0),
            ("inwards", lab.r.connect_stream_from(at(H.ip(family), 8080), Some(at(far.ip(), 0))).0),
        ];
        flow_on(&mut streams, "wide");
        for mtu in ["mtu 1300", "mtu 1280", ""] {
            lab.h.ip_batch(&routes("replace", mtu));
            flow_on(&mut streams, mtu);
            a1.exchange_datagram(far, 8000);
        }
    }
}
