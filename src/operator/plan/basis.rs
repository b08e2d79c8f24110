//! The basis of the owned objects: the values of the spec, except that each bad part keeps its last
//! good value.
//!
//! A port without a last good value is left out. If any other part that configures the pods of a
//! component has none, the pods are not configured at all: pods without a refused torrc line, for
//! example, could connect to the Tor network without a bridge.

use std::borrow::Cow;

use kube::ResourceExt as _;
use serde_json::Value;

use super::key::Decision;
use super::observed::Observed;
use crate::crd::names::{self, Component};
use crate::crd::validate::{Problem, exposed_beside};
use crate::crd::{MasterKeySpec, OnionBalancedService};
use crate::link::{AgentToken, ForwardedPort};
use crate::onion::OnionAddress;
use crate::operator::children::{ChildId, Inputs, Kind, LastGood};

/// The components of a service.
pub(super) const COMPONENTS: [Component; 2] = [Component::Backend, Component::Frontend];

/// The values from which the owned objects are built.
pub(super) struct Basis<'a> {
    /// The service. Its bad parts have their last good values.
    pub object: Cow<'a, OnionBalancedService>,
    /// The components whose pods cannot be configured.
    pub withheld: Vec<Component>,
    address: OnionAddress,
    token: Option<AgentToken>,
    ports: &'a [ForwardedPort],
}

impl<'a> Basis<'a> {
    /// Returns the basis of the owned objects, or None if not even the service's address is known.
    pub(super) fn of(
        observed: &'a Observed,
        problems: &[Problem],
        key: &Decision,
        ports: &'a [ForwardedPort],
    ) -> Option<Self> {
        let (address, token) = match key {
            Decision::Use(key) => (key.address(), Some(AgentToken::of(key))),
            Decision::Generate | Decision::Refuse(_) => (last_of_any(observed)?.address, None),
        };
        let object = Cow::Borrowed(&*observed.object);
        let mut basis = Self { object, withheld: Vec::new(), address, token, ports };
        for component in COMPONENTS {
            if basis.restore(component, problems, last_good(observed, component)).is_none() {
                basis.withheld.push(component);
            }
        }
        if has_bad_anonymity(problems) {
            match last_of_any(observed) {
                Some(last) => basis.object.to_mut().spec.anonymity = last.anonymity(),
                None => basis.withheld = COMPONENTS.to_vec(),
            }
        }
        // The last location may have been good with other settings of the operator.
        let lines = &observed.environment.settings.tor_extra_config;
        if exposed_beside(lines, basis.object.spec.anonymity.server_location).is_some() {
            basis.withheld = COMPONENTS.to_vec();
        }
        Some(basis)
    }

    /// Gives the bad settings of a component their last good values. Returns None if there are
    /// none.
    fn restore(&mut self, component: Component, problems: &[Problem], last: Option<&LastGood>) -> Option<()> {
        let bad = bad_fields(problems, component);
        if !bad.is_empty() {
            let last = last?;
            let mut settings = settings(&self.object, component)?;
            for path in bad {
                restore_field(&mut settings, &last.settings, &path);
            }
            set_settings(self.object.to_mut(), component, settings)?;
        }
        // Without a usable key, only pods that are known to run with this address may continue.
        if self.token.is_none() {
            let last = last.filter(|last| last.address == self.address)?;
            if component == Component::Frontend {
                let (secret_name, delegated) = (Some(last.secret.clone()?), last.delegated);
                self.object.to_mut().spec.master_key = MasterKeySpec { secret_name, delegated, onion_address: None };
            }
        }
        (component == Component::Frontend || !self.ports.is_empty()).then_some(())
    }

    /// Returns a basis in which the pods of a component have the last good pod settings. Returns
    /// None if these settings are unknown, or equal to the present ones.
    pub(super) fn with_last_template(&self, observed: &Observed, component: Component) -> Option<Self> {
        let last = last_good(observed, component)?;
        let mut settings = settings(&self.object, component)?;
        restore_field(&mut settings, &last.settings, &["template"]);
        let mut object = self.object.clone().into_owned();
        set_settings(&mut object, component, settings)?;
        (object.spec != self.object.spec).then(|| Self {
            object: Cow::Owned(object),
            withheld: self.withheld.clone(),
            address: self.address,
            token: None,
            ports: self.ports,
        })
    }

    /// Returns the inputs for building the owned objects. The UID of a missing `ServiceAccount` is
    /// that of the account with which the frontends were last configured.
    pub(super) fn inputs<'b>(&'b self, observed: &'b Observed) -> Inputs<'b> {
        let last = last_good(observed, Component::Frontend);
        let guards = ChildId { kind: Kind::Secret, name: names::guards_secret(&self.object.name_any()) };
        Inputs {
            object: &self.object,
            environment: &observed.environment,
            address: self.address,
            token: self.token.as_ref(),
            ports: self.ports,
            clients: observed.clients_secret.as_ref(),
            frontend_account: observed.frontend_account().or_else(|| last?.account.as_deref()),
            withheld: &self.withheld,
            guards_taken: observed.taken.iter().any(|taken| taken.child == guards),
        }
    }
}

