//! Rung: namespaces, reliability section 5. Rows of the security table that no other test proves, named after their history.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, UdpSocket},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use aya::maps::MapInfo;
use netd_tests::{
    Capture, Family, Frame, H, Lab, Outcome, PATIENCE, Proto, R, R2, Sandbox, Server, Silence, at, files,
};
use nix::sys::signal::Signal;

/// Interfaces of the host that netd has made.
fn own_links(lab: &Lab) -> Vec<String> {
    let foreign = ["lo", "eth0", "eth1"];
    lab.h.links().into_iter().filter(|name| !foreign.contains(&name.as_str())).collect()
}

#[test]
fn s02_s07_cve_2020_8558_cve_2020_13401_netds_interfaces_believe_neither_loopback_nor_routers() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "127.0.0.1:8080:80"]);
    let own = own_links(&lab);
    assert!(own.len() >= 3, "two bridges and a sandbox's link: {own:?}");
    for name in own.iter().map(String::as_str).chain(["lo", "eth0", "all"]) {
        let key = format!("net/ipv4/conf/{name}/route_localnet");
        assert_eq!(lab.h.sysctl_get(&key), "0", "{key}");
    }
    // What comes in at a bridge's port is the bridge's, so that its own settings count.
    for name in own.iter().filter(|name| !name.starts_with("veth")) {
        for setting in ["accept_ra", "accept_redirects"] {
            let key = format!("net/ipv6/conf/{name}/{setting}");
            assert_eq!(lab.h.sysctl_get(&key), "0", "{key}");
        }
    }
}

fn mac(sandbox: &Sandbox) -> [u8; 6] {
    sandbox.link("eth0").expect("eth0").mac
}

/// An address of the sandbox's own link, as its interface identifier spells it (RFC 4291, appendix A).
fn link_local(mac: [u8; 6]) -> IpAddr {
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..11].copy_from_slice(&[mac[0] ^ 2, mac[1], mac[2]]);
    octets[11..13].copy_from_slice(&[0xff, 0xfe]);
    octets[13..].copy_from_slice(&mac[3..]);
    IpAddr::from(octets)
}

#[test]
fn s09_cve_2024_32473_ipv6_does_not_pass_on_a_network_of_ipv4() {
    let lab = Lab::new();
    lab.netd(&["network", "create", "--subnet", "172.30.0.0/24", "only4"]).ok();
    let dual = lab.network("netA", 20, &[]);
    let [a1, a2] = ["a1", "a2"].map(|name| lab.sandbox_with(name, &["--network", "only4"]));
    let [b1, b2] = [("b1", 2), ("b2", 3)].map(|(name, host)| lab.sandbox(name, dual, host, &[]));
    for sandbox in [&a1, &a2] {
        let off = fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok();
        assert!(!off || sandbox.sysctl_get("net/ipv6/conf/eth0/disable_ipv6") == "1", "{}", sandbox.name());
    }
    // The sandbox's own stack asks nobody who speaks raw Ethernet.
    let echo = |from: &Sandbox, to: &Sandbox| {
        let (mine, theirs) = (mac(from), mac(to));
        let frame = Frame { src: mine, dst: theirs };
        from.capture().send(&frame.echo(link_local(mine), link_local(theirs), 77));
    };
    let is_it = |packet: &netd_tests::Packet| packet.is_echo_request() && packet.dport == Some(77);
    let (victim, control) = (a2.capture(), b2.capture());
    echo(&a1, &a2);
    echo(&b1, &b2);
    control.wait("the same frame on a network of both families", PATIENCE, is_it);
    // A datagram behind it has arrived: the frame would have come before.
    let frame = Frame { src: mac(&a1), dst: mac(&a2) };
    a1.capture().send(&frame.udp(at(a1.ip(Family::V4), 5), at(a2.ip(Family::V4), 9), b"behind"));
    let seen = victim.until("the datagram behind", PATIENCE, |p| p.is_to(Proto::Udp, 9));
    assert!(!seen.iter().any(is_it), "IPv6 arrived on a network of IPv4");
}

