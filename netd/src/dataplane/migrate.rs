//! Takes over from a netd whose maps look different, older or newer, while its programs go on forwarding (ADR 0016).
//!
//! Maps that are the same in both layouts are shared. Of the others, what the daemon writes is copied before anything is switched. Flows are copied while
//! packets go on, again and again until little changes; then new flows are refused for a moment, what has changed since is copied, and every link gets
//! its new program in place. Established flows are in both tables by then, so that it does not matter which program a packet meets.
//!
//! Until the first link is pinned in the new directory, a start begins from nothing; from then on it goes on where it stopped. What was
//! there before is removed last.

use std::{
    collections::HashSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use netd_common::maps::features;

use super::{
    Error, attach,
    layout::{Conversion, Kind, Layout, SCHEMA, Shape},
    programs::Programs,
    raw,
};

/// Tables that packets change: copied while they do, and once more when no flow can be opened.
const LIVING: [&str; 12] = [
    "FLOW4", "FLOW6", "USAGE4", "USAGE6", "PENDING4", "PENDING6", "DIALLED", "ASKED4", "ASKED6", "HANDED4",
    "HANDED6", "PORTS",
];
/// Working memory and counts of moments: what is lost is missed by nobody.
const PASSING: [&str; 13] = [
    "PACE",
    "HELD",
    "HELD_BYTES",
    "HELD_NEXT",
    "DATAGRAM4",
    "DATAGRAM6",
    "INPUT4",
    "INPUT6",
    "OPENINGS4",
    "OPENINGS6",
    "DROPS",
    "LISTENING",
    "EVENTS",
];
/// Copies of the living tables before new flows are refused, at most.
const ROUNDS: usize = 4;
/// So few changes in a round that the next one may be the last.
const FEW: usize = 256;

/// Pins of another layout.
#[derive(Debug)]
struct Other {
    dir: PathBuf,
    layout: Layout,
}

/// What there is to be taken over.
#[derive(Debug)]
pub struct Migration {
    others: Vec<Other>,
    pins: PathBuf,
    ours: Layout,
    /// Whether an earlier start got as far as the links.
    resumed: bool,
}

fn is_of_a_layout(dir: &Path) -> bool {
    dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('v'))
}

fn links_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("links")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Reads what is recorded beside the maps of a directory. Without that, nothing is known of them, and nothing is taken from them.
pub fn recorded(dir: &Path) -> Layout {
    schema(dir).unwrap_or_else(|| {
        tracing::error!(dir = %dir.display(), "nothing is recorded of these maps: their flows are lost");
        Layout::default()
    })
}

/// Reads what is recorded beside the maps of a directory. None: nothing, or what cannot be read.
pub fn schema(dir: &Path) -> Option<Layout> {
    let map = raw::open_pin_readonly(&dir.join(SCHEMA)).ok()?;
    let size = aya::maps::MapInfo::from_pin(dir.join(SCHEMA)).ok()?.value_size() as usize;
    let mut bytes = vec![0; size];
    raw::lookup(map.as_fd(), &0_u32.to_ne_bytes(), &mut bytes).ok()?;
    Layout::from_bytes(&bytes)
}

/// Records the layout beside the maps.
///
/// # Errors
/// The kernel's.
pub fn record(pins: &Path, layout: &Layout) -> Result<(), Error> {
    let path = pins.join(SCHEMA);
    if path.exists() {
        return Ok(());
    }
    let write = || {
        let bytes = layout.to_bytes();
        let map = raw::create_array(SCHEMA, bytes.len())?;
        raw::update(map.as_fd(), &0_u32.to_ne_bytes(), &bytes, raw::ANY)?;
        raw::pin(map.as_fd(), &path)
    };
    write().map_err(|source| Error::kernel(format!("record the layout in {}", path.display()), source))
}

impl Migration {
    /// Looks for pins of another layout, and shares their maps as far as they are the same. None: there are no such pins.
    ///
    /// # Errors
    /// Names the pin.
    pub fn prepare(bpffs: &Path, pins: &Path, ours: &Layout) -> Result<Option<Self>, Error> {
        let entries = fs::read_dir(bpffs).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut others: Vec<Other> = entries
            .filter(|dir| dir != pins && dir.is_dir() && is_of_a_layout(dir))
            .map(|dir| Other { layout: recorded(&dir), dir })
            .collect();
        if others.is_empty() {
            return Ok(None);
        }
        // Who has the links has the packets.
        others.sort_by_key(|other| std::cmp::Reverse(links_in(&other.dir).len()));
        let resumed = !links_in(pins).is_empty();
        let migration = Self { others, pins: pins.to_owned(), ours: ours.clone(), resumed };
        if !resumed {
            migration.begin()?;
        }
        tracing::info!(from = ?migration.others.iter().map(|other| &other.dir).collect::<Vec<_>>(), to = %pins.display(), resumed, "maps of another layout are taken over");
        Ok(Some(migration))
    }

