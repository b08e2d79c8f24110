//! Tests of pods on a cluster that assigns their user IDs, such as OpenShift. An admission webhook
//! decides like OpenShift's security context constraint `restricted-v2`.

use std::ops::Range;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use onionbalance_operator::operator::Settings;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene, settings};
use crate::wait::until;
use crate::webhook::Webhook;

/// The IDs of the test's namespace. OpenShift gives each namespace a range of its own.
const IDS: Range<i64> = 1_000_680_000..1_000_690_000;
/// The types of volumes that a pod may have.
const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

/// Decides about a new pod. Returns the changes that assign the IDs of the namespace, or the reason
/// why the pod is rejected.
fn restricted(pod: &Value) -> Result<Value, String> {
    let spec = &pod["spec"];
    let allowed_id = |path: &str, context: &Value, field: &str| match context[field].as_i64() {
        Some(id) if !IDS.contains(&id) => Err(format!("{path}.{field}: Invalid value: {id}: must be in {IDS:?}")),
        _ => Ok(()),
    };
    allowed_id("spec.securityContext", &spec["securityContext"], "runAsUser")?;
    allowed_id("spec.securityContext", &spec["securityContext"], "fsGroup")?;
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[field] == true {
            return Err(format!("spec.{field}: is not allowed"));
        }
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let mut types = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        if let Some(other) = types.find(|key| !VOLUMES.contains(&key.as_str())) {
            return Err(format!("spec.volumes: {other} is not allowed"));
        }
    }
    let mut changes = vec![assign("/spec/securityContext", &spec["securityContext"], "fsGroup")];
    for (index, container) in spec["containers"].as_array().unwrap().iter().enumerate() {
        let (path, context) = (format!("spec.containers[{index}].securityContext"), &container["securityContext"]);
        allowed_id(&path, context, "runAsUser")?;
        let drops_all = context["capabilities"]["drop"].as_array().is_some_and(|drop| drop.contains(&json!("ALL")));
        if context["allowPrivilegeEscalation"] != false || !drops_all || context["privileged"] == true {
            return Err(format!("{path}: is too privileged"));
        }
        changes.push(assign(&format!("/spec/containers/{index}/securityContext"), context, "runAsUser"));
    }
    Ok(changes.into())
}

/// Returns the change that sets a field of a security context to the first ID of the namespace.
fn assign(path: &str, context: &Value, field: &str) -> Value {
    let mut assigned = if context.is_object() { context.clone() } else { json!({}) };
    assigned[field] = IDS.start.into();
    json!({"op": "add", "path": path, "value": assigned})
}

/// Creates a pod from the template of a Deployment, as the controllers would.
async fn try_pod(scene: &Scene, deployment: &str, dry_run: bool) -> Result<Pod, kube::Error> {
    let template = scene.api::<Deployment>().get(deployment).await?.spec.unwrap().template;
    let mut pod = serde_json::to_value(template).unwrap();
    pod["metadata"]["name"] = format!("{deployment}-x").into();
    let parameters = PostParams { dry_run, ..PostParams::default() };
    scene.api::<Pod>().create(&parameters, &serde_json::from_value(pod).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_on_a_cluster_that_assigns_user_ids() {
    let mut scene = Scene::start("user-ids").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let webhook = Webhook::start(&scene, restricted).await;
    let deployments = ["web-backend", "web-frontend"];

    // By default, the pods have a fixed ID, which this cluster rejects. Until the API server knows
    // the webhook, it accepts them.
    for deployment in deployments {
        let rejected = "runAsUser: Invalid value: 65532: must be in 1000680000..1000690000";
        until(&format!("the webhook rejects the pods of {deployment}"), PATIENCE, async || {
            match try_pod(&scene, deployment, true).await {
                Err(error) if error.to_string().contains(rejected) => Ok(()),
                Err(error) => Err(error.to_string()),
                Ok(_) => Err("the pod was accepted".to_owned()),
            }
        })
        .await;
    }

    scene.stop_operator().await;
    scene.start_operator(Settings { fixed_user_ids: false, ..settings() });
    for deployment in deployments {
        let has_no_id = |deployment: &Deployment| {
            let template = serde_json::to_string(&deployment.spec.as_ref().unwrap().template).unwrap();
            !template.contains("runAsUser") && !template.contains("runAsGroup") && !template.contains("fsGroup")
        };
        scene.wait_for::<Deployment>(deployment, has_no_id).await;
        let pod = try_pod(&scene, deployment, false).await.unwrap();
        // tor and our program share sockets, and the agent must be able to kill tor.
        let spec = serde_json::to_value(pod.spec.unwrap()).unwrap();
        let contexts = spec["containers"].as_array().unwrap().iter().map(|container| &container["securityContext"]);
        let users: Vec<_> = contexts.map(|context| context["runAsUser"].as_i64()).collect();
        assert_eq!(users, [Some(IDS.start); 2], "{deployment}: both containers run as the assigned user");
        // The files of Secrets are readable only for this group.
        assert_eq!(spec["securityContext"]["fsGroup"], IDS.start, "{deployment}");
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{deployment}");
        assert_eq!(spec["shareProcessNamespace"] == true, deployment == "web-backend");
    }
    webhook.end().await;
    scene.end().await;
}

/// Checks the webhook itself: it must reject what OpenShift rejects.
#[test]
fn the_webhook_assigns_ids_and_rejects_others() {
    let safe = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let pod = |context: Value, container: Value, volume: Value| {
        let containers = json!([{"name": "a", "securityContext": container}]);
        json!({"spec": {"securityContext": context, "containers": containers, "volumes": [volume]}})
    };
    let with = |field: &str, value: Value| {
        let mut container = safe.clone();
        container[field] = value;
        container
    };
    let secret = json!({"name": "s", "secret": {"secretName": "s"}});
    for (context, container, volume) in [
        (json!({"runAsUser": 65532}), safe.clone(), secret.clone()),
        (json!({"fsGroup": 65532}), safe.clone(), secret.clone()),
        (json!({}), with("runAsUser", json!(0)), secret.clone()),
        (json!({}), with("allowPrivilegeEscalation", Value::Null), secret.clone()),
        (json!({}), with("capabilities", Value::Null), secret.clone()),
        (json!({}), safe.clone(), json!({"name": "h", "hostPath": {"path": "/"}})),
    ] {
        let pod = pod(context, container, volume);
        assert!(restricted(&pod).is_err(), "{pod}");
    }
    let patch = restricted(&pod(json!({"runAsUser": IDS.start + 5}), safe, secret)).unwrap();
    assert_eq!(patch[0]["value"], json!({"runAsUser": IDS.start + 5, "fsGroup": IDS.start}));
    assert_eq!(patch[1]["path"], "/spec/containers/0/securityContext");
    assert_eq!(patch[1]["value"]["runAsUser"], IDS.start);
}
