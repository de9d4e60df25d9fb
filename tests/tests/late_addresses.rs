//! Rung: namespaces, beside dataplane §12 cases 23 and 91. Ports published on an address that the host gets later, loses, or moves.

use std::net::IpAddr;

use netd_tests::{Family, H, Lab, Outcome, Proto, R, Sandbox, at, eventually};

/// The address that comes later.
fn late(family: Family) -> IpAddr {
    let text = if family == Family::V4 { "10.0.0.77" } else { "fd00:a::77" };
    text.parse().expect("an address")
}

fn change(lab: &Lab, action: &str, family: Family, dev: &str) {
    let ip = late(family);
    let suffix = match (family, action) {
        (Family::V4, _) => "/24",
        (Family::V6, "add") => "/64 nodad",
        (Family::V6, _) => "/64",
    };
    lab.h.ip_batch(&format!("addr {action} {ip}{suffix} dev {dev}"));
}

/// Waits until netd knows the late address or has forgotten it.
fn known(lab: &Lab, family: Family, wanted: bool) {
    let ip = late(family).to_string();
    eventually("netd to notice the address", || {
        let status = lab.netd(&["status", "--format", "json"]).json();
        let all = status["LocalAddresses"].as_array().cloned().unwrap_or_default();
        all.iter().any(|local| local == ip.as_str()) == wanted
    });
}

/// Lets processes bind addresses that the host does not have, as VRRP wants it, or not.
fn nonlocal_bind(lab: &Lab, value: &str) {
    for family in ["ipv4", "ipv6"] {
        lab.h.sysctl(&format!("net/{family}/ip_nonlocal_bind"), value);
    }
}

/// A sandbox whose port is published on addresses that the host does not have yet.
fn lab_with_a1() -> (Lab, Sandbox) {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let publish = on_the_late_addresses();
    let publish: Vec<&str> = publish.iter().flat_map(|port| ["-p", port]).collect();
    nonlocal_bind(&lab, "1");
    let a1 = lab.sandbox("a1", net, 2, &publish).serving(&[80]);
    nonlocal_bind(&lab, "0");
    (lab, a1)
}

/// Publishes a1's port 80 as 8080 on the late addresses alone.
fn on_the_late_addresses() -> Vec<String> {
    let text = |family| match late(family) {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let of = |family| ["", "/udp"].map(|suffix| format!("{}:8080:80{suffix}", text(family)));
    Family::BOTH.map(of).concat()
}

#[test]
fn case23_an_address_that_the_host_does_not_have_is_refused_and_taken_when_it_has_it() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]).serving(&[80]);
    for family in Family::BOTH {
        let ports: Vec<String> = on_the_late_addresses()
            .into_iter()
            .filter(|port| port.starts_with('[') == (family == Family::V6))
            .collect();
        let before = lab.snapshot();
        for port in &ports {
            let refused = lab.netd(&["publish", "a1", port]);
            assert_ne!(refused.code, 0);
            assert!(refused.stderr.contains("cannot assign requested address"), "{}", refused.stderr); // Docker semantics E13
        }
        before.assert_unchanged(&lab.snapshot(), "a refused publish");
        change(&lab, "add", family, "eth0");
        for port in &ports {
            lab.netd(&["publish", "a1", port]).ok();
        }
        known(&lab, family, true);
        for proto in Proto::BOTH {
            assert_eq!(lab.r.reach(proto, at(late(family), 8080)).server, "a1");
        }
        change(&lab, "del", family, "eth0");
    }
    drop(a1);
}

