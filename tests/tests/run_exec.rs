//! Rung: namespaces. `netd run` and `netd exec`: exit codes, output, signals, terminal, name files.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use netd_tests::{Child, Family, H, Lab, PATIENCE, Proto, R, Server, at, binary};
use nix::{
    mount::{MntFlags, umount2},
    pty::openpty,
    sys::signal::Signal,
};

fn lab() -> Lab {
    let lab = Lab::new();
    lab.network("netA", 20, &[]);
    lab
}

#[test]
fn run_passes_output_and_exit_code_and_leaves_nothing() {
    let lab = lab();
    let before = lab.snapshot();
    for code in [0, 1, 7, 42] {
        let script = format!("echo out; echo err >&2; exit {code}");
        // With docker's -it, which changes nothing, and without a `--`.
        let run = lab.netd(&["run", "-it", "--rm", "--network", "netA", "sh", "-c", &script]);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (code, "out\n", "err\n"));
    }
    assert_eq!(lab.netd(&["sandbox", "ls", "-q"]).ok(), "");
    before.assert_unchanged(&lab.snapshot(), "run --rm");
}

#[test]
fn run_says_when_the_command_cannot_start() {
    let lab = lab();
    let before = lab.snapshot();
    // The codes of docker run: 127 not found, 126 cannot be executed.
    assert_eq!(lab.netd(&["run", "--rm", "--network", "netA", "--", "no-such-command"]).code, 127);
    let plain = lab.daemon.dirs().path("plain");
    std::fs::write(&plain, "no program\n").expect("write a file that is not executable");
    let plain = plain.to_str().expect("paths of the lab are UTF-8");
    assert_eq!(lab.netd(&["run", "--rm", "--network", "netA", "--", plain]).code, 126);
    before.assert_unchanged(&lab.snapshot(), "a command that cannot start");
}

#[test]
fn run_gives_the_command_its_own_name_files() {
    let lab = lab();
    let hosts_before = std::fs::read("/etc/hosts").expect("the host's own file");
    let options = [
        "run",
        "--rm",
        "--name",
        "web",
        "--hostname",
        "www",
        "--network",
        "netA,ip=172.20.0.2,ip6=fd00:c:20::2",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "example.org",
        "--dns-option",
        "ndots:2",
        "--add-host",
        "db:192.0.2.7",
        "--",
        "sh",
        "-c",
        "cat /etc/hosts; echo ===; cat /etc/resolv.conf; echo ===; hostname",
    ];
    let out = lab.netd(&options).ok();
    let parts: Vec<_> = out.split("===\n").collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let hosts: Vec<_> = parts[0].lines().map(words).collect();
    for (ip, name) in
        [("127.0.0.1", "localhost"), ("172.20.0.2", "www"), ("fd00:c:20::2", "www"), ("192.0.2.7", "db")]
    {
        let found =
            hosts.iter().any(|w| w.first().is_some_and(|a| a == ip) && w[1..].iter().any(|n| n == name));
        assert!(found, "{ip} {name} in /etc/hosts:\n{}", parts[0]);
    }
    for text in ["192.0.2.53", "example.org", "ndots:2"] {
        assert!(parts[1].contains(text), "{text} in /etc/resolv.conf:\n{}", parts[1]);
    }
    assert_eq!(parts[2].trim(), "www");
    assert_eq!(
        std::fs::read("/etc/hosts").expect("the host's own file"),
        hosts_before,
        "the host's file changed"
    );
}

#[test]
fn the_command_is_in_its_sandboxs_network() {
    let lab = lab();
    let _r = Server::start(&lab.r, &[80]);
    let out =
        lab.netd(&["run", "--rm", "--network", "netA,ip=172.20.0.2", "--", "ip", "-o", "-4", "addr"]).ok();
    assert!(out.contains("172.20.0.2/24") && !out.contains("10.0.0.2"), "{out}");
    let fetch = "exec 3<>/dev/tcp/10.0.0.3/80; head -n1 <&3";
    let seen = lab.netd(&["run", "--rm", "--network", "netA", "--", "bash", "-c", fetch]).ok();
    assert!(seen.starts_with(&format!("R sees {}:", H.v4)), "{seen}");
}

