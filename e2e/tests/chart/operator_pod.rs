//! Checks the values for the operator's own pod, its images and its place in the cluster.

use serde_json::{Value, json};

use crate::helm::{RELEASE, all, container, helm, render, the, variable};
use crate::matrix::{checked, images, kinds, pod};

#[test]
fn one_registry_can_serve_all_images() {
    let text = |own: &str, tor: &str| (own.to_owned(), tor.to_owned());
    for (registry, prefix) in [("mirror.example.org:5000/tor/", "mirror.example.org:5000/tor"), ("mirror", "mirror")] {
        let global = json!({"imageRegistry": registry});
        let (own, data_plane, tor) = images(json!({"global": global}));
        let expected = text(&format!("{prefix}/onionbalance-operator:dev"), &format!("{prefix}/onionbalance-tor:dev"));
        assert_eq!(((own, tor), data_plane), (expected, None));
        let (own, data_plane, tor) = images(json!({
            "global": global,
            "image": {"repository": "ghcr.io/group/op", "tag": "1"},
            "tor": {"image": {"repository": "group/tor", "tag": "2"}},
            "dataPlane": {"image": {"repository": "localhost:5000/op", "tag": "3"}},
        }));
        assert_eq!((own, tor), text(&format!("{prefix}/group/op:1"), &format!("{prefix}/group/tor:2")));
        assert_eq!(data_plane, Some(format!("{prefix}/op:3")));
    }
}

/// With `IfNotPresent`, a node would keep the first image with a tag that moves.
#[test]
fn an_image_with_a_moving_tag_is_pulled_each_time() {
    let policies = |values: Value| {
        let objects = checked(values);
        let own = container(&objects)["imagePullPolicy"].as_str().unwrap().to_owned();
        assert_eq!(the(&objects, "Pod")["spec"]["containers"][0]["imagePullPolicy"], own.as_str());
        (own, variable(&objects, "IMAGE_PULL_POLICY").map(ToOwned::to_owned))
    };
    let pair = |own: &str, services: Option<&str>| (own.to_owned(), services.map(ToOwned::to_owned));
    // The images of a local build are on the nodes, and in no registry.
    assert_eq!(policies(json!({})), pair("IfNotPresent", None));
    let registry = json!({"imageRegistry": "registry.example.org"});
    assert_eq!(policies(json!({"global": registry})), pair("Always", Some("Always")));
    let image = |tag: &str| json!({"repository": "registry.example.org/op", "tag": tag});
    assert_eq!(policies(json!({"image": image("dev")})), pair("Always", Some("Always")));
    assert_eq!(policies(json!({"image": image("latest"), "dataPlane": {"image": {"tag": "1"}}})), pair("Always", None));
    assert_eq!(policies(json!({"image": image("0.1.0")})), pair("IfNotPresent", None));
    assert_eq!(policies(json!({"tor": {"image": image("dev")}})), pair("IfNotPresent", Some("Always")));
    let mut chosen = json!({"image": image("dev"), "dataPlane": {"imagePullPolicy": "Never"}});
    chosen["image"]["pullPolicy"] = "IfNotPresent".into();
    assert_eq!(policies(chosen), pair("IfNotPresent", Some("Never")));
}

