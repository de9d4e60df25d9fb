//! `/netd/v1/monitor`: a line of JSON for every packet that is dropped, until the client goes.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, future, stream};
use nix::net::if_::if_indextoname;
use serde::Deserialize;

use super::{
    dto::Sighting,
    extract::{Failure, Params},
    filters::Filters,
    router::Api,
};
use crate::{
    controller::{Code, Error, World},
    dataplane::{Drop, Listener},
    model::{Endpoint, Mac, Sandbox},
};

/// What packets are selected by.
pub(crate) const FILTERS: &[&str] =
    &["family", "from", "interface", "network", "port", "program", "proto", "reason", "sandbox", "to"];

/// Query of the stream.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    filters: Option<String>,
}

pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Params(query): Params<Selection>,
) -> Result<Response, Failure> {
    let filters = Filters::parse(query.filters.as_deref(), FILTERS)?;
    check(&filters)?;
    let listener = api.handle.monitor().await?.listen().map_err(Error::from)?;
    let mut stopping = api.stopping.clone();
    let handle = api.handle.clone();
    let heard = stream::unfold(listener, |mut listener: Listener| async {
        let heard = listener.next().await?;
        Some((heard, listener))
    });
    let lines = heard.filter_map(move |heard| {
        let line = match heard {
            Ok(drop) => Some(sighting(&handle.view(), &drop)).filter(|line| selected(line, &filters)),
            Err(lost) => Some(missed(lost)),
        };
        future::ready(line.and_then(|line| serde_json::to_vec(&line).ok()).map(|mut line| {
            line.push(b'\n');
            Ok::<_, std::convert::Infallible>(Bytes::from(line))
        }))
    });
    let lines = lines.take_until(Box::pin(async move { stopping.wait_for(|stop| *stop).await.map(drop) }));
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

/// Refuses values that no packet could have: a misspelt filter would show nothing for ever.
fn check(filters: &Filters) -> Result<(), Error> {
    let refuse = |key: &str, value: &str, hint: String| Error {
        hint: Some(hint),
        ..Error::new(Code::Usage, format!("invalid filter {key}={value}"))
    };
    for (key, value) in filters.pairs() {
        let known = match key {
            "family" => matches!(value, "4" | "6"),
            "port" => value.parse::<u16>().is_ok(),
            "reason" => reasons().any(|reason| reason.eq_ignore_ascii_case(value)),
            "program" => programs().any(|program| program == value),
            _ => true,
        };
        if !known {
            let hint = match key {
                "family" => "write 4 or 6".into(),
                "port" => "write a number up to 65535".into(),
                "reason" => "`netd drops --all` lists them".into(),
                _ => format!("programs: {}", programs().collect::<Vec<_>>().join(", ")),
            };
            return Err(refuse(key, value, hint));
        }
    }
    Ok(())
}

fn reasons() -> impl Iterator<Item = &'static str> {
    netd_common::verdict::DropReason::ALL.iter().map(|reason| reason.as_str())
}

fn programs() -> impl Iterator<Item = &'static str> {
    netd_common::monitor::program::NAMES.into_iter().filter(|name| !name.is_empty())
}

/// Whether the filters select a packet. An end is a sandbox by name, or an address.
fn selected(line: &Sighting, filters: &Filters) -> bool {
    let is_end = |word: &str, address: &str, name: &str| word == name || word == address;
    let number = |word: &str, number: u16| word.parse() == Ok(number);
    filters.any("reason", |word| line.reason.eq_ignore_ascii_case(word))
        && filters.any("proto", |word| line.protocol.eq_ignore_ascii_case(word))
        && filters.any("family", |word| number(word, line.family.into()))
        && filters.any("port", |word| number(word, line.source_port) || number(word, line.destination_port))
        && filters.exact("interface", &line.interface)
        && filters.exact("program", &line.program)
        && filters.exact("network", &line.network)
        && filters.any("from", |word| is_end(word, &line.source, &line.source_name))
        && filters.any("to", |word| is_end(word, &line.destination, &line.destination_name))
        && filters.any("sandbox", |word| {
            [&line.sandbox, &line.source_name, &line.destination_name].iter().any(|name| *name == word)
        })
}

/// Returns the line of packets that a reader has missed.
fn missed(lost: u64) -> Sighting {
    let now = jiff::Timestamp::now();
    Sighting {
        time: now.to_string(),
        time_nano: i64::try_from(now.as_nanosecond()).unwrap_or_default(),
        verdict: "lost".into(),
        lost,
        ..Sighting::default()
    }
}