/// What a name server gets to see: queries, whatever they ask.
fn ask(from: &Sandbox, proto: Proto, server: IpAddr) -> Outcome {
    from.probe(proto, at(server, 53))
}

#[test]
fn s10_cve_2024_29018_nobody_outside_is_asked_for_names_by_an_internal_network() {
    let lab = Lab::new();
    // The host's own resolver, as systemd's, and one that the host's resolv.conf may name.
    lab.h.ip_batch("addr add 127.0.0.53/8 dev lo");
    let own = [H.v4.into(), H.v6.into(), IpAddr::from([127, 0, 0, 53])];
    let own: Vec<_> = own.iter().flat_map(|ip| Proto::BOTH.map(|proto| (proto, at(*ip, 53)))).collect();
    let (on_host, outside) = (Server::bind(&lab.h, &own), Server::start(&lab.r2, &[53]));
    let internal = lab.network("netI", 30, &["--internal"]);
    let open = lab.network("netA", 20, &[]);
    let inside = lab.sandbox("inside", internal, 2, &["--dns", &R2.v4.to_string()]);
    let control = lab.sandbox("control", open, 2, &["--dns", &R2.v4.to_string()]);
    // Its resolver is configured as every other's: what keeps the queries in is the packet path, not an empty file.
    let resolv = lab.netd(&["exec", "inside", "cat", "/etc/resolv.conf"]).ok();
    assert_eq!(resolv, lab.netd(&["exec", "control", "cat", "/etc/resolv.conf"]).ok());
    inside.ip_batch(&format!("route replace default via {} dev eth0", internal.gateway(Family::V4)));
    inside.ip_batch(&format!("route replace default via {} dev eth0", internal.gateway(Family::V6)));
    for family in Family::BOTH {
        let (host, there) = (H.ip(family), R2.ip(family));
        for proto in Proto::BOTH {
            assert_eq!(control.reach(proto, at(there, 53)).server, "R2", "{proto:?}");
            assert_eq!(control.reach(proto, at(host, 53)).server, "H", "{proto:?}");
        }
        let silence = Silence::watch(&lab.r2);
        for proto in Proto::BOTH {
            let outcome = ask(&inside, proto, there);
            assert!(!matches!(outcome, Outcome::Ok(_)), "{proto:?} {family:?}: {outcome:?}");
        }
        silence.assert("queries of an internal network");
    }
    for proto in Proto::BOTH {
        // In the sandbox this is its own loopback, where nobody listens.
        let outcome = ask(&inside, proto, IpAddr::from([127, 0, 0, 53]));
        assert!(!matches!(outcome, Outcome::Ok(_)), "{proto:?}: {outcome:?}");
    }
    // One network more, and it is the external path that is used.
    lab.netd(&["network", "connect", "netA", "inside"]).ok();
    assert_eq!(inside.reach(Proto::Udp, at(R2.ip(Family::V4), 53)).server, "R2");
    lab.netd(&["network", "disconnect", "netA", "inside"]).ok();
    let silence = Silence::watch(&lab.r2);
    let outcome = ask(&inside, Proto::Udp, R2.ip(Family::V4));
    assert!(!matches!(outcome, Outcome::Ok(_)), "{outcome:?}");
    silence.assert("queries of a sandbox whose external network is gone");
    drop((on_host, outside));
    lab.h.ip_batch("addr del 127.0.0.53/8 dev lo");
}

/// Returns the map at a pin. Maps are named in capitals, programs and links as the programs; what is read of those as of a map means something else.
fn map_at(pin: &Path) -> Option<MapInfo> {
    let is_map = !pin.file_name()?.to_string_lossy().contains(char::is_lowercase);
    MapInfo::from_pin(pin).ok().filter(|_| is_map)
}

/// Makes one bpf(2) call in a process of this user. Returns what the kernel answered.
fn bpf_as(uid: u32, command: libc::c_long, attribute: [u64; 4]) -> std::io::Result<()> {
    let mut process = Command::new("true");
    process.uid(uid).gid(uid);
    let call = move || {
        let size = size_of_val(&attribute);
        // SAFETY: the attribute is 32 readable bytes and lives for the call; what it points at is the caller's, which waits.
        match unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attribute, size) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and owns its data.
    unsafe { process.pre_exec(call) };
    process.status().map(drop)
}

