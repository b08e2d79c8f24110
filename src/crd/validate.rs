//! Validation beyond the schema. Every problem names the field and says how to fix it.

mod location;
mod torrc;
mod vanguards;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use self::location::location;
pub use self::location::{changed_location, exposed_beside};
use self::vanguards::vanguards;
use super::messages;
use super::names::{MAX_NAME_LENGTH, OUR_PREFIX, RECOMMENDED_PREFIX};
use super::probe;
use super::torrc::Place;
use super::{
    AddressProbe, Anonymity, Backends, CircuitLimits, GuardMode, HealthCheck, IntroDosDefense, OnionBalancedService,
    PodSettings, Port, Resources, RestrictedDiscovery, Target,
};
use crate::onion::{ClientPublicKey, OnionAddress};

/// An invalid field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path of the field, for example `spec.ports[0].target`.
    pub field: String,
    /// A description of the problem and how to fix it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Checks an object's name. Returns the problem, if there is one.
pub fn name(object: &OnionBalancedService) -> Option<Problem> {
    let name = object.name_any();
    let problem = |message| Some(Problem { field: "metadata.name".to_owned(), message });
    if name.len() > MAX_NAME_LENGTH {
        return problem(format!(
            "has {} characters; use at most {MAX_NAME_LENGTH}, so that the names of the owned objects have at most 63",
            name.len()
        ));
    }
    if !is_dns_1035_label(&name) {
        return problem(messages::NAME_FORM.to_owned());
    }
    None
}

/// Checks an object's spec. Returns all problems.
pub fn spec(object: &OnionBalancedService) -> Vec<Problem> {
    let spec = &object.spec;
    let mut problems = Problems::default();
    ports(&mut problems, &spec.ports);
    if let Some(name) = &spec.master_key.secret_name
        && !is_dns_subdomain(name)
    {
        problems.add("spec.masterKey.secretName", messages::SECRET_NAME);
    }
    if spec.master_key.delegated && spec.master_key.secret_name.is_none() {
        problems.add("spec.masterKey.delegated", messages::DELEGATED);
    }
    if let Some(address) = &spec.master_key.onion_address
        && let Err(error) = address.parse::<OnionAddress>()
    {
        problems.add("spec.masterKey.onionAddress", error.to_string());
    }
    backends(&mut problems, &spec.backends);
    pod_settings(&mut problems, "spec.backends.template", &spec.backends.template);
    if spec.frontend.replicas < 0 {
        problems.add("spec.frontend.replicas", "must be 0 or more");
    }
    address_probe(&mut problems, &spec.frontend.probe);
    extra_torrc(&mut problems, "spec.frontend.extraTorrc", &spec.frontend.extra_torrc, Place::Frontend);
    pod_settings(&mut problems, "spec.frontend.template", &spec.frontend.template);
    guards(&mut problems, &spec.anonymity);
    vanguards(&mut problems, spec);
    location(&mut problems, spec);
    if let Some(restricted) = &spec.restricted_discovery {
        restricted_discovery(&mut problems, restricted);
    }
    external_backends(&mut problems, object);
    problems.0
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { field: field.into(), message: message.into() });
    }
}

fn guards(problems: &mut Problems, anonymity: &Anonymity) {
    const FIELD: &str = "spec.anonymity.guardsInUse";
    if !(1..=3).contains(&anonymity.guards_in_use) {
        problems.add(FIELD, "must be 1, 2 or 3");
    } else if anonymity.guards_in_use > 1 && anonymity.guards == GuardMode::PerPod {
        problems.add(FIELD, messages::GUARDS_IN_USE);
    }
}

