//! `netd port`, `publish` and `unpublish`.

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{
    Outcome,
    failure::{Doing, Failure},
    output::{FormatOption, lines, print},
};
use crate::{
    api::{
        Client,
        dto::{PortMap, PublishRequest, UnpublishRequest, bindings_of},
    },
    controller::Code,
    model::{PublishSpec, parse_expose, port_lines, public_addresses},
};

/// Published ports of a sandbox
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd port web                                  80/tcp -> 0.0.0.0:8080
  netd port web 80                               0.0.0.0:8080
  netd port web 53/udp
  netd port --format json web")]
pub(super) struct Port {
    #[command(flatten)]
    format: FormatOption,
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    sandbox: String,
    /// Only this port of the sandbox
    #[arg(value_name = "PORT[/PROTO]", value_parser = typed_port)]
    wanted: Option<String>,
}

/// Add published ports to a running sandbox, all or none
#[derive(Debug, Args)]
#[command(after_help = "\
SPEC is [[IP:][HOST]:]PORT[/udp][,allow=CIDR][,via=IFACE]...; HOST and PORT may be ranges. Without HOST the port is an
ephemeral one. With allow= nobody else may come, but for the host itself. With via= what is outside comes by these interfaces
alone (also wg*); the host and its sandboxes reach the port as before.

EXAMPLES:
  netd publish web 8080:80
  netd publish web 127.0.0.1:8443:443 53:53/udp
  netd publish web 8000-8010:9000-9010
  netd publish web 8443:443,allow=10.0.0.0/8,allow=fd00::/8
  netd publish web 10.0.1.2:8443:443,via=eth1
  netd publish web 80                            prints the host port it got")]
pub(super) struct Publish {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    sandbox: String,
    /// Ports to publish
    #[arg(required = true, value_name = "SPEC")]
    specs: Vec<PublishSpec>,
}

/// Take published ports back; established connections go on unless --kill
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES:
  netd unpublish web 8080:80
  netd unpublish web 80                          whatever host ports lead to it
  netd unpublish --kill web 8080:80              ends established connections too")]
pub(super) struct Unpublish {
    /// End established connections too
    #[arg(long)]
    kill: bool,
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    sandbox: String,
    /// Ports to take back
    #[arg(required = true, value_name = "SPEC")]
    specs: Vec<PublishSpec>,
}

fn typed_port(text: &str) -> Result<String, String> {
    parse_expose(text).map(|_| text.to_owned()).map_err(|why| why.to_string())
}

impl Port {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let doing = format!("list ports of sandbox {}", self.sandbox);
        let ports = client.sandbox(&self.sandbox).await.doing(&doing)?.network_settings.ports;
        let (bindings, _) = bindings_of(&ports);
        let shown = match &self.wanted {
            None => port_lines(&bindings),
            Some(port) => public_addresses(&bindings, port, &self.sandbox)
                .map_err(|why| Failure::new(Code::NotFound, why))?,
        };
        self.format.print_one(&selected(ports, self.wanted.as_deref()), || lines(shown))?;
        Ok(0)
    }
}

/// Keeps the wanted port, or all that are published.
fn selected(ports: PortMap, typed: Option<&str>) -> PortMap {
    let wanted = typed.and_then(|typed| parse_expose(typed).ok());
    let mut ports = ports;
    ports.retain(|key, hosts| {
        let is_wanted = |key: &str| match (&wanted, parse_expose(key)) {
            (Some(wanted), Ok(port)) => port.iter().all(|port| wanted.contains(port)),
            _ => true,
        };
        hosts.is_some() && is_wanted(key)
    });
    ports
}

impl Publish {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let doing = format!("publish for sandbox {}", self.sandbox);
        let request = PublishRequest { specs: self.specs.iter().map(ToString::to_string).collect() };
        let ports = client.publish(&self.sandbox, &request).await.doing(&doing)?;
        print(&lines(port_lines(&bindings_of(&ports).0)))?;
        Ok(0)
    }
}

impl Unpublish {
    pub(super) async fn run(self, client: &Client) -> Outcome {
        let doing = format!("unpublish for sandbox {}", self.sandbox);
        let specs = self.specs.iter().map(ToString::to_string).collect();
        let request = UnpublishRequest { specs, kill: self.kill };
        client.unpublish(&self.sandbox, &request).await.doing(&doing)?;
        Ok(0)
    }
}
