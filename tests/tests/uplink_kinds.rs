//! Rung: namespaces, dataplane 7.1 and 7.14. Uplinks of every kind: a VLAN, a bond, a team, a VRF's port, `WireGuard`, IP in IP, PPP. Kernels without the device skip
//! it and say so; Debian's have them (`cargo xtask vm --kernel 6.12 --test uplink_kinds`), PPP that with all drivers (`--kernel 6.12-full`).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
};

use netd_tests::{Family, H, Host, Lab, Ns, Options, Outcome, Ppp, Proto, R, Sandbox, Server, Topology, at};

/// Whether this kernel makes such a device here.
fn can_make(device: &str, command: &str) -> bool {
    let ns = Ns::new("probe");
    let peer = Ns::new("peer");
    ns.connect("eth0", &peer, "eth0");
    let out = ns.output(Command::new("ip").args(command.split(' ')));
    let made = out.status.success();
    if !made {
        println!("skipped: no {device} here: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    made
}

/// Puts H's addresses of `eth0` on another device; R has its counterpart on `far`.
fn move_addresses(topology: &Topology, near: &str, far: &str) {
    for (ns, from, to, host) in [(&topology.h, "eth0", near, H), (&topology.r, "eth0", far, R)] {
        if from == to {
            continue;
        }
        ns.ip_batch(&format!(
            "addr flush dev {from}\nlink set {to} up\naddr add {}/24 dev {to}\naddr add {}/64 dev {to} nodad",
            host.v4, host.v6
        ));
    }
}

fn publishing(topology: Topology) -> (Lab, Sandbox) {
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    (lab, a1)
}

/// Masquerade out and a published port in by a device that has these addresses; nothing comes in by a sandbox's own address.
fn works_by(lab: &Lab, a1: &Sandbox, ifname: &str, (near, far): (Host, Host), remote: &Ns) {
    lab.until_uplink(ifname);
    let addresses =
        Family::BOTH.map(|family| Proto::BOTH.map(|proto| (proto, at(far.ip(family), 80)))).concat();
    let _server = Server::bind(remote, &addresses);
    for family in Family::BOTH {
        let (out, inwards) = (at(far.ip(family), 80), at(near.ip(family), 8080));
        for proto in Proto::BOTH {
            assert_eq!(a1.reach(proto, out).source.ip(), near.ip(family), "{ifname} {proto:?} outwards");
            let seen = remote.reach(proto, inwards);
            assert_eq!(
                (seen.server.as_str(), seen.source.ip()),
                ("a1", far.ip(family)),
                "{ifname} {proto:?}"
            );
        }
        a1.ping(far.ip(family));
        for (client, to) in [(&**a1, out), (remote, inwards)] {
            let (mut stream, _) = client.connect_stream(to);
            for _ in 0..3 {
                stream
                    .echo(&vec![0x5a; 200_000])
                    .unwrap_or_else(|e| panic!("{ifname}: a stream to {to}: {e}"));
            }
            // Over IPv6 the sender hears of a narrow device and cuts for itself.
            let first = client.try_datagram(to, 8_000);
            let narrow = first.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EMSGSIZE));
            assert!(first.is_ok() || narrow, "{ifname}: 8000 bytes to {to}: {first:?}");
            client.exchange_datagram(to, 8_000);
        }
        assert_eq!(remote.probe(Proto::Tcp, at(a1.ip(family), 80)), Outcome::Timeout, "{ifname} direct");
    }
}

const VLAN: &str = "link add link eth0 name eth0.5 type vlan id 5";

#[test]
fn a_vlan_is_an_uplink_and_the_device_below_still_another() {
    if !can_make("VLAN", VLAN) {
        return;
    }
    let topology = Topology::new();
    let tagged = |host| Host {
        v4: Ipv4Addr::new(10, 0, 5, host),
        v6: Ipv6Addr::new(0xfd00, 0xa, 5, 0, 0, 0, 0, host.into()),
    };
    let (near, far) = (tagged(2), tagged(3));
    let add = |ns: &Ns, host: Host| {
        ns.ip_batch(&format!(
            "{VLAN}\nlink set eth0.5 up\naddr add {}/24 dev eth0.5\naddr add {}/64 dev eth0.5 nodad",
            host.v4, host.v6
        ));
    };
    add(&topology.r, far);
    let (lab, a1) = publishing(topology);
    works_by(&lab, &a1, "eth0", (H, R), &lab.r);
    // It comes, goes, and comes back.
    for _ in 0..2 {
        add(&lab.h, near);
        works_by(&lab, &a1, "eth0.5", (near, far), &lab.r);
        // The published port answers at both addresses, each by its own link.
        assert_eq!(lab.r.reach(Proto::Tcp, at(near.v4, 8080)).source.ip(), IpAddr::V4(far.v4));
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).source.ip(), IpAddr::V4(R.v4));
        lab.h.ip_batch("link del eth0.5");
        lab.until_no_uplink("eth0.5");
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).server, "a1");
    }
}