#[test]
fn s34_unprivileged_ebpf_reaches_none_of_netds_maps_programs_and_links() {
    const BPF_OBJ_GET: libc::c_long = 7; // linux/bpf.h, enum bpf_cmd
    const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
    const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
    const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
    const NOBODY: u32 = 65_534;
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]);
    let dir = lab.daemon.dirs().bpffs().to_owned();
    assert_eq!(fs::metadata(&dir).expect("the pins").permissions().mode() & 0o077, 0, "for root alone");
    let pins = files(&dir);
    let refused = |result: std::io::Result<()>, what: &str| {
        let error = result.expect_err(what);
        assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)), "{what}: {error}");
    };
    let mut kinds = BTreeSet::new();
    for pin in &pins {
        let path = std::ffi::CString::new(pin.as_os_str().as_encoded_bytes()).expect("a path");
        let by_path = [path.as_ptr() as u64, 0, 0, 0];
        let what = pin.display().to_string();
        bpf_as(0, BPF_OBJ_GET, by_path).unwrap_or_else(|error| panic!("root opens {what}: {error}"));
        refused(bpf_as(NOBODY, BPF_OBJ_GET, by_path), &what);
        if let Some(map) = map_at(pin) {
            let by_id = [u64::from(map.id()), 0, 0, 0];
            bpf_as(0, BPF_MAP_GET_FD_BY_ID, by_id).expect("root finds it by its number");
            refused(bpf_as(NOBODY, BPF_MAP_GET_FD_BY_ID, by_id), &what);
            kinds.insert("map");
        }
    }
    let own = netd_tests::invariants::program_ids(lab.daemon.dirs());
    for id in &own {
        let by_id = [u64::from(*id), 0, 0, 0];
        bpf_as(0, BPF_PROG_GET_FD_BY_ID, by_id).expect("root finds it by its number");
        refused(bpf_as(NOBODY, BPF_PROG_GET_FD_BY_ID, by_id), "a program");
        kinds.insert("program");
    }
    refused(bpf_as(NOBODY, BPF_LINK_GET_FD_BY_ID, [1, 0, 0, 0]), "a link");
    assert_eq!(kinds, ["map", "program"].into(), "{} pins, {} programs", pins.len(), own.len());
}

#[test]
fn s14_cve_2021_3773_a_sandbox_cannot_put_itself_before_a_service_of_the_host() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "1195:80", "-p", "1195:80/udp"]).serving(&[80]);
    let _vpn = Server::start(&lab.h, &[1194]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            // The shadow: a flow from the service's port to the very client that will ask for the service.
            let to = at(R.ip(family), 1194);
            assert_eq!(lab_dial(&a1, proto, family, to), Outcome::Refused, "{family:?} {proto:?}");
            let seen = lab.r.reach_from(proto, at(H.ip(family), 1194), family.from_port(1194));
            assert_eq!(seen.server, "H", "{family:?} {proto:?}: the host's own service answers");
            // The same before a port that is published.
            let to = at(R.ip(family), 1195);
            assert_eq!(lab_dial(&a1, proto, family, to), Outcome::Refused, "{family:?} {proto:?}");
            let seen = lab.r.reach_from(proto, at(H.ip(family), 1195), family.from_port(1195));
            assert_eq!(seen.server, "a1", "{family:?} {proto:?}: the published sandbox answers");
        }
    }
}

/// Dials from the port that is dialled; the remote host refuses it, so that the packet was there.
fn lab_dial(from: &Sandbox, proto: Proto, family: Family, to: std::net::SocketAddr) -> Outcome {
    from.dial(proto, to, family.from_port(to.port()), PATIENCE)
}

