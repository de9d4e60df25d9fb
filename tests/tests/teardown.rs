//! Rung: namespaces. What netd makes it also removes: sandboxes, networks, and the whole instance.

use std::os::unix::fs::MetadataExt as _;

use aya::programs::tc::{SchedClassifier, TcAttachType};
use netd_tests::{Family, H, Lab, Ns, Options, Outcome, Proto, R, Server, Topology, at};
use nix::sys::signal::Signal;

/// Counts the programs on the TCX hooks of an interface.
fn programs(ns: &Ns, ifname: &str) -> usize {
    ns.run(|| {
        [TcAttachType::Ingress, TcAttachType::Egress]
            .into_iter()
            .map(|hook| SchedClassifier::query_tcx(ifname, hook).expect("query the hook").1.len())
            .sum()
    })
}

/// Whether a process is there and has not ended.
fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn a_removed_sandbox_leaves_nothing() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    // The first published port puts a program on `lo`, which stays.
    drop(lab.sandbox("first", net, 9, &["-p", "8079:80"]));
    lab.netd(&["sandbox", "rm", "-f", "first"]).ok();
    let before = lab.snapshot();
    for round in 0..10 {
        let publish = ["-p", "8080:80", "-p", "8080:80/udp", "-p", "9000-9020:9000-9020"];
        let a1 = lab.sandbox("a1", net, 2, &publish).serving(&[80]);
        lab.r.reach(Proto::Tcp, at(H.v4, 8080));
        drop(a1);
        lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
        before.assert_unchanged(&lab.snapshot(), &format!("round {round}: create, publish, rm"));
    }
    assert_eq!(lab.r.attempt(Proto::Tcp, at(H.v4, 8080)), Outcome::Refused);
    assert_eq!(lab.flows(&[]), Vec::<serde_json::Value>::new());
}

#[test]
fn a_sandbox_whose_removal_cannot_be_stored_keeps_its_namespace_and_all_in_it() {
    let mut lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    let path = lab.inspect("a1")["NetNS"].as_str().expect("a path").to_owned();
    let inode = || std::fs::metadata(&path).expect("the namespace's name").ino();
    let before = inode();
    lab.daemon.end(Signal::SIGTERM);
    lab.daemon.restart_with(&[("NETD_FAILPOINTS", "commit.before=return:EIO")]);
    lab.netd(&["sandbox", "rm", "-f", "a1"]).refused(1);
    assert_eq!(inode(), before, "another namespace has the name");
    for family in Family::BOTH {
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).server, "a1");
    }
    lab.daemon.end(Signal::SIGTERM);
    lab.daemon.restart();
    // The control: what can be stored is done.
    drop(a1);
    lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    assert!(!std::path::Path::new(&path).exists(), "{path}");
}

#[test]
fn a_removed_network_leaves_nothing() {
    let lab = Lab::new();
    let before = lab.snapshot();
    for options in [&[][..], &["--internal"], &["-o", "com.docker.network.bridge.enable_icc=false"]] {
        let net = lab.network("netA", 20, options);
        drop(lab.sandbox("a1", net, 2, &[]));
        lab.netd(&["network", "rm", "netA"]).refused(4);
        lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
        lab.netd(&["network", "rm", "netA"]).ok();
        before.assert_unchanged(&lab.snapshot(), "create and rm");
        lab.netd(&["network", "inspect", "netA"]).refused(3);
    }
}

#[test]
fn prune_removes_unused_networks_alone() {
    let lab = Lab::new();
    let before = lab.snapshot();
    let a = lab.network("netA", 20, &[]);
    let (_b, _c) = (lab.network("netB", 21, &[]), lab.network("netC", 22, &[]));
    drop(lab.sandbox("a1", a, 2, &[]));
    lab.netd(&["network", "prune"]).ok();
    let names = lab.netd(&["network", "ls", "--format", "{{.Name}}"]).ok();
    let mut names: Vec<_> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["bridge", "host", "netA", "none"]);
    lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    lab.netd(&["network", "prune"]).ok();
    before.assert_unchanged(&lab.snapshot(), "create and prune");
}

