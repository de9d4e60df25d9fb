//! Loads the programs against the instance's pinned maps, which are made at the first start and adopted at every later one.

use std::{
    fs,
    os::fd::AsFd,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{MapInfo, MapType},
    programs::{CgroupSockAddr, Program, SchedClassifier, TestRun, TestRunOptions},
};
use netd_common::{
    family::{Family, V6},
    maps::features,
    net::LOOPBACK_ZONE,
};

use super::{
    Error, Settings, attach,
    layout::{Kind, Layout, Shape},
    maps, migrate,
    object::OBJECT,
};

/// The packet programs, by name.
pub const PACKET_PROGRAMS: [&str; 7] = [
    "from_endpoint",
    "to_endpoint",
    "from_uplink",
    "to_uplink",
    "from_bare_uplink",
    "to_bare_uplink",
    "from_loopback",
];
/// Those that every host needs; the others are loaded when a device wants them.
const ALWAYS: usize = 4;
/// The socket programs, by name.
pub const SOCKET_PROGRAMS: [&str; 10] = [
    "bind4",
    "bind6",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];
/// Environment variable for who builds netd: the programs then count every verdict, and not drops alone.
const COUNT_VERDICTS: &str = "NETD_COUNT_VERDICTS";
/// Asks the kernel for a feature; never attached.
const PROBE: &str = "probe_csum_ipv6";

/// Makes the pin directories, checks what is pinned there, and loads every program.
///
/// # Errors
/// One that names the program or map and the kernel's reason.
pub fn load(settings: &Settings, pins: &Path, layout: &Layout) -> Result<Ebpf, Error> {
    // Every kernel that netd runs on has names of programs; where asking for them failed, the next start asks again.
    if !aya::features().bpf_name() {
        let short = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        return Err(Error::kernel("ask the kernel which eBPF features it has".to_owned(), short));
    }
    migrate::record(pins, layout)?;
    check_pinned(pins, layout)?;
    let mut loader = EbpfLoader::new();
    // The object has no CO-RE relocations: without the kernel's BTF the daemon stays small. Level 0 would hide why a program was refused:
    // the kernel takes no log buffer then, and answers EINVAL.
    loader.btf(None).verifier_log_level(VerifierLogLevel::STATS);
    for name in maps::NAMES {
        loader.map_pin_path(name, pins.join(name));
    }
    if std::env::var_os(COUNT_VERDICTS).is_some() {
        loader.override_global("COUNT_VERDICTS", &1_u32, true);
    }
    let (v4, v6) = (settings.flow_entries, settings.flow_entries.div_ceil(super::IPV6_SHARE));
    for (name, entries) in
        [("FLOW4", v4), ("FLOW6", v6), ("PENDING4", v4.div_ceil(2)), ("PENDING6", v6.div_ceil(2))]
    {
        loader.map_max_entries(name, entries);
    }
    let mut ebpf =
        loader.load(OBJECT).map_err(|source| Error::kernel("load the eBPF object".to_owned(), source))?;
    check_pinned(pins, layout)?;
    let loopback = attach::is_attached(&pins.join("links"), attach::Side::Loopback, LOOPBACK_ZONE);
    load_together(&mut ebpf, loopback)?;
    Ok(ebpf)
}

/// Makes the directories of the pins.
///
/// # Errors
/// Names the directory.
pub fn make_dirs(bpffs: &Path, pins: &Path) -> Result<(), Error> {
    [bpffs, pins, &pins.join("links")].into_iter().try_for_each(make_dir)
}

/// Loads what every host needs, and `lo`'s program if this one needs it, on as many threads as there are processors: the kernel verifies each program by itself, most of a second in all.
fn load_together(ebpf: &mut Ebpf, loopback: bool) -> Result<(), Error> {
    let wanted = |name: &str| {
        PACKET_PROGRAMS[..ALWAYS].contains(&name)
            || name == PROBE
            || SOCKET_PROGRAMS.contains(&name)
            || loopback && name == "from_loopback"
    };
    let known = ebpf.programs().filter(|(name, _)| wanted(name)).count();
    if known != ALWAYS + 1 + SOCKET_PROGRAMS.len() + usize::from(loopback) {
        return Err(Error::Unsupported("the eBPF object lacks programs".to_owned()));
    }
    let mut programs: Vec<(&str, &mut Program)> =
        ebpf.programs_mut().filter(|(name, _)| wanted(name)).collect();
    // The dearest last: they are taken from there first.
    programs.sort_by_key(|(name, _)| (PACKET_PROGRAMS.contains(name), name.starts_with("from_")));
    let waiting = Mutex::new(programs);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || -> Result<(), Error> {
        while let Some((name, program)) = next() {
            let loaded = match program {
                Program::SchedClassifier(program) => program.load(),
                Program::CgroupSockAddr(program) => program.load(),
                _ => return Err(Error::Unsupported(format!("program {name} is of another kind"))),
            };
            loaded.map_err(|source| Error::kernel(format!("load program {name}"), source))?;
        }
        Ok(())
    };
    let others = thread::available_parallelism().map_or(0, |all| all.get().min(4) - 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::Unsupported("loading programs failed".to_owned())))
        });
        joined.fold(own, Result::and)
    })
}

