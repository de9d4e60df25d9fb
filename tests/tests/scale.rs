//! Rung: scale (reliability F19, L10). Small here; `cargo xtask scale` has a million flows, a thousand networks, a bridge with every port and 60,000 published
//! ports, and prints what it saw.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use netd_common::{
    maps::{Flow, Tuple, flow_flags},
    net::{Addr4, Be16},
};
use netd_tests::{
    Family, H, Lab, Options, Outcome, Proto, R2, Server, at, eventually,
    probe::{Kind, Probe},
};
use serde_json::Value;

type Flows = HashMap<MapData, Tuple<Addr4>, Flow<Addr4>>;

fn status(lab: &Lab) -> Value {
    serde_json::from_str(&lab.netd(&["status", "--format", "json"]).ok()).expect("JSON")
}

fn flow_table(lab: &Lab) -> Flows {
    let pins =
        fs::read_dir(lab.daemon.dirs().bpffs()).expect("pins").flatten().next().expect("a layout").path();
    Map::HashMap(MapData::from_pin(pins.join("FLOW4")).expect("the table")).try_into().expect("a hash map")
}

/// Makes so many flows of one: to other peers, and otherwise the same. Every other one saw its last packet long ago.
fn multiply(table: &mut Flows, peer: SocketAddr, count: u32) {
    let all: Vec<(Tuple<Addr4>, Flow<Addr4>)> = table.iter().flatten().collect();
    let port = Be16::from(peer.port());
    let to = |(key, _): &&(Tuple<Addr4>, Flow<Addr4>)| key.dport == port && key.proto == 6;
    let (key, flow) = *all.iter().find(to).expect("the flow");
    let opener = flow.flags & flow_flags::ORIGINAL != 0;
    assert!(opener, "the way there is the opener's");
    let back = |(key, _): &&(Tuple<Addr4>, Flow<Addr4>)| key.sport == port && key.dport == flow.sport;
    let (back_key, back_flow) = *all.iter().find(back).expect("its way back");
    for number in 0..count {
        // 198.18.0.0/15 is for measurements (RFC 2544); 256 ports of each address.
        let addr = Addr4::from(Ipv4Addr::from(0xc612_0000 + (number >> 8)));
        let port = Be16::from(1024 + u16::try_from(number & 0xff).expect("a byte"));
        let idle = number % 2 == 1;
        let aged = |flow: Flow<Addr4>| {
            // Two years of ticks ago.
            let then = flow.last_seen.wrapping_sub(1 << 30) | 1;
            if idle { Flow { last_seen: then, created: then, ..flow } } else { flow }
        };
        let there = (Tuple { dst: addr, dport: port, ..key }, Flow { dst: addr, dport: port, ..aged(flow) });
        let back = (
            Tuple { src: addr, sport: port, ..back_key },
            Flow { src: addr, sport: port, ..aged(back_flow) },
        );
        for (key, flow) in [there, back] {
            table.insert(key, flow, 0).expect("there is room");
        }
    }
}

/// Fills the table with so many flows, half of which have expired, and lets a stream and datagrams go through while the collector works.
fn collected(flows: u32) {
    let entries = (flows * 2 + 4096).next_power_of_two();
    let config = format!("[flows]\nentries = {entries}\nper_endpoint = {entries}\n");
    let lab = Lab::with(&Options { config, ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let a2 = lab.sandbox("a2", net, 3, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _server = Server::start(&lab.r2, &[80]);
    let peer = at(R2.ip(Family::V4), 80);
    let (mut stream, _) = a1.connect_stream(peer);
    let probes = [(Kind::Stream, Proto::Tcp), (Kind::Datagrams, Proto::Udp)]
        .map(|(kind, _)| Probe::start(&lab.r, kind, at(H.ip(Family::V4), 8080)));
    let began = Instant::now();
    multiply(&mut flow_table(&lab), peer, flows);
    eprintln!("{flows} flows made in {:.1?}", began.elapsed());

    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    let wanted = u64::from(flows) * 2 / 5; // some may be counted at the next look
    let deadline = Instant::now() + Duration::from_mins(5);
    loop {
        let asked = Instant::now();
        let now = status(&lab);
        slowest = slowest.max(asked.elapsed());
        let table = &now["Flows"]["Tables"][0];
        let (left, gone) = (table["Entries"].as_u64(), table["Reclaimed"].as_u64());
        if gone.is_some_and(|gone| gone >= wanted) && left.is_some_and(|left| left >= u64::from(flows) / 2) {
            eprintln!("looked through and half removed after {:.1?}: {table}", began.elapsed());
            break;
        }
        assert!(Instant::now() < deadline, "not collected: {now}");
    }
    eprintln!("the slowest `netd status` meanwhile took {slowest:.1?}");
    for _ in 0..2 {
        for probe in &probes {
            probe.beat(200);
        }
    }
    stream.echo(b"still there").expect("the flow that the others were made of");
    a2.reach(Proto::Tcp, peer);
    let began = Instant::now();
    lab.netd(&["flow", "flush", "--filter", "sandbox=a1"]).ok();
    eprintln!("the rest was flushed in {:.1?}", began.elapsed());
    for probe in probes {
        probe.beat(20);
        let report = probe.finish();
        eprintln!("{}: {} answers, longest gap {:.1?}", report.name, report.answered, report.gap);
        assert!(report.is_clean(), "{report:?}");
    }
}

#[test]
fn f19_expired_flows_are_collected_while_packets_go_on() {
    collected(10_000);
}

#[test]
#[ignore = "takes a gigabyte and minutes: `cargo xtask scale`"]
fn f19_a_million_flows_are_collected_while_packets_go_on() {
    collected(1_000_000);
}

#[test]
#[ignore = "takes minutes: `cargo xtask scale`"]
fn f19_a_thousand_networks_come_work_and_go() {
    let mut lab = Lab::new();
    let name = |number: u32| format!("n{number}");
    let began = Instant::now();
    for number in 0..1000 {
        let subnet = format!("10.{}.{}.0/24", 128 + number / 256, number % 256);
        lab.netd(&["network", "create", "--subnet", &subnet, &name(number)]).ok();
    }
    eprintln!("1,000 networks made in {:.1?}", began.elapsed());
    let server = lab.sandbox_with("last", &["--network", "n999", "-p", "8080:80"]).serving(&[80]);
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(Family::V4), 8080)).server, "last");
    let began = Instant::now();
    lab.daemon.end(nix::sys::signal::Signal::SIGKILL);
    lab.daemon.restart();
    eprintln!("started again in {:.1?}, with {} KiB of memory", began.elapsed(), memory(&lab));
    assert_eq!(status(&lab)["Networks"], 1001);
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(Family::V4), 8080)).server, "last");
    drop(server);
    lab.netd(&["sandbox", "rm", "-f", "last"]).ok();
    let began = Instant::now();
    lab.netd(&["network", "prune", "-f"]).ok();
    eprintln!("removed in {:.1?}", began.elapsed());
    assert_eq!(status(&lab)["Networks"], 1);
}

