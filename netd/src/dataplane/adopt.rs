//! Finds maps and links that have lost their pins while no daemon ran, by the programs that still use them (reliability F7).
//!
//! Who removes a pin does not remove what is behind it as long as a program on a hook uses it: filters keep their maps alive, and what is pinned at a place
//! that cannot be seen any more goes on as before. With maps made anew beside them, every established flow would end, and two sets of programs
//! would run. Programs of other instances are told apart by the namespace that their configuration names.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::{
    maps::{Array, Map, MapData, MapInfo},
    programs::loaded_programs,
};
use netd_common::maps::Config;

use super::{
    Error, guard,
    layout::{Layout, Shape},
    load,
    programs::{INPUT_PROGRAM, PACKET_PROGRAMS, SOCKET_PROGRAMS, known_name},
    raw,
};

/// The map that says whose programs use it.
const CONFIG: &str = "CONFIG";

/// A program of this instance that the kernel still has.
struct Survivor {
    id: u32,
    name: &'static str,
    /// Its maps: name and id.
    maps: Vec<(String, u32)>,
}

/// Pins again what has lost its pin, and takes away pins of what is not netd's. Returns what was found.
///
/// # Errors
/// Names the pin that cannot be made or removed.
pub fn adopt(pins: &Path, layout: &Layout) -> Result<Vec<String>, Error> {
    for shape in layout.maps.iter().filter(|shape| load::pinned(&pins.join(&shape.name), shape).is_err()) {
        let path = pins.join(&shape.name);
        tracing::error!(path = %path.display(), "this pin is not netd's map; it is removed");
        fs::remove_file(&path)
            .map_err(|source| Error::kernel(format!("remove the pin {}", path.display()), source))?;
    }
    let missing: Vec<&Shape> = layout.maps.iter().filter(|shape| !pins.join(&shape.name).exists()).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let survivors = survivors(pins)?;
    let mut found = Vec::new();
    if survivors.is_empty() {
        return Ok(found); // as at every first start
    }
    for shape in missing {
        let ids: BTreeSet<u32> = survivors
            .iter()
            .flat_map(|program| &program.maps)
            .filter(|(name, _)| *name == shape.name)
            .map(|(_, id)| *id)
            .collect();
        // The newest, where there are several: its programs came last.
        let fitting =
            ids.into_iter().rev().find_map(|id| MapData::from_id(id).ok().filter(|_| fits(id, shape)));
        if let Some(map) = fitting {
            pin_at(map.fd().as_fd(), &pins.join(&shape.name))?;
            found.push(format!("map {}", shape.name));
        }
    }
    for (link, name) in links_of(&survivors)? {
        let path = pins.join("links").join(&name);
        if !path.exists() {
            pin_at(link.as_fd(), &path)?;
            found.push(format!("link {name}"));
        }
    }
    Ok(found)
}

fn pin_at(object: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    raw::pin(object, path).map_err(|source| Error::kernel(format!("pin {} again", path.display()), source))
}

fn fits(id: u32, shape: &Shape) -> bool {
    MapInfo::from_id(id).is_ok_and(|info| load::is_of_shape(&info, shape))
}

/// Lists the programs of this instance: those that use its configuration, which is pinned, or the newest one for this namespace.
fn survivors(pins: &Path) -> Result<Vec<Survivor>, Error> {
    let cookie = raw::netns_cookie()
        .map_err(|source| Error::kernel("ask for the namespace's cookie".to_owned(), source))?;
    let mut names = HashMap::new();
    let mut all: Vec<Survivor> =
        loaded_programs().flatten().filter_map(|program| survivor(&program, &mut names)).collect();
    let config = |program: &Survivor| program.maps.iter().find(|(name, _)| name == CONFIG).map(|(_, id)| *id);
    let ours: BTreeSet<u32> = all.iter().filter_map(config).filter(|id| names_cookie(*id, cookie)).collect();
    let pinned = MapInfo::from_pin(pins.join(CONFIG)).ok().map(|info| info.id());
    let wanted = pinned.or_else(|| ours.last().copied());
    all.retain(|program| wanted.is_some() && config(program) == wanted);
    Ok(all)
}

/// Reads what the kernel says of a program, if it may be netd's. What has gone meanwhile is none.
fn survivor(
    program: &aya::programs::ProgramInfo,
    names: &mut HashMap<u32, Option<String>>,
) -> Option<Survivor> {
    let known = program.name_as_str()?;
    let mut all = PACKET_PROGRAMS.into_iter().chain(SOCKET_PROGRAMS).chain([INPUT_PROGRAM, guard::PROGRAM]);
    let name = all.find(|name| known_name(name) == known)?;
    let name_of = |id: u32| {
        let read = || Some(MapInfo::from_id(id).ok()?.name_as_str()?.to_owned());
        names.entry(id).or_insert_with(read).clone().map(|name| (name, id))
    };
    let maps = program.map_ids().ok()??.into_iter().filter_map(name_of).collect();
    Some(Survivor { id: program.id(), name, maps })
}

/// Whether a configuration is for this namespace.
fn names_cookie(id: u32, cookie: u64) -> bool {
    let read = || {
        let info = MapInfo::from_id(id).ok()?;
        let whole = usize::try_from(info.value_size()).ok()? == size_of::<Config>();
        let map = Map::Array(MapData::from_id(id).ok().filter(|_| whole)?);
        Array::<_, Config>::try_from(map).ok()?.get(&0, 0).ok()
    };
    let number = |[low, high]: [u32; 2]| u64::from(high) << 32 | u64::from(low);
    read().is_some_and(|config: Config| number(config.netns_cookie) == cookie)
}

/// Lists the links of these programs, with the names of their pins.
fn links_of(survivors: &[Survivor]) -> Result<Vec<(OwnedFd, String)>, Error> {
    let failed = |source| Error::kernel("list the links of programs".to_owned(), source);
    let mut all = Vec::new();
    let ids = survivors.iter().map(|program| program.id).collect();
    for link in raw::links_of(&ids).map_err(failed)? {
        let Some(program) = survivors.iter().find(|program| program.id == link.program) else { continue };
        let name = match link.kind {
            raw::LinkKind::Interface { ifindex } if ifindex != 0 => format!("{ifindex}-{}", program.name),
            raw::LinkKind::Cgroup { id } | raw::LinkKind::Namespace { id } if id != 0 => {
                program.name.to_owned()
            }
            // Detached, or somebody else's use of the program.
            _ => continue,
        };
        all.push((link.fd, name));
    }
    Ok(all)
}
