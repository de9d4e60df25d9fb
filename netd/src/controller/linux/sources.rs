//! Default routes by source address inside a sandbox.

use super::Linux;
use crate::{
    controller::{Code, Error, sources::SourceRoutes},
    link::{Links, SourceRoute},
    model::Netns,
    netns,
};

impl Linux {
    pub(super) async fn put_source_routes(&mut self, wanted: &SourceRoutes) -> Result<(), Error> {
        let links = self.enter(&wanted.netns).await?;
        let mut routes = Vec::new();
        for route in &wanted.routes {
            let gone =
                || Error::new(Code::Failure, format!("interface {} has gone from its sandbox", route.ifname));
            let ifindex = links.link(&route.ifname).await?.ok_or_else(gone)?.ifindex;
            routes.push(SourceRoute { source: route.source, ifindex, gateway: route.gateway });
        }
        Ok(links.ensure_source_routes(&routes).await?)
    }
}

/// Removes netd's default routes by source address from a namespace. One that is gone has none.
///
/// # Errors
/// It cannot be told what there is, or it cannot be removed.
pub async fn remove_source_routes(netns: &Netns) -> Result<(), Error> {
    let opened = match netns::Netns::open_path(&netns.path) {
        Err(error) if error.is_shortage() => return Err(error.into()),
        Err(_) => return Ok(()),
        Ok(opened) => opened,
    };
    if netns.inode != 0 && opened.inode()? != netns.inode {
        return Ok(());
    }
    Ok(Links::open_in(&opened).await?.ensure_source_routes(&[]).await?)
}
