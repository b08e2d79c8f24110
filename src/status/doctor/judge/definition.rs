//! Examines the definition of the custom resource in the cluster.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

use crate::crd::custom_resource_definition;
use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::Finding;

const AREA: &str = "CRD";

pub(super) fn examine(facts: &Facts) -> Finding {
    let definition = match &facts.definition {
        Ok(Some(definition)) => definition,
        Ok(None) => {
            let found = "The cluster has no CustomResourceDefinition for OnionBalancedService.";
            return Finding::problem(AREA, found).remedy(
                "install the operator, or only the CRD: kubectl onionbalance crd | kubectl apply --server-side -f -",
            );
        }
        Err(unread) => return Finding::unread(AREA, unread),
    };
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    if !conditions.any(|condition| condition.type_ == "Established" && condition.status == "True") {
        return Finding::problem(AREA, "The API server does not serve the custom resource.")
            .remedy("read the conditions of the CRD: kubectl describe crd onionbalancedservices.onionbalance.dev");
    }
    let (ours, theirs) = (fields(&custom_resource_definition()), fields(definition));
    if let Some(found) = difference(&ours, &theirs) {
        return Finding::warning(AREA, format!("The CRD lacks fields that this program knows, such as {found}."))
            .remedy(
                "upgrade the CRD together with the operator, or use the plugin of the operator's version: kubectl \
             onionbalance --version",
            );
    }
    if let Some(found) = difference(&theirs, &ours) {
        return Finding::warning(AREA, format!("The CRD has fields that this program does not know, such as {found}."))
            .remedy("use the plugin of the operator's version: kubectl onionbalance --version");
    }
    Finding::ok(AREA, "The CRD has exactly the fields that this program knows.")
}

/// Returns the first field that only one definition has.
fn difference(one: &BTreeSet<String>, other: &BTreeSet<String>) -> Option<String> {
    one.difference(other).next().cloned()
}

/// Returns the paths of all fields of the version that our types describe.
fn fields(definition: &CustomResourceDefinition) -> BTreeSet<String> {
    let ours = custom_resource_definition().spec.versions.into_iter().next().map(|version| version.name);
    let version = definition.spec.versions.iter().find(|version| Some(&version.name) == ours.as_ref());
    let schema = version.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    let mut found = BTreeSet::new();
    if let Some(schema) = schema {
        collect(schema, "", &mut found);
    }
    found
}

fn collect(schema: &JSONSchemaProps, path: &str, found: &mut BTreeSet<String>) {
    for (name, field) in schema.properties.iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect(field, &path, found);
        found.insert(path);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        collect(items, &format!("{path}[]"), found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::status::doctor::finding::Mark;
    use crate::status::doctor::judge::tests::{forbidden, healthy};

    fn found(change: impl FnOnce(&mut Facts)) -> (Mark, String) {
        let mut facts = healthy();
        change(&mut facts);
        let finding = examine(&facts);
        (finding.mark, finding.found)
    }

    fn definition(facts: &mut Facts) -> &mut CustomResourceDefinition {
        facts.definition.as_mut().unwrap().as_mut().unwrap()
    }

    fn spec(facts: &mut Facts) -> &mut JSONSchemaProps {
        let version = &mut definition(facts).spec.versions[0];
        let schema = version.schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
        schema.properties.as_mut().unwrap().get_mut("spec").unwrap()
    }

    #[test]
    fn the_definition_of_this_version_is_good() {
        assert_eq!(found(|_| {}).0, Mark::Ok);
    }

    #[test]
    fn a_missing_definition_is_a_problem() {
        let (mark, text) = found(|facts| facts.definition = Ok(None));
        assert!(mark == Mark::Problem && text.contains("no CustomResourceDefinition"), "{text}");
        let (mark, text) = found(|facts| definition(facts).status = None);
        assert!(mark == Mark::Problem && text.contains("does not serve"), "{text}");
        assert_eq!(found(|facts| facts.definition = Err(forbidden("get"))).0, Mark::Unchecked);
    }

    #[test]
    fn a_definition_of_another_version_is_a_warning() {
        let (mark, text) = found(|facts| _ = spec(facts).properties.as_mut().unwrap().remove("suspend"));
        assert_eq!(
            (mark, text.as_str()),
            (Mark::Warning, "The CRD lacks fields that this program knows, such as spec.suspend.")
        );
        let (mark, text) = found(|facts| {
            let new: JSONSchemaProps = serde_json::from_value(json!({"type": "string"})).unwrap();
            spec(facts).properties.as_mut().unwrap().insert("novel".to_owned(), new);
        });
        assert!(mark == Mark::Warning && text.ends_with("such as spec.novel."), "{text}");
    }
}
