//! Loads the programs against the instance's pinned maps, which are made at the first start and adopted at every later one.

use std::{fs, path::Path};

use aya::{
    EbpfLoader, VerifierLogLevel,
    maps::{MapInfo, MapType},
};
use netd_common::net::LOOPBACK_ZONE;

use super::{
    Error, Settings, attach,
    kept::Kept,
    layout::{Kind, Layout, Shape},
    maps, migrate,
    object::OBJECT,
    order,
    programs::Programs,
};

/// Environment variable for who builds netd: the programs then count every verdict, and not drops alone.
const COUNT_VERDICTS: &str = "NETD_COUNT_VERDICTS";
/// Makes the pin directories, checks what is pinned there, and loads every program.
///
/// # Errors
/// One that names the program or map and the kernel's reason.
pub fn load(settings: &Settings, pins: &Path, layout: &Layout) -> Result<Programs, Error> {
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
    let counts = std::env::var_os(COUNT_VERDICTS).is_some();
    if counts {
        loader.override_global("COUNT_VERDICTS", &1_u32, true);
    }
    let (v4, v6) = (settings.flow_entries, settings.flow_entries.div_ceil(super::IPV6_SHARE));
    for (name, entries) in
        [("FLOW4", v4), ("FLOW6", v6), ("PENDING4", v4.div_ceil(2)), ("PENDING6", v6.div_ceil(2))]
    {
        loader.map_max_entries(name, entries);
    }
    let object =
        loader.load(OBJECT).map_err(|source| Error::kernel("load the eBPF object".to_owned(), source))?;
    check_pinned(pins, layout)?;
    let loopback = attach::is_attached(&pins.join("links"), attach::Side::Loopback, LOOPBACK_ZONE);
    let kept = Kept::open(pins, if counts { "-counting" } else { "" })?;
    if order::has_changed(pins, settings.tcx_order) {
        order::programs().for_each(|(program, _)| kept.forget(program)); // another one goes where they are not
    }
    Programs::load(object, kept, loopback, settings.tcx_order)
}

/// Makes the directories of the pins.
///
/// # Errors
/// Names the directory.
pub fn make_dirs(bpffs: &Path, pins: &Path) -> Result<(), Error> {
    [bpffs, pins, &pins.join("links")].into_iter().try_for_each(make_dir)
}

/// Makes a directory on the bpffs, for root alone.
///
/// # Errors
/// Names it.
pub fn make_dir(dir: &Path) -> Result<(), Error> {
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
        Kind::RingBuf => MapType::RingBuf,
    }
}
