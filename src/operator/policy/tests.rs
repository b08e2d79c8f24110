use clap::Parser as _;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::operator::children::tests::support::object;

#[derive(clap::Parser)]
struct Program {
    #[command(flatten)]
    args: PolicyArgs,
}

impl ObjectPolicy {
    /// Returns a policy that allows every template without tolerations.
    pub fn without_tolerations() -> Self {
        Self { tolerations: AllowedTolerations::default(), ..Self::with_any_template() }
    }
}

/// Returns the policy that these flags specify. The API server has the address 10.96.0.1.
fn policy(flags: &[&str]) -> ObjectPolicy {
    let host = ["operator", "--kubernetes-service-host", "10.96.0.1"];
    Program::parse_from(host.iter().chain(flags)).args.policy()
}

/// Returns what a policy says about an object with the given fields in its spec.
fn problems(policy: &ObjectPolicy, spec: &Value) -> Vec<String> {
    policy.problems(&object(spec)).iter().map(ToString::to_string).collect()
}

fn address(address: &str) -> Value {
    json!({"ports": [{"port": 80, "target": {"address": address}}]})
}

/// Returns the item that refuses an address, according to the message about it.
fn refusal(policy: &ObjectPolicy, target: &str) -> Option<String> {
    let problems = problems(policy, &address(target));
    let text = problems.first()?;
    let start = format!("spec.ports[0].target.address: {target:?} is not allowed, because --refused-targets contains ");
    let end = "; use another target, or ask the cluster's administrator to change this list";
    let item = text.strip_prefix(&start).and_then(|rest| rest.strip_suffix(end));
    Some(item.unwrap_or_else(|| panic!("{text}")).to_owned())
}

#[test]
fn only_a_flag_allows_an_exposed_location() {
    let exposed = json!({"anonymity": {"serverLocation": "Exposed"}});
    let expected = "spec.anonymity.serverLocation: \"Exposed\" is not allowed; remove it, or ask the cluster's administrator \
                    to allow it with --allow-exposed-locations";
    assert_eq!(problems(&policy(&[]), &exposed), [expected]);
    assert_eq!(problems(&policy(&["--allow-exposed-locations", "true"]), &exposed), [""; 0]);
    assert_eq!(problems(&policy(&[]), &json!({"anonymity": {"serverLocation": "Hidden"}})), [""; 0]);
}

#[test]
fn targets_in_the_pod_in_the_cloud_and_at_the_api_server_are_refused_by_default() {
    let policy = policy(&[]);
    for (target, item) in [
        ("127.0.0.1:9401", "127.0.0.0/8"),
        ("0.0.0.0:80", "0.0.0.0/8"),
        ("localhost:9402", "127.0.0.0/8"),
        ("LocalHost.:80", "127.0.0.0/8"),
        ("a.localhost:80", "127.0.0.0/8"),
        ("[::1]:80", "::1"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.0/8"),
        ("169.254.169.254:80", "169.254.0.0/16"),
        ("[fd00:ec2::254]:80", "fd00:ec2::254"),
        ("[fe80::1]:80", "fe80::/10"),
        ("kubernetes.default.svc:443", "api-server"),
        ("Kubernetes.Default:443", "api-server"),
        ("kubernetes.default.svc.cluster.local.:443", "api-server"),
        ("kubernetes.default.svc.corp.example:443", "api-server"),
        ("10.96.0.1:443", "api-server"),
    ] {
        assert_eq!(refusal(&policy, target).as_deref(), Some(item), "{target}");
    }
    for target in [
        "web.shop.svc:80",
        "kubernetes:443",
        "kubernetes.shop.svc:443",
        "kubernetes.default.example.org:443",
        "localhost.example.org:80",
        "10.96.0.2:443",
        "[2001:db8::1]:80",
    ] {
        assert_eq!(refusal(&policy, target), None, "{target}");
    }
}

#[test]
fn a_service_that_is_the_api_server_is_refused() {
    let target = json!({"ports": [{"port": 443, "target": {"service": {"name": "kubernetes", "port": "https"}}}]});
    let mut object = object(&target);
    assert_eq!(policy(&[]).problems(&object), [], "another Service of this name");
    object.metadata.namespace = Some("default".to_owned());
    let problems = policy(&[]).problems(&object);
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "spec.ports[0].target.service: Service \"kubernetes\" is not allowed, because --refused-targets contains api-server; \
          use another target, or ask the cluster's administrator to change this list"
        ]
    );
    object.spec = self::object(&address("kubernetes:443")).spec;
    assert_eq!(policy(&[]).problems(&object).len(), 1, "a short name");
    assert_eq!(policy(&["--refused-targets", "127.0.0.0/8"]).problems(&object), []);
}