/// Two cables between H and R, both below one device of this kind on either side.
fn over_two_cables(kind: &str) {
    let topology = Topology::new();
    topology.h.connect("cable1", &topology.r, "cable1");
    for (ns, first) in [(&topology.h, "eth0"), (&topology.r, "eth0")] {
        ns.ip_batch(&format!("link add both type {kind}\nlink set {first} down\nlink set cable1 down"));
        ns.ip_batch(&format!("link set {first} master both\nlink set cable1 master both"));
        ns.ip_batch(&format!("link set {first} up\nlink set cable1 up"));
    }
    move_addresses(&topology, "both", "both");
    topology.h.ip_batch("route flush dev eth0");
    topology.r.ip_batch(&format!(
        "route replace 172.16.0.0/12 via {}\nroute replace fd00:c::/32 via {}",
        H.v4, H.v6
    ));
    let (r, h) = (topology.r.clone(), topology.h.clone());
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    lab.until_uplinks("the device above alone", |uplinks| {
        let named = |name: &str| uplinks.iter().any(|uplink| uplink.starts_with(&format!("{name} ")));
        named("both") && !named("eth0") && !named("cable1")
    });
    works_by(&lab, &a1, "both", (H, R), &r);
    // One cable is cut: the other carries on.
    let mut stream = r.connect_stream(at(H.v4, 8080)).0;
    h.ip_batch("link set eth0 down");
    r.ip_batch("link set eth0 down");
    stream.patience(netd_tests::PATIENCE * 6);
    stream.echo(b"by the other cable").expect("the stream goes on");
    for ns in [&h, &r] {
        ns.ip_batch("link set eth0 up");
    }
    works_by(&lab, &a1, "both", (H, R), &r);
}

#[test]
fn a_bond_is_an_uplink_and_its_ports_are_none() {
    if can_make("bonding", "link add both type bond mode active-backup miimon 10") {
        over_two_cables("bond mode active-backup miimon 10");
    }
}

#[test]
fn a_wireguard_device_is_an_uplink() {
    if !can_make("WireGuard", "link add wg0 type wireguard") {
        return;
    }
    if Command::new("wg").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: no `wg` here: install wireguard-tools");
        return;
    }
    let topology = Topology::new();
    let host = |host| Host {
        v4: Ipv4Addr::new(10, 0, 7, host),
        v6: Ipv6Addr::new(0xfd00, 0xa, 7, 0, 0, 0, 0, host.into()),
    };
    let (near, far) = (host(2), host(3));
    let keys = ["H", "R"].map(|_| {
        let private = tool("wg", &["genkey"], None);
        let public = tool("wg", &["pubkey"], Some(&private));
        (private, public)
    });
    let dir = tempfile::tempdir().expect("a directory");
    for (index, (ns, own, peer)) in [(&topology.h, near, R), (&topology.r, far, H)].into_iter().enumerate() {
        let file = dir.path().join(format!("key{index}"));
        std::fs::write(&file, &keys[index].0).expect("write a key");
        ns.ip_batch("link add wg0 type wireguard");
        let file = file.to_str().expect("UTF-8");
        let endpoint = format!("{}:51820", peer.v4);
        let out = ns.output(Command::new("wg").args([
            "set",
            "wg0",
            "listen-port",
            "51820",
            "private-key",
            file,
            "peer",
            &keys[1 - index].1,
            "endpoint",
            &endpoint,
            "allowed-ips",
            "0.0.0.0/0,::/0",
        ]));
        assert!(out.status.success(), "wg set: {}", String::from_utf8_lossy(&out.stderr));
        ns.ip_batch(&format!(
            "link set wg0 up\naddr add {}/24 dev wg0\naddr add {}/64 dev wg0 nodad",
            own.v4, own.v6
        ));
    }
    topology.r.ip_batch(&format!(
        "route replace 172.20.0.0/24 via {} dev wg0\nroute replace fd00:c:20::/64 via {} dev wg0",
        near.v4, near.v6
    ));
    let (lab, a1) = publishing(topology);
    works_by(&lab, &a1, "wg0", (near, far), &lab.r);
    works_by(&lab, &a1, "eth0", (H, R), &lab.r);
    // Tunnelled packets are the host's own: nothing that netd has on eth0 takes them for a sandbox's.
    assert_eq!(lab.h.reach(Proto::Tcp, at(a1.ip(Family::V4), 80)).server, "a1");
}

