//! Removes many networks: their bridges in groups, and then each as an operation of its own.

use std::sync::Arc;

use super::{
    Error, NetworkSelector, World,
    apply::{self, Machine},
    object::Object,
    plan::{self, Step},
    task::Controller,
};
use crate::model::{Answer, Name, Network};

/// Networks that go together: others wait for as long, some 30 ms each.
const TOGETHER: usize = 64;

impl<M: Machine> Controller<M> {
    /// Removes the selected ones of all user-defined networks without endpoints; returns their names.
    ///
    /// # Errors
    /// The first failure. What was removed before stays removed, and all others are as they were.
    pub(super) async fn prune_networks(&mut self, select: NetworkSelector) -> Result<Vec<Name>, Error> {
        let unused: Vec<Arc<Network>> = self
            .world
            .networks()
            .filter(|network| !network.is_predefined() && select(network))
            .filter(|network| self.world.endpoints_on(&network.id).next().is_none())
            .cloned()
            .collect();
        let names: Vec<Name> = unused.iter().map(|network| network.name.clone()).collect();
        for group in unused.chunks(TOGETHER) {
            let is_last = group.last().is_some_and(|last| unused.last().is_some_and(|end| end.id == last.id));
            let answer = is_last.then(|| Answer::Networks(names.clone()));
            let result = self.forget_networks(group, answer).await;
            self.sync_host().await;
            result?;
        }
        Ok(names)
    }

    /// Removes networks without endpoints. Their bridges go first: alone each waits for grace periods of the kernel. Should this be broken off, the next
    /// start makes those again whose networks are still stored.
    async fn forget_networks(
        &mut self,
        networks: &[Arc<Network>],
        mut answer: Option<Answer>,
    ) -> Result<(), Error> {
        let mut without = World::clone(&self.world);
        for network in networks {
            without.remove_network(&network.id);
        }
        let steps = plan::diff(&self.world, &without, &self.renderer);
        self.remove_links(&steps).await;
        for (index, network) in networks.iter().enumerate() {
            let answer = if index + 1 == networks.len() { answer.take() } else { None };
            if let Err(error) = self.forget_network(network, answer).await {
                let left = plan::diff(&self.world, &without, &self.renderer);
                apply::undo(&mut self.machine, &left).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Removes the links that steps remove one by one, endpoints before bridges; what fails is left to the steps.
    pub(super) async fn remove_links(&mut self, steps: &[Step]) {
        for is_wanted in [Object::is_veth, Object::is_bridge] {
            let links: Vec<&Object> =
                steps.iter().filter_map(Step::removed).filter(|object| is_wanted(object)).collect();
            if links.len() > 1
                && let Err(error) = self.machine.remove_together(&links).await
            {
                tracing::warn!(%error, "links are removed one by one");
            }
        }
    }
}
