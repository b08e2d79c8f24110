//! Checks the chart's copies of files in the source tree. The copies are necessary because Helm
//! cannot read files outside a chart.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use onionbalance_operator::crd::without_rules;
use serde_json::json;

use crate::helm::{RELEASE, documents, helm, read, render, the, with_integers};

#[test]
fn helm_lint_finds_no_problem() {
    let output = helm(&["lint", "--strict"], &json!({}));
    let printed = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&printed));
}

#[test]
fn the_copies_are_up_to_date() {
    let crd = read("charts/onionbalance-operator/files/crd.yaml");
    assert!(crd == read("crds/onionbalancedservices.yaml"), "files/crd.yaml is out of date; run `make generate`");
    let rules = documents(&read("charts/onionbalance-operator/files/rules.yaml"));
    let deploy = documents(&read("deploy/rbac.yaml"));
    let role = the(&deploy, "ClusterRole");
    assert_eq!(rules, [role["rules"].clone()], "files/rules.yaml is out of date; run `make generate`");
}

#[test]
fn chart_and_operator_have_the_same_version() {
    let chart = &documents(&read("charts/onionbalance-operator/Chart.yaml"))[0];
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// Artifact Hub shows the annotations of `Chart.yaml`.
#[test]
fn the_metadata_describes_the_crd_and_shows_the_sample() {
    let chart = &documents(&read("charts/onionbalance-operator/Chart.yaml"))[0];
    let annotation = |name: &str| {
        let text = chart["annotations"][name].as_str().expect("the chart has no such annotation");
        documents(text)[0].clone()
    };
    let crd = &documents(&read("crds/onionbalancedservices.yaml"))[0];
    let described = &annotation("artifacthub.io/crds")[0];
    assert_eq!(described["kind"], crd["spec"]["names"]["kind"]);
    assert_eq!(described["name"], crd["metadata"]["name"]);
    assert_eq!(described["version"], crd["spec"]["versions"][0]["name"]);
    let sample = documents(&read("deploy/samples/web.yaml"));
    assert_eq!(&annotation("artifacthub.io/crdsExamples")[0], the(&sample, "OnionBalancedService"));
}

#[test]
fn the_crd_is_rendered_completely_and_kept_on_uninstall() {
    let rendered = render(json!({"crds": {"annotations": {"example.org/prune": "never"}}}));
    let mut crd = the(&rendered, "CustomResourceDefinition").clone();
    assert_eq!(
        crd["metadata"]["annotations"],
        json!({"helm.sh/resource-policy": "keep", "example.org/prune": "never"})
    );
    let original = &documents(&read("crds/onionbalancedservices.yaml"))[0];
    crd["metadata"] = original["metadata"].clone();
    assert!(&crd == original, "the rendered CRD differs from the one in crds/");
}

#[test]
fn an_old_server_gets_the_crd_without_validation_rules() {
    let schema = |version: &str| {
        let output = helm(&["template", RELEASE, "--kube-version", version], &json!({}));
        let rendered = documents(&String::from_utf8(output.stdout).unwrap());
        the(&rendered, "CustomResourceDefinition")["spec"].clone()
    };
    let with: CustomResourceDefinition =
        serde_json::from_value(json!({"metadata": {}, "spec": schema("1.28.0")})).unwrap();
    let expected = serde_json::to_value(without_rules(with)).unwrap();
    assert!(schema("1.27.16-eks-1") == with_integers(expected["spec"].clone()));
    assert!(schema("1.28.0") != schema("1.27.0"));
}
