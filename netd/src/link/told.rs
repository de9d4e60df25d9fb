//! Settings of a link that the kernel tells along with it, so that nobody has to look for them below `/proc/sys/net`.
//!
//! A look there takes a path for each, and the first one in a namespace a thread that enters it and a search among the directories of all namespaces.

use rtnetlink::packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec, Inet6DevConf, InetDevConf};

/// What the kernel told of a link's settings; nothing of a family that the link or the kernel does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    ipv4: Option<Box<InetDevConf>>,
    ipv6: Option<Box<Inet6DevConf>>,
}

impl Told {
    pub(super) fn of(families: &[AfSpecUnspec]) -> Self {
        let mut told = Self::default();
        for family in families {
            match family {
                AfSpecUnspec::Inet(all) => {
                    told.ipv4 = all.iter().find_map(|one| match one {
                        AfSpecInet::DevConf(settings) => Some(Box::new(*settings)),
                        _ => None,
                    });
                }
                AfSpecUnspec::Inet6(all) => {
                    told.ipv6 = all.iter().find_map(|one| match one {
                        AfSpecInet6::DevConf(settings) => Some(Box::new(*settings)),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        told
    }

    /// Returns a setting by its path below `/proc/sys/net`: `ipv6/conf/eth0/accept_ra`. None: the kernel did not tell, or nobody here asked yet.
    pub(super) fn get(&self, path: &str) -> Option<i32> {
        let (family, rest) = path.split_once('/')?;
        let (_, key) = rest.rsplit_once('/')?;
        match family {
            "ipv4" => match key {
                "arp_notify" => Some(self.ipv4.as_ref()?.arp_notify),
                _ => None,
            },
            "ipv6" => {
                let all = self.ipv6.as_ref()?;
                match key {
                    "accept_dad" => Some(all.accept_dad),
                    "accept_ra" => Some(all.accept_ra),
                    "accept_redirects" => Some(all.accept_redirects),
                    "autoconf" => Some(all.autoconf),
                    "disable_ipv6" => Some(all.disable_ipv6),
                    "mldv2_unsolicited_report_interval" => Some(all.mldv2_unsolicited_report_interval),
                    "ndisc_notify" => Some(all.ndisc_notify),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Returns those of these settings that the kernel did not tell to be so.
    pub(super) fn differing(&self, settings: Vec<(String, String)>) -> Vec<(String, String)> {
        let differs = |(path, value): &(String, String)| {
            self.get(path).is_none_or(|present| present.to_string() != *value)
        };
        settings.into_iter().filter(differs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_to_be_so_is_not_set_again_and_what_was_not_told_is() {
        let mut ipv6 = Inet6DevConf::default();
        ipv6.accept_ra = 1;
        let told = Told { ipv4: None, ipv6: Some(ipv6.into()) };
        let setting = |path: &str, value: &str| (path.to_owned(), value.to_owned());
        let wanted = vec![
            setting("ipv4/conf/eth0/arp_notify", "1"),
            setting("ipv6/conf/eth0/accept_ra", "0"),
            setting("ipv6/conf/eth0/accept_dad", "0"),
            setting("ipv6/conf/eth0/forwarding", "0"),
        ];
        let left = [wanted[0].clone(), wanted[1].clone(), wanted[3].clone()];
        assert_eq!(told.differing(wanted), left);
    }
}
