//! Suggests the next step for a condition that is not True, based on its reason. The condition's
//! message explains the problem; the advice adds a remedy, usually a command.

use crate::crd::Reason;

/// Returns the advice for a reason, or None if the reason is unknown or requires no action.
pub fn action(reason: &str, namespace: &str, name: &str) -> Option<String> {
    advice(Reason::parse(reason)?, namespace, name)
}

/// The service to which a piece of advice applies.
struct Subject<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl Subject<'_> {
    fn edit(&self) -> String {
        format!("kubectl edit obs {} -n {}", self.name, self.namespace)
    }

    fn logs(&self, component: &str, container: &str) -> String {
        format!("kubectl logs -n {} deploy/{}-{component} -c {container}", self.namespace, self.name)
    }

    fn pods(&self, component: &str) -> String {
        format!(
            "kubectl get pods -n {} -l onionbalance.dev/service={},app.kubernetes.io/component={component}",
            self.namespace, self.name
        )
    }
}

fn advice(reason: Reason, namespace: &str, name: &str) -> Option<String> {
    let subject = Subject { namespace, name };
    let edit = subject.edit();
    Some(match reason {
        Reason::InvalidSpec => format!("correct the named field: {edit}"),
        Reason::NotAllowed => {
            format!("remove the named value, or ask the cluster's administrator to allow it: {edit}")
        }
        Reason::InvalidName => "create the object again under another name; spec.masterKey.secretName can name the \
                                existing Secret of the key"
            .to_owned(),
        Reason::NameTaken => format!("delete the conflicting object, or give {name} another name"),
        Reason::SecretNotFound => {
            format!("restore the key's Secret from your backup: kubectl create -n {namespace} -f BACKUP")
        }
        Reason::KeyInvalid => "check the key: kubectl onionbalance key check --help".to_owned(),
        Reason::SigningKeysMissing => "create a signing kit on the machine with the master key, and apply it: kubectl \
                                       onionbalance key delegate --help"
            .to_owned(),
        Reason::KeyConflict => format!("two objects use the same key; give one of them another Secret: {edit}"),
        Reason::AddressMismatch => {
            format!("restore the previous key, or set spec.masterKey.onionAddress to the new address: {edit}")
        }
        Reason::Generating | Reason::NotAccepted | Reason::Waiting => {
            "wait; this condition depends on the conditions above".to_owned()
        }
        Reason::ClientsSecretNotFound => {
            format!("create the Secret that spec.restrictedDiscovery.secretName names: {edit}")
        }
        Reason::TooManyClients => {
            "remove clients, or divide them between two services; a descriptor holds at most 128 clients".to_owned()
        }
        Reason::ClientsInvalid => {
            "correct the named entries; in the meantime, the other clients can connect".to_owned()
        }
        Reason::NoClients => {
            format!("add a client or remove spec.restrictedDiscovery; nobody can connect now: {edit}")
        }
        _ => return pods_or_publishing(reason, &subject),
    })
}

