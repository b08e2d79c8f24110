//! The administrator's policy: the values that the authors of objects may use. Someone who can
//! write only `OnionBalancedService` objects must not gain access to more than the objects are for.
//! The defaults are therefore strict, and flags relax them. The policy does not apply to the
//! default templates, which the administrator writes.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use kube::ResourceExt as _;
use serde_json::Value;

use crate::crd::validate::Problem;
use crate::crd::{OnionBalancedService, PodSettings, Port, ServerLocation};
use crate::link::RefusedTargets;

/// The item of a list that allows everything.
const ANY: &str = "*";
/// The maximum length of a value in a message, in characters.
const LONGEST: usize = 100;

/// The flags that determine the [`ObjectPolicy`].
#[derive(Debug, Clone, clap::Args)]
pub struct PolicyArgs {
    /// Addresses that no target may have: addresses, networks such as 10.0.0.0/8, and `api-server`,
    /// separated by commas; `none` refuses nothing [default: the pod itself, link-local addresses,
    /// the metadata services of cloud providers, and the API server]
    #[arg(long, env = "REFUSED_TARGETS", value_name = "LIST", default_value = "", hide_default_value = true)]
    refused_targets: RefusedTargets,
    /// Prefixes of the labels that templates may set, separated by commas; `*` allows all labels
    /// [default: none]
    #[arg(long, env = "ALLOWED_LABEL_PREFIXES", value_name = "LIST", default_value = "", hide_default_value = true)]
    allowed_label_prefixes: AllowList,
    /// Prefixes of the annotations that templates may set, separated by commas; `*` allows all
    /// annotations [default: none]
    #[arg(
        long,
        env = "ALLOWED_ANNOTATION_PREFIXES",
        value_name = "LIST",
        default_value = "",
        hide_default_value = true
    )]
    allowed_annotation_prefixes: AllowList,
    /// Priority classes that templates may name, separated by commas; `*` allows all [default:
    /// none]
    #[arg(long, env = "ALLOWED_PRIORITY_CLASSES", value_name = "LIST", default_value = "", hide_default_value = true)]
    allowed_priority_classes: AllowList,
    /// Runtime classes that templates may name, separated by commas; `*` allows all [default: none]
    #[arg(long, env = "ALLOWED_RUNTIME_CLASSES", value_name = "LIST", default_value = "", hide_default_value = true)]
    allowed_runtime_classes: AllowList,
    /// Taints that templates may tolerate, as `KEY[=VALUE][:EFFECT]`, separated by commas; `*`
    /// allows all [default: none]
    #[arg(long, env = "ALLOWED_TOLERATIONS", value_name = "LIST", default_value = "", hide_default_value = true)]
    allowed_tolerations: AllowedTolerations,
    /// Allow services that are not anonymous (`spec.anonymity.serverLocation: Exposed`), so that
    /// everyone can find out the addresses of the nodes
    #[arg(long, env = "ALLOW_EXPOSED_LOCATIONS", value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    allow_exposed_locations: bool,
    /// Address of the API server, from the variable that the kubelet sets in every pod
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", value_name = "HOST", default_value = "", hide = true)]
    kubernetes_service_host: String,
}

/// The administrator's policy on the values in objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectPolicy {
    /// The addresses that no target may have. The agents check the addresses of their connections
    /// against the same list.
    pub refused_targets: RefusedTargets,
    /// The address of the API server, if it is known.
    api_server: Option<IpAddr>,
    labels: AllowList,
    annotations: AllowList,
    priority_classes: AllowList,
    runtime_classes: AllowList,
    tolerations: AllowedTolerations,
    exposed_locations: bool,
}

/// A list of names or prefixes that are allowed, or everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct AllowList(Vec<String>);

/// A list of the taints that may be tolerated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct AllowedTolerations {
    any: bool,
    taints: Vec<Taint>,
}

/// The taints with a key and, if they are given, with a value and an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taint {
    key: String,
    value: Option<String>,
    effect: Option<String>,
}

