//! Rung: namespaces. Links, addresses and routes as the kernel shows them after each call.

mod bridge;
mod endpoint;
mod host;
mod netns;

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use ipnet::IpNet;
use netd::{
    link::{BridgeSpec, InsideSpec, VethSpec, label},
    model::{Device, IfName, Mac},
    netns::Netns,
};
use nix::sched::{CloneFlags, unshare};

/// Runs a test on a thread with a namespace of its own, which ends with the thread.
fn in_new_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the calling thread's namespace.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs many commands of `ip` at once, one a line.
fn ip_batch(commands: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("iproute2");
    child.stdin.take().expect("piped").write_all(commands.as_bytes()).expect("written");
    assert!(child.wait().expect("ended").success(), "{commands}");
}

fn name(text: &str) -> IfName {
    text.parse().expect("valid")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("valid")
}

/// Makes an anonymous namespace that lives as long as the value.
fn sandbox() -> Netns {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root");
        Netns::current().expect("namespace")
    };
    std::thread::spawn(make).join().expect("namespace")
}

fn bridge() -> BridgeSpec {
    BridgeSpec {
        ifname: name("br-test"),
        label: label("test", "network", "0123"),
        mac: Mac([2, 0x42, 0, 0, 0, 1]),
        mtu: 1400,
        addresses: vec![net("10.89.0.1/24"), net("fd00:89::1/64")],
        forwarding: true,
        ipv6: true,
    }
}

fn veth(netns: &Netns) -> VethSpec {
    VethSpec {
        device: Device::Veth,
        host_ifname: name("veth0000001"),
        label: label("test", "endpoint", "0123"),
        host_mac: Mac([2, 0x42, 0, 0, 1, 1]),
        peer_ifname: name("eth0"),
        peer_mac: Mac([2, 0x42, 10, 89, 0, 2]),
        peer_netns: netns.clone(),
        mtu: 1400,
    }
}

fn inside() -> InsideSpec {
    InsideSpec {
        quiet: false,
        ifname: name("eth0"),
        addresses: vec![net("10.89.0.2/24"), net("fd00:89::2/64")],
        mtu: 1400,
        gateway4: Some("10.89.0.1".parse().expect("valid")),
        gateway6: Some("fd00:89::1".parse().expect("valid")),
    }
}

/// Connects by TCP to a closed port: a refusal proves the way there and back.
fn answers(gateway: &str) {
    let address = std::net::SocketAddr::new(gateway.parse().expect("valid"), 9);
    let error =
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5)).expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{gateway}");
}

/// Waits for a condition, at most five seconds.
async fn until(condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time");
}
