//! Attaches the programs of `netd-ebpf/src/bin/redirect.rs` until stdin ends: what `cargo xtask bench` compares netd's with. Run it in the host's namespace.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType},
};
use clap::Parser as _;
use nix::net::if_::if_nametoindex;

/// Where packets go.
#[derive(Debug, clap::Parser)]
struct Args {
    /// The object
    #[arg(long)]
    object: PathBuf,
    /// Interface that leads outside
    #[arg(long)]
    uplink: String,
    /// IPv4 address of the machine beyond
    #[arg(long)]
    beyond4: Ipv4Addr,
    /// IPv6 address of the machine beyond
    #[arg(long)]
    beyond6: Ipv6Addr,
    /// Host sides of the two sandboxes' veths
    #[arg(long, num_args = 2)]
    veths: Vec<String>,
    /// Addresses of the first sandbox, then of the second, an IPv4 and an IPv6 one each
    #[arg(long, num_args = 4)]
    addresses: Vec<IpAddr>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut ebpf = load(&args)?;
    attach(&mut ebpf, "from_uplink", &args.uplink)?;
    for veth in &args.veths {
        attach(&mut ebpf, "from_endpoint", veth)?;
    }
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of stdin")?;
    Ok(())
}

fn load(args: &Args) -> Result<Ebpf> {
    let uplink = index(&args.uplink)?;
    let veths = args.veths.iter().map(|veth| index(veth)).collect::<Result<Vec<u32>>>()?;
    let ends = |v4: bool| -> Vec<u32> {
        args.addresses
            .iter()
            .filter(|address| address.is_ipv4() == v4)
            .map(|address| last_word(*address))
            .collect()
    };
    let (ends4, ends6) = (ends(true), ends(false));
    let beyond4 = last_word(args.beyond4.into());
    let beyond6 = args.beyond6.octets();
    EbpfLoader::new()
        .override_global("UPLINK", &uplink, true)
        .override_global("VETHS", &veths[..], true)
        .override_global("ENDS4", &ends4[..], true)
        .override_global("ENDS6", &ends6[..], true)
        .override_global("BEYOND4", &beyond4, true)
        .override_global("BEYOND6", &beyond6[..], true)
        .load_file(&args.object)
        .with_context(|| format!("load {}", args.object.display()))
}

fn index(ifname: &str) -> Result<u32> {
    if_nametoindex(ifname).with_context(|| format!("find the interface {ifname}"))
}

/// Returns the last four bytes of an address, as a program reads them.
fn last_word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => u32::from_ne_bytes(address.octets()),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            u32::from_ne_bytes([a, b, c, d])
        }
    }
}

fn attach(ebpf: &mut Ebpf, name: &str, ifname: &str) -> Result<()> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("load {name}"))?;
    }
    program.attach(ifname, TcAttachType::Ingress).with_context(|| format!("attach {name} to {ifname}"))?;
    Ok(())
}
