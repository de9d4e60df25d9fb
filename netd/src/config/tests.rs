use std::time::Duration;

use super::*;

const MOUNTS: &str = "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

fn settings(text: &str) -> Result<Settings, String> {
    merged(&Flags::default(), text)
}

fn merged(flags: &Flags, text: &str) -> Result<Settings, String> {
    let file = File::parse(text).map_err(|fault| format!("{}: {}", fault.line, fault.why))?;
    Settings::merge(flags, file, MOUNTS).map_err(|error| error.to_string())
}

#[test]
fn without_a_file_everything_has_its_documented_value() {
    let settings = settings("").expect("valid");
    assert_eq!(settings.state_dir, Path::new("/var/lib/netd"));
    assert_eq!(settings.run_dir, Path::new("/run/netd"));
    assert_eq!(settings.bpffs, Path::new("/sys/fs/bpf/netd"));
    assert_eq!(settings.cgroup, Path::new("/sys/fs/cgroup"));
    assert_eq!((settings.instance.as_str(), settings.log_format), ("default", LogFormat::Text));
    assert_eq!(settings.flow_entries, flow_entries(memory()));
    assert_eq!(settings.flow_entries_per_endpoint, settings.flow_entries / 2);
    assert_eq!(settings.nat_port_ranges, [(10_000, 32_767), (61_000, 65_535)]);
    assert_eq!(settings.timeouts, Timeouts::default());
    assert_eq!(settings.default_pools, docker_default_pools());
    assert!(settings.uplinks.is_empty() && settings.default_bridge.pools.is_empty());
}

#[test]
fn the_file_overrides_and_flags_override_the_file() {
    let text = r#"
        instance = "blue"
        state-dir = "/tmp/state"
        run-dir = "/tmp/run"
        uplinks = ["eth0"]
        log-format = "json"
        attach = "tc"
        dns = ["192.0.2.53"]
        dns-search = ["example.org"]
        default-address-pools = [{ base = "10.8.0.0/16", size = 24 }, { base = "fd00:8::/48", size = 64 }]
        [flows]
        entries = 64
        per_endpoint = 16
        [nat]
        port_range = "20000-20003"
        exclude_ports = "20001, 30000-30009"
        [timeouts]
        udp = 0.25
        tcp_established = 10
        [default-network-opts.bridge]
        "com.docker.network.driver.mtu" = "1400"
    "#;
    let from_file = settings(text).expect("valid");
    assert_eq!((from_file.instance.as_str(), from_file.log_format), ("blue", LogFormat::Json));
    assert_eq!((from_file.flow_entries, from_file.flow_entries_per_endpoint), (64, 16));
    assert_eq!(from_file.nat_port_ranges, [(20_000, 20_003)]);
    assert_eq!(from_file.nat_excluded_ports, [(20_001, 20_001), (30_000, 30_009)]);
    assert_eq!(from_file.timeouts.udp, Duration::from_millis(250));
    assert_eq!(from_file.timeouts.tcp_established, Duration::from_secs(10));
    assert_eq!(from_file.timeouts.udp_replied, Duration::from_mins(2));
    assert_eq!((from_file.attach, from_file.default_pools.len()), (AttachMode::Tc, 2));
    assert_eq!(from_file.network_options["com.docker.network.driver.mtu"], "1400");
    assert_eq!(from_file.dns.servers, ["192.0.2.53".parse::<IpAddr>().expect("an address")]);

    let flags = Flags {
        instance: Some("green".into()),
        state_dir: Some("/flag".into()),
        cgroup: Some("/cg".into()),
        uplinks: vec!["wan0".parse().expect("a name")],
        log_format: Some(LogFormat::Text),
        ..Flags::default()
    };
    let merged = merged(&flags, text).expect("valid");
    assert_eq!((merged.instance.as_str(), merged.log_format), ("green", LogFormat::Text));
    assert_eq!((merged.state_dir.as_path(), merged.cgroup.as_path()), (Path::new("/flag"), Path::new("/cg")));
    assert_eq!(merged.run_dir, Path::new("/tmp/run"));
    assert_eq!(merged.uplinks, ["wan0".parse().expect("a name")]);
}

#[test]
fn the_flow_table_grows_with_the_hosts_memory() {
    let gibibytes = |count: u64| flow_entries(count << 30);
    assert_eq!([0, 1, 16, 24, 31].map(gibibytes), [262_144; 5]);
    assert_eq!([32, 63, 64, 256, 1024].map(gibibytes), [524_288, 524_288, 1_048_576, 4_194_304, 4_194_304]);
    assert_eq!(flow_entries(u64::MAX), 4_194_304);
}

