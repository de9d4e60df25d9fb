//! `cargo xtask quickstart`: container networking without iptables, on real packets, in one command.

mod scene;
mod server;
mod story;
mod timing;

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    build, command, debian,
    layout::Layout,
    stage::{self, Stage, cable},
};
use scene::{NEIGHBOUR, STRANGER, Scene, WEB};
use story::Story;

/// Show netd at work: two networks, three sandboxes, a published web server, real packets
///
/// Everything happens in network namespaces of its own; nothing of this machine's network is touched, and everything is
/// cleaned up at the end, also after Ctrl-C. Exits non-zero if any step does not hold.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Skip set-up and build, because the caller did both
    #[arg(long, hide = true)]
    built: bool,
}

/// Runs `cargo xtask quickstart`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let layout = Layout::find();
    if let Some(stage) = Stage::enter()? {
        return perform(&layout.netd(false), &stage);
    }
    if !args.built {
        set_up()?;
        build::netd(&layout, false)?;
    }
    stage::raise()
}

fn set_up() -> Result<()> {
    if command::find("ip", &command::sbin()).is_none() {
        require("iproute2")?;
    }
    if server::program().is_none() {
        require("busybox")?;
    }
    Ok(())
}

fn require(package: &str) -> Result<()> {
    ensure!(
        debian::can_install(),
        "the quickstart needs {package}: install it, or run this as root on Debian or Ubuntu"
    );
    debian::install(&[package])
}

fn perform(netd: &Path, stage: &Stage) -> Result<ExitCode> {
    let mut story = Story::begin(
        "netd: container networking without iptables",
        "A host, a machine outside, two networks, three sandboxes; all in namespaces of their own.",
    );
    let mut scene = Scene::set(netd, stage)?;
    tell(&mut story, &mut scene);
    timing::tell(&mut story, &scene);
    strike(&mut story, scene);
    Ok(if story.end() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The steps that show something, in the order in which they read well.
fn tell(story: &mut Story, scene: &mut Scene) {
    story::part("A published port");
    for (host, outside) in scene.pairs() {
        story.shows(&format!("outside → http://{}", Scene::url(host)), || scene.sees_client(host, outside));
    }
    for loopback in scene.loopbacks() {
        let claim = format!("the host → http://{}, its own loopback", Scene::url(loopback));
        story.shows(&claim, || Scene::local(loopback));
    }
    let claim = format!("`{NEIGHBOUR}`, same network → `{WEB}`, directly and by its published port");
    story.shows(&claim, || scene.neighbourly());
    story::part("Walls");
    story.shows(&format!("`{STRANGER}`, other network → `{WEB}`: no way through"), || scene.isolated());
    story::part("The way out");
    for (host, outside) in scene.pairs() {
        story.shows(&format!("`{NEIGHBOUR}` → a server outside at {outside}"), || {
            scene.masqueraded(host, outside)
        });
    }
    story::part("The daemon is not in the path");
    story.shows("kill -9 the daemon: the port goes on answering; start it again: it takes over", || {
        scene.survives()
    });
    story::part("The connection table");
    match scene.daemon().run(&["flow", "ls"]) {
        Ok(table) => story::print(&head(&table, 14)),
        Err(error) => story.shows("netd flow ls", || Err(error)),
    }
}

/// Takes everything down by netd's own means and looks whether anything is left.
fn strike(story: &mut Story, scene: Scene) {
    story::part("Taking down");
    let daemon = scene.into_daemon();
    if story.failed() {
        story::part("The daemon's log, because a step did not hold");
        story::print(&daemon.log_tail());
    }
    story.shows("netd down", || {
        daemon.run(&["down"])?;
        let links = links()?;
        ensure!(
            links.iter().all(|link| link == "lo" || link == cable::UPLINK),
            "links are left: {}",
            links.join(" ")
        );
        Ok("no bridge, no veth and no program of netd's is left on this host".to_owned())
    });
}

fn links() -> Result<Vec<String>> {
    let text = command::capture(Command::new("ip").args(["-json", "link", "show"]))?;
    let links: Vec<serde_json::Value> = serde_json::from_str(&text).context("parse ip -json link")?;
    Ok(links.iter().filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect())
}

fn head(text: &str, lines: usize) -> String {
    let more = text.lines().count().saturating_sub(lines);
    let shown = text.lines().take(lines).collect::<Vec<_>>().join("\n");
    if more > 0 { format!("{shown}\n… and {more} more") } else { shown }
}

/// Microseconds for reading.
fn micros(count: u64) -> String {
    let duration = Duration::from_micros(count);
    if count < 1000 { format!("{count} µs") } else { format!("{:.1} ms", duration.as_secs_f64() * 1e3) }
}
