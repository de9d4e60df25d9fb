//! Many networks go together, and one that cannot go stays whole.

use super::*;

/// Returns the names of the networks that there are.
fn networks(bench: &Bench) -> Vec<String> {
    let names = |network: &Arc<crate::model::Network>| network.name.to_string();
    bench.controller.world.networks().map(names).collect()
}

#[tokio::test]
async fn a_prune_that_fails_half_way_leaves_whole_networks_alone() {
    const ALL: [&str; 3] = ["one", "two", "three"];
    let mut bench = Bench::new().await;
    let bare = bench.dump();
    for failing in 0..50 {
        let mut parts = Vec::new();
        let there = networks(&bench);
        for name in ALL.into_iter().filter(|name| !there.iter().any(|other| other == name)) {
            bench.network(name).await;
        }
        for network in bench.controller.world.networks().filter(|network| !network.is_predefined()) {
            let of = |line: &&String| line.contains(network.bridge.ifname.as_str());
            let own: Vec<String> = bench.dump().iter().filter(of).cloned().collect();
            assert!(own.len() >= 2, "a bridge and a slot: {own:?}");
            parts.push((network.name.to_string(), own));
        }
        bench.controller.machine.fail_in = Some(failing);
        let result = bench.controller.prune_networks(Box::new(|_| true)).await;
        if bench.controller.machine.fail_in.take().is_some() {
            assert_eq!(result.expect("no step was told to fail").len(), ALL.len());
            assert!(failing >= ALL.len(), "each takes a step at least");
            assert_eq!(bench.dump(), bare);
            return;
        }
        result.expect_err("a step failed");
        let left = networks(&bench);
        let mut wanted = bare.clone();
        wanted.extend(parts.into_iter().filter(|(name, _)| left.contains(name)).flat_map(|(_, own)| own));
        wanted.sort();
        assert_eq!(bench.dump(), wanted, "{left:?} after a failure at step {failing}");
    }
    panic!("never pruned");
}
