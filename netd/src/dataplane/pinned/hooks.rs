//! Whether pins are all there, and programs where they must be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsFd,
    path::Path,
};

use aya::programs::{ProgramInfo, SchedClassifier, tc::TcAttachType};

use super::{Difference, Pinned};
use crate::{
    dataplane::{
        AttachMode, Error, Settings,
        attach::{self, Side},
        guard, kept,
        layout::SCHEMA,
        load, maps, netkit,
        programs::{INPUT_PROGRAM, PACKET_PROGRAMS, SOCKET_PROGRAMS, known_name},
        promote, raw,
    },
    kernel_release,
    model::Device,
};

/// A link that is pinned.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Attachment {
    /// Name of the pin: for a program of an interface its index, then the program.
    pub pin: String,
    /// Id of the program behind it.
    pub program: Option<u32>,
    /// Whether it leads to a hook.
    pub attached: bool,
}

/// What an interface is to netd, which decides on its programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// The host side of an endpoint's pair.
    Endpoint(Device),
    /// An interface to the outside, whose packets may begin with IP.
    Uplink {
        /// Whether they do.
        bare: bool,
    },
    /// `lo`.
    Loopback,
}

impl Attached {
    const fn side(self) -> Side {
        match self {
            Self::Endpoint(Device::Veth) => Side::Endpoint,
            Self::Endpoint(Device::Netkit) => Side::Netkit,
            Self::Uplink { bare: false } => Side::Uplink,
            Self::Uplink { bare: true } => Side::BareUplink,
            Self::Loopback => Side::Loopback,
        }
    }
}

/// Returns how this kernel's packet programs are attached.
fn mode(settings: &Settings) -> AttachMode {
    match settings.attach {
        AttachMode::Auto
            if kernel_release::version().is_some_and(|release| release < kernel_release::TCX) =>
        {
            AttachMode::Tc
        }
        AttachMode::Auto => AttachMode::Tcx,
        chosen => chosen,
    }
}

impl Pinned {
    /// Lists the pinned links.
    pub fn attachments(&self) -> Vec<Attachment> {
        let links = self.links();
        let one = |pin: String| {
            let path = links.join(&pin);
            Attachment { program: program_of(&path), attached: attach::is_linked(&path), pin }
        };
        names(&links).into_iter().map(one).collect()
    }

    /// Lists maps whose pins are missing or lead to something else, and pins that nobody knows.
    pub fn wrong_pins(&self, bpffs: &Path) -> Vec<Difference> {
        let mut differences = Vec::new();
        let pin = |name: &str| format!("pin {}", self.dir.join(name).display());
        let known: BTreeSet<&str> = self.layout.maps.iter().map(|shape| shape.name.as_str()).collect();
        for shape in &self.layout.maps {
            let path = self.dir.join(&shape.name);
            if !path.exists() {
                differences.push(Difference::new(pin(&shape.name), "missing"));
            } else if let Err(error) = load::pinned(&path, shape) {
                differences.push(Difference::new(pin(&shape.name), error.to_string()));
            }
        }
        for name in maps::NAMES.iter().filter(|name| !known.contains(*name)) {
            differences
                .push(Difference::new(pin(name), "these pins are another netd's, which has no such map"));
        }
        for name in names(&self.dir) {
            if !known.contains(name.as_str()) && ![SCHEMA, "links", kept::PROGRAMS].contains(&name.as_str()) {
                differences.push(Difference::new(pin(&name), "nobody knows what it is for"));
            }
        }
        for other in names(bpffs).into_iter().filter(|name| !self.dir.ends_with(name)) {
            let path = bpffs.join(&other);
            differences.push(Difference::new(
                format!("pins {}", path.display()),
                format!("beside those in use, {}", self.dir.display()),
            ));
        }
        differences
    }

    /// Returns the names that the kernel knows the programs of an interface's clsact filters by, each with whether it sees what the interface receives.
    pub fn filters(
        &self,
        ifindex: u32,
        attached: Attached,
        settings: &Settings,
    ) -> Vec<(bool, &'static str)> {
        let side = attached.side();
        let mode = self.mode_on(ifindex, side, settings);
        let filtered = side
            .hooks()
            .iter()
            .filter(|(_, direction)| mode == AttachMode::Tc || !side.takes_tcx(*direction));
        filtered
            .map(|(name, direction)| (matches!(direction, TcAttachType::Ingress), known_name(name)))
            .collect()
    }

    /// Returns how an interface's programs are attached: a sandbox's by filters until it is promoted (ADR 0028).
    fn mode_on(&self, ifindex: u32, side: Side, settings: &Settings) -> AttachMode {
        if side.is_of_a_sandbox() && !promote::is_promoted(&self.links(), ifindex) {
            return AttachMode::Tc;
        }
        mode(settings)
    }

    /// Whether the program of `lo` has been put there.
    pub fn is_on_loopback(&self) -> bool {
        attach::is_attached(&self.links(), Side::Loopback, netd_common::net::LOOPBACK_ZONE)
    }

