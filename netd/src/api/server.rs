//! Accepts connections and bounds what each may cost: memory, time, and the number of them (reliability.md S36, 8.3).

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, Response, StatusCode, header, request::Parts},
    response::IntoResponse,
};
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tower::ServiceExt;

use super::{
    audit::{Call, Caller},
    connections::{Connections, MAX as MAX_CONNECTIONS, Slot},
    dto::ErrorBody,
    extract::Failure,
    operations::{self, Turns},
    router::{self, Api},
    users::{UserLimits, Users},
};
use crate::{
    audit::Log,
    controller::{Code, Error, Handle, Phase},
    model::OperationId,
};

/// Longest request body in bytes (reliability.md 8.3).
const MAX_BODY: usize = 1 << 20;
/// Longest request head in bytes (reliability.md S36).
const MAX_HEAD: usize = 16 << 10;
/// How long a client may take for a request's head; an idle connection is closed after as long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take for a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Mutating requests that may wait for the controller at one time (reliability.md 8.3).
const MAX_QUEUED: usize = 64;
/// Pause after a failed accept: without it a process out of descriptors would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the answer to a connection too many may take: its buffer is empty.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long requests in flight may go on once the daemon stops.
const DRAIN: Duration = Duration::from_secs(2);

/// What the API works with.
pub struct Service {
    /// Where clients connect.
    pub listener: UnixListener,
    /// The controller.
    pub handle: Handle,
    /// Where calls are written down.
    pub audit: Arc<Log>,
    /// What one user may take.
    pub user_limits: UserLimits,
}

struct Server {
    router: Router,
    handle: Handle,
    audit: Arc<Log>,
    connections: Connections,
    queued: Semaphore,
    turns: Turns,
    users: Arc<Users>,
}

/// Answers requests until `stop`, then finishes those in flight, for two seconds at most.
pub async fn serve_until(service: Service, stop: impl Future<Output = ()>) {
    let Service { listener, handle, audit, user_limits } = service;
    let (stopped, stopping) = watch::channel(false);
    let api =
        Api { handle: handle.clone(), audit: Arc::clone(&audit), run_dir: run_dir(&listener), stopping };
    let server = Arc::new(Server {
        router: router::router(api),
        handle,
        audit,
        connections: Connections::default(),
        queued: Semaphore::new(MAX_QUEUED),
        turns: Turns::default(),
        users: Users::new(user_limits),
    });
    let mut tasks = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(Arc::clone(&server).connection(stream));
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let _ = stopped.send(true); // nobody streams
    server.connections.stop();
    if timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
        tracing::debug!("requests in flight were cut off");
    }
}

/// The socket lies in the run directory, and so do the sandboxes' files.
fn run_dir(listener: &UnixListener) -> PathBuf {
    let address = listener.local_addr().ok();
    let path = address.as_ref().and_then(|address| address.as_pathname());
    path.and_then(|path| path.parent()).map(PathBuf::from).unwrap_or_default()
}

