//! The ports of an onion address in the spec of an `OnionBalancedService`: the target of each port,
//! and the check of the target.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, schema};

/// One port of the onion address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The name of the port in metrics and messages: at most 63 lower-case letters, digits and `-`.
    /// Each port needs a different name. If absent, only the number identifies the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), extend("x-kubernetes-validations" = rules::port_name()))]
    pub name: Option<String>,
    /// The port that clients connect to, as in `http://<address>.onion:<port>/`. Each port number
    /// may appear once. From 1 to 65535.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The destination of the streams that clients open to this port. Set either `service` or
    /// `address`.
    pub target: Target,
    /// The PROXY protocol version that the agent speaks to the target. With `v1`, each stream
    /// begins with a version 1 header whose source address identifies the client's circuit; the
    /// target must expect the header. If absent, streams carry no header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The time in seconds after which a stream is closed if it transfers no data in either
    /// direction. From 1 to 86400 (one day). If absent, idle streams stay open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub idle_timeout_seconds: Option<u32>,
    /// The check of the target. Each backend checks the target itself. A backend is withdrawn while
    /// its checks fail and those of another backend pass; if they fail at all backends, all stay.
    /// If absent, each backend opens a connection every 10 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// The check of a port's target. Without `http`, the target must accept a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthCheck {
    /// True switches the check on, and false switches it off. Default `true`.
    pub enabled: bool,
    /// The HTTP request that the target must answer. If absent, the target only has to accept
    /// connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHealthCheck>,
    /// The time in seconds between two checks. A result that differs from the previous ones is
    /// checked again after a second. From 1 to 3600 (one hour). Default 10.
    #[schemars(range(min = 1, max = 3600))]
    pub period_seconds: u32,
    /// The time in seconds after which a check has failed. From 1 to 60. Default 2.
    #[schemars(range(min = 1, max = 60))]
    pub timeout_seconds: u32,
    /// The number of consecutive failures after which the target counts as failing. The failures
    /// must also extend over 4 seconds. From 1 to 100. Default 2.
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: u32,
    /// The number of consecutive successes after which a failing target counts as passing again.
    /// From 1 to 100. Default 2.
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            enabled: true,
            http: None,
            period_seconds: 10,
            timeout_seconds: 2,
            failure_threshold: 2,
            success_threshold: 2,
        }
    }
}

/// An HTTP request that the target of a port must answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpHealthCheck {
    /// The path of the request, for example `/healthz`. The path begins with `/` and may include a
    /// query. At most 1024 characters. Default `/`.
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::request_path()))]
    pub path: String,
    /// The value of the `Host` header, for example `web.example.org`. If absent, the header names
    /// the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = rules::request_host()))]
    pub host: Option<String>,
    /// The settings of HTTPS. If set, even to `{}`, the request uses HTTPS. The name in the
    /// certificate must be that of `host` or, if `host` is absent, of the target. If absent, the
    /// request uses plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<HttpsHealthCheck>,
    /// The expected statuses, at most 16, each from 100 to 599. If empty, every status from 200 to
    /// 399 is expected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 100, max = 599)))]
    pub statuses: Vec<u16>,
}

/// The HTTPS settings of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpsHealthCheck {
    /// True requires a certificate from a public certificate authority, and false accepts every
    /// certificate. Default `true`.
    pub verify: bool,
}

impl Default for HttpsHealthCheck {
    fn default() -> Self {
        Self { verify: true }
    }
}

impl Default for HttpHealthCheck {
    fn default() -> Self {
        Self { path: "/".to_owned(), host: None, https: None, statuses: Vec::new() }
    }
}

/// A version of the PROXY protocol. With `v1`, each stream to the target begins with a version 1
/// header whose source address identifies the client's circuit. The target must expect the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// The human-readable header format, version 1.
    V1,
}

/// The destination of a port's streams. Exactly one field must be set. Some destinations are
/// refused (`--refused-targets`), by default the pod itself, link-local addresses, the metadata
/// services of cloud providers, and the API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules::target()))]
pub struct Target {
    /// A Service in the same namespace. The agent resolves its name for each connection, so the
    /// Service can be deleted and created again. If absent, `address` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceTarget>,
    /// A `host:port` pair, for example `web.example.org:8080` or `[2001:db8::1]:80`. The agent
    /// resolves the host name for each connection. If absent, `service` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300), extend("x-kubernetes-validations" = rules::host_and_port()))]
    pub address: Option<String>,
}

/// A reference to one port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceTarget {
    /// The name of the Service.
    #[schemars(length(min = 1, max = 63), extend("x-kubernetes-validations" = rules::service_name()))]
    pub name: String,
    /// The name or the number of the Service's port, for example `http` or `80`. A number refers to
    /// `port`, not to `targetPort`.
    #[schemars(schema_with = "schema::port_reference")]
    pub port: IntOrString,
}
