//! The program of a new endpoint is a filter, so that nobody waits for it, and becomes a link while nobody does (ADR 0028).
//!
//! `ENDPOINT` says of an endpoint that it is on the way, before the link is there and until the filter has gone: it is what the next start goes by.

use netd_common::{maps::endpoint_flags, policy::has};

use super::{
    super::{AttachMode, Error, promote},
    Kernel,
};
use crate::failpoint;

impl Kernel {
    /// How an interface's programs are attached at present.
    pub(super) fn mode_on(&self, ifindex: u32) -> AttachMode {
        if self.filtered.contains(&ifindex) { AttachMode::Tc } else { self.mode }
    }

    /// Takes note of what an endpoint's program is, and ends a promotion that was broken off.
    pub(super) fn note_promotion(&mut self, ifindex: u32, ifname: &str) -> Result<(), Error> {
        self.end_promotion(ifindex, ifname)?;
        if self.mode == AttachMode::Tc || promote::is_promoted(&self.links, ifindex) {
            self.filtered.remove(&ifindex);
        } else {
            self.filtered.insert(ifindex);
        }
        Ok(())
    }

    /// Promotes the next endpoint that waits for it.
    pub(super) fn promote_next(&mut self) -> Result<(), Error> {
        let behind = self.filtered.range(self.promoted.saturating_add(1)..).next();
        let Some(ifindex) = behind.or_else(|| self.filtered.first()).copied() else { return Ok(()) };
        // The others have their turn before one that fails has its next.
        self.promoted = ifindex;
        let there = |ifname: &str| nix::net::if_::if_nametoindex(ifname).ok() == Some(ifindex);
        let Some((_, ifname)) = self.attached.get(&ifindex).cloned().filter(|(_, ifname)| there(ifname))
        else {
            self.filtered.remove(&ifindex);
            return Ok(());
        };
        let promoted = self.promote(ifindex, &ifname);
        let ended = self.end_promotion(ifindex, &ifname);
        if promoted.and_then(|promoted| ended.map(|()| promoted))? {
            self.filtered.remove(&ifindex);
            tracing::debug!(ifname, "program is a link now");
        }
        Ok(())
    }

    /// Puts the link beside the filter. False: this kernel has none.
    fn promote(&mut self, ifindex: u32, ifname: &str) -> Result<bool, Error> {
        self.mark_promotion(ifindex, true)?;
        point("marked")?;
        // One that failed behind this point is ended only.
        let linked = promote::is_promoted(&self.links, ifindex)
            || promote::link(&mut self.programs, &self.links, ifindex, ifname)?;
        if !linked {
            self.mode = AttachMode::Tc;
            self.filtered.clear();
        }
        point("linked")?;
        Ok(linked)
    }

    /// Takes the filter away where there is a link, and the mark.
    fn end_promotion(&mut self, ifindex: u32, ifname: &str) -> Result<(), Error> {
        if !has(self.endpoint(ifindex)?.flags, endpoint_flags::PROMOTION) {
            return Ok(());
        }
        if promote::is_promoted(&self.links, ifindex) {
            promote::remove_filter(ifname)?;
            point("unfiltered")?;
        }
        self.mark_promotion(ifindex, false)
    }

    fn mark_promotion(&mut self, ifindex: u32, on: bool) -> Result<(), Error> {
        let mut endpoint = self.endpoint(ifindex)?;
        endpoint.flags &= !endpoint_flags::PROMOTION;
        endpoint.flags |= if on { endpoint_flags::PROMOTION } else { 0 };
        self.write_endpoint(ifindex, endpoint)
    }
}

/// A failpoint of a promotion.
fn point(name: &str) -> Result<(), Error> {
    let name = || format!("promotion.{name}");
    failpoint::hit(name).map_err(|error| Error::kernel(name(), error))
}
