//! Rung: namespaces, dataplane §12 cases 55, 57, 59 to 61. Errors about translated flows reach whom they concern.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use netd_tests::{
    Capture, Family, H, Lab, Options, Outcome, PATIENCE, Proto, R, Server, Topology, at, eventually,
    far::{X, lab_with_a_far_host, quoted},
};

#[test]
fn case57_a_closed_port_outside_refuses_the_sandboxs_datagrams() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        assert_eq!(a1.attempt(Proto::Udp, at(R.ip(family), 81)), Outcome::Refused, "{family:?}");
    }
}

#[test]
fn case61_a_closed_port_inside_refuses_in_the_hosts_name() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:81/udp"]);
    let wire = Capture::start(&lab.r, "eth0");
    for family in Family::BOTH {
        assert_eq!(lab.r.attempt(Proto::Udp, at(H.ip(family), 8080)), Outcome::Refused, "{family:?}");
        let expected = if family == Family::V4 { 3 } else { 1 };
        let error = wire.wait("port unreachable", Duration::from_secs(5), |p| {
            !p.outgoing && quoted(p).is_some_and(|q| q.0 == expected)
        });
        assert_eq!(error.src, Some(H.ip(family)));
        assert_eq!(quoted(&error), Some((expected, R.ip(family), H.ip(family))));
    }
}

#[test]
fn case59_a_stream_out_finds_the_narrow_link() {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&x, &[80]);
    for family in Family::BOTH {
        let (mut stream, seen) = a1.connect_stream(at(X.ip(family), 80));
        assert_eq!(seen.source.ip(), H.ip(family));
        for _ in 0..5 {
            stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
        }
    }
}

#[test]
fn case60_a_published_server_finds_the_narrow_link() {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    for family in Family::BOTH {
        let (mut stream, seen) = x.connect_stream(at(H.ip(family), 8080));
        assert_eq!(seen.source.ip(), X.ip(family));
        for _ in 0..5 {
            stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
        }
    }
}

#[test]
fn case60_an_ipv4_only_server_finds_the_narrow_link_to_an_ipv6_client() {
    let (lab, [_y, x]) = lab_with_a_far_host(1300);
    lab.netd(&["network", "create", "--subnet", "172.20.0.0/24", "netV"]).ok();
    let v1 = lab.sandbox_with("v1", &["--network", "netV,ip=172.20.0.2", "-p", "8080:80"]).serving(&[80]);
    let (mut stream, seen) = x.connect_stream(at(H.v6, 8080));
    assert_eq!(seen.source.ip(), IpAddr::from([172, 20, 0, 1]));
    let errors = Capture::start(&v1, "eth0");
    for _ in 0..5 {
        stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the path's MTU");
    }
    // Fragmentation needed, in IPv4, about the sandbox's own packet to its gateway.
    let own = (3, IpAddr::from([172, 20, 0, 2]), IpAddr::from([172, 20, 0, 1]));
    errors.wait("fragmentation needed", PATIENCE, |packet| quoted(packet) == Some(own));
}

#[test]
fn case76_a_narrow_uplink_is_told_to_the_sandbox() {
    let topology = Topology::new();
    topology.h.ip_batch("link set eth0 mtu 1400");
    topology.r.ip_batch("link set eth0 mtu 1400");
    let lab = Lab::on(topology, &Options::default());
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        if family == Family::V6 {
            // Routers do not fragment: the first datagram comes to nothing, and the sender is told (RFC 8201 §4).
            let told = a1.try_datagram(at(R.ip(family), 80), 4_000).expect_err("too big for the uplink");
            assert_eq!(told.raw_os_error(), Some(libc::EMSGSIZE), "{told}");
        }
        for (client, to) in [(&*a1, at(R.ip(family), 80)), (&lab.r, at(H.ip(family), 8080))] {
            let (mut stream, _) = client.connect_stream(to);
            for _ in 0..5 {
                stream.echo(&vec![0x5a; 60_000]).expect("the stream finds the uplink's MTU");
            }
            client.exchange_datagram(to, 4_000);
        }
    }
}

/// The sum of RFC 1071, folded.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

