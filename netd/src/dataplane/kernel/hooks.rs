//! Programs and pins that somebody else took away come back (reliability F7, F22).
//!
//! Who removes a filter or a qdisc is heard of at once, or the kernel says that it lost some of what it had to say; a link that is detached, or a pin that is removed, tells nobody: a part of them is looked at each
//! time, so that a few hundred interfaces are looked at every second, and more of them in turns.

use std::collections::BTreeSet;

use super::{
    super::{
        Error, Unhooked,
        attach::{self, Side},
        layout::{Layout, SCHEMA},
        load, migrate,
    },
    Kernel,
};

/// Interfaces that are looked at in one go: two system calls each.
const AT_ONCE: usize = 256;

impl Kernel {
    /// Puts back what is gone. Returns what that was.
    pub(super) fn put_back(&mut self, unhooked: &Unhooked) -> Result<Vec<String>, Error> {
        let mut repaired = self.pin_again()?;
        let all: Vec<u32> = self.attached.keys().copied().collect();
        let begin = if self.looked_at < all.len() { self.looked_at } else { 0 };
        self.looked_at = begin + AT_ONCE;
        let turn = all.iter().skip(begin).take(AT_ONCE);
        let due: BTreeSet<u32> =
            turn.chain(all.iter().filter(|index| unhooked.includes(**index))).copied().collect();
        let mut result = Ok(());
        for ifindex in due {
            let Some((side, ifname)) = self.attached.get(&ifindex).cloned() else { continue };
            if nix::net::if_::if_nametoindex(ifname.as_str()).ok() != Some(ifindex) {
                continue; // it has gone or another name, which is somebody else's business to notice
            }
            match self.put_back_on(side, ifindex, &ifname, unhooked.includes(ifindex)) {
                Ok(true) => repaired.push(format!("programs of {ifname}")),
                Ok(false) => {}
                // The others are not to wait for it.
                Err(error) => result = Err(error),
            }
        }
        if attach::sockets_missing(&self.links) {
            attach::sockets(&mut self.programs, &self.links, &self.settings.cgroup)?;
            repaired.push("socket programs".to_owned());
        }
        if self.settings.respect_host_firewall && attach::lacks_input(&self.links) {
            attach::input(&mut self.programs, &self.links, true)?;
            repaired.push("program of the namespace".to_owned());
        }
        repaired.extend(self.guard_again()?);
        if repaired.is_empty() { result.map(|()| repaired) } else { Ok(repaired) }
    }

    /// Puts back what an interface lacks; its filters are asked for only where one may be gone. Returns whether something was.
    fn put_back_on(&mut self, side: Side, ifindex: u32, ifname: &str, filters: bool) -> Result<bool, Error> {
        let gone = !attach::missing(&self.links, side, ifindex, self.mode_on(ifindex)).is_empty()
            || (filters && attach::lacks_filter(&mut self.programs, &self.links, side, (ifindex, ifname))?);
        if gone {
            attach::interface(&mut self.programs, &self.links, side, ifname, ifindex, (self.mode, false))?;
            if side.is_of_a_sandbox() {
                self.note_promotion(ifindex, ifname)?;
            }
        }
        Ok(gone)
    }

    /// Pins the maps again that have lost their pins: the programs go on with them, and the next daemon has to find them.
    fn pin_again(&mut self) -> Result<Vec<String>, Error> {
        let pins = self.links.parent().unwrap_or(&self.links);
        let mut repaired = Vec::new();
        if !self.links.exists() {
            load::make_dirs(&self.settings.bpffs, pins)?;
        }
        if !pins.join(SCHEMA).exists() {
            migrate::record(pins, &Layout::of(&self.settings))?;
        }
        for (name, map) in self.programs.maps().filter(|(name, _)| super::super::maps::NAMES.contains(name)) {
            let path = pins.join(name);
            if path.exists() {
                continue;
            }
            map.pin(&path)
                .map_err(|source| Error::kernel(format!("pin the map {} again", path.display()), source))?;
            repaired.push(format!("pin of map {name}"));
        }
        Ok(repaired)
    }
}
