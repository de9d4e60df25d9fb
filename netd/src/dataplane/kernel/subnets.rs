//! Subnets in the maps, and the filter that spares packets of others a look-up.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{super::Error, Kernel};
use aya::maps::{MapError, lpm_trie::Key};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

impl Kernel {
    /// Recomputes which addresses may be netd's, from the subnets in the maps.
    pub(super) fn refresh_filter(&mut self) -> Result<(), Error> {
        (self.config.filter4, self.config.filter6) = filters(self.subnets.keys());
        self.write_config()
    }

    /// Removes every prefix of a slot but these, whoever put it there: of an orphan's slot nobody knows the prefixes any more.
    pub(super) fn forget_prefixes(
        &mut self,
        slot: u16,
        keep4: Option<Ipv4Net>,
        keep6: Option<Ipv6Net>,
    ) -> Result<(), Error> {
        let kept = [keep4.map(|net| IpNet::V4(net.trunc())), keep6.map(|net| IpNet::V6(net.trunc()))];
        let gone =
            |(subnet, owner): &(&IpNet, &u32)| **owner == u32::from(slot) && !kept.contains(&Some(**subnet));
        let gone: Vec<IpNet> = self.subnets.iter().filter(gone).map(|(subnet, _)| *subnet).collect();
        for subnet in gone {
            let length = u32::from(subnet.prefix_len());
            let removed = match subnet.network() {
                IpAddr::V4(addr) => self.maps.v4.subnet.remove(&Key::new(length, addr.into())),
                IpAddr::V6(addr) => self.maps.v6.subnet.remove(&Key::new(length, addr.into())),
            };
            match removed {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                }
                Err(source) => {
                    return Err(Error::kernel(
                        format!("remove the subnet {subnet} of network {slot}"),
                        source,
                    ));
                }
            }
            self.subnets.remove(&subnet);
        }
        Ok(())
    }

    /// Reads the subnets from the maps.
    pub(super) fn read_subnets(&self) -> Result<HashMap<IpNet, u32>, Error> {
        let mut all = HashMap::new();
        for entry in &self.maps.v4.subnet {
            let (key, slot) = entry.map_err(|source| Error::kernel("list map SUBNET4".to_owned(), source))?;
            let length = u8::try_from(key.prefix_len()).unwrap_or(32);
            all.extend(IpNet::new(Ipv4Addr::from(key.data()).into(), length).map(|net| (net, slot)));
        }
        for entry in &self.maps.v6.subnet {
            let (key, slot) = entry.map_err(|source| Error::kernel("list map SUBNET6".to_owned(), source))?;
            let length = u8::try_from(key.prefix_len()).unwrap_or(128);
            all.extend(IpNet::new(Ipv6Addr::from(key.data()).into(), length).map(|net| (net, slot)));
        }
        Ok(all)
    }
}

/// Returns which IPv4 and which IPv6 addresses these subnets may have (`Address::filter_bit`).
pub(super) fn filters<'a>(subnets: impl Iterator<Item = &'a IpNet>) -> ([u32; 8], [u32; 8]) {
    let (mut filter4, mut filter6) = ([0_u32; 8], [0_u32; 8]);
    for subnet in subnets {
        let length = u32::from(subnet.prefix_len());
        match subnet.network() {
            IpAddr::V4(addr) => set_bits(&mut filter4, addr.octets()[0], 8_u32.saturating_sub(length)),
            IpAddr::V6(addr) => {
                set_bits(&mut filter6, addr.octets()[1], 16_u32.saturating_sub(length).min(8));
            }
        }
    }
    (filter4, filter6)
}

/// Sets the bits that `span` low bits of freedom around `value` give.
fn set_bits(filter: &mut [u32; 8], value: u8, span: u32) {
    let base = u32::from(value) >> span << span;
    for bit in base..base + (1 << span) {
        filter[(bit >> 5) as usize & 7] |= 1 << (bit & 31);
    }
}
