//! What a plan rests on, for its tests: a healthy service with three backends, to be changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{KeySecret, Observed, Plan, plan, status};
use crate::crd::{OnionBalancedService, OnionBalancedServiceStatus};
use crate::onion::MasterKey;
use crate::operator::children::testing::{Fixture, object, settings};

pub const NOW: i64 = 1_767_225_600;

pub fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

/// Sets a path (`spec/ports/0/port`) of an object.
pub fn with(object: &OnionBalancedService, path: &str, value: Value) -> Arc<OnionBalancedService> {
    let mut whole = serde_json::to_value(object).unwrap();
    let mut place = &mut whole;
    for step in path.split('/') {
        place = match step.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[step],
        };
    }
    *place = value;
    Arc::new(from(whole))
}

pub fn key_secret(key: &MasterKey) -> KeySecret {
    secret_of(&key.to_tor_secret_key_file())
}

pub fn secret_of(file: &[u8]) -> KeySecret {
    let metadata = from(json!({"name": "web-master-key", "namespace": "shop", "resourceVersion": "7"}));
    KeySecret::new(
        metadata,
        Some(BTreeMap::from([("hs_ed25519_secret_key".to_owned(), k8s_openapi::ByteString(file.to_vec()))])),
    )
}

pub fn service(ports: &Value, cluster_ip: &str) -> BTreeMap<String, k8s_openapi::api::core::v1::Service> {
    let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": cluster_ip, "ports": ports}});
    BTreeMap::from([("web".to_owned(), from(service))])
}

pub fn address() -> String {
    Fixture::new().key.address().to_string()
}

/// All is well.
pub fn healthy() -> Observed {
    let deployment = json!({
        "metadata": {"name": "web-backend", "generation": 3},
        "status": {"observedGeneration": 3, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 3},
    });
    let lease = json!({
        "metadata": {"name": "web-frontend"},
        "spec": {"renewTime": "2025-12-31T23:59:50.000000Z", "leaseDurationSeconds": 15},
    });
    let object = with(
        &object(&json!({"backends": {"replicas": 3}})),
        "status",
        json!({
            "onionAddress": address(),
            "backends": [{"name": "web-backend-1", "introductionPoints": 3, "state": "Ready", "since": "2025-12-31T00:00:00Z"}],
            "published": [{
                "timePeriod": 1, "revisionCounter": 2, "introductionPoints": 9, "hsdirsAccepted": 8, "hsdirsTotal": 8,
                "lastPublished": "2025-12-31T23:00:00Z",
            }],
        }),
    );
    Observed {
        rivals: Vec::new(),
        object,
        clients_secret: None,
        key_secret: Some(key_secret(&Fixture::new().key)),
        services: service(&json!([{"name": "http", "port": 80}]), "10.0.0.1"),
        last_config: None,
        taken: Vec::new(),
        frontend_account: Some("uid-of-account".to_owned()),
        backends: Some(Arc::new(from(deployment))),
        frontends: None,
        troubles: Vec::new(),
        lease: Some(from(lease)),
    }
}

/// The plan, and the status that it gives.
pub fn planned(observed: &Observed) -> (Plan, OnionBalancedServiceStatus) {
    let plan = plan(observed, &settings());
    let previous = observed.object.status.clone().unwrap_or_default();
    let status = status(observed, &plan, &[], &previous, now());
    (plan, status)
}

/// A condition as `status reason: message`.
pub fn said(status: &OnionBalancedServiceStatus, kind: &str) -> String {
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    format!("{} {}: {}", condition.status, condition.reason, condition.message)
}
