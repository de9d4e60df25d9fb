//! What the pins of an instance say where its state is lost.

use std::{collections::BTreeSet, fs, os::fd::AsFd, path::Path};

use super::{layout::Shape, migrate, raw};

/// The maps of published ports.
const PUBLISHED: [&str; 2] = ["PUBLISH4", "PUBLISH6"];

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
