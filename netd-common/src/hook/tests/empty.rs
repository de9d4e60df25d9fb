//! Lost state (dataplane §7.4): with every map empty the host is as reachable as without netd, and no sandbox gets out.

use super::*;
use crate::{
    fake::Tables,
    maps::Config,
    wire::l4::{DCCP, UDP_LITE},
};

/// What may come and go: segments that open and that do not, and the rest.
const KINDS: [Kind; 9] = [
    TCP_SYN,
    Kind::Tcp(ACK),
    Kind::Tcp(RST),
    Kind::Udp,
    Kind::Echo { reply: false },
    Kind::Echo { reply: true },
    Kind::Other(47),
    Kind::Other(UDP_LITE),
    Kind::Other(DCCP),
];

/// A packet of a kind; an echo's identifier stands in one of the ports.
fn packet<F: Cast>(from: Party, to: Party, port: u16, kind: Kind) -> Wire<F::Addr> {
    let (sport, dport) = match kind {
        Kind::Echo { reply: false } => (port, 0),
        Kind::Echo { reply: true } => (0, port),
        Kind::Other(_) => (0, 0),
        _ => (50_000, port),
    };
    wire::<F>(from, sport, to, dport, kind)
}

both_families! {
    fn with_every_map_empty_the_host_is_reached_and_no_sandbox_gets_out<F>() {
        let mut fake = Fake::new(10_000, 100);
        for proto in [6, 17] {
            fake.publish_port::<F>(F::Addr::UNSPECIFIED, proto, 8080, Party::A1, ifindex::A1, 80);
        }
        let arrives = |fake: &Fake, kind, port| arrive::<F>(fake, &packet::<F>(Party::Remote, Party::Host, port, kind));
        let leaves = |fake: &Fake, to, kind| leave::<F>(fake, ifindex::A1, &packet::<F>(Party::A1, to, 80, kind)).decision;
        assert_eq!(arrives(&fake, TCP_SYN, 8080).decision, Ok(Verdict::ToSandbox(ifindex::A1)), "control");
        assert!(leaves(&fake, Party::Remote, TCP_SYN).is_ok() && leaves(&fake, Party::A2, Kind::Udp).is_ok(), "control");
        fake.config = Config::default();
        fake.endpoints.clear();
        fake.networks.clear();
        fake.uplinks.clear();
        *F::tables_mut(&mut fake) = Tables::default();
        for kind in KINDS {
            for port in [22, 8080, 10_000] {
                let seen = arrives(&fake, kind, port);
                assert_eq!(seen.decision, Ok(Verdict::Pass), "{kind:?} to {port}");
                assert_eq!(seen.bytes, packet::<F>(Party::Remote, Party::Host, port, kind).build::<F>());
            }
            for to in [Party::Remote, Party::Host, Party::GatewayA, Party::A2, Party::B1] {
                assert_eq!(leaves(&fake, to, kind), Err(DropReason::EndpointDown), "{kind:?} to {to:?}");
            }
        }
    }
}
