//! Rung: namespaces, dataplane §12 cases 54 and 88, bug class "stale neighbour MACs". What is known of neighbours is lost, wrong or new; and what a sandbox
//! may say about its own addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::ArpOperation;
use netd_tests::{
    Asking, Family, Frame, H, Lab, Options, PATIENCE, Proto, R, Sandbox, Server, Topology, at, eventually,
};

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

/// A lab whose `H` doubts a neighbour after a moment, not after half a minute.
fn doubting() -> Lab {
    let topology = Topology::new();
    for family in ["ipv4", "ipv6"] {
        for (key, value) in
            [("base_reachable_time_ms", "200"), ("retrans_time_ms", "100"), ("delay_first_probe_time", "1")]
        {
            topology.h.sysctl(&format!("net/{family}/neigh/eth0/{key}"), value);
        }
    }
    Lab::on(topology, &Options::default())
}

fn flush(ns: &netd_tests::Ns, family: &str) {
    let out = ns.output(std::process::Command::new("ip").args([family, "neigh", "flush", "all"]));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn neighbours_that_everybody_forgot_are_found_again_under_traffic() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &[]);
    let _remote = Server::start(&lab.r, &[80]);
    for (family, flag) in Family::BOTH.into_iter().zip(["-4", "-6"]) {
        let mut streams = [
            a1.connect_stream(at(R.ip(family), 80)).0,
            lab.r.connect_stream(at(H.ip(family), 8080)).0,
            lab.h.connect_stream(at(family.loopback(), 8080)).0,
            a2.connect_stream(at(a1.ip(family), 80)).0,
            a2.connect_stream(at(H.ip(family), 8080)).0,
        ];
        for _ in 0..3 {
            for ns in [&lab.h, &lab.r, &*a1, &*a2] {
                flush(ns, flag);
            }
            for (index, stream) in streams.iter_mut().enumerate() {
                stream.patience(PATIENCE * 6);
                stream
                    .echo(&vec![0x5a; 20_000])
                    .unwrap_or_else(|e| panic!("{family:?}: stream {index}: {e}"));
            }
            for proto in Proto::BOTH {
                a1.reach(proto, at(R.ip(family), 80));
                lab.r.reach(proto, at(H.ip(family), 8080));
                lab.h.reach(proto, at(a1.ip(family), 80));
            }
        }
    }
}

#[test]
fn a_router_that_changes_its_link_address_silently_is_found_again() {
    let lab = doubting();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let _remote = Server::start(&lab.r, &[80]);
    for (number, family) in (1_u8..).zip(Family::BOTH) {
        let mut streams =
            [a1.connect_stream(at(R.ip(family), 80)).0, lab.r.connect_stream(at(H.ip(family), 8080)).0];
        let asking = Asking::start(&a1, at(R.ip(family), 80));
        lab.r.ip_batch(&format!("link set eth0 address 02:00:00:00:99:{number:02x}"));
        asking.until("an answer of the router's new address", |_| true);
        for stream in &mut streams {
            stream.patience(PATIENCE * 6);
            stream.echo(b"by the new address").expect("the stream goes on");
        }
    }
}

#[test]
fn a_wrong_entry_for_the_router_is_put_right_and_a_failed_one_is_tried_again() {
    let lab = doubting();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _remote = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let asking = Asking::start(&a1, at(R.ip(family), 80));
        for state in
            ["lladdr 02:00:00:00:66:66 nud stale", "lladdr 02:00:00:00:66:66 nud delay", "nud failed"]
        {
            lab.h.ip_batch(&format!("neigh replace {} dev eth0 {state}", R.ip(family)));
            asking.until(&format!("an answer after {state}"), |_| true);
        }
    }
}

/// Why a new sandbox's address need not be told to thousands at once.
#[test]
fn a_sandbox_that_knows_a_wrong_link_address_of_its_neighbour_reaches_it() {
    const WRONG: [u8; 6] = [2, 0, 0, 0, 0x66, 0x66];
    let lab = Lab::new();
    let open = lab.network("netA", 20, &[]);
    let closed = lab.network("netB", 21, &["-o", "com.docker.network.bridge.enable_icc=false"]);
    lab.netd(&["policy", "add", "--network", "netB", "--from", "b2", "--to", "b1"]).ok();
    for (net, names) in [(open, ["a1", "a2"]), (closed, ["b1", "b2"])] {
        let server = lab.sandbox(names[0], net, 2, &[]).serving(&[80]);
        let client = lab.sandbox(names[1], net, 3, &[]);
        let wire = client.capture();
        for family in Family::BOTH {
            let to = server.ip(family);
            client.ip_batch(&format!("neigh replace {to} lladdr 02:00:00:00:66:66 dev eth0 nud permanent"));
            for proto in Proto::BOTH {
                wire.take();
                client.reach(proto, at(to, 80));
                wire.wait("a frame for nobody", PATIENCE, |packet| {
                    packet.outgoing && packet.is_to(proto, 80) && packet.bytes.starts_with(&WRONG)
                });
            }
            client.connect_stream(at(to, 80)).0.echo(&vec![0x5a; 200_000]).expect("a stream");
        }
    }
}

