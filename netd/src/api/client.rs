//! The CLI's end of the API: one connection to the daemon's Unix socket, one method per call.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{
    Filters, Repeats,
    dto::{
        ConnectRequest, Container, DisconnectRequest, Drop, ErrorBody, EventMessage, ExitedRequest,
        FlowsFlushed, NetworkCreateRequest, NetworkCreated, NetworkResource, NetworksPruned,
        PolicyCreateRequest, PolicyCreated, PolicyResource, PortMap, PublishRequest, SandboxCreateRequest,
        SandboxCreated, Sighting, StartedRequest, UnpublishRequest, Version,
    },
    operations,
};
use crate::{
    controller::{Code, Error, Status},
    dataplane::{Explanation, FlowInfo},
};

/// How long a daemon that was taken down may need until it has let go of its directories.
const LET_GO: Duration = Duration::from_secs(10);
/// How often to look whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How often to look whether a daemon that ended is back.
const KNOCK_EVERY: Duration = Duration::from_millis(20);

/// Whether a directory is empty, and no mount point: the daemon removes it as the last of its own.
fn is_going(dir: &Path) -> bool {
    let device = |dir: &Path| fs::metadata(dir).map(|data| data.dev()).ok();
    let is_empty = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    is_empty && dir.parent().and_then(device) == device(dir)
}

/// Why a call got no answer, or which answer it got.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("cannot reach the daemon at {}: {source}", socket.display())]
    Unreachable {
        /// Where the daemon should have been.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The socket is there and the caller may not use it.
    #[error("cannot reach the daemon at {}: permission denied", socket.display())]
    Permission {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon went away in the middle of a call, or is not netd.
    #[error("the daemon at {} did not answer: {why}", socket.display())]
    NoAnswer {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        why: String,
    },
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] Error),
}

/// Where the daemon listens: `unix:///path` or `/path`.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    repeats: Repeats,
}

impl FromStr for Client {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if !path.starts_with('/') {
            return Err(format!("{text:?} is not a Unix socket: write unix:///run/netd/netd.sock"));
        }
        Ok(Self { socket: path.into(), repeats: Repeats::default() })
    }
}

impl Client {
    /// Returns the client of the daemon with this run directory.
    pub fn of_run_dir(directory: &Path) -> Self {
        Self { socket: directory.join("netd.sock"), repeats: Repeats::default() }
    }

    /// Returns a client that repeats a change whose answer it did not hear, in this way.
    #[must_use]
    pub fn repeating(self, repeats: Repeats) -> Self {
        Self { repeats, ..self }
    }

    /// Returns the path of the daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns where the daemon listens, as `-H` takes it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

impl Client {
    /// Lists networks.
    pub async fn networks(&self, filters: &Filters) -> Result<Vec<NetworkResource>> {
        self.get(&with_filters("/networks", filters)).await
    }

    /// Shows a network.
    pub async fn network(&self, word: &str) -> Result<NetworkResource> {
        self.get(&format!("/networks/{}", segment(word))).await
    }

    /// Creates a network.
    pub async fn create_network(&self, request: &NetworkCreateRequest) -> Result<NetworkCreated> {
        self.call(Method::POST, "/networks/create", Some(request)).await
    }

    /// Removes a network.
    pub async fn remove_network(&self, word: &str) -> Result<()> {
        self.order(Method::DELETE, &format!("/networks/{}", segment(word)), NOTHING).await
    }

    /// Removes unused networks.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<NetworksPruned> {
        self.call(Method::POST, &with_filters("/networks/prune", filters), NOTHING).await
    }

    /// Attaches a sandbox to a network.
    pub async fn connect(&self, network: &str, request: &ConnectRequest) -> Result<()> {
        self.order(Method::POST, &format!("/networks/{}/connect", segment(network)), Some(request)).await
    }

    /// Takes a sandbox off a network.
    pub async fn disconnect(&self, network: &str, request: &DisconnectRequest) -> Result<()> {
        self.order(Method::POST, &format!("/networks/{}/disconnect", segment(network)), Some(request)).await
    }

    /// Lists sandboxes.
    pub async fn sandboxes(&self, filters: &Filters) -> Result<Vec<Container>> {
        self.get(&with_filters("/netd/v1/sandboxes", filters)).await
    }

    /// Shows a sandbox.
    pub async fn sandbox(&self, word: &str) -> Result<Container> {
        self.get(&sandbox_path(word, "")).await
    }

