//! A packet's way from program to program.

use std::{
    hash::Hash,
    net::IpAddr,
    path::{Path, PathBuf},
};

use netd_common::{
    maps::{Endpoint, Flow, Network, Owner, Publish, PublishKey, Tuple, flow_flags},
    net::{Addr4, Addr6, LOOPBACK_ZONE, UPLINK_ZONE},
    verdict::DropReason,
    wire::l4,
};

use super::{
    super::{Error, flows::Printable, guard, maps::Maps, test_run::Ran},
    Explainer, Explanation, Names, Origin, Question, Step, Unexplained,
    frame::first_packet,
    hints::hint,
    understudy::{Scene, Understudy},
    words::{Told, at},
};
use crate::model::Probe;

/// The actions of a packet program.
pub(super) const DROPPED: i32 = 2;
pub(super) const REDIRECTED: i32 = 7;

/// One family's tables and words.
pub(super) trait Home: Printable + Eq + Hash {
    /// The protocol of echoes.
    const ICMP: u8;
    /// Takes an address of this family.
    fn of(ip: IpAddr) -> Option<Self>;
    /// Has the understudy learn what the instance knows of a tuple.
    fn learn(understudy: &mut Understudy, key: &Tuple<Self>) -> Result<bool, Error>;
    /// Has the host's input rules let a packet through.
    fn hear(understudy: &mut Understudy, key: &Tuple<Self>) -> Result<(), Error>;
    /// Returns the flow of a tuple.
    fn flow(understudy: &Understudy, key: &Tuple<Self>) -> Option<Flow<Self>>;
    /// Returns who has an address.
    fn owner(self, maps: &Maps) -> Result<Option<Owner>, Error>;
    /// Whether the host has an address.
    fn is_local(self, maps: &Maps) -> Result<bool, Error>;
    /// Returns where a published port leads.
    fn publish(maps: &Maps, key: &PublishKey<Self>) -> Result<Option<Publish<Self>>, Error>;
    /// Returns a network's gateway.
    fn gateway(network: &Network) -> IpAddr;
}

macro_rules! home {
    ($addr:ident, $family:ident, $maps:ident, $icmp:literal, $gateway:ident) => {
        impl Home for $addr {
            const ICMP: u8 = $icmp;
            fn of(ip: IpAddr) -> Option<Self> {
                match ip {
                    IpAddr::$family(ip) => Some(ip.into()),
                    _ => None,
                }
            }
            fn learn(understudy: &mut Understudy, key: &Tuple<Self>) -> Result<bool, Error> {
                understudy.$maps.learn(key)
            }
            fn hear(understudy: &mut Understudy, key: &Tuple<Self>) -> Result<(), Error> {
                understudy.$maps.hear(key)
            }
            fn flow(understudy: &Understudy, key: &Tuple<Self>) -> Option<Flow<Self>> {
                understudy.$maps.flow(key)
            }
            fn owner(self, maps: &Maps) -> Result<Option<Owner>, Error> {
                maps.$maps.address.get(&self)
            }
            fn is_local(self, maps: &Maps) -> Result<bool, Error> {
                Ok(maps.$maps.local.get(&self)?.is_some())
            }
            fn publish(maps: &Maps, key: &PublishKey<Self>) -> Result<Option<Publish<Self>>, Error> {
                maps.$maps.publish.get(key)
            }
            fn gateway(network: &Network) -> IpAddr {
                network.$gateway.ip()
            }
        }
    };
}
home!(Addr4, V4, v4, 1, gateway4);
home!(Addr6, V6, v6, 58, gateway6);

/// A packet under way.
pub(super) struct Walk<'a> {
    pub(super) question: Question,
    pub(super) names: Names<'a>,
    pub(super) understudy: &'a mut Understudy,
    maps: Maps,
    /// Where the instance's links are pinned.
    links: PathBuf,
    pub(super) steps: Vec<Step>,
    dropped: Option<DropReason>,
    /// The source that it shows.
    pub(super) source: IpAddr,
}

/// Where a step of the way is taken.
pub(super) struct Place {
    pub program: &'static str,
    pub ifindex: u32,
    ingress: u32,
}

/// What a step leaves.
struct Left<A> {
    ran: Ran,
    flow: Option<Flow<A>>,
    dropped: bool,
}

