//! Checks that the chart rejects invalid values with a clear error.

use serde_json::{Value, json};

use crate::helm::{documents, read, refusal, render};

#[test]
fn invalid_values_are_rejected_by_name() {
    check_rejected(&[
        (json!({"replica": 1}), "(root): Additional property replica is not allowed"),
        (json!({"image": {"registry": "a"}}), "image: Additional property registry is not allowed"),
        (json!({"replicas": -1}), "replicas: Must be greater than or equal to 0"),
        (json!({"replicas": "1"}), "replicas: Invalid type. Expected: integer, given: string"),
        (json!({"crds": {"install": "yes"}}), "crds.install: Invalid type. Expected: boolean, given: string"),
        (
            json!({"image": {"pullPolicy": "Sometimes"}}),
            r#"image.pullPolicy must be one of the following: "", "Always", "IfNotPresent", "Never""#,
        ),
        (json!({"log": {"format": "xml"}}), r#"log.format must be one of the following: "", "text", "json""#),
        (json!({"dataPlane": {"log": {"filter": "debug,"}}}), "dataPlane.log.filter: Does not match pattern"),
        (json!({"dataPlane": {"log": {"filter": "hyper=trace"}}}), "dataPlane.log.filter: Does not match pattern"),
        (json!({"monitor": {"kind": "Probe"}}), r#"must be one of the following: "PodMonitor", "ServiceMonitor""#),
        (json!({"image": {"repository": "a/b:dev"}}), "image.repository: Does not match pattern"),
        (json!({"image": {"tag": "a b"}}), "image.tag: Does not match pattern"),
        (json!({"tor": {"image": {"digest": "sha256:1"}}}), "tor.image.digest: Does not match pattern"),
        (json!({"tor": {"image": {"tag": ""}}}), "tor.image: set the tag or the digest"),
        (
            json!({"torExtraConfig": "UseBridges 1", "torExtraConfigSecret": {"name": "bridges"}}),
            "torExtraConfigSecret: cannot be combined with torExtraConfig",
        ),
        (json!({"torExtraConfigSecret": {"name": "a b"}}), "torExtraConfigSecret.name: Does not match pattern"),
        (json!({"torExtraConfig": ["UseBridges 1"]}), "torExtraConfig: Invalid type. Expected: string, given: array"),
        (json!({"watchNamespaces": "shop"}), "watchNamespaces: Invalid type. Expected: array, given: string"),
        (json!({"watchNamespaces": ["Shop"]}), "watchNamespaces.0: Does not match pattern"),
        (json!({"watchNamespaces": ["a", "a"]}), "watchNamespaces: array items[0,1] must be unique"),
        (json!({"serviceAccount": {"name": "A_b"}}), "serviceAccount.name: Does not match pattern"),
        (json!({"imagePullSecrets": ["pull"]}), "imagePullSecrets.0: Invalid type. Expected: object, given: string"),
        (json!({"imagePullSecrets": [{}]}), "imagePullSecrets.0: name is required"),
        (json!({"extraEnv": [{"value": "a"}]}), "extraEnv.0: name is required"),
        (json!({"extraEnv": [{"name": "TOR_IMAGE", "value": "a"}]}), "extraEnv: TOR_IMAGE cannot be set here"),
        (json!({"resources": {"request": {}}}), "resources: Additional property request is not allowed"),
        (json!({"resources": {"limits": {"cpu": true}}}), "resources.limits.cpu: Invalid type."),
        (json!({"nodeSelector": {"a": 1}}), "nodeSelector.a: Invalid type. Expected: string, given: integer"),
        (json!({"tolerations": {"key": "a"}}), "tolerations: Invalid type. Expected: array, given: object"),
        (json!({"podLabels": {"a": "b c"}}), "podLabels.a: Does not match pattern"),
        (json!({"commonLabels": {"-a": "b"}}), "commonLabels: Property name of \"-a\" does not match"),
        (json!({"podAnnotations": {"a": true}}), "podAnnotations.a: Invalid type. Expected: string, given: boolean"),
        (
            json!({"fullnameOverride": "a".repeat(53)}),
            "fullnameOverride: String length must be less than or equal to 52",
        ),
        (json!({"monitor": {"interval": "soon"}}), "monitor.interval: Does not match pattern"),
        (
            json!({"prometheusRule": {"enabled": true, "disabled": ["OnionbalanceTypo"]}}),
            "prometheusRule.disabled: no alert is called OnionbalanceTypo",
        ),
        (json!({"prometheusRule": {"docsUrl": ""}}), "prometheusRule.docsUrl: Does not match pattern"),
        (json!({"prometheusRule": {"docsUrl": "https://a/b#c"}}), "prometheusRule.docsUrl: Does not match pattern"),
    ]);
}

#[test]
fn invalid_settings_of_the_operators_pod_are_rejected_by_name() {
    check_rejected(&[
        (json!({"replicaCount": 2}), "(root): Additional property replicaCount is not allowed"),
        (json!({"global": {"imageRegistry": "https://a"}}), "global.imageRegistry: Does not match pattern"),
        (json!({"global": {"imagePullSecrets": [{}]}}), "global.imagePullSecrets.0: name is required"),
        (json!({"strategy": {"type": "OnDelete"}}), "strategy.type must be one of the following"),
        (json!({"strategy": {"rollingUpdate": {"maxSurge": "two"}}}), "maxSurge: Does not match pattern"),
        (json!({"revisionHistoryLimit": -1}), "revisionHistoryLimit: Must be greater than or equal to 0"),
        (json!({"podDisruptionBudget": {"minAvailable": 1}}), "Additional property minAvailable is not allowed"),
        (json!({"podDisruptionBudget": {"maxUnavailable": "1"}}), "maxUnavailable: Does not match pattern"),
        (json!({"livenessProbe": {"httpGet": {}}}), "livenessProbe: Additional property httpGet is not allowed"),
        (json!({"readinessProbe": {"timeoutSeconds": 0}}), "timeoutSeconds: Must be greater than or equal to 1"),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 1}]}),
            "topologySpreadConstraints.0: topologyKey is required",
        ),
        (json!({"commonAnnotations": {"a": 1}}), "commonAnnotations.a: Invalid type. Expected: string, given: integer"),
        (json!({"namespaceOverride": "Shop"}), "namespaceOverride: Does not match pattern"),
        (json!({"extraObjects": [{"kind": "ConfigMap"}]}), "extraObjects.0: apiVersion is required"),
        (json!({"dashboard": {"namespace": "a_b"}}), "dashboard.namespace: Does not match pattern"),
        (json!({"monitor": {"relabelings": {}}}), "monitor.relabelings: Invalid type. Expected: array, given: object"),
    ]);
}

