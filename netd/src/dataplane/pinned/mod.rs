//! The pins of an instance, read beside its daemon or without one: nothing here writes.
//!
//! What is recorded beside the maps says how to read them, so that those of an earlier or a later netd can be read too.

mod compare;
mod dump;
mod hooks;
mod lists;
mod pairs;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use netd_common::{maps::Config, net::Addr4, net::Addr6};

pub use self::{compare::Difference, dump::MapDump, hooks::Attached, lists::Lists, words::Names};
use super::{
    Error, FlowFilter, FlowInfo, flows,
    kernel::drops,
    layout::{Kind, Layout, Shape},
    maps::{self, Table},
    migrate, raw, shapes,
};

/// The maps of published ports.
const PUBLISHED: [&str; 2] = ["PUBLISH4", "PUBLISH6"];

/// Entries of a map, by key; keys and values as the kernel has them.
pub type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where the maps and links of an instance are pinned, and what its maps look like.
#[derive(Debug)]
pub struct Pinned {
    dir: PathBuf,
    layout: Layout,
}

impl Pinned {
    /// Finds the pins of an instance: of several layouts, as while one takes over from another, those with the links. None: there are no pins.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn find(bpffs: &Path) -> Result<Option<Self>, Error> {
        let entries = match fs::read_dir(bpffs) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            entries => entries
                .map_err(|source| Error::kernel(format!("list the pins in {}", bpffs.display()), source))?,
        };
        let dirs = entries.flatten().map(|entry| entry.path()).filter(|dir| dir.is_dir());
        let found = dirs.filter_map(|dir| Some(Self { layout: migrate::schema(&dir)?, dir }));
        Ok(found.max_by_key(|pinned| fs::read_dir(pinned.links()).map_or(0, Iterator::count)))
    }

    /// Returns where the maps are pinned.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns where the links are pinned.
    pub fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// Returns the drops by reason.
    ///
    /// # Errors
    /// A map is not there, or another netd's.
    pub fn drops(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        self.fit(&["DROPS", "HELD"])?;
        drops::of(&maps::per_cpu_array(&self.dir, "DROPS")?, &maps::array(&self.dir, "HELD")?)
    }

    /// Lists live flows.
    ///
    /// # Errors
    /// A map is not there, or another netd's.
    pub fn flows(&self, filter: &FlowFilter) -> Result<Vec<FlowInfo>, Error> {
        self.fit(&["FLOW4", "FLOW6"])?;
        let timeouts = self.config()?.timeouts;
        let mut found = flows::list::<Addr4>(&Table::open(&self.dir, "FLOW4")?, &timeouts, filter)?;
        found.extend(flows::list::<Addr6>(&Table::open(&self.dir, "FLOW6")?, &timeouts, filter)?);
        Ok(found)
    }

    /// Whether the instance works in this thread's network namespace.
    ///
    /// # Errors
    /// Its configuration cannot be read.
    pub fn is_here(&self) -> Result<bool, Error> {
        let [low, high] = self.config()?.netns_cookie;
        let here = raw::netns_cookie()
            .map_err(|source| Error::kernel("ask for the namespace's cookie".to_owned(), source))?;
        Ok(u64::from(high) << 32 | u64::from(low) == here)
    }

    /// Returns what all programs read.
    pub(super) fn config(&self) -> Result<Config, Error> {
        self.fit(&["CONFIG"])?;
        let config = maps::array::<Config>(&self.dir, "CONFIG")?.get(&0, 0);
        config.map_err(|source| Error::kernel("read map CONFIG".to_owned(), source))
    }

    /// Fails unless these maps are what this netd's are.
    pub(super) fn fit(&self, names: &[&str]) -> Result<(), Error> {
        let ours = shapes::all(1);
        let fits = |name: &&&str| {
            let [ours, theirs] = [ours.iter().find(|shape| shape.name == **name), self.layout.map(name)];
            ours.zip(theirs).is_some_and(|(a, b)| (a.kind, &a.key, &a.value) == (b.kind, &b.key, &b.value))
        };
        match names.iter().find(|name| !fits(name)) {
            None => Ok(()),
            Some(name) => Err(Error::Unsupported(format!(
                "the map {name} in {} is not as this netd has it: use the netd that the daemon is of",
                self.dir.display()
            ))),
        }
    }

    /// Reads a map. Elements of an array that nobody uses, which are zero, are left out.
    ///
    /// # Errors
    /// The map is not there, or of a kind that cannot be read without taking something out.
    pub(super) fn entries(&self, shape: &Shape) -> Result<Entries, Error> {
        let failed = |source| Error::kernel(format!("read the pinned map {}", shape.name), source);
        let map = raw::open_pin_readonly(&self.dir.join(&shape.name)).map_err(failed)?;
        let per_cpu = shape.kind == Kind::PerCpuArray;
        let copies = if per_cpu { processors().map_err(failed)? } else { 1 };
        // The kernel keeps the values of processors eight bytes apart at least.
        let stride = if per_cpu { shape.value_size().next_multiple_of(8) } else { shape.value_size() };
        let sparse = matches!(shape.kind, Kind::Array | Kind::PerCpuArray) && shape.entries > 1;
        let mut entries = Entries::new();
        let visit = |key: &[u8], value: &[u8]| {
            if !sparse || value.iter().any(|byte| *byte != 0) {
                entries.insert(key.to_vec(), value.to_vec());
            }
        };
        raw::for_each(map.as_fd(), shape.key_size(), stride * copies, visit).map_err(failed)?;
        Ok(entries)
    }
}

/// Returns how many processors this machine can have: a map has a value for each.
fn processors() -> std::io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, error)| error)
}

/// Returns the host ports that are published, or reserved to be; what cannot be read says nothing.
pub fn published_ports(bpffs: &Path) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for dir in fs::read_dir(bpffs).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let layout = migrate::recorded(&dir);
        for shape in PUBLISHED.iter().filter_map(|name| layout.map(name)) {
            ports.extend(keys(&dir, shape));
        }
    }
    ports
}

fn keys(dir: &Path, shape: &Shape) -> Vec<u16> {
    let mut ports = Vec::new();
    let Some(field) = shape.key.iter().find(|field| field.name == "port" && field.size == 2) else {
        return ports;
    };
    let Ok(map) = raw::open_pin(&dir.join(&shape.name)) else { return ports };
    let read = raw::for_each(map.as_fd(), shape.key_size(), shape.value_size(), |key, _| {
        if let Some(&[high, low]) = key.get(field.offset..field.offset + 2) {
            ports.push(u16::from_be_bytes([high, low]));
        }
    });
    if let Err(error) = read {
        tracing::warn!(dir = %dir.display(), map = shape.name, %error, "pinned map not read");
    }
    ports
}
