//! Packet programs that an earlier daemon of the same build loaded are used again: the verifier takes most of a second for them.
//!
//! They are pinned below the digest of the object that they come from, so that another build finds nothing and loads its own. One that uses
//! other maps than the instance's is not taken: it would decide by what nobody writes to any more.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapInfo,
    programs::{Program, ProgramInfo, SchedClassifier},
};

use super::{Error, load::make_dir, maps, object::OBJECT_SHA256, programs::known_name};

/// Directory of the programs beside the maps.
pub const PROGRAMS: &str = "programs";

/// Where the programs of this build are pinned, and which maps they have to use.
pub struct Kept {
    dir: PathBuf,
    /// Ids of the instance's maps.
    maps: HashSet<u32>,
}

impl Kept {
    /// Makes the directory of this build, which is told apart from the same code with other constants, and forgets the programs of others. The maps
    /// are pinned already.
    ///
    /// # Errors
    /// Names the directory or the map.
    pub fn open(pins: &Path, constants: &str) -> Result<Self, Error> {
        let all = pins.join(PROGRAMS);
        let dir = all.join(format!("{OBJECT_SHA256}{constants}"));
        make_dir(&all)?;
        make_dir(&dir)?;
        for other in fs::read_dir(&all).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if other != dir {
                fs::remove_dir_all(&other).map_err(|source| {
                    Error::kernel(format!("remove the pins in {}", other.display()), source)
                })?;
            }
        }
        let id = |name| {
            let path = pins.join(name);
            MapInfo::from_pin(&path)
                .map(|info| info.id())
                .map_err(|source| Error::kernel(format!("inspect the pinned map {}", path.display()), source))
        };
        Ok(Self { dir, maps: maps::NAMES.into_iter().map(id).collect::<Result<_, _>>()? })
    }

    /// Makes a packet program the one that was kept. False: there is none that fits.
    pub fn adopt(&self, name: &'static str, program: &mut Program) -> bool {
        let path = self.dir.join(name);
        if !path.exists() {
            return false;
        }
        let info = ProgramInfo::from_pin(&path).ok().filter(|info| self.fits(name, info));
        let kept = info.and_then(|info| SchedClassifier::from_program_info(info, name.into()).ok());
        let Some(kept) = kept else {
            tracing::warn!(path = %path.display(), "this pin is not netd's program; it is replaced");
            return false;
        };
        *program = Program::SchedClassifier(kept);
        true
    }

    /// Lets the next one of this name be loaded anew.
    pub fn forget(&self, name: &str) {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(name, %error, "pin not removed");
            }
            _ => {}
        }
    }

    /// Pins a packet program for the next daemon, which has to load its own when that fails.
    pub fn keep(&self, name: &str, program: &mut Program) {
        self.forget(name);
        let path = self.dir.join(name);
        if let Err(error) = program.pin(&path) {
            tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "program not pinned");
        }
    }

    /// Whether a program has that name and uses the instance's maps, and no others of the same names.
    fn fits(&self, name: &str, info: &ProgramInfo) -> bool {
        let Ok(Some(ids)) = info.map_ids() else { return false };
        let (own, others): (Vec<u32>, Vec<u32>) = ids.into_iter().partition(|id| self.maps.contains(id));
        let is_shared = |id: &u32| {
            let info = MapInfo::from_id(*id).ok();
            info.is_none_or(|info| info.name_as_str().is_none_or(|name| maps::NAMES.contains(&name)))
        };
        info.name_as_str() == Some(known_name(name)) && !own.is_empty() && !others.iter().any(is_shared)
    }
}
