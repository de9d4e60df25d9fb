//! `netd bugreport`: what somebody who was not there needs to understand an instance, in one file, without secrets and without payloads.

mod redact;

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Outcome,
    debug::{chain, look},
    doctor,
    failure::Failure,
    output::print,
    place::{Place, subject},
    version::Versions,
};
use crate::{
    api::{Client, ClientError},
    config::{self, Settings},
    controller::{Code, Subject},
    dataplane::Pinned,
    link::Links,
};

const DOING: &str = "write the bug report";
/// How long a daemon may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Write a file with what is needed to understand a problem, without secrets and without packets' contents
///
/// Version, kernel, doctor, status, configuration, state, what `netd debug check` finds, how full the maps are, drops, links
/// and attached programs, as one JSON object. Values of labels and options, commands and their environment are left out. Works
/// with the daemon running and dead: what could not be had is listed under `Missing`, with the reason. The file is for its
/// owner alone (mode 0600); read it before you send it: names, addresses and ports are in it.
#[derive(Debug, Args)]
#[command(after_help = "\
Give it the options that the daemon has.

EXAMPLES:
  netd bugreport                                 netd-bugreport-TIME.json in this directory
  netd bugreport /tmp/report.json
  netd bugreport - | jq .Check")]
pub(super) struct Bugreport {
    #[command(flatten)]
    place: Place,
    /// Where to write; a file that is there already stays, and `-` is stdout
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// The parts, and why others are not there.
#[derive(Debug, Default)]
struct Report {
    parts: Map<String, Value>,
    missing: Map<String, Value>,
}

impl Report {
    fn add<T: Serialize>(&mut self, part: &str, found: Result<T, String>) {
        let found = found.and_then(|value| serde_json::to_value(value).map_err(|error| error.to_string()));
        match found {
            Ok(value) => drop(self.parts.insert(part.to_owned(), value)),
            Err(why) => drop(self.missing.insert(part.to_owned(), why.into())),
        }
    }

    fn text(mut self) -> Result<String, Failure> {
        self.parts.insert("Missing".to_owned(), self.missing.into());
        let text = serde_json::to_string_pretty(&self.parts);
        text.map(|text| text + "\n").map_err(|error| Failure::new(Code::Failure, format!("{DOING}: {error}")))
    }
}

impl Bugreport {
    pub(super) async fn run(self, host: Option<&Client>, default: &Client) -> Outcome {
        let file = self.file.unwrap_or_else(|| {
            format!("netd-bugreport-{}.json", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ")).into()
        });
        // Before anything is asked: who cannot have it anyway need not wait.
        let out = if file == Path::new("-") { None } else { Some(create(&file)?) };
        let text = report(self.place, host, default).await.text()?;
        let Some(mut out) = out else { return print(&text).map(|()| 0) };
        let written = out.write_all(text.as_bytes()).and_then(|()| out.sync_all());
        written.map_err(|error| Failure::io(&format!("{DOING} {}", file.display()), &error))?;
        print(&format!("{}\n", file.display()))?;
        Ok(0)
    }
}

fn create(file: &Path) -> Result<std::fs::File, Failure> {
    let doing = format!("{DOING} {}", file.display());
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(|error| {
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::new(Code::Conflict, format!("{doing}: it is there already"))
                    .hint("name another file")
            }
            _ => Failure::io(&doing, &error),
        }
    })
}

async fn report(place: Place, host: Option<&Client>, default: &Client) -> Report {
    let mut report = Report::default();
    report.add("Time", Ok(jiff::Timestamp::now().to_string()));
    let file = place.config_file();
    let settings = place.settings(DOING, host, default).map_err(|failure| failure.message);
    let client = settings
        .as_ref()
        .map_or_else(|_| host.unwrap_or(default).clone(), |settings| Client::of_run_dir(&settings.run_dir));
    report.add("Version", Ok(Versions::of(answer(client.version()).await.ok())));
    report.add("Kernel", Ok(kernel()));
    report.add(
        "Doctor",
        Ok(tokio::time::timeout(PATIENCE, doctor::findings(&client)).await.unwrap_or_default()),
    );
    report.add("Status", answer(client.status()).await);
    report.add("Configuration", configuration(file.as_deref()));
    match settings {
        Ok(settings) => of_instance(&mut report, &settings, &client).await,
        Err(why) => {
            for part in ["State", "Check", "Maps", "Drops", "Attachments"] {
                report.add::<Value>(part, Err(why.clone()));
            }
        }
    }
    report.add("Links", links().await);
    report.add::<Value>(
        "Events",
        Err("netd keeps no events that are over; its log has what it did".to_owned()),
    );
    report
}

