//! The operation in flight, with everything needed to finish or to undo it.

use serde::{Deserialize, Serialize};

use crate::model::{Network, Sandbox};

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
