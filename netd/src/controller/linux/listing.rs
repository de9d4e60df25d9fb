//! The host's links, the ports among them from memory: the kernel's list of ten thousand takes it about a second, because of each pair it looks through
//! the numbers of all namespaces.

use std::collections::{BTreeSet, HashMap};

use super::Linux;
use crate::{
    controller::Error,
    link::{Changes, HostLink, Told},
    model::IfName,
};

/// Where more than this part of the ports is to be read again, all of them are, by one list.
const PART: usize = 8;

/// What is remembered of links that are ports; all others are read each time.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By name. None: not listed yet, or the kernel lost notifications.
    ports: Option<HashMap<String, HostLink>>,
    /// Indexes of links that have changed since they were read, whoever changed them.
    stale: BTreeSet<u32>,
    /// Whether all of it was read just now.
    fresh: bool,
}

impl Listing {
    /// Notes that a link is not what it was.
    pub fn note_changed(&mut self, ifindex: u32) {
        self.note([ifindex]);
    }

    /// Notes what was heard of links.
    pub fn note_heard(&mut self, changes: &Changes) {
        self.note(changes.links.keys().copied());
        if changes.lost {
            *self = Self::default();
        }
    }

    fn note(&mut self, indexes: impl IntoIterator<Item = u32>) {
        self.stale.extend(indexes);
        if !self.holds() {
            *self = Self::default();
        }
    }

    /// Returns a port as it was listed a moment ago.
    pub fn fresh(&self, ifname: &IfName) -> Option<&HostLink> {
        let port = self.ports.as_ref().filter(|_| self.fresh)?.get(ifname.as_str())?;
        Some(port).filter(|port| !self.stale.contains(&port.ifindex))
    }

    /// Ends the moment, and lets go of what nobody asks for later.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.fresh) {
            for port in self.ports.iter_mut().flat_map(HashMap::values_mut) {
                port.told = Told::default();
            }
        }
    }

    /// Whether there is something to remember, and most of it is as it was.
    fn holds(&self) -> bool {
        self.ports.as_ref().is_some_and(|ports| self.stale.len() <= ports.len() / PART)
    }
}

impl Linux {
    /// Lists every link, and remembers the ports among them.
    pub(super) async fn list_links(&mut self) -> Result<Vec<HostLink>, Error> {
        self.listing = Listing::default();
        let all = self.links.links().await?;
        let ports = all.iter().filter(|link| link.master.is_some());
        self.listing.ports = Some(ports.map(|link| (link.name.clone(), link.clone())).collect());
        self.listing.fresh = true;
        Ok(all)
    }

    /// Returns every link; ports of which nothing was heard as they were listed.
    pub(super) async fn every_link(&mut self) -> Result<Vec<HostLink>, Error> {
        if !self.listing.holds() {
            let all = self.list_links().await?;
            self.listing.settle();
            return Ok(all);
        }
        let mut all = self.links.links_without_master().await?;
        let mut changed = Vec::new();
        for ifindex in &self.listing.stale {
            changed.extend(self.links.link_by_index(*ifindex).await?.filter(|link| link.master.is_some()));
        }
        let stale = std::mem::take(&mut self.listing.stale);
        let elsewhere: BTreeSet<u32> = all.iter().map(|link| link.ifindex).chain(stale).collect();
        let ports = self.listing.ports.get_or_insert_default();
        ports.retain(|_, port| !elsewhere.contains(&port.ifindex));
        ports.extend(changed.into_iter().map(|link| (link.name.clone(), link)));
        all.extend(ports.values().cloned());
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        controller::{Reserved, Site, apply::Machine as _},
        dataplane::{Dataplane, fake::Fake},
        link::{
            LinkChange, Links,
            tests::{in_new_netns, ip},
        },
        sysctl::ReservedPorts,
    };

    async fn machine(links: Links) -> Linux {
        let reserved = Reserved::start(links.netns(), &ReservedPorts::default(), &[]).await;
        let dataplane = Arc::new(Mutex::new(Box::new(Fake::default()) as Box<dyn Dataplane>));
        let site = Site { instance: "test".into(), run_dir: "/nowhere".into(), only_uplinks: Vec::new() };
        Linux::new(links, dataplane, reserved.expect("settings"), &site).expect("machine")
    }

