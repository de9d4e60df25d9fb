//! Rung: namespaces, row T71, reliability S17 and F20. Floods meet small tables: who is established, who is new and who lives next door goes on.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use netd_tests::{Capture, Family, Frame, H, Lab, Options, Outcome, Proto, R, R2, Sandbox, Server, at};

/// Sizes with which a sandbox may have 1,024 of 4,096 IPv4 flows and 256 of 1,024 IPv6 flows, half of them unconfirmed.
const SMALL: &str = "entries = 8192\nper_endpoint = 2048\n";

/// Flows that a sandbox may have with [`SMALL`] tables.
const fn quota(family: Family) -> u16 {
    match family {
        Family::V4 => 1024,
        Family::V6 => 256,
    }
}

/// A lab with these sizes of tables; the way to nobody leads to `R`.
fn lab(flows: &str) -> Lab {
    let config = format!("[flows]\n{flows}");
    let lab = Lab::with(&Options { config, ..Options::default() });
    lab.h.ip_batch("route add 198.18.0.0/16 via 10.0.0.3\nroute add 2001:db8:bad::/48 via fd00:a::3");
    lab
}

/// Addresses of nobody, for which the way back leads to `R`.
fn nobody(family: Family, number: u32) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(0xc612_0000 + (number & 0xffff))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from((0x2001_0db8_0bad_u128 << 80) + u128::from(number))),
    }
}