impl<'a> Walk<'a> {
    /// Opens the maps.
    pub(super) fn begin(
        understudy: &'a mut Understudy,
        pins: &Path,
        question: &Question,
        names: Names<'a>,
    ) -> Result<Self, Unexplained> {
        understudy.begin()?;
        let (maps, links) = (Maps::open(pins)?, pins.join("links"));
        let source = question.to; // until it is known
        let question = question.clone();
        Ok(Self { question, names, understudy, maps, links, steps: Vec::new(), dropped: None, source })
    }

    /// Goes all the way.
    pub(super) fn go(mut self, explainer: &Explainer) -> Result<Explanation, Unexplained> {
        let question = self.question.clone();
        self.walk_from_here(explainer)?;
        let port = (question.probe != Probe::Icmp).then_some(question.port);
        Ok(Explanation {
            source: at(self.source, Some(question.source_port)),
            destination: at(question.to, port),
            protocol: question.probe.as_str().to_owned(),
            passes: self.dropped.is_none(),
            reason: self.dropped.map(|reason| reason.as_str().to_owned()),
            number: self.dropped.map(|reason| reason as u8),
            meaning: self.dropped.map(|reason| reason.meaning().to_owned()),
            hint: self.dropped.map(|reason| hint(reason).to_owned()),
            steps: self.steps,
        })
    }

    fn walk_from_here(&mut self, explainer: &Explainer) -> Result<(), Unexplained> {
        match self.question.to {
            IpAddr::V4(_) => self.walk::<Addr4>(explainer),
            IpAddr::V6(_) => self.walk::<Addr6>(explainer),
        }
    }

    fn walk<A: Home>(&mut self, explainer: &Explainer) -> Result<(), Unexplained> {
        match self.question.origin.clone() {
            Origin::Sandbox(ip) => self.sent_by_sandbox::<A>(ip),
            Origin::Outside(ip, via) => {
                let uplink = explainer.uplink(via.as_deref(), ip)?.ifindex;
                self.sent_by_outside::<A>(ip, uplink)
            }
            Origin::Host => self.sent_by_host::<A>(explainer),
        }
    }

    fn sent_by_sandbox<A: Home>(&mut self, ip: IpAddr) -> Result<(), Unexplained> {
        let gone = || Unexplained::Question(format!("no sandbox has the address {ip} now"), None);
        let owner = self.owner::<A>(ip)?.ok_or_else(gone)?;
        let (endpoint, network) = (self.endpoint(owner.ifindex)?, self.network(owner.network)?);
        self.source = self.question.claims.unwrap_or(ip);
        let neighbour = self.owner::<A>(self.question.to)?.filter(|other| other.network == owner.network);
        let next = neighbour.map_or(network.mac, |other| other.mac);
        let frame = self.frame(endpoint.mac.into(), next.into())?;
        let place = Place { program: "from_endpoint", ifindex: owner.ifindex, ingress: owner.ifindex };
        let left = self.step::<A>(&place, &frame)?;
        if left.dropped {
            return Ok(());
        }
        if left.ran.action == REDIRECTED {
            let out = left.flow.filter(|flow| flow.flags & flow_flags::TO_SANDBOX == 0);
            if let Some(out) = out.map(|flow| flow.out).filter(|out| *out != LOOPBACK_ZONE) {
                let place = Place { program: "to_uplink", ifindex: out, ingress: owner.ifindex };
                self.step::<A>(&place, &left.ran.bytes)?;
            }
            return Ok(());
        }
        self.through_the_stack::<A>(owner.ifindex, &left.ran.bytes)
    }

    fn sent_by_outside<A: Home>(&mut self, ip: IpAddr, uplink: u32) -> Result<(), Unexplained> {
        self.source = self.question.claims.unwrap_or(ip);
        let frame = self.frame([0; 6], [0; 6])?;
        if guard::is_attached(&self.links, uplink) && self.stopped_by_guard(uplink, &frame)? {
            return Ok(());
        }
        let place = Place { program: "from_uplink", ifindex: uplink, ingress: uplink };
        let left = self.step::<A>(&place, &frame)?;
        if left.dropped || left.ran.action == REDIRECTED {
            return Ok(());
        }
        self.through_the_stack::<A>(uplink, &left.ran.bytes)
    }

