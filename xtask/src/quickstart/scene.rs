//! The scene: a daemon, networks `front` and `back`, sandboxes `web`, `neighbour` and `stranger`, a machine outside.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    micros, server,
    story::{self, must},
};
use crate::{
    command,
    peer::{self, Fetched},
    stage::{
        Stage,
        cable::{self, World},
        daemon::Daemon,
        netns::Netns,
    },
};

/// The sandbox that serves.
pub const WEB: &str = "web";
/// The sandbox beside it.
pub const NEIGHBOUR: &str = "neighbour";
/// The sandbox in the other network.
pub const STRANGER: &str = "stranger";
/// The port inside `web`.
pub const WEB_PORT: u16 = 80;
/// The port it is published as.
pub const PORT: u16 = 8080;
/// Where the machine outside serves.
const OUTSIDE_PORT: u16 = 80;
/// Long for an answer on one machine, short for a person who waits for silence.
const PATIENCE: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(700);

/// Everything on stage.
#[derive(Debug)]
pub struct Scene {
    world: World,
    daemon: Daemon,
    outside_server: Child,
}

impl Scene {
    /// Sets the scene, step by step.
    pub fn set(netd: &Path, stage: &Stage) -> Result<Self> {
        story::part("Setting the scene");
        let server = server::program().context("there is neither python3 nor busybox")?;
        let world = must(|| {
            let world = World::around(Netns::here())?;
            let addresses = list(&world.host_addresses());
            Ok((world, format!("a host ({addresses}) and a machine outside, joined by a cable")))
        })?;
        let outside_server = serve_outside(&world, &server, stage)?;
        let daemon = must(|| Ok((Daemon::start(netd, stage)?, "netd daemon is up".to_owned())))?;
        let scene = Self { world, daemon, outside_server };
        for network in ["front", "back"] {
            must(|| scene.create_network(network))?;
        }
        must(|| scene.run_web(&server, stage))?;
        for (sandbox, network) in [(NEIGHBOUR, "front"), (STRANGER, "back")] {
            must(|| {
                scene.daemon.run(&["sandbox", "create", "--network", network, sandbox])?;
                let addresses = list(&scene.daemon.addresses(sandbox, network)?);
                Ok(((), format!("sandbox `{sandbox}` in `{network}`: {addresses}")))
            })?;
        }
        must(|| {
            answers(|| scene.fetch_from(WEB, Ipv4Addr::LOCALHOST.into(), WEB_PORT))?;
            answers(|| scene.fetch_from_outside(Ipv4Addr::LOCALHOST.into(), OUTSIDE_PORT))?;
            Ok(((), format!("{} answers in `{WEB}`, and another one outside", server.name())))
        })?;
        Ok(scene)
    }

    /// The daemon on stage.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// The host and the machine outside.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Ends the server outside and keeps the daemon.
    pub fn into_daemon(mut self) -> Daemon {
        let _ = self.outside_server.kill();
        let _ = self.outside_server.wait();
        self.daemon
    }

    /// The host's and the outside machine's address, per family.
    pub fn pairs(&self) -> Vec<(IpAddr, IpAddr)> {
        self.world.host_addresses().into_iter().zip(self.world.outside_addresses()).collect()
    }

    /// The loopback address of every family there is.
    pub fn loopbacks(&self) -> Vec<IpAddr> {
        let all = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        all.into_iter().filter(|address| address.is_ipv4() || self.world.ipv6).collect()
    }

    /// The published port at one of the host's addresses, as in a URL.
    pub fn url(host: IpAddr) -> SocketAddr {
        SocketAddr::new(host, PORT)
    }

    /// Fetches the published port from outside, and checks whom the server saw.
    pub fn sees_client(&self, host: IpAddr, outside: IpAddr) -> Result<String> {
        let page = self.fetch_from_outside(host, PORT)?;
        expect_client("the server", &page, outside)?;
        Ok(format!(
            "answered in {}; the server saw the client's real address, {outside}",
            micros(page.micros)
        ))
    }

    /// Fetches the port at the host's own loopback.
    pub fn local(loopback: IpAddr) -> Result<String> {
        let page = fetch(peer::command(&[])?, loopback, PORT, PATIENCE)?;
        Ok(format!("answered in {}, without a proxy process", micros(page.micros)))
    }

    /// Reaches `web` from its neighbour, directly and through the host.
    pub fn neighbourly(&self) -> Result<String> {
        let web = self.web()?;
        let direct = self.fetch_from(NEIGHBOUR, web, WEB_PORT)?;
        let published = self.fetch_from(NEIGHBOUR, cable::HOST4.into(), PORT)?;
        Ok(format!("{web} in {}; the host's address in {}", micros(direct.micros), micros(published.micros)))
    }

    /// Tries to reach `web` from the other network, with two positive controls: the stranger's own network works, and
    /// `web` answers at the same addresses.
    pub fn isolated(&self) -> Result<String> {
        let targets = self.daemon.addresses(WEB, "front")?;
        for &target in &targets {
            if self.fetch(STRANGER, target, WEB_PORT, SILENCE).is_ok() {
                bail!("`{STRANGER}` reached {target}");
            }
            self.fetch_from(NEIGHBOUR, target, WEB_PORT).context("control: the neighbour reaches it")?;
        }
        self.fetch_from(STRANGER, cable::OUTSIDE4.into(), OUTSIDE_PORT).context("control: the way out")?;
        Ok(format!("silence from {}; the same `{STRANGER}` reaches the world outside", list(&targets)))
    }

