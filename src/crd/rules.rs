//! The CEL rules of the schema (`x-kubernetes-validations`).
//!
//! The rules express constraints that types and limits cannot, and their messages say how to fix
//! the problem. They use the CEL features of Kubernetes 1.28. API servers before 1.25 silently drop
//! the rules, so `validate` checks the same constraints and more.
//!
//! An API server estimates the worst-case cost of each rule and rejects a CRD that is too
//! expensive. Therefore, every list, map and string that a rule iterates over has a size limit,
//! which a test checks.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;

use super::messages;
use super::names::{MAX_NAME_LENGTH, OUR_PREFIX, RECOMMENDED_PREFIX};
use super::torrc::{self, NOT_ALLOWED, Place, Refusal};

/// The pattern of an RFC 1123 label, in a syntax that is valid in both CEL and the schema.
pub(super) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// Returns a rule that rejects a value with `message` if the expression `rule` evaluates to false.
fn refuse(rule: impl Into<String>, message: impl Into<String>) -> ValidationRule {
    ValidationRule { rule: rule.into(), message: Some(message.into()), ..ValidationRule::default() }
}

/// Makes a rule report the problem for `field`, a field below the one that the rule is attached to.
fn at(field: &str, rule: ValidationRule) -> ValidationRule {
    ValidationRule { field_path: Some(field.to_owned()), ..rule }
}

/// Returns a rule that requires a string to match `pattern` (RE2 syntax, without `'`).
fn like(pattern: &str, message: &str) -> Vec<ValidationRule> {
    vec![refuse(format!("self.matches(r'{pattern}')"), message)]
}

/// Returns the rules for the whole object. The schema has no field for `metadata`, so the messages
/// include the field name.
pub(super) fn object() -> Vec<ValidationRule> {
    vec![
        refuse(
            format!("self.metadata.name.size() <= {MAX_NAME_LENGTH}"),
            format!(
                "metadata.name: use at most {MAX_NAME_LENGTH} characters, so that the names of the owned objects have at most 63"
            ),
        ),
        refuse(
            "self.metadata.name.matches(r'^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            format!("metadata.name: {}", messages::NAME_FORM),
        ),
    ]
}

/// Returns the rules for `spec`.
pub(super) fn spec() -> Vec<ValidationRule> {
    let rule = "!has(self.masterKey) || !has(self.masterKey.onionAddress) || !has(self.externalBackends) || \
        self.externalBackends.all(backend, backend.onionAddress != self.masterKey.onionAddress)";
    // An object that is older than the field, or sent without it, has the default.
    let location = |object: &str| {
        format!(
            "(has({object}.anonymity) && has({object}.anonymity.serverLocation) ? {object}.anonymity.serverLocation : 'Hidden')"
        )
    };
    let same_location = format!("{} == {}", location("self"), location("oldSelf"));
    vec![
        at(".externalBackends", refuse(rule, messages::OWN_ADDRESS)),
        at(".anonymity.serverLocation", refuse(same_location, messages::LOCATION_CHANGED)),
    ]
}

/// Returns the rules for `spec.anonymity`.
pub(super) fn anonymity() -> Vec<ValidationRule> {
    let rule = "!has(self.guardsInUse) || self.guardsInUse == 1 || !has(self.guards) || self.guards == 'Shared'";
    let hidden = "!has(self.serverLocation) || self.serverLocation == 'Hidden'";
    vec![
        at(".guardsInUse", refuse(rule, messages::GUARDS_IN_USE)),
        at(
            ".guardsInUse",
            refuse(format!("!has(self.guardsInUse) || self.guardsInUse == 1 || {hidden}"), messages::GUARDS_OF_EXPOSED),
        ),
        at(
            ".vanguards",
            refuse(
                format!("!has(self.vanguards) || self.vanguards == 'Lite' || {hidden}"),
                messages::VANGUARDS_OF_EXPOSED,
            ),
        ),
    ]
}

/// Returns the rules for `spec.masterKey`.
pub(super) fn master_key() -> Vec<ValidationRule> {
    let rule = "!has(self.delegated) || !self.delegated || has(self.secretName)";
    vec![at(".delegated", refuse(rule, messages::DELEGATED))]
}

/// Returns the rules for `spec.ports`.
pub(super) fn ports() -> Vec<ValidationRule> {
    vec![refuse(
        "self.all(a, !has(a.name) || self.exists_one(b, has(b.name) && b.name == a.name))",
        "two ports have the same name; give each port a different name",
    )]
}

/// Returns the rules for a port's name.
pub(super) fn port_name() -> Vec<ValidationRule> {
    like(LABEL, messages::PORT_NAME)
}

/// Returns the rules for the path of an HTTP request.
pub(super) fn request_path() -> Vec<ValidationRule> {
    like("^/[!-~]*$", messages::REQUEST_PATH)
}

/// Returns the rules for the `Host` header of an HTTP request.
pub(super) fn request_host() -> Vec<ValidationRule> {
    like(r"^[A-Za-z0-9._:\[\]-]+$", messages::REQUEST_HOST)
}

/// Returns the rules for a port's target.
pub(super) fn target() -> Vec<ValidationRule> {
    vec![
        refuse("!has(self.service) || !has(self.address)", messages::BOTH_TARGETS),
        refuse("has(self.service) || has(self.address)", messages::NO_TARGET),
    ]
}

/// Returns the rules for the name of a target Service.
pub(super) fn service_name() -> Vec<ValidationRule> {
    like(LABEL, messages::SERVICE_NAME)
}