#[test]
fn s16_nat_slipstreaming_no_payload_opens_a_port() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]).serving(&[4444]);
    let _server = Server::start(&lab.r, &[21, 5060, 1720]);
    for family in Family::BOTH {
        let own = a1.ip(family);
        let payloads = [
            (5060, format!("REGISTER sip:r SIP/2.0\r\nContact: <sip:a@{own}:4444;transport=tcp>\r\n\r\n")),
            (21, "PORT 172,20,0,2,17,92\r\n".to_owned()),
            (21, format!("EPRT |{}|{own}|4444|\r\n", if family == Family::V4 { 1 } else { 2 })),
            (1720, format!("\x03\0\0\x40Q.931 {own} \x11\x5c")),
        ];
        for (port, payload) in payloads {
            let (mut stream, _) = a1.connect_stream(at(R.ip(family), port));
            stream.echo(payload.as_bytes()).expect("the payload went there and came back");
            let silence = Silence::watch(&a1);
            assert_eq!(
                lab.r.attempt(Proto::Tcp, at(H.ip(family), 4444)),
                Outcome::Refused,
                "{family:?} {port}"
            );
            let udp = lab.r.probe(Proto::Udp, at(H.ip(family), 4444)); // the host answers only so many a second
            assert!(matches!(udp, Outcome::Refused | Outcome::Timeout), "{family:?} {port}: {udp:?}");
            silence.assert_unopened("a port that a payload named");
        }
    }
    lab.netd(&["publish", "a1", "4444:4444"]).ok();
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 4444)).server, "a1", "once it is published");
}

#[test]
fn s19_hash_flooding_no_map_of_netds_has_a_known_seed() {
    const BPF_F_ZERO_SEED: u32 = 1 << 6; // linux/bpf.h
    let lab = Lab::new();
    let mut seen = BTreeSet::new();
    for pin in files(lab.daemon.dirs().bpffs()) {
        let Some(map) = map_at(&pin) else { continue };
        assert_eq!(map.map_flags() & BPF_F_ZERO_SEED, 0, "{}", pin.display());
        seen.insert(map.name_as_str().unwrap_or_default().to_owned());
    }
    assert!(seen.len() > 20 && seen.contains("FLOW4") && seen.contains("FLOW6"), "{seen:?}");
}

#[test]
fn s20_ghsa_c66w_hq56_4q97_an_answer_expected_lets_no_request_in() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &[]);
    for (family, id) in [(Family::V4, 4_001), (Family::V6, 4_002)] {
        let remote = Capture::start(&lab.r, "eth0");
        assert!(matches!(a1.ping_with(R.ip(family), id, PATIENCE), Outcome::Ok(_)), "the way out is open");
        let out = remote.wait("the translated request", PATIENCE, netd_tests::Packet::is_echo_request);
        let id = out.dport.expect("an identifier");
        let silence = Silence::watch(&a1);
        // The host itself answers; the flow's identifier is not a way in.
        assert!(matches!(lab.r.ping_with(H.ip(family), id, PATIENCE), Outcome::Ok(_)), "{family:?}");
        silence.assert("an echo request with the flow's identifier");
    }
}

#[test]
fn s21_cve_2023_27595_nothing_gets_in_while_the_daemon_dies_and_starts() {
    let mut lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    let targets = Family::BOTH.map(|family| at(a1.ip(family), 9));
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let silence = Silence::watch(&a1);
    let attacker = lab.r.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            attacker.run(|| {
                let sockets = targets.map(|to| {
                    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                    (UdpSocket::bind(at(any, 0)).expect("a socket"), to)
                });
                while !stop.load(Ordering::Relaxed) {
                    for (socket, to) in &sockets {
                        let _ = socket.send_to(b"attack", to); // refusals of earlier ones show here
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
                lab.daemon.end(signal);
                lab.daemon.restart();
            }
        }));
        stop.store(true, Ordering::Relaxed); // or the scope would never end
        result.expect("three restarts");
    });
    assert!(sent.load(Ordering::Relaxed) > 100, "the attacker was at work");
    silence.assert("a datagram to an unpublished port");
    assert_eq!(lab.r.reach(Proto::Tcp, at(H.v4, 8080)).server, "a1", "the published way is open");
}

