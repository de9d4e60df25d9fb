//! Rung: namespaces. Namespaces that exist already, and the modes `host`, `none` and `sandbox:NAME`.

use std::process::{Command, Stdio};

use netd_tests::{Child, Family, H, Lab, Ns, Proto, R, Sandbox, Server, at};

/// A namespace that netd did not make serves and is served as any other, and is left as it was.
fn is_served_and_left(lab: &Lab, given: &Ns, option: [&str; 2]) {
    let net = lab.network("netA", 20, &[]);
    let a2 = lab.sandbox("a2", net, 3, &[]).serving(&[80]);
    let a1 = lab.sandbox("given", net, 2, &[option[0], option[1], "-p", "8080:80"]).serving(&[80]);
    let _r = Server::start(&lab.r, &[80]);
    assert_eq!(given.links(), ["eth0", "lo"]);
    for family in Family::BOTH {
        assert_eq!(lab.r.reach(Proto::Tcp, at(H.ip(family), 8080)).source.ip(), R.ip(family));
        assert_eq!(a1.reach(Proto::Udp, at(R.ip(family), 80)).source.ip(), H.ip(family));
        assert_eq!(a1.reach(Proto::Tcp, at(a2.ip(family), 80)).server, "a2");
    }
    lab.netd(&["sandbox", "rm", "-f", "given"]).ok();
    assert_eq!(given.links(), ["lo"], "the namespace stays, without netd's interface");
}

#[test]
fn a_namespace_given_by_path_is_used_and_left_in_place() {
    let lab = Lab::new();
    let given = Ns::new("given");
    let mounted = given.bind_at(lab.daemon.dirs().path("given"));
    is_served_and_left(&lab, &given, ["--netns", mounted.path()]);
    assert_eq!(Ns::open("again", mounted.path()).links(), ["lo"], "the path still leads to it");
}

#[test]
fn a_namespace_given_by_pid_is_used_and_left_in_place() {
    let lab = Lab::new();
    let given = Ns::new("given");
    let sleeper = given.spawn(Command::new("sleep").arg("600").stdin(Stdio::null()));
    let mut sleeper = Child::from(sleeper);
    is_served_and_left(&lab, &given, ["--pid", &sleeper.id().to_string()]);
    assert!(sleeper.try_wait().expect("wait").is_none(), "the process lives on");
}

#[test]
fn the_mode_none_gives_loopback_alone() {
    let lab = Lab::new();
    let none = lab.sandbox_with("none", &["--network", "none"]);
    assert_eq!(none.links(), ["lo"]);
    let _server = Server::start(&none, &[80]);
    for family in Family::BOTH {
        none.reach(Proto::Tcp, at(family.loopback(), 80));
    }
}

#[test]
fn the_mode_host_is_the_hosts_own_namespace() {
    let lab = Lab::new();
    let before = lab.snapshot();
    lab.netd(&["sandbox", "create", "--network", "host", "h1"]).ok();
    let links = lab.netd(&["exec", "h1", "--", "ip", "-o", "link"]).ok();
    assert!(links.contains("eth0") && links.contains("eth1"), "{links}");
    before.assert_unchanged(&lab.snapshot(), "a sandbox in host mode");
    lab.netd(&["sandbox", "rm", "-f", "h1"]).ok();
    assert!(lab.h.links().contains(&"eth0".to_owned()));
}

#[test]
fn a_sandbox_can_share_anothers_namespace() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]);
    lab.netd(&["sandbox", "create", "--network", "sandbox:a1", "side"]).ok();
    let addresses = lab.netd(&["exec", "side", "--", "ip", "-o", "addr"]).ok();
    assert!(addresses.contains("172.20.0.2/24") && addresses.contains("fd00:c:20::2/64"), "{addresses}");
    let side: Sandbox = a1.serving(&[80]);
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).source.ip(), R.ip(Family::V4));
    lab.netd(&["sandbox", "rm", "-f", "side"]).ok();
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).server, "a1", "the owner goes on");
    drop(side);
}
