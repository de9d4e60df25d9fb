//! Rung: property. No text, JSON or file makes a parser panic, and what it takes keeps to the rules.

use std::{fs, str::FromStr};

use netd::{
    api::{
        Filters,
        dto::{ConnectRequest, NetworkCreateRequest, PublishRequest, SandboxCreateRequest},
    },
    config::{Flags, Settings},
    controller::CreateNetwork,
    model::{Id, IfName, IfPattern, Mac, Name, PublishSpec, parse_expose},
    store::Store,
    sysctl::ReservedPorts,
};
use proptest::{collection::vec, prelude::*};
use serde_json::Value;

/// Text as people mistype it, and text as nobody types it.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-f.:/,=-]{0,24}",
        "[a-zA-Z0-9_.%*-]{0,140}",
        "(allow=|tcp|udp|host|bridge|sandbox:|fd00::/8|10\\.0\\.0\\.0/8|[0-9:/.,-]){0,8}",
        "(?s).{0,64}",
    ]
}

/// Any JSON, with the names of the API's fields in it.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    let name = prop_oneof![
        "(Name|Driver|IPAM|Config|Subnet|IPRange|Gateway|AuxiliaryAddresses|Options|Labels|EnableIPv6|Internal)",
        "(Container|EndpointConfig|IPAMConfig|IPv4Address|IPv6Address|MacAddress|Aliases|GwPriority|DriverOpts)",
        "(Networks|Network|Endpoint|Publish|Expose|Links|Dns|Servers|Search|ExtraHosts|NetNS|Pid|Specs|Command)",
        "[a-z]{0,4}",
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        let fields = prop::collection::btree_map(name.clone(), inner.clone(), 0..6);
        prop_oneof![
            vec(inner, 0..6).prop_map(Value::from),
            fields.prop_map(|fields| Value::from(serde_json::Map::from_iter(fields))),
        ]
    })
}

/// What is taken prints as what it was taken from.
fn prints_itself<T: FromStr + AsRef<str>>(text: &str) -> bool {
    text.parse::<T>().map_or(true, |parsed| parsed.as_ref() == text)
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in text(), other in text()) {
        prop_assert!(prints_itself::<Name>(&text) && prints_itself::<IfName>(&text));
        prop_assert!(prints_itself::<IfPattern>(&text) && prints_itself::<Id>(&text));
        if let Ok(name) = text.parse::<Name>() {
            prop_assert!(name.as_str().len() <= 128 && !name.as_str().contains('/'));
        }
        if let Ok(name) = text.parse::<IfName>() {
            prop_assert!(name.as_str().len() <= 15 && !name.as_str().contains(['/', '%', ' ']));
        }
        if let Ok(pattern) = text.parse::<IfPattern>() {
            let _ = pattern.matches(&other);
        }
        let _ = text.parse::<Mac>();
        if let Ok(spec) = text.parse::<PublishSpec>() {
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }
        let _ = parse_expose(&text);
        let _ = Filters::parse(Some(&text), &["name", "label"]);
        let _ = Filters::from_options(&[text.clone(), other], &["name", "label"]);
        if let Some(ports) = ReservedPorts::parse(&text) {
            prop_assert_eq!(ReservedPorts::parse(&ports.to_string()), Some(ports));
        }
    }

    #[test]
    fn no_json_makes_the_api_panic(body in json()) {
        let bytes = body.to_string();
        if let Ok(request) = serde_json::from_str::<NetworkCreateRequest>(&bytes) {
            let _ = CreateNetwork::try_from(request);
        }
        if let Ok(request) = serde_json::from_str::<ConnectRequest>(&bytes) {
            let _ = request.endpoint_config.parse("netA".into(), "connect");
        }
        if let Ok(request) = serde_json::from_str::<SandboxCreateRequest>(&bytes) {
            let _ = request.parse(&[]);
        }
        let _ = serde_json::from_str::<PublishRequest>(&bytes);
        let _ = Filters::parse(Some(&bytes), &["name", "label"]);
    }

    #[test]
    fn no_file_of_the_state_makes_a_start_panic(
        files in vec(("(meta|journal|networks/[0-9a-f]{64}|sandboxes/[0-9a-f]{64}|networks/x|sandboxes/\\.a)", prop_oneof![
            vec(any::<u8>(), 0..300),
            text().prop_map(String::into_bytes),
            json().prop_map(|body| format!(
                "{{\"kind\":\"sandbox\",\"schema\":1,\"length\":{},\"crc32\":\"00000000\",\"body\":{body}}}\n",
                body.to_string().len()
            ).into_bytes()),
        ]), 0..4)
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let (state, copies) = (dir.path().join("state"), dir.path().join("copies"));
        drop(Store::open(&state, &copies).expect("a fresh one"));
        for (name, content) in files {
            for ending in ["json", "json.prev"] {
                fs::write(state.join(format!("{name}.{ending}")), &content).expect("a damaged file");
            }
        }
        let mut store = Store::open(&state, &copies).expect("it starts");
        let loaded = store.load().expect("it loads");
        prop_assert!(loaded.networks.is_empty() && loaded.sandboxes.is_empty(), "nothing of it is believed");
    }

    #[test]
    fn no_file_of_the_configuration_makes_a_start_panic(content in vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("netd.toml");
        fs::write(&path, content).expect("a file");
        let _ = Settings::load(&Flags { config: Some(path), ..Flags::default() });
    }
}

#[test]
fn the_generators_reach_what_they_are_meant_for() {
    let body =
        r#"{"Name":"x","Publish":["80"],"Networks":[{"Network":"netA","Endpoint":{"Aliases":["a"]}}]}"#;
    let request: SandboxCreateRequest = serde_json::from_str(body).expect("a request");
    assert!(request.parse(&[]).is_ok());
    assert!("8080:80/tcp,allow=10.0.0.0/8".parse::<PublishSpec>().is_ok());
}
