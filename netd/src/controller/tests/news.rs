//! Unit rung: what is done about what is heard of the host's links.

use super::{
    super::{Event, plan},
    *,
};

#[tokio::test]
async fn the_host_is_not_read_again_for_what_netd_did_to_its_own_links() {
    let mut bench = Bench::new().await;
    let sandbox = bench.sandbox("a", &[], &[]).await.expect("sandbox");
    let veth = sandbox.endpoints[0].host_ifname.to_string();
    let index = FakeMachine::INDEX;
    let change = |name: &str, index: u32, alias: &str, gone: bool| {
        let change = LinkChange { name: name.into(), alias: Some(alias.into()), master: None, gone };
        let routes = Interfaces::from(Some(index));
        Changes { links: [(index, change)].into(), routes, ..Changes::default() }
    };
    let label = crate::link::label("test", "endpoint", sandbox.endpoints[0].id.as_str());
    let looks = async |bench: &mut Bench, changes: Changes| {
        let before = bench.controller.machine.looks;
        bench.controller.host_changed(&changes).await;
        bench.controller.machine.looks - before
    };
    assert_eq!(looks(&mut bench, change(&veth, index, &label, false)).await, 0, "it came");
    assert_eq!(
        looks(&mut bench, change(&veth, index + 1, &label, false)).await,
        1,
        "another link has its name"
    );
    assert_eq!(looks(&mut bench, change(&veth, index, "", false)).await, 1, "its label is gone");
    assert_eq!(looks(&mut bench, change("other", index, &label, false)).await, 1, "it has another name");
    assert_eq!(looks(&mut bench, change(&veth, index, &label, true)).await, 0, "an earlier one was deleted");
    bench.controller.remove_sandbox("a", true).await.expect("removed");
    assert_eq!(looks(&mut bench, change(&veth, index, &label, true)).await, 0, "netd deleted it");
    assert_eq!(looks(&mut bench, links_changed()).await, 1, "a link of the host");
    let by_another = Changes { routes: Interfaces::from(Some(99)), ..Changes::default() };
    assert_eq!(looks(&mut bench, by_another).await, 1, "a route by a link of the host");
    assert_eq!(
        looks(&mut bench, Changes { addresses: Interfaces::any(), ..Changes::default() }).await,
        1,
        "an address"
    );
}

#[tokio::test]
async fn the_host_is_not_read_again_for_a_bridge_that_netd_made_unless_somebody_changed_it() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    let network = bench.controller.world.network("web").expect("network").clone();
    let name = network.bridge.ifname.to_string();
    let index = bench.controller.host.links[&name];
    let looks = async |bench: &mut Bench, changes: &Changes| {
        let before = bench.controller.machine.looks;
        bench.controller.host_changed(changes).await;
        bench.controller.machine.looks - before
    };
    let told = |gone: bool| {
        let label = Some(crate::link::label("test", "network", network.id.as_str()));
        let change = LinkChange { name: name.clone(), alias: label, master: Some(0), gone };
        let here = Interfaces::from(Some(index));
        let links = [(index, change)].into();
        Changes { links, addresses: here.clone(), routes: here, ..Changes::default() }
    };
    assert_eq!(looks(&mut bench, &told(false)).await, 0, "it came, with its addresses");
    let elsewhere = Changes { addresses: Interfaces::from(Some(index + 1)), ..told(false) };
    assert_eq!(looks(&mut bench, &elsewhere).await, 1, "an address of another link too");
    let of = |objects: &mut Vec<Object>| {
        let bridges = objects.iter_mut().filter_map(|object| match object {
            Object::Bridge(bridge) => Some(bridge),
            _ => None,
        });
        bridges.filter(|bridge| bridge.ifname.as_str() == name).for_each(|bridge| {
            bridge.addresses.push("192.0.2.1/24".parse().expect("an address"));
        });
    };
    of(&mut bench.controller.machine.objects);
    assert_eq!(looks(&mut bench, &told(false)).await, 1, "somebody gave it an address");
    assert_eq!(looks(&mut bench, &told(false)).await, 0, "which is known now");
    assert_eq!(looks(&mut bench, &told(true)).await, 0, "an earlier one was deleted");
    let lost = |objects: &mut Vec<Object>| {
        let bridges = objects.iter_mut().filter_map(|object| match object {
            Object::Bridge(bridge) => Some(bridge),
            _ => None,
        });
        bridges.filter(|bridge| bridge.ifname.as_str() == name).for_each(|bridge| {
            bridge.addresses.truncate(0);
        });
    };
    let before = bench.dump();
    lost(&mut bench.controller.machine.objects);
    assert_ne!(bench.dump(), before);
    assert_ne!(looks(&mut bench, &told(false)).await, 0, "one that it shall not have was taken away too");
    lost(&mut bench.controller.machine.objects);
    assert_ne!(bench.dump(), before);
    assert_eq!(looks(&mut bench, &told(false)).await, 0, "only its own addresses were");
}

#[tokio::test]
async fn what_somebody_deletes_is_made_again_at_once() {
    let mut bench = Bench::new().await;
    let sandbox = bench.sandbox("a", &[], &["8080:80"]).await.expect("sandbox");
    bench.sandbox("b", &[], &["9090:80"]).await.expect("sandbox");
    let objects = bench.dump();
    let gone = sandbox.endpoints[0].host_ifname.clone();
    let of_veth = |object: &Object| match object {
        Object::Veth(veth) => veth.host == gone,
        Object::Record(record) => record.host == gone,
        Object::Programs(host, _) | Object::Up(host) => *host == gone,
        _ => false,
    };
    bench.controller.machine.objects.retain(|object| !of_veth(object));
    bench.controller.host_changed(&links_changed()).await;
    assert_eq!(bench.dump(), objects);

    let steps = bench.controller.machine.steps;
    bench.controller.host_changed(&links_changed()).await;
    assert_eq!(bench.controller.machine.steps, steps, "nothing is missing, nothing is done");
}

