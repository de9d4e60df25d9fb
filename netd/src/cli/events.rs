//! `netd events`: what happens, as it happens.

use clap::Args;

use super::{
    Outcome,
    failure::{Doing, Failure},
    output::{FormatOption, print},
};
use crate::{
    api::{Client, Filters, dto::EventMessage},
    template::Format,
};

const FILTERS: &[&str] = &["container", "event", "network", "scope", "type"];

/// Follow what happens to networks and sandboxes
#[derive(Debug, Args)]
#[command(after_help = "\
FILTERS: type (network, container or policy), event (create, connect, ...), network, container

EXAMPLES:
  netd events
  netd events --filter type=network --filter event=connect
  netd events --format jsonl --until $(date -d '10 minutes' +%s)   follow for ten minutes")]
pub(super) struct Events {
    #[command(flatten)]
    format: FormatOption,
    /// End at this time: RFC 3339, or seconds since the epoch (an age such as 10m lies in the past)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Print only what matches (repeat: every key must match)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

impl Events {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let filters = Filters::from_options(&self.filter, FILTERS)?.to_json();
        let mut query = vec![("filters", filters.as_str())];
        query.extend(self.until.as_deref().map(|until| ("until", until)));
        let mut printed = Ok(());
        let followed = client
            .events(&query, |event| {
                printed = self.print(&event);
                printed.is_ok()
            })
            .await;
        printed?;
        followed.doing("follow events")?;
        match self.until {
            Some(_) => Ok(0),
            None => Err(Failure::unreachable("follow events: the daemon has stopped")),
        }
    }

    fn print(&self, event: &EventMessage) -> Result<(), Failure> {
        match &self.format.format {
            None | Some(Format::Table) => print(&line(event)),
            // An endless stream has no closing bracket: an object a line.
            Some(Format::Json) => {
                FormatOption { format: Some(Format::Jsonl) }.print(std::slice::from_ref(event))
            }
            Some(_) => self.format.print(std::slice::from_ref(event)),
        }
    }
}

/// Returns an event as docker prints it.
fn line(event: &EventMessage) -> String {
    let time = jiff::Timestamp::from_nanosecond(event.time_nano.into());
    let time = time.map_or_else(|_| event.time_nano.to_string(), |time| time.to_string());
    let attributes: Vec<String> =
        event.actor.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{time} {} {} {} ({})\n", event.kind, event.action, event.actor.id, attributes.join(", "))
}
