//! Asks a row's questions and compares the answers.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

use super::{Cell, Expect, How, Mark, Place, Probe, Who, World};
use crate::{Capture, Family, Outcome, PATIENCE, Proto, SILENCE, Silence, checks::plain};

/// Identifiers of pings; far from those of the lab's own.
static NEXT_ID: AtomicU16 = AtomicU16::new(0x4000);
/// Source ports of probes, each used once: beside netd's ports for masqueraded flows, within the kernel's ephemeral ones.
static NEXT_PORT: AtomicU16 = AtomicU16::new(33_000);

impl Probe {
    /// Who asks whom, for the matrix.
    pub fn what(&self) -> String {
        let port = if self.port == 0 { String::new() } else { format!(":{}", self.port) };
        format!("{} → {}{port}", self.from.name(), self.to.name())
    }

    /// Asks by every protocol and returns a cell for each.
    pub fn ask(&self, world: &World, family: Family, id: u8, part: usize, how: &[How]) -> Vec<Cell> {
        let seen = match self.expect {
            Expect::Drop(victim, reasons) => self.expect_silence(world, family, how, victim, reasons),
            _ => how.iter().map(|&how| caught(|| self.expect_answer(world, family, how))).collect(),
        };
        let cell = |(&how, seen): (&How, Result<String, String>)| Cell {
            id,
            part,
            what: self.what(),
            expected: self.expect.name(),
            family: Some(family),
            how: how.name().into(),
            mark: if seen.is_ok() { Mark::Holds } else { Mark::Fails },
            seen: seen.unwrap_or_else(|seen| seen),
        };
        how.iter().zip(seen).map(cell).collect()
    }

    /// The address that is dialled; a link-local one with the client's interface.
    fn destination(&self, world: &World, family: Family) -> SocketAddr {
        let ip = world.address(self.to, self.from, family).expect("a destination is an address");
        match (self.to, ip) {
            (Place::LinkLocal, IpAddr::V6(v6)) => {
                let index = world.ns(self.from).link("eth0").expect("eth0").index;
                SocketAddrV6::new(v6, self.port, 0, index).into()
            }
            _ => SocketAddr::new(ip, self.port),
        }
    }

    fn send(&self, world: &World, family: Family, how: How, patience: Duration) -> (Outcome, u16) {
        let (client, to) = (world.ns(self.from), self.destination(world, family));
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        // A socket of the host that is bound already keeps the address its route gives: nothing to show for T44.
        let from = Some(SocketAddr::new(family.any(), port)).filter(|_| self.from != Who::H);
        let outcome = match how {
            How::Tcp => client.dial(Proto::Tcp, to, from, patience),
            How::Udp => client.dial(Proto::Udp, to, from, patience),
            How::Ping => client.ping_with(to.ip(), NEXT_ID.fetch_add(1, Ordering::Relaxed), patience),
            How::Sctp => client.init_sctp(to, port, patience),
        };
        (outcome, port)
    }

    fn expect_answer(&self, world: &World, family: Family, how: How) -> Result<String, String> {
        let capture = match (how, self.expect) {
            (How::Ping, Expect::Ok(server, source)) if server != Who::H && source != Place::Any => {
                Some(Capture::start(world.ns(server), interface(self.to)))
            }
            _ => None,
        };
        let patience = if self.expect.is_ok() { PATIENCE } else { SILENCE };
        let (outcome, port) = self.send(world, family, how, patience);
        let seen = describe(world, self, &outcome);
        let holds = match (self.expect, &outcome) {
            (Expect::Refused, Outcome::Refused) | (Expect::Unreachable, Outcome::Unreachable) => true,
            (Expect::Ok(server, source), Outcome::Ok(seen)) => {
                // Then the port is its own too.
                let unchanged = source == Place::Of(self.from) && self.from != Who::H;
                let source = world.address(source, self.from, family);
                match &capture {
                    Some(capture) => pinged_from(capture, source),
                    None if how == How::Ping => true,
                    None => {
                        seen.server == server.name()
                            && source.is_none_or(|ip| seen.source.ip() == ip)
                            && (!unchanged || seen.source.port() == port)
                    }
                }
            }
            _ => false,
        };
        if holds { Ok(seen) } else { Err(seen) }
    }

    /// All protocols at once: silence takes its time.
    fn expect_silence(
        &self,
        world: &World,
        family: Family,
        how: &[How],
        victim: Who,
        reasons: &[&str],
    ) -> Vec<Result<String, String>> {
        let silence = Silence::watch_on(world.ns(victim), interface(self.to));
        let before = world.drops();
        let outcomes: Vec<_> = thread::scope(|scope| {
            let send = |&how| scope.spawn(move || caught(|| Ok(self.send(world, family, how, SILENCE).0)));
            let threads: Vec<_> = how.iter().map(send).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("panicked".into()))).collect()
        });
        let quiet = caught(|| {
            silence.assert_unopened(&victim.name());
            Ok(())
        });
        let after = world.drops();
        let counted: Vec<_> = reasons
            .iter()
            .copied()
            .filter(|reason| after.get(&plain(reason)) > before.get(&plain(reason)))
            .collect();
        let judge = |outcome: Result<Outcome, String>| match (outcome?, &quiet, counted.as_slice()) {
            (Outcome::Timeout, Ok(()), [_, ..]) => Ok(format!("DROP({})", counted.join(" "))),
            (Outcome::Timeout, Ok(()), []) => Err(format!("silence, but nothing counted under {reasons:?}")),
            (Outcome::Timeout, Err(loud), _) => Err(loud.clone()),
            (outcome, ..) => Err(describe(world, self, &outcome)),
        };
        outcomes.into_iter().map(judge).collect()
    }
}

/// The victim's interface that a packet to a place would arrive on.
fn interface(to: Place) -> &'static str {
    match to {
        Place::Second(Who::W1 | Who::W2) => "eth1",
        _ => "eth0",
    }
}

/// Whether the echo request that was answered came from this address.
fn pinged_from(capture: &Capture, source: Option<IpAddr>) -> bool {
    let mut requests = capture.take().into_iter().filter(|p| !p.outgoing && p.is_echo_request()).peekable();
    requests.peek().is_some() && requests.all(|request| source.is_none() || request.src == source)
}

fn describe(world: &World, probe: &Probe, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok(seen) if probe.port == 0 => format!("OK({} answers)", world.name_of(seen.source.ip())),
        Outcome::Ok(seen) => format!("OK({} sees {})", seen.server, world.name_of(seen.source.ip())),
        Outcome::Timeout => "silence".into(),
        Outcome::Refused => "RST".into(),
        Outcome::Unreachable => "UNREACH".into(),
    }
}

/// Runs something that may panic, and returns the panic's text as what was seen.
pub fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text");
        Err(text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
    })
}
