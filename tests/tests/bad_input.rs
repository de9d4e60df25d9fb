//! Rung: namespaces. Bad input, for every command: the exit code of the contract, one clear line, and a kernel that has not changed.

use std::{os::unix::process::CommandExt as _, process::Command};

use netd_tests::{H, Lab, Outcome, Proto, Server, Snapshot, Topology, at, binary};

const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;

/// A command line, its exit code, and a word of what the line has to name.
type Case<'a> = (&'a [&'a str], i32, &'a str);

/// Networks netA (172.20.0.0/24, IPv6 too) and netB, sandboxes a1 (.2, 8080 published) and a2, port 2222 used by a process of the host.
fn check(cases: &[Case<'_>]) {
    let lab = Lab::new();
    let (a, _b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    let a1 = lab.sandbox("a1", a, 2, &["-p", "8080:80"]).serving(&[80]);
    let _a2 = lab.sandbox("a2", a, 3, &[]);
    let _host = Server::start(&lab.h, &[2222]);
    let said = || {
        [["sandbox", "ls"], ["network", "ls"]].map(|args| lab.netd(&[args[0], args[1], "--no-trunc"]).ok())
    };
    let (before, listed) = (lab.snapshot(), said());
    let mut faults = Vec::new();
    for (args, code, word) in cases {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let line = lab.netd(args).refused(*code);
            assert!(line.contains(word), "{args:?}: the line does not name {word:?}: {line}");
            before.assert_unchanged(&lab.snapshot(), &args.join(" "));
        }));
        if let Err(panic) = outcome {
            faults.push(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| format!("{args:?}")));
        }
    }
    assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), cases.len(), faults.join("\n"));
    assert_eq!(said(), listed, "what netd lists has changed");
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).server, "a1");
    drop(a1);
}

#[test]
fn bad_networks_are_refused() {
    check(&[
        (&["network", "create", "netA"], CONFLICT, "netA"),
        (&["network", "create", "bridge"], CONFLICT, "bridge"),
        (&["network", "create", "--subnet", "172.20.0.0/16", "x"], CONFLICT, "172.20.0.0/16"),
        (&["network", "create", "--subnet", "172.20.0.128/25", "x"], CONFLICT, "172.20.0.128/25"),
        (&["network", "create", "--subnet", "10.0.0.0/24", "x"], CONFLICT, "10.0.0.0/24"),
        (&["network", "create", "--subnet", "10.0.1.128/25", "x"], CONFLICT, "10.0.1.128/25"),
        (&["network", "create", "--ipv6", "--subnet", "fd00:c:20::/80", "x"], CONFLICT, "fd00:c:20::/80"),
        (&["network", "create", "--subnet", "172.30.0.0/33", "x"], USAGE, "172.30.0.0/33"),
        (&["network", "create", "--subnet", "nonsense", "x"], USAGE, "nonsense"),
        (&["network", "create", "--subnet", "172.30.0.1/24", "x"], USAGE, "172.30.0.0/24"),
        (
            &["network", "create", "--subnet", "172.30.0.0/24", "--gateway", "172.31.0.1", "x"],
            USAGE,
            "172.31.0.1",
        ),
        (
            &["network", "create", "--subnet", "172.30.0.0/24", "--ip-range", "172.30.0.0/16", "x"],
            USAGE,
            "172.30.0.0/16",
        ),
        (
            &["network", "create", "--subnet", "172.30.0.0/24", "--ip-range", "172.31.0.0/25", "x"],
            USAGE,
            "172.31.0.0/25",
        ),
        (
            &["network", "create", "--subnet", "172.30.0.0/24", "--aux-address", "p=172.31.0.9", "x"],
            USAGE,
            "172.31.0.9",
        ),
        (&["network", "create", "--ipv4=false", "x"], USAGE, "IPv4"),
        (&["network", "create", "-o", "netd.no_such_key=1", "x"], USAGE, "netd.no_such_key"),
        (
            &["network", "create", "-o", "com.docker.network.bridge.enable_icc=maybe", "x"],
            USAGE,
            "enable_icc",
        ),
        (&["network", "create", "-o", "com.docker.network.driver.mtu=-1", "x"], USAGE, "-1"),
        (
            &["network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated", "x"],
            USAGE,
            "isolated",
        ),
        (
            &["network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=sideways", "x"],
            USAGE,
            "sideways",
        ),
        (
            &["network", "create", "-o", "com.docker.network.bridge.name=much-too-long-a-name", "x"],
            USAGE,
            "much-too-long",
        ),
        (&["network", "create", "../x"], USAGE, "../x"),
        (&["network", "create", ""], USAGE, ""),
        (&["network", "rm", "nope"], NOT_FOUND, "nope"),
        (&["network", "rm", "bridge"], CONFLICT, "bridge"),
        (&["network", "rm", "netA"], CONFLICT, "netA"),
        (&["network", "inspect", "nope"], NOT_FOUND, "nope"),
    ]);
}

