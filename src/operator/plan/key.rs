//! The decision about the master key: which key a service uses, and when the operator may generate
//! one. A new key means a new address, so the operator generates a key only if the service has
//! never had one. In every other case without a usable key, the status reports the problem, and a
//! human must resolve it.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{Resource as _, ResourceExt as _};

use super::{KeySecret, Rival};
use crate::crd::names::{self, SERVICE_LABEL};
use crate::crd::validate::Problem;
use crate::crd::{DeletionPolicy, OnionBalancedService, Reason};
use crate::onion::key::KeyError;
use crate::onion::{KeyFile, KeyForm, MasterKey, OnionAddress, ServiceKey};
use crate::operator::children::{GENERATED_ANNOTATION, SECRET_KEY_FILE, owner};
use crate::operator::conditions::Finding;

/// The command that turns a Secret with a key in another form or entry into one that is used.
const CONVERT: &str =
    "kubectl get secret NAME -o yaml | kubectl onionbalance key convert - --secret NEW_NAME | kubectl create -f -";

/// How to create a signing kit.
const DELEGATE: &str = "create a kit on the machine with the master key: kubectl onionbalance key delegate";

/// The decision about the master key of a service.
pub(super) enum Decision {
    /// Use this master key, or these signing kits.
    Use(ServiceKey),
    /// Generate a key, because the service has never had one.
    Generate,
    /// Do not use any key, for the reason that the finding gives.
    Refuse(Finding),
}

/// Decides which master key a service uses, or that one must be generated. `problems` are the
/// problems of the spec. A key is used only if everything that the spec says about it is valid,
/// because the name or the address that the user means may be that of another key.
pub(super) fn decide(
    object: &OnionBalancedService,
    problems: &[Problem],
    rivals: &[Rival],
    secret: Option<&KeySecret>,
) -> Decision {
    if problems.iter().any(|problem| problem.field.starts_with("spec.masterKey")) {
        let message = "spec.masterKey is invalid; see the condition Accepted.";
        return Decision::Refuse(Finding::unknown(Reason::NotAccepted, message));
    }
    let name = names::master_key_secret(object);
    let Some(secret) = secret else { return missing(object, &name) };
    let read = if object.spec.master_key.delegated { read_kits(secret) } else { read(secret).map(ServiceKey::from) };
    let key = match read {
        Ok(key) => key,
        Err(problem) => return refuse(Reason::KeyInvalid, format!("Secret {name}: {problem}")),
    };
    if let Some(finding) = unexpected(object, &name, key.address()) {
        return Decision::Refuse(finding);
    }
    if let Some(rival) = winner(object, rivals, key.address()) {
        let (rival_namespace, rival_name) = (rival.namespace().unwrap_or_default(), rival.name_any());
        return refuse(
            Reason::KeyConflict,
            format!(
                "{} is already served by {rival_namespace}/{rival_name}; name another Secret in \
                 spec.masterKey.secretName, or delete one of the two objects",
                key.address()
            ),
        );
    }
    Decision::Use(key)
}

fn refuse(reason: Reason, message: String) -> Decision {
    Decision::Refuse(Finding::no(reason, message))
}

fn missing(object: &OnionBalancedService, secret: &str) -> Decision {
    let spec = &object.spec.master_key;
    let was = object.status.as_ref().and_then(|status| status.onion_address.as_ref());
    let message = match (was, &spec.onion_address, &spec.secret_name) {
        (Some(address), _, _) if spec.delegated => {
            format!("Secret {secret} with the signing kits of {address} is missing; restore it, or {DELEGATE}")
        }
        (Some(address), _, _) => {
            format!(
                "Secret {secret} with the key of {address} is missing; restore it, because a new key would mean a new address"
            )
        }
        (None, Some(address), _) if spec.delegated => {
            format!("Secret {secret} with the signing kits of {address} is missing; {DELEGATE}")
        }
        (None, Some(address), _) => format!(
            "Secret {secret} is missing; create it with the {SECRET_KEY_FILE} of {address}, which \
             spec.masterKey.onionAddress requires"
        ),
        (None, None, Some(_)) if spec.delegated => {
            format!("Secret {secret} with the signing kits is missing; {DELEGATE}")
        }
        (None, None, Some(_)) => format!(
            "Secret {secret}, named by spec.masterKey.secretName, is missing; create it with the key {SECRET_KEY_FILE}"
        ),
        (None, None, None) => return Decision::Generate,
    };
    refuse(Reason::SecretNotFound, message)
}

