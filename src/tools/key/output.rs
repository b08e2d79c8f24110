//! Writes a key as a directory in tor's format, as a PEM file, or as a Secret.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use zeroize::Zeroizing;

use super::content::{HOSTNAME, PUBLIC_KEY, SECRET_KEY};
use crate::common::{secret_file, tor_directories};
use crate::onion::{MasterKey, OnionAddress, Seed};
use crate::tools::Failure;

/// The key material to write, which determines the format.
pub(in crate::tools) enum Material {
    /// A seed, written as a PEM file.
    Pem(Seed),
    /// An expanded key. It is written in the format of tor's key files, either as files or into a
    /// Secret.
    Expanded(MasterKey),
}

/// The destination to which a key is written.
pub(super) enum Destination {
    /// A directory (tor's format) or a file (PEM). It is named after the address by default.
    Files { path: Option<PathBuf>, force: bool },
    /// The manifest of a Secret, written to a file or to standard output.
    Secret { name: String, namespace: Option<String>, file: Option<PathBuf>, force: bool },
}

impl Material {
    pub(in crate::tools) fn address(&self) -> OnionAddress {
        match self {
            Self::Pem(seed) => seed.address(),
            Self::Expanded(key) => key.address(),
        }
    }
}

/// Writes the key. Prints its address to `out`, unless the manifest is printed there.
pub(super) fn write(material: &Material, destination: &Destination, out: &mut impl Write) -> Result<(), Failure> {
    let address = material.address();
    match destination {
        Destination::Files { path, force } => {
            let path = path.clone().unwrap_or_else(|| default_path(material));
            match material {
                Material::Pem(seed) => secret_file::write(&path, seed.to_pem()?.as_bytes(), *force)?,
                Material::Expanded(key) => write_tor_directory(&path, key, *force)?,
            }
        }
        Destination::Secret { name, namespace, file, force } => {
            let key = match material {
                Material::Expanded(key) => key,
                Material::Pem(seed) => &seed.expand()?,
            };
            let manifest = manifest(key, name, namespace.as_deref())?;
            match file {
                Some(path) => secret_file::write(path, manifest.as_bytes(), *force)?,
                None => return Ok(out.write_all(manifest.as_bytes())?),
            }
        }
    }
    Ok(writeln!(out, "{address}")?)
}

/// Writes the three files of a HiddenServiceDir. A new directory gets mode 0700, which tor
/// requires. An existing directory may have another purpose, so its mode stays.
pub(in crate::tools) fn write_tor_directory(path: &Path, key: &MasterKey, force: bool) -> Result<(), Failure> {
    tor_directories::create_private(path)?;
    // The secret key is written first. If it already exists, the command fails without changing
    // anything.
    secret_file::write(&path.join(SECRET_KEY), &key.to_tor_secret_key_file(), force)?;
    secret_file::write(&path.join(PUBLIC_KEY), &key.to_tor_public_key_file(), true)?;
    secret_file::write(&path.join(HOSTNAME), key.to_tor_hostname_file().as_bytes(), true)?;
    if let Some(mode) = secret_file::too_open(path)? {
        let path = path.display();
        eprintln!("warning: {path}: tor refuses a HiddenServiceDir with mode {mode:04o}; run chmod 0700 {path}");
    }
    Ok(())
}

fn default_path(material: &Material) -> PathBuf {
    let address = material.address().identifier();
    match material {
        Material::Pem(_) => format!("{address}.key").into(),
        Material::Expanded(_) => address.into(),
    }
}

/// Returns the manifest of a Secret for `spec.masterKey.secretName`. The Secret belongs to the
/// user, and the operator only reads it.
fn manifest(key: &MasterKey, name: &str, namespace: Option<&str>) -> Result<Zeroizing<String>, Failure> {
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: namespace.map(str::to_owned),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([
            (SECRET_KEY.to_owned(), ByteString(key.to_tor_secret_key_file().to_vec())),
            (PUBLIC_KEY.to_owned(), ByteString(key.to_tor_public_key_file())),
            (HOSTNAME.to_owned(), ByteString(key.to_tor_hostname_file().into_bytes())),
        ])),
        ..Secret::default()
    };
    Ok(Zeroizing::new(serde_saphyr::to_string(&secret)?))
}

/// Parses the name of a Secret or namespace, which must be a DNS subdomain.
pub(super) fn secret_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err("a Kubernetes name consists of lower-case letters, digits, '-' and '.', and begins and ends with a letter or digit"
            .to_owned())
    }
}
