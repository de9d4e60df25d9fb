//! What the decisions see of the world: a packet's bytes, and the maps, clock and routes of the host.

use core::ops::DerefMut;

use crate::{
    conntrack::Opening,
    family::Family,
    maps::{
        Config, Datagram, Endpoint, Flow, FragmentKey, Handed, Hearing, LinkKey, Network, Open, Owner,
        Pending, Place, Publish, PublishKey, Tuple, Uplink,
    },
    nat::icmp_error::Quote,
    net::{Be16, IfIndex},
    verdict::DropReason,
    wire::{Fragment, Headers, L4, Span},
};

/// A packet: an skb in the kernel, a byte vector in a test. Values out, values in: no pointer can go stale.
pub trait Packet {
    /// Reads `N` bytes at an offset from the start of the frame.
    ///
    /// # Errors
    /// `Malformed` when the packet ends before.
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], DropReason>;
    /// Writes `N` bytes; checksums are the caller's business.
    ///
    /// # Errors
    /// `Malformed` when the packet ends before.
    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason>;
    /// Writes `N` bytes of a header that is new: what a device summed up over the whole packet follows. With [`Packet::store`], a checksum that is
    /// updated beside it keeps that sum.
    ///
    /// # Errors
    /// `Malformed` when the packet ends before.
    fn renew<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason>;
    /// Changes a transport checksum by a delta, whether it is complete or left to the device.
    ///
    /// # Errors
    /// `Malformed` when the packet ends before.
    fn update_checksum(&mut self, offset: u32, delta: u32, change: ChecksumChange) -> Result<(), DropReason>;
    /// Returns [`crate::wire::crc32c::change`]; in the kernel a function of its own.
    fn crc32c_change(word: u32, bytes: u32) -> u32;
    /// Cuts the frame to a length.
    ///
    /// # Errors
    /// `KernelRefused` when the packet's memory cannot be changed.
    fn truncate(&mut self, length: u32) -> Result<(), DropReason>;
    /// Makes room for an IP header of the family with this ethertype in place of the other's. Its bytes, and the frame's ethertype, are the
    /// caller's to write; what follows stays.
    ///
    /// # Errors
    /// `KernelRefused` when the packet's memory cannot be changed, or it is a GSO packet of another protocol than TCP.
    fn exchange_header(&mut self, ethertype: Be16) -> Result<(), DropReason>;
    /// Becomes the IPv4 packet that an IPv6 packet between mapped addresses stands for: [`crate::nat::siit::to_v4`], in the kernel a function of
    /// its own.
    ///
    /// # Errors
    /// The reason of the drop.
    fn stand_for_ipv4(&mut self) -> Result<(), DropReason>;
    /// Returns the device it arrived on, or leaves by.
    fn ifindex(&self) -> IfIndex;
    /// Returns the device by which it entered the host; 0: the host made it.
    fn ingress_ifindex(&self) -> IfIndex;
    /// Returns the length of the frame in bytes; a GSO packet counts whole.
    fn length(&self) -> u32;
    /// Returns the payload of each segment of a GSO packet in bytes; 0: it is not one.
    fn segment_payload(&self) -> u32;
    /// Returns the mark that the host's own rules, or other programs, have given it.
    fn mark(&self) -> u32;
    /// Whether the frame carries a VLAN tag in its metadata.
    fn has_vlan_tag(&self) -> bool;
    /// Returns what programs have written beside the packet (`tc_index`), which a copy of it keeps.
    fn tag(&self) -> u32;
}

/// What of the packet changed under a transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumChange {
    /// Addresses, which a pseudo header covers; else data of the transport header itself.
    pub pseudo_header: bool,
    /// The addresses are IPv6 ones.
    pub ipv6: bool,
    /// A zero checksum means "none" and stays zero (UDP over IPv4).
    pub zero_is_none: bool,
}

/// Where the host's routing table sends a packet. No enum: LLVM copies the undefined payload of another variant, which the verifier refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route<A> {
    /// The device it leaves by; 0: no way that a program could take (local, broadcast, unreachable), the stack answers.
    pub out: IfIndex,
    /// The gateway, or the destination itself.
    pub nexthop: A,
    /// The route's MTU in bytes; 0: the device's.
    pub mtu: u16,
    /// The source that the host would take for packets of its own; unspecified: the kernel does not tell.
    pub source: A,
}

impl<A> Route<A> {
    /// Whether only the stack can answer.
    pub const fn is_for_the_stack(&self) -> bool {
        self.out == 0
    }
}