#[test]
#[ignore = "takes minutes: `cargo xtask scale`"]
fn f19_a_bridge_takes_1023_endpoints_and_the_next_one_is_told_why() {
    let lab = Lab::new();
    lab.netd(&["network", "create", "--subnet", "10.128.0.0/20", "full"]).ok();
    let began = Instant::now();
    for number in 1..=1023 {
        lab.netd(&["sandbox", "create", "--network", "full", &format!("s{number}")]).ok();
    }
    eprintln!("1,023 sandboxes made in {:.1?}, with {} KiB of memory", began.elapsed(), memory(&lab));
    let refused = lab.netd(&["sandbox", "create", "--network", "full", "s1024"]);
    eprintln!("the next: {}", refused.stderr.trim_end());
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("1023"), "the limit is named: {}", refused.stderr);
    assert_eq!(lab.netd(&["sandbox", "inspect", "s1024"]).code, 3, "nothing of it is left");
    let (first, last) = (lab.open("s1"), lab.open("s1023"));
    let address = lab.inspect("s1023")["NetworkSettings"]["Networks"]["full"]["IPAddress"].clone();
    first.ping(address.as_str().and_then(|text| text.parse::<IpAddr>().ok()).expect("an address"));
    drop((first, last));
    lab.netd(&["sandbox", "rm", "-f", "s1"]).ok();
    lab.netd(&["sandbox", "create", "--network", "full", "s1024"]).ok();
}

#[test]
#[ignore = "takes a minute: `cargo xtask scale`"]
fn f19_60000_published_ports_take_16_mib_and_no_socket() {
    const PORTS: &str = "5000-64999:5000-64999";
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "80:80"]).serving(&[5000, 64_999]);
    let (before, open) = (memory(&lab), descriptors(&lab));
    let began = Instant::now();
    lab.netd(&["publish", "a1", PORTS]).ok();
    eprintln!("60,000 ports published in {:.1?}", began.elapsed());
    for port in [5000, 64_999] {
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(Family::V4), port)).server, "a1");
    }
    assert_eq!(lab.r.probe(Proto::Tcp, at(H.ip(Family::V4), 4999)), Outcome::Refused);
    assert!(descriptors(&lab) <= open, "no socket for a port");
    // What the request took is given back within some collections.
    eventually("the ports take 16 MiB at most", || memory(&lab) <= before + 16 * 1024);
    eprintln!("memory {before} KiB before, {} KiB with them", memory(&lab));
    let began = Instant::now();
    lab.netd(&["unpublish", "a1", PORTS]).ok();
    eprintln!("taken back in {:.1?}", began.elapsed());
    assert_eq!(lab.r.probe(Proto::Tcp, at(H.ip(Family::V4), 5000)), Outcome::Refused);
    drop(a1);
}

/// Resident memory of the daemon's own, in KiB.
fn memory(lab: &Lab) -> u64 {
    let pid = lab.daemon.pid().expect("a daemon");
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("procfs");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn descriptors(lab: &Lab) -> usize {
    let pid = lab.daemon.pid().expect("a daemon");
    fs::read_dir(format!("/proc/{pid}/fd")).expect("procfs").count()
}
