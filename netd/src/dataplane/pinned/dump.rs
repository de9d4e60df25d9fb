//! `netd debug dump`: maps as they are, in words.

use netd_common::maps::held;
use serde::{Serialize, Serializer, ser::SerializeSeq};
use serde_json::{Map, Value};

use super::{Entries, Names, Pinned, words};
use crate::dataplane::{
    Error,
    layout::{Kind, Shape},
};

/// One map, decoded while it is written: a table of flows in words is many times as large as in the kernel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MapDump {
    /// Its name.
    pub map: String,
    kind: Kind,
    /// How many entries it has room for.
    capacity: u32,
    /// How many there are.
    used: usize,
    /// In the order of their keys' bytes, which stays the same.
    entries: Decoded,
}

/// Entries with what is needed to tell them.
#[derive(Debug)]
struct Decoded {
    shape: Shape,
    entries: Entries,
    names: Names,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: Map<String, Value>,
    value: Map<String, Value>,
}

impl Serialize for Decoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = serializer.serialize_seq(Some(self.entries.len()))?;
        for (key, value) in &self.entries {
            let value = words::of_value(&self.shape, value, &self.names);
            all.serialize_element(&Entry { key: words::of_key(&self.shape, key, &self.names), value })?;
        }
        all.end()
    }
}

impl Pinned {
    /// Lists the maps that can be shown: neither the ring of events, from which reading takes, nor the bytes of packets.
    pub fn shown(&self) -> Vec<&str> {
        let shapes = self.layout.maps.iter().filter(|shape| is_shown(shape));
        let mut names: Vec<&str> = shapes.map(|shape| shape.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Reads a map of [`Self::shown`].
    ///
    /// # Errors
    /// It cannot be read.
    pub fn dump(&self, name: &str, names: &Names) -> Result<MapDump, Error> {
        let unknown = || Error::Unsupported(format!("there is no map {name} that can be shown"));
        let shape = self.layout.map(name).filter(|shape| is_shown(shape)).ok_or_else(unknown)?;
        let entries = self.entries(shape)?;
        Ok(MapDump {
            map: shape.name.clone(),
            kind: shape.kind,
            capacity: shape.entries,
            used: entries.len(),
            entries: Decoded { shape: shape.clone(), entries, names: names.clone() },
        })
    }

    /// Counts the entries of every map that has any, with its room.
    pub fn occupancy(&self) -> Vec<(String, Result<usize, Error>, u32)> {
        let shapes = self.layout.maps.iter().filter(|shape| is_shown(shape));
        let count = |shape: &Shape| {
            (shape.name.clone(), self.entries(shape).map(|entries| entries.len()), shape.entries)
        };
        shapes.map(count).collect()
    }
}

fn is_shown(shape: &Shape) -> bool {
    let is_payload = shape.value.iter().any(|field| field.size >= held::BYTES && field.name == "bytes");
    shape.kind != Kind::RingBuf && !is_payload
}
