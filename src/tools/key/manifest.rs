//! Finds the key in manifests: Secrets, lists of Secrets, several documents in one file, and the
//! entries of a Secret alone, as mkp224o writes them.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use zeroize::Zeroizing;

use super::content::{HOSTNAME, PUBLIC_KEY, SECRET_KEY, open};
use crate::config::explain_yaml;
use crate::onion::key_file::KeyFileError;
use crate::onion::{KeyFile, KeyForm, MasterKey, OnionAddress};

/// The names of the Secret entries that hold tor's files `hs_ed25519_secret_key`,
/// `hs_ed25519_public_key` and `hostname`: first the names that this operator and tor-operator use,
/// then those of tor-controller.
const NAMES_IN_SECRETS: [[&str; 3]; 2] =
    [[SECRET_KEY, PUBLIC_KEY, HOSTNAME], ["privateKeyFile", "publicKeyFile", "onionAddress"]];
/// The names of tor-controller's entries with the bare expanded key, the bare public key and the
/// address. They are used if the Secret has no entry with tor's file.
const BARE_NAMES: [&str; 3] = ["privateKey", "publicKey", "onionAddress"];
const SECRET: &str = "Secret";

/// A key that a manifest contains.
pub(super) struct Found {
    /// The name of the Secret, if it has one.
    name: Option<String>,
    pub(super) file: KeyFile,
    /// The owners of the Secret. Kubernetes deletes the Secret together with its owner.
    pub(super) owners: Vec<String>,
    /// The reasons why the operator cannot use the Secret as it is.
    pub(super) faults: Vec<String>,
}

/// The reason why a Secret yields no key.
enum Problem {
    /// The Secret contains no key. Another Secret in the same manifest may contain one.
    NoKey(String),
    /// The Secret contains a key that cannot be used.
    Unusable(String),
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Unusable(text)
    }
}

/// A key, and the reasons why the operator cannot use it where it is.
type KeyAndFaults = (KeyFile, Vec<String>);

/// A document of a manifest. Only the fields that can lead to a key are read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: Option<String>,
    metadata: Option<Lenient<Metadata>>,
    data: Option<Lenient<Entries>>,
    string_data: Option<Lenient<Entries>>,
    items: Option<Lenient<Vec<Document>>>,
    // The entries of a document without a kind.
    #[serde(rename = "hs_ed25519_secret_key")]
    secret_key: Option<Lenient<Hidden>>,
    #[serde(rename = "hs_ed25519_public_key")]
    public_key: Option<Lenient<Hidden>>,
    hostname: Option<Lenient<Hidden>>,
}

/// A value, or something of another type in a document that is not of interest.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Value(T),
    #[allow(dead_code, reason = "the value is only skipped")]
    Other(IgnoredAny),
}

/// The entries of a Secret, by name. An entry that is null or a number is ignored.
type Entries = BTreeMap<String, Lenient<Hidden>>;

/// Text that is erased when it is dropped. The copies that the YAML parser makes are not erased,
/// but the process is hidden and ends soon.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Hidden(Zeroizing<String>);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    owner_references: Option<Vec<Owner>>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
}

impl<T> Lenient<T> {
    fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Other(_) => None,
        }
    }
}

/// Returns the only key in a manifest, or None if the text is not a manifest. An error says what
/// the manifest contains instead.
pub(super) fn read(bytes: &[u8]) -> Option<Result<Found, String>> {
    let documents = parse::<Document>(str::from_utf8(bytes).ok()?).ok()?;
    let (mut results, mut kinds) = (Vec::new(), Vec::new());
    for document in documents {
        document.collect(None, &mut results, &mut kinds);
    }
    if results.is_empty() && kinds.is_empty() {
        None
    } else if results.is_empty() {
        Some(Err(format!("the manifest has no Secret; it has {}", kinds.join(", "))))
    } else {
        Some(only(results))
    }
}