/// What is heard of a link of this name that somebody deleted.
fn deleted(name: &str, index: u32) -> Changes {
    let change = LinkChange { name: name.into(), alias: Some(String::new()), master: None, gone: true };
    Changes { links: [(index, change)].into(), ..Changes::default() }
}

#[tokio::test]
async fn only_what_somebody_deleted_is_made_again() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    let sandbox = bench.sandbox("a", &["web"], &["8080:80"]).await.expect("sandbox");
    bench.sandbox("b", &["web"], &["9090:80"]).await.expect("sandbox");
    bench.sandbox("c", &[], &["7070:80"]).await.expect("sandbox");
    let objects = bench.dump();
    let network = bench.controller.world.network("web").expect("network").clone();
    let bridge = network.bridge.ifname.to_string();
    let host = sandbox.endpoints[0].host_ifname.to_string();
    let earlier = 77;
    bench.controller.host.links.insert(host.clone(), earlier);
    bench.controller.machine.dataplane.attached.insert(earlier);
    for (name, of_others) in [(&host, 2), (&bridge, 1)] {
        let goes = |object: &Object| match object {
            Object::Bridge(bridge) => bridge.ifname.as_str() == *name,
            Object::Veth(veth) => veth.host.as_str() == *name,
            Object::Programs(host, _) | Object::Up(host) => host.as_str() == *name,
            _ => false,
        };
        bench.controller.machine.objects.retain(|object| !goes(object));
        let index = bench.controller.host.links.get(name).copied().unwrap_or(FakeMachine::INDEX);
        let (looks, steps) = (bench.controller.machine.looks, bench.controller.machine.steps);
        bench.controller.host_changed(&deleted(name, index)).await;
        assert_eq!(bench.dump(), objects, "{name}");
        assert_eq!(bench.controller.machine.looks, looks, "the whole host was looked at for {name}");
        let taken = bench.controller.machine.steps - steps;
        let whole = plan::ensure(&bench.controller.world, &bench.controller.renderer).len();
        assert!(taken * 4 < whole * (4 - of_others), "{name}: {taken} steps of {whole}");
        bench.controller.host_changed(&deleted(name, index)).await;
        assert_eq!(bench.controller.machine.steps, steps + taken, "{name} is there again");
    }
    assert!(bench.controller.unfinished.why().is_none());
    let dataplane = &bench.controller.machine.dataplane;
    assert!(!dataplane.attached.contains(&earlier), "the packet path knows nothing of the earlier link");
    assert_eq!(dataplane.interfaces.get(&host), Some(&FakeMachine::INDEX));
}

#[tokio::test]
async fn what_cannot_be_made_again_is_looked_at_with_all_else() {
    let mut bench = Bench::new().await;
    let sandbox = bench.sandbox("a", &[], &["8080:80"]).await.expect("sandbox");
    let (objects, host) = (bench.dump(), sandbox.endpoints[0].host_ifname.clone());
    let of_veth = |object: &Object| match object {
        Object::Veth(veth) => veth.host == host,
        Object::Programs(name, _) | Object::Up(name) => *name == host,
        _ => false,
    };
    bench.controller.machine.objects.retain(|object| !of_veth(object));
    let looks = bench.controller.machine.looks;
    // The step fails at the first try and at the second one.
    bench.controller.machine.fails = Some("veth");
    bench.controller.host_changed(&deleted(host.as_str(), FakeMachine::INDEX)).await;
    assert!(bench.controller.machine.looks > looks);
    assert!(bench.controller.unfinished.why().is_some_and(|why| why.contains("veth")), "it is told");
    bench.controller.machine.fails = None;
    bench.controller.reconcile().await.expect("tried again");
    assert_eq!(bench.dump(), objects);
}

#[tokio::test]
async fn a_sandbox_whose_interfaces_end_with_its_namespace_is_forgotten_with_those_that_share_it() {
    let mut bench = Bench::new().await;
    bench.sandbox("c", &[], &["9090:80"]).await.expect("sandbox");
    let before = bench.dump();
    let sandbox = bench.sandbox("a", &[], &["8080:80"]).await.expect("sandbox");
    bench.sandbox("b", &["sandbox:a"], &[]).await.expect("sandbox");
    let mut events = bench.handle.events();
    let netns = sandbox.netns.clone().expect("namespace").path;
    let host = sandbox.endpoints[0].host_ifname.clone();
    bench.controller.machine.dead.insert(netns);
    let goes = |object: &Object| matches!(object, Object::Veth(veth) if veth.host == host);
    bench.controller.machine.objects.retain(|object| !goes(object));
    let looks = bench.controller.machine.looks;
    bench.controller.host_changed(&deleted(host.as_str(), FakeMachine::INDEX)).await;
    assert_eq!(bench.controller.machine.looks, looks, "the whole host was looked at");
    assert_eq!(bench.dump(), before);
    let stored = bench.controller.store.load().expect("stored").sandboxes;
    let names: Vec<&str> = stored.iter().map(|sandbox| sandbox.name.as_str()).collect();
    assert_eq!(names, ["c"]);
    let told: Vec<Event> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    assert_eq!(told.iter().filter(|event| event.action == "destroy").count(), 2, "{told:?}");
}
