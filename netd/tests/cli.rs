//! The built binary as a user meets it, without a daemon: help, usage errors, exit codes (rung: unit).

use std::{
    collections::BTreeSet,
    fs,
    os::unix::net::UnixListener,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// Runs netd against a socket in a directory of its own.
struct Netd {
    directory: TempDir,
}

impl Netd {
    fn new() -> Self {
        Self { directory: TempDir::new().expect("temporary directory") }
    }

    fn host(&self) -> String {
        format!("unix://{}/netd.sock", self.directory.path().display())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netd"));
        command.args(arguments).env_clear().env("NETD_HOST", self.host()).env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("netd starts")
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let section = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let entries = section
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = entries.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Returns the arguments that lead to every command, groups included.
fn every_command(netd: &Netd) -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut next = 0;
    while next < found.len() {
        let path: Vec<String> = found[next].clone();
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        for name in subcommands(&stdout(&netd.run(&arguments))) {
            found.push([path.clone(), vec![name]].concat());
        }
        next += 1;
    }
    found
}

#[test]
fn every_command_of_the_contract_is_there() {
    let netd = Netd::new();
    let found: BTreeSet<String> = every_command(&netd).into_iter().map(|path| path.join(" ")).collect();
    for wanted in [
        "daemon",
        "down",
        "status",
        "doctor",
        "version",
        "network create",
        "network ls",
        "network inspect",
        "network rm",
        "network prune",
        "network connect",
        "network disconnect",
        "sandbox create",
        "sandbox ls",
        "sandbox inspect",
        "sandbox rm",
        "run",
        "exec",
        "ps",
        "port",
        "publish",
        "unpublish",
        "policy add",
        "policy ls",
        "policy inspect",
        "policy rm",
        "flow ls",
        "flow flush",
        "drops",
        "explain",
        "events",
        "completion",
    ] {
        assert!(found.contains(wanted), "netd {wanted} is missing of {found:?}");
    }
}

#[test]
fn help_of_every_command_says_what_it_does_and_shows_examples() {
    let netd = Netd::new();
    for path in every_command(&netd) {
        for flag in ["-h", "--help"] {
            let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
            arguments.push(flag);
            let output = netd.run(&arguments);
            let help = stdout(&output);
            assert_eq!(output.status.code(), Some(0), "{arguments:?}");
            assert!(help.contains("EXAMPLES:\n  netd "), "netd {arguments:?} shows no example:\n{help}");
            let meaning = help.lines().next().unwrap_or_default();
            assert!(meaning.len() > 10 && !meaning.starts_with("Usage"), "netd {arguments:?}: {meaning:?}");
        }
    }
}

/// Commands that need a daemon, each well-formed.
const CALLS: &[&[&str]] = &[
    &["network", "ls"],
    &["policy", "add", "--network", "app", "--from", "web", "--to", "db", "--port", "53/udp,80-90"],
    &["policy", "ls"],
    &["policy", "inspect", "3f2a"],
    &["policy", "rm", "3f2a"],
    &["network", "create", "app"],
    &["network", "inspect", "app"],
    &["network", "rm", "app"],
    &["network", "prune"],
    &["network", "connect", "app", "web"],
    &["network", "disconnect", "app", "web"],
    &["sandbox", "create", "web"],
    &["sandbox", "ls"],
    &["sandbox", "inspect", "web"],
    &["sandbox", "rm", "web"],
    &["run", "--rm", "true"],
    &["run", "-d", "true"],
    &["exec", "web", "--", "true"],
    &["ps"],
    &["port", "web"],
    &["publish", "web", "8080:80"],
    &["unpublish", "web", "8080:80"],
    &["flow", "ls"],
    &["flow", "flush"],
    &["drops"],
    &["explain", "web", "10.0.0.5:443"],
    &["events"],
    &["status"],
    &["down"],
];

#[test]
fn without_a_daemon_every_call_exits_5_in_one_line_with_a_hint() {
    let netd = Netd::new();
    for call in CALLS {
        let output = netd.run(call);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(5), "{call:?}: {text}");
        let lines: Vec<&str> = text.lines().collect();
        let [error, hint] = lines.as_slice() else { panic!("{call:?}: {text}") };
        assert!(error.starts_with("error: ") && error.contains("cannot reach the daemon at"), "{error}");
        assert!(error.contains(netd.directory.path().to_str().expect("UTF-8")), "{error}");
        assert!(hint.starts_with("hint: "), "{hint}");
        assert!(output.stdout.is_empty(), "{call:?}: {}", stdout(&output));
    }
}

#[test]
fn a_socket_that_nobody_listens_on_is_unreachable_too() {
    let netd = Netd::new();
    drop(UnixListener::bind(netd.directory.path().join("netd.sock")).expect("bind"));
    assert_eq!(netd.run(&["ps"]).status.code(), Some(5));
}

#[test]
fn a_socket_that_the_caller_may_not_use_exits_6() {
    if !nix::unistd::geteuid().is_root() {
        return; // only root can become somebody who may not
    }
    let netd = Netd::new();
    let directory = netd.directory.path();
    let binary = directory.join("netd");
    // Where nobody can execute it. Another process copies: a descriptor open for writing could leak into a sibling test's child.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_netd")).arg(&binary).status();
    assert!(copied.is_ok_and(|status| status.success()));
    fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let socket = directory.join("netd.sock");
    let _listener = UnixListener::bind(&socket).expect("bind");
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o660)).expect("chmod");
    let mut command = Command::new(&binary);
    command.args(["-H", &netd.host(), "network", "ls"]);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    std::os::unix::process::CommandExt::gid(&mut command, 65534);
    let output = command.output().expect("netd starts");
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(
        stderr(&output).starts_with("error: list networks: cannot reach the daemon at "),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("permission denied\nhint: "), "{}", stderr(&output));
}

