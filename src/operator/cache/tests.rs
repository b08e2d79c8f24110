use serde_json::json;

use super::*;

fn metadata(value: serde_json::Value) -> ObjectMeta {
    serde_json::from_value(value).unwrap()
}

#[test]
fn an_owned_object_names_its_service_by_reference_or_by_label() {
    let referenced = metadata(json!({"namespace": "shop", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other", "uid": "1"},
        {"apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "name": "web", "uid": "2"},
    ]}));
    let labelled = metadata(json!({"namespace": "shop", "labels": {"onionbalance.dev/service": "web"}}));
    for child in [referenced, labelled] {
        assert_eq!(owner(&child), Some(ObjectRef::new("web").within("shop")));
    }
    assert_eq!(owner(&metadata(json!({"namespace": "shop", "name": "web"}))), None);
}

#[test]
fn an_owner_reference_may_name_another_version_of_the_api_but_no_other_group() {
    let owned_by = |version: &str| {
        owner(&metadata(json!({"namespace": "shop", "ownerReferences": [
            {"apiVersion": version, "kind": "OnionBalancedService", "name": "web", "uid": "1"},
        ]})))
    };
    assert_eq!(owned_by("onionbalance.dev/v1beta1"), Some(ObjectRef::new("web").within("shop")));
    assert_eq!(owned_by("example.org/v1alpha1"), None);
    assert_eq!(owned_by("v1alpha1"), None);
}

#[test]
fn only_the_name_of_an_unlabelled_object_is_kept() {
    let whole = json!({"name": "a", "annotations": {"big": "x"}, "labels": {"app": "y"}});
    let mut found: Metadata = serde_json::from_value(json!({ "metadata": whole })).unwrap();
    shrink(&mut found);
    assert_eq!(found.metadata, metadata(json!({"name": "a"})));
}

#[test]
fn services_share_a_key_by_secret_or_by_address() {
    let object = |name: &str, namespace: &str, secret: Option<&str>, address: Option<&str>| -> OnionBalancedService {
        serde_json::from_value(json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}")},
            "spec": {"ports": [], "masterKey": {"secretName": secret}},
            "status": {"onionAddress": address},
        }))
        .unwrap()
    };
    let web = object("web", "shop", None, Some("a.onion"));
    assert!(!may_share_key(&web, &web));
    assert!(may_share_key(&web, &object("b", "shop", Some("web-master-key"), None)));
    assert!(!may_share_key(&web, &object("b", "other", Some("web-master-key"), None)));
    assert!(may_share_key(&web, &object("b", "other", None, Some("a.onion"))));
    assert!(!may_share_key(&object("a", "shop", None, None), &object("b", "shop", None, None)));
}
