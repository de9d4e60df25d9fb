//! Policies: what they open as sandboxes come and go, and what is refused.

use super::{super::CreatePolicy, *};

/// A bench with a network without ICC, of both families.
async fn bench() -> Bench {
    let mut bench = Bench::new().await;
    let options = [("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())].into();
    let request = CreateNetwork { name: "app".into(), ipv6: Some(true), options, ..CreateNetwork::default() };
    bench.network_with(request).await;
    bench
}

fn policy(from: &str, to: &str, ports: &[(u16, Protocol)]) -> CreatePolicy {
    let from = Some(from.to_owned()).filter(|from| !from.is_empty());
    CreatePolicy { network: "app".into(), from, to: to.into(), ports: ports.to_vec() }
}

/// Returns what policies open, names in place of addresses: `web>sql:5432/tcp`.
fn opens(bench: &Bench) -> Vec<String> {
    let name = |ip: IpAddr| {
        if ip.is_unspecified() {
            return "*".to_owned();
        }
        let has = |sandbox: &&Arc<Sandbox>| {
            sandbox.endpoints.iter().any(|endpoint| super::super::flows::addresses(endpoint).any(|a| a == ip))
        };
        bench
            .controller
            .world
            .sandboxes()
            .find(has)
            .map_or("?".to_owned(), |sandbox| sandbox.name.to_string())
    };
    let links = bench.controller.machine.objects.iter().filter_map(|object| match object {
        Object::Links(links) => Some(&links.ports),
        _ => None,
    });
    let text = |link: &crate::dataplane::LinkEntry| {
        let port = link.port.map_or("*".to_owned(), |(port, protocol)| format!("{port}/{protocol}"));
        format!("{}>{}:{port}", name(link.from), name(link.to))
    };
    let mut all: Vec<String> = links.flat_map(|ports| ports.iter().map(text)).collect();
    all.sort();
    // Each is there for both families.
    assert!(all.chunks(2).all(|pair| pair.len() == 2 && pair[0] == pair[1]), "{all:?}");
    all.dedup();
    all
}

const SQL: [(u16, Protocol); 1] = [(5432, Protocol::Tcp)];

#[tokio::test]
async fn a_policy_follows_the_names_it_speaks_of() {
    let mut bench = bench().await;
    bench.controller.add_policy(&policy("web", "sql", &SQL)).await.expect("of sandboxes that will come");
    bench.sandbox("web", &["app"], &[]).await.expect("web");
    assert_eq!(opens(&bench), [""; 0], "it waits");
    bench.sandbox("sql", &["app"], &[]).await.expect("sql");
    assert_eq!(opens(&bench), ["web>sql:5432/tcp"]);
    bench.controller.disconnect("app", "sql", false).await.expect("disconnected");
    assert_eq!(opens(&bench), [""; 0]);
    bench.sandbox("other", &["app"], &[]).await.expect("takes the address");
    assert_eq!(opens(&bench), [""; 0]);
    bench.controller.connect("sql", &attachment("app")).await.expect("connected");
    assert_eq!(opens(&bench), ["web>sql:5432/tcp"], "at its new address");
    bench.controller.remove_sandbox("web", false).await.expect("removed");
    assert_eq!(opens(&bench), [""; 0]);
    bench.sandbox("web", &["app"], &[]).await.expect("made anew");
    assert_eq!(opens(&bench), ["web>sql:5432/tcp"]);
    let before = bench.dump();
    let bench = bench.restart(|_| {}).await;
    assert_eq!(bench.dump(), before);
    assert_eq!(opens(&bench), ["web>sql:5432/tcp"]);
}

#[tokio::test]
async fn policies_add_up_and_go_one_by_one_and_with_their_network() {
    let mut bench = bench().await;
    for name in ["web", "sql", "dns"] {
        bench.sandbox(name, &["app"], &[]).await.expect(name);
    }
    let add = async |bench: &mut Bench, wanted: CreatePolicy| {
        bench.controller.add_policy(&wanted).await.expect("added").id.to_string()
    };
    let ports = [(53, Protocol::Udp), (53, Protocol::Tcp), (53, Protocol::Udp)];
    let names = add(&mut bench, policy("", "dns", &ports)).await;
    let sql = add(&mut bench, policy("web", "sql", &SQL)).await;
    let more = [SQL[0], (80, Protocol::Sctp)];
    add(&mut bench, policy("web", "sql", &more)).await;
    add(&mut bench, policy("dns", "sql", &[])).await;
    let all = ["*>dns:53/tcp", "*>dns:53/udp", "dns>sql:*", "web>sql:5432/tcp", "web>sql:80/sctp"];
    assert_eq!(opens(&bench), all);
    bench.controller.remove_policy(&sql).await.expect("removed");
    assert_eq!(opens(&bench), all, "another one opens the same");
    bench.controller.remove_policy(&names[..20]).await.expect("removed, by the beginning of its id");
    assert_eq!(opens(&bench), all[2..]);
    assert_eq!(bench.controller.remove_policy(&sql).await.expect_err("gone").code, Code::NotFound);
    for name in ["web", "sql", "dns"] {
        bench.controller.remove_sandbox(name, false).await.expect(name);
    }
    assert_eq!(opens(&bench), [""; 0]);
    bench.controller.remove_network("app").await.expect("its policies do not keep it");
    assert!(bench.controller.world.policy(&names).is_err());
}

#[tokio::test]
async fn operations_on_policies_fail_clean() {
    let mut bench = bench().await;
    for name in ["web", "sql"] {
        bench.sandbox(name, &["app"], &[]).await.expect(name);
    }
    fails_clean(&mut bench, async |controller| {
        controller.add_policy(&policy("web", "sql", &SQL)).await.map(drop)
    })
    .await;
    fails_clean(&mut bench, async |controller| {
        controller.create_sandbox(&request("more", &["app"], &[])).await.map(drop)
    })
    .await;
    fails_clean(&mut bench, async |controller| controller.remove_sandbox("more", false).await.map(drop))
        .await;
    let id = bench
        .controller
        .world
        .networks()
        .flat_map(|network| &network.policies)
        .next()
        .expect("one")
        .id
        .to_string();
    fails_clean(&mut bench, async |controller| controller.remove_policy(&id).await).await;
    bench.controller.add_policy(&policy("", "sql", &[])).await.expect("added");
    fails_clean(&mut bench, async |controller| controller.remove_sandbox("sql", false).await.map(drop)).await;
}

#[tokio::test]
async fn what_says_nothing_is_refused() {
    let mut bench = bench().await;
    bench.network("open").await;
    bench.sandbox("web", &["app"], &[]).await.expect("web");
    bench.controller.add_policy(&policy("web", "sql", &SQL)).await.expect("added");
    let many: Vec<_> = (1..=1025).map(|port| (port, Protocol::Tcp)).collect();
    for (request, code, part) in [
        (policy("web", "sql", &SQL), Code::Conflict, "has it already"),
        (policy("web", "web", &SQL), Code::Usage, "reaches itself anyway"),
        (policy("web", "not/a name", &SQL), Code::Usage, "invalid name"),
        (policy("web", "sql", &many), Code::Usage, "1025 ports, a policy has room for 1024"),
        (
            CreatePolicy { network: "open".into(), ..policy("web", "sql", &SQL) },
            Code::Usage,
            "talk to each other anyway",
        ),
        (
            CreatePolicy { network: "host".into(), ..policy("web", "sql", &SQL) },
            Code::Usage,
            "no endpoints of its own",
        ),
        (
            CreatePolicy { network: "none such".into(), ..policy("web", "sql", &SQL) },
            Code::NotFound,
            "not found",
        ),
    ] {
        let error = bench.controller.add_policy(&request).await.expect_err(part);
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(part) && !error.message.contains('\n'), "{}", error.message);
    }
}