#[test]
fn bad_connections_are_refused() {
    check(&[
        (&["network", "connect", "nope", "a1"], NOT_FOUND, "nope"),
        (&["network", "connect", "netB", "nope"], NOT_FOUND, "nope"),
        (&["network", "connect", "netA", "a1"], CONFLICT, "a1"),
        (&["network", "connect", "host", "a1"], USAGE, "host"),
        (&["network", "connect", "none", "a1"], USAGE, "none"),
        (&["network", "connect", "--ip", "172.20.0.9", "netB", "a1"], USAGE, "172.20.0.9"),
        (&["network", "connect", "--ip", "172.21.0.1", "netB", "a1"], CONFLICT, "172.21.0.1"),
        (&["network", "connect", "--ip", "1.2.3", "netB", "a1"], USAGE, "1.2.3"),
        (&["network", "disconnect", "nope", "a1"], NOT_FOUND, "nope"),
        (&["network", "disconnect", "netA", "nope"], NOT_FOUND, "nope"),
        (&["network", "disconnect", "netB", "a1"], NOT_FOUND, "a1"),
        (&["network", "disconnect", "-f", "netB", "a1"], NOT_FOUND, "a1 is not connected to network netB"),
        (
            &["network", "disconnect", "-f", "netB", "nope"],
            NOT_FOUND,
            "nope is not connected to network netB",
        ),
        (&["network", "disconnect", "-f", "nope", "a1"], NOT_FOUND, "nope"),
    ]);
}

#[test]
fn bad_sandboxes_are_refused() {
    check(&[
        (&["sandbox", "create", "--network", "netA", "a1"], CONFLICT, "a1"),
        (&["sandbox", "create", "--network", "nope", "x"], NOT_FOUND, "nope"),
        (&["sandbox", "create", "--network", "netA", "--network", "nope", "x"], NOT_FOUND, "nope"),
        (&["sandbox", "create", "--network", "netA", "--network", "netA", "x"], CONFLICT, "netA"),
        (&["sandbox", "create", "--network", "netA", "--network", "host", "x"], USAGE, "host"),
        (&["sandbox", "create", "--network", "sandbox:nope", "x"], NOT_FOUND, "nope"),
        (&["sandbox", "create", "--network", "netA,ip=172.20.0.2", "x"], CONFLICT, "172.20.0.2"),
        (&["sandbox", "create", "--network", "netA,ip=172.20.0.1", "x"], CONFLICT, "172.20.0.1"),
        (&["sandbox", "create", "--network", "netA,ip6=fd00:c:20::2", "x"], CONFLICT, "fd00:c:20::2"),
        (&["sandbox", "create", "--network", "netA,ip=172.21.0.9", "x"], USAGE, "172.21.0.9"),
        (&["sandbox", "create", "--network", "netA,ip=172.20.0.255", "x"], CONFLICT, "172.20.0.255"),
        (&["sandbox", "create", "--network", "netA,ip=banana", "x"], USAGE, "banana"),
        (&["sandbox", "create", "--network", "netA,colour=red", "x"], USAGE, "colour"),
        (&["sandbox", "create", "--ip", "172.17.0.9", "x"], USAGE, "user-defined"),
        (&["sandbox", "create", "--network", "netA,mac-address=02:42", "x"], USAGE, "02:42"),
        (
            &["sandbox", "create", "--network", "netA,mac-address=01:00:5e:00:00:01", "x"],
            USAGE,
            "01:00:5e:00:00:01",
        ),
        (&["sandbox", "create", "--netns", "/no/such/namespace", "x"], NOT_FOUND, "/no/such/namespace"),
        (&["sandbox", "create", "--netns", "/etc/hostname", "x"], USAGE, "/etc/hostname"),
        (&["sandbox", "create", "--pid", "4194304", "x"], NOT_FOUND, "4194304"),
        (&["sandbox", "create", "--dns", "banana", "x"], USAGE, "banana"),
        (&["sandbox", "create", "--add-host", "nohost", "x"], USAGE, "nohost"),
        (&["sandbox", "create", "../x"], USAGE, "../x"),
        (&["sandbox", "rm", "nope"], NOT_FOUND, "nope"),
        (&["sandbox", "inspect", "nope"], NOT_FOUND, "nope"),
        (&["run", "--network", "nope", "--", "true"], NOT_FOUND, "nope"),
        (&["exec", "nope", "--", "true"], NOT_FOUND, "nope"),
    ]);
}

