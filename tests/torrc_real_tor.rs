//! The list of refused torrc options beside the real tor: its options, and the spellings that it takes for them.

#![allow(clippy::expect_used, reason = "helpers of tests fail like tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use kube_cel::{CompiledSchema, Validator, compile_schema};
use onionbalance_operator::crd::{OnionBalancedService, custom_resource_definition, validate};
use serde_json::{Value, json};

/// All options that tor lists.
fn options() -> BTreeSet<String> {
    let output =
        Command::new("tor").arg("--list-torrc-options").output().expect("the program tor: apt-get install tor");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// For which option tor takes each of these spellings, where it says so.
fn meant_by(spellings: &BTreeSet<String>) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("torrc");
    // An option without a value is taken and reset. The last line ends the run, after all spellings were looked at.
    let lines: Vec<_> = spellings.iter().map(String::as_str).chain(["NoSuchOption 1\n"]).collect();
    fs::write(&file, lines.join("\n")).expect("a file");
    let output = Command::new("tor")
        .args(["--verify-config", "--defaults-torrc", "/dev/null", "-f"])
        .arg(&file)
        .output()
        .expect("the program tor");
    let log = String::from_utf8(output.stdout).expect("text");
    assert!(log.contains("Unknown option 'NoSuchOption'"), "{log}");
    let words = log.lines().filter_map(|line| {
        let (spelling, rest) = line.split_once("The abbreviation '")?.1.split_once('\'')?;
        Some((spelling.to_owned(), rest.split_once("use '")?.1.split_once('\'')?.0.to_owned()))
    });
    words.collect()
}

fn with_torrc(part: &str, lines: &str) -> Value {
    json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80, "target": {"address": "web:80"}}], part: {"extraTorrc": lines}},
    })
}

fn operator_refuses(part: &str, lines: &str) -> bool {
    let object: OnionBalancedService = serde_json::from_value(with_torrc(part, lines)).expect("an object");
    !validate::spec(&object).is_empty()
}

fn rules_refuse(schema: &CompiledSchema, part: &str, lines: &str) -> bool {
    Validator::new().validate_compiled(schema, &with_torrc(part, lines), None).is_err()
}

#[test]
fn no_spelling_that_tor_takes_gets_past() {
    let options = options();
    let beginnings = |option: &String| (1..option.len()).map(|end| option[..end].to_owned()).collect::<Vec<_>>();
    let spellings: BTreeSet<String> =
        options.iter().flat_map(beginnings).filter(|spelling| !options.contains(spelling)).collect();
    let meant = meant_by(&spellings);
    assert!(meant.len() > 3000, "{} spellings", meant.len());
    for (spelling, option) in &meant {
        for part in ["backends", "frontend"] {
            if operator_refuses(part, option) {
                assert!(operator_refuses(part, spelling), "tor takes {spelling} for {option}");
                assert!(operator_refuses(part, &spelling.to_uppercase()), "tor takes {spelling} for {option}");
            }
        }
    }
}

#[test]
fn no_option_that_opens_a_port_gets_past() {
    for option in options().iter().filter(|option| option.ends_with("Port") && !option.starts_with("ClientPrefer")) {
        assert!(operator_refuses("backends", option) && operator_refuses("frontend", option), "{option}");
    }
}

#[test]
fn the_schemas_rules_refuse_the_options_that_the_operator_refuses() {
    let crd = serde_json::to_value(custom_resource_definition()).expect("JSON");
    let schema = compile_schema(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    for option in options() {
        for part in ["backends", "frontend"] {
            for line in [format!("{option} 1"), format!(" +{} 1", option.to_lowercase())] {
                assert_eq!(rules_refuse(&schema, part, &line), operator_refuses(part, &line), "{part}: {line}");
            }
        }
    }
}
