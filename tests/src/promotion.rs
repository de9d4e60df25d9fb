//! The program that a sandbox's packets meet: a filter when the sandbox is created, a link once nobody waits for the daemon (ADR 0028).

use std::process::Command;

use aya::programs::{SchedClassifier, TcAttachType};

use crate::{Dirs, Ns, eventually, invariants};

/// The program.
const PROGRAM: &str = "from_endpoint";

/// How often the program is on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// By links.
    pub links: usize,
    /// As filters.
    pub filters: usize,
}

impl Forms {
    /// As it is at first, and for good on kernels without TCX.
    pub const FILTER: Self = Self { links: 0, filters: 1 };
    /// On its way.
    pub const BOTH: Self = Self { links: 1, filters: 1 };
    /// As it stays.
    pub const LINK: Self = Self { links: 1, filters: 0 };

    /// Looks at an interface.
    pub fn on(ns: &Ns, ifname: &str) -> Self {
        let links = ns.run(|| SchedClassifier::query_tcx(ifname, TcAttachType::Ingress));
        let links = links.map(|(_, programs)| programs).unwrap_or_default();
        let out = ns.output(Command::new("tc").args(["filter", "show", "dev", ifname, "ingress"]));
        let filters = String::from_utf8_lossy(&out.stdout).matches(&format!("name {PROGRAM} ")).count();
        Self { links: links.iter().filter(|info| info.name_as_str() == Some(PROGRAM)).count(), filters }
    }
}

/// Whether this kernel has links for packet programs, as far as a running daemon uses them.
pub fn has_links(dirs: &Dirs) -> bool {
    dirs.leftovers().iter().any(|path| path.ends_with("_uplink") && path.contains("/links/"))
}

/// Waits until a daemon that answers has no filter left that becomes a link.
pub fn until_promoted(ns: &Ns, dirs: &Dirs) {
    let answers = invariants::get(dirs, "/netd/v1/sandboxes").is_some();
    if answers && has_links(dirs) {
        eventually("every filter to become a link", || {
            ns.links().iter().all(|ifname| Forms::on(ns, ifname).filters == 0)
        });
    }
}
