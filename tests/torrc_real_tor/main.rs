//! Checks with a real tor that it accepts the operator's torrc, that it knows every torrc option
//! that users may set, and that no spelling of another option passes.

#![allow(clippy::expect_used, reason = "a panic reports the failure of a test")]

mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::process::Command;

use kube_cel::{CompiledSchema, Validator, compile_schema};
use onionbalance_operator::crd::torrc::{Place, allowed};
use onionbalance_operator::crd::{OnionBalancedService, custom_resource_definition, validate};
use onionbalance_operator::link::{ForwardedPort, TargetCheck};
use onionbalance_operator::onion::MasterKey;
use rand::SeedableRng as _;
use serde_json::{Value, json};

use crate::render::Service;

/// Returns all torrc options that tor lists.
fn options() -> BTreeSet<String> {
    let output = Command::new("tor")
        .arg("--list-torrc-options")
        .output()
        .expect("this test needs the program tor; run apt-get install tor");
    let text = String::from_utf8(output.stdout).expect("the output of tor is not UTF-8");
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// Returns a map from each given spelling to the option that tor takes it for. Spellings that tor
/// does not accept as abbreviations are omitted.
fn meant_by(spellings: &BTreeSet<String>) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().expect("could not create a temporary folder");
    let file = folder.path().join("torrc");
    // tor accepts an option without a value and resets it. The unknown option in the last line
    // makes tor exit after it has parsed all spellings.
    let lines: Vec<_> = spellings.iter().map(String::as_str).chain(["NoSuchOption 1\n"]).collect();
    fs::write(&file, lines.join("\n")).expect("could not write the torrc");
    let output = Command::new("tor")
        .args(["--verify-config", "--defaults-torrc", "/dev/null", "-f"])
        .arg(&file)
        .output()
        .expect("could not run tor");
    let log = String::from_utf8(output.stdout).expect("the output of tor is not UTF-8");
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
    let object: OnionBalancedService =
        serde_json::from_value(with_torrc(part, lines)).expect("could not deserialize the object");
    !validate::spec(&object).is_empty()
}

fn rules_refuse(schema: &CompiledSchema, part: &str, lines: &str) -> bool {
    Validator::new().validate_compiled(schema, &with_torrc(part, lines), None).is_err()
}

/// Returns a value that is allowed for an option, if the option is.
fn value_of(option: &str) -> &'static str {
    match option {
        "Bridge" => "192.0.2.1:443 0123456789012345678901234567890123456789",
        "EntryNodes" => "192.0.2.0/24",
        "Log" => "notice stdout",
        _ => "1",
    }
}

/// Returns the options that are allowed in a part of the spec.
fn allowed_in(part: &str) -> BTreeSet<String> {
    let place = if part == "backends" { Place::Backend } else { Place::Frontend };
    allowed(place).map(str::to_owned).collect()
}

#[test]
fn tor_knows_every_allowed_option() {
    let in_all_pods = allowed(Place::AllPods).filter(|option| !option.ends_with('*')).map(str::to_owned);
    let allowed: BTreeSet<_> = allowed_in("backends").into_iter().chain(in_all_pods).collect();
    assert_eq!(allowed.difference(&options()).collect::<Vec<_>>(), [] as [&String; 0]);
    // tor takes none of the names for an abbreviation or an old name of another option.
    assert_eq!(meant_by(&allowed), BTreeMap::new());
}

