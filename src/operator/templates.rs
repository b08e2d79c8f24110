//! Default pod settings, which are used for every field that a service's own pod template does not
//! set.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::crd::names::{self, Component};
use crate::crd::{ContainerResources, PodSettings, Resources, validate};

/// The defaults of `spec.backends.template` and `spec.frontend.template`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DefaultTemplates {
    /// The default pod template of backends.
    pub backend: PodSettings,
    /// The default pod template of frontends.
    pub frontend: PodSettings,
}

/// The fields that a default pod template can have.
const FIELDS: [&str; 10] = [
    "labels",
    "annotations",
    "resources",
    "nodeSelector",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "priorityClassName",
    "runtimeClassName",
    "imagePullSecrets",
];

impl DefaultTemplates {
    /// Parses default templates from YAML or JSON: a map with `backend`, `frontend` or both. An
    /// error names the invalid field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let whole: Option<Map<String, Value>> = serde_saphyr::from_str(text)
            .map_err(|error| format!("expected a YAML or JSON map with the keys backend and frontend: {error}"))?;
        let mut templates = Self::default();
        for (component, value) in whole.into_iter().flatten() {
            let template = match component.as_str() {
                "backend" => &mut templates.backend,
                "frontend" => &mut templates.frontend,
                _ => return Err(format!("{component} is not a known field; use backend or frontend")),
            };
            *template = read(&component, &value)?;
        }
        Ok(templates)
    }

    /// Returns a service's own template, completed with the defaults. Maps are merged. For any
    /// other field, including lists, the service's own value replaces the default.
    pub fn under(&self, own: &PodSettings, service: &str, component: Component) -> PodSettings {
        let defaults = match component {
            Component::Backend => &self.backend,
            Component::Frontend => &self.frontend,
        };
        PodSettings {
            labels: merged(&own.labels, &defaults.labels),
            annotations: merged(&own.annotations, &defaults.annotations),
            resources: containers(own.resources.as_ref(), defaults.resources.as_ref()),
            node_selector: merged(&own.node_selector, &defaults.node_selector),
            affinity: own.affinity.clone().or_else(|| defaults.affinity.clone()),
            tolerations: list(&own.tolerations, &defaults.tolerations),
            topology_spread_constraints: list(
                &own.topology_spread_constraints,
                &selecting(&defaults.topology_spread_constraints, service, component),
            ),
            priority_class_name: class(own.priority_class_name.as_ref(), defaults.priority_class_name.as_ref()),
            runtime_class_name: class(own.runtime_class_name.as_ref(), defaults.runtime_class_name.as_ref()),
            image_pull_secrets: list(&own.image_pull_secrets, &defaults.image_pull_secrets),
        }
    }
}

/// Returns a service's own class, or the default class. An empty name sets no class.
fn class(own: Option<&String>, default: Option<&String>) -> Option<String> {
    own.filter(|name| !name.is_empty()).or(default).cloned()
}

fn read(path: &str, value: &Value) -> Result<PodSettings, String> {
    let fields = match value {
        Value::Object(fields) => fields.clone(),
        Value::Null => Map::new(),
        _ => return Err(format!("{path} is not a map")),
    };
    for (field, value) in &fields {
        if !FIELDS.contains(&field.as_str()) {
            return Err(format!(
                "{path}.{field} is not a known field; the valid fields of a template are {}",
                FIELDS.join(", ")
            ));
        }
        let path = format!("{path}.{field}");
        // Each field is read separately, so that the error can name it.
        let alone: PodSettings = typed(&path, json!({ field: value }))?;
        match field.as_str() {
            "resources" => no_other(&path, value, &serde_json::to_value(alone.resources).unwrap_or_default())?,
            // These values may have fields that our types do not know, but the known fields must be
            // valid.
            "affinity" => drop::<Option<Affinity>>(typed(&path, value.clone())?),
            "tolerations" => drop::<Vec<Toleration>>(typed(&path, value.clone())?),
            "topologySpreadConstraints" => drop::<Vec<TopologySpreadConstraint>>(typed(&path, value.clone())?),
            _ => {}
        }
    }
    let template: PodSettings = typed(path, Value::Object(fields))?;
    match validate::template(path, &template).first() {
        Some(problem) => Err(problem.to_string()),
        None => Ok(template),
    }
}

fn typed<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("{path}: {error}"))
}

