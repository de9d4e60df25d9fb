//! Rung: namespaces, dataplane §12 case 98. A sandbox's link that goes down and comes back, on either side and under traffic.

use netd_tests::{Asking, Family, H, Lab, PATIENCE, Proto, R, Sandbox, Server, at, eventually};

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

/// The host side of a sandbox's veth.
fn host_side(lab: &Lab, sandbox: &Sandbox) -> String {
    let inside = sandbox.ip_json(&["link", "show", "dev", "eth0"]);
    let index = inside[0]["link_index"].as_u64().expect("the peer's index");
    let links = lab.h.ip_json(&["link", "show"]);
    let link = links.as_array().expect("links").iter().find(|link| link["ifindex"] == index);
    link.and_then(|link| link["ifname"].as_str()).expect("the peer").to_owned()
}

/// What the kernel takes away from a link that goes down: IPv6 addresses and routes. A program inside has to put it back, as with any link.
fn restore(sandbox: &Sandbox, gateway: &str) {
    let (v4, v6) = (sandbox.ip(Family::V4), sandbox.ip(Family::V6));
    sandbox.ip_batch(&format!("addr replace {v4}/24 dev eth0\naddr replace {v6}/64 dev eth0 nodad"));
    sandbox.ip_batch(&format!("route replace default via 172.20.0.1\nroute replace default via {gateway}"));
}

#[test]
fn case98_traffic_resumes_when_the_sandboxs_side_was_down() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &[]).serving(&[80]);
    let _remote = Server::start(&lab.r, &[80]);
    let gateway = net.gateway(Family::V6).to_string();
    for family in Family::BOTH {
        let mut streams = [
            a1.connect_stream(at(R.ip(family), 80)).0,
            lab.r.connect_stream(at(H.ip(family), 8080)).0,
            lab.h.connect_stream(at(family.loopback(), 8080)).0,
            a2.connect_stream(at(a1.ip(family), 80)).0,
        ];
        let askings = [
            Asking::start(&lab.r, at(H.ip(family), 8080)),
            Asking::start(&a1, at(R.ip(family), 80)),
            Asking::start(&a2, at(a1.ip(family), 80)),
        ];
        for _ in 0..2 {
            a1.ip_batch("link set eth0 down");
            assert_eq!(
                lab.r.probe(Proto::Udp, at(H.ip(family), 8080)).seen(),
                None,
                "{family:?}: it is down"
            );
            a1.ip_batch("link set eth0 up");
            restore(&a1, &gateway);
            for asking in &askings {
                asking.until("an answer when the link is up again", |_| true);
            }
        }
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.patience(PATIENCE * 6); // what was lost is sent again after seconds
            stream.echo(b"still here").unwrap_or_else(|e| panic!("{family:?}: stream {index}: {e}"));
        }
    }
}

#[test]
fn case98_traffic_resumes_when_the_hosts_side_was_down() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let _remote = Server::start(&lab.r, &[80]);
    let veth = host_side(&lab, &a1);
    for family in Family::BOTH {
        let mut stream = lab.r.connect_stream(at(H.ip(family), 8080)).0;
        let askings = [
            Asking::start(&lab.r, at(H.ip(family), 8080)),
            Asking::start(&a1, at(R.ip(family), 80)),
            Asking::start(&lab.h, at(family.loopback(), 8080)),
        ];
        lab.h.ip_batch(&format!("link set {veth} down"));
        lab.h.ip_batch(&format!("link set {veth} up"));
        for asking in &askings {
            asking.until("an answer when the link is up again", |_| true);
        }
        stream.patience(PATIENCE * 6);
        stream.echo(b"still here").expect("the stream goes on");
        // The bridge has its neighbours back.
        eventually("the host to reach the sandbox", || {
            lab.h.probe(Proto::Tcp, at(a1.ip(family), 80)).seen().is_some()
        });
    }
}

#[test]
fn case98_traffic_resumes_when_the_bridge_was_down() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &["-o", "com.docker.network.bridge.name=netd-a"]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let _remote = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let askings = [
            Asking::start(&lab.r, at(H.ip(family), 8080)),
            Asking::start(&a1, at(R.ip(family), 80)),
            Asking::start(&a2, at(a1.ip(family), 80)),
            Asking::start(&lab.h, at(family.loopback(), 8080)),
        ];
        lab.h.ip_batch("link set netd-a down");
        lab.h.ip_batch("link set netd-a up");
        for asking in &askings {
            asking.until("an answer when the bridge is up again", |_| true);
        }
    }
}