    /// Forgets what an earlier try left, and shares what can be shared.
    fn begin(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.pins).into_iter().flatten().flatten() {
            if !entry.path().is_dir() {
                remove(&entry.path())?;
            }
        }
        let Some(other) = self.others.first() else { return Ok(()) };
        for shape in &self.ours.maps {
            if !self.ours.shares(&other.layout, &shape.name) {
                continue;
            }
            let Ok(map) = raw::open_pin(&other.dir.join(&shape.name)) else { continue };
            let path = self.pins.join(&shape.name);
            raw::pin(map.as_fd(), &path)
                .map_err(|source| Error::kernel(format!("share the map {}", path.display()), source))?;
        }
        Ok(())
    }

    /// Copies what daemons write; the programs of this netd are not attached yet.
    ///
    /// # Errors
    /// Names the map.
    pub fn copy_tables(&self) -> Result<(), Error> {
        if self.resumed {
            return Ok(());
        }
        let carried = |shape: &&Shape| {
            let name = shape.name.as_str();
            !PASSING.contains(&name) && !LIVING.contains(&name)
        };
        for shape in self.ours.maps.iter().filter(carried) {
            if let Some(mut copy) = self.copy(&shape.name)? {
                copy.round()?;
            }
        }
        Ok(())
    }

    /// Opens both ends of a map that is not shared and is there in both layouts.
    fn copy(&self, name: &str) -> Result<Option<Copy>, Error> {
        let Some(other) = self.others.first() else { return Ok(None) };
        let (Some(to), Some(from)) = (self.ours.map(name), other.layout.map(name)) else { return Ok(None) };
        if self.ours.shares(&other.layout, name) {
            return Ok(None);
        }
        let Ok(source) = raw::open_pin(&other.dir.join(name)) else { return Ok(None) };
        let path = self.pins.join(name);
        let target = raw::open_pin(&path)
            .map_err(|source| Error::kernel(format!("open the map {}", path.display()), source))?;
        Ok(Some(Copy {
            name: name.to_owned(),
            source,
            target,
            sizes: (from.key_size(), from.value_size()),
            key: Conversion::new(&from.key, &to.key),
            value: Conversion::new(&from.value, &to.value),
            flags: if self.resumed { raw::NOEXIST } else { raw::ANY },
            done: HashSet::new(),
            unfit: 0,
            fresh: to.kind == Kind::Array && !self.resumed,
        }))
    }

    /// Hands all packets to this netd's programs, with every flow, and removes what was there before.
    ///
    /// # Errors
    /// Names the map or the link; the next start goes on from there.
    pub fn switch(&self, programs: &mut Programs) -> Result<(), Error> {
        let mut living = Vec::new();
        for name in LIVING {
            living.extend(self.copy(name)?);
        }
        for _ in 0..ROUNDS {
            let mut changed = 0;
            for copy in &mut living {
                changed += copy.round()?;
            }
            if changed <= FEW {
                break;
            }
        }
        if !living.is_empty() {
            self.refuse_new_flows(true)?;
        }
        for copy in &mut living {
            copy.round()?;
        }
        self.switch_links(programs)?;
        attach::replace_filters(programs, &self.pins.join("links"), &self.served()?)?;
        // A program that was in the middle of opening a flow when it was told not to.
        for copy in &mut living {
            copy.flags = raw::NOEXIST;
            copy.round()?;
            copy.tell_what_did_not_fit();
        }
        self.refuse_new_flows(false)?;
        self.others.iter().try_for_each(|other| forget(&other.dir))
    }

    /// Tells the programs of every layout whether flows may be opened.
    fn refuse_new_flows(&self, refuse: bool) -> Result<(), Error> {
        let all =
            self.others.iter().map(|other| (&other.dir, &other.layout)).chain([(&self.pins, &self.ours)]);
        for (dir, layout) in all {
            let Some(shape) = layout.map("CONFIG") else { continue };
            let Some(field) = shape.value.iter().find(|field| field.name == "features" && field.size == 4)
            else {
                continue;
            };
            let Ok(map) = raw::open_pin(&dir.join("CONFIG")) else { continue };
            let (index, mut bytes) = (0_u32.to_ne_bytes(), vec![0; shape.value_size()]);
            let write = raw::lookup(map.as_fd(), &index, &mut bytes).and_then(|()| {
                // The lowest byte has the bit, on little-endian machines.
                let Some(low) = bytes.get_mut(field.offset) else { return Ok(()) };
                let bit = features::CHANGING.to_le_bytes()[0];
                *low = if refuse { *low | bit } else { *low & !bit };
                raw::update(map.as_fd(), &index, &bytes, raw::ANY)
            });
            write.map_err(|source| {
                Error::kernel(format!("write to map CONFIG in {}", dir.display()), source)
            })?;
        }
        Ok(())
    }

    /// Gives every pinned link this netd's program and a pin of this layout.
    fn switch_links(&self, programs: &mut Programs) -> Result<(), Error> {
        let old: Vec<PathBuf> = self.others.iter().flat_map(|other| links_in(&other.dir)).collect();
        for path in &old {
            let Some(name) = path.file_name() else { continue };
            let new = self.pins.join("links").join(name);
            if !new.exists() {
                let failed = |source| Error::kernel(format!("adopt the link {}", path.display()), source);
                let link = raw::open_pin(path).map_err(failed)?;
                raw::pin(link.as_fd(), &new).map_err(failed)?;
            }
        }
        for path in &old {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let program = name.split_once('-').map_or(name, |(_, program)| program);
            attach::take_over(programs, &self.pins.join("links").join(name), program)?;
        }
        Ok(())
    }

    /// Returns the interfaces that the layout before served as endpoints and as uplinks.
    fn served(&self) -> Result<attach::Served, Error> {
        let mut served = attach::Served::default();
        self.visit("ENDPOINT", |ifindex, value| {
            if value.iter().any(|byte| *byte != 0) {
                served.endpoints.insert(ifindex);
            }
        })?;
        self.visit("UPLINK", |ifindex, _| {
            served.uplinks.insert(ifindex);
        })?;
        Ok(served)
    }

    /// Visits every entry of a map of ours whose key is an interface's index.
    fn visit(&self, name: &str, mut visit: impl FnMut(u32, &[u8])) -> Result<(), Error> {
        let Some(shape) = self.ours.map(name) else { return Ok(()) };
        let path = self.pins.join(name);
        let read = raw::open_pin(&path).and_then(|map| {
            raw::for_each(map.as_fd(), shape.key_size(), shape.value_size(), |key, value| {
                if let Ok(key) = key.try_into() {
                    visit(u32::from_ne_bytes(key), value);
                }
            })
        });
        read.map_err(|source| Error::kernel(format!("list the map {}", path.display()), source))
    }
}