impl Server {
    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let caller = Caller::of(&stream);
        let _share = match self.users.connect(caller.uid()) {
            Ok(share) => share,
            Err(error) => {
                tracing::debug!(%caller, %error, "connection refused");
                return refuse(stream, error).await;
            }
        };
        let Some(slot) = self.connections.open() else {
            tracing::warn!(%caller, "connection refused: too many requests in flight");
            let message = format!("{MAX_CONNECTIONS} connections have requests in flight; try again");
            return refuse(stream, Error::new(Code::NotReady, message).in_phase(Phase::Request)).await;
        };
        let service = service_fn(|request| {
            let (server, slot, caller) = (Arc::clone(&self), slot.clone(), caller.clone());
            async move { Ok::<_, Infallible>(server.answer(request, &slot, &caller).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            // Somebody else needs the slot, or the daemon stops: what is in flight is finished, nothing more is read.
            () = slot.told_to_close() => {
                connection.as_mut().graceful_shutdown();
                if slot.is_busy() { connection.await } else { Ok(()) }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%caller, %error, "connection ended");
        }
    }

    /// Answers a request, and puts its number on a refusal.
    async fn answer(&self, mut request: Request<Incoming>, slot: &Slot, caller: &Caller) -> Response<Body> {
        // Its caller's name for it, if that is one: so both find it in the audit log.
        let named = request.headers().get(operations::HEADER).and_then(|id| id.to_str().ok());
        let named = named.and_then(|id| id.parse::<OperationId>().ok());
        let number = named.map_or_else(number, String::from);
        router::strip_version(request.uri_mut());
        let (parts, body) = request.into_parts();
        let mut call = Call::new(&parts.method, parts.uri.path());
        let body = received(body).await;
        let busy = slot.busy();
        let mut whole = None;
        let response = match body {
            Ok(body) if call.is_mutating() => {
                call.about(&self.handle.view(), &body);
                let (parts, body) = self.change(parts, body, caller.uid()).await.into_parts();
                whole = body.collect().await.map(Collected::to_bytes).ok(); // it is there already
                Response::from_parts(parts, Body::empty())
            }
            Ok(body) => self.route(parts, body).await,
            Err(refusal) => refusal,
        };
        let (mut parts, mut body) = response.into_parts();
        let refusal = parts.extensions.remove::<ErrorBody>();
        let said = whole.as_deref().unwrap_or_default();
        call.record(&self.audit, caller, &number, parts.status, refusal.as_ref(), said);
        if let Some(refusal) = refusal {
            whole = serde_json::to_vec(&ErrorBody { op_id: number, ..refusal }).map(Bytes::from).ok();
        }
        if let Some(bytes) = whole {
            if parts.status != StatusCode::NO_CONTENT {
                parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
            }
            body = Body::from(bytes);
        }
        // The connection is busy until the last byte has gone, which for /events may be hours.
        let body = Body::new(body.map_frame(move |frame| {
            let _ = &busy;
            frame
        }));
        Response::from_parts(parts, body)
    }

    /// Answers a request that changes something, if few others wait: once, where its caller has a name for it.
    async fn change(&self, mut parts: Parts, body: Bytes, uid: u32) -> Response<Body> {
        let _share = match self.users.change(uid) {
            Ok(share) => share,
            Err(error) => return Failure::from(error).into_response(),
        };
        // Whoever only reads takes no change's place.
        let Ok(_queued) = self.queued.try_acquire() else { return too_many() };
        let operation = match operations::operation(&parts.method, &parts.uri, &parts.headers, &body) {
            Ok(operation) => operation,
            Err(why) => return refused(why),
        };
        let mut _turn = None;
        if let Some(operation) = operation {
            _turn = Some(self.turns.wait(&operation.id).await);
            match self.handle.recall(&operation.id).await {
                Ok(None) => {}
                Ok(Some(finished)) => return operations::repeated(&operation, &finished, parts.uri.path()),
                Err(error) => return Failure::from(error).into_response(),
            }
            parts.extensions.insert(operation);
        }
        self.route(parts, body).await
    }

    async fn route(&self, parts: Parts, body: Bytes) -> Response<Body> {
        let Ok(response) = self.router.clone().oneshot(Request::from_parts(parts, Body::from(body))).await;
        response
    }
}

/// Reads a request's body, if it is short and comes soon.
async fn received(body: Incoming) -> Result<Bytes, Response<Body>> {
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(refused(format!("request body: {error}"))),
        Err(_) => Err(refused("request body: not received within 10 s".into())),
    }
}

/// Returns a number by which a request is found again: 16 hexadecimal digits.
fn number() -> String {
    getrandom::u64().map(|number| format!("{number:016x}")).unwrap_or_default()
}

/// Says why a connection is closed, without waiting for a request.
async fn refuse(mut stream: UnixStream, error: Error) {
    let body = serde_json::to_string(&ErrorBody::from(error)).unwrap_or_default();
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let _ = timeout(REFUSAL_TIMEOUT, stream.write_all(answer.as_bytes())).await; // who has gone needs no answer
}

fn refused(why: String) -> Response<Body> {
    Failure::request(why).into_response()
}

fn too_large() -> Response<Body> {
    let mut response = refused(format!("request body: longer than {MAX_BODY} bytes"));
    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
    response
}

fn too_many() -> Response<Body> {
    let message = format!("{MAX_QUEUED} operations are already waiting; try again");
    Failure::from(Error::new(Code::NotReady, message).in_phase(Phase::Request)).into_response()
}