#[test]
fn refuses_every_other_option_and_every_abbreviation() {
    let options = options();
    let beginnings = |option: &String| (1..option.len()).map(|end| option[..end].to_owned()).collect::<Vec<_>>();
    let spellings: BTreeSet<String> =
        options.iter().flat_map(beginnings).filter(|spelling| !options.contains(spelling)).collect();
    let meant = meant_by(&spellings);
    assert!(meant.len() > 3000, "tor accepts only {} spellings", meant.len());
    for part in ["backends", "frontend"] {
        let allowed = allowed_in(part);
        for (spelling, option) in &meant {
            for spelling in [spelling, &spelling.to_uppercase()] {
                assert!(operator_refuses(part, spelling), "{spelling} is accepted, and tor understands {option}");
            }
        }
        for option in options.difference(&allowed) {
            assert!(operator_refuses(part, &format!("{option} 1")), "{option}");
        }
        for option in allowed.iter().map(String::as_str) {
            let value = value_of(option);
            assert!(!operator_refuses(part, &format!("{option} {value}")), "{option}");
        }
    }
}

#[test]
fn refuses_every_option_that_opens_a_port() {
    for option in options().iter().filter(|option| option.ends_with("Port") && !option.starts_with("ClientPrefer")) {
        assert!(operator_refuses("backends", option) && operator_refuses("frontend", option), "{option}");
    }
}

