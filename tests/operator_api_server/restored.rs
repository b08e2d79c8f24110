//! Tests of children that a backup tool has restored without their owner references and managed
//! fields.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::core::ObjectMeta;
use onionbalance_operator::crd::OnionBalancedService;
use serde_json::json;

use crate::scene::{PATIENCE, Scene, settings};
use crate::wait::until;

/// Deletes a child, and creates it again as a backup tool would.
async fn restore(scene: &Scene, child: &str) {
    let (kind, name) = child.split_once(' ').unwrap();
    let resource = scene.kinds_of_children().into_iter().find(|resource| resource.kind == kind).unwrap();
    let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
    let mut saved = api.get(name).await.unwrap();
    api.delete(name, &DeleteParams::background()).await.unwrap();
    let ObjectMeta { name, namespace, labels, annotations, .. } = saved.metadata;
    saved.metadata = ObjectMeta { name, namespace, labels, annotations, ..ObjectMeta::default() };
    saved.data.as_object_mut().unwrap().remove("status");
    let parameters = PostParams { field_manager: Some("velero".to_owned()), ..PostParams::default() };
    api.create(&parameters, &saved).await.unwrap();
}

async fn wait_until_all_are_owned_by(scene: &Scene, object: &OnionBalancedService) {
    let is_owned = |child: &ObjectMeta| {
        let mut owners = child.owner_references.iter().flatten();
        owners.any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref() && owner.controller == Some(true))
    };
    until("the object owns all children", PATIENCE, async || {
        let mut children = scene.metadata_of_children(&object.name_any()).await;
        // The Secret of the guards never has a controller.
        children.retain(|name, child| !is_owned(child) && !name.ends_with("-guards"));
        if children.is_empty() { Ok(()) } else { Err(format!("{:?}", children.keys())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_children_lose_the_fields_that_the_object_no_longer_sets() {
    let mut scene = Scene::start("restored").await;
    let part = json!({"template": {"nodeSelector": {"disk": "ssd"}}});
    scene.create("web", json!({"backends": part, "frontend": part})).await;
    let address = scene.address("web").await;
    let saved = scene.wait_children("web").await;
    scene.stop_operator().await;
    scene.api::<OnionBalancedService>().delete("web", &DeleteParams::background()).await.unwrap();
    for child in saved.keys() {
        restore(&scene, child).await;
    }
    let restored = scene.children("web").await;
    assert!(saved.iter().all(|(name, (uid, _))| restored[name].0 != *uid));

    // The restored object differs from the one that existed when the backup was made.
    scene.start_operator(settings());
    let object = scene.create("web", json!({"backends": part})).await;
    wait_until_all_are_owned_by(&scene, &object).await;
    scene.wait_condition("web", "Accepted", "True Valid").await;
    assert_eq!(scene.address("web").await, address);
    let selects = |deployment: &Deployment| {
        let spec = deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        spec.node_selector.as_ref().is_some_and(|labels| !labels.is_empty())
    };
    scene.wait_for::<Deployment>("web-frontend", |deployment| !selects(deployment)).await;
    scene.wait_for::<Deployment>("web-backend", selects).await;

    scene.change("web", json!({"spec": {"backends": {"template": {"nodeSelector": null}}}})).await;
    scene.wait_for::<Deployment>("web-backend", |deployment| !selects(deployment)).await;
    let after = scene.children("web").await;
    assert!(restored.iter().all(|(name, (uid, _))| after[name].0 == *uid), "a child was replaced");
    scene.end().await;
}