/// Returns the advice for reasons that concern pods, targets and publishing.
fn pods_or_publishing(reason: Reason, subject: &Subject<'_>) -> Option<String> {
    let Subject { namespace, name } = subject;
    Some(match reason {
        Reason::TargetNotFound | Reason::TargetPortNotFound => format!("kubectl get services -n {namespace}"),
        Reason::ApplyFailed => {
            format!("correct the field that the API server names, or the operator's permissions: {}", subject.edit())
        }
        Reason::PodsRefused => format!(
            "check quotas and admission rules, or set template.resources: kubectl describe replicasets -n {namespace} -l \
             onionbalance.dev/service={name}"
        ),
        Reason::ImagePullFailed => format!(
            "check the image name, and that the nodes can pull the image: kubectl get events -n {namespace} \
             --field-selector reason=Failed"
        ),
        Reason::PodsFailing | Reason::PodsStuck | Reason::ProgressDeadlineExceeded => {
            format!("kubectl describe pods -n {namespace} -l onionbalance.dev/service={name}")
        }
        Reason::Unschedulable => format!(
            "add nodes, or change nodeSelector, affinity, tolerations or resources in the template: {}",
            subject.edit()
        ),
        Reason::Stopping => {
            format!(
                "wait until the pods have stopped: kubectl get pods -n {namespace} -l onionbalance.dev/service={name}"
            )
        }
        Reason::Forbidden => {
            "grant the named permission to the operator's service account: kubectl get clusterroles -l \
                              app.kubernetes.io/name=onionbalance-operator"
                .to_owned()
        }
        Reason::BackendExcluded => format!(
            "run the same version of tor, with the same congestion control, on all backends: kubectl get obs {name} \
             -n {namespace} -o jsonpath='{{.status.backends}}'"
        ),
        Reason::Progressing | Reason::RollingOut => subject.pods("backend"),
        Reason::Suspended => {
            format!("kubectl patch obs {name} -n {namespace} --type merge -p '{{\"spec\":{{\"suspend\":false}}}}'")
        }
        Reason::ScaledToZero => format!("kubectl scale obs/{name} -n {namespace} --replicas=2"),
        Reason::NotPublished | Reason::PublisherSilent => {
            format!("{}; {}", subject.pods("frontend"), subject.logs("frontend", "publisher"))
        }
        Reason::ForeignPublisher => format!(
            "look for an Onionbalance, a tor or another cluster that still serves this address; if there is none, the key \
             has been copied: {}",
            subject.logs("frontend", "publisher")
        ),
        Reason::NotRestricted | Reason::Expired => subject.logs("frontend", "publisher"),
        Reason::NotOnHSDirs => {
            format!("check that the cluster can reach the Tor network: {}", subject.logs("frontend", "tor"))
        }
        Reason::NoBackends => {
            format!("check that each backend's tor is connected to the Tor network: {}", subject.logs("backend", "tor"))
        }
        Reason::Pending => "check that the operator is running: kubectl get pods -A -l \
                            app.kubernetes.io/name=onionbalance-operator"
            .to_owned(),
        _ => return from_outside(reason, subject),
    })
}

/// Returns the advice for reasons that concern the address as clients see it.
fn from_outside(reason: Reason, subject: &Subject<'_>) -> Option<String> {
    Some(match reason {
        Reason::DescriptorFailed => {
            format!("check the uploads, and the HSDirs in the table above: {}", subject.logs("frontend", "publisher"))
        }
        Reason::IntroductionFailed | Reason::RendezvousFailed => {
            format!("check that each backend's tor is connected to the Tor network: {}", subject.logs("backend", "tor"))
        }
        Reason::TargetFailed => {
            format!("check the app behind the port, and the agents: {}", subject.logs("backend", "agent"))
        }
        Reason::NotProbed => {
            format!("wait for the next probe, or check the publisher: {}", subject.logs("frontend", "publisher"))
        }
        _ => return targets(reason, subject),
    })
}

/// Returns the advice for reasons that concern targets that fail their checks.
fn targets(reason: Reason, subject: &Subject<'_>) -> Option<String> {
    match reason {
        Reason::BackendUnhealthy => Some(format!(
            "find out why this backend cannot reach the app, for example its node or a network policy: {}",
            subject.pods("backend")
        )),
        Reason::TargetFailing => {
            Some(format!("check the app behind the named port: kubectl get endpoints -n {}", subject.namespace))
        }
        _ => guards(reason, subject),
    }
}

/// Returns the advice for reasons that concern the shared guards.
fn guards(reason: Reason, Subject { namespace, name }: &Subject<'_>) -> Option<String> {
    Some(match reason {
        Reason::GuardsReplaced => format!(
            "find out who changed the Secret, for example a backup or a pipeline; delete pods that started shortly \
             before: kubectl get secret {name}-guards -n {namespace} -o yaml --show-managed-fields"
        ),
        Reason::GuardsNotKept => format!(
            "check the Secret, and the permissions of the frontend's account: kubectl describe secret {name}-guards -n \
             {namespace}"
        ),
        Reason::GuardsUnlisted => "wait; the publisher adds guards that are in the consensus. Look for a tor with \
                                   another network or an outdated consensus if the reason persists"
            .to_owned(),
        Reason::GuardsDiffer => format!(
            "look for the pod whose log says that tor chooses its own guards, and delete the pod: kubectl logs -n \
             {namespace} -l onionbalance.dev/service={name} -c agent --prefix"
        ),
        Reason::GuardsUnknown => {
            format!("wait for the publisher's report: kubectl logs -n {namespace} deploy/{name}-frontend -c publisher")
        }
        _ => return None,
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
