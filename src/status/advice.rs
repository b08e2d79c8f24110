//! What to do about a condition, by its reason. The messages say what is wrong; this says where to
//! look, with commands.

/// The next step, where one is known. Reasons are never renamed, and a test keeps them all here.
pub fn action(reason: &str, namespace: &str, name: &str) -> Option<String> {
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
        "InvalidSpec" | "Unreadable" => format!("correct the named field: {edit}"),
        "InvalidName" => {
            "make it anew under another name; the key's Secret can be named in spec.masterKey.secretName".to_owned()
        }
        "NameTaken" => format!("rename or remove the named object, or give {name} another name"),
        "SecretNotFound" => {
            format!("restore the key's Secret from your backup: kubectl apply -n {namespace} -f BACKUP")
        }
        "KeyInvalid" => "look at the key: onionbalance-operator key check --help".to_owned(),
        "KeyConflict" => format!("two objects use one key: give one of them another Secret: {edit}"),
        "AddressMismatch" => format!("put the old key back, or set spec.masterKey.onionAddress on purpose: {edit}"),
        "Generating" | "NotAccepted" | "Waiting" => "wait: it follows from the conditions above".to_owned(),
        "ClientsSecretNotFound" => format!("create the Secret that spec.restrictedDiscovery.secretName names: {edit}"),
        "TooManyClients" => "a descriptor holds 128 clients: remove some, or split them over two services".to_owned(),
        "ClientsInvalid" => "correct the named entries; the other clients are let in meanwhile".to_owned(),
        "NoClients" => format!("nobody can connect: add a client, or remove spec.restrictedDiscovery: {edit}"),
        "TargetNotFound" | "TargetPortNotFound" => format!("kubectl get services -n {namespace}"),
        "ApplyFailed" => {
            format!("the API server refused a child: correct what it names, or the operator's rights: {edit}")
        }
        "PodsRefused" => format!(
            "a quota or an admission rule: kubectl describe replicasets -n {namespace} -l onionbalance.dev/service={name}"
        ),
        "ImagePullFailed" => format!(
            "is the image's name right, and may the nodes pull it? kubectl get events -n {namespace} --field-selector reason=Failed"
        ),
        "PodsFailing" => {
            format!("kubectl describe pods -n {namespace} -l onionbalance.dev/service={name}")
        }
        "Forbidden" => {
            "give the operator's account the named right: kubectl get clusterroles -l app.kubernetes.io/name=onionbalance-operator"
                .to_owned()
        }
        "Progressing" | "RollingOut" => pods("backend"),
        "Suspended" => {
            format!("kubectl patch obs {name} -n {namespace} --type merge -p '{{\"spec\":{{\"suspend\":false}}}}'")
        }
        "ScaledToZero" => format!("kubectl scale obs/{name} -n {namespace} --replicas=2"),
        "NotPublished" | "PublisherSilent" => format!("{}; {}", pods("frontend"), logs("frontend", "publisher")),
        "NotRestricted" | "Expired" => logs("frontend", "publisher"),
        "NotOnHSDirs" => format!("is the cluster's way to the Tor network open? {}", logs("frontend", "tor")),
        "NoBackends" => format!("are the backends' tors connected? {}", logs("backend", "tor")),
        "Pending" => {
            "is the operator running? kubectl get pods -A -l app.kubernetes.io/name=onionbalance-operator".to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each reason that stands in the table of conditions has its action: the page is the list of
    /// all.
    #[test]
    fn every_documented_reason_has_one() {
        let page = include_str!("../../docs/internals.md");
        let (_, table) = page.split_once("| condition | reasons when it is not True |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let cells: Vec<_> = rows.filter_map(|row| row.split('|').nth(2)).collect();
        let reasons: Vec<_> = cells.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert!(reasons.len() > 20, "{reasons:?}");
        for reason in reasons {
            assert!(action(reason, "shop", "web").is_some(), "add an action for {reason} to src/status/advice.rs");
        }
    }

    #[test]
    fn commands_name_the_object() {
        let action = action("ScaledToZero", "shop", "web").unwrap();
        assert_eq!(action, "kubectl scale obs/web -n shop --replicas=2");
    }
}
