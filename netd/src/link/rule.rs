//! Rules of IPv6 policy routing, as the host has them.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;
use rtnetlink::{
    packet_core::{DefaultNla, Nla as _},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};

use super::{Error, Links};

/// `FRA_SPORT_MASK` and `FRA_DPORT_MASK` (`linux/fib_rules.h`).
const PORT_MASKS: [u16; 2] = [28, 29];

/// What a rule does with the packets that it is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RuleDoes {
    /// Asks a table; unless that knows a way, the next rule counts.
    Ask(u32),
    /// Says that there is no way.
    Forbid,
    /// Nothing: the next rule counts.
    #[default]
    Nothing,
}

/// A rule of IPv6 policy routing; the default is for everything, and does nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRule {
    /// Its place; the least comes first.
    pub priority: u32,
    /// What it does.
    pub does: RuleDoes,
    /// The sources it is for.
    pub src: Ipv6Net,
    /// The destinations it is for.
    pub dst: Ipv6Net,
    /// The mark it is for, and the bits of it that count.
    pub mark: (u32, u32),
    /// The name of the device that packets come by.
    pub iif: Option<String>,
    /// First and last source port.
    pub sports: Option<(u16, u16)>,
    /// First and last destination port.
    pub dports: Option<(u16, u16)>,
    /// IP protocol number; 0: any.
    pub proto: u8,
    /// Traffic class without ECN; 0: any.
    pub class: u8,
    /// Whether it is for what the rest does not name.
    pub inverted: bool,
    /// Whether it is for nothing that a host forwards, but for what a user, a VRF or a tunnel sends, or what leaves by a socket's device.
    pub foreign: bool,
    /// Routes of this length or shorter do not count.
    pub suppresses: Option<u8>,
    /// Whether it says what netd does not understand.
    pub strange: bool,
}

impl HostRule {
    fn parse(message: &RuleMessage) -> Self {
        let header = &message.header;
        let mut rule = Self {
            class: header.tos & 0xfc,
            inverted: header.flags.contains(RuleFlags::Invert),
            ..Self::default()
        };
        let mut table = u32::from(header.table);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Table(number) => table = *number,
                attribute => rule.note(attribute, header.src_len, header.dst_len),
            }
        }
        match header.action {
            RuleAction::ToTable => rule.does = RuleDoes::Ask(table),
            RuleAction::Nop => {}
            RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => {
                rule.does = RuleDoes::Forbid;
            }
            _ => rule.strange = true,
        }
        rule
    }

    fn note(&mut self, attribute: &RuleAttribute, src_len: u8, dst_len: u8) {
        match attribute {
            RuleAttribute::Priority(priority) => self.priority = *priority,
            RuleAttribute::Source(ip) => match prefix(*ip, src_len) {
                Some(src) => self.src = src,
                None => self.strange = true,
            },
            RuleAttribute::Destination(ip) => match prefix(*ip, dst_len) {
                Some(dst) => self.dst = dst,
                None => self.strange = true,
            },
            RuleAttribute::FwMark(mark) => self.mark.0 = *mark,
            RuleAttribute::FwMask(mask) => self.mark.1 = *mask,
            RuleAttribute::Iifname(name) => self.iif = Some(name.clone()),
            RuleAttribute::SourcePortRange(ports) => self.sports = Some((ports.start, ports.end)),
            RuleAttribute::DestinationPortRange(ports) => self.dports = Some((ports.start, ports.end)),
            RuleAttribute::IpProtocol(proto) => match u8::try_from(i32::from(*proto)) {
                Ok(proto) => self.proto = proto,
                Err(_) => self.strange = true,
            },
            RuleAttribute::Oifname(_) | RuleAttribute::L3MDev(true) | RuleAttribute::TunId(1..) => {
                self.foreign = true;
            }
            // What is forwarded belongs to root (`sock_net_uid`).
            RuleAttribute::UidRange(range) => self.foreign |= range.start > 0,
            // The kernel writes -1 where nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX)
            | RuleAttribute::L3MDev(false)
            | RuleAttribute::TunId(0)
            | RuleAttribute::Realm(_)
            | RuleAttribute::Protocol(_) => {}
            RuleAttribute::SuppressPrefixLen(length) => match u8::try_from(*length) {
                Ok(length) => self.suppresses = Some(length),
                Err(_) => self.strange = true,
            },
            RuleAttribute::SuppressIfGroup(_) => {
                (self.suppresses, self.strange) = (self.suppresses.or(Some(0)), true);
            }
            RuleAttribute::Other(other) if names_one_port(other) => {}
            _ => self.strange = true,
        }
    }
}

