//! Rung: parity. Each vector goes through the hooks on the host and through the same programs in the kernel (`BPF_PROG_TEST_RUN`):
//! the verdict and every byte have to agree. What could differ is the compiler, the helpers and the maps; this is where it shows.

#[path = "parity/corpus.rs"]
mod corpus;
#[path = "parity/malformed.rs"]
mod malformed_table;
#[path = "parity/world.rs"]
mod world;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
};

use netd::{
    dataplane::{Dataplane, Kernel, PublishEntry},
    model::{Protocol, Sources},
};
use netd_common::{
    env::Env,
    fake::{Cast, Fake, FakePacket, Kind, Party, Wire, ifindex, mac, malformed::Hook},
    family::{Address, V4, V6},
    hook,
    nat::siit,
    net::{Addr6, UPLINK_ZONE},
    verdict::Verdict,
    wire::{
        Headers,
        l4::{ACK, FIN, RST, SYN},
    },
};
use world::{devices, kernel, v4, v6};

/// The one port of masqueraded flows: the kernel's choice is keyed by a secret, and one port leaves no choice.
const PORT: u16 = 10_000;

/// The actions of a packet program.
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// A program with the device a packet meets it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    FromEndpoint(u32),
    FromUplink,
    ToEndpoint { ifindex: u32, ingress: u32 },
    ToUplink,
}

/// Publishes a port in both worlds.
fn publish<F: Cast>(fake: &mut Fake, kernel: &mut Kernel, proto: Protocol, port: u16, to: (Party, u32, u16)) {
    let (party, ifindex, backend_port) = to;
    fake.publish_port::<F>(F::Addr::UNSPECIFIED, proto as u8, port, party, ifindex, backend_port);
    let (host_ip, backend): (IpAddr, IpAddr) = if F::V6 {
        (Ipv6Addr::UNSPECIFIED.into(), v6(party).into())
    } else {
        (Ipv4Addr::UNSPECIFIED.into(), v4(party).into())
    };
    let entry = PublishEntry {
        host_ip,
        host_port: port,
        protocol: proto,
        backend,
        backend_port,
        ifindex,
        allow: Sources::default(),
    };
    kernel.guard_ports(std::slice::from_ref(&entry)).expect("guard");
    kernel.put_publishes(&[entry]).expect("publish");
}

/// Runs a packet through the hooks on the host and returns the action that the program would answer.
fn on_the_host<F: Cast>(fake: &Fake, at: At, frame: &[u8]) -> (i32, Vec<u8>)
where
    Fake: Env<F>,
{
    let (decision, bytes) = decided_on_the_host::<F>(fake, at, frame);
    (action::<F>(&decision), bytes)
}

/// Runs a packet through the hooks on the host, as the programs compose them.
fn decided_on_the_host<F: Cast>(fake: &Fake, at: At, frame: &[u8]) -> (hook::Decision<F>, Vec<u8>)
where
    Fake: Env<F>,
{
    let (device, ingress) = match at {
        At::FromEndpoint(ifindex) => (ifindex, ifindex),
        At::FromUplink | At::ToUplink => (ifindex::UP0, ifindex::UP0),
        At::ToEndpoint { ifindex, ingress } => (ifindex, ingress),
    };
    let mut packet = FakePacket::new(frame.to_vec(), device);
    packet.ingress = ingress;
    let decision = match at {
        At::FromEndpoint(zone) => hook::from_endpoint_fast::<F, _, _>(fake, &mut packet)
            .unwrap_or_else(|| hook::slow::<F, _, _>(fake, &mut packet, zone, hook::from_endpoint_decide)),
        At::FromUplink => hook::from_uplink_fast::<F, _, _>(fake, &mut packet).unwrap_or_else(|| {
            hook::slow::<F, _, _>(fake, &mut packet, UPLINK_ZONE, hook::from_uplink_decide)
        }),
        At::ToEndpoint { .. } => Headers::<F>::read(&packet)
            .and_then(|headers| hook::to_endpoint::<F, _, _>(fake, &mut packet, &headers)),
        At::ToUplink => {
            hook::own::<F, _, _>(fake, &mut packet).expect("memory that can be changed");
            hook::to_uplink_fast::<F, _, _>(fake, &mut packet).unwrap_or_else(|| {
                Headers::<F>::read(&packet)
                    .and_then(|headers| hook::to_uplink::<F, _, _>(fake, &mut packet, &headers))
            })
        }
    };
    (decision, packet.bytes)
}

