//! The table of malformed packets (reliability A.4) as vectors: every case on every way through a hook.

use netd::dataplane::{Dataplane as _, FlowFilter, Kernel};
use netd_common::{
    env::Env,
    fake::{
        Cast, Fake, FakePacket, Party, ifindex,
        malformed::{Leg, cases},
    },
    family::Address as _,
    verdict::{DropReason, Verdict},
};

use super::{PORT, SHOT, action, at, decided_on_the_host, in_the_kernel};

/// Fragments that waited in vain count once their time is up: in an emulated kernel that comes before the end of a table, and for those of earlier
/// tables too. Whatever has this reason is left out here.
const UNTIMELY: DropReason = DropReason::FragNoFirst;

fn counted(kernel: &mut Kernel) -> u64 {
    let drops = kernel.drops().expect("counters");
    drops.iter().filter(|(reason, _)| *reason != UNTIMELY.as_str()).map(|(_, count)| count).sum()
}

/// Runs every case on every leg in both worlds; each drop is counted once.
pub(super) fn compare<F: Cast>(kernel: &mut Kernel)
where
    Fake: Env<F>,
{
    kernel.flush_flows(&FlowFilter::default()).expect("the flows of earlier vectors go");
    let mut fake = Fake::new(PORT, 1);
    for (proto, port, to) in [(6, 8080, 80), (17, 5353, 53)] {
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, proto, port, Party::A1, ifindex::A1, to);
    }
    let (before, mut shot, mut others, mut answered) = (counted(kernel), 0, 0, 0);
    for (number, case) in cases().iter().enumerate().filter(|(_, case)| case.applies::<F>()) {
        for leg in Leg::ALL {
            let frame = case.frame::<F>(leg, u16::try_from(number).expect("few cases"));
            if frame.len() < 14 + F::HEADER as usize {
                continue; // the kernel refuses to run programs on frames without a whole IP header
            }
            let at = at(leg.hook());
            let (decision, bytes) = decided_on_the_host::<F>(&fake, at, &frame);
            let (host, kernel) = (action::<F>(&decision), in_the_kernel(kernel, at, &frame));
            assert_eq!(host, kernel.0, "{leg:?}: {}: action on the host and in the kernel", case.name);
            if host == SHOT {
                shot += u64::from(decision != Ok(Verdict::Hold) && decision != Err(UNTIMELY));
            } else {
                others += 1;
                answered += u64::from(leg == Leg::World && goes_to_a1::<F>(&bytes));
                assert_eq!(bytes, kernel.1, "{leg:?}: {}: bytes on the host and in the kernel", case.name);
            }
        }
    }
    assert!(shot > 300 && others > 300, "{shot} dropped, {others} not");
    assert!(answered > 0, "a segment of no flow is answered by a reset");
    assert_eq!(counted(kernel) - before, shot + answered, "every drop is counted once");
}

/// Whether a packet of a1 was turned round: the answer to a segment of no flow.
fn goes_to_a1<F: Cast>(frame: &[u8]) -> bool {
    let at = 14 + if F::V6 { 24 } else { 16 };
    F::load_address(&FakePacket::new(frame.to_vec(), 0), at) == Some(F::of(Party::A1))
}
