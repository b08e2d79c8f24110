//! Tests that the conditions report requests that the API server or a quota refuses, and whatever
//! keeps pods from starting.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, LimitRange, Namespace, Pod, ResourceQuota};
use k8s_openapi::api::rbac::v1::Role;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::program::Program;
use crate::scene::{PATIENCE, Scene, settings};
use crate::wait::until;

/// The components of a service, and the condition that reports the problems of each component's
/// pods.
const COMPONENTS: [(&str, &str); 2] = [("backend", "BackendsReady"), ("frontend", "Published")];

/// Creates a pod of the service `web`, as the Deployment controller would.
pub async fn create_pod(scene: &Scene, component: &str) -> Pod {
    try_create_pod(scene, component).await.unwrap()
}

async fn try_create_pod(scene: &Scene, component: &str) -> Result<Pod, kube::Error> {
    let deployment: Deployment = scene.wait_for(&format!("web-{component}"), |_| true).await;
    let template = serde_json::to_value(deployment.spec.unwrap().template).unwrap();
    let labels = &template["metadata"]["labels"];
    let pod = json!({"metadata": {"name": format!("web-{component}-x"), "labels": labels}, "spec": template["spec"]});
    scene.api::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await
}

/// Changes the status of a pod, as the scheduler or the kubelet would.
pub async fn write_status(scene: &Scene, pod: &Pod, status: Value) {
    let patch = Patch::Strategic(json!({ "status": status }));
    scene.api::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
}

async fn delete(scene: &Scene, pod: &Pod) {
    scene.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
}

