//! Checks the effects of the chart's values.

use std::collections::BTreeSet;

use onionbalance_operator::operator::DefaultTemplates;
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, all, container, id, render, the, variable};
use crate::typed;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Renders the chart with the given values, and runs the checks that apply to all values.
pub fn checked(values: Value) -> Vec<Value> {
    let objects = render(values);
    typed::check(&objects);
    let ids: BTreeSet<_> = objects.iter().map(id).collect();
    assert_eq!(ids.len(), objects.len(), "two objects have the same name: {ids:?}");
    for object in &objects {
        assert!(
            object["metadata"]["labels"]["app.kubernetes.io/instance"].is_string(),
            "{} has no instance label",
            id(object)
        );
    }
    let operator = &the(&objects, "Deployment")["spec"];
    let labels = operator["template"]["metadata"]["labels"].as_object().unwrap();
    for selector in [&operator["selector"]["matchLabels"], &the(&objects, "Service")["spec"]["selector"]] {
        assert!(selector.as_object().unwrap().iter().all(|(key, value)| labels.get(key) == Some(value)));
    }
    objects
}

pub fn kinds(objects: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

/// Returns the template of the operator's pod.
pub fn pod(objects: &[Value]) -> &Value {
    &the(objects, "Deployment")["spec"]["template"]
}

#[test]
fn the_default_values_render_these_objects() {
    let objects = checked(json!({}));
    assert_eq!(
        kinds(&objects),
        [
            "ClusterRole",
            "ClusterRole",
            "ClusterRole",
            "ClusterRoleBinding",
            "CustomResourceDefinition",
            "Deployment",
            "Pod",
            "Role",
            "RoleBinding",
            "Service",
            "ServiceAccount"
        ]
    );
    assert_eq!(variable(&objects, "WATCH_NAMESPACE"), None);
}

#[test]
fn pods_meet_the_restricted_pod_security_standard() {
    let objects = checked(json!({}));
    for pod in [&pod(&objects)["spec"], &the(&objects, "Pod")["spec"]] {
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
            assert_eq!(context["readOnlyRootFilesystem"], true);
        }
    }
}

#[test]
fn user_ids_can_be_left_to_the_cluster() {
    let objects = checked(json!({"podSecurityContext": {"runAsUser": null, "runAsGroup": null}}));
    let context = &pod(&objects)["spec"]["securityContext"];
    assert_eq!(context, &json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}));
}

#[test]
fn watched_namespaces_get_roles_and_nothing_is_cluster_scoped() {
    let objects = checked(json!({"watchNamespaces": ["shop", "42"], "crds": {"install": false}}));
    assert_eq!(
        kinds(&objects),
        [
            "Deployment",
            "Pod",
            "Role",
            "Role",
            "Role",
            "RoleBinding",
            "RoleBinding",
            "RoleBinding",
            "Service",
            "ServiceAccount"
        ]
    );
    assert_eq!(variable(&objects, "WATCH_NAMESPACE"), Some("shop,42"));
    for kind in ["Role", "RoleBinding"] {
        let namespaces: Vec<_> = all(&objects, kind).map(|object| object["metadata"]["namespace"].clone()).collect();
        assert_eq!(namespaces, ["shop", "42", NAMESPACE]);
    }
    for binding in all(&objects, "RoleBinding") {
        assert_eq!(binding["roleRef"]["kind"], "Role");
        assert_eq!(binding["subjects"][0]["namespace"], NAMESPACE);
        assert_eq!(binding["subjects"][0]["name"], pod(&objects)["spec"]["serviceAccountName"]);
    }
    assert!(objects.iter().all(|object| object["metadata"]["namespace"].is_string()));
}

/// Returns the images of the operator, of the data plane (if it differs) and of tor. Checks that
/// all objects name the same image of the operator.
pub fn images(values: Value) -> (String, Option<String>, String) {
    let objects = checked(values);
    let own = container(&objects)["image"].as_str().unwrap().to_owned();
    assert_eq!(variable(&objects, "OPERATOR_IMAGE"), Some(own.as_str()));
    assert_eq!(the(&objects, "Pod")["spec"]["containers"][0]["image"], own.as_str());
    let tor = variable(&objects, "TOR_IMAGE").unwrap().to_owned();
    (own, variable(&objects, "DATA_PLANE_IMAGE").map(ToOwned::to_owned), tor)
}

