//! The information about a service that `status` shows, independent of its presentation.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::advice;
use crate::crd::{OnionBalancedService, OnionBalancedServiceStatus, Reason};

/// A service as read from the API server.
#[derive(Debug, Clone)]
pub struct View {
    /// The namespace of the service.
    pub namespace: String,
    /// The name of the service.
    pub name: String,
    /// The object, or the reason why it cannot be deserialized.
    pub object: Result<Box<OnionBalancedService>, String>,
}

/// A condition that is not True.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The type of the condition.
    pub kind: String,
    /// The status of the condition: `False` or `Unknown`.
    pub status: String,
    /// The reason of the condition.
    pub reason: String,
    /// The message of the condition.
    pub message: String,
    /// The next step for the user, if there is one.
    pub action: Option<String>,
}

impl View {
    /// Creates a view of an object from the API server, even if the object cannot be deserialized.
    pub fn new(object: DynamicObject) -> Self {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let read = serde_json::to_value(object).and_then(serde_json::from_value);
        Self { namespace, name, object: read.map(Box::new).map_err(|error| error.to_string()) }
    }

    /// Returns the status of the service, if it has one.
    pub fn status(&self) -> Option<&OnionBalancedServiceStatus> {
        self.object.as_ref().ok()?.status.as_ref()
    }

    /// Returns true if the status describes the current spec.
    pub fn is_current(&self) -> bool {
        let generation = self.object.as_ref().ok().and_then(|object| object.metadata.generation);
        self.status().is_some_and(|status| status.observed_generation == generation)
    }

    /// Returns true if the service is Ready and its status describes the current spec.
    pub fn is_ready(&self) -> bool {
        let ready = |status: &OnionBalancedServiceStatus| {
            status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        self.is_current() && self.status().is_some_and(ready)
    }

    /// Returns the state of the service in one word: the reason of the condition `Ready`.
    pub fn state(&self) -> &str {
        match &self.object {
            Err(_) => Reason::InvalidSpec.as_str(),
            Ok(_) if !self.is_current() => Reason::Pending.as_str(),
            Ok(_) => {
                let conditions = self.status().map(|status| status.conditions.as_slice()).unwrap_or_default();
                let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
                ready.map_or(Reason::Pending.as_str(), |condition| condition.reason.as_str())
            }
        }
    }

    /// Returns all conditions that are not True. `Ready` is left out, because it repeats one of the
    /// others.
    pub fn problems(&self) -> Vec<Problem> {
        if let Err(error) = &self.object {
            return vec![Problem {
                kind: "Accepted".to_owned(),
                status: "Unknown".to_owned(),
                reason: Reason::InvalidSpec.as_str().to_owned(),
                message: error.clone(),
                action: advice::action(Reason::InvalidSpec.as_str(), &self.namespace, &self.name),
            }];
        }
        if !self.is_current() {
            let message = "The operator has not reconciled the current spec yet.".to_owned();
            return vec![Problem {
                kind: "Ready".to_owned(),
                status: "Unknown".to_owned(),
                reason: Reason::Pending.as_str().to_owned(),
                message,
                action: advice::action(Reason::Pending.as_str(), &self.namespace, &self.name),
            }];
        }
        let conditions = self.status().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let problems = conditions.iter().filter(|found| found.type_ != "Ready" && found.status != "True");
        problems
            .map(|condition| Problem {
                kind: condition.type_.clone(),
                status: condition.status.clone(),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
                action: advice::action(&condition.reason, &self.namespace, &self.name),
            })
            .collect()
    }
}

/// Returns the services as JSON for programs. New fields may be added, but existing ones are never
/// renamed.
pub fn summary(views: &[View]) -> Value {
    let problem = |problem: Problem| {
        json!({
            "type": problem.kind, "status": problem.status, "reason": problem.reason, "message": problem.message,
            "action": problem.action,
        })
    };
    let service = |view: &View| {
        let status = view.status().cloned().unwrap_or_default();
        json!({
            "namespace": view.namespace, "name": view.name, "ready": view.is_ready(), "state": view.state(),
            "onionAddress": status.onion_address, "replicas": status.replicas, "readyReplicas": status.ready_replicas,
            "backends": status.backends, "published": status.published, "probes": status.probes,
            "problems": view.problems().into_iter().map(problem).collect::<Vec<_>>(),
        })
    };
    json!({ "services": views.iter().map(service).collect::<Vec<_>>() })
}
