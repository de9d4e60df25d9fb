//! Rung: namespaces. The API as docker's own clients and scripts speak it: raw HTTP on the socket, and the stock docker command.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use netd_tests::{Child, Lab, Options, Run, eventually};
use nix::sys::{
    signal::Signal,
    socket::{MsgFlags, recv},
};
use serde_json::{Value, json};

/// What the daemon answered.
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

fn open(lab: &Lab) -> UnixStream {
    let socket = UnixStream::connect(lab.daemon.dirs().socket()).expect("the daemon listens");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set a timeout");
    socket
}

fn send(socket: &mut UnixStream, method: &str, path: &str, body: &str) {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: netd\r\nConnection: close\r\n");
    let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let _ = socket.write_all(text.as_bytes()); // a refusal may come before the end of a long body
}

fn call(lab: &Lab, method: &str, path: &str, body: &Value) -> Answer {
    call_with(lab, method, path, &if body.is_null() { String::new() } else { body.to_string() })
}

fn call_with(lab: &Lab, method: &str, path: &str, body: &str) -> Answer {
    let mut socket = open(lab);
    send(&mut socket, method, path, body);
    answer(socket)
}

fn answer(mut socket: UnixStream) -> Answer {
    let mut text = Vec::new();
    let _ = socket.read_to_end(&mut text); // the end may be a reset when the daemon has not read everything
    let text = String::from_utf8(text).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    }
}

/// Whether there is something to read, or an end.
fn has_answer(socket: &UnixStream) -> bool {
    let mut byte = [0];
    recv(socket.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok()
}

fn get(lab: &Lab, path: &str) -> Value {
    let answer = call(lab, "GET", path, &Value::Null);
    assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
    answer.body
}

#[test]
fn docker_shaped_paths_answer_with_and_without_a_version() {
    let lab = Lab::new();
    for path in ["/networks", "/containers/json", "/networks/bridge"] {
        let plain = get(&lab, path);
        assert!(plain.is_array() || plain["Driver"] == "bridge", "{path}: {plain}");
        for version in ["/v1.24", "/v1.44", "/v1.50"] {
            assert_eq!(get(&lab, &format!("{version}{path}")), plain, "{version}{path}");
        }
    }
    let ping = call(&lab, "HEAD", "/v1.41/_ping", &Value::Null);
    assert_eq!(ping.status, 200);
    assert!(ping.head.contains("\r\napi-version: 1.50"), "clients choose their version by it: {}", ping.head);
    assert_eq!(get(&lab, "/version")["ApiVersion"], "1.50");
    assert_eq!(get(&lab, "/info")["OSType"], "linux");
}

#[test]
fn a_network_lives_its_life_over_dockers_api() {
    let lab = Lab::new();
    let request = json!({"Name": "app", "Driver": "bridge", "EnableIPv4": null, "EnableIPv6": false, "Internal": false,
        "IPAM": {"Driver": "default", "Options": null, "Config": [{"Subnet": "172.30.0.0/24"}]},
        "Options": null, "Labels": {"team": "blue"}, "Ingress": false, "ConfigFrom": null, "Attachable": false});
    let created = call(&lab, "POST", "/v1.47/networks/create", &request);
    assert_eq!((created.status, &created.body["Warning"]), (201, &json!("")), "{}", created.body);
    let id = created.body["Id"].as_str().expect("an id").to_owned();
    let found = get(&lab, "/networks?filters=%7B%22label%22%3A%7B%22team%3Dblue%22%3Atrue%7D%7D");
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!((&found[0]["Id"], &found[0]["Containers"]), (&json!(id), &json!({})));

    lab.netd(&["sandbox", "create", "web"]).ok();
    let request = json!({"Container": "web", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "172.30.0.7"},
        "Aliases": ["www"], "Links": null, "MacAddress": "02:42:ac:1e:00:07", "DriverOpts": null, "GwPriority": 0}});
    assert_eq!(call(&lab, "POST", &format!("/networks/{id}/connect"), &request).status, 200);
    let containers = get(&lab, &format!("/networks/{}", &id[..12]))["Containers"].clone();
    let endpoint = containers.as_object().and_then(|all| all.values().next()).expect("the endpoint");
    assert_eq!(endpoint["Name"], "web");
    assert_eq!((&endpoint["IPv4Address"], &endpoint["IPv6Address"]), (&json!("172.30.0.7/24"), &json!("")));
    let container = get(&lab, "/containers/web/json");
    assert_eq!(container["Name"], "/web", "docker's clients cut the slash off");
    assert_eq!(container["NetworkSettings"]["Networks"]["app"]["MacAddress"], "02:42:ac:1e:00:07");
    assert_eq!(get(&lab, "/netd/v1/sandboxes/web")["Name"], "web");

    let in_use = call(&lab, "DELETE", "/networks/app", &Value::Null);
    assert_eq!(in_use.status, 403, "{}", in_use.body);
    assert!(in_use.body["message"].as_str().is_some_and(|text| text.contains("has active endpoints")));
    let request = json!({"Container": "web", "Force": false});
    assert_eq!(call(&lab, "POST", "/networks/app/disconnect", &request).status, 200);
    assert_eq!(call(&lab, "DELETE", "/networks/app", &Value::Null).status, 204);
    assert_eq!(call(&lab, "GET", "/networks/app", &Value::Null).status, 404);
}