#[test]
fn the_list_of_refused_targets_can_be_replaced() {
    let internal = policy(&["--refused-targets", "10.0.0.0/8, fd00::/8,api-server"]);
    assert_eq!(refusal(&internal, "10.1.2.3:80").as_deref(), Some("10.0.0.0/8"));
    assert_eq!(refusal(&internal, "kubernetes.default.svc:443").as_deref(), Some("api-server"));
    for target in ["127.0.0.1:80", "localhost:80", "192.0.2.1:80"] {
        assert_eq!(refusal(&internal, target), None, "{target}");
    }
    let only_six = policy(&["--refused-targets", "::1"]);
    assert_eq!(refusal(&only_six, "localhost:80").as_deref(), Some("::1"));
    let none = policy(&["--refused-targets", "none"]);
    for target in ["127.0.0.1:80", "10.96.0.1:443", "kubernetes.default.svc:443", "169.254.169.254:80"] {
        assert_eq!(refusal(&none, target), None, "{target}");
    }
}

/// Everything in these templates helps an attacker who can write only our objects: such pods join
/// the peers of other pods' policies, displace other pods, run on the control plane's nodes, and
/// make other controllers act on them.
#[test]
fn a_template_may_set_nothing_that_concerns_others_by_default() {
    for part in ["backends", "frontend"] {
        let refused = |template: Value| problems(&policy(&[]), &json!({ part: {"template": template} }));
        let says = |field: &str, value: &str, flag: &str| {
            [format!(
                "spec.{part}.template.{field}: {value} is not allowed; remove it, or ask the cluster's administrator to \
                 allow it with {flag}"
            )]
        };
        let flag = "--allowed-label-prefixes";
        assert_eq!(refused(json!({"labels": {"app": "database"}})), says("labels", "\"app\"", flag));
        for key in [
            "container.apparmor.security.beta.kubernetes.io/tor",
            "sidecar.istio.io/inject",
            "vault.hashicorp.com/agent-inject",
            "k8s.v1.cni.cncf.io/networks",
        ] {
            let expected = says("annotations", &format!("{key:?}"), "--allowed-annotation-prefixes");
            assert_eq!(refused(json!({"annotations": {key: "x"}})), expected);
        }
        assert_eq!(
            refused(json!({"priorityClassName": "system-node-critical"})),
            says("priorityClassName", "\"system-node-critical\"", "--allowed-priority-classes")
        );
        assert_eq!(
            refused(json!({"runtimeClassName": "gvisor"})),
            says("runtimeClassName", "\"gvisor\"", "--allowed-runtime-classes")
        );
        assert_eq!(
            refused(json!({"tolerations": [{"operator": "Exists"}]})),
            says("tolerations[0]", "{\"operator\":\"Exists\"}", "--allowed-tolerations")
        );
        let harmless = json!({
            "nodeSelector": {"disk": "ssd"}, "resources": {"tor": {"limits": {"memory": "1Gi"}}}, "priorityClassName": "",
            "runtimeClassName": null, "affinity": {"nodeAffinity": {}}, "imagePullSecrets": [{"name": "pull"}],
        });
        assert_eq!(refused(harmless), [] as [String; 0]);
    }
}

#[test]
fn each_list_allows_what_it_names() {
    let allowed = policy(&[
        "--allowed-label-prefixes=team,example.org/",
        "--allowed-annotation-prefixes=note",
        "--allowed-priority-classes=high, low",
        "--allowed-runtime-classes=gvisor",
        "--allowed-tolerations=pool",
    ]);
    let template = json!({
        "labels": {"team": "a", "example.org/tier": "b"}, "annotations": {"note": "c", "notes": "d"},
        "priorityClassName": "low", "runtimeClassName": "gvisor", "tolerations": [{"key": "pool", "operator": "Exists"}],
    });
    assert_eq!(problems(&allowed, &json!({"backends": {"template": template}})), [] as [String; 0]);
    let other = json!({
        "labels": {"tea": "a", "example.org": "b"}, "annotations": {"a/note": "c"},
        "priorityClassName": "lower", "runtimeClassName": "runc", "tolerations": [{"key": "pools", "operator": "Exists"}],
    });
    assert_eq!(problems(&allowed, &json!({"frontend": {"template": other}})).len(), 6);

    let any = policy(&[
        "--allowed-label-prefixes=*",
        "--allowed-annotation-prefixes=*",
        "--allowed-priority-classes=*",
        "--allowed-runtime-classes=*",
        "--allowed-tolerations=*",
    ]);
    let both = json!({"backends": {"template": template}, "frontend": {"template": other}});
    assert_eq!(problems(&any, &both), [] as [String; 0]);
    let none = policy(&["--allowed-label-prefixes", "", "--allowed-tolerations", " , "]);
    assert_eq!(none, policy(&[]));
    let any = ObjectPolicy { api_server: any.api_server, ..ObjectPolicy::with_any_template() };
    assert_eq!(problems(&any, &both), [] as [String; 0]);
    assert_eq!(any.refused_targets, RefusedTargets::default());
}

