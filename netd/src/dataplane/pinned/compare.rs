//! What the maps hold, beside what they should hold.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netd_common::maps::{endpoint_flags, port_set};
use serde_json::{Map, Value};

use super::{Entries, Lists, Names, Pinned, words};
use crate::dataplane::{
    Error, Settings,
    kernel::wanted::{self, Wanted},
    layout::{Field, Shape},
    maps::bytes_of,
};

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The map, pin, link or program.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Difference {
    pub(super) fn new(object: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { object: object.into(), problem: problem.into() }
    }
}

/// The maps that the daemon alone writes, and of which every entry can be told from what is stored and from the host.
const COMPARED: [&str; 21] = [
    "CONFIG", "NETWORK", "ENDPOINT", "UPLINK", "TRUST", "RULE6", "LONGER6", "ADDRESS4", "ADDRESS6",
    "SUBNET4", "SUBNET6", "LOCAL4", "LOCAL6", "PUBLISH4", "PUBLISH6", "OPEN4", "OPEN6", "LINK4", "LINK6",
    "DENY4", "DENY6",
];
/// So many differences of one map are told one by one.
const TOLD: usize = 20;

impl Pinned {
    /// Compares the maps that the daemon alone writes with what they should hold.
    ///
    /// # Errors
    /// They are another netd's, so that nothing can be said. A map that cannot be read is a difference.
    pub fn compare(
        &self,
        wanted: &Wanted,
        settings: &Settings,
        names: &Names,
    ) -> Result<Vec<Difference>, Error> {
        let mut compared = COMPARED.to_vec();
        compared.extend(["PORTS", "ALLOW4", "ALLOW6", "VIA"]);
        self.fit(&compared)?;
        let (mut lists, found) = (Lists::default(), self.config()?);
        let tables = wanted.tables(settings, found, &mut lists);
        let mut differences = Vec::new();
        let numbers = match self.numbers(&mut lists, &wanted.own) {
            Ok(numbers) => numbers,
            Err(error) => {
                differences.push(unread(&error));
                return Ok(differences);
            }
        };
        let nothing = Entries::new();
        for shape in COMPARED.iter().filter_map(|name| self.layout.map(name)) {
            let mut present = match self.entries(shape) {
                Ok(present) => present,
                Err(error) => {
                    differences.push(unread(&error));
                    continue;
                }
            };
            numbers.rewrite(shape, &mut present);
            if shape.name == "TRUST" {
                let ifindex = |key: &[u8]| key.get(4..8).map_or(0, words::number);
                present.retain(|key, _| !wanted.own.iter().any(|own| u64::from(*own) == ifindex(key)));
            }
            if shape.name == "ENDPOINT" {
                for value in present.values_mut() {
                    forget_promotion(shape, value);
                }
            }
            if shape.name == "RULE6" {
                // Those beyond the count are not followed.
                present.retain(|key, _| words::number(key) < u64::from(found.rules6));
            }
            let comparison = Comparison { shape, names, lists: &lists };
            let wanted = tables.0.get(&shape.name).unwrap_or(&nothing);
            differences.extend(comparison.differences(wanted, &present));
        }
        let sets = tables.0.get("PORTS").unwrap_or(&nothing);
        match self.layout.map("PORTS").map(|shape| self.entries(shape)) {
            Some(Ok(present)) => differences.extend(port_sets(sets, &present, settings)),
            Some(Err(error)) => differences.push(unread(&error)),
            None => {}
        }
        Ok(differences)
    }

