//! How full the flow tables are, and who found no room in them, as of the collector's last look.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// Both flow tables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Occupancy {
    /// The table of each family.
    pub tables: Vec<TableUse>,
    /// Whether room is so short that timeouts are shortened.
    pub shortened_timeouts: bool,
    /// Packets dropped because a flow found no room, by the reason's word: since the maps were made.
    pub refused: BTreeMap<String, u64>,
    /// How many ports were tried for masqueraded flows.
    pub port_tries: PortTries,
    /// Entries of each endpoint in both tables, by its host side's index.
    #[serde(skip)]
    pub by_endpoint: HashMap<u32, u64>,
}

/// How many ports were tried until a masqueraded flow had one: since the maps were made. Flows without one are refused (`NAT_EXHAUSTED`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortTries {
    /// Flows by the most tries of their class, which leaves out those of the classes before: 1, 2, 4, ...
    pub flows: BTreeMap<u32, u64>,
    /// All tries for all of them.
    pub tries: u64,
}

/// One flow table. A flow takes two entries, one for each direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TableUse {
    /// The map's name.
    pub map: String,
    /// Entries in it.
    pub entries: u32,
    /// Entries it has room for.
    pub capacity: u32,
    /// Entries that one endpoint may take.
    pub endpoint_quota: u32,
    /// Entries of expired flows that the daemon has removed since its start.
    pub reclaimed: u64,
}