/// Parses all documents. If a mapping has the same key twice, the last value is used, as in the
/// configuration of the daemon.
fn parse<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, serde_saphyr::Error> {
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    serde_saphyr::from_multiple_with_options(text.trim_start_matches('\u{feff}'), options)
}

/// Explains why a text that names an entry with a key contains no manifest.
pub(super) fn why_unusable(bytes: &[u8]) -> String {
    let text = str::from_utf8(bytes).unwrap_or_default();
    // The values are skipped, because an error about a value could contain the secret.
    match parse::<IgnoredAny>(text) {
        Err(error) => format!(
            "the file names an entry with a key, but is not valid YAML: {}; correct the file, or get the manifest \
             again with kubectl get secret NAME -o yaml",
            explain_yaml(&error)
        ),
        Ok(_) => "the file names an entry with a key, but contains no Secret (kind: Secret); get the manifest with \
                  kubectl get secret NAME -o yaml"
            .to_owned(),
    }
}

/// Returns the only key among the results of all Secrets.
fn only(results: Vec<Result<Found, Problem>>) -> Result<Found, String> {
    let (mut found, mut without_key) = (Vec::new(), None);
    for result in results {
        match result {
            Ok(key) => found.push(key),
            Err(Problem::NoKey(text)) => without_key = without_key.or(Some(text)),
            Err(Problem::Unusable(text)) => return Err(text),
        }
    }
    match (found.pop(), found.as_slice()) {
        (Some(one), []) => Ok(one),
        (Some(last), others) => {
            let names: Vec<_> = others.iter().chain([&last]).map(Found::describe).collect();
            Err(format!("the manifest has several keys ({}); keep one of them", names.join(", ")))
        }
        (None, _) => Err(without_key.unwrap_or_default()),
    }
}

impl Document {
    /// Adds the results of reading all Secrets in this document, and the kinds of the other
    /// objects. `within` is the kind of the list that contains this document.
    fn collect(self, within: Option<&str>, results: &mut Vec<Result<Found, Problem>>, kinds: &mut Vec<String>) {
        let Self { kind, metadata, data, string_data, items, secret_key, public_key, hostname } = self;
        // The items of a SecretList have no kind of their own.
        let of_list = within.and_then(|list| list.strip_suffix("List")).filter(|kind| !kind.is_empty());
        match kind.as_deref().or(of_list) {
            Some(SECRET) => {
                let [data, string_data] =
                    [data, string_data].map(|entries| entries.and_then(Lenient::value).unwrap_or_default());
                results.push(of_secret(metadata.and_then(Lenient::value), data, string_data));
            }
            Some(list) if list.ends_with("List") => {
                for item in items.and_then(Lenient::value).unwrap_or_default() {
                    item.collect(Some(list), results, kinds);
                }
            }
            Some(other) => kinds.push(other.to_owned()),
            None => {
                let [public_key, hostname] = [public_key, hostname].map(|entry| entry.and_then(Lenient::value));
                if let Some(key) = secret_key.and_then(Lenient::value) {
                    results.push(of_entries(&key, public_key, hostname));
                }
            }
        }
    }
}

/// The content of a Secret's entries, by name.
struct Contents(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl Contents {
    /// Decodes `data` and adds `stringData`, which takes precedence, as on the API server.
    fn decode(data: Entries, string_data: Entries) -> Result<Self, String> {
        let mut contents = BTreeMap::new();
        for (name, text) in data {
            if let Some(text) = text.value() {
                let bytes = decode_base64(&name, &text)?;
                contents.insert(name, bytes);
            }
        }
        for (name, text) in string_data {
            if let Some(Hidden(text)) = text.value() {
                contents.insert(name, Zeroizing::new(text.as_bytes().to_vec()));
            }
        }
        Ok(Self(contents))
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|bytes| bytes.as_slice())
    }
}