    /// Has the guard of an uplink judge the packet. Returns whether it is dropped.
    fn stopped_by_guard(&mut self, uplink: u32, frame: &[u8]) -> Result<bool, Unexplained> {
        self.dropped = self.understudy.guard(frame, self.source)?;
        self.steps.push(self.guarded(uplink, self.dropped));
        Ok(self.dropped.is_some())
    }

    /// What the host's stack does with a packet that netd passed to it.
    fn through_the_stack<A: Home>(&mut self, ingress: u32, frame: &[u8]) -> Result<(), Unexplained> {
        if self.is_local::<A>(self.question.to)? {
            return Ok(());
        }
        let Some(owner) = self.owner::<A>(self.question.to)? else { return Ok(()) };
        let place = Place { program: "to_endpoint", ifindex: owner.ifindex, ingress };
        self.step::<A>(&place, frame)?;
        Ok(())
    }

    fn sent_by_host<A: Home>(&mut self, explainer: &Explainer) -> Result<(), Unexplained> {
        let to = self.question.to;
        if let Some(publish) =
            self.published::<A>(to)?.filter(|_| to.is_loopback() || self.is_local::<A>(to).unwrap_or(false))
        {
            return self.by_socket(to, &publish, explainer);
        }
        if let Some(owner) = self.owner::<A>(to)? {
            let network = self.network(owner.network)?;
            self.source = A::gateway(&network);
            let frame = self.frame(network.mac.into(), owner.mac.into())?;
            let place = Place { program: "to_endpoint", ifindex: owner.ifindex, ingress: 0 };
            self.step::<A>(&place, &frame)?;
            return Ok(());
        }
        self.source = super::source_towards(to).unwrap_or(to);
        if to.is_loopback() || self.is_local::<A>(to)? {
            return Ok(()); // no program meets it
        }
        let uplink = explainer.uplink(None, to)?.ifindex;
        let frame = self.frame([0; 6], [0; 6])?;
        self.step::<A>(&Place { program: "to_uplink", ifindex: uplink, ingress: 0 }, &frame)?;
        Ok(())
    }

    /// A published port, dialled by a process of the host: a socket program leads it there, and the host is let in everywhere.
    fn by_socket<A: Home>(
        &mut self,
        to: IpAddr,
        publish: &Publish<A>,
        explainer: &Explainer,
    ) -> Result<(), Unexplained> {
        self.source = super::source_towards(to).unwrap_or(to);
        let call = if self.question.probe == Probe::Udp { "sendmsg" } else { "connect" };
        let digit = if to.is_ipv4() { 4 } else { 6 };
        let port = Some(u16::from(publish.port));
        self.steps.push(Step {
            interface: String::new(),
            hook: "socket".into(),
            program: format!("{call}{digit}"),
            matched: vec![self.shown_publish(publish)],
            verdict: "redirect".into(),
            then: format!("to {} by its own address", self.named(publish.backend.ip())),
            source: at(self.source, Some(self.question.source_port)),
            destination: at(publish.backend.ip(), port),
        });
        // From here on it is a packet of the host to the sandbox itself, of its family.
        let shown = self.source;
        (self.question.to, self.question.port) = (publish.backend.ip(), publish.port.into());
        self.walk_from_here(explainer)?;
        self.source = shown;
        Ok(())
    }

