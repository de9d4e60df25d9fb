//! Rung: namespaces, reliability 6.1, 6.2, 7.7, F19. What an operator sees of an instance without its daemon's word: `debug check`, `debug dump`, `drops
//! --offline`, `flow ls --offline`, `bugreport`.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData},
};
use netd::kernel_release;
use netd_common::{
    maps::{AllowKey, Config, Endpoint, PortSet, Publish, PublishKey, port_set},
    net::Addr4,
};
use netd_tests::{Family, Lab, Ns, Proto, R, Run, Sandbox, Server, at, eventually, invariants::stored};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Dropped in this order: what is in namespaces before the lab.
struct World {
    a1: Sandbox,
    _c1: Sandbox,
    lab: Lab,
}

impl World {
    /// Networks and sandboxes with something of everything that maps and namespaces hold.
    fn new() -> Self {
        let lab = Lab::new();
        let closed = ["-o", "com.docker.network.bridge.enable_icc=false", "--label", "owner=hunter2"];
        let routed = ["-o", "com.docker.network.bridge.gateway_mode_ipv4=routed"];
        let (net, other) = (lab.network("netA", 20, &[]), lab.network("netC", 22, &closed));
        lab.network("netD", 23, &routed);
        let ports = [
            "-p",
            "8080:80,allow=192.0.2.0/24,allow=198.18.0.0/15,via=*",
            "-p",
            "5300:53/udp",
            "-p",
            "[::1]:8081:81",
        ];
        let a1 = lab.sandbox("a1", net, 2, &ports).serving(&[80]);
        let c1 = lab.sandbox("c1", other, 2, &["--network", "netD", "-p", "8082:80"]);
        lab.sandbox("c2", other, 3, &[]);
        lab.netd(&["policy", "add", "--from", "c2", "--to", "c1", "--port", "80/tcp", "--network", "netC"])
            .ok();
        Self { a1, _c1: c1, lab }
    }

    fn run(&self, words: &[&str]) -> Run {
        let dirs = self.lab.daemon.dirs();
        let config = dirs.path("netd.toml");
        let options = dirs.options();
        let mut args: Vec<&str> = words.to_vec();
        args.extend(["--config", config.to_str().expect("UTF-8")]);
        args.extend(options.iter().map(String::as_str));
        self.lab.netd(&args)
    }

    /// What `debug check` finds, `OBJECT: PROBLEM` each; its exit code says whether that is something.
    fn findings(&self) -> Vec<String> {
        let run = self.run(&["debug", "check", "--format", "json"]);
        let found: Vec<Value> = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
        assert_eq!(run.code, i32::from(!found.is_empty()), "{run:?}");
        let text = |finding: &Value, key: &str| {
            finding[key].as_str().unwrap_or_else(|| panic!("{finding}")).to_owned()
        };
        found
            .iter()
            .map(|finding| {
                assert!(text(finding, "Invariant").starts_with('I') && !text(finding, "Hint").is_empty());
                format!("{}: {}", text(finding, "Object"), text(finding, "Problem"))
            })
            .collect()
    }

    #[track_caller]
    fn is_clean(&self, when: &str) {
        assert_eq!(self.findings(), Vec::<String>::new(), "{when}");
    }

    fn kill(&mut self) {
        self.lab.daemon.end(Signal::SIGKILL);
    }

    fn pins(&self) -> PathBuf {
        let mut layouts = fs::read_dir(self.lab.daemon.dirs().bpffs()).expect("the pins").flatten();
        layouts.next().expect("a layout").path()
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.pins().join(name)).expect("the map")
    }

    fn hash<K: Pod, V: Pod>(&self, name: &str) -> HashMap<MapData, K, V> {
        Map::HashMap(self.map(name)).try_into().expect("a hash map")
    }

    /// The host side of `a1`, by what is stored: no daemon has to run.
    fn host_side(&self) -> String {
        self.stored("sandboxes", "a1")["endpoints"][0]["host_ifname"].as_str().expect("a name").to_owned()
    }

    /// The bridge of `netA`.
    fn bridge(&self) -> String {
        self.stored("networks", "netA")["bridge"]["ifname"].as_str().expect("a name").to_owned()
    }

    fn stored(&self, folder: &str, name: &str) -> Value {
        let files =
            fs::read_dir(self.lab.daemon.dirs().path("state").join(folder)).expect("listed").flatten();
        let files = files.map(|entry| entry.path()).filter(|path| path.extension() == Some("json".as_ref()));
        let mut objects = files.map(|path| {
            serde_json::from_slice::<Value>(&fs::read(path).expect("read")).expect("JSON")["body"].clone()
        });
        objects.find(|object| object["name"] == name).expect("it is stored")
    }
}

