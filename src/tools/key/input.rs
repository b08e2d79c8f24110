//! Reads a key from a file in PEM or tor's format, from a HiddenServiceDir, or from the manifest of
//! a Secret.

use std::fmt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Secret;
use zeroize::Zeroizing;

use crate::common::secret_file;
use crate::onion::key_file::KeyFileError;
use crate::onion::{KeyFile, MasterKey};
use crate::tools::Failure;

pub(super) const SECRET_KEY: &str = "hs_ed25519_secret_key";
pub(super) const PUBLIC_KEY: &str = "hs_ed25519_public_key";
pub(super) const HOSTNAME: &str = "hostname";

/// The names of the Secret entries that hold tor's files `hs_ed25519_secret_key`,
/// `hs_ed25519_public_key` and `hostname`: first the names that this operator and tor-operator use,
/// then those of tor-controller.
const NAMES_IN_SECRETS: [[&str; 3]; 2] =
    [[SECRET_KEY, PUBLIC_KEY, HOSTNAME], ["privateKeyFile", "publicKeyFile", "onionAddress"]];

/// The path that denotes standard input.
const STANDARD_INPUT: &str = "-";

/// A key that was read, and its origin.
pub(super) struct Input {
    /// The path of the file with the secret key. None if the key came from standard input.
    pub(super) path: Option<PathBuf>,
    /// The HiddenServiceDir, if the path named one.
    pub(super) directory: Option<PathBuf>,
    /// The owners of the Secret, if the input was a Secret. Kubernetes deletes the Secret together
    /// with its owner.
    pub(super) owners: Vec<String>,
    pub(super) file: KeyFile,
}

impl Input {
    /// Reads a key from `path`. An error names the file and the problem.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        if path == Path::new(STANDARD_INPUT) {
            let bytes = secret_file::read_standard_input()?;
            let (file, owners) = parse(&bytes).map_err(|problem| format!("standard input: {problem}"))?;
            return Ok(Self { path: None, directory: None, owners, file });
        }
        let directory = path.is_dir().then(|| path.to_owned());
        let path = if directory.is_some() { path.join(SECRET_KEY) } else { path.to_owned() };
        let bytes = secret_file::read(&path)?;
        let (file, owners) = parse(&bytes).map_err(|problem| format!("{}: {problem}", path.display()))?;
        Ok(Self { path: Some(path), directory, owners, file })
    }
}

/// Formats the origin of the key for messages.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => path.display().fmt(f),
            None => f.write_str("standard input"),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<(KeyFile, Vec<String>), Failure> {
    if bytes.trim_ascii().is_empty() {
        return Err("the file is empty".into());
    }
    match KeyFile::read(bytes) {
        Ok(file) => Ok((file, Vec::new())),
        Err(KeyFileError::Unknown) => match secret(bytes) {
            Some(secret) => from_secret(secret),
            None => Err(KeyFileError::Unknown.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Parses the manifest of a Secret as printed by `kubectl get -o yaml` or `-o json`.
fn secret(bytes: &[u8]) -> Option<Secret> {
    serde_saphyr::from_str(str::from_utf8(bytes).ok()?).ok()
}

/// Returns the key in a Secret and the owners of the Secret. If the Secret contains a public key or
/// a hostname, these must belong to the key.
fn from_secret(secret: Secret) -> Result<(KeyFile, Vec<String>), Failure> {
    let data: Vec<_> =
        secret.data.unwrap_or_default().into_iter().map(|(name, value)| (name, Zeroizing::new(value.0))).collect();
    let entry = |name: &str| data.iter().find(|(other, _)| other == name).map(|(_, bytes)| bytes.as_slice());
    let found = NAMES_IN_SECRETS
        .iter()
        .find_map(|[key, public, hostname]| Some((*key, entry(key)?, entry(public), entry(hostname))));
    let Some((name, key, public, hostname)) = found else {
        let names: Vec<_> = NAMES_IN_SECRETS.iter().map(|[key, ..]| *key).collect();
        return Err(format!("the Secret has no entry {}", names.join(" or ")).into());
    };
    let key = MasterKey::from_tor_secret_key_file(key).map_err(|error| format!("entry {name}: {error}"))?;
    public.map_or(Ok(()), |public| key.check_tor_public_key_file(public))?;
    hostname.map_or(Ok(()), |hostname| key.check_tor_hostname_file(hostname))?;
    let owners = secret.metadata.owner_references.unwrap_or_default();
    let owners = owners.into_iter().map(|owner| format!("{} {}", owner.kind, owner.name)).collect();
    Ok((KeyFile::Tor(key), owners))
}
