//! The control of all the other checks: what is planted is reported, and nothing else ever is.

use std::fs;

use aya::maps::{HashMap, Map, MapData};
use netd_common::{
    maps::{Owner, Publish, PublishKey},
    net::Addr4,
};
use netd_tests::{Ns, crash::Subject, invariants};
use serde_json::Value;

/// Plants something, expects it to be reported, takes it away, and expects silence.
fn planted(subject: &Subject, what: &str, plant: impl FnOnce(), remove: impl FnOnce()) {
    plant();
    let found = subject.violations();
    assert!(found.iter().any(|line| line.contains(what)), "{what} is not among {found:#?}");
    remove();
    assert_eq!(subject.violations(), Vec::<String>::new(), "after {what}");
}

/// The stored object of a sandbox.
fn stored(subject: &Subject, name: &str) -> Value {
    let dir = subject.dirs().path("state/sandboxes");
    let files = fs::read_dir(dir).expect("the state").flatten();
    let objects = files
        .map(|file| serde_json::from_slice::<Value>(&fs::read(file.path()).expect("a file")).expect("JSON"));
    let mut bodies = objects.map(|object| object["body"].clone());
    bodies.find(|body| body["name"] == name).expect("the sandbox")
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

#[test]
fn what_is_planted_in_the_kernel_is_reported() {
    let subject = Subject::new(false);
    assert_eq!(subject.violations(), Vec::<String>::new());
    let (host, a1) = (subject.host(), stored(&subject, "a1"));
    let inside = Ns::open("a1", text(&a1, "/netns/path"));
    let (veth, mac) = (text(&a1, "/endpoints/0/host_ifname"), text(&a1, "/endpoints/0/mac"));
    let bridge =
        host.ip_json(&["link", "show", "dev", veth])[0]["master"].as_str().expect("a bridge").to_owned();
    let label = format!("netd:{}:endpoint:{}", subject.dirs().instance(), "0".repeat(64));
    let ip = |batch: String| move || host.ip_batch(&batch);
    let in_a1 = |batch: &'static str| {
        let inside = &inside;
        move || inside.ip_batch(batch)
    };
    planted(
        &subject,
        "too much: link with label",
        ip(format!("link add stray type veth peer name stray1\nlink set stray alias {label}")),
        ip("link del stray".to_owned()),
    );
    planted(&subject, "is down", ip(format!("link set {veth} down")), || {
        // Its neighbour and forwarding entries stay.
        host.ip_batch(&format!("link set {veth} up"));
    });
    planted(
        &subject,
        "too much: neighbour",
        ip(format!("neigh add 172.20.0.200 lladdr {mac} dev {bridge} nud permanent")),
        ip(format!("neigh del 172.20.0.200 dev {bridge}")),
    );
    planted(
        &subject,
        "missing: neighbour",
        ip(format!(
            "neigh del {} dev {bridge}",
            text(&a1, "/endpoints/0/ipv4").split('/').next().expect("an address")
        )),
        ip(format!(
            "neigh add {} lladdr {mac} dev {bridge} nud permanent",
            text(&a1, "/endpoints/0/ipv4").split('/').next().expect("an address")
        )),
    );
    let fdb = |verb: &'static str| {
        let out = host.output(std::process::Command::new("bridge").args([
            "fdb",
            verb,
            "02:00:00:00:00:99",
            "dev",
            veth,
            "master",
            "static",
        ]));
        assert!(out.status.success(), "{out:?}");
    };
    planted(&subject, "too much: forwarding entry", || fdb("add"), || fdb("del"));
    planted(
        &subject,
        "too much: address of eth0",
        in_a1("addr add 172.20.0.99/24 dev eth0"),
        in_a1("addr del 172.20.0.99/24 dev eth0"),
    );
    planted(
        &subject,
        "wrong: default routes",
        in_a1("route add default via 172.20.0.1 dev eth0 metric 99"),
        in_a1("route del default via 172.20.0.1 dev eth0 metric 99"),
    );
    planted(
        &subject,
        "too much: rule -4 in a1",
        in_a1("rule add from 172.20.0.2 lookup 7 pref 32765 protocol 110"),
        in_a1("rule del from 172.20.0.2 lookup 7 pref 32765 protocol 110"),
    );
    planted(
        &subject,
        "too much: route by source in a1",
        in_a1("route add default via 172.20.0.1 dev eth0 table 7 protocol 110"),
        in_a1("route del default via 172.20.0.1 dev eth0 table 7 protocol 110"),
    );
    planted(&subject, &format!("address of {bridge}"), ip(format!("addr add 172.20.0.9/24 dev {bridge}")), {
        ip(format!("addr del 172.20.0.9/24 dev {bridge}"))
    });
}

