//! Rung: namespaces. Networks of netkit pairs: refused where the kernel has none (as on most machines that build netd), and where it has (the guests of
//! `cargo xtask vm`) as good as those of veth pairs. The other tests run over them by `cargo xtask vm --device netkit`.

use std::{fs, path::PathBuf, process::Command};

use aya::programs::links::{FdLink, PinnedLink};
use netd_tests::{
    Capture, Family, Frame, H, Lab, Net, Ns, Outcome, Proto, R, Sandbox, Server, at, denied, eventually,
};
use nix::sys::signal::Signal;

const NETKIT: [&str; 2] = ["-o", "netd.device=netkit"];

/// Whether this kernel makes netkit pairs, asked without netd.
fn kernel_has_netkit() -> bool {
    let ns = Ns::new("probe");
    ns.output(Command::new("ip").args(["link", "add", "kit0", "type", "netkit"])).status.success()
}

#[test]
fn a_network_of_netkit_pairs_takes_a_kernel_that_has_them() {
    let lab = Lab::new();
    lab.network("pairs", 20, &["-o", "netd.device=veth"]);
    let asked = lab.netd(&["network", "create", "-o", "netd.device=netkit", "kit"]);
    let there = |name: &str| lab.netd(&["network", "ls", "--format", "json"]).ok().contains(name);
    assert!(there("pairs"), "control");
    if kernel_has_netkit() {
        asked.ok();
        assert_eq!(lab.inspect_network("kit")["Options"]["netd.device"], "netkit");
    } else {
        let line = asked.refused(7);
        assert!(line.ends_with("netd.device=netkit: this kernel has no netkit devices"), "{line}");
        assert!(!there("kit"), "a refused network is there");
    }
    let line = lab.netd(&["network", "create", "-o", "netd.device=tap", "tap"]).refused(2);
    assert!(line.contains("unknown device tap: it is veth or netkit"), "{line}");
}

/// Sandboxes before the lab: dropped in this order.
struct World {
    a1: Sandbox,
    a2: Sandbox,
    b1: Sandbox,
    kit: Net,
    lab: Lab,
    _remote: Server,
}

/// a1 and a2 on a network of netkit pairs, b1 on one of veth pairs; none where the kernel has no netkit.
fn world() -> Option<World> {
    if !kernel_has_netkit() {
        eprintln!("skipped: this kernel has no netkit devices");
        return None;
    }
    let lab = Lab::new();
    let (kit, pairs) =
        (lab.network("kit", 20, &NETKIT), lab.network("pairs", 21, &["-o", "netd.device=veth"]));
    let a1 = lab.sandbox("a1", kit, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let (a2, b1) = (lab.sandbox("a2", kit, 3, &[]), lab.sandbox("b1", pairs, 2, &[]));
    let remote = Server::start(&lab.r, &[80]);
    Some(World { a1, a2, b1, kit, lab, _remote: remote })
}

/// The host side of a sandbox's pair: its name and index.
fn host_side(lab: &Lab, sandbox: &Sandbox) -> (String, u32) {
    let inside = sandbox.ip_json(&["-details", "link", "show", "dev", "eth0"]);
    let index = inside[0]["link_index"].as_u64().expect("the peer's index");
    let links = lab.h.ip_json(&["link", "show"]);
    let link = links.as_array().expect("links").iter().find(|link| link["ifindex"] == index);
    let name = link.and_then(|link| link["ifname"].as_str()).expect("the peer").to_owned();
    (name, u32::try_from(index).expect("an index"))
}

fn kind(sandbox: &Sandbox) -> String {
    let link = sandbox.ip_json(&["-details", "link", "show", "dev", "eth0"]);
    link[0]["linkinfo"]["info_kind"].as_str().unwrap_or_default().to_owned()
}

/// How many datagrams of an exchange with `R` crossed a sandbox's host side, where a receive queue is.
fn queued(lab: &Lab, sandbox: &Sandbox, family: Family, datagrams: usize) -> usize {
    let watch = Capture::start(&lab.h, &host_side(lab, sandbox).0);
    let socket = sandbox.run(|| std::net::UdpSocket::bind((family.any(), 0)).expect("a socket"));
    socket.connect(at(R.ip(family), 80)).expect("connected");
    socket.set_read_timeout(Some(netd_tests::PATIENCE)).expect("a timeout");
    for _ in 0..datagrams {
        socket.send(b"who").expect("sent");
        socket.recv(&mut [0; 256]).expect("an answer");
    }
    watch.take().iter().filter(|p| !p.outgoing && p.is_to(Proto::Udp, 80)).count()
}

#[test]
fn a_netkit_pair_carries_what_a_veth_pair_carries_and_flows_to_the_outside_skip_the_receive_queue() {
    const DATAGRAMS: usize = 50;
    let Some(World { a1, a2, b1, kit, lab, _remote }) = world() else { return };
    assert_eq!([&a1, &a2, &b1].map(kind), ["netkit", "netkit", "veth"]);
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            assert_eq!(lab.r.reach(proto, at(H.ip(family), 8080)).server, "a1", "{proto:?} published");
            assert_eq!(a1.reach(proto, at(R.ip(family), 80)).source.ip(), H.ip(family), "{proto:?} outwards");
            assert_eq!(a2.reach(proto, at(a1.ip(family), 80)).source.ip(), a2.ip(family), "{proto:?} inside");
            assert_eq!(b1.reach(proto, at(H.ip(family), 8080)).server, "a1", "{proto:?} hairpin");
            assert_eq!(a1.reach(proto, at(H.ip(family), 8080)).source.ip(), kit.gateway(family), "{proto:?}");
            assert_eq!(b1.probe(proto, at(a1.ip(family), 80)), Outcome::Timeout, "{proto:?} across networks");
        }
        a1.ping(R.ip(family));
        a1.exchange_datagram(at(R.ip(family), 80), 8000);
        let (mut stream, _) = a1.connect_stream(at(R.ip(family), 80));
        stream.echo(&vec![7; 1 << 20]).expect("a stream carries its data");
        // A few may ask for their way again, should it change meanwhile; of a veth's, each crosses it.
        assert!(queued(&lab, &a1, family, DATAGRAMS) < DATAGRAMS, "none took the short way");
        assert_eq!(queued(&lab, &b1, family, DATAGRAMS), DATAGRAMS, "control: veth");
    }
}