/// Makes a directory on the bpffs, for root alone.
fn make_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::kernel(format!("make the directory {}", dir.display()), source))
}

/// Refuses pinned maps that are not what their directory says: reading them would misread every entry.
fn check_pinned(pins: &Path, layout: &Layout) -> Result<(), Error> {
    layout.maps.iter().try_for_each(|shape| pinned(&pins.join(&shape.name), shape))
}

/// Refuses a pin that is not the map of this shape; none is fine.
///
/// # Errors
/// Names the pin and what it is.
pub fn pinned(path: &Path, shape: &Shape) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let failed = |source| Error::kernel(format!("inspect the pinned map {}", path.display()), source);
    let info = MapInfo::from_pin(path).map_err(failed)?;
    if is_of_shape(&info, shape) {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "the pinned map {} is not netd's: (kind, size of a key, size of a value, entries) are {:?}, not {:?}",
        path.display(),
        found(&info),
        wanted(shape),
    )))
}

type Form = (Option<MapType>, usize, usize, u32);

/// Whether a map is one of this shape.
pub fn is_of_shape(info: &MapInfo, shape: &Shape) -> bool {
    found(info) == wanted(shape)
}

fn found(info: &MapInfo) -> Form {
    (info.map_type().ok(), info.key_size() as usize, info.value_size() as usize, info.max_entries())
}

fn wanted(shape: &Shape) -> Form {
    (Some(map_type(shape.kind)), shape.key_size(), shape.value_size(), shape.entries)
}

const fn map_type(kind: Kind) -> MapType {
    match kind {
        Kind::Array => MapType::Array,
        Kind::PerCpuArray => MapType::PerCpuArray,
        Kind::Hash => MapType::Hash,
        Kind::LruHash => MapType::LruHash,
        Kind::LpmTrie => MapType::LpmTrie,
    }
}

/// Loads a packet program that is not loaded yet.
///
/// # Errors
/// Names the program and the kernel's reason.
pub fn on_demand(ebpf: &mut Ebpf, name: &str) -> Result<(), Error> {
    let program = packet_program(ebpf, name)?;
    if program.fd().is_ok() {
        return Ok(());
    }
    program.load().map_err(|source| Error::kernel(format!("load program {name}"), source))
}

/// Returns a packet program of the object.
pub fn packet_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    ebpf.program_mut(name)
        .and_then(|program| <&mut SchedClassifier>::try_from(program).ok())
        .ok_or_else(|| Error::Unsupported(format!("the eBPF object has no packet program {name}")))
}

/// Returns a socket program of the object.
pub fn socket_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr, Error> {
    ebpf.program_mut(name)
        .and_then(|program| <&mut CgroupSockAddr>::try_from(program).ok())
        .ok_or_else(|| Error::Unsupported(format!("the eBPF object has no socket program {name}")))
}

/// Finds out what the kernel can, as `netd_common::maps::features`.
pub fn probe_features(ebpf: &mut Ebpf) -> u32 {
    let mut found = 0;
    if kernel_release().is_some_and(|release| release >= (6, 15)) {
        found |= features::PEER_SCRUBS;
    }
    let mut frame = [0_u8; 128];
    let [high, low] = V6::ETHERTYPE.to_wire();
    (frame[12], frame[13], frame[14]) = (high, low, 0x60);
    let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
    let answer = packet_program(ebpf, PROBE).ok().and_then(|probe| probe.test_run(options).ok());
    if answer.is_some_and(|result| result.return_value == 0) {
        found |= features::CSUM_IPV6;
    }
    found
}

/// Returns (major, minor) of the running kernel.
pub fn kernel_release() -> Option<(u32, u32)> {
    let name = nix::sys::utsname::uname().ok()?;
    let release = name.release().to_str()?.to_owned();
    let mut numbers = release.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Returns the descriptor of a loaded program.
pub fn program_fd(ebpf: &Ebpf, name: &str) -> Result<std::os::fd::OwnedFd, Error> {
    let refused = |source: Box<dyn std::error::Error + Send + Sync>| Error::Kernel {
        doing: format!("take program {name}"),
        source,
    };
    let program: &Program = ebpf.program(name).ok_or_else(|| refused("no such program".into()))?;
    let fd = program.fd().map_err(|source| refused(Box::new(source)))?;
    fd.as_fd().try_clone_to_owned().map_err(|source| refused(Box::new(source)))
}
