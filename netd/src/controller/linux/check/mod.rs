//! `netd debug check`: whether what is stored, the kernel and the maps agree (reliability 6.2).
//!
//! What there should be is the plan that a start would carry out ([`plan::ensure`]) and what it would sweep away; here it is compared with what there is
//! instead of applied. Nothing is written, locked or mended, so that it may run beside a daemon as well as without one.

mod flows;
mod host;
mod inside;
mod maps;
mod state;

use std::{collections::BTreeSet, path::PathBuf};

use serde::Serialize;

use super::{Error, Object, Step, facts};
use crate::{
    controller::{Code, Renderer, World, plan, reconcile::Belongings},
    dataplane::{self, Names, Pinned},
    link::Links,
    model::{IfName, Sandbox, SandboxMode},
    netns,
    store::{self, Peeked},
};
use host::Host;
use inside::Rooms;
use maps::Plan;

/// Which instance is looked at, and what its daemon is told.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its name, in every label.
    pub instance: String,
    /// Where its state is.
    pub state_dir: PathBuf,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// The interfaces to the outside; empty: chosen by netd.
    pub only_uplinks: Vec<IfName>,
    /// What the packet path is told.
    pub dataplane: dataplane::Settings,
    /// Whether its daemon runs: what a start would do is still to be done otherwise.
    pub runs: bool,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// What it is about: a link, a map's entry, a file.
    pub object: String,
    /// Which invariant does not hold (reliability 6.2).
    pub invariant: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What puts it right.
    pub hint: &'static str,
}

/// What was looked at, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Networks that are stored.
    pub networks: usize,
    /// Sandboxes that are stored.
    pub sandboxes: usize,
    /// Host ports that they publish.
    pub ports: usize,
    /// What is wrong.
    pub findings: BTreeSet<Finding>,
}

/// Objects of the kernel that stand for what is stored.
const I1: &str = "I1";
/// Nothing is had twice.
const I2: &str = "I2";
/// Addresses are those of gateways and endpoints.
const I3: &str = "I3";
/// Programs are on their hooks, once each.
const I4: &str = "I4";
/// Both directions of a flow are there.
const I5: &str = "I5";
/// Files parse, pins are as expected.
const I7: &str = "I7";

/// Collects findings.
struct Findings {
    all: BTreeSet<Finding>,
    /// What puts right what a start or a look around puts right.
    repair: &'static str,
}

impl Findings {
    /// Notes something that the daemon puts right.
    fn add(&mut self, invariant: &'static str, object: impl Into<String>, problem: impl Into<String>) {
        self.add_with(invariant, object, problem, self.repair);
    }

    fn add_with(
        &mut self,
        invariant: &'static str,
        object: impl Into<String>,
        problem: impl Into<String>,
        hint: &'static str,
    ) {
        self.all.insert(Finding { object: object.into(), invariant, problem: problem.into(), hint });
    }

    /// Notes each item that only one of both sides has.
    fn same<T: Ord + ToString>(
        &mut self,
        invariant: &'static str,
        object: impl Fn(&T) -> String,
        wanted: &BTreeSet<T>,
        found: &BTreeSet<T>,
    ) {
        for item in wanted.difference(found) {
            self.add(invariant, object(item), "missing");
        }
        for item in found.difference(wanted) {
            self.add(invariant, object(item), "nothing asked for it");
        }
    }
}

