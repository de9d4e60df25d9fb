//! How much a stack hands to a link in one piece, to be cut into packets by the device that sends it (GSO; beyond 64 KiB: BIG TCP).
//!
//! A sandbox's link itself takes three times 64 KiB, which makes streams between sandboxes several times as fast. But what an uplink does not take in one
//! piece, the kernel cuts packet by packet before it, and such a stream has half the speed. Connections know the link they leave by and nothing beyond:
//! a sandbox whose default route leads through netd makes no larger pieces than every uplink takes.

use rtnetlink::packet_route::{RouteNetlinkMessage, link::LinkAttribute};

use super::{HostLink, Links, Mode, device};

/// Largest piece for links that lead nowhere else, in bytes (the kernel's limit is 512 KiB).
const BIG_TCP: u32 = 196_608;
/// What every device takes (`GSO_LEGACY_MAX_SIZE`).
const ORDINARY: u32 = 65_536;

/// The largest pieces of each family, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// Of IPv4, with headers.
    pub ipv4: u32,
    /// Of IPv6, with headers.
    pub ipv6: u32,
}

impl Segments {
    /// What sandboxes' links take.
    pub const LARGEST: Self = Self { ipv4: BIG_TCP, ipv6: BIG_TCP };

    /// Returns what every one of these links takes; of none, what sandboxes' links take.
    pub fn common(links: impl Iterator<Item = Self>) -> Self {
        links.fold(Self::LARGEST, |least, link| Self {
            ipv4: least.ipv4.min(link.ipv4).max(ORDINARY),
            ipv6: least.ipv6.min(link.ipv6).max(ORDINARY),
        })
    }
}

/// What a kernel that does not tell (before 6.3) gives every device.
impl Default for Segments {
    fn default() -> Self {
        Self { ipv4: ORDINARY, ipv6: ORDINARY }
    }
}

impl Links {
    /// Lets a link take such pieces from the stack, and put as large ones together. Old kernels refuse what is beyond 64 KiB (before 5.19, for IPv4
    /// 6.3), and lose nothing but speed.
    pub async fn set_segments(&self, link: &HostLink, largest: Segments) {
        if link.segments == largest && link.received == Segments::LARGEST {
            return; // nothing for others to notice
        }
        let ifindex = link.ifindex;
        let sizes = [
            // First: a small one counts for both families.
            LinkAttribute::GsoMaxSize(largest.ipv6),
            LinkAttribute::GsoIpv4MaxSize(largest.ipv4),
            LinkAttribute::GroMaxSize(BIG_TCP),
            LinkAttribute::GroIpv4MaxSize(BIG_TCP),
        ];
        let each = sizes.map(|size| {
            let mut set = device::indexed(ifindex);
            set.attributes.push(size);
            (Mode::Change, RouteNetlinkMessage::NewLink(set))
        });
        if let Err(error) = self.socket.send_together("set the largest segments", each.into()).await {
            tracing::debug!(ifindex, %error, "kernel keeps its size of segments");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_makes_no_larger_pieces_than_its_uplinks_take() {
        let of = |ipv4, ipv6| Segments { ipv4, ipv6 };
        assert_eq!(Segments::common([].into_iter()), Segments::LARGEST);
        assert_eq!(Segments::common([of(65_536, 100_000)].into_iter()), of(65_536, 100_000));
        let several = [of(196_608, 100_000), of(2000, 70_000)];
        assert_eq!(
            Segments::common(several.into_iter()),
            of(ORDINARY, 70_000),
            "a device's own lower limit is its matter"
        );
    }
}
