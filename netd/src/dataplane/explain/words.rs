//! A step of a packet's way in words.

use std::net::IpAddr;

use netd_common::{
    maps::{Flow, Owner, Publish, flow_flags},
    net::{Be16, LOOPBACK_ZONE},
    verdict::DropReason,
};
use nix::net::if_::if_indextoname;

use super::{
    super::{Error, guard},
    Origin, Step,
    walk::{DROPPED, Home, Place, REDIRECTED, Walk},
};
use crate::model::Probe;

/// What a step is told from.
pub(super) struct Told<'p, A> {
    pub place: &'p Place,
    pub known: Option<Flow<A>>,
    pub flow: Option<Flow<A>>,
    pub published: Option<Publish<A>>,
    pub owner: Option<Owner>,
    pub action: i32,
    pub reason: Option<DropReason>,
}

impl Walk<'_> {
    /// Returns `NAME (ADDRESS)`, or the address alone.
    pub(super) fn named(&self, ip: IpAddr) -> String {
        (self.names)(ip).map_or_else(|| ip.to_string(), |(name, _)| format!("{name} ({ip})"))
    }

    pub(super) fn shown_publish<A: Home>(&self, publish: &Publish<A>) -> String {
        let to = publish.backend.ip();
        let (port, protocol) = (self.question.port, self.question.probe.as_str());
        let backend = at(to, Some(publish.port.into()));
        match (self.names)(to) {
            Some((name, network)) => {
                format!("published {port}/{protocol} -> {name} ({backend}), network {network}")
            }
            None => format!("published {port}/{protocol} -> {backend}"),
        }
    }

    /// Says what a step was.
    pub(super) fn tell<A: Home>(&self, told: &Told<'_, A>) -> Result<Step, Error> {
        let question = &self.question;
        let ported = question.probe != Probe::Icmp;
        let flow = told.flow.filter(|_| told.place.program != "to_uplink");
        let source = flow.map_or((self.source, Be16::from(question.source_port)), |f| (f.src.ip(), f.sport));
        let destination = flow.map_or((question.to, Be16::from(question.port)), |f| (f.dst.ip(), f.dport));
        let (verdict, then) = match (told.reason, told.action) {
            (Some(reason), REDIRECTED) => ("reset", format!("a reset answers it [{}]", numbered(reason))),
            (Some(reason), _) => ("drop", numbered(reason)),
            (None, DROPPED) => ("drop", numbered(DropReason::KernelRefused)),
            (None, REDIRECTED) => ("redirect", self.redirected(told)),
            _ => ("pass", self.passed(told)?),
        };
        // What came before has said where the packet goes from the uplink on.
        let before = self.steps.last().filter(|_| told.place.program.starts_with("to_"));
        let (source, destination) = if let Some(step) = before {
            (step.source.clone(), step.destination.clone())
        } else {
            let port = |port: Be16| Some(u16::from(port));
            (at(source.0, port(source.1)), at(destination.0, port(destination.1).filter(|_| ported)))
        };
        let hook = if told.place.program.starts_with("from_") { "ingress" } else { "egress" };
        Ok(Step {
            interface: interface(told.place.ifindex),
            hook: hook.into(),
            program: told.place.program.into(),
            matched: self.matched(told)?,
            verdict: verdict.into(),
            then,
            source,
            destination,
        })
    }

    /// Says what the guard of an uplink made of the packet.
    pub(super) fn guarded(&self, uplink: u32, dropped: Option<DropReason>) -> Step {
        let question = &self.question;
        let port = (question.probe != Probe::Icmp).then_some(question.port);
        let (verdict, then) = match dropped {
            Some(reason) => ("drop", numbered(reason)),
            None => ("pass", "into the host".to_owned()),
        };
        Step {
            interface: interface(uplink),
            hook: "xdp".to_owned(),
            program: guard::PROGRAM.to_owned(),
            matched: Vec::new(),
            verdict: verdict.to_owned(),
            then,
            source: at(self.source, Some(question.source_port)),
            destination: at(question.to, port),
        }
    }

    /// Says what a program found.
    fn matched<A: Home>(&self, told: &Told<'_, A>) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        let program = told.place.program;
        if program == "from_endpoint" {
            let ip = match &self.question.origin {
                Origin::Sandbox(ip) => *ip,
                _ => self.source,
            };
            found.push(format!("sandbox {}", self.named(ip)));
        }
        if told.known.is_some() {
            found.push("a connection that is known already".to_owned());
        }
        let first = program.starts_with("from_");
        let local = self.question.to.is_loopback() || self.is_local::<A>(self.question.to)?;
        if first && local {
            found.push(match &told.published {
                Some(publish) => self.shown_publish(publish),
                None => "an address of the host, no published port".to_owned(),
            });
            if program == "from_uplink" && told.published.is_some() && self.understudy.asks_host()? {
                found.push("if the host's own input rules accept it (respect_host_firewall)".to_owned());
            }
        } else if told.owner.is_some() {
            found.push(format!("address of {}", self.named(self.question.to)));
        }
        let Some(flow) = told.flow.filter(|_| first) else { return Ok(found) };
        for (flag, words) in
            [(flow_flags::OPENED, "an open port"), (flow_flags::LINKED, "a link or a policy")]
        {
            if flow.flags & flag != 0 {
                found.push(words.to_owned());
            }
        }
        if flow.src.ip() != self.source {
            found.push(format!("shown as {}", at(flow.src.ip(), Some(flow.sport.into()))));
        }
        Ok(found)
    }

    /// Says where a redirected packet goes.
    fn redirected<A: Home>(&self, told: &Told<'_, A>) -> String {
        let Some(flow) = told.flow else {
            return format!("into {}", self.named(self.question.to)); // a neighbour, without a connection to keep
        };
        if flow.flags & flow_flags::TO_SANDBOX != 0 {
            return format!("into {}", self.named(flow.dst.ip()));
        }
        if flow.out == LOOPBACK_ZONE {
            return "to the host's stack".to_owned();
        }
        let next = if flow.nexthop == A::default() { flow.dst.ip() } else { flow.nexthop.ip() };
        format!("out by {} to {next}", interface(flow.out))
    }

    /// Says what becomes of a packet that a program leaves alone.
    fn passed<A: Home>(&self, told: &Told<'_, A>) -> Result<String, Error> {
        let to = self.question.to;
        Ok(match told.place.program {
            "to_endpoint" => format!("into {}", self.named(to)),
            "to_uplink" => format!("leaves by {}", interface(told.place.ifindex)),
            _ if self.is_local::<A>(to)? => "to the host's own sockets".to_owned(),
            _ if told.owner.is_some() => "to the host's bridge and stack".to_owned(),
            "from_uplink" => "to the host's stack: not netd's".to_owned(),
            _ => "to the host's stack: no route leads out by an uplink".to_owned(),
        })
    }
}

fn numbered(reason: DropReason) -> String {
    format!("drop code {}: {}", reason as u8, reason.as_str())
}

pub(super) fn interface(ifindex: u32) -> String {
    let name = if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("if{ifindex}"))
}

/// Returns an address with its port, if it has one.
pub(super) fn at(ip: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| ip.to_string(), |port| std::net::SocketAddr::new(ip, port).to_string())
}
