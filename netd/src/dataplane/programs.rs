//! The programs of an instance: loaded when a device wants them, or taken from an earlier daemon of the same build.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf,
    maps::Map,
    programs::{
        CgroupSockAddr, Program, ProgramError, SchedClassifier, SkLookup, TestRun, TestRunOptions, Xdp,
    },
};
use netd_common::{
    family::{Family, V6},
    maps::features,
};

use super::{Error, TcxOrder, guard, kept::Kept};
use crate::kernel_release;

/// The packet programs, by name.
pub const PACKET_PROGRAMS: [&str; 8] = [
    "from_endpoint",
    "to_endpoint",
    "from_uplink",
    "to_uplink",
    "from_bare_uplink",
    "to_bare_uplink",
    "from_loopback",
    "from_netkit",
];
/// Those that every host needs; the others are loaded when a device wants them.
const ALWAYS: usize = 4;
/// The socket programs, by name.
pub const SOCKET_PROGRAMS: [&str; 10] = [
    "bind4",
    "bind6",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];
/// The program of the namespace, where the host's own input rules are asked about packets to published ports.
pub const INPUT_PROGRAM: &str = "host_input";
/// Asks the kernel for a feature; never attached.
const PROBE: &str = "probe_csum_ipv6";
/// Longest name that the kernel keeps (`BPF_OBJ_NAME_LEN`, without the zero).
const LONGEST_NAME: usize = 15;

/// Returns what the kernel calls a program.
pub fn known_name(program: &str) -> &str {
    program.get(..LONGEST_NAME).unwrap_or(program)
}

/// The programs of one instance.
pub struct Programs {
    object: Ebpf,
    kept: Kept,
    order: TcxOrder,
}

impl Programs {
    /// Loads what every host needs, and `lo`'s program if this one needs it. Those of uplinks will stand in this order among others.
    ///
    /// # Errors
    /// Names the program and the kernel's reason.
    pub fn load(mut object: Ebpf, kept: Kept, loopback: bool, order: TcxOrder) -> Result<Self, Error> {
        let loopback = loopback.then_some("from_loopback");
        let packet = PACKET_PROGRAMS.into_iter().take(ALWAYS).chain(loopback);
        let wanted: Vec<_> = packet.chain(SOCKET_PROGRAMS).chain([PROBE]).collect();
        load_together(&mut object, &kept, &wanted)?;
        Ok(Self { object, kept, order })
    }

    /// Returns where those of uplinks stand among others.
    pub const fn tcx_order(&self) -> TcxOrder {
        self.order
    }

    /// Whether netd has a program of this name.
    pub fn has(&self, name: &str) -> bool {
        self.object.program(name).is_some()
    }

    /// Returns a packet program, which is loaded by then.
    ///
    /// # Errors
    /// Names the program and the kernel's reason.
    pub fn packet(&mut self, name: &str) -> Result<&mut SchedClassifier, Error> {
        let known = PACKET_PROGRAMS.into_iter().find(|known| *known == name);
        let program = self.object.program_mut(name);
        let Some((name, program)) = known.zip(program) else { return Err(lacks("packet", name)) };
        if program.fd().is_err() {
            load(&self.kept, name, program)?;
        }
        program.try_into().map_err(|_| lacks("packet", name))
    }

    /// Returns a socket program.
    ///
    /// # Errors
    /// Names the program.
    pub fn socket(&mut self, name: &str) -> Result<&mut CgroupSockAddr, Error> {
        socket_program(&mut self.object, name)
    }