#[test]
fn images_can_be_set_by_tag_and_digest() {
    let own = json!({"repository": "example.org:5000/op", "tag": ""});
    let by_digest = json!({"repository": "op", "digest": DIGEST});
    assert_eq!(
        images(json!({"image": own, "tor": {"image": {"repository": "t", "tag": "0.4.8"}}})),
        (format!("example.org:5000/op:{}", env!("CARGO_PKG_VERSION")), None, "t:0.4.8".to_owned())
    );
    let data_plane = |image: &Value, data_plane: Value| {
        images(
            json!({"image": image, "dataPlane": {"image": data_plane}, "tor": {"image": {"repository": "t", "digest": DIGEST}}}),
        )
    };
    let tor = format!("t@{DIGEST}");
    let pinned = format!("op@{DIGEST}");
    let expected = |data_plane: &str| (pinned.clone(), Some(data_plane.to_owned()), tor.clone());
    assert_eq!(data_plane(&by_digest, json!({"tag": "1"})), expected("op:1"));
    assert_eq!(data_plane(&by_digest, json!({"repository": "mirror/op"})), expected(&format!("mirror/op@{DIGEST}")));
    assert_eq!(data_plane(&by_digest, json!({"repository": "b", "tag": "2"})), expected("b:2"));
}

#[test]
fn settings_reach_the_operators_environment() {
    let objects = checked(json!({
        "torExtraConfig": "UseBridges 1\nBridge 192.0.2.1:443\n",
        "dataPlane": {
            "imagePullPolicy": "Always", "disruptionBudgets": false,
            "networkPolicy": {"enabled": false, "metricsFrom": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]},
            "log": {"format": "text", "addresses": "short", "filter": "info,onionbalance_operator::backend=trace"},
        },
        "log": {"format": "json", "addresses": "full", "filter": "debug"},
        "extraEnv": [{"name": "KUBERNETES_SERVICE_HOST", "value": "api.example.org"}],
        "image": {"pullPolicy": "Never"},
        "replicas": 0,
    }));
    assert_eq!(variable(&objects, "TOR_EXTRA_CONFIG"), Some("UseBridges 1\nBridge 192.0.2.1:443\n"));
    assert_eq!(variable(&objects, "IMAGE_PULL_POLICY"), Some("Always"));
    assert_eq!(variable(&objects, "NETWORK_POLICIES"), Some("false"));
    assert_eq!(variable(&objects, "DISRUPTION_BUDGETS"), Some("false"));
    let peers = variable(&objects, "METRICS_FROM").unwrap();
    assert_eq!(peers, r#"[{"namespaceSelector":{"matchLabels":{"a":"b"}}}]"#);
    assert_eq!(variable(&objects, "LOG_FORMAT"), Some("json"));
    assert_eq!(variable(&objects, "LOG_ADDRESSES"), Some("full"));
    assert_eq!(variable(&objects, "RUST_LOG"), Some("debug"));
    assert_eq!(variable(&objects, "DATA_PLANE_LOG_FORMAT"), Some("text"));
    assert_eq!(variable(&objects, "DATA_PLANE_LOG_ADDRESSES"), Some("short"));
    assert_eq!(variable(&objects, "DATA_PLANE_LOG_FILTER"), Some("info,onionbalance_operator::backend=trace"));
    assert_eq!(variable(&objects, "KUBERNETES_SERVICE_HOST"), Some("api.example.org"));
    assert_eq!(container(&objects)["imagePullPolicy"], "Never");
    assert_eq!(the(&objects, "Deployment")["spec"]["replicas"], 0);
}

#[test]
fn lines_for_every_tor_can_come_from_a_secret() {
    let objects = checked(json!({"torExtraConfigSecret": {"name": "bridges"}}));
    let variables = container(&objects)["env"].as_array().unwrap();
    let found: Vec<_> = variables.iter().filter(|variable| variable["name"] == "TOR_EXTRA_CONFIG").collect();
    let secret = json!({"secretKeyRef": {"name": "bridges", "key": "torrc"}});
    assert_eq!(found, [&json!({"name": "TOR_EXTRA_CONFIG", "valueFrom": secret})]);
}

