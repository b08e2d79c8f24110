//! Examines the `NetworkPolicy` objects of the namespace. Policies of other kinds, such as those of
//! a network plugin, are not examined.

use core::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicySpec};
use kube::ResourceExt as _;

use super::selector::{Labels, selects};
use crate::crd::names::{self, Component};
use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::Finding;
use crate::status::doctor::pod::is_of;

const AREA: &str = "policies";

/// The IPv4 networks that are not part of the Internet (RFC 6890, RFC 5771 and RFC 1112), so that
/// no relay has an address there. Each has an address and a prefix length.
const OUTSIDE_THE_INTERNET: [(Ipv4Addr, u32); 9] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    // Multicast and reserved addresses.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let policies = match &facts.policies {
        Ok(policies) => policies,
        Err(unread) => return vec![Finding::unread(AREA, unread)],
    };
    let [backend, frontend] = [Component::Backend, Component::Frontend].map(|component| labels_of(facts, component));
    let namespace = &facts.namespace;
    let describe = |policy: &str| format!("kubectl describe networkpolicy {policy} -n {namespace}");
    let mut found = Vec::new();
    for (labels, whose) in [(&backend, "backend"), (&frontend, "frontend")] {
        if let Some(policy) = blocked(policies, labels, Direction::Egress, None) {
            let text = format!("Policy {policy} limits where the {whose} pods may connect to; tor needs the Internet.");
            let advice =
                format!("allow these pods every egress, or use bridges that the rules allow: {}", describe(&policy));
            found.push(Finding::warning(AREA, text).remedy(&advice));
        }
    }
    if let Some(policy) = blocked(policies, &backend, Direction::Ingress, Some(&frontend)) {
        let text = format!("Policy {policy} keeps the publisher from the backends' agents (port 9400).");
        let advice = format!("allow the frontend pods to connect to the backend pods: {}", describe(&policy));
        found.push(Finding::problem(AREA, text).remedy(&advice));
    }
    for (service, labels) in apps(facts) {
        if let Some(policy) = blocked(policies, &labels, Direction::Ingress, Some(&backend)) {
            let text = format!("Policy {policy} seems to keep the backends from the pods of Service {service}.");
            let advice = format!("allow the backend pods to connect to the app: {}", describe(&policy));
            found.push(Finding::warning(AREA, text).remedy(&advice));
        }
    }
    if found.is_empty() {
        let text = match policies.len() {
            0 => "No NetworkPolicy is in the namespace.".to_owned(),
            number => format!("None of {number} NetworkPolicies in the namespace blocks the service."),
        };
        found.push(Finding::ok(AREA, text));
    }
    found
}

/// Returns the labels of the component's pods: those of a real pod, or else those that all of them
/// have.
fn labels_of(facts: &Facts, component: Component) -> Labels {
    let pods: &[Pod] = facts.pods.as_deref().unwrap_or_default();
    let pod = pods.iter().find(|pod| is_of(pod, component));
    pod.map_or_else(|| names::labels(&facts.name, Some(component)), |pod| pod.labels().clone())
}

