//! `netd daemon` and `netd down`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    Outcome,
    failure::{Doing, Failure},
    logging,
};
use crate::{
    api::Client,
    config::{self, Flags, Settings},
    model::IfName,
};

/// Start the daemon in the foreground, in the network namespace it is called in
///
/// It is ready when `GET /_ping` on its socket answers OK; under systemd it says so itself (Type=notify). Stopping it in any
/// way leaves all traffic running; `netd down` removes everything.
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd daemon
  netd daemon --log-format json -v
  netd daemon --uplink eth0 --uplink wg0
  netd daemon --config /etc/netd/netd.toml
  nsenter --net=/run/netns/blue netd daemon --instance blue --state-dir /var/lib/netd-blue \\
      --run-dir /run/netd-blue --bpffs /sys/fs/bpf/netd-blue       a second one, side by side")]
pub(super) struct Daemon {
    /// Configuration file [default: /etc/netd/netd.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "NETD_CONFIG")]
    config: Option<PathBuf>,
    /// Name of this daemon among several on one machine
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Where networks and sandboxes are remembered [default: /var/lib/netd]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the socket and the namespaces are [default: /run/netd]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where eBPF maps and links are pinned [default: /sys/fs/bpf/netd]
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,
    /// Root of the cgroup2 hierarchy [default: the one in /proc/self/mountinfo]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Interface to the outside (repeat) [default: every layer-3 interface that is not netd's own]
    #[arg(long, value_name = "IFNAME")]
    uplink: Vec<IfName>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// Remove everything this daemon put into the kernel, and its state; the daemon ends
#[derive(Debug, Args)]
#[command(after_help = "\
Networks, sandboxes, programs, maps, interfaces: all of it goes. Namespaces that netd did not make stay.

EXAMPLES:
  netd down
  netd -H unix:///run/netd-blue/netd.sock down")]
pub(super) struct Down {}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Daemon {
    pub(super) fn run(self, verbose: u8) -> Outcome {
        let flags = Flags {
            config: self.config,
            instance: self.instance,
            state_dir: self.state_dir,
            run_dir: self.run_dir,
            bpffs: self.bpffs,
            cgroup: self.cgroup,
            uplinks: self.uplink,
            log_format: self.log_format.map(|format| match format {
                LogFormat::Text => config::LogFormat::Text,
                LogFormat::Json => config::LogFormat::Json,
            }),
        };
        let settings = Settings::load(&flags).map_err(|error| Failure::chain("start the daemon", &error))?;
        logging::of_daemon(verbose, settings.log_format);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::io("start the daemon", &error))?;
        runtime.block_on(crate::daemon::run(settings))?;
        Ok(0)
    }
}

impl Down {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        client.down().await.doing("take netd down")?;
        Ok(0)
    }
}
