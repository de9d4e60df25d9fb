//! Translation: which port a masqueraded flow takes, and how a packet's bytes change, those it quotes included.

pub mod icmp_error;
pub mod masquerade;
pub mod rewrite;
pub mod siit;

#[cfg(test)]
mod error_laws;
#[cfg(test)]
mod laws;