#[test]
fn a_sandbox_cannot_pass_a_frame_off_as_another_kind() {
    const LLDP: u16 = 0x88cc;
    let Some(w) = world() else { return };
    let (wire, victim) = (w.a1.capture(), w.a2.capture());
    let mac = |sandbox: &Sandbox| sandbox.link("eth0").expect("eth0").mac;
    let frame = Frame { src: mac(&w.a1), dst: mac(&w.a2) };
    for family in Family::BOTH {
        let to = at(w.a2.ip(family), 9);
        let spoofed = frame.udp(at(w.kit.ip(family, 99), 5000), to, b"spoofed");
        denied(&w.lab, &w.a2, &["MALFORMED"], || {
            assert_eq!(wire.send_as(LLDP, &spoofed), Err(nix::errno::Errno::ENOBUFS), "dropped at once");
        });
        denied(&w.lab, &w.a2, &["SPOOF_IP"], || wire.send(&spoofed));
        victim.take();
        wire.send(&frame.udp(at(w.a1.ip(family), 5000), to, b"honest"));
        victim.wait("the honest datagram", netd_tests::PATIENCE, |p| p.is_to(Proto::Udp, 9));
    }
}

/// Where the link on a sandbox's pair is pinned, if it is.
fn pin(lab: &Lab, sandbox: &Sandbox) -> Option<PathBuf> {
    let name = format!("links/{}-from_netkit", host_side(lab, sandbox).1);
    let layouts = fs::read_dir(lab.daemon.dirs().bpffs()).expect("pins").flatten();
    layouts.map(|layout| layout.path().join(&name)).find(|path| path.exists())
}

/// Removes the pin of the link on a sandbox's pair.
fn unpin(lab: &Lab, sandbox: &Sandbox) {
    fs::remove_file(pin(lab, sandbox).expect("the link's pin")).expect("removed");
}

/// The link on a sandbox's pair, held open.
fn link(lab: &Lab, sandbox: &Sandbox) -> FdLink {
    PinnedLink::from_pin(pin(lab, sandbox).expect("the link's pin")).expect("a link").into()
}

#[test]
fn a_pair_whose_program_was_taken_away_drops_what_its_sandbox_sends_until_it_is_back() {
    let Some(World { a1, a2, mut lab, _remote, .. }) = world() else { return };
    let (out, id) = (at(R.v4, 80), |link: &FdLink| link.info().expect("a link").id());
    let (mut stream, _) = a1.connect_stream(out);
    lab.daemon.end(Signal::SIGKILL);
    stream.echo(b"without a daemon").expect("it lives");
    // A link that something else holds goes on without its pin, and the next daemon finds it.
    let held = link(&lab, &a1);
    unpin(&lab, &a1);
    stream.echo(b"without its pin").expect("it lives");
    lab.daemon.restart();
    assert_eq!(id(&link(&lab, &a1)), id(&held), "the same link");
    drop(held);
    stream.echo(b"with the next daemon").expect("it lives");
    // With the last that holds it, it goes.
    lab.daemon.end(Signal::SIGKILL);
    unpin(&lab, &a1);
    assert_eq!(a1.probe(Proto::Udp, out), Outcome::Timeout, "nothing looks at what it sends");
    assert_eq!(
        a2.reach(Proto::Udp, out).source.ip(),
        H.ip(Family::V4),
        "control: its neighbour has its program"
    );
    lab.daemon.restart();
    a1.reach(Proto::Tcp, out);
    stream.echo(b"after that").expect("it lived through that");
    // While a daemon runs it notices by itself.
    unpin(&lab, &a1);
    eventually("the program to be put back", || pin(&lab, &a1).is_some());
    a1.reach(Proto::Tcp, out);
}
