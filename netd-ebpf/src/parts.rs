//! The parts that packet programs are made of, for both families.
//!
//! The fast part uses direct access and returns `UNDECIDED` when it leaves the packet alone; the other parts (see `netd_common::hook`) start from
//! the bytes again. They are functions of their own, so that their stacks lie side by side and not on top of each other (512 bytes in all).

use aya_ebpf::bindings::__sk_buff;
use netd_common::{
    conntrack,
    env::{Draft, Env, Packet},
    family::{Family, V4, V6},
    hook,
    monitor::program,
    nat::{icmp_error, masquerade, siit},
    net::{HANDED_ZONE, UPLINK_ZONE, is_of_a_sandbox},
    verdict::{DropReason, Verdict},
    wire::{Fragment, Headers, L4, reset, sane},
};

use crate::{
    env::{self, Kernel},
    fib,
    hold::{self, copy_arrives},
    maps,
    report::{
        self, FLOWLESS, FOUND, HANDED, HOLD, PASS, UNDECIDED, drop_number, drop_packet, dropped, finish,
        optional, refused,
    },
    skb::{Careful, Direct, ifindex},
};

/// Declares the parts of one family as a module. Functions with C linkage are "global" to the verifier: it walks each once, and not once for each path
/// that leads to it. Linkage knows no modules: there the family stands behind the name.
macro_rules! parts {
    ($module:ident, $suffix:literal, $family:ty, $draft:ident, $routing:ident) => {
        pub mod $module {
            use super::*;

            #[inline(never)]
            #[unsafe(export_name = concat!("endpoint_fast", $suffix))]
            pub extern "C" fn endpoint_fast(skb: *mut __sk_buff) -> i32 {
                optional(skb, hook::from_endpoint_fast::<$family, _, _>(&Kernel(skb), &mut Direct::new(skb)))
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("uplink_fast", $suffix))]
            pub extern "C" fn uplink_fast(skb: *mut __sk_buff) -> i32 {
                optional(skb, hook::from_uplink_fast::<$family, _, _>(&Kernel(skb), &mut Direct::new(skb)))
            }

            /// Reads the packet's headers into the draft. The answer is `UNDECIDED`, or the number of a drop reason.
            #[inline(never)]
            #[unsafe(export_name = concat!("read", $suffix))]
            extern "C" fn read(skb: *mut __sk_buff) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return DropReason::KernelRefused as i32 };
                fib::begin(&maps::$routing);
                match Headers::<$family>::read(&Careful::new(skb)) {
                    Ok(headers) => {
                        draft.headers = headers;
                        UNDECIDED
                    }
                    Err(reason) => reason as i32,
                }
            }

            /// Gives a fragment the ports of its first, or lets the fragments that wait for this one arrive again behind it. The answer is `UNDECIDED`,
            /// `FLOWLESS`, or an action.
            #[inline(never)]
            #[unsafe(export_name = concat!("follow", $suffix))]
            extern "C" fn follow(skb: *mut __sk_buff, zone: u32) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                match conntrack::fragment::follow::<$family, _>(&Kernel(skb), &mut draft.headers, zone) {
                    Err(reason) => return drop_packet(reason),
                    Ok(false) => return FLOWLESS,
                    Ok(true) => {}
                }
                if draft.headers.fragment != Fragment::First {
                    return UNDECIDED;
                }
                let shelf = hold::at::<$family>(&draft.headers, zone);
                let waiting = hold::find(skb, shelf, 0);
                if waiting < 0 {
                    return UNDECIDED;
                }
                Env::<$family>::forget(&Kernel(skb), &conntrack::fragment::key(&draft.headers, zone));
                hold::arrive_again(skb, shelf, waiting)
            }

            /// Holds a fragment until its first comes. The answer is an action.
            #[inline(never)]
            #[unsafe(export_name = concat!("hold", $suffix))]
            extern "C" fn hold(skb: *mut __sk_buff, zone: u32) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                let shelf = hold::at::<$family>(&draft.headers, zone);
                let place = hold::shelve(skb, shelf);
                if place < 0 {
                    // No room is no reason to keep from the host what may be its own.
                    return if zone == UPLINK_ZONE { PASS } else { drop_packet(DropReason::FragNoFirst) };
                }
                // The first may have come meanwhile on another CPU, which then saw nothing waiting: it left its ports before it looked, as this
                // fragment was in its place before it looks. (An older datagram of this identification is not what it waits for: it would go round
                // for ever.)
                let key = conntrack::fragment::key(&draft.headers, zone);
                if conntrack::fragment::has_come::<$family, _>(&Kernel(skb), &key)
                    && hold::withdraw(place as u32) != 0
                {
                    return hold::arrive_anew(skb);
                }
                report::hold()
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("settle", $suffix))]
            extern "C" fn settle(skb: *mut __sk_buff, zone: u32) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                let mut packet = Careful::new(skb);
                optional(
                    skb,
                    hook::settle::<$family, _, _>(&Kernel(skb), &mut packet, &draft.headers, zone)
                        .transpose(),
                )
            }

            /// Gives the host's stack a packet that its flow cannot carry. The answer is an action.
            #[inline(never)]
            #[unsafe(export_name = concat!("hand_over", $suffix))]
            extern "C" fn hand_over(skb: *mut __sk_buff, zone: u32) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                match hook::hand_over::<$family, _, _>(&Kernel(skb), &mut Careful::new(skb), draft, zone) {
                    Ok(()) => PASS,
                    Err(reason) => drop_packet(reason),
                }
            }

            /// Whether the packet that an error quotes was handed over: 1, else 0. For its arguments, see `admit`.
            #[inline(never)]
            #[unsafe(export_name = concat!("recall_handed", $suffix))]
            pub extern "C" fn recall_handed() -> u32 {
                let Some(draft) = env::draft(&maps::$draft) else { return 0 };
                u32::from(hook::recall_handed::<$family, _>(&Kernel(core::ptr::null_mut()), draft))
            }

            /// Makes an error say what the draft's flow has. The answer is 0.
            #[inline(never)]
            #[unsafe(export_name = concat!("restate", $suffix))]
            extern "C" fn restate(skb: *mut __sk_buff) -> i32 {
                if let Some(Draft { headers, quote, flow, .. }) = env::draft(&maps::$draft) {
                    // One that cannot be changed stays as it is: it is the host's own.
                    let _ = icmp_error::translate::<$family, _>(&mut Careful::new(skb), headers, quote, flow);
                }
                0
            }

            /// Brings an error of the host's stack in order, as `hook::take_back` has it.
            #[inline(always)]
            pub fn take_back(skb: *mut __sk_buff) {
                let handed = hook::may_answer_handed::<$family, _>(&Direct::new(skb))
                    && read(skb) == UNDECIDED
                    && quote(skb, HANDED_ZONE) != 0
                    && recall_handed() != 0;
                if handed {
                    restate(skb);
                }
            }

            /// Keeps in mind what the host itself sends to the outside, as `conntrack::own` has it. The answer is 0. For its arguments, see `admit`.
            #[inline(never)]
            #[unsafe(export_name = concat!("remember", $suffix))]
            pub extern "C" fn remember() -> u32 {
                if let Some(draft) = env::draft(&maps::$draft) {
                    conntrack::own::remember::<$family, _>(&Kernel(core::ptr::null_mut()), draft);
                }
                0
            }

            /// Looks at what the host itself sends to the outside, as `hook::own` has it.
            #[inline(always)]
            pub fn own(skb: *mut __sk_buff) {
                if !hook::may_be_own::<$family, _, _>(&Kernel(skb), &Direct::new(skb))
                    || read(skb) != UNDECIDED
                {
                    return;
                }
                if !env::draft(&maps::$draft).is_some_and(|draft| draft.headers.l4 == L4::Icmp) {
                    remember();
                    return;
                }
                let error = hook::may_answer_handed::<$family, _>(&Direct::new(skb));
                if error && quote(skb, HANDED_ZONE) != 0 && recall_handed() != 0 {
                    restate(skb);
                }
            }

            /// Whether the draft's packet answers one that the stack was given for its rules alone: 1, else 0. For its arguments, see `admit`.
            #[inline(never)]
            #[unsafe(export_name = concat!("answers_asked", $suffix))]
            pub extern "C" fn answers_asked() -> u32 {
                let Some(draft) = env::draft(&maps::$draft) else { return 0 };
                u32::from(hook::answers_asked::<$family, _>(&Kernel(core::ptr::null_mut()), draft))
            }

            /// Whether nobody is to see a packet of the host's, as `hook::answers_asked` has it.
            #[inline(always)]
            pub fn hushed(skb: *mut __sk_buff) -> bool {
                if !hook::may_answer_asked::<$family, _, _>(&Kernel(skb), &Direct::new(skb))
                    || read(skb) != UNDECIDED
                {
                    return false;
                }
                let error = env::draft(&maps::$draft).is_some_and(|draft| draft.headers.l4 == L4::Icmp);
                (!error || quote(skb, HANDED_ZONE) != 0) && answers_asked() != 0
            }

            /// Moves a packet that is checked, and whose flow is sound. The answer is an action, or `UNDECIDED` when it has gone after all.
            #[inline(always)]
            fn carry(skb: *mut __sk_buff, zone: u32) -> i32 {
                let action = settle(skb, zone);
                if action == HANDED { hand_over(skb, zone) } else { action }
            }

            /// Whether the flow of the packet, or of the one it quotes, is there and sound: 1, else 0. For its arguments, see `admit`.
            #[inline(never)]
            #[unsafe(export_name = concat!("examine", $suffix))]
            extern "C" fn examine(zone: u32, quoted: u32) -> u32 {
                let Some(Draft { headers, quote, .. }) = env::draft(&maps::$draft) else { return 0 };
                let key = if quoted == 0 { headers.tuple(zone) } else { quote.against };
                u32::from(conntrack::examine::<$family, _>(&Kernel(core::ptr::null_mut()), &key))
            }

            /// Whether a packet belongs to its flow, which is sound: 1, else 0. For its arguments, see `admit`.
            #[inline(never)]
            #[unsafe(export_name = concat!("belongs", $suffix))]
            extern "C" fn belongs(zone: u32) -> u32 {
                let Some(Draft { headers, .. }) = env::draft(&maps::$draft) else { return 0 };
                let key = headers.tuple(zone);
                u32::from(conntrack::belongs::<$family, _>(&Kernel(core::ptr::null_mut()), headers, &key))
            }

            /// Reads what an ICMP error quotes into the draft. The answer is 1, or 0 when it quotes nothing that could have a flow.
            #[inline(never)]
            #[unsafe(export_name = concat!("quote", $suffix))]
            extern "C" fn quote(skb: *mut __sk_buff, zone: u32) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return 0 };
                let Some(quote) = icmp_error::quote(&Careful::new(skb), &draft.headers, zone) else {
                    return 0;
                };
                draft.quote = quote;
                1
            }

            /// Brings the quoted flow up to date. The answer is an action, or `UNDECIDED` when it has gone, or `FOUND`.
            #[inline(never)]
            #[unsafe(export_name = concat!("refresh", $suffix))]
            extern "C" fn refresh(skb: *mut __sk_buff) -> i32 {
                let Some(Draft { quote, .. }) = env::draft(&maps::$draft) else { return PASS };
                match hook::refresh_quoted::<$family, _, _>(&Kernel(skb), &Careful::new(skb), quote) {
                    Ok(true) => FOUND,
                    Ok(false) => UNDECIDED,
                    Err(reason) => drop_packet(reason),
                }
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("forward_error", $suffix))]
            extern "C" fn forward_error(skb: *mut __sk_buff) -> i32 {
                let Some(Draft { headers, quote, .. }) = env::draft(&maps::$draft) else { return PASS };
                let mut packet = Careful::new(skb);
                finish(
                    skb,
                    conntrack::forward_error::<$family, _, _>(&Kernel(skb), &mut packet, headers, quote),
                )
            }

            /// Moves an ICMP error, as `hook::settle_error` has it.
            #[inline(always)]
            fn settle_error(skb: *mut __sk_buff, zone: u32) -> i32 {
                if quote(skb, zone) == 0 || examine(zone, 1) == 0 {
                    return UNDECIDED;
                }
                let unsound = check(skb);
                if unsound != UNDECIDED {
                    return drop_number(unsound);
                }
                let mut action = refresh(skb);
                if action == FOUND {
                    action = forward_error(skb);
                    if <$family as Family>::V6 && error_as_ipv4(skb) != 0 {
                        action = drop_packet(DropReason::UnknownL4);
                    }
                }
                action
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("endpoint_decide", $suffix))]
            pub extern "C" fn endpoint_decide(skb: *mut __sk_buff) -> i32 {
                let Some(Draft { headers, opening, .. }) = env::draft(&maps::$draft) else { return PASS };
                let mut packet = Careful::new(skb);
                let decided =
                    hook::from_endpoint_decide::<$family, _, _>(&Kernel(skb), &mut packet, headers, opening);
                optional(skb, decided.transpose())
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("uplink_decide", $suffix))]
            pub extern "C" fn uplink_decide(skb: *mut __sk_buff) -> i32 {
                let Some(Draft { headers, opening, .. }) = env::draft(&maps::$draft) else { return PASS };
                let mut packet = Careful::new(skb);
                let decided =
                    hook::from_uplink_decide::<$family, _, _>(&Kernel(skb), &mut packet, headers, opening);
                optional(skb, decided.transpose())
            }

            /// Answers a segment that belongs to no flow by a reset.
            #[inline(never)]
            #[unsafe(export_name = concat!("reset", $suffix))]
            extern "C" fn reset(skb: *mut __sk_buff) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                // Counted as dropped already, whether it is answered or not.
                if !Env::<$family>::may_reset(&Kernel(skb), ifindex(skb))
                    || reset::answer(&mut Careful::new(skb), &draft.headers).is_err()
                {
                    return report::stop();
                }
                report::answer();
                finish::<<$family as Family>::Addr>(skb, Ok(Verdict::ToSandbox(ifindex(skb))))
            }

            /// Reserves the draft's reply tuple. The answer is 0, or the number of a drop reason.
            #[inline(never)]
            #[unsafe(export_name = concat!("reserve", $suffix))]
            pub extern "C" fn reserve(skb: *mut __sk_buff, heed_host: u32) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return DropReason::KernelRefused as i32 };
                match conntrack::reserve::<$family, _>(&Kernel(skb), draft, heed_host != 0) {
                    Ok(()) => 0,
                    Err(reason) => reason as i32,
                }
            }

            /// Finds room for the flow to open. It takes no packet: for an argument without use, LLVM passes whatever lies in the register, and the
            /// verifier wants a context.
            #[inline(never)]
            #[unsafe(export_name = concat!("admit", $suffix))]
            extern "C" fn admit() -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                match conntrack::admit::<$family, _>(&Kernel(core::ptr::null_mut()), draft) {
                    Ok(()) => UNDECIDED,
                    Err(reason) => drop_packet(reason),
                }
            }

            /// Checks a packet of a flow, before it is opened too. The answer is `UNDECIDED`, or the number of a drop reason.
            #[inline(never)]
            #[unsafe(export_name = concat!("check", $suffix))]
            extern "C" fn check(skb: *mut __sk_buff) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return DropReason::KernelRefused as i32 };
                match sane::check::<$family, _>(&Careful::new(skb), &draft.headers) {
                    Ok(()) => UNDECIDED,
                    Err(reason) => reason as i32,
                }
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("open", $suffix))]
            extern "C" fn open(skb: *mut __sk_buff) -> i32 {
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                match conntrack::open::<$family, _>(&Kernel(skb), draft) {
                    Ok(()) => UNDECIDED,
                    Err(reason) => drop_packet(reason),
                }
            }

            /// The parts after the fast one, as `hook::slow` has them.
            #[inline(always)]
            pub fn slow(skb: *mut __sk_buff, zone: u32, decide: extern "C" fn(*mut __sk_buff) -> i32) -> i32 {
                let unread = read(skb);
                if unread != UNDECIDED {
                    // Garbage for the host is the host's to judge; a sandbox's goes nowhere.
                    return if is_of_a_sandbox(zone) { drop_number(unread) } else { PASS };
                }
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                let (fragment, l4) = (draft.headers.fragment, draft.headers.l4);
                let mut action = if fragment == Fragment::Whole { UNDECIDED } else { follow(skb, zone) };
                if action == UNDECIDED {
                    if l4 == L4::Icmp {
                        action = settle_error(skb, zone);
                    } else if examine(zone, 0) != 0 && belongs(zone) != 0 {
                        let unsound = check(skb);
                        if unsound != UNDECIDED {
                            return drop_number(unsound);
                        }
                        action = carry(skb, zone);
                    }
                    if action != UNDECIDED {
                        return action;
                    }
                } else if action != FLOWLESS {
                    return action;
                }
                action = decide(skb);
                if action == HOLD {
                    return hold(skb, zone);
                }
                let reason = refused(action);
                if reason != 0 {
                    dropped(skb, reason, program::FROM_ENDPOINT.into()); // nobody else refuses
                    return reset(skb);
                }
                if action == HANDED {
                    return ask(skb);
                }
                if action != UNDECIDED {
                    return action;
                }
                let unsound = check(skb);
                if unsound != UNDECIDED {
                    return drop_number(unsound);
                }
                action = admit();
                if action != UNDECIDED {
                    return action;
                }
                action = open(skb);
                if action != UNDECIDED {
                    return action;
                }
                // What it came by may just have gone.
                let can_be_lost = env::draft(&maps::$draft).is_some_and(|draft| draft.opening.can_be_lost());
                action = if can_be_lost && examine(zone, 0) == 0 { UNDECIDED } else { carry(skb, zone) };
                if action == UNDECIDED { drop_packet(DropReason::CtInvalid) } else { action }
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("gate", $suffix))]
            pub extern "C" fn gate(skb: *mut __sk_buff) -> i32 {
                let unread = read(skb);
                if unread != UNDECIDED {
                    return drop_number(unread);
                }
                recall(skb);
                let action = gate_decide(skb);
                if action != UNDECIDED {
                    return action;
                }
                let admitted = admit();
                if admitted != UNDECIDED {
                    return admitted;
                }
                let opened = open(skb);
                if opened != UNDECIDED {
                    return opened;
                }
                // What it came by may just have gone.
                if examine(UPLINK_ZONE, 0) == 0 { drop_packet(DropReason::CtInvalid) } else { PASS }
            }

            /// Gives a fragment that the stack delivers the ports of its first. The answer is 0.
            #[inline(never)]
            #[unsafe(export_name = concat!("recall", $suffix))]
            extern "C" fn recall(skb: *mut __sk_buff) -> i32 {
                if let Some(draft) = env::draft(&maps::$draft) {
                    conntrack::fragment::recall::<$family, _>(&Kernel(skb), &mut draft.headers, ifindex(skb));
                }
                0
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("gate_decide", $suffix))]
            extern "C" fn gate_decide(skb: *mut __sk_buff) -> i32 {
                let Some(Draft { headers, opening, .. }) = env::draft(&maps::$draft) else { return PASS };
                let mut packet = Careful::new(skb);
                let decided =
                    hook::to_endpoint_decide::<$family, _, _>(&Kernel(skb), &mut packet, headers, opening);
                optional(skb, decided.transpose())
            }

            #[inline(never)]
            #[unsafe(export_name = concat!("guard", $suffix))]
            pub extern "C" fn guard(skb: *mut __sk_buff) -> i32 {
                let action =
                    optional(skb, hook::to_uplink_fast::<$family, _, _>(&Kernel(skb), &mut Direct::new(skb)));
                if action != UNDECIDED {
                    return action;
                }
                let unread = read(skb);
                if unread != UNDECIDED {
                    return drop_number(unread);
                }
                let Some(draft) = env::draft(&maps::$draft) else { return PASS };
                finish(
                    skb,
                    hook::to_uplink::<$family, _, _>(&Kernel(skb), &mut Careful::new(skb), &draft.headers),
                )
            }
        }
    };
}
parts!(v4, "4", V4, DRAFT4, ROUTING4);
parts!(v6, "6", V6, DRAFT6, ROUTING6);

