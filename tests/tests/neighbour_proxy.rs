//! Rung: namespaces, dataplane 7.5 walk 13. Sandboxes in an uplink's own network: the host answers for them there, and nobody needs a route.

use std::{collections::BTreeSet, net::IpAddr};

use netd_tests::{Family, H, Lab, Outcome, Proto, R, Sandbox, Server, at, eventually};
use nix::sys::signal::Signal;

const PROXY: &str = "netd.neighbour_proxy=true";
const ROUTED: [&str; 4] = [
    "-o",
    "com.docker.network.bridge.gateway_mode_ipv4=routed",
    "-o",
    "com.docker.network.bridge.gateway_mode_ipv6=routed",
];

/// Makes a network within that of `H`'s first uplink, and a sandbox there that serves port 80.
fn inside(lab: &Lab, network: &str, subnets: [&str; 2], extra: &[&str]) -> Sandbox {
    for subnet in subnets {
        lab.allow_on_uplinks(subnet);
    }
    let mut args = vec!["network", "create", "--subnet", subnets[0], "--ipv6", "--subnet", subnets[1]];
    args.extend(ROUTED);
    args.extend_from_slice(extra);
    args.push(network);
    lab.netd(&args).ok();
    let publish = ["--network", network, "-p", "80", "-p", "80/udp"];
    lab.sandbox_with(&format!("{network}1"), &publish).serving(&[80])
}

/// Whom `H` answers for.
fn proxied(lab: &Lab) -> BTreeSet<String> {
    let shown = lab.h.ip_json(&["neigh", "show", "proxy"]);
    let all = shown.as_array().into_iter().flatten();
    all.map(|it| format!("{} {}", it["dst"].as_str().unwrap_or("?"), it["dev"].as_str().unwrap_or("?")))
        .collect()
}

fn wanted(sandbox: &Sandbox) -> BTreeSet<String> {
    Family::BOTH.map(|family| format!("{} eth0", sandbox.ip(family))).into()
}

/// Lets `R` ask a neighbour's very address whether it is still there, until it says so.
fn confirm(lab: &Lab, neighbour: IpAddr) {
    let host = lab.h.link("eth0").expect("an uplink").mac;
    let ask = || {
        let mac: Vec<String> = host.iter().map(|byte| format!("{byte:02x}")).collect();
        lab.r.ip_batch(&format!("neigh replace {neighbour} lladdr {} dev eth0 nud probe", mac.join(":")));
    };
    ask();
    eventually(&format!("the neighbour {neighbour} to be confirmed"), || {
        let shown = lab.r.ip_json(&["neigh", "show", "to", &neighbour.to_string()]);
        let is = |wanted: &str| {
            shown[0]["state"].as_array().is_some_and(|state| state.iter().any(|word| word == wanted))
        };
        if is("FAILED") {
            ask(); // of an answer that came after three seconds the kernel makes nothing
        }
        is("REACHABLE")
    });
}

#[test]
fn neighbours_of_an_uplink_reach_sandboxes_without_a_route_where_the_host_answers_for_them() {
    let lab = Lab::new();
    let _server = Server::start(&lab.r, &[80]);
    let p1 = inside(&lab, "p", ["10.0.0.128/26", "fd00:a::c:0:0/96"], &["-o", PROXY]);
    // R takes these for neighbours too.
    let q1 = inside(&lab, "q", ["10.0.5.0/24", "fd00:e::/64"], &[]);
    lab.r.ip_batch("route add 10.0.5.0/24 dev eth0\nroute add fd00:e::/64 dev eth0");
    assert_eq!(proxied(&lab), wanted(&p1));
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let seen = lab.r.reach(proto, at(p1.ip(family), 80));
            assert_eq!((seen.server.as_str(), seen.source.ip()), ("p1", R.ip(family)), "{proto:?}");
            assert_eq!(p1.reach(proto, at(R.ip(family), 80)).source.ip(), p1.ip(family), "and back");
        }
        let host = lab.h.link("eth0").map(|link| link.mac);
        assert_eq!(lab.r.neighbour(p1.ip(family)), host, "the host's own address on the link");
        confirm(&lab, p1.ip(family));
        // Nobody answers for the other one, which serves: a network has to ask for it.
        let ends = lab.r.probe(Proto::Tcp, at(q1.ip(family), 80));
        assert!(matches!(ends, Outcome::Unreachable | Outcome::Timeout), "{family:?}: {ends:?}");
        assert_eq!(lab.r.neighbour(q1.ip(family)), None);
        lab.r.ip_batch(&format!("route add {} via {}", q1.ip(family), H.ip(family)));
        assert_eq!(lab.r.reach(Proto::Tcp, at(q1.ip(family), 80)).server, "q1", "with a route");
    }
}