#[test]
fn bad_ports_are_refused() {
    let create = |spec| ["sandbox", "create", "--network", "netB", "-p", spec, "x"];
    let malformed = [
        "x",
        "80:80:80:80",
        "70000:80",
        "80:0",
        "=-1:80",
        "8000-8010:9000-9005",
        "8010-8000:80-90",
        "80:80/foo",
        "1.2.3.4.5:80:80",
        "[::1:80:80",
        "",
    ];
    let malformed: Vec<_> = malformed.into_iter().map(|spec| (create(spec), USAGE, spec)).collect();
    let taken = [
        "2222:80",
        "127.0.0.1:2222:80",
        "2220-2230:80-90",
        "8080:80",
        "10.0.0.2:8080:80",
        "[fd00:a::2]:8080:80",
    ];
    let taken: Vec<_> = taken
        .into_iter()
        .map(|spec| (create(spec), CONFLICT, if spec.contains("22") { "2222" } else { "8080" }))
        .collect();
    let mut cases: Vec<Case<'_>> =
        malformed.iter().chain(&taken).map(|(args, code, word)| (&args[..], *code, *word)).collect();
    cases.extend([
        (&["sandbox", "create", "--network", "sandbox:a1", "-p", "90:90", "x"][..], USAGE, "port publishing"),
        (&["publish", "nope", "90:90"], NOT_FOUND, "nope"),
        (&["publish", "a2", "nonsense"], USAGE, "nonsense"),
        (&["publish", "a2", "8080:80"], CONFLICT, "8080"),
        (&["publish", "a2", "9090:90", "8080:80"], CONFLICT, "8080"),
        (&["publish", "a2", "2222:80"], CONFLICT, "2222"),
        (&["unpublish", "nope", "8080:80"], NOT_FOUND, "nope"),
        (&["unpublish", "a1", "9999:80"], NOT_FOUND, "9999"),
        (&["unpublish", "a1", "8080:80", "9999:80"], NOT_FOUND, "9999"),
        (&["port", "nope"], NOT_FOUND, "nope"),
    ]);
    check(&cases);
}

#[test]
fn bad_commands_are_refused() {
    check(&[
        (&["no-such-command"], USAGE, "no-such-command"),
        (&["network", "no-such-command"], USAGE, "no-such-command"),
        (&["network", "create"], USAGE, "NAME"),
        (&["network", "create", "--no-such-flag", "x"], USAGE, "--no-such-flag"),
        (&["run", "--network", "netA"], USAGE, "COMMAND"),
        (&["flow", "ls", "--filter", "colour=red"], USAGE, "colour"),
        (&["flow", "ls", "--filter", "port=banana"], USAGE, "banana"),
        (&["network", "ls", "--filter", "colour=red"], USAGE, "colour"),
        (&["network", "ls", "--format", "{{.Name"], USAGE, "{{.Name"),
    ]);
}

#[test]
fn a_port_of_a_host_process_stays_with_it() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let host = Server::start(&lab.h, &[2222]);
    let args = ["sandbox", "create", "--network", net.name(), "-p", "2222:80", "x"];
    let line = lab.netd(&args).refused(CONFLICT);
    assert!(line.contains("2222") && line.contains("in use"), "{line}");
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 2222)).server, "H");
    drop(host);
    lab.netd(&args).ok();
    assert_eq!(lab.r.attempt(Proto::Udp, at(H.v4, 2222)), Outcome::Refused);
}

#[test]
fn without_permission_a_command_exits_with_6() {
    let lab = Lab::new();
    let before = lab.snapshot();
    for args in [&["network", "create", "x"][..], &["network", "ls"], &["sandbox", "create", "x"]] {
        let mut command = lab.command(args);
        command.uid(65_534).gid(65_534);
        let out = lab.h.output(&mut command);
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(6), "{args:?}: {error}");
        assert_eq!(error.lines().filter(|line| !line.starts_with("hint: ")).count(), 1, "{error}");
    }
    before.assert_unchanged(&lab.snapshot(), "commands without permission");
}

#[test]
fn without_a_socket_a_command_exits_with_5() {
    let out = Command::new(binary())
        .args(["-H", "unix:///no/such/netd.sock", "network", "ls"])
        .output()
        .expect("netd");
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(5), "{error}");
    assert!(error.contains("/no/such/netd.sock"), "{error}");
}

#[test]
fn a_daemon_with_a_bad_configuration_does_not_start() {
    let topology = Topology::new();
    let before = Snapshot::of(&topology.h);
    for config in [
        "[flows]\nentries = \"many\"\n",
        "[nat]\nport_range = \"9-1\"\n",
        "[no_such_section]\nkey = 1\n",
        "not toml",
    ] {
        let dirs = netd_tests::Dirs::new();
        let file = dirs.path("netd.toml");
        std::fs::write(&file, config).expect("write the configuration");
        let mut command = Command::new(binary());
        let out = topology.h.output(command.arg("daemon").arg("--config").arg(&file).args(dirs.options()));
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(matches!(out.status.code(), Some(1 | USAGE)), "{config:?}: {error}");
        assert!(error.contains("netd.toml"), "the file is named: {error}");
        before.assert_unchanged(&Snapshot::of(&topology.h), config);
        assert_eq!(dirs.leftovers(), Vec::<String>::new());
    }
}
