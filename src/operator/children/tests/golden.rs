//! Golden pod templates. A new version of the operator must not change them by accident, because an
//! upgrade would then replace every pod of every service.

use std::path::Path;

use serde_json::{Value, json};

use super::support::{Fixture, all_children};

const FILE: &str = "src/operator/children/golden.json";

/// Builds the pod templates of a minimal service, and of one that sets every field that affects a
/// pod. The result includes the files that the pods read, because the templates contain only a hash
/// of these files.
fn built() -> Value {
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
        let children = all_children(&Fixture::of(spec).inputs());
        let parts = children.into_iter().filter_map(|child| {
            let part = ["/spec/template", "/data"].into_iter().find_map(|path| child.manifest.pointer(path))?;
            (child.id.to_string() != "Secret web-agent-token").then(|| (child.id.to_string(), part.clone()))
        });
        Value::Object(parts.collect())
    };
    json!({"plain": of(&json!({})), "full": of(&full)})
}

#[test]
fn an_upgrade_of_the_operator_replaces_no_pods_by_accident() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let built = built();
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&file, format!("{built:#}\n")).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let kept: Value = serde_json::from_str(&text).unwrap();
    let mut differences = Vec::new();
    compare("", &kept, &built, &mut differences);
    assert!(
        differences.is_empty(),
        "the pods differ from {FILE}:\n{}\nAn upgrade to this version will replace every pod of every service. If \
         that is intended, write the file again (run this test with GOLDEN=write) and mention it in the changelog.",
        differences.join("\n")
    );
}

fn compare(path: &str, kept: &Value, built: &Value, differences: &mut Vec<String>) {
    match (kept, built) {
        (Value::Object(kept), Value::Object(built)) => {
            let keys: std::collections::BTreeSet<_> = kept.keys().chain(built.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&format!("{path}/{key}"), &of(kept), &of(built), differences);
            }
        }
        (Value::Array(kept), Value::Array(built)) if kept.len() == built.len() => {
            for (index, (kept, built)) in kept.iter().zip(built).enumerate() {
                compare(&format!("{path}/{index}"), kept, built, differences);
            }
        }
        _ if kept == built => {}
        _ => differences.push(format!("{path}: {kept} became {built}")),
    }
}

#[test]
fn scaling_or_suspending_a_service_replaces_no_pods() {
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
