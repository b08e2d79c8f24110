//! The schema's CEL rules (`x-kubernetes-validations`): what its types and limits cannot say, with messages that name the fix.
//!
//! Kubernetes 1.25 and newer keep them; an older server drops them without a word. So `validate` checks all of it too, and
//! more. What is used of CEL is what Kubernetes 1.28 has.
//!
//! An API server estimates what a rule costs at worst, and refuses the whole CRD where that is too much: each list, map
//! and string that a rule walks has a limit, and a test looks for it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;

use super::names::{MAX_NAME_LENGTH, OUR_PREFIX, RECOMMENDED_PREFIX};
use super::validate::torrc::{CIRCUIT_ID, DENIED, Place};

/// Messages that the rules and `validate` share.
pub(super) mod says {
    pub const NAME_FORM: &str =
        "use lower-case letters, digits and \"-\", with a letter first: Services are named after it";
    pub const PORT_NAME: &str = "use at most 63 lower-case letters, digits and \"-\"";
    pub const SECRET_NAME: &str = "is no name that a Secret can have";
    pub const SERVICE_NAME: &str = "is no name that a Service can have";
    pub const BOTH_TARGETS: &str = "has both service and address; keep one";
    pub const NO_TARGET: &str = "is empty; set service {name, port} or address \"host:port\"";
    pub const BURST: &str = "must not be less than ratePerSecond";
    pub const OWN_ADDRESS: &str = "is this service's own address; name the backend's, which its tor wrote to hostname";
    pub const ONION_ADDRESS: &str = "a v3 onion address has 56 base32 characters, with or without \".onion\"";
    pub const CLIENT_KEY: &str = "is not of the form descriptor:x25519:<52 base32 characters>";
}

/// DNS label of RFC 1123, for CEL and for the schema's patterns.
pub(super) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// Refuses with this message what the rule is false of.
fn refuse(rule: impl Into<String>, message: impl Into<String>) -> ValidationRule {
    ValidationRule { rule: rule.into(), message: Some(message.into()), ..ValidationRule::default() }
}

/// Names a field below the one that the rule is of.
fn at(field: &str, rule: ValidationRule) -> ValidationRule {
    ValidationRule { field_path: Some(field.to_owned()), ..rule }
}

/// The text is like this (RE2 syntax, without a `'`).
fn like(pattern: &str, message: &str) -> Vec<ValidationRule> {
    vec![refuse(format!("self.matches(r'{pattern}')"), message)]
}

/// Of the whole object. The schema knows `metadata` by no field, so the messages name it.
pub(super) fn object() -> Vec<ValidationRule> {
    vec![
        refuse(
            format!("self.metadata.name.size() <= {MAX_NAME_LENGTH}"),
            format!(
                "metadata.name: use at most {MAX_NAME_LENGTH} characters, so that the children's names fit into 63"
            ),
        ),
        refuse(
            "self.metadata.name.matches(r'^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            format!("metadata.name: {}", says::NAME_FORM),
        ),
    ]
}

/// Of `spec`.
pub(super) fn spec() -> Vec<ValidationRule> {
    let rule = "!has(self.masterKey) || !has(self.masterKey.onionAddress) || !has(self.externalBackends) || \
        self.externalBackends.all(backend, backend.onionAddress != self.masterKey.onionAddress)";
    vec![at(".externalBackends", refuse(rule, says::OWN_ADDRESS))]
}

/// Of `spec.ports`.
pub(super) fn ports() -> Vec<ValidationRule> {
    vec![refuse(
        "self.all(a, !has(a.name) || self.exists_one(b, has(b.name) && b.name == a.name))",
        "two ports have one name; give each port its own",
    )]
}

pub(super) fn port_name() -> Vec<ValidationRule> {
    like(LABEL, says::PORT_NAME)
}

/// Of a port's target.
pub(super) fn target() -> Vec<ValidationRule> {
    vec![
        refuse("!has(self.service) || !has(self.address)", says::BOTH_TARGETS),
        refuse("has(self.service) || has(self.address)", says::NO_TARGET),
    ]
}

