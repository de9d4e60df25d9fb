//! One measurement: a client on a road, what it achieved, and whether the server saw it come the right way.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    field::{Road, SERVER_CPU},
    plan::Workload,
};
use crate::{
    command,
    peer::{self, Asked, Blast, Load, Seen},
};

/// The processor of every client: another than the servers', where there is one.
pub fn client_cpu() -> usize {
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (SERVER_CPU + 1) % processors
}

/// Measures a workload, and returns a value for each of its metrics.
pub fn run(workload: Workload, road: &Road, duration: Duration) -> Result<Vec<f64>> {
    road.server.seen()?;
    match workload {
        Workload::Stream => stream(road, duration),
        Workload::Rr => {
            let asked = ask(road, duration)?;
            came_by(road, &road.server.seen()?)?;
            Ok(vec![asked.rate, asked.p50, asked.p99])
        }
        Workload::Connect => {
            let load: Load = parse(&command::capture(&mut client(road, "load", duration)?)?)?;
            let seen = road.server.seen()?;
            came_by(road, &seen)?;
            ensure!(
                seen.connections == load.connections,
                "the client made {} connections, the server saw {}",
                load.connections,
                seen.connections
            );
            Ok(vec![load.rate()])
        }
        Workload::Udp => udp(road, duration),
        Workload::Latency => {
            let mut stream = start_stream(road, duration + Duration::from_secs(1))?;
            thread::sleep(Duration::from_millis(300));
            let asked = ask(road, duration);
            let streamed = stream.wait().context("wait for iperf3")?;
            let asked = asked?;
            ensure!(streamed.success(), "the stream beside it failed: iperf3 ended with {streamed}");
            came_by(road, &road.server.seen()?)?;
            Ok(vec![asked.p50, asked.p99])
        }
    }
}

fn client(road: &Road, peer: &str, duration: Duration) -> Result<Command> {
    let program = peer::program()?;
    let mut client = road.client.pinned(client_cpu(), &program.to_string_lossy())?;
    let target = SocketAddr::new(road.target, road.port);
    client.args(["peer", peer, &target.to_string(), &duration.as_millis().to_string()]);
    Ok(client)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).context("parse a client's result")
}

fn ask(road: &Road, duration: Duration) -> Result<Asked> {
    parse(&command::capture(&mut client(road, "ask", duration)?)?)
}

/// The rate is that of datagrams which arrived.
fn udp(road: &Road, duration: Duration) -> Result<Vec<f64>> {
    let blast: Blast = parse(&command::capture(&mut client(road, "blast", duration)?)?)?;
    let mut seen = road.server.seen()?;
    came_by(road, &seen)?;
    loop {
        thread::sleep(Duration::from_millis(5));
        let more = road.server.seen()?.datagrams;
        if more == 0 {
            break;
        }
        seen.datagrams += more;
    }
    ensure!(seen.datagrams <= blast.sent, "{} datagrams arrived of {}", seen.datagrams, blast.sent);
    Ok(vec![count(seen.datagrams) / blast.seconds])
}

#[expect(clippy::cast_precision_loss, reason = "a count of packets of some seconds is far below 2^52")]
fn count(packets: u64) -> f64 {
    packets as f64
}

/// Checks where the server saw the client: the right address is the path's signature.
fn came_by(road: &Road, seen: &Seen) -> Result<()> {
    match seen.source {
        Some(source) if source == road.source => Ok(()),
        Some(source) => bail!("the server saw {source} instead of {}: another path", road.source),
        None => bail!("the server saw nobody"),
    }
}

fn start_stream(road: &Road, duration: Duration) -> Result<Child> {
    let mut iperf = iperf(road, duration)?;
    iperf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start iperf3")
}

fn iperf(road: &Road, duration: Duration) -> Result<Command> {
    let mut iperf = road.client.pinned(client_cpu(), "iperf3")?;
    // iperf3 knows whole seconds.
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    iperf.args(["-c", &road.target.to_string(), "-p", &road.stream_port.to_string()]);
    iperf.args(["-t", &seconds.to_string(), "-J", "--get-server-output", "--connect-timeout", "3000"]);
    Ok(iperf)
}

fn stream(road: &Road, duration: Duration) -> Result<Vec<f64>> {
    let output = iperf(road, duration)?.stdin(Stdio::null()).output().context("run iperf3")?;
    let result: Value = serde_json::from_slice(&output.stdout).context("parse iperf3's result")?;
    if let Some(error) = result["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let rate = result["end"]["sum_received"]["bits_per_second"].as_f64();
    let rate = rate.context("iperf3 tells no rate")?;
    let source = accepted_from(result["server_output_text"].as_str().unwrap_or_default());
    came_by(road, &Seen { connections: 1, datagrams: 0, source })?;
    Ok(vec![rate / 1e9])
}

/// Reads `Accepted connection from ADDRESS, port PORT`.
fn accepted_from(text: &str) -> Option<IpAddr> {
    let rest = text.split_once("Accepted connection from ")?.1;
    let address: IpAddr = rest.split_once(',')?.0.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::accepted_from;

    #[test]
    fn iperf3_says_whom_it_accepted() {
        let text = "Accepted connection from ::ffff:192.0.2.2, port 54321\n[  5] local ...";
        assert_eq!(accepted_from(text), "192.0.2.2".parse().ok());
        assert_eq!(accepted_from("server busy"), None);
    }
}
