//! Tests that evaluate the rules of the generated schema with `kube-cel`.
//!
//! These tests need no API server. They check that everything over which a rule iterates is
//! bounded, and estimate the cost of the rules roughly. `tests/operator_api_server/crd_server` runs
//! the same table of invalid objects on a real API server, which also computes the cost of the
//! rules.

use std::collections::BTreeSet;

use kube_cel::{CompiledSchema, Validator, compile_schema, estimate_rule_cost};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::crd::tests::refused::{Refused, RefusedChange, allowed, changed, refused, refused_changes};
use crate::crd::torrc::{Place, allowed as allowed_options, refusals as refused_options};
use crate::crd::{OnionBalancedService, custom_resource_definition, validate};

fn schema() -> Value {
    let crd = serde_json::to_value(custom_resource_definition()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Returns the rule violations of an object, each as a pair of strings. The first string contains
/// the field and the message; the second contains the field without indices and the rule.
fn refusals(schema: &CompiledSchema, object: &Value) -> Vec<(String, String)> {
    refusals_after(schema, None, object)
}

/// Works like [`refusals`], for an object that replaces another one.
fn refusals_after(schema: &CompiledSchema, before: Option<&Value>, object: &Value) -> Vec<(String, String)> {
    let [mut object, mut before] = [Some(object), before].map(Option::<&Value>::cloned);
    [&mut object, &mut before].into_iter().flatten().for_each(drop_nulls);
    let errors = Validator::new().validate_compiled(schema, &object.unwrap_or_default(), before.as_ref()).err();
    let errors = errors.into_iter().flatten();
    errors.map(|error| (error.to_string(), format!("{} {}", without_indices(&error.field_path), error.rule))).collect()
}

/// Removes nulls from an object. An API server treats a null as an absent field, so it does not
/// evaluate the rules of that field. `kube-cel` would evaluate them.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, inner| !inner.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn without_indices(path: &str) -> String {
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

/// Visits every node in a schema that has rules attached.
fn with_rules(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    if schema.get("x-kubernetes-validations").is_some() {
        visit(path, schema);
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        with_rules(inner, &path, visit);
    }
    for inner in ["items", "additionalProperties"].into_iter().filter_map(|inner| schema.get(inner)) {
        with_rules(inner, path, visit);
    }
}

fn rules_of(node: &Value) -> impl Iterator<Item = &Value> {
    node["x-kubernetes-validations"].as_array().into_iter().flatten()
}

#[test]
fn each_rule_rejects_its_rows_and_nothing_else() {
    let schema = schema();
    let compiled = compile_schema(&schema);
    assert!(!compiled.has_errors(), "{:?}", compiled.compilation_errors());
    let (mut untried, mut tried) = (BTreeSet::new(), BTreeSet::new());
    with_rules(&schema, "", &mut |path, node| {
        for rule in rules_of(node) {
            let field = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
            untried.insert(format!("{field} {}", rule["rule"].as_str().unwrap()));
        }
    });
    assert!(untried.len() > 30, "{untried:#?}");
    for Refused { change, rule, schema, .. } in refused() {
        let found = refusals(&compiled, &changed(&change));
        match rule {
            Some(rule) => assert!(found.iter().any(|(said, _)| *said == rule), "{change}: {rule}, not {found:#?}"),
            // A rule may also reject an object that types and limits already reject.
            None => assert!(found.is_empty() || schema.is_some(), "{change}: {found:#?}"),
        }
        tried.extend(found.into_iter().map(|(_, rule)| rule));
    }
    for RefusedChange { before, after, says } in refused_changes() {
        let [before, after] = [before, after].map(|change| changed(&change));
        let found = refusals_after(&compiled, Some(&before), &after);
        assert!(found.len() == 1 && found[0].0 == says, "{after} after {before}: {found:#?}");
        assert_eq!(refusals(&compiled, &after), [], "{after} as a new object");
        tried.extend(found.into_iter().map(|(_, rule)| rule));
    }
    assert_eq!(tried.difference(&untried).collect::<Vec<_>>(), [] as [&String; 0]);
    untried.retain(|rule| !tried.contains(rule));
    assert!(untried.is_empty(), "no row of `refused` violates these rules: {untried:#?}");
}

#[test]
fn valid_objects_pass() {
    let compiled = compile_schema(&schema());
    for change in allowed() {
        let object = changed(&change);
        assert_eq!(refusals(&compiled, &object), [], "{change}");
        assert_eq!(refusals_after(&compiled, Some(&object), &object), [], "{change}, unchanged");
    }
}

#[test]
fn every_rule_has_a_one_line_message() {
    with_rules(&schema(), "", &mut |path, node| {
        for rule in rules_of(node) {
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(!message.is_empty() && !message.contains('\n'), "{path}: {rule}");
        }
    });
}

/// Collects the unbounded fields at and below a node that has a rule. Of the fields below the node,
/// only those that the rule mentions (`named`) are considered.
fn unbounded(node: &Value, path: &str, named: &BTreeSet<&str>, found: &mut Vec<String>) {
    let limit = match node["type"].as_str() {
        Some("string") if node.get("enum").is_none() => "maxLength",
        Some("array") => "maxItems",
        Some("object") if node.get("additionalProperties").is_some() => "maxProperties",
        _ => "type",
    };
    if node.get(limit).is_none() && node.get("x-kubernetes-int-or-string").is_none() {
        found.push(format!("{path}: {limit}"));
    }
    for (name, inner) in node["properties"].as_object().into_iter().flatten() {
        if named.contains(name.as_str()) {
            unbounded(inner, &format!("{path}.{name}"), named, found);
        }
    }
    // The rules iterate over the keys of maps, never over their values.
    if node["items"].is_object() {
        unbounded(&node["items"], path, named, found);
    }
}

#[test]
fn everything_a_rule_iterates_over_is_bounded() {
    with_rules(&schema(), "", &mut |path, node| {
        let compiled = compile_schema(node);
        for rule in rules_of(node) {
            let text = rule["rule"].as_str().unwrap();
            let named: BTreeSet<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
            let mut found = Vec::new();
            unbounded(node, path, &named, &mut found);
            assert_eq!(found, [] as [String; 0], "{text}");
            if !path.is_empty() {
                assert_eq!(estimate_rule_cost(text, &compiled), [], "{path}");
            }
        }
    });
}

/// Checks that no rule rejects an object that the operator accepts. Otherwise, the version of the
/// API server would decide whether such an object is accepted. The operator may reject more than
/// the rules do.
fn agrees(compiled: &CompiledSchema, change: &Value) -> Result<(), TestCaseError> {
    let whole = changed(change);
    let Ok(object) = serde_json::from_value::<OnionBalancedService>(whole.clone()) else { return Ok(()) };
    let problems: Vec<_> = validate::name(&object).into_iter().chain(validate::spec(&object)).collect();
    let refusals = refusals(compiled, &whole);
    prop_assert!(
        refusals.is_empty() || !problems.is_empty(),
        "the operator accepts an object that a rule rejects: {refusals:?}"
    );
    Ok(())
}

/// The maximum cost of evaluating one rule in an API server (`PerCallLimit` in
/// `k8s.io/apiserver/pkg/apis/cel`).
const CALL_LIMIT: u64 = 1_000_000;

/// An API server accepts a CRD whose rules might exceed the limit for one evaluation, but then
/// rejects the objects with which they do. A regular expression costs a tenth of the length of the
/// string times a quarter of its own length (`cel-go/common/cost.go`).
#[test]
fn the_longest_text_can_be_evaluated() {
    with_rules(&schema(), "", &mut |path, node| {
        let Some(length) = node["maxLength"].as_u64() else { return };
        for rule in rules_of(node).filter_map(|rule| rule["rule"].as_str()) {
            let cost = length * u64::try_from(rule.len()).unwrap() / (10 * 4);
            assert!(cost < CALL_LIMIT, "{path}: {cost}: {rule}");
        }
    });
}

/// Returns a strategy for torrc lines with white space and prefixes wherever tor allows them.
fn torrc_text() -> impl Strategy<Value = String> {
    let refused = refused_options(Place::Frontend).flat_map(|refusal| refusal.options).copied();
    let options: Vec<_> = allowed_options(Place::Backend).chain(refused).chain(["%include", "NoSuchOption"]).collect();
    let line = (r"[ \t\r+/]{0,3}", prop::sample::select(options), r"(?s).{0,3}", r"[ \t#\\a-z\x00-\x20]{0,4}");
    let line = line.prop_map(|(before, option, between, after)| format!("{before}{option}{between}{after}"));
    let line = prop_oneof![line, "(?s).{0,12}"];
    prop::collection::vec(line, 0..4).prop_map(|lines| lines.join("\n"))
}

#[test]
fn the_operator_rejects_everything_that_the_rules_reject() {
    let compiled = compile_schema(&schema());
    let text = prop_oneof!["[a-zA-Z0-9.:_\\[\\]-]{0,12}", "(?s).{0,8}", Just(" descriptor : x25519 : ".to_owned())];
    let inputs = (torrc_text(), text, (0..4_u8, 0..4_u8));
    let config = ProptestConfig { cases: 64, source_file: Some(file!()), ..ProptestConfig::default() };
    let tried = TestRunner::new(config).run(&inputs, |(torrc, text, (rate, burst))| {
        let template = json!({"labels": {text.clone(): ""}, "annotations": {format!("app.kubernetes.io/{text}"): ""}});
        for change in [
            json!({"metadata": {"name": text}}),
            json!({"spec": {"ports": [{"name": text, "port": 1, "target": {"address": text}}]}}),
            json!({"spec": {"ports": [{"port": 1, "target": {"service": {"name": text, "port": 1}}}]}}),
            json!({"spec": {"masterKey": {"secretName": text, "onionAddress": text}, "restrictedDiscovery": {"secretName": text}}}),
            json!({"spec": {"backends": {"extraTorrc": torrc, "template": template}}}),
            json!({"spec": {"frontend": {"extraTorrc": torrc}}}),
            json!({"spec": {"backends": {"introDosDefense": {"ratePerSecond": rate, "burstPerSecond": burst}}}}),
            json!({"spec": {"backends": {"circuitLimits": {"streamsPerSecond": rate, "streamBurst": burst}}}}),
            json!({"spec": {"restrictedDiscovery": {"clients": [{"name": "a", "publicKey": text}]}}}),
        ] {
            agrees(&compiled, &change)?;
        }
        Ok(())
    });
    tried.unwrap();
}
