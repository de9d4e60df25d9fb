//! `netd down` where no daemon runs: everything with this instance's label goes, with or without a stored state.

use std::collections::BTreeSet;

use super::{RESERVED_PORTS, directories, own_reserved_ports};
use crate::{
    config::Settings,
    controller::{Code, Error, PROXY_NDP, end_command, foreign_netns, remove_owned, remove_source_routes},
    dataplane,
    link::Links,
    model::Driver,
    store::{Intent, Store},
    sysctl::{self, ReservedPorts},
};

/// Removes everything that this instance put into the kernel, then its state. A second call finishes an interrupted one.
///
/// # Errors
/// A daemon runs (it is to be asked then), or something could not be removed; the state stays for another attempt.
pub async fn down(settings: Settings) -> Result<(), Error> {
    directories::is_alone(&settings)?;
    directories::prepare(&settings)?;
    let mut store = directories::open_store(&settings)?;
    let links = Links::open().await?;
    let loaded = store.load()?;
    loaded.sandboxes.iter().try_for_each(|sandbox| end_command(links.netns(), sandbox))?;
    // Endpoints first, uplinks last (reliability 6.5).
    let broken_off = match &loaded.journal {
        Some(Intent::CreateSandbox(sandbox) | Intent::RemoveSandbox(sandbox)) => Some(&**sandbox),
        _ => None,
    };
    for netns in loaded.sandboxes.iter().chain(broken_off).filter_map(foreign_netns) {
        remove_source_routes(netns).await?;
    }
    remove_owned(&links, settings.instance.as_str(), &settings.run_dir).await?;
    for network in loaded.networks.iter().filter(|network| network.driver == Driver::Bridge) {
        links.release_bridge(&network.bridge.ifname).await?;
    }
    links.ensure_proxies(&BTreeSet::new(), settings.instance.as_str()).await?;
    if let Some(before) = store.meta().sysctls.get(PROXY_NDP) {
        sysctl::write(links.netns(), vec![(PROXY_NDP.into(), before.clone())]).await?;
    }
    let known = own_reserved_ports(&settings, &links).await?;
    dataplane::remove_pins(&settings.bpffs)?;
    links.remove_idle_clsacts().await?;
    let original = store.meta().sysctls.get(RESERVED_PORTS).and_then(|text| ReservedPorts::parse(text));
    // Without state and without pins, nothing says that this instance ever ran.
    if original.is_some() || !known.is_empty() {
        let bindings = loaded.sandboxes.iter().flat_map(|sandbox| &sandbox.bindings);
        let mut ours: Vec<(u16, u16)> = bindings
            .filter(|binding| binding.takes_host_port())
            .map(|binding| (binding.host_port, binding.host_port))
            .collect();
        ours.extend(&settings.nat_port_ranges);
        ours.extend(known);
        let present = ReservedPorts::read(links.netns()).await?;
        present.without(&ours, &original.unwrap_or_default()).write(links.netns()).await?;
    }
    erase(&settings, store)
}

/// Removes the state and run directories, when the kernel holds nothing any more.
pub(super) fn erase(settings: &Settings, store: Store) -> Result<(), Error> {
    store.wipe()?;
    directories::erase(settings).map_err(|error| {
        Error::new(Code::Failure, format!("remove {}: {error}", settings.run_dir.display()))
    })?;
    tracing::info!("nothing of netd is left");
    Ok(())
}