fn decode_base64(name: &str, Hidden(text): &Hidden) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut compact = Zeroizing::new(String::with_capacity(text.len()));
    compact.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
    BASE64.decode(compact.as_bytes()).map(Zeroizing::new).map_err(|error| {
        format!("entry {name} is not base64 text ({error}); in a Secret, other text belongs under stringData")
    })
}

/// Returns the key in a Secret. If the Secret contains a public key or a hostname, these must
/// belong to the key.
fn of_secret(metadata: Option<Metadata>, data: Entries, string_data: Entries) -> Result<Found, Problem> {
    let contents = Contents::decode(data, string_data)?;
    let mut found = by_known_name(&contents)?;
    if found.is_none() {
        found = bare(&contents)?;
    }
    if found.is_none() {
        found = by_content(&contents)?;
    }
    let (file, faults) = found.ok_or_else(|| no_key(&contents))?;
    let (name, owners) = metadata.map_or((None, None), |metadata| (metadata.name, metadata.owner_references));
    let owners = owners.unwrap_or_default().into_iter().map(|owner| format!("{} {}", owner.kind, owner.name));
    Ok(Found { name, file, owners: owners.collect(), faults })
}

/// Says what a Secret without a usable key contains.
fn no_key(contents: &Contents) -> Problem {
    let forms = contents.0.iter().filter_map(|(name, bytes)| Some((name, KeyForm::of(bytes)?)));
    let forms: Vec<_> = forms
        .map(|(name, form)| format!("entry {name} holds {form}; save it as FILE and run {}", form.remedy()))
        .collect();
    if !forms.is_empty() {
        return Problem::NoKey(forms.join("; "));
    }
    let names: Vec<_> = contents.0.keys().map(String::as_str).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Problem::NoKey(format!("no entry of the Secret is recognized as a key; its entries: {names}"))
}

/// Returns the key of an entry with a known name.
fn by_known_name(contents: &Contents) -> Result<Option<KeyAndFaults>, String> {
    let entries = NAMES_IN_SECRETS.iter().find_map(|[key, public, hostname]| {
        Some((*key, contents.get(key)?, contents.get(public), contents.get(hostname)))
    });
    let Some((name, bytes, public, hostname)) = entries else { return Ok(None) };
    let (file, form) = open(bytes).map_err(|error| match error {
        // The content is in no known form, so the error about tor's file is the most precise one.
        KeyFileError::Unknown => {
            let precise = MasterKey::from_tor_secret_key_file(bytes).err().map(|precise| precise.to_string());
            in_entry(name, &precise.unwrap_or_else(|| error.to_string()))
        }
        other => in_entry(name, &other.to_string()),
    })?;
    let fault = match (&file, form) {
        (_, Some(form)) => Some(format!("entry {name} holds {form}")),
        (KeyFile::Pem(_), None) => Some(format!("entry {name} holds a PEM key")),
        (KeyFile::Tor(_), None) => None,
    };
    check_neighbours(&file, public, hostname)?;
    Ok(Some((file, fault.into_iter().collect())))
}

/// Adds the name of the entry to an error. If the error names a command for a file, also adds how
/// to create the file.
fn in_entry(name: &str, error: &str) -> String {
    let save = if error.contains(" FILE") {
        format!(
            "; before this, save the entry as FILE: kubectl get secret NAME -o jsonpath='{{.data.{name}}}' | \
             base64 -d >FILE"
        )
    } else {
        String::new()
    };
    format!("entry {name}: {error}{save}")
}

