//! Every key and value that the programs and the daemon share, their names and sizes.
//!
//! All types are `repr(C)` without padding, checked at compile time: hash maps compare keys byte by byte.

pub mod capacity;
mod config;
mod dialled;
mod endpoint;
mod flow;
mod fragment;
mod publish;
mod rule;

pub use self::{config::*, dialled::*, endpoint::*, flow::*, fragment::*, publish::*, rule::*};

use crate::net::{Addr4, Addr6};

/// Version of everything here, and of the meaning of each field; it is part of the pin path.
pub const LAYOUT: u32 = 1;

/// Asserts that a type's size is the sum of its fields: no hidden padding.
macro_rules! no_padding {
    ($($type:ty = $($size:expr),+;)*) => { $( const _: () = assert!(size_of::<$type>() == 0 $(+ $size)+); )* };
}
no_padding! {
    Tuple<Addr4> = 4, 4, 2, 2, 4, 1, 3;
    Tuple<Addr6> = 16, 16, 2, 2, 4, 1, 3;
    Flow<Addr4> = 8, 4, 4, 4, 4, 8, 8, 8, 4, 12;
    Flow<Addr6> = 8, 16, 16, 4, 4, 8, 8, 8, 16, 12;
    Endpoint = 4, 2, 6, 4, 4, 4, 8, 16, 16, 16;
    Owner = 4, 2, 6, 4;
    Network = 4, 4, 6, 2, 4, 4, 16, 16;
    Uplink = 4, 16, 4;
    PublishKey<Addr4> = 4, 2, 1, 1;
    PublishKey<Addr6> = 16, 2, 1, 1;
    Publish<Addr4> = 4, 4, 2, 2, 4, 4;
    Publish<Addr6> = 16, 4, 2, 2, 4, 4;
    Open = 4, 4, 4;
    ViaKey = 4, 4;
    AllowKey<Addr4> = 4, 4;
    AllowKey<Addr6> = 4, 16;
    LinkKey<Addr4> = 4, 4, 2, 1, 1;
    LinkKey<Addr6> = 16, 16, 2, 1, 1;
    TrustKey = 4, 4;
    Rule6 = 64, 16, 8, 4;
    RouteKey = 4, 16;
    FragmentKey<Addr4> = 4, 4, 4, 4, 1, 3;
    FragmentKey<Addr6> = 16, 16, 4, 4, 1, 3;
    Datagram = 2, 2, 1, 1, 2, 4, 16;
    Held = 16, 44;
    DialledKey = 8, 16, 2, 2;
    Dialled = 16, 2, 2;
    Handed<Addr4> = 4, 2, 2, 4;
    Handed<Addr6> = 16, 2, 2, 4;
    Hearing = 4, 4, 4;
    Config = 4, 4, 8, 4, 4, 16, 44, 32, 32, 16, 4, 4, 4, 4;
    Place = 4, 4;
    Pending<Addr4> = 20, 4;
    Pending<Addr6> = 44, 4;
    Pace = 4, 4, 4;
    Allowance = 4, 4;
}
// One cache line: an established IPv4 packet touches one entry.
const _: () = assert!(size_of::<Flow<Addr4>>() == 64);

/// Plain data for the daemon's map handles.
#[cfg(feature = "user")]
mod user {
    use super::*;
    macro_rules! pod {
        ($($type:ty),*) => { $(
            // SAFETY: repr(C), `Copy`, no padding (asserted above), every bit pattern is a value of every field.
            unsafe impl aya::Pod for $type {}
        )* };
    }
    pod!(
        Tuple<Addr4>,
        Tuple<Addr6>,
        Flow<Addr4>,
        Flow<Addr6>,
        Endpoint,
        Owner,
        Network,
        Uplink,
        PublishKey<Addr4>,
        PublishKey<Addr6>,
        Publish<Addr4>,
        Publish<Addr6>,
        Open,
        ViaKey,
        AllowKey<Addr4>,
        AllowKey<Addr6>,
        LinkKey<Addr4>,
        LinkKey<Addr6>,
        TrustKey,
        Rule6,
        RouteKey,
        DialledKey,
        Dialled,
        Held,
        Config,
        Allowance,
        Place,
        Pending<Addr4>,
        Pending<Addr6>,
        Pace,
        Handed<Addr4>,
        Handed<Addr6>,
        Hearing,
        crate::monitor::Sighting,
        Addr4,
        Addr6
    );
}
