//! Rung: namespaces. What the maps hold after calls that fail or that know little.

use std::{collections::BTreeSet, path::Path, thread};

use aya::maps::{Array, Map, MapData};
use netd_common::maps::{capacity, endpoint_flags};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::*;
use crate::model::{GatewayMode, HairpinSource, Protocol, Sources};

/// Runs a test on a thread with namespaces of its own and a bpffs that nobody else sees.
fn with_bpffs(test: impl FnOnce(&Path) + Send + 'static) {
    let dir = tempfile::tempdir().expect("directory");
    let at = dir.path().to_owned();
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        mount(Some("bpf"), &at, Some("bpf"), MsFlags::empty(), none).expect("bpffs");
        // The mount ends with the thread, and the pins with the mount.
        test(&at.join("netd"));
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn open(bpffs: &Path) -> Kernel {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 mount");
    let settings = Settings {
        bpffs: bpffs.to_owned(),
        cgroup: line.split(' ').nth(4).expect("a mount point").into(),
        flow_entries: 64,
        flow_entries_per_endpoint: 64,
        nat_excluded_ports: Vec::new(),
        nat_port_ranges: vec![(20_000, 20_009)],
        timeouts: super::super::Timeouts::default(),
        attach: AttachMode::Auto,
        tcx_order: super::super::TcxOrder::Last,
        direct: super::super::DirectAccess::default(),
        respect_host_firewall: false,
        guard: super::super::Guard::default(),
    };
    Kernel::open(settings).expect("programs load")
}

fn guard(host_ip: &str, ports: impl Iterator<Item = u16>, protocol: Protocol) -> Vec<PublishEntry> {
    let host_ip: IpAddr = host_ip.parse().expect("an address");
    let entry = |host_port| PublishEntry {
        host_ip,
        host_port,
        protocol,
        backend: host_ip,
        backend_port: 0,
        allow: Sources::default(),
        ifindex: 0,
    };
    ports.map(entry).collect()
}

fn network(index: u16, ipv4: Option<&str>, ipv6: Option<&str>) -> NetworkEntry {
    NetworkEntry {
        index,
        bridge: 7,
        bridge_mac: Mac([2, 0, 0, 0, 0, 1]),
        ipv4: ipv4.map(|net| (net.parse().expect("a prefix"), None)),
        ipv6: ipv6.map(|net| (net.parse().expect("a prefix"), None)),
        icc: true,
        internal: false,
        masquerade: true,
        gateway_mode_ipv4: GatewayMode::Nat,
        gateway_mode_ipv6: GatewayMode::Nat,
        trusts: false,
        host_ipv4: None,
        host_ipv6: None,
        host_closed: false,
        hairpin_source: HairpinSource::Auto,
        any_source: false,
        own_bridge: true,
    }
}

#[test]
fn ports_that_find_no_room_leave_nothing_behind() {
    with_bpffs(|bpffs| {
        let mut kernel = open(bpffs);
        let every = |ip, protocol| guard(ip, 1..=u16::MAX, protocol);
        let first = [every("0.0.0.0", Protocol::Tcp), every("0.0.0.0", Protocol::Udp)].concat();
        kernel.guard_ports(&first).expect("room for every port once");
        let room = capacity::PUBLISH as usize - first.len();
        let more = |count: usize| {
            let ports = (1..).take(count);
            let both =
                [guard("10.0.0.1", ports.clone(), Protocol::Tcp), guard("fd00::1", ports, Protocol::Tcp)];
            both.concat()
        };
        let held = |kernel: &mut Kernel| -> BTreeSet<String> {
            let inventory = kernel.inventory().expect("listed");
            inventory.publishes.iter().map(|entry| format!("{entry:?}")).collect()
        };
        let (before, reserved) = (held(&mut kernel), kernel.reserved.clone());
        let sets: Vec<_> = kernel.maps.port_sets().expect("read").iter().map(|set| set.0).collect();

        let error = kernel.guard_ports(&more(room + 1)).expect_err("full");
        assert!(matches!(error, Error::Limit(_)), "{error:?}");
        assert!(held(&mut kernel) == before, "entries were left");
        assert!(kernel.reserved == reserved, "counts changed");
        let now: Vec<_> = kernel.maps.port_sets().expect("read").iter().map(|set| set.0).collect();
        assert!(now == sets, "ports stay reserved");

        kernel.guard_ports(&more(room)).expect("the room is still there");
        kernel.release_ports(&more(room)).expect("released");
        assert!(held(&mut kernel) == before && kernel.reserved == reserved);
    });
}

#[test]
fn ports_whose_set_the_kernel_does_not_take_are_guarded_as_before() {
    with_bpffs(|bpffs| {
        let mut kernel = open(bpffs);
        let pins = kernel.links.parent().expect("the pins").to_owned();
        let array = |fd| Array::try_from(Map::Array(MapData::from_fd(fd).expect("a map"))).expect("an array");
        let old = guard("0.0.0.0", 80..=81, Protocol::Tcp);
        let new = [guard("0.0.0.0", 81..=82, Protocol::Udp), guard("::", 90..=91, Protocol::Tcp)].concat();
        kernel.guard_ports(&old).expect("guarded");
        let state = |kernel: &mut Kernel| {
            let mut entries: Vec<_> = kernel
                .inventory()
                .expect("listed")
                .publishes
                .iter()
                .map(|entry| format!("{entry:?}"))
                .collect();
            entries.sort();
            let sets: Vec<_> = kernel.maps.port_sets().expect("read").iter().map(|set| set.0).collect();
            let known: Vec<_> = kernel.sets.iter().map(|set| set.0).collect();
            assert!(sets == known, "the sets are other ones than the kernel's");
            (entries, sets, kernel.reserved.clone())
        };
        let before = state(&mut kernel);
        let readonly = array(raw::open_pin_readonly(&pins.join("PORTS")).expect("opened"));
        let usual = std::mem::replace(&mut kernel.maps.ports, readonly);
        kernel.guard_ports(&new).expect_err("refused");
        assert!(state(&mut kernel) == before, "something was left");
        kernel.release_ports(&old).expect_err("refused");
        // What the caller does then.
        kernel.guard_ports(&old).expect("nothing of the sets has changed");
        assert!(state(&mut kernel) == before, "undone, but not as before");
        kernel.maps.ports = usual;
        kernel.guard_ports(&new).expect("guarded");
        kernel.release_ports(&new).expect("released");
        assert!(state(&mut kernel) == before, "the counts are wrong");
        kernel.release_ports(&old).expect("released");
        assert!(kernel.reserved.is_empty() && kernel.inventory().expect("listed").publishes.is_empty());
    });
}

#[test]
fn a_network_goes_with_every_prefix_of_its_slot() {
    with_bpffs(|bpffs| {
        let mut kernel = open(bpffs);
        kernel.put_network(&network(1, Some("10.1.0.0/16"), Some("fd00:1::/64"))).expect("written");
        let other = network(2, Some("10.2.0.0/16"), None);
        kernel.put_network(&other).expect("written");
        let subnets = |kernel: &Kernel| {
            let mut all: Vec<_> = kernel
                .read_subnets()
                .expect("listed")
                .iter()
                .map(|(net, slot)| format!("{net} {slot}"))
                .collect();
            all.sort();
            all
        };
        kernel.put_network(&network(1, Some("10.3.0.0/16"), Some("fd00:1::/64"))).expect("replaced");
        assert_eq!(subnets(&kernel), ["10.2.0.0/16 2", "10.3.0.0/16 1", "fd00:1::/64 1"]);
        // As a later daemon removes it, which knows no more than the slot.
        drop(kernel);
        let mut kernel = open(bpffs);
        kernel.remove_network(&network(1, None, None)).expect("removed");
        assert_eq!(subnets(&kernel), ["10.2.0.0/16 2"]);
        kernel.put_network(&other).expect("written again");
        assert_eq!(subnets(&kernel), ["10.2.0.0/16 2"]);
    });
}

/// Returns the kernel's number of each program that every host needs.
#[test]
fn a_link_that_is_made_again_leaves_no_record_of_the_one_before() {
    with_bpffs(|bpffs| {
        let mut kernel = open(bpffs);
        kernel.put_network(&network(1, Some("172.30.0.0/24"), Some("fd00:30::/64"))).expect("a network");
        let at = |ifindex, ipv4: &str, ipv6: &str| EndpointEntry {
            ifindex,
            network: 1,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            ipv4: Some(ipv4.parse().expect("an address")),
            ipv6: Some(ipv6.parse().expect("an address")),
        };
        let active = |kernel: &Kernel, ifindex| {
            kernel.endpoint(ifindex).expect("read").flags & endpoint_flags::ACTIVE != 0
        };
        kernel.put_endpoint(&at(7, "172.30.0.2", "fd00:30::2")).expect("put");
        kernel.put_endpoint(&at(8, "172.30.0.3", "fd00:30::3")).expect("put");
        // The daemon was killed before it removed the record of 7, whose link is gone.
        kernel.put_endpoint(&at(9, "172.30.0.2", "fd00:30::2")).expect("put");
        assert_eq!([7, 8, 9].map(|ifindex| active(&kernel, ifindex)), [false, true, true]);
        // Half-way through, an address of each family leads to either: the next daemon finds both.
        kernel.put_endpoint(&at(9, "172.30.0.2", "fd00:30::3")).expect("put");
        assert_eq!([8, 9].map(|ifindex| active(&kernel, ifindex)), [false, true]);
        let known: BTreeSet<u32> =
            kernel.inventory().expect("listed").endpoints.iter().map(|endpoint| endpoint.ifindex).collect();
        assert_eq!(known, [8, 9].into());
    });
}

fn programs(kernel: &mut Kernel) -> Vec<u32> {
    let all = ["from_endpoint", "to_endpoint", "from_uplink", "to_uplink"];
    all.map(|name| kernel.programs().packet(name).expect("loaded").info().expect("known").id()).to_vec()
}

/// Returns the pin of a program.
fn pin_of(bpffs: &Path, name: &str) -> PathBuf {
    let layout = fs::read_dir(bpffs).expect("listed").next().expect("a layout").expect("read").path();
    layout.join("programs").join(OBJECT_SHA256).join(name)
}

#[test]
fn programs_of_the_same_build_are_used_again_but_none_with_another_name_or_other_maps() {
    with_bpffs(|bpffs| {
        let first = programs(&mut open(bpffs));
        let foreign = pin_of(bpffs, "x").parent().expect("a directory").with_file_name("0123");
        fs::create_dir(&foreign).expect("as another build's");
        assert_eq!(programs(&mut open(bpffs)), first, "verified again");
        assert!(!foreign.exists(), "programs of another build are kept for nobody");

        let put = |from: PathBuf, name: &str| {
            fs::remove_file(pin_of(bpffs, name)).expect("pinned");
            let program = raw::open_pin(&from).expect("pinned");
            raw::pin(std::os::fd::AsFd::as_fd(&program), &pin_of(bpffs, name)).expect("pinned");
        };
        put(pin_of(bpffs, "to_endpoint"), "from_endpoint");
        let second = programs(&mut open(bpffs));
        assert!(!first.contains(&second[0]), "another program was taken for it");
        assert_eq!(second[1..], first[1..]);

        // In a namespace of its own, or it would take up the maps that live in this one.
        unshare(CloneFlags::CLONE_NEWNET).expect("root");
        let elsewhere = bpffs.with_file_name("elsewhere");
        let others = programs(&mut open(&elsewhere));
        put(pin_of(&elsewhere, "from_endpoint"), "from_endpoint");
        let third = programs(&mut open(bpffs));
        assert!(third[0] != others[0], "a program with other maps was taken");
        assert_eq!(programs(&mut open(bpffs)), third, "what was loaded instead is kept");
    });
}

#[test]
fn a_flow_that_came_to_life_after_the_look_is_not_removed() {
    with_bpffs(|bpffs| {
        let mut kernel = open(bpffs);
        let key = |port: u16| netd_common::maps::Tuple::<Addr4> {
            dport: port.into(),
            proto: 6,
            ..Default::default()
        };
        let seen = |last_seen| netd_common::maps::Flow::<Addr4> {
            last_seen,
            created: last_seen,
            ..Default::default()
        };
        let (now, long_ago) = (flows::now(), flows::now().wrapping_sub(1 << 30) | 1);
        for port in 1..=3 {
            kernel.maps.v4.flow.put(&key(port), &seen(if port == 3 { now } else { long_ago })).expect("room");
        }
        let look = kernel.look_for_garbage().expect("maps").expect("the first is due");
        let mut found = look.take().expect("a list");
        kernel.maps.v4.flow.put(&key(1), &seen(now)).expect("a packet");
        while kernel.collect_garbage(&mut found).expect("removed") {}
        let left = [1, 2, 3].map(|port| kernel.maps.v4.flow.get(&key(port)).expect("read").is_some());
        assert_eq!(left, [true, false, true]);
        assert!(kernel.look_for_garbage().expect("maps").is_none(), "again at once");
    });
}