impl Subject {
    /// Reads the stored state without its lock. None: there is none.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn state(&self) -> Result<Option<Peeked>, Error> {
        Ok(store::peek(&self.state_dir, &self.run_dir.join("state"))?)
    }

    /// Returns the world that is stored.
    pub fn world(&self, state: &Peeked) -> World {
        let mut world = World::empty(self.dataplane.direct.routing);
        state.networks.iter().cloned().for_each(|network| world.put_network(network));
        state.sandboxes.iter().cloned().for_each(|sandbox| world.put_sandbox(sandbox));
        world
    }

    /// Returns names for what maps know by number: those of this thread's namespace, and of what is stored.
    ///
    /// # Errors
    /// The kernel does not tell its links.
    pub async fn names(&self, world: &World) -> Result<Names, Error> {
        Ok(maps::names(world, &Links::open().await?.links().await?))
    }

    /// Compares everything, in this thread's network namespace.
    ///
    /// # Errors
    /// There is nothing of this instance, it works in another namespace, or the kernel does not tell what it has.
    pub async fn check(&self) -> Result<Checked, Error> {
        let pinned = Pinned::find(&self.dataplane.bpffs)?;
        let state = self.state()?;
        if pinned.is_none() && state.is_none() {
            let text = format!(
                "there is nothing of it: neither state in {} nor pins in {}",
                self.state_dir.display(),
                self.dataplane.bpffs.display()
            );
            return Err(Error::new(Code::NotFound, text)
                .hint("give the options that the daemon has: --state-dir, --run-dir, --bpffs, --instance"));
        }
        if let Some(pinned) = &pinned
            && !pinned.is_here()?
        {
            return Err(Error::new(Code::Usage, "the instance works in another network namespace")
                .hint("run this there: nsenter --net=/proc/PID/ns/net, with the daemon's process id"));
        }
        let mut findings = Findings {
            all: BTreeSet::new(),
            repair: if self.runs {
                "the daemon puts this right within seconds; if it stays, its log says why"
            } else {
                "`netd daemon` puts this right at its start"
            },
        };
        let state = state.unwrap_or_else(|| {
            let object = format!("state directory {}", self.state_dir.display());
            let hint = "a start takes the copies in the run directory";
            findings.add_with(I7, object, "missing", hint);
            Peeked::default()
        });
        state::check(&state, self, &mut findings);
        let world = self.living(&state, &mut findings);
        self.compare(&world, pinned.as_ref(), &mut findings).await?;
        Ok(Checked {
            networks: state.networks.len(),
            sandboxes: state.sandboxes.len(),
            ports: state.sandboxes.iter().map(|sandbox| sandbox.bindings.len()).sum(),
            findings: findings.all,
        })
    }

    /// Returns the stored world without the sandboxes that a start would forget, since their namespaces are gone.
    fn living(&self, state: &Peeked, findings: &mut Findings) -> World {
        let mut world = self.world(state);
        for sandbox in &state.sandboxes {
            let Some(netns) = &sandbox.netns else { continue };
            let found = netns::Netns::open_path(&netns.path).and_then(|found| found.inode());
            let problem = match found {
                Ok(inode) if netns.inode == 0 || netns.inode == inode => continue,
                Ok(_) => "another namespace is there now".to_owned(),
                Err(error) if error.is_not_found() || !error.is_shortage() => "it is gone".to_owned(),
                Err(_) => continue, // nothing is known of it now
            };
            let object = format!("namespace of sandbox {} at {}", sandbox.name, netns.path.display());
            let hint =
                "a start looks for it among the processes, and forgets the sandbox if nothing lives in it";
            findings.add_with(I1, object, problem, hint);
            world.remove_sandbox(&sandbox.id);
        }
        let orphaned = |sandbox: &&Sandbox| matches!(&sandbox.mode, SandboxMode::Sandbox(target) if world.sandbox_by_id(target).is_none());
        let orphans: Vec<_> =
            state.sandboxes.iter().filter(orphaned).map(|sandbox| sandbox.id.clone()).collect();
        for id in &orphans {
            world.remove_sandbox(id);
        }
        world
    }

    /// Compares the plan for a world with what there is.
    async fn compare(
        &self,
        world: &World,
        pinned: Option<&Pinned>,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let host = Host::read(self, world).await?;
        let steps = plan::ensure(world, &Renderer::default());
        let (mut rooms, mut plan) = (Rooms::default(), Plan::default());
        for step in &steps {
            match step {
                Step::Put(object @ (Object::Inside(_) | Object::Gateway(_) | Object::SourceRoutes(_)))
                | Step::Remove(object @ Object::SourceRoutes(_)) => {
                    let removed = matches!(step, Step::Remove(_));
                    rooms.check(object, removed, findings).await?;
                }
                Step::Put(Object::Veth(veth)) => {
                    host.veth(veth, self, findings);
                    rooms.pair(veth, &host, findings).await?;
                }
                Step::Put(Object::Bridge(bridge)) => host.bridge(bridge, self, findings),
                Step::Put(Object::Up(ifname)) => host.up(ifname, findings),
                Step::Put(Object::Files(files)) => state::files(&self.run_dir, &files.sandbox, findings),
                Step::Put(object) => plan.take(object, &host),
                Step::Replace(..) | Step::Remove(_) | Step::Probe(_) => {}
            }
        }
        host.settings(&steps, self, findings).await?;
        host.reserved_ports(&steps, self, findings).await?;
        host.neighbours(&steps, findings);
        self.orphans(world, &host, findings)?;
        let Some(pinned) = pinned else {
            let object = format!("pins in {}", self.dataplane.bpffs.display());
            findings.add(I7, object, "missing");
            return Ok(());
        };
        plan.compare(pinned, self, world, &host, findings).await?;
        let living: BTreeSet<u32> = host.links.keys().copied().collect();
        flows::check(pinned, &living, findings);
        Ok(())
    }

    /// Notes what a start would sweep away.
    fn orphans(&self, world: &World, host: &Host, findings: &mut Findings) -> Result<(), Error> {
        let mut owned = facts::owned_links(&host.links.values().cloned().collect::<Vec<_>>(), &self.instance);
        let files = facts::owned_files(&self.run_dir.join("netns"), &self.run_dir.join("sandboxes"));
        owned.extend(files.map_err(|error| super::owned::listing(&error))?);
        let belongings = Belongings::of(world);
        for orphan in owned.iter().filter(|owned| !belongings.hold(owned)) {
            findings.add(I1, host::in_words(orphan), "it belongs to nothing that is stored");
        }
        Ok(())
    }
}
