//! What is too much is refused before room is taken for it.

use super::{super::World, *};

#[tokio::test]
async fn more_ports_than_the_map_holds_are_refused_before_they_are_listed() {
    let mut bench = Bench::new().await;
    let every = vec!["1-65535/udp"; 40_000]; // in a body of half a mebibyte: two and a half thousand million ports
    let error = bench.sandbox("a", &["bridge"], &every).await.expect_err("too many");
    assert_eq!(error.code, Code::Limit);
    assert_eq!(error.message, "publish for sandbox a: 2621400000 ports, the map PUBLISH has room for 131072");
    bench.sandbox("a", &["bridge"], &["8000-8999:8000-8999"]).await.expect("a thousand are fine");
}

#[tokio::test]
async fn the_1024th_endpoint_of_a_network_is_refused_by_the_limits_name() {
    let mut bench = Bench::new().await;
    bench.network("web").await;
    let first = bench.sandbox("a0", &["web"], &[]).await.expect("the first");
    let mut world = World::clone(&bench.controller.world);
    for number in 1..1023_u32 {
        let mut other = Sandbox::clone(&first);
        let id = |kind: u8| {
            let mut bytes = [kind; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            Id::from_bytes(&bytes)
        };
        (other.id, other.endpoints[0].id) = (id(1), id(2));
        other.name = format!("a{number}").parse().expect("a name");
        other.endpoints[0].ipv4 = None;
        world.put_sandbox(other);
    }
    bench.controller.show(world);
    let error = bench.sandbox("more", &["web"], &[]).await.expect_err("full");
    assert_eq!(error.code, Code::Limit);
    let text = "it has 1023 endpoints, the kernel's limit of ports per bridge";
    assert!(error.message.contains(text), "{}", error.message);
    // The control: with one less, there is room.
    let mut world = World::clone(&bench.controller.world);
    let one = world.sandbox("a7").expect("one of them").id.clone();
    world.remove_sandbox(&one);
    bench.controller.show(world);
    bench.sandbox("more", &["web"], &[]).await.expect("room for one");
}