#[test]
fn a_toleration_is_allowed_only_if_a_listed_taint_covers_it() {
    let allows = |list: &str, toleration: &Value| list.parse::<AllowedTolerations>().unwrap().allow(toleration);
    let gpu = |operator: &str, value: &str, effect: &str| json!({"key": "pool", "operator": operator, "value": value, "effect": effect, "tolerationSeconds": 5});
    for (list, toleration) in [
        ("pool", gpu("Exists", "", "")),
        ("pool", gpu("Equal", "tor", "NoExecute")),
        ("other,pool=tor", gpu("Equal", "tor", "")),
        ("pool=tor", json!({"key": "pool", "value": "tor"})),
        ("pool:NoSchedule", gpu("Exists", "", "NoSchedule")),
        ("pool=tor:NoSchedule", gpu("", "tor", "NoSchedule")),
        ("pool=", json!({"key": "pool", "operator": null})),
        ("*", json!({"operator": "Exists"})),
        ("*", json!({"operator": 1})),
    ] {
        assert!(allows(list, &toleration), "{list} {toleration}");
    }
    for (list, toleration) in [
        ("", gpu("Exists", "", "")),
        ("pool", json!({"operator": "Exists"})),
        ("pool", json!({"key": "", "operator": "Exists"})),
        ("pool", json!({"key": ["pool"], "operator": "Exists"})),
        ("pool", json!("pool")),
        ("pool=tor", gpu("Exists", "tor", "")),
        ("pool=tor", gpu("Exists", "", "")),
        ("pool=1", gpu("Gt", "1", "")),
        ("pool=tor", gpu("Equal", "web", "")),
        ("pool:NoSchedule", gpu("Exists", "", "")),
        ("pool:NoSchedule", gpu("Exists", "", "NoExecute")),
    ] {
        assert!(!allows(list, &toleration), "{list} {toleration}");
    }
}

#[test]
fn an_error_names_the_bad_taint_or_address() {
    let error = |flag: &str, value: &str| {
        Program::try_parse_from(["operator", flag, value]).err().map(|error| error.to_string()).unwrap_or_default()
    };
    for taint in ["=tor", ":NoSchedule", "pool:Sometimes", "pool:"] {
        let error = error("--allowed-tolerations", taint);
        assert!(error.contains(&format!("{taint:?} is not of the form KEY[=VALUE][:EFFECT]")), "{error}");
    }
    let error = error("--refused-targets", "10.0.0.0/8,example.org");
    assert!(error.contains("\"example.org\" is not an address, a network such as 10.0.0.0/8"), "{error}");
}

#[test]
fn a_long_value_is_cut_in_the_message() {
    let key = "a".repeat(10_000);
    let found =
        problems(&policy(&[]), &json!({"backends": {"template": {"labels": {&key: ""}, "tolerations": [{key: 1}]}}}));
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|problem| problem.contains("aaa…") && problem.len() < 300), "{found:?}");
}

proptest! {
    #[test]
    fn no_template_or_target_makes_the_check_panic(
        target in "\\PC{0,40}|[a-z0-9.:\\[\\]]{0,30}", key in "\\PC{0,20}", text in "\\PC{0,120}",
    ) {
        let template = json!({
            "labels": {&key: &text}, "annotations": {&text: &key}, "priorityClassName": text, "runtimeClassName": key,
            "tolerations": [{"key": key, "value": text}, {&key: [&text]}],
        });
        let mut spec = address(&target);
        spec["backends"] = json!({ "template": template });
        for policy in [policy(&[]), ObjectPolicy::with_any_template()] {
            let _ = problems(&policy, &spec);
        }
    }
}
