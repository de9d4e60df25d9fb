//! Workers who make networks, sandboxes, ports and jobs, remove them again, and remember what the daemon has acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{Lab, Ns, Random, Run, binary};

/// Workers: each has names, subnets and ports of its own.
const WORKERS: u64 = 3;
/// Networks and sandboxes that a worker has at most.
const NETWORKS: usize = 2;
const SANDBOXES: usize = 4;
/// How long a command may take, daemons that are killed meanwhile included.
const COMMAND: Duration = Duration::from_mins(2);
/// Exit code: the daemon cannot be reached, or went away.
const UNREACHABLE: i32 = 5;
/// Exit codes of a second attempt at what is done already.
const EXISTS: i32 = 4;
const GONE: i32 = 3;

/// All workers.
pub struct Crew {
    /// Those who rest.
    workers: Vec<Worker>,
    running: Vec<JoinHandle<Worker>>,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    unanswered: AtomicU64,
}

impl Crew {
    pub fn new(lab: &Lab, random: &mut Random) -> Self {
        let counts = Arc::new(Counts::default());
        let host = format!("unix://{}", lab.daemon.dirs().socket().display());
        let home = lab.daemon.dirs().path("home").to_string_lossy().into_owned(); // logs of `netd run`
        let worker = |number| Worker {
            number,
            ns: lab.h.clone(),
            environment: [("NETD_HOST", host.clone()), ("HOME", home.clone())],
            random: Random::new(random.next()),
            counts: Arc::clone(&counts),
            networks: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            names: 0,
            wrong: Vec::new(),
        };
        let workers = (0..WORKERS).map(worker).collect();
        Self { workers, running: Vec::new(), stop: Arc::new(AtomicBool::new(false)), counts }
    }

    /// Operations that were acknowledged.
    pub fn done(&self) -> u64 {
        self.counts.done.load(Ordering::Relaxed)
    }

    /// Commands whose daemon was not there, or went away.
    pub fn unanswered(&self) -> u64 {
        self.counts.unanswered.load(Ordering::Relaxed)
    }

    /// Lets everyone work.
    pub fn start(&mut self) {
        self.stop.store(false, Ordering::Relaxed);
        for mut worker in self.workers.drain(..) {
            let stop = Arc::clone(&self.stop);
            self.running.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) && worker.wrong.is_empty() {
                    worker.step();
                }
                worker
            }));
        }
    }

    /// Lets everyone finish what they do; returns what was wrong.
    pub fn stop(&mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.running.drain(..).map(|worker| worker.join().expect("a worker does not panic"));
        self.workers.extend(ended);
        self.wrong()
    }

    /// Lists what was acknowledged and is not in the state, and what is there of these workers and was not acknowledged.
    pub fn missing(&self, stored: &BTreeSet<String>) -> Vec<String> {
        let wanted: BTreeSet<String> = self.workers.iter().flat_map(Worker::facts).collect();
        let ours = |line: &&String| line.split(' ').nth(1).is_some_and(|name| name.starts_with("soak-"));
        let found: BTreeSet<String> = stored.iter().filter(ours).cloned().collect();
        let lost = wanted.difference(&found).map(|line| format!("acknowledged, and not there: {line}"));
        lost.chain(found.difference(&wanted).map(|line| format!("there, and not acknowledged: {line}")))
            .collect()
    }

    /// Removes everything again; returns what was wrong.
    pub fn clear(&mut self) -> Vec<String> {
        self.workers.iter_mut().for_each(Worker::clear);
        self.wrong()
    }

    fn wrong(&mut self) -> Vec<String> {
        self.workers.iter_mut().flat_map(|worker| std::mem::take(&mut worker.wrong)).collect()
    }
}