    /// Returns the names of what the machine takes for the host's links, with those of what they are ports of.
    async fn listed(machine: &mut Linux) -> BTreeSet<(String, Option<u32>)> {
        let all = machine.every_link().await.expect("listed");
        let count = all.len();
        let names: BTreeSet<_> = all.into_iter().map(|link| (link.name, link.master)).collect();
        assert_eq!(names.len(), count, "none is listed twice");
        names
    }

    fn heard(of: &HostLink) -> Changes {
        Changes { links: [(of.ifindex, LinkChange::default())].into(), ..Changes::default() }
    }

    #[test]
    fn a_port_is_as_it_was_listed_until_something_is_heard_of_it_and_all_else_is_read_again() {
        in_new_netns(async || {
            ip("link add br0 type bridge");
            for number in 0..4 * PART {
                ip(&format!("link add port{number} master br0 type veth peer name free{number}"));
            }
            let links = Links::open().await.expect("socket");
            let mut machine = machine(links.clone()).await;
            let truth = async || {
                let all = links.links().await.expect("links");
                all.into_iter().map(|link| (link.name, link.master)).collect::<BTreeSet<_>>()
            };
            assert_eq!(listed(&mut machine).await, truth().await);

            ip("link set free0 name other0");
            ip("link set port1 nomaster");
            ip("link del free2");
            machine.heard(&heard(&HostLink { ifindex: 99_999, ..HostLink::default() }));
            let without_port2: BTreeSet<_> =
                listed(&mut machine).await.into_iter().filter(|(name, _)| name != "port2").collect();
            assert_eq!(
                without_port2,
                truth().await,
                "no list is needed for these, but for a port that is gone"
            );

            let port = async |name: &str| {
                links.link(&name.parse().expect("a name")).await.expect("read").expect("there")
            };
            let renamed = port("port3").await;
            ip("link set port3 name other3");
            assert!(listed(&mut machine).await.iter().any(|(name, _)| name == "port3"), "from memory");
            machine.heard(&heard(&renamed));
            assert!(
                listed(&mut machine).await.iter().all(|(name, _)| name != "port3"),
                "something was heard"
            );
            ip("link add new type veth peer name free_new");
            ip("link set new master br0");
            machine.heard(&heard(&port("new").await));
            machine.heard(&Changes { lost: true, ..Changes::default() });
            assert_eq!(listed(&mut machine).await, truth().await, "everything is read again");

            let gone: Vec<HostLink> = [port("port4").await, port("port5").await].into();
            ip("link del port4");
            ip("link del port5");
            for link in &gone {
                machine.heard(&heard(link));
            }
            assert_eq!(listed(&mut machine).await, truth().await, "what was heard of is gone");
        });
    }

    #[test]
    fn what_a_list_says_of_a_port_serves_until_it_is_settled_or_the_port_changes() {
        in_new_netns(async || {
            ip("link add br0 type bridge");
            ip("link add port0 master br0 type veth peer name free0");
            let mut machine = machine(Links::open().await.expect("socket")).await;
            let (port, free) = ("port0".parse().expect("a name"), "free0".parse().expect("a name"));
            assert!(machine.listing.fresh(&port).is_none());
            machine.list_anew().await.expect("listed");
            let ifindex = machine.listing.fresh(&port).expect("a port").ifindex;
            assert!(machine.listing.fresh(&free).is_none(), "no port");
            machine.listing.note_changed(ifindex);
            assert!(machine.listing.fresh(&port).is_none(), "it has changed");
            for ifindex in 0..1000 {
                machine.listing.note_changed(ifindex);
            }
            assert!(
                machine.listing.stale.len() <= 1,
                "what is to be read again anyway need not be known one by one"
            );
            machine.list_anew().await.expect("listed");
            assert!(machine.listing.fresh(&port).is_some_and(|port| port.told != Told::default()));
            machine.settle().await;
            assert!(machine.listing.fresh(&port).is_none(), "nobody keeps it for ever");
        });
    }
}