/// The action that the program answers a decision with.
fn action<F: Cast>(decision: &hook::Decision<F>) -> i32 {
    match decision {
        Ok(Verdict::Pass | Verdict::HandOver) => NEXT,
        Ok(Verdict::ToSandbox(_) | Verdict::ToBridge(_) | Verdict::ToNeighbour(..)) => REDIRECT,
        Ok(Verdict::Drop(_) | Verdict::Refuse(_) | Verdict::Hold) | Err(_) => SHOT,
    }
}

fn in_the_kernel(kernel: &mut Kernel, at: At, frame: &[u8]) -> (i32, Vec<u8>) {
    let (program, device, ingress) = match at {
        At::FromEndpoint(ifindex) => ("from_endpoint", ifindex, ifindex),
        At::FromUplink => ("from_uplink", ifindex::UP0, ifindex::UP0),
        At::ToEndpoint { ifindex, ingress } => ("to_endpoint", ifindex, ingress),
        At::ToUplink => ("to_uplink", ifindex::UP0, ifindex::UP0),
    };
    let ran = kernel.test_run(program, frame, device, ingress).expect("the program runs");
    (ran.action, ran.bytes)
}

/// Where a program is, for a hook.
const fn at(hook: Hook) -> At {
    match hook {
        Hook::FromEndpoint(ifindex) => At::FromEndpoint(ifindex),
        Hook::FromUplink => At::FromUplink,
        Hook::ToEndpoint { ifindex, ingress } => At::ToEndpoint { ifindex, ingress },
        Hook::ToUplink => At::ToUplink,
    }
}