#[test]
fn down_removes_everything_also_without_a_daemon() {
    for running in [true, false] {
        let mut lab = Lab::new();
        let (a, i) = (lab.network("netA", 20, &[]), lab.network("netI", 23, &["--internal"]));
        let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80", "-p", "9000-9100:9000-9100/udp"]).serving(&[80]);
        let i1 = lab.sandbox("i1", i, 2, &[]);
        lab.sandbox_with("d1", &["-p", "8081:80"]);
        lab.netd(&["run", "-d", "--name", "job", "--network", "netA", "--", "sleep", "600"]).ok();
        let job = lab.inspect("job")["State"]["Pid"].as_u64().filter(|pid| runs(*pid)).expect("the job runs");
        lab.r.reach(Proto::Tcp, at(H.v4, 8080));
        assert!(programs(&lab.h, "eth0") > 0 && programs(&lab.h, "eth1") > 0, "the uplinks carry programs");
        drop((a1, i1));
        if !running {
            lab.daemon.end(Signal::SIGKILL);
        }
        let down = lab.daemon.down();
        assert_eq!(down.code, 0, "netd down: {}", down.stderr);
        assert_eq!(lab.daemon.dirs().leftovers(), Vec::<String>::new());
        assert!(!runs(job), "the command of `netd run` has ended");
        assert_eq!(lab.h.links(), ["eth0", "eth1", "lo"]);
        assert_eq!(programs(&lab.h, "eth0") + programs(&lab.h, "eth1"), 0, "programs on the uplinks");
        assert_eq!(lab.r.attempt(Proto::Tcp, at(H.v4, 8080)), Outcome::Refused);
        let free = lab.h.run(|| std::net::TcpListener::bind(at(H.v4, 8080)).map(drop));
        free.expect("the published port is free again");
        // The lab compares everything else when it is dropped.
    }
}

#[test]
fn down_twice_is_no_error_and_the_instance_can_start_again() {
    let mut lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    drop(lab.sandbox("a1", net, 2, &[]));
    lab.daemon.end(Signal::SIGTERM);
    assert_eq!(lab.daemon.down().code, 0);
    assert_eq!(lab.daemon.down().code, 0);
    lab.daemon.restart();
    assert_eq!(lab.netd(&["sandbox", "ls", "-q"]).ok(), "", "its state is gone too");
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    a1.ping(R.v4);
}

#[test]
fn down_returns_when_the_run_directory_has_gone_too() {
    let mut lab = Lab::new();
    lab.daemon.end(Signal::SIGTERM);
    lab.daemon.restart_with(&[("NETD_FAILPOINTS", "erase.last=sleep:500")]);
    let run = lab.daemon.dirs().path("run");
    assert!(run.exists(), "where the daemon's socket is");
    lab.netd(&["down"]).ok();
    assert!(!run.exists(), "whoever ends the daemon now leaves it behind");
}

#[test]
fn daemons_in_different_namespaces_live_side_by_side() {
    let labs = [Lab::new(), Lab::new()];
    let sandboxes: Vec<_> = labs
        .iter()
        .map(|lab| {
            let net = lab.network("netA", 20, &[]);
            lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80])
        })
        .collect();
    let _servers = labs.each_ref().map(|lab| Server::start(&lab.r, &[80]));
    let all_work = |lab: &Lab, a1: &Ns| {
        for family in Family::BOTH {
            for proto in Proto::BOTH {
                assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).source.ip(), R.ip(family));
                assert_eq!(lab.h.reach(proto, at(family.loopback(), 8080)).server, "a1");
                assert_eq!(a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family));
            }
        }
    };
    for (lab, a1) in labs.iter().zip(&sandboxes) {
        all_work(lab, a1);
    }
    // A port of one host is free on the other.
    labs[0].netd(&["publish", "a1", "9090:80"]).ok();
    drop(Server::start(&labs[1].h, &[9090]));
    let mut sandboxes = sandboxes.into_iter();
    let [first, second] = labs;
    drop(sandboxes.next());
    drop(first);
    all_work(&second, &sandboxes.next().expect("two sandboxes"));
}

#[test]
fn a_long_list_of_reserved_ports_is_kept_and_given_back() {
    const KEY: &str = "net/ipv4/ip_local_reserved_ports";
    let topology = Topology::new();
    let own = "1000,1100,1200,1300,1400,1500,1600,1700,1800,1900"; // more than one short read takes
    topology.h.sysctl(KEY, own);
    let lab = Lab::on(topology, &Options::default());
    let with_netds = lab.h.sysctl_get(KEY);
    assert!(own.split(',').all(|port| with_netds.split(',').any(|entry| entry == port)), "{with_netds}");
    assert_ne!(with_netds, own, "netd reserves the ports of masqueraded flows");
    // The lab's end compares the settings with those before the daemon.
}