/// Starts `netd run` and waits for its first line of output.
///
/// Signals mean what they usually do, also where the tests run under `nohup`: a shell cannot trap what was ignored when it began.
fn start(lab: &Lab, args: &[&str]) -> (Child, std::process::ChildStdout) {
    let netd = lab.command(args);
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(netd.get_program()).args(netd.get_args());
    command.envs(netd.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Child::from(lab.h.spawn(&mut command));
    let mut stdout = child.stdout.take().expect("stdout");
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        assert_eq!(stdout.read(&mut byte).expect("read"), 1, "the command ended before its first line");
        line.push(byte[0]);
    }
    assert_eq!(line, b"ready\n");
    (child, stdout)
}

#[test]
fn run_passes_signals_on_and_ends_with_the_command() {
    let lab = lab();
    let trap =
        "trap 'exit 3' TERM; trap 'exit 4' INT; trap 'exit 5' HUP; echo ready; while :; do sleep 0.01; done";
    for (signal, code) in [(Signal::SIGTERM, 3), (Signal::SIGINT, 4), (Signal::SIGHUP, 5)] {
        let (mut run, _out) = start(&lab, &["run", "--rm", "--network", "netA", "--", "sh", "-c", trap]);
        run.signal(signal);
        assert_eq!(run.wait_for(PATIENCE).and_then(|status| status.code()), Some(code), "{signal}");
    }
    let plain = "echo ready; exec sleep 600";
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let (mut run, _out) = start(&lab, &["run", "--rm", "--network", "netA", "--", "sh", "-c", plain]);
        run.signal(signal);
        let status = run.wait_for(PATIENCE).unwrap_or_else(|| panic!("still runs after {signal}"));
        assert_eq!(status.code(), Some(code), "{signal}: 128 + signal");
    }
    wait_until("run --rm has removed its sandboxes", || lab.netd(&["sandbox", "ls", "-q"]).ok().is_empty());
}

#[test]
fn run_passes_standard_input() {
    let lab = lab();
    let (mut run, mut out) =
        start(&lab, &["run", "--rm", "--network", "netA", "--", "sh", "-c", "echo ready; cat"]);
    run.stdin.take().expect("stdin").write_all(b"one\ntwo\n").expect("write");
    let mut text = String::new();
    out.read_to_string(&mut text).expect("read");
    assert_eq!(text, "one\ntwo\n");
    assert_eq!(run.wait_for(PATIENCE).and_then(|status| status.code()), Some(0));
}

#[test]
fn run_gives_the_command_the_terminal() {
    let lab = lab();
    let pty = openpty(None, None).expect("a terminal");
    let side = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
    let script = "test -t 0 && test -t 1 && stty size >/dev/null && echo terminal; exec sleep 600";
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(binary()).args([
        "run",
        "--rm",
        "--network",
        "netA",
        "--",
        "sh",
        "-c",
        script,
    ]);
    command.env("NETD_HOST", format!("unix://{}", lab.daemon.dirs().socket().display()));
    let mut run = Child::from(lab.h.spawn(command.stdin(side()).stdout(side()).stderr(side())));
    drop((command, pty.slave));
    let mut screen = std::fs::File::from(pty.master);
    let text = read_until(&mut screen, "terminal");
    assert!(text.contains("terminal"), "{text:?}");
    screen.write_all(b"\x03").expect("press Ctrl-C");
    assert_eq!(run.wait_for(PATIENCE).and_then(|status| status.code()), Some(130));
}

fn read_until(from: &mut std::fs::File, word: &str) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 256]);
    while !text.contains(word) {
        match from.read(&mut buffer) {
            Ok(length) if length > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
            _ => break,
        }
    }
    text
}

