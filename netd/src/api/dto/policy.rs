//! Policies of networks, netd's own: who may talk to whom where sandboxes may not talk otherwise.

use serde::{Deserialize, Serialize};

use crate::{
    controller::{CreatePolicy, World, policy_holds},
    model::{Name, Network, Policy, parse_expose},
};

/// A policy: an element of `GET /netd/v1/policies`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PolicyResource {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Name of its network.
    pub network: String,
    /// Id of its network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Name of the sandbox that may open connections; empty: every one on the network.
    pub from: String,
    /// Name of the sandbox that they go to.
    pub to: String,
    /// The ports there, as `5432/tcp`; empty: everything.
    pub ports: Vec<String>,
    /// `active`, or `waiting` for a sandbox of these names on the network.
    pub state: String,
}

/// The body of `POST /netd/v1/policies`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct PolicyCreateRequest {
    /// Name, id or id prefix of the network.
    pub network: String,
    /// Who may open connections: name, id or id prefix of a sandbox, or the name of one that may come; every one where it is missing or empty.
    #[serde(default)]
    pub from: String,
    /// To whom, in the same way.
    pub to: String,
    /// Ports there: `5432`, `53/udp`, `8000-8010/tcp`; none: everything.
    #[serde(default)]
    pub ports: Vec<String>,
}

/// The answer of `POST /netd/v1/policies`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PolicyCreated {
    /// Id of the new policy.
    pub id: String,
}

impl PolicyResource {
    /// Shows a policy of a network in a world.
    pub(in crate::api) fn new(world: &World, network: &Network, policy: &Policy) -> Self {
        let state = if policy_holds(world, network, policy) { "active" } else { "waiting" };
        Self {
            id: policy.id.to_string(),
            created: policy.created.clone(),
            network: network.name.to_string(),
            network_id: network.id.to_string(),
            from: policy.from.as_ref().map(Name::to_string).unwrap_or_default(),
            to: policy.to.to_string(),
            ports: policy.ports_text(),
            state: state.to_owned(),
        }
    }
}

impl PolicyCreateRequest {
    /// Parses the ports.
    ///
    /// # Errors
    /// What is no port, range or protocol.
    pub(in crate::api) fn parse(self) -> Result<CreatePolicy, String> {
        let ports = self.ports.iter().map(|text| parse_expose(text)).collect::<Result<Vec<_>, _>>();
        let ports = ports.map_err(|why| why.to_string())?.into_iter().flatten().collect();
        let from = Some(self.from).filter(|from| !from.is_empty());
        Ok(CreatePolicy { network: self.network, from, to: self.to, ports })
    }
}
