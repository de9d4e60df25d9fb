//! `netd version`: this binary, the eBPF object in it, and the daemon if one answers.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{
    Outcome,
    output::{FormatOption, facts},
};
use crate::{
    api::{Client, OBJECT_SHA256, dto},
    kernel_release,
};

/// Versions of this program, its eBPF object, the kernel and the daemon
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd version
  netd version --format '{{.Client.ObjectSHA256}}'")]
pub(super) struct Version {
    #[command(flatten)]
    format: FormatOption,
}

/// Both ends, as `docker version` shows them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Versions {
    client: BTreeMap<&'static str, String>,
    server: Option<dto::Version>,
}

impl Versions {
    /// Returns this program's, and the daemon's if it answers.
    pub(super) fn of(server: Option<dto::Version>) -> Self {
        let client = [
            ("Version", env!("CARGO_PKG_VERSION").to_owned()),
            ("ObjectSHA256", OBJECT_SHA256.to_owned()),
            ("KernelVersion", kernel_release::text()),
            ("Arch", std::env::consts::ARCH.to_owned()),
        ];
        Self { client: client.into(), server }
    }
}

impl Version {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let server = client.version().await;
        let versions = Versions::of(server.as_ref().ok().cloned());
        let daemon = match &server {
            Ok(server) if server.object_sha256 == OBJECT_SHA256 => {
                format!("{}, the same object", server.version)
            }
            Ok(server) => format!("{}, object {}", server.version, server.object_sha256),
            Err(error) => error.to_string(),
        };
        self.format.print_one(&versions, || {
            facts(&[
                ("netd", env!("CARGO_PKG_VERSION").to_owned()),
                ("eBPF object", format!("sha256:{OBJECT_SHA256}")),
                ("Kernel", kernel_release::text()),
                ("Daemon", daemon),
            ])
        })?;
        Ok(0)
    }
}