#[test]
fn what_is_planted_in_the_packet_path_is_reported() {
    let mut subject = Subject::new(false);
    let pins = fs::read_dir(subject.dirs().bpffs()).expect("pins").flatten().next().expect("a layout").path();
    {
        let open = |name: &str| Map::HashMap(MapData::from_pin(pins.join(name)).expect("a map"));
        let mut owners: HashMap<_, Addr4, Owner> = open("ADDRESS4").try_into().expect("a hash map");
        let mut ports: HashMap<_, PublishKey<Addr4>, Publish<Addr4>> =
            open("PUBLISH4").try_into().expect("a hash map");
        let stray = Addr4::from(std::net::Ipv4Addr::new(172, 20, 0, 250));
        let owners = std::cell::RefCell::new(&mut owners);
        planted(
            &subject,
            "too much: owner of address",
            || {
                let owner = Owner { ifindex: 1, ..Owner::default() };
                owners.borrow_mut().insert(stray, owner, 0).expect("inserts");
            },
            || owners.borrow_mut().remove(&stray).expect("removes"),
        );
        let key = PublishKey { port: 7777.into(), proto: 6, ..PublishKey::<Addr4>::default() };
        let ports = std::cell::RefCell::new(&mut ports);
        planted(
            &subject,
            "published port",
            || ports.borrow_mut().insert(key, Publish::default(), 0).expect("inserts"),
            || ports.borrow_mut().remove(&key).expect("removes"),
        );
    }
    let b0 = stored(&subject, "b0");
    let veth = text(&b0, "/endpoints/0/host_ifname").to_owned();
    subject.kill(); // or it would put back at once what is taken away
    let out = subject
        .host()
        .output(std::process::Command::new("tc").args(["filter", "del", "dev", &veth, "egress"]));
    assert!(out.status.success(), "{out:?}");
    let found = subject.violations();
    assert!(found.iter().any(|line| line.contains(&format!("programs on {veth}"))), "{found:?}");
    fs::remove_file(pins.join("links/bind4")).expect("a pin");
    let found = subject.violations();
    assert!(found.iter().any(|line| line.contains("missing: link of bind4")), "{found:?}");
    // The next daemon puts both back.
    subject.start();
    assert_eq!(subject.violations(), Vec::<String>::new());
    let programs = invariants::program_ids(subject.dirs());
    let left = subject.remains(&programs);
    assert!(left.iter().any(|line| line.contains("still loaded: program from_endpoint")), "{left:?}");
}

#[test]
fn what_is_planted_among_the_files_is_reported() {
    let subject = Subject::new(false);
    let a1 = stored(&subject, "a1");
    let (state, run) = (subject.dirs().path("state"), subject.dirs().run());
    let file = state.join("sandboxes").join(format!("{}.json", text(&a1, "/id")));
    let good = fs::read(&file).expect("the stored sandbox");
    let put = |bytes: &[u8]| fs::write(&file, bytes).expect("writes");
    for harm in [0, 1, good.len() / 2, good.len() - 3] {
        planted(&subject, "damaged: ", || put(&good[..harm]), || put(&good));
    }
    let changed = String::from_utf8(good.clone()).expect("text").replace("172.20.0", "172.20.1");
    planted(&subject, "its checksum is wrong", || put(changed.as_bytes()), || put(&good));
    let away = subject.dirs().path("away");
    let (from, to) = (&file, &away);
    planted(
        &subject,
        "object of GET /netd/v1/sandboxes",
        || fs::rename(from, to).expect("moves"),
        || fs::rename(to, from).expect("moves"),
    );
    let stray = |path: std::path::PathBuf, what: &str| {
        planted(
            &subject,
            what,
            || fs::write(&path, "stray").expect("writes"),
            || fs::remove_file(&path).expect("removes"),
        );
    };
    stray(state.join("sandboxes/.x.json.abcdef"), "too much: file");
    stray(state.join("stray"), "in the state directory");
    stray(run.join("netns/stray"), "too much: namespace \"stray\"");
    let resolv = run.join("sandboxes").join(text(&a1, "/id")).join("resolv.conf");
    let said = fs::read(&resolv).expect("resolv.conf");
    planted(
        &subject,
        "resolv.conf is missing or empty",
        || fs::write(&resolv, "").expect("writes"),
        || fs::write(&resolv, &said).expect("writes"),
    );
}
