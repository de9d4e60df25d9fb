//! Which of the pinned maps the packet programs and the guard write: the understudy has others in their place (ADR 0022).

use super::super::maps::NAMES;

/// Entries of the understudy's tables: a packet touches a few. LRU tables hand out places by the hundred to each processor.
const ENTRIES: u32 = 4096;
/// No packet of an explanation is a fragment.
const FRAGMENTS: u32 = 1;

/// What listeners are told by.
const RING: &str = "EVENTS";
/// The smallest ring that the kernel makes, in bytes; where pages are larger, the loader takes one of those.
const PAGE: u32 = 4096;

/// Maps that they write, and how many entries the understudy's have where that is not the object's number.
const WRITTEN: [(&str, Option<u32>); 24] = [
    ("FLOW4", Some(ENTRIES)),
    ("FLOW6", Some(ENTRIES)),
    ("PENDING4", Some(ENTRIES)),
    ("PENDING6", Some(ENTRIES)),
    ("ASKED4", Some(ENTRIES)),
    ("ASKED6", Some(ENTRIES)),
    ("HANDED4", Some(ENTRIES)),
    ("HANDED6", Some(ENTRIES)),
    ("INPUT4", Some(ENTRIES)),
    ("INPUT6", Some(ENTRIES)),
    ("OPENINGS4", Some(ENTRIES)),
    ("OPENINGS6", Some(ENTRIES)),
    ("DATAGRAM4", Some(ENTRIES)),
    ("DATAGRAM6", Some(ENTRIES)),
    ("HELD", None),
    ("HELD_BYTES", Some(FRAGMENTS)),
    ("HELD_NEXT", None),
    ("USAGE4", None),
    ("USAGE6", None),
    ("PACE", None),
    ("PORTS", None),
    ("DROPS", None),
    (RING, Some(PAGE)),
    // Not written, but nobody is told of an explanation.
    ("LISTENING", None),
];

/// Lists the maps of which the understudy may have the instance's own.
pub fn only_read() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(|name| WRITTEN.iter().all(|(written, _)| written != name))
}

/// Lists how many entries the understudy's maps have.
pub fn sizes() -> impl Iterator<Item = (&'static str, u32)> {
    WRITTEN.into_iter().filter_map(|(name, entries)| Some((name, entries?)))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use aya::{EbpfLoader, VerifierLogLevel, programs::ProgramError};
    use object::{Object, ObjectSection, ObjectSymbol};

    use super::{super::super::programs::PACKET_PROGRAMS, *};
    use crate::dataplane::{
        guard,
        object::OBJECT,
        programs::{guard_program, packet_program},
    };

    /// Programs may read such a map, and not write it (`BPF_F_RDONLY_PROG`, include/uapi/linux/bpf.h).
    const READ_ONLY: u32 = 1 << 7;
    /// Where a map's definition has its flags: behind type, size of keys, size of values and number of entries (`bpf_map_def`).
    const FLAGS: Range<usize> = 16..20;

    /// Returns the object with maps that programs may only read.
    fn sealed<'a>(names: impl Iterator<Item = &'a str>) -> Vec<u8> {
        let file = object::File::parse(OBJECT).expect("the eBPF object");
        let section = file.section_by_name("maps").expect("the section of maps");
        let (start, _) = section.file_range().expect("its bytes");
        let mut bytes = OBJECT.to_vec();
        for name in names {
            let symbol = file.symbol_by_name(name).unwrap_or_else(|| panic!("no map {name}"));
            assert_eq!(symbol.section_index(), Some(section.index()), "{name} is defined among the maps");
            let at = usize::try_from(start + symbol.address()).expect("a place in the file");
            let flags = &mut bytes[at + FLAGS.start..at + FLAGS.end];
            let with = u32::from_ne_bytes(flags.try_into().expect("four bytes")) | READ_ONLY;
            flags.copy_from_slice(&with.to_ne_bytes());
        }
        bytes
    }

    /// Names the programs that the kernel does not take, with what the verifier said last.
    fn refused(object: &[u8]) -> Vec<(&'static str, String)> {
        let mut loader = EbpfLoader::new();
        loader.btf(None).verifier_log_level(VerifierLogLevel::STATS);
        for (name, entries) in sizes() {
            loader.map_max_entries(name, entries);
        }
        let mut object = loader.load(object).expect("maps for the programs");
        let load = |name| {
            let loaded = if name == guard::PROGRAM {
                guard_program(&mut object).expect("the guard").load()
            } else {
                packet_program(&mut object, name).expect("a packet program").load()
            };
            match loaded {
                Ok(()) => None,
                Err(ProgramError::LoadError { verifier_log, .. }) => Some((name, verifier_log.to_string())),
                Err(other) => panic!("{name}: {other}"),
            }
        };
        PACKET_PROGRAMS.into_iter().chain([guard::PROGRAM]).filter_map(load).collect()
    }

    #[test]
    fn programs_write_no_map_that_an_explanation_shares_with_the_traffic() {
        assert_eq!(refused(&sealed(only_read())), [], "a map that they write is missing in WRITTEN");
        // The control: the verifier sees such writes.
        let written = WRITTEN.into_iter().map(|(name, _)| name).filter(|name| *name != RING); // the kernel seals no ring
        let refused = refused(&sealed(written));
        assert_eq!(refused.len(), PACKET_PROGRAMS.len() + 1, "{refused:?}");
        for (name, log) in refused {
            assert!(log.contains("write into map forbidden"), "{name}: {log}");
        }
    }
}
