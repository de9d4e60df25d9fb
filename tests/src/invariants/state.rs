//! I7, and the state that all else is compared with: files parse, checksums are right, the journal is empty, nothing temporary is left.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::Value;

use super::{Faults, logs};
use crate::Dirs;

/// What the state directory says.
#[derive(Debug, Default)]
pub struct State {
    pub networks: Vec<Value>,
    pub sandboxes: Vec<Value>,
}

/// An endpoint with its surroundings.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    pub sandbox: &'a Value,
    pub endpoint: &'a Value,
    pub network: &'a Value,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    pub ip: IpAddr,
    pub port: u16,
    pub protocol: u8,
    pub inner: u16,
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The address of a value such as `172.20.0.2/24`.
pub fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.split('/').next()?.parse().ok()
}

impl State {
    /// Networks with a bridge.
    pub fn bridged(&self) -> impl Iterator<Item = &Value> {
        self.networks.iter().filter(|network| network["driver"] == "bridge")
    }

    pub fn endpoints(&self) -> impl Iterator<Item = Attachment<'_>> {
        self.sandboxes.iter().flat_map(move |sandbox| {
            let endpoints = sandbox["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
            endpoints.iter().filter_map(move |endpoint| {
                let network = self.networks.iter().find(|network| network["id"] == endpoint["network"])?;
                Some(Attachment { sandbox, endpoint, network })
            })
        })
    }

    /// Every published port that takes one of the host's, with the endpoint it leads to.
    pub fn bindings(&self) -> impl Iterator<Item = (Binding, Attachment<'_>)> {
        self.endpoints().flat_map(|endpoint| {
            let runs = endpoint.sandbox["bindings"].as_array().map(Vec::as_slice).unwrap_or_default();
            let runs = runs.iter().filter(move |run| run["endpoint"] == endpoint.endpoint["id"]);
            runs.flat_map(expand).map(move |binding| (binding, endpoint))
        })
    }
}

fn expand(run: &Value) -> Vec<Binding> {
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or_default();
    let (first, last) = (number(&run["host_ports"][0]), number(&run["host_ports"][1]));
    let inner = number(&run["ports"][0]);
    let protocol = match text(run, "protocol") {
        "tcp" => 6,
        "udp" => 17,
        _ => 132,
    };
    let Some(ip) = address(&run["host_ip"]) else { return Vec::new() };
    let ports = (first..=last).filter(|port| *port != 0);
    ports.map(|port| Binding { ip, port, protocol, inner: inner + (port - first) }).collect()
}

/// Reads the state directory; what is wrong with it is a fault.
pub fn read(dirs: &Dirs, faults: &mut Faults) -> State {
    let dir = dirs.path("state");
    let mut state = State::default();
    object(&dir.join("meta.json"), "meta", faults);
    for (folder, kind) in [("networks", "network"), ("sandboxes", "sandbox")] {
        for name in names(&dir.join(folder), faults) {
            let path = dir.join(folder).join(&name);
            if name.ends_with(".json.prev") {
                object(&path, kind, faults);
                let current = path.with_extension("");
                faults.check(current.exists(), || {
                    format!("too much: {} without its successor", path.display())
                });
                continue;
            }
            let Some(id) = name.strip_suffix(".json") else {
                faults.add(format!("too much: file {}", path.display()));
                continue;
            };
            let body = object(&path, kind, faults);
            faults.check(body["id"] == id, || format!("wrong: {} holds another object", path.display()));
            if kind == "network" { state.networks.push(body) } else { state.sandboxes.push(body) }
        }
    }
    let journal = object(&dir.join("journal.json"), "journal", faults);
    faults.check(journal.is_null(), || format!("wrong: the journal is not empty: {journal}"));
    let known = [
        "meta.json",
        "meta.json.prev",
        "journal.json",
        "lock",
        "networks",
        "sandboxes",
        "audit",
        logs::ANSWERS[0],
        logs::ANSWERS[1],
    ];
    for name in names(&dir, faults) {
        faults.check(known.contains(&name.as_str()), || format!("too much: {name} in the state directory"));
    }
    for endpoint in
        state.sandboxes.iter().flat_map(|sandbox| sandbox["endpoints"].as_array().into_iter().flatten())
    {
        let there = state.networks.iter().any(|network| network["id"] == endpoint["network"]);
        faults.check(there, || format!("wrong: endpoint {} is on no network", endpoint["id"]));
    }
    unique(&state, faults);
    state
}

