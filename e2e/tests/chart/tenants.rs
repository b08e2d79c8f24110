//! Checks the values for clusters that several tenants share: the limits on objects, the user IDs,
//! and the admission policies that confine the operator's account.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helm::{NAMESPACE, RELEASE, all, helm, refusal, render, the, variable};
use crate::typed;

const POLICY: &str = "ValidatingAdmissionPolicy";
const BINDING: &str = "ValidatingAdmissionPolicyBinding";

#[test]
fn the_limits_on_objects_reach_the_operators_environment() {
    let objects = render(json!({
        "dataPlane": {"fixedUserIds": false},
        "tenants": {
            "refusedTargets": ["10.0.0.0/8", "fd00::/8", "api-server"], "labelPrefixes": ["team", "example.org/"],
            "annotationPrefixes": ["*"], "priorityClasses": ["high", "low"], "runtimeClasses": ["gvisor"],
            "tolerations": ["pool=tor:NoSchedule", "gpu"], "exposedLocations": true,
        },
    }));
    for (name, value) in [
        ("FIXED_USER_IDS", "false"),
        ("REFUSED_TARGETS", "10.0.0.0/8,fd00::/8,api-server"),
        ("ALLOWED_LABEL_PREFIXES", "team,example.org/"),
        ("ALLOWED_ANNOTATION_PREFIXES", "*"),
        ("ALLOWED_PRIORITY_CLASSES", "high,low"),
        ("ALLOWED_RUNTIME_CLASSES", "gvisor"),
        ("ALLOWED_TOLERATIONS", "pool=tor:NoSchedule,gpu"),
        ("ALLOW_EXPOSED_LOCATIONS", "true"),
    ] {
        assert_eq!(variable(&objects, name), Some(value), "{name}");
    }
    let nothing = render(json!({"tenants": {"refusedTargets": ["none"]}}));
    assert_eq!(variable(&nothing, "REFUSED_TARGETS"), Some("none"));
}

/// The operator's own defaults apply, which are strict.
#[test]
fn by_default_the_chart_relaxes_no_limit() {
    let objects = render(json!({}));
    let text = the(&objects, "Deployment").to_string();
    for part in ["REFUSED_TARGETS", "ALLOWED_", "ALLOW_EXPOSED", "FIXED_USER_IDS"] {
        assert!(!text.contains(part), "{part}");
    }
    assert_eq!(all(&objects, POLICY).count() + all(&objects, BINDING).count(), 0);
}

#[test]
fn invalid_limits_are_rejected_by_name() {
    for (tenants, expected) in [
        (json!({"refusedTargets": ["example.org"]}), "tenants.refusedTargets.0: Does not match pattern"),
        (json!({"refusedTargets": "none"}), "tenants.refusedTargets: Invalid type. Expected: array, given: string"),
        (json!({"labelPrefixes": ["a,b"]}), "tenants.labelPrefixes.0: Does not match pattern"),
        (json!({"annotationPrefixes": [""]}), "tenants.annotationPrefixes.0: Does not match pattern"),
        (json!({"priorityClasses": ["High"]}), "tenants.priorityClasses.0: Does not match pattern"),
        (json!({"runtimeClasses": [1]}), "tenants.runtimeClasses.0: Invalid type. Expected: string, given: integer"),
        (json!({"tolerations": ["a:Sometimes"]}), "tenants.tolerations.0: Does not match pattern"),
        (
            json!({"tolerations": [{"key": "a"}]}),
            "tenants.tolerations.0: Invalid type. Expected: string, given: object",
        ),
        (
            json!({"exposedLocations": "yes"}),
            "tenants.exposedLocations: Invalid type. Expected: boolean, given: string",
        ),
        (json!({"labels": []}), "tenants: Additional property labels is not allowed"),
    ] {
        let refusal = refusal(json!({"tenants": tenants}));
        assert!(refusal.contains(expected), "expected {expected:?} in:\n{refusal}");
    }
}

/// Returns the admission policies of a release with the given values.
fn policies(mut values: Value) -> Vec<Value> {
    values["admissionPolicy"] = json!({"enabled": true});
    let objects = render(values);
    typed::check(&objects);
    let policies: Vec<_> = all(&objects, POLICY).cloned().collect();
    let names: BTreeSet<_> = policies.iter().map(|policy| policy["metadata"]["name"].to_string()).collect();
    assert_eq!(names.len(), policies.len(), "two policies have the same name");
    let bound: BTreeSet<_> = all(&objects, BINDING).map(|binding| binding["spec"]["policyName"].to_string()).collect();
    assert_eq!(bound, names);
    for binding in all(&objects, BINDING) {
        assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]), "{binding}");
        assert_eq!(binding["metadata"]["name"], binding["spec"]["policyName"]);
    }
    policies
}

