//! Rung: namespaces. What `netd explain` says is what real packets then meet, and it leaves no trace.

use std::{
    collections::BTreeSet,
    fmt::{Debug, Display},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use netd_common::{
    maps::{Flow, Pace, Pending, Place, Tuple},
    net::{Addr4, Addr6},
    verdict::DropReason,
};
use netd_tests::{
    Family, Frame, H, Lab, Net, Ns, Options, Outcome, Proto, R, R2, Sandbox, Server, at, denied, eventually,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Where a packet comes from and goes to, in words, and what becomes of it.
struct Case<'a> {
    from: String,
    to: String,
    extra: &'a [&'a str],
    reason: Option<&'a str>,
}

impl<'a> Case<'a> {
    fn passes(from: impl Display, to: impl Display) -> Self {
        Self { from: format!("{from}"), to: format!("{to}"), extra: &[], reason: None }
    }

    fn drops(from: impl Display, to: impl Display, reason: &'a str) -> Self {
        Self { reason: Some(reason), ..Self::passes(from, to) }
    }
}

/// What is pinned where packets leave their traces.
struct Traces(PathBuf);

impl Traces {
    fn of(lab: &Lab) -> Self {
        let pins = std::fs::read_dir(lab.daemon.dirs().bpffs()).expect("the pins").flatten();
        Self(pins.map(|entry| entry.path()).find(|path| path.join("PACE").exists()).expect("the maps"))
    }

    fn open(&self, name: &str) -> MapData {
        MapData::from_pin(self.0.join(name)).expect("a pinned map")
    }

    /// Every flow with its ports, age and all; drops; what endpoints have used up; who waits for what.
    fn read(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        self.table::<Tuple<Addr4>, Flow<Addr4>>("FLOW4", false, &mut all);
        self.table::<Tuple<Addr6>, Flow<Addr6>>("FLOW6", false, &mut all);
        self.table::<Place, Pending<Addr4>>("PENDING4", true, &mut all);
        self.table::<Place, Pending<Addr6>>("PENDING6", true, &mut all);
        self.table::<Tuple<Addr4>, u32>("ASKED4", true, &mut all);
        self.table::<Tuple<Addr6>, u32>("ASKED6", true, &mut all);
        self.array::<Pace>("PACE", &mut all);
        self.array::<u32>("USAGE4", &mut all);
        self.array::<u32>("USAGE6", &mut all);
        let drops: PerCpuArray<_, u64> = Map::PerCpuArray(self.open("DROPS")).try_into().expect("an array");
        for reason in DropReason::ALL {
            let counts = drops.get(&(*reason as u32), 0).expect("a counter");
            all.insert(format!("{reason:?} {}", counts.iter().sum::<u64>()));
        }
        all
    }

    fn table<K: Pod + Debug, V: Pod + Debug>(&self, name: &str, lru: bool, all: &mut BTreeSet<String>) {
        let map = self.open(name);
        let map = if lru { Map::LruHashMap(map) } else { Map::HashMap(map) };
        let map: HashMap<_, K, V> = map.try_into().expect("a table");
        all.extend(map.iter().flatten().map(|(key, value)| format!("{name} {key:?} {value:?}")));
    }

    fn array<V: Pod + Debug>(&self, name: &str, all: &mut BTreeSet<String>) {
        let map: Array<_, V> = Map::Array(self.open(name)).try_into().expect("an array");
        // The interfaces of a lab have small numbers.
        all.extend(
            (1..64).map(|ifindex| format!("{name} {ifindex} {:?}", map.get(&ifindex, 0).expect("one"))),
        );
    }
}

/// Explains a packet; nothing has changed after it, unless something else happened meanwhile.
fn explain(lab: &Lab, case: &Case<'_>) -> Value {
    let mut args = vec!["explain", "--format", "json"];
    args.extend(case.extra);
    args.extend([case.from.as_str(), case.to.as_str()]);
    let (traces, mut explained) = (Traces::of(lab), Value::Null);
    eventually(&format!("an explanation of {args:?} that changes nothing"), || {
        let before = traces.read();
        let run = lab.netd(&args);
        assert_eq!(run.code, i32::from(case.reason.is_some()), "{args:?}: {} {}", run.stdout, run.stderr);
        explained = serde_json::from_str(&run.stdout).expect("JSON");
        before == traces.read()
    });
    assert_eq!(explained["Passes"], case.reason.is_none(), "{args:?}: {explained}");
    assert_eq!(explained["Reason"].as_str(), case.reason, "{args:?}: {explained}");
    explained
}

fn steps(explained: &Value) -> Vec<(&str, &str, &str)> {
    let steps = explained["Steps"].as_array().expect("an array").iter();
    steps
        .map(|step| {
            let of = |key: &str| step[key].as_str().unwrap_or_default();
            (of("Program"), of("Interface"), of("Verdict"))
        })
        .collect()
}

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    _remotes: [Server; 2],
    a1: Sandbox,
    a2: Sandbox,
    b1: Sandbox,
    a: Net,
    lab: Lab,
}

