//! Policies of networks: made, found and removed. What they open is in `access`.

use std::sync::Arc;

use super::{Code, CreatePolicy, Error, World, apply::Machine, operations::event, task::Controller};
use crate::{
    model::{Answer, Driver, Id, Name, Network, Policy},
    store::Intent,
};

/// Most ports of one policy: more are better said by none, which means everything.
const MAX_PORTS: usize = 1024;

impl World {
    /// Finds a policy by its id or a unique prefix of it, with its network.
    ///
    /// # Errors
    /// `policy X not found`, or that the prefix is ambiguous.
    pub fn policy(&self, word: &str) -> Result<(&Arc<Network>, &Policy), Error> {
        let all = self.networks().flat_map(|network| network.policies.iter().map(move |one| (network, one)));
        let mut found = all.filter(|(_, policy)| !word.is_empty() && policy.id.as_str().starts_with(word));
        match (found.next(), found.count()) {
            (Some(policy), 0) => Ok(policy),
            (None, _) => Err(Error::new(Code::NotFound, format!("policy {word} not found"))),
            (Some(_), more) => {
                let text =
                    format!("policy {word} is ambiguous ({} matches found based on ID prefix)", more + 1);
                Err(Error::new(Code::Usage, text))
            }
        }
    }

    /// Returns the name that a user means: that of a sandbox there is, by name, id or id prefix, else one that may come.
    fn named(&self, word: &str) -> Result<Name, Error> {
        match self.sandbox(word) {
            Ok(sandbox) => Ok(sandbox.name.clone()),
            Err(error) if error.code == Code::NotFound => {
                word.parse().map_err(|why| Error::new(Code::Usage, format!("add policy: {why}")))
            }
            Err(error) => Err(error),
        }
    }
}

impl<M: Machine> Controller<M> {
    pub(super) async fn add_policy(&mut self, request: &CreatePolicy) -> Result<Policy, Error> {
        let network = Arc::clone(self.world.network(&request.network)?);
        let from = request.from.as_deref().map(|word| self.world.named(word)).transpose()?;
        let to = self.world.named(&request.to)?;
        check(&network, from.as_ref(), &to, request)?;
        let mut ports = request.ports.clone();
        ports.sort_unstable();
        ports.dedup();
        let id = Id::random().map_err(|error| Error::new(Code::Failure, format!("choose an id: {error}")))?;
        let policy = Policy { id, created: super::now(), from, to, ports };
        if let Some(same) = network.policies.iter().find(|other| other.says_as(&policy)) {
            let text = format!("add policy: network {} has it already, as {}", network.name, same.id.short());
            return Err(Error::new(Code::Conflict, text));
        }
        let mut after = Network::clone(&network);
        after.policies.push(policy.clone());
        self.update_network(&network, after, Answer::Policy(policy.id.clone())).await?;
        tracing::info!(network = %network.name, policy = policy.id.short(), "policy added: {policy}");
        self.tell(policy_event("create", &network, &policy));
        Ok(policy)
    }

    pub(super) async fn remove_policy(&mut self, word: &str) -> Result<(), Error> {
        let (network, policy) = self.world.policy(word)?;
        let (network, policy) = (Arc::clone(network), policy.clone());
        let mut after = Network::clone(&network);
        after.policies.retain(|other| other.id != policy.id);
        self.update_network(&network, after, Answer::Done).await?;
        tracing::info!(network = %network.name, policy = policy.id.short(), "policy removed: {policy}");
        self.tell(policy_event("destroy", &network, &policy));
        Ok(())
    }

    /// Changes one network.
    async fn update_network(
        &mut self,
        before: &Network,
        after: Network,
        answer: Answer,
    ) -> Result<(), Error> {
        let mut next = World::clone(&self.world);
        next.put_network(after.clone());
        let intent = Intent::UpdateNetwork { before: Box::new(before.clone()), after: Box::new(after) };
        self.change(next, &intent, Some(answer)).await
    }
}

/// Refuses what would say nothing.
fn check(network: &Network, from: Option<&Name>, to: &Name, request: &CreatePolicy) -> Result<(), Error> {
    let refused = |why: String| Err(Error::new(Code::Usage, format!("add policy: {why}")));
    if network.driver != Driver::Bridge {
        return refused(format!("network {} has no endpoints of its own", network.name));
    }
    if network.bridge.icc {
        let error =
            refused(format!("the sandboxes of network {} may talk to each other anyway", network.name));
        let hint = "policies are for networks made with -o com.docker.network.bridge.enable_icc=false";
        return error.map_err(|error: Error| error.hint(hint));
    }
    if from == Some(to) {
        return refused(format!("sandbox {to} reaches itself anyway"));
    }
    if request.ports.len() > MAX_PORTS {
        let error = refused(format!("{} ports, a policy has room for {MAX_PORTS}", request.ports.len()));
        return error.map_err(|error: Error| error.hint("without a port it opens everything"));
    }
    Ok(())
}

fn policy_event(action: &str, network: &Network, policy: &Policy) -> super::Event {
    let from = policy.from.as_ref().map(|from| ("from".to_owned(), from.to_string()));
    let attributes = [
        ("network".to_owned(), network.id.to_string()),
        ("to".to_owned(), policy.to.to_string()),
        ("ports".to_owned(), policy.ports_text().join(",")),
    ];
    event("policy", action, &policy.id, attributes.into_iter().chain(from))
}
