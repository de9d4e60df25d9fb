//! Makes the program that a sandbox's packets meet a link, which was a filter when the sandbox was created (ADR 0028).
//!
//! The link comes before the filter goes. The caller says so in `ENDPOINT` as long as both may be there: what the link passes does not meet the filter then.

use std::path::Path;

use aya::programs::{TcAttachType, links::Link as _, tc::SchedClassifierLink};

use super::{
    Error,
    attach::{self, FILTER_HANDLE, FILTER_PRIORITY, Refused, Side},
    programs::Programs,
};

/// The program that all packets of a sandbox meet.
const PROGRAM: &str = "from_endpoint";

/// Whether it is a link here, by its pin.
pub fn is_promoted(links: &Path, ifindex: u32) -> bool {
    attach::pin(links, ifindex, PROGRAM).exists()
}

/// Gives the program a link, beside its filter. False: this kernel has no TCX.
///
/// # Errors
/// Names the program and the interface.
pub fn link(programs: &mut Programs, links: &Path, ifindex: u32, ifname: &str) -> Result<bool, Error> {
    let (order, path) = (Side::Endpoint.order(programs.tcx_order()), attach::pin(links, ifindex, PROGRAM));
    match attach::attach_tcx(programs.packet(PROGRAM)?, ifname, TcAttachType::Ingress, order, &path) {
        Ok(()) => Ok(true),
        Err(error) if error.lacks_tcx() => Ok(false),
        Err(error) => Err(refused("attach", ifname, error)),
    }
}

/// Takes the filter away; gone already is fine.
///
/// # Errors
/// Names the program and the interface.
pub fn remove_filter(ifname: &str) -> Result<(), Error> {
    let ingress = TcAttachType::Ingress;
    let removed = SchedClassifierLink::attached(ifname, ingress, FILTER_PRIORITY, FILTER_HANDLE, None)
        .map_err(Refused::from)
        .and_then(|filter| Ok(filter.detach()?));
    match removed {
        // No such filter, or no filters at all.
        Err(error) if attach::is(&*error.0, &[libc::ENOENT, libc::EINVAL]) => Ok(()),
        Err(error) => Err(refused("remove the filter of", ifname, error)),
        Ok(()) => Ok(()),
    }
}

fn refused(doing: &str, ifname: &str, error: Refused) -> Error {
    Error::Kernel { doing: format!("{doing} {PROGRAM} on {ifname}"), source: error.0 }
}
