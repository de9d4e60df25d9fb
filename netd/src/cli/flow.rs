//! `netd flow` and `netd drops`: the connection table, and what was dropped.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    Outcome, arguments,
    failure::{Doing, Failure},
    output::{FormatOption, print, table},
    place,
};
use crate::{
    api::{Client, ClientError, Filters, dto, flow_filter},
    config::{Flags, Settings},
    controller::{Code, Error},
    dataplane::{FlowInfo, Pinned},
};

const FILTERS: &[&str] = &["sandbox", "network", "proto", "port"];

/// Look at and empty the connection table
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
EXAMPLES:
  netd flow ls
  netd flow ls --filter sandbox=web --filter proto=tcp
  netd flow flush --filter sandbox=web"
)]
pub(super) struct Flow {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(visible_alias = "list")]
    Ls(Ls),
    Flush(Flush),
}

/// List live connections with their translation
#[derive(Debug, Args)]
#[command(after_help = "\
FILTERS: sandbox, network, proto (tcp, udp, icmp, icmpv6 or a number), port (any of the flow's)

EXAMPLES:
  netd flow ls
  netd flow ls --filter network=app --filter port=443
  netd flow ls --format '{{.Protocol}} {{.Source}}:{{.SourcePort}} {{.State}}'
  netd flow ls --format jsonl
  netd flow ls --offline --filter port=443       while no daemon runs")]
struct Ls {
    #[command(flatten)]
    format: FormatOption,
    #[command(flatten)]
    offline: Offline,
    /// Print only what matches (repeat: every key must match)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// End connections: their next packet is treated as a new one; prints how many
#[derive(Debug, Args)]
#[command(after_help = "\
Without a filter every connection ends.
FILTERS: sandbox, network, proto (tcp, udp, icmp, icmpv6 or a number), port (any of the flow's)

EXAMPLES:
  netd flow flush --filter sandbox=web
  netd flow flush --filter proto=udp --filter port=53")]
struct Flush {
    /// End only what matches (repeat: every key must match)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Packets dropped, by reason
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd drops                                     reasons that have counted something
  netd drops --all
  netd drops --format json
  netd drops --offline                           while no daemon runs")]
pub(super) struct Drops {
    #[command(flatten)]
    format: FormatOption,
    #[command(flatten)]
    offline: Offline,
    /// Show reasons without packets too (JSON always has them all)
    #[arg(short, long)]
    all: bool,
}

/// Reading the pinned maps instead of asking the daemon.
#[derive(Debug, Args)]
struct Offline {
    /// Read the pinned maps, as root, without a daemon
    #[arg(long)]
    offline: bool,
    /// With --offline: where the instance's maps are pinned [default: as configured, else /sys/fs/bpf/netd]
    #[arg(long, value_name = "DIR", requires = "offline", value_parser = arguments::absolute_path)]
    bpffs: Option<PathBuf>,
}

impl Offline {
    /// Finds the pins.
    fn pinned(&self, doing: &str) -> Result<Pinned, Failure> {
        place::root(doing)?;
        let bpffs = if let Some(bpffs) = &self.bpffs {
            bpffs.clone()
        } else {
            let settings = Settings::load(&Flags::default());
            settings.map_err(|error| Failure::configuration(doing, &error))?.bpffs
        };
        let found = Pinned::find(&bpffs).map_err(|error| refused(doing, error))?;
        found.ok_or_else(|| {
            let text = format!("{doing}: no maps are pinned in {}", bpffs.display());
            Failure::new(Code::NotFound, text).hint("name the directory that the daemon had: --bpffs")
        })
    }
}

fn refused(doing: &str, error: crate::dataplane::Error) -> Failure {
    let failure = Failure::from(Error::from(error));
    Failure { message: format!("{doing}: {}", failure.message), ..failure }
}

/// Says what helps while no daemon runs.
fn online<T>(answer: Result<T, ClientError>, doing: &str, offline: &str) -> Result<T, Failure> {
    let is_away = matches!(answer, Err(ClientError::Unreachable { .. }));
    let hint = format!("`{offline}` reads the maps without a daemon; `netd daemon` starts one");
    answer.doing(doing).map_err(|failure| if is_away { failure.hint(hint) } else { failure })
}

impl Flow {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        match self.verb {
            Verb::Ls(command) => command.run(client).await,
            Verb::Flush(command) => command.run(client).await,
        }
    }
}

/// Reads filters, each key once: a flow has one protocol, and a selection one sandbox.
fn query(filters: &Filters) -> Result<Vec<(&str, &str)>, Failure> {
    let mut query = Vec::new();
    for key in FILTERS {
        if let Some(value) = filters.single(key)? {
            query.push((*key, value));
        }
    }
    Ok(query)
}

impl Ls {
    async fn run(self, client: &Client) -> Outcome {
        let filters = Filters::from_options(&self.filter, FILTERS)?;
        let (query, doing) = (query(&filters)?, "list flows");
        let flows = if self.offline.offline {
            let filter = flow_filter(&query).map_err(Failure::from)?;
            self.offline.pinned(doing)?.flows(&filter).map_err(|error| refused(doing, error))?
        } else {
            online(client.flows(&query).await, doing, "netd flow ls --offline")?
        };
        if self.format.is_for_scripts() {
            self.format.print(&flows)?;
        } else {
            let columns = ["PROTO", "STATE", "SOURCE", "DESTINATION", "TRANSLATED", "IDLE", "EXPIRES"];
            print(&table(&columns, flows.iter().map(row)))?;
        }
        Ok(0)
    }
}

fn row(flow: &FlowInfo) -> [String; 7] {
    let at = |ip, port| std::net::SocketAddr::new(ip, port).to_string();
    let (source, destination) =
        (at(flow.source, flow.source_port), at(flow.destination, flow.destination_port));
    let translated_source = at(flow.translated_source, flow.translated_source_port);
    let translated_destination = at(flow.translated_destination, flow.translated_destination_port);
    let mut translated = Vec::new();
    if translated_source != source {
        translated.push(format!("from {translated_source}"));
    }
    if translated_destination != destination {
        translated.push(format!("to {translated_destination}"));
    }
    [
        flow.protocol.clone(),
        flow.state.clone(),
        source,
        destination,
        translated.join(" "),
        format!("{:.0}s", flow.idle_seconds),
        format!("{:.0}s", flow.expires_seconds),
    ]
}

impl Flush {
    async fn run(self, client: &Client) -> Outcome {
        let filters = Filters::from_options(&self.filter, FILTERS)?;
        let flushed = client.flush_flows(&query(&filters)?).await.doing("flush flows")?.flushed;
        print(&format!("{flushed}\n"))?;
        Ok(0)
    }
}

impl Drops {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let doing = "list drops";
        let drops = if self.offline.offline {
            let drops = self.offline.pinned(doing)?.drops().map_err(|error| refused(doing, error))?;
            let drop = |(reason, packets): (&str, u64)| dto::Drop { reason: reason.to_owned(), packets };
            drops.into_iter().map(drop).collect()
        } else {
            online(client.drops().await, doing, "netd drops --offline")?
        };
        if self.format.is_for_scripts() {
            self.format.print(&drops)?;
        } else {
            let shown = drops.iter().filter(|drop| self.all || drop.packets > 0);
            print(&table(&["REASON", "PACKETS"], shown.map(|d| [d.reason.clone(), d.packets.to_string()])))?;
        }
        Ok(0)
    }
}