#[test]
fn what_the_host_answers_for_outlives_the_daemon_and_ends_with_the_sandbox() {
    let mut lab = Lab::new();
    let key = "net/ipv6/conf/all/proxy_ndp";
    let p1 = inside(&lab, "p", ["10.0.0.128/26", "fd00:a::c:0:0/96"], &["-o", PROXY]);
    lab.daemon.end(Signal::SIGKILL);
    for family in Family::BOTH {
        lab.r.ip_batch("neigh flush dev eth0");
        assert_eq!(lab.r.reach(Proto::Tcp, at(p1.ip(family), 80)).server, "p1", "without a daemon");
    }
    // What was left behind goes, what is somebody else's stays, and what somebody took away comes back.
    lab.h.ip_batch(&format!(
        "neigh add proxy 10.0.0.130 dev eth0 protocol 110\n\
         neigh add proxy fd00:a::c:0:99 dev eth0 protocol 110\n\
         neigh add proxy 10.0.0.131 dev eth0\n\
         neigh del proxy {} dev eth0",
        p1.ip(Family::V6)
    ));
    lab.h.sysctl(key, "0");
    lab.daemon.restart();
    let mut all = wanted(&p1);
    all.insert("10.0.0.131 eth0".into());
    assert_eq!(proxied(&lab), all);
    assert_eq!(lab.h.sysctl_get(key), "1");
    lab.h.ip_batch(&format!("neigh del proxy {} dev eth0", p1.ip(Family::V4)));
    lab.h.sysctl(key, "0");
    eventually("what others took away", || proxied(&lab) == all && lab.h.sysctl_get(key) == "1");
    lab.netd(&["sandbox", "rm", "p1"]).ok();
    assert_eq!(proxied(&lab), BTreeSet::from(["10.0.0.131 eth0".to_owned()]));
    assert_eq!(lab.h.sysctl_get(key), "0", "as it was");
    lab.h.ip_batch("neigh del proxy 10.0.0.131 dev eth0");
}

#[test]
fn where_the_host_could_answer_for_nobody_the_network_is_refused() {
    let lab = Lab::new();
    let refused = |args: &[&str], why: &str| {
        let mut all = vec!["network", "create", "-o", PROXY];
        all.extend_from_slice(args);
        all.push("p");
        let run = lab.netd(&all);
        assert!(run.code != 0 && run.stderr.contains(why), "{args:?}: {}", run.stderr);
    };
    let with = |args: &[&'static str]| [&ROUTED[..], args].concat();
    refused(&["--subnet", "10.0.0.128/26"], "gateway mode routed or nat-unprotected");
    refused(&with(&["--internal", "--subnet", "10.0.0.128/26"]), "gateway mode routed or nat-unprotected");
    refused(&with(&["--subnet", "10.9.0.0/24"]), "no uplink's own network contains 10.9.0.0/24");
    refused(&with(&["--subnet", "10.0.0.0/25"]), "the host's own address 10.0.0.2 lies in the subnet");
    refused(&with(&["--subnet", "10.0.0.0/24"]), "overlaps");
    for (key, subnet) in [
        ("net/ipv4/conf/eth0/forwarding", "10.0.0.128/26"),
        ("net/ipv6/conf/eth0/forwarding", "fd00:a::c:0:0/96"),
    ] {
        lab.h.sysctl(key, "0");
        refused(&with(&["--subnet", subnet]), "eth0 does not forward");
        lab.h.sysctl(key, "1");
    }
    let made = with(&["--subnet", "10.0.0.128/26"]);
    lab.netd(&[&["network", "create", "-o", PROXY][..], &made, &["p"]].concat()).ok();
    assert_eq!(lab.inspect_network("p")["Options"]["netd.neighbour_proxy"], "true");
}
