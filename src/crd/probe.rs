//! The probe of the onion address from outside: its settings in `spec` and its results in `status`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, schema};

/// The probe of the onion address from outside. The leading publisher connects to the address
/// through Tor, as a client does, and the condition `Reachable` reports the result. The probe never
/// changes what is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AddressProbe {
    /// True switches the probe on, and false switches it off. A change replaces the frontend pods,
    /// because their tor gets or loses its SOCKS port. Default `true`.
    pub enabled: bool,
    /// The time in seconds from one probe to the next. Each probe covers one port, and the ports
    /// take turns. From 10 to 86400 (one day). Default 300.
    #[schemars(range(min = 10, max = 86400))]
    pub period_seconds: u32,
    /// The time in seconds after which a probe has failed. A probe makes up to two attempts, each
    /// for at most half of this time. An attempt waits 16 seconds to see whether the target refuses
    /// the stream. From 60 to 600. Default 120.
    #[schemars(range(min = 60, max = 600))]
    pub timeout_seconds: u32,
    /// An HTTP request to one port. If absent, and for all other ports, the probe only checks that
    /// the target accepts a connection and does not close it within 5 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
}

impl Default for AddressProbe {
    fn default() -> Self {
        Self { enabled: true, period_seconds: 300, timeout_seconds: 120, http: None }
    }
}

/// The HTTP request (`GET`, HTTP/1.1, without TLS) of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpProbe {
    /// The port of the onion address that speaks HTTP. From 1 to 65535. Default 80.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The path of the request, for example `/healthz`. At most 1024 characters. Default `/`.
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::request_path()))]
    pub path: String,
    /// The status that the response must have, from 100 to 599. If absent, every status from 200 to
    /// 399 is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub expected_status: Option<u16>,
    /// The `Host` header of the request, for example `web.example.org`. If absent, the header holds
    /// the onion address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::request_host()))]
    pub host: Option<String>,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self { port: 80, path: "/".to_owned(), expected_status: None, host: None }
    }
}

impl HttpProbe {
    /// Returns true if the path and the host fit into the head of an HTTP request.
    pub fn is_valid(&self) -> bool {
        is_path(&self.path) && self.host.as_deref().is_none_or(is_host)
    }
}

/// Returns true if `text` can be the path of an HTTP request.
pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns true if `text` can be the `Host` header of an HTTP request.
pub(super) fn is_host(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:[]-".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// The result of the last probe of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeStatus {
    /// The port of the onion address.
    pub port: u16,
    /// The result. `Answered`: the target behind the port answered. `DescriptorFailed`: no HSDir
    /// that clients ask has the descriptor. `IntroductionFailed`: no introduction point passed the
    /// request on. `RendezvousFailed`: no backend came to the rendezvous point. `TargetFailed`: a
    /// backend answered, but the target behind the port did not. `NotMade`: the publisher could not
    /// make the probe, for example because its own tor does not reach the network.
    pub result: ProbeResult,
    /// A human-readable explanation of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The time since which all probes of the port have had this result.
    #[schemars(schema_with = "schema::time")]
    pub since: Time,
}

/// The result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProbeResult {
    /// The target behind the port answered.
    Answered,
    /// No HSDir that clients ask has the descriptor.
    DescriptorFailed,
    /// No introduction point passed the request on.
    IntroductionFailed,
    /// No backend came to the rendezvous point.
    RendezvousFailed,
    /// A backend answered, but the target behind the port did not.
    TargetFailed,
    /// The publisher could not make the probe.
    NotMade,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_cannot_contain_another_one() {
        for path in ["", "x", "/a b", "/\r\nX: y", "/ü", &format!("/{}", "x".repeat(1024))] {
            assert!(!is_path(path), "{path:?}");
        }
        for host in ["", "a b", "a\r\nb", "a/b", "ü", &"x".repeat(254)] {
            assert!(!is_host(host), "{host:?}");
        }
        for host in ["example.org", "example.org:8080", "[2001:db8::1]:80"] {
            assert!(is_host(host), "{host}");
        }
        assert!(HttpProbe::default().is_valid() && is_path("/a?b=c&d=%20#e"));
    }
}