/// One step: who sends what, and where it is met.
type Vector<A> = (&'static str, At, Wire<A>);

fn wire<F: Cast>(from: Party, sport: u16, to: Party, dport: u16, kind: Kind) -> Wire<F::Addr> {
    Wire { from: mac(from), src: F::of(from), dst: F::of(to), sport, dport, kind, ttl: 64 }
}

/// Returns sequences of packets: later vectors meet the flows that earlier ones opened.
fn vectors<F: Cast>() -> Vec<Vector<F::Addr>> {
    use Party::{A1, A2, B1, GatewayA, GatewayB, Host, Remote, Remote2};
    let a1 = At::FromEndpoint(ifindex::A1);
    let a2 = At::FromEndpoint(ifindex::A2);
    let tcp = |flags| Kind::Tcp(flags);
    let gate = |ingress| At::ToEndpoint { ifindex: ifindex::A1, ingress };
    let request = Kind::Echo { reply: false };
    let answer = Kind::Echo { reply: true };
    let w = wire::<F>;
    vec![
        ("egress: mid-flow without state", a1, w(A1, 4000, Remote, 80, tcp(ACK))),
        ("egress: SYN", a1, w(A1, 4000, Remote, 80, tcp(SYN))),
        ("egress: its reply", At::FromUplink, w(Remote, 80, Host, PORT, tcp(SYN | ACK))),
        ("egress: established", a1, w(A1, 4000, Remote, 80, tcp(ACK))),
        ("egress: established back", At::FromUplink, w(Remote, 80, Host, PORT, tcp(ACK))),
        ("egress: no port left for this destination", a2, w(A2, 4000, Remote, 80, tcp(SYN))),
        ("egress: another destination", a2, w(A2, 4000, Remote2, 80, tcp(SYN))),
        ("egress: FIN", a1, w(A1, 4000, Remote, 80, tcp(FIN | ACK))),
        ("egress: FIN back", At::FromUplink, w(Remote, 80, Host, PORT, tcp(FIN | ACK))),
        ("egress: reopened", a1, w(A1, 4000, Remote, 80, tcp(SYN))),
        ("egress: reset", At::FromUplink, w(Remote, 80, Host, PORT, tcp(RST))),
        ("egress: TTL at its end", a1, Wire { ttl: 1, ..w(A1, 4000, Remote, 80, tcp(ACK)) }),
        ("egress: UDP", a1, w(A1, 5000, Remote, 53, Kind::Udp)),
        ("egress: UDP back", At::FromUplink, w(Remote, 53, Host, PORT, Kind::Udp)),
        ("egress: echo", a1, w(A1, 7, Remote, 0, request)),
        ("egress: echo back", At::FromUplink, w(Remote, 0, Host, PORT, answer)),
        ("egress: echo reply without request", a1, w(A1, 0, Remote, 9, answer)),
        ("egress: protocol without ports", a1, w(A1, 0, Remote, 0, Kind::Other(47))),
        ("egress: the same from another sandbox", a2, w(A2, 0, Remote, 0, Kind::Other(47))),
        ("published: SYN", At::FromUplink, w(Remote, 6000, Host, 8080, tcp(SYN))),
        ("published: reply", a1, w(A1, 80, Remote, 6000, tcp(SYN | ACK))),
        ("published: established", At::FromUplink, w(Remote, 6000, Host, 8080, tcp(ACK))),
        ("published: UDP", At::FromUplink, w(Remote, 6000, Host, 5353, Kind::Udp)),
        ("published: UDP reply", a1, w(A1, 53, Remote, 6000, Kind::Udp)),
        ("published: mid-flow", At::FromUplink, w(Remote2, 6001, Host, 8080, tcp(ACK))),
        ("published: on another host address", At::FromUplink, w(Remote, 6002, GatewayB, 8080, tcp(SYN))),
        ("published: from a neighbour", a2, w(A2, 6003, Host, 8080, tcp(SYN))),
        ("published: reply to a neighbour", a1, w(A1, 80, A2, 6003, tcp(SYN | ACK))),
        ("published: hairpin", a1, w(A1, 6004, Host, 5353, Kind::Udp)),
        ("published: hairpin reply", a1, w(A1, 53, GatewayA, PORT, Kind::Udp)),
        (
            "published: from another network",
            At::FromEndpoint(ifindex::B1),
            w(B1, 6005, Host, 5353, Kind::Udp),
        ),
        ("host: unpublished port", At::FromUplink, w(Remote, 6006, Host, 22, tcp(SYN))),
        ("host: transit", At::FromUplink, w(Remote, 6006, Remote2, 8080, tcp(SYN))),
        ("direct access", At::FromUplink, w(Remote, 6007, A1, 80, tcp(SYN))),
        ("direct echo", At::FromUplink, w(Remote, 7, A1, 0, request)),
        ("neighbour", a2, w(A2, 1, A1, 81, tcp(SYN))),
        ("neighbour: echo", a2, w(A2, 1, A1, 0, request)),
        ("neighbour: other protocol", a2, w(A2, 0, A1, 0, Kind::Other(47))),
        ("other network", a1, w(A1, 1, B1, 90, tcp(SYN))),
        ("gateway", a1, w(A1, 1, GatewayA, 53, Kind::Udp)),
        ("spoofed source", a1, Wire { src: F::of(A2), ..w(A1, 1, Remote, 80, Kind::Udp) }),
        ("spoofed Ethernet source", a1, Wire { from: mac(A2), ..w(A1, 1, A2, 80, Kind::Udp) }),
        ("gate: from the host", gate(0), w(GatewayA, 1, A1, 81, tcp(SYN))),
        ("gate: from outside", gate(ifindex::UP0), w(Remote, 1, A1, 81, tcp(SYN))),
        ("gate: a flow's packet", gate(ifindex::UP0), w(Remote, 6000, A1, 80, tcp(ACK))),
        ("gate: from a neighbour", gate(ifindex::A2), w(A2, 1, A1, 81, tcp(SYN))),
        ("gate: from another network", gate(ifindex::B1), w(B1, 1, A1, 81, tcp(SYN))),
        ("uplink guard: known flow", At::ToUplink, w(A1, 5000, Remote, 53, Kind::Udp)),
        ("uplink guard: unknown flow", At::ToUplink, w(A1, 5001, Remote, 53, Kind::Udp)),
        ("uplink guard: the host", At::ToUplink, w(Host, 5001, Remote, 53, Kind::Udp)),
        ("the host's tunnel: before it", At::FromUplink, w(Remote, 0, Host, 0, Kind::Other(47))),
        ("the host's tunnel", At::ToUplink, w(Host, 0, Remote, 0, Kind::Other(47))),
        ("the host's tunnel: answer", At::FromUplink, w(Remote, 0, Host, 0, Kind::Other(47))),
        ("the host's tunnel: a sandbox's", a1, w(A1, 0, Remote, 0, Kind::Other(47))),
        ("the host's echo: before it", a1, w(A1, 8, Remote2, 0, request)),
        ("the host's echo", At::ToUplink, w(Host, PORT, Remote2, 0, request)),
        ("the host's echo: reply", At::FromUplink, w(Remote2, 0, Host, PORT, answer)),
        ("the host's echo: a sandbox's", a1, w(A1, 8, Remote2, 0, request)),
    ]
}

fn compare<F: Cast>(kernel: &mut Kernel)
where
    Fake: Env<F>,
{
    let mut fake = Fake::new(PORT, 1);
    publish::<F>(&mut fake, kernel, Protocol::Tcp, 8080, (Party::A1, ifindex::A1, 80));
    publish::<F>(&mut fake, kernel, Protocol::Udp, 5353, (Party::A1, ifindex::A1, 53));
    let mut actions = std::collections::BTreeMap::new();
    for (name, at, wire) in vectors::<F>() {
        let frame = wire.build::<F>();
        let (host, kernel) = (on_the_host::<F>(&fake, at, &frame), in_the_kernel(kernel, at, &frame));
        assert_eq!(host.0, kernel.0, "{name}: action on the host and in the kernel");
        if host.0 != SHOT {
            assert_eq!(host.1, kernel.1, "{name}: bytes on the host and in the kernel");
        }
        *actions.entry(host.0).or_insert(0) += 1;
    }
    // The positive control: the vectors reach every action, so that equal answers mean something.
    assert!([NEXT, SHOT, REDIRECT].iter().all(|action| actions.contains_key(action)), "{actions:?}");
    malformed::<F>(&fake, kernel);
}

/// An IPv6 client of a sandbox that has IPv4 alone: headers of both families, there and back (truth table T7).
fn exchanged(kernel: &mut Kernel) {
    use Party::{A1, GatewayA, Host, Remote};
    let mut fake = Fake::new(PORT, 1);
    fake.publish_port::<V6>(Addr6::default(), 6, 8090, A1, ifindex::A1, 80);
    fake.v6.publishes.values_mut().for_each(|publish| publish.backend = Addr6::mapped(V4::of(A1)));
    let entry = PublishEntry {
        host_ip: Ipv6Addr::UNSPECIFIED.into(),
        host_port: 8090,
        protocol: Protocol::Tcp,
        backend: v4(A1).into(),
        backend_port: 80,
        ifindex: ifindex::A1,
        allow: Sources::default(),
    };
    kernel.guard_ports(std::slice::from_ref(&entry)).expect("guard");
    kernel.put_publishes(&[entry]).expect("publish");
    let ask = wire::<V6>(Remote, 6000, Host, 8090, Kind::Tcp(SYN)).build::<V6>();
    let host = on_the_host::<V6>(&fake, At::FromUplink, &ask);
    assert_eq!((host.0, &host.1[12..15]), (REDIRECT, &[8, 0, 0x45][..]), "the sandbox gets IPv4");
    assert_eq!(in_the_kernel(kernel, At::FromUplink, &ask), host);

    let answer = wire::<V4>(A1, 80, GatewayA, PORT, Kind::Tcp(SYN | ACK)).build::<V4>();
    let mut packet = FakePacket::new(answer.clone(), ifindex::A1);
    let headers = Headers::<V4>::read(&packet).expect("headers");
    assert!(hook::answers_ipv6(&fake, &headers, ifindex::A1));
    siit::to_v6(&mut packet).expect("IPv6");
    let decision = hook::slow::<V6, _, _>(&fake, &mut packet, ifindex::A1, hook::from_endpoint_decide);
    assert!(matches!(decision, Ok(Verdict::ToNeighbour(..))), "{decision:?}");
    assert_eq!(in_the_kernel(kernel, At::FromEndpoint(ifindex::A1), &answer), (REDIRECT, packet.bytes));
}

/// Cuts a frame at every length and spoils every byte of its headers.
fn malformed<F: Cast>(fake: &Fake, kernel: &mut Kernel)
where
    Fake: Env<F>,
{
    let frame = wire::<F>(Party::A1, 9000, Party::Remote2, 80, Kind::Udp).build::<F>();
    let spoilt = (14..60.min(frame.len())).map(|at| {
        let mut frame = frame.clone();
        frame[at] ^= 0xff;
        frame
    });
    // The kernel refuses to run programs on frames without a whole IP header.
    let cut = (14 + F::HEADER as usize..frame.len()).map(|length| frame[..length].to_vec());
    for frame in spoilt.chain(cut) {
        for at in [At::FromEndpoint(ifindex::A1), At::FromUplink] {
            let (host, kernel) = (on_the_host::<F>(fake, at, &frame), in_the_kernel(kernel, at, &frame));
            assert_eq!(host.0, kernel.0, "{at:?} {frame:02x?}");
        }
    }
}

#[test]
fn host_and_kernel_decide_alike_and_write_the_same_bytes() {
    let worker = thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        devices();
        let bpffs = std::path::PathBuf::from(format!("/sys/fs/bpf/netd-parity-{}", std::process::id()));
        let ran = std::panic::catch_unwind(|| {
            let mut kernel = kernel(&bpffs, (PORT, PORT), 4096);
            compare::<V4>(&mut kernel);
            compare::<V6>(&mut kernel);
            exchanged(&mut kernel);
            corpus::forget_asked(&bpffs);
            malformed_table::compare::<V4>(&mut kernel);
            malformed_table::compare::<V6>(&mut kernel);
            corpus::compare::<V4>(&mut kernel, &bpffs);
            corpus::compare::<V6>(&mut kernel, &bpffs);
        });
        fs::remove_dir_all(&bpffs).expect("the pins are removed");
        ran
    });
    if let Err(panic) = worker.join().expect("the worker ends") {
        std::panic::resume_unwind(panic);
    }
}