#[test]
fn refusals_have_dockers_status_and_a_message() {
    let lab = Lab::new();
    lab.netd(&["network", "create", "--subnet", "172.30.0.0/24", "app"]).ok();
    let network = |config: Value| json!({"Name": "x", "IPAM": {"Config": [config]}});
    for (method, path, body, status) in [
        ("GET", "/networks/nope", Value::Null, 404),
        ("GET", "/containers/nope/json", Value::Null, 404),
        ("GET", "/nowhere", Value::Null, 404),
        ("GET", "/networks?filters=nonsense", Value::Null, 400),
        ("DELETE", "/networks/bridge", Value::Null, 403),
        ("POST", "/networks/create", Value::Null, 400),
        ("POST", "/networks/create", json!({"Name": "app"}), 409),
        ("POST", "/networks/create", json!({"Name": "../app"}), 400),
        ("POST", "/networks/create", network(json!({"Subnet": "banana"})), 400),
        ("POST", "/networks/create", network(json!({"Subnet": "172.31.0.1/24"})), 400),
        ("POST", "/networks/create", json!({"Name": "x", "ConfigOnly": true}), 501),
        ("POST", "/networks/nope/connect", json!({"Container": "web"}), 404),
        ("POST", "/netd/v1/sandboxes", json!({"Nmae": "web"}), 400),
        ("POST", "/netd/v1/sandboxes/nope/publish", json!({"Specs": ["80"]}), 404),
        ("GET", "/netd/v1/flows?colour=red", Value::Null, 400),
    ] {
        let answer = call(&lab, method, path, &body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        assert!(answer.body["message"].as_str().is_some_and(|text| !text.contains('\n')), "{}", answer.body);
        assert!(answer.body["code"].is_string(), "{}", answer.body);
    }
}

#[test]
fn events_come_as_they_happen_a_line_each() {
    let lab = Lab::new();
    let mut socket = open(&lab);
    send(&mut socket, "GET", "/v1.50/events?filters=%7B%22type%22%3A%5B%22network%22%5D%7D", "");
    let mut lines = BufReader::new(socket).lines();
    let head = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).count();
    assert!(head > 1, "an answer before the first event");
    let id = lab.netd(&["network", "create", "app"]).ok();
    lab.netd(&["sandbox", "create", "--network", "app", "web"]).ok();
    lab.netd(&["sandbox", "rm", "web"]).ok();
    lab.netd(&["network", "rm", "app"]).ok();
    let objects = lines.map_while(Result::ok).filter(|line| line.starts_with('{'));
    let events: Vec<Value> = objects.take(4).map(|line| serde_json::from_str(&line).expect("JSON")).collect();
    let actions: Vec<&str> = events.iter().filter_map(|event| event["Action"].as_str()).collect();
    assert_eq!(actions, ["create", "connect", "disconnect", "destroy"]);
    for event in &events {
        assert_eq!((&event["Type"], &event["Actor"]["ID"]), (&json!("network"), &json!(id)));
        assert_eq!(event["Actor"]["Attributes"]["name"], "app");
        assert_eq!(event["timeNano"].as_i64().map(|nano| nano / 1_000_000_000), event["time"].as_i64());
    }
}

#[test]
fn a_client_that_only_opens_connections_keeps_nobody_out() {
    let lab = Lab::new();
    let silent: Vec<UnixStream> = (0..500)
        .map(|_| {
            let mut socket = open(&lab);
            socket.write_all(b"GET /networks HTTP/1.1\r\nHost: netd\r\n").expect("half a request");
            socket
        })
        .collect();
    let slowest = (0..50).map(|_| {
        let start = Instant::now();
        get(&lab, "/networks");
        start.elapsed()
    });
    let slowest = slowest.max().expect("fifty");
    // Every connection would have to time out first (10 s) if silent ones could hold the places.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    drop(silent);
}