#[test]
fn invalid_network_policies_and_templates_are_rejected_by_name() {
    check_rejected(&[
        (
            json!({"networkPolicy": {"metricsFrom": [{"cidr": "10.0.0.0/8"}]}}),
            "networkPolicy.metricsFrom.0: Additional property cidr is not allowed",
        ),
        (
            json!({"dataPlane": {"networkPolicy": {"metricsFrom": [{"podSelecter": {}}]}}}),
            "dataPlane.networkPolicy.metricsFrom.0: Additional property podSelecter is not allowed",
        ),
        (
            json!({"dataPlane": {"defaultTemplates": {"backends": {}}}}),
            "dataPlane.defaultTemplates: Additional property backends is not allowed",
        ),
        (
            json!({"dataPlane": {"defaultTemplates": {"backend": {"volumes": []}}}}),
            "dataPlane.defaultTemplates.backend: Additional property volumes is not allowed",
        ),
        (
            json!({"dataPlane": {"defaultTemplates": {"frontend": {"resources": {"limits": {}}}}}}),
            "dataPlane.defaultTemplates.frontend.resources: Additional property limits is not allowed",
        ),
        (
            json!({"networkPolicy": {"metricsFrom": [{}]}}),
            "networkPolicy.metricsFrom.0: Must have at least 1 properties",
        ),
    ]);
}

/// Checks that the chart rejects each of the given values with an error that contains the given
/// text.
fn check_rejected(cases: &[(Value, &str)]) {
    for (values, expected) in cases {
        let refusal = refusal(values.clone());
        assert!(refusal.contains(expected), "{values}: expected {expected:?} in:\n{refusal}");
    }
}

/// Checks that the chart accepts the `global` values that a parent chart passes to it.
#[test]
fn global_values_are_accepted() {
    assert_eq!(render(json!({"global": {"storageClass": "a"}})), render(json!({})));
}

/// Checks that the schema lists every value at every depth, so that it rejects a mistyped name
/// anywhere.
#[test]
fn the_schema_lists_exactly_the_values_of_the_chart() {
    let values = &documents(&read("charts/onionbalance-operator/values.yaml"))[0];
    let schema: Value = serde_json::from_str(&read("charts/onionbalance-operator/values.schema.json")).unwrap();
    compare(values, &schema, "");
}

fn compare(values: &Value, schema: &Value, path: &str) {
    let Some(properties) = schema["properties"].as_object() else { return };
    // A parent chart passes all global values to every chart.
    assert_eq!(schema["additionalProperties"] == false, path != ".global", "additional properties of {path}");
    let values = values.as_object().unwrap_or_else(|| panic!("{path} is not a map"));
    for (key, value) in values {
        let schema = properties.get(key).unwrap_or_else(|| panic!("{path}.{key} is not in the schema"));
        compare(value, schema, &format!("{path}.{key}"));
    }
    // Kubernetes also supports limits and more times of probes, for which the chart has no default.
    let is_timing = path.ends_with("Probe");
    for key in properties.keys().filter(|key| *key != "limits" && !is_timing) {
        assert!(values.contains_key(key), "{path}.{key} is not in values.yaml");
    }
}
