//! The daemon itself: version, info, errors; drops and flushed flows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::nullable;
use crate::controller::{Code, Error, Phase};

/// The body of every answer that reports an error: Docker's `message`, and what the CLI needs beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was being done, to which object, and why not.
    pub message: String,
    /// Stable word for the class of failure (reliability.md, appendix B).
    #[serde(default)]
    pub code: String,
    /// What the user can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The system's number for the reason, where it is the system's (errno(3)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// The request's number: in the audit log, too.
    #[serde(default)]
    pub op_id: String,
    /// What the request was about, such as `network app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// How far it came.
    #[serde(default)]
    pub phase: Phase,
    /// Whether the same request may succeed a moment later.
    #[serde(default)]
    pub retryable: bool,
}

/// Codes on the wire; stable.
const CODES: [(Code, &str); 10] = [
    (Code::Failure, "INTERNAL"),
    (Code::Usage, "INVALID"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::Conflict, "CONFLICT"),
    (Code::Forbidden, "FORBIDDEN"),
    (Code::Permission, "DENIED"),
    (Code::Unsupported, "UNSUPPORTED"),
    (Code::Limit, "LIMIT"),
    (Code::NoSpace, "NO_SPACE"),
    (Code::NotReady, "NOT_READY"),
];

impl From<Error> for ErrorBody {
    fn from(error: Error) -> Self {
        let code = CODES.iter().find(|(code, _)| *code == error.code).map_or("INTERNAL", |(_, word)| word);
        let retryable = error.is_retryable();
        let Error { message, hint, errno, object, phase, .. } = error;
        Self { message, code: code.into(), hint, errno, op_id: String::new(), object, phase, retryable }
    }
}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Self {
        let code = CODES.iter().find(|(_, word)| *word == body.code).map_or(Code::Failure, |(code, _)| *code);
        let ErrorBody { message, hint, errno, object, phase, .. } = body;
        Self { code, message, hint, errno, object, phase }
    }
}

/// The answer of `GET /version`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Version {
    /// What speaks.
    pub platform: BTreeMap<String, String>,
    /// netd, with details.
    pub components: Vec<VersionComponent>,
    /// netd's version.
    pub version: String,
    /// Newest Docker API version that is spoken.
    pub api_version: String,
    /// Oldest Docker API version that is spoken.
    #[serde(rename = "MinAPIVersion")]
    pub min_api_version: String,
    /// Always `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub arch: String,
    /// Release of the running kernel.
    pub kernel_version: String,
    /// netd's own: SHA-256 of the eBPF object in the daemon.
    #[serde(rename = "ObjectSHA256", deserialize_with = "nullable")]
    pub object_sha256: String,
}

/// An element of `Components`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VersionComponent {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// More, by name.
    #[serde(deserialize_with = "nullable")]
    pub details: BTreeMap<String, String>,
}

/// The answer of `GET /info`: what docker's clients look at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Info {
    /// The instance.
    #[serde(rename = "ID")]
    pub id: String,
    /// The host's name.
    pub name: String,
    /// Sandboxes.
    pub containers: usize,
    /// Sandboxes whose process runs.
    pub containers_running: usize,
    /// Sandboxes whose process has ended.
    pub containers_stopped: usize,
    /// Always `netd`.
    pub driver: String,
    /// What is degraded, in words.
    pub warnings: Vec<String>,
    /// Release of the running kernel.
    pub kernel_version: String,
    /// Always `linux`.
    #[serde(rename = "OSType")]
    pub os_type: String,
    /// `x86_64`, `aarch64`, ...
    pub architecture: String,
    /// netd's version.
    pub server_version: String,
    /// Plugins by kind; the network drivers.
    pub plugins: BTreeMap<String, Vec<String>>,
}

/// Packets dropped for one reason: an element of `GET /netd/v1/drops`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Drop {
    /// Stable word for the reason.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// The answer of `DELETE /netd/v1/flows`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FlowsFlushed {
    /// How many flows ended.
    pub flushed: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_wire() {
        for (code, word) in CODES {
            let error = Error::new(code, "remove network x: no").hint("do y");
            let error =
                Error { errno: Some(12), ..error.about(|| "network x".into()).in_phase(Phase::Apply) };
            let body = ErrorBody::from(error.clone());
            assert_eq!(body.code, word);
            let text = serde_json::to_string(&body).expect("JSON");
            assert_eq!(Error::from(serde_json::from_str::<ErrorBody>(&text).expect("JSON")), error);
        }
    }

    #[test]
    fn an_error_of_somebody_else_is_a_failure() {
        let body: ErrorBody = serde_json::from_str(r#"{"message":"nope"}"#).expect("JSON");
        assert_eq!(Error::from(body), Error::new(Code::Failure, "nope"));
    }
}