    /// Reads which list is which.
    fn numbers(&self, lists: &mut Lists, own: &BTreeSet<u32>) -> Result<Numbers, Error> {
        let mut sources: BTreeMap<u64, BTreeSet<IpNet>> = BTreeMap::new();
        for shape in ["ALLOW4", "ALLOW6"].into_iter().filter_map(|name| self.layout.map(name)) {
            for key in self.entries(shape)?.into_keys() {
                let list = key.get(4..8).map_or(0, words::number);
                sources.entry(list).or_default().extend(words::prefix(&key, 4));
            }
        }
        let mut ways: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        for key in
            self.layout.map("VIA").map(|shape| self.entries(shape)).transpose()?.unwrap_or_default().keys()
        {
            let ifindex = u32::try_from(key.get(4..8).map_or(0, words::number)).unwrap_or(0);
            let way = ways.entry(words::number(&key[..4])).or_default();
            way.extend(Some(ifindex).filter(|ifindex| !own.contains(ifindex)));
        }
        let nobody = (lists.sources(BTreeSet::new()), lists.ways(BTreeSet::new()));
        Ok(Numbers {
            sources: sources.into_iter().map(|(number, list)| (number, lists.sources(list))).collect(),
            ways: ways.into_iter().map(|(number, list)| (number, lists.ways(list))).collect(),
            nobody,
        })
    }
}

/// Takes the mark of a promotion away: it is there for as long as one is under way, and where one was broken off the next start ends it (ADR 0028).
fn forget_promotion(shape: &Shape, endpoint: &mut [u8]) {
    let flags = shape.value.iter().find(|field| field.name == "flags");
    let Some(flags) = flags.and_then(|field| endpoint.get_mut(field.offset..field.offset + 4)) else {
        return;
    };
    for (byte, mark) in flags.iter_mut().zip(endpoint_flags::PROMOTION.to_ne_bytes()) {
        *byte &= !mark;
    }
}

fn unread(error: &Error) -> Difference {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    Difference::new(error.to_string(), cause.unwrap_or_else(|| "it cannot be read".to_owned()))
}

/// Numbers of lists in the maps, and the same lists' numbers here.
struct Numbers {
    sources: BTreeMap<u64, u32>,
    ways: BTreeMap<u64, u32>,
    /// Of lists without anybody on them.
    nobody: (u32, u32),
}

impl Numbers {
    /// Gives lists in values the numbers that they have here.
    fn rewrite(&self, shape: &Shape, entries: &mut Entries) {
        let field = |name: &str| shape.value.iter().find(|field| field.name == name && field.size == 4);
        for (field, numbers, nobody) in
            [(field("allow"), &self.sources, self.nobody.0), (field("via"), &self.ways, self.nobody.1)]
        {
            let Some(field) = field else { continue };
            for value in entries.values_mut() {
                let Some(place) = value.get_mut(field.offset..field.offset + 4) else { continue };
                let number = words::number(place);
                if number != 0 {
                    place.copy_from_slice(&numbers.get(&number).copied().unwrap_or(nobody).to_ne_bytes());
                }
            }
        }
    }
}

struct Comparison<'a> {
    shape: &'a Shape,
    names: &'a Names,
    lists: &'a Lists,
}

