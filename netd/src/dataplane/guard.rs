//! The guard of uplinks, by XDP: what the operator has listed never reaches the host (`[guard]`).
//!
//! A device has one XDP program. Where another's is, or the driver has no native XDP, netd says so and serves on without a guard there: generic XDP
//! would cost what the guard is to save.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::programs::{XdpMode, links::FdLink};
use ipnet::IpNet;

use super::{Error, attach, programs::Programs};
use crate::model::IfName;

/// The program's name.
pub const PROGRAM: &str = "guard";

/// What the operator wants guarded, and against whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// Uplinks with a guard; none: there is no guard.
    pub interfaces: Vec<IfName>,
    /// Sources whose frames are dropped.
    pub deny: Vec<IpNet>,
    /// Connections a second that one source may open: an IPv4 address, or the first 64 bits of an IPv6 address. 0: any number.
    pub connections_per_second: u32,
}

impl Guard {
    /// Whether an interface is to have a guard.
    pub fn includes(&self, ifname: &str) -> bool {
        self.interfaces.iter().any(|name| name.as_str() == ifname)
    }
}

/// Puts the guard on an interface, or gives the one that is there the program of this netd.
///
/// # Errors
/// Names the interface, and why there is no guard.
pub fn attach(programs: &mut Programs, links: &Path, ifname: &str, ifindex: u32) -> Result<(), Error> {
    let path = attach::pin(links, ifindex, PROGRAM);
    if is_attached(links, ifindex) && attach::replace(programs, &path, PROGRAM)? {
        return Ok(());
    }
    attach::unpin(&path)?; // what somebody has detached
    let refused = |source: Box<dyn std::error::Error + Send + Sync>| Error::Kernel {
        doing: format!("guard {ifname}{}", hint(&*source)),
        source,
    };
    let program = programs.guard()?;
    let attached = program.attach_to_if_index(ifindex, XdpMode::Driver);
    let link = attached.and_then(|id| program.take_link(id)).map_err(|error| refused(error.into()))?;
    let link = FdLink::try_from(link).map_err(|error| refused(error.into()))?;
    link.pin(&path).map(drop).map_err(|error| refused(error.into()))
}

/// Returns what a refusal means to who has to mend it.
fn hint(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut source = Some(error);
    while let Some(error) = source {
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            Some(libc::EBUSY) => return " (another XDP program is on it)",
            Some(libc::EOPNOTSUPP) => return " (its driver has no native XDP)",
            _ => source = error.source(),
        }
    }
    ""
}

/// Whether an interface has netd's guard.
pub fn is_attached(links: &Path, ifindex: u32) -> bool {
    attach::is_linked(&attach::pin(links, ifindex, PROGRAM))
}

/// Takes the guard off an interface, which may be gone or have none.
///
/// # Errors
/// Names the pin that stays.
pub fn detach(links: &Path, ifindex: u32) -> Result<(), Error> {
    let path = attach::pin(links, ifindex, PROGRAM);
    if path.exists() { attach::unpin(&path) } else { Ok(()) }
}

/// Takes guards off the interfaces that are not to have one any more, or are gone.
///
/// # Errors
/// Names the pin that stays.
pub fn keep_only(links: &Path, guard: &Guard) -> Result<(), Error> {
    let unwanted = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('-'));
        let Some((index, PROGRAM)) = name else { return false };
        let ifname = nix::net::if_::if_indextoname(index.parse().unwrap_or(0));
        !ifname.is_ok_and(|ifname| guard.includes(&ifname.to_string_lossy()))
    };
    let all = fs::read_dir(links).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(unwanted).try_for_each(|path| attach::unpin(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_stands_in_the_way() {
        let refused = |code| hint(&std::io::Error::from_raw_os_error(code));
        assert!(refused(libc::EBUSY).contains("another XDP program"));
        assert!(refused(libc::EOPNOTSUPP).contains("no native XDP"));
        assert_eq!(refused(libc::EPERM), "");
    }
}
