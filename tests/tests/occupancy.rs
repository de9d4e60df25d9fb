//! Rung: namespaces, reliability S17, F8. How full the flow tables are, who fills them and what found no room: in `status` and in the metrics.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
};

use netd_tests::{Family, Lab, Options, Proto, R2, Server, at, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A sandbox may have 64 of 256 IPv4 flows; those that nobody answers live for so many seconds.
fn config(seconds: u32) -> String {
    format!("[flows]\nentries = 512\nper_endpoint = 128\n[timeouts]\nudp = {seconds}\n")
}

fn status(lab: &Lab) -> Value {
    serde_json::from_str(&lab.netd(&["status", "--format", "json"]).ok()).expect("JSON")
}

/// The metrics by name and labels, as they are printed.
fn metrics(lab: &Lab) -> BTreeMap<String, f64> {
    let text = lab.netd(&["metrics"]).ok();
    assert!(text.ends_with("# EOF"), "a scraper needs to know that it has all: {text}");
    let values = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    });
    values.collect()
}

#[test]
fn s17_status_and_metrics_say_how_full_the_flow_tables_are_and_who_fills_them() {
    let mut lab = Lab::with(&Options { config: config(600), ..Options::default() });
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    let _server = Server::start(&lab.r2, &[80]);
    a2.reach(Proto::Udp, at(R2.ip(Family::V4), 80));
    let empty = status(&lab);
    assert_eq!(empty["Flows"]["Tables"][0]["Map"], "FLOW4");
    assert_eq!(empty["Flows"]["Tables"][0]["Capacity"], 512);
    assert_eq!(empty["Flows"]["Tables"][0]["EndpointQuota"], 128);
    for reason in ["TABLE_FULL", "OVER_QUOTA", "NAT_EXHAUSTED"] {
        assert_eq!(empty["Flows"]["Refused"][reason], 0, "{empty}");
    }

    // More flows than a sandbox may have, to ports where nobody answers.
    let nobody: Vec<SocketAddr> = (1..=200).map(|port| at(R2.ip(Family::V4), 10_000 + port)).collect();
    a1.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for to in nobody {
            let _ = socket.send_to(b"anybody?", to); // a refusal may come from the one before
        }
    });
    eventually("the fullest sandbox is named", || {
        let now = status(&lab);
        let (first, table) = (&now["Fullest"][0], &now["Flows"]["Tables"][0]);
        first["Sandbox"] == "a1"
            && first["Network"] == "netA"
            && first["Entries"].as_u64().is_some_and(|entries| entries > 60)
            && table["Entries"].as_u64() >= first["Entries"].as_u64()
    });
    let refused = status(&lab)["Flows"]["Refused"]["OVER_QUOTA"].as_u64().expect("a number");
    let refused = u32::try_from(refused).expect("a few");
    assert!(refused > 0 && refused <= 200, "{refused} of 200 found no room");
    lab.daemon.configure(&config(1));
    lab.daemon.end(Signal::SIGTERM);
    lab.daemon.restart();
    eventually("what expired is counted", || {
        let table = status(&lab)["Flows"]["Tables"][0].clone();
        table["Reclaimed"].as_u64().is_some_and(|entries| entries > 60)
    });

    let metrics = metrics(&lab);
    let of = |name: &str| *metrics.get(name).unwrap_or_else(|| panic!("no {name} in {metrics:#?}"));
    assert!(of("netd_conntrack_insert_failures_total{reason=\"OVER_QUOTA\"}") >= f64::from(refused));
    assert!(of("netd_conntrack_reclaimed_total{map=\"FLOW4\"}") > 60.0);
    let whole = |name: &str| format!("{:.0}", of(name));
    assert_eq!(whole("netd_conntrack_capacity{map=\"FLOW4\"}"), "512");
    assert_eq!(whole("netd_conntrack_endpoint_quota{map=\"FLOW4\"}"), "128");
    let (entries, ratio) =
        (of("netd_conntrack_entries{map=\"FLOW4\"}"), of("netd_map_pressure_ratio{map=\"FLOW4\"}"));
    assert!((ratio - entries / 512.0).abs() < 1e-9, "{entries} entries are not {ratio}");
    assert_eq!((whole("netd_sandboxes").as_str(), whole("netd_degraded").as_str()), ("2", "0"));
    assert!(of("netd_drops_total{reason=\"OVER_QUOTA\"}") >= f64::from(refused));
    // Each of some sixty flows to one address took a port, few of them at more than the first tries.
    let (ports, tries) = (of("netd_nat_port_tries_count"), of("netd_nat_port_tries_sum"));
    assert!(ports > 60.0 && tries >= ports, "{ports} ports at {tries} tries");
    assert!((of("netd_nat_port_tries_bucket{le=\"+Inf\"}") - ports).abs() < 0.5);
    assert!(of("netd_nat_port_tries_bucket{le=\"1.0\"}") > 0.0);
}
