//! Where netd's programs stand among others on an uplink (`[dataplane] tcx_order`), and how they move when that setting has changed.
//!
//! A link keeps its place when its program is replaced, and a program can be on a hook but once. So another one is loaded, attached at the new
//! place, and then the old link is taken away: in between a packet meets both, and never none.

use std::{fs, path::Path};

use aya::{
    maps::{Array, Map, MapData},
    programs::{LinkOrder, TcAttachType},
};
use netd_common::maps::{Config, features};

use super::{
    Error,
    attach::{self, Side},
    programs::Programs,
};

/// End of the pin of a link that is about to take another's place.
const MOVES: &str = "-moves";

/// Where the programs of uplinks stand among others of their hooks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcxOrder {
    /// Programs of others run before.
    #[default]
    Last,
    /// Programs of others run after, on what netd passes on.
    First,
}

impl TcxOrder {
    /// Returns what the configuration map says of it.
    pub const fn feature(self) -> u32 {
        match self {
            Self::Last => 0,
            Self::First => features::UPLINKS_FIRST,
        }
    }

    /// Returns where a new link goes.
    pub fn link_order(self) -> LinkOrder {
        match self {
            Self::Last => LinkOrder::last(),
            Self::First => LinkOrder::first(),
        }
    }
}

/// Whether links that an earlier daemon left stand where another setting has put them.
pub fn has_changed(pins: &Path, wanted: TcxOrder) -> bool {
    let read = || {
        let map = Map::Array(MapData::from_pin(pins.join("CONFIG")).ok()?);
        Array::<_, Config>::try_from(map).ok()?.get(&0, 0).ok()
    };
    // Zero is what nobody has written yet.
    read().is_some_and(|config: Config| {
        config.epoch != 0 && config.features & features::UPLINKS_FIRST != wanted.feature()
    })
}

/// Lists the programs that stand among others.
pub fn programs() -> impl Iterator<Item = (&'static str, TcAttachType)> {
    [Side::Uplink, Side::BareUplink].into_iter().flat_map(|side| side.hooks().iter().copied())
}

/// Ends what a daemon has left that was killed while it moved links.
///
/// # Errors
/// Names the pin that stays.
pub fn finish(links: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        let beside = entry.path();
        let Some(path) =
            entry.file_name().to_str().and_then(|name| name.strip_suffix(MOVES)).map(|n| links.join(n))
        else {
            continue;
        };
        if path.exists() { attach::unpin(&beside)? } else { rename(&beside, &path)? }
    }
    Ok(())
}

/// Moves the links of uplinks to where the setting wants them. Returns whether all of them are there; filters have a priority of their own and stay.
///
/// # Errors
/// Names the link.
pub fn move_links(programs_of: &mut Programs, links: &Path, order: TcxOrder) -> Result<bool, Error> {
    let mut moved = true;
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((index, program)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
        let Some((program, direction)) = programs().find(|(known, _)| *known == program) else { continue };
        let ifindex = index.parse().unwrap_or(0);
        let Ok(ifname) = nix::net::if_::if_indextoname(ifindex) else { continue };
        let ifname = ifname.to_string_lossy();
        let (path, beside) = (entry.path(), links.join(format!("{}{MOVES}", name.to_string_lossy())));
        match attach::tcx(programs_of.packet(program)?, &ifname, direction, order.link_order(), &beside) {
            Ok(()) => {
                attach::unpin(&path)?;
                rename(&beside, &path)?;
                tracing::info!(%ifname, program, ?order, "program moved among those of others");
            }
            // The same program is there: it came from another version of netd at this very start.
            Err(error) => {
                tracing::warn!(%ifname, program, %error, "program keeps its place among those of others until the next start");
                moved = false;
            }
        }
    }
    Ok(moved)
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| Error::kernel(format!("rename the pin {}", from.display()), source))
}
