//! Rung: namespaces. `netd monitor` tells what is dropped while somebody listens, to everyone who does, and no longer.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use netd_tests::{Child, Family, H, Lab, Ns, PATIENCE, Proto, R, Sandbox, at, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Two sandboxes on two networks; `web` publishes a port to nobody here.
struct Scene {
    lab: Lab,
    web: Sandbox,
    db: Sandbox,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let (app, other) = (lab.network("app", 30, &[]), lab.network("other", 31, &[]));
        let closed = "8080:80,allow=203.0.113.0/24,allow=2001:db8::/64";
        let web = lab.sandbox("web", app, 10, &["-p", closed, "-p", &closed.replace("80,", "80/udp,")]);
        let db = lab.sandbox("db", other, 10, &[]);
        Self { lab, web, db }
    }

    /// Starts `netd monitor` in this format.
    fn start(&self, format: &str, options: &[&str]) -> Child {
        let mut command = self.lab.command(&["monitor", "--format", format]);
        command.args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.lab.h.spawn(&mut command).into()
    }

    /// Starts one that ends after a packet.
    fn one(&self, options: &[&str]) -> Child {
        self.start("json", &[&["-n", "1"], options].concat())
    }

    /// Whether the programs are told to tell.
    fn listening(&self) -> bool {
        let pins = std::fs::read_dir(self.lab.daemon.dirs().bpffs()).expect("the pins").flatten();
        let pin = pins.map(|entry| entry.path().join("LISTENING")).find(|pin| pin.exists()).expect("the map");
        let map = Map::Array(MapData::from_pin(pin).expect("a pinned map"));
        let map: Array<_, u32> = Array::try_from(map).expect("an array");
        map.get(&0, 0).expect("one entry") != 0
    }
}

/// Sends until a monitor ends, and returns what it has printed.
fn printed(mut monitor: Child, mut send: impl FnMut()) -> String {
    let end = Instant::now() + PATIENCE;
    while monitor.try_wait().expect("wait for netd monitor").is_none() {
        assert!(Instant::now() < end, "netd monitor has not seen what it waits for");
        send();
        thread::sleep(Duration::from_millis(20));
    }
    let (mut out, mut errors) = (String::new(), String::new());
    monitor.stdout.take().expect("a pipe").read_to_string(&mut out).expect("text");
    monitor.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
    assert_eq!(errors, "");
    out
}

/// The same of one that prints one packet as JSON.
fn seen(monitor: Child, send: impl FnMut()) -> Value {
    serde_json::from_str(&printed(monitor, send)).expect("one object")
}

/// Begins a connection, or sends a datagram, that comes to nothing.
fn knock(ns: &Ns, proto: Proto, to: SocketAddr) {
    ns.run(|| match proto {
        Proto::Tcp => drop(TcpStream::connect_timeout(&to, Duration::from_millis(20))),
        Proto::Udp => {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("bind");
            let _ = socket.send_to(b"?", to); // an error may have come back for an earlier one
        }
    });
}

#[test]
fn a_drop_is_told_with_its_reason_its_ends_and_its_place() {
    let scene = Scene::new();
    let host_side = scene.lab.inspect("web")["NetworkSettings"]["Networks"]["app"]["HostInterface"].clone();
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let protocol = if proto == Proto::Tcp { "tcp" } else { "udp" };
            let (web, db) = (scene.web.ip(family), scene.db.ip(family));
            let told = seen(scene.one(&["--from", "web", "--proto", protocol, "--port", "5432"]), || {
                knock(&scene.web, proto, at(db, 5432));
            });
            let number = if family == Family::V4 { 4 } else { 6 };
            for (key, wanted) in [
                ("Verdict", Value::from("drop")),
                ("Reason", "ISOLATION".into()),
                ("Sandbox", "web".into()),
                ("Network", "app".into()),
                ("Family", number.into()),
                ("Protocol", protocol.into()),
                ("Source", web.to_string().into()),
                ("SourceName", "web".into()),
                ("Destination", db.to_string().into()),
                ("DestinationPort", 5432.into()),
                ("DestinationName", "db".into()),
                ("Flags", if proto == Proto::Tcp { "SYN" } else { "" }.into()),
                ("Program", "from_endpoint".into()),
                ("Interface", host_side.clone()),
            ] {
                assert_eq!(told[key], wanted, "{key} of {told}");
            }
            assert!(told["SourcePort"].as_u64() > Some(0) && told["Length"].as_u64() > Some(0), "{told}");
            // From outside the packet names nobody: the published port does.
            let told =
                seen(scene.one(&["--reason", "not_allowed", "--proto", protocol, "--to", "web"]), || {
                    knock(&scene.lab.r, proto, at(H.ip(family), 8080));
                });
            for (key, wanted) in [
                ("Sandbox", Value::from("web")),
                ("Network", "app".into()),
                ("Source", R.ip(family).to_string().into()),
                ("SourceName", "".into()),
                ("Destination", H.ip(family).to_string().into()),
                ("DestinationPort", 8080.into()),
                ("Program", "from_uplink".into()),
            ] {
                assert_eq!(told[key], wanted, "{key} of {told}");
            }
        }
    }
}

