//! Which daemon of this machine is meant, by what it is told at its start.

use std::path::PathBuf;

use clap::Args;

use super::{arguments, failure::Failure};
use crate::{
    api::Client,
    config::{Flags, Settings},
    controller::{Code, Subject},
};

/// Which daemon of this machine is meant.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Configuration file [default: /etc/netd/netd.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "NETD_CONFIG")]
    config: Option<PathBuf>,
    /// Name of this daemon among several on one machine
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Where networks and sandboxes are remembered [default: /var/lib/netd]
    #[arg(long, value_name = "DIR", value_parser = arguments::absolute_path)]
    state_dir: Option<PathBuf>,
    /// Where the socket and the namespaces are [default: /run/netd]
    #[arg(long, value_name = "DIR", value_parser = arguments::absolute_path)]
    run_dir: Option<PathBuf>,
    /// Where eBPF maps and links are pinned [default: /sys/fs/bpf/netd]
    #[arg(long, value_name = "DIR", value_parser = arguments::absolute_path)]
    bpffs: Option<PathBuf>,
    /// Root of the cgroup2 hierarchy [default: the one in /proc/self/mountinfo]
    #[arg(long, value_name = "DIR", value_parser = arguments::absolute_path)]
    cgroup: Option<PathBuf>,
}

impl Place {
    /// Returns them as the daemon takes them.
    pub(super) fn flags(self) -> Flags {
        Flags {
            config: self.config,
            instance: self.instance,
            state_dir: self.state_dir,
            run_dir: self.run_dir,
            bpffs: self.bpffs,
            cgroup: self.cgroup,
            ..Flags::default()
        }
    }

    /// Returns the configuration file that is named.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Returns what the daemon is told, for who looks at an instance beside it or without it.
    ///
    /// # Errors
    /// The configuration is wrong; the caller is not root; or `-H` or `NETD_HOST` names another instance.
    pub(super) fn settings(
        self,
        doing: &str,
        host: Option<&Client>,
        default: &Client,
    ) -> Result<Settings, Failure> {
        root(doing)?;
        let flags = self.flags();
        let settings = Settings::load(&flags).map_err(|error| Failure::configuration(doing, &error))?;
        let client = host.unwrap_or(default);
        if flags.run_dir.is_none() && Client::of_run_dir(&settings.run_dir).socket() != client.socket() {
            let text = format!("{doing}: {} is not this instance's socket", client.socket().display());
            return Err(Failure::usage(text).hint(
                "give the options that the daemon has: --run-dir, --state-dir, --bpffs, --instance, --config",
            ));
        }
        Ok(settings)
    }
}

/// Fails unless the caller is root, who alone may read pins and the state.
///
/// # Errors
/// Names the user.
pub(super) fn root(doing: &str) -> Result<(), Failure> {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return Ok(());
    }
    let text = format!("{doing}: uid {user} may not read what an instance has in the kernel");
    Err(Failure::new(Code::Permission, text).hint("run it as root"))
}

/// Returns an instance as `debug check` looks at it.
pub(super) fn subject(settings: &Settings) -> Subject {
    let socket = Client::of_run_dir(&settings.run_dir);
    Subject {
        instance: settings.instance.to_string(),
        state_dir: settings.state_dir.clone(),
        run_dir: settings.run_dir.clone(),
        only_uplinks: settings.uplinks.clone(),
        dataplane: settings.dataplane(),
        // Also one that is too busy to answer has its socket open.
        runs: std::os::unix::net::UnixStream::connect(socket.socket()).is_ok(),
    }
}