/// Who makes things and removes them.
struct Worker {
    number: u64,
    ns: Ns,
    environment: [(&'static str, String); 2],
    random: Random,
    counts: Arc<Counts>,
    /// Acknowledged ones, with the numbers of their subnets.
    networks: BTreeMap<String, u64>,
    sandboxes: BTreeMap<String, Sandbox>,
    names: u64,
    wrong: Vec<String>,
}

/// What is known of a sandbox.
struct Sandbox {
    networks: BTreeSet<String>,
    /// Published ports, with those they lead to.
    ports: BTreeMap<u64, u64>,
}

impl Worker {
    /// One operation that makes sense.
    fn step(&mut self) {
        match self.random.between(0, 9) {
            0 => self.create_network(),
            1 | 2 => self.create_sandbox(false),
            3 => self.create_sandbox(true),
            4 => self.connect(),
            5 => self.disconnect(),
            6 => self.publish(),
            7 => self.unpublish(),
            8 => {
                if let Some(name) = self.random.pick(self.sandboxes.keys().cloned().collect()) {
                    self.remove_sandbox(&name);
                }
            }
            _ => {
                let used: BTreeSet<&String> =
                    self.sandboxes.values().flat_map(|sandbox| &sandbox.networks).collect();
                let empty = self.networks.keys().filter(|name| !used.contains(name)).cloned().collect();
                if let Some(name) = self.random.pick(empty) {
                    self.remove_network(&name);
                }
            }
        }
    }

    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("soak-{}-{kind}{}", self.number, self.names)
    }

    fn create_network(&mut self) {
        if self.networks.len() == NETWORKS {
            return;
        }
        let name = self.name("n");
        // No two networks of anybody have the same number at a time.
        let mut slot = 100 + self.number * 10;
        while self.networks.values().any(|used| *used == slot) {
            slot += 1;
        }
        let (v4, v6) = (format!("10.99.{slot}.0/24"), format!("fd00:c:99:{slot}::/64"));
        if self.ask(&["network", "create", "--subnet", &v4, "--ipv6", "--subnet", &v6, &name], EXISTS) {
            self.networks.insert(name, slot);
        }
    }

    fn create_sandbox(&mut self, job: bool) {
        let Some(network) = self.random.pick(self.networks.keys().cloned().collect()) else { return };
        if self.sandboxes.len() == SANDBOXES {
            return;
        }
        let name = self.name("s");
        let port = self.free_port();
        let publish = format!("{port}:80");
        let done = if job {
            let line =
                ["run", "-d", "--name", &name, "--network", &network, "-p", &publish, "--", "sleep", "600"];
            self.ask(&line, EXISTS)
        } else {
            self.ask(&["sandbox", "create", "--network", &network, "-p", &publish, &name], EXISTS)
        };
        if done {
            let (networks, ports) = (BTreeSet::from([network]), BTreeMap::from([(port, 80)]));
            self.sandboxes.insert(name, Sandbox { networks, ports });
        }
    }

    /// A host port that none of this worker's sandboxes publishes.
    fn free_port(&mut self) -> u64 {
        let used: BTreeSet<u64> =
            self.sandboxes.values().flat_map(|sandbox| sandbox.ports.keys()).copied().collect();
        let first = 20_000 + self.number * 1000;
        let free = (first..first + 1000).filter(|port| !used.contains(port)).collect();
        self.random.pick(free).unwrap_or(first)
    }

    fn connect(&mut self) {
        let Some(sandbox) = self.random.pick(self.sandboxes.keys().cloned().collect()) else { return };
        let on = &self.sandboxes[&sandbox].networks;
        let others = self.networks.keys().filter(|name| !on.contains(*name)).cloned().collect();
        let Some(network) = self.random.pick(others) else { return };
        if self.ask(&["network", "connect", &network, &sandbox], EXISTS)
            && let Some(sandbox) = self.sandboxes.get_mut(&sandbox)
        {
            sandbox.networks.insert(network);
        }
    }

    fn disconnect(&mut self) {
        let double = self.sandboxes.iter().filter(|(_, sandbox)| sandbox.networks.len() > 1);
        let Some(sandbox) = self.random.pick(double.map(|(name, _)| name.clone()).collect()) else { return };
        let on = self.sandboxes[&sandbox].networks.iter().cloned().collect();
        let Some(network) = self.random.pick(on) else { return };
        if self.ask(&["network", "disconnect", &network, &sandbox], GONE)
            && let Some(sandbox) = self.sandboxes.get_mut(&sandbox)
        {
            sandbox.networks.remove(&network);
        }
    }

    fn publish(&mut self) {
        let Some(sandbox) = self.random.pick(self.sandboxes.keys().cloned().collect()) else { return };
        let port = self.free_port();
        if self.ask(&["publish", &sandbox, &format!("{port}:81")], EXISTS)
            && let Some(sandbox) = self.sandboxes.get_mut(&sandbox)
        {
            sandbox.ports.insert(port, 81);
        }
    }

    fn unpublish(&mut self) {
        let Some(sandbox) = self.random.pick(self.sandboxes.keys().cloned().collect()) else { return };
        let ports = self.sandboxes[&sandbox].ports.iter().map(|(port, inner)| (*port, *inner)).collect();
        let Some((port, inner)) = self.random.pick(ports) else { return };
        if self.ask(&["unpublish", &sandbox, &format!("{port}:{inner}")], GONE)
            && let Some(sandbox) = self.sandboxes.get_mut(&sandbox)
        {
            sandbox.ports.remove(&port);
        }
    }

    fn remove_sandbox(&mut self, name: &str) {
        if self.ask(&["sandbox", "rm", "-f", name], GONE) {
            self.sandboxes.remove(name);
        }
    }

    fn remove_network(&mut self, name: &str) {
        if self.ask(&["network", "rm", name], GONE) {
            self.networks.remove(name);
        }
    }

    fn clear(&mut self) {
        for name in self.sandboxes.keys().cloned().collect::<Vec<_>>() {
            self.remove_sandbox(&name);
        }
        for name in self.networks.keys().cloned().collect::<Vec<_>>() {
            self.remove_network(&name);
        }
    }

    /// What was acknowledged, as the state says it.
    fn facts(&self) -> Vec<String> {
        let networks = self.networks.keys().map(|name| format!("network {name}"));
        let sandboxes = self.sandboxes.iter().flat_map(|(name, sandbox)| {
            let ports = sandbox.ports.keys().map(move |port| format!("port {name} {port}"));
            ports.chain([format!("sandbox {name}")])
        });
        networks.chain(sandboxes).collect()
    }

    /// Gives a command until it is acknowledged. A second attempt may be told that all is done: the first one's answer was lost then.
    fn ask(&mut self, args: &[&str], again: i32) -> bool {
        let (end, mut lost) = (Instant::now() + COMMAND, false);
        loop {
            let ran = self.once(args);
            if ran.code == 0 || lost && ran.code == again {
                self.counts.done.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            let next_one = ran.code == UNREACHABLE || ran.stderr.contains("the daemon is stopping");
            if !next_one || Instant::now() > end {
                let line = format!("{}: exit code {}: {}", ran.line, ran.code, ran.stderr.trim());
                self.wrong.push(line);
                return false;
            }
            lost = true;
            self.counts.unanswered.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn once(&self, args: &[&str]) -> Run {
        let mut command = Command::new(binary());
        command.args(args).envs(self.environment.iter().map(|(name, value)| (name, value)));
        Run::new(args, &self.ns.output(command.stdin(Stdio::null())))
    }
}