/// The effects that a taint can have.
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

impl PolicyArgs {
    /// Returns the policy that these flags specify.
    pub fn policy(&self) -> ObjectPolicy {
        ObjectPolicy {
            refused_targets: self.refused_targets.clone(),
            // The administrator may have set the variable to a name, which the operator does not
            // resolve. The agents have a variable of their own.
            api_server: self.kubernetes_service_host.parse().ok(),
            labels: self.allowed_label_prefixes.clone(),
            annotations: self.allowed_annotation_prefixes.clone(),
            priority_classes: self.allowed_priority_classes.clone(),
            runtime_classes: self.allowed_runtime_classes.clone(),
            tolerations: self.allowed_tolerations.clone(),
            exposed_locations: self.allow_exposed_locations,
        }
    }
}

impl ObjectPolicy {
    /// Returns a policy that allows every template and exposed locations, and refuses only the
    /// default targets.
    pub fn with_any_template() -> Self {
        let any = AllowList(vec![ANY.to_owned()]);
        Self {
            labels: any.clone(),
            annotations: any.clone(),
            priority_classes: any.clone(),
            runtime_classes: any,
            tolerations: AllowedTolerations { any: true, taints: Vec::new() },
            exposed_locations: true,
            ..Self::default()
        }
    }

    /// Checks an object's spec. Returns a problem for each value that the policy does not allow.
    pub fn problems(&self, object: &OnionBalancedService) -> Vec<Problem> {
        let (spec, namespace) = (&object.spec, object.namespace().unwrap_or_default());
        let targets = spec.ports.iter().enumerate().filter_map(|(index, port)| self.target(index, port, &namespace));
        let mut problems: Vec<_> = targets.collect();
        for (field, template) in [("backends", &spec.backends.template), ("frontend", &spec.frontend.template)] {
            self.template(&mut problems, &format!("spec.{field}.template"), template);
        }
        if spec.anonymity.server_location == ServerLocation::Exposed && !self.exposed_locations {
            problems.push(Problem {
                field: "spec.anonymity.serverLocation".to_owned(),
                message: not_allowed("\"Exposed\"", "--allow-exposed-locations"),
            });
        }
        problems
    }

    fn target(&self, index: usize, port: &Port, namespace: &str) -> Option<Problem> {
        let (field, target, host) = match (&port.target.address, &port.target.service) {
            (Some(address), _) => ("address", quoted(address), address.rsplit_once(':')?.0.to_owned()),
            (None, Some(service)) => {
                ("service", format!("Service {}", quoted(&service.name)), format!("{}.{namespace}.svc", service.name))
            }
            (None, None) => return None,
        };
        let item = self.refusal(&host, namespace)?;
        Some(Problem {
            field: format!("spec.ports[{index}].target.{field}"),
            message: format!(
                "{target} is not allowed, because --refused-targets contains {item}; use another target, or ask the \
                 cluster's administrator to change this list"
            ),
        })
    }

    /// Returns the item of the list of refused targets that refuses a host, as far as this is known
    /// without resolving a name. `namespace` is the namespace of the pods that would connect.
    fn refusal(&self, host: &str, namespace: &str) -> Option<String> {
        let refusal = |address: IpAddr| self.refused_targets.refusal(address, self.api_server);
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return refusal(address);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") {
            return refusal(Ipv4Addr::LOCALHOST.into()).or_else(|| refusal(Ipv6Addr::LOCALHOST.into()));
        }
        let names_api_server = self.refused_targets.refuses_api_server() && is_api_server(&name, namespace);
        names_api_server.then(|| "api-server".to_owned())
    }

    fn template(&self, problems: &mut Vec<Problem>, path: &str, template: &PodSettings) {
        let mut refuse = |field: &str, value: &str, flag: &str| {
            problems.push(Problem { field: format!("{path}.{field}"), message: not_allowed(value, flag) });
        };
        for key in template.labels.keys().filter(|key| !self.labels.has_prefix_of(key)) {
            refuse("labels", &quoted(key), "--allowed-label-prefixes");
        }
        for key in template.annotations.keys().filter(|key| !self.annotations.has_prefix_of(key)) {
            refuse("annotations", &quoted(key), "--allowed-annotation-prefixes");
        }
        for (index, toleration) in template.tolerations.iter().enumerate() {
            if !self.tolerations.allow(toleration) {
                refuse(&format!("tolerations[{index}]"), &cut(&toleration.to_string()), "--allowed-tolerations");
            }
        }
        // An empty name sets no class, so that the default applies.
        for (field, class, allowed, flag) in [
            ("priorityClassName", &template.priority_class_name, &self.priority_classes, "--allowed-priority-classes"),
            ("runtimeClassName", &template.runtime_class_name, &self.runtime_classes, "--allowed-runtime-classes"),
        ] {
            if let Some(name) = class.as_ref().filter(|name| !name.is_empty() && !allowed.has(name)) {
                refuse(field, &quoted(name), flag);
            }
        }
    }
}

