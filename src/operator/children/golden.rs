//! What pods are made from, as it was: a new operator must not change it by accident, since an upgrade then rolls every pod of
//! every service.

use std::path::Path;

use serde_json::{Value, json};

use super::children;
use super::testing::Fixture;

const FILE: &str = "src/operator/children/golden.json";

/// The pod templates, and the files that the pods read (the templates have only a hash of them), for a plain object and for one
/// with every field that reaches a pod.
fn made() -> Value {
    let template = json!({
        "labels": {"team": "a"}, "annotations": {"note": "b"}, "nodeSelector": {"disk": "ssd"},
        "resources": {"tor": {"limits": {"memory": "1Gi"}}, "agent": {"requests": {"cpu": 1}}},
        "affinity": {"nodeAffinity": {}}, "tolerations": [{"key": "tor", "operator": "Exists"}],
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high", "runtimeClassName": "gvisor", "imagePullSecrets": [{"name": "pull"}],
    });
    let full = json!({
        "masterKey": {"secretName": "my-key"},
        "backends": {
            "introductionPoints": 4, "drainTimeoutSeconds": 60, "introDosDefense": {"ratePerSecond": 5, "burstPerSecond": 9},
            "extraTorrc": "HiddenServiceMaxStreams 100", "template": template,
        },
        "frontend": {"replicas": 2, "extraTorrc": "NumCPUs 1", "template": template},
    });
    let of = |spec: &Value| {
        let children = children(&Fixture::of(spec).inputs()).unwrap();
        let parts = children.into_iter().filter_map(|child| {
            let part = ["/spec/template", "/data"].into_iter().find_map(|path| child.manifest.pointer(path))?;
            (child.id.to_string() != "Secret web-agent-token").then(|| (child.id.to_string(), part.clone()))
        });
        Value::Object(parts.collect())
    };
    json!({"plain": of(&json!({})), "full": of(&full)})
}

#[test]
fn an_upgrade_of_the_operator_rolls_no_pods_unless_that_is_meant() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let made = made();
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&file, format!("{made:#}\n")).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let kept: Value = serde_json::from_str(&text).unwrap();
    let mut differences = Vec::new();
    compare("", &kept, &made, &mut differences);
    assert!(
        differences.is_empty(),
        "pods are made otherwise than {FILE} says:\n{}\nAn upgrade to this will replace every pod of every service. If that must \
         be, write the file anew (GOLDEN=write, for this test), and tell users.",
        differences.join("\n")
    );
}

fn compare(path: &str, kept: &Value, made: &Value, differences: &mut Vec<String>) {
    match (kept, made) {
        (Value::Object(kept), Value::Object(made)) => {
            let keys: std::collections::BTreeSet<_> = kept.keys().chain(made.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&format!("{path}/{key}"), &of(kept), &of(made), differences);
            }
        }
        (Value::Array(kept), Value::Array(made)) if kept.len() == made.len() => {
            for (index, (kept, made)) in kept.iter().zip(made).enumerate() {
                compare(&format!("{path}/{index}"), kept, made, differences);
            }
        }
        _ if kept == made => {}
        _ => differences.push(format!("{path}: {kept} became {made}")),
    }
}

#[test]
fn what_scales_or_switches_off_rolls_nothing() {
    let template = |spec: Value, id: &str| Fixture::of(&spec).child(id)["spec"]["template"].clone();
    for id in ["Deployment web-backend", "Deployment web-frontend"] {
        for spec in [
            json!({"backends": {"replicas": 9}, "frontend": {"replicas": 3}}),
            json!({"suspend": true}),
            json!({"deletionPolicy": "Delete"}),
            json!({"frontend": {"distinctDescriptors": "Always"}}),
            json!({"restrictedDiscovery": {}}),
        ] {
            assert_eq!(template(spec.clone(), id), template(json!({}), id), "{spec} in {id}");
        }
    }
}