    /// Returns the program of the namespace, which is loaded by then.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn input(&mut self) -> Result<&mut SkLookup, Error> {
        let program = input_program(&mut self.object)?;
        if program.fd().is_err() {
            program
                .load()
                .map_err(|source| Error::kernel(format!("load program {INPUT_PROGRAM}"), source))?;
        }
        Ok(program)
    }

    /// Returns the guard of uplinks, which is loaded by then.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn guard(&mut self) -> Result<&mut Xdp, Error> {
        let program = guard_program(&mut self.object)?;
        if program.fd().is_err() {
            let failed = |source| Error::kernel(format!("load program {}", guard::PROGRAM), source);
            program.load().map_err(failed)?;
        }
        Ok(program)
    }

    /// Returns the descriptor of a program, which is loaded by then.
    ///
    /// # Errors
    /// Names the program and the kernel's reason.
    pub fn fd(&mut self, name: &str) -> Result<OwnedFd, Error> {
        if PACKET_PROGRAMS.contains(&name) {
            self.packet(name)?;
        } else if name == INPUT_PROGRAM {
            self.input()?;
        } else if name == guard::PROGRAM {
            self.guard()?;
        }
        let program = self.object.program(name).ok_or_else(|| lacks("other", name))?;
        let failed = |source| Error::kernel(format!("take program {name}"), source);
        let fd = program.fd().map_err(failed)?.as_fd().try_clone_to_owned();
        fd.map_err(|source| failed(ProgramError::IOError(source)))
    }

    /// Lists the maps that the programs use, by name.
    pub fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.object.maps()
    }

    /// Finds out what the kernel can, as `netd_common::maps::features`.
    pub fn probe_features(&mut self) -> u32 {
        let mut found = 0;
        if kernel_release::version().is_some_and(|version| version >= (6, 15)) {
            found |= features::PEER_SCRUBS;
        }
        let mut frame = [0_u8; 128];
        let [high, low] = V6::ETHERTYPE.to_wire();
        (frame[12], frame[13], frame[14]) = (high, low, 0x60);
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        let probe = packet_program(&mut self.object, PROBE).ok();
        let answer = probe.and_then(|probe| probe.test_run(options).ok());
        if answer.is_some_and(|result| result.return_value == 0) {
            found |= features::CSUM_IPV6;
        }
        found
    }
}

/// Loads programs on as many threads as there are processors: the kernel verifies each by itself, most of a second in all.
fn load_together(object: &mut Ebpf, kept: &Kept, wanted: &[&'static str]) -> Result<(), Error> {
    let mut programs: Vec<(&'static str, &mut Program)> = object
        .programs_mut()
        .filter_map(|(name, program)| Some((*wanted.iter().find(|wanted| **wanted == name)?, program)))
        .collect();
    if programs.len() != wanted.len() {
        return Err(Error::Unsupported("the eBPF object lacks programs".to_owned()));
    }
    // The dearest last: they are taken from there first.
    programs.sort_by_key(|(name, _)| (PACKET_PROGRAMS.contains(name), name.starts_with("from_")));
    let waiting = Mutex::new(programs);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || -> Result<(), Error> {
        while let Some((name, program)) = next() {
            load(kept, name, program)?;
        }
        Ok(())
    };
    let others = thread::available_parallelism().map_or(0, |all| all.get().min(4) - 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::Unsupported("loading programs failed".to_owned())))
        });
        joined.fold(own, Result::and)
    })
}

/// Takes the program that an earlier daemon kept, or has the kernel verify this one and keeps it.
fn load(kept: &Kept, name: &'static str, program: &mut Program) -> Result<(), Error> {
    if kept.adopt(name, program) {
        return Ok(());
    }
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => return Err(Error::Unsupported(format!("program {name} is of another kind"))),
    };
    loaded.map_err(|source| Error::kernel(format!("load program {name}"), source))?;
    if PACKET_PROGRAMS.contains(&name) {
        kept.keep(name, program);
    }
    Ok(())
}

fn lacks(kind: &str, name: &str) -> Error {
    Error::Unsupported(format!("the eBPF object has no {kind} program {name}"))
}

/// Returns a packet program of the object.
///
/// # Errors
/// There is none of this name.
pub fn packet_program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    let program = object.program_mut(name);
    program.and_then(|program| program.try_into().ok()).ok_or_else(|| lacks("packet", name))
}

/// Returns a socket program of the object.
///
/// # Errors
/// There is none of this name.
pub fn socket_program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr, Error> {
    let program = object.program_mut(name);
    program.and_then(|program| program.try_into().ok()).ok_or_else(|| lacks("socket", name))
}

/// Returns the namespace's program of the object.
///
/// # Errors
/// There is none.
pub fn input_program(object: &mut Ebpf) -> Result<&mut SkLookup, Error> {
    let program = object.program_mut(INPUT_PROGRAM);
    program.and_then(|program| program.try_into().ok()).ok_or_else(|| lacks("namespace", INPUT_PROGRAM))
}

/// Returns the guard of uplinks of the object.
///
/// # Errors
/// There is none.
pub fn guard_program(object: &mut Ebpf) -> Result<&mut Xdp, Error> {
    let program = object.program_mut(guard::PROGRAM);
    program.and_then(|program| program.try_into().ok()).ok_or_else(|| lacks("device", guard::PROGRAM))
}