#[test]
fn s24_cve_2021_20206_names_and_links_lead_nowhere_else() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let _a1 = lab.sandbox("a1", net, 2, &[]);
    let before = lab.snapshot();
    let long = "x".repeat(300);
    for name in ["../../etc/x", "a/b", ".", "..", "", "-a", "a\nb", "a b", "\u{202e}web", &long] {
        for args in [["sandbox", "create", name], ["network", "create", name]] {
            assert_eq!(lab.netd(&args).code, 2, "{args:?}");
        }
    }
    before.assert_unchanged(&lab.snapshot(), "refused names");
    // Somebody puts a link in the place of a state file while the daemon runs.
    let dirs = lab.daemon.dirs();
    let target = dirs.path("foreign");
    fs::write(&target, "mine").expect("a file of somebody else's");
    let state = files(&dirs.path("state/sandboxes"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "json"));
    let state = state.expect("the sandbox's file");
    let text = fs::read(&state).expect("its text");
    fs::remove_file(&state).expect("remove it");
    std::os::unix::fs::symlink(&target, &state).expect("a link in its place");
    let _ = lab.netd(&["publish", "a1", "8080:80"]); // it may refuse; it may not write through the link
    assert_eq!(fs::read_to_string(&target).expect("it is there"), "mine");
    let _ = lab.netd(&["sandbox", "rm", "-f", "a1"]);
    assert_eq!(fs::read_to_string(&target).expect("it is there"), "mine");
    if fs::symlink_metadata(&state).is_ok_and(|present| present.is_symlink()) {
        fs::remove_file(&state).expect("take the link away");
        fs::write(&state, text).expect("what was there");
    }
}

#[test]
fn s25_cve_2022_0811_no_text_becomes_a_line_a_setting_or_a_command() {
    let lab = Lab::new();
    let before = lab.snapshot();
    for text in ["a\nb", "a b", "a/b", "..", "a%d", "%n%s", "a+net.ipv4.ip_forward=0"] {
        let name = format!("com.docker.network.bridge.name={text}");
        assert_eq!(lab.netd(&["network", "create", "-o", &name, "x"]).code, 2, "{text:?}");
    }
    for text in [";id", "$(id)", "`id`", "a\n127.0.0.1 bank", "a+net.ipv4.ip_forward=0", "%n%s", "a b"] {
        let mtu = format!("com.docker.network.driver.mtu={text}");
        assert_eq!(lab.netd(&["network", "create", "-o", &mtu, "x"]).code, 2, "{text:?}");
        assert_eq!(lab.netd(&["sandbox", "create", "--dns", text, "x"]).code, 2, "{text:?}");
        assert_eq!(lab.netd(&["sandbox", "create", "-p", text, "x"]).code, 2, "{text:?}");
    }
    for text in ["a\n127.0.0.1 bank", "a b", "a\tb", "a#b"] {
        assert_eq!(lab.netd(&["sandbox", "create", "--hostname", text, "x"]).code, 2, "{text:?}");
        let search = ["sandbox", "create", "--dns-search", text, "x"];
        assert_eq!(lab.netd(&search).code, 2, "{text:?}");
        let host = format!("{text}:10.0.0.1");
        assert_eq!(lab.netd(&["sandbox", "create", "--add-host", &host, "x"]).code, 2, "{text:?}");
    }
    before.assert_unchanged(&lab.snapshot(), "refused texts");
    lab.netd(&[
        "sandbox",
        "create",
        "--hostname",
        "a.b",
        "--dns-search",
        "lan",
        "--add-host",
        "c:10.0.0.1",
        "x",
    ])
    .ok();
}

#[test]
fn s25_the_daemon_executes_no_program() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("netd/src");
    let (mut read, mut commands) = (0, 0);
    for path in files(&source) {
        let text = fs::read_to_string(&path).expect("a source file");
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let starts = ["process::Command", "libc::execv", "unistd::execv", "posix_spawn"];
        let found = starts.iter().any(|word| product.contains(word));
        read += 1;
        if path.starts_with(source.join("cli")) {
            commands += usize::from(found); // `netd run` and `netd exec` start the user's command, as the user
        } else {
            assert!(!found, "{} starts programs", path.display());
        }
    }
    assert!(read > 100 && commands > 0, "the sources were read: {read}, {commands}");
}