#[test]
fn a_request_may_not_be_too_long() {
    let lab = Lab::new();
    let labels = json!({"Name": "big", "Labels": {"a": "x".repeat(2 << 20)}});
    assert_eq!(call(&lab, "POST", "/networks/create", &labels).status, 413);
    let mut socket = open(&lab);
    socket.write_all(b"GET /networks HTTP/1.1\r\nX: ").expect("the start of a head");
    let _ = socket.write_all(&vec![b'x'; 64 << 10]); // the daemon may have closed before the end
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(get(&lab, "/networks").as_array().map(Vec::len), Some(3), "nothing was made");
}

#[test]
fn s36_what_is_at_a_limit_passes_and_one_more_is_refused_by_name() {
    let lab = Lab::new();
    let network = |name: &str, key: &str, value: Value| json!({"Name": name, key: value}).to_string();
    let padded = |length: usize| {
        let body = json!({"Name": "padded"}).to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    let nested = |levels: usize| (1..levels).fold(json!([]), |inner, _| json!([inner]));
    let labels = |count: usize| {
        (0..count).map(|number| (format!("label{number}"), Value::from("x"))).collect::<Value>()
    };
    let text = |length: usize| json!({"key": "x".repeat(length)});
    for (passes, refused, status, word) in [
        (padded(1 << 20), padded((1 << 20) + 1), 413, "longer than 1048576 bytes"),
        // The body itself is a level.
        (network("deep", "X", nested(31)), network("deeper", "X", nested(32)), 400, "32 levels"),
        (network("text", "Options", text(4096)), network("texts", "Options", text(4097)), 400, "4096"),
        (network("few", "Labels", labels(64)), network("many", "Labels", labels(65)), 400, "the limit is 64"),
        (
            network(&"n".repeat(128), "X", json!(1)),
            network(&"n".repeat(129), "X", json!(1)),
            400,
            "at most 127",
        ),
    ] {
        let answer = call_with(&lab, "POST", "/networks/create", &passes);
        assert_eq!(answer.status, 201, "{word}: {}", answer.body);
        let id = answer.body["Id"].as_str().expect("an id").to_owned();
        let answer = call_with(&lab, "POST", "/networks/create", &refused);
        assert_eq!(answer.status, status, "{word}: {}", answer.body);
        assert_eq!((&answer.body["code"], &answer.body["retryable"]), (&json!("INVALID"), &json!(false)));
        let message = answer.body["message"].as_str().expect("a message");
        assert!(message.contains(word) && message.len() < 400, "{message}");
        assert_eq!(call(&lab, "DELETE", &format!("/networks/{id}"), &Value::Null).status, 204);
    }
    assert_eq!(
        get(&lab, "/networks").as_array().map(Vec::len),
        Some(3),
        "nothing was made of what was refused"
    );
    for (headers, status) in [(80, "200"), (200, "431")] {
        let mut socket = open(&lab);
        let many = (0..headers).map(|number| format!("X-{number}: x\r\n")).collect::<Vec<_>>().concat();
        let head = format!("GET /networks HTTP/1.1\r\nHost: netd\r\nConnection: close\r\n{many}\r\n");
        socket.write_all(head.as_bytes()).expect("a head");
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer); // the end may be a reset
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers} headers: {answer}");
    }
}

#[test]
fn s36_a_connection_too_many_is_told_so() {
    let lab = Lab::new();
    let mut streams: Vec<UnixStream> = (0..256)
        .map(|number| {
            let mut socket = open(&lab);
            send(&mut socket, "GET", "/events", "");
            let mut first = [0; 12];
            socket.read_exact(&mut first).unwrap_or_else(|error| panic!("stream {number}: {error}"));
            assert_eq!(&first, b"HTTP/1.1 200", "stream {number}");
            socket
        })
        .collect();
    let answer = call(&lab, "GET", "/networks", &Value::Null);
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!((&answer.body["code"], &answer.body["retryable"]), (&json!("NOT_READY"), &json!(true)));
    assert!(answer.body["message"].as_str().is_some_and(|text| text.contains("256 connections")));
    // The control: with one less, there is room.
    streams.pop();
    eventually("a place for a request", || call(&lab, "GET", "/networks", &Value::Null).status == 200);
}

