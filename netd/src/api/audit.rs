//! Who called, and for what: the peer's credentials, and the record of every call that changes something, refused or not, and of every call that was
//! denied (reliability.md S22, 8.3, 8.5). Whoever only looks is not written down.

use std::{fmt, fs, time::Instant};

use axum::http::{Method, StatusCode};
use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;

use super::dto::ErrorBody;
use crate::{
    audit::{Log, Peer, Record},
    controller::World,
};

/// Code of a call that was refused to this caller.
const DENIED: &str = "DENIED";

/// The process at the other end of a connection, as the kernel vouches for it (`SO_PEERCRED`).
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    peer: Peer,
    program: String,
}

impl Caller {
    pub(super) fn of(stream: &UnixStream) -> Self {
        let Ok(credentials) = stream.peer_cred() else { return Self::default() };
        let of_process = |file: &str| credentials.pid().map(|pid| format!("/proc/{pid}/{file}"));
        let read = |file: &str| of_process(file).and_then(|path| fs::read_to_string(path).ok());
        let executable = of_process("exe").and_then(|path| fs::read_link(path).ok());
        let cgroups = read("cgroup").unwrap_or_default();
        Self {
            peer: Peer {
                uid: Some(credentials.uid()),
                gid: Some(credentials.gid()),
                pid: credentials.pid(),
                executable: executable.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
                // The line of cgroup2 (cgroups(7)).
                cgroup: cgroups
                    .lines()
                    .find_map(|line| line.strip_prefix("0::"))
                    .unwrap_or_default()
                    .to_owned(),
            },
            program: read("comm").map(|name| name.trim_end().to_owned()).unwrap_or_default(),
        }
    }
}

impl Caller {
    /// The user; one whom the kernel does not name has what nobody shares.
    pub(super) fn uid(&self) -> u32 {
        self.peer.uid.unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.peer.uid, self.peer.pid) {
            (Some(uid), Some(pid)) => write!(f, "{} (pid {pid}, uid {uid})", self.program),
            _ => f.write_str("unknown"),
        }
    }
}

/// A call on its way through the server.
pub(super) struct Call {
    method: Method,
    path: String,
    time: jiff::Timestamp,
    monotonic: i64,
    began: Instant,
    objects: Vec<String>,
}

impl Call {
    pub(super) fn new(method: &Method, path: &str) -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).ok();
        Self {
            method: method.clone(),
            path: path.to_owned(),
            time: jiff::Timestamp::now(),
            monotonic: monotonic.map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec()),
            began: Instant::now(),
            objects: Vec::new(),
        }
    }

    /// Whether it is to change something.
    pub(super) fn is_mutating(&self) -> bool {
        !self.method.is_safe()
    }

    /// Notes what it is about, as long as that is there.
    pub(super) fn about(&mut self, world: &World, body: &[u8]) {
        let asked = Asked::of(&self.method, &self.path);
        let body: Named = serde_json::from_slice(body).unwrap_or_default();
        let of_body = [
            (asked.noun, body.name.as_str().filter(|_| asked.object.is_none())),
            ("sandbox", body.container.as_str()),
            ("network", body.network.as_str()),
        ];
        let words = [(asked.noun, asked.object)].into_iter().chain(of_body);
        self.objects = words.filter_map(|(noun, word)| Some(named(world, noun, word?))).collect();
    }

    /// Writes down what came of it, in the audit log and for whoever reads the daemon's messages.
    pub(super) fn record(
        self,
        log: &Log,
        caller: &Caller,
        op: &str,
        status: StatusCode,
        refusal: Option<&ErrorBody>,
        body: &[u8],
    ) {
        let code = refusal.map_or("OK", |refusal| refusal.code.as_str());
        if !self.is_mutating() && code != DENIED {
            return;
        }
        let Peer { uid, gid, pid, .. } = caller.peer;
        let (method, path, status) = (&self.method, &self.path, status.as_u16());
        let program = &caller.program;
        tracing::info!(target: "netd::audit", op, uid, gid, pid, %program, %method, path, status, "call answered");
        let asked = Asked::of(&self.method, &self.path);
        let mut objects = self.objects;
        objects.extend(made(asked.noun, body));
        log.record(Record {
            time: self.time.to_string(),
            monotonic: self.monotonic,
            op: op.to_owned(),
            peer: caller.peer.clone(),
            verb: asked.verb(),
            objects,
            code: code.to_owned(),
            status,
            duration: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
        });
    }
}

