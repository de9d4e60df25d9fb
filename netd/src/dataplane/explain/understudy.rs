//! The loaded programs once more, over maps of their own wherever they write: what they decide there is what they would decide on the stage, and nobody
//! sees a trace of it (ADR 0022).
//!
//! What they only read is the instance's own. What they also write they find as far as this packet needs it: the flows and counters that decide it are
//! copied before a run, and where a run claims what somebody has in the instance's tables, that is copied too and the run is repeated.

use std::{
    collections::{HashMap as Set, HashSet},
    hash::Hash,
    net::IpAddr,
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
    programs::SchedClassifier,
    util::nr_cpus,
};
use netd_common::{
    guard::link_of,
    maps::{
        Allowance, Config, Flow, Hearing, Pace, Pending, Place, Tuple, features, hearing::ACCEPTED, port_set,
    },
    net::{Addr4, Addr6, UPLINK_ZONE},
    verdict::DropReason,
};

use super::super::{
    Error,
    flows::{Printable, now},
    maps::Ports,
    object::OBJECT,
    programs::{guard_program, packet_program},
    test_run::{Ran, run_guard_on, run_on},
};
use super::written;

/// Runs of one packet at most: each try of a port that is taken costs one.
const RUNS: usize = 80;
/// So many of them meet one flow each; then all flows of the same remote are looked for at once. The ports that are tried in turn are fewer.
const SINGLY: usize = 34;

/// One family's tables that are written: the instance's, and the understudy's.
pub struct Stage<A> {
    flows: [HashMap<MapData, Tuple<A>, Flow<A>>; 2],
    asked: [HashMap<MapData, Tuple<A>, u32>; 2],
    pending: [HashMap<MapData, Place, Pending<A>>; 2],
    /// What the host's rules say: the understudy's alone.
    heard: HashMap<MapData, Tuple<A>, Hearing>,
    usage: [Array<MapData, u32>; 2],
    /// What sources may still open.
    openings: [HashMap<MapData, A, Allowance>; 2],
    /// The flows that a run begins with.
    known: Set<Tuple<A>, Flow<A>>,
    /// What was looked for in the instance's tables.
    looked: HashSet<Tuple<A>>,
}

/// Which of two tables is the instance's, and which the understudy's.
const LIVE: usize = 0;
const OWNED: usize = 1;

/// The programs over maps of their own.
pub struct Understudy {
    object: Ebpf,
    drops: PerCpuArray<MapData, u64>,
    pace: [Array<MapData, Pace>; 2],
    ports: [Array<MapData, Ports>; 2],
    config: Array<MapData, Config>,
    /// IPv4.
    pub v4: Stage<Addr4>,
    /// IPv6.
    pub v6: Stage<Addr6>,
}

/// What a run shows.
pub struct Shown {
    /// The action and the packet's bytes.
    pub ran: Ran,
    /// Why it was dropped, if it was.
    pub reason: Option<DropReason>,
}

/// A packet on a device.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The program.
    pub program: &'static str,
    /// The frame.
    pub frame: &'a [u8],
    /// The device it arrives on, or leaves by.
    pub ifindex: u32,
    /// The device by which it entered the host; 0: the host made it.
    pub ingress: u32,
    /// Endpoints that may pay for a flow that it opens.
    pub payers: &'a [u32],
}

fn open(pins: &Path, name: &str) -> Result<MapData, Error> {
    MapData::from_pin(pins.join(name))
        .map_err(|source| Error::kernel(format!("open the pinned map {name}"), source))
}

fn take(object: &mut Ebpf, name: &str) -> Result<Map, Error> {
    object.take_map(name).ok_or_else(|| Error::Unsupported(format!("the eBPF object has no map {name}")))
}

/// Returns the error of a map's call.
fn failed(name: &str) -> impl Fn(MapError) -> Error {
    let doing = format!("use map {name} for an explanation");
    move |source| Error::kernel(doing.clone(), source)
}

/// Returns a value, if there is one.
fn value<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, key: &K) -> Result<Option<V>, Error> {
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(failed("of flows")(source)),
    }
}

/// Removes every entry.
fn clear<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) -> Result<(), Error> {
    let keys: Result<Vec<K>, MapError> = map.keys().collect();
    keys.and_then(|keys| keys.iter().try_for_each(|key| map.remove(key))).map_err(failed("of flows"))
}