/// Returns the signing kit in a Secret. A Secret that also holds the master key is refused, because
/// the user means to keep the master key out of the cluster.
fn read_kits(secret: &KeySecret) -> Result<ServiceKey, String> {
    if secret.data.contains_key(SECRET_KEY_FILE) {
        return Err(format!(
            "the entry {SECRET_KEY_FILE} holds a master key, but spec.masterKey.delegated is true; remove the entry, and \
             {DELEGATE}"
        ));
    }
    let kits = secret.kits().map_err(|problem| format!("{problem}; {DELEGATE}"))?;
    Ok(ServiceKey::Kits(Arc::clone(kits)))
}

fn read(secret: &KeySecret) -> Result<MasterKey, String> {
    let file = secret.data.get(SECRET_KEY_FILE).ok_or_else(|| without_entry(secret))?;
    let key = MasterKey::from_tor_secret_key_file(file).map_err(|error| unusable(&error))?;
    if let Some(file) = secret.data.get("hs_ed25519_public_key") {
        key.check_tor_public_key_file(file).map_err(|error| error.to_string())?;
    }
    if let Some(file) = secret.data.get("hostname") {
        key.check_tor_hostname_file(file).map_err(|error| error.to_string())?;
    }
    Ok(key)
}

/// Explains what to do about the content of the entry `hs_ed25519_secret_key`. The commands in the
/// error expect a file.
fn unusable(error: &KeyError) -> String {
    match error {
        KeyError::Pem | KeyError::Form(KeyForm::Text(_) | KeyForm::AddOnion) => {
            format!("{error}. In the cluster: {CONVERT}")
        }
        KeyError::Damaged(_) | KeyError::Form(_) => format!(
            "{error}. To save the entry as FILE: kubectl get secret NAME -o jsonpath='{{.data.{SECRET_KEY_FILE}}}' | \
             base64 -d >FILE"
        ),
        other => other.to_string(),
    }
}

/// Explains what to do about a Secret without the entry `hs_ed25519_secret_key`. A key under
/// another name is not used, because only this entry is mounted into the frontends.
fn without_entry(secret: &KeySecret) -> String {
    if secret.kits().is_ok() {
        return format!(
            "{SECRET_KEY_FILE} is missing, but the Secret holds a signing kit; to use it, set spec.masterKey.delegated: true"
        );
    }
    let find = |holds_key: fn(&[u8]) -> bool| secret.data.iter().find(|(_, bytes)| holds_key(bytes));
    if let Some((name, _)) = find(|bytes| KeyFile::read(bytes).is_ok() || KeyForm::decode(bytes).is_some()) {
        return format!(
            "{SECRET_KEY_FILE} is missing, but the entry {name} seems to hold a key; make a Secret with the right entry: \
             {CONVERT}"
        );
    }
    // Other values of the same length, such as tokens, look the same.
    match find(|bytes| KeyForm::of(bytes).is_some()) {
        Some((name, _)) => format!(
            "{SECRET_KEY_FILE} is missing, but the entry {name} may hold a key; this command says how to use it: \
             kubectl get secret NAME -o yaml | kubectl onionbalance key show -"
        ),
        None => format!("{SECRET_KEY_FILE} is missing; add the file of that name from tor's HiddenServiceDir"),
    }
}