/// Checks that the schema accepts every field that the operator accepts, and that the operator can
/// parse the rendered result.
#[test]
fn default_templates_reach_the_operator_completely() {
    let template = json!({
        "labels": {"team": "a"}, "annotations": {"note": "b"}, "nodeSelector": {"disk": "ssd"},
        "resources": {
            "tor": {"requests": {"cpu": 1, "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
            "agent": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}},
        },
        "affinity": {"nodeAffinity": {}}, "tolerations": [{"key": "tor", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high", "runtimeClassName": "gvisor", "imagePullSecrets": [{"name": "pull"}],
    });
    let templates = json!({"backend": template, "frontend": template});
    let objects = checked(json!({"dataPlane": {"defaultTemplates": templates}}));
    let rendered = variable(&objects, "DEFAULT_TEMPLATES").unwrap();
    assert_eq!(serde_json::from_str::<Value>(rendered).unwrap(), templates);
    let read = DefaultTemplates::parse(rendered).unwrap();
    assert_eq!(read.frontend, read.backend);
    assert_eq!(serde_json::to_value(read.backend).unwrap(), template);
    assert_eq!(variable(&checked(json!({})), "DEFAULT_TEMPLATES"), None);
}

#[test]
fn the_operator_reads_every_variable() {
    let sources =
        ["operator/settings.rs", "operator/policy.rs", "operator/data_plane_log.rs", "cli/onionbalance_operator.rs"];
    let source = sources.map(|file| crate::helm::read(&format!("src/{file}"))).concat();
    let objects = checked(json!({
        "torExtraConfig": "a", "watchNamespaces": ["a"],
        "dataPlane": {
            "image": {"tag": "1"}, "imagePullPolicy": "Never", "disruptionBudgets": false,
            "networkPolicy": {"enabled": false, "metricsFrom": [{"podSelector": {}}]},
            "defaultTemplates": {"backend": {"priorityClassName": "high"}}, "fixedUserIds": false,
            "log": {"format": "json", "addresses": "full", "filter": "warn"},
        },
        "tenants": {
            "refusedTargets": ["none"], "labelPrefixes": ["*"], "annotationPrefixes": ["*"], "priorityClasses": ["*"],
            "runtimeClasses": ["*"], "tolerations": ["*"], "exposedLocations": true,
        },
        "log": {"format": "text"},
    }));
    let variables = container(&objects)["env"].as_array().unwrap();
    assert_eq!(variables.len(), 23);
    for variable in variables {
        let name = variable["name"].as_str().unwrap();
        assert!(source.contains(&format!("env = \"{name}\"")), "the operator does not read {name}");
    }
}

#[test]
fn replicas_elect_a_leader_with_the_releases_own_lease() {
    let objects = checked(json!({"replicas": 3, "fullnameOverride": "tor", "watchNamespaces": [NAMESPACE]}));
    assert_eq!(the(&objects, "Deployment")["spec"]["replicas"], 3);
    let lease = variable(&objects, "LEASE_NAME").unwrap();
    assert_eq!(lease, "tor-leader");
    let elects = |object: &&Value| object["metadata"]["name"] == "tor-leader-election";
    let role = all(&objects, "Role").find(elects).unwrap();
    let leases = |verbs: Value| json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs});
    let mut named = leases(json!(["get", "update"]));
    named["resourceNames"] = json!([lease]);
    assert_eq!(role["rules"], json!([leases(json!(["create"])), named]));
    let binding = all(&objects, "RoleBinding").find(elects).unwrap();
    for object in [role, binding] {
        assert_eq!(object["metadata"]["namespace"], NAMESPACE);
    }
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], pod(&objects)["spec"]["serviceAccountName"]);
}

#[test]
fn placement_and_labels_reach_the_pods() {
    let placement = json!({
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "tor", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
        ]}}},
        "priorityClassName": "system-cluster-critical",
        "imagePullSecrets": [{"name": "pull"}],
    });
    let mut values = placement.clone();
    values["podLabels"] = json!({"team": "a", "app.kubernetes.io/name": "mine"});
    values["podAnnotations"] = json!({"note": "b"});
    values["commonLabels"] = json!({"cost": "c", "app.kubernetes.io/instance": "mine"});
    values["resources"] = json!({"limits": {"memory": "128Mi"}, "requests": {"cpu": "1"}});
    values["serviceAccount"] = json!({"annotations": {"role": "d"}});
    values["service"] = json!({"annotations": {"prometheus.io/scrape": "true"}});
    let objects = checked(values);
    let pod = pod(&objects);
    for (field, value) in placement.as_object().unwrap() {
        assert_eq!(&pod["spec"][field], value, "{field}");
    }
    assert_eq!(
        pod["metadata"],
        json!({
            "labels": {
                "app.kubernetes.io/name": "onionbalance-operator", "app.kubernetes.io/instance": "onionbalance-operator",
                "team": "a", "cost": "c",
            },
            "annotations": {"note": "b"},
        })
    );
    assert_eq!(
        container(&objects)["resources"],
        json!({"limits": {"memory": "128Mi"}, "requests": {"cpu": "1", "memory": "64Mi"}})
    );
    assert!(objects.iter().all(|object| object["metadata"]["labels"]["cost"] == "c"));
    assert!(objects.iter().all(|object| object["metadata"]["labels"]["app.kubernetes.io/instance"] != "mine"));
    assert_eq!(the(&objects, "ServiceAccount")["metadata"]["annotations"]["role"], "d");
    assert_eq!(the(&objects, "Service")["metadata"]["annotations"]["prometheus.io/scrape"], "true");
}