/// Returns a dropped packet's line, with the names that its addresses have now.
fn sighting(world: &World, drop: &Drop) -> Sighting {
    let packet = &drop.packet;
    let ends = packet.addresses;
    let (source_port, destination_port) = packet.ports.unwrap_or_default();
    let source = ends.and_then(|(source, _)| owner(world, source));
    let destination = ends.and_then(|(_, destination)| {
        owner(world, destination)
            .or_else(|| publisher(world, destination, destination_port, &packet.protocol))
    });
    let (interface, ingress) = (interface(drop.ifindex), interface(drop.ingress));
    // Whose interface it is counts for more than what the packet claims.
    let met = behind(world, &interface).or(destination).or(source);
    let name = |found: Option<(&Sandbox, &Endpoint)>| {
        found.map_or_else(String::new, |(sandbox, _)| sandbox.name.to_string())
    };
    let network = met.and_then(|(_, endpoint)| world.network_by_id(&endpoint.network));
    let mac = |mac: Option<[u8; 6]>| mac.map_or_else(String::new, |mac| Mac(mac).to_string());
    let time = jiff::Timestamp::from_nanosecond(drop.time_nano.into());
    Sighting {
        time: time.map_or_else(|_| drop.time_nano.to_string(), |time| time.to_string()),
        time_nano: drop.time_nano,
        verdict: "drop".into(),
        reason: drop.reason.as_str().into(),
        meaning: drop.reason.meaning().into(),
        sandbox: name(met),
        network: network.map_or_else(String::new, |network| network.name.to_string()),
        family: packet.family,
        protocol: packet.protocol.clone(),
        source: ends.map_or_else(String::new, |(source, _)| source.to_string()),
        source_port,
        source_name: name(source),
        destination: ends.map_or_else(String::new, |(_, destination)| destination.to_string()),
        destination_port,
        destination_name: name(destination),
        source_mac: mac(packet.macs.map(|(source, _)| source)),
        destination_mac: mac(packet.macs.map(|(_, destination)| destination)),
        flags: packet.flags.clone(),
        length: drop.length,
        mark: drop.mark,
        interface,
        ingress,
        program: drop.program.into(),
        unseen: drop.unseen,
        lost: 0,
    }
}

fn endpoints(world: &World) -> impl Iterator<Item = (&Sandbox, &Endpoint)> {
    world.sandboxes().flat_map(|sandbox| sandbox.endpoints.iter().map(move |endpoint| (&**sandbox, endpoint)))
}

/// Returns who has an address.
fn owner(world: &World, ip: IpAddr) -> Option<(&Sandbox, &Endpoint)> {
    endpoints(world).find(|(_, endpoint)| match ip {
        IpAddr::V4(ip) => endpoint.ipv4.is_some_and(|net| net.addr() == ip),
        IpAddr::V6(ip) => endpoint.ipv6.is_some_and(|net| net.addr() == ip),
    })
}

/// Returns who publishes a port of the host.
fn publisher<'w>(
    world: &'w World,
    ip: IpAddr,
    port: u16,
    protocol: &str,
) -> Option<(&'w Sandbox, &'w Endpoint)> {
    let serves = |(sandbox, endpoint): &(&Sandbox, &Endpoint)| {
        sandbox.bindings.iter().any(|binding| {
            let here = binding.host_ip == ip
                || (binding.host_ip.is_unspecified() && binding.host_ip.is_ipv4() == ip.is_ipv4());
            here && binding.takes_host_port()
                && binding.host_port == port
                && binding.protocol.as_str() == protocol
                && binding.endpoint == endpoint.id
        })
    };
    endpoints(world).find(serves)
}

/// Returns who is behind an interface of the host.
fn behind<'w>(world: &'w World, interface: &str) -> Option<(&'w Sandbox, &'w Endpoint)> {
    endpoints(world).find(|(_, endpoint)| endpoint.host_ifname.as_str() == interface)
}

/// Returns the name of an interface; its number when it is gone, and nothing for none.
fn interface(ifindex: u32) -> String {
    if ifindex == 0 {
        return String::new();
    }
    let name = if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| ifindex.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(options: &[&str]) -> Result<Filters, Error> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        Filters::from_options(&options, FILTERS)
    }

    #[test]
    fn packets_are_selected_by_their_ends_reason_and_place() {
        let line = Sighting {
            reason: "ISOLATION".into(),
            sandbox: "web".into(),
            network: "app".into(),
            family: 4,
            protocol: "tcp".into(),
            source: "10.0.0.2".into(),
            source_port: 40_000,
            source_name: "web".into(),
            destination: "10.1.0.2".into(),
            destination_port: 5432,
            destination_name: "db".into(),
            interface: "veth1".into(),
            program: "from_endpoint".into(),
            ..Sighting::default()
        };
        for (option, wanted) in [
            ("from=web", true),
            ("from=10.0.0.2", true),
            ("from=db", false),
            ("to=db", true),
            ("to=10.1.0.2", true),
            ("to=10.0.0.2", false),
            ("sandbox=web", true),
            ("sandbox=db", true),
            ("sandbox=other", false),
            ("network=app", true),
            ("network=ap", false),
            ("port=5432", true),
            ("port=40000", true),
            ("port=80", false),
            ("proto=TCP", true),
            ("proto=udp", false),
            ("reason=isolation", true),
            ("reason=ICC", false),
            ("family=4", true),
            ("family=6", false),
            ("interface=veth1", true),
            ("interface=eth0", false),
            ("program=from_endpoint", true),
            ("program=to_uplink", false),
        ] {
            assert_eq!(selected(&line, &filters(&[option]).expect("valid")), wanted, "{option}");
        }
        assert!(!selected(&line, &filters(&["from=web", "to=web"]).expect("valid")), "every key must match");
        assert!(selected(&line, &filters(&["to=web", "to=db"]).expect("valid")), "of several values one");
    }

    #[test]
    fn filters_that_no_packet_could_match_are_refused() {
        for bad in ["family=5", "port=http", "port=65536", "reason=BECAUSE", "program=to_nowhere"] {
            let refused = check(&filters(&[bad]).expect("a known key"));
            assert!(refused.is_err_and(|error| error.code == Code::Usage && error.hint.is_some()), "{bad}");
        }
        assert!(
            check(&filters(&["family=6", "port=53", "reason=icc", "from=anything"]).expect("keys")).is_ok()
        );
        assert!(filters(&["colour=red"]).is_err());
    }
}