/// What a call asks for, by its path: `POST /networks/app/connect`.
struct Asked<'a> {
    noun: &'a str,
    verb: &'a str,
    object: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn of(method: &'a Method, path: &'a str) -> Self {
        let path = path.strip_prefix("/netd/v1").unwrap_or(path);
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let noun = match parts.next().unwrap_or_default() {
            "networks" => "network",
            "sandboxes" | "containers" => "sandbox",
            "policies" => "policy",
            "flows" => "flow",
            other => other,
        };
        let (verb, object) = match (method.as_str(), parts.next(), parts.next()) {
            // As in docker's API, these stand where a name would.
            ("POST", Some(verb @ ("create" | "prune")), None) => (verb, None),
            ("POST", None, None) => (if noun == "down" { "" } else { "create" }, None),
            ("DELETE", None, None) => ("flush", None),
            ("DELETE", object, None) => ("rm", object),
            ("DELETE", object, Some("links")) => ("unlink", object),
            (_, object, Some(verb)) => (verb, object),
            (method, object, None) => (method, object),
        };
        Self { noun, verb, object }
    }

    fn verb(&self) -> String {
        format!("{} {}", self.noun, self.verb).trim_end().to_owned()
    }
}

/// Returns `KIND:ID`; of a word that means nothing, the word itself.
fn named(world: &World, noun: &str, word: &str) -> String {
    let id = match noun {
        "network" => world.network(word).map(|network| network.id.to_string()),
        "sandbox" => world.sandbox(word).map(|sandbox| sandbox.id.to_string()),
        "policy" => world.policy(word).map(|(_, policy)| policy.id.to_string()),
        _ => Ok(word.to_owned()),
    };
    format!("{noun}:{}", id.unwrap_or_else(|_| word.to_owned()))
}

/// What a request names; of whatever else it says, as of the 60,000 ports of an answer, nothing is kept.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Named {
    name: Value,
    container: Value,
    network: Value,
}

/// The ids in an answer.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Made {
    id: Value,
    networks_deleted: Value,
}

/// Returns what an answer says of objects that were made or removed.
fn made(noun: &str, body: &[u8]) -> Vec<String> {
    let Made { id, networks_deleted } = serde_json::from_slice(body).unwrap_or_default();
    let pruned = networks_deleted.as_array().into_iter().flatten();
    let ids = [&id].into_iter().chain(pruned).filter_map(Value::as_str);
    ids.map(|id| format!("{noun}:{id}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_in_the_words_of_the_command_line() {
        for (method, path, verb, object) in [
            (Method::POST, "/networks/create", "network create", None),
            (Method::POST, "/networks/prune", "network prune", None),
            (Method::DELETE, "/networks/app", "network rm", Some("app")),
            (Method::POST, "/networks/app/connect", "network connect", Some("app")),
            (Method::POST, "/netd/v1/sandboxes", "sandbox create", None),
            (Method::DELETE, "/netd/v1/sandboxes/web", "sandbox rm", Some("web")),
            (Method::POST, "/netd/v1/sandboxes/web/publish", "sandbox publish", Some("web")),
            (Method::DELETE, "/netd/v1/sandboxes/web/links/db", "sandbox unlink", Some("web")),
            (Method::DELETE, "/netd/v1/policies/12ab", "policy rm", Some("12ab")),
            (Method::DELETE, "/netd/v1/flows", "flow flush", None),
            (Method::POST, "/netd/v1/down", "down", None),
            (Method::PUT, "/", "PUT", None),
        ] {
            let asked = Asked::of(&method, path);
            assert_eq!((asked.verb().trim(), asked.object), (verb, object), "{method} {path}");
        }
    }

    #[test]
    fn what_was_made_stands_in_the_answer() {
        assert_eq!(made("network", br#"{"Id":"12ab","Warning":""}"#), ["network:12ab"]);
        assert_eq!(made("network", br#"{"NetworksDeleted":["a","b"]}"#), ["network:a", "network:b"]);
        assert_eq!(made("sandbox", b""), [""; 0]);
    }
}