#[test]
fn s36_one_user_takes_a_users_share_of_connections_and_changes_and_others_have_theirs() {
    const ONE: u32 = 1000;
    const OTHER: u32 = 1001;
    let config = "[api]\nconnections_per_user = 2\nchanges_per_minute = 3\n";
    let lab = Lab::with(&Options { config: config.to_owned(), ..Options::default() });
    // Everybody may connect: what holds a user back is their share alone.
    let dirs = lab.daemon.dirs();
    for (path, mode) in [(dirs.path(""), 0o755), (dirs.run(), 0o755), (dirs.socket(), 0o666)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("open the way");
    }
    let command = |uid: u32, args: &[&str]| {
        let mut command = lab.command(args);
        command.uid(uid).gid(uid);
        command
    };
    let run = |uid: u32, args: &[&str]| Run::new(args, &lab.h.output(&mut command(uid, args)));
    let mut streams: Vec<Child> = (0..2)
        .map(|_| {
            let mut follow = command(ONE, &["events"]);
            lab.h.spawn(follow.stdout(Stdio::piped()).stderr(Stdio::null())).into()
        })
        .collect();
    let third = || run(ONE, &["network", "ls"]);
    let refused = |what: &str, act: &dyn Fn() -> Run| {
        let mut said = String::new();
        eventually(what, || {
            let ran = act();
            said = ran.stderr;
            ran.code == 1
        });
        said
    };
    let said = refused("two connections", &third);
    assert!(said.contains("uid 1000 has 2 connections; try again"), "{said}");
    run(OTHER, &["network", "ls"]).ok();
    lab.netd(&["network", "ls"]).ok();
    streams.clear();
    eventually("a connection that is free again", || third().code == 0);

    // Whatever the change comes to, it is one.
    let change = |uid: u32| run(uid, &["network", "rm", "nope"]);
    let said = refused("a user's changes of a minute to be made", &|| change(ONE));
    assert!(said.contains("uid 1000 made 3 changes within a minute; try again"), "{said}");
    change(OTHER).refused(3);
    for _ in 0..10 {
        lab.netd(&["network", "rm", "nope"]).refused(3);
    }
    // Whoever only looks is no change.
    run(ONE, &["network", "ls"]).ok();
}

#[test]
fn s36_a_65th_waiting_change_is_told_to_try_again() {
    let mut lab = Lab::new();
    let gate = lab.daemon.dirs().path("gate");
    lab.daemon.end(Signal::SIGTERM);
    let held = format!("bridge.put.before=until:{}", gate.display());
    lab.daemon.restart_with(&[("NETD_FAILPOINTS", &held)]);
    let change = |method: &str, path: &str, body: &str| {
        let mut socket = open(&lab);
        send(&mut socket, method, path, body);
        socket
    };
    let first = change("POST", "/networks/create", &json!({"Name": "app"}).to_string());
    eventually("the first change at work", || lab.daemon.log().contains("failpoint reached"));
    let mut waiting: Vec<UnixStream> = (0..64).map(|_| change("DELETE", "/networks/nope", "")).collect();
    let mut refused = None;
    eventually("one of 65 to be refused", || {
        refused = waiting.iter().position(has_answer);
        refused.is_some()
    });
    let refused = answer(waiting.swap_remove(refused.expect("one")));
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!((&refused.body["code"], &refused.body["retryable"]), (&json!("NOT_READY"), &json!(true)));
    assert_eq!(refused.body["message"], "64 operations are already waiting; try again");
    let number = refused.body["op_id"].as_str().expect("a number");
    assert!(lab.daemon.log().contains(&format!("op=\"{number}\"")), "{number} in\n{}", lab.daemon.log());
    // Whoever only reads is answered, also while no change has a place; and at the limit itself, all wait.
    assert_eq!(get(&lab, "/networks").as_array().map(Vec::len), Some(3));
    assert_eq!(call(&lab, "DELETE", "/networks/nope", &Value::Null).status, 503, "no place has become free");
    assert!(!waiting.iter().any(has_answer), "63 wait behind the first");
    std::fs::write(&gate, "").expect("the gate opens");
    assert_eq!(answer(first).status, 201);
    for socket in waiting {
        let answer = answer(socket);
        assert_eq!(answer.status, 404, "{}", answer.body);
    }
    // The control: tried again, it is served.
    assert_eq!(call(&lab, "DELETE", "/networks/nope", &Value::Null).status, 404);
}