    /// Fetches a page outside from a sandbox, and checks that the host's address is all that is seen there.
    pub fn masqueraded(&self, host: IpAddr, outside: IpAddr) -> Result<String> {
        let page = self.fetch_from(NEIGHBOUR, outside, OUTSIDE_PORT)?;
        expect_client("the server outside", &page, host)?;
        Ok(format!("answered in {}; out there only the host's address is seen, {host}", micros(page.micros)))
    }

    /// Kills the daemon, fetches the port, and starts the daemon again.
    pub fn survives(&mut self) -> Result<String> {
        self.daemon.kill()?;
        self.fetch_from_outside(cable::HOST4.into(), PORT).context("with the daemon killed")?;
        let started = Instant::now();
        self.daemon.start_again()?;
        let took = started.elapsed();
        self.fetch_from_outside(cable::HOST4.into(), PORT).context("with the daemon started again")?;
        let ports = self.daemon.run(&["port", WEB])?;
        ensure!(ports.contains(&PORT.to_string()), "the new daemon forgot the published port");
        Ok(format!("taken over in {}", crate::ui::seconds(took)))
    }

    fn create_network(&self, name: &str) -> Result<((), String)> {
        let mut create = vec!["network", "create"];
        if self.world.ipv6 {
            create.push("--ipv6");
        }
        create.push(name);
        self.daemon.run(&create)?;
        let inspected = self.daemon.inspect("network", name)?;
        let configs = inspected["IPAM"]["Config"].as_array().cloned().unwrap_or_default();
        let subnets: Vec<&str> = configs.iter().filter_map(|config| config["Subnet"].as_str()).collect();
        Ok(((), format!("network `{name}`: {}", subnets.join(", "))))
    }

    fn run_web(&self, server: &server::Program, stage: &Stage) -> Result<((), String)> {
        let publish = format!("{PORT}:{WEB_PORT}");
        let mut run =
            self.daemon.command(&["run", "-d", "--name", WEB, "--network", "front", "-p", &publish, "--"]);
        command::capture(run.args(server.command_line(&stage.dir().join("web"), WEB_PORT)?))?;
        let addresses = list(&self.daemon.addresses(WEB, "front")?);
        Ok(((), format!("sandbox `{WEB}` in `front`: {addresses}; its port {WEB_PORT} published as {PORT}")))
    }

    fn web(&self) -> Result<IpAddr> {
        self.daemon.addresses(WEB, "front")?.first().copied().context("`web` has no address")
    }

    fn fetch_from(&self, sandbox: &str, address: IpAddr, port: u16) -> Result<Fetched> {
        self.fetch(sandbox, address, port, PATIENCE).with_context(|| format!("`{sandbox}` → {address}"))
    }

    fn fetch(&self, sandbox: &str, address: IpAddr, port: u16, patience: Duration) -> Result<Fetched> {
        let mut exec = self.daemon.command(&["exec", sandbox, "--"]);
        exec.arg(peer::program()?).arg("peer");
        fetch(exec, address, port, patience)
    }

    fn fetch_from_outside(&self, address: IpAddr, port: u16) -> Result<Fetched> {
        fetch(self.world.outside.peer(&[])?, address, port, PATIENCE)
            .with_context(|| format!("outside → {address} port {port}"))
    }
}

/// Checks whom a server saw. Where it listens on IPv6, its idea of an IPv4 client is `[::ffff:192.0.2.2]`.
fn expect_client(server: &str, page: &Fetched, client: IpAddr) -> Result<()> {
    let seen = page.body.trim_matches(['[', ']']).parse::<IpAddr>();
    let seen = seen
        .with_context(|| format!("{server} answered `{}`, which is no address", page.body))?
        .to_canonical();
    ensure!(seen == client, "{server} saw {seen} instead of {client}");
    Ok(())
}

/// Completes a command that runs a peer, and returns what it fetched.
fn fetch(mut peer: Command, address: IpAddr, port: u16, patience: Duration) -> Result<Fetched> {
    let target = SocketAddr::new(address, port).to_string();
    let answer = command::capture(peer.args(["fetch", &target, &patience.as_millis().to_string()]))?;
    serde_json::from_str(&answer).context("parse what a peer fetched")
}

/// Waits until a server answers.
fn answers(fetch: impl Fn() -> Result<Fetched>) -> Result<()> {
    const DEADLINE: Duration = Duration::from_secs(10);
    let started = Instant::now();
    loop {
        match fetch() {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > DEADLINE => return Err(error.context("wait for a server")),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn serve_outside(world: &World, server: &server::Program, stage: &Stage) -> Result<Child> {
    let words = server.command_line(&stage.dir().join("outside"), OUTSIDE_PORT)?;
    let (program, args) = words.split_first().context("the server has no command line")?;
    world.outside.command(program)?.args(args).stdout(Stdio::null()).spawn().context("start a server outside")
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}