const PUBLISHED: [&str; 8] = [
    "-p",
    "8080:80",
    "-p",
    "8080:80/udp",
    "-p",
    "9090:80,allow=10.0.0.3,allow=fd00:a::/64",
    "-p",
    "9090:80/udp,allow=10.0.0.3,allow=fd00:a::/64",
];

fn world() -> World {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &PUBLISHED).serving(&[80]);
    let a2 = lab.sandbox("a2", a, 3, &[]).serving(&[80]);
    let b1 = lab.sandbox("b1", b, 2, &[]).serving(&[90]);
    let remotes = [Server::start(&lab.r, &[80]), Server::start(&lab.r2, &[80])];
    World { _remotes: remotes, a1, a2, b1, a, lab }
}

fn word(proto: Proto, to: SocketAddr) -> String {
    match proto {
        Proto::Tcp => to.to_string(),
        Proto::Udp => format!("{to}/udp"),
    }
}

#[test]
fn what_passes_by_the_explanation_passes() {
    let w = world();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let outside: [(&Ns, String, SocketAddr, &str); 5] = [
                (&w.lab.r, R.ip(family).to_string(), at(H.ip(family), 8080), "a1"),
                (&w.lab.r, R.ip(family).to_string(), at(H.ip(family), 9090), "a1"),
                (&w.a1, "a1".into(), at(w.a2.ip(family), 80), "a2"),
                (&w.a1, "a1".into(), at(H.ip(family), 8080), "a1"),
                (&w.b1, "b1".into(), at(H.ip(family), 8080), "a1"),
            ];
            for (client, from, to, server) in outside {
                let explained = explain(&w.lab, &Case::passes(&from, word(proto, to)));
                let [(program, _, "redirect")] = steps(&explained)[..] else { panic!("{explained}") };
                assert_eq!(program, if from.contains(['.', ':']) { "from_uplink" } else { "from_endpoint" });
                let then = explained["Steps"][0]["Then"].as_str().expect("words").to_owned();
                assert!(then.starts_with(&format!("into {server} (")), "{explained}");
                assert_eq!(client.reach(proto, to).server, server, "{family:?} {proto:?} {from}");
            }
        }
        // The host itself: by its own address and by a published port.
        let own = explain(&w.lab, &Case::passes("host", at(w.a2.ip(family), 80)));
        let [("to_endpoint", _, "pass")] = steps(&own)[..] else { panic!("{own}") };
        assert_eq!(w.lab.h.reach(Proto::Tcp, at(w.a2.ip(family), 80)).server, "a2");
        let dialled = explain(&w.lab, &Case::passes("host", at(family.loopback(), 8080)));
        let [(socket, "", "redirect"), ("to_endpoint", _, "pass")] = steps(&dialled)[..] else {
            panic!("{dialled}")
        };
        assert!(socket.starts_with("connect"), "{dialled}");
        assert_eq!(w.lab.h.reach(Proto::Tcp, at(family.loopback(), 8080)).server, "a1");
        // Nobody's port: the host answers for itself.
        let closed = explain(&w.lab, &Case::passes(R.ip(family), at(H.ip(family), 7777)));
        assert_eq!(closed["Steps"][0]["Then"], "to the host's own sockets");
        assert_eq!(w.lab.r.attempt(Proto::Tcp, at(H.ip(family), 7777)), Outcome::Refused);
    }
}

