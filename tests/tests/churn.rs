//! Rung: namespaces, dataplane §12 cases 110 and 127, scaled. Networks and sandboxes that come and go under traffic leave nothing behind, and the kernel has
//! nothing to complain about.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
};

use netd_tests::{Asking, Family, H, Lab, Proto, R, Server, at};

const NETWORKS: u8 = 4;
const SANDBOXES: u8 = 3;
const ROUNDS: u8 = 2;

/// The kernel's log from now on.
struct KernelLog(Option<File>);

impl KernelLog {
    fn open() -> Self {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        let file = file.and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file));
        if let Err(error) = &file {
            println!("skipped: the kernel's log cannot be read here: {error}");
        }
        Self(file.ok())
    }

    /// Returns what the kernel complained about since.
    fn complaints(&mut self) -> Vec<String> {
        let Some(file) = &mut self.0 else { return Vec::new() };
        let (mut complaints, mut record) = (Vec::new(), [0; 8192]);
        // A record each; EPIPE says that some were overwritten.
        loop {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]).into_owned();
                    let bad =
                        ["WARNING:", "BUG:", "Oops", "refcount_t", "unregister_netdevice: waiting", "leaked"];
                    complaints.extend(bad.iter().any(|word| text.contains(word)).then_some(text));
                }
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        complaints
    }
}

#[test]
fn case110_case127_what_comes_and_goes_under_traffic_leaves_nothing_and_no_complaint() {
    let mut log = KernelLog::open();
    let lab = Lab::new();
    let net = lab.network("netA", 20, &[]);
    let a1 = lab.sandbox("a1", net, 2, &["-p", "8080:80", "-p", "8080:80/udp"]).serving(&[80]);
    let _remote = Server::start(&lab.r, &[80]);
    let mut streams = Family::BOTH.map(|family| {
        [a1.connect_stream(at(R.ip(family), 80)).0, lab.r.connect_stream(at(H.ip(family), 8080)).0]
    });
    let before = lab.snapshot();
    let names: Vec<String> = (0..NETWORKS).map(|number| format!("net{number}")).collect();
    for round in 0..ROUNDS {
        let askings = Family::BOTH.map(|family| Asking::start(&lab.r, at(H.ip(family), 8080)));
        for (number, name) in (40_u8..).zip(&names) {
            let (v4, v6) = (format!("172.{number}.0.0/24"), format!("fd00:c:{number}::/64"));
            lab.netd(&["network", "create", "--subnet", &v4, "--ipv6", "--subnet", &v6, name]).ok();
            for host in 0..SANDBOXES {
                let port = format!("{}:80", 20_000 + u16::from(number) * 100 + u16::from(host));
                let sandbox = format!("{name}-{host}");
                lab.netd(&["sandbox", "create", "--network", name, "-p", &port, &sandbox]).ok();
            }
            // One of each network carries packets before it goes.
            let busy = lab.open(&format!("{name}-0")).serving(&[80]);
            for family in Family::BOTH {
                assert_eq!(busy.reach(Proto::Tcp, at(R.ip(family), 80)).source.ip(), H.ip(family));
                let to = at(H.ip(family), 20_000 + u16::from(number) * 100);
                assert_eq!(lab.r.reach(Proto::Tcp, to).server, format!("{name}-0"));
            }
        }
        for name in &names {
            for host in 0..SANDBOXES {
                lab.netd(&["sandbox", "rm", "-f", &format!("{name}-{host}")]).ok();
            }
            lab.netd(&["network", "rm", name]).ok();
        }
        for asking in &askings {
            asking.until("an answer after the churn", |_| true);
        }
        for stream in streams.iter_mut().flatten() {
            stream.echo(b"still here").unwrap_or_else(|e| panic!("round {round}: {e}"));
        }
        drop(askings);
    }
    before.assert_unchanged(&lab.snapshot(), "what came and went");
    let lost: u32 = streams.iter().flatten().map(netd_tests::Stream::retransmissions).sum();
    assert_eq!(lost, 0, "segments were lost meanwhile");
    drop(a1);
    drop(lab);
    assert_eq!(log.complaints(), Vec::<String>::new(), "the kernel complains");
}