#[test]
fn case23_a_port_published_on_an_address_that_comes_later_serves_when_it_comes() {
    let (lab, a1) = lab_with_a1();
    for family in Family::BOTH {
        let to = at(late(family), 8080);
        for dev in ["eth0", "eth1", "lo", "eth0"] {
            for proto in Proto::BOTH {
                let before = lab.r.probe(proto, to);
                assert_eq!(before.seen(), None, "{family:?} {proto:?}: nobody has the address");
            }
            change(&lab, "add", family, dev);
            known(&lab, family, true);
            // Wherever the host has the address, it answers for it on every link (truth table T30), if one asks it.
            let route = format!("{} via {}", to.ip(), H.ip(family));
            lab.r.ip_batch(&format!("route replace {route}"));
            for proto in Proto::BOTH {
                let seen = lab.r.reach(proto, to);
                assert_eq!((seen.server.as_str(), seen.source.ip()), ("a1", R.ip(family)), "{proto:?} {dev}");
                assert_eq!(lab.h.reach(proto, to).server, "a1", "{proto:?} of the host, {dev}");
                assert_eq!(lab.h.probe(proto, at(H.ip(family), 8080)), Outcome::Refused, "other addresses");
            }
            let mut stream = lab.r.connect_stream(to).0;
            stream.echo(b"there").expect("a stream");
            change(&lab, "del", family, dev);
            known(&lab, family, false);
            lab.r.ip_batch(&format!("route del {route}"));
        }
    }
    drop(a1);
}

#[test]
fn case23_such_a_port_is_kept_from_others_before_the_address_comes_and_freed_with_its_sandbox() {
    let (lab, a1) = lab_with_a1();
    for family in Family::BOTH {
        let to = late(family);
        // Who may bind addresses that nobody has yet (IP_FREEBIND) does not get this one.
        lab.h.sysctl(
            if family == Family::V4 { "net/ipv4/ip_nonlocal_bind" } else { "net/ipv6/ip_nonlocal_bind" },
            "1",
        );
        let bind = |port| lab.h.run(|| std::net::UdpSocket::bind(at(to, port)));
        bind(8081).expect("a free port");
        let refused = bind(8080).expect_err("a published port");
        assert_eq!(refused.raw_os_error(), Some(libc::EADDRINUSE), "{refused}");
        lab.h.sysctl(
            if family == Family::V4 { "net/ipv4/ip_nonlocal_bind" } else { "net/ipv6/ip_nonlocal_bind" },
            "0",
        );
        change(&lab, "add", family, "eth0");
        known(&lab, family, true);
        assert_eq!(lab.r.reach(Proto::Tcp, at(to, 8080)).server, "a1");
    }
    drop(a1);
    lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    for family in Family::BOTH {
        assert_eq!(lab.r.probe(Proto::Tcp, at(late(family), 8080)), Outcome::Refused, "{family:?}");
        change(&lab, "del", family, "eth0");
    }
}

#[test]
fn case23_such_a_port_serves_across_a_restart_before_the_address_comes() {
    let (mut lab, _a1) = lab_with_a1();
    lab.daemon.end(nix::sys::signal::Signal::SIGKILL);
    for family in Family::BOTH {
        change(&lab, "add", family, "eth0"); // while nobody looks
    }
    lab.daemon.restart();
    for family in Family::BOTH {
        known(&lab, family, true);
        for proto in Proto::BOTH {
            assert_eq!(lab.r.reach(proto, at(late(family), 8080)).server, "a1");
        }
        change(&lab, "del", family, "eth0");
    }
}

#[test]
fn s06_cve_2020_8554_an_address_that_no_host_can_have_is_not_published() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &[]);
    nonlocal_bind(&lab, "1");
    let before = lab.snapshot();
    for ip in ["0.0.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "[ff02::1]"] {
        for protocol in ["tcp", "udp"] {
            let refused = lab.netd(&["publish", "a1", &format!("{ip}:8080:80/{protocol}")]);
            assert_eq!(refused.code, 2, "{ip}: {}", refused.stderr);
            assert!(refused.stderr.contains("no host can have this address"), "{ip}: {}", refused.stderr);
            assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        }
    }
    before.assert_unchanged(&lab.snapshot(), "refused addresses");
    // The control: what a host may have is taken.
    for ip in ["0.0.0.0", "127.0.0.1", "169.254.1.1", "192.0.2.1", "[::ffff:10.0.0.1]", "[::]"] {
        lab.netd(&["publish", "a1", &format!("{ip}:8080:80")]).ok();
        lab.netd(&["unpublish", "a1", &format!("{ip}:8080:80")]).ok();
    }
    nonlocal_bind(&lab, "0");
}
