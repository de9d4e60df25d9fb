//! Translation: which port a masqueraded flow takes, and how a packet's bytes change.

pub mod masquerade;
pub mod rewrite;
