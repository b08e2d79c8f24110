//! Tests that the operator creates and maintains owned objects and does not touch foreign ones.

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, ObjectMeta};
use onionbalance_operator::crd::OnionBalancedService;
use onionbalance_operator::crd::names::{Component, agent_token_secret, labels};
use serde_json::{Value, json};

use crate::permissions::leader_election_uses_every_permission;
use crate::scene::{PATIENCE, Scene};
use crate::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn recreates_deleted_children() {
    let scene = Scene::start("deleted").await;
    scene.create("web", json!({"backends": {"replicas": 3}})).await;
    let before = scene.wait_children("web").await;
    scene.collect_garbage("web").await;
    let after = scene.wait_children("web").await;
    assert!(before.keys().eq(after.keys()));
    assert!(before.iter().all(|(name, (uid, _))| after[name].0 != *uid));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reverts_changes_to_children() {
    let scene = Scene::start("changed").await;
    scene.create("web", json!({"backends": {"replicas": 3}})).await;
    scene.wait_children("web").await;
    let deployments: Api<Deployment> = scene.api();
    let config_maps: Api<ConfigMap> = scene.api();
    let merge = PatchParams::default();

    deployments.patch("web-backend", &merge, &Patch::Merge(json!({"spec": {"replicas": 7}}))).await.unwrap();
    let replicas = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas;
    scene.wait_for::<Deployment>("web-backend", |deployment| replicas(deployment) == Some(3)).await;

    // An old API server does not record these changes in the managed fields.
    let scale = Patch::Merge(json!({"spec": {"replicas": 8}}));
    for (name, expected) in [("web-backend", 3), ("web-frontend", 1)] {
        deployments.patch_scale(name, &merge, &scale).await.unwrap();
        scene.wait_for::<Deployment>(name, |deployment| replicas(deployment) == Some(expected)).await;
    }

    let torrc = json!({"data": {"torrc": "SocksPort 9050"}});
    config_maps.patch("web-backend", &merge, &Patch::Merge(torrc)).await.unwrap();
    let has_torrc = |config: &ConfigMap| config.data.as_ref().unwrap()["torrc"].contains("SocksPort 0\n");
    scene.wait_for::<ConfigMap>("web-backend", has_torrc).await;

    // The label that the watch selects on is also restored.
    let unlabelled = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}});
    config_maps.patch("web-frontend", &merge, &Patch::Merge(unlabelled)).await.unwrap();
    let is_labelled =
        |config: &ConfigMap| config.metadata.labels.as_ref().unwrap().get("app.kubernetes.io/managed-by").is_some();
    scene.wait_for::<ConfigMap>("web-frontend", is_labelled).await;

    // Fields that others add are preserved.
    let annotated = json!({"metadata": {"annotations": {"example.org/note": "x"}}});
    deployments.patch("web-frontend", &merge, &Patch::Merge(annotated)).await.unwrap();
    scene.change("web", json!({"spec": {"frontend": {"replicas": 2}}})).await;
    let frontend = scene.wait_for::<Deployment>("web-frontend", |deployment| replicas(deployment) == Some(2)).await;
    assert_eq!(frontend.metadata.annotations.unwrap()["example.org/note"], "x");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_mark_of_a_rollout_restart() {
    let scene = Scene::start("restarted").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let deployments: Api<Deployment> = scene.api();
    let names = ["web-backend", "web-frontend"];
    for name in names {
        deployments.restart(name).await.unwrap();
    }
    scene.change("web", json!({"spec": {"backends": {"replicas": 5}, "frontend": {"replicas": 4}}})).await;
    for (name, replicas) in names.into_iter().zip([5, 4]) {
        let is_scaled = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas == Some(replicas);
        let template = scene.wait_for::<Deployment>(name, is_scaled).await.spec.unwrap().template;
        let annotations = template.metadata.unwrap().annotations.unwrap();
        assert!(annotations.contains_key("kube.kubernetes.io/restartedAt"), "{annotations:?}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_a_child_that_is_being_deleted() {
    let scene = Scene::start("leaving").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let config_maps: Api<ConfigMap> = scene.api();
    let merge = PatchParams::default();
    let held = json!({"metadata": {"finalizers": ["example.org/held"]}});
    config_maps.patch("web-backend", &merge, &Patch::Merge(held)).await.unwrap();
    config_maps.delete("web-backend", &DeleteParams::default()).await.unwrap();
    // Without our label, the child is not in the watch cache, so it appears to be missing.
    let unlabelled = json!({"metadata": {"labels": null}});
    let leaving = config_maps.patch("web-backend", &merge, &Patch::Merge(unlabelled)).await.unwrap();

    scene.change("web", json!({"spec": {"backends": {"replicas": 3}}})).await;
    let replicas = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas;
    scene.wait_for::<Deployment>("web-backend", |deployment| replicas(deployment) == Some(3)).await;
    let is_observed = |object: &OnionBalancedService| {
        object.status.as_ref().and_then(|status| status.observed_generation) == object.metadata.generation
    };
    let object = scene.wait_for::<OnionBalancedService>("web", is_observed).await;
    let conditions = object.status.unwrap().conditions;
    assert!(!conditions.iter().any(|condition| condition.reason == "ApplyFailed"), "{conditions:?}");
    assert_eq!(config_maps.get("web-backend").await.unwrap(), leaving);

    let released = json!({"metadata": {"finalizers": null}});
    config_maps.patch("web-backend", &merge, &Patch::Merge(released)).await.unwrap();
    scene.change("web", json!({"spec": {"backends": {"replicas": 4}}})).await;
    scene.wait_for::<ConfigMap>("web-backend", |config| config.metadata.uid != leaving.metadata.uid).await;
    scene.end().await;
}

/// The operator's updates carry the UID of the object that its cache contains, and rely on this
/// answer of the API server.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_an_apply_with_the_uid_of_another_object() {
    let scene = Scene::without_operator("other-uid").await;
    let apply = PatchParams::apply("test").force();
    for resource in scene.kinds_of_children() {
        let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
        let metadata = json!({"name": "other", "labels": {"a": "b"}});
        let manifest = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata});
        let mut manifest = minimal(manifest);
        let created = api.patch_metadata("other", &apply, &Patch::Apply(&manifest)).await.unwrap().metadata;
        manifest["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
        manifest["metadata"]["labels"]["a"] = json!("c");
        let refused = api.patch_metadata("other", &apply, &Patch::Apply(&manifest)).await;
        let error = refused.expect_err(&resource.kind);
        let kube::Error::Api(status) = &error else { panic!("{}: {error}", resource.kind) };
        let mut causes = status.details.iter().flat_map(|details| &details.causes);
        let is_named = causes.any(|cause| cause.field == "metadata.uid");
        assert!(status.is_conflict() || is_named, "{}: {status:?}", resource.kind);
        let found = api.get_metadata("other").await.unwrap().metadata;
        assert_eq!((found.uid, found.labels), (created.uid, created.labels), "{}", resource.kind);
    }
}