#[test]
fn names_can_be_overridden() {
    let name = |values: Value| the(&checked(values), "Deployment")["metadata"]["name"].clone();
    assert_eq!(name(json!({"nameOverride": "proxy"})), "onionbalance-operator-proxy");
    assert_eq!(name(json!({"fullnameOverride": "tor"})), "tor");
    let account = |values: Value| {
        let objects = checked(values);
        let name = pod(&objects)["spec"]["serviceAccountName"].as_str().unwrap().to_owned();
        let bound = &the(&objects, "ClusterRoleBinding")["subjects"][0];
        assert_eq!(bound, &json!({"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}));
        (name, all(&objects, "ServiceAccount").count())
    };
    assert_eq!(account(json!({"serviceAccount": {"name": "mine"}})), ("mine".to_owned(), 1));
    assert_eq!(account(json!({"serviceAccount": {"create": false, "name": "theirs"}})), ("theirs".to_owned(), 0));
    assert_eq!(account(json!({"serviceAccount": {"create": false}})), ("default".to_owned(), 0));
}

#[test]
fn disabled_objects_are_not_rendered() {
    let objects = checked(json!({"crds": {"install": false}, "rbac": {"create": false}}));
    assert_eq!(kinds(&objects), ["Deployment", "Pod", "Service", "ServiceAccount"]);
    let kept = checked(json!({"crds": {"keep": false}}));
    assert!(the(&kept, "CustomResourceDefinition")["metadata"].get("annotations").is_none());
}

#[test]
fn the_network_policy_admits_the_kubelet_prometheus_and_the_test_pod() {
    let policy = |settings: Value| {
        let mut settings = settings;
        settings["enabled"] = true.into();
        let objects = checked(json!({"networkPolicy": settings}));
        let policy = the(&objects, "NetworkPolicy")["spec"].clone();
        let labels = &pod(&objects)["metadata"]["labels"];
        assert_eq!(&policy["podSelector"]["matchLabels"], labels);
        let test = &the(&objects, "Pod")["metadata"]["labels"];
        assert_ne!(test, labels, "the test pod must not have the operator's labels");
        (policy, test.clone())
    };
    let (open, _) = policy(json!({}));
    let ports = ["probes", "metrics"].map(|port| json!({"ports": [{"port": port, "protocol": "TCP"}]}));
    assert_eq!(open["ingress"], json!(ports));
    assert_eq!(open["policyTypes"], json!(["Ingress"]));

    let prometheus = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}});
    let egress = json!([{"to": [{"ipBlock": {"cidr": "10.96.0.1/32"}}], "ports": [{"port": 443, "protocol": "TCP"}]}]);
    let (closed, test) = policy(json!({"metricsFrom": [prometheus], "egress": egress}));
    assert_eq!(closed["ingress"][0], ports[0]);
    assert_eq!(closed["ingress"][1]["from"], json!([prometheus, {"podSelector": {"matchLabels": test}}]));
    assert_eq!(closed["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(closed["egress"], egress);
}

#[test]
fn the_test_pod_requests_the_operators_service() {
    let objects = checked(json!({}));
    let test = &the(&objects, "Pod")["spec"];
    let service = the(&objects, "Service");
    let name = service["metadata"]["name"].as_str().unwrap();
    assert_eq!(test["containers"][0]["args"], json!(["probe", format!("{name}.{NAMESPACE}.svc:9402")]));
    assert!(test["containers"][0].get("command").is_none(), "the image has no program but ours");
    assert_eq!(service["spec"]["ports"][0]["port"], 9402);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "metrics");
    assert_eq!(container(&objects)["ports"][1], json!({"name": "metrics", "containerPort": 9402, "protocol": "TCP"}));
}