/// Sends frames with changing sources from `R` towards `H`, 64 between two pauses, until it is dropped.
struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    fn start(
        lab: &Lab,
        family: Family,
        pause: Duration,
        make: impl Fn(&Frame, SocketAddr) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let dst = lab.r.mac_of(H.ip(family));
        let frame = Frame { src: lab.r.link("eth0").expect("eth0").mac, dst };
        let wire = Capture::start(&lab.r, "eth0");
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut number = 0_u32;
            while !ends.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    number = number.wrapping_add(1);
                    let port = 1024 + u16::try_from(number.wrapping_mul(40_503) % 60_000).expect("a port");
                    wire.send(&make(&frame, at(nobody(family, number.wrapping_mul(2_654_435_761)), port)));
                }
                count.fetch_add(64, Ordering::Relaxed);
                wire.take(); // what came back for nobody
                thread::sleep(pause);
            }
        });
        Self { sent, stop, thread: Some(thread) }
    }

    fn wait_for(&self, more: u64) {
        let (end, deadline) =
            (self.sent.load(Ordering::Relaxed) + more, Instant::now() + Duration::from_mins(1));
        while self.sent.load(Ordering::Relaxed) < end {
            assert!(Instant::now() < deadline, "the flood stands still");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

#[test]
fn t71_a_flood_of_syns_to_a_published_port_harms_nobody() {
    let lab = lab(SMALL);
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80"]).serving(&[80]);
    let a2 = lab.sandbox("a2", net, 3, &["-p", "9090:90"]).serving(&[90]);
    let _server = Server::start(&lab.r2, &[80]);
    let client = &lab.r;
    for family in Family::BOTH {
        let (published, other) = (at(H.ip(family), 8080), at(H.ip(family), 9090));
        let mut streams = [
            client.connect_stream(published).0,
            client.connect_stream(other).0,
            a1.connect_stream(at(R2.ip(family), 80)).0,
        ];
        let flood =
            Flood::start(&lab, family, Duration::ZERO, move |frame, from| frame.tcp_syn(from, published));
        flood.wait_for(5_000);
        assert!(half_open(&lab) > 50, "the flood arrives, and is held");
        for round in 0..20 {
            flood.wait_for(500);
            for stream in &mut streams {
                stream.echo(b"established").unwrap_or_else(|e| panic!("{family:?} round {round}: {e}"));
            }
            // A lost SYN fails the test.
            assert_eq!(client.reach(Proto::Tcp, published).server, "a1");
            assert_eq!(client.reach(Proto::Tcp, other).server, "a2");
            a2.reach(Proto::Tcp, at(R2.ip(family), 80));
            a1.reach(Proto::Tcp, at(R2.ip(family), 80));
        }
        drop(flood);
        assert!(flows_of(&lab, a1.ip(family)) <= usize::from(quota(family)), "within the quota");
        lab.netd(&["flow", "flush"]).ok();
    }
    let drops = lab.drops();
    assert_eq!((drops["tablefull"], drops["overquota"]), (0, 0));
    lab.h.ip_batch("route del 198.18.0.0/16\nroute del 2001:db8:bad::/48");
}

fn half_open(lab: &Lab) -> usize {
    lab.flows(&[])
        .iter()
        .filter(|flow| flow["State"].as_str().is_some_and(|state| state.starts_with("syn")))
        .count()
}

fn flows_of(lab: &Lab, ip: IpAddr) -> usize {
    let ip = ip.to_string();
    let about = |flow: &&serde_json::Value| {
        ["Source", "TranslatedDestination"].iter().any(|key| flow[*key].as_str() == Some(&ip))
    };
    lab.flows(&[]).iter().filter(about).count()
}

#[test]
fn a_flood_of_datagrams_to_a_published_port_leaves_clients_and_neighbours_alone() {
    let lab = lab("entries = 65536\nper_endpoint = 32768\n");
    let net = lab.network("netA", 20, &[]);
    // Nobody listens where the flood goes: a server's own queue is not what is asked here.
    let publish = ["-p", "8080:80/udp", "-p", "8081:81/udp"];
    let a1 = lab.sandbox("a1", net, 2, &publish).serving(&[81]);
    let _a2 = lab.sandbox("a2", net, 3, &["-p", "9090:90/udp"]).serving(&[90]);
    for family in Family::BOTH {
        let published = at(H.ip(family), 8080);
        // A server's answer takes its time, unlike a SYN's: at 64,000 datagrams a second its client has 60 ms before the ring has turned.
        let pause = Duration::from_millis(1);
        let flood =
            Flood::start(&lab, family, pause, move |frame, from| frame.udp(from, published, b"flood"));
        flood.wait_for(5_000);
        for _ in 0..20 {
            flood.wait_for(500);
            assert_eq!(lab.r.reach(Proto::Udp, at(H.ip(family), 8081)).server, "a1");
            assert_eq!(lab.r.reach(Proto::Udp, at(H.ip(family), 9090)).server, "a2");
        }
        drop(flood);
        let flows = flows_of(&lab, a1.ip(family));
        assert!(
            (100..=8192 + 50).contains(&flows),
            "{flows}: the flood arrived, and took its places and those of clients"
        );
        lab.netd(&["flow", "flush"]).ok();
    }
    lab.h.ip_batch("route del 198.18.0.0/16\nroute del 2001:db8:bad::/48");
}

#[test]
fn s17_a_sandbox_that_opens_more_than_its_quota_starves_itself_alone() {
    let lab = lab(SMALL);
    let net = lab.network("netA", 20, &[]);
    let (a1, a2) = (lab.sandbox("a1", net, 2, &[]), lab.sandbox("a2", net, 3, &[]));
    let _server = Server::start(&lab.r, &[80, 81]);
    for family in Family::BOTH {
        let to = at(R.ip(family), 80);
        let (mut old, _) = a1.connect_stream(to);
        let (frame, wire) = (towards_gateway(&a1, net.gateway(family)), a1.capture());
        let datagram =
            |port: u16| wire.send(&frame.udp(at(a1.ip(family), port), at(R.ip(family), 99), b"one"));
        let before = lab.drops()["overquota"];
        let most = quota(family) / 10 * 8;
        (0..most).for_each(|n| datagram(20_000 + n));
        assert_eq!(lab.drops()["overquota"], before, "{family:?}: within its quota");
        (0..most).for_each(|n| datagram(30_000 + n));
        assert!(lab.drops()["overquota"] > before, "{family:?}: its quota is spent");
        assert!(flows_of(&lab, a1.ip(family)) <= usize::from(quota(family)));
        assert_eq!(a1.probe(Proto::Tcp, at(R.ip(family), 81)), Outcome::Timeout);
        old.echo(b"still here").expect("what it had goes on");
        for proto in Proto::BOTH {
            (0..20).for_each(|_| drop(a2.reach(proto, to)));
        }
        lab.netd(&["flow", "flush", "--filter", "port=99"]).ok();
        a1.reach(Proto::Tcp, at(R.ip(family), 81));
        lab.netd(&["flow", "flush"]).ok();
    }
    lab.h.ip_batch("route del 198.18.0.0/16\nroute del 2001:db8:bad::/48");
}

/// The Ethernet header of what a sandbox sends to its gateway.
fn towards_gateway(sandbox: &Sandbox, gateway: IpAddr) -> Frame {
    Frame { src: sandbox.link("eth0").expect("eth0").mac, dst: sandbox.mac_of(gateway) }
}

#[test]
fn t71_a_full_table_drops_new_flows_alone_shortens_timeouts_and_recovers() {
    // Six sandboxes, each within its quota, fill the table; attempts live for four seconds, one when room is short.
    let lab = lab("entries = 2048\nper_endpoint = 512\n[timeouts]\ntcp_syn_sent = 8\n");
    let net = lab.network("netA", 20, &[]);
    let _server = Server::start(&lab.r, &[80]);
    let to = at(R.v4, 80);
    let sandboxes: Vec<_> = (0..6_u8).map(|n| lab.sandbox(&format!("s{n}"), net, 2 + n, &[])).collect();
    let mut old = sandboxes[0].connect_stream(to).0;
    for sandbox in &sandboxes {
        let (frame, wire) = (towards_gateway(sandbox, net.gateway(Family::V4)), sandbox.capture());
        (0..240).for_each(|n| {
            wire.send(&frame.tcp_syn(at(sandbox.ip(Family::V4), 20_000 + n), at(nobody(Family::V4, 7), 99)));
        });
    }
    let drops = lab.drops();
    assert!(drops["tablefull"] > 0, "{drops:?}");
    assert_eq!(drops["overquota"], 0);
    old.echo(b"still here").expect("who is established goes on");
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut shortened = false;
    while half_open(&lab) > 0 {
        shortened |= lab.netd(&["status"]).ok().lines().any(|line| line.contains("shortened"));
        assert!(Instant::now() < deadline, "attempts are not collected: {} left", half_open(&lab));
        thread::sleep(Duration::from_millis(50));
    }
    assert!(shortened, "room was short");
    old.echo(b"still here").expect("who is established goes on");
    for sandbox in &sandboxes {
        sandbox.reach(Proto::Tcp, to);
    }
    lab.h.ip_batch("route del 198.18.0.0/16\nroute del 2001:db8:bad::/48");
}