/// The host's routing table and rules. The last answer stays with it: an IPv6 route is too large to be handed around on the kernel's stack.
pub trait Routes<A> {
    /// Asks for the way of a packet with this tuple that arrives on a device. Returns the device it leaves by; 0: only the stack can answer.
    fn from(&mut self, device: IfIndex, asks: &Tuple<A>) -> IfIndex;
    /// Asks for the way of a packet with this tuple that is to leave by a device, which forwards. Returns another one where the table knows no such
    /// way.
    fn by(&mut self, device: IfIndex, asks: &Tuple<A>) -> IfIndex;
    /// Answers that the packet leaves by a device, to its destination itself.
    fn answer(&mut self, device: IfIndex, asks: &Tuple<A>);
}

/// Why an entry was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// The key exists.
    Taken,
    /// The table is full.
    Full,
}

/// What the parts of a hook share about one packet. Working memory: the kernel's 512 bytes of stack do not hold it for IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Draft<F: Family> {
    /// What the packet says.
    pub headers: Headers<F>,
    /// Which flow to open.
    pub opening: Opening<F::Addr>,
    /// What an ICMP error quotes.
    pub quote: Quote<F::Addr>,
    /// The key of the reply's entry.
    pub reply: Tuple<F::Addr>,
    /// The entry to insert next.
    pub flow: Flow<F::Addr>,
    /// What both entries of the flow to open have in common.
    pub generation: u32,
}

impl<F: Family> Default for Draft<F> {
    fn default() -> Self {
        let headers = Headers {
            src: F::Addr::default(),
            dst: F::Addr::default(),
            sport: Be16::ZERO,
            dport: Be16::ZERO,
            proto: 0,
            ttl: 0,
            l4_offset: 0,
            fragment_id: 0,
            l4: L4::Other,
            fragment: Fragment::Whole,
            last: true,
            span: Span { start: 0, end: 0 },
            tcp_flags: 0,
            tcp_header: 0,
            icmp_type: 0,
        };
        Self {
            headers,
            opening: Opening::default(),
            quote: Quote::default(),
            reply: Tuple::default(),
            flow: Flow::default(),
            generation: 0,
        }
    }
}

