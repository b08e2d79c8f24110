//! Recognises secret keys that are in none of the formats of key files, for example as base64 text.
//!
//! An error that names the form of a key and the command that converts it helps more than one that
//! reports a wrong length.

use std::fmt;

use curve25519_dalek::scalar::{Scalar, clamp_integer};
use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

/// The first 32 bytes of tor's `hs_ed25519_secret_key` file.
pub(super) const SECRET_KEY_TAG: &[u8; 32] = b"== ed25519v1-secret: type0 ==\0\0\0";
/// The beginning of a block in a PEM file.
pub(super) const PEM_BEGIN: &str = "-----BEGIN ";
/// The beginning of an expanded key in tor's control protocol (control-spec, `ADD_ONION`).
const ADD_ONION: &str = "ED25519-V3:";
/// The words that precede [`ADD_ONION`] in tor's reply to `ADD_ONION NEW:…`.
const ADD_ONION_REPLY: [&str; 2] = ["250-PrivateKey=", "PrivateKey="];
/// The names of the entries with keys in Secrets.
const ENTRIES: [&str; 3] = ["hs_ed25519_secret_key", "privateKeyFile", "privateKey"];
/// The number of times that a key may be encoded as text, one inside the other.
const MAX_DEPTH: usize = 3;

/// A form of a secret key that is not a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// A key file, encoded as text.
    Text(Encoding),
    /// The expanded key as tor's control protocol writes it.
    AddOnion,
    /// A Secret, or the entries of one, as mkp224o writes them.
    Manifest,
    /// The 64 bytes of an expanded key, without tor's tag.
    Expanded,
    /// A seed and its public key, as some libraries store ed25519 keys.
    SeedAndPublicKey,
    /// 32 bytes that can be a seed. Nothing distinguishes a seed from other random bytes.
    Seed,
    /// The bytes of `Expanded`, `SeedAndPublicKey` or `Seed`, encoded as text.
    BareText(Encoding),
}

/// An encoding of bytes as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Hexadecimal digits.
    Hex,
    /// Base32, with the alphabet of onion addresses.
    Base32,
    /// Base64, as in Secrets and PEM files.
    Base64,
}

impl Encoding {
    /// All encodings. Text that is valid in several of them is decoded by the first one that
    /// yields a key.
    const ALL: [Self; 3] = [Self::Hex, Self::Base32, Self::Base64];

    /// Decodes text without white space and padding.
    fn decode(self, text: &str) -> Option<Zeroizing<Vec<u8>>> {
        let decoded = match self {
            Self::Hex => HEXLOWER_PERMISSIVE.decode(text.as_bytes()),
            Self::Base32 => {
                let upper = Zeroizing::new(text.to_ascii_uppercase());
                BASE32_NOPAD.decode(upper.as_bytes())
            }
            Self::Base64 => BASE64_NOPAD.decode(text.as_bytes()),
        };
        decoded.ok().map(Zeroizing::new)
    }
}

impl KeyForm {
    /// Returns the form of a key that is in none of the formats of key files, or None if no key is
    /// recognised.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if let Some((form, _)) = decode(bytes, MAX_DEPTH) {
            return Some(form);
        }
        if let Some(form) = bare(bytes) {
            return Some(form);
        }
        let text = str::from_utf8(bytes).ok()?;
        // A configuration can contain the same words as a path, but not as the name of an entry.
        if ENTRIES.iter().any(|entry| text.contains(&format!("{entry}:")) || text.contains(&format!("{entry}\":"))) {
            return Some(Self::Manifest);
        }
        let compact = compact(text);
        let encoded = |encoding: &Encoding| encoding.decode(&compact).is_some_and(|inner| bare(&inner).is_some());
        Encoding::ALL.into_iter().find(encoded).map(Self::BareText)
    }

    /// Decodes a key that is encoded as text and returns the content of a key file. Returns None
    /// for all other forms: bare bytes could also be something else.
    pub fn decode(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        decode(bytes, MAX_DEPTH).map(|(_, file)| file)
    }

    /// Returns the command that turns this form into a key file, for a sentence that begins with
    /// "run". `FILE` stands for the name of the file.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Text(_) | Self::AddOnion | Self::Manifest => {
                "kubectl-onionbalance key convert FILE --output DIRECTORY"
            }
            Self::Expanded => {
                "{ printf '== ed25519v1-secret: type0 ==\\0\\0\\0'; cat FILE; } >hs_ed25519_secret_key, and compare the \
                 address that kubectl-onionbalance key show prints with the expected one"
            }
            Self::Seed => {
                "{ printf '\\060\\056\\002\\001\\000\\060\\005\\006\\003\\053\\145\\160\\004\\042\\004\\040'; cat FILE; } | \
                 openssl pkey -inform DER -out key.pem, and compare the address that kubectl-onionbalance key show \
                 prints with the expected one"
            }
            Self::SeedAndPublicKey => {
                "{ printf '\\060\\056\\002\\001\\000\\060\\005\\006\\003\\053\\145\\160\\004\\042\\004\\040'; \
                 head -c 32 FILE; } | openssl pkey -inform DER -out key.pem"
            }
            Self::BareText(Encoding::Hex) => "xxd -r -p FILE NEW_FILE, and then kubectl-onionbalance key show NEW_FILE",
            Self::BareText(Encoding::Base32) => {
                "base32 -d FILE >NEW_FILE, and then kubectl-onionbalance key show NEW_FILE"
            }
            Self::BareText(Encoding::Base64) => {
                "base64 -d FILE >NEW_FILE, and then kubectl-onionbalance key show NEW_FILE"
            }
        }
    }
}