/// An IP packet without options or, in IPv6, with these extension headers, the first of type `next`.
fn ip_packet(from: IpAddr, to: IpAddr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short packet");
    let mut bytes = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 7, 0, 0, 64, next, 0, 0];
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            header.extend(from.octets().into_iter().chain(to.octets()));
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, next, 64];
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header.extend(from.octets().into_iter().chain(to.octets()));
            header
        }
        _ => panic!("a packet from {from} to {to}"),
    };
    bytes.extend_from_slice(payload);
    bytes
}

/// "Port unreachable" about a quoted packet, from `R` to `H`, as a frame.
fn port_unreachable(lab: &Lab, family: Family, to: IpAddr, quote: &[u8]) -> Vec<u8> {
    let mut icmp =
        if family == Family::V4 { vec![3, 3, 0, 0, 0, 0, 0, 0] } else { vec![1, 4, 0, 0, 0, 0, 0, 0] };
    icmp.extend_from_slice(quote);
    let mut covered = Vec::new();
    if let (IpAddr::V6(from), IpAddr::V6(to)) = (R.ip(family), to) {
        covered.extend(from.octets().into_iter().chain(to.octets()));
        covered.extend(u32::try_from(icmp.len()).expect("a short message").to_be_bytes());
        covered.extend([0, 0, 0, 58]);
    }
    covered.extend_from_slice(&icmp);
    let sum = checksum(&covered).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    let (near, far) = (lab.h.link("eth0").expect("eth0"), lab.r.link("eth0").expect("eth0"));
    let ethertype = if family == Family::V4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let next = if family == Family::V4 { 1 } else { 58 };
    [&near.mac[..], &far.mac[..], &ethertype[..], &ip_packet(R.ip(family), to, next, &icmp)].concat()
}

/// The first eight bytes of a datagram.
fn datagram(sport: u16, dport: u16) -> Vec<u8> {
    [sport, dport, 16, 0xabcd].iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[test]
fn t04_an_error_about_a_sandboxs_flow_is_believed_and_a_forged_one_is_not() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let (r, h, h1) = (R.ip(family), H.ip(family), netd_tests::H1.ip(family));
        let socket = a1.run(|| UdpSocket::bind(at(family.any(), 5_000)).expect("a socket"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send_to(b"who?", at(r, 80)).expect("send");
        let mut buffer = [0; 256];
        let length = socket.recv_from(&mut buffer).expect("an answer").0;
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let seen = line.lines().next().and_then(|line| line.split_once(" sees ")).expect("an answer").1;
        let port = seen.parse::<std::net::SocketAddr>().expect("an address").port();

        let (wire, inside) = (Capture::start(&lab.r, "eth0"), a1.capture());
        let quote = |from, sport, dport| ip_packet(from, r, 17, &datagram(sport, dport));
        let kind = if family == Family::V4 { 3 } else { 1 };
        let forged = [
            ("of another address of the host", h, quote(h1, port, 80)),
            ("to another address of the host", h1, quote(h, port, 80)),
            ("of a port that nobody uses", h, quote(h, port ^ 1, 80)),
            ("of another server's port", h, quote(h, port, 81)),
            ("of seven bytes", h, quote(h, port, 80)[..if family == Family::V4 { 27 } else { 47 }].to_vec()),
        ];
        for (_, to, quote) in &forged {
            wire.send(&port_unreachable(&lab, family, *to, quote));
        }
        // The control comes last: what was sent before it has arrived before it.
        let mut honest = vec![quote(h, port, 80)];
        if family == Family::V6 {
            let options = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &datagram(port, 80)].concat();
            honest.push(ip_packet(h, r, 60, &options)); // behind destination options
        }
        for quote in honest {
            wire.send(&port_unreachable(&lab, family, h, &quote));
            let mut errors = Vec::new();
            eventually("the honest error", || {
                let arrived = inside.take().into_iter().filter(|packet| !packet.outgoing);
                errors.extend(arrived.filter_map(|packet| quoted(&packet)).filter(|error| error.0 == kind));
                !errors.is_empty()
            });
            assert_eq!(errors, [(kind, a1.ip(family), r)], "{family:?}: forged errors stay outside");
        }
    }
}