/// Returns the rules for a target's `host:port` pair.
pub(super) fn host_and_port() -> Vec<ValidationRule> {
    like(
        r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?):0*[1-9][0-9]{0,4}$",
        "does not have the form host:port, for example \"web.example.org:8080\" or \"[2001:db8::1]:80\"",
    )
}

/// Returns the rules for the name of a Secret.
pub(super) fn secret_name() -> Vec<ValidationRule> {
    like(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", messages::SECRET_NAME)
}

/// Returns the rules for an onion address. The last character of the address encodes the version,
/// 3.
pub(super) fn onion_address() -> Vec<ValidationRule> {
    like(r"^[A-Za-z2-7]{55}[Dd](\.[Oo][Nn][Ii][Oo][Nn])?$", messages::ONION_ADDRESS)
}

/// Returns the rules for `spec.backends.introDosDefense`.
pub(super) fn intro_dos_defense() -> Vec<ValidationRule> {
    vec![at(".burstPerSecond", refuse("self.burstPerSecond >= self.ratePerSecond", messages::BURST))]
}

/// Returns the rules for `spec.backends.circuitLimits`.
pub(super) fn circuit_limits() -> Vec<ValidationRule> {
    let rule = "!has(self.streamBurst) || (has(self.streamsPerSecond) && self.streamBurst >= self.streamsPerSecond)";
    vec![at(".streamBurst", refuse(rule, messages::STREAM_BURST))]
}

/// Returns the rules for the keys of additional labels and annotations.
pub(super) fn own_keys() -> Vec<ValidationRule> {
    vec![refuse(
        format!("self.all(key, !key.startsWith('{OUR_PREFIX}') && !key.startsWith('{RECOMMENDED_PREFIX}'))"),
        format!(
            "keys that begin with \"{OUR_PREFIX}\" or \"{RECOMMENDED_PREFIX}\" are reserved for the operator; use other keys"
        ),
    )]
}

/// Returns the rules for `spec.restrictedDiscovery.clients`.
pub(super) fn clients() -> Vec<ValidationRule> {
    vec![refuse(
        "self.all(a, self.exists_one(b, b.publicKey == a.publicKey))",
        "two clients have the same key; remove one of them",
    )]
}

/// Returns the rules for a client's public key. White space is allowed where C tor allows it.
pub(super) fn client_key() -> Vec<ValidationRule> {
    like(r"^\s*descriptor\s*:\s*x25519\s*:\s*[A-Za-z2-7]{52}\s*$", messages::CLIENT_KEY)
}

/// The beginning of a torrc line, before the option's name. Tor accepts one of the two prefixes.
const BEGINNING: &str = r"[ \t]*[+/]?";

/// Returns the rules for `extraTorrc`.
///
/// The rules check the names of options, and reject lines that affect other lines. They do not
/// check values; only `validate` does.
pub(super) fn extra_torrc(place: Place) -> Vec<ValidationRule> {
    let mut rules: Vec<_> = torrc::refusals(place).map(refused_options).collect();
    rules.push(allowed_options(place));
    rules.extend([
        refuse(
            format!(r"!self.matches(r'(?m)^{BEGINNING}%')"),
            "\"%include\" is not allowed; copy the lines of the included file into this field",
        ),
        refuse(r"!self.matches(r'(?m)\\[ \t\r]*$')", "a line ends with \"\\\"; write the option on one line"),
        refuse(
            r"!self.matches(r'[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]')",
            "contains a control character; remove it",
        ),
    ]);
    rules
}

/// Returns the rule that rejects a group of options.
fn refused_options(Refusal { options, because }: &Refusal) -> ValidationRule {
    let lines = format!(r"(?im)^{BEGINNING}(?:{})(?:[ \t\r#]|$)", patterns(options.iter().copied()));
    let names = options.iter().map(|option| format!("\"{}\"", option.replace('*', "…"))).collect::<Vec<_>>();
    ValidationRule {
        message_expression: Some(format!(r#"'"' + self.find(r'{lines}').find(r'[^ \t\r\n+/#]+') + '" {because}'"#)),
        ..refuse(format!("!self.matches(r'{lines}')"), format!("{} {because}", names.join(" or ")))
    }
}

/// Returns the rule that rejects every option that is neither allowed nor rejected by another rule.
fn allowed_options(place: Place) -> ValidationRule {
    let known = torrc::refusals(place).flat_map(|refusal| refusal.options.iter().copied());
    let names = patterns(torrc::allowed(place).chain(known).chain(["%*"]));
    // The beginning of a text up to the first line that the rule rejects.
    let lines = format!(r"^(?:(?:{BEGINNING}(?i:{names})(?:[ \t\r#][^\n]*)?|[ \t]*(?:#[^\n]*|\r)?)\n)*");
    let name = format!(r"self.find(r'{lines}{BEGINNING}[^ \t\r\n#]+').find(r'[^ \t\r\n+/#]+$')");
    ValidationRule {
        message_expression: Some(format!(r#"'"' + {name} + '" {NOT_ALLOWED}'"#)),
        ..refuse(format!(r"(self + '\n').matches(r'{lines}$')"), format!("an option {NOT_ALLOWED}"))
    }
}

/// Returns a regular expression that matches the names of options.
fn patterns<'a>(options: impl Iterator<Item = &'a str>) -> String {
    options.map(|option| option.replace('*', r"[^ \t\r\n#]*")).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests;