#[test]
fn a_detached_command_serves_and_is_found_by_exec() {
    let lab = lab();
    let server = "import http.server as s; s.ThreadingHTTPServer(('', 80), s.SimpleHTTPRequestHandler).serve_forever()";
    let args =
        ["run", "-d", "--name", "web", "--network", "netA", "-p", "8080:80", "--", "python3", "-c", server];
    let id = lab.netd(&args).ok();
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "run -d prints the id: {id:?}");
    let connects = || lab.r.run(|| netd_tests::connect(at(H.v4, 8080), None, Duration::from_secs(1))).is_ok();
    wait_until("the server listens", connects);
    let address = lab.netd(&["exec", "web", "--", "ip", "-o", "-4", "addr", "show", "eth0"]).ok();
    assert!(address.contains("172.20.0.2/24"), "{address}");
    assert_eq!(lab.netd(&["exec", "web", "--", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(lab.netd(&["exec", "web", "--", "cat", "/etc/hosts"]).ok().matches("172.20.0.2").count(), 1);
    lab.netd(&["sandbox", "rm", "-f", "web"]).ok();
    assert!(!connects(), "the server ended with its sandbox");
}

#[test]
fn exec_runs_in_a_sandbox_without_a_command_of_its_own() {
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["--hostname", "alpha", "--add-host", "db:192.0.2.7"]);
    assert!(lab.netd(&["exec", "a1", "--", "ip", "-o", "addr"]).ok().contains("172.20.0.2/24"));
    let hosts = lab.netd(&["exec", "a1", "--", "cat", "/etc/hosts"]).ok();
    assert!(hosts.contains("192.0.2.7") && hosts.contains("alpha"), "{hosts}");
    assert_eq!(lab.netd(&["exec", "a1", "no-such-command"]).code, 127);
    assert_eq!(lab.r.probe_ping(a1.ip(Family::V4)), netd_tests::Outcome::Timeout);
    a1.ping(R.v4);
    let a1 = a1.serving(&[80]);
    assert_eq!(lab.h.reach(Proto::Udp, at(a1.ip(Family::V4), 80)).server, "a1");
}

#[test]
fn a_command_that_starts_while_the_daemon_dies_ends_with_its_sandbox() {
    let mut lab = lab();
    for known in [true, false] {
        lab.netd(&["sandbox", "create", "--network", "netA", "c1"]).ok();
        lab.daemon.end(Signal::SIGTERM);
        // It dies when it is told that the command runs.
        lab.daemon.restart_with(&[("NETD_FAILPOINTS", "journal.before=abort")]);
        let mut command = lab.command(&["supervise", "c1", "--", "sleep", "600"]);
        let mut supervisor: Child = lab.h.spawn(command.stdout(Stdio::piped())).into();
        let mut said = String::new();
        supervisor.stdout.take().expect("its output").read_to_string(&mut said).expect("read it");
        assert_eq!(said, "started \n");
        lab.daemon.end(Signal::SIGKILL);
        lab.daemon.restart();
        if known {
            wait_until("the next daemon knows of the command", || lab.inspect("c1")["State"]["Pid"] != 0);
        }
        lab.netd(&["sandbox", "rm", "-f", "c1"]).ok();
        assert!(supervisor.wait_for(PATIENCE).is_some(), "the command goes on without its sandbox");
    }
}

#[test]
fn a_command_ends_with_the_run_directory_of_its_instance() {
    let mut lab = lab();
    lab.netd(&["sandbox", "create", "--network", "netA", "c1"]).ok();
    let mut command = lab.command(&["supervise", "c1", "--", "sleep", "600"]);
    let mut supervisor: Child = lab.h.spawn(command.stdout(Stdio::piped())).into();
    let mut said = String::new();
    supervisor.stdout.take().expect("its output").read_to_string(&mut said).expect("read it");
    assert_eq!(said, "started \n");
    lab.daemon.end(Signal::SIGKILL);
    assert!(supervisor.wait_for(Duration::from_secs(1)).is_none(), "a daemon's end is not the instance's");
    let run = lab.daemon.dirs().run();
    umount2(&run.join("netns/c1"), MntFlags::MNT_DETACH).expect("the namespace loses its name");
    fs::remove_dir_all(&run).expect("the run directory goes");
    assert!(supervisor.wait_for(PATIENCE).is_some(), "the command goes on without its instance");
    lab.daemon.restart();
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within 20 s");
        thread::sleep(Duration::from_millis(20));
    }
}
