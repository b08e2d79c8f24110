//! Tests that the oldest supported API server knows every field of every child. An API server
//! rejects the whole apply if it does not know a field. Together, the specs in this test set every
//! field.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams};
use onionbalance_operator::crd::custom_resource_definition;
use onionbalance_operator::onion::{ClientSecretKey, MasterKey};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::scene::Scene;

/// Returns specs that together set every field.
fn variants() -> Vec<(&'static str, Value)> {
    let onion = MasterKey::generate(&mut StdRng::seed_from_u64(9)).address().to_string();
    let mine = MasterKey::generate(&mut StdRng::seed_from_u64(8)).address().to_string();
    let client = ClientSecretKey::from_bytes([7; 32]).public().to_string();
    let template = json!({
        "labels": {"team": "a", "empty": ""}, "annotations": {"note": "b", "empty": ""},
        "resources": {
            "tor": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
            "agent": {"requests": {"cpu": 1}, "limits": {"cpu": 2, "memory": "64Mi"}},
        },
        "nodeSelector": {"disk": "ssd", "node-role.kubernetes.io/worker": ""},
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
            ]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}},
            ]},
        },
        "tolerations": [{"key": "tor", "operator": "Exists", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [{
            "maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}},
        }],
        "priorityClassName": "system-cluster-critical", "runtimeClassName": "gvisor", "imagePullSecrets": [{"name": "pull"}],
    });
    vec![
        ("least", json!({})),
        ("suspended", json!({"suspend": true, "deletionPolicy": "Delete"})),
        (
            "whole",
            json!({
                "ports": [
                    {"name": "http", "port": 80, "target": {"service": {"name": "web", "port": "http"}}, "proxyProtocol": "v1"},
                    {"port": 443, "target": {"address": "web.example.org:443"}, "idleTimeoutSeconds": 600,
                     "healthCheck": {
                         "enabled": true, "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 3, "successThreshold": 4,
                         "http": {"path": "/healthz", "host": "web.example.org", "https": {"verify": false}, "statuses": [200]},
                     }},
                ],
                "masterKey": {"secretName": "mine", "delegated": false, "onionAddress": mine},
                "deletionPolicy": "Retain",
                "anonymity": {"guards": "Shared", "guardsInUse": 3, "vanguards": "Full", "serverLocation": "Hidden"},
                "suspend": false,
                "backends": {
                    "replicas": 4, "introductionPoints": 5, "drainTimeoutSeconds": 7, "extraTorrc": "HiddenServiceMaxStreams 100",
                    "introDosDefense": {"ratePerSecond": 10, "burstPerSecond": 20}, "template": template,
                    "circuitLimits": {"openStreams": 9, "streamsPerSecond": 5, "streamBurst": 50, "bytesPerSecond": 65536},
                },
                "externalBackends": [{"onionAddress": onion, "maxIntroductionPoints": 5}],
                "frontend": {
                    "replicas": 3, "distinctDescriptors": "Always", "extraTorrc": "NumCPUs 1", "template": template,
                    "probe": {
                        "enabled": true, "periodSeconds": 600, "timeoutSeconds": 60,
                        "http": {"port": 443, "path": "/healthz", "expectedStatus": 204, "host": "example.org"},
                    },
                },
                "restrictedDiscovery": {"clients": [{"name": "alice", "publicKey": client}], "secretName": "clients"},
            }),
        ),
    ]
}

/// Collects the paths of all fields in a schema, including the fields of list items.
fn fields(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        fields(inner, &path, found);
        found.insert(path);
    }
    if schema["items"].is_object() {
        fields(&schema["items"], path, found);
    }
}

/// Collects the paths of the fields that a value sets.
fn used(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let path = format!("{path}.{name}");
                used(inner, &path, found);
                found.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| used(item, path, found)),
        _ => {}
    }
}

#[test]
fn the_variants_use_every_field_of_the_spec() {
    let crd = serde_json::to_value(custom_resource_definition()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let (mut known, mut tried) = (BTreeSet::new(), BTreeSet::new());
    fields(schema, "spec", &mut known);
    for (_, spec) in variants() {
        used(&spec, "spec", &mut tried);
    }
    assert!(known.len() > 50, "{known:?}");
    let untried: Vec<_> = known.difference(&tried).collect();
    assert!(untried.is_empty(), "no variant uses {untried:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_api_server_accepts_every_child_of_every_spec() {
    let scene = Scene::start("variants").await;
    let version = scene.client.apiserver_version().await.unwrap();
    let mine = MasterKey::generate(&mut StdRng::seed_from_u64(8));
    scene.create_key("mine", &mine.to_tor_secret_key_file()).await;
    for (name, spec) in variants() {
        let suspended = spec["suspend"] == true;
        scene.create(name, spec).await;
        // All children exist, so the server has rejected none.
        scene.wait_children(name).await;
        let expected = if suspended { "False Suspended" } else { "False Progressing" };
        scene.wait_condition(name, "BackendsReady", expected).await;
    }
    let deployments: Api<Deployment> = scene.api();
    let applied = deployments.list(&ListParams::default()).await.unwrap().items.len();
    assert_eq!(applied, 2 * variants().len(), "on Kubernetes {}.{}", version.major, version.minor);
    scene.end().await;
}
