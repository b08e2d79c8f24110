//! A table with one row for each reason to reject an object.
//!
//! A row holds a change to a valid object and the responses of the operator, of the CEL rules and
//! of an API server without CEL. `validate/tests.rs` checks the operator, `rules/tests.rs` checks
//! the rules, `tests/operator_api_server` checks a real API server without CEL, and
//! `tests/operator_api_server/crd_server` checks a real API server with CEL.

// `tests/operator_api_server` includes this file from another folder.
#[path = "allowed.rs"]
mod allowed;
#[path = "refused_location.rs"]
mod location;
#[path = "refused_ports.rs"]
mod ports;
#[path = "refused_torrc.rs"]
mod torrc;

use serde_json::{Value, json};

pub use self::allowed::allowed;
pub use self::location::{RefusedChange, refused_changes};

/// An invalid object, and the errors that it is expected to cause.
pub struct Refused {
    /// The change that is merged into [`good`] to obtain the invalid object. Lists are replaced.
    pub change: Value,
    /// All of the operator's messages, or `None` if the operator never sees the object because
    /// every API server rejects it.
    pub operator: Option<String>,
    /// The field and the message of the CEL rule that rejects the object, if any rule does.
    pub rule: Option<String>,
    /// The field, without indices, that an API server without CEL names when it rejects the object,
    /// or `None` if it accepts the object.
    pub schema: Option<String>,
}

impl Refused {
    fn object(change: Value) -> Self {
        Self { change, operator: None, rule: None, schema: None }
    }

    #[allow(clippy::needless_pass_by_value, reason = "json! makes values")]
    fn spec(change: Value) -> Self {
        Self::object(json!({ "spec": change }))
    }

    fn operator(self, says: impl Into<String>) -> Self {
        Self { operator: Some(says.into()), ..self }
    }

    fn rule(self, says: impl Into<String>) -> Self {
        Self { rule: Some(says.into()), ..self }
    }

    fn schema(self, says: impl Into<String>) -> Self {
        Self { schema: Some(says.into()), ..self }
    }

    /// Sets the same expected message for the operator and for a CEL rule.
    fn both(self, says: impl Into<String>) -> Self {
        let says = says.into();
        self.operator(says.clone()).rule(says)
    }
}

/// Returns the smallest valid object.
pub fn good() -> Value {
    json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80, "target": {"service": {"name": "web", "port": "http"}}}]},
    })
}

/// Returns the smallest valid object with `change` merged in.
pub fn changed(change: &Value) -> Value {
    let mut whole = good();
    merge(&mut whole, change);
    whole
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            change.iter().for_each(|(key, value)| merge(into.entry(key.clone()).or_insert(Value::Null), value));
        }
        (into, change) => *into = change.clone(),
    }
}

/// The onion address of a different service.
pub const EXTERNAL: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
/// The public keys of two clients.
pub const KEYS: [&str; 2] = [
    "descriptor:x25519:KQCEIKSPVMA57VY3WDDMT667LLS67BBB2OSQIEXGKI4GOTL3AOMQ",
    "descriptor:x25519:FRGUVMBGM555KMQ3XZAPB4OXSMXIMX7C7537PG7SHYJLMVXIZXKQ",
];

/// Returns every row of the table.
pub fn refused() -> Vec<Refused> {
    let mut all = names();
    all.extend(ports::rows());
    all.extend(keys());
    all.extend(location::rows());
    all.extend(backends());
    all.extend(circuit_limits());
    all.extend(probes());
    all.extend(torrc::rows());
    all.extend(templates());
    all.extend(clients());
    all
}

fn names() -> Vec<Refused> {
    let form = "metadata.name: must consist of lower-case letters, digits and \"-\" and begin with a letter, because Services are named after it";
    vec![
        Refused::object(json!({"metadata": {"name": "a".repeat(55)}}))
            .operator(
                "metadata.name: has 55 characters; use at most 54, so that the names of the owned objects have at most 63",
            )
            .rule("metadata.name: use at most 54 characters, so that the names of the owned objects have at most 63"),
        Refused::object(json!({"metadata": {"name": "1web"}})).both(form),
        Refused::object(json!({"metadata": {"name": "web.example"}})).both(form),
    ]
}

