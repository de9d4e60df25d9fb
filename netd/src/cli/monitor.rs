//! `netd monitor`: what is dropped, as it is dropped.

use clap::Args;

use super::{
    Outcome,
    failure::{Doing, Failure},
    output::{FormatOption, print},
};
use crate::{
    api::{Client, Filters, MONITOR_FILTERS, dto::Sighting},
    template::Format,
};

/// Follow the packets that are dropped, and why
///
/// A line for each packet, as it is dropped: when, why, the sandbox whose interface it met and its network, then what
/// the packet says of itself. `netd drops` counts all of them at any time; `netd explain` says what would become of one.
///
/// Nothing is told while nobody listens, and a flood costs the packet path little: of one reason and interface about a
/// hundred packets a second are shown for each processor, and the next line says how many went unseen before it
/// ("+1234 unseen"). A reader that is too slow is told how many packets it has missed.
#[derive(Debug, Args)]
#[command(after_help = "\
FILTERS: reason, sandbox, network, from, to (a sandbox's name or an address), port, proto, family (4 or 6), interface,
program. Every key must match, and of several values for a key one.

COLUMNS: SANDBOX is the one whose interface the packet met, else the one it was for; FLAGS are TCP's flags, the type of
an ICMP message, or `fragment`.

EXAMPLES:
  netd monitor                                    everything
  netd monitor --from web --to db                 why web does not reach db
  netd monitor --network app --reason ISOLATION
  netd monitor -n 1 --port 5432                   wait for one packet, show it and end
  netd monitor --format json                      an object a line, with addresses, MACs, mark and interfaces
  netd monitor --format '{{.Reason}} {{.Source}} {{.Destination}}'")]
pub(super) struct Monitor {
    #[command(flatten)]
    format: FormatOption,
    /// Show only packets from this sandbox or address (repeat: any of them)
    #[arg(long, value_name = "SANDBOX|IP")]
    from: Vec<String>,
    /// Show only packets to this sandbox or address
    #[arg(long, value_name = "SANDBOX|IP")]
    to: Vec<String>,
    /// Show only packets with this source or destination port
    #[arg(long)]
    port: Vec<String>,
    /// Show only this protocol: tcp, udp, icmp, icmpv6, sctp, arp, ..., or its number
    #[arg(long, value_name = "PROTOCOL")]
    proto: Vec<String>,
    /// Show only what happens on this network
    #[arg(long)]
    network: Vec<String>,
    /// Show only drops for this reason
    #[arg(long)]
    reason: Vec<String>,
    /// Show only what matches (repeat: every key must match)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// End after so many packets
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Monitor {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let filters = self.filters()?;
        let mut left = self.count;
        if matches!(self.format.format, None | Some(Format::Table)) {
            print(&row(&COLUMNS.map(|(name, _)| name.to_owned())))?;
        }
        let mut printed = Ok(());
        let followed = client
            .monitor(&filters, |line| {
                printed = self.print(&line);
                if line.lost == 0 {
                    left = left.map(|left| left - 1);
                }
                printed.is_ok() && left != Some(0)
            })
            .await;
        printed?;
        followed.doing("follow dropped packets")?;
        if left == Some(0) {
            return Ok(0);
        }
        Err(Failure::unreachable("follow dropped packets: the daemon has stopped"))
    }

    /// Returns the filters of all options.
    fn filters(&self) -> Result<Filters, Failure> {
        let mut options = self.filter.clone();
        for (key, values) in [
            ("from", &self.from),
            ("to", &self.to),
            ("port", &self.port),
            ("proto", &self.proto),
            ("network", &self.network),
            ("reason", &self.reason),
        ] {
            options.extend(values.iter().map(|value| format!("{key}={value}")));
        }
        Ok(Filters::from_options(&options, MONITOR_FILTERS)?)
    }

    fn print(&self, line: &Sighting) -> Result<(), Failure> {
        match &self.format.format {
            None | Some(Format::Table) => print(&text(line)),
            // An endless stream has no closing bracket: an object a line.
            Some(Format::Json) => {
                FormatOption { format: Some(Format::Jsonl) }.print(std::slice::from_ref(line))
            }
            Some(_) => self.format.print(std::slice::from_ref(line)),
        }
    }
}

/// Names and widths: longer cells push the rest of their line to the right.
const COLUMNS: [(&str, usize); 8] = [
    ("TIME", 15),
    ("REASON", 15),
    ("SANDBOX", 12),
    ("NETWORK", 10),
    ("PROTO", 7),
    ("SOURCE", 21),
    ("DESTINATION", 21),
    ("FLAGS", 0),
];

fn row(cells: &[String; 8]) -> String {
    let padded: Vec<String> =
        cells.iter().zip(COLUMNS).map(|(cell, (_, width))| format!("{cell:width$}")).collect();
    padded.join("  ").trim_end().to_owned() + "\n"
}

/// Returns a packet's line.
fn text(line: &Sighting) -> String {
    let time = jiff::Timestamp::from_nanosecond(line.time_nano.into());
    let time = time.map_or_else(
        |_| line.time.clone(),
        |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S.%6f").to_string(),
    );
    if line.verdict == "lost" {
        return format!("{time}  {} packets lost: this reader is too slow\n", line.lost);
    }
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let unseen = if line.unseen == 0 { String::new() } else { format!(" +{} unseen", line.unseen) };
    row(&[
        time,
        line.reason.clone(),
        or_dash(&line.sandbox),
        or_dash(&line.network),
        or_dash(&line.protocol),
        end(&line.source, line.source_port, &line.source_name, &line.source_mac),
        end(&line.destination, line.destination_port, &line.destination_name, &line.destination_mac),
        format!("{}{unseen}", line.flags).trim_start().to_owned(),
    ])
}

/// Returns one end of a packet: `NAME(ADDRESS):PORT`, or its link address.
fn end(address: &str, port: u16, name: &str, mac: &str) -> String {
    if address.is_empty() {
        return if mac.is_empty() { "-".into() } else { mac.to_owned() };
    }
    let shown = match (name.is_empty(), address.contains(':') && port != 0) {
        (false, _) => format!("{name}({address})"),
        (true, true) => format!("[{address}]"),
        (true, false) => address.to_owned(),
    };
    if port == 0 { shown } else { format!("{shown}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_written_with_what_is_known_of_them() {
        for (address, port, name, mac, wanted) in [
            ("10.0.0.2", 80, "web", "", "web(10.0.0.2):80"),
            ("10.0.0.2", 0, "", "02:00:00:00:00:01", "10.0.0.2"),
            ("fd00::2", 80, "", "", "[fd00::2]:80"),
            ("fd00::2", 80, "web", "", "web(fd00::2):80"),
            ("fd00::2", 0, "", "", "fd00::2"),
            ("", 0, "", "02:00:00:00:00:01", "02:00:00:00:00:01"),
            ("", 0, "", "", "-"),
        ] {
            assert_eq!(end(address, port, name, mac), wanted);
        }
    }

    #[test]
    fn a_line_says_what_was_not_shown() {
        let line =
            Sighting { verdict: "drop".into(), reason: "ICC".into(), unseen: 7, ..Sighting::default() };
        assert!(text(&line).ends_with("+7 unseen\n"), "{}", text(&line));
        let lost = Sighting { verdict: "lost".into(), lost: 9, ..Sighting::default() };
        assert!(text(&lost).contains("9 packets lost"), "{}", text(&lost));
    }
}
