//! `/netd/v1/explain`: finds out whom the words mean, and asks the packet path what it would do.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Json, extract::State};
use serde::Deserialize;

use super::{
    extract::{Failure, Params},
    router::Api,
};
use crate::{
    controller::{Code, Error, World},
    dataplane::{Explainer, Explanation, Origin, Question, Unexplained},
    model::{Endpoint, Id, Sandbox, Target},
};

/// What stands for the host itself.
const HOST: &str = "host";
/// Source port, or echo id, where none is given: one that hosts choose for clients.
const SOURCE_PORT: u16 = 50_000;
/// How long the programs that were loaded for a question wait for the next one: the verifier takes a good part of a second for them.
const KEPT: Duration = Duration::from_secs(30);

/// The words of the question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    from: String,
    to: String,
    /// By which uplink a packet from outside comes.
    via: Option<String>,
    /// The source that it claims.
    source: Option<IpAddr>,
    source_port: Option<u16>,
    /// 4 or 6: the family, where both are possible.
    family: Option<u8>,
}

pub(super) async fn explain(
    State(api): State<Arc<Api>>,
    Params(words): Params<Words>,
) -> Result<Json<Explanation>, Failure> {
    let target: Target = words.to.parse().map_err(|why| refused(format!("{}: {why}", words.to), None))?;
    if words.family.is_some_and(|family| !matches!(family, 4 | 6)) {
        return Err(refused("family is 4 or 6".into(), None).into());
    }
    let explainer = api.handle.explainer().await?;
    let world = api.handle.view();
    let question = question(&world, &explainer, &words, &target)?;
    let names = names(&world);
    let player = explainer.clone();
    let work = move || player.explain(&question, &|ip| names.get(&ip).cloned());
    let done = tokio::task::spawn_blocking(work).await;
    rest_later(explainer);
    let explained = done.map_err(|_| Error::new(Code::Failure, "the explanation broke off"))?;
    Ok(Json(explained.map_err(|error| match error {
        Unexplained::Question(why, hint) => refused(why, hint),
        Unexplained::Dataplane(error) => Error::from(error),
    })?))
}

/// Gives the programs back that were loaded for a question, unless another one has come meanwhile.
fn rest_later(explainer: Explainer) {
    static QUESTIONS: AtomicU64 = AtomicU64::new(0);
    let number = QUESTIONS.fetch_add(1, Ordering::Relaxed) + 1;
    tokio::spawn(async move {
        tokio::time::sleep(KEPT).await;
        if QUESTIONS.load(Ordering::Relaxed) == number {
            let _ = tokio::task::spawn_blocking(move || explainer.rest()).await; // nothing to report
        }
    });
}

fn refused(why: String, hint: Option<String>) -> Error {
    Error { hint, ..Error::new(Code::Usage, why) }
}

/// Returns (sandbox, network) by address.
fn names(world: &World) -> HashMap<IpAddr, (String, String)> {
    let mut names = HashMap::new();
    for sandbox in world.sandboxes() {
        for endpoint in &sandbox.endpoints {
            let network = world.network_by_id(&endpoint.network).map(|network| network.name.to_string());
            for ip in addresses(endpoint) {
                names.insert(ip, (sandbox.name.to_string(), network.clone().unwrap_or_default()));
            }
        }
    }
    names
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    let ipv4 = endpoint.ipv4.map(|net| IpAddr::V4(net.addr()));
    ipv4.into_iter().chain(endpoint.ipv6.map(|net| IpAddr::V6(net.addr())))
}

/// One end as the words mean it: addresses, each with the network it belongs to.
enum End<'w> {
    Host,
    Address(IpAddr),
    Sandbox(&'w Sandbox),
}

