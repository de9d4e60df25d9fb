//! Rung: namespaces, truth-table row T68 and netd's own: who may talk to whom on a network whose sandboxes may not (`netd policy`).

use netd_tests::{Family, Lab, Net, Outcome, Proto, Sandbox, at, denied};
use serde_json::json;

const NO_ICC: [&str; 2] = ["-o", "com.docker.network.bridge.enable_icc=false"];

fn lab() -> (Lab, Net) {
    let lab = Lab::new();
    let net = lab.network("netC", 22, &NO_ICC);
    (lab, net)
}

fn add(lab: &Lab, rest: &[&str]) -> String {
    lab.netd(&[&["policy", "add", "--network", "netC"], rest].concat()).ok()
}

fn state(lab: &Lab, id: &str) -> String {
    lab.netd(&["policy", "inspect", id]).json()[0]["State"].as_str().expect("a state").to_owned()
}

fn is_open(from: &Sandbox, to: &Sandbox, proto: Proto, port: u16) {
    for family in Family::BOTH {
        let seen = from.reach(proto, at(to.ip(family), port));
        assert_eq!(
            (seen.server.as_str(), seen.source.ip()),
            (to.name(), from.ip(family)),
            "{proto:?} {port}"
        );
    }
}

fn is_closed(lab: &Lab, from: &Sandbox, to: &Sandbox, proto: Proto, port: u16) {
    for family in Family::BOTH {
        denied(lab, to, &["ICC"], || {
            let outcome = from.probe(proto, at(to.ip(family), port));
            assert_eq!(outcome, Outcome::Timeout, "{family:?} {proto:?} {port}");
        });
    }
}

#[test]
fn t68_a_policy_opens_what_it_says_one_way_and_nothing_else() {
    let (lab, net) = lab();
    let db = lab.sandbox("db", net, 2, &[]).serving(&[80, 81]);
    let web = lab.sandbox("web", net, 3, &[]).serving(&[80]);
    let other = lab.sandbox("other", net, 4, &[]);
    is_closed(&lab, &web, &db, Proto::Tcp, 80);
    let sql = add(&lab, &["--from", "web", "--to", "db", "--port", "80"]);
    is_open(&web, &db, Proto::Tcp, 80);
    is_closed(&lab, &web, &db, Proto::Udp, 80);
    is_closed(&lab, &web, &db, Proto::Tcp, 81);
    is_closed(&lab, &other, &db, Proto::Tcp, 80);
    is_closed(&lab, &db, &web, Proto::Tcp, 80);
    let ping_fails = |from: &Sandbox| {
        for family in Family::BOTH {
            denied(&lab, &db, &["ICC"], || assert_eq!(from.probe_ping(db.ip(family)), Outcome::Timeout));
        }
    };
    ping_fails(&web);
    // From everybody, and everything from one.
    add(&lab, &["--to", "db", "--port", "80/udp"]);
    let all = add(&lab, &["--from", "other", "--to", "db"]);
    for from in [&web, &other] {
        is_open(from, &db, Proto::Udp, 80);
    }
    is_open(&other, &db, Proto::Tcp, 81);
    for family in Family::BOTH {
        other.ping(db.ip(family));
    }
    ping_fails(&web);
    is_closed(&lab, &web, &db, Proto::Tcp, 81);
    let shown = lab.netd(&["policy", "inspect", &sql]).json();
    let wanted =
        json!({"Network": "netC", "From": "web", "To": "db", "Ports": ["80/tcp"], "State": "active"});
    for (key, value) in wanted.as_object().expect("an object") {
        assert_eq!(shown[0][key], *value, "{key}");
    }
    // What goes is closed for what is new, and datagrams stop at once.
    let (mut stream, _) = web.connect_stream(at(db.ip(Family::V4), 80));
    lab.netd(&["policy", "rm", &sql[..12], &all]).ok();
    stream.echo(&vec![9; 1 << 16]).expect("an established connection goes on");
    drop(stream);
    is_open(&other, &db, Proto::Udp, 80);
    for (from, port) in [(&web, 80), (&other, 81)] {
        is_closed(&lab, from, &db, Proto::Tcp, port);
    }
    let last = lab.netd(&["policy", "ls", "-q", "--no-trunc", "--filter", "sandbox=db"]).ok();
    lab.netd(&["policy", "rm", &last]).ok();
    is_closed(&lab, &other, &db, Proto::Udp, 80);
    assert_eq!(lab.h.reach(Proto::Udp, at(db.ip(Family::V4), 80)).server, "db", "the server is there");
}

#[test]
fn t68_a_policy_follows_its_names_and_holds_without_a_daemon() {
    let (mut lab, net) = lab();
    let id = add(&lab, &["--from", "web", "--to", "db", "--port", "80,80/udp"]);
    let web = lab.sandbox("web", net, 3, &[]);
    assert_eq!(state(&lab, &id), "waiting");
    let db = lab.sandbox("db", net, 2, &[]).serving(&[80, 81]);
    assert_eq!(state(&lab, &id), "active");
    is_open(&web, &db, Proto::Tcp, 80);
    // Its address goes to somebody else.
    drop(db);
    lab.netd(&["network", "disconnect", "netC", "db"]).ok();
    let thief = lab.sandbox("thief", net, 2, &[]).serving(&[80]);
    is_closed(&lab, &web, &thief, Proto::Tcp, 80);
    lab.netd(&["network", "connect", "netC", "db"]).ok();
    let db = lab.open("db").serving(&[80, 81]);
    is_open(&web, &db, Proto::Udp, 80);
    lab.daemon.end(nix::sys::signal::Signal::SIGKILL);
    is_open(&web, &db, Proto::Tcp, 80);
    lab.daemon.restart();
    is_open(&web, &db, Proto::Tcp, 80);
    is_closed(&lab, &web, &db, Proto::Tcp, 81);
    // Made anew under its name.
    drop(db);
    lab.netd(&["sandbox", "rm", "-f", "db"]).ok();
    assert_eq!(state(&lab, &id), "waiting");
    let db = lab.sandbox("db", net, 9, &[]).serving(&[80, 81]);
    is_open(&web, &db, Proto::Tcp, 80);
    is_closed(&lab, &web, &db, Proto::Tcp, 81);
}

#[test]
fn t68_policies_that_say_nothing_are_refused_and_the_others_go_with_their_network() {
    let (lab, _net) = lab();
    lab.network("netA", 20, &[]);
    let refused = |args: &[&str], code| lab.netd(&[&["policy"], args].concat()).refused(code);
    let on = |network| {
        move |rest: &[&str]| {
            [&["add", "--network", network][..], rest]
                .concat()
                .iter()
                .map(|s| (*s).to_owned())
                .collect::<Vec<_>>()
        }
    };
    let say = |words: Vec<String>, code| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        refused(&words, code)
    };
    assert!(say(on("netA")(&["--to", "db"]), 2).contains("anyway"));
    assert!(say(on("netC")(&["--from", "db", "--to", "db"]), 2).contains("itself"));
    assert!(say(on("none-such")(&["--to", "db"]), 3).contains("none-such"));
    say(on("netC")(&["--to", "db", "--port", "80/icmp"]), 2);
    let id = add(&lab, &["--to", "db", "--port", "80"]);
    assert!(say(on("netC")(&["--to", "db", "--port", "80/tcp"]), 4).contains(&id[..12]));
    lab.netd(&["network", "rm", "netC"]).ok();
    refused(&["inspect", &id], 3);
    refused(&["rm", &id], 3);
    assert_eq!(lab.netd(&["policy", "ls", "--format", "json"]).json(), json!([]));
}