/// Runs a program to its end, and returns what it printed, trimmed.
fn tool(program: &str, args: &[&str], input: Option<&str>) -> String {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("start {program}: {e}"));
    child.stdin.take().expect("stdin").write_all(input.unwrap_or_default().as_bytes()).expect("write");
    let out = child.wait_with_output().expect("its end");
    assert!(out.status.success(), "{program} {args:?}");
    String::from_utf8(out.stdout).expect("text").trim().to_owned()
}

#[test]
fn an_ip_in_ip_tunnel_is_an_uplink_of_ipv4() {
    let tunnel =
        |near: Ipv4Addr, far: Ipv4Addr| format!("link add ipip1 type ipip local {near} remote {far}");
    if !can_make("IP in IP", &tunnel(Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3))) {
        return;
    }
    let topology = Topology::new();
    let (near, far) = (Ipv4Addr::new(10, 0, 6, 2), Ipv4Addr::new(10, 0, 6, 3));
    for (ns, own, local, remote) in [(&topology.h, near, H.v4, R.v4), (&topology.r, far, R.v4, H.v4)] {
        ns.ip_batch(&format!("{}\nlink set ipip1 up\naddr add {own}/24 dev ipip1", tunnel(local, remote)));
    }
    let (lab, a1) = publishing(topology);
    lab.until_uplink("ipip1");
    let _server = Server::bind(&lab.r, &Proto::BOTH.map(|proto| (proto, at(far, 80))));
    for proto in Proto::BOTH {
        assert_eq!(a1.reach(proto, at(far, 80)).source.ip(), IpAddr::V4(near), "{proto:?} outwards");
        let seen = lab.r.reach(proto, at(near, 8080));
        assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", IpAddr::V4(far)), "{proto:?}");
    }
    let (mut stream, _) = lab.r.connect_stream(at(near, 8080));
    stream.echo(&vec![0x5a; 200_000]).expect("a stream");
}

#[test]
fn a_ppp_link_is_an_uplink() {
    let topology = Topology::new();
    let _line = match Ppp::between(&topology.h, &topology.r) {
        Ok(line) => line,
        Err(error) => {
            println!("skipped: no PPP here: {error}");
            return;
        }
    };
    let host = |host| Host {
        v4: Ipv4Addr::new(10, 0, 8, host),
        v6: Ipv6Addr::new(0xfd00, 0xa, 8, 0, 0, 0, 0, host.into()),
    };
    let (near, far) = (host(2), host(3));
    let beyond =
        Host { v4: Ipv4Addr::new(198, 51, 100, 3), v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 3) };
    for (ns, own, peer) in [(&topology.h, near, far), (&topology.r, far, near)] {
        ns.ip_batch(&format!(
            "addr add {} peer {}/32 dev ppp0\naddr add {} peer {}/128 dev ppp0 nodad",
            own.v4, peer.v4, own.v6, peer.v6
        ));
    }
    // As pppd has it: the default route names the device alone.
    topology.h.ip_batch("route add default dev ppp0\nroute add ::/0 dev ppp0");
    topology.r.ip_batch(&format!(
        "addr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n\
         route replace 172.20.0.0/24 dev ppp0\nroute replace fd00:c:20::/64 dev ppp0",
        beyond.v4, beyond.v6
    ));
    let (lab, a1) = publishing(topology);
    works_by(&lab, &a1, "ppp0", (near, far), &lab.r);
    let _server = Server::bind(&lab.r, &Family::BOTH.map(|family| (Proto::Tcp, at(beyond.ip(family), 80))));
    for family in Family::BOTH {
        let seen = a1.reach(Proto::Tcp, at(beyond.ip(family), 80));
        assert_eq!(seen.source.ip(), near.ip(family), "by the default route");
    }
    works_by(&lab, &a1, "eth0", (H, R), &lab.r);
}

#[test]
fn a_port_of_a_vrf_is_no_uplink_and_the_host_goes_on() {
    if !can_make("VRF", "link add red type vrf table 200") {
        return;
    }
    let topology = Topology::new();
    topology.h.ip_batch("link add red type vrf table 200\nlink set red up");
    let (lab, a1) = publishing(topology);
    works_by(&lab, &a1, "eth0", (H, R), &lab.r);
    lab.h.ip_batch("link set eth1 master red");
    lab.until_no_uplink("eth1");
    works_by(&lab, &a1, "eth0", (H, R), &lab.r);
    lab.h.ip_batch("link set eth1 nomaster");
    lab.h.ip_batch(&format!("addr replace {}/64 dev eth1 nodad", netd_tests::H1.v6));
    lab.until_uplink("eth1");
}
