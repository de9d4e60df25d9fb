//! Who may talk to whom: anti-spoofing, neighbours on one network, and sandboxes addressed directly from beyond it.

mod direct;
mod neighbours;
mod spoof;

pub use direct::{Access, direct};
pub use neighbours::{Neighbour, check_other_frame, may_be_published, neighbour, same_network};
pub use spoof::{check_arp, check_control, check_mac, check_source, is_neighbour_discovery};

/// Whether an endpoint flag is set.
#[inline(always)]
pub const fn has(flags: u32, flag: u32) -> bool {
    flags & flag != 0
}
