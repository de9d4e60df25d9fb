//! What route netlink's notifications say has changed, as far as somebody here wants to know.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
};

use rtnetlink::packet_core::{
    NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable, NlasIterator,
};

/// Links that are told apart between two looks; beyond them all that is known is that anything may have changed.
const TOLD_APART: usize = 8_192;

/// What changed since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Links that came, went or changed, by index, as they were last heard of.
    pub links: BTreeMap<u32, LinkChange>,
    /// Interfaces of which an address came, went or changed.
    pub addresses: Interfaces,
    /// Interfaces by which routes came, went or changed.
    pub routes: Interfaces,
    /// A routing rule came or went, or a route that the kernel did not make itself: a snapshot does not show rules, nor that a route went and came
    /// back, while flows may have followed the way that was there meanwhile.
    pub ways: bool,
    /// Interfaces for which forwarding, or another setting of `net.ipv4.conf` or `net.ipv6.conf`, was written to, or that came with settings.
    pub settings: Interfaces,
    /// Interfaces that lost a qdisc or a filter.
    pub hooks: BTreeSet<u32>,
    /// The kernel lost notifications: anything may have changed, and nothing else is known.
    pub lost: bool,
}

/// What was last heard of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Its name.
    pub name: String,
    /// Its alias, which is netd's label; None: nothing was said of it.
    pub alias: Option<String>,
    /// Index of what it is a port of, 0: of nothing; None: nothing was said of it.
    pub master: Option<u32>,
    /// Whether it was deleted, or went into another namespace.
    pub gone: bool,
}

/// Some interfaces, by index, or any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Those that are known.
    pub these: BTreeSet<u32>,
    /// Whether it may be others too.
    pub any: bool,
}

impl Interfaces {
    /// Whether it is none.
    pub fn is_empty(&self) -> bool {
        !self.any && self.these.is_empty()
    }

    /// Returns any.
    #[must_use]
    pub const fn any() -> Self {
        Self { these: BTreeSet::new(), any: true }
    }

    fn add(&mut self, other: Self) {
        self.any |= other.any;
        self.these.extend(other.these);
    }
}

impl From<Option<u32>> for Interfaces {
    /// None: nothing says which.
    fn from(index: Option<u32>) -> Self {
        index.map_or_else(Self::any, |index| Self { these: BTreeSet::from([index]), any: false })
    }
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether nothing changed but settings and hooks, which are put back at once and change nothing else.
    pub fn can_not_wait(&self) -> bool {
        let Self { links, addresses, routes, ways, settings: _, hooks: _, lost } = self;
        links.is_empty() && addresses.is_empty() && routes.is_empty() && !ways && !lost
    }

    /// Adds what changed after it.
    pub fn add(&mut self, later: Self) {
        for (index, change) in later.links {
            let before = self.links.remove(&index).unwrap_or_default();
            // A word from the bridge says nothing of a port's alias, nor where it is after it has left.
            let (alias, master) = (change.alias.or(before.alias), change.master.or(before.master));
            self.links.insert(index, LinkChange { alias, master, ..change });
        }
        self.addresses.add(later.addresses);
        self.routes.add(later.routes);
        self.ways |= later.ways;
        self.settings.add(later.settings);
        self.hooks.extend(later.hooks);
        self.lost |= later.lost;
        let indexes = [
            self.links.len(),
            self.addresses.these.len(),
            self.routes.these.len(),
            self.settings.these.len(),
            self.hooks.len(),
        ];
        if indexes.iter().any(|count| *count > TOLD_APART) {
            *self = Self { lost: true, ..Self::default() };
        }
    }
}

/// A notification, and what it says.
#[derive(Debug)]
pub(super) struct Notification {
    /// Its type (`RTM_...`).
    kind: u16,
    changes: Changes,
}

impl NetlinkDeserializable for Notification {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { kind: header.message_type, changes: meaning(header.message_type, payload) })
    }
}

impl NetlinkSerializable for Notification {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        0
    }

    fn serialize(&self, _buffer: &mut [u8]) {}
}

/// Returns what a message of the subscription says.
pub(super) fn of_message(payload: NetlinkPayload<Notification>) -> Changes {
    match payload {
        NetlinkPayload::InnerMessage(notification) => notification.changes,
        NetlinkPayload::Overrun(_) => Changes { lost: true, ..Changes::default() },
        _ => Changes::default(),
    }
}

fn meaning(kind: u16, payload: &[u8]) -> Changes {
    /// `struct rtmsg`: where the protocol is, and its length.
    const RTM_PROTOCOL: usize = 5;
    const RTMSG: usize = 12;
    /// `struct netconfmsg`, aligned, and `NETCONFA_IFINDEX` (linux/netconf.h).
    const NETCONFMSG: usize = 4;
    const NETCONFA_IFINDEX: u16 = 1;
    /// Where `struct ifaddrmsg` has the interface's index.
    const IFA_INDEX: usize = 4;
    /// Where `struct tcmsg` has the interface's index.
    const TCM_IFINDEX: usize = 4;
    let mut changes = Changes::default();
    match kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => match link(kind, payload) {
            Some((index, change)) => drop(changes.links.insert(index, change)),
            None => changes.lost = true,
        },
        libc::RTM_NEWADDR | libc::RTM_DELADDR => changes.addresses = number(payload, IFA_INDEX).into(),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let from_kernel = payload.get(RTM_PROTOCOL) == Some(&libc::RTPROT_KERNEL);
            changes.ways = !from_kernel;
            changes.routes = attribute(payload, RTMSG, libc::RTA_OIF).and_then(|oif| number(&oif, 0)).into();
        }
        libc::RTM_NEWRULE | libc::RTM_DELRULE => changes.ways = true,
        libc::RTM_DELQDISC | libc::RTM_DELTFILTER => changes.hooks.extend(number(payload, TCM_IFINDEX)),
        libc::RTM_NEWNETCONF => {
            let index = attribute(payload, NETCONFMSG, NETCONFA_IFINDEX).and_then(|index| number(&index, 0));
            // `all` and `default` are negative.
            changes.settings = index.filter(|index| i32::try_from(*index).is_ok()).into();
        }
        _ => {}
    }
    changes
}

/// Returns the index of the link that a message is about, and what it says of it.
fn link(kind: u16, payload: &[u8]) -> Option<(u32, LinkChange)> {
    /// `struct ifinfomsg`: where the index is, and its length.
    const IFI_INDEX: usize = 4;
    const IFINFOMSG: usize = 16;
    let index = number(payload, IFI_INDEX)?;
    let name = text(&attribute(payload, IFINFOMSG, libc::IFLA_IFNAME)?);
    let of_the_link = payload.first().is_some_and(|family| i32::from(*family) == libc::AF_UNSPEC);
    let alias = attribute(payload, IFINFOMSG, libc::IFLA_IFALIAS).map(|alias| text(&alias));
    // A bridge tells of its ports in the same words: what left it is not gone, and it knows of no alias.
    let alias = if of_the_link { Some(alias.unwrap_or_default()) } else { None };
    let master = attribute(payload, IFINFOMSG, libc::IFLA_MASTER).and_then(|master| number(&master, 0));
    let master = of_the_link.then(|| master.unwrap_or(0));
    Some((index, LinkChange { name, alias, master, gone: of_the_link && kind == libc::RTM_DELLINK }))
}

fn attribute(payload: &[u8], header: usize, wanted: u16) -> Option<Vec<u8>> {
    let mut attributes = NlasIterator::new(payload.get(header..)?).map_while(Result::ok);
    attributes.find(|attribute| attribute.kind() == wanted).map(|attribute| attribute.value().to_vec())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}
