//! The hash of an applied manifest, which each owned object carries as an annotation.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The annotation of an owned object with the hash of the manifest that was applied.
pub const APPLIED_ANNOTATION: &str = "onionbalance.dev/applied";

/// Returns the manifest with its own hash as an annotation.
pub fn stamped(manifest: &Value) -> Value {
    let mut stamped = manifest.clone();
    stamped["metadata"]["annotations"][APPLIED_ANNOTATION] = hash(&manifest.to_string()).into();
    stamped
}

/// Returns the SHA-256 hash of a text in hexadecimal.
pub fn hash(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(text))
}