fn keys() -> Vec<Refused> {
    let form = "a v3 onion address has 56 base32 characters, with or without \".onion\"";
    let secret_name =
        "spec.masterKey.secretName: is not a valid Secret name; use lower-case letters, digits, \"-\" and \".\"";
    let of_key = |field: &str, value: Value| Refused::spec(json!({"masterKey": {field: value}}));
    let external = |addresses: &[&str]| {
        let backends: Vec<_> = addresses.iter().map(|address| json!({"onionAddress": address})).collect();
        Refused::spec(json!({ "externalBackends": backends }))
    };
    let many: Vec<_> = (0..129).map(|_| EXTERNAL).collect();
    let mistyped = EXTERNAL.replace("pg6", "pg7");
    vec![
        of_key("secretName", json!("a/b")).both(secret_name),
        of_key("secretName", json!("..")).both(secret_name),
        of_key("secretName", json!("")).operator(secret_name).schema("spec.masterKey.secretName"),
        of_key("secretName", json!("a".repeat(254))).operator(secret_name).schema("spec.masterKey.secretName"),
        of_key("delegated", json!(true)).both(
            "spec.masterKey.delegated: requires spec.masterKey.secretName, which names the Secret with the signing kits",
        ),
        of_key("onionAddress", json!("x.onion")).both(format!("spec.masterKey.onionAddress: {form}")),
        of_key("onionAddress", json!(format!("{EXTERNAL}.")))
            .operator(format!("spec.masterKey.onionAddress: {form}"))
            .schema("spec.masterKey.onionAddress"),
        of_key("onionAddress", json!(mistyped))
            .operator("spec.masterKey.onionAddress: the checksum of the onion address is wrong; check the address for typos"),
        Refused::spec(json!({"deletionPolicy": "Keep"})).schema("spec.deletionPolicy"),
        Refused::spec(json!({"anonymity": {"guards": "None"}})).schema("spec.anonymity.guards"),
        Refused::spec(json!({"anonymity": {"vanguards": "None"}})).schema("spec.anonymity.vanguards"),
        Refused::spec(json!({"anonymity": {"guardsInUse": 0}}))
            .operator("spec.anonymity.guardsInUse: must be 1, 2 or 3")
            .schema("spec.anonymity.guardsInUse"),
        Refused::spec(json!({"anonymity": {"guardsInUse": 4}}))
            .operator("spec.anonymity.guardsInUse: must be 1, 2 or 3")
            .schema("spec.anonymity.guardsInUse"),
        Refused::spec(json!({"anonymity": {"guards": "PerPod", "guardsInUse": 2}})).both(
            "spec.anonymity.guardsInUse: must be 1 unless guards is Shared, because each pod then uses a guard of its own",
        ),
        contradicted("backends", "NumCPUs 1\n  hslayer2nodes $AB"),
        contradicted("frontend", "+HSLayer2Nodes $AB#x"),
        external(&[EXTERNAL, "x"]).both(format!("spec.externalBackends[1].onionAddress: {form}")),
        external(&[&EXTERNAL.replace("ryd.", "rye.")])
            .operator("spec.externalBackends[0].onionAddress: the onion address has version 4; only version 3 is supported")
            .rule(format!("spec.externalBackends[0].onionAddress: {form}")),
        external(&[&format!("{EXTERNAL}.")])
            .operator(format!("spec.externalBackends[0].onionAddress: {form}"))
            .schema("spec.externalBackends.onionAddress"),
        external(&[&mistyped]).operator(
            "spec.externalBackends[0].onionAddress: the checksum of the onion address is wrong; check the address for typos",
        ),
        external(&[EXTERNAL, EXTERNAL])
            .operator("spec.externalBackends[1].onionAddress: is listed twice; list each backend once")
            .schema("spec.externalBackends"),
        external(&[EXTERNAL, &EXTERNAL.to_uppercase()])
            .operator("spec.externalBackends[1].onionAddress: is listed twice; list each backend once"),
        external(&many).schema("spec.externalBackends"),
        Refused::spec(json!({"masterKey": {"onionAddress": EXTERNAL}, "externalBackends": [{"onionAddress": EXTERNAL}]}))
            .operator(
                "spec.externalBackends[0].onionAddress: is the address of this service; use the backend's own address, which its tor wrote to hostname",
            )
            .rule("spec.externalBackends: is the address of this service; use the backend's own address, which its tor wrote to hostname"),
    ]
}

