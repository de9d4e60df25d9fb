//! Rung: namespaces, reliability P1, P2, F2, F3, S21; dataplane §12 cases 100 and 101. Probes and attackers go on while the daemon is ended in every way, stopped, and
//! started again and again: nothing is lost, nothing is reset, nobody gets in.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use netd_tests::{
    Family, H, Lab, Options, Outcome, Proto, Random, at,
    probe::Kind,
    rig::{Rig, World},
};
use nix::sys::signal::Signal;

#[test]
fn case100_whatever_ends_or_stops_the_daemon_nothing_is_lost_reset_or_let_in() {
    let mut w = World::new(&Options { config: String::new(), ..Options::default() });
    let rig = Rig::start(&w, Kind::New);
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT, Signal::SIGABRT] {
        w.lab.daemon.end(signal);
        rig.beat();
        w.lab.daemon.restart();
        rig.beat();
    }
    // Stopped, as by a debugger or a freezer: traffic needs nobody.
    w.lab.daemon.signal(Signal::SIGSTOP);
    rig.beat();
    w.lab.daemon.signal(Signal::SIGCONT);
    w.lab.netd(&["network", "ls"]).ok();
    w.lab.daemon.end(Signal::SIGKILL);
    // A panic in the middle of an operation, which the daemon survives; and one that takes it along.
    w.lab.daemon.restart_with(&[("NETD_FAILPOINTS", "publish.put.before=panic;up.put.after=abort")]);
    let publish = ["sandbox", "create", "--network", "netA", "-p", "8090:80", "op"];
    assert_ne!(w.lab.netd(&publish).code, 0, "the failpoint was reached");
    rig.beat();
    w.lab.netd(&["network", "ls"]).ok();
    assert_ne!(w.lab.netd(&["sandbox", "create", "--network", "netA", "op"]).code, 0);
    w.lab.daemon.end(Signal::SIGKILL);
    rig.beat();
    w.lab.daemon.restart();
    rig.beat();
    w.lab.netd(&publish).ok();
    rig.finish("signals");
}

/// Ids of what the daemon pinned: the same ones after any number of starts.
fn pinned(lab: &Lab) -> BTreeSet<String> {
    lab.until_promoted();
    lab.daemon.dirs().leftovers().into_iter().filter(|path| path.starts_with("/sys/fs/bpf")).collect()
}