#[test]
fn the_schema_refuses_the_same_options_as_the_operator() {
    let crd = serde_json::to_value(custom_resource_definition()).expect("could not serialize the CRD");
    let schema = compile_schema(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    for option in options() {
        for part in ["backends", "frontend"] {
            // The rules do not check values.
            let value = value_of(&option);
            for line in [format!("{option} {value}"), format!(" +{} {value}", option.to_lowercase())] {
                assert_eq!(rules_refuse(&schema, part, &line), operator_refuses(part, &line), "{part}: {line}");
            }
        }
    }
}

/// Returns true if tor accepts the operator's torrc for a component of a service with the given
/// `spec.backends`. One of the service's ports has a PROXY header.
fn tor_accepts(component: &str, backends: &Value, anonymity: &Value) -> bool {
    let folder = tempfile::tempdir().expect("could not create a temporary folder");
    for name in ["run/control", "run/hs", "run/forward", "data"] {
        let folder = folder.path().join(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).expect("could not create a folder");
    }
    fs::write(folder.path().join("run/empty"), "").expect("could not write the empty file");
    let key = MasterKey::generate(&mut rand::rngs::StdRng::seed_from_u64(1));
    let master = format!("MasterOnionAddress {}\n", key.address());
    fs::write(folder.path().join("run/hs/ob_config"), master).expect("could not write ob_config");
    let port = |port, proxy_header| ForwardedPort {
        name: None,
        port,
        target: "web:80".to_owned(),
        proxy_header,
        idle_timeout_seconds: None,
        check: TargetCheck::default(),
    };
    let ports = &[port(80, false), port(443, true)];
    let service = Service { key: &key, ports, backends, anonymity, global: "NumCPUs 1" };
    let torrc = service.torrc(component, folder.path()).expect("could not render the torrc");
    let file = folder.path().join("torrc");
    fs::write(&file, &torrc).expect("could not write the torrc");
    let mut tor = Command::new("tor");
    tor.args(["--verify-config", "--defaults-torrc", "/dev/null", "-f"]).arg(&file);
    let output = tor.output().expect("could not run tor");
    println!("{torrc}{}", String::from_utf8_lossy(&output.stdout));
    output.status.success()
}

/// Allowed options with values, in the forms that the manual gives. Options that exclude each other
/// are omitted.
const TYPICAL_LINES: &str = "
    AvoidDiskWrites 1
    BandwidthBurst 20 MBytes
    BandwidthRate 10 MBytes
    Bridge 192.0.2.1:443 0123456789012345678901234567890123456789
    Bridge obfs4 [2001:db8::1]:443 0123456789012345678901234567890123456789 cert=a/b+c iat-mode=0
    CircuitBuildTimeout 60
    CircuitPriorityHalflife 30
    CircuitsAvailableTimeout 1800
    ClientPreferIPv6ORPort auto
    ClientUseIPv4 1
    ClientUseIPv6 1
    ConnectionPadding auto
    ConstrainedSockets 1
    ConstrainedSockSize 8192
    ExcludeNodes 192.0.2.0/24,$0123456789012345678901234567890123456789
    FascistFirewall 1
    FetchDirInfoEarly 1
    FetchDirInfoExtraEarly 1
    HeartbeatPeriod 1 hour
    HSLayer2Nodes 0123456789012345678901234567890123456789
    HSLayer3Nodes 0123456789012345678901234567890123456789
    HTTPSProxy 192.0.2.1:3128
    HTTPSProxyAuthenticator user:password
    KeepalivePeriod 60
    KISTSchedRunInterval 5 msec
    KISTSockBufSizeFactor 2.0
    LearnCircuitBuildTimeout 0
    Log warn stderr
    LogMessageDomains 1
    LogTimeGranularity 100
    MaxClientCircuitsPending 64
    MaxMemInQueues 256 MB
    NodeFamily 0123456789012345678901234567890123456789,192.0.2.0/24
    NumCPUs 1
    NumEntryGuards 2
    ProtocolWarnings 1
    StrictNodes 1
    TokenBucketRefillInterval 10 msec
    VanguardsLiteEnabled 1
    HiddenServiceAllowUnknownPorts 1
    HiddenServiceMaxStreams 100
    HiddenServiceMaxStreamsCloseCircuit 1
";

#[test]
fn the_typical_lines_are_allowed() {
    assert!(!operator_refuses("backends", TYPICAL_LINES));
}

/// The operator refuses these lines in an exposed backend, because its tor would not start.
#[test]
fn a_tor_without_guards_accepts_no_entry_nodes() {
    let nodes = "0123456789012345678901234567890123456789,1234567890123456789012345678901234567890";
    let lines = json!({ "extraTorrc": format!("EntryNodes {nodes}") });
    assert!(tor_accepts("backend", &lines, &json!({})));
    assert!(!tor_accepts("backend", &lines, &json!({"serverLocation": "Exposed"})));
}

#[test]
fn the_operator_refuses_the_entry_nodes_with_which_tor_starts_no_onion_service() {
    let [one, other] = ["0123456789012345678901234567890123456789", "$1234567890123456789012345678901234567890"];
    let of_one = [one.to_owned(), other.to_owned(), "gabelmoo".to_owned(), format!("\"{one}\""), format!("{one}, ,")];
    let of_more = [
        String::new(),
        "192.0.2.7".to_owned(),
        "[2001:db8::]/32".to_owned(),
        format!("{one},{one}"),
        format!("{one} , {other}"),
        format!("\"{one},{other}\""),
    ];
    for (nodes, is_refused) in of_one.iter().map(|it| (it, true)).chain(of_more.iter().map(|it| (it, false))) {
        let line = format!("EntryNodes {nodes}");
        assert_eq!(operator_refuses("backends", &line), is_refused, "{line}");
        assert_eq!(!tor_accepts("backend", &json!({"extraTorrc": line}), &json!({})), is_refused, "{line}");
    }
}

#[test]
fn tor_accepts_the_operators_torrc() {
    let settings = |burst: u32| {
        json!({
            "introductionPoints": 20, "extraTorrc": TYPICAL_LINES,
            "introDosDefense": {"ratePerSecond": 25, "burstPerSecond": burst},
        })
    };
    let hidden = json!({});
    for open in [1, 16384] {
        assert!(tor_accepts("backend", &json!({"circuitLimits": {"openStreams": open}}), &hidden), "{open}");
    }
    for anonymity in [&hidden, &json!({"serverLocation": "Exposed"})] {
        for component in ["backend", "frontend"] {
            assert!(tor_accepts(component, &json!({}), anonymity), "{component} {anonymity}");
            assert!(tor_accepts(component, &settings(200), anonymity), "{component} {anonymity}");
        }
    }
    // tor evaluates the lines: a burst below the rate is invalid.
    assert!(!tor_accepts("backend", &settings(24), &hidden));
}
