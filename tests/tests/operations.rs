//! Rung: namespaces. Operations by their callers' ids: done once, whatever becomes of the answer (reliability P3, F1, 6.5).

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Stdio,
};

use netd_tests::{Lab, Run, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A request with an operation's id, sent and not yet answered.
fn send(lab: &Lab, id: &str, method: &str, path: &str, body: &Value) -> UnixStream {
    let mut socket = UnixStream::connect(lab.daemon.dirs().socket()).expect("the daemon listens");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: netd\r\nConnection: close\r\nNetd-Operation-Id: {id}\r\n");
    let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    socket.write_all(text.as_bytes()).expect("a request");
    socket
}

/// Status, whether it is a repetition, and body of an answer.
fn answer(mut socket: UnixStream) -> (u16, bool, Value) {
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    let repeated = head.contains("netd-operation-repeated: true");
    (status, repeated, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn call(lab: &Lab, id: &str, method: &str, path: &str, body: &Value) -> (u16, bool, Value) {
    answer(send(lab, id, method, path, body))
}

#[test]
fn f1_a_command_whose_daemon_dies_between_commit_and_answer_repeats_itself_and_is_told_what_was_done() {
    let mut lab = Lab::new();
    let sandbox: &[&str] = &["sandbox", "create", "--network", "app", "-p", "8080:80", "web"];
    for (args, retry, code) in [
        (&["network", "create", "app"][..], "60", 0),
        (sandbox, "60", 0),
        (&["publish", "web", "8081:81"], "60", 0),
        (&["sandbox", "rm", "web"], "60", 0),
        // The control: without the repetition, nobody knows.
        (&["network", "create", "other"], "0", 5),
    ] {
        lab.daemon.end(Signal::SIGTERM);
        lab.daemon.restart_with(&[("NETD_FAILPOINTS", "commit.after=abort")]);
        let mut command = lab.daemon.command(args);
        command.env("NETD_RETRY", retry).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = lab.h.spawn(&mut command);
        eventually("the daemon to die of it", || !lab.daemon.answers());
        lab.daemon.end(Signal::SIGKILL);
        lab.daemon.restart();
        let ran = Run::new(args, &child.wait_with_output().expect("it ends"));
        assert_eq!(ran.code, code, "{ran:?}");
        let object = |kind: &str, name: &str| lab.netd(&[kind, "inspect", name]).json()[0]["Id"].clone();
        match args {
            ["network", _, "app"] => assert_eq!(json!(ran.stdout.trim()), object("network", "app")),
            ["sandbox", "create", ..] => assert_eq!(json!(ran.stdout.trim()), object("sandbox", "web")),
            ["publish", ..] => assert!(lab.netd(&["port", "web", "81"]).ok().contains(":8081")),
            ["sandbox", "rm", ..] => drop(lab.netd(&["sandbox", "inspect", "web"]).refused(3)),
            _ => assert!(object("network", "other").is_string(), "and it was done all the same"),
        }
    }
    lab.netd(&["network", "create", "other"]).refused(4);
}

#[test]
fn what_was_done_under_an_id_is_answered_again_after_a_kill_too_and_another_request_is_refused() {
    let mut lab = Lab::new();
    let (network, other) = (json!({"Name": "app"}), json!({"Name": "other"}));
    let sandbox = json!({"Name": "web", "Networks": [{"Network": "app"}], "Publish": ["8080:80"]});
    let ports = json!({"Specs": ["8081:81"]});
    let requests = [
        ("a", "POST", "/networks/create", &network),
        ("b", "POST", "/netd/v1/sandboxes", &sandbox),
        ("c", "POST", "/netd/v1/sandboxes/web/publish", &ports),
        ("d", "POST", "/netd/v1/sandboxes/web/unpublish", &ports),
        ("e", "POST", "/networks/app/disconnect", &json!({"Container": "web"})),
        ("f", "DELETE", "/netd/v1/sandboxes/web", &Value::Null),
        ("g", "POST", "/networks/prune", &Value::Null),
    ];
    let answers: Vec<_> =
        requests.iter().map(|(id, method, path, body)| call(&lab, id, method, path, body)).collect();
    for _ in 0..2 {
        for ((id, method, path, body), (status, _, first)) in requests.iter().zip(&answers) {
            let (again, repeated, body) = call(&lab, id, method, path, body);
            assert!(*status < 300 && repeated, "{path}: {status} {first}");
            assert_eq!((again, &body), (*status, first), "{path}");
        }
        let (status, _, body) = call(&lab, "a", "POST", "/networks/create", &other);
        assert_eq!((status, &body["code"]), (409, &json!("INVALID")), "{body}");
        assert_eq!(body["op_id"], "a");
        lab.daemon.end(Signal::SIGKILL);
        lab.daemon.restart();
    }
    assert_eq!(answers[6].2, json!({"NetworksDeleted": ["app"]}));
    // Done once: whoever has another id makes it anew. A refusal is not remembered.
    let (status, repeated, _) = call(&lab, "h", "POST", "/networks/create", &network);
    assert_eq!((status, repeated), (201, false));
    assert_eq!(call(&lab, "i", "POST", "/networks/create", &network).0, 409);
    assert_eq!(call(&lab, "j", "DELETE", "/networks/app", &Value::Null).0, 204);
    let (status, repeated, _) = call(&lab, "i", "POST", "/networks/create", &network);
    assert_eq!((status, repeated), (201, false));
    assert_eq!(call(&lab, "no id", "POST", "/networks/create", &other).0, 400);
}

#[test]
fn a_repetition_of_what_is_at_work_waits_for_it() {
    let mut lab = Lab::new();
    let gate = lab.daemon.dirs().path("gate");
    lab.daemon.end(Signal::SIGTERM);
    lab.daemon.restart_with(&[("NETD_FAILPOINTS", &format!("bridge.put.before=until:{}", gate.display()))]);
    let body = json!({"Name": "app"});
    let first = send(&lab, "a", "POST", "/networks/create", &body);
    eventually("the first at work", || lab.daemon.log().contains("failpoint reached"));
    let second = send(&lab, "a", "POST", "/networks/create", &body);
    // Whoever asked first has gone: it is done all the same, once.
    drop(first);
    fs::write(&gate, "").expect("the gate opens");
    let (status, repeated, said) = answer(second);
    assert_eq!((status, repeated), (201, true), "{said}");
    assert_eq!(said["Id"], lab.netd(&["network", "inspect", "app"]).json()[0]["Id"]);
}

#[test]
fn a_script_gives_a_command_its_id_and_has_it_done_once() {
    let lab = Lab::new();
    let run = |id: &str, args: &[&str]| {
        Run::new(args, &lab.h.output(lab.daemon.command(args).env("NETD_OPERATION_ID", id)))
    };
    let create = &["network", "create", "app"];
    let id = run("deploy-7", create).ok();
    assert_eq!(run("deploy-7", create).ok(), id);
    run("deploy-8", create).refused(4);
    run("deploy-10", &["network", "rm", "app"]).ok();
    run("deploy-10", &["network", "rm", "app"]).ok();
    run("deploy-11", &["network", "rm", "app"]).refused(3);
}