/// `NETD_RESTARTS=100` makes it the hundred of F3.
#[test]
fn case101_restart_after_restart_killed_at_any_moment_of_its_start_loses_nothing_and_lets_nobody_in() {
    let rounds: u32 = std::env::var("NETD_RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let mut w = World::new(&Options { config: String::new(), ..Options::default() });
    let rig = Rig::start(&w, Kind::New);
    let pins = pinned(&w.lab);
    for round in 0..rounds {
        w.lab.daemon.end(Signal::SIGKILL);
        w.lab.daemon.launch(&[]);
        // Somewhere in its start; that it takes longer on a slow machine spreads the moments more.
        thread::sleep(Duration::from_millis(u64::from(round) * 700 / u64::from(rounds)));
        w.lab.daemon.end(Signal::SIGKILL);
        w.lab.daemon.restart();
        rig.beat();
    }
    assert_eq!(pinned(&w.lab), pins, "pins came or went");
    // The kernel still refuses the host's own processes the port, and everything can be changed.
    assert_eq!(w.lab.r.attempt(Proto::Tcp, at(H.v4, 8081)), Outcome::Refused);
    w.lab.netd(&["publish", "a1", "8081:80"]).ok();
    w.lab.r.reach(Proto::Tcp, at(H.v4, 8081));
    rig.finish("restarts");
}

/// As often as that in so little time, whether the daemon has come to its end or not: `cargo xtask soak --restarts 100 --within 60`.
#[test]
#[ignore = "takes a minute and a machine of its own: `cargo xtask soak --restarts 100`"]
fn f3_a_hundred_restarts_in_a_minute_lose_nothing_and_let_nobody_in() {
    let number = |name: &str, usual: u32| {
        std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
    };
    let restarts = number("NETD_RESTARTS", 100);
    let within = Duration::from_secs(number("NETD_RESTARTS_WITHIN", 60).into());
    let mut random = Random::new(number("NETD_SOAK_SEED", 1).into());
    let mut w = World::new(&Options { config: String::new(), ..Options::default() });
    let rig = Rig::start(&w, Kind::New);
    let pins = pinned(&w.lab);
    w.lab.daemon.end(Signal::SIGKILL);
    let (began, mut ready) = (Instant::now(), 0);
    for number in 1..=restarts {
        w.lab.daemon.launch(&[]);
        // Each has its share of the time, and is killed at any moment of it.
        let share = within * number / restarts;
        let left = share.saturating_sub(began.elapsed());
        thread::sleep(left * u32::try_from(random.between(0, 100)).expect("a percentage") / 100);
        ready += u32::from(w.lab.daemon.answers());
        w.lab.daemon.end(Signal::SIGKILL);
        thread::sleep(share.saturating_sub(began.elapsed()));
    }
    let took = began.elapsed();
    rig.beat();
    w.lab.daemon.restart();
    rig.beat();
    eprintln!("{restarts} starts in {took:.1?}, {ready} of them ready when they were killed");
    assert_eq!(pinned(&w.lab), pins, "pins came or went");
    w.lab.netd(&["publish", "a1", "8081:80"]).ok();
    w.lab.r.reach(Proto::Tcp, at(H.v4, 8081));
    rig.finish("restarts in a minute");
}

/// Directories of pins, each with its own layout.
fn layouts(lab: &Lab) -> Vec<PathBuf> {
    let entries = fs::read_dir(lab.daemon.dirs().bpffs()).expect("the instance's pins").flatten();
    entries.map(|entry| entry.path()).collect()
}

/// A start with another configuration, or for another layout of every map; how often it is killed on its way before; whether nobody has seen that
/// layout yet.
type Change<'a> = (&'a str, &'a str, u64, bool);

/// Upgrade and rollback: another layout for every map, another size of the flow tables, and back.
fn changes_of_layout(usual: &str, changes: &[Change<'_>]) {
    let mut w = World::new(&Options { config: usual.to_owned(), ..Options::default() });
    let rig = Rig::start(&w, Kind::Connections);
    let mut seen = BTreeSet::from([layouts(&w.lab)]);
    for &(config, salt, kills, new) in changes {
        w.lab.daemon.end(Signal::SIGTERM);
        w.lab.daemon.configure(config);
        let environment = [("NETD_LAYOUT_SALT", salt)];
        for kill in 1..=kills {
            w.lab.daemon.launch(&environment);
            thread::sleep(Duration::from_millis(700 * kill));
            w.lab.daemon.end(Signal::SIGKILL);
            rig.beat();
        }
        w.lab.daemon.restart_with(&environment);
        rig.beat();
        let now = layouts(&w.lab);
        assert_eq!(now.len(), 1, "the layout before is gone: {now:?}");
        assert_eq!(seen.insert(now), new, "{config} {salt}");
        for family in Family::BOTH {
            assert_eq!(w.lab.r.attempt(Proto::Tcp, at(H.ip(family), 8081)), Outcome::Refused);
        }
    }
    w.lab.netd(&["publish", "a1", "8081:80"]).ok();
    w.lab.r.reach(Proto::Tcp, at(H.v4, 8081));
    rig.finish("changes of layout");
}

#[test]
fn flows_outlive_upgrade_and_rollback_to_other_map_layouts() {
    let (usual, large) = ("[flows]\nentries = 65536\n", "[flows]\nentries = 131072\n");
    let changes =
        [(usual, "next", 0, true), (usual, "", 1, false), (large, "", 0, true), (usual, "", 0, false)];
    changes_of_layout(usual, &changes);
}

#[test]
fn flows_outlive_other_map_layouts_where_programs_are_filters() {
    let usual = "attach = \"tc\"\n[flows]\nentries = 65536\n";
    changes_of_layout(usual, &[(usual, "next", 0, true), (usual, "", 0, false)]);
}