fn external_backends(problems: &mut Problems, object: &OnionBalancedService) {
    let status = object.status.as_ref().and_then(|status| status.onion_address.as_ref());
    let own = [object.spec.master_key.onion_address.as_ref(), status];
    let own: Vec<OnionAddress> = own.into_iter().flatten().filter_map(|address| address.parse().ok()).collect();
    let mut seen = BTreeSet::new();
    for (index, backend) in object.spec.external_backends.iter().enumerate() {
        let field = format!("spec.externalBackends[{index}].onionAddress");
        match backend.onion_address.parse::<OnionAddress>() {
            Err(error) => problems.add(field, error.to_string()),
            Ok(address) if own.contains(&address) => {
                problems.add(field, messages::OWN_ADDRESS);
            }
            Ok(address) if !seen.insert(address) => problems.add(field, "is listed twice; list each backend once"),
            Ok(_) => {}
        }
        if !(1..=20).contains(&backend.max_introduction_points) {
            problems.add(format!("spec.externalBackends[{index}].maxIntroductionPoints"), "must be from 1 to 20");
        }
    }
}

fn ports(problems: &mut Problems, ports: &[Port]) {
    if ports.is_empty() {
        problems.add("spec.ports", "must list at least one port");
    }
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        if port.port == 0 {
            problems.add(format!("{field}.port"), "must be from 1 to 65535");
        }
        if !numbers.insert(port.port) {
            problems.add(format!("{field}.port"), format!("{} is listed twice; list each port once", port.port));
        }
        if let Some(name) = &port.name {
            if !is_dns_1123_label(name) {
                problems.add(format!("{field}.name"), messages::PORT_NAME);
            }
            if !names.insert(name) {
                problems
                    .add(format!("{field}.name"), format!("\"{name}\" is used twice; give each port a different name"));
            }
        }
        if port.idle_timeout_seconds.is_some_and(|seconds| !(1..=86400).contains(&seconds)) {
            problems.add(format!("{field}.idleTimeoutSeconds"), "must be from 1 to 86400, one day");
        }
        if let Some(check) = &port.health_check {
            health_check(problems, &format!("{field}.healthCheck"), check);
        }
        target(problems, &format!("{field}.target"), &port.target);
    }
}

fn health_check(problems: &mut Problems, field: &str, check: &HealthCheck) {
    let HealthCheck { period_seconds, timeout_seconds, failure_threshold, success_threshold, .. } = *check;
    for (name, value, most) in [
        ("periodSeconds", period_seconds, 3600),
        ("timeoutSeconds", timeout_seconds, 60),
        ("failureThreshold", failure_threshold, 100),
        ("successThreshold", success_threshold, 100),
    ] {
        if !(1..=most).contains(&value) {
            problems.add(format!("{field}.{name}"), format!("must be from 1 to {most}"));
        }
    }
    let Some(http) = &check.http else { return };
    if !probe::is_path(&http.path) {
        problems.add(format!("{field}.http.path"), messages::REQUEST_PATH);
    }
    if http.host.as_deref().is_some_and(|host| !probe::is_host(host)) {
        problems.add(format!("{field}.http.host"), messages::REQUEST_HOST);
    }
    if !http.statuses.iter().all(|status| (100..=599).contains(status)) {
        problems.add(format!("{field}.http.statuses"), "each status must be from 100 to 599");
    }
}

fn target(problems: &mut Problems, field: &str, target: &Target) {
    match (&target.service, &target.address) {
        (Some(_), Some(_)) => problems.add(field, messages::BOTH_TARGETS),
        (None, None) => {
            problems.add(field, messages::NO_TARGET);
        }
        (Some(service), None) => {
            if !is_dns_1123_label(&service.name) {
                problems.add(format!("{field}.service.name"), messages::SERVICE_NAME);
            }
            match &service.port {
                IntOrString::Int(number) if !(1..=65535).contains(number) => {
                    problems.add(format!("{field}.service.port"), "must be from 1 to 65535, or a port's name");
                }
                IntOrString::String(name) if name.is_empty() => {
                    problems.add(format!("{field}.service.port"), "is empty; set the port's name or number");
                }
                IntOrString::String(name) if !is_dns_1123_label(name) => {
                    problems.add(
                        format!("{field}.service.port"),
                        "is not a valid port name; use lower-case letters, digits and \"-\"",
                    );
                }
                IntOrString::Int(_) | IntOrString::String(_) => {}
            }
        }
        (None, Some(address)) => {
            if !is_host_and_port(address) {
                problems.add(
                    format!("{field}.address"),
                    format!("\"{address}\" does not have the form host:port, for example \"web.example.org:8080\" or \"[2001:db8::1]:80\""),
                );
            }
        }
    }
}

