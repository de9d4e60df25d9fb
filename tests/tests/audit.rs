//! Rung: namespaces. The audit log: who changed what, in files that show a line that somebody has changed (reliability 8.5, F31).

use std::{
    fs,
    path::{Path, PathBuf},
};

use netd_tests::{Lab, Options, eventually};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use serde_json::{Value, json};

fn directory(lab: &Lab) -> PathBuf {
    lab.daemon.dirs().path("state/audit")
}

fn present(lab: &Lab) -> PathBuf {
    directory(lab).join("log.jsonl")
}

/// The lines of the present file, as soon as there are so many.
fn lines(lab: &Lab, count: usize) -> Vec<Value> {
    let read = || fs::read_to_string(present(lab)).unwrap_or_default();
    eventually("the records", || read().lines().count() >= count);
    let lines: Vec<Value> = read().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

/// What `netd debug audit` says of a file or directory.
fn check(lab: &Lab, path: &Path) -> Value {
    lab.netd(&["debug", "audit", "--format", "json", path.to_str().expect("UTF-8")]).json()
}

#[test]
fn every_change_is_written_down_with_caller_objects_and_outcome_and_looks_are_not() {
    let lab = Lab::new();
    let id = lab.netd(&["network", "create", "app"]).ok();
    lab.netd(&["network", "ls"]).ok();
    lab.netd(&["sandbox", "create", "web"]).ok();
    lab.netd(&["network", "connect", "app", "web"]).ok();
    lab.netd(&["network", "rm", "app"]).refused(4);
    lab.netd(&["network", "rm", "nope"]).refused(3);
    let lines = lines(&lab, 5);
    let sandbox =
        lab.netd(&["sandbox", "inspect", "web"]).json()[0]["Id"].as_str().expect("an id").to_owned();
    let (network, sandbox) = (format!("network:{id}"), format!("sandbox:{sandbox}"));
    for (line, wanted) in lines.iter().zip([
        json!(["network create", ["network:app", network], "OK", 201]),
        json!(["sandbox create", ["sandbox:web", sandbox], "OK", 201]),
        json!(["network connect", [network, sandbox], "OK", 200]),
        json!(["network rm", [network], "FORBIDDEN", 403]),
        json!(["network rm", ["network:nope"], "NOT_FOUND", 404]),
    ]) {
        assert_eq!(json!([line["verb"], line["objects"], line["code"], line["status"]]), wanted);
        assert_eq!((&line["uid"], &line["gid"]), (&json!(0), &json!(0)));
        assert!(line["executable"].as_str().is_some_and(|path| path.ends_with("/netd")), "{line}");
        assert!(line["cgroup"].as_str().is_some_and(|path| path.starts_with('/')), "{line}");
        assert!(line["pid"].as_u64() > Some(0) && line["duration"].as_u64() > Some(0), "{line}");
        let op = line["op"].as_str().expect("an id");
        assert!(lab.daemon.log().contains(op), "{op} stands in the daemon's messages, too");
    }
    let clock = |line: &Value| (line["time"].as_str().map(str::to_owned), line["monotonic"].as_i64());
    assert!(lines.is_sorted_by_key(clock), "{lines:#?}");
    let metrics = lab.netd(&["metrics"]).ok();
    assert!(metrics.contains("netd_audit_records_total 5\n"), "{metrics}");
    assert!(metrics.contains("netd_audit_lost_total 0\n"), "{metrics}");
}

#[test]
fn the_chain_goes_on_over_kills_and_files_and_tells_what_was_changed_from_what_a_power_cut_left() {
    let config = "[audit]\nfile_size = 4096\nfiles = 3\n";
    let mut lab = Lab::with(&Options { config: config.to_owned(), ..Options::default() });
    for number in 0..30 {
        lab.netd(&["network", "rm", &format!("nope{number}")]).refused(3);
        if number % 10 == 9 {
            lab.daemon.end(Signal::SIGKILL);
            lab.daemon.restart();
        }
    }
    let files = check(&lab, &directory(&lab));
    let files = files.as_array().expect("a list");
    assert_eq!(files.len(), 3, "{files:#?}");
    assert!(files.iter().all(|file| file["Records"].as_u64() > Some(0)), "{files:#?}");
    // A full one; the last may hold a single record.
    let count = files[1]["Records"].as_u64().filter(|count| *count > 2).expect("some records");
    let text = fs::read_to_string(directory(&lab).join("log.jsonl.1")).expect("the log");
    let kept = lab.daemon.dirs().path("copy.jsonl");
    let copy = kept.to_str().expect("UTF-8");
    let refused = |text: &str| {
        fs::write(&kept, text).expect("a copy");
        lab.netd(&["debug", "audit", copy]).refused(1)
    };
    let said = refused(&text.replacen("NOT_FOUND", "OK", 1));
    assert!(said.contains("copy.jsonl:1: its hash is another one: it was changed"), "{said}");
    let lines = text.lines().enumerate().filter(|(at, _)| *at != 1).map(|(_, line)| line);
    let without_second = lines.collect::<Vec<_>>().join("\n");
    let said = refused(&without_second);
    assert!(said.contains("copy.jsonl:2: record") && said.contains("others are missing"), "{said}");
    fs::write(&kept, &text[..text.len() - 20]).expect("a copy");
    let cut = check(&lab, &kept);
    assert_eq!((&cut[0]["Records"], &cut[0]["Incomplete"]), (&json!(count - 1), &json!(count)));
    // The control: the log itself is as it was written.
    fs::write(&kept, &text).expect("a copy");
    assert_eq!(check(&lab, &kept)[0]["Records"], json!(count));
}

#[test]
fn the_log_is_found_where_the_daemons_options_and_its_configuration_say() {
    let mut lab = Lab::new();
    lab.netd(&["network", "create", "app"]).ok();
    lines(&lab, 1);
    let dirs = lab.daemon.dirs();
    let (options, log) = (dirs.options(), present(&lab));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let config = dirs.path("places.toml");
    let text = format!("state-dir = {:?}\nrun-dir = {:?}\n", dirs.path("state"), dirs.run());
    fs::write(&config, text).expect("a configuration");
    let configured = ["--config", config.to_str().expect("UTF-8")];
    let asked = |lab: &Lab, place: &[&str]| {
        lab.netd(&[&["debug", "audit", "--format", "{{.File}} {{.Records}}"], place].concat())
    };
    for place in [&options[..], &configured] {
        assert_eq!(asked(&lab, place).ok(), format!("{} 1", log.display()), "{place:?}");
    }
    // Another instance's log is not taken for this one's.
    let said = asked(&lab, &[]).refused(2);
    assert!(said.contains("is not this instance's socket"), "{said}");
    lab.daemon.end(Signal::SIGKILL);
    assert_eq!(asked(&lab, &configured).ok(), format!("{} 1", log.display()));
    lab.daemon.restart();
}

#[test]
fn f31_a_full_disk_under_the_log_delays_and_fails_no_call() {
    let lab = Lab::new();
    let at = directory(&lab);
    lab.netd(&["network", "create", "app"]).ok();
    lines(&lab, 1);
    fs::remove_dir_all(&at).expect("removes");
    fs::create_dir(&at).expect("makes");
    mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some("size=16k,mode=0700"))
        .expect("a small disk");
    let disk = Unmount(at.clone());
    fs::write(at.join("filler"), vec![0; 1 << 20]).expect_err("the disk is full");
    for number in 0..3 {
        lab.netd(&["network", "create", &format!("n{number}")]).ok();
    }
    let status = || lab.netd(&["status", "--format", "json"]).json();
    eventually("the lost records to be counted", || status()["Audit"]["Lost"] == 3);
    let state = status()["State"].as_str().expect("a state").to_owned();
    assert!(
        state.starts_with("degraded: the audit log cannot be written (No space left on device"),
        "{state}"
    );
    assert!(lab.netd(&["metrics"]).ok().contains("netd_audit_lost_total 3\n"));
    let told = lab.daemon.log().matches("the audit log cannot be written").count();
    assert_eq!(told, 1, "said once");
    // The control: with room, it is written again, and says what is missing.
    fs::remove_file(at.join("filler")).expect("frees the disk");
    lab.netd(&["network", "rm", "n0"]).ok();
    let line = &lines(&lab, 1)[0];
    assert_eq!((&line["verb"], &line["lost"]), (&json!("network rm"), &json!(3)));
    eventually("a daemon that is ready", || status()["State"] == "ready");
    assert_eq!(check(&lab, &at)[0]["Lost"], 3);
    drop(disk);
}

/// Unmounts on drop.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