/// The maps, clock and routes of the host, for one family.
pub trait Env<F: Family> {
    /// Returns the configuration; None only before the daemon wrote it.
    fn config(&self) -> Option<&Config>;
    /// Returns the time in ticks.
    fn now(&self) -> u32;
    /// Returns a random number.
    fn random(&self) -> u32;
    /// Returns the endpoint behind a veth.
    fn endpoint(&self, ifindex: IfIndex) -> Option<&Endpoint>;
    /// Returns a network by its slot.
    fn network(&self, slot: u16) -> Option<&Network>;
    /// Returns who has an address.
    fn owner(&self, addr: &F::Addr) -> Option<&Owner>;
    /// Returns the slot of the network whose subnet has the address.
    fn subnet(&self, addr: &F::Addr) -> Option<u16>;
    /// Whether the host itself has the address.
    fn is_local(&self, addr: &F::Addr) -> bool;
    /// Returns where a published port leads.
    fn publish(&self, key: &PublishKey<F::Addr>) -> Option<Publish<F::Addr>>;
    /// Returns the port that is open on a sandbox's own address, if it is.
    fn opened(&self, key: &PublishKey<F::Addr>) -> Option<Open>;
    /// Whether a list allows a source.
    fn allows(&self, list: u32, source: &F::Addr) -> bool;
    /// Whether a list names an interface of the host.
    fn names(&self, list: u32, ifindex: IfIndex) -> bool;
    /// Keeps in mind that the host sent a sandbox something to which this is the answer.
    fn keep_asked(&self, answer: &Tuple<F::Addr>);
    /// Returns the tick at which the host last sent something to which this is the answer.
    fn asked(&self, answer: &Tuple<F::Addr>) -> Option<u32>;
    /// Keeps in mind what a packet was addressed to that the host's stack answers by an error about this tuple's reverse.
    fn keep_handed(&self, answer: &Tuple<F::Addr>, handed: &Handed<F::Addr>);
    /// Returns what that packet was addressed to.
    fn handed(&self, answer: &Tuple<F::Addr>) -> Option<Handed<F::Addr>>;
    /// Keeps what the host's rules say of a tuple.
    fn set_hearing(&self, asks: &Tuple<F::Addr>, hearing: &Hearing);
    /// Returns what the host's rules say of a tuple.
    fn hearing(&self, asks: &Tuple<F::Addr>) -> Option<Hearing>;
    /// Whether `LINK` has this very key: see [`crate::conntrack::is_linked`].
    fn linked(&self, key: &LinkKey<F::Addr>) -> bool;
    /// Whether an interface may reach a network's opened ports directly.
    fn trusts(&self, network: u16, ifindex: IfIndex) -> bool;
    /// Whether a port is in a set of `port_set`.
    fn in_port_set(&self, set: u32, port: u16) -> bool;
    /// Returns an uplink.
    fn uplink(&self, ifindex: IfIndex) -> Option<&Uplink>;
    /// Asks the host's routing table for the way of a packet with this tuple: [`crate::conntrack::way::find`], a function of its own in the kernel
    /// for the same reason as [`Env::reserve`]. With the source that the table prefers only if `sourced`.
    fn route(&self, from: IfIndex, asks: &Tuple<F::Addr>, by: IfIndex, sourced: bool) -> Route<F::Addr>;
    /// Whether the host's routing table still has an address for the host's own, as a packet from this device asks it. False is no harm.
    fn still_has(&self, from: IfIndex, addr: &F::Addr) -> bool;
    /// Whether a socket of the host itself would receive a packet with this tuple.
    fn host_socket(&self, tuple: &Tuple<F::Addr>) -> bool;
    /// A fragmented datagram in place. At most one is held at a time.
    type DatagramRef<'a>: DerefMut<Target = Datagram>
    where
        Self: 'a;
    /// Returns what is known of a fragmented datagram.
    fn datagram(&self, key: &FragmentKey<F::Addr>) -> Option<Self::DatagramRef<'_>>;
    /// Keeps what is known of a fragmented datagram; the table makes room.
    fn keep(&self, key: &FragmentKey<F::Addr>, datagram: &Datagram);
    /// Forgets a fragmented datagram.
    fn forget(&self, key: &FragmentKey<F::Addr>);
    /// A flow in place. At most one is held at a time.
    type FlowRef<'a>: DerefMut<Target = Flow<F::Addr>>
    where
        Self: 'a;
    /// Looks a flow up.
    fn flow(&self, key: &Tuple<F::Addr>) -> Option<Self::FlowRef<'_>>;
    /// Whether the other family's table has a flow of this tuple, mapped addresses standing for IPv4 ones.
    fn in_other_family(&self, key: &Tuple<F::Addr>) -> bool;
    /// Inserts a flow where none is: the insertion *is* the reservation of its tuple.
    ///
    /// # Errors
    /// `Taken` when the tuple has a flow, `Full` when the table is.
    fn claim(&self, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), ClaimError>;
    /// Replaces a flow.
    ///
    /// # Errors
    /// `Full` when it was gone and the table is full.
    fn replace(&self, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), ClaimError>;
    /// Removes a flow; false: it was gone already.
    fn remove(&self, key: &Tuple<F::Addr>) -> bool;
    /// Returns how many flows an endpoint pays for.
    fn usage(&self, ifindex: IfIndex) -> u32;
    /// Adds to, or takes from, the flows that an endpoint pays for.
    fn charge(&self, ifindex: IfIndex, flows: i32);
    /// Counts an endpoint's places up by one; no two calls return the same number.
    fn next_place(&self, ifindex: IfIndex) -> u32;
    /// The holder of a place, in place. At most one is held at a time.
    type PendingRef<'a>: DerefMut<Target = Pending<F::Addr>>
    where
        Self: 'a;
    /// Returns who holds a place.
    fn pending(&self, place: &Place) -> Option<Self::PendingRef<'_>>;
    /// Gives a place to a flow that nobody held.
    fn set_pending(&self, place: &Place, pending: &Pending<F::Addr>);
    /// Whether one more reset may go to an endpoint now; it is counted.
    fn may_reset(&self, ifindex: IfIndex) -> bool;
    /// Lets packets to a host port be asked for their flow from now on.
    fn keep_port(&self, proto: u8, port: u16);
    /// Counts that a masqueraded flow has a port after so many tries.
    fn count_tries(&self, tries: u32);
    /// Returns the port at a position in the configured ranges: [`crate::nat::masquerade::port_at`], a function of its own in the kernel for the
    /// same reason as [`Env::reserve`].
    fn port_at(&self, position: u32) -> u16;
    /// Reserves the draft's reply tuple unless the host has a use for its port: [`crate::conntrack::reserve`]. The kernel side makes it a function of
    /// its own, so that the verifier walks it once and not for every try.
    ///
    /// # Errors
    /// `NatConflict` when it is taken, `TableFull` when there is no room.
    fn reserve(&self, draft: &Draft<F>, heed_host: bool) -> Result<(), DropReason>;
}