#[test]
fn dockers_keys_shape_the_default_network() {
    let text = r#"
        bip = "192.168.7.1/24"
        fixed-cidr = "192.168.7.128/25"
        default-gateway = "192.168.7.254"
        fixed-cidr-v6 = "fd00:7::/64"
        icc = false
        ip = "127.0.0.1"
        ip-masq = false
        ipv6 = true
        mtu = 1400
    "#;
    let bridge = settings(text).expect("valid").default_bridge;
    let [v4, v6] = bridge.pools.as_slice() else { panic!("two pools: {:?}", bridge.pools) };
    assert_eq!(v4.subnet.map(|net| net.to_string()).as_deref(), Some("192.168.7.0/24"));
    assert_eq!(v4.gateway, Some("192.168.7.1".parse().expect("an address")));
    assert_eq!(v4.ip_range.map(|net| net.to_string()).as_deref(), Some("192.168.7.128/25"));
    assert_eq!(v4.aux["DefaultGatewayIPv4"], "192.168.7.254".parse::<IpAddr>().expect("an address"));
    assert_eq!(v6.subnet.map(|net| net.to_string()).as_deref(), Some("fd00:7::/64"));
    assert_eq!((v6.ip_range, v6.gateway), (None, None));
    assert_eq!(bridge.options["com.docker.network.bridge.enable_icc"], "false");
    assert_eq!(bridge.options["com.docker.network.bridge.enable_ip_masquerade"], "false");
    assert_eq!(bridge.options["com.docker.network.bridge.host_binding_ipv4"], "127.0.0.1");
    assert_eq!(bridge.options["com.docker.network.driver.mtu"], "1400");
    assert_eq!(bridge.ipv6, Some(true));
}

#[test]
fn direct_access_has_dockers_keys() {
    assert_eq!(settings("").expect("valid").direct, DirectAccess::default(), "nobody");
    let text = "allow-direct-routing = true\nbridge-accept-fwmark = \"0x10/0xf0\"";
    let direct = settings(text).expect("valid").dataplane().direct;
    assert_eq!(direct, DirectAccess { routing: true, mark: Some((0x10, 0xf0)) });
}

#[test]
fn the_hosts_rules_and_the_place_among_others_are_settings() {
    let usual = settings("").expect("valid").dataplane();
    assert_eq!((usual.respect_host_firewall, usual.tcx_order), (false, TcxOrder::Last));
    let text = "[publish]\nrespect_host_firewall = true\n[dataplane]\ntcx_order = \"first\"";
    let set = settings(text).expect("valid").dataplane();
    assert_eq!((set.respect_host_firewall, set.tcx_order), (true, TcxOrder::First));
}

#[test]
fn uplinks_have_guards_where_the_operator_wants_them() {
    assert_eq!(settings("").expect("valid").dataplane().guard, Guard::default(), "nowhere");
    let text = r#"
        [guard]
        interfaces = ["eth0", "eth1"]
        deny = ["192.0.2.7", "2001:db8::/32"]
        connections_per_second = 100
    "#;
    let guard = settings(text).expect("valid").dataplane().guard;
    assert!(guard.includes("eth1") && !guard.includes("eth2"));
    assert_eq!(
        guard.deny.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["192.0.2.7/32", "2001:db8::/32"]
    );
    assert_eq!(guard.connections_per_second, 100);
}