fn circuit_limits() -> Vec<Refused> {
    let limits = |limits: Value| Refused::spec(json!({"backends": {"circuitLimits": limits}}));
    let burst = "spec.backends.circuitLimits.streamBurst: must not be less than streamsPerSecond, which must be set";
    let mut all = vec![
        limits(json!({"streamBurst": 5})).both(burst),
        limits(json!({"streamsPerSecond": 6, "streamBurst": 5})).both(burst),
    ];
    for (name, number, range) in [
        ("openStreams", 0, "1 to 16384"),
        ("openStreams", 16385, "1 to 16384"),
        ("streamsPerSecond", 0, "1 to 10000"),
        ("streamsPerSecond", 10001, "1 to 10000"),
        ("bytesPerSecond", 16383, "16384 to 1000000000"),
        ("bytesPerSecond", 1_000_000_001_u32, "16384 to 1000000000"),
    ] {
        let field = format!("spec.backends.circuitLimits.{name}");
        all.push(limits(json!({ name: number })).operator(format!("{field}: must be from {range}")).schema(field));
    }
    let many = json!({"streamsPerSecond": 5, "streamBurst": 100_001});
    let field = "spec.backends.circuitLimits.streamBurst";
    all.push(limits(many).operator(format!("{field}: must be from 1 to 100000")).schema(field));
    all
}

fn backends() -> Vec<Refused> {
    let backends = |change: Value| Refused::spec(json!({ "backends": change }));
    let max_points = |points: u16| {
        Refused::spec(json!({"externalBackends": [{"onionAddress": EXTERNAL, "maxIntroductionPoints": points}]}))
    };
    vec![
        backends(json!({"replicas": -1}))
            .operator("spec.backends.replicas: must be 0 or more")
            .schema("spec.backends.replicas"),
        backends(json!({"introductionPoints": 2}))
            .operator("spec.backends.introductionPoints: must be from 3 to 20")
            .schema("spec.backends.introductionPoints"),
        backends(json!({"introductionPoints": 21}))
            .operator("spec.backends.introductionPoints: must be from 3 to 20")
            .schema("spec.backends.introductionPoints"),
        backends(json!({"drainTimeoutSeconds": 86401}))
            .operator("spec.backends.drainTimeoutSeconds: must be at most 86400, one day")
            .schema("spec.backends.drainTimeoutSeconds"),
        backends(json!({"introDosDefense": {"ratePerSecond": 5, "burstPerSecond": 4}}))
            .both("spec.backends.introDosDefense.burstPerSecond: must not be less than ratePerSecond"),
        backends(json!({"introDosDefense": {"ratePerSecond": 201}}))
            .both("spec.backends.introDosDefense.burstPerSecond: must not be less than ratePerSecond"),
        backends(json!({"introDosDefense": {"burstPerSecond": 0x8000_0000_u32}}))
            .operator("spec.backends.introDosDefense: each number must be at most 2147483647")
            .schema("spec.backends.introDosDefense.burstPerSecond"),
        backends(json!({"introDosDefense": {"ratePerSecond": 0x8000_0000_u32, "burstPerSecond": 0x8000_0000_u32}}))
            .operator("spec.backends.introDosDefense: each number must be at most 2147483647")
            .schema("spec.backends.introDosDefense.ratePerSecond"),
        max_points(0)
            .operator("spec.externalBackends[0].maxIntroductionPoints: must be from 1 to 20")
            .schema("spec.externalBackends.maxIntroductionPoints"),
        max_points(21)
            .operator("spec.externalBackends[0].maxIntroductionPoints: must be from 1 to 20")
            .schema("spec.externalBackends.maxIntroductionPoints"),
        max_points(256).schema("spec.externalBackends.maxIntroductionPoints"),
        Refused::spec(json!({"frontend": {"replicas": -1}}))
            .operator("spec.frontend.replicas: must be 0 or more")
            .schema("spec.frontend.replicas"),
        Refused::spec(json!({"frontend": {"distinctDescriptors": "Sometimes"}}))
            .schema("spec.frontend.distinctDescriptors"),
    ]
}