fn backends(problems: &mut Problems, backends: &Backends) {
    if backends.replicas < 0 {
        problems.add("spec.backends.replicas", "must be 0 or more");
    }
    if !(3..=20).contains(&backends.introduction_points) {
        problems.add("spec.backends.introductionPoints", "must be from 3 to 20");
    }
    if backends.drain_timeout_seconds > 86400 {
        problems.add("spec.backends.drainTimeoutSeconds", "must be at most 86400, one day");
    }
    if let Some(IntroDosDefense { rate_per_second, burst_per_second }) = backends.intro_dos_defense {
        // The cell extension that carries both values has this limit (rend-spec-v3,
        // "Denial-of-Service defense extension").
        if rate_per_second > 0x7fff_ffff || burst_per_second > 0x7fff_ffff {
            problems.add("spec.backends.introDosDefense", "each number must be at most 2147483647");
        }
        if burst_per_second < rate_per_second {
            problems.add("spec.backends.introDosDefense.burstPerSecond", messages::BURST);
        }
    }
    if let Some(limits) = &backends.circuit_limits {
        circuit_limits(problems, limits);
    }
    extra_torrc(problems, "spec.backends.extraTorrc", &backends.extra_torrc, Place::Backend);
}

fn circuit_limits(problems: &mut Problems, limits: &CircuitLimits) {
    let CircuitLimits { open_streams, streams_per_second, stream_burst, bytes_per_second } = limits;
    for (name, number, range) in [
        ("openStreams", Some(open_streams), 1..=16384_u32),
        ("streamsPerSecond", streams_per_second.as_ref(), 1..=10000),
        ("streamBurst", stream_burst.as_ref(), 1..=100_000),
        ("bytesPerSecond", bytes_per_second.as_ref(), 16384..=1_000_000_000),
    ] {
        if number.is_some_and(|number| !range.contains(number)) {
            let (least, most) = range.into_inner();
            problems.add(format!("spec.backends.circuitLimits.{name}"), format!("must be from {least} to {most}"));
        }
    }
    if stream_burst.is_some_and(|burst| streams_per_second.is_none_or(|rate| burst < rate)) {
        problems.add("spec.backends.circuitLimits.streamBurst", messages::STREAM_BURST);
    }
}

fn address_probe(problems: &mut Problems, probe: &AddressProbe) {
    const FIELD: &str = "spec.frontend.probe";
    if !(10..=86400).contains(&probe.period_seconds) {
        problems.add(format!("{FIELD}.periodSeconds"), "must be from 10 to 86400, one day");
    }
    if !(60..=600).contains(&probe.timeout_seconds) {
        problems.add(format!("{FIELD}.timeoutSeconds"), "must be from 60 to 600");
    }
    let Some(http) = &probe.http else { return };
    if http.port == 0 {
        problems.add(format!("{FIELD}.http.port"), "must be from 1 to 65535");
    }
    if !probe::is_path(&http.path) {
        problems.add(format!("{FIELD}.http.path"), messages::REQUEST_PATH);
    }
    if http.expected_status.is_some_and(|status| !(100..=599).contains(&status)) {
        problems.add(format!("{FIELD}.http.expectedStatus"), "must be from 100 to 599");
    }
    if http.host.as_deref().is_some_and(|host| !probe::is_host(host)) {
        problems.add(format!("{FIELD}.http.host"), messages::REQUEST_HOST);
    }
}

