//! Checks that the chart accepts the values that a page of `docs/` shows, and that the samples in
//! `deploy/samples` describe the same onion service.

use onionbalance_e2e::page::Page;
use serde_json::{Value, json};

use crate::helm::{documents, read, render, the};

/// Returns the values in the YAML blocks of the page about platforms, in its order.
fn values_for_platforms() -> Vec<Value> {
    let page = Page::open("platforms.md").unwrap();
    page.of_language("yaml").flat_map(documents).collect()
}

#[test]
fn the_chart_accepts_the_values_for_each_platform() {
    let values = values_for_platforms();
    assert_eq!(values.len(), 4, "{values:?}");
    for values in values {
        render(values);
    }
}

#[test]
fn the_values_for_arm_keep_all_pods_on_such_nodes() {
    let values = values_for_platforms().into_iter().find(|values| values.get("nodeSelector").is_some());
    let values = values.expect("the page has values with a node selector");
    let arm = json!({"kubernetes.io/arch": "arm64"});
    for component in ["backend", "frontend"] {
        assert_eq!(values["dataPlane"]["defaultTemplates"][component]["nodeSelector"], arm);
    }
    assert_eq!(the(&render(values), "Deployment")["spec"]["template"]["spec"]["nodeSelector"], arm);
}

/// The demo applies one of the samples. The other one runs an app from a public image, which the
/// tests cannot pull.
#[test]
fn both_samples_describe_the_same_onion_service() {
    let [local, public] = ["web", "nginx"].map(|name| documents(&read(&format!("deploy/samples/{name}.yaml"))));
    assert_eq!((local.len(), public.len()), (3, 3));
    assert_eq!(local[..2], public[..2]);
    let app = |objects: &[Value]| objects[2].pointer("/spec/template/metadata/labels").cloned();
    assert_eq!(app(&local), app(&public));
}
