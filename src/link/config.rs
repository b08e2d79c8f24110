//! The agent's configuration file, `agent.yaml`, which the operator writes into the backend's
//! `ConfigMap`. Both `backend init` and the agent read it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::health::TargetCheck;
use crate::onion::OnionAddress;

/// The maximum value that tor accepts for `HiddenServiceNumIntroductionPoints`.
const MAX_INTRODUCTION_POINTS: u8 = 20;
/// The maximum length of a DNS name in text form (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 253;
/// The name of a field that every configuration has.
const FIRST_FIELD: &str = "masterOnionAddress";

/// The configuration of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfig {
    /// The public onion address, which the agent writes into `ob_config`.
    pub master_onion_address: OnionAddress,
    /// The ports of the onion address.
    pub ports: Vec<ForwardedPort>,
    /// The number of introduction points that tor is configured to establish.
    pub introduction_points: u8,
    /// The time in seconds for which open streams are allowed to continue after the linger time.
    pub drain_timeout_seconds: u32,
    /// The linger time in seconds: new streams are still accepted for this long after the
    /// introduction points are withdrawn, because clients hold cached descriptors.
    pub linger_seconds: u32,
    /// The limits of each client's circuit. If None, a circuit may use an eighth of all streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_limits: Option<CircuitLimits>,
}

/// The limits that the agent enforces on each circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitLimits {
    /// The number of streams that may be open.
    pub open_streams: u32,
    /// The rate at which streams may be opened. If None, the rate is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_streams: Option<StreamRate>,
    /// The number of bytes that may be transferred per second, in both directions together. If
    /// None, the number is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u32>,
}

/// A rate at which streams may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRate {
    /// The number of streams per second.
    pub per_second: u32,
    /// The number of streams that may be opened at once after a pause.
    pub burst: u32,
}

/// A port of the onion address, and the target to which its streams are forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForwardedPort {
    /// The name of the port, for metrics and messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port that clients connect to. Tor forwards its streams to the unix socket
    /// `forward/<port>.sock`.
    pub port: u16,
    /// The target as `host:port`, which is resolved again for each connection.
    pub target: String,
    /// True if streams to the target begin with a PROXY protocol version 1 header that identifies
    /// the client's circuit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy_header: bool,
    /// The time in seconds after which a stream that transfers no data is closed. If None, a stream
    /// may be idle forever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u32>,
    /// The check of the target.
    #[serde(default, skip_serializing_if = "TargetCheck::is_default")]
    pub check: TargetCheck,
}