/// Checks the authorized clients in the spec. The contents of the Secret are checked elsewhere, and
/// an empty list of clients is valid.
fn restricted_discovery(problems: &mut Problems, restricted: &RestrictedDiscovery) {
    const FIELD: &str = "spec.restrictedDiscovery";
    if let Some(name) = &restricted.secret_name
        && !is_dns_subdomain(name)
    {
        problems.add(format!("{FIELD}.secretName"), messages::SECRET_NAME);
    }
    let (mut names, mut keys) = (BTreeSet::new(), BTreeMap::new());
    for (index, client) in restricted.clients.iter().enumerate() {
        let field = format!("{FIELD}.clients[{index}]");
        if client.name.is_empty() {
            problems.add(format!("{field}.name"), "is empty; give each client a name");
        } else if !names.insert(&client.name) {
            problems.add(
                format!("{field}.name"),
                format!("\"{}\" is used twice; give each client a different name", client.name),
            );
        }
        let field = format!("{field}.publicKey");
        match client.public_key.parse::<ClientPublicKey>().map(|key| keys.insert(key, &client.name)) {
            Ok(None) => {}
            Ok(Some(other)) => problems.add(field, format!("is also the key of \"{other}\"; remove one of them")),
            Err(error) => problems.add(field, error.to_string()),
        }
    }
}

fn extra_torrc(problems: &mut Problems, field: &str, lines: &str, place: Place) {
    problems
        .0
        .extend(torrc::check(lines, place).into_iter().map(|message| Problem { field: field.to_owned(), message }));
}

/// Checks the torrc lines for the pods of all services. Returns a message for each rejected line.
/// The messages name options but quote no values, which can be passwords.
pub fn tor_extra_config(lines: &str) -> Vec<String> {
    torrc::check(lines, Place::AllPods)
}

/// Checks the pod settings at the path `field`. Returns all problems.
pub fn template(field: &str, settings: &PodSettings) -> Vec<Problem> {
    let mut problems = Problems::default();
    pod_settings(&mut problems, field, settings);
    problems.0
}

fn pod_settings(problems: &mut Problems, field: &str, settings: &PodSettings) {
    our_keys(problems, &format!("{field}.labels"), &settings.labels);
    our_keys(problems, &format!("{field}.annotations"), &settings.annotations);
    if let Some(resources) = &settings.resources {
        quantities(problems, &format!("{field}.resources.tor"), resources.tor.as_ref());
        quantities(problems, &format!("{field}.resources.agent"), resources.agent.as_ref());
    }
}

fn our_keys(problems: &mut Problems, field: &str, map: &BTreeMap<String, String>) {
    for key in map.keys().filter(|key| key.starts_with(OUR_PREFIX) || key.starts_with(RECOMMENDED_PREFIX)) {
        problems.add(field, format!("\"{key}\" is reserved for the operator; use another key"));
    }
}

fn quantities(problems: &mut Problems, field: &str, resources: Option<&Resources>) {
    let Some(resources) = resources else { return };
    for (list, map) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, quantity) in map {
            let fine = match quantity {
                IntOrString::Int(number) => *number >= 0,
                IntOrString::String(text) => is_quantity(text),
            };
            if !fine {
                problems.add(format!("{field}.{list}.{name}"), "is not a quantity such as \"100m\", \"64Mi\" or 1");
            }
        }
    }
}

/// Returns true if the text is a Kubernetes resource quantity, for example `64Mi`, `100m` or
/// `128e6`.
fn is_quantity(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (number, suffix) = text.split_at(text.len() - number.len());
    let known = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].contains(&suffix);
    let exponent = suffix.strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
    (known || exponent.is_some_and(digits)) && number.parse::<f64>().is_ok()
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_fits = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<core::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host),
    };
    port_fits && host_fits
}

/// Returns true if the text is a DNS name or an IPv4 address. Names that contain `_` are also
/// valid, because some resolvers serve them.
fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

fn is_dns_1123_label(text: &str) -> bool {
    text.len() <= 63 && has_form_of_label(text)
}

fn has_form_of_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_dns_1035_label(text: &str) -> bool {
    is_dns_1123_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Returns true if the text is an RFC 1123 subdomain. A label may be longer than the 63 characters
/// that DNS allows, because Kubernetes limits only the length of the whole name.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(has_form_of_label)
}

#[cfg(test)]
mod tests;