    /// Creates a sandbox.
    pub async fn create_sandbox(&self, request: &SandboxCreateRequest) -> Result<SandboxCreated> {
        self.call(Method::POST, "/netd/v1/sandboxes", Some(request)).await
    }

    /// Removes a sandbox.
    pub async fn remove_sandbox(&self, word: &str, force: bool) -> Result<()> {
        self.order(Method::DELETE, &sandbox_path(word, &format!("?force={force}")), NOTHING).await
    }

    /// Removes a sandbox's link by its alias.
    pub async fn unlink(&self, word: &str, alias: &str) -> Result<()> {
        self.order(Method::DELETE, &sandbox_path(word, &format!("/links/{}", segment(alias))), NOTHING).await
    }

    /// Says that a sandbox's command runs.
    pub async fn started(&self, word: &str, pid: u32) -> Result<()> {
        self.order(Method::POST, &sandbox_path(word, "/started"), Some(&StartedRequest { pid })).await
    }

    /// Says that a sandbox's command has ended.
    pub async fn exited(&self, word: &str, exit_code: u8) -> Result<()> {
        self.order(Method::POST, &sandbox_path(word, "/exited"), Some(&ExitedRequest { exit_code })).await
    }

    /// Publishes ports; returns the new ones.
    pub async fn publish(&self, word: &str, request: &PublishRequest) -> Result<PortMap> {
        self.call(Method::POST, &sandbox_path(word, "/publish"), Some(request)).await
    }

    /// Takes published ports back; returns the removed ones.
    pub async fn unpublish(&self, word: &str, request: &UnpublishRequest) -> Result<PortMap> {
        self.call(Method::POST, &sandbox_path(word, "/unpublish"), Some(request)).await
    }

    /// Lists policies.
    pub async fn policies(&self, filters: &Filters) -> Result<Vec<PolicyResource>> {
        self.get(&with_filters("/netd/v1/policies", filters)).await
    }

    /// Shows a policy.
    pub async fn policy(&self, word: &str) -> Result<PolicyResource> {
        self.get(&format!("/netd/v1/policies/{}", segment(word))).await
    }

    /// Adds a policy to a network.
    pub async fn add_policy(&self, request: &PolicyCreateRequest) -> Result<PolicyCreated> {
        self.call(Method::POST, "/netd/v1/policies", Some(request)).await
    }

    /// Removes a policy.
    pub async fn remove_policy(&self, word: &str) -> Result<()> {
        self.order(Method::DELETE, &format!("/netd/v1/policies/{}", segment(word)), NOTHING).await
    }

    /// Lists live flows; the query is made of (key, value).
    pub async fn flows(&self, query: &[(&str, &str)]) -> Result<Vec<FlowInfo>> {
        self.get(&with_query("/netd/v1/flows", query)).await
    }

    /// Ends flows.
    pub async fn flush_flows(&self, query: &[(&str, &str)]) -> Result<FlowsFlushed> {
        self.call(Method::DELETE, &with_query("/netd/v1/flows", query), NOTHING).await
    }

    /// Returns packets dropped, by reason.
    pub async fn drops(&self) -> Result<Vec<Drop>> {
        self.get("/netd/v1/drops").await
    }

    /// Explains a packet; the query is made of (key, value).
    pub async fn explain(&self, query: &[(&str, &str)]) -> Result<Explanation> {
        self.get(&with_query("/netd/v1/explain", query)).await
    }

    /// Returns the daemon's state.
    pub async fn status(&self) -> Result<Status> {
        self.get("/netd/v1/status").await
    }

    /// Returns numbers for monitoring, as `OpenMetrics` text.
    pub async fn metrics(&self) -> Result<String> {
        let text = self.bytes(Method::GET, "/netd/v1/metrics", NOTHING).await?;
        String::from_utf8(text.to_vec()).map_err(|error| self.no_answer(&error))
    }

    /// Returns the daemon's version.
    pub async fn version(&self) -> Result<Version> {
        self.get("/version").await
    }