/// An error that explains why an agent configuration is rejected.
#[derive(Debug, thiserror::Error)]
pub enum AgentConfigError {
    /// The text is not valid YAML, or its structure is wrong. The message includes the position.
    #[error("{0}")]
    Yaml(#[from] serde_saphyr::Error),
    /// The configuration cannot be written as YAML.
    #[error("{0}")]
    Write(#[from] serde_saphyr::ser::Error),
    /// The value of a field is invalid.
    #[error("{field}: {problem}")]
    Field {
        /// The path of the field, for example `ports[0].target`.
        field: String,
        /// A description of the problem.
        problem: String,
    },
}

impl AgentConfig {
    /// Parses and validates an `agent.yaml`. An error quotes the text only if the text contains the
    /// field `masterOnionAddress`.
    pub fn from_yaml(text: &str) -> Result<Self, AgentConfigError> {
        // Whoever may run commands in a pod can name any file of the pod. A file without this field
        // may be a secret, which an error must not reveal.
        if !text.contains(FIRST_FIELD) {
            return Err(field(FIRST_FIELD, "is missing; this is not the configuration of an agent"));
        }
        let config: Self = serde_saphyr::from_str(text)?;
        config.validate()?;
        Ok(config)
    }

    /// Validates the configuration and formats it as `agent.yaml`.
    pub fn to_yaml(&self) -> Result<String, AgentConfigError> {
        self.validate()?;
        Ok(serde_saphyr::to_string(self)?)
    }

    /// Returns true if tor must write a PROXY header at the start of each stream
    /// (`HiddenServiceExportCircuitID haproxy`): if a port requests the header, or if the agent
    /// limits circuits. This option applies to the whole onion service, so the agent removes the
    /// header from streams to ports that do not request it.
    pub fn exports_circuit_id(ports: &[ForwardedPort], limits_circuits: bool) -> bool {
        limits_circuits || ports.iter().any(|port| port.proxy_header)
    }

    fn validate(&self) -> Result<(), AgentConfigError> {
        if !(1..=MAX_INTRODUCTION_POINTS).contains(&self.introduction_points) {
            let problem = format!("{} is not between 1 and {MAX_INTRODUCTION_POINTS}", self.introduction_points);
            return Err(field("introductionPoints", problem));
        }
        if self.ports.is_empty() {
            return Err(field("ports", "must contain at least one port"));
        }
        let mut seen = BTreeSet::new();
        for (index, port) in self.ports.iter().enumerate() {
            if port.port == 0 {
                return Err(field(format!("ports[{index}].port"), "0 is not a valid port"));
            }
            if !seen.insert(port.port) {
                return Err(field(format!("ports[{index}].port"), format!("{} is listed twice", port.port)));
            }
            if port.idle_timeout_seconds == Some(0) {
                return Err(field(format!("ports[{index}].idleTimeoutSeconds"), "0 is not a valid time"));
            }
            if let Some(problem) = port.check.problem() {
                return Err(field(format!("ports[{index}].check"), problem));
            }
            check_target(&port.target).map_err(|problem| field(format!("ports[{index}].target"), problem))?;
        }
        self.circuit_limits.map_or(Ok(()), CircuitLimits::validate)
    }
}

impl CircuitLimits {
    fn validate(self) -> Result<(), AgentConfigError> {
        let [per_second, burst] = self.new_streams.map_or([1, 1], |rate| [rate.per_second, rate.burst]);
        let numbers = [
            ("openStreams", self.open_streams),
            ("newStreams.perSecond", per_second),
            ("newStreams.burst", burst),
            ("bytesPerSecond", self.bytes_per_second.unwrap_or(1)),
        ];
        match numbers.into_iter().find(|(_, number)| *number == 0) {
            Some((name, _)) => Err(field(format!("circuitLimits.{name}"), "0 would refuse all streams")),
            None => Ok(()),
        }
    }
}

/// Checks that a target has the form `name:port`, `1.2.3.4:port` or `[2001:db8::1]:port`. Returns
/// the problem, if there is one.
pub fn check_target(target: &str) -> Result<(), String> {
    check_form(target).map_err(|problem| format!("{target:?} {problem}"))
}

fn check_form(target: &str) -> Result<(), &'static str> {
    let (host, port) = target.rsplit_once(':').ok_or("has no port; write host:port")?;
    // `u16::from_str` also accepts a leading plus sign.
    if !port.bytes().all(|b| b.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("has no port between 1 and 65535");
    }
    if let Some(rest) = host.strip_prefix('[') {
        let inner = rest.strip_suffix(']').ok_or("has an opening bracket without a closing one")?;
        return inner.parse::<core::net::Ipv6Addr>().map(drop).map_err(|_| "has no IPv6 address in its brackets");
    }
    if host.contains(':') {
        return Err("is ambiguous; put an IPv6 address in brackets, as in [2001:db8::1]:80");
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > MAX_HOST_BYTES || !host.bytes().all(allowed) {
        return Err("has no host name or IP address before the port");
    }
    Ok(())
}

fn field(field: impl Into<String>, problem: impl Into<String>) -> AgentConfigError {
    AgentConfigError::Field { field: field.into(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::{HttpCheck, HttpsCheck};

    /// The onion address of the Tor Project's website.
    const ADDRESS: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

    fn yaml() -> String {
        format!(
            "masterOnionAddress: {ADDRESS}\n\
             ports:\n\
             - name: http\n  port: 80\n  target: web.shop.svc:8080\n\
             - port: 443\n  target: '[2001:db8::1]:8443'\n  proxyHeader: true\n  idleTimeoutSeconds: 600\n\
             introductionPoints: 3\n\
             drainTimeoutSeconds: 120\n\
             lingerSeconds: 10\n\
             circuitLimits:\n  openStreams: 64\n  newStreams:\n    perSecond: 5\n    burst: 50\n  bytesPerSecond: 100000\n"
        )
    }

    #[test]
    fn parses_the_file_that_it_writes() {
        let config = AgentConfig::from_yaml(&yaml()).unwrap();
        assert_eq!(config.master_onion_address.to_string(), ADDRESS);
        assert_eq!(config.ports[0].name.as_deref(), Some("http"));
        assert_eq!(
            config.ports[1],
            ForwardedPort {
                name: None,
                port: 443,
                target: "[2001:db8::1]:8443".to_owned(),
                proxy_header: true,
                idle_timeout_seconds: Some(600),
                check: TargetCheck::default(),
            }
        );
        assert_eq!((config.introduction_points, config.drain_timeout_seconds, config.linger_seconds), (3, 120, 10));
        let new_streams = Some(StreamRate { per_second: 5, burst: 50 });
        let limits = CircuitLimits { open_streams: 64, new_streams, bytes_per_second: Some(100_000) };
        assert_eq!(config.circuit_limits, Some(limits));
        assert_eq!(AgentConfig::from_yaml(&config.to_yaml().unwrap()).unwrap(), config);
    }

    #[test]
    fn a_proxy_header_or_limits_of_circuits_make_tor_export_circuit_ids() {
        let mut ports = AgentConfig::from_yaml(&yaml()).unwrap().ports;
        assert!(AgentConfig::exports_circuit_id(&ports, false));
        ports.pop();
        assert!(!AgentConfig::exports_circuit_id(&ports, false));
        assert!(AgentConfig::exports_circuit_id(&ports, true));
    }

    #[test]
    fn errors_name_the_field() {
        let wrong = [
            ("port: 443", "port: 80", "ports[1].port: 80 is listed twice"),
            ("port: 443", "port: 0", "ports[1].port: 0 is not a valid port"),
            ("port: 443", "port: 65536", "port"),
            ("web.shop.svc:8080", "web", "ports[0].target: \"web\" has no port; write host:port"),
            ("Seconds: 600", "Seconds: 0", "ports[1].idleTimeoutSeconds: 0 is not a valid time"),
            ("introductionPoints: 3", "introductionPoints: 21", "introductionPoints: 21 is not between 1 and 20"),
            ("introductionPoints: 3", "introductionPoints: 0", "introductionPoints: 0 is not between 1 and 20"),
            ("lingerSeconds", "lingerSecond", "lingerSecond"),
            ("lingerSeconds: 10", "lingerSeconds: -1", "12:"),
            ("2gzyxa", "2gzyxb", "masterOnionAddress: 2gzyxb"),
            ("openStreams: 64", "openStreams: 0", "circuitLimits.openStreams: 0 would refuse all streams"),
            ("perSecond: 5", "perSecond: 0", "circuitLimits.newStreams.perSecond: 0 would refuse all streams"),
            ("burst: 50", "burst: 0", "circuitLimits.newStreams.burst: 0 would refuse all streams"),
            ("bytesPerSecond: 100000", "bytesPerSecond: 0", "circuitLimits.bytesPerSecond: 0 would refuse all streams"),
        ];
        for (good, bad, message) in wrong {
            let error = AgentConfig::from_yaml(&yaml().replace(good, bad)).unwrap_err().to_string();
            assert!(error.contains(message), "{bad}: {error}");
        }
        let mut config = AgentConfig::from_yaml(&yaml()).unwrap();
        config.ports.clear();
        assert_eq!(config.to_yaml().unwrap_err().to_string(), "ports: must contain at least one port");
    }

    #[test]
    fn the_default_check_is_not_written_because_older_agents_would_refuse_it() {
        let mut config = AgentConfig::from_yaml(&yaml()).unwrap();
        assert!(!config.to_yaml().unwrap().contains("check"), "{config:?}");
        config.ports[0].check = TargetCheck { http: Some(HttpCheck::default()), ..TargetCheck::default() };
        assert_eq!(AgentConfig::from_yaml(&config.to_yaml().unwrap()).unwrap(), config);
        config.ports[0].check.timeout_seconds = 0;
        let error = config.to_yaml().unwrap_err().to_string();
        assert_eq!(error, "ports[0].check: 0 is not a valid time or threshold");
    }

    /// Returns any check that a configuration can contain.
    fn check() -> impl Strategy<Value = TargetCheck> {
        let https = prop::option::of(any::<bool>().prop_map(|verify| HttpsCheck { verify }));
        let statuses = prop::collection::vec(any::<u16>(), 0..3);
        let http = ("/[!-~]{0,9}", prop::option::of("[!-~]{1,9}"), https, statuses)
            .prop_map(|(path, host, https, statuses)| HttpCheck { path, host, https, statuses });
        (any::<bool>(), prop::option::of(http), 1_u32.., 1_u32..).prop_map(|(enabled, http, period, timeout)| {
            TargetCheck { enabled, http, period_seconds: period, timeout_seconds: timeout, ..TargetCheck::default() }
        })
    }

    #[test]
    fn an_error_does_not_quote_another_file() {
        let token = "eyJhbGciOiJSUzI1NiJ9";
        for text in [token.to_owned(), format!("token: {token}"), format!("- {token}\n-{token}: ["), String::new()] {
            let error = AgentConfig::from_yaml(&text).unwrap_err().to_string();
            assert_eq!(error, "masterOnionAddress: is missing; this is not the configuration of an agent");
        }
    }

    #[test]
    fn targets_are_names_and_addresses_with_a_port() {
        for target in [
            "web:80",
            "web.shop.svc.cluster.local:8080",
            "_x.a-b.:1",
            "10.0.0.1:65535",
            "[::1]:80",
            "[2001:db8::1]:443",
        ] {
            assert_eq!(check_target(target), Ok(()), "{target}");
        }
    }

    #[test]
    fn rejects_other_targets_with_a_reason() {
        let long = format!("{}:80", "a".repeat(254));
        let refused = [
            ("web", "no port; write host:port"),
            ("", "no port; write host:port"),
            ("web:", "between 1 and 65535"),
            ("web:0", "between 1 and 65535"),
            ("web:65536", "between 1 and 65535"),
            ("web:+80", "between 1 and 65535"),
            ("web:http", "between 1 and 65535"),
            (":80", "no host name"),
            ("a b:80", "no host name"),
            ("http://web:80", "in brackets"),
            ("web/x:80", "no host name"),
            (&long, "no host name"),
            ("::1:80", "in brackets"),
            ("[::1:80", "without a closing one"),
            ("[web]:80", "no IPv6 address"),
            ("[fe80::1%eth0]:80", "no IPv6 address"),
        ];
        for (target, reason) in refused {
            let problem = check_target(target).unwrap_err();
            assert!(problem.contains(reason), "{target:?}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn parses_every_configuration_that_it_writes(
            ports in prop::collection::btree_map(
                1_u16..,
                (
                    prop::option::of("\\PC{0,15}|true|[0-9]{1,4}|~|- |[a-z]+: x"),
                    "[a-zA-Z0-9._-]{1,30}|[0-9]{1,3}",
                    1_u16..,
                    any::<bool>(),
                    prop::option::of(1_u32..),
                    check(),
                ),
                1..4,
            ),
            introduction_points in 1..=MAX_INTRODUCTION_POINTS,
            drain_timeout_seconds: u32,
            linger_seconds: u32,
            limits in prop::option::of((1_u32.., prop::option::of((1_u32.., 1_u32..)), prop::option::of(1_u32..))),
        ) {
            let ports = ports.into_iter().map(|(port, (name, host, target_port, proxy_header, idle, check))| {
                let target = format!("{host}:{target_port}");
                ForwardedPort { name, port, target, proxy_header, idle_timeout_seconds: idle, check }
            });
            let config = AgentConfig {
                master_onion_address: ADDRESS.parse().unwrap(),
                ports: ports.collect(),
                introduction_points,
                drain_timeout_seconds,
                linger_seconds,
                circuit_limits: limits.map(|(open_streams, rate, bytes_per_second)| CircuitLimits {
                    open_streams,
                    new_streams: rate.map(|(per_second, burst)| StreamRate { per_second, burst }),
                    bytes_per_second,
                }),
            };
            prop_assert_eq!(AgentConfig::from_yaml(&config.to_yaml().unwrap()).unwrap(), config);
        }

        #[test]
        fn parsing_never_panics(text in "(\\PC|\n){0,60}|masterOnionAddress: [a-z2-7]{56}\nports:\n- port: \\PC{0,8}\n") {
            let _ = AgentConfig::from_yaml(&text);
        }
    }
}