fn probes() -> Vec<Refused> {
    let probe = |probe: Value| Refused::spec(json!({"frontend": {"probe": probe}}));
    let http = |http: Value| Refused::spec(json!({"frontend": {"probe": {"http": http}}}));
    let path = "spec.frontend.probe.http.path: must begin with \"/\" and consist of printable ASCII characters without \
                spaces, for example \"/healthz\"";
    let host = "spec.frontend.probe.http.host: must be a host name or an address, optionally with a port, for example \
                \"web.example.org\"";
    vec![
        probe(json!({"periodSeconds": 9}))
            .operator("spec.frontend.probe.periodSeconds: must be from 10 to 86400, one day")
            .schema("spec.frontend.probe.periodSeconds"),
        probe(json!({"periodSeconds": 86401}))
            .operator("spec.frontend.probe.periodSeconds: must be from 10 to 86400, one day")
            .schema("spec.frontend.probe.periodSeconds"),
        probe(json!({"timeoutSeconds": 59}))
            .operator("spec.frontend.probe.timeoutSeconds: must be from 60 to 600")
            .schema("spec.frontend.probe.timeoutSeconds"),
        probe(json!({"timeoutSeconds": 601}))
            .operator("spec.frontend.probe.timeoutSeconds: must be from 60 to 600")
            .schema("spec.frontend.probe.timeoutSeconds"),
        http(json!({"port": 0}))
            .operator("spec.frontend.probe.http.port: must be from 1 to 65535")
            .schema("spec.frontend.probe.http.port"),
        http(json!({"expectedStatus": 600}))
            .operator("spec.frontend.probe.http.expectedStatus: must be from 100 to 599")
            .schema("spec.frontend.probe.http.expectedStatus"),
        http(json!({"path": "healthz"})).both(path),
        http(json!({"path": "/a b"})).both(path),
        http(json!({"path": "/\r\nX: y"})).both(path),
        http(json!({"host": ""})).operator(host).schema("spec.frontend.probe.http.host"),
        http(json!({"host": "example.org/a"})).both(host),
    ]
}

fn templates() -> Vec<Refused> {
    let mut all = Vec::new();
    let rule = "keys that begin with \"onionbalance.dev/\" or \"app.kubernetes.io/\" are reserved for the operator; use other keys";
    for part in ["backends", "frontend"] {
        let template = |change: Value| Refused::spec(json!({part: {"template": change}}));
        for (map, key) in [("labels", "app.kubernetes.io/component"), ("annotations", "onionbalance.dev/config-hash")] {
            let field = format!("spec.{part}.template.{map}");
            let many: serde_json::Map<_, _> = (0..129).map(|number| (format!("a{number}"), json!(""))).collect();
            all.push(
                template(json!({map: {"a": "b", key: "x"}}))
                    .operator(format!("{field}: \"{key}\" is reserved for the operator; use another key"))
                    .rule(format!("{field}: {rule}")),
            );
            all.push(template(json!({ map: many })).schema(field));
        }
        for (container, list, name, quantity) in [
            ("tor", "limits", "memory", json!("64 MB")),
            ("tor", "requests", "cpu", json!("-1")),
            ("agent", "limits", "cpu", json!(-1)),
            ("agent", "requests", "cpu", json!("")),
        ] {
            all.push(
                template(json!({"resources": {container: {list: {name: quantity}}}}))
                    .operator(format!(
                        "spec.{part}.template.resources.{container}.{list}.{name}: is not a quantity such as \"100m\", \"64Mi\" or 1"
                    ))
                    .schema(format!("spec.{part}.template.resources.{container}.{list}.{name}")),
            );
        }
        all.push(
            template(json!({"priorityClassName": "a".repeat(254)}))
                .schema(format!("spec.{part}.template.priorityClassName")),
        );
        all.push(
            template(json!({"runtimeClassName": "a".repeat(254)}))
                .schema(format!("spec.{part}.template.runtimeClassName")),
        );
        all.push(
            template(json!({"imagePullSecrets": [{"name": "a".repeat(254)}]}))
                .schema(format!("spec.{part}.template.imagePullSecrets.name")),
        );
        all.push(
            template(json!({"imagePullSecrets": vec![json!({"name": "a"}); 65]}))
                .schema(format!("spec.{part}.template.imagePullSecrets")),
        );
    }
    all
}