#[test]
fn an_error_says_what_it_was_about_how_far_it_came_and_whether_to_try_again() {
    let mut lab = Lab::new();
    lab.daemon.end(Signal::SIGTERM);
    lab.daemon.restart_with(&[("NETD_FAILPOINTS", "bridge.put.before=return:ENOMEM")]);
    let mut numbers = BTreeSet::new();
    for (method, path, body, wanted) in [
        ("DELETE", "/networks/nope", Value::Null, json!(["NOT_FOUND", "plan", "network nope", null, false])),
        (
            "GET",
            "/containers/nope/json",
            Value::Null,
            json!(["NOT_FOUND", "plan", "sandbox nope", null, false]),
        ),
        ("POST", "/networks/create", json!("text"), json!(["INVALID", "request", null, null, false])),
        (
            "POST",
            "/networks/create",
            json!({"Name": "host"}),
            json!(["FORBIDDEN", "plan", "network host", null, false]),
        ),
        (
            "POST",
            "/networks/create",
            json!({"Name": "app"}),
            json!(["INTERNAL", "apply", "network app", 12, true]),
        ),
    ] {
        let answer = call(&lab, method, path, &body);
        let of = |key: &str| answer.body[key].clone();
        let said = json!([of("code"), of("phase"), of("object"), of("errno"), of("retryable")]);
        assert_eq!(said, wanted, "{method} {path}: {}", answer.body);
        let number = of("op_id").as_str().expect("a number").to_owned();
        assert!(number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()), "{number}");
        let audited = lab.daemon.log().contains(&format!("op=\"{number}\""));
        assert_eq!(audited, method != "GET", "{number} in\n{}", lab.daemon.log());
        numbers.insert(number);
    }
    assert_eq!(numbers.len(), 5, "each request has its own: {numbers:?}");
    // The control: the same request succeeds a moment later.
    lab.daemon.end(Signal::SIGTERM);
    lab.daemon.restart();
    assert_eq!(call(&lab, "POST", "/networks/create", &json!({"Name": "app"})).status, 201);
}

#[test]
fn who_changed_something_stands_in_the_log() {
    let lab = Lab::new();
    lab.netd(&["network", "create", "app"]).ok();
    lab.netd(&["network", "ls"]).ok();
    let log = lab.daemon.log();
    let audit: Vec<&str> = log.lines().filter(|line| line.contains("netd::audit")).collect();
    let [line] = audit.as_slice() else { panic!("one line for the change, none for the look: {audit:?}") };
    for part in ["uid=0", "program=netd", "method=POST", "/networks/create", "status=201"] {
        assert!(line.contains(part), "{part} is missing: {line}");
    }
}

/// Runs the stock docker command against the daemon.
fn docker(lab: &Lab, args: &[&str]) -> (bool, String) {
    let host = format!("unix://{}", lab.daemon.dirs().socket().display());
    let output = Command::new("docker").args(["-H", &host]).args(args).output().expect("docker starts");
    let text = if output.status.success() { &output.stdout } else { &output.stderr };
    (output.status.success(), String::from_utf8_lossy(text).trim_end().to_owned())
}

#[test]
fn the_stock_docker_command_manages_networks() {
    if Command::new("docker").arg("--version").output().is_err() {
        eprintln!("skipped: there is no docker command");
        return;
    }
    let lab = Lab::new();
    let ok = |args: &[&str]| match docker(&lab, args) {
        (true, text) => text,
        (false, text) => panic!("docker {args:?}: {text}"),
    };
    let id = ok(&["network", "create", "--subnet", "172.30.0.0/24", "--label", "a=b", "app"]);
    assert_eq!(id.len(), 64, "{id}");
    assert_eq!(
        ok(&["network", "ls", "--filter", "label=a=b", "--format", "{{.Name}} {{.Driver}}"]),
        "app bridge"
    );
    assert_eq!(
        ok(&["network", "inspect", "app", "--format", "{{(index .IPAM.Config 0).Gateway}}"]),
        "172.30.0.1"
    );
    lab.netd(&["sandbox", "create", "-p", "8080:80", "web"]).ok();
    ok(&["network", "connect", "--ip", "172.30.0.7", "--alias", "www", "app", "web"]);
    let address = "{{(index .NetworkSettings.Networks \"app\").IPAddress}}";
    assert_eq!(ok(&["inspect", "web", "--format", address]), "172.30.0.7");
    assert_eq!(
        ok(&["ps", "--format", "{{.Names}} {{.Ports}}"]),
        "web 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
    );
    assert_eq!(ok(&["port", "web", "80"]), "0.0.0.0:8080\n[::]:8080");
    let (removed, text) = docker(&lab, &["network", "rm", "app"]);
    assert!(!removed && text.contains("has active endpoints"), "{text}");
    ok(&["network", "disconnect", "app", "web"]);
    assert_eq!(ok(&["network", "prune", "-f"]), "Deleted Networks:\napp");
    let (found, text) = docker(&lab, &["network", "inspect", "app"]);
    assert!(!found && text.contains("network app not found"), "{text}");
}
