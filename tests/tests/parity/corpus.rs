//! The committed corpus of the fuzzers (`netd-common/tests/fuzz`) as vectors: what is fuzzed on the host alone is decided alike in the kernel.

use std::{fs, path::Path};

use aya::maps::{HashMap, Map, MapData};
use netd::dataplane::{Dataplane as _, FlowFilter, Kernel};
use netd_common::{
    env::Env,
    fake::{Cast, Fake, Party, ifindex, malformed::Hook, script},
    family::{Address as _, V4, V6},
    maps::Tuple,
    net::{Addr4, Addr6},
    verdict::Verdict,
};

use super::{PORT, SHOT, action, at, decided_on_the_host, in_the_kernel};

/// Inputs of a target, each with its name.
fn inputs<F: Cast>(target: &str) -> Vec<(String, Vec<u8>)> {
    let name = format!("{target}{}", if F::V6 { 6 } else { 4 });
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above the package");
    let path = workspace.join("netd-common/tests/fuzz/corpus").join(name);
    let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("an input")))
        .collect();
    inputs.sort();
    inputs
}

/// Empties the kernel's memory of what the host has sent, which no command of netd's does.
pub fn forget_asked(bpffs: &Path) {
    fn clear<const KEY: usize>(pin: &Path)
    where
        [u8; KEY]: aya::Pod,
    {
        let map = Map::from_map_data(MapData::from_pin(pin).expect("a map")).expect("its kind");
        let mut map = HashMap::<_, [u8; KEY], u32>::try_from(map).expect("tuples and ticks");
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>().expect("keys");
        for key in keys {
            map.remove(&key).expect("an entry");
        }
    }
    for entry in fs::read_dir(bpffs).expect("pins").map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        match entry.file_name().to_str() {
            Some("ASKED4") => clear::<{ size_of::<Tuple<Addr4>>() }>(&path),
            Some("ASKED6") => clear::<{ size_of::<Tuple<Addr6>>() }>(&path),
            _ if path.is_dir() => forget_asked(&path),
            _ => {}
        }
    }
}

/// What both worlds did, to see that they did something.
#[derive(Default)]
struct Tally {
    shot: usize,
    others: usize,
}

/// A world without flows, of the host's and of the kernel's.
fn fresh<F: Cast>(kernel: &mut Kernel, bpffs: &Path) -> Fake {
    forget_asked(bpffs);
    kernel.flush_flows(&FlowFilter::default()).expect("the flows of earlier inputs go");
    let mut fake = Fake::new(PORT, 1);
    // The subnets' filter, as the kernel's side has it; the fake one's lets everything through to the exact test.
    (fake.config.filter4, fake.config.filter6) = ([0; 8], [0; 8]);
    for party in [Party::GatewayA, Party::GatewayB] {
        let (bit4, bit6) = (V4::of(party).filter_bit(), V6::of(party).filter_bit());
        fake.config.filter4[bit4 as usize / 32] |= 1 << (bit4 % 32);
        fake.config.filter6[bit6 as usize / 32] |= 1 << (bit6 % 32);
    }
    for (proto, port, to) in [(6, 8080, 80), (17, 5353, 53)] {
        fake.publish_port::<F>(F::Addr::UNSPECIFIED, proto, port, Party::A1, ifindex::A1, to);
    }
    fake
}

/// Runs a packet in both worlds; returns its bytes.
fn step<F: Cast>(
    kernel: &mut Kernel,
    fake: &Fake,
    tally: &mut Tally,
    what: &str,
    (hook, frame): (Hook, &[u8]),
) -> Vec<u8>
where
    Fake: Env<F>,
{
    if frame.len() < 14 + F::HEADER as usize {
        return frame.to_vec(); // the kernel refuses to run programs on frames without a whole IP header
    }
    let (decision, bytes) = decided_on_the_host::<F>(fake, at(hook), frame);
    let (host, kernel) = (action::<F>(&decision), in_the_kernel(kernel, at(hook), frame));
    // How many resets a sandbox gets in a second is a matter of the clock.
    let reset =
        matches!((hook, &decision), (Hook::FromEndpoint(from), Ok(Verdict::ToSandbox(to))) if from == *to);
    if reset && kernel.0 == SHOT {
        return bytes;
    }
    assert_eq!(
        host, kernel.0,
        "{what}, {hook:?}: action on the host and in the kernel: {decision:?} {frame:02x?}"
    );
    if host == SHOT {
        tally.shot += 1;
    } else {
        tally.others += 1;
        assert_eq!(bytes, kernel.1, "{what}, {hook:?}: bytes on the host and in the kernel");
    }
    bytes
}

/// Runs every input of a family in both worlds.
pub(super) fn compare<F: Cast>(kernel: &mut Kernel, bpffs: &Path)
where
    Fake: Env<F>,
{
    let mut tally = Tally::default();
    for (name, input) in inputs::<F>("hooks") {
        let fake = fresh::<F>(kernel, bpffs);
        for (number, (hook, frame)) in script::packets::<F>(&input).iter().enumerate() {
            step::<F>(kernel, &fake, &mut tally, &format!("{name}, packet {number}"), (*hook, frame));
        }
    }
    for (name, input) in inputs::<F>("quote") {
        let Some(asked) = script::asked::<F>(&input) else { continue };
        let fake = fresh::<F>(kernel, bpffs);
        let sent = step::<F>(kernel, &fake, &mut tally, &name, (Hook::FromEndpoint(ifindex::A1), &asked));
        let Some(error) = script::error::<F>(&sent, &input) else { continue };
        step::<F>(kernel, &fake, &mut tally, &name, (Hook::FromUplink, &error));
    }
    let fake = fresh::<F>(kernel, bpffs);
    for (name, input) in inputs::<F>("headers") {
        for hook in script::PLACES {
            step::<F>(kernel, &fake, &mut tally, &name, (hook, &script::framed::<F>(&input)));
        }
    }
    assert!(tally.shot > 100 && tally.others > 100, "{} dropped, {} not", tally.shot, tally.others);
}