/// Returns the last good values of a component, if they have been read.
pub(super) fn last_good(observed: &Observed, component: Component) -> Option<&LastGood> {
    observed.last.as_ref().and_then(|last| last.of(component))
}

/// Returns the last good values of any component, for values that all components have in common.
fn last_of_any(observed: &Observed) -> Option<&LastGood> {
    // The frontends decide which address is published.
    let found = [Component::Frontend, Component::Backend].map(|component| last_good(observed, component));
    found.into_iter().flatten().next()
}

/// Returns true if a problem concerns the way into the Tor network, which configures the pods of
/// both components.
pub(super) fn has_bad_anonymity(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.field.starts_with("spec.anonymity"))
}

/// Returns the paths of the bad settings of a component. Each setting of a pod template is good or
/// bad on its own. Any other field is good or bad as a whole.
pub(super) fn bad_fields<'a>(problems: &'a [Problem], component: Component) -> Vec<Vec<&'a str>> {
    let prefix = match component {
        Component::Backend => "spec.backends",
        Component::Frontend => "spec.frontend",
    };
    let path = |problem: &'a Problem| {
        let rest = problem.field.strip_prefix(prefix)?;
        if rest.is_empty() {
            return Some(Vec::new());
        }
        let names = rest.strip_prefix('.')?.split('.');
        let depth = if rest.starts_with(".template.") { 2 } else { 1 };
        // An item of a list, such as `tolerations[0]`, is restored with the whole list.
        Some(names.take(depth).map(|name| name.split('[').next().unwrap_or(name)).collect())
    };
    problems.iter().filter_map(path).collect()
}

/// Gives the field at a path its last value. A field that the last values lack is removed, so that
/// it has its default.
fn restore_field(settings: &mut Value, last: &Value, path: &[&str]) {
    match path {
        [] => *settings = last.clone(),
        [name] => {
            if let Value::Object(fields) = settings {
                match last.get(*name) {
                    Some(value) => fields.insert((*name).to_owned(), value.clone()),
                    None => fields.remove(*name),
                };
            }
        }
        [name, rest @ ..] => restore_field(&mut settings[*name], &last[*name], rest),
    }
}

fn settings(object: &OnionBalancedService, component: Component) -> Option<Value> {
    let settings = match component {
        Component::Backend => serde_json::to_value(&object.spec.backends),
        Component::Frontend => serde_json::to_value(&object.spec.frontend),
    };
    settings.ok()
}

/// Sets the settings of a component. Returns None if they do not match our types.
fn set_settings(object: &mut OnionBalancedService, component: Component, settings: Value) -> Option<()> {
    match component {
        Component::Backend => object.spec.backends = serde_json::from_value(settings).ok()?,
        Component::Frontend => object.spec.frontend = serde_json::from_value(settings).ok()?,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(field: &str) -> Problem {
        Problem { field: field.to_owned(), message: String::new() }
    }

    #[test]
    fn a_problem_concerns_one_setting_of_one_component() {
        let path = |field: &str, component| bad_fields(&[problem(field)], component).concat().join("/");
        for (field, expected) in [
            ("spec.backends.replicas", "replicas"),
            ("spec.backends.introDosDefense.burstPerSecond", "introDosDefense"),
            ("spec.backends.circuitLimits.streamBurst", "circuitLimits"),
            ("spec.backends.template.resources.tor.limits.nvidia.com/gpu", "template/resources"),
            ("spec.backends.template", "template"),
        ] {
            assert_eq!(path(field, Component::Backend), expected);
            assert!(bad_fields(&[problem(field)], Component::Frontend).is_empty());
        }
        assert_eq!(path("spec.frontend.extraTorrc", Component::Frontend), "extraTorrc");
        assert_eq!(bad_fields(&[problem("spec.frontend")], Component::Frontend), [[""; 0]]);
        assert!(bad_fields(&[problem("spec.ports[0]"), problem("spec.backendsX")], Component::Backend).is_empty());
    }

    #[test]
    fn only_the_bad_settings_get_their_last_values() {
        let last = json!({"replicas": 2, "template": {"labels": {"a": "1"}}});
        let present = json!({
            "replicas": 5, "extraTorrc": "bad", "template": {"labels": {"a": "2"}, "nodeSelector": {"disk": "ssd"}},
        });
        let restored = |path: &[&str]| {
            let mut settings = present.clone();
            restore_field(&mut settings, &last, path);
            settings
        };
        assert_eq!(restored(&[]), last);
        assert_eq!(restored(&["replicas"])["replicas"], 2);
        assert_eq!(restored(&["extraTorrc"]).get("extraTorrc"), None);
        let template = restored(&["template", "labels"])["template"].clone();
        assert_eq!(template, json!({"labels": {"a": "1"}, "nodeSelector": {"disk": "ssd"}}));
        assert_eq!(restored(&["template", "nodeSelector"])["template"], json!({"labels": {"a": "2"}}));
    }
}