fn command(ns: &Ns, words: &str) {
    let mut words_of = words.split(' ');
    let out = ns.output(Command::new(words_of.next().expect("a program")).args(words_of));
    assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_clean_instance_has_no_findings_with_and_without_its_daemon() {
    let mut w = World::new();
    w.a1.ping(R.ip(Family::V4));
    w.is_clean("with the daemon");
    let text = w.run(&["debug", "check"]).ok();
    assert!(text.ends_with("everything agrees") && text.contains("3 sandboxes"), "{text}");
    w.kill();
    w.is_clean("without the daemon");
    w.lab.daemon.restart();
    w.is_clean("after a start");
}

/// Whether this kernel attaches an uplink's programs by links; before, they are filters.
fn has_links() -> bool {
    kernel_release::version() >= Some(kernel_release::TCX)
}

/// What somebody does to an instance, what of it is found, and how it is done. `BRIDGE` is that of `netA`, `SIDE` the host side of `a1`, `DETACHED` what is
/// said of an uplink's program.
type Harm = (&'static str, &'static [&'static str], fn(&World));

const TO_INTERFACES: [Harm; 8] = [
    ("a route inside", &["default route by 172.20.0.1 and eth0 in"], |w| {
        command(&w.a1, "ip route del default");
    }),
    ("an address inside", &["address fd00:c:20::2/64 of eth0 in"], |w| {
        command(&w.a1, "ip addr del fd00:c:20::2/64 dev eth0");
    }),
    (
        "a bridge's address",
        &["address 172.20.0.1/24 of bridge BRIDGE", "route to 172.20.0.0/24 by BRIDGE"],
        |w| {
            command(&w.lab.h, &format!("ip addr del 172.20.0.1/24 dev {}", w.bridge()));
        },
    ),
    ("a veth", &["veth SIDE: missing", "interface eth0 in"], |w| {
        command(&w.lab.h, &format!("ip link del {}", w.host_side()));
    }),
    ("a neighbour", &["neighbour 172.20.0.2 on BRIDGE: missing"], |w| {
        command(&w.lab.h, &format!("ip neigh del 172.20.0.2 dev {}", w.bridge()));
    }),
    ("a setting", &["setting net/ipv4/conf/BRIDGE/forwarding: it is not 1"], |w| {
        w.lab.h.sysctl(&format!("net/ipv4/conf/{}/forwarding", w.bridge()), "0");
    }),
    ("an uplink's program", &["program from_uplink on eth0: DETACHED"], |w| {
        if has_links() {
            let index = w.lab.h.link("eth0").expect("the uplink").index;
            fs::remove_file(w.pins().join(format!("links/{index}-from_uplink"))).expect("removed");
        } else {
            command(&w.lab.h, "tc filter del dev eth0 ingress");
        }
    }),
    ("a filter", &["program to_endpoint on SIDE: its filter is gone"], |w| {
        command(&w.lab.h, &format!("tc filter del dev {} egress", w.host_side()));
    }),
];

const TO_MAPS: [Harm; 6] = [
    ("a map's pin", &["/PUBLISH4: missing"], |w| {
        fs::remove_file(w.pins().join("PUBLISH4")).expect("removed");
    }),
    (
        "where a port leads",
        &["map PUBLISH4 addr 0.0.0.0 port 8082 proto tcp: backend is 172.22.0.9, not"],
        |w| {
            let mut map: HashMap<_, PublishKey<Addr4>, Publish<Addr4>> = w.hash("PUBLISH4");
            let (key, led) =
                map.iter().flatten().find(|(key, _)| u16::from(key.port) == 8082).expect("the port");
            map.insert(key, Publish { backend: ip(22, 9), ..led }, 0).expect("written");
        },
    ),
    ("who may come", &["port 8080", "allow is 192.0.2.0/24, not 192.0.2.0/24, 198.18.0.0/15"], |w| {
        let mut map: LpmTrie<_, AllowKey<Addr4>, u32> =
            Map::LpmTrie(w.map("ALLOW4")).try_into().expect("a trie");
        let key = map.keys().flatten().find(|key| key.prefix_len() == 32 + 15).expect("the prefix");
        map.remove(&key).expect("removed");
    }),
    ("a sandbox's bounds", &["map ENDPOINT index", "sandbox c1", "flags is none, not ACTIVE"], |w| {
        let mut map: Array<_, Endpoint> = Map::Array(w.map("ENDPOINT")).try_into().expect("an array");
        let of = |index| map.get(&index, 0).ok().filter(|it: &Endpoint| it.addr4 == ip(22, 2));
        let (index, bound) = (0..map.len()).find_map(|index| Some((index, of(index)?))).expect("the record");
        map.set(index, Endpoint { flags: 0, ..bound }, 0).expect("written");
    }),
    ("a guarded port", &["map PORTS tcp PUBLISHED4: without 8082"], |w| {
        let mut map: Array<_, Ports> = Map::Array(w.map("PORTS")).try_into().expect("an array");
        let tcp = port_set::index(port_set::PUBLISHED4, 6).expect("a set");
        let mut set = map.get(&tcp, 0).expect("read");
        set.0[8082 / 32] &= !(1 << (8082 % 32));
        map.set(tcp, set, 0).expect("written");
    }),
    ("the configuration", &["map CONFIG 0: quota4 is 1, not"], |w| {
        let mut map: Array<_, Config> = Map::Array(w.map("CONFIG")).try_into().expect("an array");
        let config = map.get(&0, 0).expect("read");
        map.set(0, Config { quota4: 1, ..config }, 0).expect("written");
    }),
];

/// A set of ports.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Ports(PortSet);

// SAFETY: an array of integers.
unsafe impl Pod for Ports {}

fn ip(network: u8, host: u8) -> Addr4 {
    Ipv4Addr::new(172, network, 0, host).into()
}

#[test]
fn what_others_did_to_interfaces_is_found_and_named_and_a_start_puts_it_right() {
    each_is_found_and_named_and_a_start_puts_it_right(&TO_INTERFACES);
}

#[test]
fn what_others_did_to_maps_is_found_and_named_and_a_start_puts_it_right() {
    each_is_found_and_named_and_a_start_puts_it_right(&TO_MAPS);
}

/// Each is done while no daemon runs, found and named, and gone after the next start: that is what the check says it would do.
fn each_is_found_and_named_and_a_start_puts_it_right(harms: &[Harm]) {
    let mut w = World::new();
    let detached = if has_links() { "it is detached" } else { "its filter is gone" };
    for (what, names, harm) in harms {
        let (bridge, side) = (w.bridge(), w.host_side());
        w.kill();
        harm(&w);
        let found = w.findings();
        let meant = |name: &&str| {
            name.replace("BRIDGE", &bridge).replace("SIDE", &side).replace("DETACHED", detached)
        };
        for name in names.iter().map(meant) {
            assert!(found.iter().any(|line| line.contains(&name)), "{what}: no {name:?} in {found:#?}");
        }
        let table = w.run(&["debug", "check"]);
        assert_eq!((table.code, table.stdout.contains("PROBLEM")), (1, true), "{table:?}");
        w.lab.daemon.restart();
        w.is_clean(what);
    }
}

#[test]
fn a_damaged_file_and_one_that_others_may_read_are_named() {
    let mut w = World::new();
    w.kill();
    let dir = w.lab.daemon.dirs().path("state/sandboxes");
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).expect("listed").flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut text = fs::read(&files[0]).expect("read");
    let at = text.len() / 2;
    text[at] ^= 1;
    fs::write(&files[0], &text).expect("written");
    fs::set_permissions(&files[1], fs::Permissions::from_mode(0o644)).expect("changed");
    let before = stored(w.lab.daemon.dirs());
    let found = w.findings();
    let names = |path: &Path, why: &str| {
        let line = found.iter().find(|line| line.contains(&path.display().to_string()));
        assert!(line.is_some_and(|line| line.contains(why)), "{}: {found:#?}", path.display());
    };
    names(&files[0], "the next start takes its copy in the run directory");
    names(&files[1], "others may use it (mode 644)");
    assert_eq!(stored(w.lab.daemon.dirs()), before, "nothing is mended");
    assert_eq!(fs::read(&files[0]).expect("read"), text, "nothing is mended");
    fs::set_permissions(&files[1], fs::Permissions::from_mode(0o600)).expect("changed");
    w.lab.daemon.restart();
}

#[test]
fn a_daemon_that_hangs_is_told_with_what_it_does_not_put_right() {
    let w = World::new();
    w.is_clean("before");
    // What comes before its first look at the maps, it takes for its own.
    let looks =
        || w.lab.netd(&["status", "--format", "{{.MapLooks}}"]).ok().parse::<u64>().expect("a number");
    let before = looks();
    eventually("a look at the maps", || looks() > before);
    w.lab.daemon.signal(Signal::SIGSTOP);
    let mut map: HashMap<_, PublishKey<Addr4>, Publish<Addr4>> = w.hash("PUBLISH4");
    let (key, led) = map.iter().flatten().next().expect("a port");
    map.remove(&key).expect("removed");
    let found = w.findings();
    let tells = |what: &str| found.iter().any(|line| line.contains(what));
    assert!(tells("the daemon: it does not answer") && tells("map PUBLISH4"), "{found:#?}");
    w.lab.daemon.signal(Signal::SIGCONT);
    eventually("the entry to be there again", || map.get(&key, 0).is_ok_and(|now| now == led));
    w.is_clean("after");
}

#[test]
fn maps_are_told_in_words_and_the_same_without_the_daemon() {
    let mut w = World::new();
    let dump = |w: &World, maps: &[&str]| -> BTreeMap<String, Value> {
        let args = [&["debug", "dump"], maps].concat();
        let all = w.run(&args).json();
        let all = all.as_array().expect("an array").iter();
        all.map(|map| (map["Map"].as_str().expect("a name").to_owned(), map.clone())).collect()
    };
    let all = dump(&w, &[]);
    assert!(!all.contains_key("HELD_BYTES") && !all.contains_key("EVENTS"), "packets stay where they are");
    let some = ["PUBLISH4", "ENDPOINT", "NETWORK", "CONFIG", "SUBNET6", "PORTS", "ALLOW4", "LINK4"];
    for map in some {
        let used = all[map]["Used"].as_u64().expect("a number");
        assert_eq!(Some(used), all[map]["Entries"].as_array().map(|entries| entries.len() as u64), "{map}");
        assert!(used > 0 && all[map]["Capacity"].as_u64() >= Some(used), "{}", all[map]);
    }
    let entries = all["PUBLISH4"]["Entries"].as_array().expect("an array");
    let of_port = |port: u16| entries.iter().find(|entry| entry["Key"]["port"] == port).expect("the port");
    let udp = of_port(5300);
    assert_eq!((&udp["Key"]["proto"], &udp["Key"]["addr"]), (&"udp".into(), &"0.0.0.0".into()), "{udp}");
    assert_eq!(udp["Value"]["backend"], "172.20.0.2", "{udp}");
    assert_eq!(udp["Value"]["ifindex_sandbox"], "a1", "{udp}");
    assert_eq!(all["CONFIG"]["Entries"][0]["Value"]["secret"], "hidden");
    let networks = all["NETWORK"]["Entries"].as_array().expect("an array");
    assert!(networks.iter().any(|entry| entry["Key"]["network"] == "netC"), "{networks:?}");
    let flags = &all["ENDPOINT"]["Entries"][0]["Value"]["flags"];
    assert!(flags.as_array().is_some_and(|flags| flags.contains(&"ACTIVE".into())), "{flags}");

    w.kill();
    assert_eq!(dump(&w, &some), all.into_iter().filter(|(map, _)| some.contains(&map.as_str())).collect());
    let refused = w.run(&["debug", "dump", "NOPE"]).refused(3);
    assert!(refused.contains("there is no map NOPE"), "{refused}");
    w.lab.daemon.restart();
}

#[test]
fn drops_and_flows_are_read_without_a_daemon() {
    let mut w = World::new();
    let _server = Server::start(&w.lab.r, &[22]);
    let (mut stream, _) = w.a1.connect_stream(at(R.ip(Family::V4), 22));
    w.lab.r.probe(Proto::Udp, at(w.a1.ip(Family::V4), 4000)); // addressed directly: dropped
    let bpffs = w.lab.daemon.dirs().bpffs().to_str().expect("UTF-8").to_owned();
    let told = |w: &World| w.lab.netd(&["drops", "--format", "json"]).json();
    let offline =
        |w: &World| w.lab.netd(&["drops", "--offline", "--bpffs", &bpffs, "--format", "json"]).json();
    let counted = |drops: &Value| {
        drops.as_array().expect("an array").iter().any(|drop| drop["Packets"].as_u64() > Some(0))
    };
    eventually("a drop to be counted", || counted(&told(&w)));
    eventually("both to tell the same", || told(&w) == offline(&w));
    w.kill();
    let drops = offline(&w);
    assert!(counted(&drops), "{drops}");
    let gone = w.lab.netd(&["drops"]);
    assert!(gone.code == 5 && gone.stderr.contains("netd drops --offline"), "{gone:?}");
    stream.echo(b"still here").expect("the stream goes on");
    let flows = |args: &[&str]| {
        let args = [&["flow", "ls", "--offline", "--bpffs", &bpffs, "--format", "json"], args].concat();
        w.lab.netd(&args).json().as_array().map_or(0, Vec::len)
    };
    assert_eq!((flows(&["--filter", "port=22"]), flows(&["--filter", "port=9"])), (1, 0));
    let gone = w.lab.netd(&["flow", "ls"]);
    assert!(gone.code == 5 && gone.stderr.contains("netd flow ls --offline"), "{gone:?}");
    let refused =
        w.lab.netd(&["flow", "ls", "--offline", "--bpffs", &bpffs, "--filter", "sandbox=a1"]).refused(2);
    assert!(refused.contains("sandbox"), "{refused}");
    let refused = w.lab.netd(&["drops", "--offline", "--bpffs", "/sys/fs/bpf/no-such-instance"]).refused(3);
    assert!(refused.contains("no maps are pinned"), "{refused}");
    let mut nobody = w.lab.command(&["drops", "--offline", "--bpffs", &bpffs]);
    let out = w.lab.h.output(nobody.uid(65_534).gid(65_534));
    assert_eq!(out.status.code(), Some(6), "{}", String::from_utf8_lossy(&out.stderr));
    w.lab.daemon.restart();
}

#[test]
fn a_report_has_everything_but_secrets_and_says_what_is_missing() {
    let mut w = World::new();
    let dirs = w.lab.daemon.dirs();
    let files = [dirs.path("up.json"), dirs.path("dead.json")];
    let [up, dead] = files.map(|file| file.to_str().expect("UTF-8").to_owned());
    w.lab.netd(&["run", "-d", "--name", "r1", "--network", "netA", "--", "sleep", "31415926"]).ok();
    assert_eq!(w.run(&["bugreport", &up]).ok(), up);
    assert_eq!(fs::metadata(&up).expect("the file").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&up).expect("text");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let parts = [
        "Version",
        "Kernel",
        "Doctor",
        "Status",
        "Configuration",
        "Instance",
        "State",
        "Check",
        "Maps",
        "Drops",
        "Attachments",
        "Links",
    ];
    for part in parts {
        assert!(!report[part].is_null(), "{part}: {}", report["Missing"]);
    }
    assert_eq!(report["Check"], Value::Array(Vec::new()));
    assert!(text.contains("netC") && text.contains("172.22.0.2"), "names and addresses are in it");
    for secret in ["hunter2", "31415926"] {
        assert!(!text.contains(secret), "{secret} is in it");
    }
    let refused = w.run(&["bugreport", &up]).refused(4);
    assert!(refused.contains("it is there already"), "{refused}");
    w.lab.netd(&["sandbox", "rm", "-f", "r1"]).ok();

    w.kill();
    w.run(&["bugreport", &dead]).ok();
    let report: Value = serde_json::from_slice(&fs::read(&dead).expect("text")).expect("JSON");
    assert!(
        report["Missing"]["Status"].as_str().is_some_and(|why| why.contains("cannot reach the daemon")),
        "{report}"
    );
    for part in parts.into_iter().filter(|part| *part != "Status") {
        assert!(!report[part].is_null(), "{part}: {}", report["Missing"]);
    }
    assert_eq!(report["Instance"]["DaemonRuns"], false);
    w.lab.daemon.restart();
    for path in [&up, &dead] {
        fs::remove_file(path).expect("removed");
    }
}