/// Adds the fields without which the API server refuses an object of the manifest's kind.
fn minimal(mut manifest: Value) -> Value {
    let selector = json!({"matchLabels": {"a": "b"}});
    match manifest["kind"].as_str().unwrap() {
        "RoleBinding" => {
            manifest["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "other"});
        }
        "Service" => manifest["spec"] = json!({"ports": [{"port": 80, "protocol": "TCP"}]}),
        "NetworkPolicy" => manifest["spec"] = json!({"podSelector": {}}),
        "PodDisruptionBudget" => manifest["spec"] = json!({"maxUnavailable": 1, "selector": selector}),
        "Deployment" => {
            let pod = json!({"containers": [{"name": "a", "image": "a:1"}]});
            let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod});
            manifest["spec"] = json!({"replicas": 0, "selector": selector, "template": template});
        }
        _ => {}
    }
    manifest
}

#[tokio::test(flavor = "multi_thread")]
async fn removes_a_field_that_the_spec_no_longer_sets() {
    let scene = Scene::start("field-gone").await;
    scene.create("web", json!({"backends": {"template": {"nodeSelector": {"disk": "ssd"}}}})).await;
    scene.wait_children("web").await;
    scene.change("web", json!({"spec": {"backends": {"template": {"nodeSelector": null}}}})).await;
    let selector = |deployment: &Deployment| {
        let pod = deployment.spec.as_ref().unwrap().template.spec.clone().unwrap();
        pod.node_selector.unwrap_or_default()
    };
    scene.wait_for::<Deployment>("web-backend", |deployment| selector(deployment).is_empty()).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scales_through_the_scale_subresource() {
    let scene = Scene::start("scale").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let objects: Api<OnionBalancedService> = scene.api();
    assert_eq!(objects.get_scale("web").await.unwrap().spec.unwrap().replicas, Some(2));
    let five = Patch::Merge(json!({"spec": {"replicas": 5}}));
    objects.patch_scale("web", &PatchParams::default(), &five).await.unwrap();
    let replicas = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas;
    scene.wait_for::<Deployment>("web-backend", |deployment| replicas(deployment) == Some(5)).await;
    scene.report_backends("web", 5).await;
    until("the scale subresource reports 5 replicas", PATIENCE, async || {
        let scale = objects.get_scale("web").await.map_err(|error| error.to_string())?;
        let status = scale.status.ok_or("no status")?;
        let selector = "app.kubernetes.io/component=backend,onionbalance.dev/service=web";
        if status.replicas == 5 && status.selector.as_deref() == Some(selector) {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    scene.change("web", json!({"spec": {"suspend": true}})).await;
    for name in ["web-backend", "web-frontend"] {
        scene.wait_for::<Deployment>(name, |deployment| replicas(deployment) == Some(0)).await;
    }
    scene.report_backends("web", 0).await;
    scene.wait_condition("web", "Ready", "False Suspended").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_foreign_objects_alone() {
    let scene = Scene::start("taken").await;
    let kinds = scene.kinds_of_children();
    join_all(kinds.iter().map(|resource| leaves_a_foreign_object_alone(&scene, resource, false))).await;
    scene.end().await;
}

/// Anyone who may create an object may also label it, so our labels are no proof that the operator
/// created the object.
#[tokio::test(flavor = "multi_thread")]
async fn leaves_foreign_objects_with_our_labels_alone() {
    let scene = Scene::start("taken-labelled").await;
    let kinds = scene.kinds_of_children();
    join_all(kinds.iter().map(|resource| leaves_a_foreign_object_alone(&scene, resource, true))).await;
    scene.end().await;
}

/// Creates a foreign object with the name of an owned object, and then a service with this owned
/// object. Returns after the foreign object has been deleted and all owned objects exist.
pub async fn leaves_a_foreign_object_alone(scene: &Scene, resource: &ApiResource, has_our_labels: bool) {
    let service = format!("web-{}", resource.plural);
    let name = match resource.kind.as_str() {
        "Secret" => agent_token_secret(&service),
        "Role" | "RoleBinding" => Component::Frontend.child_name(&service),
        _ => Component::Backend.child_name(&service),
    };
    let mut foreign = DynamicObject::new(&name, resource);
    foreign.data = foreign_content(&resource.kind);
    foreign.metadata.labels = has_our_labels.then(|| labels(&service, None));
    let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, resource);
    let made = api.create(&PostParams::default(), &foreign).await.unwrap();
    scene.create(&service, json!({})).await;
    let message = scene.wait_condition(&service, "Accepted", "False NameTaken").await;
    let child = format!("{} {name}", resource.kind);
    let told = format!("{child} exists and does not belong to this object");
    assert!(message.starts_with(&told), "{message}");
    // Once the operator has seen another change, its first round is complete.
    scene.change(&service, json!({"spec": {"backends": {"replicas": 4}}})).await;
    scene.wait_condition(&service, "Accepted", "False NameTaken").await;
    assert_eq!(api.get(&name).await.unwrap(), made);
    // Nothing has been created before the operator noticed this, not even the key.
    let mut children = scene.children(&service).await;
    children.remove(&child);
    assert_eq!(children.into_keys().collect::<Vec<_>>(), [""; 0]);
    let secrets: Api<Secret> = scene.api();
    assert!(secrets.get_opt(&format!("{service}-master-key")).await.unwrap().is_none());

    api.delete(&name, &DeleteParams::default()).await.unwrap();
    scene.wait_children(&service).await;
}

/// Some backup tools omit owner references, and `kubectl delete --cascade=orphan` removes them.
#[tokio::test(flavor = "multi_thread")]
async fn adopts_its_own_children_that_have_lost_their_owner() {
    let scene = Scene::start("ownerless").await;
    scene.create("web", json!({})).await;
    let address = scene.address("web").await;
    let before = scene.wait_children("web").await;
    scene.api::<OnionBalancedService>().delete("web", &DeleteParams::background()).await.unwrap();
    for child in before.keys() {
        let (kind, name) = child.split_once(' ').unwrap();
        let resource = scene.kinds_of_children().into_iter().find(|resource| resource.kind == kind).unwrap();
        let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
        let ownerless = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
        api.patch(name, &PatchParams::default(), &ownerless).await.unwrap();
    }

    let object = scene.create("web", json!({})).await;
    until("the new object owns all children", PATIENCE, async || {
        let is_owned = |child: &ObjectMeta| {
            let mut owners = child.owner_references.iter().flatten();
            owners.any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref() && owner.controller == Some(true))
        };
        let mut children = scene.metadata_of_children("web").await;
        // The Secret of the guards never has a controller.
        children.retain(|name, child| !is_owned(child) && name != "Secret web-guards");
        if children.is_empty() { Ok(()) } else { Err(format!("{:?}", children.keys())) }
    })
    .await;
    scene.wait_condition("web", "Accepted", "True Valid").await;
    assert_eq!(scene.address("web").await, address);
    let after = scene.wait_children("web").await;
    assert!(before.iter().all(|(name, (uid, _))| after[name].0 == *uid), "a child was replaced");
    scene.end().await;
}

/// Returns the minimal content for a foreign object of the given kind.
fn foreign_content(kind: &str) -> Value {
    let selector = json!({"matchLabels": {"app": "mine"}});
    match kind {
        "RoleBinding" => {
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "mine"}})
        }
        "Service" => json!({"spec": {"ports": [{"port": 80}]}}),
        "NetworkPolicy" => json!({"spec": {"podSelector": selector}}),
        "Deployment" => json!({"spec": {"selector": selector, "template": {
            "metadata": {"labels": {"app": "mine"}}, "spec": {"containers": [{"name": "mine", "image": "mine"}]},
        }}}),
        "ConfigMap" => json!({"data": {"mine": "yes"}}),
        _ => json!({}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_rejected_pod_setting_and_keeps_the_children() {
    let scene = Scene::start("refused-pod-setting").await;
    scene.create("web", json!({})).await;
    let before = scene.wait_children("web").await;
    scene.change("web", json!({"spec": {"backends": {"template": {"affinity": {"nodeAffinty": {}}}}}})).await;
    let message = scene.wait_condition("web", "BackendsReady", "False ApplyFailed").await;
    assert!(message.starts_with("Deployment web-backend: ") && message.contains("nodeAffinty"), "{message}");
    assert!(before.keys().eq(scene.children("web").await.keys()));
    scene.change("web", json!({"spec": {"backends": {"template": {"affinity": null}}}})).await;
    scene.wait_condition("web", "BackendsReady", "False Progressing").await;
    scene.end().await;
}

/// If `watchNamespaces` is set, the chart grants the operator a Role in each watched namespace.
#[tokio::test(flavor = "multi_thread")]
async fn works_with_a_role_in_the_watched_namespace() {
    let scene = Scene::start_as_installed_for_a_namespace("role").await;
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    scene.address("web").await;
    scene.report_backends("web", 2).await;
    scene.report_published("web").await;
    scene.wait_condition("web", "Ready", "True Ready").await;
    scene.change("web", json!({"spec": {"deletionPolicy": "Delete", "frontend": {"replicas": 2}}})).await;
    let replicas = |deployment: &Deployment| deployment.spec.as_ref().unwrap().replicas == Some(2);
    scene.wait_for::<Deployment>("web-frontend", replicas).await;
    let user = scene.namespace.clone();
    scene.end().await;
    leader_election_uses_every_permission(&user).await;
}