fn clients() -> Vec<Refused> {
    let restricted = |change: Value| Refused::spec(json!({ "restrictedDiscovery": change }));
    let clients = |clients: &[(&str, &str)]| {
        let clients: Vec<_> = clients.iter().map(|(name, key)| json!({"name": name, "publicKey": key})).collect();
        restricted(json!({ "clients": clients }))
    };
    let form =
        "spec.restrictedDiscovery.clients[0].publicKey: is not of the form descriptor:x25519:<52 base32 characters>";
    let private = format!("{}:{}", EXTERNAL.trim_end_matches(".onion"), KEYS[0]);
    let many: Vec<_> = (0..129).map(|number| json!({"name": format!("a{number}"), "publicKey": KEYS[0]})).collect();
    vec![
        restricted(json!({"secretName": "a/b"}))
            .both("spec.restrictedDiscovery.secretName: is not a valid Secret name; use lower-case letters, digits, \"-\" and \".\""),
        restricted(json!({"secretName": "."}))
            .both("spec.restrictedDiscovery.secretName: is not a valid Secret name; use lower-case letters, digits, \"-\" and \".\""),
        restricted(json!({"secretName": "a".repeat(254)}))
            .operator("spec.restrictedDiscovery.secretName: is not a valid Secret name; use lower-case letters, digits, \"-\" and \".\"")
            .schema("spec.restrictedDiscovery.secretName"),
        restricted(json!({ "clients": many })).schema("spec.restrictedDiscovery.clients"),
        clients(&[("", KEYS[0])])
            .operator("spec.restrictedDiscovery.clients[0].name: is empty; give each client a name")
            .schema("spec.restrictedDiscovery.clients.name"),
        clients(&[(&"a".repeat(254), KEYS[0])]).schema("spec.restrictedDiscovery.clients.name"),
        clients(&[("a", KEYS[0]), ("a", KEYS[1])])
            .operator("spec.restrictedDiscovery.clients[1].name: \"a\" is used twice; give each client a different name")
            .schema("spec.restrictedDiscovery.clients"),
        clients(&[("a", KEYS[0]), ("b", KEYS[0])])
            .operator("spec.restrictedDiscovery.clients[1].publicKey: is also the key of \"a\"; remove one of them")
            .rule("spec.restrictedDiscovery.clients: two clients have the same key; remove one of them"),
        clients(&[("a", "descriptor:x25519:AAAA")]).both(form),
        clients(&[("a", &private)])
            .operator(
                "spec.restrictedDiscovery.clients[0].publicKey: is a client's private key; use the public key instead, \
                 descriptor:x25519:<52 base32 characters>",
            )
            .rule(form),
        clients(&[("a", &format!("{}{}", KEYS[0], " ".repeat(60)))])
            .schema("spec.restrictedDiscovery.clients.publicKey"),
    ]
}

/// Returns an object whose torrc lines contradict its vanguards.
fn contradicted(component: &str, lines: &str) -> Refused {
    Refused::spec(json!({"anonymity": {"vanguards": "Full"}, component: {"extraTorrc": lines}})).operator(format!(
        "spec.anonymity.vanguards: \"Full\" cannot be combined with \"HSLayer2Nodes\" in spec.{component}.extraTorrc, because \
         the publisher chooses the relays of the second and third hops; remove the line, or set vanguards: Lite"
    ))
}
