//! The program where a netkit's sandbox sends: a link on the pair, named by its host side, which the kernel's own tools and aya do not make.
//!
//! The pair drops what a sandbox sends while no program is there, so that nobody gains by detaching it.

use std::{os::fd::AsFd, path::Path};

use aya::programs::{ProgramInfo, loaded_programs};

use super::{Error, attach, programs::Programs, raw};

/// The program's name.
pub const PROGRAM: &str = "from_netkit";

/// Puts the program on a pair, by its host side, or replaces an earlier daemon's in place.
///
/// # Errors
/// Names the program and the interface.
pub fn attach(programs: &mut Programs, links: &Path, ifname: &str, ifindex: u32) -> Result<(), Error> {
    let path = attach::pin(links, ifindex, PROGRAM);
    if !path.exists() {
        adopt(&path, ifname, ifindex)?;
    }
    if attach::replace(programs, &path, PROGRAM)? {
        return Ok(());
    }
    let refused = |source| Error::kernel(format!("attach {PROGRAM} to {ifname}"), source);
    let link = raw::link_netkit(programs.fd(PROGRAM)?.as_fd(), ifindex).map_err(refused)?;
    pin(&link, &path)
}

/// Pins a link again that has lost its pin and is held by something else. Of a link alone nobody could say which pair it is on: it names the
/// interface inside the sandbox.
fn adopt(path: &Path, ifname: &str, ifindex: u32) -> Result<(), Error> {
    let refused = |source| Error::kernel(format!("list the programs of {ifname}"), source);
    for link in raw::netkit_links(ifindex).map_err(refused)? {
        let ours =
            |program: &ProgramInfo| program.id() == link.program && program.name_as_str() == Some(PROGRAM);
        if loaded_programs().flatten().any(|program| ours(&program)) {
            return pin(&link.fd, path);
        }
    }
    Ok(())
}

fn pin(link: &impl AsFd, path: &Path) -> Result<(), Error> {
    raw::pin(link.as_fd(), path).map_err(|source| Error::kernel(format!("pin {}", path.display()), source))
}