    /// Runs a program, and says what it did.
    fn step<A: Home>(&mut self, place: &Place, frame: &[u8]) -> Result<Left<A>, Unexplained> {
        let zone = match place.program {
            "from_endpoint" => place.ifindex,
            _ => UPLINK_ZONE,
        };
        let key = self.key::<A>(zone);
        let first_look = self.steps.iter().all(|step| step.program == guard::PROGRAM);
        A::learn(self.understudy, &key)?;
        A::hear(self.understudy, &Tuple { zone: UPLINK_ZONE, ..key })?;
        // Whom `to_endpoint` takes for an answer, and what `to_uplink` takes back for the host.
        A::learn(self.understudy, &Tuple { zone: place.ifindex, ..reply_to(&key) })?;
        A::learn(self.understudy, &Tuple { zone: UPLINK_ZONE, ..reply_to(&key) })?;
        let known = A::flow(self.understudy, &key).filter(|_| first_look);
        self.learn_mapped(&key)?;
        let published = self.published::<A>(self.question.to)?;
        let owner = self.owner::<A>(self.question.to)?;
        let payers: Vec<u32> = [Some(place.ifindex), published.map(|p| p.ifindex), owner.map(|o| o.ifindex)]
            .into_iter()
            .flatten()
            .collect();
        let scene = Scene {
            program: place.program,
            frame,
            ifindex: place.ifindex,
            ingress: place.ingress,
            payers: &payers,
        };
        let shown = self.understudy.play(&scene)?;
        let flow = A::flow(self.understudy, &key).filter(|_| shown.ran.action != DROPPED);
        let dropped = shown.reason.is_some() || shown.ran.action == DROPPED;
        self.dropped = if dropped { Some(shown.reason.unwrap_or(DropReason::KernelRefused)) } else { None };
        let told =
            Told { place, known, flow, published, owner, action: shown.ran.action, reason: shown.reason };
        let step = self.tell(&told)?;
        self.steps.push(step);
        Ok(Left { ran: shown.ran, flow, dropped })
    }

    fn learn_mapped<A: Home>(&mut self, key: &Tuple<A>) -> Result<(), Error> {
        let (src, dst) = (key.src.ip(), key.dst.ip());
        if let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) {
            let four = Tuple::<Addr4> {
                src: src.into(),
                dst: dst.into(),
                sport: key.sport,
                dport: key.dport,
                zone: key.zone,
                proto: key.proto,
                pad: [0; 3],
            };
            self.understudy.v6.learn(&four.mapped())?;
        }
        Ok(())
    }

    fn key<A: Home>(&self, zone: u32) -> Tuple<A> {
        let question = &self.question;
        let (proto, dport) = match question.probe {
            Probe::Tcp => (l4::TCP, question.port),
            Probe::Udp => (l4::UDP, question.port),
            Probe::Icmp => (A::ICMP, 0),
        };
        Tuple {
            src: A::of(self.source).unwrap_or_default(),
            dst: A::of(question.to).unwrap_or_default(),
            sport: question.source_port.into(),
            dport: dport.into(),
            zone,
            proto,
            pad: [0; 3],
        }
    }

    fn frame(&self, from: [u8; 6], to: [u8; 6]) -> Result<Vec<u8>, Unexplained> {
        first_packet(&self.question, self.source, from, to).ok_or_else(|| {
            let why = format!("{} and {} are of different families", self.source, self.question.to);
            Unexplained::Question(why, None)
        })
    }

    fn owner<A: Home>(&self, ip: IpAddr) -> Result<Option<Owner>, Error> {
        A::of(ip).map_or(Ok(None), |ip| ip.owner(&self.maps))
    }

    pub(super) fn is_local<A: Home>(&self, ip: IpAddr) -> Result<bool, Error> {
        A::of(ip).map_or(Ok(false), |ip| ip.is_local(&self.maps))
    }

    /// Returns where the dialled port leads if it is published on an address, as the programs look it up.
    fn published<A: Home>(&self, ip: IpAddr) -> Result<Option<Publish<A>>, Error> {
        let proto = match self.question.probe {
            Probe::Tcp => l4::TCP,
            Probe::Udp => l4::UDP,
            Probe::Icmp => return Ok(None),
        };
        let Some(addr) = A::of(ip) else { return Ok(None) };
        let mut key = PublishKey { addr, port: self.question.port.into(), proto, pad: 0 };
        let mut found = A::publish(&self.maps, &key)?;
        if found.is_none() {
            key.addr = A::default();
            found = A::publish(&self.maps, &key)?;
        }
        Ok(found.filter(|publish| publish.backend != A::default()))
    }

    fn endpoint(&self, ifindex: u32) -> Result<Endpoint, Error> {
        self.maps.endpoint.get(&ifindex, 0).map_err(|e| Error::kernel("read map ENDPOINT".to_owned(), e))
    }

    fn network(&self, slot: u16) -> Result<Network, Error> {
        self.maps
            .network
            .get(&u32::from(slot), 0)
            .map_err(|e| Error::kernel("read map NETWORK".to_owned(), e))
    }
}

fn reply_to<A: Copy>(key: &Tuple<A>) -> Tuple<A> {
    Tuple { src: key.dst, dst: key.src, sport: key.dport, dport: key.sport, ..*key }
}