impl<A: Printable + Eq + Hash> Stage<A>
where
    Tuple<A>: Pod,
    Flow<A>: Pod,
    Pending<A>: Pod,
    A: Pod,
{
    fn open(pins: &Path, object: &mut Ebpf, digit: char) -> Result<Self, Error> {
        let (flow, asked) = (format!("FLOW{digit}"), format!("ASKED{digit}"));
        let heard = format!("INPUT{digit}");
        let (pending, usage) = (format!("PENDING{digit}"), format!("USAGE{digit}"));
        let openings = format!("OPENINGS{digit}");
        let hash = |map| HashMap::try_from(map).map_err(failed(&flow));
        Ok(Self {
            flows: [hash(Map::HashMap(open(pins, &flow)?))?, hash(take(object, &flow)?)?],
            asked: [
                HashMap::try_from(Map::LruHashMap(open(pins, &asked)?)).map_err(failed(&asked))?,
                HashMap::try_from(take(object, &asked)?).map_err(failed(&asked))?,
            ],
            pending: [
                HashMap::try_from(Map::LruHashMap(open(pins, &pending)?)).map_err(failed(&pending))?,
                HashMap::try_from(take(object, &pending)?).map_err(failed(&pending))?,
            ],
            heard: HashMap::try_from(take(object, &heard)?).map_err(failed(&heard))?,
            usage: [
                Array::try_from(Map::Array(open(pins, &usage)?)).map_err(failed(&usage))?,
                Array::try_from(take(object, &usage)?).map_err(failed(&usage))?,
            ],
            openings: [
                HashMap::try_from(Map::LruHashMap(open(pins, &openings)?)).map_err(failed(&openings))?,
                HashMap::try_from(take(object, &openings)?).map_err(failed(&openings))?,
            ],
            known: Set::new(),
            looked: HashSet::new(),
        })
    }

    /// Forgets everything.
    fn forget(&mut self) -> Result<(), Error> {
        self.known.clear();
        self.looked.clear();
        clear(&mut self.flows[OWNED])?;
        clear(&mut self.asked[OWNED])?;
        clear(&mut self.heard)?;
        clear(&mut self.openings[OWNED])?;
        clear(&mut self.pending[OWNED])
    }

    /// Returns the flow of a tuple as the next run will find it.
    pub fn flow(&self, key: &Tuple<A>) -> Option<Flow<A>> {
        self.known.get(key).copied()
    }

    /// Takes what the instance knows of a tuple, unless that has been done. Returns whether there was something.
    pub fn learn(&mut self, key: &Tuple<A>) -> Result<bool, Error> {
        if !self.looked.insert(*key) {
            return Ok(false);
        }
        let mut found = false;
        if let Some(tick) = value(&self.asked[LIVE], key)? {
            self.asked[OWNED].insert(key, tick, 0).map_err(failed("ASKED"))?;
            found = true;
        }
        if let Some(flow) = value(&self.flows[LIVE], key)? {
            let other = key.counterpart(&flow);
            self.known.insert(*key, flow);
            found = true;
            if self.looked.insert(other)
                && let Some(reply) = value(&self.flows[LIVE], &other)?
            {
                self.known.insert(other, reply);
            }
        }
        Ok(found)
    }

    /// Takes all flows with the remotes of those that the last run has inserted.
    fn learn_siblings(&mut self) -> Result<(), Error> {
        let remote = |key: &Tuple<A>| (key.src, key.sport, key.dst, key.zone, key.proto);
        let met: HashSet<_> = self.inserted()?.iter().map(remote).collect();
        if met.is_empty() {
            return Ok(());
        }
        let keys: Vec<Tuple<A>> =
            self.flows[LIVE].keys().filter_map(Result::ok).filter(|key| met.contains(&remote(key))).collect();
        keys.iter().try_for_each(|key| self.learn(key).map(drop))
    }

    /// Has the host's input rules let a packet through. They are not asked: the packet that asks them, and its copy, would be real ones.
    pub fn hear(&mut self, key: &Tuple<A>) -> Result<(), Error> {
        let accepted = Hearing { state: ACCEPTED, since: now(), asked: 0 };
        self.heard.insert(key, accepted, 0).map_err(failed("INPUT"))
    }

    /// Copies what a source may still open.
    fn set_opener(&mut self, source: A) -> Result<(), Error> {
        match value(&self.openings[LIVE], &source)? {
            Some(left) => self.openings[OWNED].insert(source, left, 0).map_err(failed("OPENINGS")),
            None => Ok(()),
        }
    }

    /// Makes the tables what a run is to find.
    fn set(&mut self) -> Result<(), Error> {
        let table = &mut self.flows[OWNED];
        let present: Result<Vec<Tuple<A>>, MapError> = table.keys().collect();
        for key in present.map_err(failed("FLOW"))? {
            if !self.known.contains_key(&key) {
                table.remove(&key).map_err(failed("FLOW"))?;
            }
        }
        for (key, flow) in &self.known {
            table.insert(key, flow, 0).map_err(failed("FLOW"))?;
        }
        Ok(())
    }

    /// Copies what an endpoint has of the table, and who holds the place that its next flow gets.
    fn set_payer(&mut self, payer: u32, place: u32) -> Result<(), Error> {
        let usage = self.usage[LIVE].get(&payer, 0).map_err(failed("USAGE"))?;
        self.usage[OWNED].set(payer, usage, 0).map_err(failed("USAGE"))?;
        let place = Place { ifindex: payer, number: place };
        if let Some(holder) = value(&self.pending[LIVE], &place)? {
            self.pending[OWNED].insert(place, holder, 0).map_err(failed("PENDING"))?;
            self.learn(&holder.original)?;
        }
        Ok(())
    }

    /// Returns what a run has inserted.
    fn inserted(&self) -> Result<Vec<Tuple<A>>, Error> {
        let all: Result<Vec<Tuple<A>>, MapError> = self.flows[OWNED].keys().collect();
        let mut all = all.map_err(failed("FLOW"))?;
        all.retain(|key| !self.known.contains_key(key));
        Ok(all)
    }

    /// Makes what the run has left what the next begins with.
    fn keep(&mut self) -> Result<(), Error> {
        let all: Result<Set<_, _>, MapError> = self.flows[OWNED].iter().collect();
        self.known = all.map_err(failed("FLOW"))?;
        Ok(())
    }
}

