//! The annotation that records the hash of an owned object's applied manifest.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The name of the annotation with the hash of an owned object's applied manifest.
pub const APPLIED_ANNOTATION: &str = "onionbalance.dev/applied";

/// Returns the manifest with its own hash added as an annotation.
pub fn stamped(manifest: &Value) -> Value {
    let mut stamped = manifest.clone();
    stamped["metadata"]["annotations"][APPLIED_ANNOTATION] = hash(&manifest.to_string()).into();
    stamped
}

/// Returns the SHA-256 hash of a string in hexadecimal.
pub fn hash(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(text))
}
