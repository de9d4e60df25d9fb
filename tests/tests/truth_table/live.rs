//! T71 to T75: full tables, fragments, and publishes that come and go under traffic.

use netd_tests::{
    Family, H, Lab, Net, Options, Outcome, Proto, R, SILENCE, Sandbox, Server, Silence, at, denied,
    truth::{Row, Stage, Who, World, row, story},
};

pub fn rows() -> Vec<Row> {
    vec![
        row(
            71,
            "a full table and an exhausted range drop only new flows",
            [
                story(
                    "tcp",
                    "a1 → R:80, 33 flows from 32 ports",
                    "the last SYN dropped",
                    Stage::Own(exhausted),
                ),
                story("tcp", "a1 → R:80, table of 64", "new SYNs dropped", Stage::Own(full)),
            ],
        ),
        row(
            72,
            "fragmented datagrams pass in every direction",
            [story("udp", "a1 ⇄ R, R → H:8080, 4 to 8 KiB", "OK, intact", Stage::Shared(fragments))],
        ),
        row(
            73,
            "datagrams stop at once when their port is unpublished",
            [story(
                "udp",
                "R → H:8080 from one port, unpublished",
                "silent at once, RST",
                Stage::Own(unpublished),
            )],
        ),
        row(
            74,
            "datagrams of a running client reach a port once it is published",
            [story(
                "udp",
                "R → H:8080, H:81, then published",
                "OK by the next one",
                Stage::Own(published_late),
            )],
        ),
        row(
            75,
            "a removed sandbox's clients never reach the next owner of its address",
            [story(
                "tcp udp",
                "R → H:8080 of a1, then another has the address",
                "RST or nothing",
                Stage::Own(next_owner),
            )],
        ),
    ]
}

fn lab_with_a1(publish: &[&str], config: &str) -> (Lab, Net, Sandbox) {
    let lab = Lab::with(&Options { config: config.into(), ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, publish).serving(&[80, 81]);
    (lab, net, a1)
}

fn exhausted(family: Family) {
    let (lab, _net, a1) = lab_with_a1(&[], "[flows]\nentries = 4096\n[nat]\nport_range = \"20000-20031\"\n");
    let _servers = (Server::start(&lab.r, &[80]), Server::start(&lab.r2, &[80]));
    let to = at(R.ip(family), 80);
    let mut streams: Vec<_> = (0..32).map(|_| a1.connect_stream(to)).collect();
    let mut ports: Vec<_> = streams.iter().map(|(_, seen)| seen.source.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 32, "two live flows never share a port towards one destination");
    denied(&lab, &lab.r, &["NAT_EXHAUSTED"], || {
        assert_eq!(a1.probe(Proto::Tcp, to), Outcome::Timeout);
    });
    a1.reach(Proto::Tcp, at(netd_tests::R2.ip(family), 80));
    for (stream, _) in &mut streams {
        stream.echo(b"still here").expect("established flows go on");
    }
}

fn full(family: Family) {
    // IPv6 has a quarter of the entries (dataplane 7.2).
    let entries = if family == Family::V4 { 64 } else { 256 };
    let config = format!("[flows]\nentries = {entries}\nper_endpoint = {entries}\n");
    let (lab, _net, a1) = lab_with_a1(&[], &config);
    let _server = Server::start(&lab.r, &[80]);
    let to = at(R.ip(family), 80);
    let mut streams = Vec::new();
    while let Ok(stream) = a1.run(|| netd_tests::connect(to, None, SILENCE)) {
        streams.push(stream);
        assert!(streams.len() < 64, "a table of 64 entries holds 32 flows");
    }
    assert!(streams.len() >= 24, "only {} flows fit into 64 entries", streams.len());
    denied(&lab, &lab.r, &["TABLE_FULL", "OVER_QUOTA"], || {
        assert_eq!(a1.probe(Proto::Tcp, to), Outcome::Timeout);
    });
    for mut stream in streams {
        let mut greeting = [0; 1];
        std::io::Read::read_exact(&mut stream, &mut greeting).expect("established flows go on");
    }
}

fn fragments(world: &World, family: Family) {
    let a1 = world.sandbox(Who::A1);
    for size in [1_600, 4_096, 8_000] {
        a1.exchange_datagram(at(R.ip(family), 80), size);
        world.r.exchange_datagram(at(H.ip(family), 8080), size);
        world.sandbox(Who::A2).exchange_datagram(at(H.ip(family), 8080), size);
    }
}

fn unpublished(family: Family) {
    let (lab, _, a1) = lab_with_a1(&["-p", "8080:80/udp"], "");
    let (to, from) = (at(H.ip(family), 8080), family.from_port(40_000));
    assert_eq!(lab.r.reach_from(Proto::Udp, to, from).server, "a1");
    let silence = Silence::watch(&a1);
    lab.netd(&["unpublish", "a1", "8080:80/udp"]).ok();
    assert_eq!(lab.r.dial(Proto::Udp, to, from, SILENCE), Outcome::Refused);
    silence.assert("after unpublish");
}

fn published_late(family: Family) {
    let (lab, _, _a1) = lab_with_a1(&[], "");
    for (host, spec) in [(8080, "8080:80/udp"), (81, "81:81/udp")] {
        let (to, from) = (at(H.ip(family), host), family.from_port(40_000));
        assert_eq!(lab.r.dial(Proto::Udp, to, from, SILENCE), Outcome::Refused);
        lab.netd(&["publish", "a1", spec]).ok();
        assert_eq!(lab.r.reach_from(Proto::Udp, to, from).server, "a1");
        lab.netd(&["unpublish", "a1", spec]).ok();
    }
}

fn next_owner(family: Family) {
    let (lab, net, a1) = lab_with_a1(&["-p", "8080:80", "-p", "8080:80/udp"], "");
    let to = at(H.ip(family), 8080);
    let (mut stream, _) = lab.r.connect_stream(to);
    lab.r.reach_from(Proto::Udp, to, family.from_port(40_000));
    drop(a1);
    lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    let next = lab.sandbox("next", net, 2, &["-p", "9090:80", "-p", "9090:80/udp"]).serving(&[80, 8080]);
    let silence = Silence::watch(&next);
    stream.patience(SILENCE);
    stream.echo(b"for a1").expect_err("a1 is gone");
    let outcome = lab.r.dial(Proto::Udp, to, family.from_port(40_000), SILENCE);
    assert!(outcome.seen().is_none(), "{family:?}");
    silence.assert("the next owner of the address");
    for proto in Proto::BOTH {
        assert_eq!(lab.r.reach(proto, at(H.ip(family), 9090)).server, "next");
    }
}