fn not_allowed(value: &str, flag: &str) -> String {
    format!("{value} is not allowed; remove it, or ask the cluster's administrator to allow it with {flag}")
}

fn quoted(value: &str) -> String {
    format!("{:?}", cut(value))
}

fn cut(value: &str) -> String {
    let mut characters = value.chars();
    let start: String = characters.by_ref().take(LONGEST).collect();
    if characters.next().is_some() { start + "…" } else { start }
}

/// Returns true if a lower-case name is one of the names of the Service `kubernetes` in the
/// namespace `default`, as seen from pods in `namespace`. The last labels of its full name are the
/// cluster's own domain.
fn is_api_server(name: &str, namespace: &str) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    match labels.as_slice() {
        ["kubernetes"] => namespace == "default",
        ["kubernetes", "default"] | ["kubernetes", "default", "svc", ..] => true,
        _ => false,
    }
}

impl FromStr for AllowList {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(items(text).map(ToOwned::to_owned).collect()))
    }
}

impl AllowList {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|allowed| allowed == name || allowed == ANY)
    }

    fn has_prefix_of(&self, key: &str) -> bool {
        self.0.iter().any(|prefix| key.starts_with(prefix) || prefix == ANY)
    }
}

impl FromStr for AllowedTolerations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut allowed = Self::default();
        for item in items(text) {
            if item == ANY {
                allowed.any = true;
            } else {
                allowed.taints.push(item.parse()?);
            }
        }
        Ok(allowed)
    }
}

impl FromStr for Taint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, effect) = text.split_once(':').map_or((text, None), |(rest, effect)| (rest, Some(effect)));
        let (key, value) = rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value)));
        let is_effect = effect.is_none_or(|effect| EFFECTS.contains(&effect));
        if key.is_empty() || !is_effect {
            return Err(format!(
                "{text:?} is not of the form KEY[=VALUE][:EFFECT]; an effect is {}",
                EFFECTS.join(", ")
            ));
        }
        let [value, effect] = [value, effect].map(|part| part.map(ToOwned::to_owned));
        Ok(Self { key: key.to_owned(), value, effect })
    }
}

impl AllowedTolerations {
    /// Returns true if the list allows everything that a toleration tolerates. Only the API server
    /// knows all fields and values of a toleration, so anything unknown is not allowed.
    fn allow(&self, toleration: &Value) -> bool {
        let text = |field: &str| match toleration.get(field) {
            None | Some(Value::Null) => Some(""),
            Some(value) => value.as_str(),
        };
        let (Some(key), Some(operator), Some(value), Some(effect)) =
            (text("key"), text("operator"), text("value"), text("effect"))
        else {
            return self.any;
        };
        // Without a key, a toleration tolerates every taint, and without an effect, every effect.
        let covers = |taint: &Taint| {
            taint.key == key
                && taint.value.as_ref().is_none_or(|only| only == value && ["", "Equal"].contains(&operator))
                && taint.effect.as_ref().is_none_or(|only| only == effect)
        };
        self.any || self.taints.iter().any(covers)
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}
