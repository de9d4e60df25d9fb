//! `netd daemon` and `netd down`.

use clap::{Args, ValueEnum};

use super::{
    Outcome,
    failure::{Doing, Failure},
    logging,
    place::Place,
};
use crate::{
    api::{Client, ClientError},
    config::{self, Flags, Settings},
    model::IfName,
};

/// Start the daemon in the foreground, in the network namespace it is called in
///
/// It is ready when `GET /_ping` on its socket answers OK; under systemd it says so itself (Type=notify). Stopping it in any
/// way leaves all traffic running; `netd down` removes everything.
#[derive(Debug, Args)]
#[command(after_help = "\
The configuration file is TOML and takes docker's keys: bip, icc, mtu, dns, default-address-pools,
allow-direct-routing = true, bridge-accept-fwmark = \"0x10/0xf0\" and so on; netd's own stand in [flows], [nat],
[publish], [dataplane], [guard] and [timeouts]. All of them: netd/docs/configuration.md.

EXAMPLES:
  netd daemon
  netd daemon --log-format json -v
  netd daemon --uplink eth0 --uplink bond0
  netd daemon --config /etc/netd/netd.toml
  nsenter --net=/run/netns/blue netd daemon --instance blue --state-dir /var/lib/netd-blue \\
      --run-dir /run/netd-blue --bpffs /sys/fs/bpf/netd-blue       a second one, side by side")]
pub(super) struct Daemon {
    #[command(flatten)]
    place: Place,
    /// Interface to the outside (repeat) [default: every Ethernet interface with a global address]
    #[arg(long, value_name = "IFNAME")]
    uplink: Vec<IfName>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// Remove everything this daemon put into the kernel, and its state; the daemon ends
#[derive(Debug, Args)]
#[command(after_help = "\
Networks, sandboxes, programs, maps, interfaces: all of it goes, and the commands of `netd run`
end. Namespaces that netd did not make stay.
Where no daemon runs, this command does it alone; give it the options that the daemon had.

EXAMPLES:
  netd down
  netd -H unix:///run/netd-blue/netd.sock down
  netd down --instance blue --state-dir /var/lib/netd-blue --run-dir /run/netd-blue \\
      --bpffs /sys/fs/bpf/netd-blue")]
pub(super) struct Down {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Daemon {
    pub(super) fn run(self, verbose: u8) -> Outcome {
        let flags = Flags {
            uplinks: self.uplink,
            log_format: self.log_format.map(|format| match format {
                LogFormat::Text => config::LogFormat::Text,
                LogFormat::Json => config::LogFormat::Json,
            }),
            ..self.place.flags()
        };
        let settings =
            Settings::load(&flags).map_err(|error| Failure::configuration("start the daemon", &error))?;
        logging::of_daemon(verbose, settings.log_format);
        crate::daemon::harden()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::io("start the daemon", &error))?;
        runtime.block_on(crate::daemon::run(settings))?;
        Ok(0)
    }
}

impl Down {
    /// Asks the daemon; does it alone where none runs and it is clear which one is meant.
    pub(super) async fn run(self, host: Option<&Client>, default: &Client) -> Outcome {
        const DOING: &str = "take netd down";
        let flags = self.place.flags();
        let of_place = flags.run_dir.as_deref().map(Client::of_run_dir);
        let client = host.or(of_place.as_ref()).unwrap_or(default);
        let unreachable = match client.down().await {
            Err(error @ ClientError::Unreachable { .. }) => error,
            other => return other.doing(DOING).map(|()| 0),
        };
        let settings = Settings::load(&flags).map_err(|error| Failure::configuration(DOING, &error))?;
        if Client::of_run_dir(&settings.run_dir).socket() != client.socket() {
            let failure: Result<(), Failure> = Err(unreachable).doing(DOING);
            return failure.map(|()| 0).map_err(|failure| {
                failure.hint(
                    "without a daemon, give the options it had: --run-dir, --state-dir, --bpffs, --instance",
                )
            });
        }
        crate::daemon::down(settings).await?;
        Ok(0)
    }
}