impl fmt::Display for KeyForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(encoding) => write!(f, "a key file as {encoding} text"),
            Self::AddOnion => f.write_str("a key in the form of tor's ADD_ONION command"),
            Self::Manifest => f.write_str("a manifest with a key in it"),
            Self::Expanded => f.write_str("64 bytes, which may be an expanded key without tor's tag"),
            Self::SeedAndPublicKey => f.write_str("a seed and its public key"),
            Self::Seed => f.write_str("32 bytes, which may be the seed of an ed25519 key"),
            Self::BareText(encoding) => write!(f, "{encoding} text of 32 or 64 bytes, which may be a key"),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hex => "hexadecimal",
            Self::Base32 => "base32",
            Self::Base64 => "base64",
        })
    }
}

/// Returns true if the bytes can be the secret scalar of an ed25519 key. Tor writes the scalar
/// clamped, whereas some programs, such as tor-operator, write it reduced modulo the group order.
pub(super) fn is_secret_scalar(scalar: &[u8; 32]) -> bool {
    let reduced = Zeroizing::new(Scalar::from_bytes_mod_order(*scalar));
    let is_reduced = reduced.as_bytes() == scalar && *reduced != Scalar::ZERO;
    is_reduced || clamp_integer(*scalar) == *scalar
}

/// Returns true if the bytes begin like a file with a secret key.
fn is_key_file(bytes: &[u8]) -> bool {
    bytes.starts_with(b"== ed25519v1-secret") || bytes.trim_ascii_start().starts_with(PEM_BEGIN.as_bytes())
}

/// Decodes text to a key file. The text may be encoded several times.
fn decode(bytes: &[u8], depth: usize) -> Option<(KeyForm, Zeroizing<Vec<u8>>)> {
    // Editors on Windows put a byte order mark before the text.
    let text = str::from_utf8(bytes).ok()?.trim_start_matches('\u{feff}').trim();
    let key = ADD_ONION_REPLY.iter().find_map(|words| text.strip_prefix(words)).unwrap_or(text);
    if let Some(digits) = key.strip_prefix(ADD_ONION) {
        let expanded = Encoding::Base64.decode(&compact(digits)).filter(|expanded| expanded.len() == 64)?;
        let mut file = Zeroizing::new(Vec::with_capacity(SECRET_KEY_TAG.len() + expanded.len()));
        file.extend_from_slice(SECRET_KEY_TAG);
        file.extend_from_slice(&expanded);
        return Some((KeyForm::AddOnion, file));
    }
    let compact = compact(text);
    for encoding in Encoding::ALL {
        let Some(inner) = encoding.decode(&compact) else { continue };
        if is_key_file(&inner) {
            return Some((KeyForm::Text(encoding), inner));
        }
        if let Some((_, file)) = depth.checked_sub(1).and_then(|depth| decode(&inner, depth)) {
            return Some((KeyForm::Text(encoding), file));
        }
    }
    None
}

/// Returns the text without white space and without the padding at its end.
fn compact(text: &str) -> Zeroizing<String> {
    let mut compact = Zeroizing::new(String::with_capacity(text.len()));
    compact.extend(text.chars().filter(|c| !c.is_whitespace()));
    let length = compact.trim_end_matches('=').len();
    compact.truncate(length);
    compact
}

/// Recognises a key that consists of its bytes alone. Text and tor's own files are never such keys.
fn bare(bytes: &[u8]) -> Option<KeyForm> {
    let is_text = bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    if is_text || bytes.starts_with(b"== ed25519v1-") {
        return None;
    }
    match bytes.as_chunks::<32>() {
        ([_], []) => Some(KeyForm::Seed),
        ([seed, public], []) if SigningKey::from_bytes(seed).verifying_key().as_bytes() == public => {
            Some(KeyForm::SeedAndPublicKey)
        }
        ([scalar, _], []) if is_secret_scalar(scalar) => Some(KeyForm::Expanded),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
