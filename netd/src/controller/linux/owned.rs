//! What carries an instance's label: listed, and removed where it belongs to nothing.

use std::{collections::HashMap, io, path::Path};

use super::{Linux, facts, files::remove_dir};
use crate::{
    controller::{
        Code, Error,
        apply::{Machine as _, Owned},
    },
    link::{Links, Neighbour, label},
    model::IfName,
    netns,
};

impl Linux {
    pub(super) async fn list_owned(&mut self) -> Result<Vec<Owned>, Error> {
        let mut owned = facts::owned_links(&self.every_link().await?, &self.instance);
        let files =
            facts::owned_files(&self.netns_dir, &self.sandboxes_dir).map_err(|error| listing(&error))?;
        owned.extend(files);
        let bridges: HashMap<u32, IfName> = owned
            .iter()
            .filter_map(|owned| match owned {
                Owned::Bridge { ifname, .. } => Some((*self.indexes.get(ifname)?, ifname.clone())),
                _ => None,
            })
            .collect();
        for Neighbour { ifindex, ip, .. } in self.links.permanent_neighbours().await? {
            let bridge = bridges.get(&ifindex).cloned();
            owned.extend(bridge.map(|bridge| Owned::Neighbour { bridge, ifindex, ip }));
        }
        Ok(owned)
    }

    pub(super) async fn remove_stray(&mut self, orphan: &Owned) -> Result<(), Error> {
        match orphan {
            Owned::Bridge { ifname, network } => {
                self.indexes.remove(ifname);
                let ours = label(&self.instance, "network", network.as_str());
                self.remove_labelled(ifname, &ours).await.map(drop)
            }
            Owned::Veth { ifname, endpoint } => {
                self.indexes.remove(ifname);
                let ours = label(&self.instance, "endpoint", endpoint.as_str());
                let Some(index) = self.remove_labelled(ifname, &ours).await? else { return Ok(()) };
                Ok(self.dataplane(|dataplane| dataplane.detach_endpoint(index))?)
            }
            Owned::Netns(name) => Ok(netns::Netns::remove(name, &self.netns_dir)?),
            Owned::Files(sandbox) => self.remove_files(sandbox),
            Owned::Neighbour { ifindex, ip, .. } => Ok(self.links.remove_neighbour(*ifindex, *ip).await?),
        }
    }

    /// Removes the link of this name if it carries this label, and returns its index.
    pub(super) async fn remove_labelled(
        &mut self,
        ifname: &IfName,
        label: &str,
    ) -> Result<Option<u32>, Error> {
        let present = self.links.link(ifname).await?;
        let Some(ours) = present.filter(|link| link.alias.as_deref() == Some(label)) else { return Ok(None) };
        self.listing.note_changed(ours.ifindex);
        self.links.delete_link(ifname).await?;
        Ok(Some(ours.ifindex))
    }
}

/// Removes every link, namespace and file of an instance by its label, without any state: endpoints before bridges.
///
/// # Errors
/// The first failure, when all the rest has been tried.
pub async fn remove_owned(links: &Links, instance: &str, run_dir: &Path) -> Result<(), Error> {
    let (netns_dir, sandboxes_dir) = (run_dir.join("netns"), run_dir.join("sandboxes"));
    let mut owned = facts::owned_links(&links.links().await?, instance);
    owned.sort_by_key(|owned| matches!(owned, Owned::Bridge { .. }));
    owned.extend(facts::owned_files(&netns_dir, &sandboxes_dir).map_err(|error| listing(&error))?);
    let mut failures = Vec::new();
    for object in owned {
        let result = match &object {
            Owned::Bridge { ifname, .. } | Owned::Veth { ifname, .. } => {
                links.delete_link(ifname).await.map_err(Error::from)
            }
            Owned::Netns(name) => netns::Netns::remove(name, &netns_dir).map_err(Error::from),
            Owned::Files(sandbox) => remove_dir(&sandboxes_dir.join(sandbox.as_str())),
            // They go with their bridge.
            Owned::Neighbour { .. } => Ok(()),
        };
        failures.extend(result.err());
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}

pub(super) fn listing(error: &io::Error) -> Error {
    Error::new(Code::Failure, format!("list the run directory: {error}"))
}
