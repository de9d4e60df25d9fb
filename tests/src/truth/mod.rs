//! The vocabulary of the truth table (Docker semantics 5.3): a row is data, who sends what where and what comes of it.

mod matrix;
mod probe;
mod runner;
mod world;

pub use matrix::{Cell, Mark, Matrix};
pub use probe::caught;
pub use runner::{Trial, run};
pub use world::World;

use crate::Family;

/// A party of the topology (Docker semantics 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// The remote host on the first uplink.
    R,
    /// The remote host on the second uplink.
    R2,
    /// The host under test.
    H,
    /// On `netA`: 80 published as 8080, 81 not.
    A1,
    /// On `netA`.
    A2,
    /// On `netB`: 90 published as 9090, 91 not.
    B1,
    /// On `netC`, without ICC: 70 published as 7070, 71 not.
    C1,
    /// On `netC`.
    C2,
    /// On the default bridge, without ICC, linked to d2.
    D1,
    /// On the default bridge: exposes 82, not 83.
    D2,
    /// On the internal `netI`, with a publish that has no effect.
    I1,
    /// On `netI`.
    I2,
    /// On the internal and isolated `netS`.
    S1,
    /// On `netS`.
    S2,
    /// On the nat-unprotected `netU`: 50 published as 5050, 51 not.
    U1,
    /// On the routed `netT`: 80 published, 81 not.
    T1,
    /// On `netX`, which trusts `eth0`: 80 published as 8880, 81 not.
    X1,
    /// On `netM`, which does not masquerade.
    M1,
    /// On `netP`, whose egress takes a fixed address of the host.
    P1,
    /// On `netV`, which has IPv4 alone: 80 published as 8181.
    V1,
    /// On `netA`: 80 published on single addresses of the host.
    L1,
    /// On `netA`, its gateway, and `netB`.
    W1,
    /// On `netA`, its gateway, and the routed `netT`: 80 published.
    W2,
}

/// An address of the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The party's own; of the host: on its first uplink.
    Of(Who),
    /// The party's on its second network; the host's on its second uplink.
    Second(Who),
    /// The gateway of the party's first network.
    Gateway(Who),
    /// The gateway of the party's network in IPv4, whatever the row's family.
    Gateway4(Who),
    /// `127.0.0.N`, or `::1`.
    Loopback(u8),
    /// The host's link-local address on the bridge of the client.
    LinkLocal,
    /// The fixed address of `netP`'s egress.
    Fixed,
    /// An address outside that no route leads to.
    Nowhere,
    /// Whatever address: the row does not say.
    Any,
}

/// How a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A connection.
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request.
    Ping,
    /// An SCTP INIT.
    Sctp,
}

/// What comes of a probe (Docker semantics 5.2, "Results").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// This party answers, and saw this source.
    Ok(Who, Place),
    /// Silence, also at the victim, and one of these reasons counted.
    Drop(Who, &'static [&'static str]),
    /// Refused at once.
    Refused,
    /// The client's own kernel knows no way.
    Unreachable,
}

/// One question and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// The client.
    pub from: Who,
    /// The address it dials.
    pub to: Place,
    /// The port it dials; 0 for pings.
    pub port: u16,
    /// By which protocols.
    pub how: &'static [How],
    /// In which families.
    pub families: &'static [Family],
    /// What comes of it.
    pub expect: Expect,
}

/// What takes more than a question: a function that panics when the row does not hold.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    /// The protocols, for the matrix.
    pub how: &'static str,
    /// What happens, for the matrix.
    pub what: &'static str,
    /// What is expected, for the matrix.
    pub expect: &'static str,
    /// In which families.
    pub families: &'static [Family],
    /// Where it happens.
    pub stage: Stage,
}

/// Where a story happens.
#[derive(Debug, Clone, Copy)]
pub enum Stage {
    /// In the world that rows share: it changes nothing that another row could see.
    Shared(fn(&World, Family)),
    /// In a lab of its own.
    Own(fn(Family)),
}

/// A part of a row.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// A question.
    Probe(Probe),
    /// More than that.
    Story(Story),
}

/// A row of the truth table.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its number: 9 for T9.
    pub id: u8,
    /// What it says, in words that suit a test's name.
    pub title: &'static str,
    /// Its questions; empty where the row is about something netd does not have.
    pub parts: Vec<Part>,
    /// Why it is not applicable.
    pub not_applicable: Option<&'static str>,
}

/// TCP alone.
pub const TCP: &[How] = &[How::Tcp];
/// Ping alone.
pub const PING: &[How] = &[How::Ping];
/// TCP and UDP.
pub const PORTS: &[How] = &[How::Tcp, How::Udp];
/// TCP, UDP and SCTP.
pub const ALL_PORTS: &[How] = &[How::Tcp, How::Udp, How::Sctp];
/// IPv4 and IPv6.
pub const BOTH: &[Family] = &Family::BOTH;
/// IPv4 alone.
pub const V4: &[Family] = &[Family::V4];
/// IPv6 alone.
pub const V6: &[Family] = &[Family::V6];