/// A map on its way.
struct Copy {
    name: String,
    source: OwnedFd,
    target: OwnedFd,
    /// Sizes of a key and a value of the source.
    sizes: (usize, usize),
    key: Conversion,
    value: Conversion,
    flags: u64,
    /// What has been copied as it is: hashes of key and value.
    done: HashSet<u64>,
    /// Entries that found no room, or do not fit into the new fields.
    unfit: usize,
    /// Whether the target is an array that nobody has written to: all of it is zero.
    fresh: bool,
}

impl Copy {
    /// Copies what is new or has changed since the last round. Returns how many entries that were.
    fn round(&mut self) -> Result<usize, Error> {
        let (mut changed, mut failed) = (0, None);
        let (key_size, value_size) = self.sizes;
        let Self { source, target, key, value, flags, done, unfit, fresh, .. } = self;
        let read = raw::for_each(source.as_fd(), key_size, value_size, |old_key, old_value| {
            let mut hasher = DefaultHasher::new();
            (old_key, old_value).hash(&mut hasher);
            if (*fresh && old_value.iter().all(|byte| *byte == 0)) || !done.insert(hasher.finish()) {
                return;
            }
            changed += 1;
            let (Some(new_key), Some(new_value)) = (key.apply(old_key), value.apply(old_value)) else {
                *unfit += 1;
                return;
            };
            match raw::update(target.as_fd(), &new_key, &new_value, *flags) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM)) =>
                {
                    *unfit += 1;
                }
                Err(error) => failed = Some(error),
            }
        });
        read.and(failed.map_or(Ok(()), Err))
            .map_err(|source| Error::kernel(format!("copy the map {}", self.name), source))?;
        *fresh = false;
        Ok(changed)
    }

    fn tell_what_did_not_fit(&self) {
        if self.unfit > 0 {
            tracing::warn!(map = self.name, entries = self.unfit, "entries have no place in the new map");
        }
    }
}

/// Removes the pins of a layout that nobody uses any more. Links are pinned elsewhere by now: nothing is detached.
fn forget(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::kernel(format!("remove the pins in {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path)
        .map_err(|source| Error::kernel(format!("remove the pin {}", path.display()), source))
}