fn mac(sandbox: &Sandbox) -> [u8; 6] {
    sandbox.link("eth0").expect("eth0").mac
}

fn in_all(drops: &std::collections::BTreeMap<String, u64>) -> u64 {
    drops.values().sum()
}

/// A router solicitation (RFC 4861 §4.1) without options.
const ROUTER_SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn case54_case88_a_sandbox_may_announce_probe_and_ask_for_itself() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]).serving(&[80]));
    let (wire, neighbour) = (a1.capture(), a2.capture());
    let own = a1.v4.expect("IPv4");
    let everyone = Frame { src: mac(&a1), dst: Frame::BROADCAST };
    let before = in_all(&lab.drops());
    let arps = [
        ("a gratuitous request", everyone.arp(ArpOperation::REQUEST, own, own)),
        ("a gratuitous reply", everyone.arp(ArpOperation::REPLY, own, own)),
        ("a probe of its own address", everyone.arp(ArpOperation::REQUEST, Ipv4Addr::UNSPECIFIED, own)),
    ];
    for (what, frame) in &arps {
        neighbour.take();
        wire.send(frame);
        neighbour.wait(what, PATIENCE, |p| !p.outgoing && p.ethertype == 0x0806 && &p.bytes == frame);
    }
    // IPv6: the kernel's own detection of duplicates, on a neighbour's wire; then the address serves.
    for scope in ["all", "default", "eth0"] {
        a1.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "1");
    }
    let address = a1.v6.expect("IPv6");
    a1.ip_batch(&format!("addr del {address}/64 dev eth0"));
    neighbour.take();
    a1.ip_batch(&format!("addr add {address}/64 dev eth0"));
    let asks = |p: &netd_tests::Packet| {
        !p.outgoing && p.proto == Some(58) && p.src == Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    };
    neighbour.wait("the detection of duplicates", PATIENCE, asks);
    eventually("the address to be found unique", || {
        let shown = a1.ip_json(&["-6", "addr", "show", "dev", "eth0", "to", &format!("{address}/128")]);
        let info = &shown[0]["addr_info"][0];
        assert!(info["dadfailed"].is_null(), "somebody claimed it: {info}");
        info["local"].is_string() && info["tentative"].is_null()
    });
    // A router solicitation from the link-local address, to all routers: the bridge's business.
    let shown = a1.ip_json(&["-6", "addr", "show", "dev", "eth0"]);
    let all = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
    let link_local = all.iter().find(|one| one["scope"] == "link").and_then(|one| one["local"].as_str());
    let link_local = link_local.unwrap_or_else(|| panic!("no link-local address: {shown}"));
    let link_local = link_local.parse().expect("an address");
    let routers: Ipv6Addr = "ff02::2".parse().expect("an address");
    let group = Frame { src: mac(&a1), dst: [0x33, 0x33, 0, 0, 0, 2] };
    neighbour.take();
    wire.send(&group.icmpv6(link_local, routers, &ROUTER_SOLICITATION));
    neighbour.wait("the solicitation", PATIENCE, |p| !p.outgoing && p.dst == Some(IpAddr::V6(routers)));
    // Neighbours find each other anew, the gateway too.
    for (family, flag) in Family::BOTH.into_iter().zip(["-4", "-6"]) {
        flush(&a1, flag);
        a1.ping(net.gateway(family));
        a1.ping(a2.ip(family));
        a1.reach(Proto::Tcp, at(a2.ip(family), 80));
    }
    assert_eq!(in_all(&lab.drops()), before, "nothing of it is dropped");
}

/// Where sandboxes may use any address; elsewhere nobody may ask for another's (`spoofing.rs`).
#[test]
fn case88_an_address_that_is_taken_is_found_taken_where_anti_spoofing_is_off() {
    let lab = Lab::new();
    // Without announcements: where the owner spoke just then, nobody would have to ask.
    let silent = "com.docker.network.advertise_addr_nmsgs=0";
    let net = lab.network("netA", 20, &["-o", "netd.anti_spoofing=false", "-o", silent]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    for scope in ["all", "default", "eth0"] {
        a1.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "1");
    }
    // However slow the machine, the answer comes in time.
    a1.sysctl("net/ipv6/neigh/eth0/retrans_time_ms", &PATIENCE.as_millis().to_string());
    let taken = a2.v6.expect("IPv6");
    let [.., high, low] = taken.segments();
    let solicited = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low));
    let wire = a2.capture();
    a1.ip_batch(&format!("addr add {taken}/64 dev eth0"));
    eventually("the address to be found taken", || {
        let shown = a1.ip_json(&["-6", "addr", "show", "dev", "eth0", "to", &format!("{taken}/128")]);
        shown[0]["addr_info"][0]["dadfailed"] == true
    });
    let asked = |p: &netd_tests::Packet| !p.outgoing && p.dst == Some(solicited);
    assert!(wire.take().iter().any(asked), "its owner was not asked");
}
