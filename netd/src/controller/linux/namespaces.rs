//! Namespaces that have lost their names, found again by the processes that live in them.

use std::path::Path;

use crate::{
    controller::Error,
    link::Links,
    model::Sandbox,
    netns::{self, Netns},
};

/// Mounts a sandbox's namespace at its name again, if a process lives in it. Returns whether one does.
///
/// It is the namespace that the kernel says the other end of the sandbox's veth is in: nothing that a sandbox can imitate.
///
/// # Errors
/// When the name cannot be mounted upon.
pub(super) async fn name_again(host: &Links, dir: &Path, sandbox: &Sandbox) -> Result<bool, Error> {
    let Some(number) = number(host, sandbox).await? else { return Ok(false) };
    for pid in netns::inhabitants().unwrap_or_default() {
        // It may have ended by now.
        let Ok(netns) = Netns::of_pid(pid) else { continue };
        if host.number_of(&netns).await? == Some(number) {
            netns.name_again(&sandbox.name, dir)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the kernel's number for the namespace that the sandbox's interfaces lead to. None, as after a reboot: there are no interfaces.
async fn number(host: &Links, sandbox: &Sandbox) -> Result<Option<i32>, Error> {
    for endpoint in &sandbox.endpoints {
        let side = host.link(&endpoint.host_ifname).await?;
        if let Some(number) = side.and_then(|side| side.lower_netns) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}
