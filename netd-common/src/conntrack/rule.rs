//! For which packets a rule of the host's policy routing is, as the kernel reads it (`fib_rule_match`, net/core/fib_rules.c, and `fib6_rule_match`,
//! net/ipv6/fib6_rules.c).

use crate::{
    family::Address,
    maps::{Rule6, Tuple, rule_flags},
    net::{Addr6, IfIndex},
};

impl Rule6 {
    /// Whether the rule is for a packet that says this, came by a device, and has a mark and a traffic class (without its ECN bits).
    #[inline(always)]
    pub fn is_for(&self, asks: &Tuple<Addr6>, from: IfIndex, mark: u32, class: u8) -> bool {
        let named = self.src.matches(&asks.src, &self.src_mask)
            && self.dst.matches(&asks.dst, &self.dst_mask)
            && (mark ^ self.mark) & self.mark_mask == 0
            && (self.iif == 0 || self.iif == from)
            && (self.proto == 0 || self.proto == asks.proto)
            && (self.class == 0 || self.class == class)
            && within(self.sports, asks.sport.into())
            && within(self.dports, asks.dport.into());
        named == (self.flags & rule_flags::INVERT == 0)
    }
}

#[inline(always)]
const fn within([first, last]: [u16; 2], port: u16) -> bool {
    first <= port && port <= last
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;
    use crate::net::Be16;

    const ANY: Rule6 = Rule6 {
        src: Addr6::UNSPECIFIED,
        src_mask: Addr6::UNSPECIFIED,
        dst: Addr6::UNSPECIFIED,
        dst_mask: Addr6::UNSPECIFIED,
        mark: 0,
        mark_mask: 0,
        iif: 0,
        table: 254,
        sports: [0, u16::MAX],
        dports: [0, u16::MAX],
        proto: 0,
        class: 0,
        flags: 0,
    };

    fn addr(text: &str) -> Addr6 {
        text.parse::<Ipv6Addr>().expect("an address").into()
    }

    #[test]
    fn a_rule_is_for_what_all_of_its_words_name_or_inverted_for_the_rest() {
        let asks = Tuple {
            src: addr("fd00::2"),
            dst: addr("2001:db8::80"),
            sport: Be16::from(5000),
            dport: Be16::from(443),
            zone: 7,
            proto: 6,
            pad: [0; 3],
        };
        let (net, other) = (addr("ffff:ffff:ffff:ffff::"), addr("2001:db8:1::"));
        let rules = [
            (ANY, true),
            (Rule6 { src: addr("fd00::"), src_mask: net, ..ANY }, true),
            (Rule6 { src: other, src_mask: net, ..ANY }, false),
            (Rule6 { dst: addr("2001:db8::"), dst_mask: net, ..ANY }, true),
            (Rule6 { dst: other, dst_mask: net, ..ANY }, false),
            (Rule6 { mark: 0x30, mark_mask: 0xf0, ..ANY }, true),
            (Rule6 { mark: 0xca6c, mark_mask: u32::MAX, ..ANY }, false),
            (Rule6 { iif: 9, ..ANY }, true),
            (Rule6 { iif: 8, ..ANY }, false),
            (Rule6 { proto: 6, ..ANY }, true),
            (Rule6 { proto: 17, ..ANY }, false),
            (Rule6 { class: 0xb8, ..ANY }, true),
            (Rule6 { class: 0x20, ..ANY }, false),
            (Rule6 { sports: [5000, 5000], ..ANY }, true),
            (Rule6 { sports: [0, 4999], ..ANY }, false),
            (Rule6 { dports: [400, 443], ..ANY }, true),
            (Rule6 { dports: [444, 500], ..ANY }, false),
            (Rule6 { proto: 6, iif: 8, ..ANY }, false),
        ];
        for (rule, is_for) in rules {
            assert_eq!(rule.is_for(&asks, 9, 0x35, 0xb8), is_for, "{rule:?}");
            let inverted = Rule6 { flags: rule_flags::INVERT, ..rule };
            assert_eq!(inverted.is_for(&asks, 9, 0x35, 0xb8), !is_for, "not {rule:?}");
        }
    }
}
