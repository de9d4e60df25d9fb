//! `netd status`: what the daemon says of itself.

use clap::Args;

use super::{
    Outcome,
    failure::Doing,
    output::{FormatOption, facts},
};
use crate::{
    api::Client,
    controller::{self, FlowShare},
};

/// The daemon's state in a few lines
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd status
  netd status --format json
  netd status --format '{{.State}}'")]
pub(super) struct Status {
    #[command(flatten)]
    format: FormatOption,
}

impl Status {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let status = client.status().await.doing("ask for the daemon's state")?;
        self.format.print_one(&status, || text(&status))?;
        Ok(0)
    }
}

fn text(status: &controller::Status) -> String {
    let addresses: Vec<String> = status.local_addresses.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        ("State", status.state.clone()),
        ("Instance", status.instance.clone()),
        ("Networks", status.networks.to_string()),
        ("Sandboxes", status.sandboxes.to_string()),
        ("Published ports", status.published_ports.to_string()),
        ("Uplinks", listed(&status.uplinks)),
        ("Host addresses", listed(&addresses)),
    ];
    for table in &status.flows.tables {
        let used = format!("{} of {} entries, {} reclaimed", table.entries, table.capacity, table.reclaimed);
        lines.push((table.map.as_str(), used));
    }
    let refused = status.flows.refused.iter().map(|(reason, packets)| format!("{packets} {reason}"));
    lines.push(("Refused for room", refused.collect::<Vec<_>>().join(", ")));
    if let Some(first) = status.fullest.first() {
        let FlowShare { sandbox, network, entries } = first;
        lines.push(("Most flows", format!("{sandbox} on {network}, {entries} entries")));
    }
    if status.audit.lost > 0 {
        lines.push(("Lost for the audit log", format!("{} records", status.audit.lost)));
    }
    lines.extend(status.features.iter().map(|(key, value)| (key.as_str(), value.clone())));
    facts(&lines)
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
