//! `netd metrics`: numbers for monitoring.

use clap::Args;

use super::{Outcome, failure::Doing, output::print};
use crate::api::Client;

/// Print numbers for monitoring, as `OpenMetrics` text
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd metrics
  netd metrics > /var/lib/node_exporter/netd.prom
  curl --unix-socket /run/netd/netd.sock http://netd/netd/v1/metrics")]
pub(super) struct Metrics {}

impl Metrics {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        print(&client.metrics().await.doing("ask for metrics")?)?;
        Ok(0)
    }
}
