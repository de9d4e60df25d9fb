//! `netd explain`: what would become of a packet, and why.

use std::net::IpAddr;

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{
    Outcome,
    failure::{Doing, Failure},
    output::{FormatOption, lines},
};
use crate::{
    api::Client,
    controller::Code,
    dataplane::{Explanation, Page, Step, page},
    model::Target,
};

/// The first word of `netd explain drop CODE`.
const DROP: &str = "drop";

/// Say what would become of a packet, and why; sends nothing and leaves no trace
#[derive(Debug, Args)]
#[command(after_help = "\
FROM and TO are sandboxes (name, id or beginning of the id), addresses, or `host`. Without a port the packet is an ICMP
echo request, with one a TCP SYN, or a datagram with /udp. The loaded programs decide it by the tables as they are now.
Where both families are possible it is IPv4, unless -6 is given.

Exit code 0: netd lets it through (what the host's stack or a listener then does is theirs). 1: it would be dropped.

EXAMPLES:
  netd explain web 10.0.0.5:443
  netd explain 203.0.113.7 host:8080             from outside, to a published port
  netd explain --via eth1 2001:db8::7 host:53/udp
  netd explain web db:5432
  netd explain web [2001:db8::1]:443/udp
  netd explain host web:80
  netd explain web 10.0.0.5                      an echo request
  netd explain drop 27                           what a drop reason means (or its name, NOT_ALLOWED)
  netd explain --format json web db:5432")]
pub(super) struct Explain {
    #[command(flatten)]
    format: FormatOption,
    /// By which uplink a packet from outside comes [default: the one that leads back to it]
    #[arg(long, value_name = "UPLINK")]
    via: Option<String>,
    /// The source address that the packet claims, instead of its sender's
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// Its source port, or echo id
    #[arg(long, value_name = "PORT", default_value_t = 50_000, value_parser = clap::value_parser!(u16).range(1..))]
    source_port: u16,
    /// Explain an IPv4 packet
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Explain an IPv6 packet
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Who sends it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    from: String,
    /// To whom
    #[arg(value_name = "TO[:PORT][/PROTO]", value_parser = NonEmptyStringValueParser::new())]
    to: String,
}

impl Explain {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        if self.from == DROP {
            return self.show_page();
        }
        let _: Target =
            self.to.parse().map_err(|why| Failure::usage(format!("invalid value {:?}: {why}", self.to)))?;
        let port = self.source_port.to_string();
        let mut query = vec![("from", self.from.as_str()), ("to", &self.to), ("source_port", &port)];
        query.extend(self.via.as_deref().map(|via| ("via", via)));
        let source = self.source.map(|ip| ip.to_string());
        query.extend(source.as_deref().map(|ip| ("source", ip)));
        match (self.ipv4, self.ipv6) {
            (true, _) => query.push(("family", "4")),
            (_, true) => query.push(("family", "6")),
            _ => {}
        }
        let explained = client
            .explain(&query)
            .await
            .doing(&format!("explain a packet from {} to {}", self.from, self.to))?;
        self.format.print_one(&explained, || text(&explained))?;
        Ok(u8::from(!explained.passes))
    }

    fn show_page(&self) -> Outcome {
        let unknown = || {
            let message = format!("explain drop {}: no such drop reason", self.to);
            Failure::new(Code::NotFound, message).hint("`netd drops --all` lists them by name")
        };
        let page = page(&self.to).ok_or_else(unknown)?;
        self.format.print_one(&page, || page_text(&page))?;
        Ok(0)
    }
}

fn page_text(page: &Page) -> String {
    format!("drop code {}: {}\n  {}\n  hint: {}\n", page.number, page.reason, page.meaning, page.hint)
}

/// Returns the packet, a pair of lines for each program, and how it ends.
fn text(explained: &Explanation) -> String {
    let places: Vec<String> = explained.steps.iter().map(place).collect();
    let width = places.iter().map(String::len).max().unwrap_or(0);
    let programs = explained.steps.iter().map(|step| step.program.len().max(step.verdict.len()));
    let programs = programs.max().unwrap_or(0);
    let mut all = vec![format!("{} {} -> {}", explained.protocol, explained.source, explained.destination)];
    for (step, place) in explained.steps.iter().zip(&places) {
        let matched = step.matched.join("; ");
        all.push(format!("  {place:width$}  {:programs$}  {matched}", step.program));
        all.push(format!("  {:width$}  {:programs$}  {}", "", step.verdict.to_uppercase(), step.then));
    }
    if explained.steps.is_empty() {
        all.push("  no program of netd meets it: the host answers itself".into());
    }
    match (&explained.meaning, explained.passes) {
        (Some(meaning), false) => all.push(format!("  dropped: {meaning}")),
        _ => all.push("  netd lets it through".into()),
    }
    all.extend(explained.hint.as_ref().map(|hint| format!("  hint: {hint}")));
    lines(all.into_iter().map(|line| line.trim_end().to_owned()))
}

fn place(step: &Step) -> String {
    if step.interface.is_empty() { step.hook.clone() } else { format!("{} {}", step.interface, step.hook) }
}