impl<'w> End<'w> {
    fn of(world: &'w World, word: &str) -> Result<Self, Error> {
        if word == HOST {
            return Ok(Self::Host);
        }
        if let Ok(ip) = word.parse() {
            return Ok(Self::Address(ip));
        }
        match world.sandbox(word) {
            Ok(sandbox) => Ok(Self::Sandbox(sandbox)),
            Err(error) if error.code == Code::NotFound => {
                let all = world.sandboxes().map(|sandbox| sandbox.name.as_str()).chain([HOST]);
                match nearest(word, all) {
                    Some(name) => Err(error.hint(format!("did you mean {name}?"))),
                    None => Err(error.hint("FROM and TO are sandboxes, addresses, or `host`")),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the name that a word may have been meant for.
fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    const NEAR: usize = 2;
    let by_distance = names.map(|name| (strsim::damerau_levenshtein(word, name), name));
    by_distance
        .filter(|(distance, name)| *distance <= NEAR && *distance < name.len())
        .min()
        .map(|(_, name)| name)
}

/// Returns the endpoint by which a sandbox sends: on the network of whom it addresses, else the one with the default route.
fn sends_by<'s>(
    sandbox: &'s Sandbox,
    towards: &[&Id],
    fits: impl Fn(&Endpoint) -> bool,
) -> Option<&'s Endpoint> {
    let fitting = || sandbox.endpoints.iter().filter(|endpoint| fits(endpoint));
    let on_its_network = fitting().find(|endpoint| towards.contains(&&endpoint.network));
    // Of equals the first.
    on_its_network.or_else(|| fitting().rev().max_by_key(|endpoint| endpoint.gw_priority))
}

/// Returns the network in whose subnet a sandbox has or could have an address.
fn networks_of<'w>(world: &'w World, end: &End<'w>) -> Vec<&'w Id> {
    match end {
        End::Host => Vec::new(),
        End::Sandbox(sandbox) => sandbox.endpoints.iter().map(|endpoint| &endpoint.network).collect(),
        End::Address(ip) => world
            .sandboxes()
            .flat_map(|sandbox| &sandbox.endpoints)
            .filter(|endpoint| match ip {
                IpAddr::V4(ip) => endpoint.ipv4.is_some_and(|net| net.contains(ip)),
                IpAddr::V6(ip) => endpoint.ipv6.is_some_and(|net| net.contains(ip)),
            })
            .map(|endpoint| &endpoint.network)
            .collect(),
    }
}

fn address(endpoint: &Endpoint, ipv6: bool) -> Option<IpAddr> {
    addresses(endpoint).find(|ip| ip.is_ipv6() == ipv6)
}

fn question(world: &World, explainer: &Explainer, words: &Words, target: &Target) -> Result<Question, Error> {
    let (from, to) = (End::of(world, &words.from)?, End::of(world, &target.whom)?);
    let families = [false, true].into_iter().filter(|ipv6| match words.family {
        None => true,
        Some(family) => *ipv6 == (family == 6),
    });
    for ipv6 in families {
        let Some((origin, gateway)) = origin(world, &from, &to, words, ipv6) else { continue };
        let destination = match &to {
            End::Address(ip) => Some(*ip).filter(|ip| ip.is_ipv6() == ipv6),
            End::Sandbox(sandbox) => {
                let near = networks_of(world, &from);
                sends_by(sandbox, &near, |endpoint| address(endpoint, ipv6).is_some())
                    .and_then(|endpoint| address(endpoint, ipv6))
            }
            End::Host => match &origin {
                Origin::Sandbox(_) => gateway,
                Origin::Outside(remote, via) => {
                    explainer.address(via.as_deref(), *remote).map_err(|error| match error {
                        Unexplained::Question(why, hint) => refused(why, hint),
                        Unexplained::Dataplane(error) => error.into(),
                    })?
                }
                Origin::Host if ipv6 => Some(std::net::Ipv6Addr::LOCALHOST.into()),
                Origin::Host => Some(std::net::Ipv4Addr::LOCALHOST.into()),
            },
        };
        let Some(destination) = destination else { continue };
        return Ok(Question {
            origin,
            claims: words.source.filter(|ip| ip.is_ipv6() == ipv6),
            probe: target.probe,
            source_port: words.source_port.unwrap_or(SOURCE_PORT),
            to: destination,
            port: target.port,
        });
    }
    let family = words.family.map_or(String::new(), |family| format!(" IPv{family}"));
    Err(refused(format!("{} and {} have no{family} addresses of one family", words.from, target.whom), None))
}

/// Returns who sends, in this family, and the gateway that it knows.
fn origin(
    world: &World,
    from: &End<'_>,
    to: &End<'_>,
    words: &Words,
    ipv6: bool,
) -> Option<(Origin, Option<IpAddr>)> {
    match from {
        End::Host => Some((Origin::Host, None)),
        End::Address(ip) if ip.is_ipv6() != ipv6 => None,
        End::Address(ip) => {
            let owner = world
                .sandboxes()
                .flat_map(|sandbox| &sandbox.endpoints)
                .find(|endpoint| addresses(endpoint).any(|own| own == *ip));
            Some(match owner {
                Some(endpoint) => (Origin::Sandbox(*ip), gateway(endpoint, ipv6)),
                None => (Origin::Outside(*ip, words.via.clone()), None),
            })
        }
        End::Sandbox(sandbox) => {
            let near = networks_of(world, to);
            let endpoint = sends_by(sandbox, &near, |endpoint| address(endpoint, ipv6).is_some())?;
            Some((Origin::Sandbox(address(endpoint, ipv6)?), gateway(endpoint, ipv6)))
        }
    }
}

fn gateway(endpoint: &Endpoint, ipv6: bool) -> Option<IpAddr> {
    if ipv6 { endpoint.gateway6.map(IpAddr::V6) } else { endpoint.gateway4.map(IpAddr::V4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_guessed_and_a_strange_one_is_not() {
        let names = ["web", "database", "host"];
        assert_eq!(nearest("wbe", names.into_iter()), Some("web"));
        assert_eq!(nearest("databse", names.into_iter()), Some("database"));
        assert_eq!(nearest("hots", names.into_iter()), Some("host"));
        assert_eq!(nearest("cache", names.into_iter()), None);
    }
}
