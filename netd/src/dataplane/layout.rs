//! What every pinned map looks like, in words that an earlier and a later netd can read: fields by name, with offset and size.
//!
//! It is pinned beside the maps (`SCHEMA`), and its checksum is part of their directory's name: two daemons share maps only when they mean the same
//! by every byte. What differs is converted field by field, whichever of the two is newer (ADR 0016).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Settings;
use netd_common::maps::LAYOUT;

/// Name of the pin that holds the description.
pub const SCHEMA: &str = "SCHEMA";
/// Environment variable for tests: an instance whose maps are nobody else's, so that every one of them is converted.
#[cfg(any(debug_assertions, feature = "failpoints"))]
const SALT: &str = "NETD_LAYOUT_SALT";

/// The kernel's kinds of maps that netd uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// By index.
    Array,
    /// By index, a value for each processor.
    PerCpuArray,
    /// By key.
    Hash,
    /// By key; the kernel may remove what was not used for long.
    LruHash,
    /// By the longest prefix.
    LpmTrie,
    /// Records in their order, until they are read; its entries are bytes.
    RingBuf,
}

/// One field of a key or a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// What it means: the same name is the same meaning.
    pub name: String,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// How long it is, in bytes.
    pub size: usize,
}

/// One map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Its name, and its pin's.
    pub name: String,
    /// What the kernel makes of it.
    pub kind: Kind,
    /// How many entries it takes.
    pub entries: u32,
    /// The fields of a key.
    pub key: Vec<Field>,
    /// The fields of a value.
    pub value: Vec<Field>,
}

/// All maps of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Number of the meaning of what no field shows.
    pub meaning: u32,
    /// Only in tests: what tells maps apart that are the same.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub salt: String,
    /// The maps.
    pub maps: Vec<Shape>,
}

impl Shape {
    /// Returns the size of a key in bytes.
    pub fn key_size(&self) -> usize {
        size(&self.key)
    }

    /// Returns the size of a value in bytes.
    pub fn value_size(&self) -> usize {
        size(&self.value)
    }
}

fn size(fields: &[Field]) -> usize {
    fields.iter().map(|field| field.offset + field.size).max().unwrap_or(0)
}

impl Layout {
    /// Returns the layout of this netd's maps, with the sizes that the configuration gives them.
    pub fn of(settings: &Settings) -> Self {
        #[cfg(any(debug_assertions, feature = "failpoints"))]
        let salt = std::env::var(SALT).unwrap_or_default();
        #[cfg(not(any(debug_assertions, feature = "failpoints")))]
        let salt = String::new();
        Self { meaning: LAYOUT, salt, maps: super::shapes::all(settings.flow_entries) }
    }

    /// Returns where its maps are pinned.
    pub fn pins(&self, bpffs: &Path) -> PathBuf {
        bpffs.join(format!("v{LAYOUT}-{:08x}", crc32fast::hash(&self.to_bytes())))
    }

    /// Returns what is recorded beside the maps.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default() // of strings and numbers alone
    }

    /// Reads what was recorded; None: it is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
        serde_json::from_slice(&bytes[..end]).ok()
    }

    /// Returns a map by name.
    pub fn map(&self, name: &str) -> Option<&Shape> {
        self.maps.iter().find(|shape| shape.name == name)
    }

    /// Whether a map is the same in both layouts, so that both may use it at once.
    pub fn shares(&self, other: &Self, name: &str) -> bool {
        let same = self.meaning == other.meaning && self.salt == other.salt;
        same && self.map(name).is_some_and(|mine| other.map(name) == Some(mine))
    }
}

/// How bytes of one layout become those of another.
#[derive(Debug)]
pub struct Conversion {
    moves: Vec<(Field, Field)>,
    size: usize,
}

impl Conversion {
    /// Finds each field's place. A field that the old layout has not is zero, which is the closed or neutral value of every field.
    pub fn new(from: &[Field], to: &[Field]) -> Self {
        let pair = |new: &Field| Some((from.iter().find(|old| old.name == new.name)?.clone(), new.clone()));
        Self { moves: to.iter().filter_map(pair).collect(), size: size(to) }
    }

    /// Converts. None: a number is too large for its new field.
    pub fn apply(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut converted = vec![0; self.size];
        for (old, new) in &self.moves {
            let value = bytes.get(old.offset..old.offset + old.size)?;
            let place = converted.get_mut(new.offset..new.offset + new.size)?;
            if old.size == new.size {
                place.copy_from_slice(value);
            } else if is_number(old.size) && is_number(new.size) {
                // Little-endian, as every machine that netd runs on.
                let kept = old.size.min(new.size);
                if value[kept..].iter().any(|byte| *byte != 0) {
                    return None;
                }
                place[..kept].copy_from_slice(&value[..kept]);
            }
        }
        Some(converted)
    }
}

const fn is_number(size: usize) -> bool {
    matches!(size, 1 | 2 | 4 | 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(name: &str, offset: usize, size: usize) -> Field {
        Field { name: name.into(), offset, size }
    }

    #[test]
    fn fields_are_found_by_name_wherever_they_are_and_new_ones_are_zero() {
        let old = [field("src", 0, 4), field("mtu", 4, 2), field("flags", 6, 2)];
        let new = [field("flags", 0, 4), field("tag", 4, 4), field("src", 8, 4), field("mtu", 12, 2)];
        let there = Conversion::new(&old, &new).apply(&[1, 2, 3, 4, 5, 6, 7, 8]).expect("it fits");
        assert_eq!(there, [7, 8, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]);
        let back = Conversion::new(&new, &old).apply(&there).expect("it fits");
        assert_eq!(back, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused_and_not_cut() {
        let (wide, narrow) = ([field("mtu", 0, 4)], [field("mtu", 0, 2)]);
        let narrowed = Conversion::new(&wide, &narrow);
        assert_eq!(narrowed.apply(&[0xdc, 5, 0, 0]), Some(vec![0xdc, 5]));
        assert_eq!(narrowed.apply(&[0, 0, 1, 0]), None);
    }

    #[test]
    fn what_is_recorded_can_be_read_again_and_damage_is_seen() {
        let layout = Layout { meaning: 7, salt: String::new(), maps: Vec::new() };
        let mut bytes = layout.to_bytes();
        bytes.resize(200, 0);
        assert_eq!(Layout::from_bytes(&bytes), Some(layout));
        assert_eq!(Layout::from_bytes(&bytes[..5]), None);
        assert_eq!(Layout::from_bytes(&[0; 9]), None);
    }

    proptest! {
        /// Whatever the order of the fields: there and back is the identity.
        #[test]
        fn upgrade_and_rollback_is_the_identity(
            sizes in proptest::collection::vec(1_usize..20, 1..9),
            bytes in proptest::collection::vec(any::<u8>(), 180),
            keys in Just((0_usize..9).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let place = |order: &[usize]| {
                let mut at = 0;
                let fields = order.iter().filter(|index| **index < sizes.len()).map(|&index| {
                    at += sizes[index];
                    field(&index.to_string(), at - sizes[index], sizes[index])
                });
                fields.collect::<Vec<_>>()
            };
            let (old, new) = (place(&(0..9).collect::<Vec<_>>()), place(&keys));
            let bytes = &bytes[..size(&old)];
            let there = Conversion::new(&old, &new).apply(bytes).expect("the same sizes");
            prop_assert_eq!(Conversion::new(&new, &old).apply(&there).expect("the same sizes"), bytes);
        }
    }
}
