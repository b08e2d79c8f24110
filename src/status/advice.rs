//! The next step for a condition that is not True, by its reason. The condition's message says what
//! is wrong; the advice says where to look, with commands.

use crate::crd::Reason;

/// Returns the advice for a reason, if it is a known reason of a condition that is not True.
pub fn action(reason: &str, namespace: &str, name: &str) -> Option<String> {
    advice(Reason::parse(reason)?, namespace, name)
}

fn advice(reason: Reason, namespace: &str, name: &str) -> Option<String> {
    let edit = format!("kubectl edit obs {name} -n {namespace}");
    let logs = |component: &str, container: &str| {
        format!("kubectl logs -n {namespace} deploy/{name}-{component} -c {container}")
    };
    let pods = |component: &str| {
        format!(
            "kubectl get pods -n {namespace} -l onionbalance.dev/service={name},app.kubernetes.io/component={component}"
        )
    };
    Some(match reason {
        Reason::InvalidSpec => format!("correct the named field: {edit}"),
        Reason::InvalidName => {
            "make it anew under another name; the key's Secret can be named in spec.masterKey.secretName".to_owned()
        }
        Reason::NameTaken => format!("rename or remove the named object, or give {name} another name"),
        Reason::SecretNotFound => {
            format!("restore the key's Secret from your backup: kubectl apply -n {namespace} -f BACKUP")
        }
        Reason::KeyInvalid => "look at the key: onionbalance-operator key check --help".to_owned(),
        Reason::KeyConflict => format!("two objects use one key: give one of them another Secret: {edit}"),
        Reason::AddressMismatch => format!("put the old key back, or set spec.masterKey.onionAddress on purpose: {edit}"),
        Reason::Generating | Reason::NotAccepted | Reason::Waiting => "wait: it follows from the conditions above".to_owned(),
        Reason::ClientsSecretNotFound => format!("create the Secret that spec.restrictedDiscovery.secretName names: {edit}"),
        Reason::TooManyClients => "a descriptor holds 128 clients: remove some, or split them over two services".to_owned(),
        Reason::ClientsInvalid => "correct the named entries; the other clients are let in meanwhile".to_owned(),
        Reason::NoClients => format!("nobody can connect: add a client, or remove spec.restrictedDiscovery: {edit}"),
        Reason::TargetNotFound | Reason::TargetPortNotFound => format!("kubectl get services -n {namespace}"),
        Reason::ApplyFailed => {
            format!("the API server refused a child: correct what it names, or the operator's rights: {edit}")
        }
        Reason::PodsRefused => format!(
            "a quota or an admission rule: kubectl describe replicasets -n {namespace} -l onionbalance.dev/service={name}"
        ),
        Reason::ImagePullFailed => format!(
            "is the image's name right, and may the nodes pull it? kubectl get events -n {namespace} --field-selector reason=Failed"
        ),
        Reason::PodsFailing => {
            format!("kubectl describe pods -n {namespace} -l onionbalance.dev/service={name}")
        }
        Reason::Forbidden => {
            "give the operator's account the named right: kubectl get clusterroles -l app.kubernetes.io/name=onionbalance-operator"
                .to_owned()
        }
        Reason::Progressing | Reason::RollingOut => pods("backend"),
        Reason::Suspended => {
            format!("kubectl patch obs {name} -n {namespace} --type merge -p '{{\"spec\":{{\"suspend\":false}}}}'")
        }
        Reason::ScaledToZero => format!("kubectl scale obs/{name} -n {namespace} --replicas=2"),
        Reason::NotPublished | Reason::PublisherSilent => format!("{}; {}", pods("frontend"), logs("frontend", "publisher")),
        Reason::NotRestricted | Reason::Expired => logs("frontend", "publisher"),
        Reason::NotOnHSDirs => format!("is the cluster's way to the Tor network open? {}", logs("frontend", "tor")),
        Reason::NoBackends => format!("are the backends' tors connected? {}", logs("backend", "tor")),
        Reason::Pending => {
            "is the operator running? kubectl get pods -A -l app.kubernetes.io/name=onionbalance-operator".to_owned()
        }
        Reason::Valid
        | Reason::KeyLoaded
        | Reason::Restricted
        | Reason::AllReady
        | Reason::OnlyExternal
        | Reason::Published
        | Reason::Ready => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_a_condition_that_is_not_true_has_advice() {
        for &reason in Reason::ALL {
            let is_problem = !reason.conditions().is_empty();
            assert_eq!(action(reason.as_str(), "shop", "web").is_some(), is_problem, "{reason}");
        }
    }

    #[test]
    fn commands_name_the_object() {
        let action = action("ScaledToZero", "shop", "web").unwrap();
        assert_eq!(action, "kubectl scale obs/web -n shop --replicas=2");
    }
}
