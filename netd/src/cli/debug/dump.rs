//! `netd debug dump`: every map in words, beside a daemon or without one.

use std::io::{self, BufWriter, Write as _};

use clap::Args;

use super::{
    super::{
        Outcome,
        failure::Failure,
        output::FormatOption,
        place::{Place, subject},
    },
    chain,
};
use crate::{
    api::Client,
    controller::{Code, World},
    dataplane::{MapDump, Names, Pinned},
    template::Format,
};

const DOING: &str = "dump the maps";

/// Show what is in the maps, decoded: JSON with the fields' names of the source, and names beside numbers
///
/// Reads the pins, so that it works with the daemon running and dead, as root. Entries stand in the order of their keys' bytes:
/// two dumps of the same content are equal. Packets' bytes and the ring of events are left out, and so is the secret of the
/// port choice.
#[derive(Debug, Args)]
#[command(after_help = "\
Give it the options that the daemon has.

EXAMPLES:
  netd debug dump                                every map
  netd debug dump PUBLISH4 ENDPOINT
  netd debug dump --format jsonl | jq -r 'select(.Used > 0) | \"\\(.Map) \\(.Used) of \\(.Capacity)\"'
  netd debug dump --bpffs /sys/fs/bpf/netd-blue --run-dir /run/netd-blue --state-dir /var/lib/netd-blue FLOW4")]
pub(in super::super) struct Dump {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatOption,
    /// Maps by name [default: all]
    #[arg(value_name = "MAP")]
    maps: Vec<String>,
}

impl Dump {
    pub(super) async fn run(self, host: Option<&Client>, default: &Client) -> Outcome {
        let settings = self.place.settings(DOING, host, default)?;
        let refused = |error| Failure::new(Code::Failure, format!("{DOING}: {}", chain(&error)));
        let pinned = Pinned::find(&settings.bpffs).map_err(refused)?.ok_or_else(|| {
            let text = format!("{DOING}: no maps are pinned in {}", settings.bpffs.display());
            Failure::new(Code::NotFound, text).hint("name the directory that the daemon has: --bpffs")
        })?;
        let shown = pinned.shown();
        if let Some(unknown) = self.maps.iter().find(|map| !shown.contains(&map.as_str())) {
            let text = format!("{DOING}: there is no map {unknown} that can be shown");
            return Err(Failure::new(Code::NotFound, text).hint(format!("there are {}", shown.join(", "))));
        }
        let maps = if self.maps.is_empty() { shown } else { self.maps.iter().map(String::as_str).collect() };
        let subject = subject(&settings);
        // Interfaces of another namespace have other numbers.
        let names = match subject.state().ok().flatten() {
            _ if !pinned.is_here().unwrap_or(false) => Names::default(),
            Some(state) => subject.names(&subject.world(&state)).await.unwrap_or_default(),
            None => subject.names(&World::empty(false)).await.unwrap_or_default(),
        };
        let dumps = maps.into_iter().map(|map| pinned.dump(map, &names).map_err(refused));
        match &self.format.format {
            None | Some(Format::Json | Format::Table) => array(dumps)?,
            // One after the other: all of them together would take much memory.
            Some(_) => dumps.into_iter().try_for_each(|dump| self.format.print(&[dump?]))?,
        }
        Ok(0)
    }
}

/// Writes an array of maps while it is made.
fn array(dumps: impl Iterator<Item = Result<MapDump, Failure>>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut before = "[\n";
    for dump in dumps {
        let dump = dump?;
        let written = out
            .write_all(before.as_bytes())
            .and_then(|()| serde_json::to_writer_pretty(&mut out, &dump).map_err(io::Error::from));
        before = ",\n";
        if !told(written)? {
            return Ok(());
        }
    }
    let end = if before == "[\n" { "[]\n" } else { "\n]\n" };
    told(out.write_all(end.as_bytes()).and_then(|()| out.flush())).map(drop)
}

/// Whether somebody still reads. A reader that has gone has seen enough.
fn told(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::io("write to stdout", &error)),
    }
}