#[test]
fn every_monitor_sees_what_it_asks_for_and_nothing_is_told_when_none_is_left() {
    let scene = Scene::new();
    let to_db = || knock(&scene.web, Proto::Udp, at(scene.db.ip(Family::V4), 53));
    assert!(!scene.listening());
    let waiting = scene.one(&["--from", "db"]);
    eventually("the programs to be told", || scene.listening());
    let [both, port, all] =
        [&["--from", "web", "--to", "db"] as &[_], &["--port", "53", "--filter", "family=4"], &[]]
            .map(|options| scene.one(options));
    let text = scene.start("table", &["-n", "1", "--network", "app"]);
    for monitor in [both, port, all] {
        assert_eq!(seen(monitor, to_db)["SourceName"], "web");
    }
    let text = printed(text, to_db);
    let (head, line) = text.split_once('\n').expect("a head and a line");
    assert!(head.starts_with("TIME ") && head.ends_with(" FLAGS"), "{text}");
    let wanted = format!("web({}):", scene.web.ip(Family::V4));
    assert!(line.contains("ISOLATION") && line.contains(" udp ") && line.contains(&wanted), "{text}");
    // All of them came by the one that waits for another.
    let told = seen(waiting, || knock(&scene.db, Proto::Udp, at(scene.web.ip(Family::V4), 53)));
    assert_eq!((&told["SourceName"], &told["DestinationName"]), (&"db".into(), &"web".into()));
    eventually("the programs to be quiet", || !scene.listening());
    let killed = scene.start("json", &[]);
    eventually("the programs to be told", || scene.listening());
    killed.signal(Signal::SIGKILL);
    eventually("the programs to be quiet", || !scene.listening());
}

#[test]
fn a_flood_is_told_in_part_and_the_next_line_says_how_many_went_unseen() {
    let scene = Scene::new();
    let all = || scene.lab.drops().values().sum::<u64>();
    let before = all();
    let mut monitor = scene.start("json", &["--reason", "ISOLATION"]);
    eventually("the programs to be told", || scene.listening());
    let lines = BufReader::new(monitor.stdout.take().expect("a pipe")).lines();
    let to = at(scene.db.ip(Family::V4), 53);
    let (mut told, mut unseen) = (0, 0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            scene.web.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
                let end = Instant::now() + PATIENCE;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) && Instant::now() < end {
                    let _ = socket.send_to(b"?", to); // refused for a moment where the kernel's queue is full
                }
            });
            monitor.signal(Signal::SIGTERM); // ends the lines, if they have said nothing
        });
        for line in lines.map(|line| line.expect("text")) {
            let line: Value = serde_json::from_str(&line).expect("an object a line");
            if line["Verdict"] == "drop" {
                (told, unseen) = (told + 1, unseen + line["Unseen"].as_u64().expect("a number"));
            }
            if unseen > 0 {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                break;
            }
        }
    });
    assert!(unseen > 0, "{told} packets of a flood were told one by one");
    let dropped = all() - before;
    assert!(told + unseen <= dropped, "{told} told and {unseen} unseen of {dropped}");
}

#[test]
fn a_monitor_ends_with_its_daemon_and_the_next_one_begins_in_silence() {
    let mut scene = Scene::new();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut monitor = scene.start("json", &[]);
        eventually("the programs to be told", || scene.listening());
        scene.lab.daemon.end(signal);
        let ended = monitor.wait_for(PATIENCE).expect("netd monitor goes on without a daemon");
        assert_eq!(ended.code(), Some(5));
        scene.lab.daemon.restart();
        assert!(!scene.listening(), "nobody listens to the new daemon");
        let told = seen(scene.one(&[]), || knock(&scene.web, Proto::Udp, at(scene.db.ip(Family::V6), 53)));
        assert_eq!((&told["Reason"], &told["Family"]), (&"ISOLATION".into(), &6.into()), "{signal}");
    }
}

#[test]
fn filters_that_no_packet_could_match_are_refused() {
    let lab = Lab::new();
    for (filter, why) in [
        ("reason=BECAUSE", "invalid filter reason=BECAUSE"),
        ("port=http", "invalid filter port=http"),
        ("family=5", "invalid filter family=5"),
        ("colour=red", "invalid filter \"colour\""),
    ] {
        let said = lab.netd(&["monitor", "--filter", filter]);
        assert!(said.stderr.contains(why) && said.code == 2, "{filter}: {said:?}");
    }
}