    /// Removes everything the daemon put into the kernel, and waits until it has also let go of its directories.
    pub async fn down(&self) -> Result<()> {
        self.attempt(Method::POST, "/netd/v1/down", NOTHING, None).await?;
        let deadline = Instant::now() + LET_GO;
        let lets_go = || self.socket.exists() || self.socket.parent().is_some_and(is_going);
        while lets_go() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Calls back for every event until the daemon goes or the callback says so by returning false.
    pub async fn events(&self, query: &[(&str, &str)], each: impl FnMut(EventMessage) -> bool) -> Result<()> {
        self.follow(&with_query("/events", query), each).await
    }

    /// Calls back for every line of an endless answer.
    async fn follow<T: DeserializeOwned>(&self, path: &str, mut each: impl FnMut(T) -> bool) -> Result<()> {
        let response = self.send(Method::GET, path, NOTHING, None).await?;
        let mut body = response.into_body();
        let mut unread = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.no_answer(&error))?;
            unread.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                if !each(serde_json::from_slice(&line).map_err(|error| self.no_answer(&error))?) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Calls back for every packet that is dropped, until the daemon goes or the callback says so by returning false.
    pub async fn monitor(&self, filters: &Filters, each: impl FnMut(Sighting) -> bool) -> Result<()> {
        self.follow(&with_filters("/netd/v1/monitor", filters), each).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, NOTHING).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let bytes = self.bytes(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.no_answer(&error))
    }

    async fn order(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<()> {
        self.bytes(method, path, body).await.map(drop)
    }

    /// Calls; a change has an id, by which it is repeated where the daemon ended before it answered.
    async fn bytes(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Bytes> {
        if method == Method::GET {
            return self.attempt(method, path, body, None).await;
        }
        let id = self.repeats.operation();
        let first = self.attempt(method.clone(), path, body, id.as_deref()).await;
        let (Err(ClientError::NoAnswer { .. }), Some(id)) = (&first, id) else { return first };
        let deadline = Instant::now() + self.repeats.patience;
        while self.is_back(deadline).await {
            match self.attempt(method.clone(), path, body, Some(&id)).await {
                Err(ClientError::NoAnswer { .. } | ClientError::Unreachable { .. }) => {}
                answer => return answer,
            }
        }
        first
    }

    /// Waits until somebody listens on the socket again.
    async fn is_back(&self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            tokio::time::sleep(KNOCK_EVERY).await;
            if UnixStream::connect(&self.socket).await.is_ok() {
                return true;
            }
        }
        false
    }

    async fn attempt(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        operation: Option<&str>,
    ) -> Result<Bytes> {
        let response = self.send(method, path, body, operation).await?;
        Ok(response.collect().await.map_err(|error| self.no_answer(&error))?.to_bytes())
    }

    /// Sends one request on a connection of its own; an answer that reports an error becomes one.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        operation: Option<&str>,
    ) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.unreachable(source))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.no_answer(&error))?;
        tokio::spawn(connection);
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| self.no_answer(&error))?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, "netd");
        if let Some(id) = operation {
            request = request.header(operations::HEADER, id);
        }
        let request = request
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.no_answer(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.no_answer(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.collect().await.map_err(|error| self.no_answer(&error))?.to_bytes();
        Err(ClientError::Refused(refusal(status, &body)))
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Permission { socket },
            _ => ClientError::Unreachable { socket, source },
        }
    }

    fn no_answer(&self, why: &dyn std::error::Error) -> ClientError {
        ClientError::NoAnswer { socket: self.socket.clone(), why: why.to_string() }
    }
}

/// The body of a request that has none.
const NOTHING: Option<&()> = None;

fn refusal(status: StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => body.into(),
        Err(_) => Error::new(Code::Failure, format!("the daemon answered {status}")),
    }
}

fn sandbox_path(word: &str, rest: &str) -> String {
    format!("/netd/v1/sandboxes/{}{rest}", segment(word))
}

fn with_filters(path: &str, filters: &Filters) -> String {
    if filters.is_empty() { path.to_owned() } else { with_query(path, &[("filters", &filters.to_json())]) }
}

fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", segment(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// Percent-encodes everything but unreserved characters (RFC 3986 §2.3), so that no name can change the path.
fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => {
                let _ = write!(encoded, "%{byte:02X}"); // writing to a String cannot fail
            }
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_unix_sockets() {
        for good in ["unix:///run/netd/netd.sock", "/run/netd/netd.sock"] {
            assert!(
                good.parse::<Client>().is_ok_and(|client| client.socket.ends_with("netd.sock")),
                "{good}"
            );
        }
        for bad in ["", "tcp://127.0.0.1:2375", "netd.sock", "unix://netd.sock"] {
            assert!(bad.parse::<Client>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_name_changes_the_path() {
        assert_eq!(sandbox_path("../x?force=true", ""), "/netd/v1/sandboxes/..%2Fx%3Fforce%3Dtrue");
        assert_eq!(with_query("/f", &[("a", "b c"), ("d", "é")]), "/f?a=b%20c&d=%C3%A9");
    }
}