/// Adds what is read beside the daemon.
async fn of_instance(report: &mut Report, settings: &Settings, client: &Client) {
    let subject = subject(settings);
    report.add("Instance", Ok(instance(settings, &subject)));
    report.add("State", state(&subject));
    let checked = look(&subject, client).await.map_err(|failure| failure.message);
    report.add("Check", checked.map(|checked| checked.findings));
    let pinned = match Pinned::find(&settings.bpffs) {
        Ok(Some(pinned)) => Ok(pinned),
        Ok(None) => Err(format!("no maps are pinned in {}", settings.bpffs.display())),
        Err(error) => Err(chain(&error)),
    };
    let with = |read: &dyn Fn(&Pinned) -> Result<Value, String>| {
        pinned.as_ref().map_err(Clone::clone).and_then(read)
    };
    report.add(
        "Maps",
        with(&|pinned| {
            let map =
                |(map, used, capacity): (String, Result<usize, crate::dataplane::Error>, u32)| match used {
                    Ok(used) => json!({"Map": map, "Used": used, "Capacity": capacity}),
                    Err(error) => json!({"Map": map, "Capacity": capacity, "Missing": chain(&error)}),
                };
            Ok(pinned.occupancy().into_iter().map(map).collect())
        }),
    );
    report.add(
        "Drops",
        with(&|pinned| {
            let drops = pinned.drops().map_err(|error| chain(&error))?;
            let drop = |(reason, packets): (&str, u64)| json!({"Reason": reason, "Packets": packets});
            Ok(drops.into_iter().map(drop).collect())
        }),
    );
    report.add(
        "Attachments",
        with(&|pinned| serde_json::to_value(pinned.attachments()).map_err(|error| error.to_string())),
    );
}

/// Waits for the daemon's answer, but not for ever.
async fn answer<T>(asked: impl Future<Output = Result<T, ClientError>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the daemon does not answer within {} s", PATIENCE.as_secs())),
    }
}

fn kernel() -> Value {
    let system = nix::sys::utsname::uname().ok();
    let part = |part: Option<&std::ffi::OsStr>| part.map(|text| text.to_string_lossy().into_owned());
    json!({
        "Release": part(system.as_ref().map(nix::sys::utsname::UtsName::release)),
        "Version": part(system.as_ref().map(nix::sys::utsname::UtsName::version)),
        "Machine": part(system.as_ref().map(nix::sys::utsname::UtsName::machine)),
    })
}

fn configuration(file: Option<&Path>) -> Result<Value, String> {
    let found = config::raw(file).map_err(|error| error.to_string())?;
    let mut value = serde_json::to_value(found).map_err(|error| error.to_string())?;
    redact::secrets(&mut value);
    Ok(value)
}

fn instance(settings: &Settings, subject: &Subject) -> Value {
    json!({
        "Name": subject.instance,
        "DaemonRuns": subject.runs,
        "StateDir": settings.state_dir,
        "RunDir": settings.run_dir,
        "Bpffs": settings.bpffs,
        "Cgroup": settings.cgroup,
    })
}

fn state(subject: &Subject) -> Result<Value, String> {
    let state = subject.state().map_err(|error| error.message)?;
    let state = state.ok_or_else(|| format!("there is no directory {}", subject.state_dir.display()))?;
    let faults = state.faults.iter().map(|(path, why)| format!("{}: {why}", path.display()));
    let mut value = json!({
        "Networks": state.networks,
        "Sandboxes": state.sandboxes,
        "Journal": state.journal,
        "Faults": faults.collect::<Vec<_>>(),
    });
    redact::secrets(&mut value);
    Ok(value)
}

/// Lists the links of this namespace.
async fn links() -> Result<Value, String> {
    let links = async { Links::open().await?.links().await };
    let links = links.await.map_err(|error| chain(&error))?;
    let one = |link: crate::link::HostLink| {
        json!({
            "Index": link.ifindex,
            "Name": link.name,
            "Kind": link.kind,
            "Label": link.alias.filter(|alias| alias.starts_with("netd:")),
            "Master": link.master,
            "Mtu": link.mtu,
            "Up": link.up,
            "Running": link.running,
        })
    };
    Ok(links.into_iter().map(one).collect())
}