impl Understudy {
    /// Loads the object over maps of its own and the instance's others.
    ///
    /// # Errors
    /// Names the map or program and the kernel's reason.
    pub fn load(pins: &Path) -> Result<Self, Error> {
        let mut loader = EbpfLoader::new();
        loader.btf(None).verifier_log_level(VerifierLogLevel::STATS);
        for name in written::only_read() {
            // The loader would make and pin one that is not there.
            open(pins, name)?;
            loader.map_pin_path(name, pins.join(name));
        }
        for (name, entries) in written::sizes() {
            loader.map_max_entries(name, entries);
        }
        let failed_load = |source| Error::kernel("load the eBPF object once more".to_owned(), source);
        let mut object = loader.load(OBJECT).map_err(failed_load)?;
        let config = Array::try_from(Map::Array(open(pins, "CONFIG")?)).map_err(failed("CONFIG"))?;
        let pace = [
            Array::try_from(Map::Array(open(pins, "PACE")?)).map_err(failed("PACE"))?,
            Array::try_from(take(&mut object, "PACE")?).map_err(failed("PACE"))?,
        ];
        let drops = PerCpuArray::try_from(take(&mut object, "DROPS")?).map_err(failed("DROPS"))?;
        let ports = [
            Array::try_from(Map::Array(open(pins, "PORTS")?)).map_err(failed("PORTS"))?,
            Array::try_from(take(&mut object, "PORTS")?).map_err(failed("PORTS"))?,
        ];
        let v4 = Stage::open(pins, &mut object, '4')?;
        let v6 = Stage::open(pins, &mut object, '6')?;
        Ok(Self { object, drops, pace, ports, config, v4, v6 })
    }

    /// Forgets what it knows of other packets, and looks at the ports again.
    ///
    /// # Errors
    /// Names the map and the kernel's reason.
    pub fn begin(&mut self) -> Result<(), Error> {
        self.v4.forget()?;
        self.v6.forget()?;
        // The programs note in them which ones they have kept.
        for set in 0..port_set::COUNT {
            let ports = self.ports[LIVE].get(&set, 0).map_err(failed("PORTS"))?;
            self.ports[OWNED].set(set, ports, 0).map_err(failed("PORTS"))?;
        }
        Ok(())
    }