impl Comparison<'_> {
    fn differences(&self, wanted: &Entries, present: &Entries) -> Vec<Difference> {
        let missing = wanted.keys().filter(|key| !present.contains_key(*key));
        let mut all: Vec<Difference> =
            missing.map(|key| Difference::new(self.object(key), "missing")).collect();
        for (key, value) in present {
            match wanted.get(key) {
                None => {
                    let value = text(&words::of_value(self.shape, value, self.names));
                    all.push(Difference::new(self.object(key), format!("nothing asked for it ({value})")));
                }
                Some(wanted) => {
                    let wrong = self.wrong_fields(wanted, value);
                    if !wrong.is_empty() {
                        all.push(Difference::new(self.object(key), wrong.join("; ")));
                    }
                }
            }
        }
        shortened(all, &self.shape.name)
    }

    fn object(&self, key: &[u8]) -> String {
        format!("map {} {}", self.shape.name, text(&words::of_key(self.shape, key, self.names)))
    }

    fn wrong_fields(&self, wanted: &[u8], present: &[u8]) -> Vec<String> {
        let part = |field: &Field, bytes: &[u8]| {
            bytes.get(field.offset..field.offset + field.size).map(<[u8]>::to_vec)
        };
        let mut wrong = Vec::new();
        for field in &self.shape.value {
            let (Some(wanted), Some(present)) = (part(field, wanted), part(field, present)) else { continue };
            if wanted == present || self.may_differ(field, &wanted, &present) {
                continue;
            }
            let told = |bytes: &[u8]| self.word(field, bytes);
            wrong.push(format!("{} is {}, not {}", field.name, told(&present), told(&wanted)));
        }
        wrong
    }

    /// Whether a field may be what it is all the same.
    fn may_differ(&self, field: &Field, wanted: &[u8], present: &[u8]) -> bool {
        // A hint that may say more than there is, until somebody has time.
        let is_hint = self.shape.name == "ENDPOINT" && field.name == "published";
        is_hint && wanted.iter().zip(present).all(|(wanted, present)| wanted & !present == 0)
    }

    fn word(&self, field: &Field, bytes: &[u8]) -> String {
        let number = u32::try_from(words::number(bytes)).unwrap_or(0);
        match field.name.as_str() {
            "allow" => self.lists.sources_in_words(number),
            "via" => self.lists.ways_in_words(number),
            name => plain(&words::of_field(&self.shape.name, name, bytes, self.names)),
        }
    }
}

/// Compares the sets of ports that no flow changes; of those that are of interest only what is lacking is wrong.
fn port_sets(wanted: &Entries, present: &Entries, settings: &Settings) -> Vec<Difference> {
    let mut sets: BTreeMap<u32, Vec<u8>> = wanted
        .iter()
        .map(|(key, set)| (u32::try_from(words::number(key)).unwrap_or(u32::MAX), set.clone()))
        .collect();
    sets.extend(wanted::excluded(settings).into_iter().map(|(set, ports)| (set, bytes_of(&ports).to_vec())));
    let empty = vec![0; size_of::<netd_common::maps::PortSet>()];
    let mut differences = Vec::new();
    for set in 0..port_set::COUNT {
        let present = present.get(set.to_ne_bytes().as_slice()).unwrap_or(&empty);
        let purpose = set % port_set::PURPOSES;
        let interest = wanted::interest(set, &sets, settings);
        let wanted = match purpose {
            port_set::INTEREST => &interest,
            port_set::KEPT => continue, // the programs' own
            _ => sets.get(&set).unwrap_or(&empty),
        };
        let less =
            |a: &[u8], b: &[u8]| words::ranges(&a.iter().zip(b).map(|(a, b)| a & !b).collect::<Vec<_>>());
        let lacks = less(wanted, present);
        let more = if purpose == port_set::INTEREST { Vec::new() } else { less(present, wanted) };
        let mut problem = Vec::new();
        for (what, ports) in [("without", lacks), ("too much:", more)] {
            if !ports.is_empty() {
                problem.push(format!("{what} {}", few(&ports)));
            }
        }
        if !problem.is_empty() {
            differences.push(Difference::new(format!("map PORTS {}", words::set(set)), problem.join("; ")));
        }
    }
    differences
}

fn few(items: &[String]) -> String {
    let shown = items.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > TOLD { format!("{shown} and {} more", items.len() - TOLD) } else { shown }
}

/// Tells the first differences of a map, and how many more there are.
fn shortened(mut all: Vec<Difference>, map: &str) -> Vec<Difference> {
    let more = all.len().saturating_sub(TOLD);
    if more > 0 {
        all.truncate(TOLD);
        all.push(Difference::new(format!("map {map}"), format!("{more} more entries are wrong")));
    }
    all
}

fn text(fields: &Map<String, Value>) -> String {
    match fields.iter().next() {
        Some((_, only)) if fields.len() == 1 => plain(only),
        _ => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", plain(value)))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join("|"),
        other => other.to_string(),
    }
}