/// Returns the policy whose name ends as given.
fn named<'a>(policies: &'a [Value], name: &str) -> &'a Value {
    let full = format!("{RELEASE}-{NAMESPACE}-{name}");
    policies.iter().find(|policy| policy["metadata"]["name"] == full).unwrap_or_else(|| panic!("no policy {full}"))
}

/// `src/operator/children/tests/admission_policy.rs` evaluates the expressions.
#[test]
fn the_admission_policies_concern_only_the_operators_account() {
    let policies = policies(json!({}));
    assert_eq!(policies.len(), 7);
    let user = format!("request.userInfo.username == 'system:serviceaccount:{NAMESPACE}:{RELEASE}'");
    for policy in &policies {
        let spec = &policy["spec"];
        assert_eq!(spec["failurePolicy"], "Fail");
        assert_eq!(spec["matchConditions"], json!([{"name": "operator", "expression": user}]));
        for validation in spec["validations"].as_array().unwrap() {
            assert_eq!(validation["reason"], "Forbidden");
            assert!(!validation["message"].as_str().unwrap().is_empty());
        }
        for placeholder in ["{namespace}", "{lease}"] {
            assert!(!policy.to_string().contains(placeholder), "{policy}");
        }
    }
    let writes = &named(&policies, "owned-objects")["spec"];
    assert_eq!(writes["validations"][0]["expression"], "!request.namespace.startsWith('kube-')");
    let lease = &named(&policies, "leases")["spec"]["validations"][0]["expression"];
    assert_eq!(lease, &format!("request.namespace == '{NAMESPACE}' && object.metadata.name == '{RELEASE}-leader'"));

    let mine = self::policies(json!({"fullnameOverride": "tor", "serviceAccount": {"create": false, "name": "mine"}}));
    assert!(mine.iter().all(|policy| policy["metadata"]["name"].as_str().unwrap().starts_with("tor-")));
    let text = serde_json::to_string(&mine).unwrap();
    assert!(text.contains(&format!("'system:serviceaccount:{NAMESPACE}:mine'")) && text.contains("'tor-leader'"));
}

/// A policy that leaves out a kind of object that the operator may write would confine nothing.
#[test]
fn the_admission_policies_cover_everything_that_the_operator_may_write() {
    let policies = policies(json!({}));
    let covers = |group: &str, resource: &str, operation: &str| {
        policies.iter().any(|policy| {
            let rules = policy["spec"]["matchConstraints"]["resourceRules"].as_array().unwrap();
            rules.iter().any(|rule| {
                let has = |field: &str, value: &str| {
                    rule[field].as_array().unwrap().iter().any(|item| item == value || item == "*")
                };
                has("apiGroups", group) && has("resources", resource) && has("operations", operation)
            })
        })
    };
    let rules = the(&render(json!({"rbac": {"aggregate": false}})), "ClusterRole")["rules"].clone();
    let mut covered = 0;
    for rule in rules.as_array().unwrap() {
        let list = |field: &str| rule[field].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned());
        for (group, resource) in
            list("apiGroups").flat_map(|group| list("resources").map(move |one| (group.clone(), one)))
        {
            // A status and an Event change nothing else.
            if ["onionbalancedservices/status", "events"].contains(&resource.as_str()) {
                continue;
            }
            for verb in list("verbs") {
                let operation = match verb.as_str() {
                    "create" => "CREATE",
                    "patch" | "update" => "UPDATE",
                    "delete" | "deletecollection" => "DELETE",
                    "get" | "list" | "watch" => continue,
                    other => panic!("no operation is known for the verb {other}"),
                };
                assert!(covers(&group, &resource, operation), "no policy covers {operation} {resource} in {group:?}");
                covered += 1;
            }
        }
    }
    assert!(covered > 20, "{covered}");
}

#[test]
fn an_older_server_cannot_have_admission_policies() {
    let values = json!({"admissionPolicy": {"enabled": true}});
    let rendered = |version: &str| helm(&["template", RELEASE, "--kube-version", version], &values);
    let error = String::from_utf8(rendered("1.29.9").stderr).unwrap();
    assert!(error.contains("ValidatingAdmissionPolicies need Kubernetes 1.30 or newer"), "{error}");
    for version in ["1.30.0", "1.31.4-eks-1", "1.36.3"] {
        assert!(rendered(version).status.success(), "{version}");
    }
}