/// Returns an error if `given` contains a field that our types do not know. `known` is the given
/// value as our types represent it, without its unknown fields.
fn no_other(path: &str, given: &Value, known: &Value) -> Result<(), String> {
    for (field, value) in given.as_object().into_iter().flatten() {
        let path = format!("{path}.{field}");
        let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        match known.get(field) {
            Some(known) => no_other(&path, value, known)?,
            None if is_empty => {}
            None => return Err(format!("{path} is not a known field; set requests and limits under tor or agent")),
        }
    }
    Ok(())
}

fn merged(own: &BTreeMap<String, String>, defaults: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut map = defaults.clone();
    map.extend(own.clone());
    map
}

fn list<T: Clone>(own: &[T], defaults: &[T]) -> Vec<T> {
    if own.is_empty() { defaults.to_vec() } else { own.to_vec() }
}

fn containers(own: Option<&ContainerResources>, defaults: Option<&ContainerResources>) -> Option<ContainerResources> {
    let (Some(own), Some(defaults)) = (own, defaults) else { return own.or(defaults).cloned() };
    Some(ContainerResources {
        tor: resources(own.tor.as_ref(), defaults.tor.as_ref()),
        agent: resources(own.agent.as_ref(), defaults.agent.as_ref()),
    })
}

/// Merges requests and limits. The defaults for a resource such as CPU apply only if the service
/// sets neither a request nor a limit for it, because the API server rejects a limit that is lower
/// than the request.
fn resources(own: Option<&Resources>, defaults: Option<&Resources>) -> Option<Resources> {
    let (Some(own), Some(defaults)) = (own, defaults) else { return own.or(defaults).cloned() };
    let both = |own_map: &BTreeMap<String, IntOrString>, default_map: &BTreeMap<String, IntOrString>| {
        let mut map = default_map.clone();
        map.retain(|name, _| !own.requests.contains_key(name) && !own.limits.contains_key(name));
        map.extend(own_map.clone());
        map
    };
    Some(Resources { requests: both(&own.requests, &defaults.requests), limits: both(&own.limits, &defaults.limits) })
}

