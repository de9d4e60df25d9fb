//! Who may open one more flow.
//!
//! Each endpoint pays for the flows it opens and for those that the outside opens to its published ports, up to a quota of the table. Flows from
//! outside whose opener has confirmed nothing yet sit in a ring of places, one ring for each endpoint: the next one takes the oldest place
//! and, if its holder is still unconfirmed, the flow's too. A flood of SYNs from addresses that do not exist so turns its own ring; who
//! completes a handshake before the ring has turned once is out of its reach.

use super::{Half, Target, forget};
use crate::{
    env::{Draft, Env},
    family::Ip,
    maps::{Flow, Pace, Pending, Place, Tuple, flow_flags},
    net::{IfIndex, UPLINK_ZONE},
    verdict::DropReason,
};

/// How long a flow without handshake, or one that is over, is left alone after its last packet: a second, in ticks.
const GRACE: u32 = 15;
/// Resets that one endpoint gets from netd in a tick: 950 a second, about what Linux allows itself for ICMP (`icmp_msgs_per_sec`).
const RESETS_PER_TICK: u32 = 64;

/// Returns the endpoint that pays for the flow an entry belongs to: the sandbox that opened it, else the one it was opened to.
pub const fn payer<A>(key: &Tuple<A>, flow: &Flow<A>) -> IfIndex {
    let ahead = if flow.flags & flow_flags::TO_SANDBOX != 0 { flow.out } else { UPLINK_ZONE };
    let (opener, target) =
        if flow.flags & flow_flags::ORIGINAL != 0 { (key.zone, ahead) } else { (ahead, key.zone) };
    if opener == UPLINK_ZONE { target } else { opener }
}

/// Finds room for the flow that the draft's opening describes, and gives it its generation.
///
/// # Errors
/// `OverQuota` when its endpoint has as many flows as it may have.
#[inline(always)]
pub fn admit<F: Ip, E: Env<F>>(env: &E, draft: &mut Draft<F>) -> Result<(), DropReason> {
    let config = env.config().ok_or(DropReason::EndpointDown)?;
    let (quota, places) = F::quota(config);
    draft.generation = env.random();
    let opening = &draft.opening;
    let payer = match opening.target {
        Target::Sandbox(ifindex) if opening.original.zone == UPLINK_ZONE => {
            let newcomer = Pending { original: opening.original, generation: draft.generation };
            take_place(env, places, ifindex, &newcomer);
            ifindex
        }
        _ => opening.original.zone,
    };
    if env.usage(payer) >= quota { Err(DropReason::OverQuota) } else { Ok(()) }
}

/// Takes the oldest place of an endpoint's ring; an unconfirmed flow that holds it is forgotten.
#[inline(always)]
fn take_place<F: Ip, E: Env<F>>(env: &E, places: u32, ifindex: IfIndex, newcomer: &Pending<F::Addr>) {
    let place = Place { ifindex, number: env.next_place(ifindex) & places };
    if let Some(holder) = env.pending(&place) {
        let found = env
            .flow(&holder.original)
            .map(|flow| (holder.original.counterpart(&flow), Half::of(&holder.original, &flow)));
        if let Some((other, mine)) = found.filter(|(_, mine)| mine.generation == holder.generation) {
            let theirs = mine.partner(env.flow(&other).map(|flow| Half::of(&other, &flow)));
            let (proto, now) = (holder.original.proto, env.now());
            if mine.is_unconfirmed_with(theirs.unwrap_or_default(), proto, GRACE, now) {
                forget(env, &holder.original, theirs.map(|_| &other));
            }
        }
    }
    env.set_pending(&place, newcomer);
}

/// Whether one more reset may go to an endpoint now.
#[inline(always)]
pub fn may_answer(pace: &mut Pace, now: u32) -> bool {
    if pace.tick != now {
        (pace.tick, pace.resets) = (now, 0);
    }
    pace.resets = pace.resets.saturating_add(1);
    pace.resets <= RESETS_PER_TICK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_paced_by_the_tick() {
        let mut pace = Pace::default();
        let answered = |pace: &mut Pace, now| (0..1000).filter(|_| may_answer(pace, now)).count();
        assert_eq!(answered(&mut pace, 7), 64);
        assert_eq!(answered(&mut pace, 7), 0);
        assert_eq!(answered(&mut pace, 8), 64);
    }

    #[test]
    fn the_opener_pays_and_for_the_outside_its_target() {
        let entry = |zone, out, flags| {
            let key = Tuple::<crate::net::Addr4> { zone, ..Tuple::default() };
            payer(&key, &Flow { out, flags, ..Flow::default() })
        };
        let (original, to_sandbox) = (flow_flags::ORIGINAL, flow_flags::TO_SANDBOX);
        for (name, zone, out, flags, expected) in [
            ("sandbox to world", 11, 5, original, 11),
            ("its reply", 0, 11, to_sandbox, 11),
            ("world to sandbox", 0, 12, original | to_sandbox, 12),
            ("its reply", 12, 5, 0, 12),
            ("sandbox to sandbox", 11, 12, original | to_sandbox, 11),
            ("its reply", 12, 11, to_sandbox, 11),
        ] {
            assert_eq!(entry(zone, out, flags), expected, "{name}");
        }
    }
}