#[test]
fn the_documentation_has_every_key_and_its_example_is_valid() {
    let page = include_str!("../../docs/configuration.md");
    let (_, example) = page.split_once("```toml\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    File::parse(example).expect("valid");
    // Whoever misspells a key is told all that there are.
    for table in ["", "flows", "nat", "publish", "dataplane", "guard", "api", "audit", "timeouts"] {
        let wrong = if table.is_empty() { "colour = 1".to_owned() } else { format!("[{table}]\ncolour = 1") };
        let why = File::parse(&wrong).expect_err("no such key").why;
        let (_, known) = why.split_once("expected").expect("what is known");
        for key in known.split('`').skip(1).step_by(2) {
            let is_there =
                |line: &str| line.starts_with(&format!("{key} = ")) || line.starts_with(&format!("[{key}"));
            assert!(example.lines().any(is_there), "{key} of [{table}] is not documented");
        }
    }
}

#[test]
fn mistakes_name_the_line_and_the_key() {
    for (text, start) in [
        ("\n\ncolour = 1", "3: unknown key `colour`, expected one of"),
        (
            "[guard]\ndeny = [\"10.0.0.1/8\"]",
            "2: deny: invalid source \"10.0.0.1/8\": it should be 10.0.0.0/8",
        ),
        ("[guard]\ndeny = [\"nobody\"]", "2: deny: invalid source"),
        (
            "[guard]\nconnections_per_second = 0",
            "2: connections_per_second: invalid rate 0: it is 1 to 1000000",
        ),
        ("[guard]\ninterface = [\"eth0\"]", "2: unknown key `interface`"),
        ("[audit]\nfile_size = 1", "2: file_size: invalid size 1: it is 4096 to 67108864 bytes"),
        ("[api]\nchanges_per_minute = 0", "2: changes_per_minute: "),
        ("[audit]\nfiles = 0", "2: files: invalid number 0: it is 1 to 1000"),
        ("[flows]\nsize = 1", "2: unknown key `size`, expected `entries` or `per_endpoint`"),
        ("[timeouts]\nudp = 1\nsctp = 2", "3: unknown key `sctp`"),
        ("bridge-accept-fwmark = \"1/0\"", "1: bridge-accept-fwmark: invalid firewall mark"),
        ("[timeouts]\nudp = 0", "2: udp: 0 is no timeout"),
        ("[timeouts]\nudp = -1", "2: udp: -1 is no timeout"),
        ("[timeouts]\nudp = nan", "2: udp: NaN is no timeout"),
        ("[timeouts]\nudp = \"1s\"", "2: udp: invalid type: string \"1s\", expected f64"),
        ("[flows]\nentries = 1", "2: entries: 1 entries: it is 2 to 4194304"),
        ("[nat]\nport_range = \"x\"", "2: port_range: invalid port range \"x\": it is written LOW-HIGH"),
        ("mtu = 1", "1: mtu: invalid MTU number: 1"),
        ("dns = [\"localhost\"]", "1: dns: "),
        ("bip = \"10.0.0.1\"", "1: bip: "),
        ("uplinks = [\"a/b\"]", "1: uplinks: invalid interface name"),
        ("log-format = \"xml\"", "1: log-format: "),
        ("attach = \"xdp\"", "1: attach: "),
        (
            "[dataplane]\ntcx_order = \"middle\"",
            "2: tcx_order: unknown variant `middle`, expected `last` or `first`",
        ),
        ("[publish]\nrespect_host_firewall = 1", "2: respect_host_firewall: "),
        (
            "default-address-pools = [{ base = \"10.0.0.0/16\", size = 8 }]",
            "1: default-address-pools: invalid size 8",
        ),
        ("x = [", "1: "),
        ("a = 1\na = 2", "2: "),
        ("bip = \"10.0.0.0/24\"", "bip: 10.0.0.0/24 is a subnet; give the bridge's address in it"),
        (
            "bip = \"10.0.0.1/24\"\nfixed-cidr = \"fd00::/64\"",
            "fixed-cidr: fd00::/64 is of another family than bip",
        ),
        ("instance = \"a b\"", "instance: invalid name \"a b\""),
    ] {
        let error = settings(text).expect_err(text);
        assert!(error.starts_with(start), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_missing_file_or_hierarchy_is_named() {
    let flags = Flags { config: Some("/does/not/exist.toml".into()), ..Flags::default() };
    let error = Settings::load(&flags).expect_err("no file").to_string();
    assert!(error.starts_with("cannot read /does/not/exist.toml"), "{error}");
    let error = Settings::merge(&Flags::default(), File::default(), "").expect_err("no cgroup2");
    assert!(matches!(error, Error::NoCgroup), "{error}");
}

#[test]
fn a_configuration_file_has_at_most_a_mebibyte() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("netd.toml");
    let with = |length: usize| fs::write(&path, format!("#{}\n", "x".repeat(length - 2))).expect("write");
    with(1 << 20);
    assert!(read_file(&path).is_ok());
    with((1 << 20) + 1);
    assert!(
        read_file(&path).err().is_some_and(|error| error.to_string().contains("longer than 1048576 bytes"))
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_configuration_panic(
        text in "(flows|nat|timeouts|dns|mtu|bip|attach|uplinks|default-address-pools|bridge-accept-fwmark|[a-z-]{0,8})( = |\\.|\n|\\[|\\]|\"[0-9a-f:./x-]{0,16}\"|[0-9-]{1,12}|true|\\{|\\}){0,12}|(?s).{0,200}"
    ) {
        if let Ok(file) = File::parse(&text) {
            let _ = Settings::merge(&Flags::default(), file, MOUNTS);
        }
    }
}