/// Adds a label selector for the service's pods to topology spread constraints that have none. A
/// default constraint cannot name the service, and without a selector it would not spread any pods.
fn selecting(constraints: &[Value], service: &str, component: Component) -> Vec<Value> {
    let with_selector = |constraint: &Value| {
        let mut constraint = constraint.clone();
        if constraint.get("labelSelector").is_none() {
            constraint["labelSelector"] = json!({"matchLabels": names::pod_labels(service, component)});
        }
        constraint
    };
    constraints.iter().map(with_selector).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(value: Value) -> PodSettings {
        serde_json::from_value(value).unwrap()
    }

    /// Returns a service's own backend template, completed with the given defaults.
    #[allow(clippy::needless_pass_by_value, reason = "json! makes values")]
    fn under(defaults: Value, own: Value) -> Value {
        let defaults = DefaultTemplates::parse(&json!({ "backend": defaults }).to_string()).unwrap();
        serde_json::to_value(defaults.under(&settings(own), "web", Component::Backend)).unwrap()
    }

    #[test]
    fn yaml_json_and_empty_text_are_accepted() {
        let yaml = "backend:\n  resources:\n    tor: {limits: {memory: 1Gi}, requests: {cpu: 1}}\nfrontend:\n";
        let json = r#"{"backend": {"resources": {"tor": {"limits": {"memory": "1Gi"}, "requests": {"cpu": 1}}}}}"#;
        let parse = DefaultTemplates::parse;
        assert_eq!(parse(yaml).unwrap(), parse(json).unwrap());
        assert_ne!(parse(json).unwrap(), DefaultTemplates::default());
        for nothing in ["", "{}", "{\"backend\": {}, \"frontend\": {}}", "backend:\n"] {
            assert_eq!(parse(nothing), Ok(DefaultTemplates::default()), "{nothing:?}");
        }
    }

    #[test]
    fn an_error_names_the_field() {
        for (text, said) in [
            ("[]", "expected a YAML or JSON map with the keys backend and frontend: "),
            ("backends: {}", "backends is not a known field; use backend or frontend"),
            ("backend: [a]", "backend is not a map"),
            (
                "backend: {nodeSelectors: {a: b}}",
                "backend.nodeSelectors is not a known field; the valid fields of a template are labels, annotations, ",
            ),
            ("frontend: {volumes: []}", "frontend.volumes is not a known field; the valid fields of a template are "),
            ("backend: {nodeSelector: {a: 1}}", "backend.nodeSelector: invalid type: integer `1`, expected a string"),
            ("backend: {tolerations: {key: a}}", "backend.tolerations: invalid type: map, expected a sequence"),
            (
                "backend: {tolerations: [{tolerationSeconds: soon}]}",
                "backend.tolerations: invalid type: string \"soon\"",
            ),
            ("backend: {affinity: {nodeAffinity: 1}}", "backend.affinity: invalid type: integer `1`"),
            (
                "backend: {topologySpreadConstraints: [{maxSkew: one}]}",
                "backend.topologySpreadConstraints: invalid type: string \"one\"",
            ),
            (
                "backend: {resources: {limits: {cpu: 1}}}",
                "backend.resources.limits is not a known field; set requests and limits under tor or agent",
            ),
            ("backend: {resources: {tor: {limit: {cpu: 1}}}}", "backend.resources.tor.limit is not a known field; "),
            (
                "backend: {resources: {agent: {limits: {memory: 64 MB}}}}",
                "backend.resources.agent.limits.memory: is not a quantity",
            ),
            (
                "frontend: {labels: {onionbalance.dev/service: a}}",
                "frontend.labels: \"onionbalance.dev/service\" is reserved for the operator",
            ),
        ] {
            let error = DefaultTemplates::parse(text).unwrap_err();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn every_field_is_known_and_can_have_a_default() {
        let whole = json!({
            "labels": {"a": "b"}, "annotations": {"a": "b"}, "resources": {"tor": {"limits": {"cpu": 1}}},
            "nodeSelector": {"a": "b"}, "affinity": {"nodeAffinity": {}}, "tolerations": [{"operator": "Exists"}],
            "topologySpreadConstraints":
                [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}],
            "priorityClassName": "high", "runtimeClassName": "gvisor", "imagePullSecrets": [{"name": "pull"}],
        });
        assert_eq!(whole.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>(), {
            let mut fields = FIELDS;
            fields.sort_unstable();
            fields
        });
        assert_eq!(under(whole.clone(), json!({})), whole);
        // An empty name sets no class.
        assert_eq!(under(whole.clone(), json!({"priorityClassName": "", "runtimeClassName": ""})), whole);
        // The defaults do not replace any field of the service.
        assert_eq!(under(json!({}), whole.clone()), whole);
        let other = json!({
            "affinity": {"podAffinity": {}}, "tolerations": [{"key": "a"}], "priorityClassName": "low",
            "runtimeClassName": "runc", "imagePullSecrets": [{"name": "other"}],
            "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway"}],
        });
        let seen = under(whole, other.clone());
        for (field, value) in other.as_object().unwrap() {
            assert_eq!(&seen[field], value, "{field}");
        }
    }

    #[test]
    fn maps_are_merged_and_the_service_takes_precedence() {
        let defaults = json!({"labels": {"team": "a", "tier": "1"}, "nodeSelector": {"disk": "ssd"}});
        let seen = under(defaults, json!({"labels": {"team": "b"}, "nodeSelector": {"zone": "x"}}));
        assert_eq!(seen["labels"], json!({"team": "b", "tier": "1"}));
        assert_eq!(seen["nodeSelector"], json!({"disk": "ssd", "zone": "x"}));
    }

    #[test]
    fn a_request_and_its_limit_come_from_the_same_template() {
        let defaults = json!({"resources": {
            "tor": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
            "agent": {"limits": {"memory": "64Mi"}},
        }});
        let own = json!({"resources": {"tor": {"limits": {"cpu": "100m"}, "requests": {"memory": "2Gi"}}}});
        assert_eq!(
            under(defaults, own)["resources"],
            json!({
                "tor": {"requests": {"memory": "2Gi"}, "limits": {"cpu": "100m"}},
                "agent": {"limits": {"memory": "64Mi"}},
            })
        );
    }

    #[test]
    fn a_default_constraint_selects_the_pods_of_the_service() {
        let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        let seen = under(json!({"topologySpreadConstraints": [constraint]}), json!({}));
        let labels = json!({"app.kubernetes.io/component": "backend", "onionbalance.dev/service": "web"});
        assert_eq!(seen["topologySpreadConstraints"][0]["labelSelector"], json!({"matchLabels": labels}));
    }
}