    /// Whether the host's input rules have a say about published ports.
    ///
    /// # Errors
    /// When the kernel does not let the configuration be read.
    pub fn asks_host(&self) -> Result<bool, Error> {
        let config = self.config.get(&0, 0).map_err(failed("CONFIG"))?;
        Ok(config.features & features::ASKS_HOST != 0)
    }

    /// Runs a program on a packet as it would run now, and goes on from what it leaves.
    ///
    /// # Errors
    /// Names the program or map and the kernel's reason.
    pub fn play(&mut self, scene: &Scene<'_>) -> Result<Shown, Error> {
        for run in 0..RUNS {
            self.set(scene.payers)?;
            let ran = {
                let program = loaded(&mut self.object, scene.program)?;
                run_on(program, scene.program, scene.frame, scene.ifindex, scene.ingress)?
            };
            let reason = self.take_reason()?;
            if self.meets_another()? {
                if run == SINGLY {
                    self.v4.learn_siblings()?;
                    self.v6.learn_siblings()?;
                }
                continue;
            }
            self.v4.keep()?;
            self.v6.keep()?;
            return Ok(Shown { ran, reason });
        }
        Err(Error::Unsupported("the flow table changes faster than it can be looked at; try again".into()))
    }

    /// Runs the guard on a frame from a source as it would run now. Returns why it drops it, if it does.
    ///
    /// # Errors
    /// Names the program or map and the kernel's reason.
    pub fn guard(&mut self, frame: &[u8], source: IpAddr) -> Result<Option<DropReason>, Error> {
        match source {
            IpAddr::V4(ip) => self.v4.set_opener(ip.into())?,
            IpAddr::V6(ip) => self.v6.set_opener(link_of(ip.into()))?,
        }
        let guard = guard_program(&mut self.object)?;
        if guard.fd().is_err() {
            guard.load().map_err(|source| Error::kernel("load the guard once more".to_owned(), source))?;
        }
        run_guard_on(guard, frame)?;
        self.take_reason()
    }

    fn set(&mut self, payers: &[u32]) -> Result<(), Error> {
        let config = self.config.get(&0, 0).map_err(failed("CONFIG"))?;
        for payer in payers.iter().copied().filter(|payer| *payer != UPLINK_ZONE) {
            let pace = self.pace[LIVE].get(&payer, 0).map_err(failed("PACE"))?;
            self.pace[OWNED].set(payer, pace, 0).map_err(failed("PACE"))?;
            self.v4.set_payer(payer, pace.place & config.places4)?;
            self.v6.set_payer(payer, pace.place & config.places6)?;
        }
        self.v4.set()?;
        self.v6.set()
    }

    /// Whether the run took what the instance's tables already have, which is known from now on.
    fn meets_another(&mut self) -> Result<bool, Error> {
        let (four, six) = (self.v4.inserted()?, self.v6.inserted()?);
        let mut meets = false;
        for key in &four {
            meets |= self.v4.learn(key)?;
            meets |= self.v6.learn(&key.mapped())?;
        }
        for key in &six {
            meets |= self.v6.learn(key)?;
            if let Some(key) = key.as_mapped() {
                meets |= self.v4.learn(&key)?;
            }
        }
        Ok(meets)
    }

    /// Returns what the run has counted, and forgets it.
    fn take_reason(&mut self) -> Result<Option<DropReason>, Error> {
        let cpus = nr_cpus().map_err(|(_, source)| Error::kernel("count the processors".into(), source))?;
        let mut found = None;
        for reason in DropReason::ALL {
            let index = *reason as u32;
            let counts = self.drops.get(&index, 0).map_err(failed("DROPS"))?;
            if counts.iter().any(|count| *count != 0) {
                found = Some(*reason);
                let zero = PerCpuValues::try_from(vec![0; cpus]);
                let zero = zero.map_err(|source| Error::kernel("clear map DROPS".into(), source))?;
                self.drops.set(index, zero, 0).map_err(failed("DROPS"))?;
            }
        }
        Ok(found)
    }
}

/// Returns a program, which is loaded by then.
fn loaded<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a SchedClassifier, Error> {
    let program = packet_program(object, name)?;
    if program.fd().is_err() {
        program.load().map_err(|source| Error::kernel(format!("load program {name} once more"), source))?;
    }
    Ok(program)
}
