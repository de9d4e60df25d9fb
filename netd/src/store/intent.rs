//! The operation in flight, with everything needed to finish or to undo it.

use serde::{Deserialize, Serialize};

use crate::model::{Finished, Network, Sandbox};

/// What is about to be done, with every value already chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", content = "object", rename_all = "snake_case")]
pub enum Intent {
    /// `network create`.
    CreateNetwork(Box<Network>),
    /// `network rm`.
    RemoveNetwork(Box<Network>),
    /// `policy add`, `policy rm`.
    UpdateNetwork {
        /// As it is stored.
        before: Box<Network>,
        /// As it is going to be.
        after: Box<Network>,
    },
    /// `sandbox create`, `run`.
    CreateSandbox(Box<Sandbox>),
    /// `network connect`, `network disconnect`, `publish`, `unpublish`.
    UpdateSandbox {
        /// As it is stored.
        before: Box<Sandbox>,
        /// As it is going to be.
        after: Box<Sandbox>,
    },
    /// `sandbox rm`.
    RemoveSandbox(Box<Sandbox>),
}

/// An intent, and what its caller is going to be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    pub intent: Intent,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Finished>,
}

impl Intent {
    /// Whether these objects are as they are when it is done.
    pub(super) fn is_done(&self, networks: &[Network], sandboxes: &[Sandbox]) -> bool {
        match self {
            Self::CreateNetwork(network) => networks.iter().any(|other| other.id == network.id),
            Self::RemoveNetwork(network) => networks.iter().all(|other| other.id != network.id),
            Self::UpdateNetwork { after, .. } => networks.contains(after),
            Self::CreateSandbox(sandbox) => sandboxes.iter().any(|other| other.id == sandbox.id),
            Self::RemoveSandbox(sandbox) => sandboxes.iter().all(|other| other.id != sandbox.id),
            Self::UpdateSandbox { after, .. } => sandboxes.contains(after),
        }
    }
}