fn scheduled(status: &str, message: &str) -> Value {
    json!([{"type": "PodScheduled", "status": status, "reason": "Unschedulable", "message": message}])
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_an_image_that_cannot_be_pulled() {
    let scene = Scene::start("image").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    for (component, kind) in COMPONENTS {
        let pod = create_pod(&scene, component).await;
        for reason in ["ErrImagePull", "ImagePullBackOff"] {
            let waiting = json!({"waiting": {"reason": reason, "message": "not found"}});
            let status = json!({"name": "tor", "image": "tor:1", "imageID": "", "ready": false, "restartCount": 0, "state": waiting});
            write_status(&scene, &pod, json!({"containerStatuses": [status]})).await;
            let message = scene.wait_condition("web", kind, "False ImagePullFailed").await;
            let expected =
                format!("Pod web-{component}-x: container tor: ImagePullBackOff: could not pull image \"tor:1\"");
            assert!(message.contains(&expected), "{message}");
        }
        delete(&scene, &pod).await;
    }
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    scene.wait_condition("web", "Published", "False NotPublished").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_pod_that_no_node_takes() {
    let scene = Scene::start("unschedulable").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    for (component, kind) in COMPONENTS {
        let pod = create_pod(&scene, component).await;
        let words = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity.";
        write_status(&scene, &pod, json!({"conditions": scheduled("False", words)})).await;
        let message = scene.wait_condition("web", kind, "False Unschedulable").await;
        let expected = format!("Pod web-{component}-x: Unschedulable: {}; see", words.trim_end_matches('.'));
        assert!(message.contains(&expected), "{message}");
        let event = scene.wait_event("web", "Unschedulable").await;
        assert!(event.note.unwrap_or_default().contains("0/1 nodes are available"));
        write_status(&scene, &pod, json!({"conditions": scheduled("True", "")})).await;
        delete(&scene, &pod).await;
    }
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_pod_that_its_node_rejects() {
    let scene = Scene::start("rejected").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    for (component, kind) in COMPONENTS {
        let pod = create_pod(&scene, component).await;
        let words = "Pod was rejected: Node didn't have enough resource: memory";
        write_status(&scene, &pod, json!({"phase": "Failed", "reason": "OutOfmemory", "message": words})).await;
        let message = scene.wait_condition("web", kind, "False PodsFailing").await;
        let expected = format!("Pod web-{component}-x: rejected by its node: OutOfmemory: {words}; see");
        assert!(message.contains(&expected), "{message}");
        delete(&scene, &pod).await;
    }
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_pod_whose_containers_a_node_cannot_create() {
    let scene = Scene::start("stuck").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    reports_stuck_pods(&scene).await;
    scene.end().await;
}

/// Checks that the conditions of the service `web` quote the kubelet's Events about pods that have
/// been in creation for two minutes.
pub async fn reports_stuck_pods(scene: &Scene) {
    for (component, kind) in COMPONENTS {
        let pod = create_pod(scene, component).await;
        let (name, now) = (pod.name_any(), jiff::Timestamp::now());
        let time = format!("{now:.0}");
        let words = "MountVolume.SetUp failed for volume \"a\": secret \"a\" not found";
        let event = json!({
            "metadata": {"name": format!("{name}.1"), "namespace": scene.namespace}, "type": "Warning",
            "involvedObject": {"kind": "Pod", "namespace": scene.namespace, "name": name, "uid": pod.metadata.uid},
            "reason": "FailedMount", "message": words, "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        });
        let events: Api<Event> = scene.api();
        events.create(&PostParams::default(), &serde_json::from_value(event).unwrap()).await.unwrap();
        let started = now - jiff::SignedDuration::from_mins(2);
        let status = json!({"conditions": scheduled("True", ""), "startTime": format!("{started:.0}")});
        write_status(scene, &pod, status).await;
        let message = scene.wait_condition("web", kind, "False PodsStuck").await;
        let expected = format!(
            "Pod {name}: its containers have been in creation for over a minute: FailedMount: {words}; see `kubectl"
        );
        assert!(message.contains(&expected), "{message}");
        delete(scene, &pod).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_rollout_without_progress() {
    let scene = Scene::start("deadline").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    for (component, kind) in COMPONENTS {
        let words = format!("ReplicaSet \"web-{component}-1\" has timed out progressing.");
        // Write the status as the Deployment controller would.
        let overdue = json!({"status": {"conditions": [
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": words},
        ]}});
        let deployments: Api<Deployment> = scene.api();
        let name = format!("web-{component}");
        deployments.patch_status(&name, &PatchParams::default(), &Patch::Merge(overdue)).await.unwrap();
        let message = scene.wait_condition("web", kind, "False ProgressDeadlineExceeded").await;
        assert!(message.ends_with(&words), "{message}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_quota_that_rejects_a_child() {
    let scene = Scene::start("quota").await;
    let quotas: Api<ResourceQuota> = scene.api();
    let none = json!({"hard": {"count/deployments.apps": "0"}, "used": {"count/deployments.apps": "0"}});
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": none["hard"]}});
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    // Write the status as the quota controller would.
    quotas.patch_status("none", &PatchParams::default(), &Patch::Merge(json!({ "status": none }))).await.unwrap();
    scene.create("web", json!({})).await;
    let message = scene.wait_condition("web", "BackendsReady", "False ApplyFailed").await;
    assert!(message.contains("Deployment web-backend: ") && message.contains("exceeded quota: none"), "{message}");
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    scene.wait_children("web").await;
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    scene.end().await;
}

/// `template.resources` is the remedy for a quota that demands limits, and for a `LimitRange` below
/// our default requests.
#[tokio::test(flavor = "multi_thread")]
async fn resources_of_the_template_satisfy_a_quota_and_a_limit_range() {
    let scene = Scene::start("resources").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let hard = json!({"limits.memory": "2Gi", "limits.cpu": "4"});
    let quota = json!({"metadata": {"name": "limits"}, "spec": {"hard": hard}});
    let quotas: Api<ResourceQuota> = scene.api();
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    let status = json!({"status": {"hard": hard, "used": {"limits.memory": "0", "limits.cpu": "0"}}});
    quotas.patch_status("limits", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let range = json!({"metadata": {"name": "small"},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "96Mi"}}]}});
    let ranges: Api<LimitRange> = scene.api();
    ranges.create(&PostParams::default(), &serde_json::from_value(range).unwrap()).await.unwrap();
    for (component, field) in [("backend", "backends"), ("frontend", "frontend")] {
        // Admission uses a watch cache, which may lag slightly behind.
        until("the API server refuses the pod", PATIENCE, async || match try_create_pod(&scene, component).await {
            Ok(pod) => {
                delete(&scene, &pod).await;
                Err("the pod was created".to_owned())
            }
            Err(error) => {
                assert!(error.to_string().contains("is forbidden"), "{error}");
                Ok(())
            }
        })
        .await;
        let limits = json!({"limits": {"memory": "90Mi", "cpu": "1"}});
        let template = json!({"resources": {"tor": limits, "agent": limits}});
        scene.change("web", json!({"spec": {field: {"template": template}}})).await;
        until("the API server accepts the pod", PATIENCE, async || {
            try_create_pod(&scene, component).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_missing_permission() {
    let scene = Scene::start_with_role("no-get").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let roles: Api<Role> = scene.api();
    let complete = roles.get("onionbalance-operator").await.unwrap().rules.unwrap();
    let mut without = complete.clone();
    for rule in without.iter_mut().filter(|rule| rule.resources == Some(vec!["secrets".to_owned()])) {
        rule.verbs.retain(|verb| verb != "get");
    }
    assert_ne!(without, complete);
    let give = async |rules: &Vec<_>| {
        let patch = Patch::Merge(json!({ "rules": rules }));
        roles.patch("onionbalance-operator", &PatchParams::default(), &patch).await.unwrap();
    };
    give(&without).await;
    scene.change("web", json!({"spec": {"backends": {"replicas": 3}}})).await;
    let message = scene.wait_condition("web", "Ready", "Unknown Forbidden").await;
    assert!(
        message.starts_with("The operator lacks a permission: secrets \"web-master-key\" is forbidden"),
        "{message}"
    );
    let address = scene.address("web").await;
    give(&complete).await;
    scene.wait_condition("web", "Ready", "False Progressing").await;
    assert_eq!(scene.address("web").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_forbidden_watch_through_the_readiness_probe() {
    let mut scene = Scene::start_with_role("no-list").await;
    until("the watch caches are filled", PATIENCE, async || {
        if scene.telemetry.is_ready() { Ok(()) } else { Err(scene.telemetry.not_ready()) }
    })
    .await;
    assert_eq!(scene.telemetry.watches.failing(), BTreeMap::new());
    scene.stop_operator().await;
    let roles: Api<Role> = scene.api();
    let mut allowed = roles.get("onionbalance-operator").await.unwrap().rules.unwrap();
    allowed.retain(|rule| rule.resources != Some(vec!["poddisruptionbudgets".to_owned()]));
    let patch = Patch::Merge(json!({ "rules": allowed }));
    roles.patch("onionbalance-operator", &PatchParams::default(), &patch).await.unwrap();
    scene.start_operator(settings());
    let refused = until("a watch fails", PATIENCE, async || {
        let failing = scene.telemetry.watches.failing();
        if failing.is_empty() { Err("no watch fails".to_owned()) } else { Ok(failing) }
    })
    .await;
    let name = ("poddisruptionbudgets".to_owned(), Some(scene.namespace.clone()));
    assert_eq!(refused.keys().collect::<Vec<_>>(), [&name]);
    assert!(refused[&name].contains("cannot list resource \"poddisruptionbudgets\""), "{refused:?}");
    assert!(scene.telemetry.not_ready().contains("cannot watch poddisruptionbudgets: "));
    scene.end().await;
}

/// The namespace controller deletes the objects of a namespace in any order. The operator cannot
/// create them again meanwhile, and nobody needs to know.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_in_a_namespace_that_is_being_deleted_is_left_alone() {
    let scene = Scene::without_operator("ending-namespace").await;
    let mut program = Program::start("operator", &scene.namespace, "debug");
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let namespaces = Api::<Namespace>::all(scene.client.clone());
    namespaces.delete(&scene.namespace, &DeleteParams::default()).await.unwrap();
    scene.api::<ConfigMap>().delete("web-backend", &DeleteParams::default()).await.unwrap();
    program.wait_log("the namespace is being deleted").await;
    assert!(program.terminate().await.success());
    for complaint in ["refused an owned object", "reconciliation failed", "could not write an Event"] {
        assert!(!program.log().contains(complaint), "{}", program.log());
    }
}
