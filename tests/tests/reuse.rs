//! Rung: namespaces, rows T73 and T75, dataplane §12 cases 28 and 96. Ports that are withdrawn from clients that keep asking, and addresses that get another
//! owner: nothing that was meant for one reaches the other.

use std::net::{SocketAddr, UdpSocket};

use netd_tests::{
    Asking, Family, H, Lab, Net, Ns, PATIENCE, Proto, R, SILENCE, Sandbox, Server, Silence, at,
};

const WEB: [&str; 4] = ["-p", "8080:80", "-p", "8080:80/udp"];

fn lab_with_two_networks() -> (Lab, Net, Net) {
    let lab = Lab::new();
    let (a, b) = (lab.network("netA", 20, &[]), lab.network("netB", 21, &[]));
    (lab, a, b)
}

/// Asks once more from a socket that has asked before.
fn ask_again(ns: &Ns, socket: &UdpSocket, to: SocketAddr) -> Option<String> {
    ns.run(|| {
        let _ = socket.take_error();
        let _ = socket.send_to(b"who?", to); // the error may be the one before's
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

#[test]
fn t73_a_withdrawn_port_is_closed_to_every_client_that_keeps_asking_from_one_port() {
    let (lab, a, b) = lab_with_two_networks();
    let a1 = lab.sandbox("a1", a, 2, &WEB).serving(&[80]);
    let (a2, b1) = (lab.sandbox("a2", a, 3, &[]), lab.sandbox("b1", b, 2, &[]));
    for family in Family::BOTH {
        let host = at(H.ip(family), 8080);
        let clients: [(&Ns, SocketAddr); 6] = [
            (&lab.r, host),
            (&a2, host),
            (&b1, host),
            (&a1, host),
            (&lab.h, host),
            (&lab.h, at(family.loopback(), 8080)),
        ];
        let sockets = clients.map(|(ns, to)| {
            let socket = ns.run(|| UdpSocket::bind(at(family.any(), 0)).expect("a socket"));
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            assert!(ask_again(ns, &socket, to).is_some_and(|line| line.starts_with("a1 ")), "{}", ns.name());
            (ns, to, socket)
        });
        lab.netd(&["unpublish", "a1", "8080:80/udp"]).ok();
        let silence = Silence::watch(&a1);
        for (ns, to, socket) in &sockets {
            socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
            for _ in 0..3 {
                assert_eq!(ask_again(ns, socket, *to), None, "{} to {to} after unpublish", ns.name());
            }
        }
        drop(silence); // a1 itself has asked, and hears what comes of it
        lab.netd(&["publish", "a1", "8080:80/udp"]).ok();
        for (ns, to, socket) in &sockets {
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let answered =
                (0..5).any(|_| ask_again(ns, socket, *to).is_some_and(|line| line.starts_with("a1 ")));
            assert!(answered, "{} to {to}: published again", ns.name());
        }
    }
}

/// Replaces a sandbox by another with its addresses.
fn replaced(lab: &Lab, net: Net, old: Sandbox, publish: &[&str]) -> Sandbox {
    drop(old);
    lab.netd(&["sandbox", "rm", "-f", "a1"]).ok();
    lab.sandbox("a1", net, 2, publish).serving(&[80])
}

#[test]
fn t75_answers_to_what_a_removed_sandbox_has_asked_outside_do_not_reach_the_next_one() {
    let (lab, net, _) = lab_with_two_networks();
    let mut a1 = lab.sandbox("a1", net, 2, &[]);
    for family in Family::BOTH {
        // R answers late: to where the question came from, after the sandbox has another owner.
        let late = lab.r.run(|| UdpSocket::bind(at(R.ip(family), 5300)).expect("a socket"));
        late.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let asking = a1.run(|| UdpSocket::bind(at(family.any(), 4000)).expect("a socket"));
        a1.run(|| asking.send_to(b"a question", at(R.ip(family), 5300))).expect("send");
        let (_, asker) = late.recv_from(&mut [0; 64]).expect("the question");
        assert_eq!(asker.ip(), H.ip(family));
        late.send_to(b"an answer", asker).expect("send");
        asking.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        asking.recv(&mut [0; 64]).expect("the way is there");
        // A stream that the server will go on with, too.
        let server = lab.r.run(|| std::net::TcpListener::bind(at(R.ip(family), 5301)).expect("a listener"));
        let client = a1.run(|| netd_tests::connect(at(R.ip(family), 5301), None, PATIENCE)).expect("connect");
        let (mut accepted, _) = server.accept().expect("the stream");
        drop(asking);
        std::mem::forget(client); // as if its process were cut off: no FIN
        a1 = replaced(&lab, net, a1, &[]);
        let silence = Silence::watch(&a1);
        for _ in 0..5 {
            late.send_to(b"a late answer", asker).expect("send");
            let _ = std::io::Write::write(&mut accepted, b"late bytes");
        }
        // What it asks itself does reach it.
        let own = a1.run(|| UdpSocket::bind(at(family.any(), 4001)).expect("a socket"));
        own.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        silence.assert("the next owner of the address");
        a1.run(|| own.send_to(b"a question", at(R.ip(family), 5300))).expect("send");
        let (_, asker) = late.recv_from(&mut [0; 64]).expect("the question");
        late.send_to(b"an answer", asker).expect("send");
        own.recv(&mut [0; 64]).expect("its own answer");
    }
}

#[test]
fn t75_streams_between_networks_and_from_the_host_end_with_their_sandbox() {
    let (lab, net, other) = lab_with_two_networks();
    let mut a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let (a2, b1) = (lab.sandbox("a2", net, 3, &[]), lab.sandbox("b1", other, 2, &[]));
    for family in Family::BOTH {
        let host = at(H.ip(family), 8080);
        let clients: [(&Ns, SocketAddr); 5] =
            [(&lab.r, host), (&a2, host), (&b1, host), (&lab.h, host), (&lab.h, at(family.loopback(), 8080))];
        let mut streams = clients.map(|(ns, to)| (ns.name(), to, ns.connect_stream(to).0));
        a1 = replaced(&lab, net, a1, &WEB);
        for (who, to, stream) in &mut streams {
            stream.patience(SILENCE);
            stream.echo(b"for the one before").expect_err(&format!("{who} to {to}: its server is gone"));
        }
        for (ns, to) in clients {
            assert_eq!(ns.reach(Proto::Tcp, to).server, "a1", "{} to {to}: the next one serves", ns.name());
        }
    }
}

#[test]
fn t73_t74_a_client_follows_its_port_from_sandbox_to_sandbox_on_one_address() {
    let (lab, net, _) = lab_with_two_networks();
    let _remote = Server::start(&lab.r, &[80]);
    let mut a1 = lab.sandbox("a1", net, 2, &WEB).serving(&[80]);
    let askings = Family::BOTH.map(|family| {
        [Asking::start(&lab.r, at(H.ip(family), 8080)), Asking::start(&lab.h, at(family.loopback(), 8080))]
    });
    for _ in 0..3 {
        a1 = replaced(&lab, net, a1, &WEB);
        for asking in askings.iter().flatten() {
            asking.until("an answer of the next owner", |seen| seen.server == "a1");
        }
    }
    drop(a1);
}