/// Makes a row.
pub fn row(id: u8, title: &'static str, parts: impl IntoIterator<Item = Part>) -> Row {
    Row { id, title, parts: parts.into_iter().collect(), not_applicable: None }
}

/// Makes a row that is about something netd does not have.
pub fn not_applicable(id: u8, title: &'static str, why: &'static str) -> Row {
    Row { id, title, parts: Vec::new(), not_applicable: Some(why) }
}

/// Makes a question to a port, in both families.
pub const fn ask(from: Who, to: Place, port: u16, how: &'static [How], expect: Expect) -> Part {
    Part::Probe(Probe { from, to, port, how, families: BOTH, expect })
}

/// Makes a ping, in both families.
pub const fn ping(from: Who, to: Place, expect: Expect) -> Part {
    ask(from, to, 0, PING, expect)
}

/// Makes a story, in both families.
pub const fn story(how: &'static str, what: &'static str, expect: &'static str, stage: Stage) -> Part {
    Part::Story(Story { how, what, expect, families: BOTH, stage })
}

impl Part {
    /// The same in these families only.
    #[must_use]
    pub const fn only(mut self, families: &'static [Family]) -> Self {
        match &mut self {
            Self::Probe(probe) => probe.families = families,
            Self::Story(story) => story.families = families,
        }
        self
    }

    /// In which families it holds.
    pub const fn families(&self) -> &'static [Family] {
        match self {
            Self::Probe(probe) => probe.families,
            Self::Story(story) => story.families,
        }
    }

    /// Whether it needs a lab of its own.
    pub const fn is_own(&self) -> bool {
        matches!(self, Self::Story(Story { stage: Stage::Own(_), .. }))
    }
}

/// What a story came to.
#[derive(Debug, Clone)]
pub struct Told {
    /// What was seen.
    pub seen: String,
    /// Whether it is as expected.
    pub mark: Mark,
}

impl From<Mark> for Told {
    fn from(mark: Mark) -> Self {
        Self { seen: String::new(), mark }
    }
}

impl Story {
    /// Tells it; a panic is what was seen instead.
    pub fn tell(&self, tell: impl FnOnce()) -> Told {
        let told = caught(|| {
            tell();
            Ok(())
        });
        match told {
            Ok(()) => Told { seen: self.expect.into(), mark: Mark::Holds },
            Err(seen) => Told { seen, mark: Mark::Fails },
        }
    }
}

/// Says of a cell what was expected and what was seen.
pub fn row_error(cell: &Cell) -> String {
    let family = cell.family.map_or("", Family::name);
    format!(
        "T{} {} {family} {}: expected {}, seen: {}",
        cell.id, cell.what, cell.how, cell.expected, cell.seen
    )
}

impl Row {
    /// In which families the row says something.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        Family::BOTH.into_iter().filter(|family| self.parts.iter().any(|p| p.families().contains(family)))
    }

    /// The name of its test in a family.
    pub fn name(&self, family: Family) -> String {
        format!(
            "t{:02}_{}_{}",
            self.id,
            family.name(),
            self.title.replace(['-', ' '], "_").replace(['\'', ','], "")
        )
    }
}

impl Who {
    /// As servers call themselves.
    pub fn name(self) -> String {
        match self {
            Self::R | Self::R2 | Self::H => format!("{self:?}"),
            sandbox => format!("{sandbox:?}").to_lowercase(),
        }
    }
}

impl How {
    /// For the matrix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Ping => "icmp",
            Self::Sctp => "sctp",
        }
    }
}

impl Place {
    /// For the matrix.
    pub fn name(self) -> String {
        match self {
            Self::Of(who) => who.name(),
            Self::Second(who) => format!("{}'", who.name()),
            Self::Gateway(who) => format!("gw({})", who.name()),
            Self::Gateway4(who) => format!("gw4({})", who.name()),
            Self::Loopback(last) => format!("lo.{last}"),
            Self::LinkLocal => "fe80(H)".into(),
            Self::Fixed => "fixed(netP)".into(),
            Self::Nowhere => "nowhere".into(),
            Self::Any => "any".into(),
        }
    }
}

impl Expect {
    /// For the matrix.
    pub fn name(self) -> String {
        match self {
            Self::Ok(server, source) => format!("OK({} sees {})", server.name(), source.name()),
            Self::Drop(..) => "DROP".into(),
            Self::Refused => "RST".into(),
            Self::Unreachable => "UNREACH".into(),
        }
    }

    /// Whether traffic passes.
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Ok(..))
    }
}

impl Family {
    /// For names of tests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}