#[test]
fn what_is_dropped_by_the_explanation_is_dropped_for_that_reason() {
    let w = world();
    let d = w.lab.network("netD", 23, &["-o", "com.docker.network.bridge.enable_icc=false"]);
    let i = w.lab.network("netI", 24, &["--internal"]);
    let (d1, d2) = (w.lab.sandbox("d1", d, 2, &[]), w.lab.sandbox("d2", d, 3, &[]).serving(&[80]));
    let i1 = w.lab.sandbox("i1", i, 2, &[]);
    for family in Family::BOTH {
        // Out of an internal network leads no route: the sandbox has to make one.
        i1.ip_batch(&format!("route add {} dev eth0", R.ip(family)));
        i1.ip_batch(&format!(
            "neigh replace {} lladdr 02:00:00:00:00:09 nud permanent dev eth0",
            R.ip(family)
        ));
        let cases: [(&Ns, &Ns, String, SocketAddr, &str); 5] = [
            (&w.lab.r2, &w.a1, R2.ip(family).to_string(), at(H.ip(family), 9090), "NOT_ALLOWED"),
            (&w.lab.r, &w.a1, R.ip(family).to_string(), at(w.a1.ip(family), 80), "DIRECT_ACCESS"),
            (&w.a1, &w.b1, "a1".into(), at(w.b1.ip(family), 90), "ISOLATION"),
            (&d1, &d2, "d1".into(), at(d2.ip(family), 80), "ICC"),
            (&i1, &w.lab.r, "i1".into(), at(R.ip(family), 80), "INTERNAL"),
        ];
        for (client, victim, from, to, reason) in cases {
            for proto in Proto::BOTH {
                let explained = explain(&w.lab, &Case::drops(&from, word(proto, to), reason));
                let number = explained["Number"].as_u64().expect("a number");
                let page = w.lab.netd(&["explain", "drop", &number.to_string()]).ok();
                assert!(page.contains(reason), "{page}");
                assert!(explained["Hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{explained}");
            }
            denied(&w.lab, victim, &[reason], || {
                assert_eq!(client.probe(Proto::Tcp, to), Outcome::Timeout, "{from} {to}");
            });
        }
        let (to, stranger) = (at(R.ip(family), 9), at(H.ip(family), 5000));
        let source = stranger.ip().to_string();
        let extra = ["--source", source.as_str()];
        explain(&w.lab, &Case { extra: &extra, ..Case::drops("a1", word(Proto::Udp, to), "SPOOF_IP") });
        let mac = w.a1.link("eth0").expect("eth0").mac;
        let frame = Frame { src: mac, dst: w.a1.mac_of(w.a.gateway(family)) };
        denied(&w.lab, &w.lab.r, &["SPOOF_IP"], || w.a1.capture().send(&frame.udp(stranger, to, b"spoofed")));
    }
}

/// A lab that has these ports for masquerade.
fn lab_with_ports(range: &str) -> Lab {
    let config = format!("[flows]\nentries = 4096\n[nat]\nport_range = \"{range}\"\n");
    Lab::with(&Options { config, ..Options::default() })
}

#[test]
fn the_port_of_a_masqueraded_flow_is_foretold_until_none_is_left() {
    let lab = lab_with_ports("20000-20002");
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    let _server = Server::start(&lab.r, &[80]);
    for family in Family::BOTH {
        let to = at(R.ip(family), 80);
        let mut streams = Vec::new();
        for port in 40_000..40_003_u16 {
            let source_port = port.to_string();
            let extra = ["--source-port", source_port.as_str()];
            let explained = explain(&lab, &Case { extra: &extra, ..Case::passes("a1", to) });
            let [("from_endpoint", _, "redirect"), ("to_uplink", "eth0", "pass")] = steps(&explained)[..]
            else {
                panic!("{explained}")
            };
            let (stream, seen) = a1.connect_stream_from(to, family.from_port(port));
            assert_eq!(explained["Steps"][1]["Source"], seen.source.to_string(), "{explained}");
            streams.push(stream);
            // The same once more is a packet of the connection that is there.
            let known = explain(&lab, &Case { extra: &extra, ..Case::passes("a1", to) });
            assert!(known["Steps"][0]["Matched"].to_string().contains("known already"), "{known}");
            assert_eq!(known["Steps"][1]["Source"], seen.source.to_string());
        }
        explain(&lab, &Case::drops("a1", to, "NAT_EXHAUSTED"));
        denied(&lab, &lab.r, &["NAT_EXHAUSTED"], || assert_eq!(a1.probe(Proto::Tcp, to), Outcome::Timeout));
        for stream in &mut streams {
            stream.echo(b"still here").expect("nobody was disturbed");
        }
        let echo = explain(&lab, &Case::passes("a1", R.ip(family)));
        assert_eq!(echo["Protocol"], "icmp");
        a1.ping(R.ip(family));
    }
}

#[test]
fn a_fresh_daemon_explains_at_once_and_words_are_understood() {
    let mut w = world();
    w.lab.daemon.end(Signal::SIGKILL);
    w.lab.daemon.restart();
    explain(&w.lab, &Case::passes("a1", "a2:80"));
    explain(&w.lab, &Case { extra: &["-6"], ..Case::passes("a1", "a2:80") });
    explain(&w.lab, &Case::passes(R.v4, "host:8080"));
    explain(&w.lab, &Case { extra: &["--via", "eth0"], ..Case::passes(R2.v6, "host:8080/udp") });
    let text = w.lab.netd(&["explain", &R.v4.to_string(), "host:8080"]).ok();
    assert!(text.contains("published 8080/tcp -> a1 (172.20.0.2:80), network netA"), "{text}");
    let unknown = w.lab.netd(&["explain", "b11", "a2:80"]);
    assert!(unknown.stderr.contains("hint: did you mean b1?"), "{}", unknown.stderr);
    unknown.refused(3);
    w.lab.netd(&["explain", "a1", "a2:0"]).refused(2);
    w.lab.netd(&["explain", "a1", "a2:80/sctp"]).refused(2);
    w.lab.netd(&["explain", "--via", "lo", "198.51.100.1", "host:80"]).refused(2);
    w.lab.netd(&["explain", "drop", "200"]).refused(3);
    let mixed: IpAddr = R.v6.into();
    w.lab.netd(&["explain", "-4", "a1", &mixed.to_string()]).refused(2);
}