pub(super) fn service_name() -> Vec<ValidationRule> {
    like(LABEL, says::SERVICE_NAME)
}

pub(super) fn host_and_port() -> Vec<ValidationRule> {
    like(
        r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?):0*[1-9][0-9]{0,4}$",
        "is not of the form host:port, as in \"web.example.org:8080\" or \"[2001:db8::1]:80\"",
    )
}

pub(super) fn secret_name() -> Vec<ValidationRule> {
    like(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", says::SECRET_NAME)
}

/// The last character is the version, 3.
pub(super) fn onion_address() -> Vec<ValidationRule> {
    like(r"^[A-Za-z2-7]{55}[Dd](\.[Oo][Nn][Ii][Oo][Nn])?$", says::ONION_ADDRESS)
}

/// Of `spec.backends.introDosDefense`.
pub(super) fn intro_dos_defense() -> Vec<ValidationRule> {
    vec![at(".burstPerSecond", refuse("self.burstPerSecond >= self.ratePerSecond", says::BURST))]
}

/// Of labels and annotations.
pub(super) fn own_keys() -> Vec<ValidationRule> {
    vec![refuse(
        format!("self.all(key, !key.startsWith('{OUR_PREFIX}') && !key.startsWith('{RECOMMENDED_PREFIX}'))"),
        format!(
            "keys that begin with \"{OUR_PREFIX}\" or \"{RECOMMENDED_PREFIX}\" belong to the operator; use keys of your own"
        ),
    )]
}

/// Of `spec.restrictedDiscovery.clients`.
pub(super) fn clients() -> Vec<ValidationRule> {
    vec![refuse(
        "self.all(a, self.exists_one(b, b.publicKey == a.publicKey))",
        "two clients have one key; remove one of the two",
    )]
}

/// With space where C tor takes it.
pub(super) fn client_key() -> Vec<ValidationRule> {
    like(r"^\s*descriptor\s*:\s*x25519\s*:\s*[A-Za-z2-7]{52}\s*$", says::CLIENT_KEY)
}

/// Of `extraTorrc`: options that are refused by name, and lines that reach beyond themselves.
///
/// Abbreviated options, which tor takes with a warning, are left to `validate`.
pub(super) fn extra_torrc(place: Place) -> Vec<ValidationRule> {
    let names = DENIED.iter().copied().filter(|name| *name != CIRCUIT_ID).collect::<Vec<_>>().join("|");
    let option = |name: &str| format!(r"(?im)^\s*[+/]*({name})(\s|#|$)");
    let denied = option(&format!(r"{names}|_[^\s#]*"));
    let names_it =
        format!(r#"'the operator sets or needs "' + self.find(r'{denied}').trim() + '" itself; remove the line'"#);
    let mut rules = vec![
        ValidationRule {
            message_expression: Some(names_it),
            ..refuse(
                format!("!self.matches(r'{denied}')"),
                "has an option that the operator sets or needs itself; remove the line",
            )
        },
        refuse(
            format!("!self.matches(r'{}')", option(CIRCUIT_ID)),
            format!("instead of \"{CIRCUIT_ID}\" set proxyProtocol: v1 on the ports that want it"),
        ),
        refuse(r"!self.matches(r'(?m)^\s*[+/]*%')", "\"%include\" is not allowed; write the lines themselves"),
        refuse(r"!self.matches(r'(?m)\\\s*$')", "a line ends with \"\\\"; write the option on one line"),
        refuse(r"!self.matches(r'[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]')", "has a control character; remove it"),
    ];
    if place == Place::Frontend {
        rules.push(refuse(
            r"!self.matches(r'(?im)^\s*[+/]*HiddenService')",
            "an option of an onion service, which a frontend has none of; use spec.backends.extraTorrc",
        ));
    }
    rules
}

#[cfg(test)]
mod tests;
