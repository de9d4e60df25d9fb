//! Who may open one more flow.
//!
//! Each endpoint pays for the flows it opens and for those that the outside opens to its published ports, up to a quota of the table. Its latest
//! flows sit in a ring of places: the next one takes the oldest place and, if its holder is dead by now, the flow's too. So a table empties
//! itself even while no daemon collects. Of a flow from outside it is enough that its opener has confirmed nothing yet: a flood of SYNs from
//! addresses that do not exist turns its own ring, and who completes a handshake before the ring has turned once is out of its reach. Once half
//! of a quota is used it is enough that a connection is over, so that short ones may follow each other as fast as they like. (Half: what is open
//! when its place is given away leaves the ring, and needs the rest.)

use super::{Half, Target, forget};
use crate::{
    env::{Draft, Env},
    family::Ip,
    maps::{Config, Flow, Pace, Pending, Place, Tuple, features, flow_flags},
    net::{IfIndex, UPLINK_ZONE, is_of_a_sandbox},
    verdict::DropReason,
};

/// How long a flow without handshake, or one that is over, is left alone after its last packet: a second, in ticks.
const GRACE: u32 = 15;
/// How long a flow that was reset is left alone at least, for one side or the other to object: a quarter of a second, in ticks.
const CHALLENGE: u32 = 4;
/// Resets that one endpoint gets from netd in a tick: 950 a second, about what Linux allows itself for ICMP (`icmp_msgs_per_sec`).
const RESETS_PER_TICK: u32 = 64;

/// Returns the endpoint that pays for the flow an entry belongs to: the sandbox that opened it, else the one it was opened to.
pub const fn payer<A>(key: &Tuple<A>, flow: &Flow<A>) -> IfIndex {
    let ahead = if flow.flags & flow_flags::TO_SANDBOX != 0 { flow.out } else { UPLINK_ZONE };
    let (opener, target) =
        if flow.flags & flow_flags::ORIGINAL != 0 { (key.zone, ahead) } else { (ahead, key.zone) };
    if is_of_a_sandbox(opener) { opener } else { target }
}

/// Finds room for the flow that the draft's opening describes, and gives it its generation.
///
/// # Errors
/// `OverQuota` when its endpoint has as many flows as it may have, `EndpointDown` for the moment in which programs are exchanged.
#[inline(always)]
pub fn admit<F: Ip, E: Env<F>>(env: &E, draft: &mut Draft<F>) -> Result<(), DropReason> {
    let config = env.config().ok_or(DropReason::EndpointDown)?;
    if config.features & features::CHANGING != 0 {
        return Err(DropReason::EndpointDown);
    }
    let (quota, places) = F::quota(config);
    draft.generation = env.random();
    let opening = &draft.opening;
    let payer = match opening.target {
        Target::Sandbox(ifindex) if !is_of_a_sandbox(opening.original.zone) => ifindex,
        _ => opening.original.zone,
    };
    let place = Place { ifindex: payer, number: env.next_place(payer) & places };
    let usage = env.usage(payer);
    let holder = env.pending(&place);
    if let Some(holder) = &holder {
        // A copy: another CPU may give the place away meanwhile.
        clear::<F, E>(env, config, &Pending { ..**holder }, usage > quota / 2);
    }
    if env.usage(payer) >= quota {
        return Err(DropReason::OverQuota); // the place keeps its holder, which the next look at it may find dead
    }
    let next = Pending { original: opening.original, generation: draft.generation };
    match holder {
        // In place: an LRU map would insert a new entry beside the old one and then remove that. Where it is evicted at this very moment,
        // another place names this flow, which is then looked at there.
        Some(mut holder) => *holder = next,
        None => env.set_pending(&place, &next),
    }
    Ok(())
}

/// Forgets the flow that holds a place, if it is dead, or came from outside and is unconfirmed, or is over where room is `short`.
#[inline(always)]
fn clear<F: Ip, E: Env<F>>(env: &E, config: &Config, holder: &Pending<F::Addr>, short: bool) {
    let key = &holder.original;
    let found = env.flow(key).map(|flow| (key.counterpart(&flow), Half::of(key, &flow)));
    let Some((other, mine)) = found.filter(|(_, mine)| mine.generation == holder.generation) else { return };
    let (reply, known) = mine.partner_or_silence(env.flow(&other).map(|flow| Half::of(&other, &flow)));
    let now = env.now();
    let unconfirmed = key.zone == UPLINK_ZONE && mine.is_unconfirmed_with(reply, key.proto, GRACE, now);
    let spent = short && mine.is_over_with(reply, key.proto, CHALLENGE, now);
    if unconfirmed || spent || mine.is_dead_with(reply, key.proto, &config.timeouts, now) {
        forget(env, key, known.then_some(&other));
    }
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
