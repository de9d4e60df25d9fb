//! Address management as pure functions: which subnet a network gets, which address an endpoint gets.
//!
//! There is no bitmap to keep in step with reality: what is in use is derived from the networks and sandboxes each time,
//! and nothing here walks a pool, so a /8 and a /64 cost what their used addresses cost.

mod addresses;
mod mac;
mod number;
mod pools;
mod request;

pub use addresses::{
    PoolStatus, allocate, claim, default_gateway, endpoint_addresses, pool_status, used_addresses,
};
pub use mac::random_mac;
pub use pools::{DefaultPool, HostPrefix, HostPrefixKind, docker_default_pools, free_subnet, ula_pool};
pub use request::{Families, WithoutGateway, World, plan_pools};