    /// Lists what is wrong with the links of these interfaces, by index, and links that belong to none of them.
    ///
    /// # Errors
    /// The kernel does not tell of a program.
    pub fn wrong_links(
        &self,
        interfaces: &BTreeMap<u32, (String, Attached)>,
        settings: &Settings,
    ) -> Result<Vec<Difference>, Error> {
        let links = self.links();
        let kept = self.kept()?;
        let mut differences = Vec::new();
        let mut known = BTreeSet::new();
        for (ifindex, (ifname, attached)) in interfaces {
            let side = attached.side();
            let mode = self.mode_on(*ifindex, side, settings);
            for program in attach::missing(&links, side, *ifindex, mode) {
                differences.push(Difference::new(
                    format!("program {program} on {ifname}"),
                    "it is detached, or its link is not pinned any more",
                ));
            }
            let sends = (side == Side::Netkit).then_some(netkit::PROGRAM);
            for program in side.hooks().iter().map(|(program, _)| *program).chain(sends) {
                let name = format!("{ifindex}-{program}");
                if let Some(id) = program_of(&links.join(&name))
                    .filter(|id| kept.get(program).is_some_and(|ids| !ids.contains(id)))
                {
                    differences.push(Difference::new(
                        format!("program {program} on {ifname}"),
                        format!("its link leads to program {id}, which is not netd's"),
                    ));
                }
                known.insert(name);
            }
            differences.extend(on_hooks(ifname, side, mode, settings));
            if settings.guard.includes(ifname) && !guard::is_attached(&links, *ifindex) {
                differences.push(Difference::new(format!("guard of {ifname}"), "it is not attached"));
            }
            known.insert(format!("{ifindex}-{}", guard::PROGRAM));
        }
        differences.extend(self.wrong_fixed(settings));
        for name in names(&links) {
            let Some((index, _)) = name.split_once('-') else { continue };
            if index.parse::<u32>().is_ok() && !known.contains(&name) {
                let pin = format!("pin {}", links.join(&name).display());
                differences.push(Difference::new(pin, "its interface is gone, or not netd's to serve"));
            }
        }
        Ok(differences)
    }

    /// Lists what is wrong with the programs that are on no interface.
    fn wrong_fixed(&self, settings: &Settings) -> Vec<Difference> {
        let links = self.links();
        let mut wanted: Vec<&str> = SOCKET_PROGRAMS.to_vec();
        wanted.extend(settings.respect_host_firewall.then_some(INPUT_PROGRAM));
        let gone = wanted.into_iter().filter(|program| !attach::is_linked(&links.join(program)));
        gone.map(|program| {
            let place = if program == INPUT_PROGRAM { "the namespace" } else { "the cgroup" };
            Difference::new(
                format!("program {program} on {place}"),
                "it is detached, or its link is not pinned any more",
            )
        })
        .collect()
    }

    /// Returns the ids of the packet programs that are kept for the next daemon, by name.
    fn kept(&self) -> Result<BTreeMap<&'static str, BTreeSet<u32>>, Error> {
        let mut ids: BTreeMap<&'static str, BTreeSet<u32>> = BTreeMap::new();
        let all = self.dir.join(kept::PROGRAMS);
        for build in names(&all) {
            for program in PACKET_PROGRAMS {
                let path = all.join(&build).join(program);
                if path.exists() {
                    let info = ProgramInfo::from_pin(&path).map_err(|source| {
                        Error::kernel(format!("inspect the pin {}", path.display()), source)
                    })?;
                    ids.entry(program).or_default().insert(info.id());
                }
            }
        }
        Ok(ids)
    }
}

/// Lists what is wrong with the order of programs on an interface's TCX hooks; it is that of this thread's namespace.
fn on_hooks(ifname: &str, side: Side, mode: AttachMode, settings: &Settings) -> Vec<Difference> {
    let mut differences = Vec::new();
    for &(program, direction) in side.hooks() {
        if mode == AttachMode::Tc || !side.takes_tcx(direction) {
            continue;
        }
        let Ok((_, programs)) = SchedClassifier::query_tcx(ifname, direction) else { continue };
        let names: Vec<&str> = programs.iter().map(|info| info.name_as_str().unwrap_or("?")).collect();
        let ours = |name: &&&str| **name == known_name(program);
        let object = format!("program {program} on {ifname}");
        if names.iter().filter(ours).count() > 1 {
            differences.push(Difference::new(object.clone(), "it is attached more than once"));
        }
        let first = matches!(side, Side::Endpoint | Side::Netkit)
            || (side != Side::Loopback && settings.tcx_order == crate::dataplane::TcxOrder::First);
        if let Some(other) = names.first().filter(|name| first && **name != known_name(program))
            && names.iter().any(|name| ours(&name))
        {
            differences.push(Difference::new(object, format!("program {other} of others runs before it")));
        }
    }
    differences
}

fn program_of(path: &Path) -> Option<u32> {
    raw::program_of(raw::open_pin(path).ok()?.as_fd()).ok()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
