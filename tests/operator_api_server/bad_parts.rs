//! Tests that a bad part of an object keeps its last good value and is named, and that everything
//! else takes effect.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, DeleteParams};
use onionbalance_operator::operator::Settings;
use serde_json::{Value, json};

use crate::refusals::create_pod;
use crate::scene::{Scene, VERBOSE_LOG, settings};

fn replicas(wanted: i32) -> impl Fn(&Deployment) -> bool {
    move |deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas) == Some(wanted)
}

fn contains(file: &str, text: &str) -> impl Fn(&ConfigMap) -> bool {
    let (file, text) = (file.to_owned(), text.to_owned());
    move |config| config.data.as_ref().is_some_and(|data| data[&file].contains(&text))
}

/// Returns the names of objects, each with a change that makes one part bad, and the condition that
/// reports the bad part. The key of the object `key` is deleted instead.
fn alarms() -> [(&'static str, Value, &'static str, &'static str); 5] {
    let backends = |field: &str, value: Value| json!({"backends": {field: value}});
    [
        (
            "target",
            json!({"ports": [
                {"port": 80, "target": {"service": {"name": "web", "port": "http"}}},
                {"port": 443, "target": {"service": {"name": "absent", "port": 8443}}},
            ]}),
            "BackendsReady",
            "False TargetNotFound",
        ),
        ("key", json!({}), "MasterKeyReady", "False SecretNotFound"),
        ("torrc", backends("extraTorrc", json!(VERBOSE_LOG)), "Accepted", "False InvalidSpec"),
        (
            "template",
            backends("template", json!({"affinity": {"nodeAffinty": {}}})),
            "BackendsReady",
            "False ApplyFailed",
        ),
        (
            "unreadable",
            backends("template", json!({"resources": {"tor": {"limits": {"memory": 5_000_000_000_u64}}}})),
            "Accepted",
            "False InvalidSpec",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_alarm_keeps_an_object_from_being_scaled_updated_and_suspended() {
    let mut scene = Scene::start("alarms").await;
    for (name, change, kind, expected) in alarms() {
        scene.create(name, json!({"backends": {"extraTorrc": "NumCPUs 1"}})).await;
        scene.wait_children(name).await;
        scene.change(name, json!({ "spec": change })).await;
        if name == "key" {
            let secrets: Api<Secret> = scene.api();
            secrets.delete("key-master-key", &DeleteParams::default()).await.unwrap();
        }
        scene.wait_condition(name, kind, expected).await;
        scene.change(name, json!({"spec": {"backends": {"replicas": 4}, "frontend": {"replicas": 3}}})).await;
    }
    for (name, ..) in alarms() {
        scene.wait_for::<Deployment>(&format!("{name}-backend"), replicas(4)).await;
        scene.wait_for::<Deployment>(&format!("{name}-frontend"), replicas(3)).await;
        scene.wait_for::<ConfigMap>(&format!("{name}-backend"), contains("torrc", "\nNumCPUs 1\n")).await;
    }
    scene.stop_operator().await;
    scene.start_operator(Settings { tor_image: "tor:2".to_owned(), ..settings() });
    let has_image = |deployment: &Deployment| {
        let containers = &deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers;
        containers.iter().any(|container| container.image.as_deref() == Some("tor:2"))
    };
    for (name, ..) in alarms() {
        for component in ["backend", "frontend"] {
            scene.wait_for::<Deployment>(&format!("{name}-{component}"), has_image).await;
        }
        scene.change(name, json!({"spec": {"suspend": true}})).await;
    }
    for (name, _, kind, expected) in alarms() {
        for component in ["backend", "frontend"] {
            scene.wait_for::<Deployment>(&format!("{name}-{component}"), replicas(0)).await;
        }
        scene.wait_condition(name, "Published", "False Suspended").await;
        // The condition of a suspended object names the bad part, too.
        let expected = if kind == "BackendsReady" { "False Suspended" } else { expected };
        let message = scene.wait_condition(name, kind, expected).await;
        assert!(name != "target" || message.contains("Service absent does not exist"), "{message}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_the_good_port_of_a_new_object() {
    let scene = Scene::start("good-port").await;
    let ports = json!({"ports": [
        {"name": "site", "port": 80, "target": {"service": {"name": "web", "port": 80}}},
        {"name": "mail", "port": 25, "target": {"service": {"name": "mail", "port": "http"}}},
    ], "backends": {"replicas": 3}});
    scene.create("shop", ports).await;
    scene.wait_children("shop").await;
    let message = scene.wait_condition("shop", "BackendsReady", "False TargetNotFound").await;
    let expected = "spec.ports[1].target.service: Service mail does not exist in namespace test-good-port; create it, or \
                    correct the name. Until then, port 25 is not served.";
    assert!(message.starts_with(expected), "{message}");
    scene.wait_for::<ConfigMap>("shop-backend", contains("agent.yaml", "web.test-good-port.svc:80")).await;
    scene.change("shop", json!({"spec": {"backends": {"replicas": 4}}})).await;
    scene.wait_for::<Deployment>("shop-backend", replicas(4)).await;
    let config: ConfigMap = scene.api().get("shop-backend").await.unwrap();
    assert!(!contains("torrc", "HiddenServicePort 25 ")(&config));

    scene.create_target("mail").await;
    scene.wait_for::<ConfigMap>("shop-backend", contains("torrc", "HiddenServicePort 25 ")).await;
    scene.wait_condition("shop", "BackendsReady", "False Progressing").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_suspended_once_its_last_pod_is_gone() {
    let scene = Scene::start("stopping").await;
    scene.create("web", json!({"backends": {"replicas": 1}})).await;
    scene.wait_children("web").await;
    scene.report_backends("web", 1).await;
    let pod = create_pod(&scene, "backend").await;
    scene.change("web", json!({"spec": {"suspend": true}})).await;
    scene.report_backends("web", 0).await;
    for kind in ["BackendsReady", "Published"] {
        let message = scene.wait_condition("web", kind, "False Stopping").await;
        assert_eq!(message, "spec.suspend is true. Still running: 1 backend.");
    }
    let pods: Api<Pod> = scene.api();
    pods.delete(pod.metadata.name.as_deref().unwrap(), &DeleteParams::default().grace_period(0)).await.unwrap();
    for kind in ["BackendsReady", "Published"] {
        scene.wait_condition("web", kind, "False Suspended").await;
    }
    scene.end().await;
}

/// This server does not evaluate the rule of the schema about this change.
#[tokio::test(flavor = "multi_thread")]
async fn pods_keep_the_location_that_cannot_be_changed() {
    let mut scene = Scene::start("location").await;
    let location = |location: &str| json!({"anonymity": {"serverLocation": location}});
    let single_hop = "\nHiddenServiceSingleHopMode 1\nHiddenServiceNonAnonymousMode 1\n";
    for (name, before, after) in [("exposed", "Exposed", "Hidden"), ("hidden", "Hidden", "Exposed")] {
        scene.create(name, location(before)).await;
        let children = scene.wait_children(name).await;
        scene.change(name, json!({ "spec": location(after) })).await;
        let message = scene.wait_condition(name, "Accepted", "False InvalidSpec").await;
        assert!(message.starts_with("spec.anonymity.serverLocation: cannot be changed: "), "{message}");
        assert_eq!(scene.children(name).await, children);
        // Everything else can still be changed, also after a restart.
        scene.stop_operator().await;
        scene.start_operator(settings());
        scene.change(name, json!({"spec": {"backends": {"extraTorrc": "NumCPUs 1"}}})).await;
        let config = scene.wait_for::<ConfigMap>(&format!("{name}-backend"), contains("torrc", "\nNumCPUs 1\n")).await;
        assert_eq!(contains("torrc", single_hop)(&config), before == "Exposed");
        scene.change(name, json!({ "spec": location(before) })).await;
        scene.wait_condition(name, "Accepted", "True Valid").await;
    }
    scene.wait_condition("exposed", "LocationExposed", "True LocationNotHidden").await;
    scene.wait_event("exposed", "LocationNotHidden").await;
    assert!(scene.status("hidden").await.conditions.iter().all(|found| found.type_ != "LocationExposed"));
    scene.end().await;
}
