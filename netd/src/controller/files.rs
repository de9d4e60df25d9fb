//! The files of each sandbox, rendered from the world and the host's own files.

use super::{World, object::Files};
use crate::model::{Sandbox, SandboxMode};

/// Renders `/etc/hosts` and `/etc/resolv.conf`.
#[derive(Debug, Clone, Default)]
pub struct Renderer {}

impl Renderer {
    /// Returns the files of a sandbox; None: it uses another's.
    pub fn render(&self, _world: &World, sandbox: &Sandbox) -> Option<Files> {
        match sandbox.mode {
            SandboxMode::Sandbox(_) => None,
            SandboxMode::Host | SandboxMode::Endpoints | SandboxMode::None => {
                Some(Files { sandbox: sandbox.id.clone(), hosts: String::new(), resolv: String::new() })
            }
        }
    }
}