/// Lists what the state directory holds by its names: `network NAME`, `sandbox NAME`, `port SANDBOX PORT`. What cannot be read is left out.
pub fn stored(dirs: &Dirs) -> BTreeSet<String> {
    let state = read(dirs, &mut Faults::default());
    let networks = state.networks.iter().map(|network| format!("network {}", text(network, "name")));
    let sandboxes = state.sandboxes.iter().map(|sandbox| format!("sandbox {}", text(sandbox, "name")));
    let ports =
        state.bindings().map(|(binding, at)| format!("port {} {}", text(at.sandbox, "name"), binding.port));
    networks.chain(sandboxes).chain(ports).collect()
}

/// I2: nothing is had twice.
fn unique(state: &State, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    let mut once = |what: &str, value: String| {
        let fault = format!("twice: {what} {value}");
        if !value.is_empty() && !seen.insert((what.to_owned(), value)) {
            faults.add(fault);
        }
    };
    for network in &state.networks {
        once("network name", text(network, "name").to_owned());
        once(
            "bridge",
            if network["driver"] == "bridge" {
                network["bridge"]["ifname"].to_string()
            } else {
                String::new()
            },
        );
        once("slot", if network["index"].is_null() { String::new() } else { network["index"].to_string() });
    }
    for sandbox in &state.sandboxes {
        once("sandbox name", text(sandbox, "name").to_owned());
    }
    for Attachment { endpoint, .. } in state.endpoints() {
        for key in ["id", "host_ifname", "mac"] {
            once(key, text(endpoint, key).to_owned());
        }
        for key in ["ipv4", "ipv6"] {
            once("address", text(endpoint, key).to_owned());
        }
    }
    for (binding, _) in state.bindings() {
        once("published port", format!("{}:{}/{}", binding.ip, binding.port, binding.protocol));
    }
}

/// Reads one file: `{"kind":…,"schema":…,"length":…,"crc32":…,"body":BODY}`; null after a fault.
fn object(path: &Path, kind: &str, faults: &mut Faults) -> Value {
    match parse(path, kind) {
        Ok(body) => body,
        Err(why) => {
            faults.add(format!("damaged: {}: {why}", path.display()));
            Value::Null
        }
    }
}

fn parse(path: &Path, kind: &str) -> Result<Value, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let start = bytes.windows(8).position(|window| window == b",\"body\":").ok_or("no body")? + 8;
    let length = usize::try_from(json["length"].as_u64().ok_or("no length")?).map_err(|e| e.to_string())?;
    let body = bytes.get(start..start + length).ok_or("it is too short")?;
    let title = kind[..1].to_uppercase() + &kind[1..];
    let sum = crc32(&[format!("{title} {}\n", json["schema"]).as_bytes(), body].concat());
    if json["kind"] != kind {
        return Err(format!("it is a {}", json["kind"]));
    }
    if text(&json, "crc32") != format!("{sum:08x}") {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(json["body"].clone())
}

/// CRC-32 of ISO-HDLC, bit by bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

pub fn names(dir: &Path, faults: &mut Faults) -> Vec<String> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
        Err(error) => {
            faults.add(format!("missing: {}: {error}", dir.display()));
            Vec::new()
        }
    }
}

/// I1: the API tells of the same networks and sandboxes.
pub fn compare_with_api(state: &State, dirs: &Dirs, faults: &mut Faults) {
    for (path, id, stored) in
        [("/networks", "Id", &state.networks), ("/netd/v1/sandboxes", "Id", &state.sandboxes)]
    {
        let Some(list) = get(dirs, path) else {
            faults.add(format!("missing: an answer to GET {path}"));
            continue;
        };
        let told = list.as_array().into_iter().flatten().map(|item| text(item, id).to_owned()).collect();
        let wanted = stored.iter().map(|object| text(object, "id").to_owned()).collect();
        faults.same(&format!("object of GET {path}"), &wanted, &told);
    }
}

/// Asks the API.
pub fn get(dirs: &Dirs, path: &str) -> Option<Value> {
    let mut socket = UnixStream::connect(dirs.socket()).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: netd\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_the_one_that_everybody_knows() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926); // the check value of CRC-32/ISO-HDLC
    }
}
