//! Switches the offloads of an interface: without them packets carry full checksums, as from a wire, and receivers verify them.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::AsRawFd as _;

use crate::Ns;

/// Commands of `linux/ethtool.h` that set one feature: transmit and receive checksums, scatter-gather, TSO, GSO, GRO.
const FEATURES: [u32; 6] = [0x17, 0x15, 0x19, 0x1f, 0x24, 0x2c];
/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

impl Ns {
    /// Switches every checksum and segmentation offload of an interface off.
    pub fn disable_offloads(&self, ifname: &str) {
        self.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None).expect("a socket");
            for cmd in FEATURES {
                let mut value = Value { cmd, data: 0 };
                let mut name = [0; libc::IFNAMSIZ];
                for (to, from) in name.iter_mut().zip(ifname.bytes()) {
                    *to = from.cast_signed();
                }
                let data = (&raw mut value).cast();
                let mut request = libc::ifreq {
                    ifr_name: name,
                    ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data },
                };
                // SAFETY: the request names an interface and points to an ethtool_value; both outlive the call.
                let result = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
                let error = std::io::Error::last_os_error();
                assert_eq!(result, 0, "{}: ethtool command {cmd:#x} on {ifname}: {error}", self.name());
            }
        });
    }
}
