//! Tells the daemon that a command runs, also a daemon that is being restarted: it ends the command with its sandbox.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    block_on,
    failure::{Doing, Failure},
    instance::Instance,
    wait,
};
use crate::{
    api::{Client, ClientError},
    controller::Code,
};

/// How long to wait for a daemon that is being restarted.
const PATIENCE: Duration = Duration::from_mins(5);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// A command that runs, and that the daemon knows of or is still to be told of.
#[derive(Debug)]
pub(super) struct Told {
    ended: Arc<AtomicBool>,
    teller: Option<JoinHandle<()>>,
}

impl Told {
    /// Tells the daemon now; where none answers, as soon as one does.
    ///
    /// A command whose sandbox was removed in between is ended, as it would have been had the daemon known of it.
    pub(super) fn started(client: &Client, sandbox: &str, process: Pid) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (client, sandbox, over) = (client.clone(), sandbox.to_owned(), Arc::clone(&ended));
        let call = move |client: &Client| {
            let (client, sandbox) = (client.clone(), sandbox.clone());
            async move { client.started(&sandbox, process.as_raw().unsigned_abs()).await }
        };
        let first = block_on(async { Ok(call(&client).await) });
        let teller = match first {
            Ok(Err(error)) if may_come_back(&error) => Some(std::thread::spawn(move || {
                let told = block_on(async {
                    Ok(patiently(&client, || call(&client), || over.load(Ordering::Acquire)).await)
                });
                settle(told, process);
            })),
            first => {
                settle(first, process);
                None
            }
        };
        Self { ended, teller }
    }

    /// The command has ended. It is reaped when nobody is left who may signal it.
    pub(super) fn ended(self, process: Pid) {
        self.ended.store(true, Ordering::Release);
        if let Some(teller) = self.teller {
            let _ = teller.join(); // what it had to say is in the log
        }
        wait::reap(process);
    }
}

/// Acts on the daemon's last word.
fn settle(told: Result<Result<(), ClientError>, Failure>, process: Pid) {
    match told.map(|told| (is_gone(&told), told.doing("report the command's start"))) {
        Ok((true, _)) => {
            let _ = kill(process, Signal::SIGKILL); // a zombie does not mind
        }
        Ok((false, Ok(()))) => {}
        Ok((false, Err(failure))) | Err(failure) => eprintln!("netd: {}", failure.message),
    }
}

fn is_gone(told: &Result<(), ClientError>) -> bool {
    matches!(told, Err(ClientError::Refused(error)) if error.code == Code::NotFound)
}

/// Whether a later try may succeed: no daemon, one that went away, one that stops.
fn may_come_back(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::NoAnswer { .. } => true,
        ClientError::Refused(error) => error.code == Code::NotReady,
        ClientError::Permission { .. } => false,
    }
}

/// Calls until the daemon answers, until nobody wants it any more, or its run directory is gone: `netd down` has removed the sandbox then.
pub(super) async fn patiently<F: Future<Output = Result<(), ClientError>>>(
    client: &Client,
    call: impl Fn() -> F,
    is_over: impl Fn() -> bool,
) -> Result<(), ClientError> {
    let start = Instant::now();
    let is_hopeless = || start.elapsed() >= PATIENCE || Instance::of(client).is_gone() || is_over();
    loop {
        match call().await {
            Err(error) if may_come_back(&error) && !is_hopeless() => {
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}
