//! Tests of the chart's admission policies on an API server that has such policies, Kubernetes 1.30
//! or newer. `src/operator/children/tests/admission_policy.rs` evaluates the same expressions
//! without a server.

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::scene::{OPERATOR_LEASE, PATIENCE, Scene, settings};
use crate::server::{ACCOUNT, minor_version, operator, source_tree};
use crate::wait::until;

/// The first minor version of Kubernetes 1 in which admission policies are stable.
const FIRST_WITH_POLICIES: u32 = 30;

/// Creates the chart's policies for one namespace. Returns their names.
async fn create_policies(scene: &Scene) -> Vec<String> {
    let labels = json!({"example.org/policies": scene.namespace});
    let label = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    namespaces.patch(&scene.namespace, &PatchParams::default(), &label).await.unwrap();
    let file = source_tree().join("charts/onionbalance-operator/files/admission-policy.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.replace("{namespace}", &scene.namespace).replace("{lease}", OPERATOR_LEASE);
    let parts: Vec<Value> = serde_saphyr::from_str(&text).unwrap();
    let mut names = Vec::new();
    for part in parts {
        let name = format!("{}-{}", scene.namespace, part["name"].as_str().unwrap());
        let policy = json!({"metadata": {"name": name}, "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": part["resourceRules"]},
            "matchConditions": [{"name": "operator", "expression": format!("request.userInfo.username == '{ACCOUNT}'")}],
            "validations": part["validations"],
        }});
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(scene.client.clone());
        policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
        let binding = json!({"metadata": {"name": name}, "spec": {
            "policyName": name, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": labels}},
        }});
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(scene.client.clone());
        bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
        names.push(name);
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policies_confine_the_operators_account_but_not_the_operator() {
    let mut scene = Scene::without_operator("confined").await;
    if minor_version(&scene.client).await < FIRST_WITH_POLICIES {
        return;
    }
    let names = create_policies(&scene).await;
    let config_maps: Api<ConfigMap> = Api::namespaced(operator(), &scene.namespace);
    let trial = PostParams { dry_run: true, ..PostParams::default() };
    for (labels, name) in [(json!({}), "web-backend"), (json!({"onionbalance.dev/service": "web"}), "aws-auth")] {
        let config_map = json!({"metadata": {"name": name, "labels": labels}});
        let config_map: ConfigMap = serde_json::from_value(config_map).unwrap();
        // A policy takes effect a moment after it was created.
        until(&format!("{name} is denied"), PATIENCE, async || match config_maps.create(&trial, &config_map).await {
            Err(error) if error.to_string().contains("labelled with a service and named after it") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    let theirs: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "other-backend"}})).unwrap();
    scene.api().create(&PostParams::default(), &theirs).await.unwrap();
    let taken = Patch::Merge(json!({"metadata": {"labels": {"onionbalance.dev/service": "other"}}}));
    let error = config_maps.patch("other-backend", &PatchParams::default(), &taken).await.unwrap_err().to_string();
    assert!(error.contains("may not take over an object of someone else"), "{error}");
    let error = config_maps.delete("other-backend", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(error.contains("only objects that belong to an OnionBalancedService"), "{error}");

    scene.start_operator(settings());
    scene.create("web", json!({"restrictedDiscovery": {"secretName": "clients"}})).await;
    scene.wait_children("web").await;
    scene.change("web", json!({"spec": {"deletionPolicy": "Delete", "restrictedDiscovery": null}})).await;
    scene.wait_number_of_children("web", 16).await;
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    for name in names {
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(scene.client.clone());
        bindings.delete(&name, &DeleteParams::default()).await.unwrap();
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(scene.client.clone());
        policies.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    scene.end().await;
}