/// Returns the Services that the ports lead to, with the labels that their pods have at least.
fn apps(facts: &Facts) -> impl Iterator<Item = (&str, Labels)> {
    facts.targets.iter().filter_map(|(name, target)| {
        let selector = target.service.as_ref().ok()?.as_ref()?.spec.as_ref()?.selector.clone()?;
        (!selector.is_empty()).then_some((name.as_str(), selector))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// Returns the name of a policy that isolates pods with these labels, if no policy lets the peer
/// connect. Without a peer, every address of the Internet must be allowed.
fn blocked(policies: &[NetworkPolicy], labels: &Labels, direction: Direction, peer: Option<&Labels>) -> Option<String> {
    let isolating: Vec<_> = policies.iter().filter(|policy| isolates(policy, labels, direction)).collect();
    let is_allowed =
        isolating.iter().filter_map(|policy| policy.spec.as_ref()).any(|spec| allows(spec, direction, peer));
    isolating.first().filter(|_| !is_allowed).map(|policy| policy.name_any())
}

fn isolates(policy: &NetworkPolicy, labels: &Labels, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let is_selected = spec.pod_selector.as_ref().is_none_or(|selector| selects(selector, labels));
    let name = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    let has_direction = match &spec.policy_types {
        Some(types) => types.iter().any(|kind| kind == name),
        // Without types, a policy always concerns ingress, and egress if it has such rules.
        None => direction == Direction::Ingress || spec.egress.is_some(),
    };
    is_selected && has_direction
}

/// Returns true if a rule admits the peer or, without a peer, the Internet. The ports of rules are
/// not compared, except that a rule for the Internet must be for every port.
fn allows(spec: &NetworkPolicySpec, direction: Direction, peer: Option<&Labels>) -> bool {
    let admits = |peers: Option<&Vec<NetworkPolicyPeer>>, has_ports: bool| match (peers, peer) {
        (None, None) => !has_ports,
        (Some(peers), None) => !has_ports && (peers.is_empty() || peers.iter().any(is_the_internet)),
        (None, Some(_)) => true,
        (Some(peers), Some(labels)) => peers.is_empty() || peers.iter().any(|peer| may_be(peer, labels)),
    };
    match direction {
        Direction::Ingress => {
            spec.ingress.iter().flatten().any(|rule| admits(rule.from.as_ref(), rule.ports.is_some()))
        }
        Direction::Egress => spec.egress.iter().flatten().any(|rule| admits(rule.to.as_ref(), rule.ports.is_some())),
    }
}

/// Returns true if the peer of a rule includes every IPv4 address of the Internet.
fn is_the_internet(peer: &NetworkPolicyPeer) -> bool {
    let admits_relays = |block: &IPBlock| {
        block.cidr == "0.0.0.0/0" && block.except.iter().flatten().all(|network| is_outside_the_internet(network))
    };
    peer.ip_block.as_ref().is_some_and(admits_relays)
}

/// Returns true if the network, such as `10.0.0.0/8`, contains no address of the Internet.
fn is_outside_the_internet(network: &str) -> bool {
    let Some((address, length)) = network.split_once('/') else { return false };
    let (Ok(address), Ok(length)) = (address.parse::<Ipv4Addr>(), length.parse::<u32>()) else { return false };
    OUTSIDE_THE_INTERNET.iter().any(|&(outside, shortest)| {
        let host_bits = Ipv4Addr::BITS - shortest;
        length >= shortest && address.to_bits() >> host_bits == outside.to_bits() >> host_bits
    })
}

/// Returns true if a pod of the same namespace with these labels may be the peer of a rule. The
/// addresses of pods and the labels of the namespace are not known here.
fn may_be(peer: &NetworkPolicyPeer, labels: &Labels) -> bool {
    peer.ip_block.is_some() || peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, labels))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::status::doctor::finding::Mark;
    use crate::status::doctor::judge::tests::{forbidden, healthy};

    fn found(policies: Value) -> Vec<(Mark, String)> {
        let mut facts = healthy();
        facts.policies = Ok(serde_json::from_value(policies).unwrap());
        examine(&facts).into_iter().map(|finding| (finding.mark, finding.found)).collect()
    }

    fn policy(name: &str, spec: &Value) -> Value {
        json!({"metadata": {"name": name}, "spec": spec})
    }

    /// The policy that the operator creates for the backends.
    fn ours() -> Value {
        let of = |component: &str| {
            let labels = json!({"app.kubernetes.io/component": component, "onionbalance.dev/service": "web"});
            json!({ "matchLabels": labels })
        };
        policy(
            "web-backend",
            &json!({
                "podSelector": of("backend"), "policyTypes": ["Ingress"],
                "ingress": [{"ports": [{"port": 9400}], "from": [{"podSelector": of("frontend")}]}],
            }),
        )
    }

    #[test]
    fn the_operators_policies_block_nothing() {
        assert_eq!(found(json!([])), [(Mark::Ok, "No NetworkPolicy is in the namespace.".to_owned())]);
        let expected = "None of 1 NetworkPolicies in the namespace blocks the service.";
        assert_eq!(found(json!([ours()])), [(Mark::Ok, expected.to_owned())]);
        let mut facts = healthy();
        facts.policies = Err(forbidden("list"));
        assert_eq!(examine(&facts)[0].mark, Mark::Unchecked);
    }

    #[test]
    fn a_namespace_that_denies_everything_cuts_off_tor_the_agents_and_the_app() {
        let deny = policy("deny", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
        let marks: Vec<_> = found(json!([deny])).into_iter().map(|(mark, _)| mark).collect();
        assert_eq!(marks, [Mark::Warning, Mark::Warning, Mark::Problem, Mark::Warning]);
        let texts: Vec<_> = found(json!([deny, ours()])).into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            texts,
            [
                "Policy deny limits where the backend pods may connect to; tor needs the Internet.",
                "Policy deny limits where the frontend pods may connect to; tor needs the Internet.",
                "Policy deny seems to keep the backends from the pods of Service web.",
            ]
        );
    }

    #[test]
    fn rules_that_admit_the_service_are_understood() {
        let deny = policy("deny", &json!({"podSelector": {}}));
        let open = policy("open", &json!({"podSelector": {}, "ingress": [{}], "egress": [{}]}));
        assert_eq!(found(json!([deny, open]))[0].0, Mark::Ok);
        let backends = json!({"podSelector": {"matchLabels": {"onionbalance.dev/service": "web"}}});
        let app =
            policy("app", &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [backends]}]}));
        assert_eq!(found(json!([deny, ours(), app]))[0].0, Mark::Ok);
        let dns = policy(
            "dns",
            &json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53}]}]}),
        );
        assert_eq!(found(json!([dns]))[0].0, Mark::Warning, "tor uses other ports");
    }

    #[test]
    fn an_egress_policy_may_exclude_addresses_that_no_relay_has() {
        let mark = |to: Value, ports: Value| {
            let egress = json!([{"ports": [{"port": 53}]}, {"to": to, "ports": ports}]);
            let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress});
            found(json!([policy("egress", &spec)]))[0].0
        };
        let all_except =
            |except: &[&str]| json!([{"podSelector": {}}, {"ipBlock": {"cidr": "0.0.0.0/0", "except": except}}]);
        // The policy that docs/tenants.md recommends.
        let private = ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"];
        for except in [&private[..], &[], &["10.96.0.1/32", "172.31.0.0/16", "240.0.0.0/4"]] {
            assert_eq!(mark(all_except(except), Value::Null), Mark::Ok, "{except:?}");
        }
        for except in ["8.0.0.0/8", "172.0.0.0/8", "100.0.0.0/10", "0.0.0.0/1", "192.169.0.0/16", "10.0.0.0", "a/8"] {
            assert_eq!(mark(all_except(&[except]), Value::Null), Mark::Warning, "{except}");
        }
        assert_eq!(mark(all_except(&private), json!([{"port": 443}])), Mark::Warning, "relays use other ports, too");
        assert_eq!(mark(json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]), Value::Null), Mark::Warning);
        assert_eq!(mark(json!([{"podSelector": {}}]), Value::Null), Mark::Warning);
    }
}
