//! Who may talk to whom: anti-spoofing, neighbours on one network, sandboxes addressed directly from beyond it, published ports, the host.

mod direct;
mod groups;
mod host;
mod neighbours;
mod publish;
mod spoof;

pub use direct::{Access, CameBy, direct};
pub use groups::is_report_of_the_link;
pub use host::{check_host, remember};
pub use neighbours::{Neighbour, check_other_frame, discovered, may_be_published, neighbour, same_network};
pub use publish::{check_allowed, check_way};
pub use spoof::{
    check_arp, check_control, check_mac, check_source, is_foreign, is_neighbour_discovery, serves_dhcp,
};

/// Whether an endpoint flag is set.
#[inline(always)]
pub const fn has(flags: u32, flag: u32) -> bool {
    flags & flag != 0
}