#[test]
fn usage_errors_exit_2_in_one_line_with_a_hint_before_the_daemon_is_asked() {
    let netd = Netd::new();
    for call in [
        &["frobnicate"] as &[&str],
        &["netwrk", "ls"],
        &["network", "create"],
        &["network", "create", "--subnet", "172.30.0.0", "app"],
        &["network", "create", "--subnet", "172.30.0.0/33", "app"],
        &["network", "create", "--gateway", "172.30.0.1/24", "app"],
        &["network", "create", "--gateway", "172.30.0.1", "app"],
        &["network", "create", "--aux-address", "printer", "app"],
        &["network", "create", "--ipv6=maybe", "app"],
        &["network", "create", "-o", "novalue", "app"],
        &["network", "create", ""],
        &["network", "ls", "--filter", "colour=red"],
        &["network", "ls", "--filter", "bare"],
        &["network", "ls", "--format", "yaml"],
        &["network", "rm"],
        &["network", "connect", "app"],
        &["network", "connect", "--ip", "fd00::1", "app", "web"],
        &["sandbox", "create", "--netns", "/run/netns/x", "--pid", "1", "web"],
        &["sandbox", "create", "--pid", "minus", "web"],
        &["sandbox", "create", "-p", "8080:99999", "web"],
        &["sandbox", "create", "-p", "80/icmp", "web"],
        &["sandbox", "create", "--mac-address", "01:00:5e:00:00:01", "web"],
        &["sandbox", "create", "--network", "app,colour=red", "web"],
        &["sandbox", "create", "--network", "app,ip=10.0.0.2", "--ip", "10.0.0.3", "web"],
        &["sandbox", "create", "--add-host", "db", "web"],
        &["sandbox", "create", "--dns", "one.one.one.one", "web"],
        &["sandbox", "create", "--expose", "web", "web"],
        &["run"],
        &["run", "--rm"],
        &["exec", "web"],
        &["port", "web", "http"],
        &["publish", "web"],
        &["publish", "web", "8000-8010:9000-9005"],
        &["unpublish", "web", "x"],
        &["flow", "ls", "--filter", "colour=red"],
        &["flow", "flush", "--filter", "proto=tcp", "--filter", "proto=udp"],
        &["explain", "web"],
        &["explain", "web", "db:http"],
        &["explain", "web", "db:80/sctp"],
        &["explain", "-4", "-6", "web", "db"],
        &["explain", "--source", "db", "web", "db"],
        &["completion", "tcsh"],
        &["-H", "tcp://127.0.0.1:2375", "ps"],
        &["--color", "sometimes", "ps"],
        &["daemon", "--log-format", "xml"],
        &["daemon", "--uplink", "a/b"],
    ] {
        let output = netd.run(call);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{call:?}: {text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            matches!(lines.as_slice(), [error] | [error, _] if error.starts_with("error: ")),
            "{call:?}: {text}"
        );
        assert!(lines.get(1).is_none_or(|line| line.starts_with("hint: ")), "{call:?}: {text}");
        assert!(output.stdout.is_empty(), "{call:?}: {}", stdout(&output));
    }
}

#[test]
fn a_misspelt_command_is_told_the_right_one() {
    let text = stderr(&Netd::new().run(&["netwrk", "ls"]));
    assert!(text.contains("network"), "{text}");
}

#[test]
fn no_arguments_show_help_and_exit_2() {
    let netd = Netd::new();
    for call in [&[] as &[&str], &["network"], &["sandbox"], &["flow"]] {
        let output = netd.run(call);
        assert_eq!(output.status.code(), Some(2), "{call:?}");
        assert!(stderr(&output).contains("EXAMPLES:"), "{}", stderr(&output));
    }
}

#[test]
fn version_and_doctor_work_without_a_daemon() {
    let netd = Netd::new();
    let output = netd.run(&["version"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains(env!("CARGO_PKG_VERSION")), "{}", stdout(&output));
    let output = netd.run(&["version", "--format", "json"]);
    let versions: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(versions["Client"]["ObjectSHA256"].is_string() && versions["Server"].is_null(), "{versions}");
    let output = netd.run(&["doctor", "--format", "json"]);
    assert!(matches!(output.status.code(), Some(0 | 7)), "{}", stderr(&output));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks: Vec<&str> =
        findings.as_array().expect("array").iter().filter_map(|f| f["Check"].as_str()).collect();
    for check in ["kernel", "bpffs", "cgroup2", "capabilities", "net.ipv4.ip_forward", "daemon"] {
        assert!(checks.contains(&check), "{checks:?}");
    }
}

#[test]
fn colour_is_only_for_those_who_ask() {
    let netd = Netd::new();
    assert!(!stderr(&netd.run(&["ps"])).contains('\x1b'));
    assert!(!stderr(&netd.run(&["--color=never", "ps"])).contains('\x1b'));
    assert!(stderr(&netd.run(&["--color", "always", "ps"])).contains("\x1b[1;31merror:\x1b[0m"));
    assert!(stdout(&netd.run(&["--color=always", "--help"])).contains('\x1b'));
}

#[test]
fn completions_and_manual_pages_are_generated() {
    let netd = Netd::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = netd.run(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("disconnect"), "{shell}");
    }
    let directory = netd.directory.path().to_str().expect("UTF-8");
    assert_eq!(netd.run(&["man", directory]).status.code(), Some(0));
    let page = fs::read_to_string(netd.directory.path().join("netd-network-create.1")).expect("page");
    assert!(page.contains("ip\\-range"), "{page}");
    assert_eq!(netd.run(&["man", "/nowhere"]).status.code(), Some(3));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let netd = Netd::new();
    let mut child = netd
        .command(&["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("netd starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}