/// Returns a finding if the key would change the service's address unintentionally. A change is
/// intentional only if the spec names the new address.
fn unexpected(object: &OnionBalancedService, secret: &str, address: OnionAddress) -> Option<Finding> {
    let wanted = object.spec.master_key.onion_address.as_deref().and_then(|text| text.parse::<OnionAddress>().ok());
    if let Some(wanted) = wanted {
        let message = || {
            format!(
                "Secret {secret} holds the key of {address}, but spec.masterKey.onionAddress requires {wanted}; \
                 correct one of them"
            )
        };
        return (wanted != address).then(|| Finding::no(Reason::AddressMismatch, message()));
    }
    let was = object.status.as_ref()?.onion_address.as_deref()?.parse::<OnionAddress>().ok()?;
    (was != address).then(|| {
        let message = format!(
            "Secret {secret} holds the key of {address}, but this object's address is {was}; restore the old key or, to \
             change the address on purpose, set spec.masterKey.onionAddress to {address}"
        );
        Finding::no(Reason::AddressMismatch, message)
    })
}

/// Returns the onion address of the key in a Secret, if the Secret holds a valid key.
pub fn address(secret: &KeySecret) -> Option<OnionAddress> {
    Some(secret.service_key()?.address())
}

/// Returns true if another service might use the same key, because it names the same Secret or
/// because its status has the key's address. In the second case, the operator must read the other
/// service's key, because a status is no evidence.
pub fn may_share_key(object: &OnionBalancedService, other: &OnionBalancedService, address: Option<&str>) -> bool {
    names::same_master_key_secret(object, other) || address.is_some_and(|address| has_address(other, address))
}

/// Returns true if another service has the key with this address: it names the same Secret, or the
/// operator has read the key from the other service's Secret.
fn has_key(object: &OnionBalancedService, rival: &Rival, address: OnionAddress) -> bool {
    names::same_master_key_secret(object, &rival.object) || rival.key == Some(address)
}

fn has_address(object: &OnionBalancedService, address: &str) -> bool {
    object.status.as_ref().is_some_and(|status| status.onion_address.as_deref() == Some(address))
}

/// Returns another service that takes precedence over this one in using the key, if there is one. A
/// service that already has the key's address takes precedence; otherwise, the older service does.
fn winner<'a>(
    object: &OnionBalancedService,
    rivals: &'a [Rival],
    address: OnionAddress,
) -> Option<&'a OnionBalancedService> {
    let text = address.to_string();
    let rank = |object: &OnionBalancedService| {
        let created = object.creation_timestamp().map(|Time(created)| created);
        (Reverse(has_address(object, &text)), created, object.namespace(), object.name_any())
    };
    rivals
        .iter()
        .filter(|rival| rival.object.uid() != object.uid() && has_key(object, rival, address))
        .map(|rival| &*rival.object)
        .filter(|other| rank(other) < rank(object))
        .min_by_key(|other| rank(other))
}

/// Returns the owners that the key's Secret should have, if they differ from the current ones. The
/// service owns only a Secret that the operator generated, and only if the deletion policy says
/// that the key is deleted with the service. The owners do not depend on the validity of the key.
pub(super) fn wanted_owners(object: &OnionBalancedService, secret: &KeySecret) -> Option<Vec<OwnerReference>> {
    let named = secret.metadata.name.as_ref() == Some(&names::default_master_key_secret(&object.name_any()));
    let annotated =
        secret.metadata.annotations.iter().flatten().any(|(key, value)| key == GENERATED_ANNOTATION && value == "true");
    let labelled =
        secret.metadata.labels.iter().flatten().any(|(key, value)| key == SERVICE_LABEL && *value == object.name_any());
    if !named || !annotated || !labelled {
        return None;
    }
    let present = secret.metadata.owner_references.clone().unwrap_or_default();
    let kind = OnionBalancedService::kind(&());
    let mut wanted: Vec<_> =
        present.iter().filter(|owner| owner.kind != kind || owner.name != object.name_any()).cloned().collect();
    if object.spec.deletion_policy == DeletionPolicy::Delete {
        wanted.push(owner(object, false));
    }
    (wanted != present).then_some(wanted)
}