/// Returns the key of tor-controller's entries with bare keys.
fn bare(contents: &Contents) -> Result<Option<KeyAndFaults>, String> {
    let [name, public_name, address_name] = BARE_NAMES;
    let Some(expanded) = contents.get(name).filter(|bytes| bytes.len() == 64) else { return Ok(None) };
    let key = MasterKey::from_expanded(expanded).map_err(|error| format!("entry {name}: {error}"))?;
    // Many other values of 64 bytes could be an expanded key too, so another entry must confirm
    // it.
    let confirmed = |other: &str, stored: Option<OnionAddress>| {
        if stored == Some(key.address()) { Ok(()) } else { Err(format!("entry {other} does not match entry {name}")) }
    };
    let public = contents.get(public_name).map(|bytes| {
        let public = <[u8; 32]>::try_from(bytes).ok();
        confirmed(public_name, public.and_then(|public| OnionAddress::from_public_key(public).ok()))
    });
    let address = contents
        .get(address_name)
        .map(|bytes| confirmed(address_name, str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok())));
    if public.is_none() && address.is_none() {
        return Ok(None);
    }
    public.unwrap_or(Ok(()))?;
    address.unwrap_or(Ok(()))?;
    Ok(Some((KeyFile::Tor(key), vec![format!("entry {name} holds an expanded key without tor's tag")])))
}

/// Returns the key of the only entry that contains one, whatever its name is.
fn by_content(contents: &Contents) -> Result<Option<KeyAndFaults>, String> {
    let mut found: Vec<_> =
        contents.0.iter().filter_map(|(name, bytes)| Some((name.as_str(), open(bytes).ok()?.0))).collect();
    match (found.pop(), found.as_slice()) {
        (Some((name, file)), []) => {
            Ok(Some((file, vec![format!("the key is in entry {name} instead of {SECRET_KEY}")])))
        }
        (Some((last, _)), others) => {
            let names: Vec<_> = others.iter().map(|(name, _)| *name).chain([last]).collect();
            Err(format!("several entries of the Secret hold keys ({}); keep one of them", names.join(", ")))
        }
        (None, _) => Ok(None),
    }
}

/// Reads the entries of a Secret without the Secret itself. The keys are base64 text. The hostname
/// is base64 text, as in `kubectl get secret -o jsonpath={.data}`, or plain text, as in the output
/// of mkp224o (`-y`).
fn of_entries(key: &Hidden, public: Option<Hidden>, hostname: Option<Hidden>) -> Result<Found, Problem> {
    let key = decode_base64(SECRET_KEY, key)?;
    let public = public.map(|public| decode_base64(PUBLIC_KEY, &public)).transpose()?;
    let hostname = hostname.map(|hostname| {
        // An address without its ending is also valid base64 text.
        let decoded =
            decode_base64(HOSTNAME, &hostname).ok().filter(|_| hostname.0.trim().parse::<OnionAddress>().is_err());
        decoded.unwrap_or_else(|| Zeroizing::new(hostname.0.as_bytes().to_vec()))
    });
    let (file, _) = open(&key).map_err(|error| in_entry(SECRET_KEY, &error.to_string()))?;
    let [public, hostname] = [&public, &hostname].map(|entry| entry.as_ref().map(|bytes| bytes.as_slice()));
    check_neighbours(&file, public, hostname)?;
    let fault = "the file has the entries of a Secret, but is not a Secret (kind: Secret)".to_owned();
    Ok(Found { name: None, file, owners: Vec::new(), faults: vec![fault] })
}

/// Checks that tor's public key file and `hostname` file, where they exist, belong to a key.
fn check_neighbours(file: &KeyFile, public: Option<&[u8]>, hostname: Option<&[u8]>) -> Result<(), String> {
    let expanded;
    let key = match file {
        KeyFile::Tor(key) => key,
        KeyFile::Pem(seed) => {
            expanded = seed.expand().map_err(|error| error.to_string())?;
            &expanded
        }
    };
    let public = public.map_or(Ok(()), |public| key.check_tor_public_key_file(public));
    let hostname = hostname.map_or(Ok(()), |hostname| key.check_tor_hostname_file(hostname));
    public.and(hostname).map_err(|error| error.to_string())
}

impl Found {
    fn describe(&self) -> String {
        match &self.name {
            Some(name) => format!("{} in Secret {name}", self.file.address()),
            None => self.file.address().to_string(),
        }
    }
}