/// Returns the port at a position in the configured ranges; 0 only before the daemon wrote the configuration.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn port_at(position: u32) -> u32 {
    maps::CONFIG.get(0).map_or(0, |config| u32::from(masquerade::port_at(config, position)))
}

/// Gives the host's rules a packet, and lets a copy of it arrive behind it. The answer is an action.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn ask(skb: *mut __sk_buff) -> i32 {
    let tag = conntrack::input::tag::<V4, _>(&Kernel(skb));
    // SAFETY: the context the kernel passed to this program; the field is one that programs may write.
    unsafe { (&raw mut (*skb).tc_index).write_volatile(tag) };
    // Where no copy can be made, the packet is let in when it is sent again.
    copy_arrives(skb);
    // SAFETY: as above.
    unsafe { (&raw mut (*skb).tc_index).write_volatile(0) };
    PASS
}

/// Exchanges an IPv6 packet between mapped addresses for the IPv4 packet it stands for. The answer is 0, or 1 when that cannot be.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn as_ipv4(skb: *mut __sk_buff) -> i32 {
    i32::from(siit::to_v4(&mut Careful::new(skb)).is_err())
}

/// The same for an ICMPv6 error; one to another address stays as it is.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn error_as_ipv4(skb: *mut __sk_buff) -> i32 {
    i32::from(siit::error_to_v4(&mut Careful::new(skb)).is_err())
}
