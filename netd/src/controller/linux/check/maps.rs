//! I1, I4, I7: maps, pins and programs.

use std::collections::BTreeMap;

use super::{Findings, I1, I4, I7, Subject, host::Host};
use crate::{
    controller::{
        Error, World,
        host::trusted,
        linux::{
            bridge::network_entry,
            ports::{guard_entries, open_entries, publish_entries},
        },
        object::Object,
    },
    dataplane::{Attached, Difference, Names, Pinned, Wanted},
    link::HostLink,
    model::{Device, IfName},
};

/// Index of `lo` in every namespace (`net/core/net_namespace.c`).
const LOOPBACK: u32 = 1;

/// What the plan puts into the packet path.
#[derive(Default)]
pub struct Plan {
    wanted: Wanted,
    endpoints: Vec<(IfName, Device)>,
}

impl Plan {
    /// Notes what an object puts there. Of what its interface lacks, the interface is told as missing.
    pub fn take(&mut self, object: &Object, host: &Host) {
        let index = |ifname: &IfName| host.link(ifname).map(|link| link.ifindex);
        match object {
            Object::Slot(slot) => self.wanted.networks.push(network_entry(slot, host.link(&slot.bridge))),
            Object::Programs(ifname, device) => self.endpoints.push((ifname.clone(), *device)),
            Object::Record(record) => {
                self.wanted.endpoints.extend(index(&record.host).map(|index| record.entry(index)));
            }
            Object::Guard(listens) => self.wanted.reserved.extend(guard_entries(listens)),
            Object::Publish(publish) => {
                let entries = index(&publish.host).map(|index| publish_entries(publish, index));
                self.wanted.published.extend(entries.into_iter().flatten());
            }
            Object::Open(open) => {
                let entries = index(&open.host).map(|index| open_entries(&open.ports, index));
                self.wanted.open.extend(entries.into_iter().flatten());
            }
            Object::Links(links) => self.wanted.links.extend(links.ports.iter().copied()),
            _ => {}
        }
    }

    /// Compares it with what is there.
    ///
    /// # Errors
    /// The maps are another netd's, or the kernel does not tell of filters.
    pub async fn compare(
        mut self,
        pinned: &Pinned,
        subject: &Subject,
        world: &World,
        host: &Host,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let view = &host.view;
        self.wanted.uplinks.clone_from(&view.uplinks);
        self.wanted.local.clone_from(&view.local);
        self.wanted.interfaces.clone_from(&view.links);
        let own = view.own.iter().filter_map(|name| view.links.get(name));
        self.wanted.own = own.copied().collect();
        self.wanted.rules.clone_from(&view.rules);
        self.wanted.trusted = trusted(world, &view.links);
        let links: Vec<HostLink> = host.links.values().cloned().collect();
        let (settings, names) = (&subject.dataplane, names(world, &links));
        note(findings, I7, pinned.wrong_pins(&settings.bpffs));
        note(findings, I1, pinned.compare(&self.wanted, settings, &names)?);
        let interfaces = self.interfaces(pinned, host);
        note(findings, I4, pinned.wrong_links(&interfaces, settings)?);
        for (ifindex, (ifname, attached)) in &interfaces {
            let present = host.kernel.filters(*ifindex).await?;
            for (ingress, program) in pinned.filters(*ifindex, *attached, settings) {
                let same = present
                    .iter()
                    .filter(|filter| filter.ingress == ingress && filter.program.as_deref() == Some(program));
                let object = format!("program {program} on {ifname}");
                match same.count() {
                    0 => findings.add(I4, object, "its filter is gone"),
                    1 => {}
                    _ => findings.add(I4, object, "it has more than one filter"),
                }
            }
        }
        Ok(())
    }

    /// Returns the interfaces that have programs, with what they are to netd.
    fn interfaces(&self, pinned: &Pinned, host: &Host) -> BTreeMap<u32, (String, Attached)> {
        let endpoints = self.endpoints.iter().filter_map(|(ifname, device)| {
            Some((host.link(ifname)?.ifindex, (ifname.to_string(), Attached::Endpoint(*device))))
        });
        let uplinks = host.view.uplinks.iter().map(|uplink| {
            (uplink.ifindex, (uplink.ifname.to_string(), Attached::Uplink { bare: uplink.bare }))
        });
        let mut all: BTreeMap<u32, (String, Attached)> = endpoints.chain(uplinks).collect();
        // Once a port was published its program stays, also without one.
        if !self.wanted.published.is_empty() || pinned.is_on_loopback() {
            all.insert(LOOPBACK, ("lo".to_owned(), Attached::Loopback));
        }
        all
    }
}

fn note(findings: &mut Findings, invariant: &'static str, differences: Vec<Difference>) {
    for Difference { object, problem } in differences {
        findings.add(invariant, object, problem);
    }
}

/// Returns names for what maps know by number.
pub fn names(world: &World, links: &[HostLink]) -> Names {
    let index: BTreeMap<&str, u32> = links.iter().map(|link| (link.name.as_str(), link.ifindex)).collect();
    let endpoints = world
        .sandboxes()
        .flat_map(|sandbox| sandbox.endpoints.iter().map(move |endpoint| (endpoint, sandbox)));
    let networks =
        world.networks().filter_map(|network| Some((network.index?.into(), network.name.to_string())));
    Names {
        sandboxes: endpoints
            .filter_map(|(endpoint, sandbox)| {
                Some((*index.get(endpoint.host_ifname.as_str())?, sandbox.name.to_string()))
            })
            .collect(),
        interfaces: links.iter().map(|link| (link.ifindex, link.name.clone())).collect(),
        networks: networks.collect(),
    }
}
