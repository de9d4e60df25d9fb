//! Many links are deleted in a few batches: each batch waits for the kernel's grace periods as if it were one link.

use std::collections::BTreeSet;

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

use super::{Error, HostLink, Links, Mode, device::indexed, error::gone_is_success};
use crate::pulse;

/// Links of one batch: while it is deleted, nobody on the host changes a link.
const BATCH: usize = 64;

impl Links {
    /// Deletes links, and of pairs their peers. What is gone is success.
    ///
    /// The kernel deletes a group of links at once. They are put into one for it, by an arbitrary number that no link has.
    ///
    /// # Errors
    /// When a batch is refused, or a link does not take the group.
    pub async fn delete_links(&self, links: &[&HostLink]) -> Result<(), Error> {
        if links.is_empty() {
            return Ok(());
        }
        let group = self.unused_group().await?;
        for batch in links.chunks(BATCH) {
            pulse::beat();
            for link in batch {
                let mut message = indexed(link.ifindex);
                message.attributes.push(LinkAttribute::Group(group));
                let doing = format!("put {} into group {group}", link.name);
                gone_is_success(self.change_link(&doing, message).await)?;
            }
            let mut all = LinkMessage::default();
            all.attributes.push(LinkAttribute::Group(group));
            let doing = format!("delete the {} links of group {group}", batch.len());
            let message = RouteNetlinkMessage::DelLink(all);
            gone_is_success(self.socket.send(&doing, Mode::Change, message).await)?;
        }
        Ok(())
    }

    /// Returns the number of a group without links.
    async fn unused_group(&self) -> Result<u32, Error> {
        let used: BTreeSet<u32> = self.links().await?.iter().map(|link| link.group).collect();
        loop {
            let group =
                getrandom::u32().map_err(|error| Error::kernel("choose a group of links", error.into()))?;
            if group != 0 && !used.contains(&group) {
                return Ok(group);
            }
        }
    }
}