/// Returns true if the notes that Helm prints after an installation contain a text. `helm template`
/// prints no notes, so an extra object renders them.
fn notes_contain(values: Value, text: &str) -> bool {
    let mut values = values;
    let found = format!("{{{{ include \"onionbalance-operator.notes\" . | contains {text:?} | quote }}}}");
    let metadata = "{name: notes, labels: {app.kubernetes.io/instance: notes}}";
    values["extraObjects"] =
        json!([format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {metadata}\ndata: {{found: {found}}}\n")]);
    the(&checked(values), "ConfigMap")["data"]["found"] == "true"
}

#[test]
fn the_notes_warn_of_a_tag_that_moves_and_name_the_namespace() {
    let image = |tag: &str| json!({"repository": "registry.example.org/op", "tag": tag});
    assert!(notes_contain(json!({"image": image("dev")}), "The tag of registry.example.org/op:dev moves"));
    assert!(!notes_contain(json!({"image": image("0.1.0")}), "moves"));
    assert!(!notes_contain(json!({}), "moves"));
    let rollout = "rollout status --namespace tor-system deployment/onionbalance-operator";
    assert!(notes_contain(json!({"namespaceOverride": "tor-system"}), rollout));
    assert!(!notes_contain(json!({}), rollout));
}

#[test]
fn pull_secrets_of_the_parent_chart_are_added() {
    let objects = checked(json!({
        "imagePullSecrets": [{"name": "own"}],
        "global": {"imagePullSecrets": ["shared", {"name": "own"}, {"name": "other"}], "storageClass": "a"},
    }));
    let expected = json!([{"name": "own"}, {"name": "shared"}, {"name": "other"}]);
    for pod in [&pod(&objects)["spec"], &the(&objects, "Pod")["spec"]] {
        assert_eq!(pod["imagePullSecrets"], expected);
    }
}

#[test]
fn the_deployment_has_the_chosen_strategy_probes_and_spread() {
    let objects = checked(json!({
        "strategy": {"type": "Recreate", "rollingUpdate": null}, "revisionHistoryLimit": 2,
        "livenessProbe": {"timeoutSeconds": 5, "failureThreshold": 6}, "readinessProbe": {"successThreshold": 2},
        "topologySpreadConstraints": [
            {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            {
                "maxSkew": 1, "topologyKey": "host", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"a": "b"}},
            },
        ],
    }));
    let deployment = &the(&objects, "Deployment")["spec"];
    assert_eq!(deployment["strategy"], json!({"type": "Recreate"}));
    assert_eq!(deployment["revisionHistoryLimit"], 2);
    let probe = |name: &str| {
        let mut probe = container(&objects)[name].clone();
        probe.as_object_mut().unwrap().remove("httpGet").unwrap();
        probe
    };
    assert_eq!(probe("livenessProbe"), json!({"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6}));
    assert_eq!(probe("readinessProbe"), json!({"periodSeconds": 2, "successThreshold": 2}));
    let spread = &pod(&objects)["spec"]["topologySpreadConstraints"];
    assert_eq!(spread[0]["labelSelector"]["matchLabels"], deployment["selector"]["matchLabels"]);
    assert_eq!(spread[1]["labelSelector"], json!({"matchLabels": {"a": "b"}}));
    let none = checked(json!({
        "topologySpreadConstraints": [], "strategy": {"type": null, "rollingUpdate": null},
        "livenessProbe": {"periodSeconds": null}, "readinessProbe": {"periodSeconds": null},
    }));
    assert!(pod(&none)["spec"].get("topologySpreadConstraints").is_none());
    assert_eq!(container(&none)["livenessProbe"], json!({"httpGet": {"path": "/livez", "port": "probes"}}));
    assert!(the(&none, "Deployment")["spec"].get("strategy").is_none());
}

#[test]
fn a_disruption_budget_protects_the_operators_pods() {
    assert!(!kinds(&checked(json!({"replicas": 2}))).contains(&"PodDisruptionBudget"));
    for most in [json!(1), json!("50%")] {
        let values = json!({"replicas": 2, "podDisruptionBudget": {"enabled": true, "maxUnavailable": most}});
        let objects = checked(values);
        let budget = the(&objects, "PodDisruptionBudget");
        assert_eq!(budget["spec"]["maxUnavailable"], most);
        assert_eq!(budget["spec"]["selector"], the(&objects, "Deployment")["spec"]["selector"]);
    }
    let values = json!({"podDisruptionBudget": {"enabled": true}});
    let output = helm(&["template", RELEASE, "--kube-version", "1.20.0", "--api-versions", "policy/v1beta1"], &values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_object_can_have_common_annotations() {
    let objects = checked(json!({
        "commonAnnotations": {"team": "a", "helm.sh/resource-policy": "mine", "helm.sh/hook-delete-policy": "mine"},
        "crds": {"annotations": {"team": "b"}}, "service": {"annotations": {"team": "c"}},
        "monitor": {"enabled": true}, "prometheusRule": {"enabled": true}, "dashboard": {"enabled": true},
        "networkPolicy": {"enabled": true}, "podDisruptionBudget": {"enabled": true},
        "admissionPolicy": {"enabled": true},
        "podAnnotations": {"note": "pod"},
    }));
    for object in &objects {
        let team = match object["kind"].as_str().unwrap() {
            "CustomResourceDefinition" => "b",
            "Service" => "c",
            _ => "a",
        };
        assert_eq!(object["metadata"]["annotations"]["team"], team, "{object}");
    }
    let crd = the(&objects, "CustomResourceDefinition");
    assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let test = &the(&objects, "Pod")["metadata"]["annotations"];
    assert_eq!(
        (&test["helm.sh/hook"], &test["helm.sh/hook-delete-policy"]),
        (&json!("test"), &json!("before-hook-creation"))
    );
    assert_eq!(pod(&objects)["metadata"]["annotations"], json!({"note": "pod"}));
}

#[test]
fn the_operator_can_have_a_namespace_of_its_own() {
    let objects = checked(json!({
        "namespaceOverride": "tor-system", "monitor": {"enabled": true}, "prometheusRule": {"enabled": true},
        "dashboard": {"enabled": true}, "networkPolicy": {"enabled": true}, "podDisruptionBudget": {"enabled": true},
        "admissionPolicy": {"enabled": true}, "watchNamespaces": ["shop"],
    }));
    for object in &objects {
        let namespace = object["metadata"]["namespace"].as_str();
        let of_a_service =
            ["Role", "RoleBinding"].contains(&object["kind"].as_str().unwrap()) && namespace == Some("shop");
        assert!(of_a_service || namespace.is_none_or(|name| name == "tor-system"), "{object}");
    }
    for binding in all(&objects, "RoleBinding") {
        assert_eq!(binding["subjects"][0]["namespace"], "tor-system");
    }
    let text = serde_json::to_string(&objects).unwrap();
    assert!(!text.contains(crate::helm::NAMESPACE), "an object still names the release's namespace");
    assert!(text.contains("system:serviceaccount:tor-system:onionbalance-operator"));
    assert!(text.contains("onionbalance-operator.tor-system.svc:9402"));
}

#[test]
fn further_objects_are_rendered_and_texts_are_templates() {
    let labels = json!({"app.kubernetes.io/instance": "extra"});
    let plain = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain", "labels": labels},
        "data": {"query": "{{ $labels.pod }}"},
    });
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: {{ include \"onionbalance-operator.fullname\" . }}-extra\n  \
        labels: {app.kubernetes.io/instance: extra}\nspec:\n  ports: [{port: {{ add 9000 .Values.replicas }}}]\n";
    let objects = typed(json!({"extraObjects": [plain, text]}));
    assert_eq!(the(&objects, "ConfigMap"), &plain);
    let service = all(&objects, "Service").find(|service| service["metadata"]["name"] == "onionbalance-operator-extra");
    assert_eq!(service.unwrap()["spec"]["ports"][0]["port"], 9001);
}

/// Renders the chart, and checks the types of the objects.
fn typed(values: Value) -> Vec<Value> {
    let objects = render(values);
    crate::typed::check(&objects);
    objects
}
