//! Examines the operator.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;

use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::Finding;
use crate::status::view::View;

const AREA: &str = "operator";

pub(super) fn examine(facts: &Facts) -> Finding {
    let operators = match &facts.operators {
        Ok(operators) => operators,
        Err(unread) => return Finding::unread(AREA, unread),
    };
    let described: Vec<_> = operators.iter().map(describe).collect();
    let described = described.join(", ");
    if operators.is_empty() {
        let found = "No Deployment has the label app.kubernetes.io/name=onionbalance-operator.";
        // Helm's nameOverride changes the label.
        let has_reconciled = facts.view.as_ref().is_some_and(View::is_current);
        let finding = if has_reconciled { Finding::warning(AREA, found) } else { Finding::problem(AREA, found) };
        return finding.remedy("install the operator, or look for it under another name: kubectl get deployments -A");
    }
    if operators.iter().all(|operator| ready(operator) == 0) {
        let namespace = operators[0].namespace().unwrap_or_default();
        return Finding::problem(AREA, format!("No operator is ready: {described}.")).remedy(&format!(
            "find out why its pods are not ready: kubectl describe pods -n {namespace} -l \
             app.kubernetes.io/name=onionbalance-operator"
        ));
    }
    let other = operators.iter().filter_map(version).find(|version| *version != facts.version);
    if let Some(other) = other {
        let found = format!("The operator has version {other}, and this program has version {}.", facts.version);
        return Finding::warning(AREA, found).remedy("use the plugin of the operator's version");
    }
    Finding::ok(AREA, format!("{described}."))
}

fn ready(operator: &Deployment) -> i32 {
    operator.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn describe(operator: &Deployment) -> String {
    let (namespace, name) = (operator.namespace().unwrap_or_default(), operator.name_any());
    let wanted = operator.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let image = image(operator).and_then(|image| image.rsplit('/').next()).unwrap_or("no image");
    format!("{namespace}/{name} ({image}): {} of {wanted} pods ready", ready(operator))
}

fn image(operator: &Deployment) -> Option<&str> {
    let pod = operator.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers.iter().find(|container| container.name == "operator").or(pod.containers.first())?.image.as_deref()
}

/// Returns the version in the image's tag. A tag such as `dev`, or a digest, tells no version.
fn version(operator: &Deployment) -> Option<&str> {
    let (_, tag) = image(operator)?.rsplit('/').next()?.split('@').next()?.split_once(':')?;
    let tag = tag.strip_prefix('v').unwrap_or(tag);
    tag.starts_with(|c: char| c.is_ascii_digit()).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::doctor::finding::Mark;
    use crate::status::doctor::judge::tests::{forbidden, healthy};

    fn found(change: impl FnOnce(&mut Facts)) -> (Mark, String) {
        let mut facts = healthy();
        change(&mut facts);
        let finding = examine(&facts);
        (finding.mark, finding.found)
    }

    fn with_image(facts: &mut Facts, image: &str) {
        let spec = facts.operators.as_mut().unwrap()[0].spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    }

    #[test]
    fn a_ready_operator_is_good() {
        let (mark, text) = found(|_| {});
        let expected = "onionbalance-system/onionbalance-operator (onionbalance-operator:dev): 1 of 1 pods ready.";
        assert_eq!((mark, text.as_str()), (Mark::Ok, expected));
    }

    #[test]
    fn an_operator_that_is_not_ready_or_missing_is_named() {
        let (mark, text) = found(|facts| facts.operators.as_mut().unwrap()[0].status = None);
        assert!(mark == Mark::Problem && text.contains("No operator is ready"), "{text}");
        let (mark, _) = found(|facts| facts.operators = Ok(vec![]));
        assert_eq!(mark, Mark::Warning, "the operator has reconciled the object, so it runs under another name");
        let (mark, _) = found(|facts| (facts.operators, facts.view) = (Ok(vec![]), None));
        assert_eq!(mark, Mark::Problem);
        let (mark, text) = found(|facts| facts.operators = Err(forbidden("list")));
        assert!(mark == Mark::Unchecked && text.contains("You may not list"), "{text}");
    }

    #[test]
    fn another_version_is_a_warning() {
        for image in ["r.example:5000/onionbalance-operator:9.9.9", "o:v9.9.9@sha256:00"] {
            let (mark, text) = found(|facts| with_image(facts, image));
            assert!(mark == Mark::Warning && text.contains("has version 9.9.9, and"), "{text}");
        }
        for image in
            ["onionbalance-operator", "r.example:5000/o", "o@sha256:00", &format!("o:v{}", env!("CARGO_PKG_VERSION"))]
        {
            assert_eq!(found(|facts| with_image(facts, image)).0, Mark::Ok, "{image}");
        }
    }
}