/// Whether an attribute says, as newer kernels do, that every bit of a single port counts.
fn names_one_port(attribute: &DefaultNla) -> bool {
    let mut mask = [0; 2];
    if !PORT_MASKS.contains(&attribute.kind()) || attribute.value_len() != mask.len() {
        return false;
    }
    attribute.emit_value(&mut mask);
    mask == [0xff; 2]
}

fn prefix(ip: IpAddr, length: u8) -> Option<Ipv6Net> {
    match ip {
        IpAddr::V6(ip) => Ipv6Net::new(ip, length).ok(),
        IpAddr::V4(_) => Ipv6Net::new(Ipv6Addr::UNSPECIFIED, 0).ok().filter(|_| length == 0),
    }
}

impl Links {
    /// Reads the rules of IPv6 policy routing in their order, undisturbed. A kernel without such rules has none.
    pub async fn rules6(&self) -> Result<Vec<HostRule>, Error> {
        let mut filter = RuleMessage::default();
        filter.header.family = AddressFamily::Inet6;
        let rule = |message| match message {
            RouteNetlinkMessage::NewRule(message) => Some(HostRule::parse(&message)),
            _ => None,
        };
        match self.socket.dump("list rules", RouteNetlinkMessage::GetRule(filter), rule).await {
            Err(error) if matches!(error.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {
                Ok(Vec::new())
            }
            rules => rules,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::in_new_netns;

    #[test]
    fn rules_are_read_as_they_were_made() {
        in_new_netns(async || {
            let make = |text: &str| {
                let made = std::process::Command::new("ip")
                    .args(["-6", "rule", "add"])
                    .args(text.split(' '))
                    .status()
                    .expect("ip runs");
                assert!(made.success(), "{text}");
            };
            make("pref 10 not from all fwmark 51820 lookup 51820");
            make("pref 20 from all lookup main suppress_prefixlength 0");
            make("pref 30 from fd00::/64 to 2001:db8::/32 iif br0 ipproto tcp dport 80-90 sport 7 prohibit");
            make("pref 40 fwmark 0x10/0xf0 tos 0x10 lookup 7");
            make("pref 50 oif eth0 lookup 8");
            make("pref 60 uidrange 1000-2000 lookup 8");
            make("pref 70 goto 32766");
            let links = Links::open().await.expect("socket");
            let rules = links.rules6().await.expect("rules");
            let at = |priority| rules.iter().find(|rule| rule.priority == priority).expect("the rule");
            assert_eq!(rules.first(), Some(at(0)));
            assert_eq!((at(0).does, at(0).suppresses, at(0).strange), (RuleDoes::Ask(255), None, false));
            let tunnel = at(10);
            assert_eq!((tunnel.does, tunnel.inverted), (RuleDoes::Ask(51820), true));
            assert_eq!((tunnel.mark, tunnel.strange), ((51820, u32::MAX), false));
            let main = at(20);
            assert_eq!((main.does, main.suppresses, main.strange), (RuleDoes::Ask(254), Some(0), false));
            let picky = at(30);
            assert_eq!((picky.does, picky.proto, picky.strange), (RuleDoes::Forbid, 6, false));
            assert_eq!((picky.sports, picky.dports), (Some((7, 7)), Some((80, 90))));
            assert_eq!(
                (picky.src.to_string(), picky.dst.to_string()),
                ("fd00::/64".into(), "2001:db8::/32".into())
            );
            assert_eq!(picky.iif.as_deref(), Some("br0"));
            assert_eq!((at(40).mark, at(40).class), ((0x10, 0xf0), 0x10));
            assert_eq!((at(50).foreign, at(60).foreign, at(40).foreign), (true, true, false));
            assert!(at(70).strange, "what jumps is not followed");
        });
    }
}
